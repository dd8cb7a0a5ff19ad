package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxDepth is how deep JSON may nest. Statements need seven levels, OCI
// manifests four; parsers that recurse must not be driven further.
const MaxDepth = 64

// annotationsName is the object member below which names are the user's.
const annotationsName = "annotations"

// CheckJSON refuses JSON that two parsers could read differently, or that
// could exhaust one: anything but a single value of strict JSON (RFC 8259) in
// UTF-8, strings with half a surrogate pair, a name twice in one object,
// nesting deeper than [MaxDepth], more than [MaxMembers] values in one array or
// names in one object, and names that differ from one of fields
// only in letter case, because some parsers match them all the same. Names
// within the value of a member "annotations" are the user's and are not held
// against fields.
//
// It says nothing about the shape: data may be any value, and may have names
// that are not in fields.
func CheckJSON(data []byte, fields ...string) error {
	p := newParser(data)
	known := newFieldSet(fields)
	var (
		user   int    // depth of the annotations value we are in; 0: none
		member string // the name just read; "" after a value
	)
	for {
		tok, err := p.dec.ReadToken()
		if err != nil {
			return syntaxError(err)
		}
		depth := p.dec.StackDepth()
		if depth > p.depth {
			return errTooDeep
		}
		if depth == 0 {
			return p.end()
		}
		kind, length := p.dec.StackIndex(depth)
		if length > 2*MaxMembers || kind == '[' && length > MaxMembers {
			return errTooMany
		}
		if depth < user {
			user = 0
		}
		if user > 0 {
			continue
		}
		// Names are the odd tokens of an object.
		if tok.Kind() == '"' && kind == '{' && length%2 == 1 {
			member = tok.String()
			if err := known.check(member); err != nil {
				return err
			}
			continue
		}
		if (tok.Kind() == '{' || tok.Kind() == '[') && member == annotationsName {
			user = depth
		}
		member = ""
	}
}

// A fieldSet finds names that are a field but for letter case.
type fieldSet map[string]string // folded → as written

func newFieldSet(fields []string) fieldSet {
	set := make(fieldSet, len(fields))
	for _, f := range fields {
		set[foldCase(f)] = f
	}
	return set
}

func (s fieldSet) check(name string) error {
	if want, ok := s[foldCase(name)]; ok && name != want {
		return fmt.Errorf("field %s is spelled %q", quote(name), want)
	}
	return nil
}

// MaxMembers bounds one array and one object in [CheckJSON]: what is two bytes
// of JSON is a hundred in memory. 4 MiB of manifest hold 35,000 honest layers.
const MaxMembers = 100_000

var errTooMany = fmt.Errorf("JSON with more than %d values in one array or object", MaxMembers)

var errTooDeep = fmt.Errorf("JSON nests deeper than %d levels", MaxDepth)

// maxSyntax is how many bytes of the tokenizer's message are kept: it may
// quote a name of any length.
const maxSyntax = 512

// syntaxError turns what the tokenizer says into what we say.
func syntaxError(err error) error {
	if err == io.EOF {
		return errors.New("no JSON value")
	}
	if msg := err.Error(); len(msg) > maxSyntax {
		return fmt.Errorf("malformed JSON: %.*s…", maxSyntax, msg)
	}
	return fmt.Errorf("malformed JSON: %w", err)
}

// A parser reads JSON strictly, in one pass and without a tree. The tokenizer
// refuses duplicate names, invalid UTF-8 and half surrogate pairs; see
// CheckJSON.
type parser struct {
	data  []byte
	dec   *jsontext.Decoder
	depth int // how deep it may nest
}

func newParser(data []byte) *parser {
	// From a bytes.Buffer the decoder reads in place, without a copy and
	// without writing into data.
	return &parser{data, jsontext.NewDecoder(bytes.NewBuffer(data)), MaxDepth}
}

// object reads an object and calls member for each name; member must read the
// value.
func (p *parser) object(what string, member func(name string) error) error {
	if err := p.begin(what, '{', "an object"); err != nil {
		return err
	}
	for p.dec.PeekKind() != '}' {
		tok, err := p.dec.ReadToken()
		if err != nil {
			return syntaxError(err)
		}
		if err := member(tok.String()); err != nil {
			return err
		}
	}
	return p.close()
}

// array reads an array and calls element for each element, which must read it.
func (p *parser) array(what string, element func() error) error {
	if err := p.begin(what, '[', "an array"); err != nil {
		return err
	}
	for p.dec.PeekKind() != ']' {
		if err := element(); err != nil {
			return err
		}
	}
	return p.close()
}

func (p *parser) begin(what string, kind jsontext.Kind, article string) error {
	if _, err := p.expect(what, kind, article); err != nil {
		return err
	}
	if p.dec.StackDepth() > p.depth {
		return errTooDeep
	}
	return nil
}

func (p *parser) close() error {
	if _, err := p.dec.ReadToken(); err != nil {
		return syntaxError(err)
	}
	return nil
}

// expect reads one token of the kind given.
func (p *parser) expect(what string, kind jsontext.Kind, article string) (jsontext.Token, error) {
	tok, err := p.dec.ReadToken()
	if err != nil {
		return tok, syntaxError(err)
	}
	if tok.Kind() != kind {
		return tok, fmt.Errorf("%s is not %s", what, article)
	}
	return tok, nil
}

func (p *parser) str(what string) (string, error) {
	tok, err := p.expect(what, '"', "a string")
	if err != nil {
		return "", err
	}
	return tok.String(), nil
}

// value reads any value and returns its bytes, which are part of p.data.
func (p *parser) value() ([]byte, error) {
	if kind := p.dec.PeekKind(); kind != '{' && kind != '[' {
		v, err := p.dec.ReadValue()
		if err != nil {
			return nil, syntaxError(err)
		}
		return v, nil
	}
	// Token by token, so that depth is known before it is reached.
	outer := p.dec.StackDepth()
	var start int64
	for {
		if _, err := p.dec.ReadToken(); err != nil {
			return nil, syntaxError(err)
		}
		end := p.dec.InputOffset()
		switch depth := p.dec.StackDepth(); {
		case depth > p.depth:
			return nil, errTooDeep
		case depth == outer:
			return p.data[start:end:end], nil
		case start == 0:
			start = end - 1 // the opening brace or bracket
		}
	}
}

// end refuses anything but white space after the value.
func (p *parser) end() error {
	_, err := p.dec.ReadToken()
	if err == io.EOF {
		return nil
	}
	if err == nil {
		return errors.New("malformed JSON: more than one value")
	}
	return syntaxError(err)
}
