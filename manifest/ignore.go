package manifest

import (
	"path"
	"strings"
)

// GitPaths returns the four names that OMS tools leave out at the top of a
// model (OMS §6.2), in the order in which they are recorded.
func GitPaths() []string {
	return []string{".git", ".gitignore", ".gitattributes", ".github"}
}

// Ignore is a list of paths relative to the model, with "/" between segments.
// Each stands for itself and for all that lies below it (OMS §6.2.1). There
// are no patterns; bytes are compared. nil ignores nothing.
//
// The list may come from a bundle, and must not hide more than it says: an
// entry that is empty, ".", absolute, not clean, or ends in a slash, or that
// leaves the model, matches nothing (rule 29).
type Ignore []string

// Match reports whether name is, or lies below, one of the entries.
func (ig Ignore) Match(name string) bool {
	for _, entry := range ig {
		if rest, ok := strings.CutPrefix(name, entry); ok && (rest == "" || rest[0] == '/') && canonical(entry) {
			return true
		}
	}
	return false
}

// set returns the entries that can match, to be looked up where folders are
// pruned on the way down.
func (ig Ignore) set() map[string]bool {
	set := make(map[string]bool, len(ig))
	for _, entry := range ig {
		if canonical(entry) {
			set[entry] = true
		}
	}
	return set
}

// canonical reports whether an ignore entry names one path below the model.
func canonical(entry string) bool {
	return entry != "" && entry != "." && entry != ".." &&
		entry[0] != '/' && !strings.HasPrefix(entry, "../") &&
		!strings.Contains(entry, "\x00") && path.Clean(entry) == entry
}
