package interop

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/file"
	"oras.land/oras-go/v2/registry/remote"
)

// diskRegistry keeps its blobs on the disk, as registries of large models do.
func diskRegistry(b *testing.B) registryServer {
	return startRegistry(b, distribution, fmt.Sprintf("storage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}\n", b.TempDir()))
}

// random writes n bytes that do not compress.
func random(b *testing.B, path string, n int64) {
	b.Helper()
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.NewChaCha8(sha256.Sum256([]byte(path))), n); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkPull pulls 8 files of 256 MiB from a registry on the same disk.
// Compare modelsig, which verifies, with oras, which copies and syncs, and with
// oras and then modelsig verify.
func BenchmarkPull(b *testing.B) {
	r, key := diskRegistry(b), newKey(b, curves[0].curve)
	dir := b.TempDir()
	for i := range 8 {
		random(b, filepath.Join(dir, fmt.Sprintf("model-%d.safetensors", i)), 256<<20)
	}
	ref := strings.TrimSpace(run(b, 0, "push", dir, r.host+"/acme/large:v1", "--sign", "key", "--private-key", key.private, "--format", "ref").stdout)
	copied := func(b *testing.B, to string) {
		repo, err := remote.NewRepository(ref)
		if err != nil {
			b.Fatal(err)
		}
		repo.PlainHTTP = true
		store, err := file.New(to)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := oras.Copy(context.Background(), repo, repo.Reference.Reference, store, "", oras.DefaultCopyOptions); err != nil {
			b.Fatal(err)
		}
		if err := store.Close(); err != nil {
			b.Fatal(err)
		}
		if out, err := exec.Command("sync", "-f", to).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
	for _, tool := range []struct {
		name string
		pull func(b *testing.B, to string)
	}{
		{"modelsig", func(b *testing.B, to string) { run(b, 0, "pull", "key", ref, to, "--public-key", key.public) }},
		{"oras", copied},
		{"oras-then-verify", func(b *testing.B, to string) {
			copied(b, to)
			run(b, 0, "verify", "key", to, "--ref", ref, "--public-key", key.public)
		}},
	} {
		b.Run(tool.name, func(b *testing.B) {
			b.SetBytes(8 * 256 << 20)
			for b.Loop() {
				to := filepath.Join(b.TempDir(), "pulled")
				tool.pull(b, to)
				b.StopTimer()
				if err := os.RemoveAll(to); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkArchive signs a layer of 2 GiB, tar and gzip, beside what a shell
// takes to hash the same content.
func BenchmarkArchive(b *testing.B) {
	const size = 2 << 30
	r, key := diskRegistry(b), newKey(b, curves[0].curve)
	blob := filepath.Join(b.TempDir(), "layer")
	desc := weights(b, blob, size)
	repo, err := remote.NewRepository(r.host + "/acme/archive")
	if err != nil {
		b.Fatal(err)
	}
	repo.PlainHTTP = true
	push := func(desc ocispec.Descriptor, content io.Reader) {
		b.Helper()
		if err := repo.Push(b.Context(), desc, content); err != nil {
			b.Fatal(err)
		}
	}
	f, err := os.Open(blob)
	if err != nil {
		b.Fatal(err)
	}
	push(desc, f)
	config := ocispec.DescriptorEmptyJSON
	push(config, strings.NewReader("{}"))
	m, err := json.Marshal(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: "application/vnd.cncf.model.manifest.v1+json", Config: config, Layers: []ocispec.Descriptor{desc}})
	if err != nil {
		b.Fatal(err)
	}
	push(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(m), Size: int64(len(m))}, strings.NewReader(string(m)))
	ref := fmt.Sprintf("%s/acme/archive@%s", r.host, digest.FromBytes(m))
	b.Run("modelsig", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			run(b, 0, "sign", "key", ref, "--private-key", key.private, "--no-attach", "--signature", filepath.Join(b.TempDir(), "sig"))
		}
	})
	b.Run("curl-gzip-openssl", func(b *testing.B) {
		b.SetBytes(size)
		pipe := fmt.Sprintf("curl -sf http://%s/v2/acme/archive/blobs/%s | gzip -dc | openssl dgst -sha256", r.host, desc.Digest)
		for b.Loop() {
			if out, err := exec.Command("sh", "-c", pipe).CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		}
	})
}

// weights writes a compressed tar of one file that compresses as weights do:
// of two bytes, one is noise.
func weights(b *testing.B, path string, size int64) ocispec.Descriptor {
	b.Helper()
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	sum := sha256.New()
	z, err := gzip.NewWriterLevel(io.MultiWriter(f, sum), gzip.BestSpeed)
	if err != nil {
		b.Fatal(err)
	}
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: "model.safetensors", Typeflag: tar.TypeReg, Mode: 0o644, Size: size}); err != nil {
		b.Fatal(err)
	}
	noise, buf := rand.NewChaCha8([32]byte{}), make([]byte, 1<<20)
	for left := size; left > 0; left -= int64(len(buf)) {
		if _, err := noise.Read(buf); err != nil {
			b.Fatal(err)
		}
		for i := 1; i < len(buf); i += 2 {
			buf[i] = 0x3c | buf[i]&0x83
		}
		if _, err := w.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	if err := z.Close(); err != nil {
		b.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: "application/vnd.cncf.model.weight.v1.tar+gzip", Digest: digest.NewDigest(digest.SHA256, sum), Size: info.Size()}
}
