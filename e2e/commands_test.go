//go:build unix

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/file"
	"oras.land/oras-go/v2/registry/remote"
)

// A command of scripts. An error fails the script.
type command func(ctx context.Context, ts *testscript.TestScript, args []string) error

// commands are ours, beside testscript's own.
func commands() map[string]func(*testscript.TestScript, bool, []string) {
	all := map[string]struct {
		least int // arguments
		run   command
	}{
		"exits":          {2, exits},
		"raw-manifest":   {1, rawManifest},
		"put-manifest":   {2, putManifest},
		"put-fallback":   {2, putFallback},
		"put-blob":       {3, putBlob},
		"oras-pull":      {2, orasPull},
		"same-tree":      {2, sameTree},
		"edit":           {2, edit},
		"let":            {3, let},
		"get":            {2, get},
		"write":          {2, write},
		"attack":         {2, attack},
		"attach":         {2, attach},
		"detach":         {1, detach},
		"flood":          {3, flood},
		"sign-statement": {3, signStatement},
		"sign-anyway":    {2, signAnyway},
		"replace":        {3, replace},
		"fault":          {1, openFault},
		"requests":       {0, requests},
		"serve":          {1, serve},
		"authority":      {1, authority},
		"sigstore":       {1, openSigstore},
		"sigstore-break": {3, breakSigstore},
		"sigstore-asked": {1, sigstoreRequests},
		"token":          {2, identityToken},
		"collector":      {1, openCollector},
		"spans":          {0, printSpans},
		"packed":         {1, packed},
		"sixteen":        {1, sixteen},
		"serve-binary":   {0, serveBinary},
		"interrupt":      {1, interrupt},
		"kill-often":     {4, killOften},
		"mkfifo":         {1, mkfifo},
		"harmless":       {1, harmlessFile},
		"normalize":      {1, normalize},
	}
	out := map[string]func(*testscript.TestScript, bool, []string){}
	for name, c := range all {
		out[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			if neg || len(args) < c.least {
				ts.Fatalf("usage: %s with at least %d arguments, and no !", name, c.least)
			}
			if err := c.run(context.Background(), ts, args); err != nil {
				ts.Fatalf("%s: %v", name, err)
			}
		}
	}
	return out
}

// exits runs a program and demands its exit code. What modelsig says is
// checked as well.
func exits(_ context.Context, ts *testscript.TestScript, args []string) error {
	want, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exited, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			return err
		}
		code = exited.ExitCode()
	}
	if code != want {
		return fmt.Errorf("exit %d, want %d", code, want)
	}
	if args[1] != "modelsig" {
		return nil
	}
	stdout, stderr := ts.ReadFile("stdout"), ts.ReadFile("stderr")
	switch {
	case code != 0 && !slices.ContainsFunc(strings.Split(stderr, "\n"), func(line string) bool { return strings.HasPrefix(line, "error: ") }):
		return fmt.Errorf("exit %d without a line error: … on stderr", code)
	case strings.Contains(stderr, "goroutine "):
		return errors.New("a panic")
	case strings.HasPrefix(stdout, "{\n"):
		if err := validate([]byte(stdout)); err != nil {
			return err
		}
	}
	return errors.Join(harmless("stdout", stdout), harmless("stderr", stderr))
}

// harmless finds what a terminal would act on: control characters, and those
// that change direction or cannot be seen (rule 36).
func harmless(name, text string) error {
	if !utf8.ValidString(text) {
		return fmt.Errorf("%s is not UTF-8", name)
	}
	for i, r := range text {
		if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
			return fmt.Errorf("%s has %U at byte %d", name, r, i)
		}
	}
	return nil
}

func harmlessFile(_ context.Context, ts *testscript.TestScript, args []string) error {
	return harmless(args[0], ts.ReadFile(args[0]))
}

func rawManifest(ctx context.Context, ts *testscript.TestScript, args []string) error {
	p, err := at(args[0])
	if err != nil {
		return err
	}
	data, _, err := registryOf(ts).manifest(ctx, p)
	if err != nil {
		return err
	}
	_, err = ts.Stdout().Write(data)
	return err
}

func putManifest(ctx context.Context, ts *testscript.TestScript, args []string) error {
	p, err := at(args[0])
	if err != nil {
		return err
	}
	mediaType := "application/vnd.oci.image.manifest.v1+json"
	if len(args) > 2 {
		mediaType = args[2]
	}
	desc, err := registryOf(ts).backend.PushManifest(ctx, p.repo, p.tag, []byte(ts.ReadFile(args[1])), mediaType)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(ts.Stdout(), desc.Digest)
	return err
}

func putFallback(ctx context.Context, ts *testscript.TestScript, args []string) error {
	p, err := at(args[0])
	if err != nil {
		return err
	}
	mediaType := "application/vnd.oci.image.index.v1+json"
	if len(args) > 2 {
		mediaType = args[2]
	}
	_, err = registryOf(ts).backend.PushManifest(ctx, p.repo, fallbackTag(p.digest), []byte(ts.ReadFile(args[1])), mediaType)
	return err
}

func putBlob(ctx context.Context, ts *testscript.TestScript, args []string) error {
	p, err := at(args[0])
	if err != nil {
		return err
	}
	desc, err := registryOf(ts).putBlob(ctx, p.repo, []byte(ts.ReadFile(args[1])))
	if err != nil {
		return err
	}
	ts.Setenv(args[2], string(desc.Digest))
	ts.Setenv(args[2]+"_SIZE", strconv.FormatInt(desc.Size, 10))
	return nil
}

// orasPull does what oras pull does, with the library that it is made of.
func orasPull(ctx context.Context, ts *testscript.TestScript, args []string) error {
	repo, err := remote.NewRepository(args[0])
	if err != nil {
		return err
	}
	repo.PlainHTTP = true
	dir, err := file.New(ts.MkAbs(args[1]))
	if err != nil {
		return err
	}
	_, err = oras.Copy(ctx, repo, repo.Reference.Reference, dir, "", oras.DefaultCopyOptions)
	return errors.Join(err, dir.Close())
}

func sameTree(_ context.Context, ts *testscript.TestScript, args []string) error {
	a, err := readTree(ts.MkAbs(args[0]))
	if err != nil {
		return err
	}
	b, err := readTree(ts.MkAbs(args[1]))
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if got, ok := b[name]; !ok || got != a[name] {
			return fmt.Errorf("%q differs (there: %v)", name, ok)
		}
		delete(b, name)
	}
	if len(b) > 0 {
		return fmt.Errorf("only in %s: %q", args[1], slices.Sorted(maps.Keys(b)))
	}
	return nil
}

func readTree(dir string) (map[string]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		files[filepath.ToSlash(rel)] = string(data)
		return err
	})
	return files, err
}

// write makes a file with bytes that a txtar cannot hold.
func write(_ context.Context, ts *testscript.TestScript, args []string) error {
	names := make([]string, 2)
	for i, arg := range args[:2] {
		text, err := strconv.Unquote(`"` + strings.ReplaceAll(arg, `"`, `\"`) + `"`)
		if err != nil {
			return fmt.Errorf("%q: %w", arg, err)
		}
		names[i] = text
	}
	path := ts.MkAbs(names[0])
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(names[1]), 0o644)
}

// replace changes text in a file that is no JSON, or should not be.
func replace(_ context.Context, ts *testscript.TestScript, args []string) error {
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		return fmt.Errorf("%s does not have %q", args[0], args[1])
	}
	return os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(text, args[1], args[2])), 0o644)
}

// What differs from run to run.
var varying = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "HEX"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "TIME"},
	{regexp.MustCompile(`"size": \d+`), `"size": N`}, // an ECDSA signature has 70 to 72 bytes, rarely fewer
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "REGISTRY"},
}

// normalize prints a file with fixed words for what varies.
func normalize(_ context.Context, ts *testscript.TestScript, args []string) error {
	text := ts.ReadFile(args[0])
	for _, v := range varying {
		text = v.pattern.ReplaceAllString(text, v.with)
	}
	_, err := ts.Stdout().Write([]byte(text))
	return err
}
