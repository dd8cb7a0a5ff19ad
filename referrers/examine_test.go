package referrers_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/modelsig/modelsig/referrers"
)

func examine(t *testing.T, repo *remote.Repository, subject ocispec.Descriptor) *referrers.Examination {
	t.Helper()
	x, err := referrers.Examine(t.Context(), referrers.InRepository(repo), subject)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// problems are "CODE DIGEST", sorted.
func problems(x *referrers.Examination) []string {
	var all []string
	for _, e := range x.Entries {
		for _, p := range e.Problems {
			all = append(all, p.Code+" "+string(e.Digest))
		}
	}
	slices.Sort(all)
	return all
}

func TestWhatIsAttachedAsItShouldBeIsHealthy(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			repo := serve(t, m.handler())
			subject := pushSubject(t, repo)
			if x := examine(t, repo, subject); len(x.Entries) != 0 || x.Tag.State != referrers.SourceAbsent || x.Filter != referrers.FilterUnknown {
				t.Errorf("nothing is attached: %+v", x)
			}
			if _, err := referrers.Attach(t.Context(), referrers.InRepository(repo), subject, attachments("a")...); err != nil {
				t.Fatal(err)
			}
			x := examine(t, repo, subject)
			if found := problems(x); len(found) > 0 || len(x.Entries) != 2 {
				t.Errorf("%d entries, problems %v", len(x.Entries), found)
			}
			filter := map[bool]string{true: referrers.FilterIgnored, false: referrers.FilterHonoured}[m.unfilter]
			if m.api && (x.API.State != referrers.SourceThere || x.API.Entries != 2 || x.Filter != filter || x.Tag.State != referrers.SourceAbsent) {
				t.Errorf("%+v", x)
			}
			if !m.api && (x.API.State != referrers.SourceAbsent || x.Tag.State != referrers.SourceThere || x.Tag.Entries != 2) {
				t.Errorf("%+v", x)
			}
			before := string(getTag(t, repo, subject))
			if err := x.Repair(t.Context()); err != nil {
				t.Error(err)
			}
			if after := string(getTag(t, repo, subject)); after != before {
				t.Errorf("nothing was wrong, and it wrote %s", after)
			}
		})
	}
}

func TestAFallbackIndexIsPutRightAndTheRestIsKept(t *testing.T) { // rule 33
	repo := serve(t, modes[2].handler())
	subject := pushSubject(t, repo)
	store := referrers.InRepository(repo)
	descs, err := referrers.Attach(t.Context(), store, subject, attachments("a")...)
	if err != nil {
		t.Fatal(err)
	}
	other := pushManifest(t, repo, ocispec.MediaTypeImageManifest, strings.Replace(subjectJSON, `"layers"`, `"annotations":{},"layers"`, 1), "")
	good := strings.Replace(string(mustEntry(t, store, subject, descs[0].Digest)), `{`, `{ "platform":{"os":"x"}, `, 1) // more than we would write
	wrong := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":9}`, ocispec.MediaTypeImageManifest, descs[1].Digest)
	gone := digest.FromString("gone")
	odd := `{ "no":"descriptor" }`
	pushManifest(t, repo, ocispec.MediaTypeImageIndex, indexOf(
		good, wrong, odd,
		fmt.Sprintf(`{"mediaType":"a/b","digest":%q,"size":9}`, gone),
		fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, other.MediaType, other.Digest, other.Size),
	), tagOf(subject))

	x := examine(t, repo, subject)
	want := []string{
		referrers.ProblemDangling + " " + string(gone),
		referrers.ProblemNoDescriptor + " ",
		referrers.ProblemSubject + " " + string(other.Digest),
		referrers.ProblemDescriptor + " " + string(descs[1].Digest),
	}
	slices.Sort(want)
	if got := problems(x); !slices.Equal(got, want) {
		t.Fatalf("problems %q, want %q", got, want)
	}
	if err := x.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	tag := string(getTag(t, repo, subject))
	if !strings.Contains(tag, good) || !strings.Contains(tag, odd) {
		t.Errorf("others' bytes changed: %s", tag)
	}
	if strings.Contains(tag, string(gone)) || strings.Contains(tag, string(other.Digest)) || strings.Contains(tag, `"size":9`) {
		t.Errorf("still wrong: %s", tag)
	}
	if got := problems(examine(t, repo, subject)); !slices.Equal(got, []string{referrers.ProblemNoDescriptor + " "}) {
		t.Errorf("problems %q", got)
	}
}

// mustEntry is the entry of a digest in a listing.
func mustEntry(t *testing.T, s referrers.Store, subject ocispec.Descriptor, d digest.Digest) []byte {
	t.Helper()
	for _, r := range list(t, s, subject, referrers.Limits{}).Referrers {
		if r.Descriptor.Digest == d {
			return r.Raw
		}
	}
	t.Fatalf("%s is not listed", d)
	return nil
}

func TestALostReferrerIsListedAgainByItsDigest(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			// It forgets what it was told about subjects.
			forgets := true
			tap := &tap{next: m.handler(), fault: func(w http.ResponseWriter, r *http.Request) bool {
				if m.api && forgets && kind(r) == "GET referrers" {
					answer(w, 200, ocispec.MediaTypeImageIndex, indexOf())
					return true
				}
				return false
			}}
			repo := serve(t, tap)
			subject := pushSubject(t, repo)
			body := strings.Replace(subjectJSON, `"layers"`, fmt.Sprintf(`"artifactType":"a/sbom","subject":{"mediaType":%q,"digest":%q,"size":%d},"layers"`, subject.MediaType, subject.Digest, subject.Size), 1)
			lost := pushManifest(t, repo, ocispec.MediaTypeImageManifest, body, "")
			x := examine(t, repo, subject)
			if len(x.Entries) != 0 {
				t.Fatalf("listed: %+v", x.Entries)
			}
			if err := x.Repair(t.Context(), subject.Digest); err == nil {
				t.Error("a manifest that refers to nothing was listed")
			}
			if err := x.Repair(t.Context(), digest.FromString("gone")); err == nil {
				t.Error("a manifest that is not there was listed")
			}
			if err := x.Repair(t.Context(), "sha256:no"); err == nil {
				t.Error("no digest, and it was listed")
			}
			forgets = false
			if err := x.Repair(t.Context(), lost.Digest); err != nil {
				t.Fatal(err)
			}
			x = examine(t, repo, subject)
			if len(x.Entries) != 1 || x.Entries[0].Digest != lost.Digest || len(problems(x)) > 0 {
				t.Errorf("listed: %+v", x.Entries)
			}
		})
	}
}

func TestWhatOnlyOneListHasIsFound(t *testing.T) {
	empty := true
	tap := &tap{next: modes[0].handler(), fault: func(w http.ResponseWriter, r *http.Request) bool {
		if empty && kind(r) == "GET referrers" {
			answer(w, 200, ocispec.MediaTypeImageIndex, indexOf())
			return true
		}
		return false
	}}
	repo := serve(t, tap)
	subject := pushSubject(t, repo)
	store := referrers.InRepository(repo)
	// An API that lists nothing: the tag is written as well.
	descs, err := referrers.Attach(t.Context(), store, subject, attachments("a")...)
	if err != nil {
		t.Fatal(err)
	}
	x := examine(t, repo, subject)
	if got := problems(x); len(got) != 2 || !strings.HasPrefix(got[0], referrers.ProblemOnlyTag+" ") {
		t.Errorf("problems %q", got)
	}
	empty = false
	pushManifest(t, repo, ocispec.MediaTypeImageIndex, indexOf(string(mustEntry(t, store, subject, descs[0].Digest))), tagOf(subject))
	x = examine(t, repo, subject)
	if got := problems(x); !slices.Equal(got, []string{referrers.ProblemOnlyAPI + " " + string(descs[1].Digest)}) {
		t.Errorf("problems %q", got)
	}
	if err := x.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	if x := examine(t, repo, subject); len(problems(x)) > 0 || x.Tag.Entries != 2 {
		t.Errorf("problems %q, %d entries", problems(x), x.Tag.Entries)
	}
}

func TestAListThatCannotBeReadIsBrokenAndNotWritten(t *testing.T) {
	repo := serve(t, modes[2].handler())
	subject := pushSubject(t, repo)
	if _, err := referrers.Attach(t.Context(), referrers.InRepository(repo), subject, attachments("a")...); err != nil {
		t.Fatal(err)
	}
	broken := strings.Replace(string(getTag(t, repo, subject)), `"manifests":`, `"manifests":[],"manifests":`, 1)
	pushManifest(t, repo, ocispec.MediaTypeImageIndex, broken, tagOf(subject))
	x := examine(t, repo, subject)
	if x.Tag.State != referrers.SourceBroken || x.Tag.Problem == "" {
		t.Errorf("%+v", x.Tag)
	}
	if err := x.Repair(t.Context(), digest.FromString("gone")); err == nil {
		t.Error("repaired")
	}
	if got := string(getTag(t, repo, subject)); got != broken {
		t.Errorf("index %s", got)
	}
	if _, err := referrers.Examine(t.Context(), referrers.InRepository(repo), ocispec.Descriptor{}); err == nil || errors.Is(err, referrers.ErrUnread) {
		t.Errorf("no subject: %v", err)
	}
}

// What other tools attached is theirs, in a form that we would not write: it is
// not dropped, and what they wrote besides stays where something is corrected.
func TestWhatOthersAttachedIsNotDropped(t *testing.T) { // rule 33
	repo := serve(t, modes[2].handler())
	subject := pushSubject(t, repo)
	refers := func(members string) ocispec.Descriptor {
		return pushManifest(t, repo, ocispec.MediaTypeImageManifest, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"layers":[],"subject":{"mediaType":%q,"digest":%q,"size":%d},%s}`,
			ocispec.MediaTypeImageManifest, subject.MediaType, subject.Digest, subject.Size, members), "")
	}
	long := refers(`"artifactType":"a/long","annotations":{"k":"` + strings.Repeat("x", 70<<10) + `"}`)
	scan := refers(`"artifactType":"a/scan","annotations":{"k":"v"}`)
	plain := func(d ocispec.Descriptor) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, d.MediaType, d.Digest, d.Size)
	}
	lacks := fmt.Sprintf(`{"x-foreign":[1.0],"annotations":{"mine":"<"},"mediaType":%q,"digest":%q,"size":%d}`, scan.MediaType, scan.Digest, scan.Size)
	pushManifest(t, repo, ocispec.MediaTypeImageIndex, indexOf(plain(long), lacks), tagOf(subject))
	x := examine(t, repo, subject)
	if got := problems(x); !slices.Equal(got, []string{referrers.ProblemDescriptor + " " + string(scan.Digest)}) {
		t.Errorf("problems %q", got)
	}
	if err := x.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	tag := string(getTag(t, repo, subject))
	for _, part := range []string{plain(long), `"x-foreign":[1.0]`, `"mine":"<"`, `"k":"v"`, `"artifactType":"a/scan"`} {
		if !strings.Contains(tag, part) {
			t.Errorf("%s is not in %s", part, tag)
		}
	}
	if got := problems(examine(t, repo, subject)); len(got) > 0 {
		t.Errorf("problems %q", got)
	}
}

// A layout has one list: what it names must be there and be described rightly.
func TestALayoutIsPutRight(t *testing.T) {
	l := newMemLayout()
	subject := l.put(ocispec.MediaTypeImageManifest, subjectJSON, map[string]string{ocispec.AnnotationRefName: "v1"})
	l.put(ocispec.MediaTypeImageManifest, "model that is gone", map[string]string{ocispec.AnnotationRefName: "v2"})
	store := referrers.InLayout(l)
	descs, err := referrers.Attach(t.Context(), store, subject, attachments("a")...)
	if err != nil {
		t.Fatal(err)
	}
	look := func() *referrers.Examination {
		// Who looks anew has read nothing.
		x, err := referrers.Examine(t.Context(), referrers.InLayout(l), subject)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	if x := look(); len(problems(x)) > 0 || len(x.Entries) != 2 || x.Tag.Name != "index.json" || x.Tag.State != referrers.SourceThere {
		t.Errorf("%+v, problems %q", x, problems(x))
	}
	delete(l.blobs, digest.FromString("model that is gone"))
	delete(l.blobs, descs[0].Digest)
	for i, raw := range l.entries {
		if strings.Contains(string(raw), string(descs[1].Digest)) {
			l.entries[i] = []byte(strings.Replace(string(raw), `"size":`, `"size":1`, 1))
		}
	}
	want := []string{referrers.ProblemDangling + " " + string(descs[0].Digest), referrers.ProblemDescriptor + " " + string(descs[1].Digest)}
	x := look()
	if got := problems(x); !slices.Equal(got, want) {
		t.Fatalf("problems %q, want %q", got, want)
	}
	if err := x.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	if x := look(); len(problems(x)) > 0 || len(x.Entries) != 1 {
		t.Errorf("afterwards: %+v, problems %q", x, problems(x))
	}
	if len(l.entries) != 3 {
		t.Errorf("%d entries: a model's is not ours to drop", len(l.entries))
	}
	// What nothing lists is listed again by its digest.
	if err := l.RemoveEntries(t.Context(), descs[1].Digest); err != nil {
		t.Fatal(err)
	}
	if err := look().Repair(t.Context(), descs[1].Digest); err != nil {
		t.Fatal(err)
	}
	if x := look(); len(x.Entries) != 1 || len(problems(x)) > 0 {
		t.Errorf("listed again: %+v", x)
	}
}
