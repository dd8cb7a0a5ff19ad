package referrers_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/referrers"
)

// apiFaults are answers to the referrers request that tell nothing.
var apiFaults = map[string]func(w http.ResponseWriter, r *http.Request) bool{
	"429": func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "60")
		answer(w, 429, "text/plain", "slow down")
		return true
	},
	"401": func(w http.ResponseWriter, _ *http.Request) bool { answer(w, 401, "text/plain", ""); return true },
	"403": func(w http.ResponseWriter, _ *http.Request) bool { answer(w, 403, "text/plain", ""); return true },
	"400": func(w http.ResponseWriter, _ *http.Request) bool { answer(w, 400, "text/plain", ""); return true },
	"500": func(w http.ResponseWriter, _ *http.Request) bool { answer(w, 500, "text/plain", ""); return true },
	"303 to a page": func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("page") != "" {
			answer(w, 200, "text/html; charset=utf-8", "<h1>packages</h1>")
			return true
		}
		http.Redirect(w, r, r.URL.Path+"?page=html", http.StatusSeeOther)
		return true
	},
	"HTML": func(w http.ResponseWriter, _ *http.Request) bool {
		answer(w, 200, "text/html", "<h1>log in</h1>")
		return true
	},
	"no content type": func(w http.ResponseWriter, _ *http.Request) bool { answer(w, 200, "", indexOf()); return true },
	"plain JSON": func(w http.ResponseWriter, _ *http.Request) bool {
		answer(w, 200, "application/json", indexOf())
		return true
	},
	"nothing": func(w http.ResponseWriter, _ *http.Request) bool {
		answer(w, 200, ocispec.MediaTypeImageIndex, "")
		return true
	},
	"204": func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(204); return true },
	"bad JSON": func(w http.ResponseWriter, _ *http.Request) bool {
		answer(w, 200, ocispec.MediaTypeImageIndex, `{"manifests":}`)
		return true
	},
	"no index": func(w http.ResponseWriter, _ *http.Request) bool {
		answer(w, 200, ocispec.MediaTypeImageIndex, `{"schemaVersion":2}`)
		return true
	},
	"a manifest": func(w http.ResponseWriter, _ *http.Request) bool {
		answer(w, 200, ocispec.MediaTypeImageIndex, subjectJSON)
		return true
	},
	"trailing data": func(w http.ResponseWriter, _ *http.Request) bool {
		answer(w, 200, ocispec.MediaTypeImageIndex, indexOf()+"{}")
		return true
	},
	"a duplicate name": func(w http.ResponseWriter, _ *http.Request) bool {
		answer(w, 200, ocispec.MediaTypeImageIndex, `{"manifests":[],"manifests":[]}`)
		return true
	},
	"a name in other case": func(w http.ResponseWriter, _ *http.Request) bool {
		answer(w, 200, ocispec.MediaTypeImageIndex, `{"manifests":[],"Manifests":[]}`)
		return true
	},
	"schema 1": func(w http.ResponseWriter, _ *http.Request) bool {
		answer(w, 200, ocispec.MediaTypeImageIndex, `{"schemaVersion":1,"manifests":[]}`)
		return true
	},
	"too long": func(w http.ResponseWriter, _ *http.Request) bool {
		answer(w, 200, ocispec.MediaTypeImageIndex, indexOf()+strings.Repeat(" ", 8<<20))
		return true
	},
	"cut short": func(w http.ResponseWriter, _ *http.Request) bool {
		body := indexOf()
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		answer(w, 200, ocispec.MediaTypeImageIndex, body[:len(body)-1])
		panic(http.ErrAbortHandler)
	},
	"a link to another origin": func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Link", `<http://169.254.169.254/latest>; rel="next"`)
		answer(w, 200, ocispec.MediaTypeImageIndex, indexOf())
		return true
	},
	"a link in a loop": func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Link", `<`+r.URL.Path+`?n=1>; rel="next"`)
		answer(w, 200, ocispec.MediaTypeImageIndex, indexOf())
		return true
	},
	"links without end": func(w http.ResponseWriter, r *http.Request) bool {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		w.Header().Set("Link", fmt.Sprintf(`<?n=%d>; rel="next"`, n+1))
		answer(w, 200, ocispec.MediaTypeImageIndex, indexOf())
		return true
	},
	"a malformed link": func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Link", `</v2/`)
		answer(w, 200, ocispec.MediaTypeImageIndex, indexOf())
		return true
	},
	"an aborted connection": func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) },
}

var tagGarbage = []struct{ name, contentType, body string }{
	{"the subject itself", ocispec.MediaTypeImageManifest, subjectJSON},
	{"the subject, called an index", ocispec.MediaTypeImageIndex, subjectJSON},
	{"an image manifest", ocispec.MediaTypeImageManifest, `{"schemaVersion":2,"layers":[]}`},
	{"a Docker list", "application/vnd.docker.distribution.manifest.list.v2+json", `{"schemaVersion":2,"manifests":[]}`},
	{"HTML", "text/html", "<h1>log in</h1>"},
	{"nothing", ocispec.MediaTypeImageIndex, ""},
	{"a cut index", ocispec.MediaTypeImageIndex, indexOf()[:40]},
	{"a duplicate name", ocispec.MediaTypeImageIndex, `{"manifests":[{"digest":"a","digest":"b"}]}`},
	{"an index over 8 MiB", ocispec.MediaTypeImageIndex, indexOf() + strings.Repeat(" ", 8<<20)},
}

// Invariant 8, rule 38: unread is "could not tell", never "unsigned".
func TestASourceThatCannotBeReadMakesTheListingIncomplete(t *testing.T) {
	for name, fault := range apiFaults {
		t.Run("API: "+name, func(t *testing.T) {
			t.Parallel()
			tap := &tap{next: modes[2].handler()}
			tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
				return kind(r) == "GET referrers" && fault(w, r)
			}
			repo := serve(t, tap)
			subject := pushSubject(t, repo)
			listing := list(t, referrers.InRepository(repo), subject, referrers.Limits{})
			if listing.Incomplete == nil {
				t.Error("the listing is complete")
			} else if !strings.Contains(listing.Incomplete.Error(), "referrers API") {
				t.Errorf("the error does not name the source: %v", listing.Incomplete)
			}
			if !slices.Contains(tap.requests(), "GET tag") {
				t.Error("the fallback tag was not read")
			}
			if len(tap.requests()) > 300 {
				t.Errorf("%d requests", len(tap.requests()))
			}
		})
	}
	for _, tt := range tagGarbage {
		t.Run("tag: "+tt.name, func(t *testing.T) {
			t.Parallel()
			tap := &tap{next: modes[2].handler()}
			tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
				if kind(r) != "GET tag" {
					return false
				}
				answer(w, 200, tt.contentType, tt.body)
				return true
			}
			repo := serve(t, tap)
			subject := pushSubject(t, repo)
			listing := list(t, referrers.InRepository(repo), subject, referrers.Limits{})
			if listing.Incomplete == nil {
				t.Error("the listing is complete")
			}
			if len(listing.Referrers) > 0 {
				t.Errorf("%d referrers", len(listing.Referrers))
			}
		})
	}
	for _, code := range []int{400, 401, 403, 405, 410, 429, 500, 503} {
		t.Run("tag: "+strconv.Itoa(code), func(t *testing.T) {
			t.Parallel()
			tap := &tap{next: modes[2].handler()}
			tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
				if kind(r) != "GET tag" {
					return false
				}
				answer(w, code, "text/plain", "no")
				return true
			}
			repo := serve(t, tap)
			subject := pushSubject(t, repo)
			if listing := list(t, referrers.InRepository(repo), subject, referrers.Limits{}); listing.Incomplete == nil {
				t.Error("the listing is complete")
			}
		})
	}
}

func TestNothingAttachedIsKnownForCertain(t *testing.T) {
	apiAnswers := map[string]func(w http.ResponseWriter){
		"404":         func(w http.ResponseWriter) { answer(w, 404, "text/plain", "404 page not found") },
		"404 as HTML": func(w http.ResponseWriter) { answer(w, 404, "text/html", "<h1>not found</h1>") },
		"404 unknown name": func(w http.ResponseWriter) {
			answer(w, 404, "application/json", `{"errors":[{"code":"NAME_UNKNOWN"}]}`)
		},
		"405":                 func(w http.ResponseWriter) { answer(w, 405, "text/plain", "") },
		"empty":               func(w http.ResponseWriter) { answer(w, 200, ocispec.MediaTypeImageIndex, indexOf()) },
		"empty, null":         func(w http.ResponseWriter) { answer(w, 200, ocispec.MediaTypeImageIndex, `{"manifests":null}`) },
		"empty, with charset": func(w http.ResponseWriter) { answer(w, 200, ocispec.MediaTypeImageIndex+"; charset=utf-8", indexOf()) },
		"a link to the first": func(w http.ResponseWriter) {
			w.Header().Add("Link", `<http://example.com/docs>; rel="help", </first>; rel="first"; title="a, b"`)
			answer(w, 200, ocispec.MediaTypeImageIndex, indexOf())
		},
	}
	for name, api := range apiAnswers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tap := &tap{next: modes[2].handler()}
			tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
				if kind(r) != "GET referrers" {
					return false
				}
				api(w)
				return true
			}
			repo := serve(t, tap)
			subject := pushSubject(t, repo)
			listing := list(t, referrers.InRepository(repo), subject, referrers.Limits{})
			if listing.Incomplete != nil {
				t.Errorf("incomplete: %v", listing.Incomplete)
			}
			if len(listing.Referrers) != 0 {
				t.Errorf("%d referrers", len(listing.Referrers))
			}
		})
	}
}

// Some registries keep referrers in the tag and answer an empty list.
// Neither an empty answer of the API nor what it lists of others hides what
// lies under the tag.
func TestAnAPIWithoutBundlesIsJoinedWithTheTag(t *testing.T) {
	sbom := entry(ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString("sbom"), Size: 1}, "application/spdx+json", "")
	for name, tt := range map[string]struct {
		listed string
		want   int
	}{
		"an empty list": {indexOf(), 1},
		"an SBOM":       {indexOf(sbom), 2},
	} {
		t.Run(name, func(t *testing.T) {
			tap := &tap{next: modes[0].handler()}
			tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
				if kind(r) != "GET referrers" {
					return false
				}
				answer(w, 200, ocispec.MediaTypeImageIndex, tt.listed)
				return true
			}
			repo := serve(t, tap)
			subject := pushSubject(t, repo)
			pushManifest(t, repo, ocispec.MediaTypeImageIndex, indexOf(entry(ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString("x"), Size: 1}, "", "")), tagOf(subject))
			listing := list(t, referrers.InRepository(repo), subject, referrers.Limits{})
			if len(listing.Referrers) != tt.want || listing.Incomplete != nil {
				t.Errorf("%d referrers, incomplete %v", len(listing.Referrers), listing.Incomplete)
			}
		})
	}
}

func TestAListThatIsCutStillNamesWhatCameBefore(t *testing.T) {
	a := entry(ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString("a"), Size: 1}, "", "")
	b := entry(ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString("b"), Size: 1}, "", "")
	whole := indexOf(a, b)
	for cut := range len(whole) {
		tap := &tap{next: modes[2].handler()}
		tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if kind(r) != "GET referrers" {
				return false
			}
			answer(w, 200, ocispec.MediaTypeImageIndex, whole[:cut])
			return true
		}
		repo := repository(t, "registry.example.com", inProcess{handler: tap})
		listing := list(t, referrers.InRepository(repo), ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString("s"), Size: 1}, referrers.Limits{})
		if listing.Incomplete == nil {
			t.Errorf("cut at %d: the listing is complete", cut)
		}
		if want := strings.Count(whole[:cut], "}") - strings.Count(whole[:cut], "]}"); len(listing.Referrers) != want {
			t.Errorf("cut at %d: %d referrers, want %d", cut, len(listing.Referrers), want)
		}
	}
}

// paged answers the referrers request in pages of size entries.
func paged(entries []string, size int, link func(next int) string) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if kind(r) != "GET referrers" {
			return false
		}
		from, _ := strconv.Atoi(r.URL.Query().Get("last"))
		to := min(from+size, len(entries))
		if to < len(entries) {
			w.Header().Set("Link", link(to))
		}
		answer(w, 200, ocispec.MediaTypeImageIndex, indexOf(entries[from:to]...))
		return true
	}
}

func TestAllPagesAreRead(t *testing.T) {
	var entries []string
	for i := range 25 {
		entries = append(entries, entry(ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString(fmt.Sprint(i)), Size: 1}, "", ""))
	}
	links := map[string]func(next int) string{
		"relative":         func(n int) string { return fmt.Sprintf(`<?last=%d>; rel="next"`, n) },
		"without quotes":   func(n int) string { return fmt.Sprintf(`<?last=%d>;rel=next`, n) },
		"without relation": func(n int) string { return fmt.Sprintf(`<?last=%d>`, n) },
		"after another link": func(n int) string {
			return fmt.Sprintf(`<?last=0>; rel="first"; title="x, y", <?last=%d>; rel="last next"`, n)
		},
		"with the host in upper case": nil,
	}
	for name, link := range links {
		t.Run(name, func(t *testing.T) {
			tap := &tap{next: modes[2].handler()}
			repo := repository(t, "registry.example.com", inProcess{handler: tap})
			if link == nil {
				link = func(n int) string {
					return fmt.Sprintf(`<http://REGISTRY.example.com:80/v2/%s/referrers/x?last=%d>; rel="next"`, repoName, n)
				}
			}
			tap.fault = paged(entries, 10, link)
			listing := list(t, referrers.InRepository(repo), ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString("s"), Size: 1}, referrers.Limits{})
			if len(listing.Referrers) != len(entries) || listing.Incomplete != nil {
				t.Errorf("%d referrers, incomplete %v", len(listing.Referrers), listing.Incomplete)
			}
			if n := len(tap.requests()); n != 3 {
				t.Errorf("%d requests, want 3", n)
			}
		})
	}
}

func TestTheLimitsOfAListHoldForAllItsPages(t *testing.T) {
	var entries []string
	for i := range 25 {
		entries = append(entries, entry(ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString(fmt.Sprint(i)), Size: 1}, "", ""))
	}
	page := int64(len(indexOf(entries[:10]...)))
	for _, tt := range []struct {
		name   string
		limits referrers.Limits
		want   int
		flag   bool
	}{
		{"entries", referrers.Limits{Entries: 14}, 14, true},
		{"bytes", referrers.Limits{ListBytes: 2 * page}, 20, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tap := &tap{next: modes[2].handler(), fault: paged(entries, 10, func(n int) string { return fmt.Sprintf(`<?last=%d>`, n) })}
			repo := repository(t, "registry.example.com", inProcess{handler: tap})
			listing := list(t, referrers.InRepository(repo), ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString("s"), Size: 1}, tt.limits)
			if listing.Incomplete == nil {
				t.Fatal("the listing is complete")
			}
			if got := strings.Contains(listing.Incomplete.Error(), "--max-referrers"); got != tt.flag {
				t.Errorf("names the flag: %v: %v", got, listing.Incomplete)
			}
			if len(listing.Referrers) != tt.want {
				t.Errorf("%d referrers, want %d", len(listing.Referrers), tt.want)
			}
		})
	}
}

func TestTheListingIsInTheOrderOfReading(t *testing.T) {
	desc := func(s string, size int64) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(s), Size: size}
	}
	entries := []string{
		entry(desc("sbom", 1), "application/spdx+json", ""),
		`{"digest":"../../etc/passwd"}`,
		entry(desc("no type", 6), "", ""),
		entry(desc("no size", 0), referrers.BundleType, ""),
		entry(desc("bundle", 9), referrers.BundleType, "https://slsa.dev/provenance/v1"),
		entry(desc("empty type", 5), ocispec.MediaTypeEmptyJSON, ""),
		entry(desc("large approval", 20), referrers.BundleType, modelType),
		entry(desc("twice", 2), "application/spdx+json", ""),
		entry(desc("approval", 10), referrers.BundleType, signType),
		entry(desc("twice", 11), referrers.BundleType, signType),
		`"no descriptor"`,
	}
	want := []digest.Digest{
		desc("approval", 0).Digest, desc("twice", 0).Digest, desc("large approval", 0).Digest,
		desc("empty type", 0).Digest, desc("no type", 0).Digest, desc("bundle", 0).Digest, desc("no size", 0).Digest,
		desc("sbom", 0).Digest,
		"", "../../etc/passwd",
	}
	for turn := range len(entries) {
		turned := slices.Concat(entries[turn:], entries[:turn])
		tap := &tap{next: modes[2].handler(), fault: paged(turned, 100, nil)}
		repo := repository(t, "registry.example.com", inProcess{handler: tap})
		listing := list(t, referrers.InRepository(repo), ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString("s"), Size: 1}, referrers.Limits{})
		var got []digest.Digest
		for _, r := range listing.Referrers {
			got = append(got, r.Descriptor.Digest)
			if !slices.Contains(turned, string(r.Raw)) {
				t.Errorf("entry %s is not as listed", r.Raw)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("turned by %d: order\n%q, want\n%q", turn, got, want)
		}
	}
}

func TestListEndsWithItsContext(t *testing.T) { // rule 37
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		hang := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		repo := repository(t, "registry.example.com", inProcess{handler: hang})
		subject := ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString("s"), Size: 1}
		if _, err := referrers.List(ctx, referrers.InRepository(repo), subject, nil, referrers.Limits{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want DeadlineExceeded", err)
		}
	})
}

func TestListRefusesASubjectThatCannotBeOne(t *testing.T) {
	for _, d := range []digest.Digest{"", "sha256", "sha256:00", digest.SHA512.FromString("x"), "sha256:" + digest.Digest(strings.Repeat("A", 64)), "../x"} {
		subject := ocispec.Descriptor{MediaType: "a/b", Digest: d, Size: 1}
		if _, err := referrers.List(t.Context(), nil, subject, nil, referrers.Limits{}); err == nil {
			t.Errorf("digest %q is accepted", d)
		}
	}
}

// A registry got the API after clients had written the tag: what the API lists
// hides nothing that lies under the tag, and whoever has enough does not ask.
func TestWhatTheAPIListsDoesNotHideTheTag(t *testing.T) { // invariant 7
	tap := &tap{next: modes[0].handler()}
	repo := serve(t, tap)
	subject := pushSubject(t, repo)
	store := referrers.InRepository(repo)
	if _, err := referrers.Attach(t.Context(), store, subject, attachments("stranger")...); err != nil {
		t.Fatal(err)
	}
	old := entry(ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString("old"), Size: 1}, referrers.BundleType, "")
	both := list(t, store, subject, referrers.Limits{}).Referrers[0]
	pushManifest(t, repo, ocispec.MediaTypeImageIndex, indexOf(old, string(both.Raw)), tagOf(subject))

	first, err := referrers.ListFirst(t.Context(), store, subject, approval, referrers.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if len(first.Referrers) != 2 {
		t.Errorf("first: %+v", first.Referrers)
	}
	rest, err := first.Rest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(rest.Referrers) != 1 || rest.Referrers[0].Descriptor.Digest != digest.FromString("old") || rest.Incomplete != nil {
		t.Errorf("rest: %+v, %v", rest.Referrers, rest.Incomplete)
	}
	listAll := func() *referrers.Listing {
		all, err := referrers.List(t.Context(), store, subject, approval, referrers.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if all := listAll(); len(all.Referrers) != 3 || all.Incomplete != nil {
		t.Errorf("all: %+v", all)
	}
	// Where the tag cannot be read, that is known.
	tap.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if kind(r) != "GET tag" {
			return false
		}
		answer(w, 500, "text/plain", "x")
		return true
	}
	if rest, err := first.Rest(t.Context()); err != nil || rest.Incomplete == nil {
		t.Errorf("the rest is %+v, %v", rest, err)
	}
	if listAll().Incomplete == nil {
		t.Error("the list is whole")
	}
}
