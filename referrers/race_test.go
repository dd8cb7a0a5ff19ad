package referrers_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/modelsig/modelsig/referrers"
)

// Rule 39. The clock is synctest's: seconds of waiting cost nothing, and the
// latencies are exact.

// attach attaches two bundles, after it has watched the index for as long: as
// who waits for a transparency log between listing and attaching.
func attach(t *testing.T, repo *remote.Repository, subject ocispec.Descriptor, watch time.Duration, seed string) []ocispec.Descriptor {
	t.Helper()
	store := referrers.InRepository(repo)
	if watch > 0 {
		list(t, store, subject, referrers.Limits{})
		time.Sleep(watch)
	}
	descs, err := referrers.Attach(t.Context(), store, subject, attachments(seed)...)
	if err != nil {
		t.Errorf("writer %s: %v", seed, err)
	}
	return descs
}

// watches are for how long writers watch before they write: not at all, and
// until they are sure that nobody else is there.
var watches = []time.Duration{0, time.Second}

// attachAll attaches with one client each at once, and checks that everything
// is listed when all have ended.
func attachAll(t *testing.T, repos []*remote.Repository, subject ocispec.Descriptor, watch time.Duration, round int) {
	t.Helper()
	var wg sync.WaitGroup
	wanted := make([][]ocispec.Descriptor, len(repos))
	for i, repo := range repos {
		wg.Go(func() {
			wanted[i] = attach(t, repo, subject, watch, fmt.Sprintf("%d %d", round, i))
		})
	}
	wg.Wait()
	missing := 0
	tag := string(getTag(t, repos[0], subject))
	for _, descs := range wanted {
		for _, d := range descs {
			switch strings.Count(tag, d.Digest.String()) {
			case 0:
				missing++
			case 1:
			default:
				t.Errorf("%s is listed twice", d.Digest)
			}
		}
	}
	if missing > 0 {
		t.Errorf("round %d: %d of %d referrers were lost", round, missing, 2*len(repos))
	}
}

func TestSixteenWritersAtOnceLoseNothing(t *testing.T) {
	for _, m := range modes[2:] {
		for _, latency := range []time.Duration{0, 2 * time.Millisecond, 20 * time.Millisecond, 150 * time.Millisecond} {
			for _, watch := range watches {
				t.Run(fmt.Sprintf("%s, up to %v a request, after a watch of %v", m.name, latency, watch), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						h := m.handler()
						var repos []*remote.Repository
						for range 16 {
							repos = append(repos, repository(t, "registry.example.com", inProcess{
								handler: h,
								latency: func(*http.Request) time.Duration { return rand.N(latency + 1) },
							}))
						}
						rounds := 6
						if latency == 20*time.Millisecond && !testing.Short() {
							rounds = 30
						}
						for round := range rounds {
							subject := pushManifest(t, repos[0], ocispec.MediaTypeImageManifest, fmt.Sprintf(`{"schemaVersion":2,"layers":[],"annotations":{"round":"%d"}}`, round), "")
							start := time.Now()
							attachAll(t, repos, subject, watch, round)
							if d := time.Since(start); d > 20*time.Second {
								t.Errorf("round %d took %v", round, d)
							}
						}
					})
				})
			}
		}
	}
}

func TestSixteenWritersOverTheLoopbackLoseNothing(t *testing.T) {
	h := modes[2].handler()
	var repos []*remote.Repository
	for range 16 {
		repos = append(repos, serve(t, h))
	}
	for round := range 2 {
		subject := pushManifest(t, repos[0], ocispec.MediaTypeImageManifest, fmt.Sprintf(`{"schemaVersion":2,"layers":[],"annotations":{"round":"%d"}}`, round), "")
		attachAll(t, repos, subject, 0, round)
	}
}

// A writer reads the index, is held up, and writes after another has written
// and looked.
func TestAWriterThatIsHeldUpTakesNothingAway(t *testing.T) {
	for _, held := range []time.Duration{30 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, time.Second, 10 * time.Second} {
		for name, at := range map[string]string{"as it reads": "GET tag", "as it writes": "PUT tag"} {
			for _, watch := range watches {
				t.Run(fmt.Sprintf("%v %s, after a watch of %v", held, name, watch), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						h := modes[2].handler()
						fast := repository(t, "registry.example.com", inProcess{handler: h})
						subject := pushSubject(t, fast)
						var once, listed atomic.Bool // the one hold, and the listing before it
						slow := &tap{next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							if kind(r) == "GET tag" {
								defer listed.Store(true)
							}
							hold := kind(r) == at && (watch == 0 || listed.Load()) && once.CompareAndSwap(false, true)
							if hold && at == "PUT tag" {
								time.Sleep(held)
							}
							h.ServeHTTP(w, r)
							if hold && at == "GET tag" {
								time.Sleep(held) // the answer is old when it comes
							}
						})}
						var wg sync.WaitGroup
						wg.Go(func() {
							attach(t, repository(t, "registry.example.com", inProcess{handler: slow}), subject, watch, "slow")
						})
						time.Sleep(10 * time.Millisecond) // the slow one has read
						attach(t, fast, subject, watch, "fast")
						wg.Wait()
						if n := len(list(t, referrers.InRepository(fast), subject, referrers.Limits{}).Referrers); n != 4 {
							t.Errorf("%d referrers are listed, want 4", n)
						}
					})
				})
			}
		}
	}
}

// Other tools read, add and write, and never look back. As long as they are no
// slower than quietSettle, what we attach stays.
func TestAWriterThatNeverLooksBackTakesNothingOfOursAway(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			h := modes[2].handler()
			repo := repository(t, "registry.example.com", inProcess{handler: h, latency: func(*http.Request) time.Duration { return rand.N(10 * time.Millisecond) }})
			subject := pushSubject(t, repo)
			var wg sync.WaitGroup
			for i := range 4 {
				wg.Go(func() {
					time.Sleep(rand.N(100 * time.Millisecond))
					var index struct {
						SchemaVersion int               `json:"schemaVersion"`
						MediaType     string            `json:"mediaType"`
						Manifests     []json.RawMessage `json:"manifests"`
					}
					if old := getTag(t, repo, subject); old != nil {
						if err := json.Unmarshal(old, &index); err != nil {
							t.Error(err)
						}
					}
					time.Sleep(rand.N(100 * time.Millisecond))
					index.SchemaVersion, index.MediaType = 2, ocispec.MediaTypeImageIndex
					index.Manifests = append(index.Manifests, json.RawMessage(entry(ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString(fmt.Sprint(i)), Size: 1}, "", "")))
					b, err := json.Marshal(index)
					if err != nil {
						t.Error(err)
					}
					pushManifest(t, repo, ocispec.MediaTypeImageIndex, string(b), tagOf(subject))
				})
			}
			descs, err := referrers.Attach(t.Context(), referrers.InRepository(repo), subject, attachments("a")...)
			if err != nil {
				t.Fatal(err)
			}
			wg.Wait()
			tag := getTag(t, repo, subject)
			for _, d := range descs {
				if !bytes.Contains(tag, []byte(d.Digest)) {
					t.Errorf("%s is gone", d.Digest)
				}
			}
		})
	}
}

// A registry that fails while others write is asked again; one that always
// fails is not asked for ever.
func TestAnUpdateSurvivesAFaultThatPasses(t *testing.T) {
	for _, step := range []string{"GET tag", "PUT tag"} {
		for _, faults := range []int{5, 1 << 30} {
			t.Run(fmt.Sprintf("%s, %d times", step, faults), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					left := faults
					tap := &tap{next: modes[2].handler()}
					tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
						if kind(r) != step || left == 0 {
							return false
						}
						left--
						answer(w, 500, "text/plain", "busy")
						return true
					}
					repo := repository(t, "registry.example.com", inProcess{handler: tap})
					subject := pushSubject(t, repo)
					_, err := referrers.Attach(t.Context(), referrers.InRepository(repo), subject, attachments("a")...)
					if ok := err == nil; ok != (faults == 5) {
						t.Errorf("error %v", err)
					}
				})
			})
		}
	}
}

// Somebody overwrites the tag whenever we have written it.
func TestAWriterThatAlwaysWinsEndsTheActWithAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tap := &tap{next: modes[2].handler()}
		tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if kind(r) != "PUT tag" {
				return false
			}
			w.WriteHeader(http.StatusCreated) // and forgotten
			return true
		}
		repo := repository(t, "registry.example.com", inProcess{handler: tap})
		subject := pushSubject(t, repo)
		start := time.Now()
		if _, err := referrers.Attach(t.Context(), referrers.InRepository(repo), subject, attachments("a")...); err == nil {
			t.Error("attached")
		}
		if d := time.Since(start); d > time.Minute {
			t.Errorf("it took %v", d)
		}
	})
}

// What somebody deleted meanwhile is not put back: its manifest is gone. Some
// registries refuse an index that names one, and may still have said a moment
// before that it is there.
func TestAnEntryThatWasDeletedMeanwhileIsNotPutBack(t *testing.T) {
	for name, stale := range map[string]bool{"the manifest is gone": false, "the manifest is said to be there, and the index refused": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gone := digest.FromString("gone")
				h := modes[2].handler()
				writes, refused := 0, 0
				tap := &tap{next: h}
				repo := repository(t, "registry.example.com", inProcess{handler: tap})
				subject := pushSubject(t, repo)
				pushManifest(t, repo, ocispec.MediaTypeImageIndex, indexOf(entry(ocispec.Descriptor{MediaType: "a/b", Digest: gone, Size: 1}, "", "")), tagOf(subject))
				plain := repository(t, "registry.example.com", inProcess{handler: h})
				tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
					if stale && r.Method == http.MethodHead && strings.Contains(r.URL.Path, string(gone)) {
						w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
						w.Header().Set("Content-Length", "1")
						w.WriteHeader(http.StatusOK)
						return true
					}
					if kind(r) != "PUT tag" {
						return false
					}
					if writes++; writes == 1 { // somebody deletes the entry, and ours is lost with it
						pushManifest(t, plain, ocispec.MediaTypeImageIndex, indexOf(), tagOf(subject))
						w.WriteHeader(http.StatusCreated)
						return true
					}
					body, err := io.ReadAll(r.Body)
					if err != nil {
						t.Error(err)
					}
					r.Body = io.NopCloser(bytes.NewReader(body))
					if bytes.Contains(body, []byte(gone)) {
						refused++
						answer(w, 400, "application/json", `{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}`)
						return true
					}
					return false
				}
				if _, err := referrers.Attach(t.Context(), referrers.InRepository(repo), subject, attachments("a")...); err != nil {
					t.Fatal(err)
				}
				if tag := getTag(t, plain, subject); bytes.Contains(tag, []byte(gone)) || bytes.Count(tag, []byte(referrers.BundleType)) != 2 {
					t.Errorf("index %s", tag)
				}
				if stale != (refused == 1) {
					t.Errorf("%d writes were refused", refused)
				}
			})
		})
	}
}
