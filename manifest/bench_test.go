package manifest_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/modelsig/modelsig/manifest"
)

// All of a signature's and a verdict's own work, for the most files that a
// model may have: B/op is all that is ever allocated on the way.
func BenchmarkStatement(b *testing.B) {
	for _, size := range []int64{0, manifest.DefaultShardSize} {
		b.Run(fmt.Sprintf("%d of %d bytes", manifest.MaxResources, size), func(b *testing.B) {
			// Digests are known before, as if hashed, and not counted.
			resources := make([]manifest.Resource, manifest.MaxResources)
			for i := range resources {
				name := fmt.Sprintf("data/train-%03d/Part-%07d.parquet", i%1000, i)
				if size > 0 { // ten shards a file
					name = fmt.Sprintf("data/train-%03d/Part-%07d.parquet:%d:%d", i/10%1000, i/10, int64(i%10)*size, int64(i%10+1)*size)
				}
				resources[i] = resource(name, name)
			}
			b.ReportAllocs()
			for b.Loop() {
				m, err := manifest.New(resources, manifest.Serialization{ShardSize: size})
				if err != nil {
					b.Fatal(err)
				}
				s, err := m.Statement("large", nil)
				if err != nil {
					b.Fatal(err)
				}
				payload := marshal(b, s)
				b.SetBytes(int64(len(payload)))
				if s, err = manifest.ParseStatement(payload); err != nil {
					b.Fatal(err)
				}
				signed, err := s.Manifest()
				if err != nil {
					b.Fatal(err)
				}
				if files := signed.Files(); len(files) == 0 {
					b.Fatal("no files")
				}
				if diff := manifest.Compare(signed.Resources, resources); !diff.Empty() {
					b.Fatalf("%d, %d, %d differences", len(diff.Missing), len(diff.Changed), len(diff.Extra))
				}
			}
		})
	}
}

// Whole files, shards of one file, and small files: the throughput is that of
// the contents.
func BenchmarkHash(b *testing.B) {
	const file = 64 << 20
	content := string(random(file))
	root := b.TempDir()
	one, eight, small := filepath.Join(root, "one"), filepath.Join(root, "eight"), filepath.Join(root, "small")
	write(b, filepath.Join(one, "model.bin"), content+content+content+content)
	for i := range 8 {
		write(b, filepath.Join(eight, fmt.Sprint(i)), content)
	}
	for i := range 10_000 {
		write(b, filepath.Join(small, fmt.Sprint(i/100), fmt.Sprint(i)), content[i:i+4096])
	}
	for _, tt := range []struct {
		name  string
		model string
		bytes int64
		h     manifest.Hasher
	}{
		{"8 files", eight, 8 * file, manifest.Hasher{}},
		{"1 file", one, 4 * file, manifest.Hasher{}},
		{"1 file, BLAKE2b", one, 4 * file, manifest.Hasher{Hashing: manifest.Hashing{Type: manifest.BLAKE2b}}},
		{"1 file, BLAKE3", one, 4 * file, manifest.Hasher{Hashing: manifest.Hashing{Type: manifest.BLAKE3}}},
		{"1 file, shards", one, 4 * file, manifest.Hasher{Hashing: manifest.Hashing{ShardSize: 16 << 20}}},
		{"1 file, BLAKE3 shards", one, 4 * file, manifest.Hasher{Hashing: manifest.Hashing{Type: manifest.BLAKE3, ShardSize: 16 << 20}}},
		{"10000 files of 4 KiB", small, 10_000 * 4096, manifest.Hasher{}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			d := open(b, tt.model, manifest.OpenOptions{})
			b.SetBytes(tt.bytes)
			b.ReportAllocs()
			for b.Loop() {
				files, err := d.Files(b.Context(), nil)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := tt.h.Hash(b.Context(), files); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// large is a statement of n files, with names as data sets have them.
func large(b testing.TB, n int) []byte {
	b.Helper()
	resources := make([]manifest.Resource, n)
	for i := range resources {
		resources[i] = resource(fmt.Sprintf("data/train-%03d/Part-%07d.parquet", i%1000, i), fmt.Sprint(i))
	}
	m, err := manifest.New(resources, manifest.Serialization{})
	if err != nil {
		b.Fatal(err)
	}
	s, err := m.Statement("large", nil)
	if err != nil {
		b.Fatal(err)
	}
	return marshal(b, s)
}

func BenchmarkParse(b *testing.B) {
	for _, n := range []int{1000, 100_000, manifest.MaxResources} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			payload := large(b, n)
			b.SetBytes(int64(len(payload)))
			b.ReportAllocs()
			for b.Loop() {
				s, err := manifest.ParseStatement(payload)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := s.Manifest(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMarshal(b *testing.B) {
	for _, n := range []int{1000, 100_000, manifest.MaxResources} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, err := manifest.ParseStatement(large(b, n))
			if err != nil {
				b.Fatal(err)
			}
			m, err := s.Manifest()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				s, err := m.Statement("large", nil)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(marshal(b, s))))
			}
		})
	}
}
