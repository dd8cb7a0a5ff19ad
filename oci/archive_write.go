package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrExists is wrapped by the error of [WriteArchive] when the file is there.
var ErrExists = errors.New("it is there already")

// An ArchiveContent is what [WriteArchive] writes.
type ArchiveContent struct {
	From  *Place  // where blobs are read
	Root  *Node   // what the archive is about
	Tag   string  // of Root; "": none
	Nodes []*Node // all manifests, Root among them
	// Referrers are the entries of index.json beside Root.
	Referrers []ocispec.Descriptor
	// Replace overwrites a file that is there; without it that is an error.
	Replace bool
	// Progress is called with each count of bytes of blobs; nil: silent.
	Progress func(n int64)
}

// WriteArchive writes an image layout as an uncompressed tar file, in one pass
// and without a folder in between: oci-layout, index.json, and the blobs by
// digest. The same content gives the same bytes. The file has a temporary name
// until all of it is synced and check, which is given the layout that was
// written, returns nil.
func WriteArchive(ctx context.Context, file string, c ArchiveContent, check func(*Layout) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write oci-archive:%s: %w", file, err)
		}
	}()
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) && !c.Replace {
		if err == nil {
			err = ErrExists
		}
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), tempPrefix+"*.tar")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	err = c.write(ctx, f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	l, err := openLayout(Reference{Archive: f.Name()})
	if err != nil {
		return err
	}
	if err := check(l); err != nil {
		return err
	}
	if !c.Replace {
		// What appeared meanwhile is not ours to replace.
		if err := os.Link(f.Name(), file); err == nil {
			return os.Remove(f.Name())
		} else if errors.Is(err, fs.ErrExist) {
			return ErrExists
		}
		// Not every file system has links.
	}
	return os.Rename(f.Name(), file)
}

func (c *ArchiveContent) write(ctx context.Context, w io.Writer) error {
	index, err := c.index()
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	whole := func(name string, data []byte) error {
		return writeEntry(t, name, int64(len(data)), bytes.NewReader(data))
	}
	if err := whole(ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"`+ocispec.ImageLayoutVersion+`"}`)); err != nil {
		return err
	}
	if err := whole(ocispec.ImageIndexFile, index); err != nil {
		return err
	}
	manifests := map[digest.Digest][]byte{}
	var blobs []ocispec.Descriptor
	for _, n := range c.Nodes {
		manifests[n.Descriptor.Digest] = n.Bytes
		blobs = append(append(blobs, n.Descriptor), n.Blobs...)
	}
	blobs = distinct(blobs)
	slices.SortFunc(blobs, func(a, b ocispec.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	for _, desc := range blobs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if data, ok := manifests[desc.Digest]; ok {
			if err := whole(blobName(desc.Digest), data); err != nil {
				return err
			}
			continue
		}
		rc, err := c.From.blob(ctx, desc)
		if err != nil {
			return err
		}
		err = writeEntry(t, blobName(desc.Digest), desc.Size, &counted{rc, c.Progress})
		if closeErr := rc.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return err
		}
	}
	return t.Close()
}

// writeEntry writes one file, to the end of the stream: a verified reader says
// only there whether the content was right.
func writeEntry(t *tar.Writer, name string, size int64, content io.Reader) error {
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, Format: tar.FormatPAX}); err != nil {
		return err
	}
	if _, err := io.Copy(t, content); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (c *ArchiveContent) index() ([]byte, error) {
	root := c.Root.Descriptor
	if c.Tag != "" {
		root.Annotations = map[string]string{ocispec.AnnotationRefName: c.Tag}
	}
	entries := slices.Clone(c.Referrers)
	slices.SortFunc(entries, func(a, b ocispec.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: append([]ocispec.Descriptor{root}, entries...),
	}
	if len(index.Manifests) > maxEntries {
		return nil, fmt.Errorf("index.json would have %d entries, more than %d", len(index.Manifests), maxEntries)
	}
	data, err := json.Marshal(index)
	if err == nil && len(data) > maxIndex {
		err = fmt.Errorf("index.json would have %d bytes, more than %d", len(data), maxIndex)
	}
	return data, err
}

// counted tells what was read.
type counted struct {
	io.Reader
	progress func(int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if c.progress != nil && n > 0 {
		c.progress(int64(n))
	}
	return n, err
}
