package modelsig

import (
	"context"
	"errors"
	"fmt"

	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/referrers"
)

// Deleted is what Delete deleted.
type Deleted struct {
	Referrer string // REPO@DIGEST of the bundle referrer
	Digest   string // its own
	Subject  string // REPO@DIGEST of what it was attached to
	Layout   bool   // only the entry in index.json was removed: blobs stay
}

// Delete deletes the bundle referrer that ref names by its digest, and its
// entry in the fallback index where there is one. Everything else, a model
// above all, is refused and left alone: the error wraps [ErrRefused] (rule 33).
// What is not there wraps [referrers.ErrAbsent].
func (c *Client) Delete(ctx context.Context, ref string) (*Deleted, error) {
	r, err := oci.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	if r.Digest == "" || r.Tag != "" {
		return nil, fmt.Errorf("delete %s: %w: not REPO@DIGEST of a bundle, and nothing else is deleted", r, ErrRefused)
	}
	client, err := c.registry()
	if err != nil {
		return nil, err
	}
	place, err := client.Place(ctx, r)
	if err != nil {
		return nil, err
	}
	subject, err := referrers.Delete(ctx, storeAt(place), r.Digest)
	switch {
	case errors.Is(err, referrers.ErrNotBundle) || errors.Is(err, referrers.ErrMalformed):
		return nil, fmt.Errorf("%w: only bundles that are attached to something are deleted: %w", ErrRefused, err)
	case err != nil:
		return nil, err
	}
	out := &Deleted{Referrer: r.String(), Digest: r.Digest.String(), Layout: place.Layout != nil}
	r.Digest = subject.Digest
	out.Subject = r.String()
	return out, nil
}

// storeAt is where the referrers of a place live.
func storeAt(p *oci.Place) referrers.Store {
	if p.Layout != nil {
		return referrers.InLayout(p.Layout)
	}
	return referrers.InRepository(p.Repository)
}
