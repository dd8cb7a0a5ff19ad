package referrers

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// ErrAbsent is wrapped by the error of [Delete] when there is no manifest with
// the digest.
var ErrAbsent = errors.New("not found")

// Delete deletes the bundle referrer with digest d, and returns what it
// referred to. On a registry its manifest is deleted; in an image layout its
// entry in index.json is, and the blobs stay, as they do in a registry until it
// collects them.
//
// Anything but a well-formed bundle referrer is left alone: the error wraps
// [ErrNotBundle] or [ErrMalformed] (rule 33). It wraps [ErrAbsent] when there
// is nothing to delete. Any other error, such as that of a registry which
// forbids it, leaves the referrer listed as before, or says that it is not.
func Delete(ctx context.Context, s Store, d digest.Digest) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	if err := checkDigest(d); err != nil {
		return none, fmt.Errorf("delete: %w", err)
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d}
	// A model may be larger than any referrer: it is read, to be told from one.
	data, err := s.manifest(ctx, desc, maxLayoutManifest)
	if statusCode(err) == http.StatusNotFound {
		err = fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	if err != nil {
		return none, fmt.Errorf("delete %s: %w", d, err)
	}
	subject, err := bundleSubject(data)
	if err != nil {
		return none, fmt.Errorf("delete %s: %w", d, err)
	}
	desc.Size = int64(len(data))
	if err := s.delete(ctx, subject.Digest, desc); err != nil {
		return none, fmt.Errorf("delete %s: %w", d, err)
	}
	return subject, nil
}

// bundleSubject is the subject of a manifest that is a bundle referrer.
func bundleSubject(data []byte) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	var m struct {
		Subject *ocispec.Descriptor `json:"subject"`
	}
	if err := unmarshal(data, &m); err != nil {
		return none, fmt.Errorf("%w: manifest: %s", ErrMalformed, escape(err.Error()))
	}
	if m.Subject == nil {
		return none, fmt.Errorf("%w: it has no subject", ErrNotBundle)
	}
	if err := checkSubject(*m.Subject); err != nil {
		return none, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if _, err := new(Candidate).parse(data, *m.Subject); err != nil {
		return none, err
	}
	return *m.Subject, nil
}

func (r *registry) delete(ctx context.Context, subject digest.Digest, desc ocispec.Descriptor) error {
	ctx = auth.AppendRepositoryScope(ctx, r.repo.Reference, auth.ActionPull, auth.ActionPush, auth.ActionDelete)
	api := &pages{source: sourceAPI, limits: Limits{}.withDefaults()}
	apiErr := r.readAPI(ctx, subject, api)
	// A registry that lists it will do so no longer. What lies under the
	// fallback tag there is read by nobody, but what can be read of it is put
	// right.
	lists := apiErr == nil && listed(api.referrers, []referrer{{desc: desc}})
	dropped, err := r.takeFromTag(ctx, subject, desc.Digest)
	if err != nil && !lists {
		return fmt.Errorf("nothing was deleted: %w", err)
	}
	err = r.repo.Manifests().Delete(ctx, desc)
	if err != nil && statusCode(err) != http.StatusNotFound {
		err = foreign(err)
		if statusCode(err) == http.StatusMethodNotAllowed || statusCode(err) == http.StatusForbidden {
			err = fmt.Errorf("the registry does not let it be deleted: %w", err)
		}
		if dropped == nil {
			return err
		}
		if backErr := r.putInTag(ctx, subject, *dropped); backErr != nil {
			return fmt.Errorf("%w; it is no longer listed: %w", err, backErr)
		}
		return err
	}
	if dropped == nil {
		return nil
	}
	// Others who saw the entry may have put it back while the manifest was there.
	if err := r.keepFromTag(ctx, subject, desc.Digest); err != nil {
		return fmt.Errorf("its manifest was deleted, it may still be listed: %w", err)
	}
	return nil
}

func (l *layout) delete(ctx context.Context, subject digest.Digest, desc ocispec.Descriptor) error {
	found, err := l.listAll(ctx, ocispec.Descriptor{Digest: subject}, Limits{}.withDefaults())
	if err != nil {
		return fmt.Errorf("nothing was deleted: %w", err)
	}
	there := false
	for _, r := range found {
		if r.Descriptor.Digest != desc.Digest {
			continue
		}
		there = true
		if r.Source != sourceLayout {
			// The index is a blob of somebody else's, with a tag.
			return fmt.Errorf("nothing was deleted: it is listed by %s, which is not written here", r.Source)
		}
	}
	if !there {
		return fmt.Errorf("%w: %s does not list it", ErrAbsent, sourceLayout)
	}
	if err := l.files.RemoveEntries(ctx, desc.Digest); err != nil {
		return fmt.Errorf("remove from %s: %w", sourceLayout, err)
	}
	return nil
}
