package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/modelsig/modelsig"
)

type verifySigstoreCmd struct {
	sigstorePolicyFlags
	Targets []string `arg:"" optional:"" name:"target" help:"REPO:TAG, REPO@DIGEST, oci:PATH:TAG, a folder, a file, a manifest, or - for a manifest on standard input."`
}

// sigstorePolicyFlags name identities to believe.
type sigstorePolicyFlags struct {
	Identity               []string `aliases:"certificate-identity" sep:"none" placeholder:"NAME" help:"Subject alternative name of the certificate, exactly; may be repeated, one is enough."`
	IdentityProvider       string   `aliases:"certificate-oidc-issuer" placeholder:"URL" help:"OIDC issuer that vouched for the identity, exactly."`
	IdentityRegexp         string   `aliases:"certificate-identity-regexp" placeholder:"RE" help:"Accept identities that match, as a whole."`
	IdentityProviderRegexp string   `aliases:"certificate-oidc-issuer-regexp" placeholder:"RE" help:"Accept issuers that match, as a whole."`
	SourceRepository       *string  `aliases:"certificate-github-workflow-repository" placeholder:"REPO" help:"Repository that was built, exactly: its URI, or OWNER/NAME."`
	SourceRef              *string  `aliases:"certificate-github-workflow-ref" placeholder:"REF" help:"Git ref that was built, exactly: refs/heads/main."`
	BuildSigner            *string  `placeholder:"URI" help:"Build instructions that signed, exactly: the URI of a (reusable) workflow."`
	BuildTrigger           *string  `aliases:"certificate-github-workflow-trigger" placeholder:"EVENT" help:"Event that began the build, exactly: push."`
	trustFlags
}

func (cmd *verifySigstoreCmd) Run(ctx context.Context, a *app, c *cli) error {
	if err := notAMethod(cmd.Targets); err != nil {
		return err
	}
	identities, err := cmd.identities()
	if err != nil {
		return err
	}
	return c.Verify.run(ctx, a, cmd.Targets, func() (modelsig.Policy, error) { return cmd.policy(ctx, a, identities) })
}

func (f *sigstorePolicyFlags) policy(ctx context.Context, a *app, identities []modelsig.SigstoreIdentity) (modelsig.Policy, error) {
	root, err := a.trustedRoot(ctx, f.trustFlags)
	if err != nil {
		return modelsig.Policy{}, err
	}
	return modelsig.SigstorePolicy(root, identities...)
}

// identities are those that the flags name. What would demand less than
// somebody meant is refused.
func (f *sigstorePolicyFlags) identities() ([]modelsig.SigstoreIdentity, error) {
	switch {
	case len(f.Identity) == 0 && f.IdentityRegexp == "":
		return nil, &hinted{errors.New("no --identity: nobody is trusted"), methodsHint}
	case f.IdentityProvider == "" && f.IdentityProviderRegexp == "":
		return nil, errors.New("no --identity-provider: an identity means nothing without who vouched for it")
	}
	var claims modelsig.SigstoreIdentity
	for _, claim := range []struct {
		flag     string
		from, to *string
	}{
		{"--source-repository", f.SourceRepository, &claims.SourceRepository},
		{"--source-ref", f.SourceRef, &claims.SourceRef},
		{"--build-signer", f.BuildSigner, &claims.BuildSigner},
		{"--build-trigger", f.BuildTrigger, &claims.BuildTrigger},
	} {
		switch {
		case claim.from == nil:
		case *claim.from == "": // as an unset variable makes it: it would demand nothing
			return nil, fmt.Errorf("%s is empty", claim.flag)
		default:
			*claim.to = *claim.from
		}
	}
	var identities []modelsig.SigstoreIdentity
	add := func(subject, expression string) {
		identity := claims
		identity.Subject, identity.SubjectRegexp = subject, expression
		identity.Issuer, identity.IssuerRegexp = f.IdentityProvider, f.IdentityProviderRegexp
		identities = append(identities, identity)
	}
	for _, subject := range f.Identity {
		add(subject, "")
	}
	if f.IdentityRegexp != "" {
		add("", f.IdentityRegexp)
	}
	return identities, nil
}
