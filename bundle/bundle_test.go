package bundle_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelsig/modelsig/bundle"
	sigbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
)

const payload = `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"m","digest":{"sha256":"00"}}],"predicateType":"p","predicate":{"é":"<&>"}}`

// signed is what Sign makes of payload with the p256 key.
func signed(t testing.TB, payload string) string {
	t.Helper()
	signer, err := bundle.NewKeySigner(privateKey(t, "p256"))
	if err != nil {
		t.Fatal(err)
	}
	bundles, err := signer.Sign(t.Context(), []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return string(bundles[0].JSON())
}

func keyVerifier(t testing.TB, key crypto.PublicKey) bundle.Verifier {
	t.Helper()
	v, err := bundle.NewKeyVerifier(key)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// handMade makes a bundle without the package's help: signed in any way, over any encoding.
func handMade(t testing.TB, material, payloadType string, payload []byte, sigs ...[]byte) []byte {
	t.Helper()
	type sig struct {
		Sig []byte `json:"sig"`
	}
	var list []sig
	for _, s := range sigs {
		list = append(list, sig{s})
	}
	data, err := json.Marshal(map[string]any{
		"mediaType":            bundle.MediaType,
		"verificationMaterial": json.RawMessage(material),
		"dsseEnvelope":         map[string]any{"payload": payload, "payloadType": payloadType, "signatures": list},
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func pae(payloadType, payload string) string {
	return fmt.Sprintf("DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

func signDER(t testing.TB, key *ecdsa.PrivateKey, hash crypto.Hash, message string) []byte {
	t.Helper()
	h := hash.New()
	h.Write([]byte(message))
	der, err := ecdsa.SignASN1(rand.Reader, key, h.Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

const keyMaterial = `{"publicKey":{}}`

func TestSignAndOpen(t *testing.T) {
	for _, kind := range kinds() {
		t.Run(kind, func(t *testing.T) {
			key := anyKey(t, kind)
			signer, err := bundle.NewKeySigner(key)
			if err != nil {
				t.Fatal(err)
			}
			payloads := [][]byte{[]byte(payload), []byte(`{}`), {0}}
			bundles, err := signer.Sign(t.Context(), payloads...)
			if err != nil {
				t.Fatal(err)
			}
			fingerprint, err := bundle.Fingerprint(key.Public())
			if err != nil {
				t.Fatal(err)
			}
			if len(bundles) != len(payloads) {
				t.Fatalf("%d bundles for %d payloads", len(bundles), len(payloads))
			}
			for i, b := range bundles {
				again, err := bundle.Parse(b.JSON())
				if err != nil {
					t.Fatal(err)
				}
				if again.Method() != bundle.MethodKey {
					t.Error(again.Method())
				}
				for _, v := range []bundle.Verifier{verifierOf(signer), keyVerifier(t, key.Public())} {
					if v.String() != "key "+fingerprint {
						t.Error(v)
					}
					got, err := again.Open(v)
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(got.Payload, payloads[i]) {
						t.Errorf("payload is %q", got.Payload)
					}
					if want := (bundle.Identity{Method: bundle.MethodKey, KeyFingerprint: fingerprint}); got.Signer != want {
						t.Errorf("signer is %+v", got.Signer)
					}
				}
				wantShape(t, b.JSON(), payloads[i], fingerprint)
				sigstoreAccepts(t, b.JSON(), key)
			}
		})
	}
}

// wantShape holds a bundle against the one form that is written (OMS §3.1, §4.1): only the signature varies.
func wantShape(t *testing.T, got, payload []byte, hint string) {
	t.Helper()
	want := `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"` + hint + `"}},` +
		`"dsseEnvelope":{"payload":"` + base64.StdEncoding.EncodeToString(payload) + `","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"`
	if rest, ok := strings.CutPrefix(string(got), want); !ok || strings.Index(rest, `"}]}}`) != len(rest)-5 {
		t.Errorf("wrote %s", got)
	}
}

// sigstoreAccepts asks sigstore-go's own parser and verifier, with the key and the curve's hash.
func sigstoreAccepts(t *testing.T, data []byte, key crypto.Signer) {
	t.Helper()
	var b sigbundle.Bundle
	if err := b.UnmarshalJSON(data); err != nil {
		t.Fatalf("sigstore-go: %v", err)
	}
	content, err := b.SignatureContent()
	if err != nil {
		t.Fatalf("sigstore-go: %v", err)
	}
	material, err := b.VerificationContent()
	if err != nil {
		t.Fatalf("sigstore-go: %v", err)
	}
	hash := crypto.SHA256
	if ec, ok := key.(*ecdsa.PrivateKey); ok {
		hash = map[int]crypto.Hash{256: crypto.SHA256, 384: crypto.SHA384, 521: crypto.SHA512}[ec.Params().BitSize]
	}
	v, err := signature.LoadVerifier(key.Public(), hash)
	if err != nil {
		t.Fatal(err)
	}
	trusted := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return timeless{v}, nil })
	if err := verify.VerifySignature(content, material, trusted); err != nil {
		t.Errorf("sigstore-go: %v", err)
	}
}

type timeless struct{ signature.Verifier }

func (timeless) ValidAtTime(time.Time) bool { return true }

// A key in a token or a service is asked for one thing: to sign a digest with the hash that made it, or a message where the key is Ed25519.
func TestWhatAKeyElsewhereIsAskedFor(t *testing.T) {
	for kind, hash := range map[string]crypto.Hash{
		"p256": crypto.SHA256, "p384": crypto.SHA384, "p521": crypto.SHA512, "rsa2048": crypto.SHA256, "ed25519": 0,
	} {
		key := anyKey(t, kind)
		asked := 0
		signer, err := bundle.NewKeySigner(brokenSigner{key.Public(), func(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
			asked++
			want := []byte(pae(bundle.PayloadType, payload))
			if hash != 0 {
				h := hash.New()
				h.Write(want)
				want = h.Sum(nil)
			}
			if opts != crypto.SignerOpts(hash) || !bytes.Equal(digest, want) {
				t.Errorf("%s: asked to sign %q with %#v", kind, digest, opts)
			}
			return key.Sign(r, digest, opts)
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := signer.Sign(t.Context(), []byte(payload)); err != nil || asked != 1 {
			t.Errorf("%s: asked %d times: %v", kind, asked, err)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	signer, err := bundle.NewKeySigner(privateKey(t, "p256"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := signer.Sign(t.Context(), []byte(payload), nil); err == nil || b != nil {
		t.Error("signed an empty payload")
	}
	if b, err := signer.Sign(t.Context()); err != nil || len(b) != 0 {
		t.Error("no payloads:", b, err)
	}
	if _, err := signer.Sign(t.Context(), make([]byte, bundle.MaxSize/4*3)); err == nil {
		t.Error("signed what Parse would not read")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := signer.Sign(ctx, []byte(payload)); !errors.Is(err, context.Canceled) {
		t.Error("cancelled:", err)
	}
	// A token that signs with another key than it says, or not in DER.
	for name, broken := range map[string]crypto.Signer{
		"another key": brokenSigner{privateKey(t, "p256").Public(), privateKey(t, "p384").Sign},
		"not DER": brokenSigner{privateKey(t, "p256").Public(), func(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
			return make([]byte, 64), nil
		}},
	} {
		s, err := bundle.NewKeySigner(broken)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sign(t.Context(), []byte(payload)); !errors.Is(err, bundle.ErrUntrusted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	failing := errors.New("token removed")
	s, err := bundle.NewKeySigner(brokenSigner{privateKey(t, "p256").Public(), func(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, failing }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sign(t.Context(), []byte(payload)); !errors.Is(err, failing) {
		t.Error(err)
	}
}

type brokenSigner struct {
	public crypto.PublicKey
	sign   func(io.Reader, []byte, crypto.SignerOpts) ([]byte, error)
}

func (s brokenSigner) Public() crypto.PublicKey { return s.public }
func (s brokenSigner) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.sign(r, digest, opts)
}

func TestOneBundleManyReaders(t *testing.T) {
	b, err := bundle.Parse([]byte(signed(t, payload)))
	if err != nil {
		t.Fatal(err)
	}
	v := keyVerifier(t, privateKey(t, "p256").Public())
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if got, err := b.Open(v); err != nil || string(got.Payload) != payload {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

func TestErrorsQuoteForeignText(t *testing.T) {
	hostile := "\x1b[31m\u202e\n" + strings.Repeat("A", 1<<19)
	member, err := json.Marshal(hostile)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"a media type": fmt.Appendf(nil, `{"mediaType":%s}`, member),
		"a name":       fmt.Appendf(nil, `{%s:1}`, member),
		"a deep name":  fmt.Appendf(nil, `{"verificationMaterial":{%s:1}}`, member),
		"a twin":       fmt.Appendf(nil, `{"verificationMaterial":{"publicKey":{%s:1,%s:1}}}`, member, member),
		"a number":     fmt.Appendf(nil, `{"verificationMaterial":{"tlogEntries":[{"logIndex":%s}]}}`, member),
	} {
		_, err := bundle.Parse(data)
		if err == nil || len(err.Error()) > 2000 || strings.ContainsAny(err.Error(), "\x1b\u202e\n") {
			t.Errorf("%s: %.500q", name, err)
		}
	}
	b, err := bundle.Parse(handMade(t, keyMaterial, hostile, []byte(payload), []byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Open(keyVerifier(t, privateKey(t, "p256").Public())); err == nil || len(err.Error()) > 2000 || strings.ContainsAny(err.Error(), "\x1b\u202e\n") {
		t.Errorf("payload type: %.500q", err)
	}
}

// Every bundle here is right but in one thing; nearly all carry a true signature by the accepted key.
func TestOpenRefuses(t *testing.T) {
	p256, p384, p521 := privateKey(t, "p256"), privateKey(t, "p384"), privateKey(t, "p521")
	right := signDER(t, p256, crypto.SHA256, pae(bundle.PayloadType, payload))
	cert := base64.StdEncoding.EncodeToString(leafDER(t))
	leafKey, err := bundle.ParsePrivateKey(readFile(t, "../testdata/certificate/leaf.key.pem"), nil)
	if err != nil {
		t.Fatal(err)
	}
	dsse := func(sig []byte) []byte { return handMade(t, keyMaterial, bundle.PayloadType, []byte(payload), sig) }
	if _, err := open(dsse(right), keyVerifier(t, p256.Public())); err != nil {
		t.Fatal("the bundle that all others differ from:", err)
	}
	for name, tc := range map[string]struct {
		data []byte
		key  crypto.PublicKey
		says string
	}{
		"another key of the same curve": {dsse(right), generated(t, "p256"), "did not make"},
		"another key of another curve":  {dsse(right), p384.Public(), "did not make"},
		"the payload was changed":       {handMade(t, keyMaterial, bundle.PayloadType, []byte(strings.Replace(payload, "00", "01", 1)), right), p256.Public(), "did not make"},
		"the payload was cut":           {handMade(t, keyMaterial, bundle.PayloadType, []byte(payload[:len(payload)-1]), right), p256.Public(), "did not make"},
		"another payload type, as signed (rule 4)": {
			handMade(t, keyMaterial, "application/json", []byte(payload), signDER(t, p256, crypto.SHA256, pae("application/json", payload))), p256.Public(), "payload type"},
		"payload type in capitals, as signed": {
			handMade(t, keyMaterial, "application/vnd.in-toto+JSON", []byte(payload), signDER(t, p256, crypto.SHA256, pae("application/vnd.in-toto+JSON", payload))), p256.Public(), "payload type"},
		"no payload type, as signed": {
			handMade(t, keyMaterial, "", []byte(payload), signDER(t, p256, crypto.SHA256, pae("", payload))), p256.Public(), "payload type"},
		"payload type moved into the payload": {
			handMade(t, keyMaterial, bundle.PayloadType, []byte(payload), signDER(t, p256, crypto.SHA256, pae("application/json", payload))), p256.Public(), "did not make"},
		"a message signature over a payload (rule 4)": {
			fmt.Appendf(nil, `{"mediaType":%q,"verificationMaterial":%s,"messageSignature":{"signature":%q}}`,
				bundle.MediaType, keyMaterial, base64.StdEncoding.EncodeToString(signDER(t, p256, crypto.SHA256, payload))), p256.Public(), "no DSSE envelope"},
		"the payload itself was signed, without its type": {dsse(signDER(t, p256, crypto.SHA256, payload)), p256.Public(), "did not make"},
		"the encoding before DSSE v1 (rule 30)": {
			dsse(signDER(t, p256, crypto.SHA256, fmt.Sprintf("DSSEV1 %d %s %d b'%s'", len(bundle.PayloadType), bundle.PayloadType, len(payload), payload))), p256.Public(), "did not make"},
		"P-256 over SHA-384":                    {dsse(signDER(t, p256, crypto.SHA384, pae(bundle.PayloadType, payload))), p256.Public(), "did not make"},
		"P-256 over SHA-512":                    {dsse(signDER(t, p256, crypto.SHA512, pae(bundle.PayloadType, payload))), p256.Public(), "did not make"},
		"P-384 over SHA-512":                    {dsse(signDER(t, p384, crypto.SHA512, pae(bundle.PayloadType, payload))), p384.Public(), "did not make"},
		"P-384 over SHA-1":                      {dsse(signDER(t, p384, crypto.SHA1, pae(bundle.PayloadType, payload))), p384.Public(), "did not make"},
		"P-521 over SHA-384":                    {dsse(signDER(t, p521, crypto.SHA384, pae(bundle.PayloadType, payload))), p521.Public(), "did not make"},
		"RSA over SHA-1":                        {dsse(signAs(t, "rsa2048", crypto.SHA1, pae(bundle.PayloadType, payload))), anyKey(t, "rsa2048").Public(), "did not make"},
		"RSA over SHA-512":                      {dsse(signAs(t, "rsa2048", crypto.SHA512, pae(bundle.PayloadType, payload))), anyKey(t, "rsa2048").Public(), "did not make"},
		"RSA-PSS":                               {dsse(signAs(t, "rsa2048", &rsa.PSSOptions{Hash: crypto.SHA256}, pae(bundle.PayloadType, payload))), anyKey(t, "rsa2048").Public(), "did not make"},
		"Ed25519 over a digest":                 {dsse(signAs(t, "ed25519", crypto.Hash(0), digestOf(crypto.SHA512, pae(bundle.PayloadType, payload)))), anyKey(t, "ed25519").Public(), "did not make"},
		"Ed25519ctx":                            {dsse(signAs(t, "ed25519", &ed25519.Options{Context: "modelsig"}, pae(bundle.PayloadType, payload))), anyKey(t, "ed25519").Public(), "did not make"},
		"Ed25519ph with a context":              {dsse(signAs(t, "ed25519", &ed25519.Options{Hash: crypto.SHA512, Context: "modelsig"}, pae(bundle.PayloadType, payload))), anyKey(t, "ed25519").Public(), "did not make"},
		"Ed25519 over the payload alone":        {dsse(signAs(t, "ed25519", crypto.Hash(0), payload)), anyKey(t, "ed25519").Public(), "did not make"},
		"another kind of key":                   {dsse(right), anyKey(t, "ed25519").Public(), "did not make"},
		"a signature that is not DER":           {dsse(plain(t, right)), p256.Public(), "did not make"},
		"a signature with a byte behind it":     {dsse(append(bytes.Clone(right), 0)), p256.Public(), "did not make"},
		"a signature of zeros":                  {dsse([]byte{0x30, 6, 2, 1, 0, 2, 1, 0}), p256.Public(), "did not make"},
		"a certificate's material (rule 30)":    {handMade(t, `{"certificate":{"rawBytes":"`+cert+`"}}`, bundle.PayloadType, []byte(payload), right), p256.Public(), "open certificate bundle"},
		"a chain's material (rule 30)":          {handMade(t, `{"x509CertificateChain":{"certificates":[{"rawBytes":"`+cert+`"}]}}`, bundle.PayloadType, []byte(payload), right), p256.Public(), "open certificate bundle"},
		"the material of a log entry (rule 30)": {handMade(t, `{"certificate":{"rawBytes":"`+cert+`"},"tlogEntries":[{}]}`, bundle.PayloadType, []byte(payload), right), p256.Public(), "open sigstore bundle"},
		"a certificate of this very key (rule 30)": {
			handMade(t, `{"certificate":{"rawBytes":"`+cert+`"}}`, bundle.PayloadType, []byte(payload),
				signDER(t, leafKey.(*ecdsa.PrivateKey), crypto.SHA384, pae(bundle.PayloadType, payload))), leafKey.Public(), "takes bundles of method key only"},
	} {
		t.Run(name, func(t *testing.T) {
			v := keyVerifier(t, tc.key)
			got, err := open(tc.data, v)
			if !errors.Is(err, bundle.ErrUntrusted) || got != nil {
				t.Fatalf("opened: %v", err)
			}
			if !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v does not say %q", err, tc.says)
			}
		})
	}

	t.Run("two signatures, both by the key", func(t *testing.T) {
		data := handMade(t, keyMaterial, bundle.PayloadType, []byte(payload), right, signDER(t, p256, crypto.SHA256, pae(bundle.PayloadType, payload)))
		if _, err := bundle.Parse(data); !errors.Is(err, bundle.ErrMalformed) {
			t.Error(err)
		}
	})
	t.Run("no verifiers", func(t *testing.T) {
		if _, err := open(dsse(right)); !errors.Is(err, bundle.ErrUntrusted) {
			t.Error(err)
		}
	})
	t.Run("a bundle that nobody parsed", func(t *testing.T) {
		if _, err := new(bundle.Bundle).Open(keyVerifier(t, p256.Public())); !errors.Is(err, bundle.ErrUntrusted) {
			t.Error(err)
		}
	})
	t.Run("several verifiers, none of them right, are all named", func(t *testing.T) {
		a, b := keyVerifier(t, p384.Public()), keyVerifier(t, p521.Public())
		_, err := open(dsse(right), a, b)
		if err == nil || !strings.Contains(err.Error(), a.String()) || !strings.Contains(err.Error(), b.String()) {
			t.Error(err)
		}
	})
	t.Run("several verifiers, one of them right", func(t *testing.T) {
		v := keyVerifier(t, p256.Public())
		got, err := open(dsse(right), keyVerifier(t, p384.Public()), v, keyVerifier(t, p521.Public()))
		if err != nil || "key "+got.Signer.KeyFingerprint != v.String() {
			t.Error(got, err)
		}
	})
}

// cosign signs with SHA-256 on every curve unless told otherwise.
func TestOpenAcceptsSHA256OnLargerCurves(t *testing.T) {
	for curve, own := range map[string]crypto.Hash{"p256": crypto.SHA256, "p384": crypto.SHA384, "p521": crypto.SHA512} {
		key := privateKey(t, curve)
		for _, hash := range []crypto.Hash{own, crypto.SHA256} {
			data := handMade(t, keyMaterial, bundle.PayloadType, []byte(payload), signDER(t, key, hash, pae(bundle.PayloadType, payload)))
			if _, err := open(data, keyVerifier(t, key.Public())); err != nil {
				t.Errorf("%s over %v: %v", curve, hash, err)
			}
		}
	}
}

// Other OMS tools sign Ed25519ph.
func TestOpenAcceptsBothFormsOfEd25519(t *testing.T) {
	v := keyVerifier(t, anyKey(t, "ed25519").Public())
	for name, opts := range map[string]crypto.SignerOpts{"pure": crypto.Hash(0), "prehashed": crypto.SHA512} {
		data := handMade(t, keyMaterial, bundle.PayloadType, []byte(payload), signAs(t, "ed25519", opts, pae(bundle.PayloadType, payload)))
		got, err := open(data, v)
		if err != nil || string(got.Payload) != payload {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// signAs signs message, hashed first if opts name a hash, with a key of testdata.
func signAs(t testing.TB, kind string, opts crypto.SignerOpts, message string) []byte {
	t.Helper()
	if hash := opts.HashFunc(); hash != 0 {
		message = digestOf(hash, message)
	}
	sig, err := anyKey(t, kind).Sign(rand.Reader, []byte(message), opts)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func digestOf(hash crypto.Hash, message string) string {
	h := hash.New()
	h.Write([]byte(message))
	return string(h.Sum(nil))
}

func open(data []byte, verifiers ...bundle.Verifier) (*bundle.Verified, error) {
	b, err := bundle.Parse(data)
	if err != nil {
		return nil, err
	}
	return b.Open(verifiers...)
}

func generated(t *testing.T, curve string) crypto.PublicKey {
	t.Helper()
	key, err := bundle.GenerateKey(curve)
	if err != nil {
		t.Fatal(err)
	}
	return key.Public()
}

func fingerprint(t *testing.T, curve string) string {
	t.Helper()
	f, err := bundle.Fingerprint(publicKey(t, filepath.Join(keysDir, curve+".pub.pem")))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func leafDER(t *testing.T) []byte {
	t.Helper()
	block, _ := pem.Decode(readFile(t, "../testdata/certificate/leaf.pem"))
	return block.Bytes
}

// plain is a P-256 signature as its two numbers, one behind the other.
func plain(t *testing.T, der []byte) []byte {
	t.Helper()
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		t.Fatal(err)
	}
	return append(sig.R.FillBytes(make([]byte, 32)), sig.S.FillBytes(make([]byte, 32))...)
}

// verifierOf is what accepts signer, which has its key already, and nobody else.
func verifierOf(signer bundle.Signer) bundle.Verifier {
	v, err := signer.Verifier(context.Background())
	if err != nil {
		panic(err)
	}
	return v
}
