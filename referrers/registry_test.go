package referrers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/modelsig/modelsig/referrers"
)

const (
	repoName  = "models/tiny"
	signType  = "https://sigstore.dev/cosign/sign/v1"
	modelType = "https://model_signing/signature/v1.0"
)

// A mode is how a registry keeps referrers.
type mode struct {
	name     string
	api      bool
	unfilter bool
	lies     bool // answers OCI-Subject and has no API
}

var modes = []mode{
	{name: "referrers API", api: true},
	{name: "referrers API without filtering", api: true, unfilter: true},
	{name: "no API"},
	{name: "claims the API and has none", lies: true},
}

// withoutSubject drops the header by which a registry claims to keep referrers.
type withoutSubject struct{ http.ResponseWriter }

func (w withoutSubject) WriteHeader(code int) {
	w.Header().Del("OCI-Subject")
	w.ResponseWriter.WriteHeader(code)
}

func (m mode) handler() http.Handler {
	// Lax: signatures are tried whose parts are missing.
	h := ociserver.New(ocimem.NewWithConfig(&ocimem.Config{LaxChildReferences: true}), &ociserver.Options{
		DisableReferrersAPI:       !m.api,
		DisableReferrersFiltering: m.unfilter,
	})
	if m.api || m.lies {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(withoutSubject{w}, r) })
}

// A tap sits before a registry: it counts requests and may answer them itself.
type tap struct {
	next http.Handler
	// fault answers the request if it returns true.
	fault func(w http.ResponseWriter, r *http.Request) bool

	mu   sync.Mutex
	seen []string // "GET referrers", "PUT tag", …
}

func (t *tap) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t.mu.Lock()
	t.seen = append(t.seen, kind(r))
	t.mu.Unlock()
	if t.fault != nil && t.fault(w, r) {
		return
	}
	t.next.ServeHTTP(w, r)
}

func (t *tap) requests() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.seen)
}

func (t *tap) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = nil
}

// kind names a request as the tests do.
func kind(r *http.Request) string {
	path := r.URL.Path
	switch {
	case strings.Contains(path, "/referrers/"):
		return r.Method + " referrers"
	case strings.Contains(path, "/manifests/sha256-"):
		return r.Method + " tag"
	case strings.Contains(path, "/manifests/"):
		return r.Method + " manifest"
	case strings.Contains(path, "/blobs/uploads/"):
		return r.Method + " upload"
	default:
		return r.Method + " blob"
	}
}

// serve makes a repository of a handler, over the loopback.
func serve(t testing.TB, h http.Handler) *remote.Repository {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	// The server's own transport: closing any other server closes the idle
	// connections of the default one.
	return repository(t, strings.TrimPrefix(srv.URL, "http://"), srv.Client().Transport)
}

func repository(t testing.TB, host string, rt http.RoundTripper) *remote.Repository {
	t.Helper()
	repo, err := remote.NewRepository(host + "/" + repoName)
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = true
	repo.Client = &auth.Client{Client: &http.Client{Transport: rt}}
	return repo
}

// inProcess calls a handler without a network, so that synctest's clock runs.
// What latency returns is slept half before and half after the handler.
type inProcess struct {
	handler http.Handler
	latency func(*http.Request) time.Duration
}

func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	var d time.Duration
	if p.latency != nil {
		d = p.latency(r)
	}
	time.Sleep(d / 2)
	defer time.Sleep(d - d/2)
	in := r.Clone(r.Context())
	in.RequestURI = r.URL.RequestURI()
	if in.Body == nil {
		in.Body = http.NoBody
	}
	rec := httptest.NewRecorder()
	p.handler.ServeHTTP(rec, in)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	resp := rec.Result()
	resp.Request = r
	return resp, nil
}

// pushManifest stores any manifest.
func pushManifest(t testing.TB, repo *remote.Repository, mediaType, body, reference string) ocispec.Descriptor {
	t.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(body), Size: int64(len(body))}
	if reference == "" {
		reference = desc.Digest.String()
	}
	u := fmt.Sprintf("http://%s/v2/%s/manifests/%s", repo.Reference.Host(), repoName, reference)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, u, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := repo.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("PUT %s: %d %s", reference, resp.StatusCode, text)
	}
	return desc
}

func pushBlob(t testing.TB, repo *remote.Repository, body []byte) ocispec.Descriptor {
	t.Helper()
	desc := ocispec.Descriptor{MediaType: referrers.BundleType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	if err := repo.Blobs().Push(t.Context(), desc, bytes.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	return desc
}

// getTag returns what the fallback tag of subject names, nil for 404.
func getTag(t testing.TB, repo *remote.Repository, subject ocispec.Descriptor) []byte {
	t.Helper()
	u := fmt.Sprintf("http://%s/v2/%s/manifests/%s", repo.Reference.Host(), repoName, tagOf(subject))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", ocispec.MediaTypeImageIndex)
	resp, err := repo.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == http.StatusNotFound {
		return nil
	}
	return body
}

func tagOf(subject ocispec.Descriptor) string {
	return "sha256-" + subject.Digest.Encoded()
}

const subjectJSON = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`

// pushSubject pushes a model to attach to.
func pushSubject(t testing.TB, repo *remote.Repository) ocispec.Descriptor {
	t.Helper()
	pushBlob(t, repo, []byte("{}"))
	return pushManifest(t, repo, ocispec.MediaTypeImageManifest, subjectJSON, "")
}

func attachments(seed string) []referrers.Attachment {
	created := time.Date(2026, 11, 22, 6, 17, 58, 999, time.FixedZone("", 3600))
	return []referrers.Attachment{
		{Bundle: []byte(`{"sign":"` + seed + `"}`), PredicateType: signType, Created: created},
		{Bundle: []byte(`{"model signature":"` + seed + `"}`), PredicateType: modelType, Created: created},
	}
}

func approval(predicateType string) bool {
	return predicateType == signType || predicateType == modelType
}

// list fails the test for an error; what is incomplete stays in the listing.
func list(t testing.TB, s referrers.Store, subject ocispec.Descriptor, l referrers.Limits) *referrers.Listing {
	t.Helper()
	listing, err := referrers.ListFirst(t.Context(), s, subject, approval, l)
	if err != nil {
		t.Fatal(err)
	}
	return listing
}

func read(ctx context.Context, l *referrers.Listing) []referrers.Candidate {
	return slices.Collect(l.Read(ctx))
}

// entry is a line of a listing.
func entry(desc ocispec.Descriptor, artifactType, predicateType string) string {
	desc.ArtifactType = artifactType
	if predicateType != "" {
		desc.Annotations = map[string]string{referrers.AnnotationPredicateType: predicateType}
	}
	b, err := json.Marshal(desc)
	if err != nil {
		panic(err) // a descriptor of ours
	}
	return string(b)
}

func indexOf(entries ...string) string {
	return `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[` + strings.Join(entries, ",") + `]}`
}

// answer sends one body.
func answer(w http.ResponseWriter, code int, contentType, body string) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(code)
	_, _ = io.WriteString(w, body)
}
