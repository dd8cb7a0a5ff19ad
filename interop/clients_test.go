package interop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/file"
)

// What push makes is an ordinary artifact: other clients read it, and pulling
// it gives the folder back.

func TestCraneReadsWhatPushMade(t *testing.T) {
	eachRegistry(t, "", func(t *testing.T, r registryServer) {
		ref, _ := push(t, r, "acme/crane", "crane")
		manifest := decode[struct {
			MediaType    string `json:"mediaType"`
			ArtifactType string `json:"artifactType"`
			Layers       []struct {
				Digest      string            `json:"digest"`
				Annotations map[string]string `json:"annotations"`
			} `json:"layers"`
		}](t, []byte(peer(t, crane, "manifest", ref)))
		if manifest.MediaType != "application/vnd.oci.image.manifest.v1+json" || manifest.ArtifactType == "" {
			t.Errorf("manifest: %+v", manifest)
		}
		name, digest, _ := strings.Cut(ref, "@")
		files := modelFiles()
		files["README.md"] = append(files["README.md"], "crane\n"...)
		for _, layer := range manifest.Layers {
			title := layer.Annotations["org.opencontainers.image.title"]
			want, ok := files[title]
			if !ok {
				t.Errorf("a layer has the title %q", title)
				continue
			}
			delete(files, title)
			blob := peer(t, crane, "blob", name+"@"+layer.Digest)
			if blob != string(want) {
				t.Errorf("%s: the blob has %d bytes, the file %d", title, len(blob), len(want))
			}
		}
		if len(files) != 0 {
			t.Errorf("files without a layer: %d", len(files))
		}
		if got := strings.TrimSpace(peer(t, crane, "digest", name+":v1")); got != digest {
			t.Errorf("the tag v1 names %s, push said %s", got, digest)
		}
	})
}

// A copy made by another tool, into another registry and under another name,
// keeps the digest; the signatures that are copied with it count there.
func TestACraneCopyVerifies(t *testing.T) {
	from, to := startDistribution(t, ""), startDistribution(t, "")
	key := newKey(t, curves[0].curve)
	ref, _ := push(t, from, "acme/tiny", "")
	run(t, 0, "sign", "key", ref, "--private-key", key.private)
	_, digest, _ := strings.Cut(ref, "@")
	mirror := to.host + "/mirror/tiny"
	peer(t, crane, "copy", ref, mirror+":v1")
	verifyJSON(t, 1, key, mirror+"@"+digest) // the model alone is unsigned there

	fallback := strings.Replace(digest, ":", "-", 1)
	peer(t, crane, "copy", from.host+"/acme/tiny:"+fallback, mirror+":"+fallback)
	verifyJSON(t, 0, key, mirror+"@"+digest)
	cosignVerify(key, mirror+"@"+digest).want(t, 0)
}

func TestOrasPullGivesTheFolderBack(t *testing.T) {
	eachRegistry(t, "", func(t *testing.T, r registryServer) {
		ref, dir := push(t, r, "acme/oras", "")
		pulled := t.TempDir()
		store, err := file.New(pulled)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		desc, err := oras.Copy(t.Context(), repository(t, r, "acme/oras"), "v1", store, "", oras.DefaultCopyOptions)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(ref, "@"+desc.Digest.String()) {
			t.Errorf("pulled %s, pushed %s", desc.Digest, ref)
		}
		sameTree(t, pulled, dir)
	})
}

// The folder, the pulled folder and the registry are three views of one model.
func TestThePulledFolderVerifiesAgainstTheRegistry(t *testing.T) {
	r := startDistribution(t, "")
	key := newKey(t, curves[0].curve)
	ref, dir := push(t, r, "acme/folder", "")
	run(t, 0, "sign", "key", ref, "--private-key", key.private)
	run(t, 0, "verify", "key", dir, "--ref", ref, "--public-key", key.public)

	writeFile(t, filepath.Join(dir, "model.safetensors"), []byte("other weights"))
	run(t, 1, "verify", "key", dir, "--ref", ref, "--public-key", key.public)
}

// skopeo inspect --raw is how people get a manifest onto a disk.
func TestSkopeosManifestIsSignedAndVerified(t *testing.T) {
	skopeo := debian(t, "skopeo")
	eachRegistry(t, "", func(t *testing.T, r registryServer) {
		key := newKey(t, curves[0].curve)
		ref, dir := push(t, r, "acme/skopeo", "")
		raw := peer(t, skopeo, "inspect", "--raw", "--tls-verify=false", "docker://"+ref)
		work := t.TempDir()
		manifest, signature := filepath.Join(work, "manifest.json"), filepath.Join(work, "model.sig")
		writeFile(t, manifest, []byte(raw))
		run(t, 0, "sign", "key", manifest, "--private-key", key.private, "--signature", signature)
		flags := []string{"--public-key", key.public, "--signature", signature}
		run(t, 0, append([]string{"verify", "key", manifest}, flags...)...)
		run(t, 0, append([]string{"verify", "key", dir}, flags...)...)
		run(t, 0, append([]string{"verify", "key", ref}, flags...)...)

		// From a pipe, to the same statement.
		piped := command{
			args:  []string{modelsig, "sign", "key", "-", "--private-key", key.private, "--signature", signature},
			stdin: raw,
			dir:   work,
		}
		piped.want(t, 0)
		run(t, 0, append([]string{"verify", "key", manifest}, flags...)...)

		// One byte of the manifest: another manifest.
		changed := strings.Replace(raw, "README.md", "README.mb", 1)
		writeFile(t, manifest, []byte(changed))
		run(t, 1, append([]string{"verify", "key", manifest}, flags...)...)
	})
}

// A layout that skopeo made is signed, verified, and read by skopeo again.
func TestSkopeosLayoutIsSigned(t *testing.T) {
	skopeo := debian(t, "skopeo")
	r := startDistribution(t, "")
	key := newKey(t, curves[0].curve)
	ref, _ := push(t, r, "acme/layout", "")
	layout := "oci:" + filepath.Join(t.TempDir(), "layout") + ":v1"
	peer(t, skopeo, "copy", "--src-tls-verify=false", "docker://"+ref, layout)
	run(t, 1, "verify", "key", layout, "--public-key", key.public)
	run(t, 0, "sign", "key", layout, "--private-key", key.private)
	run(t, 0, "verify", "key", layout, "--public-key", key.public)
	before := peer(t, skopeo, "inspect", "--raw", "--tls-verify=false", "docker://"+ref)
	if after := peer(t, skopeo, "inspect", "--raw", layout); after != before {
		t.Errorf("signing changed the manifest in the layout:\n%s\n%s", before, after)
	}
	if _, err := os.Stat(filepath.Join(strings.TrimSuffix(strings.TrimPrefix(layout, "oci:"), ":v1"), "oci-layout")); err != nil {
		t.Error(err)
	}
}
