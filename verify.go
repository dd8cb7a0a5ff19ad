package modelsig

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/referrers"
	"github.com/modelsig/modelsig/verify"
)

// VerifyOptions are what may be said about one verification beside the policy.
type VerifyOptions struct {
	// SignatureFile is the one bundle to judge by. For local models it is
	// required; for artifacts "" means what is attached.
	SignatureFile string

	// SignatureDigest names the one referrer to judge by; "": all.
	SignatureDigest string

	// PathAnnotation and Allow are as in SignOptions: an artifact whose
	// layers can be read in two ways is compared by files only with them.
	PathAnnotation string
	Allow          manifest.Allow

	// VerifyContent reads every layer of an artifact and compares it with its
	// digest. By default layers are read only where a verdict needs the files
	// in archives.
	VerifyContent bool

	// Platform chooses the one manifest of an image index that is for it, as
	// OS/ARCH or OS/ARCH/VARIANT: the verdict is about that one. "": about what
	// is named, which may be the index itself.
	Platform string

	// IgnorePaths are local files and folders to leave out, relative to the
	// model or absolute.
	IgnorePaths []string

	// AllowSymlinks follows links to regular files inside a local folder. It
	// is the verifier's own choice, whatever the signature says.
	AllowSymlinks bool
}

// Kinds of targets, as answers name them.
const (
	KindArtifact = "artifact" // in a registry
	KindLayout   = "layout"   // in an image layout
	KindManifest = "manifest" // a manifest on disk
	KindDir      = "directory"
	KindFile     = "file"
)

// A Verification is a yes and what it was about. A no is an error: the
// Verification inside an [*Denial] says what is known.
type Verification struct {
	Report
	Target    string // what was judged: the canonical reference, or the path
	Kind      string // one of the Kind constants
	Reference string // canonical, with the digest; "" without a registry or layout
	Pinned    string // REPO@DIGEST; "" without a registry or layout
	Digest    string // of the manifest that was judged; "" for local files alone
	Index     string // digest of the index it was chosen from; "" without one
	Platform  string // what for, as the index says; "" if it does not
}

// A Denial is a verification that did not end with yes. It wraps ErrRefused
// or ErrUnknown.
type Denial struct {
	Verification *Verification
	Err          error
}

func (d *Denial) Error() string { return fmt.Sprintf("verify %s: %v", d.Verification.Target, d.Err) }
func (d *Denial) Unwrap() error { return d.Err }

// Verify decides about the artifact that ref names. A tag is resolved once;
// the verdict is about that digest, which the result has. No layer is read,
// unless the options or a statement that names no manifest ask for it.
// What is said about an index says nothing about its manifests, nor the other
// way round: see Platform, and [Client.VerifyIndex].
//
// No and "could not tell" are a [*Denial]. Failures before there is anything
// to judge, such as a registry that cannot be reached, are plain errors.
func (c *Client) Verify(ctx context.Context, ref string, policy Policy, o VerifyOptions) (result *Verification, err error) {
	r, err := oci.ParseReference(ref)
	if err != nil {
		return nil, refusedInput(ref, err)
	}
	ctx, span := c.span(ctx, "Verify", referenceKind(r), r.String())
	defer endVerify(span, &result, &err)
	model, err := c.openSubject(ctx, r, o.Platform)
	if err != nil {
		return nil, refusedInput(ref, err)
	}
	return c.verifyOpened(ctx, model, policy, o)
}

// verifyOpened judges what a reference turned out to name.
func (c *Client) verifyOpened(ctx context.Context, model *oci.Model, policy Policy, o VerifyOptions) (*Verification, error) {
	return c.verifyModel(ctx, verificationOf(model), model, nil, policy, o)
}

// verificationOf says what a verification of model is about.
func verificationOf(model *oci.Model) Verification {
	v := Verification{
		Target:    model.Reference.String(),
		Kind:      KindArtifact,
		Reference: model.Reference.String(),
		Pinned:    pinned(model.Reference),
		Digest:    model.Manifest.Descriptor.Digest.String(),
		Index:     indexOf(model),
		Platform:  model.Platform,
	}
	if model.Layout != nil {
		v.Kind = KindLayout
	}
	return v
}

// verifyModel judges a model that was resolved, and a local folder against it
// where local is not nil.
func (c *Client) verifyModel(ctx context.Context, v Verification, model *oci.Model, local *verify.Local, policy Policy, o VerifyOptions) (*Verification, error) {
	subject := verify.Subject{Artifact: c.artifact(model.Manifest, model, o), Local: local}
	if model.Manifest.Config.Digest != ocispec.DescriptorEmptyJSON.Digest {
		// A name for a config with content could excuse a removed file.
		subject.Artifact.Pseudo = nil
	}
	evidence, err := c.evidence(ctx, model, o)
	if err != nil {
		return nil, err
	}
	return decide(ctx, v, policy, subject, evidence)
}

// evidence is the bundle the caller named, or what is attached to the model.
func (c *Client) evidence(ctx context.Context, model *oci.Model, o VerifyOptions) (verify.Evidence, error) {
	if o.SignatureFile != "" && o.SignatureDigest != "" {
		return verify.Evidence{}, errors.New("a signature file and the digest of a referrer name two signatures: the verdict rests on one")
	}
	if o.SignatureFile != "" {
		data, err := readSignature(o.SignatureFile, signatureLimit(len(model.Manifest.Layers)))
		if err != nil {
			return verify.Evidence{}, err
		}
		return oneBundle(o.SignatureFile, data), nil
	}
	s, subject := store(model), model.Manifest.Descriptor
	list := func(ctx context.Context) (*referrers.Listing, error) {
		return referrers.ListFirst(ctx, s, subject, approves, c.limits())
	}
	if o.SignatureDigest != "" {
		d, err := digest.Parse(o.SignatureDigest)
		if err != nil {
			return verify.Evidence{}, fmt.Errorf("signature digest %q: %w", o.SignatureDigest, err)
		}
		list = func(context.Context) (*referrers.Listing, error) { return referrers.Only(s, subject, d, c.limits()) }
	}
	found, err := listing(ctx, list)
	if err != nil {
		return verify.Evidence{}, err
	}
	c.log().DebugContext(ctx, "listed referrers", "subject", model.Reference.String(), "count", len(found.Referrers), "incomplete", found.Incomplete)
	evidence := verify.Evidence{
		Candidates: candidates(ctx, found),
		Incomplete: func() error { return found.Incomplete },
	}
	if o.SignatureDigest == "" {
		older, unread := c.older(ctx, model, found)
		evidence.Older = older
		evidence.Incomplete = func() error { return joined(found.Incomplete, unread()) }
	}
	return evidence, nil
}

// listAll lists everything that is attached to a model.
func (c *Client) listAll(ctx context.Context, model *oci.Model) (*referrers.Listing, error) {
	return listing(ctx, func(ctx context.Context) (*referrers.Listing, error) {
		return referrers.List(ctx, store(model), model.Manifest.Descriptor, approves, c.limits())
	})
}

// listing lists, under a span of its own.
func listing(ctx context.Context, list func(context.Context) (*referrers.Listing, error)) (found *referrers.Listing, err error) {
	ctx, span := child(ctx, "list")
	defer endList(span, &found, &err)
	return list(ctx)
}

// VerifyManifest decides about the bytes of a manifest, as `skopeo inspect
// --raw` prints them, by the bundle in o.SignatureFile. No file is hashed.
//
// file is "" where the caller knows that data is a manifest. Where it only
// looks like one, file is the path it was read from, and the statement decides
// what it is about (rule 2): if the statement lists a file of that name, and
// does not name this very manifest, the file's bytes are hashed.
func (c *Client) VerifyManifest(ctx context.Context, data []byte, file string, policy Policy, o VerifyOptions) (result *Verification, err error) {
	ctx, span := c.span(ctx, "Verify", KindManifest, targetName(file))
	defer endVerify(span, &result, &err)
	m, err := oci.ParseManifest(data, "")
	if err != nil && file != "" {
		// It only looked like one. Hashing the bytes is always safe.
		return c.verifyDir(ctx, file, policy, o)
	}
	if err != nil {
		return nil, refusedInput(targetName(file), err)
	}
	bundleData, err := readSignature(o.SignatureFile, signatureLimit(len(m.Layers)))
	if err != nil {
		return nil, err
	}
	subject := verify.Subject{Artifact: c.artifact(m, nil, o)}
	if file != "" {
		local, dir, err := c.local(ctx, file, &policy, o)
		if err != nil {
			return nil, refusedInput(file, err)
		}
		defer dir.Close()
		subject.Local, subject.Artifact.FileName = local, dir.Name()
	}
	v := Verification{Target: targetName(file), Kind: KindManifest, Digest: m.Descriptor.Digest.String()}
	return decide(ctx, v, policy, subject, oneBundle(o.SignatureFile, bundleData))
}

// targetName is what a manifest is called in answers.
func targetName(file string) string {
	if file == "" {
		return "manifest"
	}
	return file
}

// oneBundle is evidence that the caller brought.
func oneBundle(name string, data []byte) verify.Evidence {
	return verify.Evidence{Candidates: func(yield func(verify.Candidate) bool) {
		yield(verify.Candidate{Referrer: name, Bundle: data})
	}}
}

// decide asks for the verdict and says what it was about.
func decide(ctx context.Context, v Verification, policy Policy, subject verify.Subject, evidence verify.Evidence) (_ *Verification, err error) {
	ctx, span := child(ctx, "decide")
	defer end(span, &err)
	report, err := verify.Decide(ctx, policy, subject, evidence)
	asFile := func() {
		if subject.Artifact != nil && subject.Artifact.FileName != "" && v.Hashed {
			v.Kind, v.Digest = KindFile, "" // it was not read as a manifest after all
		}
	}
	if denied, ok := errors.AsType[*verify.Error](err); ok {
		v.Report = *denied.Report
		asFile()
		return nil, &Denial{Verification: &v, Err: err}
	}
	if err != nil {
		return nil, err
	}
	v.Report = *report
	asFile()
	return &v, nil
}

// refusedInput turns a threat in the input itself into a refusal, so that it
// is answered like every other no; other errors stay what they are.
func refusedInput(target string, err error) error {
	threat, ok := errors.AsType[*manifest.ThreatError](err)
	if !ok {
		return err
	}
	report := Report{Verdict: verify.Refused, Reasons: []verify.Reason{{Code: threat.Code, Message: err.Error()}}}
	return &Denial{Verification: &Verification{Target: target, Report: report}, Err: &verify.Error{Report: &report}}
}
