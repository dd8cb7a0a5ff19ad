package manifest_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/modelsig/modelsig/manifest"
)

// D03: each way in which a file changes between the walk and the last byte.
func TestFileChanges(t *testing.T) {
	const content = "0123456789"
	later := func(t *testing.T, name string) {
		future := time.Now().Add(time.Hour)
		if err := os.Chtimes(name, future, future); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		before func(t *testing.T, name string) // between walk and Open
		during func(t *testing.T, name string) // after the first read
		want   error
		code   string
	}{
		{name: "nothing"},
		{name: "it grows before", before: func(t *testing.T, name string) { write(t, name, content+"x") }, want: manifest.ErrChanged},
		{name: "it shrinks before", before: func(t *testing.T, name string) { write(t, name, "x") }, want: manifest.ErrChanged},
		{name: "it is touched before", before: later, want: manifest.ErrChanged},
		{name: "it goes away before", before: remove, want: fs.ErrNotExist},
		{name: "a folder stands there", before: func(t *testing.T, name string) {
			remove(t, name)
			if err := os.Mkdir(name, 0o755); err != nil {
				t.Fatal(err)
			}
		}, code: "special-file"},
		{name: "a link stands there", before: func(t *testing.T, name string) {
			other := filepath.Join(filepath.Dir(name), "other")
			if err := os.Rename(name, other); err != nil {
				t.Fatal(err)
			}
			link(t, "other", name)
		}, code: "symlink"},
		{name: "a link out of the model stands there", before: func(t *testing.T, name string) {
			other := filepath.Join(t.TempDir(), "other")
			if err := os.Rename(name, other); err != nil {
				t.Fatal(err)
			}
			link(t, other, name)
		}, want: errAny},
		{name: "it grows", during: func(t *testing.T, name string) { write(t, name, content+"x") }, want: manifest.ErrChanged},
		{name: "it shrinks", during: func(t *testing.T, name string) { write(t, name, "0123") }, want: manifest.ErrChanged},
		{name: "it is overwritten", during: func(t *testing.T, name string) {
			write(t, name, "9876543210")
			later(t, name)
		}, want: manifest.ErrChanged},
		{name: "it goes away", during: remove, want: manifest.ErrChanged},
		{name: "another is renamed over it", during: func(t *testing.T, name string) {
			other := filepath.Join(t.TempDir(), "other")
			write(t, other, "9876543210")
			later(t, other)
			if err := os.Rename(other, name); err != nil {
				t.Fatal(err)
			}
		}, want: manifest.ErrChanged},
	} {
		eachWay(t, tt.name, func(t *testing.T, prepare func(*manifest.Dir)) {
			root := folder(t, map[string]string{"a": content})
			name := filepath.Join(root, "a")
			d := open(t, root, manifest.OpenOptions{})
			prepare(d)
			files, err := d.Files(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if tt.before != nil {
				tt.before(t, name)
			}
			err = readThrough(&files[0], func() {
				if tt.during != nil {
					tt.during(t, name)
				}
			})
			switch {
			case tt.code != "":
				if got := code(t, err); got != tt.code {
					t.Errorf("error %v, want code %s", err, tt.code)
				}
			case tt.want == errAny:
				if err == nil {
					t.Error("read it")
				}
			case !errors.Is(err, tt.want):
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

var errAny = errors.New("any")

// eachWay runs a test in both ways in which files are opened on some systems.
func eachWay(t *testing.T, name string, test func(t *testing.T, prepare func(*manifest.Dir))) {
	t.Run(name, func(t *testing.T) { test(t, func(*manifest.Dir) {}) })
	t.Run(name+", without the fast way", func(t *testing.T) { test(t, manifest.WithoutFastWay) })
}

// D03 for folders: what stands on the way to a file is not what it was.
func TestFolderChanges(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, folder string)
		ok     bool
	}{
		{"nothing", func(*testing.T, string) {}, true},
		{"it goes away", func(t *testing.T, folder string) {
			if err := os.RemoveAll(folder); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"a link out of the model, to the same files", func(t *testing.T, folder string) {
			moved := filepath.Join(t.TempDir(), "moved")
			if err := os.Rename(folder, moved); err != nil {
				t.Fatal(err)
			}
			link(t, moved, folder)
		}, false},
		{"a file", func(t *testing.T, folder string) {
			if err := os.RemoveAll(folder); err != nil {
				t.Fatal(err)
			}
			write(t, folder, "content")
		}, false},
		{"another folder with a file of that size", func(t *testing.T, folder string) {
			if err := os.RemoveAll(folder); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(folder, "a"), "CONTENT")
			past := time.Unix(1, 0)
			if err := os.Chtimes(filepath.Join(folder, "a"), past, past); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		eachWay(t, tt.name, func(t *testing.T, prepare func(*manifest.Dir)) {
			root := folder(t, map[string]string{"x/y/a": "content"})
			for _, allow := range []bool{false, true} {
				d := open(t, root, manifest.OpenOptions{AllowSymlinks: allow})
				prepare(d)
				files, err := d.Files(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				if allow {
					tt.change(t, filepath.Join(root, "x", "y"))
				}
				content, err := files[0].Open()
				if err == nil {
					_, err = io.Copy(io.Discard, content)
					content.Close()
				}
				if want := tt.ok || !allow; (err == nil) != want {
					t.Errorf("links allowed %v: %v", allow, err)
				}
			}
		})
	}
}

// D03 for shards, which are read at any place: each change while they are
// read is noticed by the end.
func TestFileChangesUnderShards(t *testing.T) {
	content := random(3 << 20)
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, name string)
		want   error
	}{
		{"nothing", func(*testing.T, string) {}, nil},
		{"a byte is appended", func(t *testing.T, name string) { write(t, name, string(content)+"x") }, manifest.ErrChanged},
		{"it is cut", func(t *testing.T, name string) { write(t, name, "x") }, manifest.ErrChanged},
		{"it goes away", remove, manifest.ErrChanged},
		{"it is touched", func(t *testing.T, name string) {
			future := time.Now().Add(time.Hour)
			if err := os.Chtimes(name, future, future); err != nil {
				t.Fatal(err)
			}
		}, manifest.ErrChanged},
		{"another is renamed over it", func(t *testing.T, name string) {
			other := filepath.Join(t.TempDir(), "other")
			write(t, other, string(content))
			past := time.Unix(1, 0)
			if err := os.Chtimes(other, past, past); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(other, name); err != nil {
				t.Fatal(err)
			}
		}, manifest.ErrChanged},
	} {
		eachWay(t, tt.name, func(t *testing.T, prepare func(*manifest.Dir)) {
			root := folder(t, map[string]string{"a": string(content)})
			d := open(t, root, manifest.OpenOptions{})
			prepare(d)
			files, err := d.Files(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			var once sync.Once
			h := manifest.Hasher{Hashing: manifest.Hashing{ShardSize: 1 << 20}, Jobs: 2, Progress: func(int64) {
				once.Do(func() { tt.change(t, filepath.Join(root, "a")) })
			}}
			if _, err = h.Hash(t.Context(), files); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

// readThrough reads f in small pieces, with a break after the first.
func readThrough(f *manifest.File, pause func()) error {
	content, err := f.Open()
	if err != nil {
		return err
	}
	defer content.Close()
	var buf [5]byte
	if _, err := io.ReadFull(content, buf[:]); err != nil {
		return err
	}
	pause()
	_, err = io.Copy(io.Discard, content)
	return err
}

func remove(t *testing.T, name string) {
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

// A file that is appended to for as long as it is read ends in ErrChanged.
func TestEndlessFile(t *testing.T) {
	root := folder(t, map[string]string{"log": "0123456789"})
	files, err := open(t, root, manifest.OpenOptions{}).Files(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	content, err := files[0].Open()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	log, err := os.OpenFile(filepath.Join(root, "log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	buf := make([]byte, 4)
	for range 100 {
		if _, err := log.WriteString("more"); err != nil {
			t.Fatal(err)
		}
		if _, err := content.Read(buf); errors.Is(err, manifest.ErrChanged) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("still reading")
}
