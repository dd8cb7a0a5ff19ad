package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/modelsig/modelsig/manifest"
)

// compareUnpacked holds local files against the files of the layers. What the
// packer's own tool adds to them may be there.
func (j *judge) compareUnpacked(ctx context.Context, mapping *Mapping) error {
	layers, err := manifest.GroupByFile(resources(mapping), 0)
	if err != nil {
		return err
	}
	return j.compareLocal(ctx, layers, manifest.Hashing{Type: manifest.SHA256}, leftOut{added: mapping.Added})
}

// kitfile is what kit writes beside the files of a ModelKit: the statement of
// one leaves it out, so that the unpacked folder verifies with every OMS tool.
const (
	layoutKitOps = "kitops"
	kitfile      = "Kitfile"
)

// leftOut is what a statement does not list and a folder may have.
type leftOut struct {
	paths manifest.Ignore // files, and all below folders
	added []string        // files that the packer's own tool writes: regular ones, and nothing below such a name
}

// leftOutBy is what a statement leaves out by its signer's wish.
func leftOutBy(m *manifest.Manifest, binding *Binding) leftOut {
	out := leftOut{paths: m.Serialization.IgnorePaths}
	if binding != nil && binding.Layout == layoutKitOps && slices.Contains(out.paths, kitfile) {
		out.paths = slices.DeleteFunc(slices.Clone(out.paths), func(p string) bool { return p == kitfile })
		out.added = []string{kitfile}
	}
	return out
}

func (l leftOut) has(f manifest.File) bool {
	return l.paths.Match(f.Name) || f.Problem == nil && slices.Contains(l.added, f.Name)
}

// compareLocal hashes the listed files that are there, in the way in which they
// are listed, and holds them against the list. What the signer left out hides
// files that are not listed, and is reported (rules 8, 29).
func (j *judge) compareLocal(ctx context.Context, listed []manifest.FileResources, hashing manifest.Hashing, recorded leftOut) error {
	local := j.subject.Local
	// Where the caller knew every sha256, digests were compared and no more.
	j.now.hashed = hashing != (manifest.Hashing{Type: manifest.SHA256}) ||
		slices.ContainsFunc(local.Files, func(f manifest.File) bool { return f.Digest == nil })
	if local.IsFile && len(listed) == 1 && listed[0].Name == "." && len(local.Files) == 1 {
		// As old writers call the one file.
		listed = []manifest.FileResources{{Name: local.Files[0].Name, Size: listed[0].Size, Resources: listed[0].Resources}}
	}
	// A model may have a million files: they are looked up in sorted lists,
	// which are there, and not in maps, which would be as large again.
	var toHash []manifest.File
	var diff manifest.Diff
	var ignored, empty []string
	var size int64
	found, count := make([]bool, len(listed)), 0
	folders := sync.OnceValue(func() map[string]bool { return foldersOf(listed) })
	for _, f := range local.Files {
		switch i, ok := findFile(listed, f.Name); {
		case ok && f.Problem != nil:
			return f.Problem
		case ok && found[i]:
			return refuse(CodeFiles, "there are two files %q: only one of them can be the signed one", f.Name)
		case ok:
			found[i] = true
			count++
			size += f.Size
			_, done := findFile(j.hashed[hashing], f.Name)
			if resized := listed[i].Size >= 0 && listed[i].Size != f.Size; !done && !resized {
				toHash = append(toHash, f)
			}
		case f.Problem != nil && folders()[f.Name]:
			return f.Problem
		case recorded.has(f) || j.ignores(f.Name):
			ignored = append(ignored, f.Name)
		case f.Problem != nil: // no file at all: no flag for files excuses it
			return f.Problem
		default:
			if hashing.ShardSize > 0 && f.Size == 0 {
				empty = append(empty, f.Name)
			}
			diff.Extra = append(diff.Extra, f.Name)
		}
	}
	slices.Sort(diff.Extra)
	slices.Sort(empty)
	slices.Sort(ignored)

	if err := j.hash(ctx, hashing, toHash); err != nil {
		return err
	}
	hashed := j.hashed[hashing]
	for i, w := range listed {
		if !found[i] {
			diff.Missing = append(diff.Missing, w.Name)
			continue
		}
		// What was not hashed has another size.
		if at, ok := findFile(hashed, w.Name); !ok || !sameContent(w.Resources, hashed[at].Resources) {
			diff.Changed = append(diff.Changed, w.Name)
		}
	}

	files := &j.now.files
	files.Count, files.Bytes, files.Ignored = count, size, ignored
	extra, missing := diff.Extra, diff.Missing
	if j.policy.IgnoreUnsignedFiles {
		// Under shards nobody can list an empty file, so that one more would
		// never be noticed: it counts, whatever the caller does not mind.
		diff.Extra = empty
	}
	if j.policy.Subset && count > 0 {
		diff.Missing = nil
	}
	files.Missing, files.Changed, files.Extra = missing, diff.Changed, diff.Extra
	if !diff.Empty() {
		return refuse(CodeFiles, "the files are not the signed ones: %s", describe(diff))
	}
	if len(extra) > 0 && j.policy.IgnoreUnsignedFiles {
		j.warn("not signed: " + quoteNames(extra))
	}
	if len(missing) > 0 {
		j.warn(fmt.Sprintf("a subset was verified, %d of %d files: missing: %s", count, len(listed), quoteNames(missing)))
	}
	return nil
}

// sameContent compares what is signed with what was hashed in the same way. The
// names of the two are the same but for ".", as old writers call the one file.
func sameContent(signed, found []manifest.Resource) bool {
	return slices.EqualFunc(signed, found, func(a, b manifest.Resource) bool {
		return a.Algorithm == b.Algorithm && len(a.Digest) > 0 && bytes.Equal(a.Digest, b.Digest)
	})
}

// findFile looks a name up in a list that is sorted by name.
func findFile(files []manifest.FileResources, name string) (int, bool) {
	return slices.BinarySearchFunc(files, name, func(f manifest.FileResources, name string) int { return strings.Compare(f.Name, name) })
}

// foldersOf are the folders that have a listed file below them.
func foldersOf(listed []manifest.FileResources) map[string]bool {
	folders := make(map[string]bool)
	for i := range listed {
		for folder := path.Dir(listed[i].Name); folder != "." && !folders[folder]; folder = path.Dir(folder) {
			folders[folder] = true
		}
	}
	return folders
}

// ignores reports whether a file that is not listed may be there.
func (j *judge) ignores(name string) bool {
	return j.policy.IgnorePaths.Match(name) || j.subject.Local.Own.Match(name) ||
		!j.policy.IncludeGitPaths && manifest.Ignore(manifest.GitPaths()).Match(name)
}

// hash reads each local file at most once a verdict and way of hashing.
func (j *judge) hash(ctx context.Context, hashing manifest.Hashing, files []manifest.File) error {
	if len(files) == 0 {
		return nil
	}
	hash := j.subject.Local.Hash
	if hash == nil {
		hash = func(ctx context.Context, h manifest.Hashing, files []manifest.File) ([]manifest.Resource, error) {
			return (&manifest.Hasher{Hashing: h}).Hash(ctx, files)
		}
	}
	resources, err := hash(ctx, hashing, files)
	if errors.Is(err, manifest.ErrChanged) {
		return refuse(CodeFiles, "%v", err)
	}
	if err != nil {
		return err
	}
	got, err := manifest.GroupByFile(resources, hashing.ShardSize)
	if err != nil {
		return err
	}
	if j.hashed == nil {
		j.hashed = map[manifest.Hashing][]manifest.FileResources{}
	}
	all := append(j.hashed[hashing], got...)
	slices.SortFunc(all, func(a, b manifest.FileResources) int { return strings.Compare(a.Name, b.Name) })
	j.hashed[hashing] = all
	return nil
}
