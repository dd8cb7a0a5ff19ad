package oci

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/modelsig/modelsig/manifest"
)

const (
	// maxRatio is how many bytes one compressed byte may become: weights do not
	// halve, text becomes ten times as much (T08).
	maxRatio = 200
	// ratioSlack is what may come before that is asked: small files of zeros.
	ratioSlack = 1 << 20
	// maxWindow is how much of the past a zstd layer may refer to, in bytes: it
	// is kept in memory (RFC 8878 §3.1.1.1.2 wants 8 MiB to be supported).
	maxWindow = 8 << 20
	// maxModelConfig bounds a config that is read, in bytes. It lists a few members
	// a layer, and the manifest with all layers has at most MaxManifest.
	maxModelConfig = MaxManifest
)

// UnpackOptions are the optional parts of [Model.Unpack].
type UnpackOptions struct {
	// Raw reads also the layers whose files are known without.
	Raw bool
	// Jobs is how many layers are read at once; 0: 4. Each takes some MiB.
	Jobs int
	// Progress is called with each count of bytes of layers read, by several
	// goroutines. nil: silent.
	Progress func(n int64)
	// Sink gets the content of each file as it comes: it reads all of it or
	// returns an error. It is called by several goroutines, one a layer. What
	// it reads is unverified until Unpack returns without an error. nil: files
	// are hashed, and their content is dropped.
	Sink func(e Entry, content io.Reader) error
	// Have is asked before a layer is read that must be: what Done was told of
	// it once, for a caller who vouches for it. ok is false if it is to be
	// read. It is called by several goroutines. nil: all are read.
	Have func(s Source) (files []manifest.File, executable []string, ok bool)
	// Done is told what a layer was found to hold, when it was read to its end
	// and held. It is called by several goroutines. nil: nobody is.
	Done func(s Source, files []manifest.File, executable []string) error
}

// An Entry is a file inside a layer.
type Entry struct {
	Name       string // as in [Files]
	Size       int64
	Executable bool
	Layer      int // index in Manifest.Layers; -1: the config
}

// Unpack reads the layers that must be read to know the files in them, and
// returns all files of the model with their digests. Each layer is read once
// and as a stream: the digests of the layer, of its content where the config
// or an annotation names it, and of each file are made together. Nothing is
// returned before all of them held at the end of every layer.
//
// The plan is of m.Manifest. Hostile content is a [*manifest.ThreatError]: what
// is no file or folder (T01, T02), whiteouts (T03), a name twice (T04), an entry
// outside its folder (T05), names that parsers read differently (T06), bytes
// behind the end (T07), more than 200 bytes for one (T08), another content than
// was said (T09), and all that manifest.CheckNames refuses.
func (m *Model) Unpack(ctx context.Context, p *Plan, o UnpackOptions) (*Files, error) {
	files, err := m.unpack(ctx, p, o)
	if err != nil {
		return nil, fmt.Errorf("read layers of %s: %w", m.Reference, err)
	}
	return files, nil
}

func (m *Model) unpack(ctx context.Context, p *Plan, o UnpackOptions) (*Files, error) {
	config, err := m.config(ctx, p)
	if err != nil {
		return nil, err
	}
	p = p.clone()
	if p.Layout == LayoutKitOps {
		if err := p.readKitfile(config); err != nil {
			return nil, err
		}
	}
	ids, err := p.diffIDs(config)
	if err != nil {
		return nil, err
	}
	u := &unpacker{model: m, o: o, diffIDs: ids}
	jobs := o.Jobs
	if jobs <= 0 {
		jobs = defaultJobs
	}
	found := make([]contents, len(p.Sources))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(jobs)
	for i, s := range p.Sources {
		if !s.Packed() && !o.Raw {
			continue
		}
		group.Go(func() error {
			var err error
			if found[i], err = u.known(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", sourceName(s), err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return p.collect(found)
}

func sourceName(s Source) string {
	if s.Layer < 0 {
		return "config"
	}
	return fmt.Sprintf("layers[%d]", s.Layer)
}

// contents are the files of one layer.
type contents struct {
	files      []manifest.File
	executable []string
}

// collect joins what was found. A file that is in two layers is refused; of a
// container image the later one is what counts, where that is allowed (T04).
func (p *Plan) collect(found []contents) (*Files, error) {
	seen := map[string]int{} // only where layers may hold one name
	var all []manifest.File
	var executable []string
	for i, c := range found {
		if !p.Sources[i].Packed() {
			continue // its file is known
		}
		for _, f := range c.files {
			if p.Layout == LayoutModelCar && len(p.Sources) > 1 {
				if at, ok := seen[f.Name]; ok {
					if err := p.mapping.permit(manifest.DuplicateLayer, f.Name, "two layers have this file: the later one counts"); err != nil {
						return nil, err
					}
					all[at] = f
					continue
				}
				seen[f.Name] = len(all)
			}
			all = append(all, f)
		}
		executable = append(executable, c.executable...)
	}
	files, err := p.files(all)
	if err != nil {
		return nil, err
	}
	files.Read = true
	slices.Sort(executable)
	files.Executable = slices.Compact(executable)
	switch n := len(files.Executable); n {
	case 0:
	case 1:
		files.Warnings = append(files.Warnings, modeWarning(files.Executable[0], "a program"))
	default:
		files.Warnings = append(files.Warnings, modeWarning(files.Executable[0], fmt.Sprintf("one of %d programs", n)))
	}
	return files, nil
}

// CodeFileMode is the code of the warning that a file of an archive is a
// program (T10).
const CodeFileMode = "file-mode"

// modeWarning says that a mode is signed by nobody but for the digest of the
// manifest (T10).
func modeWarning(name, what string) *manifest.ThreatError {
	return &manifest.ThreatError{Code: CodeFileMode, Name: name, Reason: what + " by the mode in the archive, which no list of files covers"}
}

// config reads the config where a packer defined it, nil elsewhere.
func (m *Model) config(ctx context.Context, p *Plan) ([]byte, error) {
	desc := m.Manifest.Config
	if isEmptyDescriptor(desc) || p.Layout == LayoutTitle || desc.MediaType == ocispec.MediaTypeEmptyJSON {
		return nil, nil
	}
	if desc.Size > maxModelConfig {
		return nil, refuse("config-too-large", "config", "it has %d bytes, more than %d", desc.Size, maxModelConfig)
	}
	rc, err := m.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	data, err := io.ReadAll(rc)
	if err != nil {
		return nil, err
	}
	if err := manifest.CheckJSON(data, "modelfs", "diffIds", "rootfs", "diff_ids", "model", "parts", "code", "datasets", "docs", "prompts", "path", "digest", "diffId"); err != nil {
		return nil, refuse("config-json", "config", "%s", reason(err))
	}
	return data, nil
}

// An unpacker reads the layers of one model.
type unpacker struct {
	model   *Model
	o       UnpackOptions
	diffIDs map[digest.Digest]digest.Digest
	entries atomic.Int64 // of all archives
}

// known is what a layer holds: by Have, or by reading it.
func (u *unpacker) known(ctx context.Context, s Source) (contents, error) {
	if s.Packed() && u.o.Have != nil {
		if files, executable, ok := u.o.Have(s); ok {
			return contents{files, executable}, nil
		}
	}
	found, err := u.layer(ctx, s)
	if err == nil && u.o.Done != nil {
		err = u.o.Done(s, found.files, found.executable)
	}
	return found, err
}

// layer reads one layer to its end.
func (u *unpacker) layer(ctx context.Context, s Source) (contents, error) {
	// What reads ahead must have ended when this returns.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rc, err := u.model.Fetch(ctx, s.Descriptor)
	if err != nil {
		return contents{}, err
	}
	defer rc.Close()
	blob := &blobReader{r: rc, progress: u.o.Progress}
	found, err := u.content(ctx, s, blob)
	if _, judged := errors.AsType[*manifest.ThreatError](err); err != nil && !judged {
		return contents{}, cmp.Or(blob.fault(), err)
	}
	// A layer that is not what its digest says explains all that was wrong in
	// it; and what could not be read is no judgement about what was.
	if _, err := io.Copy(io.Discard, blob); err != nil {
		return contents{}, err
	}
	return found, err
}

func (u *unpacker) content(ctx context.Context, s Source, blob *blobReader) (contents, error) {
	data := io.NopCloser(io.Reader(blob))
	if s.Packed() {
		var err error
		if data, err = decompress(s, blob); err != nil {
			return contents{}, err
		}
	}
	defer data.Close()
	ahead := newReadAhead(ctx, data)
	defer ahead.stop()
	stream := &contentReader{r: ahead, name: sourceName(s)}
	if id, ok := u.diffIDs[s.Descriptor.Digest]; ok && id != s.Descriptor.Digest {
		stream.want, stream.hash = id, sha256.New()
	}
	var found contents
	var err error
	if s.Archive {
		found, err = u.archive(s, stream)
	} else {
		var f manifest.File
		f, err = u.file(Entry{Name: s.Name, Size: s.Descriptor.Size, Executable: s.Executable, Layer: s.Layer}, stream)
		found.files = []manifest.File{f}
	}
	if err == nil {
		err = stream.end()
	}
	return found, err
}

// file hashes one file, and gives its content to the sink.
func (u *unpacker) file(e Entry, content io.Reader) (manifest.File, error) {
	sum := &sumReader{r: content, hash: sha256.New()}
	if u.o.Sink != nil {
		if err := u.o.Sink(e, sum); err != nil {
			return manifest.File{}, err
		}
	}
	// What the sink left is part of the file.
	if _, err := io.Copy(io.Discard, sum); err != nil {
		return manifest.File{}, err
	}
	return manifest.File{Name: e.Name, Size: sum.n, Digest: sum.hash.Sum(nil)}, nil
}

// maxUnpacked bounds the entries of all archives of one model: as many as a
// statement may list.
const maxUnpacked = 1_000_000

// archive reads a tar.
func (u *unpacker) archive(s Source, stream io.Reader) (contents, error) {
	var found contents
	reader := tar.NewReader(stream)
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return found, nil
		}
		if err != nil {
			return contents{}, notArchive(err)
		}
		if u.entries.Add(1) > maxUnpacked {
			return contents{}, refuse("too-many-entries", "archive", "the archives have more than %d entries", maxUnpacked)
		}
		name, isFile, err := s.entry(header)
		if err != nil {
			return contents{}, err
		}
		if !isFile {
			continue
		}
		e := Entry{Name: name, Size: header.Size, Executable: header.Mode&0o111 != 0, Layer: s.Layer}
		f, err := u.file(e, reader)
		if err != nil {
			return contents{}, notArchive(err)
		}
		found.files = append(found.files, f)
		if e.Executable {
			found.executable = append(found.executable, name)
		}
	}
}

// notArchive says what is wrong with the content of a layer. What went wrong
// on the way, or in the sink, stays what it is.
func notArchive(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return refuse("not-an-archive", "archive", "the layer is not a whole tar: %s", reason(err))
	}
	return err
}

// entry judges one header: it is a file of the model, or no matter of the
// model, or refused.
func (s Source) entry(h *tar.Header) (name string, isFile bool, err error) {
	if h.Typeflag == tar.TypeXGlobalHeader {
		if _, ok := h.PAXRecords["path"]; ok {
			return "", false, refuse("global-path", "archive", "a global header names what follows: readers differ (T06)")
		}
		return "", false, nil
	}
	// "./a" is what tar writes when it is told to pack ".".
	name = strings.TrimPrefix(h.Name, "./")
	isDir := h.Typeflag == tar.TypeDir
	if isDir {
		name = strings.TrimSuffix(name, "/")
		if name == "" || name == "." {
			return "", false, nil
		}
	}
	if err := manifest.CheckName(name); err != nil {
		return "", false, err
	}
	if s.root != "" {
		below, ok := s.below(name)
		if err := s.whiteout(name); err != nil {
			return "", false, err
		}
		if !ok {
			return "", false, nil // of the image, and not of the model
		}
		if below == "" {
			if isDir {
				return "", false, nil
			}
			return "", false, refuse("special-file", name, "it stands where the folder of the model is (T01)")
		}
		name = below
	}
	if isDir {
		if s.Name != "" && name != s.Name && !strings.HasPrefix(name, s.Name+"/") && !strings.HasPrefix(s.Name, name+"/") {
			return "", false, refuse("entry-outside", name, "the layer is the folder %s (T05)", quote(s.Name))
		}
		return "", false, nil
	}
	if h.Typeflag != tar.TypeReg || isSparse(h) {
		return "", false, refuse("special-file", name, "it is a %s, and not a file or a folder (T01, T02)", entryType(h))
	}
	if s.Name != "" && !strings.HasPrefix(name, s.Name+"/") && (name != s.Name || s.folderOnly()) {
		return "", false, refuse("entry-outside", name, "the layer is %s (T05)", quote(s.Name))
	}
	return name, true, nil
}

// folderOnly reports whether a layer's name is a folder, and not also the one
// file of the archive: oras packs folders only.
func (s Source) folderOnly() bool {
	return s.Descriptor.Annotations[annotationUnpack] == "true"
}

// below is the name inside the root.
func (s Source) below(name string) (string, bool) {
	if name == s.root {
		return "", true
	}
	return strings.CutPrefix(name, s.root+"/")
}

// whiteout refuses what says of a lower layer that its files are gone: some
// consumers obey it, others show them (T03).
func (s Source) whiteout(name string) error {
	base := path.Base(name)
	if !strings.HasPrefix(base, ".wh.") {
		return nil
	}
	hidden := path.Join(path.Dir(name), strings.TrimPrefix(base, ".wh."))
	if _, below := s.below(name); below || hidden == s.root || path.Dir(name) == "." && strings.HasPrefix(base, ".wh..wh.") {
		return refuse("whiteout", name, "it takes files of lower layers away, which only some consumers do (T03)")
	}
	return nil
}

func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func entryType(h *tar.Header) string {
	switch h.Typeflag {
	case tar.TypeLink:
		return "hard link to " + quote(h.Linkname)
	case tar.TypeSymlink:
		return "symbolic link to " + quote(h.Linkname)
	case tar.TypeChar, tar.TypeBlock:
		return "device"
	case tar.TypeFifo:
		return "FIFO"
	}
	if isSparse(h) {
		return "sparse file"
	}
	return "tar entry of type " + quote(string(rune(h.Typeflag)))
}

// A blobReader is a layer on its way, and remembers how it ended.
type blobReader struct {
	r        io.Reader
	progress func(int64)
	n        atomic.Int64
	err      error // io.EOF: it held
}

func (b *blobReader) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.r.Read(p)
	b.n.Add(int64(n))
	if n > 0 && b.progress != nil {
		b.progress(int64(n))
	}
	if err != nil {
		b.err = err
	}
	return n, err
}

// fault is why the layer could not be read, or did not hold; nil if neither is
// known.
func (b *blobReader) fault() error {
	if b.err == io.EOF {
		return nil
	}
	return b.err
}

// decompress returns the content of a layer. The first bytes tell what it is,
// and must be what its media type says: a name that begins so is no name, so
// that no tar can be mistaken for it.
func decompress(s Source, blob *blobReader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(blob, 64<<10)
	magic, err := buffered.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	is := ""
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		is = "gzip"
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18}):
		is = "zstd" // or a frame to skip before it
	}
	if s.Compression != anyCompression && s.Compression != is {
		return nil, refuse("compression", sourceName(s), "it is %s, and its media type %s says %s (M07)",
			compressionText(is), quote(s.Descriptor.MediaType), compressionText(s.Compression))
	}
	switch is {
	case "gzip":
		r, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, notCompressed(s, err, blob)
		}
		return &expanded{ReadCloser: r, s: s, blob: blob}, nil
	case "zstd":
		r, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, notCompressed(s, err, blob)
		}
		return &expanded{ReadCloser: r.IOReadCloser(), s: s, blob: blob}, nil
	}
	return io.NopCloser(buffered), nil
}

func compressionText(c string) string {
	if c == "" {
		return "not compressed"
	}
	return c
}

// notCompressed is a judgement about content; what ended the layer itself is
// found when it is drained.
func notCompressed(s Source, err error, blob *blobReader) error {
	if fault := blob.fault(); fault != nil {
		return fault
	}
	return refuse("compression", sourceName(s), "it is compressed in a way that cannot be read: %s", reason(err))
}

// expanded bounds what a compressed layer may become.
type expanded struct {
	io.ReadCloser
	s    Source
	blob *blobReader
	n    int64
}

func (e *expanded) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	e.n += int64(n)
	if e.n > ratioSlack && e.n > maxRatio*e.blob.n.Load() {
		return 0, refuse("compression-ratio", sourceName(e.s), "it becomes more than %d times as large (T08)", maxRatio)
	}
	if err != nil && err != io.EOF {
		return n, notCompressed(e.s, err, e.blob)
	}
	return n, err
}

// A contentReader is the uncompressed content of a layer, hashed if somebody
// said what it is.
type contentReader struct {
	r    io.Reader
	name string
	want digest.Digest
	hash hash.Hash // nil: nobody did
}

func (c *contentReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.hash != nil {
		c.hash.Write(p[:n])
	}
	return n, err
}

// end wants nothing but zeros behind what was read, and the digest (T07, T09).
func (c *contentReader) end() error {
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Read(buf)
		if slices.ContainsFunc(buf[:n], func(b byte) bool { return b != 0 }) {
			return refuse("trailing-data", c.name, "there are bytes behind its end, which other readers may take for more files (T07)")
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if c.hash == nil {
		return nil
	}
	if got := "sha256:" + hex.EncodeToString(c.hash.Sum(nil)); got != c.want.String() {
		return refuse("diff-id", c.name, "its content has digest %s, and is said to be %s (T09)", got, c.want)
	}
	return nil
}

type sumReader struct {
	r    io.Reader
	hash hash.Hash
	n    int64
}

func (s *sumReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.hash.Write(p[:n])
	s.n += int64(n)
	return n, err
}

// WriteTo copies in pieces that are worth hashing.
func (s *sumReader) WriteTo(w io.Writer) (n int64, err error) {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	for {
		read, err := s.Read(*buf)
		if read > 0 {
			written, werr := w.Write((*buf)[:read])
			n += int64(written)
			if werr != nil {
				return n, werr
			}
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// aheadSize and aheadCount are what is decompressed before it is hashed.
const (
	aheadSize  = 256 << 10
	aheadCount = 4
)

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, aheadSize); return &b }}

// A readAhead reads in a goroutine of its own, so that decompressing and
// hashing each have a processor.
type readAhead struct {
	cancel context.CancelFunc
	full   chan piece
	empty  chan []byte
	done   chan struct{}
	now    piece
	left   []byte
}

type piece struct {
	buf []byte
	n   int
	err error
}

func newReadAhead(ctx context.Context, r io.Reader) *readAhead {
	ctx, cancel := context.WithCancel(ctx)
	a := &readAhead{cancel: cancel, full: make(chan piece, aheadCount), empty: make(chan []byte, aheadCount), done: make(chan struct{})}
	for range aheadCount {
		a.empty <- make([]byte, aheadSize)
	}
	go func() {
		defer close(a.done)
		for {
			var buf []byte
			select {
			case buf = <-a.empty:
			case <-ctx.Done():
				return
			}
			n, err := readFull(r, buf)
			select {
			case a.full <- piece{buf, n, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return a
}

// readFull is io.ReadFull with the reader's own error.
func readFull(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var read int
		read, err = r.Read(buf[n:])
		n += read
	}
	return n, err
}

func (a *readAhead) Read(p []byte) (int, error) {
	for len(a.left) == 0 {
		if a.now.err != nil {
			return 0, a.now.err
		}
		if a.now.buf != nil {
			a.empty <- a.now.buf
			a.now.buf = nil
		}
		select {
		case a.now = <-a.full:
		case <-a.done:
			select {
			case a.now = <-a.full:
			default:
				return 0, context.Canceled
			}
		}
		a.left = a.now.buf[:a.now.n]
	}
	n := copy(p, a.left)
	a.left = a.left[n:]
	return n, nil
}

// stop ends the goroutine and waits for it. A read that hangs ends with the
// context of the fetch.
func (a *readAhead) stop() {
	a.cancel()
	<-a.done
}
