package verify

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

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

type mapped struct {
	mapping *Mapping
	err     error
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
	parsed, err := bundle.Parse(c.Bundle)
	if err != nil {
		return refuse(CodeMalformed, "%v", err)
	}
	opened, err := parsed.Open(j.policy.Verifiers...)
	switch {
	case errors.Is(err, bundle.ErrMalformed):
		return refuse(CodeMalformed, "%v", err)
	case err != nil:
		return refuse(CodeUntrusted, "%v", err)
	}
	st, err := manifest.ParseStatement(opened.Payload)
	switch {
	case errors.Is(err, manifest.ErrStatementType):
		return refuse(CodeNotApproval, "signed, but %v: it does not approve", err)
	case err != nil:
		return refuse(CodeMalformed, "signed statement: %v", err)
	}
	signer := Signer{Identity: opened.Signer, Time: opened.Time, TimeSource: opened.TimeSource, Referrer: c.Referrer}
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
	signer.Repository = textAnnotation(subject, AnnotationRepository)
	signer.Tag = textAnnotation(subject, AnnotationTag)
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
	compareLocal := func() error { return j.compareLocal(ctx, files, signed.Hashing(), ignoreOf(signed)) }
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

// compareArtifact holds a statement against a manifest, and says how strong
// the yes is.
func (j *judge) compareArtifact(ctx context.Context, binding *Binding, signed *manifest.Manifest) (Strength, error) {
	a := j.subject.Artifact
	if binding == nil {
		return j.compareUnbound(ctx, signed)
	}
	if err := binding.names(a.Manifest); err != nil {
		if mapping, mapErr := j.mapArtifact(ctx, binding.PathAnnotation, false); mapErr == nil && !mapping.Packed && manifest.Compare(signed.Resources, resources(mapping)).Empty() {
			return "", refuse(CodeOtherSubject, "%v: the files are the same, the manifest was changed", err)
		}
		return "", refuse(CodeOtherSubject, "%v", err)
	}
	j.now.signed = signed
	mapping, err := j.mapArtifact(ctx, binding.PathAnnotation, false)
	switch hard := decisive(err); {
	case hard != nil:
		return "", hard
	case err != nil:
		// The digest covers every layer; a reading by files is not
		// demanded for it.
		j.now.layout = binding.Layout
		j.warnUnmapped(err)
		return StrengthManifest, nil
	case mapping.Packed:
		// It covers the archives as well, with all that is in them.
		j.now.layout = mapping.Layout
		j.countSigned(signed)
	default:
		// Whatever the layout is called: where the files of layers are known,
		// they are the signed files (rule 9).
		if err := j.compareLayers(signed, mapping); err != nil {
			return "", err
		}
	}
	if mapping.Layout != "" && mapping.Layout != binding.Layout {
		j.warn(fmt.Sprintf("signed by the layout %q, found as %q", binding.Layout, mapping.Layout))
	}
	j.now.layout = binding.Layout
	return StrengthManifest, nil
}

// compareUnbound is compareArtifact for a statement that names no manifest:
// then the files have to be the same, and nothing else may carry meaning.
func (j *judge) compareUnbound(ctx context.Context, signed *manifest.Manifest) (Strength, error) {
	mapping, files, err := j.mapUnbound(ctx, signed)
	switch hard := decisive(err); {
	case hard != nil:
		return "", hard
	case err != nil:
		return "", refuse(CodeUnmapped, "the statement names no manifest, and it cannot be compared with the layers: %v", err)
	}
	strength := StrengthLayers
	if mapping.Packed {
		strength = StrengthStreamed
		if j.policy.Binding != StrengthStreamed {
			return "", refuse(CodeWeak, "the statement names no manifest, and the archives would have to be read (%s): %s is wanted", strength, cmp.Or(j.policy.Binding, StrengthManifest))
		}
		if j.namesBlobs(signed, mapping) {
			return j.compareBlobs(ctx, mapping)
		}
		if mapping, err = j.readArtifact(ctx, ""); err != nil {
			return "", cmp.Or(decisive(err), refuse(CodeUnmapped, "the statement names no manifest, and it cannot be compared with the layers: %v", err))
		}
	}
	j.now.signed = files
	if err := j.compareLayers(files, mapping); err != nil {
		return "", err
	}
	switch {
	case len(mapping.Uncovered) > 0:
		return "", refuse(CodeUncovered, "the files are the signed ones, but the statement names no manifest, and this is covered by nothing: %s", strings.Join(mapping.Uncovered, ", "))
	case j.policy.Binding != StrengthLayers && j.policy.Binding != StrengthStreamed:
		return "", refuse(CodeWeak, "the statement names no manifest (%s), and %s is wanted", StrengthLayers, StrengthManifest)
	}
	if len(mapping.GitFiles) > 0 {
		j.warn("not signed, not covered: " + quoteNames(mapping.GitFiles))
	}
	return strength, nil
}

// warnUnmapped notes that a yes rests on the manifest's digest alone.
func (j *judge) warnUnmapped(err error) {
	j.warn(fmt.Sprintf("the layers were not compared as files, the manifest digest covers them: %v", err))
}

// compareLayers wants the signed files and the layers' files to be the same:
// no ignore rule ever excuses a layer (rule 8).
func (j *judge) compareLayers(signed *manifest.Manifest, mapping *Mapping) error {
	if !byLayerDigest(signed) {
		return refuse(CodeFiles, "the files are signed by their %s, and layers are known by the sha256 of the whole: they cannot be compared", hashingText(signed))
	}
	diff := manifest.Compare(signed.Resources, resources(mapping))
	if !diff.Empty() {
		j.now.files.Missing, j.now.files.Changed, j.now.files.Extra = diff.Missing, diff.Changed, diff.Extra
		return refuse(CodeFiles, "the layers are not the signed files: %s", describe(diff))
	}
	j.now.layout = mapping.Layout
	j.countFiles(mapping)
	return nil
}

// byLayerDigest reports whether the statement calls files by what registries
// call layers by: one sha256 of the whole.
func byLayerDigest(signed *manifest.Manifest) bool {
	return signed.Hashing() == manifest.Hashing{Type: manifest.SHA256}
}

func hashingText(signed *manifest.Manifest) string {
	h := signed.Hashing()
	if h.ShardSize > 0 {
		return fmt.Sprintf("%s in shards of %d bytes", h.Type, h.ShardSize)
	}
	return h.Type
}

// namesBlobs reports whether a statement lists the blobs of a manifest, as tools
// do that sign a manifest whose layers they do not read: each layer and the
// config, under the names that they give them, nothing left out and nothing
// ignored. The digests cover all content then. That the names of files are
// signed as well needs layers that hold their names, or are listed by them.
func (j *judge) namesBlobs(signed *manifest.Manifest, mapping *Mapping) bool {
	ignored := signed.Serialization.IgnorePaths
	if !mapping.Archives && mapping.Layout != "title" || ignored == nil || len(ignored) > 0 || !byLayerDigest(signed) {
		return false
	}
	blobs := j.subject.Artifact.Blobs
	if len(blobs) == 0 || len(signed.Resources) != len(blobs) {
		return false
	}
	for _, r := range signed.Resources {
		if d, ok := blobs[r.Name]; !ok || hex.EncodeToString(r.Digest) != d.Encoded() {
			return false
		}
	}
	return true
}

// compareBlobs is the verdict for a statement that lists the blobs: for an
// artifact they are all there is to compare; a folder is held against the files
// in them.
func (j *judge) compareBlobs(ctx context.Context, mapping *Mapping) (Strength, error) {
	if j.subject.Local == nil || j.subject.Artifact.FileName != "" {
		if len(mapping.Uncovered) > 0 {
			return "", refuse(CodeUncovered, "the layers are the signed ones, but the statement names no manifest, and this is covered by nothing: %s", strings.Join(mapping.Uncovered, ", "))
		}
		j.now.layout = mapping.Layout
		return StrengthLayers, nil
	}
	mapping, err := j.readArtifact(ctx, "")
	if err != nil {
		return "", cmp.Or(decisive(err), refuse(CodeUnmapped, "the archives cannot be read as files: %v", err))
	}
	j.now.unpacked, j.now.layout = mapping, mapping.Layout
	return StrengthStreamed, nil
}

// errLater: a candidate needs layers to be read.
var errLater = errors.New("layers have to be read")

// decisive is an error of mapping or reading that no other evidence outweighs:
// hostile content, and layers that could not be read, or not yet; nil for other
// errors.
func decisive(err error) error {
	if errors.Is(err, errLater) {
		return err
	}
	if threat, ok := errors.AsType[*manifest.ThreatError](err); ok {
		return threat
	}
	if errors.Is(err, ErrUnknown) {
		return &refusal{code: CodeUnread, message: err.Error(), unread: true}
	}
	return nil
}

// mapUnbound maps for a statement that names no manifest. Tools that sign a
// manifest list blobs that are no files under a name of Pseudo: where no layer
// has that name, the entry covers the blob and is left out of the comparison.
//
// In a folder's statement the same name is a file, and a removed one must not
// be excused. The two are told apart by what such tools always write: an empty
// list of ignore paths, and the config.
func (j *judge) mapUnbound(ctx context.Context, signed *manifest.Manifest) (*Mapping, *manifest.Manifest, error) {
	pseudo := map[string]digest.Digest{}
	if ignored := signed.Serialization.IgnorePaths; ignored != nil && len(ignored) == 0 {
		for _, r := range signed.Resources {
			if d, ok := j.subject.Artifact.Pseudo[r.Name]; ok && r.Algorithm == "sha256" && hex.EncodeToString(r.Digest) == d.Encoded() {
				pseudo[r.Name] = d
			}
		}
	}
	if _, ok := pseudo[PseudoConfig]; !ok {
		clear(pseudo)
	}
	if len(pseudo) == 0 {
		mapping, err := j.mapArtifact(ctx, "", false)
		return mapping, signed, err
	}
	mapping, err := j.subject.Artifact.Map("", slices.Collect(maps.Values(pseudo))...)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range mapping.Files {
		if _, ok := pseudo[f.Name]; ok {
			// A layer has the name: the entry is that file, and covers no
			// other blob.
			mapping, err := j.mapArtifact(ctx, "", false)
			return mapping, signed, err
		}
	}
	j.warn(mapping.Warnings...)
	rest := *signed
	rest.Resources = slices.DeleteFunc(slices.Clone(signed.Resources), func(r manifest.Resource) bool {
		_, ok := pseudo[r.Name]
		return ok
	})
	return mapping, &rest, nil
}

// mapArtifact maps once per path annotation. Archives are read if their files
// are needed, or the caller wants all content compared.
func (j *judge) mapArtifact(ctx context.Context, pathAnnotation string, files bool) (*Mapping, error) {
	m, ok := j.mappings[pathAnnotation]
	if !ok {
		m.mapping, m.err = j.subject.Artifact.Map(pathAnnotation)
		j.keep(pathAnnotation, m)
	}
	if m.err == nil && (j.subject.Artifact.Content || files && m.mapping.Packed) {
		return j.readArtifact(ctx, pathAnnotation)
	}
	if m.err == nil {
		j.warn(m.mapping.Warnings...)
	}
	return m.mapping, m.err
}

// readArtifact reads the layers, once per path annotation.
func (j *judge) readArtifact(ctx context.Context, pathAnnotation string) (*Mapping, error) {
	key := "read " + pathAnnotation
	m, ok := j.mappings[key]
	if !ok && !j.reading && !j.subject.Artifact.Content {
		return nil, errLater
	}
	if !ok {
		if j.subject.Artifact.Read == nil {
			m.err = errors.New("the layers are archives, and only their manifest is here")
		} else {
			m.mapping, m.err = j.subject.Artifact.Read(ctx, pathAnnotation)
		}
		j.keep(key, m)
	}
	if m.err == nil {
		j.warn(m.mapping.Warnings...)
	}
	return m.mapping, m.err
}

func (j *judge) keep(key string, m mapped) {
	if j.mappings == nil {
		j.mappings = map[string]mapped{}
	}
	j.mappings[key] = m
}

// compareUnpacked holds local files against the files of the layers. What the
// packer's own tool adds to them may be there.
func (j *judge) compareUnpacked(ctx context.Context, mapping *Mapping) error {
	layers, err := manifest.GroupByFile(resources(mapping), 0)
	if err != nil {
		return err
	}
	return j.compareLocal(ctx, layers, manifest.Hashing{Type: manifest.SHA256}, mapping.Added)
}

// countSigned counts files that are known by the statement alone.
func (j *judge) countSigned(signed *manifest.Manifest) {
	if j.subject.Local == nil || j.subject.Artifact.FileName != "" {
		j.now.files.Count, j.now.files.Bytes = len(signed.Files()), 0
	}
}

func (j *judge) countFiles(mapping *Mapping) {
	if j.subject.Local != nil && j.subject.Artifact.FileName == "" {
		return // the local files are what is counted
	}
	j.now.files.Count, j.now.files.Bytes = len(mapping.Files), 0
	for _, f := range mapping.Files {
		j.now.files.Bytes += f.Size
	}
}

func resources(mapping *Mapping) []manifest.Resource {
	out := make([]manifest.Resource, len(mapping.Files))
	for i, f := range mapping.Files {
		out[i] = manifest.Resource{Name: f.Name, Digest: f.Digest, Algorithm: "sha256"}
	}
	return out
}

// ignoreOf is what a statement leaves out by its signer's wish.
func ignoreOf(m *manifest.Manifest) manifest.Ignore {
	return manifest.Ignore(m.Serialization.IgnorePaths)
}

// compareLocal hashes the listed files that are there, in the way in which they
// are listed, and holds them against the list. recorded are the signer's ignore
// paths: they hide files that are not listed, and are reported (rules 8, 29).
func (j *judge) compareLocal(ctx context.Context, listed []manifest.FileResources, hashing manifest.Hashing, recorded manifest.Ignore) error {
	local := j.subject.Local
	// Where the caller knew every sha256, digests were compared and no more.
	j.now.hashed = hashing != (manifest.Hashing{Type: manifest.SHA256}) ||
		slices.ContainsFunc(local.Files, func(f manifest.File) bool { return f.Digest == nil })
	if local.IsFile && len(listed) == 1 && listed[0].Name == "." && len(local.Files) == 1 {
		// As old writers call the one file.
		listed = []manifest.FileResources{{Name: local.Files[0].Name, Size: listed[0].Size, Resources: listed[0].Resources}}
	}
	// A model may have a million files: they are looked up in sorted lists,
	// which are there, and not in maps, which would be as large again.
	var toHash []manifest.File
	var diff manifest.Diff
	var ignored, empty []string
	var size int64
	found, count := make([]bool, len(listed)), 0
	folders := sync.OnceValue(func() map[string]bool { return foldersOf(listed) })
	for _, f := range local.Files {
		switch i, ok := findFile(listed, f.Name); {
		case ok && f.Problem != nil:
			return f.Problem
		case ok && found[i]:
			return refuse(CodeFiles, "there are two files %q: only one of them can be the signed one", f.Name)
		case ok:
			found[i] = true
			count++
			size += f.Size
			_, done := findFile(j.hashed[hashing], f.Name)
			if resized := listed[i].Size >= 0 && listed[i].Size != f.Size; !done && !resized {
				toHash = append(toHash, f)
			}
		case f.Problem != nil && folders()[f.Name]:
			return f.Problem
		case j.ignores(f.Name, recorded):
			ignored = append(ignored, f.Name)
		case f.Problem != nil: // no file at all: no flag for files excuses it
			return f.Problem
		default:
			if hashing.ShardSize > 0 && f.Size == 0 {
				empty = append(empty, f.Name)
			}
			diff.Extra = append(diff.Extra, f.Name)
		}
	}
	slices.Sort(diff.Extra)
	slices.Sort(empty)
	slices.Sort(ignored)

	if err := j.hash(ctx, hashing, toHash); err != nil {
		return err
	}
	hashed := j.hashed[hashing]
	for i, w := range listed {
		if !found[i] {
			diff.Missing = append(diff.Missing, w.Name)
			continue
		}
		// What was not hashed has another size.
		if at, ok := findFile(hashed, w.Name); !ok || !sameContent(w.Resources, hashed[at].Resources) {
			diff.Changed = append(diff.Changed, w.Name)
		}
	}

	files := &j.now.files
	files.Count, files.Bytes, files.Ignored = count, size, ignored
	extra, missing := diff.Extra, diff.Missing
	if j.policy.IgnoreUnsignedFiles {
		// Under shards nobody can list an empty file, so that one more would
		// never be noticed: it counts, whatever the caller does not mind.
		diff.Extra = empty
	}
	if j.policy.Subset && count > 0 {
		diff.Missing = nil
	}
	files.Missing, files.Changed, files.Extra = missing, diff.Changed, diff.Extra
	if !diff.Empty() {
		return refuse(CodeFiles, "the files are not the signed ones: %s", describe(diff))
	}
	if len(extra) > 0 && j.policy.IgnoreUnsignedFiles {
		j.warn("not signed: " + quoteNames(extra))
	}
	if len(missing) > 0 {
		j.warn(fmt.Sprintf("a subset was verified, %d of %d files: missing: %s", count, len(listed), quoteNames(missing)))
	}
	return nil
}

// sameContent compares what is signed with what was hashed in the same way. The
// names of the two are the same but for ".", as old writers call the one file.
func sameContent(signed, found []manifest.Resource) bool {
	return slices.EqualFunc(signed, found, func(a, b manifest.Resource) bool {
		return a.Algorithm == b.Algorithm && len(a.Digest) > 0 && bytes.Equal(a.Digest, b.Digest)
	})
}

// findFile looks a name up in a list that is sorted by name.
func findFile(files []manifest.FileResources, name string) (int, bool) {
	return slices.BinarySearchFunc(files, name, func(f manifest.FileResources, name string) int { return strings.Compare(f.Name, name) })
}

// foldersOf are the folders that have a listed file below them.
func foldersOf(listed []manifest.FileResources) map[string]bool {
	folders := make(map[string]bool)
	for i := range listed {
		for folder := path.Dir(listed[i].Name); folder != "." && !folders[folder]; folder = path.Dir(folder) {
			folders[folder] = true
		}
	}
	return folders
}

// ignores reports whether a file that is not listed may be there.
func (j *judge) ignores(name string, recorded manifest.Ignore) bool {
	return recorded.Match(name) || j.policy.IgnorePaths.Match(name) || j.subject.Local.Own.Match(name) ||
		!j.policy.IncludeGitPaths && manifest.Ignore(manifest.GitPaths()).Match(name)
}

// hash reads each local file at most once a verdict and way of hashing.
func (j *judge) hash(ctx context.Context, hashing manifest.Hashing, files []manifest.File) error {
	if len(files) == 0 {
		return nil
	}
	hash := j.subject.Local.Hash
	if hash == nil {
		hash = func(ctx context.Context, h manifest.Hashing, files []manifest.File) ([]manifest.Resource, error) {
			return (&manifest.Hasher{Hashing: h}).Hash(ctx, files)
		}
	}
	resources, err := hash(ctx, hashing, files)
	if errors.Is(err, manifest.ErrChanged) {
		return refuse(CodeFiles, "%v", err)
	}
	if err != nil {
		return err
	}
	got, err := manifest.GroupByFile(resources, hashing.ShardSize)
	if err != nil {
		return err
	}
	if j.hashed == nil {
		j.hashed = map[manifest.Hashing][]manifest.FileResources{}
	}
	all := append(j.hashed[hashing], got...)
	slices.SortFunc(all, func(a, b manifest.FileResources) int { return strings.Compare(a.Name, b.Name) })
	j.hashed[hashing] = all
	return nil
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
