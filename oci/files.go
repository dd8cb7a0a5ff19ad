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

// Values of [FilesOptions.PathAnnotation].
const (
	PathTitle    = "title"    // org.opencontainers.image.title
	PathFilepath = "filepath" // org.cncf.model.filepath
)

// CodePathAnnotation is the code of the threat that a layer is named in two
// ways and nobody chose, or can choose: between two paths (N15).
const CodePathAnnotation = "path-annotation"

const (
	annotationTitle          = ocispec.AnnotationTitle
	annotationFilepath       = "org.cncf.model.filepath"
	annotationLegacyFilepath = "org.cnai.model.filepath" // read by some consumers still
	annotationUnpack         = "io.deis.oras.content.unpack"
	annotationTarDigest      = "io.deis.oras.content.digest"
	annotationMetadata       = "org.cncf.model.file.metadata+json"
	annotationOlot           = "olot.layer.content." // a tar with one file, titled like the file

	// emptyDigest is the digest of "{}", the empty config of the image spec.
	emptyDigest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
	emptySize   = int64(len("{}"))
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
	Layout string // one of the Layout constants
	// PathAnnotation is the choice of the options if it was needed, else "".
	PathAnnotation string
	// Root is the folder inside the archives whose content the model is; "":
	// all of it.
	Root string
	// Read says that layers were read to know the files: see [Model.Unpack].
	Read bool
	// Added are files that the packer's own tool writes beside the model's,
	// and that are in no layer. Sorted.
	Added []string
	// Files have a SHA-256 digest and a size; their Open is nil. Sorted by
	// name. Never empty.
	Files []manifest.File
	// Executable are the files that an archive says are programs. No signature
	// of files says so (OMS has no modes). Sorted.
	Executable []string
	Warnings   []*manifest.ThreatError // what Allow let through
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

// ErrUnmapped is returned, wrapped with the reason, when nothing says which
// files the layers are. Such an artifact can still have a bound verdict.
var ErrUnmapped = errors.New("layers do not map to files")

// ErrPacked is returned, wrapped with the reason, when layers must be read to
// know the files in them: [Model.Unpack] does. It is an [ErrUnmapped].
var ErrPacked = fmt.Errorf("%w unless they are read", ErrUnmapped)

// Files maps layers to files by the manifest alone. It returns a
// [*manifest.ThreatError] for what is hostile or ambiguous, an error that wraps
// [ErrPacked] for archives, and one that wraps [ErrUnmapped] for what has no
// mapping. The codes, beside those of manifest.CheckNames, are no-layers (M08),
// duplicate-name (N01), path-annotation (N15), file-metadata (N16),
// nested-manifest, layer-type (M07), unpack-annotation, docker-version, and the names of the opt-ins.
func (m *Manifest) Files(o FilesOptions) (*Files, error) {
	plan, err := m.Plan(o)
	if err != nil {
		return nil, err
	}
	if why := plan.packed(); why != "" {
		return nil, fmt.Errorf("%w: %s", ErrPacked, why)
	}
	return plan.files(nil)
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
		now, hasNow := desc.Annotations[annotationFilepath]
		before, hasBefore := desc.Annotations[annotationLegacyFilepath]
		if hasNow && hasBefore && now != before {
			return refuse(CodePathAnnotation, now, "it has another path, %s, in %s: consumers differ in which of the two they prefer", quote(before), annotationLegacyFilepath)
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

// checkNested refuses a layer that is a manifest by its media type: oras walks
// into it, named or not, and writes the files of that one, which nobody maps.
func (m *Manifest) checkNested() error {
	for i, desc := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if !isManifestType(strings.ToLower(desc.MediaType)) {
			continue
		}
		what := "config"
		if i > 0 {
			what = fmt.Sprintf("layers[%d]", i-1)
		}
		return refuse("nested-manifest", what, "it is a manifest (%s): oras writes the files of that one too", quote(desc.MediaType))
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
	if packerOf(m.ArtifactType) != "" {
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
		used := fileName(desc, files.Layout, files.PathAnnotation)
		for _, key := range sortedKeys(desc.Annotations) {
			switch key {
			case annotationTitle, annotationFilepath, annotationLegacyFilepath:
				if used != "" && desc.Annotations[key] == used {
					continue // the layout used it, or it says the same
				}
			case annotationUnpack, annotationTarDigest:
				if isFolder(desc, files.Layout) {
					continue
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
		switch name := fileName(layer, files.Layout, files.PathAnnotation); {
		case name != "":
			what += " " + quote(name)
		case slices.Contains(covered, layer.Digest):
			// Consumers do not write it, and a statement lists it.
		default:
			add("%s: no name", what)
		}
		if isFolder(layer, files.Layout) {
			if !isImageLayerType(layer.MediaType) {
				add("%s: media type %s", what, quote(layer.MediaType))
			}
		} else if !isPlainType(layer.MediaType) || isTarType(layer.MediaType) && isTarName(layer.Annotations[annotationTitle]) {
			add("%s: media type %s", what, quote(layer.MediaType))
		}
		describe(what, layer)
	}
	for _, name := range m.unknown {
		add("member %s", quote(name))
	}
	return list
}

// isFolder reports whether oras unpacks a layer.
func isFolder(desc ocispec.Descriptor, layout string) bool {
	return layout == LayoutTitle && desc.Annotations[annotationUnpack] == "true"
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
