package verify_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/verify"
)

// bindingJSON is the binding to tiny as it is written, with one edit. An edit
// that changes nothing is a mistake in the test.
func bindingJSON(t testing.TB, old, replacement string) json.RawMessage {
	t.Helper()
	data := string(annotated(t, bindingTo(manifestOf("tiny")))[verify.AnnotationBinding])
	out := strings.Replace(data, old, replacement, 1)
	if old != "" && out == data {
		t.Fatalf("%s is not in %s", old, data)
	}
	return json.RawMessage(out)
}

func TestABindingThatIsNotWellFormedRefuses(t *testing.T) { // rule 9
	k := newKey(t)
	hex := manifestOf("tiny").Digest.Encoded()
	size := fmt.Sprintf(`"size":%d`, manifestOf("tiny").Size)
	one := func(old, replacement string) map[string]json.RawMessage {
		return map[string]json.RawMessage{verify.AnnotationBinding: bindingJSON(t, old, replacement)}
	}
	is := func(value string) map[string]json.RawMessage {
		return map[string]json.RawMessage{verify.AnnotationBinding: json.RawMessage(value)}
	}
	under := func(names ...string) map[string]json.RawMessage {
		out := map[string]json.RawMessage{}
		for _, name := range names {
			out[name] = bindingJSON(t, "", "")
		}
		return out
	}
	for _, tt := range []struct {
		name        string
		annotations map[string]json.RawMessage
	}{
		{"null", is(`null`)},
		{"a list", is(`[]`)},
		{"the binding in a list", is(`[` + string(bindingJSON(t, "", "")) + `]`)},
		{"a string", is(`"` + manifestOf("tiny").Digest.String() + `"`)},
		{"the binding as text", is(string(quoted(t, bindingJSON(t, "", ""))))},
		{"a number", is(`1`)},
		{"true", is(`true`)},
		{"nothing in it", is(`{}`)},
		{"a member that nobody knows", one(`"layout"`, `"x":1,"layout"`)},
		{"a member that nobody knows, inside", one(`"mediaType"`, `"x":1,"mediaType"`)},
		{"annotations of its own", one(`"layout"`, `"annotations":{"Manifest":1},"layout"`)},
		{"a member in another case", one(`"layout"`, `"Layout"`)},
		{"a member in another case, inside", one(`"digest"`, `"Digest"`)},
		{"a member in another case beside it", one(`"layout"`, `"LAYOUT":"x","layout"`)},
		{"a manifest that is a string", one(bindingManifest(t), `"manifest":"sha256:`+hex+`"`)},
		{"a manifest that is null", one(bindingManifest(t), `"manifest":null`)},
		{"no manifest", one(bindingManifest(t)+`,`, ``)},
		{"no digest", one(`"digest":"sha256:`+hex+`",`, ``)},
		{"a digest that is null", one(`"digest":"sha256:`+hex+`"`, `"digest":null`)},
		{"a digest without its algorithm", one(`sha256:`+hex, hex)},
		{"a digest in upper case", one(hex, strings.ToUpper(hex))},
		{"a digest with a line feed", one(hex, hex+`\n`)},
		{"a digest with a space", one(`"sha256:`, `" sha256:`)},
		{"a digest that is too short", one(hex, hex[:63])},
		{"sha512", one(`sha256:`+hex, digest.SHA512.FromString("x").String())},
		{"the right bytes under the name of sha512", one(`sha256:`, `sha512:`)},
		{"no size", one(`,`+size, ``)},
		{"a negative size", one(size, `"size":-1`)},
		{"a size of zero", one(size, `"size":0`)},
		{"a size that is text", one(size, `"size":"13"`)},
		{"a size with a fraction", one(size, `"size":13.0`)},
		{"a size with an exponent", one(size, `"size":1.3e1`)},
		{"a size beyond int64", one(size, `"size":9223372036854775808`)},
		{"no media type", one(`"mediaType":"application/vnd.oci.image.manifest.v1+json",`, ``)},
		{"no layout", one(`,"layout":"title"`, ``)},
		{"an empty layout", one(`"layout":"title"`, `"layout":""`)},
		{"a layout that is null", one(`"layout":"title"`, `"layout":null`)},
		{"no artifactType", one(`"artifactType":"application/vnd.unknown.artifact.v1",`, ``)},
		{"a repository that is null", one(`"repository":"acme/tiny"`, `"repository":null`)},
		{"a tag that is a number", one(`"tag":"v1"`, `"tag":1`)},
		{"a path annotation that nobody knows", one(`"layout"`, `"pathAnnotation":"name","layout"`)},
		{"a future version", under("modelsig.oci.v2")},
		{"a future version beside ours", under("modelsig.oci.v2", verify.AnnotationBinding)},
		{"our version in another case", under("Modelsig.oci.v1")},
		{"our version in another case beside ours", under("modelsig.OCI.v1", verify.AnnotationBinding)},
		{"a name that only begins as ours", under("modelsig.oci.")},
		{"a name that only begins as ours, with something behind", under("modelsig.oci.v1 ")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			payload := oms(t, tiny, tt.annotations)
			// Everywhere: read as absent, it would be a yes in both.
			for _, s := range []verify.Subject{tinyArtifact(), folder(tiny)} {
				r, err := verify.Decide(t.Context(), trusts(k), s, bundles(k.sign(t, payload)))
				wantNo(t, r, err, verify.ErrRefused, verify.CodeBinding)
			}
		})
	}

	// What two parsers could read differently does not come so far: the
	// statement itself is refused.
	for _, duplicate := range []string{`"layout":"title","layout":"title"`, `"layout":"x","layout":"title"`} {
		payload := strings.Replace(string(bound(t)), `"layout":"title"`, duplicate, 1)
		r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), bundles(k.sign(t, []byte(payload))))
		wantNo(t, r, err, verify.ErrRefused, verify.CodeMalformed)
	}
}

func quoted(t testing.TB, data json.RawMessage) json.RawMessage {
	t.Helper()
	out, err := json.Marshal(string(data))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// bindingManifest is the manifest member of the binding to tiny.
func bindingManifest(t testing.TB) string {
	t.Helper()
	data, err := json.Marshal(bindingTo(manifestOf("tiny")).Manifest)
	if err != nil {
		t.Fatal(err)
	}
	return `"manifest":` + string(data)
}

func TestABindingToAnotherManifestRefuses(t *testing.T) { // rule 9, invariant 6
	k := newKey(t)
	change := func(f func(*verify.Binding)) verify.Binding {
		b := bindingTo(manifestOf("tiny"))
		f(&b)
		return b
	}
	for _, tt := range []struct {
		name    string
		binding verify.Binding
	}{
		{"another digest", change(func(b *verify.Binding) { b.Manifest.Digest = manifestOf("other").Digest.String() })},
		{"another size", change(func(b *verify.Binding) { b.Manifest.Size++ })},
		{"another media type", change(func(b *verify.Binding) {
			b.Manifest.MediaType = "application/vnd.docker.distribution.manifest.v2+json"
		})},
		{"a media type in another case", change(func(b *verify.Binding) { b.Manifest.MediaType = strings.ToUpper(b.Manifest.MediaType) })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			payload := oms(t, tiny, annotated(t, tt.binding))
			r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), bundles(k.sign(t, payload)))
			wantNo(t, r, err, verify.ErrRefused, verify.CodeOtherSubject)
			if !strings.Contains(err.Error(), "the files are the same") { // M19
				t.Errorf("%q does not say that only the manifest is another", err)
			}
			// The folder is none of the manifest's business.
			r, err = verify.Decide(t.Context(), trusts(k), folder(tiny), bundles(k.sign(t, payload)))
			wantVerified(t, r, err, verify.StrengthFiles)
			// A folder against the artifact is.
			r, err = verify.Decide(t.Context(), trusts(k), verify.Subject{Artifact: tinyArtifact().Artifact, Local: tiny.local()}, bundles(k.sign(t, payload)))
			wantNo(t, r, err, verify.ErrRefused, verify.CodeOtherSubject)
		})
	}
}

func TestTheBindingIsRightAndTheFilesAreNot(t *testing.T) { // rule 9
	k := newKey(t)
	for _, tt := range []struct {
		name   string
		signed files
	}{
		{"a file changed", tiny.with("config.json", "[]")},
		{"a file more", tiny.with("more.bin", "x")},
		{"a file less", tiny.without("config.json")},
		{"a file under another name", tiny.without("config.json").with("config.jsn", "{}")},
		{"two files exchanged", tiny.with("config.json", "hello").with("weights/a.bin", "{}")},
	} {
		for _, layout := range []string{"title", "some-other-layout"} {
			t.Run(tt.name+", layout "+layout, func(t *testing.T) {
				b := bindingTo(manifestOf("tiny"))
				b.Layout = layout
				payload := oms(t, tt.signed, annotated(t, b))
				r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), bundles(k.sign(t, payload)))
				wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
			})
		}
	}
}

func TestTheManifestDigestIsEnoughWhereLayersAreNoFiles(t *testing.T) {
	k := newKey(t)
	s := tinyArtifact()
	s.Artifact.Map = func(string, ...digest.Digest) (*verify.Mapping, error) {
		return nil, errors.New(`layers[0] ("application/x-tar") is an archive`)
	}
	for _, payload := range [][]byte{bound(t), artifact(t, manifestOf("tiny"))} {
		r, err := verify.Decide(t.Context(), trusts(k), s, bundles(k.sign(t, payload)))
		wantVerified(t, r, err, verify.StrengthManifest)
		if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "archive") {
			t.Errorf("warnings %q: want one that says why the layers were not compared", r.Warnings)
		}
	}
	// Without a binding there is nothing to compare.
	r, err := verify.Decide(t.Context(), trusts(k), s, bundles(k.sign(t, oms(t, tiny, nil))))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeUnmapped)

	// A folder cannot be held against such an artifact by the artifact
	// signature: there is no list. With a model signature there is one.
	s.Local = tiny.local()
	r, err = verify.Decide(t.Context(), trusts(k), s, bundles(k.sign(t, artifact(t, manifestOf("tiny")))))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeUnmapped)
	r, err = verify.Decide(t.Context(), trusts(k), s, bundles(k.sign(t, bound(t))))
	wantVerified(t, r, err, verify.StrengthManifest)
	s.Local = tiny.with("config.json", "[]").local()
	r, err = verify.Decide(t.Context(), trusts(k), s, bundles(k.sign(t, bound(t))))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
}

func TestHostileNamesAreRefusedWhoeverSigned(t *testing.T) {
	k := newKey(t)
	s := tinyArtifact()
	s.Artifact.Map = func(string, ...digest.Digest) (*verify.Mapping, error) {
		return nil, fmt.Errorf("layers[1]: %w", &manifest.ThreatError{Code: "name-parent", Name: "../x", Reason: "path has a .. segment"})
	}
	for _, payload := range [][]byte{bound(t), artifact(t, manifestOf("tiny")), oms(t, tiny, nil)} {
		r, err := verify.Decide(t.Context(), trusts(k), s, bundles(k.sign(t, payload)))
		wantNo(t, r, err, verify.ErrRefused, "name-parent")
		if !strings.Contains(err.Error(), `"../x"`) {
			t.Errorf("%q does not name the thing", err)
		}
	}
	s.Artifact.Map = func(string, ...digest.Digest) (*verify.Mapping, error) { return nil, &manifest.ThreatError{Name: "x"} }
	r, err := verify.Decide(t.Context(), trusts(k), s, bundles(k.sign(t, bound(t))))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeThreat)
}

func TestTheRecordedPathAnnotationIsTheOneThatIsRead(t *testing.T) {
	k := newKey(t)
	b := bindingTo(manifestOf("tiny"))
	b.PathAnnotation = "filepath"
	var asked []string
	s := tinyArtifact()
	s.Artifact.Map = func(pathAnnotation string, _ ...digest.Digest) (*verify.Mapping, error) {
		asked = append(asked, pathAnnotation)
		if pathAnnotation == "filepath" {
			return tiny.mapped(), nil
		}
		return files{"other": "x"}.mapped(), nil
	}
	signed := k.sign(t, oms(t, tiny, annotated(t, b)))
	r, err := verify.Decide(t.Context(), trusts(k), s, bundles(signed, signed))
	wantVerified(t, r, err, verify.StrengthManifest)
	if !slices.Equal(asked, []string{"filepath"}) {
		t.Errorf("mapped by %q, want once by filepath", asked)
	}
}

func TestEqualFilesWithoutABinding(t *testing.T) { // rule 8
	k := newKey(t)
	signed := k.sign(t, oms(t, tiny, nil, manifest.GitPaths()...))
	with := func(change func(*verify.Mapping)) verify.Subject {
		m := tiny.mapped()
		change(m)
		return verify.Subject{Artifact: artifactOf("tiny", m)}
	}
	for _, tt := range []struct {
		name    string
		subject verify.Subject
		code    string
	}{
		{"a config with content", with(func(m *verify.Mapping) { m.Uncovered = []string{"config sha256:…"} }), verify.CodeUncovered},
		{"an annotation", with(func(m *verify.Mapping) { m.Uncovered = []string{`annotation "x"`} }), verify.CodeUncovered},
		{"a layer changed", with(func(m *verify.Mapping) { m.Files = tiny.with("config.json", "[]").known() }), verify.CodeFiles},
		{"a layer more", with(func(m *verify.Mapping) { m.Files = tiny.with("more", "x").known() }), verify.CodeFiles},
		{"a layer less", with(func(m *verify.Mapping) { m.Files = tiny.without("config.json").known() }), verify.CodeFiles},
		{"a layer under another name", with(func(m *verify.Mapping) { m.Files = tiny.without("config.json").with("Config.json", "{}").known() }), verify.CodeFiles},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := verify.Decide(t.Context(), trusts(k), tt.subject, bundles(signed))
			wantNo(t, r, err, verify.ErrRefused, tt.code)
			// The artifact signature covers every one of them.
			r, err = verify.Decide(t.Context(), trusts(k), tt.subject, bundles(signed, k.sign(t, artifact(t, manifestOf("tiny")))))
			wantVerified(t, r, err, verify.StrengthManifest)
			if len(r.Files.Missing)+len(r.Files.Changed)+len(r.Files.Extra) != 0 {
				t.Errorf("a yes with differences: %+v", r.Files)
			}
		})
	}

	// Layers that OMS tools leave out are told, and are no reason to refuse.
	r, err := verify.Decide(t.Context(), trusts(k), with(func(m *verify.Mapping) { m.GitFiles = []string{".gitattributes"} }), bundles(signed))
	wantVerified(t, r, err, verify.StrengthLayers)
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], `".gitattributes"`) {
		t.Errorf("warnings %q", r.Warnings)
	}
}

func TestThePolicySaysHowStrongABindingMustBe(t *testing.T) {
	k := newKey(t)
	unbound, model, only := k.sign(t, oms(t, tiny, nil)), k.sign(t, bound(t)), k.sign(t, artifact(t, manifestOf("tiny")))
	for _, level := range []verify.Strength{"", verify.StrengthManifest, verify.StrengthFiles, "anything"} {
		t.Run(fmt.Sprintf("%q", level), func(t *testing.T) {
			p := trusts(k)
			p.Binding = level
			r, err := verify.Decide(t.Context(), p, tinyArtifact(), bundles(unbound))
			wantNo(t, r, err, verify.ErrRefused, verify.CodeWeak)
			r, err = verify.Decide(t.Context(), p, verify.Subject{Artifact: tinyArtifact().Artifact, Local: tiny.local()}, bundles(unbound))
			wantNo(t, r, err, verify.ErrRefused, verify.CodeWeak)
			for _, b := range [][]byte{model, only} {
				r, err = verify.Decide(t.Context(), p, tinyArtifact(), bundles(unbound, b))
				wantVerified(t, r, err, verify.StrengthManifest)
			}
			// It is about artifacts.
			r, err = verify.Decide(t.Context(), p, folder(tiny), bundles(unbound))
			wantVerified(t, r, err, verify.StrengthFiles)
		})
	}
	// Of two readings the stronger one is reported, in either order.
	for _, ev := range []verify.Evidence{bundles(unbound, only), bundles(only, unbound)} {
		r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), ev)
		wantVerified(t, r, err, verify.StrengthManifest)
	}
}

func TestNoIgnoreRuleExcusesALayer(t *testing.T) { // rule 8
	k := newKey(t)
	p := trusts(k)
	p.IgnorePaths = manifest.Ignore{"extra.bin", "extra"}
	p.IgnoreUnsignedFiles = true
	for _, extra := range []string{"extra.bin", "extra/x.bin", ".gitignore", ".git/hooks/post-checkout", "model.sig"} {
		t.Run(extra, func(t *testing.T) {
			s := verify.Subject{Artifact: artifactOf("tiny", tiny.with(extra, "evil").mapped())}
			for _, annotations := range []map[string]json.RawMessage{nil, annotated(t, bindingTo(manifestOf("tiny")))} {
				payload := oms(t, tiny, annotations, append(manifest.GitPaths(), "extra.bin", "extra", "model.sig")...)
				r, err := verify.Decide(t.Context(), p, s, bundles(k.sign(t, payload)))
				report := wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
				if !slices.Equal(report.Files.Extra, []string{extra}) {
					t.Errorf("extra %q, want %q", report.Files.Extra, extra)
				}
			}
		})
	}
}

func TestNamesThatOtherToolsGiveToBlobs(t *testing.T) {
	k := newKey(t)
	// Other tools list the config and layers without a title as files.
	// They write an empty list of ignore paths.
	manifestMade := func(f files) []byte {
		m, err := manifest.New(f.resources(), manifest.Serialization{IgnorePaths: []string{}})
		if err != nil {
			t.Fatal(err)
		}
		return k.sign(t, statement(t, m, nil))
	}
	foreign := manifestMade(tiny.with("config.json", "{}").with("layer_002.tar.gz", "blob"))
	layers := files{"weights/a.bin": "hello"}
	pseudo := map[string]digest.Digest{"config.json": digest.FromString("{}"), "layer_002.tar.gz": digest.FromString("blob")}
	subject := func(f files, pseudo map[string]digest.Digest) verify.Subject {
		a := artifactOf("tiny", f.mapped())
		a.Pseudo = pseudo
		return verify.Subject{Artifact: a}
	}
	r, err := verify.Decide(t.Context(), trusts(k), subject(layers, pseudo), bundles(foreign))
	wantVerified(t, r, err, verify.StrengthLayers)

	// A folder has files of these names, and a removed one is not excused.
	for name, folder := range map[string][]byte{
		"a folder without ignore paths": k.sign(t, oms(t, tiny.with("config.json", "{}"), nil)),
		"a folder with git names":       k.sign(t, oms(t, tiny.with("config.json", "{}"), nil, manifest.GitPaths()...)),
		"a number, and no config":       manifestMade(tiny.with("layer_002.tar.gz", "blob").without("config.json")),
	} {
		t.Run(name, func(t *testing.T) {
			r, err := verify.Decide(t.Context(), trusts(k), subject(layers, pseudo), bundles(folder))
			wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
		})
	}

	for _, tt := range []struct {
		name    string
		subject verify.Subject
	}{
		{"the caller knows no such names", subject(layers, nil)},
		{"the config is another blob", subject(layers, map[string]digest.Digest{"config.json": digest.FromString("[]"), "layer_002.tar.gz": pseudo["layer_002.tar.gz"]})},
		{"a layer has the name, with other content", subject(layers.with("config.json", "[]"), pseudo)},
		{"the layer of that number is another blob", subject(layers, map[string]digest.Digest{"config.json": pseudo["config.json"], "layer_002.tar.gz": digest.FromString("evil")})},
		{"another file is missing", subject(files{"other": "x"}, pseudo)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := verify.Decide(t.Context(), trusts(k), tt.subject, bundles(foreign))
			wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
		})
	}

	// The blobs that the entries cover are told to the mapping, and no others.
	var covered []digest.Digest
	s := subject(layers, pseudo)
	s.Artifact.Map = func(_ string, blobs ...digest.Digest) (*verify.Mapping, error) {
		covered = blobs
		m := layers.mapped()
		m.Warnings = []string{"layers[1]: no name"}
		return m, nil
	}
	r, err = verify.Decide(t.Context(), trusts(k), s, bundles(manifestMade(tiny.with("config.json", "{}"))))
	wantVerified(t, r, err, verify.StrengthLayers)
	if !slices.Equal(covered, []digest.Digest{pseudo["config.json"]}) || !slices.Equal(r.Warnings, []string{"layers[1]: no name"}) {
		t.Errorf("covered %q, warnings %q", covered, r.Warnings)
	}

	// A bound statement is ours, and lists files only.
	a := subject(layers, pseudo)
	payload := oms(t, tiny.with("layer_002.tar.gz", "blob"), annotated(t, bindingTo(manifestOf("tiny"))))
	r, err = verify.Decide(t.Context(), trusts(k), a, bundles(k.sign(t, payload)))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
}

// FuzzBinding signs any annotation: a yes needs a binding that names this
// manifest, and nothing else may be read as one or as none.
func FuzzBinding(f *testing.F) {
	for _, seed := range []string{"null", "{}", "[]", `""`, `{"manifest":{}}`, string(bindingJSON(f, "", "")),
		string(bindingJSON(f, `"layout"`, `"Layout"`)), string(bindingJSON(f, `"tag":"v1"`, `"root":"models","platform":"linux/amd64"`))} {
		f.Add(verify.AnnotationBinding, []byte(seed))
		f.Add("modelsig.oci.v2", []byte(seed))
	}
	k := fixedKey(f)
	f.Fuzz(func(t *testing.T, name string, value []byte) {
		m, err := manifest.New(tiny.resources(), manifest.Serialization{})
		if err != nil {
			t.Fatal(err)
		}
		st, err := m.Statement("tiny", map[string]json.RawMessage{name: value})
		if err != nil {
			t.Skip()
		}
		payload, err := st.Marshal()
		if err != nil {
			t.Skip() // cannot be written
		}
		p := trusts(k)
		p.Binding = verify.StrengthManifest
		r, err := verify.Decide(t.Context(), p, tinyArtifact(), bundles(k.sign(t, payload)))
		if !strings.HasPrefix(strings.ToLower(name), "modelsig.oci.") {
			wantNo(t, r, err, verify.ErrRefused, verify.CodeWeak)
			return
		}
		if err != nil {
			if errors.Is(err, verify.ErrUnknown) || !errors.Is(err, verify.ErrRefused) {
				t.Errorf("%s: %v, want a refusal", value, err)
			}
			return
		}
		var b verify.Binding
		if err := json.Unmarshal(value, &b); err != nil {
			t.Fatalf("a yes by %s: %v", value, err)
		}
		if d := manifestOf("tiny"); name != verify.AnnotationBinding || b.Manifest.Digest != d.Digest.String() || b.Manifest.Size != d.Size || b.Manifest.MediaType != d.MediaType {
			t.Errorf("a yes by %q: %s", name, value)
		}
	})
}
