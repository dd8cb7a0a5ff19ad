package referrers

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

const (
	// maxPages bounds the pages of one listing. Registries send 50 entries a
	// page or more: 10,000 entries are 200 pages.
	maxPages = 256

	// maxAtOnce bounds the requests that one act has under way.
	maxAtOnce = 8

	sourceAPI = "referrers API"
)

// errAbsent means that a source is known not to exist.
var errAbsent = errors.New("not there")

// acceptManifest is sent with every manifest request. It names more types than
// we use: asked for an index alone, a registry answers 404 for a tag that names
// something else, and that would look like no tag at all.
var acceptManifest = strings.Join([]string{
	ocispec.MediaTypeImageManifest,
	ocispec.MediaTypeImageIndex,
	"application/vnd.oci.artifact.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
}, ", ")

// registry is the Store of a repository in a registry.
type registry struct {
	repo *remote.Repository
	// seen is the last index of a fallback tag that was read, nil for none: who
	// attaches later knows whether somebody wrote meanwhile.
	seen atomic.Pointer[sight]
}

// InRepository returns the store of a repository. Every request goes through
// repo.Client, which must be oras-go's *auth.Client or nil for its default: it
// follows redirects, authenticates, waits and retries. repo is copied, and
// whether it holds a tag or digest does not matter.
func InRepository(repo *remote.Repository) Store {
	own := &remote.Repository{
		Client:        repo.Client,
		Reference:     repo.Reference,
		PlainHTTP:     repo.PlainHTTP,
		HandleWarning: repo.HandleWarning,
	}
	if own.Client == nil {
		own.Client = auth.DefaultClient
	}
	own.Reference.Reference = ""
	// With this oras-go leaves the fallback index to us. It fails only where
	// the capability was set before.
	_ = own.SetReferrersCapability(true)
	return &registry{repo: own}
}

// home is where the registry is: the one origin that may see what we know.
func (r *registry) home() *url.URL {
	u := &url.URL{Scheme: "https", Host: r.repo.Reference.Host()}
	if r.repo.PlainHTTP {
		u.Scheme = "http"
	}
	return u
}

// get requests path below the repository. Any status but 200 is an error.
func (r *registry) get(ctx context.Context, path, accept string) (*http.Response, error) {
	return r.getURL(ctx, fmt.Sprintf("%s/v2/%s/%s", r.home(), r.repo.Reference.Repository, path), accept)
}

func (r *registry) getURL(ctx context.Context, target, accept string) (*http.Response, error) {
	ctx = auth.AppendRepositoryScope(ctx, r.repo.Reference, auth.ActionPull)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, foreign(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := r.repo.Client.Do(req)
	if err != nil {
		return nil, foreign(err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, newStatusError(req, resp)
	}
	return resp, nil
}

// contentType returns the media type of resp without parameters.
func contentType(resp *http.Response) string {
	t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

// fetch requests content whose digest is known. The caller closes the body.
func (r *registry) fetch(ctx context.Context, path, accept string) (*http.Response, error) {
	resp, err := r.get(ctx, path, accept)
	if err != nil {
		// A manifest that is listed and not there: either of the two is wrong,
		// and what it was is not known.
		return nil, fmt.Errorf("%w: %w", ErrUnread, err)
	}
	if contentType(resp) == "text/html" {
		// A login page is no answer. Other types are not looked at: they
		// prove nothing that the digest does not.
		resp.Body.Close()
		return nil, fmt.Errorf("%w: %s: answered with HTML", ErrUnread, describe(resp.Request))
	}
	return resp, nil
}

func (r *registry) manifest(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	resp, err := r.fetch(ctx, "manifests/"+string(desc.Digest), acceptManifest)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return readManifest(resp.Body, desc, limit)
}

func (r *registry) blob(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	resp, err := r.fetch(ctx, "blobs/"+string(desc.Digest), "*/*")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return readBlob(resp.Body, desc)
}

// A pages is what was read of one source, and what may yet be read of it.
type pages struct {
	source    string
	limits    Limits
	read      int64 // bytes
	count     int   // of pages
	referrers []Referrer
}

// add reads one page. What came before a fault counts.
func (p *pages) add(body io.Reader) (*index, error) {
	p.count++
	left := p.limits.ListBytes - p.read
	data, err := io.ReadAll(io.LimitReader(body, left+1))
	p.read += int64(len(data))
	if err != nil {
		err = fmt.Errorf("after %d bytes: %w", len(data), foreign(err))
	} else if int64(len(data)) > left {
		err = fmt.Errorf("it is longer than %d bytes, which is the limit", p.limits.ListBytes)
	}
	x := &index{limit: p.limits.Entries - len(p.referrers)}
	switch parseErr := x.parse(data); {
	case errors.Is(parseErr, errManyEntries):
		err = fmt.Errorf("it has more than %d entries, which is the limit (--max-referrers)", p.limits.Entries)
	case err == nil:
		err = parseErr
	}
	for _, e := range x.entries {
		p.referrers = append(p.referrers, newReferrer(e, p.source))
	}
	if err != nil {
		return nil, err
	}
	return x, nil
}

// fault is the error of a source that exists and could not be read.
func (p *pages) fault(err error) error {
	if err == nil || errors.Is(err, errAbsent) {
		return nil
	}
	return fmt.Errorf("%s: %w", p.source, err)
}

// both joins two errors, either of which may be nil, in one line.
func both(a, b error) error {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	return fmt.Errorf("%w; %w", a, b)
}

func (r *registry) list(ctx context.Context, subject ocispec.Descriptor, l Limits) ([]Referrer, func(context.Context) ([]Referrer, error), error) {
	api := &pages{source: sourceAPI, limits: l}
	apiErr := r.readAPI(ctx, subject.Digest, api)
	// A list may come from a registry that knows the route but does not keep
	// referrers, or did not when they were attached; then clients wrote the tag.
	listTag := func(ctx context.Context) ([]Referrer, error) {
		tag := &pages{source: "tag " + fallbackTag(subject.Digest), limits: l}
		x, err := r.readTag(ctx, subject.Digest, tag)
		if err == nil || errors.Is(err, errAbsent) {
			r.seen.Store(newSight(subject.Digest, x))
		}
		return tag.referrers, tag.fault(err)
	}
	if apiErr == nil && slices.ContainsFunc(api.referrers, mayBeBundle) || ctx.Err() != nil {
		return api.referrers, listTag, api.fault(apiErr)
	}
	tagged, tagErr := listTag(ctx)
	return append(api.referrers, tagged...), nil, both(api.fault(apiErr), tagErr)
}

// readAPI reads the Referrers API (distribution-spec "Listing Referrers").
func (r *registry) readAPI(ctx context.Context, subject digest.Digest, p *pages) error {
	resp, err := r.get(ctx, "referrers/"+string(subject), ocispec.MediaTypeImageIndex)
	switch statusCode(err) {
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return fmt.Errorf("%w: %w", errAbsent, err)
	}
	visited := make(map[string]bool)
	for err == nil {
		var next string
		next, err = r.readPage(resp, p)
		if err != nil || next == "" {
			return err
		}
		if visited[next] {
			return fmt.Errorf("next page %s was read before", quote(next))
		}
		visited[next] = true
		if len(visited) == maxPages {
			return fmt.Errorf("it has more than %d pages, which is the limit", maxPages)
		}
		resp, err = r.getURL(ctx, next, ocispec.MediaTypeImageIndex)
	}
	return err
}

// readPage reads one page and returns the URL of the next one, "" if it is the
// last.
func (r *registry) readPage(resp *http.Response, p *pages) (string, error) {
	defer resp.Body.Close()
	if t := contentType(resp); t != ocispec.MediaTypeImageIndex {
		return "", fmt.Errorf("%s: answered with content type %s, not an OCI index",
			describe(resp.Request), quote(resp.Header.Get("Content-Type")))
	}
	if _, err := p.add(resp.Body); err != nil {
		return "", fmt.Errorf("%s: %w", describe(resp.Request), err)
	}
	link, err := nextLink(resp.Header.Values("Link"))
	if err != nil || link == "" {
		return "", err
	}
	next, err := resp.Request.URL.Parse(link)
	if err != nil {
		return "", fmt.Errorf("next page %s is not a URL", quote(link))
	}
	// The registry may not send us, and what we know, to somewhere else: the
	// next page is a request of its own, which is asked to prove who we are.
	if home := origin(r.home()); origin(next) != home {
		return "", fmt.Errorf("next page %s is not on %s", quote(link), home)
	}
	next.User, next.Fragment = nil, ""
	return next.String(), nil
}

// origin is scheme, host and port.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" && u.Scheme == "https" {
		port = "443"
	} else if port == "" && u.Scheme == "http" {
		port = "80"
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// nextLink returns the target of the link with relation "next" (RFC 8288 §3)
// among the values of Link headers, and "" if there is none. A link without a
// relation counts as next: asking once more is safer than missing a page.
func nextLink(headers []string) (string, error) {
	for _, rest := range headers {
		for {
			rest = strings.TrimLeft(rest, " \t,")
			if rest == "" {
				break
			}
			end := strings.IndexByte(rest, '>')
			if rest[0] != '<' || end < 0 {
				return "", fmt.Errorf("link %s is malformed (RFC 8288 §3)", quote(rest))
			}
			target := rest[1:end]
			var params string
			params, rest = cutParams(rest[end+1:])
			rel, given := relation(params)
			if !given || slices.Contains(strings.Fields(strings.ToLower(rel)), "next") {
				return target, nil
			}
		}
	}
	return "", nil
}

// cutParams cuts s at the first comma outside of quotes.
func cutParams(s string) (params, rest string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

func relation(params string) (string, bool) {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(p, "=")
		if strings.EqualFold(strings.TrimSpace(name), "rel") {
			return strings.Trim(strings.TrimSpace(value), `"`), true
		}
	}
	return "", false
}

// fallbackTag is where clients keep the index of referrers on registries
// without the API. A sha256 digest is not cut (distribution-spec "Referrers Tag
// Schema").
func fallbackTag(subject digest.Digest) string {
	return subject.Algorithm().String() + "-" + subject.Encoded()
}

// readTag reads the index of the fallback tag. Its error wraps errAbsent when
// the registry answers 404.
func (r *registry) readTag(ctx context.Context, subject digest.Digest, p *pages) (*index, error) {
	resp, err := r.get(ctx, "manifests/"+fallbackTag(subject), acceptManifest)
	if err != nil {
		if statusCode(err) == http.StatusNotFound {
			return nil, fmt.Errorf("%w: %w", errAbsent, err)
		}
		return nil, err
	}
	defer resp.Body.Close()
	if t := contentType(resp); t != ocispec.MediaTypeImageIndex {
		return nil, fmt.Errorf("%s: answered with content type %s, not an OCI index",
			describe(resp.Request), quote(resp.Header.Get("Content-Type")))
	}
	// A subject may be an index itself, whose entries are not its referrers.
	// Its digest is known only once it has been read.
	own := *p
	x, err := own.add(resp.Body)
	if x != nil && digest.FromBytes(x.data) == subject {
		return nil, fmt.Errorf("%s: answered with the subject itself", describe(resp.Request))
	}
	*p = own
	if err != nil {
		return nil, fmt.Errorf("%s: %w", describe(resp.Request), err)
	}
	return x, nil
}

// apiLag are the waits between looks at a Referrers API that does not list yet
// what was just pushed: some index with a delay. After three seconds it is not
// late but wrong.
var apiLag = [...]time.Duration{
	100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond, 1600 * time.Millisecond,
}

// errNotListed means that the API works and does not list what was pushed.
var errNotListed = errors.New("the referrers API does not list it")

func (r *registry) attach(ctx context.Context, subject ocispec.Descriptor, add []referrer) error {
	// One token for everything that follows.
	ctx = auth.AppendRepositoryScope(ctx, r.repo.Reference, auth.ActionPull, auth.ActionPush)
	if err := r.push(ctx, add); err != nil {
		return err
	}
	return r.link(ctx, subject, add)
}

func (r *registry) link(ctx context.Context, subject ocispec.Descriptor, add []referrer) error {
	// One token for everything that follows.
	ctx = auth.AppendRepositoryScope(ctx, r.repo.Reference, auth.ActionPull, auth.ActionPush)
	// The manifests are read back while the listing is.
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxAtOnce)
	for _, a := range add {
		g.Go(func() error {
			if _, err := r.manifest(gctx, a.desc, a.desc.Size); err != nil {
				return fmt.Errorf("read back referrer %s: %w", a.desc.Digest, err)
			}
			return nil
		})
	}
	g.Go(func() error {
		err := r.awaitListed(gctx, subject.Digest, add)
		if err == nil || errors.Is(err, errNotListed) || gctx.Err() != nil {
			return err
		}
		// There is no API, or none that can be used. List reads the tag in
		// just these cases.
		if tagErr := r.addToTag(gctx, subject.Digest, add); tagErr != nil {
			return fmt.Errorf("%s: %w; %w", sourceAPI, err, tagErr)
		}
		return nil
	})
	return g.Wait()
}

// push uploads blobs, then manifests.
func (r *registry) push(ctx context.Context, add []referrer) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		desc, data := config()
		// Everybody's config is {}: it is often there. If that cannot be
		// found out, pushing it does.
		if ok, err := r.repo.Blobs().Exists(gctx, desc); err == nil && ok {
			return nil
		}
		if err := r.repo.Blobs().Push(gctx, desc, bytes.NewReader(data)); err != nil {
			return fmt.Errorf("push the empty config: %w", foreign(err))
		}
		return nil
	})
	for _, a := range add {
		g.Go(func() error {
			// A bundle was made just now: it is not worth asking for.
			if err := r.repo.Blobs().Push(gctx, a.layer, bytes.NewReader(a.bundle)); err != nil {
				return fmt.Errorf("push bundle %s: %w", a.layer.Digest, foreign(err))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	g, gctx = errgroup.WithContext(ctx)
	for _, a := range add {
		g.Go(func() error {
			if err := r.repo.Manifests().Push(gctx, a.desc, bytes.NewReader(a.manifest)); err != nil {
				return fmt.Errorf("push referrer %s: %w", a.desc.Digest, foreign(err))
			}
			return nil
		})
	}
	return g.Wait()
}

// awaitListed returns nil once the API lists all of add, errNotListed if it
// lists others but not these, and any other error if it cannot be used. The
// OCI-Subject header is not asked: there are registries that send it and have
// no API.
func (r *registry) awaitListed(ctx context.Context, subject digest.Digest, add []referrer) error {
	for _, lag := range append(apiLag[:], 0) {
		p := &pages{source: sourceAPI, limits: Limits{}.withDefaults()}
		err := r.readAPI(ctx, subject, p)
		if listed(p.referrers, add) {
			return nil
		}
		switch {
		case err != nil:
			return err
		case lag > 0:
			if err := sleep(ctx, lag); err != nil {
				return err
			}
		case len(p.referrers) > 0:
			return errNotListed
		}
	}
	return errors.New("it lists nothing")
}

// listed reports whether found has all of add.
func listed(found []Referrer, add []referrer) bool {
	return !slices.ContainsFunc(add, func(a referrer) bool {
		return !slices.ContainsFunc(found, func(r Referrer) bool {
			return r.Descriptor.Digest == a.desc.Digest
		})
	})
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
