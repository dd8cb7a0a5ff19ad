//go:build unix

package modelsig

import (
	"io/fs"
	"syscall"
)

// deviceOf is the file system that a file is on.
func deviceOf(info fs.FileInfo) (uint64, bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return uint64(stat.Dev), true
}
