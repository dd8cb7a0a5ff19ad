package modelsig_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/verify"
)

// An omsCase is the config.json of one case of the OMS conformance suite: how
// a bundle that somebody else made is to be verified.
type omsCase struct {
	Method              string   `json:"method"`
	Model               string   `json:"model"`
	ModelRelativeTo     string   `json:"model_relative_to"`
	ExpectedSignedFiles []string `json:"expected_signed_files"`
	ModelModifications  struct {
		Inject map[string]string `json:"inject"`
	} `json:"model_modifications"`
	Verify struct {
		PublicKey           string   `json:"public_key"`
		IgnorePaths         []string `json:"ignore_paths"`
		IgnoreUnsignedFiles bool     `json:"ignore_unsigned_files"`
	} `json:"verify"`
}

// TestBundlesOfOtherOMSTools verifies what the other implementations signed
// with keys. The cases are data of the OMS project, and not part of this one.
func TestBundlesOfOtherOMSTools(t *testing.T) {
	cases := filepath.Join("..", "shared", "oms", "cases")
	var dirs []string
	for _, pattern := range []string{"positive/key-*", "historical/historical-v1.*-elliptic-key"} {
		found, err := filepath.Glob(filepath.Join(cases, filepath.FromSlash(pattern)))
		if err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, found...)
	}
	if len(dirs) == 0 {
		t.Skipf("no cases of the OMS conformance suite in %s", cases)
	}
	client := new(modelsig.Client)
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			var c omsCase
			data, err := os.ReadFile(filepath.Join(dir, "config.json"))
			if err == nil {
				err = json.Unmarshal(data, &c)
			}
			if err != nil || c.Method != "key" {
				t.Fatalf("method %q, %v", c.Method, err)
			}
			assets := filepath.Join(cases, "assets")
			model := filepath.Join(assets, c.Model)
			if c.ModelRelativeTo == "test_dir" {
				model = filepath.Join(dir, c.Model)
			}
			// A copy, to change it.
			model = copyModel(t, model)
			for name, content := range c.ModelModifications.Inject {
				writeFile(t, filepath.Join(model, name), content)
			}
			key, err := os.ReadFile(filepath.Join(assets, c.Verify.PublicKey))
			if err != nil {
				t.Fatal(err)
			}
			policy, err := modelsig.KeyPolicy(key)
			if err != nil {
				t.Fatal(err)
			}
			policy.IgnoreUnsignedFiles = c.Verify.IgnoreUnsignedFiles
			o := modelsig.VerifyOptions{SignatureFile: filepath.Join(dir, "bundle.sig"), IgnorePaths: c.Verify.IgnorePaths}

			v, err := client.VerifyDir(t.Context(), model, policy, o)
			wantVerified(t, v, err, verify.StrengthFiles, 1)
			bundle, err := modelsig.ReadSignature(o.SignatureFile)
			if err != nil {
				t.Fatal(err)
			}
			claims, err := modelsig.InsecureInspect(bundle)
			if err != nil {
				t.Fatal(err)
			}
			var signed []string
			for _, f := range claims.Files {
				signed = append(signed, f.Name)
			}
			if c.ExpectedSignedFiles != nil && !slices.Equal(signed, c.ExpectedSignedFiles) {
				t.Errorf("signed files %q, want %q", signed, c.ExpectedSignedFiles)
			}

			// The same by another key, and each signed file changed.
			v, err = client.VerifyDir(t.Context(), model, trusts(newSigner(t)), o)
			wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUntrusted)
			for _, name := range signed {
				path := filepath.Join(model, filepath.FromSlash(name)) // "." is the file itself
				content, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				writeFile(t, path, string(content)+"x")
				v, err = client.VerifyDir(t.Context(), model, policy, o)
				wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
				writeFile(t, path, string(content))
			}
			v, err = client.VerifyDir(t.Context(), model, policy, o)
			wantVerified(t, v, err, verify.StrengthFiles, 1)
		})
	}
}

// copyModel copies a folder or a file, and returns where the copy is.
func copyModel(t testing.TB, path string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), filepath.Base(path))
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		err = os.CopyFS(to, os.DirFS(path))
	} else if err == nil {
		var data []byte
		if data, err = os.ReadFile(path); err == nil {
			writeFile(t, to, string(data))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return to
}
