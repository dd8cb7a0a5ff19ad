package verify

import (
	"context"
	"errors"
	"fmt"

	"github.com/modelsig/modelsig/manifest"
)

// About says whether a statement that nobody authenticated is about an
// artifact, as [Decide] would see it if somebody had: an approval must name the
// manifest or, without a binding, list the files of its layers, for which
// archives are read, and any other statement must have the manifest's sha256 among its subjects. It returns the
// predicate type.
//
// It is for moving bundles about and approves nothing. A statement about
// something else, or one that [Decide] would refuse whoever signed it, is an
// error that wraps [ErrRefused]. A folder's statement in an old form of OMS
// names no manifest and is refused.
func About(ctx context.Context, payload []byte, a *Artifact) (predicateType string, err error) {
	st, err := manifest.ParseStatement(payload)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrRefused, err)
	}
	j := &judge{policy: Policy{Binding: StrengthStreamed}, subject: Subject{Artifact: a}, reading: true}
	switch {
	case st.PredicateType == manifest.PredicateLegacy:
		err = refuse(CodeNotApproval, "its predicate type %q is for local models only", st.PredicateType)
	case st.PredicateType == PredicateArtifact:
		err = j.artifactSignature(ctx, st, Signer{})
	case manifest.IsOMS(st.PredicateType):
		err = j.modelSignature(ctx, st, Signer{})
	case !names(st, a):
		err = refuse(CodeOtherSubject, "none of its subjects is %s", a.Manifest.Digest)
	}
	if r, ok := errors.AsType[*refusal](err); ok && !r.unread {
		return "", fmt.Errorf("%w: %s: %w", ErrRefused, r.code, r)
	}
	return st.PredicateType, err
}

// names reports whether a subject of st is the manifest.
func names(st *manifest.Statement, a *Artifact) bool {
	for _, s := range st.Subject {
		if hex, ok := s.Digest["sha256"]; ok && "sha256:"+hex == a.Manifest.Digest.String() {
			return true
		}
	}
	return false
}
