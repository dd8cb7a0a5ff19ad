package manifest_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing/fstest"

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

// Hash what is in no folder, cut into shards, with BLAKE3.
func ExampleFromFS() {
	model := fstest.MapFS{
		"config.json":   {Data: []byte("{}")},
		"weights/a.bin": {Data: []byte("hello")},
	}
	ctx := context.Background()
	files, err := manifest.FromFS(ctx, model)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := manifest.CheckShards(files); err != nil { // an empty file, a colon in a name
		fmt.Println(err)
		return
	}
	h := manifest.Hasher{Hashing: manifest.Hashing{Type: manifest.BLAKE3, ShardSize: 4}}
	resources, err := h.Hash(ctx, files)
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := manifest.New(resources, manifest.Serialization{HashType: h.Type, ShardSize: h.ShardSize})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range m.Files() {
		fmt.Println(f.Name, f.Size, "bytes")
		for _, r := range f.Resources {
			fmt.Printf("  %.8x %s\n", r.Digest, r.Name)
		}
	}
	// Output:
	// config.json 2 bytes
	//   6e46dd10defc9b56 config.json:0:2
	// weights/a.bin 5 bytes
	//   bc2478df41662178 weights/a.bin:0:4
	//   94aa73e5d53ded06 weights/a.bin:4:5
}

// Files whose digests are known already, as those of a registry's layers, are
// not read.
func ExampleHasher_Hash_known() {
	digest, err := hex.DecodeString("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
	if err != nil {
		fmt.Println(err)
		return
	}
	var h manifest.Hasher
	resources, err := h.Hash(context.Background(), []manifest.File{{Name: "weights/a.bin", Size: 5, Digest: digest}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s %s %.8x\n", resources[0].Name, resources[0].Algorithm, resources[0].Digest)
	// Output:
	// weights/a.bin sha256 2cf24dba5fb0a30e
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
