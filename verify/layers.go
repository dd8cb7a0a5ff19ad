package verify

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/modelsig/modelsig/manifest"
)

type mapped struct {
	mapping *Mapping
	err     error
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
