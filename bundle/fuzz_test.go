package bundle_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/e2e/fakesigstore"
)

// seed adds the files of patterns to the corpus. A pattern without files is an error; only the OMS project's data may be missing as a whole.
func seed(f *testing.F, patterns ...string) {
	f.Helper()
	_, shared := os.Stat(sharedOMS)
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 && (shared == nil || !strings.HasPrefix(pattern, sharedOMS)) {
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

func FuzzParseCertificates(f *testing.F) {
	seed(f, "../testdata/certificate/*.pem", sharedOMS+"/cases/assets/keys/certificate/*.pem")
	chain := readFile(f, "../testdata/certificate/leaf.pem")
	f.Add(append(append(chain, "text\n"...), readFile(f, "../testdata/certificate/root.pem")...))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := bundle.ParseCertificates(data)
		if err != nil {
			if list != nil {
				t.Fatal("certificates and an error")
			}
			return
		}
		var text []byte
		for _, cert := range list {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
		}
		again, err := bundle.ParseCertificates(text)
		if err != nil || !slices.EqualFunc(list, again, (*x509.Certificate).Equal) {
			t.Fatal("other certificates after marshalling:", err)
		}
		if v, err := bundle.NewCertificateVerifier(list, bundle.CertificateOptions{TimestampAnchors: list}); err == nil && v.String() == "" {
			t.Fatal("a verifier without a name")
		}
	})
}

// FuzzOpenCertificate opens what others may put into a bundle: certificates and tokens.
func FuzzOpenCertificate(f *testing.F) {
	// Fuzzing runs in several processes: what one made must be good in the other, so nothing of worth is random.
	root := caWith(f, nil, anyKey(f, "p256"), "root")
	middle := caWith(f, root, anyKey(f, "p384"), "intermediate")
	leaf := leafWith(f, middle, anyKey(f, "ed25519"))
	tsa := &authority{root: caWith(f, nil, anyKey(f, "p521"), "timestamp root"), now: midYear, hash: crypto.SHA256}
	tsa.holder = authorityWith(f, tsa.root, anyKey(f, "rsa2048"))
	data := signedBy(f, leaf.key, chainMaterial(leaf, middle))
	sig := signatureOf(f, data)
	data = withTokens(f, data, tsa.over(f, sig))
	f.Add(leaf.cert.Raw, middle.cert.Raw, tsa.over(f, sig))
	f.Add(middle.cert.Raw, leaf.cert.Raw, tsa.over(f, []byte("x")))
	f.Add(root.cert.Raw, root.cert.Raw, []byte{})
	anybody := certificateVerifier(f, bundle.CertificateOptions{TimestampAnchors: certs(tsa.root)}, root)
	want, err := open(data, anybody)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, first, second, token []byte) {
		b := handMade(t, chainMaterial(&holder{cert: &x509.Certificate{Raw: first}}, &holder{cert: &x509.Certificate{Raw: second}}), bundle.PayloadType, []byte(payload), sig)
		got, err := open(withTokens(t, b, token), anybody)
		if err != nil {
			if !errors.Is(err, bundle.ErrUntrusted) && !errors.Is(err, bundle.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(got.Payload, want.Payload) || got.Signer != want.Signer || !got.Time.IsZero() && !got.Time.Equal(want.Time) {
			t.Fatalf("forged: %+v", got)
		}
	})
}

// The parts of the material that libraries parse before anybody authenticated them: whatever they say, the payload and the signer stay, or it is a refusal.
func FuzzSigstoreMaterial(f *testing.F) {
	s := fakesigstore.New(f)
	verifier := accepting(s, nil)
	o := newOrder(s)
	o.Stamped = moment
	honest := o.Sign()
	// One part at a time: what comes behind a wrong part is not read.
	m := honest.Material
	f.Add(m.Certificate.RawBytes, []byte(nil), "", []byte(nil))
	f.Add([]byte(nil), m.Entries[0].Body, "", []byte(nil))
	f.Add([]byte(nil), []byte(nil), m.Entries[0].Proof.Checkpoint.Envelope, []byte(nil))
	f.Add([]byte(nil), []byte(nil), "", m.Timestamps.Tokens[0].Token)
	for _, body := range []string{
		`{"apiVersion":"0.0.1","kind":"dsse","spec":{"envelopeHash":{},"payloadHash":{},"signatures":[null]}}`,
		`{"apiVersion":"0.0.1","kind":"dsse","spec":{"proposedContent":{"envelope":"{\"signatures\":[{}]}","verifiers":[null]}}}`,
		`{"apiVersion":"0.0.2","kind":"intoto","spec":{"content":{"envelope":{"signatures":[null]},"payloadHash":null}}}`,
		`{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{},"signature":{"publicKey":null}}}`,
		`{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"signature":{"verifier":{}}}}}`,
	} {
		f.Add([]byte(nil), []byte(body), "", []byte(nil))
	}
	f.Fuzz(func(t *testing.T, certificate, body []byte, checkpoint string, token []byte) {
		b, entry, proof := *honest, *honest.Material.Entries[0], *honest.Material.Entries[0].Proof
		if len(certificate) > 0 {
			b.Material.Certificate = &fakesigstore.Raw{RawBytes: certificate}
		}
		if len(body) > 0 {
			entry.Body = body
			var kind struct{ APIVersion, Kind string }
			if json.Unmarshal(body, &kind) == nil {
				entry.KindVersion = object{"kind": kind.Kind, "version": kind.APIVersion}
			}
		}
		if len(checkpoint) > 0 {
			proof.Checkpoint.Envelope = checkpoint
		}
		if len(token) > 0 {
			b.Material.Timestamps.Tokens = []fakesigstore.Token{{Token: token}}
		}
		entry.Proof = &proof
		b.Material.Entries = []*fakesigstore.Entry{&entry}
		data, err := json.Marshal(&b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := open(data, verifier)
		if err != nil {
			if !errors.Is(err, bundle.ErrUntrusted) && !errors.Is(err, bundle.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if string(got.Payload) != o.Payload || got.Signer.Subject != fakesigstore.Subject || !got.Time.Equal(o.Logged) {
			t.Fatalf("forged: %+v", got)
		}
	})
}
