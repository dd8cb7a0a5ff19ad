package modelsig_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/referrers"
)

// oldSigned is a model with a signature under cosign's old tag, and no other.
func oldSigned(t *testing.T, r *registry, repository string, signer modelsig.Signer) (pinned string) {
	t.Helper()
	c := new(modelsig.Client)
	pushed, err := c.Push(t.Context(), writeModel(t, tinyFiles), r.host+"/"+repository+":v1", modelsig.PushOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sig, err := c.Sign(t.Context(), pushed.Pinned, signer, modelsig.SignOptions{LegacyTag: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*modelsig.Signed{sig.Model, sig.Artifact} {
		if _, err := c.Delete(t.Context(), r.host+"/"+repository+"@"+s.Referrer); err != nil {
			t.Fatal(err)
		}
	}
	return pushed.Pinned
}

func listed(t *testing.T, ref string) []modelsig.Attached {
	t.Helper()
	found, err := new(modelsig.Client).List(t.Context(), ref)
	if err != nil || found.Incomplete != nil {
		t.Fatal(err, found)
	}
	return found.Referrers
}

func TestSigningUnderAnOldTagAgainAddsNothing(t *testing.T) { // rule 15
	r := newRegistry(t)
	signer := newSigner(t)
	other := newSigner(t)
	c := new(modelsig.Client)
	pushed, err := c.Push(t.Context(), writeModel(t, tinyFiles), r.host+"/m:v1", modelsig.PushOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sign := func(s modelsig.Signer, o modelsig.SignOptions) *modelsig.Signature {
		sig, err := c.Sign(t.Context(), pushed.Pinned, s, o)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	legacy := modelsig.SignOptions{LegacyTag: true}
	// What is there of the others stays; the old tag alone is added.
	if sig := sign(signer, modelsig.SignOptions{}); sig.Old != nil || len(listed(t, pushed.Pinned)) != 2 {
		t.Errorf("without the option: %+v", sig)
	}
	first := sign(signer, legacy)
	if first.Unchanged || first.Old.Image == "" || len(listed(t, pushed.Pinned)) != 3 {
		t.Errorf("with it: %+v", first)
	}
	if sig := sign(signer, legacy); !sig.Unchanged || sig.Old.Image != first.Old.Image || len(listed(t, pushed.Pinned)) != 3 {
		t.Errorf("again: %+v", sig)
	}
	// Garbage that looks like ours is not ours.
	if sig := sign(other, legacy); sig.Unchanged || len(listed(t, pushed.Pinned)) != 6 {
		t.Errorf("by somebody else: %+v", sig)
	}
	dry := sign(signer, modelsig.SignOptions{LegacyTag: true, DryRun: true})
	if !strings.Contains(string(dry.Old.Payload), `"docker-reference":"`+r.host+`/m"`) || dry.Old.Image != "" {
		t.Errorf("dry run: %+v", dry.Old)
	}
	for name, o := range map[string]modelsig.SignOptions{
		"the model signature alone": {LegacyTag: true, ModelOnly: true},
		"nothing attached":          {LegacyTag: true, NoAttach: true},
	} {
		if _, err := c.Sign(t.Context(), pushed.Pinned, signer, o); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	layout := "oci:" + filepath.Join(t.TempDir(), "l") + ":v1"
	if _, err := c.Copy(t.Context(), pushed.Pinned, layout, modelsig.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Sign(t.Context(), layout, signer, legacy); err == nil {
		t.Error("a layout: signed")
	}
	if _, err := c.SignDir(t.Context(), writeModel(t, tinyFiles), signer, legacy); err == nil {
		t.Error("a folder: signed")
	}
}

// What an identity cannot sign in the old form is not signed, and logged, in
// another.
func TestNothingIsSignedWhereTheOldFormCannotBe(t *testing.T) {
	r := newRegistry(t)
	signer := newSigner(t)
	c := new(modelsig.Client)
	pushed, err := c.Push(t.Context(), writeModel(t, tinyFiles), r.host+"/m:v1", modelsig.PushOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Sign(t.Context(), pushed.Pinned, modernOnly{signer, t}, modelsig.SignOptions{LegacyTag: true}); !errors.Is(err, errModern) {
		t.Errorf("got %v", err)
	}
	if n := len(listed(t, pushed.Pinned)); n > 0 {
		t.Errorf("%d are attached", n)
	}
}

var errModern = errors.New("not in that form")

// modernOnly signs bundles alone.
type modernOnly struct {
	modelsig.Signer
	t *testing.T
}

func (modernOnly) SignSimple(context.Context, []byte) (bundle.SimpleSigning, error) {
	return bundle.SimpleSigning{}, errModern
}

func (m modernOnly) Sign(context.Context, ...[]byte) ([]*bundle.Bundle, error) {
	m.t.Error("it was signed")
	return nil, errModern
}

// The old tag is one more source: what it has counts, and where it cannot be
// read nothing is unsigned (rule 38).
func TestVerifyReadsTheOldTag(t *testing.T) {
	r := newRegistry(t)
	signer := newSigner(t)
	policy := trusts(signer)
	stranger := trusts(newSigner(t))
	ref := oldSigned(t, r, "m", signer)
	c := new(modelsig.Client)
	v, err := c.Verify(t.Context(), ref, policy, modelsig.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Signers) != 1 || v.Signers[0].Kind != "artifact" || !strings.HasSuffix(v.Signers[0].Referrer, ".sig") || v.Signers[0].Repository != "m" {
		t.Errorf("signers %+v", v.Signers)
	}
	if _, err := c.Pull(t.Context(), ref, filepath.Join(t.TempDir(), "d"), policy, modelsig.PullOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := c.Verify(t.Context(), ref, stranger, modelsig.VerifyOptions{}); !errors.Is(err, modelsig.ErrRefused) {
		t.Errorf("by a stranger: %v", err)
	}
	strict := policy
	strict.RequireModel = true
	if _, err := c.Verify(t.Context(), ref, strict, modelsig.VerifyOptions{}); !errors.Is(err, modelsig.ErrRefused) {
		t.Errorf("with a model signature wanted: %v", err)
	}
	// One referrer by name is that one alone.
	if _, err := c.Verify(t.Context(), ref, policy, modelsig.VerifyOptions{SignatureDigest: "sha256:" + strings.Repeat("0", 64)}); err == nil {
		t.Error("another signature than the one that was named was taken")
	}
	for name, status := range map[string]int{"500": 500, "403": 403, "401": 401} {
		broken := &modelsig.Client{}
		broken.Registry.Transport = oldTagAnswers(status)
		if _, err := broken.Verify(t.Context(), ref, stranger, modelsig.VerifyOptions{}); !errors.Is(err, modelsig.ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	gone := &modelsig.Client{}
	gone.Registry.Transport = oldTagAnswers(404)
	if _, err := gone.Verify(t.Context(), ref, policy, modelsig.VerifyOptions{}); !errors.Is(err, modelsig.ErrRefused) {
		t.Errorf("404: %v", err)
	}
}

// oldTagAnswers answers every request for an old tag with a status.
type oldTagAnswers int

func (s oldTagAnswers) RoundTrip(req *http.Request) (*http.Response, error) {
	if strings.HasSuffix(req.URL.Path, ".sig") {
		return &http.Response{
			StatusCode: int(s), Status: fmt.Sprint(int(s)), Request: req, Body: http.NoBody, Header: http.Header{"Retry-After": {"0"}}, ProtoMajor: 1, ProtoMinor: 1,
		}, nil
	}
	return http.DefaultTransport.RoundTrip(req)
}

// Whoever has a signature of today is not asked for an older one.
func TestTheOldTagIsNotReadWhereItIsNotNeeded(t *testing.T) {
	r := newRegistry(t)
	signer := newSigner(t)
	policy := trusts(signer)
	pushed, err := new(modelsig.Client).Push(t.Context(), writeModel(t, tinyFiles), r.host+"/m:v1", modelsig.PushOptions{Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	c := &modelsig.Client{}
	c.Registry.Transport = oldTagAnswers(500)
	if _, err := c.Verify(t.Context(), pushed.Pinned, policy, modelsig.VerifyOptions{}); err != nil {
		t.Error(err)
	}
}

func TestOldTagsAreCopied(t *testing.T) {
	r := newRegistry(t)
	signer := newSigner(t)
	policy := trusts(signer)
	other := newSigner(t)
	ref := oldSigned(t, r, "m", signer)
	c := new(modelsig.Client)
	dir := t.TempDir()
	layout, archive := "oci:"+filepath.Join(dir, "l")+":v1", "oci-archive:"+filepath.Join(dir, "a.tar")+":v1"
	for _, step := range [][2]string{
		{ref, r.host + "/mirror:v1"},
		{r.host + "/mirror:v1", layout},
		{layout, layout[:len(layout)-2] + "v2"}, // it is there already
		{layout, archive},
		{archive, r.host + "/back:v1"},
	} {
		copied, err := c.Copy(t.Context(), step[0], step[1], modelsig.CopyOptions{Policy: &policy})
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		if copied.OldTags != 1 {
			t.Errorf("%s: %d old tags", step, copied.OldTags)
		}
		if _, err := c.Verify(t.Context(), step[1], policy, modelsig.VerifyOptions{}); err != nil {
			t.Errorf("%s: %v", step, err)
		}
	}
	image := listed(t, ref)[0].Digest
	if got := listed(t, r.host+"/back:v1"); len(got) != 1 || got[0].Digest != image {
		t.Errorf("it came back as %+v, not %s", got, image)
	}
	// A layout has one model, though it has three tags.
	if _, err := c.Verify(t.Context(), "oci:"+filepath.Join(dir, "l"), policy, modelsig.VerifyOptions{}); err != nil {
		t.Error(err)
	}
	// What the destination has besides stays in a registry, and is not
	// overwritten in a layout.
	back := r.host + "/back:v1"
	if _, err := c.Sign(t.Context(), back, other, modelsig.SignOptions{LegacyTag: true, ArtifactOnly: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Copy(t.Context(), ref, back, modelsig.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := olds(listed(t, back)); got != 2 {
		t.Errorf("%d signatures under the old tag, want both", got)
	}
	if _, err := c.Copy(t.Context(), back, ref[:strings.Index(ref, "@")]+":v2", modelsig.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := olds(listed(t, ref)); got != 2 {
		t.Errorf("%d signatures came to the first repository, want both", got)
	}
	if _, err := c.Copy(t.Context(), back, layout, modelsig.CopyOptions{}); err != nil {
		t.Errorf("a layout that has less: %v", err)
	}
	if _, err := c.Copy(t.Context(), archive, layout, modelsig.CopyOptions{}); err == nil || !strings.Contains(err.Error(), "not replaced") {
		t.Errorf("a layout that has more: %v", err)
	}
	if got := olds(listed(t, layout)); got != 2 {
		t.Errorf("%d signatures in the layout, want both", got)
	}
	// What cannot be read is not left behind in silence.
	broken := &modelsig.Client{}
	broken.Registry.Transport = oldTagAnswers(403)
	if _, err := broken.Copy(t.Context(), ref, r.host+"/more:v1", modelsig.CopyOptions{}); err == nil {
		t.Error("copied without what could not be read")
	}
}

func olds(all []modelsig.Attached) (n int) {
	for _, a := range all {
		if a.ArtifactType == referrers.SimpleSigningType && a.Kind == "artifact" {
			n++
		}
	}
	return n
}

// A registry got the API after the signature was attached, and has kept the
// fallback tag. What somebody else attaches through the API takes nothing away
// (invariant 7), and where the tag cannot be read nothing is refused.
func TestASignatureUnderTheFallbackTagCountsBesideTheAPI(t *testing.T) {
	r := newRegistry(t)
	signer, stranger := newSigner(t), newSigner(t)
	c := new(modelsig.Client)
	pushed, err := c.Push(t.Context(), writeModel(t, tinyFiles), r.host+"/m:v1", modelsig.PushOptions{})
	if err != nil {
		t.Fatal(err)
	}
	subject := r.describe(t, "m", pushed.Digest)
	sig := mustSign(t, c, pushed.Pinned, signer, modelsig.SignOptions{ArtifactOnly: true})
	entry := r.describe(t, "m", sig.Artifact.Referrer)
	mustSign(t, c, pushed.Pinned, stranger, modelsig.SignOptions{})
	// The API forgets the first one.
	hides := func(tagStatus int) *modelsig.Client {
		h := new(modelsig.Client)
		h.Registry.Transport = roundTrip(func(req *http.Request) (*http.Response, error) {
			if strings.Contains(req.URL.Path, "/manifests/sha256-") && !strings.HasSuffix(req.URL.Path, ".sig") && tagStatus != 0 {
				return &http.Response{StatusCode: tagStatus, Request: req, Body: http.NoBody, Header: http.Header{}, ProtoMajor: 1, ProtoMinor: 1}, nil
			}
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil || !strings.Contains(req.URL.Path, "/referrers/") {
				return resp, err
			}
			defer resp.Body.Close()
			var index ocispec.Index
			if err := json.NewDecoder(resp.Body).Decode(&index); err != nil {
				return nil, err
			}
			index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.Digest == entry.Digest })
			data, err := json.Marshal(index)
			resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
			resp.Header.Del("Content-Length")
			return resp, err
		})
		return h
	}
	if _, err := hides(404).Verify(t.Context(), pushed.Pinned, trusts(signer), modelsig.VerifyOptions{}); !errors.Is(err, modelsig.ErrRefused) {
		t.Errorf("without a tag: %v", err)
	}
	if _, err := hides(403).Verify(t.Context(), pushed.Pinned, trusts(signer), modelsig.VerifyOptions{}); !errors.Is(err, modelsig.ErrUnknown) {
		t.Errorf("with a tag that cannot be read: %v", err)
	}
	index, err := json.Marshal(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{entry}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.backend.PushManifest(t.Context(), "m", "sha256-"+subject.Digest.Encoded(), index, ocispec.MediaTypeImageIndex); err != nil {
		t.Fatal(err)
	}
	if _, err := hides(0).Verify(t.Context(), pushed.Pinned, trusts(signer), modelsig.VerifyOptions{}); err != nil {
		t.Errorf("with the tag: %v", err)
	}
	if found, err := hides(0).List(t.Context(), pushed.Pinned); err != nil || len(found.Referrers) != 3 {
		t.Errorf("listed %+v, %v", found, err)
	}
}
