package oci

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"hash"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

const (
	// maxRatio is how many bytes one compressed byte may become: weights do not
	// halve, text becomes ten times as much (T08).
	maxRatio = 200
	// ratioSlack is what may come before that is asked: small files of zeros.
	ratioSlack = 1 << 20
	// maxWindow is how much of the past a zstd layer may refer to, in bytes: it
	// is kept in memory (RFC 8878 §3.1.1.1.2 wants 8 MiB to be supported).
	maxWindow = 8 << 20
)

// A blobReader is a layer on its way, and remembers how it ended.
type blobReader struct {
	r        io.Reader
	progress func(int64)
	n        atomic.Int64
	err      error // io.EOF: it held
}

func (b *blobReader) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.r.Read(p)
	b.n.Add(int64(n))
	if n > 0 && b.progress != nil {
		b.progress(int64(n))
	}
	if err != nil {
		b.err = err
	}
	return n, err
}

// fault is why the layer could not be read, or did not hold; nil if neither is
// known.
func (b *blobReader) fault() error {
	if b.err == io.EOF {
		return nil
	}
	return b.err
}

// decompress returns the content of a layer. The first bytes tell what it is,
// and must be what its media type says: a name that begins so is no name, so
// that no tar can be mistaken for it.
func decompress(s Source, blob *blobReader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(blob, 64<<10)
	magic, err := buffered.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	is := ""
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		is = "gzip"
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18}):
		is = "zstd" // or a frame to skip before it
	}
	if s.Compression != anyCompression && s.Compression != is {
		return nil, refuse("compression", sourceName(s), "it is %s, and its media type %s says %s (M07)",
			compressionText(is), quote(s.Descriptor.MediaType), compressionText(s.Compression))
	}
	switch is {
	case "gzip":
		r, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, notCompressed(s, err, blob)
		}
		return &expanded{ReadCloser: r, s: s, blob: blob}, nil
	case "zstd":
		r, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, notCompressed(s, err, blob)
		}
		return &expanded{ReadCloser: r.IOReadCloser(), s: s, blob: blob}, nil
	}
	return io.NopCloser(buffered), nil
}

func compressionText(c string) string {
	if c == "" {
		return "not compressed"
	}
	return c
}

// notCompressed is a judgement about content; what ended the layer itself is
// found when it is drained.
func notCompressed(s Source, err error, blob *blobReader) error {
	if fault := blob.fault(); fault != nil {
		return fault
	}
	return refuse("compression", sourceName(s), "it is compressed in a way that cannot be read: %s", reason(err))
}

// expanded bounds what a compressed layer may become.
type expanded struct {
	io.ReadCloser
	s    Source
	blob *blobReader
	n    int64
}

func (e *expanded) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	e.n += int64(n)
	if e.n > ratioSlack && e.n > maxRatio*e.blob.n.Load() {
		return 0, refuse("compression-ratio", sourceName(e.s), "it becomes more than %d times as large (T08)", maxRatio)
	}
	if err != nil && err != io.EOF {
		return n, notCompressed(e.s, err, e.blob)
	}
	return n, err
}

// A contentReader is the uncompressed content of a layer, hashed if somebody
// said what it is.
type contentReader struct {
	r    io.Reader
	name string
	want digest.Digest
	hash hash.Hash // nil: nobody did
}

func (c *contentReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.hash != nil {
		c.hash.Write(p[:n])
	}
	return n, err
}

// end wants nothing but zeros behind what was read, and the digest (T07, T09).
func (c *contentReader) end() error {
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Read(buf)
		if slices.ContainsFunc(buf[:n], func(b byte) bool { return b != 0 }) {
			return refuse("trailing-data", c.name, "there are bytes behind its end, which other readers may take for more files (T07)")
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if c.hash == nil {
		return nil
	}
	if got := "sha256:" + hex.EncodeToString(c.hash.Sum(nil)); got != c.want.String() {
		return refuse("diff-id", c.name, "its content has digest %s, and is said to be %s (T09)", got, c.want)
	}
	return nil
}

type sumReader struct {
	r    io.Reader
	hash hash.Hash
	n    int64
}

func (s *sumReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.hash.Write(p[:n])
	s.n += int64(n)
	return n, err
}

// WriteTo copies in pieces that are worth hashing.
func (s *sumReader) WriteTo(w io.Writer) (n int64, err error) {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	for {
		read, err := s.Read(*buf)
		if read > 0 {
			written, werr := w.Write((*buf)[:read])
			n += int64(written)
			if werr != nil {
				return n, werr
			}
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// aheadSize and aheadCount are what is decompressed before it is hashed.
const (
	aheadSize  = 256 << 10
	aheadCount = 4
)

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, aheadSize); return &b }}

// A readAhead reads in a goroutine of its own, so that decompressing and
// hashing each have a processor.
type readAhead struct {
	cancel context.CancelFunc
	full   chan piece
	empty  chan []byte
	done   chan struct{}
	now    piece
	left   []byte
}

type piece struct {
	buf []byte
	n   int
	err error
}

func newReadAhead(ctx context.Context, r io.Reader) *readAhead {
	ctx, cancel := context.WithCancel(ctx)
	a := &readAhead{cancel: cancel, full: make(chan piece, aheadCount), empty: make(chan []byte, aheadCount), done: make(chan struct{})}
	for range aheadCount {
		a.empty <- make([]byte, aheadSize)
	}
	go func() {
		defer close(a.done)
		for {
			var buf []byte
			select {
			case buf = <-a.empty:
			case <-ctx.Done():
				return
			}
			n, err := readFull(r, buf)
			select {
			case a.full <- piece{buf, n, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return a
}

// readFull is io.ReadFull with the reader's own error.
func readFull(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var read int
		read, err = r.Read(buf[n:])
		n += read
	}
	return n, err
}

func (a *readAhead) Read(p []byte) (int, error) {
	for len(a.left) == 0 {
		if a.now.err != nil {
			return 0, a.now.err
		}
		if a.now.buf != nil {
			a.empty <- a.now.buf
			a.now.buf = nil
		}
		select {
		case a.now = <-a.full:
		case <-a.done:
			select {
			case a.now = <-a.full:
			default:
				return 0, context.Canceled
			}
		}
		a.left = a.now.buf[:a.now.n]
	}
	n := copy(p, a.left)
	a.left = a.left[n:]
	return n, nil
}

// stop ends the goroutine and waits for it. A read that hangs ends with the
// context of the fetch.
func (a *readAhead) stop() {
	a.cancel()
	<-a.done
}
