package oci

import (
	"archive/tar"
	"path"
	"strings"
	"sync"

	"github.com/modelsig/modelsig/manifest"
)

// An entryKind is what an entry of an archive is to the model.
type entryKind int

const (
	noEntry      entryKind = iota // nothing: a global header, the top folder
	fileEntry                     // a file of the model
	folderEntry                   // a folder of the model
	outsideEntry                  // of the image, and not of the model
)

// entry judges one header: what it is, and its name in the model, or beside it.
func (s Source) entry(h *tar.Header) (name string, kind entryKind, err error) {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return "", noEntry, nil // a harmless one: see tarHeaders
	}
	// "./a" is what tar writes when it is told to pack ".".
	name = strings.TrimPrefix(h.Name, "./")
	isDir := h.Typeflag == tar.TypeDir
	if isDir {
		name = strings.TrimSuffix(name, "/")
		if name == "" || name == "." {
			return "", noEntry, nil
		}
	}
	below, ok := s.below(name)
	if s.root != "" && !ok {
		// systemd has a unit system-\x2d.slice: what is beside the model never
		// gets to Windows.
		if err := manifest.CheckName(strings.ReplaceAll(name, `\`, "_")); err != nil {
			return "", noEntry, err
		}
	} else if err := manifest.CheckName(name); err != nil {
		return "", noEntry, err
	}
	if s.root != "" {
		if err := s.whiteout(name); err != nil {
			return "", noEntry, err
		}
		if !ok {
			return name, outsideEntry, nil
		}
		if below == "" {
			if isDir {
				return "", noEntry, nil
			}
			return "", noEntry, refuse("special-file", name, "it stands where the folder of the model is (T01)")
		}
		name = below
	}
	if isDir {
		if s.Name != "" && name != s.Name && !strings.HasPrefix(name, s.Name+"/") && !strings.HasPrefix(s.Name, name+"/") {
			return "", noEntry, refuse("entry-outside", name, "the layer is the folder %s (T05)", quote(s.Name))
		}
		return name, folderEntry, nil
	}
	if h.Typeflag != tar.TypeReg || isSparse(h) {
		return "", noEntry, refuse("special-file", name, "it is a %s, and not a file or a folder (T01, T02)", entryType(h))
	}
	if s.Name != "" && !strings.HasPrefix(name, s.Name+"/") && (name != s.Name || s.folderOnly()) {
		return "", noEntry, refuse("entry-outside", name, "the layer is %s (T05)", quote(s.Name))
	}
	return name, fileEntry, nil
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

// maxBeside bounds what is kept in memory of the entries of a container image
// that are beside its model, folders and links, in bytes. Images of whole
// distributions have 20,000 of each, which is 5 MiB.
const maxBeside = 32 << 20

// besideCost is what one of them takes but for its name.
const besideCost = 64

// A beside is what the layers of a container image have beside the model. A
// link there can lead into the model: where x is a link to models, consumers
// that follow it write models/a when they are to write x/a (T01). So nothing
// may stand below a link, wherever the link leads, which links in other layers
// can change. Links alone are harmless, and base images are full of them.
type beside struct {
	mu      sync.Mutex
	bytes   int
	folders map[string]string    // what something is below of → the first name that is
	links   map[layerLink]string // what is neither a file nor a folder → what it is
}

type layerLink struct {
	name  string
	layer int
}

// add takes an entry of the image that is not of the model.
func (b *beside) add(s Source, name string, h *tar.Header) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.folders == nil {
		b.folders, b.links = map[string]string{}, map[layerLink]string{}
	}
	b.below(name)
	switch h.Typeflag {
	case tar.TypeDir:
	case tar.TypeReg:
		// Python's tarfile writes to what the link leads to.
		if what, ok := b.links[layerLink{name, s.Layer}]; ok {
			return refuse("duplicate-name", name, "it is a file, and before it a %s (T01, T04)", what)
		}
	case tar.TypeLink:
		target := strings.TrimPrefix(strings.TrimPrefix(h.Linkname, "/"), "./")
		if err := manifest.CheckName(strings.ReplaceAll(target, `\`, "_")); err != nil {
			return refuse("special-file", name, "it is a %s, which is no clean path: consumers differ in what it is (T01)", entryType(h))
		}
		if _, ok := s.below(target); ok {
			return refuse("special-file", name, "it is a %s in the model: what is written to one is written to the other (T01)", entryType(h))
		}
		b.below(target)
		b.link(s, name, h)
	default:
		b.link(s, name, h)
	}
	if b.bytes > maxBeside {
		return refuse("too-many-entries", "archive", "the folders and links beside the model take more than %d bytes (T08)", maxBeside)
	}
	return nil
}

// below adds the folders that a name is in.
func (b *beside) below(name string) {
	kept := false
	for i := strings.LastIndexByte(name, '/'); i > 0; i = strings.LastIndexByte(name[:i], '/') {
		folder := name[:i]
		if _, ok := b.folders[folder]; ok {
			return // and so are those that it is in
		}
		if !kept {
			kept = true
			b.bytes += len(name) // its folders are parts of it
		}
		b.folders[folder] = name
		b.bytes += besideCost
	}
}

func (b *beside) link(s Source, name string, h *tar.Header) {
	key := layerLink{name, s.Layer}
	if _, ok := b.links[key]; !ok {
		b.links[key] = entryType(h)
		b.bytes += len(name) + len(b.links[key]) + besideCost
	}
}

// judge is called when all layers were read: a link may be in any of them.
func (b *beside) judge() error {
	var found *layerLink
	for link := range b.links {
		if _, ok := b.folders[link.name]; ok && (found == nil || link.name < found.name) {
			found = &link
		}
	}
	if found == nil {
		return nil
	}
	return refuse("special-file", b.folders[found.name], "it is below %s, which is a %s: what is written through it may be written into the model (T01)",
		quote(found.name), b.links[*found])
}
