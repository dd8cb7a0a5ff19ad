package modelsig_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/verify"
)

// pullFiles have a content twice, folders, and one that is large enough to
// break off in.
var pullFiles = map[string]string{
	"config.json":    "{}",
	"weights/a.bin":  strings.Repeat("0123456789abcdef", 8<<10),
	"weights/b.bin":  "hello",
	"again/copy.bin": "hello",
	"empty":          "",
}

// pushSigned pushes files, signed.
func pushSigned(t testing.TB, ref string, files map[string]string, signer modelsig.Signer) *modelsig.Pushed {
	t.Helper()
	pushed, err := new(modelsig.Client).Push(t.Context(), writeModel(t, files), ref, modelsig.PushOptions{Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	return pushed
}

// putBlob pushes what a layer is.
func (r *registry) putBlob(t testing.TB, repository, content string) {
	t.Helper()
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromString(content), Size: int64(len(content))}
	if _, err := r.backend.PushBlob(t.Context(), repository, desc, strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
}

// readTree is every file below dir, nil if there is no dir.
func readTree(t testing.TB, dir string) map[string]string {
	t.Helper()
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	tree := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		tree[filepath.ToSlash(rel)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func wantTree(t testing.TB, dir string, want map[string]string) {
	t.Helper()
	if got := readTree(t, dir); !maps.Equal(got, want) {
		t.Fatalf("%s has %d files %q, want %d %q", dir, len(got), slices.Sorted(maps.Keys(got)), len(want), slices.Sorted(maps.Keys(want)))
	}
}

// wantAlone wants nothing beside the named entries in a folder.
func wantAlone(t testing.TB, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	slices.Sort(names)
	if !slices.Equal(got, names) {
		t.Fatalf("%s has %q, want %q", dir, got, names)
	}
}

// stagings are the names of staging folders in a folder.
func stagings(t testing.TB, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, ".*.modelsig-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestPull(t *testing.T) {
	for name, serve := range map[string]func(testing.TB) *registry{"Referrers API": newRegistry, "no API": newOldRegistry} {
		t.Run(name, func(t *testing.T) {
			r, signer := serve(t), newSigner(t)
			pushed := pushSigned(t, r.host+"/acme/tiny:v1", pullFiles, signer)
			wire := &meter{}
			var mu sync.Mutex
			var most, total int64
			client := &modelsig.Client{Registry: oci.Options{Transport: wire}, Progress: func(done, all int64) {
				mu.Lock()
				defer mu.Unlock()
				most, total = max(most, done), all
			}}
			parent := t.TempDir()
			dir := filepath.Join(parent, "out")
			pulled, err := client.Pull(t.Context(), r.host+"/acme/tiny:v1", dir, trusts(signer), modelsig.PullOptions{})
			if err != nil {
				t.Fatal(err)
			}
			v := pulled.Verification
			if pulled.Unchanged || pulled.Files != 5 || pulled.Bytes != 128<<10+12 || pulled.Kept != 0 || pulled.Dir != dir ||
				v.Pinned != pushed.Pinned || v.Binding != verify.StrengthManifest || len(v.Signers) != 2 || len(pulled.Warnings) != 0 {
				t.Errorf("pulled %+v, %+v", pulled, v)
			}
			wantTree(t, dir, pullFiles)
			wantAlone(t, parent, "out")
			if most != pulled.Bytes || total != pulled.Bytes {
				t.Errorf("progress %d of %d, want %d", most, total, pulled.Bytes)
			}
			// The tag is resolved once, and one content is read once.
			if n := len(wire.about("/manifests/v1")); n != 1 {
				t.Errorf("%d requests for the tag", n)
			}
			if n := len(wire.about(digest.FromString("hello").Encoded())); n != 1 {
				t.Errorf("%d requests for one content", n)
			}
			for _, name := range []string{"config.json", "weights/a.bin"} {
				if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm()&0o133 != 0 {
					t.Errorf("%s: %v, %v", name, info.Mode(), err)
				}
			}
			wire.reset()
			pulled, err = client.Pull(t.Context(), pushed.Pinned, dir, trusts(signer), modelsig.PullOptions{})
			if err != nil || !pulled.Unchanged || pulled.Files != 5 {
				t.Errorf("again: %+v, %v", pulled, err)
			}
			if n := len(wire.about(digest.FromString("hello").Encoded())); n != 0 {
				t.Errorf("again: %d requests for a content that is there", n)
			}
		})
	}
}

func TestSpansOfPull(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	pushed := pushSigned(t, r.host+"/acme/tiny:v1", tinyFiles, signer)
	provider, recorder := newTracer(t)
	client := &modelsig.Client{Tracer: provider}
	dir := filepath.Join(t.TempDir(), "out")
	if _, err := client.Pull(t.Context(), r.host+"/acme/tiny:v1", dir, trusts(signer), modelsig.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, want := spanNames(recorder.Ended()), []string{"Pull", "decide < Pull", "download < Pull", "list < Pull", "resolve < Pull"}; !slices.Equal(got, want) {
		t.Errorf("spans %q, want %q", got, want)
	}
	if got := spanAttributes(t, recorder.Ended(), "Pull")["model_signing.digest"].AsString(); got != pushed.Digest {
		t.Errorf("digest %q, want %q", got, pushed.Digest)
	}
	if _, err := client.Pull(t.Context(), r.host+"/acme/tiny:v1", dir, trusts(newSigner(t)), modelsig.PullOptions{}); err == nil {
		t.Fatal("no error")
	}
	if got := spanAttributes(t, recorder.Ended()[5:], "Pull")["model_signing.verdict"].AsString(); got != verify.Refused {
		t.Errorf("verdict %q, want %q", got, verify.Refused)
	}
}

func TestPullOfManySmallFiles(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	files := map[string]string{}
	for i := range 300 {
		files[fmt.Sprintf("data/%d/part-%03d", i%7, i)] = fmt.Sprint(i)
	}
	pushSigned(t, r.host+"/acme/many:v1", files, signer)
	dir := filepath.Join(t.TempDir(), "out")
	if _, err := new(modelsig.Client).Pull(t.Context(), r.host+"/acme/many:v1", dir, trusts(signer), modelsig.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	wantTree(t, dir, files)
}

// No folder, or the one that was there: whatever the verdict misses.
func TestPullRefusesBeforeItReads(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	pushSigned(t, r.host+"/acme/tiny:v1", pullFiles, signer)
	pushSigned(t, r.host+"/acme/unsigned:v1", map[string]string{"a": "b"}, nil)
	needsModel := trusts(signer)
	needsModel.RequireModel = true
	if _, err := client.Push(t.Context(), writeModel(t, tinyFiles), r.host+"/acme/part:v1", modelsig.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	mustSign(t, client, r.host+"/acme/part:v1", signer, modelsig.SignOptions{ArtifactOnly: true})
	for _, tt := range []struct {
		name, ref string
		policy    modelsig.Policy
		code      string
	}{
		{"another signer", "acme/tiny:v1", trusts(newSigner(t)), verify.CodeUntrusted},
		{"nobody is trusted", "acme/tiny:v1", modelsig.Policy{}, verify.CodeUntrusted},
		{"not signed", "acme/unsigned:v1", trusts(signer), verify.CodeUnsigned},
		{"no model signature", "acme/part:v1", needsModel, verify.CodeNeedsModel},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parent := t.TempDir()
			_, err := client.Pull(t.Context(), r.host+"/"+tt.ref, filepath.Join(parent, "out"), tt.policy, modelsig.PullOptions{})
			wantNo(t, nil, err, modelsig.ErrRefused, tt.code)
			wantAlone(t, parent)
		})
	}
	t.Run("an artifact signature alone is enough where the policy says so", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "out")
		if _, err := client.Pull(t.Context(), r.host+"/acme/part:v1", dir, trusts(signer), modelsig.PullOptions{}); err != nil {
			t.Fatal(err)
		}
		wantTree(t, dir, tinyFiles)
	})
}

// Rule 8: what no signature of files lists is written only where the digest of
// the manifest covers it.
func TestPullAndTheFilesThatNobodySigns(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	files := maps.Clone(tinyFiles)
	files[".gitattributes"] = "* -text"
	pushSigned(t, r.host+"/acme/bound:v1", files, signer)
	dir := filepath.Join(t.TempDir(), "out")
	pulled, err := client.Pull(t.Context(), r.host+"/acme/bound:v1", dir, lenient(signer), modelsig.PullOptions{})
	if err != nil || len(pulled.LeftOut) != 0 {
		t.Fatalf("%+v, %v", pulled, err)
	}
	wantTree(t, dir, files)

	sig, err := client.SignDir(t.Context(), writeModel(t, tinyFiles), signer, modelsig.SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := tiny()
	m.Layers = append(m.Layers, rawLayer(".gitattributes", "* -text"))
	r.attach(t, "acme/folder", r.put(t, "acme/folder", "v1", m), modelType, sig.Model.Bundle)
	for _, content := range files {
		r.putBlob(t, "acme/folder", content)
	}
	dir = filepath.Join(t.TempDir(), "out")
	_, err = client.Pull(t.Context(), r.host+"/acme/folder:v1", dir, trusts(signer), modelsig.PullOptions{})
	wantNo(t, nil, err, modelsig.ErrRefused, verify.CodeWeak)
	pulled, err = client.Pull(t.Context(), r.host+"/acme/folder:v1", dir, lenient(signer), modelsig.PullOptions{})
	if err != nil || !slices.Equal(pulled.LeftOut, []string{".gitattributes"}) || pulled.Verification.Binding != verify.StrengthLayers {
		t.Fatalf("%+v, %v", pulled, err)
	}
	wantTree(t, dir, tinyFiles)
}

// tarFolder packs files as oras packs a folder, not compressed.
func tarFolder(t testing.TB, modes map[string]int64, files map[string]string) string {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		mode := modes[name]
		if mode == 0 {
			mode = 0o600
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func folderLayer(title, content string) ocispec.Descriptor {
	l := rawLayer(title, content)
	l.MediaType = ocispec.MediaTypeImageLayer
	l.Annotations["io.deis.oras.content.unpack"] = "true"
	return l
}

func TestPullUnpacksArchives(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	folder := tarFolder(t, map[string]int64{"code/run.py": 0o755}, map[string]string{"code/run.py": "print(1)", "code/deep/x.txt": "x"})
	r.putBlob(t, "acme/mixed", folder)
	r.putBlob(t, "acme/mixed", "hello")
	r.put(t, "acme/mixed", "v1", image(rawLayer("weights.bin", "hello"), folderLayer("code", folder)))
	ref := r.host + "/acme/mixed:v1"
	mustSign(t, client, ref, signer, modelsig.SignOptions{})
	want := map[string]string{"weights.bin": "hello", "code/run.py": "print(1)", "code/deep/x.txt": "x"}
	for _, keep := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "out")
		pulled, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{KeepModes: keep})
		if err != nil {
			t.Fatal(err)
		}
		wantTree(t, dir, want)
		if pulled.Files != 3 || pulled.Bytes != 14 {
			t.Errorf("%+v", pulled)
		}
		info, err := os.Stat(filepath.Join(dir, "code/run.py"))
		if err != nil || (info.Mode()&0o100 != 0) != keep {
			t.Errorf("keep modes %t: %v, %v", keep, info.Mode(), err)
		}
		if info, err := os.Stat(filepath.Join(dir, "code/deep/x.txt")); err != nil || info.Mode().Perm()&0o177 != 0o044&^umask(t) {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		pulled, err = client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{})
		if err != nil || !pulled.Unchanged {
			t.Errorf("again: %+v, %v", pulled, err)
		}
	}
}

// Of two layers of a container image that have a file, the later one counts,
// whichever is read first.
func TestPullOfAFileInTwoLayers(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	older := tarFolder(t, nil, map[string]string{"models/x": strings.Repeat("old", 1<<20), "models/y": "y"})
	newer := tarFolder(t, nil, map[string]string{"models/x": "new"})
	config := rawLayer("", `{"rootfs":{"type":"layers","diff_ids":["`+digest.FromString(older).String()+`","`+digest.FromString(newer).String()+`"]}}`)
	config.MediaType, config.Annotations = ocispec.MediaTypeImageConfig, nil
	m := image()
	m.ArtifactType, m.Config = "", config
	r.putBlob(t, "acme/car", `{"rootfs":{"type":"layers","diff_ids":["`+digest.FromString(older).String()+`","`+digest.FromString(newer).String()+`"]}}`)
	for _, content := range []string{older, newer} {
		l := rawLayer("", content)
		l.MediaType, l.Annotations = ocispec.MediaTypeImageLayer, nil
		m.Layers = append(m.Layers, l)
		r.putBlob(t, "acme/car", content)
	}
	r.put(t, "acme/car", "v1", m)
	ref := r.host + "/acme/car:v1"
	allow := manifest.Allow{manifest.DuplicateLayer}
	mustSign(t, client, ref, signer, modelsig.SignOptions{Allow: allow})
	parent := t.TempDir()
	_, err := client.Pull(t.Context(), ref, filepath.Join(parent, "out"), trusts(signer), modelsig.PullOptions{})
	wantNo(t, nil, err, modelsig.ErrRefused, string(manifest.DuplicateLayer))
	wantAlone(t, parent)
	for jobs := range 5 {
		dir := filepath.Join(t.TempDir(), "out")
		client := &modelsig.Client{Jobs: jobs}
		if _, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{Verify: modelsig.VerifyOptions{Allow: allow}}); err != nil {
			t.Fatal(err)
		}
		wantTree(t, dir, map[string]string{"x": "new", "y": "y"})
	}
}

// umask is what new files do not get.
func umask(t testing.TB) fs.FileMode {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL, 0o777)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return 0o777 &^ info.Mode().Perm()
}

// Each is properly signed, and its content is wrong in one way.
func TestPullComparesWhatItWrote(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	good := map[string]string{"code/run.py": "print(1)", "code/x": "x"}
	for i, tt := range []struct {
		name string
		tar  map[string]string
		code string
	}{
		{"a file changed", map[string]string{"code/run.py": "print(2)", "code/x": "x"}, verify.CodeFiles},
		{"a file more", map[string]string{"code/run.py": "print(1)", "code/x": "x", "code/y": "y"}, verify.CodeFiles},
		{"a file less", map[string]string{"code/run.py": "print(1)"}, verify.CodeFiles},
		{"a file under another name", map[string]string{"code/run.py": "print(1)", "code/X": "x"}, verify.CodeFiles},
		{"a file outside its folder", map[string]string{"code/run.py": "print(1)", "code/x": "x", "z": ""}, "entry-outside"},
		{"a name that leads out", map[string]string{"code/../../x": "x"}, "name-parent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			repository := fmt.Sprint("acme/packed", i)
			content := tarFolder(t, nil, tt.tar)
			r.putBlob(t, repository, content)
			m := image(folderLayer("code", content))
			desc := r.put(t, repository, "v1", m)

			// The statement names this manifest, and lists the good files.
			var resources []manifest.Resource
			for _, name := range slices.Sorted(maps.Keys(good)) {
				resources = append(resources, manifest.Resource{Name: name, Digest: sum(good[name]), Algorithm: "sha256"})
			}
			oms, err := manifest.New(resources, manifest.Serialization{HashType: manifest.SHA256})
			if err != nil {
				t.Fatal(err)
			}
			binding, err := verify.Binding{
				Manifest:     verify.BoundManifest{MediaType: desc.MediaType, Digest: desc.Digest.String(), Size: desc.Size},
				ArtifactType: m.ArtifactType, Layout: "title",
			}.Annotations()
			if err != nil {
				t.Fatal(err)
			}
			st, err := oms.Statement("packed", binding)
			if err != nil {
				t.Fatal(err)
			}
			parent := t.TempDir()
			_, err = client.Pull(t.Context(), r.host+"/"+repository+":v1", filepath.Join(parent, "out"), trusts(signer),
				modelsig.PullOptions{Verify: modelsig.VerifyOptions{SignatureFile: signedFile(t, signer, st)}})
			wantNo(t, nil, err, modelsig.ErrRefused, tt.code)
			wantAlone(t, parent)
		})
	}
}

func TestPullNeedsFiles(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	layer := rawLayer("", "hello")
	layer.Annotations, layer.MediaType = nil, "application/vnd.ollama.image.model"
	r.put(t, "acme/other", "v1", image(layer))
	ref := r.host + "/acme/other:v1"
	mustSign(t, client, ref, signer, modelsig.SignOptions{ArtifactOnly: true})
	parent := t.TempDir()
	_, err := client.Pull(t.Context(), ref, filepath.Join(parent, "out"), trusts(signer), modelsig.PullOptions{})
	if !errors.Is(err, oci.ErrUnmapped) || errors.Is(err, modelsig.ErrRefused) {
		t.Errorf("error %v", err)
	}
	wantAlone(t, parent)
}

func TestPullIntoWhatIsThere(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, tinyFiles, signer)
	with := func(name, content string) map[string]string {
		files := maps.Clone(tinyFiles)
		files[name] = content
		return files
	}
	for _, tt := range []struct {
		name  string
		files map[string]string
	}{
		{"a file changed", with("config.json", "{ }")},
		{"a file more", with("extra", "")},
		{"a file less", map[string]string{"config.json": "{}"}},
		{"something else", map[string]string{"x/y/z": "mine"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "out")
			for name, content := range tt.files {
				writeFile(t, filepath.Join(dir, name), content)
			}
			_, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{})
			if !errors.Is(err, modelsig.ErrOccupied) || errors.Is(err, modelsig.ErrRefused) {
				t.Errorf("error %v", err)
			}
			wantTree(t, dir, tt.files)
			wantAlone(t, parent, "out")
			generous := trusts(signer)
			generous.Subset, generous.IgnoreUnsignedFiles, generous.IgnorePaths = true, true, manifest.Ignore{"extra"}
			if _, err := client.Pull(t.Context(), ref, dir, generous, modelsig.PullOptions{}); !errors.Is(err, modelsig.ErrOccupied) {
				t.Errorf("with a policy that does not mind: %v", err)
			}
			pulled, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{Overwrite: true})
			if err != nil || pulled.Unchanged || len(pulled.Warnings) != 0 {
				t.Fatalf("overwrite: %+v, %v", pulled, err)
			}
			wantTree(t, dir, tinyFiles)
			wantAlone(t, parent, "out")
			pulled, err = client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{Overwrite: true})
			if err != nil || !pulled.Unchanged {
				t.Errorf("overwrite what verifies: %+v, %v", pulled, err)
			}
		})
	}
	t.Run("an empty folder", func(t *testing.T) {
		dir := t.TempDir()
		if _, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{}); err != nil {
			t.Fatal(err)
		}
		wantTree(t, dir, tinyFiles)
		wantAlone(t, dir, "config.json", "weights")
	})
	t.Run("links, files and what is not there", func(t *testing.T) {
		parent := t.TempDir()
		target := filepath.Join(parent, "target")
		if err := os.Mkdir(target, 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(parent, "file"), "x")
		for name, to := range map[string]string{"link": target, "dangling": filepath.Join(parent, "nowhere")} {
			if err := os.Symlink(to, filepath.Join(parent, name)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := client.Pull(t.Context(), ref, "", trusts(signer), modelsig.PullOptions{}); err == nil {
			t.Error("no name: no error")
		}
		for _, name := range []string{"link", "link/", "dangling", "file", "missing/out"} {
			if _, err := client.Pull(t.Context(), ref, filepath.Join(parent, name), trusts(signer), modelsig.PullOptions{Overwrite: true}); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		wantAlone(t, parent, "link", "dangling", "file", "target")
		wantAlone(t, target)
	})
}

// The folder appears while the pull is at work.
func TestPullReplacesNothingThatAppears(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, tinyFiles, signer)
	for _, at := range []string{"staged", "written", "synced"} {
		for name, files := range map[string]map[string]string{"another": {"mine": "x"}, "this": tinyFiles} {
			for _, inside := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s model, %s, inside %t", name, at, inside), func(t *testing.T) {
					parent := t.TempDir()
					dir := filepath.Join(parent, "out")
					if inside {
						if err := os.Mkdir(dir, 0o755); err != nil {
							t.Fatal(err)
						}
					}
					client := new(modelsig.Client)
					client.SetStep(func(step string) {
						if step == at {
							for name, content := range files {
								writeFile(t, filepath.Join(dir, name), content)
							}
						}
					})
					pulled, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{})
					if name == "this" && (err != nil || !pulled.Unchanged) || name == "another" && err == nil {
						t.Errorf("%+v, %v", pulled, err)
					}
					wantTree(t, dir, files)
					wantAlone(t, parent, "out")
				})
			}
		}
	}
	t.Run("an empty one", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "out")
		client := new(modelsig.Client)
		client.SetStep(func(step string) {
			if step == "synced" {
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Error(err)
				}
			}
		})
		if _, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{}); err == nil {
			wantTree(t, dir, tinyFiles)
		} else {
			wantAlone(t, dir)
		}
	})
}

func TestPullTakesBackWhatItMoved(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, pullFiles, signer)
	parent := t.TempDir()
	dir := filepath.Join(parent, "out")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	client := new(modelsig.Client)
	client.SetStep(func(step string) {
		if step == "move empty" { // two are there by now
			wantAlone(t, dir, append([]string{"again", "config.json"}, baseNames(stagings(t, dir))...)...)
			writeFile(t, filepath.Join(dir, "weights/mine"), "x")
		}
	})
	if _, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{}); !errors.Is(err, modelsig.ErrOccupied) {
		t.Errorf("error %v", err)
	}
	wantTree(t, dir, map[string]string{"weights/mine": "x"})
	wantAlone(t, dir, "weights")
}

func baseNames(paths []string) []string {
	var out []string
	for _, p := range paths {
		out = append(out, filepath.Base(p))
	}
	return out
}

// A link to a folder that has the model is no folder that has it.
func TestPullRefusesALinkThatAppears(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, tinyFiles, signer)
	parent, elsewhere := t.TempDir(), writeModel(t, tinyFiles)
	dir := filepath.Join(parent, "out")
	client := new(modelsig.Client)
	client.SetStep(func(step string) {
		if step == "synced" {
			if err := os.Symlink(elsewhere, dir); err != nil {
				t.Error(err)
			}
		}
	})
	if pulled, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{}); err == nil {
		t.Errorf("%+v", pulled)
	}
	wantAlone(t, parent, "out")
	wantTree(t, elsewhere, tinyFiles)
}

// A faulty transport breaks off what it is told to.
type faulty struct {
	requests atomic.Int64
	fault    func(n int64, req *http.Request, resp *http.Response) (*http.Response, error)
}

func (f *faulty) RoundTrip(req *http.Request) (*http.Response, error) {
	n := f.requests.Add(1) - 1
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	got, err := f.fault(n, req, resp)
	if err != nil {
		resp.Body.Close()
	}
	return got, err
}

// Whatever request is the last one that is answered: there is no folder, and
// the next pull finishes the work.
func TestPullWhenTheRegistryStopsAnswering(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, pullFiles, signer)
	pull := func(dir string, last int64) (*modelsig.Pulled, error) {
		client := &modelsig.Client{Jobs: 1, Registry: oci.Options{Transport: &faulty{fault: func(n int64, _ *http.Request, resp *http.Response) (*http.Response, error) {
			if n >= last {
				return nil, syscall.ECONNREFUSED
			}
			return resp, nil
		}}}}
		return client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{})
	}
	parent := t.TempDir()
	kept := false
	for last := int64(0); ; last++ {
		dir := filepath.Join(parent, "out")
		_, err := pull(dir, last)
		if err == nil {
			if last < 6 || !kept {
				t.Errorf("done after %d requests, something kept: %t", last, kept)
			}
			wantTree(t, dir, pullFiles)
			break
		}
		if errors.Is(err, modelsig.ErrRefused) {
			t.Fatalf("request %d: %v is a refusal", last, err)
		}
		if readTree(t, dir) != nil {
			t.Fatalf("request %d: there is a folder", last)
		}
		pulled, err := pull(dir, 1000)
		if err != nil {
			t.Fatalf("request %d, again: %v", last, err)
		}
		kept = kept || pulled.Kept > 0
		wantTree(t, dir, pullFiles)
		wantAlone(t, parent, "out")
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPullOfBlobsThatAreNotRight(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, pullFiles, signer)
	large := pullFiles["weights/a.bin"]
	name := digest.FromString(large).Encoded()
	for _, tt := range []struct {
		name    string
		change  func(resp *http.Response, body string)
		refused bool // and nothing is kept
	}{
		{"the last byte is another one", func(resp *http.Response, body string) {
			resp.Body = io.NopCloser(strings.NewReader(body[:len(body)-1] + "x"))
		}, true},
		{"all bytes are others", func(resp *http.Response, body string) {
			resp.Body = io.NopCloser(strings.NewReader(strings.Repeat("x", len(body))))
		}, true},
		{"one byte more", func(resp *http.Response, body string) {
			resp.ContentLength, resp.Body = -1, io.NopCloser(strings.NewReader(body+"x"))
		}, true},
		{"one byte less", func(resp *http.Response, body string) {
			resp.ContentLength, resp.Body = int64(len(body)-1), io.NopCloser(strings.NewReader(body[1:]))
		}, false},
		{"a page", func(resp *http.Response, _ string) {
			resp.ContentLength, resp.Body = 6, io.NopCloser(strings.NewReader("<html>"))
		}, false},
		{"404", func(resp *http.Response, _ string) { resp.StatusCode = 404 }, false},
		{"403", func(resp *http.Response, _ string) { resp.StatusCode = 403 }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := &modelsig.Client{Registry: oci.Options{Transport: &faulty{fault: func(_ int64, req *http.Request, resp *http.Response) (*http.Response, error) {
				if !strings.Contains(req.URL.Path, name) {
					return resp, nil
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					return nil, err
				}
				tt.change(resp, string(body))
				return resp, nil
			}}}}
			parent := t.TempDir()
			dir := filepath.Join(parent, "out")
			_, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{})
			if err == nil || errors.Is(err, modelsig.ErrRefused) != tt.refused {
				t.Errorf("error %v, want a refusal: %t", err, tt.refused)
			}
			if tt.refused {
				wantAlone(t, parent)
			} else if readTree(t, dir) != nil {
				t.Error("there is a folder")
			}
			if _, err := new(modelsig.Client).Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{}); err != nil {
				t.Fatal(err)
			}
			wantTree(t, dir, pullFiles)
			wantAlone(t, parent, "out")
		})
	}
}

// Both end well, or one is refused; never is one half of the one and half of
// the other.
func TestPullsAtOnce(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	other := map[string]string{"config.json": "other", "other.bin": "x"}
	pushSigned(t, r.host+"/acme/tiny:v1", pullFiles, signer)
	pushSigned(t, r.host+"/acme/tiny:v2", other, signer)
	for name, make := range map[string]func(dir string) error{
		"no folder":       func(string) error { return nil },
		"an empty folder": func(dir string) error { return os.Mkdir(dir, 0o755) },
	} {
		for _, overwrite := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, overwrite %t", name, overwrite), func(t *testing.T) {
				parent := t.TempDir()
				dir := filepath.Join(parent, "out")
				if err := make(dir); err != nil {
					t.Fatal(err)
				}
				var group sync.WaitGroup
				var done atomic.Int64
				for i := range 8 {
					group.Go(func() {
						ref := fmt.Sprintf("%s/acme/tiny:v%d", r.host, i%2+1)
						_, err := new(modelsig.Client).Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{Overwrite: overwrite})
						switch {
						case err == nil:
							done.Add(1)
						case errors.Is(err, modelsig.ErrRefused):
							t.Errorf("the model was refused: %v", err)
						}
					})
				}
				group.Wait()
				if done.Load() == 0 {
					t.Error("all failed")
				}
				if got := readTree(t, dir); !maps.Equal(got, pullFiles) && !maps.Equal(got, other) {
					t.Errorf("a mix: %q", slices.Sorted(maps.Keys(got)))
				}
				wantAlone(t, parent, "out")
			})
		}
	}
}
