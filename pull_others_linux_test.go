package modelsig_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelsig/modelsig"
)

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
