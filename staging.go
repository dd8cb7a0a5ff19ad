package modelsig

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

// How a folder comes into being, so that whoever looks at it sees nothing or
// the whole:
//
//	.DIR.modelsig-<16 hex of the digest>-<16 random hex>/   0700: the staging folder
//	    files/                                              what DIR will be
//	    layers/                                             what is in archives that were read
//	    moving                                              names, while they move up into DIR
//	    old/                                                what was in DIR
//
// It stands beside DIR, and files becomes DIR by one rename. Where DIR is there
// already, and is empty or a mount point, the staging folder stands inside, and
// what is in files moves up, name by name. A process that dies leaves the
// staging folder, and the next pull of the same manifest goes on in it.

const (
	// stagedFiles to stagedOld are what a staging folder holds.
	stagedFiles  = "files"
	stagedLayers = "layers"
	stagedMoving = "moving"
	stagedOld    = "old"

	// maxStagedBase is how much of DIR's name is in that of a staging folder,
	// in bytes, so that the whole stays below the 255 that file systems take.
	maxStagedBase = 150
	// maxRecord bounds a list of files in a staging folder, in bytes: as many as
	// a model has, with names of a common length.
	maxRecord = 256 << 20
	// maxStagings is how many names are tried for a new staging folder. The
	// second is only needed if another process takes the first for abandoned.
	maxStagings = 10
	// copyBuffer is a piece of a file, in bytes: large enough that system calls
	// do not count.
	copyBuffer = 256 << 10
	// writeEarly is how much of a file is collected before the disk begins with
	// it, in bytes: enough to keep it busy.
	writeEarly = 16 << 20
	// syncLater is the size below which a file is not synced by itself, in
	// bytes: for it the disk's answer takes longer than its content.
	syncLater = 1 << 20
	// maxSyncs is how many such files are synced one by one at the end. For more
	// the whole file system is, with what others have written to it.
	maxSyncs = 256
)

// errBusy: somebody else is at work in the same place.
var errBusy = errors.New("another pull is at work there")

// A destination is the folder that a pull makes, reached by handle.
type destination struct {
	dir    string   // as the caller named it
	base   string   // its name in parent
	parent *os.Root // the folder that it lies in
	root   *os.Root // nil: it does not exist
	lock   *os.File // held while work goes on inside; nil: none is needed

	empty   bool // but for staging folders of ours
	mounted bool
}

// openDestination looks at what is there. It makes nothing.
func openDestination(dir string) (*destination, error) {
	if dir == "" {
		return nil, errors.New("no folder is named") // it would be the one at hand
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	d := &destination{dir: dir, base: filepath.Base(abs)}
	if filepath.Dir(abs) == abs {
		return nil, fmt.Errorf("folder %q: it is the root of a file system", dir)
	}
	if d.parent, err = os.OpenRoot(filepath.Dir(abs)); err != nil {
		return nil, fmt.Errorf("folder %q: open the folder that it is in: %w", dir, bareError(err))
	}
	if err := d.open(); err != nil {
		d.close()
		return nil, fmt.Errorf("folder %q: %w", dir, err)
	}
	return d, nil
}

func (d *destination) open() error {
	info, err := d.parent.Lstat(d.base)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return bareError(err)
	case info.Mode()&fs.ModeSymlink != 0:
		return errors.New("it is a symbolic link: name the folder that it leads to")
	case !info.IsDir():
		return errors.New("it exists and is not a folder")
	}
	if d.root, err = openSame(d.parent, d.base, info); err != nil {
		return err
	}
	d.mounted = isMountPoint(d.parent, d.root)
	entries, err := listFolder(d.root)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(entries, d.isStaging) {
		if err := d.undo(entries); err != nil {
			return err
		}
		if entries, err = listFolder(d.root); err != nil {
			return err
		}
	}
	d.empty = !slices.ContainsFunc(entries, func(name string) bool { return !d.isStaging(name) })
	return nil
}

// undo takes back what a pull that died had begun to move up, whatever it was
// of: the folder is empty again.
func (d *destination) undo(entries []string) error {
	if err := d.lockInside(); err != nil {
		return err
	}
	for _, name := range entries {
		if !d.isStaging(name) {
			continue
		}
		if s := resume(d.root, name); s != nil {
			err := s.moveBack(d.root)
			s.close()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// lockInside: only one pull at a time works inside a folder.
func (d *destination) lockInside() (err error) {
	if d.lock == nil {
		d.lock, err = lockFolder(d.root)
	}
	return err
}

// openSame opens a folder in root, and wants it to be the one that was looked
// at: os.Root follows links that stay inside.
func openSame(root *os.Root, name string, seen fs.FileInfo) (*os.Root, error) {
	sub, err := root.OpenRoot(name)
	if err != nil {
		return nil, bareError(err)
	}
	info, err := sub.Lstat(".")
	if err == nil && !os.SameFile(info, seen) {
		err = errors.New("it was replaced while it was opened")
	}
	if err != nil {
		sub.Close()
		return nil, bareError(err)
	}
	return sub, nil
}

func listFolder(root *os.Root) ([]string, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, bareError(err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, bareError(err)
	}
	slices.Sort(names)
	return names, nil
}

func (d *destination) close() {
	for _, root := range []*os.Root{d.root, d.parent} {
		if root != nil {
			_ = root.Close() // only handles
		}
	}
	if d.lock != nil {
		_ = d.lock.Close() // and so is the lock
	}
}

// inside reports whether the staging folder has to stand in the folder itself:
// a mount point cannot be renamed, and an empty folder was made for us, maybe
// by somebody who owns the folder around it.
func (d *destination) inside() bool { return d.root != nil && (d.empty || d.mounted) }

// where is the folder that staging folders stand in.
func (d *destination) where() *os.Root {
	if d.inside() {
		return d.root
	}
	return d.parent
}

// prefix is how the names of staging folders begin: for a manifest, or "" for
// any.
func (d *destination) prefix(m digest.Digest) string {
	base := d.base[:min(len(d.base), maxStagedBase)]
	if m == "" {
		return "." + base + ".modelsig-"
	}
	return "." + base + ".modelsig-" + m.Encoded()[:16] + "-"
}

// isStaging reports whether a name is that of a staging folder for d.
func (d *destination) isStaging(name string) bool {
	rest, ok := strings.CutPrefix(name, d.prefix(""))
	if !ok || len(rest) != 33 || rest[16] != '-' {
		return false
	}
	_, err := hex.DecodeString(rest[:16] + rest[17:])
	return err == nil
}

// A staging is a staging folder that is ours alone.
type staging struct {
	place *os.Root // the folder that it stands in
	name  string
	root  *os.Root
	files *os.Root
	lock  *os.File

	// kept are the files that an earlier pull left, and their sizes. They are
	// nothing but bytes that need not be fetched, if their digest says so.
	kept map[string]int64

	mu       sync.Mutex
	layer    map[string]int // of files that were written, by name
	unsynced []string       // small files that were written
}

// stage makes a staging folder for a manifest, or takes one that an earlier
// pull left.
func (d *destination) stage(m digest.Digest) (*staging, error) {
	if d.inside() {
		if err := d.lockInside(); err != nil {
			return nil, fmt.Errorf("folder %q: %w", d.dir, err)
		}
	}
	names, err := listFolder(d.where())
	if err != nil {
		return nil, fmt.Errorf("look for what an earlier pull left of %q: %w", d.dir, err)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, d.prefix(m)) || !d.isStaging(name) {
			continue
		}
		if s := resume(d.where(), name); s != nil {
			return s, nil
		}
	}
	for range maxStagings {
		s, err := newStaging(d.where(), d.prefix(m))
		if errors.Is(err, errBusy) {
			continue
		}
		return s, err
	}
	return nil, fmt.Errorf("make a folder for %q: %w", d.dir, errBusy)
}

func newStaging(place *os.Root, prefix string) (*staging, error) {
	random := make([]byte, 8)
	rand.Read(random) // never fails
	s := &staging{place: place, name: prefix + hex.EncodeToString(random)}
	if err := place.Mkdir(s.name, 0o700); err != nil {
		return nil, fmt.Errorf("make folder %s: %w", strconv.Quote(s.name), bareError(err))
	}
	err := s.open()
	if errors.Is(err, errBusy) || errors.Is(err, fs.ErrNotExist) {
		s.close()
		return nil, errBusy // it was taken for abandoned, and is another's now
	}
	if err == nil {
		err = s.openFiles()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open folder %s: %w", strconv.Quote(s.name), bareError(err)), s.remove())
	}
	return s, nil
}

// open opens and locks the staging folder.
func (s *staging) open() error {
	info, err := s.place.Lstat(s.name)
	if err != nil {
		return err
	}
	if !isPrivate(info) {
		return errors.New("it is not ours alone")
	}
	if s.root, err = openSame(s.place, s.name, info); err != nil {
		return err
	}
	if s.lock, err = lockFolder(s.root); err != nil {
		return err
	}
	// Whoever held the lock before may have used the folder up.
	now, err := s.place.Lstat(s.name)
	if err == nil && !os.SameFile(now, info) {
		err = errBusy
	}
	return err
}

// openFiles opens files, which is not there yet, or not any more, where the
// pull that made the folder died in its first or last step.
func (s *staging) openFiles() error {
	if err := s.root.Mkdir(stagedFiles, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := s.root.Lstat(stagedFiles)
	if err != nil {
		return err
	}
	if !isOwnFolder(info) {
		return errors.New("files is no folder of ours")
	}
	s.files, err = openSame(s.root, stagedFiles, info)
	return err
}

// resume takes a staging folder that was left behind; nil: it is in use, or
// not what a pull leaves. Nothing in it is believed: that it is ours says that
// nobody else can change it while we work.
func resume(place *os.Root, name string) *staging {
	if !hasLocks {
		return nil
	}
	s := &staging{place: place, name: name}
	err := s.open()
	if err == nil {
		err = s.openFiles()
	}
	if err == nil {
		err = s.walk()
	}
	if err != nil {
		s.close()
		return nil
	}
	return s
}

// walk lists what was kept: regular files with one name, in folders, all ours.
func (s *staging) walk() error {
	s.kept = map[string]int64{}
	return fs.WalkDir(s.files.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := s.files.Lstat(filepath.FromSlash(name))
		switch {
		case err != nil:
			return err
		case info.IsDir() && isOwnFolder(info):
			return nil
		case !isOwnFile(info):
			return fmt.Errorf("%s is no file of ours", strconv.Quote(name))
		case len(s.kept) == manifest.MaxResources:
			return fmt.Errorf("more than %d files", manifest.MaxResources)
		}
		s.kept[name] = info.Size()
		return nil
	})
}

// keep removes all that was kept but the named files, so that nothing stands
// in the way of what will be written, or is left over beside it.
func (s *staging) keep(names map[string]bool) error {
	for name := range s.kept {
		if names[name] {
			continue
		}
		if err := s.files.Remove(filepath.FromSlash(name)); err != nil {
			return bareError(err)
		}
		delete(s.kept, name)
	}
	folders, err := s.folders()
	if err != nil {
		return err
	}
	for _, folder := range slices.Backward(folders[1:]) {
		_ = s.files.Remove(folder) // which it is not if something is in it
	}
	return nil
}

// folders are those in files, "." first, each before those in it.
func (s *staging) folders() ([]string, error) {
	var folders []string
	err := fs.WalkDir(s.files.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			folders = append(folders, filepath.FromSlash(name))
		}
		return err
	})
	return folders, err
}

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

// sync makes what is not synced yet last, and the folders.
func (s *staging) sync() error {
	if len(s.unsynced) > maxSyncs {
		if err := syncFileSystem(s.files); !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	for _, name := range s.unsynced {
		f, err := s.files.OpenFile(filepath.FromSlash(name), os.O_RDWR, 0)
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err != nil {
			return fmt.Errorf("sync %s: %w", strconv.Quote(name), bareError(err))
		}
	}
	folders, err := s.folders()
	if err != nil {
		return bareError(err)
	}
	slices.Reverse(folders)
	for _, folder := range folders {
		if err := syncFolder(s.files, folder); err != nil {
			return err
		}
	}
	return syncFolder(s.root, ".")
}

func syncFolder(root *os.Root, name string) error {
	f, err := root.Open(name)
	if err != nil {
		return bareError(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !isNoSync(err) {
		return fmt.Errorf("sync a folder: %w", bareError(err))
	}
	return nil
}

// ErrOccupied is wrapped by errors of [Client.Pull] about a folder that is there
// and is not the model.
var ErrOccupied = errors.New("the folder exists, and is not this model")

// publish makes what was staged visible.
func (s *staging) publish(d *destination, overwrite bool, step func(string)) error {
	switch {
	case d.inside():
		if err := s.moveUp(d, overwrite, step); err != nil {
			return err
		}
		return syncFolder(d.root, ".")
	case overwrite && d.root != nil:
		if err := s.exchange(d); err != nil {
			return err
		}
	default:
		err := renameNew(s.root, stagedFiles, d.parent, d.base)
		if errors.Is(err, fs.ErrExist) {
			return ErrOccupied
		}
		if err != nil {
			return bareError(err)
		}
	}
	return syncFolder(d.parent, ".")
}

// exchange puts the new folder in the place of the old one, which is left in
// the staging folder.
func (s *staging) exchange(d *destination) error {
	err := renameExchange(s.root, stagedFiles, d.parent, d.base)
	if errors.Is(err, errors.ErrUnsupported) {
		if err = d.parent.Rename(d.base, path.Join(s.name, stagedOld)); err == nil {
			err = renameNew(s.root, stagedFiles, d.parent, d.base)
		}
	}
	return bareError(err)
}

// moveUp moves what was staged into the folder around it, one entry of the top
// after the other. Each is whole and compared.
func (s *staging) moveUp(d *destination, overwrite bool, step func(string)) error {
	names, err := listFolder(s.files)
	if err != nil {
		return err
	}
	there, err := listFolder(d.root)
	if err != nil {
		return err
	}
	there = slices.DeleteFunc(there, d.isStaging)
	if len(there) > 0 {
		if !overwrite {
			return ErrOccupied
		}
		return s.replace(d, names, there, step)
	}
	if err := s.recordMove(names); err != nil {
		return err
	}
	var failed error
	for i, name := range names {
		step("move " + name)
		if failed = renameNew(s.files, name, d.root, name); failed == nil {
			continue
		}
		for _, moved := range names[:i] { // all, or nothing
			if err := renameNew(d.root, moved, s.files, moved); err != nil {
				return fmt.Errorf("take back %s: %w", strconv.Quote(moved), bareError(err))
			}
		}
		break
	}
	if errors.Is(failed, fs.ErrExist) {
		failed = ErrOccupied
	}
	return errors.Join(bareError(failed), bareError(s.root.Remove(stagedMoving)))
}

// replace is moveUp into a folder that has something in it. It is no single
// step: a mount point cannot be exchanged.
func (s *staging) replace(d *destination, names, there []string, step func(string)) error {
	for _, name := range names {
		step("move " + name)
		var err error
		if slices.Contains(there, name) {
			err = renameExchange(s.files, name, d.root, name)
			if errors.Is(err, errors.ErrUnsupported) {
				if err = d.root.RemoveAll(name); err == nil {
					err = renameNew(s.files, name, d.root, name)
				}
			}
		} else {
			err = renameNew(s.files, name, d.root, name)
		}
		if err != nil {
			return fmt.Errorf("replace %s: %w", strconv.Quote(name), bareError(err))
		}
	}
	if err := s.root.Mkdir(stagedOld, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return bareError(err)
	}
	for _, name := range there {
		if slices.Contains(names, name) {
			continue
		}
		if err := d.root.Rename(name, path.Join(s.name, stagedOld, name)); err != nil {
			return fmt.Errorf("remove %s: %w", strconv.Quote(name), bareError(err))
		}
	}
	return nil
}

// recordMove writes down what is about to move, so that the next pull can tell
// it from what others put there.
func (s *staging) recordMove(names []string) error {
	f, err := s.root.OpenFile(stagedMoving, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return bareError(err)
	}
	// A name has no control characters (threat N07).
	_, err = f.WriteString(strings.Join(names, "\n"))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write down what moves: %w", bareError(err))
	}
	return syncFolder(s.root, ".")
}

// moveBack undoes a move into root that did not come to its end: what moved up
// is no more than kept bytes again.
func (s *staging) moveBack(root *os.Root) error {
	f, err := s.root.Open(stagedMoving)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return bareError(err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err = errors.Join(err, f.Close()); err != nil {
		return bareError(err)
	}
	left, err := listFolder(s.files)
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(string(data), "\n") {
		switch {
		case len(left) == 0: // it came to its end
		case manifest.CheckName(name) != nil, strings.Contains(name, "/"): // we did not write that
		case slices.Contains(left, name):
		default:
			if err := renameNew(root, name, s.files, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("take back %s, which an interrupted pull moved: %w", strconv.Quote(name), bareError(err))
			}
		}
	}
	return bareError(s.root.Remove(stagedMoving))
}

// size is how many bytes of files there are.
func (s *staging) size() (int64, error) {
	var n int64
	err := fs.WalkDir(s.files.FS(), ".", func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}

// remove removes the staging folder and what is left in it.
func (s *staging) remove() error {
	err := s.place.RemoveAll(s.name)
	s.close()
	return bareError(err)
}

func (s *staging) close() {
	for _, root := range []*os.Root{s.files, s.root} {
		if root != nil {
			_ = root.Close() // only handles
		}
	}
	if s.lock != nil {
		_ = s.lock.Close() // and so is the lock
	}
}

// sweep removes what earlier pulls left and nobody needs any more: of the same
// manifest, and, inside the folder, of any.
func (d *destination) sweep(m digest.Digest) {
	d.sweepIn(d.parent, d.prefix(m))
	if d.root != nil {
		d.sweepIn(d.root, d.prefix(""))
	}
}

// sweepIn leaves alone what is in use, or not ours.
func (d *destination) sweepIn(place *os.Root, prefix string) {
	names, err := listFolder(place)
	if err != nil || !hasLocks {
		return // they are found by the next pull
	}
	for _, name := range names {
		if !strings.HasPrefix(name, prefix) || !d.isStaging(name) {
			continue
		}
		s := &staging{place: place, name: name}
		if s.open() == nil {
			_ = s.remove()
			continue
		}
		s.close()
	}
}
