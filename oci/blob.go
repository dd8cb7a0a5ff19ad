package oci

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"math"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A verifiedReader reads a blob and ends in io.EOF only if size, digest and
// end of stream are right, in this order.
type verifiedReader struct {
	rc   io.ReadCloser
	desc ocispec.Descriptor
	hash hash.Hash
	n    int64
	err  error // sticky
}

func newVerifiedReader(rc io.ReadCloser, desc ocispec.Descriptor) *verifiedReader {
	return &verifiedReader{rc: rc, desc: desc, hash: sha256.New()}
}

func (r *verifiedReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	left := r.desc.Size - r.n
	if r.desc.Size < 0 {
		left = math.MaxInt64
	}
	if left == 0 {
		r.err = r.end()
		return 0, r.err
	}
	if int64(len(p)) > left {
		p = p[:left]
	}
	n, err := r.rc.Read(p)
	r.hash.Write(p[:n])
	r.n += int64(n)
	switch {
	case err == io.EOF && (r.n == r.desc.Size || r.desc.Size < 0):
		r.err = r.check()
	case err == io.EOF:
		r.err = fmt.Errorf("blob %s ends after %d of %d bytes: %w", r.desc.Digest, r.n, r.desc.Size, io.ErrUnexpectedEOF)
	case err != nil:
		r.err = fmt.Errorf("blob %s: %w", r.desc.Digest, err)
	}
	return n, r.err
}

// end wants the end of the stream: one more byte is one too many (M03).
func (r *verifiedReader) end() error {
	n, err := io.ReadFull(r.rc, make([]byte, 1))
	switch {
	case n > 0:
		return refuse("size-mismatch", r.desc.Digest.String(), "the blob is longer than %d bytes", r.desc.Size)
	case err != io.EOF:
		return fmt.Errorf("blob %s: %w", r.desc.Digest, err)
	}
	return r.check()
}

func (r *verifiedReader) check() error {
	if got := "sha256:" + hex.EncodeToString(r.hash.Sum(nil)); got != r.desc.Digest.String() {
		return refuse("digest-mismatch", r.desc.Digest.String(), "the blob that came has digest %s", got)
	}
	return io.EOF
}

func (r *verifiedReader) Close() error { return r.rc.Close() }

// checkDescriptor wants what every later step relies on: a sha256 digest (M01,
// M02, rule 31) and a size that is one (M03). what names the descriptor.
func checkDescriptor(desc ocispec.Descriptor, what string) error {
	if err := checkDigest(desc.Digest.String()); err != nil {
		code := "digest-format"
		if algorithm, _, _ := strings.Cut(desc.Digest.String(), ":"); algorithm != "sha256" && digestAlgorithms[algorithm] {
			code = "digest-algorithm"
		}
		return refuse(code, what, "%s", reason(err))
	}
	if desc.Size < 0 {
		return refuse("negative-size", what, "size is %d", desc.Size)
	}
	return nil
}
