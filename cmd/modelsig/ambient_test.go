package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/modelsig/modelsig/e2e/fakesigstore"
)

// secretOfTheJob is what a job proves itself with; no message may have it.
const secretOfTheJob = "secret-of-the-job"

// A cloud stands for the services that tokens of jobs and machines are asked
// from. It answers what the real ones do, to requests as they want them.
type cloud struct {
	t      *testing.T
	server *httptest.Server
	mux    *http.ServeMux
	issuer *fakesigstore.Issuer

	mu    sync.Mutex
	calls []string
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	c := &cloud{t: t, mux: http.NewServeMux(), issuer: fakesigstore.NewIssuer(t)}
	c.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.calls = append(c.calls, r.Method+" "+r.URL.EscapedPath())
		c.mu.Unlock()
		c.mux.ServeHTTP(w, r)
	}))
	t.Cleanup(c.server.Close)
	return c
}

// called is what was asked for, in order.
func (c *cloud) called() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.calls, " ")
}

// surroundings are empty but for a way to the cloud.
func (c *cloud) surroundings() *surroundings {
	s := emptySurroundings(c.t)
	s.client, s.direct = identityClient(nil), identityClient(nil)
	s.metadata, s.iam = c.server.URL, c.server.URL
	return s
}

func (c *cloud) token(subject, audience string) string {
	return c.issuer.Token(map[string]any{"sub": subject, "aud": audience})
}

func giveJSON(t *testing.T, w http.ResponseWriter, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		t.Error(err)
	}
}

// github is the service of a runner.
func (c *cloud) github() {
	c.t.Setenv(githubURL, c.server.URL+"/pool/idtoken?api-version=2.0&audience=other")
	c.t.Setenv(githubToken, secretOfTheJob)
	c.mux.HandleFunc("GET /pool/idtoken", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if r.Header.Get("Authorization") != "Bearer "+secretOfTheJob || q.Get("api-version") != "2.0" || len(q["audience"]) != 1 {
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		giveJSON(c.t, w, map[string]any{"count": 1, "value": c.token("github", q.Get("audience"))})
	})
}

// buildkite is the agent's API.
func (c *cloud) buildkite() {
	c.t.Setenv(buildkiteURL, c.server.URL+"/v3")
	c.t.Setenv(buildkiteToken, secretOfTheJob)
	c.t.Setenv(buildkiteJob, "0184-a/b")
	c.mux.HandleFunc("POST /v3/jobs/{job}/oidc/tokens", func(w http.ResponseWriter, r *http.Request) {
		var body map[string]string
		err := json.NewDecoder(r.Body).Decode(&body)
		if err != nil || len(body) != 1 || r.Header.Get("Authorization") != "Token "+secretOfTheJob ||
			r.Header.Get("Content-Type") != "application/json" || r.PathValue("job") != "0184-a/b" {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusCreated)
		giveJSON(c.t, w, map[string]any{"token": c.token("buildkite", body["audience"])})
	})
}

// google is the metadata server, and the service that lets one account act for
// another.
func (c *cloud) google() {
	c.mux.HandleFunc("GET /computeMetadata/v1/instance/service-accounts/default/{what}", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Metadata-Flavor") != "Google" || r.Header.Get("Authorization") != "" {
			http.Error(w, "Missing Metadata-Flavor:Google header", http.StatusForbidden)
			return
		}
		w.Header().Set("Metadata-Flavor", "Google")
		switch r.PathValue("what") {
		case "identity":
			if r.FormValue("format") != "full" {
				http.Error(w, "without an address", http.StatusBadRequest)
				return
			}
			_, _ = io.WriteString(w, c.token("google", r.FormValue("audience")))
		case "token":
			giveJSON(c.t, w, map[string]any{"access_token": secretOfTheJob, "expires_in": 3599, "token_type": "Bearer"})
		}
	})
	c.mux.HandleFunc("POST /v1/projects/-/serviceAccounts/{call}", func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Audience     string `json:"audience"`
			IncludeEmail bool   `json:"includeEmail"`
		}
		err := json.NewDecoder(r.Body).Decode(&body)
		if err != nil || !body.IncludeEmail || r.Header.Get("Authorization") != "Bearer "+secretOfTheJob || r.PathValue("call") != "signer@p.iam.gserviceaccount.com:generateIdToken" {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		giveJSON(c.t, w, map[string]any{"token": c.token("signer@p.iam.gserviceaccount.com", body.Audience)})
	})
}

// sign is who signs in these surroundings, by a token for the audience sigstore.
func (c *cloud) sign(s *surroundings) (string, error) {
	source, err := s.tokens(c.t.Context(), new(app), tokenFlags{ClientID: "sigstore"}, nil)
	if err != nil {
		return "", err
	}
	token, err := source(c.t.Context())
	if err != nil {
		return "", err
	}
	return whoSigns(c.t, token), nil
}

func TestTheMostSpecificIdentityThatIsThereSigns(t *testing.T) {
	for name, tt := range map[string]struct {
		set   func(*cloud, *surroundings)
		want  string
		calls string
	}{
		"a job of GitHub Actions": {
			func(c *cloud, _ *surroundings) { c.github() }, "github", "GET /pool/idtoken"},
		"a job of Buildkite": {
			func(c *cloud, _ *surroundings) { c.buildkite() }, "buildkite", "POST /v3/jobs/0184-a%2Fb/oidc/tokens"},
		"a pod": {
			func(c *cloud, s *surroundings) { writeToken(c.t, s.kubernetes, c.token("pod", "sigstore")) }, "pod", ""},
		"a machine with a metadata server that is named": {
			func(c *cloud, _ *surroundings) { c.google(); c.t.Setenv(metadataVariable, "x") }, "google",
			"GET /computeMetadata/v1/instance/service-accounts/default/identity"},
		"an account that the machine acts for": {
			func(c *cloud, _ *surroundings) {
				c.google()
				c.t.Setenv(googleAccount, "signer@p.iam.gserviceaccount.com")
			}, "signer@p.iam.gserviceaccount.com",
			"GET /computeMetadata/v1/instance/service-accounts/default/token POST /v1/projects/-/serviceAccounts/signer@p.iam.gserviceaccount.com:generateIdToken"},
		"a job on a machine of Google's, of GitHub and Buildkite, in a pod": {
			func(c *cloud, s *surroundings) {
				c.google()
				c.t.Setenv(metadataVariable, "x")
				writeToken(c.t, s.kubernetes, c.token("pod", "sigstore"))
				c.buildkite()
				c.github()
			}, "github", "GET /pool/idtoken"},
		"a job of Buildkite, in a pod": {
			func(c *cloud, s *surroundings) {
				writeToken(c.t, s.kubernetes, c.token("pod", "sigstore"))
				c.buildkite()
			}, "buildkite", "POST /v3/jobs/0184-a%2Fb/oidc/tokens"},
		"a pod on a machine of Google's": {
			func(c *cloud, s *surroundings) {
				c.google()
				c.t.Setenv(googleAccount, "signer@p.iam.gserviceaccount.com")
				writeToken(c.t, s.kubernetes, c.token("pod", "sigstore"))
			}, "pod", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t)
			s := c.surroundings()
			tt.set(c, s)
			got, err := c.sign(s)
			if err != nil || got != tt.want {
				t.Errorf("%q signs, %v; want %q", got, err, tt.want)
			}
			if calls := c.called(); calls != tt.calls {
				t.Errorf("calls %q, want %q", calls, tt.calls)
			}
		})
	}
}

// The firmware says whose machine it is; on no other is anything asked.
func TestOnlyMachinesOfGooglesAreAskedForTheirIdentity(t *testing.T) {
	for product, want := range map[string]bool{
		"Google Compute Engine\n": true, "Google\n": true, "Standard PC (i440FX + PIIX, 1996)\n": false, "Google Pixelbook\n": false, "\n": false,
	} {
		t.Run(strings.TrimSpace(product), func(t *testing.T) {
			c := newCloud(t)
			s := c.surroundings()
			c.google()
			writeToken(t, s.product, product)
			got, err := c.sign(s)
			if want && runtime.GOOS == "linux" {
				if err != nil || got != "google" {
					t.Errorf("%q signs, %v", got, err)
				}
				return
			}
			if !errors.Is(err, errNoAmbient) || c.called() != "" {
				t.Errorf("%v, calls %q", err, c.called())
			}
		})
	}
}

// Whatever goes wrong with the first identity that is there, no other one signs
// in its place, and no secret is told.
func TestAnIdentityThatDoesNotWorkIsAnError(t *testing.T) {
	answering := func(status int, body string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Metadata-Flavor", "Google")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	job := func(c *cloud, answer func(http.ResponseWriter, *http.Request)) {
		c.t.Setenv(githubURL, c.server.URL+"/pool/idtoken?api-version=2.0")
		c.t.Setenv(githubToken, secretOfTheJob)
		c.mux.HandleFunc("GET /pool/idtoken", answer)
	}
	for name, tt := range map[string]struct {
		set  func(*cloud, *surroundings)
		want string
		hint string
	}{
		"GitHub without its token": {func(c *cloud, _ *surroundings) { c.t.Setenv(githubURL, c.server.URL) },
			"GitHub Actions: ACTIONS_ID_TOKEN_REQUEST_TOKEN is not set", "permissions: id-token: write"},
		"GitHub without its URL": {func(c *cloud, _ *surroundings) { c.t.Setenv(githubToken, secretOfTheJob) },
			"GitHub Actions: ACTIONS_ID_TOKEN_REQUEST_URL is not set", "permissions: id-token: write"},
		"GitHub with a URL of another kind": {func(c *cloud, _ *surroundings) {
			c.t.Setenv(githubToken, secretOfTheJob)
			c.t.Setenv(githubURL, "file:///etc/passwd")
		},
			"GitHub Actions: ACTIONS_ID_TOKEN_REQUEST_URL is no http or https URL", ""},
		"GitHub refuses, and repeats the secret": {func(c *cloud, _ *surroundings) {
			job(c, answering(http.StatusForbidden, "no \x1b[31m for "+secretOfTheJob+strings.Repeat("x", 1000)))
		}, `GitHub Actions: status 403, not 200: "no \x1b[31m for …xxx`, ""},
		"GitHub sends elsewhere": {func(c *cloud, _ *surroundings) {
			elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { c.t.Error("the redirect was followed") }))
			c.t.Cleanup(elsewhere.Close)
			job(c, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
			})
		}, "GitHub Actions: status 307, not 200", ""},
		"GitHub's answer is no JSON": {func(c *cloud, _ *surroundings) { job(c, answering(200, secretOfTheJob)) },
			"GitHub Actions: the answer has no value", ""},
		"GitHub's answer has a list where the token goes": {func(c *cloud, _ *surroundings) { job(c, answering(200, `{"value":["`+secretOfTheJob+`"]}`)) },
			"GitHub Actions: the answer has no value", ""},
		"GitHub's answer has an empty token": {func(c *cloud, _ *surroundings) { job(c, answering(200, `{"value":""}`)) },
			"GitHub Actions: the answer has no value", ""},
		"GitHub's answer has something else for a token": {func(c *cloud, _ *surroundings) { job(c, answering(200, `{"value":"`+secretOfTheJob+`"}`)) },
			"GitHub Actions: read identity token: it is no JWT", ""},
		"GitHub's answer has no end": {func(c *cloud, _ *surroundings) {
			job(c, func(w http.ResponseWriter, _ *http.Request) {
				for {
					if _, err := io.WriteString(w, strings.Repeat(" ", 1<<16)); err != nil {
						return
					}
				}
			})
		}, "GitHub Actions: read the answer: the answer is longer than the limit of 262144 bytes", ""},
		"GitHub's answer is for somebody else": {func(c *cloud, _ *surroundings) { job(c, answering(200, `{"value":"`+c.token("x", "other")+`"}`)) },
			`GitHub Actions: the identity token is for another audience: it names "other", not "sigstore"`, "--client-id"},
		"nobody is where GitHub should be": {func(c *cloud, _ *surroundings) { c.github(); c.server.Close() },
			"GitHub Actions: dial tcp", ""},
		"a job that GitHub gave no identity": {func(c *cloud, _ *surroundings) { c.t.Setenv("GITHUB_ACTIONS", "true") },
			"no ambient credentials", "permissions: id-token: write"},
		"Buildkite without a job": {func(c *cloud, _ *surroundings) { c.t.Setenv(buildkiteToken, secretOfTheJob) },
			"Buildkite: BUILDKITE_JOB_ID is not set", ""},
		"Buildkite at a URL with a password": {func(c *cloud, _ *surroundings) {
			c.buildkite()
			c.t.Setenv(buildkiteURL, "https://agent:"+secretOfTheJob+"@agent.example.com")
		}, "Buildkite: BUILDKITE_AGENT_ENDPOINT is no http or https URL", ""},
		"Buildkite refuses": {func(c *cloud, _ *surroundings) { c.buildkite(); c.t.Setenv(buildkiteToken, "another") },
			`Buildkite: status 400, not 200: "bad request"`, ""},
		"a pod's token is for somebody else": {func(c *cloud, s *surroundings) {
			c.google()
			c.t.Setenv(metadataVariable, "x")
			writeToken(c.t, s.kubernetes, c.token("pod", "kubernetes.default.svc"))
		}, `names "kubernetes.default.svc"`, "--client-id"},
		"a pod's token is a folder": {func(c *cloud, s *surroundings) {
			if err := os.Mkdir(s.kubernetes, 0o700); err != nil {
				c.t.Fatal(err)
			}
		}, "Kubernetes (", ""},
		"a metadata server that is none of Google's": {func(c *cloud, s *surroundings) {
			c.t.Setenv(metadataVariable, "x")
			c.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, c.token("proxy", "sigstore")) })
		}, "Google Cloud: metadata server: the answer is not one of Google's", ""},
		"a machine without an account": {func(c *cloud, s *surroundings) {
			c.t.Setenv(metadataVariable, "x")
			c.mux.HandleFunc("/", answering(http.StatusNotFound, "no account"))
		}, `Google Cloud: metadata server: status 404, not 200: "no account"`, ""},
		"an account that the machine may not act for": {func(c *cloud, s *surroundings) {
			c.google()
			c.t.Setenv(googleAccount, "other@p.iam.gserviceaccount.com")
		}, `Google Cloud, as other@p.iam.gserviceaccount.com: status 400`, ""},
		"a metadata server without an access token": {func(c *cloud, s *surroundings) {
			c.t.Setenv(googleAccount, "other@p.iam.gserviceaccount.com")
			c.mux.HandleFunc("/", answering(200, "{}"))
		}, `metadata server: the answer has no access_token`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t)
			s := c.surroundings()
			tt.set(c, s)
			got, err := c.sign(s)
			if err == nil || !strings.Contains(err.Error(), tt.want) || exitCode(err) != exitTrouble {
				t.Fatalf("%q signs, %v; want an error with %q", got, err, tt.want)
			}
			if hint := hint(err); tt.hint == "" && hint != "" || !strings.Contains(hint, tt.hint) {
				t.Errorf("hint %q, want %q", hint, tt.hint)
			}
			if strings.Contains(err.Error(), secretOfTheJob) || len(err.Error()) > 2*maxQuoted {
				t.Errorf("the error tells a secret, or has no end: %v", err)
			}
		})
	}
}

func TestTheWaitForATokenEndsWithTheContext(t *testing.T) {
	c := newCloud(t)
	s := c.surroundings()
	c.t.Setenv(githubURL, c.server.URL+"/hang")
	c.t.Setenv(githubToken, secretOfTheJob)
	cause := errors.New("no answer within a second (--timeout)")
	ctx, cancel := context.WithCancelCause(t.Context())
	c.mux.HandleFunc("GET /hang", func(_ http.ResponseWriter, r *http.Request) {
		cancel(cause)
		<-r.Context().Done()
	})
	if _, err := s.tokens(ctx, new(app), tokenFlags{ClientID: "sigstore"}, nil); !errors.Is(err, cause) {
		t.Error(err)
	}
}

// What is on the link is not asked through a proxy, which would hand out its own
// identity.
func TestTheMetadataServerIsNotAskedThroughAProxy(t *testing.T) {
	proxy, err := url.Parse("http://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	c := newCloud(t)
	s := c.surroundings()
	c.google()
	s.client = identityClient(http.ProxyURL(proxy))
	t.Setenv(metadataVariable, "x")
	if got, err := c.sign(s); err != nil || got != "google" {
		t.Errorf("%q signs, %v", got, err)
	}
	t.Setenv(googleAccount, "signer@p.iam.gserviceaccount.com")
	if got, err := c.sign(s); err == nil {
		t.Errorf("%q signs, and the proxy is not there", got)
	}
}
