package oci

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/manifest"
)

// The layouts: how a consumer turns the layers of a manifest into files.
const (
	// LayoutTitle is what oras writes: a layer is a file named by its
	// org.opencontainers.image.title, or, where io.deis.oras.content.unpack is
	// "true", a tar of the folder of that name.
	LayoutTitle = "title"

	// LayoutModelPack is the CNCF ModelPack specification: a layer of a raw type
	// is a file named by org.cncf.model.filepath, and one of a tar type holds
	// files under their names in the tar.
	LayoutModelPack = "modelpack"

	// LayoutKitOps is a KitOps ModelKit: layers are tars, and the config is the
	// Kitfile.
	LayoutKitOps = "kitops"

	// LayoutDockerModel is what Docker Model Runner writes: v0.2 names files by
	// org.cncf.model.filepath; in v0.1 the media type is the name.
	LayoutDockerModel = "docker-model"

	// LayoutModelCar is a container image with a model below models/.
	LayoutModelCar = "modelcar"
)

// Layouts are all layouts.
func Layouts() []string {
	return []string{LayoutTitle, LayoutModelPack, LayoutKitOps, LayoutDockerModel, LayoutModelCar}
}

// modelCarRoot is where consumers of model cars look.
const modelCarRoot = "models"

// kitfile is what KitOps writes beside the files that it unpacks: its config,
// in another form.
const kitfile = "Kitfile"

// annotationKitfile is the Kitfile of a ModelPack artifact that KitOps made.
const annotationKitfile = "ml.kitops.modelkit.kitfile"

// A Plan says how a consumer reads the layers of a manifest.
type Plan struct {
	// Layout is one of the Layout constants.
	Layout string
	// Sources are the layers that hold files, in the order of the manifest,
	// and the config first where it is a file.
	Sources []Source

	manifest *Manifest
	mapping  *mapping
}

// A Source is a layer that holds files.
type Source struct {
	Descriptor ocispec.Descriptor
	Layer      int // index in Manifest.Layers; -1: the config

	// Name is the file's, where the layer is one file; "" if only the config
	// says it. Of an archive it is the folder, or the one file, that its
	// entries must be below, or be; "": anything.
	Name string

	// Archive says that the layer is a tar.
	Archive bool

	// Compression is "", "gzip" or "zstd"; "any": the media type leaves open
	// which of them, and the content tells.
	Compression string

	// Executable says that the packer marked the file, where the layer is one,
	// as a program.
	Executable bool

	root string // the folder of an archive that is the model's; "": all
}

// Packed reports whether the layer must be read to know the digests of its
// files.
func (s Source) Packed() bool { return s.Archive || s.Compression != "" }

// PackedBytes is how many bytes of layers [Model.Unpack] reads.
func (p *Plan) PackedBytes() int64 {
	var n int64
	for _, s := range p.Sources {
		if s.Packed() {
			n += s.Descriptor.Size
		}
	}
	return n
}

// Bytes is how many bytes all layers that hold files have.
func (p *Plan) Bytes() int64 {
	var n int64
	for _, s := range p.Sources {
		n += s.Descriptor.Size
	}
	return n
}

// Archives reports whether every file is in an archive, and so has its name in
// the bytes of a layer.
func (p *Plan) Archives() bool {
	return !slices.ContainsFunc(p.Sources, func(s Source) bool { return !s.Archive })
}

// Uncovered is that of [Files], as far as it is known before layers are read.
func (p *Plan) Uncovered() []string {
	return p.manifest.uncovered(p.mapping.files, p.mapping.o.Covered)
}

// clone is a plan that can be completed while others use this one.
func (p *Plan) clone() *Plan {
	out, mapping, files := *p, *p.mapping, *p.mapping.files
	files.Warnings = slices.Clone(files.Warnings)
	mapping.files = &files
	out.mapping, out.Sources = &mapping, slices.Clone(p.Sources)
	return &out
}

// packed says why files cannot be known without reading layers; "": they are.
func (p *Plan) packed() string {
	for _, s := range p.Sources {
		switch {
		case s.Archive:
			return fmt.Sprintf("layers[%d] (%s) is an archive", s.Layer, quote(s.Descriptor.MediaType))
		case s.Compression != "":
			return fmt.Sprintf("layers[%d] (%s) is compressed", s.Layer, quote(s.Descriptor.MediaType))
		}
	}
	if p.Layout == LayoutKitOps {
		return "the Kitfile says what else belongs to the model"
	}
	return ""
}

// Plan finds the layout and says what each layer is. It reads no layer. Its
// errors are those of [Manifest.Files], but for ErrPacked.
func (m *Manifest) Plan(o FilesOptions) (*Plan, error) {
	switch o.PathAnnotation {
	case "", PathTitle, PathFilepath:
	default:
		return nil, fmt.Errorf("path annotation %s is neither %q nor %q", quote(o.PathAnnotation), PathTitle, PathFilepath)
	}
	if m.IsIndex() {
		if err := m.checkChildren(o.Allow); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: an index has none, and this says nothing about its manifests", ErrUnmapped)
	}
	if !slices.ContainsFunc(m.Layers, func(l ocispec.Descriptor) bool { return !isEmptyDescriptor(l) }) {
		return nil, refuse("no-layers", "layers", "none has content: nothing to sign")
	}
	if err := m.checkNames(); err != nil {
		return nil, err
	}
	if err := m.checkNested(); err != nil {
		return nil, err
	}
	for i, layer := range m.Layers {
		if err := checkPackerType(layer.MediaType, fmt.Sprintf("layers[%d]", i)); err != nil {
			return nil, err
		}
	}
	layout, err := m.layout()
	if err != nil {
		return nil, err
	}
	p := &mapping{m: m, o: o, files: &Files{Layout: layout}, byName: map[string]ocispec.Descriptor{}}
	if layout == LayoutModelCar {
		p.files.Root = modelCarRoot
	}
	annotated, ok := m.Annotations[annotationKitfile]
	if ok || layout == LayoutKitOps {
		p.files.Added = []string{kitfile}
	}
	if annotated != "" { // "": kit takes it for none
		if err := p.readKitAnnotation(annotated); err != nil {
			return nil, err
		}
	}
	read := p.reader()
	if title, ok := m.Config.Annotations[annotationTitle]; ok {
		if err := p.permit(manifest.TitledConfig, title, "the config has a title: some consumers write it as a file, others do not"); err != nil {
			return nil, err
		}
		if err := p.add(m.Config, -1, titled); err != nil {
			return nil, err
		}
	} else if err := p.checkURLs(m.Config, "config"); err != nil {
		return nil, err
	}
	for i, layer := range m.Layers {
		if err := p.add(layer, i, read); err != nil {
			return nil, err
		}
	}
	return &Plan{Layout: layout, Sources: p.sources, manifest: m, mapping: p}, nil
}

// layout finds the one layout that the media types and annotations speak of.
// Two readings are refused: no mode is guessed.
func (m *Manifest) layout() (string, error) {
	found := map[string]string{} // layout → the media type that says so
	titled, pathed := false, false
	for _, layer := range m.Layers {
		_, t := layer.Annotations[annotationTitle]
		_, p := filePath(layer)
		titled, pathed = titled || t, pathed || p
		switch layout := packerOf(layer.MediaType); {
		case layout != "":
			found[layout] = layer.MediaType
		case m.isImage() && isImageLayerType(layer.MediaType):
			found[LayoutModelCar] = layer.MediaType
		case hasPrefixKey(layer.Annotations, annotationOlot):
			return "", fmt.Errorf("%w: a layer of a model car (%s), and this is no container image", ErrUnmapped, quote(layer.MediaType))
		}
	}
	if len(found) > 1 {
		layouts := sortedKeys(found)
		return "", fmt.Errorf("%w: they read as %s by %s, and as %s by %s", ErrUnmapped,
			layouts[0], quote(found[layouts[0]]), layouts[1], quote(found[layouts[1]]))
	}
	for layout := range found {
		if layout == LayoutModelPack && titled && !pathed && !slices.ContainsFunc(m.Layers, func(l ocispec.Descriptor) bool { return isPackedType(l.MediaType) }) {
			return LayoutTitle, nil // nothing but titles names the files
		}
		return layout, nil
	}
	switch {
	case titled:
		return LayoutTitle, nil
	case pathed:
		return LayoutModelPack, nil
	}
	var types []string
	for _, layer := range m.Layers {
		types = append(types, quote(layer.MediaType))
	}
	slices.Sort(types)
	types = slices.Compact(types)
	if len(types) > 3 {
		types = append(types[:3], "…")
	}
	return "", fmt.Errorf("%w: no layer has a title (%s)", ErrUnmapped, strings.Join(types, ", "))
}

// A mapping collects what the layers are.
type mapping struct {
	m       *Manifest
	o       FilesOptions
	files   *Files
	sources []Source
	byName  map[string]ocispec.Descriptor // of layers that are one file
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

// errSkipped is returned for a layer that the layout's consumers are known not
// to write: nothing is missing then.
var errSkipped = errors.New("not a file")

// A reader says how a consumer reads one layer. A Source that is one file and
// has no Name has none. It may return errSkipped.
type reader func(p *mapping, desc ocispec.Descriptor, what string) (Source, error)

// reader is how the layers of the layout are read.
func (p *mapping) reader() reader {
	switch p.files.Layout {
	case LayoutTitle:
		return titled
	case LayoutModelPack:
		return pathed
	case LayoutKitOps:
		return kit
	case LayoutModelCar:
		return car
	}
	return p.docker()
}

// add reads one layer and records what came of it.
func (p *mapping) add(desc ocispec.Descriptor, layer int, read reader) error {
	what := "config"
	if layer >= 0 {
		what = fmt.Sprintf("layers[%d]", layer)
	}
	if err := p.checkUnpack(desc, what); err != nil {
		return err
	}
	s, err := read(p, desc, what)
	if errors.Is(err, errSkipped) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := p.checkURLs(desc, what); err != nil {
		return err
	}
	s.Descriptor, s.Layer = desc, layer
	switch {
	case s.Archive, s.Name == "" && p.files.Layout == LayoutKitOps: // the Kitfile has the name
		p.sources = append(p.sources, s)
		return nil
	case s.Name == "":
		if slices.Contains(p.o.Covered, desc.Digest) {
			return nil
		}
		return p.permit(manifest.UnnamedLayer, what, "it has no name: consumers skip it")
	}
	if err := manifest.CheckName(s.Name); err != nil {
		return err
	}
	if isTarType(desc.MediaType) && packerOf(desc.MediaType) == "" && isTarName(s.Name) {
		if err := p.permit(manifest.TarAsFile, s.Name, "it is a file by its annotations and an archive by its media type and name: consumers may unpack it"); err != nil {
			return err
		}
	}
	if before, ok := p.byName[s.Name]; ok {
		if before.Digest != desc.Digest || before.Size != desc.Size {
			return refuse("duplicate-name", s.Name, "two layers with different content have this name")
		}
		return p.permit(manifest.DuplicateLayer, s.Name, "two layers have this name and the same content")
	}
	p.byName[s.Name] = desc
	p.sources = append(p.sources, s)
	return nil
}

// checkURLs wants content to be where its digest is (M05). URLs are never fetched.
func (p *mapping) checkURLs(desc ocispec.Descriptor, what string) error {
	if len(desc.URLs) == 0 {
		return nil
	}
	return p.permit(manifest.ForeignURLs, what, "it says that its content is elsewhere")
}

// checkUnpack refuses oras' word for a folder where names are paths: the
// packer's own tool does not know it, and decides by the media type.
func (p *mapping) checkUnpack(desc ocispec.Descriptor, what string) error {
	switch p.files.Layout {
	case LayoutModelPack, LayoutKitOps, LayoutDockerModel:
	default:
		return nil
	}
	unpack, ok := desc.Annotations[annotationUnpack]
	if !ok || unpack == "false" {
		return nil
	}
	return refuse("unpack-annotation", what, "it reads as a folder that oras unpacks, by %s %s, and as what its media type (%s) says in the layout %s",
		annotationUnpack, quote(unpack), quote(desc.MediaType), p.files.Layout)
}

// titled reads a layer as oras does.
func titled(p *mapping, desc ocispec.Descriptor, what string) (Source, error) {
	name, err := p.name(desc, what, PathTitle)
	if err != nil {
		return Source{}, err
	}
	switch unpack, ok := desc.Annotations[annotationUnpack]; {
	case !ok || unpack == "false":
	case unpack != "true":
		// Only "true" is defined; a consumer may read others so too.
		return Source{}, fmt.Errorf("%w: %s has %s %s, which is neither true nor false", ErrUnmapped, what, annotationUnpack, quote(unpack))
	case name == "":
		return Source{}, p.permit(manifest.UnnamedLayer, what, "it is to be unpacked, and has no name: consumers skip it")
	default:
		return Source{Name: name, Archive: true, Compression: openCompression(desc.MediaType)}, nil
	}
	return Source{Name: name}, nil
}

// pathed reads a layer as ModelPack says.
func pathed(p *mapping, desc ocispec.Descriptor, what string) (Source, error) {
	if isPackedType(desc.MediaType) && isArchiveType(desc.MediaType) {
		return archived(desc), nil
	}
	name, err := p.name(desc, what, PathFilepath)
	if err != nil {
		return Source{}, err
	}
	s := Source{Name: name}
	if packerOf(desc.MediaType) != "" {
		s.Compression = compressionOf(desc.MediaType)
	}
	s.Executable, err = p.metadata(desc, name, s.Compression != "")
	return s, err
}

// archived is a tar whose entries are below its path, if it has one.
func archived(desc ocispec.Descriptor) Source {
	s := Source{Archive: true, Compression: compressionOf(desc.MediaType)}
	if within, ok := filePath(desc); ok {
		if within = path.Clean(within); within != "." {
			s.Name = within
		}
	}
	return s
}

// kit reads a layer as KitOps does. A layer that is one file may have its name
// in the Kitfile.
func kit(p *mapping, desc ocispec.Descriptor, what string) (Source, error) {
	switch {
	case packerOf(desc.MediaType) != LayoutKitOps:
		return Source{}, fmt.Errorf("%w: %s (%s) is no part of a ModelKit", ErrUnmapped, what, quote(desc.MediaType))
	case isArchiveType(desc.MediaType):
		return archived(desc), nil
	}
	name, _ := filePath(desc)
	return Source{Name: name, Compression: compressionOf(desc.MediaType)}, nil
}

// car reads a layer of a container image.
func car(p *mapping, desc ocispec.Descriptor, what string) (Source, error) {
	if !isImageLayerType(desc.MediaType) {
		return Source{}, fmt.Errorf("%w: %s (%s) is no layer of a container image", ErrUnmapped, what, quote(desc.MediaType))
	}
	return Source{Archive: true, Compression: openCompression(desc.MediaType), root: modelCarRoot}, nil
}

// name returns the file name of a layer by the annotation that the layout
// prefers, "" if it has none. It refuses a layer that consumers name
// differently, unless the caller chose (N15).
func (p *mapping) name(desc ocispec.Descriptor, what, prefer string) (string, error) {
	title, hasTitle := desc.Annotations[annotationTitle]
	for _, key := range []string{annotationFilepath, annotationLegacyFilepath} {
		path, ok := desc.Annotations[key]
		if !hasTitle || !ok || path == title {
			continue
		}
		if p.o.PathAnnotation == "" {
			return "", refuse(CodePathAnnotation, title, "%s has another path, %s, in %s: consumers differ in which they use", what, quote(path), key)
		}
		p.files.PathAnnotation = p.o.PathAnnotation
	}
	if p.o.PathAnnotation != "" {
		prefer = p.o.PathAnnotation
	}
	return fileName(desc, p.files.Layout, prefer), nil
}

// fileName is the name that a layer has under a choice of annotation. A path
// without a title is no name in the layout title: consumers that read titles
// skip the layer. Elsewhere a title without a path is none.
func fileName(desc ocispec.Descriptor, layout, pathAnnotation string) string {
	title, hasTitle := desc.Annotations[annotationTitle]
	path, hasPath := filePath(desc)
	switch {
	case layout == LayoutTitle && !hasTitle, layout != LayoutTitle && !hasPath:
		return ""
	case hasPath && pathAnnotation == PathFilepath, !hasTitle:
		return path
	}
	return title
}

// metadata holds what a packer says of a file against what the layer is (N16).
func (p *mapping) metadata(desc ocispec.Descriptor, name string, compressed bool) (executable bool, err error) {
	text, ok := desc.Annotations[annotationMetadata]
	if !ok || name == "" {
		return false, nil
	}
	// What two parsers read differently says two things of one file (M12).
	if err := manifest.CheckJSON([]byte(text), "name", "mode", "size", "uid", "gid", "mtime", "typeflag"); err != nil {
		return false, refuse("file-metadata", name, "%s: %s", annotationMetadata, reason(err))
	}
	var meta struct {
		Name string `json:"name"`
		Mode uint32 `json:"mode"`
		Size *int64 `json:"size"`
	}
	if err := json.Unmarshal([]byte(text), &meta); err != nil {
		return false, refuse("file-metadata", name, "%s is not what ModelPack says: %s", annotationMetadata, reason(err))
	}
	if meta.Size != nil && *meta.Size != desc.Size && !compressed {
		return false, refuse("file-metadata", name, "%s says %d bytes, and the layer has %d", annotationMetadata, *meta.Size, desc.Size)
	}
	if meta.Name != "" && meta.Name != path.Base(name) {
		p.files.Warnings = append(p.files.Warnings, &manifest.ThreatError{Code: "file-metadata", Name: name,
			Reason: fmt.Sprintf("%s calls it %s", annotationMetadata, quote(meta.Name))})
	}
	return meta.Mode&0o111 != 0, nil
}

// files is what a consumer gets: the layers that are files, and unpacked, the
// files that were found in others.
func (p *Plan) files(unpacked []manifest.File) (*Files, error) {
	found := make([]manifest.File, 0, len(p.Sources)+len(unpacked))
	for _, s := range p.Sources {
		if s.Packed() || s.Name == "" {
			continue
		}
		sum, err := hex.DecodeString(s.Descriptor.Digest.Encoded())
		if err != nil {
			return nil, fmt.Errorf("digest of %s: %w", quote(s.Name), err) // checked when parsed
		}
		found = append(found, manifest.File{Name: s.Name, Size: s.Descriptor.Size, Digest: sum})
	}
	found = append(found, unpacked...)
	slices.SortFunc(found, func(a, b manifest.File) int { return strings.Compare(a.Name, b.Name) })
	names := make([]string, len(found))
	for i, f := range found {
		names[i] = f.Name
		if slices.Contains(p.mapping.files.Added, f.Name) {
			return nil, refuse("duplicate-name", f.Name, "a layer has a file with the name of the one that the packer's tool writes itself")
		}
	}
	warnings, err := manifest.CheckNames(names, p.mapping.o.Allow)
	if err != nil {
		return nil, err
	}
	out := *p.mapping.files
	out.Warnings = slices.Concat(out.Warnings, warnings)
	git := manifest.Ignore(manifest.GitPaths())
	for _, f := range found {
		if git.Match(f.Name) {
			out.GitFiles = append(out.GitFiles, f.Name)
			continue
		}
		out.Files = append(out.Files, f)
	}
	if len(out.Files) == 0 && p.Layout == LayoutModelCar {
		return nil, fmt.Errorf("%w: a container image without a file below %s/", ErrUnmapped, modelCarRoot)
	}
	if len(out.Files) == 0 {
		return nil, refuse("no-layers", "layers", "none is a file of a model: nothing to sign")
	}
	out.Uncovered = p.manifest.uncovered(&out, p.mapping.o.Covered)
	return &out, nil
}

// diffIDs are the digests of uncompressed layers that the manifest and its
// config name, by the digest of the layer: T09.
func (p *Plan) diffIDs(config []byte) (map[digest.Digest]digest.Digest, error) {
	ids := map[digest.Digest]digest.Digest{}
	add := func(layer, id digest.Digest) error {
		if id == "" {
			return nil
		}
		if err := checkDigest(id.String()); err != nil {
			return refuse("diff-id", string(layer), "the digest of its content, %s, is not sha256", quote(string(id)))
		}
		if before, ok := ids[layer]; ok && before != id {
			return refuse("diff-id", string(layer), "its content is said to be %s, and %s", before, id)
		}
		ids[layer] = id
		return nil
	}
	for _, s := range p.Sources {
		if err := add(s.Descriptor.Digest, digest.Digest(s.Descriptor.Annotations[annotationTarDigest])); err != nil {
			return nil, err
		}
	}
	if config == nil {
		return ids, nil
	}
	if p.Layout == LayoutKitOps {
		parts, err := parseKitfile(config)
		if err != nil {
			return nil, err
		}
		for _, part := range parts {
			if err := add(part.Digest, part.DiffID); err != nil {
				return nil, err
			}
		}
		return ids, nil
	}
	var c struct {
		ModelFS struct {
			DiffIDs []digest.Digest `json:"diffIds"`
		} `json:"modelfs"`
		RootFS struct {
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, refuse("config-json", "config", "%s", reason(err))
	}
	for _, list := range [][]digest.Digest{c.ModelFS.DiffIDs, c.RootFS.DiffIDs} {
		if len(list) == 0 {
			continue
		}
		if len(list) != len(p.manifest.Layers) {
			return nil, refuse("diff-id", "config", "it names the content of %d layers, and there are %d", len(list), len(p.manifest.Layers))
		}
		for i, id := range list {
			if err := add(p.manifest.Layers[i].Digest, id); err != nil {
				return nil, err
			}
		}
	}
	return ids, nil
}
