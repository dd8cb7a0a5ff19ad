package modelsig

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/referrers"
	"github.com/modelsig/modelsig/verify"
)

// SignOptions are what may be said about one act of signing. The zero value
// makes both signatures and attaches them.
type SignOptions struct {
	// ModelOnly and ArtifactOnly leave out the other signature of an artifact.
	// ArtifactOnly reads no layer and works for any shape of artifact.
	ModelOnly, ArtifactOnly bool

	// NoAttach signs and attaches nothing; the bundles are in the result.
	NoAttach bool

	// LegacyTag also signs in the form that cosign had before bundles, under
	// the tag sha256-HEX.sig: podman, skopeo and CRI-O read nothing else. It
	// needs a registry, an artifact signature, and for an identity a log of
	// Rekor v1.
	LegacyTag bool

	// DryRun says what would be signed: the statements are in the result, and
	// nothing is signed or attached.
	DryRun bool

	// RequireDigest refuses references without a digest: a tag may move
	// between the moment the model was checked and the moment it is signed.
	RequireDigest bool

	// Annotations are recorded in the artifact signature. Names that begin
	// with "modelsig." are refused.
	Annotations map[string]string

	// Platform chooses the one manifest of an image index that is for it, as
	// OS/ARCH or OS/ARCH/VARIANT, and is recorded. "": an index is an error.
	Platform string

	// Layout refuses an artifact whose layers are read as files in another
	// way; "": whatever is found is used and recorded.
	Layout string

	// PathAnnotation picks "title" or "filepath" where layers have both and
	// they differ. "": refused then.
	PathAnnotation string

	// VerifyContent reads every layer of an artifact and compares it with its
	// digest before that is signed. By default only archives are read, whose
	// files are not known otherwise; of a raw layer the signer vouches for the
	// digest in the manifest.
	VerifyContent bool

	// Allow accepts ambiguous inputs by name; nil refuses them all. In a local
	// folder an ambiguous name is a warning, and Allow silences it; what stands
	// in a file's place (a Git LFS pointer, an unfinished download) is refused.
	Allow manifest.Allow

	// Hashing is how local files are hashed; the zero value: whole files,
	// SHA-256. Artifacts are signed by what registries call their layers by:
	// anything else is an error for them.
	Hashing manifest.Hashing

	// IgnorePaths are left out of the signature of a local folder, and
	// recorded in it: files or folders, relative to the model or absolute.
	IgnorePaths []string

	// IncludeGitPaths signs .git, .gitignore, .gitattributes and .github at
	// the top of a local folder like all else. By default they are left out,
	// and that is recorded.
	IncludeGitPaths bool

	// AllowSymlinks follows links to regular files inside a local folder.
	AllowSymlinks bool

	// SignatureFile is where the signature of a local model will lie; it is
	// left out of the model. The caller writes it.
	SignatureFile string
}

// A Signature is what one act of signing made or, with DryRun, would make.
type Signature struct {
	Target     string        // what was signed, canonical
	Pinned     string        // REPO@DIGEST; "" without a registry or layout
	Digest     string        // of the manifest; "" for local files
	Index      string        // digest of the index it was chosen from; "" without one
	Platform   string        // what for, as the index says; "" if it does not
	Layout     string        // how layers were read as files; "" for local files
	Root       string        // OMS root digest in hex; "" if there is no model signature
	Files      int           // files in the model signature
	Bytes      int64         // their size
	Model      *Signed       // nil with ArtifactOnly
	Artifact   *Signed       // nil with ModelOnly, and for local files
	Old        *OldSignature // nil without LegacyTag
	Unchanged  bool          // all signatures were there and verify: nothing was added
	Warnings   []string      // what a person should know
	FromDigest bool          // signed from a manifest's digests: no file was hashed

	serialization manifest.Serialization // of the model signature, for its span
	method        string                 // of signing, for the span; "" if nothing was signed
}

// Signed is one signature.
type Signed struct {
	Statement []byte // the in-toto statement
	Bundle    []byte // nil with DryRun
	Referrer  string // digest of the referrer's manifest; "" if not attached
}

// Sign signs the artifact that ref names: HOST/REPO:TAG, HOST/REPO@DIGEST or
// oci:PATH:TAG. It reads the manifest, and of the layers only archives, signs
// both statements, attaches the bundles and reads them back. If both signatures
// of this signer are there and verify, it adds nothing.
//
// An error after which nothing is attached wraps [referrers.ErrNotAttached];
// hostile names and shapes are a [*manifest.ThreatError].
func (c *Client) Sign(ctx context.Context, ref string, signer Signer, o SignOptions) (result *Signature, err error) {
	if o.ModelOnly && o.ArtifactOnly {
		return nil, errors.New("sign: model signature only and artifact signature only exclude each other")
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
	defer endSign(span, &result, &err)
	model, err := c.openReference(ctx, r, o.Platform)
	if err != nil {
		return nil, err
	}
	if r.Digest != "" {
		// The digest counts: what the tag means was not asked, and is not
		// attested.
		model.Reference.Tag = ""
	}
	sig, err := c.signModel(ctx, model, signer, o)
	if err == nil && r.Digest == "" {
		means := sig.Digest
		if sig.Index != "" {
			means = "the index " + sig.Index
		}
		sig.Warnings = append(sig.Warnings, fmt.Sprintf("signed by tag: %s now means %s", quoteTag(r), means))
	}
	return sig, err
}

// signModel signs a model that was resolved.
func (c *Client) signModel(ctx context.Context, model *oci.Model, signer Signer, o SignOptions) (*Signature, error) {
	sig, err := c.prepare(ctx, model, o)
	if err != nil || o.DryRun {
		return sig, err
	}
	if err := c.signPrepared(ctx, model, signer, sig, o); err != nil {
		return nil, err
	}
	if err := keep(ctx, model, sig, o); err != nil {
		return nil, err
	}
	return sig, nil
}

// prepare builds what will be signed for a model.
func (c *Client) prepare(ctx context.Context, model *oci.Model, o SignOptions) (*Signature, error) {
	ref := model.Reference
	o.Platform = model.Platform // as the index says it, not as it was asked for
	sig, err := c.statements(ctx, model.Manifest, model, lastSegment(ref.Repository+filepath.ToSlash(ref.Layout+ref.Archive)), ref.Repository, ref.Tag, o)
	if err != nil {
		return nil, err
	}
	sig.Target, sig.Pinned, sig.Index, sig.Platform = ref.String(), pinned(ref), indexOf(model), model.Platform
	sig.Old, err = prepareOld(model, o)
	return sig, err
}

// signPrepared signs what prepare built, unless it is there already.
func (c *Client) signPrepared(ctx context.Context, model *oci.Model, signer Signer, sig *Signature, o SignOptions) error {
	if !o.NoAttach {
		if err := c.findOwn(ctx, store(model), model, signer, sig); err != nil {
			return err
		}
	}
	// It comes first: what cannot be signed in this form is not logged in another.
	if err := c.signOld(ctx, model, signer, sig); err != nil || sig.Unchanged {
		return err
	}
	return signStatements(ctx, signer, sig)
}

// keep attaches what was signed, where that was asked for.
func keep(ctx context.Context, model *oci.Model, sig *Signature, o SignOptions) error {
	if o.NoAttach {
		return nil
	}
	if !sig.Unchanged {
		if err := attach(ctx, store(model), model, sig); err != nil {
			return err
		}
	}
	if err := keepOld(ctx, model, sig); err != nil {
		return err
	}
	sig.Unchanged = sig.Unchanged && (sig.Old == nil || sig.Old.there)
	return nil
}

// SignManifest signs a manifest on disk from its digests: no file is hashed
// and nothing is attached. name is what the manifest is called, for messages.
// It makes the model signature; with ArtifactOnly the artifact signature.
func (c *Client) SignManifest(ctx context.Context, data []byte, name string, signer Signer, o SignOptions) (result *Signature, err error) {
	ctx, span := c.span(ctx, "Sign", KindManifest, targetName(name))
	defer endSign(span, &result, &err)
	if o.Platform != "" || o.LegacyTag {
		return nil, fmt.Errorf("sign %s: a platform is chosen from an index in a registry or layout, and an old tag is in a registry", targetName(name))
	}
	m, err := oci.ParseManifest(data, "")
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", targetName(name), err)
	}
	o.ModelOnly = !o.ArtifactOnly
	sig, err := c.statements(ctx, m, nil, manifestSubject(name), "", "", o)
	if err != nil {
		return nil, err
	}
	sig.Target = targetName(name)
	if o.DryRun {
		return sig, nil
	}
	if err := signStatements(ctx, signer, sig); err != nil {
		return nil, err
	}
	return sig, nil
}

// manifestSubject is the OMS subject of a manifest on disk: its file's name.
func manifestSubject(name string) string {
	if name == "" || name == "-" {
		return "manifest"
	}
	return strings.TrimSuffix(lastSegment(filepath.ToSlash(name)), ".json")
}

// quoteTag is the tag, or what stands for it in a layout without tags.
func quoteTag(r oci.Reference) string {
	if r.Tag == "" {
		return "the one model of " + r.Name()
	}
	return r.Tag
}

// pinned is what to pull: the name and the digest, without the tag.
func pinned(r oci.Reference) string {
	r.Tag = ""
	return r.String()
}

// statements builds what will be signed for a manifest. model is where its
// layers are; nil: nowhere. name is the OMS subject's: it must have one, and
// nobody relies on it (OMS §6.5).
func (c *Client) statements(ctx context.Context, m *oci.Manifest, model *oci.Model, name, repository, tag string, o SignOptions) (*Signature, error) {
	if err := wholeLayers(o.Hashing); err != nil {
		return nil, err
	}
	if o.ModelOnly && len(o.Annotations) > 0 {
		return nil, errors.New("annotations are recorded in the artifact signature, and none is made")
	}
	sig := &Signature{Digest: m.Descriptor.Digest.String(), FromDigest: true}
	if o.ArtifactOnly && o.VerifyContent {
		return nil, errors.New("an artifact signature reads no layer: its content cannot be verified as well")
	}
	if o.ArtifactOnly {
		// What a verdict refuses whoever signed it is not signed either.
		if _, err := mapFiles(m, oci.FilesOptions{Allow: o.Allow, PathAnnotation: o.PathAnnotation}); isThreat(err) {
			return nil, fmt.Errorf("sign %s: %w", m.Descriptor.Digest, err)
		}
	} else {
		files, err := c.filesOf(ctx, m, model, o)
		if err != nil {
			return nil, fmt.Errorf("sign %s: %w", m.Descriptor.Digest, err)
		}
		sig.FromDigest = !files.Read
		if err := modelStatement(m, files, name, repository, tag, o, sig); err != nil {
			return nil, err
		}
	}
	if !o.ModelOnly {
		st, err := verify.ArtifactStatement(m.Descriptor, sig.Root, repository, tag, o.Annotations)
		if err != nil {
			return nil, err
		}
		payload, err := st.Marshal()
		if err != nil {
			return nil, err
		}
		sig.Artifact = &Signed{Statement: payload}
	}
	return sig, nil
}

// wholeLayers refuses what a manifest's digests cannot give.
func wholeLayers(h manifest.Hashing) error {
	if h == (manifest.Hashing{}) || h == (manifest.Hashing{Type: manifest.SHA256}) {
		return nil
	}
	return errors.New("an artifact is signed by the sha256 of whole layers: another hash, or shards, would have to read them, which this version does not")
}

// filesOf says which files the layers of a manifest are. It reads archives, and
// everything where the caller wants that.
func (c *Client) filesOf(ctx context.Context, m *oci.Manifest, model *oci.Model, o SignOptions) (*oci.Files, error) {
	options := oci.FilesOptions{Allow: o.Allow, PathAnnotation: o.PathAnnotation}
	plan, err := m.Plan(options)
	if err != nil {
		return nil, err
	}
	if o.Layout != "" && o.Layout != plan.Layout {
		return nil, fmt.Errorf("the layout is %q, not %q", plan.Layout, o.Layout)
	}
	files, err := m.Files(options)
	switch {
	case err != nil && !errors.Is(err, oci.ErrPacked), err == nil && !o.VerifyContent:
		return files, err
	case model == nil && err != nil:
		return nil, fmt.Errorf("only the manifest is here: %w", err)
	case model == nil:
		return nil, errors.New("only the manifest is here: its content cannot be verified")
	}
	return c.readLayers(ctx, model, options, o.VerifyContent)
}

// modelStatement builds the OMS statement of a manifest: the files its layers
// are, bound to its digest.
func modelStatement(m *oci.Manifest, files *oci.Files, name, repository, tag string, o SignOptions, sig *Signature) error {
	stubs, err := manifest.CheckStubs(namesOf(files.Files), o.Allow)
	if err != nil {
		return fmt.Errorf("sign %s: %w", m.Descriptor.Digest, err)
	}
	files.Warnings = append(files.Warnings, stubs...)
	// Names that OMS tools leave out of folders are recorded as left out, so
	// that a pulled folder verifies with every one of them.
	oms, err := manifest.New(known(files.Files), serialization(files))
	if err != nil {
		return fmt.Errorf("sign %s: %w", m.Descriptor.Digest, err)
	}
	annotations, err := verify.Binding{
		Manifest: verify.BoundManifest{
			MediaType: m.Descriptor.MediaType,
			Digest:    m.Descriptor.Digest.String(),
			Size:      m.Descriptor.Size,
		},
		Repository:     repository,
		Tag:            tag,
		ArtifactType:   m.Descriptor.ArtifactType,
		Layout:         files.Layout,
		Root:           files.Root,
		PathAnnotation: files.PathAnnotation,
		Platform:       o.Platform,
	}.Annotations()
	if err != nil {
		return err
	}
	for _, w := range files.Warnings {
		sig.Warnings = append(sig.Warnings, w.Error())
	}
	sig.Layout = files.Layout
	return sig.model(oms, name, annotations, files.Files)
}

// serialization leaves out what OMS tools leave out of a folder, and what the
// packer's own tool adds to it.
func serialization(files *oci.Files) manifest.Serialization {
	return manifest.Serialization{IgnorePaths: append(manifest.GitPaths(), files.Added...)}
}

// model records the OMS statement in sig.
func (sig *Signature) model(oms *manifest.Manifest, name string, annotations map[string]json.RawMessage, files []manifest.File) error {
	st, err := oms.Statement(name, annotations)
	if err != nil {
		return err
	}
	payload, err := st.Marshal()
	if err != nil {
		return err
	}
	root := oms.Root()
	sig.Root, sig.serialization = hex.EncodeToString(root[:]), oms.Serialization
	sig.Model = &Signed{Statement: payload}
	sig.Files = len(files) // a file in shards has several resources
	for _, f := range files {
		sig.Bytes += f.Size
	}
	return nil
}

// known turns files whose digest is known into resources.
func known(files []manifest.File) []manifest.Resource {
	out := make([]manifest.Resource, len(files))
	for i, f := range files {
		out[i] = manifest.Resource{Name: f.Name, Digest: f.Digest, Algorithm: "sha256"}
	}
	return out
}

// parts are the signatures of sig, the model's first.
func (sig *Signature) parts() []*Signed {
	return slices.DeleteFunc([]*Signed{sig.Model, sig.Artifact}, func(s *Signed) bool { return s == nil })
}

// signStatements signs all statements with one key or certificate.
func signStatements(ctx context.Context, signer Signer, sig *Signature) (err error) {
	ctx, span := child(ctx, "sign")
	defer end(span, &err)
	var payloads [][]byte
	for _, part := range sig.parts() {
		payloads = append(payloads, part.Statement)
	}
	bundles, err := signer.Sign(ctx, payloads...)
	if err != nil {
		return fmt.Errorf("sign %s: %w", sig.Target, err)
	}
	for i, part := range sig.parts() {
		part.Bundle, sig.method = bundles[i].JSON(), bundles[i].Method()
	}
	return nil
}

// checkSize refuses what verify would not read back.
func (sig *Signature) checkSize() error {
	if sig.Model != nil && len(sig.Model.Bundle) > referrers.MaxModelBundle {
		return fmt.Errorf("a model signature of %d bytes would not be read back from a registry: the limit is %d", len(sig.Model.Bundle), referrers.MaxModelBundle)
	}
	if sig.Artifact != nil && len(sig.Artifact.Bundle) > referrers.MaxArtifactBundle {
		return fmt.Errorf("an artifact signature of %d bytes would not be read back: the limit is %d", len(sig.Artifact.Bundle), referrers.MaxArtifactBundle)
	}
	return nil
}

// attach makes the signatures findable, in one update, and records where.
func attach(ctx context.Context, s referrers.Store, model *oci.Model, sig *Signature) (err error) {
	ctx, span := child(ctx, "attach")
	defer end(span, &err)
	if err := sig.checkSize(); err != nil {
		return fmt.Errorf("sign %s: %w", sig.Target, err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	var attachments []referrers.Attachment
	for _, part := range sig.parts() {
		predicateType := verify.PredicateArtifact
		if part == sig.Model {
			predicateType = manifest.PredicateType
		}
		attachments = append(attachments, referrers.Attachment{Bundle: part.Bundle, PredicateType: predicateType, Created: now})
	}
	attached, err := referrers.Attach(ctx, s, model.Manifest.Descriptor, attachments...)
	if err != nil {
		return fmt.Errorf("sign %s: %w", sig.Target, err)
	}
	for i, part := range sig.parts() {
		part.Referrer = attached[i].Digest.String()
	}
	return nil
}

// findOwn looks whether this signer's signatures are there already. They count
// only if each verifies now, with the signer's own verifier, for this manifest
// and this reading of its layers (rule 15): garbage that looks like ours must
// not turn signing into nothing. What cannot be read is treated as absent:
// then we sign.
func (c *Client) findOwn(ctx context.Context, s referrers.Store, model *oci.Model, signer Signer, sig *Signature) (err error) {
	ctx, span := child(ctx, "list")
	defer end(span, &err)
	listing, err := referrers.ListFirst(ctx, s, model.Manifest.Descriptor, approves, c.limits())
	if err != nil {
		return fmt.Errorf("sign %s: %w", model.Reference, err)
	}
	// What does not claim to approve is not ours: we always say so.
	listing.Referrers = slices.DeleteFunc(listing.Referrers, func(r referrers.Referrer) bool {
		return !approves(r.Descriptor.Annotations[referrers.AnnotationPredicateType])
	})
	wanted := sig.parts()
	var own bundle.Verifier // asked for only where there is something to open
	for candidate := range candidates(ctx, listing) {
		if candidate.Err != nil {
			continue
		}
		if own == nil {
			if own, err = signer.Verifier(ctx); err != nil {
				return fmt.Errorf("sign %s: %w", model.Reference, err)
			}
		}
		for _, part := range wanted {
			if part.Referrer == "" && sameStatement(candidate.Bundle, own, part.Statement) {
				part.Referrer, part.Bundle = candidate.Referrer, candidate.Bundle
			}
		}
		if !slices.ContainsFunc(wanted, func(p *Signed) bool { return p.Referrer == "" }) {
			sig.Unchanged = true
			break
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !sig.Unchanged {
		for _, part := range wanted {
			part.Referrer, part.Bundle = "", nil
		}
	}
	return nil
}

// sameStatement reports whether data is this signer's signature of the same
// statement. Statements are deterministic: the same manifest under the same
// reading gives the same bytes. Only the tag and the platform may differ, by
// which a model was named at the time.
func sameStatement(data []byte, own bundle.Verifier, statement []byte) bool {
	b, err := bundle.Parse(data)
	if err != nil {
		return false
	}
	opened, err := b.Open(own)
	if err != nil {
		return false
	}
	there, err := unnamed(opened.Payload)
	if err != nil {
		return false
	}
	wanted, err := unnamed(statement)
	return err == nil && bytes.Equal(there, wanted)
}

// unnamed is a statement of ours but for the recorded tag and platform.
func unnamed(payload []byte) ([]byte, error) {
	st, err := manifest.ParseStatement(payload)
	if err != nil {
		return nil, err
	}
	for i := range st.Subject {
		annotations := maps.Clone(st.Subject[i].Annotations)
		delete(annotations, verify.AnnotationTag)
		if raw, ok := annotations[verify.AnnotationBinding]; ok {
			var binding verify.Binding
			if err := json.Unmarshal(raw, &binding); err != nil {
				return nil, err
			}
			// What this version would not write, it may not understand.
			if ours, err := binding.Annotations(); err != nil || !bytes.Equal(ours[verify.AnnotationBinding], raw) {
				return nil, errors.New("not a binding of this version")
			}
			binding.Tag, binding.Platform = "", ""
			untagged, err := binding.Annotations()
			if err != nil {
				return nil, err
			}
			maps.Copy(annotations, untagged)
		}
		st.Subject[i].Annotations = annotations
	}
	return st.Marshal()
}

// approves reports whether a predicate type is one of the two that approve.
func approves(predicateType string) bool {
	return predicateType == verify.PredicateArtifact || manifest.IsOMS(predicateType)
}

// candidates turns what was found into evidence. What is no bundle at all is
// nobody's business and is left out.
func candidates(ctx context.Context, listing *referrers.Listing) iter.Seq[verify.Candidate] {
	return func(yield func(verify.Candidate) bool) {
		for found := range listing.Read(ctx) {
			if errors.Is(found.Err, referrers.ErrNotBundle) {
				continue
			}
			if !yield(verify.Candidate{
				Referrer: found.Descriptor.Digest.String(),
				Bundle:   found.Bundle,
				Err:      found.Err,
				Unread:   errors.Is(found.Err, referrers.ErrUnread),
			}) {
				return
			}
		}
	}
}
