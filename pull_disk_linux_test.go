package modelsig_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

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
