package interop

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"
)

const (
	goldenDir = "../testdata/cosign"
	goldenTag = "v1"
	// goldenMax keeps the fixture small enough to read in a review.
	goldenMax = 100 << 10
	// goldenTime stands in the model's manifest, so that its digest is the
	// same each time. The signatures are new each time.
	goldenTime = "2026-01-01T00:00:00Z"
)

// TestGolden checks ../testdata/cosign with the tools themselves; -update makes
// it again first. ../testdata/cosign/README.md says what is in it.
func TestGolden(t *testing.T) {
	if *update {
		makeGolden(t)
	}
	layout, err := oci.NewFromFS(t.Context(), os.DirFS(filepath.Join(goldenDir, "layout")))
	if err != nil {
		t.Fatal(err)
	}
	r := startDistribution(t, "")
	subject, err := oras.ExtendedCopy(t.Context(), layout, goldenTag, repository(t, r, "acme/golden"), goldenTag, oras.DefaultExtendedCopyOptions)
	if err != nil {
		t.Fatal(err)
	}
	ref := r.host + "/acme/golden@" + subject.Digest.String()
	for _, c := range curves {
		key := goldenKey(c)
		t.Run(c.name, func(t *testing.T) {
			cosignVerify(key, ref, c.verify...).want(t, 0)
			for _, target := range []string{ref, "oci:" + goldenDir + "/layout:" + goldenTag} {
				if got := verifyJSON(t, 0, key, target); !slices.Equal(got.kinds(), []string{"artifact"}) {
					t.Errorf("verify %s: %+v", target, got)
				}
			}
		})
	}
	t.Run("the attestation", func(t *testing.T) {
		key := keyPair{public: filepath.Join(goldenDir, "attest.pub")}
		peer(t, cosign, "verify-attestation", "--key", key.public, "--type", "https://example.com/scan/v1",
			"--insecure-ignore-tlog=true", "--allow-http-registry", ref)
		verifyJSON(t, 1, key, ref)
	})
	t.Run("no private key, and small", func(t *testing.T) {
		size := 0
		err := filepath.WalkDir(goldenDir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(name)
			size += len(data)
			if bytes.Contains(data, []byte("PRIVATE KEY-----")) {
				t.Errorf("%s has a private key", name)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if size > goldenMax {
			t.Errorf("%d bytes, want at most %d", size, goldenMax)
		}
	})
}

func goldenKey(c curve) keyPair {
	name := strings.ToLower(strings.ReplaceAll(c.name, "-", "")) + ".pub"
	return keyPair{public: filepath.Join(goldenDir, name)}
}

// makeGolden pushes the small model with oras-go, signs and attests it with
// cosign and new keys, and copies it all into an image layout.
func makeGolden(t *testing.T) {
	r := startDistribution(t, "")
	repo := repository(t, r, "acme/golden")
	subject := pushGolden(t, repo)
	ref := r.host + "/acme/golden@" + subject.Digest.String()

	root, err := os.OpenRoot(goldenDir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	publish := func(key keyPair, name string) {
		public, err := os.ReadFile(key.public)
		if err != nil {
			t.Fatal(err)
		}
		if err := root.WriteFile(name, public, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range curves {
		key := newCosignKey(t, c.curve)
		cosignSign(t, key, ref)
		publish(key, filepath.Base(goldenKey(c).public))
	}
	key := newCosignKey(t, curves[0].curve)
	cosignAttest(t, key, ref)
	publish(key, "attest.pub")

	if err := root.RemoveAll("layout"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	layout, err := oci.New(filepath.Join(goldenDir, "layout"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := oras.ExtendedCopy(t.Context(), repo, goldenTag, layout, goldenTag, oras.DefaultExtendedCopyOptions); err != nil {
		t.Fatal(err)
	}
	if err := root.RemoveAll("layout/ingest"); err != nil { // the store's own staging
		t.Fatal(err)
	}
}

// pushGolden makes the artifact that modelsig push would make of the small
// model, without modelsig.
func pushGolden(t *testing.T, repo *remote.Repository) ocispec.Descriptor {
	t.Helper()
	files := modelFiles()
	var layers []ocispec.Descriptor
	for _, name := range slices.Sorted(maps.Keys(files)) {
		mediaType := "application/octet-stream"
		if path.Ext(name) == ".json" {
			mediaType = "application/json"
		}
		layer, err := oras.PushBytes(t.Context(), repo, mediaType, files[name])
		if err != nil {
			t.Fatal(err)
		}
		layer.Annotations = map[string]string{ocispec.AnnotationTitle: name}
		layers = append(layers, layer)
	}
	config, err := oras.PushBytes(t.Context(), repo, ocispec.MediaTypeEmptyJSON, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	manifest := mustJSON(t, ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: "application/vnd.unknown.artifact.v1",
		Config:       config,
		Layers:       layers,
		Annotations:  map[string]string{ocispec.AnnotationCreated: goldenTime},
	})
	desc, err := oras.TagBytes(t.Context(), repo, ocispec.MediaTypeImageManifest, manifest, goldenTag)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// repository is an oras-go client of a registry on loopback.
func repository(t testing.TB, r registryServer, name string) *remote.Repository {
	t.Helper()
	repo, err := remote.NewRepository(r.host + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = true
	return repo
}
