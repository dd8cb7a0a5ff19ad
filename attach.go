package modelsig

import (
	"bytes"
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/referrers"
	"github.com/modelsig/modelsig/verify"
)

// AttachedBundle is what AttachBundle did.
type AttachedBundle struct {
	Reference     string // canonical, with the digest
	Pinned        string // REPO@DIGEST
	Digest        string // of the manifest
	Referrer      string // digest of the referrer's manifest
	PredicateType string // of the statement inside
	Kind          string // "model", "artifact" or "statement"
	Unchanged     bool   // the same bytes were attached already: nothing was added
	// ModelOnly: it is a model signature and no artifact signature is there, so
	// that cosign and what asks it will not see that the artifact is signed.
	ModelOnly bool
}

// AttachBundle attaches a Sigstore bundle that was made elsewhere to the
// artifact that ref names, and reads it back. It authenticates nothing: whose
// signature it is, is for who verifies. But a bundle that is about another
// manifest, or that no verification would accept whoever signed it, is refused:
// the error wraps [ErrRefused]. One that is attached with the same bytes is
// not attached again.
//
// The referrer has no creation time, so that the same bundle gives the same
// referrer: what was interrupted is finished by doing it again.
func (c *Client) AttachBundle(ctx context.Context, ref string, data []byte) (*AttachedBundle, error) {
	model, err := c.open(ctx, ref)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*AttachedBundle, error) {
		return nil, fmt.Errorf("attach to %s: %w", model.Reference, err)
	}
	claims, err := bundle.InsecureClaims(data)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", ErrRefused, err))
	}
	if claims.Payload == nil || claims.Signatures != 1 {
		return fail(fmt.Errorf("%w: the bundle holds no statement with one signature", ErrRefused))
	}
	subject := c.artifact(model.Manifest, model, VerifyOptions{})
	if model.Manifest.Config.Digest != ocispec.DescriptorEmptyJSON.Digest {
		subject.Pseudo = nil // as in verifyModel
	}
	predicateType, err := verify.About(ctx, claims.Payload, subject)
	if err != nil {
		return fail(fmt.Errorf("the bundle is not about it: %w", err))
	}
	if limit := sizeLimit(predicateType); len(data) > limit {
		return fail(fmt.Errorf("%w: a bundle of %d bytes would not be read back: the limit is %d", ErrRefused, len(data), limit))
	}
	out := &AttachedBundle{
		Reference: model.Reference.String(), Pinned: pinned(model.Reference), Digest: model.Manifest.Descriptor.Digest.String(),
		PredicateType: predicateType, Kind: kindOf(predicateType),
	}
	s := store(model)
	artifactSigned, err := c.findSame(ctx, s, model.Manifest.Descriptor, data, out)
	if err != nil {
		return fail(err)
	}
	out.ModelOnly = out.Kind == "model" && !artifactSigned
	if out.Unchanged {
		return out, nil
	}
	attached, err := referrers.Attach(ctx, s, model.Manifest.Descriptor, referrers.Attachment{Bundle: data, PredicateType: predicateType})
	if err != nil {
		return nil, err
	}
	out.Referrer = attached[0].Digest.String()
	return out, nil
}

// sizeLimit is how large a bundle may be to be read back from a registry.
func sizeLimit(predicateType string) int {
	if predicateType == verify.PredicateArtifact {
		return referrers.MaxArtifactBundle
	}
	return referrers.MaxModelBundle
}

// kindOf is what a predicate type is called in answers.
func kindOf(predicateType string) string {
	switch {
	case predicateType == verify.PredicateArtifact:
		return "artifact"
	case manifest.IsOMS(predicateType):
		return "model"
	}
	return "statement"
}

// findSame looks for a bundle with the same bytes, and for an artifact signature
// of anybody. What cannot be read is treated as absent: then we attach.
func (c *Client) findSame(ctx context.Context, s referrers.Store, subject ocispec.Descriptor, data []byte, out *AttachedBundle) (artifactSigned bool, err error) {
	listing, err := referrers.List(ctx, s, subject, func(t string) bool { return t == out.PredicateType }, c.limits())
	if err != nil {
		return false, err
	}
	for candidate := range listing.Read(ctx) {
		if candidate.Err != nil {
			continue
		}
		artifactSigned = artifactSigned || candidate.PredicateType == verify.PredicateArtifact
		if bytes.Equal(candidate.Bundle, data) {
			out.Referrer, out.Unchanged = candidate.Descriptor.Digest.String(), true
		}
		if out.Unchanged && artifactSigned {
			break
		}
	}
	return artifactSigned, ctx.Err()
}
