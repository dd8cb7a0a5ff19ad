package oci_test

import (
	"bufio"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

// typed is a layer of a media type, with annotations given as key, value.
func typed(mediaType, content string, annotations ...string) string {
	l := withType(untitled(layer("x", content)), mediaType)
	if len(annotations) == 0 {
		return l
	}
	var list []string
	for i := 0; i < len(annotations); i += 2 {
		list = append(list, quoteJSON(annotations[i])+":"+quoteJSON(annotations[i+1]))
	}
	return strings.TrimSuffix(l, "}") + `,"annotations":{` + strings.Join(list, ",") + "}}"
}

const (
	typeDMR      = "application/vnd.docker.ai."
	typeWeight   = "application/vnd.cncf.model.weight.v1."
	typeKit      = "application/vnd.kitops.modelkit.model.v1."
	metadataKey  = "org.cncf.model.file.metadata+json"
	legacyPath   = "org.cnai.model.filepath"
	titleKey     = "org.opencontainers.image.title"
	typeTarGzip  = "application/vnd.oci.image.layer.v1.tar+gzip"
	typeImageTar = "application/vnd.oci.image.layer.v1.tar"
)

// A layer that is one file needs no reading, whatever packer it is of.
func TestLayoutsOfFiles(t *testing.T) {
	for _, test := range []struct {
		name, data, layout string
		files              []string
	}{
		{"ModelPack", manifestOf(typed(typeWeight+"raw", "a", filepathKey, "w/a.bin"), typed("application/vnd.cncf.model.doc.v1.raw", "b", filepathKey, "README.md")),
			oci.LayoutModelPack, []string{"README.md", "w/a.bin"}},
		{"ModelPack by its older names", manifestOf(typed("application/vnd.cnai.model.weight.v1.raw", "a", legacyPath, "a.bin")),
			oci.LayoutModelPack, []string{"a.bin"}},
		{"ModelPack with titles that say the same", manifestOf(typed(typeWeight+"raw", "a", filepathKey, "a.bin", titleKey, "a.bin")),
			oci.LayoutModelPack, []string{"a.bin"}},
		{"ModelPack's types and titles alone", manifestOf(typed(typeWeight+"raw", "a", titleKey, "a.bin")),
			oci.LayoutTitle, []string{"a.bin"}},
		{"paths on types of nobody", manifestOf(typed("application/octet-stream", "a", filepathKey, "a.bin")),
			oci.LayoutModelPack, []string{"a.bin"}},
		{"ModelPack's types as Docker extends them", manifestOf(typed(typeWeight+"gguf", "a", filepathKey, "m.gguf")),
			oci.LayoutModelPack, []string{"m.gguf"}},
		{"Docker v0.2", manifestOf(typed(typeDMR+"gguf.v3", "a", filepathKey, "q/m.gguf"), typed(typeDMR+"model.file", "b", filepathKey, "config.json")),
			oci.LayoutDockerModel, []string{"config.json", "q/m.gguf"}},
		{"Docker v0.1", manifestOf(typed(typeDMR+"gguf.v3", "a"), typed(typeDMR+"license", "l"), typed(typeDMR+"mmproj", "p"), typed(typeDMR+"chat.template.jinja", "t")),
			oci.LayoutDockerModel, []string{"model.gguf", "model.mmproj", "template.jinja"}},
		{"Docker v0.1 in shards", manifestOf(typed(typeDMR+"safetensors", "a"), typed(typeDMR+"safetensors", "b"), typed(typeDMR+"license", "l"), typed(typeDMR+"license", "m")),
			oci.LayoutDockerModel, []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			files, err := parse(t, test.data).Files(oci.FilesOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := names(files.Files); files.Layout != test.layout || files.Read || !slices.Equal(got, test.files) {
				t.Errorf("%s: %q, want %s: %q", files.Layout, got, test.layout, test.files)
			}
			packers := strings.Contains(test.data, "/vnd.c") || strings.Contains(test.data, "/vnd.docker")
			if packers == (len(files.Uncovered) == 0) {
				t.Errorf("uncovered %q: what a packer's types mean is signed by no list of files", files.Uncovered)
			}
		})
	}
}

func TestLayoutsRefuse(t *testing.T) {
	for _, test := range []struct {
		name, data, code string
		threat           manifest.Threat
	}{
		{"N01: two shards of Docker's projector", manifestOf(typed(typeDMR+"gguf.v3", "a"), typed(typeDMR+"mmproj", "p"), typed(typeDMR+"mmproj", "q")), "duplicate-name", ""},
		{"N01: one path, different content", manifestOf(typed(typeWeight+"raw", "a", filepathKey, "a"), typed(typeWeight+"raw", "b", filepathKey, "a")), "duplicate-name", ""},
		{"N02: one path, one content", manifestOf(typed(typeWeight+"raw", "a", filepathKey, "a"), typed(typeWeight+"raw", "a", filepathKey, "a")), "duplicate-layer", manifest.DuplicateLayer},
		{"N04: a parent segment in a path", manifestOf(typed(typeWeight+"raw", "a", filepathKey, "../a")), "name-parent", ""},
		{"N14: a file inside an unpacked folder", manifestOf(typed(typeTarGzip, "a", titleKey, "model", unpackKey, "true"), layer("model/x", "x")), "file-and-folder", ""},
		{"N14: a file where a folder is unpacked", manifestOf(typed(typeTarGzip, "a", titleKey, "model", unpackKey, "true"), layer("model", "x")), "duplicate-name", ""},
		{"N15: a title beside another path", manifestOf(typed(typeWeight+"raw", "a", filepathKey, "a", titleKey, "b")), "path-annotation", ""},
		{"two readings: oras unpacks a ModelPack file", manifestOf(typed(typeWeight+"raw", "a", filepathKey, "d", titleKey, "d", unpackKey, "true")), "unpack-annotation", ""},
		{"two readings: one without a title", manifestOf(typed(typeWeight+"raw", "a", filepathKey, "d", unpackKey, "true")), "unpack-annotation", ""},
		{"two readings: oras unpacks a ModelPack archive", manifestOf(typed(typeWeight+"tar", "a", titleKey, "d", unpackKey, "true")), "unpack-annotation", ""},
		{"two readings: unpack, spelled as some may read it", manifestOf(typed(typeWeight+"raw", "a", filepathKey, "d", titleKey, "d", unpackKey, "True")), "unpack-annotation", ""},
		{"two readings: oras unpacks a ModelKit's layer", manifestOf(typed(typeKit+"tar", "a", titleKey, "d", unpackKey, "true")), "unpack-annotation", ""},
		{"two readings: oras unpacks Docker's file", manifestOf(typed(typeDMR+"gguf.v3", "a", filepathKey, "d", titleKey, "d", unpackKey, "true")), "unpack-annotation", ""},
		{"two readings: oras unpacks what Docker names by type", manifestOf(typed(typeDMR+"gguf.v3", "a", titleKey, "d", unpackKey, "true")), "unpack-annotation", ""},
		{"two readings: oras unpacks what Docker skips", manifestOf(typed(typeDMR+"gguf.v3", "a"), typed(typeDMR+"license", "l", titleKey, "d", unpackKey, "true")), "unpack-annotation", ""},
		{"N16: metadata of another size", manifestOf(typed(typeWeight+"raw", "a", filepathKey, "a", metadataKey, `{"name":"a","size":2}`)), "file-metadata", ""},
		{"M12: metadata with two sizes", manifestOf(typed(typeWeight+"raw", "a", filepathKey, "a", metadataKey, `{"name":"a","size":2,"size":1}`)), "file-metadata", ""},
		{"M12: metadata with a size in two cases", manifestOf(typed(typeWeight+"raw", "a", filepathKey, "a", metadataKey, `{"name":"a","size":2,"Size":1}`)), "file-metadata", ""},
		{"M12: metadata with bytes behind it", manifestOf(typed(typeWeight+"raw", "a", filepathKey, "a", metadataKey, `{"name":"a","size":1} {}`)), "file-metadata", ""},
		{"N16: metadata that is none", manifestOf(typed(typeWeight+"raw", "a", filepathKey, "a", metadataKey, `[]`)), "file-metadata", ""},
		{"N17: ModelPack without a path", manifestOf(typed(typeWeight+"raw", "a", filepathKey, "a"), typed(typeWeight+"raw", "b")), "unnamed-layer", manifest.UnnamedLayer},
		{"N17: a folder without a name", manifestOf(layer("a", "a"), typed(typeTarGzip, "b", unpackKey, "true")), "unnamed-layer", manifest.UnnamedLayer},
		{"N17: Docker v0.2 without a path", manifestOf(typed(typeDMR+"gguf.v3", "a", filepathKey, "a"), typed(typeDMR+"model.file", "b")), "unnamed-layer", manifest.UnnamedLayer},
		{"N17: a type that Docker v0.1 has no name for", manifestOf(typed(typeDMR+"gguf.v3", "a"), typed(typeDMR+"dduf", "b")), "unnamed-layer", manifest.UnnamedLayer},
		{"rule 28: a tar type and a tar's name", manifestOf(layer("x.tar", "a")), "tar-as-file", manifest.TarAsFile},
		{"rule 28: a tgz", manifestOf(layer("d/x.TGZ", "a")), "tar-as-file", manifest.TarAsFile},
		{"rule 28: compressed", manifestOf(typed(typeTarGzip, "a", titleKey, "x.tar.gz")), "tar-as-file", manifest.TarAsFile},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := parse(t, test.data)
			_, err := m.Plan(oci.FilesOptions{})
			if threat := wantThreat(t, err, test.code); threat.Threat != test.threat {
				t.Errorf("allowed by %q, want %q", threat.Threat, test.threat)
			}
			if test.threat == "" {
				return
			}
			plan, err := m.Plan(oci.FilesOptions{Allow: manifest.Allow{test.threat}})
			if err != nil || plan == nil {
				t.Errorf("allowed: %v", err)
			}
		})
	}
}

// oras follows a layer that is a manifest, and writes files that no layout knows.
func TestNoLayerIsAManifest(t *testing.T) {
	image := `{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digest + `","size":9}`
	for _, mediaType := range []string{
		typeManifest, typeIndex, typeDocker,
		"application/vnd.docker.distribution.manifest.list.v2+json",
		"application/vnd.oci.artifact.manifest.v1+json",
		"application/vnd.OCI.image.manifest.v1+json",
	} {
		nested := typed(mediaType, "b")
		for name, data := range map[string]string{
			"titled":       manifestOf(layer("a", "a"), typed(mediaType, "b", titleKey, "b")),
			"untitled":     manifestOf(layer("a", "a"), nested),
			"alone":        manifestOf(nested),
			"the config":   withConfig(manifestOf(layer("a", "a")), nested),
			"modelpack":    manifestOf(typed(typeWeight+"raw", "a", filepathKey, "a"), typed(mediaType, "b", filepathKey, "b")),
			"kitops":       manifestOf(typed(typeKit+"tar", "a"), nested),
			"docker-model": manifestOf(typed(typeDMR+"gguf.v3", "a"), nested),
			"modelcar":     withConfig(manifestOf(typed(typeTarGzip, "a"), nested), image),
		} {
			_, err := parse(t, data).Plan(oci.FilesOptions{Allow: manifest.Threats()})
			if threat, ok := errors.AsType[*manifest.ThreatError](err); !ok || threat.Code != "nested-manifest" {
				t.Errorf("%s, %s: %v", mediaType, name, err)
			}
		}
	}
}

// M07: what says tar, raw or a compression in a way of its own.
func TestTypesOfNoPacker(t *testing.T) {
	for _, mediaType := range []string{
		typeWeight + "tar+bzip2", typeWeight + "tar+gzip+gzip", typeWeight + "tar+gzip+bzip2", typeWeight + "raw+xz", typeWeight + "tar.gz",
		typeWeight + "tar.gzip", typeWeight + "raw.zstd", typeWeight + "tgz", typeWeight + "Tar", typeWeight + "tar+GZIP", typeWeight + "tar+", typeWeight + "raw+json",
		typeWeight + "gguf+xz", "application/vnd.cnai.model.weight.v1.tar+lz4",
		typeKit + "tar+bzip2", typeKit + "raw.gz", typeKit + "zip", "application/vnd.kitops.modelkit.model.v1",
		typeDMR + "dir.tar.gz", typeDMR + "dir.tar+xz", typeDMR + "gguf.v3+bzip2",
	} {
		for name, data := range map[string]string{
			"pathed": manifestOf(typed(mediaType, "a", filepathKey, "a")),
			"titled": manifestOf(typed(mediaType, "a", titleKey, "a")),
			"bare":   manifestOf(typed(mediaType, "a")),
		} {
			_, err := parse(t, data).Plan(oci.FilesOptions{Allow: manifest.Threats()})
			if threat, ok := errors.AsType[*manifest.ThreatError](err); !ok || threat.Code != "layer-type" {
				t.Errorf("%s, %s: %v", mediaType, name, err)
			}
		}
	}
	for _, mediaType := range []string{
		typeWeight + "raw", typeWeight + "tar", typeWeight + "tar+gzip", typeWeight + "raw+zstd", typeWeight + "gguf", typeWeight + "safetensors+gzip",
		"application/vnd.cncf.model.weight.config.v1.raw", typeDMR + "gguf.v3", typeDMR + "dir.tar", typeDMR + "vllm.config.tar", typeDMR + "model.file+json",
	} {
		if _, err := parse(t, manifestOf(typed(mediaType, "a", filepathKey, "a"))).Plan(oci.FilesOptions{}); err != nil {
			t.Errorf("%s: %v", mediaType, err)
		}
	}
	if _, err := parse(t, manifestOf(typed(typeKit+"tar+gzip", "a"), typed(typeKit+"raw+zstd", "a"))).Plan(oci.FilesOptions{}); err != nil {
		t.Error(err)
	}
}

// A config of v0.1 says that types name files, and paths say it too.
func TestDockerPathsBesideTypes(t *testing.T) {
	shards := func(first, second string) string {
		return manifestOf(typed(typeDMR+"safetensors", "a", filepathKey, first), typed(typeDMR+"safetensors", "b", filepathKey, second))
	}
	const one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
	config := func(version string) string { return typed(typeDMR+"model.config."+version+"+json", "{}") }
	for _, test := range []struct {
		name, data, version, code string
	}{
		{"the same names", shards(one, two), "v0.1", ""},
		{"shards the other way round", shards(two, one), "v0.1", "docker-version"},
		{"the same by v0.2, where paths alone count", shards(two, one), "v0.2", ""},
		{"a folder", manifestOf(typed(typeDMR+"gguf.v3", "a", filepathKey, "sub/model.gguf")), "v0.1", "docker-version"},
		{"a license that is written by its path alone", manifestOf(typed(typeDMR+"gguf.v3", "a", filepathKey, "model.gguf"), typed(typeDMR+"license", "l", filepathKey, "LICENSE")), "v0.1", "docker-version"},
		{"a license that neither writes", manifestOf(typed(typeDMR+"gguf.v3", "a", filepathKey, "model.gguf"), typed(typeDMR+"license", "l")), "v0.1", "unnamed-layer"},
		{"a path for one of two", manifestOf(typed(typeDMR+"gguf.v3", "a", filepathKey, "model.gguf"), typed(typeDMR+"mmproj", "p")), "v0.1", "docker-version"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(t, withConfig(test.data, config(test.version))).Files(oci.FilesOptions{})
			if test.code == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantThreat(t, err, test.code)
		})
	}
}

// N16: another name is somebody's slip, and changes no file.
func TestMetadataOfAnotherNameIsAWarning(t *testing.T) {
	files, err := parse(t, manifestOf(typed(typeWeight+"raw", "a", filepathKey, "a", metadataKey, `{"name":"b","size":1,"mode":493}`))).Files(oci.FilesOptions{})
	if err != nil || len(files.Warnings) != 1 || files.Warnings[0].Code != "file-metadata" {
		t.Fatalf("%+v, %v", files, err)
	}
}

// What real tools packed has the files that their own pull wrote.
func TestFilesOfPackers(t *testing.T) {
	const packers = "../../shared/packers"
	if _, err := os.Stat(packers); err != nil {
		t.Skipf("no layouts made by real packers: %v", err)
	}
	client := newClient(t, oci.Options{})
	for name, want := range map[string]struct {
		layout string
		packed bool
	}{
		"oras-files":  {oci.LayoutTitle, false},
		"oras-folder": {oci.LayoutTitle, true},
		"oras-mixed":  {oci.LayoutTitle, true},
		"modctl-raw":  {oci.LayoutModelPack, false},
		"modctl-tar":  {oci.LayoutModelPack, true},
		"kit-none":    {oci.LayoutKitOps, true},
		"kit-gzip":    {oci.LayoutKitOps, true},
		"modelcar":    {oci.LayoutModelCar, true},
	} {
		t.Run(name, func(t *testing.T) {
			model, err := client.Open(t.Context(), mustParse(t, "oci:"+packers+"/"+name+":v1"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := model.Manifest.Files(oci.FilesOptions{}); errors.Is(err, oci.ErrPacked) != want.packed {
				t.Errorf("the manifest alone gives %v", err)
			}
			plan, err := model.Manifest.Plan(oci.FilesOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, raw := range []bool{false, true} {
				files, err := model.Unpack(t.Context(), plan, oci.UnpackOptions{Raw: raw})
				if err != nil {
					t.Fatal(err)
				}
				if files.Layout != want.layout || !files.Read {
					t.Errorf("layout %q, want %q", files.Layout, want.layout)
				}
				var got []string
				for _, f := range files.Files {
					got = append(got, hex.EncodeToString(f.Digest)+"  "+f.Name)
				}
				if wrote := pulled(t, packers, name, files); !slices.Equal(got, wrote) {
					t.Errorf("files\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(wrote, "\n"))
				}
			}
		})
	}
}

// pulled is what the packer's own tool wrote, but for what is known to be no
// file of the model.
func pulled(t *testing.T, packers, name string, files *oci.Files) []string {
	t.Helper()
	f, err := os.Open(filepath.Join(packers, name+".SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []string
	for s := bufio.NewScanner(f); s.Scan(); {
		sum, file, _ := strings.Cut(s.Text(), "  ")
		if files.Root != "" {
			file = strings.TrimPrefix(file, files.Root+"/")
		}
		if !slices.Contains(slices.Concat(files.GitFiles, files.Added), file) {
			list = append(list, sum+"  "+file)
		}
	}
	slices.SortFunc(list, func(a, b string) int { return strings.Compare(a[66:], b[66:]) })
	return list
}

// What packers write, by their documents.
func TestFilesOfFormats(t *testing.T) {
	for name, want := range map[string]struct {
		layout string
		choice string
		files  []string
	}{
		"docker-v0.1":    {oci.LayoutDockerModel, "", []string{"model.gguf", "model.mmproj", "template.jinja"}},
		"docker-v0.2":    {oci.LayoutDockerModel, "", []string{"LICENSE", "sub/config.json", "tiny-q4.gguf"}},
		"modelpack-zstd": {oci.LayoutModelPack, "", []string{"run.py", "w/one.safetensors"}},
		"kit-zstd":       {oci.LayoutKitOps, "", []string{"run.py", "w/one.safetensors"}},
		"ramalama":       {oci.LayoutModelPack, oci.PathFilepath, []string{"tiny.gguf"}},
	} {
		t.Run(name, func(t *testing.T) {
			model, err := open(t, "oci:../testdata/packed/"+name+":v1")
			if err != nil {
				t.Fatal(err)
			}
			if want.choice != "" {
				_, err := model.Manifest.Plan(oci.FilesOptions{})
				wantThreat(t, err, oci.CodePathAnnotation)
			}
			files, err := unpack(t, model, oci.FilesOptions{PathAnnotation: want.choice}, oci.UnpackOptions{Raw: true})
			if err != nil {
				t.Fatal(err)
			}
			if got := names(files.Files); files.Layout != want.layout || !slices.Equal(got, want.files) || files.PathAnnotation != want.choice {
				t.Errorf("%s: %q (%q), want %s: %q", files.Layout, got, files.PathAnnotation, want.layout, want.files)
			}
		})
	}
}
