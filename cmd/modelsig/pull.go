package main

import (
	"context"
	"errors"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/verify"
)

type pullCmd struct {
	Key         pullKeyCmd         `cmd:"" help:"Pull what public keys verify."`
	Certificate pullCertificateCmd `cmd:"" help:"Pull what root certificates verify."`
	Sigstore    pullSigstoreCmd    `cmd:"" default:"withargs" help:"Pull what an identity and a trusted root verify. The method where none is named."`

	pullFlags
	platformFlag
	registryFlags
}

// pullFlags are those of every method. They stand on the verb, so that they
// may come before or after the method.
type pullFlags struct {
	Overwrite       bool     `help:"Replace a folder that has something else in it." group:"Pulling"`
	KeepModes       bool     `help:"Make programs of files that the packer says are programs (mode 0755)." group:"Pulling"`
	Jobs            int      `placeholder:"N" help:"Read so many layers at once (default 4)." group:"Pulling"`
	Binding         string   `enum:"manifest-digest,layer-digests,streamed" default:"manifest-digest" help:"The weakest binding of a signature to the artifact that is enough (${enum})." group:"Verifying"`
	Require         string   `enum:"model," default:"" help:"Do not accept an artifact signature alone (model)." group:"Verifying"`
	Signature       string   `aliases:"bundle" placeholder:"FILE" help:"Judge by this bundle alone." group:"Verifying"`
	SignatureDigest string   `placeholder:"DIGEST" help:"Judge by this referrer alone." group:"Verifying"`
	MaxReferrers    int      `placeholder:"N" help:"Read at most this many referrers (default 1000)." group:"Verifying"`
	Allow           []string `sep:"none" placeholder:"NAME" help:"Accept an ambiguous input: ${threats}." group:"Model"`
	Layout          string   `enum:"${layouts}," default:"" help:"Refuse artifacts whose layers are not read this way: ${layouts}." group:"Model"`
	PathAnnotation  string   `enum:"title,filepath," default:"" help:"Which annotation names a layer's file where both are there and differ (title, filepath)." group:"Model"`
}

// pullArgs are what to pull, and where to.
type pullArgs struct {
	Ref string `arg:"" help:"REPO:TAG, REPO@DIGEST, oci:PATH:TAG or oci-archive:FILE:TAG."`
	Dir string `arg:"" help:"Folder to make. It may exist if it is empty, or has this model already."`
}

type pullKeyCmd struct {
	keyPolicyFlags
	pullArgs
}

func (cmd *pullKeyCmd) Run(ctx context.Context, a *app, c *cli) error {
	return c.Pull.run(ctx, a, cmd.pullArgs, func() (modelsig.Policy, error) { return cmd.policy(ctx, a) })
}

type pullCertificateCmd struct {
	certificatePolicyFlags
	pullArgs
}

func (cmd *pullCertificateCmd) Run(ctx context.Context, a *app, c *cli) error {
	return c.Pull.run(ctx, a, cmd.pullArgs, func() (modelsig.Policy, error) { return cmd.policy(ctx, a) })
}

type pullSigstoreCmd struct {
	sigstorePolicyFlags
	pullArgs
}

func (cmd *pullSigstoreCmd) Run(ctx context.Context, a *app, c *cli) error {
	if err := notAMethod([]string{cmd.Ref}); err != nil {
		return err
	}
	identities, err := cmd.identities()
	if err != nil {
		return err
	}
	return c.Pull.run(ctx, a, cmd.pullArgs, func() (modelsig.Policy, error) { return cmd.policy(ctx, a, identities) })
}

// run pulls, whatever the method: it makes the policy when all that was asked
// for makes sense.
func (p *pullCmd) run(ctx context.Context, a *app, args pullArgs, method func() (modelsig.Policy, error)) error {
	target, err := modelsig.ParseReference(args.Ref)
	if err != nil {
		return err
	}
	allow, err := modelFlags{Allow: p.Allow}.allowed()
	if err != nil {
		return err
	}
	if p.MaxReferrers < 0 {
		return errNegativeReferrers
	}
	if err := (jobsFlag{p.Jobs}).check(); err != nil {
		return err
	}
	client, err := a.client(p.registryFlags, []modelsig.Target{target})
	if err != nil {
		return err
	}
	client.MaxReferrers, client.Jobs = p.MaxReferrers, p.Jobs
	if client.Progress == nil && !a.NoProgress && a.Format == formatText {
		client.Progress = (&progressLines{w: a.stderr}).set
	}
	policy, err := method()
	if err != nil {
		return err
	}
	policy.Binding = verify.Strength(p.Binding)
	policy.Layout = p.Layout
	policy.RequireModel = p.Require == "model"
	pulled, err := client.Pull(ctx, target.Reference, args.Dir, policy, modelsig.PullOptions{
		Verify: modelsig.VerifyOptions{
			SignatureFile:   p.Signature,
			Platform:        p.Platform,
			SignatureDigest: p.SignatureDigest,
			PathAnnotation:  p.PathAnnotation,
			Allow:           allow,
		},
		Overwrite: p.Overwrite,
		KeepModes: p.KeepModes,
	})
	var answers answers[pullJSON]
	if denial, ok := errors.AsType[*modelsig.Denial](err); ok {
		denied := denial.Verification
		a.warn(denied.Warnings...)
		answers.deny(err)
		result := pullJSON{verifyJSON: verifyJSONOf(denied, p.Signature), Directory: args.Dir, LeftOut: []string{}}
		if err := answers.add(a, verifyAnswer(denied, p.Signature), result, ""); err != nil {
			return err
		}
		return answers.finish(a, "modelsig/pull/v1")
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return err // the model was not judged, or has not arrived
	}
	v := pulled.Verification
	a.warn(v.Warnings...)
	a.warn(pulled.Warnings...)
	if err := answers.add(a, pullAnswer(pulled, p.Signature), pullJSONOf(pulled, p.Signature), v.Pinned); err != nil {
		return err
	}
	return answers.finish(a, "modelsig/pull/v1")
}

func pullAnswer(p *modelsig.Pulled, file string) *answer {
	v := p.Verification
	out := &answer{first: "Pull succeeded"}
	out.add("target", "%s", v.Target)
	out.add("directory", "%q", p.Dir)
	out.add("digest", "%s", v.Digest)
	out.add("index", "%s", v.Index)
	out.add("platform", "%s", v.Platform)
	out.add("binding", "%s", v.Binding)
	out.add("layout", "%s", v.Layout)
	for _, s := range v.Signers {
		out.add("signer", "%s", signerText(s))
	}
	out.add("files", "%d (%s)", p.Files, bytesText(p.Bytes))
	if p.Kept > 0 {
		out.add("kept", "%s of an earlier pull", bytesText(p.Kept))
	}
	for _, name := range p.LeftOut {
		out.add("left out", "%q (not signed)", name)
	}
	out.add("signature file", "%s", file)
	if p.Unchanged {
		out.add("note", "%s", "the folder is there and verifies: nothing was written")
	}
	return out
}

// pullJSON is schema modelsig/pull/v1.
type pullJSON struct {
	verifyJSON
	Directory string   `json:"directory"`
	Unchanged bool     `json:"unchanged"`
	Kept      int64    `json:"kept"`
	LeftOut   []string `json:"leftOut"`
}

func pullJSONOf(p *modelsig.Pulled, file string) pullJSON {
	out := pullJSON{
		verifyJSON: verifyJSONOf(p.Verification, file),
		Directory:  p.Dir, Unchanged: p.Unchanged, Kept: p.Kept, LeftOut: list(p.LeftOut),
	}
	out.Files.Count, out.Files.Bytes = p.Files, p.Bytes
	out.Warnings = append(out.Warnings, p.Warnings...)
	return out
}
