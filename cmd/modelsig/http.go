package main

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// Waits for the services of a Sigstore, as for registries.
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

// servicesClient asks timestamp authorities, certificate authorities, logs and
// TUF repositories. A service is where its user said it is: no redirect is
// followed. One that is busy (429, 502, 503, 504) is asked again, twice; one that
// is not there, or broken, is not.
func servicesClient() *http.Client {
	elsewhere := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	client := retryablehttp.NewClient()
	client.HTTPClient = &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: serviceConnect}).DialContext,
			TLSHandshakeTimeout:   serviceConnect,
			ResponseHeaderTimeout: serviceHeaders,
			ForceAttemptHTTP2:     true,
		},
		CheckRedirect: elsewhere,
		Timeout:       serviceAnswer,
	}
	client.Logger = nil
	client.RetryMax = serviceRetries
	client.RetryWaitMin, client.RetryWaitMax = minRetryAfter, maxRetryAfter
	client.Backoff = func(least, most time.Duration, attempt int, resp *http.Response) time.Duration {
		return min(retryablehttp.DefaultBackoff(least, most, attempt, resp), most)
	}
	client.CheckRetry = busy
	client.ErrorHandler = retryablehttp.PassthroughErrorHandler
	standard := client.StandardClient()
	standard.CheckRedirect = elsewhere
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
