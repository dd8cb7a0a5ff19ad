package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alecthomas/kong"

	"github.com/modelsig/modelsig/e2e/fakesigstore"
)

// nobody is a transport for tests in which nobody is to be contacted.
type nobody struct{ t *testing.T }

func (n nobody) RoundTrip(req *http.Request) (*http.Response, error) {
	n.t.Errorf("%s was contacted", req.URL.Host)
	return nil, errors.New("nobody is there")
}

// emptySurroundings are those of a process without a terminal that has no
// identity. The real environment is out of sight.
func emptySurroundings(t *testing.T) *surroundings {
	t.Helper()
	for _, name := range []string{
		identityTokenVariable, githubURL, githubToken, "GITHUB_ACTIONS", buildkiteToken, buildkiteURL, buildkiteJob, googleAccount, metadataVariable,
	} {
		t.Setenv(name, "") // has it restored
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	return &surroundings{
		client:     &http.Client{Transport: nobody{t}},
		direct:     &http.Client{Transport: nobody{t}},
		terminal:   func() bool { return false },
		kubernetes: filepath.Join(dir, "oidc-token"),
		product:    filepath.Join(dir, "product_name"),
	}
}

// parseTokenFlags reads a command line as the command does.
func parseTokenFlags(t *testing.T, args ...string) tokenFlags {
	t.Helper()
	var c struct{ tokenFlags }
	parser, err := kong.New(&c, kong.Exit(func(int) { t.Error("kong wants to exit") }))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(normalize(args)); err != nil {
		t.Fatal(err)
	}
	return c.tokenFlags
}

func writeToken(t *testing.T, file, token string) string {
	t.Helper()
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// whoSigns is the subject of the token that a source gives.
func whoSigns(t *testing.T, token string) string {
	t.Helper()
	claims, err := (&tokenSource{flags: tokenFlags{ClientID: "sigstore"}}).check(token)
	if err != nil {
		t.Fatal(err)
	}
	return claims.Subject
}

func TestWhereATokenComesFrom(t *testing.T) {
	issuer := fakesigstore.NewIssuer(t)
	file := writeToken(t, filepath.Join(t.TempDir(), "token"), " "+issuer.Mail("file@example.com")+"\r\n")
	flag := issuer.Mail("flag@example.com")
	variable := issuer.Mail("variable@example.com")
	for name, tt := range map[string]struct {
		args     []string
		variable *string
		ambient  bool // a token is projected
		terminal bool

		want  string // who signs; "login": whoever logs in
		fails string // or what the error has
		hint  string
		warns string
	}{
		"the token flag goes before all else": {
			args: []string{"--identity-token", flag}, variable: &variable, ambient: true, terminal: true,
			want: "flag@example.com", warns: "--identity-token stands on the command line"},
		"as the OMS tools spell it": {
			args: []string{"--identity_token=" + flag}, want: "flag@example.com", warns: "--identity-token stands on the command line"},
		"the file flag goes before all else": {
			args: []string{"--identity-token-file", file}, variable: &variable, ambient: true, terminal: true, want: "file@example.com"},
		"both token flags": {
			args: []string{"--identity-token", flag, "--identity-token-file", file}, fails: "--identity-token and --identity-token-file exclude each other"},
		"an empty token flag is not passed over": {
			args: []string{"--identity-token", ""}, variable: &variable, ambient: true, fails: "--identity-token: read identity token: it is empty", warns: "--identity-token"},
		"nor is an empty file flag": {
			args: []string{"--identity-token-file="}, variable: &variable, ambient: true, fails: "--identity-token-file: open"},
		"nor an empty file": {
			args: []string{"--identity-token-file", os.DevNull}, variable: &variable, ambient: true, fails: "it is empty"},
		"a file without an end": {
			args: []string{"--identity-token-file", "/dev/zero"}, fails: "more than 65536 bytes"},
		"a file that is not there": {
			args: []string{"--identity-token-file", file + ".not"}, fails: "--identity-token-file: open"},
		"a file as a token": {
			args: []string{"--identity-token", file}, fails: "no JWT", hint: "--identity-token-file takes a file", warns: "--identity-token"},
		"the variable goes before ambient and login": {
			variable: &variable, ambient: true, terminal: true, want: "variable@example.com"},
		"also where ambient credentials are asked for": {
			args: []string{"--use-ambient-credentials"}, variable: &variable, ambient: true, want: "variable@example.com"},
		"an empty variable is not passed over": {
			variable: new(""), ambient: true, terminal: true, fails: "SIGSTORE_ID_TOKEN: read identity token: it is empty"},
		"a blank variable neither": {
			variable: new(" \n"), ambient: true, terminal: true, fails: "SIGSTORE_ID_TOKEN: read identity token: it is empty"},
		"ambient without a terminal": {
			ambient: true, want: "ambient@example.com"},
		"ambient on a terminal, asked for": {
			args: []string{"--use-ambient-credentials"}, ambient: true, terminal: true, want: "ambient@example.com"},
		"on a terminal nobody is signed for without being asked": {
			ambient: true, terminal: true, want: "login"},
		"a login": {
			terminal: true, want: "login"},
		"a login by code": {
			args: []string{"--oauth-force-oob"}, terminal: true, want: "login"},
		"ambient that is not there": {
			args: []string{"--use-ambient-credentials"}, terminal: true, fails: "no ambient credentials: looked for GitHub Actions", hint: "SIGSTORE_ID_TOKEN gives a token"},
		"nothing, and nobody to ask": {
			fails: "neither --identity-token-file nor SIGSTORE_ID_TOKEN, no terminal to log in on, and no ambient credentials: looked for GitHub Actions (ACTIONS_ID_TOKEN_REQUEST_URL), Buildkite",
			hint:  "SIGSTORE_ID_TOKEN gives a token"},
		"a code, and nobody to type it": {
			args: []string{"--oauth-force-oob"}, fails: "no terminal to log in on", hint: "SIGSTORE_ID_TOKEN gives a token"},
		"a code that is not needed": {
			args: []string{"--oauth-force-oob"}, variable: &variable, want: "variable@example.com", warns: "--oauth-force-oob has no effect: the identity token is that of SIGSTORE_ID_TOKEN"},
		"a token and ambient": {
			args: []string{"--identity-token", flag, "--use-ambient-credentials"}, fails: "--identity-token and --use-ambient-credentials exclude each other"},
		"a file and a code": {
			args: []string{"--identity-token-file", file, "--oauth-force-oob"}, fails: "--identity-token-file and --oauth-force-oob exclude each other"},
		"ambient and a code": {
			args: []string{"--use-ambient-credentials", "--oauth-force-oob"}, ambient: true, fails: "--use-ambient-credentials and --oauth-force-oob exclude each other"},
		"a token and a secret of a client": {
			args: []string{"--identity-token", flag, "--oidc-client-secret-file", file}, fails: "--identity-token and --client-secret-file exclude each other"},
		"ambient and a secret of a client": {
			args: []string{"--use-ambient-credentials", "--client-secret", "x"}, fails: "--use-ambient-credentials and --client-secret exclude each other"},
		"two secrets": {
			args: []string{"--client-secret-file", file, "--client-secret", "x"}, terminal: true, fails: "exclude each other"},
		"a secret that is not there": {
			args: []string{"--client-secret-file", file + ".not"}, terminal: true, fails: "--client-secret-file: open"},
		"a secret that is empty": {
			args: []string{"--client-secret-file", os.DevNull}, terminal: true, fails: "its first line is empty"},
		"a secret on the command line": {
			args: []string{"--client-secret", "x"}, terminal: true, want: "login", warns: "--client-secret stands on the command line"},
		"no client": {
			args: []string{"--client-id="}, terminal: true, fails: "--client-id is empty"},
		"another audience": {
			args: []string{"--client-id", "mine"}, variable: &variable, fails: `SIGSTORE_ID_TOKEN: the identity token is for another audience: it names "sigstore", not "mine"`, hint: "--client-id names the audience"},
		"another audience, as cosign spells it": {
			args: []string{"--oidc-client-id", "mine", "--use-ambient-credentials"}, ambient: true, fails: `not "mine"`, hint: "--client-id names the audience"},
		"the issuer that is wanted": {
			args: []string{"--oidc-issuer", issuer.URL}, variable: &variable, want: "variable@example.com"},
		"with a slash at its end": {
			args: []string{"--oidc-issuer", issuer.URL + "/"}, variable: &variable, want: "variable@example.com"},
		"another issuer": {
			args: []string{"--oidc-issuer", "https://other.example.com"}, ambient: true, fails: `and --oidc-issuer is "https://other.example.com"`},
		"an expired token": {
			variable: new(issuer.Token(map[string]any{"sub": "somebody", "exp": 1767322800})), ambient: true, fails: `SIGSTORE_ID_TOKEN: the identity token of "somebody" expired at 2026-01-02T03:00:00Z`},
	} {
		t.Run(name, func(t *testing.T) {
			s := emptySurroundings(t)
			s.terminal = func() bool { return tt.terminal }
			if tt.variable != nil {
				t.Setenv(identityTokenVariable, *tt.variable)
			}
			if tt.ambient {
				writeToken(t, s.kubernetes, issuer.Mail("ambient@example.com")+"\n")
			}
			var stderr bytes.Buffer
			a := &app{stdin: strings.NewReader(""), stderr: &stderr}
			errAsked := errors.New("somebody is asked")
			asked := false
			source, err := s.tokens(t.Context(), a, parseTokenFlags(t, tt.args...), func() (string, error) {
				asked = true
				return "", errAsked
			})
			if asked {
				t.Error("somebody was asked before a token was needed")
			}
			if tt.warns == "" && stderr.Len() > 0 || !strings.Contains(stderr.String(), tt.warns) {
				t.Errorf("stderr %q, want %q", &stderr, tt.warns)
			}
			if tt.fails != "" {
				if err == nil || source != nil || !strings.Contains(err.Error(), tt.fails) || exitCode(err) != exitTrouble {
					t.Fatalf("%v, want an error with %q, and exit code 2", err, tt.fails)
				}
				if got := hint(err); tt.hint == "" && got != "" || !strings.Contains(got, tt.hint) {
					t.Errorf("hint %q, want %q", got, tt.hint)
				}
				for _, secret := range []string{flag, variable} {
					if strings.Contains(err.Error()+hint(err)+stderr.String(), secret[:20]) {
						t.Error("a token is repeated")
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			token, err := source(t.Context())
			if tt.want == "login" {
				if !errors.Is(err, errAsked) {
					t.Errorf("%q, %v: nobody was asked", token, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := whoSigns(t, token); got != tt.want {
				t.Errorf("%s signs, want %s", got, tt.want)
			}
		})
	}
}

func TestATokenOfTheCommandLineIsGivenUntilItExpires(t *testing.T) {
	issuer := fakesigstore.NewIssuer(t)
	s := emptySurroundings(t)
	synctest.Test(t, func(t *testing.T) {
		token := issuer.Mail("a@example.com") // for ten minutes
		source, err := s.tokens(t.Context(), &app{stderr: new(bytes.Buffer)}, tokenFlags{ClientID: "sigstore", IdentityToken: &token}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got, err := source(t.Context()); got != token || err != nil {
				t.Fatalf("%q, %v", got, err)
			}
			time.Sleep(10*time.Minute - time.Second)
		}
		time.Sleep(time.Second)
		if got, err := source(t.Context()); got != "" || err == nil || !strings.Contains(err.Error(), `"a@example.com" expired at 2000-01-01T00:10:00Z`) {
			t.Fatalf("%q, %v", got, err)
		}
	})
}

func TestAnAmbientTokenIsFetchedAgainInItsLastMinute(t *testing.T) {
	issuer := fakesigstore.NewIssuer(t)
	s := emptySurroundings(t)
	synctest.Test(t, func(t *testing.T) {
		first := issuer.Mail("a@example.com") // for ten minutes
		writeToken(t, s.kubernetes, first)
		source, err := s.tokens(t.Context(), new(app), tokenFlags{ClientID: "sigstore"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := func(want string) {
			t.Helper()
			if got, err := source(t.Context()); got != want || err != nil {
				t.Fatalf("%v; another token than expected: %v", err, got != want)
			}
		}
		time.Sleep(9*time.Minute - time.Second)
		second := issuer.Mail("a@example.com")
		writeToken(t, s.kubernetes, second)
		want(first)
		time.Sleep(time.Second)
		want(second)
		if err := os.Remove(s.kubernetes); err != nil {
			t.Fatal(err)
		}
		want(second)
		time.Sleep(10 * time.Minute)
		if got, err := source(t.Context()); got != "" || !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%q, %v", got, err)
		}
	})
}

func TestTheRealSurroundings(t *testing.T) {
	emptySurroundings(t)
	for _, name := range []string{"DISPLAY", "WAYLAND_DISPLAY"} {
		t.Setenv(name, "")
	}
	s := (&app{stdin: strings.NewReader("")}).surroundings()
	if s.terminal() {
		t.Error("a string is a terminal")
	}
	if s.metadata != "http://169.254.169.254" {
		t.Errorf("metadata server %s", s.metadata)
	}
	if s.direct.Transport.(bounded).RoundTripper.(*http.Transport).Proxy != nil {
		t.Error("the metadata server is asked through a proxy")
	}
	t.Setenv(metadataVariable, "metadata.example.com:8080")
	t.Setenv("WAYLAND_DISPLAY", "wayland-0")
	s = (&app{stdin: strings.NewReader("")}).surroundings()
	if s.metadata != "http://metadata.example.com:8080" || s.browser == nil {
		t.Errorf("metadata server %s, browser %t", s.metadata, s.browser != nil)
	}
	// Through the door that the command uses, without anything to be found or
	// with a token that is no good.
	t.Setenv(identityTokenVariable, "x")
	_, err := (&app{stdin: strings.NewReader(""), stderr: new(bytes.Buffer)}).tokens(context.Background(), tokenFlags{ClientID: "sigstore"}, nil)
	if err == nil || !strings.HasPrefix(err.Error(), identityTokenVariable+": read identity token: it is no JWT") {
		t.Error(err)
	}
}
