package referrers

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxLayoutManifest bounds the manifests that are read to find their subject:
// models among them have more layers than a referrer (OCI distribution-spec
// "Pushing Manifests").
const maxLayoutManifest = 4 << 20

const sourceLayout = "index.json"

// A LayoutStore is an OCI image layout. Its methods may be used by several
// goroutines, and AddEntries by several processes, at once.
type LayoutStore interface {
	// Fetch opens a blob. The caller closes it. A negative size is unknown.
	Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
	// PushBlob stores content under its digest, without an entry in index.json.
	// Content that is there already is no error.
	PushBlob(ctx context.Context, desc ocispec.Descriptor, content io.Reader) error
	// Entries returns the manifests of index.json, byte for byte.
	Entries(ctx context.Context) ([]json.RawMessage, error)
	// AddEntries adds entries to index.json in one act that no other writer
	// interrupts, except those whose digest is there.
	AddEntries(ctx context.Context, entries ...ocispec.Descriptor) error
	// RemoveEntries takes all entries with the digest out of index.json in one
	// such act, and leaves blobs where they are.
	RemoveEntries(ctx context.Context, d digest.Digest) error
}

// layout is the Store of an image layout.
type layout struct {
	files LayoutStore
	// subjects is what each manifest that was read refers to, "" for nothing:
	// who lists for every referrer of a model reads each manifest once.
	subjects sync.Map
}

// InLayout returns the store of an image layout. A referrer is an entry of
// index.json whose manifest names the subject, as oras-go writes it; an index
// called sha256-… (the fallback tag, as copied by other tools) is read as well.
func InLayout(l LayoutStore) Store { return &layout{files: l} }

func (l *layout) list(ctx context.Context, subject ocispec.Descriptor, limits Limits) ([]Referrer, func(context.Context) ([]Referrer, error), error) {
	found, err := l.listAll(ctx, subject, limits)
	return found, nil, err
}

func (l *layout) listAll(ctx context.Context, subject ocispec.Descriptor, limits Limits) ([]Referrer, error) {
	entries, err := l.files.Entries(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", sourceLayout, err)
	}
	var found []Referrer
	// The first fault stands for all: there may be one for every entry.
	var fault error
	seen := map[digest.Digest]bool{}
	var tagged digest.Digest // what the fallback tag names
	var read int64
	for i, raw := range entries {
		if i == limits.Entries {
			fault = cmp.Or(fault, fmt.Errorf("%s: it has more than %d entries, which is the limit (--max-referrers)", sourceLayout, limits.Entries))
			break
		}
		r := newReferrer(raw, sourceLayout)
		if errors.Is(r.bad, ErrUnread) {
			fault = cmp.Or(fault, fmt.Errorf("%s: %w", sourceLayout, r.bad))
		}
		if r.bad != nil || r.Descriptor.Digest == subject.Digest {
			continue // an entry that cannot be read refers to nothing
		}
		if r.Descriptor.Annotations[ocispec.AnnotationRefName] == fallbackTag(subject.Digest) {
			switch {
			case tagged == "":
				tagged = r.Descriptor.Digest
				tag := &pages{source: "tag " + fallbackTag(subject.Digest), limits: limits}
				fault = cmp.Or(fault, tag.fault(l.readIndex(ctx, r.Descriptor, tag)))
				found = append(found, tag.referrers...)
			case tagged != r.Descriptor.Digest:
				fault = cmp.Or(fault, fmt.Errorf("%s: two entries have the tag %s", sourceLayout, fallbackTag(subject.Digest)))
			}
			continue
		}
		if seen[r.Descriptor.Digest] {
			continue
		}
		seen[r.Descriptor.Digest] = true
		if read > limits.TotalBytes {
			fault = cmp.Or(fault, fmt.Errorf("%s: more than %d bytes of manifests, which is the limit", sourceLayout, limits.TotalBytes))
			break
		}
		// Here alone the subject must be known to tell a referrer from the
		// other manifests, so all of them are read; they are small and near.
		refersTo, n, err := l.subjectOf(ctx, r.Descriptor)
		read += n
		if errors.Is(err, ErrUnread) {
			fault = cmp.Or(fault, fmt.Errorf("%s: entry %s: %w", sourceLayout, r.Descriptor.Digest, err))
			continue
		}
		if err == nil && refersTo == subject.Digest { // with another error it was read, and is no manifest
			found = append(found, r)
		}
	}
	return found, fault
}

// subjectOf is what a manifest refers to, and how many bytes were read for that.
func (l *layout) subjectOf(ctx context.Context, desc ocispec.Descriptor) (digest.Digest, int64, error) {
	if known, ok := l.subjects.Load(desc.Digest); ok {
		return known.(digest.Digest), 0, nil
	}
	data, err := l.manifest(ctx, desc, maxLayoutManifest)
	if err != nil {
		return "", int64(len(data)), err
	}
	var m struct {
		Subject struct {
			Digest digest.Digest `json:"digest"`
		} `json:"subject"`
	}
	if err := unmarshal(data, &m); err != nil {
		return "", int64(len(data)), err
	}
	l.subjects.Store(desc.Digest, m.Subject.Digest)
	return m.Subject.Digest, int64(len(data)), nil
}

func (l *layout) readIndex(ctx context.Context, desc ocispec.Descriptor, p *pages) error {
	if desc.MediaType != ocispec.MediaTypeImageIndex {
		return fmt.Errorf("it is %s, not an OCI index", quote(desc.MediaType))
	}
	data, err := l.manifest(ctx, desc, p.limits.ListBytes)
	if err != nil {
		return err
	}
	_, err = p.add(bytes.NewReader(data))
	return err
}

func (l *layout) manifest(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	// The listed size is a hint, here as in registries.
	desc.Size = -1
	rc, err := l.files.Fetch(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnread, foreign(err))
	}
	defer rc.Close()
	return readManifest(rc, desc, limit)
}

func (l *layout) blob(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	rc, err := l.files.Fetch(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnread, foreign(err))
	}
	defer rc.Close()
	return readBlob(rc, desc)
}

func (l *layout) attach(ctx context.Context, subject ocispec.Descriptor, add []referrer) error {
	configDesc, configData := config()
	if err := l.files.PushBlob(ctx, configDesc, bytes.NewReader(configData)); err != nil {
		return fmt.Errorf("store the empty config: %w", err)
	}
	for _, a := range add {
		if err := l.files.PushBlob(ctx, a.layer, bytes.NewReader(a.bundle)); err != nil {
			return fmt.Errorf("store bundle %s: %w", a.layer.Digest, err)
		}
		if err := l.files.PushBlob(ctx, a.desc, bytes.NewReader(a.manifest)); err != nil {
			return fmt.Errorf("store referrer %s: %w", a.desc.Digest, err)
		}
	}
	return l.link(ctx, subject, add)
}

func (l *layout) link(ctx context.Context, _ ocispec.Descriptor, add []referrer) error {
	descs := make([]ocispec.Descriptor, len(add))
	for i, a := range add {
		descs[i] = a.desc
	}
	if err := l.files.AddEntries(ctx, descs...); err != nil {
		return fmt.Errorf("add to %s: %w", sourceLayout, err)
	}
	// Read back.
	entries, err := l.files.Entries(ctx)
	if err != nil {
		return fmt.Errorf("read %s back: %w", sourceLayout, err)
	}
	var found []Referrer
	for _, raw := range entries {
		found = append(found, newReferrer(raw, sourceLayout))
	}
	if !listed(found, add) {
		return fmt.Errorf("%s does not list it", sourceLayout)
	}
	for _, a := range add {
		if _, err := l.manifest(ctx, a.desc, a.desc.Size); err != nil {
			return fmt.Errorf("read back referrer %s: %w", a.desc.Digest, err)
		}
	}
	return nil
}

// IsTagged reports whether index.json has an entry with the digest that has a
// tag.
func IsTagged(ctx context.Context, l LayoutStore, d digest.Digest) (bool, error) {
	entries, err := l.Entries(ctx)
	if err != nil {
		return false, fmt.Errorf("%s: %w", sourceLayout, err)
	}
	for _, raw := range entries {
		r := newReferrer(raw, sourceLayout)
		if r.bad == nil && r.Descriptor.Digest == d && r.Descriptor.Annotations[ocispec.AnnotationRefName] != "" {
			return true, nil
		}
	}
	return false, nil
}
