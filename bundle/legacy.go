package bundle

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// checkLegacy says whether the key signed an envelope as OMS v0.2 did: over
//
//	DSSEV1 28 application/vnd.in-toto+json 43 b'{"_type":"https://in-toto.io/Statement/v1"}'
//
// where the payload stands as Python's repr writes bytes, its length does not count that, and the hash is SHA-256 on every curve. Only ECDSA keys made such signatures.
// No text is valid in both encodings: they differ in their fifth letter. The payload is encoded where it lies, as in check.
func (k *signingKey) checkLegacy(envelope *wireEnvelope) error {
	key, ok := k.key.(*ecdsa.PublicKey)
	if !ok || envelope.plain {
		return errSignature
	}
	h := sha256.New()
	fmt.Fprintf(h, "DSSEV1 %d %s %d b'", len(envelope.PayloadType), envelope.PayloadType, envelope.Payload.size())
	repr := &reprWriter{w: h}
	if err := envelope.Payload.decode(repr); err != nil {
		return err
	}
	io.WriteString(h, "'")
	// Python quotes with ' and escapes it, but for bytes with a ' and no ", which it quotes with ". A statement is JSON, and has a ".
	if !repr.quotes || !ecdsa.VerifyASN1(key, h.Sum(nil), envelope.Signatures[0].Sig) {
		return errSignature
	}
	return nil
}

// reprWriter writes bytes to w as Python's repr writes them between single quotes.
type reprWriter struct {
	w      io.Writer
	buf    bytes.Buffer
	quotes bool // whether a " was among them
}

func (r *reprWriter) Write(p []byte) (int, error) {
	const hex = "0123456789abcdef"
	r.buf.Reset()
	for _, c := range p {
		switch {
		case c == '\\' || c == '\'':
			r.buf.WriteByte('\\')
			r.buf.WriteByte(c)
		case c == '\t':
			r.buf.WriteString(`\t`)
		case c == '\n':
			r.buf.WriteString(`\n`)
		case c == '\r':
			r.buf.WriteString(`\r`)
		case c < ' ' || c > '~':
			r.buf.Write([]byte{'\\', 'x', hex[c>>4], hex[c&15]})
		default:
			r.quotes = r.quotes || c == '"'
			r.buf.WriteByte(c)
		}
	}
	if n, err := r.w.Write(r.buf.Bytes()); err != nil {
		return min(n, len(p)), errors.New("write what was signed")
	}
	return len(p), nil
}
