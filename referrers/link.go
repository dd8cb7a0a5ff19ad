package referrers

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Link makes manifests findable that refer to subject and are in the store
// already, whatever they are: the second half of [Attach], for referrers that
// were copied. It returns their descriptors in the same order, made from what
// the manifests say. What is listed already is left as it is.
//
// Every error wraps [ErrNotAttached].
func Link(ctx context.Context, s Store, subject ocispec.Descriptor, manifests ...[]byte) ([]ocispec.Descriptor, error) {
	fail := func(err error) ([]ocispec.Descriptor, error) {
		return nil, fmt.Errorf("link to %s: %w: %w", quote(string(subject.Digest)), ErrNotAttached, err)
	}
	if err := checkSubject(subject); err != nil {
		return fail(err)
	}
	if len(manifests) == 0 {
		return nil, nil
	}
	add := make([]referrer, len(manifests))
	descs := make([]ocispec.Descriptor, len(manifests))
	for i, data := range manifests {
		desc, err := Describe(data, subject.Digest)
		if err != nil {
			return fail(err)
		}
		add[i], descs[i] = referrer{desc: desc, manifest: data}, desc
	}
	if err := s.link(ctx, subject, add); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return fail(err)
	}
	return descs, nil
}

// errOtherSubject means that a manifest refers to something else, or to nothing.
var errOtherSubject = errors.New("its subject is another")

// Describe is the entry of a manifest that refers to subject in a listing (distribution-spec
// "Listing Referrers").
func Describe(data []byte, subject digest.Digest) (ocispec.Descriptor, error) {
	var m struct {
		MediaType    string              `json:"mediaType"`
		ArtifactType string              `json:"artifactType"`
		Config       *ocispec.Descriptor `json:"config"`
		Subject      *ocispec.Descriptor `json:"subject"`
		Annotations  map[string]string   `json:"annotations"`
	}
	desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := unmarshal(data, &m); err != nil {
		return desc, fmt.Errorf("referrer %s: %s", desc.Digest, escape(err.Error()))
	}
	if m.Subject == nil || m.Subject.Digest != subject {
		return desc, fmt.Errorf("referrer %s: %w", desc.Digest, errOtherSubject)
	}
	desc.MediaType = m.MediaType
	if desc.MediaType == "" {
		desc.MediaType = ocispec.MediaTypeImageManifest
	}
	desc.Annotations, desc.ArtifactType = m.Annotations, m.ArtifactType
	if desc.ArtifactType == "" && m.Config != nil {
		desc.ArtifactType = m.Config.MediaType
	}
	if raw, err := encode(desc); err != nil || len(raw) > maxEntry {
		return desc, errors.Join(err, fmt.Errorf("referrer %s: its entry would have %d bytes, the limit is %d", desc.Digest, len(raw), maxEntry))
	}
	return desc, nil
}
