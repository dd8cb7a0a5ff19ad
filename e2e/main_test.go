//go:build unix

// Package e2e runs the built modelsig binary as people run it: scripts in
// testdata, one story a file, with their inputs in the same file (txtar, see
// testscript). A script runs once in each way in which registries treat
// referrers, unless its first line names fewer:
//
//	# modes: api none
//
// In the environment of a script stand REGISTRY (host:port of an empty
// registry of its own), MODE, KEY and PUB (a P-256 pair), KEY2 and PUB2 (a
// P-384 pair), KEYS (a folder with all test keys, not encrypted and encrypted)
// and TESTDATA (the folder at the root of the repository). These commands are
// ours:
//
//	exits N PROGRAM ARG…          run, and demand the exact exit code
//	raw-manifest REF              print a manifest, as skopeo inspect --raw does
//	put-manifest REF FILE [TYPE]  push a file as a manifest
//	put-fallback REF FILE [TYPE]  push a file under the fallback tag of REPO@DIGEST
//	put-blob REPO FILE NAME       push a blob: its digest is $NAME, its size $NAME_SIZE
//	oras-pull REF DIR             what oras pull does
//	same-tree A B                 two folders are the same, byte for byte
//	edit FILE EDIT…               change a JSON file (see edit)
//	replace FILE OLD NEW          change text
//	let NAME FILE POINTER         set a variable from a JSON file
//	get FILE POINTER              print a value of a JSON file
//	write FILE TEXT               write a file; TEXT has Go's escapes
//	attack SRC DST EDIT…          push an edited copy, with all bundles of SRC attached
//	attach REF BUNDLE EDIT…       attach a bundle by hand
//	detach REF                    delete all that is attached
//	flood REF N KIND              attach N others: other-type, looks-like-ours
//	sign-statement KEY FILE OUT   sign any statement properly
//	sign-anyway KEY REF           attach an artifact signature, whatever the manifest
//	fault KIND ARG…               a registry that misbehaves, at $FAULTY
//	requests                      print what the registry at $FAULTY was asked
//	serve KIND                    basic, redirecting, luring, bearer, tls: the registry again, at $GUARDED
//	authority NAME                a timestamp authority, at $NAME; its root is NAME.pem
//	sigstore NAME KIND…           a Sigstore (rekor-v1, no-ct): its files in the folder NAME, $NAME_TSA, $ISSUER
//	sigstore-break NAME SVC HOW   fulcio, rekor, tsa, all: a status, drop, hang, truncate, replay, no-sct, fix, or a NAME that answers instead
//	sigstore-asked NAME           print how often each service was asked
//	token FILE [EMAIL] CLAIM=V…   an identity token, also in $TOKEN; exp and nbf are from now on
//	serve-binary FLAG…            modelsig registry, at $SERVED
//	collector KIND                an OTLP collector at $COLLECTOR: answers, grpc, grpc-hangs, hangs, throttles, denies, redirects, gone
//	spans                         print the spans that collectors got
//	packed NAME                   a model that a real tool packed: layout NAME, $REGISTRY/packed/NAME:v1, folder NAME.pulled
//	sixteen REF                   sign with sixteen keys at once
//	interrupt ARG…                SIGINT to modelsig when it has asked $FAULTY: exit 130
//	kill-often DIR FILE KIND …    kill -9 at many moments: FILE is whole or absent
//	mkfifo FILE                   make a FIFO
//	harmless FILE                 nothing in it acts on a terminal
//	normalize FILE                replace what varies: hex, times, ports
//
// The condition [no-api] holds where referrers are found by the fallback tag,
// [packers] where there are models that real tools packed.
//
// JSON on stdout of modelsig is held against docs/schemas in every script, and
// no output may have characters that a terminal acts on (rule 36).
//
// Golden files stand in the scripts under want/, the same for every mode. To
// write them anew, run one mode:
//
//	go test ./e2e -run TestScripts/api -update
package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

var updateScripts = flag.Bool("update", false, "write what the scripts' golden files should be")

// binary is the folder with the program under test and the adapter for the OMS
// conformance suite, set once by TestMain.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(2)
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "modelsig-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "../cmd/modelsig", "./conformance")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build modelsig and its conformance adapter: %w\n%s", err, out)
	}
	binary = dir
	// Scripts wait for the network more than they compute.
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		if err := parallel.Value.Set("8"); err != nil {
			return 0, err
		}
	}
	return m.Run(), nil
}

// scriptTime bounds all scripts together. They take a minute; what takes
// longer hangs.
const scriptTime = 8 * time.Minute

func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	deadline := time.Now().Add(scriptTime)
	for _, mode := range modes {
		var files []string
		for _, script := range scripts {
			if slices.Contains(modesOf(t, script), mode) {
				files = append(files, script)
			}
		}
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			testscript.Run(t, testscript.Params{
				Files:              files,
				Setup:              func(env *testscript.Env) error { return setUp(env, mode) },
				Cmds:               commands(),
				Condition:          func(cond string) (bool, error) { return inMode(cond, mode) },
				UpdateScripts:      *updateScripts,
				WorkdirRoot:        t.TempDir(),
				RequireUniqueNames: true,
				Deadline:           deadline,
			})
		})
	}
}

// inMode is the conditions of scripts.
func inMode(cond, mode string) (bool, error) {
	switch cond {
	case "no-api":
		return mode == modeNone || mode == modeClaimed, nil
	case "packers":
		return havePackers(), nil
	}
	return false, fmt.Errorf("%q is not known", cond)
}

// modesOf reads the modes in which a script runs from its first line.
func modesOf(t *testing.T, script string) []string {
	data, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(data), "\n")
	list, ok := strings.CutPrefix(first, "# modes:")
	if !ok {
		return modes
	}
	named := strings.Fields(list)
	for _, mode := range named {
		if !slices.Contains(modes, mode) {
			t.Fatalf("%s: %q is not a mode", script, mode)
		}
	}
	return named
}

// setUp gives a script its registry and its keys, and an environment in which
// nothing of this machine is found.
func setUp(env *testscript.Env, mode string) error {
	r := newRegistry(mode)
	env.Defer(r.close)
	env.Values[registryKey{}] = r
	env.Values[sigstoresKey{}] = &sigstores{named: map[string]*namedSigstore{}}

	testdata, err := filepath.Abs("../testdata")
	if err != nil {
		return err
	}
	keys := filepath.Join(env.WorkDir, "keys")
	if err := copyKeys("../testdata/keys", keys); err != nil {
		return err
	}
	for name, value := range map[string]string{
		"PATH":            binary + string(os.PathListSeparator) + env.Getenv("PATH"),
		"HOME":            filepath.Join(env.WorkDir, "home"),
		"XDG_CONFIG_HOME": filepath.Join(env.WorkDir, "home", "config"),
		"XDG_RUNTIME_DIR": filepath.Join(env.WorkDir, "home", "run"),
		"REGISTRY":        r.host(),
		"MODE":            mode,
		"TESTDATA":        testdata,
		"KEYS":            keys,
		"KEY":             filepath.Join(keys, "p256.pkcs8.pem"),
		"PUB":             filepath.Join(keys, "p256.pub.pem"),
		"KEY2":            filepath.Join(keys, "p384.pkcs8.pem"),
		"PUB2":            filepath.Join(keys, "p384.pub.pem"),
	} {
		env.Setenv(name, value)
	}
	return nil
}

// copyKeys copies the test keys, readable for their owner only: git does not
// keep modes, and modelsig warns of keys that everybody can read.
func copyKeys(from, to string) error {
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o600)
	})
}
