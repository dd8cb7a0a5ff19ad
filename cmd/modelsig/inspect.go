package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/bundle"
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
	for _, name := range c.OtherNames {
		out.add("other identity", "%s", name)
	}
	if c.Names > 1 {
		out.add("certificate names", "%d", c.Names)
	}
	out.add("issuer", "%s", c.Issuer)
	if !c.NotBefore.IsZero() {
		out.add("certificate", "valid from %s to %s", timeText(c.NotBefore), timeText(c.NotAfter))
	}
	for _, e := range c.LogEntries {
		out.add("log entry", "%s", logEntryText(e))
	}
	if c.Timestamps > 0 {
		out.add("timestamps", "%d", c.Timestamps)
	}
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
		PredicateType: c.PredicateType, Problem: c.Problem, OtherIdentities: c.OtherNames, Timestamps: c.Timestamps,
	}
	if !c.NotBefore.IsZero() {
		result.Certificate = &certificateJSON{timeText(c.NotBefore), timeText(c.NotAfter), c.Names}
	}
	for _, e := range c.LogEntries {
		result.LogEntries = append(result.LogEntries, logEntryJSON{e.LogID, e.Index, timeText(e.Time)})
	}
	if json.Valid(c.Payload) {
		result.Statement = c.Payload
	}
	return answers.add(a, out, result, "")
}

func logEntryText(e bundle.LogEntry) string {
	text := fmt.Sprintf("index %d of log %s", e.Index, e.LogID)
	if e.LogID == "" {
		text = fmt.Sprintf("index %d of no log", e.Index)
	}
	if !e.Time.IsZero() {
		text += ", " + timeText(e.Time)
	}
	return text
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

	OtherIdentities []string         `json:"otherIdentities,omitempty"`
	Certificate     *certificateJSON `json:"certificate,omitempty"`
	LogEntries      []logEntryJSON   `json:"logEntries,omitempty"`
	Timestamps      int              `json:"timestamps,omitempty"`
}

type certificateJSON struct {
	NotBefore string `json:"notBefore"`
	NotAfter  string `json:"notAfter"`
	Names     int    `json:"names"`
}

type logEntryJSON struct {
	LogID string `json:"logId,omitempty"`
	Index int64  `json:"logIndex"`
	Time  string `json:"integratedTime,omitempty"`
}
