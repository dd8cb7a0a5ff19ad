//go:build unix

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
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/verify"
)

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

// A crate is a signed model in a registry: raw layers, of which two have one
// content, and folders that are archives.
type crate struct {
	*registry
	ref    string
	files  map[string]string // what a pull writes
	policy modelsig.Policy
	signer modelsig.Signer
	desc   ocispec.Descriptor
	big    ocispec.Descriptor // the largest raw layer
}

// blob is content of n bytes that does not compress to nothing.
func blob(seed, n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		b.WriteString(digest.FromString(fmt.Sprint(seed, i)).Encoded())
	}
	return b.String()[:n]
}

func newCrate(t testing.TB) *crate {
	t.Helper()
	s := &crate{registry: newRegistry(t), signer: newSigner(t), files: map[string]string{
		"config.json": "{}", "weights.bin": blob(1, 40_000), "copy/weights.bin": blob(1, 40_000),
		"a/one.bin": blob(2, 30_000), "a/run.sh": "#!", "a/d/two": "", "b/three.bin": blob(3, 20_000),
	}}
	s.big = rawLayer("weights.bin", s.files["weights.bin"])
	s.desc = s.put(t, "acme/crate", "v1", image(
		s.raw(t, "config.json"), s.raw(t, "weights.bin"), s.raw(t, "copy/weights.bin"), s.folder(t, "a"), s.folder(t, "b"),
	))
	s.ref = s.host + "/acme/crate:v1"
	mustSign(t, new(modelsig.Client), s.ref, s.signer, modelsig.SignOptions{})
	s.policy = trusts(s.signer)
	return s
}

func (s *crate) raw(t testing.TB, name string) ocispec.Descriptor {
	s.putBlob(t, "acme/crate", s.files[name])
	return rawLayer(name, s.files[name])
}

// folder packs the files below name.
func (s *crate) folder(t testing.TB, name string) ocispec.Descriptor {
	t.Helper()
	files := maps.Clone(s.files)
	maps.DeleteFunc(files, func(file, _ string) bool { return !strings.HasPrefix(file, name+"/") })
	packed := tarFolder(t, map[string]int64{"a/run.sh": 0o755}, files)
	s.putBlob(t, "acme/crate", packed)
	return folderLayer(name, packed)
}

// through asks the registry through a transport.
func through(transport http.RoundTripper) *modelsig.Client {
	return &modelsig.Client{Jobs: 1, Registry: oci.Options{Transport: transport}}
}

// A broken registry cuts every answer for one blob after some bytes.
type broken struct {
	blob  digest.Digest
	after int64 // of the blob, whatever the range
	mu    sync.Mutex
	asked []string // ranges
	other []string // paths of other blobs
}

func (b *broken) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || !strings.Contains(r.URL.Path, "/blobs/") {
		return resp, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !strings.HasSuffix(r.URL.Path, string(b.blob)) {
		b.other = append(b.other, r.URL.Path)
		return resp, nil
	}
	b.asked = append(b.asked, r.Header.Get("Range"))
	from := int64(0)
	_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from) // no range: from the beginning
	if b.after >= 0 {
		resp.Body = cutBody{io.LimitReader(resp.Body, max(0, b.after-from)), resp.Body}
	}
	return resp, nil
}

type cutBody struct {
	io.Reader
	io.Closer
}

func (c cutBody) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err == io.EOF {
		err = syscall.ECONNRESET
	}
	return n, err
}

// wantNothing wants that nobody sees anything of a model.
func wantNothing(t testing.TB, dir string) {
	t.Helper()
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%s is there: %v", dir, err)
	}
}

// An archive that was read to its end is not read again.
func TestPullKeepsWholeArchives(t *testing.T) {
	s := newCrate(t)
	dir := filepath.Join(t.TempDir(), "model")
	model, err := newOCI(t).Open(t.Context(), reference(t, s.ref))
	if err != nil {
		t.Fatal(err)
	}
	a, b := model.Manifest.Layers[3], model.Manifest.Layers[4]
	if _, err := through(&broken{blob: b.Digest, after: b.Size / 2}).Pull(t.Context(), s.ref, dir, s.policy, modelsig.PullOptions{}); err == nil {
		t.Fatal("a pull of an archive that never ends")
	}
	wantNothing(t, dir)
	second := &broken{blob: b.Digest, after: -1}
	if _, err := through(second).Pull(t.Context(), s.ref, dir, s.policy, modelsig.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	wantTree(t, dir, s.files)
	wantAlone(t, filepath.Dir(dir), "model")
	if slices.ContainsFunc(second.other, func(path string) bool { return strings.HasSuffix(path, string(a.Digest)) }) {
		t.Error("the archive that had been read was read again")
	}
	// Unless a file of it is not what it was.
	other := filepath.Join(t.TempDir(), "model")
	if _, err := through(&broken{blob: b.Digest, after: b.Size / 2}).Pull(t.Context(), s.ref, other, s.policy, modelsig.PullOptions{}); err == nil {
		t.Fatal("a pull of an archive that never ends")
	}
	writeFile(t, filepath.Join(stagings(t, filepath.Dir(other))[0], "files", "a", "one.bin"), "evil")
	third := &broken{blob: a.Digest, after: -1}
	if _, err := through(third).Pull(t.Context(), s.ref, other, s.policy, modelsig.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	wantTree(t, other, s.files)
	if len(third.asked) != 1 {
		t.Errorf("the archive was asked for %d times", len(third.asked))
	}
}

func newOCI(t testing.TB) *oci.Client {
	t.Helper()
	client, err := oci.NewClient(oci.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func reference(t testing.TB, s string) oci.Reference {
	t.Helper()
	ref, err := oci.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// The statement names this manifest, which is enough for a yes, and lists other
// files than its archives have: a pull sees them, and refuses.
func TestPullComparesArchivesWithTheStatement(t *testing.T) {
	s := newCrate(t)
	changed := maps.Clone(s.files)
	changed["a/one.bin"] = "another"
	delete(changed, "b/three.bin")
	changed["b/four.bin"] = "x"
	oms, err := manifest.New(resourcesOf(changed), manifest.Serialization{IgnorePaths: manifest.GitPaths()})
	if err != nil {
		t.Fatal(err)
	}
	annotations, err := verify.Binding{
		Manifest: verify.BoundManifest{MediaType: s.desc.MediaType, Digest: s.desc.Digest.String(), Size: s.desc.Size}, ArtifactType: "x/y", Layout: "title",
	}.Annotations()
	if err != nil {
		t.Fatal(err)
	}
	st, err := oms.Statement("crate", annotations)
	if err != nil {
		t.Fatal(err)
	}
	signature := modelsig.VerifyOptions{SignatureFile: signedFile(t, s.signer, st)}
	client := new(modelsig.Client)
	v, err := client.Verify(t.Context(), s.ref, s.policy, signature)
	wantVerified(t, v, err, verify.StrengthManifest, 1)
	dir := filepath.Join(t.TempDir(), "model")
	_, err = client.Pull(t.Context(), s.ref, dir, s.policy, modelsig.PullOptions{Verify: signature})
	no := wantNo(t, nil, err, modelsig.ErrRefused, verify.CodeFiles)
	if !slices.Equal(no.Files.Changed, []string{"a/one.bin"}) || !slices.Equal(no.Files.Missing, []string{"b/four.bin"}) || !slices.Equal(no.Files.Extra, []string{"b/three.bin"}) {
		t.Errorf("files %+v", no.Files)
	}
	wantAlone(t, filepath.Dir(dir))
	// So does a verification that reads all content.
	signature.VerifyContent = true
	v, err = client.Verify(t.Context(), s.ref, s.policy, signature)
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
}

func resourcesOf(files map[string]string) []manifest.Resource {
	var out []manifest.Resource
	for _, name := range slices.Sorted(maps.Keys(files)) {
		out = append(out, manifest.Resource{Name: name, Digest: sum(files[name]), Algorithm: manifest.SHA256})
	}
	return out
}

// What OMS tools ignore is in no list of files; of a folder that a pull vouches
// for it is still no part, if the layers do not have it.
func TestPullVouchesForNothingElse(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	files := maps.Clone(tinyFiles)
	files[".gitattributes"] = "* -text"
	pushSigned(t, r.host+"/acme/raw:v1", files, signer)
	// An archive that may hold anything, and has a git file or none.
	for name, files := range map[string]map[string]string{"packed": files, "plain": tinyFiles} {
		tar := tarFolder(t, nil, files)
		layer := rawLayer("x", tar)
		layer.Annotations, layer.MediaType = nil, "application/vnd.cncf.model.weight.v1.tar"
		m := image(layer)
		m.ArtifactType = "application/vnd.cncf.model.manifest.v1+json"
		r.putBlob(t, "acme/"+name, tar)
		r.put(t, "acme/"+name, "v1", m)
		mustSign(t, client, r.host+"/acme/"+name+":v1", signer, modelsig.SignOptions{})
	}
	write := func(name, content string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { writeFile(t, filepath.Join(dir, name), content) }
	}
	remove := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, dir string)
		repos  []string
		same   bool // the folder still is what a pull writes
	}{
		{"nothing", func(*testing.T, string) {}, []string{"raw", "packed", "plain"}, true},
		{"an empty folder", func(t *testing.T, dir string) {
			if err := os.MkdirAll(filepath.Join(dir, ".git/hooks"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, []string{"raw", "packed", "plain"}, true},
		{"a hook", write(".git/hooks/post-checkout", "#!/bin/sh"), []string{"raw", "packed", "plain"}, false},
		{"a workflow", write(".github/workflows/x.yml", "on: push"), []string{"raw", "packed", "plain"}, false},
		{"a .gitignore", write(".gitignore", "*"), []string{"raw", "packed", "plain"}, false},
		{"another .gitattributes", write(".gitattributes", "* -tex2"), []string{"raw", "packed", "plain"}, false},
		{"a link for .gitignore", func(t *testing.T, dir string) {
			if err := os.Symlink("config.json", filepath.Join(dir, ".gitignore")); err != nil {
				t.Fatal(err)
			}
		}, []string{"raw", "packed", "plain"}, false},
		{"a link for .gitattributes", func(t *testing.T, dir string) {
			remove(".gitattributes")(t, dir)
			if err := os.Symlink("config.json", filepath.Join(dir, ".gitattributes")); err != nil {
				t.Fatal(err)
			}
		}, []string{"raw", "packed", "plain"}, false},
		{"no .gitattributes", remove(".gitattributes"), []string{"raw"}, false},
	} {
		for _, repo := range tt.repos {
			t.Run(tt.name+", "+repo, func(t *testing.T) {
				want := files
				if repo == "plain" {
					want = tinyFiles
				}
				dir := filepath.Join(t.TempDir(), "out")
				pull := func(overwrite bool) (*modelsig.Pulled, error) {
					return client.Pull(t.Context(), r.host+"/acme/"+repo+":v1", dir, trusts(signer), modelsig.PullOptions{Overwrite: overwrite})
				}
				if _, err := pull(false); err != nil {
					t.Fatal(err)
				}
				wantTree(t, dir, want)
				tt.change(t, dir)
				pulled, err := pull(false)
				if tt.same {
					if err != nil || !pulled.Unchanged {
						t.Fatalf("%+v, %v", pulled, err)
					}
					return
				}
				if !errors.Is(err, modelsig.ErrOccupied) {
					t.Fatalf("%+v, %v", pulled, err)
				}
				if pulled, err = pull(true); err != nil || pulled.Unchanged {
					t.Fatalf("overwrite: %+v, %v", pulled, err)
				}
				wantTree(t, dir, want)
			})
		}
	}
}
