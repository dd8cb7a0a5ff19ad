package referrers

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Listing is what is attached to a subject, as far as that could be read.
type Listing struct {
	// Referrers are joined from all sources, each digest once, in the order of
	// reading: referrers that claim a predicate type of the caller's choice,
	// then what looks like a bundle, then the rest; small ones first. The
	// caller may remove elements before it calls Read.
	Referrers []Referrer

	// Incomplete says which source could not be read, and why. It is nil only
	// if each source answered in full or is known not to exist (404, 405):
	// only then does an empty listing mean that nothing is attached.
	Incomplete error

	store   Store
	subject ocispec.Descriptor
	limits  Limits
	first   func(predicateType string) bool
	// rest reads what was left unread; nil: nothing was.
	rest func(context.Context) ([]Referrer, error)
}

// List finds what refers to subject, whose media type, digest (sha256) and size
// must be set. first tells by its predicate type which referrers to read first;
// nil prefers none.
//
// An error is returned only for a subject that cannot be one and when ctx ends.
// All else that goes wrong is in [Listing.Incomplete].
func List(ctx context.Context, s Store, subject ocispec.Descriptor, first func(predicateType string) bool, l Limits) (*Listing, error) {
	listing, err := ListFirst(ctx, s, subject, first, l)
	if err != nil {
		return nil, err
	}
	rest, err := listing.Rest(ctx)
	if err != nil {
		return nil, err
	}
	listing.Referrers = arrange(append(listing.Referrers, rest.Referrers...), first)
	listing.Incomplete, listing.rest = both(listing.Incomplete, rest.Incomplete), nil
	return listing, nil
}

// ListFirst is List for who mostly needs no more than the first referrers: a
// fallback tag is left unread where the API lists what may be bundles. Before it
// says that something is not attached, the caller must have read [Listing.Rest]:
// what was attached before a registry had the API lies under the tag alone.
func ListFirst(ctx context.Context, s Store, subject ocispec.Descriptor, first func(predicateType string) bool, l Limits) (*Listing, error) {
	if err := checkSubject(subject); err != nil {
		return nil, fmt.Errorf("list referrers: %w", err)
	}
	l = l.withDefaults()
	found, rest, incomplete := s.list(ctx, subject, l)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("list referrers of %s: %w", subject.Digest, context.Cause(ctx))
	}
	listing := &Listing{store: s, subject: subject, limits: l, rest: rest, first: first}
	listing.fill(found, incomplete)
	return listing, nil
}

// Rest lists what [ListFirst] left unread, and the listing does not have: for
// most listings nothing, and then it costs nothing. Errors are as for List.
func (l *Listing) Rest(ctx context.Context) (*Listing, error) {
	rest := &Listing{store: l.store, subject: l.subject, limits: l.limits, first: l.first}
	if l.rest == nil {
		return rest, nil
	}
	found, incomplete := l.rest(ctx)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("list referrers of %s: %w", l.subject.Digest, context.Cause(ctx))
	}
	known := make(map[digest.Digest]bool, len(l.Referrers))
	for _, r := range l.Referrers {
		known[r.Descriptor.Digest] = r.bad == nil
	}
	rest.fill(slices.DeleteFunc(found, func(r Referrer) bool { return r.bad == nil && known[r.Descriptor.Digest] }), incomplete)
	return rest, nil
}

func (l *Listing) fill(found []Referrer, incomplete error) {
	if incomplete != nil {
		incomplete = fmt.Errorf("list referrers of %s: %w", l.subject.Digest, incomplete)
	}
	l.Referrers, l.Incomplete = arrange(found, l.first), incomplete
}

// Only is the listing of the one referrer with digest d (--signature-digest).
// It costs no request: whether d exists and refers to subject is found by
// [Listing.Read].
func Only(s Store, subject ocispec.Descriptor, d digest.Digest, l Limits) (*Listing, error) {
	if err := checkSubject(subject); err != nil {
		return nil, fmt.Errorf("referrer %s: %w", quote(string(d)), err)
	}
	if err := checkDigest(d); err != nil {
		return nil, fmt.Errorf("referrer: %w", err)
	}
	return &Listing{
		Referrers: []Referrer{{
			Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d},
			Source:     "digest",
		}},
		store:   s,
		subject: subject,
		limits:  l.withDefaults(),
	}, nil
}

// arrange sorts found and drops what is listed twice. It sorts first: of two
// entries with one digest the more promising stays, so that an entry added by
// somebody else cannot push a signature to the end.
func arrange(found []Referrer, first func(string) bool) []Referrer {
	slices.SortStableFunc(found, func(a, b Referrer) int {
		return cmp.Or(
			cmp.Compare(class(a, first), class(b, first)),
			cmp.Compare(claimedSize(a), claimedSize(b)),
			cmp.Compare(a.Descriptor.Digest, b.Descriptor.Digest),
		)
	})
	seen := make(map[digest.Digest]bool, len(found))
	return slices.DeleteFunc(found, func(r Referrer) bool {
		if r.bad != nil {
			return false
		}
		again := seen[r.Descriptor.Digest]
		seen[r.Descriptor.Digest] = true
		return again
	})
}

// class is 0 for what is read first.
func class(r Referrer, first func(string) bool) int {
	predicateType, claimed := r.Descriptor.Annotations[AnnotationPredicateType]
	switch {
	case r.bad != nil:
		return 3
	case claimed && first != nil && first(predicateType):
		return 0
	case mayBeBundle(r):
		return 1
	default:
		return 2
	}
}

// mayBeBundle reports whether an entry does not say that it is something else.
// Some registries and clients list the config's media type, or nothing.
func mayBeBundle(r Referrer) bool {
	t := r.Descriptor.ArtifactType
	return t == "" || t == ocispec.MediaTypeEmptyJSON || strings.HasPrefix(t, bundlePrefix)
}

// claimedSize orders entries without a sensible size last.
func claimedSize(r Referrer) int64 {
	if r.Descriptor.Size <= 0 {
		return math.MaxInt64
	}
	return r.Descriptor.Size
}
