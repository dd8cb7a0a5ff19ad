package modelsig_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/verify"
)

// mapFS is a model that is in no folder.
func mapFS(files map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, content := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
	}
	return fsys
}

func filesOf(t testing.TB, files map[string]string) []manifest.File {
	t.Helper()
	list, err := manifest.FromFS(t.Context(), mapFS(files))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// known are files of which no more than size and sha256 is there.
func known(files map[string]string) []manifest.File {
	var list []manifest.File
	for name, content := range files {
		digest := sha256.Sum256([]byte(content))
		list = append(list, manifest.File{Name: name, Size: int64(len(content)), Digest: digest[:]})
	}
	slices.SortFunc(list, func(a, b manifest.File) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// changed is a model with one file set, or without it.
func changed(files map[string]string, name string, content *string) map[string]string {
	out := map[string]string{}
	for n, c := range files {
		out[n] = c
	}
	delete(out, name)
	if content != nil {
		out[name] = *content
	}
	return out
}

func text(s string) *string { return &s }

var hashings = []manifest.Hashing{{}, {Type: manifest.BLAKE2b}, {Type: manifest.BLAKE3}, {ShardSize: 3}, {Type: manifest.BLAKE3, ShardSize: 4}}

func TestFilesFromAnywhere(t *testing.T) {
	client, signer := new(modelsig.Client), newSigner(t)
	for _, hashing := range hashings {
		t.Run(fmt.Sprintf("%+v", hashing), func(t *testing.T) {
			sig, err := client.SignFiles(t.Context(), "tiny", filesOf(t, tinyFiles), signer, modelsig.SignOptions{Hashing: hashing})
			if err != nil {
				t.Fatal(err)
			}
			// It is the very statement of a folder with these files.
			folder, err := client.SignDir(t.Context(), writeModel(t, tinyFiles), signer, modelsig.SignOptions{Hashing: hashing})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(sig.Model.Statement, folder.Model.Statement) || sig.Artifact != nil || sig.Files != 2 || sig.Bytes != 7 {
				t.Errorf("signed %s\nof a folder %s", sig.Model.Statement, folder.Model.Statement)
			}

			v, err := client.VerifyFiles(t.Context(), "tiny", filesOf(t, tinyFiles), sig.Model.Bundle, trusts(signer), modelsig.VerifyOptions{})
			wantVerified(t, v, err, verify.StrengthFiles, 1)
			if v.Target != "tiny" || v.Kind != modelsig.KindDir || v.Files.Count != 2 || !v.Hashed {
				t.Errorf("%+v", v)
			}
			for name, files := range map[string]map[string]string{
				"changed":       changed(tinyFiles, "config.json", text("[]")),
				"grown":         changed(tinyFiles, "config.json", text("{} ")),
				"missing":       changed(tinyFiles, "config.json", nil),
				"added":         changed(tinyFiles, "run.py", text("x")),
				"added, empty":  changed(tinyFiles, "__init__.py", text("")),
				"nothing there": {},
			} {
				v, err := client.VerifyFiles(t.Context(), "tiny", filesOf(t, files), sig.Model.Bundle, trusts(signer), modelsig.VerifyOptions{})
				if report := wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles); len(report.Files.Changed)+len(report.Files.Missing)+len(report.Files.Extra) == 0 {
					t.Errorf("%s: no file is named", name)
				}
			}
			v, err = client.VerifyFiles(t.Context(), "tiny", filesOf(t, tinyFiles), sig.Model.Bundle, trusts(newSigner(t)), modelsig.VerifyOptions{})
			wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUntrusted)
			v, err = client.VerifyFiles(t.Context(), "tiny", filesOf(t, tinyFiles), sig.Model.Bundle, modelsig.Policy{}, modelsig.VerifyOptions{})
			wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUntrusted)
		})
	}
}

// An archive is an fs.FS that reads in order and cannot be read at an offset.
func TestAModelInAnArchive(t *testing.T) {
	client, signer := new(modelsig.Client), newSigner(t)
	archive := func(entries ...string) []manifest.File {
		t.Helper()
		var data bytes.Buffer
		w := zip.NewWriter(&data)
		for i := 0; i < len(entries); i += 2 {
			f, err := w.Create(entries[i])
			if err == nil {
				_, err = f.Write([]byte(entries[i+1]))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		r, err := zip.NewReader(bytes.NewReader(data.Bytes()), int64(data.Len()))
		if err != nil {
			t.Fatal(err)
		}
		files, err := manifest.FromFS(t.Context(), r)
		if err != nil {
			return nil
		}
		return files
	}
	for _, hashing := range hashings {
		sig, err := client.SignFiles(t.Context(), "tiny", archive("weights/a.bin", "hello", "config.json", "{}"), signer, modelsig.SignOptions{Hashing: hashing})
		if err != nil {
			t.Fatal(err)
		}
		v, err := client.VerifyFiles(t.Context(), "tiny", archive("config.json", "{}", "weights/", "", "weights/a.bin", "hello"), sig.Model.Bundle, trusts(signer), modelsig.VerifyOptions{})
		wantVerified(t, v, err, verify.StrengthFiles, 1)
		// Unpacked it is the same model, and changed it is not.
		v, err = client.VerifyFiles(t.Context(), "tiny", filesOf(t, tinyFiles), sig.Model.Bundle, trusts(signer), modelsig.VerifyOptions{})
		wantVerified(t, v, err, verify.StrengthFiles, 1)
		v, err = client.VerifyFiles(t.Context(), "tiny", archive("config.json", "[]", "weights/a.bin", "hello"), sig.Model.Bundle, trusts(signer), modelsig.VerifyOptions{})
		wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
	}
	if files := archive("config.json", "{}", "config.json", "[]"); files != nil {
		t.Errorf("an archive with a name twice has the files %+v", files)
	}
}

func TestFilesFromAnywhereThatAreLeftOut(t *testing.T) {
	client, signer := new(modelsig.Client), newSigner(t)
	files := changed(changed(tinyFiles, ".git/config", text("x")), "logs/a.txt", text("x"))
	sig, err := client.SignFiles(t.Context(), "tiny", filesOf(t, files), signer, modelsig.SignOptions{IgnorePaths: []string{"logs"}})
	if err != nil {
		t.Fatal(err)
	}
	if sig.Files != 2 {
		t.Errorf("%d files signed, want 2", sig.Files)
	}
	v, err := client.VerifyFiles(t.Context(), "tiny", filesOf(t, files), sig.Model.Bundle, trusts(signer), modelsig.VerifyOptions{})
	wantVerified(t, v, err, verify.StrengthFiles, 1)
	if !slices.Equal(v.Files.Ignored, []string{".git/config", "logs/a.txt"}) {
		t.Errorf("ignored %q", v.Files.Ignored)
	}
	// The caller's own, which hide extras and no listed file.
	extra := changed(files, "notes.txt", text("x"))
	v, err = client.VerifyFiles(t.Context(), "tiny", filesOf(t, extra), sig.Model.Bundle, trusts(signer), modelsig.VerifyOptions{})
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
	o := modelsig.VerifyOptions{IgnorePaths: []string{"notes.txt", "config.json"}}
	v, err = client.VerifyFiles(t.Context(), "tiny", filesOf(t, extra), sig.Model.Bundle, trusts(signer), o)
	wantVerified(t, v, err, verify.StrengthFiles, 1)
	v, err = client.VerifyFiles(t.Context(), "tiny", filesOf(t, changed(extra, "config.json", text("[]"))), sig.Model.Bundle, trusts(signer), o)
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)

	// Signed like all else.
	sig, err = client.SignFiles(t.Context(), "tiny", filesOf(t, files), signer, modelsig.SignOptions{IncludeGitPaths: true})
	if err != nil || sig.Files != 4 {
		t.Fatalf("%+v, %v: want 4 files", sig, err)
	}
}

// Files whose sha256 is known are not opened, to sign and to verify.
func TestFilesWithKnownDigests(t *testing.T) {
	client, signer := new(modelsig.Client), newSigner(t)
	opened := func() (io.ReadCloser, error) {
		t.Error("a file was opened")
		return nil, errors.New("opened")
	}
	withOpen := func(files map[string]string) []manifest.File {
		list := known(files)
		for i := range list {
			list[i].Open = opened
		}
		return list
	}
	hashed, err := client.SignFiles(t.Context(), "tiny", filesOf(t, tinyFiles), signer, modelsig.SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, list := range map[string][]manifest.File{"no content": known(tinyFiles), "content that is not looked at": withOpen(tinyFiles)} {
		sig, err := client.SignFiles(t.Context(), "tiny", list, signer, modelsig.SignOptions{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(sig.Model.Statement, hashed.Model.Statement) {
			t.Errorf("%s: signed %s", name, sig.Model.Statement)
		}
		v, err := client.VerifyFiles(t.Context(), "tiny", list, sig.Model.Bundle, trusts(signer), modelsig.VerifyOptions{})
		wantVerified(t, v, err, verify.StrengthFiles, 1)
		if v.Hashed {
			t.Errorf("%s: the answer says that files were hashed", name)
		}
		// One file of which no digest is known is hashed.
		mixed := slices.Clone(list)
		mixed[1] = filesOf(t, tinyFiles)[1]
		v, err = client.VerifyFiles(t.Context(), "tiny", mixed, sig.Model.Bundle, trusts(signer), modelsig.VerifyOptions{})
		wantVerified(t, v, err, verify.StrengthFiles, 1)
		if !v.Hashed {
			t.Errorf("%s: the answer says that no file was hashed", name)
		}
		v, err = client.VerifyFiles(t.Context(), "tiny", withOpen(changed(tinyFiles, "config.json", text("[]"))), sig.Model.Bundle, trusts(signer), modelsig.VerifyOptions{})
		if report := wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles); !slices.Equal(report.Files.Changed, []string{"config.json"}) {
			t.Errorf("changed %q", report.Files.Changed)
		}
	}

	// Where another hash is wanted the content counts, and has to be there.
	for _, hashing := range hashings[1:] {
		if sig, err := client.SignFiles(t.Context(), "tiny", known(tinyFiles), signer, modelsig.SignOptions{Hashing: hashing}); err == nil || !strings.Contains(err.Error(), "only its sha256 is known") {
			t.Errorf("%+v: %+v, %v", hashing, sig, err)
		}
		sig, err := client.SignFiles(t.Context(), "tiny", filesOf(t, tinyFiles), signer, modelsig.SignOptions{Hashing: hashing})
		if err != nil {
			t.Fatal(err)
		}
		v, err := client.VerifyFiles(t.Context(), "tiny", known(tinyFiles), sig.Model.Bundle, trusts(signer), modelsig.VerifyOptions{})
		wantNo(t, v, err, modelsig.ErrUnknown, verify.CodeUnread)
	}
}

func TestSignFilesRefuses(t *testing.T) {
	client, signer := new(modelsig.Client), newSigner(t)
	one := func(name string) []manifest.File { return known(map[string]string{name: "x"}) }
	link := &manifest.ThreatError{Code: manifest.CodeSymlink, Name: "a", Reason: "is a link"}
	for _, tt := range []struct {
		name  string
		files []manifest.File
		o     modelsig.SignOptions
		code  string // of a ThreatError
		says  string
	}{
		{"no file", nil, modelsig.SignOptions{}, "no-files", "no file"},
		{"no file but what is left out", one(".git/config"), modelsig.SignOptions{}, "no-files", "no file"},
		{"one name twice", append(one("a"), one("a")...), modelsig.SignOptions{}, "duplicate-name", `"a"`},
		{"a file that is another's folder", append(one("a"), one("a/b")...), modelsig.SignOptions{}, "file-and-folder", `"a"`},
		{"a name that climbs", one("../a"), modelsig.SignOptions{}, "name-parent", `"../a"`},
		{"an absolute name", one("/a"), modelsig.SignOptions{}, "name-absolute", `"/a"`},
		{"a name that is not clean", one("a/./b"), modelsig.SignOptions{}, "name-unclean", `"a/./b"`},
		{"invalid UTF-8", one("a\xff"), modelsig.SignOptions{}, "name-not-utf8", `"a\xff"`},
		{"what is no file", []manifest.File{{Name: "a", Problem: link}}, modelsig.SignOptions{}, manifest.CodeSymlink, "is a link"},
		{"an unfinished download", one("a.part"), modelsig.SignOptions{}, "partial-file", `"a.part"`},
		{"a pointer", filesOf(t, map[string]string{"a": "version https://git-lfs.github.com/spec/v1\noid sha256:" + strings.Repeat("0", 64) + "\nsize 1\n"}), modelsig.SignOptions{}, "lfs-pointer", `"a"`},
		{"a digest of another length", []manifest.File{{Name: "a", Size: 1, Digest: make([]byte, 20)}}, modelsig.SignOptions{}, "", "20 bytes"},
		{"neither digest nor content", []manifest.File{{Name: "a", Size: 1}}, modelsig.SignOptions{}, "", "neither digest nor content"},
		{"less than nothing", []manifest.File{{Name: "a", Size: -1, Digest: make([]byte, 32)}}, modelsig.SignOptions{}, "", "size"},
		{"an ignore path outside", one("a"), modelsig.SignOptions{IgnorePaths: []string{"../b"}}, "", "§6.2.1"},
		{"an artifact signature", one("a"), modelsig.SignOptions{ArtifactOnly: true}, "", "artifact"},
		{"annotations", one("a"), modelsig.SignOptions{Annotations: map[string]string{"x": "y"}}, "", "annotations"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sig, err := client.SignFiles(t.Context(), "tiny", tt.files, signer, tt.o)
			if err == nil || sig != nil || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("%+v, %v does not say %q", sig, err, tt.says)
			}
			threat, ok := errors.AsType[*manifest.ThreatError](err)
			if ok != (tt.code != "") || ok && threat.Code != tt.code {
				t.Errorf("%v is not a threat %q", err, tt.code)
			}
		})
	}
	// A model without a name has no subject (OMS §6.5).
	if sig, err := client.SignFiles(t.Context(), "", one("a"), signer, modelsig.SignOptions{}); err == nil || sig != nil {
		t.Errorf("%+v, %v", sig, err)
	}
}

// A list that a caller made is held to the rules that folders keep by
// themselves: no name twice, none with another reading.
func TestVerifyFilesRefusesAListWithTwoReadings(t *testing.T) {
	client, signer := new(modelsig.Client), newSigner(t)
	for _, hashing := range hashings {
		sig, err := client.SignFiles(t.Context(), "tiny", filesOf(t, tinyFiles), signer, modelsig.SignOptions{Hashing: hashing, IgnorePaths: []string{"logs"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			name string
			more manifest.File
			code string
		}{
			{"a signed file twice", filesOf(t, map[string]string{"config.json": "[]"})[0], "duplicate-name"},
			{"a signed file twice, of another size", filesOf(t, map[string]string{"config.json": "evil, and longer"})[0], "duplicate-name"},
			{"a signed file twice, empty", filesOf(t, map[string]string{"config.json": ""})[0], "duplicate-name"},
			{"a file in the place of a folder", filesOf(t, map[string]string{"weights": "x"})[0], "file-and-folder"},
			{"a name that leaves what is ignored", renamed(filesOf(t, map[string]string{"x": "x"})[0], "logs/../config.json"), "name-parent"},
			{"a name that climbs", renamed(filesOf(t, map[string]string{"x": "x"})[0], "../config.json"), "name-parent"},
			{"a link", manifest.File{Name: "link", Problem: &manifest.ThreatError{Code: manifest.CodeSymlink, Name: "link", Reason: "is a link"}}, manifest.CodeSymlink},
			{"a link in the place of a signed file", manifest.File{Name: "config.json", Problem: &manifest.ThreatError{Code: manifest.CodeSymlink, Name: "config.json", Reason: "is a link"}}, manifest.CodeSymlink},
		} {
			t.Run(fmt.Sprintf("%+v/%s", hashing, tt.name), func(t *testing.T) {
				for _, files := range [][]manifest.File{
					append(filesOf(t, tinyFiles), tt.more),
					append([]manifest.File{tt.more}, filesOf(t, tinyFiles)...),
				} {
					policy := trusts(signer)
					policy.IgnoreUnsignedFiles = true
					for _, p := range []modelsig.Policy{trusts(signer), policy} {
						v, err := client.VerifyFiles(t.Context(), "tiny", files, sig.Model.Bundle, p, modelsig.VerifyOptions{})
						wantNo(t, v, err, modelsig.ErrRefused, tt.code)
					}
				}
			})
		}
	}
}

func renamed(f manifest.File, name string) manifest.File {
	f.Name = name
	return f
}

// Configured once, used for many models at once: folders, files and artifacts.
func TestOneClientForManyModels(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	var hashed atomic.Int64
	client := &modelsig.Client{Jobs: 2, Progress: func(done, total int64) {
		if done > total {
			t.Errorf("%d of %d bytes", done, total)
		}
		hashed.Add(1)
	}}
	policy := trusts(signer)
	policy.IgnorePaths = manifest.Ignore{"logs"}
	var group sync.WaitGroup
	for i := range 24 {
		files := changed(tinyFiles, "weights/a.bin", text(strings.Repeat(fmt.Sprint(i), 1000)))
		other := changed(files, "config.json", text("[]"))
		hashing := hashings[i%len(hashings)]
		dir := writeModel(t, files)
		r.put(t, fmt.Sprint("acme/m", i), "v1", image(rawLayer("config.json", "{}"), rawLayer("weights/a.bin", files["weights/a.bin"])))
		group.Go(func() {
			sig, err := client.SignFiles(t.Context(), "tiny", filesOf(t, files), signer, modelsig.SignOptions{Hashing: hashing})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := client.VerifyFiles(t.Context(), "tiny", filesOf(t, files), sig.Model.Bundle, policy, modelsig.VerifyOptions{IgnorePaths: []string{fmt.Sprint("x", i)}}); err != nil {
				t.Error(err)
			}
			if _, err := client.VerifyFiles(t.Context(), "tiny", filesOf(t, other), sig.Model.Bundle, policy, modelsig.VerifyOptions{}); !errors.Is(err, modelsig.ErrRefused) {
				t.Errorf("%v, want a refusal", err)
			}
			again, err := client.SignDir(t.Context(), dir, signer, modelsig.SignOptions{Hashing: hashing})
			if err != nil || !bytes.Equal(again.Model.Statement, sig.Model.Statement) {
				t.Errorf("%v, or another statement", err)
			}
			ref := fmt.Sprintf("%s/acme/m%d:v1", r.host, i)
			if _, err := client.Sign(t.Context(), ref, signer, modelsig.SignOptions{}); err != nil {
				t.Error(err)
			}
			if _, err := client.Verify(t.Context(), ref, policy, modelsig.VerifyOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if hashed.Load() == 0 {
		t.Error("nobody was told of progress")
	}
	if !slices.Equal(policy.IgnorePaths, manifest.Ignore{"logs"}) {
		t.Errorf("the policy became %+v", policy)
	}
}
