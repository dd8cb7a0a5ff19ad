package oci_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	godigest "github.com/opencontainers/go-digest"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

// modelKit is a ModelKit with the Kitfile and the layers, given as type, content.
func modelKit(t testing.TB, kitfile string, layers ...string) *oci.Model {
	t.Helper()
	var list, blobs []string
	for i := 0; i < len(layers); i += 2 {
		list = append(list, typed("application/vnd.kitops.modelkit."+layers[i], layers[i+1]))
		blobs = append(blobs, layers[i+1])
	}
	m := withConfig(manifestOf(list...), typed("application/vnd.kitops.modelkit.config.v1+json", kitfile))
	return stored(t, m, append(blobs, kitfile)...)
}

// part is an entry of a Kitfile.
func part(path, blob, content string) string {
	return fmt.Sprintf(`{"path":%q,"digest":%q,"diffId":%q}`, path, godigest.FromString(blob), godigest.FromString(content))
}

func TestKitfile(t *testing.T) {
	weights, code := tarball(t, regular("w/a.bin", "aaa")), tarball(t, folder("src/"), regular("src/run.py", "run"))
	compressed := gzipped(t, "the text")
	kitfile := `{"manifestVersion":"1.0.0","model":` + strings.TrimSuffix(part("w/a.bin", weights, weights), "}") + `,"parts":[` + part("src", code, code) + `]},"docs":[` + part("./README.md", compressed, "the text") + `],"datasets":[` + part("d.csv", "1,2", "1,2") + `]}`
	model := modelKit(t, kitfile, "model.v1.tar", weights, "modelpart.v1.tar", code, "docs.v1.raw+gzip", compressed, "dataset.v1.raw", "1,2")
	files, err := unpack(t, model, oci.FilesOptions{}, oci.UnpackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(files.Files), []string{"README.md", "d.csv", "src/run.py", "w/a.bin"}; !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	for _, f := range files.Files {
		if f.Name == "README.md" && (f.Size != 8 || fmt.Sprintf("%x", f.Digest) != godigest.FromString("the text").Encoded()) {
			t.Errorf("the compressed file is %d bytes, %x", f.Size, f.Digest)
		}
	}
	if !slices.Equal(files.Added, []string{"Kitfile"}) {
		t.Errorf("kit adds a Kitfile, not %q", files.Added)
	}
}

func TestKitfileRefuses(t *testing.T) {
	weights := tarball(t, regular("a.bin", "aaa"))
	good := part("a.bin", weights, weights)
	for _, test := range []struct {
		name, kitfile, code string
		layers              []string
		threat              manifest.Threat
	}{
		{"M17: the model is in another ModelKit", `{"model":{"path":"registry.example.com/acme/base:v1"},"code":[` + good + `]}`, "parent-reference", nil, manifest.ParentReference},
		{"M17: a reference beside the digest of a layer", `{"model":` + part("registry.example.com/acme/base:v1", weights, weights) + `}`, "parent-reference", nil, manifest.ParentReference},
		{"M17: a reference in an old kit with a layer for it", `{"model":{"path":"acme/base:v1"}}`, "parent-reference", nil, manifest.ParentReference},
		{"M17: a reference by digest", `{"model":` + part("registry.example.com/base@"+digest, weights, weights) + `}`, "parent-reference", nil, manifest.ParentReference},
		{"M17: a reference by tag and digest", `{"model":` + part("base:v1@"+digest, weights, weights) + `}`, "parent-reference", nil, manifest.ParentReference},
		{"M17: a digest alone", `{"model":` + part(digest, weights, weights) + `}`, "parent-reference", nil, manifest.ParentReference},
		{"M17: a reference with a port and no tag", `{"model":` + part("localhost:5000/base", weights, weights) + `}`, "parent-reference", nil, manifest.ParentReference},
		{"M17: a reference with more tags", `{"model":` + part("base:v1,v2 x", weights, weights) + `}`, "parent-reference", nil, manifest.ParentReference},
		{"M17: a reference among the code", `{"model":` + good + `,"code":[` + part("acme/code:v1", weights, weights) + `]}`, "parent-reference", nil, manifest.ParentReference},
		{"M17: a part whose layer is not there", `{"model":` + good + `,"docs":[` + part("b", "b", "b") + `]}`, "parent-reference", nil, manifest.ParentReference},
		{"M17: a remote dataset", `{"model":` + good + `,"datasets":[{"path":"d","remotePath":"s3://bucket/d"}]}`, "parent-reference", nil, manifest.ParentReference},
		{"M17: an old kit with a part more than layers", `{"model":{"path":"a.bin"},"code":[{"path":"x"}]}`, "parent-reference", nil, manifest.ParentReference},
		{"T09: another content than the Kitfile says", `{"model":` + part("a.bin", weights, "other") + `}`, "diff-id", nil, ""},
		{"M12: a member twice", `{"model":` + good + `,"model":` + good + `}`, "config-json", nil, ""},
		{"M12: a member in two cases", `{"model":` + good + `,"datasets":[{"path":"a","digest":"` + godigest.FromString(weights).String() + `","remotePath":"s3://bucket/d","RemotePath":""}]}`, "config-json", nil, ""},
		{"not a Kitfile", `[]`, "config-json", nil, ""},
		{"the Kitfile is a file of a layer", `{"model":` + part("a.bin", tarball(t, regular("Kitfile", "x")), tarball(t, regular("Kitfile", "x"))) + `}`, "duplicate-name",
			[]string{"model.v1.tar", tarball(t, regular("Kitfile", "x"))}, ""},
		{"two readings: two paths of one raw layer", `{"model":` + part("a", "a", "a") + `,"docs":[` + part("b", "a", "a") + `]}`, "kitfile-path", []string{"model.v1.raw", "a"}, ""},
		{"two readings: two paths of two equal raw layers", `{"model":` + part("a", "a", "a") + `,"docs":[` + part("b", "a", "a") + `]}`, "kitfile-path", []string{"model.v1.raw", "a", "docs.v1.raw", "a"}, ""},
		{"N04: the name of a raw layer", `{"model":` + part("../a", "a", "a") + `}`, "name-parent", []string{"model.v1.raw", "a"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			layers := test.layers
			if layers == nil {
				layers = []string{"model.v1.tar", weights}
			}
			model := modelKit(t, test.kitfile, layers...)
			_, err := unpack(t, model, oci.FilesOptions{}, oci.UnpackOptions{})
			if threat := wantThreat(t, err, test.code); threat.Threat != test.threat {
				t.Errorf("allowed by %q, want %q", threat.Threat, test.threat)
			}
			if test.threat == "" {
				return
			}
			files, err := unpack(t, model, oci.FilesOptions{Allow: manifest.Allow{test.threat}}, oci.UnpackOptions{})
			if err != nil || len(files.Warnings) == 0 {
				t.Errorf("allowed: %+v, %v", files, err)
			}
		})
	}
	t.Run("a raw layer that the Kitfile does not name", func(t *testing.T) {
		_, err := unpack(t, modelKit(t, `{"model":`+good+`}`, "model.v1.tar", weights, "docs.v1.raw", "b"), oci.FilesOptions{}, oci.UnpackOptions{})
		if !errors.Is(err, oci.ErrUnmapped) {
			t.Errorf("error %v, want ErrUnmapped", err)
		}
	})
	t.Run("paths that are no references", func(t *testing.T) {
		for _, path := range []string{"a@2x.bin", "user@host", "A:v1", "a.bin:", "a b:v1", "a.bin@" + digest[:20], "_:v1"} {
			if _, err := unpack(t, modelKit(t, `{"model":`+part(path, weights, weights)+`}`, "model.v1.tar", weights), oci.FilesOptions{}, oci.UnpackOptions{}); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	})
	annotated := func(name string) *oci.Model {
		kitfile := `{"model":` + part("./w/a.bin", "a", "a") + `}`
		m := withConfig(manifestOf(typed(typeKit+"raw", "a", filepathKey, name)), typed("application/vnd.kitops.modelkit.config.v1+json", kitfile))
		return stored(t, m, "a", kitfile)
	}
	t.Run("two readings: an annotation beside another path", func(t *testing.T) {
		_, err := unpack(t, annotated("b.bin"), oci.FilesOptions{Allow: manifest.Threats()}, oci.UnpackOptions{})
		wantThreat(t, err, "kitfile-path")
	})
	t.Run("an annotation that says the same", func(t *testing.T) {
		files, err := unpack(t, annotated("w/a.bin"), oci.FilesOptions{}, oci.UnpackOptions{})
		if err != nil || !slices.Equal(names(files.Files), []string{"w/a.bin"}) {
			t.Errorf("%+v, %v", files, err)
		}
	})
	t.Run("two readings: an old kit with a folder in a path", func(t *testing.T) {
		for _, path := range []string{"sub/a.bin", "./sub/d", "../d", "/d"} {
			_, err := unpack(t, modelKit(t, `{"model":{"path":"`+path+`"}}`, "model.v1.tar", weights), oci.FilesOptions{Allow: manifest.Threats()}, oci.UnpackOptions{})
			if !errors.Is(err, oci.ErrUnmapped) {
				t.Errorf("%s: error %v, want ErrUnmapped", path, err)
			}
		}
	})
	t.Run("an old kit", func(t *testing.T) {
		files, err := unpack(t, modelKit(t, `{"model":{"path":"./a.bin"}}`, "model.v1.tar", weights), oci.FilesOptions{}, oci.UnpackOptions{})
		if err != nil || len(files.Files) != 1 {
			t.Errorf("%+v, %v", files, err)
		}
	})
}

// kit obeys the Kitfile in an annotation as it does the one of a ModelKit.
func TestKitfileInAnAnnotation(t *testing.T) {
	annotated := func(kitfile string) *oci.Manifest {
		m := manifestOf(typed(typeWeight+"raw", "a", filepathKey, "a.bin"))
		return parse(t, strings.Replace(m, `"annotations":{"org.opencontainers.image.created"`, `"annotations":{"ml.kitops.modelkit.kitfile":`+quoteJSON(kitfile)+`,"org.opencontainers.image.created"`, 1))
	}
	for _, test := range []struct {
		name, kitfile, code string
		threat              manifest.Threat
	}{
		{"M17: another ModelKit", `{"model":{"path":"registry.example.com/acme/base:v1"}}`, "parent-reference", manifest.ParentReference},
		{"M17: a remote dataset", `{"model":{"path":"a.bin"},"datasets":[{"path":"d","remotePath":"s3://bucket/d"}]}`, "parent-reference", manifest.ParentReference},
		{"M12: a member twice", `{"model":{"path":"a.bin"},"model":{"path":"b"}}`, "config-json", ""},
		{"not JSON", "model:\n  path: a.bin\n", "config-json", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := annotated(test.kitfile)
			_, err := m.Files(oci.FilesOptions{})
			if threat := wantThreat(t, err, test.code); threat.Threat != test.threat {
				t.Errorf("allowed by %q, want %q", threat.Threat, test.threat)
			}
			if test.threat == "" {
				return
			}
			files, err := m.Files(oci.FilesOptions{Allow: manifest.Allow{test.threat}})
			if err != nil || len(files.Warnings) != 1 {
				t.Errorf("allowed: %+v, %v", files, err)
			}
		})
	}
	files, err := annotated(`{"model":{"path":"a.bin"}}`).Files(oci.FilesOptions{})
	if err != nil || !slices.Equal(files.Added, []string{"Kitfile"}) {
		t.Errorf("a part of its own: %+v, %v", files, err)
	}
}
