package oci

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	connectTimeout = 10 * time.Second // a SYN is repeated after 1, 3 and 7 s
	headerTimeout  = 30 * time.Second // slow token servers answer within it
	defaultStall   = 60 * time.Second // longer than any garbage collection or failover
	// commitRate is how slowly a registry may digest an upload before it
	// answers: object stores copy a large blob once more on commit. Headers
	// may take one second more for each commitRate bytes of request body.
	commitRate = 32 << 20

	// maxRedirects is what net/http has without a CheckRedirect.
	maxRedirects = 10

	// retryBudget bounds what one request waits in all, Retry-After and slow
	// answers included; maxTries how often it is sent.
	retryBudget = 60 * time.Second
	maxTries    = 100
	// smallBody is a body that takes no time to send: manifests, bundles.
	smallBody = 1 << 20
	// throttleDelay is the first wait after 429 and 503 without Retry-After;
	// it doubles.
	throttleDelay = time.Second
	// quickTries and quickDelay are for faults that mostly heal at once.
	quickTries = 3
	quickDelay = 200 * time.Millisecond

	// maxResponseHeader is far above any registry's; tokens and signed URLs
	// take some KiB.
	maxResponseHeader = 256 << 10
	// idlePerHost keeps the connections of parallel uploads.
	idlePerHost = 16
)

func newTransport(config *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: connectTimeout}).DialContext,
		TLSHandshakeTimeout:    connectTimeout,
		TLSClientConfig:        config,
		ForceAttemptHTTP2:      true,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    idlePerHost,
		MaxResponseHeaderBytes: maxResponseHeader,
	}
}

// checkRedirect follows at most maxRedirects and never from https to http.
// That no credential crosses an origin is oras-go's care: it drops the
// Authorization header and answers no challenge there.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("redirected from https to %s on %s: refused", quote(req.URL.Scheme), quote(req.URL.Host))
	}
	return nil
}

// A retryTransport tries again what may heal. oras-go's own policy caps
// Retry-After at 3 s, which no throttled registry is content with.
type retryTransport struct {
	base   http.RoundTripper
	logger *slog.Logger

	// Hosts that throttled one request until its budget was spent. The next
	// one does not wait for them again, until they answer something else.
	mu    sync.Mutex
	tired map[string]bool
}

// isTired reports whether waiting for host was in vain.
func (t *retryTransport) isTired(host string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tired[host]
}

func (t *retryTransport) setTired(host string, tired bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tired == nil {
		t.tired = map[string]bool{}
	}
	if tired {
		t.tired[host] = true
	} else {
		delete(t.tired, host)
	}
}

// throttled reports whether an answer says: not now.
func throttled(resp *http.Response) bool {
	return resp != nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable)
}

func (t *retryTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	hasBody := req.Body != nil && req.Body != http.NoBody
	start, waited := time.Now(), time.Duration(0)
	for try := 1; ; try++ {
		resp, err := t.base.RoundTrip(req)
		status := 0
		if err == nil {
			status = resp.StatusCode
		}
		t.logger.DebugContext(ctx, "request", "method", req.Method, "host", req.URL.Host, "path", req.URL.Path, "status", status, "error", err)
		delay, ok := retryDelay(resp, err, try)
		if throttled(resp) && t.isTired(req.URL.Host) {
			return resp, err
		}
		if err == nil && !throttled(resp) {
			t.setTired(req.URL.Host, false)
		}
		spent := waited
		if !hasBody || req.ContentLength <= smallBody { // a large upload may take its time
			spent = time.Since(start)
		}
		// No sum: a date may be at the end of time.
		if !ok || try == maxTries || delay > retryBudget-spent {
			if throttled(resp) {
				t.setTired(req.URL.Host, true)
			}
			return resp, err
		}
		if hasBody && req.GetBody == nil {
			return resp, err // it cannot be sent again
		}
		if err == nil {
			resp.Body.Close()
		}
		level := slog.LevelInfo
		if try == 1 { // once a request is enough to know why it takes so long
			level = slog.LevelWarn
		}
		t.logger.Log(ctx, level, "retry", "method", req.Method, "host", req.URL.Host, "path", req.URL.Path, "status", status, "error", err, "wait", delay)
		if err := sleep(ctx, delay); err != nil {
			return nil, err
		}
		waited += delay
		if hasBody {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			req = req.Clone(ctx) // a RoundTripper does not change its request
			req.Body = body
		}
	}
}

// retryDelay says how long to wait before the next try, and whether to.
func retryDelay(resp *http.Response, err error, try int) (time.Duration, bool) {
	if err != nil {
		// A refused connection and an unknown host are answers; so are the
		// caller's own end and our own timeouts.
		quick := errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		return jitter(quickDelay << (try - 1)), quick && try < quickTries
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if d, ok := retryAfter(resp.Header.Get("Retry-After"), time.Now()); ok {
			return d, true
		}
		return jitter(throttleDelay << min(try-1, 10)), true
	case http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		return jitter(quickDelay << (try - 1)), try < quickTries
	}
	return 0, false
}

// retryAfter reads a Retry-After header: seconds or an HTTP date (RFC 9110
// §10.2.3). The shortest wait is one quickDelay, so that "0" is no busy loop.
func retryAfter(header string, now time.Time) (time.Duration, bool) {
	if header == "" {
		return 0, false
	}
	if seconds, err := strconv.ParseUint(header, 10, 32); err == nil {
		return max(time.Duration(seconds)*time.Second, quickDelay), true
	}
	if date, err := http.ParseTime(header); err == nil {
		return max(date.Sub(now), quickDelay), true
	}
	return 0, false
}

// jitter spreads clients that failed together: between d/2 and d.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// A stallTransport ends a request whose other side is silent: while the
// request is written, until the headers come, and while the body is read. Time
// that our own side takes does not count.
type stallTransport struct {
	base  http.RoundTripper
	stall time.Duration
}

// A stallError says how long nothing moved.
type stallError struct {
	wait  time.Duration
	phase string
}

func (e *stallError) Error() string {
	return fmt.Sprintf("no byte for %s while %s", e.wait, e.phase)
}

func (t *stallTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &watchdog{cancel: cancel}
	w.arm(t.stall, "sending the request")
	size := max(req.ContentLength, 0)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) {
			w.arm(min(headerTimeout, t.stall)+time.Duration(size/commitRate)*time.Second, "waiting for an answer")
		},
	})
	sent := req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		sent.Body = &requestBody{body: req.Body, dog: w, stall: t.stall}
		if req.GetBody != nil {
			// net/http asks for it when a kept connection turns out to be dead.
			sent.GetBody = func() (io.ReadCloser, error) {
				body, err := req.GetBody()
				return &requestBody{body: body, dog: w, stall: t.stall}, err
			}
		}
	}
	resp, err := t.base.RoundTrip(sent)
	w.retire()
	if err != nil {
		err = stalled(ctx, err)
		cancel(nil)
		return nil, err
	}
	dog := &watchdog{cancel: cancel}
	resp.Body = &responseBody{body: resp.Body, ctx: ctx, dog: dog, stall: t.stall}
	return resp, nil
}

// stalled replaces "context canceled" with the reason, if the watchdog was it.
func stalled(ctx context.Context, err error) error {
	var stall *stallError
	if errors.As(context.Cause(ctx), &stall) {
		return stall
	}
	return err
}

// A watchdog cancels a request unless it is armed again or retired in time.
type watchdog struct {
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	timer   *time.Timer
	retired bool
}

func (w *watchdog) arm(d time.Duration, phase string) { w.armFor(d, d, phase) }

// armFor is arm, where part of the time that the error names is over.
func (w *watchdog) armFor(d, named time.Duration, phase string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.retired {
		return
	}
	if w.timer != nil {
		w.timer.Stop()
	}
	w.timer = time.AfterFunc(d, func() { w.cancel(&stallError{named, phase}) })
}

// rest stops the clock until the next arm.
func (w *watchdog) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
}

func (w *watchdog) retire() {
	w.rest()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.retired = true
}

// A requestBody is read by the transport: between two reads the bytes of the
// first one travel.
type requestBody struct {
	body  io.ReadCloser
	dog   *watchdog
	stall time.Duration
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.dog.rest() // a slow disk is ours
	n, err := b.body.Read(p)
	b.dog.arm(b.stall, "sending the body")
	return n, err
}

func (b *requestBody) Close() error { return b.body.Close() }

// A responseBody is read by the caller: a read is a wait for the other side.
type responseBody struct {
	body  io.ReadCloser
	ctx   context.Context // of this request only: carries the watchdog's reason
	dog   *watchdog
	stall time.Duration

	// Since the last minProgress bytes: what came, and how long reads took.
	got    int
	waited time.Duration
}

// minProgress is what must come within one stall timeout: a byte now and then
// would keep us for years.
const minProgress = 16 << 10

func (b *responseBody) Read(p []byte) (int, error) {
	phase := "reading the answer"
	if b.got > 0 {
		phase = "reading more of the answer: too little came"
	}
	b.dog.armFor(b.stall-b.waited, b.stall, phase)
	start := time.Now()
	n, err := b.body.Read(p)
	b.dog.rest()
	b.got, b.waited = b.got+n, b.waited+time.Since(start)
	if b.got >= minProgress {
		b.got, b.waited = 0, 0
	}
	if err != nil && err != io.EOF {
		err = stalled(b.ctx, err)
	}
	return n, err
}

func (b *responseBody) Close() error {
	b.dog.retire()
	err := b.body.Close()
	b.dog.cancel(nil)
	return err
}
