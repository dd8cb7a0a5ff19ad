package interop

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// An artifact with what cosign and modelsig attached goes through an archive
// into another registry, and both find there what they made (rule 33).
func TestSignaturesTravelThroughAnArchive(t *testing.T) {
	eachRegistry(t, "", func(t *testing.T, from registryServer) {
		to := startDistribution(t, "")
		key, other := newKey(t, curves[0].curve), newCosignKey(t, curves[0].curve)
		ref, _ := push(t, from, "acme/tiny", "travel")
		run(t, 0, "sign", "key", ref, "--private-key", key.private)
		cosignSign(t, other, ref)
		cosignAttest(t, other, ref)
		_, digest, _ := strings.Cut(ref, "@")
		// cosign leaves the annotations out of the entries that it writes.
		if out := run(t, 1, "doctor", ref).stdout; strings.Count(out, "wrong-descriptor: annotations") != 2 {
			t.Errorf("doctor says %s", out)
		}
		run(t, 0, "doctor", ref, "--fix")
		cosignVerify(other, ref).want(t, 0)

		archive := filepath.Join(t.TempDir(), "gap.tar")
		run(t, 0, "copy", "key", ref, "oci-archive:"+archive+":v1", "--public-key", key.public)
		run(t, 0, "copy", "oci-archive:"+archive+":v1", to.host+"/mirror/tiny:v1")
		mirror := to.host + "/mirror/tiny@" + digest
		for _, k := range []keyPair{key, other} {
			verifyJSON(t, 0, k, mirror)
			cosignVerify(k, mirror).want(t, 0)
		}
		was, is := fallback(t, from, "acme/tiny", ref), fallback(t, to, "mirror/tiny", mirror)
		slices.Sort(was)
		slices.Sort(is)
		if len(was) != 4 || !slices.Equal(was, is) {
			t.Errorf("there were %v, there are %v", was, is)
		}
		for _, d := range was {
			if string(from.get(t, "acme/tiny", d)) != string(to.get(t, "mirror/tiny", d)) {
				t.Errorf("%s is not the same", d)
			}
		}
		run(t, 0, "doctor", mirror)
		if got := strings.TrimSpace(peer(t, crane, "digest", to.host+"/mirror/tiny:v1")); got != digest {
			t.Errorf("the tag names %s, not %s", got, digest)
		}
		layout := filepath.Join(t.TempDir(), "layout")
		run(t, 0, "copy", mirror, "oci:"+layout+":v1")
		verifyJSON(t, 0, other, "oci:"+layout+":v1")
	})
}

// What skopeo reads of an archive is the model, byte for byte.
func TestSkopeoReadsAnArchive(t *testing.T) {
	skopeo := debian(t, "skopeo")
	r := startDistribution(t, "")
	key := newKey(t, curves[0].curve)
	ref, _ := push(t, r, "acme/tiny", "archive")
	run(t, 0, "sign", "key", ref, "--private-key", key.private)
	archive := filepath.Join(t.TempDir(), "gap.tar")
	run(t, 0, "copy", ref, "oci-archive:"+archive+":v1")
	raw := peer(t, skopeo, "inspect", "--raw", "oci-archive:"+archive+":v1")
	_, digest, _ := strings.Cut(ref, "@")
	if raw != string(r.get(t, "acme/tiny", digest)) {
		t.Errorf("skopeo reads %s", raw)
	}
}

// Bundles leave as files, are deleted, and come back.
func TestBundlesAreDownloadedDeletedAndAttached(t *testing.T) {
	eachRegistry(t, "", func(t *testing.T, r registryServer) {
		key := newKey(t, curves[0].curve)
		ref, _ := push(t, r, "acme/tiny", "attach")
		run(t, 0, "sign", "key", ref, "--private-key", key.private)
		dir := t.TempDir()
		run(t, 0, "download", ref, "--output", dir)
		files, err := filepath.Glob(filepath.Join(dir, "sha256-*.sigstore.json"))
		if err != nil || len(files) != 2 {
			t.Fatalf("files %v: %v", files, err)
		}
		name, _, _ := strings.Cut(ref, "@")
		for _, d := range fallback(t, r, "acme/tiny", ref) {
			run(t, 0, "delete", name+"@"+d)
		}
		verifyJSON(t, 1, key, ref)
		run(t, 1, "download", ref)
		run(t, 1, "delete", ref)
		run(t, 0, "doctor", ref)
		for _, file := range files {
			run(t, 0, "attach", ref, file)
		}
		verifyJSON(t, 0, key, ref)
		cosignVerify(key, ref).want(t, 0)
	})
}
