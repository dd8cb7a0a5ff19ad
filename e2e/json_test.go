//go:build unix

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/modelsig/modelsig/oci"
)

const schemas = "../docs/schemas"

// TestSchemasAreClosed keeps the scripts honest: a member that a schema does
// not have is an error, at every depth.
func TestSchemasAreClosed(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(schemas, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no schemas: %v", err)
	}
	for _, file := range files {
		if _, err := jsonschema.NewCompiler().Compile(file); err != nil {
			t.Error(err)
		}
	}
	const good = `{"schema":"modelsig/sign/v1","target":"x","unchanged":false,"dryRun":false,"warnings":[],"files":{"count":1,"bytes":2}}`
	if err := validate([]byte(good)); err != nil {
		t.Fatal(err)
	}
	one := strings.TrimPrefix(good, `{"schema":"modelsig/sign/v1",`)
	if err := validate([]byte(`{"schema":"modelsig/sign/v1","results":[{` + one + `,{` + one + `]}`)); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"a member more":                  strings.Replace(good, `"target"`, `"future":1,"target"`, 1),
		"a member more inside":           strings.Replace(good, `"count"`, `"future":1,"count"`, 1),
		"a member less":                  strings.Replace(good, `"unchanged":false,`, "", 1),
		"another type":                   strings.Replace(good, `"unchanged":false`, `"unchanged":0`, 1),
		"null for a list":                strings.Replace(good, `[]`, `null`, 1),
		"a schema nobody knows":          strings.Replace(good, `sign/v1`, `sign/v2`, 1),
		"a result and results":           strings.Replace(good, `"target"`, `"results":[],"target"`, 1),
		"several results, of which none": `{"schema":"modelsig/sign/v1","results":[]}`,
		"a member more in a result":      `{"schema":"modelsig/sign/v1","results":[{` + one + `,{"future":1,` + one + `]}`,
	} {
		if bad == good {
			t.Errorf("%s: nothing was changed", name)
		}
		if err := validate([]byte(bad)); err == nil {
			t.Errorf("%s: accepted %s", name, bad)
		}
	}
}

// validate holds an answer against the schema that it names.
func validate(data []byte) error {
	var head struct{ Schema string }
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	command, version, ok := strings.Cut(strings.TrimPrefix(head.Schema, "modelsig/"), "/")
	if !ok || !strings.HasPrefix(head.Schema, "modelsig/") {
		return fmt.Errorf("answer with schema %q", head.Schema)
	}
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join(schemas, command+"."+version+".json"))
	if err != nil {
		return err
	}
	answer, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return err
	}
	return schema.Validate(answer)
}

// edit changes a JSON file. POINTER is a JSON pointer (RFC 6901), VALUE is
// JSON, or else a string:
//
//	/POINTER=VALUE       set
//	+/POINTER=VALUE      append to an array
//	-/POINTER            remove
//	/POINTER<>/POINTER   exchange
func edit(_ context.Context, ts *testscript.TestScript, args []string) error {
	out, err := edited([]byte(ts.ReadFile(args[0])), args[1:])
	if err != nil {
		return err
	}
	return os.WriteFile(ts.MkAbs(args[0]), out, 0o644)
}

func edited(data []byte, edits []string) ([]byte, error) {
	doc, err := decode(data)
	if err != nil {
		return nil, err
	}
	for _, e := range edits {
		if doc, err = apply(doc, e); err != nil {
			return nil, fmt.Errorf("%s: %w", e, err)
		}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

func decode(data []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var doc any
	err := dec.Decode(&doc)
	return doc, err
}

func apply(doc any, e string) (any, error) {
	if a, b, ok := strings.Cut(e, "<>"); ok {
		first, err := lookUp(doc, a)
		if err != nil {
			return nil, err
		}
		second, err := lookUp(doc, b)
		if err != nil {
			return nil, err
		}
		if doc, err = replaced(doc, split(a), func(any) (any, error) { return second, nil }); err != nil {
			return nil, err
		}
		return replaced(doc, split(b), func(any) (any, error) { return first, nil })
	}
	if pointer, ok := strings.CutPrefix(e, "-"); ok {
		return replaced(doc, split(pointer), nil)
	}
	pointer, text, ok := strings.Cut(e, "=")
	if !ok {
		return nil, errors.New("no value")
	}
	value, err := decode([]byte(text))
	if err != nil || !json.Valid([]byte(text)) {
		value = text
	}
	if pointer, ok := strings.CutPrefix(pointer, "+"); ok {
		return replaced(doc, split(pointer), func(old any) (any, error) {
			list, ok := old.([]any)
			if !ok && old != nil {
				return nil, errors.New("not an array")
			}
			return append(slices.Clone(list), value), nil
		})
	}
	return replaced(doc, split(pointer), func(any) (any, error) { return value, nil })
}

func split(pointer string) []string {
	steps := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i, s := range steps {
		steps[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(s)
	}
	return steps
}

// replaced returns doc with the value at steps changed by with, or removed if
// with is nil.
func replaced(doc any, steps []string, with func(any) (any, error)) (any, error) {
	if len(steps) == 0 {
		return with(doc)
	}
	last := len(steps) == 1
	switch node := doc.(type) {
	case map[string]any:
		if last && with == nil {
			if _, ok := node[steps[0]]; !ok {
				return nil, fmt.Errorf("no member %q", steps[0])
			}
			delete(node, steps[0])
			return node, nil
		}
		value, err := replaced(node[steps[0]], steps[1:], with)
		node[steps[0]] = value
		return node, err
	case []any:
		i, err := strconv.Atoi(steps[0])
		if err != nil || i < 0 || i >= len(node) {
			return nil, fmt.Errorf("no element %q", steps[0])
		}
		if last && with == nil {
			return slices.Delete(node, i, i+1), nil
		}
		node[i], err = replaced(node[i], steps[1:], with)
		return node, err
	case nil:
		if with == nil {
			return nil, fmt.Errorf("no member %q", steps[0])
		}
		value, err := replaced(nil, steps[1:], with)
		return map[string]any{steps[0]: value}, err
	}
	return nil, fmt.Errorf("%q is below a value", steps[0])
}

func lookUp(doc any, pointer string) (any, error) {
	for _, step := range split(pointer) {
		switch node := doc.(type) {
		case map[string]any:
			value, ok := node[step]
			if !ok {
				return nil, fmt.Errorf("%s: no member %q", pointer, step)
			}
			doc = value
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(node) {
				return nil, fmt.Errorf("%s: no element %q", pointer, step)
			}
			doc = node[i]
		default:
			return nil, fmt.Errorf("%s: %q is below a value", pointer, step)
		}
	}
	return doc, nil
}

// let sets a variable from a JSON file: a string as it is, all else as JSON,
// the length of an array where the pointer ends in /length.
func let(_ context.Context, ts *testscript.TestScript, args []string) error {
	text, err := textAt([]byte(ts.ReadFile(args[1])), args[2])
	if err != nil {
		return err
	}
	ts.Setenv(args[0], text)
	return nil
}

func get(_ context.Context, ts *testscript.TestScript, args []string) error {
	text, err := textAt([]byte(ts.ReadFile(args[0])), args[1])
	if err != nil {
		return err
	}
	_, err = ts.Stdout().Write([]byte(text))
	return err
}

func textAt(data []byte, pointer string) (string, error) {
	doc, err := decode(data)
	if err != nil {
		return "", err
	}
	pointer, count := strings.CutSuffix(pointer, "/length")
	value, err := lookUp(doc, pointer)
	if err != nil {
		return "", err
	}
	if list, ok := value.([]any); ok && count {
		return strconv.Itoa(len(list)), nil
	}
	if text, ok := value.(string); ok {
		return text, nil
	}
	text, err := json.Marshal(value)
	return string(text), err
}

// A schema that names layouts names all of them.
func TestSchemasKnowEveryLayout(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(schemas, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var schema any
		if err := json.Unmarshal(data, &schema); err != nil {
			t.Fatal(err)
		}
		var walk func(v any)
		walk = func(v any) {
			switch v := v.(type) {
			case []any:
				for _, e := range v {
					walk(e)
				}
			case map[string]any:
				for name, e := range v {
					if layout, ok := e.(map[string]any); ok && name == "layout" && layout["enum"] != nil {
						found++
						var names []string
						for _, n := range layout["enum"].([]any) {
							names = append(names, n.(string))
						}
						if !slices.Equal(names, oci.Layouts()) {
							t.Errorf("%s: layouts %q, want %q", file, names, oci.Layouts())
						}
					}
					walk(e)
				}
			}
		}
		walk(schema)
	}
	if found == 0 {
		t.Error("no schema names layouts")
	}
}
