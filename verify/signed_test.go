package verify_test

import (
	"encoding/hex"
	"slices"
	"testing"

	"github.com/modelsig/modelsig/verify"
)

// Whoever writes what was verified compares it with what was signed.
func TestAReportHasWhatTheModelSignatureLists(t *testing.T) {
	k := newKey(t)
	named := bindingTo(manifestOf("tiny"))
	named.PathAnnotation = "filepath"
	plain := artifactOf("tiny", &verify.Mapping{Layout: "title", Files: tiny.known()})
	both := bundles(k.sign(t, artifact(t, manifestOf("tiny"))), k.sign(t, oms(t, tiny, annotated(t, named))))
	for _, tt := range []struct {
		name     string
		subject  verify.Subject
		evidence verify.Evidence
		signed   bool
		path     string
	}{
		{"beside an artifact signature", verify.Subject{Artifact: plain}, both, true, "filepath"},
		{"an artifact signature alone", verify.Subject{Artifact: plain}, bundles(k.sign(t, artifact(t, manifestOf("tiny")))), false, ""},
		{"without a binding", verify.Subject{Artifact: plain}, bundles(k.sign(t, oms(t, tiny, nil))), true, ""},
		{"of archives", verify.Subject{Artifact: pack(nil, errUnread).Artifact}, bundles(k.sign(t, boundTo(t, tiny))), true, ""},
		{"of archives, without a binding", verify.Subject{Artifact: pack(tiny, nil).Artifact}, bundles(k.sign(t, oms(t, tiny, nil))), true, ""},
		{"a folder, where no layer is", verify.Subject{Local: tiny.local()}, bundles(k.sign(t, oms(t, tiny, nil))), false, ""},
		{"one that counts, after one that does not", verify.Subject{Artifact: plain},
			bundles(k.sign(t, oms(t, tiny.with("config.json", "other"), annotated(t, bindingTo(manifestOf("tiny"))))), k.sign(t, oms(t, tiny, nil))), true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := verify.Decide(t.Context(), accepting(verify.StrengthStreamed, k), tt.subject, tt.evidence)
			if err != nil {
				t.Fatal(err)
			}
			if (r.Signed != nil) != tt.signed || r.PathAnnotation != tt.path {
				t.Fatalf("signed %v, path annotation %q", r.Signed, r.PathAnnotation)
			}
			if r.Signed == nil {
				return
			}
			var got, want []string
			for _, f := range r.Signed.Resources {
				got = append(got, f.Name+" "+hex.EncodeToString(f.Digest))
			}
			for _, f := range tiny.known() {
				want = append(want, f.Name+" "+hex.EncodeToString(f.Digest))
			}
			if slices.Sort(want); !slices.Equal(got, want) {
				t.Errorf("signed %q, want %q", got, want)
			}
		})
	}
}
