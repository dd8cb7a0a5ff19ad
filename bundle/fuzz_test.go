package bundle_test

import (
	"bytes"
	"crypto"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/modelsig/modelsig/bundle"
)

// seed adds the files of patterns to the corpus. The files of this repository must be there.
func seed(f *testing.F, patterns ...string) {
	f.Helper()
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 && !bytes.HasPrefix([]byte(pattern), []byte(sharedOMS)) {
			f.Fatalf("no seeds at %s: %v", pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
}

func FuzzParse(f *testing.F) {
	seed(f, "testdata/cosign/*.json", sharedOMS+"/cases/*/*/bundle.sig", sharedOMS+"/vectors/*/*.json")
	verifier := keyVerifier(f, privateKey(f, "p256").Public())
	original := readFile(f, "testdata/cosign/p256.json")
	want, err := open(original, verifier)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := bundle.Parse(data)
		claims, claimsErr := bundle.InsecureClaims(data)
		if err != nil {
			if !errors.Is(err, bundle.ErrMalformed) || b != nil {
				t.Fatalf("%v, %v", b, err)
			}
			if claimsErr != nil && !errors.Is(claimsErr, bundle.ErrMalformed) {
				t.Fatal(claimsErr)
			}
			return
		}
		if claimsErr != nil || claims.Method != b.Method() {
			t.Fatalf("claims of a bundle that parses: %+v, %v", claims, claimsErr)
		}
		got, err := b.Open(verifier)
		if err == nil && (!bytes.Equal(got.Payload, want.Payload) || got.Signer != want.Signer) {
			t.Fatalf("forged: %+v", got)
		}
		if err != nil && !errors.Is(err, bundle.ErrUntrusted) {
			t.Fatal(err)
		}
	})
}

func FuzzParsePrivateKey(f *testing.F) {
	seed(f, keysDir+"/*.pem", keysDir+"/refused/*.pem", "../testdata/certificate/*.pem")
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := bundle.ParsePrivateKey(data, nil) // no password: what it costs is not the matter here
		if err != nil {
			if key != nil {
				t.Fatal("a key and an error")
			}
			return
		}
		text, err := bundle.MarshalPrivateKey(key, nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := bundle.ParsePrivateKey(text, nil)
		if err != nil || !key.(interface{ Equal(crypto.PrivateKey) bool }).Equal(again) {
			t.Fatal("another key after marshalling:", err)
		}
	})
}

func FuzzParsePublicKey(f *testing.F) {
	seed(f, keysDir+"/*.pub.pem", keysDir+"/refused/*.pub.pem", "../testdata/certificate/*.pem")
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := bundle.ParsePublicKey(data)
		if err != nil {
			if key != nil {
				t.Fatal("a key and an error")
			}
			return
		}
		text, err := bundle.MarshalPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		again, err := bundle.ParsePublicKey(text)
		if err != nil || !key.(equalKey).Equal(again) {
			t.Fatal("another key after marshalling:", err)
		}
		if _, err := bundle.NewKeyVerifier(key); err != nil {
			t.Fatal("a key that does not verify:", err)
		}
	})
}
