package oci_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelsig/modelsig/oci"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(r *http.Request, status int, header http.Header, body string) *http.Response {
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{
		StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)),
		ContentLength: int64(len(body)), Request: r, ProtoMajor: 1, ProtoMinor: 1,
	}
}

func goodAnswer(r *http.Request) *http.Response {
	return answer(r, 200, http.Header{"Content-Type": {typeManifest}}, manifestOf(layer("a", "a")))
}

// Each row answers its faults, then well. Time is the bubble's.
func TestRetries(t *testing.T) {
	throttle := func(status int, retryAfter string) func(*http.Request) (*http.Response, error) {
		return func(r *http.Request) (*http.Response, error) {
			h := http.Header{}
			if retryAfter != "" {
				h.Set("Retry-After", retryAfter)
			}
			return answer(r, status, h, ""), nil
		}
	}
	fail := func(err error) func(*http.Request) (*http.Response, error) {
		return func(*http.Request) (*http.Response, error) { return nil, err }
	}
	for _, test := range []struct {
		name     string
		fault    func(*http.Request) (*http.Response, error)
		times    int
		ok       bool
		requests int // 0: as the jitter falls
		min, max time.Duration
	}{
		{"429 with seconds is waited for", throttle(429, "20"), 2, true, 3, 40 * time.Second, 41 * time.Second},
		{"503 with seconds is waited for", throttle(503, "20"), 1, true, 2, 20 * time.Second, 21 * time.Second},
		{"a wait beyond the budget is not begun", throttle(429, "61"), 1, false, 1, 0, time.Second},
		{"waits add up to the budget", throttle(429, "25"), 9, false, 3, 50 * time.Second, 51 * time.Second},
		{"Retry-After: 0 is no busy loop", throttle(429, "0"), 3, true, 4, 500 * time.Millisecond, 2 * time.Second},
		{"a Retry-After that says nothing", throttle(429, "soon"), 2, true, 3, time.Second, 5 * time.Second},
		{"429 without Retry-After", throttle(429, ""), 3, true, 4, 3 * time.Second, 10 * time.Second},
		{"429 for ever ends", throttle(429, ""), 1000, false, 0, 20 * time.Second, 60 * time.Second},
		{"a hiccup", throttle(500, ""), 2, true, 3, 100 * time.Millisecond, time.Second},
		{"502 for ever ends at once", throttle(502, ""), 1000, false, 3, 100 * time.Millisecond, time.Second},
		{"408", throttle(408, ""), 1, true, 2, 0, time.Second},
		{"a reset connection", fail(syscall.ECONNRESET), 2, true, 3, 100 * time.Millisecond, time.Second},
		{"an early end", fail(io.EOF), 1, true, 2, 0, time.Second},
		{"a refused connection is an answer", fail(syscall.ECONNREFUSED), 1, false, 1, 0, 0},
		{"an unknown host is an answer", fail(errors.New("no such host")), 1, false, 1, 0, 0},
		{"501 is an answer", throttle(501, "1"), 1, false, 1, 0, 0},
		{"403 is an answer", throttle(403, "1"), 1, false, 1, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				requests := 0
				client := newClient(t, oci.Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
					if requests++; requests <= test.times {
						return test.fault(r)
					}
					return goodAnswer(r), nil
				})})
				start := time.Now()
				_, err := client.Open(t.Context(), mustParse(t, "registry.example.com/m:v1"))
				took := time.Since(start)
				if (err == nil) != test.ok || test.requests > 0 && requests != test.requests {
					t.Errorf("%d requests, error %v", requests, err)
				}
				if took < test.min || took > test.max {
					t.Errorf("took %s, want %s to %s", took, test.min, test.max)
				}
				if errors.Is(err, oci.ErrNotFound) {
					t.Error("a throttled artifact is not found")
				}
			})
		})
	}
}

func TestRetryAfterDate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := 0
		client := newClient(t, oci.Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if requests++; requests == 1 {
				date := time.Now().Add(30 * time.Second).UTC().Format(http.TimeFormat)
				return answer(r, 429, http.Header{"Retry-After": {date}}, ""), nil
			}
			return goodAnswer(r), nil
		})})
		start := time.Now()
		if _, err := client.Open(t.Context(), mustParse(t, "registry.example.com/m:v1")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 29*time.Second || took > 31*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// A wait that was spent must not make room for one to the end of time.
func TestRetryAfterTheEndOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := 0
		client := newClient(t, oci.Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			after := "0"
			if requests++; requests > 1 {
				after = "Fri, 31 Dec 9999 23:59:59 GMT"
			}
			return answer(r, 429, http.Header{"Retry-After": {after}}, ""), nil
		})})
		start := time.Now()
		if _, err := client.Open(t.Context(), mustParse(t, "registry.example.com/m:v1")); err == nil {
			t.Error("opened")
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("took %s", took)
		}
	})
}

// Who throttled for a whole budget is not waited for again, until he answers.
func TestRetryDoesNotWaitTwiceInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		throttles := true
		client := newClient(t, oci.Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if throttles {
				return answer(r, 429, http.Header{"Retry-After": {"1"}}, ""), nil
			}
			return goodAnswer(r), nil
		})})
		open := func() (time.Duration, error) {
			start := time.Now()
			_, err := client.Open(t.Context(), mustParse(t, "registry.example.com/m:v1"))
			return time.Since(start), err
		}
		for i, want := range []time.Duration{time.Minute, 0} {
			if took, err := open(); err == nil || took > want || took < want-2*time.Second {
				t.Errorf("%d: took %s, error %v", i, took, err)
			}
		}
		throttles = false
		if _, err := open(); err != nil {
			t.Fatal(err)
		}
		throttles = true
		if took, err := open(); err == nil || took < 50*time.Second {
			t.Errorf("after an answer: took %s, error %v", took, err)
		}
	})
}

func TestRetryIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newClient(t, oci.Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			return answer(r, 429, http.Header{"Retry-After": {"50"}}, ""), nil
		})})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := client.Open(ctx, mustParse(t, "registry.example.com/m:v1"))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > time.Second {
			t.Errorf("error %v after %s", err, time.Since(start))
		}
	})
}

// A hungBody gives some bytes and then nothing until the request ends.
type hungBody struct {
	ctx  context.Context
	data io.Reader
}

func (b hungBody) Read(p []byte) (int, error) {
	if n, err := b.data.Read(p); err == nil {
		return n, nil
	}
	<-b.ctx.Done()
	return 0, b.ctx.Err()
}

func (hungBody) Close() error { return nil }

// Rule 37: a hung server is "could not tell", in bounded time.
func TestStall(t *testing.T) {
	for _, test := range []struct {
		name      string
		transport roundTripper
	}{
		{"a request that is never sent", func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}},
		{"no body", func(r *http.Request) (*http.Response, error) {
			resp := goodAnswer(r)
			resp.ContentLength = -1
			resp.Body = hungBody{r.Context(), strings.NewReader("")}
			return resp, nil
		}},
		{"half a body", func(r *http.Request) (*http.Response, error) {
			resp := goodAnswer(r)
			resp.ContentLength = -1
			resp.Body = hungBody{r.Context(), strings.NewReader(`{"schemaVersion":2,`)}
			return resp, nil
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := newClient(t, oci.Options{Transport: test.transport})
				start := time.Now()
				_, err := client.Open(t.Context(), mustParse(t, "registry.example.com/m:v1"))
				if took := time.Since(start); took != 60*time.Second {
					t.Errorf("took %s", took)
				}
				if err == nil || !strings.Contains(err.Error(), "no byte for 1m0s") {
					t.Errorf("error %v", err)
				}
			})
		})
	}
}

// Headers may take 30 s once the request is out.
func TestStallOfHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newClient(t, oci.Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			time.Sleep(10 * time.Second) // to connect
			httptrace.ContextClientTrace(r.Context()).WroteRequest(httptrace.WroteRequestInfo{})
			<-r.Context().Done()
			return nil, r.Context().Err()
		})})
		start := time.Now()
		_, err := client.Open(t.Context(), mustParse(t, "registry.example.com/m:v1"))
		if took := time.Since(start); took != 40*time.Second {
			t.Errorf("took %s", took)
		}
		if err == nil || !strings.Contains(err.Error(), "no byte for 30s") {
			t.Errorf("error %v", err)
		}
	})
}

// A slow body is not a hung one, and a slow reader is not a slow server.
func TestStallIsNotSlowness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := manifestOf(layer("a", "a")) + strings.Repeat(" ", 1<<20)
		client := newClient(t, oci.Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			resp := goodAnswer(r)
			resp.ContentLength = -1
			resp.Body = &slowReader{ctx: r.Context(), r: strings.NewReader(body), n: 64 << 10, wait: 3 * time.Second}
			return resp, nil
		})})
		start := time.Now()
		if _, err := client.Open(t.Context(), mustParse(t, "registry.example.com/m:v1")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < time.Minute {
			t.Errorf("took only %s", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		client := newClient(t, oci.Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				resp := answer(r, 200, nil, "a")
				resp.Body = endingBody{r.Context(), resp.Body}
				return resp, nil
			}
			return goodAnswer(r), nil
		})})
		model, err := client.Open(t.Context(), mustParse(t, "registry.example.com/m:v1"))
		if err != nil {
			t.Fatal(err)
		}
		rc, err := model.Fetch(t.Context(), model.Manifest.Layers[0])
		if err != nil {
			t.Fatal(err)
		}
		defer rc.Close()
		for range 2 { // before the byte, and before the end
			time.Sleep(time.Hour)
			if _, err := rc.Read(make([]byte, 1)); err != nil && err != io.EOF {
				t.Errorf("after an hour: %v", err)
			}
		}
	})
}

// An endingBody ends with its request, as a real one does.
type endingBody struct {
	ctx context.Context
	io.ReadCloser
}

func (b endingBody) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.ReadCloser.Read(p[:min(len(p), 1)])
}

type slowReader struct {
	ctx  context.Context
	r    io.Reader
	n    int
	wait time.Duration
}

func (s *slowReader) Read(p []byte) (int, error) {
	select {
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	case <-time.After(s.wait):
		return s.r.Read(p[:min(len(p), s.n)])
	}
}

func (*slowReader) Close() error { return nil }

// A byte now and then is a hung server too.
func TestStallDespiteAByteNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newClient(t, oci.Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			resp := goodAnswer(r)
			resp.ContentLength = -1
			resp.Body = &slowReader{ctx: r.Context(), r: strings.NewReader(strings.Repeat(" ", 1<<20)), n: 1, wait: 7 * time.Second}
			return resp, nil
		})})
		start := time.Now()
		_, err := client.Open(t.Context(), mustParse(t, "registry.example.com/m:v1"))
		if took := time.Since(start); took != 60*time.Second {
			t.Errorf("took %s", took)
		}
		if err == nil || !strings.Contains(err.Error(), "too little came") {
			t.Errorf("error %v", err)
		}
	})
}

// The real transport, against a server that never answers.
func TestStallOnTheNetwork(t *testing.T) {
	for _, cut := range []string{"", "HTTP/1.1 200 OK\r\nContent-Type: " + typeManifest + "\r\nContent-Length: 100\r\n\r\n{"} {
		done := make(chan struct{})
		host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			io.WriteString(conn, cut)
			<-done
		}))
		client := newClient(t, oci.Options{StallTimeout: 50 * time.Millisecond})
		_, err := client.Open(t.Context(), mustParse(t, host+"/m:v1"))
		close(done)
		if err == nil || !strings.Contains(err.Error(), "no byte for 50ms") {
			t.Errorf("error %v", err)
		}
	}
}

// Rule 26: plain HTTP only for loopback by literal or name, or with the flag;
// never one scheme after the other.
func TestScheme(t *testing.T) {
	insecure := oci.Options{InsecureSkipTLSVerify: true}
	plain := oci.Options{PlainHTTP: true}
	for _, test := range []struct {
		ref     string
		options oci.Options
		url     string
	}{
		{"registry.example.com/m:v1", oci.Options{}, "https://registry.example.com"},
		{"registry.example.com:80/m:v1", oci.Options{}, "https://registry.example.com:80"},
		{"registry.example.com/m:v1", plain, "http://registry.example.com"},
		{"localhost:5000/m:v1", oci.Options{}, "http://localhost:5000"},
		{"localhost/m:v1", oci.Options{}, "http://localhost"},
		{"127.0.0.1:5000/m:v1", oci.Options{}, "http://127.0.0.1:5000"},
		{"127.8.9.1/m:v1", oci.Options{}, "http://127.8.9.1"},
		{"[::1]:5000/m:v1", oci.Options{}, "http://[::1]:5000"},
		{"[::2]:5000/m:v1", oci.Options{}, "https://[::2]:5000"},
		{"x.localhost:5000/m:v1", oci.Options{}, "https://x.localhost:5000"},
		{"localhost.example:5000/m:v1", oci.Options{}, "https://localhost.example:5000"},
		{"10.0.0.1:5000/m:v1", oci.Options{}, "https://10.0.0.1:5000"},
		{"192.168.1.1/m:v1", oci.Options{}, "https://192.168.1.1"},
		{"localhost:5000/m:v1", insecure, "https://localhost:5000"},
		{"https://localhost:5000/m:v1", oci.Options{}, "https://localhost:5000"},
		{"docker.io/m:v1", oci.Options{}, "https://registry-1.docker.io"},
		{"index.docker.io/m:v1", oci.Options{}, "https://registry-1.docker.io"},
		{"https://registry.example.com/m:v1", plain, ""}, // a contradiction
	} {
		var urls []string
		test.options.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			urls = append(urls, r.URL.Scheme+"://"+r.URL.Host)
			return nil, errors.New("no network")
		})
		_, err := newClient(t, test.options).Open(t.Context(), mustParse(t, test.ref))
		if err == nil {
			t.Errorf("%s: no error", test.ref)
		}
		if got := strings.Join(urls, " "); got != test.url {
			t.Errorf("%s with %+v: asked %q, want %q", test.ref, test.options.PlainHTTP, got, test.url)
		}
	}
}

func TestTLS(t *testing.T) {
	server := httptest.NewTLSServer(fake{contentType: typeManifest, body: manifestOf(layer("a", "a"))})
	defer server.Close()
	server.Config.ErrorLog = nil
	host := strings.TrimPrefix(server.URL, "https://")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	ref := mustParse(t, host+"/m:v1")
	if _, err := newClient(t, oci.Options{CAFile: ca}).Open(t.Context(), ref); err != nil {
		t.Errorf("with the authority: %v", err)
	}
	if _, err := newClient(t, oci.Options{InsecureSkipTLSVerify: true}).Open(t.Context(), ref); err != nil {
		t.Errorf("insecure: %v", err)
	}
	if _, err := newClient(t, oci.Options{}).Open(t.Context(), mustParse(t, "https://"+host+"/m:v1")); err == nil || errors.Is(err, oci.ErrNotFound) {
		t.Errorf("without the authority: %v", err)
	}
}

func TestNewClientRefuses(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("no certificate\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		options oci.Options
	}{
		{"plain HTTP and insecure TLS", oci.Options{PlainHTTP: true, InsecureSkipTLSVerify: true}},
		{"plain HTTP and an authority", oci.Options{PlainHTTP: true, CAFile: empty}},
		{"a missing authority file", oci.Options{CAFile: empty + "x"}},
		{"an authority file without one", oci.Options{CAFile: empty}},
		{"a certificate without a key", oci.Options{CertFile: empty}},
		{"a key without a certificate", oci.Options{KeyFile: empty}},
		{"a broken certificate", oci.Options{CertFile: empty, KeyFile: empty}},
	} {
		if client, err := oci.NewClient(test.options); err == nil || client != nil {
			t.Errorf("%s: no error", test.name)
		}
	}
}

func TestRedirectLimit(t *testing.T) {
	requests := 0
	client := newClient(t, oci.Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		requests++
		return answer(r, 307, http.Header{"Location": {fmt.Sprintf("https://registry.example.com/%d", requests)}}, ""), nil
	})})
	_, err := client.Open(t.Context(), mustParse(t, "registry.example.com/m:v1"))
	if err == nil || requests != 10 {
		t.Errorf("%d requests, error %v", requests, err)
	}
}
