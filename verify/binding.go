package verify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/manifest"
)

const (
	// PredicateArtifact is the predicate type of the artifact signature.
	PredicateArtifact = "https://sigstore.dev/cosign/sign/v1"

	// AnnotationBinding is the subject annotation of a model signature that
	// holds the Binding. Any other name that begins with bindingPrefix is of
	// a version that this one does not know, and refuses (rule 9).
	AnnotationBinding = "modelsig.oci.v1"
	bindingPrefix     = "modelsig.oci."

	// Subject annotations of an artifact signature. They are recorded for
	// people and for policies; the verdict does not rest on them.
	AnnotationRoot       = "modelsig.root"
	AnnotationRepository = "modelsig.repository"
	AnnotationTag        = "modelsig.tag"
)

// A Binding ties a model signature to one OCI manifest. It is what the closed
// OMS schemas leave open: an annotation of the statement's one subject, for
// example
//
//	"modelsig.oci.v1": {
//	  "manifest": {"mediaType": "application/vnd.oci.image.manifest.v1+json",
//	               "digest": "sha256:…", "size": 1243},
//	  "repository": "acme/tiny", "tag": "v1",
//	  "artifactType": "application/vnd.unknown.artifact.v1",
//	  "layout": "title"
//	}
type Binding struct {
	Manifest       BoundManifest `json:"manifest"`
	Repository     string        `json:"repository,omitempty"` // without the host: mirrors rename
	Tag            string        `json:"tag,omitempty"`
	ArtifactType   string        `json:"artifactType"`
	Layout         string        `json:"layout"`
	Root           string        `json:"root,omitempty"`
	PathAnnotation string        `json:"pathAnnotation,omitempty"`
	Platform       string        `json:"platform,omitempty"`
}

// A BoundManifest is an OCI descriptor reduced to what identifies the bytes.
type BoundManifest struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
}

// bindingFields are the names of Binding, for the strict parser.
var bindingFields = []string{"manifest", "mediaType", "digest", "size", "repository", "tag", "artifactType", "layout", "root", "pathAnnotation", "platform"}

// sha256Digest is the only form of digest that binds (rule 31).
var sha256Digest = regexp.MustCompile(`\Asha256:[a-f0-9]{64}\z`)

// Annotations returns the subject annotations that record b.
func (b Binding) Annotations() (map[string]json.RawMessage, error) {
	data, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("marshal binding: %w", err)
	}
	return map[string]json.RawMessage{AnnotationBinding: data}, nil
}

// parseBinding returns the binding of a model signature, nil if there is none.
// One that is there and is not well-formed v1 is an error: a malformed or
// future binding must never be read as an absent one (rule 9).
func parseBinding(annotations map[string]json.RawMessage) (*Binding, error) {
	for name := range annotations {
		if name != AnnotationBinding && strings.HasPrefix(strings.ToLower(name), bindingPrefix) {
			return nil, fmt.Errorf("subject annotation %q is not known to this version", name)
		}
	}
	data, ok := annotations[AnnotationBinding]
	if !ok {
		return nil, nil
	}
	if err := manifest.CheckJSON(data, bindingFields...); err != nil {
		return nil, fmt.Errorf("subject annotation %q: %w", AnnotationBinding, err)
	}
	// A struct cannot tell a member that is null, or not there, from an empty one.
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, fmt.Errorf("subject annotation %q: %w", AnnotationBinding, err)
	}
	if members == nil {
		return nil, fmt.Errorf("subject annotation %q is null", AnnotationBinding)
	}
	for name, value := range members {
		if string(value) == "null" {
			return nil, fmt.Errorf("subject annotation %q: %q is null", AnnotationBinding, name)
		}
	}
	if _, ok := members["artifactType"]; !ok {
		return nil, fmt.Errorf("subject annotation %q: no artifactType", AnnotationBinding)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	b := new(Binding)
	if err := dec.Decode(b); err != nil {
		return nil, fmt.Errorf("subject annotation %q: %w", AnnotationBinding, err)
	}
	switch {
	case !sha256Digest.MatchString(b.Manifest.Digest):
		return nil, fmt.Errorf("subject annotation %q: manifest digest %q is not sha256", AnnotationBinding, b.Manifest.Digest)
	case b.Manifest.Size <= 0:
		return nil, fmt.Errorf("subject annotation %q: manifest size %d", AnnotationBinding, b.Manifest.Size)
	case b.Manifest.MediaType == "":
		return nil, fmt.Errorf("subject annotation %q: no manifest media type", AnnotationBinding)
	case b.Layout == "":
		return nil, fmt.Errorf("subject annotation %q: no layout", AnnotationBinding)
	case b.PathAnnotation != "" && b.PathAnnotation != "title" && b.PathAnnotation != "filepath":
		return nil, fmt.Errorf("subject annotation %q: path annotation %q is not known to this version", AnnotationBinding, b.PathAnnotation)
	}
	return b, nil
}

// names reports whether b is about these very bytes, and if not, which.
func (b *Binding) names(d ocispec.Descriptor) error {
	switch {
	case b.Manifest.Digest != d.Digest.String():
		return fmt.Errorf("signed for manifest %s, this is %s", b.Manifest.Digest, d.Digest)
	case b.Manifest.Size != d.Size:
		return fmt.Errorf("signed for a manifest of %d bytes, this one has %d", b.Manifest.Size, d.Size)
	case b.Manifest.MediaType != d.MediaType:
		return fmt.Errorf("signed for a manifest of type %q, this is %q", b.Manifest.MediaType, d.MediaType)
	}
	return nil
}

// ArtifactStatement is the statement of the artifact signature: the manifest's
// digest is its one subject. root is the OMS root digest of the model
// signature beside it, in hex; "" and empty annotations are left out. extra
// are the caller's own annotations; names that begin with "modelsig." are
// refused.
func ArtifactStatement(d ocispec.Descriptor, root, repository, tag string, extra map[string]string) (*manifest.Statement, error) {
	if !sha256Digest.MatchString(d.Digest.String()) {
		return nil, fmt.Errorf("sign manifest %s: only sha256 can be signed", d.Digest)
	}
	annotations := map[string]json.RawMessage{}
	set := func(name, value string) error {
		data, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("annotation %q: %w", name, err)
		}
		annotations[name] = data
		return nil
	}
	for name, value := range extra {
		err := checkAnnotation(name, value)
		if err == nil {
			err = set(name, value)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, a := range [][2]string{{AnnotationRoot, root}, {AnnotationRepository, repository}, {AnnotationTag, tag}} {
		if a[1] == "" {
			continue
		}
		if err := set(a[0], a[1]); err != nil {
			return nil, err
		}
	}
	if len(annotations) == 0 {
		annotations = nil
	}
	return &manifest.Statement{
		Subject: []manifest.Subject{{
			Digest:      map[string]string{"sha256": d.Digest.Encoded()},
			Annotations: annotations,
		}},
		PredicateType: PredicateArtifact,
		Predicate:     json.RawMessage(`{}`),
	}, nil
}

// checkAnnotation refuses an annotation of the caller's own that cannot be
// recorded as it is, or that would look like one of ours.
func checkAnnotation(name, value string) error {
	switch {
	case name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("annotation %q: the name is not printable ASCII without spaces", name)
	case strings.HasPrefix(strings.ToLower(name), "modelsig."):
		return fmt.Errorf("annotation %q: the name is reserved", name)
	case !utf8.ValidString(value):
		return fmt.Errorf("annotation %q: the value is not UTF-8", name)
	}
	return nil
}
