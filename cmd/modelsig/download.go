package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/modelsig/modelsig"
)

type downloadCmd struct {
	Ref          string `arg:"" help:"REPO:TAG, REPO@DIGEST or oci:PATH:TAG."`
	Output       string `short:"o" placeholder:"DIR" help:"Folder to write to. Default: this one."`
	Force        bool   `help:"Replace files that have other content."`
	MaxReferrers int    `placeholder:"N" help:"Read at most this many referrers (default 1000)."`

	registryFlags
}

func (d *downloadCmd) Run(ctx context.Context, a *app) error {
	target, err := modelsig.ParseReference(d.Ref)
	if err != nil {
		return err
	}
	if d.MaxReferrers < 0 {
		return errNegativeReferrers
	}
	client, err := a.client(d.registryFlags, []modelsig.Target{target})
	if err != nil {
		return err
	}
	client.MaxReferrers = d.MaxReferrers
	found, err := client.Download(ctx, target.Reference, modelsig.DownloadOptions{Dir: d.Output, Force: d.Force})
	if errors.Is(err, fs.ErrExist) {
		return &hinted{err, "--force replaces it"}
	}
	if err != nil {
		return err
	}
	result := downloadJSON{Reference: found.Reference, Digest: found.Digest, Complete: found.Incomplete == nil, Bundles: []downloadedJSON{}}
	out := &answer{first: fmt.Sprintf("%d bundles (not verified)", len(found.Bundles))}
	out.add("target", "%s", found.Reference)
	for _, b := range found.Bundles {
		there := ""
		if b.Unchanged {
			there = ", was there"
		}
		out.add("bundle", "%s: %s%s", b.File, referrerText(b.Attached), there)
		result.Bundles = append(result.Bundles, downloadedJSON{b.File, b.Attached.Digest, b.Kind, b.PredicateType, b.Size, b.Unchanged})
	}
	var answers answers[downloadJSON]
	if found.Incomplete != nil {
		result.Problem = found.Incomplete.Error()
		out.add("incomplete", "%v", found.Incomplete)
		answers.deny(fmt.Errorf("download from %s: there may be more: %w", found.Reference, found.Incomplete))
	}
	if err := answers.add(a, out, result, answers.ref(found.Pinned)); err != nil {
		return err
	}
	return answers.finish(a, "modelsig/download/v1")
}

// downloadJSON is schema modelsig/download/v1.
type downloadJSON struct {
	Reference string           `json:"reference"`
	Digest    string           `json:"digest"`
	Complete  bool             `json:"complete"`
	Problem   string           `json:"problem,omitempty"`
	Bundles   []downloadedJSON `json:"bundles"`
}

type downloadedJSON struct {
	File          string `json:"file"`
	Referrer      string `json:"referrer"`
	Kind          string `json:"kind"`
	PredicateType string `json:"predicateType,omitempty"`
	Size          int64  `json:"size"`
	Unchanged     bool   `json:"unchanged"`
}
