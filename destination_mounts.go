package modelsig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// errMounted: what is mounted below a folder is not part of it, and is never
// removed with it.
var errMounted = errors.New("another file system is mounted there")

// nothingMounted wants no mount point below a folder that will be replaced:
// what is mounted there would be emptied when the old folder is removed.
func (d *destination) nothingMounted() error {
	if d.root == nil {
		return nil
	}
	point, err := mountBelow(d.root)
	if err != nil {
		return fmt.Errorf("look for mount points below %s: %w", strconv.Quote(d.dir), bareError(err))
	}
	if point != "" {
		return fmt.Errorf("%s cannot be overwritten: below it, at %s, %w", strconv.Quote(d.dir), strconv.Quote(point), errMounted)
	}
	return nil
}

// otherDevice finds a folder below root that is on another file system; "":
// there is none, or the system does not say.
func otherDevice(root *os.Root) (string, error) {
	info, err := root.Lstat(".")
	if err != nil {
		return "", err
	}
	device, ok := deviceOf(info)
	if !ok {
		return "", nil
	}
	found := ""
	err = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		info, err := root.Lstat(filepath.FromSlash(name))
		if err != nil {
			return err
		}
		if now, _ := deviceOf(info); now != device {
			found = name
			return fs.SkipAll
		}
		return nil
	})
	return found, err
}

// isMounted reports whether the folder sub, which lies in root, is another file
// system's, or mounted there.
func isMounted(root, sub *os.Root) bool {
	a, errA := root.Lstat(".")
	b, errB := sub.Lstat(".")
	if errA != nil || errB != nil {
		return true // it cannot be told
	}
	deviceA, _ := deviceOf(a)
	deviceB, _ := deviceOf(b)
	return deviceA != deviceB || isMountPoint(root, sub)
}
