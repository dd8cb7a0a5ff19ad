package manifest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/modelsig/modelsig/manifest"
)

// Make the statement of the package comment from a folder.
func Example() {
	tmp, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(tmp)
	model := filepath.Join(tmp, "tiny")
	os.MkdirAll(filepath.Join(model, "weights"), 0o755)
	os.WriteFile(filepath.Join(model, "config.json"), []byte("{}"), 0o644)
	os.WriteFile(filepath.Join(model, "weights", "a.bin"), []byte("hello"), 0o644)
	os.WriteFile(filepath.Join(model, ".gitattributes"), []byte("*.bin lfs"), 0o644)

	ctx := context.Background()
	dir, err := manifest.Open(model, manifest.OpenOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer dir.Close()
	files, err := dir.Files(ctx, manifest.GitPaths())
	if err != nil {
		fmt.Println(err)
		return
	}
	var h manifest.Hasher
	resources, err := h.Hash(ctx, files)
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := manifest.New(resources, manifest.Serialization{IgnorePaths: manifest.GitPaths()})
	if err != nil {
		fmt.Println(err)
		return
	}
	statement, err := m.Statement(dir.Name(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	payload, err := statement.Marshal()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range m.Resources {
		fmt.Printf("%.8x %s\n", r.Digest, r.Name)
	}
	fmt.Printf("root %x\n", m.Root())
	fmt.Println(json.Valid(payload), len(payload), "bytes to sign")
	// Output:
	// 44136fa355b3678a config.json
	// 2cf24dba5fb0a30e weights/a.bin
	// root 6d579d56e009c61479c978ad4849556a6e6cee5ad4ba63e478acb2525cdc8fa5
	// true 626 bytes to sign
}

// Read a statement whose signature was checked, and compare it with what is
// there.
func ExampleStatement_Manifest() {
	payload := []byte(`{
	  "_type": "https://in-toto.io/Statement/v1",
	  "subject": [{"name": "tiny", "digest": {"sha256": "6d579d56e009c61479c978ad4849556a6e6cee5ad4ba63e478acb2525cdc8fa5"}}],
	  "predicateType": "https://model_signing/signature/v1.0",
	  "predicate": {
	    "resources": [
	      {"name": "config.json", "digest": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", "algorithm": "sha256"},
	      {"name": "weights/a.bin", "digest": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", "algorithm": "sha256"}
	    ],
	    "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": false}
	  }
	}`)
	statement, err := manifest.ParseStatement(payload)
	if err != nil {
		fmt.Println(err)
		return
	}
	signed, err := statement.Manifest()
	if err != nil {
		fmt.Println(err)
		return
	}
	found := []manifest.Resource{
		signed.Resources[0],
		{Name: "evil.py", Digest: make([]byte, 32), Algorithm: manifest.SHA256},
	}
	diff := manifest.Compare(signed.Resources, found)
	fmt.Println("missing", diff.Missing, "changed", diff.Changed, "extra", diff.Extra)
	// Output:
	// missing [weights/a.bin] changed [] extra [evil.py]
}

func ExampleIgnore_Match() {
	ignore := manifest.Ignore{".git", "logs", "."} // "." hides nothing
	for _, name := range []string{".git/config", ".gitignore", "logs/1.txt", "a/logs"} {
		fmt.Println(name, ignore.Match(name))
	}
	// Output:
	// .git/config true
	// .gitignore false
	// logs/1.txt true
	// a/logs false
}
