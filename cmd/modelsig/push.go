package main

import (
	"context"
	"errors"

	"github.com/modelsig/modelsig"
)

type pushCmd struct {
	Dir           string            `arg:"" help:"Folder or file to upload."`
	Ref           string            `arg:"" help:"REPO:TAG or oci:PATH:TAG."`
	MediaType     string            `placeholder:"TYPE" help:"Media type of every layer. Default: by extension."`
	Allow         []string          `sep:"none" placeholder:"NAME" help:"Accept an ambiguous input: ${threats}."`
	AllowSymlinks bool              `help:"Follow links to regular files inside the folder."`
	Sign          string            `enum:"key," default:"" placeholder:"METHOD" help:"Sign what was pushed (key)."`
	PrivateKey    string            `aliases:"key" placeholder:"KEY" help:"With --sign key: the private key."`
	PasswordFile  string            `placeholder:"FILE" help:"With --sign key: password of the key."`
	Annotations   map[string]string `name:"annotations" short:"a" aliases:"annotation" mapsep:"none" placeholder:"KEY=VALUE" help:"With --sign: record in the artifact signature."`

	registryFlags
}

func (p *pushCmd) Run(ctx context.Context, a *app) error {
	allow, err := modelFlags{Allow: p.Allow}.allowed()
	if err != nil {
		return err
	}
	options := modelsig.PushOptions{
		MediaType:     p.MediaType,
		Allow:         allow,
		AllowSymlinks: p.AllowSymlinks,
		Sign:          modelsig.SignOptions{Allow: allow, Annotations: p.Annotations},
	}
	switch {
	case p.Sign == "" && (p.PrivateKey != "" || p.PasswordFile != "" || len(p.Annotations) > 0):
		return errors.New("--private-key, --password-file and --annotations need --sign key")
	case p.Sign == "key" && p.PrivateKey == "":
		return errors.New("--sign key needs --private-key")
	case p.Sign == "key":
		// Before anything is uploaded: a wrong password should cost nothing.
		if options.Signer, err = a.keySigner(ctx, keyFlags{PrivateKey: p.PrivateKey, PasswordFile: p.PasswordFile}); err != nil {
			return err
		}
	}
	target, err := modelsig.ParseReference(p.Ref)
	if err != nil {
		return err
	}
	client, err := a.client(p.registryFlags, []modelsig.Target{target})
	if err != nil {
		return err
	}
	pushed, err := client.Push(ctx, p.Dir, target.Reference, options)
	if err != nil {
		return err
	}
	a.warn(pushed.Warnings...)
	result := pushJSON{
		Reference: pushed.Reference, Digest: pushed.Digest,
		Files:   counted{pushed.Files, pushed.Bytes},
		LeftOut: list(pushed.LeftOut), Warnings: list(pushed.Warnings),
	}
	out := &answer{first: "Push succeeded"}
	out.add("target", "%s", pushed.Reference)
	out.add("digest", "%s", pushed.Digest)
	out.add("files", "%d (%s)", pushed.Files, bytesText(pushed.Bytes))
	for _, name := range pushed.LeftOut {
		out.add("left out", "%q", name)
	}
	if sig := pushed.Signature; sig != nil {
		a.warn(sig.Warnings...)
		result.Signature = &pushSignatureJSON{sig.Model.Referrer, sig.Artifact.Referrer}
		out.add("model signature", "%s", sig.Model.Referrer)
		out.add("artifact signature", "%s", sig.Artifact.Referrer)
	}
	var answers answers[pushJSON]
	if err := answers.add(a, out, result, pushed.Pinned); err != nil {
		return err
	}
	return answers.finish(a, "modelsig/push/v1")
}

// pushJSON is schema modelsig/push/v1.
type pushJSON struct {
	Reference string             `json:"reference"`
	Digest    string             `json:"digest"`
	Files     counted            `json:"files"`
	LeftOut   []string           `json:"leftOut"`
	Signature *pushSignatureJSON `json:"signature,omitempty"`
	Warnings  []string           `json:"warnings"`
}

type pushSignatureJSON struct {
	ModelReferrer    string `json:"modelReferrer"`
	ArtifactReferrer string `json:"artifactReferrer"`
}
