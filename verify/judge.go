package verify

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/manifest"
)

// A judge holds one verdict while it is made.
type judge struct {
	policy  Policy
	subject Subject
	report  Report

	model, artifact bool // which kinds of signature approved

	// later are candidates that layers would have to be read for. They are
	// judged when all others are, and only if none of those was enough.
	later   []Candidate
	reading bool // layers may be read

	// now is what the candidate at hand was found to be. It enters the report
	// with a yes, or as long as there is none: what does not count never
	// describes a yes.
	now finding

	// What was read once and may be asked for by several candidates.
	mappings map[string]mapped
	hashed   map[manifest.Hashing][]manifest.FileResources // by name
}

// A finding is what one comparison came to.
type finding struct {
	files    Files
	unpacked *Mapping // of archives that had to be read; nil: none
	layout   string
	hashed   bool
	warnings []string
	signed   *manifest.Manifest // the files of layers, by a model signature
}

func (j *judge) reason(referrer, code, message string, unread bool) {
	j.report.Reasons = append(j.report.Reasons, Reason{Referrer: referrer, Code: code, Message: message, unread: unread})
}

func (j *judge) warn(messages ...string) {
	j.now.warnings = append(j.now.warnings, messages...)
}

// tell puts what was found into the report.
func (j *judge) tell() {
	r := &j.report
	r.Files, r.Layout, r.Hashed = j.now.files, j.now.layout, j.now.hashed
	for _, w := range j.now.warnings {
		if !slices.Contains(r.Warnings, w) {
			r.Warnings = append(r.Warnings, w)
		}
	}
}

// A refusal is why one candidate does not count.
type refusal struct {
	code    string
	message string
	unread  bool
}

func (r *refusal) Error() string { return r.message }

func refuse(code, format string, args ...any) error {
	return &refusal{code: code, message: fmt.Sprintf(format, args...)}
}

// candidate judges one bundle and records what came of it. An error ends the
// reading: only the context's.
func (j *judge) candidate(ctx context.Context, c Candidate) error {
	j.now = finding{}
	err := j.approves(ctx, c)
	if errors.Is(err, errLater) {
		j.later = append(j.later, c)
		return nil
	}
	if err == nil || len(j.report.Signers) == 0 {
		j.tell()
	}
	if err == nil {
		return nil
	}
	if ctxErr := ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		j.reason(c.Referrer, r.code, r.message, r.unread)
		return nil
	}
	if t, ok := errors.AsType[*manifest.ThreatError](err); ok {
		code := t.Code
		if code == "" {
			code = CodeThreat
		}
		j.reason(c.Referrer, code, err.Error(), false)
		return nil
	}
	// What is neither our refusal nor a threat went wrong on the way: a file
	// could not be read. That decides nothing.
	j.reason(c.Referrer, CodeUnread, err.Error(), true)
	return nil
}

// approves returns nil after it has recorded a signer. The order is fixed:
// authenticate, then parse, then compare.
func (j *judge) approves(ctx context.Context, c Candidate) error {
	if c.Err != nil {
		code := CodeMalformed
		if c.Unread {
			code = CodeUnread
		}
		return &refusal{code: code, message: c.Err.Error(), unread: c.Unread}
	}
	opened, err := j.open(c)
	switch {
	case errors.Is(err, bundle.ErrMalformed):
		return refuse(CodeMalformed, "%v", err)
	case err != nil:
		return refuse(CodeUntrusted, "%v", err)
	}
	signer := Signer{Identity: opened.Signer, Time: opened.Time, TimeSource: opened.TimeSource, Referrer: c.Referrer}
	if c.SimpleSigning != nil {
		return j.simpleSignature(ctx, opened, signer)
	}
	st, err := manifest.ParseStatement(opened.Payload)
	switch {
	case errors.Is(err, manifest.ErrStatementType):
		return refuse(CodeNotApproval, "signed, but %v: it does not approve", err)
	case err != nil:
		return refuse(CodeMalformed, "signed statement: %v", err)
	}
	switch {
	case opened.Legacy && st.PredicateType != manifest.PredicateLegacy:
		return refuse(CodeMalformed, "signed in the encoding of OMS v0.2, which is for predicate type %q only, and this is %q (OMS §11)", manifest.PredicateLegacy, st.PredicateType)
	case st.PredicateType == manifest.PredicateLegacy:
		return j.legacySignature(ctx, st, signer)
	case st.PredicateType == PredicateArtifact:
		return j.artifactSignature(ctx, st, signer)
	case manifest.IsOMS(st.PredicateType):
		return j.modelSignature(ctx, st, signer)
	}
	return refuse(CodeNotApproval, "signed, but its predicate type %q does not approve", st.PredicateType)
}

// open authenticates a candidate.
func (j *judge) open(c Candidate) (*bundle.Verified, error) {
	var parsed *bundle.Bundle
	var err error
	if c.SimpleSigning != nil {
		parsed, err = bundle.ParseSimpleSigning(*c.SimpleSigning)
	} else {
		parsed, err = bundle.Parse(c.Bundle)
	}
	if err != nil {
		return nil, err
	}
	return parsed.Open(j.policy.Verifiers...)
}

// artifactSignature judges a statement whose one subject is a manifest.
func (j *judge) artifactSignature(ctx context.Context, st *manifest.Statement, signer Signer) error {
	a := j.subject.Artifact
	if a == nil {
		return refuse(CodeNotApproval, "an artifact signature names a manifest, and says nothing about local files")
	}
	if len(st.Subject) != 1 {
		return refuse(CodeMalformed, "artifact signature with %d subjects, want 1", len(st.Subject))
	}
	subject := st.Subject[0]
	digest, ok := subject.Digest["sha256"]
	switch {
	case !ok || len(subject.Digest) != 1:
		return refuse(CodeMalformed, "artifact signature without exactly one sha256 digest")
	case "sha256:"+digest != a.Manifest.Digest.String():
		return refuse(CodeOtherSubject, "signed for manifest sha256:%s, this is %s", quoteHex(digest), a.Manifest.Digest)
	}
	// Its digest is all the binding it needs. One that is there all the same
	// must be well-formed, and name the same manifest (rule 9).
	binding, err := parseBinding(subject.Annotations)
	if err != nil {
		return refuse(CodeBinding, "%v", err)
	}
	if binding != nil {
		if err := binding.names(a.Manifest); err != nil {
			return refuse(CodeOtherSubject, "%v", err)
		}
	}
	signer.Repository = textAnnotation(subject, AnnotationRepository)
	signer.Tag = textAnnotation(subject, AnnotationTag)
	return j.approveManifest(ctx, signer)
}

// approveManifest approves the artifact by its manifest's digest, which was
// signed alone: how its layers are read is for the consumer to say.
func (j *judge) approveManifest(ctx context.Context, signer Signer) error {
	a := j.subject.Artifact
	// A model that names its files in a hostile way is not used, whoever
	// signed it.
	againstLocal := j.subject.Local != nil && a.FileName == ""
	mapping, err := j.mapArtifact(ctx, "", againstLocal)
	if hard := decisive(err); hard != nil {
		return hard
	}
	if againstLocal {
		if err != nil {
			return refuse(CodeUnmapped, "a folder cannot be held against this artifact: %v", err)
		}
		if err := j.compareUnpacked(ctx, mapping); err != nil {
			return err
		}
	} else if mapping != nil {
		j.countFiles(mapping)
	}
	if mapping != nil {
		j.now.layout = mapping.Layout
	} else {
		j.warnUnmapped(err)
	}
	if err := j.wantedLayout(); err != nil {
		return err
	}
	signer.Kind = "artifact"
	j.approve(signer, StrengthManifest)
	j.artifact = true
	return nil
}

// modelSignature judges an OMS statement.
func (j *judge) modelSignature(ctx context.Context, st *manifest.Statement, signer Signer) error {
	signed, err := st.Manifest()
	if err != nil {
		return refuse(CodeMalformed, "signed OMS statement: %v", err)
	}
	binding, err := parseBinding(st.Subject[0].Annotations)
	if err != nil {
		return refuse(CodeBinding, "%v", err)
	}
	signer.Kind = "model"
	if binding != nil {
		signer.Repository, signer.Tag = binding.Repository, binding.Tag
	}

	a, local := j.subject.Artifact, j.subject.Local
	files := signed.Files()
	compareLocal := func() error { return j.compareLocal(ctx, files, signed.Hashing(), leftOutBy(signed, binding)) }
	strength := StrengthFiles
	switch {
	case a == nil:
		err = compareLocal()
	case a.FileName != "" && !isAbout(binding, a) && lists(files, a.FileName):
		// The file is one of the signed files, and not the manifest that the
		// statement names: its bytes count, whatever they look like.
		err = compareLocal()
	default:
		if strength, err = j.compareArtifact(ctx, binding, signed); err != nil {
			return err
		}
		switch {
		case local == nil || a.FileName != "":
		case j.now.unpacked != nil:
			// The statement names archives, and they were read.
			err = j.compareUnpacked(ctx, j.now.unpacked)
		default:
			err = compareLocal()
		}
	}
	if err == nil {
		err = j.wantedLayout()
	}
	if err != nil {
		return err
	}
	j.approve(signer, strength)
	if j.report.Signed == nil && j.now.signed != nil {
		j.report.Signed = j.now.signed
		if binding != nil {
			j.report.PathAnnotation = binding.PathAnnotation
		}
	}
	j.model = true
	return nil
}

// wantedLayout holds the reading of the layers against the policy's (rule 27).
func (j *judge) wantedLayout() error {
	switch want := j.policy.Layout; {
	case want == "" || j.subject.Artifact == nil || j.now.layout == want:
		return nil
	case j.now.layout == "":
		return refuse(CodeLayout, "the layers do not map to files, and the layout %q is wanted", want)
	}
	return refuse(CodeLayout, "the layout is %q, and %q is wanted", j.now.layout, j.policy.Layout)
}

// approve records a yes. The strongest reading found is the one reported.
func (j *judge) approve(s Signer, strength Strength) {
	j.report.Signers = append(j.report.Signers, s)
	if j.report.Binding == "" || strength == StrengthManifest {
		j.report.Binding = strength
	}
}

func isAbout(b *Binding, a *Artifact) bool { return b != nil && b.names(a.Manifest) == nil }

// lists reports whether the statement has a file of that name, in any folder:
// a caller may have named a single file of a larger model. Letter case does not
// count, because some file systems open a file under either. "." is how old
// writers call the one file.
func lists(files []manifest.FileResources, name string) bool {
	return slices.ContainsFunc(files, func(f manifest.FileResources) bool {
		return f.Name == "." || strings.EqualFold(path.Base(f.Name), name)
	})
}

// textAnnotation returns a string annotation, "" if it is not there or no string.
func textAnnotation(s manifest.Subject, name string) string {
	var text string
	if err := json.Unmarshal(s.Annotations[name], &text); err != nil {
		return ""
	}
	return text
}

// describe says what differs, in the words and the order of a report.
func describe(d manifest.Diff) string {
	var parts []string
	for _, p := range []struct {
		what  string
		names []string
	}{{"changed", d.Changed}, {"missing", d.Missing}, {"not signed", d.Extra}} {
		if len(p.names) > 0 {
			parts = append(parts, p.what+": "+quoteNames(p.names))
		}
	}
	return strings.Join(parts, "; ")
}

// maxNamed bounds how many names a message quotes; a report has them all.
const maxNamed = 5

func quoteNames(names []string) string {
	var b strings.Builder
	for i, n := range names {
		if i == maxNamed {
			fmt.Fprintf(&b, " and %d more", len(names)-maxNamed)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Quote(n))
	}
	return b.String()
}

// quoteHex shows a digest that somebody else wrote.
func quoteHex(s string) string {
	if _, err := hex.DecodeString(s); err == nil && len(s) == 64 {
		return s
	}
	return strconv.Quote(s)
}
