package manifest

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"strings"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/blake2b"
)

// Hash types (OMS §7), as they stand in hash_type and in algorithm.
const (
	SHA256  = "sha256"
	BLAKE2b = "blake2b" // BLAKE2b-512, without a key: 64 bytes
	BLAKE3  = "blake3"  // 32 bytes
)

// DefaultShardSize is the shard size in bytes where shards are asked for and
// no size is named (OMS §6.3.2). Smaller shards make statements longer, and
// nothing faster.
const DefaultShardSize = 1_000_000_000

// maxShardSize is the largest integer that every JSON reader has exactly.
const maxShardSize = 1 << 53

// A Hashing says how files become resources (OMS §6.3). The zero value: whole
// files, SHA-256.
type Hashing struct {
	Type      string // SHA256, BLAKE2b or BLAKE3; "": SHA256
	ShardSize int64  // bytes of a shard, at most 2^53; 0: whole files
}

func (h Hashing) hashType() string { return cmp.Or(h.Type, SHA256) }

// isDefault reports whether resources are what registries call files by.
func (h Hashing) isDefault() bool { return h.hashType() == SHA256 && h.ShardSize == 0 }

func (h Hashing) check() error {
	if _, known := digestSize(h.hashType()); !known {
		return errUnknownHash(h.Type)
	}
	if h.ShardSize < 0 || h.ShardSize > maxShardSize {
		return fmt.Errorf("shard size %d is not between 1 and %d bytes (OMS §5.2.2)", h.ShardSize, int64(maxShardSize))
	}
	return nil
}

func errUnknownHash(name string) error {
	return fmt.Errorf("hash_type %s is not one of sha256, blake2b, blake3 (OMS §7)", quote(name))
}

// digestSize is the length in bytes of the digests of a hash type (OMS §7).
func digestSize(hashType string) (size int, known bool) {
	switch hashType {
	case SHA256, BLAKE3:
		return 32, true
	case BLAKE2b:
		return 64, true
	}
	return 0, false
}

// newHash returns the hash of a type that digestSize knows.
func newHash(hashType string) hash.Hash {
	switch hashType {
	case BLAKE2b:
		h, err := blake2b.New512(nil)
		if err != nil {
			panic(err) // only of keys that are too long, and there is none
		}
		return h
	case BLAKE3:
		return blake3.New()
	}
	return sha256.New()
}

// Codes of what shards cannot say.
const (
	// CodeEmptyInShards is the code of an empty file, which has no shard: a
	// signature would not cover it.
	CodeEmptyInShards = "empty-in-shards"

	// CodeColonInShards is the code of a name with a colon. Some verifiers
	// split the names of shards at every colon (N12).
	CodeColonInShards = "colon-in-shards"
)

// CheckShards refuses files that shards cannot sign: empty ones, and names
// with a colon. Signers call it before they hash. The error is a
// [*ThreatError] with [CodeEmptyInShards] or [CodeColonInShards]; no caller
// can allow it.
func CheckShards(files []File) error {
	for _, f := range files {
		if err := checkColon(f.Name); err != nil {
			return err
		}
		if f.Size == 0 {
			return &ThreatError{Code: CodeEmptyInShards, Name: f.Name, Reason: "is empty, and shards cannot list empty files (OMS §6.3.2): whole files can"}
		}
	}
	return nil
}

func checkColon(name string) error {
	if strings.Contains(name, ":") {
		return &ThreatError{Code: CodeColonInShards, Name: name, Reason: "name has a colon, which separates a shard's name and place (OMS §6.3.2): whole files may have one"}
	}
	return nil
}

// shardName is the name of the resource for the bytes from start to before end
// (OMS §6.3.2).
func shardName(file string, start, end int64) string {
	b := make([]byte, 0, len(file)+24)
	b = append(append(b, file...), ':')
	b = append(strconv.AppendInt(b, start, 10), ':')
	return string(strconv.AppendInt(b, end, 10))
}

// parseShardName splits at the last two colons: the file's name may have more
// (OMS §6.3.2).
func parseShardName(name string) (file string, start, end int64, err error) {
	refuse := func(why string) (string, int64, int64, error) {
		return "", 0, 0, fmt.Errorf("shard %s: %s (OMS §6.3.2)", quote(name), why)
	}
	second := strings.LastIndexByte(name, ':')
	if second < 0 {
		return refuse("the name is not FILE:START:END")
	}
	first := strings.LastIndexByte(name[:second], ':')
	if first < 0 {
		return refuse("the name is not FILE:START:END")
	}
	start, ok := parseOffset(name[first+1 : second])
	if !ok {
		return refuse("the start is not a decimal number")
	}
	if end, ok = parseOffset(name[second+1:]); !ok {
		return refuse("the end is not a decimal number")
	}
	if start >= end {
		return refuse("it ends before it starts")
	}
	return name[:first], start, end, nil
}

// parseOffset reads a number as it is written: without sign, leading zeros,
// and whatever else [strconv.ParseInt] lets pass.
func parseOffset(s string) (n int64, ok bool) {
	if s == "" || len(s) > 1 && s[0] == '0' || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// FileResources are the resources of one file.
type FileResources struct {
	Name string
	Size int64 // bytes; -1: not known, as for whole files

	// Resources is one, or the file's shards by offset.
	Resources []Resource
}

// Files returns the resources of m file by file, sorted by name. m must have
// been checked, as [New] and [Statement.Manifest] do: the result is nil for
// what [GroupByFile] refuses.
func (m *Manifest) Files() []FileResources {
	files, err := GroupByFile(m.Resources, m.Serialization.ShardSize)
	if err != nil {
		return nil
	}
	return files
}

// GroupByFile sorts resources into files, by name. shardSize 0 says that each
// is a whole file. Else each is a shard, named "file:start:end" (OMS §6.3.2),
// and those of a file cover it from its first byte, without a gap, each once,
// in pieces of shardSize but for the last, which may be shorter.
//
// The order of resources does not matter. They are not changed; what comes
// back may share memory with them. A name that is there twice is a [*ThreatError]; no other rule
// for names is applied. Time is O(n log n).
func GroupByFile(resources []Resource, shardSize int64) ([]FileResources, error) {
	if shardSize == 0 {
		return groupWhole(resources)
	}
	type shard struct {
		file       string
		start, end int64
		index      int
	}
	shards := make([]shard, len(resources))
	for i := range resources {
		file, start, end, err := parseShardName(resources[i].Name)
		if err != nil {
			return nil, err
		}
		shards[i] = shard{file, start, end, i}
	}
	slices.SortFunc(shards, func(a, b shard) int {
		return cmp.Or(strings.Compare(a.file, b.file), cmp.Compare(a.start, b.start))
	})
	sorted := make([]Resource, len(resources))
	count := 0
	for i, s := range shards {
		sorted[i] = resources[s.index]
		if i == 0 || s.file != shards[i-1].file {
			count++
		}
	}
	files := make([]FileResources, 0, count)
	for i := 0; i < len(shards); {
		first, covered := i, int64(0)
		for ; i < len(shards) && shards[i].file == shards[first].file; i++ {
			s := &shards[i]
			refuse := func(why string) error {
				return fmt.Errorf("shard %s: %s (OMS §6.3.2)", quote(sorted[i].Name), why)
			}
			switch {
			case i > first && s.start == shards[i-1].start && s.end == shards[i-1].end:
				return nil, &ThreatError{Code: codeDuplicate, Name: sorted[i].Name, Reason: "two shards have this name (OMS §5.2.1)"}
			case s.start < covered:
				return nil, refuse("it overlaps with another")
			case s.start > covered:
				return nil, refuse(fmt.Sprintf("the file's bytes from %d are in no shard", covered))
			case s.end-s.start > shardSize:
				return nil, refuse(fmt.Sprintf("it is longer than shard_size %d", shardSize))
			case i > first && shards[i-1].end-shards[i-1].start != shardSize:
				return nil, refuse(fmt.Sprintf("the shard before it is shorter than shard_size %d", shardSize))
			}
			covered = s.end
		}
		files = append(files, FileResources{shards[first].file, covered, sorted[first:i:i]})
	}
	return files, nil
}

func groupWhole(resources []Resource) ([]FileResources, error) {
	sorted := byName(resources)
	files := make([]FileResources, len(sorted))
	for i := range sorted {
		name := sorted[i].Name
		if i > 0 && name == files[i-1].Name {
			return nil, &ThreatError{Code: codeDuplicate, Name: name, Reason: "two files have this name (OMS §5.2.1)"}
		}
		files[i] = FileResources{name, -1, sorted[i : i+1 : i+1]}
	}
	return files, nil
}

// countShards is how many resources a file of size bytes has.
func (h Hashing) countShards(size int64) int64 {
	if h.ShardSize == 0 {
		return 1
	}
	n := size / h.ShardSize
	if size%h.ShardSize > 0 {
		n++
	}
	return n
}

// countResources is how many resources files have: as many as there are files,
// or no more shards than a manifest may have.
func (h Hashing) countResources(files []File) (int, error) {
	var n int64
	for i := range files {
		n += h.countShards(files[i].Size)
		if h.ShardSize > 0 && n > MaxResources {
			return 0, fmt.Errorf("more than %d shards of %d bytes: shards must be larger", MaxResources, h.ShardSize)
		}
	}
	return int(n), nil
}
