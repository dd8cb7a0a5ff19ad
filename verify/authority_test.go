package verify_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/verify"
)

// midYear is when certificates are looked at: those of testdata are valid from
// 2026-01-01.
var midYear = time.Date(2026, time.July, 1, 12, 0, 0, 0, time.UTC)

// An office has the certificates of testdata: a leaf that may sign models for
// release@example.com, what issued it, and the leaf's key.
type office struct {
	key                      crypto.Signer
	leaf, intermediate, root *x509.Certificate
}

func newOffice(t testing.TB) office {
	t.Helper()
	data := testdata(t, "certificate/leaf.key.pem")
	key, err := bundle.ParsePrivateKey(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	one := func(name string) *x509.Certificate {
		list, err := bundle.ParseCertificates(testdata(t, "certificate/"+name))
		if err != nil || len(list) != 1 {
			t.Fatalf("%s: %d certificates, %v", name, len(list), err)
		}
		return list[0]
	}
	return office{key, one("leaf.pem"), one("intermediate.pem"), one("root.pem")}
}

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("../testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// trusted accepts what leads to the root, at the weakest strength there is.
func (o office) trusted(t testing.TB, options bundle.CertificateOptions) verify.Policy {
	t.Helper()
	if options.Now == nil {
		options.Now = func() time.Time { return midYear }
	}
	v, err := bundle.NewCertificateVerifier([]*x509.Certificate{o.root}, options)
	if err != nil {
		t.Fatal(err)
	}
	return verify.Policy{Verifiers: []bundle.Verifier{v}, Binding: verify.StrengthLayers}
}

// material is the verification material of the office's own bundles.
func (o office) material() string { return chain(o.leaf, o.intermediate) }

func chain(certs ...*x509.Certificate) string {
	var list []string
	for _, c := range certs {
		list = append(list, `{"rawBytes":"`+base64.StdEncoding.EncodeToString(c.Raw)+`"}`)
	}
	return `{"x509CertificateChain":{"certificates":[` + strings.Join(list, ",") + `]}}`
}

// dsse is what is signed of a payload: DSSE's pre-authentication encoding.
func dsse(payloadType string, payload []byte) string {
	return fmt.Sprintf("DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

// legacyEncoding is what OMS v0.2 signed in its place. Payloads that Python
// would write with escapes are not for this function.
func legacyEncoding(t testing.TB, payload []byte) string {
	t.Helper()
	if strings.ContainsFunc(string(payload), func(r rune) bool { return r < ' ' || r > '~' || r == '\'' || r == '\\' }) {
		t.Fatalf("%s needs escapes", payload)
	}
	return fmt.Sprintf("DSSEV1 %d %s %d b'%s'", len(bundle.PayloadType), bundle.PayloadType, len(payload), payload)
}

// sealed makes a bundle by hand: material and envelope are what they are, and
// the signatures are true ones of message.
func sealed(t testing.TB, material, payloadType string, payload []byte, message string, keys ...crypto.Signer) []byte {
	t.Helper()
	digest := sha256.Sum256([]byte(message))
	var signatures []string
	for _, key := range keys {
		sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		signatures = append(signatures, `{"sig":"`+base64.StdEncoding.EncodeToString(sig)+`"}`)
	}
	return fmt.Appendf(nil, `{"mediaType":%q,"verificationMaterial":%s,"dsseEnvelope":{"payload":%q,"payloadType":%q,"signatures":[%s]}}`,
		bundle.MediaType, material, base64.StdEncoding.EncodeToString(payload), payloadType, strings.Join(signatures, ","))
}
