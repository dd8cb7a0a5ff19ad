package manifest_test

import (
	"bytes"
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

// A Hugging Face cache has the files as blobs, and a snapshot of links to them.
func TestHuggingFaceCache(t *testing.T) {
	const rev = "snapshots/0123456789abcdef0123456789abcdef01234567"
	root := folder(t, map[string]string{"blobs/aaaa": "weights", "blobs/bbbb": "{}", "refs/main": "0123456789abcdef0123456789abcdef01234567"})
	snapshot := filepath.Join(root, filepath.FromSlash(rev))
	if err := os.MkdirAll(filepath.Join(snapshot, "onnx"), 0o755); err != nil {
		t.Fatal(err)
	}
	link(t, "../../blobs/bbbb", filepath.Join(snapshot, "config.json"))
	link(t, "../../../blobs/aaaa", filepath.Join(snapshot, "onnx", "model.onnx"))

	if _, err := list(t, root, manifest.OpenOptions{}); code(t, err) != manifest.CodeSymlink {
		t.Errorf("links are not allowed: %v", err)
	}
	if _, err := list(t, snapshot, manifest.OpenOptions{AllowSymlinks: true}); code(t, err) != manifest.CodeSymlinkOutside {
		t.Errorf("the blobs lie outside the snapshot: %v", err)
	}
	d := open(t, root, manifest.OpenOptions{AllowSymlinks: true})
	for _, size := range []int64{0, 3} {
		files, err := d.Files(t.Context(), manifest.Ignore{"blobs", "refs"})
		if err != nil {
			t.Fatal(err)
		}
		h := manifest.Hasher{Hashing: manifest.Hashing{ShardSize: size}}
		got, err := h.Hash(t.Context(), files)
		if err != nil {
			t.Fatal(err)
		}
		grouped, err := manifest.GroupByFile(got, size)
		if err != nil || len(grouped) != 2 || grouped[0].Name != rev+"/config.json" || grouped[1].Name != rev+"/onnx/model.onnx" {
			t.Fatalf("%+v, %v", grouped, err)
		}
		if size == 0 && (!bytes.Equal(got[0].Digest, sum("{}")) || !bytes.Equal(got[1].Digest, sum("weights"))) {
			t.Errorf("%+v", got)
		}
	}
}
