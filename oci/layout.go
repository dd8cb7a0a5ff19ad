package oci

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/lockedfile"

	"github.com/modelsig/modelsig/manifest"
)

const (
	// maxIndex and maxEntries bound index.json as they bound a referrers
	// listing: it lists referrers too.
	maxIndex   = 8 << 20
	maxEntries = 10_000
	// maxUntagged bounds the bytes of manifests that are read to find the only
	// model: 10,000 referrers have some 10 MiB.
	maxUntagged = 64 << 20
	// maxLayoutFile is far above {"imageLayoutVersion":"1.0.0"}.
	maxLayoutFile = 4 << 10
	// maxTagsNamed is how many tags an error about a missing one names.
	maxTagsNamed = 10
	// lockWait bounds the wait for other writers, who hold the lock for one
	// small write each.
	lockWait = 60 * time.Second
	lockFile = "index.json.lock"
	// tempPrefix starts the names of files that are not whole yet. They stand
	// at the top, where no reader of a layout looks, and only a killed process
	// leaves one behind.
	tempPrefix = ".modelsig-"
)

// A Layout is an image layout: a folder, or a tar archive, which is read-only.
// It holds no open file, so it needs no closing; it is safe for concurrent use
// by goroutines and, for writing, by processes. Get one from [Client.Open].
//
// Every blob that is read or written is checked against its digest.
type Layout struct {
	path    string
	archive *archive // nil for a folder
}

// Fetch streams a blob as [Model.Fetch] does. A negative desc.Size is unknown:
// then the digest alone is checked. The error wraps fs.ErrNotExist if there is
// no such blob.
func (l *Layout) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	rc, err := l.openAt(ctx, desc, 0)
	if err != nil {
		return nil, err
	}
	return newVerifiedReader(rc, desc), nil
}

// PushBlob stores the content of r, which must be what desc says, under its
// digest. It makes no entry in index.json. A blob that is there already, and
// whole, is left alone and r is not read.
func (l *Layout) PushBlob(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if err := l.pushBlob(ctx, desc, r); err != nil {
		return fmt.Errorf("push %s to %s: %w", desc.Digest, l, err)
	}
	return nil
}

// Entries returns the manifests of index.json byte for byte, in order: at most
// 10,000, from at most 8 MiB.
func (l *Layout) Entries(ctx context.Context) ([]json.RawMessage, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	index, err := l.readIndex()
	if err != nil {
		return nil, fmt.Errorf("read index of %s: %w", l, err)
	}
	return index.manifests, nil
}

// AddEntries appends descriptors to the manifests of index.json, in one write
// under the lock, leaving out those whose digest is there already. The blobs
// must be there before. What others wrote is kept byte for byte.
func (l *Layout) AddEntries(ctx context.Context, entries ...ocispec.Descriptor) error {
	err := l.updateIndex(ctx, func(index *layoutIndex) error {
		known := map[digest.Digest]bool{}
		for i := range index.manifests {
			desc, err := index.descriptor(i)
			if err != nil {
				return err
			}
			known[desc.Digest] = true
		}
		for _, entry := range entries {
			if known[entry.Digest] {
				continue
			}
			known[entry.Digest] = true
			if err := index.append(entry); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("add to index of %s: %w", l, err)
	}
	return nil
}

// RemoveEntries takes the entries with the digest out of index.json, in one
// write under the lock. No blob is removed: others may share it. What others
// wrote is kept byte for byte.
func (l *Layout) RemoveEntries(ctx context.Context, d digest.Digest) error {
	err := l.updateIndex(ctx, func(index *layoutIndex) error {
		kept := index.manifests[:0]
		for i := range index.manifests {
			desc, err := index.descriptor(i)
			if err != nil {
				return err
			}
			if desc.Digest != d {
				kept = append(kept, index.manifests[i])
			}
		}
		index.manifests = kept
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove from index of %s: %w", l, err)
	}
	return nil
}

// String names the layout as a reference does.
func (l *Layout) String() string {
	if l.archive != nil {
		return "oci-archive:" + l.path
	}
	return "oci:" + l.path
}

// openLayout opens what ref names and checks its oci-layout file.
func openLayout(ref Reference) (*Layout, error) {
	l := &Layout{path: ref.Layout}
	if ref.Archive != "" {
		a, err := openArchive(ref.Archive)
		if err != nil {
			return nil, err
		}
		l.path, l.archive = ref.Archive, a
	}
	if l.path == "" {
		return nil, errors.New("the reference is empty")
	}
	data, err := l.readFile(ocispec.ImageLayoutFile, maxLayoutFile)
	if err != nil {
		return nil, fmt.Errorf("no image layout: %w", err)
	}
	if err := manifest.CheckJSON(data, "imageLayoutVersion"); err != nil {
		return nil, refuse("layout-json", ocispec.ImageLayoutFile, "%s", reason(err))
	}
	var version ocispec.ImageLayout
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, fmt.Errorf("%s: %w", ocispec.ImageLayoutFile, err)
	}
	if version.Version != ocispec.ImageLayoutVersion {
		return nil, fmt.Errorf("%s: version %s, not %s", ocispec.ImageLayoutFile, quote(version.Version), ocispec.ImageLayoutVersion)
	}
	return l, nil
}

func openLayoutModel(ctx context.Context, ref Reference) (*Model, error) {
	l, err := openLayout(ref)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", ref, err)
	}
	m, err := l.resolve(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", ref, err)
	}
	ref.Digest = m.Descriptor.Digest
	return &Model{Reference: ref, Manifest: m, Layout: l}, nil
}

// resolve finds the manifest that ref means, and reads it once.
func (l *Layout) resolve(ctx context.Context, ref Reference) (*Manifest, error) {
	index, err := l.readIndex()
	if err != nil {
		return nil, err
	}
	switch {
	case ref.Digest != "":
		desc, err := index.entry(func(d ocispec.Descriptor) bool { return d.Digest == ref.Digest })
		if err != nil {
			return nil, err
		}
		if desc == nil {
			// The child of an index is in no entry of its own.
			desc = &ocispec.Descriptor{Digest: ref.Digest, Size: -1}
		}
		return l.readManifest(ctx, *desc)
	case ref.Tag != "":
		desc, err := index.tagged(ref.Tag)
		if err != nil {
			return nil, err
		}
		return l.readManifest(ctx, *desc)
	}
	return l.onlyModel(ctx, index)
}

// onlyModel finds the one manifest that is no referrer.
func (l *Layout) onlyModel(ctx context.Context, index *layoutIndex) (*Manifest, error) {
	var found *Manifest
	var read int64
	seen := map[digest.Digest]bool{}
	for i := range index.manifests {
		desc, err := index.descriptor(i)
		if err != nil {
			return nil, err
		}
		if seen[desc.Digest] || IsAboutManifest(desc.Annotations[ocispec.AnnotationRefName]) {
			continue
		}
		seen[desc.Digest] = true
		m, err := l.readManifest(ctx, desc)
		if err != nil {
			return nil, err
		}
		if read += m.Descriptor.Size; read > maxUntagged {
			return nil, fmt.Errorf("more than %d bytes of manifests are there: name a tag or a digest", maxUntagged)
		}
		if m.Subject != nil {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("more than one model is there: name a tag or a digest (%s)", index.tags())
		}
		found = m
	}
	if found == nil {
		return nil, fmt.Errorf("%w: no model is there", ErrNotFound)
	}
	return found, nil
}

// readManifest reads and parses a manifest. A negative size is unknown.
func (l *Layout) readManifest(ctx context.Context, desc ocispec.Descriptor) (*Manifest, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkDigest(desc.Digest.String()); err != nil {
		return nil, refuse("digest-format", ocispec.ImageIndexFile, "%s", reason(err))
	}
	rc, err := l.open(blobName(desc.Digest))
	if errors.Is(err, fs.ErrNotExist) && desc.Size < 0 {
		return nil, fmt.Errorf("%w: no manifest %s", ErrNotFound, desc.Digest)
	}
	if err != nil {
		return nil, fmt.Errorf("open manifest %s: %w", desc.Digest, err)
	}
	defer rc.Close()
	data, err := readManifestBytes(rc)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", desc.Digest, err)
	}
	if err := checkContentDigest(data, desc.Digest, ""); err != nil {
		return nil, err
	}
	if desc.Size >= 0 && desc.Size != int64(len(data)) {
		return nil, refuse("size-mismatch", desc.Digest.String(), "the manifest has %d bytes, index.json says %d", len(data), desc.Size)
	}
	return parseAny(data, desc.MediaType)
}

func blobName(d digest.Digest) string {
	return ocispec.ImageBlobsDir + "/" + string(d.Algorithm()) + "/" + d.Encoded()
}

// open opens a regular file of the layout for reading.
func (l *Layout) open(name string) (io.ReadCloser, error) {
	if l.archive != nil {
		return l.archive.open(name)
	}
	root, err := os.OpenRoot(l.path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return openRegular(root, name)
}

func openRegular(root *os.Root, name string) (*os.File, error) {
	// Non-blocking, so that a FIFO in the place of a blob is no trap (rule 37).
	f, err := root.OpenFile(filepath.FromSlash(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (l *Layout) readFile(name string, limit int64) ([]byte, error) {
	rc, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	data, err := readLimited(rc, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}

var errReadOnly = errors.New("an archive is read-only")

func (l *Layout) pushBlob(ctx context.Context, desc ocispec.Descriptor, r io.Reader) (err error) {
	if l.archive != nil {
		return errReadOnly
	}
	if err := checkDescriptor(desc, "descriptor"); err != nil {
		return err
	}
	if whole, err := l.hasBlob(ctx, desc); whole || err != nil {
		return err
	}
	root, err := os.OpenRoot(l.path)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll(filepath.Join(ocispec.ImageBlobsDir, "sha256"), 0o777); err != nil {
		return err
	}
	content := newVerifiedReader(&contextReader{ctx: ctx, ReadCloser: io.NopCloser(r)}, desc)
	return writeFile(root, blobName(desc.Digest), content)
}

// hasBlob reports whether the blob is there and whole. What is there and wrong
// is written again.
func (l *Layout) hasBlob(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	rc, err := l.Fetch(ctx, desc)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer rc.Close()
	_, err = io.Copy(io.Discard, rc)
	return err == nil, ctx.Err()
}

// writeFile writes content under a temporary name, syncs, and renames, so that
// name is whole whenever it is there.
func writeFile(root *os.Root, name string, content io.Reader) (err error) {
	random := make([]byte, 8)
	rand.Read(random) // never fails
	temp := tempPrefix + hex.EncodeToString(random)
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			root.Remove(temp)
		}
	}()
	_, err = io.Copy(f, content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return root.Rename(temp, filepath.FromSlash(name))
}

// createLayout makes a folder an image layout, or opens the one that is there.
// It refuses a folder that holds other things.
func createLayout(ctx context.Context, path string) (*Layout, error) {
	l := &Layout{path: path}
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if _, err := root.Stat(ocispec.ImageLayoutFile); errors.Is(err, fs.ErrNotExist) {
		if err := markLayout(root); err != nil {
			return nil, err
		}
	}
	if l, err = openLayout(Reference{Layout: path}); err != nil {
		return nil, err
	}
	if _, err := root.Stat(ocispec.ImageIndexFile); errors.Is(err, fs.ErrNotExist) {
		return l, l.updateIndex(ctx, func(*layoutIndex) error { return nil })
	}
	return l, nil
}

// markLayout writes the oci-layout file into a folder that is empty.
func markLayout(root *os.Root) error {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		switch name := entry.Name(); {
		case name == ocispec.ImageLayoutFile:
			return nil // another process was faster
		case !strings.HasPrefix(name, tempPrefix):
			// A folder is not read at one moment: what another process made
			// after the mark may be seen without it.
			if _, err := root.Stat(ocispec.ImageLayoutFile); err == nil {
				return nil
			}
			return fmt.Errorf("the folder is not empty and not an image layout: it holds %s", quote(name))
		}
	}
	marker := fmt.Sprintf(`{"imageLayoutVersion":"%s"}`, ocispec.ImageLayoutVersion)
	return writeFile(root, ocispec.ImageLayoutFile, strings.NewReader(marker))
}

// updateIndex reads index.json, changes it, and renames the new one over it,
// under the lock. A missing index.json is an empty one.
func (l *Layout) updateIndex(ctx context.Context, change func(*layoutIndex) error) error {
	if l.archive != nil {
		return errReadOnly
	}
	unlock, err := l.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	index, err := l.readIndex()
	if errors.Is(err, fs.ErrNotExist) {
		index, err = parseIndex([]byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[]}`))
	}
	if err != nil {
		return err
	}
	if err := change(index); err != nil {
		return err
	}
	data, err := index.marshal()
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(l.path)
	if err != nil {
		return err
	}
	defer root.Close()
	return writeFile(root, ocispec.ImageIndexFile, bytes.NewReader(data))
}

// lock takes the advisory lock that serializes writers of index.json. The
// system releases it when a process dies, so there are no stale locks.
func (l *Layout) lock(ctx context.Context) (unlock func(), err error) {
	// The lock is taken by path, so a link would lead out of the layout.
	if info, err := os.Lstat(filepath.Join(l.path, lockFile)); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", lockFile)
	}
	type result struct {
		unlock func()
		err    error
	}
	locked := make(chan result, 1)
	go func() {
		unlock, err := lockedfile.MutexAt(filepath.Join(l.path, lockFile)).Lock()
		locked <- result{unlock, err}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, lockWait, fmt.Errorf("another process has held %s for %s", lockFile, lockWait))
	defer cancel()
	select {
	case r := <-locked:
		return r.unlock, r.err
	case <-ctx.Done():
		go func() { // whoever waits for a lock gets it at last, and must give it back
			if r := <-locked; r.err == nil {
				r.unlock()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// A contextReader stops reading when its context ends: local reads do not
// notice by themselves.
type contextReader struct {
	ctx context.Context
	io.ReadCloser
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.ReadCloser.Read(p)
}

// writeManifest stores a manifest and points tag at it, blob first.
func (l *Layout) writeManifest(ctx context.Context, m *Manifest, tag string) error {
	desc := ocispec.Descriptor{MediaType: m.Descriptor.MediaType, Digest: m.Descriptor.Digest, Size: m.Descriptor.Size, ArtifactType: m.Descriptor.ArtifactType}
	if err := l.pushBlob(ctx, desc, bytes.NewReader(m.Bytes)); err != nil {
		return err
	}
	return l.updateIndex(ctx, func(index *layoutIndex) error { return index.tag(desc, tag) })
}
