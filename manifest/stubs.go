package manifest

import (
	"bytes"
	"path"
	"strings"
)

// CheckStubs refuses names that downloaders give to files which they have not
// finished, *.part and *.incomplete in any letter case, unless [PartialFile]
// is allowed: they come back as warnings then. The error is a [*ThreatError].
func CheckStubs(names []string, allow Allow) (warnings []*ThreatError, err error) {
	for _, name := range names {
		base := strings.ToLower(path.Base(name))
		if !strings.HasSuffix(base, ".part") && !strings.HasSuffix(base, ".incomplete") {
			continue
		}
		t := &ThreatError{Code: string(PartialFile), Threat: PartialFile, Name: name, Reason: "is called like an unfinished download"}
		if !allow.Has(PartialFile) {
			return nil, t
		}
		warnings = append(warnings, t)
	}
	return warnings, nil
}

// maxPointer is the size in bytes of the largest file that Git LFS takes for a
// pointer: its specification has "less than 1024", some readers 1024.
const maxPointer = 1024

// isPointer reports whether content is a Git LFS pointer: a version line, the
// current or the one from before LFS had its name, and lines of a key and a
// value, oid and size among them. As in Git LFS, white space around them does
// not count, nor does how lines end: Git may have changed that on the way.
func isPointer(content []byte) bool {
	if len(content) > maxPointer {
		return false
	}
	first, rest, _ := bytes.Cut(bytes.TrimSpace(content), []byte("\n"))
	switch string(bytes.TrimSuffix(first, []byte("\r"))) {
	case "version https://git-lfs.github.com/spec/v1", "version http://git-media.io/v/2", "version https://hawser.github.com/spec/v1":
	default:
		return false
	}
	required := map[string]bool{"oid": true, "size": true}
	for line := range bytes.SplitSeq(rest, []byte("\n")) {
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 {
			continue
		}
		key, value, ok := bytes.Cut(line, []byte(" "))
		if !ok || len(value) == 0 || len(key) == 0 || strings.Trim(string(key), "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" {
			return false
		}
		delete(required, string(key))
	}
	return len(required) == 0
}

func pointerThreat(name string) *ThreatError {
	return &ThreatError{Code: string(LFSPointer), Threat: LFSPointer, Name: name, Reason: "is a Git LFS pointer, not the content (git lfs pull fetches that)"}
}
