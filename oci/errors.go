package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

const (
	// maxQuoted is how much of foreign text an error repeats, escaped (rule 26).
	maxQuoted = 256
	// maxErrorBody is how much of an error answer is read. Registries send
	// about 200 bytes; this is oras-go's own limit.
	maxErrorBody = 8 << 10
)

// quote quotes foreign text in at most maxQuoted bytes, escapes included.
func quote(s string) string {
	q := strconv.Quote(s)
	for n := min(len(s), maxQuoted); len(q) > maxQuoted; n -= max(1, (len(q)-maxQuoted)/4) {
		q = strconv.Quote(s[:n] + "…")
	}
	return q
}

// A responseError is an answer that was not the one wanted.
type responseError struct {
	status int
	host   string // that answered: after redirects, not the registry's
	text   string // unescaped
	err    error  // oras-go's reading of it, for errors.As; may be nil
}

func (e *responseError) Error() string {
	s := fmt.Sprintf("%s answered %d %s", e.host, e.status, http.StatusText(e.status))
	if e.text != "" {
		s += ": " + quote(e.text)
	}
	return s
}

func (e *responseError) Unwrap() error { return e.err }

func newResponseError(resp *http.Response) error {
	e := &responseError{status: resp.StatusCode, host: resp.Request.URL.Host}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return e // the status is what counts
	}
	var parsed struct {
		Errors errcode.Errors `json:"errors"`
	}
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if json.Unmarshal(body, &parsed) == nil && len(parsed.Errors) > 0 {
		e.text = parsed.Errors.Error()
		e.err = parsed.Errors
	} else if mediaType == "text/plain" {
		e.text = strings.TrimSpace(string(body))
	}
	return e
}

// explain turns errors of oras-go and net/http into ours: foreign text cut and
// quoted, no query strings, and for 401 and 403 what was sent. a is nil for a
// Model that its user made.
func (a *authClient) explain(err error) error {
	var answered *responseError
	var oras *errcode.ErrorResponse
	var transport *url.Error
	switch {
	case errors.As(err, &answered):
	case errors.As(err, &oras):
		answered = &responseError{status: oras.StatusCode, err: oras}
		if oras.URL != nil {
			answered.host = oras.URL.Host
		}
		if len(oras.Errors) > 0 {
			answered.text = oras.Errors.Error()
		}
		err = answered
	case errors.Is(err, errdef.ErrNotFound):
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return fmt.Errorf("the registry wants a user name and a password: %s", a.describe())
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("the registry does not speak HTTPS: %w", http.ErrSchemeMismatch)
	case errors.As(err, &transport):
		// The query of a redirect to storage is a credential (rule 17).
		if u, parseErr := url.Parse(transport.URL); parseErr == nil {
			err = fmt.Errorf("%s %s: %w", transport.Op, quote(u.Host+u.Path), transport.Err)
		}
	}
	if answered != nil && (answered.status == http.StatusUnauthorized || answered.status == http.StatusForbidden) {
		return fmt.Errorf("%w (%s)", err, a.describe())
	}
	if answered != nil {
		return err
	}
	return libraryError{err}
}

// maxMessage bounds the errors of libraries, which quote headers in full.
const maxMessage = 1024

// query is what follows a path in a message: after a redirect it may hold what
// gives access.
var query = regexp.MustCompile(`\?[^"\s]*`)

// A libraryError is an error whose text is not ours.
type libraryError struct{ err error }

func (e libraryError) Error() string {
	text := query.ReplaceAllString(e.err.Error(), "?…")
	if len(text) > maxMessage {
		return text[:maxMessage] + "…"
	}
	return text
}

func (e libraryError) Unwrap() error { return e.err }

// contentType returns the media type of an answer, without parameters; "" if
// the server did not say.
func contentType(resp *http.Response) (string, error) {
	values := resp.Header.Values("Content-Type")
	switch len(values) {
	case 0:
		return "", nil
	case 1:
	default:
		return "", fmt.Errorf("%s answered with %d Content-Type headers", resp.Request.URL.Host, len(values))
	}
	mediaType, _, err := mime.ParseMediaType(values[0])
	if err != nil {
		return "", fmt.Errorf("%s answered with Content-Type %s: %w", resp.Request.URL.Host, quote(values[0]), err)
	}
	if !isManifestType(mediaType) {
		// Not a threat: a login page or a proxy's error, and nothing is known
		// about the artifact.
		return "", fmt.Errorf("%s answered with Content-Type %s, which is no manifest", resp.Request.URL.Host, quote(mediaType))
	}
	return mediaType, nil
}

// readManifestBytes reads at most MaxManifest bytes (M11).
func readManifestBytes(r io.Reader) ([]byte, error) {
	data, err := readLimited(r, MaxManifest)
	if errors.Is(err, errTooLarge) {
		return nil, refuse("manifest-too-large", "manifest", "more than %d bytes", MaxManifest)
	}
	return data, err
}

var errTooLarge = errors.New("too large")

// readLimited reads all of r, or fails with errTooLarge beyond limit bytes.
func readLimited(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
	}
	return data, nil
}
