package manifest

import (
	"cmp"
	"context"
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
	readSize = 512 << 10

	// readAhead is how many buffers a job has: one is hashed while the next is
	// read.
	readAhead = 2

	// maxJobs bounds the buffers to 64 MiB whatever the machine.
	maxJobs = 64

	// smallFile is up to which size files are taken in order of name, and not
	// by size: their folder is more than their content.
	smallFile = 1 << 20
)

// A Hasher turns files into resources. The zero value is ready, and may be
// used by several goroutines at once.
type Hasher struct {
	// Hashing is the hash, and whether files are cut into shards.
	Hashing

	// Jobs is how many files or shards are read at the same time, at most 64.
	// 0: one a processor.
	Jobs int

	// Progress is called with each count of bytes read, from several
	// goroutines at once; nil: silent. Bytes whose digest was known are not
	// counted.
	Progress func(n int64)

	// Pointers is called for each file that is a Git LFS pointer, the few
	// lines that stand for content which was not fetched, with a threat of the
	// code [LFSPointer]; from several goroutines at once. What it returns is the
	// error of the whole; nil goes on. It is judged by the bytes that are hashed,
	// and so not where a digest is known. nil: pointers are files like others.
	Pointers func(*ThreatError) error
}

// Hash returns the resources of files, sorted by name. Files that have a
// digest are not opened where whole files are hashed with SHA-256; the others
// are. Under shards, each file gives one resource a shard, named
// "name:start:end" (OMS §6.3.2), and an empty file gives none: see
// [CheckShards].
//
// The largest files are read first, so that none is left to be read alone at
// the end. A job reads ahead of what it hashes. The shards of one file are
// spread over the jobs if its content is an [io.ReaderAt]. Memory is at most
// 1 MiB a job, and what the resources need.
//
// The first error stops the others and is returned with the name of the file;
// a file that has more or fewer bytes than its Size is one. ctx is obeyed
// between reads.
func (h *Hasher) Hash(ctx context.Context, files []File) ([]Resource, error) {
	resources, tasks, err := h.plan(files)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var jobs sync.WaitGroup
	for range h.jobs(len(tasks)) {
		jobs.Go(func() {
			w := &worker{hasher: h, sum: newHash(h.hashType()), resources: resources}
			for ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= len(tasks) {
					return
				}
				t := &tasks[n]
				if err := w.do(ctx, t); err != nil {
					if _, named := errors.AsType[*ThreatError](err); !named {
						err = fmt.Errorf("hash %s: %w", quote(t.file.Name), err)
					}
					cancel(err) // the first one stays
					return
				}
			}
		})
	}
	jobs.Wait()
	// After an error, parts of a file may be left that nobody takes.
	for i := range tasks {
		if s := tasks[i].shared; s != nil {
			s.close()
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	slices.SortFunc(resources, func(a, b Resource) int { return strings.Compare(a.Name, b.Name) })
	return resources, nil
}

func (h *Hasher) jobs(tasks int) int {
	jobs := h.Jobs
	if jobs <= 0 {
		jobs = runtime.GOMAXPROCS(0)
	}
	return min(jobs, maxJobs, tasks)
}

// A task is what one worker does at a time: a file, or one shard of a file
// that is larger than a buffer.
type task struct {
	file   *File
	shared *shared // nil: all of the file
	start  int64   // of the shard
	first  int     // the index of its resource, or of the first
}

// plan makes room for the resources, in the order in which they are made, and
// says who makes them.
func (h *Hasher) plan(files []File) ([]Resource, []task, error) {
	if err := h.check(); err != nil {
		return nil, nil, err
	}
	size, _ := digestSize(h.hashType())
	order := make([]int, len(files))
	for i := range files {
		f := &files[i]
		order[i] = i
		switch {
		case f.Size < 0:
			return nil, nil, fmt.Errorf("hash %s: its size is %d", quote(f.Name), f.Size)
		case f.Open == nil && f.Digest == nil:
			return nil, nil, fmt.Errorf("hash %s: neither digest nor content", quote(f.Name))
		case f.Open == nil && !h.isDefault():
			return nil, nil, fmt.Errorf("hash %s: only its sha256 is known, not its content", quote(f.Name))
		case f.Digest != nil && h.isDefault() && len(f.Digest) != size:
			return nil, nil, fmt.Errorf("hash %s: the digest has %d bytes, not %d", quote(f.Name), len(f.Digest), size)
		}
	}
	large := func(f *File) int64 {
		if f.Size <= smallFile {
			return 0
		}
		return f.Size
	}
	slices.SortFunc(order, func(a, b int) int {
		fa, fb := &files[a], &files[b]
		return cmp.Or(cmp.Compare(large(fb), large(fa)), comparePaths(fa.Name, fb.Name), cmp.Compare(a, b))
	})
	n, err := h.countResources(files)
	if err != nil {
		return nil, nil, err
	}
	resources := make([]Resource, 0, n)
	digests := make([]byte, n*size) // one piece of memory for all
	var tasks []task
	for _, i := range order {
		f := &files[i]
		first := len(resources)
		if h.isDefault() && f.Digest != nil {
			resources = append(resources, Resource{Name: f.Name, Digest: f.Digest, Algorithm: SHA256})
			continue
		}
		for shard := range h.countShards(f.Size) {
			name := f.Name
			if h.ShardSize > 0 {
				start := shard * h.ShardSize
				name = shardName(name, start, h.end(f, start))
			}
			at := len(resources) * size
			resources = append(resources, Resource{Name: name, Digest: digests[at : at+size : at+size], Algorithm: h.hashType()})
		}
		switch shards := len(resources) - first; {
		case shards > 1 && f.Size > readSize:
			s := &shared{file: f}
			s.left.Store(int64(shards))
			for i := range shards {
				tasks = append(tasks, task{f, s, int64(i) * h.ShardSize, first + i})
			}
		case shards > 0:
			tasks = append(tasks, task{file: f, first: first})
		}
	}
	return resources, tasks, nil
}

// end is where the shard from start ends, and a whole file.
func (h *Hasher) end(f *File, start int64) int64 {
	if h.ShardSize == 0 || f.Size-start < h.ShardSize {
		return f.Size
	}
	return start + h.ShardSize
}

// A shared is a file whose shards are hashed by several workers: it is opened
// once.
type shared struct {
	file *File
	left atomic.Int64 // shards that are not done

	mu       sync.Mutex
	content  io.ReadCloser
	at       io.ReaderAt // nil: the content has to be read in order
	streamed bool        // somebody does
}

// open returns the content to read a shard from, or to read all of it in
// order; neither if another worker reads it all.
func (s *shared) open() (at io.ReaderAt, all io.Reader, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.content == nil && !s.streamed {
		if s.content, err = s.file.Open(); err != nil {
			s.content = nil
			return nil, nil, err
		}
		s.at, _ = s.content.(io.ReaderAt)
	}
	if s.at == nil && !s.streamed {
		s.streamed = true
		return nil, s.content, nil
	}
	return s.at, nil, nil
}

// close may be called when no worker uses the content any more.
func (s *shared) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.content != nil {
		s.content.Close()
		s.content, s.streamed = nil, true
	}
}

// A worker does one task after the other, with buffers of its own.
type worker struct {
	hasher    *Hasher
	sum       hash.Hash
	resources []Resource // of all workers
	buffers   [readAhead][]byte
}

func (w *worker) do(ctx context.Context, t *task) error {
	if t.shared == nil {
		content, err := t.file.Open()
		if err != nil {
			return err
		}
		defer content.Close()
		return w.all(ctx, t.file, t.first, content)
	}
	at, all, err := t.shared.open()
	switch {
	case err != nil:
		return err
	case at != nil:
		err = w.shard(ctx, t, at)
	case all != nil:
		shard := int(t.start / w.hasher.ShardSize)
		err = w.all(ctx, t.file, t.first-shard, all)
	}
	if err != nil || t.shared.left.Add(-1) > 0 {
		return err
	}
	if at != nil {
		err = atEnd(t.file, at)
	}
	t.shared.close()
	return err
}

// shard hashes one shard of a file.
func (w *worker) shard(ctx context.Context, t *task, at io.ReaderAt) error {
	end := w.hasher.end(t.file, t.start)
	read := t.start
	next := func(b []byte) (int, error) {
		b = b[:min(int64(len(b)), end-read)]
		n, err := at.ReadAt(b, read)
		read += int64(n)
		switch {
		case n < len(b) && err == io.EOF:
			return n, errSize(t.file, read)
		case n < len(b):
			return n, err
		case read == end:
			return n, io.EOF
		}
		return n, nil
	}
	w.sum.Reset()
	err := w.pump(ctx, end-t.start, next, func(b []byte) error {
		w.sum.Write(b)
		return nil
	})
	if err != nil {
		return err
	}
	w.result(t.first)
	return nil
}

// atEnd makes sure that a file of which all shards were read has no more.
func atEnd(f *File, at io.ReaderAt) error {
	var more [1]byte
	n, err := at.ReadAt(more[:], f.Size)
	switch {
	case err != nil && err != io.EOF:
		return err
	case n > 0:
		return errSize(f, f.Size+1)
	case err == nil:
		return io.ErrNoProgress
	}
	return nil
}

// all hashes all of a file, whose first resource is the one named.
func (w *worker) all(ctx context.Context, f *File, resource int, content io.Reader) error {
	var size int64
	end := w.hasher.end(f, 0)
	var head []byte // of what may be a pointer
	mayPoint := w.hasher.Pointers != nil && f.Size <= maxPointer
	w.sum.Reset()
	err := w.pump(ctx, f.Size, func(b []byte) (int, error) { return fill(ctx, content, b) }, func(b []byte) error {
		if size+int64(len(b)) > f.Size {
			return errSize(f, size+int64(len(b)))
		}
		if mayPoint {
			head = append(head, b...)
		}
		for size+int64(len(b)) > end {
			n := end - size
			w.sum.Write(b[:n])
			w.result(resource)
			w.sum.Reset()
			size, b, resource = end, b[n:], resource+1
			end = w.hasher.end(f, end)
		}
		w.sum.Write(b)
		size += int64(len(b))
		return nil
	})
	if err == nil && size < f.Size {
		err = errSize(f, size)
	}
	if err == nil && mayPoint && isPointer(head) {
		err = w.hasher.Pointers(pointerThreat(f.Name))
	}
	if err != nil {
		return err
	}
	w.result(resource)
	return nil
}

func errSize(f *File, size int64) error {
	return fmt.Errorf("read %d bytes, but its size is %d", size, f.Size)
}

// result keeps the digest of what was hashed.
func (w *worker) result(resource int) { w.sum.Sum(w.resources[resource].Digest[:0]) }

// pump reads until next returns io.EOF, and hands each piece to use: the next
// piece is read at the same time if there may be one. size is how much is
// expected.
func (w *worker) pump(ctx context.Context, size int64, next func([]byte) (int, error), use func([]byte) error) error {
	step := func(b []byte, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && err != io.EOF {
			return err
		}
		if failed := use(b); failed != nil {
			return failed
		}
		if len(b) > 0 && w.hasher.Progress != nil {
			w.hasher.Progress(int64(len(b)))
		}
		return err
	}
	var err error
	if size < readSize {
		for err == nil {
			n, failed := next(w.buffer(0))
			err = step(w.buffer(0)[:n], failed)
		}
	} else {
		err = w.overlap(next, step)
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// overlap reads and uses at the same time, until one of both ends it.
func (w *worker) overlap(next func([]byte) (int, error), step func([]byte, error) error) error {
	type piece struct {
		b   []byte
		err error
	}
	free, full := make(chan []byte, readAhead), make(chan piece, readAhead)
	for i := range w.buffers {
		free <- w.buffer(i)
	}
	go func() {
		defer close(full)
		for b := range free {
			n, err := next(b)
			full <- piece{b[:n], err}
			if err != nil {
				return
			}
		}
	}()
	var err error
	for p := range full {
		if err != nil {
			continue // what was read ahead of an error
		}
		if err = step(p.b, p.err); err != nil {
			close(free)
		} else {
			free <- p.b[:cap(p.b)]
		}
	}
	return err
}

func (w *worker) buffer(i int) []byte {
	if w.buffers[i] == nil {
		w.buffers[i] = make([]byte, readSize)
	}
	return w.buffers[i]
}

// fill reads until b is full or the content ends.
func fill(ctx context.Context, content io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil && ctx.Err() == nil {
		var more int
		more, err = content.Read(b[n:])
		n += more
	}
	return n, err
}
