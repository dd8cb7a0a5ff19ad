package modelsig_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/verify"
)

const modelType = "https://model_signing/signature/v1.0"

func TestSignaturesMovedToAChangedManifest(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	r.put(t, "acme/tiny", "v1", tiny())
	sig := mustSign(t, client, r.host+"/acme/tiny:v1", signer, modelsig.SignOptions{})

	edited := func(change func(m *ocispec.Manifest)) ocispec.Manifest {
		m := tiny()
		change(&m)
		return m
	}
	for i, tt := range []struct {
		name     string
		manifest any
	}{
		{"another model", image(rawLayer("config.json", "evil"))},
		{"a layer swapped", edited(func(m *ocispec.Manifest) { m.Layers[0] = rawLayer("config.json", "evil") })},
		{"a layer added", edited(func(m *ocispec.Manifest) { m.Layers = append(m.Layers, rawLayer("run.py", "evil")) })},
		{"a layer removed", edited(func(m *ocispec.Manifest) { m.Layers = m.Layers[1:] })},
		{"a layer retitled", edited(func(m *ocispec.Manifest) { m.Layers[0] = rawLayer("config.jsn", "{}") })},
		{"layers reordered", edited(func(m *ocispec.Manifest) { slices.Reverse(m.Layers) })},
		{"titles exchanged", image(rawLayer("weights/a.bin", "{}"), rawLayer("config.json", "hello"))},
		{"a layer without its title", edited(func(m *ocispec.Manifest) { m.Layers[0].Annotations = nil })},
		{"the config swapped", edited(func(m *ocispec.Manifest) { m.Config = rawLayer("", "evil"); m.Config.Annotations = nil })},
		{"an annotation added", edited(func(m *ocispec.Manifest) { m.Annotations = map[string]string{"run": "evil"} })},
		{"a creation time added", edited(func(m *ocispec.Manifest) {
			m.Annotations = map[string]string{ocispec.AnnotationCreated: "2026-11-22T00:00:00Z"}
		})},
		{"a layer to unpack", edited(func(m *ocispec.Manifest) { m.Layers[1].Annotations["io.deis.oras.content.unpack"] = "true" })},
		{"another artifactType", edited(func(m *ocispec.Manifest) { m.ArtifactType = "application/x" })},
		{"white space", append([]byte(mustJSON(t, tiny())), '\n')},
	} {
		t.Run(tt.name, func(t *testing.T) {
			repository := fmt.Sprint("acme/evil", i)
			desc := r.put(t, repository, "v1", tt.manifest)
			r.attach(t, repository, desc, modelType, sig.Model.Bundle)
			r.attach(t, repository, desc, verify.PredicateArtifact, sig.Artifact.Bundle)
			v, err := client.Verify(t.Context(), r.host+"/"+repository+":v1", lenient(signer), modelsig.VerifyOptions{Allow: manifest.Threats()})
			report := wantNo(t, v, err, modelsig.ErrRefused, verify.CodeOtherSubject)
			if len(report.Reasons) != 2 || !strings.Contains(err.Error(), sig.Digest) {
				t.Errorf("%v: want two reasons that name what was signed", err)
			}
		})
	}
	// A mirror has the same bytes under another name.
	mirror := newRegistry(t)
	desc := mirror.put(t, "mirror/other", "latest", tiny())
	mirror.attach(t, "mirror/other", desc, modelType, sig.Model.Bundle)
	v, err := client.Verify(t.Context(), mirror.host+"/mirror/other:latest", trusts(signer), modelsig.VerifyOptions{})
	wantVerified(t, v, err, verify.StrengthManifest, 1)
	if s := v.Signers[0]; s.Repository != "acme/tiny" || s.Tag != "v1" { // rule 12: said, not compared
		t.Errorf("signer %+v", s)
	}
}

func TestAFolderSignatureOnAnArtifact(t *testing.T) { // rule 8
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	sig, err := client.SignDir(t.Context(), writeModel(t, tinyFiles), signer, modelsig.SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := rawLayer("", `{"entrypoint":"evil"}`)
	config.Annotations = nil
	for i, tt := range []struct {
		name   string
		change func(m *ocispec.Manifest)
		code   string // "": a yes
	}{
		{"the same files", func(*ocispec.Manifest) {}, ""},
		{"the same files, created some time", func(m *ocispec.Manifest) {
			m.Annotations = map[string]string{ocispec.AnnotationCreated: "2026-11-22T00:00:00Z"}
		}, ""},
		{"in another order", func(m *ocispec.Manifest) { slices.Reverse(m.Layers) }, ""},
		{"with .gitattributes", func(m *ocispec.Manifest) { m.Layers = append(m.Layers, rawLayer(".gitattributes", "x")) }, ""},
		{"with a config", func(m *ocispec.Manifest) { m.Config = config }, verify.CodeUncovered},
		{"with an annotation", func(m *ocispec.Manifest) { m.Annotations = map[string]string{"x": "y"} }, verify.CodeUncovered},
		{"with an annotation on a layer", func(m *ocispec.Manifest) { m.Layers[0].Annotations["x"] = "y" }, verify.CodeUncovered},
		{"with a layer that is unpacked", func(m *ocispec.Manifest) { m.Layers[0].Annotations["io.deis.oras.content.unpack"] = "true" }, verify.CodeWeak},
		{"with a file of a media type that somebody may unpack", func(m *ocispec.Manifest) {
			m.Layers[0].MediaType = "application/vnd.oci.image.layer.v1.tar+gzip"
		}, verify.CodeUncovered},
		{"with one file more", func(m *ocispec.Manifest) { m.Layers = append(m.Layers, rawLayer("run.py", "x")) }, verify.CodeFiles},
		{"with one file less", func(m *ocispec.Manifest) { m.Layers = m.Layers[:1] }, verify.CodeFiles},
		{"with model.sig", func(m *ocispec.Manifest) { m.Layers = append(m.Layers, rawLayer("model.sig", "x")) }, verify.CodeUnmapped},
		{"with a hook", func(m *ocispec.Manifest) { m.Layers = append(m.Layers, rawLayer(".git/hooks/x", "x")) }, verify.CodeUnmapped},
		{"with a layer that has no name", func(m *ocispec.Manifest) {
			l := rawLayer("", "x")
			l.Annotations = nil
			m.Layers = append(m.Layers, l)
		}, verify.CodeUnmapped},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := tiny()
			tt.change(&m)
			repository := fmt.Sprint("acme/m", i)
			desc := r.put(t, repository, "v1", m)
			r.attach(t, repository, desc, modelType, sig.Model.Bundle)
			ref := r.host + "/" + repository + ":v1"
			v, err := client.Verify(t.Context(), ref, lenient(signer), modelsig.VerifyOptions{})
			if tt.code != "" {
				wantNo(t, v, err, modelsig.ErrRefused, tt.code)
				return
			}
			wantVerified(t, v, err, verify.StrengthLayers, 1)
			v, err = client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{})
			wantNo(t, v, err, modelsig.ErrRefused, verify.CodeWeak)
		})
	}
}

func TestAllowedThreatsStillNeedTheManifestToBeSigned(t *testing.T) { // rule 8
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	sig, err := client.SignDir(t.Context(), writeModel(t, tinyFiles), signer, modelsig.SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	nameless := rawLayer("", "evil")
	nameless.Annotations = nil
	elsewhere := tiny()
	elsewhere.Layers[0].URLs = []string{"https://example.com/"}
	titled := tiny()
	titled.Config = rawLayer("run.py", "evil")
	for i, m := range []ocispec.Manifest{
		image(append(tiny().Layers, nameless)...),
		image(append(tiny().Layers, rawLayer(".git/hooks/x", "evil"))...),
		elsewhere,
		titled,
	} {
		repository := fmt.Sprint("acme/m", i)
		desc := r.put(t, repository, "v1", m)
		r.attach(t, repository, desc, modelType, sig.Model.Bundle)
		v, err := client.Verify(t.Context(), r.host+"/"+repository+":v1", lenient(signer), modelsig.VerifyOptions{Allow: manifest.Threats()})
		wantNo(t, v, err, modelsig.ErrRefused, "")
	}
}

func TestWhatARegistryDoesNotTellIsUnknown(t *testing.T) { // rules 13, 38
	signer := newSigner(t)
	r := newRegistry(t)
	desc := r.put(t, "acme/tiny", "v1", tiny())
	answer := func(part string, status int, body string) *modelsig.Client {
		return &modelsig.Client{Registry: oci.Options{Transport: roundTrip(func(req *http.Request) (*http.Response, error) {
			if strings.Contains(req.URL.Path, part) {
				resp := &http.Response{StatusCode: status, Status: fmt.Sprint(status), Header: http.Header{"Content-Type": {"text/html"}}, Body: http.NoBody, Request: req, ProtoMajor: 1, ProtoMinor: 1}
				if body != "" {
					resp.Body = readCloser{strings.NewReader(body)}
				}
				return resp, nil
			}
			return http.DefaultTransport.RoundTrip(req)
		})}}
	}
	for name, client := range map[string]*modelsig.Client{
		"the list is not for us":     answer("/referrers/", http.StatusUnauthorized, ""),
		"the list is forbidden":      answer("/referrers/", http.StatusForbidden, ""),
		"the list is an error":       answer("/referrers/", http.StatusNotImplemented, ""),
		"the list is a web page":     answer("/referrers/", http.StatusOK, "<html>"),
		"the list is empty":          answer("/referrers/", http.StatusOK, ""),
		"the fallback tag is hidden": answer("/manifests/sha256-", http.StatusForbidden, ""),
	} {
		t.Run(name, func(t *testing.T) {
			v, err := client.Verify(t.Context(), r.host+"/acme/tiny:v1", trusts(signer), modelsig.VerifyOptions{})
			wantNo(t, v, err, modelsig.ErrUnknown, verify.CodeUnread)
		})
	}
	// A signature that is listed and cannot be read.
	sig := mustSign(t, new(modelsig.Client), r.host+"/acme/tiny:v1", signer, modelsig.SignOptions{ModelOnly: true})
	client := answer("/manifests/"+sig.Model.Referrer, http.StatusForbidden, "")
	v, err := client.Verify(t.Context(), r.host+"/acme/tiny:v1", trusts(signer), modelsig.VerifyOptions{})
	wantNo(t, v, err, modelsig.ErrUnknown, verify.CodeUnread)
	v, err = client.Verify(t.Context(), r.host+"/acme/tiny:v1", trusts(signer), modelsig.VerifyOptions{SignatureDigest: sig.Model.Referrer})
	wantNo(t, v, err, modelsig.ErrUnknown, verify.CodeUnread)

	// A flood before the good one, and a limit.
	flooded := newRegistry(t)
	flooded.put(t, "acme/tiny", "v1", tiny())
	var garbage [][]byte
	for i := range 30 {
		garbage = append(garbage, fmt.Appendf(nil, `{"a":%d}`, i))
	}
	flooded.attach(t, "acme/tiny", desc, modelType, garbage...)
	flooded.attach(t, "acme/tiny", desc, modelType, sig.Model.Bundle)
	ref := flooded.host + "/acme/tiny:v1"
	for limit, want := range map[int]error{0: nil, 31: nil, 10: modelsig.ErrUnknown} {
		client := &modelsig.Client{MaxReferrers: limit}
		v, err := client.Verify(t.Context(), ref, trusts(newSigner(t)), modelsig.VerifyOptions{})
		if want != nil {
			wantNo(t, v, err, want, verify.CodeUnread)
		} else {
			wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUntrusted)
			v, err = client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{})
			wantVerified(t, v, err, verify.StrengthManifest, 1)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

func TestWhatCannotBeJudgedIsNoDenial(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	r.put(t, "acme/tiny", "v1", tiny())
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name string
		ctx  context.Context
		ref  string
		o    modelsig.VerifyOptions
		is   error // nil: any
	}{
		{"no such tag", t.Context(), r.host + "/acme/tiny:v2", modelsig.VerifyOptions{}, oci.ErrNotFound},
		{"no tag at all", t.Context(), r.host + "/acme/tiny", modelsig.VerifyOptions{}, nil},
		{"no reference", t.Context(), "tiny", modelsig.VerifyOptions{}, nil},
		{"no server", t.Context(), "127.0.0.1:1/acme/tiny:v1", modelsig.VerifyOptions{}, nil},
		{"no such signature file", t.Context(), r.host + "/acme/tiny:v1", modelsig.VerifyOptions{SignatureFile: "no/such/file"}, os.ErrNotExist},
		{"no digest of a signature", t.Context(), r.host + "/acme/tiny:v1", modelsig.VerifyOptions{SignatureDigest: "latest"}, nil},
		{"a context that ended", cancelled, r.host + "/acme/tiny:v1", modelsig.VerifyOptions{}, context.Canceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, err := client.Verify(tt.ctx, tt.ref, trusts(signer), tt.o)
			if v != nil || err == nil || errors.Is(err, modelsig.ErrRefused) || errors.Is(err, modelsig.ErrUnknown) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("got %v and %v, want a plain error", v, err)
			}
		})
	}
}

func TestHostileManifestsAreRefused(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	for i, data := range [][]byte{
		[]byte(`{"schemaVersion":2,"schemaVersion":2}`),
		[]byte(strings.Replace(mustJSON(t, tiny()), `"config"`, `"Config"`, 1)),
		[]byte(strings.Replace(mustJSON(t, tiny()), `"sha256:`, `"sha512:`, 1)),
		[]byte(strings.Replace(mustJSON(t, tiny()), `"size":2`, `"size":-2`, 1)),
	} {
		tag := fmt.Sprint("v", i)
		r.put(t, "acme/tiny", tag, data)
		v, err := client.Verify(t.Context(), r.host+"/acme/tiny:"+tag, trusts(signer), modelsig.VerifyOptions{})
		wantNo(t, v, err, modelsig.ErrRefused, "")
		v, err = client.VerifyDirAgainst(t.Context(), writeModel(t, tinyFiles), r.host+"/acme/tiny:"+tag, trusts(signer), modelsig.VerifyOptions{})
		wantNo(t, v, err, modelsig.ErrRefused, "")
	}
}

func TestAManifestOnDisk(t *testing.T) {
	signer, client := newSigner(t), new(modelsig.Client)
	data := []byte(mustJSON(t, tiny()))
	dir := writeModel(t, tinyFiles)
	folder := t.TempDir()
	path, sigFile := filepath.Join(folder, "manifest.json"), filepath.Join(folder, "manifest.sig")
	writeFile(t, path, string(data))

	sig, err := client.SignManifest(t.Context(), data, path, signer, modelsig.SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !sig.FromDigest || sig.Artifact != nil || sig.Files != 2 || sig.Target != path {
		t.Errorf("%+v", sig)
	}
	writeFile(t, sigFile, string(sig.Model.Bundle))
	o := modelsig.VerifyOptions{SignatureFile: sigFile}

	for _, file := range []string{"", path} {
		v, err := client.VerifyManifest(t.Context(), data, file, trusts(signer), o)
		wantVerified(t, v, err, verify.StrengthManifest, 1)
		if v.Kind != modelsig.KindManifest || v.Digest != sig.Digest || v.Hashed {
			t.Errorf("%+v", v)
		}
		v, err = client.VerifyManifest(t.Context(), bytes.Replace(data, []byte("weights/a"), []byte("weights/b"), 1), file, lenient(signer), o)
		wantNo(t, v, err, modelsig.ErrRefused, verify.CodeOtherSubject)
		v, err = client.VerifyManifest(t.Context(), data, file, trusts(newSigner(t)), o)
		wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUntrusted)
	}
	// It is the pulled folder's signature too, and a folder's is the manifest's.
	v, err := client.VerifyDir(t.Context(), dir, trusts(signer), o)
	wantVerified(t, v, err, verify.StrengthFiles, 1)
	if sig, err = client.SignDir(t.Context(), dir, signer, modelsig.SignOptions{}); err != nil {
		t.Fatal(err)
	}
	writeFile(t, sigFile, string(sig.Model.Bundle))
	v, err = client.VerifyManifest(t.Context(), data, "", lenient(signer), o)
	wantVerified(t, v, err, verify.StrengthLayers, 1)
	v, err = client.VerifyManifest(t.Context(), data, "", trusts(signer), o)
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeWeak)

	// An artifact signature of it.
	if sig, err = client.SignManifest(t.Context(), data, path, signer, modelsig.SignOptions{ArtifactOnly: true}); err != nil {
		t.Fatal(err)
	}
	writeFile(t, sigFile, string(sig.Artifact.Bundle))
	v, err = client.VerifyManifest(t.Context(), data, path, trusts(signer), o)
	wantVerified(t, v, err, verify.StrengthManifest, 1)

	for name, bad := range map[string][]byte{"no JSON": []byte("x"), "an index": []byte(`{"schemaVersion":2,"manifests":[]}`), "a duplicate": []byte(`{"schemaVersion":2,"schemaVersion":2}`)} {
		if sig, err := client.SignManifest(t.Context(), bad, path, signer, modelsig.SignOptions{}); err == nil || sig != nil {
			t.Errorf("%s: signed %+v, %v", name, sig, err)
		}
		if v, err := client.VerifyManifest(t.Context(), bad, "", trusts(signer), o); err == nil || v != nil {
			t.Errorf("%s: verified %+v, %v", name, v, err)
		}
	}
}

func TestASignedFileOverwrittenWithAManifest(t *testing.T) { // rule 2
	signer, client := newSigner(t), new(modelsig.Client)
	for name, files := range map[string]map[string]string{
		"a single file":                  {"config.json": "{}"},
		"a file of a folder":             {"config.json": "{}", "weights.bin": "hello"},
		"a file in a folder of a folder": {"sub/config.json": "{}", "weights.bin": "hello"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := writeModel(t, files)
			signed := dir
			if len(files) == 1 {
				signed = filepath.Join(dir, "config.json")
			}
			sig, err := client.SignDir(t.Context(), signed, signer, modelsig.SignOptions{})
			if err != nil {
				t.Fatal(err)
			}
			sigFile := filepath.Join(t.TempDir(), "model.sig")
			writeFile(t, sigFile, string(sig.Model.Bundle))

			// A manifest whose titles and digests are the signed ones.
			var layers []ocispec.Descriptor
			victim := ""
			for name, content := range files {
				layers = append(layers, rawLayer(name, content))
				if strings.HasSuffix(name, ".json") {
					victim = filepath.Join(dir, filepath.FromSlash(name))
				}
			}
			data := mustJSON(t, image(layers...))
			writeFile(t, victim, data)

			target, err := modelsig.ParseTarget(victim)
			if err != nil || target.Kind != modelsig.KindManifest || !target.Guessed {
				t.Fatalf("%+v, %v: the attack is no attack", target, err)
			}
			v, err := client.VerifyManifest(t.Context(), []byte(data), victim, lenient(signer), modelsig.VerifyOptions{SignatureFile: sigFile})
			report := wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
			if report.Kind != modelsig.KindFile || report.Digest != "" || !report.Hashed {
				t.Errorf("%+v: does not say that the file was hashed", report)
			}
			v, err = client.VerifyDir(t.Context(), signed, lenient(signer), modelsig.VerifyOptions{SignatureFile: sigFile})
			wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
		})
	}
}

func TestSignerAndVerifierMustReadTheSamePaths(t *testing.T) { // threat N15, rule 27
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	m := tiny()
	m.Layers[0].Annotations["org.cncf.model.filepath"] = "settings.json"
	r.put(t, "acme/tiny", "v1", m)
	ref := r.host + "/acme/tiny:v1"
	if sig, err := client.Sign(t.Context(), ref, signer, modelsig.SignOptions{}); err == nil {
		t.Errorf("signed %+v: two readings", sig)
	}
	mustSign(t, client, ref, signer, modelsig.SignOptions{PathAnnotation: "filepath", ModelOnly: true})
	for _, asked := range []string{"", "filepath"} {
		v, err := client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{PathAnnotation: asked})
		wantVerified(t, v, err, verify.StrengthManifest, 1)
		if v.Files.Count != 2 {
			t.Errorf("%q: %+v was not compared by files", asked, v.Files)
		}
	}
	v, err := client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{PathAnnotation: "title"})
	wantNo(t, v, err, modelsig.ErrRefused, "")

	// The folder that a consumer of each annotation gets.
	v, err = client.VerifyDirAgainst(t.Context(), writeModel(t, map[string]string{"settings.json": "{}", "weights/a.bin": "hello"}), ref, trusts(signer), modelsig.VerifyOptions{})
	wantVerified(t, v, err, verify.StrengthManifest, 1)
	v, err = client.VerifyDirAgainst(t.Context(), writeModel(t, tinyFiles), ref, trusts(signer), modelsig.VerifyOptions{})
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
}

func TestStatementsThatOtherToolsMakeFromAManifest(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	nameless := rawLayer("", "blob")
	nameless.Annotations = nil
	m := image(rawLayer("weights.bin", "hello"), nameless)
	m.Config = rawLayer("", `{"a":1}`)
	m.Config.Annotations = nil
	// They list the config as config.json, and layers without a title by their
	// number.
	resources := []manifest.Resource{
		{Name: "config.json", Digest: sum(`{"a":1}`), Algorithm: "sha256"},
		{Name: "layer_001.tar.gz", Digest: sum("blob"), Algorithm: "sha256"},
		{Name: "weights.bin", Digest: sum("hello"), Algorithm: "sha256"},
	}
	sign := func(resources ...manifest.Resource) string {
		t.Helper()
		oms, err := manifest.New(resources, manifest.Serialization{IgnorePaths: []string{}})
		if err != nil {
			t.Fatal(err)
		}
		st, err := oms.Statement("tiny", nil)
		if err != nil {
			t.Fatal(err)
		}
		return signedFile(t, signer, st)
	}
	all := modelsig.VerifyOptions{SignatureFile: sign(resources...)}
	v, err := client.VerifyManifest(t.Context(), []byte(mustJSON(t, m)), "", lenient(signer), all)
	wantVerified(t, v, err, verify.StrengthLayers, 1)

	config, blob, title := m, m, m
	config.Config = rawLayer("", `{"a":2}`)
	config.Config.Annotations = nil
	other := rawLayer("", "evil")
	other.Annotations = nil
	blob.Layers = []ocispec.Descriptor{m.Layers[0], other}
	title.Layers = append(slices.Clone(m.Layers), rawLayer("config.json", "evil"))
	for name, m := range map[string]ocispec.Manifest{"another config": config, "another blob": blob, "a layer of that name": title} {
		t.Run(name, func(t *testing.T) {
			v, err := client.VerifyManifest(t.Context(), []byte(mustJSON(t, m)), "", lenient(signer), all)
			wantNo(t, v, err, modelsig.ErrRefused, "")
		})
	}
	// What they do not list is not covered.
	for _, some := range [][]manifest.Resource{resources[1:], {resources[0], resources[2]}, {resources[2]}} {
		v, err := client.VerifyManifest(t.Context(), []byte(mustJSON(t, m)), "", lenient(signer), modelsig.VerifyOptions{SignatureFile: sign(some...)})
		wantNo(t, v, err, modelsig.ErrRefused, "")
	}
	// In a registry such a name could excuse a file that was removed.
	r.put(t, "acme/tiny", "v1", m)
	v, err = client.Verify(t.Context(), r.host+"/acme/tiny:v1", lenient(signer), all)
	wantNo(t, v, err, modelsig.ErrRefused, "")
}

func sum(content string) []byte {
	h := sha256.Sum256([]byte(content))
	return h[:]
}

func TestCosignsSignatures(t *testing.T) {
	layout := filepath.Join("testdata", "cosign", "layout")
	if _, err := os.Stat(layout); err != nil {
		t.Skipf("the layout that cosign signed is missing: %v", err)
	}
	client := new(modelsig.Client)
	policy := func(name string) modelsig.Policy {
		t.Helper()
		data, err := os.ReadFile(filepath.Join("testdata", "cosign", name))
		if err != nil {
			t.Fatal(err)
		}
		p, err := modelsig.KeyPolicy(data)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, name := range []string{"p256.pub", "p384.pub", "p521.pub"} {
		v, err := client.Verify(t.Context(), "oci:"+layout+":v1", policy(name), modelsig.VerifyOptions{})
		wantVerified(t, v, err, verify.StrengthManifest, 1)
		if v.Signers[0].Kind != "artifact" {
			t.Errorf("%s: %+v", name, v.Signers[0])
		}
		p := policy(name)
		p.RequireModel = true
		v, err = client.Verify(t.Context(), "oci:"+layout+":v1", p, modelsig.VerifyOptions{})
		wantNo(t, v, err, modelsig.ErrRefused, verify.CodeNeedsModel)
	}
	// An attestation by the right key approves nothing (rule 4).
	v, err := client.Verify(t.Context(), "oci:"+layout+":v1", policy("attest.pub"), modelsig.VerifyOptions{})
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeNotApproval)
}

func TestDigestAndInspect(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	r.put(t, "acme/tiny", "v1", tiny())
	ref := r.host + "/acme/tiny:v1"
	sig := mustSign(t, client, ref, signer, modelsig.SignOptions{})
	byRef, err := client.Digest(t.Context(), ref, modelsig.SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	byDir, err := client.DigestDir(t.Context(), writeModel(t, tinyFiles), modelsig.SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	byManifest, err := client.DigestManifest(t.Context(), []byte(mustJSON(t, tiny())), "", modelsig.SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*modelsig.Contents{byRef, byDir, byManifest} {
		if c.Root != sig.Root || len(c.Files) != 2 || c.Files[1].Name != "weights/a.bin" {
			t.Errorf("%+v, want root %s", c, sig.Root)
		}
	}
	if byRef.Digest != sig.Digest || byManifest.Digest != sig.Digest || byDir.Digest != "" {
		t.Errorf("digests %q, %q, %q", byRef.Digest, byManifest.Digest, byDir.Digest)
	}

	claims, err := modelsig.InsecureInspect(sig.Model.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	if claims.Name != "tiny" || !slices.Equal(claims.Digests, []string{"sha256:" + sig.Root}) || len(claims.Files) != 2 || claims.Problem != "" ||
		claims.PredicateType != modelType || len(claims.Annotations) != 1 || !json.Valid([]byte(claims.Annotations[0].Value)) {
		t.Errorf("%+v", claims)
	}
	if _, err := modelsig.InsecureInspect([]byte("x")); err == nil {
		t.Error("no bundle was inspected")
	}
}

// A file that is only roughly shaped like a manifest is judged by its bytes.
func TestAFileThatOnlyLooksLikeAManifest(t *testing.T) {
	signer, client := newSigner(t), new(modelsig.Client)
	data := `{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha512:` + strings.Repeat("0", 128) + `","size":1},"layers":[]}`
	file := filepath.Join(t.TempDir(), "sample.json")
	writeFile(t, file, data)
	sig, err := client.SignDir(t.Context(), file, signer, modelsig.SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	signature := filepath.Join(t.TempDir(), "model.sig")
	writeFile(t, signature, string(sig.Model.Bundle))
	options := modelsig.VerifyOptions{SignatureFile: signature}
	v, err := client.VerifyManifest(t.Context(), []byte(data), file, trusts(signer), options)
	wantVerified(t, v, err, verify.StrengthFiles, 1)
	if v, err := client.VerifyManifest(t.Context(), []byte(data), "", trusts(signer), options); err == nil {
		t.Errorf("named a manifest: %+v", v)
	}
	writeFile(t, file, data+" ")
	v, err = client.VerifyManifest(t.Context(), []byte(data+" "), file, trusts(signer), options)
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
}

// signedFile signs a statement and puts the bundle into a file.
func signedFile(t *testing.T, signer modelsig.Signer, st *manifest.Statement) string {
	t.Helper()
	payload, err := st.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	bundles, err := signer.Sign(t.Context(), payload)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "model.sig")
	writeFile(t, file, string(bundles[0].JSON()))
	return file
}
