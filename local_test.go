package modelsig_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/verify"
)

// signDir signs a folder or file and writes the signature beside it, or into
// it where sigFile says so.
func signDir(t testing.TB, path, sigFile string, signer modelsig.Signer, o modelsig.SignOptions) {
	t.Helper()
	o.SignatureFile = sigFile
	sig, err := new(modelsig.Client).SignDir(t.Context(), path, signer, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := modelsig.WriteSignature(sigFile, sig.Model.Bundle, false); err != nil {
		t.Fatal(err)
	}
}

func TestAFolder(t *testing.T) {
	signer, client := newSigner(t), new(modelsig.Client)
	for _, where := range []string{"model.sig", "sub/deep.sig", "../beside.sig"} {
		t.Run(where, func(t *testing.T) {
			dir := writeModel(t, tinyFiles)
			writeFile(t, filepath.Join(dir, "sub/x"), "x")
			writeFile(t, filepath.Join(dir, ".git/config"), "x")
			sigFile := filepath.Join(dir, where)
			signDir(t, dir, sigFile, signer, modelsig.SignOptions{})
			o := modelsig.VerifyOptions{SignatureFile: sigFile}

			v, err := client.VerifyDir(t.Context(), dir, trusts(signer), o)
			wantVerified(t, v, err, verify.StrengthFiles, 1)
			if v.Kind != modelsig.KindDir || v.Target != dir || v.Digest != "" || !v.Hashed || v.Files.Count != 3 {
				t.Errorf("%+v", v)
			}
			// Signing again reads the same files, and replaces the signature.
			signDir(t, dir, sigFile, signer, modelsig.SignOptions{})
			v, err = client.VerifyDir(t.Context(), dir, trusts(signer), o)
			wantVerified(t, v, err, verify.StrengthFiles, 1)

			v, err = client.VerifyDir(t.Context(), dir, trusts(newSigner(t)), o)
			wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUntrusted)
			for _, change := range []struct{ file, content, is string }{
				{"config.json", "[]", "{}"}, {"sub/x", "", "x"},
			} {
				writeFile(t, filepath.Join(dir, change.file), change.content)
				v, err = client.VerifyDir(t.Context(), dir, trusts(signer), o)
				report := wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
				if !slices.Equal(report.Files.Changed, []string{change.file}) {
					t.Errorf("%+v", report.Files)
				}
				writeFile(t, filepath.Join(dir, change.file), change.is)
			}
			writeFile(t, filepath.Join(dir, "run.py"), "evil")
			v, err = client.VerifyDir(t.Context(), dir, trusts(signer), o)
			wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
			v, err = client.VerifyDir(t.Context(), dir, trusts(signer), modelsig.VerifyOptions{SignatureFile: sigFile, IgnorePaths: []string{filepath.Join(dir, "run.py")}})
			wantVerified(t, v, err, verify.StrengthFiles, 1)
		})
	}
}

// Shards are resources of a file, and no files.
func TestAFileInShardsCountsOnce(t *testing.T) {
	client, signer := new(modelsig.Client), newSigner(t)
	for _, hashing := range []manifest.Hashing{{}, {ShardSize: 1}, {ShardSize: 2, Type: manifest.BLAKE3}} {
		dir := writeModel(t, tinyFiles)
		sig, err := client.SignDir(t.Context(), dir, signer, modelsig.SignOptions{Hashing: hashing})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "model.sig")
		if err := modelsig.WriteSignature(file, sig.Model.Bundle, false); err != nil {
			t.Fatal(err)
		}
		v, err := client.VerifyDir(t.Context(), dir, trusts(signer), modelsig.VerifyOptions{SignatureFile: file})
		wantVerified(t, v, err, verify.StrengthFiles, 1)
		if sig.Files != 2 || sig.Bytes != 7 || v.Files.Count != sig.Files || v.Files.Bytes != sig.Bytes {
			t.Errorf("%+v: signed %d files of %d bytes, verified %d of %d", hashing, sig.Files, sig.Bytes, v.Files.Count, v.Files.Bytes)
		}
	}
}

func TestASingleFileOnDisk(t *testing.T) {
	signer, client := newSigner(t), new(modelsig.Client)
	dir := writeModel(t, tinyFiles)
	path := filepath.Join(dir, "weights", "a.bin")
	o := modelsig.VerifyOptions{SignatureFile: path + ".sig"}
	signDir(t, path, o.SignatureFile, signer, modelsig.SignOptions{})
	v, err := client.VerifyDir(t.Context(), path, trusts(signer), o)
	wantVerified(t, v, err, verify.StrengthFiles, 1)
	if v.Kind != modelsig.KindFile || v.Files.Count != 1 || v.Files.Bytes != 5 {
		t.Errorf("%+v", v)
	}
	v, err = client.VerifyDir(t.Context(), dir, trusts(signer), o)
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
	writeFile(t, path, "evil")
	v, err = client.VerifyDir(t.Context(), path, trusts(signer), o)
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
}

func TestASignatureNeverReplacesTheFileThatItSigns(t *testing.T) {
	signer, dir := newSigner(t), writeModel(t, tinyFiles)
	// A bundle may be a model, and bundles are replaced without being asked for.
	path := filepath.Join(dir, "model.sig")
	signDir(t, dir, path, signer, modelsig.SignOptions{})
	link := filepath.Join(dir, "link.sig")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for _, tt := range [][2]string{{path, path}, {path, "model.sig"}, {"model.sig", path}, {"./model.sig", "model.sig"}, {link, path}} {
		_, err := new(modelsig.Client).SignDir(t.Context(), tt[0], signer, modelsig.SignOptions{SignatureFile: tt[1]})
		if err == nil || !strings.Contains(err.Error(), "the model itself") {
			t.Errorf("sign %s into %s: %v", tt[0], tt[1], err)
		}
	}
}

func TestIgnoredPaths(t *testing.T) { // OMS §6.2
	signer, client := newSigner(t), new(modelsig.Client)
	dir := writeModel(t, tinyFiles)
	writeFile(t, filepath.Join(dir, "logs/1.txt"), "1")
	writeFile(t, filepath.Join(dir, ".gitattributes"), "x")
	sigFile := filepath.Join(t.TempDir(), "model.sig")

	sig, err := client.SignDir(t.Context(), dir, signer, modelsig.SignOptions{
		SignatureFile: filepath.Join(dir, "model.sig"),
		IgnorePaths:   []string{"logs/", filepath.Join(dir, "cache"), "./logs", filepath.Join(t.TempDir(), "elsewhere")},
	})
	if err != nil {
		t.Fatal(err)
	}
	claims, err := modelsig.InsecureInspect(sig.Model.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	want := append(manifest.GitPaths(), "model.sig", "logs", "cache")
	if !slices.Equal(claims.IgnorePaths, want) || len(claims.Files) != 2 {
		t.Errorf("ignored %q, want %q; files %+v", claims.IgnorePaths, want, claims.Files)
	}
	writeFile(t, sigFile, string(sig.Model.Bundle))
	v, err := client.VerifyDir(t.Context(), dir, trusts(signer), modelsig.VerifyOptions{SignatureFile: sigFile})
	wantVerified(t, v, err, verify.StrengthFiles, 1)
	if !slices.Equal(v.Files.Ignored, []string{".gitattributes", "logs/1.txt"}) {
		t.Errorf("ignored %q", v.Files.Ignored)
	}

	for _, bad := range []string{"..", "../x", ".", "", dir, "a/../.."} {
		if sig, err := client.SignDir(t.Context(), dir, signer, modelsig.SignOptions{IgnorePaths: []string{bad}}); err == nil {
			t.Errorf("ignoring %q signed %d files", bad, sig.Files)
		}
		if v, err := client.VerifyDir(t.Context(), dir, trusts(signer), modelsig.VerifyOptions{SignatureFile: sigFile, IgnorePaths: []string{bad}}); err == nil {
			t.Errorf("ignoring %q verified %+v", bad, v)
		}
	}

	// With the git names signed, they are signed, and not recorded as left out.
	if sig, err = client.SignDir(t.Context(), dir, signer, modelsig.SignOptions{IncludeGitPaths: true}); err != nil {
		t.Fatal(err)
	}
	if claims, err = modelsig.InsecureInspect(sig.Model.Bundle); err != nil || len(claims.IgnorePaths) != 0 || len(claims.Files) != 4 {
		t.Errorf("%+v, %v", claims, err)
	}
}

// Paths are paths, whatever is in them and wherever one stands: no patterns,
// nothing relative to the working directory, nothing that has to be there.
func TestIgnoredPathsWithOddNames(t *testing.T) { // OMS §6.2.1
	signer, client := newSigner(t), new(modelsig.Client)
	dir := writeModel(t, tinyFiles)
	writeFile(t, filepath.Join(dir, "w[1].bin"), "1")
	writeFile(t, filepath.Join(dir, "w1.bin"), "2")
	writeFile(t, filepath.Join(dir, "cache", "x"), "3")
	sigFile := filepath.Join(dir, "m[o]del.sig")
	signDir(t, dir, sigFile, signer, modelsig.SignOptions{SignatureFile: sigFile, IgnorePaths: []string{"w[1].bin", "cache", "gone?", "..data"}})
	o := modelsig.VerifyOptions{SignatureFile: sigFile, IgnorePaths: []string{"nowhere", filepath.Join(dir, "also", "nowhere")}}
	v, err := client.VerifyDir(t.Context(), dir, trusts(signer), o)
	wantVerified(t, v, err, verify.StrengthFiles, 1)
	if want := []string{"cache/x", "m[o]del.sig", "w[1].bin"}; !slices.Equal(v.Files.Ignored, want) || v.Files.Count != 3 {
		t.Errorf("ignored %q of %d files, want %q of 3", v.Files.Ignored, v.Files.Count, want)
	}

	// Seen from inside, "cache" is still the one at the top.
	writeFile(t, filepath.Join(dir, "weights", "cache", "x"), "4")
	for _, from := range []string{dir, filepath.Join(dir, "weights"), filepath.Join(dir, "weights", "cache")} {
		t.Chdir(from)
		o := modelsig.VerifyOptions{SignatureFile: sigFile, IgnorePaths: []string{"x"}}
		v, err := client.VerifyDir(t.Context(), dir, trusts(signer), o)
		report := wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
		if !slices.Equal(report.Files.Extra, []string{"weights/cache/x"}) {
			t.Errorf("from %s: not signed %q", from, report.Files.Extra)
		}
	}
	// And the signature is left out, however it is named.
	for _, name := range []string{sigFile, "m[o]del.sig", "./m[o]del.sig", "weights/../m[o]del.sig"} {
		t.Chdir(dir)
		sig, err := client.SignDir(t.Context(), dir, signer, modelsig.SignOptions{SignatureFile: name})
		if err != nil {
			t.Fatal(err)
		}
		claims, err := modelsig.InsecureInspect(sig.Model.Bundle)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(claims.Files, func(r manifest.Resource) bool { return r.Name == "m[o]del.sig" }) || !slices.Contains(claims.IgnorePaths, "m[o]del.sig") {
			t.Errorf("%s: files %+v, ignored %q", name, claims.Files, claims.IgnorePaths)
		}
	}
}

func TestLinksInAFolder(t *testing.T) { // threat D01
	signer, client := newSigner(t), new(modelsig.Client)
	dir := writeModel(t, tinyFiles)
	sigFile := filepath.Join(t.TempDir(), "model.sig")
	link := func(target, name string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Skipf("no symbolic links here: %v", err)
		}
	}
	signDir(t, dir, sigFile, signer, modelsig.SignOptions{})
	o := modelsig.VerifyOptions{SignatureFile: sigFile}

	// A link where nobody looks is nobody's business.
	link("../../nowhere", ".git/x")
	v, err := client.VerifyDir(t.Context(), dir, trusts(signer), o)
	wantVerified(t, v, err, verify.StrengthFiles, 1)

	// The signed bytes behind a link are refused, unless the verifier follows
	// links; outside the model always.
	if err := os.Rename(filepath.Join(dir, "config.json"), filepath.Join(dir, ".git", "blob")); err != nil {
		t.Fatal(err)
	}
	link(".git/blob", "config.json")
	v, err = client.VerifyDir(t.Context(), dir, trusts(signer), o)
	wantNo(t, v, err, modelsig.ErrRefused, "symlink")
	follow := o
	follow.AllowSymlinks = true
	v, err = client.VerifyDir(t.Context(), dir, trusts(signer), follow)
	wantVerified(t, v, err, verify.StrengthFiles, 1)
	if err := os.Remove(filepath.Join(dir, "config.json")); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "config.json")
	writeFile(t, outside, "{}")
	link(outside, "config.json")
	v, err = client.VerifyDir(t.Context(), dir, trusts(signer), follow)
	wantNo(t, v, err, modelsig.ErrRefused, "symlink-outside")

	if sig, err := client.SignDir(t.Context(), dir, signer, modelsig.SignOptions{AllowSymlinks: true}); err == nil {
		t.Errorf("signed %d files, one of them outside", sig.Files)
	}
}

func TestAFolderAgainstARegistry(t *testing.T) {
	r, signer, client := newRegistry(t), newSigner(t), new(modelsig.Client)
	dir := writeModel(t, tinyFiles)
	ref := r.host + "/acme/tiny:v1"
	if _, err := client.Push(t.Context(), dir, ref, modelsig.PushOptions{Signer: signer}); err != nil {
		t.Fatal(err)
	}
	r.put(t, "acme/other", "v1", image(rawLayer("config.json", "{}"), rawLayer("weights/a.bin", "other")))
	mustSign(t, client, r.host+"/acme/other:v1", signer, modelsig.SignOptions{})
	only := modelsig.SignOptions{ArtifactOnly: true}
	r.put(t, "acme/only", "v1", tiny())
	mustSign(t, client, r.host+"/acme/only:v1", signer, only)

	v, err := client.VerifyDirAgainst(t.Context(), dir, ref, trusts(signer), modelsig.VerifyOptions{})
	wantVerified(t, v, err, verify.StrengthManifest, 2)
	if v.Target != dir || v.Kind != modelsig.KindDir || !strings.HasPrefix(v.Reference, ref+"@") || !v.Hashed || v.Files.Count != 2 {
		t.Errorf("%+v", v)
	}
	v, err = client.VerifyDirAgainst(t.Context(), dir, r.host+"/acme/only:v1", trusts(signer), modelsig.VerifyOptions{})
	wantVerified(t, v, err, verify.StrengthManifest, 1)
	v, err = client.VerifyDirAgainst(t.Context(), dir, r.host+"/acme/other:v1", trusts(signer), modelsig.VerifyOptions{})
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
	v, err = client.VerifyDirAgainst(t.Context(), dir, ref, trusts(newSigner(t)), modelsig.VerifyOptions{})
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUntrusted)

	writeFile(t, filepath.Join(dir, "run.py"), "evil")
	for _, ref := range []string{ref, r.host + "/acme/only:v1"} {
		v, err = client.VerifyDirAgainst(t.Context(), dir, ref, trusts(signer), modelsig.VerifyOptions{})
		report := wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
		if !slices.Equal(report.Files.Extra, []string{"run.py"}) {
			t.Errorf("%+v", report.Files)
		}
	}
}

// A verbose signer makes signatures as large as those of a model with a few
// hundred thousand files.
type verbose struct{ modelsig.Signer }

func (s verbose) Sign(ctx context.Context, payloads ...[]byte) ([]*bundle.Bundle, error) {
	large := make([][]byte, len(payloads))
	for i := range payloads {
		large[i] = bytes.Repeat([]byte(" "), 50<<20)
	}
	return s.Signer.Sign(ctx, large...)
}

func TestALargeSignatureIsForDisksOnly(t *testing.T) { // 64 MiB are read from registries, 512 MiB from disk
	r, signer, client := newRegistry(t), verbose{newSigner(t)}, new(modelsig.Client)
	r.put(t, "acme/tiny", "v1", tiny())
	ref := r.host + "/acme/tiny:v1"
	if sig, err := client.Sign(t.Context(), ref, signer, modelsig.SignOptions{ModelOnly: true}); err == nil {
		t.Errorf("attached %s, which nobody would read", sig.Model.Referrer)
	}
	v, err := client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{})
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUnsigned)
	sig, err := client.SignDir(t.Context(), writeModel(t, tinyFiles), signer, modelsig.SignOptions{})
	if err != nil || len(sig.Model.Bundle) <= 64<<20 {
		t.Errorf("a folder: %v", err)
	}
}

func TestALargeSignatureNeedsALargeModel(t *testing.T) { // of many shards; nothing else makes it large
	signer, client, dir := newSigner(t), new(modelsig.Client), t.TempDir()
	weights, sigFile := filepath.Join(dir, strings.Repeat("w", 200)), filepath.Join(t.TempDir(), "large.sig")
	size := func(n int64) {
		t.Helper()
		f, err := os.Create(weights)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Truncate(n), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	// 160,000 shards take more than 64 MiB. Nobody needs them for 160 kB.
	size(160_000)
	sig, err := client.SignDir(t.Context(), dir, signer, modelsig.SignOptions{Hashing: manifest.Hashing{ShardSize: 1}})
	if sig != nil || err == nil || !strings.Contains(err.Error(), "shards must be larger") {
		t.Errorf("signed what nobody would read: %v", err)
	}

	signDir(t, dir, sigFile, verbose{signer}, modelsig.SignOptions{})
	v, err := client.VerifyDir(t.Context(), dir, trusts(signer), modelsig.VerifyOptions{SignatureFile: sigFile})
	if v != nil || err == nil || !strings.Contains(err.Error(), "are read") {
		t.Errorf("%+v, %v", v, err)
	}
	size(1 << 30) // a hole, which is not hashed: the statement is no statement
	v, err = client.VerifyDir(t.Context(), dir, trusts(signer), modelsig.VerifyOptions{SignatureFile: sigFile})
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeMalformed)
}

func TestAFolderNeedsASignatureFile(t *testing.T) {
	signer, client := newSigner(t), new(modelsig.Client)
	dir := writeModel(t, tinyFiles)
	for name, o := range map[string]modelsig.VerifyOptions{
		"none is named":   {},
		"it is not there": {SignatureFile: filepath.Join(dir, "model.sig")},
		"it is a folder":  {SignatureFile: dir},
	} {
		if v, err := client.VerifyDir(t.Context(), dir, trusts(signer), o); v != nil || err == nil || errors.Is(err, modelsig.ErrRefused) || errors.Is(err, modelsig.ErrUnknown) {
			t.Errorf("%s: got %+v and %v, want a plain error", name, v, err)
		}
	}
	empty := filepath.Join(t.TempDir(), "empty.sig")
	writeFile(t, empty, "")
	v, err := client.VerifyDir(t.Context(), dir, trusts(signer), modelsig.VerifyOptions{SignatureFile: empty})
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeMalformed)

	signDir(t, dir, filepath.Join(dir, "model.sig"), signer, modelsig.SignOptions{})
	if v, err := client.VerifyDir(t.Context(), filepath.Join(dir, "nowhere"), trusts(signer), modelsig.VerifyOptions{SignatureFile: filepath.Join(dir, "model.sig")}); v != nil || !errors.Is(err, fs.ErrNotExist) || errors.Is(err, modelsig.ErrRefused) {
		t.Errorf("got %+v and %v, want a missing folder", v, err)
	}
	if sig, err := client.SignDir(t.Context(), t.TempDir(), signer, modelsig.SignOptions{}); err == nil {
		t.Errorf("an empty folder was signed: %+v", sig)
	}
	if sig, err := client.SignDir(t.Context(), dir, signer, modelsig.SignOptions{ArtifactOnly: true}); err == nil {
		t.Errorf("an artifact signature of a folder: %+v", sig)
	}
}

func TestWriteSignature(t *testing.T) {
	signer, client := newSigner(t), new(modelsig.Client)
	sig, err := client.SignDir(t.Context(), writeModel(t, tinyFiles), signer, modelsig.SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	data := sig.Model.Bundle
	dir := t.TempDir()
	path := filepath.Join(dir, "model.sig")
	has := func(want []byte) {
		t.Helper()
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has %.40q, %v; want %.40q", path, got, err, want)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 {
			t.Errorf("the folder has %v, %v: want nothing but the signature", entries, err)
		}
	}
	if err := modelsig.WriteSignature(path, data, false); err != nil {
		t.Fatal(err)
	}
	has(data)
	other := append(bytes.Clone(data), '\n')
	if err := modelsig.WriteSignature(path, other, false); err != nil {
		t.Errorf("a signature was not replaced: %v", err)
	}
	has(other)
	for _, precious := range []string{"weights", "{}", "", `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`} {
		writeFile(t, path, precious)
		if err := modelsig.WriteSignature(path, data, false); !errors.Is(err, modelsig.ErrNotSignature) {
			t.Errorf("%q: got %v, want %v", precious, err, modelsig.ErrNotSignature)
		}
		has([]byte(precious))
		if err := modelsig.WriteSignature(path, data, true); err != nil {
			t.Errorf("%q, forced: %v", precious, err)
		}
		has(data)
	}
	if err := modelsig.WriteSignature(filepath.Join(dir, "no", "model.sig"), data, true); err == nil {
		t.Error("a folder was made")
	}
	if err := modelsig.WriteSignature(dir, data, true); err == nil {
		t.Error("a folder was replaced")
	}
	// What a link points to is not ours to replace, forced or not.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "target")
	writeFile(t, target, "precious")
	if err := os.Symlink(target, path); err != nil {
		t.Skipf("no symbolic links here: %v", err)
	}
	for _, force := range []bool{false, true} {
		if err := modelsig.WriteSignature(path, data, force); err == nil {
			t.Errorf("wrote through a link (force %t)", force)
		}
	}
	if got, err := os.ReadFile(target); err != nil || string(got) != "precious" {
		t.Errorf("%q, %v", got, err)
	}
}
