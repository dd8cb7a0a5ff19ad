package manifest_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/manifest"
)

// legacyStatement signs files a and b as v0.2 did, with edits.
func legacyStatement(edits ...string) string {
	text := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[`+
		`{"name":"a","digest":{"sha256":"%x"},"annotations":{"actual_hash_algorithm":"file-sha256"}},`+
		`{"name":"b","digest":{"sha256":"%x"},"annotations":{"actual_hash_algorithm":"file-sha256"}}],`+
		`"predicateType":"https://model_signing/Digests/v0.1","predicate":{"unused":"x"}}`, sum("1"), sum("2"))
	for i := 0; i < len(edits); i += 2 {
		if !strings.Contains(text, edits[i]) {
			panic("nothing to replace: " + edits[i])
		}
		text = strings.Replace(text, edits[i], edits[i+1], 1)
	}
	return text
}

// V14, facts 3.9.
func TestLegacyManifest(t *testing.T) {
	const annotations = `,"annotations":{"actual_hash_algorithm":"file-sha256"}`
	for _, tt := range []struct {
		name string
		json string
		want string
		code string
	}{
		{name: "as it was written", json: legacyStatement()},
		{name: "in another order", json: legacyStatement(`"name":"a"`, `"name":"z"`)},
		{name: "without annotations", json: legacyStatement(annotations, ``)},
		{name: "git files that are listed", json: legacyStatement(`"name":"a"`, `"name":".gitattributes"`)},
		{name: "the current predicate type", json: legacyStatement("Digests/v0.1", "signature/v1.0"), want: "predicateType"},
		{name: "another predicate type (rule 4)", json: legacyStatement("https://model_signing/Digests/v0.1", "https://slsa.dev/provenance/v1"), want: "predicateType"},
		{name: "another version", json: legacyStatement("v0.1", "v0.2"), want: "predicateType"},
		{name: "shards", json: legacyStatement("file-sha256", "file-sha256-1000000"), want: "annotation"},
		{name: "another algorithm under the name of sha256 (rule 31)", json: legacyStatement("file-sha256", "file-blake2b"), want: "annotation"},
		{name: "an annotation that is no string", json: legacyStatement(`"file-sha256"`, `["file-sha256"]`), want: "annotation"},
		{name: "a binding, which this form never had (rule 9)", json: legacyStatement(annotations, `,"annotations":{"modelsig.oci.v1":{}}`), want: "annotation"},
		{name: "no sha256 (rule 31)", json: legacyStatement(`{"sha256"`, `{"sha512"`), want: "exactly one digest"},
		{name: "a second digest", json: legacyStatement(`{"sha256"`, `{"sha512":"00","sha256"`), want: "exactly one digest"},
		{name: "no name", json: legacyStatement(`"name":"a",`, ``), code: "name-empty"},
		{name: "one name twice (N01)", json: legacyStatement(`"name":"b"`, `"name":"a"`), code: "duplicate-name"},
		{name: "a file and a folder (N13)", json: legacyStatement(`"name":"b"`, `"name":"a/b"`), code: "file-and-folder"},
		{name: "a name that leaves the model (N04)", json: legacyStatement(`"name":"a"`, `"name":"../a"`), code: "name-parent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := manifest.ParseStatement([]byte(tt.json))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Manifest(); err == nil && s.PredicateType == manifest.PredicateLegacy {
				t.Error("read as OMS")
			}
			m, err := s.LegacyManifest()
			if tt.code != "" {
				threatIn(t, err, tt.code)
				return
			}
			expect(t, err, tt.want)
			if err != nil {
				return
			}
			if want := (manifest.Serialization{Method: "files", HashType: "sha256"}); !reflect.DeepEqual(m.Serialization, want) || len(m.Resources) != 2 {
				t.Errorf("%+v", m)
			}
		})
	}
}

func FuzzLegacyManifest(f *testing.F) {
	f.Add([]byte(legacyStatement()))
	f.Add([]byte(legacyStatement("file-sha256", "file-sha256-1000000")))
	seeds := 0
	for name, payload := range casePayloads(f) {
		if strings.Contains(name, "v0.2") {
			f.Add(payload)
			seeds++
		}
	}
	f.Logf("%d statements of the OMS cases", seeds)
	f.Fuzz(func(t *testing.T, payload []byte) {
		s, err := manifest.ParseStatement(payload)
		if err != nil {
			return
		}
		m, err := s.LegacyManifest()
		if err != nil {
			return
		}
		if _, err := s.Manifest(); err == nil {
			t.Fatal("two readings")
		}
		files := m.Files()
		if len(files) != len(s.Subject) {
			t.Fatalf("%d subjects became %d files", len(s.Subject), len(files))
		}
		if files[0].Name == "." {
			return
		}
		if err := namesOf(files); err != nil {
			t.Fatal(err)
		}
		// What it says can be said in the current form, and is the same there.
		again, err := manifest.New(m.Resources, m.Serialization)
		if err != nil {
			t.Fatal(err)
		}
		if diff := manifest.Compare(m.Resources, again.Resources); !diff.Empty() {
			t.Fatalf("%+v", diff)
		}
	})
}
