package oci

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/modelsig/modelsig/manifest"
)

// maxModelConfig bounds a config that is read, in bytes. It lists a few members
// a layer, and the manifest with all layers has at most MaxManifest.
const maxModelConfig = MaxManifest

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
	// read. It is called by several goroutines. nil: all are read. What is not
	// a file of the model is not known of such a layer, so that its folders, and
	// links beside the model, are not judged: it is for callers who write the files
	// themselves, through no links.
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
// is no file or folder, and what is below a link beside the model (T01, T02), whiteouts (T03), a name twice (T04), an entry
// outside its folder (T05), headers that parsers read differently (T06), bytes
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
	if err := u.beside.judge(); err != nil {
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
	folders    map[string]bool // those that have an entry; none of a layer that was known
}

// collect joins what was found. A file that is in two layers is refused; of a
// container image the later one is what counts, where that is allowed (T04).
func (p *Plan) collect(found []contents) (*Files, error) {
	seen := map[string]int{} // only where layers may hold one name
	var all []manifest.File
	var executable []string
	folders := map[string]bool{}
	for i, c := range found {
		maps.Copy(folders, c.folders)
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
	if err := p.checkFolders(files, folders); err != nil {
		return nil, err
	}
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

// folderMark stands for a file in a folder that has none.
const folderMark = "/~folder~"

// checkFolders applies the rules for names to the folders that have an entry
// and no file: a consumer makes them, in the place of a file of that name, or a
// file in theirs (N10 to N13, N20b, T04). Of those that have a file, its name is
// judged. They are not listed: OMS has files only.
func (p *Plan) checkFolders(files *Files, folders map[string]bool) error {
	names := slices.Concat(files.GitFiles, p.mapping.files.Added)
	for _, f := range files.Files {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	count := len(names)
	for _, folder := range slices.Sorted(maps.Keys(folders)) {
		for above := folder; above != "."; above = path.Dir(above) {
			if _, ok := slices.BinarySearch(names[:count], above); ok {
				return refuse("file-and-folder", above, "a file has this name, and a folder (N13)")
			}
		}
		at, _ := slices.BinarySearch(names[:count], folder+"/")
		if at == count || !strings.HasPrefix(names[at], folder+"/") {
			// As if it had a file. It has a number, so that folders which differ
			// in letter case only are one folder, as elsewhere, and no collision.
			names = append(names, fmt.Sprintf("%s%s%d", folder, folderMark, len(names)))
		}
	}
	if len(names) == count {
		return nil
	}
	known := map[string]bool{}
	for _, w := range files.Warnings {
		known[w.Code+w.Error()] = true
	}
	warnings, err := manifest.CheckNames(names, p.mapping.o.Allow)
	if threat, ok := errors.AsType[*manifest.ThreatError](err); ok {
		return ofFolder(threat)
	}
	for _, w := range warnings {
		if !known[w.Code+w.Error()] {
			files.Warnings = append(files.Warnings, ofFolder(w))
		}
	}
	return err
}

var folderMarks = regexp.MustCompile(folderMark + "[0-9]+")

// ofFolder is a threat without what stood for a file.
func ofFolder(t *manifest.ThreatError) *manifest.ThreatError {
	out := *t
	out.Name, out.Reason = folderMarks.ReplaceAllString(t.Name, "/"), folderMarks.ReplaceAllString(t.Reason, "/")
	return &out
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
	// Of all archives.
	entries, names, folders atomic.Int64
	beside                  beside // the model
}

// known is what a layer holds: by Have, or by reading it.
func (u *unpacker) known(ctx context.Context, s Source) (contents, error) {
	if s.Packed() && u.o.Have != nil {
		if files, executable, ok := u.o.Have(s); ok {
			return contents{files: files, executable: executable}, nil
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

// What the names in all archives of one model may be together, so that little
// that was compressed well takes no memory beside the 1 KiB a file that is
// planned for, and makes no forest of folders. Names of real models have 30
// bytes and two folders, those of images 80 and six.
const (
	maxNames       = 16 << 20 // bytes
	maxNamesEach   = 256      // and as many more for each entry
	maxFolders     = 1_000_000
	maxFoldersEach = 16
)

// count counts an entry by its header, before anything of it is kept.
func (u *unpacker) count(h *tar.Header) error {
	size := u.names.Add(int64(len(h.Name) + len(h.Linkname)))
	folders := u.folders.Add(int64(strings.Count(h.Name, "/")))
	entries := u.entries.Add(1) // last: other layers are counted meanwhile
	switch {
	case entries > maxUnpacked:
		return refuse("too-many-entries", "archive", "the archives have more than %d entries", maxUnpacked)
	case size > maxNames+maxNamesEach*entries:
		return refuse("names-too-long", "archive", "the names of %d entries have more than %d bytes, and %d each (T08)", entries, maxNames, maxNamesEach)
	case folders > maxFolders+maxFoldersEach*entries:
		return refuse("names-too-long", "archive", "the names of %d entries have more than %d folders, and %d each (T08)", entries, maxFolders, maxFoldersEach)
	}
	return nil
}

// archive reads a tar.
func (u *unpacker) archive(s Source, stream io.Reader) (contents, error) {
	var found contents
	headers := newTarHeaders(stream)
	reader := tar.NewReader(headers)
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return found, nil
		}
		if err == nil {
			err = headers.agrees(header)
		}
		if err != nil {
			return contents{}, notArchive(err)
		}
		if err := u.count(header); err != nil {
			return contents{}, err
		}
		name, kind, err := s.entry(header)
		if kind == outsideEntry {
			err = u.beside.add(s, name, header)
		}
		if err != nil {
			return contents{}, err
		}
		if kind == folderEntry {
			if found.folders == nil {
				found.folders = map[string]bool{}
			}
			found.folders[name] = true
		}
		if kind != fileEntry {
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
