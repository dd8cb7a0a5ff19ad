package modelsig_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig"
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
