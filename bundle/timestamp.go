package bundle

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/digitorus/pkcs7"
	"github.com/digitorus/timestamp"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/sigstore/timestamp-authority/v2/pkg/verification"
)

const (
	// maxTimestamp is the largest answer of a timestamp authority, in bytes, that is taken or looked at. With three RSA certificates of 4096 bits it has 7 KiB.
	maxTimestamp = 64 << 10
	// maxTimestamps is how many tokens of a bundle are looked at, as many as sigstore-go takes. Tools write one or two.
	maxTimestamps = 32
	// maxTimestampCertificates is how many certificates a token may carry: the authority's own, and a chain as long as a leaf may have.
	maxTimestampCertificates = 1 + maxIntermediates
	// maxTimestampDepth is how deep the ASN.1 of a token may be nested. A name in a certificate's extension lies 15 deep.
	maxTimestampDepth = 32
)

// WithTimestamps signs as s does, and has the timestamp authority at url, by RFC 3161 over HTTP, say when each signature was there:
// its token is kept in the bundle's timestampVerificationData.
//
// client does the requests; its limits of time are its owner's matter, beside ctx. One request is made for each bundle, and none is repeated.
// An answer must be of at most 64 KiB, grant a token over this very signature with the request's nonce, carry the authority's certificate, and be signed with its key.
// Whether the authority deserves trust is for verifiers to say. If it fails, nothing is returned: no bundle is without the token that was asked for.
func WithTimestamps(s Signer, client *http.Client, url string) (Signer, error) {
	if s == nil || client == nil {
		return nil, errors.New("sign with timestamps: no signer or no HTTP client")
	}
	endpoint, err := parseEndpoint(url)
	if err != nil {
		return nil, fmt.Errorf("sign with timestamps: %w", err)
	}
	return &timestampedSigner{Signer: s, client: client, endpoint: endpoint}, nil
}

func parseEndpoint(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("the authority's address is no http or https URL") // not repeated: it may hold a password
	}
	return u, nil
}

type timestampedSigner struct {
	Signer
	client   *http.Client
	endpoint *url.URL
}

func (s *timestampedSigner) Sign(ctx context.Context, payloads ...[]byte) ([]*Bundle, error) {
	bundles, err := s.Signer.Sign(ctx, payloads...)
	if err != nil {
		return nil, err
	}
	for i, b := range bundles {
		if bundles[i], err = s.stamp(ctx, b); err != nil {
			return nil, fmt.Errorf("timestamp by %s: %w", quote(s.endpoint.Redacted()), err)
		}
	}
	return bundles, nil
}

// stamp returns b with a token over its signature.
func (s *timestampedSigner) stamp(ctx context.Context, b *Bundle) (*Bundle, error) {
	if b.wire.Envelope == nil || b.wire.Material.Timestamps != nil {
		return nil, errors.New("the bundle has no envelope, or a timestamp already")
	}
	token, err := requestTimestamp(ctx, s.client, s.endpoint.String(), b.wire.Envelope.Signatures[0].Sig)
	if err != nil {
		return nil, err
	}
	data, err := insertTimestamp(b.data, token)
	if err != nil {
		return nil, err
	}
	stamped, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("check the new bundle: %w", err)
	}
	verifier, err := s.Verifier(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := stamped.Open(verifier); err != nil {
		return nil, fmt.Errorf("check the new bundle: %w", err)
	}
	return stamped, nil
}

// requestTimestamp asks the authority at endpoint for a token over signature (RFC 3161 §2.4, §3.4) and returns its answer, checked.
func requestTimestamp(ctx context.Context, client *http.Client, endpoint string, signature []byte) ([]byte, error) {
	imprint := sha256.Sum256(signature)
	random := make([]byte, 8)
	rand.Read(random) // never fails
	query := timestamp.Request{
		HashAlgorithm: crypto.SHA256,
		HashedMessage: imprint[:],
		Certificates:  true,
		Nonce:         new(big.Int).SetBytes(random),
	}
	der, err := query.Marshal()
	if err != nil {
		return nil, fmt.Errorf("marshal request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, bytes.NewReader(der))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/timestamp-query")
	req.Header.Set("Accept", "application/timestamp-reply")
	resp, err := client.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok { // which repeats the address
			err = e.Err
		}
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated { // sigstore's authority answers 201
		return nil, fmt.Errorf("status %d, not %d", resp.StatusCode, http.StatusOK)
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxTimestamp+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(answer) > maxTimestamp {
		return nil, fmt.Errorf("the answer is longer than the limit of %d bytes", maxTimestamp)
	}
	if _, err := tokenCertificates(answer); err != nil {
		return nil, fmt.Errorf("the answer, of type %s, is no token: %w", quote(resp.Header.Get("Content-Type")), err)
	}
	token, err := timestamp.ParseResponse(answer) // and check its signature with the certificate that it carries
	switch {
	case err != nil:
		return nil, fmt.Errorf("the answer is no token: %s", foreign(err))
	case token.HashAlgorithm != crypto.SHA256 || !bytes.Equal(token.HashedMessage, imprint[:]):
		return nil, errors.New("the token is not over this signature (RFC 3161 §2.4.2)")
	case token.Nonce == nil || token.Nonce.Cmp(query.Nonce) != 0:
		return nil, errors.New("the token has not the request's nonce (RFC 3161 §2.4.2)")
	case len(token.Certificates) == 0:
		return nil, errors.New("the token is without the authority's certificate, which was asked for (RFC 3161 §2.4.1)")
	}
	return answer, nil
}

// insertTimestamp adds a token to the verification material of a bundle that has none, and leaves every other byte as it is.
func insertTimestamp(data, token []byte) ([]byte, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(data))
	for {
		if _, err := dec.ReadToken(); err != nil {
			return nil, fmt.Errorf("insert the token: %w", describe(err))
		}
		if dec.StackPointer() == "/verificationMaterial" && dec.PeekKind() == '{' {
			break
		}
	}
	if err := dec.SkipValue(); err != nil {
		return nil, fmt.Errorf("insert the token: %w", describe(err))
	}
	end := dec.InputOffset() - 1 // of the brace; a material is never empty
	const head, tail = `,"timestampVerificationData":{"rfc3161Timestamps":[{"signedTimestamp":"`, `"}]}`
	out := make([]byte, 0, len(data)+len(head)+base64.StdEncoding.EncodedLen(len(token))+len(tail))
	out = append(append(out, data[:end]...), head...)
	out = base64.StdEncoding.AppendEncode(out, token)
	return append(append(out, tail...), data[end:]...), nil
}

// WithTimestampAnchors accepts what v accepts, and proves its time by a token (RFC 3161) of an authority in anchors over the very signature: the earliest one, if there are several.
// Other tokens count as none, and none is no reason to refuse. It is for keys, which are valid at any time; for certificates, give the
// anchors in [CertificateOptions], because there they decide. anchors are as there; without a self-signed one: an error.
func WithTimestampAnchors(v Verifier, anchors []*x509.Certificate) (Verifier, error) {
	if v == nil {
		return nil, errors.New("verify with timestamps: no verifier")
	}
	authorities, err := newAuthorities(anchors)
	if err != nil {
		return nil, fmt.Errorf("verify with timestamps: %w", err)
	}
	return &timestampedVerifier{v, authorities}, nil
}

type timestampedVerifier struct {
	Verifier
	authorities *authorities
}

func (v *timestampedVerifier) open(b *Bundle) (Proof, error) {
	proof, err := v.Verifier.open(b)
	if err != nil || !proof.Time.IsZero() {
		return proof, err
	}
	if times := v.authorities.times(b); len(times) > 0 {
		proof.Time, proof.TimeSource = times[0], TimeTimestamp
	}
	return proof, nil
}

// authorities are whom a verifier trusts for the time. Nil trusts nobody.
type authorities struct {
	roots         []*x509.Certificate
	intermediates []*x509.Certificate
	signers       []*x509.Certificate // those that tokens may be signed with that do not carry their certificate
}

func newAuthorities(anchors []*x509.Certificate) (*authorities, error) {
	a := new(authorities)
	for _, cert := range anchors {
		switch {
		case cert == nil:
			continue
		case selfSigned(cert):
			a.roots = append(a.roots, cert)
		default:
			a.intermediates = append(a.intermediates, cert)
		}
		if slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageTimeStamping) && !cert.IsCA {
			a.signers = append(a.signers, cert)
		}
	}
	if len(a.roots) == 0 {
		return nil, fmt.Errorf("none of %d certificates of timestamp authorities is self-signed: a root is needed", len(anchors))
	}
	return a, nil
}

// times returns the times that the authorities prove for b's signature, the earliest first.
func (a *authorities) times(b *Bundle) []time.Time {
	if a == nil || b.wire.Material.Timestamps == nil {
		return nil
	}
	var times []time.Time
	list := b.wire.Material.Timestamps.RFC3161
	for _, t := range list[:min(len(list), maxTimestamps)] {
		if proved, err := a.verify(t.SignedTimestamp, b.wire.Envelope.Signatures[0].Sig); err == nil {
			times = append(times, proved.UTC())
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	return slices.CompactFunc(times, time.Time.Equal)
}

// verify returns the time of a token over signature. Its certificate must be for nothing but timestamps, critically so,
// its key for signatures if it says what for, and it must lead to a root, all valid at the token's time (RFC 3161 §2.3).
func (a *authorities) verify(token, signature []byte) (time.Time, error) {
	carried, err := tokenCertificates(token)
	if err != nil {
		return time.Time{}, err
	}
	signers := []*x509.Certificate{nil} // what the token carries
	if carried == 0 {
		signers = a.signers
	}
	err = errors.New("the token carries no certificate")
	for _, signer := range signers {
		var t *timestamp.Timestamp
		if t, err = verification.VerifyTimestampResponse(token, bytes.NewReader(signature), verification.VerifyOpts{
			Roots: a.roots, Intermediates: a.intermediates, TSACertificate: signer,
		}); err == nil {
			err = checkStamper(signer, t.RawToken)
		}
		if err == nil {
			return t.Time, nil
		}
	}
	return time.Time{}, err
}

// checkStamper wants a key that is for signatures, if its certificate says what it is for. signer is nil where the token carries it.
func checkStamper(signer *x509.Certificate, token []byte) error {
	if signer == nil {
		signed, err := pkcs7.Parse(token)
		if err != nil {
			return err
		}
		if signer = signed.GetOnlySigner(); signer == nil {
			return errors.New("the token carries no certificate")
		}
	}
	if signer.KeyUsage != 0 && signer.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) == 0 {
		return errors.New("the authority's key is not for signatures (RFC 5280 §4.2.1.3)")
	}
	return nil
}

// timestampHashes are what the signature of a token may be made of, as its imprint.
var timestampHashes = []asn1.ObjectIdentifier{pkcs7.OIDDigestAlgorithmSHA256, pkcs7.OIDDigestAlgorithmSHA384, pkcs7.OIDDigestAlgorithmSHA512}

// tokenCertificates counts the certificates that a token carries. It refuses one that would cost much to check, or that has a weak hash.
func tokenCertificates(token []byte) (int, error) {
	if len(token) > maxTimestamp {
		return 0, fmt.Errorf("%d bytes are more than the limit of %d", len(token), maxTimestamp)
	}
	var response struct { // RFC 3161 §2.4.2
		Status asn1.RawValue
		Token  asn1.RawValue `asn1:"optional"`
	}
	if err := unmarshalExactly(token, &response); err != nil {
		return 0, err
	}
	if len(response.Token.FullBytes) == 0 {
		return 0, nil // the parser says why there is none
	}
	if err := checkDepth(response.Token.FullBytes, maxTimestampDepth); err != nil {
		return 0, err
	}
	signed, err := pkcs7.Parse(response.Token.FullBytes)
	if err != nil {
		return 0, errors.New(foreign(err))
	}
	for _, signer := range signed.Signers {
		// pkcs7 takes SHA-1, for the content and for the signature.
		if !slices.ContainsFunc(timestampHashes, signer.DigestAlgorithm.Algorithm.Equal) || signer.DigestEncryptionAlgorithm.Algorithm.Equal(pkcs7.OIDDigestAlgorithmECDSASHA1) {
			return 0, errors.New("it is signed by another hash than SHA-256, SHA-384 or SHA-512")
		}
	}
	if n := len(signed.Certificates); n > maxTimestampCertificates {
		return 0, fmt.Errorf("%d certificates are more than the limit of %d", n, maxTimestampCertificates)
	}
	for _, cert := range signed.Certificates {
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSABits {
			return 0, &KeyError{Kind: kindOf(key)}
		}
	}
	return len(signed.Certificates), nil
}

// checkDepth refuses what is not DER, and what is nested deeper than depth: pkcs7 copies every level of what lies below it.
func checkDepth(der []byte, depth int) error {
	for len(der) > 0 {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(der, &v)
		if err != nil {
			return err
		}
		if v.IsCompound {
			if depth == 0 {
				return fmt.Errorf("it is nested deeper than the limit of %d", maxTimestampDepth)
			}
			if err := checkDepth(v.Bytes, depth-1); err != nil {
				return err
			}
		}
		der = rest
	}
	return nil
}
