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
//  2. Hash each file with SHA-256.
//  3. Sort by name, as bytes (OMS §5.2.1). A model without files is an error.
//  4. The root digest is SHA-256 over the raw digests, one after the other in
//     listed order (OMS §6.5): 32 bytes a file, no names, no separators. It
//     is the digest of the one subject, whose name is the last part of the
//     model's path.
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
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
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

// SHA256 is the hash type and resource algorithm that [New] uses (OMS §7).
const SHA256 = "sha256"

// ErrUnsupported is wrapped by errors about a manifest that is well formed but
// uses a method or hash that this version cannot recompute.
var ErrUnsupported = errors.New("not supported by this version")

// A Resource is one signed file (OMS §5.2.1).
type Resource struct {
	// Name is a path that [CheckName] accepts. In a manifest with one
	// resource it may be ".", as old writers name a model that is one file:
	// whoever compares puts the file's name in its place.
	Name string

	// Digest is the raw digest of the content.
	Digest []byte

	// Algorithm is the hash type. In shards, old writers append
	// "-sharded-" and the shard size; it is kept as written.
	Algorithm string
}

// A Serialization says how resources were made (OMS §5.2.2).
type Serialization struct {
	Method        string // MethodFiles or MethodShards
	HashType      string // SHA256, "blake2b" or "blake3"
	ShardSize     int64  // bytes; 0 unless Method is MethodShards
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

// New returns a manifest of whole files hashed with SHA-256, sorted by name
// (OMS §5.2.1). ignorePaths are recorded in the order given, each once; nil
// records no list. The arguments are not changed, but digests are shared.
//
// It refuses a model without files (OMS §6.1), more than [MaxResources],
// digests of another algorithm or length, and ignore paths that are not
// canonical (OMS §6.2.1). Names that [CheckName] refuses, that are there
// twice, or that are a file and a folder at once are a [*ThreatError]. New
// does not ask for what a caller may allow: use [CheckNames] before.
func New(resources []Resource, ignorePaths []string) (*Manifest, error) {
	m := &Manifest{
		Resources: slices.Clone(resources),
		Serialization: Serialization{
			Method:   MethodFiles,
			HashType: SHA256,
		},
	}
	slices.SortFunc(m.Resources, func(a, b Resource) int { return strings.Compare(a.Name, b.Name) })
	if ignorePaths != nil {
		seen := make(map[string]bool, len(ignorePaths))
		m.Serialization.IgnorePaths = make([]string, 0, len(ignorePaths))
		for _, p := range ignorePaths {
			if !canonical(p) || !utf8.ValidString(p) {
				return nil, fmt.Errorf("ignore path %s is not a clean relative path (OMS §6.2.1)", quote(p))
			}
			if !seen[p] {
				seen[p] = true
				m.Serialization.IgnorePaths = append(m.Serialization.IgnorePaths, p)
			}
		}
	}
	for i := range m.Resources {
		if m.Resources[i].Name == "." { // read for the sake of old writers, never written
			return nil, CheckName(".")
		}
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
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

// digestSize is the length in bytes of the digests of a hash type (OMS §7).
func digestSize(hashType string) (size int, known bool) {
	switch hashType {
	case SHA256, "blake3":
		return 32, true
	case "blake2b": // BLAKE2b-512, not keyed
		return 64, true
	}
	return 0, false
}

// check applies what holds for every manifest, read or written.
func (m *Manifest) check() error {
	s := m.Serialization
	size, known := digestSize(s.HashType)
	if !known {
		return fmt.Errorf("hash_type %s is not one of sha256, blake2b, blake3 (OMS §7)", quote(s.HashType))
	}
	switch s.Method {
	case MethodFiles:
		if s.ShardSize != 0 {
			return errors.New("shard_size with method files (OMS §5.2.2)")
		}
	case MethodShards:
		if s.ShardSize <= 0 {
			return errors.New("method shards without a shard_size (OMS §5.2.2)")
		}
	default:
		return fmt.Errorf("method %s is not one of files, shards (OMS §5.2.2)", quote(s.Method))
	}
	switch n := len(m.Resources); {
	case n == 0:
		return errors.New("a model without files (OMS §6.1)")
	case n > MaxResources:
		return fmt.Errorf("%d resources, at most %d are accepted", n, MaxResources)
	}
	if n := len(s.IgnorePaths); n > MaxIgnorePaths {
		return fmt.Errorf("%d ignore paths, at most %d are accepted", n, MaxIgnorePaths)
	}
	if s.Method != MethodFiles {
		return fmt.Errorf("method %q: %w", s.Method, ErrUnsupported)
	}
	if s.HashType != SHA256 {
		return fmt.Errorf("hash_type %q: %w", s.HashType, ErrUnsupported)
	}
	for i := range m.Resources {
		r := &m.Resources[i]
		if r.Algorithm != s.HashType {
			return fmt.Errorf("resource %s: algorithm %s, but hash_type is %q (OMS §5.2.1)", quote(r.Name), quote(r.Algorithm), s.HashType)
		}
		if len(r.Digest) != size {
			return fmt.Errorf("resource %s: digest has %d bytes, %s has %d (OMS §7)", quote(r.Name), len(r.Digest), s.HashType, size)
		}
	}
	if len(m.Resources) == 1 && m.Resources[0].Name == "." {
		return nil
	}
	names := make([]string, len(m.Resources))
	for i := range m.Resources {
		names[i] = m.Resources[i].Name
	}
	return checkHard(names)
}
