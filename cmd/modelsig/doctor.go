package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/referrers"
)

type doctorCmd struct {
	Ref       string   `arg:"" help:"REPO:TAG, REPO@DIGEST or oci:PATH:TAG."`
	Fix       bool     `help:"Repair the fallback index: correct descriptors, drop what is gone, add what is missing. Have the API list what it does not."`
	Referrers []string `name:"referrer" sep:"none" placeholder:"DIGEST" help:"With --fix: list this referrer again, which nothing lists; may be repeated."`

	registryFlags
}

func (d *doctorCmd) Run(ctx context.Context, a *app) error {
	target, err := modelsig.ParseReference(d.Ref)
	if err != nil {
		return err
	}
	if len(d.Referrers) > 0 && !d.Fix {
		return errors.New("--referrer is for --fix")
	}
	client, err := a.client(d.registryFlags, []modelsig.Target{target})
	if err != nil {
		return err
	}
	found, err := client.Doctor(ctx, target.Reference, modelsig.DoctorOptions{Fix: d.Fix, Referrers: d.Referrers})
	if err != nil {
		return err
	}
	var answers answers[doctorJSON]
	out := &answer{first: "Nothing is wrong"}
	switch {
	case found.Unsure():
		out.first = "It could not be told whether something is wrong"
		answers.deny(fmt.Errorf("doctor %s: something could not be read", found.Reference))
	case !found.Healthy():
		out.first = fmt.Sprintf("%d problems", len(found.Findings))
		answers.deny(fmt.Errorf("doctor %s: %w: referrers are not listed as they are", found.Reference, modelsig.ErrRefused))
	}
	out.add("target", "%s", found.Reference)
	layout := found.Kind == modelsig.KindLayout
	if !layout {
		out.add("referrers API", "%s", sourceText(found.API))
	}
	if found.API.State == referrers.SourceThere {
		said := ""
		if found.FilterSaid {
			said = ", and the registry says that it applies it"
		}
		out.add("filter", "%s%s", found.Filter, said)
	}
	if layout {
		out.add(found.Tag.Name, "%s", sourceText(found.Tag))
	} else {
		out.add("fallback index", "%s", sourceText(found.Tag))
	}
	foreign := 0
	for _, e := range found.Entries {
		if !e.Bundle {
			foreign++
		}
	}
	out.add("referrers", "%d, of which %d are no bundles", len(found.Entries), foreign)
	signed := "and no artifact signature"
	if found.Cosign.Signed {
		signed = "an artifact signature among them"
	}
	if !layout {
		out.add("cosign finds", "%d bundles, %s; old tags: .sig %s, .att %s", found.Cosign.Bundles, signed, found.Cosign.Signatures, found.Cosign.Attestations)
	}
	if found.Cosign.Hidden > 0 {
		out.add("cosign misses", "%d bundles", found.Cosign.Hidden)
	}
	for _, f := range found.Before {
		out.add("was", "%s", findingText(f))
	}
	for _, f := range found.Findings {
		out.add("problem", "%s", findingText(f))
	}
	out.add("note", "%s", "what no list names cannot be shown: --fix --referrer DIGEST lists it again")
	if err := answers.add(a, out, doctorJSONOf(found), answers.ref(found.Pinned)); err != nil {
		return err
	}
	return answers.finish(a, "modelsig/doctor/v1")
}

func sourceText(s referrers.Source) string {
	switch {
	case s.State == referrers.SourceAbsent:
		return "none"
	case s.State == referrers.SourceBroken:
		return "broken: " + s.Problem
	case s.Pages > 0:
		return fmt.Sprintf("%d entries on %d pages", s.Entries, s.Pages)
	}
	return fmt.Sprintf("%d entries", s.Entries)
}

func findingText(f modelsig.Finding) string {
	if f.Digest == "" {
		return f.Code + ": " + f.Message
	}
	return f.Digest + ": " + f.Code + ": " + f.Message
}

// doctorJSON is schema modelsig/doctor/v1.
type doctorJSON struct {
	Reference string         `json:"reference"`
	Digest    string         `json:"digest"`
	Healthy   bool           `json:"healthy"`
	Complete  bool           `json:"complete"`
	API       sourceJSON     `json:"api"`
	Filter    string         `json:"filter"`
	Said      bool           `json:"filterApplied"`
	Tag       sourceJSON     `json:"fallback"`
	Referrers []examinedJSON `json:"referrers"`
	Cosign    cosignJSON     `json:"cosign"`
	Before    []problemJSON  `json:"before,omitempty"`
	Problems  []problemJSON  `json:"problems"`
}

type sourceJSON struct {
	State   string `json:"state"`
	Entries int    `json:"entries"`
	Pages   int    `json:"pages,omitempty"`
	Problem string `json:"problem,omitempty"`
}

type examinedJSON struct {
	Digest        string `json:"digest,omitempty"`
	InAPI         bool   `json:"inApi"`
	InTag         bool   `json:"inFallback"`
	Bundle        bool   `json:"bundle"`
	ArtifactType  string `json:"artifactType,omitempty"`
	PredicateType string `json:"predicateType,omitempty"`
}

type cosignJSON struct {
	Bundles      int    `json:"bundles"`
	Hidden       int    `json:"hidden"`
	Signed       bool   `json:"signed"`
	Signatures   string `json:"signatureTag"`
	Attestations string `json:"attestationTag"`
}

type problemJSON struct {
	Digest  string `json:"digest,omitempty"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

func doctorJSONOf(d *modelsig.Diagnosis) doctorJSON {
	source := func(s referrers.Source) sourceJSON { return sourceJSON{s.State, s.Entries, s.Pages, s.Problem} }
	problems := func(list []modelsig.Finding) []problemJSON {
		out := []problemJSON{}
		for _, f := range list {
			out = append(out, problemJSON{f.Digest, f.Code, f.Message})
		}
		return out
	}
	out := doctorJSON{
		Reference: d.Reference, Digest: d.Digest, Healthy: d.Healthy(), Complete: !d.Unsure(),
		API: source(d.API), Filter: d.Filter, Said: d.FilterSaid, Tag: source(d.Tag),
		Referrers: []examinedJSON{}, Before: problems(d.Before), Problems: problems(d.Findings),
		Cosign: cosignJSON{d.Cosign.Bundles, d.Cosign.Hidden, d.Cosign.Signed, d.Cosign.Signatures, d.Cosign.Attestations},
	}
	for _, e := range d.Entries {
		out.Referrers = append(out.Referrers, examinedJSON{e.Digest.String(), e.InAPI, e.InTag, e.Bundle, e.ArtifactType, e.PredicateType})
	}
	return out
}
