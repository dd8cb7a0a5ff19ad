//go:build unix

package manifest_test

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/modelsig/modelsig/manifest"
)

// D05
func TestSpecialFiles(t *testing.T) {
	root := folder(t, map[string]string{"a": "x"})
	t.Chdir(root) // the name of a socket must be short
	if err := syscall.Mkfifo("pipe", 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Open("pipe", manifest.OpenOptions{}); code(t, err) != "special-file" {
		t.Errorf("a pipe as the model: %v", err)
	}
	if _, err := list(t, root, manifest.OpenOptions{}); code(t, err) != "special-file" {
		t.Errorf("a pipe: %v", err)
	}
	if names, err := list(t, root, manifest.OpenOptions{}, "pipe"); err != nil || len(names) != 1 {
		t.Errorf("a pipe, ignored: %q, %v", names, err)
	}
	link(t, "pipe", "link")
	if _, err := list(t, root, manifest.OpenOptions{AllowSymlinks: true}, "pipe"); code(t, err) != "symlink" {
		t.Errorf("a link to a pipe: %v", err)
	}
	socket, err := net.Listen("unix", "socket")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if _, err := list(t, root, manifest.OpenOptions{}, "pipe", "link"); code(t, err) != "special-file" {
		t.Errorf("a socket: %v", err)
	}
}

// Rule 37: a pipe in the place of a file is refused, and does not hang us.
func TestPipeInPlaceOfFile(t *testing.T) {
	root := folder(t, map[string]string{"a": "x", "b": "y"})
	d := open(t, root, manifest.OpenOptions{})
	files, err := d.Files(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(root, "b")
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(name, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = new(manifest.Hasher).Hash(t.Context(), files)
	if code(t, err) != "special-file" {
		t.Error(err)
	}
}
