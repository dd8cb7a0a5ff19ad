package modelsig

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.opentelemetry.io/otel/trace"

	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/referrers"
)

// An Outcome is what one of several targets came to: exactly one of Result and
// Err is nil.
type Outcome[T any] struct {
	Target string // canonical, with the digest
	Result *T
	Err    error
}

// SignIndex signs each manifest of the image index that ref names, in its
// order, and then the index itself. For the index there is an artifact signature
// only, since it has no files. What lies under the platform unknown/unknown is
// left out: the index's outcome has a warning for each.
//
// The error is about all: then nothing is signed or attached anywhere. It is
// returned unless every statement could be built and signed; what maps to no
// files needs ArtifactOnly. After that each outcome stands for itself.
// ModelOnly and Platform make no sense here, and are errors.
func (c *Client) SignIndex(ctx context.Context, ref string, signer Signer, o SignOptions) (outcomes []Outcome[Signature], err error) {
	if o.ModelOnly || o.Platform != "" {
		return nil, errors.New("sign an index: it has no model signature, and is signed for all platforms")
	}
	r, err := oci.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	if o.RequireDigest && r.Digest == "" {
		return nil, fmt.Errorf("sign %s: a digest is required (REPO@sha256:…)", r)
	}
	if err := wantOldTag(r, o); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	ctx, span := c.span(ctx, "Sign", referenceKind(r), r.String())
	var own *Signature
	defer endSign(span, &own, &err)
	index, err := c.openIndex(ctx, r)
	if err != nil {
		return nil, err
	}
	if r.Digest != "" {
		index.Reference.Tag = ""
	}
	members, leftOut, err := c.members(ctx, index)
	if err != nil {
		return nil, err
	}
	// Who signs an index wants all of it signed: no statement, no act.
	for _, m := range members {
		options := o
		if m.Manifest.IsIndex() {
			options.ArtifactOnly = true
		}
		sig, err := c.prepare(ctx, m, options)
		if err != nil {
			return nil, ofIndex(index, m, err)
		}
		outcomes = append(outcomes, Outcome[Signature]{Target: m.Reference.String(), Result: sig})
	}
	own = outcomes[len(outcomes)-1].Result
	own.Warnings = append(own.Warnings, leftOut...)
	if r.Digest == "" {
		own.Warnings = append(own.Warnings, fmt.Sprintf("signed by tag: %s now means %s", quoteTag(index.Reference), own.Digest))
	}
	if o.DryRun {
		return outcomes, nil
	}
	for i, m := range members {
		if err := c.signPrepared(ctx, m, signer, outcomes[i].Result, o); err != nil {
			return nil, ofIndex(index, m, err)
		}
	}
	// The index comes last: where it is signed, its manifests are.
	failed := 0
	for i, m := range members {
		err := error(nil)
		if m.Manifest.IsIndex() && failed > 0 {
			err = fmt.Errorf("sign %s: %d of its manifests could not be signed, and then neither is the index: %w", outcomes[i].Target, failed, referrers.ErrNotAttached)
		} else {
			err = keep(ctx, m, outcomes[i].Result, o)
		}
		if err != nil {
			failed++
			outcomes[i].Result, outcomes[i].Err = nil, err
		}
	}
	return outcomes, nil
}

// VerifyIndex decides about each manifest of the image index that ref names, in
// its order, and then about the index itself: each by its own signatures, for
// membership approves nothing (rule 21). What lies under the platform
// unknown/unknown is not judged: the index's outcome has a warning for each.
//
// The error is about all; it is a [*Denial] where the index is refused.
func (c *Client) VerifyIndex(ctx context.Context, ref string, policy Policy, o VerifyOptions) ([]Outcome[Verification], error) {
	if o.SignatureFile != "" || o.SignatureDigest != "" || o.Platform != "" {
		return nil, errors.New("verify an index: one signature, or one platform, is not about all of it")
	}
	r, err := oci.ParseReference(ref)
	if err != nil {
		return nil, refusedInput(ref, err)
	}
	index, err := c.openIndex(ctx, r)
	if err != nil {
		return nil, refusedInput(ref, err)
	}
	members, leftOut := slices.Clone(index.Children), []string(nil)
	var outcomes []Outcome[Verification]
	for _, child := range members {
		if child.IsAttestation() {
			leftOut = append(leftOut, notSelected(child))
			continue
		}
		target := index.Reference
		target.Tag, target.Digest = "", child.Descriptor.Digest
		v, err := c.verifyMember(ctx, target, func(ctx context.Context) (*oci.Model, error) { return c.openChild(ctx, index, child) }, policy, o)
		outcomes = append(outcomes, Outcome[Verification]{target.String(), v, err})
	}
	v, err := c.verifyMember(ctx, index.Reference, func(context.Context) (*oci.Model, error) { return index.Model, nil }, policy, o)
	if denied, ok := errors.AsType[*Denial](err); ok {
		denied.Verification.Warnings = append(denied.Verification.Warnings, leftOut...)
	} else if err == nil {
		v.Warnings = append(v.Warnings, leftOut...)
	}
	return append(outcomes, Outcome[Verification]{index.Reference.String(), v, err}), nil
}

func (c *Client) verifyMember(ctx context.Context, target oci.Reference, open func(context.Context) (*oci.Model, error), policy Policy, o VerifyOptions) (result *Verification, err error) {
	var span trace.Span
	ctx, span = c.span(ctx, "Verify", referenceKind(target), target.String())
	defer endVerify(span, &result, &err)
	model, err := open(ctx)
	if err != nil {
		return nil, refusedInput(target.String(), err)
	}
	return c.verifyOpened(ctx, model, policy, o)
}

// ofIndex says of which index, and for which platform, a manifest is that keeps
// all from being signed.
func ofIndex(index *oci.Index, m *oci.Model, err error) error {
	if m.Platform == "" {
		return fmt.Errorf("nothing of %s was signed: %w", index.Reference, err)
	}
	return fmt.Errorf("nothing of %s was signed: platform %s: %w", index.Reference, m.Platform, err)
}

// members opens what is signed of an index: its children, and last itself.
func (c *Client) members(ctx context.Context, index *oci.Index) (members []*oci.Model, leftOut []string, err error) {
	for _, child := range index.Children {
		if child.IsAttestation() {
			leftOut = append(leftOut, notSelected(child))
			continue
		}
		m, err := c.openChild(ctx, index, child)
		if err != nil {
			return nil, nil, err
		}
		members = append(members, m)
	}
	return append(members, index.Model), leftOut, nil
}

// notSelected is the warning about what is left out by rule (I02).
func notSelected(child oci.Child) string {
	return fmt.Sprintf("left out: %s, for platform %s", child.Descriptor.Digest, child.Platform)
}

func (c *Client) openIndex(ctx context.Context, r oci.Reference) (_ *oci.Index, err error) {
	ctx, span := child(ctx, "resolve")
	defer end(span, &err)
	client, err := c.registry()
	if err != nil {
		return nil, err
	}
	return client.OpenIndex(ctx, r)
}

func (c *Client) openChild(ctx context.Context, index *oci.Index, of oci.Child) (_ *oci.Model, err error) {
	ctx, span := child(ctx, "resolve")
	defer end(span, &err)
	return index.Open(ctx, of)
}

// Tags is what the tags of a repository name.
type Tags struct {
	References []string // canonical, one a tag, sorted
	// LeftOut are tags by which clients keep signatures and what else is about
	// a manifest: sha256-HEX, and cosign's with .sig, .att or .sbom.
	LeftOut []string
}

// Tags lists what the tags of a repository, or of an image layout, name. repo is
// HOST/REPO, oci:PATH or oci-archive:FILE, without a tag or digest. No tag that
// counts is an error: whoever asks for all does not expect none.
func (c *Client) Tags(ctx context.Context, repo string) (*Tags, error) {
	r, err := oci.ParseReference(repo)
	if err != nil {
		return nil, err
	}
	if r.Tag != "" || r.Digest != "" {
		return nil, fmt.Errorf("%s names one manifest: for all tags, name the repository alone", r)
	}
	client, err := c.registry()
	if err != nil {
		return nil, err
	}
	tags, err := client.Tags(ctx, r)
	if err != nil {
		return nil, err
	}
	out := new(Tags)
	for _, tag := range tags {
		if oci.IsAboutManifest(tag) {
			out.LeftOut = append(out.LeftOut, tag)
			continue
		}
		r.Tag = tag
		out.References = append(out.References, r.String())
	}
	if len(out.References) == 0 {
		return nil, fmt.Errorf("%s has no tags (%d that are about manifests were left out)", repo, len(out.LeftOut))
	}
	return out, nil
}
