package verify_test

import (
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/verify"
)

// omsV02 is the statement of a model as OMS v0.2 wrote it: each file is a
// subject, and the predicate says nothing.
func omsV02(t testing.TB, f files, changes ...func(st map[string]any)) []byte {
	t.Helper()
	var subjects []any
	for _, name := range slices.Sorted(maps.Keys(f)) {
		subjects = append(subjects, map[string]any{
			"name":        name,
			"digest":      map[string]any{"sha256": hex.EncodeToString(sum(f[name]))},
			"annotations": map[string]any{"actual_hash_algorithm": "file-sha256"},
		})
	}
	st := map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       subjects,
		"predicateType": manifest.PredicateLegacy,
		"predicate":     map[string]any{"unused": "Unused, just passed due to API requirements"},
	}
	for _, change := range changes {
		change(st)
	}
	payload, err := json.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// signV02 signs as OMS v0.2 did.
func (o office) signV02(t testing.TB, payload []byte) []byte {
	t.Helper()
	return sealed(t, o.material(), bundle.PayloadType, payload, legacyEncoding(t, payload), o.key)
}

// sign signs as OMS does now.
func (o office) sign(t testing.TB, payload []byte) []byte {
	t.Helper()
	return sealed(t, o.material(), bundle.PayloadType, payload, dsse(bundle.PayloadType, payload), o.key)
}

func TestAFolderSignedByOMSV02(t *testing.T) { // OMS §11
	o, k := newOffice(t), newKey(t)
	policy := o.trusted(t, bundle.CertificateOptions{Identity: "release@example.com"})
	policy.Verifiers = append(policy.Verifiers, verifierOf(k.signer))
	payload := omsV02(t, tiny)
	for _, tt := range []struct {
		name   string
		bundle []byte
		method string
	}{
		{"by a certificate, in the encoding of that version", o.signV02(t, payload), bundle.MethodCertificate},
		{"by a certificate, in DSSE's encoding", o.sign(t, payload), bundle.MethodCertificate},
		{"by a key, in DSSE's encoding", k.sign(t, payload), bundle.MethodKey},
		{"in another order", o.signV02(t, omsV02(t, tiny, func(st map[string]any) { slices.Reverse(st["subject"].([]any)) })), bundle.MethodCertificate},
		{"without annotations", o.signV02(t, omsV02(t, tiny, func(st map[string]any) {
			for _, s := range st["subject"].([]any) {
				delete(s.(map[string]any), "annotations")
			}
		})), bundle.MethodCertificate},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := verify.Decide(t.Context(), policy, folder(tiny), bundles(tt.bundle))
			wantVerified(t, r, err, verify.StrengthFiles)
			if s := r.Signers[0]; s.Kind != "model" || s.Identity.Method != tt.method || r.Files.Count != 2 || r.Files.Bytes != 7 || !r.Hashed {
				t.Errorf("signer %+v, files %+v, hashed %t", s, r.Files, r.Hashed)
			}
			if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "OMS v0.2") {
				t.Errorf("warnings %q do not say that the form is old", r.Warnings)
			}
		})
	}

	// A file on its own, and git names that are or are not listed.
	r, err := verify.Decide(t.Context(), policy, single("a.bin", "hello"), bundles(o.signV02(t, omsV02(t, files{"a.bin": "hello"}))))
	wantVerified(t, r, err, verify.StrengthFiles)
	r, err = verify.Decide(t.Context(), policy, folder(tiny.with(".gitattributes", "x")), bundles(o.signV02(t, payload)))
	wantVerified(t, r, err, verify.StrengthFiles)
	if !slices.Equal(r.Files.Ignored, []string{".gitattributes"}) {
		t.Errorf("ignored %q", r.Files.Ignored)
	}
	r, err = verify.Decide(t.Context(), policy, folder(tiny.with(".gitattributes", "y")), bundles(o.signV02(t, omsV02(t, tiny.with(".gitattributes", "x")))))
	wantFiles(t, r, err, nil, []string{".gitattributes"}, nil)
}

func TestAFolderThatIsNotTheOneSignedByOMSV02(t *testing.T) {
	o := newOffice(t)
	policy := o.trusted(t, bundle.CertificateOptions{})
	signed := bundles(o.signV02(t, omsV02(t, tiny)))
	for _, tt := range []struct {
		name                    string
		files                   files
		missing, changed, extra []string
	}{
		{"a file changed", tiny.with("weights/a.bin", "hellO"), nil, []string{"weights/a.bin"}, nil},
		{"a file missing", tiny.without("config.json"), []string{"config.json"}, nil, nil},
		{"a file more", tiny.with("run.py", "x"), nil, nil, []string{"run.py"}},
		{"an empty file more", tiny.with("empty", ""), nil, nil, []string{"empty"}},
		{"two files exchanged", files{"config.json": "hello", "weights/a.bin": "{}"}, nil, []string{"config.json", "weights/a.bin"}, nil},
		{"nothing there", files{}, []string{"config.json", "weights/a.bin"}, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := verify.Decide(t.Context(), policy, folder(tt.files), signed)
			wantFiles(t, r, err, tt.missing, tt.changed, tt.extra)
		})
	}
	policy.IgnoreUnsignedFiles = true
	r, err := verify.Decide(t.Context(), policy, folder(tiny.with("run.py", "x")), signed)
	wantVerified(t, r, err, verify.StrengthFiles)
	r, err = verify.Decide(t.Context(), policy, folder(tiny.with("run.py", "x").without("config.json")), signed)
	wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
}

// Old forms speak for local files only, and the old encoding for them only,
// whoever signed (rules 4, 30). Every bundle here is properly signed.
func TestWhatOldFormsDoNotApprove(t *testing.T) {
	o, k := newOffice(t), newKey(t)
	onDisk := verify.Subject{Artifact: tinyArtifact().Artifact, Local: files{"manifest.json": "manifest tiny"}.local()}
	onDisk.Local.IsFile = true
	onDisk.Artifact.FileName = "manifest.json"
	both := verify.Subject{Artifact: tinyArtifact().Artifact, Local: tiny.local()}
	old := omsV02(t, tiny)
	// What a statement of the old form could say about a manifest.
	ofManifest := omsV02(t, files{"manifest.json": "manifest tiny"})
	first := func(change func(s map[string]any)) []byte {
		return o.signV02(t, omsV02(t, tiny, func(st map[string]any) { change(subject(st)) }))
	}
	keyMaterial := `{"publicKey":{"hint":"x"}}`
	for _, tt := range []struct {
		name    string
		bundle  []byte
		subject verify.Subject
		code    string
		says    string
	}{
		{"the old encoding over a statement of OMS v1.0", o.signV02(t, oms(t, tiny, nil)), folder(tiny), verify.CodeMalformed, "encoding of OMS v0.2"},
		{"the old encoding over OMS v1.0, of an artifact", o.signV02(t, bound(t)), tinyArtifact(), verify.CodeMalformed, "encoding of OMS v0.2"},
		{"the old encoding over OMS v1.0, of a folder against its artifact", o.signV02(t, bound(t)), both, verify.CodeMalformed, "encoding of OMS v0.2"},
		{"the old encoding over an artifact signature", o.signV02(t, artifact(t, manifestOf("tiny"))), tinyArtifact(), verify.CodeMalformed, "encoding of OMS v0.2"},
		{"the old encoding over an attestation", o.signV02(t, bytesOfAnotherPredicate(t, "https://slsa.dev/provenance/v1")), folder(tiny), verify.CodeMalformed, "encoding of OMS v0.2"},
		{"the old encoding by a key", sealed(t, keyMaterial, bundle.PayloadType, old, legacyEncoding(t, old), k), folder(tiny), verify.CodeUntrusted, "did not make this signature"},
		{"the old encoding by the certificate's key, as a key", sealed(t, keyMaterial, bundle.PayloadType, old, legacyEncoding(t, old), o.key), folder(tiny), verify.CodeUntrusted, "method"},
		{"the old encoding under another payload type", sealed(t, o.material(), "application/json", old, legacyEncoding(t, old), o.key), folder(tiny), verify.CodeUntrusted, "payload type"},

		{"the old statement of an artifact", o.signV02(t, old), tinyArtifact(), verify.CodeNotApproval, "local files only"},
		{"the old statement of an artifact, in DSSE's encoding", o.sign(t, old), tinyArtifact(), verify.CodeNotApproval, "local files only"},
		{"the old statement of an artifact, by a key", k.sign(t, old), tinyArtifact(), verify.CodeNotApproval, "local files only"},
		{"the old statement of a folder against its artifact", o.signV02(t, old), both, verify.CodeNotApproval, "local files only"},
		{"the old statement of the files of a manifest on disk", o.signV02(t, old), onDisk, verify.CodeNotApproval, "local files only"},
		{"the old statement of a manifest on disk", o.signV02(t, ofManifest), onDisk, verify.CodeNotApproval, "local files only"},

		{"shards", first(func(s map[string]any) {
			s["annotations"] = map[string]any{"actual_hash_algorithm": "file-sha256-1000000"}
		}), folder(tiny), verify.CodeMalformed, "annotation"},
		{"another hash under the name of sha256 (rule 31)", first(func(s map[string]any) { s["annotations"] = map[string]any{"actual_hash_algorithm": "file-blake2b"} }), folder(tiny), verify.CodeMalformed, "annotation"},
		{"another annotation", first(func(s map[string]any) { s["annotations"].(map[string]any)["x"] = "y" }), folder(tiny), verify.CodeMalformed, "annotation"},
		{"a binding, which that version did not have (rule 9)", first(func(s map[string]any) { s["annotations"].(map[string]any)[verify.AnnotationBinding] = map[string]any{} }), folder(tiny), verify.CodeMalformed, "annotation"},
		{"a second digest", first(func(s map[string]any) { s["digest"].(map[string]any)["sha512"] = strings.Repeat("ab", 64) }), folder(tiny), verify.CodeMalformed, "exactly one digest"},
		{"no name", first(func(s map[string]any) { delete(s, "name") }), folder(tiny), verify.CodeMalformed, "empty"},
		{"one name twice", first(func(s map[string]any) { s["name"] = "weights/a.bin" }), folder(tiny), verify.CodeMalformed, "two files have this name"},
		{"a name outside the model", first(func(s map[string]any) { s["name"] = "../config.json" }), folder(tiny), verify.CodeMalformed, `"../config.json"`},
		{"an absolute name", first(func(s map[string]any) { s["name"] = "/config.json" }), folder(tiny), verify.CodeMalformed, `"/config.json"`},
		{"no file", o.signV02(t, omsV02(t, tiny, func(st map[string]any) { st["subject"] = []any{} })), folder(files{}), verify.CodeMalformed, "no subject"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			policy := o.trusted(t, bundle.CertificateOptions{})
			policy.Verifiers = append(policy.Verifiers, verifierOf(k.signer))
			r, err := verify.Decide(t.Context(), policy, tt.subject, bundles(tt.bundle))
			wantNo(t, r, err, verify.ErrRefused, tt.code)
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v does not say %q", err, tt.says)
			}
		})
	}

	// Nor by a certificate that is no longer valid.
	policy := o.trusted(t, bundle.CertificateOptions{Now: func() time.Time { return o.leaf.NotAfter.Add(time.Second) }})
	r, err := verify.Decide(t.Context(), policy, folder(tiny), bundles(o.signV02(t, old)))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeUntrusted)
	if !strings.Contains(err.Error(), "expired") {
		t.Errorf("%v does not say why", err)
	}
}
