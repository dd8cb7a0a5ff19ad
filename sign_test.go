package modelsig_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/referrers"
	"github.com/modelsig/modelsig/verify"
)

// slack is what signing and verifying may move beyond the manifest, the
// bundles and the fallback index.
const slack = 64 << 10

func TestSigningAndVerifyingMoveNoLayer(t *testing.T) {
	for name, serve := range map[string]func(testing.TB) *registry{"Referrers API": newRegistry, "no API": newOldRegistry} {
		t.Run(name, func(t *testing.T) {
			r, signer := serve(t), newSigner(t)
			m := &meter{}
			client := &modelsig.Client{Registry: oci.Options{Transport: m}}
			cost := map[int64][2]int{} // size of the model → requests of sign, of verify
			for _, size := range []int64{4 << 20, 4 << 40} {
				// The blobs do not exist: whoever asks for one gets an error.
				model := image(rawLayer("config.json", `{"a":1}`), rawLayer("weights/a.bin", "hello"))
				model.Layers[1].Size = size
				repository := fmt.Sprintf("acme/m%d", size)
				desc := r.put(t, repository, "v1", model)
				ref := r.host + "/" + repository + ":v1"

				m.reset()
				sig := mustSign(t, client, ref, signer, modelsig.SignOptions{})
				requests := [2]int{len(m.requests)}
				v, err := client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{})
				wantVerified(t, v, err, verify.StrengthManifest, 2)
				if v.Files.Bytes != size+7 {
					t.Errorf("%d bytes signed for, want %d", v.Files.Bytes, size+7)
				}
				requests[1] = len(m.requests) - requests[0]
				cost[size] = requests

				for _, l := range model.Layers {
					if asked := m.about(l.Digest.String()); len(asked) != 0 {
						t.Errorf("asked for a layer: %q", asked)
					}
				}
				// Bundles go up once, and come down to be read back and to be
				// verified; the manifest comes down for each act.
				known := 3*int64(len(sig.Model.Bundle)+len(sig.Artifact.Bundle)) + 2*desc.Size
				if m.bytes > known+slack {
					t.Errorf("moved %d bytes, of which %d are manifest and bundles", m.bytes, known)
				}
			}
			small, large := cost[4<<20], cost[4<<40]
			// Without the API an index that did not hold may be written again.
			if name == "Referrers API" && small != large || small[1] != large[1] {
				t.Errorf("requests of sign and verify: %v for the small model, %v for the large one", small, large)
			}
			t.Logf("requests of sign and verify: %v", small)
		})
	}
}

func TestSigningAgainAddsNothing(t *testing.T) { // rule 15
	r, signer, other := newRegistry(t), newSigner(t), newSigner(t)
	client := new(modelsig.Client)
	r.put(t, "acme/tiny", "v1", tiny())
	ref := r.host + "/acme/tiny:v1"
	attached := func() int {
		t.Helper()
		list, err := client.List(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		return len(list.Referrers)
	}
	first := mustSign(t, client, ref, signer, modelsig.SignOptions{})
	again := mustSign(t, client, ref, signer, modelsig.SignOptions{})
	if !again.Unchanged || again.Model.Referrer != first.Model.Referrer || again.Artifact.Referrer != first.Artifact.Referrer || attached() != 2 {
		t.Errorf("again %+v with %d referrers: want the first ones", again, attached())
	}
	if !bytes.Equal(again.Model.Bundle, first.Model.Bundle) {
		t.Error("the result has another bundle than the one that is attached")
	}
	// The tag by which a model was named does not matter. Another signer or
	// another annotation is another signature.
	for _, again := range []string{first.Pinned, r.host + "/acme/tiny:latest"} {
		r.put(t, "acme/tiny", "latest", tiny())
		if sig := mustSign(t, client, again, signer, modelsig.SignOptions{}); !sig.Unchanged || attached() != 2 {
			t.Errorf("signing %s added something", again)
		}
	}
	if sig := mustSign(t, client, ref, other, modelsig.SignOptions{}); sig.Unchanged || attached() != 4 {
		t.Error("a second signer signed nothing")
	}
	if sig := mustSign(t, client, ref, signer, modelsig.SignOptions{Annotations: map[string]string{"stage": "prod"}}); sig.Unchanged {
		t.Error("another annotation was not signed")
	}
	for _, s := range []modelsig.Signer{signer, other} {
		if _, err := client.Verify(t.Context(), ref, trusts(s), modelsig.VerifyOptions{}); err != nil {
			t.Error(err)
		}
	}
}

func TestGarbageThatLooksLikeOursDoesNotKeepAnyoneFromSigning(t *testing.T) { // rule 15
	signer, other := newSigner(t), newSigner(t)
	for _, tt := range []struct {
		name   string
		attach func(t *testing.T, r *registry, desc ocispec.Descriptor, sig *modelsig.Signature)
	}{
		{"JSON that is no bundle", func(t *testing.T, r *registry, desc ocispec.Descriptor, _ *modelsig.Signature) {
			r.attach(t, "acme/tiny", desc, modelType, []byte(`{}`))
			r.attach(t, "acme/tiny", desc, verify.PredicateArtifact, []byte(`{"a":1}`))
		}},
		{"our statements under another's key", func(t *testing.T, r *registry, desc ocispec.Descriptor, sig *modelsig.Signature) {
			bundles, err := other.Sign(t.Context(), sig.Model.Statement, sig.Artifact.Statement)
			if err != nil {
				t.Fatal(err)
			}
			r.attach(t, "acme/tiny", desc, modelType, bundles[0].JSON())
			r.attach(t, "acme/tiny", desc, verify.PredicateArtifact, bundles[1].JSON())
		}},
		{"our signatures with one bit flipped", func(t *testing.T, r *registry, desc ocispec.Descriptor, sig *modelsig.Signature) {
			for _, part := range []*modelsig.Signed{sig.Model, sig.Artifact} {
				r.attach(t, "acme/tiny", desc, modelType, bytes.Replace(part.Bundle, []byte(`"sig":"M`), []byte(`"sig":"N`), 1))
			}
		}},
		{"only our model signature", func(t *testing.T, r *registry, desc ocispec.Descriptor, sig *modelsig.Signature) {
			r.attach(t, "acme/tiny", desc, modelType, sig.Model.Bundle)
		}},
		{"only our artifact signature", func(t *testing.T, r *registry, desc ocispec.Descriptor, sig *modelsig.Signature) {
			r.attach(t, "acme/tiny", desc, verify.PredicateArtifact, sig.Artifact.Bundle)
		}},
		{"our model signature with a binding that verify refuses", func(t *testing.T, r *registry, desc ocispec.Descriptor, sig *modelsig.Signature) {
			// As a later version of ours may write it.
			later := bytes.Replace(sig.Model.Statement, []byte(`"layout":"title"`), []byte(`"layout":"title","later":1`), 1)
			bundles, err := signer.Sign(t.Context(), later)
			if err != nil || bytes.Equal(later, sig.Model.Statement) {
				t.Fatalf("%s, %v", later, err)
			}
			r.attach(t, "acme/tiny", desc, modelType, bundles[0].JSON())
			r.attach(t, "acme/tiny", desc, verify.PredicateArtifact, sig.Artifact.Bundle)
		}},
		{"our artifact signature twice, called both", func(t *testing.T, r *registry, desc ocispec.Descriptor, sig *modelsig.Signature) {
			r.attach(t, "acme/tiny", desc, modelType, sig.Artifact.Bundle)
			r.attach(t, "acme/tiny", desc, verify.PredicateArtifact, sig.Artifact.Bundle)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, client := newRegistry(t), new(modelsig.Client)
			desc := r.put(t, "acme/tiny", "v1", tiny())
			ref := r.host + "/acme/tiny:v1"
			// What we would attach, without attaching it.
			ours, err := client.Sign(t.Context(), ref, signer, modelsig.SignOptions{NoAttach: true})
			if err != nil {
				t.Fatal(err)
			}
			tt.attach(t, r, desc, ours)
			if sig := mustSign(t, client, ref, signer, modelsig.SignOptions{}); sig.Unchanged || sig.Model.Referrer == "" || sig.Artifact.Referrer == "" {
				t.Fatalf("signed nothing: %+v", sig)
			}
			p := trusts(signer)
			p.RequireModel = true
			v, err := client.Verify(t.Context(), ref, p, modelsig.VerifyOptions{})
			if err != nil || v.Verdict != verify.Verified {
				t.Errorf("got %v, want a yes", err)
			}
		})
	}
}

func TestATagThatMovesWhileItIsSigned(t *testing.T) { // rule 16
	r, signer := newRegistry(t), newSigner(t)
	right := r.put(t, "acme/tiny", "v1", tiny())
	evil := image(rawLayer("config.json", "evil"))
	ref := r.host + "/acme/tiny:v1"
	m := &meter{}
	client := &modelsig.Client{Registry: oci.Options{Transport: m}}
	moved := false
	m.after = func(req *http.Request) {
		if !moved && strings.HasSuffix(req.URL.Path, "/manifests/v1") {
			moved = true
			r.put(t, "acme/tiny", "v1", evil)
		}
	}
	sig := mustSign(t, client, ref, signer, modelsig.SignOptions{})
	if !moved || sig.Digest != right.Digest.String() {
		t.Fatalf("signed %s, want %s", sig.Digest, right.Digest)
	}
	if len(sig.Warnings) != 1 || !strings.Contains(sig.Warnings[0], sig.Digest) {
		t.Errorf("warnings %q: want one that says what the tag meant", sig.Warnings)
	}
	if asked := m.about("/manifests/v1"); len(asked) != 1 {
		t.Errorf("the tag was resolved %d times: %q", len(asked), asked)
	}
	v, err := client.Verify(t.Context(), sig.Pinned, trusts(signer), modelsig.VerifyOptions{})
	wantVerified(t, v, err, verify.StrengthManifest, 2)
	v, err = client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{})
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUnsigned)

	// While it is verified: what was resolved is what is judged and named.
	moved = false
	r.put(t, "acme/tiny", "v1", tiny())
	v, err = client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{})
	wantVerified(t, v, err, verify.StrengthManifest, 2)
	if !moved || v.Digest != right.Digest.String() {
		t.Errorf("judged %s, want %s", v.Digest, right.Digest)
	}

	if _, err := client.Sign(t.Context(), ref, signer, modelsig.SignOptions{RequireDigest: true}); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("got %v, want a tag to be refused", err)
	}
	if sig, err := client.Sign(t.Context(), sig.Pinned, signer, modelsig.SignOptions{RequireDigest: true}); err != nil || len(sig.Warnings) != 0 {
		t.Errorf("by digest: %v, %+v", err, sig)
	}
}

func TestWhatSigningCanLeaveOut(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	for i, tt := range []struct {
		name            string
		o               modelsig.SignOptions
		model, artifact bool
	}{
		{"nothing", modelsig.SignOptions{}, true, true},
		{"the artifact signature", modelsig.SignOptions{ModelOnly: true}, true, false},
		{"the model signature", modelsig.SignOptions{ArtifactOnly: true}, false, true},
		{"attaching", modelsig.SignOptions{NoAttach: true}, true, true},
		{"everything", modelsig.SignOptions{DryRun: true}, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tag := fmt.Sprint("v", i)
			r.put(t, "acme/tiny", tag, image(rawLayer("x", tag)))
			ref := r.host + "/acme/tiny:" + tag
			sig := mustSign(t, client, ref, signer, tt.o)
			if (sig.Model != nil) != tt.model || (sig.Artifact != nil) != tt.artifact {
				t.Fatalf("%+v", sig)
			}
			for _, part := range []*modelsig.Signed{sig.Model, sig.Artifact} {
				if part != nil && (len(part.Statement) == 0 || (part.Bundle == nil) != tt.o.DryRun || (part.Referrer == "") != (tt.o.DryRun || tt.o.NoAttach)) {
					t.Errorf("%+v", part)
				}
			}
			v, err := client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{})
			if tt.o.DryRun || tt.o.NoAttach {
				wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUnsigned)
			} else if err != nil {
				t.Error(err)
			}
			p := trusts(signer)
			p.RequireModel = true
			if _, err := client.Verify(t.Context(), ref, p, modelsig.VerifyOptions{}); (err == nil) != (tt.model && !tt.o.DryRun && !tt.o.NoAttach) {
				t.Errorf("a model signature required: %v", err)
			}
		})
	}
	for name, o := range map[string]modelsig.SignOptions{
		"both of both":                 {ModelOnly: true, ArtifactOnly: true},
		"a reserved annotation":        {Annotations: map[string]string{"modelsig.root": "x"}},
		"another layout":               {Layout: "kitops"},
		"a path annotation of no kind": {PathAnnotation: "x"},
	} {
		if sig, err := client.Sign(t.Context(), r.host+"/acme/tiny:v4", signer, o); err == nil || sig != nil {
			t.Errorf("%s: %+v, %v", name, sig, err)
		}
	}
}

func TestTheStatementsThatAreSigned(t *testing.T) {
	r, client := newRegistry(t), new(modelsig.Client)
	model := tiny()
	model.Layers = append(model.Layers, rawLayer(".gitattributes", "*.bin lfs"))
	desc := r.put(t, "acme/tiny", "v1", model)
	sig := mustSign(t, client, r.host+"/acme/tiny:v1", newSigner(t), modelsig.SignOptions{DryRun: true, Annotations: map[string]string{"stage": "prod"}})

	st, err := manifest.ParseStatement(sig.Model.Statement)
	if err != nil {
		t.Fatal(err)
	}
	oms, err := st.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range oms.Resources {
		names = append(names, r.Name)
	}
	if !slices.Equal(names, []string{"config.json", "weights/a.bin"}) || !slices.Equal(oms.Serialization.IgnorePaths, manifest.GitPaths()) {
		t.Errorf("files %q, ignored %q", names, oms.Serialization.IgnorePaths)
	}
	if st.Subject[0].Name != "tiny" || st.Subject[0].Digest["sha256"] != sig.Root {
		t.Errorf("subject %+v, root %s", st.Subject[0], sig.Root)
	}
	want := fmt.Sprintf(`{"manifest":{"mediaType":%q,"digest":%q,"size":%d},"repository":"acme/tiny","tag":"v1","artifactType":"application/vnd.unknown.artifact.v1","layout":"title"}`,
		desc.MediaType, desc.Digest, desc.Size)
	if got := string(st.Subject[0].Annotations[verify.AnnotationBinding]); got != want || len(st.Subject[0].Annotations) != 1 {
		t.Errorf("binding %s\nwant    %s", got, want)
	}
	if !slices.ContainsFunc(sig.Warnings, func(w string) bool { return strings.Contains(w, `".gitattributes"`) }) {
		t.Errorf("warnings %q do not name the layer that OMS leaves out", sig.Warnings)
	}

	if st, err = manifest.ParseStatement(sig.Artifact.Statement); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for name, value := range st.Subject[0].Annotations {
		var text string
		if err := json.Unmarshal(value, &text); err != nil {
			t.Fatal(err)
		}
		got[name] = text
	}
	if fmt.Sprint(got) != fmt.Sprint(map[string]string{"modelsig.root": sig.Root, "modelsig.repository": "acme/tiny", "modelsig.tag": "v1", "stage": "prod"}) {
		t.Errorf("annotations %v", got)
	}
	if st.PredicateType != verify.PredicateArtifact || st.Subject[0].Digest["sha256"] != desc.Digest.Encoded() || string(st.Predicate) != "{}" {
		t.Errorf("%+v", st)
	}

	// The same input, the same bytes.
	again := mustSign(t, client, r.host+"/acme/tiny:v1", newSigner(t), modelsig.SignOptions{DryRun: true, Annotations: map[string]string{"stage": "prod"}})
	if !bytes.Equal(again.Model.Statement, sig.Model.Statement) || !bytes.Equal(again.Artifact.Statement, sig.Artifact.Statement) {
		t.Error("the statements are not deterministic")
	}
}

func TestHostileArtifactsAreNotSigned(t *testing.T) {
	signer := newSigner(t)
	for _, tt := range []struct {
		name     string
		manifest any
		code     string
	}{
		{"a name that climbs", image(rawLayer("../x", "x")), "name-parent"},
		{"an absolute name", image(rawLayer("/etc/passwd", "x")), "name-absolute"},
		{"an empty name", image(rawLayer("", "x")), "name-empty"},
		{"a name with two slashes", image(rawLayer("a//b", "x")), "name-unclean"},
		{"a backslash", image(rawLayer(`a\b`, "x")), "name-backslash"},
		{"a file and a folder", image(rawLayer("a", "x"), rawLayer("a/b", "y")), "file-and-folder"},
		{"one name for two contents", image(rawLayer("a", "x"), rawLayer("a", "y")), "duplicate-name"},
		{"nothing in it", image(), "no-layers"},
		{"a member twice", []byte(`{"schemaVersion":2,"schemaVersion":2}`), "manifest-json"},
		{"a member in another case", []byte(strings.Replace(mustJSON(t, tiny()), `"layers"`, `"Layers"`, 1)), "manifest-json"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, client := newRegistry(t), new(modelsig.Client)
			desc := r.put(t, "acme/tiny", "v1", tt.manifest)
			ref := r.host + "/acme/tiny:v1"
			for _, o := range []modelsig.SignOptions{{}, {ArtifactOnly: true}, {DryRun: true}, {Allow: manifest.Threats()}, {ArtifactOnly: true, Allow: manifest.Threats()}} {
				sig, err := client.Sign(t.Context(), ref, signer, o)
				threat, ok := errors.AsType[*manifest.ThreatError](err)
				if sig != nil || !ok || threat.Code != tt.code {
					t.Errorf("%+v: got %v, want threat %q", o, err, tt.code)
				}
			}
			// Nor is it used when somebody else signed it, for instance cosign.
			st, err := verify.ArtifactStatement(desc, "", "", "", nil)
			if err != nil {
				t.Fatal(err)
			}
			file := signedFile(t, signer, st)
			v, err := client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{SignatureFile: file, Allow: manifest.Threats()})
			wantNo(t, v, err, modelsig.ErrRefused, tt.code)
		})
	}
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestArtifactsWithoutFilesCanStillBeSigned(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	packed := rawLayer("x", "tar")
	packed.MediaType, packed.Annotations = "application/vnd.kitops.modelkit.model.v1.tar", nil
	same := rawLayer("a", "x")
	for name, m := range map[string]ocispec.Manifest{
		"an archive":         image(packed),
		"one layer twice":    image(same, same),
		"names by case only": image(rawLayer("a", "x"), rawLayer("A", "y")),
		"two path annotations": image(ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromString("x"), Size: 1,
			Annotations: map[string]string{ocispec.AnnotationTitle: "a", "org.cncf.model.filepath": "b"}}),
	} {
		t.Run(name, func(t *testing.T) {
			tag := strings.ReplaceAll(name, " ", "-")
			r.put(t, "acme/tiny", tag, m)
			ref := r.host + "/acme/tiny:" + tag
			if sig, err := client.Sign(t.Context(), ref, signer, modelsig.SignOptions{}); err == nil {
				t.Errorf("a model signature %+v over files that are not certain", sig)
			}
			mustSign(t, client, ref, signer, modelsig.SignOptions{ArtifactOnly: true})
			v, err := client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{})
			wantVerified(t, v, err, verify.StrengthManifest, 1)
			if archive := name == "an archive"; archive != (len(v.Warnings) == 0) {
				t.Errorf("warnings %q: of layers whose files are uncertain, and not of archives, it is said that they were not compared", v.Warnings)
			}
		})
	}
}

func TestASignatureThatCannotBeAttachedIsAnError(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	r.put(t, "acme/tiny", "v1", tiny())
	client := &modelsig.Client{Registry: oci.Options{Transport: refusing{"PUT", "POST"}}}
	sig, err := client.Sign(t.Context(), r.host+"/acme/tiny:v1", signer, modelsig.SignOptions{})
	if sig != nil || !errors.Is(err, referrers.ErrNotAttached) || errors.Is(err, modelsig.ErrRefused) {
		t.Errorf("got %+v and %v, want only %v", sig, err, referrers.ErrNotAttached)
	}
}

// refusing answers 403 to some methods, as a registry does to who may only read.
type refusing []string

func (methods refusing) RoundTrip(req *http.Request) (*http.Response, error) {
	if slices.Contains(methods, req.Method) {
		if req.Body != nil {
			req.Body.Close()
		}
		return &http.Response{StatusCode: http.StatusForbidden, Status: "403 Forbidden", Header: http.Header{}, Body: http.NoBody, Request: req, ProtoMajor: 1, ProtoMinor: 1}, nil
	}
	return http.DefaultTransport.RoundTrip(req)
}

func TestPushSignsWhatItUploaded(t *testing.T) { // rule 16
	r, signer := newRegistry(t), newSigner(t)
	m := &meter{}
	client := &modelsig.Client{Registry: oci.Options{Transport: m}}
	m.after = func(req *http.Request) {
		if req.Method == http.MethodPut && strings.HasSuffix(req.URL.Path, "/manifests/v1") {
			r.put(t, "acme/tiny", "v1", image(rawLayer("config.json", "evil")))
		}
	}
	dir := writeModel(t, map[string]string{"a": "x", "A": "y"})
	if pushed, err := client.Push(t.Context(), dir, r.host+"/acme/tiny:v1", modelsig.PushOptions{Signer: signer}); err == nil {
		t.Errorf("pushed %+v: names that collide on some file systems", pushed)
	}
	pushed, err := client.Push(t.Context(), dir, r.host+"/acme/tiny:v1", modelsig.PushOptions{Signer: signer, Allow: manifest.Allow{manifest.CaseCollision}})
	if err != nil {
		t.Fatal(err)
	}
	if pushed.Signature == nil || pushed.Signature.Digest != pushed.Digest || len(pushed.Warnings) == 0 {
		t.Errorf("pushed %+v", pushed)
	}
	v, err := client.Verify(t.Context(), pushed.Pinned, trusts(signer), modelsig.VerifyOptions{})
	wantVerified(t, v, err, verify.StrengthManifest, 2)
	v, err = client.Verify(t.Context(), r.host+"/acme/tiny:v1", trusts(signer), modelsig.VerifyOptions{})
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUnsigned)
}

func TestProgressAddsUp(t *testing.T) {
	r := newRegistry(t)
	dir := writeModel(t, map[string]string{"a": strings.Repeat("a", 1000), "b": strings.Repeat("b", 3000)})
	last := make(chan [2]int64, 1000)
	client := &modelsig.Client{Progress: func(done, total int64) { last <- [2]int64{done, total} }}
	check := func(what string, total int64) {
		t.Helper()
		var most int64
		for len(last) > 0 {
			p := <-last
			most = max(most, p[0])
			if p[1] != total || p[0] > total {
				t.Errorf("%s: %d of %d, want at most %d", what, p[0], p[1], total)
			}
		}
		if most != total {
			t.Errorf("%s ended at %d of %d", what, most, total)
		}
	}
	if _, err := client.DigestDir(t.Context(), dir, modelsig.SignOptions{}); err != nil {
		t.Fatal(err)
	}
	check("hashing", 4000)
	if _, err := client.Push(t.Context(), dir, r.host+"/acme/tiny:v1", modelsig.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	check("pushing", 8000)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}
