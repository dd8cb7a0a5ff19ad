package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/pkg/browser"
	"golang.org/x/term"

	"github.com/modelsig/modelsig/bundle"
)

// tokenFlags say where an identity token comes from. The tokens themselves are
// pointers, because a flag with an empty value, of a variable that is not set
// for example, is a mistake and not the wish for another identity.
type tokenFlags struct {
	IdentityToken         *string `placeholder:"TOKEN" help:"Identity token (OIDC), for all processes of the machine to see; --identity-token-file and SIGSTORE_ID_TOKEN hide it."`
	IdentityTokenFile     *string `placeholder:"FILE" help:"File that holds the identity token."`
	UseAmbientCredentials bool    `help:"Sign with the identity that the job or machine has: GitHub Actions, Buildkite, Kubernetes, Google Cloud. Without a terminal they are looked for anyway."`
	OauthForceOob         bool    `help:"Log in with a code to type in, and open no browser."`
	OIDCIssuer            given   `name:"oidc-issuer" placeholder:"URL" help:"Identity provider to log in at, instead of the signing config's. A token from elsewhere must be by it too."`
	ClientID              string  `aliases:"oidc-client-id" default:"sigstore" placeholder:"NAME" help:"OAuth client, and the audience that identity tokens are for (${default})."`
	ClientSecretFile      string  `aliases:"oidc-client-secret-file" placeholder:"FILE" help:"File that holds the OAuth client's secret. Public clients have none."`
	ClientSecret          string  `aliases:"oidc-client-secret" hidden:"" help:"Secret of the OAuth client, for all processes of the machine to see, as in the OMS tools."`
}

// defaultClientID is the OAuth client that the public Sigstore knows, and the
// audience of its tokens.
const defaultClientID = "sigstore"

// identityTokenVariable holds an identity token; GitLab CI writes it.
const identityTokenVariable = "SIGSTORE_ID_TOKEN"

// fewLeft: an ambient token with less time than that is fetched again. The
// certificate authority has to see it in time, and its clock is another.
const fewLeft = time.Minute

// surroundings are what tokens finds around it. Tests have others.
type surroundings struct {
	client   *http.Client
	direct   *http.Client           // never by a proxy: for what is on the link
	terminal func() bool            // somebody can be asked
	browser  func(url string) error // nil: none can be opened

	kubernetes string // file of the projected token
	product    string // file that names the maker of the machine
	metadata   string // URL of Google's metadata server
	iam        string // URL of Google's IAM credentials service
}

func (a *app) surroundings() *surroundings {
	s := &surroundings{
		client: identityClient(http.ProxyFromEnvironment),
		direct: identityClient(nil),
		terminal: func() bool {
			in, ok := a.stdin.(*os.File)
			return ok && term.IsTerminal(int(in.Fd()))
		},
		kubernetes: "/var/run/sigstore/cosign/oidc-token",
		product:    "/sys/class/dmi/id/product_name",
		// By number: asking for its name may take seconds where there is none.
		metadata: "http://169.254.169.254",
		iam:      "https://iamcredentials.googleapis.com",
	}
	if host := os.Getenv(metadataVariable); host != "" {
		s.metadata = "http://" + host
	}
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" || os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != "" {
		s.browser = func(url string) error {
			// What a browser says is no answer, and stdout is for answers.
			browser.Stdout, browser.Stderr = io.Discard, io.Discard
			return browser.OpenURL(url)
		}
	}
	return s
}

// maxIdentityAnswer bounds what an identity provider answers, in bytes. A token
// has at most 64 KiB; a set of keys with certificates is no larger.
const maxIdentityAnswer = 256 << 10

// identityClient asks identity providers and the services of jobs and machines.
func identityClient(proxy func(*http.Request) (*url.URL, error)) *http.Client {
	return &http.Client{Transport: bounded{serviceTransport(proxy)}, CheckRedirect: stay, Timeout: serviceAnswer}
}

// bounded ends answers, with an error, after maxIdentityAnswer bytes: libraries
// read all there is.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &boundedBody{resp.Body, maxIdentityAnswer}
	return resp, nil
}

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, fmt.Errorf("the answer is longer than the limit of %d bytes", maxIdentityAnswer)
	}
	return n, err
}

// tokens decides where identity tokens come from, checks what is there already,
// and returns the source. The first of these counts, and nothing is tried after
// it, because another token is another identity:
//
//  1. --identity-token or --identity-token-file;
//  2. SIGSTORE_ID_TOKEN, even if it is empty, which is an error;
//  3. the identity of the job or machine (see ambient), with
//     --use-ambient-credentials, or where there is no terminal to ask on;
//  4. a person at the terminal, who logs in with a browser or a code.
//
// Tokens of 1 to 3 are fetched and checked at once, so that nothing is contacted
// for a signature that cannot be. People are asked when a token is needed; only
// then is issuer called, for the URL of the provider, unless --oidc-issuer is it.
//
// Flags that contradict each other are refused: two token flags; a token flag
// with --use-ambient-credentials, or with what is for logins; and
// --use-ambient-credentials with what is for logins. --oidc-issuer goes with all:
// a token by another issuer is refused. The same source may be used by many.
func (a *app) tokens(ctx context.Context, f tokenFlags, issuer func() (string, error)) (bundle.TokenSource, error) {
	return a.surroundings().tokens(ctx, a, f, issuer)
}

func (s *surroundings) tokens(ctx context.Context, a *app, f tokenFlags, issuer func() (string, error)) (bundle.TokenSource, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	variable, inVariable := os.LookupEnv(identityTokenVariable)
	source := &tokenSource{flags: f}
	switch {
	case f.IdentityToken != nil:
		a.warn("--identity-token stands on the command line, where every user of this machine can read it: --identity-token-file or " + identityTokenVariable + " does not")
		source.name, source.get = "--identity-token", static(*f.IdentityToken)
	case f.IdentityTokenFile != nil:
		data, err := readSecret(*f.IdentityTokenFile)
		if err != nil {
			return nil, fmt.Errorf("--identity-token-file: %w", err)
		}
		source.name, source.get = "--identity-token-file "+*f.IdentityTokenFile, static(strings.TrimSpace(string(data)))
	case inVariable:
		source.name, source.get = identityTokenVariable, static(strings.TrimSpace(variable))
	case f.UseAmbientCredentials || !s.terminal():
		found, err := s.ambient(f.ClientID)
		if errors.Is(err, errNoAmbient) {
			return nil, nothingFound(f, err)
		}
		if err != nil {
			return nil, err
		}
		source.name, source.get, source.early = found.name, found.get, fewLeft
	default:
		secret, err := a.clientSecret(f)
		if err != nil {
			return nil, err
		}
		l := &identityLogin{surroundings: s, stdin: a.stdin, stderr: a.stderr, flags: f, secret: secret, issuer: issuer}
		source.name, source.get = "login", l.token
		return source.token, nil
	}
	if f.OauthForceOob {
		a.warn("--oauth-force-oob has no effect: the identity token is that of " + source.name)
	}
	if _, err := source.token(ctx); err != nil {
		return nil, source.misused(err)
	}
	return source.token, nil
}

// check refuses flags that contradict each other.
func (f tokenFlags) check() error {
	both := func(a, b string) error { return fmt.Errorf("%s and %s exclude each other", a, b) }
	given := ""
	switch {
	case f.ClientID == "":
		return errors.New("--client-id is empty")
	case f.ClientSecret != "" && f.ClientSecretFile != "":
		return both("--client-secret", "--client-secret-file")
	case f.IdentityToken != nil && f.IdentityTokenFile != nil:
		return both("--identity-token", "--identity-token-file")
	case f.IdentityToken != nil:
		given = "--identity-token"
	case f.IdentityTokenFile != nil:
		given = "--identity-token-file"
	}
	if f.UseAmbientCredentials {
		if given != "" {
			return both(given, "--use-ambient-credentials")
		}
		given = "--use-ambient-credentials"
	}
	switch {
	case given == "":
	case f.OauthForceOob:
		return both(given, "--oauth-force-oob")
	case f.ClientSecretFile != "":
		return both(given, "--client-secret-file")
	case f.ClientSecret != "":
		return both(given, "--client-secret")
	}
	return nil
}

// clientSecret reads the OAuth client's secret; "" if it has none.
func (a *app) clientSecret(f tokenFlags) (string, error) {
	if f.ClientSecretFile == "" {
		if f.ClientSecret != "" {
			a.warn("--client-secret stands on the command line, where every user of this machine can read it: --client-secret-file does not")
		}
		return f.ClientSecret, nil
	}
	data, err := readSecret(f.ClientSecretFile)
	if err != nil {
		return "", fmt.Errorf("--client-secret-file: %w", err)
	}
	secret := firstLine(string(data))
	if secret == "" {
		return "", fmt.Errorf("--client-secret-file %s: its first line is empty", f.ClientSecretFile)
	}
	return secret, nil
}

// nothingFound says what was looked for, and what gives a token.
func nothingFound(f tokenFlags, err error) error {
	if !f.UseAmbientCredentials {
		err = fmt.Errorf("no identity to sign with: neither --identity-token-file nor %s, no terminal to log in on, and %w", identityTokenVariable, err)
	}
	hint := "--identity-token-file FILE or " + identityTokenVariable + " gives a token; modelsig sign key and modelsig sign certificate need none"
	if os.Getenv("GITHUB_ACTIONS") != "" {
		hint = githubHint
	}
	return &hinted{err, hint}
}

// A tokenSource gives checked tokens, and the same one as long as it is good.
type tokenSource struct {
	name  string // where they come from, for messages
	flags tokenFlags
	early time.Duration // before expiry, when another one is got
	get   func(context.Context) (string, error)

	mu     sync.Mutex // also held while a token is got: nobody is asked twice
	last   string
	expiry time.Time
}

func static(token string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return token, nil }
}

// token is a [bundle.TokenSource].
func (s *tokenSource) token(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != "" && time.Until(s.expiry) > s.early {
		return s.last, nil
	}
	token, err := s.get(ctx)
	if err != nil {
		return "", fmt.Errorf("%s: %w", s.name, err)
	}
	claims, err := s.check(token)
	if err != nil {
		return "", fmt.Errorf("%s: %w", s.name, err)
	}
	s.last, s.expiry = token, claims.Expiry
	return token, nil
}

// check sees to it that nothing is contacted with a token that cannot work.
func (s *tokenSource) check(token string) (*bundle.TokenClaims, error) {
	claims, err := bundle.InsecureTokenClaims(token)
	if err != nil {
		return nil, err
	}
	err = claims.Check(s.flags.ClientID, time.Now())
	if errors.Is(err, bundle.ErrAudience) {
		return nil, &hinted{err, "--client-id names the audience, and the certificate authority has to accept it"}
	}
	if err != nil {
		return nil, err
	}
	// Issuers differ by a slash at most between what they are called and what
	// they call themselves.
	if want := string(s.flags.OIDCIssuer); want != "" && strings.TrimSuffix(claims.Issuer, "/") != strings.TrimSuffix(want, "/") {
		return nil, fmt.Errorf("the identity token is by %s, and --oidc-issuer is %s", quote(claims.Issuer), quote(want))
	}
	return claims, nil
}

// misused adds a hint to the commonest slip: a file where its content goes. The
// text is not repeated: it may be a token that is broken.
func (s *tokenSource) misused(err error) error {
	if s.flags.IdentityToken == nil || *s.flags.IdentityToken == "" {
		return err
	}
	if _, statErr := os.Stat(*s.flags.IdentityToken); statErr == nil {
		return &hinted{err, "--identity-token takes the token itself; --identity-token-file takes a file that holds it"}
	}
	return err
}
