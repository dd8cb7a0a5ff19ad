package main

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// Waits for services that are no registries, and for identity providers.
const (
	serviceConnect = 10 * time.Second
	serviceHeaders = 30 * time.Second
	serviceAnswer  = 60 * time.Second // all of one answer: some KiB

	// serviceRetries is how often a service is asked again that says it is busy,
	// and maxRetryAfter the longest wait before that, whatever it asks for.
	serviceRetries = 2
	maxRetryAfter  = 60 * time.Second
	minRetryAfter  = 500 * time.Millisecond
)

// serviceTransport is the HTTP transport of all that is asked beside registries;
// proxy nil: none.
func serviceTransport(proxy func(*http.Request) (*url.URL, error)) *http.Transport {
	return &http.Transport{
		Proxy:                 proxy,
		DialContext:           (&net.Dialer{Timeout: serviceConnect}).DialContext,
		TLSHandshakeTimeout:   serviceConnect,
		ResponseHeaderTimeout: serviceHeaders,
		ForceAttemptHTTP2:     true,
	}
}

// stay follows no redirect: who is asked is where the user said, and what is
// sent, a bearer token or a client's secret, is for nobody else.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// servicesClient asks timestamp authorities, certificate authorities, logs and
// TUF repositories. One that is busy (429, 502, 503, 504) is asked again, twice; one that
// is not there, or broken, is not.
func servicesClient() *http.Client {
	client := retryablehttp.NewClient()
	client.HTTPClient = &http.Client{Transport: serviceTransport(http.ProxyFromEnvironment), CheckRedirect: stay, Timeout: serviceAnswer}
	client.Logger = nil
	client.RetryMax = serviceRetries
	client.RetryWaitMin, client.RetryWaitMax = minRetryAfter, maxRetryAfter
	client.Backoff = func(least, most time.Duration, attempt int, resp *http.Response) time.Duration {
		return min(retryablehttp.DefaultBackoff(least, most, attempt, resp), most)
	}
	client.CheckRetry = busy
	client.ErrorHandler = retryablehttp.PassthroughErrorHandler
	standard := client.StandardClient()
	standard.CheckRedirect = stay
	return standard
}

// busy reports whether a request is worth repeating.
func busy(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if err != nil {
		return false, err
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true, nil
	}
	return false, nil
}
