package fakesigstore

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
	"math/bits"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/transparency-dev/merkle/rfc6962"
)

// A Sigstore is a whole one in memory: Fulcio, a certificate log, a transparency log and a timestamp authority. It obeys the protocols;
// attacks are edits of what it is asked to sign, or of what it signed. Make one with [New].
//
// It may be copied: the copy has the same keys and the same log, and its own settings.
type Sigstore struct {
	NoCT     bool                         // there is no certificate log: the root lists none, and certificates have no timestamp of one
	NoSCT    bool                         // the root lists the certificate log, which certificates were never shown to
	RekorV1  bool                         // the signing config names the log by its first API
	Template func(leaf *x509.Certificate) // edits each certificate that the server signs; nil: none

	Root, Intermediate *x509.Certificate // of Fulcio
	TSA                *x509.Certificate // under Root
	CAKey, TSAKey      *ecdsa.PrivateKey
	CTKey, RekorKey    *ecdsa.PrivateKey

	t       testing.TB
	log     *transparencyLog
	servers *Servers // nil: only in memory
}

// Everything of a Sigstore was valid from before [Moment], when the signatures of an [Order] are made; the certificates of their signers have long ended.
const (
	begin  = "2024-01-01T00:00:00Z"
	end    = "2124-01-01T00:00:00Z"
	moment = "2024-02-03T04:05:06Z"
)

// Begin is from when on the keys of a Sigstore are valid.
func Begin() time.Time { return at(begin) }

// Moment is when an [Order] is signed, unless it says otherwise.
func Moment() time.Time { return at(moment) }

func at(text string) time.Time { return must(time.Parse(time.RFC3339, text)) }

// What an [Order] has unless it says otherwise, and the names of the log.
const (
	Subject   = "alice@example.com"
	IssuerURL = "https://accounts.example.com"
	Host      = "rekor.example.com"
	Tree      = Host + treeID // as Rekor v1 names itself in checkpoints
	treeID    = " - 1193050959916656506"
)

// Media types and the payload type of bundles and their relatives.
const (
	bundleType      = "application/vnd.dev.sigstore.bundle.v0.3+json"
	payloadType     = "application/vnd.in-toto+json"
	rootType        = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
	configType      = "application/vnd.dev.sigstore.signingconfig.v0.2+json"
	trustConfigType = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
)

// must is for what fails only when this package is wrong.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// New makes one with keys of its own. Nothing listens before [Sigstore.Serve].
func New(t testing.TB) *Sigstore {
	t.Helper()
	s := &Sigstore{t: t, CAKey: NewKey(), TSAKey: NewKey(), CTKey: NewKey(), RekorKey: NewKey(), log: newTransparencyLog()}
	rootKey := NewKey()
	authority := func(name string, usage ...x509.ExtKeyUsage) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: at(begin), NotAfter: at(end),
			KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: usage, BasicConstraintsValid: true, IsCA: true,
		}
	}
	root := authority("root")
	s.Root = Certificate(root, root, rootKey.Public(), rootKey)
	s.Intermediate = Certificate(authority("intermediate", x509.ExtKeyUsageCodeSigning), s.Root, s.CAKey.Public(), rootKey)
	s.TSA = Certificate(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "tsa"}, NotBefore: at(begin), NotAfter: at(end), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{
			Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, // RFC 3161 §2.3
			Value: must(asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})),
		}},
	}, s.Root, s.TSAKey.Public(), rootKey)
	return s
}

// NewKey makes a key as each part of a Sigstore has it.
func NewKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

// Certificate signs a template with the parent's key.
func Certificate(template, parent *x509.Certificate, public crypto.PublicKey, key *ecdsa.PrivateKey) *x509.Certificate {
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, parent, public, key))))
}

// JSON is v as encoding/json has it.
func JSON(v any) []byte { return must(json.Marshal(v)) }

func keyID(key *ecdsa.PrivateKey) []byte {
	id := sha256.Sum256(must(x509.MarshalPKIXPublicKey(key.Public())))
	return id[:]
}

// LogID is what entries and trusted roots call the transparency log.
func (s *Sigstore) LogID() []byte { return keyID(s.RekorKey) }

func signDER(key *ecdsa.PrivateKey, hash crypto.Hash, message string) []byte {
	h := hash.New()
	h.Write([]byte(message))
	return must(ecdsa.SignASN1(rand.Reader, key, h.Sum(nil)))
}

// pae is what a DSSE signature signs.
func pae(payloadType, payload string) string {
	return fmt.Sprintf("DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

// An Object is JSON with the names in order, as the canonical form of RFC 8785 has them.
type Object = map[string]any

// TrustedRoot is the JSON of everybody's keys. An edit changes its members; nil: none. The log has the address of the server once there is one.
func (s *Sigstore) TrustedRoot(edit func(root Object)) []byte {
	return JSON(s.trustedRoot(edit))
}

func (s *Sigstore) trustedRoot(edit func(root Object)) Object {
	address := "https://" + Host
	if s.servers != nil {
		address = s.servers.Rekor
	}
	log := func(key *ecdsa.PrivateKey) Object {
		return Object{
			"baseUrl": address, "hashAlgorithm": "SHA2_256", "logId": Object{"keyId": keyID(key)},
			"publicKey": Object{
				"rawBytes": must(x509.MarshalPKIXPublicKey(key.Public())), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": Object{"start": begin},
			},
		}
	}
	authority := func(chain ...*x509.Certificate) Object {
		var list []Object
		for _, c := range chain {
			list = append(list, Object{"rawBytes": c.Raw})
		}
		return Object{"uri": "https://ca.example.com", "certChain": Object{"certificates": list}, "validFor": Object{"start": begin}}
	}
	root := Object{
		"mediaType":              rootType,
		"tlogs":                  []Object{log(s.RekorKey)},
		"ctlogs":                 []Object{log(s.CTKey)},
		"certificateAuthorities": []Object{authority(s.Intermediate, s.Root)},
		"timestampAuthorities":   []Object{authority(s.TSA, s.Root)},
	}
	if s.NoCT {
		delete(root, "ctlogs")
	}
	if edit != nil {
		edit(root)
	}
	return root
}

// An Order says what to sign, and who does it. A test changes one field of NewOrder's.
type Order struct {
	Subject, Issuer           string // an address, or a URI with "://"
	Payload, PayloadType      string
	From                      time.Time                    // the certificate's begin; it lasts ten minutes
	Logged, Stamped           time.Time                    // zero: no promise, no token
	V2                        bool                         // an entry as Rekor v2 writes it
	Template                  func(leaf *x509.Certificate) // edits the certificate before it is signed
	SCT                       bool
	Fulcio, CTLog, Rekor, TSA *Sigstore
	Key                       *ecdsa.PrivateKey
	Hash                      crypto.Hash // that goes with Key
}

// NewOrder is for an in-toto payload, signed by [Subject] at [Moment], with an entry of Rekor v1 and no timestamp.
func (s *Sigstore) NewOrder(payload string) *Order {
	return &Order{
		Subject: Subject, Issuer: IssuerURL, Payload: payload, PayloadType: payloadType,
		From: Moment(), Logged: Moment().Add(2 * time.Minute), SCT: true,
		Fulcio: s, CTLog: s, Rekor: s, TSA: s, Key: NewKey(), Hash: crypto.SHA256,
	}
}

// A Bundle is a Sigstore bundle's JSON, for edits. So are the types of its members.
type Bundle struct {
	MediaType string    `json:"mediaType"`
	Material  Material  `json:"verificationMaterial"`
	Envelope  *Envelope `json:"dsseEnvelope,omitempty"`
	Message   Object    `json:"messageSignature,omitempty"`
}

type Material struct {
	Certificate *Raw     `json:"certificate,omitempty"`
	Chain       Object   `json:"x509CertificateChain,omitempty"`
	PublicKey   Object   `json:"publicKey,omitempty"`
	Entries     []*Entry `json:"tlogEntries,omitempty"`
	Timestamps  struct {
		Tokens []Token `json:"rfc3161Timestamps,omitempty"`
	} `json:"timestampVerificationData"`
}

type Raw struct {
	RawBytes []byte `json:"rawBytes"`
}

type Token struct {
	Token []byte `json:"signedTimestamp"`
}

type Envelope struct {
	Payload     []byte `json:"payload"`
	PayloadType string `json:"payloadType"`
	Signatures  []Sig  `json:"signatures"`
}

type Sig struct {
	Sig []byte `json:"sig"`
}

type Entry struct {
	LogIndex       string   `json:"logIndex"`
	LogID          Object   `json:"logId"`
	KindVersion    Object   `json:"kindVersion"`
	IntegratedTime string   `json:"integratedTime"`
	Promise        *Promise `json:"inclusionPromise,omitempty"`
	Proof          *Proof   `json:"inclusionProof,omitempty"`
	Body           []byte   `json:"canonicalizedBody"`
}

type Promise struct {
	SET []byte `json:"signedEntryTimestamp"`
}

type Proof struct {
	LogIndex   string   `json:"logIndex"`
	RootHash   []byte   `json:"rootHash"`
	TreeSize   string   `json:"treeSize"`
	Hashes     [][]byte `json:"hashes"`
	Checkpoint struct {
		Envelope string `json:"envelope"`
	} `json:"checkpoint"`
}

// Sign makes the bundle that o asks for.
func (o *Order) Sign() *Bundle {
	leaf := o.leaf()
	sig := signDER(o.Key, o.Hash, pae(o.PayloadType, o.Payload))
	b := &Bundle{
		MediaType: bundleType,
		Envelope:  &Envelope{Payload: []byte(o.Payload), PayloadType: o.PayloadType, Signatures: []Sig{{sig}}},
	}
	b.Material.Certificate = &Raw{leaf.Raw}
	b.Material.Entries = []*Entry{o.Entry(leaf, sig)}
	if !o.Stamped.IsZero() {
		b.Material.Timestamps.Tokens = []Token{{o.TSA.Token(sig, o.Stamped)}}
	}
	return b
}

func (o *Order) leaf() *x509.Certificate {
	template := &x509.Certificate{}
	if u, err := url.Parse(o.Subject); err == nil && u.Scheme != "" {
		template.URIs = []*url.URL{u}
	} else {
		template.EmailAddresses = []string{o.Subject}
	}
	if o.Issuer != "" {
		template.ExtraExtensions = []pkix.Extension{extension(8, o.Issuer)}
	}
	if o.Template == nil {
		o.Template = func(*x509.Certificate) {}
	}
	ct := o.CTLog
	if !o.SCT {
		ct = nil
	}
	return must(o.Fulcio.leaf(template, o.From, o.Key.Public(), o.Template, ct))
}

// extension is one of Fulcio's, of those whose value is a UTF8String (oid-info.md of Fulcio).
func extension(number int, value string) pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, number}, Value: must(asn1.MarshalWithParams(value, "utf8"))}
}

// leaf is a certificate as Fulcio issues it: signed once without and once with the certificate log's timestamp. ct is nil for a certificate without.
func (s *Sigstore) leaf(template *x509.Certificate, from time.Time, public crypto.PublicKey, edit func(*x509.Certificate), ct *Sigstore) (*x509.Certificate, error) {
	template.SerialNumber = big.NewInt(from.UnixNano())
	template.NotBefore, template.NotAfter = from, from.Add(10*time.Minute)
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	edit(template)
	der, err := x509.CreateCertificate(rand.Reader, template, s.Intermediate, public, s.CAKey)
	if err != nil {
		return nil, err
	}
	leaf := must(x509.ParseCertificate(der))
	if ct == nil {
		return leaf, nil
	}
	template.ExtraExtensions = append(template.ExtraExtensions, SCTExtension(ct.SCTList(leaf, s.Intermediate, from)))
	return Certificate(template, s.Intermediate, public, s.CAKey), nil
}

// SCTExtension is what has an [Sigstore.SCTList] in a certificate (RFC 6962 §3.3).
func SCTExtension(list []byte) pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: must(asn1.Marshal(list))}
}

// SCTList is a list of one signed certificate timestamp (RFC 6962 §3.2, §3.3).
func (s *Sigstore) SCTList(precert, issuer *x509.Certificate, at time.Time) []byte {
	millis := binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli()))
	issuerKey := sha256.Sum256(issuer.RawSubjectPublicKeyInfo)
	tbs := precert.RawTBSCertificate

	message := append([]byte{0, 0}, millis...)      // v1, certificate_timestamp
	message = append(message, 0, 1)                 // precert_entry
	message = append(message, issuerKey[:]...)      //
	message = append(message, byte(len(tbs)>>16))   // a length of 24 bits
	message = be16(message, len(tbs)&0xffff)        //
	message = append(append(message, tbs...), 0, 0) // no extensions
	sig := signDER(s.CTKey, crypto.SHA256, string(message))

	sct := append([]byte{0}, keyID(s.CTKey)...)
	sct = append(append(sct, millis...), 0, 0)
	sct = append(be16(append(sct, 4, 3), len(sig)), sig...) // SHA-256, ECDSA
	return append(be16(be16(nil, len(sct)+2), len(sct)), sct...)
}

func be16(b []byte, n int) []byte { return binary.BigEndian.AppendUint16(b, uint16(n)) }

// Token is a timestamp over a signature.
func (s *Sigstore) Token(sig []byte, at time.Time) []byte {
	imprint := sha256.Sum256(sig)
	return must(s.stamp(&timestamp.Request{HashAlgorithm: crypto.SHA256, HashedMessage: imprint[:], Certificates: true}, at))
}

// stamp is the answer of the timestamp authority (RFC 3161 §2.4.2).
func (s *Sigstore) stamp(query *timestamp.Request, at time.Time) ([]byte, error) {
	token := timestamp.Timestamp{
		HashAlgorithm: query.HashAlgorithm, HashedMessage: query.HashedMessage, Nonce: query.Nonce, Time: at,
		Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, AddTSACertificate: query.Certificates,
	}
	return token.CreateResponseWithOpts(s.TSA, s.TSAKey, crypto.SHA256)
}

// Entry logs a signature as the order says.
func (o *Order) Entry(leaf *x509.Certificate, sig []byte) *Entry {
	s := o.Rekor
	if o.V2 {
		digest := sha256.Sum256([]byte(pae(o.PayloadType, o.Payload)))
		return s.Log(JSON(Object{"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": Object{"hashedRekordV002": Object{
			"data": Object{"algorithm": "SHA2_256", "digest": digest[:]},
			"signature": Object{"content": sig, "verifier": Object{
				"keyDetails": "PKIX_ECDSA_P256_SHA_256", "x509Certificate": Object{"rawBytes": leaf.Raw},
			}},
		}}}), "hashedrekord", "0.0.2", Host, time.Time{})
	}
	hash := func(data []byte) Object {
		sum := sha256.Sum256(data)
		return Object{"algorithm": "sha256", "value": hex.EncodeToString(sum[:])}
	}
	return s.Log(JSON(Object{"apiVersion": "0.0.1", "kind": "dsse", "spec": Object{
		"envelopeHash": hash([]byte("the envelope's JSON, which nobody checks")),
		"payloadHash":  hash([]byte(o.Payload)),
		"signatures": []Object{{
			"signature": base64.StdEncoding.EncodeToString(sig),
			"verifier":  CertificatePEM(leaf.Raw),
		}},
	}}), "dsse", "0.0.1", Tree, o.Logged)
}

// CertificatePEM is a certificate as PEM.
func CertificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Log writes a body into the log, with a promise unless logged is zero. The origin is what the log calls itself in the checkpoint: a host for Rekor v2,
// [Tree] for Rekor v1.
func (s *Sigstore) Log(body []byte, kind, version, origin string, logged time.Time) *Entry {
	index, size, hashes, root := s.log.add(body)
	e := &Entry{
		LogIndex: strconv.Itoa(index), LogID: Object{"keyId": s.LogID()}, KindVersion: Object{"kind": kind, "version": version}, IntegratedTime: "0",
		Proof: &Proof{LogIndex: strconv.Itoa(index), TreeSize: strconv.Itoa(size), Hashes: hashes, RootHash: root},
		Body:  body,
	}
	e.Proof.Checkpoint.Envelope = s.Checkpoint(origin, size, root)
	if !logged.IsZero() {
		e.IntegratedTime = strconv.FormatInt(logged.Unix(), 10)
		e.Promise = &Promise{signDER(s.RekorKey, crypto.SHA256, string(JSON(Object{
			"body": body, "integratedTime": logged.Unix(), "logIndex": index, "logID": hex.EncodeToString(s.LogID()),
		})))}
	}
	return e
}

// Checkpoint is a signed note (c2sp.org/tlog-checkpoint), as either Rekor writes it: the first one's origin has a tree's number behind the host.
func (s *Sigstore) Checkpoint(origin string, size int, root []byte) string {
	text := fmt.Sprintf("%s\n%d\n%s\n", origin, size, base64.StdEncoding.EncodeToString(root))
	sig := append(s.LogID()[:4:4], signDER(s.RekorKey, crypto.SHA256, text)...)
	return fmt.Sprintf("%s\n— %s %s\n", text, strings.TrimSuffix(origin, treeID), base64.StdEncoding.EncodeToString(sig))
}

// A transparencyLog keeps the hashes of a tree that grows (RFC 6962 §2.1).
type transparencyLog struct {
	mu     sync.Mutex
	leaves [][]byte

	once    sync.Mutex        // entries
	entries map[string]*Entry // what the servers logged, by UUID of Rekor v1 or body of v2
}

// newTransparencyLog has one entry, which is nobody's: so there is no proof without a hash.
func newTransparencyLog() *transparencyLog {
	return &transparencyLog{leaves: [][]byte{rfc6962.DefaultHasher.HashLeaf([]byte("nobody's"))}, entries: map[string]*Entry{}}
}

func (l *transparencyLog) add(body []byte) (index, size int, proof [][]byte, root []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	index = len(l.leaves)
	l.leaves = append(l.leaves, rfc6962.DefaultHasher.HashLeaf(body))
	return index, len(l.leaves), inclusion(l.leaves, index), treeHash(l.leaves)
}

func treeHash(leaves [][]byte) []byte {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := split(len(leaves))
	return rfc6962.DefaultHasher.HashChildren(treeHash(leaves[:k]), treeHash(leaves[k:]))
}

func inclusion(leaves [][]byte, index int) [][]byte {
	if len(leaves) == 1 {
		return nil
	}
	if k := split(len(leaves)); index < k {
		return append(inclusion(leaves[:k], index), treeHash(leaves[k:]))
	} else {
		return append(inclusion(leaves[k:], index-k), treeHash(leaves[:k]))
	}
}

// split is the largest power of two below n.
func split(n int) int { return 1 << (bits.Len(uint(n-1)) - 1) }
