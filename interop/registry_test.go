package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// A registryServer is a registry in its own process on a loopback port.
type registryServer struct {
	host string // 127.0.0.1:PORT
}

// eachRegistry runs a test against every registry there is here. None of them
// has the Referrers API; the in-process registries of the module's own tests do.
func eachRegistry(t *testing.T, auth string, test func(t *testing.T, r registryServer)) {
	t.Run("distribution v3", func(t *testing.T) {
		test(t, startDistribution(t, auth))
	})
	t.Run("docker-registry 2.8", func(t *testing.T) {
		program := debian(t, "docker-registry")
		config := fmt.Sprintf("storage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}\n", t.TempDir()) + auth
		test(t, startRegistry(t, program, config))
	})
}

// startDistribution starts distribution v3, with the auth section given in
// YAML ("": open to all).
func startDistribution(t testing.TB, auth string) registryServer {
	t.Helper()
	return startRegistry(t, distribution, "storage: {inmemory: {}, delete: {enabled: true}}\n"+auth)
}

// startRegistry starts a registry and waits until it answers. It ends with the
// test.
func startRegistry(t testing.TB, program, config string) registryServer {
	t.Helper()
	return registryServer{start(t, "/v2/", func(host string) *exec.Cmd {
		file := filepath.Join(t.TempDir(), "registry.yml")
		text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nhttp: {addr: %q, secret: interop}\n%s", host, config)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return exec.Command(program, "serve", file)
	})}
}

// start starts a server on a free port, waits until it answers at path, and
// returns where it listens. It ends with the test.
func start(t testing.TB, path string, server func(host string) *exec.Cmd) string {
	t.Helper()
	const (
		attempts = 3                // another process may take the port that was free
		patience = 20 * time.Second // a loaded machine starts slowly
		pause    = 20 * time.Millisecond
	)
	var output bytes.Buffer
	var program string
	for range attempts {
		host := freePort(t)
		cmd := server(host)
		program = filepath.Base(cmd.Path)
		output.Reset()
		cmd.Stdout, cmd.Stderr = &output, &output
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			cmd.Wait()
			close(ended)
		}()
		var once sync.Once
		stop := func() {
			once.Do(func() {
				cmd.Process.Kill()
				<-ended
			})
		}
		tick := time.NewTicker(pause)
		defer tick.Stop()
		deadline := time.After(patience)
		for waiting := true; waiting; {
			if answers(host + path) {
				t.Cleanup(stop)
				return host
			}
			select {
			case <-tick.C:
			case <-ended:
				waiting = false
			case <-deadline:
				waiting = false
			}
		}
		stop()
	}
	t.Fatalf("%s did not start\n%s", program, output.Bytes())
	return ""
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func answers(address string) bool {
	res, err := http.Get("http://" + address)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK || res.StatusCode == http.StatusUnauthorized
}

// get reads a manifest or an index, and fails on anything but 200.
func (r registryServer) get(t testing.TB, repository, reference string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.host+"/v2/"+repository+"/manifests/"+reference, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, accept := range []string{"application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"} {
		req.Header.Add("Accept", accept)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		t.Fatalf("GET %s of %s: %s\n%s", reference, repository, res.Status, body)
	}
	return body
}

// decode reads JSON into a value of the wanted shape.
func decode[T any](t testing.TB, data []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return v
}
