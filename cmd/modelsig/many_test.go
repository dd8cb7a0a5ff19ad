package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/modelsig/modelsig"
)

func artifacts(n int) []modelsig.Target {
	targets := make([]modelsig.Target, n)
	for i := range targets {
		targets[i] = modelsig.Target{Kind: modelsig.KindArtifact, Reference: fmt.Sprint(i)}
	}
	return targets
}

func TestAnswersComeInTheOrderOfTheTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		targets := artifacts(targetsAtOnce)
		first := make(chan struct{})
		var others sync.WaitGroup
		others.Add(len(targets) - 1)
		// The first is done when all others are.
		go func() { others.Wait(); close(first) }()
		var got []string
		for target, name := range inOrder(t.Context(), targets, func(_ context.Context, t modelsig.Target) string {
			if t.Reference == "0" {
				<-first
			} else {
				others.Done()
			}
			return t.Reference
		}) {
			if target.Reference != name {
				t.Errorf("%s is answered with %s", target.Reference, name)
			}
			got = append(got, name)
		}
		if want := []string{"0", "1", "2", "3", "4", "5"}; !slices.Equal(got, want) {
			t.Errorf("answers %q", got)
		}
	})
}

func TestTargetsAtOnceAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		targets := artifacts(5 * targetsAtOnce)
		for range 3 {
			targets = append(targets, modelsig.Target{Kind: modelsig.KindDir, Path: "x"})
		}
		var remote, local atomic.Int32
		goOn := make(chan struct{})
		go func() {
			for range targets {
				synctest.Wait() // all who may work do, and wait here
				if r, l := remote.Load(), local.Load(); r > targetsAtOnce || l > 1 {
					t.Errorf("%d artifacts and %d folders at once", r, l)
				}
				goOn <- struct{}{}
			}
		}()
		n := 0
		for range inOrder(t.Context(), targets, func(_ context.Context, t modelsig.Target) bool {
			at := &local
			if isArtifact(t) {
				at = &remote
			}
			at.Add(1)
			defer at.Add(-1)
			<-goOn
			return true
		}) {
			n++
		}
		if n != len(targets) {
			t.Errorf("%d answers for %d targets", n, len(targets))
		}
	})
}

// Whoever cannot tell the answers any more lets the others end.
func TestWhoeverStopsListeningStopsTheWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range inOrder(t.Context(), artifacts(3*targetsAtOnce), func(ctx context.Context, t modelsig.Target) bool {
			if t.Reference != "0" {
				<-ctx.Done()
			}
			return true
		}) {
			break
		}
		synctest.Wait() // the test fails where somebody is left
	})
}
