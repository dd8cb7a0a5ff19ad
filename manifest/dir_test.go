package manifest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/modelsig/modelsig/manifest"
)

// folder makes a folder of files, name → content.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "tiny")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		write(t, filepath.Join(root, filepath.FromSlash(name)), content)
	}
	return root
}

func write(t testing.TB, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t testing.TB, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Skipf("no symbolic links here: %v", err)
	}
}

func open(t testing.TB, path string, options manifest.OpenOptions) *manifest.Dir {
	t.Helper()
	d, err := manifest.Open(path, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// list walks path and returns the names.
func list(t testing.TB, path string, options manifest.OpenOptions, ignore ...string) ([]string, error) {
	t.Helper()
	files, err := open(t, path, options).Files(t.Context(), ignore)
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
	}
	return names, err
}

func TestFiles(t *testing.T) {
	root := folder(t, map[string]string{
		"config.json": "{}", "b/x": "1", "b.bin": "22", "b/y/z": "333", ".git/config": "", ".gitignore": "",
		"sub/.git/config": "", "empty.bin": "",
	})
	if err := os.MkdirAll(filepath.Join(root, "nothing", "in", "here"), 0o755); err != nil {
		t.Fatal(err)
	}
	d := open(t, root, manifest.OpenOptions{})
	if d.Name() != "tiny" || d.IsFile() {
		t.Errorf("name %q, file %v", d.Name(), d.IsFile())
	}
	files, err := d.Files(t.Context(), append(manifest.GitPaths(), "b/y"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"b.bin": "22", "b/x": "1", "config.json": "{}", "empty.bin": "", "sub/.git/config": ""}
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
		content, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(content)
		if err != nil {
			t.Fatal(err)
		}
		if err := content.Close(); err != nil {
			t.Fatal(err)
		}
		if string(data) != want[f.Name] || f.Size != int64(len(data)) || f.Digest != nil {
			t.Errorf("%+v has %q", f, data)
		}
	}
	if got := []string{"b.bin", "b/x", "config.json", "empty.bin", "sub/.git/config"}; !slices.Equal(names, got) {
		t.Errorf("files are %q, want %q", names, got)
	}
	all, err := d.Files(t.Context(), nil)
	if err != nil || len(all) != 8 {
		t.Errorf("%d files without ignoring, %v", len(all), err)
	}
	// Rule 29.
	if same, err := d.Files(t.Context(), manifest.Ignore{".", "/", "", "../tiny", "b/", "./b"}); err != nil || len(same) != 8 {
		t.Errorf("%d files with ignore paths that hide nothing, %v", len(same), err)
	}
}

func TestOpenSingleFile(t *testing.T) {
	root := folder(t, map[string]string{"model.bin": "12345", "other.bin": "x"})
	d := open(t, filepath.Join(root, "model.bin"), manifest.OpenOptions{})
	if d.Name() != "model.bin" || !d.IsFile() {
		t.Errorf("name %q, file %v", d.Name(), d.IsFile())
	}
	files, err := d.Files(t.Context(), nil)
	if err != nil || len(files) != 1 || files[0].Name != "model.bin" || files[0].Size != 5 {
		t.Fatalf("%+v, %v", files, err)
	}
	if got := hash(t, d, nil); !bytes.Equal(got[0].Digest, sum("12345")) {
		t.Errorf("%+v", got)
	}
	if files, err := d.Files(t.Context(), manifest.Ignore{"model.bin"}); err != nil || len(files) != 0 {
		t.Errorf("ignored, but %v, %v", files, err)
	}
}

func hash(t testing.TB, d *manifest.Dir, ignore manifest.Ignore) []manifest.Resource {
	t.Helper()
	files, err := d.Files(t.Context(), ignore)
	if err != nil {
		t.Fatal(err)
	}
	resources, err := new(manifest.Hasher).Hash(t.Context(), files)
	if err != nil {
		t.Fatal(err)
	}
	return resources
}

func TestOpenErrors(t *testing.T) {
	root := folder(t, nil)
	missing := filepath.Join(root, "no\x1b[31m")
	_, err := manifest.Open(missing, manifest.OpenOptions{})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if bytes.Contains([]byte(err.Error()), []byte("\x1b")) {
		t.Errorf("not escaped (rule 36): %q", err)
	}
	d := open(t, root, manifest.OpenOptions{})
	d.Close()
	if _, err := d.Files(t.Context(), nil); err == nil {
		t.Error("walked after Close")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(t, root, manifest.OpenOptions{}).Files(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A model that is itself a link is what the user named.
func TestOpenLink(t *testing.T) {
	root := folder(t, map[string]string{"model.bin": "12345"})
	dirLink := filepath.Join(filepath.Dir(root), "latest")
	fileLink := filepath.Join(filepath.Dir(root), "gemma.gguf")
	link(t, root, dirLink)
	link(t, filepath.Join(root, "model.bin"), fileLink)
	d := open(t, dirLink, manifest.OpenOptions{})
	if got := hash(t, d, nil); d.Name() != "latest" || len(got) != 1 || got[0].Name != "model.bin" {
		t.Errorf("%q has %+v", d.Name(), got)
	}
	f := open(t, fileLink, manifest.OpenOptions{})
	if got := hash(t, f, nil); !f.IsFile() || len(got) != 1 || got[0].Name != "gemma.gguf" || !bytes.Equal(got[0].Digest, sum("12345")) {
		t.Errorf("%q has %+v", f.Name(), got)
	}
	// Resolved once: pointing it elsewhere changes nothing.
	other := folder(t, map[string]string{"evil.py": ""})
	if err := os.Remove(dirLink); err != nil {
		t.Fatal(err)
	}
	link(t, other, dirLink)
	if got := hash(t, d, nil); len(got) != 1 || got[0].Name != "model.bin" {
		t.Errorf("after the link moved: %+v", got)
	}
}

// D01
func TestSymlinks(t *testing.T) {
	outside := folder(t, map[string]string{"secret": "s", "dir/x": "y"})
	for _, tt := range []struct {
		name   string
		target string
		code   string // with AllowSymlinks
	}{
		{"to a file inside", "real.bin", ""},
		{"to a file inside, by way of its folder", "../tiny/real.bin", manifest.CodeSymlinkOutside},
		{"to a file in a folder", "sub/file", ""},
		{"to a link to a file", "good", ""},
		{"to a folder inside", "sub", manifest.CodeSymlink},
		{"to the model itself", ".", manifest.CodeSymlink},
		{"to nothing", "missing", manifest.CodeSymlink},
		{"to itself", "link", manifest.CodeSymlink},
		{"to a file outside", filepath.Join(outside, "secret"), manifest.CodeSymlinkOutside},
		{"to a file outside, relative", "../../escape", manifest.CodeSymlinkOutside},
		{"to a folder outside", filepath.Join(outside, "dir"), manifest.CodeSymlinkOutside},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := folder(t, map[string]string{"real.bin": "content", "sub/file": "file"})
			link(t, "real.bin", filepath.Join(root, "good"))
			link(t, tt.target, filepath.Join(root, "link"))
			if _, err := list(t, root, manifest.OpenOptions{}, "good"); code(t, err) != "symlink" {
				t.Errorf("not allowed: %v", err)
			}
			if names, err := list(t, root, manifest.OpenOptions{}, "good", "link"); err != nil || len(names) != 2 {
				t.Errorf("ignored: %q, %v", names, err)
			}
			names, err := list(t, root, manifest.OpenOptions{AllowSymlinks: true}, "good")
			switch {
			case tt.code != "" && code(t, err) != tt.code:
				t.Errorf("allowed: %q, %v", names, err)
			case tt.code == "" && !slices.Equal(names, []string{"link", "real.bin", "sub/file"}):
				t.Errorf("allowed: %q, %v", names, err)
			case tt.code == "":
				got := hash(t, open(t, root, manifest.OpenOptions{AllowSymlinks: true}), manifest.Ignore{"good"})
				want := sum("content")
				if tt.target == "sub/file" {
					want = sum("file")
				}
				if !bytes.Equal(got[0].Digest, want) {
					t.Errorf("%+v", got[0])
				}
			}
		})
	}
}

// N03 to N09 where the file system lets such names be.
func TestFilesRefusesNames(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such names")
	}
	for _, tt := range []struct{ name, code string }{
		{"a\\b", "name-backslash"},
		{"a\nb", "name-control"},
		{"a\xff", "name-not-utf8"},
		{"C:x", "name-absolute"},
		{"dir\xff/a", "name-not-utf8"},
	} {
		root := folder(t, map[string]string{"good": ""})
		bad := filepath.Join(root, tt.name)
		if err := os.MkdirAll(filepath.Dir(bad), 0o755); err != nil {
			t.Skipf("%q cannot be here: %v", tt.name, err)
		}
		if err := os.WriteFile(bad, nil, 0o644); err != nil {
			t.Skipf("%q cannot be here: %v", tt.name, err)
		}
		if _, err := list(t, root, manifest.OpenOptions{}); code(t, err) != tt.code {
			t.Errorf("%q: %v", tt.name, err)
		}
		if names, err := list(t, root, manifest.OpenOptions{}, tt.name); err != nil || len(names) != 1 {
			t.Errorf("%q, ignored: %q, %v", tt.name, names, err)
		}
	}
}

func TestUnreadable(t *testing.T) {
	if runtime.GOOS == "windows" || os.Getuid() == 0 {
		t.Skip("everything can be read here")
	}
	root := folder(t, map[string]string{"dir/a": "", "file": "x"})
	if err := os.Chmod(filepath.Join(root, "file"), 0); err != nil {
		t.Fatal(err)
	}
	files, err := open(t, root, manifest.OpenOptions{}).Files(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = new(manifest.Hasher).Hash(t.Context(), files)
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("file: %v", err)
	}
	expect(t, err, `"file"`)
	if err := os.Chmod(filepath.Join(root, "dir"), 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(filepath.Join(root, "dir"), 0o755)
	_, err = list(t, root, manifest.OpenOptions{})
	if _, threat := errors.AsType[*manifest.ThreatError](err); threat || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("folder: %v", err)
	}
	expect(t, err, `"dir"`)
}

// Ten thousand files, in folders, with names as people give them.
func TestManyFiles(t *testing.T) {
	const count = 10_000
	root := filepath.Join(t.TempDir(), "many")
	want := make([]manifest.Resource, 0, count)
	for i := range count {
		name := fmt.Sprintf("d%02d/模型 %d/ä+b=%d,(1).bin", i%20, i%100, i)
		content := fmt.Sprint(i)
		write(t, filepath.Join(root, filepath.FromSlash(name)), content)
		want = append(want, resource(name, content))
	}
	eachWay(t, "all", func(t *testing.T, prepare func(*manifest.Dir)) {
		d := open(t, root, manifest.OpenOptions{})
		prepare(d)
		got := hash(t, d, nil)
		if diff := manifest.Compare(want, got); !diff.Empty() || len(got) != count {
			t.Fatalf("%d files, %+v", len(got), diff)
		}
		m, err := manifest.New(got, manifest.Serialization{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := m.Statement(d.Name(), nil)
		if err != nil {
			t.Fatal(err)
		}
		back, err := manifest.ParseStatement(marshal(t, s))
		if err != nil {
			t.Fatal(err)
		}
		signed, err := back.Manifest()
		if err != nil || !manifest.Compare(signed.Resources, want).Empty() {
			t.Fatal(err)
		}
	})
}

func TestRel(t *testing.T) {
	root := folder(t, map[string]string{"a/b": "", "model.sig": ""})
	parent := filepath.Dir(root)
	alias := filepath.Join(t.TempDir(), "alias") // to the parent, as /tmp on macOS
	link(t, parent, alias)
	link(t, "model.sig", filepath.Join(root, "link"))
	link(t, root, filepath.Join(parent, "latest"))
	direct := open(t, root, manifest.OpenOptions{})
	aliased := open(t, filepath.Join(alias, "tiny"), manifest.OpenOptions{})
	latest := open(t, filepath.Join(parent, "latest"), manifest.OpenOptions{})
	for _, tt := range []struct {
		path string
		rel  string
		ok   bool
	}{
		{filepath.Join(root, "model.sig"), "model.sig", true},
		{filepath.Join(root, "a", "b"), "a/b", true},
		{filepath.Join(root, "a", "..", "model.sig"), "model.sig", true},
		{filepath.Join(root, "not", "there", "yet"), "not/there/yet", true},
		{filepath.Join(alias, "tiny", "model.sig"), "model.sig", true},
		{filepath.Join(alias, "tiny", "not", "there"), "not/there", true},
		{filepath.Join(root, "link"), "link", true},
		{root, ".", true},
		{parent, "", false},
		{filepath.Join(parent, "model.sig"), "", false},
		{filepath.Join(parent, "tiny2", "x"), "", false},
		{filepath.Join(root, "..", "x"), "", false},
	} {
		for _, d := range []*manifest.Dir{direct, aliased, latest} {
			if rel, ok := d.Rel(tt.path); rel != tt.rel || ok != tt.ok {
				t.Errorf("%s in %s: %q, %v, want %q", tt.path, d.Name(), rel, ok, tt.rel)
			}
		}
	}
	t.Chdir(root)
	if rel, ok := direct.Rel("model.sig"); rel != "model.sig" || !ok {
		t.Errorf("relative: %q, %v", rel, ok)
	}
	t.Chdir(filepath.Join(root, "a"))
	if rel, ok := direct.Rel("b"); rel != "a/b" || !ok {
		t.Errorf("relative, further down: %q, %v", rel, ok)
	}
	if rel, ok := direct.Rel("../../x"); ok {
		t.Errorf("outside: %q", rel)
	}
	file := open(t, filepath.Join(root, "model.sig"), manifest.OpenOptions{})
	if rel, ok := file.Rel(filepath.Join(root, "model.sig")); rel != "model.sig" || !ok {
		t.Errorf("the file: %q, %v", rel, ok)
	}
	if rel, ok := file.Rel(filepath.Join(root, "a", "b")); ok {
		t.Errorf("beside the file: %q", rel)
	}
}

func BenchmarkFiles(b *testing.B) {
	root := b.TempDir()
	for i := range 100_000 {
		if i%1000 == 0 {
			if err := os.Mkdir(filepath.Join(root, fmt.Sprint(i/1000)), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		f, err := os.Create(filepath.Join(root, fmt.Sprint(i/1000), fmt.Sprint(i)))
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
	d := open(b, root, manifest.OpenOptions{})
	b.Run("walk", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := d.Files(b.Context(), manifest.GitPaths()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("hash", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			hash(b, d, nil)
		}
	})
}
