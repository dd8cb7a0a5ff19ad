package bundle

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"fmt"

	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/sign"
)

// A keyAlgorithm is what is signed and accepted with the keys of one curve.
type keyAlgorithm struct {
	details protocommon.PublicKeyDetails
	digest  protocommon.HashAlgorithm
	// sign is the curve's own hash (OMS §4.1).
	sign crypto.Hash
	// accept lists the hashes that a signature may have been made with.
	accept []crypto.Hash
}

// algorithmOf returns the algorithm for a key's curve, or a *KeyError.
//
// For P-384 and P-521 SHA-256 is accepted beside the curve's own hash: cosign's verifier expects it by default whatever the curve,
// so signers that use it exist (ADR 12). Nothing is confused by that: the verifier's caller gave the key, both hashes are over the same encoding,
// and a bundle has no say in which of the two is tried.
func algorithmOf(key *ecdsa.PublicKey) (keyAlgorithm, error) {
	switch key.Curve.Params().Name {
	case "P-256":
		return keyAlgorithm{
			protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, protocommon.HashAlgorithm_SHA2_256,
			crypto.SHA256, []crypto.Hash{crypto.SHA256},
		}, nil
	case "P-384":
		return keyAlgorithm{
			protocommon.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384, protocommon.HashAlgorithm_SHA2_384,
			crypto.SHA384, []crypto.Hash{crypto.SHA384, crypto.SHA256},
		}, nil
	case "P-521":
		return keyAlgorithm{
			protocommon.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512, protocommon.HashAlgorithm_SHA2_512,
			crypto.SHA512, []crypto.Hash{crypto.SHA512, crypto.SHA256},
		}, nil
	}
	return keyAlgorithm{}, &KeyError{Kind: kindOf(key)}
}

// NewKeyVerifier accepts bundles of method key that were signed with the private half of key: ECDSA on P-256 with SHA-256,
// on P-384 with SHA-384 or SHA-256, on P-521 with SHA-512 or SHA-256, in ASN.1 DER. Other keys: [*KeyError].
func NewKeyVerifier(key crypto.PublicKey) (Verifier, error) {
	v, err := newKeyVerifier(key)
	if err != nil {
		return nil, fmt.Errorf("verify with a key: %w", err)
	}
	return v, nil
}

func newKeyVerifier(key crypto.PublicKey) (*keyVerifier, error) {
	text, err := MarshalPublicKey(key)
	if err != nil {
		return nil, err
	}
	ec, err := ecdsaPublicKey(key)
	if err != nil {
		return nil, err
	}
	algorithm, err := algorithmOf(ec)
	if err != nil {
		return nil, err
	}
	return &keyVerifier{key: ec, algorithm: algorithm, pem: string(text), fingerprint: fingerprintOf(text)}, nil
}

type keyVerifier struct {
	key         *ecdsa.PublicKey
	algorithm   keyAlgorithm
	pem         string
	fingerprint string
}

func (v *keyVerifier) String() string { return "key " + v.fingerprint }

// open hashes the payload where it lies, so that a large one by somebody else is neither decoded as a whole nor copied.
func (v *keyVerifier) open(b *Bundle) (Proof, error) {
	if m := b.Method(); m != MethodKey {
		return Proof{}, fmt.Errorf("takes bundles of method %s only (OMS §4.1)", MethodKey)
	}
	envelope := b.wire.Envelope
	header := paeHeader(envelope.PayloadType, envelope.Payload.size())
	for _, hash := range v.algorithm.accept {
		h := hash.New()
		h.Write([]byte(header))
		if err := envelope.Payload.decode(h); err != nil {
			return Proof{}, err
		}
		if ecdsa.VerifyASN1(v.key, h.Sum(nil), envelope.Signatures[0].Sig) {
			return Proof{Signer: Identity{Method: MethodKey, KeyFingerprint: v.fingerprint}}, nil
		}
	}
	return Proof{}, errors.New("did not make this signature")
}

// NewKeySigner signs with key: ECDSA on P-256 with SHA-256, on P-384 with SHA-384, on P-521 with SHA-512 (OMS §4.1). Other keys: [*KeyError].
// The private half may be anywhere, as long as key signs a digest in ASN.1 DER. The bundle's hint is the key's [Fingerprint].
func NewKeySigner(key crypto.Signer) (Signer, error) {
	if key == nil {
		return nil, errors.New("sign with a key: no key")
	}
	v, err := newKeyVerifier(key.Public())
	if err != nil {
		return nil, fmt.Errorf("sign with a key: %w", err)
	}
	return &keySigner{keypair: &keypair{key: key, public: v}}, nil
}

type keySigner struct{ keypair *keypair }

func (s *keySigner) Sign(ctx context.Context, payloads ...[]byte) ([]*Bundle, error) {
	return signAll(ctx, s.keypair, s.keypair.public, payloads)
}

func (s *keySigner) Verifier() Verifier { return s.keypair.public }

// keypair is a crypto.Signer in the form that sigstore-go signs with.
type keypair struct {
	key    crypto.Signer
	public *keyVerifier
}

var _ sign.Keypair = (*keypair)(nil)

func (k *keypair) GetHashAlgorithm() protocommon.HashAlgorithm { return k.public.algorithm.digest }
func (k *keypair) GetSigningAlgorithm() protocommon.PublicKeyDetails {
	return k.public.algorithm.details
}
func (k *keypair) GetHint() []byte                  { return []byte(k.public.fingerprint) }
func (k *keypair) GetKeyAlgorithm() string          { return "ECDSA" }
func (k *keypair) GetPublicKey() crypto.PublicKey   { return k.public.key }
func (k *keypair) GetPublicKeyPem() (string, error) { return k.public.pem, nil }

func (k *keypair) SignData(_ context.Context, data []byte) (signature, digest []byte, err error) {
	hash := k.public.algorithm.sign
	h := hash.New()
	h.Write(data)
	digest = h.Sum(nil)
	signature, err = k.key.Sign(rand.Reader, digest, hash)
	return signature, digest, err
}
