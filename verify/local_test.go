package verify_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/verify"
)

// wantFiles wants a refusal that lists exactly these differences.
func wantFiles(t *testing.T, r *verify.Report, err error, missing, changed, extra []string) {
	t.Helper()
	report := wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
	f := report.Files
	if !slices.Equal(f.Missing, missing) || !slices.Equal(f.Changed, changed) || !slices.Equal(f.Extra, extra) {
		t.Errorf("missing %q, changed %q, extra %q; want %q, %q, %q", f.Missing, f.Changed, f.Extra, missing, changed, extra)
	}
	for _, name := range slices.Concat(missing, changed, extra) {
		if !strings.Contains(err.Error(), fmt.Sprintf("%q", name)) {
			t.Errorf("%q does not name %q", err, name)
		}
	}
}

func TestAFolderThatIsNotTheSignedOne(t *testing.T) {
	k := newKey(t)
	signed := bundles(k.sign(t, oms(t, tiny, nil, manifest.GitPaths()...)))
	for _, tt := range []struct {
		name                    string
		files                   files
		missing, changed, extra []string
	}{
		{"a file changed", tiny.with("weights/a.bin", "hellO"), nil, []string{"weights/a.bin"}, nil},
		{"a file grown", tiny.with("config.json", "{} "), nil, []string{"config.json"}, nil},
		{"a file empty", tiny.with("config.json", ""), nil, []string{"config.json"}, nil},
		{"a file missing", tiny.without("config.json"), []string{"config.json"}, nil, nil},
		{"a file more", tiny.with("run.py", "x"), nil, nil, []string{"run.py"}},
		{"an empty file more", tiny.with("empty", ""), nil, nil, []string{"empty"}},
		{"a file in another folder", tiny.without("config.json").with("weights/config.json", "{}"), []string{"config.json"}, nil, []string{"weights/config.json"}},
		{"a name in another case", tiny.without("config.json").with("Config.json", "{}"), []string{"config.json"}, nil, []string{"Config.json"}},
		{"two files exchanged", files{"config.json": "hello", "weights/a.bin": "{}"}, nil, []string{"config.json", "weights/a.bin"}, nil},
		{"all of it at once, sorted", files{"z": "", "b": "", "weights/a.bin": "x"}, []string{"config.json"}, []string{"weights/a.bin"}, []string{"b", "z"}},
		{"nothing there", files{}, []string{"config.json", "weights/a.bin"}, nil, nil},
		{"a name that only begins as a git name", tiny.with(".gitx", ""), nil, nil, []string{".gitx"}},
		{"a git name in a folder", tiny.with("weights/.gitignore", ""), nil, nil, []string{"weights/.gitignore"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := verify.Decide(t.Context(), trusts(k), folder(tt.files), signed)
			wantFiles(t, r, err, tt.missing, tt.changed, tt.extra)
			// Against an artifact that is what was signed, it is no better.
			s := verify.Subject{Artifact: tinyArtifact().Artifact, Local: tt.files.local()}
			for _, payload := range [][]byte{bound(t), artifact(t, manifestOf("tiny")), oms(t, tiny, nil)} {
				r, err = verify.Decide(t.Context(), trusts(k), s, bundles(k.sign(t, payload)))
				wantFiles(t, r, err, tt.missing, tt.changed, tt.extra)
			}
		})
	}
}

func TestAFolderAgainstAnArtifactNeedsBothToBeRight(t *testing.T) {
	k := newKey(t)
	evil := tiny.with("config.json", "[]")
	// The folder is what was signed, the artifact is not.
	s := verify.Subject{Artifact: artifactOf("evil", evil.mapped()), Local: tiny.local()}
	for payload, code := range map[string]string{
		string(bound(t)):                          verify.CodeOtherSubject,
		string(artifact(t, manifestOf("tiny"))):   verify.CodeOtherSubject,
		string(oms(t, tiny, nil)):                 verify.CodeFiles,
		string(bytesOfAnotherPredicate(t, "x/y")): verify.CodeNotApproval,
	} {
		r, err := verify.Decide(t.Context(), trusts(k), s, bundles(k.sign(t, []byte(payload))))
		wantNo(t, r, err, verify.ErrRefused, code)
	}
	// The artifact is signed as an artifact, and the folder is another.
	r, err := verify.Decide(t.Context(), trusts(k), s, bundles(k.sign(t, artifact(t, manifestOf("evil")))))
	wantFiles(t, r, err, nil, []string{"config.json"}, nil)
}

func bytesOfAnotherPredicate(t testing.TB, predicateType string) []byte {
	return edit(t, bound(t), func(st map[string]any) { st["predicateType"] = predicateType })
}

func TestAnArtifactSignatureSaysNothingAboutAFolder(t *testing.T) {
	k := newKey(t)
	r, err := verify.Decide(t.Context(), trusts(k), folder(tiny), bundles(k.sign(t, artifact(t, manifestOf("tiny")))))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeNotApproval)
}

func TestWhatIgnorePathsHide(t *testing.T) { // rules 8, 29
	k := newKey(t)
	const hidden, shown = true, false
	for _, tt := range []struct {
		name   string
		ignore []string
		file   string
		want   bool
	}{
		{"the file itself", []string{"notes.txt"}, "notes.txt", hidden},
		{"what lies below a folder", []string{"logs"}, "logs/a/b.txt", hidden},
		{"not what only begins alike", []string{"logs"}, "logs2/a.txt", shown},
		{"not the name in another folder", []string{"notes.txt"}, "sub/notes.txt", shown},
		{"not in another case", []string{"notes.txt"}, "Notes.txt", shown},
		{"no pattern", []string{"*"}, "notes.txt", shown},
		{"no pattern over folders", []string{"**/*"}, "a/notes.txt", shown},
		{"a root hides nothing", []string{"."}, "notes.txt", shown},
		{"nor an empty one", []string{""}, "notes.txt", shown},
		{"nor a slash", []string{"/"}, "notes.txt", shown},
		{"nor a root with a slash", []string{"./"}, "notes.txt", shown},
		{"an entry that is not clean hides nothing", []string{"./notes.txt"}, "notes.txt", shown},
		{"nor one that ends in a slash", []string{"logs/"}, "logs/a", shown},
		{"nor one with two", []string{"logs//a"}, "logs/a", shown},
		{"nor one that goes up and down", []string{"x/../notes.txt"}, "notes.txt", shown},
		{"nor one that leaves the model", []string{"../model"}, "notes.txt", shown},
		{"nor the parent", []string{".."}, "notes.txt", shown},
		{"nor an absolute one", []string{"/notes.txt"}, "notes.txt", shown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			payload := edit(t, oms(t, tiny, nil), func(st map[string]any) { serialization(st)["ignore_paths"] = tt.ignore })
			r, err := verify.Decide(t.Context(), trusts(k), folder(tiny.with(tt.file, "x")), bundles(k.sign(t, payload)))
			if !tt.want {
				wantFiles(t, r, err, nil, nil, []string{tt.file})
				return
			}
			wantVerified(t, r, err, verify.StrengthFiles)
			if !slices.Equal(r.Files.Ignored, []string{tt.file}) || r.Files.Count != 2 {
				t.Errorf("files %+v: want what is hidden to be listed", r.Files)
			}
		})
	}
}

// A folder cannot have two files of one name, and a list that a caller made
// can: whichever of them is the signed one, the other is not.
func TestTwoFilesOfOneName(t *testing.T) {
	k := newKey(t)
	p := trusts(k)
	p.IgnoreUnsignedFiles = true
	for _, h := range hashings {
		b := bundles(k.sign(t, omsBy(t, tiny, h)))
		for _, content := range []string{"hello", "hellO", "hello, world", ""} {
			twice := folder(tiny)
			twice.Local.Files = slices.Concat(twice.Local.Files, files{"weights/a.bin": content}.local().Files)
			for range 2 {
				r, err := verify.Decide(t.Context(), p, twice, b)
				wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
				slices.Reverse(twice.Local.Files)
			}
		}
	}
}

func TestWhatIsListedIsNeverIgnored(t *testing.T) { // rule 29
	k := newKey(t)
	// A listed file stays listed, whoever would ignore it.
	signed := tiny.with(".gitignore", "x").with("model.sig", "y")
	m, err := manifest.New(signed.resources(), manifest.Serialization{IgnorePaths: []string{".gitignore", "config.json", "model.sig", "weights"}})
	if err != nil {
		t.Fatal(err)
	}
	ev := bundles(k.sign(t, statement(t, m, nil)))
	p := trusts(k)
	p.IgnorePaths = manifest.Ignore{"config.json", "weights", ".gitignore"}
	p.IgnoreUnsignedFiles = true
	subject := func(f files) verify.Subject {
		l := f.local()
		l.Own = manifest.Ignore{"model.sig"}
		return verify.Subject{Local: l}
	}
	r, err := verify.Decide(t.Context(), p, subject(signed), ev)
	wantVerified(t, r, err, verify.StrengthFiles)
	if r.Files.Count != 4 || len(r.Files.Ignored) != 0 {
		t.Errorf("files %+v: want four compared and none ignored", r.Files)
	}
	for name := range signed {
		r, err = verify.Decide(t.Context(), p, subject(signed.with(name, "evil")), ev)
		wantFiles(t, r, err, nil, []string{name}, nil)
		r, err = verify.Decide(t.Context(), p, subject(signed.without(name)), ev)
		wantFiles(t, r, err, []string{name}, nil, nil)
	}
}

func TestWhatTheCallerIgnores(t *testing.T) {
	k := newKey(t)
	ev := bundles(k.sign(t, oms(t, tiny, nil)))
	extras := tiny.with(".git/config", "").with(".gitignore", "").with(".gitattributes", "").with(".github/x", "").with("model.sig", "").with("cache/x", "")

	p := trusts(k)
	p.IgnorePaths = manifest.Ignore{"cache"}
	s := folder(extras)
	s.Local.Own = manifest.Ignore{"model.sig"}
	r, err := verify.Decide(t.Context(), p, s, ev)
	wantVerified(t, r, err, verify.StrengthFiles)
	if want := []string{".git/config", ".gitattributes", ".github/x", ".gitignore", "cache/x", "model.sig"}; !slices.Equal(r.Files.Ignored, want) {
		t.Errorf("ignored %q, want %q", r.Files.Ignored, want)
	}
	if len(r.Warnings) != 0 {
		t.Errorf("warnings %q", r.Warnings)
	}

	// Each of the three is needed for what it hides.
	p.IncludeGitPaths = true
	r, err = verify.Decide(t.Context(), p, s, ev)
	wantFiles(t, r, err, nil, nil, []string{".git/config", ".gitattributes", ".github/x", ".gitignore"})
	p = trusts(k)
	s.Local.Own = nil
	r, err = verify.Decide(t.Context(), p, s, ev)
	wantFiles(t, r, err, nil, nil, []string{"cache/x", "model.sig"})
}

func TestUnsignedFilesCanBeAccepted(t *testing.T) {
	k := newKey(t)
	ev := bundles(k.sign(t, oms(t, tiny, nil)))
	p := trusts(k)
	p.IgnoreUnsignedFiles = true
	many := tiny
	for i := range 7 {
		many = many.with(fmt.Sprintf("extra%d", i), "x")
	}
	r, err := verify.Decide(t.Context(), p, folder(many), ev)
	wantVerified(t, r, err, verify.StrengthFiles)
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], `"extra0"`) || !strings.Contains(r.Warnings[0], "2 more") {
		t.Errorf("warnings %q: want one that lists them", r.Warnings)
	}
	// It accepts no changed and no missing file.
	r, err = verify.Decide(t.Context(), p, folder(many.with("config.json", "[]")), ev)
	wantFiles(t, r, err, nil, []string{"config.json"}, nil)
	r, err = verify.Decide(t.Context(), p, folder(many.without("config.json")), ev)
	wantFiles(t, r, err, []string{"config.json"}, nil, nil)
}

func TestWhatIsNoFileOfAModel(t *testing.T) { // threats D01, D05
	k := newKey(t)
	ev := bundles(k.sign(t, oms(t, tiny, nil, append(manifest.GitPaths(), "cache")...)))
	with := func(name string) verify.Subject {
		f := tiny.without(name)
		s := folder(f)
		s.Local.Files = append(s.Local.Files, manifest.File{Name: name, Problem: &manifest.ThreatError{Code: "symlink", Name: name, Reason: "is a symbolic link"}})
		return s
	}
	accepting := trusts(k)
	accepting.IgnoreUnsignedFiles = true
	for _, tt := range []struct {
		name   string
		policy verify.Policy
		link   string
		code   string // "": a yes
	}{
		{"in the place of a signed file", trusts(k), "config.json", "symlink"},
		{"in the place of a signed file, unsigned ones accepted", accepting, "config.json", "symlink"},
		{"one more", trusts(k), "more", "symlink"},
		{"one more, unsigned ones accepted", accepting, "more", "symlink"},
		{"below what the signer left out", trusts(k), "cache/x", ""},
		{"below a git name", trusts(k), ".git/x", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := verify.Decide(t.Context(), tt.policy, with(tt.link), ev)
			if tt.code != "" {
				wantNo(t, r, err, verify.ErrRefused, tt.code)
				return
			}
			wantVerified(t, r, err, verify.StrengthFiles)
			if !slices.Contains(r.Files.Ignored, tt.link) && !strings.Contains(strings.Join(r.Warnings, "\n"), tt.link) {
				t.Errorf("%+v: the link is not mentioned", r)
			}
		})
	}
}

// single is a model that is one file.
func single(name, content string) verify.Subject {
	s := folder(files{name: content})
	s.Local.IsFile = true
	return s
}

func TestASingleFile(t *testing.T) {
	k := newKey(t)
	named := k.sign(t, oms(t, files{"model.bin": "hello"}, nil))
	// As old writers have it.
	dot := k.sign(t, edit(t, oms(t, files{"model.bin": "hello"}, nil), func(st map[string]any) {
		resourcesOf(st)[0].(map[string]any)["name"] = "."
	}))
	for _, signed := range [][]byte{named, dot} {
		r, err := verify.Decide(t.Context(), trusts(k), single("model.bin", "hello"), bundles(signed))
		wantVerified(t, r, err, verify.StrengthFiles)
		r, err = verify.Decide(t.Context(), trusts(k), single("model.bin", "evil"), bundles(signed))
		wantFiles(t, r, err, nil, []string{"model.bin"}, nil)
	}
	r, err := verify.Decide(t.Context(), trusts(k), single("other.bin", "hello"), bundles(dot))
	wantVerified(t, r, err, verify.StrengthFiles)
	r, err = verify.Decide(t.Context(), trusts(k), single("other.bin", "hello"), bundles(named))
	wantFiles(t, r, err, []string{"model.bin"}, nil, []string{"other.bin"})

	// "." names the one file of a model that is one, and no folder's.
	r, err = verify.Decide(t.Context(), trusts(k), folder(files{"model.bin": "hello"}), bundles(dot))
	wantFiles(t, r, err, []string{"."}, nil, []string{"model.bin"})
	r, err = verify.Decide(t.Context(), trusts(k), verify.Subject{Artifact: artifactOf("tiny", files{"model.bin": "hello"}.mapped())}, bundles(dot))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)

	// One file of a signed folder is not the folder, and hiding it does not help.
	p := trusts(k)
	p.IgnorePaths = manifest.Ignore{"other.bin"}
	p.IgnoreUnsignedFiles = true
	r, err = verify.Decide(t.Context(), p, single("config.json", "{}"), bundles(k.sign(t, oms(t, tiny, nil))))
	wantFiles(t, r, err, []string{"weights/a.bin"}, nil, nil)
	r, err = verify.Decide(t.Context(), p, single("other.bin", "hello"), bundles(named))
	wantFiles(t, r, err, []string{"model.bin"}, nil, nil)
}

func TestFilesThatCannotBeRead(t *testing.T) {
	k := newKey(t)
	ev := bundles(k.sign(t, oms(t, tiny, nil)))
	for _, tt := range []struct {
		name string
		err  error
		want error
		code string
	}{
		{"an I/O error decides nothing", errors.New("input/output error"), verify.ErrUnknown, verify.CodeUnread},
		{"a file that changed while it was read is not the signed one", fmt.Errorf("read: %w", manifest.ErrChanged), verify.ErrRefused, verify.CodeFiles},
		{"a pipe in its place is a threat", &manifest.ThreatError{Code: "special-file", Name: "config.json", Reason: "is a named pipe"}, verify.ErrRefused, "special-file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opening, reading := folder(tiny), folder(tiny)
			opening.Local.Files[0].Open = func() (io.ReadCloser, error) { return nil, tt.err }
			reading.Local.Files[0].Open = func() (io.ReadCloser, error) { return io.NopCloser(&failing{tt.err}), nil }
			for _, s := range []verify.Subject{opening, reading} {
				r, err := verify.Decide(t.Context(), trusts(k), s, ev)
				wantNo(t, r, err, tt.want, tt.code)
			}
		})
	}
	// What nobody signed is not read.
	s := folder(tiny.with("extra", "x"))
	for i := range s.Local.Files {
		s.Local.Files[i].Open = func() (io.ReadCloser, error) { t.Error("a file was read"); return nil, io.ErrUnexpectedEOF }
	}
	r, err := verify.Decide(t.Context(), trusts(newKey(t)), s, ev)
	wantNo(t, r, err, verify.ErrRefused, verify.CodeUntrusted)
	p := trusts(k)
	p.IgnoreUnsignedFiles = true
	s.Local.Files = append(tiny.local().Files, s.Local.Files[1]) // "extra" may not be read
	r, err = verify.Decide(t.Context(), p, s, ev)
	wantVerified(t, r, err, verify.StrengthFiles)
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func TestEachFileIsReadOnceAVerdict(t *testing.T) {
	k := newKey(t)
	s := folder(tiny)
	reads := map[string]int{}
	for i, f := range s.Local.Files {
		s.Local.Files[i].Open = func() (io.ReadCloser, error) {
			reads[f.Name]++
			return f.Open()
		}
	}
	s.Local.Hash = func(ctx context.Context, h manifest.Hashing, files []manifest.File) ([]manifest.Resource, error) {
		return (&manifest.Hasher{Hashing: h, Jobs: 1}).Hash(ctx, files)
	}
	wrong := k.sign(t, oms(t, tiny.with("config.json", "[]"), nil))
	r, err := verify.Decide(t.Context(), trusts(k), s, bundles(wrong, wrong, k.sign(t, oms(t, tiny, nil))))
	wantVerified(t, r, err, verify.StrengthFiles)
	if len(r.Reasons) != 2 || reads["config.json"] != 1 || reads["weights/a.bin"] != 1 {
		t.Errorf("read %v, reasons %v: want every file once", reads, r.Reasons)
	}
}

// lookalike is a file that is shaped as a manifest: its bytes are in both
// readings.
func lookalike(name, content string, mapping *verify.Mapping) verify.Subject {
	s := single(name, content)
	s.Artifact = artifactOf("lookalike", mapping)
	s.Artifact.FileName = name
	return s
}

func TestASignedFileThatLooksLikeAManifest(t *testing.T) { // rule 2
	k := newKey(t)
	lone := files{"config.json": "{}"}
	overwritten := lookalike("config.json", "evil", lone.mapped())
	for _, tt := range []struct {
		name    string
		payload []byte
	}{
		{"the statement lists it", oms(t, lone, nil)},
		{"the statement is of a single file, as old writers call it", edit(t, oms(t, lone, nil), func(st map[string]any) {
			resourcesOf(st)[0].(map[string]any)["name"] = "."
		})},
		{"and is bound to another manifest", oms(t, lone, annotated(t, bindingTo(manifestOf("other"))))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := verify.Decide(t.Context(), trusts(k), overwritten, bundles(k.sign(t, tt.payload)))
			wantFiles(t, r, err, nil, []string{"config.json"}, nil)
			// As the file that it was, it passes: by its bytes.
			r, err = verify.Decide(t.Context(), trusts(k), lookalike("config.json", "{}", files{"x": "y"}.mapped()), bundles(k.sign(t, tt.payload)))
			wantVerified(t, r, err, verify.StrengthFiles)
		})
	}

	// One file of a signed folder, overwritten with a manifest that lists the
	// folder's files: at the top, below a folder, and in another case.
	for _, name := range []string{"config.json", "a.bin", "CONFIG.JSON"} {
		r, err := verify.Decide(t.Context(), trusts(k), lookalike(name, "evil", tiny.mapped()), bundles(k.sign(t, oms(t, tiny, nil))))
		report := wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
		if len(report.Files.Missing) == 0 {
			t.Errorf("%s: %+v", name, report.Files)
		}
	}
}

func TestTheAnswerSaysWhetherFilesWereHashed(t *testing.T) { // rule 2
	k := newKey(t)
	toThis := k.sign(t, artifact(t, manifestOf("lookalike")))
	theFile := k.sign(t, oms(t, files{"config.json": "{}"}, nil))
	evil := lookalike("config.json", "evil", tiny.mapped())
	for _, ev := range []verify.Evidence{bundles(toThis, theFile), bundles(theFile, toThis)} {
		r, err := verify.Decide(t.Context(), trusts(k), evil, ev)
		wantVerified(t, r, err, verify.StrengthManifest)
		if r.Hashed {
			t.Error("the yes is by the manifest's digest, and claims that a file was hashed")
		}
	}
	r, err := verify.Decide(t.Context(), trusts(k), evil, bundles(theFile))
	if report := wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles); !report.Hashed {
		t.Error("the refusal does not say that the file was hashed")
	}
	r, err = verify.Decide(t.Context(), trusts(k), folder(tiny), bundles(k.sign(t, bound(t)), theFile))
	wantVerified(t, r, err, verify.StrengthFiles)
	if !r.Hashed {
		t.Error("the files were hashed")
	}
}

func TestAManifestOnDisk(t *testing.T) { // rule 2
	k := newKey(t)
	d := manifestOf("lookalike")
	fromDisk := lookalike("manifest.json", "no file of the model", tiny.mapped())
	named := verify.Subject{Artifact: artifactOf("lookalike", tiny.mapped())} // manifest:PATH or standard input

	toThis, err := bindingTo(d).Annotations()
	if err != nil {
		t.Fatal(err)
	}
	lists := tiny.with("manifest.json", "x")
	for _, tt := range []struct {
		name     string
		subject  verify.Subject
		payload  []byte
		strength verify.Strength
	}{
		{"the statement names these bytes", fromDisk, oms(t, tiny, toThis), verify.StrengthManifest},
		{"an artifact signature names these bytes", fromDisk, artifact(t, d), verify.StrengthManifest},
		{"a folder's signature that does not list the file", fromDisk, oms(t, tiny, nil), verify.StrengthLayers},
		{"the statement lists a file of that name and names these bytes", lookalike("manifest.json", "x", lists.mapped()), oms(t, lists, toThis), verify.StrengthManifest},
		{"the caller said that it is a manifest", named, oms(t, tiny, nil), verify.StrengthLayers},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for i := range fromDisk.Local.Files {
				fromDisk.Local.Files[i].Open = func() (io.ReadCloser, error) { t.Error("a file was hashed"); return nil, io.EOF }
			}
			r, err := verify.Decide(t.Context(), trusts(k), tt.subject, bundles(k.sign(t, tt.payload)))
			wantVerified(t, r, err, tt.strength)
		})
	}
	for _, tt := range []struct {
		name    string
		payload []byte
		code    string
	}{
		{"the statement names other bytes", oms(t, tiny, annotated(t, bindingTo(manifestOf("other")))), verify.CodeOtherSubject},
		{"an artifact signature names other bytes", artifact(t, manifestOf("other")), verify.CodeOtherSubject},
		{"the files are others", oms(t, tiny.with("config.json", "[]"), nil), verify.CodeFiles},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, s := range []verify.Subject{fromDisk, named} {
				r, err := verify.Decide(t.Context(), trusts(k), s, bundles(k.sign(t, tt.payload)))
				wantNo(t, r, err, verify.ErrRefused, tt.code)
			}
		})
	}
}

func TestForeignTextIsQuoted(t *testing.T) { // rule 36
	k := newKey(t)
	hostile := "a\u202eb\u200b" // turns the line around; invisible
	for name, s := range map[string]verify.Subject{
		"extra":   folder(tiny.with(hostile, "x")),
		"missing": folder(tiny),
	} {
		signed := tiny
		if name == "missing" {
			signed = tiny.with(hostile, "x")
		}
		r, err := verify.Decide(t.Context(), trusts(k), s, bundles(k.sign(t, oms(t, signed, nil))))
		wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
		if strings.ContainsAny(err.Error(), "\u202e\u200b\x1b\n") {
			t.Errorf("%s: %q is not escaped", name, err)
		}
	}
	for _, payload := range [][]byte{
		bytesOfAnotherPredicate(t, "https://x/\x1b[31m\u202e"),
		oms(t, tiny, map[string]json.RawMessage{"modelsig.oci.\u202ev1": json.RawMessage(`{}`)}),
		oms(t, tiny, map[string]json.RawMessage{verify.AnnotationBinding: bindingJSON(t, `"layout"`, `"pathAnnotation":"\u202e\u001b","layout"`)}),
		edit(t, artifact(t, manifestOf("tiny")), func(st map[string]any) {
			subject(st)["digest"] = map[string]any{"sha256": manifestOf("x").Digest.Encoded(), "\u202e": "ab"}
		}),
	} {
		r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), bundles(k.sign(t, payload)))
		if r != nil || !errors.Is(err, verify.ErrRefused) || strings.ContainsAny(err.Error(), "\u202e\x1b") {
			t.Errorf("%q: want a refusal without foreign text as it came", err)
		}
	}
}
