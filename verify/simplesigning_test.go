package verify_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/verify"
)

// simple signs a payload in cosign's old form.
func (k keypair) simple(t testing.TB, payload string) verify.Candidate {
	t.Helper()
	s, err := k.signer.SignSimple(t.Context(), []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return verify.Candidate{Referrer: "sha256-….sig", SimpleSigning: &s}
}

// older is evidence that only cosign's old tag has.
func older(list ...verify.Candidate) verify.Evidence {
	return verify.Evidence{Older: candidates(list...).Candidates}
}

func simplePayload(t testing.TB, salt, reference string) string {
	t.Helper()
	payload, err := verify.SimpleSigning(manifestOf(salt), reference, nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(payload)
}

func TestSimpleSigningIsWhatCosignWrites(t *testing.T) {
	d := manifestOf("tiny")
	payload := simplePayload(t, "tiny", "example.com/acme/tiny")
	want := `{"critical":{"identity":{"docker-reference":"example.com/acme/tiny"},"image":{"docker-manifest-digest":"` +
		d.Digest.String() + `"},"type":"cosign container image signature"},"optional":null}`
	if payload != want {
		t.Errorf("wrote %s", payload)
	}
	data, err := verify.SimpleSigning(d, "example.com/acme/tiny", map[string]string{"b": "2", "a": `"1"`})
	if err != nil || !strings.HasSuffix(string(data), `,"optional":{"a":"\"1\"","b":"2"}}`) {
		t.Errorf("with annotations: %s, %v", data, err)
	}
	named, reference, err := verify.ReadSimpleSigning(data)
	if err != nil || named != d.Digest || reference != "example.com/acme/tiny" {
		t.Errorf("read %s %q, %v", named, reference, err)
	}
	if _, err := verify.SimpleSigning(d, "x", map[string]string{"modelsig.tag": "v1"}); err == nil {
		t.Error("a reserved name is signed")
	}
	d.Digest = "sha512:00"
	if _, err := verify.SimpleSigning(d, "x", nil); err == nil {
		t.Error("another algorithm is signed") // rule 31
	}
}

func TestASimpleSignatureApprovesTheManifest(t *testing.T) { // ADR 20
	k := newKey(t)
	good := k.simple(t, simplePayload(t, "tiny", "registry.example.com:5000/acme/tiny"))
	r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), older(good))
	wantVerified(t, r, err, verify.StrengthManifest)
	if s := r.Signers[0]; s.Kind != "artifact" || s.Repository != "acme/tiny" || s.Identity.Method != bundle.MethodKey || s.Referrer != good.Referrer {
		t.Errorf("signer %+v", s)
	}
	// It is no model signature.
	p := trusts(k)
	p.RequireModel = true
	r, err = verify.Decide(t.Context(), p, tinyArtifact(), older(good))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeNeedsModel)
	// It says nothing about a folder alone.
	r, err = verify.Decide(t.Context(), trusts(k), folder(tiny), older(good))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeNotApproval)
	// And nobody else's counts.
	r, err = verify.Decide(t.Context(), trusts(newKey(t)), tinyArtifact(), older(good))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeUntrusted)
}

func TestEveryRefusalOfASimpleSignature(t *testing.T) {
	k := newKey(t)
	right := simplePayload(t, "tiny", "example.com/m")
	change := func(old, with string) string {
		changed := strings.Replace(right, old, with, 1)
		if changed == right {
			t.Fatalf("%q is not in the payload", old)
		}
		return changed
	}
	for _, tt := range []struct{ name, payload, code string }{
		{"another manifest", simplePayload(t, "other", "example.com/m"), verify.CodeOtherSubject},
		{"GPG's type", change("cosign container image", "atomic container"), verify.CodeMalformed},
		{"no identity", change(`"identity":{"docker-reference":"example.com/m"},`, ""), verify.CodeMalformed},
		{"no reference", change(`"docker-reference":"example.com/m"`, ""), verify.CodeMalformed},
		{"a reference that is null", change(`"docker-reference":"example.com/m"`, `"docker-reference":null`), verify.CodeMalformed},
		{"no type", change(`,"type":"cosign container image signature"`, ""), verify.CodeMalformed},
		{"a type in capitals", change(`"type":"cosign`, `"type":"Cosign`), verify.CodeMalformed},
		{"sha512", change(`"docker-manifest-digest":"sha256:`, `"docker-manifest-digest":"sha512:`), verify.CodeMalformed}, // rule 31
		{"a digest in capitals", change(manifestOf("tiny").Digest.Encoded(), strings.ToUpper(manifestOf("tiny").Digest.Encoded())), verify.CodeMalformed},
		{"two digests", change(`"docker-manifest-digest"`, `"docker-manifest-digest":"x","docker-manifest-digest"`), verify.CodeMalformed},
		{"a digest in another spelling", change(`"docker-manifest-digest"`, `"Docker-Manifest-Digest"`), verify.CodeMalformed},
		{"a digest in both spellings", change(`"docker-manifest-digest"`, `"Docker-Manifest-Digest":"x","docker-manifest-digest"`), verify.CodeMalformed},
		{"an unknown member", change(`{"critical"`, `{"x":1,"critical"`), verify.CodeMalformed},
		{"an unknown critical member", change(`{"identity"`, `{"x":1,"identity"`), verify.CodeMalformed},
		{"no optional", change(`,"optional":null`, ""), verify.CodeMalformed},
		{"an optional that is a list", change(`"optional":null`, `"optional":[]`), verify.CodeMalformed},
		{"something behind", right + "{}", verify.CodeMalformed},
		{"no JSON", "yes", verify.CodeMalformed},
		{"a statement", string(artifact(t, manifestOf("tiny"))), verify.CodeMalformed}, // rule 4
		{"nested without end", change(`"optional":null`, `"optional":{"a":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+"}"), verify.CodeMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), older(k.simple(t, tt.payload)))
			wantNo(t, r, err, verify.ErrRefused, tt.code)
		})
	}
	// What users record is theirs.
	for _, optional := range []string{`{}`, `{"Type":"x","creator":"y","timestamp":1.5,"deep":{"a":[null]}}`} {
		r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), older(k.simple(t, change("null", optional))))
		wantVerified(t, r, err, verify.StrengthManifest)
	}
	// A statement's bundle does not become one by lying elsewhere, nor the other way round.
	signed := k.sign(t, []byte(right))
	r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), bundles(signed))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeMalformed)
	s := bundle.SimpleSigning{Payload: signed}
	r, err = verify.Decide(t.Context(), trusts(k), tinyArtifact(), older(verify.Candidate{SimpleSigning: &s}))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeMalformed)
}

// What is older is asked only where nothing else was enough, and counts like
// all else where it could not be read (rule 38).
func TestWhatIsOlderIsAskedLast(t *testing.T) {
	k := newKey(t)
	good := k.simple(t, simplePayload(t, "tiny", "example.com/m"))
	never := func(func(verify.Candidate) bool) { t.Error("it was asked") }
	r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), verify.Evidence{Candidates: bundles(k.sign(t, bound(t))).Candidates, Older: never})
	wantVerified(t, r, err, verify.StrengthManifest)

	wrong := verify.Candidate{Bundle: newKey(t).sign(t, bound(t))}
	r, err = verify.Decide(t.Context(), trusts(k), tinyArtifact(), verify.Evidence{Candidates: candidates(wrong).Candidates, Older: older(good).Older})
	wantVerified(t, r, err, verify.StrengthManifest)

	unread := verify.Candidate{Err: errors.New("500"), Unread: true}
	r, err = verify.Decide(t.Context(), trusts(k), tinyArtifact(), older(unread))
	wantNo(t, r, err, verify.ErrUnknown, verify.CodeUnread)
	r, err = verify.Decide(t.Context(), trusts(k), tinyArtifact(), older(unread, good))
	wantVerified(t, r, err, verify.StrengthManifest)
}

func FuzzReadSimpleSigning(f *testing.F) {
	f.Add([]byte(simplePayload(f, "tiny", "example.com/m")))
	f.Add([]byte(`{"critical":{},"optional":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, reference, err := verify.ReadSimpleSigning(data)
		if err != nil {
			return
		}
		// encoding/json, which podman's and cosign's readers are, reads the same.
		var other struct {
			Critical struct {
				Identity map[string]string `json:"identity"`
				Image    map[string]string `json:"image"`
				Type     string            `json:"type"`
			} `json:"critical"`
		}
		if err := json.Unmarshal(data, &other); err != nil {
			t.Fatal(err)
		}
		if other.Critical.Image["docker-manifest-digest"] != d.String() || other.Critical.Identity["docker-reference"] != reference || other.Critical.Type != "cosign container image signature" {
			t.Fatalf("%q is read as %s %q", data, d, reference)
		}
	})
}
