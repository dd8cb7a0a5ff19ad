package manifest_test

import (
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/manifest"
)

func TestIgnoreMatch(t *testing.T) {
	for _, tt := range []struct {
		name  string
		entry string
		hides []string
		shows []string
	}{
		{"a file", "a.bin", []string{"a.bin"}, []string{"a", "a.bin2", "x/a.bin", "A.bin", "a.bi"}},
		{"a folder", "a", []string{"a", "a/b", "a/b/c"}, []string{"ab", "a.b", "b/a", "b/a/c"}},
		{"a folder in a folder", "a/b", []string{"a/b", "a/b/c"}, []string{"a", "a/c", "a/bc"}},
		{"bytes, not letters", "caf\u00e9", []string{"caf\u00e9"}, []string{"cafe\u0301", "CAF\u00c9"}},
		{"no pattern", "*", []string{"*"}, []string{"a", "*a"}},
		{"no question mark", "a?", []string{"a?"}, []string{"ab"}},
		// Rule 29: these hide nothing.
		{"the root", ".", nil, []string{".", "a", "./a"}},
		{"nothing", "", nil, []string{"", "a", "/a"}},
		{"absolute", "/a", nil, []string{"/a", "a", "/a/b"}},
		{"the root of the system", "/", nil, []string{"/", "/a", "a"}},
		{"outside", "../a", nil, []string{"../a", "a"}},
		{"outside itself", "..", nil, []string{"..", "../a", "a"}},
		{"up again", "a/..", nil, []string{"a", "a/..", "b"}},
		{"not clean", "./a", nil, []string{"a", "./a"}},
		{"two slashes", "a//b", nil, []string{"a/b", "a//b"}},
		{"a trailing slash", "a/", nil, []string{"a", "a/", "a/b"}},
		{"a NUL", "a\x00", nil, []string{"a\x00", "a"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ig := manifest.Ignore{"other", tt.entry}
			for _, name := range tt.hides {
				if !ig.Match(name) {
					t.Errorf("%q does not hide %q", tt.entry, name)
				}
			}
			for _, name := range tt.shows {
				if ig.Match(name) {
					t.Errorf("%q hides %q", tt.entry, name)
				}
			}
		})
	}
	if manifest.Ignore(nil).Match("a") {
		t.Error("nil hides something")
	}
}

func TestGitPaths(t *testing.T) {
	want := []string{".git", ".gitignore", ".gitattributes", ".github"}
	got := manifest.GitPaths()
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	got[0] = "changed"
	if !slices.Equal(manifest.GitPaths(), want) {
		t.Error("callers share a list")
	}
}

func FuzzIgnore(f *testing.F) {
	for _, seed := range [][2]string{{"a", "a/b"}, {".", "a"}, {"a/", "a/b"}, {"/a", "/a"}, {"../a", "../a"}, {"a//b", "a/b"}, {"", ""}} {
		f.Add(seed[0], seed[1])
	}
	for _, entry := range manifest.GitPaths() {
		f.Add(entry, entry+"/config")
	}
	names, ignored := caseNames(f)
	for i, entry := range ignored {
		f.Add(entry, names[i%len(names)])
		f.Add(entry, entry+"/x")
	}
	f.Fuzz(func(t *testing.T, entry, name string) {
		if !(manifest.Ignore{entry}).Match(name) {
			if manifest.CheckName(entry) == nil && (name == entry || strings.HasPrefix(name, entry+"/")) {
				t.Errorf("%q does not hide %q", entry, name)
			}
			return
		}
		if name != entry && !strings.HasPrefix(name, entry+"/") {
			t.Errorf("%q hides %q", entry, name)
		}
		if path.Clean(entry) != entry || entry == "." || entry == ".." || path.IsAbs(entry) || strings.HasPrefix(entry, "../") {
			t.Errorf("%q hides something", entry)
		}
	})
}
