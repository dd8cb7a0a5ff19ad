package interop

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	update = flag.Bool("update", false, "make the golden files of ../testdata/cosign again")
	rounds = flag.Int("rounds", 3, "rounds of the race for the fallback index")
	big    = flag.Bool("big", false, "measure a 4 GiB model instead of a 1 GiB one")
)

// commandTime bounds one run of one tool. The slowest takes seconds; what
// takes longer hangs.
const commandTime = 2 * time.Minute

// The programs under test and beside it, set once by TestMain.
var modelsig, cosign, crane, distribution, tsa, fulcio, rekor, orasTool, policy string

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := setUp(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(2)
	}
	os.Exit(code)
}

// setUp builds all programs and runs the tests. The tests see a home without
// credentials and a proxy that leads nowhere: nothing but loopback is reached.
func setUp(m *testing.M) (code int, err error) {
	for _, peer := range []struct {
		module, name string
		path         *string
	}{{"cosign", "cosign", &cosign}, {"crane", "crane", &crane}, {"registry", "registry", &distribution}, {"tsa", "timestamp-server", &tsa}, {"fulcio", "fulcio", &fulcio}, {"rekor", "posix", &rekor}, {"oras", "oras", &orasTool}} {
		start := time.Now()
		if *peer.path, err = tool(peer.module, peer.name); err != nil {
			return 0, err
		}
		fmt.Printf("built %s in %.1f s\n", peer.name, time.Since(start).Seconds())
	}
	dir, err := os.MkdirTemp("", "modelsig-interop-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	modelsig = filepath.Join(dir, "modelsig")
	if out, err := exec.Command("go", "build", "-C", "..", "-o", modelsig, "./cmd/modelsig").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build modelsig: %w\n%s", err, out)
	}
	policy = filepath.Join(dir, "policy")
	// Without the tag it wants a C library, for signatures that nobody makes here.
	build := exec.Command("go", "build", "-C", filepath.Join("peers", "policy"), "-tags", "containers_image_openpgp", "-o", policy, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build policy: %w\n%s", err, out)
	}

	for _, name := range []string{"DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "MODELSIG_PASSWORD", "SIGSTORE_ID_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL"} {
		os.Unsetenv(name)
	}
	nowhere := "http://127.0.0.1:9" // discard: nobody listens
	for name, value := range map[string]string{
		"HOME":                 dir,
		"XDG_CONFIG_HOME":      dir,
		"XDG_RUNTIME_DIR":      dir,
		"HTTP_PROXY":           nowhere,
		"HTTPS_PROXY":          nowhere,
		"NO_PROXY":             "127.0.0.1,localhost",
		"OTEL_TRACES_EXPORTER": "none", // distribution would look for a collector
		"COSIGN_PASSWORD":      "",
	} {
		os.Setenv(name, value)
	}
	return m.Run(), nil
}

// tool builds a peer and returns its path in the build cache.
func tool(module, name string) (string, error) {
	cmd := exec.Command("go", "tool", "-C", filepath.Join("peers", module), "-n", name)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}

// A result is what a command said.
type result struct {
	stdout, stderr string
	code           int
}

// A command is a program with its arguments; the rest may stay zero.
type command struct {
	args  []string
	stdin string
	env   []string // NAME=VALUE, beside the test's own
	dir   string
}

// try runs a command to its end, whatever its exit code.
func (c command) try(t testing.TB) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Stdin = strings.NewReader(c.stdin)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Dir = c.dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s: still running after %s\n%s", c, commandTime, stderr.Bytes())
	}
	if err != nil && cmd.ProcessState == nil {
		t.Fatalf("%s: %v", c, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// want runs a command and demands its exit code.
func (c command) want(t testing.TB, code int) result {
	t.Helper()
	r := c.try(t)
	if r.code != code {
		t.Fatalf("%s: exit %d, want %d\nstdout: %s\nstderr: %s", c, r.code, code, r.stdout, r.stderr)
	}
	return r
}

func (c command) String() string {
	return filepath.Base(c.args[0]) + " " + strings.Join(c.args[1:], " ")
}

// run runs modelsig and demands its exit code.
func run(t testing.TB, code int, args ...string) result {
	t.Helper()
	return command{args: append([]string{modelsig}, args...)}.want(t, code)
}

// peer runs another program, which must succeed, and returns its stdout.
func peer(t testing.TB, program string, args ...string) string {
	t.Helper()
	return command{args: append([]string{program}, args...)}.want(t, 0).stdout
}

// debian finds a program that Debian ships. CI installs it, so there its
// absence is a fault.
func debian(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed (apt-get install %s)", name, name)
		}
		t.Skipf("%s is not installed (apt-get install %s)", name, name)
	}
	return path
}
