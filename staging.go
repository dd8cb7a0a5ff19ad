package modelsig

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/modelsig/modelsig/manifest"
)

// How a folder comes into being, so that whoever looks at it sees nothing or
// the whole:
//
//	.DIR.modelsig-<16 hex of the digest>-<16 random hex>/   0700: the staging folder
//	    staging                                             the marker: a pull made this folder
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
	// stagedMarker to stagedOld are what a staging folder holds.
	stagedMarker = "staging"
	stagedFiles  = "files"
	stagedLayers = "layers"
	stagedMoving = "moving"
	stagedOld    = "old"

	// maxRecord bounds a list of files in a staging folder, in bytes: as many as
	// a model has, with names of a common length.
	maxRecord = 256 << 20
	// maxSyncs is how many small files are synced one by one at the end. For more
	// the whole file system is, with what others have written to it.
	maxSyncs = 256
)

// errForeign: a folder has the name of a staging folder, and no pull made it.
// Whoever may write to the folder around it can give that name to any other of
// the user's, so that name, owner and mode prove nothing.
var errForeign = errors.New("it is not ours alone")

// errEmpty: a pull may have died before it wrote the marker.
var errEmpty = errors.New("it is empty")

// A staging is a staging folder that is ours alone.
type staging struct {
	place *os.Root // the folder that it stands in
	name  string
	fresh bool // made by this pull
	root  *os.Root
	info  fs.FileInfo // of the folder that root is
	files *os.Root
	lock  *os.File // nil: there are no locks here

	// kept are the files that an earlier pull left, and their sizes. They are
	// nothing but bytes that need not be fetched, if their digest says so.
	kept map[string]int64

	mu       sync.Mutex
	layer    map[string]int // of files that were written, by name
	unsynced []string       // small files that were written
}

func newStaging(place *os.Root, prefix string) (*staging, error) {
	random := make([]byte, 8)
	rand.Read(random) // never fails
	s := &staging{place: place, name: prefix + hex.EncodeToString(random), fresh: true}
	if err := place.Mkdir(s.name, 0o700); err != nil {
		return nil, fmt.Errorf("make folder %s: %w", strconv.Quote(s.name), bareError(err))
	}
	err := s.open()
	if errors.Is(err, errBusy) || errors.Is(err, fs.ErrNotExist) {
		s.close()
		return nil, errBusy // it was taken for abandoned, and is another's now
	}
	if err == nil {
		err = s.mark()
	}
	if err == nil {
		err = s.openFiles()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open folder %s: %w", strconv.Quote(s.name), bareError(err)), s.remove())
	}
	return s, nil
}

// open opens and locks the staging folder. That it is one, [staging.marked] says.
func (s *staging) open() error {
	info, err := s.place.Lstat(s.name)
	if err != nil {
		return err
	}
	if !isPrivate(info) && !(s.fresh && s.sheltered()) {
		return errForeign
	}
	if s.root, err = openSame(s.place, s.name, info); err != nil {
		return err
	}
	s.info = info
	s.lock, err = lockFolder(s.root)
	if err != nil && !(s.fresh && errors.Is(err, errors.ErrUnsupported)) {
		return err
	}
	// Whoever held the lock before may have used the folder up.
	now, err := s.place.Lstat(s.name)
	if err == nil && !os.SameFile(now, info) {
		err = errBusy
	}
	return err
}

// sheltered reports whether nobody can have exchanged the folder that we made:
// some file systems know no owners and modes, so that it does not look like ours.
func (s *staging) sheltered() bool {
	info, err := s.place.Lstat(".")
	return err == nil && info.Mode().Perm()&0o022 == 0
}

// marker is what stands in the marker: with the folder's name, so that it says
// nothing of any other folder.
func (s *staging) marker() string {
	return "modelsig pull works in " + s.name + ", and removes it.\n"
}

// mark writes the marker. What stands in the folder then is ours: nobody else
// can write into it.
func (s *staging) mark() error {
	f, err := s.root.OpenFile(stagedMarker, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(s.marker())
	return errors.Join(err, f.Sync(), f.Close())
}

// marked returns nil if a pull made the folder: its marker is a file that only
// we can have written, and nothing else is there than what a pull writes. Files
// of a model have other modes than the marker, so that none can pass for it.
func (s *staging) marked() error {
	names, err := listFolder(s.root)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return errEmpty
	}
	for _, name := range names {
		if !slices.Contains(stagedNames(), name) {
			return errForeign
		}
	}
	info, err := s.root.Lstat(stagedMarker)
	if errors.Is(err, fs.ErrNotExist) {
		return errForeign
	}
	if err != nil {
		return bareError(err)
	}
	want := s.marker()
	if !isOwnFile(info) || info.Mode() != 0o600 || info.Size() != int64(len(want)) {
		return errForeign
	}
	data, err := s.root.ReadFile(stagedMarker)
	if err == nil && string(data) != want {
		err = errForeign
	}
	return bareError(err)
}

// stagedNames are what a staging folder may hold: the marker last, as it is
// removed, so that what is left of a folder is known until nothing is.
func stagedNames() []string {
	return []string{stagedFiles, stagedLayers, stagedMoving, stagedOld, stagedMarker}
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
	if !s.fresh && !isOwnFolder(info) {
		return errors.New("files is no folder of ours")
	}
	s.files, err = openSame(s.root, stagedFiles, info)
	return err
}

// take opens a staging folder that was left behind. It returns an error where
// the folder is in use, errForeign if it is not what a pull leaves, and errEmpty
// if it may be.
func take(place *os.Root, name string) (*staging, error) {
	if !hasLocks {
		return nil, errors.ErrUnsupported
	}
	s := &staging{place: place, name: name}
	err := s.open()
	if err == nil {
		err = s.marked()
	}
	if errors.Is(err, errEmpty) {
		_ = s.removeEmpty() // of no use to anybody
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// resume makes a staging folder that was taken fit for use. Nothing in it is
// believed: that it is ours says that nobody else can change it while we work.
func (s *staging) resume() error {
	if err := s.openFiles(); err != nil {
		return err
	}
	return s.walk()
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

// remove removes the staging folder and what is left in it: by handle, since
// another folder may have its name by now, and nothing but what pulls write.
func (s *staging) remove() error {
	defer s.close()
	if s.root == nil { // it could not be opened, and nothing was written into it
		return bareError(s.place.Remove(s.name))
	}
	for _, name := range stagedNames() {
		if err := removeTree(s.root, name); err != nil {
			return bareError(err)
		}
	}
	return s.removeEmpty()
}

// removeEmpty removes the folder itself, if nothing is in it.
func (s *staging) removeEmpty() error {
	now, err := s.place.Lstat(s.name)
	if err == nil && !os.SameFile(now, s.info) {
		err = errors.New("another folder has its name by now")
	}
	if err == nil {
		err = s.place.Remove(s.name)
	}
	return bareError(err)
}

// removeTree removes what name is in root, with all below it, and returns the
// first error. Each folder is the one that was looked at, and on the same file
// system.
func removeTree(root *os.Root, name string) error {
	err := root.Remove(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	info, statErr := root.Lstat(name)
	if statErr != nil || !info.IsDir() {
		return err
	}
	sub, err := openSame(root, name, info)
	if err != nil {
		return err
	}
	defer sub.Close()
	if isMounted(root, sub) {
		return fmt.Errorf("%s: %w", strconv.Quote(name), errMounted)
	}
	names, err := listFolder(sub)
	for _, below := range names {
		if failed := removeTree(sub, below); err == nil {
			err = failed
		}
	}
	if err != nil {
		return err
	}
	return root.Remove(name)
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
