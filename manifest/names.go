package manifest

import (
	"fmt"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

const (
	// MaxName is the length of a name in bytes: Linux takes no longer path.
	MaxName = 4096

	// MaxSegment is the length in bytes of a name between two slashes: no
	// common file system takes longer ones.
	MaxSegment = 255

	// MaxSegments is how many segments a name has at most. Every one is an
	// open folder on the way to the file; real models have fewer than ten.
	MaxSegments = 256
)

// A Threat names a way in which an input is ambiguous and that a caller may
// accept by that name.
type Threat string

// The threats. A comment says what is accepted by allowing it.
const (
	DuplicateLayer   Threat = "duplicate-layer"   // one name twice, with the same digest (N02)
	CaseCollision    Threat = "case-collision"    // names that are one where letter case does not count (N10)
	UnicodeCollision Threat = "unicode-collision" // names that are one after Unicode normalization (N11)
	WindowsName      Threat = "windows-name"      // names that Windows cannot have; never accepted on Windows (N12)
	UnnamedLayer     Threat = "unnamed-layer"     // a layer that has no name (N17)
	GitFiles         Threat = "git-files"         // files that a check of the folder would leave out (N20b)
	TitledConfig     Threat = "titled-config"     // a config that consumers write as a file (N22)
	ForeignURLs      Threat = "foreign-urls"      // layers that may be elsewhere (M05)
	TarAsFile        Threat = "tar-as-file"       // a raw file that consumers may unpack (rule 28)
	LFSPointer       Threat = "lfs-pointer"       // a Git LFS pointer in a file's place
	PartialFile      Threat = "partial-file"      // an unfinished download
	ParentReference  Threat = "parent-reference"  // a part that lives in another artifact (M17)
)

// Threats returns every threat that can be allowed by name, sorted.
func Threats() []Threat {
	return []Threat{
		CaseCollision, DuplicateLayer, ForeignURLs, GitFiles, LFSPointer, ParentReference,
		PartialFile, TarAsFile, TitledConfig, UnicodeCollision, UnnamedLayer, WindowsName,
	}
}

// Allow is the set of threats that a caller accepts. nil accepts none.
type Allow []Threat

// Has reports whether t is accepted.
func (a Allow) Has(t Threat) bool { return slices.Contains(a, t) }

// A ThreatError says that an input is refused for what it is.
type ThreatError struct {
	// Code is stable and machine-readable, like "name-parent" or the
	// threat's own name.
	Code string

	// Threat is what a caller would have to allow; "" when nothing helps.
	Threat Threat

	// Name is the offending name as it came: foreign text.
	Name string

	// Reason is a clause about the name, with foreign text quoted.
	Reason string
}

// Error returns the quoted name and the reason.
func (e *ThreatError) Error() string { return quote(e.Name) + ": " + e.Reason }

// Codes of names that nobody can allow. Those that can be allowed have the
// code of their threat.
const (
	codeEmpty         = "name-empty"          // N08
	codeDot           = "name-dot"            // N08
	codeTrailingSlash = "name-trailing-slash" // N08
	codeNotUTF8       = "name-not-utf8"       // N09
	codeControl       = "name-control"        // N07
	codeInvisible     = "name-invisible"      // N07, a warning
	codeAbsolute      = "name-absolute"       // N05
	codeBackslash     = "name-backslash"      // N06
	codeParent        = "name-parent"         // N04
	codeUnclean       = "name-unclean"        // N03
	codeTooLong       = "name-too-long"       // N19
	codeDuplicate     = "duplicate-name"      // N01
	codeFileAndFolder = "file-and-folder"     // N13
	codeGitAttributes = "git-attributes"      // N20, a warning
)

// maxQuoted is how many bytes of foreign text an error quotes (rule 26).
const maxQuoted = 256

// quote quotes foreign text for an error, cut to a readable length.
func quote(s string) string {
	return strconv.Quote(cut(s))
}

func cut(s string) string {
	if len(s) > maxQuoted {
		return s[:maxQuoted] + "…"
	}
	return s
}

// CheckName applies the rules that hold for every name of a file, always and
// on every operating system: a name is relative, clean, in UTF-8, separated by
// "/", without control characters, and not longer than [MaxName] bytes,
// [MaxSegment] a segment, [MaxSegments] segments (threats N03 to N09, N19;
// OMS §6.1.2). The error is a [*ThreatError].
func CheckName(name string) error {
	refuse := func(code, format string, args ...any) error {
		return &ThreatError{Code: code, Name: name, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case name == "":
		return refuse(codeEmpty, "name is empty")
	case len(name) > MaxName:
		return refuse(codeTooLong, "name has %d bytes, more than %d", len(name), MaxName)
	case !utf8.ValidString(name):
		return refuse(codeNotUTF8, "name is not valid UTF-8 (OMS §6.1.2)")
	case strings.ContainsFunc(name, unicode.IsControl):
		return refuse(codeControl, "name has a control character")
	case name[0] == '/' || name[0] == '\\' || isDrive(name):
		return refuse(codeAbsolute, "name is an absolute path (OMS §6.1.2)")
	case strings.Contains(name, `\`):
		return refuse(codeBackslash, "name has a backslash, which separates folders on Windows")
	case name == ".":
		return refuse(codeDot, `name is "."`)
	}
	segments := 0
	for segment := range strings.SplitSeq(name, "/") {
		segments++
		switch {
		case segment == "..":
			return refuse(codeParent, `path has a ".." segment (OMS §6.1.2)`)
		case len(segment) > MaxSegment:
			return refuse(codeTooLong, "path segment has %d bytes, more than %d", len(segment), MaxSegment)
		}
	}
	switch {
	case segments > MaxSegments:
		return refuse(codeTooLong, "path has %d segments, more than %d", segments, MaxSegments)
	case name[len(name)-1] == '/':
		return refuse(codeTrailingSlash, "path ends in a slash")
	case path.Clean(name) != name:
		return refuse(codeUnclean, "path is not clean (OMS §6.1.2)")
	}
	return nil
}

// isDrive reports whether name begins as a path on a Windows drive: C:\x is
// absolute, and C:x is relative to a folder that only Windows knows.
func isDrive(name string) bool {
	return len(name) >= 2 && name[1] == ':' &&
		('a' <= name[0] && name[0] <= 'z' || 'A' <= name[0] && name[0] <= 'Z')
}

// CheckNames applies [CheckName] to each name, then the rules between the
// names of one model: none is there twice (N01), none is another's folder
// (N13), and, unless allowed, none collides with another where letter case
// (N10) or Unicode normalization (N11) does not count, none is impossible on
// Windows (N12), and none hides from a later check of the folder: .git and
// .github with all below them, and model.sig, at the top (N20b). On Windows,
// N12 cannot be allowed.
//
// What is allowed comes back as warnings, and so do names with invisible or
// direction-changing characters (N07), and the top-level .gitattributes and
// .gitignore, which folder checks leave out too (N20). Warnings are in the
// order of names for rules about one name, collisions after them. The error is
// a [*ThreatError]. Time is O(n log n).
func CheckNames(names []string, allow Allow) (warnings []*ThreatError, err error) {
	if err := checkHard(names); err != nil {
		return nil, err
	}
	judge := func(t *ThreatError) error {
		if t.Code != codeInvisible && t.Code != codeGitAttributes &&
			(t.Threat == "" || !allow.Has(t.Threat)) {
			return t
		}
		warnings = append(warnings, t)
		return nil
	}
	for _, name := range names {
		for _, t := range [...]*ThreatError{invisible(name), windowsName(name), gitFile(name)} {
			if t == nil {
				continue
			}
			if err := judge(t); err != nil {
				return nil, err
			}
		}
	}
	for _, t := range collisions(names) {
		if err := judge(t); err != nil {
			return nil, err
		}
	}
	return warnings, nil
}

// checkHard applies what nobody can allow.
func checkHard(names []string) error {
	for _, name := range names {
		if err := CheckName(name); err != nil {
			return err
		}
	}
	sorted := names
	if !slices.IsSortedFunc(names, comparePaths) {
		sorted = slices.Clone(names)
		slices.SortFunc(sorted, comparePaths)
	}
	for i := 1; i < len(sorted); i++ {
		switch a, b := sorted[i-1], sorted[i]; {
		case a == b:
			return &ThreatError{Code: codeDuplicate, Name: a, Reason: "two files have this name (OMS §5.2.1)"}
		case isBelow(b, a):
			return &ThreatError{Code: codeFileAndFolder, Name: a, Reason: "a file has this name, and a folder, which has " + quote(b)}
		}
	}
	return nil
}

// comparePaths orders by segments: what lies below a folder comes directly
// after its name. In byte order "a.b" would stand between "a" and "a/b".
func comparePaths(a, b string) int {
	n := min(len(a), len(b))
	i := 0
	// Names in deep folders have long beginnings in common, and comparing
	// strings is much faster than comparing bytes.
	const chunk = 64
	for i+chunk <= n && a[i:i+chunk] == b[i:i+chunk] {
		i += chunk
	}
	for ; i < n; i++ {
		if a[i] != b[i] {
			switch {
			case a[i] == '/':
				return -1
			case b[i] == '/':
				return +1
			case a[i] < b[i]:
				return -1
			}
			return +1
		}
	}
	return len(a) - len(b)
}

func isBelow(name, folder string) bool {
	return len(name) > len(folder) && name[len(folder)] == '/' && name[:len(folder)] == folder
}

// collisions finds names that are different as bytes and one name on some file
// systems (N10, N11): two files, or a file and a folder. Folders whose names
// differ only so are one folder there, which overwrites nothing.
func collisions(names []string) []*ThreatError {
	type entry struct{ key, name string }
	entries := make([]entry, len(names))
	for i, name := range names {
		entries[i] = entry{collisionKey(name), name}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		if c := comparePaths(a.key, b.key); c != 0 {
			return c
		}
		return strings.Compare(a.name, b.name)
	})
	var found []*ThreatError
	for i := 0; i < len(entries); {
		end := i + 1
		for end < len(entries) && entries[end].key == entries[i].key {
			end++
		}
		// entries[i:end] are one name where neither letter case nor
		// normalization counts.
		normal := map[string]string{} // normalized → a name that has that form
		for _, e := range entries[i:end] {
			if end-i == 1 {
				break // by far the most: nothing to normalize
			}
			form := norm.NFC.String(e.name)
			if other, ok := normal[form]; ok {
				found = append(found, collision(UnicodeCollision, e.name, other))
			} else {
				normal[form] = e.name
			}
		}
		if len(normal) > 1 {
			found = append(found, collision(CaseCollision, entries[i].name, entries[end-1].name))
		}
		// Files below a folder of that name come next.
		if end < len(entries) && isBelow(entries[end].key, entries[i].key) {
			file, below := entries[i].name, entries[end].name
			threat := CaseCollision
			if isBelow(norm.NFC.String(below), norm.NFC.String(file)) {
				threat = UnicodeCollision
			}
			found = append(found, collision(threat, file, below))
		}
		i = end
	}
	return found
}

func collision(t Threat, name, other string) *ThreatError {
	reason := "collides with " + quote(other) + " where letter case does not count"
	if t == UnicodeCollision {
		// Both look the same unless the code points are spelled out.
		reason = fmt.Sprintf("collides with %+q where Unicode normalization does not count", cut(other))
	}
	return &ThreatError{Code: string(t), Threat: t, Name: name, Reason: reason}
}

// collisionKey is equal for names that some file system takes for one:
// Unicode's canonical caseless match. Full case folding, because the file
// systems of macOS and Linux take "ß" for "ss" when they fold.
func collisionKey(name string) string {
	if isASCII(name) {
		return strings.ToLower(name)
	}
	return norm.NFC.String(foldCase(norm.NFD.String(name)))
}

// foldCase is Unicode full case folding, and simple folding on top: of some
// letters (Cherokee) the one alone keeps two cases apart.
func foldCase(s string) string {
	if isASCII(s) {
		return strings.ToLower(s)
	}
	return strings.Map(foldRune, cases.Fold().String(s))
}

// foldRune returns one rune for all that are one but for letter case: the
// smallest, in lower case if it is ASCII.
func foldRune(r rune) rune {
	smallest := r
	for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
		smallest = min(smallest, other)
	}
	if 'A' <= smallest && smallest <= 'Z' {
		return smallest + 'a' - 'A'
	}
	return smallest
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// invisible warns of characters that are not seen, or change the order in
// which others are shown (N07).
func invisible(name string) *ThreatError {
	if isASCII(name) || !strings.ContainsFunc(name, isInvisible) {
		return nil
	}
	return &ThreatError{Code: codeInvisible, Name: name, Reason: "name has characters that are invisible or change the direction of text"}
}

func isInvisible(r rune) bool {
	return unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}

// windowsName reports what Windows cannot have as a name (N12).
func windowsName(name string) *ThreatError {
	for segment := range strings.SplitSeq(name, "/") {
		why := ""
		switch last := segment[len(segment)-1]; {
		case last == '.' || last == ' ':
			why = "ends in a dot or space, which Windows drops"
		case strings.ContainsAny(segment, `<>:"|?*`):
			why = "has a character that Windows does not allow"
		case isReserved(segment):
			why = "is a device on Windows"
		default:
			continue
		}
		t := &ThreatError{Code: string(WindowsName), Threat: WindowsName, Name: name, Reason: "path segment " + quote(segment) + " " + why}
		if runtime.GOOS == "windows" {
			t.Threat = "" // it could only be written as something else
		}
		return t
	}
	return nil
}

// isReserved reports whether Windows takes a path segment for a device: a
// reserved word, alone or before the first dot.
func isReserved(segment string) bool {
	base, _, _ := strings.Cut(segment, ".")
	base = strings.ToUpper(strings.TrimRight(base, " "))
	switch base {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return true
	}
	digit, ok := strings.CutPrefix(base, "COM")
	if !ok {
		digit, ok = strings.CutPrefix(base, "LPT")
	}
	switch digit {
	case "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "¹", "²", "³":
		return ok
	}
	return false
}

// signatureName is what a signature file is called by default (OMS §9).
const signatureName = "model.sig"

// gitFile reports names that a check of the folder leaves out (N20, N20b), or
// that Git takes for its own: letter case and invisible characters do not
// count on some file systems, and "git~1" is the short name of ".git" on NTFS.
func gitFile(name string) *ThreatError {
	top, _, inFolder := strings.Cut(name, "/")
	if (top == ".gitattributes" || top == ".gitignore") && !inFolder {
		return &ThreatError{Code: codeGitAttributes, Name: name, Reason: "checks of a folder leave this file out (OMS §6.2)"}
	}
	plain := top
	if !isASCII(top) {
		plain = strings.Map(func(r rune) rune {
			if isInvisible(r) {
				return -1
			}
			return r
		}, top)
	}
	switch folded := foldCase(plain); {
	case slices.Contains(GitPaths(), top), // as a folder: hidden with all below
		folded == ".git", folded == ".github", folded == "git~1", folded == signatureName:
		return &ThreatError{Code: string(GitFiles), Threat: GitFiles, Name: name, Reason: "checks of a folder leave this file out (OMS §6.2)"}
	}
	return nil
}
