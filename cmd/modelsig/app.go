package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/oci"
)

// app is what commands share: where to write, and the client.
type app struct {
	globalFlags
	stdin          io.Reader
	stdout, stderr io.Writer

	logger  *slog.Logger
	logFile *os.File
	bar     *progress
	token   io.Closer // a key's, until the end
	tokenMu sync.Mutex
	tracing *tracing // nil: no spans
}

func (a *app) setUp() error {
	if a.Timeout < 0 || a.StallTimeout <= 0 {
		return errors.New("--timeout and --stall-timeout take a time that is longer than none")
	}
	if a.LogLevel == "silent" {
		a.logger = slog.New(slog.DiscardHandler)
		return nil
	}
	w := a.stderr
	if a.OutputFile != "" {
		f, err := os.OpenFile(a.OutputFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return err
		}
		a.logFile, w = f, f
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.LogLevel)); err != nil {
		return err
	}
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: printableAttr}
	var h slog.Handler = slog.NewTextHandler(w, options)
	if a.LogFormat == "json" {
		h = slog.NewJSONHandler(w, options)
	}
	a.logger = slog.New(h)
	return nil
}

// printableAttr escapes what a terminal would act on, in values that come from
// elsewhere; slog's JSON leaves C1 and bidi characters as they are (rule 36).
func printableAttr(_ []string, attr slog.Attr) slog.Attr {
	switch value := attr.Value.Any().(type) {
	case string:
		attr.Value = slog.StringValue(printable(value))
	case error:
		attr.Value = slog.StringValue(printable(value.Error()))
	}
	return attr
}

func (a *app) close() {
	a.bar.finish()
	a.hold(nil)
	if a.logFile != nil {
		_ = a.logFile.Close() // nothing is left to be told about it
	}
}

// hold keeps a token open until the program ends, in place of one that it held
// before. The command may still be at work by then: see await.
func (a *app) hold(token io.Closer) {
	a.tokenMu.Lock()
	defer a.tokenMu.Unlock()
	if a.token != nil {
		_ = a.token.Close() // what was signed is signed
	}
	a.token = token
}

// registryFlags say how registries are reached, in oras's words.
type registryFlags struct {
	PlainHTTP      bool     `name:"plain-http" help:"Speak HTTP to the registry." group:"Registry"`
	Insecure       bool     `help:"Do not check the registry's TLS certificate." group:"Registry"`
	CAFile         string   `name:"ca-file" placeholder:"FILE" help:"Trust these CA certificates for the registry too." group:"Registry"`
	CertFile       string   `name:"cert-file" placeholder:"FILE" help:"TLS client certificate." group:"Registry"`
	KeyFile        string   `name:"key-file" placeholder:"FILE" help:"Key of the TLS client certificate." group:"Registry"`
	RegistryConfig []string `name:"registry-config" sep:"none" placeholder:"FILE" help:"Credentials file, instead of Docker's and Podman's." group:"Registry"`
	Username       string   `placeholder:"NAME" help:"User of the registry." group:"Registry"`
	PasswordStdin  bool     `name:"password-stdin" help:"Read the registry password from standard input." group:"Registry"`
}

// maxSecret bounds passwords and key files that are read.
const maxSecret = 64 << 10

// client makes the library's client from the flags. targets say which registry
// a password from the command line is for: it goes to that one and to no other.
func (a *app) client(r registryFlags, targets []modelsig.Target) (*modelsig.Client, error) {
	o := oci.Options{
		PlainHTTP:             r.PlainHTTP,
		InsecureSkipTLSVerify: r.Insecure,
		CAFile:                r.CAFile,
		CertFile:              r.CertFile,
		KeyFile:               r.KeyFile,
		StallTimeout:          a.StallTimeout,
		UserAgent:             "modelsig/" + version(),
	}
	switch {
	case r.PasswordStdin && r.Username == "":
		return nil, errors.New("--password-stdin needs --username")
	case r.Username != "" && !r.PasswordStdin:
		return nil, errors.New("--username needs --password-stdin: a password does not belong on a command line")
	case r.Username != "":
		data, err := io.ReadAll(io.LimitReader(a.stdin, maxSecret+1))
		if err != nil {
			return nil, fmt.Errorf("read the registry password: %w", err)
		}
		if len(data) > maxSecret {
			return nil, fmt.Errorf("--password-stdin: more than %d bytes", maxSecret)
		}
		password := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
		if password == "" {
			return nil, errors.New("--password-stdin: standard input is empty")
		}
		host, err := oneRegistry(targets)
		if err != nil {
			return nil, err
		}
		o.Credentials = oci.StaticCredentials(host, r.Username, password)
	default:
		credentials, err := oci.DockerCredentials(r.RegistryConfig...)
		if err != nil {
			return nil, err
		}
		o.Credentials = credentials
	}
	c := &modelsig.Client{Registry: o, Logger: a.logger, Tracer: a.tracing.tracer()}
	c.Reads = func(target string, n int64) {
		fmt.Fprintf(a.stderr, "note: reading %s of layers of %s\n", bytesText(n), printable(target))
	}
	if a.showsProgress() {
		a.bar = &progress{w: a.stderr}
		c.Progress = a.bar.set
	}
	return c, nil
}

// oneRegistry is the registry that all targets are in.
func oneRegistry(targets []modelsig.Target) (string, error) {
	host := ""
	for _, t := range targets {
		if t.Registry == "" || t.Registry == host {
			continue
		}
		if host != "" {
			return "", fmt.Errorf("--username is for one registry, and the targets are in %s and %s", host, t.Registry)
		}
		host = t.Registry
	}
	if host == "" {
		return "", errors.New("--username: no target is in a registry")
	}
	return host, nil
}

// showsProgress: only where a person watches.
func (a *app) showsProgress() bool {
	f, ok := a.stderr.(*os.File)
	return ok && !a.NoProgress && a.Format == "text" && term.IsTerminal(int(f.Fd()))
}

// progress is a bar that appears with the first byte of one act and goes away
// before its answer.
type progress struct {
	w   io.Writer
	mu  sync.Mutex
	bar *progressbar.ProgressBar
}

// worthShowing: less is done before a person has read the bar.
const worthShowing = 64 << 20

func (p *progress) set(done, total int64) {
	if total < worthShowing {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar == nil {
		p.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(p.w),
			progressbar.OptionShowBytes(true),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(),
			progressbar.OptionFullWidth(),
		)
	}
	_ = p.bar.Set64(min(done, total)) // a bar that cannot be drawn is no reason to fail
}

// progressLines is progress where nobody watches: a line each tenth, for logs.
type progressLines struct {
	w     io.Writer
	mu    sync.Mutex
	tenth int64
}

func (p *progressLines) set(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if tenth := done / (total/10 + 1); total >= worthShowing && tenth > p.tenth {
		p.tenth = tenth
		fmt.Fprintf(p.w, "progress: %s of %s\n", bytesText(done), bytesText(total))
	}
}

func (p *progress) finish() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
		p.bar = nil
	}
}
