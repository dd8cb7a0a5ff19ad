package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// A service that is busy is asked again, with the whole request; one that is
// broken, or sends elsewhere, is not.
func TestServicesAreAskedAgainOnlyWhenTheyAreBusy(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		asked  int64
	}{
		{"throttled", http.StatusTooManyRequests, 3},
		{"unavailable", http.StatusServiceUnavailable, 3},
		{"broken", http.StatusInternalServerError, 1},
		{"unwilling", http.StatusForbidden, 1},
		{"elsewhere", http.StatusTemporaryRedirect, 1},
		{"content", http.StatusCreated, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked, elsewhere atomic.Int64
			other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
			defer other.Close()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				if r.ContentLength != 5 || r.Header.Get("Authorization") != "Bearer token" {
					t.Errorf("request %d has %d bytes", asked.Load(), r.ContentLength)
				}
				w.Header().Set("Retry-After", "0")
				w.Header().Set("Location", other.URL)
				w.WriteHeader(tt.status)
			}))
			defer server.Close()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer token")
			resp, err := servicesClient().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != tt.status || asked.Load() != tt.asked || elsewhere.Load() != 0 {
				t.Errorf("status %d after %d requests, %d elsewhere", resp.StatusCode, asked.Load(), elsewhere.Load())
			}
		})
	}
}

func TestAServiceThatIsNotThereIsAskedOnce(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	again, err := busy(t.Context(), nil, errors.New("refused"))
	if again || err == nil {
		t.Errorf("again %v, %v", again, err)
	}
	if _, err := servicesClient().Get(server.URL); err == nil {
		t.Error("no error")
	}
	cause := errors.New("the user went away")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := servicesClient().Do(req); !errors.Is(err, cause) && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
