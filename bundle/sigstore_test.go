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
	"github.com/modelsig/modelsig/e2e/fakesigstore"
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
			other, err := bundle.ParseTrustedRoot(fakesigstore.New(t).TrustedRoot(nil))
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
	s, other := fakesigstore.New(t), fakesigstore.New(t)
	for _, tt := range []struct {
		name   string
		order  func(o *fakesigstore.Order)
		bundle func(o *fakesigstore.Order, b *fakesigstore.Bundle)
		root   func(root object)
		time   time.Duration // after moment
		source string
	}{
		{"an entry of Rekor v1 with a promise, the certificate long ended", nil, nil, nil, 2 * time.Minute, bundle.TimeLog},
		{"the log's time counts where a timestamp is earlier", func(o *fakesigstore.Order) { o.Stamped = moment.Add(time.Minute) }, nil, nil, 2 * time.Minute, bundle.TimeLog},
		{"an entry of Rekor v1 without a promise, and a timestamp", func(o *fakesigstore.Order) { o.Logged, o.Stamped = time.Time{}, moment.Add(time.Minute) }, nil, nil, time.Minute, bundle.TimeTimestamp},
		{"an entry of Rekor v2 and a timestamp", func(o *fakesigstore.Order) { o.V2, o.Stamped = true, moment.Add(time.Minute) }, nil, nil, time.Minute, bundle.TimeTimestamp},
		{"the first second of the certificate", func(o *fakesigstore.Order) { o.Logged = o.From }, nil, nil, 0, bundle.TimeLog},
		{"the last second of the certificate", func(o *fakesigstore.Order) { o.Logged = o.From.Add(10 * time.Minute) }, nil, nil, 10 * time.Minute, bundle.TimeLog},
		{
			"no certificate timestamp, and the root lists no certificate log", func(o *fakesigstore.Order) { o.SCT = false }, nil,
			func(root object) { delete(root, "ctlogs") }, 2 * time.Minute, bundle.TimeLog,
		},
		{
			"no timestamp authority in the root, and the log proves the time", func(o *fakesigstore.Order) { o.Stamped = moment }, nil,
			func(root object) { delete(root, "timestampAuthorities") }, 2 * time.Minute, bundle.TimeLog,
		},
		{"a timestamp by a stranger beside the log's time", func(o *fakesigstore.Order) { o.TSA, o.Stamped = other, moment.Add(time.Hour) }, nil, nil, 2 * time.Minute, bundle.TimeLog},
		{"an entry in a stranger's log beside the trusted one", nil, func(o *fakesigstore.Order, b *fakesigstore.Bundle) {
			o.Rekor, o.Logged = other, moment.Add(time.Minute)
			b.Material.Entries = append([]*fakesigstore.Entry{o.Entry(certificate(t, b), b.Envelope.Signatures[0].Sig)}, b.Material.Entries...)
		}, nil, 2 * time.Minute, bundle.TimeLog},
		{"an authority that began when the certificate had", nil, nil, func(root object) {
			root["certificateAuthorities"].([]object)[0]["validFor"] = object{"start": moment.Add(time.Minute)}
		}, 2 * time.Minute, bundle.TimeLog},
		{"two authorities and two logs in the root", nil, nil, func(root object) { join(root, other) }, 2 * time.Minute, bundle.TimeLog},
		{"a key on P-384", func(o *fakesigstore.Order) {
			key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			o.Key, o.Hash = key, crypto.SHA384
		}, nil, nil, 2 * time.Minute, bundle.TimeLog},
		{"a payload that is no JSON", func(o *fakesigstore.Order) { o.Payload = "\x00<>" }, nil, nil, 2 * time.Minute, bundle.TimeLog},
		{"the other spelling of the media type", nil, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.MediaType = "application/vnd.dev.sigstore.bundle+json;version=0.3"
		}, nil, 2 * time.Minute, bundle.TimeLog},
		{"v0.1", nil, version("0.1", nil), nil, 2 * time.Minute, bundle.TimeLog},
		{"v0.1 with a promise alone", nil, version("0.1", func(b *fakesigstore.Bundle) { b.Material.Entries[0].Proof = nil }), nil, 2 * time.Minute, bundle.TimeLog},
		{"v0.1 with a chain", nil, version("0.1", chained), nil, 2 * time.Minute, bundle.TimeLog},
		{"v0.2", nil, version("0.2", nil), nil, 2 * time.Minute, bundle.TimeLog},
		{"v0.2 with a chain and a timestamp", func(o *fakesigstore.Order) { o.Logged, o.Stamped = time.Time{}, moment }, version("0.2", chained), nil, 0, bundle.TimeTimestamp},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, data := ordered(s, tt.order, tt.bundle)
			got, err := open(data, accepting(s, tt.root))
			if err != nil {
				t.Fatal(err)
			}
			want := bundle.Proof{
				Signer: bundle.Identity{Method: bundle.MethodSigstore, Subject: fakesigstore.Subject, Issuer: fakesigstore.IssuerURL},
				Time:   moment.Add(tt.time), TimeSource: tt.source,
			}
			if got.Proof != want || string(got.Payload) != o.Payload {
				t.Errorf("got %+v and %q, want %+v", got.Proof, got.Payload, want)
			}
			if json.Valid([]byte(o.Payload)) {
				verifyAccepts(t, data, s.TrustedRoot(tt.root))
			}
		})
	}
}

// version gives a bundle the media type of an older one.
func version(version string, edit func(b *fakesigstore.Bundle)) func(*fakesigstore.Order, *fakesigstore.Bundle) {
	return func(_ *fakesigstore.Order, b *fakesigstore.Bundle) {
		b.MediaType = "application/vnd.dev.sigstore.bundle+json;version=" + version
		if edit != nil {
			edit(b)
		}
	}
}

// chained puts the certificate into a chain, as bundles before v0.3 have it.
func chained(b *fakesigstore.Bundle) {
	b.Material.Certificate, b.Material.Chain = nil, object{"certificates": []*fakesigstore.Raw{b.Material.Certificate}}
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
	identity, err := verify.NewShortCertificateIdentity(fakesigstore.IssuerURL, "", fakesigstore.Subject, "")
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
func join(root object, other *fakesigstore.Sigstore) {
	other.TrustedRoot(func(theirs object) {
		for name, list := range theirs {
			if list, ok := list.([]object); ok {
				root[name] = append(list, root[name].([]object)...)
			}
		}
	})
}

// Each bundle is signed as it should be, and wrong in one way. Rules 4 and 24.
func TestSigstoreRefuses(t *testing.T) {
	s, other := fakesigstore.New(t), fakesigstore.New(t)
	strange := newOrder(s) // by the same signer, about something else
	strange.Payload, strange.Stamped = `{"_type":"other"}`, moment
	stranger := strange.Sign()
	// mixed is what no log writes: an entry of one form under a checkpoint of the other.
	mixed := func(o *fakesigstore.Order, leaf *x509.Certificate, sig []byte) []*fakesigstore.Entry {
		o.V2 = true
		return []*fakesigstore.Entry{s.Log(o.Entry(leaf, sig).Body, "hashedrekord", "0.0.2", fakesigstore.Tree, time.Time{})}
	}
	const noLog, noAuthority, notValid = "no transparency log of the trusted root proves", "not by an authority of the trusted root", "was not valid when the signature was made"
	for _, tt := range []struct {
		name   string
		order  func(o *fakesigstore.Order)
		bundle func(o *fakesigstore.Order, b *fakesigstore.Bundle)
		root   func(root object)
		want   string
	}{
		{"another subject", func(o *fakesigstore.Order) { o.Subject = "bob@example.com" }, nil, nil,
			`(sigstore "alice@example.com" of issuer "https://accounts.example.com": the certificate is for "bob@example.com", not "alice@example.com")`},
		{"another issuer", func(o *fakesigstore.Order) { o.Issuer = "https://evil.example.com" }, nil, nil, `its issuer is "https://evil.example.com", not "https://accounts.example.com"`},
		{"another subject and issuer", func(o *fakesigstore.Order) { o.Subject, o.Issuer = "bob", "x" }, nil, nil, `, its issuer is "x"`},
		{"a subject that begins like the wanted one", func(o *fakesigstore.Order) { o.Subject = fakesigstore.Subject + ".evil.com" }, nil, nil, "the certificate is for"},
		{"a subject that ends like the wanted one", func(o *fakesigstore.Order) { o.Subject = "x" + fakesigstore.Subject }, nil, nil, "the certificate is for"},
		{"a subject in other letters", func(o *fakesigstore.Order) { o.Subject = "Alice@example.com" }, nil, nil, "the certificate is for"},
		{"no issuer", func(o *fakesigstore.Order) { o.Issuer = "" }, nil, nil, "names no issuer"},
		{"no subject", func(o *fakesigstore.Order) {
			o.Template = func(leaf *x509.Certificate) { leaf.EmailAddresses, leaf.Subject.CommonName = nil, fakesigstore.Subject }
		}, nil, nil, "names no signer"},
		{"the subject as a DNS name", func(o *fakesigstore.Order) {
			o.Template = func(leaf *x509.Certificate) { leaf.EmailAddresses, leaf.DNSNames = nil, []string{"example.com"} }
		}, nil, nil, "names no signer"},
		{"the subject behind another", func(o *fakesigstore.Order) {
			o.Template = func(leaf *x509.Certificate) { leaf.EmailAddresses = []string{"bob@example.com", fakesigstore.Subject} }
		}, nil, nil, "the certificate is for"},

		{"a foreign authority", func(o *fakesigstore.Order) { o.Fulcio = other }, nil, nil, noAuthority},
		{"a certificate that its own key signed", func(o *fakesigstore.Order) {
			o.Fulcio = &fakesigstore.Sigstore{CAKey: o.Key}
			template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: s.Intermediate.Subject, IsCA: true, BasicConstraintsValid: true}
			o.Fulcio.Intermediate = fakesigstore.Certificate(template, template, o.Key.Public(), o.Key)
		}, nil, nil, noAuthority},
		{"an authority whose time in the root had ended", nil, nil, ended("certificateAuthorities"), noAuthority},
		{"a certificate for servers", func(o *fakesigstore.Order) {
			o.Template = func(leaf *x509.Certificate) { leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
		}, nil, nil, "not for signing code"},
		{"a certificate for anything", func(o *fakesigstore.Order) {
			o.Template = func(leaf *x509.Certificate) { leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }
		}, nil, nil, "not for signing code"},
		{"a certificate without a purpose", func(o *fakesigstore.Order) { o.Template = func(leaf *x509.Certificate) { leaf.ExtKeyUsage = nil } }, nil, nil, "not for signing code"},
		{"a certificate whose key may not sign", func(o *fakesigstore.Order) {
			o.Template = func(leaf *x509.Certificate) { leaf.KeyUsage = x509.KeyUsageKeyEncipherment }
		}, nil, nil, "not for signing code"},
		{"a certificate of an authority", func(o *fakesigstore.Order) {
			o.Template = func(leaf *x509.Certificate) { leaf.IsCA, leaf.BasicConstraintsValid = true, true }
		}, nil, nil, "not for signing code"},
		{"a critical extension that nobody knows", func(o *fakesigstore.Order) {
			o.Template = func(leaf *x509.Certificate) {
				leaf.ExtraExtensions = append(leaf.ExtraExtensions, pkix.Extension{Id: []int{1, 2, 3}, Critical: true})
			}
		}, nil, nil, noAuthority},

		{"no certificate timestamp", func(o *fakesigstore.Order) { o.SCT = false }, nil, nil, "in no certificate log"},
		{"a certificate timestamp by a foreign log", func(o *fakesigstore.Order) { o.CTLog = other }, nil, nil, "in no certificate log"},
		{"a certificate timestamp for another certificate", func(o *fakesigstore.Order) {
			o.SCT = false
			o.Template = func(leaf *x509.Certificate) {
				list := s.SCTList(certificate(t, stranger), s.Intermediate, o.From)
				leaf.ExtraExtensions = append(leaf.ExtraExtensions, pkix.Extension{Id: oidSCTList, Value: derOf(list)})
			}
		}, nil, nil, "in no certificate log"},
		{"a certificate log whose time in the root had ended", nil, nil, ended("ctlogs"), "in no certificate log"},

		{"a payload that was exchanged", nil, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) { b.Envelope.Payload = stranger.Envelope.Payload }, nil, "did not make this signature"},
		{"a signature by another key", nil, func(o *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Envelope.Signatures[0].Sig = signDER(t, fakesigstore.NewKey(), crypto.SHA256, pae(o.PayloadType, o.Payload))
		}, nil, "did not make this signature"},
		{"a certificate of another key", nil, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Certificate = stranger.Material.Certificate
		}, nil, "did not make this signature"},

		{"a foreign log", func(o *fakesigstore.Order) { o.Rekor = other }, nil, nil, noLog},
		{"a foreign log that takes the name of the trusted one", func(o *fakesigstore.Order) { o.Rekor = other }, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Entries[0].LogID = object{"keyId": s.LogID()}
		}, nil, noLog},
		{"a foreign log of the second form that takes the name of the trusted one", func(o *fakesigstore.Order) { o.V2, o.Rekor, o.Stamped = true, other, moment }, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Entries[0].LogID = object{"keyId": s.LogID()}
		}, nil, noLog},
		{"the entry of another signature", nil, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) { b.Material.Entries = stranger.Material.Entries }, nil, noLog},
		{"another entry's proof", nil, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Entries[0].Proof = stranger.Material.Entries[0].Proof
		}, nil, noLog},
		{"another entry's promise", nil, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Entries[0].Promise = stranger.Material.Entries[0].Promise
		}, nil, noLog},
		{"another entry's body", nil, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Entries[0].Body = stranger.Material.Entries[0].Body
		}, nil, noLog},
		{"another entry's proof in the second form", func(o *fakesigstore.Order) { o.V2, o.Stamped = true, moment }, func(o *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Entries[0].Proof = o.Rekor.Log([]byte("x"), "", "", fakesigstore.Host, time.Time{}).Proof
		}, nil, noLog},
		{"an entry of the second form for another signature, with a checkpoint of the first", func(o *fakesigstore.Order) { o.Stamped = moment }, func(o *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Entries = mixed(o, certificate(t, b), stranger.Envelope.Signatures[0].Sig)
		}, nil, "the entry is about another signature"},
		{"an entry of the second form for another certificate, with a checkpoint of the first", func(o *fakesigstore.Order) { o.Stamped = moment }, func(o *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Entries = mixed(o, certificate(t, stranger), b.Envelope.Signatures[0].Sig)
		}, nil, "the entry is about another signature"},
		{"an entry for the signature of a file", nil, func(o *fakesigstore.Order, b *fakesigstore.Bundle) {
			digest := sha256.Sum256([]byte(pae(o.PayloadType, o.Payload)))
			b.Material.Entries = []*fakesigstore.Entry{s.Log(fakesigstore.JSON(object{"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": object{
				"data": object{"hash": object{"algorithm": "sha256", "value": hex.EncodeToString(digest[:])}},
				"signature": object{
					"content":   b.Envelope.Signatures[0].Sig,
					"publicKey": object{"content": fakesigstore.CertificatePEM(b.Material.Certificate.RawBytes)},
				},
			}}), "hashedrekord", "0.0.1", fakesigstore.Tree, o.Logged)}
		}, nil, noLog},
		{"a log whose time in the root had ended", nil, nil, ended("tlogs"), noLog},
		{"no inclusion proof", nil, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) { b.Material.Entries[0].Proof = nil }, nil, "no inclusion proof"},
		{"no checkpoint", nil, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Entries[0].Proof.Checkpoint.Envelope = ""
		}, nil, "the entry cannot be read"},
		{"no log entry", func(o *fakesigstore.Order) { o.Stamped = moment }, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) { b.Material.Entries = nil }, nil, "has no entry of a transparency log"},

		{"no promise and no timestamp", func(o *fakesigstore.Order) { o.Logged = time.Time{} }, nil, nil, "nobody proves when"},
		{"no promise, and a time that nobody signed", func(o *fakesigstore.Order) { o.Logged = time.Time{} }, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Entries[0].IntegratedTime = fmt.Sprint(moment.Unix())
		}, nil, "nobody proves when"},
		{"an entry of the second form without a timestamp", func(o *fakesigstore.Order) { o.V2 = true }, nil, nil, "nobody proves when"},
		{"a timestamp by a stranger", func(o *fakesigstore.Order) { o.V2, o.Stamped, o.TSA = true, moment, other }, nil, nil, "nobody proves when"},
		{"a timestamp for another signature", func(o *fakesigstore.Order) { o.V2 = true }, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Timestamps = stranger.Material.Timestamps
		}, nil, "nobody proves when"},
		{"a timestamp and no authority in the root", func(o *fakesigstore.Order) { o.V2, o.Stamped = true, moment }, nil, func(root object) { delete(root, "timestampAuthorities") }, "nobody proves when the signature was made: the trusted root has no timestamp authority"},
		{"an authority for timestamps whose time in the root had ended", func(o *fakesigstore.Order) { o.V2, o.Stamped = true, moment }, nil, ended("timestampAuthorities"), "nobody proves when"},
		{"logged before the certificate began", func(o *fakesigstore.Order) { o.Logged = o.From.Add(-time.Second) }, nil, nil, notValid + ", at 2024-02-03T04:05:05Z"},
		{"logged after the certificate ended", func(o *fakesigstore.Order) { o.Logged = o.From.Add(10*time.Minute + time.Second) }, nil, nil, "of 2024-02-03T04:05:06Z to 2024-02-03T04:15:06Z, " + notValid},
		{"stamped before the certificate began", func(o *fakesigstore.Order) { o.V2, o.Stamped = true, o.From.Add(-time.Second) }, nil, nil, notValid},
		{"stamped after the certificate ended", func(o *fakesigstore.Order) { o.V2, o.Stamped = true, o.From.Add(time.Hour) }, nil, nil, notValid},

		{"v0.1 without promise and proof", func(o *fakesigstore.Order) { o.Stamped = moment }, version("0.1", func(b *fakesigstore.Bundle) { b.Material.Entries[0].Proof, b.Material.Entries[0].Promise = nil, nil }), nil, noLog},
		{"v0.1 with another entry's promise alone", func(o *fakesigstore.Order) { o.Stamped = moment }, version("0.1", func(b *fakesigstore.Bundle) {
			b.Material.Entries[0].Proof, b.Material.Entries[0].Promise = nil, stranger.Material.Entries[0].Promise
		}), nil, noLog},
		{"v0.1 with a promise about another signature alone", nil, version("0.1", func(b *fakesigstore.Bundle) {
			e := *stranger.Material.Entries[0]
			e.Proof = nil
			b.Material.Entries = []*fakesigstore.Entry{&e}
		}), nil, noLog},
		{"v0.1 with a promise and another entry's proof", nil, version("0.1", func(b *fakesigstore.Bundle) { b.Material.Entries[0].Proof = stranger.Material.Entries[0].Proof }), nil, noLog},
		{"v0.1 with an entry of the second form without its proof", func(o *fakesigstore.Order) { o.V2, o.Stamped = true, moment }, version("0.1", func(b *fakesigstore.Bundle) { b.Material.Entries[0].Proof = nil }), nil, noLog},
		{"v0.1 promised after the certificate ended", func(o *fakesigstore.Order) { o.Logged = o.From.Add(time.Hour) }, version("0.1", func(b *fakesigstore.Bundle) { b.Material.Entries[0].Proof = nil }), nil, notValid},
		{"v0.2 with a promise alone", nil, version("0.2", func(b *fakesigstore.Bundle) { b.Material.Entries[0].Proof = nil }), nil, "no inclusion proof"},
		{"v0.2 with a chain that begins with another certificate", nil, version("0.2", func(b *fakesigstore.Bundle) {
			own := b.Material.Certificate
			b.Material.Certificate, b.Material.Chain = nil, object{"certificates": []*fakesigstore.Raw{stranger.Material.Certificate, own}}
		}), nil, "did not make this signature"},
		{"v0.3 with a chain", nil, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) { chained(b) }, nil, "takes bundles of method sigstore only, not certificate"},

		{"another payload type", func(o *fakesigstore.Order) { o.PayloadType = "text/plain" }, nil, nil, `payload type is "text/plain"`},
		{"a message signature", nil, func(o *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Envelope, b.Message = nil, object{"messageDigest": object{"algorithm": "SHA2_256", "digest": []byte(digestOf(crypto.SHA256, ""))}, "signature": b.Envelope.Signatures[0].Sig}
		}, nil, "no DSSE envelope"},
		{"a certificate as a chain of one", nil, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Certificate, b.Material.Chain = nil, object{"certificates": []*fakesigstore.Raw{b.Material.Certificate}}
		}, nil, "takes bundles of method sigstore only, not certificate"},
		{"a key", nil, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Certificate, b.Material.PublicKey = nil, object{"hint": "x"}
		}, nil, "takes bundles of method sigstore only, not key"},
		{"a certificate that is none", nil, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Certificate.RawBytes = []byte("\x30\x00")
		}, nil, "the certificate cannot be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, data := ordered(s, tt.order, tt.bundle)
			_, err := open(data, accepting(s, tt.root))
			wantUntrusted(t, err, tt.want)
		})
	}
}

func certificate(t *testing.T, b *fakesigstore.Bundle) *x509.Certificate {
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
	s := fakesigstore.New(t)
	b := newOrder(s).Sign()
	b.Envelope.Signatures = append(b.Envelope.Signatures, b.Envelope.Signatures[0])
	if _, err := open(fakesigstore.JSON(b), accepting(s, nil)); !errors.Is(err, bundle.ErrMalformed) {
		t.Error(err)
	}
}

// Every shape of a subject that Fulcio documents.
func TestSigstoreSubjects(t *testing.T) {
	s := fakesigstore.New(t)
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
			o := newOrder(s)
			o.Subject, o.Issuer = tt.subject, tt.issuer
			if strings.Contains(tt.subject, "!") {
				o.Template = func(leaf *x509.Certificate) {
					leaf.EmailAddresses, leaf.URIs = nil, []*url.URL(nil)
					leaf.ExtraExtensions = append(leaf.ExtraExtensions, *otherName)
				}
			}
			root, err := bundle.ParseTrustedRoot(s.TrustedRoot(nil))
			if err != nil {
				t.Fatal(err)
			}
			v, err := bundle.NewSigstoreVerifier(root, bundle.SigstoreIdentity{Subject: tt.subject, Issuer: tt.issuer})
			if err != nil {
				t.Fatal(err)
			}
			got, err := open(fakesigstore.JSON(o.Sign()), v)
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
	s := fakesigstore.New(t)
	root, err := bundle.ParseTrustedRoot(s.TrustedRoot(nil))
	if err != nil {
		t.Fatal(err)
	}
	const subject, issuer = "https://github.com/acme/models/.github/workflows/sign.yml@refs/heads/main", "https://token.actions.githubusercontent.com"
	o := newOrder(s)
	o.Subject, o.Issuer = subject, issuer
	data := fakesigstore.JSON(o.Sign())
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
	s := fakesigstore.New(t)
	root, err := bundle.ParseTrustedRoot(s.TrustedRoot(nil))
	if err != nil {
		t.Fatal(err)
	}
	v, err := bundle.NewSigstoreVerifier(root, bundle.SigstoreIdentity{Subject: fakesigstore.Subject, IssuerRegexp: ".*"})
	if err != nil {
		t.Fatal(err)
	}
	o := newOrder(s)
	if _, err := open(fakesigstore.JSON(o.Sign()), v); err != nil {
		t.Fatal(err)
	}
	o.Issuer = ""
	_, err = open(fakesigstore.JSON(o.Sign()), v)
	wantUntrusted(t, err, "names no issuer")
}

func TestSigstoreVerifierServesManyReaders(t *testing.T) {
	s := fakesigstore.New(t)
	v := accepting(s, nil)
	b, err := bundle.Parse(fakesigstore.JSON(newOrder(s).Sign()))
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
