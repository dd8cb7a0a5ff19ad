package modelsig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/modelsig/modelsig/oci"
)

// A Target is what a command line names: exactly one of the fields that say
// where it is has meaning, by Kind.
type Target struct {
	Kind string // KindArtifact (registry or layout), KindDir (folder or file), KindManifest
	// Reference is canonical; "" unless Kind is KindArtifact.
	Reference string
	// Registry is the host of the reference; "" for layouts and local targets.
	Registry string
	// Path is a folder or file; for KindManifest "-" means standard input.
	Path string
	// Guessed: Path was not said to be a manifest, it is shaped like one.
	Guessed bool
}

// Name is the target as messages call it.
func (t Target) Name() string {
	if t.Kind == KindArtifact {
		return t.Reference
	}
	return t.Path
}

// ParseReference is [ParseTarget] for commands that act on artifacts only: a
// path is never read as one.
func ParseReference(s string) (Target, error) {
	ref, err := oci.ParseReference(s)
	if err != nil {
		return Target{}, err
	}
	return Target{Kind: KindArtifact, Reference: ref.String(), Registry: ref.Registry}, nil
}

// ParseTarget says what s names:
//
//	HOST[:PORT]/REPO[:TAG][@DIGEST], oci://…, docker://…   an artifact in a registry
//	oci:PATH[:TAG][@DIGEST], oci-archive:FILE[:TAG]        an artifact in an image layout
//	PATH that exists, file:PATH                            a local folder or file
//	PATH.json shaped like an image manifest                that manifest
//	manifest:PATH, -                                       a manifest; - is standard input
//
// What exists and also reads as a complete reference with a host is refused,
// with both readings: a folder in the working tree must not shadow a registry.
func ParseTarget(s string) (Target, error) {
	switch {
	case s == "":
		return Target{}, errors.New("the target is empty")
	case s == "-":
		return Target{Kind: KindManifest, Path: s}, nil
	}
	if path, ok := strings.CutPrefix(s, "manifest:"); ok {
		return Target{Kind: KindManifest, Path: path}, nil
	}
	if path, ok := strings.CutPrefix(s, "file:"); ok {
		if _, err := os.Stat(path); err != nil {
			return Target{}, err
		}
		return Target{Kind: KindDir, Path: path}, nil
	}
	if hasScheme(s) {
		return ParseReference(s) // never a path, whatever lies in the working tree
	}
	_, err := os.Stat(s)
	switch exists := err == nil; {
	case exists && oci.LooksLikeReference(s):
		return Target{}, fmt.Errorf("%q is a path that exists and a reference to a registry: write ./%s or oci://%s", s, s, s)
	case exists:
		return localTarget(s)
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) && !oci.LooksLikeReference(s):
		return Target{}, err
	}
	t, refErr := ParseReference(s)
	if refErr != nil {
		if !oci.LooksLikeReference(s) {
			return Target{}, fmt.Errorf("%q: no such file or folder, and not a reference: %w", s, refErr)
		}
		return Target{}, refErr
	}
	return t, nil
}

// hasScheme reports whether s says itself that it is a reference.
func hasScheme(s string) bool {
	return strings.Contains(s, "://") || strings.HasPrefix(s, "oci:") || strings.HasPrefix(s, "oci-archive:")
}

// localTarget looks whether a file is a manifest: only by its name and its
// exact shape.
func localTarget(path string) (Target, error) {
	t := Target{Kind: KindDir, Path: path}
	// A link could give a signed file another name: it is hashed.
	info, err := os.Lstat(path)
	if err != nil {
		return Target{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > oci.MaxManifest || !strings.EqualFold(filepath.Ext(path), ".json") {
		return t, nil
	}
	data, err := readFile(path, oci.MaxManifest)
	if err != nil {
		return Target{}, err
	}
	if oci.IsManifest(data) {
		t.Kind, t.Guessed = KindManifest, true
	}
	return t, nil
}
