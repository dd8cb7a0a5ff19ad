package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Fetch streams one blob of the model. The reader returns an error instead of
// io.EOF unless exactly desc.Size bytes with desc.Digest came and then the end
// of the stream. What was read before io.EOF is unverified. The caller closes it.
// Embedded data and urls of desc are not used.
//
// Where a connection to a registry breaks, the reader asks for the rest, and
// goes on as long as connections bring something.
func (m *Model) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	rc, err := m.openAt(ctx, desc, 0)
	if err != nil {
		return nil, err
	}
	return newVerifiedReader(rc, desc), nil
}

// FetchRest is Fetch for a blob of which the caller has the first bytes: it
// reads kept to its end, and streams what comes after, of which alone the
// registry is asked. The digest is that of both together, so that kept bytes
// are hashed again and io.EOF vouches for them too. Where kept is whole, no
// request is made, and the first Read returns io.EOF or the refusal. More
// than desc.Size bytes in kept are an error.
func (m *Model) FetchRest(ctx context.Context, desc ocispec.Descriptor, kept io.Reader) (io.ReadCloser, error) {
	r := newVerifiedReader(nil, desc)
	n, err := io.Copy(r.hash, io.LimitReader(kept, desc.Size+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read kept bytes of %s: %w", desc.Digest, err)
	case n > desc.Size:
		return nil, fmt.Errorf("more bytes of %s are kept than the %d that it has", desc.Digest, desc.Size)
	}
	r.n = n
	if n == desc.Size {
		r.rc = http.NoBody
		return r, nil
	}
	if r.rc, err = m.openAt(ctx, desc, n); err != nil {
		return nil, err
	}
	return r, nil
}

// openAt opens a blob at an offset below its size, or at 0.
func (m *Model) openAt(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if m.Layout != nil {
		return m.Layout.openAt(ctx, desc, offset)
	}
	if m.Repository == nil {
		return nil, fmt.Errorf("fetch %s: the model is in no registry and no layout", desc.Digest)
	}
	if err := checkDescriptor(desc, "descriptor"); err != nil {
		return nil, fmt.Errorf("fetch from %s: %w", m.Reference.Name(), err)
	}
	b := &blobBody{ctx: ctx, model: m, desc: desc, at: offset}
	if err := b.open(); err != nil {
		return nil, fmt.Errorf("fetch %s from %s: %w", desc.Digest, m.Reference.Name(), err)
	}
	return b, nil
}

// openAt opens a blob of a layout. A negative desc.Size is unknown.
func (l *Layout) openAt(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	known := desc
	known.Size = max(known.Size, 0)
	if err := checkDescriptor(known, "descriptor"); err != nil {
		return nil, fmt.Errorf("fetch from %s: %w", l, err)
	}
	rc, err := l.open(blobName(desc.Digest))
	if err == nil && offset > 0 {
		if _, err = rc.(io.Seeker).Seek(offset, io.SeekStart); err != nil {
			rc.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("fetch %s from %s: %w", desc.Digest, l, err)
	}
	return &contextReader{ctx: ctx, ReadCloser: rc}, nil
}

// maxIdleTries is how many connections in a row may end before they brought
// minProgress bytes. A registry that ends each one so early would keep us for
// as many requests as a blob has bytes.
const maxIdleTries = 5

// A blobBody reads one blob of a registry over as many connections as it takes.
// It counts bytes and does not judge them: a verifiedReader does.
type blobBody struct {
	ctx   context.Context // of this download
	model *Model
	desc  ocispec.Descriptor

	rc    io.ReadCloser // of the connection at hand; nil: none is
	skip  int64         // bytes that rc brings once more
	at    int64         // bytes that came, of the blob
	since int64         // at, when rc was opened
	tries int           // connections in a row that brought less than minProgress
	whole bool          // ask for no range: the registry answers with others
}

// errRange: the answer is not the range that was asked for.
var errRange = errors.New("another range")

// open asks for the blob from at on. Where the registry answers with another
// range, or with none, nothing of the answer is read: it is asked once more, for
// all of the blob, and what came before is skipped.
func (b *blobBody) open() error {
	err := b.ask()
	if errors.Is(err, errRange) {
		b.whole = true
		err = b.ask()
	}
	return err
}

func (b *blobBody) ask() error {
	repo := b.model.Repository
	scheme := "https"
	if repo.PlainHTTP {
		scheme = "http"
	}
	url := fmt.Sprintf("%s://%s/v2/%s/blobs/%s", scheme, repo.Reference.Host(), repo.Reference.Repository, b.desc.Digest)
	ctx := auth.AppendRepositoryScope(b.ctx, repo.Reference, auth.ActionPull)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// The bytes that the digest is of, and not what net/http would unpack.
	req.Header.Set("Accept-Encoding", "identity")
	if b.ranged() {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(b.at, 10)+"-")
	}
	resp, err := repo.Client.Do(req)
	if err != nil {
		return b.model.auth.explain(err)
	}
	if err := b.accept(resp); err != nil {
		resp.Body.Close()
		return err
	}
	b.rc, b.since = resp.Body, b.at
	return nil
}

// ranged reports whether a range is asked for.
func (b *blobBody) ranged() bool { return b.at > 0 && !b.whole }

// accept wants an answer that goes on exactly where the last one ended, or that
// begins at the start. Another range is errRange.
func (b *blobBody) accept(resp *http.Response) error {
	host := resp.Request.URL.Host
	length := b.desc.Size
	switch {
	case resp.StatusCode == http.StatusNotFound && host == b.model.Repository.Reference.Host():
		return fmt.Errorf("%w (%w)", ErrNotFound, newResponseError(resp))
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && b.ranged():
		return errRange
	case resp.StatusCode == http.StatusPartialContent && b.ranged():
		length -= b.at
		want := fmt.Sprintf("bytes %d-%d/%d", b.at, b.desc.Size-1, b.desc.Size)
		if resp.Header.Get("Content-Range") != want {
			return errRange
		}
	case resp.StatusCode != http.StatusOK:
		return b.model.auth.explain(newResponseError(resp))
	}
	if resp.ContentLength >= 0 && resp.ContentLength != length {
		return fmt.Errorf("%s answered with %d bytes, not %d", host, resp.ContentLength, length)
	}
	b.skip = 0
	if resp.StatusCode == http.StatusOK { // it may have no ranges
		b.skip = b.at
	}
	return nil
}

func (b *blobBody) Read(p []byte) (int, error) {
	for {
		if b.rc == nil {
			if err := b.again(); err != nil {
				return 0, err
			}
		}
		n, err := b.read(p)
		switch {
		case err == nil:
			return n, nil
		case b.at >= b.desc.Size && b.ctx.Err() == nil:
			return n, io.EOF // all bytes came: what they are, the digest says
		case !b.broken(err):
			return n, err
		}
		b.rc.Close()
		b.rc = nil
		if n > 0 {
			return n, nil
		}
	}
}

// read reads what is new of the connection at hand.
func (b *blobBody) read(p []byte) (n int, err error) {
	for b.skip > 0 && err == nil {
		n, err = b.rc.Read(p[:min(int64(len(p)), b.skip)])
		b.skip -= int64(n)
	}
	if err != nil {
		return 0, err
	}
	n, err = b.rc.Read(p)
	b.at += int64(n)
	return n, err
}

// broken reports whether asking again may help. A registry that brought little
// and was then silent for a whole stall timeout will be so again.
func (b *blobBody) broken(err error) bool {
	little := b.at-b.since < minProgress
	if !little {
		b.tries = 0
	}
	b.tries++
	var stall *stallError
	return b.ctx.Err() == nil && b.tries < maxIdleTries && !(little && errors.As(err, &stall))
}

// again opens the next connection: at once if the last one brought something.
func (b *blobBody) again() error {
	if b.tries > 1 {
		if err := sleep(b.ctx, jitter(quickDelay<<(b.tries-2))); err != nil {
			return err
		}
	}
	if err := b.open(); err != nil {
		return fmt.Errorf("ask for the rest after %d bytes: %w", b.at, err)
	}
	return nil
}

func (b *blobBody) Close() error {
	if b.rc == nil {
		return nil
	}
	return b.rc.Close()
}
