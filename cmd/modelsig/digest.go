package main

import (
	"context"
	"fmt"

	"github.com/modelsig/modelsig"
)

type digestCmd struct {
	Target string `arg:"" help:"REPO:TAG, REPO@DIGEST, oci:PATH:TAG, a folder, a file, a manifest, or -."`
	Files  bool   `help:"Print each file with its digest, as sha256sum does."`

	IgnorePaths    []string `sep:"none" placeholder:"PATH" help:"Leave out this file or folder of a local model."`
	IgnoreGitPaths bool     `negatable:"" default:"true" help:"Leave out .git, .gitignore, .gitattributes and .github at the top of a local model."`
	AllowSymlinks  bool     `help:"Follow links to regular files inside a local model."`
	Allow          []string `sep:"none" placeholder:"NAME" help:"Accept an ambiguous input: ${threats}."`
	PathAnnotation string   `enum:"title,filepath," default:"" help:"Which annotation names a layer's file where both are there and differ (title, filepath)."`

	platformFlag
	hashFlags
	registryFlags
}

func (d *digestCmd) Run(ctx context.Context, a *app) error {
	allow, err := modelFlags{Allow: d.Allow}.allowed()
	if err != nil {
		return err
	}
	target, err := modelsig.ParseTarget(d.Target)
	if err != nil {
		return err
	}
	if err := d.platformFlag.check(target); err != nil {
		return err
	}
	hashing, err := d.hashing()
	if err != nil {
		return err
	}
	client, err := a.client(d.registryFlags, []modelsig.Target{target})
	if err != nil {
		return err
	}
	client.Jobs = d.Jobs
	options := modelsig.SignOptions{
		Allow: allow, Hashing: hashing, Platform: d.Platform, PathAnnotation: d.PathAnnotation, IgnorePaths: d.IgnorePaths,
		IncludeGitPaths: !d.IgnoreGitPaths, AllowSymlinks: d.AllowSymlinks,
	}
	var contents *modelsig.Contents
	switch target.Kind {
	case modelsig.KindArtifact:
		contents, err = client.Digest(ctx, target.Reference, options)
	case modelsig.KindManifest:
		var data []byte
		if data, err = a.readManifest(target.Path); err == nil {
			contents, err = client.DigestManifest(ctx, data, target.Path, options)
		}
	default:
		contents, err = client.DigestDir(ctx, target.Path, options)
	}
	if err != nil {
		return err
	}
	result := digestJSON{Target: contents.Target, Digest: contents.Digest, Index: contents.Index, Platform: contents.Platform, Root: "sha256:" + contents.Root, Layout: contents.Layout, Files: []digestFileJSON{}}
	out := &answer{}
	if d.Files {
		for _, r := range contents.Files {
			out.lines = append(out.lines, fmt.Sprintf("%x  %s", r.Digest, r.Name))
		}
	} else {
		out.lines = append(out.lines, "sha256:"+contents.Root)
	}
	for _, r := range contents.Files {
		result.Files = append(result.Files, digestFileJSON{r.Name, r.Algorithm, fmt.Sprintf("%x", r.Digest)})
	}
	var answers answers[digestJSON]
	if err := answers.add(a, out, result, contents.Pinned); err != nil {
		return err
	}
	return answers.finish(a, "modelsig/digest/v1")
}

// digestJSON is schema modelsig/digest/v1.
type digestJSON struct {
	Target   string           `json:"target"`
	Digest   string           `json:"digest,omitempty"`
	Index    string           `json:"index,omitempty"`
	Platform string           `json:"platform,omitempty"`
	Root     string           `json:"root"`
	Layout   string           `json:"layout,omitempty"`
	Files    []digestFileJSON `json:"files"`
}

type digestFileJSON struct {
	Name      string `json:"name"`
	Algorithm string `json:"algorithm"`
	Digest    string `json:"digest"`
}
