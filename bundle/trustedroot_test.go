package bundle_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/e2e/fakesigstore"
)

func TestParseTrustedRoot(t *testing.T) {
	s := fakesigstore.New(t)
	for _, tt := range []struct {
		name string
		edit func(root object)
		want string
	}{
		{"no authority", func(root object) { delete(root, "certificateAuthorities") }, "no certificate authority"},
		{"an empty list of authorities", func(root object) { root["certificateAuthorities"] = []object{} }, "no certificate authority"},
		{"no transparency log", func(root object) { delete(root, "tlogs") }, "no transparency log"},
		{"only certificate logs", func(root object) { root["tlogs"] = nil }, "no transparency log"},
		{"another media type", func(root object) { root["mediaType"] = "application/json" }, "media type"},
		{"an unknown member", func(root object) { root["x\u202e"] = 1 }, `unknown field \"x\u202e\"`},
		{"an authority without certificates", func(root object) { root["certificateAuthorities"] = []object{{}} }, "missing cert chain"},
		{"a log without a key", func(root object) { root["tlogs"].([]object)[0]["publicKey"] = nil }, "missing public key"},
		{"too long", func(root object) { root["mediaType"] = strings.Repeat("x", 1<<20) }, "more than the limit of 1048576"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root, err := bundle.ParseTrustedRoot(s.TrustedRoot(tt.edit))
			if root != nil || err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 600 {
				t.Errorf("got %v, %v, want an error with %q", root, err, tt.want)
			}
		})
	}
	again := func(kind string, edit func(log object)) func(root object) {
		return func(root object) {
			s.TrustedRoot(func(second object) {
				edit(second[kind].([]object)[0])
				root[kind] = append(root[kind].([]object), second[kind].([]object)...)
			})
		}
	}
	for _, kind := range []string{"tlogs", "ctlogs"} {
		for _, tt := range []struct {
			name string
			edit func(log object)
		}{
			{"another key", func(log object) { log["publicKey"].(object)["rawBytes"] = pkixOf(fakesigstore.NewKey().Public()) }},
			{"another time", func(log object) { log["publicKey"].(object)["validFor"] = object{"start": begin, "end": end} }},
			{"another address", func(log object) { log["baseUrl"] = "https://other.example.com" }},
		} {
			t.Run(kind+" of one id with "+tt.name, func(t *testing.T) {
				root, err := bundle.ParseTrustedRoot(s.TrustedRoot(again(kind, tt.edit)))
				if root != nil || err == nil || !strings.Contains(err.Error(), "two logs of id") {
					t.Errorf("got %v, %v", root, err)
				}
				config := fakesigstore.JSON(object{
					"mediaType":   "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
					"trustedRoot": json.RawMessage(s.TrustedRoot(again(kind, tt.edit))),
				})
				if root, _, err := bundle.ParseTrustConfig(config); root != nil || err == nil || !strings.Contains(err.Error(), "two logs of id") {
					t.Errorf("in a trust config: got %v, %v", root, err)
				}
			})
		}
		if _, err := open(fakesigstore.JSON(newOrder(s).Sign()), accepting(s, again(kind, func(object) {}))); err != nil {
			t.Errorf("%s with the same log twice: %v", kind, err)
		}
	}
	for _, text := range []string{"", "null", "{}", "[]", string(s.TrustedRoot(nil)) + "{}", string(s.TrustedRoot(nil)[1:])} {
		if root, err := bundle.ParseTrustedRoot([]byte(text)); root != nil || err == nil {
			t.Errorf("%.20q is a root", text)
		}
	}
}

func TestNewSigstoreVerifierWantsAll(t *testing.T) {
	root, err := bundle.ParseTrustedRoot(fakesigstore.New(t).TrustedRoot(nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		root     *bundle.TrustedRoot
		identity bundle.SigstoreIdentity
		want     string
	}{
		{"nil root", nil, bundle.SigstoreIdentity{Subject: "s", Issuer: "i"}, "no trusted root"},
		{"zero root", &bundle.TrustedRoot{}, bundle.SigstoreIdentity{Subject: "s", Issuer: "i"}, "no trusted root"},
		{"no subject", root, bundle.SigstoreIdentity{Issuer: "i"}, "no subject"},
		{"no issuer", root, bundle.SigstoreIdentity{Subject: "s"}, "no issuer"},
		{"a subject and an expression", root, bundle.SigstoreIdentity{Subject: "s", SubjectRegexp: "s", Issuer: "i"}, "subject and a regular expression"},
		{"an issuer and an expression", root, bundle.SigstoreIdentity{Subject: "s", Issuer: "i", IssuerRegexp: "i"}, "issuer and a regular expression"},
		{"no regular expression", root, bundle.SigstoreIdentity{SubjectRegexp: "(", Issuer: "i"}, "regular expression for subject"},
		{"one only between parentheses", root, bundle.SigstoreIdentity{Subject: "s", IssuerRegexp: "a)|(?:b"}, "regular expression for issuer"},
		{"one that quotes what comes behind", root, bundle.SigstoreIdentity{Subject: "s", IssuerRegexp: `\Qa`}, "regular expression for issuer"},
		{"anybody", root, bundle.SigstoreIdentity{SubjectRegexp: ".*", IssuerRegexp: ".*"}, "match anybody"},
		{"anybody by other words", root, bundle.SigstoreIdentity{SubjectRegexp: "^.+$", IssuerRegexp: "a|.*"}, "match anybody"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, err := bundle.NewSigstoreVerifier(tt.root, tt.identity)
			if v != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %v, want an error with %q", v, err, tt.want)
			}
		})
	}
}

// A root that loads makes a verifier, which any bundle can be shown to.
func FuzzParseTrustedRoot(f *testing.F) {
	s := fakesigstore.New(f)
	o := newOrder(s)
	o.V2, o.Stamped = true, moment
	b, err := bundle.Parse(fakesigstore.JSON(o.Sign()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.TrustedRoot(nil))
	seed(f, sharedOMS+"/trusted_root.public-good.json")
	f.Fuzz(func(t *testing.T, data []byte) {
		root, err := bundle.ParseTrustedRoot(data)
		if err != nil {
			return
		}
		v, err := bundle.NewSigstoreVerifier(root, bundle.SigstoreIdentity{Subject: fakesigstore.Subject, Issuer: fakesigstore.IssuerURL})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Open(v); err != nil && !errors.Is(err, bundle.ErrUntrusted) {
			t.Fatal(err)
		}
	})
}
