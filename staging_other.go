//go:build !linux

package modelsig

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// hasLocks: nothing is resumed or swept, because it may be in use.
const hasLocks = false

// renameNew renames, and refuses a new name that is taken. Between the look
// and the rename another may take it: a folder with something in it is not
// replaced even then.
func renameNew(from *os.Root, old string, to *os.Root, name string) error {
	if _, err := to.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fs.ErrExist
		}
		return err
	}
	return os.Rename(filepath.Join(from.Name(), old), filepath.Join(to.Name(), name))
}

// renameExchange: there is no such rename.
func renameExchange(*os.Root, string, *os.Root, string) error { return errors.ErrUnsupported }

// lockFolder opens the folder.
func lockFolder(root *os.Root) (*os.File, error) { return root.Open(".") }

func isMountPoint(*os.Root, *os.Root) bool { return false }

// isOursOrRoots cannot tell either, and asks for nothing.
func isOursOrRoots(fs.FileInfo) bool { return true }

// mountBelow goes by the file systems' numbers: there is no list.
func mountBelow(root *os.Root) (string, error) { return otherDevice(root) }

// isPrivate, isOwnFolder and isOwnFile cannot tell whose something is, so that
// nothing is resumed but what was made a moment ago.
func isPrivate(info fs.FileInfo) bool   { return info.IsDir() }
func isOwnFolder(info fs.FileInfo) bool { return info.IsDir() }
func isOwnFile(fs.FileInfo) bool        { return false }

// fileNumber: it is only asked for on the way to what is resumed.
func fileNumber(fs.FileInfo) (uint64, bool) { return 0, false }

func isInTheWay(err error) bool { return errors.Is(err, fs.ErrExist) }

// syncFileSystem: there is no such call.
func syncFileSystem(*os.Root) error { return errors.ErrUnsupported }

// isNoSync: folders cannot be synced everywhere.
func isNoSync(error) bool { return true }

// beginWriting: there is no such call.
func beginWriting(*os.File) {}
