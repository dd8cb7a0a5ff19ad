package manifest

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// FromFS returns the files of fsys, sorted by name, for models that are in no
// folder: an archive, an embedded tree, a store of one's own. Every regular
// file counts; links and special files are refused, and so are names that
// [CheckName] refuses, each with a [*ThreatError]. What cannot be read, and
// more than [MaxResources] files, is another error. ctx is obeyed between
// entries.
//
// A file that is opened must be what was listed, in size and modification
// time, and its reader returns an error that wraps [ErrChanged] where it has
// other bytes. For a local folder use [Open]: an [os.DirFS] follows links, and
// names that lead outside.
func FromFS(ctx context.Context, fsys fs.FS) ([]File, error) {
	var files []File
	err := fs.WalkDir(fsys, ".", func(name string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", quote(name), bare(err))
		}
		if e.IsDir() {
			if len(name) > MaxName || strings.Count(name, "/") >= MaxSegments {
				return CheckName(name + "/x")
			}
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return fmt.Errorf("read %s: %w", quote(name), bare(err))
		}
		if mode := info.Mode() | e.Type(); !mode.IsRegular() {
			return special(name, mode)
		}
		if err := CheckName(name); err != nil {
			return err
		}
		if len(files) == MaxResources {
			return fmt.Errorf("the model has more than %d files", MaxResources)
		}
		seen := stateOf(info)
		files = append(files, File{Name: name, Size: seen.size, Open: func() (io.ReadCloser, error) {
			return openFS(fsys, name, seen)
		}})
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return files, nil
}

func openFS(fsys fs.FS, name string, seen state) (io.ReadCloser, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open: %w", bare(err))
	}
	r := &fsReader{f, name, seen, 0}
	if err := r.check(); err != nil {
		f.Close()
		return nil, err
	}
	return r, nil
}

// An fsReader reads a file that must stay what it was.
type fsReader struct {
	fs.File
	name string
	seen state
	read int64
}

func (r *fsReader) check() error {
	info, err := r.Stat()
	if err != nil {
		return bare(err)
	}
	now := stateOf(info)
	if !now.mode.IsRegular() {
		return special(r.name, now.mode)
	}
	if now.size != r.seen.size || now.mtime != r.seen.mtime {
		return ErrChanged
	}
	return nil
}

func (r *fsReader) Read(b []byte) (int, error) {
	n, err := r.File.Read(b)
	r.read += int64(n)
	switch {
	case r.read > r.seen.size, err == io.EOF && r.read < r.seen.size:
		return n, ErrChanged
	case err == io.EOF:
		if changed := r.check(); changed != nil {
			return n, changed
		}
	case err != nil:
		return n, bare(err)
	}
	return n, err
}
