package referrers_test

import (
	"context"
	"encoding/base64"
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
	"oras.land/oras-go/v2/registry/remote"

	"github.com/modelsig/modelsig/referrers"
)

var readSubject = ocispec.Descriptor{
	MediaType: ocispec.MediaTypeImageManifest,
	Digest:    digest.FromString("subject"),
	Size:      7,
}

const bundleJSON = `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`

// goodManifest is what the refusals below are one edit away from. It is as
// others write it: with inlined config, without the config's artifactType.
func goodManifest() string {
	return `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
		`"artifactType":"application/vnd.dev.sigstore.bundle.v0.3+json",` +
		`"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"data":"e30="},` +
		`"layers":[{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","digest":"` + digest.FromString(bundleJSON).String() + `","size":` + strconv.Itoa(len(bundleJSON)) + `}],` +
		`"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + readSubject.Digest.String() + `","size":7},` +
		`"annotations":{"dev.sigstore.bundle.content":"dsse-envelope","dev.sigstore.bundle.predicateType":"https://sigstore.dev/cosign/sign/v1"}}`
}

// A shelf is a registry that lists and serves exactly what it is told.
type shelf struct {
	entries []string
	content map[string]string // by digest
	fault   func(w http.ResponseWriter, r *http.Request) bool
	got     []string // digests that were asked for
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.fault != nil && s.fault(w, r) {
		return
	}
	if kind(r) == "GET referrers" {
		answer(w, 200, ocispec.MediaTypeImageIndex, indexOf(s.entries...))
		return
	}
	d := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	s.got = append(s.got, d)
	body, ok := s.content[d]
	if !ok {
		http.NotFound(w, r)
		return
	}
	answer(w, 200, "application/octet-stream", body)
}

// put lists a manifest and serves it.
func (s *shelf) put(manifest string) digest.Digest {
	d := digest.FromString(manifest)
	s.entries = append(s.entries, entry(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(manifest))}, referrers.BundleType, signType))
	s.content[d.String()] = manifest
	return d
}

func newShelf() *shelf {
	return &shelf{content: map[string]string{digest.FromString(bundleJSON).String(): bundleJSON}}
}

func (s *shelf) repo(t testing.TB) *remote.Repository {
	return repository(t, "registry.example.com", inProcess{handler: s})
}

func (s *shelf) read(t testing.TB, l referrers.Limits) []referrers.Candidate {
	t.Helper()
	listing := list(t, referrers.InRepository(s.repo(t)), readSubject, l)
	if listing.Incomplete != nil {
		t.Fatalf("incomplete: %v", listing.Incomplete)
	}
	return read(t.Context(), listing)
}

func TestAReferrerThatIsWrongInOneWayIsNotABundle(t *testing.T) {
	replace := func(from, to string) func(string) string {
		return func(m string) string {
			if !strings.Contains(m, from) {
				panic("the good manifest lacks " + from)
			}
			return strings.Replace(m, from, to, 1)
		}
	}
	bundleLayer := `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","digest":"` + digest.FromString(bundleJSON).String() + `","size":` + strconv.Itoa(len(bundleJSON)) + `}`
	inlined := func(data string) func(string) string {
		return replace(bundleLayer, strings.TrimSuffix(bundleLayer, "}")+`,"data":"`+base64.StdEncoding.EncodeToString([]byte(data))+`"}`)
	}
	for _, tt := range []struct {
		name string
		edit func(string) string
		want error
	}{
		{"nothing is wrong", func(m string) string { return m }, nil},
		{"no media type (M09)", replace(`"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType"`, `"artifactType"`), nil},
		{"an unknown member", replace(`{"schemaVersion":2`, `{"x":[{}],"schemaVersion":2`), nil},
		{"annotations with names like ours", replace(`"annotations":{`, `"annotations":{"Digest":"x","SIZE":"y",`), nil},
		{"the artifact type of the config only", replace(`"artifactType":"application/vnd.dev.sigstore.bundle.v0.3+json",`, ""), nil},
		{"another artifact type, but a bundle inside (I07)", replace(`"artifactType":"application/vnd.dev.sigstore.bundle.v0.3+json"`, `"artifactType":"a/b"`), nil},
		{"an older bundle media type", replace(bundleLayer, strings.Replace(bundleLayer, "bundle.v0.3+json", `bundle+json;version=0.3`, 1)), nil},
		{"an inlined bundle", inlined(bundleJSON), nil},

		{"another subject (I06)", replace(readSubject.Digest.String(), digest.FromString("other").String()), referrers.ErrMalformed},
		{"a subject of another size", replace(`"size":7`, `"size":8`), referrers.ErrMalformed},
		{"a subject of another media type", replace(`"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json"`, `"subject":{"mediaType":"application/vnd.oci.image.index.v1+json"`), referrers.ErrMalformed},
		{"no subject", replace(`"subject"`, `"no subject"`), referrers.ErrMalformed},
		{"a null subject", replace(`"subject":{`, `"subject":null,"x":{`), referrers.ErrMalformed},
		{"two layers (I11)", replace(bundleLayer, bundleLayer+","+bundleLayer), referrers.ErrMalformed},
		{"no layers", replace(bundleLayer, ""), referrers.ErrMalformed},
		{"a layer that is no bundle (I11)", replace(bundleLayer, strings.Replace(bundleLayer, "vnd.dev.sigstore.bundle", "vnd.x", 1)), referrers.ErrMalformed},
		{"an index", replace(`"application/vnd.oci.image.manifest.v1+json","artifactType"`, `"application/vnd.oci.image.index.v1+json","artifactType"`), referrers.ErrMalformed},
		{"a layer by sha512 (rule 31)", replace(digest.FromString(bundleJSON).String(), digest.SHA512.FromString(bundleJSON).String()), referrers.ErrMalformed},
		{"a layer with a path for a digest (M01)", replace(digest.FromString(bundleJSON).String(), "../../x"), referrers.ErrMalformed},
		{"a layer of negative size (M03)", replace(`"size":61`, `"size":-61`), referrers.ErrMalformed},
		{"an empty layer", replace(`"size":61`, `"size":0`), referrers.ErrMalformed},
		{"a size that is a string", replace(`"size":61`, `"size":"61"`), referrers.ErrMalformed},
		{"a layer smaller than its bytes (M03)", replace(`"size":61`, `"size":60`), referrers.ErrUnread},
		{"a layer larger than its bytes (M03)", replace(`"size":61`, `"size":62`), referrers.ErrMalformed},
		{"inlined bytes of another bundle (M04)", inlined(strings.Replace(bundleJSON, "3", "4", 1)), referrers.ErrMalformed},
		{"inlined bytes and more (M04)", inlined(bundleJSON + " "), referrers.ErrMalformed},
		{"an inlined config of other bytes (M04)", replace("e30=", "W10="), referrers.ErrMalformed},
		{"a duplicate name (M12)", replace(`"subject":{`, `"subject":{"digest":"x",`), referrers.ErrMalformed},
		{"a name in other case (M12)", replace(`"subject":{`, `"Subject":{"digest":"x"},"subject":{`), referrers.ErrMalformed},
		{"a name in other case, further in (M12)", replace(`"subject":{`, `"subject":{"DIGEST":"x",`), referrers.ErrMalformed},
		{"a name with the long s (M12)", replace(`"subject":{`, `"\u017fubject":{},"subject":{`), referrers.ErrMalformed},
		{"trailing data", func(m string) string { return m + "{}" }, referrers.ErrMalformed},
		{"invalid UTF-8", replace("dsse-envelope", "\xff"), referrers.ErrMalformed},
		{"deep nesting (M11)", replace(`{"schemaVersion":2`, `{"x":`+strings.Repeat("[", 65)+strings.Repeat("]", 65)+`,"schemaVersion":2`), referrers.ErrMalformed},
		{"not JSON", func(string) string { return "hello" }, referrers.ErrMalformed},
		{"not an object", func(string) string { return "[]" }, referrers.ErrMalformed},
		{"over 64 KiB", func(m string) string { return m + strings.Repeat(" ", 64<<10) }, referrers.ErrUnread},
		{"a layer of 1 GiB", replace(`"size":61`, `"size":1073741824`), referrers.ErrUnread},
		{"a layer that is not there", replace(digest.FromString(bundleJSON).String(), digest.FromString("gone").String()), referrers.ErrUnread},

		{"an SBOM", func(m string) string { return strings.ReplaceAll(m, "vnd.dev.sigstore.bundle.v0.3", "spdx") }, referrers.ErrNotBundle},
		{"an SBOM by its config", func(m string) string {
			m = strings.Replace(m, `"artifactType":"application/vnd.dev.sigstore.bundle.v0.3+json",`, "", 1)
			return strings.ReplaceAll(m, "vnd.dev.sigstore.bundle.v0.3", "spdx")
		}, referrers.ErrNotBundle},
		{"an index with a subject", func(m string) string {
			m = strings.Replace(m, "image.manifest.v1", "image.index.v1", 1)
			m = strings.Replace(m, `"layers"`, `"manifests"`, 1)
			return strings.ReplaceAll(m, "vnd.dev.sigstore.bundle.v0.3", "spdx")
		}, referrers.ErrNotBundle},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newShelf()
			s.put(tt.edit(goodManifest()))
			got := s.read(t, referrers.Limits{})
			if len(got) != 1 {
				t.Fatalf("%d candidates, want 1", len(got))
			}
			c := got[0]
			if !errors.Is(c.Err, tt.want) {
				t.Fatalf("error %v, want %v", c.Err, tt.want)
			}
			if tt.want == nil && string(c.Bundle) != bundleJSON {
				t.Errorf("bundle %q", c.Bundle)
			}
			if tt.want != nil && c.Bundle != nil {
				t.Error("there is a bundle beside the error")
			}
			for _, other := range []error{referrers.ErrUnread, referrers.ErrMalformed, referrers.ErrNotBundle} {
				if other != tt.want && errors.Is(c.Err, other) {
					t.Errorf("error %v is %v as well", c.Err, other)
				}
			}
			if strings.Contains(tt.name, "1 GiB") && len(s.got) != 1 {
				t.Errorf("the layer was asked for: %q", s.got)
			}
		})
	}
}

// What is listed about a referrer is a hint: none of it makes a signature
// unfindable (invariants 3 and 7).
func TestAWrongEntryStillFindsTheReferrer(t *testing.T) {
	d := digest.FromString(goodManifest())
	for _, tt := range []struct{ name, entry string }{
		{"another size", `{"digest":"` + d.String() + `","size":1}`},
		{"a negative size", `{"digest":"` + d.String() + `","size":-1}`},
		{"another media type", `{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"` + d.String() + `"}`},
		{"another artifact type", `{"artifactType":"application/spdx+json","digest":"` + d.String() + `"}`},
		{"another predicate type", `{"annotations":{"` + referrers.AnnotationPredicateType + `":"x"},"digest":"` + d.String() + `"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newShelf()
			s.put(goodManifest())
			s.entries = []string{tt.entry}
			c := s.read(t, referrers.Limits{})[0]
			if c.Err != nil {
				t.Fatal(c.Err)
			}
			if c.PredicateType != signType || c.ArtifactType != referrers.BundleType {
				t.Errorf("claims %q, %q are not the manifest's", c.PredicateType, c.ArtifactType)
			}
		})
	}
}

func TestAnEntryWithoutAUsableDigestIsMalformedAndAsksForNothing(t *testing.T) {
	for _, raw := range []string{
		`{}`, `null`, `"x"`, `[]`, `{"digest":1}`, `{"digest":"../x"}`, `{"digest":"sha256:ABC"}`,
		`{"digest":"` + digest.SHA512.FromString("x").String() + `"}`,
		`{"digest":"` + digest.FromString("x").String() + `","size":"1"}`,
	} {
		s := newShelf()
		s.entries = []string{raw}
		got := s.read(t, referrers.Limits{})
		if len(got) != 1 || !errors.Is(got[0].Err, referrers.ErrMalformed) {
			t.Errorf("%s: %v, want one malformed", raw, got)
		}
		if len(s.got) > 0 {
			t.Errorf("%s: asked for %q", raw, s.got)
		}
	}
}

// Rule 38: what cannot be read is not what was read and is wrong.
func TestFetchingAReferrerFails(t *testing.T) {
	manifest := goodManifest()
	steps := map[string]string{
		"manifest": digest.FromString(manifest).String(),
		"blob":     digest.FromString(bundleJSON).String(),
	}
	bodies := map[string]string{"manifest": manifest, "blob": bundleJSON}
	status := func(code int) func(http.ResponseWriter, string) {
		return func(w http.ResponseWriter, _ string) { answer(w, code, "text/plain", "no") }
	}
	for _, tt := range []struct {
		name  string
		fault func(w http.ResponseWriter, body string)
		want  error
	}{
		{"401", status(401), referrers.ErrUnread},
		{"403", status(403), referrers.ErrUnread},
		{"404", status(404), referrers.ErrUnread},
		{"429", status(429), referrers.ErrUnread},
		{"500", status(500), referrers.ErrUnread},
		{"204", status(204), referrers.ErrUnread},
		{"HTML", func(w http.ResponseWriter, _ string) { answer(w, 200, "text/html", "<h1>log in</h1>") }, referrers.ErrUnread},
		{"aborted", func(http.ResponseWriter, string) { panic(http.ErrAbortHandler) }, referrers.ErrUnread},
		{"cut, with its length", func(w http.ResponseWriter, body string) {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			answer(w, 200, "", body[:len(body)-1])
		}, referrers.ErrUnread},
		{"cut, without its length", func(w http.ResponseWriter, body string) {
			answer(w, 200, "", body[:len(body)/2])
			w.(http.Flusher).Flush()
		}, referrers.ErrUnread},
		{"other bytes (M13)", func(w http.ResponseWriter, body string) { answer(w, 200, "", strings.Replace(body, "3", "4", 1)) }, referrers.ErrUnread},
		{"a byte more", func(w http.ResponseWriter, body string) { answer(w, 200, "", body+" ") }, referrers.ErrUnread},
	} {
		for step, d := range steps {
			t.Run(step+" "+tt.name, func(t *testing.T) {
				t.Parallel()
				s := newShelf()
				s.put(manifest)
				s.fault = func(w http.ResponseWriter, r *http.Request) bool {
					if !strings.HasSuffix(r.URL.Path, d) {
						return false
					}
					tt.fault(w, bodies[step])
					return true
				}
				repo := serve(t, s)
				c := read(t.Context(), list(t, referrers.InRepository(repo), readSubject, referrers.Limits{}))[0]
				if !errors.Is(c.Err, tt.want) {
					t.Errorf("error %v, want %v", c.Err, tt.want)
				}
			})
		}
	}
}

func TestEveryCorruptByteAndEveryCutIsNoticed(t *testing.T) {
	manifest := goodManifest()
	d := digest.FromString(manifest)
	try := func(body string) {
		t.Helper()
		s := newShelf()
		s.put(manifest)
		s.content[d.String()] = body
		c := s.read(t, referrers.Limits{})[0]
		if c.Err == nil || c.Bundle != nil {
			t.Errorf("%q is accepted", body)
		}
	}
	for i := range len(manifest) {
		corrupt := []byte(manifest)
		corrupt[i] ^= 1
		try(string(corrupt))
		try(manifest[:i])
	}
}

func TestTheLimitsOfReading(t *testing.T) {
	bundles := func(n, size int) *shelf {
		s := newShelf()
		for i := range n {
			bundle := fmt.Sprintf("%-*d", size, i)
			m := strings.Replace(goodManifest(), digest.FromString(bundleJSON).String(), digest.FromString(bundle).String(), 1)
			s.put(strings.Replace(m, `"size":61`, `"size":`+strconv.Itoa(size), 1))
			s.content[digest.FromString(bundle).String()] = bundle
		}
		return s
	}
	t.Run("the number of referrers", func(t *testing.T) {
		s := bundles(5, 10)
		got := s.read(t, referrers.Limits{Read: 3})
		if len(got) != 4 {
			t.Fatalf("%d candidates, want 3 and the one that says so", len(got))
		}
		for _, c := range got[:3] {
			if c.Err != nil {
				t.Error(c.Err)
			}
		}
		if err := got[3].Err; !errors.Is(err, referrers.ErrUnread) || !strings.Contains(err.Error(), "--max-referrers") {
			t.Errorf("error %v", err)
		}
		if len(s.got) != 6 {
			t.Errorf("%d requests, want 6", len(s.got))
		}
	})
	t.Run("exactly the number of referrers", func(t *testing.T) {
		if got := bundles(5, 10).read(t, referrers.Limits{Read: 5}); len(got) != 5 || got[4].Err != nil {
			t.Errorf("%d candidates", len(got))
		}
	})
	t.Run("the bytes of a cosign signature", func(t *testing.T) {
		got := bundles(1, 1001).read(t, referrers.Limits{ArtifactBytes: 1000})
		if !errors.Is(got[0].Err, referrers.ErrUnread) {
			t.Errorf("error %v", got[0].Err)
		}
		if got := bundles(1, 1000).read(t, referrers.Limits{ArtifactBytes: 1000}); got[0].Err != nil {
			t.Error(got[0].Err)
		}
	})
	t.Run("the bytes of all", func(t *testing.T) {
		one := int64(len(goodManifest()) + 1 + 1000) // the size has a digit more
		got := bundles(3, 1000).read(t, referrers.Limits{TotalBytes: 2*one + 20})
		for i, c := range got {
			if unread := errors.Is(c.Err, referrers.ErrUnread); unread != (i == 2) {
				t.Errorf("candidate %d: error %v", i, c.Err)
			}
		}
	})
}

// Rule 13.
func TestAFloodOfOtherTypesDoesNotHideTheOneThatCounts(t *testing.T) {
	s := newShelf()
	for i := range 5_000 {
		m := fmt.Sprintf(`{"i":%d}`, i)
		s.put(m)
		s.entries[i] = entry(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(m), Size: int64(len(m))}, "application/spdx+json", "")
	}
	s.put(goodManifest())
	listing := list(t, referrers.InRepository(s.repo(t)), readSubject, referrers.Limits{})
	for c := range listing.Read(t.Context()) {
		if c.Err != nil {
			t.Fatal(c.Err)
		}
		break
	}
	if len(s.got) != 2 {
		t.Errorf("%d requests, want 2", len(s.got))
	}
}

func TestAFloodThatLooksLikeOursIsNotReadToItsEnd(t *testing.T) {
	s := newShelf()
	for i := range 5_000 {
		s.put(fmt.Sprintf(`{"i":%d}`, i))
	}
	got := s.read(t, referrers.Limits{})
	if len(got) != 1_001 || !errors.Is(got[1_000].Err, referrers.ErrUnread) {
		t.Errorf("%d candidates, the last with %v", len(got), got[len(got)-1].Err)
	}
	if len(s.got) != 1_000 {
		t.Errorf("%d requests, want 1,000", len(s.got))
	}
}

func TestOnlyReadsOneReferrerAndListsNone(t *testing.T) {
	s := newShelf()
	d := s.put(goodManifest())
	s.fault = func(_ http.ResponseWriter, r *http.Request) bool {
		if kind(r) == "GET referrers" || kind(r) == "GET tag" {
			t.Error("a listing was asked for")
		}
		return false
	}
	store := referrers.InRepository(s.repo(t))
	listing, err := referrers.Only(store, readSubject, d, referrers.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t.Context(), listing); len(got) != 1 || got[0].Err != nil || string(got[0].Bundle) != bundleJSON {
		t.Errorf("candidates %v", got)
	}
	other := readSubject
	other.Digest = digest.FromString("other")
	listing, err = referrers.Only(store, other, d, referrers.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t.Context(), listing); len(got) != 1 || !errors.Is(got[0].Err, referrers.ErrMalformed) {
		t.Errorf("for another subject: %v", got)
	}
	for _, bad := range []digest.Digest{"", "x", digest.SHA512.FromString("x")} {
		if _, err := referrers.Only(store, readSubject, bad, referrers.Limits{}); err == nil {
			t.Errorf("digest %q is accepted", bad)
		}
	}
}

func TestReadEndsWithItsContext(t *testing.T) { // rule 37
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		for i := range 3 {
			s.put(fmt.Sprintf(`{"i":%d}`, i))
		}
		listing := list(t, referrers.InRepository(s.repo(t)), readSubject, referrers.Limits{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s.fault = func(_ http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			return true
		}
		got := slices.Collect(listing.Read(ctx))
		if len(got) != 1 || !errors.Is(got[0].Err, referrers.ErrUnread) || !errors.Is(got[0].Err, context.DeadlineExceeded) {
			t.Errorf("candidates %v", got)
		}
	})
}

func TestErrorsQuoteLittleOfWhatServersSayAndEscapeIt(t *testing.T) { // rules 26, 36
	for _, body := range []string{
		strings.Repeat("\x00", 9_000),
		"\x1b]0;owned\a",
		"\u202egnp.exe",
		"\u0085\u009b31m",
		`{"errors":[{"code":"X","message":"` + strings.Repeat(`\u001b[2J`, 1000) + `"}]}`,
		strings.Repeat("é", 300),
	} {
		s := newShelf()
		s.put(goodManifest())
		s.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if kind(r) != "GET manifest" {
				return false
			}
			answer(w, 500, "text/plain", body)
			return true
		}
		text := s.read(t, referrers.Limits{})[0].Err.Error()
		for _, r := range text {
			if !strconv.IsPrint(r) {
				t.Errorf("error is not printable: %q", text)
			}
		}
		if _, said, _ := strings.Cut(text, "says "); len(said) > 258 {
			t.Errorf("%d bytes are quoted: %q", len(said), text)
		}
	}
}
