package bundle_test

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/e2e/fakesigstore"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

const (
	workflow     = "https://github.com/acme/models/.github/workflows/sign.yml@refs/heads/main"
	githubIssuer = "https://token.actions.githubusercontent.com"
)

// fulcioID is an extension of Fulcio's.
func fulcioID(n int) asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, n}
}

// claim is a certificate's extension as Fulcio writes it: those before 8 as the text itself, the others as DER of it.
func claim(n int, value string) pkix.Extension {
	if n < 8 {
		return pkix.Extension{Id: fulcioID(n), Value: []byte(value)}
	}
	return pkix.Extension{Id: fulcioID(n), Value: must(asn1.MarshalWithParams(value, "utf8"))}
}

// identityVerifier accepts one identity, by the whole root.
func identityVerifier(t *testing.T, s *fakesigstore.Sigstore, id bundle.SigstoreIdentity) bundle.Verifier {
	t.Helper()
	root, err := bundle.ParseTrustedRoot(s.TrustedRoot(nil))
	if err != nil {
		t.Fatal(err)
	}
	v, err := bundle.NewSigstoreVerifier(root, id)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Rule 11. Every certificate is issued and every bundle signed as it should be.
func TestSigstoreClaims(t *testing.T) {
	s := fakesigstore.New(t)
	now := map[int]string{9: workflow, 12: "https://github.com/acme/models", 14: "refs/heads/main", 20: "push"}
	both := map[int]string{2: "push", 5: "acme/models", 6: "refs/heads/main", 9: workflow, 12: "https://github.com/acme/models", 14: "refs/heads/main", 20: "push"}
	old := map[int]string{1: githubIssuer, 2: "push", 5: "acme/models", 6: "refs/heads/main"}
	all := bundle.SigstoreIdentity{SourceRepository: "https://github.com/acme/models", SourceRef: "refs/heads/main", BuildSigner: workflow, BuildTrigger: "push"}
	type id = bundle.SigstoreIdentity
	with := func(claims map[int]string, n int, value string) map[int]string {
		edited := map[int]string{n: value}
		for k, v := range claims {
			if k != n {
				edited[k] = v
			}
		}
		return edited
	}
	for _, tt := range []struct {
		name   string
		claims map[int]string
		want   id
		err    string // "": opens
	}{
		{"all of them", now, all, ""},
		{"old and new extensions that agree", both, all, ""},
		{"none demanded", now, id{}, ""},
		{"owner and name", now, id{SourceRepository: "acme/models"}, ""},
		{"only deprecated extensions", old, id{SourceRepository: "acme/models", SourceRef: "refs/heads/main", BuildTrigger: "push"}, ""},
		{"the URI of a deprecated extension of github.com", old, id{SourceRepository: "https://github.com/acme/models"}, ""},
		{"another repository", now, id{SourceRepository: "https://github.com/acme/other"}, `its source repository is "https://github.com/acme/models", not "https://github.com/acme/other"`},
		{"another owner", now, id{SourceRepository: "evil/models"}, `its source repository is "https://github.com/acme/models", not "evil/models"`},
		{"the repository on another host", now, id{SourceRepository: "https://gitlab.com/acme/models"}, "its source repository is"},
		{"the end of the path", with(now, 12, "https://github.com/evil/acme/models"), id{SourceRepository: "acme/models"}, "its source repository is"},
		{"the begin of the path", now, id{SourceRepository: "acme"}, "its source repository is"},
		{"the repository in a query", with(now, 12, "https://github.com/acme/models?x"), id{SourceRepository: "acme/models"}, "its source repository is"},
		{"a path with an escape", with(now, 12, "https://github.com/acme%2Fmodels"), id{SourceRepository: "acme/models"}, "its source repository is"},
		{"another ref", now, id{SourceRef: "refs/heads/dev"}, `its source ref is "refs/heads/main", not "refs/heads/dev"`},
		{"the begin of a ref", now, id{SourceRef: "refs/heads"}, "its source ref is"},
		{"another build signer", now, id{BuildSigner: workflow + "x"}, "its build signer is"},
		{"another trigger", now, id{BuildTrigger: "pull_request"}, `its build trigger is "push", not "pull_request"`},
		{"no claims", nil, all, `it names no source repository, where "https://github.com/acme/models" is wanted, it names no source ref, where`},
		{"no build signer before there was one", old, id{BuildSigner: workflow}, "it names no build signer"},
		{"an empty claim", with(now, 14, ""), id{SourceRef: "refs/heads/main"}, "it names no source ref"},
		{"two repositories", with(both, 5, "evil/models"), id{}, `two values as its source repository: "https://github.com/acme/models" and "evil/models"`},
		{"two refs", with(both, 6, "refs/heads/dev"), id{}, "two values as its source ref"},
		{"two triggers", with(both, 2, "pull_request"), id{}, "two values as its build trigger"},
		{"two issuers", with(now, 1, "https://evil.example.com"), id{}, "two values as its issuer"},
		{"an empty new claim beside an old one", with(both, 14, ""), id{}, "two values as its source ref"},
		{"an old claim that is no text", with(old, 6, "\xff"), id{}, "source ref cannot be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrder(s)
			o.Subject, o.Issuer = workflow, githubIssuer
			o.Template = func(leaf *x509.Certificate) {
				for n := range 30 {
					if value, ok := tt.claims[n]; ok {
						leaf.ExtraExtensions = append(leaf.ExtraExtensions, claim(n, value))
					}
				}
			}
			tt.want.Subject, tt.want.Issuer = workflow, githubIssuer
			_, err := open(fakesigstore.JSON(o.Sign()), identityVerifier(t, s, tt.want))
			if tt.err != "" {
				wantUntrusted(t, err, tt.err)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSigstoreOldRepositoryHasTheHostOfItsIssuerOnly(t *testing.T) {
	s := fakesigstore.New(t)
	o := newOrder(s)
	o.Subject = workflow
	o.Template = func(leaf *x509.Certificate) {
		leaf.ExtraExtensions = append(leaf.ExtraExtensions, claim(5, "acme/models"))
	}
	data := fakesigstore.JSON(o.Sign())
	want := bundle.SigstoreIdentity{Subject: workflow, Issuer: fakesigstore.IssuerURL, SourceRepository: "acme/models"}
	if _, err := open(data, identityVerifier(t, s, want)); err != nil {
		t.Error(err)
	}
	want.SourceRepository = "https://github.com/acme/models"
	_, err := open(data, identityVerifier(t, s, want))
	wantUntrusted(t, err, `its source repository is "acme/models", not "https://github.com/acme/models"`)
}

func TestSigstoreClaimThatIsNoDER(t *testing.T) {
	s := fakesigstore.New(t)
	for _, value := range []string{"", "push", "\x0c\x04pushx", "\x02\x01\x01"} {
		o := newOrder(s)
		o.Template = func(leaf *x509.Certificate) {
			leaf.ExtraExtensions = append(leaf.ExtraExtensions, pkix.Extension{Id: fulcioID(20), Value: []byte(value)})
		}
		_, err := open(fakesigstore.JSON(o.Sign()), accepting(s, nil))
		wantUntrusted(t, err, "names no signer")
	}
}

func TestSigstoreClaimTwice(t *testing.T) {
	s := fakesigstore.New(t)
	o := newOrder(s)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: o.From, NotAfter: o.From.Add(10 * time.Minute), EmailAddresses: []string{fakesigstore.Subject},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{claim(8, fakesigstore.IssuerURL), claim(20, "push"), claim(20, "pull_request")},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.Intermediate, o.Key.Public(), s.CAKey)
	if err != nil {
		t.Fatal(err)
	}
	o.SCT = false
	b := o.Sign()
	sig := signDER(t, o.Key, crypto.SHA256, pae(o.PayloadType, o.Payload))
	b.Material.Certificate.RawBytes, b.Envelope.Signatures[0].Sig = der, sig
	b.Material.Entries = []*fakesigstore.Entry{o.Entry(&x509.Certificate{Raw: der}, sig)}
	_, err = open(fakesigstore.JSON(b), accepting(s, func(root object) { delete(root, "ctlogs") }))
	wantUntrusted(t, err, "duplicate extension")
}

// Each shape of a subject that Fulcio documents: exactly, another, and by expressions.
func TestSigstoreSubjectShapes(t *testing.T) {
	s := fakesigstore.New(t)
	for _, tt := range []struct{ subject, issuer, repository string }{
		{workflow, githubIssuer, "https://github.com/acme/models"},
		{"https://gitlab.com/acme/models//.gitlab-ci.yml@refs/heads/main", "https://gitlab.com", "https://gitlab.com/acme/models"},
		{"https://buildkite.com/acme/models", "https://agent.buildkite.com", ""},
		{"https://kubernetes.io/namespaces/default/serviceaccounts/signer", "https://kubernetes.default.svc", ""},
		{"spiffe://example.com/signer", "https://spire.example.com", ""},
		{"signer@project.iam.gserviceaccount.com", "https://accounts.google.com", ""},
		{"alice@example.com", "https://github.com/login/oauth", ""},
		{"user!example.com", "https://accounts.example.com", ""},
	} {
		t.Run(tt.subject, func(t *testing.T) {
			o := newOrder(s)
			o.Subject, o.Issuer = tt.subject, tt.issuer
			o.Template = func(leaf *x509.Certificate) {
				if strings.Contains(tt.subject, "!") {
					name, err := cryptoutils.MarshalOtherNameSAN(tt.subject, true)
					if err != nil {
						t.Fatal(err)
					}
					leaf.EmailAddresses, leaf.URIs = nil, nil
					leaf.ExtraExtensions = append(leaf.ExtraExtensions, *name)
				}
				if tt.repository != "" {
					leaf.ExtraExtensions = append(leaf.ExtraExtensions, claim(12, tt.repository))
				}
			}
			data := fakesigstore.JSON(o.Sign())
			opens := func(id bundle.SigstoreIdentity) error {
				id.Issuer = tt.issuer
				_, err := open(data, identityVerifier(t, s, id))
				return err
			}
			whole := regexp.QuoteMeta(tt.subject)
			for _, id := range []bundle.SigstoreIdentity{{Subject: tt.subject, SourceRepository: tt.repository}, {SubjectRegexp: whole}, {SubjectRegexp: "^" + whole + "$"}} {
				if err := opens(id); err != nil {
					t.Error(err)
				}
			}
			wantUntrusted(t, opens(bundle.SigstoreIdentity{Subject: tt.subject + "x"}), `is for "`+tt.subject+`", not "`+tt.subject+`x"`)
			for _, expr := range []string{whole[:len(whole)-2], whole[1:], "^" + whole[:4] + "|" + whole[len(whole)-4:] + "$", whole + "\n"} {
				wantUntrusted(t, opens(bundle.SigstoreIdentity{SubjectRegexp: expr}), "the certificate is for")
			}
		})
	}
}

// A reusable workflow is the subject of whoever calls it. Rule 11.
func TestSigstoreReusableWorkflowOfAnotherRepository(t *testing.T) {
	s := fakesigstore.New(t)
	o := newOrder(s)
	o.Subject, o.Issuer = workflow, githubIssuer
	o.Template = func(leaf *x509.Certificate) {
		leaf.ExtraExtensions = append(leaf.ExtraExtensions, claim(9, workflow), claim(12, "https://github.com/evil/models"))
	}
	want := bundle.SigstoreIdentity{Subject: workflow, Issuer: githubIssuer, BuildSigner: workflow, SourceRepository: "acme/models"}
	_, err := open(fakesigstore.JSON(o.Sign()), identityVerifier(t, s, want))
	wantUntrusted(t, err, `its source repository is "https://github.com/evil/models", not "acme/models"`)
}

// Fulcio writes one name. Of two, which one counts would be a matter of order.
func TestSigstoreTwoSubjects(t *testing.T) {
	s := fakesigstore.New(t)
	uri := &url.URL{Scheme: "https", Host: "evil.example.com"}
	for _, edit := range []func(leaf *x509.Certificate){
		func(leaf *x509.Certificate) { leaf.URIs = []*url.URL{uri} },
		func(leaf *x509.Certificate) { leaf.EmailAddresses = []string{fakesigstore.Subject, "bob@example.com"} },
		func(leaf *x509.Certificate) { leaf.EmailAddresses = []string{"bob@example.com", fakesigstore.Subject} },
		func(leaf *x509.Certificate) {
			leaf.EmailAddresses = []string{fakesigstore.Subject, fakesigstore.Subject}
		},
		func(leaf *x509.Certificate) { leaf.DNSNames = []string{"example.com"} },
	} {
		o := newOrder(s)
		o.Template = edit
		_, err := open(fakesigstore.JSON(o.Sign()), accepting(s, nil))
		wantUntrusted(t, err, "the certificate is for 2 names, not one")
	}
}
