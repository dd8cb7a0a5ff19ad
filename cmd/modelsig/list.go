package main

import (
	"context"
	"fmt"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/bundle"
)

type listCmd struct {
	Ref          string `arg:"" help:"REPO:TAG, REPO@DIGEST or oci:PATH:TAG."`
	MaxReferrers int    `placeholder:"N" help:"Read at most this many referrers (default 1000)."`

	platformFlag
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
	if l.MaxReferrers < 0 {
		return errNegativeReferrers
	}
	client.MaxReferrers = l.MaxReferrers
	found, err := client.ListPlatform(ctx, target.Reference, l.Platform)
	if err != nil {
		return err
	}
	old := 0
	for _, r := range found.Referrers {
		if isOld(r) {
			old++
		}
	}
	out := &answer{first: fmt.Sprintf("%d referrers (not verified)", len(found.Referrers)-old)}
	out.add("target", "%s", found.Reference)
	out.add("index", "%s", found.Index)
	out.add("platform", "%s", found.Platform)
	result := listJSON{Reference: found.Reference, Digest: found.Digest, Index: found.Index, Platform: found.Platform, Complete: found.Incomplete == nil, Referrers: []referrerJSON{}}
	for _, r := range found.Referrers {
		name := "referrer"
		if isOld(r) {
			name = r.Source
		}
		out.add(name, "%s", referrerText(r))
		result.Referrers = append(result.Referrers, referrerJSON{
			r.Digest, r.Kind, r.ArtifactType, r.PredicateType, r.Method, r.Signer, r.Issuer, r.Created, r.Size, r.Source, r.Problem,
			r.Names, r.LogEntries, r.Logged, r.Timestamps,
		})
	}
	var answers answers[listJSON]
	if found.Incomplete != nil {
		result.Problem = found.Incomplete.Error()
		out.add("incomplete", "%v", found.Incomplete)
		answers.deny(fmt.Errorf("list %s: there may be more: %w", found.Reference, found.Incomplete))
	}
	if err := answers.add(a, out, result, answers.ref(found.Pinned)); err != nil {
		return err
	}
	return answers.finish(a, "modelsig/list/v1")
}

// isOld reports whether it is no referrer, but lies under cosign's old tag.
func isOld(r modelsig.Attached) bool { return r.ArtifactType == bundle.SimpleSigningType }

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
		text += ", " + r.Method
	}
	if r.Signer != "" {
		text += fmt.Sprintf(" %q", r.Signer)
	}
	if r.Names > 1 {
		text += fmt.Sprintf(", one of %d names", r.Names)
	}
	if r.Logged != "" {
		text += ", logged " + r.Logged
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
	Index     string         `json:"index,omitempty"`
	Platform  string         `json:"platform,omitempty"`
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
	Names         int    `json:"names,omitempty"`
	LogEntries    int    `json:"logEntries,omitempty"`
	Logged        string `json:"logged,omitempty"`
	Timestamps    int    `json:"timestamps,omitempty"`
}
