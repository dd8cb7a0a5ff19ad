package modelsig_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/bundle"
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
		CertChain           []string `json:"cert_chain"`
		Identity            string   `json:"identity"`
		IdentityProvider    string   `json:"identity_provider"`
		IgnorePaths         []string `json:"ignore_paths"`
		IgnoreUnsignedFiles bool     `json:"ignore_unsigned_files"`
	} `json:"verify"`
}

// policy is whom the case trusts.
func (c omsCase) policy(t *testing.T, assets string) modelsig.Policy {
	t.Helper()
	read := func(name string) []byte {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var policy modelsig.Policy
	var err error
	switch c.Method {
	case "key":
		policy, err = modelsig.KeyPolicy(read(filepath.Join(assets, c.Verify.PublicKey)))
	case "certificate":
		var chain [][]byte
		for _, name := range c.Verify.CertChain {
			chain = append(chain, read(filepath.Join(assets, name)))
		}
		policy, err = modelsig.CertificatePolicy(chain, modelsig.CertificateOptions{})
	case "sigstore":
		var root *bundle.TrustedRoot
		if root, err = bundle.ParseTrustedRoot(read(filepath.Join(assets, "..", "..", "trusted_root.public-good.json"))); err == nil {
			policy, err = modelsig.SigstorePolicy(root, modelsig.SigstoreIdentity{Subject: c.Verify.Identity, Issuer: c.Verify.IdentityProvider})
		}
	default:
		t.Fatalf("method %q", c.Method)
	}
	if err != nil {
		t.Fatal(err)
	}
	policy.IgnoreUnsignedFiles = c.Verify.IgnoreUnsignedFiles
	return policy
}

// TestBundlesOfOtherOMSTools verifies what the other implementations signed,
// in every version and by every method. The cases are data of the OMS project,
// and not part of this one.
func TestBundlesOfOtherOMSTools(t *testing.T) {
	cases := filepath.Join("..", "shared", "oms", "cases")
	dirs, err := filepath.Glob(filepath.Join(cases, "*", "*", "bundle.sig"))
	if err != nil {
		t.Fatal(err)
	}
	if len(dirs) == 0 {
		t.Skipf("no cases of the OMS conformance suite in %s", cases)
	}
	if len(dirs) < 20 {
		t.Errorf("%d cases, want 20", len(dirs))
	}
	client := new(modelsig.Client)
	for _, dir := range dirs {
		dir = filepath.Dir(dir)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			var c omsCase
			data, err := os.ReadFile(filepath.Join(dir, "config.json"))
			if err == nil {
				err = json.Unmarshal(data, &c)
			}
			if err != nil {
				t.Fatal(err)
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
			policy := c.policy(t, assets)
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
