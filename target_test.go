package modelsig_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelsig/modelsig"
)

func TestParseTarget(t *testing.T) { // rule 3
	t.Chdir(t.TempDir())
	manifestJSON := mustJSON(t, tiny())
	digest := "@sha256:" + strings.Repeat("ab", 32)
	for _, path := range []string{
		"model/config.json", "ghcr.io/acme/model/x", "ghcr.io/acme/model:v1/x", "localhost/m:v1/x", "localhost/m/x", "acme/model:v1/x", "host:5000/m:v1/x",
		"oci:/ghcr.io/acme/model:v1/x", "docker:/ghcr.io/acme/model:v1/x", "https:/ghcr.io/acme/model:v1/x", "oci:layout:v1/x", "oci:layout/x", "oci-archive:a.tar",
		"key", "weights.bin", "file:odd",
	} {
		writeFile(t, path, "{}")
	}
	writeFile(t, "manifest.json", manifestJSON)
	writeFile(t, "MANIFEST2.JSON", manifestJSON)
	writeFile(t, "manifest.txt", manifestJSON)
	writeFile(t, "docker.json", strings.ReplaceAll(manifestJSON, "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"))
	writeFile(t, "index.json", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	writeFile(t, "twice.json", strings.Replace(manifestJSON, `{"schemaVersion":2`, `{"schemaVersion":2,"schemaVersion":2`, 1))
	writeFile(t, "no-config.json", `{"schemaVersion":2,"layers":[]}`)
	writeFile(t, "no-layers.json", `{"schemaVersion":2,"config":{"digest":"x"}}`)
	writeFile(t, "list.json", `[`+manifestJSON+`]`)
	writeFile(t, "large.json", manifestJSON+strings.Repeat(" ", 4<<20))
	writeFile(t, "empty.json", "")
	if err := os.Symlink("manifest.json", "link.json"); err != nil {
		t.Fatal(err)
	}

	const artifact, local, asManifest = modelsig.KindArtifact, modelsig.KindDir, modelsig.KindManifest
	for _, tt := range []struct {
		in, kind string // "" for an error
		name     string // reference or path; "": as it was written
		guessed  bool
	}{
		// A link could give a signed file another name (rule 2).
		{in: "link.json", kind: local},
		// References.
		{in: "ghcr.io/acme/other:v1", kind: artifact},
		{in: "acme/other:v1", kind: artifact}, // the first component is the host
		{in: "ghcr.io/acme/other" + digest, kind: artifact},
		{in: "ghcr.io/acme/other:v1" + digest, kind: artifact},
		{in: "GHCR.io.:443/acme/other:v1", kind: artifact, name: "ghcr.io/acme/other:v1"},
		{in: "oci://ghcr.io/acme/other:v1", kind: artifact, name: "ghcr.io/acme/other:v1"},
		{in: "docker://ghcr.io/acme/other:v1", kind: artifact, name: "ghcr.io/acme/other:v1"},
		{in: "oci:dir:v1", kind: artifact},
		{in: "oci-archive:m.tar:v1", kind: artifact},
		// A scheme decides, whatever lies in the working tree.
		{in: "oci://ghcr.io/acme/model:v1", kind: artifact, name: "ghcr.io/acme/model:v1"},
		{in: "docker://ghcr.io/acme/model:v1", kind: artifact, name: "ghcr.io/acme/model:v1"},
		{in: "https://ghcr.io/acme/model:v1", kind: artifact},
		{in: "oci:layout:v1", kind: artifact},
		{in: "oci:layout", kind: artifact},
		{in: "oci-archive:a.tar", kind: artifact},
		// Two readings.
		{in: "ghcr.io/acme/model:v1"},
		{in: "localhost/m:v1"},
		{in: "host:5000/m:v1"},
		// One reading: no host, or no complete reference.
		{in: "ghcr.io/acme/model", kind: local},
		{in: "localhost/m", kind: local},
		{in: "acme/model:v1", kind: local},
		{in: "./ghcr.io/acme/model:v1", kind: local},
		{in: "./localhost/m:v1", kind: local},
		{in: "file:ghcr.io/acme/model:v1", kind: local, name: "ghcr.io/acme/model:v1"},
		// Files and folders.
		{in: "model", kind: local},
		{in: "model/", kind: local},
		{in: ".", kind: local},
		{in: "model/config.json", kind: local},
		{in: "weights.bin", kind: local},
		{in: "key", kind: local},
		{in: "./key", kind: local},
		{in: "file:weights.bin", kind: local, name: "weights.bin"},
		{in: "./file:odd", kind: local},
		// Manifests.
		{in: "-", kind: asManifest},
		{in: "manifest:weights.bin", kind: asManifest, name: "weights.bin"},
		{in: "manifest:manifest.json", kind: asManifest, name: "manifest.json"},
		{in: "manifest.json", kind: asManifest, guessed: true},
		{in: "./manifest.json", kind: asManifest, guessed: true},
		{in: "MANIFEST2.JSON", kind: asManifest, guessed: true},
		{in: "docker.json", kind: asManifest, guessed: true},
		{in: "twice.json", kind: asManifest, guessed: true}, // to be refused as one, not hashed as none
		{in: "file:manifest.json", kind: local, name: "manifest.json"},
		{in: "manifest.txt", kind: local},
		{in: "index.json", kind: local},
		{in: "no-config.json", kind: local},
		{in: "no-layers.json", kind: local},
		{in: "list.json", kind: local},
		{in: "large.json", kind: local},
		{in: "empty.json", kind: local},
		// Nothing.
		{in: ""},
		{in: "nowhere"},
		{in: "nowhere.json"},
		{in: "file:nowhere"},
		{in: "file:"},
		{in: "http://ghcr.io/acme/other:v1"},
		{in: "oci://"},
		{in: "oci:"},
		{in: "nowhere\x00"},
		{in: "weights.bin/x"},
	} {
		t.Run(tt.in, func(t *testing.T) {
			got, err := modelsig.ParseTarget(tt.in)
			if tt.kind == "" {
				if err == nil {
					t.Errorf("got %+v, want an error", got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			name := tt.name
			if name == "" {
				name = tt.in
			}
			if got.Kind != tt.kind || got.Name() != name || got.Guessed != tt.guessed || (got.Reference != "") != (tt.kind == artifact) {
				t.Errorf("got %+v, want %s %q", got, tt.kind, name)
			}
		})
	}
	_, err := modelsig.ParseTarget("ghcr.io/acme/model:v1")
	if err == nil || !strings.Contains(err.Error(), "./ghcr.io") || !strings.Contains(err.Error(), "oci://") {
		t.Errorf("%v does not say how to write either", err)
	}

	// Commands that act on artifacts never read a path.
	for _, s := range []string{"model", "./model", "weights.bin", "-", "manifest.json", "file:model", "manifest:manifest.json", ""} {
		if got, err := modelsig.ParseReference(s); err == nil {
			t.Errorf("%q is read as %+v", s, got)
		}
	}
	if got, err := modelsig.ParseReference("ghcr.io/acme/model:v1"); err != nil || got.Registry != "ghcr.io" {
		t.Errorf("%+v, %v: what exists does not matter to them", got, err)
	}
}

func TestATargetThatCannotBeRead(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root reads everything")
	}
	path := filepath.Join(t.TempDir(), "m.json")
	writeFile(t, path, "{}")
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	if got, err := modelsig.ParseTarget(path); err == nil {
		t.Errorf("%+v: what cannot be read is not known to be no manifest", got)
	}
}
