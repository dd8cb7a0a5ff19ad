package oci_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	godigest "github.com/opencontainers/go-digest"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

const (
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeDocker   = "application/vnd.docker.distribution.manifest.v2+json"
	emptyConfig  = `{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"data":"e30="}`
)

// layer is a raw layer of some content, as oras push describes it.
func layer(title, content string) string {
	return fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"%s","size":%d,"annotations":{"org.opencontainers.image.title":%s}}`,
		godigest.FromString(content), len(content), quoteJSON(title))
}

func quoteJSON(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// manifestOf is a manifest with an empty config and the layers.
func manifestOf(layers ...string) string {
	return `{"schemaVersion":2,"mediaType":"` + typeManifest + `","artifactType":"application/vnd.unknown.artifact.v1","config":` + emptyConfig +
		`,"layers":[` + strings.Join(layers, ",") + `],"annotations":{"org.opencontainers.image.created":"2026-11-22T07:04:01Z"}}`
}

func TestParseManifest(t *testing.T) {
	data := []byte(manifestOf(layer("a.txt", "hello")))
	m, err := oci.ParseManifest(data, typeManifest)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.Bytes, data) {
		t.Error("Bytes are not the bytes")
	}
	d := m.Descriptor
	if d.MediaType != typeManifest || d.Digest != godigest.FromBytes(data) || d.Size != int64(len(data)) || d.ArtifactType != "application/vnd.unknown.artifact.v1" {
		t.Errorf("Descriptor is %+v", d)
	}
	data[0] = 'x'
	if m.Bytes[0] != '{' {
		t.Error("Bytes share the caller's memory")
	}
}

func TestParseManifestAccepts(t *testing.T) {
	good := manifestOf(layer("a.txt", "hello"))
	untyped := strings.Replace(good, `"mediaType":"`+typeManifest+`",`, "", 1)
	for _, test := range []struct{ name, data, mediaType, want string }{
		{"nobody said the type but the manifest", good, "", typeManifest},
		{"no mediaType member", untyped, typeManifest, typeManifest},
		{"nobody said the type at all", untyped, "", typeManifest},
		{"Docker schema 2", strings.Replace(good, typeManifest, typeDocker, 1), typeDocker, typeDocker},
		{"Docker schema 2 by the server only", untyped, typeDocker, typeDocker},
		{"an unknown member", strings.Replace(good, `{"schemaVersion"`, `{"x-vendor":{"a":1},"schemaVersion"`, 1), typeManifest, typeManifest},
		{"a subject", strings.Replace(good, `{"schemaVersion"`, `{"subject":{"mediaType":"`+typeManifest+`","digest":"`+digest+`","size":1},"schemaVersion"`, 1), typeManifest, typeManifest},
		{"annotation keys that look like members", strings.Replace(good, `"annotations":{"org.opencontainers.image.created"`, `"annotations":{"Digest":"x","org.opencontainers.image.created"`, 1), typeManifest, typeManifest},
		{"no layers", manifestOf(), typeManifest, typeManifest}, // refused by Files
		{"white space", "\n " + good + "\n", typeManifest, typeManifest},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := oci.ParseManifest([]byte(test.data), test.mediaType)
			if err != nil {
				t.Fatal(err)
			}
			if m.Descriptor.MediaType != test.want {
				t.Errorf("media type %q, want %q", m.Descriptor.MediaType, test.want)
			}
		})
	}
}

// Each row is right but in one way.
func TestParseManifestRefuses(t *testing.T) {
	good := manifestOf(layer("a.txt", "hello"), layer("b.txt", "world"))
	hello := godigest.FromString("hello").String()
	helloHex := strings.TrimPrefix(hello, "sha256:")
	edit := func(old, new string) string {
		if !strings.Contains(good, old) {
			panic(old)
		}
		return strings.Replace(good, old, new, 1)
	}
	foreign := func(member string) string { return edit(`{"schemaVersion"`, `{`+member+`,"schemaVersion"`) }
	for _, test := range []struct{ name, data, mediaType, code string }{
		{"M01: no algorithm", edit(hello, helloHex), "", "digest-format"},
		{"M01: short digest", edit(hello, "sha256:ab"), "", "digest-format"},
		{"M01: upper-case hex", edit(hello, "sha256:"+strings.ToUpper(helloHex)), "", "digest-format"},
		{"M01: a path", edit(hello, "sha256:../../etc/passwd"), "", "digest-format"},
		{"M01: an algorithm nobody knows", edit(hello, "sha257:"+helloHex), "", "digest-format"},
		{"M01: no digest", edit(`"digest":"`+hello+`",`, ""), "", "digest-format"},
		{"M01: the config's digest", edit("sha256:44136fa3", "sha256:44136FA3"), "", "digest-format"},
		{"M02: sha512", edit(hello, "sha512:"+helloHex+helloHex), "", "digest-algorithm"},
		{"M03: negative size", edit(`"size":5`, `"size":-5`), "", "negative-size"},
		{"M03: the empty config has another size", edit(`"size":2,"data":"e30="`, `"size":3`), "", "size-mismatch"},
		{"M03: an empty layer has another size", edit(hello, "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"), "", "size-mismatch"},
		{"M03: no size", edit(`"size":5,`, ""), "", "missing-size"},
		{"M03: null size", edit(`"size":5`, `"size":null`), "", "missing-size"},
		{"M03: a size that is a string", edit(`"size":5`, `"size":"5"`), "", "manifest-shape"},
		{"M03: a size beyond int64", edit(`"size":5`, `"size":9223372036854775808`), "", "manifest-shape"},
		{"M03: a size with a fraction", edit(`"size":5`, `"size":5.5`), "", "manifest-shape"},
		{"M03: sizes that overflow together", strings.ReplaceAll(good, `"size":5`, `"size":9223372036854775807`), "", "size-overflow"},
		{"M04: data of another content", edit(`"data":"e30="`, `"data":"e31="`), "", "data-mismatch"},
		{"M04: data of another length", edit(`"data":"e30="`, `"data":"e30K"`), "", "data-mismatch"},
		{"M04: data that is not base64", edit(`"data":"e30="`, `"data":"e30"`), "", "data-mismatch"},
		{"M04: base64 with loose bits", edit(`"data":"e30="`, `"data":"e31="`), "", "data-mismatch"},
		{"M04: base64 with a line break", edit(`"data":"e30="`, `"data":"e3\n0="`), "", "data-mismatch"},
		{"M07: a layer without a media type", edit(`"mediaType":"application/vnd.oci.image.layer.v1.tar",`, ""), "", "descriptor-media-type"},
		{"M07: a media type that is none", edit(`application/vnd.oci.image.layer.v1.tar`, `tar; q=1`), "", "descriptor-media-type"},
		{"M09: layers and manifests", foreign(`"manifests":[]`), "", "layers-and-manifests"},
		{"M09: layers and manifests, and no type", strings.Replace(foreign(`"manifests":[]`), `"mediaType":"`+typeManifest+`",`, "", 1), "", "layers-and-manifests"},
		{"M09: a config and manifests, and no type", `{"schemaVersion":2,"config":` + emptyConfig + `,"manifests":[]}`, "", "layers-and-manifests"},
		{"M09: the server says another type", good, typeDocker, "media-type-mismatch"},
		{"M09: the server says index", good, typeIndex, "media-type-mismatch"},
		{"M09: the manifest says index", edit(typeManifest, typeIndex), "", "layers-and-manifests"},
		{"M09: only the server says index", edit(`"mediaType":"`+typeManifest+`",`, ""), typeIndex, "layers-and-manifests"},
		{"M09: a type that is no manifest", edit(typeManifest, "application/json"), "", "media-type"},
		{"M09: an empty type", edit(typeManifest, ""), "", "media-type"},
		{"M09: an artifact manifest's member", foreign(`"blobs":[]`), "", "media-type"},
		{"M09: no config", edit(`"config":`+emptyConfig+",", ""), "", "missing-config"},
		{"M09: null config", edit(emptyConfig, "null"), "", "missing-config"},
		{"M09: no layers", strings.Replace(manifestOf(), `"layers":[],`, "", 1), "", "missing-layers"},
		{"M09: null layers", strings.Replace(manifestOf(), `"layers":[]`, `"layers":null`, 1), "", "missing-layers"},
		{"M09: layers that are an object", strings.Replace(manifestOf(), `"layers":[]`, `"layers":{}`, 1), "", "manifest-shape"},
		{"M09: a layer that is null", manifestOf("null"), "", "manifest-shape"},
		{"M09: a null subject", foreign(`"subject":null`), "", "manifest-shape"},
		{"M01: the subject's digest", foreign(`"subject":{"mediaType":"` + typeManifest + `","digest":"sha256:x","size":1}`), "", "digest-format"},
		{"M10: schema 1", edit(`"schemaVersion":2`, `"schemaVersion":1`), "", "schema1"},
		{"M10: schema 1 by type", edit(`"mediaType":"`+typeManifest+`",`, ""), "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema1"},
		{"M10: a member of schema 1", foreign(`"fsLayers":[]`), "", "schema1"},
		{"M10: schema 3", edit(`"schemaVersion":2`, `"schemaVersion":3`), "", "schema-version"},
		{"M10: no version", edit(`"schemaVersion":2,`, ""), "", "schema-version"},
		{"M10: a version that is a string", edit(`"schemaVersion":2`, `"schemaVersion":"2"`), "", "schema-version"},
		{"M11: 4 MiB and a byte", good + strings.Repeat(" ", oci.MaxManifest+1-len(good)), "", "manifest-too-large"},
		{"M11: deep JSON", foreign(`"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100)), "", "manifest-json"},
		{"M12: a member twice", foreign(`"schemaVersion":2`), "", "manifest-json"},
		{"M12: a layer's digest twice", edit(`"size":5`, `"digest":"`+digest+`","size":5`), "", "manifest-json"},
		{"M12: an annotation twice", edit(`{"org.opencontainers.image.title"`, `{"org.opencontainers.image.title":"x","org.opencontainers.image.title"`), "", "manifest-json"},
		{"M12: another letter case", foreign(`"Layers":[]`), "", "manifest-json"},
		{"M12: another letter case in a layer", edit(`"size":5`, `"Digest":"`+digest+`","size":5`), "", "manifest-json"},
		{"M12: a second value", good + "{}", "", "manifest-json"},
		{"M12: invalid UTF-8", edit("a.txt", "a\xff.txt"), "", "manifest-json"},
		{"M12: half a surrogate pair", edit("a.txt", `a\ud800.txt`), "", "manifest-json"},
		{"M18: non-distributable", edit("vnd.oci.image.layer.v1.tar", "vnd.oci.image.layer.nondistributable.v1.tar"), "", "non-distributable"},
		{"M18: Docker's foreign layer", edit("vnd.oci.image.layer.v1.tar", "vnd.docker.image.rootfs.foreign.diff.tar.gzip"), "", "non-distributable"},
		{"M18: encrypted", edit("vnd.oci.image.layer.v1.tar", "vnd.oci.image.layer.v1.tar+encrypted"), "", "encrypted-layer"},
		{"no object", "[]", "", "manifest-shape"},
		{"null", "null", "", "manifest-shape"},
		{"nothing", "", "", "manifest-json"},
		{"HTML", "<html></html>", "", "manifest-json"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := oci.ParseManifest([]byte(test.data), test.mediaType)
			wantThreat(t, err, test.code)
			if m != nil {
				t.Error("a manifest beside the error")
			}
		})
	}
}

func TestParseManifestNamesAnIndex(t *testing.T) {
	for _, test := range []struct{ name, data, mediaType string }{
		{"an index", `{"schemaVersion":2,"mediaType":"` + typeIndex + `","manifests":[]}`, ""},
		{"an index without a type", `{"schemaVersion":2,"manifests":[]}`, ""},
		{"an index by the server", `{"schemaVersion":2,"manifests":[]}`, typeIndex},
		{"a manifest list", `{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[]}`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := oci.ParseManifest([]byte(test.data), test.mediaType); !errors.Is(err, oci.ErrIndex) {
				t.Errorf("error %v, want ErrIndex", err)
			}
		})
	}
}

// No flipped byte leaves the digest as it was, and what still parses says what
// its bytes say; no part of a manifest is one.
func TestParseManifestCorrupted(t *testing.T) {
	good := []byte(manifestOf(layer("a.txt", "hello"), layer("b/c.bin", "world")))
	want := godigest.FromBytes(good)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x01
		if m, err := oci.ParseManifest(bad, ""); err == nil && m.Descriptor.Digest == want {
			t.Errorf("byte %d: the digest did not change", i)
		}
		if _, err := oci.ParseManifest(good[:i], ""); err == nil {
			t.Errorf("the first %d bytes parse", i)
		}
	}
}

func TestIsManifest(t *testing.T) {
	good := manifestOf(layer("a.txt", "hello"))
	for _, test := range []struct {
		name, data string
		want       bool
	}{
		{"a manifest", good, true},
		{"Docker's", strings.Replace(good, typeManifest, typeDocker, 1), true},
		{"without a media type", strings.Replace(good, `"mediaType":"`+typeManifest+`",`, "", 1), true},
		{"a hostile one, so that it is refused and not hashed", strings.Replace(good, `{"schemaVersion"`, `{"Layers":[],"schemaVersion"`, 1), true},
		{"with a member twice", strings.Replace(good, `{"schemaVersion"`, `{"schemaVersion":2,"schemaVersion"`, 1), true},
		{"an index", `{"schemaVersion":2,"manifests":[]}`, false},
		{"a model's config.json", `{"architectures":["LlamaForCausalLM"],"layers":[],"config":{}}`, false},
		{"another media type", strings.Replace(good, typeManifest, "application/json", 1), false},
		{"no digest in the config", strings.Replace(good, `"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",`, "", 1), false},
		{"an array", "[" + good + "]", false},
		{"cut", good[:len(good)-1], false},
		{"too large", good + strings.Repeat(" ", oci.MaxManifest), false},
		{"nothing", "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := oci.IsManifest([]byte(test.data)); got != test.want {
				t.Errorf("IsManifest is %t", got)
			}
		})
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(manifestOf(layer("a.txt", "hello"), layer("b", "world"))), "")
	f.Add([]byte(`{"schemaVersion":2,"manifests":[]}`), typeIndex)
	for _, file := range packedManifests(f) {
		f.Add(file, typeManifest)
	}
	f.Fuzz(func(t *testing.T, data []byte, mediaType string) {
		m, err := oci.ParseManifest(data, mediaType)
		if err != nil {
			var threat *manifest.ThreatError
			if !errors.As(err, &threat) && !errors.Is(err, oci.ErrIndex) {
				t.Fatalf("neither a refusal nor an index: %v", err)
			}
			return
		}
		if !oci.IsManifest(data) && m.MediaType != "" {
			t.Fatal("parses but is not shaped as one")
		}
		files, err := m.Files(oci.FilesOptions{Allow: manifest.Threats()})
		if err != nil {
			return
		}
		for _, file := range files.Files {
			if manifest.CheckName(file.Name) != nil || len(file.Digest) != 32 || file.Size < 0 {
				t.Fatalf("bad file %+v", file)
			}
		}
	})
}

// packedManifests returns every blob of the packed layouts that is a manifest.
func packedManifests(t testing.TB) [][]byte {
	blobs, err := filepath.Glob("../../shared/packers/*/blobs/sha256/*")
	if err != nil {
		t.Fatal(err)
	}
	var found [][]byte
	for _, blob := range blobs {
		if data, err := os.ReadFile(blob); err == nil && oci.IsManifest(data) {
			found = append(found, data)
		}
	}
	return found
}

func wantThreat(t *testing.T, err error, code string) *manifest.ThreatError {
	t.Helper()
	var threat *manifest.ThreatError
	if !errors.As(err, &threat) {
		t.Fatalf("error %v, want a refusal %q", err, code)
	}
	if threat.Code != code {
		t.Fatalf("refused as %q (%v), want %q", threat.Code, err, code)
	}
	if threat.Reason == "" || threat.Name == "" && code != "name-empty" {
		t.Errorf("name %q, reason %q", threat.Name, threat.Reason)
	}
	return threat
}
