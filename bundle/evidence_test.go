package bundle_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"net"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/e2e/fakesigstore"
)

// A form is how a signature is logged, and its time proved.
type form struct {
	name   string
	order  func(o *fakesigstore.Order)
	time   time.Time
	source string
}

func forms() []form {
	logged, stamped := moment.Add(2*time.Minute), moment.Add(time.Minute)
	return []form{
		{"Rekor v1 with a promise", func(*fakesigstore.Order) {}, logged, bundle.TimeLog},
		{"Rekor v1 without a promise, and a timestamp", func(o *fakesigstore.Order) { o.Logged, o.Stamped = time.Time{}, stamped }, stamped, bundle.TimeTimestamp},
		{"Rekor v2 and a timestamp", func(o *fakesigstore.Order) { o.V2, o.Stamped = true, stamped }, stamped, bundle.TimeTimestamp},
	}
}

// More evidence never turns yes into no: each kind is put before and behind what is good. sigstore-go refuses some of these bundles.
func TestSigstorePassesOverEvidenceThatDoesNotCount(t *testing.T) {
	s, other := fakesigstore.New(t), fakesigstore.New(t)
	// as logs b's signature again, by the order as edited.
	as := func(edit func(o *fakesigstore.Order)) func(o fakesigstore.Order, b *fakesigstore.Bundle) *fakesigstore.Entry {
		return func(o fakesigstore.Order, b *fakesigstore.Bundle) *fakesigstore.Entry {
			edit(&o)
			return o.Entry(certificate(t, b), b.Envelope.Signatures[0].Sig)
		}
	}
	changed := func(edit func(e *fakesigstore.Entry)) func(o fakesigstore.Order, b *fakesigstore.Bundle) *fakesigstore.Entry {
		return func(_ fakesigstore.Order, b *fakesigstore.Bundle) *fakesigstore.Entry {
			e := *b.Material.Entries[0]
			edit(&e)
			return &e
		}
	}
	strange := func(v2 bool) *fakesigstore.Bundle {
		o := newOrder(s)
		o.Payload, o.V2, o.Stamped = `{"_type":"other"}`, v2, moment
		return o.Sign()
	}
	v1, v2 := strange(false), strange(true)
	entries := map[string]func(o fakesigstore.Order, b *fakesigstore.Bundle) *fakesigstore.Entry{
		"the same entry":                      changed(func(*fakesigstore.Entry) {}),
		"the signature logged later, in time": as(func(o *fakesigstore.Order) { o.V2, o.Logged = false, moment.Add(9*time.Minute) }),
		"an entry about another signature": func(fakesigstore.Order, *fakesigstore.Bundle) *fakesigstore.Entry {
			e := *v1.Material.Entries[0]
			return &e
		},
		"an entry of v2 about another signature": func(fakesigstore.Order, *fakesigstore.Bundle) *fakesigstore.Entry {
			e := *v2.Material.Entries[0]
			return &e
		},
		"an entry with another entry's proof":      changed(func(e *fakesigstore.Entry) { e.Proof = v1.Material.Entries[0].Proof }),
		"an entry with another entry's promise":    changed(func(e *fakesigstore.Entry) { e.Promise = v1.Material.Entries[0].Promise; e.IntegratedTime = "1" }),
		"an entry without a proof":                 changed(func(e *fakesigstore.Entry) { e.Proof = nil }),
		"an entry whose proof has no checkpoint":   changed(func(e *fakesigstore.Entry) { p := *e.Proof; p.Checkpoint.Envelope = ""; e.Proof = &p }),
		"an entry without a body":                  changed(func(e *fakesigstore.Entry) { e.Body = nil }),
		"an entry without a kind":                  changed(func(e *fakesigstore.Entry) { e.KindVersion = nil }),
		"an entry whose body is no JSON":           changed(func(e *fakesigstore.Entry) { e.Body = []byte("x") }),
		"an entry at a negative index":             changed(func(e *fakesigstore.Entry) { e.LogIndex = "-1" }),
		"an entry of no log":                       changed(func(e *fakesigstore.Entry) { e.LogID = nil }),
		"an entry in a stranger's log":             as(func(o *fakesigstore.Order) { o.Rekor = other }),
		"an entry in a stranger's log, unreadable": changed(func(e *fakesigstore.Entry) { e.LogID, e.Body = object{"keyId": []byte("x")}, []byte("x") }),
		"an entry of v2 in a stranger's log":       as(func(o *fakesigstore.Order) { o.Rekor, o.V2 = other, true }),
		"a stranger's entry in the log's name": func(o fakesigstore.Order, b *fakesigstore.Bundle) *fakesigstore.Entry {
			return renamed(as(func(o *fakesigstore.Order) { o.Rekor = other })(o, b), s)
		},
		"a stranger's entry of v2 in the log's name": func(o fakesigstore.Order, b *fakesigstore.Bundle) *fakesigstore.Entry {
			return renamed(as(func(o *fakesigstore.Order) { o.Rekor, o.V2 = other, true })(o, b), s)
		},
		"logged before the certificate began": as(func(o *fakesigstore.Order) { o.V2, o.Logged = false, moment.Add(-time.Hour) }),
		"logged after the certificate ended":  as(func(o *fakesigstore.Order) { o.V2, o.Logged = false, moment.Add(time.Hour) }),
	}
	tokens := map[string]func(sig []byte) []byte{
		"a timestamp of a time before the certificate": func(sig []byte) []byte { return s.Token(sig, moment.Add(-time.Hour)) },
		"a timestamp of a time after the certificate":  func(sig []byte) []byte { return s.Token(sig, moment.Add(time.Hour)) },
		"a later timestamp":                            func(sig []byte) []byte { return s.Token(sig, moment.Add(5*time.Minute)) },
		"a timestamp by a stranger":                    func(sig []byte) []byte { return other.Token(sig, moment) },
		"a timestamp of another signature":             func([]byte) []byte { return v1.Material.Timestamps.Tokens[0].Token },
		"a timestamp that is none":                     func([]byte) []byte { return []byte("x") },
		"an empty timestamp":                           func([]byte) []byte { return nil },
		"a timestamp of 100 KiB":                       func([]byte) []byte { return make([]byte, 100<<10) },
	}
	v := accepting(s, nil)
	for _, form := range forms() {
		o := newOrder(s)
		form.order(o)
		good := o.Sign()
		check := func(name string, edit func(b *fakesigstore.Bundle, front bool)) {
			for _, front := range []bool{true, false} {
				where := map[bool]string{true: " before", false: " behind"}[front]
				t.Run(form.name+", "+name+where, func(t *testing.T) {
					b := *good
					edit(&b, front)
					got, err := open(fakesigstore.JSON(&b), v)
					if err != nil {
						t.Fatal(err)
					}
					later := form.source == bundle.TimeTimestamp && name == "the signature logged later, in time" // which then is the log's time
					if !later && (!got.Time.Equal(form.time) || got.TimeSource != form.source) || later && got.TimeSource != bundle.TimeLog {
						t.Errorf("time is %v by %s", got.Time, got.TimeSource)
					}
				})
			}
		}
		for name, entry := range entries {
			check(name, func(b *fakesigstore.Bundle, front bool) {
				b.Material.Entries = beside(good.Material.Entries, entry(*o, good), front)
			})
		}
		for name, token := range tokens {
			check(name, func(b *fakesigstore.Bundle, front bool) {
				b.Material.Timestamps.Tokens = beside(good.Material.Timestamps.Tokens, fakesigstore.Token{Token: token(good.Envelope.Signatures[0].Sig)}, front)
			})
		}
		check("as many entries as fit", func(b *fakesigstore.Bundle, front bool) {
			bad := *good.Material.Entries[0]
			bad.Proof = v1.Material.Entries[0].Proof
			for range 63 {
				b.Material.Entries = beside(b.Material.Entries, &bad, front)
			}
		})
		check("as many timestamps as fit", func(b *fakesigstore.Bundle, front bool) {
			for len(b.Material.Timestamps.Tokens) < 64 {
				b.Material.Timestamps.Tokens = beside(b.Material.Timestamps.Tokens, fakesigstore.Token{Token: v1.Material.Timestamps.Tokens[0].Token}, front)
			}
		})
	}
}

// beside returns a new list.
func beside[T any](list []T, item T, front bool) []T {
	if front {
		return append([]T{item}, list...)
	}
	return append(slices.Clone(list), item)
}

// renamed lets an entry say that it is in the log of s.
func renamed(e *fakesigstore.Entry, s *fakesigstore.Sigstore) *fakesigstore.Entry {
	e.LogID = object{"keyId": s.LogID()}
	return e
}

func TestSigstoreVerifiersNameTheirClaims(t *testing.T) {
	root, err := bundle.ParseTrustedRoot(fakesigstore.New(t).TrustedRoot(nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		identity bundle.SigstoreIdentity
		want     string
	}{
		{bundle.SigstoreIdentity{Subject: "s", Issuer: "i"}, `sigstore "s" of issuer "i"`},
		{bundle.SigstoreIdentity{SubjectRegexp: "s.*", Issuer: "i", BuildTrigger: "pu\nsh"}, `sigstore like "s.*" of issuer "i", build trigger "pu\nsh"`},
		{
			bundle.SigstoreIdentity{Subject: "s", Issuer: "i", SourceRepository: "acme/models", SourceRef: "refs/heads/main", BuildSigner: "b", BuildTrigger: "t"},
			`sigstore "s" of issuer "i", source repository "acme/models", source ref "refs/heads/main", build signer "b", build trigger "t"`,
		},
	} {
		v, err := bundle.NewSigstoreVerifier(root, tt.identity)
		if err != nil {
			t.Fatal(err)
		}
		if got := v.String(); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

func TestInsecureClaimsOfKeylessBundles(t *testing.T) {
	s := fakesigstore.New(t)
	o := newOrder(s)
	o.Stamped = moment
	o.Template = func(leaf *x509.Certificate) {
		leaf.EmailAddresses = []string{fakesigstore.Subject, "bob@example.com", "x"}
		leaf.DNSNames, leaf.IPAddresses = []string{"example.com"}, []net.IP{{127, 0, 0, 1}}
	}
	b := o.Sign()
	strange := *b.Material.Entries[0]
	strange.LogID, strange.LogIndex, strange.IntegratedTime = nil, "-7", "9223372036854775807"
	b.Material.Entries = append(b.Material.Entries, &strange)
	got, err := bundle.InsecureClaims(fakesigstore.JSON(b))
	if err != nil {
		t.Fatal(err)
	}
	want := bundle.Claims{
		MediaType: bundle.MediaType, Method: bundle.MethodSigstore, Subject: fakesigstore.Subject, Issuer: fakesigstore.IssuerURL,
		Signatures: 1, PayloadType: bundle.PayloadType, Payload: []byte(payload),
		Names: 5, OtherNames: []string{"dns:example.com", "bob@example.com", "email:x"},
		NotBefore: moment, NotAfter: moment.Add(10 * time.Minute),
		LogEntries: []bundle.LogEntry{{Index: 1, LogID: hex.EncodeToString(s.LogID()), Time: moment.Add(2 * time.Minute)}, {Index: -7}},
		Timestamps: 1,
	}
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("claims %+v, want %+v", *got, want)
	}
}

// What one piece of evidence lacks, another does not make good. Rule 24.
func TestSigstoreDoesNotCombineHalves(t *testing.T) {
	s, other := fakesigstore.New(t), fakesigstore.New(t)
	const noLog, noTime, notValid = "no transparency log of the trusted root proves", "nobody proves when", "was not valid when the signature was made"
	strange := newOrder(s)
	strange.Payload, strange.Stamped = `{"_type":"other"}`, moment
	stranger := strange.Sign()
	again := func(o *fakesigstore.Order, b *fakesigstore.Bundle, edit func(o *fakesigstore.Order)) *fakesigstore.Entry {
		again := *o
		edit(&again)
		return again.Entry(certificate(t, b), b.Envelope.Signatures[0].Sig)
	}
	for _, tt := range []struct {
		name   string
		order  func(o *fakesigstore.Order)
		bundle func(o *fakesigstore.Order, b *fakesigstore.Bundle)
		want   string
	}{
		{"an entry without a promise, and the promise of another signature", func(o *fakesigstore.Order) { o.Logged = time.Time{} }, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Entries = append(b.Material.Entries, stranger.Material.Entries[0])
		}, noTime},
		{"an entry without a promise, and a promise without a proof", func(o *fakesigstore.Order) { o.Logged = time.Time{} }, func(o *fakesigstore.Order, b *fakesigstore.Bundle) {
			e := again(o, b, func(o *fakesigstore.Order) { o.Logged = moment })
			e.Proof = nil
			b.Material.Entries = append(b.Material.Entries, e)
		}, noTime},
		{"an entry of v2, and a promise of a time when the certificate was not valid", func(o *fakesigstore.Order) { o.V2 = true }, func(o *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Entries = append(b.Material.Entries, again(o, b, func(o *fakesigstore.Order) { o.V2, o.Logged = false, moment.Add(time.Hour) }))
		}, noTime},
		{"an entry of v2, and a stranger's promise", func(o *fakesigstore.Order) { o.V2 = true }, func(o *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Entries = append(b.Material.Entries, again(o, b, func(o *fakesigstore.Order) { o.V2, o.Rekor = false, other }))
		}, noTime},
		{"a proof of one entry and a promise of another", nil, func(o *fakesigstore.Order, b *fakesigstore.Bundle) {
			proved, promised := *b.Material.Entries[0], *again(o, b, func(o *fakesigstore.Order) { o.Logged = moment })
			proved.Promise, promised.Proof = promised.Promise, stranger.Material.Entries[0].Proof
			b.Material.Entries = []*fakesigstore.Entry{&proved, &promised}
		}, noLog},
		{"a good timestamp and the entry of another signature", func(o *fakesigstore.Order) { o.Stamped = moment }, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Entries = stranger.Material.Entries
		}, noLog},
		{"a good timestamp, and the signature logged in a stranger's log", func(o *fakesigstore.Order) { o.Stamped, o.Rekor = moment, other }, nil, noLog + " the signature: the entry is in none of them"},
		{"a good timestamp, and logged after the certificate ended", func(o *fakesigstore.Order) { o.Stamped, o.Logged = moment, moment.Add(time.Hour) }, nil, notValid + ", at 2024-02-03T05:05:06Z"},
		{"two timestamps of times when the certificate was not valid", func(o *fakesigstore.Order) { o.V2 = true }, func(_ *fakesigstore.Order, b *fakesigstore.Bundle) {
			for _, at := range []time.Duration{time.Hour, -time.Hour} {
				b.Material.Timestamps.Tokens = append(b.Material.Timestamps.Tokens, fakesigstore.Token{Token: s.Token(b.Envelope.Signatures[0].Sig, moment.Add(at))})
			}
		}, notValid + ", at 2024-02-03T03:05:06Z"},
		{"the reason in the trusted log comes before that in a stranger's", func(o *fakesigstore.Order) { o.Logged = moment.Add(time.Hour) }, func(o *fakesigstore.Order, b *fakesigstore.Bundle) {
			b.Material.Entries = beside(b.Material.Entries, again(o, b, func(o *fakesigstore.Order) { o.Rekor = other }), true)
		}, notValid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, data := ordered(s, tt.order, tt.bundle)
			_, err := open(data, accepting(s, nil))
			wantUntrusted(t, err, tt.want)
		})
	}
}

// Each key counts at the time when it was used, to the second.
func TestSigstoreWantsKeysThatWereValid(t *testing.T) {
	s := fakesigstore.New(t)
	for _, form := range forms() {
		o := newOrder(s)
		form.order(o)
		data := fakesigstore.JSON(o.Sign())
		kinds := map[string]time.Time{"tlogs": form.time, "certificateAuthorities": form.time, "ctlogs": o.From}
		if form.source == bundle.TimeTimestamp {
			kinds["timestampAuthorities"] = form.time
		}
		for kind, used := range kinds {
			for _, tt := range []struct {
				name     string
				validFor object
				ok       bool
			}{
				{"ended a second before", object{"start": begin, "end": used.Add(-time.Second)}, false},
				{"ended", object{"start": begin, "end": used}, true},
				{"ended long ago, and after", object{"start": begin, "end": used.Add(time.Hour)}, true},
				{"began", object{"start": used}, true},
				{"began a second after", object{"start": used.Add(time.Second)}, false},
				{"began and ended", object{"start": used, "end": used}, true},
			} {
				t.Run(form.name+", "+kind+" that "+tt.name, func(t *testing.T) {
					v := accepting(s, validFor(kind, tt.validFor))
					got, err := open(data, v)
					if !tt.ok {
						wantUntrusted(t, err)
						return
					}
					if kind == "certificateAuthorities" && tt.name == "began and ended" { // within the certificate's minutes, at none of their ends
						wantUntrusted(t, err, "not by an authority")
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					if !got.Time.Equal(form.time) || got.TimeSource != form.source {
						t.Errorf("time is %v by %s", got.Time, got.TimeSource)
					}
				})
			}
		}
	}
}

func validFor(kind string, validFor object) func(root object) {
	return func(root object) {
		entry := root[kind].([]object)[0]
		if key, ok := entry["publicKey"].(object); ok {
			entry = key
		}
		entry["validFor"] = validFor
	}
}

// The time that an entry promises is the one that counts for its log, and a timestamp's the one for an entry without a promise.
func TestSigstoreWantsTheLogsKeyAtTheRightTime(t *testing.T) {
	s := fakesigstore.New(t)
	logged, stamped := moment.Add(2*time.Minute), moment.Add(time.Minute)
	for _, tt := range []struct {
		name     string
		order    func(o *fakesigstore.Order)
		validFor object
		want     string // "": opens
	}{
		{"valid when it promised, and not at the timestamp", func(o *fakesigstore.Order) { o.Stamped = stamped }, object{"start": logged}, ""},
		{"valid at the timestamp, and not when it promised", func(o *fakesigstore.Order) { o.Stamped = stamped }, object{"start": begin, "end": stamped}, "not valid at payload integrated time"},
		{"ended before the timestamp of an entry of v2", func(o *fakesigstore.Order) { o.V2, o.Stamped = true, stamped }, object{"start": begin, "end": moment}, "the transparency log's key was not valid, by the trusted root, when the signature was made, at 2024-02-03T04:06:06Z"},
		{"ended before the timestamp of an entry without a promise", func(o *fakesigstore.Order) { o.Logged, o.Stamped = time.Time{}, stamped }, object{"start": begin, "end": moment}, "the transparency log's key was not valid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrder(s)
			tt.order(o)
			_, err := open(fakesigstore.JSON(o.Sign()), accepting(s, validFor("tlogs", tt.validFor)))
			if tt.want != "" {
				wantUntrusted(t, err, tt.want)
			} else if err != nil {
				t.Fatal(err)
			}
		})
	}

	t.Run("the earliest timestamp at which it was valid counts", func(t *testing.T) {
		o := newOrder(s)
		o.V2, o.Stamped = true, stamped
		b := o.Sign()
		b.Material.Timestamps.Tokens = append(b.Material.Timestamps.Tokens, fakesigstore.Token{Token: s.Token(b.Envelope.Signatures[0].Sig, logged)})
		got, err := open(fakesigstore.JSON(b), accepting(s, validFor("tlogs", object{"start": logged})))
		if err != nil {
			t.Fatal(err)
		}
		if !got.Time.Equal(logged) || got.TimeSource != bundle.TimeTimestamp {
			t.Errorf("time is %v by %s", got.Time, got.TimeSource)
		}
	})
}

// The certificates of authorities count as the times in the root do.
func TestSigstoreWantsCertificatesOfAuthoritiesThatWereValid(t *testing.T) {
	used := moment.Add(time.Minute)
	for _, tt := range []struct {
		name            string
		caEnd, tsaBegin time.Time
		want            string // "": opens
	}{
		{"one long ended, and after", moment.Add(time.Hour), begin, ""},
		{"an issuing authority that had ended", used.Add(-time.Second), begin, "the certificate's authority was not valid when the signature was made, at 2024-02-03T04:06:06Z"},
		{"a timestamp authority that had not begun", end, used.Add(time.Second), "nobody proves when"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := fakesigstore.New(t)
			rootKey := fakesigstore.NewKey()
			authority := &x509.Certificate{
				SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: begin, NotAfter: end,
				KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
			}
			s.Root = fakesigstore.Certificate(authority, authority, rootKey.Public(), rootKey)
			authority.Subject.CommonName, authority.NotAfter = "intermediate", tt.caEnd
			s.Intermediate = fakesigstore.Certificate(authority, s.Root, s.CAKey.Public(), rootKey)
			s.TSA = fakesigstore.Certificate(&x509.Certificate{
				SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "tsa"}, NotBefore: tt.tsaBegin, NotAfter: end, KeyUsage: x509.KeyUsageDigitalSignature,
				ExtraExtensions: []pkix.Extension{{Id: oidEKU, Critical: true, Value: derOf([]asn1.ObjectIdentifier{oidStamp})}},
			}, s.Root, s.TSAKey.Public(), rootKey)
			o := newOrder(s)
			o.V2, o.Stamped = true, used
			_, err := open(fakesigstore.JSON(o.Sign()), accepting(s, nil))
			if tt.want != "" {
				wantUntrusted(t, err, tt.want)
			} else if err != nil {
				t.Fatal(err)
			}
		})
	}
}
