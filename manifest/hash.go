package manifest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	// readSize is how much is read at once. Smaller reads cost more calls on
	// network file systems; larger ones fall out of the processor's cache.
	readSize = 1 << 20

	// maxJobs bounds the buffers, one a job, to 64 MiB whatever the machine.
	maxJobs = 64
)

// A Hasher turns files into resources. The zero value is ready, and may be
// used by several goroutines at once.
type Hasher struct {
	// Jobs is how many files are read at the same time, at most 64.
	// 0: one a processor.
	Jobs int

	// Progress is called with each count of bytes read, from several
	// goroutines at once; nil: silent. Bytes whose digest was known are not
	// counted.
	Progress func(n int64)
}

// Hash returns the SHA-256 resources of files, sorted by name. Files that have
// a digest are not opened. The largest are read first, so that none is left to
// be read alone at the end.
//
// The first error stops the others and is returned with the name of the file;
// a file that has more or fewer bytes than its Size is one. ctx is obeyed
// between reads.
func (h *Hasher) Hash(ctx context.Context, files []File) ([]Resource, error) {
	resources := make([]Resource, len(files))
	var todo []int
	for i, f := range files {
		resources[i] = Resource{Name: f.Name, Digest: f.Digest, Algorithm: SHA256}
		switch {
		case f.Digest == nil && f.Open == nil:
			return nil, fmt.Errorf("hash %s: neither digest nor content", quote(f.Name))
		case f.Digest == nil:
			todo = append(todo, i)
		case len(f.Digest) != sha256.Size:
			return nil, fmt.Errorf("hash %s: the digest has %d bytes, not %d", quote(f.Name), len(f.Digest), sha256.Size)
		}
	}
	slices.SortStableFunc(todo, func(a, b int) int { return cmp.Compare(files[b].Size, files[a].Size) })

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var jobs sync.WaitGroup
	for range h.jobs(len(todo)) {
		jobs.Go(func() {
			buf, sum := make([]byte, readSize), sha256.New()
			for ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= len(todo) {
					return
				}
				f := &files[todo[n]]
				digest, err := h.file(ctx, f, sum, buf)
				if err != nil {
					if _, named := errors.AsType[*ThreatError](err); !named {
						err = fmt.Errorf("hash %s: %w", quote(f.Name), err)
					}
					cancel(err) // the first one stays
					return
				}
				resources[todo[n]].Digest = digest
			}
		})
	}
	jobs.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	slices.SortFunc(resources, func(a, b Resource) int { return strings.Compare(a.Name, b.Name) })
	return resources, nil
}

func (h *Hasher) jobs(files int) int {
	jobs := h.Jobs
	if jobs <= 0 {
		jobs = runtime.GOMAXPROCS(0)
	}
	return min(jobs, maxJobs, files)
}

// file hashes one file with sum, through buf.
func (h *Hasher) file(ctx context.Context, f *File, sum hash.Hash, buf []byte) (digest []byte, err error) {
	content, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer content.Close()
	sum.Reset()
	var size int64
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := content.Read(buf)
		if err != nil && err != io.EOF {
			return nil, err
		}
		if size += int64(n); size > f.Size || err == io.EOF && size < f.Size {
			return nil, fmt.Errorf("read %d bytes, but its size is %d", size, f.Size)
		}
		sum.Write(buf[:n])
		if n > 0 && h.Progress != nil {
			h.Progress(int64(n))
		}
		if err == io.EOF {
			return sum.Sum(nil), nil
		}
	}
}
