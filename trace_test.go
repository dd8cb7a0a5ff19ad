package modelsig_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/modelsig/modelsig"
)

// newTracer returns a provider, and what it was given.
func newTracer(t testing.TB) (*sdktrace.TracerProvider, *tracetest.SpanRecorder) {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	t.Cleanup(func() {
		if open := len(recorder.Started()) - len(recorder.Ended()); open != 0 {
			t.Errorf("%d spans were not ended", open)
		}
	})
	return provider, recorder
}

// spanNames are the spans by name, each with its parent's: "hash < Sign".
func spanNames(spans []sdktrace.ReadOnlySpan) []string {
	var out []string
	for _, s := range spans {
		name := s.Name()
		for _, parent := range spans {
			if parent.SpanContext().SpanID() == s.Parent().SpanID() {
				name += " < " + parent.Name()
			}
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// spanAttributes are those of the one span of that name.
func spanAttributes(t testing.TB, spans []sdktrace.ReadOnlySpan, name string) map[attribute.Key]attribute.Value {
	t.Helper()
	out := map[attribute.Key]attribute.Value{}
	for _, kv := range spanNamed(t, spans, name).Attributes() {
		out[kv.Key] = kv.Value
	}
	return out
}

func spanNamed(t testing.TB, spans []sdktrace.ReadOnlySpan, name string) sdktrace.ReadOnlySpan {
	t.Helper()
	var found []sdktrace.ReadOnlySpan
	for _, s := range spans {
		if s.Name() == name {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d spans are named %s, want 1: %q", len(found), name, spanNames(spans))
	}
	return found[0]
}

func TestEachActOnATargetIsOneSpan(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	raw, err := json.Marshal(tiny())
	if err != nil {
		t.Fatal(err)
	}
	desc := r.put(t, "acme/tiny", "v1", tiny())
	ref := r.host + "/acme/tiny:v1"
	pinned := r.host + "/acme/tiny@" + desc.Digest.String()
	mustSign(t, new(modelsig.Client), ref, signer, modelsig.SignOptions{})
	dir := writeModel(t, map[string]string{"weights.bin": "hello"})
	dirSig := filepath.Join(t.TempDir(), "dir.sig")
	signDir(t, dir, dirSig, signer, modelsig.SignOptions{})
	manifestSig := filepath.Join(t.TempDir(), "manifest.sig")
	sig, err := new(modelsig.Client).SignManifest(t.Context(), raw, "tiny.json", signer, modelsig.SignOptions{})
	if err == nil {
		err = modelsig.WriteSignature(manifestSig, sig.Model.Bundle, false)
	}
	if err != nil {
		t.Fatal(err)
	}
	// It looks like a manifest, and is none: judged as a file.
	notManifest := filepath.Join(writeModel(t, map[string]string{"index.json": `{"schemaVersion": 2}`}), "index.json")
	fileSig := filepath.Join(t.TempDir(), "file.sig")
	signDir(t, notManifest, fileSig, signer, modelsig.SignOptions{})
	against := r.host + "/acme/against:v1"
	pushed, err := new(modelsig.Client).Push(t.Context(), dir, against, modelsig.PushOptions{Signer: signer})
	if err != nil {
		t.Fatal(err)
	}

	type want = map[attribute.Key]any
	for _, tt := range []struct {
		name  string
		act   func(ctx context.Context, c *modelsig.Client) error
		spans []string
		attrs want
	}{
		{
			"signing an artifact",
			func(ctx context.Context, c *modelsig.Client) error {
				_, err := c.Sign(ctx, ref, newSigner(t), modelsig.SignOptions{})
				return err
			},
			[]string{"Sign", "attach < Sign", "list < Sign", "resolve < Sign", "sign < Sign"},
			want{
				"model_signing.target": ref + "@" + desc.Digest.String(), "model_signing.target_kind": "artifact",
				"model_signing.digest": desc.Digest.String(), "model_signing.root": sig.Root, "model_signing.layout": "title",
				"model_signing.method": "key", "model_signing.hash_type": "sha256", "model_signing.serialization": "files",
				"model_signing.files": int64(sig.Files), "model_signing.bytes": sig.Bytes, "model_signing.unchanged": false,
			},
		},
		{
			"signing again",
			func(ctx context.Context, c *modelsig.Client) error {
				_, err := c.Sign(ctx, pinned, signer, modelsig.SignOptions{})
				return err
			},
			[]string{"Sign", "list < Sign", "resolve < Sign"},
			want{"model_signing.unchanged": true, "model_signing.digest": desc.Digest.String()},
		},
		{
			"signing a folder",
			func(ctx context.Context, c *modelsig.Client) error {
				_, err := c.SignDir(ctx, dir, signer, modelsig.SignOptions{})
				return err
			},
			[]string{"Sign", "hash < Sign", "sign < Sign"},
			want{"model_signing.target": dir, "model_signing.target_kind": "directory", "model_signing.files": int64(1), "model_signing.bytes": int64(5)},
		},
		{
			"signing a manifest",
			func(ctx context.Context, c *modelsig.Client) error {
				_, err := c.SignManifest(ctx, raw, "tiny.json", signer, modelsig.SignOptions{})
				return err
			},
			[]string{"Sign", "sign < Sign"},
			want{"model_signing.target": "tiny.json", "model_signing.target_kind": "manifest", "model_signing.digest": desc.Digest.String()},
		},
		{
			"signing what was pushed",
			func(ctx context.Context, c *modelsig.Client) error {
				_, err := c.Push(ctx, dir, r.host+"/acme/pushed:v1", modelsig.PushOptions{Signer: signer})
				return err
			},
			[]string{"Sign", "attach < Sign", "list < Sign", "sign < Sign"},
			want{"model_signing.target_kind": "artifact"},
		},
		{
			"verifying an artifact",
			func(ctx context.Context, c *modelsig.Client) error {
				_, err := c.Verify(ctx, ref, trusts(signer), modelsig.VerifyOptions{})
				return err
			},
			[]string{"Verify", "decide < Verify", "list < Verify", "resolve < Verify"},
			want{
				"model_signing.target": ref, "model_signing.target_kind": "artifact", "model_signing.digest": desc.Digest.String(),
				"model_signing.verdict": "verified", "model_signing.binding": "manifest-digest", "model_signing.method": "key",
			},
		},
		{
			"verifying a folder",
			func(ctx context.Context, c *modelsig.Client) error {
				_, err := c.VerifyDir(ctx, dir, trusts(signer), modelsig.VerifyOptions{SignatureFile: dirSig})
				return err
			},
			[]string{"Verify", "decide < Verify", "hash < decide"},
			want{"model_signing.target_kind": "directory", "model_signing.verdict": "verified", "model_signing.binding": "files", "model_signing.files": int64(1), "model_signing.bytes": int64(5)},
		},
		{
			"verifying a folder against an artifact",
			func(ctx context.Context, c *modelsig.Client) error {
				_, err := c.VerifyDirAgainst(ctx, dir, against, trusts(signer), modelsig.VerifyOptions{})
				return err
			},
			[]string{"Verify", "decide < Verify", "hash < decide", "list < Verify", "resolve < Verify"},
			want{"model_signing.target": dir, "model_signing.reference": pushed.Reference, "model_signing.verdict": "verified"},
		},
		{
			"verifying a manifest",
			func(ctx context.Context, c *modelsig.Client) error {
				_, err := c.VerifyManifest(ctx, raw, "", lenient(signer), modelsig.VerifyOptions{SignatureFile: manifestSig})
				return err
			},
			[]string{"Verify", "decide < Verify"},
			want{"model_signing.target_kind": "manifest", "model_signing.verdict": "verified", "model_signing.digest": desc.Digest.String()},
		},
		{
			"verifying a file that only looks like a manifest",
			func(ctx context.Context, c *modelsig.Client) error {
				data, err := os.ReadFile(notManifest)
				if err != nil {
					return err
				}
				_, err = c.VerifyManifest(ctx, data, notManifest, trusts(signer), modelsig.VerifyOptions{SignatureFile: fileSig})
				return err
			},
			[]string{"Verify", "decide < Verify", "hash < decide"},
			want{"model_signing.target_kind": "file", "model_signing.verdict": "verified"},
		},
		{
			"commands that neither sign nor verify",
			func(ctx context.Context, c *modelsig.Client) error {
				// The caller's own span gets nothing of ours.
				ctx, own := c.Tracer.Tracer("own").Start(ctx, "own")
				defer own.End()
				_, err := c.Digest(ctx, ref, modelsig.SignOptions{})
				_, err2 := c.DigestDir(ctx, dir, modelsig.SignOptions{})
				_, err3 := c.List(ctx, ref)
				if got := own.(sdktrace.ReadOnlySpan).Attributes(); len(got) != 0 {
					t.Errorf("on the caller's span: %v", got)
				}
				return errors.Join(err, err2, err3)
			},
			[]string{"own"}, nil,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			provider, recorder := newTracer(t)
			if err := tt.act(t.Context(), &modelsig.Client{Tracer: provider}); err != nil {
				t.Fatal(err)
			}
			spans := recorder.Ended()
			if got := spanNames(spans); !slices.Equal(got, tt.spans) {
				t.Fatalf("spans %q, want %q", got, tt.spans)
			}
			got := spanAttributes(t, spans, tt.spans[0])
			for key, value := range tt.attrs {
				if got[key].AsInterface() != value {
					t.Errorf("%s is %v, want %v", key, got[key].AsInterface(), value)
				}
			}
			for _, s := range spans {
				if s.Status().Code != codes.Unset {
					t.Errorf("%s: status %v, and nothing went wrong", s.Name(), s.Status())
				}
			}
		})
	}
}

func TestANoIsInTheSpan(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	r.put(t, "acme/tiny", "v1", tiny())
	r.put(t, "acme/hostile", "v1", image(rawLayer("../x", "x")))
	ref := r.host + "/acme/tiny:v1"
	mustSign(t, new(modelsig.Client), ref, signer, modelsig.SignOptions{})
	dir := writeModel(t, map[string]string{"a": "1", "b": "2", "c": "3"})
	dirSig := filepath.Join(t.TempDir(), "dir.sig")
	signDir(t, dir, dirSig, signer, modelsig.SignOptions{})
	writeFile(t, filepath.Join(dir, "a"), "changed")
	writeFile(t, filepath.Join(dir, "d"), "added")
	if err := os.Remove(filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}

	type want = map[attribute.Key]any
	for _, tt := range []struct {
		name, span string
		act        func(ctx context.Context, c *modelsig.Client) error
		attrs      want
	}{
		{"not by whom the policy trusts", "Verify", func(ctx context.Context, c *modelsig.Client) error {
			_, err := c.Verify(ctx, ref, trusts(newSigner(t)), modelsig.VerifyOptions{})
			return err
		}, want{"model_signing.verdict": "refused", "model_signing.reason": "untrusted"}},
		{"files differ", "Verify", func(ctx context.Context, c *modelsig.Client) error {
			_, err := c.VerifyDir(ctx, dir, trusts(signer), modelsig.VerifyOptions{SignatureFile: dirSig})
			return err
		}, want{
			"model_signing.verdict": "refused", "model_signing.files_changed": int64(1),
			"model_signing.files_missing": int64(1), "model_signing.files_extra": int64(1),
		}},
		{"nobody there", "Verify", func(ctx context.Context, c *modelsig.Client) error {
			_, err := c.Verify(ctx, r.host+"/acme/missing:v1", trusts(signer), modelsig.VerifyOptions{})
			return err
		}, want{"model_signing.verdict": "unknown", "model_signing.target": r.host + "/acme/missing:v1"}},
		{"a threat, when signing", "Sign", func(ctx context.Context, c *modelsig.Client) error {
			_, err := c.Sign(ctx, r.host+"/acme/hostile:v1", signer, modelsig.SignOptions{})
			return err
		}, want{"model_signing.reason": "name-parent", "model_signing.target": r.host + "/acme/hostile:v1"}},
		{"no such folder", "Sign", func(ctx context.Context, c *modelsig.Client) error {
			_, err := c.SignDir(ctx, filepath.Join(dir, "nowhere"), signer, modelsig.SignOptions{})
			return err
		}, want{"model_signing.target": filepath.Join(dir, "nowhere")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			provider, recorder := newTracer(t)
			err := tt.act(t.Context(), &modelsig.Client{Tracer: provider})
			if err == nil {
				t.Fatal("it worked")
			}
			span := spanNamed(t, recorder.Ended(), tt.span)
			if got := span.Status(); got.Code != codes.Error || got.Description != err.Error() {
				t.Errorf("status %v, want the error: %v", got, err)
			}
			got := spanAttributes(t, recorder.Ended(), tt.span)
			for key, value := range tt.attrs {
				if got[key].AsInterface() != value {
					t.Errorf("%s is %v, want %v", key, got[key].AsInterface(), value)
				}
			}
		})
	}
}

func TestAMalformedReferenceIsInNoSpan(t *testing.T) { // it may hold a password
	provider, recorder := newTracer(t)
	client := &modelsig.Client{Tracer: provider}
	const ref = "oci://user:hunter2@registry.example.com/acme/tiny:v1"
	_, err := client.Sign(t.Context(), ref, newSigner(t), modelsig.SignOptions{})
	_, err2 := client.Verify(t.Context(), ref, modelsig.Policy{}, modelsig.VerifyOptions{})
	_, err3 := client.VerifyDirAgainst(t.Context(), t.TempDir(), ref, modelsig.Policy{}, modelsig.VerifyOptions{})
	if err == nil || err2 == nil || err3 == nil {
		t.Errorf("accepted: %v, %v, %v", err, err2, err3)
	}
	if got := spanNames(recorder.Ended()); len(got) != 0 {
		t.Errorf("spans: %q", got)
	}
}

func TestTextInSpansIsBoundedAndHarmless(t *testing.T) { // rule 36
	const limit = 1024 // bytes
	for name, path := range map[string]string{
		"controls and bidi": "a\x1b[2J\u202e\u200b\u009b31m",
		"no UTF-8":          "a\xff\xfe",
		"long":              strings.Repeat("x/", 2000),
		"long and escaped":  strings.Repeat("\u202e/", 1000),
		"long and wide":     strings.Repeat("漢/", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			provider, recorder := newTracer(t)
			client := &modelsig.Client{Tracer: provider}
			if _, err := client.SignDir(t.Context(), path, newSigner(t), modelsig.SignOptions{}); err == nil {
				t.Fatal("signed what is not there")
			}
			texts := map[string]string{"status": spanNamed(t, recorder.Ended(), "Sign").Status().Description}
			for key, value := range spanAttributes(t, recorder.Ended(), "Sign") {
				texts[string(key)] = value.AsString()
			}
			if texts["status"] == "" || texts["model_signing.target"] == "" {
				t.Errorf("nothing to check: %q", texts)
			}
			for where, text := range texts {
				if len(text) > limit {
					t.Errorf("%s has %d bytes", where, len(text))
				}
				if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
					t.Errorf("%s: %q", where, text)
				}
			}
		})
	}
}

// The global provider is what OpenTelemetry's users expect a library to use
// where they give it none. This test sets it, so it looks at its own trace only
// and does not run beside others.
func TestWithoutATracerTheGlobalProviderIsUsed(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	before := otel.GetTracerProvider()
	otel.SetTracerProvider(provider)
	defer otel.SetTracerProvider(before)

	ctx, parent := provider.Tracer("test").Start(t.Context(), "parent")
	if _, err := new(modelsig.Client).SignDir(ctx, writeModel(t, map[string]string{"a": "1"}), newSigner(t), modelsig.SignOptions{}); err != nil {
		t.Fatal(err)
	}
	parent.End()
	var ours []sdktrace.ReadOnlySpan
	for _, s := range recorder.Ended() {
		if s.SpanContext().TraceID() == parent.SpanContext().TraceID() {
			ours = append(ours, s)
		}
	}
	if got, want := spanNames(ours), []string{"Sign < parent", "hash < Sign", "parent", "sign < Sign"}; !slices.Equal(got, want) {
		t.Errorf("spans %q, want %q", got, want)
	}
}
