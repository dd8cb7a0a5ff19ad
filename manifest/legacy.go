package manifest

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// PredicateLegacy is the predicate type of model signatures before OMS had a
// specification, as model_signing v0.2 wrote them: each subject is a file, and
// the predicate says nothing. It is read, never written (OMS §11).
const PredicateLegacy = "https://model_signing/Digests/v0.1"

// legacyAlgorithm is the annotation that says how a subject's digest was made;
// legacyFiles is its value for whole files.
const (
	legacyAlgorithm = "actual_hash_algorithm"
	legacyFiles     = "file-sha256"
)

// LegacyManifest returns what a statement of [PredicateLegacy] signs, in
// listed order: whole files, SHA-256, links not followed, no ignore paths.
// Names and digests are held to the rules of [Statement.Manifest]; there is no
// root. A subject whose annotation actual_hash_algorithm is there and is not
// "file-sha256", or which has other digests, is refused, and so are other
// annotations: nobody wrote them.
//
// Such statements cover no more than files: they are good for local models
// only, and only where the caller wants them (rules 4, 30).
func (s *Statement) LegacyManifest() (*Manifest, error) {
	m, err := s.legacyManifest()
	if err != nil {
		return nil, fmt.Errorf("parse legacy statement: %w", err)
	}
	return m, nil
}

func (s *Statement) legacyManifest() (*Manifest, error) {
	if s.PredicateType != PredicateLegacy {
		return nil, fmt.Errorf("predicateType %s is not %s", quote(s.PredicateType), PredicateLegacy)
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	m := &Manifest{
		Resources:     make([]Resource, len(s.Subject)),
		Serialization: Serialization{Method: MethodFiles, HashType: SHA256},
	}
	for i := range s.Subject {
		sub := &s.Subject[i]
		digest, ok := sub.Digest[SHA256]
		if !ok || len(sub.Digest) != 1 {
			return nil, fmt.Errorf("subject %s has not exactly one digest, a sha256", quote(sub.Name))
		}
		for key, value := range sub.Annotations {
			var text string
			if key != legacyAlgorithm || json.Unmarshal(value, &text) != nil || text != legacyFiles {
				return nil, fmt.Errorf("subject %s: annotation %s is not %s %q", quote(sub.Name), quote(key), legacyAlgorithm, legacyFiles)
			}
		}
		raw, err := hex.DecodeString(digest)
		if err != nil {
			return nil, fmt.Errorf("subject %s: %w", quote(sub.Name), err)
		}
		m.Resources[i] = Resource{Name: sub.Name, Digest: raw, Algorithm: SHA256}
	}
	if _, err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}
