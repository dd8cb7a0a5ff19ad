//go:build unix

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// An omsCase is the config.json of one case of the OMS conformance suite.
type omsCase struct {
	Method          string `json:"method"`
	Model           string `json:"model"`
	ModelRelativeTo string `json:"model_relative_to"`
	Modifications   struct {
		Inject map[string]string `json:"inject"` // name → content
	} `json:"model_modifications"`
	Verify struct {
		PublicKey           string   `json:"public_key"`
		IgnorePaths         []string `json:"ignore_paths"`
		IgnoreUnsignedFiles bool     `json:"ignore_unsigned_files"`
	} `json:"verify"`
}

// TestBundlesOfOtherImplementationsVerify runs the key cases of the OMS
// implementations, and each again with another key.
func TestBundlesOfOtherImplementationsVerify(t *testing.T) {
	suite := filepath.Join("..", "..", "shared", "oms", "cases")
	if _, err := os.Stat(suite); err != nil {
		t.Skipf("the cases of the OMS conformance suite are not here: %v", err)
	}
	configs, err := filepath.Glob(filepath.Join(suite, "*", "*", "config.json"))
	if err != nil || len(configs) == 0 {
		t.Fatalf("no cases in %s: %v", suite, err)
	}
	ran := 0
	for _, config := range configs {
		data, err := os.ReadFile(config)
		if err != nil {
			t.Fatal(err)
		}
		var c omsCase
		if err := json.Unmarshal(data, &c); err != nil {
			t.Fatalf("%s: %v", config, err)
		}
		if c.Method != "key" {
			continue
		}
		ran++
		dir := filepath.Dir(config)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			assets := filepath.Join(suite, "assets")
			model := filepath.Join(assets, c.Model)
			if c.ModelRelativeTo == "test_dir" {
				model = filepath.Join(dir, c.Model)
			}
			if len(c.Modifications.Inject) > 0 {
				model = modified(t, model, c.Modifications.Inject)
			}
			args := []string{"verify", "key", model, "--signature", filepath.Join(dir, "bundle.sig")}
			for _, p := range c.Verify.IgnorePaths {
				args = append(args, "--ignore-paths", p)
			}
			if c.Verify.IgnoreUnsignedFiles {
				args = append(args, "--ignore-unsigned-files")
			}
			for key, want := range map[string]int{
				filepath.Join(assets, c.Verify.PublicKey): 0,
				"../testdata/keys/p256.pub.pem":           1,
			} {
				cmd := exec.CommandContext(t.Context(), filepath.Join(binary, "modelsig"), append(args, "--public-key", key)...)
				out, _ := cmd.CombinedOutput() // the exit code is what counts
				if code := cmd.ProcessState.ExitCode(); code != want {
					t.Errorf("with %s: exit %d, want %d\n%s", key, code, want, out)
				}
			}
		})
	}
	if ran == 0 {
		t.Error("no key case was run")
	}
}

// modified copies a model and adds files to the copy.
func modified(t *testing.T, model string, inject map[string]string) string {
	copied := filepath.Join(t.TempDir(), filepath.Base(model))
	if err := os.CopyFS(copied, os.DirFS(model)); err != nil {
		t.Fatal(err)
	}
	for name, content := range inject {
		if err := os.WriteFile(filepath.Join(copied, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return copied
}
