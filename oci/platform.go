package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/manifest"
)

// MaxChildren is how many manifests one index may list. Official images have
// some twenty, attestations included.
const MaxChildren = 1000

// An Index is an image index (or Docker's manifest list) that was found. Its
// Manifest has no config and no layers: [Manifest.Files] is [ErrUnmapped]. A
// verdict about it is about its own digest, and says nothing about a child.
type Index struct {
	*Model
	Children []Child // in the order of the index
}

// A Child is one manifest that an index lists.
type Child struct {
	Descriptor ocispec.Descriptor // as the index has it, checked as [ParseManifest] checks layers
	Platform   string             // OS/ARCH or OS/ARCH/VARIANT; "" if the index says none
}

// IsAttestation reports whether the child says that it runs nowhere: builders
// and packers keep what is about the other children under unknown/unknown (I02).
// Nobody selects it, and signing an index child by child leaves it out.
func (c Child) IsAttestation() bool { return c.Platform == "unknown/unknown" }

// platformPattern is what a platform is made of: the names of GOOS and GOARCH
// and what people add to them (image spec, "platform").
var platformPattern = regexp.MustCompile(`\A[a-z0-9][a-z0-9._-]*/[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)?\z`)

// maxPlatform bounds a platform in bytes; windows/amd64 is a long one.
const maxPlatform = 128

// platformMembers are those of a platform, in the image spec and in Docker's
// manifest lists.
var platformMembers = []string{"os", "architecture", "variant", "os.version", "os.features", "features"}

// OpenAny is [Client.Open] for those to whom an index is a subject like any
// other: signatures of an index are found and judged by its own digest.
func (c *Client) OpenAny(ctx context.Context, ref Reference) (*Model, error) {
	if !ref.IsRegistry() {
		return openLayoutModel(ctx, ref)
	}
	if ref.Tag == "" && ref.Digest == "" {
		return nil, fmt.Errorf("open %s: no tag and no digest (none is implied)", ref)
	}
	repo, a, err := c.repository(ref)
	if err != nil {
		return nil, err
	}
	m, err := fetchManifest(ctx, repo, ref)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", ref, a.explain(err))
	}
	ref.Digest = m.Descriptor.Digest
	return &Model{Reference: ref, Manifest: m, Repository: repo, auth: a}, nil
}

// OpenIndex resolves ref once, as [Client.Open] does, and reads the index that
// it names. It wraps [ErrNotIndex] for what is one manifest.
//
// The codes of a [*manifest.ThreatError] are those of [ParseManifest], and
// missing-manifests, too-many-manifests, nested-index,
// child-media-type, duplicate-digest and platform (I03, M09, M12).
func (c *Client) OpenIndex(ctx context.Context, ref Reference) (*Index, error) {
	m, err := c.OpenAny(ctx, ref)
	if err != nil {
		return nil, err
	}
	if !m.Manifest.IsIndex() {
		return nil, fmt.Errorf("open %s: %w", m.Reference, ErrNotIndex)
	}
	return &Index{Model: m, Children: m.Manifest.children}, nil
}

// OpenPlatform resolves ref once and opens the one child of that index that is
// for platform, written OS/ARCH or OS/ARCH/VARIANT. Without a variant a child of
// any variant fits. None, or more than one, is an error that names those there
// are: which one is meant is not guessed.
//
// The Model's Reference has the child's digest and no tag: the tag is the
// index's. Its Index and Platform say where it was found.
func (c *Client) OpenPlatform(ctx context.Context, ref Reference, platform string) (*Model, error) {
	if len(platform) > maxPlatform || !platformPattern.MatchString(platform) {
		return nil, fmt.Errorf("platform %s is not OS/ARCH or OS/ARCH/VARIANT", quote(platform))
	}
	x, err := c.OpenIndex(ctx, ref)
	if err != nil {
		return nil, err
	}
	child, err := x.child(platform)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", x.Reference, err)
	}
	return x.Open(ctx, child)
}

// child finds the one for platform.
func (x *Index) child(platform string) (Child, error) {
	var fits, there []string
	var found Child
	for _, child := range x.Children {
		if child.IsAttestation() || child.Platform == "" {
			continue
		}
		there = append(there, child.Platform)
		if child.Platform == platform || strings.Count(platform, "/") == 1 && strings.HasPrefix(child.Platform, platform+"/") {
			found, fits = child, append(fits, child.Platform)
		}
	}
	switch {
	case len(fits) == 1:
		return found, nil
	case len(fits) > 1:
		return Child{}, fmt.Errorf("%d manifests are for platform %s: %s", len(fits), platform, someOf(fits))
	case len(there) == 0:
		return Child{}, fmt.Errorf("no manifest is for platform %s: the index names none", platform)
	}
	return Child{}, fmt.Errorf("no manifest is for platform %s: there are %s", platform, someOf(there))
}

// someOf is a list for a message.
func someOf(platforms []string) string {
	platforms = slices.Compact(slices.Sorted(slices.Values(platforms)))
	if len(platforms) > maxTagsNamed {
		platforms = append(platforms[:maxTagsNamed:maxTagsNamed], "…")
	}
	return strings.Join(platforms, ", ")
}

// Open opens one of x's children. What comes must be what the index says:
// digest, size and media type (M03, M09), and no index again (I03).
func (x *Index) Open(ctx context.Context, child Child) (*Model, error) {
	ref := x.Reference
	ref.Tag, ref.Digest = "", child.Descriptor.Digest
	var m *Manifest
	var err error
	if x.Layout != nil {
		m, err = x.Layout.readManifest(ctx, child.Descriptor)
	} else {
		m, err = fetchManifest(ctx, x.Repository, ref)
	}
	if err == nil {
		err = child.check(m)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s, of index %s: %w", ref, x.Reference.Digest, x.auth.explain(err))
	}
	index := x.Manifest.Descriptor
	return &Model{Reference: ref, Manifest: m, Repository: x.Repository, Layout: x.Layout, Index: &index, Platform: child.Platform, auth: x.auth}, nil
}

func (c Child) check(m *Manifest) error {
	said, is := c.Descriptor, m.Descriptor
	switch {
	case m.IsIndex():
		return refuse("nested-index", said.Digest.String(), "an index inside an index (I03)")
	case said.Size != is.Size:
		return refuse("size-mismatch", said.Digest.String(), "the manifest has %d bytes, the index says %d", is.Size, said.Size)
	case said.MediaType != is.MediaType:
		return refuse("media-type-mismatch", said.MediaType, "the index announces this media type, the manifest's is %s", quote(is.MediaType))
	}
	return nil
}

// ErrNotIndex is returned where an index was asked for and the reference names
// one manifest.
var ErrNotIndex = errors.New("is one manifest, not an image index")

// IsIndex reports whether m is an image index: only [Client.OpenAny] and
// [Client.OpenIndex] give one.
func (m *Manifest) IsIndex() bool { return isIndexType(m.Descriptor.MediaType) }

func isIndexType(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == mediaTypeDockerList
}

// readIndex reads m.Bytes as an image index. Whatever is wrong with one child
// refuses the whole: an index that two clients read differently is no subject.
func (m *Manifest) readIndex(top map[string]json.RawMessage) error {
	// The members of a platform decide which child is taken (M12).
	if err := manifest.CheckJSON(m.Bytes, platformMembers...); err != nil {
		return refuse("manifest-json", "manifest", "%s", reason(err))
	}
	var index ocispec.Index
	if err := json.Unmarshal(m.Bytes, &index); err != nil {
		return refuse("manifest-shape", "manifest", "%s", reason(err))
	}
	m.Versioned, m.MediaType, m.ArtifactType, m.Subject, m.Annotations = index.Versioned, index.MediaType, index.ArtifactType, index.Subject, index.Annotations
	m.Descriptor.ArtifactType = index.ArtifactType
	m.unknown = unknownMembers(top, indexMembers, "")
	raw := top["manifests"]
	if raw == nil || isNull(raw) {
		return refuse("missing-manifests", "manifests", "it is not there")
	}
	var entries []json.RawMessage
	if err := json.Unmarshal(raw, &entries); err != nil {
		return refuse("manifest-shape", "manifests", "%s", reason(err))
	}
	if len(entries) > MaxChildren {
		return refuse("too-many-manifests", "manifests", "%d, more than %d", len(entries), MaxChildren)
	}
	seen := map[digest.Digest]bool{}
	for i, raw := range entries {
		what := fmt.Sprintf("manifests[%d]", i)
		desc := index.Manifests[i]
		if err := m.checkRaw(raw, desc, what); err != nil {
			return err
		}
		switch {
		case isIndexType(desc.MediaType):
			return refuse("nested-index", what, "an index inside an index (I03)")
		case desc.MediaType != ocispec.MediaTypeImageManifest && desc.MediaType != mediaTypeDockerManifest:
			return refuse("child-media-type", what, "%s is not the media type of an image manifest", quote(desc.MediaType))
		case seen[desc.Digest]:
			return refuse("duplicate-digest", what, "%s is listed twice (I03)", desc.Digest)
		}
		seen[desc.Digest] = true
		platform, err := platformOf(desc.Platform, what)
		if err != nil {
			return err
		}
		m.children = append(m.children, Child{Descriptor: desc, Platform: platform})
	}
	if raw := top["subject"]; raw != nil {
		if isNull(raw) {
			return refuse("manifest-shape", "subject", "it is null")
		}
		return m.checkRaw(raw, *m.Subject, "subject")
	}
	return nil
}

// checkChildren refuses an index that lists no model (M08), and one whose
// children are said to be elsewhere (M05). Nobody can take the latter for a mere
// lack of files, so that it names no threat: a signature of an index says what
// the index says, urls included.
func (m *Manifest) checkChildren(allow manifest.Allow) error {
	if !slices.ContainsFunc(m.children, func(c Child) bool { return !c.IsAttestation() }) {
		return refuse("no-layers", "manifests", "none is a model: nothing to sign")
	}
	for i, child := range m.children {
		if len(child.Descriptor.URLs) > 0 && !allow.Has(manifest.ForeignURLs) {
			return refuse(string(manifest.ForeignURLs), fmt.Sprintf("manifests[%d]", i), "the index says that this manifest is elsewhere; %s is not allowed", manifest.ForeignURLs)
		}
	}
	return nil
}

// indexMembers are what the image spec defines for an index.
var indexMembers = []string{"schemaVersion", "mediaType", "artifactType", "manifests", "subject", "annotations"}

// platformOf writes a platform as people do; "" for none.
func platformOf(p *ocispec.Platform, what string) (string, error) {
	if p == nil {
		return "", nil
	}
	platform := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		platform += "/" + p.Variant
	}
	if strings.Contains(p.OS+p.Architecture+p.Variant, "/") || len(platform) > maxPlatform || !platformPattern.MatchString(platform) {
		return "", refuse("platform", what, "%s is not a platform", quote(platform))
	}
	return platform, nil
}
