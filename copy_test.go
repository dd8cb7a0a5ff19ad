package modelsig_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/referrers"
)

// stopping ends every connection before request n, counted from 0, and counts.
type stopping struct {
	n     int64
	asked atomic.Int64
}

func (s *stopping) RoundTrip(req *http.Request) (*http.Response, error) {
	if s.asked.Add(1) > s.n {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, context.Canceled // nothing that heals by asking again
	}
	return http.DefaultTransport.RoundTrip(req)
}

func clientWith(rt http.RoundTripper) *modelsig.Client {
	return &modelsig.Client{Registry: oci.Options{Transport: rt}, Jobs: 1}
}

// signedModel pushes a model with two signatures and an SBOM, which is signed.
func signedModel(t *testing.T, r *registry, repository string, signer modelsig.Signer) (ref string, subject ocispec.Descriptor) {
	t.Helper()
	c := new(modelsig.Client)
	pushed, err := c.Push(t.Context(), writeModel(t, tinyFiles), r.host+"/"+repository+":v1", modelsig.PushOptions{Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	subject = r.describe(t, repository, pushed.Digest)
	sbom := r.refer(t, repository, subject, "application/spdx+json")
	// A referrer of a referrer.
	r.refer(t, repository, sbom, "application/vnd.example.scan")
	return pushed.Pinned, subject
}

// describe is the descriptor of a manifest.
func (r *registry) describe(t *testing.T, repository, d string) ocispec.Descriptor {
	t.Helper()
	desc, err := r.backend.ResolveManifest(t.Context(), repository, digest.Digest(d))
	if err != nil {
		t.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
}

// refer attaches an artifact of any type, and lists it as clients do.
func (r *registry) refer(t *testing.T, repository string, subject ocispec.Descriptor, artifactType string) ocispec.Descriptor {
	t.Helper()
	m := image()
	m.ArtifactType, m.Subject = artifactType, &subject
	desc := r.put(t, repository, "", m)
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := referrers.Link(t.Context(), r.store(t, repository), subject, data); err != nil {
		t.Fatal(err)
	}
	return desc
}

func (r *registry) store(t *testing.T, repository string) referrers.Store {
	t.Helper()
	return referrers.InRepository(r.place(t, r.host+"/"+repository+":x").Repository)
}

func (r *registry) place(t *testing.T, ref string) *oci.Place {
	t.Helper()
	client, err := oci.NewClient(oci.Options{})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := oci.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	place, err := client.Place(t.Context(), parsed)
	if err != nil {
		t.Fatal(err)
	}
	return place
}

// attachedTo counts what is attached to an artifact, and to that.
func (r *registry) attachedTo(t *testing.T, repository string, subject ocispec.Descriptor) int {
	t.Helper()
	listing, err := referrers.List(t.Context(), r.store(t, repository), subject, nil, referrers.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if listing.Incomplete != nil {
		t.Fatal(listing.Incomplete)
	}
	n := len(listing.Referrers)
	for _, found := range listing.Referrers {
		n += r.attachedTo(t, repository, r.describe(t, repository, found.Descriptor.Digest.String()))
	}
	return n
}

func TestACopyHasWhatIsAttachedToWhatIsAttached(t *testing.T) {
	signer := newSigner(t)
	for name, old := range map[string][2]bool{
		"both with the API": {false, false}, "from an old registry": {true, false},
		"to an old registry": {false, true}, "both old": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := serveRegistry(t, old[0]), serveRegistry(t, old[1])
			ref, subject := signedModel(t, from, "acme/tiny", signer)
			c := new(modelsig.Client)
			copied, err := c.Copy(t.Context(), ref, to.host+"/mirror/tiny:v1", modelsig.CopyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if copied.Referrers != 4 || copied.Manifests != 1 || copied.Foreign != 0 || copied.Verification != nil {
				t.Errorf("copied %+v", copied)
			}
			if n := to.attachedTo(t, "mirror/tiny", subject); n != 4 {
				t.Errorf("%d are attached", n)
			}
			if _, err := c.Verify(t.Context(), to.host+"/mirror/tiny:v1", trusts(signer), modelsig.VerifyOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAnIndexIsCopiedWithItsChildrenAndTheirSignatures(t *testing.T) {
	signer := newSigner(t)
	from, to := newRegistry(t), newOldRegistry(t)
	_, child := signedModel(t, from, "acme/tiny", signer)
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{child}}
	data, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := from.backend.PushManifest(t.Context(), "acme/tiny", "all", data, ocispec.MediaTypeImageIndex); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "all.tar")
	c := new(modelsig.Client)
	for _, way := range [][2]string{
		{from.host + "/acme/tiny:all", "oci-archive:" + archive + ":all"},
		{"oci-archive:" + archive + ":all", to.host + "/mirror/tiny:all"},
	} {
		copied, err := c.Copy(t.Context(), way[0], way[1], modelsig.CopyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if copied.Manifests != 2 || copied.Referrers != 4 || copied.Digest != digest.FromBytes(data).String() {
			t.Errorf("%s: copied %+v", way[0], copied)
		}
	}
	if _, err := c.Verify(t.Context(), to.host+"/mirror/tiny@"+child.Digest.String(), trusts(signer), modelsig.VerifyOptions{}); err != nil {
		t.Error(err)
	}
}

// Whatever ends a copy, nothing that the destination had is lost, its tag does
// not move before all is there, and the next copy finishes.
func TestACopyThatStopsBeforeAnyRequest(t *testing.T) {
	signer := newSigner(t)
	for name, old := range map[string]bool{"with the API": false, "old": true} {
		t.Run(name, func(t *testing.T) {
			from := newRegistry(t)
			ref, subject := signedModel(t, from, "acme/tiny", signer)
			to := serveRegistry(t, old)
			// The model is there already, with a referrer of its own, under
			// another tag.
			c := new(modelsig.Client)
			for n := int64(0); ; n++ {
				repository := fmt.Sprintf("mirror/tiny%d", n)
				dst := to.host + "/" + repository
				if n%8 == 0 { // each beginning costs the settling of an index
					plain, err := c.Push(t.Context(), writeModel(t, map[string]string{"a": "b"}), dst+":v1", modelsig.PushOptions{})
					if err != nil {
						t.Fatal(err)
					}
					defer func(d string) {
						if to.describe(t, repository, d).Digest == "" {
							t.Errorf("request %d: the old model is gone", n)
						}
					}(plain.Digest)
				}
				stop := &stopping{n: n}
				_, err := clientWith(stop).Copy(t.Context(), ref, dst+":v1", modelsig.CopyOptions{})
				if err == nil {
					if stop.asked.Load() > n {
						t.Errorf("request %d failed, and the copy did not", n)
					}
					break
				}
				if tagged, err := to.backend.ResolveTag(t.Context(), repository, "v1"); err == nil && tagged.Digest == subject.Digest {
					if n := to.attachedTo(t, repository, subject); n != 4 {
						t.Errorf("request %d: the tag moved before all was there", n)
					}
				}
				if n%3 != 0 {
					continue
				}
				if _, err := c.Copy(t.Context(), ref, dst+":v1", modelsig.CopyOptions{}); err != nil {
					t.Fatalf("request %d, again: %v", n, err)
				}
				if got := to.attachedTo(t, repository, subject); got != 4 {
					t.Errorf("request %d: %d are attached", n, got)
				}
			}
		})
	}
}

func TestAnAttachThatStopsBeforeAnyRequest(t *testing.T) {
	signer := newSigner(t)
	for name, old := range map[string]bool{"with the API": false, "old": true} {
		t.Run(name, func(t *testing.T) {
			r := serveRegistry(t, old)
			c := new(modelsig.Client)
			for n := int64(0); ; n++ {
				repository := fmt.Sprintf("acme/tiny%d", n)
				desc := r.put(t, repository, "v1", tiny())
				ref := r.host + "/" + repository + "@" + desc.Digest.String()
				first := mustSign(t, c, ref, newSigner(t), modelsig.SignOptions{ArtifactOnly: true})
				sig := mustSign(t, c, ref, signer, modelsig.SignOptions{NoAttach: true})
				stop := &stopping{n: n}
				_, err := clientWith(stop).AttachBundle(t.Context(), ref, sig.Model.Bundle)
				if err == nil {
					return
				}
				attached, err := c.AttachBundle(t.Context(), ref, sig.Model.Bundle)
				if err != nil {
					t.Fatalf("request %d, again: %v", n, err)
				}
				listing, err := c.List(t.Context(), ref)
				if err != nil || listing.Incomplete != nil {
					t.Fatal(err, listing.Incomplete)
				}
				var found []string
				for _, l := range listing.Referrers {
					found = append(found, l.Digest)
				}
				if len(found) != 2 || !strings.Contains(strings.Join(found, " "), attached.Referrer) || !strings.Contains(strings.Join(found, " "), first.Artifact.Referrer) {
					t.Errorf("request %d: listed %v", n, found)
				}
			}
		})
	}
}

func TestBlobsThatAreThereOrCanBeMountedAreNotSent(t *testing.T) {
	signer := newSigner(t)
	r := newRegistry(t)
	ref, _ := signedModel(t, r, "acme/tiny", signer)
	var mu sync.Mutex
	var mounts, uploads int
	c := clientWith(roundTrip(func(req *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case req.URL.Query().Has("mount"):
			mounts++
		case strings.Contains(req.URL.Path, "/blobs/uploads/"):
			uploads++
		}
		return http.DefaultTransport.RoundTrip(req)
	}))
	copied, err := c.Copy(t.Context(), ref, r.host+"/mirror/tiny:v1", modelsig.CopyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if mounts != copied.Blobs || uploads != 0 {
		t.Errorf("%d blobs: %d were mounted, %d requests to upload", copied.Blobs, mounts, uploads)
	}
	mounts = 0
	if _, err := c.Copy(t.Context(), ref, r.host+"/mirror/tiny:v2", modelsig.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if mounts+uploads != 0 {
		t.Errorf("again: %d were mounted, %d requests to upload", mounts, uploads)
	}
}

func TestACopyIsRefusedWhereTheSourceIsNotTrusted(t *testing.T) {
	r := newRegistry(t)
	ref, _ := signedModel(t, r, "acme/tiny", newSigner(t))
	policy := trusts(newSigner(t))
	writes := 0
	c := clientWith(roundTrip(func(req *http.Request) (*http.Response, error) {
		if req.Method != http.MethodGet && req.Method != http.MethodHead {
			writes++
		}
		return http.DefaultTransport.RoundTrip(req)
	}))
	_, err := c.Copy(t.Context(), ref, r.host+"/mirror/tiny:v1", modelsig.CopyOptions{Policy: &policy})
	if denied, ok := errors.AsType[*modelsig.Denial](err); !ok || !errors.Is(err, modelsig.ErrRefused) || denied.Verification.Digest == "" {
		t.Errorf("error %v", err)
	}
	if writes != 0 {
		t.Errorf("%d requests that write", writes)
	}
	zero := modelsig.Policy{}
	if _, err := c.Copy(t.Context(), ref, r.host+"/mirror/tiny:v1", modelsig.CopyOptions{Policy: &zero}); err == nil {
		t.Error("nobody is trusted, and it was copied")
	}
}

func TestWhatCannotBeCopiedInFullIsNotCopied(t *testing.T) {
	signer := newSigner(t)
	c := new(modelsig.Client)
	for name, attack := range map[string]func(t *testing.T, r *registry, subject ocispec.Descriptor){
		"a referrer that is listed and gone": func(t *testing.T, r *registry, subject ocispec.Descriptor) {
			r.retag(t, subject, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("gone"), Size: 4})
		},
		"a listed manifest that refers to another": func(t *testing.T, r *registry, subject ocispec.Descriptor) {
			other := r.put(t, "acme/tiny", "", image(rawLayer("x", "y")))
			r.retag(t, subject, other)
		},
		"an entry that is no descriptor": func(t *testing.T, r *registry, subject ocispec.Descriptor) {
			r.retag(t, subject, ocispec.Descriptor{MediaType: "a/b", Digest: "sha256:no", Size: 4})
		},
		"referrers that nest too deep": func(t *testing.T, r *registry, subject ocispec.Descriptor) {
			for i := range 6 {
				subject = r.refer(t, "acme/tiny", subject, fmt.Sprintf("a/level%d", i))
			}
		},
		"a blob that is gone": func(t *testing.T, r *registry, subject ocispec.Descriptor) {
			m := image(rawLayer("lost", "lost"))
			m.ArtifactType, m.Subject = "a/b", &subject
			r.retag(t, subject, r.put(t, "acme/tiny", "", m))
		},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := newOldRegistry(t), newRegistry(t)
			ref, subject := signedModel(t, from, "acme/tiny", signer)
			attack(t, from, subject)
			archive := filepath.Join(t.TempDir(), "a.tar")
			for _, dst := range []string{to.host + "/mirror/tiny:v1", "oci-archive:" + archive + ":v1"} {
				if _, err := c.Copy(t.Context(), ref, dst, modelsig.CopyOptions{}); err == nil {
					t.Errorf("copied to %s", dst)
				}
			}
			if _, err := to.backend.ResolveTag(t.Context(), "mirror/tiny", "v1"); err == nil {
				t.Error("it has a tag")
			}
			if files, err := os.ReadDir(filepath.Dir(archive)); err != nil || len(files) > 0 {
				t.Errorf("left behind: %v %v", files, err)
			}
		})
	}
}

// retag adds an entry to the fallback index, as anybody with push rights can.
func (r *registry) retag(t *testing.T, subject ocispec.Descriptor, entry ocispec.Descriptor) {
	t.Helper()
	tag := "sha256-" + subject.Digest.Encoded()
	rd, err := r.backend.GetTag(t.Context(), "acme/tiny", tag)
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	var index ocispec.Index
	if err := json.NewDecoder(rd).Decode(&index); err != nil {
		t.Fatal(err)
	}
	index.Manifests = append(index.Manifests, entry)
	data, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.backend.PushManifest(t.Context(), "acme/tiny", tag, data, ocispec.MediaTypeImageIndex); err != nil {
		t.Fatal(err)
	}
}

func TestAnArchiveIsWrittenWholeOrNotAtAll(t *testing.T) {
	signer := newSigner(t)
	r := newRegistry(t)
	ref, _ := signedModel(t, r, "acme/tiny", signer)
	dir := t.TempDir()
	file := filepath.Join(dir, "a.tar")
	c := new(modelsig.Client)
	if _, err := c.Copy(t.Context(), ref, "oci-archive:"+file+":v1", modelsig.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	whole := sumOf(t, file)
	if _, err := c.Copy(t.Context(), ref, "oci-archive:"+file+":v1", modelsig.CopyOptions{}); !errors.Is(err, oci.ErrExists) {
		t.Errorf("error %v", err)
	}
	for n := int64(0); ; n++ {
		_, err := clientWith(&stopping{n: n}).Copy(t.Context(), ref, "oci-archive:"+file+":v1", modelsig.CopyOptions{Replace: true})
		if sumOf(t, file) != whole {
			t.Fatalf("request %d: the archive is another", n)
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
			t.Fatalf("request %d: left behind: %v %v", n, files, err)
		}
		if err == nil {
			return
		}
	}
}

func sumOf(t *testing.T, file string) [32]byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(data)
}

// An index may name a child as often as it likes, on every level: each manifest
// is stored once.
func TestAManifestIsCopiedOnceHoweverOftenItIsNamed(t *testing.T) {
	r := newRegistry(t)
	_, child := signedModel(t, r, "m", newSigner(t))
	for level := range 3 {
		children := make([]ocispec.Descriptor, 10)
		for i := range children {
			children[i] = child
		}
		child = r.putIndex(t, "m", fmt.Sprintf("v%d", level), children...)
	}
	var puts atomic.Int64
	c := clientWith(roundTrip(func(req *http.Request) (*http.Response, error) {
		if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/") {
			puts.Add(1)
		}
		return http.DefaultTransport.RoundTrip(req)
	}))
	if _, err := c.Copy(t.Context(), r.host+"/m:v2", r.host+"/n:v2", modelsig.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := puts.Load(); n != 9 { // four manifests and the tag, two signatures, an SBOM and its scan
		t.Errorf("%d manifests were stored", n)
	}
}
