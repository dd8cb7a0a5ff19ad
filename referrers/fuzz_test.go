package referrers_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/referrers"
)

// Whatever a fallback tag holds: it is either left as it is or still has
// everything that it had, in order, and what was attached.
func FuzzFallbackIndex(f *testing.F) {
	f.Add([]byte(indexOf()))
	f.Add([]byte(`{"manifests":null,"schemaVersion":2}`))
	f.Add([]byte(" {\"annotations\":{\"a\":\"b\"},\"manifests\" : [ " + entry(readSubject, "", "") + " , {} ] } "))
	f.Add([]byte(indexOf(entry(readSubject, referrers.BundleType, signType), `"x"`)))
	f.Add([]byte(indexOf()[:50]))
	f.Add([]byte(subjectJSON))
	f.Fuzz(func(t *testing.T, before []byte) {
		synctest.Test(t, func(t *testing.T) { fuzzFallbackIndex(t, before) })
	})
}

func fuzzFallbackIndex(t *testing.T, before []byte) {
	m := &memTag{tag: before}
	repo := repository(t, "registry.example.com", inProcess{handler: m})
	subject := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(subjectJSON), Size: int64(len(subjectJSON))}
	descs, err := referrers.Attach(t.Context(), referrers.InRepository(repo), subject, attachments("f")...)
	if err != nil {
		if !bytes.Equal(m.tag, before) {
			t.Fatalf("the tag was written: %q", m.tag)
		}
		return
	}
	var was, is struct{ Manifests []json.RawMessage }
	if err := json.Unmarshal(before, &was); err != nil {
		t.Fatalf("before: %v", err)
	}
	if err := json.Unmarshal(m.tag, &is); err != nil {
		t.Fatalf("after: %v", err)
	}
	if len(is.Manifests) != len(was.Manifests)+len(descs) {
		t.Fatalf("%d entries, were %d", len(is.Manifests), len(was.Manifests))
	}
	for i, e := range was.Manifests {
		if !bytes.Equal(is.Manifests[i], e) {
			t.Errorf("entry %d was %s, is %s", i, e, is.Manifests[i])
		}
	}
}

// memTag is a registry without the API that keeps what it is given and has one
// tag.
type memTag struct {
	mu    sync.Mutex
	tag   []byte
	parts map[string][]byte
}

func (m *memTag) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), 500)
		return
	}
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	m.mu.Lock()
	defer m.mu.Unlock()
	switch kind(r) {
	case "GET tag":
		answer(w, 200, ocispec.MediaTypeImageIndex, string(m.tag))
	case "PUT tag":
		m.tag = body
		w.WriteHeader(http.StatusCreated)
	case "PUT manifest":
		if m.parts == nil {
			m.parts = make(map[string][]byte)
		}
		m.parts[name] = body
		w.WriteHeader(http.StatusCreated)
	case "GET manifest":
		answer(w, 200, ocispec.MediaTypeImageManifest, string(m.parts[name]))
	case "POST upload":
		w.Header().Set("Location", "/v2/"+repoName+"/blobs/uploads/1")
		w.WriteHeader(http.StatusAccepted)
	case "PUT upload":
		w.WriteHeader(http.StatusCreated)
	default:
		http.NotFound(w, r)
	}
}

// Whatever is listed and served: a bundle is given only for a manifest whose
// subject is ours, and with the bytes of its digest.
func FuzzReferrerManifest(f *testing.F) {
	f.Add([]byte(goodManifest()))
	f.Add([]byte(strings.Replace(goodManifest(), `"subject"`, `"Subject"`, 1)))
	f.Add([]byte(strings.ReplaceAll(goodManifest(), "vnd.dev.sigstore.bundle.v0.3", "spdx")))
	f.Add([]byte(subjectJSON))
	f.Add([]byte(`{"subject":{"data":"e30="}}`))
	f.Fuzz(func(t *testing.T, manifest []byte) {
		s := newShelf()
		s.put(string(manifest))
		c := s.read(t, referrers.Limits{})[0]
		switch {
		case c.Err == nil:
			var m ocispec.Manifest
			if err := json.Unmarshal(manifest, &m); err != nil {
				t.Fatalf("encoding/json: %v", err)
			}
			if m.Subject == nil || m.Subject.Digest != readSubject.Digest || len(m.Layers) != 1 || m.Layers[0].Digest != digest.FromBytes(c.Bundle) {
				t.Errorf("encoding/json reads it as %+v", m)
			}
		case c.Bundle != nil:
			t.Error("there is a bundle beside the error")
		case !slices.ContainsFunc([]error{referrers.ErrUnread, referrers.ErrMalformed, referrers.ErrNotBundle}, func(e error) bool { return errors.Is(c.Err, e) }):
			t.Errorf("error %v is of no kind", c.Err)
		}
	})
}

// Whatever a Link header says: requests stay on the registry and end.
func FuzzLink(f *testing.F) {
	for _, link := range []string{
		`</v2/x?last=1>; rel="next"`, `<?n=1>`, `<http://example.com/>; rel=next`, `<//example.com/x>`, `<`, `<>`, `<a>;rel="a, b",<b>;rel=next`,
		`<http://registry.example.com@evil.example/>`, `<http://a:b@registry.example.com/x>`, `<\\evil.example/x>`, "<?\x00>", `<x>;title="\"<y>"`,
	} {
		f.Add(link)
	}
	f.Fuzz(func(t *testing.T, link string) {
		n := 0
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n++; r.URL.Hostname() != "registry.example.com" || r.URL.User != nil {
				t.Errorf("asked %s", r.URL)
			}
			w.Header().Set("Link", link)
			answer(w, 200, ocispec.MediaTypeImageIndex, indexOf())
		})
		repo := repository(t, "registry.example.com", inProcess{handler: h})
		list(t, referrers.InRepository(repo), readSubject, referrers.Limits{})
		if n > 300 {
			t.Errorf("%d requests", n)
		}
	})
}
