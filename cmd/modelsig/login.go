package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/sigstore/sigstore/pkg/oauth"
	"github.com/sigstore/sigstore/pkg/oauthflow"
	"golang.org/x/oauth2"
)

// An identityLogin asks a person who they are. What it shows goes to stderr.
type identityLogin struct {
	*surroundings
	stdin  io.Reader
	stderr io.Writer
	flags  tokenFlags
	secret string // of the client; "": it has none
	issuer func() (string, error)
}

// discovered is what else is needed from a provider's discovery document
// (OpenID Connect Discovery 1.0 §3, RFC 8414 §2).
type discovered struct {
	ChallengeMethods []string `json:"code_challenge_methods_supported"`
	TokenAuthMethods []string `json:"token_endpoint_auth_methods_supported"`
}

// maxLogin is how long a login may take, all in all. Providers give codes five to
// fifteen minutes, and not all say so; the library that waits for browsers has no
// limit for the provider's last answer.
const maxLogin = 10 * time.Minute

// token lets a person log in.
func (l *identityLogin) token(ctx context.Context) (string, error) {
	address := string(l.flags.OIDCIssuer)
	if address == "" {
		var err error
		if address, err = l.issuer(); err != nil {
			return "", err
		}
	}
	if !isWebAddress(address) {
		return "", fmt.Errorf("the identity provider %s is no http or https URL", quote(address))
	}
	fmt.Fprintln(l.stderr, "note: the certificate, with your address in it, and the log entry of the signature are public, and stay so")
	ctx, cancel := context.WithTimeoutCause(ctx, maxLogin, fmt.Errorf("nobody has logged in within %v", maxLogin))
	defer cancel()
	token, err := l.at(ctx, address)
	if err != nil {
		return "", fmt.Errorf("at %s: %w", quote(address), err)
	}
	return token, nil
}

func (l *identityLogin) at(ctx context.Context, address string) (string, error) {
	ctx = oidc.ClientContext(ctx, l.client)
	provider, err := oidc.NewProvider(ctx, address)
	if err != nil {
		return "", foreign(ctx, err)
	}
	var more discovered
	if err := provider.Claims(&more); err != nil {
		return "", foreign(ctx, err)
	}
	config := oauth2.Config{
		ClientID:     l.flags.ClientID,
		ClientSecret: l.secret,
		Endpoint:     provider.Endpoint(),
		Scopes:       []string{oidc.ScopeOpenID, "email"},
	}
	// Said, and not tried out: the second try with a code would be one too many.
	config.Endpoint.AuthStyle = authStyle(l.secret, more.TokenAuthMethods)
	for _, endpoint := range []string{config.Endpoint.AuthURL, config.Endpoint.TokenURL} {
		if !isWebAddress(endpoint) { // a browser would do all kinds of things with it
			return "", fmt.Errorf("the provider names the endpoint %s, which is no http or https URL", quote(endpoint))
		}
	}
	device := l.browser == nil && !l.flags.OauthForceOob && config.Endpoint.DeviceAuthURL != ""
	if device && !isWebAddress(config.Endpoint.DeviceAuthURL) {
		return "", fmt.Errorf("the provider names the endpoint %s, which is no http or https URL", quote(config.Endpoint.DeviceAuthURL))
	}
	if device {
		return l.byDevice(ctx, provider, config)
	}
	return l.byCode(ctx, provider, config, more)
}

// authStyle is how a client says who it is (RFC 6749 §2.3.1): a public one by its
// name, one with a secret as the provider's discovery document says.
func authStyle(secret string, methods []string) oauth2.AuthStyle {
	if secret == "" || slices.Contains(methods, "client_secret_post") && !slices.Contains(methods, "client_secret_basic") {
		return oauth2.AuthStyleInParams
	}
	return oauth2.AuthStyleInHeader
}

// byCode is the authorization code flow: by a redirect to loopback from a
// browser, or by a code that the person types in.
func (l *identityLogin) byCode(ctx context.Context, provider *oidc.Provider, config oauth2.Config, more discovered) (string, error) {
	// The library complains of methods that it does not know on stdout, where the
	// answer goes.
	if i := slices.IndexFunc(more.ChallengeMethods, func(m string) bool { return m != "plain" }); i >= 0 && more.ChallengeMethods[i] != oauthflow.PKCES256 {
		return "", fmt.Errorf("the provider lists the challenge method %s before %s (RFC 7636 §4.2)", quote(more.ChallengeMethods[i]), oauthflow.PKCES256)
	}
	getter := &oauthflow.InteractiveIDTokenGetter{
		HTMLPage:      oauth.InteractiveSuccessHTML,
		Input:         l.stdin,
		Output:        printableText{l.stderr},
		BrowserOpener: l.browser,
	}
	switch {
	case l.flags.OauthForceOob:
		getter.BrowserOpener = func(string) error { return errors.New("none is wanted (--oauth-force-oob)") }
	case l.browser == nil:
		getter.BrowserOpener = func(string) error { return errors.New("there is no display") }
	}
	type result struct {
		token *oauthflow.OIDCIDToken
		err   error
	}
	// The library knows no context. What it waits for, a redirect or a line of
	// the terminal, it waits for until the program ends.
	done := make(chan result, 1)
	go func() {
		token, err := getter.GetIDToken(provider, config)
		done <- result{token, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return "", foreign(ctx, r.err)
		}
		return r.token.RawString, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// maxDeviceInterval is the longest pause, in seconds, between two questions to a
// provider. They ask for five; a much longer one is no pause.
const maxDeviceInterval = 60

// maxDeviceText is how long, in bytes, a code and its address may be, each: both
// are for a person to read, and an address with its code has less than a hundred.
const maxDeviceText = 2048

// byDevice is the device flow (RFC 8628), for where no browser is: the person
// uses one elsewhere. The library of OAuth has it, obeys ctx and sends the
// client's secret.
func (l *identityLogin) byDevice(ctx context.Context, provider *oidc.Provider, config oauth2.Config) (string, error) {
	verifier := oauth2.GenerateVerifier()
	code, err := config.DeviceAuth(ctx, oauth2.S256ChallengeOption(verifier))
	if err != nil {
		return "", foreign(ctx, err)
	}
	address := code.VerificationURIComplete
	if address == "" {
		address = code.VerificationURI
	}
	switch {
	case code.UserCode == "" || code.DeviceCode == "" || !isWebAddress(address):
		return "", errors.New("the answer of the provider has no code, or no http or https URL (RFC 8628 §3.2)")
	case len(code.UserCode) > maxDeviceText || len(address) > maxDeviceText:
		return "", fmt.Errorf("the provider gives a code of %d bytes and an address of %d, and no more than %d is for a person to read", len(code.UserCode), len(address), maxDeviceText)
	case code.Interval < 0 || code.Interval > maxDeviceInterval:
		return "", fmt.Errorf("the provider wants pauses of %d seconds, not of 0 to %d", code.Interval, maxDeviceInterval)
	}
	fmt.Fprintf(l.stderr, "Go to this address in a browser, and check that it shows the code %s:\n\n\t%s\n\n", printable(code.UserCode), printable(address))
	answer, err := config.DeviceAccessToken(ctx, code, oauth2.VerifierOption(verifier))
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return "", errors.New("nobody has confirmed the code in the time that the provider gives")
	}
	if err != nil {
		return "", foreign(ctx, err)
	}
	token, ok := answer.Extra("id_token").(string)
	if !ok {
		return "", errors.New("the answer of the provider has no id_token")
	}
	if _, err := provider.VerifierContext(ctx, &oidc.Config{ClientID: config.ClientID}).Verify(ctx, token); err != nil {
		return "", foreign(ctx, err)
	}
	return token, nil
}

// isWebAddress reports whether an address is one for browsers, of a host.
func isWebAddress(address string) bool {
	u, err := url.Parse(address)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// foreign is a library's error, which may repeat foreign text, in one line of
// bounded length; or why ctx has ended.
func foreign(ctx context.Context, err error) error {
	if e := unaddressed(ctx, err); e != err {
		return e
	}
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok && e.ErrorCode != "" {
		why := "the provider answers " + quote(e.ErrorCode)
		if e.ErrorDescription != "" {
			why += ": " + quote(e.ErrorDescription)
		}
		return errors.New(why)
	}
	text := printable(err.Error())
	if len(text) > maxQuoted {
		text = strings.ToValidUTF8(text[:maxQuoted], "") + "…"
	}
	return errors.New(text)
}

// printableText passes on what a library says to a person, escaped (rule 36)
// but for the ends of lines and tabs.
type printableText struct{ w io.Writer }

func (p printableText) Write(text []byte) (int, error) {
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		rest, end := strings.CutSuffix(line, "\n")
		for i, part := range strings.Split(rest, "\t") {
			if i > 0 {
				b.WriteByte('\t')
			}
			b.WriteString(printable(part))
		}
		if end {
			b.WriteByte('\n')
		}
	}
	if _, err := io.WriteString(p.w, b.String()); err != nil {
		return 0, err
	}
	return len(text), nil
}
