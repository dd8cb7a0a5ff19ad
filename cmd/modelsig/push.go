package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/modelsig/modelsig"
)

type pushCmd struct {
	Dir           string            `arg:"" help:"Folder or file to upload."`
	Ref           string            `arg:"" help:"REPO:TAG or oci:PATH:TAG."`
	MediaType     string            `placeholder:"TYPE" help:"Media type of every layer. Default: by extension."`
	Allow         []string          `sep:"none" placeholder:"NAME" help:"Accept an ambiguous input: ${threats}."`
	AllowSymlinks bool              `help:"Follow links to regular files inside the folder."`
	Sign          string            `enum:"key,certificate,sigstore," default:"" placeholder:"METHOD" help:"Sign what was pushed (key, certificate, sigstore). The flags are those of modelsig sign METHOD."`
	Annotations   map[string]string `name:"annotations" short:"a" aliases:"annotation" mapsep:"none" placeholder:"KEY=VALUE" help:"With --sign: record in the artifact signature."`

	pushSignFlags
	registryFlags
}

// pushSignFlags are those of each method.
type pushSignFlags struct {
	certificateFlags `group:"Signing"`
	TSAURL           given `name:"tsa-url" placeholder:"URL" help:"Have this timestamp authority (RFC 3161) say when each signature was made." group:"Signing"`
	keylessFlags     `group:"Signing"`
}

// signer makes the signer of a method; "": none. A flag that it would pass over
// is refused: somebody meant another method.
func (f pushSignFlags) signer(ctx context.Context, a *app, method string) (modelsig.Signer, error) {
	key := f.keyFlags != keyFlags{}
	certificate := f.SigningCertificate != "" || len(f.CertificateChain) > 0
	switch {
	case method == "" && (key || certificate || f.TSAURL != "" || f.given()):
		return nil, errors.New("flags of signing need --sign METHOD")
	case method != "sigstore" && f.given():
		return nil, fmt.Errorf("--sign %s takes no identity, and no trusted root: they are for --sign sigstore", method)
	case method != "certificate" && certificate:
		return nil, fmt.Errorf("--sign %s takes no certificate: --sign certificate does", method)
	case method == "sigstore" && key:
		return nil, errors.New("--sign sigstore takes no private key: --sign key does")
	}
	var signer modelsig.Signer
	var err error
	switch method {
	case "":
		return nil, nil
	case "sigstore":
		return a.keylessSigner(ctx, f.keylessFlags, string(f.TSAURL))
	case "certificate":
		signer, err = a.certificateSigner(ctx, f.certificateFlags)
	default:
		signer, err = a.keySigner(ctx, f.keyFlags)
	}
	if err != nil {
		return nil, err
	}
	return timestamped(signer, string(f.TSAURL))
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
	if p.Sign == "" && len(p.Annotations) > 0 {
		return errors.New("--annotations need --sign METHOD")
	}
	target, err := modelsig.ParseReference(p.Ref)
	if err != nil {
		return err
	}
	client, err := a.client(p.registryFlags, []modelsig.Target{target})
	if err != nil {
		return err
	}
	// Before anything is uploaded: a wrong password should cost nothing.
	if options.Signer, err = p.signer(ctx, a, p.Sign); err != nil {
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
