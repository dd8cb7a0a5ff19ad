//go:build ignore

// Generate writes a certificate authority for tests: root, intermediate and a leaf that may sign code, with the leaf's key.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log"
	"math/big"
	"os"
	"time"
)

// The certificates outlive every test. They begin on a fixed day, so a test may also ask about a time before them.
var (
	notBefore = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(2099, time.December, 31, 23, 59, 59, 0, time.UTC)
)

func main() {
	log.SetFlags(0)
	root := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{Organization: []string{"modelsig tests"}, CommonName: "modelsig test root"},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            1,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	intermediate := &x509.Certificate{
		SerialNumber:          big.NewInt(2),
		Subject:               pkix.Name{Organization: []string{"modelsig tests"}, CommonName: "modelsig test intermediate"},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	leaf := &x509.Certificate{
		SerialNumber:          big.NewInt(3),
		Subject:               pkix.Name{Organization: []string{"modelsig tests"}, CommonName: "modelsig test release"},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		EmailAddresses:        []string{"release@example.com"},
	}
	rootKey, intermediateKey, leafKey := newKey(), newKey(), newKey()
	rootCert := issue("root.pem", root, root, rootKey, rootKey)
	intermediateCert := issue("intermediate.pem", intermediate, rootCert, intermediateKey, rootKey)
	issue("leaf.pem", leaf, intermediateCert, leafKey, intermediateKey)

	private, err := x509.MarshalPKCS8PrivateKey(leafKey)
	check(err)
	write("leaf.key.pem", "PRIVATE KEY", private)
	public, err := x509.MarshalPKIXPublicKey(leafKey.Public())
	check(err)
	write("leaf.pub.pem", "PUBLIC KEY", public)
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	check(err)
	return key
}

// issue signs template with the issuer's key, writes the certificate and returns it as others read it.
func issue(file string, template, issuer *x509.Certificate, key, issuerKey *ecdsa.PrivateKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	check(err)
	write(file, "CERTIFICATE", der)
	cert, err := x509.ParseCertificate(der)
	check(err)
	return cert
}

func write(file, blockType string, der []byte) {
	check(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der}), 0o644))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
