package bundle_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/bundle"
)

// repr writes bytes as Python does, one by one.
func repr(payload string) string {
	quote := "'"
	if strings.Contains(payload, "'") && !strings.Contains(payload, `"`) {
		quote = `"`
	}
	var out strings.Builder
	out.WriteString("b" + quote)
	for _, c := range []byte(payload) {
		switch s := string(rune(c)); {
		case s == `\` || s == quote:
			out.WriteString(`\` + s)
		case s == "\t":
			out.WriteString(`\t`)
		case s == "\n":
			out.WriteString(`\n`)
		case s == "\r":
			out.WriteString(`\r`)
		case c < 0x20 || c >= 0x7f:
			out.WriteString(fmt.Sprintf(`\x%02x`, c))
		default:
			out.WriteString(s)
		}
	}
	return out.String() + quote
}

func legacyEncoding(payload string) string {
	return fmt.Sprintf("DSSEV1 %d %s %d %s", len(bundle.PayloadType), bundle.PayloadType, len(payload), repr(payload))
}

// signRaw signs message, hashed with SHA-256.
func signRaw(t testing.TB, key crypto.Signer, hash crypto.Hash, message string) []byte {
	t.Helper()
	var opts crypto.SignerOpts = hash
	if hash != 0 {
		message = digestOf(hash, message)
	}
	sig, err := key.Sign(rand.Reader, []byte(message), opts)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func TestLegacyEncoding(t *testing.T) {
	root := ca(t, nil, "root")
	leafWithKey := func(kind string) *holder { return leafWith(t, root, anyKey(t, kind)) }
	p256, p384, rsa, ed := leafWithKey("p256"), leafWithKey("p384"), leafWithKey("rsa2048"), leafWithKey("ed25519")
	v := certificateVerifier(t, bundle.CertificateOptions{}, root)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	large := strings.Repeat(`{"a":'\`+"\n\xff", 40_000)
	standard := pae(bundle.PayloadType, payload)
	for name, tc := range map[string]struct {
		leaf    *holder
		payload string
		signed  string
		hash    crypto.Hash
		legacy  bool
		refused bool
	}{
		"P-256":                            {p256, payload, legacyEncoding(payload), crypto.SHA256, true, false},
		"P-384 over SHA-256":               {p384, payload, legacyEncoding(payload), crypto.SHA256, true, false},
		"every byte there is":              {p384, string(all), legacyEncoding(string(all)), crypto.SHA256, true, false},
		"a large payload":                  {p384, large, legacyEncoding(large), crypto.SHA256, true, false},
		"DSSE's encoding":                  {p384, payload, standard, crypto.SHA384, false, false},
		"DSSE's encoding over SHA-256":     {p384, payload, standard, crypto.SHA256, false, false},
		"a payload that looks like it":     {p384, repr(payload), pae(bundle.PayloadType, repr(payload)), crypto.SHA384, false, false},
		"P-384 over its own hash":          {p384, payload, legacyEncoding(payload), crypto.SHA384, false, true},
		"RSA":                              {rsa, payload, legacyEncoding(payload), crypto.SHA256, false, true},
		"Ed25519":                          {ed, payload, legacyEncoding(payload), 0, false, true},
		"DSSE's name and the old payload":  {p384, payload, strings.Replace(legacyEncoding(payload), "DSSEV1", "DSSEv1", 1), crypto.SHA256, false, true},
		"the old name and DSSE's payload":  {p384, payload, strings.Replace(standard, "DSSEv1", "DSSEV1", 1), crypto.SHA256, false, true},
		"the length of the repr":           {p384, payload, strings.Replace(legacyEncoding(payload), fmt.Sprint(" ", len(payload), " b"), fmt.Sprint(" ", len(repr(payload)), " b"), 1), crypto.SHA256, false, true},
		"another type":                     {p384, payload, strings.Replace(legacyEncoding(payload), "28 application/vnd.in-toto+json", "16 application/json", 1), crypto.SHA256, false, true},
		"another payload":                  {p384, payload, legacyEncoding(strings.Replace(payload, "00", "01", 1)), crypto.SHA256, false, true},
		"a payload that is no JSON object": {p384, "it's", legacyEncoding("it's"), crypto.SHA256, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			data := handMade(t, chainMaterial(tc.leaf), bundle.PayloadType, []byte(tc.payload), signRaw(t, tc.leaf.key, tc.hash, tc.signed))
			got, err := open(data, v)
			if tc.refused {
				if !errors.Is(err, bundle.ErrUntrusted) || !strings.Contains(err.Error(), "did not make") {
					t.Fatal(err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Legacy != tc.legacy || string(got.Payload) != tc.payload {
				t.Errorf("%+v of %.100q", got.Proof, got.Payload)
			}
			// Keys have no such past (rule 30).
			byKey := handMade(t, keyMaterial, bundle.PayloadType, []byte(tc.payload), signRaw(t, tc.leaf.key, tc.hash, tc.signed))
			if _, err := open(byKey, keyVerifier(t, tc.leaf.key.Public())); (err == nil) == tc.legacy {
				t.Errorf("as a key's bundle: %v", err)
			}
		})
	}
	old := leafWith(t, root, privateKey(t, "p384"), func(c *x509.Certificate) { c.NotAfter = yearBegins.AddDate(0, 1, 0) })
	data := handMade(t, chainMaterial(old), bundle.PayloadType, []byte(payload), signRaw(t, old.key, crypto.SHA256, legacyEncoding(payload)))
	if _, err := open(data, v); !errors.Is(err, bundle.ErrUntrusted) || !strings.Contains(err.Error(), "expired") {
		t.Error("an expired certificate:", err)
	}
	everyByte(t, handMade(t, chainMaterial(p256), bundle.PayloadType, []byte(`{"_type":'x'}`), signRaw(t, p256.key, crypto.SHA256, legacyEncoding(`{"_type":'x'}`))), v, 0x01)
}

// FuzzLegacyEncoding signs a slow encoding, and looks whether the fast one is the same.
func FuzzLegacyEncoding(f *testing.F) {
	root := ca(f, nil, "root")
	leaf := leafOf(f, root)
	v := certificateVerifier(f, bundle.CertificateOptions{}, root)
	for _, s := range []string{payload, "", "'", `"'`, `"`, `\'"`, "\x00\x1f\x20\x7e\x7f\x80\xff\t\r\n\"", strings.Repeat(`"\`, 40_000)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) == 0 || len(payload) > 1<<20 {
			return
		}
		data := handMade(t, chainMaterial(leaf), bundle.PayloadType, payload, signRaw(t, leaf.key, crypto.SHA256, legacyEncoding(string(payload))))
		got, err := open(data, v)
		if !bytes.Contains(payload, []byte(`"`)) {
			if !errors.Is(err, bundle.ErrUntrusted) {
				t.Fatal(err)
			}
			return
		}
		if err != nil || !got.Legacy || !bytes.Equal(got.Payload, payload) {
			t.Fatalf("%q: %v", payload, err)
		}
	})
}
