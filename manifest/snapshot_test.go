package manifest_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/modelsig/modelsig/manifest"
)

// hubCache makes what the Hugging Face client leaves on disk, and returns the
// snapshot.
func hubCache(t *testing.T, repository string) string {
	t.Helper()
	cache := filepath.Join(t.TempDir(), repository)
	revision := filepath.Join(cache, "snapshots", "0123456789abcdef")
	for _, dir := range []string{filepath.Join(cache, "blobs"), filepath.Join(revision, "onnx"), filepath.Join(cache, "refs")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for blob, link := range map[string]string{
		"44136fa3": "config.json",
		"2cf24dba": "onnx/model.onnx",
	} {
		if err := os.WriteFile(filepath.Join(cache, "blobs", blob), []byte(blob), 0o644); err != nil {
			t.Fatal(err)
		}
		up := "../../blobs"
		if filepath.Dir(link) != "." {
			up = "../../../blobs"
		}
		if err := os.Symlink(filepath.Join(up, blob), filepath.Join(revision, link)); err != nil {
			t.Skipf("no symbolic links here: %v", err)
		}
	}
	return revision
}

// Issue 3: the files of a snapshot are links into the blobs beside it. They are
// followed where links are allowed, and lead nowhere else.
func TestASnapshotOfAHuggingFaceCache(t *testing.T) {
	for _, repository := range []string{"models--acme--tiny", "datasets--acme--tiny"} {
		dir := hubCache(t, repository)

		_, err := files(t, dir, manifest.OpenOptions{})
		if threat, ok := errors.AsType[*manifest.ThreatError](err); !ok || threat.Code != manifest.CodeSnapshotLink {
			t.Errorf("%s without links: %v, want code %s", repository, err, manifest.CodeSnapshotLink)
		}

		got, err := files(t, dir, manifest.OpenOptions{AllowSymlinks: true})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, []string{"config.json", "onnx/model.onnx"}) {
			t.Errorf("%s: files %q", repository, got)
		}
	}
}

func TestALinkInASnapshotThatLeavesTheCacheIsRefused(t *testing.T) {
	for name, target := range map[string]string{
		"by a relative path":    "../../../outside",
		"by an absolute path":   "/etc/hostname",
		"over the cache's name": "../../../models--acme--other/blobs/x",
	} {
		t.Run(name, func(t *testing.T) {
			dir := hubCache(t, "models--acme--tiny")
			root := filepath.Join(dir, "..", "..", "..")
			if err := os.MkdirAll(filepath.Join(root, "models--acme--other", "blobs"), 0o755); err != nil {
				t.Fatal(err)
			}
			for _, f := range []string{"outside", "models--acme--other/blobs/x"} {
				if err := os.WriteFile(filepath.Join(root, f), []byte("x"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink(target, filepath.Join(dir, "evil")); err != nil {
				t.Fatal(err)
			}
			_, err := files(t, dir, manifest.OpenOptions{AllowSymlinks: true})
			if threat, ok := errors.AsType[*manifest.ThreatError](err); !ok || threat.Code != manifest.CodeSymlinkOutside {
				t.Errorf("got %v, want code %s", err, manifest.CodeSymlinkOutside)
			}
		})
	}
}

// What is only called like a cache, and has no blobs, is a folder like any other.
func TestAFolderThatIsNoSnapshotDoesNotWidenWhatLinksReach(t *testing.T) {
	for _, path := range []string{"models--acme--tiny/snapshots/rev", "models--acme--tiny/snap/rev", "acme/snapshots/rev"} {
		dir := filepath.Join(t.TempDir(), path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		side := filepath.Join(dir, "..", "..", "side")
		if err := os.WriteFile(side, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("../../side", filepath.Join(dir, "link")); err != nil {
			t.Skipf("no symbolic links here: %v", err)
		}
		_, err := files(t, dir, manifest.OpenOptions{AllowSymlinks: true})
		if threat, ok := errors.AsType[*manifest.ThreatError](err); !ok || threat.Code != manifest.CodeSymlinkOutside {
			t.Errorf("%s: got %v, want code %s", path, err, manifest.CodeSymlinkOutside)
		}
	}
}

// files are the names of the files of a model, hashed.
func files(t *testing.T, dir string, o manifest.OpenOptions) ([]string, error) {
	t.Helper()
	d, err := manifest.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	list, err := d.Files(t.Context(), nil)
	if err != nil {
		return nil, err
	}
	resources, err := new(manifest.Hasher).Hash(t.Context(), list)
	var names []string
	for _, r := range resources {
		names = append(names, r.Name)
	}
	return names, err
}
