package oci

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry"

	"github.com/modelsig/modelsig/manifest"
)

// A kitPart is an entry of a Kitfile: something that the model consists of,
// and the layer that holds it.
type kitPart struct {
	Path       string        `json:"path"`
	RemotePath string        `json:"remotePath"`
	Digest     digest.Digest `json:"digest"`
	DiffID     digest.Digest `json:"diffId"`
}

// kitMembers are the members of a Kitfile that say what belongs to the model.
var kitMembers = []string{"model", "parts", "code", "datasets", "docs", "prompts", "path", "remotePath", "digest", "diffId"}

// parseKitfile returns the parts of a Kitfile in the order in which they stand.
func parseKitfile(config []byte) ([]kitPart, error) {
	if err := manifest.CheckJSON(config, kitMembers...); err != nil {
		return nil, refuse("config-json", "config", "the Kitfile: %s", reason(err))
	}
	var k struct {
		Model *struct {
			kitPart
			Parts []kitPart `json:"parts"`
		} `json:"model"`
		Code     []kitPart `json:"code"`
		Datasets []kitPart `json:"datasets"`
		Docs     []kitPart `json:"docs"`
		Prompts  []kitPart `json:"prompts"`
	}
	if err := json.Unmarshal(config, &k); err != nil {
		return nil, refuse("config-json", "config", "the Kitfile: %s", reason(err))
	}
	var parts []kitPart
	if k.Model != nil {
		if k.Model.Path != "" || k.Model.Digest != "" {
			parts = append(parts, k.Model.kitPart)
		}
		parts = append(parts, k.Model.Parts...)
	}
	for _, list := range [][]kitPart{k.Code, k.Datasets, k.Docs, k.Prompts} {
		parts = append(parts, list...)
	}
	return parts, nil
}

// readKitfile completes a plan with what the Kitfile says: the names of layers
// that are one file. Every part must be in a layer: one that is not lives in
// another artifact or elsewhere, and no signature of this one covers it (M17).
// A path that is a reference is followed whatever digest stands beside it.
func (p *Plan) readKitfile(config []byte) error {
	if config == nil {
		return refuse("config-json", "config", "a ModelKit without a Kitfile")
	}
	parts, err := parseKitfile(config)
	if err != nil {
		return err
	}
	byDigest, layers := map[digest.Digest][]string{}, map[digest.Digest]bool{}
	for _, part := range parts {
		if part.Digest != "" {
			byDigest[part.Digest] = append(byDigest[part.Digest], path.Clean(part.Path))
		}
	}
	for _, s := range p.Sources {
		layers[s.Descriptor.Digest] = true
	}
	// Kits of before v1.0 name no digests: then there are as many parts as
	// layers, or one is elsewhere.
	old := len(byDigest) == 0 && len(parts) == len(p.Sources)
	for _, part := range parts {
		// kit takes the entries of such kits to lie in the folder of the path,
		// as its first versions packed them; later ones packed the whole path.
		if folder := path.Dir(path.Clean(part.Path)); len(byDigest) == 0 && folder != "." && !isKitReference(part.Path) && part.RemotePath == "" {
			return fmt.Errorf("%w: the Kitfile names no digests, and %s has a folder: kit unpacks the layer below %s, and others by the names in it", ErrUnmapped, quote(part.Path), quote(folder))
		}
		why := part.elsewhere()
		if why == "" && !old && !layers[part.Digest] {
			why = notHere
		}
		if why == "" {
			continue
		}
		if err := p.mapping.permit(manifest.ParentReference, part.Path, why); err != nil {
			return err
		}
	}
	for i := range p.Sources {
		s := &p.Sources[i]
		if s.Archive {
			continue
		}
		// One layer is one file: kit writes the layer of a digest once, and which
		// of two paths then counts is nobody's to guess.
		paths := byDigest[s.Descriptor.Digest]
		slices.Sort(paths)
		paths = slices.Compact(paths)
		switch {
		case len(paths) > 1:
			return refuse("kitfile-path", sourceName(*s), "it is one file, and the Kitfile has two paths for its digest: %s and %s", quote(paths[0]), quote(paths[1]))
		case len(paths) == 1 && s.Name != "" && path.Clean(s.Name) != paths[0]:
			return refuse("kitfile-path", sourceName(*s), "its annotation names it %s, and the Kitfile %s", quote(s.Name), quote(paths[0]))
		case s.Name != "":
			continue
		case len(paths) == 0:
			return fmt.Errorf("%w: %s has no name, and the Kitfile does not name its digest", ErrUnmapped, sourceName(*s))
		}
		s.Name = paths[0]
		if err := manifest.CheckName(s.Name); err != nil {
			return err
		}
	}
	return nil
}

const notHere = "this part of the ModelKit is in no layer: it lives elsewhere"

// elsewhere says why a part is not in this artifact by what the Kitfile says of
// it alone, "" if it may be.
func (part kitPart) elsewhere() string {
	switch {
	case isKitReference(part.Path):
		return "the path of this part reads as a reference to another ModelKit, whose files kit unpacks too"
	case part.RemotePath != "":
		return notHere
	}
	return ""
}

// readKitAnnotation holds the Kitfile of a ModelPack artifact, which kit obeys
// as it does the one of a ModelKit, against M17.
func (p *mapping) readKitAnnotation(kitfile string) error {
	parts, err := parseKitfile([]byte(kitfile))
	if err != nil {
		return err
	}
	for _, part := range parts {
		if why := part.elsewhere(); why != "" {
			if err := p.permit(manifest.ParentReference, part.Path, why); err != nil {
				return err
			}
		}
	}
	return nil
}

// isKitReference reports whether kit takes the path of a part for a reference
// to another ModelKit: [HOST/]REPOSITORY with a tag or a digest, or with a port.
// More tags may follow after commas.
func isKitReference(path string) bool {
	if !strings.ContainsAny(path, ":@") {
		return false
	}
	name, _, _ := strings.Cut(path, ",")
	host := "localhost" // kit's default
	if first, rest, ok := strings.Cut(name, "/"); ok && strings.ContainsAny(first, ":.") {
		host, name = first, rest
	}
	name, sum, hasDigest := strings.Cut(name, "@")
	name, tag, hasTag := strings.Cut(name, ":")
	ref := registry.Reference{Registry: host, Repository: name, Reference: sum}
	if ref.ValidateRegistry() != nil || ref.ValidateRepository() != nil {
		return false
	}
	if hasDigest { // kit looks at no tag beside it
		return ref.ValidateReferenceAsDigest() == nil
	}
	ref.Reference = tag
	return !hasTag || ref.ValidateReferenceAsTag() == nil
}
