// Package bundle signs a payload into a Sigstore bundle and opens one again.
// It is the only code that knows DSSE, X.509, Fulcio, Rekor and timestamp authorities.
//
// A bundle is a JSON object of three members. This one was signed with a key:
//
//	{
//	  "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
//	  "verificationMaterial": {"publicKey": {"hint": "e8450dec…"}},
//	  "dsseEnvelope": {
//	    "payload": "eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEifQ==",
//	    "payloadType": "application/vnd.in-toto+json",
//	    "signatures": [{"sig": "MGUCMQCV…"}]
//	  }
//	}
//
// Payload and signature are standard, padded base64. The signature is over DSSE's
// pre-authentication encoding of type and payload, lengths in decimal bytes,
//
//	DSSEv1 28 application/vnd.in-toto+json 43 {"_type":"https://in-toto.io/Statement/v1"}
//
// with a hash that goes with the key:
//
//	ECDSA P-256, P-384, P-521   SHA-256, SHA-384, SHA-512; ASN.1 DER (OMS §4.1, §6.7)
//	Ed25519                     none: the pure form, over the encoding itself
//	RSA, 2048 to 16384 bits     SHA-256; PKCS#1 v1.5
//
// Signatures over SHA-256 are accepted on every curve, because cosign makes them, and Ed25519ph beside pure Ed25519, because other OMS tools do.
// The payload's own format is no matter of this package.
//
// # Methods
//
// The member of verificationMaterial says how the bundle means to be verified:
//
//	publicKey               key          the verifier has the key
//	x509CertificateChain    certificate  the verifier has a root of the chain
//	certificate             sigstore     a short-lived certificate and an entry in a transparency log
//
// Method certificate is written as a chain: the leaf first, then the certificates that issued it, in order, without the root, which the verifier has and trusts (OMS §4.1, §8.2):
// [NewCertificateVerifier] says which certificates count. A certificate without a log entry counts as method certificate.
//
// Bundles of method sigstore, and no others, may also have the media types of v0.1 and v0.2 (OMS §4.1 has keys and certificates in v0.3): there a chain with a log entry
// counts as the certificate that it begins with, and the others in it are never looked at.
//
// What the material says is a claim. It decides whether a [Verifier] looks at the bundle at all, and selects nothing else: hints, key ids and key bytes inside a bundle are never used.
//
// Beside either, timestampVerificationData may hold answers of timestamp authorities (RFC 3161), each over the bytes of the signature. They prove when it was there
// to verifiers that trust the authority, and say nothing to all others. [WithTimestamps] asks for one.
//
// Certificates of OMS v0.2 signed another encoding, which begins with DSSEV1 and has the payload as Python's repr writes it: see [Proof].
//
// # From bytes to payload
//
// [Parse] checks the form and yields a [Bundle]. A Bundle has no payload accessor: only [Bundle.Open], given at least one [Verifier],
// yields one, so nothing reads a payload that nobody authenticated; [InsecureClaims], for showing a bundle to a person, is named for what it is. The payload is decoded from base64 once, and the bytes that
// Open returns are the bytes the signature was checked over.
//
// Parse accepts what writers of bundles write, and no more: one JSON value in UTF-8, no duplicate and no unknown names, lower camel case,
// canonical base64, int64 as decimal strings. JSON null is an absent member, as in Protocol Buffers. The members rawBytes and keyDetails of publicKey,
// which signers before OMS 1.1 wrote instead of hint, are accepted and never looked at.
package bundle

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
)

const (
	// MediaType is the media type of the bundles that [Signer.Sign] writes.
	MediaType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	// PayloadType is the DSSE payload type of in-toto statements, the only one that [Bundle.Open] accepts (OMS §6.7).
	PayloadType = "application/vnd.in-toto+json"
	// MaxSize is the largest bundle, in bytes of JSON, that [Parse] reads: a model signature of a million files from disk.
	// Callers bound what they fetch; most bounds are far below this one.
	MaxSize = 512 << 20
)

// mediaTypeParameter is the older spelling of MediaType. Both mean v0.3, whose other members are the same.
const mediaTypeParameter = "application/vnd.dev.sigstore.bundle+json;version=0.3"

// What writers had before v0.3. Both may hold a chain in place of the certificate, and v0.1 a log's promise without its proof.
const (
	mediaTypeV01 = "application/vnd.dev.sigstore.bundle+json;version=0.1"
	mediaTypeV02 = "application/vnd.dev.sigstore.bundle+json;version=0.2"
)

// Methods of signing, named as the OMS tools name them.
const (
	MethodKey         = "key"
	MethodCertificate = "certificate"
	MethodSigstore    = "sigstore"
)

var (
	// ErrMalformed is returned for what is not a bundle, or one that breaks the rules of its format.
	ErrMalformed = errors.New("malformed bundle")
	// ErrUntrusted is returned for a bundle that no given verifier accepts: another key, another method, a wrong signature,
	// or content that is no signed in-toto statement.
	ErrUntrusted = errors.New("not signed by an accepted signer")
)

// A Bundle is a parsed bundle that nobody has authenticated yet. Make one with [Parse] or [Signer.Sign].
// It does not change, and may be opened by several goroutines at once.
type Bundle struct {
	data []byte
	wire wireBundle
}

// Parse parses the JSON of one bundle, strictly, as the package comment says. It keeps data; the caller must not change it afterwards.
// Errors wrap [ErrMalformed].
func Parse(data []byte) (*Bundle, error) {
	wire, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := wire.checkSignatures(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return &Bundle{data: data, wire: wire}, nil
}

// JSON returns the bytes that were parsed or signed; nil for a bundle by [ParseSimpleSigning]. They must not be changed.
func (b *Bundle) JSON() []byte { return b.data }

// Method is the method that the verification material is for: what the bundle claims, not what is proved.
func (b *Bundle) Method() string { return b.wire.method() }

// An Identity is who signed, as proved by [Bundle.Open].
type Identity struct {
	Method         string // MethodKey, MethodCertificate or MethodSigstore
	KeyFingerprint string // key, certificate: of the key, or of the leaf's key; see [Fingerprint]
	// Subject is, for certificate and sigstore, the subject alternative name: the one that was asked for, or the first one. Its type shows:
	// a URI has "://" or begins with "uri:", a mail address has "@" or begins with "email:", a DNS name begins with "dns:". Empty for key, and if there is none.
	Subject string
	Issuer  string // sigstore: the OIDC issuer
}

// A Verified is an authenticated payload.
type Verified struct {
	// Payload is of type [PayloadType]: a copy of what the bundle holds. Of a bundle by [ParseSimpleSigning] it is of type [SimpleSigningType].
	Payload []byte
	Proof
}

// A Proof is what a verifier found out about a signature.
type Proof struct {
	Signer Identity

	// Time is when the signature existed, as somebody proved whom the verifier trusts for it; zero where nobody did.
	Time time.Time
	// TimeSource is how: TimeTimestamp or TimeLog; "" with a zero Time.
	TimeSource string

	// Legacy says that the signature is over the encoding of OMS v0.2 and not over DSSE's. Only statements of that version may be
	// accepted under it: the caller, who reads the payload, must refuse all others (OMS §11).
	Legacy bool
}

// Sources of a proved time.
const (
	TimeTimestamp = "timestamp" // the token of a timestamp authority (RFC 3161)
	TimeLog       = "log"       // the integrated time of a transparency log's entry
)

// A Verifier authenticates bundles of one accepted signer. All implementations are in this package.
type Verifier interface {
	// String names the accepted signer, for messages: `key 3fe0…`.
	String() string
	// open says who signed b's envelope, which has exactly one signature over a payload of type PayloadType.
	// Its error, without the name of the verifier, says why this is not the accepted signer.
	open(b *Bundle) (Proof, error)
}

// Open authenticates b with the first of the verifiers that accepts it. Without verifiers it accepts nothing.
// Only a DSSE envelope of type [PayloadType], and what [ParseSimpleSigning] read, can be opened: message signatures and other payload types approve nothing.
// Errors wrap [ErrUntrusted].
func (b *Bundle) Open(verifiers ...Verifier) (*Verified, error) {
	envelope := b.wire.Envelope
	if envelope == nil {
		return nil, fmt.Errorf("open %s bundle: it has no DSSE envelope (OMS §4): %w", b.Method(), ErrUntrusted)
	}
	if envelope.PayloadType != PayloadType && !envelope.plain {
		return nil, fmt.Errorf("open %s bundle: payload type is %s, not %s (OMS §6.7): %w",
			b.Method(), quote(envelope.PayloadType), PayloadType, ErrUntrusted)
	}
	if len(verifiers) == 0 {
		return nil, fmt.Errorf("open %s bundle: no signer is accepted: %w", b.Method(), ErrUntrusted)
	}
	var tried []string
	for _, v := range verifiers {
		proof, err := v.open(b)
		if err == nil {
			payload, err := envelope.Payload.bytes()
			if err != nil {
				return nil, fmt.Errorf("open %s bundle: %w: %w", b.Method(), ErrMalformed, err)
			}
			return &Verified{Payload: payload, Proof: proof}, nil
		}
		tried = append(tried, fmt.Sprintf("%s: %v", v, err))
	}
	return nil, fmt.Errorf("open %s bundle: %w (%s)", b.Method(), ErrUntrusted, strings.Join(tried, "; "))
}

// Claims are what a bundle says of itself, authenticated by nobody.
type Claims struct {
	MediaType   string
	Method      string
	Hint        string // publicKey.hint as written
	Subject     string // from the certificate, if any
	Issuer      string // the OIDC issuer, from the certificate, if any
	Signatures  int    // of the DSSE envelope, or 1 for a message signature
	PayloadType string // empty for a message signature
	Payload     []byte // nil for a message signature

	// Names is how many subject alternative names of any type the certificate has, and OtherNames are the URIs, mail addresses and DNS names among them
	// beside Subject, written as [Identity] says. A Fulcio certificate has one name.
	Names      int
	OtherNames []string
	// NotBefore and NotAfter are the certificate's validity; zero without a certificate that can be read.
	NotBefore, NotAfter time.Time
	LogEntries          []LogEntry // of transparency logs
	Timestamps          int        // tokens of timestamp authorities
}

// A LogEntry is what a bundle says of an entry in a transparency log, authenticated by nobody.
type LogEntry struct {
	LogID string // in hex
	Index int64
	Time  time.Time // integrated time; zero where there is none, or one after the year 9999
}

// lastSecond is the last one of the year 9999, the last that RFC 3339 can write.
const lastSecond = 253402300799

// InsecureClaims reads a bundle without authenticating anything, to show it to a person. Never decide anything on it.
// It accepts what [Parse] accepts, and also envelopes that do not have exactly one signature. Errors wrap [ErrMalformed].
func InsecureClaims(data []byte) (*Claims, error) {
	wire, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return wire.claims()
}

func (w *wireBundle) claims() (c *Claims, err error) {
	c = &Claims{MediaType: w.MediaType, Method: w.method(), Signatures: 1}
	if e := w.Envelope; e != nil {
		c.Signatures, c.PayloadType = len(e.Signatures), e.PayloadType
		if c.Payload, err = e.Payload.bytes(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	if k := w.Material.PublicKey; k != nil {
		c.Hint = k.Hint
	}
	if leaf := w.leaf(); leaf != nil {
		c.readCertificate(leaf)
	}
	for _, e := range w.Material.LogEntries {
		entry := LogEntry{Index: int64(e.LogIndex)}
		if e.LogID != nil {
			entry.LogID = hex.EncodeToString(e.LogID.KeyID)
		}
		if t := int64(e.IntegratedTime); t > 0 && t <= lastSecond {
			entry.Time = time.Unix(t, 0).UTC()
		}
		c.LogEntries = append(c.LogEntries, entry)
	}
	if t := w.Material.Timestamps; t != nil {
		c.Timestamps = len(t.RFC3161)
	}
	return c, nil
}

// readCertificate reads names and validity. A certificate that cannot be read has none: whoever verifies the bundle says what is wrong with it.
func (c *Claims) readCertificate(der []byte) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return
	}
	c.NotBefore, c.NotAfter = leaf.NotBefore.UTC(), leaf.NotAfter.UTC()
	c.Names, _ = countNames(leaf)
	summary, err := certificate.SummarizeCertificate(leaf)
	c.Subject, c.Issuer = summary.SubjectAlternativeName, summary.Issuer
	if err != nil && len(leaf.DNSNames) > 0 { // the summary knows no DNS names
		c.Subject = certName{nameDNS, leaf.DNSNames[0]}.String()
	}
	shown := false // the subject, which may be there twice
	for _, name := range namesOf(leaf) {
		if !shown && (name.text == c.Subject || name.String() == c.Subject) {
			shown = true
			continue
		}
		c.OtherNames = append(c.OtherNames, name.String())
	}
}

// quoteLimit bounds, in bytes, how much foreign text stands in an error, so that a log line stays a line.
const quoteLimit = 256

// quote quotes foreign text for an error.
func quote(s string) string {
	if len(s) > quoteLimit {
		return fmt.Sprintf("%q…", s[:quoteLimit])
	}
	return fmt.Sprintf("%q", s)
}

// protoText is an error of protojson, quoted. Its spaces are common ones in some builds and no-break ones in others, so that nobody relies on the text.
func protoText(err error) string { return quote(strings.ReplaceAll(err.Error(), "\u00a0", " ")) }
