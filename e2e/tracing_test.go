//go:build unix

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// collectors by what they do with spans.
var collectors = map[string]func(r *registry) http.HandlerFunc{
	"answers": takeSpans,
	// Reads what is sent, and never answers.
	"hangs": func(*registry) http.HandlerFunc {
		return func(_ http.ResponseWriter, req *http.Request) {
			_, _ = io.Copy(io.Discard, req.Body)
			<-req.Context().Done()
		}
	},
	// Asks to be asked again, for ever.
	"throttles": func(*registry) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	},
	// Denies, with words that would act on a terminal, and with many.
	"denies": func(*registry) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, "\x1b]0;x\x07\u202e", strings.Repeat("no ", 1<<20))
		}
	},
	// Sends spans and their headers to another origin, which takes them.
	"redirects": func(r *registry) http.HandlerFunc {
		elsewhere := r.open(takeSpans(r))
		return http.RedirectHandler(elsewhere.URL+"/v1/traces", http.StatusTemporaryRedirect).ServeHTTP
	},
	// An address at which nobody listens.
	"gone": func(*registry) http.HandlerFunc { return nil },
	// Over OTLP/gRPC: see openGRPC.
	"grpc":       nil,
	"grpc-hangs": nil,
}

// grpcCollector takes spans over OTLP/gRPC, or never answers.
type grpcCollector struct {
	collectorpb.UnimplementedTraceServiceServer
	r     *registry
	hangs bool
}

func (c grpcCollector) Export(ctx context.Context, batch *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	if c.hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.r.spans = append(c.r.spans, batch.ResourceSpans...)
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

func (r *registry) openGRPC(ts *testscript.TestScript, hangs bool) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(server, grpcCollector{r: r, hangs: hangs})
	go server.Serve(listener) // until Stop
	ts.Defer(server.Stop)
	ts.Setenv("COLLECTOR", "http://"+listener.Addr().String())
	return nil
}

func takeSpans(r *registry) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		if err := r.collect(req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}
}

// openCollector starts an OTLP/HTTP collector at $COLLECTOR.
func openCollector(_ context.Context, ts *testscript.TestScript, args []string) error {
	behave, ok := collectors[args[0]]
	if !ok {
		return fmt.Errorf("no collector %q", args[0])
	}
	r := registryOf(ts)
	if hangs := args[0] == "grpc-hangs"; hangs || args[0] == "grpc" {
		return r.openGRPC(ts, hangs)
	}
	server := r.open(behave(r))
	if args[0] == "gone" {
		server.Close()
	}
	ts.Setenv("COLLECTOR", server.URL)
	return nil
}

// collect keeps the spans of a request.
func (r *registry) collect(req *http.Request) error {
	if req.Method != http.MethodPost || req.URL.Path != "/v1/traces" || req.Header.Get("Content-Type") != "application/x-protobuf" {
		return fmt.Errorf("%s %s of type %q is no OTLP", req.Method, req.URL.Path, req.Header.Get("Content-Type"))
	}
	data, err := io.ReadAll(req.Body)
	if err != nil {
		return err
	}
	var batch collectorpb.ExportTraceServiceRequest
	if err := proto.Unmarshal(data, &batch); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spans = append(r.spans, batch.ResourceSpans...)
	return nil
}

// printSpans prints what collectors got since the last time, one span a line in
// the order in which they ended:
//
//	SERVICE: NAME < PARENT STATUS "MESSAGE" ATTRIBUTE=VALUE…
//
// Everything in a span must be harmless to those who look at it (rule 36).
func printSpans(_ context.Context, ts *testscript.TestScript, _ []string) error {
	r := registryOf(ts)
	r.mu.Lock()
	batches := r.spans
	r.spans = nil
	r.mu.Unlock()
	names := map[string]string{}
	var lines []string
	each := func(visit func(service string, span *tracepb.Span)) {
		for _, batch := range batches {
			service := ""
			for _, a := range batch.Resource.Attributes {
				if a.Key == "service.name" {
					service = a.Value.GetStringValue()
				}
			}
			for _, scope := range batch.ScopeSpans {
				for _, span := range scope.Spans {
					visit(service, span)
				}
			}
		}
	}
	each(func(_ string, span *tracepb.Span) { names[string(span.SpanId)] = span.Name })
	each(func(service string, span *tracepb.Span) {
		line := service + ": " + span.Name
		if parent := string(span.ParentSpanId); parent != "" {
			line += " < " + names[parent]
		}
		line += fmt.Sprintf(` %s "%s"`, strings.TrimPrefix(span.Status.GetCode().String(), "STATUS_CODE_"), span.Status.GetMessage())
		var attributes []string
		for _, a := range span.Attributes {
			attributes = append(attributes, a.Key+"="+valueText(a.Value))
		}
		slices.Sort(attributes)
		lines = append(lines, line+" "+strings.Join(attributes, " "))
	})
	for _, line := range lines {
		if err := harmless("span", line); err != nil {
			return err
		}
		fmt.Fprintln(ts.Stdout(), line)
	}
	fmt.Fprintf(ts.Stdout(), "%d spans\n", len(lines))
	return nil
}

// valueText prints an attribute's value as it is: what is not harmless must be
// found.
func valueText(v *commonpb.AnyValue) string {
	switch v := v.Value.(type) {
	case *commonpb.AnyValue_StringValue:
		return `"` + v.StringValue + `"`
	case *commonpb.AnyValue_IntValue:
		return fmt.Sprint(v.IntValue)
	case *commonpb.AnyValue_BoolValue:
		return fmt.Sprint(v.BoolValue)
	case *commonpb.AnyValue_ArrayValue:
		var all []string
		for _, element := range v.ArrayValue.Values {
			all = append(all, valueText(element))
		}
		return "[" + strings.Join(all, " ") + "]"
	}
	return fmt.Sprintf("%T", v.Value)
}

// Spans are in the default build. Scripts that build with -tags=otel, as other
// tools want it, get the very same program.
func TestTheTagOtelSelectsTheSameFiles(t *testing.T) {
	list := func(tags string) string {
		cmd := exec.Command("go", "list", "-deps", "-tags="+tags, "-f", "{{.ImportPath}} {{.GoFiles}} {{.IgnoredGoFiles}}", "../cmd/modelsig")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", cmd, err)
		}
		return string(out)
	}
	without, with := list(""), list("otel")
	if !strings.Contains(without, "modelsig/cmd/modelsig ") || !strings.Contains(without, "otlptracehttp ") {
		t.Fatalf("not the list of what modelsig is built from: %.200q", without)
	}
	if with != without {
		t.Errorf("with the tag:\n%s\nwithout:\n%s", with, without)
	}
}
