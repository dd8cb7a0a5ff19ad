package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/modelsig/modelsig"
)

type verifySigstoreCmd struct {
	Identity               []string `aliases:"certificate-identity" sep:"none" placeholder:"NAME" help:"Subject alternative name of the certificate, exactly; may be repeated, one is enough."`
	IdentityProvider       string   `aliases:"certificate-oidc-issuer" placeholder:"URL" help:"OIDC issuer that vouched for the identity, exactly."`
	IdentityRegexp         string   `aliases:"certificate-identity-regexp" placeholder:"RE" help:"Accept identities that match, as a whole."`
	IdentityProviderRegexp string   `aliases:"certificate-oidc-issuer-regexp" placeholder:"RE" help:"Accept issuers that match, as a whole."`
	TrustedRoot            string   `placeholder:"FILE" help:"Sigstore's trusted root, in JSON. Nothing is fetched."`
	Targets                []string `arg:"" optional:"" name:"target" help:"REPO:TAG, REPO@DIGEST, oci:PATH:TAG, a folder, a file, a manifest, or - for a manifest on standard input."`
}

func (cmd *verifySigstoreCmd) Run(ctx context.Context, a *app, c *cli) error {
	if err := notAMethod(cmd.Targets); err != nil {
		return err
	}
	switch {
	case len(cmd.Identity) == 0 && cmd.IdentityRegexp == "":
		return &hinted{errors.New("no --identity: nobody is trusted"), methodsHint}
	case cmd.IdentityProvider == "" && cmd.IdentityProviderRegexp == "":
		return errors.New("no --identity-provider: an identity means nothing without who vouched for it")
	case cmd.TrustedRoot == "":
		return errors.New("no --trusted-root: this version does not fetch the public one")
	}
	data, err := readSmall(cmd.TrustedRoot, maxTrustedRoot)
	if err != nil {
		return fmt.Errorf("trusted root: %w", err)
	}
	var identities []modelsig.SigstoreIdentity
	add := func(subject, expression string) {
		identities = append(identities, modelsig.SigstoreIdentity{
			Subject: subject, SubjectRegexp: expression,
			Issuer: cmd.IdentityProvider, IssuerRegexp: cmd.IdentityProviderRegexp,
		})
	}
	for _, subject := range cmd.Identity {
		add(subject, "")
	}
	if cmd.IdentityRegexp != "" {
		add("", cmd.IdentityRegexp)
	}
	policy, err := modelsig.SigstorePolicy(data, identities...)
	if err != nil {
		return fmt.Errorf("%s: %w", cmd.TrustedRoot, err)
	}
	return c.Verify.run(ctx, a, cmd.Targets, policy)
}

// maxTrustedRoot bounds a trusted root, in bytes: the public one has 7 KiB.
const maxTrustedRoot = 1 << 20
