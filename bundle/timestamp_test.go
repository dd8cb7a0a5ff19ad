package bundle_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/pkcs7"
	"github.com/digitorus/timestamp"
	"github.com/modelsig/modelsig/bundle"
)

// An authority is a timestamp authority that keeps to RFC 3161, but for its edits.
type authority struct {
	*holder                     // what it signs with
	root    *holder             // who issued that
	now     time.Time           // what it says the time is
	hash    crypto.Hash         // of imprints that it makes by itself
	chain   []*x509.Certificate // what it sends beside its own certificate
	bare    bool                // sends no certificate
}

// longAfter is when certificates of authorities end: pkcs7 writes our time of signing into each token, and checks that it lies within.
var longAfter = yearEnds.AddDate(100, 0, 0)

// newAuthority makes an authority whose certificate is valid from the year on, but for the edits.
func newAuthority(t testing.TB, now time.Time, edits ...func(*x509.Certificate)) *authority {
	t.Helper()
	root := ca(t, nil, "timestamp root", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = yearBegins.AddDate(-10, 0, 0), longAfter
	})
	return &authority{holder: authorityUnder(t, root, edits...), root: root, now: now, hash: crypto.SHA256}
}

func authorityUnder(t testing.TB, issuer *holder, edits ...func(*x509.Certificate)) *holder {
	t.Helper()
	return authorityWith(t, issuer, newKey(t), edits...)
}

func authorityWith(t testing.TB, issuer *holder, key crypto.Signer, edits ...func(*x509.Certificate)) *holder {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "timestamps"}, NotAfter: longAfter, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{ // RFC 3161 §2.3: critical, which ExtKeyUsage is not
			Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true,
			Value: mustMarshal(t, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}}),
		}},
	}
	for _, edit := range edits {
		edit(template)
	}
	return issue(t, issuer, key, template)
}

// token answers a request.
func (a *authority) token(t testing.TB, imprint []byte, hash crypto.Hash, nonce *big.Int) []byte {
	t.Helper()
	answer := timestamp.Timestamp{
		HashAlgorithm: hash, HashedMessage: imprint, Time: a.now, Nonce: nonce,
		Policy: asn1.ObjectIdentifier{1, 2, 3, 4}, AddTSACertificate: !a.bare, Certificates: a.chain,
	}
	der, err := answer.CreateResponseWithOpts(a.cert, a.key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// over makes a token over a signature.
func (a *authority) over(t testing.TB, signature []byte) []byte {
	t.Helper()
	h := a.hash.New()
	h.Write(signature)
	return a.token(t, h.Sum(nil), a.hash, nil)
}

func (a *authority) ServeHTTP(t testing.TB, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
		return
	}
	q, err := timestamp.ParseRequest(body)
	if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/timestamp-query" || !q.Certificates || q.Nonce == nil || q.HashAlgorithm != crypto.SHA256 {
		t.Errorf("%s of %q with %+v: %v", r.Method, r.Header.Get("Content-Type"), q, err)
		return
	}
	w.Header().Set("Content-Type", "application/timestamp-reply")
	w.Write(a.token(t, q.HashedMessage, q.HashAlgorithm, q.Nonce))
}

func serve(t testing.TB, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// withTokens adds tokens to a bundle's material.
func withTokens(t testing.TB, data []byte, tokens ...[]byte) []byte {
	t.Helper()
	var list []string
	for _, token := range tokens {
		list = append(list, `{"signedTimestamp":"`+base64.StdEncoding.EncodeToString(token)+`"}`)
	}
	const old = `"verificationMaterial":{`
	if bytes.Count(data, []byte(old)) != 1 {
		t.Fatal("no place for the tokens")
	}
	return bytes.Replace(data, []byte(old), []byte(old+`"timestampVerificationData":{"rfc3161Timestamps":[`+strings.Join(list, ",")+`]},`), 1)
}

func signatureOf(t testing.TB, data []byte) []byte {
	t.Helper()
	var b struct {
		Envelope struct{ Signatures []struct{ Sig []byte } } `json:"dsseEnvelope"`
	}
	if err := json.Unmarshal(data, &b); err != nil {
		t.Fatal(err)
	}
	return b.Envelope.Signatures[0].Sig
}

// resigned is what token says, signed by way of another hash.
func resigned(t testing.TB, a *authority, token []byte, digest asn1.ObjectIdentifier) []byte {
	t.Helper()
	old, err := timestamp.ParseResponse(token)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := pkcs7.Parse(old.RawToken)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := pkcs7.NewSignedData(parsed.Content)
	if err != nil {
		t.Fatal(err)
	}
	signed.SetDigestAlgorithm(digest)
	signed.SetContentType(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 4})
	if err := signed.AddSigner(a.cert, a.key, pkcs7.SignerInfoConfig{}); err != nil {
		t.Fatal(err)
	}
	der, err := signed.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return mustMarshal(t, struct{ Status, Token asn1.RawValue }{
		asn1.RawValue{FullBytes: mustMarshal(t, struct{ Status int }{0})}, asn1.RawValue{FullBytes: der}})
}

// Rule 25: token × anchors × expiry.
func TestTimestamps(t *testing.T) {
	root := ca(t, nil, "root", func(c *x509.Certificate) { c.NotAfter = yearEnds.AddDate(10, 0, 0) })
	leaf := leafOf(t, root) // until the end of 2026
	data := signedBy(t, leaf.key, chainMaterial(leaf))
	signature := signatureOf(t, data)
	later := yearEnds.AddDate(2, 0, 0)

	tsa := newAuthority(t, midYear)
	stranger := newAuthority(t, midYear)
	before, after := *tsa, *tsa
	before.now, after.now = yearBegins.Add(-time.Second), yearEnds.Add(time.Second)
	// These two are valid at any time, so it is the signer's certificate alone that decides.
	always := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = yearBegins.AddDate(-1, 0, 0), longAfter
	}
	before.holder, after.holder = authorityUnder(t, tsa.root, always), authorityUnder(t, tsa.root, always)
	early := *tsa
	early.now = midYear.AddDate(0, -1, 0)
	with := func(edits ...func(*x509.Certificate)) *authority {
		a := *tsa
		a.holder = authorityUnder(t, tsa.root, edits...)
		return &a
	}
	expired := with(func(c *x509.Certificate) { c.NotAfter = midYear.Add(-time.Second) })
	future := with(func(c *x509.Certificate) { c.NotBefore = midYear.Add(time.Second) })
	usages := func(critical bool, ids ...asn1.ObjectIdentifier) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.ExtraExtensions[0].Critical, c.ExtraExtensions[0].Value = critical, mustMarshal(t, ids)
		}
	}
	stamping, codeSigning := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 8}, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 3}
	uncritical, twoUsages, code := with(usages(false, stamping)), with(usages(true, stamping, codeSigning)), with(usages(true, codeSigning))
	anyUsage := with(func(c *x509.Certificate) { c.ExtraExtensions = nil })
	caCert := with(func(c *x509.Certificate) { c.IsCA = true })
	middle := ca(t, tsa.root, "timestamp intermediate")
	below, belowChained := *tsa, *tsa
	below.holder = authorityUnder(t, middle)
	belowChained.holder, belowChained.chain = below.holder, certs(middle)
	bare := *tsa
	bare.bare = true
	sha512 := *tsa
	sha512.hash = crypto.SHA512
	ofLeaf := *tsa // the signer stamps by itself: same anchors as for signatures
	ofLeaf.holder = leaf

	forKeys := with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })
	forKeysBare := *forKeys
	forKeysBare.bare = true
	committing := with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageContentCommitment })
	rsaKey := with()
	rsaKey.holder = authorityWith(t, tsa.root, anyKey(t, "rsa2048"))

	good := tsa.over(t, signature)
	otherSignature := tsa.over(t, append(slices.Clone(signature), 0))
	flipped := slices.Clone(good)
	flipped[len(flipped)-20] ^= 1
	rejected, err := timestamp.CreateErrorResponse(timestamp.Rejection, timestamp.BadRequest)
	if err != nil {
		t.Fatal(err)
	}
	many := [][]byte{}
	for range 32 {
		many = append(many, []byte("x"))
	}
	deep := []byte{}
	for range 10_000 {
		deep = append(mustMarshal(t, asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: deep[:min(len(deep), 60_000)]}), []byte{}...)
	}
	deepToken := mustMarshal(t, struct{ Status, Token asn1.RawValue }{
		asn1.RawValue{FullBytes: mustMarshal(t, struct{ Status int }{0})}, asn1.RawValue{FullBytes: deep}})

	anchors := func(list ...*holder) []*holder { return list }
	for _, tc := range []struct {
		name    string
		tokens  [][]byte
		anchors []*holder
		now     time.Time
		time    time.Time // proved; zero: none
		says    string    // empty: accepted
	}{
		{"no token, valid now", nil, anchors(tsa.root), midYear, time.Time{}, ""},
		{"no token, expired", nil, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"a token, expired", [][]byte{good}, anchors(tsa.root), later, midYear, ""},
		{"a token, valid now", [][]byte{good}, anchors(tsa.root), midYear.AddDate(0, 1, 0), midYear, ""},
		{"a token, the signer's certificate of the future by our clock", [][]byte{good}, anchors(tsa.root), yearBegins.AddDate(-1, 0, 0), midYear, ""},
		{"a token and no anchors, valid now", [][]byte{good}, nil, midYear, time.Time{}, ""},
		{"a token and no anchors, expired", [][]byte{good}, nil, later, time.Time{}, "expired at"},
		{"a token of another authority, valid now", [][]byte{stranger.over(t, signature)}, anchors(tsa.root), midYear, time.Time{}, ""},
		{"a token of another authority, expired", [][]byte{stranger.over(t, signature)}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"a token of another authority beside a good one", [][]byte{stranger.over(t, signature), good}, anchors(tsa.root), later, midYear, ""},
		{"a token of one of two authorities", [][]byte{good}, anchors(stranger.root, tsa.root), later, midYear, ""},
		{"tokens of both, the earlier counts", [][]byte{good, early.over(t, signature)}, anchors(tsa.root), later, early.now, ""},
		{"the same token twice", [][]byte{good, good}, anchors(tsa.root), later, midYear, ""},
		{"a token over another signature, valid now", [][]byte{otherSignature}, anchors(tsa.root), midYear, time.Time{}, ""},
		{"a token over another signature, expired", [][]byte{otherSignature}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"a token over the payload, expired", [][]byte{tsa.over(t, []byte(payload))}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"a token of after the end, expired", [][]byte{after.over(t, signature)}, anchors(tsa.root), later, time.Time{}, "at the time of its timestamp: the certificate of"},
		{"a token of before the beginning, expired", [][]byte{before.over(t, signature)}, anchors(tsa.root), later, time.Time{}, "is not valid before"},
		{"a token of before the beginning, valid now", [][]byte{before.over(t, signature)}, anchors(tsa.root), midYear, time.Time{}, ""},
		{"a token of before the beginning beside a good one", [][]byte{before.over(t, signature), good}, anchors(tsa.root), later, midYear, ""},
		{"an authority whose certificate had expired", [][]byte{expired.over(t, signature)}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"an authority whose certificate was not valid yet", [][]byte{future.over(t, signature)}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"an authority whose usage is not critical", [][]byte{uncritical.over(t, signature)}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"an authority for other things too", [][]byte{twoUsages.over(t, signature)}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"an authority that is for code", [][]byte{code.over(t, signature)}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"an authority without usage", [][]byte{anyUsage.over(t, signature)}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"an authority that is a CA", [][]byte{caCert.over(t, signature)}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"an authority whose key is not for signatures", [][]byte{forKeys.over(t, signature)}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"an authority whose key is not for signatures, and the verifier has it", [][]byte{forKeysBare.over(t, signature)}, anchors(tsa.root, forKeys.holder), later, time.Time{}, "expired at"},
		{"an authority whose key commits", [][]byte{committing.over(t, signature)}, anchors(tsa.root), later, midYear, ""},
		{"an authority that signs with RSA", [][]byte{rsaKey.over(t, signature)}, anchors(tsa.root), later, midYear, ""},
		{"a token signed by way of SHA-256", [][]byte{resigned(t, rsaKey, good, pkcs7.OIDDigestAlgorithmSHA256)}, anchors(tsa.root), later, midYear, ""},
		{"a token signed by way of SHA-1", [][]byte{resigned(t, rsaKey, good, pkcs7.OIDDigestAlgorithmSHA1)}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"a token signed by way of SHA-1, with ECDSA", [][]byte{resigned(t, tsa, good, pkcs7.OIDDigestAlgorithmSHA1)}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"the signer as its own authority", [][]byte{ofLeaf.over(t, signature)}, anchors(root), later, time.Time{}, "expired at"},
		{"an intermediate from the verifier", [][]byte{below.over(t, signature)}, anchors(tsa.root, middle), later, midYear, ""},
		{"an intermediate from the token", [][]byte{belowChained.over(t, signature)}, anchors(tsa.root), later, midYear, ""},
		{"no intermediate", [][]byte{below.over(t, signature)}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"an intermediate is no anchor", [][]byte{below.over(t, signature)}, anchors(stranger.root, middle), later, time.Time{}, "expired at"},
		{"a token without certificate, which the verifier has", [][]byte{bare.over(t, signature)}, anchors(tsa.root, tsa.holder), later, midYear, ""},
		{"a token without certificate, which nobody has", [][]byte{bare.over(t, signature)}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"a token without certificate, and another authority's", [][]byte{bare.over(t, signature)}, anchors(tsa.root, stranger.root, stranger.holder), later, time.Time{}, "expired at"},
		{"SHA-512", [][]byte{sha512.over(t, signature)}, anchors(tsa.root), later, midYear, ""},
		{"a damaged token", [][]byte{flipped}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"a cut token", [][]byte{good[:len(good)-1]}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"bytes behind a token", [][]byte{append(slices.Clone(good), 0)}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"a refusal", [][]byte{rejected}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"no token but bytes", [][]byte{{}, []byte("x")}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"a token of ten thousand levels", [][]byte{deepToken}, anchors(tsa.root), later, time.Time{}, "expired at"},
		{"a token beyond the limit", [][]byte{make([]byte, 64<<10+1), good}, anchors(tsa.root), later, midYear, ""},
		{"a token behind 31 that are none", append(slices.Clone(many[:31]), good), anchors(tsa.root), later, midYear, ""},
		{"a token behind 32 that are none", append(slices.Clone(many), good), anchors(tsa.root), later, time.Time{}, "expired at"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := certificateVerifier(t, bundle.CertificateOptions{TimestampAnchors: certs(tc.anchors...), Now: at(tc.now)}, root)
			b := data
			if tc.tokens != nil {
				b = withTokens(t, data, tc.tokens...)
			}
			got, err := open(b, v)
			if tc.says != "" {
				if !errors.Is(err, bundle.ErrUntrusted) || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("%v does not say %q", err, tc.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			source := bundle.TimeTimestamp
			if tc.time.IsZero() {
				source = ""
			}
			if !got.Time.Equal(tc.time) || got.TimeSource != source || got.Signer.Subject != "release@example.com" {
				t.Errorf("%+v", got.Proof)
			}
		})
	}
}

// A key has no end, so a token decides nothing, but proves when.
func TestTimestampsOfKeys(t *testing.T) {
	tsa, stranger := newAuthority(t, midYear), newAuthority(t, midYear)
	data := []byte(signed(t, payload))
	good, foreign := tsa.over(t, signatureOf(t, data)), stranger.over(t, signatureOf(t, data))
	plain := keyVerifier(t, privateKey(t, "p256").Public())
	v, err := bundle.WithTimestampAnchors(plain, certs(tsa.root))
	if err != nil {
		t.Fatal(err)
	}
	if v.String() != plain.String() {
		t.Error(v)
	}
	for name, tc := range map[string]struct {
		data []byte
		v    bundle.Verifier
		time time.Time
	}{
		"no token":            {data, v, time.Time{}},
		"a token":             {withTokens(t, data, foreign, good), v, midYear},
		"a foreign token":     {withTokens(t, data, foreign), v, time.Time{}},
		"a token, no anchors": {withTokens(t, data, good), plain, time.Time{}},
	} {
		got, err := open(tc.data, tc.v)
		if err != nil || !got.Time.Equal(tc.time) || (got.TimeSource == "") != tc.time.IsZero() {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	other, err := bundle.WithTimestampAnchors(keyVerifier(t, privateKey(t, "p384").Public()), certs(tsa.root))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(withTokens(t, data, good), other); !errors.Is(err, bundle.ErrUntrusted) {
		t.Error("a token opens another key's bundle:", err)
	}
	if _, err := bundle.WithTimestampAnchors(plain, certs(tsa.holder)); err == nil {
		t.Error("anchors without a root")
	}
	if _, err := bundle.WithTimestampAnchors(nil, certs(tsa.root)); err == nil {
		t.Error("no verifier")
	}
}

func TestSignWithTimestamps(t *testing.T) {
	valid := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	root := ca(t, nil, "root", valid)
	leaf := leafOf(t, root, valid)
	byCertificate, err := bundle.NewCertificateSigner(leaf.key, leaf.cert, nil)
	if err != nil {
		t.Fatal(err)
	}
	byKey, err := bundle.NewKeySigner(privateKey(t, "p384"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	tsa := newAuthority(t, now, valid)
	requests := 0
	server := serve(t, func(w http.ResponseWriter, r *http.Request) { requests++; tsa.ServeHTTP(t, w, r) })
	later := at(now.AddDate(1, 0, 0))
	keyAt, err := bundle.WithTimestampAnchors(verifierOf(byKey), certs(tsa.root))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		signer   bundle.Signer
		verifier bundle.Verifier
	}{
		"a key":         {byKey, keyAt},
		"a certificate": {byCertificate, certificateVerifier(t, bundle.CertificateOptions{TimestampAnchors: certs(tsa.root), Now: later}, root)},
	} {
		t.Run(name, func(t *testing.T) {
			requests = 0
			s, err := bundle.WithTimestamps(tc.signer, server.Client(), server.URL+"/api/v1/timestamp")
			if err != nil {
				t.Fatal(err)
			}
			if verifierOf(s).String() != verifierOf(tc.signer).String() {
				t.Error(verifierOf(s))
			}
			bundles, err := s.Sign(t.Context(), []byte(payload), []byte(`{}`))
			if err != nil || len(bundles) != 2 || requests != 2 {
				t.Fatalf("%d bundles, %d requests: %v", len(bundles), requests, err)
			}
			for i, want := range []string{payload, `{}`} {
				got, err := open(bundles[i].JSON(), tc.verifier)
				if err != nil {
					t.Fatal(err)
				}
				if string(got.Payload) != want || !got.Time.Equal(now) || got.TimeSource != bundle.TimeTimestamp {
					t.Errorf("%+v", got)
				}
				if _, err := open(bundles[i].JSON(), verifierOf(s)); err != nil {
					t.Error("the signer's own verifier:", err)
				}
			}
			again, err := bundle.WithTimestamps(s, server.Client(), server.URL)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := again.Sign(t.Context(), []byte(payload)); err == nil || b != nil {
				t.Error("stamped twice")
			}
			if tc.verifier != keyAt { // a key's bundle does without the time that a changed token no longer proves
				everyByte(t, bundles[1].JSON(), tc.verifier, 0x01, 0x20)
			}
		})
	}
}

// An authority that fails, lies or talks of something else: no bundle.
func TestSignWithTimestampsRefuses(t *testing.T) {
	tsa := newAuthority(t, midYear)
	bare := *tsa
	bare.bare = true
	byKey, err := bundle.NewKeySigner(privateKey(t, "p256"))
	if err != nil {
		t.Fatal(err)
	}
	hostile := "\x1b[31m" + strings.Repeat("A", 5000)
	reply := func(make func(q *timestamp.Request) []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			q, err := timestamp.ParseRequest(body)
			if err != nil {
				t.Error(err)
				return
			}
			w.Write(make(q))
		}
	}
	other := sha256.Sum256([]byte("another signature"))
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		says    string
	}{
		"another signature": {reply(func(q *timestamp.Request) []byte { return tsa.token(t, other[:], crypto.SHA256, q.Nonce) }), "not over this signature"},
		"another hash": {reply(func(q *timestamp.Request) []byte {
			return tsa.token(t, bytes.Repeat([]byte{1}, 64), crypto.SHA512, q.Nonce)
		}), "not over this signature"},
		"another nonce": {reply(func(q *timestamp.Request) []byte {
			return tsa.token(t, q.HashedMessage, q.HashAlgorithm, big.NewInt(1))
		}), "nonce"},
		"no nonce":       {reply(func(q *timestamp.Request) []byte { return tsa.token(t, q.HashedMessage, q.HashAlgorithm, nil) }), "nonce"},
		"no certificate": {reply(func(q *timestamp.Request) []byte { return bare.token(t, q.HashedMessage, q.HashAlgorithm, q.Nonce) }), "without the authority's certificate"},
		"a damaged token": {reply(func(q *timestamp.Request) []byte {
			token := tsa.token(t, q.HashedMessage, q.HashAlgorithm, q.Nonce)
			token[len(token)-20] ^= 1
			return token
		}), "no token"},
		"a cut token": {reply(func(q *timestamp.Request) []byte {
			token := tsa.token(t, q.HashedMessage, q.HashAlgorithm, q.Nonce)
			return token[:len(token)-1]
		}), "no token"},
		"a refusal": {reply(func(*timestamp.Request) []byte {
			der, err := timestamp.CreateErrorResponse(timestamp.Rejection, timestamp.BadAlgorithm)
			if err != nil {
				t.Error(err)
			}
			return der
		}), "the request is rejected"},
		"nothing":   {reply(func(*timestamp.Request) []byte { return nil }), "no token"},
		"a page":    {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>"+hostile) }, `of type "text/html; charset=utf-8", is no token`},
		"too much":  {func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1<<20)) }, "longer than the limit of 65536 bytes"},
		"an error":  {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, hostile, http.StatusInternalServerError) }, "status 500"},
		"throttled": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }, "status 429"},
		"half": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "half")
		}, "read the answer"},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, tc.handler)
			s, err := bundle.WithTimestamps(byKey, server.Client(), strings.Replace(server.URL, "://", "://user:secret@", 1))
			if err != nil {
				t.Fatal(err)
			}
			b, err := s.Sign(t.Context(), []byte(payload))
			if err == nil || b != nil || !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("%v does not say %q", err, tc.says)
			}
			if len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\x1b\n") || strings.Contains(err.Error(), "secret") {
				t.Errorf("%q", err)
			}
		})
	}

	server := serve(t, func(http.ResponseWriter, *http.Request) {})
	server.Close()
	s, err := bundle.WithTimestamps(byKey, server.Client(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := s.Sign(t.Context(), []byte(payload)); err == nil || b != nil {
		t.Error("nobody there:", err)
	}
	waiting, cancel := context.WithCancel(t.Context())
	hangs := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // only then a server notices that its client is gone
		cancel()
		<-r.Context().Done()
	})
	s, err = bundle.WithTimestamps(byKey, hangs.Client(), hangs.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sign(waiting, []byte(payload)); !errors.Is(err, context.Canceled) {
		t.Error("cancelled:", err)
	}
	if _, err := s.Sign(t.Context(), nil); err == nil {
		t.Error("signed an empty payload")
	}
	for _, address := range []string{"", "timestamp.example.com", "ftp://example.com", "http://", "http://user:secret@[::1", "file:///etc/passwd"} {
		if s, err := bundle.WithTimestamps(byKey, http.DefaultClient, address); err == nil || s != nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", address, err)
		}
	}
	if _, err := bundle.WithTimestamps(nil, http.DefaultClient, server.URL); err == nil {
		t.Error("no signer")
	}
	if _, err := bundle.WithTimestamps(byKey, nil, server.URL); err == nil {
		t.Error("no client")
	}
}
