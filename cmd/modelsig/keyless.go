package main

import (
	"context"
	"fmt"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/bundle"
)

type signSigstoreCmd struct {
	keylessFlags
	Targets []string `arg:"" optional:"" name:"target" help:"REPO:TAG, REPO@DIGEST, oci:PATH:TAG, a folder, a file, a manifest, or - for a manifest on standard input."`
}

// keylessFlags say who signs, and which Sigstore vouches for it.
type keylessFlags struct {
	tokenFlags
	signTrustFlags
}

// given reports whether any of them was.
func (f keylessFlags) given() bool {
	if f.ClientID == defaultClientID {
		f.ClientID = ""
	}
	return f != keylessFlags{}
}

func (cmd *signSigstoreCmd) Run(ctx context.Context, a *app, c *cli) error {
	if err := notAMethod(cmd.Targets); err != nil {
		return err
	}
	return c.Sign.run(ctx, a, cmd.Targets, func() (modelsig.Signer, error) {
		if c.Sign.DryRun {
			return nil, nil // nobody has to log in for that
		}
		return a.keylessSigner(ctx, cmd.keylessFlags, string(c.Sign.TSAURL))
	})
}

// keylessSigner makes a signer of an identity. A token that is there is checked
// before anything is fetched; who has to log in is asked when there is something
// to sign.
func (a *app) keylessSigner(ctx context.Context, f keylessFlags, tsa string) (modelsig.Signer, error) {
	if err := f.signTrustFlags.check(); err != nil { // before a token is fetched
		return nil, err
	}
	var config *bundle.SigningConfig
	token, err := a.tokens(ctx, f.tokenFlags, func() (string, error) { return config.Issuer() })
	if err != nil {
		return nil, err
	}
	root, config, err := a.signTrust(ctx, f.signTrustFlags)
	if err != nil {
		return nil, err
	}
	if tsa != "" {
		if config, err = config.WithTimestampAuthority(tsa); err != nil {
			return nil, fmt.Errorf("--tsa-url: %w", err)
		}
	}
	return bundle.NewSigstoreSigner(servicesClient(), root, config, token)
}
