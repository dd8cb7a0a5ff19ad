package oci_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

// tarOf packs a folder, with more entries at the end.
func tarOf(t *testing.T, dir string, more map[string]string) string {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for name, content := range more {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return writeConfig(t, filepath.Join(t.TempDir(), "m.tar"), buf.String())
}

func TestOpenArchive(t *testing.T) {
	dir, pushed := newLayout(t)
	archive := tarOf(t, dir, nil)
	for _, suffix := range []string{"", ":v1", "@" + pushed.Reference.Digest.String()} {
		m, err := open(t, "oci-archive:"+archive+suffix)
		if err != nil {
			t.Fatal(err)
		}
		if m.Reference.Digest != pushed.Reference.Digest {
			t.Errorf("%q: digest %s", suffix, m.Reference.Digest)
		}
		rc, err := m.Fetch(t.Context(), m.Manifest.Layers[0])
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(rc); err != nil || string(got) != "hello" {
			t.Errorf("%q, %v", got, err)
		}
		rc.Close()
		if err := m.Layout.AddEntries(t.Context(), ocispec.Descriptor{Digest: godigest.Digest(digest)}); err == nil {
			t.Error("an archive is written")
		}
		if err := m.Layout.PushBlob(t.Context(), m.Manifest.Layers[0], strings.NewReader("hello")); err == nil {
			t.Error("an archive is written")
		}
	}
}

func TestOpenArchiveRefuses(t *testing.T) {
	dir, _ := newLayout(t)
	_, err := open(t, "oci-archive:"+tarOf(t, dir, map[string]string{"./index.json": `{"manifests":[]}`})+":v1")
	wantThreat(t, err, "duplicate-entry") // T04
	good, readErr := os.ReadFile(tarOf(t, dir, nil))
	if readErr != nil {
		t.Fatal(readErr)
	}
	for name, data := range map[string][]byte{
		"gzip":     {0x1f, 0x8b, 8, 0, 0, 0, 0, 0},
		"nothing":  nil,
		"cut":      good[:700],
		"a header": good[:100],
	} {
		file := writeConfig(t, filepath.Join(t.TempDir(), "m.tar"), string(data))
		if _, err := open(t, "oci-archive:"+file+":v1"); err == nil || errors.Is(err, oci.ErrNotFound) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := open(t, "oci-archive:"+dir+":v1"); err == nil {
		t.Error("a folder is an archive")
	}
}

// Entries that other readers of tar take for a file of the layout (T01, T02, T06).
func TestOpenArchiveWithTwoReadings(t *testing.T) {
	dir, _ := newLayout(t)
	good, err := os.ReadFile(tarOf(t, dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	good = bytes.TrimRight(good, "\x00")
	good = append(good, make([]byte, (512-len(good)%512)%512)...)
	for name, header := range map[string]*tar.Header{
		"a hard link":     {Name: "index.json", Typeflag: tar.TypeLink, Linkname: "other.json"},
		"a symlink":       {Name: "./index.json", Typeflag: tar.TypeSymlink, Linkname: "other.json"},
		"an absolute one": {Name: "/oci-layout", Typeflag: tar.TypeReg},
		"a folder's link": {Name: "blobs/sha256", Typeflag: tar.TypeSymlink, Linkname: "/tmp"},
		"a global path":   {Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "index.json"}},
	} {
		t.Run(name, func(t *testing.T) {
			var more bytes.Buffer
			w := tar.NewWriter(&more)
			if err := w.WriteHeader(header); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			file := writeConfig(t, filepath.Join(t.TempDir(), "m.tar"), string(good)+more.String())
			_, err := open(t, "oci-archive:"+file+":v1")
			if _, ok := errors.AsType[*manifest.ThreatError](err); !ok {
				t.Errorf("error %v", err)
			}
		})
	}
}

// T06, T07: an archive is what all readers of tar find in it.
func TestOpenArchiveRefusesTwoReadings(t *testing.T) {
	dir, _ := newLayout(t)
	data, err := os.ReadFile(tarOf(t, dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	good := padded(strings.TrimRight(string(data), nul))
	try := func(t *testing.T, content string) error {
		_, err := open(t, "oci-archive:"+writeConfig(t, filepath.Join(t.TempDir(), "m.tar"), content)+":v1")
		return err
	}
	for _, content := range []string{good, ended(good), ended(pax(tar.TypeXGlobalHeader, "comment", "c") + good + plainFile("more", strings.Repeat("x", 70000)))} {
		if err := try(t, content); err != nil {
			t.Errorf("a good archive: %v", err)
		}
	}
	for _, odd := range oddTars() {
		t.Run(odd.name, func(t *testing.T) {
			err := try(t, ended(good+odd.content("blobs/")))
			if odd.code == "not-an-archive" {
				if err == nil {
					t.Error("accepted")
				}
				return
			}
			wantThreat(t, err, odd.code)
		})
	}
	t.Run("a second archive", func(t *testing.T) { wantThreat(t, try(t, ended(good)+ended(good)), "trailing-data") })
	t.Run("a last block without its padding", func(t *testing.T) {
		if err := try(t, good+strings.TrimRight(plainFile("more", "x"), nul)); err == nil {
			t.Error("accepted")
		}
	})
}
