// Package manifest is the OMS manifest: which files a model has, their
// digests, and the in-toto statement that says so (OpenSSF Model Signing
// v1.0, "OMS").
//
// It knows no keys, no registry and no network. Others sign the bytes it
// makes, and hand it bytes whose signature they checked.
//
// # Format
//
// The signed payload is an in-toto Statement v1 in JSON:
//
//	{
//	  "_type": "https://in-toto.io/Statement/v1",
//	  "subject": [{
//	    "name": "tiny",
//	    "digest": {"sha256": "6d579d56e009c61479c978ad4849556a6e6cee5ad4ba63e478acb2525cdc8fa5"}
//	  }],
//	  "predicateType": "https://model_signing/signature/v1.0",
//	  "predicate": {
//	    "resources": [
//	      {"name": "config.json",
//	       "digest": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
//	       "algorithm": "sha256"},
//	      {"name": "weights/a.bin",
//	       "digest": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
//	       "algorithm": "sha256"}
//	    ],
//	    "serialization": {
//	      "method": "files",
//	      "hash_type": "sha256",
//	      "allow_symlinks": false,
//	      "ignore_paths": [".git", ".gitignore", ".gitattributes", ".github"]
//	    }
//	  }
//	}
//
// This is the model with config.json of the two bytes "{}" and weights/a.bin
// of the five bytes "hello". To make the statement:
//
//  1. Walk the folder. Every regular file is a resource; its name is the path
//     below the folder with "/" between segments, in UTF-8, byte for byte as
//     the file system has it (no Unicode normalization). A model that is one
//     file has one resource, named as the file. Folders are no resources.
//     Symlinks and special files are errors. What an ignore rule matches is
//     left out (OMS §6.2): at the top .git, .gitignore, .gitattributes and
//     .github, and what the user named; each rule is one path and all below
//     it, never a pattern.
//  2. Hash each file with SHA-256, BLAKE2b (64 bytes) or BLAKE3 (OMS §7).
//  3. Sort by name, as bytes (OMS §5.2.1). A model without files is an error.
//  4. The root digest is SHA-256 over the raw digests, one after the other in
//     listed order (OMS §6.5), whatever hash made those: no names, no
//     separators. It is the digest of the one subject, whose name is the last
//     part of the model's path.
//  5. Write the JSON. Its formatting is free: the signature covers the bytes.
//     [Statement.Marshal] writes no white space, the fields in the order
//     above and the keys of maps sorted, so that the same model gives the
//     same bytes.
//
// To read one: [ParseStatement] takes the bytes that were authenticated and
// accepts only what has one meaning; [Statement.Manifest] checks the
// predicate, recomputes the root in listed order, and refuses names that are
// not canonical. Other writers sort by path segment; so any order is accepted,
// and the root tells them apart. Then [Compare] what is signed with what is
// there.
//
// The root covers no names: two manifests with the same digests under other
// names share it. It is no identity.
//
// # Shards
//
// Under the method "shards" a file is cut into pieces of shard_size bytes, the
// last of which may be shorter, and each piece is a resource, named
// FILE:START:END with offsets in decimal, END exclusive (OMS §6.3.2). With
// "shard_size": 4, after "method" and "hash_type", the model above has
//
//	config.json:0:2
//	weights/a.bin:0:4
//	weights/a.bin:4:5
//
// sorted by these names, as bytes: 10 comes before 9. An empty file has no
// piece, and could come and go without notice; and a colon in a name is read
// in two ways: [CheckShards] refuses both before anything is signed. A reader
// takes the last two colons, accepts only pieces that cover each file
// ([GroupByFile]), and compares file by file ([Manifest.Files]): what was
// appended to a file is not a piece that nobody signed, but another file.
//
// # The old form
//
// model_signing v0.2 signed a statement of the type [PredicateLegacy]: each
// subject is a file, with its name and sha256, and the predicate says nothing.
// [Statement.LegacyManifest] reads it; nothing writes it (OMS §11).
//
// # Names
//
// Names come from strangers: from annotations in a registry, from archives,
// from signed statements. [CheckName] is the one place that says whether a
// name is relative, clean and safe on every operating system; [CheckNames]
// says whether the names of one model can live side by side. What they refuse
// is a [*ThreatError] with a stable code; where a caller may accept it, the
// error names the [Threat].
package manifest

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// MaxResources is how many files a model may have. The largest public
	// data sets packed as models have some hundred thousand; a million fits
	// in memory at less than 1 KiB a file.
	MaxResources = 1_000_000

	// MaxIgnorePaths is how many ignore paths a manifest may record. Matching
	// is one comparison a name and entry; people write fewer than twenty.
	MaxIgnorePaths = 10_000
)

// Methods of a [Serialization] (OMS §6.3).
const (
	MethodFiles  = "files"
	MethodShards = "shards"
)

// A Resource is one signed file, or a shard of one (OMS §5.2.1).
type Resource struct {
	// Name is a path that [CheckName] accepts, in shards followed by
	// ":start:end" (OMS §6.3.2). In a manifest of one file that path may be
	// ".", as old writers name a model that is one file: whoever compares
	// puts the file's name in its place.
	Name string

	// Digest is the raw digest of the content.
	Digest []byte

	// Algorithm is the hash type. In shards, other writers append
	// "-sharded-" and the shard size, which [Statement.Manifest] takes off.
	Algorithm string
}

// A Serialization says how resources were made (OMS §5.2.2).
type Serialization struct {
	Method        string // MethodFiles or MethodShards
	HashType      string // SHA256, BLAKE2b or BLAKE3
	ShardSize     int64  // bytes, at most 2^53; 0 unless Method is MethodShards
	AllowSymlinks bool

	// IgnorePaths are as recorded. Foreign writers record entries that are
	// not canonical; as [Ignore] these hide nothing. nil means that the field
	// is absent, which is not the same JSON as an empty list.
	IgnorePaths []string
}

// A Manifest is the OMS predicate: resources, and how they were made.
type Manifest struct {
	Resources     []Resource // in listed order
	Serialization Serialization
}

// New returns a manifest of resources, sorted by name (OMS §5.2.1). s says how
// they were made, as [Hasher.Hash] was told; the zero value: whole files,
// SHA-256. Without a Method, ShardSize decides. Its IgnorePaths are recorded
// in the order given, each once; nil records no list. The arguments are not
// changed, but digests are shared.
//
// It refuses a model without files (OMS §6.1), more than [MaxResources],
// digests of another algorithm or length, shards that are not those of whole
// files (see [GroupByFile]), and ignore paths that are not canonical (OMS
// §6.2.1). Names that [CheckName] refuses, that are there twice, that are a
// file and a folder at once, or that have a colon under shards, are a
// [*ThreatError]. New does not ask for what a caller may allow: use
// [CheckNames] before.
func New(resources []Resource, s Serialization) (*Manifest, error) {
	s.HashType = cmp.Or(s.HashType, SHA256)
	switch {
	case s.Method != "":
	case s.ShardSize == 0:
		s.Method = MethodFiles
	default:
		s.Method = MethodShards
	}
	ignorePaths := s.IgnorePaths
	if ignorePaths != nil {
		seen := make(map[string]bool, len(ignorePaths))
		s.IgnorePaths = make([]string, 0, len(ignorePaths))
		for _, p := range ignorePaths {
			if !canonical(p) || !utf8.ValidString(p) {
				return nil, fmt.Errorf("ignore path %s is not a clean relative path (OMS §6.2.1)", quote(p))
			}
			if !seen[p] {
				seen[p] = true
				s.IgnorePaths = append(s.IgnorePaths, p)
			}
		}
	}
	m := &Manifest{Resources: slices.Clone(resources), Serialization: s}
	slices.SortFunc(m.Resources, func(a, b Resource) int { return strings.Compare(a.Name, b.Name) })
	files, err := m.check()
	if err != nil {
		return nil, err
	}
	for i := range files {
		if files[i].Name == "." { // read for the sake of old writers, never written
			return nil, CheckName(".")
		}
		if s.Method == MethodShards {
			if err := checkColon(files[i].Name); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

// Hashing is how files have to be hashed to be compared with m.
func (m *Manifest) Hashing() Hashing {
	return Hashing{Type: m.Serialization.HashType, ShardSize: m.Serialization.ShardSize}
}

// Root returns the OMS root digest: SHA-256 over the raw digests in listed
// order (OMS §6.5). It covers no names: it is no identity by itself.
func (m *Manifest) Root() [sha256.Size]byte {
	h := sha256.New()
	for i := range m.Resources {
		h.Write(m.Resources[i].Digest)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// check applies what holds for every manifest, read or written, and returns
// its files.
func (m *Manifest) check() ([]FileResources, error) {
	s := m.Serialization
	size, known := digestSize(s.HashType)
	if !known {
		return nil, errUnknownHash(s.HashType)
	}
	switch s.Method {
	case MethodFiles:
		if s.ShardSize != 0 {
			return nil, errors.New("shard_size with method files (OMS §5.2.2)")
		}
	case MethodShards:
		if s.ShardSize <= 0 || s.ShardSize > maxShardSize {
			return nil, errors.New("method shards without a shard_size between 1 and 2^53 (OMS §5.2.2)")
		}
	default:
		return nil, fmt.Errorf("method %s is not one of files, shards (OMS §5.2.2)", quote(s.Method))
	}
	switch n := len(m.Resources); {
	case n == 0:
		return nil, errors.New("a model without files (OMS §6.1)")
	case n > MaxResources:
		return nil, fmt.Errorf("%d resources, at most %d are accepted", n, MaxResources)
	}
	if n := len(s.IgnorePaths); n > MaxIgnorePaths {
		return nil, fmt.Errorf("%d ignore paths, at most %d are accepted", n, MaxIgnorePaths)
	}
	for i := range m.Resources {
		r := &m.Resources[i]
		if r.Algorithm != s.HashType {
			return nil, fmt.Errorf("resource %s: algorithm %s, but hash_type is %q (OMS §5.2.1)", quote(r.Name), quote(r.Algorithm), s.HashType)
		}
		if len(r.Digest) != size {
			return nil, fmt.Errorf("resource %s: digest has %d bytes, %s has %d (OMS §7)", quote(r.Name), len(r.Digest), s.HashType, size)
		}
	}
	files, err := GroupByFile(m.Resources, s.ShardSize)
	if err != nil {
		return nil, err
	}
	if len(files) == 1 && files[0].Name == "." {
		return files, nil
	}
	names := make([]string, len(files))
	for i := range files {
		names[i] = files[i].Name
	}
	return files, checkHard(names)
}

// plainAlgorithms takes "-sharded-" and the shard size off the algorithms of
// writers that put it there: under shards, and only of that size.
func (m *Manifest) plainAlgorithms() {
	s := m.Serialization
	if s.Method != MethodShards {
		return
	}
	sharded := s.HashType + "-sharded-" + strconv.FormatInt(s.ShardSize, 10)
	for i := range m.Resources {
		if m.Resources[i].Algorithm == sharded {
			m.Resources[i].Algorithm = s.HashType
		}
	}
}
