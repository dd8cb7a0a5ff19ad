package modelsig

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/referrers"
	"github.com/modelsig/modelsig/verify"
)

// A Listing is what is attached to an artifact. Nothing in it is verified.
type Listing struct {
	Reference string // canonical, with the digest
	Pinned    string // REPO@DIGEST
	Digest    string
	Index     string // digest of the index it was chosen from; "" without one
	Platform  string // what for, as the index says; "" if it does not
	Referrers []Attached
	// Incomplete is why there may be more; nil if this is everything.
	Incomplete error
}

// Attached is one referrer, as it describes itself, or one signature under
// cosign's old tag.
type Attached struct {
	Digest        string // of the manifest; of a signature under the old tag the image's
	ArtifactType  string
	PredicateType string // of the statement inside; "" if it is no bundle
	Kind          string // "model", "artifact", "statement" or "other"
	Method        string // "key", "certificate", "sigstore"; "" if it is no bundle
	Signer        string // the key hint or certificate subject it claims
	Issuer        string
	Names         int    // of the certificate; more than one are more than Signer
	LogEntries    int    // of transparency logs
	Logged        string // the earliest time that one of them claims, RFC 3339; "" without any
	Timestamps    int    // tokens of timestamp authorities
	Created       string // as claimed, RFC 3339
	Size          int64  // bytes of the bundle, or of the manifest
	Source        string // where it was listed
	Problem       string // why it could not be read; "" if it was
	Bundle        []byte // nil if it is no bundle, or could not be read
}

// List reads what is attached to the artifact that ref names: kind, signer as
// claimed, time, size. It authenticates nothing.
func (c *Client) List(ctx context.Context, ref string) (*Listing, error) {
	return c.ListPlatform(ctx, ref, "")
}

// ListPlatform is [Client.List] for the one manifest of an image index that is
// for platform, as OS/ARCH or OS/ARCH/VARIANT. "": what ref names, which may be
// the index itself.
func (c *Client) ListPlatform(ctx context.Context, ref, platform string) (*Listing, error) {
	r, err := oci.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	model, err := c.openSubject(ctx, r, platform)
	if err != nil {
		return nil, err
	}
	found, err := c.listAll(ctx, model)
	if err != nil {
		return nil, err
	}
	out := &Listing{Reference: model.Reference.String(), Pinned: pinned(model.Reference), Digest: model.Manifest.Descriptor.Digest.String(), Index: indexOf(model), Platform: model.Platform}
	for candidate := range found.Read(ctx) {
		out.Referrers = append(out.Referrers, attached(candidate))
	}
	old, err := c.listOld(ctx, model)
	if err != nil {
		return nil, err
	}
	out.Referrers = append(out.Referrers, old.Referrers...)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out.Incomplete = joined(found.Incomplete, old.Incomplete)
	return out, nil
}

// maxShown bounds a bundle that is taken apart only to show it, in bytes: what
// nobody signed for must not fill the memory.
const maxShown = 4 << 20

// maxClaim bounds a name that a bundle claims.
const maxClaim = 256

func clip(s string) string {
	if len(s) > maxClaim {
		return s[:maxClaim] + "…"
	}
	return s
}

func attached(c referrers.Candidate) Attached {
	a := Attached{
		Digest:        c.Descriptor.Digest.String(),
		ArtifactType:  c.ArtifactType,
		PredicateType: c.PredicateType,
		Kind:          "other",
		Size:          c.Descriptor.Size,
		Source:        c.Source,
	}
	if !c.Created.IsZero() {
		a.Created = c.Created.UTC().Format(time.RFC3339)
	}
	switch {
	case errors.Is(c.Err, referrers.ErrNotBundle):
		return a
	case c.Err != nil:
		a.Problem = c.Err.Error()
		return a
	}
	a.Size, a.Bundle = int64(len(c.Bundle)), c.Bundle
	if len(c.Bundle) > maxShown {
		a.Bundle, a.Problem = nil, "too large to be shown"
		return a
	}
	claims, err := bundle.InsecureClaims(c.Bundle)
	if err != nil {
		a.Problem = err.Error()
		return a
	}
	a.claim(claims)
	a.Kind = "statement"
	st, err := manifest.ParseStatement(claims.Payload)
	switch {
	case errors.Is(err, manifest.ErrStatementType):
		return a // somebody else's: the annotation has said what it is
	case err != nil:
		a.Problem = err.Error()
		return a
	}
	a.PredicateType, a.Kind = st.PredicateType, kindOf(st.PredicateType)
	return a
}

// claim records who a signature says that it is by.
func (a *Attached) claim(claims *bundle.Claims) {
	a.Method, a.Signer, a.Issuer = claims.Method, clip(claims.Hint), clip(claims.Issuer)
	if claims.Subject != "" {
		a.Signer = clip(claims.Subject)
	}
	a.Names, a.LogEntries, a.Timestamps = claims.Names, len(claims.LogEntries), claims.Timestamps
	for _, e := range claims.LogEntries {
		if t := e.Time.Format(time.RFC3339); !e.Time.IsZero() && (a.Logged == "" || t < a.Logged) {
			a.Logged = t
		}
	}
}

// listOld reads what is under cosign's old tag.
func (c *Client) listOld(ctx context.Context, model *oci.Model) (*Listing, error) {
	subject := model.Manifest.Descriptor
	tag, err := referrers.ReadSigTag(ctx, store(model), subject, c.limits())
	if err != nil {
		return nil, err
	}
	out := &Listing{Incomplete: tag.Incomplete}
	for found := range tag.Read(ctx) {
		a := Attached{Digest: tag.Digest.String(), ArtifactType: bundle.SimpleSigningType, Kind: "other", Size: int64(len(found.Payload)), Source: "tag " + tag.Tag}
		if err := a.describeOld(found, subject.Digest); err != nil {
			a.Problem = err.Error()
		}
		out.Referrers = append(out.Referrers, a)
	}
	return out, nil
}

func (a *Attached) describeOld(s referrers.SimpleSigning, subject digest.Digest) error {
	if s.Err != nil {
		return s.Err
	}
	claims, err := bundle.InsecureSimpleSigningClaims(simpleSigning(s))
	if err != nil {
		return err
	}
	a.claim(claims)
	named, _, err := verify.ReadSimpleSigning(claims.Payload)
	if err == nil && named != subject {
		err = fmt.Errorf("it is about %s", named)
	}
	if err == nil {
		a.Kind = "artifact"
	}
	return err
}
