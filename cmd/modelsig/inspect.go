package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/modelsig/modelsig"
)

type inspectCmd struct {
	Target string `arg:"" help:"A bundle file, or REPO:TAG, REPO@DIGEST, oci:PATH:TAG for all that is attached."`

	registryFlags
}

func (i *inspectCmd) Run(ctx context.Context, a *app) error {
	target, err := modelsig.ParseTarget(i.Target)
	if err != nil {
		return err
	}
	var answers answers[inspectJSON]
	if target.Kind != modelsig.KindArtifact {
		data, err := modelsig.ReadSignature(target.Path)
		if err != nil {
			return err
		}
		if err := inspect(a, &answers, target.Path, data); err != nil {
			return err
		}
		return answers.finish(a, "modelsig/inspect/v1")
	}
	client, err := a.client(i.registryFlags, []modelsig.Target{target})
	if err != nil {
		return err
	}
	found, err := client.List(ctx, target.Reference)
	if err != nil {
		return err
	}
	answers.many = true // however many there are
	for _, r := range found.Referrers {
		if r.Bundle == nil {
			continue
		}
		if err := inspect(a, &answers, r.Digest, r.Bundle); err != nil {
			return err
		}
	}
	if found.Incomplete != nil {
		answers.deny(fmt.Errorf("inspect %s: there may be more: %w", found.Reference, found.Incomplete))
	} else if len(answers.results) == 0 {
		return fmt.Errorf("inspect %s: no bundle is attached", found.Reference)
	}
	return answers.finish(a, "modelsig/inspect/v1")
}

// inspect adds what one bundle says of itself.
func inspect(a *app, answers *answers[inspectJSON], name string, data []byte) error {
	c, err := modelsig.InsecureInspect(data)
	if err != nil {
		return fmt.Errorf("inspect %s: %w", name, err)
	}
	out := &answer{first: "Bundle (not verified)"}
	out.add("bundle", "%s", name)
	out.add("media type", "%s", c.MediaType)
	out.add("method", "%s", c.Method)
	out.add("key hint", "%s", c.Hint)
	out.add("identity", "%s", c.Subject)
	out.add("issuer", "%s", c.Issuer)
	out.add("predicate type", "%s", c.PredicateType)
	out.add("subject", "%s", c.Name)
	for _, d := range c.Digests {
		out.add("subject digest", "%s", d)
	}
	for _, annotation := range c.Annotations {
		out.add("annotation", "%s: %s", annotation.Name, annotation.Value)
	}
	for _, r := range c.Files {
		out.add("file", "%x %q", r.Digest, r.Name)
	}
	for _, p := range c.IgnorePaths {
		out.add("ignored path", "%q", p)
	}
	out.add("problem", "%s", c.Problem)
	result := inspectJSON{
		Verified: false, Bundle: name, MediaType: c.MediaType, Method: c.Method, KeyHint: c.Hint, Identity: c.Subject, Issuer: c.Issuer,
		PredicateType: c.PredicateType, Problem: c.Problem,
	}
	if json.Valid(c.Payload) {
		result.Statement = c.Payload
	}
	return answers.add(a, out, result, "")
}

// inspectJSON is schema modelsig/inspect/v1.
type inspectJSON struct {
	Verified      bool            `json:"verified"` // always false
	Bundle        string          `json:"bundle"`
	MediaType     string          `json:"mediaType"`
	Method        string          `json:"method"`
	KeyHint       string          `json:"keyHint,omitempty"`
	Identity      string          `json:"identity,omitempty"`
	Issuer        string          `json:"issuer,omitempty"`
	PredicateType string          `json:"predicateType,omitempty"`
	Statement     json.RawMessage `json:"statement,omitempty"`
	Problem       string          `json:"problem,omitempty"`
}
