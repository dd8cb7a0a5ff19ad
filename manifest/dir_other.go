//go:build !unix

package manifest

import (
	"io/fs"
	"os"
)

// nonblock: there are no named pipes among files.
const nonblock = 0

// entryInfo asks the file: on Windows the folder's own record of size and time
// may lag behind.
func entryInfo(root *os.Root, name string, _ fs.DirEntry) (fs.FileInfo, error) {
	return root.Lstat(name)
}
