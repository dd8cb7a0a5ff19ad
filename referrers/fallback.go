package referrers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An entry is one entry of the index that can be told from others.
type entry struct {
	digest digest.Digest
	raw    jsontext.Value
}

// An update is one act of adding entries to the index of a fallback tag, or of
// taking one out.
type update struct {
	registry *registry
	subject  digest.Digest
	limits   Limits

	// wanted has our own entries first and then all others that were seen in
	// this act. has is its digests.
	wanted []entry
	own    int
	has    map[digest.Digest]bool

	// drops are the digests that must not be there; nil: none. dropped is the
	// entry that one had, as it was seen.
	drops   map[digest.Digest]bool
	dropped *entry
	// exact: our own entries must be there with our bytes, not only with their
	// digest.
	exact bool

	looked bool // the index was read once
	pace
}

// A sight is what the index of a fallback tag was at one time.
type sight struct {
	subject digest.Digest
	index   digest.Digest // of its bytes; "": there was none
	at      time.Time
}

// newSight is of the index just read; nil: there is none.
func newSight(subject digest.Digest, x *index) *sight {
	s := &sight{subject: subject, at: time.Now()}
	if x != nil {
		s.index = digest.FromBytes(x.data)
	}
	return s
}

// addToTag adds the entries of add to the index of the fallback tag, and
// returns once they are there to stay.
func (r *registry) addToTag(ctx context.Context, subject digest.Digest, add []referrer) error {
	entries := make([]entry, len(add))
	for i, a := range add {
		raw, err := encode(a.desc)
		if err != nil {
			return fmt.Errorf("encode entry %s: %w", a.desc.Digest, err)
		}
		entries[i] = entry{a.desc.Digest, raw}
	}
	return r.putInTag(ctx, subject, entries...)
}

// putInTag is addToTag for entries as they are.
func (r *registry) putInTag(ctx context.Context, subject digest.Digest, entries ...entry) error {
	u := r.update(subject)
	for _, e := range entries {
		u.want(e)
	}
	u.own = len(u.wanted)
	return u.run(ctx)
}

// takeFromTag takes the entry with digest d out of the index of the fallback
// tag, in one write, and returns it; nil: there was none. Who saw it may put it
// back as long as its manifest is there.
func (r *registry) takeFromTag(ctx context.Context, subject, d digest.Digest) (*entry, error) {
	u := r.update(subject)
	u.drops = map[digest.Digest]bool{d: true}
	v, err := u.look(ctx)
	if err != nil {
		return nil, fmt.Errorf("tag %s: %w", fallbackTag(subject), err)
	}
	if !v.surplus {
		return nil, nil
	}
	for failures := 1; ; failures++ {
		err := u.write(ctx)
		if err == nil {
			return u.dropped, nil
		}
		if failures == maxFailures || !mayPass(err) {
			return nil, fmt.Errorf("update tag %s: %w", fallbackTag(subject), err)
		}
		if err := sleep(ctx, backoff(failures)); err != nil {
			return nil, err
		}
	}
}

// keepFromTag wants the entry with digest d, whose manifest is gone, to be out
// of the index, and to stay so.
func (r *registry) keepFromTag(ctx context.Context, subject, d digest.Digest) error {
	u := r.update(subject)
	u.drops = map[digest.Digest]bool{d: true}
	return u.run(ctx)
}

func (r *registry) update(subject digest.Digest) *update {
	return &update{registry: r, subject: subject, limits: Limits{}.withDefaults(), has: make(map[digest.Digest]bool)}
}

func (u *update) run(ctx context.Context) error {
	if err := u.untilKept(ctx, u.write, u.right); err != nil {
		return fmt.Errorf("update tag %s: %w", fallbackTag(u.subject), err)
	}
	return nil
}

// want adds an entry to those that must be there.
func (u *update) want(e entry) {
	if !u.has[e.digest] && !u.drops[e.digest] {
		u.has[e.digest] = true
		u.wanted = append(u.wanted, e)
	}
}

// forget drops what was seen and is not ours.
func (u *update) forget() {
	u.wanted = u.wanted[:u.own]
	clear(u.has)
	for _, e := range u.wanted {
		u.has[e.digest] = true
	}
}

// unwanted reports whether an entry must not be there.
func (u *update) unwanted(r Referrer) bool {
	if r.bad != nil {
		return false // others' bytes, whatever they are
	}
	if u.drops[r.Descriptor.Digest] {
		return true
	}
	return u.exact && slices.ContainsFunc(u.wanted[:u.own], func(w entry) bool {
		return w.digest == r.Descriptor.Digest && !bytes.Equal(w.raw, r.Raw)
	})
}

// isForeign reports whether e is not ours.
func (u *update) isForeign(e entry) bool {
	return !slices.ContainsFunc(u.wanted[:u.own], func(w entry) bool { return w.digest == e.digest })
}

// A view is the index at one look.
type view struct {
	*index
	missing []entry // what it lacks: ours first
	surplus bool    // it has what must not be there
}

// right reports whether there is nothing to change.
func (v *view) right() bool { return len(v.missing) == 0 && !v.surplus }

// look reads the index. What it has is wanted from now on.
func (u *update) look(ctx context.Context) (*view, error) {
	p := &pages{source: "tag", limits: u.limits}
	x, err := u.registry.readTag(ctx, u.subject, p)
	absent := errors.Is(err, errAbsent)
	if absent {
		x = new(index)
		err = x.parse([]byte(emptyIndex))
	}
	if err != nil {
		return nil, err
	}
	v := &view{index: x}
	there := make(map[digest.Digest]bool, len(p.referrers))
	for _, r := range p.referrers {
		if u.unwanted(r) {
			v.surplus = true
		} else if r.bad == nil {
			there[r.Descriptor.Digest] = true
		}
	}
	for _, e := range u.wanted {
		if !there[e.digest] {
			v.missing = append(v.missing, e)
		}
	}
	for _, r := range p.referrers {
		switch e := (entry{r.Descriptor.Digest, jsontext.Value(r.Raw)}); {
		case r.bad != nil:
		case u.drops[e.digest]:
			u.crowded = u.crowded || u.looked // it came back
			u.dropped = &e
		default:
			// What is new since the first look was written meanwhile.
			u.crowded = u.crowded || u.looked && !u.has[e.digest]
			u.want(e)
		}
	}
	now := newSight(u.subject, x)
	if absent {
		now.index = ""
	}
	if before := u.registry.seen.Swap(now); !u.looked && before != nil && before.subject == u.subject {
		u.crowded = before.index != now.index
		u.watched = !u.crowded && now.at.Sub(before.at) >= watchFor
	}
	u.looked = true
	return v, nil
}

// maxAlive bounds how many missing entries of others are asked after. What
// lacks more was overwritten by somebody: nobody deletes so many at once.
const maxAlive = 32

// alive leaves out of missing what others deleted: their manifests are gone,
// and their entries are not for us to put back.
func (u *update) alive(ctx context.Context, missing []entry) []entry {
	if len(missing) > u.own+maxAlive {
		return missing
	}
	return slices.DeleteFunc(missing, func(e entry) bool {
		if !u.isForeign(e) {
			return false
		}
		// What cannot be found out is put back: a dangling entry is noticed, a
		// lost one is not.
		there, err := u.registry.repo.Manifests().Exists(ctx, ocispec.Descriptor{Digest: e.digest})
		if there || err != nil {
			return false
		}
		delete(u.has, e.digest)
		u.wanted = slices.DeleteFunc(u.wanted, func(w entry) bool { return w.digest == e.digest })
		return true
	})
}

// write adds to the index what it lacks and takes out what must not be there,
// in one update.
func (u *update) write(ctx context.Context) error {
	start := time.Now()
	v, err := u.look(ctx)
	if err == nil && time.Since(start) > staleAfter {
		// We, or the answer, were held up: others may have written and looked
		// twice. On a slow line the second answer is as old; it is all we get.
		start = time.Now()
		v, err = u.look(ctx)
	}
	if err != nil {
		return err
	}
	if v.missing = u.alive(ctx, v.missing); v.right() {
		return nil
	}
	raw := make([]jsontext.Value, len(v.missing))
	for i, e := range v.missing {
		raw[i] = e.raw
	}
	data := v.with(raw)
	if v.surplus {
		data = v.without(u.unwanted, raw)
	}
	if int64(len(data)) > u.limits.ListBytes || len(v.entries)+len(v.missing) > u.limits.Entries {
		return fmt.Errorf("the index would have %d entries in %d bytes, more than would be read again",
			len(v.entries)+len(v.missing), len(data))
	}
	err = foreign(u.put(ctx, data))
	if gone := u.refusedFor(ctx, err, v); len(gone) > 0 {
		unwanted := func(r Referrer) bool { return u.unwanted(r) || r.bad == nil && gone[r.Descriptor.Digest] }
		if err = foreign(u.put(ctx, v.without(unwanted, raw))); isRefused(err) {
			err = fmt.Errorf("%w: %w", errDeleting, err)
		}
	}
	u.slowest = max(u.slowest, time.Since(start))
	if err != nil && !mayPass(err) && slices.ContainsFunc(v.missing, u.isForeign) {
		// Some registries refuse an entry whose manifest is gone: what others
		// deleted is not for us to put back. The looks find ours missing.
		u.forget()
		return nil
	}
	if err != nil {
		return fmt.Errorf("write the index: %w", err)
	}
	return nil
}

// maxGone bounds how many entries are asked after when an index is refused. A
// longer one with entries that dangle is for the doctor.
const maxGone = 256

// errDeleting means that an index was refused again after what dangled had been
// left out: others delete right now.
var errDeleting = errors.New("others delete at the same time")

// isRefused reports whether a registry may have refused an index for what it
// names: they have no common status for that.
func isRefused(err error) bool {
	switch statusCode(err) {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusUnprocessableEntity, http.StatusInternalServerError:
		return true
	}
	return false
}

// refusedFor are the entries of the index for which a registry may have refused
// it: some take none that names a manifest which is not there, such as a deleter
// leaves that died, or another tool's. They are left out of this one write: who
// attaches the same again adds its entry itself.
func (u *update) refusedFor(ctx context.Context, err error, v *view) map[digest.Digest]bool {
	if !isRefused(err) {
		return nil
	}
	gone := map[digest.Digest]bool{}
	for i, raw := range v.entries {
		r := newReferrer(raw, "")
		if r.bad != nil || u.unwanted(r) || i >= maxGone {
			continue
		}
		e := entry{digest: r.Descriptor.Digest}
		if there, err := u.registry.repo.Manifests().Exists(ctx, ocispec.Descriptor{Digest: e.digest}); there || err != nil || !u.isForeign(e) {
			continue
		}
		gone[e.digest] = true
		delete(u.has, e.digest)
		u.wanted = slices.DeleteFunc(u.wanted, func(w entry) bool { return w.digest == e.digest })
	}
	return gone
}

// put writes the index. While that hangs it watches the tag: what others add
// now and would lose is known afterwards, and is put back.
func (u *update) put(ctx context.Context, data []byte) error {
	desc := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageIndex,
		Digest:    digest.FromBytes(data),
		Size:      int64(len(data)),
	}
	return u.registry.putTag(ctx, fallbackTag(u.subject), desc, data, func(ctx context.Context) {
		// What cannot be seen cannot be put back; the looks that follow
		// report what is wrong.
		_, _ = u.look(ctx)
	})
}

// right reports whether the index has everything wanted and nothing that must
// not be there.
func (u *update) right(ctx context.Context) (bool, error) {
	v, err := u.look(ctx)
	return err == nil && v.right(), err
}
