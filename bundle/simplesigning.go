package bundle

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
)

// SimpleSigningType is the media type of what a [SimpleSigning] signs.
const SimpleSigningType = "application/vnd.dev.cosign.simplesigning.v1+json"

// MaxSimpleSigning is the largest payload of a [SimpleSigning] in bytes. Most have 300: the rest is annotations of whoever signed.
const MaxSimpleSigning = 1 << 20

// A SimpleSigning is a signature as cosign kept it before there were bundles (cosign's SIGNATURE_SPEC): the payload is a layer of an image,
// and all else stands in the annotations of that layer. Nothing in it is authenticated; [ParseSimpleSigning] begins that.
type SimpleSigning struct {
	// Payload was signed as it stands, without DSSE's encoding, which no JSON can be mistaken for.
	Payload []byte
	// Annotations are of the layer. Those that are not of the specification are never looked at.
	Annotations map[string]string
}

// Annotations of cosign's SIGNATURE_SPEC. The first one is required.
const (
	annotationSignature   = "dev.cosignproject.cosign/signature"   // base64
	annotationCertificate = "dev.sigstore.cosign/certificate"      // PEM
	annotationChain       = "dev.sigstore.cosign/chain"            // PEM
	annotationLogEntry    = "dev.sigstore.cosign/bundle"           // JSON, an entry of Rekor v1
	annotationTimestamp   = "dev.sigstore.cosign/rfc3161timestamp" // JSON, base64 in it
)

// wireRekorBundle is an entry of Rekor v1 as cosign kept it, with its promise and without a proof.
type wireRekorBundle struct {
	SignedEntryTimestamp base64Bytes
	Payload              struct {
		Body           base64Bytes `json:"body"`
		IntegratedTime int64       `json:"integratedTime"`
		LogIndex       int64       `json:"logIndex"`
		LogID          string      `json:"logID"`
	}
}

// wireSimpleTimestamp is a timestamp as cosign kept it.
type wireSimpleTimestamp struct {
	SignedRFC3161Timestamp base64Bytes
}

// ParseSimpleSigning reads a signature of cosign's old form as if it were a bundle: without a certificate it is of method key; with one and an entry of a transparency log
// sigstore, by the rules for bundles of v0.1, whose entries have no proof either; else certificate. [Bundle.Open] yields the payload, of type [SimpleSigningType] and not
// an in-toto statement. The Bundle has no JSON. It keeps the payload; the caller must not change it afterwards. Errors wrap [ErrMalformed].
func ParseSimpleSigning(s SimpleSigning) (*Bundle, error) {
	wire, err := s.wire()
	if err != nil {
		return nil, fmt.Errorf("%w: simple signing: %w", ErrMalformed, err)
	}
	return &Bundle{wire: wire}, nil
}

// InsecureSimpleSigningClaims is [InsecureClaims] of a signature of cosign's old form.
func InsecureSimpleSigningClaims(s SimpleSigning) (*Claims, error) {
	wire, err := s.wire()
	if err != nil {
		return nil, fmt.Errorf("%w: simple signing: %w", ErrMalformed, err)
	}
	return wire.claims()
}

func (s SimpleSigning) wire() (wireBundle, error) {
	var none wireBundle
	if n := len(s.Payload); n == 0 || n > MaxSimpleSigning {
		return none, fmt.Errorf("the payload has %d bytes, and may have 1 to %d", n, MaxSimpleSigning)
	}
	var sig base64Bytes
	if err := sig.UnmarshalText([]byte(s.Annotations[annotationSignature])); err != nil {
		return none, fmt.Errorf("annotation %s: %w", annotationSignature, err)
	}
	w := wireBundle{MediaType: MediaType, Material: new(wireMaterial), Envelope: &wireEnvelope{
		Payload:     payloadText{text: base64.StdEncoding.AppendEncode(nil, s.Payload)},
		PayloadType: SimpleSigningType,
		Signatures:  list[wireSignature]{{Sig: sig}},
		plain:       true,
	}}
	for _, read := range []struct {
		annotation string
		into       func(text string) error
	}{
		{annotationCertificate, w.readCertificate},
		{annotationChain, w.readChain},
		{annotationLogEntry, w.readRekorBundle},
		{annotationTimestamp, w.readSimpleTimestamp},
	} {
		text := s.Annotations[read.annotation]
		if text == "" {
			continue // cosign writes an empty chain where there is none
		}
		if len(text) > maxString {
			return none, fmt.Errorf("annotation %s has %d bytes, more than %d", read.annotation, len(text), maxString)
		}
		if err := read.into(text); err != nil {
			return none, fmt.Errorf("annotation %s: %w", read.annotation, err)
		}
	}
	switch m := w.Material; {
	case m.Chain == nil:
		m.PublicKey = new(wirePublicKey)
	case len(m.LogEntries) > 0:
		w.MediaType = mediaTypeV01 // whose promises suffice
	}
	return w, errors.Join(w.check(), w.checkSignatures())
}

func (w *wireBundle) readCertificate(text string) error {
	certs, err := parseCertificates([]byte(text))
	if err == nil && len(certs) != 1 {
		err = fmt.Errorf("%d certificates, not one", len(certs))
	}
	if err != nil {
		return err
	}
	w.Material.Chain = &wireChain{Certificates: list[wireCertificate]{{RawBytes: certs[0].Raw}}}
	return nil
}

func (w *wireBundle) readChain(text string) error {
	if w.Material.Chain == nil {
		return errors.New("it needs a certificate beside it")
	}
	certs, err := parseCertificates([]byte(text))
	if err != nil {
		return err
	}
	for _, cert := range certs {
		if selfSigned(cert) {
			continue // cosign puts the root there, too, and verifiers have it
		}
		w.Material.Chain.Certificates = append(w.Material.Chain.Certificates, wireCertificate{RawBytes: cert.Raw})
	}
	return nil
}

func (w *wireBundle) readRekorBundle(text string) error {
	var kept wireRekorBundle
	if err := json.Unmarshal([]byte(text), &kept, json.RejectUnknownMembers(true)); err != nil {
		return describe(err)
	}
	id, err := hex.DecodeString(kept.Payload.LogID)
	if err != nil {
		return errors.New("logID is not in hex")
	}
	var body struct {
		Kind    string `json:"kind"`
		Version string `json:"apiVersion"`
	}
	if err := json.Unmarshal(kept.Payload.Body, &body); err != nil {
		return fmt.Errorf("body: %w", describe(err))
	}
	w.Material.LogEntries = list[wireLogEntry]{{
		LogIndex:          decimal(kept.Payload.LogIndex),
		LogID:             &wireLogID{KeyID: id},
		KindVersion:       &wireKind{Kind: body.Kind, Version: body.Version},
		IntegratedTime:    decimal(kept.Payload.IntegratedTime),
		InclusionPromise:  &wirePromise{SignedEntryTimestamp: kept.SignedEntryTimestamp},
		CanonicalizedBody: kept.Payload.Body,
	}}
	return nil
}

func (w *wireBundle) readSimpleTimestamp(text string) error {
	var kept wireSimpleTimestamp
	if err := json.Unmarshal([]byte(text), &kept, json.RejectUnknownMembers(true)); err != nil {
		return describe(err)
	}
	w.Material.Timestamps = &wireTimestamps{RFC3161: list[wireTimestamp]{{SignedTimestamp: kept.SignedRFC3161Timestamp}}}
	return nil
}

// digest is the sha256 of the payload, which was decoded before.
func (e *wireEnvelope) digest() []byte {
	h := sha256.New()
	_ = e.Payload.decode(h) // a hash takes everything
	return h.Sum(nil)
}

// errNoPromise is returned where a log gives no promise, which is all that a signature of cosign's old form can hold of it.
var errNoPromise = errors.New("cosign's old form holds an entry's promise, which logs of Rekor v2 do not give: sign with a log of Rekor v1, or with a key")

// signSimple signs payload as cosign did before bundles: with SHA-256 on every curve, as all readers of that form expect, and with pure Ed25519.
// material adds the other annotations; nil: none.
func (k *keypair) signSimple(ctx context.Context, payload []byte, material func(sig []byte) (map[string]string, error)) (SimpleSigning, error) {
	none := SimpleSigning{}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	message, hash := payload, crypto.Hash(0)
	if k.public.algorithm.sign != 0 {
		digest := sha256.Sum256(payload)
		message, hash = digest[:], crypto.SHA256
	}
	sig, err := k.key.Sign(rand.Reader, message, hash)
	if err != nil {
		return none, err
	}
	annotations := map[string]string{}
	if material != nil {
		if annotations, err = material(sig); err != nil {
			return none, err
		}
	}
	annotations[annotationSignature] = base64.StdEncoding.EncodeToString(sig)
	return SimpleSigning{Payload: payload, Annotations: annotations}, nil
}

// checkedSimple opens what was signed with the signer's own verifier.
func checkedSimple(s SimpleSigning, verifier Verifier) (SimpleSigning, error) {
	b, err := ParseSimpleSigning(s)
	if err == nil {
		_, err = b.Open(verifier)
	}
	if err != nil {
		return SimpleSigning{}, fmt.Errorf("check the new signature: %w", err)
	}
	return s, nil
}

func (s *keySigner) SignSimple(ctx context.Context, payload []byte) (SimpleSigning, error) {
	signed, err := s.keypair.signSimple(ctx, payload, nil)
	if err == nil {
		signed, err = checkedSimple(signed, s.verifier())
	}
	if err != nil {
		return SimpleSigning{}, fmt.Errorf("sign with %s: %w", s.verifier(), err)
	}
	return signed, nil
}

func (s *certificateSigner) SignSimple(ctx context.Context, payload []byte) (SimpleSigning, error) {
	signed, err := s.keypair.signSimple(ctx, payload, func([]byte) (map[string]string, error) {
		return certificateAnnotations(s.verifier.carries), nil
	})
	if err == nil {
		signed, err = checkedSimple(signed, s.verifier)
	}
	if err != nil {
		return SimpleSigning{}, fmt.Errorf("sign with %s: %w", s.verifier, err)
	}
	return signed, nil
}

// certificateAnnotations keeps certificates, the leaf first.
func certificateAnnotations(ders [][]byte) map[string]string {
	var text [2]strings.Builder
	for i, der := range ders {
		_ = pem.Encode(&text[min(i, 1)], &pem.Block{Type: pemCertificate, Bytes: der}) // a Builder takes everything
	}
	annotations := map[string]string{annotationCertificate: text[0].String()}
	if text[1].Len() > 0 {
		annotations[annotationChain] = text[1].String()
	}
	return annotations
}

func (s *sigstoreSigner) SignSimple(ctx context.Context, payload []byte) (SimpleSigning, error) {
	signed, err := s.signSimple(ctx, payload)
	if err != nil {
		return SimpleSigning{}, fmt.Errorf("sign with sigstore: %w", err)
	}
	return signed, nil
}

func (s *sigstoreSigner) signSimple(ctx context.Context, payload []byte) (SimpleSigning, error) {
	none := SimpleSigning{}
	services, err := s.config.services(time.Now())
	if err != nil {
		return none, err
	}
	// The form holds one entry, and one timestamp.
	log := slices.IndexFunc(services.logs, func(s root.Service) bool { return s.MajorAPIVersion == 1 })
	if log < 0 {
		return none, errNoPromise
	}
	certificate, err := s.certificate(ctx)
	if err != nil {
		return none, err
	}
	signed, err := certificate.keypair.signSimple(ctx, payload, func(sig []byte) (map[string]string, error) {
		annotations := certificateAnnotations([][]byte{certificate.leaf.Raw})
		if err := certificate.logSimple(ctx, services.logs[log], payload, sig, annotations); err != nil {
			return nil, fmt.Errorf("transparency log %s: %w", quote(services.logs[log].URL), serviceError(err))
		}
		if len(services.tsas) == 0 {
			return annotations, nil
		}
		token, err := requestTimestamp(ctx, s.client, services.tsas[0], sig)
		if err != nil {
			return nil, fmt.Errorf("timestamp authority %s: %w", quote(services.tsas[0]), err)
		}
		return annotations, annotateTimestamp(annotations, token)
	})
	if err != nil {
		return none, err
	}
	return checkedSimple(signed, certificate.verifier)
}

// logSimple has a log of Rekor v1 take the signature, and keeps its entry.
func (c *issued) logSimple(ctx context.Context, service root.Service, payload, sig []byte, annotations map[string]string) error {
	digest := sha256.Sum256(payload)
	entry, err := c.log(ctx, service, &protobundle.Bundle{
		MediaType: MediaType,
		VerificationMaterial: &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_Certificate{
			Certificate: &protocommon.X509Certificate{RawBytes: c.leaf.Raw},
		}},
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: digest[:]},
			Signature:     sig,
		}},
	})
	if err == nil && len(entry.GetInclusionPromise().GetSignedEntryTimestamp()) == 0 {
		err = errNoPromise
	}
	if err != nil {
		return err
	}
	kept := wireRekorBundle{SignedEntryTimestamp: entry.InclusionPromise.SignedEntryTimestamp}
	kept.Payload.Body = entry.CanonicalizedBody
	kept.Payload.IntegratedTime = entry.IntegratedTime
	kept.Payload.LogIndex = entry.LogIndex
	kept.Payload.LogID = hex.EncodeToString(entry.LogId.GetKeyId())
	return annotate(annotations, annotationLogEntry, kept)
}

func annotateTimestamp(annotations map[string]string, token []byte) error {
	return annotate(annotations, annotationTimestamp, wireSimpleTimestamp{token})
}

func annotate(annotations map[string]string, name string, value any) error {
	var text bytes.Buffer
	if err := json.MarshalWrite(&text, value); err != nil {
		return err
	}
	annotations[name] = text.String()
	return nil
}

func (s *timestampedSigner) SignSimple(ctx context.Context, payload []byte) (SimpleSigning, error) {
	signed, err := s.Signer.SignSimple(ctx, payload)
	if err != nil {
		return SimpleSigning{}, err
	}
	b, err := ParseSimpleSigning(signed)
	if err != nil {
		return SimpleSigning{}, err
	}
	fail := func(err error) (SimpleSigning, error) {
		return SimpleSigning{}, fmt.Errorf("timestamp by %s: %w", quote(s.endpoint.Redacted()), err)
	}
	token, err := requestTimestamp(ctx, s.client, s.endpoint.String(), b.wire.Envelope.Signatures[0].Sig)
	if err == nil {
		err = annotateTimestamp(signed.Annotations, token)
	}
	if err != nil {
		return fail(err)
	}
	verifier, err := s.Verifier(ctx)
	if err == nil {
		signed, err = checkedSimple(signed, verifier)
	}
	if err != nil {
		return fail(err)
	}
	return signed, nil
}
