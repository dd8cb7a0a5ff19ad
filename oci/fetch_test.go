package oci_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/oci"
)

// bigBlob is large enough that a connection may break in it and have brought
// something.
var bigBlob = bytes.Repeat([]byte("0123456789abcdef"), 16<<10)

// A line answers for one blob. Connection i ends after cuts[i] bytes of its
// body with err; all later ones are whole.
type line struct {
	blob     []byte
	cuts     []int
	err      error
	noRanges bool
	// edit changes an answer; nil: none is. n counts from 0.
	edit func(n int, resp *http.Response)

	ranges []string // of each request for the blob; "": all of it
}

func (l *line) RoundTrip(r *http.Request) (*http.Response, error) {
	if !strings.Contains(r.URL.Path, "/blobs/") {
		return answer(r, 200, http.Header{"Content-Type": {typeManifest}}, manifestOf(layer("a", string(l.blob)))), nil
	}
	n := len(l.ranges)
	l.ranges = append(l.ranges, r.Header.Get("Range"))
	var from int
	status, header := 200, http.Header{}
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && !l.noRanges {
		status = 206
		header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(l.blob)-1, len(l.blob)))
	}
	if l.noRanges {
		from = 0
	}
	resp := answer(r, status, header, string(l.blob[from:]))
	if n < len(l.cuts) {
		resp.Body = io.NopCloser(io.MultiReader(io.LimitReader(resp.Body, int64(l.cuts[n])), endingReader{l.err}))
	}
	if l.edit != nil {
		l.edit(n, resp)
	}
	return resp, nil
}

type endingReader struct{ err error }

func (r endingReader) Read([]byte) (int, error) { return 0, r.err }

func (l *line) desc() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: "text/plain", Digest: godigest.FromBytes(l.blob), Size: int64(len(l.blob))}
}

// open opens the model that the blob is of.
func (l *line) open(t *testing.T) *oci.Model {
	t.Helper()
	model, err := newClient(t, oci.Options{Transport: l}).Open(t.Context(), mustParse(t, "127.0.0.1:1/m:v1"))
	if err != nil {
		t.Fatal(err)
	}
	return model
}

func (l *line) fetch(t *testing.T) ([]byte, error) {
	t.Helper()
	rc, err := l.open(t).Fetch(t.Context(), l.desc())
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}

func TestABrokenConnectionIsOneMore(t *testing.T) {
	last := len(bigBlob) - 1
	var steady []int
	for range 12 {
		steady = append(steady, 20<<10)
	}
	for name, cut := range map[string]error{"reset": syscall.ECONNRESET, "an early end": io.ErrUnexpectedEOF, "an end that says nothing": io.EOF} {
		for _, test := range []struct {
			name   string
			cuts   []int
			ranges []string
		}{
			{"at byte 0", []int{0}, []string{"", ""}},
			{"at byte 1", []int{1}, []string{"", "bytes=1-"}},
			{"at half", []int{len(bigBlob) / 2}, []string{"", fmt.Sprintf("bytes=%d-", len(bigBlob)/2)}},
			{"before the last byte", []int{last}, []string{"", fmt.Sprintf("bytes=%d-", last)}},
			{"after the last byte", []int{last + 1}, []string{""}},
			{"twice, with nothing in between", []int{last, 0}, []string{"", fmt.Sprintf("bytes=%d-", last), fmt.Sprintf("bytes=%d-", last)}},
			{"again and again, each bringing something", steady, nil},
		} {
			for _, noRanges := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %s, ranges %t", name, test.name, !noRanges), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						l := &line{blob: bigBlob, cuts: test.cuts, err: cut, noRanges: noRanges}
						if noRanges { // what comes again is no progress
							l.cuts = test.cuts[:1]
						}
						got, err := l.fetch(t)
						if err != nil || !bytes.Equal(got, bigBlob) {
							t.Fatalf("%d bytes, %v", len(got), err)
						}
						if test.ranges != nil && !noRanges && !slices.Equal(l.ranges, test.ranges) {
							t.Errorf("asked for %q, want %q", l.ranges, test.ranges)
						}
					})
				})
			}
		}
	}
}

// What breaks without bringing anything is asked again only so often.
func TestConnectionsThatBringNothingComeToAnEnd(t *testing.T) {
	for name, cut := range map[string]int{"no byte": 0, "one byte": 1, "a little": 16<<10 - 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cuts := make([]int, 1000)
				for i := range cuts {
					cuts[i] = cut
				}
				l := &line{blob: bytes.Repeat([]byte("x"), 4<<20), cuts: cuts, err: syscall.ECONNRESET}
				start := time.Now()
				_, err := l.fetch(t)
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("error %v, want the last one", err)
				}
				// A little and a little are something.
				if len(l.ranges) > 10 || time.Since(start) > 10*time.Second {
					t.Errorf("%d requests in %v", len(l.ranges), time.Since(start))
				}
			})
		})
	}
}

// unread is a body that nobody may read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body of a wrong answer was read")
	return 0, io.EOF
}

func (unread) Close() error { return nil }

func TestTheRestHasToBeTheRest(t *testing.T) {
	half := len(bigBlob) / 2
	good := fmt.Sprintf("bytes %d-%d/%d", half, len(bigBlob)-1, len(bigBlob))
	header := func(value string) func(*http.Response) {
		return func(resp *http.Response) { resp.Header.Set("Content-Range", value) }
	}
	other := []struct {
		name string
		edit func(*http.Response)
	}{
		{"no Content-Range", func(resp *http.Response) { resp.Header.Del("Content-Range") }},
		{"a Content-Range from the start", header(fmt.Sprintf("bytes 0-%d/%d", len(bigBlob)-1, len(bigBlob)))},
		{"a Content-Range one byte later", header(fmt.Sprintf("bytes %d-%d/%d", half+1, len(bigBlob)-1, len(bigBlob)))},
		{"a Content-Range that ends early", header(fmt.Sprintf("bytes %d-%d/%d", half, len(bigBlob)-2, len(bigBlob)))},
		{"a Content-Range of another size", header(fmt.Sprintf("bytes %d-%d/%d", half, len(bigBlob)-1, len(bigBlob)+1))},
		{"a Content-Range of no size", header(strings.Replace(good, fmt.Sprint("/", len(bigBlob)), "/*", 1))},
		{"another unit", header(strings.Replace(good, "bytes", "octets", 1))},
		{"several ranges", func(resp *http.Response) {
			resp.Header.Del("Content-Range")
			resp.Header.Set("Content-Type", "multipart/byteranges; boundary=x")
		}},
		{"416", func(resp *http.Response) { resp.StatusCode = 416 }},
		{"206, and nothing", func(resp *http.Response) {
			resp.Header.Del("Content-Range")
			resp.ContentLength, resp.Body = 0, http.NoBody
		}},
	}
	for _, test := range other {
		// What such an answer holds is not read: all is asked for, once.
		t.Run(test.name, func(t *testing.T) {
			for _, again := range []string{"", "other bytes", "206", "404"} {
				l := &line{blob: bigBlob, cuts: []int{half}, err: syscall.ECONNRESET}
				l.edit = func(n int, resp *http.Response) {
					switch {
					case n == 1:
						resp.Body = unread{t}
						test.edit(resp)
					case n == 2 && again == "other bytes":
						resp.Body = io.NopCloser(bytes.NewReader(bytes.Repeat([]byte("x"), len(bigBlob))))
					case n == 2 && again == "206":
						resp.StatusCode = 206
						resp.Header.Set("Content-Range", good)
					case n == 2 && again == "404":
						resp.StatusCode = 404
					}
				}
				got, err := l.fetch(t)
				if want := []string{"", fmt.Sprintf("bytes=%d-", half), ""}; !slices.Equal(l.ranges, want) {
					t.Errorf("%q: asked for %q, want %q", again, l.ranges, want)
				}
				switch {
				case again == "other bytes":
					wantThreat(t, err, "digest-mismatch")
				case again != "" && err == nil:
					t.Errorf("%q: no error", again)
				case again == "" && (err != nil || !bytes.Equal(got, bigBlob)):
					t.Errorf("%d bytes, %v", len(got), err)
				}
			}
		})
		t.Run(test.name+", of kept bytes", func(t *testing.T) {
			l := &line{blob: bigBlob}
			l.edit = func(n int, resp *http.Response) {
				if n == 0 {
					resp.Body = unread{t}
					test.edit(resp)
				}
			}
			rc, err := l.open(t).FetchRest(t.Context(), l.desc(), bytes.NewReader(bigBlob[:half]))
			if err != nil {
				t.Fatal(err)
			}
			defer rc.Close()
			if got, err := io.ReadAll(rc); err != nil || !bytes.Equal(got, bigBlob[half:]) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if want := []string{fmt.Sprintf("bytes=%d-", half), ""}; !slices.Equal(l.ranges, want) {
				t.Errorf("asked for %q, want %q", l.ranges, want)
			}
		})
	}
	for _, test := range []struct {
		name string
		edit func(*http.Response)
		code string // of a threat; "": another error
	}{
		{"another length", func(resp *http.Response) { resp.ContentLength-- }, ""},
		{"404", func(resp *http.Response) { resp.StatusCode = 404 }, ""},
		{"204", func(resp *http.Response) { resp.StatusCode = 204 }, ""},
		{"other bytes", func(resp *http.Response) {
			resp.Body = io.NopCloser(bytes.NewReader(bytes.Repeat([]byte("x"), half)))
		}, "digest-mismatch"},
		{"more bytes", func(resp *http.Response) {
			resp.ContentLength = -1
			resp.Body = io.NopCloser(io.MultiReader(resp.Body, strings.NewReader("x")))
		}, "size-mismatch"},
		{"a 200 with other bytes at the start", func(resp *http.Response) {
			resp.StatusCode, resp.ContentLength = 200, int64(len(bigBlob))
			resp.Body = io.NopCloser(bytes.NewReader(append([]byte("x"), bigBlob[:len(bigBlob)-1]...)))
		}, "digest-mismatch"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := &line{blob: bigBlob, cuts: []int{half}, err: syscall.ECONNRESET}
			l.edit = func(n int, resp *http.Response) {
				if n == 1 {
					test.edit(resp)
				}
			}
			got, err := l.fetch(t)
			switch {
			case test.code != "":
				wantThreat(t, err, test.code)
			case err == nil:
				t.Error("no error")
			}
			if len(l.ranges) != 2 || len(got) > len(bigBlob) {
				t.Errorf("%d requests, %d bytes", len(l.ranges), len(got))
			}
		})
	}
	t.Run("a range that nobody asked for", func(t *testing.T) {
		l := &line{blob: bigBlob}
		l.edit = func(_ int, resp *http.Response) {
			resp.StatusCode = 206
			resp.Header.Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(bigBlob)-1, len(bigBlob)))
		}
		if _, err := l.fetch(t); err == nil {
			t.Error("no error")
		}
	})
}

func TestTheRestIsAskedForAsAnythingElse(t *testing.T) {
	half := len(bigBlob) / 2
	for _, test := range []struct {
		name string
		edit func(n int, resp *http.Response)
		ok   bool
		asks int
	}{
		{"429 with a time", func(n int, resp *http.Response) {
			if n == 1 {
				resp.StatusCode = 429
				resp.Header.Set("Retry-After", "7")
			}
		}, true, 3},
		{"429 without one", func(n int, resp *http.Response) {
			if n == 1 || n == 2 {
				resp.StatusCode = 429
			}
		}, true, 4},
		{"500, then the rest", func(n int, resp *http.Response) {
			if n == 1 {
				resp.StatusCode = 500
			}
		}, true, 3},
		{"500 for ever", func(n int, resp *http.Response) {
			if n > 0 {
				resp.StatusCode = 500
			}
		}, false, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &line{blob: bigBlob, cuts: []int{half}, err: syscall.ECONNRESET, edit: test.edit}
				got, err := l.fetch(t)
				if (err == nil) != test.ok || test.ok && !bytes.Equal(got, bigBlob) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				if len(l.ranges) != test.asks {
					t.Errorf("%d requests, want %d", len(l.ranges), test.asks)
				}
			})
		})
	}
	t.Run("with a token that has expired", func(t *testing.T) {
		l := &line{blob: bigBlob, cuts: []int{half}, err: syscall.ECONNRESET}
		tokens, valid := 0, ""
		transport := roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/token" {
				tokens++
				valid = fmt.Sprint("token", tokens)
				return answer(r, 200, http.Header{"Content-Type": {"application/json"}}, `{"token":"`+valid+`"}`), nil
			}
			if r.Header.Get("Authorization") != "Bearer "+valid {
				return answer(r, 401, http.Header{"Www-Authenticate": {`Bearer realm="http://127.0.0.1:1/token",service="x"`}}, ""), nil
			}
			if len(l.ranges) == 0 && strings.Contains(r.URL.Path, "/blobs/") {
				valid = "none" // from now on
			}
			return l.RoundTrip(r)
		})
		model, err := newClient(t, oci.Options{Transport: transport}).Open(t.Context(), mustParse(t, "127.0.0.1:1/m:v1"))
		if err != nil {
			t.Fatal(err)
		}
		rc, err := model.Fetch(t.Context(), l.desc())
		if err != nil {
			t.Fatal(err)
		}
		defer rc.Close()
		if got, err := io.ReadAll(rc); err != nil || !bytes.Equal(got, bigBlob) || tokens < 2 {
			t.Errorf("%d bytes, %v, %d tokens", len(got), err, tokens)
		}
	})
	t.Run("not after the caller has left", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := &line{blob: bigBlob, cuts: []int{half}, err: syscall.ECONNRESET}
		rc, err := l.open(t).Fetch(ctx, l.desc())
		if err != nil {
			t.Fatal(err)
		}
		defer rc.Close()
		cancel()
		if _, err := io.ReadAll(rc); err == nil || len(l.ranges) != 1 {
			t.Errorf("error %v after %d requests", err, len(l.ranges))
		}
	})
}

// A registry that is silent is not asked again, unless it brought something.
func TestSilenceIsNotBroken(t *testing.T) {
	for _, test := range []struct {
		name string
		cuts []int
		asks int
	}{
		{"from the start", []int{0, 0, 0}, 1},
		{"after half, and ever after", []int{len(bigBlob) / 2, 0, 0}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &line{blob: bigBlob}
				l.edit = func(n int, resp *http.Response) {
					if n < len(test.cuts) {
						resp.Body = &silentBody{Reader: io.LimitReader(resp.Body, int64(test.cuts[n])), ctx: resp.Request.Context()}
					}
				}
				start := time.Now()
				_, err := l.fetch(t)
				if err == nil || len(l.ranges) != test.asks || time.Since(start) > 130*time.Second {
					t.Errorf("error %v after %d requests and %v, want %d requests", err, len(l.ranges), time.Since(start), test.asks)
				}
			})
		})
	}
}

// A silentBody hangs at its end until its request is over.
type silentBody struct {
	io.Reader
	ctx context.Context
}

func (b *silentBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		<-b.ctx.Done()
		err = b.ctx.Err()
	}
	return n, err
}

func (b *silentBody) Close() error { return nil }

func TestFetchRest(t *testing.T) {
	size := len(bigBlob)
	l := &line{blob: bigBlob}
	inRegistry := l.open(t)
	dir, inLayout := newLayout(t)
	desc := l.desc()
	if err := inLayout.Layout.PushBlob(t.Context(), desc, bytes.NewReader(bigBlob)); err != nil {
		t.Fatal(err)
	}
	inArchive, err := open(t, "oci-archive:"+tarOf(t, filepath.Clean(dir), nil)+":v1")
	if err != nil {
		t.Fatal(err)
	}
	for name, model := range map[string]*oci.Model{"registry": inRegistry, "layout": inLayout, "archive": inArchive} {
		for _, test := range []struct {
			name string
			kept []byte
			code string // of a threat; "": none
			bad  bool   // an error at once
		}{
			{"nothing kept", nil, "", false},
			{"a byte kept", bigBlob[:1], "", false},
			{"half kept", bigBlob[:size/2], "", false},
			{"all but a byte kept", bigBlob[:size-1], "", false},
			{"all kept", bigBlob, "", false},
			{"other bytes kept", bytes.Repeat([]byte("x"), size/2), "digest-mismatch", false},
			{"all kept, and other bytes", bytes.Repeat([]byte("x"), size), "digest-mismatch", false},
			{"too much kept", append(bytes.Clone(bigBlob), 'x'), "", true},
		} {
			t.Run(name+": "+test.name, func(t *testing.T) {
				l.ranges = nil
				rc, err := model.FetchRest(t.Context(), desc, bytes.NewReader(test.kept))
				if test.bad {
					if err == nil {
						t.Error("no error")
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				defer rc.Close()
				rest, err := io.ReadAll(rc)
				if test.code != "" {
					wantThreat(t, err, test.code)
				} else if err != nil || !bytes.Equal(rest, bigBlob[len(test.kept):]) {
					t.Errorf("%d bytes, %v", len(rest), err)
				}
				var want []string
				switch n := len(test.kept); {
				case model != inRegistry || n == size:
				case n == 0:
					want = []string{""}
				default:
					want = []string{fmt.Sprintf("bytes=%d-", n)}
				}
				if !slices.Equal(l.ranges, want) {
					t.Errorf("asked for %q, want %q", l.ranges, want)
				}
			})
		}
	}
	if _, err := inRegistry.FetchRest(t.Context(), desc, endingReader{syscall.EIO}); !errors.Is(err, syscall.EIO) {
		t.Errorf("error %v: what was kept could not be read", err)
	}
}
