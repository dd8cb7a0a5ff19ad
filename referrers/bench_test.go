package referrers_test

import (
	"fmt"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/referrers"
)

// BenchmarkDiscovery finds 1,000 bundles of one subject over the loopback, with
// the Referrers API and without it: listed as oras-go lists them, and each of
// them read, as for a verdict that none of them decides.
func BenchmarkDiscovery(b *testing.B) {
	const count = 1000
	for _, m := range []mode{modes[0], modes[2]} {
		repo := serve(b, m.handler())
		subject := pushSubject(b, repo)
		store := referrers.InRepository(repo)
		for i := 0; i < count; i += 100 {
			var list []referrers.Attachment
			for j := range 100 {
				list = append(list, referrers.Attachment{Bundle: fmt.Appendf(nil, `{"n":%d}`, i+j), PredicateType: signType})
			}
			if _, err := referrers.Attach(b.Context(), store, subject, list...); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(m.name+"/oras-go lists", func(b *testing.B) {
			for b.Loop() {
				n := 0
				err := repo.Referrers(b.Context(), subject, "", func(page []ocispec.Descriptor) error { n += len(page); return nil })
				if err != nil || n != count {
					b.Fatal(n, err)
				}
			}
		})
		b.Run(m.name+"/we list", func(b *testing.B) {
			for b.Loop() {
				if n := len(list(b, store, subject, referrers.Limits{}).Referrers); n != count {
					b.Fatal(n)
				}
			}
		})
		b.Run(m.name+"/we list and read", func(b *testing.B) {
			for b.Loop() {
				n := 0
				for c := range list(b, store, subject, referrers.Limits{}).Read(b.Context()) {
					if c.Err != nil {
						b.Fatal(c.Err)
					}
					n++
				}
				if n != count {
					b.Fatal(n)
				}
			}
		})
	}
}
