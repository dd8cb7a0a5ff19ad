package manifest_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/manifest"
)

const cases = "../../shared/oms/cases"

// casePayloads reads the bundles of the OMS conformance suite, by case.
func casePayloads(t testing.TB) map[string][]byte {
	t.Helper()
	bundles, err := filepath.Glob(cases + "/*/*/bundle.sig")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(cases); err == nil && len(bundles) == 0 {
		t.Fatal("no bundle in " + cases)
	}
	all := make(map[string][]byte)
	for _, name := range bundles {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var bundle struct {
			Envelope struct{ Payload string } `json:"dsseEnvelope"`
		}
		if err := json.Unmarshal(data, &bundle); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		payload, err := base64.StdEncoding.DecodeString(bundle.Envelope.Payload)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[filepath.Base(filepath.Dir(name))] = payload
	}
	return all
}

// caseNames are the names of files, and the ignore paths, in the OMS cases.
func caseNames(t testing.TB) (names, ignored []string) {
	t.Helper()
	for name, payload := range casePayloads(t) {
		s, err := manifest.ParseStatement(payload)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m, err := s.Manifest()
		if s.PredicateType == manifest.PredicateLegacy {
			m, err = s.LegacyManifest()
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, r := range m.Resources {
			names = append(names, r.Name)
		}
		ignored = append(ignored, m.Serialization.IgnorePaths...)
	}
	slices.Sort(names)
	slices.Sort(ignored)
	return slices.Compact(names), slices.Compact(ignored)
}

// Every statement of the OMS cases is read, and what is signed is the model
// that stands beside it.
func TestManifestOfOMSCases(t *testing.T) {
	all := casePayloads(t)
	if len(all) == 0 {
		t.Skip("the OMS cases are missing: " + cases)
	}
	for name, payload := range all {
		t.Run(name, func(t *testing.T) {
			s, err := manifest.ParseStatement(payload)
			if err != nil {
				t.Fatal(err)
			}
			read := s.Manifest
			if name == "historical-v0.2.0-certificate" {
				if read = s.LegacyManifest; s.PredicateType != manifest.PredicateLegacy {
					t.Fatalf("predicateType %q", s.PredicateType)
				}
			}
			m, err := read()
			if err != nil {
				t.Fatal(err)
			}
			compareWithModel(t, name, m)
		})
	}
}

func compareWithModel(t *testing.T, name string, m *manifest.Manifest) {
	folder := filepath.Join(cases, "positive", name)
	if strings.HasPrefix(name, "historical") {
		folder = filepath.Join(cases, "historical", name)
	}
	data, err := os.ReadFile(filepath.Join(folder, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Model    string
		Relative string   `json:"model_relative_to"`
		Signed   []string `json:"expected_signed_files"`
	}
	if err := json.Unmarshal(data, &config); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range m.Resources {
		names = append(names, r.Name)
	}
	if config.Signed != nil && !reflect.DeepEqual(names, config.Signed) {
		t.Errorf("signed are %q, want %q", names, config.Signed)
	}

	base := filepath.Join(cases, "assets")
	if config.Relative == "test_dir" {
		base = folder
	}
	model, err := manifest.Open(filepath.Join(base, config.Model), manifest.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	files, err := model.Files(t.Context(), append(manifest.Ignore(m.Serialization.IgnorePaths), manifest.GitPaths()...))
	if err != nil {
		t.Fatal(err)
	}
	found, err := new(manifest.Hasher).Hash(t.Context(), files)
	if err != nil {
		t.Fatal(err)
	}
	signed := m.Resources
	if model.IsFile() && signed[0].Name == "." {
		signed[0].Name = model.Name()
	}
	diff := manifest.Compare(signed, found)
	// Some cases leave a file unsigned, or sign one that is not kept here.
	if len(diff.Changed) > 0 || len(diff.Missing) == len(signed) {
		t.Errorf("difference %+v", diff)
	}
	t.Logf("%d files signed, %+v", len(signed), diff)
}
