package verify_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/verify"
)

// A packed artifact has its files in archives, and counts how often they are read.
type packed struct {
	*verify.Artifact
	reads int
}

// pack is an artifact whose archives hold f, and err is what reading them gives.
func pack(f files, err error) *packed {
	p := &packed{Artifact: artifactOf("tiny", &verify.Mapping{Layout: "kitops", Packed: true, Archives: true})}
	p.Read = func(context.Context, string) (*verify.Mapping, error) {
		p.reads++
		if err != nil {
			return nil, err
		}
		return &verify.Mapping{Layout: "kitops", Files: f.known(), Added: []string{"Kitfile"}}, nil
	}
	return p
}

func accepting(strength verify.Strength, keys ...keypair) verify.Policy {
	p := trusts(keys...)
	p.Binding = strength
	return p
}

// boundTo is a statement of f that names the manifest of pack, read as kitops.
func boundTo(t testing.TB, f files) []byte {
	b := bindingTo(manifestOf("tiny"))
	b.Layout = "kitops"
	return oms(t, f, annotated(t, b), "Kitfile")
}

var errUnread = fmt.Errorf("%w: the registry is gone", verify.ErrUnknown)

// The manifest's digest covers archives with all that is in them.
func TestABoundStatementNeedsNoArchive(t *testing.T) {
	k := newKey(t)
	a := pack(nil, errUnread)
	for _, payload := range [][]byte{boundTo(t, tiny), artifact(t, manifestOf("tiny"))} {
		r, err := verify.Decide(t.Context(), accepting("", k), verify.Subject{Artifact: a.Artifact}, bundles(k.sign(t, payload)))
		wantVerified(t, r, err, verify.StrengthManifest)
		if a.reads != 0 || r.Layout != "kitops" || len(r.Warnings) != 0 {
			t.Errorf("%d reads, layout %q, warnings %q", a.reads, r.Layout, r.Warnings)
		}
	}
	// Nor does a folder against it: the statement has its files.
	s := verify.Subject{Artifact: a.Artifact, Local: tiny.with("Kitfile", "x").local()}
	r, err := verify.Decide(t.Context(), accepting("", k), s, bundles(k.sign(t, boundTo(t, tiny))))
	wantVerified(t, r, err, verify.StrengthManifest)
	if a.reads != 0 || !slices.Equal(r.Files.Ignored, []string{"Kitfile"}) {
		t.Errorf("%d reads, ignored %q", a.reads, r.Files.Ignored)
	}
}

// Reading is dear: what needs it is judged last, whatever the order.
func TestArchivesAreReadOnlyIfNothingElseIsEnough(t *testing.T) {
	k := newKey(t)
	signed := bundles(k.sign(t, artifact(t, manifestOf("tiny"))), k.sign(t, oms(t, tiny, nil)), k.sign(t, boundTo(t, tiny)))
	a := pack(nil, errUnread)
	s := verify.Subject{Artifact: a.Artifact, Local: tiny.local()}
	r, err := verify.Decide(t.Context(), accepting(verify.StrengthStreamed, k), s, signed)
	wantVerified(t, r, err, verify.StrengthManifest)
	if a.reads != 0 || r.Signers[0].Kind != "model" {
		t.Errorf("%d reads, signers %+v", a.reads, r.Signers)
	}
	s.Local = tiny.with("config.json", "{ }").local()
	r, err = verify.Decide(t.Context(), accepting(verify.StrengthStreamed, k), s, signed)
	wantNo(t, r, err, verify.ErrUnknown, verify.CodeUnread)
	if a.reads != 1 {
		t.Errorf("%d reads, want one for both that need it", a.reads)
	}
}

func TestAllContentIsReadWhereTheCallerWantsIt(t *testing.T) {
	k := newKey(t)
	hostile := &manifest.ThreatError{Code: "digest-mismatch", Reason: "the blob that came has another digest"}
	for _, tt := range []struct {
		name     string
		artifact *packed
		sentinel error
		code     string
	}{
		{"it holds", pack(tiny, nil), nil, ""},
		{"it cannot be read", pack(nil, errUnread), verify.ErrUnknown, verify.CodeUnread},
		{"it is not what its digest says", pack(nil, hostile), verify.ErrRefused, "digest-mismatch"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.artifact.Content = true
			for _, payload := range [][]byte{boundTo(t, tiny), artifact(t, manifestOf("tiny"))} {
				r, err := verify.Decide(t.Context(), accepting("", k), verify.Subject{Artifact: tt.artifact.Artifact}, bundles(k.sign(t, payload)))
				if tt.sentinel != nil {
					wantNo(t, r, err, tt.sentinel, tt.code)
					continue
				}
				wantVerified(t, r, err, verify.StrengthManifest)
			}
			if tt.artifact.reads != 2 {
				t.Errorf("%d reads, want one a verdict", tt.artifact.reads)
			}
		})
	}
	t.Run("the files are not the signed ones", func(t *testing.T) {
		a := pack(tiny.with("config.json", "{ }"), nil)
		a.Content = true
		r, err := verify.Decide(t.Context(), accepting("", k), verify.Subject{Artifact: a.Artifact}, bundles(k.sign(t, boundTo(t, tiny))))
		wantFiles(t, r, err, nil, []string{"config.json"}, nil)
	})
}

// Rule 8: a statement that names no manifest is compared with what is in the
// archives, if the policy takes that.
func TestFilesInArchivesWithoutABinding(t *testing.T) {
	k := newKey(t)
	signed := bundles(k.sign(t, oms(t, tiny, nil)))
	for _, tt := range []struct {
		name     string
		artifact *packed
		strength verify.Strength
		sentinel error
		code     string
		reads    int
	}{
		{"equal", pack(tiny, nil), verify.StrengthStreamed, nil, "", 1},
		{"the policy wants the manifest", pack(tiny, nil), "", verify.ErrRefused, verify.CodeWeak, 0},
		{"the policy wants digests of layers", pack(tiny, nil), verify.StrengthLayers, verify.ErrRefused, verify.CodeWeak, 0},
		{"changed", pack(tiny.with("config.json", "{ }"), nil), verify.StrengthStreamed, verify.ErrRefused, verify.CodeFiles, 1},
		{"a file more", pack(tiny.with("run.py", "x"), nil), verify.StrengthStreamed, verify.ErrRefused, verify.CodeFiles, 1},
		{"a file less", pack(tiny.without("config.json"), nil), verify.StrengthStreamed, verify.ErrRefused, verify.CodeFiles, 1},
		{"unread", pack(nil, errUnread), verify.StrengthStreamed, verify.ErrUnknown, verify.CodeUnread, 1},
		{"no files", pack(nil, errors.New("no file has a name")), verify.StrengthStreamed, verify.ErrRefused, verify.CodeUnmapped, 1},
		{"hostile", pack(nil, &manifest.ThreatError{Code: "special-file"}), verify.StrengthStreamed, verify.ErrRefused, "special-file", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := verify.Decide(t.Context(), accepting(tt.strength, k), verify.Subject{Artifact: tt.artifact.Artifact}, signed)
			if tt.sentinel == nil {
				wantVerified(t, r, err, verify.StrengthStreamed)
			} else {
				wantNo(t, r, err, tt.sentinel, tt.code)
			}
			if tt.artifact.reads != tt.reads {
				t.Errorf("%d reads, want %d", tt.artifact.reads, tt.reads)
			}
		})
	}
	t.Run("something unsigned carries meaning", func(t *testing.T) {
		a := pack(tiny, nil)
		a.Read = func(context.Context, string) (*verify.Mapping, error) {
			return &verify.Mapping{Layout: "kitops", Files: tiny.known(), Uncovered: []string{"config"}}, nil
		}
		r, err := verify.Decide(t.Context(), accepting(verify.StrengthStreamed, k), verify.Subject{Artifact: a.Artifact}, signed)
		wantNo(t, r, err, verify.ErrRefused, verify.CodeUncovered)
	})
	t.Run("only the manifest is here", func(t *testing.T) {
		a := pack(tiny, nil)
		a.Read = nil
		r, err := verify.Decide(t.Context(), accepting(verify.StrengthStreamed, k), verify.Subject{Artifact: a.Artifact}, signed)
		wantNo(t, r, err, verify.ErrRefused, verify.CodeUnmapped)
	})
	t.Run("nobody whom the caller trusts", func(t *testing.T) {
		a := pack(tiny, nil)
		r, err := verify.Decide(t.Context(), accepting(verify.StrengthStreamed, newKey(t)), verify.Subject{Artifact: a.Artifact}, signed)
		wantNo(t, r, err, verify.ErrRefused, verify.CodeUntrusted)
		if a.reads != 0 {
			t.Error("archives were read for a statement that nobody authenticated")
		}
	})
}

// A folder against an artifact that has an artifact signature alone.
func TestAFolderAgainstArchives(t *testing.T) {
	k := newKey(t)
	signed := bundles(k.sign(t, artifact(t, manifestOf("tiny"))))
	decide := func(a *packed, local files) (*verify.Report, error) {
		return verify.Decide(t.Context(), accepting("", k), verify.Subject{Artifact: a.Artifact, Local: local.local()}, signed)
	}
	a := pack(tiny, nil)
	r, err := decide(a, tiny.with("Kitfile", "as kit writes it"))
	wantVerified(t, r, err, verify.StrengthManifest)
	if a.reads != 1 || !slices.Equal(r.Files.Ignored, []string{"Kitfile"}) || !r.Hashed || r.Files.Count != 2 {
		t.Errorf("%d reads, files %+v", a.reads, r.Files)
	}
	r, err = decide(pack(tiny, nil), tiny.with("config.json", "{ }").with("run.py", "x"))
	wantFiles(t, r, err, nil, []string{"config.json"}, []string{"run.py"})
	r, err = decide(pack(nil, errUnread), tiny)
	wantNo(t, r, err, verify.ErrUnknown, verify.CodeUnread)
	r, err = decide(pack(nil, errors.New("no names")), tiny)
	wantNo(t, r, err, verify.ErrRefused, verify.CodeUnmapped)
}

// Tools that sign a manifest without reading its layers list the blobs. The
// digests cover what is in the archives, so that a folder can be held against
// it; names that only annotations give are covered by nobody.
func TestAStatementThatListsTheBlobs(t *testing.T) {
	k := newKey(t)
	blobs := files{"config.json": "kitfile", "layer_000.tar.gz": "tar one", "layer_001.tar.gz": "tar two"}
	listing := func(f files, ignore ...string) []byte {
		m, err := manifest.New(f.resources(), manifest.Serialization{IgnorePaths: append([]string{}, ignore...)})
		if err != nil {
			t.Fatal(err)
		}
		return k.sign(t, statement(t, m, nil))
	}
	named := func(a *packed) *packed {
		a.Blobs = map[string]digest.Digest{}
		for name, content := range blobs {
			a.Blobs[name] = digest.FromString(content)
		}
		return a
	}
	decide := func(a *packed, local files, bundle []byte, strength verify.Strength) (*verify.Report, error) {
		s := verify.Subject{Artifact: a.Artifact}
		if local != nil {
			s.Local = local.local()
		}
		return verify.Decide(t.Context(), accepting(strength, k), s, bundles(bundle))
	}
	r, err := decide(named(pack(tiny, nil)), tiny.with("Kitfile", ""), listing(blobs), verify.StrengthStreamed)
	wantVerified(t, r, err, verify.StrengthStreamed)
	if r.Files.Count != 2 || !r.Hashed {
		t.Errorf("files %+v, hashed %t", r.Files, r.Hashed)
	}
	// The artifact itself needs no reading.
	a := named(pack(nil, errUnread))
	r, err = decide(a, nil, listing(blobs), verify.StrengthStreamed)
	wantVerified(t, r, err, verify.StrengthLayers)

	r, err = decide(named(pack(tiny, nil)), tiny.with("config.json", "{ }"), listing(blobs), verify.StrengthStreamed)
	wantFiles(t, r, err, nil, []string{"config.json"}, nil)
	r, err = decide(named(pack(nil, errUnread)), tiny, listing(blobs), verify.StrengthStreamed)
	wantNo(t, r, err, verify.ErrUnknown, verify.CodeUnread)
	r, err = decide(named(pack(tiny, nil)), tiny, listing(blobs), verify.StrengthLayers)
	wantNo(t, r, err, verify.ErrRefused, verify.CodeWeak)

	raw := named(pack(tiny, nil))
	raw.Map = func(string, ...digest.Digest) (*verify.Mapping, error) {
		return &verify.Mapping{Layout: "modelpack", Packed: true}, nil // some layers are files, named by annotations
	}
	for _, tt := range []struct {
		name     string
		artifact *packed
		bundle   []byte
	}{
		{"a layer is not listed", named(pack(tiny, nil)), listing(blobs.without("layer_001.tar.gz"))},
		{"a layer is another", named(pack(tiny, nil)), listing(blobs.with("layer_001.tar.gz", "evil"))},
		{"the config is another", named(pack(tiny, nil)), listing(blobs.with("config.json", "evil"))},
		{"a file is listed too", named(pack(tiny, nil)), listing(blobs.with("model.bin", "x"))},
		{"something is ignored", named(pack(tiny, nil)), listing(blobs, "config.json")},
		{"two blobs have one name", pack(tiny, nil), listing(blobs)},
		{"files are named by annotations", raw, listing(blobs)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := decide(tt.artifact, tiny, tt.bundle, verify.StrengthStreamed)
			wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
		})
	}
	t.Run("something else carries meaning", func(t *testing.T) {
		a := named(pack(tiny, nil))
		a.Map = func(string, ...digest.Digest) (*verify.Mapping, error) {
			return &verify.Mapping{Layout: "kitops", Packed: true, Archives: true, Uncovered: []string{"annotation"}}, nil
		}
		r, err := decide(a, nil, listing(blobs), verify.StrengthStreamed)
		wantNo(t, r, err, verify.ErrRefused, verify.CodeUncovered)
	})
}

// Rule 27: the caller may want one reading of the layers.
func TestThePolicyWantsALayout(t *testing.T) {
	k := newKey(t)
	payloads := [][]byte{boundTo(t, tiny), artifact(t, manifestOf("tiny"))}
	for _, payload := range payloads {
		p := accepting("", k)
		p.Layout = "kitops"
		r, err := verify.Decide(t.Context(), p, verify.Subject{Artifact: pack(tiny, nil).Artifact}, bundles(k.sign(t, payload)))
		wantVerified(t, r, err, verify.StrengthManifest)
		p.Layout = "title"
		r, err = verify.Decide(t.Context(), p, verify.Subject{Artifact: pack(tiny, nil).Artifact}, bundles(k.sign(t, payload)))
		wantNo(t, r, err, verify.ErrRefused, verify.CodeLayout)
		unmapped := artifactOf("tiny", nil)
		unmapped.Map = func(string, ...digest.Digest) (*verify.Mapping, error) { return nil, errors.New("no names") }
		p.Layout = "modelcar"
		r, err = verify.Decide(t.Context(), p, verify.Subject{Artifact: unmapped}, bundles(k.sign(t, payload)))
		wantNo(t, r, err, verify.ErrRefused, verify.CodeLayout)
	}
}

// What kit writes beside the files is one file with that name, and no folder or
// link: nothing else may hide there, with the artifact at hand or offline.
func TestOnlyOneFileIsExcusedAsTheKitfile(t *testing.T) {
	k := newKey(t)
	link := func(l *verify.Local) *verify.Local {
		l.Files = append(l.Files, manifest.File{Name: "Kitfile", Problem: errors.New("it is a link")})
		return l
	}
	signed := boundTo(t, tiny)
	for name, local := range map[string]*verify.Local{
		"a folder":            tiny.with("Kitfile/evil.py", "x").local(),
		"a link":              link(tiny.local()),
		"one further below":   tiny.with("code/Kitfile", "x").local(),
		"in another spelling": tiny.with("kitfile", "x").local(),
	} {
		for where, subject := range map[string]verify.Subject{
			"offline":       {Local: local},
			"in a registry": {Artifact: pack(tiny, nil).Artifact, Local: local},
		} {
			t.Run(name+", "+where, func(t *testing.T) {
				if _, err := verify.Decide(t.Context(), trusts(k), subject, bundles(k.sign(t, signed))); err == nil {
					t.Error("verified")
				}
			})
		}
	}
	r, err := verify.Decide(t.Context(), trusts(k), verify.Subject{Local: tiny.with("Kitfile", "x").local()}, bundles(k.sign(t, signed)))
	wantVerified(t, r, err, verify.StrengthFiles)
	if !slices.Equal(r.Files.Ignored, []string{"Kitfile"}) {
		t.Errorf("ignored %q", r.Files.Ignored)
	}
	// Another layout's signer who leaves out a folder of that name meant it.
	r, err = verify.Decide(t.Context(), trusts(k), verify.Subject{Local: tiny.with("Kitfile/notes", "x").local()}, bundles(k.sign(t, oms(t, tiny, annotated(t, bindingTo(manifestOf("tiny"))), "Kitfile"))))
	wantVerified(t, r, err, verify.StrengthFiles)
}
