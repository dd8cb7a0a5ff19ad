package verify_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/verify"
)

// omsBy is the statement of a model hashed in another way.
func omsBy(t testing.TB, f files, h manifest.Hashing) []byte {
	t.Helper()
	resources, err := (&manifest.Hasher{Hashing: h}).Hash(t.Context(), f.local().Files)
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.New(resources, manifest.Serialization{HashType: h.Type, ShardSize: h.ShardSize, IgnorePaths: manifest.GitPaths()})
	if err != nil {
		t.Fatal(err)
	}
	return statement(t, m, nil)
}

// shardSize cuts weights/a.bin of tiny ("hello") into five.
var hashings = []manifest.Hashing{
	{},
	{Type: manifest.BLAKE2b},
	{Type: manifest.BLAKE3},
	{Type: manifest.SHA256, ShardSize: 1},
	{Type: manifest.BLAKE2b, ShardSize: 5},
	{Type: manifest.BLAKE3, ShardSize: 4},
	{Type: manifest.SHA256, ShardSize: manifest.DefaultShardSize},
}

func TestAFolderSignedByAnyHash(t *testing.T) { // OMS §6.3, §7
	k := newKey(t)
	for _, h := range hashings {
		t.Run(fmt.Sprintf("%+v", h), func(t *testing.T) {
			b := bundles(k.sign(t, omsBy(t, tiny, h)))
			r, err := verify.Decide(t.Context(), trusts(k), folder(tiny), b)
			wantVerified(t, r, err, verify.StrengthFiles)
			if r.Files.Count != 2 || r.Files.Bytes != 7 {
				t.Errorf("%d files of %d bytes, want 2 of 7", r.Files.Count, r.Files.Bytes)
			}
			for _, tt := range []struct {
				name                    string
				files                   files
				missing, changed, extra []string
			}{
				{"one byte changed", tiny.with("weights/a.bin", "hellO"), nil, []string{"weights/a.bin"}, nil},
				{"bytes appended", tiny.with("weights/a.bin", "hello, world"), nil, []string{"weights/a.bin"}, nil},
				{"the tail missing", tiny.with("weights/a.bin", "hell"), nil, []string{"weights/a.bin"}, nil},
				{"nothing left of it", tiny.with("weights/a.bin", ""), nil, []string{"weights/a.bin"}, nil},
				{"gone", tiny.without("weights/a.bin"), []string{"weights/a.bin"}, nil, nil},
				{"one added", tiny.with("extra", "x"), nil, nil, []string{"extra"}},
				{"an empty one added", tiny.with("__init__.py", ""), nil, nil, []string{"__init__.py"}},
			} {
				r, err := verify.Decide(t.Context(), trusts(k), folder(tt.files), b)
				if got := wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles); !slices.Equal(got.Files.Missing, tt.missing) || !slices.Equal(got.Files.Changed, tt.changed) || !slices.Equal(got.Files.Extra, tt.extra) {
					t.Errorf("%s: missing %q, changed %q, extra %q", tt.name, got.Files.Missing, got.Files.Changed, got.Files.Extra)
				}

				// Whoever accepts unsigned files accepts those, and nothing else.
				p := trusts(k)
				p.IgnoreUnsignedFiles = true
				r, err = verify.Decide(t.Context(), p, folder(tt.files), b)
				if tt.name == "one added" || tt.name == "an empty one added" && h.ShardSize == 0 {
					wantVerified(t, r, err, verify.StrengthFiles)
				} else {
					wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
				}
			}
		})
	}
}

// A registry knows layers by the sha256 of the whole (rule 31): statements by
// another hash, or by shards, cannot be held against them, bound or not.
func TestAnArtifactIsComparedBySHA256Only(t *testing.T) {
	k := newKey(t)
	for _, h := range hashings {
		if h == (manifest.Hashing{}) {
			continue
		}
		payload := omsBy(t, tiny, h)
		p := trusts(k)
		p.Binding = verify.StrengthLayers
		r, err := verify.Decide(t.Context(), p, tinyArtifact(), bundles(k.sign(t, payload)))
		wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)

		binding := annotated(t, bindingTo(manifestOf("tiny")))
		payload = edit(t, payload, func(st map[string]any) { subject(st)["annotations"] = binding })
		r, err = verify.Decide(t.Context(), trusts(k), tinyArtifact(), bundles(k.sign(t, payload)))
		wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
	}
}

// Two bundles by two hashes: each file is read once by each.
func TestCandidatesOfDifferentHashesAreEachHeldAgainstTheirOwn(t *testing.T) {
	k := newKey(t)
	var list [][]byte
	for _, h := range hashings[1:] {
		list = append(list, k.sign(t, omsBy(t, tiny.with("config.json", "[]"), h)))
	}
	r, err := verify.Decide(t.Context(), trusts(k), folder(tiny), bundles(list...))
	got := wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
	if len(got.Reasons) != len(list) {
		t.Errorf("%d reasons, want %d", len(got.Reasons), len(list))
	}
	r, err = verify.Decide(t.Context(), trusts(k), folder(tiny), bundles(append(list, k.sign(t, omsBy(t, tiny, hashings[5])))...))
	wantVerified(t, r, err, verify.StrengthFiles)
}

// The one file of a model may be called "." by whoever signed it, also in
// shards.
func TestASingleFileCalledDotInShards(t *testing.T) {
	k := newKey(t)
	payload := edit(t, omsBy(t, files{"a.bin": "hello"}, manifest.Hashing{Type: manifest.SHA256, ShardSize: 4}), func(st map[string]any) {
		for i, name := range []string{".:0:4", ".:4:5"} {
			resourcesOf(st)[i].(map[string]any)["name"] = name
		}
	})
	r, err := verify.Decide(t.Context(), trusts(k), single("a.bin", "hello"), bundles(k.sign(t, payload)))
	wantVerified(t, r, err, verify.StrengthFiles)
	for _, content := range []string{"hellO", "hello!", "hell"} {
		r, err = verify.Decide(t.Context(), trusts(k), single("a.bin", content), bundles(k.sign(t, payload)))
		wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
	}
}

func TestShardsThatDoNotCoverAFile(t *testing.T) { // OMS §6.3.2
	k := newKey(t)
	honest := omsBy(t, files{"a.bin": "hello"}, manifest.Hashing{Type: manifest.SHA256, ShardSize: 2}) // 0:2 2:4 4:5
	resource := func(st map[string]any, i int) map[string]any { return resourcesOf(st)[i].(map[string]any) }
	for _, tt := range []struct {
		name   string
		change func(st map[string]any)
	}{
		{"the first missing", func(st map[string]any) { keep(st, 1, 2) }},
		{"one in the middle missing", func(st map[string]any) { keep(st, 0, 2) }},
		{"one twice", func(st map[string]any) { keep(st, 0, 1, 1, 2) }},
		{"one longer than shard_size", func(st map[string]any) { resource(st, 2)["name"] = "a.bin:4:7" }},
		{"one that overlaps", func(st map[string]any) { resource(st, 1)["name"] = "a.bin:1:3" }},
		{"one that ends before it starts", func(st map[string]any) { resource(st, 1)["name"] = "a.bin:4:2" }},
		{"an empty one", func(st map[string]any) { resource(st, 2)["name"] = "a.bin:4:4" }},
		{"a leading zero", func(st map[string]any) { resource(st, 1)["name"] = "a.bin:02:4" }},
		{"a sign", func(st map[string]any) { resource(st, 1)["name"] = "a.bin:+2:4" }},
		{"no place at all", func(st map[string]any) { resource(st, 1)["name"] = "a.bin" }},
		{"another shard size in the algorithm", func(st map[string]any) { resource(st, 1)["algorithm"] = "sha256-sharded-3" }},
		{"no shard_size", func(st map[string]any) { delete(serialization(st), "shard_size") }},
		{"a shard_size of nothing", func(st map[string]any) { serialization(st)["shard_size"] = 0 }},
		{"a shard_size that is no integer", func(st map[string]any) { serialization(st)["shard_size"] = 2.5 }},
		{"a shard_size with whole files", func(st map[string]any) { serialization(st)["method"] = "files" }},
		{"a name outside", func(st map[string]any) {
			for i := range 3 {
				resource(st, i)["name"] = "../" + resource(st, i)["name"].(string)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			payload := edit(t, honest, func(st map[string]any) { tt.change(st); reroot(t, st) })
			r, err := verify.Decide(t.Context(), trusts(k), folder(files{"a.bin": "hello"}), bundles(k.sign(t, payload)))
			wantNo(t, r, err, verify.ErrRefused, verify.CodeMalformed)
		})
	}

	// What others write for the same: any order, the shard size in the
	// algorithm, the shard size as a floating point number.
	payload := edit(t, honest, func(st map[string]any) {
		slices.Reverse(resourcesOf(st))
		for i := range 3 {
			resource(st, i)["algorithm"] = "sha256-sharded-2"
		}
		serialization(st)["shard_size"] = json.Number("2.0")
		reroot(t, st)
	})
	r, err := verify.Decide(t.Context(), trusts(k), folder(files{"a.bin": "hello"}), bundles(k.sign(t, payload)))
	wantVerified(t, r, err, verify.StrengthFiles)

	// The tail signed away: well-formed, and of a shorter file.
	payload = edit(t, honest, func(st map[string]any) { keep(st, 0, 1); reroot(t, st) })
	r, err = verify.Decide(t.Context(), trusts(k), folder(files{"a.bin": "hello"}), bundles(k.sign(t, payload)))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
}

// keep keeps some resources of a statement, in the order given.
func keep(st map[string]any, which ...int) {
	all := resourcesOf(st)
	var kept []any
	for _, i := range which {
		kept = append(kept, all[i])
	}
	st["predicate"].(map[string]any)["resources"] = kept
}

// reroot makes the subject's digest that of the resources again, so that it is
// another check that refuses.
func reroot(t testing.TB, st map[string]any) {
	t.Helper()
	var all []byte
	for _, r := range resourcesOf(st) {
		digest, err := hex.DecodeString(r.(map[string]any)["digest"].(string))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, digest...)
	}
	subject(st)["digest"] = map[string]any{"sha256": hex.EncodeToString(sum(string(all)))}
}

func TestASubset(t *testing.T) {
	k := newKey(t)
	p := trusts(k)
	p.Subset = true
	for _, h := range hashings {
		b := bundles(k.sign(t, omsBy(t, tiny, h)))
		r, err := verify.Decide(t.Context(), p, folder(tiny.without("weights/a.bin")), b)
		wantVerified(t, r, err, verify.StrengthFiles)
		if !slices.Equal(r.Files.Missing, []string{"weights/a.bin"}) || r.Files.Count != 1 || len(r.Warnings) != 1 {
			t.Errorf("missing %q, %d files, warnings %q", r.Files.Missing, r.Files.Count, r.Warnings)
		}
		r, err = verify.Decide(t.Context(), p, folder(tiny), b)
		wantVerified(t, r, err, verify.StrengthFiles)
		if len(r.Files.Missing) > 0 || len(r.Warnings) > 0 {
			t.Errorf("missing %q, warnings %q of a whole model", r.Files.Missing, r.Warnings)
		}
		for name, f := range map[string]files{
			"a changed file":          tiny.without("weights/a.bin").with("config.json", "[]"),
			"a file nobody signed":    tiny.without("weights/a.bin").with("evil.py", "x"),
			"none of the files":       {},
			"only a file of no model": {"evil.py": "x"},
		} {
			r, err := verify.Decide(t.Context(), p, folder(f), b)
			if got := wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles); len(got.Files.Missing) == 0 {
				t.Errorf("%s: the missing files are not named", name)
			}
		}
		// Never the default.
		r, err = verify.Decide(t.Context(), trusts(k), folder(tiny.without("weights/a.bin")), b)
		wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
	}

	// It is about local files: an artifact has all its layers.
	p.Binding = verify.StrengthLayers
	r, err := verify.Decide(t.Context(), p, verify.Subject{Artifact: artifactOf("tiny", tiny.without("config.json").mapped())}, bundles(k.sign(t, oms(t, tiny, nil))))
	wantNo(t, r, err, verify.ErrRefused, verify.CodeFiles)
}
