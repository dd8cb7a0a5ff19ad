package oci_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

const typeList = "application/vnd.docker.distribution.manifest.list.v2+json"

// childOf is an index's entry for a manifest; platform is JSON, "" for none.
func childOf(body, platform string) string {
	entry := fmt.Sprintf(`{"mediaType":"%s","digest":"%s","size":%d`, typeManifest, godigest.FromString(body), len(body))
	if platform != "" {
		entry += `,"platform":` + platform
	}
	return entry + "}"
}

func indexOf(children ...string) string {
	return `{"schemaVersion":2,"mediaType":"` + typeIndex + `","manifests":[` + strings.Join(children, ",") + `]}`
}

func on(os, architecture string) string {
	return fmt.Sprintf(`{"os":%q,"architecture":%q}`, os, architecture)
}

// manifests answers by tag v1 (the index) and by digest.
type manifests struct {
	index    string
	children []string
}

func (m manifests) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	for _, body := range append([]string{m.index}, m.children...) {
		if name != godigest.FromString(body).String() && (name != "v1" || body != m.index) {
			continue
		}
		var kind struct{ MediaType string }
		json.Unmarshal([]byte(body), &kind)
		w.Header()["Content-Type"] = nil // no sniffing
		if kind.MediaType != "" {
			w.Header().Set("Content-Type", kind.MediaType)
		}
		io.WriteString(w, body)
		return
	}
	http.NotFound(w, r)
}

var (
	amd64  = manifestOf(layer("a.bin", "amd64"))
	arm64  = manifestOf(layer("a.bin", "arm64"))
	about  = manifestOf(layer("about", "x"))
	nobody = manifestOf(layer("a.bin", "no platform"))
)

var mixed = manifests{
	index: indexOf(childOf(amd64, on("linux", "amd64")), childOf(arm64, `{"os":"linux","architecture":"arm64","variant":"v8"}`),
		childOf(about, on("unknown", "unknown")), childOf(nobody, "")),
	children: []string{amd64, arm64, about, nobody},
}

// inLayout writes the manifests into an image layout, where the index alone has
// an entry, and returns the reference to it.
func inLayout(t *testing.T, m manifests) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, body := range append([]string{m.index}, m.children...) {
		write("blobs/sha256/"+godigest.FromString(body).Encoded(), body)
	}
	write(ocispec.ImageLayoutFile, `{"imageLayoutVersion":"1.0.0"}`)
	write(ocispec.ImageIndexFile, fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"%s","digest":"%s","size":%d,"annotations":{"org.opencontainers.image.ref.name":"v1"}}]}`,
		typeIndex, godigest.FromString(m.index), len(m.index)))
	return "oci:" + dir + ":v1"
}

// inArchive is inLayout as a tar file.
func inArchive(t *testing.T, m manifests) string {
	t.Helper()
	dir := strings.TrimSuffix(strings.TrimPrefix(inLayout(t, m), "oci:"), ":v1")
	file := filepath.Join(t.TempDir(), "m.tar")
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, out.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	return "oci-archive:" + file + ":v1"
}

func TestOpenPlatform(t *testing.T) {
	for where, ref := range map[string]string{
		"a registry": serve(t, mixed) + "/m:v1", "a layout": inLayout(t, mixed), "an archive": inArchive(t, mixed),
	} {
		for _, test := range []struct{ name, platform, want, full string }{
			{"the one there is", "linux/amd64", amd64, "linux/amd64"},
			{"any variant where none is asked for", "linux/arm64", arm64, "linux/arm64/v8"},
			{"that variant", "linux/arm64/v8", arm64, "linux/arm64/v8"},
		} {
			t.Run(where+": "+test.name, func(t *testing.T) {
				m, err := newClient(t, oci.Options{}).OpenPlatform(t.Context(), mustParse(t, ref), test.platform)
				if err != nil {
					t.Fatal(err)
				}
				if m.Reference.Digest != godigest.FromString(test.want) || m.Reference.Tag != "" || m.Platform != test.full {
					t.Errorf("%s for %q", m.Reference, m.Platform)
				}
				if m.Index == nil || m.Index.Digest != godigest.FromString(mixed.index) || m.Index.MediaType != typeIndex {
					t.Errorf("index %+v", m.Index)
				}
				if files, err := m.Manifest.Files(oci.FilesOptions{}); err != nil || len(files.Files) != 1 {
					t.Errorf("files %v, %v", files, err)
				}
			})
		}
	}
}

// Which child is meant is never guessed, and what is wrong with the choice is
// about the call: nothing is refused.
func TestOpenPlatformNeedsExactlyOne(t *testing.T) {
	arm := func(content, variant string) (string, string) {
		body := manifestOf(layer("a.bin", content))
		return body, childOf(body, `{"os":"linux","architecture":"arm","variant":"`+variant+`"}`)
	}
	v6, six := arm("6", "v6")
	v7, seven := arm("7", "v7")
	for _, test := range []struct {
		name     string
		from     http.Handler
		platform string
		want     string
	}{
		{"none fits: those there are", mixed, "linux/riscv64", "there are linux/amd64, linux/arm64/v8"},
		{"another variant", mixed, "linux/arm64/v9", "linux/arm64/v8"},
		{"a prefix is no platform", mixed, "linux/arm", "no manifest is for platform"},
		{"attestations are not selected (I02)", mixed, "unknown/unknown", "no manifest is for platform"},
		{"two variants", manifests{index: indexOf(six, seven), children: []string{v6, v7}}, "linux/arm", "linux/arm/v6, linux/arm/v7"},
		{"no platform at all", manifests{index: indexOf(childOf(nobody, "")), children: []string{nobody}}, "linux/amd64", "names none"},
		{"not a platform", mixed, "amd64", "is not OS/ARCH"},
		{"four parts", mixed, "a/b/c/d", "is not OS/ARCH"},
		{"empty parts", mixed, "linux/", "is not OS/ARCH"},
		{"not an index", fake{contentType: typeManifest, body: amd64}, "linux/amd64", "not an image index"},
	} {
		t.Run(test.name, func(t *testing.T) {
			host := serve(t, test.from)
			_, err := newClient(t, oci.Options{}).OpenPlatform(t.Context(), mustParse(t, host+"/m:v1"), test.platform)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if errors.Is(err, oci.ErrNotFound) {
				t.Error("the artifact is there")
			}
		})
	}
}

func TestOpenIndexListsChildren(t *testing.T) {
	docker := strings.ReplaceAll(strings.Replace(mixed.index, typeIndex, typeList, 1), typeManifest, typeDocker)
	for name, index := range map[string]string{"OCI": mixed.index, "Docker": docker, "without a type": strings.Replace(mixed.index, `"mediaType":"`+typeIndex+`",`, "", 1)} {
		t.Run(name, func(t *testing.T) {
			host := serve(t, manifests{index: index})
			x, err := newClient(t, oci.Options{}).OpenIndex(t.Context(), mustParse(t, host+"/m:v1"))
			if err != nil {
				t.Fatal(err)
			}
			if x.Reference.Digest != godigest.FromString(index) || x.Reference.Tag != "v1" || !x.Manifest.IsIndex() {
				t.Errorf("%s", x.Reference)
			}
			var platforms []string
			for _, child := range x.Children {
				platforms = append(platforms, child.Platform)
			}
			if want := []string{"linux/amd64", "linux/arm64/v8", "unknown/unknown", ""}; !slices.Equal(platforms, want) {
				t.Errorf("platforms %q", platforms)
			}
			if x.Children[0].IsAttestation() || !x.Children[2].IsAttestation() {
				t.Error("which child is an attestation?")
			}
			if _, err := x.Manifest.Files(oci.FilesOptions{}); !errors.Is(err, oci.ErrUnmapped) {
				t.Errorf("files of an index: %v", err)
			}
		})
	}
}

func TestOpenIndexRefuses(t *testing.T) {
	one := childOf(amd64, on("linux", "amd64"))
	good := indexOf(one)
	edit := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not there", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	many := make([]string, oci.MaxChildren+1)
	for i := range many {
		many[i] = childOf(fmt.Sprint(i), "")
	}
	for _, test := range []struct{ name, index, code string }{
		{"I03: an index inside", edit(`{"mediaType":"`+typeManifest, `{"mediaType":"`+typeIndex), "nested-index"},
		{"I03: a manifest list inside", edit(`{"mediaType":"`+typeManifest, `{"mediaType":"`+typeList), "nested-index"},
		{"I03: a digest twice", indexOf(one, one), "duplicate-digest"},
		{"I03: a digest twice, for another platform", indexOf(one, childOf(amd64, on("linux", "arm64"))), "duplicate-digest"},
		{"M09: layers too", edit(`"manifests"`, `"layers":[],"manifests"`), "layers-and-manifests"},
		{"M09: a config too", edit(`"manifests"`, `"config":`+emptyConfig+`,"manifests"`), "layers-and-manifests"},
		{"M09: layers too, without a type", strings.Replace(edit(`"manifests"`, `"layers":[],"manifests"`), `"mediaType":"`+typeIndex+`",`, "", 1), "layers-and-manifests"},
		{"M09: a child that is no manifest", edit(`{"mediaType":"`+typeManifest, `{"mediaType":"application/json`), "child-media-type"},
		{"M09: a child without a type", edit(`{"mediaType":"`+typeManifest+`",`, `{`), "descriptor-media-type"},
		{"M12: manifests twice", edit(`"manifests"`, `"manifests":[],"manifests"`), "manifest-json"},
		{"M12: Manifests", edit(`"manifests"`, `"Manifests":[],"manifests"`), "manifest-json"},
		{"M12: a child's Digest", edit(`"digest"`, `"Digest":"x","digest"`), "manifest-json"},
		{"M12: a platform's OS", edit(`"os"`, `"OS":"windows","os"`), "manifest-json"},
		{"M12: an architecture twice", edit(`"architecture"`, `"architecture":"arm64","architecture"`), "manifest-json"},
		{"M01: a digest", edit(godigest.FromString(amd64).String(), "sha256:../../x"), "digest-format"},
		{"M02: sha512", edit(godigest.FromString(amd64).String(), godigest.SHA512.FromString(amd64).String()), "digest-algorithm"},
		{"M03: no size", edit(fmt.Sprintf(`,"size":%d`, len(amd64)), ""), "missing-size"},
		{"M03: a negative size", edit(`"size":`, `"size":-`), "negative-size"},
		{"M04: data", edit(`"size"`, `"data":"e30=","size"`), "data-mismatch"},
		{"M11: too many", indexOf(many...), "too-many-manifests"},
		{"no manifests", strings.Replace(indexOf(), `,"manifests":[]`, "", 1), "missing-manifests"},
		{"null", strings.Replace(indexOf(), `[]`, "null", 1), "missing-manifests"},
		{"an object", strings.Replace(indexOf(), `[]`, "{}", 1), "manifest-shape"},
		{"a child that is null", indexOf("null"), "manifest-shape"},
		{"a null subject", edit(`"manifests"`, `"subject":null,"manifests"`), "manifest-shape"},
		{"a platform that acts on terminals", edit(`"os":"linux"`, `"os":"li\u001b[2Jnux"`), "platform"},
		{"a platform of two", edit(`"os":"linux"`, `"os":"linux/amd64"`), "platform"},
		{"half a platform", edit(`"os":"linux",`, ""), "platform"},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := newClient(t, oci.Options{})
			ref := mustParse(t, serve(t, manifests{index: test.index, children: []string{amd64}})+"/m:v1")
			_, err := client.OpenIndex(t.Context(), ref)
			wantThreat(t, err, test.code)
			_, err = client.OpenPlatform(t.Context(), ref, "linux/amd64")
			wantThreat(t, err, test.code)
			_, err = client.OpenPlatform(t.Context(), mustParse(t, inLayout(t, manifests{index: test.index, children: []string{amd64}})), "linux/amd64")
			wantThreat(t, err, test.code)
		})
	}
}

// What comes for a child is what the index says.
func TestOpenPlatformRefusesAnotherChild(t *testing.T) {
	one := childOf(amd64, on("linux", "amd64"))
	nested := indexOf(childOf(arm64, ""))
	for _, test := range []struct{ name, index, child, code string }{
		{"M03: the size", indexOf(strings.Replace(one, `"size":`, `"size":1`, 1)), amd64, "size-mismatch"},
		{"M09: the media type", indexOf(strings.Replace(one, typeManifest, typeDocker, 1)), amd64, "media-type-mismatch"},
		{"M13: other bytes under the digest", indexOf(one), "", "digest-mismatch"},
		{"I03: an index called a manifest", indexOf(childOf(nested, on("linux", "amd64"))), nested, "nested-index"},
	} {
		t.Run(test.name, func(t *testing.T) {
			host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if path.Base(r.URL.Path) == "v1" || test.child != "" {
					manifests{index: test.index, children: []string{test.child}}.ServeHTTP(w, r)
					return
				}
				fake{contentType: typeManifest, body: arm64}.ServeHTTP(w, r)
			}))
			_, err := newClient(t, oci.Options{}).OpenPlatform(t.Context(), mustParse(t, host+"/m:v1"), "linux/amd64")
			wantThreat(t, err, test.code)
		})
	}
}

func TestOpenAnyOpensBoth(t *testing.T) {
	for where, ref := range map[string]string{"a registry": serve(t, mixed) + "/m", "a layout": strings.TrimSuffix(inLayout(t, mixed), ":v1")} {
		client := newClient(t, oci.Options{})
		for _, body := range []string{mixed.index, amd64} {
			m, err := client.OpenAny(t.Context(), mustParse(t, ref+"@"+godigest.FromString(body).String()))
			if err != nil || m.Manifest.IsIndex() != (body == mixed.index) || string(m.Manifest.Bytes) != body {
				t.Errorf("%s: %v", where, err)
			}
		}
		if _, err := client.Open(t.Context(), mustParse(t, ref+"@"+godigest.FromString(mixed.index).String())); !errors.Is(err, oci.ErrIndex) {
			t.Errorf("%s: Open: %v", where, err)
		}
	}
	if m, err := newClient(t, oci.Options{}).OpenAny(t.Context(), mustParse(t, strings.TrimSuffix(inLayout(t, mixed), ":v1"))); err != nil || !m.Manifest.IsIndex() {
		t.Errorf("the one model of a layout is an index: %v", err)
	}
}

// An index has no files; some are no subject either.
func TestFilesOfAnIndex(t *testing.T) {
	elsewhere := withMember(childOf(arm64, on("linux", "arm64")), `"urls":["https://example.com/arm64"]`)
	for _, test := range []struct {
		name, index, code string // "": it has no files, and that is all
		allow             manifest.Allow
	}{
		{"an index", mixed.index, "", nil},
		{"a child without a platform", indexOf(childOf(nobody, "")), "", nil},
		{"M05: a child elsewhere", indexOf(childOf(amd64, on("linux", "amd64")), elsewhere), "foreign-urls", nil},
		{"M05: all else is allowed", indexOf(elsewhere), "foreign-urls", slices.DeleteFunc(manifest.Threats(), func(t manifest.Threat) bool { return t == manifest.ForeignURLs })},
		{"M05: allowed", indexOf(elsewhere), "", manifest.Allow{manifest.ForeignURLs}},
		{"M08: no children", indexOf(), "no-layers", manifest.Threats()},
		{"M08: attestations only", indexOf(childOf(about, on("unknown", "unknown"))), "no-layers", manifest.Threats()},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := newClient(t, oci.Options{}).OpenAny(t.Context(), mustParse(t, inLayout(t, manifests{index: test.index})))
			if err != nil {
				t.Fatal(err)
			}
			_, err = m.Manifest.Files(oci.FilesOptions{Allow: test.allow})
			if test.code == "" {
				if !errors.Is(err, oci.ErrUnmapped) {
					t.Errorf("error %v, want ErrUnmapped", err)
				}
				return
			}
			wantThreat(t, err, test.code)
		})
	}
}
