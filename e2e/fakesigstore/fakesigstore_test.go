package fakesigstore_test

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/e2e/fakesigstore"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

const statement = `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"m","digest":{"sha256":"` +
	`e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}],"predicateType":"https://example.com/p","predicate":{}}`

// signWith signs with sigstore-go's clients, and verifies what they made by the trusted root. The clients' own check asks for no certificate timestamp.
func signWith(t *testing.T, s *fakesigstore.Sigstore, v *fakesigstore.Servers, token string, keys *sign.EphemeralKeypair) (*verify.VerificationResult, error) {
	t.Helper()
	trusted, err := root.NewTrustedRootFromJSON(s.TrustedRoot(nil))
	if err != nil {
		t.Fatal(err)
	}
	config, err := root.NewSigningConfigFromJSON(v.SigningConfig(nil))
	if err != nil {
		t.Fatal(err)
	}
	log, tsa := config.RekorLogURLs()[0], config.TimestampAuthorityURLs()[0]
	made, err := sign.Bundle(&sign.DSSEData{Data: []byte(statement), PayloadType: "application/vnd.in-toto+json"}, keys, sign.BundleOptions{
		Context: t.Context(), TrustedRoot: trusted,
		CertificateProvider:        sign.NewFulcio(&sign.FulcioOptions{BaseURL: config.FulcioCertificateAuthorityURLs()[0].URL}),
		CertificateProviderOptions: &sign.CertificateProviderOptions{IDToken: token},
		TransparencyLogs:           []sign.Transparency{sign.NewRekor(&sign.RekorOptions{BaseURL: log.URL, Version: log.MajorAPIVersion})},
		TimestampAuthorities:       []*sign.TimestampAuthority{sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: tsa.URL})},
	})
	if err != nil {
		return nil, err
	}
	b, err := bundle.NewBundle(made)
	if err != nil {
		return nil, err
	}
	options := []verify.VerifierOption{verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1)}
	if !s.NoCT {
		options = append(options, verify.WithSignedCertificateTimestamps(1))
	}
	verifier, err := verify.NewVerifier(trusted, options...)
	if err != nil {
		t.Fatal(err)
	}
	return verifier.Verify(b, verify.NewPolicy(verify.WithoutArtifactUnsafe(), verify.WithoutIdentitiesUnsafe()))
}

func newKeys(t *testing.T) *sign.EphemeralKeypair {
	t.Helper()
	keys, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestRealClientsSignAndVerify(t *testing.T) {
	for name, set := range map[string]func(s *fakesigstore.Sigstore){
		"Rekor v2":                           func(*fakesigstore.Sigstore) {},
		"Rekor v1":                           func(s *fakesigstore.Sigstore) { s.RekorV1 = true },
		"Rekor v2 without a certificate log": func(s *fakesigstore.Sigstore) { s.NoCT = true },
		"Rekor v1 without a certificate log": func(s *fakesigstore.Sigstore) { s.RekorV1, s.NoCT = true, true },
	} {
		t.Run(name, func(t *testing.T) {
			i, s := fakesigstore.NewIssuer(t), fakesigstore.New(t)
			set(s)
			v := s.Serve(i)
			const workflow = "acme/m/.github/workflows/x.yml@refs/heads/main"
			for _, tt := range []struct {
				token string
				want  certificate.Summary
			}{ // and the log grows
				{i.Mail("alice@example.com"), certificate.Summary{SubjectAlternativeName: "alice@example.com"}},
				{i.Token(map[string]any{
					"sub": "repo:acme/m", "job_workflow_ref": workflow, "repository": "acme/m", "ref": "refs/heads/main", "event_name": "push", "sha": "1234",
				}), certificate.Summary{SubjectAlternativeName: "https://github.com/" + workflow, Extensions: certificate.Extensions{
					BuildSignerURI: "https://github.com/" + workflow, SourceRepositoryURI: "https://github.com/acme/m",
					SourceRepositoryDigest: "1234", SourceRepositoryRef: "refs/heads/main", BuildTrigger: "push",
				}}},
				{i.Token(map[string]any{
					"sub": "project_path:acme/m", "ci_config_ref_uri": "gitlab.com/acme/m//.gitlab-ci.yml@refs/heads/main", "project_path": "acme/m",
				}), certificate.Summary{SubjectAlternativeName: "https://gitlab.com/acme/m//.gitlab-ci.yml@refs/heads/main", Extensions: certificate.Extensions{
					BuildSignerURI: "https://gitlab.com/acme/m//.gitlab-ci.yml@refs/heads/main", SourceRepositoryURI: "https://gitlab.com/acme/m",
				}}},
				{i.Token(map[string]any{"sub": "organization:acme", "organization_slug": "acme", "pipeline_slug": "m"}),
					certificate.Summary{SubjectAlternativeName: "https://buildkite.com/acme/m"}},
				{i.Token(map[string]any{"sub": "https://example.com/robot"}), certificate.Summary{SubjectAlternativeName: "https://example.com/robot"}},
			} {
				got, err := signWith(t, s, v, tt.token, newKeys(t))
				if err != nil {
					t.Error(err)
					continue
				}
				tt.want.Issuer, tt.want.CertificateIssuer = i.URL, "CN=intermediate"
				if *got.Signature.Certificate != tt.want {
					t.Errorf("got %+v, want %+v", *got.Signature.Certificate, tt.want)
				}
			}
			for _, service := range []string{fakesigstore.Fulcio, fakesigstore.Rekor, fakesigstore.TSA} {
				if n := v.Requests(service); n != 5 {
					t.Errorf("%s got %d requests", service, n)
				}
			}
		})
	}
}

func TestFulcioRefusesTokens(t *testing.T) {
	i, s, stranger := fakesigstore.NewIssuer(t), fakesigstore.New(t), fakesigstore.NewIssuer(t)
	v := s.Serve(i)
	for name, token := range map[string]string{
		"for another audience": i.Token(map[string]any{"sub": "https://x.example.com", "aud": "other"}),
		"that ended":           i.Token(map[string]any{"sub": "https://x.example.com", "exp": 1}),
		"of a stranger":        stranger.Mail("alice@example.com"),
		"of a stranger who takes the issuer's name": stranger.Token(map[string]any{
			"iss": i.URL, "sub": "alice@example.com", "email": "alice@example.com", "email_verified": true,
		}),
		"without a subject that is a URI": i.Token(map[string]any{"sub": "robot"}),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := signWith(t, s, v, token, newKeys(t)); err == nil {
				t.Error("it got a certificate")
			}
			if n := v.Requests(fakesigstore.Rekor); n != 0 {
				t.Errorf("the log got %d requests", n)
			}
		})
	}
	if _, err := signWith(t, s, v, i.Mail("alice@example.com"), newKeys(t)); err != nil {
		t.Errorf("the good token: %v", err)
	}
}

// Each service breaks in each way, and works again.
func TestBrokenServers(t *testing.T) {
	i, s, other := fakesigstore.NewIssuer(t), fakesigstore.New(t), fakesigstore.New(t)
	v := s.Serve(i)
	for name, with := range map[string]func(http.Handler) http.Handler{
		"answers 400": fakesigstore.Status(http.StatusBadRequest),
		"drops":       fakesigstore.Drop,
		"truncates":   fakesigstore.Truncate,
	} {
		for _, service := range []string{fakesigstore.Fulcio, fakesigstore.Rekor, fakesigstore.TSA} {
			v.Break(service, with)
			if _, err := signWith(t, s, v, i.Mail("alice@example.com"), newKeys(t)); err == nil {
				t.Errorf("%s %s, and a bundle was made", service, name)
			}
			v.Break(service, nil)
		}
	}
	for _, service := range []string{fakesigstore.Fulcio, fakesigstore.Rekor, fakesigstore.TSA} {
		v.Break(service, other.As(service, i))
		if _, err := signWith(t, s, v, i.Mail("alice@example.com"), newKeys(t)); err == nil {
			t.Errorf("a foreign %s, and a bundle passed", service)
		}
		v.Break(service, fakesigstore.Replay)
		if _, err := signWith(t, s, v, i.Mail("alice@example.com"), newKeys(t)); err != nil {
			t.Errorf("the first answer of %s: %v", service, err)
		}
		if _, err := signWith(t, s, v, i.Mail("alice@example.com"), newKeys(t)); err == nil {
			t.Errorf("another's answer of %s, and a bundle passed", service)
		}
		v.Break(service, nil)
	}
	plain := *s
	plain.NoSCT = true
	v.Break(fakesigstore.Fulcio, plain.As(fakesigstore.Fulcio, i))
	if _, err := signWith(t, s, v, i.Mail("alice@example.com"), newKeys(t)); err == nil {
		t.Error("a certificate without a timestamp passed")
	}
	v.Break(fakesigstore.Fulcio, nil)
	if _, err := signWith(t, s, v, i.Mail("alice@example.com"), newKeys(t)); err != nil {
		t.Error(err)
	}
}

func TestTheTemplateEditsCertificates(t *testing.T) {
	i, s := fakesigstore.NewIssuer(t), fakesigstore.New(t)
	s.Template = func(leaf *x509.Certificate) { leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	if _, err := signWith(t, s, s.Serve(i), i.Mail("alice@example.com"), newKeys(t)); err == nil {
		t.Error("a certificate for servers passed")
	}
}

func TestAClientOfAHangingServerCanLeave(t *testing.T) {
	v := fakesigstore.New(t).Serve()
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	v.Break(fakesigstore.TSA, func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			leave()
			fakesigstore.Hang(honest).ServeHTTP(w, r)
			close(left)
		})
	})
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, v.TSA, strings.NewReader("query"))
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultClient.Do(r); !errors.Is(err, context.Canceled) {
		if err == nil {
			resp.Body.Close()
		}
		t.Errorf("got %v", err)
	}
	<-left
}
