package oci_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/lockedfile"
	orasoci "oras.land/oras-go/v2/content/oci"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

// childEnv makes this test binary add entries to a layout and exit: a second
// process for the lock.
const childEnv = "MODELSIG_TEST_LAYOUT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := addEntries(context.Background(), dir, os.Getenv(childEnv+"_NAME")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func descriptors(t testing.TB, l *oci.Layout) []ocispec.Descriptor {
	t.Helper()
	entries, err := l.Entries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var list []ocispec.Descriptor
	for _, raw := range entries {
		var d ocispec.Descriptor
		if err := json.Unmarshal(raw, &d); err != nil {
			t.Fatal(err)
		}
		list = append(list, d)
	}
	return list
}

// newLayout pushes a small model and opens it.
func newLayout(t testing.TB) (dir string, model *oci.Model) {
	t.Helper()
	dir = t.TempDir()
	model, err := newClient(t, oci.Options{}).Push(t.Context(), mustParse(t, "oci:"+dir+":v1"), []manifest.File{fileOf("a.bin", "hello")}, oci.PushOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return dir, model
}

// referrerOf is a manifest with a subject.
func referrerOf(subject ocispec.Descriptor, content string) (ocispec.Descriptor, []byte) {
	body := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%s","artifactType":"application/x","config":%s,"layers":[%s],"subject":{"mediaType":"%s","digest":"%s","size":%d}}`,
		typeManifest, emptyConfig, untitled(layer("x", content)), subject.MediaType, subject.Digest, subject.Size)
	return ocispec.Descriptor{MediaType: typeManifest, Digest: godigest.FromString(body), Size: int64(len(body)), ArtifactType: "application/x"}, []byte(body)
}

func open(t testing.TB, written string) (*oci.Model, error) {
	t.Helper()
	return newClient(t, oci.Options{}).Open(t.Context(), mustParse(t, written))
}

func TestOpenLayout(t *testing.T) {
	dir, pushed := newLayout(t)
	for _, suffix := range []string{":v1", "", "@" + pushed.Reference.Digest.String(), ":other@" + pushed.Reference.Digest.String()} {
		m, err := open(t, "oci:"+dir+suffix)
		if err != nil {
			t.Errorf("%q: %v", suffix, err)
			continue
		}
		if m.Reference.Digest != pushed.Reference.Digest || m.Layout == nil || m.Repository != nil {
			t.Errorf("%q: %+v", suffix, m)
		}
	}
}

func TestOpenLayoutWithoutTag(t *testing.T) {
	dir, pushed := newLayout(t)
	desc, body := referrerOf(pushed.Manifest.Descriptor, "sig")
	if err := pushed.Layout.PushBlob(t.Context(), desc, bytes.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	if err := pushed.Layout.AddEntries(t.Context(), desc); err != nil {
		t.Fatal(err)
	}
	if m, err := open(t, "oci:"+dir); err != nil || m.Reference.Digest != pushed.Reference.Digest {
		t.Errorf("referrers count as models: %v", err)
	}
	client := newClient(t, oci.Options{})
	if _, err := client.Push(t.Context(), mustParse(t, "oci:"+dir+":v2"), []manifest.File{fileOf("a", "2")}, oci.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := open(t, "oci:"+dir)
	if err == nil || !strings.Contains(err.Error(), `"v1", "v2"`) {
		t.Errorf("two models, error %v", err)
	}
	_, err = open(t, "oci:"+dir+":v3")
	if !errors.Is(err, oci.ErrNotFound) || !strings.Contains(err.Error(), `"v1", "v2"`) {
		t.Errorf("error %v", err)
	}
	_, err = open(t, "oci:"+dir+"@"+digest)
	if !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("error %v", err)
	}
}

// Each layout is right but in one way.
func TestOpenLayoutRefuses(t *testing.T) {
	good, pushed := newLayout(t)
	blob := "blobs/sha256/" + pushed.Reference.Digest.Encoded()
	edit := func(file, old, new string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, file)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(data), old) {
				t.Fatalf("%s has no %q", file, old)
			}
			writeConfig(t, path, strings.Replace(string(data), old, new, 1))
		}
	}
	remove := func(file string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, file)) }
	}
	other := fmt.Sprintf(`"manifests":[{"mediaType":"%s","digest":"%s","size":1,"annotations":{"org.opencontainers.image.ref.name":"v1"}},`, typeManifest, digest)
	for _, test := range []struct {
		name string
		edit func(t *testing.T, dir string)
		code string // "": could not tell
	}{
		{"no oci-layout", remove("oci-layout"), ""},
		{"another layout version", edit("oci-layout", "1.0.0", "2.0.0"), ""},
		{"an oci-layout that is no JSON", edit("oci-layout", "{", ""), "layout-json"},
		{"no index.json", remove("index.json"), ""},
		{"an index.json that is no JSON", edit("index.json", "{", ""), "layout-json"},
		{"M12: a member twice", edit("index.json", "{", `{"manifests":[],`), "layout-json"},
		{"M12: another letter case", edit("index.json", "{", `{"Manifests":[],`), "layout-json"},
		{"two entries with the tag", edit("index.json", `"manifests":[`, other), "duplicate-tag"},
		{"a wrong size", edit("index.json", fmt.Sprintf(`"size":%d`, pushed.Manifest.Descriptor.Size), `"size":1`), "size-mismatch"},
		{"a wrong media type", edit("index.json", `"mediaType":"`+typeManifest, `"mediaType":"`+typeDocker), "media-type-mismatch"},
		{"a digest that is a path", edit("index.json", pushed.Reference.Digest.String(), "sha256:../../oci-layout"), "digest-format"},
		{"a manifest that was changed", edit(blob, "a.bin", "b.bin"), "digest-mismatch"},
		{"no manifest", remove(blob), ""},
		{"a folder in its place", func(t *testing.T, dir string) {
			remove(blob)(t, dir)
			os.Mkdir(filepath.Join(dir, blob), 0o755)
		}, ""},
		{"a symlink out of the layout", func(t *testing.T, dir string) {
			data, _ := os.ReadFile(filepath.Join(dir, blob))
			outside := writeConfig(t, filepath.Join(t.TempDir(), "outside"), string(data))
			remove(blob)(t, dir)
			if err := os.Symlink(outside, filepath.Join(dir, blob)); err != nil {
				t.Skip(err)
			}
		}, ""},
		{"a huge index.json", func(t *testing.T, dir string) {
			writeConfig(t, filepath.Join(dir, "index.json"), `{"manifests":[]}`+strings.Repeat(" ", 9<<20))
		}, ""},
		{"10,001 entries", func(t *testing.T, dir string) {
			writeConfig(t, filepath.Join(dir, "index.json"), `{"manifests":[`+strings.Repeat("{},", 10_000)+`{}]}`)
		}, ""},
		{"an entry that is no descriptor", edit("index.json", `"manifests":[`, `"manifests":["x",`), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			test.edit(t, dir)
			_, err := open(t, "oci:"+dir+":v1")
			if err == nil {
				t.Fatal("no error")
			}
			if test.code != "" {
				wantThreat(t, err, test.code)
			}
			if errors.Is(err, oci.ErrNotFound) {
				t.Errorf("a broken layout is taken for one without the model: %v", err)
			}
		})
	}
	if _, err := open(t, "oci:"+good+"-missing:v1"); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, oci.ErrNotFound) {
		t.Errorf("error %v", err)
	}
}

func TestLayoutPushBlob(t *testing.T) {
	dir, model := newLayout(t)
	content := []byte("signature")
	desc := ocispec.Descriptor{MediaType: "application/x", Digest: godigest.FromBytes(content), Size: int64(len(content))}
	path := filepath.Join(dir, "blobs", "sha256", desc.Digest.Encoded())
	for _, test := range []struct {
		name    string
		content string
	}{
		{"other bytes", "sIgnature"},
		{"a byte less", "signatur"},
		{"a byte more", "signatures"},
		{"nothing", ""},
	} {
		if err := model.Layout.PushBlob(t.Context(), desc, strings.NewReader(test.content)); err == nil {
			t.Errorf("%s: no error", test.name)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s: the blob is there", test.name)
		}
		noTemporaryFiles(t, dir)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := model.Layout.PushBlob(ctx, desc, bytes.NewReader(content)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if err := model.Layout.PushBlob(t.Context(), desc, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if err := model.Layout.PushBlob(t.Context(), desc, failingReader{}); err != nil {
		t.Errorf("a blob that is there is read again: %v", err)
	}
	// Invariant 14: what is there and wrong is not kept.
	if err := os.WriteFile(path, []byte("sIgnature"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := model.Layout.PushBlob(t.Context(), desc, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	rc, err := model.Layout.Fetch(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if got, err := io.ReadAll(rc); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%q, %v", got, err)
	}
	if len(descriptors(t, model.Layout)) != 1 {
		t.Error("a blob made an entry")
	}
	if err := model.Layout.PushBlob(t.Context(), ocispec.Descriptor{Digest: "sha256:../../x", Size: 1}, strings.NewReader("x")); err == nil {
		t.Error("a digest that is a path is taken")
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("read") }

// Every byte of a blob counts, and every length.
func TestLayoutFetchCorrupted(t *testing.T) {
	dir, model := newLayout(t)
	desc := model.Manifest.Layers[0]
	path := filepath.Join(dir, "blobs", "sha256", desc.Digest.Encoded())
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	read := func() error {
		rc, err := model.Fetch(t.Context(), desc)
		if err != nil {
			return err
		}
		defer rc.Close()
		_, err = io.ReadAll(rc)
		return err
	}
	var bad [][]byte
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1
		bad = append(bad, b, good[:i])
	}
	for _, b := range append(bad, append(bytes.Clone(good), 0)) {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if read() == nil {
			t.Errorf("%q is taken for %q", b, good)
		}
	}
	if err := os.WriteFile(path, good, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := read(); err != nil {
		t.Error(err)
	}
	os.Remove(path)
	if err := read(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

// Rule 33: what others wrote is kept byte for byte.
func TestAddEntriesKeepsForeign(t *testing.T) {
	dir, model := newLayout(t)
	foreign := `{ "size":1,  "digest":"` + digest + `","mediaType":"a/b","x-Custom":[1, 2.50,"\u00e9<"],"annotations":{"z":"1","a":"2"} }`
	index := `{"x-first":{"b":1,"a":2.0},"schemaVersion":2,"manifests":[` + foreign + `],"annotations":{"k":"v"},"x-last":null}`
	writeConfig(t, filepath.Join(dir, "index.json"), index)
	desc, _ := referrerOf(model.Manifest.Descriptor, "1")
	desc.Annotations = map[string]string{"dev.example": "v"}
	for range 2 { // the second time changes nothing
		if err := model.Layout.AddEntries(t.Context(), desc, desc); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := json.Marshal(desc)
	want := `{"x-first":{"b":1,"a":2.0},"schemaVersion":2,"manifests":[` + foreign + `,` + string(raw) + `],"annotations":{"k":"v"},"x-last":null}`
	if string(data) != want {
		t.Errorf("index.json is\n%s\nwant\n%s", data, want)
	}
	entries, err := model.Layout.Entries(t.Context())
	if err != nil || len(entries) != 2 || string(entries[0]) != foreign {
		t.Errorf("entries %q, %v", entries, err)
	}
	noTemporaryFiles(t, dir)
}

func TestPushMovesTagAndKeepsEntry(t *testing.T) {
	dir, old := newLayout(t)
	path := filepath.Join(dir, "index.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	writeConfig(t, path, strings.Replace(string(data), `"annotations":{`, `"x-extra":[1, 2],"annotations":{"keep":"me",`, 1))
	moved, err := newClient(t, oci.Options{}).Push(t.Context(), mustParse(t, "oci:"+dir+":v1"), []manifest.File{fileOf("a.bin", "2")}, oci.PushOptions{})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := moved.Layout.Entries(t.Context())
	if err != nil || len(entries) != 2 {
		t.Fatalf("%q, %v", entries, err)
	}
	first := string(entries[0])
	if !strings.Contains(first, old.Reference.Digest.String()) || !strings.Contains(first, `"x-extra":[1, 2]`) || !strings.Contains(first, `"annotations":{"keep":"me"}`) {
		t.Errorf("the old entry is %s", first)
	}
	if m, err := open(t, "oci:"+dir+":v1"); err != nil || m.Reference.Digest != moved.Reference.Digest {
		t.Errorf("%v", err)
	}
}

// addEntries opens the layout at dir and adds four entries named after name.
func addEntries(ctx context.Context, dir, name string) error {
	client, err := oci.NewClient(oci.Options{})
	if err != nil {
		return err
	}
	ref, err := oci.ParseReference("oci:" + dir + ":v1")
	if err != nil {
		return err
	}
	model, err := client.Open(ctx, ref)
	if err != nil {
		return err
	}
	for i := range 4 {
		desc, body := referrerOf(model.Manifest.Descriptor, fmt.Sprint(name, i))
		if err := model.Layout.PushBlob(ctx, desc, bytes.NewReader(body)); err != nil {
			return err
		}
		if err := model.Layout.AddEntries(ctx, desc); err != nil {
			return err
		}
	}
	return nil
}

func TestAddEntriesAtOnce(t *testing.T) {
	dir, model := newLayout(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			if err := addEntries(t.Context(), dir, fmt.Sprint("goroutine", i)); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range 4 {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), exe)
			cmd.Env = append(os.Environ(), childEnv+"="+dir, fmt.Sprintf("%s_NAME=process%d", childEnv, i))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	found := map[godigest.Digest]bool{}
	for _, d := range descriptors(t, model.Layout) {
		found[d.Digest] = true
	}
	if len(found) != 1+16*4 {
		t.Errorf("%d entries, want %d", len(found), 1+16*4)
	}
	noTemporaryFiles(t, dir)
}

func TestAddEntriesRefusesLinkedLock(t *testing.T) {
	dir, model := newLayout(t)
	outside := filepath.Join(t.TempDir(), "outside")
	lock := filepath.Join(dir, "index.json.lock")
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, lock); err != nil {
		t.Skip(err)
	}
	if err := model.Layout.AddEntries(t.Context(), model.Manifest.Descriptor); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(outside); err == nil {
		t.Error("a file was made outside the layout")
	}
}

// A writer that waits for another's lock ends with its context.
func TestAddEntriesWaitsNoLongerThanItsContext(t *testing.T) {
	dir, model := newLayout(t)
	unlock, err := lockedfile.MutexAt(filepath.Join(dir, "index.json.lock")).Lock()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	desc, _ := referrerOf(model.Manifest.Descriptor, "1")
	if err := model.Layout.AddEntries(ctx, desc); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	unlock()
	if err := model.Layout.AddEntries(t.Context(), desc); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestPushLayoutAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			ref, err := oci.ParseReference(fmt.Sprintf("oci:%s:v%d", dir, i))
			if err != nil {
				t.Error(err)
				return
			}
			files := []manifest.File{fileOf("a", fmt.Sprint(i)), fileOf("b", "shared")}
			if _, err := newClient(t, oci.Options{}).Push(t.Context(), ref, files, oci.PushOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 8 {
		if _, err := open(t, fmt.Sprintf("oci:%s:v%d", dir, i)); err != nil {
			t.Error(err)
		}
	}
}

// oras-go finds what we recorded.
func TestAddEntriesIsReadByOras(t *testing.T) {
	dir, model := newLayout(t)
	desc, body := referrerOf(model.Manifest.Descriptor, "hello")
	if err := model.Layout.PushBlob(t.Context(), desc, bytes.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	if err := model.Layout.AddEntries(t.Context(), desc); err != nil {
		t.Fatal(err)
	}
	store, err := orasoci.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	referrers, err := store.Predecessors(t.Context(), ocispec.Descriptor{MediaType: typeManifest, Digest: model.Reference.Digest, Size: model.Manifest.Descriptor.Size})
	if err != nil || len(referrers) != 1 || referrers[0].Digest != desc.Digest {
		t.Errorf("%v, %v", referrers, err)
	}
	if tagged, err := store.Resolve(t.Context(), "v1"); err != nil || tagged.Digest != model.Reference.Digest {
		t.Errorf("%v, %v", tagged, err)
	}
}

func FuzzLayoutIndex(f *testing.F) {
	dir, model := newLayout(f)
	index, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(index)
	f.Add([]byte(`{"manifests":null}`))
	f.Add([]byte(`{"manifests":[{"digest":"` + digest + `","annotations":{"org.opencontainers.image.ref.name":"v1"}}],"x":[{}]}`))
	desc, _ := referrerOf(model.Manifest.Descriptor, "1")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, "index.json"), data, 0o644); err != nil {
			t.Fatal(err)
		}
		before, err := model.Layout.Entries(t.Context())
		if err != nil {
			return
		}
		if model, err := open(t, "oci:"+dir+":v1"); err == nil && model.Manifest == nil {
			t.Fatal("no manifest and no error")
		}
		if err := model.Layout.AddEntries(t.Context(), desc); err != nil {
			return
		}
		after, err := model.Layout.Entries(t.Context())
		if err != nil {
			t.Fatalf("our own index.json does not parse: %v", err)
		}
		if len(after) < len(before) || !slices.EqualFunc(before, after[:len(before)], func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
			t.Fatalf("entries %q became %q", before, after)
		}
	})
}

func noTemporaryFiles(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(e.Name(), ".") && path != dir {
			t.Errorf("%s is left behind", path)
		}
		return err
	})
	if err != nil && runtime.GOOS != "windows" {
		t.Error(err)
	}
}
