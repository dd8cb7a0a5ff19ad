package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/e2e/fakesigstore"
)

// A person sits at a terminal: reads what is shown, and acts on it.
type person struct {
	t      *testing.T
	issuer *fakesigstore.Issuer
	s      *surroundings
	args   []string
	read   func(text string) // what is shown, as it comes; nil: nobody looks

	stdin *io.PipeReader
	types *io.PipeWriter

	visited atomic.Int32 // pages that the browser was opened for

	mu    sync.Mutex
	shown bytes.Buffer
}

// newPerson is somebody who logs in as l says, with a browser.
func newPerson(t *testing.T, l fakesigstore.Login, args ...string) *person {
	t.Helper()
	p := &person{t: t, issuer: fakesigstore.NewIssuer(t), s: emptySurroundings(t), args: args}
	if l.Claims == nil {
		l.Claims = map[string]any{"sub": "42", "email": "a@example.com", "email_verified": true}
	}
	p.issuer.Logins(l)
	p.stdin, p.types = io.Pipe()
	t.Cleanup(func() { p.types.Close() })
	p.s.client = identityClient(nil)
	p.s.terminal = func() bool { return true }
	p.s.browser = func(address string) error {
		p.visited.Add(1)
		go p.visit(address) // a browser is a process of its own
		return nil
	}
	return p
}

// visit is what the browser shows in the end.
func (p *person) visit(address string) string {
	resp, err := http.Get(address)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(page)
}

// Write is the terminal.
func (p *person) Write(text []byte) (int, error) {
	p.mu.Lock()
	p.shown.Write(text)
	p.mu.Unlock()
	if p.read != nil {
		p.read(string(text))
	}
	return len(text), nil
}

func (p *person) saw() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shown.String()
}

// source is where the tokens of this person come from.
func (p *person) source() bundle.TokenSource {
	p.t.Helper()
	source, err := p.s.tokens(p.t.Context(), &app{stdin: p.stdin, stderr: p}, parseTokenFlags(p.t, p.args...), func() (string, error) { return p.issuer.URL, nil })
	if err != nil {
		p.t.Fatal(err)
	}
	return source
}

// typesTheCode has a person follow the address that is shown for it, and type
// the code that is there, as change changes it.
func (p *person) typesTheCode(change func(string) string) {
	address := regexp.MustCompile(`(?m)^\t (http\S+redirect_uri=urn\S+)$`)
	p.read = func(shown string) {
		if found := address.FindStringSubmatch(shown); found != nil {
			go func() {
				_, code, _ := strings.Cut(p.visit(found[1]), "Your code: ")
				_, _ = io.WriteString(p.types, change(code))
			}()
		}
	}
}

func asIs(code string) string { return code }

const publicNote = "note: the certificate, with your address in it, and the log entry of the signature are public, and stay so\n"

func TestALoginWithABrowser(t *testing.T) {
	p := newPerson(t, fakesigstore.Login{})
	source := p.source()
	if p.saw() != "" || p.visited.Load() != 0 {
		t.Fatal("a person was asked before a token was needed")
	}
	for range 2 {
		token, err := source(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := whoSigns(t, token); got != "a@example.com" {
			t.Errorf("%s signs", got)
		}
	}
	if p.visited.Load() != 1 {
		t.Errorf("the browser was opened %d times", p.visited.Load())
	}
	if shown := p.saw(); !strings.HasPrefix(shown, publicNote) || !strings.Contains(shown, "Your browser will now be opened to:\n"+p.issuer.URL+"/auth?") {
		t.Errorf("shown: %s", shown)
	}
}

func TestALoginWithASecretOfTheClient(t *testing.T) {
	secret := writeToken(t, filepath.Join(t.TempDir(), "secret"), "s3cret/+%\r\nnot this line\n")
	for name, extra := range map[string]map[string]any{
		"in a header, as is the default":  nil,
		"in the body":                     {"token_endpoint_auth_methods_supported": []string{"client_secret_post"}},
		"in a header, where both will do": {"token_endpoint_auth_methods_supported": []string{"client_secret_post", "client_secret_basic"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPerson(t, fakesigstore.Login{ClientID: "mine", ClientSecret: "s3cret/+%", Extra: extra}, "--client-id", "mine", "--client-secret-file", secret)
			if token, err := p.source()(t.Context()); err != nil || token == "" {
				t.Error(err)
			}
		})
	}
	t.Run("the wrong one", func(t *testing.T) {
		p := newPerson(t, fakesigstore.Login{ClientSecret: "another"}, "--client-secret-file", secret)
		_, err := p.source()(t.Context())
		if err == nil || !strings.Contains(err.Error(), `the provider answers "invalid_client"`) || strings.Contains(err.Error(), "s3cret") {
			t.Error(err)
		}
	})
}

func TestALoginWithACodeThatIsTyped(t *testing.T) {
	for name, set := range map[string]func(*person){
		"as was wanted":                                      func(p *person) { p.args = []string{"--oauth-force-oob"} },
		"where there is no browser":                          func(p *person) { p.s.browser = nil },
		"where the browser does not start":                   func(p *person) { p.s.browser = func(string) error { return errors.New("it is \x1b[31mbroken") } },
		"as was wanted, where the flow for devices would do": func(p *person) { p.s.browser = nil; p.args = []string{"--oauth-force-oob"} },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPerson(t, fakesigstore.Login{Device: strings.Contains(name, "devices")})
			set(p)
			p.typesTheCode(asIs)
			token, err := p.source()(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := whoSigns(t, token); got != "a@example.com" || p.visited.Load() != 0 {
				t.Errorf("%s signs, browser opened %d times", got, p.visited.Load())
			}
			if shown := p.saw(); !strings.HasPrefix(shown, publicNote) || strings.Contains(shown, "\x1b") {
				t.Errorf("shown: %q", shown)
			}
		})
	}
	t.Run("a wrong code", func(t *testing.T) {
		p := newPerson(t, fakesigstore.Login{}, "--oauth-force-oob")
		p.typesTheCode(strings.ToLower)
		if _, err := p.source()(t.Context()); err == nil || !strings.Contains(err.Error(), `the provider answers "invalid_grant"`) {
			t.Error(err)
		}
	})
}

// inMemory is a network without time.
type inMemory struct{ http.Handler }

func (m inMemory) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body == nil {
		req.Body = http.NoBody
	}
	answer := httptest.NewRecorder()
	m.ServeHTTP(answer, req)
	return answer.Result(), nil
}

// deviceAddress is where a person without a browser is sent.
var deviceAddress = regexp.MustCompile(`(?m)check that it shows the code (\S+):\n\n\t(http\S+user_code=(\S+))\n`)

func TestALoginOnAnotherDevice(t *testing.T) {
	for name, tt := range map[string]struct {
		login fakesigstore.Login
		args  []string
		stay  bool // nobody goes to the address
		fails string
	}{
		"a person says yes":            {login: fakesigstore.Login{}},
		"a client with a secret":       {login: fakesigstore.Login{ClientSecret: "s3cret"}, args: []string{"--client-secret", "s3cret"}},
		"a person says no":             {login: fakesigstore.Login{Denied: true}, fails: `the provider answers "access_denied"`},
		"nobody comes":                 {stay: true, fails: "nobody has confirmed the code in the time that the provider gives"},
		"a token of another client":    {login: fakesigstore.Login{Claims: map[string]any{"sub": "a@example.com", "aud": "other"}}, fails: `expected audience "sigstore" got ["other"]`},
		"a token of another issuer":    {login: fakesigstore.Login{Claims: map[string]any{"sub": "a@example.com", "iss": "https://other.example.com"}}, fails: "different provider"},
		"a token that has expired":     {login: fakesigstore.Login{Claims: map[string]any{"sub": "a@example.com", "exp": 1}}, fails: "expired"},
		"a token of nobody":            {login: fakesigstore.Login{Claims: map[string]any{"sub": nil}}, fails: "no subject"},
		"an address nobody has proved": {login: fakesigstore.Login{Claims: map[string]any{"sub": "42", "email": "a@example.com"}}, fails: "has not verified its e-mail address"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.login.Device = true
			p := newPerson(t, tt.login, tt.args...)
			p.s.browser = nil
			p.s.client = &http.Client{Transport: inMemory{p.issuer}}
			synctest.Test(t, func(t *testing.T) {
				p.t = t
				p.read = func(shown string) {
					if found := deviceAddress.FindStringSubmatch(shown); found != nil && !tt.stay {
						if found[1] != found[3] {
							t.Errorf("the codes %s and %s are shown", found[1], found[3])
						}
						page := httptest.NewRecorder()
						p.issuer.ServeHTTP(page, httptest.NewRequest(http.MethodGet, found[2], nil))
						if page.Code != http.StatusOK {
							t.Errorf("%s: %d", found[2], page.Code)
						}
					}
				}
				source, begin := p.source(), time.Now()
				token, err := source(t.Context())
				if tt.fails != "" {
					if err == nil || !strings.Contains(err.Error(), tt.fails) || len(err.Error()) > 2*maxQuoted {
						t.Fatalf("%v, want an error with %q", err, tt.fails)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := whoSigns(t, token); got != "a@example.com" || time.Since(begin) != 2*time.Second {
					t.Errorf("%s signs, after %v", got, time.Since(begin))
				}
				if shown := p.saw(); !strings.Contains(shown, publicNote+"Go to") {
					t.Errorf("shown: %s", shown)
				}
				// Asked again when the token has expired, and not before.
				time.Sleep(9 * time.Minute)
				if again, err := source(t.Context()); err != nil || again != token {
					t.Errorf("another token, or none, while the first is good: %v", err)
				}
				time.Sleep(time.Minute)
				if again, err := source(t.Context()); err != nil || again == token {
					t.Errorf("the same token, or none, when it has expired: %v", err)
				}
			})
		})
	}
}

// Whatever a provider says of itself, nothing is opened, shown raw, printed to
// stdout or waited for that it should not.
func TestAProviderThatDoesNotObeyTheProtocols(t *testing.T) {
	for name, tt := range map[string]struct {
		login  fakesigstore.Login
		device bool
		want   string
	}{
		"its login page is a file": {login: fakesigstore.Login{Extra: map[string]any{"authorization_endpoint": "file:///etc/passwd"}},
			want: `the endpoint "file:///etc/passwd", which is no http or https URL`},
		"its login page is a flag":      {login: fakesigstore.Login{Extra: map[string]any{"authorization_endpoint": "--help"}}, want: `the endpoint "--help"`},
		"it has no endpoint for tokens": {login: fakesigstore.Login{Extra: map[string]any{"token_endpoint": nil}}, want: `the endpoint ""`},
		"its endpoint for devices is none": {login: fakesigstore.Login{Extra: map[string]any{"device_authorization_endpoint": "javascript:alert(1)"}}, device: true,
			want: `the endpoint "javascript:alert(1)"`},
		"it knows no PKCE":                       {login: fakesigstore.Login{Extra: map[string]any{"code_challenge_methods_supported": nil}}, want: "PKCE is not supported"},
		"it knows PKCE without S256":             {login: fakesigstore.Login{Extra: map[string]any{"code_challenge_methods_supported": []string{"plain"}}}, want: "PKCE is not supported"},
		"it lists methods that would be printed": {login: fakesigstore.Login{Extra: map[string]any{"code_challenge_methods_supported": []string{"plain", "\x1b[31m", "S256"}}}, want: `the challenge method "\x1b[31m" before S256`},
		"it calls itself something else":         {login: fakesigstore.Login{Extra: map[string]any{"issuer": "https://other.example.com"}}, want: "https://other.example.com"},
		"its discovery document has no end":      {login: fakesigstore.Login{Extra: map[string]any{"x": strings.Repeat("x", maxIdentityAnswer)}}, want: "longer than the limit"},
		"its token has another nonce":            {login: fakesigstore.Login{Claims: map[string]any{"sub": "a", "nonce": "another"}}, want: "nonce does not match"},
		"its token is of another client":         {login: fakesigstore.Login{Claims: map[string]any{"sub": "a", "aud": "other"}}, want: `expected audience "sigstore" got ["other"]`},
		"its token is of another issuer":         {login: fakesigstore.Login{Claims: map[string]any{"sub": "a", "iss": "https://other.example.com"}}, want: "different provider"},
		"the person says no":                     {login: fakesigstore.Login{Denied: true}, want: `the provider answers "invalid_grant"`},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPerson(t, tt.login)
			if tt.device {
				p.s.browser = nil
			}
			token, err := p.source()(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) || len(printable(err.Error())) > 3*maxQuoted {
				t.Fatalf("%d bytes, %v; want an error with %q", len(token), err, tt.want)
			}
			if !strings.HasPrefix(err.Error(), `login: at "`+p.issuer.URL+`": `) {
				t.Errorf("%v does not say who", err)
			}
			if strings.Contains(p.saw(), "\x1b") {
				t.Errorf("shown: %q", p.saw())
			}
		})
	}
}

// A device answer is foreign text too.
func TestAnAnswerForDevicesThatIsNone(t *testing.T) {
	good := map[string]any{"device_code": "d", "user_code": "u", "verification_uri": "https://example.com/device", "interval": 1, "expires_in": 10}
	for name, tt := range map[string]struct {
		change map[string]any
		want   string
	}{
		"no code":               {map[string]any{"user_code": ""}, "has no code"},
		"no code of the device": {map[string]any{"device_code": nil}, "has no code"},
		"no address":            {map[string]any{"verification_uri": nil}, "or no http or https URL"},
		"an address of a file":  {map[string]any{"verification_uri_complete": "file:///etc/passwd"}, "or no http or https URL"},
		"a code of a page":      {map[string]any{"user_code": strings.Repeat("u", maxDeviceText+1)}, "a code of 2049 bytes"},
		"an address of a page":  {map[string]any{"verification_uri": "https://example.com/" + strings.Repeat("u", maxDeviceText)}, "an address of 2068"},
		"a pause before now":    {map[string]any{"interval": -1}, "pauses of -1 seconds"},
		"a pause of a day":      {map[string]any{"interval": 86400}, "pauses of 86400 seconds"},
		"a code that is good for a year, and nobody comes": {map[string]any{"expires_in": 365 * 86400, "device_code": "wait"}, "nobody has logged in within 10m0s"},
		"a code without an end, and nobody comes":          {map[string]any{"expires_in": nil, "device_code": "wait"}, "nobody has logged in within 10m0s"},
		"a code that has ended":                            {map[string]any{"expires_in": -1, "device_code": "wait"}, "nobody has confirmed the code"},
		"a code for a terminal":                            {map[string]any{"user_code": "\x1b[31m\u202e"}, `the provider answers "invalid_grant"`},
		"nothing that can be read":                         {map[string]any{"interval": "soon"}, "cannot unmarshal"},
		"an answer without a token":                        {map[string]any{"device_code": "empty"}, "no id_token"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPerson(t, fakesigstore.Login{Extra: map[string]any{}})
			p.s.browser = nil
			mux := http.NewServeMux()
			mux.Handle("/", p.issuer)
			mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
				giveJSON(t, w, map[string]any{"issuer": p.issuer.URL, "authorization_endpoint": p.issuer.URL + "/auth", "token_endpoint": p.issuer.URL + "/token",
					"jwks_uri": p.issuer.URL + "/keys", "device_authorization_endpoint": p.issuer.URL + "/codes"})
			})
			mux.HandleFunc("POST /codes", func(w http.ResponseWriter, _ *http.Request) {
				answer := maps.Clone(good)
				maps.Copy(answer, tt.change)
				giveJSON(t, w, answer)
			})
			mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
				if r.PostFormValue("device_code") == "empty" {
					w.Header().Set("Content-Type", "application/json")
					giveJSON(t, w, map[string]any{"access_token": "a", "token_type": "Bearer"})
					return
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusBadRequest)
				code := "invalid_grant"
				if r.PostFormValue("device_code") == "wait" {
					code = "authorization_pending"
				}
				giveJSON(t, w, map[string]any{"error": code})
			})
			p.s.client = &http.Client{Transport: inMemory{mux}}
			synctest.Test(t, func(t *testing.T) {
				p.t = t
				if _, err := p.source()(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("%v, want an error with %q", err, tt.want)
				}
			})
			if strings.ContainsAny(p.saw(), "\x1b\u202e") {
				t.Errorf("shown: %q", p.saw())
			}
		})
	}
}

func TestALoginEndsWithTheContext(t *testing.T) {
	for name, set := range map[string]func(*person, context.CancelCauseFunc, error){
		"while a code is awaited": func(p *person, cancel context.CancelCauseFunc, cause error) {
			p.args = []string{"--oauth-force-oob"}
			p.read = func(shown string) {
				if strings.Contains(shown, "Enter verification code") {
					cancel(cause)
				}
			}
		},
		"while the browser is open": func(p *person, cancel context.CancelCauseFunc, cause error) {
			p.s.browser = func(string) error { cancel(cause); return nil }
		},
		"while the provider thinks": func(p *person, cancel context.CancelCauseFunc, cause error) {
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				cancel(cause)
				<-r.Context().Done()
			}))
			p.t.Cleanup(server.Close)
			p.args = []string{"--oidc-issuer", server.URL}
		},
		"while another device is used": func(p *person, cancel context.CancelCauseFunc, cause error) {
			p.s.browser = nil
			p.read = func(shown string) {
				if strings.Contains(shown, "in a browser") {
					cancel(cause)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPerson(t, fakesigstore.Login{Device: strings.Contains(name, "device")})
			cause := errors.New("no answer within a second (--timeout)")
			ctx, cancel := context.WithCancelCause(t.Context())
			set(p, cancel, cause)
			if _, err := p.source()(ctx); !errors.Is(err, cause) {
				t.Error(err)
			}
		})
	}
}

func TestWhereToLogIn(t *testing.T) {
	nowhere := errors.New("the signing config names no identity provider")
	for name, tt := range map[string]struct {
		args   []string
		issuer string
		err    error
		want   string
	}{
		"the signing config does not say":   {err: nowhere, want: "login: the signing config names no identity provider"},
		"the signing config says a file":    {issuer: "file:///etc", want: `the identity provider "file:///etc" is no http or https URL`},
		"the flag says nothing of the kind": {args: []string{"--oidc-issuer", "accounts.example.com"}, err: nowhere, want: `the identity provider "accounts.example.com" is no http or https URL`},
		"the provider is not there":         {issuer: "http://127.0.0.1:1", want: `login: at "http://127.0.0.1:1": dial tcp`},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPerson(t, fakesigstore.Login{})
			source, err := p.s.tokens(t.Context(), &app{stdin: p.stdin, stderr: p}, parseTokenFlags(t, tt.args...), func() (string, error) { return tt.issuer, tt.err })
			if err != nil {
				t.Fatal(err)
			}
			if _, err := source(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	t.Run("the flag goes before the signing config", func(t *testing.T) {
		p := newPerson(t, fakesigstore.Login{})
		p.args = []string{"--oidc-issuer", p.issuer.URL}
		source, err := p.s.tokens(t.Context(), &app{stdin: p.stdin, stderr: p}, parseTokenFlags(t, p.args...), func() (string, error) {
			t.Error("the signing config was asked")
			return "", nowhere
		})
		if err != nil {
			t.Fatal(err)
		}
		if token, err := source(t.Context()); err != nil || whoSigns(t, token) != "a@example.com" {
			t.Error(err)
		}
	})
}

func TestTheBrowserIsSentBackToLoopback(t *testing.T) {
	p := newPerson(t, fakesigstore.Login{})
	open := p.s.browser
	var address *url.URL
	p.s.browser = func(text string) error {
		var err error
		if address, err = url.Parse(text); err != nil {
			return err
		}
		return open(text)
	}
	if _, err := p.source()(t.Context()); err != nil {
		t.Fatal(err)
	}
	q := address.Query()
	redirect, err := url.Parse(q.Get("redirect_uri"))
	if err != nil || redirect.Hostname() != "localhost" || redirect.Scheme != "http" {
		t.Errorf("redirect to %v, %v", redirect, err)
	}
	if q.Get("code_challenge_method") != "S256" || q.Get("client_id") != "sigstore" || q.Get("scope") != "openid email" {
		t.Errorf("asked for %v", q)
	}
}
