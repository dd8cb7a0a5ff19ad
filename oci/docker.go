package oci

import (
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerTypeNames is the type of a config by which some readers of Docker's
// models name layers by their type, also where they have paths.
const dockerTypeNames = "application/vnd.docker.ai.model.config.v0.1+json"

// docker reads the layers as Docker Model Runner does: by their paths, or,
// where no layer has one, under the names that it gives them by their type.
// Where the config says that types count, both must say the same.
func (p *mapping) docker() reader {
	const prefix = "application/vnd.docker.ai."
	count, seen := map[string]int{}, map[string]int{}
	withPaths := false
	for _, layer := range p.m.Layers {
		kind := strings.TrimPrefix(layer.MediaType, prefix)
		count[kind]++
		_, ok := filePath(layer)
		withPaths = withPaths || ok && !isArchiveType(layer.MediaType)
	}
	shards := func(kind, extension string) (Source, error) {
		seen[kind]++
		if count[kind] == 1 {
			return Source{Name: "model" + extension}, nil
		}
		return Source{Name: fmt.Sprintf("model-%05d-of-%05d%s", seen[kind], count[kind], extension)}, nil
	}
	byType := func(kind string) (Source, error) {
		switch {
		case kind == "gguf.v3":
			return shards(kind, ".gguf")
		case kind == "safetensors" && count["gguf.v3"] == 0:
			return shards(kind, ".safetensors")
		case kind == "mmproj":
			return Source{Name: "model.mmproj"}, nil
		case kind == "chat.template.jinja":
			return Source{Name: "template.jinja"}, nil
		case kind == "license":
			return Source{}, errSkipped
		}
		return Source{}, nil
	}
	return func(p *mapping, desc ocispec.Descriptor, what string) (Source, error) {
		kind := strings.TrimPrefix(desc.MediaType, prefix)
		switch {
		case kind == "dir.tar":
			return Source{Archive: true, Compression: anyCompression}, nil
		case isArchiveType(desc.MediaType):
			return Source{Archive: true, Compression: compressionOf(desc.MediaType)}, nil
		case !withPaths:
			return byType(kind)
		}
		s, err := pathed(p, desc, what)
		if err != nil || p.m.Config.MediaType != dockerTypeNames {
			return s, err
		}
		if typed, _ := byType(kind); typed.Name != s.Name {
			return Source{}, refuse("docker-version", what, "by its path it is %s, and by its type, which counts with a config of v0.1, %s", fileOrNone(s.Name), fileOrNone(typed.Name))
		}
		return s, nil
	}
}

// fileOrNone is a name for a message.
func fileOrNone(name string) string {
	if name == "" {
		return "no file"
	}
	return quote(name)
}
