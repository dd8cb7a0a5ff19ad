package bundle

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxItems bounds every list in a bundle, so that a small file cannot become a large heap: a few bytes of JSON per empty log entry are hundreds in memory.
// The longest honest list is an inclusion proof in a tree of 2^64 leaves; sigstore-go takes at most 32 log entries and as many timestamps.
const maxItems = 64

// The types below are the Sigstore bundle v0.3, and so much of its earlier versions as [Parse] takes, as JSON (sigstore_bundle.proto, sigstore_common.proto, sigstore_rekor.proto, envelope.proto), member by member.
// Unknown members are refused, so a bundle cannot be deeper than these types are.

type wireBundle struct {
	MediaType        string        `json:"mediaType"`
	Material         *wireMaterial `json:"verificationMaterial"`
	Envelope         *wireEnvelope `json:"dsseEnvelope"`
	MessageSignature *wireMessage  `json:"messageSignature"`
}

type wireMaterial struct {
	PublicKey   *wirePublicKey     `json:"publicKey"`
	Certificate *wireCertificate   `json:"certificate"`
	Chain       *wireChain         `json:"x509CertificateChain"`
	LogEntries  list[wireLogEntry] `json:"tlogEntries"`
	Timestamps  *wireTimestamps    `json:"timestampVerificationData"`
}

type wirePublicKey struct {
	Hint string `json:"hint"`
	// Before OMS 1.1 (OMS §11.1); never looked at.
	RawBytes   string `json:"rawBytes"`
	KeyDetails string `json:"keyDetails"`
}

type wireCertificate struct {
	RawBytes base64Bytes `json:"rawBytes"`
}

type wireChain struct {
	Certificates list[wireCertificate] `json:"certificates"`
}

type wireTimestamps struct {
	RFC3161 list[wireTimestamp] `json:"rfc3161Timestamps"`
}

type wireTimestamp struct {
	SignedTimestamp base64Bytes `json:"signedTimestamp"`
}

type wireLogEntry struct {
	LogIndex          decimal       `json:"logIndex"`
	LogID             *wireLogID    `json:"logId"`
	KindVersion       *wireKind     `json:"kindVersion"`
	IntegratedTime    decimal       `json:"integratedTime"`
	InclusionPromise  *wirePromise  `json:"inclusionPromise"`
	InclusionProof    *wireLogProof `json:"inclusionProof"`
	CanonicalizedBody base64Bytes   `json:"canonicalizedBody"`
}

type wireLogID struct {
	KeyID base64Bytes `json:"keyId"`
}

type wireKind struct {
	Kind    string `json:"kind"`
	Version string `json:"version"`
}

type wirePromise struct {
	SignedEntryTimestamp base64Bytes `json:"signedEntryTimestamp"`
}

type wireLogProof struct {
	LogIndex   decimal           `json:"logIndex"`
	RootHash   base64Bytes       `json:"rootHash"`
	TreeSize   decimal           `json:"treeSize"`
	Hashes     list[base64Bytes] `json:"hashes"`
	Checkpoint *wireCheckpoint   `json:"checkpoint"`
}

type wireCheckpoint struct {
	Envelope string `json:"envelope"`
}

type wireEnvelope struct {
	Payload     payloadText         `json:"payload"`
	PayloadType string              `json:"payloadType"`
	Signatures  list[wireSignature] `json:"signatures"`

	// plain says that the payload was signed as it stands, and that this is no DSSE envelope: no JSON says so, see SimpleSigning.
	plain bool
}

// header is what was signed before the payload.
func (e *wireEnvelope) header() string {
	if e.plain {
		return ""
	}
	return paeHeader(e.PayloadType, e.Payload.size())
}

type wireSignature struct {
	Sig   base64Bytes `json:"sig"`
	KeyID string      `json:"keyid"` // OMS §4.1: never used
}

type wireMessage struct {
	Digest    *wireDigest `json:"messageDigest"`
	Signature base64Bytes `json:"signature"`
}

type wireDigest struct {
	Algorithm string      `json:"algorithm"`
	Digest    base64Bytes `json:"digest"`
}

// decode reads one JSON value and checks the form of a bundle, all but the number of signatures.
func decode(data []byte) (wireBundle, error) {
	var w wireBundle
	if len(data) > MaxSize {
		return w, fmt.Errorf("%d bytes are more than the limit of %d", len(data), MaxSize)
	}
	if err := checkStrings(data); err != nil {
		return w, err
	}
	if err := json.Unmarshal(data, &w, json.RejectUnknownMembers(true)); err != nil {
		return wireBundle{}, describe(err)
	}
	if w.Envelope != nil {
		w.Envelope.Payload.settle(data)
	}
	return w, w.check()
}

// maxString bounds every string but the payload, in bytes of JSON: the longest honest one is a log entry's body. The payload may be
// longer, where it is base64 as it stands: unescaping it would be a second copy of what nobody authenticated.
const maxString = 1 << 20

// checkStrings refuses long strings before any is decoded. It leaves all else to the parser.
func checkStrings(data []byte) error {
	dec := jsontext.NewDecoder(bytes.NewBuffer(data))
	for {
		if dec.PeekKind() != '"' {
			if _, err := dec.ReadToken(); err != nil {
				return nil // the end, or what the parser will say
			}
			continue
		}
		v, err := dec.ReadValue()
		if err != nil {
			return nil
		}
		if len(v) > maxString && (dec.StackPointer() != "/dsseEnvelope/payload" || bytes.IndexByte(v, '\\') >= 0) {
			return fmt.Errorf("a string of %d bytes that is no plain payload, more than %d", len(v), maxString)
		}
	}
}

// describe says where in the JSON an error is, in words of this package and of bounded length.
func describe(err error) error {
	if e, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return fmt.Errorf("byte %d: %s", e.ByteOffset, clip(e.Err.Error()))
	}
	e, ok := errors.AsType[*json.SemanticError](err)
	if !ok {
		return errors.New(clip(err.Error()))
	}
	cause := "not of the expected type"
	if e.Err != nil {
		cause = clip(e.Err.Error())
	}
	return fmt.Errorf("byte %d: %s: %s", e.ByteOffset, quote(string(e.JSONPointer)), cause)
}

// clip bounds the text of a library's error, which may repeat a name from the input, escaped.
func clip(s string) string {
	if len(s) > quoteLimit {
		return s[:quoteLimit] + "…"
	}
	return s
}

// check holds the rules that the types do not.
func (w *wireBundle) check() error {
	switch w.MediaType {
	case MediaType, mediaTypeParameter, mediaTypeV01, mediaTypeV02:
	case "":
		return errors.New("no mediaType")
	default:
		return fmt.Errorf("mediaType is %s, not %s", quote(w.MediaType), MediaType)
	}
	if w.Material == nil {
		return errors.New("no verificationMaterial (OMS §4)")
	}
	m := w.Material
	if w.old() && w.method() != MethodSigstore {
		return fmt.Errorf("mediaType is %s, not %s, and there is no certificate with an entry of a transparency log (OMS §4.1)", quote(w.MediaType), MediaType)
	}
	if n := count(m.PublicKey != nil, m.Certificate != nil, m.Chain != nil); n != 1 {
		return fmt.Errorf("verificationMaterial has %d of publicKey, x509CertificateChain and certificate, not one (OMS §4.1)", n)
	}
	if m.Chain != nil && len(m.Chain.Certificates) == 0 {
		return errors.New("x509CertificateChain is empty (OMS §4.1)")
	}
	if m.PublicKey == nil && len(w.leaf()) == 0 {
		return errors.New("certificate is empty (OMS §4.1)")
	}
	if n := count(w.Envelope != nil, w.MessageSignature != nil); n != 1 {
		return fmt.Errorf("%d of dsseEnvelope and messageSignature, not one (OMS §4)", n)
	}
	if w.Envelope != nil && w.Envelope.Payload.size() == 0 {
		return errors.New("dsseEnvelope has no payload")
	}
	return nil
}

// checkSignatures wants exactly one signature, as the Sigstore bundle specification does.
func (w *wireBundle) checkSignatures() error {
	if w.Envelope == nil {
		if len(w.MessageSignature.Signature) == 0 {
			return errors.New("messageSignature has no signature")
		}
		return nil
	}
	if n := len(w.Envelope.Signatures); n != 1 {
		return fmt.Errorf("dsseEnvelope has %d signatures, not one", n)
	}
	if len(w.Envelope.Signatures[0].Sig) == 0 {
		return errors.New("dsseEnvelope has an empty signature")
	}
	return nil
}

// method says which method the material is for (OMS §4.1).
func (w *wireBundle) method() string {
	switch m := w.Material; {
	case m == nil:
		return "empty" // a Bundle that nobody made
	case m.PublicKey != nil:
		return MethodKey
	case len(m.LogEntries) > 0 && (m.Certificate != nil || w.old() && m.Chain != nil):
		return MethodSigstore
	default:
		return MethodCertificate
	}
}

// old says that the bundle is of a version before v0.3.
func (w *wireBundle) old() bool { return w.MediaType == mediaTypeV01 || w.MediaType == mediaTypeV02 }

// leaf returns the DER of the signing certificate; nil if there is none.
func (w *wireBundle) leaf() []byte {
	switch {
	case w.Material.Certificate != nil:
		return w.Material.Certificate.RawBytes
	case w.Material.Chain != nil:
		return w.Material.Chain.Certificates[0].RawBytes
	}
	return nil
}

func count(set ...bool) (n int) {
	for _, b := range set {
		if b {
			n++
		}
	}
	return n
}

// list is a JSON array of at most maxItems items, none of them null.
type list[T any] []T

func (l *list[T]) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	*l = nil
	begin, err := dec.ReadToken()
	if err != nil {
		return err
	}
	switch begin.Kind() {
	case 'n':
		return nil
	case '[':
	default:
		return errors.New("not an array")
	}
	for dec.PeekKind() != ']' {
		if len(*l) == maxItems {
			return fmt.Errorf("more than %d items", maxItems)
		}
		if dec.PeekKind() == 'n' {
			return errors.New("null in an array")
		}
		var item T
		if err := json.UnmarshalDecode(dec, &item); err != nil {
			return err
		}
		*l = append(*l, item)
	}
	_, err = dec.ReadToken()
	return err
}

// base64Bytes is a JSON string of canonical base64: standard alphabet, padded, no line ends, no stray bits.
type base64Bytes []byte

func (b *base64Bytes) UnmarshalText(text []byte) error {
	decoded := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(decoded, text)
	if err != nil {
		return fmt.Errorf("not standard padded base64: %w", err)
	}
	// The decoder skips line ends, the one thing that makes the text longer than its bytes need.
	if base64.StdEncoding.EncodedLen(n) != len(text) {
		return errors.New("not standard padded base64: it has line ends")
	}
	*b = decoded[:n]
	return nil
}

// payloadText is the payload as it lies in the JSON: canonical base64, as base64Bytes has it. It may be most of half a GiB that
// nobody authenticated, so it is decoded in small steps into a hash, and as a whole only once the signature was checked.
type payloadText struct {
	text     []byte // part of the JSON that was parsed, or its own where that has escapes
	from, to int64  // where text lies, until settle
}

func (p *payloadText) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	*p = payloadText{}
	v, err := dec.ReadValue()
	if err != nil {
		return err
	}
	switch v.Kind() {
	case 'n':
		return nil
	case '"':
	default:
		return errors.New("not a string")
	}
	text := []byte(v[1 : len(v)-1])
	if bytes.IndexByte(text, '\\') >= 0 {
		if text, err = jsontext.AppendUnquote(nil, v); err != nil {
			return err
		}
		p.text = text
	} else {
		end := dec.InputOffset()
		p.from, p.to = end-int64(len(v))+1, end-1
	}
	return (&payloadText{text: text}).decode(io.Discard)
}

// settle points text at data, which was parsed. What the decoder showed was its own buffer.
func (p *payloadText) settle(data []byte) {
	if p.text == nil {
		p.text = data[p.from:p.to]
	}
}

// payloadStep is how much text is decoded at once: whole groups of four.
const payloadStep = 64 << 10

// decode writes the bytes to w, step by step.
func (p *payloadText) decode(w io.Writer) error {
	var buf [payloadStep / 4 * 3]byte
	for text := p.text; len(text) > 0; {
		step := text[:min(payloadStep, len(text))]
		text = text[len(step):]
		n, err := base64.StdEncoding.Strict().Decode(buf[:], step)
		if err != nil {
			return fmt.Errorf("not standard padded base64: %w", err)
		}
		// The decoder skips line ends, and does not know that more follows.
		if base64.StdEncoding.EncodedLen(n) != len(step) || len(text) > 0 && n != len(buf) {
			return errors.New("not standard padded base64: it has line ends, or does not end where it is padded")
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

// size is the number of bytes that the text stands for.
func (p *payloadText) size() int {
	return base64.StdEncoding.DecodedLen(len(p.text)) - bytes.Count(p.text[max(0, len(p.text)-2):], []byte("="))
}

// bytes decodes the whole payload.
func (p *payloadText) bytes() ([]byte, error) {
	out := bytes.NewBuffer(make([]byte, 0, p.size()))
	err := p.decode(out)
	return out.Bytes(), err
}

// decimal is an int64 as Protocol Buffers write it into JSON: a string of digits. It has one spelling.
type decimal int64

func (d *decimal) UnmarshalText(text []byte) error {
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != string(text) {
		return errors.New("not a decimal integer")
	}
	*d = decimal(n)
	return nil
}
