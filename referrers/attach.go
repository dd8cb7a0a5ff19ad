package referrers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An Attachment is a bundle to attach.
type Attachment struct {
	Bundle        []byte    // the Sigstore bundle, JSON; at most what Limits reads by default
	PredicateType string    // of the statement inside, for the annotation; required
	Created       time.Time // for the annotation, in UTC and full seconds; zero: none
}

// A referrer is an attachment ready to be pushed.
type referrer struct {
	desc     ocispec.Descriptor // of manifest, with artifactType and annotations: its entry in a listing
	manifest []byte
	layer    ocispec.Descriptor
	bundle   []byte
}

// Attach pushes a referrer for each attachment, makes all of them findable,
// reads them back, and returns their descriptors in the same order: media type,
// digest, size, artifactType and annotations.
//
// A registry with the Referrers API is asked whether it lists them; on others
// they enter the index of the fallback tag in one update and are looked for
// twice, as the package comment tells. Every error wraps [ErrNotAttached];
// blobs and manifests that were pushed before it stay.
func Attach(ctx context.Context, s Store, subject ocispec.Descriptor, attachments ...Attachment) ([]ocispec.Descriptor, error) {
	fail := func(err error) ([]ocispec.Descriptor, error) {
		return nil, fmt.Errorf("attach to %s: %w: %w", quote(string(subject.Digest)), ErrNotAttached, err)
	}
	if err := checkSubject(subject); err != nil {
		return fail(err)
	}
	if len(attachments) == 0 {
		return fail(errors.New("there is no bundle"))
	}
	add := make([]referrer, len(attachments))
	descs := make([]ocispec.Descriptor, len(attachments))
	for i, a := range attachments {
		r, err := newAttachment(subject, a)
		if err != nil {
			return fail(err)
		}
		add[i], descs[i] = r, r.desc
	}
	if err := s.attach(ctx, subject, add); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return fail(err)
	}
	return descs, nil
}

// config is the empty config of every referrer.
func config() (ocispec.Descriptor, []byte) {
	desc := ocispec.DescriptorEmptyJSON
	data := desc.Data
	// Inlining two bytes saves nobody a request, and cosign does not.
	desc.Data = nil
	desc.ArtifactType = BundleType
	return desc, data
}

// newAttachment builds the referrer's manifest. What [Listing.Read] would not
// read by default is refused.
func newAttachment(subject ocispec.Descriptor, a Attachment) (referrer, error) {
	limits := Limits{}.withDefaults()
	if a.PredicateType == "" {
		return referrer{}, errors.New("the bundle's predicate type is not given")
	}
	if limit := limits.bundle(a.PredicateType); len(a.Bundle) == 0 || int64(len(a.Bundle)) > limit {
		return referrer{}, fmt.Errorf("the bundle has %d bytes, the limit is %d", len(a.Bundle), limit)
	}
	r := referrer{
		bundle: a.Bundle,
		layer: ocispec.Descriptor{
			MediaType: BundleType,
			Digest:    digest.FromBytes(a.Bundle),
			Size:      int64(len(a.Bundle)),
		},
	}
	annotations := map[string]string{
		AnnotationContent:       "dsse-envelope",
		AnnotationPredicateType: a.PredicateType,
	}
	if !a.Created.IsZero() {
		annotations[ocispec.AnnotationCreated] = a.Created.UTC().Format(time.RFC3339)
	}
	configDesc, _ := config()
	var err error
	r.manifest, err = encode(struct {
		SchemaVersion int                  `json:"schemaVersion"`
		MediaType     string               `json:"mediaType"`
		Config        ocispec.Descriptor   `json:"config"`
		Layers        []ocispec.Descriptor `json:"layers"`
		Annotations   map[string]string    `json:"annotations"`
		Subject       ocispec.Descriptor   `json:"subject"`
		ArtifactType  string               `json:"artifactType"`
	}{
		SchemaVersion: 2,
		MediaType:     ocispec.MediaTypeImageManifest,
		Config:        configDesc,
		Layers:        []ocispec.Descriptor{r.layer},
		Annotations:   annotations,
		Subject: ocispec.Descriptor{
			MediaType: subject.MediaType,
			Digest:    subject.Digest,
			Size:      subject.Size,
		},
		ArtifactType: BundleType,
	})
	if err != nil {
		return referrer{}, fmt.Errorf("encode the referrer's manifest: %w", err)
	}
	if int64(len(r.manifest)) > limits.ManifestBytes {
		return referrer{}, fmt.Errorf("the referrer's manifest has %d bytes, the limit is %d", len(r.manifest), limits.ManifestBytes)
	}
	r.desc = ocispec.Descriptor{
		MediaType:    ocispec.MediaTypeImageManifest,
		Digest:       digest.FromBytes(r.manifest),
		Size:         int64(len(r.manifest)),
		ArtifactType: BundleType,
		Annotations:  annotations,
	}
	return r, nil
}

// encode writes compact JSON, members in order of declaration and annotations
// sorted, without HTML escapes.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
