package oci

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/modelsig/modelsig/manifest"
)

// defaultJobs is how many blobs are uploaded at once: one hides latency, many
// are throttled.
const defaultJobs = 4

// defaultMediaType is that of a file with an extension not in mediaTypes, which
// includes weights: no media type is registered for safetensors, GGUF or ONNX.
const defaultMediaType = "application/octet-stream"

// mediaTypes are the registered types of files that people look at.
var mediaTypes = map[string]string{
	".csv":   "text/csv",
	".html":  "text/html",
	".jinja": "text/plain",
	".jpeg":  "image/jpeg",
	".jpg":   "image/jpeg",
	".json":  "application/json",
	".jsonl": "application/jsonl",
	".md":    "text/markdown",
	".pdf":   "application/pdf",
	".png":   "image/png",
	".py":    "text/x-python",
	".txt":   "text/plain",
	".xml":   "application/xml",
	".yaml":  "application/yaml",
	".yml":   "application/yaml",
}

// PushOptions are the optional parts of a push.
type PushOptions struct {
	// MediaType is that of every layer; "": by extension, in lower case:
	// .csv, .html, .jinja, .jpeg, .jpg, .json, .jsonl, .md, .pdf, .png, .py,
	// .txt, .xml, .yaml and .yml have their registered types, all others are
	// application/octet-stream.
	MediaType string
	// Pointers decides about Git LFS pointers, as in manifest.Hasher; nil: they
	// are refused.
	Pointers func(*manifest.ThreatError) error
	// Jobs is how many files are hashed or uploaded at once; 0: 4 uploads,
	// and the default of manifest.Hasher.
	Jobs int
	// Progress is called with each count of bytes, by several goroutines:
	// first what was hashed, then what was uploaded or found there, so that
	// the total is twice the size of the files. nil: silent.
	Progress func(n int64)
	// Allow opts in to names that are refused otherwise, as manifest.CheckNames
	// says.
	Allow manifest.Allow
}

// Push uploads files as raw layers with titles, sorted by name, and a manifest
// as "oras push" writes it, points the tag of ref at it last, and returns the
// model of the bytes it uploaded. It needs a tag and no digest. Files with the
// same content share one blob; blobs that are there are not sent again. An
// image layout is created if it is missing.
//
// Names and the manifest are checked before anything is sent. Every file must
// have Open; it is read once to be hashed and once to be uploaded, and
// manifest.ErrChanged is returned if the two differ.
func (c *Client) Push(ctx context.Context, ref Reference, files []manifest.File, o PushOptions) (*Model, error) {
	m, err := c.push(ctx, ref, files, o)
	if err != nil {
		return nil, fmt.Errorf("push to %s: %w", ref, err)
	}
	return m, nil
}

func (c *Client) push(ctx context.Context, ref Reference, files []manifest.File, o PushOptions) (*Model, error) {
	switch {
	case ref.Archive != "":
		return nil, errReadOnly
	case ref.Digest != "":
		return nil, errors.New("the digest of what is pushed is not chosen: name a tag only")
	case ref.Tag == "":
		return nil, errors.New("no tag (none is implied)")
	case o.MediaType != "" && !isMediaType(o.MediaType):
		return nil, fmt.Errorf("%s is not a media type", quote(o.MediaType))
	}
	byName := make(map[string]manifest.File, len(files))
	names := make([]string, 0, len(files))
	for _, f := range files {
		if f.Open == nil {
			return nil, fmt.Errorf("file %s has no content", quote(f.Name))
		}
		byName[f.Name] = f
		names = append(names, f.Name)
	}
	if _, err := manifest.CheckNames(names, o.Allow); err != nil {
		return nil, err
	}
	hasher := manifest.Hasher{Jobs: o.Jobs, Progress: o.Progress, Pointers: o.Pointers}
	if hasher.Pointers == nil {
		hasher.Pointers = func(t *manifest.ThreatError) error { return t }
	}
	resources, err := hasher.Hash(ctx, files)
	if err != nil {
		return nil, err
	}
	p := &pusher{progress: o.Progress, jobs: o.Jobs}
	if p.jobs <= 0 {
		p.jobs = defaultJobs
	}
	layers := make([]ocispec.Descriptor, 0, len(resources))
	for _, r := range resources {
		desc := ocispec.Descriptor{
			MediaType:   o.MediaType,
			Digest:      digest.NewDigestFromBytes(digest.SHA256, r.Digest),
			Size:        byName[r.Name].Size,
			Annotations: map[string]string{ocispec.AnnotationTitle: r.Name},
		}
		if desc.MediaType == "" {
			desc.MediaType = mediaTypeOf(r.Name)
		}
		layers = append(layers, desc)
		p.add(desc, byName[r.Name])
	}
	m, err := pack(ctx, layers)
	if err != nil {
		return nil, err
	}
	// What sign would refuse is not worth an upload.
	if _, err := m.Files(FilesOptions{Allow: o.Allow}); err != nil {
		return nil, err
	}
	model := &Model{Reference: ref, Manifest: m}
	model.Reference.Digest = m.Descriptor.Digest
	if !ref.IsRegistry() {
		l, err := createLayout(ctx, ref.Layout)
		if err != nil {
			return nil, err
		}
		model.Layout = l
		if err := p.run(ctx, &layoutTarget{l}); err != nil {
			return nil, err
		}
		if err := l.writeManifest(ctx, m, ref.Tag); err != nil {
			return nil, fmt.Errorf("manifest: %w", err)
		}
		return model, nil
	}
	repo, a, err := c.repository(ref)
	if err != nil {
		return nil, err
	}
	model.Repository, model.auth = repo, a
	// Uploads go through the same auth.Client; they need a body that can be
	// sent again, which oras-go does not ask for.
	uploads, _, err := c.repository(ref)
	if err != nil {
		return nil, err
	}
	uploads.Client = resending{repo.Client}
	if err := p.run(ctx, &registryTarget{repo: uploads, auth: a}); err != nil {
		return nil, err
	}
	if err := repo.PushReference(ctx, m.Descriptor, bytes.NewReader(m.Bytes), ref.Tag); err != nil {
		return nil, fmt.Errorf("manifest: %w", a.explain(err))
	}
	return model, nil
}

func mediaTypeOf(name string) string {
	if t, ok := mediaTypes[strings.ToLower(path.Ext(name))]; ok {
		return t
	}
	return defaultMediaType
}

// pack makes the manifest with oras-go, as "oras push" does, and reads it back.
func pack(ctx context.Context, layers []ocispec.Descriptor) (*Manifest, error) {
	store := memory.New()
	desc, err := oras.PackManifest(ctx, store, oras.PackManifestVersion1_1, oras.MediaTypeUnknownArtifact, oras.PackManifestOptions{Layers: layers})
	if err != nil {
		return nil, err
	}
	rc, err := store.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	data, err := io.ReadAll(rc)
	if err != nil {
		return nil, err
	}
	return ParseManifest(data, desc.MediaType)
}

// A blobTarget is where blobs go: a registry or a layout.
type blobTarget interface {
	exists(ctx context.Context, desc ocispec.Descriptor) (bool, error)
	push(ctx context.Context, desc ocispec.Descriptor, content io.ReadCloser) error
}

// A pusher uploads each distinct blob once.
type pusher struct {
	jobs     int
	progress func(int64)
	blobs    []blobUpload
	seen     map[digest.Digest]int
}

type blobUpload struct {
	desc   ocispec.Descriptor
	name   string
	open   func() (io.ReadCloser, error)
	copies int64 // files with this content
}

func (p *pusher) add(desc ocispec.Descriptor, f manifest.File) {
	if p.seen == nil {
		p.seen = map[digest.Digest]int{}
	}
	if i, ok := p.seen[desc.Digest]; ok {
		p.blobs[i].copies++
		return
	}
	p.seen[desc.Digest] = len(p.blobs)
	desc.Annotations = nil
	p.blobs = append(p.blobs, blobUpload{desc: desc, name: f.Name, open: f.Open, copies: 1})
}

func (p *pusher) report(n int64) {
	if p.progress != nil && n > 0 {
		p.progress(n)
	}
}

func (p *pusher) run(ctx context.Context, target blobTarget) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.jobs)
	if _, ok := p.seen[emptyDigest]; !ok {
		config := ocispec.DescriptorEmptyJSON
		group.Go(func() error {
			return p.upload(ctx, target, blobUpload{desc: config, name: "config", open: func() (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(config.Data)), nil
			}})
		})
	}
	for _, blob := range p.blobs {
		group.Go(func() error { return p.upload(ctx, target, blob) })
	}
	return group.Wait()
}

func (p *pusher) upload(ctx context.Context, target blobTarget, blob blobUpload) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	exists, err := target.exists(ctx, blob.desc)
	if err != nil {
		return fmt.Errorf("%s: %w", quote(blob.name), err)
	}
	if exists {
		p.report(blob.copies * blob.desc.Size)
		return nil
	}
	body := &fileBody{ctx: ctx, desc: blob.desc, open: blob.open, upload: &uploadState{}}
	if blob.copies > 0 {
		body.upload.progress = p.progress
	}
	defer body.Close()
	if err := target.push(ctx, blob.desc, body); err != nil {
		// The reason why the body ended is better than what the transport
		// made of it.
		if changed := body.upload.failed(); changed != nil {
			err = changed
		}
		return fmt.Errorf("%s: %w", quote(blob.name), err)
	}
	p.report((blob.copies - 1) * blob.desc.Size)
	return nil
}

type registryTarget struct {
	repo      *remote.Repository
	auth      *authClient
	mountFrom string // repository of this registry that has the blobs; "": none
}

func (t *registryTarget) exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	exists, err := t.repo.Blobs().Exists(ctx, desc)
	if err != nil {
		return false, t.auth.explain(err)
	}
	return exists, nil
}

func (t *registryTarget) push(ctx context.Context, desc ocispec.Descriptor, content io.ReadCloser) error {
	if t.mountFrom != "" {
		sent := false
		err := t.repo.Mount(ctx, desc, t.mountFrom, func() (io.ReadCloser, error) {
			sent = true
			return content, nil
		})
		if err == nil {
			return nil
		}
		if sent || ctx.Err() != nil {
			return t.auth.explain(err)
		}
		// A registry may forbid it, or not know how: it is sent.
	}
	if err := t.repo.Blobs().Push(ctx, desc, content); err != nil {
		return t.auth.explain(err)
	}
	return nil
}

type layoutTarget struct{ layout *Layout }

func (t *layoutTarget) exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	return t.layout.hasBlob(ctx, desc)
}

func (t *layoutTarget) push(ctx context.Context, desc ocispec.Descriptor, content io.ReadCloser) error {
	return t.layout.PushBlob(ctx, desc, content)
}

// resending tells net/http how to send a file again: after a token expired, a
// throttled or a broken upload.
type resending struct{ remote.Client }

func (r resending) Do(req *http.Request) (*http.Response, error) {
	if body, ok := req.Body.(*fileBody); ok && req.GetBody == nil {
		req.GetBody = body.again
	}
	return r.Client.Do(req)
}

// A fileBody is the content of a file on its way: opened when first read, and
// checked against what was hashed before the last byte leaves.
type fileBody struct {
	ctx    context.Context
	desc   ocispec.Descriptor
	open   func() (io.ReadCloser, error)
	upload *uploadState // shared by all tries

	mu     sync.Mutex // net/http may close a body while it reads it
	rc     io.ReadCloser
	hash   hash.Hash
	n      int64
	closed bool
}

// An uploadState is what the tries to send one file have in common.
type uploadState struct {
	progress func(int64)

	mu       sync.Mutex
	err      error // that ended the last try, if it was the file's
	reported int64 // bytes told to progress: trying again tells nothing twice
}

// again returns a body that starts anew.
func (b *fileBody) again() (io.ReadCloser, error) {
	return &fileBody{ctx: b.ctx, desc: b.desc, open: b.open, upload: b.upload}, nil
}

func (b *fileBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.read(p)
	if err != nil && err != io.EOF {
		b.upload.fail(err)
		return 0, err
	}
	b.upload.report(b.n)
	return n, err
}

func (b *fileBody) read(p []byte) (int, error) {
	if b.rc == nil {
		rc, err := b.open()
		if err != nil {
			return 0, err
		}
		b.rc, b.hash = rc, sha256.New()
	}
	n, err := b.rc.Read(p)
	b.hash.Write(p[:n])
	b.n += int64(n)
	switch {
	case err != nil && err != io.EOF:
		return 0, err
	case b.n > b.desc.Size, err == io.EOF && b.n < b.desc.Size:
		return 0, fmt.Errorf("%w: it had %d bytes when hashed", manifest.ErrChanged, b.desc.Size)
	case b.n == b.desc.Size && digest.NewDigest(digest.SHA256, b.hash) != b.desc.Digest:
		return 0, fmt.Errorf("%w: its content is not what was hashed", manifest.ErrChanged)
	}
	return n, err
}

func (b *fileBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.rc == nil {
		return nil
	}
	rc := b.rc
	b.rc = nil
	return rc.Close()
}

func (u *uploadState) fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.err = err
}

func (u *uploadState) failed() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

func (u *uploadState) report(sent int64) {
	u.mu.Lock()
	n := sent - u.reported
	u.reported = max(u.reported, sent)
	u.mu.Unlock()
	if n > 0 && u.progress != nil {
		u.progress(n)
	}
}
