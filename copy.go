package modelsig

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/referrers"
)

const (
	// maxNesting bounds indexes in indexes: real ones have one level (I03).
	maxNesting = 3
	// maxReferrerDepth bounds referrers of referrers: a scan of an SBOM of a
	// model is three.
	maxReferrerDepth = 4
	// maxManifests and maxManifestBytes bound what one copy holds in memory:
	// 10,000 referrers have some 10 MiB.
	maxManifests     = 10_000
	maxManifestBytes = 64 << 20
	// copyAtOnce is how many small requests are under way: as many as
	// registries take without throttling.
	copyAtOnce = 8
)

// CopyOptions are what may be said about one copy. The zero value copies and
// verifies nothing.
type CopyOptions struct {
	// Policy decides about the source before anything is written; nil: nobody
	// does. Verify are the options of that verdict.
	Policy *Policy
	Verify VerifyOptions
	// Replace overwrites an archive that is there already.
	Replace bool
}

// Copied is what a copy copied.
type Copied struct {
	Source      string // canonical, with the digest
	Destination string // canonical, with the digest
	Pinned      string // the destination's REPO@DIGEST
	Digest      string
	Manifests   int   // of the artifact: 1, or an index and its children
	Referrers   int   // that came along, those of children and of referrers included
	Foreign     int   // that only the destination has: they were kept
	OldTags     int   // of cosign, sha256-HEX.sig and the like, that came along
	Blobs       int   // distinct, whether or not they were there already
	Bytes       int64 // their size
	// Verification is the verdict about the source; nil: it was not verified.
	Verification *Verification
}

// Copy copies the artifact that src names to dst with everything that is
// attached to it, to its children if it is an index, and to what is attached:
// byte for byte, whatever it is. What cosign kept under old tags of the artifact
// comes along. Each of the two is a reference to a registry,
// a layout or an archive (oci-archive:FILE:TAG, which is written anew); dst
// needs a tag where it is a registry, and no digest.
//
// Blobs and manifests go first. Then referrers are made findable, in fallback
// indexes too, whose other entries are kept. Then the destination is listed and
// compared, and last of all its tag is set. If what is attached to the source
// cannot be listed in full, nothing is written. What was interrupted is
// finished by doing it again.
func (c *Client) Copy(ctx context.Context, src, dst string, o CopyOptions) (*Copied, error) {
	from, err := oci.ParseReference(src)
	if err != nil {
		return nil, err
	}
	to, err := oci.ParseReference(dst)
	if err != nil {
		return nil, err
	}
	switch {
	case to.Digest != "":
		return nil, fmt.Errorf("copy to %s: the source says the digest, a destination has a tag", to)
	case to.IsRegistry() && to.Tag == "":
		return nil, fmt.Errorf("copy to %s: no tag (none is implied)", to)
	}
	client, err := c.registry()
	if err != nil {
		return nil, err
	}
	source, err := client.Place(ctx, from)
	if err != nil {
		return nil, err
	}
	root, err := source.Resolve(ctx, from)
	if err != nil {
		return nil, err
	}
	from.Digest, to.Digest = root.Descriptor.Digest, root.Descriptor.Digest
	out := &Copied{Source: from.String(), Destination: to.String(), Pinned: pinned(to), Digest: to.Digest.String()}
	if o.Policy != nil {
		// By the digest: the verdict is about what will be copied.
		if out.Verification, err = c.Verify(ctx, from.String(), *o.Policy, o.Verify); err != nil {
			return nil, err
		}
	}
	t := &tree{place: source, store: storeAt(source), limits: c.limits(), nodes: map[digest.Digest]*oci.Node{}, attached: map[digest.Digest][]*oci.Node{}}
	if err := t.gather(ctx, root); err != nil {
		return nil, fmt.Errorf("copy %s: %w", from, err)
	}
	blobs := t.blobs()
	out.Blobs, out.Manifests, out.OldTags = len(blobs), len(t.artifacts), len(t.old)
	for _, b := range blobs {
		out.Bytes += b.Size
	}
	for _, list := range t.attached {
		out.Referrers += len(list)
	}
	if to.Archive != "" {
		out.Foreign, err = t.toArchive(ctx, to, root, o.Replace, c.counting(out.Bytes))
	} else {
		out.Foreign, err = t.toPlace(ctx, client, to, root, oci.CopyOptions{Jobs: c.Jobs, Progress: c.counting(out.Bytes)})
	}
	if err != nil {
		return nil, fmt.Errorf("copy %s: %w", from, err)
	}
	return out, nil
}

// counting adds up what is copied.
func (c *Client) counting(total int64) func(int64) {
	if c.Progress == nil {
		return nil
	}
	var done atomic.Int64
	return func(n int64) { c.Progress(done.Add(n), total) }
}

// A tree is an artifact and all that is attached to it, as manifests.
type tree struct {
	place  *oci.Place
	store  referrers.Store
	limits referrers.Limits

	nodes        map[digest.Digest]*oci.Node
	count, bytes atomic.Int64 // of what was read

	artifacts []*oci.Node                   // the artifact, and the children of an index
	attached  map[digest.Digest][]*oci.Node // by subject
	subjects  []*oci.Node                   // of attached, in order of discovery
	old       []oldTag                      // of artifacts
}

// gather reads the tree from its root.
func (t *tree) gather(ctx context.Context, root *oci.Node) error {
	if err := t.add(ctx, root, 0); err != nil {
		return err
	}
	for _, n := range t.nodes {
		t.artifacts = append(t.artifacts, n)
	}
	level := slices.SortedFunc(slices.Values(t.artifacts), byDigest)
	for depth := 0; len(level) > 0; depth++ {
		next, err := t.referrers(ctx, level)
		if err != nil {
			return err
		}
		if len(next) > 0 && depth == maxReferrerDepth {
			return fmt.Errorf("referrers of referrers nest deeper than %d levels", maxReferrerDepth)
		}
		level = next
	}
	return t.findOldTags(ctx)
}

func byDigest(a, b *oci.Node) int {
	switch x, y := a.Descriptor.Digest, b.Descriptor.Digest; {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// add adds a manifest that was read, and its children.
func (t *tree) add(ctx context.Context, n *oci.Node, depth int) error {
	if t.nodes[n.Descriptor.Digest] != nil {
		return nil
	}
	if len(n.Children) > 0 && depth == maxNesting {
		return fmt.Errorf("index %s: indexes nest deeper than %d levels", n.Descriptor.Digest, maxNesting)
	}
	t.nodes[n.Descriptor.Digest] = n
	for _, child := range n.Children {
		node, err := t.read(ctx, child.Digest)
		if err != nil {
			return fmt.Errorf("child of %s: %w", n.Descriptor.Digest, err)
		}
		if err := t.add(ctx, node, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// read reads a manifest by its digest.
func (t *tree) read(ctx context.Context, d digest.Digest) (*oci.Node, error) {
	ref := t.place.Reference
	ref.Digest = d
	n, err := t.place.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	if t.count.Add(1) > maxManifests || t.bytes.Add(n.Descriptor.Size) > maxManifestBytes {
		return nil, fmt.Errorf("more than %d manifests, or %d bytes of them, which is the limit", maxManifests, maxManifestBytes)
	}
	return n, nil
}

// referrers lists what is attached to each of level, and reads it.
func (t *tree) referrers(ctx context.Context, level []*oci.Node) (next []*oci.Node, err error) {
	digests := make([][]digest.Digest, len(level))
	err = atOnce(ctx, level, func(ctx context.Context, i int, subject *oci.Node) (err error) {
		digests[i], err = listed(ctx, t.store, subject.Descriptor, t.limits)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, subject := range level {
		if len(digests[i]) == 0 {
			continue
		}
		found := make([]*oci.Node, len(digests[i]))
		err := atOnce(ctx, digests[i], func(ctx context.Context, i int, d digest.Digest) (err error) {
			if found[i], err = t.read(ctx, d); err == nil {
				_, err = referrers.Describe(found[i].Bytes, subject.Descriptor.Digest)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("listed as attached to %s: %w", subject.Descriptor.Digest, err)
		}
		t.subjects = append(t.subjects, subject)
		t.attached[subject.Descriptor.Digest] = found
		for _, n := range found {
			if err := t.add(ctx, n, 0); err != nil {
				return nil, err
			}
		}
		next = append(next, found...)
	}
	return next, nil
}

// atOnce calls do for each element, for several at a time.
func atOnce[T any](ctx context.Context, list []T, do func(ctx context.Context, i int, element T) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(copyAtOnce)
	for i, element := range list {
		g.Go(func() error { return do(ctx, i, element) })
	}
	return g.Wait()
}

// listed are the digests of what is attached, all of them.
func listed(ctx context.Context, s referrers.Store, subject ocispec.Descriptor, l referrers.Limits) ([]digest.Digest, error) {
	listing, err := referrers.List(ctx, s, subject, nil, l)
	if err != nil {
		return nil, err
	}
	if listing.Incomplete != nil {
		return nil, listing.Incomplete
	}
	var digests []digest.Digest
	for _, r := range listing.Referrers {
		digests = append(digests, r.Descriptor.Digest)
	}
	return digests, nil
}

func (t *tree) blobs() []ocispec.Descriptor {
	var all []ocispec.Descriptor
	seen := map[digest.Digest]bool{}
	for _, n := range t.nodes {
		for _, b := range n.Blobs {
			if !seen[b.Digest] {
				seen[b.Digest] = true
				all = append(all, b)
			}
		}
	}
	return all
}

// toPlace writes the tree to a registry or layout.
func (t *tree) toPlace(ctx context.Context, client *oci.Client, to oci.Reference, root *oci.Node, o oci.CopyOptions) (foreign int, err error) {
	place, err := client.CreatePlace(ctx, to)
	if err != nil {
		return 0, err
	}
	if err := place.CopyBlobs(ctx, t.place, t.blobs(), o); err != nil {
		return 0, err
	}
	put := putter{tree: t, place: place}
	if err := put.put(ctx, root); err != nil {
		return 0, err
	}
	store := storeAt(place)
	for _, subject := range t.subjects {
		attached := t.attached[subject.Descriptor.Digest]
		manifests := make([][]byte, len(attached))
		err := atOnce(ctx, attached, func(ctx context.Context, i int, n *oci.Node) error {
			manifests[i] = n.Bytes
			return put.put(ctx, n)
		})
		if err != nil {
			return 0, err
		}
		if _, err := referrers.Link(ctx, store, subject.Descriptor, manifests...); err != nil {
			return 0, err
		}
	}
	if err := t.putOldTags(ctx, &put, store); err != nil {
		return 0, err
	}
	if foreign, err = t.compare(ctx, store); err != nil {
		return 0, err
	}
	return foreign, place.Tag(ctx, root, to.Tag)
}

// A putter stores the manifests of a tree, each once: an index may name a child
// as often as it likes.
type putter struct {
	tree  *tree
	place *oci.Place
	done  sync.Map // digests
}

// put stores a manifest after its children.
func (p *putter) put(ctx context.Context, n *oci.Node) error {
	if _, done := p.done.Load(n.Descriptor.Digest); done {
		return nil
	}
	for _, child := range n.Children {
		if err := p.put(ctx, p.tree.nodes[child.Digest]); err != nil {
			return err
		}
	}
	if err := p.place.Put(ctx, n); err != nil {
		return err
	}
	p.done.Store(n.Descriptor.Digest, true)
	return nil
}

// toArchive writes the tree to a new archive.
func (t *tree) toArchive(ctx context.Context, to oci.Reference, root *oci.Node, replace bool, progress func(int64)) (foreign int, err error) {
	content := oci.ArchiveContent{From: t.place, Root: root, Tag: to.Tag, Replace: replace, Progress: progress}
	for _, n := range t.nodes {
		content.Nodes = append(content.Nodes, n)
	}
	for _, subject := range t.subjects {
		for _, n := range t.attached[subject.Descriptor.Digest] {
			desc, err := referrers.Describe(n.Bytes, subject.Descriptor.Digest)
			if err != nil {
				return 0, err
			}
			content.Referrers = append(content.Referrers, desc)
		}
	}
	content.Referrers = append(content.Referrers, t.oldEntries()...)
	return 0, oci.WriteArchive(ctx, to.Archive, content, func(l *oci.Layout) error {
		_, err := t.compare(ctx, referrers.InLayout(l))
		return err
	})
}

// errLost means that what was copied is not found at the destination.
var errLost = errors.New("the destination does not list what was copied")

// compare lists the destination. Everything that is attached at the source must
// be there; it returns how much more there is.
func (t *tree) compare(ctx context.Context, store referrers.Store) (foreign int, err error) {
	for _, subject := range t.subjects {
		there, err := listed(ctx, store, subject.Descriptor, t.limits)
		if err != nil {
			return 0, err
		}
		want := t.attached[subject.Descriptor.Digest]
		for _, n := range want {
			if !slices.Contains(there, n.Descriptor.Digest) {
				return 0, fmt.Errorf("%w: %s, attached to %s", errLost, n.Descriptor.Digest, subject.Descriptor.Digest)
			}
		}
		foreign += len(there) - len(want)
	}
	return foreign, nil
}
