package bundle

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"golang.org/x/sync/errgroup"
)

// certificateLeft is how long a certificate must be valid still to sign with it again. Logs and authorities answer within seconds, and their clocks need not be ours.
const certificateLeft = time.Minute

// A TokenSource gives an OIDC identity token: a JWT, by an issuer that the certificate authority knows, for an audience that it accepts. It is asked each time
// that a certificate is needed: once for all that is signed within the certificate's ten minutes.
type TokenSource func(ctx context.Context) (string, error)

// NewSigstoreSigner signs with an identity instead of a key (method sigstore): with a key on P-256 that only lives in memory, a certificate for whom the token names,
// an entry in a transparency log for each signature, by Rekor v1 or v2, and a timestamp (RFC 3161) of each authority that config wants.
//
// Nothing is asked of anybody before the first Sign or Verifier; what is signed within one certificate's time has the same certificate. A certificate is checked against trusted before
// anything is signed with it, and every bundle before it is returned: what Sign returns, [NewSigstoreVerifier] accepts with trusted, the certificate's subject and its issuer.
// Each log's entry and each authority's token has to count under trusted, though verifiers are content with one of each.
// The logs and authorities of all payloads are asked at once. Where a log holds an entry already, from an answer that was lost, the payload is signed anew, once.
// If a service fails, nothing is returned; what another one logged stays in its log.
//
// client does all requests; its limits of time are its owner's matter, beside ctx. No redirect is followed, whatever client does: a token is for the service that was named.
// Logs are public: subject, issuer and the hash of what was signed can be read there, and stay there; Rekor v1 gets the whole statement.
// These are errors: anything nil, a config without a certificate authority or a log that can be used now, and one that would prove no time.
func NewSigstoreSigner(client *http.Client, trusted *TrustedRoot, config *SigningConfig, token TokenSource) (Signer, error) {
	switch {
	case client == nil || token == nil:
		return nil, errors.New("sign with sigstore: no HTTP client or no source of tokens")
	case trusted == nil || trusted.material == nil:
		return nil, errors.New("sign with sigstore: no trusted root")
	case config == nil || config.config == nil:
		return nil, errors.New("sign with sigstore: no signing config")
	}
	direct := *client
	direct.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	s := &sigstoreSigner{client: &direct, trusted: trusted, config: config, token: token}
	services, err := config.services(time.Now())
	if err != nil {
		return nil, fmt.Errorf("sign with sigstore: %w", err)
	}
	// What would not count is not worth an entry in a log.
	if len(services.tsas) > 0 && len(trusted.material.TimestampingAuthorities()) == 0 {
		return nil, fmt.Errorf("sign with sigstore: timestamps are to come from %s, and the trusted root has no timestamp authority", quote(services.tsas[0]))
	}
	return s, nil
}

type sigstoreSigner struct {
	client  *http.Client
	trusted *TrustedRoot
	config  *SigningConfig
	token   TokenSource

	mu     sync.Mutex // held while a certificate is asked for
	issued *issued    // nil: none yet
}

func (s *sigstoreSigner) Sign(ctx context.Context, payloads ...[]byte) ([]*Bundle, error) {
	bundles, err := s.sign(ctx, payloads)
	if err != nil {
		return nil, fmt.Errorf("sign with sigstore: %w", err)
	}
	return bundles, nil
}

func (s *sigstoreSigner) sign(ctx context.Context, payloads [][]byte) ([]*Bundle, error) {
	certificate, err := s.certificate(ctx)
	if err != nil {
		return nil, err
	}
	bundles := make([]*Bundle, len(payloads))
	// Where one fails, the others are waited for: a log takes entries of many in one go, and would fail those of others with a request that was given up.
	var group errgroup.Group
	for i, payload := range payloads {
		group.Go(func() (err error) {
			bundles[i], err = certificate.sign(ctx, payload)
			if isAgain(err) {
				bundles[i], err = certificate.sign(ctx, payload)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return bundles, nil
}

func (s *sigstoreSigner) Verifier(ctx context.Context) (Verifier, error) {
	certificate, err := s.certificate(ctx)
	if err != nil {
		return nil, fmt.Errorf("sign with sigstore: %w", err)
	}
	return certificate.verifier, nil
}

// certificate returns one that is valid for a while, and asks for it if there is none.
func (s *sigstoreSigner) certificate(ctx context.Context) (*issued, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.issued != nil && now.Add(certificateLeft).Before(s.issued.leaf.NotAfter) {
		return s.issued, nil
	}
	services, err := s.config.services(now)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	keypair, err := newKeypair(key)
	if err != nil {
		return nil, err
	}
	token, err := s.token(ctx)
	if err != nil {
		return nil, err
	}
	c := &issued{client: s.client, services: services, keypair: keypair}
	if err := c.request(ctx, token, s.trusted); err != nil {
		return nil, fmt.Errorf("certificate authority %s: %w", quote(services.fulcio), err)
	}
	s.issued = c
	return c, nil
}

// issued is a certificate and what goes with it.
type issued struct {
	client   *http.Client
	services *services
	keypair  *keypair
	leaf     *x509.Certificate
	verifier *sigstoreVerifier // accepts whom leaf names
}

// request asks Fulcio for a certificate of the key, and checks it as every verifier will: nothing is logged for one that nobody would accept.
func (c *issued) request(ctx context.Context, token string, trusted *TrustedRoot) error {
	fulcio := sign.NewFulcio(&sign.FulcioOptions{
		BaseURL:   strings.TrimSuffix(c.services.fulcio, "/"),
		Timeout:   -1, // the client's
		Transport: &caller{ctx: ctx, client: c.client},
	})
	der, err := fulcio.GetCertificate(ctx, c.keypair, &sign.CertificateProviderOptions{IDToken: token})
	if err != nil {
		return withoutToken(serviceError(err), token)
	}
	if c.leaf, err = x509.ParseCertificate(der); err != nil {
		return fmt.Errorf("its certificate cannot be read: %s", foreign(err))
	}
	if public, ok := c.keypair.GetPublicKey().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(c.leaf.PublicKey) {
		return errors.New("its certificate is not for the key that was sent")
	}
	names, err := readNames(c.leaf)
	if err != nil {
		return fmt.Errorf("check its certificate: %w", err)
	}
	v, err := NewSigstoreVerifier(trusted, SigstoreIdentity{Subject: names.subject, Issuer: names.issuer})
	if err != nil {
		return fmt.Errorf("check its certificate: %w", err)
	}
	c.verifier = v.(*sigstoreVerifier)
	if _, err := c.verifier.checkCertificate(c.leaf); err != nil {
		return fmt.Errorf("check its certificate: %w", err)
	}
	return nil
}

// withoutToken is err, unless that repeats some of the token: authorities may say what they got.
func withoutToken(err error, token string) error {
	const enough = 16 // characters: every part of a JWT is longer, and fewer tell nothing
	for part := range strings.SplitSeq(token, ".") {
		if len(part) >= enough && strings.Contains(err.Error(), part[:enough]) {
			return errors.New("it refused the identity token, with words that repeat it")
		}
	}
	return err
}

// GetCertificate is how sigstore-go asks for what goes into the bundle.
func (c *issued) GetCertificate(context.Context, sign.Keypair, *sign.CertificateProviderOptions) ([]byte, error) {
	return c.leaf.Raw, nil
}

// sign makes one bundle. Logs and authorities are asked at once: each is about the signature, and needs no other's answer.
func (c *issued) sign(ctx context.Context, payload []byte) (*Bundle, error) {
	signed, err := envelope(ctx, c.keypair, sign.BundleOptions{CertificateProvider: c}, payload)
	if err != nil {
		return nil, err
	}
	signature := signed.GetDsseEnvelope().GetSignatures()[0].GetSig()
	entries := make([]*protorekor.TransparencyLogEntry, len(c.services.logs))
	tokens := make([]*protocommon.RFC3161SignedTimestamp, len(c.services.tsas))
	var group errgroup.Group
	for i, log := range c.services.logs {
		group.Go(func() (err error) {
			if entries[i], err = c.log(ctx, log, signed); err != nil {
				return fmt.Errorf("transparency log %s: %w", quote(log.URL), serviceError(err))
			}
			return nil
		})
	}
	for i, tsa := range c.services.tsas {
		group.Go(func() error {
			token, err := requestTimestamp(ctx, c.client, tsa, signature)
			if err != nil {
				return fmt.Errorf("timestamp authority %s: %w", quote(tsa), err)
			}
			tokens[i] = &protocommon.RFC3161SignedTimestamp{SignedTimestamp: token}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	signed.VerificationMaterial.TlogEntries = entries
	if len(tokens) > 0 {
		signed.VerificationMaterial.TimestampVerificationData = &protobundle.TimestampVerificationData{Rfc3161Timestamps: tokens}
	}
	b, err := checked(signed, c.verifier)
	if err != nil {
		return nil, err
	}
	return b, c.checkEach(b)
}

// checkEach wants all that was asked for to count: one log and one time suffice to verifiers, and what they pass over nobody would miss.
func (c *issued) checkEach(b *Bundle) error {
	e := newEntity(c.leaf, b.wire.Envelope)
	for i, log := range c.services.logs {
		if len(c.services.logs) == 1 {
			break // the bundle was just opened by it; each costs a pass over the payload
		}
		alone, material := b.wire, *b.wire.Material
		material.LogEntries = material.LogEntries[i : i+1]
		alone.Material = &material
		if _, err := c.verifier.provedEntries(e, &alone); err != nil {
			return fmt.Errorf("transparency log %s: %w", quote(log.URL), err)
		}
	}
	for i, tsa := range c.services.tsas {
		t, err := c.verifier.stampedTime(e, b.wire.Material.Timestamps.RFC3161[i].SignedTimestamp)
		if err == nil {
			err = c.verifier.checkTime(c.leaf, t)
		}
		if err != nil {
			return fmt.Errorf("timestamp authority %s: its token proves no time to who trusts the root: %w", quote(tsa), err)
		}
	}
	return nil
}

// log has a transparency log take the signature, and returns its entry.
func (c *issued) log(ctx context.Context, service root.Service, signed *protobundle.Bundle) (*protorekor.TransparencyLogEntry, error) {
	rekor, err := newRekor(ctx, c.client, service)
	if err != nil {
		return nil, err
	}
	// The client writes its entry into the bundle: each gets one of its own.
	own := &protobundle.Bundle{
		MediaType:            signed.MediaType,
		VerificationMaterial: &protobundle.VerificationMaterial{Content: signed.VerificationMaterial.Content},
		Content:              signed.Content,
	}
	if err := rekor.GetTransparencyLogEntry(ctx, certificatePEM(c.leaf), own); err != nil {
		return nil, err
	}
	entries := own.VerificationMaterial.TlogEntries
	if len(entries) != 1 || entries[0].GetInclusionProof() == nil || len(entries[0].GetCanonicalizedBody()) == 0 {
		return nil, errNoEntry
	}
	return entries[0], nil
}
