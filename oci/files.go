package oci

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/manifest"
)

// LayoutTitle is the name of the layout that maps one raw layer to one file by
// its org.opencontainers.image.title.
const LayoutTitle = "title"

// Values of [FilesOptions.PathAnnotation].
const (
	PathTitle    = "title"    // org.opencontainers.image.title
	PathFilepath = "filepath" // org.cncf.model.filepath
)

// CodePathAnnotation is the code of the threat that a layer is named in two
// ways and nobody chose (N15).
const CodePathAnnotation = "path-annotation"

const (
	annotationTitle          = ocispec.AnnotationTitle
	annotationFilepath       = "org.cncf.model.filepath"
	annotationLegacyFilepath = "org.cnai.model.filepath" // read by some consumers still
	annotationUnpack         = "io.deis.oras.content.unpack"
	annotationOlot           = "olot.layer.content." // a tar with one file, titled like the file

	// emptyDigest is the digest of "{}", the empty config of the image spec.
	emptyDigest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
)

// FilesOptions say what [Manifest.Files] may accept. The zero value accepts
// nothing that is ambiguous.
type FilesOptions struct {
	// Allow opts in to duplicate-layer, unnamed-layer, titled-config,
	// foreign-urls and the rules of manifest.CheckNames.
	Allow manifest.Allow
	// PathAnnotation chooses between title and filepath where a layer has both
	// and they differ: [PathTitle] or [PathFilepath]; "" refuses (N15).
	PathAnnotation string
	// Covered are blobs that a statement lists by a name that no annotation
	// gives them, as tools do that sign a manifest's config and unnamed
	// layers: for them, having no name and having content leaves nothing
	// open. nil: none.
	Covered []digest.Digest
}

// Files is what a consumer gets from a manifest.
type Files struct {
	Layout string // LayoutTitle
	// PathAnnotation is the choice of the options if it was needed, else "".
	PathAnnotation string
	// Files have a SHA-256 digest and a size; their Open is nil. Sorted by
	// name. Never empty.
	Files    []manifest.File
	Warnings []*manifest.ThreatError // what Allow let through
	// Uncovered says what the names and digests of Files leave open although
	// it may carry meaning (rule 8): a config with content, annotations other
	// than the creation time and the ones the layout used, media types that
	// are not plain files', unknown members. Empty: a signature over the files
	// alone says all that the manifest says.
	Uncovered []string
	// GitFiles are layers that OMS tools ignore at the top of a model, such as
	// .gitattributes (OMS §6.2). They are not among Files: only the manifest
	// digest binds them (N20). Sorted.
	GitFiles []string
}

// ErrUnmapped is returned, wrapped with the reason, when the layers are not
// raw and named: archives, container images, layers without a title. Such an
// artifact can still have a bound verdict.
var ErrUnmapped = errors.New("layers do not map to files")

// Files maps layers to files. It returns a [*manifest.ThreatError] for what is
// hostile or ambiguous, and an error that wraps [ErrUnmapped] for what has no
// mapping. The codes, beside those of manifest.CheckNames, are no-layers (M08),
// duplicate-name (N01), path-annotation (N15), and the names of the opt-ins.
func (m *Manifest) Files(o FilesOptions) (*Files, error) {
	switch o.PathAnnotation {
	case "", PathTitle, PathFilepath:
	default:
		return nil, fmt.Errorf("path annotation %s is neither %q nor %q", quote(o.PathAnnotation), PathTitle, PathFilepath)
	}
	if !slices.ContainsFunc(m.Layers, func(l ocispec.Descriptor) bool { return !isEmptyDescriptor(l) }) {
		return nil, refuse("no-layers", "layers", "none has content: nothing to sign")
	}
	if err := m.checkNames(); err != nil {
		return nil, err
	}
	if err := m.unmapped(); err != nil {
		return nil, err
	}
	mapping := &mapping{o: o, files: &Files{Layout: LayoutTitle}, byName: map[string]ocispec.Descriptor{}}
	if _, ok := m.Config.Annotations[annotationTitle]; ok {
		if err := mapping.permit(manifest.TitledConfig, m.Config.Annotations[annotationTitle], "the config has a title: some consumers write it as a file, others do not"); err != nil {
			return nil, err
		}
		if err := mapping.add(m.Config, "config"); err != nil {
			return nil, err
		}
	} else if err := mapping.checkURLs(m.Config, "config"); err != nil {
		return nil, err
	}
	for i, layer := range m.Layers {
		if err := mapping.add(layer, fmt.Sprintf("layers[%d]", i)); err != nil {
			return nil, err
		}
	}
	if err := mapping.finish(); err != nil {
		return nil, err
	}
	files := mapping.files
	files.Uncovered = m.uncovered(files, o.Covered)
	return files, nil
}

// checkNames applies the rules that nobody can relax to every name there is,
// before anything that a caller may allow, or that has no mapping, ends the
// reading: a hostile name must not hide behind a harmless oddity.
func (m *Manifest) checkNames() error {
	titles, paths := map[string]ocispec.Descriptor{}, map[string]ocispec.Descriptor{}
	for i, desc := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		for _, key := range []string{annotationTitle, annotationFilepath, annotationLegacyFilepath} {
			name, ok := desc.Annotations[key]
			if !ok {
				continue
			}
			if err := manifest.CheckName(name); err != nil {
				return err
			}
		}
		title, ok := desc.Annotations[annotationTitle]
		if path, named := filePath(desc); !ok && named && !isPackedType(desc.MediaType) {
			if err := unique(paths, path, desc); err != nil {
				return err
			}
		}
		if !ok || i > 0 && m.isImage() && isImageLayerType(desc.MediaType) && hasPrefixKey(desc.Annotations, annotationOlot) {
			continue // a model car: its titles are base names, and may repeat
		}
		if err := unique(titles, title, desc); err != nil {
			return err
		}
	}
	for _, names := range []map[string]ocispec.Descriptor{titles, paths} {
		if _, err := manifest.CheckNames(sortedKeys(names), manifest.Threats()); err != nil {
			return err
		}
	}
	return nil
}

// unique adds a name, which may be there already for the same content only.
func unique(names map[string]ocispec.Descriptor, name string, desc ocispec.Descriptor) error {
	if before, ok := names[name]; ok && (before.Digest != desc.Digest || before.Size != desc.Size) {
		return refuse("duplicate-name", name, "two layers with different content have this name")
	}
	names[name] = desc
	return nil
}

// filePath is the path of a layer, by the annotation that is not the title.
func filePath(desc ocispec.Descriptor) (string, bool) {
	for _, key := range []string{annotationFilepath, annotationLegacyFilepath} {
		if path, ok := desc.Annotations[key]; ok {
			return path, true
		}
	}
	return "", false
}

// unmapped says why the layers are not raw and named, if so. One layer that a
// consumer unpacks is enough: a list of some files is not what a consumer gets.
func (m *Manifest) unmapped() error {
	named := false
	for i, layer := range m.Layers {
		_, titled := layer.Annotations[annotationTitle]
		named = named || titled
		unpack, ok := layer.Annotations[annotationUnpack]
		switch {
		case ok && unpack != "false":
			// Only "true" is defined; a consumer may read others so too.
			return fmt.Errorf("%w: layers[%d] (%s) is an archive to unpack", ErrUnmapped, i, quote(layer.MediaType))
		case isPackedType(layer.MediaType):
			return fmt.Errorf("%w: layers[%d] (%s) is an archive by its media type", ErrUnmapped, i, quote(layer.MediaType))
		case m.isImageLayer(layer):
			return fmt.Errorf("%w: layers[%d] (%s) is a layer of a container image", ErrUnmapped, i, quote(layer.MediaType))
		}
	}
	if !named {
		var types []string
		for _, layer := range m.Layers {
			types = append(types, quote(layer.MediaType))
		}
		slices.Sort(types)
		types = slices.Compact(types)
		if len(types) > 3 {
			types = append(types[:3], "…")
		}
		return fmt.Errorf("%w: no layer has a title (%s)", ErrUnmapped, strings.Join(types, ", "))
	}
	return nil
}

// isPackedType reports whether the packer that defined mediaType unpacks or
// decompresses such layers. The image spec's own types are not here: oras
// gives them to raw files (M06).
func isPackedType(mediaType string) bool {
	return isPackerType(mediaType) &&
		(strings.Contains(mediaType, ".tar") || strings.HasSuffix(mediaType, "+gzip") || strings.HasSuffix(mediaType, "+zstd"))
}

// isPackerType reports whether a type is of a packer whose consumers do not go
// by titles.
func isPackerType(mediaType string) bool {
	for _, prefix := range []string{
		"application/vnd.cncf.model.", "application/vnd.cnai.model.",
		"application/vnd.kitops.modelkit.", "application/vnd.docker.ai.",
	} {
		if strings.HasPrefix(mediaType, prefix) {
			return true
		}
	}
	return false
}

// isImageLayer reports whether a layer is one of a container image: a tar,
// whatever it is titled.
func (m *Manifest) isImageLayer(layer ocispec.Descriptor) bool {
	return m.isImage() && isImageLayerType(layer.MediaType) || hasPrefixKey(layer.Annotations, annotationOlot)
}

func (m *Manifest) isImage() bool {
	return m.Config.MediaType == ocispec.MediaTypeImageConfig || m.Config.MediaType == "application/vnd.docker.container.image.v1+json"
}

func isImageLayerType(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.") ||
		strings.HasPrefix(mediaType, "application/vnd.docker.image.rootfs.")
}

func hasPrefixKey(annotations map[string]string, prefix string) bool {
	for key := range annotations {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

func isEmptyDescriptor(desc ocispec.Descriptor) bool {
	return desc.MediaType == ocispec.MediaTypeEmptyJSON && desc.Digest == emptyDigest
}

// A mapping collects files.
type mapping struct {
	o      FilesOptions
	files  *Files
	byName map[string]ocispec.Descriptor
}

// permit makes a warning of what the caller allowed, and an error of the rest.
func (p *mapping) permit(threat manifest.Threat, name, reason string) error {
	err := &manifest.ThreatError{Code: string(threat), Threat: threat, Name: name, Reason: reason}
	if !p.o.Allow.Has(threat) {
		return err
	}
	p.files.Warnings = append(p.files.Warnings, err)
	return nil
}

func (p *mapping) add(desc ocispec.Descriptor, what string) error {
	name, ok, err := p.name(desc, what)
	if err != nil {
		return err
	}
	if err := p.checkURLs(desc, what); err != nil {
		return err
	}
	if !ok {
		if slices.Contains(p.o.Covered, desc.Digest) {
			return nil
		}
		return p.permit(manifest.UnnamedLayer, what, "it has no name: consumers skip it")
	}
	if before, ok := p.byName[name]; ok {
		if before.Digest != desc.Digest || before.Size != desc.Size {
			return refuse("duplicate-name", name, "two layers with different content have this name")
		}
		return p.permit(manifest.DuplicateLayer, name, "two layers have this name and the same content")
	}
	p.byName[name] = desc
	return nil
}

// checkURLs wants content to be where its digest is (M05). URLs are never fetched.
func (p *mapping) checkURLs(desc ocispec.Descriptor, what string) error {
	if len(desc.URLs) == 0 {
		return nil
	}
	return p.permit(manifest.ForeignURLs, what, "it says that its content is elsewhere")
}

// name returns the file name of a layer; ok is false if it has none. It
// refuses a layer that consumers name differently, unless the caller chose (N15).
func (p *mapping) name(desc ocispec.Descriptor, what string) (name string, ok bool, err error) {
	title, titled := desc.Annotations[annotationTitle]
	for _, key := range []string{annotationFilepath, annotationLegacyFilepath} {
		path, ok := desc.Annotations[key]
		if !titled || !ok || path == title {
			continue
		}
		if p.o.PathAnnotation == "" {
			return "", false, refuse(CodePathAnnotation, title, "%s has another path, %s, in %s: consumers differ in which they use", what, quote(path), key)
		}
		p.files.PathAnnotation = p.o.PathAnnotation
	}
	name, ok = fileName(desc, p.o.PathAnnotation)
	return name, ok, nil
}

// fileName is the name that a layer has under a choice of annotation. A path
// without a title is no name here: consumers that read titles skip the layer.
func fileName(desc ocispec.Descriptor, pathAnnotation string) (string, bool) {
	title, titled := desc.Annotations[annotationTitle]
	if !titled || pathAnnotation != PathFilepath {
		return title, titled
	}
	if path, ok := filePath(desc); ok {
		return path, true
	}
	return title, true
}

func (p *mapping) finish() error {
	names := make([]string, 0, len(p.byName))
	for name := range p.byName {
		names = append(names, name)
	}
	slices.Sort(names)
	warnings, err := manifest.CheckNames(names, p.o.Allow)
	if err != nil {
		return err
	}
	p.files.Warnings = append(p.files.Warnings, warnings...)
	git := manifest.Ignore(manifest.GitPaths())
	for _, name := range names {
		if git.Match(name) {
			p.files.GitFiles = append(p.files.GitFiles, name)
			continue
		}
		desc := p.byName[name]
		sum, err := hex.DecodeString(desc.Digest.Encoded())
		if err != nil {
			return fmt.Errorf("digest of %s: %w", quote(name), err) // checked when parsed
		}
		p.files.Files = append(p.files.Files, manifest.File{Name: name, Size: desc.Size, Digest: sum})
	}
	if len(p.files.Files) == 0 {
		return refuse("no-layers", "layers", "none is a file of a model: nothing to sign")
	}
	return nil
}

// uncovered lists what may carry meaning beyond names and digests (rule 8).
func (m *Manifest) uncovered(files *Files, covered []digest.Digest) []string {
	var list []string
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if !isEmptyDescriptor(m.Config) && !m.isFile(m.Config, files) && !slices.Contains(covered, m.Config.Digest) {
		add("config %s (%s)", m.Config.Digest, quote(m.Config.MediaType))
	}
	for _, key := range sortedKeys(m.Annotations) {
		if key != ocispec.AnnotationCreated {
			add("annotation %s", quote(key))
		}
	}
	if isPackerType(m.ArtifactType) {
		add("artifactType %s", quote(m.ArtifactType)) // other consumers read such an artifact
	}
	if m.Subject != nil {
		add("subject %s", m.Subject.Digest)
	}
	for _, name := range files.GitFiles {
		if name != ".gitattributes" && name != ".gitignore" {
			add("file %s", quote(name))
		}
	}
	describe := func(what string, desc ocispec.Descriptor) {
		used, named := fileName(desc, files.PathAnnotation)
		for _, key := range sortedKeys(desc.Annotations) {
			switch key {
			case annotationTitle, annotationFilepath, annotationLegacyFilepath:
				if named && desc.Annotations[key] == used {
					continue // the layout used it, or it says the same
				}
			}
			add("%s: annotation %s", what, quote(key))
		}
		if len(desc.URLs) > 0 {
			add("%s: urls", what)
		}
		if desc.Platform != nil {
			add("%s: platform", what)
		}
		if desc.ArtifactType != "" {
			add("%s: artifactType %s", what, quote(desc.ArtifactType))
		}
	}
	describe("config", m.Config)
	for i, layer := range m.Layers {
		what := fmt.Sprintf("layers[%d]", i)
		switch name, ok := fileName(layer, files.PathAnnotation); {
		case ok:
			what += " " + quote(name)
		case slices.Contains(covered, layer.Digest):
			// Consumers do not write it, and a statement lists it.
		default:
			add("%s: no name", what)
		}
		if !isPlainType(layer.MediaType) || isTarType(layer.MediaType) && isTarName(layer.Annotations[annotationTitle]) {
			add("%s: media type %s", what, quote(layer.MediaType))
		}
		describe(what, layer)
	}
	for _, name := range m.unknown {
		add("member %s", quote(name))
	}
	return list
}

// isFile reports whether the bytes of desc are those of a listed file.
func (m *Manifest) isFile(desc ocispec.Descriptor, files *Files) bool {
	return slices.ContainsFunc(files.Files, func(f manifest.File) bool {
		return hex.EncodeToString(f.Digest) == desc.Digest.Encoded()
	})
}

// isPlainType reports whether every known consumer writes such a layer as it
// is: the types that Push and oras give to files.
func isPlainType(mediaType string) bool {
	if mediaType == ocispec.MediaTypeImageLayer || mediaType == defaultMediaType {
		return true
	}
	for _, known := range mediaTypes {
		if mediaType == known {
			return true
		}
	}
	return false
}

func isTarType(mediaType string) bool { return strings.Contains(mediaType, ".tar") }

// isTarName reports whether a consumer may unpack a file of that name, where
// its type says tar (rule 28).
func isTarName(name string) bool {
	base := strings.ToLower(name[strings.LastIndexByte(name, '/')+1:])
	return strings.Contains(base, ".tar") || strings.HasSuffix(base, ".tgz")
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
