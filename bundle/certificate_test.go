package bundle_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelsig/modelsig/bundle"
)

// Certificates made in tests are valid for the year 2026, in the middle of which the tests are.
var (
	yearBegins = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	yearEnds   = time.Date(2026, time.December, 31, 23, 59, 59, 0, time.UTC)
	midYear    = time.Date(2026, time.July, 1, 12, 0, 0, 0, time.UTC)
)

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

// Rule 10. Each row is a bundle that is properly signed by its leaf, and right, or wrong in one way.
func TestCertificates(t *testing.T) {
	root := ca(t, nil, "root")
	other := ca(t, nil, "other root")
	middle := ca(t, root, "intermediate")
	leaf := leafOf(t, middle)
	edited := func(edit func(*x509.Certificate)) *holder { return leafOf(t, middle, edit) }
	under := func(edit func(*x509.Certificate)) (*holder, *holder) {
		m := ca(t, root, "intermediate", edit)
		return leafOf(t, m), m
	}
	expired := func(c *x509.Certificate) { c.NotAfter = midYear.Add(-time.Second) }
	early := func(c *x509.Certificate) { c.NotBefore = midYear.Add(time.Second) }
	usage := func(ku x509.KeyUsage, eku ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.KeyUsage, c.ExtKeyUsage = ku, eku }
	}
	critical := func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
	}
	names := func(mails, dns []string, uris ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.EmailAddresses, c.DNSNames = mails, dns
			for _, text := range uris {
				c.URIs = append(c.URIs, uri(t, text))
			}
		}
	}
	otherName := func(c *x509.Certificate) { // an otherName with the text of an identity
		value, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: mustMarshal(t, struct {
			ID    asn1.ObjectIdentifier
			Value string `asn1:"explicit,tag:0,utf8"`
		}{asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 7}, "release@example.com"})[2:]}})
		if err != nil {
			t.Fatal(err)
		}
		c.EmailAddresses = nil
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}}
	}
	constrained := func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical, c.PermittedEmailAddresses = true, []string{"example.com"}
	}
	// The trap of the OMS test certificates: subject and issuer of the leaf, and the intermediate, have one name.
	twin := leafOf(t, middle, func(c *x509.Certificate) { c.Subject = middle.cert.Subject; c.IsCA = true })
	selfMade := leafOf(t, nil)
	var long []*holder
	for last := root; len(long) < 11; {
		last = ca(t, last, fmt.Sprint("intermediate ", len(long)))
		long = append([]*holder{last}, long...)
	}
	withLong := func(n int) (*holder, []*holder) {
		chain := long[len(long)-n:]
		l := leafOf(t, chain[0])
		return l, append([]*holder{l}, chain...)
	}
	tenLeaf, ten := withLong(10)
	elevenLeaf, eleven := withLong(11)
	short, _ := pem.Decode(readFile(t, keysDir, "refused/rsa1024.pkcs1.pem"))
	shortKey, err := x509.ParsePKCS1PrivateKey(short.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}

	type row struct {
		name     string
		signer   *holder
		material string
		chain    []*holder
		identity string
		subject  string // who it is; "-": nobody
		says     string // empty: accepted
	}
	const mail = "release@example.com"
	normal := chainMaterial(leaf, middle)
	by := func(h *holder) string { return chainMaterial(h, middle) }
	mailLeaf := edited(names([]string{"first@example.com", mail}, []string{"models.example.com"}, "https://example.com/release"))
	cnLeaf := edited(func(c *x509.Certificate) { c.Subject.CommonName = mail; c.EmailAddresses = nil })
	dnsLeaf := edited(names(nil, []string{"models.example.com"}))
	wildLeaf := edited(names(nil, []string{"*.example.com"}))
	mailDNS := edited(names(nil, []string{mail}))
	uriLeaf := edited(names(nil, nil, "https://github.com/acme/models/.github/workflows/release.yml@refs/heads/main"))
	mailtoLeaf := edited(names(nil, nil, "mailto:"+mail))
	oddURI := edited(names(nil, nil, "https://example.com/a%2Fb"))
	otherLeaf, nobody := edited(otherName), edited(func(c *x509.Certificate) { c.EmailAddresses = nil })
	serverLeaf, serverMiddle := under(usage(x509.KeyUsageCertSign, x509.ExtKeyUsageServerAuth))
	codeLeaf, codeMiddle := under(usage(x509.KeyUsageCertSign, x509.ExtKeyUsageCodeSigning))
	oldLeaf, oldMiddle := under(expired)
	newLeaf, newMiddle := under(early)
	noCALeaf, noCA := under(func(c *x509.Certificate) { c.IsCA = false; c.KeyUsage = x509.KeyUsageCertSign })
	noSignLeaf, noSign := under(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	criticalLeaf, criticalMiddle := under(critical)
	insideLeaf, inside := under(constrained)
	outsideLeaf := leafOf(t, inside, names([]string{"release@example.org"}, nil))
	zeroMiddle := ca(t, root, "intermediate", func(c *x509.Certificate) { c.MaxPathLenZero = true })
	deepMiddle := ca(t, zeroMiddle, "deeper")
	deepLeaf := leafOf(t, deepMiddle)
	oldRoot := ca(t, nil, "old root", expired)
	oldRootLeaf := leafOf(t, oldRoot)
	p384Leaf, p521Leaf := leafWith(t, middle, privateKey(t, "p384")), leafWith(t, middle, privateKey(t, "p521"))
	edLeaf, rsaLeaf := leafWith(t, middle, anyKey(t, "ed25519")), leafWith(t, middle, anyKey(t, "rsa2048"))
	shortLeaf, p224Leaf := leafWith(t, middle, shortKey), leafWith(t, middle, p224)

	for _, tc := range []row{
		{"an intermediate from the bundle", leaf, normal, certsOf(root), "", mail, ""},
		{"an intermediate from the verifier", leaf, chainMaterial(leaf), certsOf(root, middle), "", mail, ""},
		{"the root in the bundle too", leaf, chainMaterial(leaf, middle, root), certsOf(root), "", mail, ""},
		{"a certificate instead of a chain", leaf, singleMaterial(leaf), certsOf(middle, root), "", mail, ""},
		{"one of two anchors", leaf, normal, certsOf(other, root), "", mail, ""},
		{"a leaf under the root itself", leafOf(t, root), "", certsOf(root), "", mail, ""},
		{"a leaf, its issuer and its issuer's issuer of one name, the leaf a CA", twin, by(twin), certsOf(root), "", mail, ""},
		{"a leaf that signed itself and is the anchor", selfMade, chainMaterial(selfMade), certsOf(selfMade), "", mail, ""},
		{"ten intermediates", tenLeaf, chainMaterial(ten...), certsOf(root), "", mail, ""},
		{"P-384", p384Leaf, by(p384Leaf), certsOf(root), "", mail, ""},
		{"P-521", p521Leaf, by(p521Leaf), certsOf(root), "", mail, ""},
		{"Ed25519", edLeaf, by(edLeaf), certsOf(root), "", mail, ""},
		{"RSA", rsaLeaf, by(rsaLeaf), certsOf(root), "", mail, ""},
		{"an intermediate for signing code", codeLeaf, chainMaterial(codeLeaf, codeMiddle), certsOf(root), "", mail, ""},
		{"key usage alone", edited(usage(x509.KeyUsageDigitalSignature)), "", certsOf(root, middle), "", mail, ""},
		{"extended key usage alone", edited(usage(0, x509.ExtKeyUsageCodeSigning)), "", certsOf(root, middle), "", mail, ""},
		{"codeSigning beside others", edited(usage(x509.KeyUsageDigitalSignature, x509.ExtKeyUsageAny, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageCodeSigning)), "", certsOf(root, middle), "", mail, ""},
		{"digitalSignature beside others", edited(usage(x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment)), "", certsOf(root, middle), "", mail, ""},
		{"a name within the constraint", insideLeaf, chainMaterial(insideLeaf, inside), certsOf(root), "", mail, ""},
		{"no name at all, and anybody accepted", nobody, by(nobody), certsOf(root), "", "-", ""},
		{"a mail address", leaf, normal, certsOf(root), mail, mail, ""},
		{"the second mail address", mailLeaf, by(mailLeaf), certsOf(root), mail, mail, ""},
		{"the first of several names, where anybody is accepted", mailLeaf, by(mailLeaf), certsOf(root), "", "dns:models.example.com", ""},
		{"a DNS name", mailLeaf, by(mailLeaf), certsOf(root), "models.example.com", "dns:models.example.com", ""},
		{"a DNS name with its type", mailLeaf, by(mailLeaf), certsOf(root), "dns:models.example.com", "dns:models.example.com", ""},
		{"a URI beside other names", mailLeaf, by(mailLeaf), certsOf(root), "https://example.com/release", "https://example.com/release", ""},
		{"a URI with an @", uriLeaf, by(uriLeaf), certsOf(root), "https://github.com/acme/models/.github/workflows/release.yml@refs/heads/main", "https://github.com/acme/models/.github/workflows/release.yml@refs/heads/main", ""},
		{"a URI as it stands in the certificate", oddURI, by(oddURI), certsOf(root), "https://example.com/a%2Fb", "https://example.com/a%2Fb", ""},
		{"a wildcard as a name", wildLeaf, by(wildLeaf), certsOf(root), "*.example.com", "dns:*.example.com", ""},
		{"a URI without an authority, where anybody is accepted", mailtoLeaf, by(mailtoLeaf), certsOf(root), "", "uri:mailto:" + mail, ""},

		{"another root", leaf, normal, certsOf(other), "", "", "does not lead to an accepted root"},
		{"another root of the same name", leaf, normal, certsOf(ca(t, nil, "root")), "", "", "does not lead to an accepted root"},
		{"the root only in the bundle", leaf, chainMaterial(leaf, middle, root), certsOf(other), "", "", "does not lead to an accepted root"},
		{"no intermediate", leaf, chainMaterial(leaf), certsOf(root), "", "", "does not lead to an accepted root"},
		{"the intermediate of the verifier, which is no anchor", leaf, normal, certsOf(other, middle), "", "", "does not lead to an accepted root"},
		{"the leaf of the verifier, which is no anchor", leaf, normal, certsOf(other, leaf), "", "", "does not lead to an accepted root"},
		{"the leaf with its issuer's name, which is no anchor", twin, by(twin), certsOf(other, twin), "", "", "does not lead to an accepted root"},
		{"a leaf that signed itself", selfMade, chainMaterial(selfMade), certsOf(root), "", "", "does not lead to an accepted root"},
		{"an intermediate before the leaf", leaf, chainMaterial(middle, leaf), certsOf(root), "", "", "without digitalSignature"},
		{"eleven intermediates", elevenLeaf, chainMaterial(eleven...), certsOf(root), "", "", "11 certificates beside the leaf"},
		{"an expired leaf", edited(expired), "", certsOf(root, middle), "", "", `"CN=release" expired at 2026-07-01T11:59:59Z`},
		{"a leaf of the future", edited(early), "", certsOf(root, middle), "", "", `"CN=release" is not valid before 2026-07-01T12:00:01Z`},
		{"an expired intermediate", oldLeaf, chainMaterial(oldLeaf, oldMiddle), certsOf(root), "", "", `"CN=intermediate" expired at`},
		{"an intermediate of the future", newLeaf, chainMaterial(newLeaf, newMiddle), certsOf(root), "", "", `"CN=intermediate" is not valid before`},
		{"an expired root", oldRootLeaf, chainMaterial(oldRootLeaf), certsOf(oldRoot), "", "", `"CN=old root" expired at`},
		{"key usage for keys", edited(usage(x509.KeyUsageKeyEncipherment, x509.ExtKeyUsageCodeSigning)), "", certsOf(root, middle), "", "", "without digitalSignature"},
		{"key usage for commitments alone", edited(usage(x509.KeyUsageContentCommitment, x509.ExtKeyUsageCodeSigning)), "", certsOf(root, middle), "", "", "without digitalSignature"},
		{"a device's certificate", edited(usage(x509.KeyUsageDigitalSignature, x509.ExtKeyUsageClientAuth)), "", certsOf(root, middle), "", "", "without codeSigning"},
		{"a server's certificate", edited(usage(x509.KeyUsageDigitalSignature, x509.ExtKeyUsageServerAuth)), "", certsOf(root, middle), "", "", "without codeSigning"},
		{"a timestamp authority's certificate", edited(usage(x509.KeyUsageDigitalSignature, x509.ExtKeyUsageTimeStamping)), "", certsOf(root, middle), "", "", "without codeSigning"},
		{"any extended key usage", edited(usage(x509.KeyUsageDigitalSignature, x509.ExtKeyUsageAny)), "", certsOf(root, middle), "", "", "without codeSigning"},
		{"no usage at all", edited(usage(0)), "", certsOf(root, middle), "", "", "neither key usage nor extended"},
		{"an intermediate for servers", serverLeaf, chainMaterial(serverLeaf, serverMiddle), certsOf(root), "", "", "incompatible key usage"},
		{"an issuer that is no CA", noCALeaf, chainMaterial(noCALeaf, noCA), certsOf(root), "", "", "does not lead to an accepted root"},
		{"an issuer without certSign", noSignLeaf, chainMaterial(noSignLeaf, noSign), certsOf(root), "", "", "does not lead to an accepted root"},
		{"a path that is too long", deepLeaf, chainMaterial(deepLeaf, deepMiddle, zeroMiddle), certsOf(root), "", "", "too many intermediates"},
		{"a critical extension that nobody knows", edited(critical), "", certsOf(root, middle), "", "", "unhandled critical extension"},
		{"an intermediate with such an extension", criticalLeaf, chainMaterial(criticalLeaf, criticalMiddle), certsOf(root), "", "", "unhandled critical extension"},
		{"a name outside the constraint", outsideLeaf, chainMaterial(outsideLeaf, inside), certsOf(root), "", "", "not permitted"},
		{"another mail address", leaf, normal, certsOf(root), "release@example.org", "", `is for "release@example.com", not for "release@example.org"`},
		{"a mail address in capitals", leaf, normal, certsOf(root), "Release@example.com", "", "not for"},
		{"the beginning of a mail address", leaf, normal, certsOf(root), "release@example.co", "", "not for"},
		{"the host of a mail address", leaf, normal, certsOf(root), "example.com", "", `not for "dns:example.com"`},
		{"a common name that is the identity", cnLeaf, by(cnLeaf), certsOf(root), mail, "", "no URI, mail address or DNS name"},
		{"a common name that is a DNS name", edited(func(c *x509.Certificate) { c.Subject.CommonName = "example.com"; c.EmailAddresses = nil }), "", certsOf(root, middle), "example.com", "", "no URI"},
		{"an otherName that is the identity", otherLeaf, by(otherLeaf), certsOf(root), mail, "", "no URI, mail address or DNS name"},
		{"a DNS name that is a mail address", mailDNS, by(mailDNS), certsOf(root), mail, "", `is for "dns:release@example.com"`},
		{"a DNS name that is no wildcard", wildLeaf, by(wildLeaf), certsOf(root), "models.example.com", "", "not for"},
		{"another DNS name", dnsLeaf, by(dnsLeaf), certsOf(root), "dns:example.com", "", `is for "dns:models.example.com"`},
		{"a URI that mails to the identity", mailtoLeaf, by(mailtoLeaf), certsOf(root), mail, "", `is for "uri:mailto:release@example.com"`},
		{"a URI that is the same after decoding", oddURI, by(oddURI), certsOf(root), "https://example.com/a/b", "", "not for"},
		{"the beginning of a URI", uriLeaf, by(uriLeaf), certsOf(root), "https://github.com/acme/models", "", "not for"},
		{"RSA of 1024 bits", shortLeaf, by(shortLeaf), certsOf(root), "", "", "RSA of 1024 bits"},
		{"P-224", p224Leaf, by(p224Leaf), certsOf(root), "", "", "ECDSA P-224"},
		{"another key than the leaf's", middle, normal, certsOf(root), "", "", "did not make this signature"},
		{"a certificate with bytes behind it", leaf, strings.Replace(chainMaterial(leaf, middle), base64.StdEncoding.EncodeToString(leaf.cert.Raw), base64.StdEncoding.EncodeToString(append(slices.Clone(leaf.cert.Raw), 0)), 1), certsOf(root), "", "", "certificate 1 of 2 of the bundle"},
		{"an intermediate that is none", leaf, strings.Replace(normal, base64.StdEncoding.EncodeToString(middle.cert.Raw), "AAAA", 1), certsOf(root), "", "", "certificate 2 of 2 of the bundle"},
		{"a certificate beyond the limit", leaf, `{"certificate":{"rawBytes":"` + strings.Repeat("AAAA", 30_000) + `"}}`, certsOf(root), "", "", "limit"},
		{"a log entry beside the certificate", leaf, strings.TrimSuffix(singleMaterial(leaf), "}") + `,"tlogEntries":[{}]}`, certsOf(root, middle), "", "", "takes bundles of method certificate only, not sigstore"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			material := tc.material
			if material == "" {
				material = chainMaterial(tc.signer)
			}
			v := certificateVerifier(t, bundle.CertificateOptions{Identity: tc.identity}, tc.chain...)
			got, err := open(signedBy(t, tc.signer.key, material), v)
			if tc.says != "" {
				if !errors.Is(err, bundle.ErrUntrusted) || got != nil {
					t.Fatalf("opened: %v", err)
				}
				if !strings.Contains(err.Error(), tc.says) {
					t.Errorf("%v does not say %q", err, tc.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			key, err := bundle.Fingerprint(tc.signer.key.Public())
			if err != nil {
				t.Fatal(err)
			}
			want := bundle.Proof{Signer: bundle.Identity{Method: bundle.MethodCertificate, KeyFingerprint: key, Subject: strings.TrimPrefix(tc.subject, "-")}}
			if string(got.Payload) != payload || got.Proof != want {
				t.Errorf("%+v", got.Proof)
			}
		})
	}
}

func certsOf(holders ...*holder) []*holder { return holders }

func mustMarshal(t testing.TB, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// All certificates must be valid at one time: these never are.
func TestCertificatesAreValidTogether(t *testing.T) {
	root := ca(t, nil, "root")
	middle := ca(t, root, "intermediate", func(c *x509.Certificate) { c.NotAfter = midYear.Add(-time.Hour) })
	leaf := leafOf(t, middle, func(c *x509.Certificate) { c.NotBefore = midYear.Add(time.Hour) })
	data := signedBy(t, leaf.key, chainMaterial(leaf, middle))
	for _, now := range []time.Time{yearBegins, midYear.Add(-2 * time.Hour), midYear, midYear.Add(2 * time.Hour), yearEnds} {
		if _, err := open(data, certificateVerifier(t, bundle.CertificateOptions{Now: at(now)}, root)); !errors.Is(err, bundle.ErrUntrusted) {
			t.Errorf("at %s: %v", now, err)
		}
	}
}

func TestCertificateVerifiersWithoutAnAnchor(t *testing.T) {
	root := ca(t, nil, "root")
	middle := ca(t, root, "intermediate")
	twin := leafOf(t, middle, func(c *x509.Certificate) { c.Subject = middle.cert.Subject })
	for name, tc := range map[string]struct {
		chain []*x509.Certificate
		o     bundle.CertificateOptions
		says  string
	}{
		"nothing":                          {nil, bundle.CertificateOptions{}, "none of 0 is self-signed"},
		"a missing certificate":            {[]*x509.Certificate{nil}, bundle.CertificateOptions{}, "self-signed"},
		"an intermediate":                  {certs(middle), bundle.CertificateOptions{}, "self-signed"},
		"a leaf with its issuer's name":    {certs(twin), bundle.CertificateOptions{}, "self-signed"},
		"an identity that is a type alone": {certs(root), bundle.CertificateOptions{Identity: "dns:"}, "no identity"},
		"timestamp anchors without a root": {certs(root), bundle.CertificateOptions{TimestampAnchors: certs(middle)}, "timestamp authorities is self-signed"},
		"a missing timestamp anchor":       {certs(root), bundle.CertificateOptions{TimestampAnchors: []*x509.Certificate{nil}}, "self-signed"},
	} {
		if v, err := bundle.NewCertificateVerifier(tc.chain, tc.o); err == nil || v != nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v does not say %q", name, err, tc.says)
		}
	}
}

func TestSignWithACertificate(t *testing.T) {
	now := func(c *x509.Certificate) { // NewCertificateSigner looks at the clock
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	root, other := ca(t, nil, "root", now), ca(t, nil, "other", now)
	upper := ca(t, root, "upper", now)
	middle := ca(t, upper, "intermediate", now)
	for _, kind := range kinds() {
		leaf := leafWith(t, middle, anyKey(t, kind), now)
		for name, chain := range map[string][]*x509.Certificate{
			"in order":              certs(middle, upper),
			"with the root":         certs(middle, upper, root),
			"from the root, twice":  certs(root, upper, middle, root, upper, middle),
			"with the leaf, and so": certs(leaf, middle, upper, root),
		} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				signer, err := bundle.NewCertificateSigner(leaf.key, leaf.cert, chain)
				if err != nil {
					t.Fatal(err)
				}
				bundles, err := signer.Sign(t.Context(), []byte(payload), []byte(`{}`))
				if err != nil {
					t.Fatal(err)
				}
				want := `{"mediaType":"` + bundle.MediaType + `","verificationMaterial":` + chainMaterial(leaf, middle, upper) + `,"dsseEnvelope":{"payload":"`
				if data := string(bundles[0].JSON()); !strings.HasPrefix(data, want) {
					t.Errorf("wrote %s", data)
				}
				key, err := bundle.Fingerprint(leaf.key.Public())
				if err != nil {
					t.Fatal(err)
				}
				proof := bundle.Proof{Signer: bundle.Identity{Method: bundle.MethodCertificate, KeyFingerprint: key, Subject: "release@example.com"}}
				for _, v := range []bundle.Verifier{verifierOf(signer), certificateVerifier(t, bundle.CertificateOptions{Now: time.Now}, root)} {
					got, err := open(bundles[0].JSON(), v)
					if err != nil {
						t.Fatal(err)
					}
					if string(got.Payload) != payload || got.Proof != proof {
						t.Errorf("%s: %+v", v, got.Proof)
					}
				}
				if got, err := open(bundles[1].JSON(), verifierOf(signer)); err != nil || string(got.Payload) != `{}` {
					t.Error(err)
				}
			})
		}
	}

	leaf := leafOf(t, middle, now)
	signer, err := bundle.NewCertificateSigner(leaf.key, leaf.cert, certs(middle, upper))
	if err != nil {
		t.Fatal(err)
	}
	again := leafWith(t, middle, leaf.key, now)
	for name, tc := range map[string]struct {
		material string
		says     string
	}{
		"as it signs":                         {chainMaterial(leaf, middle, upper), ""},
		"with the root":                       {chainMaterial(leaf, upper, middle, root), ""},
		"without an intermediate":             {chainMaterial(leaf, middle), "does not carry"},
		"the leaf alone":                      {singleMaterial(leaf), "does not carry"},
		"another certificate of the same key": {chainMaterial(again, middle, upper), "does not carry"},
		"another one first":                   {chainMaterial(again, leaf, middle, upper), "does not carry"},
		"the key alone":                       {keyMaterial, "takes bundles of method certificate only, not key"},
	} {
		_, err := open(signedBy(t, leaf.key, tc.material), verifierOf(signer))
		if tc.says == "" && err != nil || tc.says != "" && (!errors.Is(err, bundle.ErrUntrusted) || !strings.Contains(err.Error(), tc.says)) {
			t.Errorf("the signer's own verifier, %s: %v does not say %q", name, err, tc.says)
		}
	}

	old := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = yearBegins.AddDate(-2, 0, 0), yearBegins.AddDate(-1, 0, 0)
	}
	oldMiddle := ca(t, upper, "intermediate", now, old)
	long := root
	var chain []*holder
	for range 10 {
		long = ca(t, long, "one of ten", now)
		chain = append(chain, long)
	}
	oldLeaf := leafOf(t, middle, old)
	device := leafOf(t, middle, now, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		key   crypto.Signer
		leaf  *holder
		chain []*holder
		says  string
	}{
		"another key":                    {newKey(t), leaf, certsOf(middle, upper), "not that of the certificate"},
		"another kind of key":            {anyKey(t, "ed25519"), leaf, certsOf(middle, upper), "not that of the certificate"},
		"a key that is not used":         {p224, leafWith(t, middle, p224, now), certsOf(middle, upper), "ECDSA P-224"},
		"no key":                         {nil, leaf, certsOf(middle, upper), "no key"},
		"an expired certificate":         {oldLeaf.key, oldLeaf, certsOf(middle, upper), `"CN=release" expired at 2025-01-01`},
		"an expired intermediate":        {nil, leafOf(t, oldMiddle, now), certsOf(oldMiddle, upper, root), `"CN=intermediate" expired at 2025-01-01`},
		"a device's certificate":         {device.key, device, certsOf(middle, upper), "without codeSigning"},
		"an issuer's certificate":        {middle.key, middle, certsOf(upper), "without digitalSignature"},
		"a chain that does not link":     {leaf.key, leaf, certsOf(upper), "does not link"},
		"a chain with another root":      {leaf.key, leaf, certsOf(middle, upper, other), `does not link: the certificate of "CN=other"`},
		"a chain with a gap":             {leaf.key, leaf, certsOf(middle, root), "does not link"},
		"the root of a chain with a gap": {leaf.key, leaf, certsOf(root), "does not link"},
		"a chain that is too long":       {nil, leafOf(t, long, now), chain, "11 certificates are more than the limit of 10"},
	} {
		key := tc.key
		if key == nil && name != "no key" {
			key = tc.leaf.key
		}
		if s, err := bundle.NewCertificateSigner(key, tc.leaf.cert, certs(tc.chain...)); err == nil || s != nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v does not say %q", name, err, tc.says)
		}
	}
	if _, err := bundle.NewCertificateSigner(leaf.key, nil, nil); err == nil {
		t.Error("signs without a certificate")
	}
	if s, err := bundle.NewCertificateSigner(leaf.key, leaf.cert, nil); err != nil {
		t.Error("a certificate that stands alone:", s, err)
	}
}

func TestParseCertificates(t *testing.T) {
	root, middle, leaf := string(readFile(t, "../testdata/certificate/root.pem")), string(readFile(t, "../testdata/certificate/intermediate.pem")), string(readFile(t, "../testdata/certificate/leaf.pem"))
	key := string(readFile(t, "../testdata/certificate/leaf.key.pem"))
	der := string(leafDER(t))
	for name, tc := range map[string]struct {
		data  string
		count int
		says  string
	}{
		"one":                            {root, 1, ""},
		"three":                          {leaf + middle + root, 3, ""},
		"text around them":               {"subject=CN = leaf\n" + leaf + "\n# the issuer\n" + middle + "bye\n", 2, ""},
		"lines ended as on Windows":      {strings.ReplaceAll(leaf+middle, "\n", "\r\n"), 2, ""},
		"the same twice":                 {root + root, 2, ""},
		"nothing":                        {"", 0, "empty"},
		"blanks":                         {" \n\t", 0, "empty"},
		"text":                           {"hello\n", 0, "not PEM"},
		"DER":                            {der, 0, "DER"},
		"a key":                          {key, 0, "a private key"},
		"a key among them":               {leaf + key + root, 0, "PEM block 2 of 3 is a private key"},
		"a public key":                   {leaf + string(readFile(t, "../testdata/certificate/leaf.pub.pem")), 0, "a public key"},
		"openssl's trusted form":         {strings.ReplaceAll(leaf, " CERTIFICATE", " TRUSTED CERTIFICATE"), 0, `not a plain "CERTIFICATE"`},
		"headers":                        {strings.Replace(leaf, "-----\n", "-----\nX: y\n\n", 1), 0, "not a plain"},
		"a damaged one before a good":    {strings.Replace(leaf, "END", "FIN", 1) + root, 0, "PEM block 1 of 2 is damaged"},
		"a good one before a damaged":    {root + leaf[:len(leaf)-40], 0, "PEM block 2 of 2 is damaged"},
		"the beginning of another":       {root + "-----BEGIN CERTIFICATE-----\n", 0, "damaged"},
		"a certificate that is none":     {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0, "certificate 1 of 1"},
		"bytes behind a certificate":     {repack(t, leaf, func(der []byte) []byte { return append(der, 0) }), 0, "trailing data"},
		"a certificate beyond the limit": {repack(t, leaf, func(der []byte) []byte { return make([]byte, 64<<10+1) }), 0, "limit of 65536"},
		"a file beyond the limit":        {strings.Repeat("#", 1<<20) + root, 0, "limit of 1048576"},
		"too many":                       {strings.Repeat("-----BEGIN X-----\n", 257), 0, "limit of 256"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := bundle.ParseCertificates([]byte(tc.data))
			if tc.says == "" {
				if err != nil || len(got) != tc.count {
					t.Fatalf("%d certificates: %v", len(got), err)
				}
				return
			}
			if err == nil || got != nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v does not say %q", err, tc.says)
			}
		})
	}
	for cut := range len(leaf) - 1 {
		if _, err := bundle.ParseCertificates([]byte(leaf[:cut])); err == nil {
			t.Fatalf("cut at %d: parsed", cut)
		}
	}
}

// The fixtures of the repository, as a user has them.
func TestCertificateFixtures(t *testing.T) {
	parse := func(name string) []*x509.Certificate {
		list, err := bundle.ParseCertificates(readFile(t, "../testdata/certificate", name))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	key, err := bundle.ParsePrivateKey(readFile(t, "../testdata/certificate/leaf.key.pem"), nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := bundle.NewCertificateSigner(key, parse("leaf.pem")[0], parse("intermediate.pem"))
	if err != nil {
		t.Fatal(err)
	}
	bundles, err := signer.Sign(t.Context(), []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	v, err := bundle.NewCertificateVerifier(parse("root.pem"), bundle.CertificateOptions{Identity: "release@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if want := `certificate of "release@example.com" under "CN=modelsig test root,O=modelsig tests"`; v.String() != want {
		t.Errorf("%s, not %s", v, want)
	}
	if got, err := open(bundles[0].JSON(), v); err != nil || got.Signer.Subject != "release@example.com" {
		t.Error(err)
	}
}

// Each method takes its own bundles only, and says what it was given (rule 30).
func TestMethodsAcrossVerifiers(t *testing.T) {
	root := ca(t, nil, "root")
	leaf := leafOf(t, root)
	materials := map[string]string{
		bundle.MethodKey:         keyMaterial,
		bundle.MethodCertificate: chainMaterial(leaf),
		bundle.MethodSigstore:    strings.TrimSuffix(singleMaterial(leaf), "}") + `,"tlogEntries":[{}]}`,
	}
	for given, material := range materials {
		data := signedBy(t, leaf.key, material)
		for taken, v := range map[string]bundle.Verifier{
			bundle.MethodKey:         keyVerifier(t, leaf.key.Public()),
			bundle.MethodCertificate: certificateVerifier(t, bundle.CertificateOptions{}, root),
		} {
			got, err := open(data, v)
			if given == taken {
				if err != nil || got.Signer.Method != given {
					t.Errorf("%s: %v", given, err)
				}
				continue
			}
			want := "takes bundles of method " + taken + " only, not " + given
			if !errors.Is(err, bundle.ErrUntrusted) || !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not say %q", err, want)
			}
		}
	}
}

// The certificates that other OMS tools signed with, as their conformance suite has them: a leaf with its issuer's name, which is a CA and has no name of its own.
func TestCertificateBundlesOfOtherTools(t *testing.T) {
	needOMS(t)
	files, err := filepath.Glob(sharedOMS + "/cases/*/*/config.json")
	if err != nil {
		t.Fatal(err)
	}
	assets := sharedOMS + "/cases/assets/"
	opened := 0
	for _, file := range files {
		var config struct {
			Method string
			Verify struct {
				Chain []string `json:"cert_chain"`
			}
		}
		if err := json.Unmarshal(readFile(t, file), &config); err != nil {
			t.Fatal(err)
		}
		if config.Method != bundle.MethodCertificate {
			continue
		}
		name := filepath.Base(filepath.Dir(file))
		t.Run(name, func(t *testing.T) {
			opened++
			var chain []*x509.Certificate
			for _, path := range config.Verify.Chain {
				list, err := bundle.ParseCertificates(readFile(t, assets, path))
				if err != nil {
					t.Fatal(err)
				}
				chain = append(chain, list...)
			}
			data := readFile(t, filepath.Dir(file), "bundle.sig")
			during := time.Date(2026, time.November, 25, 0, 0, 0, 0, time.UTC) // they end in April 2035
			v, err := bundle.NewCertificateVerifier(chain, bundle.CertificateOptions{Now: at(during)})
			if err != nil {
				t.Fatal(err)
			}
			got, err := open(data, v)
			if err != nil {
				t.Fatal(err)
			}
			key, err := bundle.Fingerprint(publicKey(t, assets+"keys/certificate/signing-key-pub.pem"))
			if err != nil {
				t.Fatal(err)
			}
			want := bundle.Proof{
				Signer: bundle.Identity{Method: bundle.MethodCertificate, KeyFingerprint: key},
				Legacy: strings.Contains(name, "v0.2.0"),
			}
			if got.Proof != want || !json.Valid(got.Payload) {
				t.Errorf("%+v", got.Proof)
			}
			if legacy := bytes.Contains(got.Payload, []byte(`model_signing/Digests/v0.1`)); legacy != want.Legacy {
				t.Errorf("payload %.200s", got.Payload)
			}
			for _, now := range []time.Time{time.Date(2025, time.May, 2, 0, 0, 0, 0, time.UTC), time.Date(2035, time.May, 1, 0, 0, 0, 0, time.UTC)} {
				outside, err := bundle.NewCertificateVerifier(chain, bundle.CertificateOptions{Now: at(now)})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := open(data, outside); !errors.Is(err, bundle.ErrUntrusted) {
					t.Errorf("at %s: %v", now, err)
				}
			}
		})
	}
	if opened != 7 {
		t.Errorf("%d certificate cases, not 7", opened)
	}
}

// An error is one line of bounded length, whatever a certificate says (rules 26, 36).
func TestErrorsQuoteCertificates(t *testing.T) {
	hostile := "\x1b[31m\u202e\n" + strings.Repeat("A", 2000)
	root := ca(t, nil, "root")
	for name, edit := range map[string]func(*x509.Certificate){
		"a subject": func(c *x509.Certificate) {},
		"names": func(c *x509.Certificate) {
			c.EmailAddresses = nil
			for range 100 {
				c.URIs = append(c.URIs, uri(t, "urn:"+strings.Repeat("A", 300)))
			}
		},
		"usage": func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		"time":  func(c *x509.Certificate) { c.NotAfter = yearBegins.Add(time.Hour) },
	} {
		leaf := leafOf(t, root, edit, func(c *x509.Certificate) { c.Subject.CommonName = hostile })
		stranger := leafOf(t, ca(t, nil, hostile), edit, func(c *x509.Certificate) { c.Subject.CommonName = hostile })
		for _, data := range [][]byte{signedBy(t, leaf.key, chainMaterial(leaf)), signedBy(t, stranger.key, chainMaterial(stranger))} {
			_, err := open(data, certificateVerifier(t, bundle.CertificateOptions{Identity: "a@b"}, root))
			if err == nil || len(err.Error()) > 4000 || strings.ContainsAny(err.Error(), "\x1b\u202e\n") {
				t.Errorf("%s: %d bytes: %.500q", name, len(err.Error()), err)
			}
			_, err = open(data, certificateVerifier(t, bundle.CertificateOptions{}, ca(t, nil, "another")))
			if err == nil || len(err.Error()) > 4000 || strings.ContainsAny(err.Error(), "\x1b\u202e\n") {
				t.Errorf("%s: %d bytes: %.500q", name, len(err.Error()), err)
			}
		}
	}
}
