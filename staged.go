package modelsig

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

const (
	// copyBuffer is a piece of a file, in bytes: large enough that system calls
	// do not count.
	copyBuffer = 256 << 10
	// writeEarly is how much of a file is collected before the disk begins with
	// it, in bytes: enough to keep it busy.
	writeEarly = 16 << 20
	// syncLater is the size below which a file is not synced by itself, in
	// bytes: for it the disk's answer takes longer than its content.
	syncLater = 1 << 20
)

// create makes a file that is not there, and the folders on the way.
func (s *staging) create(name string, executable bool) (*os.File, error) {
	local := filepath.FromSlash(name)
	err := s.files.MkdirAll(filepath.Dir(local), 0o755)
	var f *os.File
	if err == nil {
		f, err = s.files.OpenFile(local, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode(executable))
	}
	if isInTheWay(err) {
		return nil, &manifest.ThreatError{Code: "file-and-folder", Name: name, Reason: "another name of the model is in its way on this file system"}
	}
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", strconv.Quote(name), bareError(err))
	}
	return f, nil
}

func fileMode(executable bool) fs.FileMode {
	if executable {
		return 0o755
	}
	return 0o644
}

// write writes a file of an archive. Of two layers that have it, the later one
// counts; whether that is allowed is for [oci.Model.Unpack] to say.
func (s *staging) write(e oci.Entry, executable bool, content io.Reader) error {
	s.mu.Lock()
	before, twice := s.layer[e.Name]
	if twice && before > e.Layer {
		s.mu.Unlock()
		return nil
	}
	s.note(e.Name, e.Layer)
	var err error
	if twice {
		err = s.files.Remove(filepath.FromSlash(e.Name))
	}
	var f *os.File
	if err == nil {
		f, err = s.create(e.Name, executable)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.finish(f, e.Name, copyTo(f, content))
}

// written reports whether a file came from an archive.
func (s *staging) written(name string) bool {
	_, ok := s.layer[name]
	return ok
}

// finish syncs and closes a file that was written.
func (s *staging) finish(f *os.File, name string, err error) error {
	info, statErr := f.Stat()
	switch {
	case err != nil:
	case statErr != nil:
		err = statErr
	case info.Size() < syncLater:
		s.mu.Lock()
		s.unsynced = append(s.unsynced, name)
		s.mu.Unlock()
	default:
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if local, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s %s: %w", local.Op, strconv.Quote(name), local.Err)
	}
	return err
}

// copyTo is io.Copy in large pieces, which are on their way to the disk while
// the next ones come.
func copyTo(f *os.File, r io.Reader) error {
	_, err := io.CopyBuffer(&earlyWriter{f: f}, struct{ io.Reader }{r}, make([]byte, copyBuffer))
	return err
}

// An earlyWriter writes to a file, and has the system begin with the disk.
type earlyWriter struct {
	f    *os.File
	left int64 // bytes that the system was not told of
}

func (w *earlyWriter) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	if w.left += int64(n); w.left >= writeEarly {
		w.left = 0
		beginWriting(w.f)
	}
	return n, err
}

// fetch writes a layer that is one file. What was kept of it is hashed, and
// what comes after is asked for. It returns how many bytes were kept.
func (s *staging) fetch(ctx context.Context, model *oci.Model, desc ocispec.Descriptor, name string, executable bool, progress func(int64)) (int64, error) {
	size, ok := s.kept[name]
	if ok && size <= desc.Size {
		kept, err := s.fetchRest(ctx, model, desc, name, executable, progress)
		if !isThreat(err) {
			return kept, err
		}
		// What was kept is not the beginning of this blob, if it is not the
		// registry that is wrong. From the start the digest tells.
	}
	if ok {
		if err := s.files.Remove(filepath.FromSlash(name)); err != nil {
			return 0, bareError(err)
		}
	}
	content, err := model.Fetch(ctx, desc)
	if err != nil {
		return 0, err
	}
	defer content.Close()
	f, err := s.create(name, executable)
	if err != nil {
		return 0, err
	}
	err = s.finish(f, name, copyTo(f, &countedReader{content, progress}))
	if isThreat(err) {
		// Nothing of it is worth keeping.
		err = errors.Join(err, s.files.Remove(filepath.FromSlash(name)))
	}
	return 0, err
}

func (s *staging) fetchRest(ctx context.Context, model *oci.Model, desc ocispec.Descriptor, name string, executable bool, progress func(int64)) (int64, error) {
	f, err := s.files.OpenFile(filepath.FromSlash(name), os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", strconv.Quote(name), bareError(err))
	}
	var kept int64
	count := func(n int64) {
		kept += n
		progress(n)
	}
	rest, err := model.FetchRest(ctx, desc, &countedReader{&untilDone{ctx, f}, count})
	if err == nil {
		defer rest.Close()
		err = copyTo(f, &countedReader{rest, progress})
	}
	if err == nil {
		err = setMode(f, executable)
	}
	return kept, s.finish(f, name, err)
}

// setMode changes the mode of a kept file where the last pull had another
// choice of --keep-modes.
func setMode(f *os.File, executable bool) error {
	info, err := f.Stat()
	if err != nil || executable == (info.Mode()&0o100 != 0) {
		return err
	}
	return f.Chmod(fileMode(executable))
}

// A record is a file of an archive that was read to its end, and held.
type record struct {
	Name       string
	Size       int64
	Digest     []byte
	Executable bool
}

// record writes down what is in an archive, for the next pull.
func (s *staging) record(layer digest.Digest, files []manifest.File, executable []string) error {
	programs := map[string]bool{}
	for _, name := range executable {
		programs[name] = true
	}
	records := make([]record, len(files))
	for i, f := range files {
		records[i] = record{f.Name, f.Size, f.Digest, programs[f.Name]}
	}
	data, err := json.Marshal(records)
	if err != nil {
		return err
	}
	err = s.root.Mkdir(stagedLayers, 0o700)
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = s.root.WriteFile(path.Join(stagedLayers, layer.Encoded()), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write down what is in %s: %w", layer, bareError(err))
	}
	return nil
}

// recorded returns what an archive holds if an earlier pull read it, and all of
// it is still here: each file is signed, and is hashed again. The list itself
// is nothing but what this user wrote, and is believed in nothing else but which
// layer the files are from.
func (s *staging) recorded(ctx context.Context, layer digest.Digest, signed map[string][]byte) ([]record, bool) {
	name := path.Join(stagedLayers, layer.Encoded())
	info, err := s.root.Lstat(name)
	if err != nil || len(signed) == 0 || !isOwnFile(info) || info.Size() > maxRecord {
		return nil, false
	}
	data, err := s.root.ReadFile(name)
	var records []record
	if err != nil || json.Unmarshal(data, &records) != nil {
		return nil, false
	}
	for _, r := range records {
		if !bytes.Equal(signed[r.Name], r.Digest) || s.holds(ctx, r) != nil {
			return nil, false
		}
	}
	return records, true
}

// errOther: a kept file is not the one that was written down.
var errOther = errors.New("another file")

// holds returns nil if a kept file is the one that was written down.
func (s *staging) holds(ctx context.Context, r record) error {
	if size, ok := s.kept[r.Name]; !ok || size != r.Size {
		return errOther
	}
	f, err := s.files.Open(filepath.FromSlash(r.Name))
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, &untilDone{ctx, f}, make([]byte, copyBuffer)); err != nil {
		return err
	}
	if !bytes.Equal(h.Sum(nil), r.Digest) {
		return errOther
	}
	return nil
}

// adopt counts the files of an archive as written by this pull.
func (s *staging) adopt(layer int, records []record, keepModes bool) error {
	for _, r := range records {
		f, err := s.files.Open(filepath.FromSlash(r.Name))
		if err != nil {
			return bareError(err)
		}
		if err := errors.Join(setMode(f, r.Executable && keepModes), f.Close()); err != nil {
			return bareError(err)
		}
		s.note(r.Name, layer)
	}
	return nil
}

// forget drops what was written down of archives.
func (s *staging) forget() error {
	s.layer = nil
	if err := s.root.RemoveAll(stagedLayers); err != nil {
		return bareError(err)
	}
	return s.walk()
}

// note says which layer a file is from.
func (s *staging) note(name string, layer int) {
	if s.layer == nil {
		s.layer = map[string]int{}
	}
	s.layer[name] = layer
}

// duplicate writes a file once more under another name.
func (s *staging) duplicate(ctx context.Context, from, to string, executable bool, progress func(int64)) error {
	if _, ok := s.kept[to]; ok {
		if err := s.files.Remove(filepath.FromSlash(to)); err != nil {
			return bareError(err)
		}
	}
	source, err := s.files.Open(filepath.FromSlash(from))
	if err != nil {
		return bareError(err)
	}
	defer source.Close()
	f, err := s.create(to, executable)
	if err != nil {
		return err
	}
	return s.finish(f, to, copyTo(f, &countedReader{&untilDone{ctx, source}, progress}))
}

// A countedReader tells how much was read.
type countedReader struct {
	r        io.Reader
	progress func(int64)
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if n > 0 {
		r.progress(int64(n))
	}
	return n, err
}

// untilDone reads a local file until ctx ends.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (r *untilDone) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
