//go:build !pkcs11 || !cgo

package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestWithoutPKCS11TheErrorSaysHowToBuild(t *testing.T) {
	for _, tt := range []struct {
		name, key string
		words     []string
	}{
		{"a good URI", "pkcs11:token=t?pin-value=SECRET", []string{
			`error: private key "pkcs11:token=t": this program was built without PKCS#11`,
			"hint: CGO_ENABLED=1 go build -tags pkcs11",
		}},
		{"a bad URI is told first", "pkcs11:token=t;pin-value=SECRET", []string{"error: private key pkcs11:…: attribute \"pin-value\" belongs behind a question mark"}},
		{"a password file is not for tokens", "pkcs11:token=t?pin-value=SECRET --password-file x", []string{"--password-file is for PEM keys"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			args := append([]string{"sign", "key", t.TempDir(), "--private-key"}, strings.Fields(tt.key)...)
			if code := run(args, strings.NewReader(""), &stdout, &stderr); code != exitTrouble {
				t.Errorf("exit %d", code)
			}
			for _, words := range tt.words {
				if !strings.Contains(stderr.String(), words) {
					t.Errorf("got %q, want %q", stderr.String(), words)
				}
			}
			if strings.Contains(stderr.String(), "SECRET") {
				t.Errorf("the PIN is repeated: %q", stderr.String())
			}
		})
	}
}
