//go:build unix

package e2e

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/rogpeppe/go-internal/testscript"
)

// authority starts a timestamp authority (RFC 3161) for the rest of the script:
// its address is $NAME, its root certificate lies in NAME.pem.
func authority(_ context.Context, ts *testscript.TestScript, args []string) error {
	root, rootKey, err := issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: args[0] + " root"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	if err != nil {
		return err
	}
	purpose, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}}) // timeStamping
	if err != nil {
		return err
	}
	leaf, leafKey, err := issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: args[0]}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: purpose}}, // RFC 3161 §2.3
	}, root, rootKey)
	if err != nil {
		return err
	}
	server := registryOf(ts).open(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := stamp(r, leaf, leafKey)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/timestamp-reply")
		_, _ = w.Write(answer) // the client went away
	}))
	ts.Setenv(args[0], server.URL)
	return os.WriteFile(ts.MkAbs(args[0]+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}), 0o644)
}

// stamp answers one request.
func stamp(r *http.Request, leaf *x509.Certificate, key crypto.Signer) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil {
		return nil, err
	}
	query, err := timestamp.ParseRequest(body)
	if err != nil {
		return nil, err
	}
	token := timestamp.Timestamp{
		HashAlgorithm: query.HashAlgorithm, HashedMessage: query.HashedMessage, Nonce: query.Nonce,
		Time: time.Now(), Policy: asn1.ObjectIdentifier{1, 2, 3, 4}, AddTSACertificate: query.Certificates,
	}
	return token.CreateResponseWithOpts(leaf, key, crypto.SHA256)
}

// issue makes a certificate for a new key, valid from an hour ago on for two;
// without an issuer it is a root.
func issue(template, issuer *x509.Certificate, issuerKey crypto.Signer) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	template.BasicConstraintsValid = true
	if issuer == nil {
		issuer, issuerKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}
