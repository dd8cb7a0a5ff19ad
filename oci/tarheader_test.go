package oci_test

import (
	"archive/tar"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

// Fields of a raw header and their offsets.
const (
	fieldSize, fieldMode, fieldTime, fieldSum, fieldMagic, fieldMajor, fieldPrefix, fieldEnd = 124, 100, 136, 148, 257, 329, 345, 500
)

const (
	ustarMagic = "ustar\x0000"
	gnuMagic   = "ustar  \x00"
	nul        = "\x00"
)

// raw is a header by its bytes: fields are put over what header writes, and the
// checksum is made last.
func raw(name string, typeflag byte, size int, fields map[int]string) string {
	block := []byte(header(name, typeflag, size))
	if typeflag == tar.TypeGNUSparse {
		clear(block[fieldPrefix:])
	}
	sum, hasSum := fields[fieldSum]
	for at, value := range fields {
		if at != fieldSum {
			copy(block[at:], value)
		}
	}
	copy(block[fieldSum:], "        ")
	n := 0
	for _, b := range block {
		n += int(b)
	}
	if !hasSum {
		sum = "%06o\x00 "
	}
	copy(block[fieldSum:], fmt.Sprintf(sum, n))
	return string(block)
}

// padded is content to the end of its last block.
func padded(s string) string { return s + strings.Repeat("\x00", (512-len(s)%512)%512) }

// plainFile is a file of the usual kind.
func plainFile(name, content string) string {
	return raw(name, tar.TypeReg, len(content), nil) + padded(content)
}

// record is one of PAX.
func record(key, value string) string {
	s := fmt.Sprintf(" %s=%s\n", key, value)
	n := len(s)
	for len(fmt.Sprint(n))+len(s) != n {
		n = len(fmt.Sprint(n)) + len(s)
	}
	return fmt.Sprint(n) + s
}

func meta(typeflag byte, payload string) string {
	return raw("meta", typeflag, len(payload), nil) + padded(payload)
}

// pax is an extended header with keys and values.
func pax(typeflag byte, pairs ...string) string {
	var s strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		s.WriteString(record(pairs[i], pairs[i+1]))
	}
	return meta(typeflag, s.String())
}

// ended has the blocks of zeros.
func ended(s string) string { return s + strings.Repeat(nul, 1024) }

func local(pairs ...string) string  { return pax(tar.TypeXHeader, pairs...) }
func global(pairs ...string) string { return pax(tar.TypeXGlobalHeader, pairs...) }
func longName(s string) string      { return meta(tar.TypeGNULongName, s+"\x00") }

// An oddTar is refused wherever it stands.
type oddTar struct {
	name, code string
	content    func(in string) string // of entries below a folder
}

// oddTars are what readers of tar understand differently: of each, two of
// archive/tar, GNU tar, Python's tarfile, libarchive and node-tar make other
// names, sizes or types.
func oddTars() []oddTar {
	fields := func(typeflag byte, size int, fields map[int]string) func(string) string {
		return func(in string) string { return raw(in+"x", typeflag, size, fields) + padded(strings.Repeat("x", size)) }
	}
	before := func(meta string) func(string) string {
		return func(in string) string { return meta + plainFile(in+"x", "x") }
	}
	inner := func(in string) string { return raw(in+"hidden", tar.TypeReg, 4, nil) + padded("EVIL") }
	return []oddTar{
		{"a path twice by two headers", "tar-header", func(in string) string {
			return local("path", in+"one") + local("path", in+"two") + plainFile(in+"x", "x")
		}},
		{"a path twice in one header", "tar-header", func(in string) string { return local("path", in+"one", "path", in+"two") + plainFile(in+"x", "x") }},
		{"two long names", "tar-header", func(in string) string { return longName(in+"one") + longName(in+"two") + plainFile(in+"x", "x") }},
		{"two long link names", "tar-header", before(meta(tar.TypeGNULongLink, "one\x00") + meta(tar.TypeGNULongLink, "two\x00"))},
		{"a path, then a long name", "tar-header", func(in string) string { return local("path", in+"one") + longName(in+"two") + plainFile(in+"x", "x") }},
		{"a long name, then a path", "tar-header", func(in string) string { return longName(in+"two") + local("path", in+"one") + plainFile(in+"x", "x") }},
		{"a long link name, then a path", "tar-header", func(in string) string {
			return meta(tar.TypeGNULongLink, "l\x00") + local("path", in+"one") + plainFile(in+"x", "x")
		}},
		{"a long name that is empty", "tar-header", before(longName(""))},
		{"a long name that goes on", "tar-header", func(in string) string { return longName(in+"one\x00two") + plainFile(in+"x", "x") }},
		{"a long name without an end", "tar-header", before(raw("meta", tar.TypeGNULongName, 2<<20, nil) + strings.Repeat("x", 2<<20))},
		{"a global header behind a path", "tar-header", func(in string) string {
			return local("path", in+"one") + global("comment", "c") + plainFile(in+"x", "x")
		}},
		{"a global path", "global-path", func(in string) string { return global("path", in+"one") + plainFile(in+"x", "x") }},
		{"a global link path", "global-header", before(global("linkpath", "one"))},
		{"a global size", "global-header", before(global("size", "0"))},
		{"a global sparse name", "global-header", func(in string) string { return global("GNU.sparse.name", in+"one") + plainFile(in+"x", "x") }},
		{"a global attribute", "global-header", before(global("SCHILY.xattr.user.x", "y"))},
		{"a global character set", "global-header", before(global("hdrcharset", "BINARY"))},
		{"a character set", "tar-header", before(local("hdrcharset", "BINARY"))},
		{"a sparse file by its map", "special-file", before(local("GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "1"))},
		{"a sparse name alone", "special-file", func(in string) string { return local("GNU.sparse.name", in+"one") + plainFile(in+"x", "x") }},
		{"the real size of star", "special-file", before(local("SCHILY.realsize", "0"))},
		{"the holes of Solaris", "special-file", before(local("SUN.holesdata", " 0 1"))},
		{"the list of a folder", "special-file", before(local("GNU.dumpdir", "Yx"))},
		{"an opaque folder by attribute", "whiteout", func(in string) string {
			return local("SCHILY.xattr.trusted.overlay.opaque", "y") + raw(in+"d", tar.TypeDir, 0, nil)
		}},
		{"an opaque folder by a user's attribute", "whiteout", func(in string) string {
			return local("SCHILY.xattr.user.overlay.opaque", "y") + raw(in+"d", tar.TypeDir, 0, nil)
		}},
		{"a redirection by attribute", "whiteout", before(local("LIBARCHIVE.xattr.trusted%2eoverlay.redirect", "eA"))},
		{"an empty path", "tar-header", before(local("path", ""))},
		{"an empty link path", "tar-header", before(local("linkpath", ""))},
		{"a path with a NUL", "tar-header", before(local("path", "a\x00b"))},
		{"a size with a sign", "tar-header", before(local("size", "+1"))},
		{"a size in words", "tar-header", before(local("size", "one"))},
		{"no size", "tar-header", before(local("size", ""))},
		{"a size that is negative", "tar-header", before(local("size", "-1"))},
		{"a record with a sign", "tar-header", before(meta(tar.TypeXHeader, "+9 path=x\n"))},
		{"a record with a zero before it", "tar-header", before(meta(tar.TypeXHeader, "010 path=x\n"))},
		{"a record that is longer than the header", "tar-header", before(meta(tar.TypeXHeader, "99 path=x\n"))},
		{"a record without an end", "tar-header", before(meta(tar.TypeXHeader, "9 path=x\nz"))},
		{"a key that is trimmed", "tar-header", before(meta(tar.TypeXHeader, "10  path=x\n"))},
		{"a record without a key", "tar-header", before(meta(tar.TypeXHeader, "7 =path\n"[:8]))},
		{"NULs behind the records", "tar-header", before(meta(tar.TypeXHeader, record("path", "x")+"\x00"))},
		{"too many records", "tar-header", func(in string) string {
			var s strings.Builder
			for i := range 1025 {
				s.WriteString(record(fmt.Sprint("k", i), "v"))
			}
			return meta(tar.TypeXHeader, s.String()) + plainFile(in+"x", "x")
		}},
		{"an extended header of Solaris", "special-file", func(in string) string { return pax('X', "path", in+"one") + plainFile(in+"x", "x") }},
		{"a sparse file of GNU", "special-file", fields(tar.TypeGNUSparse, 0, nil)},
		{"a contiguous file", "special-file", fields(tar.TypeCont, 1, nil)},
		{"a label", "special-file", fields('V', 0, nil)},
		{"a part of a volume", "special-file", fields('M', 512, nil)},
		{"a type of nobody", "special-file", fields('Q', 512, nil)},
		{"an old header with a prefix", "tar-header", fields(tar.TypeReg, 0, map[int]string{fieldMagic: strings.Repeat("\x00", 8), fieldPrefix: "models"})},
		{"an old header with a device", "tar-header", fields(tar.TypeReg, 0, map[int]string{fieldMagic: strings.Repeat("\x00", 8), fieldMajor: "zz"})},
		{"a header of GNU with a prefix", "tar-header", fields(tar.TypeReg, 0, map[int]string{fieldMagic: gnuMagic, fieldPrefix: "models"})},
		{"a header of GNU with a time", "tar-header", fields(tar.TypeReg, 0, map[int]string{fieldMagic: gnuMagic, fieldPrefix: "00000000777\x00"})},
		{"a header of star", "tar-header", fields(tar.TypeReg, 0, map[int]string{fieldPrefix: "p", fieldEnd + 8: "tar\x00"})},
		{"times of star behind the prefix", "tar-header", fields(tar.TypeReg, 0, map[int]string{fieldPrefix: "p", 476: "00000000777 "})},
		{"a magic of nobody", "tar-header", fields(tar.TypeReg, 0, map[int]string{fieldMagic: "ustar 00"})},
		{"a version of nobody", "tar-header", fields(tar.TypeReg, 0, map[int]string{fieldMagic: "ustar\x0001"})},
		{"a mode that Python cannot read", "tar-header", fields(tar.TypeReg, 0, map[int]string{fieldMode: "\x81\x00\x00\x00\x00\x00\x00\x00"})},
		{"a time that Python takes for 0", "tar-header", fields(tar.TypeReg, 0, map[int]string{fieldTime: "\x0000000000001"})},
		{"a device that is no number", "tar-header", fields(tar.TypeReg, 0, map[int]string{fieldMajor: "00000x0\x00"})},
		{"a size behind a NUL", "tar-header", fields(tar.TypeReg, 4, map[int]string{fieldSize: "\x0000000000004"})},
		{"a size with more behind it", "tar-header", fields(tar.TypeReg, 4, map[int]string{fieldSize: "4\x00 777777777"})},
		{"a size of spaces", "tar-header", fields(tar.TypeReg, 0, map[int]string{fieldSize: "            "})},
		{"a size that is negative, in base 256", "tar-header", fields(tar.TypeReg, 0, map[int]string{fieldSize: strings.Repeat("\xff", 12)})},
		{"a size that is too large", "tar-header", fields(tar.TypeReg, 0, map[int]string{fieldSize: "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff"})},
		{"a checksum behind a NUL", "not-an-archive", fields(tar.TypeReg, 0, map[int]string{fieldSum: "\x00%06o "})},
		{"a file whose name is a folder's", "tar-header", func(in string) string { return plainFile(in+"x/", "x") }},
		{"an empty file whose name is a folder's", "tar-header", func(in string) string { return plainFile(in+"x/", "") }},
		{"an old folder with content", "tar-header", func(in string) string { return raw(in+"x/", 0, 1024, nil) + inner(in) }},
		{"an old file with the path of a folder", "tar-header", func(in string) string { return local("path", in+"x/") + raw(in+"x", 0, 1024, nil) + inner(in) }},
		{"an old folder with the path of a file", "tar-header", func(in string) string { return local("path", in+"x") + raw(in+"x/", 0, 0, nil) }},
		{"an old folder with another's path", "tar-header", func(in string) string { return local("path", in+"y/") + raw(in+"x/", 0, 0, nil) }},
		{"a folder with content", "tar-header", func(in string) string { return raw(in+"d/", tar.TypeDir, 1024, nil) + inner(in) }},
		{"a folder with content by PAX", "tar-header", func(in string) string {
			return local("size", "1024") + raw(in+"d/", tar.TypeDir, 0, nil) + inner(in)
		}},
		{"a link with content", "tar-header", func(in string) string { return raw(in+"l", tar.TypeSymlink, 1024, nil) + inner(in) }},
		{"a hard link with content", "tar-header", func(in string) string { return raw(in+"l", tar.TypeLink, 1024, nil) + inner(in) }},
		{"a device with content", "tar-header", func(in string) string { return raw(in+"c", tar.TypeChar, 1024, nil) + inner(in) }},
		{"an extended header behind all entries", "tar-header", func(string) string { return local("mtime", "1") }},
		{"an extended header before nothing", "tar-header", func(string) string { return local("mtime", "1") }},
		{"a long name behind all entries", "tar-header", func(in string) string { return longName(in + "x") }},
	}
}

// T06: what readers understand differently is refused inside of a model, and
// outside, where it may be inside for others.
func TestUnpackRefusesTwoReadings(t *testing.T) {
	all := map[string]packing{}
	for _, p := range packings() {
		all[p.name] = p
	}
	for _, test := range oddTars() {
		for _, place := range []struct{ packing, good, in string }{
			{"ModelPack, tar", "a", ""},
			{"a container image", "models/a", "etc/"},
		} {
			t.Run(test.name+"/"+place.packing+"/"+place.in, func(t *testing.T) {
				content := plainFile(place.good, "good") + test.content(place.in)
				if !strings.HasSuffix(test.name, "before nothing") { // not even zeros
					content = ended(content)
				}
				_, err := unpack(t, all[place.packing].store(t, content), oci.FilesOptions{Allow: manifest.Threats()}, oci.UnpackOptions{})
				wantThreat(t, err, test.code)
			})
		}
	}
	t.Run("a last block without its padding", func(t *testing.T) {
		content := plainFile("a", "good") + plainFile("b", "b")
		_, err := unpack(t, all["ModelPack, tar+gzip"].store(t, content[:len(content)-511]), oci.FilesOptions{}, oci.UnpackOptions{})
		wantThreat(t, err, "not-an-archive")
	})
	t.Run("an entry behind one block of zeros", func(t *testing.T) {
		content := plainFile("a", "good") + strings.Repeat(nul, 512) + plainFile("b", "b")
		_, err := unpack(t, all["ModelPack, tar"].store(t, ended(content)), oci.FilesOptions{}, oci.UnpackOptions{})
		wantThreat(t, err, "not-an-archive")
	})
}

// What writers of tar write is read, in each of their formats.
func TestUnpackReadsWriters(t *testing.T) {
	long := strings.Repeat("d/", 60) + "long"
	deep := strings.Repeat("n", 99) + "/" + strings.Repeat("n", 99) // cut at a slash in the header
	link := func(name, content string) string {
		return raw(name, tar.TypeReg, len(content), map[int]string{fieldMagic: gnuMagic}) + padded(content)
	}
	of := func(format tar.Format, e entry) entry {
		e.Format = format
		return e
	}
	global := func(key, value string) string { return pax(tar.TypeXGlobalHeader, key, value) }
	for _, test := range []struct {
		name, content string
		want          []string
	}{
		{"git archive", ended(global("comment", strings.Repeat("a", 40)) + plainFile("a", "a")), []string{"a"}},
		{"global times and owners", ended(global("mtime", "1") + global("uname", "root") + plainFile("a", "a")), []string{"a"}},
		{"an extended header with times, attributes and a comment", ended(local("mtime", "1700000000.5", "atime", "1", "SCHILY.xattr.security.capability", "\x01\x00\n\x00", "LIBARCHIVE.xattr.user.a b", "x", "comment", "c", "SCHILY.dev", "1", "uid", "9999999") + plainFile("a", "a")), []string{"a"}},
		{"a path and a size by PAX", ended(local("path", long, "size", "3") + raw("x", tar.TypeReg, 0, nil) + padded("abc")), []string{long}},
		{"GNU: a long name", ended(longName(long) + link(long[:100], "a")), []string{long}},
		{"GNU: a long name and a long link name", ended(longName(long) + meta(tar.TypeGNULongLink, "x\x00") + link(long[:100], "a")), []string{long}},
		{"a name that the header cuts at a slash", ended(local("path", deep) + plainFile(deep[:100], "a")), []string{deep}},
		{"ustar: a prefix", ended(raw("a", tar.TypeReg, 1, map[int]string{fieldPrefix: "some/where"}) + padded("a")), []string{"some/where/a"}},
		{"ustar: the longest prefix", ended(raw("a", tar.TypeReg, 1, map[int]string{fieldPrefix: strings.Repeat("p/", 77) + "p"}) + padded("a")), []string{strings.Repeat("p/", 78) + "a"}},
		{"of the oldest kind", ended(raw("d/", 0, 0, map[int]string{fieldMagic: strings.Repeat("\x00", 8)}) + raw("d/a", 0, 1, map[int]string{fieldMagic: strings.Repeat("\x00", 8)}) + padded("a")), []string{"d/a"}},
		{"of the oldest kind, by GNU tar", ended(raw("a", 0, 1, map[int]string{fieldMagic: strings.Repeat("\x00", 8), fieldMajor: "0000000\x000000000\x00"}) + padded("a")), []string{"a"}},
		{"a size in base 256", ended(raw("a", tar.TypeReg, 1, map[int]string{fieldSize: "\x80" + strings.Repeat("\x00", 10) + "\x01"}) + padded("a")), []string{"a"}},
		{"a time before 1970", ended(raw("a", tar.TypeReg, 1, map[int]string{fieldTime: strings.Repeat("\xff", 12)}) + padded("a")), []string{"a"}},
		{"numbers with spaces", ended(raw("a", tar.TypeReg, 1, map[int]string{fieldMode: "   644 \x00", fieldSize: "          1 ", fieldSum: "%06o \x00"}) + padded("a")), []string{"a"}},
		{"no devices", ended(raw("a", tar.TypeReg, 1, map[int]string{fieldMajor: strings.Repeat("\x00", 16)}) + padded("a")), []string{"a"}},
		{"no blocks of zeros", plainFile("a", "a"), []string{"a"}},
		{"blocks of zeros to a record", ended(plainFile("a", "a")) + strings.Repeat(nul, 9<<10), []string{"a"}},
		{"archive/tar in all formats", tarball(t, of(tar.FormatUSTAR, regular("a", "a")), of(tar.FormatPAX, regular(long, "a")), of(tar.FormatGNU, regular(long+"2", "a")), of(tar.FormatPAX, folder("é/")), of(tar.FormatGNU, regular("é/a", "a"))), []string{"a", long, long + "2", "é/a"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			files, err := unpack(t, packing{mediaType: typeWeight + "tar", pack: plain}.store(t, test.content), oci.FilesOptions{}, oci.UnpackOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := names(files.Files); !slices.Equal(got, test.want) {
				t.Errorf("files %q, want %q", got, test.want)
			}
		})
	}
}
