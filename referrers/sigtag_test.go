package referrers_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
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

func simple(payload, signature string) referrers.SimpleSigning {
	return referrers.SimpleSigning{Payload: []byte(payload), Annotations: map[string]string{"dev.cosignproject.cosign/signature": signature}}
}

func sigTag(t testing.TB, s referrers.Store, subject ocispec.Descriptor) *referrers.OldTag {
	t.Helper()
	tag, err := referrers.ReadSigTag(t.Context(), s, subject, referrers.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return tag
}

// signatures reads an old tag, as "payload signature".
func signatures(t testing.TB, s referrers.Store, subject ocispec.Descriptor) []string {
	t.Helper()
	tag := sigTag(t, s, subject)
	if tag.Incomplete != nil {
		t.Fatal(tag.Incomplete)
	}
	var all []string
	for found := range tag.Read(t.Context()) {
		if found.Err != nil {
			t.Fatal(found.Err)
		}
		all = append(all, string(found.Payload)+" "+found.Annotations["dev.cosignproject.cosign/signature"])
	}
	return all
}

func getPath(t testing.TB, repo *remote.Repository, path string) []byte {
	t.Helper()
	_, rc, err := repo.FetchReference(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(rc); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAnOldTagKeepsWhatIsAddedToIt(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			repo := serve(t, m.handler())
			subject := pushSubject(t, repo)
			store := referrers.InRepository(repo)
			if tag := sigTag(t, store, subject); tag.Digest != "" || tag.Incomplete != nil || signatures(t, store, subject) != nil {
				t.Errorf("before anything was added: %+v", tag)
			}
			for _, add := range [][]referrers.SimpleSigning{
				{simple("p", "a")},
				{simple("p", "b"), simple("q", "c")}, // one payload, signed twice, is two signatures
				{simple("p", "a")},                   // there already
			} {
				d, err := referrers.AddToSigTag(t.Context(), store, subject, add...)
				if err != nil {
					t.Fatal(err)
				}
				if tag := sigTag(t, store, subject); tag.Digest != d {
					t.Errorf("the tag names %s, not %s", tag.Digest, d)
				}
			}
			if got := signatures(t, store, subject); !slices.Equal(got, []string{"p a", "p b", "q c"}) {
				t.Errorf("it has %q", got)
			}
			// It is an image like any other, with a config for its layers.
			var image ocispec.Manifest
			if err := json.Unmarshal(getPath(t, repo, referrers.SigTag(subject.Digest)), &image); err != nil {
				t.Fatal(err)
			}
			_, rc, err := repo.Blobs().FetchReference(t.Context(), image.Config.Digest.String())
			if err != nil {
				t.Fatal(err)
			}
			defer rc.Close()
			var config ocispec.Image
			if err := json.NewDecoder(rc).Decode(&config); err != nil {
				t.Fatal(err)
			}
			p, q := digest.FromString("p"), digest.FromString("q")
			if image.SchemaVersion != 2 || image.MediaType != ocispec.MediaTypeImageManifest || image.Config.MediaType != ocispec.MediaTypeImageConfig ||
				!slices.Equal(config.RootFS.DiffIDs, []digest.Digest{p, p, q}) || len(config.History) != 3 {
				t.Errorf("image %+v\nconfig %+v", image, config)
			}
			// And no referrer.
			if found := list(t, store, subject, referrers.Limits{}).Referrers; len(found) > 0 {
				t.Errorf("listed as referrers: %+v", found)
			}
		})
	}
}

func TestWhatOthersPutIntoAnOldTagIsKept(t *testing.T) {
	repo := serve(t, modes[2].handler())
	subject := pushSubject(t, repo)
	store := referrers.InRepository(repo)
	theirs := pushBlob(t, repo, []byte("theirs"))
	odd := fmt.Sprintf(`{"digest":%q,"size":6,"x":[1.0,"\u003c"],"mediaType":"a/b","annotations":{"\u003e":"<"}}`, theirs.Digest)
	empty := fmt.Sprintf(`{"mediaType":"a/b","digest":%q,"size":0}`, theirs.Digest)
	sig := fmt.Sprintf(`{"annotations":{"dev.cosignproject.cosign/signature":"z"},"mediaType":%q,"size":6,"digest":%q}`, referrers.SimpleSigningType, theirs.Digest)
	pushManifest(t, repo, "application/vnd.docker.distribution.manifest.v2+json",
		fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":%q,"size":6},"layers":[%s,%s,%s],"annotations":{"k":"\u003c"},"more":{"a":1}}`,
			theirs.Digest, odd, empty, sig), referrers.SigTag(subject.Digest))
	if _, err := referrers.AddToSigTag(t.Context(), store, subject, simple("p", "a"), simple("theirs", "z")); err != nil {
		t.Fatal(err)
	}
	data := string(getPath(t, repo, referrers.SigTag(subject.Digest)))
	for _, part := range []string{odd, empty, sig, `"annotations":{"k":"\u003c"}`, `"more":{"a":1}`, `vnd.docker.distribution.manifest.v2+json`, `vnd.docker.container.image.v1+json`} {
		if !strings.Contains(data, part) {
			t.Errorf("%s is not in %s", part, data)
		}
	}
	if got := signatures(t, store, subject); !slices.Equal(got, []string{"theirs z", "p a"}) {
		t.Errorf("it has %q", got)
	}
}

func TestAnOldTagThatIsNoImageIsNotOverwritten(t *testing.T) {
	for name, body := range map[string]string{
		"an index":     indexOf(),
		"a name twice": `{"schemaVersion":2,"config":{},"layers":[],"layers":[]}`,
		"no config":    `{"schemaVersion":2,"layers":[]}`,
		"another case": `{"schemaVersion":2,"config":{},"Layers":[]}`,
		"nothing":      "",
		"half":         `{"schemaVersion":2,"config":{},"lay`,
		"an error":     `{"errors":[]}`,
		"a page":       "<html>",
	} {
		t.Run(name, func(t *testing.T) {
			puts := 0
			tap := &tap{next: modes[2].handler()}
			repo := serve(t, tap)
			subject := pushSubject(t, repo)
			tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
				switch kind(r) {
				case "PUT tag":
					puts++
				case "GET tag":
					answer(w, 200, ocispec.MediaTypeImageManifest, body)
					return true
				}
				return false
			}
			store := referrers.InRepository(repo)
			if _, err := referrers.AddToSigTag(t.Context(), store, subject, simple("p", "a")); !errors.Is(err, referrers.ErrNotAttached) || puts > 0 {
				t.Errorf("%d writes, %v", puts, err)
			}
			// To a reader it is a source that cannot be read.
			tag := sigTag(t, store, subject)
			for s := range tag.Read(t.Context()) {
				t.Errorf("read as %+v", s)
			}
			if tag.Incomplete == nil {
				t.Error("it was read")
			}
		})
	}
}

func TestAnOldTagThatCannotBeReadIsNotAbsent(t *testing.T) {
	for name, fault := range map[string]func(w http.ResponseWriter){
		"500":          func(w http.ResponseWriter) { answer(w, 500, "text/plain", "x") },
		"403":          func(w http.ResponseWriter) { answer(w, 403, "text/plain", "x") },
		"a login page": func(w http.ResponseWriter) { answer(w, 200, "text/html", "<html>") },
		"cut short": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(200)
			_, _ = w.Write([]byte("{")) // and no more
		},
		"without end": func(w http.ResponseWriter) {
			answer(w, 200, ocispec.MediaTypeImageManifest, strings.Repeat(" ", 4<<20+1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			puts := 0
			tap := &tap{next: modes[2].handler()}
			repo := serve(t, tap)
			subject := pushSubject(t, repo)
			tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
				switch kind(r) {
				case "PUT tag":
					puts++
				case "GET tag":
					fault(w)
					return true
				}
				return false
			}
			store := referrers.InRepository(repo)
			if tag := sigTag(t, store, subject); tag.Incomplete == nil {
				t.Errorf("it was read: %+v", tag)
			}
			if _, err := referrers.AddToSigTag(t.Context(), store, subject, simple("p", "a")); !errors.Is(err, referrers.ErrNotAttached) || puts > 0 {
				t.Errorf("%d writes, %v", puts, err)
			}
		})
	}
}

// Layers are hints until they were read, each by itself.
func TestTheLayersOfAnOldTagAreRead(t *testing.T) {
	repo := serve(t, modes[2].handler())
	subject := pushSubject(t, repo)
	store := referrers.InRepository(repo)
	good := pushBlob(t, repo, []byte("good"))
	layer := func(mediaType string, d digest.Digest, size int) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, d, size)
	}
	layers := []string{
		layer(referrers.SimpleSigningType, digest.FromString("gone"), 4),
		layer(referrers.SimpleSigningType, good.Digest, 3),
		layer(referrers.SimpleSigningType, good.Digest, 2<<20),
		layer(referrers.SimpleSigningType, good.Digest, 0),
		layer(referrers.SimpleSigningType, "sha512:"+digest.Digest(strings.Repeat("0", 128)), 4),
		layer("application/vnd.dsse.envelope.v1+json", good.Digest, 4), // an attestation is none
		layer(referrers.SimpleSigningType, good.Digest, 4),
	}
	pushManifest(t, repo, ocispec.MediaTypeImageManifest, `{"schemaVersion":2,"config":`+layer("x/y", good.Digest, 4)+`,"layers":[`+strings.Join(layers, ",")+`]}`, referrers.SigTag(subject.Digest))
	var got []string
	for s := range sigTag(t, store, subject).Read(t.Context()) {
		switch {
		case s.Err == nil:
			got = append(got, string(s.Payload))
		case errors.Is(s.Err, referrers.ErrUnread):
			got = append(got, "unread")
		case errors.Is(s.Err, referrers.ErrMalformed):
			got = append(got, "malformed")
		}
	}
	if want := []string{"unread", "unread", "unread", "malformed", "malformed", "good"}; !slices.Equal(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
	tag, err := referrers.ReadSigTag(t.Context(), store, subject, referrers.Limits{Read: 2})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for s := range tag.Read(t.Context()) {
		if n++; n == 3 && !errors.Is(s.Err, referrers.ErrUnread) {
			t.Errorf("beyond the limit: %v", s.Err)
		}
	}
	if n != 3 {
		t.Errorf("%d were yielded", n)
	}
}

func TestAnOldTagInALayout(t *testing.T) {
	l := newMemLayout()
	store := referrers.InLayout(l)
	subject := l.put(ocispec.MediaTypeImageManifest, `{"schemaVersion":2}`, nil)
	if tag := sigTag(t, store, subject); tag.Digest != "" || tag.Incomplete != nil {
		t.Errorf("there is none: %+v", tag)
	}
	payload := l.put("x/y", "p", nil)
	image := fmt.Sprintf(`{"schemaVersion":2,"config":{},"layers":[{"mediaType":%q,"digest":%q,"size":1,"annotations":{"dev.cosignproject.cosign/signature":"a"}}]}`,
		referrers.SimpleSigningType, payload.Digest)
	named := map[string]string{ocispec.AnnotationRefName: referrers.SigTag(subject.Digest)}
	l.put(ocispec.MediaTypeImageManifest, image, named)
	if got := signatures(t, store, subject); !slices.Equal(got, []string{"p a"}) {
		t.Errorf("it has %q", got)
	}
	if _, err := referrers.AddToSigTag(t.Context(), store, subject, simple("p", "b")); !errors.Is(err, referrers.ErrNotAttached) {
		t.Errorf("added: %v", err)
	}
	l.put(ocispec.MediaTypeImageManifest, image+" ", named)
	if tag := sigTag(t, store, subject); tag.Incomplete == nil {
		t.Error("one of two was taken")
	}
}

func TestSixteenWritersOfAnOldTagLoseNothing(t *testing.T) { // rule 39
	for _, latency := range []time.Duration{0, 20 * time.Millisecond, 150 * time.Millisecond} {
		t.Run(latency.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := modes[0].handler() // with the API or without it: a tag is a tag
				var repos []*remote.Repository
				for range 16 {
					repos = append(repos, repository(t, "registry.example.com", inProcess{
						handler: h,
						latency: func(*http.Request) time.Duration { return rand.N(latency + 1) },
					}))
				}
				for round := range 10 {
					subject := pushManifest(t, repos[0], ocispec.MediaTypeImageManifest, fmt.Sprintf(`{"schemaVersion":2,"layers":[],"annotations":{"round":"%d"}}`, round), "")
					var wg sync.WaitGroup
					for i, repo := range repos {
						wg.Go(func() {
							if _, err := referrers.AddToSigTag(t.Context(), referrers.InRepository(repo), subject, simple("p", fmt.Sprint(i))); err != nil {
								t.Errorf("writer %d: %v", i, err)
							}
						})
					}
					wg.Wait()
					if got := signatures(t, referrers.InRepository(repos[0]), subject); len(got) != 16 {
						t.Errorf("round %d: %d signatures, want 16: %q", round, len(got), got)
					}
				}
			})
		})
	}
}

// A writer reads the tag, is held up, and writes after another has written and
// looked.
func TestAHeldUpWriterOfAnOldTagTakesNothingAway(t *testing.T) { // rule 39
	for _, held := range []time.Duration{30 * time.Millisecond, 200 * time.Millisecond, time.Second, 10 * time.Second} {
		for _, at := range []string{"GET tag", "PUT tag"} {
			t.Run(fmt.Sprintf("%v at %s", held, at), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := modes[2].handler()
					fast := repository(t, "registry.example.com", inProcess{handler: h})
					subject := pushSubject(t, fast)
					var once atomic.Bool
					slow := &tap{next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						hold := kind(r) == at && once.CompareAndSwap(false, true)
						if hold && at == "PUT tag" {
							time.Sleep(held)
						}
						h.ServeHTTP(w, r)
						if hold && at == "GET tag" {
							time.Sleep(held)
						}
					})}
					var wg sync.WaitGroup
					wg.Go(func() {
						store := referrers.InRepository(repository(t, "registry.example.com", inProcess{handler: slow}))
						if _, err := referrers.AddToSigTag(t.Context(), store, subject, simple("p", "slow")); err != nil {
							t.Error(err)
						}
					})
					time.Sleep(10 * time.Millisecond)
					if _, err := referrers.AddToSigTag(t.Context(), referrers.InRepository(fast), subject, simple("p", "fast")); err != nil {
						t.Error(err)
					}
					wg.Wait()
					if got := signatures(t, referrers.InRepository(fast), subject); len(got) != 2 {
						t.Errorf("%q, want both", got)
					}
				})
			})
		}
	}
}

func FuzzSigImage(f *testing.F) {
	subject := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("s"), Size: 1}
	f.Add([]byte(`{"schemaVersion":2,"config":{},"layers":[{"mediaType":"` + referrers.SimpleSigningType + `","digest":"` + string(digest.FromString("p")) + `","size":1}]}`))
	f.Add([]byte(`{"config":{},"layers":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := newMemLayout()
		l.put("x/y", "p", nil)
		l.put(ocispec.MediaTypeImageManifest, string(data), map[string]string{ocispec.AnnotationRefName: referrers.SigTag(subject.Digest)})
		tag, err := referrers.ReadSigTag(t.Context(), referrers.InLayout(l), subject, referrers.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		for s := range tag.Read(t.Context()) {
			if (s.Err == nil) != (string(s.Payload) == "p") {
				t.Fatalf("payload %q, error %v", s.Payload, s.Err)
			}
		}
	})
}

// A layer that says that it is something else, or has another size, is not ours,
// though it has our digest and annotations: nobody would read it as ours.
func TestADisguisedLayerIsNotTakenForOurs(t *testing.T) {
	for name, disguise := range map[string][2]string{
		"another type": {referrers.SimpleSigningType, "text/plain"},
		"another size": {`"size":1,`, `"size":12,`},
	} {
		t.Run(name, func(t *testing.T) {
			repo := serve(t, modes[2].handler())
			subject := pushSubject(t, repo)
			store := referrers.InRepository(repo)
			if _, err := referrers.AddToSigTag(t.Context(), store, subject, simple("p", "a")); err != nil {
				t.Fatal(err)
			}
			image := string(getPath(t, repo, referrers.SigTag(subject.Digest)))
			changed := strings.Replace(image, disguise[0], disguise[1], 1)
			if changed == image {
				t.Fatal("nothing was changed")
			}
			if referrers.HasLayersOf([]byte(changed), []byte(image)) {
				t.Error("it passes for what it was")
			}
			pushManifest(t, repo, ocispec.MediaTypeImageManifest, changed, referrers.SigTag(subject.Digest))
			if _, err := referrers.AddToSigTag(t.Context(), store, subject, simple("p", "a")); err != nil {
				t.Fatal(err)
			}
			good := 0
			for s := range sigTag(t, store, subject).Read(t.Context()) {
				if s.Err == nil && string(s.Payload) == "p" {
					good++
				}
			}
			if good != 1 {
				t.Errorf("%d signatures can be read", good)
			}
		})
	}
}
