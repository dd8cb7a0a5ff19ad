//go:build ignore

// generate writes the image layouts of this folder anew:
//
//	go run testdata/packed/generate.go testdata/packed
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// A layout is what one packer makes.
type layout struct {
	name, artifactType, configType, config string
	layers                                 []layer
}

type layer struct {
	mediaType, content string
	annotations        []string // key, value
}

const (
	docker   = "application/vnd.docker.ai."
	cncf     = "application/vnd.cncf.model."
	kit      = "application/vnd.kitops.modelkit."
	filePath = "org.cncf.model.filepath"
	title    = "org.opencontainers.image.title"
)

func layouts() []layout {
	one, two := tarOf("w/one.safetensors", "one"), tarOf("run.py", "two")
	zone, ztwo := zstdOf(one), zstdOf(two)
	return []layout{
		{"docker-v0.1", "", docker + "model.config.v0.1+json", `{"config":{"format":"gguf"},"rootfs":{"type":"layers","diff_ids":[` + list("weights", "license", "projector", "template") + `]}}`, []layer{
			{docker + "gguf.v3", "weights", nil}, {docker + "license", "license", nil}, {docker + "mmproj", "projector", nil}, {docker + "chat.template.jinja", "template", nil},
		}},
		{"docker-v0.2", "", docker + "model.config.v0.2+json", `{"config":{"format":"gguf"}}`, []layer{
			{docker + "gguf.v3", "weights", []string{filePath, "tiny-q4.gguf"}}, {docker + "model.file", "{}", []string{filePath, "sub/config.json"}}, {docker + "license", "license", []string{filePath, "LICENSE"}},
		}},
		{"modelpack-zstd", cncf + "manifest.v1+json", cncf + "config.v1+json", `{"descriptor":{"name":"tiny"},"modelfs":{"type":"layers","diffIds":[` + list(one, two) + `]},"config":{}}`, []layer{
			{cncf + "weight.v1.tar+zstd", zone, []string{filePath, "w/one.safetensors"}}, {cncf + "code.v1.tar+zstd", ztwo, []string{filePath, "run.py"}},
		}},
		{"kit-zstd", kit + "manifest.v1+json", kit + "config.v1+json", fmt.Sprintf(`{"manifestVersion":"1.0.0","model":{"path":"w/one.safetensors","digest":%q,"diffId":%q},"code":[{"path":"run.py","digest":%q,"diffId":%q}]}`, sum(zone), sum(one), sum(ztwo), sum(two)), []layer{
			{kit + "model.v1.tar+zstd", zone, nil}, {kit + "code.v1.tar+zstd", ztwo, nil},
		}},
		// What RamaLama makes by podman artifact: its title is podman's, and
		// another name than the path.
		{"ramalama", cncf + "manifest.v1+json", "application/vnd.oci.empty.v1+json", `{}`, []layer{
			{cncf + "weight.v1.raw", "weights", []string{filePath, "tiny.gguf", title, "sha256-" + sum("weights")[7:], "org.cncf.model.file.metadata+json", `{"name":"tiny.gguf","size":7}`}},
		}},
	}
}

func list(contents ...string) string {
	var b bytes.Buffer
	for i, c := range contents {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q", sum(c))
	}
	return b.String()
}

func sum(s string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(s))) }

func tarOf(name, content string) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	check(w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}))
	_, err := w.Write([]byte(content))
	check(err)
	check(w.Close())
	return b.String()
}

func zstdOf(s string) string {
	w, err := zstd.NewWriter(nil)
	check(err)
	return string(w.EncodeAll([]byte(s), nil))
}

func main() {
	for _, l := range layouts() {
		dir := filepath.Join(os.Args[1], l.name)
		check(os.RemoveAll(dir))
		blob := func(content string) string {
			d := sum(content)
			write(filepath.Join(dir, "blobs", "sha256", d[7:]), content)
			return d
		}
		m := map[string]any{
			"schemaVersion": 2,
			"mediaType":     "application/vnd.oci.image.manifest.v1+json",
			"config":        descriptor{l.configType, blob(l.config), len(l.config), nil},
		}
		if l.artifactType != "" {
			m["artifactType"] = l.artifactType
		}
		var layers []descriptor
		for _, one := range l.layers {
			d := descriptor{one.mediaType, blob(one.content), len(one.content), map[string]string{}}
			for pair := range slices.Chunk(one.annotations, 2) {
				d.Annotations[pair[0]] = pair[1]
			}
			layers = append(layers, d)
		}
		m["layers"] = layers
		data := marshal(m)
		write(filepath.Join(dir, "oci-layout"), `{"imageLayoutVersion":"1.0.0"}`)
		write(filepath.Join(dir, "index.json"), marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{
			{"application/vnd.oci.image.manifest.v1+json", blob(data), len(data), map[string]string{"org.opencontainers.image.ref.name": "v1"}},
		}}))
	}
}

func marshal(v any) string {
	data, err := json.Marshal(v)
	check(err)
	return string(data)
}

func write(path, content string) {
	check(os.MkdirAll(filepath.Dir(path), 0o755))
	check(os.WriteFile(path, []byte(content), 0o644))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
