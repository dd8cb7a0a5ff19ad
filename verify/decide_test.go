package verify_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/verify"
)

// Every refusal in these tests is of something that is properly signed, and
// wrong in one way.

// files is a model: content by name.
type files map[string]string

var tiny = files{"config.json": "{}", "weights/a.bin": "hello"}

// with returns f with one file set, and without one without it.
func (f files) with(name, content string) files {
	out := maps.Clone(f)
	out[name] = content
	return out
}

func (f files) without(name string) files {
	out := maps.Clone(f)
	delete(out, name)
	return out
}

func sum(content string) []byte {
	h := sha256.Sum256([]byte(content))
	return h[:]
}

func (f files) resources() []manifest.Resource {
	var out []manifest.Resource
	for _, name := range slices.Sorted(maps.Keys(f)) {
		out = append(out, manifest.Resource{Name: name, Digest: sum(f[name]), Algorithm: manifest.SHA256})
	}
	return out
}

// known are the files as layers: the digest is there, the content is not.
func (f files) known() []manifest.File {
	var out []manifest.File
	for _, name := range slices.Sorted(maps.Keys(f)) {
		out = append(out, manifest.File{Name: name, Size: int64(len(f[name])), Digest: sum(f[name])})
	}
	return out
}

// local are the files as a folder has them: to be read.
func (f files) local() *verify.Local {
	l := &verify.Local{}
	for _, name := range slices.Sorted(maps.Keys(f)) {
		content := f[name]
		l.Files = append(l.Files, manifest.File{Name: name, Size: int64(len(content)), Open: func() (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(content)), nil
		}})
	}
	return l
}

// mapped is what a registry artifact with these files is read as.
func (f files) mapped() *verify.Mapping {
	return &verify.Mapping{Layout: "title", Files: f.known()}
}

// manifestOf is the descriptor of a manifest; salt makes another one.
func manifestOf(salt string) ocispec.Descriptor {
	data := []byte("manifest " + salt)
	return ocispec.Descriptor{
		MediaType:    ocispec.MediaTypeImageManifest,
		Digest:       digest.FromBytes(data),
		Size:         int64(len(data)),
		ArtifactType: "application/vnd.unknown.artifact.v1",
	}
}

func artifactOf(salt string, mapping *verify.Mapping) *verify.Artifact {
	return &verify.Artifact{
		Manifest: manifestOf(salt),
		Map:      func(string, ...digest.Digest) (*verify.Mapping, error) { return mapping, nil },
	}
}

// tinyArtifact is the model in a registry.
func tinyArtifact() verify.Subject {
	return verify.Subject{Artifact: artifactOf("tiny", tiny.mapped())}
}

func folder(f files) verify.Subject { return verify.Subject{Local: f.local()} }

// A keypair signs, and is somebody or nobody to a policy.
type keypair struct {
	crypto.Signer
	signer bundle.Signer
}

func newKey(t testing.TB) keypair {
	t.Helper()
	key, err := bundle.GenerateKey("p256")
	if err != nil {
		t.Fatal(err)
	}
	return keyOf(t, key)
}

// fixedKey is the same in every process: fuzzing has several.
func fixedKey(t testing.TB) keypair {
	t.Helper()
	data, err := os.ReadFile("../testdata/keys/p256.pkcs8.pem")
	if err != nil {
		t.Fatal(err)
	}
	key, err := bundle.ParsePrivateKey(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	return keyOf(t, key)
}

func keyOf(t testing.TB, key crypto.Signer) keypair {
	t.Helper()
	signer, err := bundle.NewKeySigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return keypair{key, signer}
}

// trusts accepts these keys, at the weakest strength there is.
func trusts(keys ...keypair) verify.Policy {
	p := verify.Policy{Binding: verify.StrengthLayers}
	for _, k := range keys {
		p.Verifiers = append(p.Verifiers, verifierOf(k.signer))
	}
	return p
}

func (k keypair) sign(t testing.TB, payload []byte) []byte {
	t.Helper()
	bundles, err := k.signer.Sign(t.Context(), payload)
	if err != nil {
		t.Fatal(err)
	}
	return bundles[0].JSON()
}

// envelope signs a payload of any type: what a signer of this module does not.
func (k keypair) envelope(t testing.TB, payloadType string, payload []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload))
	sig, err := k.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `{"mediaType":%q,"verificationMaterial":{"publicKey":{"hint":"x"}},"dsseEnvelope":{"payload":%q,"payloadType":%q,"signatures":[{"sig":%q}]}}`,
		bundle.MediaType, b64(payload), payloadType, b64(sig))
}

// message signs content itself, without a statement.
func (k keypair) message(t testing.TB, content []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(content)
	sig, err := k.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `{"mediaType":%q,"verificationMaterial":{"publicKey":{"hint":"x"}},"messageSignature":{"messageDigest":{"algorithm":"SHA2_256","digest":%q},"signature":%q}}`,
		bundle.MediaType, b64(digest[:]), b64(sig))
}

// oms is the statement of a model, with subject annotations and ignore paths.
func oms(t testing.TB, f files, annotations map[string]json.RawMessage, ignore ...string) []byte {
	t.Helper()
	m, err := manifest.New(f.resources(), manifest.Serialization{IgnorePaths: ignore})
	if err != nil {
		t.Fatal(err)
	}
	return statement(t, m, annotations)
}

func statement(t testing.TB, m *manifest.Manifest, annotations map[string]json.RawMessage) []byte {
	t.Helper()
	st, err := m.Statement("tiny", annotations)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := st.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// bindingTo is the well-formed binding to a manifest.
func bindingTo(d ocispec.Descriptor) verify.Binding {
	return verify.Binding{
		Manifest:     verify.BoundManifest{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size},
		Repository:   "acme/tiny",
		Tag:          "v1",
		ArtifactType: d.ArtifactType,
		Layout:       "title",
	}
}

func annotated(t testing.TB, b verify.Binding) map[string]json.RawMessage {
	t.Helper()
	annotations, err := b.Annotations()
	if err != nil {
		t.Fatal(err)
	}
	return annotations
}

// bound is the statement of tiny, bound to its manifest.
func bound(t testing.TB) []byte {
	t.Helper()
	return oms(t, tiny, annotated(t, bindingTo(manifestOf("tiny"))), manifest.GitPaths()...)
}

// artifact is the statement of an artifact signature.
func artifact(t testing.TB, d ocispec.Descriptor) []byte {
	t.Helper()
	st, err := verify.ArtifactStatement(d, "", "acme/tiny", "v1", nil)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := st.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// edit changes a statement as JSON.
func edit(t testing.TB, payload []byte, change func(st map[string]any)) []byte {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.UseNumber()
	var st map[string]any
	if err := dec.Decode(&st); err != nil {
		t.Fatal(err)
	}
	change(st)
	out, err := json.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func subject(st map[string]any) map[string]any {
	return st["subject"].([]any)[0].(map[string]any)
}

func candidates(list ...verify.Candidate) verify.Evidence {
	return verify.Evidence{Candidates: slices.Values(list)}
}

// bundles are candidates with nothing wrong on their way.
func bundles(list ...[]byte) verify.Evidence {
	var out []verify.Candidate
	for i, data := range list {
		out = append(out, verify.Candidate{Referrer: fmt.Sprintf("sha256:%064d", i), Bundle: data})
	}
	return candidates(out...)
}

func wantVerified(t *testing.T, r *verify.Report, err error, strength verify.Strength) {
	t.Helper()
	if err != nil {
		t.Fatalf("got %v, want a yes", err)
	}
	if r.Verdict != verify.Verified || r.Binding != strength || len(r.Signers) == 0 {
		t.Fatalf("got verdict %q by %q with %d signers, want %q by %q", r.Verdict, r.Binding, len(r.Signers), verify.Verified, strength)
	}
}

// wantNo wants a verdict that is not yes: sentinel is ErrRefused or
// ErrUnknown, and one reason has the code.
func wantNo(t *testing.T, r *verify.Report, err error, sentinel error, code string) *verify.Report {
	t.Helper()
	if r != nil {
		t.Fatalf("got a report with verdict %q beside an error", r.Verdict)
	}
	denied, ok := errors.AsType[*verify.Error](err)
	if !ok {
		t.Fatalf("got %v, want a *verify.Error", err)
	}
	other, verdict := verify.ErrUnknown, verify.Refused
	if sentinel == verify.ErrUnknown {
		other, verdict = verify.ErrRefused, verify.Unknown
	}
	if !errors.Is(err, sentinel) || errors.Is(err, other) {
		t.Fatalf("got %v, want exactly %v", err, sentinel)
	}
	report := denied.Report
	if report.Verdict != verdict || report.Binding != "" || len(report.Signers) != 0 {
		t.Errorf("got verdict %q, binding %q, %d signers; want verdict %q and nothing else", report.Verdict, report.Binding, len(report.Signers), verdict)
	}
	if !slices.ContainsFunc(report.Reasons, func(r verify.Reason) bool { return r.Code == code }) {
		t.Fatalf("got reasons %+v, want one with code %q", report.Reasons, code)
	}
	return report
}

func TestTheHonestCasesAreVerified(t *testing.T) {
	k := newKey(t)
	for _, tt := range []struct {
		name     string
		payload  []byte
		subject  verify.Subject
		strength verify.Strength
		kind     string
	}{
		{"a bound model signature of an artifact", bound(t), tinyArtifact(), verify.StrengthManifest, "model"},
		{"an artifact signature", artifact(t, manifestOf("tiny")), tinyArtifact(), verify.StrengthManifest, "artifact"},
		{"a folder's signature of an artifact with the same files", oms(t, tiny, nil), tinyArtifact(), verify.StrengthLayers, "model"},
		{"a folder", oms(t, tiny, nil), folder(tiny), verify.StrengthFiles, "model"},
		{"a folder by the signature of its artifact", bound(t), folder(tiny), verify.StrengthFiles, "model"},
		{"a folder against its artifact", bound(t), verify.Subject{Artifact: tinyArtifact().Artifact, Local: tiny.local()}, verify.StrengthManifest, "model"},
		{"a folder against its artifact, by the artifact signature", artifact(t, manifestOf("tiny")), verify.Subject{Artifact: tinyArtifact().Artifact, Local: tiny.local()}, verify.StrengthManifest, "artifact"},
		{"any minor version of OMS", bytes.Replace(bound(t), []byte("signature/v1.0"), []byte("signature/v1.7"), 1), tinyArtifact(), verify.StrengthManifest, "model"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := verify.Decide(t.Context(), trusts(k), tt.subject, bundles(k.sign(t, tt.payload)))
			wantVerified(t, r, err, tt.strength)
			s := r.Signers[0]
			fingerprint, err := bundle.Fingerprint(k.Public())
			if err != nil {
				t.Fatal(err)
			}
			if s.Kind != tt.kind || s.Identity.Method != bundle.MethodKey || s.Identity.KeyFingerprint != fingerprint || s.Referrer == "" {
				t.Errorf("signer %+v", s)
			}
			if r.Files.Count != 2 || r.Files.Bytes != 7 {
				t.Errorf("files %+v, want 2 with 7 bytes", r.Files)
			}
			if len(r.Reasons) != 0 || len(r.Warnings) != 0 {
				t.Errorf("reasons %v, warnings %q", r.Reasons, r.Warnings)
			}
		})
	}
}

func TestSignersSayWhatTheyRecorded(t *testing.T) { // rule 12
	k := newKey(t)
	for name, payload := range map[string][]byte{"model": bound(t), "artifact": artifact(t, manifestOf("tiny"))} {
		r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), bundles(k.sign(t, payload)))
		wantVerified(t, r, err, verify.StrengthManifest)
		if s := r.Signers[0]; s.Repository != "acme/tiny" || s.Tag != "v1" {
			t.Errorf("%s signature: repository %q, tag %q", name, s.Repository, s.Tag)
		}
	}
}

func TestWhatIsSignedByTheRightKeyAndIsNoApproval(t *testing.T) { // rule 4
	k := newKey(t)
	named := func(predicateType string) []byte {
		return edit(t, artifact(t, manifestOf("tiny")), func(st map[string]any) { st["predicateType"] = predicateType })
	}
	for _, tt := range []struct {
		name   string
		bundle []byte
		code   string
	}{
		{"an attestation", k.sign(t, named("https://slsa.dev/provenance/v1")), verify.CodeNotApproval},
		{"an SBOM", k.sign(t, named("https://spdx.dev/Document")), verify.CodeNotApproval},
		{"OMS v0.1", k.sign(t, named("https://model_signing/signature/v0.1")), verify.CodeNotApproval},
		{"OMS v2.0", k.sign(t, named("https://model_signing/signature/v2.0")), verify.CodeNotApproval},
		{"OMS v1 without a minor version", k.sign(t, named("https://model_signing/signature/v1")), verify.CodeNotApproval},
		{"OMS v1.0 and more", k.sign(t, named("https://model_signing/signature/v1.0/x")), verify.CodeNotApproval},
		{"the old digest list", k.sign(t, named("https://model_signing/Digests/v0.1")), verify.CodeNotApproval},
		{"cosign's type in another spelling", k.sign(t, named("https://sigstore.dev/cosign/sign/V1")), verify.CodeNotApproval},
		{"cosign's type and more", k.sign(t, named("https://sigstore.dev/cosign/sign/v1 ")), verify.CodeNotApproval},
		{"cosign's type, version 2", k.sign(t, named("https://sigstore.dev/cosign/sign/v2")), verify.CodeNotApproval},
		{"another payload type", k.envelope(t, "application/vnd.cncf.notary.payload.v1+json", artifact(t, manifestOf("tiny"))), verify.CodeUntrusted},
		{"no payload type", k.envelope(t, "", artifact(t, manifestOf("tiny"))), verify.CodeUntrusted},
		{"a message signature of the manifest", k.message(t, []byte("manifest tiny")), verify.CodeUntrusted},
		{"a statement of v0.1 of in-toto", k.sign(t, bytes.Replace(artifact(t, manifestOf("tiny")), []byte("Statement/v1"), []byte("Statement/v0.1"), 1)), verify.CodeNotApproval},
		{"no JSON", k.sign(t, []byte("yes")), verify.CodeMalformed},
		{"a member twice", k.sign(t, bytes.Replace(artifact(t, manifestOf("tiny")), []byte(`{"_type"`), []byte(`{"predicateType":"x","_type"`), 1)), verify.CodeMalformed},
		{"a member in upper case", k.sign(t, bytes.Replace(artifact(t, manifestOf("tiny")), []byte(`"predicateType"`), []byte(`"PredicateType"`), 1)), verify.CodeMalformed},
		{"a member nobody knows", k.sign(t, bytes.Replace(artifact(t, manifestOf("tiny")), []byte(`{"_type"`), []byte(`{"x":1,"_type"`), 1)), verify.CodeMalformed},
		{"something after the statement", k.sign(t, append(artifact(t, manifestOf("tiny")), "{}"...)), verify.CodeMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), bundles(tt.bundle))
			wantNo(t, r, err, verify.ErrRefused, tt.code)
		})
	}
	// Those other payload types were signed properly.
	r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), bundles(k.envelope(t, bundle.PayloadType, artifact(t, manifestOf("tiny")))))
	wantVerified(t, r, err, verify.StrengthManifest)
}

func TestTheSubjectOfAnArtifactSignature(t *testing.T) { // rules 4, 31
	k := newKey(t)
	right := manifestOf("tiny").Digest.Encoded()
	change := func(f func(s map[string]any)) []byte {
		return edit(t, artifact(t, manifestOf("tiny")), func(st map[string]any) { f(subject(st)) })
	}
	digests := func(d map[string]any) []byte { return change(func(s map[string]any) { s["digest"] = d }) }
	for _, tt := range []struct {
		name    string
		payload []byte
		code    string
	}{
		{"none", edit(t, artifact(t, manifestOf("tiny")), func(st map[string]any) { st["subject"] = []any{} }), verify.CodeMalformed},
		{"no list", edit(t, artifact(t, manifestOf("tiny")), func(st map[string]any) { st["subject"] = subject(st) }), verify.CodeMalformed},
		{"the right one twice", edit(t, artifact(t, manifestOf("tiny")), func(st map[string]any) { st["subject"] = []any{subject(st), subject(st)} }), verify.CodeMalformed},
		{"the right one and another", edit(t, artifact(t, manifestOf("tiny")), func(st map[string]any) {
			other := map[string]any{"digest": map[string]any{"sha256": manifestOf("other").Digest.Encoded()}}
			st["subject"] = []any{subject(st), other}
		}), verify.CodeMalformed},
		{"another manifest", artifact(t, manifestOf("other")), verify.CodeOtherSubject},
		{"one bit wrong", digests(map[string]any{"sha256": flipHex(right)}), verify.CodeOtherSubject},
		{"cut short", digests(map[string]any{"sha256": right[:62]}), verify.CodeMalformed},
		{"in upper case", digests(map[string]any{"sha256": strings.ToUpper(right)}), verify.CodeMalformed},
		{"with the algorithm in the value", digests(map[string]any{"sha256": "sha256:" + right}), verify.CodeMalformed},
		{"sha512 beside the right sha256", digests(map[string]any{"sha256": right, "sha512": strings.Repeat("ab", 64)}), verify.CodeMalformed},
		{"sha512 alone", digests(map[string]any{"sha512": strings.Repeat("ab", 64)}), verify.CodeMalformed},
		{"SHA256 in capitals", digests(map[string]any{"SHA256": right}), verify.CodeMalformed},
		{"the right bytes under the name of another algorithm", digests(map[string]any{"sha3-256": right}), verify.CodeMalformed},
		{"no digest", digests(map[string]any{}), verify.CodeMalformed},
		{"a binding to another manifest", change(func(s map[string]any) {
			s["annotations"] = annotated(t, bindingTo(manifestOf("other")))
		}), verify.CodeOtherSubject},
		{"a binding that is none", change(func(s map[string]any) {
			s["annotations"] = map[string]any{verify.AnnotationBinding: nil}
		}), verify.CodeBinding},
		{"a binding of another version", change(func(s map[string]any) {
			s["annotations"] = map[string]any{"modelsig.oci.v2": map[string]any{}}
		}), verify.CodeBinding},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), bundles(k.sign(t, tt.payload)))
			wantNo(t, r, err, verify.ErrRefused, tt.code)
		})
	}
	r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), bundles(k.sign(t, change(func(s map[string]any) {
		s["annotations"] = annotated(t, bindingTo(manifestOf("tiny")))
	}))))
	wantVerified(t, r, err, verify.StrengthManifest)
}

func flipHex(s string) string {
	raw, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	raw[len(raw)-1] ^= 1
	return hex.EncodeToString(raw)
}

// Statements by another hash than registries have are well-formed, and of no
// file that is there.
func TestAStatementByAHashThatTheFilesDoNotHave(t *testing.T) {
	k := newKey(t)
	payload := edit(t, bound(t), func(st map[string]any) {
		serialization(st)["hash_type"] = "blake3"
		for _, r := range resourcesOf(st) {
			r.(map[string]any)["algorithm"] = "blake3"
		}
	})
	for _, s := range []verify.Subject{tinyArtifact(), folder(tiny)} {
		r, err := verify.Decide(t.Context(), trusts(k), s, bundles(k.sign(t, payload)))
		wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
	}
}

func resourcesOf(st map[string]any) []any {
	return st["predicate"].(map[string]any)["resources"].([]any)
}

func serialization(st map[string]any) map[string]any {
	return st["predicate"].(map[string]any)["serialization"].(map[string]any)
}

func TestWhoeverIsNotNamedIsNotTrusted(t *testing.T) {
	right, wrong := newKey(t), newKey(t)
	both := bundles(right.sign(t, bound(t)), right.sign(t, artifact(t, manifestOf("tiny"))))
	for _, tt := range []struct {
		name   string
		policy verify.Policy
	}{
		{"the zero policy trusts nobody", verify.Policy{}},
		{"another key", trusts(wrong)},
		{"no verifiers, everything else allowed", verify.Policy{Binding: verify.StrengthFiles, IgnoreUnsignedFiles: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := verify.Decide(t.Context(), tt.policy, tinyArtifact(), both)
			wantNo(t, r, err, verify.ErrRefused, verify.CodeUntrusted)
			r, err = verify.Decide(t.Context(), tt.policy, folder(tiny), both)
			wantNo(t, r, err, verify.ErrRefused, verify.CodeUntrusted)
		})
	}
	r, err := verify.Decide(t.Context(), trusts(wrong, right), tinyArtifact(), both)
	wantVerified(t, r, err, verify.StrengthManifest)
}

func TestUnsignedIsSaidOnlyWhenItIsCertain(t *testing.T) { // rule 38
	k := newKey(t)
	cut := verify.Evidence{Incomplete: func() error { return errors.New("page 2: 429 Too Many Requests") }}
	whole := verify.Evidence{Incomplete: func() error { return nil }}

	for _, ev := range []verify.Evidence{{}, whole, bundles()} {
		r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), ev)
		wantNo(t, r, err, verify.ErrRefused, verify.CodeUnsigned)
	}
	r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), cut)
	wantNo(t, r, err, verify.ErrUnknown, verify.CodeUnread)
	if !strings.Contains(err.Error(), "429") {
		t.Errorf("%q does not say why", err)
	}

	cut.Candidates = bundles(newKey(t).sign(t, bound(t))).Candidates
	r, err = verify.Decide(t.Context(), trusts(k), tinyArtifact(), cut)
	report := wantNo(t, r, err, verify.ErrUnknown, verify.CodeUnread)
	if len(report.Reasons) != 2 || !strings.Contains(err.Error(), "429") {
		t.Errorf("%q, reasons %+v: want what could not be read first", err, report.Reasons)
	}

	// What is missing of the list does not matter once somebody said yes.
	cut.Candidates = bundles(k.sign(t, bound(t))).Candidates
	r, err = verify.Decide(t.Context(), trusts(k), tinyArtifact(), cut)
	wantVerified(t, r, err, verify.StrengthManifest)
}

func TestACandidateThatCameToNothing(t *testing.T) {
	k := newKey(t)
	for _, tt := range []struct {
		name      string
		candidate verify.Candidate
		want      error
		code      string
	}{
		{"could not be read", verify.Candidate{Err: errors.New("connection reset"), Unread: true}, verify.ErrUnknown, verify.CodeUnread},
		{"was read and is nothing", verify.Candidate{Err: errors.New("two layers")}, verify.ErrRefused, verify.CodeMalformed},
		{"is empty", verify.Candidate{}, verify.ErrRefused, verify.CodeMalformed},
		{"is HTML", verify.Candidate{Bundle: []byte("<html>")}, verify.ErrRefused, verify.CodeMalformed},
		{"is a yes that was not read whole", verify.Candidate{Bundle: k.sign(t, bound(t)), Err: errors.New("short"), Unread: true}, verify.ErrUnknown, verify.CodeUnread},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.candidate.Referrer = "sha256:where"
			r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), candidates(tt.candidate))
			report := wantNo(t, r, err, tt.want, tt.code)
			if report.Reasons[0].Referrer != "sha256:where" || !strings.Contains(err.Error(), "sha256:where") {
				t.Errorf("%v, reasons %+v: not named", err, report.Reasons)
			}
		})
	}
}

func TestAModelSignatureCanBeRequired(t *testing.T) { // rule 27
	k := newKey(t)
	model, only := k.sign(t, bound(t)), k.sign(t, artifact(t, manifestOf("tiny")))
	p := trusts(k)
	p.RequireModel = true

	r, err := verify.Decide(t.Context(), p, tinyArtifact(), bundles(only))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeNeedsModel)
	r, err = verify.Decide(t.Context(), p, tinyArtifact(), bundles(only, newKey(t).sign(t, bound(t))))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeNeedsModel)
	r, err = verify.Decide(t.Context(), p, tinyArtifact(), bundles(only, model))
	wantVerified(t, r, err, verify.StrengthManifest)
	r, err = verify.Decide(t.Context(), p, tinyArtifact(), bundles(model))
	wantVerified(t, r, err, verify.StrengthManifest)

	// One that is missing because it could not be read is not missing.
	r, err = verify.Decide(t.Context(), p, tinyArtifact(), candidates(
		verify.Candidate{Bundle: only}, verify.Candidate{Err: errors.New("timeout"), Unread: true}))
	wantNo(t, r, err, verify.ErrUnknown, verify.CodeUnread)
}

func TestAnEmptySubjectIsNeverAYes(t *testing.T) {
	k := newKey(t)
	noFile := tinyArtifact()
	noFile.Artifact.FileName = "manifest.json" // and no Local
	for _, s := range []verify.Subject{{}, noFile} {
		r, err := verify.Decide(t.Context(), trusts(k), s, bundles(k.sign(t, bound(t)), k.sign(t, artifact(t, manifestOf("tiny")))))
		wantNo(t, r, err, verify.ErrUnknown, verify.CodeUnread)
	}
	// A manifest without a digest is nobody's subject.
	s := tinyArtifact()
	s.Artifact.Manifest = ocispec.Descriptor{}
	r, err := verify.Decide(t.Context(), trusts(k), s, bundles(k.sign(t, bound(t)), k.sign(t, artifact(t, manifestOf("tiny")))))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeOtherSubject)
}

func TestDecideEndsWithItsContext(t *testing.T) { // rule 37
	k := newKey(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, err := verify.Decide(ctx, trusts(k), tinyArtifact(), bundles(k.sign(t, bound(t))))
	if r != nil || !errors.Is(err, context.Canceled) || errors.Is(err, verify.ErrRefused) || errors.Is(err, verify.ErrUnknown) {
		t.Errorf("got %v and %v, want only the context's error", r, err)
	}

	// While a file is hashed.
	ctx, cancel = context.WithCancel(t.Context())
	s := folder(tiny)
	s.Local.Files[0].Open = func() (io.ReadCloser, error) {
		cancel()
		return nil, errors.New("input/output error")
	}
	r, err = verify.Decide(ctx, trusts(k), s, bundles(k.sign(t, bound(t))))
	if r != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v and %v, want the context's error", r, err)
	}
}

func TestArtifactStatement(t *testing.T) {
	d := manifestOf("tiny")
	st, err := verify.ArtifactStatement(d, "00ff", "acme/tiny", "v1", map[string]string{"team": `"a" & <b>`})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := st.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` + d.Digest.Encoded() +
		`"},"annotations":{"modelsig.repository":"acme/tiny","modelsig.root":"00ff","modelsig.tag":"v1","team":"\"a\" \u0026 \u003cb\u003e"}}],` +
		`"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`
	if string(payload) != want {
		t.Errorf("got  %s\nwant %s", payload, want)
	}
	for _, name := range []string{"", "modelsig.root", "modelsig.x", "ModelSig.root"} {
		if _, err := verify.ArtifactStatement(d, "", "", "", map[string]string{name: "x"}); err == nil {
			t.Errorf("annotation %q was accepted", name)
		}
	}
	d.Digest = digest.SHA512.FromString("x") // rule 31
	if _, err := verify.ArtifactStatement(d, "", "", "", nil); err == nil {
		t.Error("a sha512 manifest was accepted")
	}
}

// verifierOf is what accepts signer, which has its key already, and nobody else.
func verifierOf(signer bundle.Signer) bundle.Verifier {
	v, err := signer.Verifier(context.Background())
	if err != nil {
		panic(err)
	}
	return v
}
