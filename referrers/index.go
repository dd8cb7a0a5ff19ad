package referrers

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxDepth is the deepest JSON that is parsed: manifests need five levels.
const maxDepth = 64

// An index is an OCI image index that keeps its bytes: one page of the
// Referrers API, or what a fallback tag names.
type index struct {
	limit   int              // entries that are read
	data    []byte           // the whole document
	entries []jsontext.Value // of "manifests", in order, byte for byte
	// The value of "manifests" is data[start:end].
	start, end int
}

// emptyIndex is the first index of a fallback tag.
const emptyIndex = `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[]}`

// parse reads data as an OCI image index. Duplicate names are refused, and so
// are members that contradict an index; an absent schemaVersion or mediaType
// and "manifests": null are legal. When parse fails, entries has those that
// came before the fault: a list that was cut short still names some.
func (x *index) parse(data []byte) error {
	x.data = data
	dec := jsontext.NewDecoder(bytes.NewReader(data))
	if err := x.parseObject(dec); err != nil {
		return fmt.Errorf("not an OCI index: %w", err)
	}
	return nil
}

// errManyEntries means that an index has more entries than are read.
var errManyEntries = errors.New("more entries than the limit")

// maxIndexMembers bounds the members of an index: the image spec has six.
const maxIndexMembers = 1000

func (x *index) parseObject(dec *jsontext.Decoder) error {
	if err := expect(dec, '{'); err != nil {
		return err
	}
	found := false
	for n := 0; dec.PeekKind() == '"'; n++ {
		if n == maxIndexMembers {
			return fmt.Errorf("more than %d members", maxIndexMembers)
		}
		name, err := dec.ReadToken()
		if err != nil {
			return syntax(err)
		}
		switch member := name.String(); member {
		case "manifests":
			found = true
			if err := x.parseManifests(dec); err != nil {
				return err
			}
		case "schemaVersion":
			v, err := dec.ReadValue()
			if err != nil {
				return syntax(err)
			}
			if string(v) != "2" {
				return fmt.Errorf("schemaVersion is %s", quote(string(v)))
			}
		case "mediaType":
			v, err := dec.ReadValue()
			if err != nil {
				return syntax(err)
			}
			if string(v) != `"`+ocispec.MediaTypeImageIndex+`"` {
				return fmt.Errorf("mediaType is %s", quote(string(v)))
			}
		default:
			if err := checkVariant(member, "manifests", "schemaVersion", "mediaType", "layers"); err != nil {
				return err
			}
			if member == "layers" {
				return errors.New(`it has "layers"`)
			}
			if err := dec.SkipValue(); err != nil {
				return syntax(err)
			}
		}
	}
	if err := expect(dec, '}'); err != nil {
		return err
	}
	if !found {
		return errors.New(`it has no "manifests"`)
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return errors.New("something follows it")
	}
	return nil
}

func (x *index) parseManifests(dec *jsontext.Decoder) error {
	if dec.PeekKind() == 'n' {
		if err := dec.SkipValue(); err != nil {
			return syntax(err)
		}
		x.end = int(dec.InputOffset())
		x.start = x.end - len("null")
		return nil
	}
	if err := expect(dec, '['); err != nil {
		return err
	}
	x.start = int(dec.InputOffset()) - len("[")
	for dec.PeekKind() != ']' {
		v, err := dec.ReadValue()
		if err != nil {
			return syntax(err)
		}
		if len(x.entries) == x.limit {
			return errManyEntries
		}
		end := int(dec.InputOffset())
		x.entries = append(x.entries, x.data[end-len(v):end:end])
	}
	if err := expect(dec, ']'); err != nil {
		return err
	}
	x.end = int(dec.InputOffset())
	return nil
}

// with returns the document with entries appended, and every other byte kept.
func (x *index) with(entries []jsontext.Value) []byte {
	var b bytes.Buffer
	if len(x.entries) == 0 {
		b.Write(x.data[:x.start])
		b.WriteByte('[')
	} else {
		b.Write(x.data[:x.end-len("]")])
	}
	for i, e := range entries {
		if i > 0 || len(x.entries) > 0 {
			b.WriteByte(',')
		}
		b.Write(e)
	}
	b.WriteByte(']')
	b.Write(x.data[x.end:])
	return b.Bytes()
}

// without returns the document without the entries that are unwanted, and with
// others appended. All bytes outside of the list are kept, and so is each entry.
func (x *index) without(unwanted func(Referrer) bool, others []jsontext.Value) []byte {
	kept := slices.DeleteFunc(slices.Clone(x.entries), func(raw jsontext.Value) bool { return unwanted(newReferrer(raw, "")) })
	var b bytes.Buffer
	b.Write(x.data[:x.start])
	b.WriteByte('[')
	for i, e := range append(kept, others...) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(e)
	}
	b.WriteByte(']')
	b.Write(x.data[x.end:])
	return b.Bytes()
}

// unmarshal parses one strict JSON value: no duplicate names, valid UTF-8,
// names in the right case, nothing behind it.
func unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// checkJSON refuses a document that two parsers could read differently:
// duplicate names, names that differ from one of fields only in case, nesting
// beyond maxDepth, trailing data. The members of an object called
// "annotations" are the user's: only exact duplicates are refused there.
func checkJSON(data []byte, fields ...string) error {
	dec := jsontext.NewDecoder(bytes.NewReader(data))
	for {
		tok, err := dec.ReadToken()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return syntax(err)
		}
		depth := dec.StackDepth()
		if depth > maxDepth {
			return fmt.Errorf("nested deeper than %d levels", maxDepth)
		}
		if depth == 0 {
			// The value has ended, and only white space may follow.
			if _, err := dec.ReadToken(); err != io.EOF {
				return errors.New("trailing data")
			}
			return nil
		}
		// In an object every odd string is a name.
		if kind, n := dec.StackIndex(depth); kind != '{' || n%2 != 1 || tok.Kind() != '"' {
			continue
		}
		if strings.HasSuffix(string(dec.StackPointer().Parent()), "/annotations") {
			continue
		}
		if err := checkVariant(tok.String(), fields...); err != nil {
			return err
		}
	}
}

// checkVariant refuses a name that a parser which ignores case would take for
// one of fields.
func checkVariant(name string, fields ...string) error {
	for _, f := range fields {
		if name != f && strings.EqualFold(name, f) {
			return fmt.Errorf("member %s may be taken for %q", quote(name), f)
		}
	}
	return nil
}

func expect(dec *jsontext.Decoder, kind jsontext.Kind) error {
	tok, err := dec.ReadToken()
	if err != nil {
		return syntax(err)
	}
	if tok.Kind() != kind {
		return fmt.Errorf("it has %s where %q is expected", tok.Kind(), string(kind))
	}
	return nil
}

// syntax makes an error of the parser, which quotes the document, safe to print.
func syntax(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return &clientError{escape(err.Error()), err}
}
