package modelsig

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/verify"
)

// artifact is a manifest as the verdict wants to see it. model is where its
// layers are; nil: nowhere.
func (c *Client) artifact(m *oci.Manifest, model *oci.Model, o VerifyOptions) *verify.Artifact {
	options := func(recorded string) (oci.FilesOptions, error) {
		if recorded != "" && o.PathAnnotation != "" && recorded != o.PathAnnotation {
			return oci.FilesOptions{}, &manifest.ThreatError{Code: oci.CodePathAnnotation, Reason: fmt.Sprintf("signed by the path annotation %q, and %q is asked for", recorded, o.PathAnnotation)}
		}
		return oci.FilesOptions{Allow: o.Allow, PathAnnotation: cmp.Or(recorded, o.PathAnnotation)}, nil
	}
	a := &verify.Artifact{
		Manifest: m.Descriptor,
		Pseudo:   pseudoNames(m),
		Blobs:    blobNames(m),
		Map: func(recorded string, covered ...digest.Digest) (*verify.Mapping, error) {
			files, err := options(recorded)
			if err != nil {
				return nil, err
			}
			files.Covered = covered
			return mapFiles(m, files)
		},
	}
	if model == nil {
		return a
	}
	a.Content = o.VerifyContent
	a.Read = func(ctx context.Context, recorded string) (*verify.Mapping, error) {
		files, err := options(recorded)
		if err != nil {
			return nil, err
		}
		found, err := c.readLayers(ctx, model, files, o.VerifyContent)
		if err != nil {
			return nil, unread(unmapped(err))
		}
		return mappingOf(found), nil
	}
	return a
}

// readLayers reads the layers whose files are not known without, and with raw
// all others too.
func (c *Client) readLayers(ctx context.Context, model *oci.Model, o oci.FilesOptions, raw bool) (files *oci.Files, err error) {
	ctx, span := child(ctx, "read")
	defer end(span, &err)
	plan, err := model.Manifest.Plan(o)
	if err != nil {
		return nil, err
	}
	total := plan.PackedBytes()
	if raw {
		total = plan.Bytes()
	}
	if c.Reads != nil && total > 0 {
		c.Reads(model.Reference.String(), total)
	}
	return model.Unpack(ctx, plan, oci.UnpackOptions{Raw: raw, Jobs: c.Jobs, Progress: c.counter(total)})
}

// unread marks what is no judgement about the content of layers.
func unread(err error) error {
	if isThreat(err) || errors.Is(err, oci.ErrUnmapped) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
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

// blobNames are the names under which such tools list everything, nil if two
// of them are one: then a list of names does not say what it covers.
func blobNames(m *oci.Manifest) map[string]digest.Digest {
	names := map[string]digest.Digest{verify.PseudoConfig: m.Config.Digest}
	for i, layer := range m.Layers {
		name, titled := layer.Annotations[ocispec.AnnotationTitle]
		if !titled {
			name = fmt.Sprintf("layer_%03d.tar.gz", i)
		}
		if _, twice := names[name]; twice {
			return nil
		}
		names[name] = layer.Digest
	}
	return names
}

// mapFiles reads layers as files for a verdict, by the manifest alone.
func mapFiles(m *oci.Manifest, o oci.FilesOptions) (*verify.Mapping, error) {
	files, err := m.Files(o)
	if errors.Is(err, oci.ErrPacked) {
		plan, err := m.Plan(o)
		if err != nil {
			return nil, err
		}
		layout := plan.Layout
		if layout == oci.LayoutModelCar {
			layout = "" // so far it is any container image
		}
		return &verify.Mapping{Layout: layout, Packed: true, Archives: plan.Archives(), Uncovered: plan.Uncovered()}, nil
	}
	if err != nil {
		return nil, unmapped(err)
	}
	return mappingOf(files), nil
}

// unmapped makes a threat that a caller may allow, or choose a way out of, a
// mere lack of a mapping: it is about the acts of signing and pulling. A
// verdict that covers every byte by the manifest's digest does not compare
// files then.
func unmapped(err error) error {
	if threat, ok := errors.AsType[*manifest.ThreatError](err); ok && (threat.Threat != "" || threat.Code == oci.CodePathAnnotation) {
		return fmt.Errorf("%w: %v", oci.ErrUnmapped, threat)
	}
	return err
}

func mappingOf(files *oci.Files) *verify.Mapping {
	mapping := &verify.Mapping{
		Layout:    files.Layout,
		Files:     files.Files,
		Added:     files.Added,
		Uncovered: files.Uncovered,
		GitFiles:  files.GitFiles,
	}
	for _, w := range files.Warnings {
		mapping.Warnings = append(mapping.Warnings, w.Error())
	}
	return mapping
}

// isThreat reports whether err refuses an input as hostile.
func isThreat(err error) bool {
	_, ok := errors.AsType[*manifest.ThreatError](err)
	return ok
}
