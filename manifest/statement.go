package manifest

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	// StatementType is the _type of an in-toto Statement v1.
	StatementType = "https://in-toto.io/Statement/v1"

	// PredicateType is the predicate type of what [Manifest.Statement]
	// returns (OMS §5.1).
	PredicateType = "https://model_signing/signature/v1.0"

	// predicatePrefix is followed by the minor version. Any is read:
	// minor versions add, and the fields are checked.
	predicatePrefix = "https://model_signing/signature/v1."
)

// A Statement is an in-toto Statement v1.
type Statement struct {
	Subject       []Subject
	PredicateType string

	// Predicate is a JSON object, not parsed; nil if there is none.
	Predicate json.RawMessage
}

// A Subject is an in-toto ResourceDescriptor: the fields we use.
type Subject struct {
	Name string // may be empty, but not in OMS

	// Digest is from algorithm to lower-case hex. It is never empty.
	Digest map[string]string

	// Annotations are the signer's own; nil if there are none.
	Annotations map[string]json.RawMessage
}

// IsOMS reports whether predicateType is https://model_signing/signature/v1.N,
// N a decimal number without leading zeros: a model signature of any minor
// version.
func IsOMS(predicateType string) bool {
	minor, ok := strings.CutPrefix(predicateType, predicatePrefix)
	if !ok || minor == "" || len(minor) > 1 && minor[0] == '0' {
		return false
	}
	return strings.Trim(minor, "0123456789") == ""
}

// Statement returns the statement that signs m (OMS §6.6): one subject with
// the name given, its digest the root. annotations are copied into the
// subject; nil for none. Anything that [Statement.Manifest] would refuse is an
// error here.
func (m *Manifest) Statement(name string, annotations map[string]json.RawMessage) (*Statement, error) {
	if name == "" {
		return nil, errors.New("the subject has no name (OMS §6.5)")
	}
	if _, err := m.check(); err != nil {
		return nil, err
	}
	predicate, err := m.appendPredicate(nil)
	if err != nil {
		return nil, err
	}
	root := m.Root()
	return &Statement{
		Subject: []Subject{{
			Name:        name,
			Digest:      map[string]string{SHA256: hex.EncodeToString(root[:])},
			Annotations: maps.Clone(annotations),
		}},
		PredicateType: PredicateType,
		Predicate:     predicate,
	}, nil
}

// appendPredicate writes the OMS predicate in the order of the schema.
func (m *Manifest) appendPredicate(b []byte) ([]byte, error) {
	// Punctuation and field names of a resource are 39 bytes: room for all
	// spares copying a growing buffer.
	size := 256
	for i := range m.Resources {
		r := &m.Resources[i]
		size += 39 + len(r.Name) + 2*len(r.Digest) + len(r.Algorithm)
	}
	w := &writer{buf: slices.Grow(b, size)}
	w.raw(`{"resources":[`)
	for i := range m.Resources {
		r := &m.Resources[i]
		w.comma(i)
		w.raw(`{"name":`)
		w.str(r.Name)
		w.raw(`,"digest":"`)
		w.buf = hex.AppendEncode(w.buf, r.Digest)
		w.raw(`","algorithm":`)
		w.str(r.Algorithm)
		w.raw(`}`)
	}
	s := m.Serialization
	w.raw(`],"serialization":{"method":`)
	w.str(s.Method)
	w.raw(`,"hash_type":`)
	w.str(s.HashType)
	if s.Method == MethodShards {
		w.raw(`,"shard_size":` + strconv.FormatInt(s.ShardSize, 10))
	}
	w.raw(`,"allow_symlinks":` + strconv.FormatBool(s.AllowSymlinks))
	if s.IgnorePaths != nil {
		w.raw(`,"ignore_paths":[`)
		for i, p := range s.IgnorePaths {
			w.comma(i)
			w.str(p)
		}
		w.raw(`]`)
	}
	w.raw(`}}`)
	return w.buf, w.err
}

// Marshal returns the JSON of s, deterministic: the same statement gives the
// same bytes. Raw values are compacted, and otherwise kept as they are. What
// it returns, [ParseStatement] accepts; a statement for which that cannot be
// is an error.
func (s *Statement) Marshal() ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("marshal statement: %w", err)
	}
	w := &writer{buf: make([]byte, 0, 1024+len(s.Predicate))}
	w.raw(`{"_type":`)
	w.str(StatementType)
	w.raw(`,"subject":[`)
	for i, sub := range s.Subject {
		w.comma(i)
		w.raw(`{`)
		if sub.Name != "" {
			w.raw(`"name":`)
			w.str(sub.Name)
			w.raw(`,`)
		}
		w.raw(`"digest":{`)
		for i, algorithm := range slices.Sorted(maps.Keys(sub.Digest)) {
			w.comma(i)
			w.str(algorithm)
			w.raw(`:`)
			w.str(sub.Digest[algorithm])
		}
		w.raw(`}`)
		if len(sub.Annotations) > 0 {
			w.raw(`,"annotations":{`)
			for i, key := range slices.Sorted(maps.Keys(sub.Annotations)) {
				w.comma(i)
				w.str(key)
				w.raw(`:`)
				// In statement, subjects, subject, annotations.
				w.value("annotation "+quote(key), sub.Annotations[key], MaxDepth-4)
			}
			w.raw(`}`)
		}
		w.raw(`}`)
	}
	w.raw(`],"predicateType":`)
	w.str(s.PredicateType)
	if s.Predicate != nil {
		w.raw(`,"predicate":`)
		w.value("predicate", s.Predicate, MaxDepth-1)
	}
	w.raw(`}`)
	if w.err != nil {
		return nil, fmt.Errorf("marshal statement: %w", w.err)
	}
	return w.buf, nil
}

// A writer appends JSON and keeps the first error.
type writer struct {
	buf []byte
	err error
}

func (w *writer) raw(s string) { w.buf = append(w.buf, s...) }

func (w *writer) comma(i int) {
	if i > 0 {
		w.buf = append(w.buf, ',')
	}
}

func (w *writer) str(s string) {
	out, err := jsontext.AppendQuote(w.buf, s)
	if err != nil {
		if w.err == nil {
			w.err = fmt.Errorf("%s is not valid UTF-8", quote(s))
		}
		return
	}
	w.buf = out
}

// value appends raw JSON that nests no deeper than depth, without the white
// space between its tokens.
func (w *writer) value(what string, raw json.RawMessage, depth int) {
	p := newParser(raw)
	p.depth = depth
	_, err := p.value()
	if err == nil {
		err = p.end()
	}
	if err != nil {
		if w.err == nil {
			w.err = fmt.Errorf("%s: %w", what, err)
		}
		return
	}
	inString := false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case inString && c == '\\':
			w.buf = append(w.buf, c, raw[i+1])
			i++
			continue
		case c == '"':
			inString = !inString
		case !inString && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			continue
		}
		w.buf = append(w.buf, raw[i])
	}
}

// ErrStatementType is wrapped by the error of [ParseStatement] about JSON that
// is a statement of another type, or of another version of in-toto.
var ErrStatementType = errors.New("another type of statement")

// ParseStatement parses the bytes of an in-toto Statement v1. They must have
// been authenticated before. It accepts only what has one reading: JSON as
// [CheckJSON] wants it, the exact _type, no fields but those of in-toto, at
// least one subject, digests in lower-case hex with 64 digits for sha256. The
// predicate is an object or absent, and is not looked into.
//
// Raw values in the result are parts of payload, which must not change
// afterwards.
func ParseStatement(payload []byte) (*Statement, error) {
	s, err := parseStatement(payload)
	if err != nil {
		return nil, fmt.Errorf("parse statement: %w", err)
	}
	return s, nil
}

func parseStatement(payload []byte) (*Statement, error) {
	s := new(Statement)
	var typ string
	p := newParser(payload)
	err := p.object("statement", func(name string) (err error) {
		switch name {
		case "_type":
			typ, err = p.str("_type")
		case "subject":
			err = p.array("subject", func() error {
				if len(s.Subject) == MaxResources {
					return fmt.Errorf("more than %d subjects", MaxResources)
				}
				sub, err := p.subject()
				if err != nil {
					return fmt.Errorf("subject %d: %w", len(s.Subject), err)
				}
				s.Subject = append(s.Subject, sub)
				return nil
			})
		case "predicateType":
			s.PredicateType, err = p.str("predicateType")
		case "predicate":
			s.Predicate, err = p.value()
		default:
			return fmt.Errorf("unknown field %s (OMS §5)", quote(name))
		}
		return err
	})
	if err == nil {
		err = p.end()
	}
	if err != nil {
		return nil, err
	}
	if typ != StatementType {
		return nil, fmt.Errorf("%w: _type is %s, not %q; predicate type %s", ErrStatementType, quote(typ), StatementType, quote(s.PredicateType))
	}
	return s, s.check()
}

// subject reads an in-toto ResourceDescriptor.
func (p *parser) subject() (sub Subject, err error) {
	err = p.object("subject", func(name string) (err error) {
		switch name {
		case "name":
			sub.Name, err = p.str("name")
		case "digest":
			sub.Digest = make(map[string]string)
			err = p.object("digest", func(algorithm string) (err error) {
				sub.Digest[algorithm], err = p.str("digest " + quote(algorithm))
				return err
			})
		case annotationsName:
			sub.Annotations = make(map[string]json.RawMessage)
			err = p.object("annotations", func(key string) (err error) {
				sub.Annotations[key], err = p.value()
				return err
			})
		case "uri", "content", "downloadLocation", "mediaType":
			_, err = p.str(name)
		default:
			return fmt.Errorf("unknown field %s", quote(name))
		}
		return err
	})
	return sub, err
}

// check applies what holds for every statement, read or written.
func (s *Statement) check() error {
	if len(s.Subject) == 0 {
		return errors.New("no subject")
	}
	if s.PredicateType == "" {
		return errors.New("no predicateType")
	}
	if s.Predicate != nil && !bytes.HasPrefix(bytes.TrimLeft(s.Predicate, " \t\r\n"), []byte("{")) {
		return errors.New("predicate is not an object")
	}
	for i, sub := range s.Subject {
		if len(sub.Digest) == 0 {
			return fmt.Errorf("subject %d: no digest", i)
		}
		for algorithm, value := range sub.Digest {
			// Another spelling of sha256 beside it would be a second reading.
			if algorithm != SHA256 && foldCase(algorithm) == SHA256 {
				return fmt.Errorf("subject %d: digest %s is spelled %q", i, quote(algorithm), SHA256)
			}
			if !isLowerHex(value) || algorithm == SHA256 && len(value) != 64 {
				return fmt.Errorf("subject %d: digest %s is %s: not lower-case hex of its length", i, quote(algorithm), quote(value))
			}
		}
	}
	return nil
}

func isLowerHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

// Manifest parses the predicate of an OMS statement and checks it: a predicate
// type that [IsOMS], exactly one subject, which has a name and whose sha256 is
// the root recomputed in listed order; the fields of the OMS schema, no others
// but in resources; digests of the length that their hash has; names that
// [CheckName] accepts, each once, none a file and a folder at once; shards
// that cover their files (see [GroupByFile]). A single file may be named "."
// (see [Resource]).
//
// Under shards, algorithms that other writers write as "sha256-sharded-N", N
// the shard size, are read as "sha256".
//
// Names that a caller may allow by name are not refused here: see
// [CheckNames]. Errors are a [*ThreatError] for names.
func (s *Statement) Manifest() (*Manifest, error) {
	m, err := s.manifest()
	if err != nil {
		return nil, fmt.Errorf("parse OMS statement: %w", err)
	}
	return m, nil
}

func (s *Statement) manifest() (*Manifest, error) {
	if !IsOMS(s.PredicateType) {
		return nil, fmt.Errorf("predicateType %s is not %sN (OMS §5.1)", quote(s.PredicateType), predicatePrefix)
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	if n := len(s.Subject); n != 1 {
		return nil, fmt.Errorf("%d subjects, not one (OMS §6.5)", n)
	}
	if s.Subject[0].Name == "" {
		return nil, errors.New("the subject has no name (OMS §6.5)")
	}
	signed, ok := s.Subject[0].Digest[SHA256]
	if !ok {
		return nil, errors.New("the subject has no sha256 digest (OMS §6.5)")
	}
	if s.Predicate == nil {
		return nil, errors.New("no predicate (OMS §5.2)")
	}
	m, err := parsePredicate(s.Predicate)
	if err != nil {
		return nil, err
	}
	m.plainAlgorithms()
	if _, err := m.check(); err != nil {
		return nil, err
	}
	if root := m.Root(); hex.EncodeToString(root[:]) != signed {
		return nil, fmt.Errorf("the root digest of the resources is sha256:%x, but sha256:%s is signed (OMS §6.5)", root, signed)
	}
	return m, nil
}

// parsePredicate reads the OMS predicate by its schema (OMS §5.2). What
// depends on more than one field is left to Manifest.check.
func parsePredicate(data []byte) (*Manifest, error) {
	m := new(Manifest)
	var resources, serialization bool
	p := newParser(data)
	rp := resourceParser{parser: p, fields: newFieldSet([]string{"name", "digest", "algorithm"})}
	err := p.object("predicate", func(name string) error {
		switch name {
		case "resources":
			resources = true
			return p.array("resources", func() error {
				if len(m.Resources) == MaxResources {
					return fmt.Errorf("more than %d resources", MaxResources)
				}
				r, err := rp.resource()
				if err != nil {
					return fmt.Errorf("resource %d: %w", len(m.Resources), err)
				}
				m.Resources = append(m.Resources, r)
				return nil
			})
		case "serialization":
			serialization = true
			return p.serialization(&m.Serialization)
		}
		return fmt.Errorf("unknown field %s in predicate (OMS §5.2)", quote(name))
	})
	if err == nil {
		err = p.end()
	}
	switch {
	case err != nil:
		return nil, err
	case !resources:
		return nil, errors.New("predicate without resources (OMS §5.2)")
	case !serialization:
		return nil, errors.New("predicate without serialization (OMS §5.2)")
	}
	return m, nil
}

// A resourceParser reads up to a million resources: it keeps what they share.
type resourceParser struct {
	*parser
	fields    fieldSet
	algorithm string // of the resource before
	digests   []byte // room for digests, handed out piece by piece
}

// digestRoom is how many bytes of digests are allocated at once: a malloc for
// each would take longer than the parsing.
const digestRoom = 16 << 10

func (p *resourceParser) resource() (r Resource, err error) {
	var name, digest, algorithm bool
	err = p.object("resource", func(field string) (err error) {
		switch field {
		case "name":
			name = true
			r.Name, err = p.str("name")
		case "digest":
			digest = true
			r.Digest, err = p.digest()
		case "algorithm":
			algorithm = true
			if r.Algorithm, err = p.str("algorithm"); r.Algorithm == p.algorithm {
				r.Algorithm = p.algorithm // one string for all
			}
			p.algorithm = r.Algorithm
		default:
			if err := p.fields.check(field); err != nil {
				return err
			}
			_, err = p.value() // to be ignored (OMS §5.2.1)
		}
		return err
	})
	if err != nil {
		return Resource{}, err
	}
	if !name || !digest || !algorithm {
		return Resource{}, errors.New("name, digest or algorithm is missing (OMS §5.2.1)")
	}
	return r, nil
}

func (p *resourceParser) digest() ([]byte, error) {
	tok, err := p.expect("digest", '"', "a string")
	if err != nil {
		return nil, err
	}
	text := tok.String()
	if !isLowerHex(text) || len(text)%2 != 0 {
		return nil, fmt.Errorf("digest %s is not lower-case hex (OMS §5.2.1)", quote(text))
	}
	if n := len(text) / 2; cap(p.digests)-len(p.digests) < n {
		p.digests = make([]byte, 0, max(digestRoom, n))
	}
	start := len(p.digests)
	p.digests, err = hex.AppendDecode(p.digests, []byte(text))
	return p.digests[start:len(p.digests):len(p.digests)], err
}

// serialization reads OMS §5.2.2 into s.
func (p *parser) serialization(s *Serialization) error {
	var method, hashType, allowSymlinks bool
	err := p.object("serialization", func(name string) (err error) {
		switch name {
		case "method":
			method = true
			s.Method, err = p.str(name)
		case "hash_type":
			hashType = true
			s.HashType, err = p.str(name)
		case "shard_size":
			s.ShardSize, err = p.shardSize()
		case "allow_symlinks":
			allowSymlinks = true
			var tok jsontext.Token
			if tok, err = p.dec.ReadToken(); err != nil {
				return syntaxError(err)
			}
			if k := tok.Kind(); k != 't' && k != 'f' {
				return errors.New("allow_symlinks is not true or false (OMS §5.2.2)")
			}
			s.AllowSymlinks = tok.Bool()
		case "ignore_paths":
			s.IgnorePaths = []string{}
			err = p.array(name, func() error {
				if len(s.IgnorePaths) == MaxIgnorePaths {
					return fmt.Errorf("more than %d ignore paths", MaxIgnorePaths)
				}
				entry, err := p.str("ignore path")
				s.IgnorePaths = append(s.IgnorePaths, entry)
				return err
			})
		default:
			return fmt.Errorf("unknown field %s in serialization (OMS §5.2.2)", quote(name))
		}
		return err
	})
	if err == nil && (!method || !hashType || !allowSymlinks) {
		return errors.New("serialization without method, hash_type or allow_symlinks (OMS §5.2.2)")
	}
	return err
}

const (
	// maxNumber is how many bytes a number may have: 2^53 with as many digits
	// behind the point has 33.
	maxNumber = 40

	// exactNumber is how many bits tell apart all numbers of that length that
	// are near 2^53 or smaller.
	exactNumber = 256
)

// shardSize reads a positive integer. Writers that keep numbers as floating
// point put 8.0 or 1e9.
func (p *parser) shardSize() (int64, error) {
	tok, err := p.expect("shard_size", '0', "a number")
	if err != nil {
		return 0, err
	}
	text := tok.String()
	refuse := fmt.Errorf("shard_size %s is not a positive integer of at most 2^53 (OMS §5.2.2)", quote(text))
	if len(text) > maxNumber {
		return 0, refuse
	}
	// A number that is only rounded to an integer would be another one to others.
	f, _, err := big.ParseFloat(text, 10, exactNumber, big.ToNearestEven)
	if err != nil || !f.IsInt() || f.Sign() <= 0 || f.Cmp(big.NewFloat(maxShardSize)) > 0 {
		return 0, refuse
	}
	n, _ := f.Int64()
	return n, nil
}
