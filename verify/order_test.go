package verify_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/verify"
)

// permutations of list, all of them.
func permutations[T any](list []T) [][]T {
	if len(list) <= 1 {
		return [][]T{list}
	}
	var out [][]T
	for i := range list {
		rest := slices.Delete(slices.Clone(list), i, i+1)
		for _, p := range permutations(rest) {
			out = append(out, append([]T{list[i]}, p...))
		}
	}
	return out
}

func TestTheVerdictDoesNotDependOnTheOrder(t *testing.T) { // rule 38
	k := newKey(t)
	right := verify.Candidate{Referrer: "right", Bundle: k.sign(t, bound(t))}
	only := verify.Candidate{Referrer: "artifact", Bundle: k.sign(t, artifact(t, manifestOf("tiny")))}
	untrusted := verify.Candidate{Referrer: "untrusted", Bundle: newKey(t).sign(t, bound(t))}
	moved := verify.Candidate{Referrer: "moved", Bundle: k.sign(t, oms(t, tiny, annotated(t, bindingTo(manifestOf("other")))))}
	garbage := verify.Candidate{Referrer: "garbage", Bundle: []byte("{")}
	unread := verify.Candidate{Referrer: "unread", Err: errors.New("timeout"), Unread: true}

	require := trusts(k)
	require.RequireModel = true
	manifestOnly := trusts(k)
	manifestOnly.Binding = verify.StrengthManifest
	for _, tt := range []struct {
		name   string
		policy verify.Policy
		list   []verify.Candidate
		want   string
	}{
		{"one passes", trusts(k), []verify.Candidate{right, untrusted, unread, garbage}, verify.Verified},
		{"both kinds pass", trusts(k), []verify.Candidate{right, only, unread, moved}, verify.Verified},
		{"one passes, and the policy wants the manifest", manifestOnly, []verify.Candidate{only, untrusted, unread, moved}, verify.Verified},
		{"none passes, one is unread", trusts(k), []verify.Candidate{untrusted, moved, garbage, unread}, verify.Unknown},
		{"none passes, all are read", trusts(k), []verify.Candidate{untrusted, moved, garbage}, verify.Refused},
		{"the wrong kind passes, one is unread", require, []verify.Candidate{only, untrusted, unread, garbage}, verify.Unknown},
		{"the wrong kind passes, all are read", require, []verify.Candidate{only, untrusted, moved, garbage}, verify.Refused},
		{"the right kind passes too", require, []verify.Candidate{only, right, unread, garbage}, verify.Verified},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, list := range permutations(tt.list) {
				r, err := verify.Decide(t.Context(), tt.policy, tinyArtifact(), candidates(list...))
				got := verify.Verified
				if denied, ok := errors.AsType[*verify.Error](err); ok {
					got = denied.Report.Verdict
				} else if err != nil || r == nil {
					t.Fatalf("got %v and %v", r, err)
				}
				if got != tt.want {
					var order []string
					for _, c := range list {
						order = append(order, c.Referrer)
					}
					t.Errorf("%q: %s, want %s", order, got, tt.want)
				}
			}
		})
	}
}

func TestMoreEvidenceNeverTurnsYesIntoNo(t *testing.T) { // invariant 7
	k := newKey(t)
	yes := k.sign(t, bound(t))
	for name, more := range map[string]verify.Candidate{
		"a refusal of the same signer":     {Bundle: k.sign(t, oms(t, tiny, annotated(t, bindingTo(manifestOf("other")))))},
		"a malformed binding":              {Bundle: k.sign(t, bytes.Replace(bound(t), []byte("modelsig.oci.v1"), []byte("modelsig.oci.v2"), 1))},
		"other files":                      {Bundle: k.sign(t, oms(t, tiny.with("x", "y"), nil))},
		"a signature of somebody else":     {Bundle: newKey(t).sign(t, bound(t))},
		"garbage":                          {Bundle: []byte{0}},
		"something that could not be read": {Err: errors.New("reset"), Unread: true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range []verify.Subject{tinyArtifact(), folder(tiny), {Artifact: tinyArtifact().Artifact, Local: tiny.local()}} {
				alone, err := verify.Decide(t.Context(), trusts(k), s, candidates(verify.Candidate{Bundle: yes}))
				wantVerified(t, alone, err, alone.Binding)
				for _, list := range [][]verify.Candidate{{{Bundle: yes}, more}, {more, {Bundle: yes}}} {
					r, err := verify.Decide(t.Context(), trusts(k), s, candidates(list...))
					wantVerified(t, r, err, alone.Binding)
					if len(r.Signers) != 1 || r.Layout != alone.Layout || r.Files.Count != alone.Files.Count || r.Files.Bytes != alone.Files.Bytes ||
						len(r.Files.Missing)+len(r.Files.Changed)+len(r.Files.Extra)+len(r.Files.Ignored) != 0 {
						t.Errorf("the answer is %+v, alone it is %+v", r, alone)
					}
				}
			}
		})
	}
}

func TestReadingEndsSoonAfterAYes(t *testing.T) {
	k := newKey(t)
	model, only, garbage := k.sign(t, bound(t)), k.sign(t, artifact(t, manifestOf("tiny"))), []byte("garbage")
	count := func(s verify.Subject, p verify.Policy, list ...[]byte) int {
		t.Helper()
		read := 0
		r, err := verify.Decide(t.Context(), p, s, verify.Evidence{Candidates: func(yield func(verify.Candidate) bool) {
			for _, data := range list {
				read++
				if !yield(verify.Candidate{Bundle: data}) {
					return
				}
			}
		}})
		if err != nil || r.Verdict != verify.Verified {
			t.Fatalf("got %v, want a yes", err)
		}
		return read
	}
	flood := slices.Repeat([][]byte{garbage}, 100)
	if n := count(tinyArtifact(), trusts(k), append([][]byte{model, only}, flood...)...); n != 2 {
		t.Errorf("read %d after both kinds, want 2", n)
	}
	if n := count(tinyArtifact(), trusts(k), append([][]byte{only, model}, flood...)...); n != 2 {
		t.Errorf("read %d after both kinds, want 2", n)
	}
	if n := count(tinyArtifact(), trusts(k), append([][]byte{model}, flood...)...); n > 6 {
		t.Errorf("read %d after one yes: too many", n)
	}
	if n := count(folder(tiny), trusts(k), append([][]byte{model}, flood...)...); n != 1 {
		t.Errorf("read %d for a folder, want 1", n)
	}
	// A flood before it keeps nobody from saying yes (rule 13).
	if n := count(tinyArtifact(), trusts(k), append(flood, model, only)...); n != 102 {
		t.Errorf("read %d, want all", n)
	}
	// Where a model signature is required, another kind ends nothing.
	p := trusts(k)
	p.RequireModel = true
	if n := count(tinyArtifact(), p, append(append([][]byte{only}, flood...), model)...); n != 102 {
		t.Errorf("read %d, want all", n)
	}
}

func TestAYesStandsWhenReadingOnTakesTooLong(t *testing.T) { // invariant 7
	k := newKey(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hangs := func(first []byte) verify.Evidence {
		return verify.Evidence{Candidates: func(yield func(verify.Candidate) bool) {
			if !yield(verify.Candidate{Bundle: first}) {
				return
			}
			cancel() // as a deadline does, while the next one is read
			yield(verify.Candidate{Err: context.Canceled, Unread: true})
		}}
	}
	r, err := verify.Decide(ctx, trusts(k), tinyArtifact(), hangs(k.sign(t, bound(t))))
	wantVerified(t, r, err, verify.StrengthManifest)

	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	if r, err := verify.Decide(ctx, trusts(k), tinyArtifact(), hangs([]byte("garbage"))); r != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v and %v, want the context's error", r, err)
	}
}

// payloadOf reads what a bundle signs, to hold it against what it was.
func payloadOf(t *testing.T, data []byte) []byte {
	t.Helper()
	claims, err := bundle.InsecureClaims(data)
	if err != nil {
		t.Fatalf("a yes by a bundle that cannot be read: %v", err)
	}
	return claims.Payload
}

func TestNoFlippedBitAndNoCutMakesAnotherYes(t *testing.T) {
	k := newKey(t)
	for name, payload := range map[string][]byte{"model": bound(t), "artifact": artifact(t, manifestOf("tiny"))} {
		t.Run(name, func(t *testing.T) {
			signed := k.sign(t, payload)
			other := tiny.with("config.json", "[]")
			evil := verify.Subject{Artifact: artifactOf("evil", other.mapped())}
			try := func(data []byte) {
				r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), bundles(data))
				switch {
				case err == nil:
					// The signature covers the payload, not the JSON around it.
					if r.Verdict != verify.Verified || !bytes.Equal(payloadOf(t, data), payload) {
						t.Errorf("%s was accepted", data)
					}
				case !errors.Is(err, verify.ErrRefused):
					t.Errorf("%v, want a refusal", err)
				}
				for _, s := range []verify.Subject{evil, folder(other)} {
					if _, err := verify.Decide(t.Context(), trusts(k), s, bundles(data)); !errors.Is(err, verify.ErrRefused) {
						t.Errorf("%v for another model, want a refusal", err)
					}
				}
			}
			try(signed)
			for i := range signed {
				for _, bit := range []byte{0x01, 0x20, 0x80} {
					data := bytes.Clone(signed)
					data[i] ^= bit
					try(data)
				}
			}
			for n := range signed {
				if _, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), bundles(signed[:n])); !errors.Is(err, verify.ErrRefused) {
					t.Errorf("cut to %d bytes: %v", n, err)
				}
			}
		})
	}
}

// The same for certificates and for the old form: the answer stays what it was,
// with its signer and the time that was proved, or it is a refusal.
func TestNoFlippedBitMakesAnotherAnswer(t *testing.T) {
	o := newOffice(t)
	policy := o.trusted(t, bundle.CertificateOptions{Identity: "release@example.com"})
	for name, data := range map[string][]byte{
		"by a certificate":             o.sign(t, oms(t, tiny, nil)),
		"by a certificate, as in v0.2": o.signV02(t, omsV02(t, tiny)),
	} {
		t.Run(name, func(t *testing.T) {
			want, err := verify.Decide(t.Context(), policy, folder(tiny), bundles(data))
			if err != nil {
				t.Fatal(err)
			}
			for i := range data {
				if _, err := verify.Decide(t.Context(), policy, folder(tiny), bundles(data[:i])); !errors.Is(err, verify.ErrRefused) {
					t.Errorf("cut to %d bytes: %v", i, err)
				}
				if i%4 != 0 { // each flip costs a chain of certificates
					continue
				}
				changed := bytes.Clone(data)
				changed[i] ^= []byte{0x01, 0x20, 0x80, 0x04}[i/4%4]
				got, err := verify.Decide(t.Context(), policy, folder(tiny), bundles(changed))
				switch {
				case err == nil && (!reflect.DeepEqual(got, want) || !bytes.Equal(payloadOf(t, changed), payloadOf(t, data))):
					t.Errorf("byte %d became %q: %+v", i, changed[i], got)
				case err != nil && !errors.Is(err, verify.ErrRefused):
					t.Errorf("byte %d became %q: %v, want a refusal", i, changed[i], err)
				}
			}
		})
	}
}

// FuzzDecide lets a stranger write the bundle: there is no yes but by the
// payloads that were signed.
func FuzzDecide(f *testing.F) {
	k := fixedKey(f)
	payloads := [][]byte{bound(f), artifact(f, manifestOf("tiny")), oms(f, tiny, nil)}
	for _, p := range payloads {
		f.Add(k.sign(f, p))
		f.Add(newKey(f).sign(f, p))
	}
	f.Add(k.message(f, payloads[0]))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, s := range []verify.Subject{tinyArtifact(), folder(tiny)} {
			r, err := verify.Decide(t.Context(), trusts(k), s, bundles(data))
			if err != nil {
				if !errors.Is(err, verify.ErrRefused) {
					t.Errorf("%v, want a refusal", err)
				}
				continue
			}
			if !slices.ContainsFunc(payloads, func(p []byte) bool { return bytes.Equal(p, payloadOf(t, data)) }) {
				t.Errorf("%s by %s", r.Verdict, data)
			}
		}
	})
}

// FuzzSignedStatement lets the right signer sign anything: a yes about an
// artifact needs its digest in the statement, or its very files.
func FuzzSignedStatement(f *testing.F) {
	k := fixedKey(f)
	for _, p := range [][]byte{bound(f), artifact(f, manifestOf("tiny")), oms(f, tiny, nil, manifest.GitPaths()...)} {
		f.Add(p)
		f.Add(bytes.Replace(p, []byte("v1"), []byte("v2"), 1))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) == 0 {
			t.Skip()
		}
		r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), bundles(k.envelope(t, bundle.PayloadType, payload)))
		switch {
		case err == nil && r.Binding == verify.StrengthManifest:
			if !bytes.Contains(unescaped(payload), []byte(manifestOf("tiny").Digest.Encoded())) {
				t.Errorf("a yes by %s, which does not name the manifest", payload)
			}
		case err != nil && !errors.Is(err, verify.ErrRefused):
			t.Errorf("%v, want a refusal", err)
		}
	})
}

// unescaped undoes \u00XX, in which hex digits can be written too.
func unescaped(data []byte) []byte {
	for c := byte('0'); c <= 'f'; c++ {
		for _, format := range []string{`\u%04x`, `\u%04X`} {
			data = bytes.ReplaceAll(data, fmt.Appendf(nil, format, c), []byte{c})
		}
	}
	return data
}

// BenchmarkDecide judges an artifact of 100,000 files by both signatures.
func BenchmarkDecide(b *testing.B) {
	const count = 100_000
	many := make(files, count)
	for i := range count {
		many[fmt.Sprintf("shards/%03d/part-%06d.safetensors", i%100, i)] = fmt.Sprint(i)
	}
	k := newKey(b)
	mapping := many.mapped()
	evidence := bundles(
		k.sign(b, artifact(b, manifestOf("tiny"))),
		k.sign(b, oms(b, many, annotated(b, bindingTo(manifestOf("tiny"))), manifest.GitPaths()...)))
	for name, s := range map[string]verify.Subject{
		"artifact": {Artifact: artifactOf("tiny", mapping)},
		"folder":   {Local: &verify.Local{Files: mapping.Files}}, // their digests are known
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := verify.Decide(b.Context(), trusts(k), s, evidence); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/file")
		})
	}
}

func TestPayloadIsAuthenticatedBeforeItIsParsed(t *testing.T) {
	// A stranger's payload is not looked at: however bad, all it gets is
	// "untrusted".
	k, stranger := newKey(t), newKey(t)
	for _, payload := range []string{"{", `{"_type":1}`, string(bound(t))} {
		r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), bundles(stranger.sign(t, []byte(payload))))
		report := wantNo(t, r, err, verify.ErrRefused, verify.CodeUntrusted)
		if len(report.Reasons) != 1 {
			t.Errorf("reasons %+v", report.Reasons)
		}
	}
	// Nor is a payload that was put under another's signature.
	signed := k.sign(t, artifact(t, manifestOf("other")))
	swapped := bytes.Replace(signed,
		[]byte(base64.StdEncoding.EncodeToString(artifact(t, manifestOf("other")))),
		[]byte(base64.StdEncoding.EncodeToString(artifact(t, manifestOf("tiny")))), 1)
	if bytes.Equal(signed, swapped) {
		t.Fatal("nothing was swapped")
	}
	r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), bundles(swapped))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeUntrusted)
}
