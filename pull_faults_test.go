package modelsig_test

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/oci"
)

// A faulty transport breaks off what it is told to.
type faulty struct {
	requests atomic.Int64
	fault    func(n int64, req *http.Request, resp *http.Response) (*http.Response, error)
}

func (f *faulty) RoundTrip(req *http.Request) (*http.Response, error) {
	n := f.requests.Add(1) - 1
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	got, err := f.fault(n, req, resp)
	if err != nil {
		resp.Body.Close()
	}
	return got, err
}

// Whatever request is the last one that is answered: there is no folder, and
// the next pull finishes the work.
func TestPullWhenTheRegistryStopsAnswering(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, pullFiles, signer)
	pull := func(dir string, last int64) (*modelsig.Pulled, error) {
		client := &modelsig.Client{Jobs: 1, Registry: oci.Options{Transport: &faulty{fault: func(n int64, _ *http.Request, resp *http.Response) (*http.Response, error) {
			if n >= last {
				return nil, syscall.ECONNREFUSED
			}
			return resp, nil
		}}}}
		return client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{})
	}
	parent := t.TempDir()
	kept := false
	for last := int64(0); ; last++ {
		dir := filepath.Join(parent, "out")
		_, err := pull(dir, last)
		if err == nil {
			if last < 6 || !kept {
				t.Errorf("done after %d requests, something kept: %t", last, kept)
			}
			wantTree(t, dir, pullFiles)
			break
		}
		if errors.Is(err, modelsig.ErrRefused) {
			t.Fatalf("request %d: %v is a refusal", last, err)
		}
		if readTree(t, dir) != nil {
			t.Fatalf("request %d: there is a folder", last)
		}
		pulled, err := pull(dir, 1000)
		if err != nil {
			t.Fatalf("request %d, again: %v", last, err)
		}
		kept = kept || pulled.Kept > 0
		wantTree(t, dir, pullFiles)
		wantAlone(t, parent, "out")
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPullOfBlobsThatAreNotRight(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, pullFiles, signer)
	large := pullFiles["weights/a.bin"]
	name := digest.FromString(large).Encoded()
	for _, tt := range []struct {
		name    string
		change  func(resp *http.Response, body string)
		refused bool // and nothing is kept
	}{
		{"the last byte is another one", func(resp *http.Response, body string) {
			resp.Body = io.NopCloser(strings.NewReader(body[:len(body)-1] + "x"))
		}, true},
		{"all bytes are others", func(resp *http.Response, body string) {
			resp.Body = io.NopCloser(strings.NewReader(strings.Repeat("x", len(body))))
		}, true},
		{"one byte more", func(resp *http.Response, body string) {
			resp.ContentLength, resp.Body = -1, io.NopCloser(strings.NewReader(body+"x"))
		}, true},
		{"one byte less", func(resp *http.Response, body string) {
			resp.ContentLength, resp.Body = int64(len(body)-1), io.NopCloser(strings.NewReader(body[1:]))
		}, false},
		{"a page", func(resp *http.Response, _ string) {
			resp.ContentLength, resp.Body = 6, io.NopCloser(strings.NewReader("<html>"))
		}, false},
		{"404", func(resp *http.Response, _ string) { resp.StatusCode = 404 }, false},
		{"403", func(resp *http.Response, _ string) { resp.StatusCode = 403 }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := &modelsig.Client{Registry: oci.Options{Transport: &faulty{fault: func(_ int64, req *http.Request, resp *http.Response) (*http.Response, error) {
				if !strings.Contains(req.URL.Path, name) {
					return resp, nil
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					return nil, err
				}
				tt.change(resp, string(body))
				return resp, nil
			}}}}
			parent := t.TempDir()
			dir := filepath.Join(parent, "out")
			_, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{})
			if err == nil || errors.Is(err, modelsig.ErrRefused) != tt.refused {
				t.Errorf("error %v, want a refusal: %t", err, tt.refused)
			}
			if tt.refused {
				wantAlone(t, parent)
			} else if readTree(t, dir) != nil {
				t.Error("there is a folder")
			}
			if _, err := new(modelsig.Client).Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{}); err != nil {
				t.Fatal(err)
			}
			wantTree(t, dir, pullFiles)
			wantAlone(t, parent, "out")
		})
	}
}
