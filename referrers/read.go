package referrers

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Candidate is one referrer that was read, or could not be.
type Candidate struct {
	Referrer

	// ArtifactType, PredicateType and Created are what the referrer's manifest
	// says: claims of whoever attached it. ArtifactType is the config's media
	// type if the manifest has none. Created is zero if it is absent or not a
	// time. Before the manifest is read they are what the listing says.
	ArtifactType  string
	PredicateType string
	Created       time.Time

	// Bundle is the layer, whose bytes have the digest that the manifest
	// names. It is nil if Err is not.
	Bundle []byte

	// Err says why there is no Bundle. It wraps ErrUnread, ErrMalformed or
	// ErrNotBundle.
	Err error
}

// Read yields the referrers in order, and reads each when it is its turn. It
// checks digest, end of stream and subject of every manifest, and size and
// digest of every bundle.
//
// A limit that is reached gives a candidate with [ErrUnread]: one for a bundle
// that is too large, and a last one for all that come after the first
// [Limits.Read]. Read also stops after the candidate during which ctx ended.
func (l *Listing) Read(ctx context.Context) iter.Seq[Candidate] {
	return func(yield func(Candidate) bool) {
		left := l.limits.TotalBytes
		for i, r := range l.Referrers {
			if i >= l.limits.Read {
				c := newCandidate(r)
				c.Err = fmt.Errorf("%w: %d of %d referrers were read, which is the limit (--max-referrers)",
					ErrUnread, i, len(l.Referrers))
				yield(c)
				return
			}
			c := l.read(ctx, r, &left)
			if !yield(c) || ctx.Err() != nil {
				return
			}
		}
	}
}

func newCandidate(r Referrer) Candidate {
	return Candidate{
		Referrer:      r,
		ArtifactType:  r.Descriptor.ArtifactType,
		PredicateType: r.Descriptor.Annotations[AnnotationPredicateType],
	}
}

// read reads one referrer; left is what remains of the total limit.
func (l *Listing) read(ctx context.Context, r Referrer, left *int64) Candidate {
	c := newCandidate(r)
	if err := l.readInto(ctx, &c, left); err != nil {
		c.Bundle = nil
		name := string(r.Descriptor.Digest)
		if r.bad != nil {
			name = quote(string(r.Raw))
		}
		c.Err = fmt.Errorf("referrer %s: %w", name, err)
	}
	return c
}

func (l *Listing) readInto(ctx context.Context, c *Candidate, left *int64) error {
	if c.bad != nil {
		if errors.Is(c.bad, ErrUnread) {
			return c.bad
		}
		return fmt.Errorf("%w: %w", ErrMalformed, c.bad)
	}
	if *left <= 0 {
		return fmt.Errorf("%w: %d bytes of referrers were read, which is the limit", ErrUnread, l.limits.TotalBytes)
	}
	data, err := l.store.manifest(ctx, c.Descriptor, l.limits.ManifestBytes)
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	*left -= int64(len(data))

	layer, err := c.parse(data, l.subject)
	if err != nil {
		return err
	}
	if limit := l.limits.bundle(c.PredicateType); layer.Size > limit {
		return fmt.Errorf("%w: the bundle has %d bytes, the limit is %d", ErrUnread, layer.Size, limit)
	}
	if layer.Data != nil { // parse compared it with the digest
		c.Bundle = layer.Data
		return nil
	}
	if layer.Size > *left {
		return fmt.Errorf("%w: with its %d bytes more than %d bytes of referrers would be read, which is the limit",
			ErrUnread, layer.Size, l.limits.TotalBytes)
	}
	c.Bundle, err = l.store.blob(ctx, layer)
	if err != nil {
		return fmt.Errorf("bundle %s: %w", layer.Digest, err)
	}
	*left -= layer.Size
	return nil
}

// manifestFields are the members that are looked at: no other member of a
// referrer's manifest may be taken for one of them.
var manifestFields = [...]string{
	"mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations", "digest", "size", "data",
}

// parse reads the manifest of a referrer and returns its one layer.
func (c *Candidate) parse(data []byte, subject ocispec.Descriptor) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	malformed := func(format string, args ...any) (ocispec.Descriptor, error) {
		return none, fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
	}

	if err := checkJSON(data, manifestFields[:]...); err != nil {
		return malformed("manifest: %w", err)
	}
	var m struct {
		MediaType    string               `json:"mediaType"`
		ArtifactType string               `json:"artifactType"`
		Config       ocispec.Descriptor   `json:"config"`
		Layers       []ocispec.Descriptor `json:"layers"`
		Subject      *ocispec.Descriptor  `json:"subject"`
		Annotations  map[string]string    `json:"annotations"`
	}
	if err := unmarshal(data, &m); err != nil {
		return malformed("manifest: %s", escape(err.Error()))
	}

	c.ArtifactType = m.ArtifactType
	if c.ArtifactType == "" {
		c.ArtifactType = m.Config.MediaType
	}
	c.PredicateType = m.Annotations[AnnotationPredicateType]
	// A time that does not parse is no worse than none: nothing depends on it.
	c.Created, _ = time.Parse(time.RFC3339, m.Annotations[ocispec.AnnotationCreated])

	// The listing may lie about what refers to what (threat I06).
	switch s := m.Subject; {
	case s == nil:
		return malformed("it has no subject")
	case s.Digest != subject.Digest:
		return malformed("its subject is %s", quote(string(s.Digest)))
	case s.Size != subject.Size:
		return malformed("its subject has %d bytes, not %d", s.Size, subject.Size)
	case s.MediaType != subject.MediaType:
		return malformed("its subject has media type %s, not %q", quote(s.MediaType), subject.MediaType)
	}

	isBundle := func(d ocispec.Descriptor) bool { return strings.HasPrefix(d.MediaType, bundlePrefix) }
	if !strings.HasPrefix(c.ArtifactType, bundlePrefix) && !slices.ContainsFunc(m.Layers, isBundle) {
		return none, fmt.Errorf("%w: its type is %s", ErrNotBundle, quote(c.ArtifactType))
	}
	if m.MediaType != "" && m.MediaType != ocispec.MediaTypeImageManifest {
		return malformed("mediaType is %s", quote(m.MediaType))
	}
	if len(m.Layers) != 1 {
		return malformed("it has %d layers, not one", len(m.Layers))
	}
	layer := m.Layers[0]
	if !isBundle(layer) {
		return malformed("its layer is %s, not a bundle", quote(layer.MediaType))
	}
	if err := checkDigest(layer.Digest); err != nil {
		return malformed("layer: %w", err)
	}
	if layer.Size <= 0 {
		return malformed("its layer has %d bytes", layer.Size)
	}
	for _, d := range []ocispec.Descriptor{m.Config, layer} {
		if d.Data != nil && (int64(len(d.Data)) != d.Size || digest.FromBytes(d.Data) != d.Digest) {
			return malformed("inlined data is not that of %s", quote(string(d.Digest)))
		}
	}
	return layer, nil
}
