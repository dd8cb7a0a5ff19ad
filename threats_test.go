//go:build unix

package modelsig_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/verify"
)

// The rows of the list of threats that only the whole shows: what is signed,
// and what a verdict says. The others stand beside the parsers, under their ids.
func TestThreats(t *testing.T) {
	signer, client := newSigner(t), new(modelsig.Client)
	// signed is an artifact with both signatures, and its reference.
	signed := func(t *testing.T, m ocispec.Manifest) (*registry, string, *modelsig.Signature) {
		r := newRegistry(t)
		r.put(t, "acme/tiny", "v1", m)
		ref := r.host + "/acme/tiny:v1"
		return r, ref, mustSign(t, client, ref, signer, modelsig.SignOptions{})
	}
	// listed are the names in the model signature.
	listed := func(t *testing.T, sig *modelsig.Signature) []string {
		st, err := manifest.ParseStatement(sig.Model.Statement)
		if err != nil {
			t.Fatal(err)
		}
		oms, err := st.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range oms.Resources {
			names = append(names, r.Name)
		}
		return names
	}

	t.Run("N18: names of blobs are never invented, and are names like others", func(t *testing.T) {
		_, _, sig := signed(t, image(rawLayer("layer_000.tar.gz", "a"), rawLayer("b", "b")))
		if got := listed(t, sig); !slices.Equal(got, []string{"b", "layer_000.tar.gz"}) {
			t.Errorf("listed %q", got)
		}
	})
	t.Run("N21: an ignored path is that path, and no other of the same name", func(t *testing.T) {
		dir := writeModel(t, map[string]string{"config.json": "{}", "sub/config.json": "{}"})
		sig, err := client.SignDir(t.Context(), dir, signer, modelsig.SignOptions{IgnorePaths: []string{"config.json"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := listed(t, sig); !slices.Equal(got, []string{"sub/config.json"}) {
			t.Errorf("listed %q", got)
		}
	})
	t.Run("N23: names that loaders run are files like others", func(t *testing.T) {
		_, _, sig := signed(t, image(rawLayer("modeling.py", "a"), rawLayer("weights.pkl", "b")))
		if got := listed(t, sig); len(got) != 2 {
			t.Errorf("listed %q", got)
		}
	})
	t.Run("M14: a tag that moved is another artifact", func(t *testing.T) {
		r, ref, sig := signed(t, tiny())
		r.put(t, "acme/tiny", "v1", image(rawLayer("evil.bin", "x")))
		v, err := client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{})
		wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUnsigned)
		v, err = client.Verify(t.Context(), r.host+"/acme/tiny@"+sig.Digest, trusts(signer), modelsig.VerifyOptions{})
		wantVerified(t, v, err, verify.StrengthManifest, 2)
	})
	t.Run("M15: a path on the manifest names no layer", func(t *testing.T) {
		m := tiny()
		m.Annotations = map[string]string{"org.cncf.model.filepath": "evil.gguf"}
		_, _, sig := signed(t, m)
		if got := listed(t, sig); !slices.Equal(got, []string{"config.json", "weights/a.bin"}) {
			t.Errorf("listed %q", got)
		}
	})
	t.Run("I05: a bundle for another manifest does not count here", func(t *testing.T) {
		_, _, sig := signed(t, tiny())
		r, changed := newRegistry(t), tiny()
		changed.Layers[1] = rawLayer("weights/a.bin", "evil")
		desc := r.put(t, "acme/tiny", "v1", changed)
		r.attach(t, "acme/tiny", desc, modelType, sig.Model.Bundle)
		r.attach(t, "acme/tiny", desc, verify.PredicateArtifact, sig.Artifact.Bundle)
		v, err := client.Verify(t.Context(), r.host+"/acme/tiny:v1", trusts(signer), modelsig.VerifyOptions{})
		wantNo(t, v, err, modelsig.ErrRefused, verify.CodeOtherSubject)
	})
	t.Run("I10, I12: garbage and other statements hide nothing", func(t *testing.T) {
		r, ref, sig := signed(t, tiny())
		desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(sig.Digest), Size: int64(len(mustJSON(t, tiny())))}
		other, err := verify.ArtifactStatement(desc, "", "", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		other.PredicateType = "https://slsa.dev/provenance/v1"
		payload, err := other.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		bundles, err := signer.Sign(t.Context(), payload)
		if err != nil {
			t.Fatal(err)
		}
		r.attach(t, "acme/tiny", desc, modelType, []byte(`{"garbage":`), bundles[0].JSON())
		v, err := client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{})
		wantVerified(t, v, err, verify.StrengthManifest, 2)
	})
	t.Run("I13: an old signature stays valid for what it signed", func(t *testing.T) {
		r, ref, sig := signed(t, tiny())
		r.put(t, "acme/tiny", "v1", image(rawLayer("new.bin", "x")))
		mustSign(t, client, ref, signer, modelsig.SignOptions{})
		r.put(t, "acme/tiny", "v1", tiny()) // rolled back
		v, err := client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{})
		wantVerified(t, v, err, verify.StrengthManifest, 2)
		if v.Digest != sig.Digest {
			t.Errorf("the verdict is about %s: the digest says which of the two it is", v.Digest)
		}
	})
	t.Run("I14: a signature of a signature approves the signature", func(t *testing.T) {
		r, ref, sig := signed(t, tiny())
		stranger := newSigner(t)
		referrer := r.host + "/acme/tiny@" + sig.Artifact.Referrer
		mustSign(t, client, referrer, stranger, modelsig.SignOptions{ArtifactOnly: true})
		v, err := client.Verify(t.Context(), referrer, trusts(stranger), modelsig.VerifyOptions{})
		wantVerified(t, v, err, verify.StrengthManifest, 1)
		v, err = client.Verify(t.Context(), ref, trusts(stranger), modelsig.VerifyOptions{})
		wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUntrusted)
	})
	t.Run("D02, D07: what tools leave in a folder is not signed", func(t *testing.T) {
		dir := writeModel(t, tinyFiles)
		sig, err := client.SignDir(t.Context(), dir, signer, modelsig.SignOptions{})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "model.sig")
		writeFile(t, file, string(sig.Model.Bundle))
		for _, name := range []string{"Kitfile", ".cache/huggingface/x", ".DS_Store", "__pycache__/a.pyc", "weights/b.bin.incomplete", "c.part"} {
			writeFile(t, filepath.Join(dir, filepath.FromSlash(name)), "x")
			v, err := client.VerifyDir(t.Context(), dir, trusts(signer), modelsig.VerifyOptions{SignatureFile: file})
			no := wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
			if !slices.Equal(no.Files.Extra, []string{name}) {
				t.Errorf("%s: extra %q", name, no.Files.Extra)
			}
			if err := os.Remove(filepath.Join(dir, filepath.FromSlash(name))); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("D04: a digest beside the file is nobody's word", func(t *testing.T) {
		dir := writeModel(t, tinyFiles)
		sig, err := client.SignDir(t.Context(), dir, signer, modelsig.SignOptions{})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "model.sig")
		writeFile(t, file, string(sig.Model.Bundle))
		path := filepath.Join(dir, "weights", "a.bin")
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, path, "jello") // of the same size, with the old time and the old digest
		if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"user.modctl.sha256", "user.shatag.sha256"} {
			if err := unix.Setxattr(path, name, []byte(digest.FromString("hello").Encoded()), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
				t.Fatal(err)
			}
		}
		v, err := client.VerifyDir(t.Context(), dir, trusts(signer), modelsig.VerifyOptions{SignatureFile: file})
		wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
	})
	t.Run("D06: what is pulled is what was judged", func(t *testing.T) {
		s := newCrate(t)
		dir := filepath.Join(t.TempDir(), "model")
		pulled, err := client.Pull(t.Context(), s.ref, dir, s.policy, modelsig.PullOptions{})
		if err != nil || !strings.HasSuffix(pulled.Verification.Pinned, "@"+pulled.Verification.Digest) {
			t.Fatalf("%+v, %v", pulled, err)
		}
		wantTree(t, dir, s.files)
	})
}
