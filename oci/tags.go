package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/modelsig/modelsig/manifest"
)

// MaxTags bounds the tags of one repository that are listed: what one act could
// judge within an hour or so.
const MaxTags = 10_000

// Tags lists the tags of the repository that ref names, or of an image layout,
// sorted and each once; ref's own tag and digest do not count. Whatever keeps
// the list from being whole is an error: another page on another origin or one
// that was read before, more than [MaxTags], a name that is no tag, a list that
// two parsers read differently. An empty list is none.
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

// maxTagPages bounds the requests of one listing: registries put a hundred tags
// or more on a page, and ten still give MaxTags.
const maxTagPages = 1000

func (c *Client) registryTags(ctx context.Context, ref Reference) ([]string, error) {
	repo, a, err := c.repository(ref)
	if err != nil {
		return nil, err
	}
	home := &url.URL{Scheme: "https", Host: repo.Reference.Host()}
	if repo.PlainHTTP {
		home.Scheme = "http"
	}
	ctx = auth.AppendRepositoryScope(ctx, repo.Reference, auth.ActionPull)
	var tags []string
	visited := map[string]bool{}
	next := home.JoinPath("v2", repo.Reference.Repository, "tags/list")
	for next != nil {
		if visited[next.String()] {
			return nil, fmt.Errorf("next page %s was read before", quote(next.Path))
		}
		if len(visited) == maxTagPages {
			return nil, fmt.Errorf("more than %d pages", maxTagPages)
		}
		visited[next.String()] = true
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, next.String(), nil)
		if err != nil {
			return nil, err
		}
		resp, err := repo.Client.Do(req)
		if err != nil {
			return nil, a.explain(err)
		}
		var page []string
		if page, next, err = readTags(resp, repo.Reference.Repository, home); err != nil {
			return nil, a.explain(err)
		}
		tags = append(tags, page...)
		if err := checkTags(tags); err != nil {
			return nil, err
		}
	}
	return tags, nil
}

// readTags reads one page of a listing (distribution spec, "Listing Tags"), and
// where the next one is: nil after the last.
func readTags(resp *http.Response, repository string, home *url.URL) (tags []string, next *url.URL, err error) {
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, newResponseError(resp)
	}
	data, err := readLimited(resp.Body, MaxManifest)
	if err != nil {
		return nil, nil, err
	}
	if err := manifest.CheckJSON(data, "name", "tags"); err != nil { // M12
		return nil, nil, fmt.Errorf("the list of tags: %s", reason(err))
	}
	var page struct {
		Name string          `json:"name"`
		Tags json.RawMessage `json:"tags"`
	}
	if err := json.Unmarshal(data, &page); err != nil {
		return nil, nil, fmt.Errorf("the list of tags: %s", reason(err))
	}
	// Behind a proxy a repository may have a longer name than at its origin.
	if page.Name != "" && page.Name != repository && !strings.HasSuffix(repository, "/"+page.Name) {
		return nil, nil, fmt.Errorf("the list of tags is of another repository, %s", quote(page.Name))
	}
	if page.Tags == nil { // null is what some send for none
		return nil, nil, errors.New("the list of tags has no tags")
	}
	if err := json.Unmarshal(page.Tags, &tags); err != nil {
		return nil, nil, fmt.Errorf("the list of tags: %s", reason(err))
	}
	next, err = nextTags(resp, home)
	return tags, next, err
}

// linkPattern is what registries send: one link, and rel="next" or no relation.
var linkPattern = regexp.MustCompile(`(?i)\A<([^<>]+)>(?:[ \t]*;[ \t]*rel="?next"?)?[ \t]*\z`)

// nextTags is the next page, on home: the registry may not send us, and what we
// know, to somewhere else.
func nextTags(resp *http.Response, home *url.URL) (*url.URL, error) {
	links := resp.Header.Values("Link")
	if len(links) == 0 {
		return nil, nil
	}
	link := linkPattern.FindStringSubmatch(links[0])
	if len(links) > 1 || link == nil {
		return nil, fmt.Errorf("link %s is not one link to the next page", quote(strings.Join(links, ", ")))
	}
	next, err := resp.Request.URL.Parse(link[1])
	if err != nil {
		return nil, fmt.Errorf("next page %s is not a URL", quote(link[1]))
	}
	if next.Scheme != home.Scheme || !strings.EqualFold(withoutPort(next), withoutPort(home)) {
		return nil, fmt.Errorf("next page %s is not on %s", quote(next.Host), home.Host)
	}
	next.User, next.Fragment = nil, ""
	return next, nil
}

// withoutPort is the host, without the port that the scheme implies.
func withoutPort(u *url.URL) string {
	return strings.TrimSuffix(u.Host, map[string]string{"https": ":443", "http": ":80"}[u.Scheme])
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
