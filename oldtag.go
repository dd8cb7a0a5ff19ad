package modelsig

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/referrers"
	"github.com/modelsig/modelsig/verify"
)

// An OldSignature is an artifact signature under cosign's old tag, in the form
// that podman, skopeo and CRI-O read.
type OldSignature struct {
	Payload []byte // what is signed: simple signing
	Tag     string // sha256-HEX.sig, in the model's repository
	Image   string // digest of the image of signatures; "" if not attached

	signed bundle.SimpleSigning
	there  bool // it was there and verifies
}

// wantOldTag says what of o keeps a signature from going under an old tag.
func wantOldTag(r oci.Reference, o SignOptions) error {
	switch {
	case !o.LegacyTag:
	case o.ModelOnly:
		return errors.New("an old tag holds an artifact signature, and none is made")
	case o.NoAttach:
		return errors.New("an old tag is where a signature is attached, and none is")
	case !r.IsRegistry():
		return fmt.Errorf("%s: old tags are for registries: nobody reads them elsewhere", r)
	}
	return nil
}

// prepareOld builds what is signed under the old tag.
func prepareOld(model *oci.Model, o SignOptions) (*OldSignature, error) {
	if !o.LegacyTag {
		return nil, nil
	}
	subject := model.Manifest.Descriptor
	name := model.Reference
	name.Tag, name.Digest = "", ""
	payload, err := verify.SimpleSigning(subject, name.Name(), o.Annotations)
	if err != nil {
		return nil, err
	}
	return &OldSignature{Payload: payload, Tag: referrers.SigTag(subject.Digest)}, nil
}

// signOld signs it, unless this very signature is there (rule 15).
func (c *Client) signOld(ctx context.Context, model *oci.Model, signer Signer, sig *Signature) error {
	old := sig.Old
	if old == nil {
		return nil
	}
	tag, err := referrers.ReadSigTag(ctx, store(model), model.Manifest.Descriptor, c.limits())
	if err != nil {
		return fmt.Errorf("sign %s: %w", sig.Target, err)
	}
	for found := range tag.Read(ctx) {
		if found.Err != nil || !bytes.Equal(found.Payload, old.Payload) {
			continue
		}
		own, err := signer.Verifier(ctx)
		if err != nil {
			return fmt.Errorf("sign %s: %w", sig.Target, err)
		}
		parsed, err := bundle.ParseSimpleSigning(simpleSigning(found))
		if err != nil {
			continue
		}
		if _, err := parsed.Open(own); err == nil {
			old.there, old.Image = true, tag.Digest.String()
			return nil
		}
	}
	if old.signed, err = signer.SignSimple(ctx, old.Payload); err != nil {
		return fmt.Errorf("sign %s: %w", sig.Target, err)
	}
	return nil
}

// keepOld puts it under the old tag.
func keepOld(ctx context.Context, model *oci.Model, sig *Signature) error {
	old := sig.Old
	if old == nil || old.there {
		return nil
	}
	image, err := referrers.AddToSigTag(ctx, store(model), model.Manifest.Descriptor,
		referrers.SimpleSigning{Payload: old.signed.Payload, Annotations: old.signed.Annotations})
	if err != nil {
		return fmt.Errorf("sign %s: %w", sig.Target, err)
	}
	old.Image = image.String()
	return nil
}

func simpleSigning(s referrers.SimpleSigning) bundle.SimpleSigning {
	return bundle.SimpleSigning{Payload: s.Payload, Annotations: s.Annotations}
}

// older is the evidence that clients left where those of today do not look
// first: under the fallback tag, where the registry has got the Referrers API
// since, and under cosign's old tag. Nothing is asked for before the first
// candidate is. incomplete is to be asked afterwards.
func (c *Client) older(ctx context.Context, model *oci.Model, found *referrers.Listing) (older iter.Seq[verify.Candidate], incomplete func() error) {
	var unread error
	older = func(yield func(verify.Candidate) bool) {
		rest, err := found.Rest(ctx)
		if err != nil {
			unread = err
			return
		}
		unread = rest.Incomplete
		for candidate := range candidates(ctx, rest) {
			if !yield(candidate) {
				return
			}
		}
		tag, err := referrers.ReadSigTag(ctx, store(model), model.Manifest.Descriptor, c.limits())
		if err != nil {
			unread = joined(unread, err)
			return
		}
		unread = joined(unread, tag.Incomplete)
		for signature := range tag.Read(ctx) {
			candidate := verify.Candidate{Referrer: tag.Tag, Err: signature.Err, Unread: errors.Is(signature.Err, referrers.ErrUnread)}
			if signature.Err == nil {
				simple := simpleSigning(signature)
				candidate.SimpleSigning = &simple
			}
			if !yield(candidate) {
				return
			}
		}
	}
	return older, func() error { return unread }
}

// joined is two errors, either of which may be nil, in one line.
func joined(a, b error) error {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	return fmt.Errorf("%w; %w", a, b)
}
