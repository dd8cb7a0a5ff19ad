package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/manifest"
)

// simpleSigningKind is the one "type" that approves: what `cosign sign` writes.
// Others in this form are of other tools, and by other keys.
const simpleSigningKind = "cosign container image signature"

// simpleSigning is what an artifact signature in cosign's old form signs
// (cosign's SIGNATURE_SPEC, "Simple Signing").
type simpleSigning struct {
	Critical struct {
		Identity struct {
			DockerReference *string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			DockerManifestDigest string `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional jsontext.Value `json:"optional"`
}

// SimpleSigning is the payload of an artifact signature in cosign's old form.
// reference is the repository with its host, without tag and digest: podman's
// policies compare it. extra are the caller's own annotations, as in
// [ArtifactStatement]. The same input gives the same bytes.
func SimpleSigning(d ocispec.Descriptor, reference string, extra map[string]string) ([]byte, error) {
	if !sha256Digest.MatchString(d.Digest.String()) {
		return nil, fmt.Errorf("sign manifest %s: only sha256 can be signed", d.Digest)
	}
	for name, value := range extra {
		if err := checkAnnotation(name, value); err != nil {
			return nil, err
		}
	}
	var s simpleSigning
	s.Critical.Identity.DockerReference = &reference
	s.Critical.Image.DockerManifestDigest = d.Digest.String()
	s.Critical.Type = simpleSigningKind
	if len(extra) > 0 { // else null, as cosign writes it
		var err error
		if s.Optional, err = json.Marshal(extra, json.Deterministic(true)); err != nil {
			return nil, err
		}
	}
	return json.Marshal(s)
}

// parseSimpleSigning reads a payload as strictly as podman does: no member is
// unknown but those of "optional", which is an object or null.
func parseSimpleSigning(data []byte) (*simpleSigning, error) {
	if err := manifest.CheckJSON(data); err != nil {
		return nil, err
	}
	s := new(simpleSigning)
	if err := json.Unmarshal(data, s, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("not cosign's payload: %w", err)
	}
	switch {
	case s.Critical.Type != simpleSigningKind:
		return nil, fmt.Errorf("type is %q, not %q", s.Critical.Type, simpleSigningKind)
	case !sha256Digest.MatchString(s.Critical.Image.DockerManifestDigest):
		return nil, fmt.Errorf("docker-manifest-digest is %q, not sha256", s.Critical.Image.DockerManifestDigest)
	case s.Critical.Identity.DockerReference == nil:
		return nil, errors.New(`no "docker-reference"`)
	case len(s.Optional) == 0:
		return nil, errors.New(`no "optional"`)
	case s.Optional.Kind() != 'n' && s.Optional.Kind() != '{':
		return nil, errors.New(`"optional" is not an object`)
	}
	return s, nil
}

// ReadSimpleSigning says what a payload of cosign's old form is about: the
// manifest's digest and the repository. Nobody has authenticated it.
func ReadSimpleSigning(payload []byte) (d digest.Digest, reference string, err error) {
	s, err := parseSimpleSigning(payload)
	if err != nil {
		return "", "", fmt.Errorf("simple signing: %w", err)
	}
	return digest.Digest(s.Critical.Image.DockerManifestDigest), *s.Critical.Identity.DockerReference, nil
}

// simpleSignature judges an authenticated payload of cosign's old form. It is
// an artifact signature (ADR 20).
func (j *judge) simpleSignature(ctx context.Context, opened *bundle.Verified, signer Signer) error {
	a := j.subject.Artifact
	if a == nil {
		return refuse(CodeNotApproval, "an artifact signature names a manifest, and says nothing about local files")
	}
	named, reference, err := ReadSimpleSigning(opened.Payload)
	switch {
	case err != nil:
		return refuse(CodeMalformed, "signed, but %v", err)
	case named != a.Manifest.Digest:
		return refuse(CodeOtherSubject, "signed for manifest %s, this is %s", named, a.Manifest.Digest)
	}
	signer.Repository = withoutHost(reference)
	return j.approveManifest(ctx, signer)
}

// withoutHost is the repository of a reference, as bindings record it.
func withoutHost(reference string) string {
	host, repository, found := strings.Cut(reference, "/")
	if found && (strings.ContainsAny(host, ".:") || host == "localhost") {
		return repository
	}
	return reference
}
