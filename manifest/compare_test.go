package manifest_test

import (
	"reflect"
	"testing"

	"github.com/modelsig/modelsig/manifest"
)

func TestCompare(t *testing.T) {
	type list = []manifest.Resource
	a, b, c := resource("a", "1"), resource("b", "2"), resource("c", "3")
	other := func(r manifest.Resource, algorithm string, digest []byte) manifest.Resource {
		r.Algorithm, r.Digest = algorithm, digest
		return r
	}
	for _, tt := range []struct {
		name          string
		signed, found list
		want          manifest.Diff
	}{
		{"nothing", nil, nil, manifest.Diff{}},
		{"the same", list{a, b}, list{a, b}, manifest.Diff{}},
		{"another order", list{b, a, c}, list{c, b, a}, manifest.Diff{}},
		{"one missing", list{a, b, c}, list{c, a}, manifest.Diff{Missing: []string{"b"}}},
		{"all missing", list{b, a}, nil, manifest.Diff{Missing: []string{"a", "b"}}},
		{"one extra", list{a}, list{b, a}, manifest.Diff{Extra: []string{"b"}}},
		{"all extra", nil, list{b, a}, manifest.Diff{Extra: []string{"a", "b"}}},
		{"one changed", list{a, b}, list{a, other(b, "sha256", a.Digest)}, manifest.Diff{Changed: []string{"b"}}},
		{"contents swapped: the root is not enough", list{a, b}, list{other(a, "sha256", b.Digest), other(b, "sha256", a.Digest)}, manifest.Diff{Changed: []string{"a", "b"}}},
		{"another algorithm (rule 31)", list{a}, list{other(a, "blake3", a.Digest)}, manifest.Diff{Changed: []string{"a"}}},
		{"a longer digest (rule 31)", list{a}, list{other(a, "sha256", append(sum("1"), 0))}, manifest.Diff{Changed: []string{"a"}}},
		{"no digests", list{other(a, "sha256", nil)}, list{other(a, "sha256", nil)}, manifest.Diff{Changed: []string{"a"}}},
		{"letter case", list{a}, list{resource("A", "1")}, manifest.Diff{Missing: []string{"a"}, Extra: []string{"A"}}},
		{"found twice, once changed", list{a}, list{a, other(a, "sha256", b.Digest)}, manifest.Diff{Extra: []string{"a"}}},
		{"signed twice", list{a, a}, list{a}, manifest.Diff{Missing: []string{"a"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := manifest.Compare(tt.signed, tt.found)
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
			if got.Empty() != reflect.DeepEqual(tt.want, manifest.Diff{}) {
				t.Errorf("Empty is %v", got.Empty())
			}
		})
	}
}
