//go:build unix

package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"

	"cuelabs.dev/go/oci/ociregistry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/modelsig/modelsig/bundle"
)

const (
	bundleType          = "application/vnd.dev.sigstore.bundle.v0.3+json"
	annotationPredicate = "dev.sigstore.bundle.predicateType"
)

// attack pushes an edited copy of a manifest, and attaches to it every bundle
// that is attached to the original: what somebody with push rights can do.
// Without edits the copy has the same meaning in other bytes.
func attack(ctx context.Context, ts *testscript.TestScript, args []string) error {
	r := registryOf(ts)
	src, err := at(args[0])
	if err != nil {
		return err
	}
	dst, err := at(args[1])
	if err != nil {
		return err
	}
	data, desc, err := r.manifest(ctx, src)
	if err != nil {
		return err
	}
	if data, err = edited(data, args[2:]); err != nil {
		return err
	}
	copied, err := r.backend.PushManifest(ctx, dst.repo, dst.tag, data, desc.MediaType)
	if err != nil {
		return err
	}
	found, err := r.referrers(ctx, src.repo, desc.Digest)
	if err != nil {
		return err
	}
	for _, f := range found {
		if err := r.reattach(ctx, src.repo, f, dst.repo, copied); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(ts.Stdout(), copied.Digest)
	return err
}

// reattach attaches a copy of a referrer to another subject.
func (r *registry) reattach(ctx context.Context, from string, referrer ociregistry.Descriptor, to string, subject ociregistry.Descriptor) error {
	data, _, err := r.manifest(ctx, place{repo: from, digest: referrer.Digest})
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	for _, blob := range append(m.Layers, m.Config) {
		content, err := r.blob(ctx, from, blob.Digest)
		if err != nil {
			return err
		}
		if _, err := r.putBlob(ctx, to, content); err != nil {
			return err
		}
	}
	m.Subject = &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	if data, err = json.Marshal(m); err != nil {
		return err
	}
	return r.putReferrer(ctx, to, subject.Digest, data)
}

// putReferrer pushes the manifest of a referrer and has it listed.
func (r *registry) putReferrer(ctx context.Context, repo string, subject ociregistry.Digest, data []byte) error {
	desc, err := r.backend.PushManifest(ctx, repo, "", data, ocispec.MediaTypeImageManifest)
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	desc.ArtifactType, desc.Annotations = m.ArtifactType, m.Annotations
	return r.listInFallback(ctx, repo, subject, desc)
}

// attach attaches a bundle as cosign would, but for the edits of the
// referrer's manifest.
func attach(ctx context.Context, ts *testscript.TestScript, args []string) error {
	r := registryOf(ts)
	p, err := at(args[0])
	if err != nil {
		return err
	}
	_, subject, err := r.manifest(ctx, p)
	if err != nil {
		return err
	}
	content := []byte(ts.ReadFile(args[1]))
	layer, err := r.putBlob(ctx, p.repo, content)
	if err != nil {
		return err
	}
	if _, err := r.putBlob(ctx, p.repo, []byte("{}")); err != nil {
		return err
	}
	layer.MediaType = bundleType
	m := ocispec.Manifest{
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: bundleType,
		Config:       ocispec.DescriptorEmptyJSON,
		Layers:       []ocispec.Descriptor{layer},
		Subject:      &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		Annotations:  map[string]string{"dev.sigstore.bundle.content": "dsse-envelope", annotationPredicate: predicateTypeOf(content)},
	}
	m.SchemaVersion = 2
	m.Config.Data = nil
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if data, err = edited(data, args[2:]); err != nil {
		return err
	}
	return r.putReferrer(ctx, p.repo, subject.Digest, data)
}

// predicateTypeOf reads what a bundle claims; "" if it is no bundle.
func predicateTypeOf(data []byte) string {
	var b struct {
		DSSEEnvelope struct{ Payload string }
	}
	var statement struct{ PredicateType string }
	if json.Unmarshal(data, &b) != nil {
		return ""
	}
	payload, err := base64.StdEncoding.DecodeString(b.DSSEEnvelope.Payload)
	if err != nil || json.Unmarshal(payload, &statement) != nil {
		return ""
	}
	return statement.PredicateType
}

// detach deletes all referrers of a manifest, and its fallback tag.
func detach(ctx context.Context, ts *testscript.TestScript, args []string) error {
	r := registryOf(ts)
	p, err := at(args[0])
	if err != nil {
		return err
	}
	_, subject, err := r.manifest(ctx, p)
	if err != nil {
		return err
	}
	found, err := r.referrers(ctx, p.repo, subject.Digest)
	if err != nil {
		return err
	}
	for _, f := range found {
		if err := r.backend.DeleteManifest(ctx, p.repo, f.Digest); err != nil {
			return err
		}
	}
	tag := fallbackTag(subject.Digest)
	if _, err := r.backend.ResolveTag(ctx, p.repo, tag); err != nil {
		return nil // there is none
	}
	return r.backend.DeleteTag(ctx, p.repo, tag)
}

// flood attaches many referrers that are no signatures.
func flood(ctx context.Context, ts *testscript.TestScript, args []string) error {
	r := registryOf(ts)
	p, err := at(args[0])
	if err != nil {
		return err
	}
	_, subject, err := r.manifest(ctx, p)
	if err != nil {
		return err
	}
	var n int
	if _, err := fmt.Sscan(args[1], &n); err != nil {
		return err
	}
	m := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.DescriptorEmptyJSON,
		Subject:   &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
	}
	m.SchemaVersion = 2
	switch args[2] {
	case "other-type":
		m.ArtifactType = "application/spdx+json"
		m.Layers = []ocispec.Descriptor{ocispec.DescriptorEmptyJSON}
	case "looks-like-ours":
		garbage, err := r.putBlob(ctx, p.repo, []byte(`{"mediaType":"`+bundleType+`"}`))
		if err != nil {
			return err
		}
		garbage.MediaType = bundleType
		m.ArtifactType = bundleType
		m.Layers = []ocispec.Descriptor{garbage}
	default:
		return fmt.Errorf("%q is no kind of flood", args[2])
	}
	if _, err := r.putBlob(ctx, p.repo, []byte("{}")); err != nil {
		return err
	}
	entries := make([]ociregistry.Descriptor, n)
	for i := range entries {
		m.Annotations = map[string]string{"n": fmt.Sprint(i)}
		if m.ArtifactType == bundleType {
			m.Annotations[annotationPredicate] = "https://model_signing/signature/v1.0"
		}
		data, err := json.Marshal(m)
		if err != nil {
			return err
		}
		if entries[i], err = r.backend.PushManifest(ctx, p.repo, "", data, ocispec.MediaTypeImageManifest); err != nil {
			return err
		}
		entries[i].ArtifactType, entries[i].Annotations = m.ArtifactType, m.Annotations
	}
	return r.listInFallback(ctx, p.repo, subject.Digest, entries...)
}

// signAnyway attaches a proper artifact signature to a manifest that modelsig
// would not sign.
func signAnyway(ctx context.Context, ts *testscript.TestScript, args []string) error {
	p, err := at(args[1])
	if err != nil {
		return err
	}
	_, subject, err := registryOf(ts).manifest(ctx, p)
	if err != nil {
		return err
	}
	statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`,
		subject.Digest.Encoded())
	if err := os.WriteFile(ts.MkAbs("anyway.json"), []byte(statement), 0o644); err != nil {
		return err
	}
	if err := signStatement(ctx, ts, []string{args[0], "anyway.json", "anyway.sig"}); err != nil {
		return err
	}
	return attach(ctx, ts, []string{args[1], "anyway.sig"})
}

// signStatement signs any payload with a test key, so that an attack is wrong
// in one way only.
func signStatement(ctx context.Context, ts *testscript.TestScript, args []string) error {
	key, err := bundle.ParsePrivateKey([]byte(ts.ReadFile(args[0])), nil)
	if err != nil {
		return err
	}
	signer, err := bundle.NewKeySigner(key)
	if err != nil {
		return err
	}
	signed, err := signer.Sign(ctx, []byte(ts.ReadFile(args[1])))
	if err != nil {
		return err
	}
	return os.WriteFile(ts.MkAbs(args[2]), signed[0].JSON(), 0o644)
}
