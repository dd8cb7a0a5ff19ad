package modelsig_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/manifest"
)

func TestPullIntoWhatIsThere(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, tinyFiles, signer)
	with := func(name, content string) map[string]string {
		files := maps.Clone(tinyFiles)
		files[name] = content
		return files
	}
	for _, tt := range []struct {
		name  string
		files map[string]string
	}{
		{"a file changed", with("config.json", "{ }")},
		{"a file more", with("extra", "")},
		{"a file less", map[string]string{"config.json": "{}"}},
		{"something else", map[string]string{"x/y/z": "mine"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "out")
			for name, content := range tt.files {
				writeFile(t, filepath.Join(dir, name), content)
			}
			_, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{})
			if !errors.Is(err, modelsig.ErrOccupied) || errors.Is(err, modelsig.ErrRefused) {
				t.Errorf("error %v", err)
			}
			wantTree(t, dir, tt.files)
			wantAlone(t, parent, "out")
			generous := trusts(signer)
			generous.Subset, generous.IgnoreUnsignedFiles, generous.IgnorePaths = true, true, manifest.Ignore{"extra"}
			if _, err := client.Pull(t.Context(), ref, dir, generous, modelsig.PullOptions{}); !errors.Is(err, modelsig.ErrOccupied) {
				t.Errorf("with a policy that does not mind: %v", err)
			}
			pulled, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{Overwrite: true})
			if err != nil || pulled.Unchanged || len(pulled.Warnings) != 0 {
				t.Fatalf("overwrite: %+v, %v", pulled, err)
			}
			wantTree(t, dir, tinyFiles)
			wantAlone(t, parent, "out")
			pulled, err = client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{Overwrite: true})
			if err != nil || !pulled.Unchanged {
				t.Errorf("overwrite what verifies: %+v, %v", pulled, err)
			}
		})
	}
	t.Run("an empty folder", func(t *testing.T) {
		dir := t.TempDir()
		if _, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{}); err != nil {
			t.Fatal(err)
		}
		wantTree(t, dir, tinyFiles)
		wantAlone(t, dir, "config.json", "weights")
	})
	t.Run("links, files and what is not there", func(t *testing.T) {
		parent := t.TempDir()
		target := filepath.Join(parent, "target")
		if err := os.Mkdir(target, 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(parent, "file"), "x")
		for name, to := range map[string]string{"link": target, "dangling": filepath.Join(parent, "nowhere")} {
			if err := os.Symlink(to, filepath.Join(parent, name)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := client.Pull(t.Context(), ref, "", trusts(signer), modelsig.PullOptions{}); err == nil {
			t.Error("no name: no error")
		}
		for _, name := range []string{"link", "link/", "dangling", "file", "missing/out"} {
			if _, err := client.Pull(t.Context(), ref, filepath.Join(parent, name), trusts(signer), modelsig.PullOptions{Overwrite: true}); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		wantAlone(t, parent, "link", "dangling", "file", "target")
		wantAlone(t, target)
	})
}

// A signer's own list of what to ignore is for his folder.
func TestPullIgnoresNothing(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	sig, err := client.SignDir(t.Context(), writeModel(t, tinyFiles), signer, modelsig.SignOptions{IgnorePaths: []string{"notes"}})
	if err != nil {
		t.Fatal(err)
	}
	r.attach(t, "acme/tiny", r.put(t, "acme/tiny", "v1", tiny()), modelType, sig.Model.Bundle)
	for _, content := range tinyFiles {
		r.putBlob(t, "acme/tiny", content)
	}
	dir := filepath.Join(t.TempDir(), "out")
	pull := func() (*modelsig.Pulled, error) {
		return client.Pull(t.Context(), r.host+"/acme/tiny:v1", dir, lenient(signer), modelsig.PullOptions{})
	}
	for range 2 {
		if _, err := pull(); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"notes/run.py", ".gitignore"} {
		writeFile(t, filepath.Join(dir, name), "x")
		if _, err := pull(); !errors.Is(err, modelsig.ErrOccupied) {
			t.Errorf("%s: error %v", name, err)
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// The folder appears while the pull is at work.
func TestPullReplacesNothingThatAppears(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, tinyFiles, signer)
	for _, at := range []string{"staged", "written", "synced"} {
		for name, files := range map[string]map[string]string{"another": {"mine": "x"}, "this": tinyFiles} {
			for _, inside := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s model, %s, inside %t", name, at, inside), func(t *testing.T) {
					parent := t.TempDir()
					dir := filepath.Join(parent, "out")
					if inside {
						if err := os.Mkdir(dir, 0o755); err != nil {
							t.Fatal(err)
						}
					}
					client := new(modelsig.Client)
					client.SetStep(func(step string) {
						if step == at {
							for name, content := range files {
								writeFile(t, filepath.Join(dir, name), content)
							}
						}
					})
					pulled, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{})
					if name == "this" && (err != nil || !pulled.Unchanged) || name == "another" && err == nil {
						t.Errorf("%+v, %v", pulled, err)
					}
					wantTree(t, dir, files)
					wantAlone(t, parent, "out")
				})
			}
		}
	}
	t.Run("an empty one", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "out")
		client := new(modelsig.Client)
		client.SetStep(func(step string) {
			if step == "synced" {
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Error(err)
				}
			}
		})
		if _, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{}); err == nil {
			wantTree(t, dir, tinyFiles)
		} else {
			wantAlone(t, dir)
		}
	})
}

func TestPullTakesBackWhatItMoved(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, pullFiles, signer)
	parent := t.TempDir()
	dir := filepath.Join(parent, "out")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	client := new(modelsig.Client)
	client.SetStep(func(step string) {
		if step == "move empty" { // two are there by now
			wantAlone(t, dir, append([]string{"again", "config.json"}, baseNames(stagings(t, dir))...)...)
			writeFile(t, filepath.Join(dir, "weights/mine"), "x")
		}
	})
	if _, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{}); !errors.Is(err, modelsig.ErrOccupied) {
		t.Errorf("error %v", err)
	}
	wantTree(t, dir, map[string]string{"weights/mine": "x"})
	wantAlone(t, dir, "weights")
}

func baseNames(paths []string) []string {
	var out []string
	for _, p := range paths {
		out = append(out, filepath.Base(p))
	}
	return out
}

// A link to a folder that has the model is no folder that has it.
func TestPullRefusesALinkThatAppears(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	ref := r.host + "/acme/tiny:v1"
	pushSigned(t, ref, tinyFiles, signer)
	parent, elsewhere := t.TempDir(), writeModel(t, tinyFiles)
	dir := filepath.Join(parent, "out")
	client := new(modelsig.Client)
	client.SetStep(func(step string) {
		if step == "synced" {
			if err := os.Symlink(elsewhere, dir); err != nil {
				t.Error(err)
			}
		}
	})
	if pulled, err := client.Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{}); err == nil {
		t.Errorf("%+v", pulled)
	}
	wantAlone(t, parent, "out")
	wantTree(t, elsewhere, tinyFiles)
}

// Both end well, or one is refused; never is one half of the one and half of
// the other.
func TestPullsAtOnce(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	other := map[string]string{"config.json": "other", "other.bin": "x"}
	pushSigned(t, r.host+"/acme/tiny:v1", pullFiles, signer)
	pushSigned(t, r.host+"/acme/tiny:v2", other, signer)
	for name, make := range map[string]func(dir string) error{
		"no folder":       func(string) error { return nil },
		"an empty folder": func(dir string) error { return os.Mkdir(dir, 0o755) },
	} {
		for _, overwrite := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, overwrite %t", name, overwrite), func(t *testing.T) {
				parent := t.TempDir()
				dir := filepath.Join(parent, "out")
				if err := make(dir); err != nil {
					t.Fatal(err)
				}
				var group sync.WaitGroup
				var done atomic.Int64
				for i := range 8 {
					group.Go(func() {
						ref := fmt.Sprintf("%s/acme/tiny:v%d", r.host, i%2+1)
						_, err := new(modelsig.Client).Pull(t.Context(), ref, dir, trusts(signer), modelsig.PullOptions{Overwrite: overwrite})
						switch {
						case err == nil:
							done.Add(1)
						case errors.Is(err, modelsig.ErrRefused):
							t.Errorf("the model was refused: %v", err)
						}
					})
				}
				group.Wait()
				if done.Load() == 0 {
					t.Error("all failed")
				}
				if got := readTree(t, dir); !maps.Equal(got, pullFiles) && !maps.Equal(got, other) {
					t.Errorf("a mix: %q", slices.Sorted(maps.Keys(got)))
				}
				wantAlone(t, parent, "out")
			})
		}
	}
}
