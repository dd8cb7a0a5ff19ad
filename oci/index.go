package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/manifest"
)

// A layoutIndex is an index.json that can be changed without touching what
// others wrote: members and entries keep their bytes and their order.
type layoutIndex struct {
	members   object
	manifests []json.RawMessage
}

// parseIndex reads index.json. Duplicate members are refused: two tools would
// read two indexes (M12).
func parseIndex(data []byte) (*layoutIndex, error) {
	if err := manifest.CheckJSON(data, slices.Concat([]string{"schemaVersion", "manifests"}, descriptorMembers)...); err != nil {
		return nil, refuse("layout-json", ocispec.ImageIndexFile, "%s", reason(err))
	}
	members, err := parseObject(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
	}
	index := &layoutIndex{members: members}
	if raw := members.get("manifests"); raw != nil {
		if err := json.Unmarshal(raw, &index.manifests); err != nil {
			return nil, fmt.Errorf("%s: manifests: %s", ocispec.ImageIndexFile, reason(err))
		}
	}
	if len(index.manifests) > maxEntries {
		return nil, fmt.Errorf("%s: %d entries, more than %d", ocispec.ImageIndexFile, len(index.manifests), maxEntries)
	}
	return index, nil
}

func (l *Layout) readIndex() (*layoutIndex, error) {
	data, err := l.readFile(ocispec.ImageIndexFile, maxIndex)
	if err != nil {
		return nil, err
	}
	return parseIndex(data)
}

func (x *layoutIndex) marshal() ([]byte, error) {
	if len(x.manifests) > maxEntries {
		return nil, fmt.Errorf("more than %d entries", maxEntries)
	}
	list := []byte("[]")
	if len(x.manifests) > 0 {
		list = append(append([]byte("["), bytes.Join(asBytes(x.manifests), []byte(","))...), ']')
	}
	x.members.set("manifests", list)
	data := x.members.marshal()
	if len(data) > maxIndex {
		return nil, fmt.Errorf("more than %d bytes", maxIndex)
	}
	return data, nil
}

func (x *layoutIndex) descriptor(i int) (ocispec.Descriptor, error) {
	var desc ocispec.Descriptor
	if err := json.Unmarshal(x.manifests[i], &desc); err != nil {
		return desc, fmt.Errorf("%s: manifests[%d]: %s", ocispec.ImageIndexFile, i, reason(err))
	}
	return desc, nil
}

// entry returns the first descriptor that fits, or nil. Entries that are not
// descriptors are an error: an index that is not understood is not judged.
func (x *layoutIndex) entry(fits func(ocispec.Descriptor) bool) (*ocispec.Descriptor, error) {
	for i := range x.manifests {
		desc, err := x.descriptor(i)
		if err != nil {
			return nil, err
		}
		if fits(desc) {
			return &desc, nil
		}
	}
	return nil, nil
}

// tagged returns the descriptor that has the tag. Two different ones are
// refused: tools differ in which they take.
func (x *layoutIndex) tagged(tag string) (*ocispec.Descriptor, error) {
	var found *ocispec.Descriptor
	for i := range x.manifests {
		desc, err := x.descriptor(i)
		if err != nil {
			return nil, err
		}
		if desc.Annotations[ocispec.AnnotationRefName] != tag {
			continue
		}
		if found != nil && found.Digest != desc.Digest {
			return nil, refuse("duplicate-tag", tag, "two entries have this tag: %s and %s", quote(found.Digest.String()), quote(desc.Digest.String()))
		}
		found = &desc
	}
	if found == nil {
		return nil, fmt.Errorf("%w: no tag %q (%s)", ErrNotFound, tag, x.tags())
	}
	return found, nil
}

// tags names the tags for an error message.
func (x *layoutIndex) tags() string {
	var tags []string
	for i := range x.manifests {
		if desc, err := x.descriptor(i); err == nil && desc.Annotations[ocispec.AnnotationRefName] != "" {
			tags = append(tags, quote(desc.Annotations[ocispec.AnnotationRefName]))
		}
	}
	slices.Sort(tags)
	tags = slices.Compact(tags)
	switch {
	case len(tags) == 0:
		return "there are no tags"
	case len(tags) > maxTagsNamed:
		tags = append(tags[:maxTagsNamed], "…")
	}
	return "tags: " + strings.Join(tags, ", ")
}

func (x *layoutIndex) append(desc ocispec.Descriptor) error {
	raw, err := json.Marshal(desc)
	if err != nil {
		return err
	}
	x.manifests = append(x.manifests, raw)
	return nil
}

// tag makes desc the one entry with the tag. An entry that had it keeps its
// place without it, as oras-go does, so that its blobs stay reachable.
func (x *layoutIndex) tag(desc ocispec.Descriptor, tag string) error {
	for i := range x.manifests {
		old, err := x.descriptor(i)
		if err != nil {
			return err
		}
		if old.Annotations[ocispec.AnnotationRefName] != tag {
			continue
		}
		if x.manifests[i], err = withoutTag(x.manifests[i]); err != nil {
			return fmt.Errorf("%s: manifests[%d]: %w", ocispec.ImageIndexFile, i, err)
		}
	}
	desc.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
	return x.append(desc)
}

// withoutTag removes the tag from an entry and leaves the rest as it is.
func withoutTag(raw json.RawMessage) (json.RawMessage, error) {
	entry, err := parseObject(raw)
	if err != nil {
		return nil, err
	}
	annotations, err := parseObject(entry.get("annotations"))
	if err != nil {
		return nil, err
	}
	annotations.remove(ocispec.AnnotationRefName)
	if len(annotations) == 0 {
		entry.remove("annotations")
	} else {
		entry.set("annotations", annotations.marshal())
	}
	return entry.marshal(), nil
}

// An object is a JSON object whose members keep their order and bytes.
type object []member

type member struct {
	name  string
	value json.RawMessage
}

func parseObject(data []byte) (object, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	var o object
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		name, ok := token.(string)
		if !ok {
			return nil, errors.New("not a JSON object")
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, err
		}
		o = append(o, member{name, value})
	}
	return o, nil
}

func (o object) get(name string) json.RawMessage {
	for _, m := range o {
		if m.name == name {
			return m.value
		}
	}
	return nil
}

func (o *object) set(name string, value json.RawMessage) {
	for i := range *o {
		if (*o)[i].name == name {
			(*o)[i].value = value
			return
		}
	}
	*o = append(*o, member{name, value})
}

func (o *object) remove(name string) {
	*o = slices.DeleteFunc(*o, func(m member) bool { return m.name == name })
}

func (o object) marshal() json.RawMessage {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		name, _ := json.Marshal(m.name) // a string always marshals
		b.Write(name)
		b.WriteByte(':')
		b.Write(m.value)
	}
	b.WriteByte('}')
	return b.Bytes()
}

func asBytes(list []json.RawMessage) [][]byte {
	b := make([][]byte, len(list))
	for i := range list {
		b[i] = list[i]
	}
	return b
}
