package oci_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

// A fake answers the manifest request for m:v1, and any other with 404.
type fake struct {
	status      int // 0: 200
	contentType string
	digest      string // Docker-Content-Digest
	body        string
}

func (f fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, "/v2/m/manifests/") || r.Method != http.MethodGet {
		http.NotFound(w, r)
		return
	}
	w.Header()["Content-Type"] = nil // no sniffing
	if f.contentType != "" {
		w.Header().Set("Content-Type", f.contentType)
	}
	if f.digest != "" {
		w.Header().Set("Docker-Content-Digest", f.digest)
	}
	if f.status != 0 {
		w.WriteHeader(f.status)
	}
	io.WriteString(w, f.body)
}

func TestOpen(t *testing.T) {
	good := manifestOf(layer("a.txt", "hello"))
	want := godigest.FromString(good)
	untyped := strings.Replace(good, `"mediaType":"`+typeManifest+`",`, "", 1)
	for _, test := range []struct {
		name string
		fake fake
	}{
		{"as the spec says", fake{contentType: typeManifest, digest: want.String(), body: good}},
		{"no digest header", fake{contentType: typeManifest, body: good}},
		{"a digest header of another algorithm", fake{contentType: typeManifest, digest: "sha512:00", body: good}},
		{"Content-Type with parameters", fake{contentType: typeManifest + "; charset=utf-8", body: good}},
		{"no Content-Type", fake{body: good}},
		{"no mediaType", fake{contentType: typeManifest, body: untyped}},
	} {
		t.Run(test.name, func(t *testing.T) {
			host := serve(t, test.fake)
			model, err := newClient(t, oci.Options{}).Open(t.Context(), mustParse(t, host+"/m:v1"))
			if err != nil {
				t.Fatal(err)
			}
			if got := godigest.FromString(test.fake.body); model.Reference.Digest != got || model.Manifest.Descriptor.Digest != got {
				t.Errorf("digest %s, want %s", model.Reference.Digest, got)
			}
			if model.Reference.Tag != "v1" || model.Layout != nil || model.Repository == nil {
				t.Errorf("%+v", model)
			}
			if _, ok := model.Repository.Client.(*auth.Client); !ok {
				t.Errorf("the repository's client is a %T", model.Repository.Client)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	good := manifestOf(layer("a.txt", "hello"))
	for _, test := range []struct {
		name string
		fake fake
		ref  string
		code string
	}{
		{"M13: the registry lies about the digest", fake{contentType: typeManifest, digest: digest, body: good}, ":v1", "digest-mismatch"},
		{"M13: another manifest than the one asked for", fake{contentType: typeManifest, body: good}, "@" + digest, "digest-mismatch"},
		{"M13: the header lies so too", fake{contentType: typeManifest, digest: digest, body: good}, "@" + digest, "digest-mismatch"},
		{"M09: Content-Type against mediaType", fake{contentType: typeDocker, body: good}, ":v1", "media-type-mismatch"},
		{"M10: schema 1", fake{contentType: "application/vnd.docker.distribution.manifest.v1+json", body: `{"schemaVersion":1,"fsLayers":[]}`}, ":v1", "schema1"},
		{"M11: too large", fake{contentType: typeManifest, body: good + strings.Repeat(" ", oci.MaxManifest)}, ":v1", "manifest-too-large"},
		{"M12: a member twice", fake{contentType: typeManifest, body: `{"schemaVersion":2,` + good[1:]}, ":v1", "manifest-json"},
	} {
		t.Run(test.name, func(t *testing.T) {
			host := serve(t, test.fake)
			_, err := newClient(t, oci.Options{}).Open(t.Context(), mustParse(t, host+"/m"+test.ref))
			wantThreat(t, err, test.code)
		})
	}
}

// Only a 404 is "not found"; nothing else says anything about the artifact.
func TestOpenCouldNotTell(t *testing.T) {
	good := manifestOf(layer("a.txt", "hello"))
	for _, test := range []struct {
		name     string
		handler  http.Handler
		notFound bool
	}{
		{"404 with MANIFEST_UNKNOWN", fake{status: 404, contentType: "application/json", body: `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no"}]}`}, true},
		{"404 with a page", fake{status: 404, contentType: "text/html", body: "<html>"}, true},
		{"400", fake{status: 400}, false},
		{"401 without a challenge", fake{status: 401}, false},
		{"403", fake{status: 403, contentType: "application/json", body: `{"errors":[{"code":"DENIED","message":"no"}]}`}, false},
		{"410", fake{status: 410}, false},
		{"500", fake{status: 500}, false},
		{"501", fake{status: 501}, false},
		{"an HTML page with 200", fake{contentType: "text/html; charset=utf-8", body: "<html>log in</html>"}, false},
		{"JSON of another kind with 200", fake{contentType: "application/json", body: good}, false},
		{"a broken Content-Type", fake{contentType: "a/b/c", body: good}, false},
		{"204", fake{status: 204}, false},
		{"a body that is cut short", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", typeManifest)
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, good[:20])
		}), false},
		{"endless redirects", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path+"x", http.StatusTemporaryRedirect)
		}), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			host := serve(t, test.handler)
			_, err := newClient(t, oci.Options{}).Open(t.Context(), mustParse(t, host+"/m:v1"))
			if err == nil {
				t.Fatal("no error")
			}
			var threat *manifest.ThreatError
			if errors.As(err, &threat) {
				t.Errorf("a refusal: %v", err)
			}
			if errors.Is(err, oci.ErrNotFound) != test.notFound {
				t.Errorf("not found: %t, want %t (%v)", !test.notFound, test.notFound, err)
			}
		})
	}
}

func TestOpenNeedsTagOrDigest(t *testing.T) {
	host := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request was made") }))
	_, err := newClient(t, oci.Options{}).Open(t.Context(), mustParse(t, host+"/m"))
	if err == nil || errors.Is(err, oci.ErrNotFound) {
		t.Errorf("error %v", err)
	}
}

func TestOpenIndex(t *testing.T) {
	host := serve(t, fake{contentType: typeIndex, body: `{"schemaVersion":2,"mediaType":"` + typeIndex + `","manifests":[]}`})
	_, err := newClient(t, oci.Options{}).Open(t.Context(), mustParse(t, host+"/m:v1"))
	if !errors.Is(err, oci.ErrIndex) {
		t.Errorf("error %v, want ErrIndex", err)
	}
}

// Invariant 4: a tag is looked at once, by one request.
func TestOpenResolvesOnce(t *testing.T) {
	var requests atomic.Int32
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The tag moves with every request.
		body := manifestOf(layer("a.txt", fmt.Sprint(requests.Add(1))))
		fake{contentType: typeManifest, body: body}.ServeHTTP(w, r)
	}))
	model, err := newClient(t, oci.Options{}).Open(t.Context(), mustParse(t, host+"/m:v1"))
	if err != nil {
		t.Fatal(err)
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
	if model.Manifest.Layers[0].Digest != godigest.FromString("1") {
		t.Error("not the first answer")
	}
}

func TestOpenRefusesRedirectToHTTP(t *testing.T) {
	plain := serve(t, fake{contentType: typeManifest, body: manifestOf(layer("a", "a"))})
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+plain+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "https://")
	_, err := newClient(t, oci.Options{InsecureSkipTLSVerify: true}).Open(t.Context(), mustParse(t, host+"/m:v1"))
	if err == nil || !strings.Contains(err.Error(), "redirected from https") {
		t.Errorf("error %v", err)
	}
}

// Rule 17: no credential crosses an origin.
func TestOpenRedirectLosesCredentials(t *testing.T) {
	good := manifestOf(layer("a", "a"))
	other := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the credential went to another origin")
		}
		fake{contentType: typeManifest, body: good}.ServeHTTP(w, r)
	}))
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, "http://"+other+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	client := newClient(t, oci.Options{Credentials: oci.StaticCredentials(host, "u", "p")})
	if _, err := client.Open(t.Context(), mustParse(t, host+"/m:v1")); err != nil {
		t.Fatal(err)
	}
}

// basicAuth demands a user name and a password.
func basicAuth(user, password string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func TestOpenBasicAuth(t *testing.T) {
	host := serve(t, basicAuth("alice", "secret", fake{contentType: typeManifest, body: manifestOf(layer("a", "a"))}))
	ref := mustParse(t, host+"/m:v1")
	if _, err := newClient(t, oci.Options{Credentials: oci.StaticCredentials(host, "alice", "secret")}).Open(t.Context(), ref); err != nil {
		t.Error(err)
	}
	for _, test := range []struct {
		name        string
		credentials oci.Credentials
		want        string
	}{
		{"none", nil, "no credentials found"},
		{"of another host", oci.StaticCredentials("ghcr.io", "alice", "secret"), "no credentials found"},
		{"wrong", func(context.Context, string, string) (oci.Credential, error) {
			return oci.Credential{Username: "alice", Password: "wrong", Source: `"auth.json"`}, nil
		}, `with credentials from "auth.json"`},
		{"that cannot be found out", func(context.Context, string, string) (oci.Credential, error) {
			return oci.Credential{}, errors.New("helper is missing")
		}, "helper is missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := newClient(t, oci.Options{Credentials: test.credentials}).Open(t.Context(), ref)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), host) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "wrong")) {
				t.Errorf("the error tells the password: %v", err)
			}
			if errors.Is(err, oci.ErrNotFound) {
				t.Error("an unreadable artifact is not found")
			}
		})
	}
}

// tokenServer plays a registry with a token server at /token.
func tokenServer(t *testing.T, user, password string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			if u, p, _ := r.BasicAuth(); u != user || p != password {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			if r.URL.Query().Get("service") != "test" {
				t.Errorf("service %q", r.URL.Query().Get("service"))
			}
			json.NewEncoder(w).Encode(map[string]string{"token": base64.URLEncoding.EncodeToString([]byte(r.URL.Query().Get("scope")))})
			return
		}
		token, _ := base64.URLEncoding.DecodeString(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		need := "pull"
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			need = "push"
		}
		scope, actions, _ := strings.Cut(strings.TrimPrefix(string(token), "repository:"), ":")
		if scope == "" || !strings.HasPrefix(r.URL.Path, "/v2/"+scope+"/") || !strings.Contains(actions, need) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, r.Host))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func TestOpenBearerAuth(t *testing.T) {
	handler := tokenServer(t, "alice", "secret", fake{contentType: typeManifest, body: manifestOf(layer("a", "a"))})
	host := serve(t, handler)
	ref := mustParse(t, host+"/m:v1")
	if _, err := newClient(t, oci.Options{Credentials: oci.StaticCredentials(host, "alice", "secret")}).Open(t.Context(), ref); err != nil {
		t.Error(err)
	}
	_, err := newClient(t, oci.Options{Credentials: oci.StaticCredentials(host, "alice", "wrong")}).Open(t.Context(), ref)
	if err == nil || !strings.Contains(err.Error(), "with credentials from the caller") {
		t.Errorf("error %v", err)
	}
	if _, err := newClient(t, oci.Options{}).Open(t.Context(), ref); err == nil || !strings.Contains(err.Error(), "no credentials found") {
		t.Errorf("error %v", err)
	}
}

// Each repository is asked for with its own credential, also after another.
func TestOpenCredentialsPerRepository(t *testing.T) {
	good := fake{contentType: typeManifest, body: manifestOf(layer("a", "a"))}
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user := strings.Split(r.URL.Path, "/")[2]
		basicAuth(user, "p", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.URL.Path = strings.Replace(r.URL.Path, "/v2/"+user, "/v2", 1)
			good.ServeHTTP(w, r)
		})).ServeHTTP(w, r)
	}))
	client := newClient(t, oci.Options{Credentials: func(_ context.Context, registry, repository string) (oci.Credential, error) {
		user, _, _ := strings.Cut(repository, "/")
		return oci.Credential{Username: user, Password: "p"}, nil
	}})
	for _, org := range []string{"one", "two", "one"} {
		if _, err := client.Open(t.Context(), mustParse(t, host+"/"+org+"/m:v1")); err != nil {
			t.Errorf("%s: %v", org, err)
		}
	}
}

// Rules 26 and 36: what a server says is cut and escaped.
func TestOpenQuotesWhatServersSay(t *testing.T) {
	evil := "\x1b[2J\u202e" + strings.Repeat("A", 5000)
	text, _ := json.Marshal(evil)
	for _, status := range []int{400, 401, 403, 404, 405} {
		host := serve(t, fake{status: status, contentType: "application/json", body: `{"errors":[{"code":` + string(text) + `,"message":` + string(text) + `}]}`})
		_, err := newClient(t, oci.Options{}).Open(t.Context(), mustParse(t, host+"/m:v1"))
		if err == nil {
			t.Fatal("no error")
		}
		if strings.ContainsAny(err.Error(), "\x1b\u202e") || len(err.Error()) > 600 {
			t.Errorf("%d: error %q", status, err)
		}
	}
}

func TestOpenCutsWhatLibrariesQuote(t *testing.T) {
	long := strings.Repeat("A", 50_000)
	for name, header := range map[string][2]string{
		"a redirect to nowhere":     {"Location", "http://[::1" + long},
		"a realm that is no URL":    {"WWW-Authenticate", `Bearer realm="ftp://` + long + `"`},
		"a redirect to a long host": {"Location", "gopher://" + long},
	} {
		t.Run(name, func(t *testing.T) {
			client := newClient(t, oci.Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				status := http.StatusTemporaryRedirect
				if header[0] == "WWW-Authenticate" {
					status = http.StatusUnauthorized
				}
				return answer(r, status, http.Header{header[0]: {header[1]}}, ""), nil
			})})
			_, err := client.Open(t.Context(), mustParse(t, "registry.example.com/m:v1"))
			if err == nil || len(err.Error()) > 1200 {
				t.Errorf("error %.2000q", err)
			}
		})
	}
}

func TestOpenPlainHTTPServerOverTLS(t *testing.T) {
	host := serve(t, fake{contentType: typeManifest, body: manifestOf(layer("a", "a"))})
	for _, written := range []string{"https://" + host + "/m:v1", host + "/m:v1"} {
		client := newClient(t, oci.Options{InsecureSkipTLSVerify: !strings.HasPrefix(written, "https://")})
		_, err := client.Open(t.Context(), mustParse(t, written))
		if !errors.Is(err, http.ErrSchemeMismatch) {
			t.Errorf("%s: error %v, want http.ErrSchemeMismatch", written, err)
		}
		if strings.Contains(err.Error(), "plain-http") {
			t.Errorf("the error teaches how to weaken: %v", err)
		}
	}
}

func TestFetch(t *testing.T) {
	content := []byte("hello")
	desc := ocispec.Descriptor{MediaType: "text/plain", Digest: godigest.FromBytes(content), Size: 5}
	body := manifestOf(layer("a.txt", "hello"))
	for _, test := range []struct {
		name string
		blob []byte
		head func(http.Header)
		code string // "": any error
		ok   bool
	}{
		{"right", content, nil, "", true},
		{"other bytes", []byte("jello"), nil, "digest-mismatch", false},
		{"cut short", content[:4], nil, "", false},
		{"cut short, without a length", content[:4], func(h http.Header) { h.Set("Transfer-Encoding", "chunked") }, "", false},
		{"a byte more", []byte("hello!"), nil, "", false},
		{"a byte more, without a length", []byte("hello!"), func(h http.Header) { h.Set("Transfer-Encoding", "chunked") }, "size-mismatch", false},
		{"nothing", nil, nil, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.Contains(r.URL.Path, "/blobs/") {
					fake{contentType: typeManifest, body: body}.ServeHTTP(w, r)
					return
				}
				if test.head != nil {
					test.head(w.Header())
					w.(http.Flusher).Flush()
				}
				w.Write(test.blob)
			}))
			model, err := newClient(t, oci.Options{}).Open(t.Context(), mustParse(t, host+"/m:v1"))
			if err != nil {
				t.Fatal(err)
			}
			rc, err := model.Fetch(t.Context(), desc)
			var got []byte
			if err == nil {
				defer rc.Close()
				got, err = io.ReadAll(rc)
			}
			switch {
			case test.ok && (err != nil || !bytes.Equal(got, content)):
				t.Errorf("%q, %v", got, err)
			case test.code != "":
				wantThreat(t, err, test.code)
			case !test.ok && err == nil:
				t.Error("no error")
			}
		})
	}
	t.Run("a descriptor that is none", func(t *testing.T) {
		host := serve(t, fake{contentType: typeManifest, body: body})
		model, err := newClient(t, oci.Options{}).Open(t.Context(), mustParse(t, host+"/m:v1"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = model.Fetch(t.Context(), ocispec.Descriptor{Digest: "sha256:..", Size: 1})
		wantThreat(t, err, "digest-format")
		_, err = model.Fetch(t.Context(), ocispec.Descriptor{Digest: desc.Digest, Size: -1})
		wantThreat(t, err, "negative-size")
		_, err = model.Fetch(t.Context(), desc)
		if !errors.Is(err, oci.ErrNotFound) {
			t.Errorf("error %v, want ErrNotFound", err)
		}
	})
}

// Rule 17: the query of a redirect to storage is a credential.
func TestErrorsHaveNoQuery(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, closed.URL+"/blob?signature=hunter2", http.StatusTemporaryRedirect)
	}))
	_, err := newClient(t, oci.Options{}).Open(t.Context(), mustParse(t, host+"/m:v1"))
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "/blob") {
		t.Errorf("error %v", err)
	}
}

func TestLogger(t *testing.T) {
	var log bytes.Buffer
	host := serve(t, basicAuth("alice", "hunter2", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Values("User-Agent"); len(got) != 1 || got[0] != "modelsig/1" {
			t.Errorf("User-Agent %q", got)
		}
		if r.URL.RawQuery == "" {
			http.Redirect(w, r, r.URL.Path+"?signature=hunter2", http.StatusTemporaryRedirect)
			return
		}
		fake{contentType: typeManifest, body: manifestOf(layer("a", "a"))}.ServeHTTP(w, r)
	})))
	client := newClient(t, oci.Options{
		Credentials: oci.StaticCredentials(host, "alice", "hunter2"),
		UserAgent:   "modelsig/1",
		Logger:      slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if _, err := client.Open(t.Context(), mustParse(t, host+"/m:v1")); err != nil {
		t.Fatal(err)
	}
	if text := log.String(); strings.Contains(text, "hunter2") || !strings.Contains(text, "status=200") {
		t.Errorf("log %s", text)
	}
}
