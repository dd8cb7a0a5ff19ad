package referrers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"slices"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// SimpleSigningType is the media type of the layers that an old tag has.
const SimpleSigningType = "application/vnd.dev.cosign.simplesigning.v1+json"

// maxSimpleSigning bounds such a layer, in bytes: most have 300.
const maxSimpleSigning = 1 << 20

// SigTag is the tag under which cosign kept the signatures of a manifest before
// there were referrers: sha256-HEX.sig. It names an image of which every layer
// is one signature.
func SigTag(subject digest.Digest) string { return fallbackTag(subject) + ".sig" }

// A SimpleSigning is one signature of an old tag: a layer, and its annotations.
type SimpleSigning struct {
	Payload     []byte            // nil if Err is not
	Annotations map[string]string // of the layer, in the manifest
	// Err says why there is no Payload. It wraps ErrUnread or ErrMalformed.
	Err error
}

// An OldTag is what the old tag of a subject names.
type OldTag struct {
	Tag    string
	Digest digest.Digest // of the image; "" where there is no tag
	Size   int64         // of its manifest, in bytes

	// Incomplete says why it could not be read; nil if it was, or is known not
	// to exist (404).
	Incomplete error

	store  Store
	limits Limits
	image  *sigImage // nil: there is none
}

// ReadSigTag reads what the old tag of subject names. Registries and layouts may
// have one. An error is returned only for a subject that cannot be one and when
// ctx ends; all else that goes wrong is in [OldTag.Incomplete].
func ReadSigTag(ctx context.Context, s Store, subject ocispec.Descriptor, l Limits) (*OldTag, error) {
	if err := checkSubject(subject); err != nil {
		return nil, fmt.Errorf("read the old tag: %w", err)
	}
	t := &OldTag{Tag: SigTag(subject.Digest), store: s, limits: l.withDefaults()}
	data, err := s.tagged(ctx, t.Tag)
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("tag %s: %w", t.Tag, context.Cause(ctx))
	case errors.Is(err, errAbsent):
		return t, nil
	case err != nil:
		t.Incomplete = fmt.Errorf("tag %s: %w", t.Tag, err)
		return t, nil
	}
	t.Digest, t.Size = digest.FromBytes(data), int64(len(data))
	if t.image, err = parseSigImage(data); err != nil {
		// As with a fallback tag: what names something else, or came as something
		// else, is a source that cannot be read, and not an empty one.
		t.Incomplete = fmt.Errorf("tag %s: %w", t.Tag, err)
	}
	return t, nil
}

// Read yields the signatures in order, and reads each when it is its turn:
// layers of other types are left out. Limits are as for [Listing.Read].
func (t *OldTag) Read(ctx context.Context) iter.Seq[SimpleSigning] {
	return func(yield func(SimpleSigning) bool) {
		if t.image == nil {
			return
		}
		// Whoever signs the same manifest signs the same bytes, mostly: the last
		// ones are kept, and no more of what nobody has authenticated.
		var last struct {
			digest  digest.Digest
			payload []byte
		}
		left := t.limits.TotalBytes
		read := 0
		for _, raw := range t.image.layers {
			s := SimpleSigning{}
			layer, err := parseSigLayer(raw)
			if layer.MediaType != SimpleSigningType && (err == nil || layer.MediaType != "") {
				continue // somebody else's, whatever it is
			}
			if read++; read > t.limits.Read {
				s.Err = fmt.Errorf("%w: %d signatures were read, which is the limit (--max-referrers)", ErrUnread, t.limits.Read)
				yield(s)
				return
			}
			s.Annotations = layer.Annotations
			switch {
			case err != nil:
			case last.digest == layer.Digest:
				s.Payload = last.payload
			case layer.Size > min(left, maxSimpleSigning):
				err = fmt.Errorf("%w: it has %d bytes, more than is read", ErrUnread, layer.Size)
			default:
				if s.Payload, err = t.store.blob(ctx, layer); err == nil {
					last.digest, last.payload = layer.Digest, s.Payload
				}
				left -= layer.Size
			}
			if err != nil {
				s.Err = fmt.Errorf("layer %d of tag %s: %w", read, t.Tag, err)
			}
			if !yield(s) || ctx.Err() != nil {
				return
			}
		}
	}
}

// A sigImage is the manifest of an image of signatures. What is not looked at
// is kept as it is.
type sigImage struct {
	members   map[string]jsontext.Value
	mediaType string
	layers    []jsontext.Value
}

const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
)

func parseSigImage(data []byte) (*sigImage, error) {
	if err := checkJSON(data, manifestFields[:]...); err != nil {
		return nil, err
	}
	m := &sigImage{mediaType: ocispec.MediaTypeImageManifest}
	err := unmarshal(data, &m.members)
	if raw, ok := m.members["mediaType"]; ok && err == nil {
		err = unmarshal(raw, &m.mediaType)
	}
	if raw, ok := m.members["layers"]; ok && err == nil {
		err = unmarshal(raw, &m.layers)
	}
	switch {
	case err != nil:
		return nil, errors.New(escape(err.Error()))
	case m.mediaType != ocispec.MediaTypeImageManifest && m.mediaType != dockerManifest:
		return nil, fmt.Errorf("it is %s, not an image", quote(m.mediaType))
	case m.members["config"] == nil:
		return nil, errors.New("it has no config: it is not an image")
	}
	return m, nil
}

func parseSigLayer(raw jsontext.Value) (ocispec.Descriptor, error) {
	var layer ocispec.Descriptor
	if err := unmarshal(raw, &layer); err != nil {
		return layer, fmt.Errorf("%w: %s", ErrMalformed, escape(err.Error()))
	}
	if err := checkDigest(layer.Digest); err != nil {
		return layer, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if layer.Size <= 0 {
		return layer, fmt.Errorf("%w: it has %d bytes", ErrMalformed, layer.Size)
	}
	return layer, nil
}

// AddToSigTag adds signatures to the image that the old tag of subject names,
// and makes it if it is not there. Layers of others, and what
// else the manifest has, are kept as they are, but for white space; what
// could not be read whole, and what is no image, is never written. As in a
// fallback index, the layers are looked for twice, and written again while
// others overwrite them (see the package comment). The result is the image's
// digest. Every error wraps [ErrNotAttached].
//
// Only registries have old tags that somebody reads: a layout is an error.
func AddToSigTag(ctx context.Context, s Store, subject ocispec.Descriptor, add ...SimpleSigning) (digest.Digest, error) {
	fail := func(err error) (digest.Digest, error) {
		return "", fmt.Errorf("add to tag %s: %w: %w", SigTag(subject.Digest), ErrNotAttached, err)
	}
	if err := checkSubject(subject); err != nil {
		return fail(err)
	}
	r, ok := s.(*registry)
	if !ok {
		return fail(errors.New("an image layout has no such tags that anybody reads"))
	}
	u := &sigUpdate{registry: r, tag: SigTag(subject.Digest), has: map[string]bool{}}
	ctx = auth.AppendRepositoryScope(ctx, r.repo.Reference, auth.ActionPull, auth.ActionPush)
	if len(add) == 0 {
		return fail(errors.New("there is no signature"))
	}
	for _, a := range add {
		if len(a.Payload) == 0 || len(a.Payload) > maxSimpleSigning {
			return fail(fmt.Errorf("a payload of %d bytes, which may have 1 to %d", len(a.Payload), maxSimpleSigning))
		}
		desc := ocispec.Descriptor{MediaType: SimpleSigningType, Digest: digest.FromBytes(a.Payload), Size: int64(len(a.Payload)), Annotations: a.Annotations}
		raw, err := encode(desc)
		if err != nil {
			return fail(err)
		}
		if err := r.repo.Blobs().Push(ctx, desc, bytes.NewReader(a.Payload)); err != nil {
			return fail(fmt.Errorf("push signature %s: %w", desc.Digest, foreign(err)))
		}
		u.want(raw)
	}
	if err := u.untilKept(ctx, u.write, u.right); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return fail(err)
	}
	return u.digest, nil
}

// JoinTag brings an image of signatures, whose blobs are there, to an old tag:
// byte for byte where nobody has that tag, else by adding its layers to what is
// there, as [AddToSigTag] does. What is no image is not joined with anything.
func JoinTag(ctx context.Context, s Store, tag, mediaType string, image []byte) error {
	r, ok := s.(*registry)
	if !ok {
		return fmt.Errorf("tag %s: an image layout is written in one act", tag)
	}
	u := &sigUpdate{registry: r, tag: tag, has: map[string]bool{}, whole: image, wholeType: mediaType}
	if m, err := parseSigImage(image); err == nil {
		for _, raw := range m.layers {
			u.want(raw)
		}
	}
	ctx = auth.AppendRepositoryScope(ctx, r.repo.Reference, auth.ActionPull, auth.ActionPush)
	if err := u.untilKept(ctx, u.write, u.right); err != nil {
		return fmt.Errorf("tag %s: %w", tag, err)
	}
	return nil
}

// HasLayersOf reports whether one image of signatures has every layer that
// another one has. What is no image has none of another's.
func HasLayersOf(image, other []byte) bool {
	if bytes.Equal(image, other) {
		return true
	}
	m, err := parseSigImage(image)
	o, otherErr := parseSigImage(other)
	if err != nil || otherErr != nil {
		return false
	}
	has := map[string]bool{}
	for _, raw := range m.layers {
		has[layerKey(raw)] = true
	}
	return !slices.ContainsFunc(o.layers, func(raw jsontext.Value) bool { return !has[layerKey(raw)] })
}

// A sigUpdate is one act of adding layers to an image of signatures.
type sigUpdate struct {
	registry *registry
	tag      string

	// wanted are our own layers and all others that were seen in this act. has
	// is what tells them apart.
	wanted []jsontext.Value
	has    map[string]bool
	looked bool          // the tag was read once
	digest digest.Digest // of the image that was read last; "": there was none

	// whole is the image to write where there is none; nil: one is made.
	whole     []byte
	wholeType string
	pace
}

// layerKey tells layers apart: signatures of one payload differ in their
// annotations alone. Other writers may write the same layer in other bytes.
func layerKey(raw jsontext.Value) string {
	var layer struct {
		MediaType   string            `json:"mediaType"`
		Digest      digest.Digest     `json:"digest"`
		Size        int64             `json:"size"`
		Annotations map[string]string `json:"annotations"`
	}
	if unmarshal(raw, &layer) != nil {
		return string(raw)
	}
	key, err := json.Marshal(layer) // sorts annotations
	if err != nil {
		return string(raw)
	}
	return string(key)
}

func (u *sigUpdate) want(raw jsontext.Value) {
	if key := layerKey(raw); !u.has[key] {
		u.has[key] = true
		u.wanted = append(u.wanted, raw)
	}
}

// look reads the tag. What it has is wanted from now on.
func (u *sigUpdate) look(ctx context.Context) (m *sigImage, missing []jsontext.Value, err error) {
	data, err := u.registry.tagged(ctx, u.tag)
	switch {
	case errors.Is(err, errAbsent):
		m, u.digest = &sigImage{mediaType: ocispec.MediaTypeImageManifest}, ""
	case err != nil:
		return nil, nil, err
	case u.whole != nil && bytes.Equal(data, u.whole):
		u.digest = digest.FromBytes(data)
		return nil, nil, nil
	default:
		if m, err = parseSigImage(data); err != nil {
			return nil, nil, fmt.Errorf("what is there is no image of signatures: %w", err)
		}
		u.digest = digest.FromBytes(data)
	}
	there := map[string]bool{}
	for _, raw := range m.layers {
		key := layerKey(raw)
		there[key] = true
		u.crowded = u.crowded || u.looked && !u.has[key]
		u.want(raw)
	}
	u.looked = true
	for _, raw := range u.wanted {
		if !there[layerKey(raw)] {
			missing = append(missing, raw)
		}
	}
	return m, missing, nil
}

func (u *sigUpdate) right(ctx context.Context) (bool, error) {
	_, missing, err := u.look(ctx)
	return err == nil && len(missing) == 0 && u.digest != "", err
}

// write adds to the image what it lacks.
func (u *sigUpdate) write(ctx context.Context) error {
	start := time.Now()
	m, missing, err := u.look(ctx)
	if err == nil && time.Since(start) > staleAfter { // as in a fallback index
		start = time.Now()
		m, missing, err = u.look(ctx)
	}
	if err != nil || len(missing) == 0 && u.digest != "" {
		return err
	}
	mediaType, data := u.wholeType, u.whole
	if data == nil || u.digest != "" {
		if data, err = u.join(ctx, m, missing); err != nil {
			return err
		}
		mediaType = m.mediaType
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	err = foreign(u.registry.putTag(ctx, u.tag, desc, data, func(ctx context.Context) { _, _, _ = u.look(ctx) }))
	u.slowest = max(u.slowest, time.Since(start))
	if err != nil {
		return fmt.Errorf("write the image: %w", err)
	}
	return nil
}

// join is the image that is there with what it lacks, whose config it pushes.
func (u *sigUpdate) join(ctx context.Context, m *sigImage, missing []jsontext.Value) ([]byte, error) {
	m.layers = append(m.layers, missing...)
	data, config, err := m.marshal()
	if err != nil {
		return nil, err
	}
	if len(data) > maxLayoutManifest {
		return nil, fmt.Errorf("the image would have %d bytes, more than would be read again", len(data))
	}
	desc := ocispec.Descriptor{Digest: digest.FromBytes(config), Size: int64(len(config))}
	if err := u.registry.repo.Blobs().Push(ctx, desc, bytes.NewReader(config)); err != nil {
		return nil, fmt.Errorf("push the config: %w", foreign(err))
	}
	return data, nil
}

// marshal writes the manifest, and the config that an image of its layers has,
// as cosign and podman do when they add a layer.
func (m *sigImage) marshal() (data, config []byte, err error) {
	epoch := time.Time{}
	image := ocispec.Image{Created: &epoch, RootFS: ocispec.RootFS{Type: "layers"}}
	for _, raw := range m.layers {
		id := digest.FromBytes(raw) // of what nobody can read, and is not ours to judge
		if layer, err := parseSigLayer(raw); err == nil {
			id = layer.Digest
		}
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, id)
		image.History = append(image.History, ocispec.History{Created: &epoch})
	}
	if config, err = encode(image); err != nil {
		return nil, nil, err
	}
	configType := ocispec.MediaTypeImageConfig
	if m.mediaType == dockerManifest {
		configType = dockerConfig
	}
	members := maps.Clone(m.members)
	if members == nil {
		members = map[string]jsontext.Value{}
	}
	for name, value := range map[string]any{
		"schemaVersion": 2,
		"mediaType":     m.mediaType,
		"config":        ocispec.Descriptor{MediaType: configType, Digest: digest.FromBytes(config), Size: int64(len(config))},
		"layers":        m.layers,
	} {
		if members[name], err = jsonv2.Marshal(value, jsontext.PreserveRawStrings(true)); err != nil {
			return nil, nil, err
		}
	}
	data, err = jsonv2.Marshal(members, jsonv2.Deterministic(true), jsontext.PreserveRawStrings(true))
	return data, config, err
}

// tagged reads the manifest that a tag names.
func (r *registry) tagged(ctx context.Context, tag string) ([]byte, error) {
	resp, err := r.get(ctx, "manifests/"+tag, acceptManifest)
	if err != nil {
		if statusCode(err) == http.StatusNotFound {
			return nil, fmt.Errorf("%w: %w", errAbsent, err)
		}
		return nil, err
	}
	defer resp.Body.Close()
	if contentType(resp) == "text/html" {
		return nil, fmt.Errorf("%s: answered with HTML", describe(resp.Request))
	}
	return readTagged(resp.Body)
}

func readTagged(body io.Reader) ([]byte, error) {
	data, err := readAtMost(body, maxLayoutManifest)
	if err == nil && len(data) > maxLayoutManifest {
		err = fmt.Errorf("it has more than %d bytes, which is the limit", maxLayoutManifest)
	}
	return data, err
}

// tagged reads the manifest of the one entry with a tag.
func (l *layout) tagged(ctx context.Context, tag string) ([]byte, error) {
	entries, err := l.files.Entries(ctx)
	if err != nil {
		return nil, err
	}
	var found *ocispec.Descriptor
	for _, raw := range entries {
		r := newReferrer(raw, sourceLayout)
		switch {
		case r.bad != nil || r.Descriptor.Annotations[ocispec.AnnotationRefName] != tag:
		case found != nil && found.Digest != r.Descriptor.Digest:
			return nil, fmt.Errorf("%s: two entries have the tag", sourceLayout)
		default:
			found = &r.Descriptor
		}
	}
	if found == nil {
		return nil, errAbsent
	}
	return l.manifest(ctx, *found, maxLayoutManifest)
}
