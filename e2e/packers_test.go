//go:build unix

package e2e

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"
)

// packers is the folder with models packed by real tools, beside the
// repository; the condition [packers] holds where it is.
const packers = "../../shared/packers"

func havePackers() bool {
	_, err := os.Stat(packers)
	return err == nil
}

// packed copies a model to the image layout NAME and to $REGISTRY/packed/NAME:v1:
// one of testdata/packed, or one that a real tool packed. Of those it writes to NAME.pulled
// what the tool itself writes when it pulls, checked against its list.
func packed(ctx context.Context, ts *testscript.TestScript, args []string) error {
	name, ours := args[0], true
	from, err := filepath.Abs(filepath.Join("../testdata/packed", name))
	if err != nil {
		return err
	}
	if _, err := os.Stat(from); err != nil {
		ours = false
		if from, err = filepath.Abs(filepath.Join(packers, name)); err != nil {
			return err
		}
	}
	if err := os.CopyFS(ts.MkAbs(name), os.DirFS(from)); err != nil {
		return err
	}
	read := func(d ocispec.Descriptor) ([]byte, error) {
		return os.ReadFile(filepath.Join(from, "blobs", "sha256", d.Digest.Encoded()))
	}
	data, err := os.ReadFile(filepath.Join(from, "index.json"))
	if err != nil {
		return err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return err
	}
	if data, err = read(index.Manifests[0]); err != nil {
		return err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	pulled := ts.MkAbs(name + ".pulled")
	for _, desc := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		blob, err := read(desc)
		if err != nil {
			return err
		}
		if _, err := registryOf(ts).putBlob(ctx, "packed/"+name, blob); err != nil {
			return err
		}
		if ours {
			continue
		}
		if err := pullLayer(pulled, desc, blob); err != nil {
			return fmt.Errorf("%s: %w", desc.MediaType, err)
		}
	}
	if _, err := registryOf(ts).backend.PushManifest(ctx, "packed/"+name, "v1", data, ocispec.MediaTypeImageManifest); err != nil {
		return err
	}
	if ours {
		return nil
	}
	return checkPulled(pulled, filepath.Join(packers, name+".SHA256SUMS"))
}

// pullLayer writes one layer as the tool does that packed it.
func pullLayer(dir string, desc ocispec.Descriptor, blob []byte) error {
	name := desc.Annotations[ocispec.AnnotationTitle]
	if name == "" {
		name = desc.Annotations["org.cncf.model.filepath"]
	}
	isTar := strings.Contains(desc.MediaType, ".tar") && (strings.Contains(desc.MediaType, "kitops") || strings.Contains(desc.MediaType, "cncf") || name == "")
	if desc.Annotations["io.deis.oras.content.unpack"] == "true" || isTar {
		return untar(dir, blob)
	}
	if name == "" {
		return nil
	}
	return writeUnder(dir, name, blob)
}

func writeUnder(dir, name string, content []byte) error {
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}

func untar(dir string, blob []byte) error {
	var r io.Reader = strings.NewReader(string(blob))
	if strings.HasPrefix(string(blob), "\x1f\x8b") {
		z, err := gzip.NewReader(r)
		if err != nil {
			return err
		}
		r = z
	}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(t)
		if err != nil {
			return err
		}
		if err := writeUnder(dir, h.Name, content); err != nil {
			return err
		}
	}
}

// checkPulled wants the files of the list. The Kitfile, which kit writes from
// its config, is written here in its place: nothing looks inside it.
func checkPulled(dir, list string) error {
	f, err := os.Open(list)
	if err != nil {
		return err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		want, name, _ := strings.Cut(s.Text(), "  ")
		if name == "Kitfile" {
			if err := writeUnder(dir, name, []byte("manifestVersion: 1.0.0\n")); err != nil {
				return err
			}
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != want {
			return errors.New(name + " is not what the tool wrote")
		}
	}
	return nil
}
