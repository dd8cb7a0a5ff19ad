package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/modelsig/modelsig"
)

type listCmd struct {
	Ref          string `arg:"" help:"REPO:TAG, REPO@DIGEST or oci:PATH:TAG."`
	MaxReferrers int    `placeholder:"N" help:"Read at most this many referrers (default 1000)."`

	registryFlags
}

func (l *listCmd) Run(ctx context.Context, a *app) error {
	target, err := modelsig.ParseReference(l.Ref)
	if err != nil {
		return err
	}
	client, err := a.client(l.registryFlags, []modelsig.Target{target})
	if err != nil {
		return err
	}
	client.MaxReferrers = l.MaxReferrers
	found, err := client.List(ctx, target.Reference)
	if err != nil {
		return err
	}
	out := &answer{first: fmt.Sprintf("%d referrers (not verified)", len(found.Referrers))}
	out.add("target", "%s", found.Reference)
	result := listJSON{Reference: found.Reference, Digest: found.Digest, Complete: found.Incomplete == nil, Referrers: []referrerJSON{}}
	for _, r := range found.Referrers {
		out.add("referrer", "%s", referrerText(r))
		result.Referrers = append(result.Referrers, referrerJSON{
			r.Digest, r.Kind, r.ArtifactType, r.PredicateType, r.Method, r.Signer, r.Issuer, r.Created, r.Size, r.Source, r.Problem,
		})
	}
	var answers answers[listJSON]
	if found.Incomplete != nil {
		result.Problem = found.Incomplete.Error()
		out.add("incomplete", "%v", found.Incomplete)
		answers.deny(fmt.Errorf("list %s: there may be more: %w", found.Reference, found.Incomplete))
	}
	if err := answers.add(a, out, result, found.Pinned); err != nil {
		return err
	}
	return answers.finish(a, "modelsig/list/v1")
}

func referrerText(r modelsig.Attached) string {
	text := r.Digest + " " + r.Kind
	switch {
	case r.Problem != "":
		text += fmt.Sprintf(", unreadable: %s", r.Problem)
	case r.Kind == "other":
		text += fmt.Sprintf(" %q", r.ArtifactType)
	case r.Kind == "statement":
		text += fmt.Sprintf(" %q", r.PredicateType)
	}
	if r.Method != "" {
		text += fmt.Sprintf(", %s %q", r.Method, r.Signer)
	}
	if r.Created != "" {
		text += ", " + r.Created
	}
	return text + ", " + bytesText(r.Size)
}

// listJSON is schema modelsig/list/v1.
type listJSON struct {
	Reference string         `json:"reference"`
	Digest    string         `json:"digest"`
	Complete  bool           `json:"complete"`
	Problem   string         `json:"problem,omitempty"`
	Referrers []referrerJSON `json:"referrers"`
}

type referrerJSON struct {
	Digest        string `json:"digest"`
	Kind          string `json:"kind"`
	ArtifactType  string `json:"artifactType,omitempty"`
	PredicateType string `json:"predicateType,omitempty"`
	Method        string `json:"method,omitempty"`
	Signer        string `json:"signer,omitempty"`
	Issuer        string `json:"issuer,omitempty"`
	Created       string `json:"created,omitempty"`
	Size          int64  `json:"size"`
	Source        string `json:"source"`
	Problem       string `json:"problem,omitempty"`
}

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
