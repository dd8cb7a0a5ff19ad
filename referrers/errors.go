package referrers

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

const (
	// maxQuote is how much of a server's text an error quotes, escaped: enough
	// for a sentence, too little for a page.
	maxQuote = 256
	// maxErrorBody is how much of an error answer is read to find that sentence.
	maxErrorBody = 8 << 10
)

// A statusError is an answer with a status that we cannot use.
type statusError struct {
	request string // method and URL without its query
	code    int
	text    string // what the server says, escaped
	// elsewhere: a redirect led to another origin, and the answer is its.
	// What somebody else does not have, the registry may.
	elsewhere bool
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("%s: status %d %s", e.request, e.code, http.StatusText(e.code))
	if e.text != "" {
		s += ": the registry says " + e.text
	}
	return s
}

// newStatusError reads the error of resp (distribution-spec "Error Codes") and
// closes its body.
func newStatusError(req *http.Request, resp *http.Response) error {
	defer resp.Body.Close()
	e := &statusError{request: describe(resp.Request), code: resp.StatusCode, elsewhere: origin(resp.Request.URL) != origin(req.URL)}
	// What cannot be read of an error answer is not worth another error.
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	var parsed struct {
		Errors errcode.Errors `json:"errors"`
	}
	if err := unmarshal(body, &parsed); err == nil && len(parsed.Errors) > 0 {
		e.text = quote(parsed.Errors[0].Error())
	} else if len(body) > 0 {
		e.text = quote(string(body))
	}
	return e
}

// describe names a request. The query is left out: after a redirect it may
// hold what gives access.
func describe(req *http.Request) string {
	return req.Method + " " + withoutQuery(req.URL)
}

func withoutQuery(u *url.URL) string {
	clean := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	return clean.String()
}

// statusCode returns the HTTP status that err is about, or 0.
func statusCode(err error) int {
	if e, ok := errors.AsType[*statusError](err); ok {
		if e.elsewhere {
			return 0
		}
		return e.code
	}
	if e, ok := errors.AsType[*errcode.ErrorResponse](err); ok {
		return e.StatusCode
	}
	return 0
}

// A clientError is an error of the HTTP client or of oras-go, whose text may
// hold anything that a server sent.
type clientError struct {
	text string
	err  error
}

func (e *clientError) Error() string { return e.text }
func (e *clientError) Unwrap() error { return e.err }

// foreign makes an error from elsewhere safe to print.
func foreign(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*errcode.ErrorResponse](err); ok {
		s := &statusError{request: e.Method + " " + withoutQuery(e.URL), code: e.StatusCode}
		if len(e.Errors) > 0 {
			s.text = quote(e.Errors[0].Error())
		}
		return &clientError{s.Error(), err}
	}
	if errors.Is(err, auth.ErrBasicCredentialNotFound) {
		return &clientError{"the registry wants a user name and a password, and none was found", err}
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		if u, parseErr := url.Parse(e.URL); parseErr == nil {
			return &clientError{fmt.Sprintf("%s %s: %s", e.Op, withoutQuery(u), escape(e.Err.Error())), err}
		}
	}
	return &clientError{escape(query.ReplaceAllString(err.Error(), "?…")), err}
}

// query is what follows a path in a message: after a redirect it may hold what
// gives access.
var query = regexp.MustCompile(`\?[^"\s]*`)

// quote is s in double quotes, escaped as by strconv.Quote and cut to maxQuote
// bytes.
func quote(s string) string {
	return `"` + clip(s, func(r rune) string {
		q := strconv.Quote(string(r))
		return q[1 : len(q)-1]
	}) + `"`
}

// escape makes a whole message safe to print: what is not printable is escaped,
// quotes are not, and the end is cut off after maxQuote bytes.
func escape(s string) string {
	return clip(s, func(r rune) string {
		if strconv.IsPrint(r) {
			return string(r)
		}
		q := strconv.QuoteRune(r)
		return q[1 : len(q)-1]
	})
}

// clip escapes rune by rune, so that no escape is cut in two.
func clip(s string, escaped func(rune) string) string {
	const ellipsis = "…"
	var out strings.Builder
	for i, r := range s {
		q := escaped(r)
		if out.Len()+len(q) > maxQuote-len(ellipsis) && out.Len()+len(q)+len(s[i:]) > maxQuote {
			return out.String() + ellipsis
		}
		out.WriteString(q)
	}
	return out.String()
}

// readManifest reads r to its end, at most limit bytes, and checks it against
// desc's digest. desc.Size is a hint: what is shorter was cut.
func readManifest(r io.Reader, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	data, err := readAtMost(r, limit)
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes, which is the limit", ErrUnread, limit)
	}
	return data, checkContent(data, desc)
}

// readBlob reads r to its end and checks it against desc's size and digest.
func readBlob(r io.Reader, desc ocispec.Descriptor) ([]byte, error) {
	data, err := readAtMost(r, desc.Size)
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > desc.Size {
		return nil, fmt.Errorf("%w: more than its %d bytes came", ErrUnread, desc.Size)
	}
	if err := checkContent(data, desc); err != nil {
		return nil, err
	}
	if int64(len(data)) < desc.Size {
		return nil, fmt.Errorf("%w: %d bytes, not %d", ErrMalformed, len(data), desc.Size)
	}
	return data, nil
}

// readAtMost reads r to its end, or one byte more than limit: that tells long
// enough from too long.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	// What was promised is not believed before this much of it came. Growing
	// on from there would hold a large bundle three times over.
	const first = 1 << 20
	data, err := io.ReadAll(io.LimitReader(r, min(limit+1, first)))
	if err == nil && len(data) == first {
		all := bytes.NewBuffer(make([]byte, 0, limit+1+bytes.MinRead))
		all.Write(data)
		_, err = all.ReadFrom(io.LimitReader(r, limit+1-first))
		data = all.Bytes()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: after %d bytes: %w", ErrUnread, len(data), foreign(err))
	}
	return data, nil
}

func checkContent(data []byte, desc ocispec.Descriptor) error {
	got := digest.FromBytes(data)
	switch {
	case got == desc.Digest:
		return nil
	case int64(len(data)) < desc.Size:
		return fmt.Errorf("%w: ended after %d of %d bytes", ErrUnread, len(data), desc.Size)
	default:
		// These are not the bytes of the referrer: what it says is not known.
		return fmt.Errorf("%w: %d bytes came whose digest is %s", ErrUnread, len(data), got)
	}
}
