package modelsig_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/verify"
)

// tarFolder packs files as oras packs a folder, not compressed.
func tarFolder(t testing.TB, modes map[string]int64, files map[string]string) string {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		mode := modes[name]
		if mode == 0 {
			mode = 0o600
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func folderLayer(title, content string) ocispec.Descriptor {
	l := rawLayer(title, content)
	l.MediaType = ocispec.MediaTypeImageLayer
	l.Annotations["io.deis.oras.content.unpack"] = "true"
	return l
}

func TestPullUnpacksArchives(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	folder := tarFolder(t, map[string]int64{"code/run.py": 0o755}, map[string]string{"code/run.py": "print(1)", "code/deep/x.txt": "x"})
	r.putBlob(t, "acme/mixed", folder)
	r.putBlob(t, "acme/mixed", "hello")
	r.put(t, "acme/mixed", "v1", image(rawLayer("weights.bin", "hello"), folderLayer("code", folder)))
	ref := r.host + "/acme/mixed:v1"
	mustSign(t, client, ref, signer, modelsig.SignOptions{})
	want := map[string]string{"weights.bin": "hello", "code/run.py": "print(1)", "code/deep/x.txt": "x"}
	for _, keep := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "out")
		pulled, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{KeepModes: keep})
		if err != nil {
			t.Fatal(err)
		}
		wantTree(t, dir, want)
		if pulled.Files != 3 || pulled.Bytes != 14 {
			t.Errorf("%+v", pulled)
		}
		info, err := os.Stat(filepath.Join(dir, "code/run.py"))
		if err != nil || (info.Mode()&0o100 != 0) != keep {
			t.Errorf("keep modes %t: %v, %v", keep, info.Mode(), err)
		}
		if info, err := os.Stat(filepath.Join(dir, "code/deep/x.txt")); err != nil || info.Mode().Perm()&0o177 != 0o044&^umask(t) {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		pulled, err = client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{})
		if err != nil || !pulled.Unchanged {
			t.Errorf("again: %+v, %v", pulled, err)
		}
	}
}

// Of two layers of a container image that have a file, the later one counts,
// whichever is read first.
func TestPullOfAFileInTwoLayers(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	older := tarFolder(t, nil, map[string]string{"models/x": strings.Repeat("old", 1<<20), "models/y": "y"})
	newer := tarFolder(t, nil, map[string]string{"models/x": "new"})
	config := rawLayer("", `{"rootfs":{"type":"layers","diff_ids":["`+digest.FromString(older).String()+`","`+digest.FromString(newer).String()+`"]}}`)
	config.MediaType, config.Annotations = ocispec.MediaTypeImageConfig, nil
	m := image()
	m.ArtifactType, m.Config = "", config
	r.putBlob(t, "acme/car", `{"rootfs":{"type":"layers","diff_ids":["`+digest.FromString(older).String()+`","`+digest.FromString(newer).String()+`"]}}`)
	for _, content := range []string{older, newer} {
		l := rawLayer("", content)
		l.MediaType, l.Annotations = ocispec.MediaTypeImageLayer, nil
		m.Layers = append(m.Layers, l)
		r.putBlob(t, "acme/car", content)
	}
	r.put(t, "acme/car", "v1", m)
	ref := r.host + "/acme/car:v1"
	allow := manifest.Allow{manifest.DuplicateLayer}
	mustSign(t, client, ref, signer, modelsig.SignOptions{Allow: allow})
	parent := t.TempDir()
	_, err := client.Pull(t.Context(), ref, filepath.Join(parent, "out"), trusts(signer), modelsig.PullOptions{})
	wantNo(t, nil, err, modelsig.ErrRefused, string(manifest.DuplicateLayer))
	wantAlone(t, parent)
	for jobs := range 5 {
		dir := filepath.Join(t.TempDir(), "out")
		client := &modelsig.Client{Jobs: jobs}
		if _, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{Verify: modelsig.VerifyOptions{Allow: allow}}); err != nil {
			t.Fatal(err)
		}
		wantTree(t, dir, map[string]string{"x": "new", "y": "y"})
	}
}

// Each is properly signed, and its content is wrong in one way.
func TestPullComparesWhatItWrote(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	good := map[string]string{"code/run.py": "print(1)", "code/x": "x"}
	for i, tt := range []struct {
		name string
		tar  map[string]string
		code string
	}{
		{"a file changed", map[string]string{"code/run.py": "print(2)", "code/x": "x"}, verify.CodeFiles},
		{"a file more", map[string]string{"code/run.py": "print(1)", "code/x": "x", "code/y": "y"}, verify.CodeFiles},
		{"a file less", map[string]string{"code/run.py": "print(1)"}, verify.CodeFiles},
		{"a file under another name", map[string]string{"code/run.py": "print(1)", "code/X": "x"}, verify.CodeFiles},
		{"a file outside its folder", map[string]string{"code/run.py": "print(1)", "code/x": "x", "z": ""}, "entry-outside"},
		{"a name that leads out", map[string]string{"code/../../x": "x"}, "name-parent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			repository := fmt.Sprint("acme/packed", i)
			content := tarFolder(t, nil, tt.tar)
			r.putBlob(t, repository, content)
			m := image(folderLayer("code", content))
			desc := r.put(t, repository, "v1", m)

			// The statement names this manifest, and lists the good files.
			var resources []manifest.Resource
			for _, name := range slices.Sorted(maps.Keys(good)) {
				resources = append(resources, manifest.Resource{Name: name, Digest: sum(good[name]), Algorithm: "sha256"})
			}
			oms, err := manifest.New(resources, manifest.Serialization{HashType: manifest.SHA256})
			if err != nil {
				t.Fatal(err)
			}
			binding, err := verify.Binding{
				Manifest:     verify.BoundManifest{MediaType: desc.MediaType, Digest: desc.Digest.String(), Size: desc.Size},
				ArtifactType: m.ArtifactType, Layout: "title",
			}.Annotations()
			if err != nil {
				t.Fatal(err)
			}
			st, err := oms.Statement("packed", binding)
			if err != nil {
				t.Fatal(err)
			}
			parent := t.TempDir()
			_, err = client.Pull(t.Context(), r.host+"/"+repository+":v1", filepath.Join(parent, "out"), trusts(signer),
				modelsig.PullOptions{Verify: modelsig.VerifyOptions{SignatureFile: signedFile(t, signer, st)}})
			wantNo(t, nil, err, modelsig.ErrRefused, tt.code)
			wantAlone(t, parent)
		})
	}
}
