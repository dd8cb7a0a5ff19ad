package modelsig_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/verify"
)

// benchmarkModels are models whose layers do not exist: only the manifest is
// ever read. Time must not depend on bytes.
var benchmarkModels = []struct {
	name  string
	files int
	size  int64
}{
	{"2 files of 4 MiB", 2, 4 << 20},
	{"2 files of 4 TiB", 2, 4 << 40},
	{"1000 files", 1000, 1 << 30},
}

func BenchmarkSign(b *testing.B) {
	for _, m := range benchmarkModels {
		b.Run(m.name, func(b *testing.B) {
			r, signer := newRegistry(b), newSigner(b)
			wire := &meter{}
			client := &modelsig.Client{Registry: oci.Options{Transport: wire}}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				b.StopTimer() // each time an artifact that nobody has signed
				n++
				ref := putModel(b, r, n, m.files, m.size)
				b.StartTimer()
				mustSign(b, client, ref, signer, modelsig.SignOptions{})
			}
			b.ReportMetric(float64(wire.bytes)/float64(n), "wire-B/op")
			b.ReportMetric(float64(len(wire.requests))/float64(n), "requests/op")
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, m := range benchmarkModels {
		b.Run(m.name, func(b *testing.B) {
			r, signer := newRegistry(b), newSigner(b)
			ref := putModel(b, r, 0, m.files, m.size)
			mustSign(b, new(modelsig.Client), ref, signer, modelsig.SignOptions{})
			wire := &meter{}
			client := &modelsig.Client{Registry: oci.Options{Transport: wire}}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				n++
				v, err := client.Verify(b.Context(), ref, trusts(signer), modelsig.VerifyOptions{})
				wantVerified(b, v, err, verify.StrengthManifest, 2)
			}
			b.ReportMetric(float64(wire.bytes)/float64(n), "wire-B/op")
			b.ReportMetric(float64(len(wire.requests))/float64(n), "requests/op")
		})
	}
}

// putModel puts a manifest that no other has the digest of, and returns where.
func putModel(b *testing.B, r *registry, salt, files int, size int64) string {
	b.Helper()
	m := image()
	for i := range files {
		l := rawLayer(fmt.Sprintf("part-%06d.safetensors", i), fmt.Sprint(salt, i))
		l.Size = size
		m.Layers = append(m.Layers, l)
	}
	tag := fmt.Sprint("v", salt)
	r.put(b, "acme/bench", tag, m)
	return r.host + "/acme/bench:" + tag
}

// BenchmarkAMillionFiles signs and verifies a model of as many files as a model
// may have: built, signed, parsed and compared. Their digests are known, as a
// custom source may know them, so that nothing is read.
func BenchmarkAMillionFiles(b *testing.B) {
	files := make([]manifest.File, manifest.MaxResources)
	for i := range files {
		name := fmt.Sprintf("data/%03d/part-%06d.parquet", i%1000, i)
		digest := sha256.Sum256([]byte(name))
		files[i] = manifest.File{Name: name, Size: 4096, Digest: digest[:]}
	}
	signer := newSigner(b)
	client := new(modelsig.Client)
	b.ReportAllocs()
	for b.Loop() {
		sig, err := client.SignFiles(b.Context(), "data", files, signer, modelsig.SignOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(sig.Model.Bundle)), "bundle-B")
		v, err := client.VerifyFiles(b.Context(), "data", files, sig.Model.Bundle, trusts(signer), modelsig.VerifyOptions{})
		wantVerified(b, v, err, verify.StrengthFiles, 1)
	}
	if peak, ok := peakMemory(); ok {
		b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
	}
}

// peakMemory is the largest resident set of this process so far, in bytes, where
// the system says so.
func peakMemory() (int64, bool) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			var kib int64
			if _, err := fmt.Sscanf(rest, "%d kB", &kib); err == nil {
				return kib << 10, true
			}
		}
	}
	return 0, false
}
