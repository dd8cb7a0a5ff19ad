//go:build unix

package modelsig_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/file"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/modelsig/modelsig"
)

// BenchmarkPull pulls 8 files of 256 MiB from a registry on loopback whose
// blobs are on disk, until they are on disk: beside oras-go's Copy into a
// folder, which compares digests and nothing else, and beside the same and then
// verify. PULL_MIB is another size. Aims: pull / oras ≤ 1.15, pull / (oras,
// then verify) ≤ 0.7.
func BenchmarkPull(b *testing.B) {
	mib := 256
	if text := os.Getenv("PULL_MIB"); text != "" {
		if _, err := fmt.Sscan(text, &mib); err != nil {
			b.Fatal(err)
		}
	}
	layout := filepath.Join(b.TempDir(), "layout")
	signature := filepath.Join(b.TempDir(), "model.sig")
	signer, client := newSigner(b), new(modelsig.Client)
	pushed, err := client.Push(b.Context(), randomModel(b, 8, mib<<20), "oci:"+layout+":v1", modelsig.PushOptions{Signer: signer})
	if err != nil {
		b.Fatal(err)
	}
	writeFile(b, signature, string(pushed.Signature.Model.Bundle))
	host := serveLayout(b, layout, pushed.Digest)
	options := modelsig.VerifyOptions{SignatureFile: signature}

	copyByOras := func(b *testing.B, dir string) {
		repo, err := remote.NewRepository(host + "/m")
		if err != nil {
			b.Fatal(err)
		}
		repo.PlainHTTP = true
		store, err := file.New(dir)
		if err != nil {
			b.Fatal(err)
		}
		defer store.Close()
		if _, err := oras.Copy(b.Context(), repo, "v1", store, "v1", oras.CopyOptions{CopyGraphOptions: oras.CopyGraphOptions{Concurrency: 4}}); err != nil {
			b.Fatal(err)
		}
		syscall.Sync()
	}
	for _, way := range []struct {
		name string
		pull func(b *testing.B, dir string)
	}{
		{"modelsig", func(b *testing.B, dir string) {
			if _, err := client.Pull(b.Context(), host+"/m:v1", dir, trusts(signer), modelsig.PullOptions{Verify: options}); err != nil {
				b.Fatal(err)
			}
		}},
		{"oras and sync", copyByOras},
		{"oras and sync, then verify", func(b *testing.B, dir string) {
			copyByOras(b, dir)
			if _, err := client.VerifyDir(b.Context(), dir, trusts(signer), options); err != nil {
				b.Fatal(err)
			}
		}},
	} {
		b.Run(way.name, func(b *testing.B) {
			b.SetBytes(8 * int64(mib) << 20)
			for b.Loop() {
				b.StopTimer()
				dir := filepath.Join(b.TempDir(), "out")
				syscall.Sync()
				b.StartTimer()
				way.pull(b, dir)
				b.StopTimer()
				if err := os.RemoveAll(dir); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			if peak, ok := peakMemory(); ok {
				b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
			}
		})
	}
}

// randomModel is a folder of n files.
func randomModel(b *testing.B, n, size int) string {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "model")
	if err := os.Mkdir(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	for i := range n {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("model-%d.safetensors", i)))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{byte(i)}), int64(size)); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// serveLayout is a registry with one manifest and the blobs of a layout.
func serveLayout(b *testing.B, layout, manifest string) string {
	b.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, name, ok := strings.Cut(r.URL.Path, "/blobs/")
		if _, reference, is := strings.Cut(r.URL.Path, "/manifests/"); is && (reference == "v1" || reference == manifest) {
			name, ok = manifest, true
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.Header().Set("Docker-Content-Digest", manifest)
		}
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeFile(w, r, filepath.Join(layout, "blobs/sha256", strings.TrimPrefix(name, "sha256:")))
	}))
	b.Cleanup(server.Close)
	return server.Listener.Addr().String()
}
