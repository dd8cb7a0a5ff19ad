package referrers_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/modelsig/modelsig/referrers"
)

// digestsOf are the digests that a listing has, which must be complete.
func digestsOf(t testing.TB, s referrers.Store, subject ocispec.Descriptor) map[digest.Digest]bool {
	t.Helper()
	l := list(t, s, subject, referrers.Limits{})
	if l.Incomplete != nil {
		t.Fatalf("incomplete: %v", l.Incomplete)
	}
	found := map[digest.Digest]bool{}
	for _, r := range l.Referrers {
		found[r.Descriptor.Digest] = true
	}
	return found
}

func TestWhatIsDeletedIsGoneAndTheRestIsKept(t *testing.T) { // rule 33
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			repo := serve(t, m.handler())
			subject := pushSubject(t, repo)
			store := referrers.InRepository(repo)
			descs, err := referrers.Attach(t.Context(), store, subject, attachments("a")...)
			if err != nil {
				t.Fatal(err)
			}
			foreign := `{ "digest":"` + string(descs[1].Digest) + `x", "odd" : 1}`
			if !m.api {
				// An entry that is no descriptor, and spaces that nobody but a
				// person would write: others' bytes.
				tag := strings.Replace(string(getTag(t, repo, subject)), `"manifests":[`, `"annotations": {"a" : "b"},"manifests":[ `+foreign+` ,`, 1)
				pushManifest(t, repo, ocispec.MediaTypeImageIndex, tag, tagOf(subject))
			}
			got, err := referrers.Delete(t.Context(), store, descs[0].Digest)
			if err != nil {
				t.Fatal(err)
			}
			if got.Digest != subject.Digest || got.Size != subject.Size || got.MediaType != subject.MediaType {
				t.Errorf("it referred to %v, not to %v", got, subject)
			}
			if found := digestsOf(t, store, subject); found[descs[0].Digest] || !found[descs[1].Digest] {
				t.Errorf("listed: %v", found)
			}
			if tag := string(getTag(t, repo, subject)); !m.api && (!strings.Contains(tag, foreign) || !strings.Contains(tag, `"annotations": {"a" : "b"}`)) {
				t.Errorf("others' bytes changed: %s", tag)
			}
			if _, err := referrers.Delete(t.Context(), store, descs[0].Digest); !errors.Is(err, referrers.ErrAbsent) {
				t.Errorf("deleted again: %v", err)
			}
			if _, err := repo.Manifests().Fetch(t.Context(), subject); err != nil {
				t.Errorf("the subject: %v", err)
			}
			if _, err := referrers.Delete(t.Context(), store, descs[1].Digest); err != nil {
				t.Fatal(err)
			}
			if tag := getTag(t, repo, subject); m.api != (tag == nil) {
				t.Errorf("the index that has become empty: %s", tag)
			}
		})
	}
}

func TestOnlyBundleReferrersAreDeleted(t *testing.T) { // rule 33
	repo := serve(t, modes[0].handler())
	subject := pushSubject(t, repo)
	bundle := pushBlob(t, repo, []byte(`{"a":1}`))
	good := strings.NewReplacer("SUBJECT", string(subject.Digest), "SIZE", fmt.Sprint(subject.Size), "LAYER", string(bundle.Digest)).Replace(
		`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"` + referrers.BundleType + `","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"` + referrers.BundleType + `","digest":"LAYER","size":7}],"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"SUBJECT","size":SIZE}}`)
	if _, err := referrers.Delete(t.Context(), referrers.InRepository(repo), pushManifest(t, repo, ocispec.MediaTypeImageManifest, good, "").Digest); err != nil {
		t.Fatalf("the one that is right: %v", err)
	}
	for name, c := range map[string]struct{ from, to string }{
		"a model":                             {good, subjectJSON},
		"a bundle of nothing":                 {good[strings.Index(good, `,"subject"`):], "}"},
		"an SBOM":                             {referrers.BundleType, "application/spdx+json"},
		"an index":                            {good, indexOf()},
		"two layers, one of which is a model": {`"size":7}]`, `"size":7},{"mediaType":"a/b","digest":"` + string(bundle.Digest) + `","size":7}]`},
		"a subject of another algorithm":      {string(subject.Digest), "sha512:" + strings.Repeat("0", 128)},
		"two subjects":                        {`"subject":`, `"subject":{},"subject":`},
	} {
		t.Run(name, func(t *testing.T) {
			body := strings.ReplaceAll(good, c.from, c.to)
			if body == good {
				t.Fatal("nothing was changed")
			}
			tap := &tap{next: &shelf{content: map[string]string{string(digest.FromString(body)): body}}}
			repo := serve(t, tap)
			_, err := referrers.Delete(t.Context(), referrers.InRepository(repo), digest.FromString(body))
			if !errors.Is(err, referrers.ErrNotBundle) && !errors.Is(err, referrers.ErrMalformed) {
				t.Errorf("error %v", err)
			}
			if asked := tap.requests(); len(asked) != 1 || asked[0] != "GET manifest" {
				t.Errorf("asked %v", asked)
			}
		})
	}
}

func TestARegistryThatDoesNotLetItBeDeletedKeepsItsEntry(t *testing.T) {
	for _, m := range modes {
		for _, status := range []int{http.StatusMethodNotAllowed, http.StatusForbidden, http.StatusInternalServerError} {
			t.Run(fmt.Sprint(m.name, status), func(t *testing.T) {
				tap := &tap{next: m.handler(), fault: func(w http.ResponseWriter, r *http.Request) bool {
					if r.Method == http.MethodDelete {
						w.WriteHeader(status)
						return true
					}
					return false
				}}
				repo := serve(t, tap)
				subject := pushSubject(t, repo)
				store := referrers.InRepository(repo)
				descs, err := referrers.Attach(t.Context(), store, subject, attachments("a")...)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := referrers.Delete(t.Context(), store, descs[0].Digest); err == nil || errors.Is(err, referrers.ErrAbsent) {
					t.Errorf("error %v", err)
				}
				if found := digestsOf(t, store, subject); !found[descs[0].Digest] || !found[descs[1].Digest] {
					t.Errorf("listed: %v", found)
				}
			})
		}
	}
}

func TestAnIndexThatIsNotReadWholeIsNotWrittenToDelete(t *testing.T) { // rule 33
	repo := serve(t, modes[2].handler())
	subject := pushSubject(t, repo)
	store := referrers.InRepository(repo)
	descs, err := referrers.Attach(t.Context(), store, subject, attachments("a")...)
	if err != nil {
		t.Fatal(err)
	}
	broken := strings.Replace(string(getTag(t, repo, subject)), `"manifests":`, `"manifests":[],"manifests":`, 1)
	pushManifest(t, repo, ocispec.MediaTypeImageIndex, broken, tagOf(subject))
	if _, err := referrers.Delete(t.Context(), store, descs[0].Digest); err == nil || !strings.Contains(err.Error(), "nothing was deleted") {
		t.Errorf("error %v", err)
	}
	if got := string(getTag(t, repo, subject)); got != broken {
		t.Errorf("index %s", got)
	}
	if _, err := repo.Manifests().Fetch(t.Context(), descs[0]); err != nil {
		t.Errorf("its manifest: %v", err)
	}
}

// Signers guard every entry that they saw, and deleters take some out, all at
// once: what was signed is there, what was deleted is gone (rule 39).
func TestSignersAndDeletersAtOnce(t *testing.T) {
	for _, m := range modes[2:] {
		for _, latency := range []time.Duration{0, 5 * time.Millisecond} {
			t.Run(fmt.Sprint(m.name, latency), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := m.handler()
					client := func() *remote.Repository {
						return repository(t, "registry.example.com", inProcess{handler: h, latency: func(*http.Request) time.Duration { return latency }})
					}
					subject := pushSubject(t, client())
					const n = 8
					var old []digest.Digest
					for i := range n {
						old = append(old, attach(t, client(), subject, 0, fmt.Sprint("old", i))[0].Digest)
					}
					var wg sync.WaitGroup
					added := make([][]ocispec.Descriptor, n)
					for i := range n {
						wg.Go(func() { added[i] = attach(t, client(), subject, 0, fmt.Sprint("new", i)) })
						wg.Go(func() {
							if _, err := referrers.Delete(t.Context(), referrers.InRepository(client()), old[i]); err != nil {
								t.Errorf("delete %d: %v", i, err)
							}
						})
					}
					wg.Wait()
					found := digestsOf(t, referrers.InRepository(client()), subject)
					for i := range n {
						if found[old[i]] {
							t.Errorf("%d came back", i)
						}
						for _, d := range added[i] {
							if !found[d.Digest] {
								t.Errorf("%d was lost", i)
							}
						}
					}
					if len(found) != n+2*n {
						t.Errorf("%d are listed, not %d", len(found), 3*n)
					}
				})
			})
		}
	}
}

func TestDeletingStopsBeforeAnyRequest(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			for n := 0; ; n++ {
				var done bool
				synctest.Test(t, func(t *testing.T) { done = deleteStopped(t, m, n) })
				if done {
					return
				}
			}
		})
	}
}

// deleteStopped deletes with a connection that ends before request n, counted
// from 0, and then again with one that does not. It reports whether the first
// needed no more requests.
func deleteStopped(t *testing.T, m mode, n int) bool {
	tap := &tap{next: m.handler()}
	repo := repository(t, "registry.example.com", inProcess{handler: tap})
	subject := pushSubject(t, repo)
	store := referrers.InRepository(repo)
	descs, err := referrers.Attach(t.Context(), store, subject, attachments("a")...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := 0
	tap.fault = func(http.ResponseWriter, *http.Request) bool {
		if asked++; asked > n {
			cancel()
			return true
		}
		return false
	}
	_, err = referrers.Delete(ctx, referrers.InRepository(repo), descs[0].Digest)
	tap.fault = nil
	if !digestsOf(t, store, subject)[descs[1].Digest] {
		t.Errorf("stopped before request %d: the other is lost", n)
	}
	if err == nil {
		return true
	}
	if _, err := referrers.Delete(t.Context(), store, descs[0].Digest); err != nil && !errors.Is(err, referrers.ErrAbsent) {
		t.Errorf("stopped before request %d, then: %v", n, err)
	}
	if digestsOf(t, store, subject)[descs[0].Digest] {
		t.Errorf("stopped before request %d: it is still listed", n)
	}
	return false
}

func TestDeletingFromALayout(t *testing.T) {
	l := newMemLayout()
	subject := l.put(ocispec.MediaTypeImageManifest, subjectJSON, nil)
	store := referrers.InLayout(l)
	descs, err := referrers.Attach(t.Context(), store, subject, attachments("a")...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := referrers.Delete(t.Context(), store, subject.Digest); !errors.Is(err, referrers.ErrNotBundle) {
		t.Errorf("the model: %v", err)
	}
	if _, err := referrers.Delete(t.Context(), store, descs[0].Digest); err != nil {
		t.Fatal(err)
	}
	if found := digestsOf(t, store, subject); found[descs[0].Digest] || !found[descs[1].Digest] {
		t.Errorf("listed: %v", found)
	}
	if _, err := referrers.Delete(t.Context(), store, descs[0].Digest); !errors.Is(err, referrers.ErrAbsent) {
		t.Errorf("again: %v", err)
	}
	l.fail["RemoveEntries"] = errors.New("the disk is full")
	if _, err := referrers.Delete(t.Context(), store, descs[1].Digest); err == nil {
		t.Error("it failed, and was reported as done")
	}
}

func TestWhatIsLinkedIsListedAsItsManifestSays(t *testing.T) {
	sbom := func(subject ocispec.Descriptor) string {
		return `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/spdx+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[],"annotations":{"a":"b"},"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + string(subject.Digest) + `","size":123}}`
	}
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			repo := serve(t, m.handler())
			subject := pushSubject(t, repo)
			store := referrers.InRepository(repo)
			if _, err := referrers.Link(t.Context(), store, subject, []byte(sbom(subject))); !errors.Is(err, referrers.ErrNotAttached) {
				t.Errorf("a manifest that is not there: %v", err)
			}
			desc := pushManifest(t, repo, ocispec.MediaTypeImageManifest, sbom(subject), "")
			descs, err := referrers.Link(t.Context(), store, subject, []byte(sbom(subject)))
			if err != nil {
				t.Fatal(err)
			}
			if d := descs[0]; d.Digest != desc.Digest || d.Size != desc.Size || d.ArtifactType != "application/spdx+json" || d.Annotations["a"] != "b" {
				t.Errorf("entry %v", d)
			}
			if !digestsOf(t, store, subject)[desc.Digest] {
				t.Error("it is not listed")
			}
		})
	}
	other := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("other"), Size: 5}
	repo := serve(t, modes[0].handler())
	if _, err := referrers.Link(t.Context(), referrers.InRepository(repo), other, []byte(sbom(pushSubject(t, repo)))); !errors.Is(err, referrers.ErrNotAttached) {
		t.Errorf("linked to another subject: %v", err)
	}
}
