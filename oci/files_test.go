package oci_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	godigest "github.com/opencontainers/go-digest"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

func parse(t testing.TB, data string) *oci.Manifest {
	t.Helper()
	m, err := oci.ParseManifest([]byte(data), "")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func names(files []manifest.File) []string {
	var list []string
	for _, f := range files {
		list = append(list, f.Name)
	}
	return list
}

func TestFiles(t *testing.T) {
	m := parse(t, manifestOf(layer("z.bin", "zzz"), layer("config.json", "{ }"), layer("onnx/model.onnx", "onnx"), layer("copy.bin", "zzz")))
	files, err := m.Files(oci.FilesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if files.Layout != "title" || files.PathAnnotation != "" || len(files.Warnings)+len(files.Uncovered)+len(files.GitFiles) != 0 {
		t.Errorf("%+v", files)
	}
	var got []string
	for _, f := range files.Files {
		if f.Open != nil {
			t.Errorf("%s can be opened", f.Name)
		}
		got = append(got, fmt.Sprintf("%s %d %s", f.Name, f.Size, hex.EncodeToString(f.Digest)))
	}
	sum := func(s string) string { return godigest.FromString(s).Encoded() }
	want := []string{
		"config.json 3 " + sum("{ }"),
		"copy.bin 3 " + sum("zzz"),
		"onnx/model.onnx 4 " + sum("onnx"),
		"z.bin 3 " + sum("zzz"),
	}
	if !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
}

// withAnnotation adds an annotation to a layer made by layer.
func withAnnotation(l, key, value string) string {
	return strings.Replace(l, `"annotations":{`, `"annotations":{`+quoteJSON(key)+`:`+quoteJSON(value)+`,`, 1)
}

func withMember(l, member string) string { return strings.Replace(l, `{`, `{`+member+`,`, 1) }

func untitled(l string) string { return l[:strings.Index(l, `,"annotations"`)] + "}" }

func withType(l, mediaType string) string {
	return strings.Replace(l, "application/vnd.oci.image.layer.v1.tar", mediaType, 1)
}

func withConfig(m, config string) string { return strings.Replace(m, emptyConfig, config, 1) }

const (
	filepathKey = "org.cncf.model.filepath"
	unpackKey   = "io.deis.oras.content.unpack"
)

func TestFilesRefuses(t *testing.T) {
	a, b := layer("a.bin", "aaa"), layer("b.bin", "bbb")
	titledConfig := withConfig(manifestOf(a), layer("config.json", "{ }"))
	for _, test := range []struct {
		name, data, code string
		threat           manifest.Threat // "": nothing allows it
	}{
		{"N01: one name, different content", manifestOf(a, layer("a.bin", "other")), "duplicate-name", ""},
		{"N02: one name, one content, twice", manifestOf(a, a), "duplicate-layer", manifest.DuplicateLayer},
		{"N03: a name that is not clean", manifestOf(a, layer("x//y", "x")), "name-unclean", ""},
		{"N04: a parent segment", manifestOf(a, layer("../x", "x")), "name-parent", ""},
		{"N05: an absolute path", manifestOf(a, layer("/x", "x")), "name-absolute", ""},
		{"N06: a backslash", manifestOf(a, layer(`x\y`, "x")), "name-backslash", ""},
		{"N07: a control character", manifestOf(a, layer("x\ny", "x")), "name-control", ""},
		{"N08: an empty title", manifestOf(a, layer("", "x")), "name-empty", ""},
		{"N10: letter case", manifestOf(a, layer("A.BIN", "x")), "case-collision", manifest.CaseCollision},
		{"N13: a file and a folder", manifestOf(a, layer("a.bin/x", "x")), "file-and-folder", ""},
		{"N15: title and path differ", manifestOf(withAnnotation(a, filepathKey, "evil.py")), "path-annotation", ""},
		{"N15: title and the legacy path differ", manifestOf(withAnnotation(a, "org.cnai.model.filepath", "evil.py")), "path-annotation", ""},
		{"N15: two paths", manifestOf(typed(typeWeight+"raw", "a", filepathKey, "a", legacyPath, "b")), "path-annotation", ""},
		{"N15: two paths of nobody's type", manifestOf(typed("application/octet-stream", "a", filepathKey, "a", legacyPath, "b")), "path-annotation", ""},
		{"N15: two paths, and a title like one", manifestOf(withAnnotation(withAnnotation(a, filepathKey, "a.bin"), legacyPath, "b")), "path-annotation", ""},
		{"N15: two paths of an archive", manifestOf(typed(typeWeight+"tar", "a", filepathKey, "a", legacyPath, "b")), "path-annotation", ""},
		{"N15: two paths of a ModelKit's layer", manifestOf(typed(typeKit+"raw", "a", filepathKey, "a", legacyPath, "b")), "path-annotation", ""},
		{"N17: a layer without a name", manifestOf(a, untitled(b)), "unnamed-layer", manifest.UnnamedLayer},
		{"N17: a layer with a path only", manifestOf(a, withAnnotation(strings.Replace(b, "org.opencontainers.image.title", "x", 1), filepathKey, "b.bin")), "unnamed-layer", manifest.UnnamedLayer},
		{"N20b: a file that git runs", manifestOf(a, layer(".git/config", "x")), "git-files", manifest.GitFiles},
		{"N22: a config with a title", titledConfig, "titled-config", manifest.TitledConfig},
		{"N01: the config has a layer's title", withConfig(manifestOf(a), layer("a.bin", "{ }")), "duplicate-name", ""},
		{"M05: content elsewhere", manifestOf(withMember(a, `"urls":["https://example.com/a"]`)), "foreign-urls", manifest.ForeignURLs},
		{"M05: a config elsewhere", withConfig(manifestOf(a), withMember(emptyConfig, `"urls":["https://example.com/a"]`)), "foreign-urls", manifest.ForeignURLs},
		{"M08: no layers", manifestOf(), "no-layers", ""},
		{"M08: the empty layer only", manifestOf(emptyConfig), "no-layers", ""},
		{"M08: git files only", manifestOf(layer(".gitattributes", "x")), "no-layers", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := parse(t, test.data)
			_, err := m.Files(oci.FilesOptions{})
			threat := wantThreat(t, err, test.code)
			if threat.Threat != test.threat {
				t.Errorf("allowed by %q, want %q", threat.Threat, test.threat)
			}
			// Everything else allowed does not help.
			others := slices.DeleteFunc(manifest.Threats(), func(t manifest.Threat) bool { return t == test.threat })
			if _, err := m.Files(oci.FilesOptions{Allow: others}); err == nil {
				t.Error("allowed by other opt-ins")
			}
		})
	}
}

// What nobody can allow is refused also where something harmless is odd before
// it, or where nothing maps to files.
func TestFilesRefusesBehindOddities(t *testing.T) {
	a, evil := layer("a.bin", "aaa"), layer("../x", "x")
	unpack := func(l string) string { return withAnnotation(l, unpackKey, "true") }
	image := `{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digest + `","size":9}`
	for _, test := range []struct{ name, data, code string }{
		{"an unnamed layer first", manifestOf(untitled(a), evil), "name-parent"},
		{"a layer twice first", manifestOf(a, a, evil), "name-parent"},
		{"content elsewhere first", manifestOf(withMember(a, `"urls":["https://example.com/a"]`), evil), "name-parent"},
		{"two paths first", manifestOf(withAnnotation(a, filepathKey, "b"), evil), "name-parent"},
		{"an archive first", manifestOf(unpack(a), evil), "name-parent"},
		{"an archive of that name", manifestOf(unpack(evil)), "name-parent"},
		{"an image's layer of that name", withConfig(manifestOf(withType(evil, "application/vnd.oci.image.layer.v1.tar")), image), "name-parent"},
		{"the other path of a layer", manifestOf(withAnnotation(a, filepathKey, "../b")), "name-parent"},
		{"the only path of a layer", manifestOf(strings.Replace(layer("../b", "aaa"), "org.opencontainers.image.title", filepathKey, 1)), "name-parent"},
		{"one name for two layers", manifestOf(untitled(layer("x", "b")), a, layer("a.bin", "other")), "duplicate-name"},
		{"one name for two layers of an image", withConfig(manifestOf(a, layer("a.bin", "other")), image), "duplicate-name"},
		{"one path for two layers", manifestOf(
			strings.Replace(layer("a.bin", "a"), "org.opencontainers.image.title", filepathKey, 1),
			strings.Replace(layer("a.bin", "b"), "org.opencontainers.image.title", filepathKey, 1)), "duplicate-name"},
		{"one name, and a hint that the layer is a tar", manifestOf(a, withAnnotation(layer("a.bin", "other"), "olot.layer.content.type", "file")), "duplicate-name"},
		{"a file and a folder", manifestOf(untitled(layer("x", "b")), a, layer("a.bin/b", "other")), "file-and-folder"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(t, test.data).Files(oci.FilesOptions{})
			wantThreat(t, err, test.code)
		})
	}
}

// Titles of a model car are base names: two of them may be the same.
func TestFilesOfAModelCar(t *testing.T) {
	image := `{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digest + `","size":9}`
	car := func(content string) string {
		return withAnnotation(layer("config.json", content), "olot.layer.content.type", "file")
	}
	_, err := parse(t, withConfig(manifestOf(car("a"), car("b")), image)).Files(oci.FilesOptions{})
	if !errors.Is(err, oci.ErrUnmapped) {
		t.Errorf("error %v", err)
	}
}

func TestFilesAllows(t *testing.T) {
	a, b := layer("a.bin", "aaa"), layer("b.bin", "bbb")
	for _, test := range []struct {
		name, data string
		allow      manifest.Threat
		want       []string
	}{
		{"N02: the file once", manifestOf(a, a), manifest.DuplicateLayer, []string{"a.bin"}},
		{"N10: both files", manifestOf(a, layer("A.BIN", "x")), manifest.CaseCollision, []string{"A.BIN", "a.bin"}},
		{"N17: without the layer", manifestOf(a, untitled(b)), manifest.UnnamedLayer, []string{"a.bin"}},
		{"N20b: bound by the manifest digest only", manifestOf(a, layer(".git/config", "x")), manifest.GitFiles, []string{"a.bin"}},
		{"N22: the config is a file", withConfig(manifestOf(a), layer("config.json", "{ }")), manifest.TitledConfig, []string{"a.bin", "config.json"}},
		{"M05: the layer is there all the same", manifestOf(withMember(a, `"urls":["https://example.com/a"]`)), manifest.ForeignURLs, []string{"a.bin"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			files, err := parse(t, test.data).Files(oci.FilesOptions{Allow: manifest.Allow{test.allow}})
			if err != nil {
				t.Fatal(err)
			}
			if got := names(files.Files); !slices.Equal(got, test.want) {
				t.Errorf("files %q, want %q", got, test.want)
			}
			if !slices.ContainsFunc(files.Warnings, func(w *manifest.ThreatError) bool { return w.Threat == test.allow }) {
				t.Errorf("warnings %v do not name %s", files.Warnings, test.allow)
			}
		})
	}
}

func TestFilesAllowedConfigStillCollides(t *testing.T) {
	m := parse(t, withConfig(manifestOf(layer("a.bin", "aaa")), layer("a.bin", "{ }")))
	_, err := m.Files(oci.FilesOptions{Allow: manifest.Threats()})
	wantThreat(t, err, "duplicate-name")
}

// N15: two honest consumers write different trees.
func TestFilesPathAnnotation(t *testing.T) {
	m := parse(t, manifestOf(withAnnotation(layer("safe.py", "x"), filepathKey, "evil.py"), layer("b.bin", "b")))
	for choice, want := range map[string][]string{
		oci.PathTitle:    {"b.bin", "safe.py"},
		oci.PathFilepath: {"b.bin", "evil.py"},
	} {
		files, err := m.Files(oci.FilesOptions{PathAnnotation: choice})
		if err != nil {
			t.Fatal(err)
		}
		if got := names(files.Files); !slices.Equal(got, want) || files.PathAnnotation != choice {
			t.Errorf("%s: files %q, choice %q", choice, got, files.PathAnnotation)
		}
		if len(files.Uncovered) == 0 {
			t.Errorf("%s: the other name is not uncovered", choice)
		}
	}
	two := parse(t, manifestOf(withAnnotation(withAnnotation(layer("safe.py", "x"), filepathKey, "safe.py"), legacyPath, "evil.py")))
	for _, choice := range []string{oci.PathTitle, oci.PathFilepath} {
		_, err := two.Files(oci.FilesOptions{PathAnnotation: choice})
		wantThreat(t, err, oci.CodePathAnnotation)
	}
	same := parse(t, manifestOf(withAnnotation(layer("safe.py", "x"), filepathKey, "safe.py")))
	files, err := same.Files(oci.FilesOptions{PathAnnotation: oci.PathTitle})
	if err != nil || files.PathAnnotation != "" || len(files.Uncovered) != 0 {
		t.Errorf("no choice was needed: %+v, %v", files, err)
	}
	if _, err := m.Files(oci.FilesOptions{PathAnnotation: "name"}); err == nil {
		t.Error("an unknown choice is taken")
	}
}

func TestFilesUnmapped(t *testing.T) {
	a := layer("a.bin", "aaa")
	image := `{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digest + `","size":2}`
	for _, test := range []struct{ name, data string }{
		{"no layer has a name", manifestOf(untitled(a))},
		{"an archive to unpack", manifestOf(withAnnotation(a, unpackKey, "true"))},
		{"unpack, spelled as some may read it", manifestOf(withAnnotation(a, unpackKey, "True"))},
		{"one archive among files", manifestOf(layer("b.bin", "b"), withAnnotation(a, unpackKey, "true"))},
		{"a ModelPack archive with a title", manifestOf(withType(a, "application/vnd.cncf.model.weight.v1.tar"))},
		{"a compressed ModelPack file", manifestOf(withAnnotation(withType(a, "application/vnd.cncf.model.weight.v1.raw+zstd"), filepathKey, "a.bin"))},
		{"layers of two packers", manifestOf(withType(a, "application/vnd.cncf.model.weight.v1.raw"), withType(layer("b.bin", "b"), "application/vnd.kitops.modelkit.model.v1.raw"))},
		{"an Ollama model", manifestOf(withType(untitled(a), "application/vnd.ollama.image.model"))},
		{"a KitOps archive with a title", manifestOf(withType(a, "application/vnd.kitops.modelkit.model.v1.tar+gzip"))},
		{"a container image", withConfig(manifestOf(untitled(a)), image)},
		{"a container image with titles", withConfig(manifestOf(a), image)},
		{"an olot layer: titled like the file inside", manifestOf(withAnnotation(a, "olot.layer.content.inlayerpath", "/models/a.bin"))},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(t, test.data).Files(oci.FilesOptions{})
			if !errors.Is(err, oci.ErrUnmapped) {
				t.Errorf("error %v, want ErrUnmapped", err)
			}
		})
	}
	t.Run("M06: a type that says tar proves nothing", func(t *testing.T) {
		if _, err := parse(t, manifestOf(withType(a, "application/vnd.oci.image.layer.v1.tar+gzip"))).Files(oci.FilesOptions{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("unpack is false", func(t *testing.T) {
		if _, err := parse(t, manifestOf(withAnnotation(a, unpackKey, "false"))).Files(oci.FilesOptions{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("a platform config beside plain files", func(t *testing.T) {
		m := withConfig(manifestOf(withType(a, "application/octet-stream")), image)
		if _, err := parse(t, m).Files(oci.FilesOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// Rule 8: each edit of what a signature over files does not say is named.
func TestFilesUncovered(t *testing.T) {
	a := layer("a.bin", "aaa")
	top := func(member string) string { return withMember(manifestOf(a), member) }
	for _, test := range []struct{ name, data, want string }{
		{"a config with content", withConfig(manifestOf(a), `{"mediaType":"application/x","digest":"`+digest+`","size":9}`), "config " + digest},
		{"an empty config of a type that some tool acts on", withConfig(manifestOf(a), strings.Replace(emptyConfig, "application/vnd.oci.empty.v1+json", "application/vnd.acme.run", 1)), "config"},
		{"a config's annotation", withConfig(manifestOf(a), strings.Replace(emptyConfig, `}`, `,"annotations":{"k":"v"}}`, 1)), "config: annotation"},
		{"a manifest annotation", strings.Replace(manifestOf(a), `{"org.opencontainers.image.created"`, `{"k":"v","org.opencontainers.image.created"`, 1), `annotation "k"`},
		{"a layer annotation", manifestOf(withAnnotation(a, "k", "v")), `layers[0] "a.bin": annotation "k"`},
		{"unpack", manifestOf(withAnnotation(a, unpackKey, "false")), "annotation"},
		{"a type whose consumers read paths", strings.Replace(manifestOf(a), "application/vnd.unknown.artifact.v1", "application/vnd.cncf.model.manifest.v1+json", 1), "artifactType"},
		{"a subject", top(`"subject":{"mediaType":"` + typeManifest + `","digest":"` + digest + `","size":1}`), "subject"},
		{"an unknown member", top(`"x-run":"y"`), `member "x-run"`},
		{"an unknown member of a layer", manifestOf(withMember(a, `"from":"y"`)), `member "layers[0].from"`},
		{"a layer's platform", manifestOf(withMember(a, `"platform":{"architecture":"arm64","os":"linux"}`)), "platform"},
		{"a layer's artifactType", manifestOf(withMember(a, `"artifactType":"x/y"`)), "artifactType"},
		{"a media type that some tool acts on", manifestOf(withType(a, "application/vnd.acme.run")), "media type"},
	} {
		t.Run(test.name, func(t *testing.T) {
			files, err := parse(t, test.data).Files(oci.FilesOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if len(files.Uncovered) != 1 || !strings.Contains(files.Uncovered[0], test.want) {
				t.Errorf("uncovered %q, want %q", files.Uncovered, test.want)
			}
		})
	}
	t.Run("a config that is a listed file is covered (M16)", func(t *testing.T) {
		config := untitled(a)
		files, err := parse(t, withConfig(manifestOf(a), config)).Files(oci.FilesOptions{})
		if err != nil || len(files.Uncovered) != 0 {
			t.Errorf("%+v, %v", files, err)
		}
	})
	t.Run("what a statement lists by another name is covered", func(t *testing.T) {
		data := withConfig(manifestOf(a, untitled(layer("x", "b"))), `{"mediaType":"application/x","digest":"`+digest+`","size":9}`)
		m := parse(t, data)
		if _, err := m.Files(oci.FilesOptions{}); err == nil {
			t.Fatal("an unnamed layer was accepted")
		}
		files, err := m.Files(oci.FilesOptions{Covered: []godigest.Digest{m.Config.Digest, m.Layers[1].Digest}})
		if err != nil || len(files.Uncovered) != 0 || len(files.Files) != 1 {
			t.Errorf("%+v, %v", files, err)
		}
		if files, err = m.Files(oci.FilesOptions{Covered: []godigest.Digest{m.Layers[1].Digest}}); err != nil || len(files.Uncovered) != 1 {
			t.Errorf("config not listed: %+v, %v", files, err)
		}
	})
	t.Run("what was let through is uncovered", func(t *testing.T) {
		data := manifestOf(withMember(a, `"urls":["https://example.com/a"]`), untitled(layer("x", "b")), layer(".git/config", "x"), layer(".gitignore", "x"))
		files, err := parse(t, data).Files(oci.FilesOptions{Allow: manifest.Threats()})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{`file ".git/config"`, `layers[0] "a.bin": urls`, "layers[1]: no name"}
		if !slices.Equal(files.Uncovered, want) {
			t.Errorf("uncovered %q, want %q", files.Uncovered, want)
		}
		if want := []string{".git/config", ".gitignore"}; !slices.Equal(files.GitFiles, want) {
			t.Errorf("git files %q, want %q", files.GitFiles, want)
		}
	})
}
