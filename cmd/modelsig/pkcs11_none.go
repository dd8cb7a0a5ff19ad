//go:build !pkcs11 || !cgo

package main

import (
	"crypto"
	"errors"
	"io"
)

// openTokenKey stands where the program was built without PKCS#11 (ADR 14).
func openTokenKey(*tokenURI, func(token string) (string, error)) (interface {
	crypto.Signer
	io.Closer
}, error) {
	return nil, &hinted{
		errors.New("this program was built without PKCS#11, and reads no keys from tokens"),
		"CGO_ENABLED=1 go build -tags pkcs11 ./cmd/modelsig builds one that does",
	}
}
