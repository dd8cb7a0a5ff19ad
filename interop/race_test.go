package interop

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"sync"
	"testing"
)

// Rule 39: sixteen processes with sixteen keys sign one artifact at once, on
// registries where all of them write the same fallback index, and no signature
// is lost.
func TestSixteenSignersLoseNothing(t *testing.T) {
	const signers = 16
	var keys []keyPair
	for range signers {
		keys = append(keys, newKey(t, curves[0].curve))
	}
	eachRegistry(t, "", func(t *testing.T, r registryServer) {
		for round := range *rounds {
			t.Run(fmt.Sprint("round ", round+1), func(t *testing.T) {
				repository := fmt.Sprint("acme/race-", round)
				ref, _ := push(t, r, repository, fmt.Sprint(round))
				results := make([]result, signers)
				var group sync.WaitGroup
				start := make(chan struct{})
				for i, key := range keys {
					group.Go(func() {
						<-start
						results[i] = command{args: []string{modelsig, "sign", "key", ref, "--private-key", key.private}}.try(t)
					})
				}
				close(start)
				group.Wait()
				for i, result := range results {
					if result.code != 0 {
						t.Errorf("signer %d: exit %d\n%s", i, result.code, result.stderr)
					}
				}
				if got := len(fallback(t, r, repository, ref)); got != 2*signers {
					t.Errorf("the fallback index has %d entries, want %d", got, 2*signers)
				}
				listed := run(t, 0, "list", ref, "--format", "json").stdout
				if got := digestsIn(decode[any](t, []byte(listed))); len(got) != 2*signers {
					t.Errorf("list names %d referrers, want %d:\n%s", len(got), 2*signers, listed)
				}
				if round > 0 {
					return
				}
				for _, key := range keys {
					run(t, 0, "verify", "key", ref, "--public-key", key.public)
				}
				cosignVerify(keys[signers-1], ref).want(t, 0)
			})
		}
	})
}

// digestsIn collects the referrers that an answer of list names: the distinct
// values of "digest" or "referrer" in the elements of its one list.
func digestsIn(v any) []string {
	object, _ := v.(map[string]any)
	found := map[string]bool{}
	for _, key := range []string{"referrers"} {
		items, _ := object[key].([]any)
		for _, item := range items {
			entry, _ := item.(map[string]any)
			for _, name := range []string{"digest", "referrer"} {
				if digest, ok := entry[name].(string); ok {
					found[path.Base(digest)] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}
