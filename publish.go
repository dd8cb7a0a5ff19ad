package modelsig

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/modelsig/modelsig/manifest"
)

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
	old := stagedFiles
	err := renameExchange(s.root, stagedFiles, d.parent, d.base)
	back := func() error { return renameExchange(s.root, stagedFiles, d.parent, d.base) }
	if errors.Is(err, errors.ErrUnsupported) {
		old = stagedOld
		err = renameNew(d.parent, d.base, s.root, stagedOld)
		back = func() error { return renameNew(s.root, stagedOld, d.parent, d.base) }
	}
	if err != nil {
		return bareError(err)
	}
	// What came out will be removed: it has to be what the caller named, and not
	// what somebody gave that name meanwhile.
	was, err := d.root.Lstat(".")
	if err != nil {
		return errors.Join(bareError(err), bareError(back()))
	}
	if now, err := s.root.Lstat(old); err != nil || !os.SameFile(was, now) {
		return errors.Join(errors.New("another folder has its name by now, and is left as it is"), bareError(back()))
	}
	if old == stagedOld {
		if err := renameNew(s.root, stagedFiles, d.parent, d.base); err != nil {
			return errors.Join(bareError(err), bareError(back()))
		}
	}
	return nil
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
	there = slices.DeleteFunc(there, d.passes)
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
		if contains(there, name) {
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
		if contains(names, name) {
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
		case contains(left, name):
		default:
			if err := renameNew(root, name, s.files, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("take back %s, which an interrupted pull moved: %w", strconv.Quote(name), bareError(err))
			}
		}
	}
	return bareError(s.root.Remove(stagedMoving))
}

// contains looks a name up in a list that is sorted, as listFolder returns it.
func contains(names []string, name string) bool {
	_, ok := slices.BinarySearch(names, name)
	return ok
}
