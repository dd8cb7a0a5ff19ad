package manifest

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// A fastRoot is the handle of a model's folder once more, for the system calls
// that os.Root does not make: openat2 resolves a whole path below a handle,
// where os.Root opens and closes every folder on the way.
type fastRoot struct {
	file *os.File
	conn syscall.RawConn // keeps the handle from being closed while it is used
	no   atomic.Bool     // this system has no openat2, or does not let us
}

func (r *fastRoot) open(root *os.Root) (err error) {
	if r.file, err = root.Open("."); err != nil {
		return err
	}
	if r.conn, err = r.file.SyscallConn(); err != nil {
		r.file.Close()
	}
	return err
}

func (r *fastRoot) close() error { return r.file.Close() }

// openFast opens a file below the model, and nothing outside; links only where
// they are allowed. It returns nil and no error where os.Root has to try, for
// its errors or because this system cannot.
func (d *Dir) openFast(at string) (openFile, error) {
	if d.fast.no.Load() {
		return nil, nil
	}
	how := unix.OpenHow{
		// Not blocking: a pipe in the file's place must not hang us.
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_LARGEFILE,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	}
	if !d.options.AllowSymlinks {
		how.Resolve |= unix.RESOLVE_NO_SYMLINKS
	}
	fd := -1
	var err error
	if d.fast.conn.Control(func(root uintptr) { fd, err = unix.Openat2(int(root), at, &how) }) != nil {
		return nil, nil // closed
	}
	switch {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		d.fast.no.Store(true)
		return nil, nil
	case err != nil:
		return nil, nil
	}
	return &fastFile{fd: fd}, nil
}

// A fastFile is a file descriptor. An os.File would ask the system whether
// it can be waited for, which a regular file never can.
type fastFile struct {
	fd   int
	stat unix.Stat_t
}

func (f *fastFile) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(f.fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

func (f *fastFile) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		more, err := unix.Pread(f.fd, b[n:], off+int64(n))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return n, err
		case more == 0:
			return n, io.EOF
		}
		n += more
	}
	return n, nil
}

func (f *fastFile) Close() error { return unix.Close(f.fd) }

func (f *fastFile) state() (state, error) {
	for {
		switch err := unix.Fstat(f.fd, &f.stat); err {
		case nil:
			return unixState(&f.stat), nil
		case unix.EINTR:
		default:
			return state{}, err
		}
	}
}

// same asks by the whole path, and lets the system follow whatever stands in
// it now: only this very file counts as an answer.
func (f *fastFile) same(d *Dir, at string) (now state, ok bool) {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if d.options.AllowSymlinks {
		flags = 0
	}
	var stat unix.Stat_t
	err := errors.ErrUnsupported
	if d.fast.conn.Control(func(root uintptr) { err = unix.Fstatat(int(root), at, &stat, flags) }) != nil || err != nil {
		return state{}, false
	}
	return unixState(&stat), stat.Dev == f.stat.Dev && stat.Ino == f.stat.Ino && stat.Ino != 0
}

func unixState(stat *unix.Stat_t) state {
	mode := fs.ModeIrregular
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		mode = 0
	case unix.S_IFDIR:
		mode = fs.ModeDir
	case unix.S_IFIFO:
		mode = fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode = fs.ModeSocket
	case unix.S_IFLNK:
		mode = fs.ModeSymlink
	case unix.S_IFBLK, unix.S_IFCHR:
		mode = fs.ModeDevice
	}
	return state{mode: mode, size: stat.Size, mtime: stat.Mtim.Nano()}
}
