package manifest_test

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/modelsig/modelsig/manifest"
)

// code returns the code of a ThreatError, "" for nil.
func code(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	threat, ok := errors.AsType[*manifest.ThreatError](err)
	if !ok {
		t.Fatalf("%v is not a ThreatError", err)
	}
	if threat.Reason == "" || threat.Code == "" {
		t.Errorf("%#v", threat)
	}
	return threat.Code
}

func TestCheckName(t *testing.T) {
	for _, tt := range []struct{ name, code string }{
		{"config.json", ""},
		{"a/b/c", ""},
		{"...", ""},
		{"..a/b..", ""},
		{".hidden", ""},
		{"ä/模型.bin", ""},
		{"a b", ""},
		{"w[1]*?.bin", ""}, // only Windows minds
		{"ab:0:10", ""},
		{strings.Repeat("a", 255), ""},
		{strings.Repeat("a/", 255) + "a", ""},

		{"a/../w", "name-parent"}, // N03 and N04
		{"./w", "name-unclean"},   // N03
		{"a//b", "name-unclean"},
		{"a/./b", "name-unclean"},
		{"..", "name-parent"}, // N04
		{"../x", "name-parent"},
		{"a/..", "name-parent"},
		{"a/../../etc/passwd", "name-parent"},
		{"/x", "name-absolute"}, // N05
		{"/", "name-absolute"},
		{"//server/x", "name-absolute"},
		{`C:\x`, "name-absolute"},
		{`c:x`, "name-absolute"},
		{"Z:/x", "name-absolute"},
		{`\\server\x`, "name-absolute"},
		{`\\?\C:\x`, "name-absolute"},
		{`\x`, "name-absolute"},
		{`a\b`, "name-backslash"}, // N06
		{`..\x`, "name-backslash"},
		{"a\x00b", "name-control"}, // N07
		{"a\nb", "name-control"},
		{"a\x1b[31m", "name-control"},
		{"a\x7f", "name-control"},
		{"a\u0085", "name-control"},
		{"", "name-empty"}, // N08
		{".", "name-dot"},
		{"a/", "name-trailing-slash"},
		{"a\xff", "name-not-utf8"}, // N09
		{"\xc0\xae\xc0\xae/x", "name-not-utf8"},
		{"\xed\xa0\x80", "name-not-utf8"},
		{strings.Repeat("a", 256), "name-too-long"}, // N19
		{"a/" + strings.Repeat("ä", 128), "name-too-long"},
		{strings.Repeat("a/", 256) + "a", "name-too-long"},
		{strings.Repeat(strings.Repeat("a", 200)+"/", 20) + strings.Repeat("a", 77), "name-too-long"},
	} {
		err := manifest.CheckName(tt.name)
		if got := code(t, err); got != tt.code {
			t.Errorf("CheckName(%.40q) is %q, want %q", tt.name, got, tt.code)
		}
		if err == nil {
			continue
		}
		threat, _ := errors.AsType[*manifest.ThreatError](err)
		if threat.Name != tt.name || threat.Threat != "" {
			t.Errorf("%.40q: %+v", tt.name, threat)
		}
		if text := err.Error(); len(text) > 1200 || strings.ContainsFunc(text, unicode.IsControl) || !utf8.ValidString(text) {
			t.Errorf("%.40q: message %q", tt.name, text)
		}
	}
}

func TestCheckNames(t *testing.T) {
	const nfc, nfd = "caf\u00e9.bin", "cafe\u0301.bin"
	for _, tt := range []struct {
		name  string
		names []string
		code  string // "": accepted
		allow manifest.Threat
		soft  bool // a warning, never refused
	}{
		{name: "no names"},
		{name: "different names", names: []string{"a", "b/a", "b.a", "b-", "c/d/e", "c/d/f"}},
		{name: "a folder twice", names: []string{"a/x", "a/y"}},
		{name: "folders that differ in case overwrite nothing", names: []string{"Dir/x", "dir/y"}},
		{name: "git names below the top", names: []string{"a/.git/config", "a/model.sig"}},
		{name: "names that begin like git's", names: []string{".gitmodules", ".gitkeep", "git", "model.sig.txt", ".githubx/a"}},
		{name: "names that begin like devices", names: []string{"CONFIG", "com", "com10", "lptx", "nullable.txt", "a.con", "x¹", "auxiliary"}},
		{name: "unsorted names", names: []string{"z", "a/b", "a.b", "a-b"}},

		{name: "a bad name among good ones", names: []string{"a", "../b"}, code: "name-parent"},
		{name: "one name twice (N01)", names: []string{"b", "a", "b"}, code: "duplicate-name"},
		{name: "a file and a folder (N13)", names: []string{"a", "a/b"}, code: "file-and-folder"},
		{name: "a file and a folder, others between them in byte order (N13)", names: []string{"a", "a!", "a-", "a.b", "a/b"}, code: "file-and-folder"},
		{name: "a file and a folder, far down (N13)", names: []string{"x/a/b/c/d", "x/a/b", "x/a/a"}, code: "file-and-folder"},

		{name: "letter case (N10)", names: []string{"A.bin", "a.bin"}, code: "case-collision", allow: manifest.CaseCollision},
		{name: "letter case in a folder (N10)", names: []string{"Dir/a.bin", "dir/a.bin"}, code: "case-collision", allow: manifest.CaseCollision},
		{name: "letter case beyond ASCII (N10)", names: []string{"Ä.bin", "ä.bin"}, code: "case-collision", allow: manifest.CaseCollision},
		{name: "the Kelvin sign (N10, N11)", names: []string{"\u212a.bin", "k.bin"}, code: "case-collision", allow: manifest.CaseCollision},
		{name: "the long s (N10)", names: []string{"\u017f.bin", "s.bin"}, code: "case-collision", allow: manifest.CaseCollision},
		{name: "the final sigma (N10)", names: []string{"σ", "ς"}, code: "case-collision", allow: manifest.CaseCollision},
		{name: "the sharp s (N10)", names: []string{"straße", "STRASSE"}, code: "case-collision", allow: manifest.CaseCollision},
		{name: "a file and a folder but for case (N10, N13)", names: []string{"a", "A/b"}, code: "case-collision", allow: manifest.CaseCollision},
		{name: "normalization (N11)", names: []string{nfc, nfd}, code: "unicode-collision", allow: manifest.UnicodeCollision},
		{name: "normalization of singletons (N11)", names: []string{"\u212b", "\u00c5"}, code: "unicode-collision", allow: manifest.UnicodeCollision},
		{name: "normalization by the order of marks (N11)", names: []string{"a\u0323\u0302", "a\u0302\u0323"}, code: "unicode-collision", allow: manifest.UnicodeCollision},
		{name: "normalization, a file and a folder (N11, N13)", names: []string{nfc, nfd + "/x"}, code: "unicode-collision", allow: manifest.UnicodeCollision},
		{name: "normalization and case together (N10)", names: []string{"CAFE\u0301", "caf\u00e9"}, code: "case-collision", allow: manifest.CaseCollision},

		{name: "a device (N12)", names: []string{"a/CON"}, code: "windows-name", allow: manifest.WindowsName},
		{name: "a device with an extension (N12)", names: []string{"nul.txt"}, code: "windows-name", allow: manifest.WindowsName},
		{name: "a device with two extensions (N12)", names: []string{"Aux.tar.gz"}, code: "windows-name", allow: manifest.WindowsName},
		{name: "a device and a space (N12)", names: []string{"prn .txt"}, code: "windows-name", allow: manifest.WindowsName},
		{name: "a device with a superscript digit (N12)", names: []string{"COM¹"}, code: "windows-name", allow: manifest.WindowsName},
		{name: "a device as a folder (N12)", names: []string{"lpt3/x"}, code: "windows-name", allow: manifest.WindowsName},
		{name: "a console (N12)", names: []string{"conin$"}, code: "windows-name", allow: manifest.WindowsName},
		{name: "a dot at the end (N12)", names: []string{"a./b"}, code: "windows-name", allow: manifest.WindowsName},
		{name: "a space at the end (N12)", names: []string{"a "}, code: "windows-name", allow: manifest.WindowsName},
		{name: "three dots (N12)", names: []string{"..."}, code: "windows-name", allow: manifest.WindowsName},
		{name: "a stream (N12)", names: []string{"abc:x"}, code: "windows-name", allow: manifest.WindowsName},
		{name: "a wildcard (N12)", names: []string{"w*.bin"}, code: "windows-name", allow: manifest.WindowsName},
		{name: "a quote (N12)", names: []string{`a"b`}, code: "windows-name", allow: manifest.WindowsName},
		{name: "a pipe (N12)", names: []string{`a|b`}, code: "windows-name", allow: manifest.WindowsName},

		{name: "a git hook (N20b)", names: []string{".git/hooks/post-checkout"}, code: "git-files", allow: manifest.GitFiles},
		{name: "a git file (N20b)", names: []string{".git"}, code: "git-files", allow: manifest.GitFiles},
		{name: "a git hook where case does not count (N20b)", names: []string{".GIT/config"}, code: "git-files", allow: manifest.GitFiles},
		{name: "a git hook by its short name (N20b)", names: []string{"GIT~1/config"}, code: "git-files", allow: manifest.GitFiles},
		{name: "a git hook where joiners do not count (N20b)", names: []string{".g\u200cit/config"}, code: "git-files", allow: manifest.GitFiles},
		{name: "a workflow (N20b)", names: []string{".github/workflows/x.yml"}, code: "git-files", allow: manifest.GitFiles},
		{name: "below what is ignored (N20b)", names: []string{".gitattributes/x.py"}, code: "git-files", allow: manifest.GitFiles},
		{name: "the signature file (N20b)", names: []string{"model.sig"}, code: "git-files", allow: manifest.GitFiles},

		{name: "git attributes at the top (N20)", names: []string{".gitattributes"}, code: "git-attributes", soft: true},
		{name: "a right-to-left override (N07)", names: []string{"a\u202egpj.exe"}, code: "name-invisible", soft: true},
		{name: "a zero-width space (N07)", names: []string{"a\u200bb"}, code: "name-invisible", soft: true},
		{name: "a line separator (N07)", names: []string{"a\u2028b"}, code: "name-invisible", soft: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := slices.Clone(tt.names)
			for _, names := range [][]string{tt.names, reversed(tt.names)} {
				var others manifest.Allow
				for _, threat := range manifest.Threats() {
					if threat != tt.allow {
						others = append(others, threat)
					}
				}
				warnings, err := manifest.CheckNames(names, others)
				if tt.soft {
					if err != nil || len(warnings) == 0 || warnings[0].Code != tt.code {
						t.Errorf("warnings %v, error %v", warnings, err)
					}
					continue
				}
				if got := code(t, err); got != tt.code {
					t.Errorf("%q: code %q, want %q", names, got, tt.code)
				}
				if tt.allow == "" || runtime.GOOS == "windows" && tt.allow == manifest.WindowsName {
					continue
				}
				threat, _ := errors.AsType[*manifest.ThreatError](err)
				if threat.Threat != tt.allow || threat.Code != string(tt.allow) {
					t.Errorf("error is %+v, want threat %s", threat, tt.allow)
				}
				warnings, err = manifest.CheckNames(names, append(others, tt.allow))
				if err != nil {
					t.Errorf("allowed, but %v", err)
				}
				if !slices.ContainsFunc(warnings, func(w *manifest.ThreatError) bool { return w.Threat == tt.allow }) {
					t.Errorf("no warning for it in %v", warnings)
				}
			}
			if !slices.Equal(tt.names, before) {
				t.Error("the names were reordered")
			}
		})
	}
}

func reversed(names []string) []string {
	names = slices.Clone(names)
	slices.Reverse(names)
	return names
}

// No threat is hidden by another that is allowed.
func TestCheckNamesFindsEachOfThree(t *testing.T) {
	names := []string{"CAF\u00c9", "cafe\u0301", "caf\u00e9"}
	for _, tt := range []struct {
		allow manifest.Allow
		want  string
	}{
		{nil, "unicode-collision"},
		{manifest.Allow{manifest.CaseCollision}, "unicode-collision"},
		{manifest.Allow{manifest.UnicodeCollision}, "case-collision"},
		{manifest.Allow{manifest.UnicodeCollision, manifest.CaseCollision}, ""},
	} {
		_, err := manifest.CheckNames(names, tt.allow)
		if got := code(t, err); got != tt.want {
			t.Errorf("allowing %v: %q, want %q", tt.allow, got, tt.want)
		}
	}
}

// All letters that are one in simple folding are one here.
func TestCaseCollisionCoversSimpleFolding(t *testing.T) {
	for r := range rune(unicode.MaxRune) {
		other := unicode.SimpleFold(r)
		if other == r || !utf8.ValidRune(r) {
			continue
		}
		a, b := "x"+string(r), "x"+string(other)
		_, err := manifest.CheckNames([]string{a, b}, nil)
		if got := code(t, err); got != "case-collision" && got != "unicode-collision" {
			t.Errorf("%q and %q: %q", a, b, got)
		}
	}
}

func TestThreats(t *testing.T) {
	threats := manifest.Threats()
	if len(threats) != 12 || !slices.IsSorted(threats) {
		t.Errorf("threats are %q", threats)
	}
	var none manifest.Allow
	if none.Has(manifest.WindowsName) || !manifest.Allow(threats).Has(manifest.WindowsName) {
		t.Error("Has is wrong")
	}
	threats[0] = "changed"
	if manifest.Threats()[0] == "changed" {
		t.Error("callers share a list")
	}
}

// Many deep names that differ late: with the work of n² comparisons, or of a
// look-up for each folder of each name, this would not end (N13).
func TestCheckNamesOfDeepFolders(t *testing.T) {
	const n = 20_000
	names := make([]string, n)
	deep := strings.Repeat("A/", 200)
	for i := range names {
		names[i] = deep + fmt.Sprintf("%07d", (i*7919)%n)
	}
	if _, err := manifest.CheckNames(names, nil); err != nil {
		t.Fatal(err)
	}
	names[0] = names[n/2] + "/x"
	if _, err := manifest.CheckNames(names, nil); code(t, err) != "file-and-folder" {
		t.Errorf("a file and a folder: %v", err)
	}
}

func BenchmarkCheckNames(b *testing.B) {
	names := make([]string, 1_000_000)
	for i := range names {
		names[i] = fmt.Sprintf("data/train-%03d/Part-%07d.parquet", i%1000, i)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := manifest.CheckNames(names, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzCheckName(f *testing.F) {
	for _, name := range []string{"a", "a/b", "../a", "/a", `a\b`, "C:/a", "a//b", "./a", "a/", "", ".", "CON", ".git/x", "a\xff", "a\u202e", "é", "e\u0301"} {
		f.Add(name)
	}
	names, ignored := caseNames(f)
	for _, name := range slices.Concat(names, ignored) {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		err := manifest.CheckName(name)
		warnings, errs := manifest.CheckNames([]string{name}, manifest.Threats())
		if (err == nil) != (errs == nil) {
			t.Fatalf("%q: alone %v, in a list %v", name, err, errs)
		}
		for _, e := range append(warnings, asThreat(t, err)...) {
			if text := e.Error(); strings.ContainsFunc(text, unicode.IsControl) {
				t.Errorf("not escaped: %q", text)
			}
		}
		if err != nil {
			return
		}
		if !filepath.IsLocal(filepath.FromSlash(name)) || path.Clean(name) != name || !utf8.ValidString(name) {
			t.Errorf("accepted %q", name)
		}
		if _, err := manifest.CheckNames([]string{name, name}, manifest.Threats()); code(t, err) != "duplicate-name" {
			t.Errorf("twice %q: %v", name, err)
		}
	})
}

func asThreat(t *testing.T, err error) []*manifest.ThreatError {
	if err == nil {
		return nil
	}
	threat, ok := errors.AsType[*manifest.ThreatError](err)
	if !ok {
		t.Fatalf("%v is not a ThreatError", err)
	}
	return []*manifest.ThreatError{threat}
}
