package bundle_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelsig/modelsig/bundle"
	sigbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// Bundles by the public Sigstore, long after their certificates ended.
func TestSigstoreBundlesOfOtherTools(t *testing.T) {
	needOMS(t)
	times := map[string]string{ // the log's integrated times
		"historical-v0.3.1-sigstore": "2025-05-03T01:10:02Z",
		"historical-v1.0.0-sigstore": "2025-05-03T01:34:46Z",
		"historical-v1.0.1-sigstore": "2025-10-07T15:33:48Z",
		"historical-v1.1.0-sigstore": "2025-10-10T02:12:20Z", // with a timestamp, too
	}
	files, err := filepath.Glob(sharedOMS + "/cases/*/*-sigstore/config.json")
	if err != nil || len(files) != len(times) {
		t.Fatalf("%d cases, want %d: %v", len(files), len(times), err)
	}
	for _, file := range files {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			want := caseIdentity(t, dir)
			data := readFile(t, dir, "bundle.sig")
			got, err := open(data, publicGood(t, want))
			if err != nil {
				t.Fatal(err)
			}
			claims, err := bundle.InsecureClaims(data)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Payload, claims.Payload) {
				t.Errorf("payload is %q", got.Payload)
			}
			if signer := (bundle.Identity{Method: bundle.MethodSigstore, Subject: want.Subject, Issuer: want.Issuer}); got.Signer != signer {
				t.Errorf("signer is %+v", got.Signer)
			}
			if at := got.Time.Format(time.RFC3339); at != times[filepath.Base(dir)] || got.TimeSource != bundle.TimeLog || got.Legacy {
				t.Errorf("time is %s by %s, legacy %v", at, got.TimeSource, got.Legacy)
			}
			for _, other := range []bundle.SigstoreIdentity{
				{Subject: "mallory@example.com", Issuer: want.Issuer},
				{Subject: want.Subject, Issuer: "https://accounts.google.com"},
			} {
				_, err := open(data, publicGood(t, other))
				wantUntrusted(t, err, want.Subject, other.Subject, other.Issuer)
			}
			other, err := bundle.ParseTrustedRoot(newFakeSigstore(t).trustedRoot(nil))
			if err != nil {
				t.Fatal(err)
			}
			v, err := bundle.NewSigstoreVerifier(other, want)
			if err != nil {
				t.Fatal(err)
			}
			_, err = open(data, v)
			wantUntrusted(t, err, "not by an authority of the trusted root")
		})
	}
}

func publicGood(t testing.TB, identity bundle.SigstoreIdentity) bundle.Verifier {
	t.Helper()
	root, err := bundle.ParseTrustedRoot(readFile(t, sharedOMS, "trusted_root.public-good.json"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := bundle.NewSigstoreVerifier(root, identity)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func caseIdentity(t testing.TB, dir string) bundle.SigstoreIdentity {
	t.Helper()
	var config struct {
		Verify struct {
			Identity string `json:"identity"`
			Provider string `json:"identity_provider"`
		} `json:"verify"`
	}
	if err := json.Unmarshal(readFile(t, dir, "config.json"), &config); err != nil {
		t.Fatal(err)
	}
	return bundle.SigstoreIdentity{Subject: config.Verify.Identity, Issuer: config.Verify.Provider}
}

// wantUntrusted wants a refusal of a bundle that could be read, in one line that says all of parts.
func wantUntrusted(t *testing.T, err error, parts ...string) {
	t.Helper()
	if !errors.Is(err, bundle.ErrUntrusted) || errors.Is(err, bundle.ErrMalformed) {
		t.Fatalf("got %v, want %v", err, bundle.ErrUntrusted)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) || strings.ContainsRune(err.Error(), '\n') {
			t.Errorf("got %q, want %q in one line", err, part)
		}
	}
}

func TestSigstoreOpens(t *testing.T) {
	s, other := newFakeSigstore(t), newFakeSigstore(t)
	for _, tt := range []struct {
		name   string
		order  func(o *order)
		bundle func(o *order, b *fakeBundle)
		root   func(root object)
		time   time.Duration // after moment
		source string
	}{
		{"an entry of Rekor v1 with a promise, the certificate long ended", nil, nil, nil, 2 * time.Minute, bundle.TimeLog},
		{"the log's time counts where a timestamp is earlier", func(o *order) { o.stamped = moment.Add(time.Minute) }, nil, nil, 2 * time.Minute, bundle.TimeLog},
		{"an entry of Rekor v1 without a promise, and a timestamp", func(o *order) { o.logged, o.stamped = time.Time{}, moment.Add(time.Minute) }, nil, nil, time.Minute, bundle.TimeTimestamp},
		{"an entry of Rekor v2 and a timestamp", func(o *order) { o.v2, o.stamped = true, moment.Add(time.Minute) }, nil, nil, time.Minute, bundle.TimeTimestamp},
		{"the first second of the certificate", func(o *order) { o.logged = o.from }, nil, nil, 0, bundle.TimeLog},
		{"the last second of the certificate", func(o *order) { o.logged = o.from.Add(10 * time.Minute) }, nil, nil, 10 * time.Minute, bundle.TimeLog},
		{
			"no certificate timestamp, and the root lists no certificate log", func(o *order) { o.sct = false }, nil,
			func(root object) { delete(root, "ctlogs") }, 2 * time.Minute, bundle.TimeLog,
		},
		{
			"no timestamp authority in the root, and the log proves the time", func(o *order) { o.stamped = moment }, nil,
			func(root object) { delete(root, "timestampAuthorities") }, 2 * time.Minute, bundle.TimeLog,
		},
		{"a timestamp by a stranger beside the log's time", func(o *order) { o.tsa, o.stamped = other, moment.Add(time.Hour) }, nil, nil, 2 * time.Minute, bundle.TimeLog},
		{"an entry in a stranger's log beside the trusted one", nil, func(o *order, b *fakeBundle) {
			o.rekor, o.logged = other, moment.Add(time.Minute)
			b.Material.Entries = append([]*fakeEntry{o.entry(certificate(t, b), b.Envelope.Signatures[0].Sig)}, b.Material.Entries...)
		}, nil, 2 * time.Minute, bundle.TimeLog},
		{"an authority that began when the certificate had", nil, nil, func(root object) {
			root["certificateAuthorities"].([]object)[0]["validFor"] = object{"start": moment.Add(time.Minute)}
		}, 2 * time.Minute, bundle.TimeLog},
		{"two authorities and two logs in the root", nil, nil, func(root object) { join(root, other) }, 2 * time.Minute, bundle.TimeLog},
		{"a key on P-384", func(o *order) {
			key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			o.key, o.hash = key, crypto.SHA384
		}, nil, nil, 2 * time.Minute, bundle.TimeLog},
		{"a payload that is no JSON", func(o *order) { o.payload = "\x00<>" }, nil, nil, 2 * time.Minute, bundle.TimeLog},
		{"the other spelling of the media type", nil, func(_ *order, b *fakeBundle) { b.MediaType = "application/vnd.dev.sigstore.bundle+json;version=0.3" }, nil, 2 * time.Minute, bundle.TimeLog},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := s.newOrder()
			if tt.order != nil {
				tt.order(o)
			}
			b := o.sign()
			if tt.bundle != nil {
				tt.bundle(o, b)
			}
			got, err := open(s.json(b), s.verifier(tt.root))
			if err != nil {
				t.Fatal(err)
			}
			want := bundle.Proof{
				Signer: bundle.Identity{Method: bundle.MethodSigstore, Subject: fakeSubject, Issuer: fakeIssuer},
				Time:   moment.Add(tt.time), TimeSource: tt.source,
			}
			if got.Proof != want || string(got.Payload) != o.payload {
				t.Errorf("got %+v and %q, want %+v", got.Proof, got.Payload, want)
			}
			if json.Valid([]byte(o.payload)) {
				verifyAccepts(t, s.json(b), s.trustedRoot(tt.root))
			}
		})
	}
}

// verifyAccepts wants sigstore-go's own Verify to accept what this package accepts.
func verifyAccepts(t *testing.T, data, rootJSON []byte) {
	t.Helper()
	trusted, err := root.NewTrustedRootFromJSON(rootJSON)
	if err != nil {
		t.Fatal(err)
	}
	options := []verify.VerifierOption{verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1)}
	if len(trusted.CTLogs()) > 0 {
		options = append(options, verify.WithSignedCertificateTimestamps(1))
	}
	v, err := verify.NewVerifier(trusted, options...)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := verify.NewShortCertificateIdentity(fakeIssuer, "", fakeSubject, "")
	if err != nil {
		t.Fatal(err)
	}
	var b sigbundle.Bundle
	if err := b.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(&b, verify.NewPolicy(verify.WithoutArtifactUnsafe(), verify.WithCertificateIdentity(identity))); err != nil {
		t.Errorf("sigstore-go refuses it: %v", err)
	}
}

// join puts the keys of another Sigstore before those of a root.
func join(root object, other *fakeSigstore) {
	other.trustedRoot(func(theirs object) {
		for name, list := range theirs {
			if list, ok := list.([]object); ok {
				root[name] = append(list, root[name].([]object)...)
			}
		}
	})
}

// Each bundle is signed as it should be, and wrong in one way. Rules 4 and 24.
func TestSigstoreRefuses(t *testing.T) {
	s, other := newFakeSigstore(t), newFakeSigstore(t)
	strange := s.newOrder() // by the same signer, about something else
	strange.payload, strange.stamped = `{"_type":"other"}`, moment
	stranger := strange.sign()
	// mixed is what no log writes: an entry of one form under a checkpoint of the other.
	mixed := func(o *order, leaf *x509.Certificate, sig []byte) []*fakeEntry {
		o.v2 = true
		return []*fakeEntry{s.log(o.entry(leaf, sig).Body, "hashedrekord", "0.0.2", fakeTree, time.Time{})}
	}
	const noLog, noAuthority, notValid = "no transparency log of the trusted root proves", "not by an authority of the trusted root", "was not valid when the signature was made"
	for _, tt := range []struct {
		name   string
		order  func(o *order)
		bundle func(o *order, b *fakeBundle)
		root   func(root object)
		want   string
	}{
		{"another subject", func(o *order) { o.subject = "bob@example.com" }, nil, nil,
			`(sigstore "alice@example.com" of issuer "https://accounts.example.com": the certificate is for "bob@example.com", not "alice@example.com")`},
		{"another issuer", func(o *order) { o.issuer = "https://evil.example.com" }, nil, nil, `its issuer is "https://evil.example.com", not "https://accounts.example.com"`},
		{"another subject and issuer", func(o *order) { o.subject, o.issuer = "bob", "x" }, nil, nil, `, its issuer is "x"`},
		{"a subject that begins like the wanted one", func(o *order) { o.subject = fakeSubject + ".evil.com" }, nil, nil, "the certificate is for"},
		{"a subject that ends like the wanted one", func(o *order) { o.subject = "x" + fakeSubject }, nil, nil, "the certificate is for"},
		{"a subject in other letters", func(o *order) { o.subject = "Alice@example.com" }, nil, nil, "the certificate is for"},
		{"no issuer", func(o *order) { o.issuer = "" }, nil, nil, "names no issuer"},
		{"no subject", func(o *order) {
			o.template = func(leaf *x509.Certificate) { leaf.EmailAddresses, leaf.Subject.CommonName = nil, fakeSubject }
		}, nil, nil, "names no signer"},
		{"the subject as a DNS name", func(o *order) {
			o.template = func(leaf *x509.Certificate) { leaf.EmailAddresses, leaf.DNSNames = nil, []string{"example.com"} }
		}, nil, nil, "names no signer"},
		{"the subject behind another", func(o *order) {
			o.template = func(leaf *x509.Certificate) { leaf.EmailAddresses = []string{"bob@example.com", fakeSubject} }
		}, nil, nil, "the certificate is for"},

		{"a foreign authority", func(o *order) { o.fulcio = other }, nil, nil, noAuthority},
		{"a certificate that its own key signed", func(o *order) {
			o.fulcio = &fakeSigstore{t: t, caKey: o.key}
			template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: s.intermediate.Subject, IsCA: true, BasicConstraintsValid: true}
			o.fulcio.intermediate = o.fulcio.certificate(template, template, o.key.Public(), o.key)
		}, nil, nil, noAuthority},
		{"an authority whose time in the root had ended", nil, nil, ended("certificateAuthorities"), noAuthority},
		{"a certificate for servers", func(o *order) {
			o.template = func(leaf *x509.Certificate) { leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
		}, nil, nil, "not for signing code"},
		{"a certificate for anything", func(o *order) {
			o.template = func(leaf *x509.Certificate) { leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }
		}, nil, nil, "not for signing code"},
		{"a certificate without a purpose", func(o *order) { o.template = func(leaf *x509.Certificate) { leaf.ExtKeyUsage = nil } }, nil, nil, "not for signing code"},
		{"a certificate whose key may not sign", func(o *order) {
			o.template = func(leaf *x509.Certificate) { leaf.KeyUsage = x509.KeyUsageKeyEncipherment }
		}, nil, nil, "not for signing code"},
		{"a certificate of an authority", func(o *order) {
			o.template = func(leaf *x509.Certificate) { leaf.IsCA, leaf.BasicConstraintsValid = true, true }
		}, nil, nil, "not for signing code"},
		{"a critical extension that nobody knows", func(o *order) {
			o.template = func(leaf *x509.Certificate) {
				leaf.ExtraExtensions = append(leaf.ExtraExtensions, pkix.Extension{Id: []int{1, 2, 3}, Critical: true})
			}
		}, nil, nil, noAuthority},

		{"no certificate timestamp", func(o *order) { o.sct = false }, nil, nil, "in no certificate log"},
		{"a certificate timestamp by a foreign log", func(o *order) { o.ctlog = other }, nil, nil, "in no certificate log"},
		{"a certificate timestamp for another certificate", func(o *order) {
			o.sct = false
			o.template = func(leaf *x509.Certificate) {
				list := s.sctList(certificate(t, stranger), s.intermediate, o.from)
				leaf.ExtraExtensions = append(leaf.ExtraExtensions, pkix.Extension{Id: oidSCTList, Value: s.der(list)})
			}
		}, nil, nil, "in no certificate log"},
		{"a certificate log whose time in the root had ended", nil, nil, ended("ctlogs"), "in no certificate log"},

		{"a payload that was exchanged", nil, func(_ *order, b *fakeBundle) { b.Envelope.Payload = stranger.Envelope.Payload }, nil, "did not make this signature"},
		{"a signature by another key", nil, func(o *order, b *fakeBundle) {
			b.Envelope.Signatures[0].Sig = signDER(t, newSigstoreKey(t), crypto.SHA256, pae(o.payloadType, o.payload))
		}, nil, "did not make this signature"},
		{"a certificate of another key", nil, func(_ *order, b *fakeBundle) { b.Material.Certificate = stranger.Material.Certificate }, nil, "did not make this signature"},

		{"a foreign log", func(o *order) { o.rekor = other }, nil, nil, noLog},
		{"a foreign log that takes the name of the trusted one", func(o *order) { o.rekor = other }, func(_ *order, b *fakeBundle) {
			b.Material.Entries[0].LogID = object{"keyId": s.logID(s.rekorKey)}
		}, nil, noLog},
		{"a foreign log of the second form that takes the name of the trusted one", func(o *order) { o.v2, o.rekor, o.stamped = true, other, moment }, func(_ *order, b *fakeBundle) {
			b.Material.Entries[0].LogID = object{"keyId": s.logID(s.rekorKey)}
		}, nil, noLog},
		{"the entry of another signature", nil, func(_ *order, b *fakeBundle) { b.Material.Entries = stranger.Material.Entries }, nil, noLog},
		{"the entry of another signature beside the right one", nil, func(_ *order, b *fakeBundle) {
			e := *stranger.Material.Entries[0]
			b.Material.Entries = append(b.Material.Entries, &e)
		}, nil, noLog},
		{"another entry's proof", nil, func(_ *order, b *fakeBundle) { b.Material.Entries[0].Proof = stranger.Material.Entries[0].Proof }, nil, noLog},
		{"another entry's promise", nil, func(_ *order, b *fakeBundle) { b.Material.Entries[0].Promise = stranger.Material.Entries[0].Promise }, nil, noLog},
		{"another entry's body", nil, func(_ *order, b *fakeBundle) { b.Material.Entries[0].Body = stranger.Material.Entries[0].Body }, nil, noLog},
		{"another entry's proof in the second form", func(o *order) { o.v2, o.stamped = true, moment }, func(o *order, b *fakeBundle) {
			b.Material.Entries[0].Proof = o.rekor.log([]byte("x"), "", "", fakeHost, time.Time{}).Proof
		}, nil, noLog},
		{"an entry of the second form for another signature, with a checkpoint of the first", func(o *order) { o.stamped = moment }, func(o *order, b *fakeBundle) {
			b.Material.Entries = mixed(o, certificate(t, b), stranger.Envelope.Signatures[0].Sig)
		}, nil, "a log entry is about another signature"},
		{"an entry of the second form for another certificate, with a checkpoint of the first", func(o *order) { o.stamped = moment }, func(o *order, b *fakeBundle) {
			b.Material.Entries = mixed(o, certificate(t, stranger), b.Envelope.Signatures[0].Sig)
		}, nil, "a log entry is about another signature"},
		{"an entry for the signature of a file", nil, func(o *order, b *fakeBundle) {
			digest := sha256.Sum256([]byte(pae(o.payloadType, o.payload)))
			b.Material.Entries = []*fakeEntry{s.log(s.json(object{"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": object{
				"data": object{"hash": object{"algorithm": "sha256", "value": hex.EncodeToString(digest[:])}},
				"signature": object{
					"content":   b.Envelope.Signatures[0].Sig,
					"publicKey": object{"content": certificatePEM(b.Material.Certificate.RawBytes)},
				},
			}}), "hashedrekord", "0.0.1", fakeTree, o.logged)}
		}, nil, noLog},
		{"an entry twice", nil, func(_ *order, b *fakeBundle) { b.Material.Entries = append(b.Material.Entries, b.Material.Entries[0]) }, nil, noLog},
		{"a log whose time in the root had ended", nil, nil, ended("tlogs"), noLog},
		{"no inclusion proof", nil, func(_ *order, b *fakeBundle) { b.Material.Entries[0].Proof = nil }, nil, "no inclusion proof"},
		{"no checkpoint", nil, func(_ *order, b *fakeBundle) { b.Material.Entries[0].Proof.Checkpoint.Envelope = "" }, nil, "a log entry cannot be read"},
		{"no log entry", func(o *order) { o.stamped = moment }, func(_ *order, b *fakeBundle) { b.Material.Entries = nil }, nil, "has no entry of a transparency log"},

		{"no promise and no timestamp", func(o *order) { o.logged = time.Time{} }, nil, nil, "nobody proves when"},
		{"no promise, and a time that nobody signed", func(o *order) { o.logged = time.Time{} }, func(_ *order, b *fakeBundle) {
			b.Material.Entries[0].IntegratedTime = fmt.Sprint(moment.Unix())
		}, nil, "nobody proves when"},
		{"an entry of the second form without a timestamp", func(o *order) { o.v2 = true }, nil, nil, "nobody proves when"},
		{"a timestamp by a stranger", func(o *order) { o.v2, o.stamped, o.tsa = true, moment, other }, nil, nil, "nobody proves when"},
		{"a timestamp for another signature", func(o *order) { o.v2 = true }, func(_ *order, b *fakeBundle) {
			b.Material.Timestamps = stranger.Material.Timestamps
		}, nil, "nobody proves when"},
		{"a timestamp and no authority in the root", func(o *order) { o.v2, o.stamped = true, moment }, nil, func(root object) { delete(root, "timestampAuthorities") }, "nobody proves when"},
		{"an authority for timestamps whose time in the root had ended", func(o *order) { o.v2, o.stamped = true, moment }, nil, ended("timestampAuthorities"), "nobody proves when"},
		{"logged before the certificate began", func(o *order) { o.logged = o.from.Add(-time.Second) }, nil, nil, notValid + ", at 2024-02-03T04:05:05Z"},
		{"logged after the certificate ended", func(o *order) { o.logged = o.from.Add(10*time.Minute + time.Second) }, nil, nil, "of 2024-02-03T04:05:06Z to 2024-02-03T04:15:06Z, " + notValid},
		{"stamped before the certificate began", func(o *order) { o.v2, o.stamped = true, o.from.Add(-time.Second) }, nil, nil, notValid},
		{"stamped after the certificate ended", func(o *order) { o.v2, o.stamped = true, o.from.Add(time.Hour) }, nil, nil, notValid},
		{"logged in time and stamped later", func(o *order) { o.stamped = o.from.Add(time.Hour) }, nil, nil, notValid},

		{"another payload type", func(o *order) { o.payloadType = "text/plain" }, nil, nil, `payload type is "text/plain"`},
		{"a message signature", nil, func(o *order, b *fakeBundle) {
			b.Envelope, b.Message = nil, object{"messageDigest": object{"algorithm": "SHA2_256", "digest": hashLeaf(nil)}, "signature": b.Envelope.Signatures[0].Sig}
		}, nil, "no DSSE envelope"},
		{"a certificate as a chain of one", nil, func(_ *order, b *fakeBundle) {
			b.Material.Certificate, b.Material.Chain = nil, object{"certificates": []*fakeRaw{b.Material.Certificate}}
		}, nil, "takes bundles of method sigstore only, not certificate"},
		{"a key", nil, func(_ *order, b *fakeBundle) { b.Material.Certificate, b.Material.PublicKey = nil, object{"hint": "x"} }, nil, "takes bundles of method sigstore only, not key"},
		{"a certificate that is none", nil, func(_ *order, b *fakeBundle) { b.Material.Certificate.RawBytes = []byte("\x30\x00") }, nil, "the certificate cannot be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := s.newOrder()
			if tt.order != nil {
				tt.order(o)
			}
			b := o.sign()
			if tt.bundle != nil {
				tt.bundle(o, b)
			}
			_, err := open(s.json(b), s.verifier(tt.root))
			wantUntrusted(t, err, tt.want)
		})
	}
}

func certificate(t *testing.T, b *fakeBundle) *x509.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(b.Material.Certificate.RawBytes)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// ended makes the validity of one kind of keys end before moment.
func ended(kind string) func(root object) {
	return func(root object) {
		validFor := object{"start": begin, "end": moment.Add(-time.Hour)}
		entry := root[kind].([]object)[0]
		if key, ok := entry["publicKey"].(object); ok {
			key["validFor"] = validFor
		} else {
			entry["validFor"] = validFor
		}
	}
}

func TestSigstoreRefusesTwoSignatures(t *testing.T) {
	s := newFakeSigstore(t)
	b := s.newOrder().sign()
	b.Envelope.Signatures = append(b.Envelope.Signatures, b.Envelope.Signatures[0])
	if _, err := open(s.json(b), s.verifier(nil)); !errors.Is(err, bundle.ErrMalformed) {
		t.Error(err)
	}
}

// Every shape of a subject that Fulcio documents.
func TestSigstoreSubjects(t *testing.T) {
	s := newFakeSigstore(t)
	otherName, err := cryptoutils.MarshalOtherNameSAN("user!example.com", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ subject, issuer string }{
		{"https://github.com/acme/models/.github/workflows/sign.yml@refs/heads/main", "https://token.actions.githubusercontent.com"},
		{"https://gitlab.com/acme/models//.gitlab-ci.yml@refs/heads/main", "https://gitlab.com"},
		{"https://buildkite.com/acme/models", "https://agent.buildkite.com"},
		{"https://kubernetes.io/namespaces/default/serviceaccounts/signer", "https://kubernetes.default.svc"},
		{"spiffe://example.com/signer", "https://spire.example.com"},
		{"signer@project.iam.gserviceaccount.com", "https://accounts.google.com"},
		{"user!example.com", "https://accounts.example.com"},
	} {
		t.Run(tt.subject, func(t *testing.T) {
			o := s.newOrder()
			o.subject, o.issuer = tt.subject, tt.issuer
			if strings.Contains(tt.subject, "!") {
				o.template = func(leaf *x509.Certificate) {
					leaf.EmailAddresses, leaf.URIs = nil, []*url.URL(nil)
					leaf.ExtraExtensions = append(leaf.ExtraExtensions, *otherName)
				}
			}
			root, err := bundle.ParseTrustedRoot(s.trustedRoot(nil))
			if err != nil {
				t.Fatal(err)
			}
			v, err := bundle.NewSigstoreVerifier(root, bundle.SigstoreIdentity{Subject: tt.subject, Issuer: tt.issuer})
			if err != nil {
				t.Fatal(err)
			}
			got, err := open(s.json(o.sign()), v)
			if err != nil {
				t.Fatal(err)
			}
			if want := (bundle.Identity{Method: bundle.MethodSigstore, Subject: tt.subject, Issuer: tt.issuer}); got.Signer != want {
				t.Errorf("signer is %+v", got.Signer)
			}
		})
	}
}

// Regular expressions match whole values. Rule 11.
func TestSigstoreRegexps(t *testing.T) {
	s := newFakeSigstore(t)
	root, err := bundle.ParseTrustedRoot(s.trustedRoot(nil))
	if err != nil {
		t.Fatal(err)
	}
	const subject, issuer = "https://github.com/acme/models/.github/workflows/sign.yml@refs/heads/main", "https://token.actions.githubusercontent.com"
	o := s.newOrder()
	o.subject, o.issuer = subject, issuer
	data := s.json(o.sign())
	for _, tt := range []struct {
		name, subject, issuer string
		want                  string // "": opens
	}{
		{"the whole of both", `https://github\.com/acme/models/.*`, `https://token\.actions\.githubusercontent\.com`, ""},
		{"any subject of one issuer", `.*`, `https://token\.actions\.githubusercontent\.com`, ""},
		{"anchors of its own", `^https://github\.com/acme/.*$`, issuer, ""},
		{"an alternative that is the whole", `x|https://github\.com/acme/.*|y`, issuer, ""},
		{"the shorter alternative first", `https://.*|https`, issuer, ""},
		{"the begin of the subject", `https://github\.com/acme/`, issuer, `not like "https://github\\.com/acme/"`},
		{"the end of the subject", `refs/heads/main`, issuer, "the certificate is for"},
		{"an alternative with an anchor at each end", `^https://github\.com/|main$`, issuer, "the certificate is for"},
		{"another subject", `https://github\.com/evil/.*`, issuer, "the certificate is for"},
		{"the begin of the issuer", `.*`, `https://token`, "its issuer is"},
		{"an issuer with more behind", `.*`, issuer + `\.evil\.com`, "its issuer is"},
		{"lines", `(?m)^https:.*$` + "\n" + `.*`, issuer, "the certificate is for"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, err := bundle.NewSigstoreVerifier(root, bundle.SigstoreIdentity{SubjectRegexp: tt.subject, IssuerRegexp: tt.issuer})
			if err != nil {
				t.Fatal(err)
			}
			got, err := open(data, v)
			if tt.want != "" {
				wantUntrusted(t, err, tt.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Signer.Subject != subject || got.Signer.Issuer != issuer {
				t.Errorf("signer is %+v", got.Signer)
			}
		})
	}
}

func TestSigstoreRegexpsDoNotStandForNoIssuer(t *testing.T) {
	s := newFakeSigstore(t)
	root, err := bundle.ParseTrustedRoot(s.trustedRoot(nil))
	if err != nil {
		t.Fatal(err)
	}
	v, err := bundle.NewSigstoreVerifier(root, bundle.SigstoreIdentity{Subject: fakeSubject, IssuerRegexp: ".*"})
	if err != nil {
		t.Fatal(err)
	}
	o := s.newOrder()
	if _, err := open(s.json(o.sign()), v); err != nil {
		t.Fatal(err)
	}
	o.issuer = ""
	_, err = open(s.json(o.sign()), v)
	wantUntrusted(t, err, "names no issuer")
}

func TestSigstoreVerifierServesManyReaders(t *testing.T) {
	s := newFakeSigstore(t)
	v := s.verifier(nil)
	b, err := bundle.Parse(s.json(s.newOrder().sign()))
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	for range 8 {
		go func() {
			_, err := b.Open(v)
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
