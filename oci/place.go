package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/modelsig/modelsig/manifest"
)

// A Place is a repository or an image layout, as a whole: where artifacts of
// any kind are copied from and to, byte for byte. It needs no closing.
type Place struct {
	Reference  Reference          // without tag and digest
	Repository *remote.Repository // nil in a layout; its Client is an *auth.Client
	Layout     *Layout            // nil in a registry

	auth *authClient
}

// Place returns the place that ref is in. It makes no request; an image layout
// must exist.
func (c *Client) Place(ctx context.Context, ref Reference) (*Place, error) {
	return c.place(ref, func() (*Layout, error) { return openLayout(ref) })
}

// CreatePlace is Place for writing: an image layout that is missing is made. An
// archive is an error, see [WriteArchive].
func (c *Client) CreatePlace(ctx context.Context, ref Reference) (*Place, error) {
	return c.place(ref, func() (*Layout, error) {
		if ref.Archive != "" {
			return nil, errReadOnly
		}
		return createLayout(ctx, ref.Layout)
	})
}

func (c *Client) place(ref Reference, open func() (*Layout, error)) (p *Place, err error) {
	p = &Place{Reference: ref}
	p.Reference.Tag, p.Reference.Digest = "", ""
	if ref.IsRegistry() {
		p.Repository, p.auth, err = c.repository(ref)
	} else {
		p.Layout, err = open()
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p.Reference, err)
	}
	return p, nil
}

// A Node is a manifest of any kind: an image manifest, an index, an artifact
// manifest; and what it names. It is not a model: nothing in it is judged.
type Node struct {
	Bytes      []byte
	Descriptor ocispec.Descriptor   // MediaType, Digest and Size of Bytes
	Children   []ocispec.Descriptor // manifests, of an index
	Blobs      []ocispec.Descriptor // config and layers
}

// nodeMembers are those that a second parser must not read in another way.
var nodeMembers = slices.Concat(manifestMembers, descriptorMembers, foreignMembers)

// parseNode reads what a manifest names. mediaType is what the server or the
// index said; "" if nobody did.
func parseNode(data []byte, mediaType string) (*Node, error) {
	if err := manifest.CheckJSON(data, nodeMembers...); err != nil {
		return nil, refuse("manifest-json", "manifest", "%s", reason(err))
	}
	var m struct {
		MediaType string               `json:"mediaType"`
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Blobs     []ocispec.Descriptor `json:"blobs"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, refuse("manifest-shape", "manifest", "%s", reason(err))
	}
	if m.MediaType == "" {
		m.MediaType = mediaType
	}
	switch {
	case m.MediaType == "" && m.Manifests != nil:
		m.MediaType = ocispec.MediaTypeImageIndex
	case m.MediaType == "":
		m.MediaType = ocispec.MediaTypeImageManifest
	}
	n := &Node{
		Bytes:      data,
		Descriptor: ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))},
		Children:   m.Manifests,
		Blobs:      append(m.Layers, m.Blobs...),
	}
	if m.Config != nil {
		n.Blobs = append(n.Blobs, *m.Config)
	}
	for _, d := range slices.Concat(n.Children, n.Blobs) {
		if err := checkDescriptor(d, "descriptor"); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// Resolve reads the manifest that ref, which is in p, means: by its digest, or
// once by its tag. The error wraps [ErrNotFound] only if it certainly is not
// there.
func (p *Place) Resolve(ctx context.Context, ref Reference) (*Node, error) {
	n, err := p.resolve(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", ref, err)
	}
	return n, nil
}

func (p *Place) resolve(ctx context.Context, ref Reference) (*Node, error) {
	if p.Repository != nil {
		if ref.Tag == "" && ref.Digest == "" {
			return nil, errors.New("no tag and no digest (none is implied)")
		}
		data, mediaType, err := fetchManifestBytes(ctx, p.Repository, ref, acceptNodes)
		if err != nil {
			return nil, p.auth.explain(err)
		}
		return parseNode(data, mediaType)
	}
	desc := ocispec.Descriptor{Digest: ref.Digest, Size: -1}
	if ref.Digest == "" {
		index, err := p.Layout.readIndex()
		if err != nil {
			return nil, err
		}
		if ref.Tag == "" {
			only, err := p.Layout.onlyModel(ctx, index)
			if err != nil {
				return nil, err
			}
			return parseNode(only.Bytes, only.Descriptor.MediaType)
		}
		tagged, err := index.tagged(ref.Tag)
		if err != nil {
			return nil, err
		}
		desc = *tagged
	}
	rc, err := p.Layout.Fetch(ctx, ocispec.Descriptor{Digest: desc.Digest, Size: -1})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	data, err := readManifestBytes(rc)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", desc.Digest, err)
	}
	return parseNode(data, desc.MediaType)
}

// acceptNodes is what a manifest that is copied may be.
const acceptNodes = ocispec.MediaTypeImageManifest + ", " + ocispec.MediaTypeImageIndex + ", " +
	mediaTypeDockerManifest + ", " + mediaTypeDockerList + ", " + mediaTypeArtifact

// mediaTypeArtifact is what ORAS wrote before manifests had an artifactType.
const mediaTypeArtifact = "application/vnd.oci.artifact.manifest.v1+json"

// CopyOptions are the optional parts of copying blobs.
type CopyOptions struct {
	// Jobs is how many blobs are under way at once; 0: 4.
	Jobs int
	// Progress is called with each count of bytes that was copied or found
	// there, by several goroutines. nil: silent.
	Progress func(n int64)
}

// CopyBlobs copies blobs from another place. Each is streamed once, and checked
// against its digest before its last byte leaves. What is there already is not
// sent again, and between repositories of one registry nothing is sent that can
// be mounted.
func (p *Place) CopyBlobs(ctx context.Context, from *Place, blobs []ocispec.Descriptor, o CopyOptions) error {
	target := p.target(from)
	group, ctx := errgroup.WithContext(ctx)
	if o.Jobs <= 0 {
		o.Jobs = defaultJobs
	}
	group.SetLimit(o.Jobs)
	up := &pusher{progress: o.Progress}
	for _, desc := range distinct(blobs) {
		group.Go(func() error {
			err := up.upload(ctx, target, blobUpload{
				desc:   ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size},
				name:   desc.Digest.String(),
				open:   func() (io.ReadCloser, error) { return from.blob(ctx, desc) },
				copies: 1,
			})
			if errors.Is(err, manifest.ErrChanged) {
				return refuse("digest-mismatch", desc.Digest.String(), "%s has other content under this digest", from.Reference)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("copy to %s: %w", p.Reference, err)
	}
	return nil
}

// distinct is each blob once, in order of first mention.
func distinct(blobs []ocispec.Descriptor) []ocispec.Descriptor {
	seen := map[digest.Digest]bool{}
	var out []ocispec.Descriptor
	for _, d := range blobs {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			out = append(out, d)
		}
	}
	return out
}

// blob opens the content of a blob. What a descriptor embeds need not be stored.
func (p *Place) blob(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if desc.Data != nil {
		return newVerifiedReader(io.NopCloser(bytes.NewReader(desc.Data)), desc), nil
	}
	m := &Model{Reference: p.Reference, Repository: p.Repository, Layout: p.Layout, auth: p.auth}
	return m.Fetch(ctx, desc)
}

func (p *Place) target(from *Place) blobTarget {
	if p.Layout != nil {
		return &layoutTarget{p.Layout}
	}
	t := &registryTarget{repo: p.uploads(), auth: p.auth}
	if f := from.Repository; f != nil && f.Reference.Registry == p.Repository.Reference.Registry && f.PlainHTTP == p.Repository.PlainHTTP {
		t.mountFrom = f.Reference.Repository
	}
	return t
}

// uploads is the repository for writing: with bodies that can be sent again,
// and with the fallback index left to who knows how to write it.
func (p *Place) uploads() *remote.Repository {
	repo := &remote.Repository{
		Client:    resending{p.Repository.Client},
		Reference: p.Repository.Reference,
		PlainHTTP: p.Repository.PlainHTTP,
	}
	_ = repo.SetReferrersCapability(true) // fails only where it was set before
	return repo
}

// Put stores a manifest under its digest, without a tag. What it names must be
// there. It does not make a referrer findable.
func (p *Place) Put(ctx context.Context, n *Node) error {
	if p.Layout != nil {
		return p.Layout.PushBlob(ctx, n.Descriptor, bytes.NewReader(n.Bytes))
	}
	if err := p.uploads().Manifests().Push(ctx, n.Descriptor, bytes.NewReader(n.Bytes)); err != nil {
		return fmt.Errorf("push manifest %s to %s: %w", n.Descriptor.Digest, p.Reference, p.auth.explain(err))
	}
	return nil
}

// Tag points a tag at a manifest that was Put. In a layout "" gives it an entry
// in index.json without a tag; in a registry it does nothing.
func (p *Place) Tag(ctx context.Context, n *Node, tag string) error {
	switch {
	case p.Layout != nil && tag == "":
		return p.Layout.AddEntries(ctx, n.Descriptor)
	case p.Layout != nil:
		err := p.Layout.updateIndex(ctx, func(index *layoutIndex) error { return index.tag(n.Descriptor, tag) })
		if err != nil {
			return fmt.Errorf("tag %s in %s: %w", tag, p.Layout, err)
		}
		return nil
	case tag == "":
		return nil
	}
	if err := p.uploads().PushReference(ctx, n.Descriptor, bytes.NewReader(n.Bytes), tag); err != nil {
		return fmt.Errorf("tag %s in %s: %w", tag, p.Reference, p.auth.explain(err))
	}
	return nil
}
