package modelsig

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// hasLocks: a folder that another process works in is known by its lock.
const hasLocks = true

// renameNew renames and never replaces: fs.ErrExist if the new name is taken.
func renameNew(from *os.Root, old string, to *os.Root, name string) error {
	return renameat2(from, old, to, name, unix.RENAME_NOREPLACE)
}

// renameExchange makes two names change places, in one step.
func renameExchange(from *os.Root, old string, to *os.Root, name string) error {
	return renameat2(from, old, to, name, unix.RENAME_EXCHANGE)
}

func renameat2(from *os.Root, old string, to *os.Root, name string, flags uint) error {
	source, err := from.Open(".")
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := to.Open(".")
	if err != nil {
		return err
	}
	defer target.Close()
	for {
		err = unix.Renameat2(int(source.Fd()), old, int(target.Fd()), name, flags)
		if err != unix.EINTR {
			break
		}
	}
	switch err {
	case unix.EINVAL, unix.ENOSYS, unix.ENOTSUP: // NFS, and some others
		if flags == unix.RENAME_NOREPLACE {
			return renameUnused(from, old, to, name)
		}
		return errors.ErrUnsupported
	case nil:
		return nil
	}
	return &os.LinkError{Op: "rename", Old: old, New: name, Err: err}
}

// renameUnused is renameNew where the system has no such rename. A folder never
// replaces one that has something in it, and a file never a folder.
func renameUnused(from *os.Root, old string, to *os.Root, name string) error {
	if _, err := to.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fs.ErrExist
		}
		return err
	}
	source, err := from.Open(".")
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := to.Open(".")
	if err != nil {
		return err
	}
	defer target.Close()
	return unix.Renameat(int(source.Fd()), old, int(target.Fd()), name)
}

// lockFolder takes the advisory lock on a folder, which ends with the handle,
// and so with the process. It returns errBusy where another has it, and
// errors.ErrUnsupported where the file system has no locks.
func lockFolder(root *os.Root) (*os.File, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EINTR {
			break
		}
	}
	if err == nil {
		return f, nil
	}
	f.Close()
	switch err {
	case unix.EWOULDBLOCK:
		return nil, errBusy
	case unix.ENOSYS, unix.EOPNOTSUPP, unix.ENOLCK, unix.EINVAL:
		return nil, errors.ErrUnsupported
	}
	return nil, os.NewSyscallError("flock", err)
}

// isMountPoint reports whether something is mounted on the folder at root.
func isMountPoint(parent, root *os.Root) bool {
	f, err := root.Open(".")
	if err != nil {
		return false
	}
	defer f.Close()
	var stat unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &stat); err == nil && stat.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
	}
	a, errA := parent.Lstat(".")
	b, errB := root.Lstat(".")
	return errA == nil && errB == nil && a.Sys().(*syscall.Stat_t).Dev != b.Sys().(*syscall.Stat_t).Dev
}

// maxMounts bounds the list of mount points, in bytes: some hundred thousand.
const maxMounts = 64 << 20

// mountBelow finds a mount point below the folder at root: of a folder or a
// file, and of the same file system too, as bind mounts are. "": there is none.
func mountBelow(root *os.Root) (string, error) {
	f, err := root.Open(".")
	if err != nil {
		return "", err
	}
	defer f.Close()
	// Both are as this process sees them.
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if errors.Is(err, fs.ErrNotExist) {
		return otherDevice(root) // there is no /proc here
	}
	if err != nil {
		return "", err
	}
	list, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer list.Close()
	data, err := io.ReadAll(io.LimitReader(list, maxMounts+1))
	if err != nil {
		return "", err
	}
	if len(data) > maxMounts {
		return "", fmt.Errorf("the list of mount points has more than %d bytes", maxMounts)
	}
	for line := range strings.Lines(string(data)) {
		// 36 35 98:0 /mnt1 /mnt2 rw,noatime …: proc_pid_mountinfo(5).
		fields := strings.Fields(line)
		if len(fields) < 5 {
			return "", errors.New("the list of mount points cannot be read")
		}
		point := mountEscapes.Replace(fields[4])
		if rest, ok := strings.CutPrefix(point, path+"/"); ok {
			return rest, nil
		}
	}
	return "", nil
}

// mountEscapes are those in the names of mount points: proc_pid_mountinfo(5).
var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

func isOurs(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// fileNumber is the number of a file or folder on its file system, and stays
// the same when it is renamed. The file system's own number may be another one
// after it was mounted again, and a rename never leaves it.
func fileNumber(info fs.FileInfo) (uint64, bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return stat.Ino, true
}

// isOursOrRoots: root may change every file, whoever owns it; so that to root
// the owner is no matter.
func isOursOrRoots(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return isOurs(info) || os.Geteuid() == 0 || ok && stat.Uid == 0
}

// isPrivate: a folder that nobody but us can look into.
func isPrivate(info fs.FileInfo) bool {
	return info.IsDir() && info.Mode().Perm() == 0o700 && isOurs(info)
}

// isOwnFolder: a folder that nobody but us can write to.
func isOwnFolder(info fs.FileInfo) bool {
	return info.IsDir() && info.Mode().Perm()&0o022 == 0 && isOurs(info)
}

// isOwnFile: a file that nobody but us can write to, under any name.
func isOwnFile(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode().IsRegular() && info.Mode().Perm()&0o022 == 0 && isOurs(info) && stat.Nlink == 1
}

// isInTheWay reports whether a file could not be made because of another one.
func isInTheWay(err error) bool {
	return errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EISDIR)
}

// syncFileSystem makes all that was written to the file system of root last.
func syncFileSystem(root *os.Root) error {
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// isNoSync: the file system cannot sync folders.
func isNoSync(err error) bool { return errors.Is(err, syscall.EINVAL) }

// beginWriting has the system begin to write what it holds of a file. It waits
// for nothing, and says nothing: syncing does.
func beginWriting(f *os.File) {
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}
