package oci_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

func ExampleParseReference() {
	for _, s := range []string{
		"REGISTRY.example.com.:443/acme/model:v1",
		"docker://index.docker.io/alpine:3",
		"oci:./layouts/model/:v1",
		"127.1/acme/model:v1",
	} {
		ref, err := oci.ParseReference(s)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(ref)
	}
	// Output:
	// registry.example.com/acme/model:v1
	// docker.io/library/alpine:3
	// oci:layouts/model:v1
	// reference "127.1/acme/model:v1": host "127.1" is not a canonical IPv4 address
}

func ExampleManifest_Files() {
	m, err := oci.ParseManifest([]byte(`{
	  "schemaVersion": 2,
	  "mediaType": "application/vnd.oci.image.manifest.v1+json",
	  "artifactType": "application/vnd.unknown.artifact.v1",
	  "config": {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2,
	    "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},
	  "layers": [
	    {"mediaType": "application/octet-stream", "size": 5000,
	     "digest": "sha256:014869e822262531cf8c4b61245d417dd780abafe3df1ab83ee090a45b03b1d5",
	     "annotations": {"org.opencontainers.image.title": "onnx/model.onnx"}},
	    {"mediaType": "application/json", "size": 51,
	     "digest": "sha256:1cd888149fa52281b54c77ddb1b7701b3ca0bd4af5973f85631c083e9710dcae",
	     "annotations": {"org.opencontainers.image.title": "config.json"}}]}`), "")
	if err != nil {
		log.Fatal(err)
	}
	files, err := m.Files(oci.FilesOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range files.Files {
		fmt.Printf("%x… %4d %s\n", f.Digest[:4], f.Size, f.Name)
	}
	// Output:
	// 1cd88814…   51 config.json
	// 014869e8… 5000 onnx/model.onnx
}

func ExampleClient_Push() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	client, err := oci.NewClient(oci.Options{})
	if err != nil {
		log.Fatal(err)
	}
	ref, err := oci.ParseReference("oci:" + filepath.Join(dir, "layout") + ":v1")
	if err != nil {
		log.Fatal(err)
	}
	pushed, err := client.Push(ctx, ref, []manifest.File{{
		Name: "config.json", Size: 2,
		Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("{}")), nil },
	}}, oci.PushOptions{})
	if err != nil {
		log.Fatal(err)
	}
	opened, err := client.Open(ctx, ref)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(opened.Reference.Digest == pushed.Reference.Digest)
	for _, l := range opened.Manifest.Layers {
		fmt.Println(l.MediaType, l.Size, l.Annotations["org.opencontainers.image.title"])
	}
	// Output:
	// true
	// application/json 2 config.json
}
