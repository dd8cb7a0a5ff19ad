package oci_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	godigest "github.com/opencontainers/go-digest"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

// An entry is one header of a tar, and its content.
type entry struct {
	tar.Header
	content string
}

func regular(name, content string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, content}
}

func folder(name string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}

func special(name string, typeflag byte) entry {
	return entry{tar.Header{Name: name, Typeflag: typeflag, Linkname: "a.bin"}, ""}
}

func tarball(t testing.TB, entries ...entry) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.content))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func gzipped(t testing.TB, s string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func zstded(t testing.TB, s string, o ...zstd.EOption) string {
	t.Helper()
	w, err := zstd.NewWriter(nil, o...)
	if err != nil {
		t.Fatal(err)
	}
	return string(w.EncodeAll([]byte(s), nil))
}

// stored is a model in an image layout that has the manifest and the blobs.
func stored(t testing.TB, m string, blobs ...string) *oci.Model {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, blob := range append(blobs, m, "{}") {
		write("blobs/sha256/"+godigest.FromString(blob).Encoded(), blob)
	}
	write("oci-layout", `{"imageLayoutVersion":"1.0.0"}`)
	write("index.json", fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"org.opencontainers.image.ref.name":"v1"}}]}`,
		typeManifest, godigest.FromString(m), len(m)))
	model, err := open(t, "oci:"+dir+":v1")
	if err != nil {
		t.Fatal(err)
	}
	return model
}

// unpack plans and unpacks.
func unpack(t testing.TB, m *oci.Model, o oci.FilesOptions, u oci.UnpackOptions) (*oci.Files, error) {
	t.Helper()
	plan, err := m.Manifest.Plan(o)
	if err != nil {
		return nil, err
	}
	return m.Unpack(t.Context(), plan, u)
}

// Ways to put one tar into an artifact, with the config that goes with it.
type packing struct {
	name, mediaType, config string
	annotations             []string
	pack                    func(testing.TB, string) string
}

func plain(_ testing.TB, s string) string { return s }

func zstandard(t testing.TB, s string) string { return zstded(t, s) }

func (p packing) store(t testing.TB, content string) *oci.Model {
	t.Helper()
	blob := p.pack(t, content)
	return p.put(t, blob)
}

func (p packing) put(t testing.TB, blobs ...string) *oci.Model {
	t.Helper()
	var layers []string
	for _, blob := range blobs {
		layers = append(layers, typed(p.mediaType, blob, p.annotations...))
	}
	m := manifestOf(layers...)
	if p.config != "" {
		config := strings.Replace(typed(p.config, "{}"), `"annotations":{}`, "", 1)
		m = withConfig(m, config)
	}
	return stored(t, m, blobs...)
}

func packings() []packing {
	image := "application/vnd.oci.image.config.v1+json"
	return []packing{
		{"a folder of oras", typeTarGzip, "", []string{titleKey, "model", unpackKey, "true"}, gzipped},
		{"a folder of oras, by its content", typeImageTar, "", []string{titleKey, "model", unpackKey, "true"}, gzipped},
		{"ModelPack, tar", typeWeight + "tar", "", nil, plain},
		{"ModelPack, tar+gzip", typeWeight + "tar+gzip", "", nil, gzipped},
		{"ModelPack, tar+zstd", typeWeight + "tar+zstd", "", nil, zstandard},
		{"a folder of Docker", typeDMR + "dir.tar", "", nil, plain},
		{"a folder of Docker, compressed", typeDMR + "dir.tar", "", nil, gzipped},
		{"vLLM's files of Docker", typeDMR + "vllm.config.tar", "", nil, plain},
		{"a container image", typeImageTar, image, nil, plain},
		{"a container image, gzip", typeTarGzip, image, nil, gzipped},
		{"a container image, zstd", "application/vnd.oci.image.layer.v1.tar+zstd", image, nil, zstandard},
		{"Docker's image", "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.container.image.v1+json", nil, gzipped},
	}
}

// prefix is the folder that the entries of a packing are in.
func (p packing) prefix() string {
	switch {
	case slices.Contains(p.annotations, unpackKey):
		return "model/"
	case strings.Contains(p.config, "image"):
		return "models/"
	}
	return ""
}

// trimmed is how the files are called that are in that folder.
func (p packing) trimmed(name string) string {
	if p.prefix() == "models/" {
		return strings.TrimPrefix(name, "models/")
	}
	return name
}

func TestUnpack(t *testing.T) {
	for _, p := range packings() {
		t.Run(p.name, func(t *testing.T) {
			in := p.prefix()
			program := regular(in+"run.sh", "#!")
			program.Mode = 0o755
			entries := []entry{regular(in+"z.bin", "zzz"), folder(in + "onnx/"), regular(in+"onnx/model.onnx", strings.Repeat("onnx", 9000)), regular(in+"empty", ""), program}
			if in != "" {
				entries = append([]entry{folder(in)}, entries...)
			}
			if in == "models/" {
				entries = append(entries, regular("etc/passwd", "root"), special("bin", tar.TypeSymlink), folder("./"))
			}
			model := p.store(t, tarball(t, entries...))
			var mu sync.Mutex
			var read int64
			sunk := map[string]string{}
			files, err := unpack(t, model, oci.FilesOptions{}, oci.UnpackOptions{
				Progress: func(n int64) { mu.Lock(); defer mu.Unlock(); read += n },
				Sink: func(e oci.Entry, content io.Reader) error {
					data, err := io.ReadAll(content)
					mu.Lock()
					defer mu.Unlock()
					sunk[fmt.Sprintf("%s %d %t", e.Name, e.Size, e.Executable)] = string(data)
					return err
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{}
			for _, e := range entries {
				if e.Typeflag == tar.TypeReg && strings.HasPrefix(e.Name, in) {
					want[fmt.Sprintf("%s %d %t", p.trimmed(e.Name), len(e.content), e.Mode == 0o755)] = e.content
				}
			}
			if len(sunk) != len(want) {
				t.Errorf("the sink got %d files, want %d", len(sunk), len(want))
			}
			for name, content := range want {
				if sunk[name] != content {
					t.Errorf("the sink got %q as %s", sunk[name], name)
				}
			}
			for _, f := range files.Files {
				sum := sha256.Sum256([]byte(want[fmt.Sprintf("%s %d %t", f.Name, f.Size, strings.HasSuffix(f.Name, "run.sh"))]))
				if !bytes.Equal(f.Digest, sum[:]) {
					t.Errorf("%s has digest %s", f.Name, hex.EncodeToString(f.Digest))
				}
			}
			if len(files.Files) != len(want) || read != model.Manifest.Layers[0].Size {
				t.Errorf("%d files, %d bytes read", len(files.Files), read)
			}
			if run := p.trimmed(in + "run.sh"); !slices.Equal(files.Executable, []string{run}) || len(files.Warnings) != 1 || files.Warnings[0].Code != "file-mode" {
				t.Errorf("T10: programs %q, warnings %v", files.Executable, files.Warnings)
			}
		})
	}
}

// Each threat in an archive that is otherwise good, in each packing.
func TestUnpackRefuses(t *testing.T) {
	good := func(in string) entry { return regular(in+"a.bin", "aaa") }
	for _, test := range []struct {
		name, code string
		content    func(t testing.TB, in string) string
	}{
		{"N04: a parent segment", "name-parent", func(t testing.TB, in string) string { return tarball(t, good(in), regular(in+"../../x", "x")) }},
		{"N04: a folder above", "name-parent", func(t testing.TB, in string) string { return tarball(t, good(in), folder(in+"../x/")) }},
		{"N05: an absolute path", "name-absolute", func(t testing.TB, in string) string { return tarball(t, good(in), regular("/"+in+"x", "x")) }},
		{"N03: a name that is not clean", "name-unclean", func(t testing.TB, in string) string { return tarball(t, good(in), regular(in+"x//y", "x")) }},
		{"N07: a control character", "name-control", func(t testing.TB, in string) string { return tarball(t, good(in), regular(in+"x\x1by", "x")) }},
		{"N09: not UTF-8", "name-not-utf8", func(t testing.TB, in string) string {
			return header(in+"a.bi\xff", tar.TypeReg, 0) + tarball(t, good(in))
		}},
		{"N13: a file and a folder", "file-and-folder", func(t testing.TB, in string) string { return tarball(t, good(in), regular(in+"a.bin/x", "x")) }},
		{"T01: a symbolic link", "special-file", func(t testing.TB, in string) string { return tarball(t, good(in), special(in+"l", tar.TypeSymlink)) }},
		{"T01: a hard link", "special-file", func(t testing.TB, in string) string { return tarball(t, good(in), special(in+"l", tar.TypeLink)) }},
		{"T02: a FIFO", "special-file", func(t testing.TB, in string) string { return tarball(t, good(in), special(in+"l", tar.TypeFifo)) }},
		{"T02: a device", "special-file", func(t testing.TB, in string) string { return tarball(t, good(in), special(in+"l", tar.TypeChar)) }},
		{"T02: a type of nobody", "special-file", func(t testing.TB, in string) string { return tarball(t, good(in), special(in+"l", 'Q')) }},
		{"T02: a sparse file", "special-file", func(t testing.TB, in string) string {
			return header(in+"s", tar.TypeGNUSparse, 0) + tarball(t, good(in))
		}},
		{"T04: one name twice", "duplicate-name", func(t testing.TB, in string) string { return tarball(t, good(in), regular(in+"a.bin", "aaa")) }},
		{"T04: one name twice, once with a dot", "duplicate-name", func(t testing.TB, in string) string { return tarball(t, good(in), regular("./"+in+"a.bin", "bbb")) }},
		{"T06: a global header with a path", "global-path", func(t testing.TB, in string) string {
			return tarball(t, good(in), entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"path": in + "y"}}}, regular(in+"x", "x"))
		}},
		{"T06: a name hidden by PAX", "name-parent", func(t testing.TB, in string) string {
			return hidden(in+"harmless", in+"../../evil") + tarball(t, good(in))
		}},
		{"T07: bytes behind the end", "trailing-data", func(t testing.TB, in string) string { return tarball(t, good(in)) + "x" }},
		{"T07: a second archive behind the end", "trailing-data", func(t testing.TB, in string) string { return tarball(t, good(in)) + tarball(t, regular(in+"x", "x")) }},
		{"T11: cut in a file", "not-an-archive", func(t testing.TB, in string) string {
			return tarball(t, regular(in+"a.bin", strings.Repeat("a", 4096)))[:2048]
		}},
		{"no archive", "not-an-archive", func(testing.TB, string) string { return strings.Repeat("model", 1000) }},
		{"a checksum that is wrong", "not-an-archive", func(t testing.TB, in string) string {
			return strings.Replace(tarball(t, good(in)), "0000644", "0000755", 1)
		}},
		{"M08: no file", "no-layers", func(t testing.TB, in string) string { return tarball(t, folder(in+"x/")) }},
	} {
		for _, p := range packings() {
			t.Run(test.name+"/"+p.name, func(t *testing.T) {
				_, err := unpack(t, p.store(t, test.content(t, p.prefix())), oci.FilesOptions{}, oci.UnpackOptions{})
				if test.code == "no-layers" && p.prefix() == "models/" {
					if !errors.Is(err, oci.ErrUnmapped) {
						t.Errorf("any container image: error %v, want ErrUnmapped", err)
					}
					return
				}
				if threat := wantThreat(t, err, test.code); threat.Threat != "" {
					t.Errorf("allowed by %q", threat.Threat)
				}
			})
		}
	}
}

// header is one that no writer would write.
func header(name string, typeflag byte, size int) string {
	block := make([]byte, 512)
	copy(block, name)
	copy(block[100:], fmt.Sprintf("0000644\x000000000\x000000000\x00%011o\x0000000000000\x00", size))
	block[156] = typeflag
	if typeflag == tar.TypeGNUSparse {
		copy(block[257:], "ustar  \x00")
		copy(block[483:], "00000001000\x00")
	} else {
		copy(block[257:], "ustar\x0000")
	}
	copy(block[148:], "        ")
	sum := 0
	for _, b := range block {
		sum += int(b)
	}
	copy(block[148:], fmt.Sprintf("%06o\x00 ", sum))
	return string(block)
}

// hidden is a file that says name, and whose extended header says path.
func hidden(name, path string) string {
	record := fmt.Sprintf(" path=%s\n", path)
	record = fmt.Sprintf("%d%s", len(record)+2, record)
	return header("x", tar.TypeXHeader, len(record)) + record + strings.Repeat("\x00", 512-len(record)) + header(name, tar.TypeReg, 0)
}

// What one packing alone means.
func TestUnpackRefusesInOnePacking(t *testing.T) {
	all := map[string]packing{}
	for _, p := range packings() {
		all[p.name] = p
	}
	oras, image := all["a folder of oras"], all["a container image"]
	within := func(path string) packing {
		p := all["ModelPack, tar"]
		p.annotations = []string{filepathKey, path}
		return p
	}
	for _, test := range []struct {
		name, code string
		p          packing
		entries    []entry
	}{
		{"T05: outside the folder of oras", "entry-outside", oras, []entry{regular("model/a", "a"), regular("other/a", "a")}},
		{"T05: beside the folder of oras", "entry-outside", oras, []entry{regular("model/a", "a"), regular("modelx", "a")}},
		{"T05: the folder of oras is a file", "entry-outside", oras, []entry{regular("model", "a")}},
		{"T05: a folder outside the folder of oras", "entry-outside", oras, []entry{regular("model/a", "a"), folder("other")}},
		{"T05: not the file that the annotation names", "entry-outside", within("a.bin"), []entry{regular("b.bin", "a")}},
		{"T05: outside the folder that the annotation names", "entry-outside", within("data"), []entry{regular("data/a", "a"), regular("a", "a")}},
		{"T03: a whiteout", "whiteout", image, []entry{regular("models/a", "a"), regular("models/.wh.b", "")}},
		{"T03: an opaque folder", "whiteout", image, []entry{regular("models/a", "a"), regular("models/.wh..wh..opq", "")}},
		{"T03: a whiteout of the model", "whiteout", image, []entry{regular("models/a", "a"), regular(".wh.models", "")}},
		{"T03: an opaque root", "whiteout", image, []entry{regular("models/a", "a"), regular(".wh..wh..opq", "")}},
		{"T01: the model is a link", "special-file", image, []entry{special("models", tar.TypeSymlink)}},
		{"M07: gzip in a type that says none", "compression", func() packing { p := all["ModelPack, tar"]; p.pack = gzipped; return p }(), []entry{regular("a", "a")}},
		{"M07: none in a type that says gzip", "compression", func() packing { p := all["ModelPack, tar+gzip"]; p.pack = plain; return p }(), []entry{regular("a", "a")}},
		{"M07: zstd in a type that says gzip", "compression", func() packing { p := all["ModelPack, tar+gzip"]; p.pack = zstandard; return p }(), []entry{regular("a", "a")}},
		{"T09: oras's digest of the tar is another", "diff-id", func() packing {
			p := oras
			p.annotations = append(slices.Clone(p.annotations), "io.deis.oras.content.digest", digest)
			return p
		}(), []entry{regular("model/a", "a")}},
		{"T09: oras's digest of the tar is none", "diff-id", func() packing {
			p := oras
			p.annotations = append(slices.Clone(p.annotations), "io.deis.oras.content.digest", "sha512:00")
			return p
		}(), []entry{regular("model/a", "a")}},
		{"N20b: what a check of the folder leaves out", "git-files", all["ModelPack, tar"], []entry{regular("a", "a"), regular(".git/config", "a")}},
		{"N10: letter case", "case-collision", all["ModelPack, tar"], []entry{regular("a", "a"), regular("A", "b")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := unpack(t, test.p.store(t, tarball(t, test.entries...)), oci.FilesOptions{}, oci.UnpackOptions{})
			wantThreat(t, err, test.code)
		})
	}
	t.Run("a whiteout that does not reach the model", func(t *testing.T) {
		files, err := unpack(t, image.store(t, tarball(t, regular("models/a", "a"), regular("tmp/.wh.x", ""))), oci.FilesOptions{}, oci.UnpackOptions{})
		if err != nil || len(files.Files) != 1 {
			t.Errorf("%+v, %v", files, err)
		}
	})
	t.Run("the file that the annotation names", func(t *testing.T) {
		files, err := unpack(t, within("d/a.bin").store(t, tarball(t, folder("d/"), regular("d/a.bin", "a"))), oci.FilesOptions{}, oci.UnpackOptions{})
		if err != nil || len(files.Files) != 1 {
			t.Errorf("%+v, %v", files, err)
		}
	})
}

// T07: what one parser takes for the end is the beginning of more for another.
func TestUnpackReadsAllMembers(t *testing.T) {
	whole := tarball(t, regular("a", "aaa"), regular("b", "bbb"))
	split := gzipped(t, whole[:1024]) + gzipped(t, whole[1024:])
	files, err := unpack(t, packing{mediaType: typeWeight + "tar+gzip"}.put(t, split), oci.FilesOptions{}, oci.UnpackOptions{})
	if err != nil || len(files.Files) != 2 {
		t.Errorf("two gzip members: %+v, %v", files, err)
	}
	frames := zstded(t, whole[:1024]) + zstded(t, whole[1024:])
	if files, err = unpack(t, packing{mediaType: typeWeight + "tar+zstd"}.put(t, frames), oci.FilesOptions{}, oci.UnpackOptions{}); err != nil || len(files.Files) != 2 {
		t.Errorf("two zstd frames: %+v, %v", files, err)
	}
	for name, blob := range map[string]string{"gzip": gzipped(t, whole) + "garbage", "zstd": zstded(t, whole) + "garbage"} {
		_, err := unpack(t, packing{mediaType: typeWeight + "tar+" + name}.put(t, blob), oci.FilesOptions{}, oci.UnpackOptions{})
		wantThreat(t, err, "compression")
	}
}

// T04: a file in two layers. Of a container image the later one counts, where
// the caller says so.
func TestUnpackSeveralLayers(t *testing.T) {
	a, b := tarball(t, regular("models/x", "old"), regular("models/y", "y")), tarball(t, regular("models/x", "new"))
	p := packing{mediaType: typeImageTar, config: "application/vnd.oci.image.config.v1+json"}
	model := p.put(t, a, b)
	_, err := unpack(t, model, oci.FilesOptions{}, oci.UnpackOptions{})
	if threat := wantThreat(t, err, "duplicate-layer"); threat.Threat != manifest.DuplicateLayer {
		t.Errorf("allowed by %q", threat.Threat)
	}
	files, err := unpack(t, model, oci.FilesOptions{Allow: manifest.Allow{manifest.DuplicateLayer}}, oci.UnpackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("new"))
	if len(files.Files) != 2 || !bytes.Equal(files.Files[0].Digest, sum[:]) || len(files.Warnings) != 1 {
		t.Errorf("%+v", files)
	}
	elsewhere := packing{mediaType: typeWeight + "tar"}.put(t, tarball(t, regular("x", "old")), tarball(t, regular("x", "new")))
	_, err = unpack(t, elsewhere, oci.FilesOptions{Allow: manifest.Threats()}, oci.UnpackOptions{})
	wantThreat(t, err, "duplicate-name")
}

// A layer is refused whichever byte of it is another, and wherever it ends.
func TestUnpackCorrupted(t *testing.T) {
	for _, p := range packings() {
		if !strings.HasPrefix(p.name, "ModelPack") {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			blob := p.pack(t, tarball(t, regular("a.bin", "aaa"), regular("b/c.bin", "bbb")))
			model := p.put(t, blob)
			plan, err := model.Manifest.Plan(oci.FilesOptions{})
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(strings.TrimSuffix(strings.TrimPrefix(model.Reference.Name(), "oci:"), ":v1"), "blobs", "sha256", model.Manifest.Layers[0].Digest.Encoded())
			try := func(content, code string) {
				t.Helper()
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
				files, err := model.Unpack(t.Context(), plan, oci.UnpackOptions{})
				if files != nil || err == nil {
					t.Fatalf("accepted: %+v", files)
				}
				threat, judged := errors.AsType[*manifest.ThreatError](err)
				switch {
				case code == "" && judged, code != "" && !judged:
					t.Fatalf("error %v, want code %q", err, code)
				case judged && threat.Code != code:
					t.Fatalf("code %q (%v), want %q", threat.Code, err, code)
				}
			}
			step := max(1, len(blob)/400)
			for i := 0; i < len(blob); i += step {
				changed := []byte(blob)
				changed[i] ^= 0x40
				try(string(changed), "digest-mismatch")
				try(blob[:i], "")
			}
			try(blob+"x", "size-mismatch")
			try(blob[:len(blob)-1], "")
		})
	}
}

// An error of the sink ends the reading, and is not taken for the layer's.
func TestUnpackEndsWithTheSink(t *testing.T) {
	full := errors.New("no space left on device")
	model := packing{mediaType: typeWeight + "tar"}.put(t, tarball(t, regular("a", strings.Repeat("a", 4<<20))))
	_, err := unpack(t, model, oci.FilesOptions{}, oci.UnpackOptions{Sink: func(_ oci.Entry, r io.Reader) error {
		_, _ = io.ReadFull(r, make([]byte, 10))
		return full
	}})
	if !errors.Is(err, full) {
		t.Errorf("error %v, want the sink's", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	plan, err := model.Manifest.Plan(oci.FilesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = model.Unpack(ctx, plan, oci.UnpackOptions{Sink: func(_ oci.Entry, r io.Reader) error {
		cancel()
		_, err := io.Copy(io.Discard, r)
		return err
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that it was cancelled", err)
	}
}

// With Raw, a layer that is one file is held against its digest.
func TestUnpackRaw(t *testing.T) {
	content := gzipped(t, "a raw file that begins as gzip does")
	m := manifestOf(layer("a.gz", content), layer("b", "b"))
	model := stored(t, m, content, "b")
	files, err := unpack(t, model, oci.FilesOptions{}, oci.UnpackOptions{Raw: true})
	if err != nil || len(files.Files) != 2 {
		t.Fatalf("%+v, %v", files, err)
	}
	missing := stored(t, m, content)
	if _, err := unpack(t, missing, oci.FilesOptions{}, oci.UnpackOptions{}); err != nil {
		t.Errorf("nothing had to be read: %v", err)
	}
	if _, err := unpack(t, missing, oci.FilesOptions{}, oci.UnpackOptions{Raw: true}); err == nil {
		t.Error("a layer that is not there was compared")
	}
}

// FuzzUnpack: whatever is accepted has clean names, once each, and the digests
// of what the sink saw.
func FuzzUnpack(f *testing.F) {
	f.Add([]byte(tarball(f, regular("a.bin", "aaa"), folder("b/"), regular("b/c", ""))), byte(0))
	f.Add([]byte(gzipped(f, tarball(f, regular("a.bin", "aaa")))), byte(1))
	f.Add([]byte(zstded(f, tarball(f, regular("a.bin", "aaa")))), byte(2))
	f.Add([]byte(tarball(f, regular("models/a.bin", "aaa"), special("x", tar.TypeLink))), byte(3))
	f.Add([]byte(header("s", tar.TypeGNUSparse, 0)+tarball(f, regular("a.bin", "aaa"))), byte(0))
	for _, odd := range oddTars() {
		if content := odd.content("models/"); len(content) < 1<<13 {
			f.Add([]byte(content), byte(3))
		}
	}
	f.Fuzz(func(t *testing.T, blob []byte, kind byte) {
		p := []packing{
			{mediaType: typeWeight + "tar"}, {mediaType: typeWeight + "tar+gzip"}, {mediaType: typeWeight + "tar+zstd"},
			{mediaType: typeTarGzip, config: "application/vnd.oci.image.config.v1+json"},
		}[kind%4]
		var mu sync.Mutex
		sums := map[string][]byte{}
		files, err := unpack(t, p.put(t, string(blob)), oci.FilesOptions{}, oci.UnpackOptions{Sink: func(e oci.Entry, r io.Reader) error {
			data, err := io.ReadAll(r)
			sum := sha256.Sum256(data)
			mu.Lock()
			defer mu.Unlock()
			sums[e.Name] = sum[:]
			return err
		}})
		if err != nil {
			if files != nil {
				t.Error("files beside an error")
			}
			return
		}
		if _, err := manifest.CheckNames(names(files.Files), manifest.Threats()); err != nil {
			t.Error(err)
		}
		for _, f := range files.Files {
			if !bytes.Equal(f.Digest, sums[f.Name]) {
				t.Errorf("%q has another digest than what the sink got", f.Name)
			}
		}
	})
}

// What a caller vouches for is not read, and counts as if it had been.
func TestUnpackWhatIsKnown(t *testing.T) {
	a := tarball(t, regular("models/a.py", "a"))
	b := tarball(t, regular("models/b.bin", "b"))
	p := packing{mediaType: typeImageTar, config: "application/vnd.oci.image.config.v1+json"}
	model := p.put(t, a, b)
	var mu sync.Mutex
	done := map[int][]manifest.File{}
	tell := func(s oci.Source, files []manifest.File, _ []string) error {
		mu.Lock()
		defer mu.Unlock()
		done[s.Layer] = files
		return nil
	}
	want, err := unpack(t, model, oci.FilesOptions{}, oci.UnpackOptions{Done: tell})
	if err != nil {
		t.Fatal(err)
	}
	if len(done) != 2 || len(done[0]) != 1 || done[0][0].Name != "a.py" {
		t.Fatalf("told of %+v", done)
	}
	first := done[0]
	clear(done)
	var read []string
	got, err := unpack(t, model, oci.FilesOptions{}, oci.UnpackOptions{
		Jobs: 1,
		Done: tell,
		Have: func(s oci.Source) ([]manifest.File, []string, bool) { return first, []string{"a.py"}, s.Layer == 0 },
		Sink: func(e oci.Entry, _ io.Reader) error {
			read = append(read, e.Name)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Files) != len(want.Files) || !bytes.Equal(got.Files[0].Digest, want.Files[0].Digest) || !slices.Equal(got.Executable, []string{"a.py"}) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if !slices.Equal(read, []string{"b.bin"}) || len(done) != 1 {
		t.Errorf("read %q, told of %+v", read, done)
	}
	// Nobody is told of a layer that does not hold.
	broken := p.put(t, a, b[:len(b)-1]+"x")
	clear(done)
	if _, err := unpack(t, broken, oci.FilesOptions{}, oci.UnpackOptions{Jobs: 1, Done: tell}); err == nil || len(done) != 1 {
		t.Errorf("error %v, told of %+v", err, done)
	}
	failed := errors.New("no room")
	_, err = unpack(t, model, oci.FilesOptions{}, oci.UnpackOptions{Done: func(oci.Source, []manifest.File, []string) error { return failed }})
	if !errors.Is(err, failed) {
		t.Errorf("error %v, want that of Done", err)
	}
}
