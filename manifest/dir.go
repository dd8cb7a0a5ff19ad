package manifest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// ErrChanged is wrapped by errors about a local file that is not what it was
// when the folder was walked: its size or modification time moved, or another
// file stands in its place.
var ErrChanged = errors.New("changed while it was read")

// Codes of what a local model must not have.
const (
	// CodeSymlink is the code of a symbolic link where links are not allowed
	// ([OpenOptions]), and of one that leads to no regular file (D01).
	CodeSymlink = "symlink"

	// CodeSymlinkOutside is the code of a link to what lies outside the model,
	// which no option follows (D01).
	CodeSymlinkOutside = "symlink-outside"

	// CodeSnapshotLink is [CodeSymlink] in a snapshot of a Hugging Face cache,
	// whose files are all links: whoever names one will want them followed.
	CodeSnapshotLink = "snapshot-link"

	codeSpecialFile = "special-file" // D05
)

// A File is one file of a model, from any source.
type File struct {
	Name string
	Size int64 // bytes

	// Digest is the sha256 of the content when it is known already, as for a
	// layer in a registry; nil: Open, and hash the content.
	Digest []byte

	// Open opens the content; whoever calls it closes. Content that is an
	// [io.ReaderAt] as well is read in several places at once where that is
	// faster: ReadAt at the end of the file then returns what Read would.
	// nil if Digest is known, or Problem is not nil.
	Open func() (io.ReadCloser, error)

	// Problem is why this is no file of a model: a link, a special file, a
	// name that [CheckName] refuses, each a [*ThreatError], or a folder that
	// cannot be read. nil for every other; only [Dir.All] lists such.
	Problem error
}

// A Dir is a local model, a folder or a single file, reached by handle: no
// file outside is ever read, whatever happens to names and links meanwhile.
// It may be used by several goroutines at once.
type Dir struct {
	root    *os.Root
	file    string // the single file's name in root; "" for a folder
	name    string
	abs     string // as the user named it
	real    string // without symbolic links
	options OpenOptions
	fast    fastRoot

	// base is where the model lies in root: "" but for the snapshot of a
	// Hugging Face cache whose links are followed.
	base     string
	snapshot bool // of a Hugging Face cache
}

// OpenOptions are the options of [Open]. The zero value refuses links.
type OpenOptions struct {
	// AllowSymlinks follows symbolic links to regular files inside the model,
	// and no others. A file is then listed under the name of the link. The
	// snapshot of a Hugging Face cache, a folder
	//
	//	models--ORG--NAME/snapshots/REVISION
	//
	// beside which lies models--ORG--NAME/blobs, has links into the blobs and
	// nothing else: there, links may lead to what is inside models--ORG--NAME.
	AllowSymlinks bool
}

// Open opens the folder or the single file at path. The caller closes it.
// A missing path is [fs.ErrNotExist]. If path itself is a symbolic link, it is
// followed once, because the user named it, and keeps its name. Anything but a
// folder or a regular file is a [*ThreatError].
func Open(path string, options OpenOptions) (*Dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open model %s: %w", quote(path), err)
	}
	d, err := open(abs, options)
	if _, ok := errors.AsType[*ThreatError](err); err != nil && !ok {
		return nil, fmt.Errorf("open model %s: %w", quote(path), bare(err))
	}
	return d, err
}

func open(abs string, options OpenOptions) (*Dir, error) {
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(real)
	if err != nil {
		return nil, err
	}
	d := &Dir{name: filepath.Base(abs), abs: abs, real: real, options: options}
	if d.name == string(filepath.Separator) || d.name == "." {
		d.name = "model" // the root of a file system has no name
	}
	folder := real
	switch {
	case info.Mode().IsRegular():
		folder, d.file = filepath.Split(real)
	case !info.IsDir():
		return nil, special(abs, info.Mode())
	}
	if cache, base, ok := snapshot(real); ok && d.file == "" {
		d.snapshot = true
		if options.AllowSymlinks {
			folder, d.base = cache, base
		}
	}
	if d.root, err = os.OpenRoot(folder); err != nil {
		return nil, err
	}
	if err := d.fast.open(d.root); err != nil {
		d.root.Close()
		return nil, err
	}
	return d, nil
}

// snapshot splits the path of a snapshot of a Hugging Face cache into the
// repository's folder and the rest. It goes by what that cache looks like: a
// folder of another shape has no blobs to follow links to.
func snapshot(real string) (cache, base string, ok bool) {
	snapshots := filepath.Dir(real)
	cache = filepath.Dir(snapshots)
	kind, _, dashes := strings.Cut(filepath.Base(cache), "--")
	if filepath.Base(snapshots) != "snapshots" || !dashes || !slices.Contains([]string{"models", "datasets", "spaces"}, kind) {
		return "", "", false
	}
	info, err := os.Lstat(filepath.Join(cache, "blobs"))
	if err != nil || !info.IsDir() {
		return "", "", false
	}
	return cache, path.Join("snapshots", filepath.Base(real)), true
}

// at is where a name of the model lies in root.
func (d *Dir) at(name string) string { return path.Join(d.base, name) }

// bare takes the path out of an error, which has it unquoted.
func bare(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

func special(name string, mode fs.FileMode) *ThreatError {
	kind := "neither a regular file nor a folder"
	switch {
	case mode&fs.ModeNamedPipe != 0:
		kind = "a named pipe"
	case mode&fs.ModeSocket != 0:
		kind = "a socket"
	case mode&fs.ModeDevice != 0:
		kind = "a device"
	case mode&fs.ModeSymlink != 0:
		return &ThreatError{Code: CodeSymlink, Name: name, Reason: "is a symbolic link"}
	case mode.IsDir():
		kind = "a folder"
	}
	return &ThreatError{Code: codeSpecialFile, Name: name, Reason: "is " + kind + ", not a regular file"}
}

// Close closes the handle. Files that are open stay open.
func (d *Dir) Close() error { return errors.Join(d.root.Close(), d.fast.close()) }

// Name is the last element of the absolute path: the name of the subject
// (OMS §6.5), and of the one file if the model is a file.
func (d *Dir) Name() string { return d.name }

// IsFile reports whether the model is a single file.
func (d *Dir) IsFile() bool { return d.file != "" }

// Rel returns path, which is absolute or relative to the working directory, as
// a name in the model: relative, slash-separated, "." for the folder itself,
// and [Dir.Name] for the file of a model that is one. ok is false when path
// lies outside. Links on the way to the model or to path do not matter (on
// macOS /tmp is one); path's last element is not followed, and need not exist.
func (d *Dir) Rel(path string) (rel string, ok bool) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", false
	}
	for _, base := range []string{d.abs, d.real} {
		for _, target := range []string{abs, resolveParent(abs)} {
			rel, err := filepath.Rel(base, target)
			if err != nil || !filepath.IsLocal(rel) {
				continue
			}
			if !d.IsFile() {
				return filepath.ToSlash(rel), true
			}
			if rel == "." {
				return d.name, true
			}
		}
	}
	return "", false
}

// resolveParent follows the links in path but for its last element, as far as
// path exists.
func resolveParent(path string) string {
	parent, rest := filepath.Dir(path), filepath.Base(path)
	for {
		if real, err := filepath.EvalSymlinks(parent); err == nil {
			return filepath.Join(real, rest)
		}
		up := filepath.Dir(parent)
		if up == parent {
			return path
		}
		parent, rest = up, filepath.Join(filepath.Base(parent), rest)
	}
}

// Files walks the model and returns its files in order of name, without what
// ignore matches (nil: nothing). Folders do not count, empty or not. A symbolic
// link that is not allowed, a special file, and a name that [CheckName]
// refuses are a [*ThreatError], except where they are ignored; what cannot be
// read, and more than [MaxResources] files, is another error. Folders are read
// several at a time: of several errors, one is returned.
//
// Each file's Open checks that it is still the regular file that the walk saw,
// and its reader, which is an [io.ReaderAt], returns an error that wraps
// [ErrChanged], in the place of io.EOF, when size or modification time moved
// until then. Files that grow meanwhile do not go on for ever. These errors leave
// the name to whoever opens.
func (d *Dir) Files(ctx context.Context, ignore Ignore) ([]File, error) {
	return d.walk(ctx, &walk{dir: d, ignored: ignore.set()})
}

// All is Files for a verdict, which knows only later what may be ignored:
// nothing is left out, and what Files would refuse is listed with its Problem.
// A link that is followed counts as what it stands for.
func (d *Dir) All(ctx context.Context) ([]File, error) {
	return d.walk(ctx, &walk{dir: d, all: true})
}

func (d *Dir) walk(ctx context.Context, w *walk) ([]File, error) {
	var err error
	if d.IsFile() {
		err = w.single()
	} else {
		err = w.tree(ctx)
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(w.files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return w.files, nil
}

// A walk collects files.
type walk struct {
	dir     *Dir
	ignored map[string]bool
	all     bool     // list problems, instead of ending with the first
	pending []string // folders still to be read
	files   []File
}

func (w *walk) single() error {
	d := w.dir
	if w.ignored[d.name] {
		return nil
	}
	info, err := d.root.Lstat(d.file)
	if err != nil {
		return fmt.Errorf("read %s: %w", quote(d.name), bare(err))
	}
	return w.add(d.name, d.file, info)
}

// walkers is how many folders are read at once: asking for the state of each
// file takes as long as reading a small one.
const walkers = 8

// tree reads the folders of a model, few at a time, so that depth costs no
// open files.
func (w *walk) tree(ctx context.Context) error {
	t := &tree{walk: w}
	t.pending = []string{"."}
	t.ready.L = &t.mu
	var jobs sync.WaitGroup
	for range min(walkers, runtime.GOMAXPROCS(0)) {
		jobs.Go(func() { t.run(ctx) })
	}
	jobs.Wait()
	return t.err
}

// A tree is a walk by several.
type tree struct {
	*walk // what all have found

	mu    sync.Mutex
	ready sync.Cond // pending, busy or err changed
	busy  int       // folders that are being read
	err   error     // the first
}

func (t *tree) run(ctx context.Context) {
	part := &walk{dir: t.dir, ignored: t.ignored, all: t.all}
	for {
		folder, ok := t.next()
		if !ok {
			return
		}
		err := part.folder(ctx, folder, func() error { return t.take(part) })
		t.mu.Lock()
		t.busy--
		if t.err == nil {
			t.err = err
		}
		t.ready.Broadcast()
		t.mu.Unlock()
	}
}

// next waits for a folder to read; there is none after an error, and when all
// are read.
func (t *tree) next() (folder string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.err == nil && len(t.pending) == 0 && t.busy > 0 {
		t.ready.Wait()
	}
	if t.err != nil || len(t.pending) == 0 {
		return "", false
	}
	last := len(t.pending) - 1
	folder, t.pending = t.pending[last], t.pending[:last]
	t.busy++
	return folder, true
}

// take empties part into t, and says whether to go on.
func (t *tree) take(part *walk) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.files = append(t.files, part.files...)
	if len(part.pending) > 0 {
		t.pending = append(t.pending, part.pending...)
		t.ready.Broadcast()
	}
	part.files, part.pending = part.files[:0], part.pending[:0]
	if t.err == nil && len(t.files) > MaxResources {
		t.err = fmt.Errorf("the model has more than %d files", MaxResources)
	}
	return t.err
}

// batch is how many entries of a folder are in memory at once.
const batch = 1024

// folder reads one folder. take is called from time to time, and at the end.
func (w *walk) folder(ctx context.Context, folder string, take func() error) error {
	f, err := w.dir.root.OpenFile(w.dir.at(folder), os.O_RDONLY|nonblock, 0)
	if err != nil {
		err = fmt.Errorf("open folder %s: %w", quote(folder), bare(err))
		if w.all && folder != "." {
			w.files = append(w.files, File{Name: folder, Problem: err})
			return take() // whether it matters depends on what is ignored
		}
		return err
	}
	defer f.Close()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		entries, err := f.ReadDir(batch)
		for _, e := range entries {
			name := path.Join(folder, e.Name())
			if w.ignored[name] {
				continue
			}
			if err := w.problem(name, w.entry(name, e)); err != nil {
				return err
			}
		}
		if err := take(); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read folder %s: %w", quote(folder), bare(err))
		}
	}
}

// problem lists what a threat is about, where that is wanted, and returns all
// other errors.
func (w *walk) problem(name string, err error) error {
	threat, ok := errors.AsType[*ThreatError](err)
	if !ok || !w.all {
		return err
	}
	w.files = append(w.files, File{Name: name, Problem: threat})
	return nil
}

func (w *walk) entry(name string, e fs.DirEntry) error {
	if e.IsDir() {
		// A folder's name is judged with its files. But its depth is not
		// left to the file system.
		if len(name) > MaxName || strings.Count(name, "/") >= MaxSegments {
			return CheckName(name + "/x")
		}
		w.pending = append(w.pending, name)
		return nil
	}
	info, err := entryInfo(w.dir.root, w.dir.at(name), e)
	if err == nil && info.Mode()&fs.ModeSymlink != 0 && w.dir.options.AllowSymlinks {
		if info, err = w.dir.follow(name); err != nil {
			return err
		}
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", quote(name), bare(err))
	}
	return w.add(name, w.dir.at(name), info)
}

// follow returns what a link stands for: a regular file inside the model.
func (d *Dir) follow(name string) (fs.FileInfo, error) {
	refuse := func(code, reason string) error {
		return &ThreatError{Code: code, Name: name, Reason: reason}
	}
	info, err := d.root.Stat(d.at(name))
	if err != nil {
		switch errno, ok := errors.AsType[syscall.Errno](err); {
		case ok && errno != syscall.ENOENT && errno != syscall.ELOOP && errno != syscall.ENOTDIR && !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("follow symbolic link %s: %w", quote(name), bare(err))
		case ok:
			return nil, refuse(CodeSymlink, "is a symbolic link to nothing")
		}
		return nil, refuse(CodeSymlinkOutside, "is a symbolic link that leaves the model, and only links inside it are followed")
	}
	if !info.Mode().IsRegular() {
		return nil, refuse(CodeSymlink, "is a symbolic link to something that is not a regular file")
	}
	return info, nil
}

// add lists the file that is called name in the model and at in the folder.
func (w *walk) add(name, at string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		threat := special(name, info.Mode())
		if threat.Code == CodeSymlink && w.dir.snapshot {
			threat.Code = CodeSnapshotLink
			threat.Reason = "is a symbolic link into the blobs of a Hugging Face cache"
		}
		return threat
	}
	if err := CheckName(name); err != nil {
		return err
	}
	seen := seenFile{dir: w.dir, name: name, at: at, size: info.Size(), mtime: info.ModTime().UnixNano()}
	w.files = append(w.files, File{Name: name, Size: seen.size, Open: seen.open})
	return nil
}

// A seenFile is what the walk saw. Inode numbers are no part of it: some
// network and user-space file systems make them up on the way.
type seenFile struct {
	dir      *Dir
	name, at string
	size     int64
	mtime    int64 // nanoseconds
}

func (s *seenFile) open() (io.ReadCloser, error) {
	f, err := s.dir.openFast(s.at)
	if f == nil {
		// Not blocking: a pipe in the file's place must not hang us.
		f, err = openRoot(s.dir.root, s.at, os.O_RDONLY|nonblock)
	}
	if err != nil {
		return nil, fmt.Errorf("open: %w", bare(err))
	}
	now, err := f.state()
	if err == nil {
		err = s.check(now)
	}
	if err != nil {
		f.Close()
		return nil, bare(err)
	}
	return &checkedReader{file: f, seen: s}, nil
}

// A state is what tells a file from what it was.
type state struct {
	mode  fs.FileMode
	size  int64
	mtime int64 // nanoseconds
}

func stateOf(info fs.FileInfo) state {
	return state{info.Mode(), info.Size(), info.ModTime().UnixNano()}
}

func (s *seenFile) check(now state) error {
	if !now.mode.IsRegular() {
		return special(s.name, now.mode)
	}
	if now.size != s.size || now.mtime != s.mtime {
		return ErrChanged
	}
	return nil
}

// still asks once more at the end: of the open file, and of what now has its
// name, which another file may have been renamed to.
func (s *seenFile) still(f openFile) error {
	if now, ok := f.same(s.dir, s.at); ok {
		return s.check(now) // one question for both
	}
	now, err := f.state()
	if err == nil {
		err = s.check(now)
	}
	if err != nil {
		return err
	}
	stat := s.dir.root.Lstat
	if s.dir.options.AllowSymlinks {
		stat = s.dir.root.Stat
	}
	info, err := stat(s.at)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrChanged
	}
	if err != nil {
		return err
	}
	return s.check(stateOf(info))
}

// An openFile is an open local file. Small files are many, and each system
// call counts: where there is a faster way than [os.File], openFast takes it.
type openFile interface {
	io.ReadCloser
	io.ReaderAt

	// state asks the open file.
	state() (state, error)

	// same is the state of what now has the name, if that is sure to be this
	// very file.
	same(d *Dir, at string) (now state, ok bool)
}

// A rootFile is an openFile by way of os.Root.
type rootFile struct{ *os.File }

func openRoot(root *os.Root, name string, flag int) (openFile, error) {
	f, err := root.OpenFile(name, flag, 0)
	if err != nil {
		return nil, err
	}
	return rootFile{f}, nil
}

func (f rootFile) state() (state, error) {
	info, err := f.Stat()
	if err != nil {
		return state{}, err
	}
	return stateOf(info), nil
}

// same: only some file systems could say.
func (rootFile) same(*Dir, string) (state, bool) { return state{}, false }

// A checkedReader reads a file that must stay what it was.
type checkedReader struct {
	file openFile
	seen *seenFile
	read int64
}

func (r *checkedReader) Read(b []byte) (int, error) {
	n, err := r.file.Read(b)
	r.read += int64(n)
	if err == nil && r.read == r.seen.size && n < len(b) {
		err = io.EOF // as the file's size will say, which spares a call
	}
	return n, r.judge(r.read, err)
}

// ReadAt is Read for parts of the file: whoever reads all of them asks for
// what comes after the last byte, and then knows.
func (r *checkedReader) ReadAt(b []byte, off int64) (int, error) {
	n, err := r.file.ReadAt(b, off)
	return n, r.judge(off+int64(n), err)
}

// judge turns the error of a read that came as far as end into ours.
func (r *checkedReader) judge(end int64, err error) error {
	switch {
	case end > r.seen.size, err == io.EOF && end < r.seen.size:
		return ErrChanged
	case err == io.EOF:
		if changed := r.seen.still(r.file); changed != nil {
			return bare(changed)
		}
		return io.EOF
	}
	return bare(err)
}

func (r *checkedReader) Close() error { return r.file.Close() }
