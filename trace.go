package modelsig

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/referrers"
	"github.com/modelsig/modelsig/verify"
)

// tracerName is the instrumentation scope of every span.
const tracerName = "github.com/modelsig/modelsig"

// Attributes of spans; docs/tracing.md says which span has which. They repeat
// what answers say, never what was given to get there: no keys, passwords,
// tokens or headers (rule 17).
const (
	attrKind       = attribute.Key("model_signing.target_kind")
	attrTarget     = attribute.Key("model_signing.target")
	attrReference  = attribute.Key("model_signing.reference")
	attrDigest     = attribute.Key("model_signing.digest")
	attrRoot       = attribute.Key("model_signing.root")
	attrLayout     = attribute.Key("model_signing.layout")
	attrMethod     = attribute.Key("model_signing.method")
	attrHash       = attribute.Key("model_signing.hash_type")
	attrSerialize  = attribute.Key("model_signing.serialization")
	attrFiles      = attribute.Key("model_signing.files")
	attrBytes      = attribute.Key("model_signing.bytes")
	attrMissing    = attribute.Key("model_signing.files_missing")
	attrChanged    = attribute.Key("model_signing.files_changed")
	attrExtra      = attribute.Key("model_signing.files_extra")
	attrUnchanged  = attribute.Key("model_signing.unchanged")
	attrVerdict    = attribute.Key("model_signing.verdict")
	attrBinding    = attribute.Key("model_signing.binding")
	attrSigners    = attribute.Key("model_signing.signers")
	attrReason     = attribute.Key("model_signing.reason")
	attrReferrers  = attribute.Key("model_signing.referrers")
	attrIncomplete = attribute.Key("model_signing.referrers_incomplete")
)

const (
	// maxSpanText bounds a text in a span, in bytes: a message of ours with
	// a few quoted names in it. Collectors drop spans that are much larger.
	maxSpanText = 1024
	// maxSpanSigners bounds how many signers a span names: what a person reads.
	maxSpanSigners = 10
)

// span begins the span of one act on one target. kind is "" where only opening
// the target tells.
//
// A reference has been parsed before: what is none may hold anything, such as
// a password.
func (c *Client) span(ctx context.Context, name, kind, target string) (context.Context, trace.Span) {
	provider := c.Tracer
	if provider == nil {
		provider = otel.GetTracerProvider()
	}
	attributes := []attribute.KeyValue{attrTarget.String(spanText(target))}
	if kind != "" {
		attributes = append(attributes, attrKind.String(kind))
	}
	ctx, span := provider.Tracer(tracerName).Start(ctx, name, trace.WithAttributes(attributes...))
	return context.WithValue(ctx, actKey{}, span), span
}

// actKey finds the span of the act in a context. The span that is there may be
// the caller's own, which is none of our business.
type actKey struct{}

// act is the span of the act that ctx belongs to; outside of one, which is where
// models are listed and pushed, a span that does nothing.
func act(ctx context.Context) trace.Span {
	if span, ok := ctx.Value(actKey{}).(trace.Span); ok {
		return span
	}
	return noop.Span{}
}

// child begins a part of an act; outside of one it does nothing.
func child(ctx context.Context, name string) (context.Context, trace.Span) {
	return act(ctx).TracerProvider().Tracer(tracerName).Start(ctx, name)
}

// end ends a span with what went wrong, if anything did.
func end(span trace.Span, err *error) {
	if *err != nil {
		span.SetStatus(codes.Error, spanText((*err).Error()))
	}
	span.End()
}

// endHash ends the span of hashing.
func endHash(span trace.Span, files []manifest.File, resources *[]manifest.Resource, err *error) {
	defer end(span, err)
	if !span.IsRecording() {
		return
	}
	var size int64
	for _, f := range files {
		size += f.Size
	}
	span.SetAttributes(attrFiles.Int(len(files)), attrBytes.Int64(size))
	if len(*resources) > 0 {
		setText(span, attrHash, (*resources)[0].Algorithm)
	}
}

// endList ends the span of finding what is attached.
func endList(span trace.Span, listing **referrers.Listing, err *error) {
	defer end(span, err)
	if *listing == nil {
		return
	}
	span.SetAttributes(attrReferrers.Int(len((*listing).Referrers)))
	// What is missing makes no difference if what is there says yes, so it
	// is no error of the span.
	if why := (*listing).Incomplete; why != nil {
		setText(span, attrIncomplete, why.Error())
	}
}

// endSign ends the span of an act of signing with what it made.
func endSign(span trace.Span, result **Signature, err *error) {
	defer end(span, err)
	if !span.IsRecording() {
		return
	}
	if code := reasonOf(*err); code != "" {
		span.SetAttributes(attrReason.String(code))
	}
	sig := *result
	if sig == nil || *err != nil {
		return
	}
	setText(span, attrTarget, sig.Target)
	setText(span, attrDigest, sig.Digest)
	setText(span, attrLayout, sig.Layout)
	setText(span, attrMethod, sig.method)
	span.SetAttributes(attrUnchanged.Bool(sig.Unchanged))
	if sig.Model == nil {
		return
	}
	setText(span, attrRoot, sig.Root)
	setText(span, attrHash, sig.serialization.HashType)
	setText(span, attrSerialize, sig.serialization.Method)
	span.SetAttributes(attrFiles.Int(sig.Files), attrBytes.Int64(sig.Bytes))
}

// endVerify ends the span of a verification with its verdict. A no is an error
// of the span too: whoever looks for trouble looks for errors.
func endVerify(span trace.Span, result **Verification, err *error) {
	defer end(span, err)
	if !span.IsRecording() {
		return
	}
	if code := reasonOf(*err); code != "" {
		span.SetAttributes(attrReason.String(code))
	}
	v := *result
	if denied, ok := errors.AsType[*Denial](*err); ok {
		v = denied.Verification
	}
	if v == nil {
		// There was nothing to judge, or a threat kept us from it.
		verdict := verify.Unknown
		if errors.Is(*err, ErrRefused) || reasonOf(*err) != "" {
			verdict = verify.Refused
		}
		span.SetAttributes(attrVerdict.String(verdict))
		return
	}
	setText(span, attrVerdict, v.Verdict)
	setText(span, attrKind, v.Kind)
	setText(span, attrReference, v.Reference)
	setText(span, attrDigest, v.Digest)
	setText(span, attrLayout, v.Layout)
	setText(span, attrBinding, string(v.Binding))
	if len(v.Signers) > 0 {
		setText(span, attrMethod, v.Signers[0].Identity.Method)
		span.SetAttributes(attrSigners.StringSlice(signersText(v.Signers)))
	}
	for _, count := range []struct {
		key attribute.Key
		n   int
	}{
		{attrFiles, v.Files.Count},
		{attrMissing, len(v.Files.Missing)},
		{attrChanged, len(v.Files.Changed)},
		{attrExtra, len(v.Files.Extra)},
	} {
		if count.n > 0 {
			span.SetAttributes(count.key.Int(count.n))
		}
	}
	if v.Files.Count > 0 {
		span.SetAttributes(attrBytes.Int64(v.Files.Bytes))
	}
}

// reasonOf is the stable code of a no: of its first reason, or of the threat.
func reasonOf(err error) string {
	if denied, ok := errors.AsType[*Denial](err); ok && len(denied.Verification.Reasons) > 0 {
		return denied.Verification.Reasons[0].Code
	}
	if threat, ok := errors.AsType[*manifest.ThreatError](err); ok {
		return threat.Code
	}
	return ""
}

// signersText names who approved, each once: the key's fingerprint, or the
// subject.
func signersText(signers []verify.Signer) []string {
	var out []string
	for _, s := range signers {
		name := s.Identity.KeyFingerprint
		if s.Identity.Method != bundle.MethodKey {
			name = s.Identity.Subject
		}
		text := spanText(s.Identity.Method + " " + name)
		if len(out) < maxSpanSigners && !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}

// setText sets an attribute that has a value.
func setText(span trace.Span, key attribute.Key, value string) {
	if value != "" {
		span.SetAttributes(key.String(spanText(value)))
	}
}

// setKind says on the act's span what a local target turned out to be.
func setKind(ctx context.Context, dir *manifest.Dir) {
	act(ctx).SetAttributes(attrKind.String(dirKind(dir)))
}

// referenceKind is the kind of the artifact that a reference names.
func referenceKind(r oci.Reference) string {
	if r.Layout != "" || r.Archive != "" {
		return KindLayout
	}
	return KindArtifact
}

// spanText escapes what acts on a terminal or is no UTF-8, which OTLP cannot
// carry, in at most maxSpanText bytes: spans are read on other people's screens
// (rule 36).
func spanText(s string) string {
	const more = "…"
	var b strings.Builder
	for _, r := range s {
		part := string(r)
		if !strconv.IsPrint(r) || r == utf8.RuneError {
			q := strconv.QuoteRune(r)
			part = q[1 : len(q)-1]
		}
		if b.Len()+len(part) > maxSpanText-len(more) {
			return b.String() + more
		}
		b.WriteString(part)
	}
	return b.String()
}
