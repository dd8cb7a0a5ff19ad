package oci

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/manifest"
)

// MaxManifest is the largest manifest that is read, in bytes. Registries need
// not take more (distribution spec, "Pushing Manifests").
const MaxManifest = 4 << 20

const (
	mediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	mediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	mediaTypeSchema1        = "application/vnd.docker.distribution.manifest.v1+json"
	mediaTypeSchema1Signed  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// digestAlgorithms are those that a well-formed digest may name; only sha256
// is accepted.
var digestAlgorithms = map[string]bool{"sha256": true, "sha384": true, "sha512": true, "blake3": true}

// A media type is two names of at most maxMediaName bytes (image spec; RFC 6838
// §4.2).
const maxMediaName = 127

var mediaName = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*\z`)

func isMediaType(s string) bool {
	name, subname, _ := strings.Cut(s, "/")
	return len(name) <= maxMediaName && len(subname) <= maxMediaName && mediaName.MatchString(name) && mediaName.MatchString(subname)
}

// A Manifest is an image manifest, with the very bytes it was parsed from.
// The embedded ocispec.Manifest is what they say; its MediaType may be empty
// where Descriptor.MediaType is not.
type Manifest struct {
	Bytes      []byte
	Descriptor ocispec.Descriptor // MediaType, Digest, Size of Bytes; ArtifactType
	ocispec.Manifest

	unknown  []string // members that no spec defines, as paths
	children []Child  // of an index
}

// ErrIndex is returned for an image index or a manifest list: a verdict is
// about one manifest, and which one is not guessed.
var ErrIndex = errors.New("is an image index, not one manifest")

// The members that the image spec defines. Anything else is unknown: legal,
// ignored by most consumers, and listed as uncovered by [Manifest.Files].
var (
	manifestMembers   = []string{"schemaVersion", "mediaType", "artifactType", "config", "layers", "subject", "annotations"}
	descriptorMembers = []string{"mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType"}
	// foreignMembers belong to other kinds of manifest.
	foreignMembers = []string{"manifests", "fsLayers", "history", "signatures", "blobs"}
)

// ParseManifest parses an image manifest strictly: threats M01 to M12.
// mediaType is what the server or the index said, without parameters; "" if
// nobody did. An absent mediaType member is legal, a contradiction is not (M09).
//
// The error is a [*manifest.ThreatError] when the bytes are refused, and wraps
// [ErrIndex] for an index. The codes are manifest-too-large, manifest-json (what
// manifest.CheckJSON refuses), manifest-shape, schema-version, schema1,
// media-type, media-type-mismatch, layers-and-manifests, missing-config,
// missing-layers, missing-size, negative-size, size-mismatch, size-overflow,
// digest-format, digest-algorithm, descriptor-media-type, data-mismatch,
// non-distributable and encrypted-layer.
func ParseManifest(data []byte, mediaType string) (*Manifest, error) {
	m, err := parseAny(data, mediaType)
	if err == nil && m.IsIndex() {
		return nil, ErrIndex
	}
	return m, err
}

// parseAny is ParseManifest, and reads an index too.
func parseAny(data []byte, mediaType string) (*Manifest, error) {
	if len(data) > MaxManifest {
		return nil, refuse("manifest-too-large", "manifest", "%d bytes, more than %d", len(data), MaxManifest)
	}
	members := slices.Concat(manifestMembers, descriptorMembers, foreignMembers)
	if err := manifest.CheckJSON(data, members...); err != nil {
		return nil, refuse("manifest-json", "manifest", "%s", reason(err))
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(data, &top); err != nil || top == nil {
		return nil, refuse("manifest-shape", "manifest", "not a JSON object")
	}
	said, err := checkKind(top, mediaType)
	if err != nil {
		return nil, err
	}
	m := &Manifest{
		Bytes:      bytes.Clone(data),
		Descriptor: ocispec.Descriptor{MediaType: said, Digest: digest.FromBytes(data), Size: int64(len(data))},
	}
	if m.IsIndex() {
		if err := m.readIndex(top); err != nil {
			return nil, err
		}
		return m, nil
	}
	if err := json.Unmarshal(data, &m.Manifest); err != nil {
		if corrupt := base64.CorruptInputError(0); errors.As(err, &corrupt) {
			return nil, refuse("data-mismatch", "data", "embedded data: %s", reason(err))
		}
		return nil, refuse("manifest-shape", "manifest", "%s", reason(err))
	}
	m.Descriptor.ArtifactType = m.ArtifactType
	if m.Descriptor.ArtifactType == "" {
		// The image spec: the type of an artifact without artifactType is its
		// config's media type. Descriptors of plain images carry none.
		if m.Config.MediaType != ocispec.MediaTypeImageConfig && m.Config.MediaType != ocispec.MediaTypeEmptyJSON {
			m.Descriptor.ArtifactType = m.Config.MediaType
		}
	}
	m.unknown = unknownMembers(top, manifestMembers, "")
	if err := m.checkDescriptors(top); err != nil {
		return nil, err
	}
	return m, nil
}

// checkKind decides what the object is, and returns its media type.
func checkKind(top map[string]json.RawMessage, server string) (string, error) {
	var version int
	if err := json.Unmarshal(top["schemaVersion"], &version); err != nil {
		return "", refuse("schema-version", "schemaVersion", "it is not there or no number")
	}
	var inside string
	if raw, ok := top["mediaType"]; ok {
		if err := json.Unmarshal(raw, &inside); err != nil || inside == "" {
			return "", refuse("media-type", "mediaType", "not a media type")
		}
	}
	said := inside
	if said == "" {
		said = server
	} else if server != "" && server != inside {
		return "", refuse("media-type-mismatch", server, "announced as this media type, but mediaType is %s", quote(inside))
	}
	_, layers := top["layers"]
	_, manifests := top["manifests"]
	for _, member := range []string{"fsLayers", "history", "signatures"} {
		if _, ok := top[member]; ok {
			return "", refuse("schema1", member, "a member of Docker's schema 1")
		}
	}
	switch {
	case version == 1 || said == mediaTypeSchema1 || said == mediaTypeSchema1Signed:
		return "", refuse("schema1", "manifest", "Docker's schema 1 has no digests to verify")
	case version != 2:
		return "", refuse("schema-version", "schemaVersion", "it is %d, not 2", version)
	case manifests && (layers || top["config"] != nil):
		return "", refuse("layers-and-manifests", "manifest", "reads as an image manifest and as an index")
	}
	switch said {
	case ocispec.MediaTypeImageIndex, mediaTypeDockerList:
		if layers || top["config"] != nil {
			return "", refuse("layers-and-manifests", "manifest", "an index by its media type, an image manifest by its members")
		}
		return said, nil
	case ocispec.MediaTypeImageManifest, mediaTypeDockerManifest:
		if manifests {
			return "", refuse("layers-and-manifests", "manifest", "an image manifest by its media type, an index by its members")
		}
	case "":
		if manifests {
			return ocispec.MediaTypeImageIndex, nil
		}
		said = ocispec.MediaTypeImageManifest
	default:
		return "", refuse("media-type", said, "not the media type of an image manifest")
	}
	if _, ok := top["blobs"]; ok {
		return "", refuse("media-type", "blobs", "a member of an artifact manifest")
	}
	return said, nil
}

func (m *Manifest) checkDescriptors(top map[string]json.RawMessage) error {
	if raw := top["config"]; raw == nil || isNull(raw) {
		return refuse("missing-config", "config", "it is not there")
	}
	var layers []json.RawMessage
	if raw := top["layers"]; raw == nil || isNull(raw) {
		return refuse("missing-layers", "layers", "it is not there")
	} else if err := json.Unmarshal(raw, &layers); err != nil {
		return refuse("manifest-shape", "layers", "%s", reason(err))
	}
	total := m.Descriptor.Size
	check := func(raw json.RawMessage, desc ocispec.Descriptor, what string) error {
		if err := m.checkRaw(raw, desc, what); err != nil {
			return err
		}
		if total > math.MaxInt64-desc.Size {
			return refuse("size-overflow", what, "the sizes add up to more than an int64")
		}
		total += desc.Size
		return nil
	}
	if err := check(top["config"], m.Config, "config"); err != nil {
		return err
	}
	for i, raw := range layers {
		what := fmt.Sprintf("layers[%d]", i)
		if err := check(raw, m.Layers[i], what); err != nil {
			return err
		}
		if err := checkLayerType(m.Layers[i].MediaType, what); err != nil {
			return err
		}
	}
	if raw := top["subject"]; raw != nil {
		if isNull(raw) {
			return refuse("manifest-shape", "subject", "it is null")
		}
		return check(raw, *m.Subject, "subject")
	}
	return nil
}

func (m *Manifest) checkRaw(raw json.RawMessage, desc ocispec.Descriptor, what string) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil || members == nil {
		return refuse("manifest-shape", what, "not an object")
	}
	m.unknown = append(m.unknown, unknownMembers(members, descriptorMembers, what)...)
	if err := checkDescriptor(desc, what); err != nil {
		return err
	}
	if size := members["size"]; size == nil || isNull(size) {
		return refuse("missing-size", what, "it has no size")
	}
	if desc.Digest == emptyDigest && desc.Size != emptySize {
		return refuse("size-mismatch", what, "it has the digest of {}, and %d bytes (M03)", desc.Size)
	}
	if !isMediaType(desc.MediaType) {
		return refuse("descriptor-media-type", what, "%s is not a media type", quote(desc.MediaType))
	}
	if embedded := members["data"]; embedded != nil {
		return checkData(embedded, desc, what)
	}
	return nil
}

// checkData wants embedded content to be the content (M04).
func checkData(raw json.RawMessage, desc ocispec.Descriptor, what string) error {
	var text string
	err := json.Unmarshal(raw, &text)
	var data []byte
	if err == nil {
		data, err = base64.StdEncoding.Strict().DecodeString(text)
	}
	sum := sha256.Sum256(data)
	if err != nil || strings.ContainsAny(text, "\r\n") || int64(len(data)) != desc.Size || "sha256:"+hex.EncodeToString(sum[:]) != desc.Digest.String() {
		return refuse("data-mismatch", what, "the embedded data is not the content of %s", desc.Digest)
	}
	return nil
}

// checkLayerType refuses content that is elsewhere or unreadable (M18).
func checkLayerType(mediaType, what string) error {
	switch {
	case strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.nondistributable."),
		strings.HasPrefix(mediaType, "application/vnd.docker.image.rootfs.foreign."):
		return refuse("non-distributable", what, "the content is kept elsewhere (%s)", quote(mediaType))
	case strings.HasSuffix(mediaType, "+encrypted"):
		return refuse("encrypted-layer", what, "the content is encrypted (%s)", quote(mediaType))
	}
	return nil
}

// IsManifest reports whether data is shaped as an OCI or Docker schema 2 image
// manifest: one JSON object of at most [MaxManifest] bytes with schemaVersion 2,
// a config with a digest, layers, and, if any, the media type of an image
// manifest. It says nothing about whether [ParseManifest] accepts it: what is
// shaped as a manifest and is refused there must not pass as a plain file.
func IsManifest(data []byte) bool {
	if len(data) > MaxManifest {
		return false
	}
	var shape struct {
		SchemaVersion int    `json:"schemaVersion"`
		MediaType     string `json:"mediaType"`
		Config        *struct {
			Digest *string `json:"digest"`
		} `json:"config"`
		Layers []json.RawMessage `json:"layers"`
	}
	if err := json.Unmarshal(data, &shape); err != nil {
		return false
	}
	return shape.SchemaVersion == 2 &&
		(shape.MediaType == "" || shape.MediaType == ocispec.MediaTypeImageManifest || shape.MediaType == mediaTypeDockerManifest) &&
		shape.Config != nil && shape.Config.Digest != nil &&
		shape.Layers != nil
}

// isManifestType reports whether an answer of this type is about a manifest of
// any kind.
func isManifestType(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageManifest, mediaTypeDockerManifest, ocispec.MediaTypeImageIndex,
		mediaTypeDockerList, mediaTypeArtifact, mediaTypeSchema1, mediaTypeSchema1Signed:
		return true
	}
	return false
}

func unknownMembers(members map[string]json.RawMessage, known []string, what string) []string {
	var unknown []string
	for name := range members {
		if slices.Contains(known, name) {
			continue
		}
		if what != "" {
			name = what + "." + name
		}
		unknown = append(unknown, name)
	}
	slices.Sort(unknown)
	return unknown
}

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

func refuse(code, name, format string, args ...any) error {
	return &manifest.ThreatError{Code: code, Name: name, Reason: fmt.Sprintf(format, args...)}
}

// reason is the text of an error about foreign bytes, cut: decoders repeat
// what they could not read.
func reason(err error) string {
	text := err.Error()
	if len(text) > maxQuoted {
		text = text[:maxQuoted] + "…"
	}
	return text
}
