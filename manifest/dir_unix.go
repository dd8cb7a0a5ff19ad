//go:build unix

package manifest

import (
	"io/fs"
	"os"
	"syscall"
)

// nonblock opens a named pipe without waiting for a writer. It means nothing
// for regular files.
const nonblock = syscall.O_NONBLOCK

// entryInfo is lstat of an entry of the folder at hand.
func entryInfo(_ *os.Root, _ string, e fs.DirEntry) (fs.FileInfo, error) {
	return e.Info()
}
