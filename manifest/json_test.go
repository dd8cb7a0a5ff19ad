package manifest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/manifest"
)

func TestCheckJSON(t *testing.T) {
	fields := []string{"digest", "size", "annotations"}
	nest := func(open, close string, n int) string {
		return strings.Repeat(open, n) + strings.Repeat(close, n)
	}
	for _, tt := range []struct {
		name string
		json string
		want string // part of the error; "" for none
	}{
		{"an object", `{"digest": "x", "size": 3}`, ""},
		{"white space around", " \t\r\n{} \n", ""},
		{"unknown names", `{"other": 1}`, ""},
		{"any value", `[null, true, 1.5e3, "😀"]`, ""},
		{"a surrogate pair, escaped", `"\ud83d\ude00"`, ""},
		{"the same name in two objects", `[{"digest":1},{"digest":2}]`, ""},
		{"annotations of any spelling", `{"annotations":{"Digest":"a","DIGEST":"b"},"digest":1}`, ""},
		{"nested annotations of any spelling", `{"annotations":{"a":{"Digest":{}}}}`, ""},
		{"a value that is a field but for letter case", `{"other":"Digest","more":["Size"]}`, ""},
		{"arrays as deep as allowed", nest("[", "]", manifest.MaxDepth), ""},

		{"nothing", ``, "no JSON value"},
		{"white space only", ` `, "no JSON value"},
		{"a byte order mark", "\ufeff{}", "malformed"},
		{"two values", `{}{}`, "more than one value"},
		{"two scalars", `1 2`, "more than one value"},
		{"trailing data", `{} x`, "malformed"},
		{"a NUL after the value", "{}\x00", "malformed"},
		{"a comment", `{/**/}`, "malformed"},
		{"a trailing comma", `{"a":1,}`, "malformed"},
		{"single quotes", `{'a':1}`, "malformed"},
		{"NaN", `NaN`, "malformed"},
		{"a leading zero", `01`, "malformed"},
		{"a name that is not a string", `{1:1}`, "malformed"},
		{"a duplicate name", `{"a":1,"a":2}`, "duplicate"},
		{"a duplicate name, one escaped", `{"a":1,"\u0061":2}`, "duplicate"},
		{"a duplicate name deep inside", `[{"x":{"a":1,"b":2,"a":3}}]`, "duplicate"},
		{"a duplicate annotation", `{"annotations":{"a":"1","a":"2"}}`, "duplicate"},
		{"a control character in a string", "\"a\nb\"", "malformed"},
		{"invalid UTF-8 in a string", "\"\xff\"", "malformed"},
		{"invalid UTF-8 in a name", "{\"\xc0\xaf\":1}", "malformed"},
		{"an encoded surrogate", "\"\xed\xa0\x80\"", "malformed"},
		{"half a surrogate pair", `"\ud83d"`, "malformed"},
		{"the other half of a surrogate pair", `"\ude00"`, "malformed"},
		{"a case variant of a field (M12)", `{"Digest":"x"}`, "spelled"},
		{"a case variant beside the field (M12)", `{"digest":"x","DIGEST":"y"}`, "spelled"},
		{"a case variant deep inside", `[[{"a":{"sIze":1}}]]`, "spelled"},
		{"a case variant by Unicode folding", `{"\u017fize":1}`, "spelled"},
		{"a case variant of annotations", `{"Annotations":{}}`, "spelled"},
		{"a case variant after annotations", `{"annotations":{"x":1},"Digest":1}`, "spelled"},
		{"a case variant after annotations without members", `{"annotations":{},"Digest":1}`, "spelled"},
		{"a case variant after annotations that are a string", `{"annotations":"x","a":{"Digest":1}}`, "spelled"},
		{"a case variant below a value of that name", `{"a":"annotations","b":{"Digest":1}}`, "spelled"},
		{"arrays too deep", nest("[", "]", manifest.MaxDepth+1), "deeper"},
		{"objects too deep", strings.Repeat(`{"a":`, manifest.MaxDepth+1) + "1" + strings.Repeat("}", manifest.MaxDepth+1), "deeper"},
		{"annotations too deep", `{"annotations":` + nest("[", "]", manifest.MaxDepth) + `}`, "deeper"},
		{"a million open brackets", strings.Repeat("[", 1<<20), "deeper"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			expect(t, manifest.CheckJSON([]byte(tt.json), fields...), tt.want)
		})
	}
}

func TestCheckJSONLeavesDataAlone(t *testing.T) {
	const text = ` {"a": ["b", {"c": "d"}], "annotations": {"e": 1}} `
	data := []byte(text)
	if err := manifest.CheckJSON(data, "a"); err != nil {
		t.Fatal(err)
	}
	if string(data) != text {
		t.Errorf("data is now %q", data)
	}
}

// Errors about long foreign text are short (rule 26).
func TestCheckJSONErrorsAreShort(t *testing.T) {
	long := strings.Repeat("a", 1<<20)
	for _, text := range []string{
		`{"` + long + `":1,"` + long + `":2}`,
		`{"` + long + `":x}`,
		`{"DIGEST` + "\\u001b[31m" + `":` + `"` + long + "\xff\"}",
	} {
		err := manifest.CheckJSON([]byte(text), "digest")
		if err == nil {
			t.Fatal("accepted")
		}
		if n := len(err.Error()); n > 1024 {
			t.Errorf("an error of %d bytes", n)
		}
		if strings.Contains(err.Error(), "\x1b") {
			t.Errorf("not escaped: %q", err)
		}
	}
}

func FuzzCheckJSON(f *testing.F) {
	for _, payload := range payloads(f) {
		f.Add(payload)
	}
	seeds, err := filepath.Glob("../../shared/oms/vectors/*/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range seeds {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"annotations":{"Name":1},"Name":2,"x":[{"\u0061":null}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		before := string(data)
		err := manifest.CheckJSON(data, "name", "annotations")
		if string(data) != before {
			t.Fatal("data was changed")
		}
		if err != nil {
			return
		}
		if !strictJSON(data) {
			t.Errorf("accepted %q", data)
		}
	})
}

// Two bytes of JSON may be a hundred in memory.
func TestCheckJSONBoundsMembers(t *testing.T) {
	many := func(n int, item string) string { return strings.TrimSuffix(strings.Repeat(item+",", n), ",") }
	names := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `"%d":0,`, i)
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	for _, test := range []struct {
		name, data string
		ok         bool
	}{
		{"as many values as may be", `{"a":[` + many(manifest.MaxMembers, "0") + `]}`, true},
		{"one value more", `{"a":[` + many(manifest.MaxMembers+1, "0") + `]}`, false},
		{"one object more", `[` + many(manifest.MaxMembers+1, "{}") + `]`, false},
		{"one array more, in annotations", `{"annotations":[` + many(manifest.MaxMembers+1, "[]") + `]}`, false},
		{"as many names as may be", `{` + names(manifest.MaxMembers) + `}`, true},
		{"one name more", `{` + names(manifest.MaxMembers+1) + `}`, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := manifest.CheckJSON([]byte(test.data)); (err == nil) != test.ok {
				t.Errorf("error %v", err)
			}
		})
	}
}
