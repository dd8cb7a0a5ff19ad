package bundle_test

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/e2e/fakesigstore"
)

type object = fakesigstore.Object

// When everything of a Sigstore in memory begins and ends, and when it signs.
var (
	begin  = fakesigstore.Begin()
	moment = fakesigstore.Moment()
	end    = begin.AddDate(100, 0, 0)
)

var (
	oidSCTList = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
	oidEKU     = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidStamp   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 8}
)

// must is for what fails only when the tests are wrong.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func derOf(v any) []byte { return must(asn1.Marshal(v)) }

func pkixOf(key crypto.PublicKey) []byte { return must(x509.MarshalPKIXPublicKey(key)) }

// newOrder is for the payload of these tests.
func newOrder(s *fakesigstore.Sigstore) *fakesigstore.Order { return s.NewOrder(payload) }

// ordered is an order and its bundle, both as edited; nil: as they are.
func ordered(s *fakesigstore.Sigstore, order func(*fakesigstore.Order), edit func(*fakesigstore.Order, *fakesigstore.Bundle)) (*fakesigstore.Order, []byte) {
	o := newOrder(s)
	if order != nil {
		order(o)
	}
	b := o.Sign()
	if edit != nil {
		edit(o, b)
	}
	return o, fakesigstore.JSON(b)
}

// accepting verifies for whom orders are, by the root as edited; nil: as it is.
func accepting(s *fakesigstore.Sigstore, edit func(root object)) bundle.Verifier {
	root := must(bundle.ParseTrustedRoot(s.TrustedRoot(edit)))
	return must(bundle.NewSigstoreVerifier(root, bundle.SigstoreIdentity{Subject: fakesigstore.Subject, Issuer: fakesigstore.IssuerURL}))
}
