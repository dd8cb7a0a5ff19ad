package oci

import (
	"archive/tar"
	"path"
	"strings"

	"github.com/modelsig/modelsig/manifest"
)

// entry judges one header: it is a file of the model, or no matter of the
// model, or refused.
func (s Source) entry(h *tar.Header) (name string, isFile bool, err error) {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return "", false, nil // a harmless one: see tarHeaders
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
