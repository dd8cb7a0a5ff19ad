package main

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/modelsig/modelsig"
)

// platformFlag chooses from an index.
type platformFlag struct {
	Platform string `placeholder:"OS/ARCH[/VARIANT]" help:"Take the one manifest of an image index that is for this platform." group:"Model"`
}

// check refuses the flag where there is no index to choose from.
func (f platformFlag) check(targets ...modelsig.Target) error {
	for _, t := range targets {
		if f.Platform != "" && !isArtifact(t) {
			return fmt.Errorf("--platform is for image indexes, and %s is a local model", t.Name())
		}
	}
	return nil
}

// manyFlags name more than one artifact with one word.
type manyFlags struct {
	platformFlag
	Recursive bool     `help:"Take an image index and all its manifests, each by itself." group:"Model"`
	AllTags   []string `name:"all-tags" sep:"none" placeholder:"REPO" help:"Take what each tag of a repository, or of oci:PATH, names. May be repeated." group:"Model"`
}

// many reports whether there may be several answers: then JSON has results[],
// however many there are.
func (f manyFlags) many(targets []modelsig.Target) bool {
	return f.Recursive || len(f.AllTags) > 0 || len(targets) > 1
}

// repositories are what --all-tags names. signature is a flag that names one
// signature; "": none is given.
func (f manyFlags) repositories(targets []modelsig.Target, signature string) ([]modelsig.Target, error) {
	switch {
	case f.Recursive && f.Platform != "":
		return nil, errors.New("--platform takes one manifest of an index, and --recursive all: choose")
	case signature != "" && (f.Recursive || len(f.AllTags) > 0):
		return nil, fmt.Errorf("%s is about one manifest, and --recursive and --all-tags are about several", signature)
	case f.Recursive:
		for _, t := range targets {
			if !isArtifact(t) {
				return nil, fmt.Errorf("--recursive is for image indexes, and %s is a local model", t.Name())
			}
		}
	}
	repositories := make([]modelsig.Target, len(f.AllTags))
	for i, name := range f.AllTags {
		repo, err := modelsig.ParseReference(name)
		if err != nil {
			return nil, fmt.Errorf("--all-tags: %w", err)
		}
		repositories[i] = repo
	}
	return repositories, nil
}

// tagged are the artifacts that the tags of the repositories name. What could
// not be listed whole is no answer about all.
func (a *app) tagged(ctx context.Context, client *modelsig.Client, repositories []modelsig.Target) ([]modelsig.Target, error) {
	var targets []modelsig.Target
	for _, repo := range repositories {
		tags, err := client.Tags(ctx, repo.Reference)
		if err != nil {
			return nil, fmt.Errorf("--all-tags: %w", err)
		}
		if n := len(tags.LeftOut); n > 0 {
			a.warn(fmt.Sprintf("%s: %d tags are about manifests (sha256-…) and were left out", repo.Reference, n))
		}
		for _, ref := range tags.References {
			t, err := modelsig.ParseReference(ref)
			if err != nil {
				return nil, err
			}
			targets = append(targets, t)
		}
	}
	return targets, nil
}

// targetsAtOnce is how many artifacts are signed or judged at once: that is
// waiting, mostly, and few registries slow down clients that have as many
// connections as a browser.
const targetsAtOnce = 6

// inOrder acts on every target and yields what came of each in the order of the
// targets, as soon as it and all before it are there. Artifacts are acted on
// several at once. Local models come one after another: hashing one takes all
// processors.
//
// If the caller stops, the ctx that act has ends.
func inOrder[T any](ctx context.Context, targets []modelsig.Target, act func(context.Context, modelsig.Target) T) iter.Seq2[modelsig.Target, T] {
	return func(yield func(modelsig.Target, T) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		results := make([]chan T, len(targets))
		artifacts, local := make(chan int, len(targets)), make(chan int, len(targets))
		for i, t := range targets {
			results[i] = make(chan T, 1) // nobody may be there to take it
			if isArtifact(t) {
				artifacts <- i
			} else {
				local <- i
			}
		}
		close(artifacts)
		close(local)
		work := func(queue <-chan int) {
			for i := range queue {
				results[i] <- act(ctx, targets[i])
			}
		}
		go work(local)
		for range min(targetsAtOnce, len(artifacts)) {
			go work(artifacts)
		}
		for i, t := range targets {
			if !yield(t, <-results[i]) {
				return
			}
		}
	}
}
