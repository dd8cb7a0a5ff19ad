package main

import (
	"context"
	"errors"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/oci"
)

type copyCmd struct {
	Plain       copyPlainCmd       `cmd:"" default:"withargs" hidden:"" help:"Copy, and verify nothing."`
	Key         copyKeyCmd         `cmd:"" help:"Verify with public keys, then copy."`
	Certificate copyCertificateCmd `cmd:"" help:"Verify with root certificates, then copy."`
	Sigstore    copySigstoreCmd    `cmd:"" help:"Verify with an identity and a trusted root, then copy."`

	copyFlags
	registryFlags
}

type copyFlags struct {
	Force        bool `help:"Replace an archive that is there."`
	Jobs         int  `placeholder:"N" help:"Copy so many blobs at once (default 4)."`
	MaxReferrers int  `placeholder:"N" help:"Read at most this many referrers for the verdict (default 1000). All are copied."`
}

// copyArgs are from where and to where, for every method.
type copyArgs struct {
	Src string `arg:"" help:"REPO:TAG, REPO@DIGEST, oci:PATH:TAG or oci-archive:FILE:TAG."`
	Dst string `arg:"" help:"REPO:TAG, oci:PATH:TAG or oci-archive:FILE.tar:TAG."`
}

type copyPlainCmd struct{ copyArgs }

func (cmd *copyPlainCmd) Run(ctx context.Context, a *app, c *cli) error {
	return c.Copy.run(ctx, a, cmd.copyArgs, nil)
}

type copyKeyCmd struct {
	keyPolicyFlags
	copyArgs
}

func (cmd *copyKeyCmd) Run(ctx context.Context, a *app, c *cli) error {
	return c.Copy.run(ctx, a, cmd.copyArgs, func() (modelsig.Policy, error) { return cmd.policy(ctx, a) })
}

type copyCertificateCmd struct {
	certificatePolicyFlags
	copyArgs
}

func (cmd *copyCertificateCmd) Run(ctx context.Context, a *app, c *cli) error {
	return c.Copy.run(ctx, a, cmd.copyArgs, func() (modelsig.Policy, error) { return cmd.policy(ctx, a) })
}

type copySigstoreCmd struct {
	sigstorePolicyFlags
	copyArgs
}

func (cmd *copySigstoreCmd) Run(ctx context.Context, a *app, c *cli) error {
	identities, err := cmd.identities()
	if err != nil {
		return err
	}
	return c.Copy.run(ctx, a, cmd.copyArgs, func() (modelsig.Policy, error) { return cmd.policy(ctx, a, identities) })
}

// run copies one artifact. method is nil where nobody is asked.
func (c *copyCmd) run(ctx context.Context, a *app, args copyArgs, method func() (modelsig.Policy, error)) error {
	src, err := modelsig.ParseReference(args.Src)
	if err != nil {
		return err
	}
	dst, err := modelsig.ParseReference(args.Dst)
	if err != nil {
		return err
	}
	switch {
	case c.MaxReferrers < 0:
		return errNegativeReferrers
	case c.Jobs < 0:
		return errors.New("--jobs is negative")
	}
	client, err := a.client(c.registryFlags, []modelsig.Target{src, dst})
	if err != nil {
		return err
	}
	client.MaxReferrers, client.Jobs = c.MaxReferrers, c.Jobs
	options := modelsig.CopyOptions{Replace: c.Force}
	if method != nil {
		policy, err := method()
		if err != nil {
			return err
		}
		options.Policy = &policy
	}
	copied, err := client.Copy(ctx, src.Reference, dst.Reference, options)
	var answers answers[copyJSON]
	switch denied, ok := errors.AsType[*modelsig.Denial](err); {
	case ok:
		v := denied.Verification
		a.warn(v.Warnings...)
		answers.deny(err)
		verification := verifyJSONOf(v, "")
		if err := answers.add(a, verifyAnswer(v, ""), copyJSON{Source: v.Target, Destination: dst.Reference, Verification: &verification}, ""); err != nil {
			return err
		}
		return answers.finish(a, "modelsig/copy/v1")
	case errors.Is(err, oci.ErrExists):
		return &hinted{err, "--force replaces it"}
	case err != nil:
		return err
	}
	out := &answer{first: "Copy succeeded"}
	out.add("source", "%s", copied.Source)
	out.add("destination", "%s", copied.Destination)
	out.add("digest", "%s", copied.Digest)
	result := copyJSON{
		Copied: true, Verified: copied.Verification != nil,
		Source: copied.Source, Destination: copied.Destination, Digest: copied.Digest,
		Manifests: copied.Manifests, Referrers: copied.Referrers, Foreign: copied.Foreign, OldTags: copied.OldTags,
		Blobs: counted{copied.Blobs, copied.Bytes},
	}
	if v := copied.Verification; v != nil {
		a.warn(v.Warnings...)
		verification := verifyJSONOf(v, "")
		result.Verification = &verification
		out.add("verified", "%s", "yes")
		for _, s := range v.Signers {
			out.add("signer", "%s", signerText(s))
		}
	} else {
		out.add("verified", "%s", "no")
	}
	out.add("manifests", "%d", copied.Manifests)
	out.add("referrers", "%d", copied.Referrers)
	if copied.Foreign > 0 {
		out.add("other referrers", "%d, which only the destination has", copied.Foreign)
	}
	if copied.OldTags > 0 {
		out.add("old tags", "%d, of cosign", copied.OldTags)
	}
	out.add("blobs", "%d (%s)", copied.Blobs, bytesText(copied.Bytes))
	if err := answers.add(a, out, result, copied.Pinned); err != nil {
		return err
	}
	return answers.finish(a, "modelsig/copy/v1")
}

// copyJSON is schema modelsig/copy/v1.
type copyJSON struct {
	Copied       bool        `json:"copied"`
	Verified     bool        `json:"verified"`
	Source       string      `json:"source"`
	Destination  string      `json:"destination"`
	Digest       string      `json:"digest,omitempty"`
	Manifests    int         `json:"manifests"`
	Referrers    int         `json:"referrers"`
	Foreign      int         `json:"otherReferrers"`
	OldTags      int         `json:"oldTags"`
	Blobs        counted     `json:"blobs"`
	Verification *verifyJSON `json:"verification,omitempty"`
}
