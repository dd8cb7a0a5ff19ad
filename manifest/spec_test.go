package manifest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/manifest"
)

// signed is what a signer makes of a folder, from its files to the bytes.
func signed(t *testing.T, root string, hashing manifest.Hashing, ignore manifest.Ignore) (*manifest.Manifest, []byte) {
	t.Helper()
	d := open(t, root, manifest.OpenOptions{})
	files, err := d.Files(t.Context(), ignore)
	if err != nil {
		t.Fatal(err)
	}
	h := manifest.Hasher{Hashing: hashing}
	resources, err := h.Hash(t.Context(), files)
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.New(resources, manifest.Serialization{HashType: hashing.Type, ShardSize: hashing.ShardSize, IgnorePaths: ignore})
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.Statement(d.Name(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return m, marshal(t, s)
}

// The signer's duties that this package has, by their number in the list of
// the specification's requirements.
func TestSpecSigner(t *testing.T) {
	root := folder(t, map[string]string{
		"b.bin": "12345678", "b/x": "1", "a-b": "2", "a/b": "3", "\uff5e": "4", "\U0001f600": "5", // one beyond UTF-16's first plane
		".git/config": "", ".gitignore": "", ".gitattributes": "", ".github/x": "", "a/.gitignore": "6", "model.sig": "old", "tmp/x": "7",
	})
	ignore := append(manifest.GitPaths(), "model.sig", "tmp")
	m, payload := signed(t, root, manifest.Hashing{}, ignore)
	var st struct {
		Type      string `json:"_type"`
		Subject   []struct{ Name, Digest any }
		Predicate map[string]json.RawMessage
		Predtype  string `json:"predicateType"`
	}
	if err := json.Unmarshal(payload, &st); err != nil {
		t.Fatal(err)
	}
	var names []string
	root256 := sha256.New()
	for _, r := range m.Resources {
		names = append(names, r.Name)
		root256.Write(r.Digest)
	}
	check := func(name string, ok bool) {
		t.Run(name, func(t *testing.T) {
			if !ok {
				t.Errorf("not so in %s", payload)
			}
		})
	}
	check("S7 the payload is an in-toto Statement v1", st.Type == "https://in-toto.io/Statement/v1")
	check("S8 and S23 the predicate type is exactly the current one", st.Predtype == "https://model_signing/signature/v1.0")
	check("S9 the predicate has both keys and no other", len(st.Predicate) == 2 && st.Predicate["resources"] != nil && st.Predicate["serialization"] != nil)
	check("S10 resources are sorted by code point, and no folder is one", slices.Equal(names, []string{"a-b", "a/.gitignore", "a/b", "b.bin", "b/x", "\uff5e", "\U0001f600"}))
	check("S10 each resource has name, digest and algorithm", bytes.Contains(payload, fmt.Appendf(nil, `{"name":"a-b","digest":"%x","algorithm":"sha256"}`, sum("2"))))
	check("S11 serialization has method, hash_type and allow_symlinks, no shard_size", bytes.HasPrefix(st.Predicate["serialization"], []byte(`{"method":"files","hash_type":"sha256","allow_symlinks":false,"ignore_paths":`)))
	check("S16 git names are left out at the top only, and recorded", bytes.Contains(payload, []byte(`"ignore_paths":[".git",".gitignore",".gitattributes",".github","model.sig","tmp"]`)))
	check("S19 one subject with the folder's name and the root digest", len(st.Subject) == 1 && st.Subject[0].Name == "tiny" &&
		reflect.DeepEqual(st.Subject[0].Digest, map[string]any{"sha256": hex.EncodeToString(root256.Sum(nil))}))

	t.Run("S12 an empty model is refused", func(t *testing.T) {
		files, err := open(t, folder(t, map[string]string{".git/config": ""}), manifest.OpenOptions{}).Files(t.Context(), manifest.GitPaths())
		if err != nil || len(files) != 0 {
			t.Fatalf("%v, %v", files, err)
		}
		_, err = manifest.New(nil, manifest.Serialization{})
		expect(t, err, "§6.1")
	})
	t.Run("S13 links are refused", func(t *testing.T) {
		root := folder(t, map[string]string{"a": ""})
		link(t, "a", filepath.Join(root, "b"))
		if _, err := list(t, root, manifest.OpenOptions{}); code(t, err) != manifest.CodeSymlink {
			t.Error(err)
		}
	})
	t.Run("S14 a link that is followed is listed under its own name, once", func(t *testing.T) {
		root := folder(t, map[string]string{"a": "x"})
		link(t, "a", filepath.Join(root, "b"))
		if names, err := list(t, root, manifest.OpenOptions{AllowSymlinks: true}); err != nil || !slices.Equal(names, []string{"a", "b"}) {
			t.Errorf("%q, %v", names, err)
		}
	})
	t.Run("S15 the seven rules for paths", func(t *testing.T) {
		for _, name := range []string{"/a", "../a", "a/../b", "./a", "a//b", "a/", "a\xff"} {
			if _, err := manifest.New([]manifest.Resource{resource(name, "")}, manifest.Serialization{}); code(t, err) == "" {
				t.Errorf("%q is accepted", name)
			}
		}
	})
	t.Run("S17 ignore entries are exact relative paths", func(t *testing.T) {
		for _, entry := range []string{"/a", "../a", "a/", "./a", ""} {
			_, err := manifest.New([]manifest.Resource{resource("a", "")}, manifest.Serialization{IgnorePaths: []string{entry}})
			expect(t, err, "§6.2.1")
		}
	})
	t.Run("S18 shards have ranges as names, and empty files have none", func(t *testing.T) {
		root := folder(t, map[string]string{"a": "0123456789", "empty": "", "b": "x"})
		m, payload := signed(t, root, manifest.Hashing{ShardSize: 4}, nil)
		var names []string
		for _, r := range m.Resources {
			names = append(names, r.Name)
		}
		if !slices.Equal(names, []string{"a:0:4", "a:4:8", "a:8:10", "b:0:1"}) || !bytes.Equal(m.Resources[1].Digest, sum("4567")) {
			t.Errorf("%+v", m.Resources)
		}
		if !bytes.Contains(payload, []byte(`"method":"shards","hash_type":"sha256","shard_size":4,`)) {
			t.Errorf("%s", payload)
		}
		if manifest.DefaultShardSize != 1_000_000_000 {
			t.Error("another default")
		}
	})
	t.Run("S19 the root is SHA-256 whatever hashed the files", func(t *testing.T) {
		for _, hashType := range []string{manifest.BLAKE2b, manifest.BLAKE3} {
			m, _ := signed(t, folder(t, map[string]string{"a": "x"}), manifest.Hashing{Type: hashType}, nil)
			if want := sha256.Sum256(digestOf(hashType, []byte("x"))); m.Root() != want {
				t.Errorf("%s: %x", hashType, m.Root())
			}
		}
	})
	t.Run("S21 the registry's identifiers and no others", func(t *testing.T) {
		for _, name := range []string{"sha256", "blake2b", "blake3", "sha512", "SHA256", "blake2s", "sha256-sharded-8"} {
			h := manifest.Hasher{Hashing: manifest.Hashing{Type: name}}
			_, err := h.Hash(t.Context(), []manifest.File{memory("a", "")})
			if known := slices.Contains([]string{"sha256", "blake2b", "blake3"}, name); (err == nil) != known {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// The verifier's duties that this package has.
func TestSpecVerifier(t *testing.T) {
	read := func(t *testing.T, payload string) (*manifest.Manifest, error) {
		t.Helper()
		s, err := manifest.ParseStatement([]byte(payload))
		if err != nil {
			return nil, err
		}
		return s.Manifest()
	}
	for _, tt := range []struct{ name, payload, want string }{
		{"V5 another _type is refused", omsStatement("Statement/v1", "Statement/v0.1"), "_type"},
		{"V5 another predicateType is refused", omsStatement("signature/v1.0", "signature/v2.0"), "§5.1"},
		{"V5 a predicate that breaks the schema is refused", omsStatement(`"method"`, `"metod"`), "unknown field"},
		{"V6 an unsupported method is refused by its name", omsStatement(`"method":"files"`, `"method":"merkle"`), `"merkle"`},
		{"V6 an unsupported hash is refused by its name", omsStatement(`"hash_type":"sha256"`, `"hash_type":"md5"`), `"md5"`},
		{"V11 unknown fields of a resource are ignored", omsStatement(`{"name":"a"`, `{"x":{},"name":"a"`), ""},
		{"V11 ignore_paths may be absent", omsStatement(`,"ignore_paths":["x"]`, ``), ""},
		{"V12 any name of the subject is accepted", omsStatement(`"name":"m"`, `"name":"../ x:"`), ""},
		{"V12 but an empty one", omsStatement(`"name":"m"`, `"name":""`), "no name"},
		{"V13 shards are split at the last two colons", string(shardStatement(t, "8", "sha256", "a b:1:0:8")), ""},
		{"V14 the old form is not read as the new", legacyStatement(), "§5.1"},
		{"V15 any minor version is accepted", omsStatement("v1.0", "v1.31"), ""},
		{"V16 the root is computed again", omsStatement(hex.EncodeToString(sum("2")), hex.EncodeToString(sum("3"))), "root digest"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := read(t, tt.payload)
			expect(t, err, tt.want)
		})
	}
	t.Run("V14 the old form is read where it is asked for", func(t *testing.T) {
		s, err := manifest.ParseStatement([]byte(legacyStatement()))
		if err != nil {
			t.Fatal(err)
		}
		if m, err := s.LegacyManifest(); err != nil || len(m.Resources) != 2 {
			t.Errorf("%+v, %v", m, err)
		}
	})

	// V6, V8 to V10 under shards: whatever is done to a file, it is another.
	root := folder(t, map[string]string{"a": "01234567", "b": "0123456789"})
	hashing := manifest.Hashing{ShardSize: 4}
	m, _ := signed(t, root, hashing, nil)
	for _, tt := range []struct {
		name     string
		content  string
		sameSize bool
	}{
		{"V9 one byte changed", "0123x567", true},
		{"V9 a tail is missing", "0123", false},
		{"V9 bytes appended after a full last shard (A6)", "012345678", false},
		{"V9 a full shard appended (A6)", "01234567abcd", false},
		{"V9 shards swapped", "45670123", true},
		{"V9 a file that is empty now", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			write(t, filepath.Join(root, "a"), tt.content)
			files, err := open(t, root, manifest.OpenOptions{}).Files(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			h := manifest.Hasher{Hashing: m.Hashing()}
			found, err := h.Hash(t.Context(), files)
			if err != nil {
				t.Fatal(err)
			}
			now, err := manifest.GroupByFile(found, hashing.ShardSize)
			if err != nil {
				t.Fatal(err)
			}
			a := slices.IndexFunc(now, func(f manifest.FileResources) bool { return f.Name == "a" })
			was := m.Files()[0]
			switch {
			case a < 0 && tt.content == "": // no shard at all: missing
			case a < 0:
				t.Fatalf("%+v", now)
			case (now[a].Size == was.Size) != tt.sameSize:
				t.Errorf("size %d, was %d", now[a].Size, was.Size)
			case tt.sameSize && manifest.Compare(was.Resources, now[a].Resources).Empty():
				t.Error("the same")
			}
			if manifest.Compare(m.Resources, found).Empty() {
				t.Error("no difference")
			}
		})
	}
	t.Run("V8 names are compared as bytes, not as Unicode", func(t *testing.T) {
		if d := manifest.Compare([]manifest.Resource{resource("caf\u00e9", "")}, []manifest.Resource{resource("cafe\u0301", "")}); len(d.Missing) != 1 || len(d.Extra) != 1 {
			t.Errorf("%+v", d)
		}
	})
}

// What we write, we read, and write the same again: any names, any hash, files
// and shards.
func FuzzOwnStatement(f *testing.F) {
	f.Add("config.json\nweights/a.bin", byte(0), uint16(0), "tiny", `{"manifest":{}}`)
	f.Add("a\nb/ä\"\u2028.bin\n\U0001f600", byte(1), uint16(0), "x", `[1, 2.50 ]`)
	f.Add("a\nb", byte(2), uint16(8), "../ x", ``)
	f.Add("model-00001-of-00002.safetensors\nREADME.md", byte(0), uint16(1000), "m", `"</script>"`)
	f.Fuzz(func(t *testing.T, names string, hash byte, shardSize uint16, subject, annotation string) {
		hashType := []string{manifest.SHA256, manifest.BLAKE2b, manifest.BLAKE3}[hash%3]
		var files []manifest.File
		for i, name := range slices.Compact(slices.Sorted(strings.SplitSeq(names, "\n"))) {
			files = append(files, memory(name, strings.Repeat(name+".", i%40+1)))
		}
		h := manifest.Hasher{Hashing: manifest.Hashing{Type: hashType, ShardSize: int64(shardSize)}, Jobs: 1}
		resources, err := h.Hash(t.Context(), files)
		if err != nil {
			t.Fatal(err)
		}
		m, err := manifest.New(resources, manifest.Serialization{HashType: hashType, ShardSize: int64(shardSize)})
		if err != nil {
			if _, ok := errors.AsType[*manifest.ThreatError](err); !ok {
				t.Fatal(err) // the names are the only reason there is
			}
			return
		}
		if got := m.Files(); len(got) != len(files) {
			t.Fatalf("%d files became %d", len(files), len(got))
		}
		var annotations map[string]json.RawMessage
		if annotation != "" {
			annotations = map[string]json.RawMessage{"x": json.RawMessage(annotation)}
		}
		s, err := m.Statement(subject, annotations)
		if err != nil {
			return
		}
		payload, err := s.Marshal()
		if err != nil {
			return
		}
		back, err := manifest.ParseStatement(payload)
		if err != nil {
			t.Fatalf("%s: %v", payload, err)
		}
		if again := marshal(t, back); !bytes.Equal(again, payload) {
			t.Fatalf("%s became %s", payload, again)
		}
		got, err := back.Manifest()
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("%+v became %+v, %v", m, got, err)
		}
	})
}
