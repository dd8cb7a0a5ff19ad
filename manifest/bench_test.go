package manifest_test

import (
	"fmt"
	"testing"

	"github.com/modelsig/modelsig/manifest"
)

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
