package oci

import (
	"context"
	"fmt"
	"regexp"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxTags bounds the tags of one repository that are listed: what one act could
// judge within an hour or so.
const MaxTags = 10_000

// Tags lists the tags of the repository that ref names, or of an image layout,
// sorted and each once; ref's own tag and digest do not count. Whatever keeps
// the list from being whole is an error: another page on another origin, more
// than [MaxTags], a name that is no tag. An empty list is none.
func (c *Client) Tags(ctx context.Context, ref Reference) ([]string, error) {
	ref.Tag, ref.Digest = "", ""
	list := c.registryTags
	if !ref.IsRegistry() {
		list = layoutTags
	}
	tags, err := list(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("list the tags of %s: %w", ref, err)
	}
	slices.Sort(tags)
	return slices.Compact(tags), nil
}

func (c *Client) registryTags(ctx context.Context, ref Reference) ([]string, error) {
	repo, a, err := c.repository(ref)
	if err != nil {
		return nil, err
	}
	repo.TagListMaxPages = MaxTags // a page without a tag would be one too many
	var tags []string
	// oras-go follows Link on the same origin only.
	err = repo.Tags(ctx, "", func(page []string) error {
		tags = append(tags, page...)
		return checkTags(tags)
	})
	if err != nil {
		return nil, a.explain(err)
	}
	return tags, nil
}

func layoutTags(ctx context.Context, ref Reference) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l, err := openLayout(ref)
	if err != nil {
		return nil, err
	}
	index, err := l.readIndex()
	if err != nil {
		return nil, err
	}
	var tags []string
	for i := range index.manifests {
		desc, err := index.descriptor(i)
		if err != nil {
			return nil, err
		}
		if tag := desc.Annotations[ocispec.AnnotationRefName]; tag != "" {
			tags = append(tags, tag)
		}
	}
	return tags, checkTags(tags)
}

// checkTags refuses what could not be named in a reference: leaving it out would
// call the rest all tags.
func checkTags(tags []string) error {
	if len(tags) > MaxTags {
		return fmt.Errorf("more than %d tags", MaxTags)
	}
	for _, tag := range tags {
		if !isTag(tag) {
			return fmt.Errorf("%s is listed, and is no tag", quote(tag))
		}
	}
	return nil
}

// aboutManifest is what tags look like that are about a manifest (distribution
// spec, "Referrers Tag Schema"; cosign's older form).
var aboutManifest = regexp.MustCompile(`\Asha256-[0-9a-f]{64}(\.(sig|att|sbom))?\z`)

// IsAboutManifest reports whether a tag is one under which clients keep what is
// about a manifest, and names no model: sha256-HEX, and cosign's with .sig, .att
// or .sbom.
func IsAboutManifest(tag string) bool { return aboutManifest.MatchString(tag) }
