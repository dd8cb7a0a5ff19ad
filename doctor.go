package modelsig

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/referrers"
	"github.com/modelsig/modelsig/verify"
)

// DoctorOptions are what may be said about one examination.
type DoctorOptions struct {
	// Fix puts right what can be: see [referrers.Examination.Repair].
	Fix bool
	// Referrers are digests of referrers that nothing lists and that Fix lists
	// again.
	Referrers []string
}

// A Diagnosis says how what is attached to an artifact is listed. Nothing in it
// is verified.
type Diagnosis struct {
	Kind      string // KindArtifact, or KindLayout, whose one list is index.json
	Reference string // canonical, with the digest
	Pinned    string // REPO@DIGEST
	Digest    string

	// API and Tag are the lists; Filter is what becomes of ?artifactType=.
	// After Fix they, and all that follows, are what was found then.
	referrers.Examination

	// Before are the problems that there were before Fix; nil without it.
	Before []Finding
	// Findings are the problems that there are.
	Findings []Finding
	Cosign   CosignView
}

// A Finding is one problem of one entry.
type Finding struct {
	Digest  string // of the referrer; "" for an entry that names nothing
	Code    string // one of referrers' Problem constants
	Message string
}

// A CosignView is what cosign finds: it lists by the API and, where that is
// absent, by the tag, and reads what is a bundle.
type CosignView struct {
	Bundles int // that it finds
	Hidden  int // that are there and that it does not find
	// Signed: one of those that it finds claims to be an artifact signature.
	Signed bool
	// Signatures and Attestations say whether its old tags sha256-HEX.sig and
	// .att are there: "yes", "no" or "unknown".
	Signatures, Attestations string
}

// Healthy reports whether everything was looked at and nothing is wrong.
func (d *Diagnosis) Healthy() bool { return len(d.Findings) == 0 && !d.Unsure() }

// Unsure reports whether something could not be looked at.
func (d *Diagnosis) Unsure() bool {
	for _, f := range d.Findings {
		if f.Code == referrers.ProblemUnread {
			return true
		}
	}
	return d.API.State == referrers.SourceBroken || d.Tag.State == referrers.SourceBroken && d.API.State != referrers.SourceThere
}

// Doctor looks at how what is attached to the artifact that ref names is
// listed: by the Referrers API, by the fallback index, by both. What no list
// names no API can show: who knows its digest says so in the options.
func (c *Client) Doctor(ctx context.Context, ref string, o DoctorOptions) (*Diagnosis, error) {
	if !o.Fix && len(o.Referrers) > 0 {
		return nil, errors.New("doctor: referrers are named only to be listed again, with fix")
	}
	model, err := c.open(ctx, ref)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Diagnosis, error) {
		return nil, fmt.Errorf("doctor %s: %w", model.Reference, err)
	}
	s, subject := store(model), model.Manifest.Descriptor
	found, err := referrers.Examine(ctx, s, subject)
	if err != nil {
		return fail(err)
	}
	out := &Diagnosis{Kind: verificationOf(model).Kind, Reference: model.Reference.String(), Pinned: pinned(model.Reference), Digest: subject.Digest.String()}
	if o.Fix {
		out.Before = findings(found)
		var more []digest.Digest
		for _, d := range o.Referrers {
			more = append(more, digest.Digest(d))
		}
		if err := found.Repair(ctx, more...); err != nil {
			return fail(err)
		}
		if found, err = referrers.Examine(ctx, s, subject); err != nil {
			return fail(err)
		}
		for _, d := range more {
			if !lists(found, d) {
				return fail(fmt.Errorf("referrer %s: it is there, and still not listed", d))
			}
		}
	}
	out.Examination, out.Findings = *found, findings(found)
	out.Cosign = CosignView{Signatures: "no", Attestations: "no"} // it does not look into layouts
	if out.Kind == KindArtifact {
		out.Cosign = c.cosignView(ctx, model, found)
	}
	if err := ctx.Err(); err != nil {
		return fail(context.Cause(ctx))
	}
	return out, nil
}

func lists(x *referrers.Examination, d digest.Digest) bool {
	for _, e := range x.Entries {
		if e.Digest == d {
			return true
		}
	}
	return false
}

func findings(x *referrers.Examination) []Finding {
	var all []Finding
	for _, e := range x.Entries {
		for _, p := range e.Problems {
			all = append(all, Finding{e.Digest.String(), p.Code, p.Message})
		}
	}
	return all
}

// cosignView says what cosign would find.
func (c *Client) cosignView(ctx context.Context, model *oci.Model, x *referrers.Examination) CosignView {
	var v CosignView
	for _, e := range x.Entries {
		seen := e.InAPI || e.InTag && x.API.State == referrers.SourceAbsent
		switch {
		case !e.Bundle:
		case !seen:
			v.Hidden++
		default:
			v.Bundles++
			v.Signed = v.Signed || e.PredicateType == verify.PredicateArtifact
		}
	}
	there := func(suffix string) string {
		r := model.Reference
		r.Tag, r.Digest = "sha256-"+r.Digest.Encoded()+suffix, ""
		_, err := c.openSubject(ctx, r, "")
		switch {
		case err == nil, isThreat(err), errors.Is(err, oci.ErrIndex):
			return "yes"
		case errors.Is(err, oci.ErrNotFound):
			return "no"
		}
		return "unknown"
	}
	v.Signatures, v.Attestations = there(".sig"), there(".att")
	return v
}
