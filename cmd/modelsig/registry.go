package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
)

type registryCmd struct {
	Listen    string `default:"127.0.0.1:5000" help:"Loopback address; port 0 picks one."`
	Referrers string `enum:"api,unfiltered,none,claimed" default:"api" help:"How it treats referrers (${enum}): with the API, with one that does not filter, without, or claiming an API it has not."`
}

// Run serves until it is interrupted. What was pushed is gone then.
func (r *registryCmd) Run(ctx context.Context, a *app) error {
	host, _, err := net.SplitHostPort(r.Listen)
	if err != nil {
		return fmt.Errorf("--listen %q: %w", r.Listen, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("--listen %q: only a loopback address: anybody may write to this registry", r.Listen)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", r.Listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: registryHandler(r.Referrers), ReadHeaderTimeout: 30 * time.Second}
	if _, err := fmt.Fprintf(a.stdout, "Listening on %s\n", listener.Addr()); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		if err := server.Close(); err != nil {
			return err
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}

// registryHandler is an OCI 1.1 registry in memory.
func registryHandler(referrers string) http.Handler {
	missing := referrers == "none" || referrers == "claimed"
	server := ociserver.New(ocimem.New(), &ociserver.Options{
		DisableReferrersAPI:       missing,
		DisableReferrersFiltering: referrers == "unfiltered",
	})
	if referrers != "none" {
		return server
	}
	// A registry without the API does not confirm subjects.
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		server.ServeHTTP(&withoutSubject{w}, req)
	})
}

// withoutSubject drops the header by which a registry says that it has taken
// note of a manifest's subject.
type withoutSubject struct{ http.ResponseWriter }

func (w *withoutSubject) WriteHeader(code int) {
	w.Header().Del("OCI-Subject")
	w.ResponseWriter.WriteHeader(code)
}

func (w *withoutSubject) Unwrap() http.ResponseWriter { return w.ResponseWriter }
