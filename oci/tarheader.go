package oci

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

const (
	tarBlock = 512

	// maxTarMetadata bounds the extended headers and long names before one
	// entry, in bytes each: as archive/tar and libarchive do.
	maxTarMetadata = 1 << 20

	// maxTarRecords bounds the records of one extended header: writers know
	// some twenty, and a file has a few attributes.
	maxTarRecords = 1024
)

// codeTarHeader is the code of headers that readers of tar understand
// differently (T06).
const codeTarHeader = "tar-header"

// A tarHeaders hands a tar on to another reader, and refuses what two readers
// may take for other names, sizes or types (T06): archive/tar, GNU tar,
// libarchive, Python's tarfile and others agree on all that it lets through.
// Each of them is lax elsewhere, so what is in doubt is refused here, in every
// entry: one that is outside of the model for us may be inside for others.
type tarHeaders struct {
	r   io.Reader
	err error

	block [tarBlock]byte
	have  int   // bytes of block
	data  int64 // bytes until the next header, with the padding
	zeros int   // blocks of zeros

	meta    byte   // the type of the metadata that is being read, 0: none
	payload []byte // of it
	want    int    // bytes of it that are to come

	before metadata // of the next entry
	last   rawEntry
}

// metadata is what stands before an entry and is about it.
type metadata struct {
	pax, longName, longLink bool
	path                    string // by PAX
	name                    string // by GNU
	size                    int64  // by PAX; -1: no
}

func (m *metadata) any() bool { return m.pax || m.longName || m.longLink }

// rawEntry is an entry as its bytes say.
type rawEntry struct {
	name string
	size int64
	kind byte
}

func newTarHeaders(r io.Reader) *tarHeaders {
	return &tarHeaders{r: r, before: metadata{size: -1}}
}

func (h *tarHeaders) Read(p []byte) (int, error) {
	if h.err != nil {
		return 0, h.err
	}
	n, err := h.r.Read(p)
	if h.err = h.follow(p[:n]); h.err != nil {
		return 0, h.err
	}
	if err == io.EOF {
		if h.err = h.end(); h.err != nil {
			return n, h.err
		}
	}
	return n, err
}

// follow goes on by what was read.
func (h *tarHeaders) follow(p []byte) error {
	for len(p) > 0 {
		if h.data > 0 {
			n := int(min(h.data, int64(len(p))))
			if h.want > 0 {
				wanted := min(h.want, n)
				h.payload = append(h.payload, p[:wanted]...)
				if h.want -= wanted; h.want == 0 {
					if err := h.judgeMetadata(); err != nil {
						return err
					}
				}
			}
			h.data -= int64(n)
			p = p[n:]
			continue
		}
		n := copy(h.block[h.have:], p)
		h.have += n
		p = p[n:]
		if h.have < tarBlock {
			return nil
		}
		h.have = 0
		if err := h.judgeHeader(); err != nil {
			return err
		}
	}
	return nil
}

// end judges the end of the bytes. That the blocks of zeros are missing, no
// reader minds.
func (h *tarHeaders) end() error {
	if h.have > 0 || h.data > 0 {
		return io.ErrUnexpectedEOF // also without the padding: GNU tar drops such a file
	}
	return h.nothingBefore("at the end of the archive")
}

// nothingBefore refuses metadata that nothing follows.
func (h *tarHeaders) nothingBefore(where string) error {
	if h.before.any() {
		return refuse(codeTarHeader, "archive", "%s an extended header is about no entry: readers differ (T06)", where)
	}
	return nil
}

// A tarFileHeaders is a tarHeaders of a file, which archive/tar passes over the
// content of: an archive of a model is not read to know what is in it.
type tarFileHeaders struct {
	*tarHeaders
	file io.Seeker
}

// Seek moves forward inside the content of the current entry, and nowhere else.
func (h tarFileHeaders) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || offset < 0 || offset > h.data || offset > 0 && h.want > 0 {
		return 0, errors.New("not inside the content of an entry")
	}
	at, err := h.file.Seek(offset, io.SeekCurrent)
	if err == nil {
		h.data -= offset
	}
	return at, err
}

// judgeHeader judges one whole block.
func (h *tarHeaders) judgeHeader() error {
	b := h.block[:]
	if isZero(b) {
		h.zeros++
		return h.nothingBefore("at the end of the archive")
	}
	if h.zeros > 0 {
		return tar.ErrHeader // some readers go on behind one block of zeros
	}
	name := tarString(b[:100])
	bad := func(format string, args ...any) error { return refuse(codeTarHeader, name, format, args...) }

	sum, ok := tarNumber(b[148:156])
	if !ok || sum != tarChecksum(b) {
		return tar.ErrHeader
	}
	switch magic := string(b[257:265]); {
	case magic == "ustar\x0000":
		prefix := tarString(b[345:500])
		// Behind a shorter prefix, star has two times.
		if !isZero(b[345+len(prefix):]) {
			return bad("its header has bytes behind the prefix, which only some readers take for times (T06)")
		}
		if prefix != "" {
			name = prefix + "/" + name
		}
	case magic == "ustar  \x00":
		if b[156] != tar.TypeGNUSparse && !isZero(b[345:]) {
			return bad("its header is GNU's and has bytes where others have a prefix of the name: readers differ (T06)")
		}
	case isZero(b[257:265]):
		if !isZero(b[345:]) { // before it, GNU tar writes devices
			return bad("its header is of the oldest kind and has bytes where newer ones have a prefix of the name: readers differ (T06)")
		}
	default:
		return bad("its header has the magic %q, which only some readers know (T06)", magic)
	}
	// Where a number cannot be read, some readers take it for 0, and Python
	// for the end of the archive.
	for _, field := range [][]byte{b[100:108], b[108:116], b[116:124], b[136:148], b[329:337], b[337:345]} {
		if _, ok := tarNumber(field); !ok {
			return bad("its header has a number that readers read differently (T06)")
		}
	}
	size, ok := tarNumber(b[124:136])
	if !ok || size < 0 || size > math.MaxInt64-tarBlock || strings.Trim(string(b[124:136]), " ") == "" {
		return bad("its header has a size that readers read differently (T06)")
	}

	switch kind := b[156]; kind {
	case tar.TypeXHeader, tar.TypeXGlobalHeader, tar.TypeGNULongName, tar.TypeGNULongLink:
		return h.startMetadata(kind, name, size)
	case 0, tar.TypeReg, tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
		return h.startEntry(kind, name, tarString(b[:100]), size)
	default:
		return refuse("special-file", name, "it is a %s, which only some readers know (T02)", entryType(&tar.Header{Typeflag: kind}))
	}
}

// startMetadata begins an extended header or a long name.
func (h *tarHeaders) startMetadata(kind byte, name string, size int64) error {
	m := &h.before
	twice := m.pax && kind == tar.TypeXHeader || m.longName && kind == tar.TypeGNULongName || m.longLink && kind == tar.TypeGNULongLink
	mixed := m.pax && kind != tar.TypeXHeader || kind == tar.TypeXHeader && m.any()
	switch {
	case kind == tar.TypeXGlobalHeader && m.any():
		return refuse(codeTarHeader, name, "a global header stands between another and its entry: readers differ (T06)")
	case twice, mixed:
		return refuse(codeTarHeader, name, "one entry has several extended headers or long names: readers differ in which counts (T06)")
	case size > maxTarMetadata:
		return refuse(codeTarHeader, name, "an extended header or long name has %d bytes, more than %d (T06)", size, maxTarMetadata)
	}
	switch kind {
	case tar.TypeXHeader:
		m.pax = true
	case tar.TypeGNULongName:
		m.longName = true
	case tar.TypeGNULongLink:
		m.longLink = true
	}
	h.meta, h.payload, h.want = kind, h.payload[:0], int(size)
	h.data = tarPadded(size)
	h.last = rawEntry{name: name, size: size, kind: kind}
	if size == 0 {
		return h.judgeMetadata()
	}
	return nil
}

// judgeMetadata judges what was read of metadata, when it is whole.
func (h *tarHeaders) judgeMetadata() error {
	name := h.last.name
	if h.meta == tar.TypeGNULongName || h.meta == tar.TypeGNULongLink {
		long := strings.TrimRight(string(h.payload), "\x00")
		if long == "" || strings.Contains(long, "\x00") {
			return refuse(codeTarHeader, name, "a long name is empty or goes on behind a NUL: readers differ (T06)")
		}
		if h.meta == tar.TypeGNULongName {
			h.before.name = long
		}
		return nil
	}
	records, err := paxRecords(name, string(h.payload))
	if err != nil {
		return err
	}
	for _, r := range records {
		if h.meta == tar.TypeXGlobalHeader {
			err = judgeGlobal(r)
		} else {
			err = h.judgeLocal(r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// harmlessGlobals are the records of global headers that say nothing about
// names and content. The comment is what git archive writes.
var harmlessGlobals = []string{"comment", "mtime", "atime", "ctime", "uid", "gid", "uname", "gname"}

// judgeGlobal judges a record about all entries that follow: some readers obey
// it, and archive/tar does not.
func judgeGlobal(r paxRecord) error {
	switch {
	case r.key == "path":
		return refuse("global-path", "archive", "a global header names what follows: readers differ (T06)")
	case !slices.Contains(harmlessGlobals, r.key):
		return refuse("global-header", "archive", "a global header says %s of what follows: readers differ (T06)", quote(r.key))
	}
	return nil
}

// judgeLocal judges a record about the next entry.
func (h *tarHeaders) judgeLocal(r paxRecord) error {
	bad := func(format string, args ...any) error { return refuse(codeTarHeader, h.last.name, format, args...) }
	switch r.key {
	case "path", "linkpath":
		if r.value == "" || strings.Contains(r.value, "\x00") {
			return bad("an extended header has an empty %s, or one with a NUL: readers differ (T06)", r.key)
		}
		if r.key == "path" {
			h.before.path = r.value
		}
	case "size":
		n, err := strconv.ParseInt(r.value, 10, 64)
		if err != nil || strconv.FormatInt(n, 10) != r.value || n < 0 || n > math.MaxInt64-tarBlock {
			return bad("an extended header has the size %s: readers differ (T06)", quote(r.value))
		}
		h.before.size = n
	case "hdrcharset":
		return bad("an extended header has its own character set, which only some readers know (T06)")
	case "SCHILY.realsize", "SCHILY.filetype", "SUN.holesdata":
		// What star and Solaris say of sparse files and whiteouts.
		return refuse("special-file", h.last.name, "an extended header says %s: only some readers obey it (T02)", quote(r.key))
	}
	if strings.HasPrefix(r.key, "GNU.") {
		// Sparse files and their names, lists of folders, parts of volumes.
		return refuse("special-file", h.last.name, "an extended header says %s: only some readers obey it (T02)", quote(r.key))
	}
	if isOverlayAttribute(r.key) {
		return refuse("whiteout", h.last.name, "the attribute %s hides or moves files of lower layers, which only some consumers do (T03)", quote(r.key))
	}
	return nil
}

// isOverlayAttribute reports whether a record is an attribute that the overlay
// file system takes for its own: opaque folders, whiteouts, redirections.
func isOverlayAttribute(key string) bool {
	_, attribute, ok := strings.Cut(key, ".xattr.") // SCHILY, LIBARCHIVE
	if !ok {
		return false
	}
	if plain, err := url.PathUnescape(attribute); err == nil { // as libarchive writes it
		attribute = plain
	}
	return strings.HasPrefix(attribute, "trusted.overlay.") || strings.HasPrefix(attribute, "user.overlay.")
}

// startEntry begins an entry with the name and the size of its header; field is
// the name without the prefix.
func (h *tarHeaders) startEntry(kind byte, name, field string, size int64) error {
	m := h.before
	h.before = metadata{size: -1}
	headerSize := size
	if m.longName {
		name = m.name
	}
	if m.path != "" {
		name = m.path
	}
	if m.size >= 0 {
		size = m.size
	}
	h.meta, h.want = 0, 0
	h.last = rawEntry{name: name, size: size, kind: kind}
	isFile := kind == 0 || kind == tar.TypeReg
	if !isFile {
		if size != 0 || headerSize != 0 {
			return refuse(codeTarHeader, name, "it is no file and has a size: readers differ in whether content follows (T06)")
		}
		return nil
	}
	// A name that ends in a slash is a folder's: of the oldest kind by the
	// header's name for Python, by the last one for others.
	asFolder, final := kind == 0 && strings.HasSuffix(field, "/"), strings.HasSuffix(name, "/")
	renamed := m.longName || m.path != ""
	if (asFolder || final) && (!asFolder || !final || renamed || size != 0 || headerSize != 0) {
		return refuse(codeTarHeader, name, "it is a file for some readers and a folder for others (T06)")
	}
	h.data = tarPadded(size)
	return nil
}

// agrees holds what archive/tar made of an entry against its bytes.
func (h *tarHeaders) agrees(header *tar.Header) error {
	if header.Typeflag == tar.TypeXGlobalHeader && h.last.kind == tar.TypeXGlobalHeader {
		return nil // its name is nobody's
	}
	if header.Name != h.last.name || header.Size != h.last.size {
		return refuse(codeTarHeader, header.Name, "it is %s with %d bytes for other readers, and not one of %d (T06)", quote(h.last.name), h.last.size, header.Size)
	}
	return nil
}

// A paxRecord is one line of an extended header.
type paxRecord struct{ key, value string }

// paxRecords reads an extended header as POSIX says, and by the letter: readers
// skip, or stop at, different things that are not so.
func paxRecords(name, s string) ([]paxRecord, error) {
	malformed := func(why string) error {
		return refuse(codeTarHeader, name, "an extended header %s: readers differ (T06)", why)
	}
	var records []paxRecord
	seen := map[string]bool{}
	for s != "" {
		digits, _, ok := strings.Cut(s[:min(len(s), 9)], " ")
		n, err := strconv.Atoi(digits)
		if !ok || err != nil || strconv.Itoa(n) != digits || n > len(s) || n < len(digits)+len(" k=\n") || s[n-1] != '\n' {
			return nil, malformed("has a record whose length is wrong")
		}
		key, value, ok := strings.Cut(s[len(digits)+1:n-1], "=")
		if !ok || key == "" || key[0] == ' ' || strings.ContainsFunc(key, unicode.IsControl) {
			return nil, malformed("has a record without a key, or with one that some readers trim")
		}
		if seen[key] {
			return nil, malformed("says " + quote(key) + " twice")
		}
		if len(records) == maxTarRecords {
			return nil, malformed("has more than " + strconv.Itoa(maxTarRecords) + " records")
		}
		seen[key] = true
		records = append(records, paxRecord{key, value})
		s = s[n:]
	}
	return records, nil
}

// tarString is a field up to its NUL.
func tarString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// tarNumber reads a number that all readers read alike: octal digits behind
// spaces, with spaces or NULs behind them; nothing; or GNU's base 256. A
// negative one of those is -1.
func tarNumber(b []byte) (n int64, ok bool) {
	switch b[0] {
	case 0xff:
		return -1, true
	case 0x80:
		for _, c := range b[1:] {
			if n > math.MaxInt64>>8 {
				return 0, false
			}
			n = n<<8 | int64(c)
		}
		return n, true
	}
	digits := bytes.TrimLeft(b, " ")
	end := bytes.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '7' })
	if end < 0 {
		end = len(digits)
	}
	if end == 0 {
		return 0, len(bytes.Trim(b, " \x00")) == 0
	}
	for _, c := range digits[:end] {
		n = n<<3 | int64(c-'0') // 12 digits at most
	}
	return n, len(bytes.Trim(digits[end:], " \x00")) == 0
}

// tarChecksum is the sum of a header's bytes, its own field taken for spaces.
func tarChecksum(b []byte) int64 {
	sum := int64(8 * ' ')
	for i, c := range b {
		if i < 148 || i >= 156 {
			sum += int64(c)
		}
	}
	return sum
}

// tarPadded is the size with what fills the last block.
func tarPadded(size int64) int64 { return (size + tarBlock - 1) &^ (tarBlock - 1) }

func isZero(b []byte) bool {
	return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 })
}
