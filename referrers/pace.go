package referrers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The times of writing a tag that others write as well. The protocol is
// described in the package comment.
const (
	// maxWrites bounds how often an index is written in one act. Sixteen
	// writers at once need a handful each.
	maxWrites = 32
	// maxFailures bounds the requests in a row that fail because another
	// writer may be in the way. With the waits between them it is some seconds.
	maxFailures = 8

	// backoffUnit is the mean first wait after a lost write: a round trip. It
	// doubles up to maxBackoff.
	backoffUnit = 25 * time.Millisecond
	maxBackoff  = time.Second

	// quietSettle is the least time between the two looks where nobody else
	// was seen to write: longer than a tool takes from read to write beside the
	// registry, which is some milliseconds.
	quietSettle = 200 * time.Millisecond
	// watchedSettle is the same where the index has not changed for watchFor
	// before we wrote: who writes now is alone and has taken that long, or
	// began just now and is as fast as we are.
	watchedSettle = 60 * time.Millisecond
	watchFor      = 250 * time.Millisecond
	// crowdedSettle is the same where others write: they are in each other's
	// way, and slower than any of them alone.
	crowdedSettle = 250 * time.Millisecond
	// settleFactor makes another writer as slow as four times our own slowest
	// read and write: a registry that is far away, or has much to do, is so for
	// all.
	settleFactor = 4
	// maxSettle keeps one request that hung from costing minutes.
	maxSettle = 5 * time.Second
	// settleJitter keeps writers that started together from staying so.
	settleJitter = 10 * time.Millisecond

	// staleAfter is when what was read is read again before it is written
	// back: other writers look a second time after watchedSettle.
	staleAfter = 40 * time.Millisecond
	// watchEvery is how often the tag is read while our own write hangs: in
	// time to see what a writer who ends after watchedSettle leaves.
	watchEvery = 40 * time.Millisecond
)

// A pace is how fast one act of writing a tag may go.
type pace struct {
	slowest time.Duration // from the start of a read to the end of its write
	watched bool          // nobody wrote for a while before this act
	crowded bool          // somebody else was seen to write during this act
}

// untilKept writes until what was written is there to stay: right is a look at
// the tag, and two of them have to say so.
func (p *pace) untilKept(ctx context.Context, write func(context.Context) error, right func(context.Context) (bool, error)) error {
	failures := 0
	for n := range maxWrites {
		if n > 0 {
			if err := sleep(ctx, backoff(n)); err != nil {
				return err
			}
		}
		err := write(ctx)
		kept := false
		if err == nil {
			kept, err = p.kept(ctx, right)
		}
		switch {
		case kept:
			return nil
		case err == nil:
			failures = 0
			p.crowded = true // somebody overwrote it
		case ctx.Err() != nil || !mayPass(err):
			return err
		default:
			if failures++; failures == maxFailures {
				return err
			}
		}
	}
	return fmt.Errorf("after %d writes other writers still overwrite it", maxWrites)
}

// backoff is the random wait before the write after the nth lost one.
func backoff(n int) time.Duration {
	top := min(2*backoffUnit<<min(n-1, 10), maxBackoff)
	return rand.N(top)
}

// mayPass reports whether another writer may have been in the way of a request
// that failed with err: some registries answer 500 to who reads a tag while it
// is written. For all else the client has waited and tried as long as it makes
// sense.
func mayPass(err error) bool {
	if errors.Is(err, errDeleting) {
		return true
	}
	switch statusCode(err) {
	case http.StatusConflict, http.StatusPreconditionFailed, http.StatusInternalServerError:
		return true
	default:
		return false
	}
}

// kept reports whether two looks find what was written, with the time of a slow
// writer between them (rule 39).
func (p *pace) kept(ctx context.Context, right func(context.Context) (bool, error)) (bool, error) {
	for look := range 2 {
		if look > 0 {
			if err := sleep(ctx, p.settle()); err != nil {
				return false, err
			}
		}
		if ok, err := right(ctx); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// settle is the time between the two looks.
func (p *pace) settle() time.Duration {
	least := quietSettle
	switch {
	case p.crowded:
		least = crowdedSettle
	case p.watched:
		least = watchedSettle
	}
	return min(max(settleFactor*p.slowest, least), maxSettle) + rand.N(settleJitter)
}

// putTag writes a manifest by its tag. While that hangs it looks at the tag.
func (r *registry) putTag(ctx context.Context, tag string, desc ocispec.Descriptor, data []byte, look func(context.Context)) error {
	watch, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() {
		done <- r.repo.Manifests().PushReference(ctx, desc, bytes.NewReader(data), tag)
		stop()
	}()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			look(watch)
		}
	}
}
