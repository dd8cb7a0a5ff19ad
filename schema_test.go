package modelsig_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/bundle"
)

// What we sign is what the OMS specification says, by its own schemas: the
// statement with its predicate, for a folder and for a manifest with the
// binding in its subject.
func TestStatementsFollowTheSchemasOfOMS(t *testing.T) {
	const schemas = "../shared/oms/schemas"
	if _, err := os.Stat(schemas); err != nil {
		t.Skipf("the schemas of OMS are not here: %v", err)
	}
	compiler := jsonschema.NewCompiler()
	var statement *jsonschema.Schema
	for _, name := range []string{"bundle", "envelope", "predicate", "statement"} {
		data, err := os.ReadFile(filepath.Join(schemas, name+".schema.json"))
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		id := doc.(map[string]any)["$id"].(string)
		if err := compiler.AddResource(id, doc); err != nil {
			t.Fatal(err)
		}
		if name == "statement" {
			if statement, err = compiler.Compile(id); err != nil {
				t.Fatal(err)
			}
		}
	}

	dir := filepath.Join(t.TempDir(), "tiny")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"config.json", "sub/ä & [1].bin"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	key, err := bundle.GenerateKey("p256")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := bundle.NewKeySigner(key)
	if err != nil {
		t.Fatal(err)
	}
	var client modelsig.Client
	folder, err := client.SignDir(t.Context(), dir, signer, modelsig.SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ref := "oci:" + filepath.Join(t.TempDir(), "layout") + ":v1"
	pushed, err := client.Push(t.Context(), dir, ref, modelsig.PushOptions{Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	for name, payload := range map[string][]byte{"folder": folder.Model.Statement, "artifact": pushed.Signature.Model.Statement} {
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(payload))
		if err != nil {
			t.Fatal(err)
		}
		if err := statement.Validate(value); err != nil {
			t.Errorf("%s: %v\n%s", name, err, payload)
		}
	}
}
