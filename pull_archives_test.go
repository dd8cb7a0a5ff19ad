//go:build unix

package modelsig_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
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

func (s *crate) push(t testing.TB, desc ocispec.Descriptor, content string) ocispec.Descriptor {
	t.Helper()
	if _, err := s.backend.PushBlob(t.Context(), "acme/crate", ocispec.Descriptor{Digest: desc.Digest, Size: desc.Size, MediaType: desc.MediaType}, strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.backend.PushBlob(t.Context(), "acme/crate", ocispec.Descriptor{Digest: ocispec.DescriptorEmptyJSON.Digest, Size: 2, MediaType: "application/json"}, strings.NewReader("{}")); err != nil {
		t.Fatal(err)
	}
	return desc
}

func (s *crate) raw(t testing.TB, name string) ocispec.Descriptor {
	return s.push(t, rawLayer(name, s.files[name]), s.files[name])
}

// folder packs the files below name as oras does.
func (s *crate) folder(t testing.TB, name string) ocispec.Descriptor {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, file := range slices.Sorted(maps.Keys(s.files)) {
		if !strings.HasPrefix(file, name+"/") {
			continue
		}
		mode := int64(0o644)
		if strings.HasSuffix(file, ".sh") {
			mode = 0o755
		}
		if err := w.WriteHeader(&tar.Header{Name: file, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(s.files[file]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, s.files[file]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	desc := rawLayer(name, b.String())
	desc.MediaType = ocispec.MediaTypeImageLayerGzip
	desc.Annotations["io.deis.oras.content.unpack"] = "true"
	return s.push(t, desc, b.String())
}

// client asks the registry through a transport.
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
