package interop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the oras command pushes, files and a folder, is signed as it lies there;
// what it pulls verifies; what it copies and attaches goes along.
func TestModelsOfOras(t *testing.T) {
	eachRegistry(t, "", func(t *testing.T, r registryServer) {
		dir := newModel(t, "oras")
		if err := os.Chmod(filepath.Join(dir, "model.safetensors"), 0o755); err != nil {
			t.Fatal(err)
		}
		inDir := func(dir string, args ...string) string {
			t.Helper()
			return command{args: append([]string{orasTool}, args...), dir: dir}.want(t, 0).stdout
		}
		name := r.host + "/acme/oras"
		inDir(dir, "push", "--plain-http", name+":v1", "README.md", "config.json", "model.safetensors", "tokenizer")
		key, stranger := newKey(t, curves[0].curve), newKey(t, curves[0].curve)
		signature := filepath.Join(t.TempDir(), "model.sig")
		run(t, 0, "sign", "key", name+":v1", "--private-key", key.private, "--signature", signature)
		if got := verifyJSON(t, 0, key, name+":v1"); got.Binding != "manifest-digest" {
			t.Errorf("verify: %+v", got)
		}
		verifyJSON(t, 1, stranger, name+":v1")

		theirs, ours := filepath.Join(t.TempDir(), "theirs"), filepath.Join(t.TempDir(), "ours")
		inDir(dir, "pull", "--plain-http", name+":v1", "--output", theirs)
		run(t, 0, "verify", "key", theirs, "--signature", signature, "--public-key", key.public)
		run(t, 0, "verify", "key", theirs, "--ref", name+":v1", "--public-key", key.public)
		run(t, 0, "pull", "key", name+":v1", ours, "--public-key", key.public)
		sameTree(t, ours, theirs)
		writeFile(t, filepath.Join(theirs, "tokenizer", "vocab.txt"), []byte("d\n"))
		run(t, 1, "verify", "key", theirs, "--ref", name+":v1", "--public-key", key.public)

		// With what is attached, there and back.
		sbom := filepath.Join(t.TempDir(), "sbom.json")
		writeFile(t, sbom, []byte(`{"spdxVersion":"SPDX-2.3"}`))
		inDir(filepath.Dir(sbom), "attach", "--plain-http", "--artifact-type", "application/spdx+json", name+":v1", "sbom.json")
		inDir(dir, "cp", "-r", "--from-plain-http", "--to-plain-http", name+":v1", r.host+"/mirror/oras:v1")
		run(t, 0, "verify", "key", r.host+"/mirror/oras:v1", "--public-key", key.public, "--require", "model")
		copied := run(t, 0, "copy", "key", r.host+"/mirror/oras:v1", r.host+"/back/oras:v1", "--public-key", key.public).stdout
		if !strings.Contains(copied, "\nreferrers: 3\n") {
			t.Errorf("copy: %s", copied)
		}
		found := inDir(dir, "discover", "--plain-http", "--format", "tree", r.host+"/back/oras:v1")
		if strings.Count(found, "application/vnd.dev.sigstore.bundle.v0.3+json") != 1 || !strings.Contains(found, "application/spdx+json") {
			t.Errorf("oras discover: %s", found)
		}
		run(t, 0, "doctor", r.host+"/back/oras:v1")
	})
}
