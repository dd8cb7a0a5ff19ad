//go:build pkcs11 && cgo && unix

package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func TestKeysInTokensSign(t *testing.T) {
	h := newHSM(t, softHSM(t))
	t.Setenv("SOFTHSM2_CONF", h.conf)
	t.Setenv(moduleVariable, h.module)
	h.initToken(t, "t")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecKey := newECKey(t, elliptic.P256())
	h.put(t, "t", "rsa", "01", rsaKey)
	h.put(t, "t", "ed25519", "02", edKey)
	h.put(t, "t", "ec", "03", ecKey)
	h.p11(t, "t", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "careful", "--id", "04", "--always-auth")

	asked := 0
	open := func(t *testing.T, label, pin string) *tokenKey {
		t.Helper()
		u, err := parseTokenURI("pkcs11:token=t;object=" + label)
		if err != nil {
			t.Fatal(err)
		}
		asked = 0
		k, err := openTokenKey(u, func(token string) (string, error) { asked++; return pin, nil })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := k.Close(); err != nil {
				t.Error(err)
			}
		})
		return k
	}
	message := []byte("what is signed")
	digest := sha256.Sum256(message)

	t.Run("RSA by PKCS#1 v1.5", func(t *testing.T) {
		k := open(t, "rsa", testPIN)
		if !rsaKey.PublicKey.Equal(k.Public()) {
			t.Fatal("another public key")
		}
		sig, err := k.Sign(nil, digest[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if err := rsa.VerifyPKCS1v15(&rsaKey.PublicKey, crypto.SHA256, digest[:], sig); err != nil {
			t.Error(err)
		}
		for name, opts := range map[string]crypto.SignerOpts{"RSA-PSS": &rsa.PSSOptions{Hash: crypto.SHA256}, "bytes": crypto.SHA512, "SHA-1": crypto.SHA1} {
			data := digest[:]
			if name == "SHA-1" {
				data = data[:20]
			}
			if _, err := k.Sign(nil, data, opts); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: got %v", name, err)
			}
		}
	})
	t.Run("Ed25519, the message itself", func(t *testing.T) {
		k := open(t, "ed25519", testPIN)
		sig, err := k.Sign(nil, message, crypto.Hash(0))
		if err != nil {
			t.Fatal(err)
		}
		if !edKey.Public().(ed25519.PublicKey).Equal(k.Public()) || !ed25519.Verify(k.Public().(ed25519.PublicKey), message, sig) {
			t.Error("does not verify")
		}
		if _, err := k.Sign(nil, digest[:], crypto.SHA256); err == nil {
			t.Error("signed a digest")
		}
	})
	t.Run("ECDSA in ASN.1, also a digest that is longer than the curve", func(t *testing.T) {
		k := open(t, "ec", testPIN)
		long := sha512.Sum512(message)
		for hash, digest := range map[crypto.Hash][]byte{crypto.SHA256: digest[:], crypto.SHA512: long[:]} {
			sig, err := k.Sign(nil, digest, hash)
			if err != nil {
				t.Fatal(err)
			}
			if !ecKey.PublicKey.Equal(k.Public()) || !ecdsa.VerifyASN1(&ecKey.PublicKey, digest, sig) {
				t.Errorf("%v: does not verify", hash)
			}
		}
	})
	t.Run("a key that wants the PIN each time gets it, and asks once", func(t *testing.T) {
		k := open(t, "careful", testPIN)
		if k.again == "" {
			t.Fatal("the key does not want it: the test shows nothing")
		}
		for range 3 {
			sig, err := k.Sign(nil, digest[:], crypto.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			if !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), digest[:], sig) {
				t.Error("does not verify")
			}
		}
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
	})
	t.Run("a closed token signs nothing, and closes again", func(t *testing.T) {
		k := open(t, "ec", testPIN)
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Sign(nil, digest[:], crypto.SHA256); err == nil {
			t.Error("signed")
		}
	})
	t.Run("a token that signs is not closed under it", func(t *testing.T) {
		k := open(t, "ec", testPIN)
		k.mu.Lock()
		err := k.Close()
		k.mu.Unlock()
		if err != nil || k.module == nil {
			t.Errorf("closed: %v", err)
		}
	})
	t.Run("a wrong PIN is asked for once, and the module can be opened again", func(t *testing.T) {
		u, err := parseTokenURI("pkcs11:token=t;object=ec")
		if err != nil {
			t.Fatal(err)
		}
		tries := 0
		if _, err := openTokenKey(u, func(string) (string, error) { tries++; return "0000", nil }); err == nil || tries != 1 {
			t.Fatalf("%d tries, %v", tries, err)
		}
		open(t, "ec", testPIN)
	})
	t.Run("no PIN is asked for where no token is meant", func(t *testing.T) {
		u, err := parseTokenURI("pkcs11:token=other")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := openTokenKey(u, func(string) (string, error) { t.Error("asked"); return "", errors.New("asked") }); err == nil {
			t.Error("opened")
		}
	})
}

func TestPublicKeysOfTokensAreParsed(t *testing.T) {
	key := newECKey(t, elliptic.P256())
	bare, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	der := func(v any) []byte {
		out, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	p256 := der(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7})
	for _, tt := range []struct {
		name          string
		params, point []byte
		words         string // of the error; "": the key
	}{
		{"a point in an OCTET STRING", p256, der(bare), ""},
		{"a bare point", p256, bare, ""},
		{"a cut point", p256, der(bare[:64]), "its public key"},
		{"no point", p256, nil, "its public key"},
		{"a point off the curve", p256, der(append(bytes.Clone(bare[:64]), bare[64]^1)), "its public key"},
		{"a point of another curve", der(asn1.ObjectIdentifier{1, 3, 132, 0, 34}), der(bare), "its public key"},
		{"a curve that is not used", der(asn1.ObjectIdentifier{1, 3, 132, 0, 10}), der(bare), "1.3.132.0.10 is not P-256"},
		{"a curve without a name", der([]int{1}), der(bare), "no name"},
		{"no curve", nil, der(bare), "no name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseECPoint(tt.params, tt.point)
			if tt.words != "" {
				if err == nil || !strings.Contains(err.Error(), tt.words) {
					t.Errorf("got %v, %v", got, err)
				}
			} else if err != nil || !key.PublicKey.Equal(got) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
	public := bytes.Repeat([]byte{4}, ed25519.PublicKeySize)
	for _, point := range [][]byte{public, der(public)} {
		if got, err := parseEdwardsPoint(point); err != nil || !ed25519.PublicKey(public).Equal(got) {
			t.Errorf("%x: got %v, %v", point, got, err)
		}
	}
	if got, err := parseEdwardsPoint(public[1:]); err == nil {
		t.Errorf("got %v", got)
	}
}

func TestSignaturesOfTokensBecomeDER(t *testing.T) {
	sig, err := derSignature([]byte{0, 0x80, 0, 1})
	if err != nil || hex.EncodeToString(sig) != "3007"+"02020080"+"020101" {
		t.Errorf("got %x, %v", sig, err)
	}
	for _, raw := range [][]byte{nil, {1, 2, 3}} {
		if sig, err := derSignature(raw); err == nil {
			t.Errorf("%x: got %x", raw, sig)
		}
	}
	info, err := digestInfo(crypto.SHA256, make([]byte, 32))
	if err != nil || hex.EncodeToString(info[:19]) != "3031300d060960864801650304020105000420" {
		t.Errorf("got %x, %v (RFC 8017 §9.2, note 1)", info, err)
	}
}
