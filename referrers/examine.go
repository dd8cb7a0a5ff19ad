package referrers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// States of a [Source].
const (
	SourceThere  = "there"
	SourceAbsent = "absent" // 404 or 405
	SourceBroken = "broken" // it answers, and cannot be read in full
)

// A Source is one of the places where referrers are listed.
type Source struct {
	Name    string // "referrers API", "tag sha256-…" or "index.json"
	State   string // SourceThere, SourceAbsent or SourceBroken
	Entries int
	Pages   int    // 0 for what has none
	Problem string // why it is absent or broken
}

// What a registry does with a filter, ?artifactType=.
const (
	FilterHonoured = "honoured"
	FilterIgnored  = "ignored"
	FilterUnknown  = "unknown" // nothing is listed that it could leave out
)

// What may be wrong with an [Examined].
const (
	ProblemDangling     = "dangling"         // it is listed, and its manifest is not there
	ProblemSubject      = "other-subject"    // its manifest refers to something else
	ProblemDescriptor   = "wrong-descriptor" // the fallback index describes it wrongly
	ProblemAPI          = "wrong-in-api"     // the API describes it wrongly: only the registry can change that
	ProblemOnlyTag      = "only-in-tag"      // the API does not list it: who reads the API misses it
	ProblemOnlyAPI      = "only-in-api"      // there is a fallback index, which does not list it
	ProblemUnread       = "unread"           // it could not be looked at
	ProblemNoDescriptor = "no-descriptor"    // an entry that names nothing
)

// An Examined is one digest that is listed somewhere.
type Examined struct {
	Digest        digest.Digest // "" for an entry that is no descriptor
	InAPI, InTag  bool
	Bundle        bool // a bundle by its manifest
	ArtifactType  string
	PredicateType string
	Problems      []Problem

	listed jsontext.Value // the entry in the fallback index; nil: it is in none
	right  jsontext.Value // the entry as its manifest says; nil if that is not known
	data   []byte         // the manifest
	desc   ocispec.Descriptor
}

// A Problem is one thing that is wrong with an entry.
type Problem struct {
	Code    string // one of the Problem constants
	Message string
}

// An Examination is how the referrers of a subject are listed.
type Examination struct {
	API, Tag Source
	// Filter says what becomes of ?artifactType=; FilterSaid whether the
	// registry claims to honour it (OCI-Filters-Applied).
	Filter     string
	FilterSaid bool
	Entries    []Examined // by digest

	store   Store
	subject ocispec.Descriptor
}

// Examine reads every list of referrers that a registry has, and every
// manifest that is listed: at most the default [Limits]. Of an image layout Tag
// is index.json, and what it lists without a tag and does not have counts,
// whatever that referred to. Nothing that it finds is an error but a subject
// that cannot be one, and the end of ctx.
func Examine(ctx context.Context, s Store, subject ocispec.Descriptor) (*Examination, error) {
	if err := checkSubject(subject); err != nil {
		return nil, fmt.Errorf("examine: %w", err)
	}
	x := &Examination{store: s, subject: subject, Filter: FilterUnknown}
	switch s := s.(type) {
	case *registry:
		x.examineRegistry(ctx, s)
	case *layout:
		x.examineLayout(ctx, s)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("examine %s: %w", subject.Digest, context.Cause(ctx))
	}
	return x, nil
}

func (x *Examination) examineRegistry(ctx context.Context, r *registry) {
	limits, subject := Limits{}.withDefaults(), x.subject
	api := &pages{source: sourceAPI, limits: limits}
	x.API = sourceOf(api, r.readAPI(ctx, subject.Digest, api))
	tag := &pages{source: "tag " + fallbackTag(subject.Digest), limits: limits}
	_, tagErr := r.readTag(ctx, subject.Digest, tag)
	x.Tag = sourceOf(tag, tagErr)
	x.Tag.Pages = 0
	if x.API.State == SourceThere && len(api.referrers) > 0 {
		x.askFilter(ctx, r)
	}
	x.examine(ctx, api.referrers, tag.referrers, limits)
}

// examineLayout looks at index.json.
func (x *Examination) examineLayout(ctx context.Context, l *layout) {
	limits := Limits{}.withDefaults()
	x.API = Source{Name: sourceAPI, State: SourceAbsent}
	x.Tag = Source{Name: sourceLayout, State: SourceThere}
	entries, err := l.files.Entries(ctx)
	if err == nil && len(entries) > limits.Entries {
		entries, err = entries[:limits.Entries], fmt.Errorf("more than %d entries, which is the limit", limits.Entries)
	}
	if err != nil {
		x.Tag.State, x.Tag.Problem = SourceBroken, err.Error()
	}
	var found []Referrer
	for _, raw := range entries {
		r := newReferrer(raw, sourceLayout)
		if r.bad != nil || r.Descriptor.Digest == x.subject.Digest || r.Descriptor.Annotations[ocispec.AnnotationRefName] != "" {
			continue // a model, or what cannot be told from one
		}
		of, _, err := l.subjectOf(ctx, r.Descriptor)
		switch {
		case isGone(err) && strings.HasPrefix(r.Descriptor.ArtifactType, bundlePrefix), err == nil && of == x.subject.Digest:
			found = append(found, r)
		case isGone(err): // what it was of, and whose, is not known
		case errors.Is(err, ErrUnread):
			x.Tag.State, x.Tag.Problem = SourceBroken, err.Error()
		}
	}
	x.Tag.Entries = len(found)
	x.examine(ctx, nil, found, limits)
}

// isGone reports whether a manifest is certainly not there.
func isGone(err error) bool {
	return statusCode(err) == http.StatusNotFound || errors.Is(err, fs.ErrNotExist)
}

func sourceOf(p *pages, err error) Source {
	s := Source{Name: p.source, State: SourceThere, Entries: len(p.referrers), Pages: p.count}
	if err != nil {
		s.State, s.Problem = SourceBroken, err.Error()
	}
	if errors.Is(err, errAbsent) {
		s.State = SourceAbsent
	}
	return s
}

// noType is an artifactType that nothing has.
const noType = "application/vnd.modelsig.nothing-has-this-type"

func (x *Examination) askFilter(ctx context.Context, r *registry) {
	resp, err := r.get(ctx, "referrers/"+string(x.subject.Digest)+"?artifactType="+url.QueryEscape(noType), ocispec.MediaTypeImageIndex)
	if err != nil {
		return // it is not known, and nothing depends on it
	}
	defer resp.Body.Close()
	for _, h := range resp.Header.Values("OCI-Filters-Applied") {
		x.FilterSaid = x.FilterSaid || strings.Contains(h, "artifactType")
	}
	p := &pages{limits: Limits{}.withDefaults()}
	if _, err := p.add(resp.Body); err != nil {
		return
	}
	x.Filter = FilterHonoured
	if len(p.referrers) > 0 {
		x.Filter = FilterIgnored
	}
}

// examine looks at all that is listed.
func (x *Examination) examine(ctx context.Context, api, tag []Referrer, limits Limits) {
	byDigest := map[digest.Digest]*Examined{}
	var order []*Examined
	add := func(list []Referrer, mark func(*Examined)) {
		for _, r := range list {
			e := byDigest[r.Descriptor.Digest]
			if r.bad != nil || e == nil {
				e = &Examined{Digest: r.Descriptor.Digest}
				order = append(order, e)
				if r.bad != nil {
					e.Digest = ""
					e.problem(ProblemNoDescriptor, "%s lists %s: %v", r.Source, quote(string(r.Raw)), r.bad)
				} else {
					byDigest[e.Digest] = e
				}
			}
			mark(e)
		}
	}
	add(api, func(e *Examined) { e.InAPI = true })
	add(tag, func(e *Examined) { e.InTag = true })
	for _, r := range tag {
		if e := byDigest[r.Descriptor.Digest]; r.bad == nil && e.listed == nil {
			e.listed = jsontext.Value(r.Raw)
		}
	}
	for i, e := range order {
		switch {
		case e.Digest == "":
			continue
		case i >= limits.Read || ctx.Err() != nil:
			e.problem(ProblemUnread, "%d were looked at, which is the limit", limits.Read)
			continue
		}
		x.look(ctx, e)
		for _, r := range slices.Concat(api, tag) {
			if e.right == nil || r.bad != nil || r.Descriptor.Digest != e.Digest {
				continue
			}
			as := r.Descriptor
			if r.Source == sourceLayout { // no layout has to repeat what the manifest says
				as.ArtifactType, as.Annotations = e.desc.ArtifactType, e.desc.Annotations
			}
			if wrong := difference(as, e.desc); wrong != "" && r.Source == sourceAPI {
				e.problem(ProblemAPI, "%s", wrong)
			} else if wrong != "" {
				e.problem(ProblemDescriptor, "%s", wrong)
			}
		}
		switch {
		case x.API.State == SourceThere && !e.InAPI && e.right != nil:
			e.problem(ProblemOnlyTag, "the API does not list it")
		case x.API.State == SourceThere && x.Tag.State == SourceThere && !e.InTag && e.right != nil:
			e.problem(ProblemOnlyAPI, "the fallback index does not list it")
		}
	}
	for _, e := range order {
		x.Entries = append(x.Entries, *e)
	}
}

func (e *Examined) problem(code, format string, args ...any) {
	e.Problems = append(e.Problems, Problem{code, fmt.Sprintf(format, args...)})
}

func (e *Examined) has(code string) bool {
	return slices.ContainsFunc(e.Problems, func(p Problem) bool { return p.Code == code })
}

// look reads the manifest of an entry.
func (x *Examination) look(ctx context.Context, e *Examined) {
	data, err := x.store.manifest(ctx, ocispec.Descriptor{Digest: e.Digest}, maxLayoutManifest)
	switch {
	case isGone(err):
		e.problem(ProblemDangling, "it is not there")
		return
	case err != nil:
		e.problem(ProblemUnread, "%v", err)
		return
	}
	desc, err := Describe(data, x.subject.Digest)
	if errors.Is(err, errOtherSubject) {
		e.problem(ProblemSubject, "%v", err)
		return
	}
	if err != nil {
		// It refers to the subject, or may, in a form that is another tool's
		// matter: its entry is left as it is.
		return
	}
	if e.right, err = corrected(e.listed, desc); err != nil {
		e.problem(ProblemUnread, "%v", err)
		return
	}
	e.data, e.desc = data, desc
	var c Candidate
	_, err = c.parse(data, x.subject)
	e.Bundle, e.ArtifactType, e.PredicateType = err == nil, desc.ArtifactType, desc.Annotations[AnnotationPredicateType]
}

// corrected is an entry as its manifest says, with what the lister put there
// besides (rule 33). listed may be nil.
func corrected(listed jsontext.Value, right ocispec.Descriptor) (jsontext.Value, error) {
	raw, err := encode(right)
	if listed == nil || err != nil {
		return raw, err
	}
	var entry, own map[string]jsontext.Value
	if err := unmarshal(listed, &entry); err != nil {
		return nil, err
	}
	if err := unmarshal(raw, &own); err != nil {
		return nil, err
	}
	annotations := map[string]string{}
	if kept := entry["annotations"]; kept != nil {
		if err := unmarshal(kept, &annotations); err != nil {
			return nil, err
		}
	}
	maps.Copy(annotations, right.Annotations)
	delete(entry, "artifactType") // a manifest may have none
	maps.Copy(entry, own)
	if len(annotations) > 0 {
		if entry["annotations"], err = encode(annotations); err != nil {
			return nil, err
		}
	}
	return jsonv2.Marshal(entry, jsonv2.Deterministic(true), jsontext.PreserveRawStrings(true))
}

// difference says what a listed descriptor has wrong, "" for nothing. What it
// has besides is the lister's own.
func difference(listed, right ocispec.Descriptor) string {
	var wrong []string
	if listed.MediaType != right.MediaType {
		wrong = append(wrong, fmt.Sprintf("media type %s, not %s", quote(listed.MediaType), quote(right.MediaType)))
	}
	if listed.Size != right.Size {
		wrong = append(wrong, fmt.Sprintf("size %d, not %d", listed.Size, right.Size))
	}
	if listed.ArtifactType != right.ArtifactType {
		wrong = append(wrong, fmt.Sprintf("artifactType %s, not %s", quote(listed.ArtifactType), quote(right.ArtifactType)))
	}
	for name, value := range right.Annotations {
		if listed.Annotations[name] != value {
			wrong = append(wrong, "annotations are not those of the manifest")
			break
		}
	}
	return strings.Join(wrong, ", ")
}

// Repair puts right what can be: in the fallback index, where there is one or
// the registry has no API, descriptors are corrected, what is not there or
// refers to something else is dropped, and what is missing is added, in one
// update (rule 39); in an image layout index.json is. To a registry with the API, manifests that it does not list
// are pushed again, which makes most of them list it. more are digests of
// referrers that nothing lists: they must be there, and refer to the subject.
//
// Look again afterwards: [Examine] says what is left.
func (x *Examination) Repair(ctx context.Context, more ...digest.Digest) error {
	r, ok := x.store.(*registry)
	if ok {
		ctx = auth.AppendRepositoryScope(ctx, r.repo.Reference, auth.ActionPull, auth.ActionPush)
	}
	entries := slices.Clone(x.Entries)
	for _, d := range more {
		if err := checkDigest(d); err != nil {
			return fmt.Errorf("referrer: %w", err)
		}
		if slices.ContainsFunc(entries, func(e Examined) bool { return e.Digest == d }) {
			continue
		}
		e := Examined{Digest: d}
		if x.look(ctx, &e); e.right == nil {
			return fmt.Errorf("referrer %s: %s", d, e.Problems[0].Message)
		}
		entries = append(entries, e)
	}
	if l, ok := x.store.(*layout); ok {
		return l.repair(ctx, entries)
	}
	if x.API.State == SourceThere {
		for _, e := range entries {
			if e.right == nil || e.InAPI {
				continue
			}
			if err := r.repo.Manifests().Push(ctx, e.desc, bytes.NewReader(e.data)); err != nil {
				return fmt.Errorf("push referrer %s again: %w", e.Digest, foreign(err))
			}
		}
	}
	if x.API.State == SourceThere && x.Tag.State == SourceAbsent {
		return nil
	}
	u := r.update(x.subject.Digest)
	u.drops, u.exact = map[digest.Digest]bool{}, true
	for _, e := range entries {
		switch {
		case e.has(ProblemDangling) || e.has(ProblemSubject):
			u.drops[e.Digest] = true
		case e.right != nil && (!e.InTag || e.has(ProblemDescriptor)):
			u.want(entry{e.Digest, e.right}) // all others keep their bytes (rule 33)
		}
	}
	if u.own = len(u.wanted); u.own+len(u.drops) == 0 {
		return nil
	}
	return u.run(ctx)
}

// repair puts index.json right: what is not there is dropped, and what is
// described wrongly, or not listed, is listed as its manifest says.
func (l *layout) repair(ctx context.Context, entries []Examined) error {
	for _, e := range entries {
		gone, wrong := e.has(ProblemDangling), e.has(ProblemDescriptor)
		if gone || wrong {
			// All entries of the digest go together, and one with a tag is not ours.
			tagged, err := IsTagged(ctx, l.files, e.Digest)
			if err != nil {
				return err
			}
			if tagged {
				return fmt.Errorf("referrer %s: %s has it with a tag, too, and is not changed", e.Digest, sourceLayout)
			}
			if err := l.files.RemoveEntries(ctx, e.Digest); err != nil {
				return fmt.Errorf("remove from %s: %w", sourceLayout, err)
			}
		}
		if wrong || !e.InTag && e.right != nil {
			var desc ocispec.Descriptor // with the annotations of whoever listed it
			if err := unmarshal(e.right, &desc); err != nil {
				return err
			}
			if err := l.files.AddEntries(ctx, desc); err != nil {
				return fmt.Errorf("add to %s: %w", sourceLayout, err)
			}
		}
	}
	return nil
}
