package modelsig

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/modelsig/modelsig/bundle"
)

// KeySigner signs with a private key in PEM: ECDSA P-256, P-384 or P-521,
// Ed25519, or RSA of at least 2048 bits; PKCS#8, SEC1 or PKCS#1, plain or
// encrypted, or cosign's form. password is called at most once, and only if
// the key is encrypted; nil: an encrypted key is an error. For keys that lie
// elsewhere, and are a [crypto.Signer], there is [bundle.NewKeySigner].
func KeySigner(pem []byte, password func() ([]byte, error)) (Signer, error) {
	key, err := bundle.ParsePrivateKey(pem, password)
	if err != nil {
		return nil, err
	}
	return bundle.NewKeySigner(key)
}

// CertificateSigner signs with a private key, as [KeySigner] reads it, and the
// certificate of its public half: the first in certificate, in PEM. What
// follows it there and all of chain are the certificates that issued it; roots
// are left out of the bundle.
func CertificateSigner(pem []byte, password func() ([]byte, error), certificate []byte, chain ...[]byte) (Signer, error) {
	key, err := bundle.ParsePrivateKey(pem, password)
	if err != nil {
		return nil, err
	}
	return NewCertificateSigner(key, certificate, chain...)
}

// NewCertificateSigner is CertificateSigner for a key that may lie elsewhere.
func NewCertificateSigner(key crypto.Signer, certificate []byte, chain ...[]byte) (Signer, error) {
	leaf, err := bundle.ParseCertificates(certificate)
	if err != nil {
		return nil, fmt.Errorf("signing certificate: %w", err)
	}
	issuers, err := certificates(chain)
	if err != nil {
		return nil, fmt.Errorf("certificate chain: %w", err)
	}
	return bundle.NewCertificateSigner(key, leaf[0], append(leaf[1:], issuers...))
}

// KeyPolicy accepts what any of these public keys (PEM, one key each) signed,
// for an artifact only when the statement names its manifest. No keys: a
// policy that trusts nobody.
func KeyPolicy(pems ...[]byte) (Policy, error) {
	var p Policy
	for i, data := range pems {
		key, err := bundle.ParsePublicKey(data)
		if err != nil {
			return Policy{}, fmt.Errorf("public key %d: %w", i+1, err)
		}
		v, err := bundle.NewKeyVerifier(key)
		if err != nil {
			return Policy{}, fmt.Errorf("public key %d: %w", i+1, err)
		}
		p.Verifiers = append(p.Verifiers, v)
	}
	return p, nil
}

// WithTimestampChain returns p with the time of each signature that it accepts,
// where a timestamp authority proves one: its anchors are in chain, in PEM. Who
// is accepted does not change. It is for keys: [CertificatePolicy] has an
// option, because there the time decides.
func WithTimestampChain(p Policy, chain ...[]byte) (Policy, error) {
	anchors, err := certificates(chain)
	if err != nil {
		return Policy{}, fmt.Errorf("timestamp chain: %w", err)
	}
	verifiers := make([]bundle.Verifier, len(p.Verifiers))
	for i, v := range p.Verifiers {
		if verifiers[i], err = bundle.WithTimestampAnchors(v, anchors); err != nil {
			return Policy{}, err
		}
	}
	p.Verifiers = verifiers
	return p, nil
}

// CertificateOptions are what [CertificatePolicy] takes beside the anchors.
type CertificateOptions struct {
	// Identity is a subject alternative name that the certificate must have:
	// with "://" a URI, with "@" an e-mail address, else a DNS name. "":
	// whoever the anchors gave a certificate that may sign code.
	Identity string

	// TimestampChain has the anchors of timestamp authorities, in PEM. The
	// time that one of them proves is when certificates must have been valid.
	// None: they must be valid now.
	TimestampChain [][]byte
}

// CertificatePolicy accepts what was signed with a certificate that leads to an
// anchor: a self-signed certificate in chain (PEM, any number in each), of
// which there must be one. The others of chain only help to lead there. The
// system's roots are never used.
func CertificatePolicy(chain [][]byte, o CertificateOptions) (Policy, error) {
	anchors, err := certificates(chain)
	if err != nil {
		return Policy{}, fmt.Errorf("certificate chain: %w", err)
	}
	if len(anchors) == 0 {
		return Policy{}, errors.New("certificate chain: no anchor is given: nobody is trusted")
	}
	authorities, err := certificates(o.TimestampChain)
	if err != nil {
		return Policy{}, fmt.Errorf("timestamp chain: %w", err)
	}
	v, err := bundle.NewCertificateVerifier(anchors, bundle.CertificateOptions{Identity: o.Identity, TimestampAnchors: authorities})
	if err != nil {
		return Policy{}, err
	}
	return Policy{Verifiers: []bundle.Verifier{v}}, nil
}

// A SigstoreIdentity is whom a Sigstore certificate must be for, and who
// vouched for that; both required, each exactly or by an expression for all of
// it.
type SigstoreIdentity = bundle.SigstoreIdentity

// SigstorePolicy accepts what any of the identities signed with a short-lived
// certificate, by the authorities and logs of one trusted root, which
// [bundle.ParseTrustedRoot] makes. Nothing is fetched. A nil root is an error.
// No identities: a policy that trusts nobody.
func SigstorePolicy(root *bundle.TrustedRoot, identities ...SigstoreIdentity) (Policy, error) {
	if root == nil {
		return Policy{}, errors.New("sigstore policy: no trusted root")
	}
	var p Policy
	for _, identity := range identities {
		v, err := bundle.NewSigstoreVerifier(root, identity)
		if err != nil {
			return Policy{}, err
		}
		p.Verifiers = append(p.Verifiers, v)
	}
	return p, nil
}

// certificates parses files of certificates.
func certificates(pems [][]byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for _, data := range pems {
		certs, err := bundle.ParseCertificates(data)
		if err != nil {
			return nil, err
		}
		all = append(all, certs...)
	}
	return all, nil
}
