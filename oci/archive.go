package oci

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/manifest"
)

// maxArchiveEntries bounds what an archive's table of contents takes.
const maxArchiveEntries = 1_000_000

// An archive is the table of contents of a tar file: where each regular file's
// bytes lie. The bytes are read from the file when asked for.
type archive struct {
	path    string
	entries map[string]section
}

type section struct{ offset, size int64 }

// openArchive reads all headers of an uncompressed tar file. A name that
// occurs twice is refused, and so are headers that readers understand
// differently, and bytes behind the end (T04, T06, T07): what is verified here
// is what another tool loads.
func openArchive(file string) (*archive, error) {
	f, err := openPlain(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	a := &archive{path: file, entries: map[string]section{}}
	headers := newTarHeaders(f)
	reader := tar.NewReader(tarFileHeaders{headers, f})
	for n := 0; ; n++ {
		header, err := reader.Next()
		if err == io.EOF {
			if err := (&contentReader{r: f, name: "archive"}).end(); err != nil {
				return nil, err
			}
			return a, nil
		}
		if err == nil {
			err = headers.agrees(header)
		}
		if threat, ok := errors.AsType[*manifest.ThreatError](err); ok {
			return nil, threat
		}
		if err != nil {
			return nil, fmt.Errorf("read archive: %w (an image layout archive is an uncompressed tar)", err)
		}
		if n >= maxArchiveEntries {
			return nil, fmt.Errorf("read archive: more than %d entries", maxArchiveEntries)
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue // a harmless one: see tarHeaders
		}
		name := path.Clean("/" + header.Name)[1:]
		if !isLayoutFile(name) {
			if header.Typeflag != tar.TypeDir && isLayoutFolder(name) {
				return nil, refuse("special-file", name, "it stands where the layout has a folder (T02)")
			}
			continue // names are the archive's own, and could be long
		}
		if header.Typeflag != tar.TypeReg || name != path.Clean(header.Name) {
			return nil, refuse("special-file", name, "it is not a regular file, or has an absolute name: readers differ (T01, T02)")
		}
		if _, ok := a.entries[name]; ok {
			return nil, refuse("duplicate-entry", name, "the archive has two entries with this name")
		}
		// tar.Reader reads whole headers only, so the file's position is the
		// start of the content.
		offset, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		a.entries[name] = section{offset, header.Size}
	}
}

// isLayoutFile reports whether name is a file of an image layout that is read.
func isLayoutFile(name string) bool {
	if name == ocispec.ImageIndexFile || name == ocispec.ImageLayoutFile {
		return true
	}
	encoded, ok := strings.CutPrefix(name, ocispec.ImageBlobsDir+"/sha256/")
	return ok && digest.NewDigestFromEncoded(digest.SHA256, encoded).Validate() == nil
}

// isLayoutFolder reports whether name is a folder that files of a layout are in.
func isLayoutFolder(name string) bool {
	return name == "" || name == ocispec.ImageBlobsDir || name == ocispec.ImageBlobsDir+"/sha256"
}

func (a *archive) open(name string) (io.ReadCloser, error) {
	s, ok := a.entries[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	f, err := openPlain(a.path)
	if err != nil {
		return nil, err
	}
	return &archiveFile{io.NewSectionReader(f, s.offset, s.size), f}, nil
}

type archiveFile struct {
	*io.SectionReader
	io.Closer
}

// openPlain opens a regular file, and does not wait for a FIFO (rule 37).
func openPlain(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
