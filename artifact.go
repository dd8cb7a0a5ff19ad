package modelsig

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/verify"
)

// artifact is a manifest as the verdict wants to see it.
func artifact(m *oci.Manifest, allow manifest.Allow, pathAnnotation string) *verify.Artifact {
	return &verify.Artifact{
		Manifest: m.Descriptor,
		Pseudo:   pseudoNames(m),
		Map: func(recorded string, covered ...digest.Digest) (*verify.Mapping, error) {
			if recorded != "" && pathAnnotation != "" && recorded != pathAnnotation {
				return nil, &manifest.ThreatError{Code: oci.CodePathAnnotation, Reason: fmt.Sprintf("signed by the path annotation %q, and %q is asked for", recorded, pathAnnotation)}
			}
			if recorded == "" {
				recorded = pathAnnotation
			}
			return mapFiles(m, oci.FilesOptions{Allow: allow, PathAnnotation: recorded, Covered: covered})
		},
	}
}

// pseudoNames are the names under which other tools list blobs that are no
// named files, when they sign a manifest.
func pseudoNames(m *oci.Manifest) map[string]digest.Digest {
	names := map[string]digest.Digest{verify.PseudoConfig: m.Config.Digest}
	for i, layer := range m.Layers {
		if _, titled := layer.Annotations[ocispec.AnnotationTitle]; !titled {
			names[fmt.Sprintf("layer_%03d.tar.gz", i)] = layer.Digest
		}
	}
	return names
}

// mapFiles reads layers as files for a verdict. A threat that a caller may
// allow, or choose a way out of, is about the acts of signing and pulling: a
// verdict that covers every byte by the manifest's digest does not compare
// files then.
func mapFiles(m *oci.Manifest, o oci.FilesOptions) (*verify.Mapping, error) {
	files, err := m.Files(o)
	if threat, ok := errors.AsType[*manifest.ThreatError](err); ok && (threat.Threat != "" || threat.Code == oci.CodePathAnnotation) {
		return nil, fmt.Errorf("%w: %v", oci.ErrUnmapped, threat)
	}
	if err != nil {
		return nil, err
	}
	mapping := &verify.Mapping{
		Layout:    files.Layout,
		Files:     files.Files,
		Uncovered: files.Uncovered,
		GitFiles:  files.GitFiles,
	}
	for _, w := range files.Warnings {
		mapping.Warnings = append(mapping.Warnings, w.Error())
	}
	return mapping, nil
}

// isThreat reports whether err refuses an input as hostile.
func isThreat(err error) bool {
	_, ok := errors.AsType[*manifest.ThreatError](err)
	return ok
}
