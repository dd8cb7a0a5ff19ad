package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/e2e/fakesigstore"
)

// Which files say whom to trust, and what is wrong with them.
func TestTrustIsReadFromFiles(t *testing.T) {
	sigstore := fakesigstore.New(t)
	servers := sigstore.Serve(fakesigstore.NewIssuer(t))
	dir := t.TempDir()
	file := func(name string, data []byte) given {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return given(name)
	}
	root, config, both := file("root.json", sigstore.TrustedRoot(nil)), file("config.json", servers.SigningConfig(nil)), file("both.json", servers.TrustConfig())
	verifying := file("verifying.json", []byte(`{"mediaType":"application/vnd.dev.sigstore.clienttrustconfig.v0.1+json","trustedRoot":`+string(sigstore.TrustedRoot(nil))+`}`))
	broken, large := file("broken.json", []byte("{")), file("large.json", make([]byte, 2<<20+1))

	for _, tt := range []struct {
		name   string
		flags  signTrustFlags
		verify string // part of the error; "": none
		sign   string
	}{
		{"a root", signTrustFlags{trustFlags{TrustedRoot: root}, ""}, "", "--trusted-root without --signing-config"},
		{"a root and a config", signTrustFlags{trustFlags{TrustedRoot: root}, config}, "", ""},
		{"both in one", signTrustFlags{trustFlags{TrustConfig: both}, ""}, "", ""},
		{"both in one, and a config", signTrustFlags{trustFlags{TrustConfig: both}, config}, "", "--signing-config needs --trusted-root"},
		{"a trust config for verifying", signTrustFlags{trustFlags{TrustConfig: verifying}, ""}, "", "no signing config"},
		{"a config for a root", signTrustFlags{trustFlags{TrustedRoot: config}, config}, "config.json", "config.json"},
		{"a root for a config", signTrustFlags{trustFlags{TrustedRoot: root}, root}, "", "root.json"},
		{"a root for both", signTrustFlags{trustFlags{TrustConfig: root}, ""}, "root.json", "root.json"},
		{"a broken root", signTrustFlags{trustFlags{TrustedRoot: broken}, config}, "broken.json", "broken.json"},
		{"a broken config", signTrustFlags{trustFlags{TrustedRoot: root}, broken}, "", "broken.json"},
		{"a root that is too large", signTrustFlags{trustFlags{TrustedRoot: large}, config}, "large.json", "large.json"},
		{"a trust config that is too large", signTrustFlags{trustFlags{TrustConfig: large}, ""}, "large.json", "large.json"},
		{"no such file", signTrustFlags{trustFlags{TrustedRoot: "missing.json"}, config}, "missing.json", "missing.json"},
		{"two roots", signTrustFlags{trustFlags{TrustedRoot: root, TrustConfig: both}, config}, "--trust-config and --trusted-root", "--trust-config and --trusted-root"},
		{"a root, and staging", signTrustFlags{trustFlags{TrustedRoot: root, UseStaging: true}, config}, "--trusted-root and --use-staging", "--trusted-root and --use-staging"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			says := func(act string, err error, want string) {
				t.Helper()
				if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("%s: got %v, want %q", act, err, want)
				}
			}
			got, err := new(app).trustedRoot(t.Context(), tt.flags.trustFlags)
			says("verify", err, tt.verify)
			if err == nil && got == nil {
				t.Error("verify: no root")
			}
			got, services, err := new(app).signTrust(t.Context(), tt.flags)
			says("sign", err, tt.sign)
			if err == nil && (got == nil || services == nil) {
				t.Error("sign: no root or no config")
			}
		})
	}
}

// An empty value is no wish for the public Sigstore.
func TestSourcesOfTrustAreNotEmpty(t *testing.T) {
	for _, flag := range []string{"--trust-config", "--trusted-root", "--signing-config", "--oidc-issuer", "--tsa-url"} {
		var stdout, stderr bytes.Buffer
		code := run([]string{"sign", "model", "--identity-token", "t", flag, ""}, strings.NewReader(""), &stdout, &stderr)
		if code != exitTrouble || stdout.Len() > 0 || !strings.Contains(stderr.String(), flag+": it is empty") {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", flag, code, stdout.String(), stderr.String())
		}
	}
	for _, flag := range []string{"--trust-config", "--trusted-root"} {
		var stdout, stderr bytes.Buffer
		code := run([]string{"verify", "model", "--identity", "a@example.com", "--identity-provider", "https://example.com", flag, ""}, strings.NewReader(""), &stdout, &stderr)
		if code != exitTrouble || stdout.Len() > 0 || !strings.Contains(stderr.String(), flag+": it is empty") {
			t.Errorf("verify %s: exit %d, stdout %q, stderr %q", flag, code, stdout.String(), stderr.String())
		}
	}
}

// Who cannot reach the public Sigstore is told what does not need it.
func TestWhoIsOfflineIsToldOfTheTrustedRoot(t *testing.T) {
	if got := hint(offline(bundle.ErrTrustUnreachable)); !strings.Contains(got, "--trusted-root") {
		t.Errorf("hint %q", got)
	}
	refused := errors.New("refused")
	if err := offline(refused); err != refused || offline(nil) != nil {
		t.Errorf("got %v", err)
	}
}
