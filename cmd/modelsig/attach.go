package main

import (
	"context"

	"github.com/modelsig/modelsig"
)

type attachCmd struct {
	Ref    string `arg:"" help:"REPO:TAG, REPO@DIGEST or oci:PATH:TAG."`
	Bundle string `arg:"" help:"A Sigstore bundle, as JSON: model.sig, or what modelsig download wrote."`

	registryFlags
}

func (c *attachCmd) Run(ctx context.Context, a *app) error {
	target, err := modelsig.ParseReference(c.Ref)
	if err != nil {
		return err
	}
	data, err := modelsig.ReadSignature(c.Bundle)
	if err != nil {
		return err
	}
	client, err := a.client(c.registryFlags, []modelsig.Target{target})
	if err != nil {
		return err
	}
	attached, err := client.AttachBundle(ctx, target.Reference, data)
	if err != nil {
		return err
	}
	result := attachJSON{
		Reference: attached.Reference, Digest: attached.Digest, Referrer: attached.Referrer,
		Kind: attached.Kind, PredicateType: attached.PredicateType, Unchanged: attached.Unchanged, Warnings: []string{},
	}
	if attached.ModelOnly {
		result.Warnings = append(result.Warnings, "cosign, and what asks as it does, will not see this signature: it is an OMS signature, and no artifact signature is attached")
	}
	a.warn(result.Warnings...)
	out := &answer{first: "Attach succeeded (not verified)"}
	out.add("target", "%s", attached.Reference)
	out.add("referrer", "%s", attached.Referrer)
	out.add("kind", "%s", attached.Kind)
	out.add("predicate type", "%s", attached.PredicateType)
	if attached.Unchanged {
		out.add("note", "%s", "this bundle was attached already: nothing was added")
	}
	var answers answers[attachJSON]
	if err := answers.add(a, out, result, attached.Pinned); err != nil {
		return err
	}
	return answers.finish(a, "modelsig/attach/v1")
}

// attachJSON is schema modelsig/attach/v1.
type attachJSON struct {
	Reference     string   `json:"reference"`
	Digest        string   `json:"digest"`
	Referrer      string   `json:"referrer"`
	Kind          string   `json:"kind"`
	PredicateType string   `json:"predicateType"`
	Unchanged     bool     `json:"unchanged"`
	Warnings      []string `json:"warnings"`
}
