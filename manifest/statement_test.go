package manifest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/modelsig/modelsig/manifest"
)

// expect checks that err is nil for want "", and has want in its text
// otherwise.
func expect(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && err == nil:
		t.Errorf("accepted, want an error with %q", want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("error %q, want one with %q", err, want)
	}
}

// strictJSON is a second opinion, from the standard library: what it refuses,
// we must refuse.
func strictJSON(data []byte) bool {
	return utf8.Valid(data) && json.Valid(data)
}

func sum(content string) []byte {
	h := sha256.Sum256([]byte(content))
	return h[:]
}

func resource(name, content string) manifest.Resource {
	return manifest.Resource{Name: name, Digest: sum(content), Algorithm: manifest.SHA256}
}

// small is a manifest with something of everything that we write.
func small(t testing.TB) *manifest.Manifest {
	t.Helper()
	m, err := manifest.New([]manifest.Resource{
		resource("b/ä\"\u2028.bin", "2"),
		resource("config.json", "{}"),
		resource("b.bin", "3"),
		resource("a", "1"),
	}, manifest.Serialization{IgnorePaths: append(manifest.GitPaths(), "logs/x", ".git")})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func annotations() map[string]json.RawMessage {
	return map[string]json.RawMessage{
		"z":               json.RawMessage(` "text" `),
		"modelsig.oci.v1": json.RawMessage(`{ "b" : [ 1, 2.50 ], "a": "x \" y\\", "Name": null }`),
	}
}

func marshal(t testing.TB, s *manifest.Statement) []byte {
	t.Helper()
	payload, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// payloads returns the statements of the OMS cases, and one of our own.
func payloads(t testing.TB) [][]byte {
	t.Helper()
	s, err := small(t).Statement("tiny", annotations())
	if err != nil {
		t.Fatal(err)
	}
	all := [][]byte{marshal(t, s)}
	for _, payload := range casePayloads(t) {
		all = append(all, payload)
	}
	return all
}

func TestIsOMS(t *testing.T) {
	for predicateType, want := range map[string]bool{
		manifest.PredicateType:                      true,
		"https://model_signing/signature/v1.1":      true,
		"https://model_signing/signature/v1.10":     true,
		"https://model_signing/signature/v1.":       false,
		"https://model_signing/signature/v1":        false,
		"https://model_signing/signature/v1.0.0":    false,
		"https://model_signing/signature/v1.00":     false,
		"https://model_signing/signature/v1.-1":     false,
		"https://model_signing/signature/v1.0 ":     false,
		"https://model_signing/signature/v1.\u0660": false,
		"https://model_signing/signature/v2.0":      false,
		"https://model_signing/signature/v10":       false,
		"HTTPS://model_signing/signature/v1.0":      false,
		"x https://model_signing/signature/v1.0":    false,
		"https://model_signing/Digests/v0.1":        false,
		"https://sigstore.dev/cosign/sign/v1":       false,
		"":                                          false,
	} {
		if got := manifest.IsOMS(predicateType); got != want {
			t.Errorf("IsOMS(%q) = %v", predicateType, got)
		}
	}
}

func TestMarshalIsDeterministicAndParses(t *testing.T) {
	m := small(t)
	s, err := m.Statement("tiny", annotations())
	if err != nil {
		t.Fatal(err)
	}
	payload := marshal(t, s)
	const start = `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"tiny","digest":{"sha256":"`
	const middle = `"},"annotations":{"modelsig.oci.v1":{"b":[1,2.50],"a":"x \" y\\","Name":null},"z":"text"}}],` +
		`"predicateType":"https://model_signing/signature/v1.0","predicate":{"resources":[{"name":"a","digest":"`
	const end = `],"serialization":{"method":"files","hash_type":"sha256","allow_symlinks":false,` +
		`"ignore_paths":[".git",".gitignore",".gitattributes",".github","logs/x"]}}}`
	text := string(payload)
	if !strings.HasPrefix(text, start) || !strings.Contains(text, middle) || !strings.HasSuffix(text, end) {
		t.Errorf("statement is %s", text)
	}
	for range 5 {
		again, err := small(t).Statement("tiny", annotations())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(marshal(t, again), payload) {
			t.Fatal("the same statement gave other bytes")
		}
	}

	parsed, err := manifest.ParseStatement(payload)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(marshal(t, parsed), payload) {
		t.Error("parsing and marshalling changes the bytes")
	}
	got, err := parsed.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, m) {
		t.Errorf("manifest is %+v, want %+v", got, m)
	}
	if parsed.Subject[0].Name != "tiny" || string(parsed.Subject[0].Annotations["z"]) != `"text"` {
		t.Errorf("subject is %+v", parsed.Subject[0])
	}
}

// The four names of interest in "absent" and "empty" lists are not the same
// JSON: others read an empty list as "nothing is ignored".
func TestIgnorePathsAbsentAndEmpty(t *testing.T) {
	for _, tt := range []struct {
		paths []string
		want  bool
	}{{nil, false}, {[]string{}, true}} {
		m, err := manifest.New([]manifest.Resource{resource("a", "1")}, manifest.Serialization{IgnorePaths: tt.paths})
		if err != nil {
			t.Fatal(err)
		}
		s, err := m.Statement("x", nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(s.Predicate, []byte("ignore_paths")); got != tt.want {
			t.Errorf("%#v: ignore_paths written: %v", tt.paths, got)
		}
		back, err := s.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(back.Serialization, m.Serialization) {
			t.Errorf("%#v: back as %#v", tt.paths, back.Serialization.IgnorePaths)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	one := []manifest.Resource{resource("a", "1")}
	for _, tt := range []struct {
		name      string
		resources []manifest.Resource
		ignore    []string
		want      string
	}{
		{"no files", nil, nil, "without files"},
		{"a bad name", []manifest.Resource{resource("../a", "1")}, nil, `".." segment`},
		{"the legacy name of a single file", []manifest.Resource{resource(".", "1")}, nil, `name is "."`},
		{"one name twice (N01)", append(one, resource("a", "2")), nil, "two files"},
		{"a file and a folder (N13)", append(one, resource("a.b", "2"), resource("a/b", "2")), nil, "and a folder"},
		{"a short digest", []manifest.Resource{{Name: "a", Digest: make([]byte, 31), Algorithm: "sha256"}}, nil, "31 bytes"},
		{"no digest", []manifest.Resource{{Name: "a", Algorithm: "sha256"}}, nil, "0 bytes"},
		{"sha512 (rule 31)", []manifest.Resource{{Name: "a", Digest: make([]byte, 64), Algorithm: "sha512"}}, nil, "algorithm"},
		{"no algorithm", []manifest.Resource{{Name: "a", Digest: make([]byte, 32)}}, nil, "algorithm"},
		{"ignoring the whole model (rule 29)", one, []string{"."}, "§6.2.1"},
		{"an absolute ignore path (rule 29)", one, []string{"/a"}, "§6.2.1"},
		{"an ignore path that leaves the model (rule 29)", one, []string{"../a"}, "§6.2.1"},
		{"an ignore path that is not UTF-8", one, []string{"a\xff"}, "§6.2.1"},
		{"an empty ignore path", one, []string{""}, "§6.2.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := manifest.New(tt.resources, manifest.Serialization{IgnorePaths: tt.ignore})
			expect(t, err, tt.want)
		})
	}
}

func TestNewLeavesItsArgumentsAlone(t *testing.T) {
	resources := []manifest.Resource{resource("b", "2"), resource("a", "1")}
	m, err := manifest.New(resources, manifest.Serialization{})
	if err != nil {
		t.Fatal(err)
	}
	if resources[0].Name != "b" || m.Resources[0].Name != "a" {
		t.Error("sorted in place")
	}
}

func TestStatementRefuses(t *testing.T) {
	for _, tt := range []struct {
		name        string
		subject     string
		annotations map[string]json.RawMessage
		change      func(*manifest.Manifest)
		want        string
	}{
		{"no name", "", nil, nil, "no name"},
		{"a name that is not UTF-8", "a\xff", nil, nil, "UTF-8"},
		{"an annotation that is not JSON", "x", map[string]json.RawMessage{"a": json.RawMessage(`x`)}, nil, "malformed"},
		{"an empty annotation", "x", map[string]json.RawMessage{"a": nil}, nil, "no JSON value"},
		{"an annotation with a second value", "x", map[string]json.RawMessage{"a": json.RawMessage(`1 2`)}, nil, "more than one"},
		{"an annotation that breaks out", "x", map[string]json.RawMessage{"a": json.RawMessage(`1,"b":2`)}, nil, "malformed"},
		{"an annotation with duplicate names", "x", map[string]json.RawMessage{"a": json.RawMessage(`{"a":1,"a":2}`)}, nil, "duplicate"},
		{"an annotation that is not UTF-8", "x", map[string]json.RawMessage{"a": json.RawMessage("\"\xff\"")}, nil, "malformed"},
		{"an annotation name that is not UTF-8", "x", map[string]json.RawMessage{"\xff": json.RawMessage(`1`)}, nil, "UTF-8"},
		{"an annotation that is too deep", "x", map[string]json.RawMessage{"a": json.RawMessage(strings.Repeat("[", 61) + strings.Repeat("]", 61))}, nil, "deeper"},
		{"an annotation as deep as can be", "x", map[string]json.RawMessage{"a": json.RawMessage(strings.Repeat("[", 60) + strings.Repeat("]", 60))}, nil, ""},
		{"a manifest changed behind our back", "x", nil, func(m *manifest.Manifest) { m.Resources[0].Name = "../x" }, `".." segment`},
		{"an emptied manifest", "x", nil, func(m *manifest.Manifest) { m.Resources = nil }, "without files"},
		{"shards without a size", "x", nil, func(m *manifest.Manifest) { m.Serialization.Method = manifest.MethodShards }, "shard_size"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := small(t)
			if tt.change != nil {
				tt.change(m)
			}
			s, err := m.Statement(tt.subject, tt.annotations)
			var payload []byte
			if err == nil {
				payload, err = s.Marshal()
			}
			expect(t, err, tt.want)
			if err == nil {
				if _, err := manifest.ParseStatement(payload); err != nil {
					t.Errorf("not read back: %v", err)
				}
			}
		})
	}
}

// artifactStatement is what cosign signs for an image: a subject without a
// name, an empty predicate.
const artifactStatement = `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` +
	`2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824` +
	`"},"annotations":{"modelsig.tag":"v1"}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`

func TestParseStatement(t *testing.T) {
	edit := func(old, new string) string {
		if !strings.Contains(artifactStatement, old) {
			t.Fatalf("no %q to replace", old)
		}
		return strings.Replace(artifactStatement, old, new, 1)
	}
	for _, tt := range []struct {
		name string
		json string
		want string
	}{
		{"an artifact signature", artifactStatement, ""},
		{"white space", strings.NewReplacer(`{`, " {\n", `,`, "\t,\r\n").Replace(artifactStatement), ""},
		{"no predicate", edit(`,"predicate":{}`, ``), ""},
		{"every field that in-toto has", edit(`{"digest"`, `{"name":"a","uri":"b","content":"Yw==","downloadLocation":"d","mediaType":"e","digest"`), ""},
		{"a predicate as deep as can be", edit(`{}}`, `{"a":`+strings.Repeat("[", 62)+strings.Repeat("]", 62)+`}}`), ""},
		{"an annotation as deep as can be", edit(`"v1"`, strings.Repeat("[", 60)+strings.Repeat("]", 60)), ""},
		{"two subjects", edit(`"subject":[`, `"subject":[{"digest":{"sha512":"00"}},`), ""},
		{"names of the user's in annotations", edit(`"modelsig.tag"`, `"Digest"`), ""},
		{"unknown things in the predicate", edit(`"predicate":{}`, `"predicate":{"Name":[{"a":1}]}`), ""},

		{"another _type", edit(`Statement/v1"`, `Statement/v0.1"`), "_type"},
		{"no _type", edit(`"_type":"https://in-toto.io/Statement/v1",`, ``), "_type"},
		{"_type that is no string", edit(`"https://in-toto.io/Statement/v1"`, `1`), "_type"},
		{"no predicateType", edit(`"predicateType":"https://sigstore.dev/cosign/sign/v1",`, ``), "predicateType"},
		{"a predicate that is a string", edit(`"predicate":{}`, `"predicate":"{}"`), "not an object"},
		{"a predicate that is null", edit(`"predicate":{}`, `"predicate":null`), "not an object"},
		{"an unknown field", edit(`"predicate":{}`, `"predicate":{},"x":1`), "unknown field"},
		{"a field in another case (M12)", edit(`"subject"`, `"Subject"`), "unknown field"},
		{"a second subject list in another case (M12)", edit(`"predicate":{}`, `"predicate":{},"Subject":[]`), "unknown field"},
		{"a duplicate field (M12)", edit(`"predicate":{}`, `"predicate":{},"predicate":{}`), "duplicate"},
		{"a duplicate digest (M12)", edit(`"digest":{`, `"digest":{"sha256":"00",`), "duplicate"},
		{"a duplicate name in the predicate (M12)", edit(`"predicate":{}`, `"predicate":{"a":1,"a":2}`), "duplicate"},
		{"an unknown field in the subject", edit(`{"digest"`, `{"size":1,"digest"`), "unknown field"},
		{"a subject field in another case (M12)", edit(`{"digest"`, `{"Name":"a","digest"`), "unknown field"},
		{"no subject", edit(`"subject":[{`, `"subject":[],"x":[{`), "unknown field"},
		{"an empty subject list", strings.Replace(artifactStatement, artifactStatement[strings.Index(artifactStatement, "[{")+1:strings.Index(artifactStatement, `],"pred`)], "", 1), "no subject"},
		{"subject that is an object", edit(`"subject":[`, `"subject":{"a":[`), "not an array"},
		{"a subject without digest", edit(`"digest":{`, `"annotations":{`), "duplicate"},
		{"an empty digest", edit(`"sha256":"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"`, ``), "no digest"},
		{"a digest in upper case (M01)", edit(`2cf24d`, `2CF24D`), "lower-case"},
		{"a short digest (M01)", edit(`2cf24d`, `2cf24`), "lower-case"},
		{"a digest with its algorithm (M01)", edit(`2cf24dba`, `sha256:2cf24dba`), "lower-case"},
		{"a digest that is no hex (M01)", edit(`2cf24d`, `gcf24d`), "lower-case"},
		{"a digest that is a number", edit(`"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"`, `1`), "not a string"},
		{"SHA256 beside sha256", edit(`"digest":{`, `"digest":{"SHA256":"00",`), "spelled"},
		{"trailing data", artifactStatement + "{}", "more than one value"},
		{"invalid UTF-8", edit(`"v1"`, "\"\xff\""), "malformed"},
		{"half a surrogate pair", edit(`"v1"`, `"\ud800"`), "malformed"},
		{"a predicate that is too deep", edit(`{}}`, `{"a":`+strings.Repeat("[", 63)+strings.Repeat("]", 63)+`}}`), "deeper"},
		{"an annotation that is too deep", edit(`"v1"`, strings.Repeat("[", 61)+strings.Repeat("]", 61)), "deeper"},
		{"an array", `[]`, "not an object"},
		{"nothing", ``, "no JSON value"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := manifest.ParseStatement([]byte(tt.json))
			expect(t, err, tt.want)
			if err == nil {
				if _, err := s.Marshal(); err != nil {
					t.Errorf("parsed, but not marshalled: %v", err)
				}
			}
			if err == nil && s.Subject[len(s.Subject)-1].Digest["sha256"] != hex.EncodeToString(sum("hello")) {
				t.Errorf("subject is %+v", s.Subject)
			}
		})
	}
}

// omsStatement signs files a and b, with edits: old, new, old, new, …
func omsStatement(edits ...string) string {
	a, b := sum("1"), sum("2")
	root := sha256.Sum256(append(append([]byte(nil), a...), b...))
	text := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"m","digest":{"sha256":"%x"}}],`+
		`"predicateType":"https://model_signing/signature/v1.0","predicate":{"resources":[`+
		`{"name":"a","digest":"%x","algorithm":"sha256"},{"name":"b","digest":"%x","algorithm":"sha256"}],`+
		`"serialization":{"method":"files","hash_type":"sha256","allow_symlinks":false,"ignore_paths":["x"]}}}`, root, a, b)
	for i := 0; i < len(edits); i += 2 {
		if !strings.Contains(text, edits[i]) {
			panic("nothing to replace: " + edits[i])
		}
		text = strings.Replace(text, edits[i], edits[i+1], 1)
	}
	return text
}

func TestManifest(t *testing.T) {
	rootOf := func(digests ...[]byte) string {
		h := sha256.Sum256(bytes.Join(digests, nil))
		return hex.EncodeToString(h[:])
	}
	root := rootOf(sum("1"), sum("2"))
	single := func(name string) string {
		return omsStatement(root, rootOf(sum("1")), fmt.Sprintf(`,{"name":"b","digest":"%x","algorithm":"sha256"}`, sum("2")), ``, `"name":"a"`, `"name":`+name)
	}
	const method = `"method":"files"`
	for _, tt := range []struct {
		name string
		json string
		want string
		code string // of a ThreatError
	}{
		{name: "as we write it", json: omsStatement()},
		{name: "another minor version", json: omsStatement("v1.0", "v1.7")},
		{name: "no ignore paths", json: omsStatement(`,"ignore_paths":["x"]`, ``)},
		{name: "ignore paths that hide nothing (rule 29)", json: omsStatement(`["x"]`, `[".","/a","a/../b","*","a/",""]`)},
		{name: "an order of other writers", json: omsStatement(`"name":"a"`, `"name":"z"`)},
		{name: "unknown fields in a resource", json: omsStatement(`{"name":"a"`, `{"size":{"x":[1]},"name":"a"`)},
		{name: "another digest in the subject", json: omsStatement(`{"sha256"`, `{"sha512":"00","sha256"`)},
		{name: "links were followed", json: omsStatement(`"allow_symlinks":false`, `"allow_symlinks":true`)},
		{name: "the legacy name of a single file", json: single(`"."`)},
		{name: "a single file", json: single(`"model.bin"`)},

		{name: "another predicate type", json: omsStatement("signature/v1.0", "signature/v2.0"), want: "§5.1"},
		{name: "the old predicate type (rule 4)", json: omsStatement("signature/v1.0", "Digests/v0.1"), want: "§5.1"},
		{name: "a predicate in a predicate", json: omsStatement(`"predicate":{`, `"predicate":{"x":{`, `]}}}`, `]}}}}`), want: "unknown field"},
		{name: "two subjects", json: omsStatement(`"subject":[`, `"subject":[{"name":"m","digest":{"sha256":"`+root+`"}},`), want: "2 subjects"},
		{name: "a subject without name", json: omsStatement(`"name":"m",`, ``), want: "no name"},
		{name: "a subject with an empty name", json: omsStatement(`"name":"m"`, `"name":""`), want: "no name"},
		{name: "a subject without sha256 (rule 31)", json: omsStatement(`{"sha256"`, `{"sha512"`), want: "no sha256"},
		{name: "another root", json: omsStatement(root, rootOf(sum("2"), sum("1"))), want: "root digest"},
		{name: "a digest swapped", json: omsStatement(hex.EncodeToString(sum("1")), hex.EncodeToString(sum("3"))), want: "root digest"},
		{name: "no resources", json: omsStatement(fmt.Sprintf(`{"name":"a","digest":"%x","algorithm":"sha256"},{"name":"b","digest":"%x","algorithm":"sha256"}`, sum("1"), sum("2")), ``, root, rootOf()), want: "without files"},
		{name: "resources absent", json: omsStatement(fmt.Sprintf(`"resources":[{"name":"a","digest":"%x","algorithm":"sha256"},{"name":"b","digest":"%x","algorithm":"sha256"}],`, sum("1"), sum("2")), ``), want: "without resources"},
		{name: "serialization absent", json: omsStatement(`,"serialization":{"method":"files","hash_type":"sha256","allow_symlinks":false,"ignore_paths":["x"]}`, ``), want: "without serialization"},
		{name: "an unknown predicate field (schema)", json: omsStatement(`"predicate":{`, `"predicate":{"x":1,`), want: "unknown field"},
		{name: "an unknown serialization field (schema)", json: omsStatement(method, method+`,"x":1`), want: "unknown field"},
		{name: "a predicate field in another case (M12)", json: omsStatement(`"predicate":{`, `"predicate":{"Resources":[],`), want: "unknown field"},
		{name: "a resource field in another case (M12)", json: omsStatement(`{"name":"a"`, `{"Name":"evil","name":"a"`), want: "spelled"},
		{name: "a resource without algorithm (schema)", json: omsStatement(`,"algorithm":"sha256"`, ``), want: "missing"},
		{name: "a resource without name (schema)", json: omsStatement(`"name":"a",`, ``), want: "missing"},
		{name: "a resource without digest (schema)", json: omsStatement(fmt.Sprintf(`"digest":"%x",`, sum("1")), ``), want: "missing"},
		{name: "a resource that is a string", json: omsStatement(`{"name":"a"`, `"a",{"name":"a"`), want: "not an object"},
		{name: "a digest in upper case", json: omsStatement(hex.EncodeToString(sum("1")), strings.ToUpper(hex.EncodeToString(sum("1")))), want: "lower-case"},
		{name: "a digest of odd length", json: omsStatement(hex.EncodeToString(sum("1")), hex.EncodeToString(sum("1"))[1:]), want: "lower-case"},
		{name: "an empty digest", json: omsStatement(hex.EncodeToString(sum("1")), ""), want: "lower-case"},
		{name: "a short digest", json: omsStatement(hex.EncodeToString(sum("1")), hex.EncodeToString(sum("1"))[2:]), want: "31 bytes"},
		// The digests of both together are as long as before: the root holds.
		{name: "digests with a moved border", json: omsStatement(
			hex.EncodeToString(sum("1")), hex.EncodeToString(sum("1")[:31]),
			hex.EncodeToString(sum("2")), hex.EncodeToString(append(sum("1")[31:], sum("2")...))), want: "31 bytes"},
		{name: "sha512 resources (rule 31)", json: omsStatement(`"algorithm":"sha256"`, `"algorithm":"sha512"`), want: "algorithm"},
		{name: "another hash than the resources have", json: omsStatement(`"hash_type":"sha256"`, `"hash_type":"blake3"`), want: "algorithm"},
		{name: "an unknown hash type", json: omsStatement(`"hash_type":"sha256"`, `"hash_type":"md5"`), want: "§7"},
		{name: "sharded algorithms under files", json: omsStatement(`"algorithm":"sha256"`, `"algorithm":"sha256-sharded-8"`), want: "algorithm"},
		{name: "an unknown method", json: omsStatement(method, `"method":"tree"`), want: "§5.2.2"},
		{name: "no method", json: omsStatement(method+`,`, ``), want: "without method"},
		{name: "no hash type", json: omsStatement(`"hash_type":"sha256",`, ``), want: "hash_type"},
		{name: "no allow_symlinks", json: omsStatement(`"allow_symlinks":false,`, ``), want: "allow_symlinks"},
		{name: "allow_symlinks that is a string", json: omsStatement(`"allow_symlinks":false`, `"allow_symlinks":"false"`), want: "true or false"},
		{name: "shard_size with files", json: omsStatement(method, method+`,"shard_size":8`), want: "shard_size"},
		{name: "shards without shard_size", json: omsStatement(method, `"method":"shards"`), want: "shard_size"},
		{name: "whole files under shards", json: omsStatement(method, `"method":"shards","shard_size":8`), want: "FILE:START:END"},
		{name: "shards of nothing", json: omsStatement(method, `"method":"shards","shard_size":0`), want: "positive"},
		{name: "shards of less", json: omsStatement(method, `"method":"shards","shard_size":-8`), want: "positive"},
		{name: "shards of a fraction", json: omsStatement(method, `"method":"shards","shard_size":8.5`), want: "positive"},
		{name: "shards of more than a number holds", json: omsStatement(method, `"method":"shards","shard_size":1e400`), want: "positive"},
		{name: "shards of more than all readers have exactly", json: omsStatement(method, `"method":"shards","shard_size":9007199254740994`), want: "positive"},
		{name: "shards of one more than that", json: omsStatement(method, `"method":"shards","shard_size":9007199254740993`), want: "positive"},
		{name: "shards of nearly an integer", json: omsStatement(method, `"method":"shards","shard_size":8.00000000000000000000001`), want: "positive"},
		{name: "shards of an integer of very many digits", json: omsStatement(method, `"method":"shards","shard_size":8.`+strings.Repeat("0", 50)), want: "positive"},
		{name: "shards of a string", json: omsStatement(method, `"method":"shards","shard_size":"8"`), want: "not a number"},
		{name: "ignore paths that are null", json: omsStatement(`["x"]`, `null`), want: "not an array"},
		{name: "ignore paths that are numbers", json: omsStatement(`["x"]`, `[1]`), want: "not a string"},

		{name: "one name twice (N01)", json: omsStatement(`"name":"b"`, `"name":"a"`), code: "duplicate-name"},
		{name: "one name twice, once escaped (N01)", json: omsStatement(`"name":"b"`, `"name":"\u0061"`), code: "duplicate-name"},
		{name: "a file and a folder (N13)", json: omsStatement(`"name":"b"`, `"name":"a/b"`), code: "file-and-folder"},
		{name: "a name that is not clean (N03)", json: omsStatement(`"name":"a"`, `"name":"./a"`), code: "name-unclean"},
		{name: "a name that leaves the model (N04)", json: omsStatement(`"name":"a"`, `"name":"../a"`), code: "name-parent"},
		{name: "an absolute name (N05)", json: omsStatement(`"name":"a"`, `"name":"/a"`), code: "name-absolute"},
		{name: "a control character (N07)", json: omsStatement(`"name":"a"`, `"name":"a\n"`), code: "name-control"},
		{name: "an empty name (N08)", json: omsStatement(`"name":"a"`, `"name":""`), code: "name-empty"},
		{name: "the legacy name beside another (N08)", json: omsStatement(`"name":"a"`, `"name":"."`), code: "name-dot"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := manifest.ParseStatement([]byte(tt.json))
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Manifest()
			if tt.code != "" {
				threatIn(t, err, tt.code)
				return
			}
			expect(t, err, tt.want)
		})
	}
}

// threatIn checks that err is about a threat.
func threatIn(t *testing.T, err error, code string) {
	t.Helper()
	if threat, ok := errors.AsType[*manifest.ThreatError](err); !ok || threat.Code != code {
		t.Errorf("error is %v, want code %s", err, code)
	}
}

func TestManifestOfNoPredicate(t *testing.T) {
	s, err := manifest.ParseStatement([]byte(omsStatement()))
	if err != nil {
		t.Fatal(err)
	}
	s.Predicate = nil
	_, err = s.Manifest()
	expect(t, err, "no predicate")
}

// Cut at every length, no statement is one.
func TestParseStatementCut(t *testing.T) {
	for _, payload := range payloads(t) {
		payload = bytes.TrimSpace(payload)
		for n := range payload {
			if _, err := manifest.ParseStatement(payload[:n]); err == nil {
				t.Fatalf("accepted %q", payload[:n])
			}
		}
	}
}

// With any byte changed, the statement is refused or says something else: no
// two byte strings of ours mean the same, but for the signer's own fields and
// letters that JSON escapes.
func TestParseStatementCorrupt(t *testing.T) {
	payload := []byte(omsStatement())
	s, err := manifest.ParseStatement(payload)
	if err != nil {
		t.Fatal(err)
	}
	want, err := s.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for i := range payload {
		for _, flip := range []byte{0x01, 0x20, 0x80, 0xff} {
			bad := bytes.Clone(payload)
			bad[i] ^= flip
			s, err := manifest.ParseStatement(bad)
			if err != nil {
				continue
			}
			got, err := s.Manifest()
			if err == nil && reflect.DeepEqual(got, want) && s.Subject[0].Name == "m" && s.PredicateType == manifest.PredicateType {
				t.Fatalf("byte %d: %q means the same", i, bad)
			}
		}
	}
}

func FuzzParseStatement(f *testing.F) {
	for _, payload := range payloads(f) {
		f.Add(payload)
	}
	f.Add([]byte(artifactStatement))
	f.Add([]byte(omsStatement()))
	f.Add(shardStatement(f, "8", "sha256", "a:0:8", "a:8:9"))
	f.Add(shardStatement(f, "8.0", "sha256-sharded-8", ".:0:8"))
	f.Add(shardStatement(f, "1e9", "sha256", "b:c:0:9", "a:0:1000000000", "a:1000000000:1000000001"))
	f.Add([]byte(legacyStatement()))
	f.Fuzz(func(t *testing.T, payload []byte) {
		before := string(payload)
		s, err := manifest.ParseStatement(payload)
		if err != nil {
			return
		}
		if !strictJSON(payload) {
			t.Fatalf("accepted %q", payload)
		}
		out, err := s.Marshal()
		if err != nil {
			t.Fatalf("parsed, but not marshalled: %v", err)
		}
		again, err := manifest.ParseStatement(out)
		if err != nil {
			t.Fatalf("marshalled, but not parsed: %v", err)
		}
		if twice := marshal(t, again); !bytes.Equal(twice, out) {
			t.Fatalf("%q became %q", out, twice)
		}
		m, err := s.Manifest()
		if string(payload) != before {
			t.Fatal("the payload was changed")
		}
		if err != nil {
			return
		}
		files := m.Files()
		if len(files) == 0 {
			t.Fatal("a checked manifest without files")
		}
		if files[0].Name == "." {
			return
		}
		if err := namesOf(files); err != nil {
			t.Fatalf("signed names: %v", err)
		}
		signed, err := m.Statement(s.Subject[0].Name, s.Subject[0].Annotations)
		if err != nil {
			t.Fatal(err)
		}
		back, err := signed.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(back, m) {
			t.Fatalf("%+v became %+v", m, back)
		}
	})
}

func namesOf(files []manifest.FileResources) error {
	for _, f := range files {
		if err := manifest.CheckName(f.Name); err != nil {
			return err
		}
	}
	return nil
}
