package modelsig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/modelsig/modelsig/referrers"
)

// DownloadOptions are what may be said about one download.
type DownloadOptions struct {
	// Dir is the folder to write to, which is made if it is missing; "": the
	// current one.
	Dir string
	// Force replaces files that have other content. It is for what was cut
	// short by something else: the names are digests.
	Force bool
}

// Downloaded is what Download wrote. Nothing in it is verified.
type Downloaded struct {
	Reference string // canonical, with the digest
	Pinned    string // REPO@DIGEST
	Digest    string // of the manifest
	Bundles   []DownloadedBundle
	// Incomplete is why there may be more; nil if these are all.
	Incomplete error
}

// DownloadedBundle is one bundle and its file.
type DownloadedBundle struct {
	Attached
	File      string // path, below DownloadOptions.Dir
	Unchanged bool   // the file was there, with these bytes
}

// bundleSuffix ends the name of a bundle file, as cosign has it.
const bundleSuffix = ".sigstore.json"

// Download writes every bundle that is attached to the artifact that ref names
// to a file sha256-HEX.sigstore.json, where HEX is the digest of its bytes: the
// same bundle has the same name whoever attached it, and sha256sum tells
// whether it is whole. Files appear under their names only when whole. It
// verifies nothing, and leaves out what is no bundle.
//
// A file that is there with other content is an error that wraps fs.ErrExist.
// If it is certain that no bundle is attached the error wraps [ErrRefused].
func (c *Client) Download(ctx context.Context, ref string, o DownloadOptions) (*Downloaded, error) {
	model, err := c.open(ctx, ref)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Downloaded, error) {
		return nil, fmt.Errorf("download from %s: %w", model.Reference, err)
	}
	found, err := c.listAll(ctx, model)
	if err != nil {
		return nil, err
	}
	if o.Dir == "" {
		o.Dir = "."
	}
	out := &Downloaded{
		Reference: model.Reference.String(), Pinned: pinned(model.Reference), Digest: model.Manifest.Descriptor.Digest.String(),
		Incomplete: found.Incomplete,
	}
	for candidate := range found.Read(ctx) {
		switch {
		case errors.Is(candidate.Err, referrers.ErrUnread):
			out.Incomplete = errors.Join(out.Incomplete, candidate.Err)
			continue
		case candidate.Err != nil:
			continue // another kind of artifact, or nothing that could count
		}
		b := DownloadedBundle{Attached: attached(candidate)}
		if b.File, b.Unchanged, err = writeBundle(o, candidate.Bundle); err != nil {
			return fail(err)
		}
		out.Bundles = append(out.Bundles, b)
	}
	if err := ctx.Err(); err != nil {
		return fail(context.Cause(ctx))
	}
	if len(out.Bundles) == 0 && out.Incomplete == nil {
		return fail(fmt.Errorf("%w: no bundle is attached", ErrRefused))
	}
	return out, nil
}

// writeBundle writes one bundle unless it is there.
func writeBundle(o DownloadOptions, data []byte) (path string, unchanged bool, err error) {
	if err := os.MkdirAll(o.Dir, 0o777); err != nil {
		return "", false, err
	}
	path = filepath.Join(o.Dir, "sha256-"+digest.FromBytes(data).Encoded()+bundleSuffix)
	_, err = os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return path, false, err
	default:
		old, err := readFile(path, int64(len(data)))
		if err == nil && bytes.Equal(old, data) {
			return path, true, nil
		}
		if !o.Force {
			return path, false, fmt.Errorf("%s: %w, and has other content", path, fs.ErrExist)
		}
	}
	return path, false, writeFile(path, data, 0o644)
}
