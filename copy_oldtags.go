package modelsig

import (
	"context"
	"errors"
	"fmt"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/referrers"
)

// oldSuffixes end the tags under which cosign kept what is about a manifest
// before there were referrers.
var oldSuffixes = []string{".sig", ".att", ".sbom"}

// An oldTag is one such tag and what it names.
type oldTag struct {
	tag  string
	node *oci.Node
}

// findOldTags reads what is under the old tags of every artifact.
func (t *tree) findOldTags(ctx context.Context) error {
	artifacts := slices.SortedFunc(slices.Values(t.artifacts), byDigest)
	found := make([]*oldTag, len(artifacts)*len(oldSuffixes))
	err := atOnce(ctx, found, func(ctx context.Context, i int, _ *oldTag) error {
		ref := t.place.Reference
		ref.Tag = "sha256-" + artifacts[i/len(oldSuffixes)].Descriptor.Digest.Encoded() + oldSuffixes[i%len(oldSuffixes)]
		n, err := t.place.Resolve(ctx, ref)
		if errors.Is(err, oci.ErrNotFound) {
			return nil
		}
		found[i] = &oldTag{ref.Tag, n}
		return err
	})
	if err != nil {
		return err
	}
	for _, old := range found {
		if old == nil {
			continue
		}
		if err := t.add(ctx, old.node, 0); err != nil {
			return fmt.Errorf("tag %s: %w", old.tag, err)
		}
		t.old = append(t.old, *old)
	}
	return nil
}

// putOldTags sets the old tags at a place. What others have under one stays: in
// a registry it is joined; in a layout, which one process writes at a time, a tag
// that has more than the source is an error.
func (t *tree) putOldTags(ctx context.Context, put *putter, store referrers.Store) error {
	place := put.place
	for _, old := range t.old {
		if err := put.put(ctx, old.node); err != nil {
			return err
		}
		if place.Layout == nil {
			if err := referrers.JoinTag(ctx, store, old.tag, old.node.Descriptor.MediaType, old.node.Bytes); err != nil {
				return err
			}
			continue
		}
		ref := place.Reference
		ref.Tag = old.tag
		there, err := place.Resolve(ctx, ref)
		switch {
		case errors.Is(err, oci.ErrNotFound):
			there = nil
		case err != nil:
			return err
		case there.Descriptor.Digest == old.node.Descriptor.Digest:
			continue
		case !referrers.HasLayersOf(old.node.Bytes, there.Bytes):
			return fmt.Errorf("tag %s of %s has what the source lacks: it is not replaced", old.tag, place.Reference)
		}
		if err := place.Tag(ctx, old.node, old.tag); err != nil {
			return err
		}
		if there == nil {
			continue
		}
		// Without a tag it would look like a model.
		if tagged, err := referrers.IsTagged(ctx, place.Layout, there.Descriptor.Digest); err != nil || tagged {
			if err != nil {
				return err
			}
			continue
		}
		if err := place.Layout.RemoveEntries(ctx, there.Descriptor.Digest); err != nil {
			return err
		}
	}
	return nil
}

// oldEntries are the old tags as an archive's index.json has them.
func (t *tree) oldEntries() []ocispec.Descriptor {
	var entries []ocispec.Descriptor
	for _, old := range t.old {
		desc := old.node.Descriptor
		desc.Annotations = map[string]string{ocispec.AnnotationRefName: old.tag}
		entries = append(entries, desc)
	}
	return entries
}
