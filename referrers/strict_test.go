package referrers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/modelsig/modelsig/referrers"
)

// strict is a registry that refuses an index which names a manifest that is not
// there, with the status that it has for that: they differ.
type strict struct {
	next   http.Handler
	status int
}

func (s strict) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if kind(r) != "PUT tag" {
		s.next.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		answer(w, 400, "text/plain", err.Error())
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var index ocispec.Index
	if err := json.Unmarshal(body, &index); err != nil {
		answer(w, 400, "text/plain", err.Error())
		return
	}
	for _, d := range index.Manifests {
		head := r.Clone(r.Context())
		head.Method, head.Body, head.ContentLength = http.MethodHead, http.NoBody, 0
		head.URL.Path = r.URL.Path[:strings.LastIndex(r.URL.Path, "/")+1] + string(d.Digest)
		head.RequestURI = head.URL.Path
		there := &status{header: http.Header{}}
		if s.next.ServeHTTP(there, head); there.code != http.StatusOK {
			answer(w, s.status, "application/json", `{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}`)
			return
		}
	}
	s.next.ServeHTTP(w, r)
}

// status is what an answer says, without its body.
type status struct {
	header http.Header
	code   int
}

func (s *status) Header() http.Header         { return s.header }
func (s *status) Write(p []byte) (int, error) { return len(p), nil }
func (s *status) WriteHeader(code int)        { s.code = code }

var refusals = []int{400, 404, 422, 500}

// dangling counts the entries of the fallback tag whose manifest is gone.
func dangling(t *testing.T, repo *remote.Repository, subject ocispec.Descriptor) (n int) {
	t.Helper()
	for _, e := range examine(t, repo, subject).Entries {
		for _, p := range e.Problems {
			if p.Code == referrers.ProblemDangling {
				n++
			}
		}
	}
	return n
}

// One entry that dangles, left by another tool or by a deleter that died, must
// not keep everybody from signing and deleting.
func TestADanglingEntryDoesNotBlockItsSubject(t *testing.T) {
	for _, code := range refusals {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				repo := repository(t, "registry.example.com", inProcess{handler: strict{modes[2].handler(), code}})
				subject := pushSubject(t, repo)
				store := referrers.InRepository(repo)
				descs, err := referrers.Attach(t.Context(), store, subject, attachments("a")...)
				if err != nil {
					t.Fatal(err)
				}
				if err := repo.Manifests().Delete(t.Context(), descs[0]); err != nil {
					t.Fatal(err)
				}
				more, err := referrers.Attach(t.Context(), store, subject, attachments("b")...)
				if err != nil {
					t.Fatal(err)
				}
				if err := repo.Manifests().Delete(t.Context(), more[0]); err != nil {
					t.Fatal(err)
				}
				if _, err := referrers.Delete(t.Context(), store, descs[1].Digest); err != nil {
					t.Fatal(err)
				}
				if found := digestsOf(t, store, subject); len(found) != 1 || !found[more[1].Digest] {
					t.Errorf("listed: %v", found)
				}
			})
		})
	}
}

// Where the index cannot be written, nothing is deleted.
func TestNothingIsDeletedWhereTheIndexCannotBeWritten(t *testing.T) {
	for _, code := range refusals {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tap := &tap{next: modes[2].handler()}
				repo := repository(t, "registry.example.com", inProcess{handler: tap})
				subject := pushSubject(t, repo)
				store := referrers.InRepository(repo)
				descs, err := referrers.Attach(t.Context(), store, subject, attachments("a")...)
				if err != nil {
					t.Fatal(err)
				}
				tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
					if kind(r) != "PUT tag" {
						return false
					}
					answer(w, code, "text/plain", "no")
					return true
				}
				if _, err := referrers.Delete(t.Context(), store, descs[0].Digest); err == nil || !strings.Contains(err.Error(), "nothing was deleted") {
					t.Errorf("got %v", err)
				}
				if ok, err := repo.Manifests().Exists(t.Context(), descs[0]); err != nil || !ok {
					t.Errorf("the manifest is gone: %v", err)
				}
			})
		})
	}
}

func TestSixteenSignersAndDeletersLeaveNothingDangling(t *testing.T) { // rules 33, 39
	for _, code := range refusals {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := strict{modes[2].handler(), code}
				var repos []*remote.Repository
				for range 16 {
					repos = append(repos, repository(t, "registry.example.com", inProcess{
						handler: h,
						latency: func(*http.Request) time.Duration { return rand.N(20 * time.Millisecond) },
					}))
				}
				for round := range 5 {
					subject := pushManifest(t, repos[0], ocispec.MediaTypeImageManifest, fmt.Sprintf(`{"schemaVersion":2,"layers":[],"annotations":{"round":"%d"}}`, round), "")
					var wg sync.WaitGroup
					var mu sync.Mutex
					kept := map[string]bool{}
					for i, repo := range repos {
						wg.Go(func() {
							store := referrers.InRepository(repo)
							descs, err := referrers.Attach(context.Background(), store, subject, attachments(fmt.Sprint(round, " ", i))...)
							if err != nil {
								t.Errorf("round %d: signer %d: %v", round, i, err)
								return
							}
							if i%2 == 0 {
								mu.Lock()
								kept[string(descs[0].Digest)], kept[string(descs[1].Digest)] = true, true
								mu.Unlock()
								return
							}
							for _, d := range descs {
								if _, err := referrers.Delete(context.Background(), store, d.Digest); err != nil {
									t.Errorf("round %d: deleter %d: %v", round, i, err)
								}
							}
						})
					}
					wg.Wait()
					if n := dangling(t, repos[0], subject); n > 0 {
						t.Errorf("round %d: %d entries dangle", round, n)
					}
					found := digestsOf(t, referrers.InRepository(repos[0]), subject)
					if len(found) != len(kept) {
						t.Errorf("round %d: %d are listed, want %d", round, len(found), len(kept))
					}
				}
			})
		})
	}
}
