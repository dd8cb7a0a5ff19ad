//go:build unix

package e2e

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"
)

// A misbehaviour answers instead of the registry. next is the registry.
type misbehaviour func(ts *testscript.TestScript, args []string, next http.Handler) (http.Handler, error)

// lists are the requests for what is attached: the API and the fallback tag.
const lists = `/referrers/|/manifests/sha256-`

// faults by name. The comment says what stands in ARG….
var faults = map[string]misbehaviour{
	// STATUS [PATTERN]: answers with that status.
	"status": func(_ *testscript.TestScript, args []string, _ http.Handler) (http.Handler, error) {
		status, err := strconv.Atoi(args[0])
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			switch status {
			case http.StatusTooManyRequests:
				w.Header().Set("Retry-After", "1")
			case http.StatusUnauthorized:
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			}
			w.WriteHeader(status)
		}), err
	},
	// STATUS [PATTERN]: the first such request is answered so, the rest properly.
	"once": func(_ *testscript.TestScript, args []string, next http.Handler) (http.Handler, error) {
		status, err := strconv.Atoi(args[0])
		var asked atomic.Bool
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if asked.Swap(true) {
				next.ServeHTTP(w, req)
				return
			}
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(status)
		}), err
	},
	// TYPE [PATTERN]: 200 with a page of that type, as portals and single-page
	// applications do.
	"page": func(_ *testscript.TestScript, args []string, _ http.Handler) (http.Handler, error) {
		return page(args[0]), nil
	},
	// - [PATTERN]: denies with words that would act on a terminal.
	"say": func(*testscript.TestScript, []string, http.Handler) (http.Handler, error) {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"errors":[{"code":"DENIED\u001b[2J","message":"\u001b]0;x\u0007\u202e`+"\u202e"+`","detail":"\u009b31m"}]}`)
		}), nil
	},
	// TYPE [PATTERN]: 303 to such a page.
	"redirect": func(ts *testscript.TestScript, args []string, _ http.Handler) (http.Handler, error) {
		portal := registryOf(ts).open(page(args[0]))
		return http.RedirectHandler(portal.URL+"/login", http.StatusSeeOther), nil
	},
	// STATUS [PATTERN]: 303 to another origin, which answers with that status.
	"away": func(ts *testscript.TestScript, args []string, _ http.Handler) (http.Handler, error) {
		status, err := strconv.Atoi(args[0])
		portal := registryOf(ts).open(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(status)
		}))
		return http.RedirectHandler(portal.URL+"/login", http.StatusSeeOther), err
	},
	// - [PATTERN]: never answers.
	"hang": func(*testscript.TestScript, []string, http.Handler) (http.Handler, error) {
		return http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }), nil
	},
	// - [PATTERN]: half of the answer, then the connection ends.
	"cut": func(_ *testscript.TestScript, _ []string, next http.Handler) (http.Handler, error) {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			whole := answerOf(next, req)
			copyHeader(w, whole)
			w.Header().Set("Content-Length", strconv.Itoa(whole.Body.Len()))
			w.WriteHeader(whole.Code)
			_, _ = w.Write(whole.Body.Bytes()[:whole.Body.Len()/2])
			panic(http.ErrAbortHandler)
		}), nil
	},
	// - [PATTERN]: the last byte of each answer is another one.
	"flip": func(_ *testscript.TestScript, _ []string, next http.Handler) (http.Handler, error) {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			whole := answerOf(next, req)
			copyHeader(w, whole)
			body := bytes.Clone(whole.Body.Bytes())
			if len(body) > 0 {
				body[len(body)-1] ^= 1
			}
			w.WriteHeader(whole.Code)
			_, _ = w.Write(body)
		}), nil
	},
	// TAG [PATTERN]: the second and later requests get what TAG names.
	"moves": func(_ *testscript.TestScript, args []string, next http.Handler) (http.Handler, error) {
		var asked atomic.Bool
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if asked.Swap(true) {
				head, _, _ := strings.Cut(req.URL.Path, "/manifests/")
				req.URL.Path = head + "/manifests/" + args[0]
			}
			next.ServeHTTP(w, req)
		}), nil
	},
	// FILE [PATTERN]: answers with that image index.
	"index": func(ts *testscript.TestScript, args []string, _ http.Handler) (http.Handler, error) {
		data := []byte(ts.ReadFile(args[0]))
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			_, _ = w.Write(data)
		}), nil
	},
	// N [PATTERN]: an image index with N entries that exist nowhere.
	"entries": func(_ *testscript.TestScript, args []string, _ http.Handler) (http.Handler, error) {
		n, err := strconv.Atoi(args[0])
		var index bytes.Buffer
		index.WriteString(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[`)
		for i := range n {
			if i > 0 {
				index.WriteByte(',')
			}
			fmt.Fprintf(&index, `{"mediaType":%q,"digest":"sha256:%064x","size":600,"artifactType":%q}`, ocispec.MediaTypeImageManifest, i, bundleType)
		}
		index.WriteString("]}")
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			_, _ = w.Write(index.Bytes())
		}), err
	},
	// other-origin|itself [PATTERN]: every page has a next one, there.
	"link": func(ts *testscript.TestScript, args []string, next http.Handler) (http.Handler, error) {
		elsewhere := registryOf(ts).open(next)
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			target := req.URL.RequestURI()
			if args[0] == "other-origin" {
				target = elsewhere.URL + target
			}
			w.Header().Set("Link", "<"+target+`>; rel="next"`)
			next.ServeHTTP(w, req)
		}), nil
	},
	// - [PATTERN]: says that it took what was sent, and forgets it.
	"forget": func(_ *testscript.TestScript, _ []string, next http.Handler) (http.Handler, error) {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method != http.MethodPut {
				next.ServeHTTP(w, req)
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			w.Header().Set("Location", req.URL.Path)
			w.Header().Set("OCI-Subject", "sha256:"+strings.Repeat("0", 64))
			w.WriteHeader(http.StatusCreated)
		}), nil
	},
	// STATUS [PATTERN]: takes nothing, answers everything else.
	"readonly": func(_ *testscript.TestScript, args []string, next http.Handler) (http.Handler, error) {
		status, err := strconv.Atoi(args[0])
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodGet || req.Method == http.MethodHead {
				next.ServeHTTP(w, req)
				return
			}
			w.WriteHeader(status)
		}), err
	},
	// - [PATTERN]: Content-Type with a parameter, which is legal.
	"parameters": func(_ *testscript.TestScript, _ []string, next http.Handler) (http.Handler, error) {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			whole := answerOf(next, req)
			copyHeader(w, whole)
			w.Header().Set("Content-Type", whole.Header().Get("Content-Type")+"; charset=utf-8")
			w.WriteHeader(whole.Code)
			_, _ = w.Write(whole.Body.Bytes())
		}), nil
	},
	// - [PATTERN]: nothing wrong. See requests.
	"none": func(_ *testscript.TestScript, _ []string, next http.Handler) (http.Handler, error) {
		return next, nil
	},
}

// openFault starts a server in front of the registry that misbehaves in one
// way, for requests whose path matches a pattern; by default those for what is
// attached.
func openFault(_ context.Context, ts *testscript.TestScript, args []string) error {
	misbehave, ok := faults[args[0]]
	if !ok {
		return fmt.Errorf("no fault %q", args[0])
	}
	pattern := lists
	if len(args) > 2 {
		pattern = args[2]
	}
	where, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	r := registryOf(ts)
	bad, err := misbehave(ts, args[1:], r.handler)
	if err != nil {
		return err
	}
	server := r.open(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.asked = append(r.asked, req.Method+" "+req.URL.RequestURI())
		r.mu.Unlock()
		select {
		case r.hit <- struct{}{}:
		default:
		}
		if where.MatchString(req.URL.Path) {
			bad.ServeHTTP(w, req)
			return
		}
		r.handler.ServeHTTP(w, req)
	}))
	r.mu.Lock()
	r.asked = nil
	r.mu.Unlock()
	select {
	case <-r.hit:
	default:
	}
	ts.Setenv("FAULTY", hostOf(server))
	return nil
}

// requests prints what was asked since the last fault or the last time.
func requests(_ context.Context, ts *testscript.TestScript, _ []string) error {
	r := registryOf(ts)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, line := range r.asked {
		fmt.Fprintln(ts.Stdout(), line)
	}
	fmt.Fprintf(ts.Stdout(), "%d requests\n", len(r.asked))
	r.asked = nil
	return nil
}

func page(mediaType string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		fmt.Fprint(w, "<!doctype html><title>Sign in</title>")
	})
}

func answerOf(h http.Handler, req *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	return rec
}

func copyHeader(w http.ResponseWriter, from *httptest.ResponseRecorder) {
	for name, values := range from.Header() {
		w.Header()[name] = values
	}
}

// The credentials that guarded registries demand.
const (
	user   = "alice"
	secret = "correct horse"
	token  = "token-of-alice"
)

// serve starts a server in front of the registry that demands credentials, or
// speaks TLS with a certificate that is then in the file ca.pem.
func serve(_ context.Context, ts *testscript.TestScript, args []string) error {
	r := registryOf(ts)
	var server *httptest.Server
	switch args[0] {
	case "basic":
		server = r.open(guard(r.handler, isAlice, basicChallenge))
	case "redirecting":
		// As basic, but blobs are elsewhere, where no credential may go.
		elsewhere := r.open(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Header.Get("Authorization") != "" {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			r.handler.ServeHTTP(w, req)
		}))
		server = r.open(guard(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/sha256:") {
				http.Redirect(w, req, elsewhere.URL+req.URL.Path, http.StatusTemporaryRedirect)
				return
			}
			r.handler.ServeHTTP(w, req)
		}), isAlice, basicChallenge))
	case "luring":
		server = r.open(guard(r.luring(), isAlice, basicChallenge))
	case "bearer":
		server = r.open(withTokens(guard(r.handler, func(req *http.Request) bool {
			return req.Header.Get("Authorization") == "Bearer "+token
		}, func(host string) string {
			return `Bearer realm="http://` + host + `/token",service="test",scope="repository:acme/tiny:pull,push"`
		})))
	case "tls":
		server = httptest.NewUnstartedServer(r.handler)
		server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that refuse the certificate
		server.StartTLS()
		r.others = append(r.others, server)
		block := &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}
		if err := os.WriteFile(ts.MkAbs("ca.pem"), pem.EncodeToMemory(block), 0o644); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%q is no kind of server", args[0])
	}
	ts.Setenv("GUARDED", hostOf(server))
	return nil
}

// luring redirects the list of referrers to another origin, whose next page
// asks for a password and for a token. What is sent there is seen by requests.
func (r *registry) luring() http.Handler {
	elsewhere := r.open(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.asked = append(r.asked, fmt.Sprintf("elsewhere %s credential=%t", req.URL.Path, req.Header.Get("Authorization") != ""))
		r.mu.Unlock()
		switch req.URL.Path {
		case "/list":
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			w.Header().Set("Link", `</next>; rel="next"`)
			fmt.Fprint(w, `{"schemaVersion":2,"mediaType":"`+ocispec.MediaTypeImageIndex+`","manifests":[]}`)
		default:
			w.Header().Add("WWW-Authenticate", `Basic realm="test"`)
			w.Header().Add("WWW-Authenticate", `Bearer realm="http://`+req.Host+`/token",service="test"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.Contains(req.URL.Path, "/referrers/") {
			http.Redirect(w, req, elsewhere.URL+"/list", http.StatusTemporaryRedirect)
			return
		}
		r.handler.ServeHTTP(w, req)
	})
}

func isAlice(req *http.Request) bool {
	name, password, _ := req.BasicAuth()
	return name == user && password == secret
}

func basicChallenge(string) string { return `Basic realm="test"` }

func guard(next http.Handler, ok func(*http.Request) bool, challenge func(host string) string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !ok(req) {
			w.Header().Set("WWW-Authenticate", challenge(req.Host))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// withTokens is a token server beside a registry.
func withTokens(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/token" {
			next.ServeHTTP(w, req)
			return
		}
		if !isAlice(req) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"token":%q,"expires_in":300}`, token)
	})
}
