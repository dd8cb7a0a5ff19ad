package bundle_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/modelsig/modelsig/bundle"
)

// A fakeSigstore is a whole Sigstore in memory: Fulcio, a certificate log, a transparency log and a timestamp authority. It obeys the protocols;
// attacks are edits of what it is asked to sign, or of what it signed.
type fakeSigstore struct {
	t                  testing.TB
	root, intermediate *x509.Certificate // of Fulcio
	tsa                *x509.Certificate // under root
	caKey, tsaKey      *ecdsa.PrivateKey
	ctKey, rekorKey    *ecdsa.PrivateKey
}

// Everything of a fakeSigstore was valid from before moment, when its signatures are made; the certificates of signers have long ended.
var (
	begin  = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	moment = time.Date(2024, 2, 3, 4, 5, 6, 0, time.UTC)
	end    = time.Date(2124, 1, 1, 0, 0, 0, 0, time.UTC)
)

const (
	fakeSubject = "alice@example.com"
	fakeIssuer  = "https://accounts.example.com"
	fakeHost    = "rekor.example.com"
	fakeTree    = fakeHost + " - 1193050959916656506" // as Rekor v1 names itself in checkpoints
)

var (
	oidIssuer  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}
	oidSCTList = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
	oidEKU     = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidStamp   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 8}
)

func newFakeSigstore(t testing.TB) *fakeSigstore {
	t.Helper()
	s := &fakeSigstore{t: t, caKey: newSigstoreKey(t), tsaKey: newSigstoreKey(t), ctKey: newSigstoreKey(t), rekorKey: newSigstoreKey(t)}
	rootKey := newSigstoreKey(t)
	authority := func(name string, usage ...x509.ExtKeyUsage) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: begin, NotAfter: end,
			KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: usage, BasicConstraintsValid: true, IsCA: true,
		}
	}
	root := authority("root")
	s.root = s.certificate(root, root, rootKey.Public(), rootKey)
	s.intermediate = s.certificate(authority("intermediate", x509.ExtKeyUsageCodeSigning), s.root, s.caKey.Public(), rootKey)
	s.tsa = s.certificate(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "tsa"}, NotBefore: begin, NotAfter: end, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: oidEKU, Critical: true, Value: s.der([]asn1.ObjectIdentifier{oidStamp})}}, // RFC 3161 §2.3
	}, s.root, s.tsaKey.Public(), rootKey)
	return s
}

func newSigstoreKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (s *fakeSigstore) certificate(template, parent *x509.Certificate, public crypto.PublicKey, key *ecdsa.PrivateKey) *x509.Certificate {
	s.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *fakeSigstore) der(v any) []byte {
	s.t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		s.t.Fatal(err)
	}
	return der
}

func (s *fakeSigstore) json(v any) []byte {
	s.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		s.t.Fatal(err)
	}
	return data
}

func (s *fakeSigstore) pkix(key crypto.PublicKey) []byte {
	s.t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	return der
}

func (s *fakeSigstore) logID(key *ecdsa.PrivateKey) []byte {
	id := sha256.Sum256(s.pkix(key.Public()))
	return id[:]
}

// object is JSON with the names in order, as the canonical form of RFC 8785 has them.
type object = map[string]any

// trustedRoot is the JSON of everybody's keys. An edit changes its members.
func (s *fakeSigstore) trustedRoot(edit func(root object)) []byte {
	log := func(key *ecdsa.PrivateKey) object {
		return object{
			"baseUrl": "https://" + fakeHost, "hashAlgorithm": "SHA2_256", "logId": object{"keyId": s.logID(key)},
			"publicKey": object{"rawBytes": s.pkix(key.Public()), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": object{"start": begin}},
		}
	}
	authority := func(chain ...*x509.Certificate) object {
		var list []object
		for _, c := range chain {
			list = append(list, object{"rawBytes": c.Raw})
		}
		return object{"uri": "https://ca.example.com", "certChain": object{"certificates": list}, "validFor": object{"start": begin}}
	}
	root := object{
		"mediaType":              "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
		"tlogs":                  []object{log(s.rekorKey)},
		"ctlogs":                 []object{log(s.ctKey)},
		"certificateAuthorities": []object{authority(s.intermediate, s.root)},
		"timestampAuthorities":   []object{authority(s.tsa, s.root)},
	}
	if edit != nil {
		edit(root)
	}
	return s.json(root)
}

// verifier accepts fakeSubject, by the root as edited.
func (s *fakeSigstore) verifier(edit func(root object)) bundle.Verifier {
	s.t.Helper()
	root, err := bundle.ParseTrustedRoot(s.trustedRoot(edit))
	if err != nil {
		s.t.Fatal(err)
	}
	v, err := bundle.NewSigstoreVerifier(root, bundle.SigstoreIdentity{Subject: fakeSubject, Issuer: fakeIssuer})
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// An order says what to sign, and who does it. A test changes one field of newOrder's.
type order struct {
	subject, issuer           string // an address, or a URI with "://"
	payload, payloadType      string
	from                      time.Time                    // the certificate's begin; it lasts ten minutes
	logged, stamped           time.Time                    // zero: no promise, no token
	v2                        bool                         // an entry as Rekor v2 writes it
	template                  func(leaf *x509.Certificate) // edits the certificate before it is signed
	sct                       bool
	fulcio, ctlog, rekor, tsa *fakeSigstore
	key                       *ecdsa.PrivateKey
	hash                      crypto.Hash // that goes with key
}

func (s *fakeSigstore) newOrder() *order {
	return &order{
		subject: fakeSubject, issuer: fakeIssuer, payload: payload, payloadType: bundle.PayloadType,
		from: moment, logged: moment.Add(2 * time.Minute), sct: true,
		fulcio: s, ctlog: s, rekor: s, tsa: s, key: newSigstoreKey(s.t), hash: crypto.SHA256,
	}
}

// fakeBundle is a bundle's JSON, for edits.
type fakeBundle struct {
	MediaType string        `json:"mediaType"`
	Material  fakeMaterial  `json:"verificationMaterial"`
	Envelope  *fakeEnvelope `json:"dsseEnvelope,omitempty"`
	Message   object        `json:"messageSignature,omitempty"`
}

type fakeMaterial struct {
	Certificate *fakeRaw     `json:"certificate,omitempty"`
	Chain       object       `json:"x509CertificateChain,omitempty"`
	PublicKey   object       `json:"publicKey,omitempty"`
	Entries     []*fakeEntry `json:"tlogEntries,omitempty"`
	Timestamps  struct {
		Tokens []fakeToken `json:"rfc3161Timestamps,omitempty"`
	} `json:"timestampVerificationData"`
}

type fakeRaw struct {
	RawBytes []byte `json:"rawBytes"`
}

type fakeToken struct {
	Token []byte `json:"signedTimestamp"`
}

type fakeEnvelope struct {
	Payload     []byte    `json:"payload"`
	PayloadType string    `json:"payloadType"`
	Signatures  []fakeSig `json:"signatures"`
}

type fakeSig struct {
	Sig []byte `json:"sig"`
}

type fakeEntry struct {
	LogIndex       string       `json:"logIndex"`
	LogID          object       `json:"logId"`
	KindVersion    object       `json:"kindVersion"`
	IntegratedTime string       `json:"integratedTime"`
	Promise        *fakePromise `json:"inclusionPromise,omitempty"`
	Proof          *fakeProof   `json:"inclusionProof,omitempty"`
	Body           []byte       `json:"canonicalizedBody"`
}

type fakePromise struct {
	SET []byte `json:"signedEntryTimestamp"`
}

type fakeProof struct {
	LogIndex   string   `json:"logIndex"`
	RootHash   []byte   `json:"rootHash"`
	TreeSize   string   `json:"treeSize"`
	Hashes     [][]byte `json:"hashes"`
	Checkpoint struct {
		Envelope string `json:"envelope"`
	} `json:"checkpoint"`
}

// sign makes the bundle that o asks for.
func (o *order) sign() *fakeBundle {
	s := o.fulcio
	leaf := o.leaf()
	sig := signDER(s.t, o.key, o.hash, pae(o.payloadType, o.payload))
	b := &fakeBundle{
		MediaType: bundle.MediaType,
		Envelope:  &fakeEnvelope{Payload: []byte(o.payload), PayloadType: o.payloadType, Signatures: []fakeSig{{sig}}},
	}
	b.Material.Certificate = &fakeRaw{leaf.Raw}
	b.Material.Entries = []*fakeEntry{o.entry(leaf, sig)}
	if !o.stamped.IsZero() {
		b.Material.Timestamps.Tokens = []fakeToken{{o.tsa.token(sig, o.stamped)}}
	}
	return b
}

// leaf is a certificate as Fulcio issues it: signed once without and once with the certificate log's timestamp.
func (o *order) leaf() *x509.Certificate {
	s := o.fulcio
	template := &x509.Certificate{
		SerialNumber: big.NewInt(o.from.UnixNano()), NotBefore: o.from, NotAfter: o.from.Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	if u, err := url.Parse(o.subject); err == nil && u.Scheme != "" {
		template.URIs = []*url.URL{u}
	} else {
		template.EmailAddresses = []string{o.subject}
	}
	if o.issuer != "" {
		template.ExtraExtensions = []pkix.Extension{{Id: oidIssuer, Value: s.der(o.issuer)}}
	}
	if o.template != nil {
		o.template(template)
	}
	leaf := s.certificate(template, s.intermediate, o.key.Public(), s.caKey)
	if !o.sct {
		return leaf
	}
	template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: oidSCTList, Value: s.der(o.ctlog.sctList(leaf, s.intermediate, o.from))})
	return s.certificate(template, s.intermediate, o.key.Public(), s.caKey)
}

// sctList is a list of one signed certificate timestamp (RFC 6962 §3.2, §3.3).
func (s *fakeSigstore) sctList(precert, issuer *x509.Certificate, at time.Time) []byte {
	millis := binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli()))
	issuerKey := sha256.Sum256(issuer.RawSubjectPublicKeyInfo)
	tbs := precert.RawTBSCertificate

	message := append([]byte{0, 0}, millis...)      // v1, certificate_timestamp
	message = append(message, 0, 1)                 // precert_entry
	message = append(message, issuerKey[:]...)      //
	message = append(message, byte(len(tbs)>>16))   // a length of 24 bits
	message = be16(message, len(tbs)&0xffff)        //
	message = append(append(message, tbs...), 0, 0) // no extensions
	sig := signDER(s.t, s.ctKey, crypto.SHA256, string(message))

	sct := append([]byte{0}, s.logID(s.ctKey)...)
	sct = append(append(sct, millis...), 0, 0)
	sct = append(be16(append(sct, 4, 3), len(sig)), sig...) // SHA-256, ECDSA
	return append(be16(be16(nil, len(sct)+2), len(sct)), sct...)
}

func be16(b []byte, n int) []byte { return binary.BigEndian.AppendUint16(b, uint16(n)) }

// token is the answer of the timestamp authority.
func (s *fakeSigstore) token(sig []byte, at time.Time) []byte {
	s.t.Helper()
	imprint := sha256.Sum256(sig)
	ts := timestamp.Timestamp{
		HashAlgorithm: crypto.SHA256, HashedMessage: imprint[:], Time: at,
		Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, AddTSACertificate: true,
	}
	token, err := ts.CreateResponseWithOpts(s.tsa, s.tsaKey, crypto.SHA256)
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// entry logs a signature: in a tree of two entries, the other of which is nobody's.
func (o *order) entry(leaf *x509.Certificate, sig []byte) *fakeEntry {
	s := o.rekor
	if o.v2 {
		digest := sha256.Sum256([]byte(pae(o.payloadType, o.payload)))
		return s.log(s.json(object{"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": object{"hashedRekordV002": object{
			"data": object{"algorithm": "SHA2_256", "digest": digest[:]},
			"signature": object{"content": sig, "verifier": object{
				"keyDetails": "PKIX_ECDSA_P256_SHA_256", "x509Certificate": object{"rawBytes": leaf.Raw},
			}},
		}}}), "hashedrekord", "0.0.2", fakeHost, time.Time{})
	}
	hash := func(data []byte) object {
		sum := sha256.Sum256(data)
		return object{"algorithm": "sha256", "value": hex.EncodeToString(sum[:])}
	}
	return s.log(s.json(object{"apiVersion": "0.0.1", "kind": "dsse", "spec": object{
		"envelopeHash": hash([]byte("the envelope's JSON, which nobody checks")),
		"payloadHash":  hash([]byte(o.payload)),
		"signatures": []object{{
			"signature": base64.StdEncoding.EncodeToString(sig),
			"verifier":  certificatePEM(leaf.Raw),
		}},
	}}), "dsse", "0.0.1", fakeTree, o.logged)
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// log writes a body into the log, with a promise unless logged is zero.
func (s *fakeSigstore) log(body []byte, kind, version, origin string, logged time.Time) *fakeEntry {
	leaf, other := hashLeaf(body), hashLeaf([]byte("other"))
	e := &fakeEntry{
		LogIndex: "0", LogID: object{"keyId": s.logID(s.rekorKey)}, KindVersion: object{"kind": kind, "version": version}, IntegratedTime: "0",
		Proof: &fakeProof{LogIndex: "0", TreeSize: "2", Hashes: [][]byte{other}, RootHash: hashNode(leaf, other)},
		Body:  body,
	}
	e.Proof.Checkpoint.Envelope = s.checkpoint(origin, 2, e.Proof.RootHash)
	if !logged.IsZero() {
		e.IntegratedTime = strconv.FormatInt(logged.Unix(), 10)
		e.Promise = &fakePromise{signDER(s.t, s.rekorKey, crypto.SHA256, string(s.json(object{
			"body": body, "integratedTime": logged.Unix(), "logIndex": 0, "logID": hex.EncodeToString(s.logID(s.rekorKey)),
		})))}
	}
	return e
}

// checkpoint is a signed note (c2sp.org/tlog-checkpoint), as either Rekor writes it.
func (s *fakeSigstore) checkpoint(origin string, size int, root []byte) string {
	text := fmt.Sprintf("%s\n%d\n%s\n", origin, size, base64.StdEncoding.EncodeToString(root))
	sig := append(s.logID(s.rekorKey)[:4:4], signDER(s.t, s.rekorKey, crypto.SHA256, text)...)
	return fmt.Sprintf("%s\n— %s %s\n", text, fakeHost, base64.StdEncoding.EncodeToString(sig))
}

// hashLeaf and hashNode are those of RFC 6962 §2.1.
func hashLeaf(data []byte) []byte {
	sum := sha256.Sum256(append([]byte{0}, data...))
	return sum[:]
}

func hashNode(left, right []byte) []byte {
	sum := sha256.Sum256(append(append([]byte{1}, left...), right...))
	return sum[:]
}
