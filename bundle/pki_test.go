package bundle_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"net/url"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/bundle"
)

// A holder has a certificate and its key.
type holder struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// newKey makes keys of the kind that costs least.
func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue makes a certificate for key: by issuer, or by itself if that is nil.
func issue(t testing.TB, issuer *holder, key crypto.Signer, template *x509.Certificate) *holder {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = serial
	if template.NotBefore.IsZero() {
		template.NotBefore = yearBegins
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = yearEnds
	}
	by := &holder{template, key}
	if issuer != nil {
		by = issuer
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &holder{cert, key}
}

// ca makes a certificate that issues others.
func ca(t testing.TB, issuer *holder, name string, edits ...func(*x509.Certificate)) *holder {
	t.Helper()
	return caWith(t, issuer, newKey(t), name, edits...)
}

func caWith(t testing.TB, issuer *holder, key crypto.Signer, name string, edits ...func(*x509.Certificate)) *holder {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	for _, edit := range edits {
		edit(template)
	}
	return issue(t, issuer, key, template)
}

// leafOf makes a certificate that may sign models, but for the edits.
func leafOf(t testing.TB, issuer *holder, edits ...func(*x509.Certificate)) *holder {
	t.Helper()
	return leafWith(t, issuer, newKey(t), edits...)
}

func leafWith(t testing.TB, issuer *holder, key crypto.Signer, edits ...func(*x509.Certificate)) *holder {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "release"}, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		EmailAddresses: []string{"release@example.com"},
	}
	for _, edit := range edits {
		edit(template)
	}
	return issue(t, issuer, key, template)
}

func certs(holders ...*holder) []*x509.Certificate {
	var list []*x509.Certificate
	for _, h := range holders {
		list = append(list, h.cert)
	}
	return list
}

// chainMaterial is verification material of a chain.
func chainMaterial(holders ...*holder) string {
	var list []string
	for _, h := range holders {
		list = append(list, `{"rawBytes":"`+base64.StdEncoding.EncodeToString(h.cert.Raw)+`"}`)
	}
	return `{"x509CertificateChain":{"certificates":[` + strings.Join(list, ",") + `]}}`
}

func singleMaterial(h *holder) string {
	return `{"certificate":{"rawBytes":"` + base64.StdEncoding.EncodeToString(h.cert.Raw) + `"}}`
}

// signedBy makes a bundle with the material, properly signed by the key with the algorithm that goes with it.
func signedBy(t testing.TB, key crypto.Signer, material string) []byte {
	t.Helper()
	return handMade(t, material, bundle.PayloadType, []byte(payload), signPAE(t, key, pae(bundle.PayloadType, payload)))
}

func signPAE(t testing.TB, key crypto.Signer, message string) []byte {
	t.Helper()
	var opts crypto.SignerOpts = crypto.SHA256
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		opts = map[int]crypto.Hash{224: crypto.SHA256, 256: crypto.SHA256, 384: crypto.SHA384, 521: crypto.SHA512}[k.Params().BitSize]
	case *rsa.PrivateKey:
	default:
		opts = crypto.Hash(0)
	}
	if hash := opts.HashFunc(); hash != 0 {
		message = digestOf(hash, message)
	}
	sig, err := key.Sign(rand.Reader, []byte(message), opts)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func certificateVerifier(t testing.TB, o bundle.CertificateOptions, chain ...*holder) bundle.Verifier {
	t.Helper()
	if o.Now == nil {
		o.Now = at(midYear)
	}
	v, err := bundle.NewCertificateVerifier(certs(chain...), o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func uri(t testing.TB, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
