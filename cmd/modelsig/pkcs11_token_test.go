//go:build unix

package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// softHSM finds SoftHSM's module and the tools that fill its tokens: packages
// softhsm2, opensc and gcc of Debian. Where they are missing, the test is
// skipped and says so; in CI it fails.
func softHSM(t *testing.T) (module string) {
	t.Helper()
	missing := func(what string) {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing: install softhsm2, opensc and gcc", what)
		}
		t.Skipf("%s is missing: keys in tokens are not tested (install softhsm2, opensc and gcc)", what)
	}
	for _, program := range []string{"softhsm2-util", "pkcs11-tool", "gcc"} {
		if _, err := exec.LookPath(program); err != nil {
			missing(program)
		}
	}
	for _, pattern := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib*/*/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so", "/opt/homebrew/lib/softhsm/libsofthsm2.so"} {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	missing("libsofthsm2.so")
	return ""
}

// A hsm is a SoftHSM with tokens of its own.
type hsm struct {
	module, conf, dir string
}

const testPIN = "98+76"

func newHSM(t *testing.T, module string) *hsm {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	h := &hsm{module, filepath.Join(dir, "softhsm2.conf"), dir}
	if err := os.WriteFile(h.conf, []byte("directories.tokendir = "+dir+"/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

// tool runs one of the tools that fill tokens.
func (h *hsm) tool(t *testing.T, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+h.conf)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, said)
	}
}

func (h *hsm) initToken(t *testing.T, label string) {
	t.Helper()
	h.tool(t, "softhsm2-util", "--module", h.module, "--init-token", "--free", "--label", label, "--so-pin", "4321", "--pin", testPIN)
}

// p11 runs pkcs11-tool on a token.
func (h *hsm) p11(t *testing.T, token string, args ...string) {
	t.Helper()
	h.tool(t, "pkcs11-tool", append([]string{"--module", h.module, "--token-label", token, "--login", "--pin", testPIN}, args...)...)
}

// put puts a new key into a token, private and public half, and returns the name
// of a file with the public half.
func (h *hsm) put(t *testing.T, token, label, id string, key crypto.Signer) (public string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	private := filepath.Join(h.dir, "private.pem")
	if err := os.WriteFile(private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	h.tool(t, "softhsm2-util", "--module", h.module, "--import", private, "--token", token, "--label", label, "--id", id, "--pin", testPIN)
	return h.writePublic(t, key.Public())
}

func (h *hsm) writePublic(t *testing.T, key crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp(h.dir, "*.pub")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := pem.Encode(f, &pem.Block{Type: "PUBLIC KEY", Bytes: der}); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func newECKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// writeCertificate writes a self-signed certificate in DER.
func writeCertificate(t *testing.T, name string, key crypto.Signer) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "signer"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, der, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestKeysInTokens(t *testing.T) {
	module := softHSM(t)
	modelsig := filepath.Join(t.TempDir(), "modelsig")
	build(t, modelsig, ".", []string{"CGO_ENABLED=1"}, "-tags", "pkcs11")

	h := newHSM(t, module)
	h.initToken(t, "release keys")
	// Key pairs in their curves; what is wrong with the others stands in their labels.
	publics := map[string]string{}
	for i, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		name := curve.Params().Name
		publics[name] = h.put(t, "release keys", name, []string{"a1", "a2", "a3"}[i], newECKey(t, curve))
	}
	publics["twin"] = h.put(t, "release keys", "twin", "b1", newECKey(t, elliptic.P256()))
	h.put(t, "release keys", "twin", "b2", newECKey(t, elliptic.P256()))

	certified := newECKey(t, elliptic.P256())
	publics["certified"] = h.put(t, "release keys", "certified", "c1", certified)
	writeCertificate(t, filepath.Join(h.dir, "cert.der"), certified)
	h.p11(t, "release keys", "--write-object", filepath.Join(h.dir, "cert.der"), "--type", "cert", "--id", "c1")
	h.p11(t, "release keys", "--delete-object", "--type", "pubkey", "--id", "c1")

	h.put(t, "release keys", "alone", "d1", newECKey(t, elliptic.P256()))
	h.p11(t, "release keys", "--delete-object", "--type", "pubkey", "--id", "d1")

	stranger := newECKey(t, elliptic.P256())
	h.put(t, "release keys", "mismatched", "e1", newECKey(t, elliptic.P256()))
	writeCertificate(t, filepath.Join(h.dir, "stranger.der"), stranger)
	h.p11(t, "release keys", "--delete-object", "--type", "pubkey", "--id", "e1")
	h.p11(t, "release keys", "--write-object", filepath.Join(h.dir, "stranger.der"), "--type", "cert", "--id", "e1")

	// Made in the token, not imported.
	h.p11(t, "release keys", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "generated", "--id", "f1")
	h.p11(t, "release keys", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "careful", "--id", "f2", "--always-auth")
	for _, label := range []string{"generated", "careful"} {
		der := filepath.Join(h.dir, label+".der")
		h.p11(t, "release keys", "--read-object", "--type", "pubkey", "--label", label, "--output-file", der)
		data, err := os.ReadFile(der)
		if err != nil {
			t.Fatal(err)
		}
		key, err := x509.ParsePKIXPublicKey(data)
		if err != nil {
			t.Fatal(err)
		}
		publics[label] = h.writePublic(t, key)
	}

	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	publics["RSA"] = h.put(t, "release keys", "RSA", "91", rsaKey)
	publics["Ed25519"] = h.put(t, "release keys", "Ed25519", "92", edKey)

	pinFile := filepath.Join(h.dir, "pin")
	if err := os.WriteFile(pinFile, []byte(testPIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"SOFTHSM2_CONF=" + h.conf, "PKCS11_MODULE_PATH=" + module, "PKCS11_PIN=" + testPIN}
	const token = "pkcs11:token=release%20keys;"

	for _, tt := range []struct {
		name, key, public string
	}{
		{"P-256", token + "object=P-256", "P-256"},
		{"P-384", token + "object=P-384", "P-384"},
		{"P-521", token + "object=P-521", "P-521"},
		{"RSA", token + "object=RSA", "RSA"},
		{"Ed25519", token + "object=Ed25519", "Ed25519"},
		{"a key by its ID", token + "id=%a2", "P-384"},
		{"a key by label, ID and type", token + "object=twin;id=%B1;type=private", "twin"},
		{"a key by everything that is known of its token", token + "model=SoftHSM%20v2;manufacturer=SoftHSM%20project;library-manufacturer=SoftHSM;object=P-256", "P-256"},
		{"a module in the URI", token + "object=P-256?module-path=" + module, "P-256"},
		{"a PIN in the URI, whose plus is a plus", token + "object=P-256?pin-value=98+76", "P-256"},
		{"a PIN in a file", token + "object=P-256?pin-source=file:" + pinFile, "P-256"},
		{"a key that was made in the token", token + "object=generated", "generated"},
		{"a key that wants the PIN for each signature", token + "object=careful", "careful"},
		{"a key whose public half is in a certificate", token + "object=certified", "certified"},
	} {
		t.Run("signs: "+tt.name, func(t *testing.T) {
			w := newWorkplace(t, modelsig, env...)
			w.run(t, exitYes, "", "sign", "key", "model", "--private-key", tt.key)
			w.run(t, exitYes, "", "verify", "key", "model", "--public-key", publics[tt.public])
			for other, public := range publics {
				if other != tt.public {
					w.run(t, exitNo, "", "verify", "key", "model", "--public-key", public)
					break
				}
			}
		})
	}
	for _, tt := range []struct {
		name, key, words string
		env              []string
	}{
		{"an unknown token, and names those that are there", "pkcs11:token=other;object=P-256", `no token is the one of the URI; there are "release keys" (serial `, nil},
		{"a token of another serial", token + "serial=00;object=P-256", "no token is the one of the URI", nil},
		{"an unknown key, and names those that are there", token + "object=nobody", `no private key is the one of the URI; there are "`, nil},
		{"a label and an ID of two keys", token + "object=P-256;id=%a2", "no private key is the one of the URI", nil},
		{"two keys of one label, and names both", token + "object=twin", `2 private keys match, and one is wanted: "twin" (id b`, nil},
		{"a key without a public half", token + "object=alone", `private key "alone" (id d1): the token has no public key and no certificate`, nil},
		{"a key whose certificate is another's, after the self-check", token + "object=mismatched", "did not make this signature", nil},
		{"an empty PIN, untried", token + "object=P-256?pin-value=", "the PIN is empty", nil},
		{"no PIN and no terminal", token + "object=P-256", "a PIN is needed, and there is no terminal", env[:2]},
		{"a missing module", token + "object=P-256?module-path=/nowhere/libsofthsm2.so", "no such file", nil},
		{"a module that is none", token + "object=P-256?module-path=" + modelsig, "is not a PKCS#11 module that this program can load", nil},
		{"no module", token + "object=P-256", "no PKCS#11 module is named", env[:1]},
		{"an unknown query attribute", token + "object=P-256?pin=SECRET", `query attribute "pin" is not known`, nil},
	} {
		t.Run("refuses "+tt.name, func(t *testing.T) {
			if tt.env == nil {
				tt.env = env
			}
			w := newWorkplace(t, modelsig, tt.env...)
			if said := w.run(t, exitTrouble, tt.words, "sign", "key", "model", "--private-key", tt.key); strings.Contains(said, testPIN) || strings.Contains(said, "SECRET") {
				t.Errorf("the PIN is repeated: %s", said)
			}
			w.unsigned(t)
		})
	}
	t.Run("refuses a wrong PIN, which is tried once", func(t *testing.T) {
		w := newWorkplace(t, modelsig, env...)
		w.run(t, exitTrouble, "the PIN is wrong; it was tried once", "sign", "key", "model", "--private-key", token+"object=P-256?pin-value=0000")
		w.unsigned(t)
	})
	t.Run("opens no token where two match", func(t *testing.T) {
		h := newHSM(t, module)
		h.initToken(t, "twin")
		h.initToken(t, "twin")
		w := newWorkplace(t, modelsig, "SOFTHSM2_CONF="+h.conf, "PKCS11_MODULE_PATH="+module, "PKCS11_PIN=0000")
		w.run(t, exitTrouble, `2 tokens match, and none was opened: "twin" (serial `, "sign", "key", "model", "--private-key", "pkcs11:token=twin")
	})
	t.Run("refuses a module without a token", func(t *testing.T) {
		h := newHSM(t, module)
		w := newWorkplace(t, modelsig, "SOFTHSM2_CONF="+h.conf, "PKCS11_MODULE_PATH="+module, "PKCS11_PIN=0000")
		w.run(t, exitTrouble, "the module has no token", "sign", "key", "model", "--private-key", "pkcs11:")
	})
}
