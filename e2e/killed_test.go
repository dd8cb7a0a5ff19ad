//go:build unix

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/bundle"
)

// A gate stands before a registry and kills a process with SIGKILL at its nth
// request: then all before it are done.
type gate struct {
	next  http.Handler
	n     int64
	asked atomic.Int64

	mu  sync.Mutex
	pid int
}

func (g *gate) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if g.asked.Add(1) != g.n {
		g.next.ServeHTTP(w, req)
		return
	}
	g.mu.Lock()
	_ = syscall.Kill(g.pid, syscall.SIGKILL) // it may have ended by itself
	g.mu.Unlock()
	panic(http.ErrAbortHandler)
}

// run runs the binary, which the gate may kill.
func (g *gate) run(t *testing.T, args ...string) (killed bool) {
	t.Helper()
	cmd := modelsigCmd(t, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	g.mu.Lock()
	err := cmd.Start()
	if err == nil {
		g.pid = cmd.Process.Pid
	}
	g.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return true
	}
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out.String())
	}
	return false
}

func modelsigCmd(t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(binary, "modelsig"), args...)
	cmd.Env = []string{"HOME=" + filepath.Join(t.TempDir(), "home"), "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}
	return cmd
}

// Killed before any of its requests, an act leaves no wrong verdict and loses no
// referrer, and the next one finishes the work. All but the
// act that is killed is done by the library, in this process: it is quicker.
func TestKilledAtAnyRequest(t *testing.T) {
	for _, mode := range []string{modeAPI, modeNone} {
		t.Run(mode, func(t *testing.T) { killedAtAnyRequest(t, mode) })
	}
}

func killedAtAnyRequest(t *testing.T, mode string) {
	t.Parallel()
	r := newRegistry(mode)
	t.Cleanup(r.close)
	keys := filepath.Join(t.TempDir(), "keys")
	if err := copyKeys("../testdata/keys", keys); err != nil {
		t.Fatal(err)
	}
	ours, theirs := keyOf(t, keys, "p256"), keyOf(t, keys, "p384")
	model := t.TempDir()
	for name, content := range map[string]string{"config.json": "{}", "weights.bin": "hello"} {
		if err := os.WriteFile(filepath.Join(model, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := new(modelsig.Client)
	plain, source := r.host()+"/plain:v1", r.host()+"/source:v1"
	_, err := c.Push(t.Context(), model, plain, modelsig.PushOptions{})
	orFatal(t, "push", err)
	_, err = c.Copy(t.Context(), plain, source, modelsig.CopyOptions{})
	orFatal(t, "copy", err)
	_, err = c.Sign(t.Context(), source, ours.signer, modelsig.SignOptions{LegacyTag: true})
	orFatal(t, "sign", err)
	bundles, err := c.Download(t.Context(), source, modelsig.DownloadOptions{Dir: t.TempDir()})
	orFatal(t, "download", err)
	file := bundles.Bundles[0].File
	data, err := os.ReadFile(file)
	orFatal(t, "read a bundle", err)

	for name, act := range map[string]struct {
		args   func(target string) []string
		finish func(target string) error
		listed int // referrers that it adds
	}{
		"copy": {
			func(target string) []string { return []string{"copy", source, target} },
			func(target string) error {
				_, err := c.Copy(t.Context(), source, target, modelsig.CopyOptions{})
				return err
			}, 3,
		},
		"attach": {
			func(target string) []string { return []string{"attach", target, file} },
			func(target string) error { _, err := c.AttachBundle(t.Context(), target, data); return err }, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			killed := true
			for n := int64(1); killed; n++ {
				// Each is on a fresh repository, which somebody else has signed.
				repo := fmt.Sprintf("%s-%d", name, n)
				target := r.host() + "/" + repo + ":v1"
				_, err := c.Copy(t.Context(), plain, target, modelsig.CopyOptions{})
				orFatal(t, "copy", err)
				_, err = c.Sign(t.Context(), target, theirs.signer, modelsig.SignOptions{ArtifactOnly: true})
				orFatal(t, "sign", err)

				g := &gate{next: r.handler, n: n}
				server := httptest.NewServer(g)
				killed = g.run(t, act.args(hostOf(server)+"/"+repo+":v1")...)
				server.Close()

				// Nobody's signature is lost, and what is there can be judged.
				at := fmt.Sprintf("%s, killed at request %d", name, n)
				_, err = c.Verify(t.Context(), target, theirs.policy, modelsig.VerifyOptions{})
				orFatal(t, at+": verify the other signature", err)
				if _, err := c.Verify(t.Context(), target, ours.policy, modelsig.VerifyOptions{}); err != nil && !errors.Is(err, modelsig.ErrRefused) {
					t.Errorf("%s: %v", at, err)
				}
				orFatal(t, at+": finish", act.finish(target))
				for _, who := range []keyPair{ours, theirs} {
					_, err := c.Verify(t.Context(), target, who.policy, modelsig.VerifyOptions{})
					orFatal(t, at+": verify when finished", err)
				}
				found, err := c.List(t.Context(), target)
				orFatal(t, at+": list", err)
				if found.Incomplete != nil || len(found.Referrers) < 1+act.listed {
					t.Errorf("%s: %d are listed, want at least %d: %v", at, len(found.Referrers), 1+act.listed, found.Incomplete)
				}
				if !killed && n < 5 {
					t.Errorf("%s ends after %d requests", name, n)
				}
			}
		})
	}
}

// The same for a copy to a layout and to an archive: under its name an archive
// is whole or not there, and every file of a layout.
func TestACopyToFilesKilledAtAnyRequest(t *testing.T) {
	t.Parallel()
	r := newRegistry(modeNone)
	t.Cleanup(r.close)
	keys := filepath.Join(t.TempDir(), "keys")
	if err := copyKeys("../testdata/keys", keys); err != nil {
		t.Fatal(err)
	}
	ours := keyOf(t, keys, "p256")
	model := t.TempDir()
	if err := os.WriteFile(filepath.Join(model, "a.bin"), []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := new(modelsig.Client)
	source := r.host() + "/source:v1"
	if _, err := c.Push(t.Context(), model, source, modelsig.PushOptions{Signer: ours.signer}); err != nil {
		t.Fatal(err)
	}
	for kind, path := range map[string]string{"oci:": "layout", "oci-archive:": "a.tar"} {
		killed := true
		for n := int64(1); killed; n++ {
			path := filepath.Join(t.TempDir(), path)
			target := kind + path + ":v1"
			g := &gate{next: r.handler, n: n}
			server := httptest.NewServer(g)
			killed = g.run(t, "copy", hostOf(server)+"/source:v1", target)
			server.Close()
			if _, err := os.Stat(path); err == nil && kind == "oci:" {
				if err := wholeLayout(path); err != nil {
					t.Errorf("killed at request %d: %v", n, err)
				}
			} else if err == nil && killed {
				t.Errorf("killed at request %d: an archive is there", n)
			}
			if _, err := c.Copy(t.Context(), source, target, modelsig.CopyOptions{Replace: true}); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Verify(t.Context(), target, ours.policy, modelsig.VerifyOptions{}); err != nil {
				t.Errorf("killed at request %d, then finished: %v", n, err)
			}
		}
	}
}

func orFatal(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// A keyPair is a key of testdata.
type keyPair struct {
	signer modelsig.Signer
	policy modelsig.Policy
}

func keyOf(t *testing.T, keys, name string) keyPair {
	t.Helper()
	private := filepath.Join(keys, name+".pkcs8.pem")
	data, err := os.ReadFile(private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := bundle.ParsePrivateKey(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := bundle.NewKeySigner(key)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := signer.Verifier(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return keyPair{signer, modelsig.Policy{Verifiers: []bundle.Verifier{verifier}}}
}
