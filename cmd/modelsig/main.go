// Command modelsig signs machine-learning models where they live, in OCI
// registries, and verifies them there, in image layouts and in folders.
//
// A command is a struct: its fields are the flags, its Run makes one call of
// the library and prints the answer. main parses, runs and exits.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/verify"
)

// Exit codes, as cmp and grep have them.
const (
	exitYes     = 0
	exitNo      = 1   // refused: for certain
	exitTrouble = 2   // could not tell, or could not do
	exitSignal  = 130 // interrupted
)

type cli struct {
	Sign     signCmd     `cmd:"" help:"Sign a model: an artifact in a registry or image layout, a folder, a file, a manifest."`
	Verify   verifyCmd   `cmd:"" help:"Say whether a model is signed by whom you trust."`
	Pull     pullCmd     `cmd:"" help:"Verify a model, and download it: all of it, or nothing."`
	Push     pushCmd     `cmd:"" help:"Upload a folder to a registry, one raw layer a file."`
	List     listCmd     `cmd:"" help:"List what is attached to an artifact (not verified)."`
	Inspect  inspectCmd  `cmd:"" help:"Print what a bundle says (not verified)."`
	Attach   attachCmd   `cmd:"" help:"Attach a bundle that was made elsewhere, if it is about this artifact (not verified)."`
	Download downloadCmd `cmd:"" help:"Write the attached bundles to files (not verified)."`
	Copy     copyCmd     `cmd:"" help:"Copy an artifact with all that is attached to it: between registries, layouts and archives."`
	Doctor   doctorCmd   `cmd:"" help:"Say how what is attached is listed, what is wrong with that, and repair it."`
	Delete   deleteCmd   `cmd:"" help:"Delete one attached bundle. Models are never deleted."`
	Digest   digestCmd   `cmd:"" help:"Print the OMS root digest of a model, and its files."`
	Keygen   keygenCmd   `cmd:"" help:"Make a key pair for signing."`
	Registry registryCmd `cmd:"" help:"Serve an in-memory registry on loopback, to try things."`
	Version  versionCmd  `cmd:"" help:"Print the version."`

	globalFlags
}

// globalFlags stand on every command.
type globalFlags struct {
	Format       string        `enum:"text,json,ref" default:"text" help:"Answer as text, as one JSON object, or as REPO@DIGEST alone (${enum})."`
	LogLevel     string        `enum:"debug,info,warn,error,silent" default:"warn" help:"What to log (${enum})."`
	LogFormat    string        `enum:"text,json" default:"text" help:"How to log (${enum})."`
	OutputFile   string        `placeholder:"FILE" help:"Log to a file instead of stderr."`
	Timeout      time.Duration `placeholder:"DURATION" help:"Give up after this long. Default: never."`
	StallTimeout time.Duration `default:"60s" help:"Give up on a registry that sends no byte for this long."`
	NoProgress   bool          `help:"Never show progress."`
}

// collectAt is the collector's room in percent of what is live, where GOGC does
// not say otherwise: half the default. With it, models of hundreds of thousands
// of files stay below 96 MiB and 1 KiB a file, for a twentieth more time.
const collectAt = 50

// startAt is the room until the first collection, which comes at 16 MiB. Most
// acts end before it, and are a fifth faster for that.
const startAt = 400

func main() {
	if _, set := os.LookupEnv("GOGC"); !set {
		debug.SetGCPercent(startAt)
		// The first collection finds that nobody needs these bytes, and says so.
		runtime.AddCleanup(new([64]byte), func(percent int) { debug.SetGCPercent(percent) }, collectAt)
	}
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// exited is how kong's own exits (help) come back to run.
type exited int

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(exited)
			if !ok {
				panic(r)
			}
			code = int(e)
		}
	}()
	var c cli
	parser, err := kong.New(&c,
		kong.Name("modelsig"),
		kong.Description("Sign machine-learning models where they live, in OCI registries, and refuse what is not signed."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { panic(exited(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.Vars{"threats": threatNames(), "layouts": strings.Join(oci.Layouts(), ",")},
	)
	if err != nil {
		panic(err) // the structs above are wrong
	}
	args = normalize(args)
	if len(args) == 0 {
		args = []string{"--help"}
	}
	kctx, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "error: %s\n", printable(err.Error()))
		fmt.Fprintln(stderr, "hint: "+usageHint(err))
		return exitTrouble
	}
	a := &app{globalFlags: c.globalFlags, stdin: stdin, stdout: stdout, stderr: stderr}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer a.close()
	if a.tracing, err = startTracing(ctx, kctx.Command()); err != nil {
		return a.fail(ctx, err)
	}
	ctx, span := a.tracing.start(ctx, kctx.Command())
	defer func() { a.warn(a.tracing.stop(ctx, span, code)...) }()
	if c.Format == formatRef && !slices.Contains([]string{"sign", "verify", "pull", "push", "list", "digest", "attach", "download", "copy", "doctor"}, strings.Fields(kctx.Command())[0]) {
		return a.fail(ctx, errors.New("--format ref prints REPO@DIGEST, and this command has none"))
	}
	work := ctx
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		work, cancel = context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("no answer within %v (--timeout)", c.Timeout))
		defer cancel()
	}
	kctx.BindTo(work, (*context.Context)(nil))
	return a.fail(ctx, await(work, func() error {
		if err := a.setUp(); err != nil {
			return err
		}
		return kctx.Run(a)
	}))
}

// await runs a command, and does not wait for it longer than ctx: opening a
// pipe that nobody writes to, or reading from one, knows no context.
func await(ctx context.Context, command func() error) error {
	done := make(chan error, 1)
	go func() { done <- command() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	// Most commands end by themselves now, with an answer.
	grace := time.NewTimer(time.Second)
	defer grace.Stop()
	select {
	case err := <-done:
		return err
	case <-grace.C:
		return context.Cause(ctx)
	}
}

// normalize reads --some_flag as --some-flag, as the OMS tools do, up to a
// bare --.
func normalize(args []string) []string {
	out := make([]string, len(args))
	copy(out, args)
	for i, arg := range out {
		if arg == "--" {
			break
		}
		if strings.HasPrefix(arg, "--") {
			name, value, found := strings.Cut(arg, "=")
			out[i] = strings.ReplaceAll(name, "_", "-")
			if found {
				out[i] += "=" + value
			}
		}
	}
	return out
}

// A hinted error says what a person may do next.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// answered is returned by commands that printed a no themselves: it carries
// the exit code.
type answered struct {
	code int
	err  error // what stderr says; nil: nothing
}

func (a *answered) Error() string { return fmt.Sprintf("exit status %d", a.code) }

// fail prints what went wrong and returns the exit code.
func (a *app) fail(ctx context.Context, err error) int {
	if err == nil {
		return exitYes
	}
	code := exitCode(err)
	if already, ok := errors.AsType[*answered](err); ok {
		code, err = already.code, already.err
	}
	if ctx.Err() != nil {
		fmt.Fprintln(a.stderr, "error: interrupted")
		return exitSignal
	}
	if err != nil {
		fmt.Fprintf(a.stderr, "error: %s\n", printable(err.Error()))
		if h := hint(err); h != "" {
			fmt.Fprintf(a.stderr, "hint: %s\n", printable(h))
		}
	}
	return code
}

// exitCode is 1 for what is refused for certain and 2 for everything else.
func exitCode(err error) int {
	_, threat := errors.AsType[*manifest.ThreatError](err)
	switch {
	case err == nil:
		return exitYes
	case errors.Is(err, modelsig.ErrRefused) || threat || errors.Is(err, manifest.ErrChanged):
		return exitNo
	}
	return exitTrouble
}

// hint says what a person may do about an error. It never says how to accept
// what was refused.
func hint(err error) string {
	if h, ok := errors.AsType[*hinted](err); ok {
		return h.hint
	}
	switch {
	case hasCode(err, manifest.CodeSnapshotLink):
		return "--allow-symlinks follows the links of a Hugging Face cache into its blobs"
	case errors.Is(err, modelsig.ErrRefused):
		return ""
	case errors.Is(err, oci.ErrIndex):
		return "--platform OS/ARCH takes one of its manifests"
	case errors.Is(err, modelsig.ErrOccupied):
		return "--overwrite replaces all that is in it"
	case errors.Is(err, http.ErrSchemeMismatch):
		return "the registry speaks HTTP: --plain-http"
	}
	return ""
}

// hasCode reports whether a threat of that code is what err is about.
func hasCode(err error, code string) bool {
	if threat, ok := errors.AsType[*manifest.ThreatError](err); ok && threat.Code == code {
		return true
	}
	denied, ok := errors.AsType[*modelsig.Denial](err)
	return ok && slices.ContainsFunc(denied.Verification.Reasons, func(r verify.Reason) bool { return r.Code == code })
}

// usageHint knows the commonest slip: the method comes after the verb.
func usageHint(err error) string {
	for _, flag := range []string{"--private-key", "--public-key", "--key", "--signing-certificate", "--certificate-chain"} {
		if strings.Contains(err.Error(), "unknown flag "+flag) {
			return "the method comes first: modelsig sign key TARGET, modelsig verify certificate TARGET"
		}
	}
	return "modelsig --help"
}

func threatNames() string {
	var names []string
	for _, t := range manifest.Threats() {
		names = append(names, string(t))
	}
	return strings.Join(names, ", ")
}
