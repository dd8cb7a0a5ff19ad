package modelsig

import (
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

	"github.com/modelsig/modelsig/manifest"
)

// ErrOccupied is wrapped by errors of [Client.Pull] about a folder that is there
// and is not the model.
var ErrOccupied = errors.New("the folder exists, and is not this model")

// publish makes what was staged visible.
func (s *staging) publish(d *destination, overwrite bool, step func(string)) error {
	if overwrite {
		if err := d.nothingMounted(); err != nil {
			return err
		}
	}
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
	moves, err := s.recordMove(names)
	if err != nil {
		return err
	}
	var failed error
	for i, name := range names {
		step("move " + name)
		if failed = renameNew(s.files, name, d.root, name); failed == nil {
			continue
		}
		for _, moved := range moves[:i] { // all, or nothing
			if err := s.takeBack(d.root, moved); err != nil {
				return err
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
				if err = removeTree(d.root, name); err == nil {
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

// A move is an entry of the top level that is about to move up, and what it is,
// as [identity] says.
type move struct{ Name, Identity string }

// recordMove writes down what is about to move, so that the next pull can tell
// it from what others put there.
func (s *staging) recordMove(names []string) ([]move, error) {
	moves := make([]move, len(names))
	for i, name := range names {
		id, err := identity(s.files, name)
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", strconv.Quote(name), bareError(err))
		}
		moves[i] = move{name, id}
	}
	data, err := json.Marshal(moves)
	if err != nil {
		return nil, err
	}
	f, err := s.root.OpenFile(stagedMoving, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, bareError(err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, fmt.Errorf("write down what moves: %w", bareError(err))
	}
	return moves, syncFolder(s.root, ".")
}

// identity is what name in root is: a file or a folder with all below it. Two
// are equal only if they are the same files, and nobody wrote to them: a number
// of a file that was removed is given to the next one, so that size and time
// count as well. It is "" where files have no numbers: there only the pull that
// moved something takes it back.
func identity(root *os.Root, name string) (string, error) {
	h := sha256.New()
	err := fs.WalkDir(root.FS(), name, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := root.Lstat(filepath.FromSlash(name))
		if err != nil {
			return err
		}
		number, ok := fileNumber(info)
		if !ok {
			return errors.ErrUnsupported
		}
		if info.IsDir() { // its size and time are the file system's own matter
			fmt.Fprintf(h, "%q folder %d\n", name, number)
			return nil
		}
		fmt.Fprintf(h, "%q %v %d %d %d\n", name, info.Mode().Type(), number, info.Size(), info.ModTime().UnixNano())
		return nil
	})
	if errors.Is(err, errors.ErrUnsupported) {
		return "", nil
	}
	return hex.EncodeToString(h.Sum(nil)), err
}

// takeBack moves back what moved up into root, if it still is that. Everything
// else stays where it is: somebody put it there.
func (s *staging) takeBack(root *os.Root, m move) error {
	same := func(root *os.Root) bool {
		id, err := identity(root, m.Name)
		return err == nil && id == m.Identity
	}
	if !same(root) {
		return nil
	}
	err := renameNew(root, m.Name, s.files, m.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !same(s.files) { // it changed hands under the rename
		err = renameNew(s.files, m.Name, root, m.Name)
	}
	if err != nil {
		return fmt.Errorf("take back %s, which an interrupted pull moved: %w", strconv.Quote(m.Name), bareError(err))
	}
	return nil
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
	var moves []move
	if len(left) == 0 || json.Unmarshal(data, &moves) != nil {
		moves = nil // it came to its end, or never began
	}
	for _, m := range moves {
		if m.Identity == "" || manifest.CheckName(m.Name) != nil || strings.Contains(m.Name, "/") || contains(left, m.Name) {
			continue // we did not write that, or it did not move
		}
		if err := s.takeBack(root, m); err != nil {
			return err
		}
	}
	return bareError(s.root.Remove(stagedMoving))
}

// contains looks a name up in a list that is sorted, as listFolder returns it.
func contains(names []string, name string) bool {
	_, ok := slices.BinarySearch(names, name)
	return ok
}
