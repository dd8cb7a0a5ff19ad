package modelsig_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/referrers"
	"github.com/modelsig/modelsig/verify"
)

// putIndex pushes an index under a tag.
func (r *registry) putIndex(t testing.TB, repository, tag string, children ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	data, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: children,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.backend.PushManifest(t.Context(), repository, tag, data, ocispec.MediaTypeImageIndex); err != nil {
		t.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// child pushes a manifest and describes it as one for a platform.
func (r *registry) child(t testing.TB, repository, os, architecture string, m ocispec.Manifest) ocispec.Descriptor {
	t.Helper()
	desc := r.put(t, repository, "", m)
	desc.Platform = &ocispec.Platform{OS: os, Architecture: architecture}
	return desc
}

// A shelf is an index with two models and what a builder says about them.
type shelf struct {
	*registry
	index, amd64, arm64, about ocispec.Descriptor
}

func newShelf(t testing.TB, serve func(testing.TB) *registry) *shelf {
	s := &shelf{registry: serve(t)}
	s.amd64 = s.child(t, "acme/m", "linux", "amd64", tiny())
	s.arm64 = s.child(t, "acme/m", "linux", "arm64", image(rawLayer("weights/a.bin", "arm64")))
	s.about = s.child(t, "acme/m", "unknown", "unknown", image(rawLayer("about", "x")))
	s.index = s.putIndex(t, "acme/m", "v1", s.amd64, s.arm64, s.about)
	return s
}

func (s *shelf) ref(d ocispec.Descriptor) string { return s.host + "/acme/m@" + d.Digest.String() }
func (s *shelf) tag() string                     { return s.host + "/acme/m:v1" }

var bothKinds = map[string]func(testing.TB) *registry{"Referrers API": newRegistry, "no API": newOldRegistry}

// Rule 21, with everything properly signed: a verdict is about one digest.
func TestMembershipApprovesNothing(t *testing.T) {
	client := new(modelsig.Client)
	for name, serve := range bothKinds {
		t.Run(name+": a signed child beside an evil one", func(t *testing.T) {
			s, signer := newShelf(t, serve), newSigner(t)
			sig := mustSign(t, client, s.tag(), signer, modelsig.SignOptions{Platform: "linux/amd64"})
			if sig.Pinned != s.ref(s.amd64) || sig.Index != s.index.Digest.String() || sig.Platform != "linux/amd64" {
				t.Errorf("signed %s of %s for %s", sig.Pinned, sig.Index, sig.Platform)
			}
			v, err := client.Verify(t.Context(), s.tag(), trusts(signer), modelsig.VerifyOptions{Platform: "linux/amd64"})
			wantVerified(t, v, err, verify.StrengthManifest, 2)
			if v.Pinned != s.ref(s.amd64) || v.Index != s.index.Digest.String() {
				t.Errorf("verified %s of %s", v.Pinned, v.Index)
			}
			v, err = client.Verify(t.Context(), s.tag(), trusts(signer), modelsig.VerifyOptions{Platform: "linux/arm64"})
			wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUnsigned)
			v, err = client.Verify(t.Context(), s.tag(), trusts(signer), modelsig.VerifyOptions{})
			no := wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUnsigned)
			if no.Digest != s.index.Digest.String() {
				t.Errorf("judged %s, want the index", no.Digest)
			}
		})
	}
	t.Run("a signed index", func(t *testing.T) {
		s, signer := newShelf(t, newRegistry), newSigner(t)
		outcomes, err := client.SignIndex(t.Context(), s.tag(), signer, modelsig.SignOptions{})
		if err != nil {
			t.Fatal(err)
		}
		// The same index with an evil child in place of one is another index,
		// and an index of the same children with one more is too.
		evil := s.child(t, "acme/m", "linux", "arm64", image(rawLayer("weights/a.bin", "evil")))
		s.putIndex(t, "acme/m", "v1", s.amd64, evil)
		v, err := client.Verify(t.Context(), s.tag(), trusts(signer), modelsig.VerifyOptions{})
		wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUnsigned)
		v, err = client.Verify(t.Context(), s.tag(), trusts(signer), modelsig.VerifyOptions{Platform: "linux/arm64"})
		wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUnsigned)
		// Not even with the index's own signature in its place.
		artifact := outcomes[len(outcomes)-1].Result.Artifact.Bundle
		s.attach(t, "acme/m", evil, verify.PredicateArtifact, artifact)
		v, err = client.Verify(t.Context(), s.tag(), trusts(signer), modelsig.VerifyOptions{Platform: "linux/arm64"})
		wantNo(t, v, err, modelsig.ErrRefused, verify.CodeOtherSubject)
		if v, err := client.Verify(t.Context(), s.ref(s.index), trusts(signer), modelsig.VerifyOptions{}); err != nil {
			t.Errorf("the signed index: %v, %v", v, err)
		}
	})
	t.Run("only the index is signed", func(t *testing.T) {
		s, signer := newShelf(t, newRegistry), newSigner(t)
		statement, err := verify.ArtifactStatement(s.index, "", "acme/m", "v1", nil)
		if err != nil {
			t.Fatal(err)
		}
		payload, err := statement.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		bundles, err := signer.Sign(t.Context(), payload)
		if err != nil {
			t.Fatal(err)
		}
		file := t.TempDir() + "/index.sig"
		writeFile(t, file, string(bundles[0].JSON()))
		v, err := client.Verify(t.Context(), s.tag(), trusts(signer), modelsig.VerifyOptions{SignatureFile: file})
		wantVerified(t, v, err, verify.StrengthManifest, 1)
		for _, platform := range []string{"linux/amd64", "linux/arm64"} {
			v, err := client.Verify(t.Context(), s.tag(), trusts(signer), modelsig.VerifyOptions{SignatureFile: file, Platform: platform})
			wantNo(t, v, err, modelsig.ErrRefused, verify.CodeOtherSubject)
		}
	})
}

func TestAnIndexIsSignedWithAllItsManifests(t *testing.T) { // I01, I02
	client := new(modelsig.Client)
	for name, serve := range bothKinds {
		t.Run(name, func(t *testing.T) {
			s, signer := newShelf(t, serve), newSigner(t)
			signed, err := client.SignIndex(t.Context(), s.tag(), signer, modelsig.SignOptions{})
			if err != nil {
				t.Fatal(err)
			}
			want := []string{s.amd64.Digest.String(), s.arm64.Digest.String(), s.index.Digest.String()}
			for i, o := range signed {
				last := i == len(want)-1
				if o.Err != nil || o.Result.Digest != want[i] || (o.Result.Model == nil) != last || o.Result.Artifact == nil {
					t.Errorf("outcome %d: %+v", i, o)
				}
				if last != slices.ContainsFunc(o.Result.Warnings, func(w string) bool { return strings.Contains(w, s.about.Digest.String()) }) {
					t.Errorf("outcome %d: warnings %q", i, o.Result.Warnings)
				}
			}
			if !bytes.Contains(signed[1].Result.Model.Statement, []byte(`"platform":"linux/arm64"`)) {
				t.Errorf("the platform is not recorded: %s", signed[1].Result.Model.Statement)
			}
			judged, err := client.VerifyIndex(t.Context(), s.tag(), trusts(signer), modelsig.VerifyOptions{})
			if err != nil || len(judged) != len(want) {
				t.Fatalf("%d outcomes, %v", len(judged), err)
			}
			for i, o := range judged {
				if o.Err != nil || o.Result.Digest != want[i] {
					t.Errorf("outcome %d: %+v", i, o)
				}
			}
			// Rule 15, by whatever way a manifest is named.
			again, err := client.SignIndex(t.Context(), s.tag(), signer, modelsig.SignOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for i, o := range again {
				if o.Err != nil || !o.Result.Unchanged {
					t.Errorf("again, outcome %d: %+v", i, o)
				}
			}
			if sig := mustSign(t, client, s.ref(s.arm64), signer, modelsig.SignOptions{}); !sig.Unchanged {
				t.Error("signing a child by its digest added something")
			}
		})
	}
}

func TestAnIndexInALayoutIsSignedWithAllItsManifests(t *testing.T) {
	client, signer := new(modelsig.Client), newSigner(t)
	dir := t.TempDir()
	blob := func(m any) ocispec.Descriptor {
		t.Helper()
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, dir+"/blobs/sha256/"+digest.FromBytes(data).Encoded(), string(data))
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(data), Size: int64(len(data))}
	}
	child := blob(tiny())
	child.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	index := blob(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{child}})
	index.MediaType, index.Annotations = ocispec.MediaTypeImageIndex, map[string]string{ocispec.AnnotationRefName: "v1"}
	writeFile(t, dir+"/oci-layout", `{"imageLayoutVersion":"1.0.0"}`)
	entries, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{index}})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/index.json", string(entries))

	ref := "oci:" + dir + ":v1"
	if outcomes, err := client.SignIndex(t.Context(), ref, signer, modelsig.SignOptions{}); err != nil || len(outcomes) != 2 {
		t.Fatalf("%+v, %v", outcomes, err)
	}
	// The index is the one model still: what was attached does not count.
	for _, ref := range []string{ref, "oci:" + dir} {
		judged, err := client.VerifyIndex(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{})
		if err != nil || len(judged) != 2 {
			t.Fatalf("%s: %+v, %v", ref, judged, err)
		}
		wantVerified(t, judged[0].Result, judged[0].Err, verify.StrengthManifest, 2)
		wantVerified(t, judged[1].Result, judged[1].Err, verify.StrengthManifest, 1)
		if judged[1].Result.Kind != modelsig.KindLayout || judged[1].Result.Digest != index.Digest.String() {
			t.Errorf("%+v", judged[1].Result)
		}
	}
	v, err := client.Verify(t.Context(), ref, trusts(newSigner(t)), modelsig.VerifyOptions{Platform: "linux/amd64"})
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUntrusted)
}

// All or nothing: a child that has no statement keeps the others from being
// signed.
func TestNothingOfAnIndexIsSignedWhereOneManifestCannotBe(t *testing.T) {
	client, signer := new(modelsig.Client), newSigner(t)
	unnamed := rawLayer("x", "layer")
	unnamed.Annotations = nil
	unnamed.MediaType = "application/vnd.oci.image.layer.v1.tar+gzip"
	for _, test := range []struct {
		name  string
		child func(t *testing.T, s *shelf) ocispec.Descriptor
		is    func(error) bool
	}{
		{"its layers map to no files", func(t *testing.T, s *shelf) ocispec.Descriptor {
			return s.child(t, "acme/m", "linux", "riscv64", image(unnamed))
		}, func(err error) bool {
			return errors.Is(err, oci.ErrUnmapped) && strings.Contains(err.Error(), "linux/riscv64")
		}},
		{"one name twice", func(t *testing.T, s *shelf) ocispec.Descriptor {
			return s.child(t, "acme/m", "linux", "riscv64", image(rawLayer("a", "1"), rawLayer("a", "2")))
		}, func(err error) bool { return strings.Contains(err.Error(), "linux/riscv64") }},
		{"the index says another size", func(t *testing.T, s *shelf) ocispec.Descriptor {
			desc := s.child(t, "acme/m", "linux", "riscv64", image(rawLayer("a", "1")))
			desc.Size++
			return desc
		}, func(err error) bool { return strings.Contains(err.Error(), "bytes, the index says") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newShelf(t, newRegistry)
			index := s.putIndex(t, "acme/m", "v1", s.amd64, test.child(t, s))
			if outcomes, err := client.SignIndex(t.Context(), s.tag(), signer, modelsig.SignOptions{}); err == nil || !test.is(err) || outcomes != nil {
				t.Errorf("%v, %v", outcomes, err)
			}
			for _, desc := range []ocispec.Descriptor{s.amd64, index} {
				if list, err := client.List(t.Context(), s.ref(desc)); err != nil || len(list.Referrers) != 0 {
					t.Errorf("%d referrers, %v", len(list.Referrers), err)
				}
			}
		})
	}
	t.Run("artifact signatures alone need no files", func(t *testing.T) {
		s := newShelf(t, newRegistry)
		s.putIndex(t, "acme/m", "v1", s.amd64, s.child(t, "acme/m", "linux", "riscv64", image(unnamed)))
		if _, err := client.SignIndex(t.Context(), s.tag(), signer, modelsig.SignOptions{ArtifactOnly: true}); err != nil {
			t.Fatal(err)
		}
		judged, err := client.VerifyIndex(t.Context(), s.tag(), trusts(signer), modelsig.VerifyOptions{})
		if err != nil || len(judged) != 3 || slices.ContainsFunc(judged, func(o modelsig.Outcome[modelsig.Verification]) bool { return o.Err != nil }) {
			t.Errorf("%+v, %v", judged, err)
		}
	})
}

func TestAnIndexIsNotSignedByAccident(t *testing.T) {
	client, signer := new(modelsig.Client), newSigner(t)
	s := newShelf(t, newRegistry)
	for name, o := range map[string]modelsig.SignOptions{"without a word": {}, "artifact signature only": {ArtifactOnly: true}, "dry run": {DryRun: true}} {
		if sig, err := client.Sign(t.Context(), s.tag(), signer, o); !errors.Is(err, oci.ErrIndex) || sig != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := client.SignManifest(t.Context(), []byte(`{}`), "m.json", signer, modelsig.SignOptions{Platform: "linux/amd64"}); err == nil {
		t.Error("a manifest on disk has no platform")
	}
	if _, err := client.SignIndex(t.Context(), s.tag(), signer, modelsig.SignOptions{ModelOnly: true}); err == nil {
		t.Error("an index has no model signature")
	}
	r := newRegistry(t)
	r.put(t, "acme/tiny", "v1", tiny())
	if _, err := client.SignIndex(t.Context(), r.host+"/acme/tiny:v1", signer, modelsig.SignOptions{}); !errors.Is(err, oci.ErrNotIndex) {
		t.Errorf("one manifest signed as an index: %v", err)
	}
}

func TestTagsAreThoseOfModels(t *testing.T) {
	client, signer := new(modelsig.Client), newSigner(t)
	r := newOldRegistry(t) // keeps referrers under a tag
	r.put(t, "acme/m", "v1", tiny())
	r.put(t, "acme/m", "v2", image(rawLayer("a", "2")))
	mustSign(t, client, r.host+"/acme/m:v1", signer, modelsig.SignOptions{})
	old := "sha256-" + strings.Repeat("0", 64)
	for _, tag := range []string{old + ".sig", old + ".att", old + ".sbom", "sha256-x"} {
		r.put(t, "acme/m", tag, tiny())
	}
	tags, err := client.Tags(t.Context(), r.host+"/acme/m")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{r.host + "/acme/m:sha256-x", r.host + "/acme/m:v1", r.host + "/acme/m:v2"}
	if !slices.Equal(tags.References, want) || len(tags.LeftOut) != 4 {
		t.Errorf("%q, left out %q", tags.References, tags.LeftOut)
	}
	for _, bad := range []string{r.host + "/acme/m:v1", r.host + "/acme/none", "./folder"} {
		if tags, err := client.Tags(t.Context(), bad); err == nil || tags != nil {
			t.Errorf("%s: %+v, %v", bad, tags, err)
		}
	}
}

// Where a manifest's signature could not be attached, the index is not signed:
// its signature would say that all of it is.
func TestAnIndexIsNotSignedWhereAManifestOfItIsNot(t *testing.T) {
	s := newShelf(t, func(t testing.TB) *registry { return newRegistry(t) })
	signer := newSigner(t)
	c := new(modelsig.Client)
	c.Registry.Transport = roundTrip(func(req *http.Request) (*http.Response, error) {
		if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/") {
			body, err := io.ReadAll(req.Body)
			if err != nil {
				return nil, err
			}
			if bytes.Contains(body, []byte(s.amd64.Digest)) {
				return &http.Response{StatusCode: 403, Request: req, Body: http.NoBody, Header: http.Header{}, ProtoMajor: 1, ProtoMinor: 1}, nil
			}
			req.Body = io.NopCloser(bytes.NewReader(body))
		}
		return http.DefaultTransport.RoundTrip(req)
	})
	outcomes, err := c.SignIndex(t.Context(), s.tag(), signer, modelsig.SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(outcomes) != 3 || outcomes[0].Err == nil || outcomes[1].Err != nil || !errors.Is(outcomes[2].Err, referrers.ErrNotAttached) {
		t.Errorf("outcomes %+v", outcomes)
	}
	if _, err := new(modelsig.Client).Verify(t.Context(), s.tag(), trusts(signer), modelsig.VerifyOptions{}); !errors.Is(err, modelsig.ErrRefused) {
		t.Errorf("the index: %v", err)
	}
}

// Some tools leave out an index's artifactType when they copy it. What they
// write is another index, which nobody signed; our copy is byte for byte.
func TestAnIndexThatLostItsArtifactType(t *testing.T) {
	t.Run("I04: index artifactType lost on copy", func(t *testing.T) {
		r := newRegistry(t)
		signer := newSigner(t)
		_, child := signedModel(t, r, "m", signer)
		put := func(tag, artifactType string) ocispec.Descriptor {
			data, err := json.Marshal(ocispec.Index{
				Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
				ArtifactType: artifactType, Manifests: []ocispec.Descriptor{child},
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.backend.PushManifest(t.Context(), "m", tag, data, ocispec.MediaTypeImageIndex); err != nil {
				t.Fatal(err)
			}
			return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(data), Size: int64(len(data))}
		}
		c := new(modelsig.Client)
		signed, lost := put("v1", "application/vnd.example.models"), put("lost", "")
		outcomes, err := c.SignIndex(t.Context(), r.host+"/m@"+signed.Digest.String(), signer, modelsig.SignOptions{})
		if err != nil {
			t.Fatal(err)
		}
		own := outcomes[len(outcomes)-1].Result
		if _, err := c.Copy(t.Context(), r.host+"/m:v1", r.host+"/mirror:v1", modelsig.CopyOptions{}); err != nil {
			t.Fatal(err)
		}
		v, err := c.Verify(t.Context(), r.host+"/mirror:v1", trusts(signer), modelsig.VerifyOptions{})
		if err != nil || v.Digest != signed.Digest.String() {
			t.Errorf("our copy: %+v, %v", v, err)
		}
		// The signature is brought to what another tool wrote.
		attachment := referrers.Attachment{Bundle: own.Artifact.Bundle, PredicateType: verify.PredicateArtifact}
		if _, err := referrers.Attach(t.Context(), r.store(t, "m"), lost, attachment); err != nil {
			t.Fatal(err)
		}
		_, err = c.Verify(t.Context(), r.host+"/m:lost", trusts(signer), modelsig.VerifyOptions{})
		if denied, ok := errors.AsType[*modelsig.Denial](err); !ok || denied.Verification.Reasons[0].Code != verify.CodeOtherSubject {
			t.Errorf("what lost its artifactType: %v", err)
		}
	})
}
