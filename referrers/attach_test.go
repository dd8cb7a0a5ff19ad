package referrers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/referrers"
)

func TestWhatIsAttachedIsFoundAgainOnEveryRegistry(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			repo := serve(t, m.handler())
			subject := pushSubject(t, repo)
			store := referrers.InRepository(repo)
			add := attachments("a")
			descs, err := referrers.Attach(t.Context(), store, subject, add...)
			if err != nil {
				t.Fatal(err)
			}

			listing := list(t, store, subject, referrers.Limits{})
			if listing.Incomplete != nil {
				t.Errorf("incomplete: %v", listing.Incomplete)
			}
			got := read(t.Context(), listing)
			if len(got) != len(add) {
				t.Fatalf("%d candidates, want %d", len(got), len(add))
			}
			for i, c := range got {
				if c.Err != nil {
					t.Fatal(c.Err)
				}
				if !bytes.Equal(c.Bundle, add[i].Bundle) {
					t.Errorf("bundle %d is %q", i, c.Bundle)
				}
				if c.Descriptor.Digest != descs[i].Digest || c.Descriptor.Size != descs[i].Size {
					t.Errorf("Attach said %v, listed is %v", descs[i], c.Descriptor)
				}
				if c.PredicateType != add[i].PredicateType || c.ArtifactType != referrers.BundleType {
					t.Errorf("claims %q, %q", c.PredicateType, c.ArtifactType)
				}
				if want := time.Date(2026, 11, 22, 5, 17, 58, 0, time.UTC); !c.Created.Equal(want) {
					t.Errorf("created %v, want %v", c.Created, want)
				}
				wantSource := "referrers API"
				if !m.api {
					wantSource = "tag " + tagOf(subject)
				}
				if c.Source != wantSource {
					t.Errorf("source %q, want %q", c.Source, wantSource)
				}
			}
			if m.api && getTag(t, repo, subject) != nil {
				t.Error("a fallback tag was written on a registry that has the API")
			}
		})
	}
}

// The shape of facts/registries.md 1.1, byte for byte.
func TestTheReferrerHasCosignsShape(t *testing.T) {
	repo := serve(t, modes[0].handler())
	subject := pushSubject(t, repo)
	subject.Annotations = map[string]string{"not": "copied"}
	subject.ArtifactType = "not/copied"
	descs, err := referrers.Attach(t.Context(), referrers.InRepository(repo), subject, attachments("a")[0])
	if err != nil {
		t.Fatal(err)
	}
	rc, err := repo.Manifests().Fetch(t.Context(), descs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	var got bytes.Buffer
	if _, err := got.ReadFrom(rc); err != nil {
		t.Fatal(err)
	}
	want := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
		`"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"artifactType":"application/vnd.dev.sigstore.bundle.v0.3+json"},` +
		`"layers":[{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","digest":"` + digest.FromString(`{"sign":"a"}`).String() + `","size":12}],` +
		`"annotations":{"dev.sigstore.bundle.content":"dsse-envelope","dev.sigstore.bundle.predicateType":"https://sigstore.dev/cosign/sign/v1","org.opencontainers.image.created":"2026-11-22T05:17:58Z"},` +
		`"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + subject.Digest.String() + `","size":` + fmt.Sprint(subject.Size) + `},` +
		`"artifactType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`
	if got.String() != want {
		t.Errorf("manifest:\n%s\nwant:\n%s", &got, want)
	}
}

func TestOnARegistryWithTheAPIOneListingIsOneRequest(t *testing.T) {
	tap := &tap{next: modes[0].handler()}
	repo := serve(t, tap)
	subject := pushSubject(t, repo)
	store := referrers.InRepository(repo)
	tap.reset()
	start := time.Now()
	if _, err := referrers.Attach(t.Context(), store, subject, attachments("a")...); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > 200*time.Millisecond {
		t.Errorf("attaching took %v: it waits", d)
	}
	got := tap.requests()
	slices.Sort(got)
	want := []string{
		"GET manifest", "GET manifest", "GET referrers", "HEAD blob",
		"POST upload", "POST upload", "PUT manifest", "PUT manifest", "PUT upload", "PUT upload",
	}
	if !slices.Equal(got, want) {
		t.Errorf("requests %q, want %q", got, want)
	}
	tap.reset()
	if _, err := referrers.ListFirst(t.Context(), store, subject, approval, referrers.Limits{}); err != nil {
		t.Fatal(err)
	}
	if got := tap.requests(); !slices.Equal(got, []string{"GET referrers"}) {
		t.Errorf("listing made requests %q", got)
	}
}

// Rule 39: the second look comes later than a slow writer's round trip. The
// clock is synctest's, so the time is exact.
func TestTheSecondLookComesAfterASlowWriter(t *testing.T) {
	for _, tt := range []struct {
		name    string
		latency time.Duration // of each request
		watch   time.Duration // from a listing to the act; 0: nobody listed
		before  bool          // somebody else adds an entry between them
		other   bool          // somebody else adds an entry after our write
		least   time.Duration
	}{
		{"on a quiet registry", 0, 0, false, false, 200 * time.Millisecond},
		{"where others write", 0, 0, false, true, 250 * time.Millisecond},
		{"four times as late as our own read and write", 38 * time.Millisecond, 0, false, false, 4 * 76 * time.Millisecond},
		{"where nobody wrote for a while", 0, 250 * time.Millisecond, false, false, 60 * time.Millisecond},
		{"where nobody wrote for a moment", 0, 249 * time.Millisecond, false, false, 200 * time.Millisecond},
		{"where others wrote meanwhile", 0, time.Second, true, false, 250 * time.Millisecond},
		{"where others write after a quiet while", 0, time.Second, false, true, 250 * time.Millisecond},
		{"four times as late, though nobody wrote for a while", 38 * time.Millisecond, time.Second, false, false, 4 * 76 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := modes[2].handler()
				plain := repository(t, "registry.example.com", inProcess{handler: h})
				subject := pushSubject(t, plain)
				var looks []time.Time
				add := func() {
					index := struct {
						SchemaVersion int               `json:"schemaVersion"`
						MediaType     string            `json:"mediaType"`
						Manifests     []json.RawMessage `json:"manifests"`
					}{SchemaVersion: 2, MediaType: ocispec.MediaTypeImageIndex}
					if old := getTag(t, plain, subject); old != nil {
						if err := json.Unmarshal(old, &index); err != nil {
							t.Error(err)
						}
					}
					index.Manifests = append(index.Manifests, json.RawMessage(entry(ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString("other"), Size: 1}, "", "")))
					b, err := json.Marshal(index)
					if err != nil {
						t.Error(err)
					}
					pushManifest(t, plain, ocispec.MediaTypeImageIndex, string(b), tagOf(subject))
				}
				tap := &tap{next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if kind(r) == "GET tag" {
						looks = append(looks, time.Now())
					}
					h.ServeHTTP(w, r)
					if kind(r) == "PUT tag" && tt.other {
						add()
					}
				})}
				repo := repository(t, "registry.example.com", inProcess{handler: tap, latency: func(*http.Request) time.Duration { return tt.latency }})
				store := referrers.InRepository(repo)
				if tt.watch > 0 {
					list(t, store, subject, referrers.Limits{})
				}
				if tt.before {
					add()
				}
				// The manifests and blobs take their time before the index is read.
				time.Sleep(tt.watch)
				if _, err := referrers.Attach(t.Context(), store, subject, attachments("a")...); err != nil {
					t.Fatal(err)
				}
				n := len(looks)
				if n < 3 {
					t.Fatalf("%d reads of the index, want one before the write and two after", n)
				}
				// Jitter, and the request itself.
				if d, most := looks[n-1].Sub(looks[n-2]), tt.least+25*time.Millisecond+2*tt.latency; d < tt.least || d > most {
					t.Errorf("%v between the looks, want %v to %v", d, tt.least, most)
				}
			})
		})
	}
}

func TestBothReferrersOfAnActEnterTheIndexInOneUpdate(t *testing.T) { // rule 39
	tap := &tap{next: modes[2].handler()}
	repo := serve(t, tap)
	subject := pushSubject(t, repo)
	tap.reset()
	if _, err := referrers.Attach(t.Context(), referrers.InRepository(repo), subject, attachments("a")...); err != nil {
		t.Fatal(err)
	}
	puts := 0
	for _, r := range tap.requests() {
		if r == "PUT tag" {
			puts++
		}
		if strings.HasPrefix(r, "DELETE") {
			t.Error("something was deleted")
		}
	}
	if puts != 1 {
		t.Errorf("the tag was written %d times", puts)
	}
}

func TestAttachRefusesWhatWouldNotBeReadAgain(t *testing.T) {
	tap := &tap{next: modes[0].handler()}
	repo := serve(t, tap)
	subject := pushSubject(t, repo)
	good := attachments("a")[0]
	with := func(edit func(*referrers.Attachment)) []referrers.Attachment {
		a := good
		edit(&a)
		return []referrers.Attachment{good, a}
	}
	tap.reset()
	for _, tt := range []struct {
		name    string
		subject ocispec.Descriptor
		add     []referrers.Attachment
	}{
		{"nothing to attach", subject, nil},
		{"an empty bundle", subject, with(func(a *referrers.Attachment) { a.Bundle = nil })},
		{"no predicate type", subject, with(func(a *referrers.Attachment) { a.PredicateType = "" })},
		{"an artifact signature over 8 MiB", subject, with(func(a *referrers.Attachment) { a.Bundle = make([]byte, 8<<20+1) })},
		{"a model signature over 64 MiB", subject, with(func(a *referrers.Attachment) {
			a.PredicateType = modelType
			a.Bundle = make([]byte, 64<<20+1)
		})},
		{"a manifest over 64 KiB", subject, with(func(a *referrers.Attachment) { a.PredicateType = strings.Repeat("x", 64<<10) })},
		{"no subject", ocispec.Descriptor{}, with(func(*referrers.Attachment) {})},
		{"a subject without size", ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest}, with(func(*referrers.Attachment) {})},
		{"a subject by sha512 (rule 31)", ocispec.Descriptor{MediaType: subject.MediaType, Digest: digest.SHA512.FromString("x"), Size: 1}, with(func(*referrers.Attachment) {})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := referrers.Attach(t.Context(), referrers.InRepository(repo), tt.subject, tt.add...); !errors.Is(err, referrers.ErrNotAttached) {
				t.Errorf("error %v, want ErrNotAttached", err)
			}
		})
	}
	if got := tap.requests(); len(got) > 0 {
		t.Errorf("requests were made: %q", got)
	}
}

// Whatever fails, an act that is not read back is an error, and its text is
// safe to print.
func TestAttachFailsWhenAStepFails(t *testing.T) {
	faults := map[string]func(w http.ResponseWriter){
		"401": func(w http.ResponseWriter) {
			answer(w, 401, "application/json", `{"errors":[{"code":"UNAUTHORIZED"}]}`)
		},
		"403": func(w http.ResponseWriter) { answer(w, 403, "application/json", `{"errors":[{"code":"DENIED"}]}`) },
		"429": func(w http.ResponseWriter) { answer(w, 429, "text/plain", "slow down") },
		"500": func(w http.ResponseWriter) {
			answer(w, 500, "text/html", "<h1>\x1b[31m oops \u202e</h1>"+strings.Repeat("x", 10_000))
		},
		"HTML": func(w http.ResponseWriter) { answer(w, 200, "text/html", "<h1>log in</h1>") },
		"cut":  func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	}
	steps := []struct {
		request string
		mode    mode
	}{
		{"POST upload", modes[0]},
		{"PUT upload", modes[0]},
		{"PUT manifest", modes[0]},
		{"GET manifest", modes[0]},
		{"GET tag", modes[2]},
		{"PUT tag", modes[2]},
	}
	for _, step := range steps {
		for name, fault := range faults {
			t.Run(step.request+" "+name, func(t *testing.T) {
				t.Parallel()
				var broken atomic.Bool
				tap := &tap{next: step.mode.handler()}
				tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
					if broken.Load() && kind(r) == step.request {
						fault(w)
						return true
					}
					return false
				}
				repo := serve(t, tap)
				subject := pushSubject(t, repo)
				broken.Store(true)
				_, err := referrers.Attach(t.Context(), referrers.InRepository(repo), subject, attachments("a")...)
				if !errors.Is(err, referrers.ErrNotAttached) {
					t.Fatalf("error %v, want ErrNotAttached", err)
				}
				if strings.ContainsAny(err.Error(), "\x1b\u202e\n") || len(err.Error()) > 1200 { // rules 26, 36
					t.Errorf("error is not safe to print: %q", err)
				}
			})
		}
	}
}

// A registry whose API cannot be used keeps signatures in the fallback tag, and
// they are found there: GHCR redirects to a page that answers 429.
func TestAttachUsesTheTagWhereTheAPICannotBeUsed(t *testing.T) {
	for name, fault := range apiFaults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tap := &tap{next: modes[2].handler()}
			tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
				if kind(r) != "GET referrers" {
					return false
				}
				return fault(w, r)
			}
			repo := serve(t, tap)
			subject := pushSubject(t, repo)
			store := referrers.InRepository(repo)
			if _, err := referrers.Attach(t.Context(), store, subject, attachments("a")...); err != nil {
				t.Fatal(err)
			}
			listing := list(t, store, subject, referrers.Limits{})
			if len(listing.Referrers) != 2 {
				t.Errorf("%d referrers are listed, want 2", len(listing.Referrers))
			}
		})
	}
}

func TestAttachWaitsForAnAPIThatListsLate(t *testing.T) {
	for _, tt := range []struct {
		name  string
		late  time.Duration
		other bool // the API lists another referrer from the start
		tag   bool // the tag is written
		ok    bool
	}{
		{name: "a second late", late: time.Second, other: true, ok: true},
		{name: "never, and it lists another", late: time.Hour, other: true},
		{name: "never, and it lists nothing at all", late: time.Hour, tag: true, ok: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				tap := &tap{next: modes[0].handler()}
				tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
					if kind(r) != "GET referrers" || time.Since(start) > tt.late {
						return false
					}
					body := indexOf()
					if tt.other {
						body = indexOf(entry(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("other"), Size: 5}, "", ""))
					}
					answer(w, 200, ocispec.MediaTypeImageIndex, body)
					return true
				}
				repo := repository(t, "registry.example.com", inProcess{handler: tap})
				subject := pushSubject(t, repo)
				store := referrers.InRepository(repo)
				_, err := referrers.Attach(t.Context(), store, subject, attachments("a")...)
				if ok := err == nil; ok != tt.ok {
					t.Errorf("error %v", err)
				}
				if err != nil && !errors.Is(err, referrers.ErrNotAttached) {
					t.Errorf("error %v, want ErrNotAttached", err)
				}
				if took := time.Since(start); took > 5*time.Second {
					t.Errorf("it took %v", took)
				}
				if tag := getTag(t, repo, subject) != nil; tag != tt.tag {
					t.Errorf("tag written: %v, want %v", tag, tt.tag)
				}
				if tt.ok && len(list(t, store, subject, referrers.Limits{}).Referrers) < 2 {
					t.Error("the referrers are not listed")
				}
			})
		})
	}
}

// Rule 33: what others wrote stays as it is, byte for byte and in order.
func TestForeignEntriesAreKeptByteForByte(t *testing.T) {
	foreign := `{"size": 17,"mediaType":"application/vnd.oci.image.manifest.v1+json" , "digest":"` + digest.FromString("f").String() + `","x":{"\u00e9":1.50e+3}}`
	junk := `{ "no descriptor" : [ ] }`
	before := "\n {\t\"annotations\": {\"a\":\"<b>\\u003c\"}, \"manifests\" : [ " + foreign + " ,\n" + junk + " ]\n,\"schemaVersion\": 2 , \"unknown\":null } \n"
	for _, tt := range []struct{ name, before, head, tail string }{
		{"an index with odd white space", before, before[:strings.Index(before, "]\n,")], before[strings.Index(before, "]\n,"):]},
		{"an empty index", `{"manifests":[  ],"schemaVersion":2}`, `{"manifests":[`, `],"schemaVersion":2}`},
		{"an index with null", `{"manifests":null,"schemaVersion":2}`, `{"manifests":[`, `],"schemaVersion":2}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			repo := serve(t, modes[2].handler())
			subject := pushSubject(t, repo)
			pushManifest(t, repo, ocispec.MediaTypeImageIndex, tt.before, tagOf(subject))
			store := referrers.InRepository(repo)
			if _, err := referrers.Attach(t.Context(), store, subject, attachments("a")...); err != nil {
				t.Fatal(err)
			}
			after := string(getTag(t, repo, subject))
			if !strings.HasPrefix(after, tt.head) || !strings.HasSuffix(after, tt.tail) {
				t.Errorf("index after:\n%s\nbefore:\n%s", after, tt.before)
			}
			if n := strings.Count(after, referrers.BundleType); n != 2 {
				t.Errorf("%d entries were added", n)
			}
		})
	}
}

// An index that cannot be read whole is never written (rule 33, threat I09).
func TestATagThatIsNoIndexIsNotOverwritten(t *testing.T) {
	for _, tt := range tagGarbage {
		t.Run(tt.name, func(t *testing.T) {
			tap := &tap{next: modes[2].handler()}
			tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
				if kind(r) == "GET tag" {
					answer(w, 200, tt.contentType, tt.body)
					return true
				}
				return false
			}
			repo := serve(t, tap)
			subject := pushSubject(t, repo)
			_, err := referrers.Attach(t.Context(), referrers.InRepository(repo), subject, attachments("a")...)
			if !errors.Is(err, referrers.ErrNotAttached) {
				t.Errorf("error %v, want ErrNotAttached", err)
			}
			if slices.Contains(tap.requests(), "PUT tag") {
				t.Error("the tag was written")
			}
		})
	}
}

func TestAnIndexIsNotGrownBeyondWhatIsRead(t *testing.T) {
	var entries []string
	for i := range 9_999 {
		entries = append(entries, entry(ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString(fmt.Sprint(i)), Size: 1}, "", ""))
	}
	repo := serve(t, modes[2].handler())
	subject := pushSubject(t, repo)
	pushManifest(t, repo, ocispec.MediaTypeImageIndex, indexOf(entries...), tagOf(subject))
	store := referrers.InRepository(repo)
	if _, err := referrers.Attach(t.Context(), store, subject, attachments("a")...); !errors.Is(err, referrers.ErrNotAttached) {
		t.Errorf("two entries more: error %v, want ErrNotAttached", err)
	}
	if _, err := referrers.Attach(t.Context(), store, subject, attachments("a")[0]); err != nil {
		t.Errorf("one entry more: %v", err)
	}
}

func TestAttachEndsWithItsContext(t *testing.T) {
	for _, step := range []string{"POST upload", "PUT manifest", "GET referrers", "GET tag", "PUT tag"} {
		t.Run(step, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				armed := false
				tap := &tap{next: modes[2].handler()}
				tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
					if !armed || kind(r) != step {
						return false
					}
					<-r.Context().Done()
					return true
				}
				repo := repository(t, "registry.example.com", inProcess{handler: tap})
				subject := pushSubject(t, repo)
				armed = true
				_, err := referrers.Attach(ctx, referrers.InRepository(repo), subject, attachments("a")...)
				if !errors.Is(err, referrers.ErrNotAttached) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error %v, want ErrNotAttached and DeadlineExceeded", err)
				}
			})
		})
	}
}
