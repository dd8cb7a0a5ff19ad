package bundle

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"
)

// A Signer signs payloads into bundles.
type Signer interface {
	// Sign signs each payload, as type [PayloadType], with one key or certificate. Each bundle is parsed and opened
	// with the signer's own verifier before any is returned. It returns as many bundles as there are payloads, or an error.
	Sign(ctx context.Context, payloads ...[]byte) ([]*Bundle, error)
	// SignSimple signs a payload of type [SimpleSigningType] in the form that cosign had before bundles. It is opened with the signer's own verifier before it is returned.
	// An identity needs a log of Rekor v1: the form has no room for what others prove.
	SignSimple(ctx context.Context, payload []byte) (SimpleSigning, error)
	// Verifier accepts exactly this signer. One whose certificate is still to be issued (see [NewSigstoreSigner]) asks for it now: hence the context and the error.
	Verifier(ctx context.Context) (Verifier, error)
}

// signAll signs payloads one by one and checks each result. material says what goes into a bundle beside the signature; empty: the key's hint.
func signAll(ctx context.Context, keypair sign.Keypair, material sign.BundleOptions, verifier Verifier, payloads [][]byte) ([]*Bundle, error) {
	bundles := make([]*Bundle, 0, len(payloads))
	for _, payload := range payloads {
		b, err := signOne(ctx, keypair, material, verifier, payload)
		if err != nil {
			return nil, fmt.Errorf("sign with %s: %w", verifier, err)
		}
		bundles = append(bundles, b)
	}
	return bundles, nil
}

func signOne(ctx context.Context, keypair sign.Keypair, material sign.BundleOptions, verifier Verifier, payload []byte) (*Bundle, error) {
	signed, err := envelope(ctx, keypair, material, payload)
	if err != nil {
		return nil, err
	}
	return checked(signed, verifier)
}

// envelope signs a payload and puts material beside it.
func envelope(ctx context.Context, keypair sign.Keypair, material sign.BundleOptions, payload []byte) (*protobundle.Bundle, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(payload) == 0 {
		return nil, errors.New("the payload is empty")
	}
	if base64.StdEncoding.EncodedLen(len(payload)) > MaxSize-envelopeSize {
		return nil, fmt.Errorf("a payload of %d bytes does not fit a bundle of %d bytes", len(payload), MaxSize)
	}
	material.Context = ctx
	return sign.Bundle(&statement{sign.DSSEData{Data: payload, PayloadType: PayloadType}}, keypair, material)
}

// checked writes a bundle, and opens what it wrote.
func checked(signed *protobundle.Bundle, verifier Verifier) (*Bundle, error) {
	data, err := marshal(signed)
	if err != nil {
		return nil, err
	}
	b, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("check the new bundle: %w", err)
	}
	if _, err := b.Open(verifier); err != nil {
		return nil, fmt.Errorf("check the new bundle: %w", err)
	}
	return b, nil
}

// envelopeSize is room, in bytes, for all of a bundle but its payload: most of it for certificates, as many and as large as they may be.
const envelopeSize = 1 << 20

// marshal writes a signed bundle in one allocation for the payload. protojson writes only the verification material:
// it varies its white space from build to build, so what it writes is compacted.
func marshal(b *protobundle.Bundle) ([]byte, error) {
	material, err := protojson.Marshal(b.GetVerificationMaterial())
	if err != nil {
		return nil, fmt.Errorf("marshal verification material: %w", err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, material); err != nil {
		return nil, fmt.Errorf("marshal verification material: %w", err)
	}
	payload, signature := b.GetDsseEnvelope().GetPayload(), b.GetDsseEnvelope().GetSignatures()[0].GetSig()

	out := make([]byte, 0, base64.StdEncoding.EncodedLen(len(payload))+len(signature)*2+compact.Len()+1<<10)
	out = append(out, `{"mediaType":"`+MediaType+`","verificationMaterial":`...)
	out = append(out, compact.Bytes()...)
	out = append(out, `,"dsseEnvelope":{"payload":"`...)
	out = base64.StdEncoding.AppendEncode(out, payload)
	out = append(out, `","payloadType":"`+PayloadType+`","signatures":[{"sig":"`...)
	out = base64.StdEncoding.AppendEncode(out, signature)
	return append(out, `"}]}}`...), nil
}

// A statement is the content that sign.Bundle signs. It encodes without the copies of the type it embeds: a payload may be half a GiB.
type statement struct{ sign.DSSEData }

func (s *statement) PreAuthEncoding() []byte {
	header := paeHeader(s.PayloadType, len(s.Data))
	return append(append(make([]byte, 0, len(header)+len(s.Data)), header...), s.Data...)
}

// paeHeader is the part of DSSE's pre-authentication encoding before the payload (OMS §6.7).
func paeHeader(payloadType string, payloadLen int) string {
	return fmt.Sprintf("DSSEv1 %d %s %d ", len(payloadType), payloadType, payloadLen)
}
