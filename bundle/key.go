package bundle

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"

	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/sign"
)

// RSA keys: below the minimum a signature proves little; beyond the maximum, which is what openssl verifies with, each look costs a stranger nothing and us much.
const (
	minRSABits = 2048
	maxRSABits = 16384
)

// A keyAlgorithm is what is signed and accepted with keys of one kind.
type keyAlgorithm struct {
	name    string // as sigstore-go names it
	details protocommon.PublicKeyDetails
	digest  protocommon.HashAlgorithm
	// sign is the hash to sign with (OMS §4.1); 0: the message itself is signed.
	sign crypto.Hash
	// accept lists the hashes that a signature may have been made with.
	accept []crypto.Hash
}

// algorithmOf returns the algorithm for a key, or a *KeyError for one that this package does not use.
//
// For P-384 and P-521 SHA-256 is accepted beside the curve's own hash: cosign's verifier expects it by default whatever the curve,
// so signers that use it exist (ADR 12). For Ed25519, Ed25519ph with SHA-512 is accepted beside the pure form, because other OMS tools make it.
// Nothing is confused by that: the verifier's caller gave the key, all are over the same encoding, and a bundle has no say in which is tried.
func algorithmOf(key crypto.PublicKey) (keyAlgorithm, error) {
	switch kind := kindOf(key); kind {
	case "ECDSA P-256":
		return keyAlgorithm{
			"ECDSA", protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, protocommon.HashAlgorithm_SHA2_256,
			crypto.SHA256, []crypto.Hash{crypto.SHA256},
		}, nil
	case "ECDSA P-384":
		return keyAlgorithm{
			"ECDSA", protocommon.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384, protocommon.HashAlgorithm_SHA2_384,
			crypto.SHA384, []crypto.Hash{crypto.SHA384, crypto.SHA256},
		}, nil
	case "ECDSA P-521":
		return keyAlgorithm{
			"ECDSA", protocommon.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512, protocommon.HashAlgorithm_SHA2_512,
			crypto.SHA512, []crypto.Hash{crypto.SHA512, crypto.SHA256},
		}, nil
	case "Ed25519":
		return keyAlgorithm{
			"ED25519", protocommon.PublicKeyDetails_PKIX_ED25519, protocommon.HashAlgorithm_SHA2_512,
			0, []crypto.Hash{0, crypto.SHA512},
		}, nil
	case "RSA":
		details := protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256
		switch bits := key.(*rsa.PublicKey).N.BitLen(); {
		case bits >= 4096:
			details = protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_4096_SHA256
		case bits >= 3072:
			details = protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256
		}
		return keyAlgorithm{
			"RSA", details, protocommon.HashAlgorithm_SHA2_256,
			crypto.SHA256, []crypto.Hash{crypto.SHA256},
		}, nil
	default:
		return keyAlgorithm{}, &KeyError{Kind: kind}
	}
}

// A signingKey is the public half of a key that may have signed a bundle, by itself or in a certificate.
type signingKey struct {
	key         crypto.PublicKey
	algorithm   keyAlgorithm
	pem         string
	fingerprint string
}

func newSigningKey(key crypto.PublicKey) (*signingKey, error) {
	algorithm, err := algorithmOf(key)
	if err != nil {
		return nil, err
	}
	text, err := MarshalPublicKey(key)
	if err != nil {
		return nil, err
	}
	return &signingKey{key: key, algorithm: algorithm, pem: string(text), fingerprint: fingerprintOf(text)}, nil
}

// errSignature is the answer to a signature that is not over this payload, or not by this key: nobody can tell which.
var errSignature = errors.New("did not make this signature")

// check says whether the key signed an envelope. Hashes are taken of the payload where it lies, so that a large one by
// somebody else is neither decoded as a whole nor copied. Pure Ed25519 alone must have the message in one piece.
func (k *signingKey) check(envelope *wireEnvelope) error {
	signature := envelope.Signatures[0].Sig
	header := envelope.header()
	for _, hash := range k.algorithm.accept {
		if hash == 0 {
			if len(signature) != ed25519.SignatureSize {
				continue
			}
			message := bytes.NewBuffer(make([]byte, 0, len(header)+envelope.Payload.size()))
			message.WriteString(header)
			if err := envelope.Payload.decode(message); err != nil {
				return err
			}
			if k.verify(hash, message.Bytes(), signature) {
				return nil
			}
			continue
		}
		h := hash.New()
		h.Write([]byte(header))
		if err := envelope.Payload.decode(h); err != nil {
			return err
		}
		if k.verify(hash, h.Sum(nil), signature) {
			return nil
		}
	}
	return errSignature
}

// verify checks a signature over a digest, or over a message if hash is 0.
func (k *signingKey) verify(hash crypto.Hash, digest, signature []byte) bool {
	switch key := k.key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, digest, signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, hash, digest, signature) == nil
	case ed25519.PublicKey:
		return ed25519.VerifyWithOptions(key, digest, signature, &ed25519.Options{Hash: hash}) == nil
	}
	return false
}

// NewKeyVerifier accepts bundles of method key that were signed with the private half of key: ECDSA in ASN.1 DER on P-256 with SHA-256,
// on P-384 with SHA-384 or SHA-256, on P-521 with SHA-512 or SHA-256; Ed25519, pure or Ed25519ph with SHA-512; RSA of 2048 to 16384 bits,
// PKCS#1 v1.5 with SHA-256. Keys are of type *[ecdsa.PublicKey], [ed25519.PublicKey] or *[rsa.PublicKey]. Other keys: [*KeyError].
func NewKeyVerifier(key crypto.PublicKey) (Verifier, error) {
	k, err := newSigningKey(key)
	if err != nil {
		return nil, fmt.Errorf("verify with a key: %w", err)
	}
	return &keyVerifier{k}, nil
}

type keyVerifier struct{ *signingKey }

func (v *keyVerifier) String() string { return "key " + v.fingerprint }

func (v *keyVerifier) open(b *Bundle) (Proof, error) {
	if m := b.Method(); m != MethodKey {
		return Proof{}, fmt.Errorf("takes bundles of method %s only, not %s (OMS §4.1)", MethodKey, m)
	}
	if err := v.check(b.wire.Envelope); err != nil {
		return Proof{}, err
	}
	return Proof{Signer: Identity{Method: MethodKey, KeyFingerprint: v.fingerprint}}, nil
}

// NewKeySigner signs with key: ECDSA on P-256 with SHA-256, on P-384 with SHA-384, on P-521 with SHA-512 (OMS §4.1), pure Ed25519,
// RSA of 2048 to 16384 bits by PKCS#1 v1.5 with SHA-256. Other keys: [*KeyError]. The bundle's hint is the key's [Fingerprint].
//
// The private half may be anywhere. All that key has to do is Public, and Sign of a digest with the hash as options: in ASN.1 DER for ECDSA,
// PKCS#1 v1.5 for RSA. An Ed25519 key gets the message itself and crypto.Hash(0).
func NewKeySigner(key crypto.Signer) (Signer, error) {
	pair, err := newKeypair(key)
	if err != nil {
		return nil, fmt.Errorf("sign with a key: %w", err)
	}
	return &keySigner{keypair: pair}, nil
}

type keySigner struct{ keypair *keypair }

func (s *keySigner) Sign(ctx context.Context, payloads ...[]byte) ([]*Bundle, error) {
	return signAll(ctx, s.keypair, sign.BundleOptions{}, s.verifier(), payloads)
}

func (s *keySigner) Verifier(context.Context) (Verifier, error) { return s.verifier(), nil }

func (s *keySigner) verifier() Verifier { return &keyVerifier{s.keypair.public} }

// keypair is a crypto.Signer in the form that sigstore-go signs with.
type keypair struct {
	key    crypto.Signer
	public *signingKey
}

var _ sign.Keypair = (*keypair)(nil)

func newKeypair(key crypto.Signer) (*keypair, error) {
	if key == nil {
		return nil, errors.New("no key")
	}
	public, err := newSigningKey(key.Public())
	if err != nil {
		return nil, err
	}
	return &keypair{key: key, public: public}, nil
}

func (k *keypair) GetHashAlgorithm() protocommon.HashAlgorithm { return k.public.algorithm.digest }
func (k *keypair) GetSigningAlgorithm() protocommon.PublicKeyDetails {
	return k.public.algorithm.details
}
func (k *keypair) GetHint() []byte                  { return []byte(k.public.fingerprint) }
func (k *keypair) GetKeyAlgorithm() string          { return k.public.algorithm.name }
func (k *keypair) GetPublicKey() crypto.PublicKey   { return k.public.key }
func (k *keypair) GetPublicKeyPem() (string, error) { return k.public.pem, nil }

func (k *keypair) SignData(_ context.Context, data []byte) (signature, digest []byte, err error) {
	hash := k.public.algorithm.sign
	if hash == 0 {
		signature, err = k.key.Sign(rand.Reader, data, hash)
		return signature, nil, err
	}
	h := hash.New()
	h.Write(data)
	digest = h.Sum(nil)
	signature, err = k.key.Sign(rand.Reader, digest, hash)
	return signature, digest, err
}
