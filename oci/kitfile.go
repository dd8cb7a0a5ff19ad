package oci

import (
	"encoding/json"
	"fmt"
	"path"

	"github.com/opencontainers/go-digest"

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

// parseKitfile returns the parts of a Kitfile in the order in which they stand.
func parseKitfile(config []byte) ([]kitPart, error) {
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
func (p *Plan) readKitfile(config []byte) error {
	if config == nil {
		return refuse("config-json", "config", "a ModelKit without a Kitfile")
	}
	parts, err := parseKitfile(config)
	if err != nil {
		return err
	}
	byDigest, layers := map[digest.Digest]kitPart{}, map[digest.Digest]bool{}
	for _, part := range parts {
		if part.Digest != "" {
			byDigest[part.Digest] = part
		}
	}
	for _, s := range p.Sources {
		layers[s.Descriptor.Digest] = true
	}
	// Kits of before v1.0 name no digests: then there are as many parts as
	// layers, or one is elsewhere.
	old := len(byDigest) == 0 && len(parts) == len(p.Sources)
	for _, part := range parts {
		if part.RemotePath == "" && (old || layers[part.Digest]) {
			continue
		}
		if err := p.mapping.permit(manifest.ParentReference, part.Path, "this part of the ModelKit is in no layer: it lives elsewhere"); err != nil {
			return err
		}
	}
	for i := range p.Sources {
		s := &p.Sources[i]
		if s.Archive || s.Name != "" {
			continue
		}
		part, ok := byDigest[s.Descriptor.Digest]
		if !ok {
			return fmt.Errorf("%w: %s has no name, and the Kitfile does not name its digest", ErrUnmapped, sourceName(*s))
		}
		s.Name = path.Clean(part.Path)
		if err := manifest.CheckName(s.Name); err != nil {
			return err
		}
	}
	return nil
}
