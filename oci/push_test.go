package oci_test

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	oras "oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/file"
	orasoci "oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

// fileOf is a file in memory.
func fileOf(name, content string) manifest.File {
	return manifest.File{Name: name, Size: int64(len(content)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	}}
}

func modelFiles() []manifest.File {
	return []manifest.File{
		fileOf("model.safetensors", strings.Repeat("w", 100_000)),
		fileOf("config.json", `{"a":1}`),
		fileOf("onnx/model.onnx", "onnx"),
		fileOf("copy.onnx", "onnx"),
		fileOf("empty.txt", ""),
		fileOf("README.MD", "# read"),
		fileOf("nothing.json", "{}"),
		fileOf(".gitattributes", "* text"),
	}
}

// A recorder counts requests by method and kind.
type recorder struct {
	next http.Handler
	mu   sync.Mutex
	log  []string
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.log = append(r.log, req.Method+" "+req.URL.Path)
	r.mu.Unlock()
	r.next.ServeHTTP(w, req)
}

func (r *recorder) count(prefix string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, entry := range r.log {
		if strings.HasPrefix(entry, prefix) {
			n++
		}
	}
	return n
}

// targets are what Push works on: a registry and a layout.
func targets(t *testing.T) map[string]string {
	return map[string]string{
		"registry": serve(t, newRegistry()) + "/acme/m:v1",
		"layout":   "oci:" + filepath.Join(t.TempDir(), "a", "b") + ":v1",
	}
}

func TestPush(t *testing.T) {
	for name, written := range targets(t) {
		t.Run(name, func(t *testing.T) {
			client := newClient(t, oci.Options{})
			ref := mustParse(t, written)
			var progress atomic.Int64
			files := modelFiles()
			pushed, err := client.Push(t.Context(), ref, files, oci.PushOptions{Progress: func(n int64) { progress.Add(n) }})
			if err != nil {
				t.Fatal(err)
			}
			var total int64
			for _, f := range files {
				total += f.Size
			}
			if got := progress.Load(); got != 2*total {
				t.Errorf("progress %d, want %d", got, 2*total)
			}
			opened, err := client.Open(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(opened.Manifest.Bytes, pushed.Manifest.Bytes) || opened.Reference != pushed.Reference {
				t.Errorf("opened %v, pushed %v", opened.Reference, pushed.Reference)
			}
			mapped, err := opened.Manifest.Files(oci.FilesOptions{})
			if err != nil {
				t.Fatal(err)
			}
			want := []string{"README.MD", "config.json", "copy.onnx", "empty.txt", "model.safetensors", "nothing.json", "onnx/model.onnx"}
			if got := names(mapped.Files); !slices.Equal(got, want) || !slices.Equal(mapped.GitFiles, []string{".gitattributes"}) {
				t.Errorf("files %q and %q", got, mapped.GitFiles)
			}
			if len(mapped.Uncovered) != 0 {
				t.Errorf("uncovered %q", mapped.Uncovered)
			}
			if opened.Manifest.ArtifactType != "application/vnd.unknown.artifact.v1" || opened.Manifest.Annotations[ocispec.AnnotationCreated] == "" {
				t.Errorf("manifest %s", opened.Manifest.Bytes)
			}
			types := map[string]string{}
			for _, l := range opened.Manifest.Layers {
				types[l.Annotations[ocispec.AnnotationTitle]] = l.MediaType
				rc, err := opened.Fetch(t.Context(), l)
				if err != nil {
					t.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, rc); err != nil || n != l.Size {
					t.Errorf("%d bytes, %v", n, err)
				}
				rc.Close()
			}
			if types["config.json"] != "application/json" || types["README.MD"] != "text/markdown" || types["model.safetensors"] != "application/octet-stream" {
				t.Errorf("media types %v", types)
			}
			// Again: the tag moves to a manifest with a new time, or stays.
			again, err := client.Push(t.Context(), ref, files[:2], oci.PushOptions{MediaType: "application/vnd.acme", Jobs: 1})
			if err != nil {
				t.Fatal(err)
			}
			if opened, err = client.Open(t.Context(), ref); err != nil || opened.Reference.Digest != again.Reference.Digest {
				t.Errorf("the tag did not move: %v", err)
			}
			if got := again.Manifest.Layers[0].MediaType; got != "application/vnd.acme" {
				t.Errorf("media type %q", got)
			}
		})
	}
}

// What Push wrote, oras pull gives back.
func TestPushIsPulledByOras(t *testing.T) {
	for name, written := range targets(t) {
		t.Run(name, func(t *testing.T) {
			ref := mustParse(t, written)
			files := modelFiles()
			if _, err := newClient(t, oci.Options{}).Push(t.Context(), ref, files, oci.PushOptions{}); err != nil {
				t.Fatal(err)
			}
			var source oras.ReadOnlyTarget
			if ref.IsRegistry() {
				repo, err := remote.NewRepository(ref.Name())
				if err != nil {
					t.Fatal(err)
				}
				repo.PlainHTTP = true
				source = repo
			} else {
				store, err := orasoci.New(ref.Layout)
				if err != nil {
					t.Fatal(err)
				}
				source = store
			}
			dir := t.TempDir()
			store, err := file.New(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			if _, err := oras.Copy(t.Context(), source, "v1", store, "v1", oras.DefaultCopyOptions); err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				rc, _ := f.Open()
				want, _ := io.ReadAll(rc)
				got, err := os.ReadFile(filepath.Join(dir, f.Name))
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: %d bytes, %v", f.Name, len(got), err)
				}
			}
		})
	}
}

func TestPushSendsABlobOnce(t *testing.T) {
	r := &recorder{next: newRegistry()}
	ref := mustParse(t, serve(t, r)+"/m:v1")
	client := newClient(t, oci.Options{})
	files := []manifest.File{fileOf("a", "same"), fileOf("b", "same"), fileOf("c", "other"), fileOf("d", "{}")}
	if _, err := client.Push(t.Context(), ref, files, oci.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := r.count("POST"); n != 3 { // same, other, and {} which is the config too
		t.Errorf("%d uploads", n)
	}
	if last := r.log[len(r.log)-1]; last != "PUT /v2/m/manifests/v1" {
		t.Errorf("the last request is %q", last)
	}
	if _, err := client.Push(t.Context(), ref, files, oci.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := r.count("POST"); n != 3 {
		t.Errorf("%d uploads after pushing again", n)
	}
}

func TestPushRefuses(t *testing.T) {
	r := &recorder{next: newRegistry()}
	host := serve(t, r)
	ok := fileOf("a.bin", "a")
	layout := filepath.Join(t.TempDir(), "full")
	if err := os.MkdirAll(layout, 0o755); err != nil {
		t.Fatal(err)
	}
	writeConfig(t, filepath.Join(layout, "thesis.txt"), "mine")
	for _, test := range []struct {
		name, ref string
		files     []manifest.File
		options   oci.PushOptions
		code      string // "": any error
	}{
		{"no tag", host + "/m", []manifest.File{ok}, oci.PushOptions{}, ""},
		{"a digest", host + "/m:v1@" + digest, []manifest.File{ok}, oci.PushOptions{}, ""},
		{"an archive", "oci-archive:x.tar:v1", []manifest.File{ok}, oci.PushOptions{}, ""},
		{"a layout folder that is full of other things", "oci:" + layout + ":v1", []manifest.File{ok}, oci.PushOptions{}, ""},
		{"a bad media type", host + "/m:v1", []manifest.File{ok}, oci.PushOptions{MediaType: "raw"}, ""},
		{"no content", host + "/m:v1", []manifest.File{{Name: "a", Digest: make([]byte, 32)}}, oci.PushOptions{}, ""},
		{"no files", host + "/m:v1", nil, oci.PushOptions{}, "no-layers"},
		{"git files only", host + "/m:v1", []manifest.File{fileOf(".gitignore", "x")}, oci.PushOptions{}, "no-layers"},
		{"N04", host + "/m:v1", []manifest.File{ok, fileOf("../x", "x")}, oci.PushOptions{}, "name-parent"},
		{"N05", host + "/m:v1", []manifest.File{ok, fileOf("/x", "x")}, oci.PushOptions{}, "name-absolute"},
		{"N10", host + "/m:v1", []manifest.File{ok, fileOf("A.bin", "x")}, oci.PushOptions{}, "case-collision"},
		{"N13", host + "/m:v1", []manifest.File{ok, fileOf("a.bin/x", "x")}, oci.PushOptions{}, "file-and-folder"},
		{"N01", host + "/m:v1", []manifest.File{ok, ok}, oci.PushOptions{}, "duplicate-name"},
		{"N20b", host + "/m:v1", []manifest.File{ok, fileOf(".git/config", "x")}, oci.PushOptions{}, "git-files"},
	} {
		t.Run(test.name, func(t *testing.T) {
			model, err := newClient(t, oci.Options{}).Push(t.Context(), mustParse(t, test.ref), test.files, test.options)
			if err == nil || model != nil {
				t.Fatalf("model %v, error %v", model, err)
			}
			if test.code != "" {
				wantThreat(t, err, test.code)
			}
		})
	}
	if len(r.log) != 0 {
		t.Errorf("requests were made: %q", r.log)
	}
	if names, _ := os.ReadDir(layout); len(names) != 1 {
		t.Errorf("the folder now holds %v", names)
	}
}

func TestPushTooManyFiles(t *testing.T) {
	r := &recorder{next: newRegistry()}
	long := strings.Repeat("x", 200)
	var files []manifest.File
	for i := range 20_000 {
		files = append(files, fileOf(long+godigest.FromBytes([]byte{byte(i), byte(i >> 8)}).Encoded()[:40], ""))
	}
	_, err := newClient(t, oci.Options{}).Push(t.Context(), mustParse(t, serve(t, r)+"/m:v1"), files, oci.PushOptions{})
	wantThreat(t, err, "manifest-too-large")
	if len(r.log) != 0 {
		t.Errorf("%d requests were made", len(r.log))
	}
}

// A file that is not what was hashed never gets a manifest.
func TestPushChangedFile(t *testing.T) {
	for _, test := range []struct{ name, second string }{
		{"other bytes", "jello"},
		{"shorter", "hell"},
		{"longer", "hello!"},
		{"empty", ""},
	} {
		for name, written := range targets(t) {
			t.Run(test.name+" to a "+name, func(t *testing.T) {
				opened := 0
				f := manifest.File{Name: "a.bin", Size: 5, Open: func() (io.ReadCloser, error) {
					if opened++; opened == 1 {
						return io.NopCloser(strings.NewReader("hello")), nil
					}
					return io.NopCloser(strings.NewReader(test.second)), nil
				}}
				client := newClient(t, oci.Options{})
				ref := mustParse(t, written)
				_, err := client.Push(t.Context(), ref, []manifest.File{f}, oci.PushOptions{})
				if !errors.Is(err, manifest.ErrChanged) || !strings.Contains(err.Error(), "a.bin") {
					t.Errorf("error %v, want ErrChanged", err)
				}
				if _, err := client.Open(t.Context(), ref); !errors.Is(err, oci.ErrNotFound) {
					t.Errorf("the tag is there: %v", err)
				}
				if ref.Layout != "" {
					noTemporaryFiles(t, ref.Layout)
				}
			})
		}
	}
}

func TestPushUnreadableFile(t *testing.T) {
	for name, written := range targets(t) {
		t.Run(name, func(t *testing.T) {
			opened := 0
			broken := errors.New("disk is broken")
			f := manifest.File{Name: "a.bin", Size: 5, Open: func() (io.ReadCloser, error) {
				if opened++; opened == 1 {
					return io.NopCloser(strings.NewReader("hello")), nil
				}
				return nil, broken
			}}
			_, err := newClient(t, oci.Options{}).Push(t.Context(), mustParse(t, written), []manifest.File{f}, oci.PushOptions{})
			if !errors.Is(err, broken) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// A broken upload is sent again from the start, and progress is told once.
func TestPushSendsAgain(t *testing.T) {
	var faults atomic.Int32
	registry := newRegistry()
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/") && faults.Add(1) <= 2 {
			io.CopyN(io.Discard, r.Body, 1000)
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		registry.ServeHTTP(w, r)
	}))
	content := strings.Repeat("w", 1<<20)
	var progress atomic.Int64
	client := newClient(t, oci.Options{})
	ref := mustParse(t, host+"/m:v1")
	model, err := client.Push(t.Context(), ref, []manifest.File{fileOf("w.bin", content)}, oci.PushOptions{Jobs: 1, Progress: func(n int64) { progress.Add(n) }})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := progress.Load(), 2*int64(len(content)); got != want {
		t.Errorf("progress %d, want %d", got, want)
	}
	rc, err := model.Fetch(t.Context(), model.Manifest.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if _, err := io.Copy(io.Discard, rc); err != nil {
		t.Error(err)
	}
}

func TestPushWithTokens(t *testing.T) {
	host := serve(t, tokenServer(t, "alice", "secret", newRegistry()))
	ref := mustParse(t, host+"/acme/m:v1")
	client := newClient(t, oci.Options{Credentials: oci.StaticCredentials(host, "alice", "secret")})
	if _, err := client.Push(t.Context(), ref, modelFiles(), oci.PushOptions{}); err != nil {
		t.Error(err)
	}
	_, err := newClient(t, oci.Options{}).Push(t.Context(), ref, modelFiles(), oci.PushOptions{})
	if err == nil || !strings.Contains(err.Error(), "no credentials found") {
		t.Errorf("error %v", err)
	}
}

func TestPushLayoutKeepsOthers(t *testing.T) {
	dir := t.TempDir()
	client := newClient(t, oci.Options{})
	one, err := client.Push(t.Context(), mustParse(t, "oci:"+dir+":one"), []manifest.File{fileOf("a", "1")}, oci.PushOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Push(t.Context(), mustParse(t, "oci:"+dir+":two"), []manifest.File{fileOf("a", "2")}, oci.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := client.Open(t.Context(), mustParse(t, "oci:"+dir+":one"))
	if err != nil || got.Reference.Digest != one.Reference.Digest {
		t.Errorf("%v", err)
	}
	tags := map[string]bool{}
	for _, d := range descriptors(t, got.Layout) {
		tags[d.Annotations[ocispec.AnnotationRefName]] = true
	}
	if want := map[string]bool{"one": true, "two": true}; !maps.Equal(tags, want) {
		t.Errorf("tags %v", tags)
	}
}

func TestPushErrorNamesFile(t *testing.T) {
	registry := newRegistry()
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"errors":[{"code":"DENIED","message":"quota is used up"}]}`)
			return
		}
		registry.ServeHTTP(w, r)
	}))
	_, err := newClient(t, oci.Options{}).Push(t.Context(), mustParse(t, host+"/m:v1"), []manifest.File{fileOf("a.bin", "{}")}, oci.PushOptions{})
	for _, want := range []string{`"a.bin"`, "403", "quota is used up", "sent without credentials"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
