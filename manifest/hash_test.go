package manifest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/modelsig/modelsig/manifest"
)

// memory is a file of the content given.
func memory(name, content string) manifest.File {
	return manifest.File{Name: name, Size: int64(len(content)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	}}
}

func TestHash(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 200_000) // more than one buffer
	files := []manifest.File{memory("z", "1"), memory("big", big), memory("empty", ""), memory("a/b", "2")}
	files = append(files, manifest.File{Name: "layer", Size: 1 << 40, Digest: sum("known")})
	want := []manifest.Resource{resource("a/b", "2"), resource("big", big), resource("empty", ""), resource("layer", "known"), resource("z", "1")}
	for _, jobs := range []int{-1, 0, 1, 2, 1 << 30} {
		var read atomic.Int64
		h := manifest.Hasher{Jobs: jobs, Progress: func(n int64) { read.Add(n) }}
		got, err := h.Hash(t.Context(), files)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%d jobs: %+v", jobs, got)
		}
		if n := read.Load(); n != int64(len(big))+2 {
			t.Errorf("%d jobs: progress of %d bytes", jobs, n)
		}
	}
	got, err := new(manifest.Hasher).Hash(t.Context(), nil)
	if err != nil || len(got) != 0 {
		t.Errorf("no files: %v, %v", got, err)
	}
}

func TestHashErrors(t *testing.T) {
	broken := errors.New("broken")
	reader := func(r io.Reader) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) { return io.NopCloser(r), nil }
	}
	for _, tt := range []struct {
		name string
		file manifest.File
		want string
		is   error
	}{
		{"it cannot be opened", manifest.File{Name: "bad", Open: func() (io.ReadCloser, error) { return nil, broken }}, `hash "bad"`, broken},
		{"it cannot be read", manifest.File{Name: "bad", Size: 3, Open: reader(iotest.ErrReader(broken))}, `hash "bad"`, broken},
		{"it breaks off", manifest.File{Name: "bad", Size: 3, Open: reader(io.MultiReader(strings.NewReader("x"), iotest.ErrReader(broken)))}, `hash "bad"`, broken},
		{"it is too short", manifest.File{Name: "bad", Size: 3, Open: reader(strings.NewReader("xx"))}, "size is 3", nil},
		{"it is too long", manifest.File{Name: "bad", Size: 3, Open: reader(strings.NewReader("xxxx"))}, "size is 3", nil},
		{"it never ends", manifest.File{Name: "bad", Size: 3, Open: reader(endless{})}, "size is 3", nil},
		{"there is nothing to hash", manifest.File{Name: "bad", Size: 3}, "neither", nil},
		{"its digest is of another length", manifest.File{Name: "bad", Size: 3, Digest: make([]byte, 64)}, "64 bytes", nil},
		{"its name is hostile", manifest.File{Name: "bad\x1b[2J", Size: 3, Open: reader(iotest.ErrReader(broken))}, `"bad\x1b[2J"`, broken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := []manifest.File{memory("a", "1"), tt.file, memory("z", "2")}
			got, err := new(manifest.Hasher).Hash(t.Context(), files)
			expect(t, err, tt.want)
			if got != nil || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// The largest file is opened first.
func TestHashOrder(t *testing.T) {
	var order []string
	var files []manifest.File
	for _, size := range []int{3, 9, 1, 7} { // MiB; small ones follow by name
		f := memory(fmt.Sprint(size), strings.Repeat("x", size<<20+1))
		inner := f.Open
		f.Open = func() (io.ReadCloser, error) {
			order = append(order, f.Name)
			return inner()
		}
		files = append(files, f)
	}
	h := manifest.Hasher{Jobs: 1}
	if _, err := h.Hash(t.Context(), files); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(order, " "); got != "9 7 3 1" {
		t.Errorf("order %s", got)
	}
}

// An error stops readers that would go on, and so does ctx.
func TestHashStops(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name   string
		cancel bool
		want   error
	}{{"after an error", false, broken}, {"when cancelled", true, context.Canceled}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				started := make(chan struct{})
				var closed atomic.Int64
				long := manifest.File{Name: "long", Size: 1 << 62, Open: func() (io.ReadCloser, error) {
					close(started)
					return closer{endless{}, &closed}, nil
				}}
				bad := manifest.File{Name: "bad", Size: 1, Open: func() (io.ReadCloser, error) {
					<-started
					if tt.cancel {
						cancel()
						return io.NopCloser(strings.NewReader("x")), nil
					}
					return nil, broken
				}}
				h := manifest.Hasher{Jobs: 2}
				_, err := h.Hash(ctx, []manifest.File{bad, long})
				if !errors.Is(err, tt.want) {
					t.Errorf("%v, want %v", err, tt.want)
				}
				if closed.Load() != 1 {
					t.Error("a file stays open")
				}
			})
		})
	}
}

type closer struct {
	io.Reader
	closed *atomic.Int64
}

func (c closer) Close() error {
	c.closed.Add(1)
	return nil
}

// A file's slice is not shared with what comes back from another.
func TestHashDigestsAreSeparate(t *testing.T) {
	got, err := new(manifest.Hasher).Hash(t.Context(), []manifest.File{memory("a", "1"), memory("b", "2")})
	if err != nil {
		t.Fatal(err)
	}
	_ = append(got[0].Digest, 0xff)
	if !bytes.Equal(got[1].Digest, sum("2")) {
		t.Error("digests overlap")
	}
}
