//go:build unix

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/e2e/fakesigstore"
)

// The protocol of the OMS conformance suite, as the suite uses it: a model in
// tmp/model, everything by absolute path, and the exit code.
func TestTheConformanceAdapterSignsAndVerifies(t *testing.T) {
	for _, method := range []string{"key", "certificate"} {
		t.Run(method, func(t *testing.T) {
			dir := t.TempDir()
			model := filepath.Join(dir, "model")
			writeFile(t, filepath.Join(model, "weights.bin"), "weights")
			writeFile(t, filepath.Join(model, "sub", "config.json"), "{}")
			writeFile(t, filepath.Join(model, "ignored", "x"), "x")
			writeFile(t, filepath.Join(model, ".git", "config"), "x")
			bundle := filepath.Join(model, "model.sig") // inside the model, and no part of it
			ca, err := filepath.Abs("../testdata/certificate")
			if err != nil {
				t.Fatal(err)
			}
			common := []string{"--method", method, "--model-path", model, "--ignore-paths", filepath.Join(model, "ignored"), "--ignore-paths", filepath.Join(dir, "outside")}
			sign := append([]string{"sign-model", "--output-bundle", bundle, "--private-key", filepath.Join(ca, "leaf.key.pem")}, common...)
			verify := append([]string{"verify-model", "--bundle", bundle}, common...)
			if method == "key" {
				verify = append(verify, "--public-key", filepath.Join(ca, "leaf.pub.pem"))
			} else {
				sign = append(sign, "--signing-cert", filepath.Join(ca, "leaf.pem"), "--cert-chain", filepath.Join(ca, "intermediate.pem"), "--cert-chain", filepath.Join(ca, "root.pem"))
				verify = append(verify, "--cert-chain", filepath.Join(ca, "root.pem"))
			}
			runs(t, 0, "conformance", sign...)
			runs(t, 0, "conformance", verify...)
			runs(t, 0, "conformance", sign...) // again, over the first

			writeFile(t, filepath.Join(model, "extra"), "x")
			runs(t, 1, "conformance", verify...)
			runs(t, 0, "conformance", append(verify, "--ignore-unsigned-files")...)
			writeFile(t, filepath.Join(model, "weights.bin"), "changed")
			runs(t, 1, "conformance", append(verify, "--ignore-unsigned-files")...)
			if err := os.Remove(filepath.Join(model, "weights.bin")); err != nil {
				t.Fatal(err)
			}
			runs(t, 1, "conformance", append(verify, "--ignore-unsigned-files")...)

			// A link, and a model without files, are not signed.
			if err := os.Symlink("sub/config.json", filepath.Join(model, "link")); err != nil {
				t.Fatal(err)
			}
			runs(t, 1, "conformance", sign...)
			if err := os.MkdirAll(filepath.Join(dir, "empty"), 0o755); err != nil {
				t.Fatal(err)
			}
			runs(t, 1, "conformance", "sign-model", "--method", "key", "--model-path", filepath.Join(dir, "empty"), "--output-bundle", filepath.Join(dir, "empty.sig"), "--private-key", filepath.Join(ca, "leaf.key.pem"))
		})
	}
	runs(t, 2, "conformance", "verify-model", "--unknown")
	runs(t, 2, "conformance")

	var can struct {
		Protocol int      `json:"protocol_version"`
		Hashes   []string `json:"hash_algorithms"`
	}
	if err := json.Unmarshal([]byte(runs(t, 0, "conformance", "capabilities")), &can); err != nil || can.Protocol == 0 || len(can.Hashes) != 3 {
		t.Errorf("capabilities %+v, %v", can, err)
	}
	var times struct {
		Times []float64 `json:"times_ms"`
	}
	out := runs(t, 0, "conformance", "benchmark-model", "--operation", "hash", "--model-path", "testdata", "--repeat", "3", "--warmup", "1", "--hash-algorithm", "blake3", "--shard-size", "1000")
	if err := json.Unmarshal([]byte(out), &times); err != nil || len(times.Times) != 3 {
		t.Errorf("times %v, %v", times, err)
	}
}

// The same with an identity, on a Sigstore that variables name.
func TestTheConformanceAdapterSignsWithAnIdentity(t *testing.T) {
	issuer, sigstore := fakesigstore.NewIssuer(t), fakesigstore.New(t)
	servers := sigstore.Serve(issuer)
	dir := t.TempDir()
	model, bundle := filepath.Join(dir, "model"), filepath.Join(dir, "model.sig")
	writeFile(t, filepath.Join(model, "weights.bin"), "weights")
	writeFile(t, filepath.Join(dir, "root.json"), string(sigstore.TrustedRoot(nil)))
	writeFile(t, filepath.Join(dir, "config.json"), string(servers.SigningConfig(nil)))
	t.Setenv("MODELSIG_TRUSTED_ROOT", filepath.Join(dir, "root.json"))
	t.Setenv("MODELSIG_SIGNING_CONFIG", filepath.Join(dir, "config.json"))

	sign := []string{"sign-model", "--method", "sigstore", "--use-staging", "--model-path", model, "--output-bundle", bundle}
	runs(t, 2, "conformance", sign...)
	runs(t, 2, "conformance", append(sign, "--identity-token", "hello")...)
	runs(t, 0, "conformance", append(sign, "--identity-token", issuer.Mail("ci@example.com"))...)
	verify := []string{"verify-model", "--method", "sigstore", "--use-staging", "--model-path", model, "--bundle", bundle, "--identity-provider", issuer.URL}
	runs(t, 0, "conformance", append(verify, "--identity", "ci@example.com")...)
	runs(t, 1, "conformance", append(verify, "--identity", "other@example.com")...)
	writeFile(t, filepath.Join(model, "weights.bin"), "changed")
	runs(t, 1, "conformance", append(verify, "--identity", "ci@example.com")...)

	// Without them the public one is asked, which cannot be reached here.
	t.Setenv("MODELSIG_TRUSTED_ROOT", "")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:9")
	if out := runs(t, 2, "conformance", append(verify, "--identity", "ci@example.com")...); !strings.Contains(out, "tuf-repo-cdn.sigstage.dev") {
		t.Errorf("staging is not named: %s", out)
	}
}

// writeFile makes a file and the folders it is in.
func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
