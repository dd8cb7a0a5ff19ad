package modelsig_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/oci"
)

// childVariable has a child as JSON: then this program is that child.
const childVariable = "MODELSIG_TEST_PULL"

// A child is a process of its own that pulls.
type child struct {
	Ref, Dir, Key string
	Overwrite     bool
	KillAt        int    // the step at which it kills itself, counted from 1; 0: none
	KillOn        string // the step at which it kills itself, by name; "": none
	FileSize      uint64 // the largest file that it may write, in bytes; 0: any
	UID           int    // the user that it becomes; 0: it stays who it is
	Mount         string // what to mount on Dir in a namespace of its own: "tmpfs", "bind"; "": nothing
	MountBelow    string // what to mount below Dir, with a file in it: as Mount
	MountOn       string // the step at which a file system is mounted there; "": none
	Check         bool   // read what is there afterwards: the parent cannot look into the namespace
}

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		var c child
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			fail(err)
		}
		c.run()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func (c child) run() {
	switch c.Mount {
	case "tmpfs":
		if err := unix.Mount("tmpfs", c.Dir, "tmpfs", 0, "size=1m"); err != nil {
			fail(err)
		}
	case "bind":
		if err := unix.Mount(c.Dir, c.Dir, "", unix.MS_BIND, ""); err != nil {
			fail(err)
		}
	}
	mountBelow := func() {
		// The folder is in Dir, or, when Dir was exchanged, in what becomes of it.
		found, err := filepath.Glob(filepath.Join(filepath.Dir(c.Dir), ".out.modelsig-*", "files", "be low", "x"))
		if err != nil {
			fail(err)
		}
		below := append(found, filepath.Join(c.Dir, "be low", "x"))[0]
		kind, source, flags := "tmpfs", "tmpfs", uintptr(0)
		if c.MountBelow == "bind" {
			kind, source, flags = "", c.Dir+".data", unix.MS_BIND
		}
		if err := unix.Mount(source, below, kind, flags, ""); err != nil {
			fail(err)
		}
		if err := os.WriteFile(filepath.Join(below, "thesis.tex"), []byte("x"), 0o644); err != nil {
			fail(err)
		}
	}
	if c.MountBelow != "" {
		mountBelow()
	}
	if c.UID != 0 {
		if err := syscall.Setuid(c.UID); err != nil {
			fail(err)
		}
	}
	if c.FileSize > 0 {
		signal.Ignore(syscall.SIGXFSZ)
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: c.FileSize, Max: c.FileSize}); err != nil {
			fail(err)
		}
	}
	policy, err := modelsig.KeyPolicy([]byte(c.Key))
	if err != nil {
		fail(err)
	}
	client := &modelsig.Client{Jobs: 1}
	step := 0
	client.SetStep(func(name string) {
		if name == c.MountOn {
			mountBelow()
		}
		if step++; step == c.KillAt || name == c.KillOn {
			fmt.Println("killed at", name)
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	})
	if c.Mount != "" && c.Overwrite {
		if err := os.WriteFile(filepath.Join(c.Dir, "old"), nil, 0o644); err != nil {
			fail(err)
		}
		if err := os.WriteFile(filepath.Join(c.Dir, "config.json"), []byte("old"), 0o644); err != nil {
			fail(err)
		}
	}
	pulled, err := client.Pull(context.Background(), c.Ref, c.Dir, policy, modelsig.PullOptions{Overwrite: c.Overwrite})
	if c.Check {
		entries, readErr := os.ReadDir(c.Dir)
		if readErr != nil {
			fail(readErr)
		}
		for _, e := range entries {
			fmt.Println("entry", e.Name())
		}
	}
	if c.MountBelow != "" || c.MountOn != "" {
		found, globErr := filepath.Glob(filepath.Join(filepath.Dir(c.Dir), "*", "be low", "x", "thesis.tex"))
		old, oldErr := filepath.Glob(filepath.Join(filepath.Dir(c.Dir), "*", "*", "be low", "x", "thesis.tex"))
		if globErr != nil || oldErr != nil {
			fail(errors.Join(globErr, oldErr))
		}
		fmt.Println("mounted files", len(found), len(old))
		if pulled != nil {
			fmt.Println("warnings", pulled.Warnings)
		}
	}
	if err != nil {
		fail(err)
	}
	if c.Mount != "" { // once more, from within
		if again, err := client.Pull(context.Background(), c.Ref, c.Dir, policy, modelsig.PullOptions{}); err != nil || !again.Unchanged {
			fail(fmt.Errorf("again: %+v, %w", again, err))
		}
	}
	fmt.Println("kept", pulled.Kept)
	fmt.Println("unchanged", pulled.Unchanged)
}

// start runs a child to its end.
func (c child) start(t *testing.T) (string, error) {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	if c.Mount != "" || c.MountBelow != "" || c.MountOn != "" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// newKeyPair is a signer, and its public key in PEM, for another process.
func newKeyPair(t *testing.T) (modelsig.Signer, string) {
	t.Helper()
	private, err := os.ReadFile("testdata/keys/p256.sec1.pem")
	must(t, err)
	public, err := os.ReadFile("testdata/keys/p256.pub.pem")
	must(t, err)
	signer, err := modelsig.KeySigner(private, nil)
	must(t, err)
	return signer, string(public)
}

// cutAt answers for a blob until so many bytes have come, and never again.
func cutAt(content string, n int) *faulty {
	name, asked := digest.FromString(content).Encoded(), false
	return &faulty{fault: func(_ int64, req *http.Request, resp *http.Response) (*http.Response, error) {
		if !strings.Contains(req.URL.Path, name) {
			return resp, nil
		}
		if asked {
			return nil, syscall.ECONNREFUSED
		}
		asked = true
		resp.Body = io.NopCloser(io.LimitReader(resp.Body, int64(n)))
		return resp, nil
	}}
}

// kill -9 between any two steps: what was there is there, or the whole model
// is; the next pull finishes the work, and nothing is left beside it.
func TestPullKilledBetweenAnyTwoSteps(t *testing.T) {
	r := newRegistry(t)
	signer, key := newKeyPair(t)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, pullFiles, signer)
	old := map[string]string{"config.json": "old", "old/x": "x"}
	for _, tt := range []struct {
		name      string
		before    map[string]string // nil: no folder
		overwrite bool
	}{
		{"no folder", nil, false},
		{"an empty folder", map[string]string{}, false},
		{"a folder to overwrite", old, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resumed := false
			for step := 1; ; step++ {
				parent := t.TempDir()
				dir := filepath.Join(parent, "out")
				if tt.before != nil {
					if err := os.Mkdir(dir, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				for name, content := range tt.before {
					writeFile(t, filepath.Join(dir, name), content)
				}
				c := child{Ref: ref, Dir: dir, Key: key, Overwrite: tt.overwrite, KillAt: step}
				out, err := c.start(t)
				if err == nil {
					if step < 10 || !resumed {
						t.Errorf("only %d steps, one of them resumed: %t", step-1, resumed)
					}
					return
				}
				if !strings.Contains(out, "killed at") {
					t.Fatalf("step %d: %v: %s", step, err, out)
				}
				got := readTree(t, dir)
				// Inside a folder the staging folder is to be seen.
				maps.DeleteFunc(got, func(name, _ string) bool { return strings.HasPrefix(name, ".out.modelsig-") })
				moving := strings.Contains(out, "killed at move ")
				if !maps.Equal(got, tt.before) && !maps.Equal(got, pullFiles) && !moving {
					t.Fatalf("%s: the folder has %q", out, slices.Sorted(maps.Keys(got)))
				}
				for name, content := range got { // whatever moved is whole
					if moving && pullFiles[name] != content {
						t.Fatalf("%s: %s is not what it should be", out, name)
					}
				}
				c.KillAt = 0
				out2, err := c.start(t)
				if err != nil {
					t.Fatalf("%s: again: %v: %s", out, err, out2)
				}
				resumed = resumed || !strings.Contains(out2, "kept 0\n")
				wantTree(t, dir, pullFiles)
				wantAlone(t, parent, "out")
				wantAlone(t, dir, "again", "config.json", "empty", "weights")
			}
		})
	}
}

// What an earlier pull left, or somebody put there.
func TestPullGoesOn(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, pullFiles, signer)
	large := pullFiles["weights/a.bin"]
	half := large[:len(large)/2]
	secret := filepath.Join(t.TempDir(), "secret")
	writeFile(t, secret, "secret")
	chown := func(name string) func(t *testing.T, staging string) {
		return func(t *testing.T, staging string) {
			if os.Geteuid() != 0 {
				t.Skip("only root can make files of another user")
			}
			if err := os.Lchown(filepath.Join(staging, name), 1, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, staging string)
		kept   int64 // of the large file
		left   bool  // the staging folder is not ours to use, or to remove
	}{
		{"half of a file", nil, int64(len(half)), false},
		{"all of a file", func(t *testing.T, s string) { writeFile(t, filepath.Join(s, "files/weights/a.bin"), large) }, int64(len(large)), false},
		{"other bytes", func(t *testing.T, s string) {
			writeFile(t, filepath.Join(s, "files/weights/a.bin"), strings.Repeat("x", len(half)))
		}, 0, false},
		{"all, and other bytes", func(t *testing.T, s string) {
			writeFile(t, filepath.Join(s, "files/weights/a.bin"), strings.Repeat("x", len(large)))
		}, 0, false},
		{"too many bytes", func(t *testing.T, s string) { writeFile(t, filepath.Join(s, "files/weights/a.bin"), large+"x") }, 0, false},
		{"a file that the model does not have", func(t *testing.T, s string) { writeFile(t, filepath.Join(s, "files/evil/run.py"), "x") }, int64(len(half)), false},
		{"a folder where a file belongs", func(t *testing.T, s string) { writeFile(t, filepath.Join(s, "files/config.json/x"), "x") }, int64(len(half)), false},
		{"a symbolic link", func(t *testing.T, s string) { must(t, os.Symlink(secret, filepath.Join(s, "files/config.json"))) }, 0, false},
		{"a symbolic link for a folder", func(t *testing.T, s string) {
			must(t, os.Symlink(filepath.Dir(secret), filepath.Join(s, "files/again")))
		}, 0, false},
		{"a symbolic link for all files", func(t *testing.T, s string) {
			must(t, os.RemoveAll(filepath.Join(s, "files")))
			must(t, os.Symlink(filepath.Dir(secret), filepath.Join(s, "files")))
		}, 0, false},
		{"a hard link", func(t *testing.T, s string) { must(t, os.Link(secret, filepath.Join(s, "files/config.json"))) }, 0, false},
		{"a FIFO", func(t *testing.T, s string) { must(t, syscall.Mkfifo(filepath.Join(s, "files/config.json"), 0o600)) }, 0, false},
		{"a file that others can write to", func(t *testing.T, s string) { must(t, os.Chmod(filepath.Join(s, "files/weights/a.bin"), 0o666)) }, 0, false},
		{"a folder that others can write to", func(t *testing.T, s string) { must(t, os.Chmod(filepath.Join(s, "files/weights"), 0o777)) }, 0, false},
		{"a staging folder that others can look into", func(t *testing.T, s string) { must(t, os.Chmod(s, 0o755)) }, 0, true},
		{"a staging folder of another user", chown("."), 0, true},
		{"a file of another user", chown("files/weights/a.bin"), 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "out")
			// What a pull leaves whose connections break at half of the large file.
			broken := &modelsig.Client{Jobs: 1, Registry: oci.Options{Transport: cutAt(large, len(half))}}
			_, err := broken.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{})
			found := stagings(t, parent)
			if err == nil || len(found) != 1 || !strings.Contains(err.Error(), "kept in") {
				t.Fatalf("error %v, left %q", err, found)
			}
			if got := readTree(t, filepath.Join(found[0], "files"))["weights/a.bin"]; got != half {
				t.Fatalf("%d bytes were kept, want %d", len(got), len(half))
			}
			if tt.change != nil {
				// Only what the row says: the small files are not of interest.
				must(t, os.Remove(filepath.Join(found[0], "files/config.json")))
				must(t, os.RemoveAll(filepath.Join(found[0], "files/again")))
				tt.change(t, found[0])
			}
			wire := &meter{}
			client := &modelsig.Client{Registry: oci.Options{Transport: wire}}
			pulled, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{})
			if err != nil {
				t.Fatal(err)
			}
			wantTree(t, dir, pullFiles)
			if pulled.Kept < tt.kept || pulled.Kept > tt.kept+20 {
				t.Errorf("kept %d bytes, want %d and the small files", pulled.Kept, tt.kept)
			}
			if tt.left {
				wantAlone(t, parent, "out", filepath.Base(found[0]))
			} else {
				wantAlone(t, parent, "out")
			}
			if data, err := os.ReadFile(secret); err != nil || string(data) != "secret" {
				t.Errorf("a file outside has %q, %v", data, err)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Archives that were read to their end are not read again, if a signature lists
// the files in them, and they are still there.
func TestPullGoesOnAfterAnArchive(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	want := map[string]string{}
	var layers []ocispec.Descriptor
	var tars []string
	for _, name := range []string{"a", "b", "c"} {
		files := map[string]string{name + "/x.bin": strings.Repeat(name, 1000), name + "/run.py": name}
		maps.Copy(want, files)
		content := tarFolder(t, map[string]int64{name + "/run.py": 0o755}, files)
		tars = append(tars, content)
		layers = append(layers, folderLayer(name, content))
		r.putBlob(t, "acme/packed", content)
		r.putBlob(t, "acme/alone", content)
	}
	r.put(t, "acme/packed", "v1", image(layers...))
	r.put(t, "acme/alone", "v1", image(layers...))
	mustSign(t, new(modelsig.Client), r.host+"/acme/packed:v1", signer, modelsig.SignOptions{})
	mustSign(t, new(modelsig.Client), r.host+"/acme/alone:v1", signer, modelsig.SignOptions{ArtifactOnly: true})
	layerA := func(staging string) string {
		return filepath.Join(staging, "layers", digest.FromString(tars[0]).Encoded())
	}
	for _, tt := range []struct {
		name   string
		ref    string
		change func(t *testing.T, staging string)
		again  bool // the first layer is read again
	}{
		{"all is there", "packed", nil, false},
		{"no list of files is signed", "alone", nil, true},
		{"a file changed", "packed", func(t *testing.T, s string) { writeFile(t, filepath.Join(s, "files/a/run.py"), "b") }, true},
		{"a file is gone", "packed", func(t *testing.T, s string) { must(t, os.Remove(filepath.Join(s, "files/a/run.py"))) }, true},
		{"a file changed, and what is written down of it", "packed", func(t *testing.T, s string) {
			writeFile(t, filepath.Join(s, "files/a/run.py"), "b")
			data, err := os.ReadFile(layerA(s))
			must(t, err)
			var records []map[string]any
			must(t, json.Unmarshal(data, &records))
			for _, r := range records {
				if r["Name"] == "a/run.py" {
					r["Digest"] = sum("b")
				}
			}
			data, err = json.Marshal(records)
			must(t, err)
			must(t, os.WriteFile(layerA(s), data, 0o600))
		}, true},
		{"a file more", "packed", func(t *testing.T, s string) { writeFile(t, filepath.Join(s, "files/a/evil.py"), "x") }, false},
		{"what is written down is no JSON", "packed", func(t *testing.T, s string) { must(t, os.WriteFile(layerA(s), []byte("x"), 0o600)) }, true},
		{"what is written down is of another layer", "packed", func(t *testing.T, s string) { must(t, os.WriteFile(layerA(s), []byte("[]"), 0o600)) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "out")
			ref := r.host + "/acme/" + tt.ref + ":v1"
			broken := &modelsig.Client{Jobs: 1, Registry: oci.Options{Transport: cutAt(tars[1], 100)}}
			_, err := broken.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{})
			found := stagings(t, parent)
			if err == nil || len(found) != 1 {
				t.Fatalf("error %v, left %q", err, found)
			}
			if tt.change != nil {
				tt.change(t, found[0])
			}
			wire := &meter{}
			client := &modelsig.Client{Registry: oci.Options{Transport: wire}}
			pulled, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{KeepModes: true})
			if err != nil {
				t.Fatal(err)
			}
			wantTree(t, dir, want)
			wantAlone(t, parent, "out")
			for _, name := range []string{"a", "b", "c"} {
				if info, err := os.Stat(filepath.Join(dir, name, "run.py")); err != nil || info.Mode()&0o100 == 0 {
					t.Errorf("%s/run.py: %v, %v", name, info.Mode(), err)
				}
			}
			kept := int64(0)
			if !tt.again {
				kept = 1001
			}
			if n := len(wire.about(digest.FromString(tars[0]).Encoded())); (n > 0) != tt.again || pulled.Kept != kept {
				t.Errorf("%d requests for the first layer, kept %d", n, pulled.Kept)
			}
		})
	}
}
