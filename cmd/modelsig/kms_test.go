package main

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A workplace is a built modelsig and a model to sign with it, in an environment
// of its own.
type workplace struct {
	program string
	dir     string // holds the folder model
	env     []string
}

// build builds a program of this module.
func build(t *testing.T, out, pkg string, env []string, flags ...string) {
	t.Helper()
	cmd := exec.Command("go", append(append([]string{"build", "-o", out}, flags...), pkg)...)
	cmd.Env = append(os.Environ(), env...)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, said)
	}
}

func newWorkplace(t *testing.T, program string, env ...string) *workplace {
	t.Helper()
	dir := t.TempDir()
	model := filepath.Join(dir, "model")
	if err := os.Mkdir(model, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(model, "weights.bin"), []byte("weights"), 0o644); err != nil {
		t.Fatal(err)
	}
	return &workplace{program, dir, append([]string{"HOME=" + dir}, env...)}
}

// run runs modelsig in the workplace, and holds it to one exit code and to words
// on stderr. What it says never acts on a terminal (rule 36).
func (w *workplace) run(t *testing.T, code int, words string, args ...string) string {
	t.Helper()
	cmd := exec.Command(w.program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = w.dir, w.env, &stdout, &stderr
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	said := stderr.String()
	if cmd.ProcessState.ExitCode() != code || !strings.Contains(said, words) {
		t.Fatalf("modelsig %q: exit %d, want %d and %q on stderr\n%s%s", args, cmd.ProcessState.ExitCode(), code, words, stdout.String(), said)
	}
	if strings.ContainsAny(said, "\x1b\r\u202e") {
		t.Errorf("modelsig %q: stderr acts on a terminal: %q", args, said)
	}
	if strings.Contains(said, "goroutine") {
		t.Errorf("modelsig %q: %s", args, said)
	}
	return said
}

// unsigned fails if a signature was written.
func (w *workplace) unsigned(t *testing.T) {
	t.Helper()
	if _, err := os.Lstat(filepath.Join(w.dir, defaultSignature)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s was written: %v", defaultSignature, err)
	}
}

func abs(t *testing.T, path string) string {
	t.Helper()
	out, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestKeysOfPlugins(t *testing.T) {
	programs := t.TempDir()
	modelsig := filepath.Join(programs, "modelsig")
	build(t, modelsig, ".", nil)
	build(t, filepath.Join(programs, "sigstore-kms-testkms"), "./testdata/plugin", nil)
	keys := abs(t, "../../testdata/keys")
	env := []string{"PATH=" + programs, "PLUGIN_KEYS=" + keys}

	for _, curve := range []string{"p256", "p384", "p521", "rsa2048", "ed25519"} {
		t.Run("a folder signed by a plugin with "+curve+" verifies with the public key", func(t *testing.T) {
			w := newWorkplace(t, modelsig, env...)
			w.run(t, exitYes, "", "sign", "key", "model", "--private-key", "testkms://"+curve)
			w.run(t, exitYes, "", "verify", "key", "model", "--public-key", filepath.Join(keys, curve+".pub.pem"))
			w.run(t, exitYes, "", "verify", "key", "model", "--public-key", "testkms://"+curve)
		})
	}
	t.Run("the public key of a plugin refuses what another key signed", func(t *testing.T) {
		w := newWorkplace(t, modelsig, env...)
		w.run(t, exitYes, "", "sign", "key", "model", "--private-key", "testkms://p256")
		w.run(t, exitNo, "", "verify", "key", "model", "--public-key", "testkms://p384")
	})
	for _, tt := range []struct {
		name, key, words string
	}{
		{"a plugin that answers with an error is quoted", "testkms://fails/p256", `plugin sigstore-kms-testkms says "the key is \x1b[31mlocked"`},
		{"an error comes from signing too", "testkms://fails-later/p256", `says "the key is`},
		{"what a plugin says on stderr is passed on, escaped", "testkms://fails-loudly/p256", "sigstore-kms-testkms: no \\x1b[31mcredentials\nsigstore-kms-testkms: ask the \\u202eoperator\n"},
		{"a plugin that exits without an answer is named with its exit code", "testkms://fails-loudly/p256", "plugin sigstore-kms-testkms: exit status 3"},
		{"garbage is no answer", "testkms://garbage/p256", `the answer "Welcome to \x1b[31mtestkms" is not of the protocol`},
		{"garbage in place of a signature is no answer", "testkms://garbage-later/p256", "is not of the protocol"},
		{"an empty answer has no public key", "testkms://empty/p256", "the answer has no public key"},
		{"an empty answer has no signature", "testkms://empty-later/p256", "the answer has no signature"},
		{"an answer without end is cut", "testkms://floods/p256", "longer than 65536 bytes"},
		{"another key's signature is refused by the self-check", "testkms://lies/p256", "did not make this signature"},
		{"a key that the plugin does not have is the plugin's error", "testkms://nowhere", "no such file"},
		{"a plugin that is not there is named", "otherkms://p256", "the program sigstore-kms-otherkms, which knows such keys, is not in PATH"},
		{"a name with a slash is a file, not a program", "../evil://p256", "no such file"},
		{"a file: URI is no plugin", "file://p256", "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorkplace(t, modelsig, env...)
			w.run(t, exitTrouble, tt.words, "sign", "key", "model", "--private-key", tt.key)
			w.unsigned(t)
		})
	}
	for _, key := range []string{"testkms://hangs/p256", "testkms://hangs-later/p256"} {
		t.Run("a plugin that hangs ends with the command: "+key, func(t *testing.T) {
			w := newWorkplace(t, modelsig, env...)
			w.run(t, exitTrouble, "no answer within 1s (--timeout)", "sign", "key", "model", "--timeout", "1s", "--private-key", key)
			w.unsigned(t)
		})
	}
	t.Run("a public key that a plugin does not give is not trusted", func(t *testing.T) {
		w := newWorkplace(t, modelsig, env...)
		w.run(t, exitYes, "", "sign", "key", "model", "--private-key", "testkms://p256")
		w.run(t, exitTrouble, "no public key", "verify", "key", "model", "--public-key", "testkms://empty/p256")
		w.run(t, exitTrouble, "not in PATH", "verify", "key", "model", "--public-key", "otherkms://p256")
	})
	t.Run("a password is not for plugins", func(t *testing.T) {
		w := newWorkplace(t, modelsig, env...)
		w.run(t, exitTrouble, "--password-file is for PEM keys", "sign", "key", "model", "--private-key", "testkms://p256", "--password-file", "x")
	})
}

func TestPluginsDoNotSignRSAPSS(t *testing.T) {
	key := &pluginKey{t.Context(), &plugin{"sigstore-kms-x", "y", io.Discard}, nil}
	if _, err := key.Sign(nil, make([]byte, 32), &rsa.PSSOptions{Hash: crypto.SHA256}); err == nil || !strings.Contains(err.Error(), "RSA-PSS") {
		t.Errorf("got %v", err)
	}
}

func TestStderrOfPluginsIsBounded(t *testing.T) {
	var out bytes.Buffer
	lines := &foreignLines{w: &out, prefix: "p: ", left: 10}
	for range 3 {
		if n, err := lines.Write([]byte("1234\n")); n != 5 || err != nil {
			t.Fatal(n, err)
		}
	}
	lines.flush()
	if got := out.String(); got != "p: 1234\np: 1234\n" {
		t.Errorf("got %q", got)
	}
}
