package oci_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"

	"github.com/modelsig/modelsig/oci"
)

func newClient(t testing.TB, o oci.Options) *oci.Client {
	t.Helper()
	client, err := oci.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// serve starts a handler on loopback and returns its host:port.
func serve(t testing.TB, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// newRegistry is an in-memory registry.
func newRegistry() http.Handler {
	return ociserver.New(ocimem.New(), nil)
}
