package manifest_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"testing"
	"testing/fstest"
	"time"

	"github.com/modelsig/modelsig/manifest"
)

func TestFromFSFindsWhatAFolderHas(t *testing.T) {
	root := folder(t, map[string]string{"b/x": "1", "b.bin": "22", "a/b/c": "333", "empty": "", ".git/config": "g"})
	files, err := manifest.FromFS(t.Context(), os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	for _, hashing := range []manifest.Hashing{{}, {Type: manifest.BLAKE3, ShardSize: 2}} {
		h := manifest.Hasher{Hashing: hashing}
		got, err := h.Hash(t.Context(), files)
		if err != nil {
			t.Fatal(err)
		}
		walked, err := open(t, root, manifest.OpenOptions{}).Files(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want, err := h.Hash(t.Context(), walked)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, want %+v, %v", got, want, err)
		}
	}
}

func TestFromFSRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		fsys fstest.MapFS
		code string
	}{
		{"a link", fstest.MapFS{"a": {Mode: fs.ModeSymlink, Data: []byte("b")}, "b": {}}, manifest.CodeSymlink},
		{"a pipe", fstest.MapFS{"a": {Mode: fs.ModeNamedPipe}}, "special-file"},
		{"a device", fstest.MapFS{"a": {Mode: fs.ModeDevice}}, "special-file"},
		{"a backslash", fstest.MapFS{`a\b`: {}}, "name-backslash"},
		{"a control character", fstest.MapFS{"a\n": {}}, "name-control"},
		{"a drive", fstest.MapFS{"C:x": {}}, "name-absolute"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := manifest.FromFS(t.Context(), tt.fsys); code(t, err) != tt.code {
				t.Errorf("%v, want %s", err, tt.code)
			}
		})
	}
	if runtime.GOOS != "windows" {
		root := folder(t, map[string]string{"a\xff": ""})
		if _, err := manifest.FromFS(t.Context(), os.DirFS(root)); code(t, err) != "name-not-utf8" {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := manifest.FromFS(ctx, fstest.MapFS{"a": {}}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := manifest.FromFS(t.Context(), os.DirFS(filepath.Join(t.TempDir(), "no\x1b"))); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestFromFSNoticesChanges(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(fstest.MapFS)
		want   error
		code   string
	}{
		{name: "nothing", change: func(fstest.MapFS) {}},
		{name: "it grew", change: func(m fstest.MapFS) { m["a"] = &fstest.MapFile{Data: []byte("12")} }, want: manifest.ErrChanged},
		{name: "it was touched", change: func(m fstest.MapFS) { m["a"] = &fstest.MapFile{Data: []byte("1"), ModTime: time.Unix(1, 0)} }, want: manifest.ErrChanged},
		{name: "it is gone", change: func(m fstest.MapFS) { delete(m, "a") }, want: fs.ErrNotExist},
		{name: "a pipe stands there", change: func(m fstest.MapFS) { m["a"] = &fstest.MapFile{Mode: fs.ModeNamedPipe, Data: []byte("1")} }, code: "special-file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fsys := fstest.MapFS{"a": {Data: []byte("1")}}
			files, err := manifest.FromFS(t.Context(), fsys)
			if err != nil {
				t.Fatal(err)
			}
			tt.change(fsys)
			_, err = new(manifest.Hasher).Hash(t.Context(), files)
			switch {
			case tt.code != "" && code(t, err) != tt.code:
				t.Errorf("%v, want %s", err, tt.code)
			case tt.code == "" && !errors.Is(err, tt.want):
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}
