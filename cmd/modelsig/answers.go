package main

import (
	"encoding/json"
	"fmt"
	"io"
)

// answers collects what a command says about its targets: text at once, JSON
// as one object at the end.
type answers[T any] struct {
	many    bool // JSON has results[], however many there are
	results []T
	worst   int   // exit code so far: 1 beats 2 beats 0
	err     error // the first that explains it
}

// add prints or keeps one answer. ref is what --format ref prints: REPO@DIGEST,
// and nothing where there is none. A no has none, so that
// `oras pull "$(modelsig verify …)"` cannot pull what was refused.
func (s *answers[T]) add(a *app, text *answer, result T, ref string) error {
	s.keep(result)
	a.bar.finish()
	switch a.Format {
	case formatText:
		if len(s.results) > 1 {
			if _, err := io.WriteString(a.stdout, "\n"); err != nil {
				return err
			}
		}
		return text.write(a.stdout)
	case formatRef:
		if ref == "" {
			return nil
		}
		_, err := fmt.Fprintln(a.stdout, ref)
		return err
	}
	return nil
}

// ref is what the only answer prints as a reference: nothing if it is no yes.
func (s *answers[T]) ref(pinned string) string {
	if s.worst != exitYes {
		return ""
	}
	return pinned
}

// keep keeps a result for JSON alone.
func (s *answers[T]) keep(result T) { s.results = append(s.results, result) }

// deny records a no, a "could not tell", or a target that has no answer.
func (s *answers[T]) deny(err error) {
	code := exitCode(err)
	if s.worst == exitYes || code == exitNo && s.worst != exitNo {
		s.worst, s.err = code, err
	}
}

// finish prints the JSON object, and returns what the process ends with.
func (s *answers[T]) finish(a *app, schema string) error {
	if a.Format == formatJSON && len(s.results) > 0 {
		object, err := envelope(schema, s.results, s.many)
		if err != nil {
			return err
		}
		if err := writeJSON(a.stdout, object); err != nil {
			return err
		}
	}
	if s.worst == exitYes {
		return nil
	}
	return &answered{s.worst, s.err}
}

// envelope is the one JSON object of an answer: the result itself with its
// schema in front, or results[] of several.
func envelope[T any](schema string, results []T, many bool) (any, error) {
	if many {
		return struct {
			Schema  string `json:"schema"`
			Results []T    `json:"results"`
		}{schema, results}, nil
	}
	members, err := json.Marshal(results[0])
	if err != nil {
		return nil, err
	}
	return json.RawMessage(fmt.Sprintf(`{"schema":%q,%s`, schema, members[1:])), nil
}

// warn prints warnings to stderr, one a line.
func (a *app) warn(warnings ...string) {
	for _, w := range warnings {
		fmt.Fprintf(a.stderr, "warning: %s\n", printable(w))
	}
}
