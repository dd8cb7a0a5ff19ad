package modelsig

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

const (
	// maxStagedBase is how much of DIR's name is in that of a staging folder,
	// in bytes, so that the whole stays below the 255 that file systems take.
	maxStagedBase = 150
	// maxStagings is how many names are tried for a new staging folder. The
	// second is only needed if another process takes the first for abandoned.
	maxStagings = 10
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

	// foreign are entries that have names of staging folders, and are none;
	// left are those that are, and that nobody works in.
	foreign, left map[string]bool

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
	d.empty = !slices.ContainsFunc(entries, func(name string) bool { return !d.passes(name) })
	return nil
}

// passes reports whether an entry is a staging folder, and so no content.
func (d *destination) passes(name string) bool { return d.isStaging(name) && !d.foreign[name] }

// undo takes back what a pull that died had begun to move up, whatever it was
// of: the folder is empty again.
func (d *destination) undo(entries []string) error {
	if err := d.lockInside(); err != nil {
		return err
	}
	d.foreign, d.left = map[string]bool{}, map[string]bool{}
	for _, name := range entries {
		if !d.isStaging(name) {
			continue
		}
		s, err := take(d.root, name)
		d.foreign[name], d.left[name] = errors.Is(err, errForeign), err == nil
		if err != nil {
			continue
		}
		if s.resume() == nil {
			err = s.moveBack(d.root)
		}
		s.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// lockInside: only one pull at a time works inside a folder.
func (d *destination) lockInside() (err error) {
	if d.lock == nil {
		d.lock, err = lockFolder(d.root)
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return nil // two pulls find out when they rename
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
	d.unlock()
}

func (d *destination) unlock() {
	if d.lock != nil {
		_ = d.lock.Close() // as a handle is
		d.lock = nil
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
	base := strings.ToValidUTF8(d.base[:min(len(d.base), maxStagedBase)], "")
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
		s, err := take(d.where(), name)
		if err != nil {
			continue
		}
		if err := s.resume(); err == nil {
			return s, nil
		}
		s.close()
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
	if err != nil {
		return // they are found by the next pull
	}
	for _, name := range names {
		if !strings.HasPrefix(name, prefix) || !d.isStaging(name) {
			continue
		}
		if s, err := take(place, name); err == nil {
			_ = s.remove()
		}
	}
}
