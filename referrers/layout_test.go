package referrers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/referrers"
)

// A memLayout is an image layout in memory. Attacks are edits to its fields.
type memLayout struct {
	mu      sync.Mutex
	blobs   map[digest.Digest][]byte
	entries []json.RawMessage
	fail    map[string]error // by method
	fetched int
}

func newMemLayout() *memLayout {
	return &memLayout{blobs: make(map[digest.Digest][]byte), fail: make(map[string]error)}
}

func (l *memLayout) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fetched++
	if err := l.fail["Fetch"]; err != nil {
		return nil, err
	}
	b, ok := l.blobs[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, fs.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (l *memLayout) PushBlob(_ context.Context, desc ocispec.Descriptor, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blobs[desc.Digest] = b
	return l.fail["PushBlob"]
}

func (l *memLayout) Entries(context.Context) ([]json.RawMessage, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.entries), l.fail["Entries"]
}

func (l *memLayout) AddEntries(_ context.Context, add ...ocispec.Descriptor) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.fail["AddEntries"]; err != nil {
		return err
	}
	if l.fail["forget"] != nil {
		return nil
	}
	for _, d := range add {
		b, err := json.Marshal(d)
		if err != nil {
			return err
		}
		l.entries = append(l.entries, b)
	}
	return nil
}

func (l *memLayout) RemoveEntries(_ context.Context, d digest.Digest) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = slices.DeleteFunc(l.entries, func(raw json.RawMessage) bool { return strings.Contains(string(raw), string(d)) })
	return l.fail["RemoveEntries"]
}

// put stores a manifest and lists it.
func (l *memLayout) put(mediaType, body string, annotations map[string]string) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(body), Size: int64(len(body)), Annotations: annotations}
	l.blobs[desc.Digest] = []byte(body)
	b, err := json.Marshal(desc)
	if err != nil {
		panic(err) // a descriptor of ours
	}
	l.entries = append(l.entries, b)
	return desc
}

func TestWhatIsAttachedInALayoutIsFoundAgain(t *testing.T) {
	l := newMemLayout()
	subject := l.put(ocispec.MediaTypeImageManifest, subjectJSON, map[string]string{ocispec.AnnotationRefName: "v1"})
	other := l.put(ocispec.MediaTypeImageManifest, `{"schemaVersion":2,"layers":[]}`, nil)
	store := referrers.InLayout(l)
	for _, s := range []ocispec.Descriptor{subject, other} {
		if listing := list(t, store, s, referrers.Limits{}); len(listing.Referrers) != 0 || listing.Incomplete != nil {
			t.Errorf("before: %d referrers, incomplete %v", len(listing.Referrers), listing.Incomplete)
		}
	}
	add := attachments("a")
	descs, err := referrers.Attach(t.Context(), store, subject, add...)
	if err != nil {
		t.Fatal(err)
	}
	listing := list(t, store, subject, referrers.Limits{})
	if listing.Incomplete != nil {
		t.Error(listing.Incomplete)
	}
	got := read(t.Context(), listing)
	if len(got) != 2 {
		t.Fatalf("%d candidates, want 2", len(got))
	}
	for i, c := range got {
		if c.Err != nil || !bytes.Equal(c.Bundle, add[i].Bundle) || c.Descriptor.Digest != descs[i].Digest || c.Source != "index.json" {
			t.Errorf("candidate %d: %+v", i, c)
		}
	}
	if listing := list(t, store, other, referrers.Limits{}); len(listing.Referrers) != 0 {
		t.Error("another manifest has them too")
	}
	only, err := referrers.Only(store, subject, descs[1].Digest, referrers.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t.Context(), only); len(got) != 1 || got[0].Err != nil {
		t.Errorf("by digest: %v", got)
	}
}

// What index.json says of a size is a hint, and one manifest is read once
// however often it is named.
func TestALayoutsEntriesAreHints(t *testing.T) {
	l := newMemLayout()
	subject := l.put(ocispec.MediaTypeImageManifest, subjectJSON, map[string]string{ocispec.AnnotationRefName: "v1"})
	if _, err := referrers.Attach(t.Context(), referrers.InLayout(l), subject, attachments("a")...); err != nil {
		t.Fatal(err)
	}
	wrong, err := json.Marshal(ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: subject.Digest, Size: 1,
		Annotations: map[string]string{ocispec.AnnotationTitle: "again"},
	})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := l.Entries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, raw := range entries {
		var desc ocispec.Descriptor
		if err := json.Unmarshal(raw, &desc); err != nil {
			t.Fatal(err)
		}
		desc.Size = 1
		if entries[i], err = json.Marshal(desc); err != nil {
			t.Fatal(err)
		}
	}
	l.entries = entries
	for range 4000 {
		l.entries = append(l.entries, wrong, entries[1])
	}
	l.fetched = 0
	listing := list(t, referrers.InLayout(l), subject, referrers.Limits{})
	if listing.Incomplete != nil || len(listing.Referrers) != 2 {
		t.Fatalf("%d referrers, incomplete %v", len(listing.Referrers), listing.Incomplete)
	}
	if l.fetched > 10 {
		t.Errorf("%d blobs were read to list them", l.fetched)
	}
	for _, c := range read(t.Context(), listing) {
		if c.Err != nil {
			t.Error(c.Err)
		}
	}
}

// Some tools copy the fallback index into a layout as it is.
func TestAFallbackIndexInALayoutIsRead(t *testing.T) {
	l := newMemLayout()
	l.blobs[digest.FromString(bundleJSON)] = []byte(bundleJSON)
	m := goodManifest()
	l.blobs[digest.FromString(m)] = []byte(m)
	refName := map[string]string{ocispec.AnnotationRefName: tagOf(readSubject)}
	l.put(ocispec.MediaTypeImageIndex, indexOf(entry(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(m), Size: int64(len(m))}, "", "")), refName)
	store := referrers.InLayout(l)
	listing := list(t, store, readSubject, referrers.Limits{})
	if got := read(t.Context(), listing); len(got) != 1 || got[0].Err != nil || listing.Incomplete != nil {
		t.Errorf("candidates %v, incomplete %v", got, listing.Incomplete)
	}
	// Named again it is read once; another one is a contradiction.
	l.fetched = 0
	for range 1000 {
		l.entries = append(l.entries, l.entries[0])
	}
	if listing := list(t, store, readSubject, referrers.Limits{}); listing.Incomplete != nil || l.fetched > 3 {
		t.Errorf("named often: incomplete %v, %d blobs read", listing.Incomplete, l.fetched)
	}
	l.put(ocispec.MediaTypeImageManifest, `{}`, refName)
	if listing := list(t, store, readSubject, referrers.Limits{}); listing.Incomplete == nil {
		t.Error("a fallback tag that is no index makes a complete listing")
	}
}

func TestALayoutThatCannotBeReadMakesTheListingIncomplete(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(l *memLayout)
		want bool // incomplete
	}{
		{"nothing is wrong", func(*memLayout) {}, false},
		{"no index.json", func(l *memLayout) { l.fail["Entries"] = errors.New("gone") }, true},
		{"a manifest is not there", func(l *memLayout) { l.entries = append(l.entries, []byte(`{"digest":"`+digest.FromString("x")+`"}`)) }, true},
		{"a manifest is over 4 MiB", func(l *memLayout) { l.put("a/b", strings.Repeat(" ", 4<<20+1), nil) }, true},
		{"too many entries", func(l *memLayout) {
			for range 10_001 {
				l.entries = append(l.entries, []byte("{}"))
			}
		}, true},
		{"a manifest is not JSON", func(l *memLayout) { l.put("a/b", "hello", nil) }, false},
		{"an entry is no descriptor", func(l *memLayout) { l.entries = append(l.entries, []byte(`{"digest":1}`)) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newMemLayout()
			subject := l.put(ocispec.MediaTypeImageManifest, subjectJSON, nil)
			tt.edit(l)
			listing := list(t, referrers.InLayout(l), subject, referrers.Limits{})
			if got := listing.Incomplete != nil; got != tt.want {
				t.Errorf("incomplete: %v", listing.Incomplete)
			}
		})
	}
}

func TestAttachToALayoutFailsWhenAStepFails(t *testing.T) {
	for _, step := range []string{"PushBlob", "AddEntries", "Entries", "Fetch", "forget"} {
		t.Run(step, func(t *testing.T) {
			l := newMemLayout()
			subject := l.put(ocispec.MediaTypeImageManifest, subjectJSON, nil)
			broken := errors.New("broken")
			l.fail[step] = broken
			_, err := referrers.Attach(t.Context(), referrers.InLayout(l), subject, attachments("a")...)
			if !errors.Is(err, referrers.ErrNotAttached) {
				t.Errorf("error %v, want ErrNotAttached", err)
			}
			if step != "forget" && !errors.Is(err, broken) {
				t.Errorf("error %v does not wrap its cause", err)
			}
		})
	}
}
