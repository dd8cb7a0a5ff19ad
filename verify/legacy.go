package verify

import (
	"context"
	"fmt"

	"github.com/modelsig/modelsig/manifest"
)

// legacySignature judges a statement of OMS v0.2. It knows no binding and no
// ignore paths, and speaks for local files only (rules 4, 30).
func (j *judge) legacySignature(ctx context.Context, st *manifest.Statement, signer Signer) error {
	if j.subject.Artifact != nil {
		return refuse(CodeNotApproval, "a statement of OMS v0.2 speaks for local files only (OMS §11)")
	}
	signed, err := st.LegacyManifest()
	if err != nil {
		return refuse(CodeMalformed, "signed statement of OMS v0.2: %v", err)
	}
	if err := j.compareLocal(ctx, signed.Files(), signed.Hashing(), leftOut{}); err != nil {
		return err
	}
	j.warn(fmt.Sprintf("the signature is in the form of OMS v0.2 (%s): sign again to replace it", manifest.PredicateLegacy))
	signer.Kind = "model"
	j.approve(signer, StrengthFiles)
	j.model = true
	return nil
}
