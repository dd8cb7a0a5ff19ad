package bundle_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/e2e/fakesigstore"
)

// simple is a payload as cosign wrote it.
const simple = `{"critical":{"identity":{"docker-reference":"example.com/m"},"image":{"docker-manifest-digest":"sha256:` +
	`0000000000000000000000000000000000000000000000000000000000000000"},"type":"cosign container image signature"},"optional":null}`

const (
	simpleSignature   = "dev.cosignproject.cosign/signature"
	simpleCertificate = "dev.sigstore.cosign/certificate"
	simpleChain       = "dev.sigstore.cosign/chain"
	simpleLogEntry    = "dev.sigstore.cosign/bundle"
	simpleTimestamp   = "dev.sigstore.cosign/rfc3161timestamp"
)

func signSimple(t testing.TB, signer bundle.Signer, payload string) bundle.SimpleSigning {
	t.Helper()
	s, err := signer.SignSimple(t.Context(), []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openSimple(s bundle.SimpleSigning, verifiers ...bundle.Verifier) (*bundle.Verified, error) {
	b, err := bundle.ParseSimpleSigning(s)
	if err != nil {
		return nil, err
	}
	return b.Open(verifiers...)
}

func keySigner(t testing.TB, key crypto.Signer) bundle.Signer {
	t.Helper()
	signer, err := bundle.NewKeySigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func TestSimpleSigningWithAKey(t *testing.T) {
	for _, kind := range kinds() {
		t.Run(kind, func(t *testing.T) {
			key := anyKey(t, kind)
			s := signSimple(t, keySigner(t, key), simple)
			if len(s.Annotations) != 1 {
				t.Errorf("annotations %v", s.Annotations)
			}
			opened, err := openSimple(s, keyVerifier(t, key.Public()))
			if err != nil {
				t.Fatal(err)
			}
			if string(opened.Payload) != simple || opened.Signer.Method != bundle.MethodKey || opened.Legacy {
				t.Errorf("opened %+v", opened)
			}
			// Podman and cosign take SHA-256, whatever the curve, and pure Ed25519.
			sig, err := base64.StdEncoding.DecodeString(s.Annotations[simpleSignature])
			if err != nil {
				t.Fatal(err)
			}
			wantSHA256(t, key.Public(), []byte(simple), sig)

			other := keyVerifier(t, newKey(t).Public())
			if _, err := openSimple(s, other); !errors.Is(err, bundle.ErrUntrusted) {
				t.Errorf("by another key: %v", err)
			}
			if _, err := openSimple(s); !errors.Is(err, bundle.ErrUntrusted) {
				t.Errorf("without a verifier: %v", err)
			}
		})
	}
}

// Whatever one byte of payload or signature becomes, it is refused.
func TestEveryByteOfASimpleSigning(t *testing.T) {
	key := privateKey(t, "p256")
	s := signSimple(t, keySigner(t, key), simple)
	v := keyVerifier(t, key.Public())
	for i := range s.Payload {
		changed := bytes.Clone(s.Payload)
		changed[i] ^= 1
		if _, err := openSimple(bundle.SimpleSigning{Payload: changed, Annotations: s.Annotations}, v); !errors.Is(err, bundle.ErrUntrusted) {
			t.Fatalf("byte %d of the payload: %v", i, err)
		}
		if _, err := openSimple(bundle.SimpleSigning{Payload: s.Payload[:i], Annotations: s.Annotations}, v); err == nil {
			t.Fatalf("cut at %d it opens", i)
		}
	}
	text := s.Annotations[simpleSignature]
	for i := range text {
		changed := text[:i] + string(text[i]^1) + text[i+1:]
		if _, err := openSimple(bundle.SimpleSigning{Payload: s.Payload, Annotations: map[string]string{simpleSignature: changed}}, v); err == nil {
			t.Fatalf("letter %d of the signature can be changed", i)
		}
		if _, err := openSimple(bundle.SimpleSigning{Payload: s.Payload, Annotations: map[string]string{simpleSignature: text[:i]}}, v); err == nil {
			t.Fatalf("cut at %d it opens", i)
		}
	}
}

// A signature in one form is none in the other.
func TestSimpleSigningIsNoEnvelope(t *testing.T) {
	key := privateKey(t, "p256")
	v := keyVerifier(t, key.Public())
	s := signSimple(t, keySigner(t, key), simple)
	sig, err := base64.StdEncoding.DecodeString(s.Annotations[simpleSignature])
	if err != nil {
		t.Fatal(err)
	}
	for _, payloadType := range []string{bundle.PayloadType, bundle.SimpleSigningType} {
		data := handMade(t, `{"publicKey":{"hint":""}}`, payloadType, []byte(simple), sig)
		if _, err := open(data, v); !errors.Is(err, bundle.ErrUntrusted) {
			t.Errorf("as an envelope of %s: %v", payloadType, err)
		}
	}
	// Nor can an envelope of that type be opened, though it is signed.
	enveloped := signDER(t, key, crypto.SHA256, pae(bundle.SimpleSigningType, simple))
	data := handMade(t, `{"publicKey":{"hint":""}}`, bundle.SimpleSigningType, []byte(simple), enveloped)
	if _, err := open(data, v); !errors.Is(err, bundle.ErrUntrusted) {
		t.Errorf("a signed envelope of %s: %v", bundle.SimpleSigningType, err)
	}
	annotations := map[string]string{simpleSignature: base64.StdEncoding.EncodeToString(enveloped)}
	if _, err := openSimple(bundle.SimpleSigning{Payload: []byte(simple), Annotations: annotations}, v); !errors.Is(err, bundle.ErrUntrusted) {
		t.Errorf("an envelope's signature: %v", err)
	}
	// What was signed as DSSE can be shown as it stands, and is no JSON then.
	opened, err := openSimple(bundle.SimpleSigning{Payload: []byte(pae(bundle.SimpleSigningType, simple)), Annotations: annotations}, v)
	if err != nil || json.Valid(opened.Payload) {
		t.Errorf("the encoding of an envelope: %v", err)
	}
	// The encoding of OMS v0.2 is not tried either.
	root := ca(t, nil, "r")
	leaf := leafOf(t, root)
	repr := fmt.Sprintf("DSSEV1 %d %s %d b'%s'", len(bundle.SimpleSigningType), bundle.SimpleSigningType, len(simple), simple)
	annotations = map[string]string{
		simpleSignature:   base64.StdEncoding.EncodeToString(signPAE(t, leaf.key, repr)),
		simpleCertificate: pemOf(leaf),
	}
	if _, err := openSimple(bundle.SimpleSigning{Payload: []byte(simple), Annotations: annotations}, certificateVerifier(t, bundle.CertificateOptions{}, root)); !errors.Is(err, bundle.ErrUntrusted) {
		t.Errorf("the encoding of OMS v0.2: %v", err)
	}
}

func TestSimpleSigningRefuses(t *testing.T) {
	key := privateKey(t, "p256")
	v := keyVerifier(t, key.Public())
	root := ca(t, nil, "r")
	leaf := leafOf(t, root)
	good := signSimple(t, keySigner(t, key), simple)
	entry := `{"SignedEntryTimestamp":"AA==","Payload":{"body":"e30=","integratedTime":1,"logIndex":1,"logID":"00"}}`
	for name, annotations := range map[string]map[string]string{
		"no signature":                   {simpleSignature: ""},
		"a signature with line ends":     {simpleSignature: good.Annotations[simpleSignature][:8] + "\n" + good.Annotations[simpleSignature][8:]},
		"a signature without padding":    {simpleSignature: good.Annotations[simpleSignature] + "A"},
		"two certificates":               {simpleCertificate: pemOf(leaf) + pemOf(root)},
		"a certificate that is none":     {simpleCertificate: "x"},
		"a chain without a certificate":  {simpleChain: pemOf(root)},
		"a chain that is none":           {simpleCertificate: pemOf(leaf), simpleChain: "x"},
		"an entry that is none":          {simpleLogEntry: "x"},
		"an entry with an unknown name":  {simpleLogEntry: strings.Replace(entry, `"logID"`, `"logId2":1,"logID"`, 1)},
		"an entry with a name twice":     {simpleLogEntry: strings.Replace(entry, `"logID"`, `"logIndex":2,"logID"`, 1)},
		"an entry of a log that is none": {simpleLogEntry: strings.Replace(entry, `"00"`, `"0"`, 1)},
		"an entry without a body":        {simpleLogEntry: strings.Replace(entry, `"e30="`, `""`, 1)},
		"a timestamp that is none":       {simpleTimestamp: "x"},
		"a timestamp in other letters":   {simpleTimestamp: `{"SignedRFC3161Timestamp":"*"}`},
		"an annotation without end":      {simpleLogEntry: strings.Repeat(" ", 1<<20) + entry},
	} {
		t.Run(name, func(t *testing.T) {
			all := maps.Clone(good.Annotations)
			maps.Copy(all, annotations)
			if _, err := openSimple(bundle.SimpleSigning{Payload: good.Payload, Annotations: all}, v); !errors.Is(err, bundle.ErrMalformed) {
				t.Errorf("got %v", err)
			}
		})
	}
	for name, payload := range map[string][]byte{"no payload": nil, "a payload without end": make([]byte, bundle.MaxSimpleSigning+1)} {
		if _, err := openSimple(bundle.SimpleSigning{Payload: payload, Annotations: good.Annotations}, v); !errors.Is(err, bundle.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What is not of the specification is not looked at, and neither is an entry beside a key.
	all := maps.Clone(good.Annotations)
	all[simpleLogEntry], all["x"], all[simpleChain] = entry, "y", ""
	if _, err := openSimple(bundle.SimpleSigning{Payload: good.Payload, Annotations: all}, v); err != nil {
		t.Error(err)
	}
}

func TestSimpleSigningWithACertificate(t *testing.T) {
	now := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	root := ca(t, nil, "root", now)
	middle := ca(t, root, "intermediate", now)
	leaf := leafOf(t, middle, now)
	signer, err := bundle.NewCertificateSigner(leaf.key, leaf.cert, certs(middle, root))
	if err != nil {
		t.Fatal(err)
	}
	s := signSimple(t, signer, simple)
	v := certificateVerifier(t, bundle.CertificateOptions{Now: time.Now, Identity: "release@example.com"}, root)
	opened, err := openSimple(s, v)
	if err != nil {
		t.Fatal(err)
	}
	if opened.Signer.Method != bundle.MethodCertificate || opened.Signer.Subject != "release@example.com" {
		t.Errorf("signer %+v", opened.Signer)
	}
	// cosign puts the root behind the others.
	s.Annotations[simpleChain] += pemOf(root)
	if _, err := openSimple(s, v); err != nil {
		t.Errorf("with the root in the chain: %v", err)
	}
	if _, err := openSimple(s, keyVerifier(t, leaf.key.Public())); !errors.Is(err, bundle.ErrUntrusted) {
		t.Errorf("by the key in the certificate: %v", err)
	}
	if _, err := openSimple(s, certificateVerifier(t, bundle.CertificateOptions{Now: time.Now, Identity: "other@example.com"}, root)); !errors.Is(err, bundle.ErrUntrusted) {
		t.Errorf("for somebody else: %v", err)
	}
	delete(s.Annotations, simpleChain)
	if _, err := openSimple(s, v); !errors.Is(err, bundle.ErrUntrusted) {
		t.Errorf("without the certificate between: %v", err)
	}
	claims, err := bundle.InsecureSimpleSigningClaims(s)
	if err != nil || claims.Subject != "release@example.com" || string(claims.Payload) != simple {
		t.Errorf("claims %+v, %v", claims, err)
	}
}

func TestSimpleSigningWithAnIdentity(t *testing.T) {
	k := newStack(t, rekorV1)
	signer := k.signer(t, nil)
	s := signSimple(t, signer, simple)
	k.asked(t, 1, 1, 1)
	v := k.verifier(t, alice)
	opened, err := openSimple(s, v)
	if err != nil {
		t.Fatal(err)
	}
	if opened.Signer.Subject != alice || opened.TimeSource != bundle.TimeLog || string(opened.Payload) != simple {
		t.Errorf("opened %+v", opened)
	}
	if _, err := openSimple(s, k.verifier(t, bob)); !errors.Is(err, bundle.ErrUntrusted) {
		t.Errorf("as somebody else: %v", err)
	}
	// Without the entry nobody proves a time, and it is no identity's; an entry about another payload proves nothing.
	for name, change := range map[string]func(map[string]string){
		"no entry": func(a map[string]string) { delete(a, simpleLogEntry) },
		"another signature's one": func(a map[string]string) {
			a[simpleLogEntry] = signSimple(t, signer, simple+" ").Annotations[simpleLogEntry]
		},
		"no promise": editEntry(t, func(entry, _ map[string]any) { delete(entry, "SignedEntryTimestamp") }),
		"another promise": editEntry(t, func(entry, _ map[string]any) {
			entry["SignedEntryTimestamp"] = base64.StdEncoding.EncodeToString([]byte("x"))
		}),
		"another time":  editEntry(t, func(_, payload map[string]any) { payload["integratedTime"] = time.Now().Unix() + 1 }),
		"another index": editEntry(t, func(_, payload map[string]any) { payload["logIndex"] = 12345 }),
		"another log":   editEntry(t, func(_, payload map[string]any) { payload["logID"] = strings.Repeat("00", 32) }),
	} {
		changed := maps.Clone(s.Annotations)
		if change(changed); maps.Equal(changed, s.Annotations) {
			t.Fatalf("%s: nothing was changed", name)
		}
		_, err := openSimple(bundle.SimpleSigning{Payload: s.Payload, Annotations: changed}, v)
		if !errors.Is(err, bundle.ErrUntrusted) && !errors.Is(err, bundle.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The form has no room for what Rekor v2 proves: nothing is asked of anybody.
func TestSimpleSigningNeedsAPromise(t *testing.T) {
	k := newStack(t, nil)
	_, err := k.signer(t, nil).SignSimple(t.Context(), []byte(simple))
	if err == nil || !strings.Contains(err.Error(), "Rekor v1") {
		t.Errorf("got %v", err)
	}
	k.asked(t, 0, 0, 0)
	if k.tokens != 0 {
		t.Error("a token was asked for")
	}
}

func TestSimpleSigningWithATimestamp(t *testing.T) {
	a := newAuthority(t, time.Now())
	server := serve(t, func(w http.ResponseWriter, r *http.Request) { a.ServeHTTP(t, w, r) })
	key := privateKey(t, "p256")
	signer, err := bundle.WithTimestamps(keySigner(t, key), server.Client(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	s := signSimple(t, signer, simple)
	v, err := bundle.WithTimestampAnchors(keyVerifier(t, key.Public()), certs(a.root))
	if err != nil {
		t.Fatal(err)
	}
	opened, err := openSimple(s, v)
	if err != nil || opened.TimeSource != bundle.TimeTimestamp {
		t.Errorf("opened %+v, %v", opened, err)
	}
}

// wantSHA256 checks a signature by the standard library alone.
func wantSHA256(t *testing.T, key crypto.PublicKey, message, sig []byte) {
	t.Helper()
	digest := sha256.Sum256(message)
	if !verifiesWith(key, message, digest[:], sig) {
		t.Error("not a signature over SHA-256, nor a pure one of Ed25519")
	}
}

func verifiesWith(key crypto.PublicKey, message, digest, sig []byte) bool {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, digest, sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest, sig) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(key, message, sig)
	}
	return false
}

func pemOf(h *holder) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.cert.Raw}))
}

// editEntry changes the entry of a log among annotations.
func editEntry(t *testing.T, edit func(entry, payload map[string]any)) func(map[string]string) {
	return func(annotations map[string]string) {
		var entry map[string]any
		d := json.NewDecoder(strings.NewReader(annotations[simpleLogEntry]))
		d.UseNumber()
		if err := d.Decode(&entry); err != nil {
			t.Fatal(err)
		}
		edit(entry, entry["Payload"].(map[string]any))
		annotations[simpleLogEntry] = string(fakesigstore.JSON(entry))
	}
}
