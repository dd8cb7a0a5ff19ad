package manifest

import (
	"bytes"
	"slices"
	"strings"
)

// A Diff is what keeps two lists of resources apart: names, sorted.
type Diff struct {
	Missing []string // signed, not found
	Changed []string // in both, with another digest or algorithm
	Extra   []string // found, not signed
}

// Empty reports whether there is no difference.
func (d Diff) Empty() bool {
	return len(d.Missing) == 0 && len(d.Changed) == 0 && len(d.Extra) == 0
}

// Compare compares what is signed with what was found, by name, algorithm and
// digest. The order of the lists does not matter. A resource without a digest
// equals nothing, and of a name that one list has more often than the other,
// the surplus is a difference.
func Compare(signed, found []Resource) Diff {
	a, b := byName(signed), byName(found)
	var d Diff
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Name < b[0].Name:
			d.Missing = append(d.Missing, a[0].Name)
			a = a[1:]
		case len(a) == 0 || a[0].Name > b[0].Name:
			d.Extra = append(d.Extra, b[0].Name)
			b = b[1:]
		default:
			if !same(&a[0], &b[0]) {
				d.Changed = append(d.Changed, a[0].Name)
			}
			a, b = a[1:], b[1:]
		}
	}
	return d
}

// same compares algorithm, length and bytes (rule 31).
func same(a, b *Resource) bool {
	return a.Algorithm == b.Algorithm && len(a.Digest) > 0 && bytes.Equal(a.Digest, b.Digest)
}

// byName returns list sorted by name: list itself if it is already.
func byName(list []Resource) []Resource {
	less := func(a, b Resource) int { return strings.Compare(a.Name, b.Name) }
	if slices.IsSortedFunc(list, less) {
		return list
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, less)
	return list
}
