package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr/funcr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const (
	// maxFlush bounds how long a collector that does not answer keeps a
	// command from its exit. Spans are worth a moment, not a deployment.
	maxFlush = 5 * time.Second
	// maxComplaint bounds what a warning repeats of a collector's answer, in
	// bytes; the exporter reads up to 4 MiB of it.
	maxComplaint = 256
)

// traced are the commands that make spans: those that sign and verify. The
// others neither read the variables nor complain of them.
func traced(command string) bool {
	return slices.Contains([]string{"sign", "verify", "pull", "push"}, strings.Fields(command)[0])
}

// tracing sends the spans of one command to a collector. nil does nothing.
type tracing struct {
	provider *sdktrace.TracerProvider

	mu  sync.Mutex
	err error // the first complaint; the exporter has them in the background
}

// startTracing reads the standard variables. Without OTEL_TRACES_EXPORTER or an
// endpoint there is nothing to do, and nothing is done: no provider, no
// goroutine. It dials nobody; the first batch of spans does.
//
// Values that cannot be used are errors here, before anything is signed, and
// are not repeated where they may hold a credential.
func startTracing(ctx context.Context, command string) (*tracing, error) {
	exporter := env("OTEL_TRACES_EXPORTER")
	endpoints := []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"}
	named := slices.ContainsFunc(endpoints, func(name string) bool { return env(name) != "" })
	switch {
	case !traced(command), strings.EqualFold(env("OTEL_SDK_DISABLED"), "true"):
		return nil, nil
	case exporter == "none", exporter == "" && !named:
		return nil, nil
	case exporter != "" && exporter != "otlp":
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER is %q: want otlp or none", exporter)
	}
	for _, name := range endpoints {
		if err := checkEndpoint(env(name)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}

	t := &tracing{}
	// OpenTelemetry complains to these two, for the whole process, and by
	// default writes to stderr as it likes, with the values of its variables:
	// headers among them, which are credentials.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(t.complain))
	otel.SetLogger(funcr.New(
		func(_, message string) { t.complain(errors.New(message)) },
		funcr.Options{RenderArgsHook: func([]any) []any { return nil }},
	))
	client, err := newExporter(ctx, named)
	if err != nil {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_…: %w", err)
	}
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(
			attribute.String("service.name", "modelsig"),
			attribute.String("service.version", version()),
		),
		resource.WithFromEnv(), // last: it wins
	)
	if err != nil {
		return nil, errors.New("OTEL_RESOURCE_ATTRIBUTES: want NAME=VALUE, separated by commas")
	}
	// Empty means unset; the SDK takes it for the name of a sampler.
	for _, name := range []string{"OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"} {
		if env(name) == "" {
			_ = os.Unsetenv(name) // fails only for names that are none
		}
	}
	t.provider = sdktrace.NewTracerProvider(sdktrace.WithBatcher(client), sdktrace.WithResource(about))
	if t.err != nil {
		return nil, fmt.Errorf("a variable OTEL_… cannot be used: %w", t.err)
	}
	return t, nil
}

// newExporter speaks the protocol that the variables name. named says that they
// name an endpoint as well; the defaults are the specification's, and not those
// of the exporters, which are HTTPS.
func newExporter(ctx context.Context, named bool) (sdktrace.SpanExporter, error) {
	protocol := env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
	if protocol == "" {
		protocol = env("OTEL_EXPORTER_OTLP_PROTOCOL")
	}
	switch protocol {
	case "", "http/protobuf":
		options := []otlptracehttp.Option{otlptracehttp.WithProxy(withoutRedirects)}
		if !named {
			options = append(options, otlptracehttp.WithEndpointURL("http://localhost:4318/v1/traces"))
		}
		return otlptracehttp.New(ctx, options...)
	case "grpc":
		var options []otlptracegrpc.Option
		if !named {
			options = append(options, otlptracegrpc.WithEndpointURL("http://localhost:4317"))
		}
		return otlptracegrpc.New(ctx, options...)
	}
	return nil, fmt.Errorf("the protocol is %q: want http/protobuf or grpc", protocol)
}

// env is a variable as OpenTelemetry reads it: empty means unset.
func env(name string) string { return strings.TrimSpace(os.Getenv(name)) }

// checkEndpoint refuses what the exporter would quietly read as something else.
func checkEndpoint(value string) error {
	if value == "" {
		return nil
	}
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("not an http or https URL")
	}
	if u.User != nil {
		return errors.New("credentials belong in OTEL_EXPORTER_OTLP_HEADERS")
	}
	return nil
}

// withoutRedirects is where the exporter asks for a proxy, before each request.
// Headers with credentials must not follow a collector to another origin
// (rule 17), and nothing else can stop them.
func withoutRedirects(req *http.Request) (*url.URL, error) {
	if req.Response != nil {
		return nil, errors.New("redirected: refused")
	}
	return http.ProxyFromEnvironment(req)
}

// complain keeps the first complaint.
func (t *tracing) complain(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.err = err
	}
}

// tracer is what the library's client gets: nil is the global one of the API,
// which we never set, so that no dependency sends spans of its own.
func (t *tracing) tracer() trace.TracerProvider {
	if t == nil {
		return nil
	}
	return t.provider
}

// start begins the span of a command, whose children are its targets. It is
// there for what fails before there is a target.
func (t *tracing) start(ctx context.Context, command string) (context.Context, trace.Span) {
	if t == nil {
		return ctx, nil
	}
	words := slices.DeleteFunc(strings.Fields(command), func(word string) bool { return strings.HasPrefix(word, "<") || strings.HasPrefix(word, "[") })
	return t.provider.Tracer("github.com/modelsig/modelsig/cmd/modelsig").Start(ctx, "modelsig "+strings.Join(words, " "))
}

// stop ends the command's span with the exit code, and sends what was not sent
// yet, whatever the command ended with. It returns warnings: spans that cannot
// be sent change no answer.
//
// What the command said on stderr is not in its span: it may repeat arguments.
func (t *tracing) stop(ctx context.Context, span trace.Span, code int) []string {
	if t == nil {
		return nil
	}
	span.SetAttributes(attribute.Int("process.exit.code", code))
	if code != exitYes {
		span.SetStatus(codes.Error, fmt.Sprintf("exit status %d", code))
	}
	span.End()
	// An interrupted command has spans, too.
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), maxFlush, fmt.Errorf("no answer within %v", maxFlush))
	defer cancel()
	for _, flush := range []func(context.Context) error{t.provider.ForceFlush, t.provider.Shutdown} {
		err := flush(ctx)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			t.complain(err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		return nil
	}
	message := t.err.Error()
	if len(message) > maxComplaint {
		message = message[:maxComplaint] + "…"
	}
	return []string{"not all spans were sent: " + message}
}
