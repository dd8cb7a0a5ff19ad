package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Values of --format.
const (
	formatText = "text"
	formatJSON = "json"
	formatRef  = "ref"
)

// An answer is what a command says on stdout: a first line that never changes
// its words, then key: value lines.
type answer struct {
	first string
	lines []string
}

// add adds a line; an empty value adds none.
func (a *answer) add(key, format string, args ...any) {
	value := fmt.Sprintf(format, args...)
	if value != "" {
		a.lines = append(a.lines, key+": "+value)
	}
}

func (a *answer) write(w io.Writer) error {
	var b strings.Builder
	if a.first != "" {
		b.WriteString(a.first + "\n")
	}
	for _, line := range a.lines {
		b.WriteString(printable(line) + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeJSON writes one object. Foreign text stays inside its string: control
// characters, C1, bidi and zero-width characters are escaped (rule 36).
func writeJSON(w io.Writer, v any) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	var out bytes.Buffer
	for _, r := range buf.String() {
		switch {
		case r == '\n' || strconv.IsPrint(r):
			out.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	_, err := w.Write(out.Bytes())
	return err
}

// printable escapes what a terminal would act on, as strconv.Quote does, and
// leaves the rest: library errors quote foreign text already, this is the last
// gate.
func printable(s string) string {
	clean := true
	for _, r := range s {
		if !strconv.IsPrint(r) || r == utf8.RuneError {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if strconv.IsPrint(r) && r != utf8.RuneError {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRune(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}

// bytesText is a size for people.
func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, suffix := float64(n), ""
	for _, s := range []string{"KiB", "MiB", "GiB", "TiB"} {
		value, suffix = value/unit, s
		if value < unit {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", value, suffix)
}
