//go:build unix

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// suite has the cases of the OMS conformance suite.
var suite = filepath.Join("..", "..", "shared", "oms", "cases")

// An omsCase is the config.json of one of them.
type omsCase struct {
	Method          string `json:"method"`
	Model           string `json:"model"`
	ModelRelativeTo string `json:"model_relative_to"`
	Modifications   struct {
		Inject map[string]string `json:"inject"` // name → content
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

// TestBundlesOfOtherImplementationsVerify runs all cases by command line and
// by the suite's own protocol, and each again with somebody else trusted.
func TestBundlesOfOtherImplementationsVerify(t *testing.T) {
	eachCase(t, "*", func(t *testing.T, c omsCase, dir, model string) {
		bundle := filepath.Join(dir, "bundle.sig")
		for trusted, want := range map[bool]int{true: 0, false: 1} {
			runs(t, want, "modelsig", append([]string{"verify", c.Method, model, "--signature", bundle}, c.flags(trusted, "--certificate-chain")...)...)

			// The suite passes absolute paths.
			abs, err := filepath.Abs(model)
			if err != nil {
				t.Fatal(err)
			}
			absolute := c
			absolute.Verify.IgnorePaths = nil
			for _, p := range c.Verify.IgnorePaths {
				absolute.Verify.IgnorePaths = append(absolute.Verify.IgnorePaths, filepath.Join(abs, p))
			}
			runs(t, want, "conformance", append([]string{"verify-model", "--method", c.Method, "--model-path", abs, "--bundle", bundle}, absolute.flags(trusted, "--cert-chain")...)...)
		}
	})
}

// eachCase runs a test for the cases whose names match: dir is the case's, model
// the folder that its bundle.sig is about.
func eachCase(t *testing.T, names string, test func(t *testing.T, c omsCase, dir, model string)) {
	if _, err := os.Stat(suite); err != nil {
		t.Skipf("the cases of the OMS conformance suite are not here: %v", err)
	}
	configs, err := filepath.Glob(filepath.Join(suite, "*", names, "config.json"))
	if err != nil || len(configs) == 0 || names == "*" && len(configs) < 20 {
		t.Fatalf("%d cases in %s: %v", len(configs), suite, err)
	}
	for _, config := range configs {
		data, err := os.ReadFile(config)
		if err != nil {
			t.Fatal(err)
		}
		var c omsCase
		if err := json.Unmarshal(data, &c); err != nil {
			t.Fatalf("%s: %v", config, err)
		}
		dir := filepath.Dir(config)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			model := filepath.Join(suite, "assets", c.Model)
			if c.ModelRelativeTo == "test_dir" {
				model = filepath.Join(dir, c.Model)
			}
			if len(c.Modifications.Inject) > 0 {
				model = modified(t, model, c.Modifications.Inject)
			}
			test(t, c, dir, model)
		})
	}
}

// Identity and issuer by expressions, which match as a whole or not (rule 11).
func TestSigstoreIdentitiesByExpression(t *testing.T) {
	dir := filepath.Join(suite, "historical", "historical-v1.1.0-sigstore")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("the cases of the OMS conformance suite are not here: %v", err)
	}
	args := []string{"verify", filepath.Join(dir, "model"), "--ignore-paths", "ignore-me", "--signature", filepath.Join(dir, "bundle.sig"),
		"--trusted-root", filepath.Join(suite, "..", "trusted_root.public-good.json")}
	const issuer = "https://sigstore.verify.ibm.com/oauth2"
	for _, tt := range []struct {
		name  string
		flags []string
		want  int
	}{
		{"an identity that matches", []string{"--identity-regexp", `[a-z]+@us\.ibm\.com`, "--identity-provider", issuer}, 0},
		{"an issuer that matches", []string{"--identity", "stefanb@us.ibm.com", "--certificate-oidc-issuer-regexp", `https://sigstore\..*/oauth2`}, 0},
		{"one of several", []string{"--identity", "other@example.com", "--identity-regexp", `stefanb@.*`, "--identity-provider", issuer}, 0},
		{"only a part matches", []string{"--identity-regexp", `[a-z]+@us`, "--identity-provider", issuer}, 1},
		{"an alternative that would match a part", []string{"--identity-regexp", `stefanb@us|x`, "--identity-provider", issuer}, 1},
		{"anybody by anybody", []string{"--identity-regexp", `.*`, "--identity-provider-regexp", `.*`}, 2},
		{"no expression", []string{"--identity-regexp", `(`, "--identity-provider", issuer}, 2},
		{"an issuer in two ways", []string{"--identity", "stefanb@us.ibm.com", "--identity-provider", issuer, "--identity-provider-regexp", `.*`}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) { runs(t, tt.want, "modelsig", append(args, tt.flags...)...) })
	}
}

// flags are those that the case is verified with: as it says, or with somebody
// else trusted.
func (c omsCase) flags(trusted bool, chain string) []string {
	assets := filepath.Join(suite, "assets")
	var flags []string
	switch key := filepath.Join(assets, c.Verify.PublicKey); {
	case c.Method == "key" && trusted:
		flags = append(flags, "--public-key", key)
	case c.Method == "key":
		flags = append(flags, "--public-key", "../testdata/keys/p256.pub.pem")
	case c.Method == "certificate" && trusted:
		for _, name := range c.Verify.CertChain {
			flags = append(flags, chain, filepath.Join(assets, name))
		}
	case c.Method == "certificate":
		flags = append(flags, chain, "../testdata/certificate/root.pem")
	default:
		identity := c.Verify.Identity
		if !trusted {
			identity = "x" + identity
		}
		flags = append(flags, "--identity", identity, "--identity-provider", c.Verify.IdentityProvider,
			"--trusted-root", filepath.Join(suite, "..", "trusted_root.public-good.json"))
	}
	for _, p := range c.Verify.IgnorePaths {
		flags = append(flags, "--ignore-paths", p)
	}
	if c.Verify.IgnoreUnsignedFiles {
		flags = append(flags, "--ignore-unsigned-files")
	}
	return flags
}

// runs runs a program to its end and demands its exit code.
func runs(t *testing.T, want int, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(binary, program), args...)
	out, _ := cmd.CombinedOutput() // the exit code is what counts
	if code := cmd.ProcessState.ExitCode(); code != want {
		t.Errorf("%s %q: exit %d, want %d\n%s", program, args, code, want, out)
	}
	return string(out)
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
