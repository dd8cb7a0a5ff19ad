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

// What moved up into an empty folder before the pull died is taken back only if
// it still is what moved: nothing of the user's is.
func TestPullTakesBackOnlyWhatItMoved(t *testing.T) {
	r := newRegistry(t)
	signer, key := newKeyPair(t)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, pullFiles, signer)
	policy, err := modelsig.KeyPolicy([]byte(key))
	must(t, err)
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, dir string)
	}{
		{"another file of that name", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "config.json")))
			writeFile(t, filepath.Join(dir, "config.json"), "my")
		}},
		{"the file was written to", func(t *testing.T, dir string) {
			f, err := os.OpenFile(filepath.Join(dir, "config.json"), os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteString("my")
			must(t, errors.Join(err, f.Close()))
		}},
		{"another folder of that name", func(t *testing.T, dir string) {
			must(t, os.RemoveAll(filepath.Join(dir, "again")))
			writeFile(t, filepath.Join(dir, "again/mine/thesis.tex"), "x")
		}},
		{"a file in the folder", func(t *testing.T, dir string) { writeFile(t, filepath.Join(dir, "again/mine/thesis.tex"), "x") }},
		{"a folder where a file was", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "config.json")))
			writeFile(t, filepath.Join(dir, "config.json/thesis.tex"), "x")
		}},
		{"a file of another name", func(t *testing.T, dir string) { writeFile(t, filepath.Join(dir, "thesis.tex"), "x") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if out, err := (child{Ref: ref, Dir: dir, Key: key, KillOn: "move weights"}).start(t); err == nil || !strings.Contains(out, "killed at move") {
				t.Fatalf("%v: %s", err, out)
			}
			tt.change(t, dir)
			tree := func() map[string]string {
				got := readTree(t, dir)
				maps.DeleteFunc(got, func(name, content string) bool {
					// What is the pull's own may go back, or stay.
					return strings.HasPrefix(name, "."+filepath.Base(dir)+".modelsig-") || pullFiles[name] == content
				})
				return got
			}
			want := tree()
			if len(want) == 0 {
				t.Fatal("nothing is the user's")
			}
			// A pull that is refused touches nothing either.
			if _, err := new(modelsig.Client).Pull(t.Context(), ref, dir, modelsig.Policy{}, modelsig.PullOptions{}); !errors.Is(err, modelsig.ErrRefused) {
				t.Errorf("nobody is trusted: %v", err)
			}
			if got := tree(); !maps.Equal(got, want) {
				t.Errorf("the folder has %q, want %q", got, want)
			}
			if _, err := new(modelsig.Client).Pull(t.Context(), ref, dir, policy, modelsig.PullOptions{}); !errors.Is(err, modelsig.ErrOccupied) {
				t.Errorf("error %v", err)
			}
			if got := tree(); !maps.Equal(got, want) {
				t.Errorf("the folder has %q, want %q", got, want)
			}
			if _, err := new(modelsig.Client).Pull(t.Context(), ref, dir, policy, modelsig.PullOptions{Overwrite: true}); err != nil {
				t.Fatal(err)
			}
			wantTree(t, dir, pullFiles)
		})
	}
}

// A folder in which a file has a mode with a meaning, or another owner, is not
// what a pull writes, whatever the bytes are.
func TestPullVouchesForPlainFilesOnly(t *testing.T) {
	r := newRegistry(t)
	signer, key := newKeyPair(t)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, pullFiles, signer)
	const me, other = 1001, 1002
	for _, tt := range []struct {
		name   string
		change func(name string) error
		root   bool // only root can make it so
		ok     bool
	}{
		{"as it was", func(string) error { return nil }, false, true},
		{"a program", func(name string) error { return os.Chmod(name, 0o755) }, false, true},
		{"setuid", func(name string) error { return os.Chmod(name, 0o755|os.ModeSetuid) }, false, false},
		{"setgid", func(name string) error { return os.Chmod(name, 0o755|os.ModeSetgid) }, false, false},
		{"sticky", func(name string) error { return os.Chmod(name, 0o755|os.ModeSticky) }, false, false},
		{"of another user", func(name string) error { return os.Lchown(name, other, other) }, true, false},
		{"of root", func(name string) error { return os.Lchown(name, 0, 0) }, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := child{Ref: ref, Key: key}
			parent, err := os.MkdirTemp("", "pull") // which others may look into
			must(t, err)
			t.Cleanup(func() { must(t, os.RemoveAll(parent)) })
			must(t, os.Chmod(parent, 0o755))
			c.Dir = filepath.Join(parent, "out")
			switch {
			case os.Geteuid() == 0:
				must(t, os.Chown(parent, me, me))
				c.UID = me
			case tt.root:
				t.Skip("only root can change owners")
			}
			if out, err := c.start(t); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			must(t, tt.change(filepath.Join(c.Dir, "weights/b.bin")))
			out, err := c.start(t)
			if (err == nil) != tt.ok || strings.Contains(out, "unchanged true") != tt.ok || !tt.ok && !strings.Contains(out, "is not this model") {
				t.Errorf("%v: %s", err, out)
			}
			c.Overwrite = true
			if out, err := c.start(t); err != nil || strings.Contains(out, "unchanged true") != tt.ok {
				t.Errorf("overwrite: %v: %s", err, out)
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

// Whoever may write to the folder around DIR can give any folder of the user
// the name of a staging folder. It is none, and nothing in it is touched.
func TestPullRemovesNoFolderOfTheUser(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	ref := r.host + "/acme/tiny:v1"
	pushed := pushSigned(t, ref, pullFiles, signer)
	name := ".out.modelsig-" + strings.TrimPrefix(pushed.Digest, "sha256:")[:16] + "-0123456789abcdef"
	marker := func(name string) string { return "modelsig pull works in " + name + ", and removes it.\n" }
	private := func(t *testing.T, dir string, files map[string]string) {
		t.Helper()
		must(t, os.Mkdir(dir, 0o700))
		for name, content := range files {
			writeFile(t, filepath.Join(dir, name), content)
		}
		if _, ok := files["staging"]; ok {
			must(t, os.Chmod(filepath.Join(dir, "staging"), 0o600))
		}
	}
	for _, tt := range []struct {
		name  string
		files map[string]string
		mode  os.FileMode // of the marker; 0: 0600
	}{
		{"his own files", map[string]string{"thesis.tex": "x", "data/1": "1"}, 0},
		{"files that look like ours", map[string]string{"files/thesis.tex": "x", "layers/x": "x"}, 0},
		{"a marker of another folder", map[string]string{"files/thesis.tex": "x", "staging": marker(name[:len(name)-1] + "0")}, 0},
		{"a marker, and more", map[string]string{"thesis.tex": "x", "staging": marker(name)}, 0},
		{"a marker that a model brought", map[string]string{"files/thesis.tex": "x", "staging": marker(name)}, 0o644},
	} {
		for _, inside := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, inside %t", tt.name, inside), func(t *testing.T) {
				parent := t.TempDir()
				dir := filepath.Join(parent, "out")
				place := parent
				if inside {
					must(t, os.Mkdir(dir, 0o755))
					place = dir
				}
				his := filepath.Join(place, name)
				private(t, his, tt.files)
				if tt.mode != 0 {
					must(t, os.Chmod(filepath.Join(his, "staging"), tt.mode))
				}
				_, err := new(modelsig.Client).Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{})
				wantTree(t, his, tt.files)
				if inside {
					if !errors.Is(err, modelsig.ErrOccupied) {
						t.Errorf("a folder with something in it: %v", err)
					}
					wantAlone(t, dir, name)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				wantTree(t, dir, pullFiles)
				wantAlone(t, parent, "out", name)
				// And not when there is nothing to do but to clean up.
				if pulled, err := new(modelsig.Client).Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{}); err != nil || !pulled.Unchanged {
					t.Fatalf("%+v, %v", pulled, err)
				}
				wantTree(t, his, tt.files)
			})
		}
	}
	t.Run("an empty one is what a pull may leave", func(t *testing.T) {
		parent := t.TempDir()
		private(t, filepath.Join(parent, name), nil)
		if _, err := new(modelsig.Client).Pull(t.Context(), ref, filepath.Join(parent, "out"), trusts(signer), modelsig.PullOptions{}); err != nil {
			t.Fatal(err)
		}
		wantAlone(t, parent, "out")
	})
	// The name changes hands while the pull is at work.
	for _, at := range []string{"staged", "synced", "published"} {
		t.Run("the name of ours, at "+at, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "out")
			his := map[string]string{"files/thesis.tex": "x", "thesis.tex": "y"}
			client, taken := new(modelsig.Client), ""
			client.SetStep(func(step string) {
				if step == at {
					taken = stagings(t, parent)[0]
					must(t, os.Rename(taken, filepath.Join(parent, "elsewhere")))
					private(t, taken, his)
				}
			})
			_, _ = client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{})
			wantTree(t, taken, his)
		})
	}
	t.Run("the name of what is replaced", func(t *testing.T) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "out")
		writeFile(t, filepath.Join(dir, "old"), "old")
		his := map[string]string{"thesis.tex": "y"}
		client := new(modelsig.Client)
		client.SetStep(func(step string) {
			if step == "synced" {
				must(t, os.Rename(dir, filepath.Join(parent, "elsewhere")))
				private(t, dir, his)
			}
		})
		if _, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{Overwrite: true}); err == nil || !strings.Contains(err.Error(), "another folder has its name") {
			t.Errorf("error %v", err)
		}
		wantTree(t, dir, his)
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A disk that is full, here a limit on the size of files.
func TestPullOntoAFullDisk(t *testing.T) {
	r := newRegistry(t)
	signer, key := newKeyPair(t)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, pullFiles, signer)
	parent := t.TempDir()
	dir := filepath.Join(parent, "out")
	out, err := child{Ref: ref, Dir: dir, Key: key, FileSize: 64 << 10}.start(t)
	if err == nil || !strings.Contains(out, "file too large") || !strings.Contains(out, "kept in") {
		t.Fatalf("%v: %s", err, out)
	}
	if readTree(t, dir) != nil {
		t.Fatal("there is a folder")
	}
	out, err = child{Ref: ref, Dir: dir, Key: key}.start(t)
	if err != nil || strings.Contains(out, "kept 0\n") {
		t.Fatalf("%v: %s", err, out)
	}
	wantTree(t, dir, pullFiles)
	wantAlone(t, parent, "out")
}

// A mount point cannot be renamed: the files move up inside it.
func TestPullIntoAMountPoint(t *testing.T) {
	r := newRegistry(t)
	signer, key := newKeyPair(t)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, pullFiles, signer)
	big := r.host + "/acme/big:v1"
	pushSigned(t, big, map[string]string{"big.bin": strings.Repeat("x", 2<<20)}, signer)
	want := []string{"entry again", "entry config.json", "entry empty", "entry weights"}
	for _, tt := range []struct {
		name string
		c    child
		want []string // entries of the folder
		fail string   // part of the error; "": none
	}{
		{"an empty file system", child{Ref: ref, Mount: "tmpfs"}, want, ""},
		{"a file system with something on it", child{Ref: ref, Mount: "tmpfs", Overwrite: true}, want, ""},
		{"a bind mount", child{Ref: ref, Mount: "bind"}, want, ""},
		{"a bind mount with something in it", child{Ref: ref, Mount: "bind", Overwrite: true}, want, ""},
		{"a full file system", child{Ref: big, Mount: "tmpfs"}, nil, "no space left on device"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parent := t.TempDir()
			c := tt.c
			c.Key, c.Dir, c.Check = key, filepath.Join(parent, "out"), true
			must(t, os.Mkdir(c.Dir, 0o755))
			out, err := c.start(t)
			if errors.Is(err, syscall.EPERM) || strings.Contains(out, "operation not permitted") {
				t.Skip("only root can mount")
			}
			if (err == nil) != (tt.fail == "") || !strings.Contains(out, tt.fail) {
				t.Fatalf("%v: %s", err, out)
			}
			var got []string
			for line := range strings.Lines(out) {
				if line = strings.TrimSpace(line); strings.HasPrefix(line, "entry ") && !strings.Contains(line, "modelsig-") {
					got = append(got, line)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("the folder has %q, want %q", got, tt.want)
			}
			if tt.fail == "" && strings.Contains(out, "modelsig-") {
				t.Errorf("something is left: %s", out)
			}
			wantAlone(t, parent, "out")
		})
	}
}

// What is mounted below a folder is not removed with it.
func TestPullOverwritesNoMountPoint(t *testing.T) {
	r := newRegistry(t)
	signer, key := newKeyPair(t)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, pullFiles, signer)
	for _, tt := range []struct {
		name string
		c    child
		want []string // parts of the output
		ok   bool
	}{
		{"a file system", child{MountBelow: "tmpfs"}, []string{`below it, at "be low/x", another file system is mounted`, "mounted files 1 0"}, false},
		{"a bind mount", child{MountBelow: "bind"}, []string{`below it, at "be low/x", another file system is mounted`, "mounted files 1 0"}, false},
		{"below a mount point", child{Mount: "bind", MountBelow: "tmpfs"}, []string{`below it, at "be low/x", another file system is mounted`, "mounted files 1 0"}, false},
		{"while the pull is at work", child{MountOn: "synced"}, []string{`below it, at "be low/x", another file system is mounted`, "mounted files 1 0"}, false},
		// Then it is too late to refuse, and the old folder stays.
		{"when it is done", child{MountOn: "published"}, []string{"another file system is mounted there", "could not be removed", "mounted files 0 1"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parent := t.TempDir()
			c := tt.c
			c.Ref, c.Key, c.Dir, c.Overwrite = ref, key, filepath.Join(parent, "out"), true
			must(t, os.MkdirAll(filepath.Join(c.Dir, "be low", "x"), 0o755))
			writeFile(t, filepath.Join(c.Dir, "mine"), "x")
			must(t, os.Mkdir(c.Dir+".data", 0o755))
			out, err := c.start(t)
			if errors.Is(err, syscall.EPERM) || strings.Contains(out, "operation not permitted") {
				t.Skip("only root can mount")
			}
			if (err == nil) != tt.ok {
				t.Errorf("%v: %s", err, out)
			}
			for _, want := range tt.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in %s", want, out)
				}
			}
			if tt.ok {
				wantTree(t, c.Dir, pullFiles)
			} else if c.Mount == "" {
				wantTree(t, c.Dir, map[string]string{"mine": "x"})
			}
		})
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
