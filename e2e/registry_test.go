//go:build unix

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	"cuelabs.dev/go/oci/ociregistry"
	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// How registries treat referrers.
const (
	modeAPI        = "api"        // the Referrers API
	modeUnfiltered = "unfiltered" // the API, which ignores artifactType
	modeNone       = "none"       // no API, and it does not say otherwise
	modeClaimed    = "claimed"    // OCI-Subject says that there is an API, and there is none
)

var modes = []string{modeAPI, modeUnfiltered, modeNone, modeClaimed}

// A registry is one script's own, in memory. Attackers with push rights write
// to the backend: it takes any manifest.
type registry struct {
	mode    string
	backend *ocimem.Registry
	handler http.Handler
	server  *httptest.Server

	hit chan struct{} // something reached the server at $FAULTY

	mu     sync.Mutex
	asked  []string                 // "METHOD /path" by the server at $FAULTY
	others []*httptest.Server       // that faults and guards opened
	spans  []*tracepb.ResourceSpans // that collectors got
}

type registryKey struct{}

func registryOf(ts *testscript.TestScript) *registry {
	return ts.Value(registryKey{}).(*registry)
}

func newRegistry(mode string) *registry {
	backend := ocimem.NewWithConfig(&ocimem.Config{LaxChildReferences: true})
	server := ociserver.New(backend, &ociserver.Options{
		DisableReferrersAPI:       mode == modeNone || mode == modeClaimed,
		DisableReferrersFiltering: mode == modeUnfiltered,
	})
	r := &registry{mode: mode, backend: backend, handler: server, hit: make(chan struct{}, 1)}
	if mode == modeNone {
		r.handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			server.ServeHTTP(&withoutSubject{w}, req)
		})
	}
	r.server = httptest.NewServer(r.handler)
	return r
}

// withoutSubject drops the header by which a registry says that it has taken
// note of a manifest's subject.
type withoutSubject struct{ http.ResponseWriter }

func (w *withoutSubject) WriteHeader(code int) {
	w.Header().Del("OCI-Subject")
	w.ResponseWriter.WriteHeader(code)
}

func (r *registry) host() string { return hostOf(r.server) }

func hostOf(s *httptest.Server) string { return s.Listener.Addr().String() }

// open starts another server, which ends with the script.
func (r *registry) open(h http.Handler) *httptest.Server {
	s := httptest.NewServer(h)
	r.others = append(r.others, s)
	return s
}

func (r *registry) close() {
	for _, s := range append(r.others, r.server) {
		s.CloseClientConnections() // some handlers wait for their client to go
		s.Close()
	}
}

// A place is a repository of the registry, and a tag or digest in it.
type place struct {
	repo   string
	tag    string
	digest ociregistry.Digest
}

// at parses HOST/REPO:TAG or HOST/REPO@DIGEST. The host is not looked at: all
// servers of a script have the same content.
func at(ref string) (place, error) {
	_, path, ok := strings.Cut(ref, "/")
	if !ok {
		return place{}, fmt.Errorf("%q is not a reference", ref)
	}
	if repo, dgst, ok := strings.Cut(path, "@"); ok {
		repo, _, _ = strings.Cut(repo, ":")
		return place{repo: repo, digest: ociregistry.Digest(dgst)}, nil
	}
	repo, tag, _ := strings.Cut(path, ":")
	return place{repo: repo, tag: tag}, nil
}

// manifest returns the bytes and the descriptor of the manifest at p.
func (r *registry) manifest(ctx context.Context, p place) ([]byte, ociregistry.Descriptor, error) {
	var content ociregistry.BlobReader
	var err error
	if p.digest != "" {
		content, err = r.backend.GetManifest(ctx, p.repo, p.digest)
	} else {
		content, err = r.backend.GetTag(ctx, p.repo, p.tag)
	}
	if err != nil {
		return nil, ociregistry.Descriptor{}, err
	}
	defer content.Close()
	data, err := io.ReadAll(content)
	return data, content.Descriptor(), err
}

func (r *registry) blob(ctx context.Context, repo string, d ociregistry.Digest) ([]byte, error) {
	content, err := r.backend.GetBlob(ctx, repo, d)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	return io.ReadAll(content)
}

func (r *registry) putBlob(ctx context.Context, repo string, data []byte) (ociregistry.Descriptor, error) {
	return r.backend.PushBlob(ctx, repo, ociregistry.Descriptor{
		MediaType: "application/octet-stream", Digest: digest.FromBytes(data), Size: int64(len(data)),
	}, strings.NewReader(string(data)))
}

// referrers returns what is attached to d, whether or not this registry would
// say so.
func (r *registry) referrers(ctx context.Context, repo string, d ociregistry.Digest) ([]ociregistry.Descriptor, error) {
	var found []ociregistry.Descriptor
	for desc, err := range r.backend.Referrers(ctx, repo, d, "") {
		if err != nil {
			return nil, err
		}
		found = append(found, desc)
	}
	return found, nil
}

// listInFallback adds entries to the fallback tag of a subject, where the
// registry has no API and clients look there.
func (r *registry) listInFallback(ctx context.Context, repo string, subject ociregistry.Digest, entries ...ociregistry.Descriptor) error {
	if r.mode != modeNone && r.mode != modeClaimed {
		return nil
	}
	tag := fallbackTag(subject)
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	if old, _, err := r.manifest(ctx, place{repo: repo, tag: tag}); err == nil {
		if err := json.Unmarshal(old, &index); err != nil {
			return err
		}
	}
	index.Manifests = append(index.Manifests, entries...)
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	_, err = r.backend.PushManifest(ctx, repo, tag, data, ocispec.MediaTypeImageIndex)
	return err
}

// fallbackTag is where clients look in a registry without the API.
func fallbackTag(subject ociregistry.Digest) string {
	return strings.Replace(string(subject), ":", "-", 1)
}
