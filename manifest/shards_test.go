package manifest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"golang.org/x/crypto/blake2b"

	"github.com/zeebo/blake3"

	"github.com/modelsig/modelsig/manifest"
)

// OMS §7: the digests of "abc" as the three specifications print them.
func TestHashTypesAreThoseOfTheirSpecifications(t *testing.T) {
	for hashType, want := range map[string]string{
		"":               "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		manifest.SHA256:  "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		manifest.BLAKE2b: "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d17d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923",
		manifest.BLAKE3:  "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
	} {
		h := manifest.Hasher{Hashing: manifest.Hashing{Type: hashType}}
		got, err := h.Hash(t.Context(), []manifest.File{memory("a", "abc")})
		if err != nil {
			t.Fatal(err)
		}
		wantType := hashType
		if hashType == "" {
			wantType = "sha256"
		}
		if len(got) != 1 || hex.EncodeToString(got[0].Digest) != want || got[0].Algorithm != wantType {
			t.Errorf("%s: %x by %s, want %s", hashType, got[0].Digest, got[0].Algorithm, want)
		}
	}
}

// digestOf is a second way to the digest.
func digestOf(hashType string, content []byte) []byte {
	switch hashType {
	case manifest.BLAKE2b:
		d := blake2b.Sum512(content)
		return d[:]
	case manifest.BLAKE3:
		d := blake3.Sum256(content)
		return d[:]
	}
	d := sha256.Sum256(content)
	return d[:]
}

// readerAt hides all of a reader but Read and ReadAt.
type readerAt struct {
	*bytes.Reader
	closed *atomic.Int64
}

func (r readerAt) Close() error { r.closed.Add(1); return nil }

// memoryAt is a file that can be read at any place.
func memoryAt(name string, content []byte, opened, closed *atomic.Int64) manifest.File {
	return manifest.File{Name: name, Size: int64(len(content)), Open: func() (io.ReadCloser, error) {
		opened.Add(1)
		return readerAt{bytes.NewReader(content), closed}, nil
	}}
}

// random is content without a pattern of the size of buffers and shards.
func random(n int) []byte {
	b := make([]byte, n)
	x := uint32(2463534242)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}

// OMS §6.3.2: each shard has the digest of its bytes, wherever shards, buffers
// and files end, read in order or at any place, by any number of jobs.
func TestHashShards(t *testing.T) {
	content := random(2<<20 + 3)
	for _, hashType := range []string{manifest.SHA256, manifest.BLAKE2b, manifest.BLAKE3} {
		for _, shard := range []int{1 << 13, 512<<10 - 1, 512 << 10, 1_000_000, 1 << 20, 2 << 20, 2<<20 + 3, 1 << 30} {
			for _, jobs := range []int{1, 3} {
				var opened, closed atomic.Int64
				files := []manifest.File{
					memory("stream", string(content)),
					memoryAt("place", content, &opened, &closed),
					memoryAt("small", content[:1000], &opened, &closed),
					memoryAt("exact", content[:shard&(1<<23-1)], &opened, &closed),
					memory("empty", ""),
				}
				if shard > len(content) {
					files = slices.Delete(files, 3, 4)
				}
				want := []manifest.Resource{}
				for name, data := range map[string][]byte{"stream": content, "place": content, "small": content[:1000], "exact": content[:min(shard, len(content))]} {
					if name == "exact" && shard > len(content) {
						continue
					}
					for start := 0; start < len(data); start += shard {
						end := min(start+shard, len(data))
						want = append(want, manifest.Resource{Name: fmt.Sprintf("%s:%d:%d", name, start, end), Digest: digestOf(hashType, data[start:end]), Algorithm: hashType})
					}
				}
				slices.SortFunc(want, func(a, b manifest.Resource) int { return strings.Compare(a.Name, b.Name) })
				var read, total atomic.Int64
				for _, f := range files {
					total.Add(f.Size)
				}
				h := manifest.Hasher{Hashing: manifest.Hashing{Type: hashType, ShardSize: int64(shard)}, Jobs: jobs, Progress: func(n int64) { read.Add(n) }}
				got, err := h.Hash(t.Context(), files)
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%s, shards of %d, %d jobs: other resources", hashType, shard, jobs)
				}
				if read.Load() != total.Load() {
					t.Errorf("progress of %d bytes, want %d", read.Load(), total.Load())
				}
				if n := int64(len(files) - 2); opened.Load() != n || closed.Load() != n {
					t.Errorf("%d files opened %d times, closed %d times", n, opened.Load(), closed.Load())
				}
				if _, err := manifest.New(got, manifest.Serialization{HashType: hashType, ShardSize: int64(shard)}); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// badAt reads at any place what is not there.
type badAt struct {
	io.ReaderAt
	io.ReadCloser
}

func TestHashShardsErrors(t *testing.T) {
	broken := errors.New("broken")
	const size = 3 << 20
	content := random(size)
	at := func(r io.ReaderAt) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) {
			return badAt{r, io.NopCloser(iotest.ErrReader(errors.New("not in order")))}, nil
		}
	}
	stream := func(r io.Reader) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) { return io.NopCloser(r), nil }
	}
	eighth := manifest.Hashing{ShardSize: size / 8}
	for _, tt := range []struct {
		name    string
		hashing manifest.Hashing
		file    manifest.File
		want    string
	}{
		{"it cannot be opened", eighth, manifest.File{Size: size, Open: func() (io.ReadCloser, error) { return nil, broken }}, "broken"},
		{"it cannot be read", eighth, manifest.File{Size: size, Open: at(failsAt{bytes.NewReader(content), size / 2, broken})}, "broken"},
		{"it is too short", eighth, manifest.File{Size: size, Open: at(bytes.NewReader(content[:size-1]))}, "size is 3145728"},
		{"it is too long", eighth, manifest.File{Size: size, Open: at(bytes.NewReader(append(content, 0)))}, "size is 3145728"},
		{"it changed at its end", eighth, manifest.File{Size: size, Open: at(failsAt{bytes.NewReader(content), size, manifest.ErrChanged})}, "changed"},
		{"it is a stream that is too short", eighth, manifest.File{Size: size, Open: stream(bytes.NewReader(content[:size-1]))}, "size is 3145728"},
		{"it is a stream that is too long", eighth, manifest.File{Size: size, Open: stream(endless{})}, "size is 3145728"},
		{"it is a stream that breaks off", eighth, manifest.File{Size: size, Open: stream(io.MultiReader(bytes.NewReader(content[:size-1]), iotest.ErrReader(broken)))}, "broken"},
		{"it has a negative size", eighth, manifest.File{Size: -1, Open: stream(endless{})}, "size is -1"},
		{"only its sha256 is known, and shards are asked for", eighth, manifest.File{Size: size, Digest: sum("x")}, "only its sha256"},
		{"only its sha256 is known, and BLAKE3 is asked for", manifest.Hashing{Type: manifest.BLAKE3}, manifest.File{Size: size, Digest: sum("x")}, "only its sha256"},
		{"shards are more than a manifest has", manifest.Hashing{ShardSize: 1}, manifest.File{Size: 1 << 40, Open: stream(endless{})}, "must be larger"},
		{"the hash is unknown", manifest.Hashing{Type: "sha1"}, memory("", "x"), "§7"},
		{"the shard size is negative", manifest.Hashing{ShardSize: -1}, memory("", "x"), "shard size -1"},
		{"the shard size is more than all readers have exactly", manifest.Hashing{ShardSize: 1<<53 + 1}, memory("", "x"), "shard size"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, jobs := range []int{1, 3} {
				tt.file.Name = "bad"
				h := manifest.Hasher{Hashing: tt.hashing, Jobs: jobs}
				got, err := h.Hash(t.Context(), []manifest.File{memory("a", "1"), tt.file})
				expect(t, err, tt.want)
				if got != nil {
					t.Errorf("%v", got)
				}
			}
		})
	}
}

// failsAt fails where a read begins at or after a place.
type failsAt struct {
	io.ReaderAt
	from int64
	err  error
}

func (f failsAt) ReadAt(b []byte, off int64) (int, error) {
	if off >= f.from {
		return 0, f.err
	}
	return f.ReaderAt.ReadAt(b, off)
}

// A content whose sha256 is known is hashed all the same where that is of no
// use.
func TestKnownDigestsCountForWholeFilesWithSHA256Only(t *testing.T) {
	file := memory("a", "abc")
	file.Digest = sum("known")
	for _, tt := range []struct {
		hashing manifest.Hashing
		want    manifest.Resource
	}{
		{manifest.Hashing{}, manifest.Resource{Name: "a", Digest: sum("known"), Algorithm: "sha256"}},
		{manifest.Hashing{ShardSize: 9}, manifest.Resource{Name: "a:0:3", Digest: sum("abc"), Algorithm: "sha256"}},
		{manifest.Hashing{Type: manifest.BLAKE3}, manifest.Resource{Name: "a", Digest: digestOf("blake3", []byte("abc")), Algorithm: "blake3"}},
	} {
		h := manifest.Hasher{Hashing: tt.hashing}
		got, err := h.Hash(t.Context(), []manifest.File{file})
		if err != nil || !reflect.DeepEqual(got, []manifest.Resource{tt.want}) {
			t.Errorf("%+v: %+v, %v", tt.hashing, got, err)
		}
	}
}

// All files are closed when shards are cancelled half-way.
func TestHashShardsStops(t *testing.T) {
	content := random(4 << 20)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var opened, closed, n atomic.Int64
	h := manifest.Hasher{Hashing: manifest.Hashing{ShardSize: 1 << 19}, Jobs: 2, Progress: func(int64) {
		if n.Add(1) == 3 {
			cancel()
		}
	}}
	_, err := h.Hash(ctx, []manifest.File{memoryAt("a", content, &opened, &closed), memoryAt("b", content, &opened, &closed)})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if opened.Load() == 0 || opened.Load() != closed.Load() {
		t.Errorf("%d opened, %d closed", opened.Load(), closed.Load())
	}
}

func TestCheckShards(t *testing.T) {
	for _, tt := range []struct {
		name string
		file manifest.File
		code string
	}{
		{"a file", memory("a/b", "1"), ""},
		{"an empty file (OMS §6.3.2)", memory("a/b", ""), manifest.CodeEmptyInShards},
		{"a name with a colon (N12)", memory("ab:0:1", "1"), manifest.CodeColonInShards},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := manifest.CheckShards([]manifest.File{memory("x", "x"), tt.file})
			if got := code(t, err); got != tt.code {
				t.Errorf("%v, want %s", err, tt.code)
			}
		})
	}
}

// shard is a resource as it is hashed under shards.
func shard(name string) manifest.Resource {
	return manifest.Resource{Name: name, Digest: sum(name), Algorithm: manifest.SHA256}
}

// shardStatement is a statement whose root is right, whatever else is not.
func shardStatement(t testing.TB, shardSize, algorithm string, names ...string) []byte {
	t.Helper()
	root := sha256.New()
	var list []string
	for _, name := range names {
		root.Write(sum(name))
		list = append(list, fmt.Sprintf(`{"name":%q,"digest":"%x","algorithm":%q}`, name, sum(name), algorithm))
	}
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"m","digest":{"sha256":"%x"}}],`+
		`"predicateType":"https://model_signing/signature/v1.0","predicate":{"resources":[%s],`+
		`"serialization":{"method":"shards","hash_type":"sha256","shard_size":%s,"allow_symlinks":false}}}`, root.Sum(nil), strings.Join(list, ","), shardSize)
}

// What other writers write, and what nobody may sign: each statement is right
// but for the one thing.
func TestShardsOfStatements(t *testing.T) {
	long := strings.Repeat("9", 19)
	for _, tt := range []struct {
		name      string
		size      string
		algorithm string
		shards    []string
		want      string
		code      string
	}{
		{name: "as we write it", shards: []string{"a:0:8", "a:8:16", "a:16:17", "b:0:3"}},
		{name: "in order of the strings", shards: []string{"a:0:8", "a:16:17", "a:8:16", "b:0:3"}},
		{name: "in any order (3.5)", shards: []string{"b:0:3", "a:16:17", "a:0:8", "a:8:16"}},
		{name: "the last shard is full", shards: []string{"a:0:8", "a:8:16"}},
		{name: "a size with a point (D4)", size: "8.0", shards: []string{"a:0:8", "a:8:9"}},
		{name: "a size with an exponent", size: "1e9", shards: []string{"a:0:1000000000", "a:1000000000:1000000001"}},
		{name: "sharded algorithms (D3)", algorithm: "sha256-sharded-8", shards: []string{"a:0:8", "a:8:9"}},
		{name: "sharded algorithms of a size with a point (D3, D4)", size: "8.0", algorithm: "sha256-sharded-8", shards: []string{"a:0:8"}},
		{name: "the legacy name of a single file (D6)", shards: []string{".:0:8", ".:8:9"}},
		{name: "a name with colons (D5, V13)", shards: []string{"ab:1:2:0:8", "ab:1:2:8:9", "ab:b:0:1"}},
		{name: "the longest file that can be", size: "9007199254740992", shards: []string{"a:0:9007199254740992", "b:0:1"}},

		{name: "sharded algorithms of another size", algorithm: "sha256-sharded-9", shards: []string{"a:0:8"}, want: "algorithm"},
		{name: "sharded algorithms of a size with a zero", algorithm: "sha256-sharded-08", shards: []string{"a:0:8"}, want: "algorithm"},
		{name: "sharded algorithms of another hash", algorithm: "blake3-sharded-8", shards: []string{"a:0:8"}, want: "algorithm"},
		{name: "sharded algorithms without a size", algorithm: "sha256-sharded-", shards: []string{"a:0:8"}, want: "algorithm"},
		{name: "a whole file among shards", shards: []string{"a:0:8", "b"}, want: "FILE:START:END"},
		{name: "one colon", shards: []string{"a:0"}, want: "FILE:START:END"},
		{name: "no start", shards: []string{"a::8"}, want: "start is not"},
		{name: "no end", shards: []string{"a:0:"}, want: "end is not"},
		{name: "no file", shards: []string{":0:8"}, code: "name-empty"},
		{name: "a sign (A18)", shards: []string{"a:0:+8"}, want: "end is not"},
		{name: "a negative start (A18)", shards: []string{"a:-1:7"}, want: "start is not"},
		{name: "minus zero", shards: []string{"a:-0:8"}, want: "start is not"},
		{name: "a leading zero", shards: []string{"a:0:08"}, want: "end is not"},
		{name: "two zeros", shards: []string{"a:00:8"}, want: "start is not"},
		{name: "hexadecimal", shards: []string{"a:0:0x8"}, want: "end is not"},
		{name: "an underscore", shards: []string{"a:0:1_0"}, want: "end is not"},
		{name: "a space", shards: []string{"a: 0:8"}, want: "start is not"},
		{name: "digits of another script", shards: []string{"a:0:٨"}, want: "end is not"},
		{name: "more than 64 bits", shards: []string{"a:0:" + long}, want: "end is not"},
		{name: "start and end the same: an empty file", shards: []string{"a:0:0"}, want: "ends before"},
		{name: "an end before the start (A18)", shards: []string{"a:0:8", "b:8:0"}, want: "ends before"},
		{name: "a file without its first bytes (A6)", shards: []string{"a:8:16"}, want: "bytes from 0"},
		{name: "a gap (A6)", shards: []string{"a:0:8", "a:16:24"}, want: "bytes from 8"},
		{name: "a gap of one", shards: []string{"a:0:8", "a:9:17"}, want: "bytes from 8"},
		{name: "an overlap", shards: []string{"a:0:8", "a:7:15"}, want: "overlaps"},
		{name: "a file in two ways", shards: []string{"a:0:8", "a:0:7"}, want: "overlaps"},
		{name: "one shard twice", shards: []string{"a:0:8", "a:0:8"}, code: "duplicate-name"},
		{name: "a shard that is too long", shards: []string{"a:0:9"}, want: "longer"},
		{name: "a last shard that is too long", shards: []string{"a:0:8", "a:8:17"}, want: "longer"},
		{name: "a shard that is too short and not the last", shards: []string{"a:0:7", "a:7:15"}, want: "shorter"},
		{name: "a shard that is too short in the middle", shards: []string{"a:0:8", "a:8:15", "a:15:16"}, want: "shorter"},
		{name: "a file and a folder (N13)", shards: []string{"a:0:8", "a/b:0:8"}, code: "file-and-folder"},
		{name: "a name that leaves the model (N04)", shards: []string{"../a:0:8"}, code: "name-parent"},
		{name: "a name that is absolute on Windows (N05)", shards: []string{"C:x:0:8"}, code: "name-absolute"},
		{name: "the legacy name beside another", shards: []string{".:0:8", "a:0:8"}, code: "name-dot"},
		{name: "no shards: only empty files", want: "without files"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			size, algorithm := tt.size, tt.algorithm
			if size == "" {
				size = "8"
			}
			if algorithm == "" {
				algorithm = "sha256"
			}
			s, err := manifest.ParseStatement(shardStatement(t, size, algorithm, tt.shards...))
			if err != nil {
				t.Fatal(err)
			}
			m, err := s.Manifest()
			if tt.code != "" {
				threatIn(t, err, tt.code)
				return
			}
			expect(t, err, tt.want)
			if err != nil {
				return
			}
			for _, r := range m.Resources {
				if r.Algorithm != "sha256" {
					t.Errorf("%+v", r)
				}
			}
			if h := m.Hashing(); h.Type != "sha256" || h.ShardSize != m.Serialization.ShardSize || h.ShardSize < 8 {
				t.Errorf("%+v", h)
			}
		})
	}
}

// OMS §5.2.1, §6.3.2: by the bytes of the whole name, the size an integer, the
// algorithm plain.
func TestShardsAreWrittenInTheFormOfTheSpec(t *testing.T) {
	m, err := manifest.New([]manifest.Resource{shard("b:0:3"), shard("a:8:10"), shard("a.x:0:1"), shard("a:0:8")}, manifest.Serialization{ShardSize: 8})
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.Statement("m", nil)
	if err != nil {
		t.Fatal(err)
	}
	text := string(marshal(t, s))
	at := 0
	for _, part := range []string{`"name":"a.x:0:1"`, `"algorithm":"sha256"`, `"name":"a:0:8"`, `"name":"a:8:10"`, `"name":"b:0:3"`, `"method":"shards","hash_type":"sha256","shard_size":8,`} {
		next := strings.Index(text[at:], part)
		if next < 0 {
			t.Fatalf("no %s in the rest of %s", part, text)
		}
		at += next
	}
	back, err := s.Manifest()
	if err != nil || !reflect.DeepEqual(back, m) {
		t.Errorf("%+v, %v", back, err)
	}
}

func TestNewRefusesShards(t *testing.T) {
	blake := shard("a:0:8")
	blake.Algorithm = manifest.BLAKE2b
	legacy := shard("a:0:8")
	legacy.Algorithm = "sha256-sharded-8"
	shards := manifest.Serialization{ShardSize: 8}
	for _, tt := range []struct {
		name      string
		resources []manifest.Resource
		s         manifest.Serialization
		want      string
	}{
		{"a colon in a name (N12)", []manifest.Resource{shard("ab:b:0:8")}, shards, "colon"},
		{"the legacy name of a single file", []manifest.Resource{shard(".:0:8")}, shards, `name is "."`},
		{"a missing tail that is no tail", []manifest.Resource{shard("a:0:4"), shard("a:4:8")}, shards, "shorter"},
		{"whole files", []manifest.Resource{shard("a")}, shards, "FILE:START:END"},
		{"a digest of another length (V6)", []manifest.Resource{blake}, manifest.Serialization{HashType: manifest.BLAKE2b, ShardSize: 8}, "32 bytes"},
		{"the algorithm of other writers", []manifest.Resource{legacy}, shards, "algorithm"},
		{"method files with a shard size", []manifest.Resource{shard("a")}, manifest.Serialization{Method: manifest.MethodFiles, ShardSize: 8}, "shard_size"},
		{"method shards without one", []manifest.Resource{shard("a:0:8")}, manifest.Serialization{Method: manifest.MethodShards}, "shard_size"},
		{"a negative shard size", []manifest.Resource{shard("a:0:8")}, manifest.Serialization{ShardSize: -8}, "shard_size"},
		{"a shard size that is no JSON integer", []manifest.Resource{shard("a:0:8")}, manifest.Serialization{ShardSize: math.MaxInt64}, "shard_size"},
		{"an unknown hash", []manifest.Resource{shard("a")}, manifest.Serialization{HashType: "md5"}, "§7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := manifest.New(tt.resources, tt.s)
			expect(t, err, tt.want)
		})
	}
}

func TestFilesOfAManifest(t *testing.T) {
	resources := []manifest.Resource{shard("b:0:3"), shard("a:16:17"), shard("a:0:8"), shard("a:8:16")}
	before := slices.Clone(resources)
	got, err := manifest.GroupByFile(resources, 8)
	want := []manifest.FileResources{
		{Name: "a", Size: 17, Resources: []manifest.Resource{shard("a:0:8"), shard("a:8:16"), shard("a:16:17")}},
		{Name: "b", Size: 3, Resources: []manifest.Resource{shard("b:0:3")}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if !reflect.DeepEqual(resources, before) {
		t.Error("the argument was changed")
	}
	m, err := manifest.New(resources, manifest.Serialization{ShardSize: 8})
	if err != nil || !reflect.DeepEqual(m.Files(), want) {
		t.Errorf("%+v, %v", m, err)
	}

	whole := []manifest.Resource{resource("b:0:3", "1"), resource("a", "2")}
	want = []manifest.FileResources{{"a", -1, whole[1:2]}, {"b:0:3", -1, whole[0:1]}}
	if got, err := manifest.GroupByFile(whole, 0); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = manifest.GroupByFile(append(whole, whole[0]), 0)
	if code(t, err) != "duplicate-name" {
		t.Error(err)
	}
	if got, err := manifest.GroupByFile(nil, 8); err != nil || len(got) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// What groups as the shards of files is covered, whatever the names.
func FuzzShardNames(f *testing.F) {
	for _, seed := range []string{"a:0:8 a:8:16 a:16:17", "a:8:16 a:0:8", "a:0:8 a:0:8", "a:1:2:0:8", ".:0:8", "a:0:+8", "a:0:9", "a:0:0", "a:0:8 a:7:15", "a:0:9223372036854775807", "a:0:4 a:4:8", "::0:1", "a"} {
		f.Add(seed, int64(8))
	}
	f.Add("model-00001-of-00003.safetensors:0:1000000000 model-00001-of-00003.safetensors:1000000000:1000000001", int64(1_000_000_000))
	f.Fuzz(func(t *testing.T, names string, size int64) {
		var resources []manifest.Resource
		for name := range strings.SplitSeq(names, " ") {
			resources = append(resources, shard(name))
		}
		if size <= 0 {
			return
		}
		files, err := manifest.GroupByFile(resources, size)
		if err != nil {
			return
		}
		var back []string
		for _, file := range files {
			at := int64(0)
			for _, r := range file.Resources {
				end := min(at+size, file.Size)
				if want := fmt.Sprintf("%s:%d:%d", file.Name, at, end); r.Name != want || end <= at {
					t.Fatalf("%q at %d is not %q", r.Name, at, want)
				}
				at = end
				back = append(back, r.Name)
			}
			if at != file.Size {
				t.Fatalf("%q has %d bytes, covered %d", file.Name, file.Size, at)
			}
		}
		slices.Sort(back)
		if want := strings.Split(names, " "); !slices.Equal(back, slices.Sorted(slices.Values(want))) {
			t.Fatalf("%q became %q", names, back)
		}
	})
}
