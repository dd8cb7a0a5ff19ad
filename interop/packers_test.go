package interop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"
)

// What real packers made lies in a real registry: it is signed there with its
// archives read from it, both tools verify it, and a pull is what was signed.
func TestModelsOfRealPackers(t *testing.T) {
	const packers = "../../shared/packers"
	if _, err := os.Stat(packers); err != nil {
		t.Skipf("no models packed by real tools: %v", err)
	}
	layouts, err := filepath.Glob(filepath.Join(packers, "*", "oci-layout"))
	if err != nil || len(layouts) == 0 {
		t.Fatalf("no models in %s: %v", packers, err)
	}
	eachRegistry(t, "", func(t *testing.T, r registryServer) {
		for _, layout := range layouts {
			dir := filepath.Dir(layout)
			t.Run(filepath.Base(dir), func(t *testing.T) {
				store, err := oci.NewFromFS(t.Context(), os.DirFS(dir))
				if err != nil {
					t.Fatal(err)
				}
				repo, err := remote.NewRepository(r.host + "/packed/" + filepath.Base(dir))
				if err != nil {
					t.Fatal(err)
				}
				repo.PlainHTTP = true
				desc, err := oras.Copy(t.Context(), store, "v1", repo, "v1", oras.DefaultCopyOptions)
				if err != nil {
					t.Fatal(err)
				}
				ref := repo.Reference.Registry + "/" + repo.Reference.Repository + "@" + desc.Digest.String()
				key, stranger := newKey(t, curves[0].curve), newKey(t, curves[0].curve)
				signature := filepath.Join(t.TempDir(), "model.sig")
				run(t, 0, "sign", "key", ref, "--private-key", key.private, "--signature", signature)
				cosignVerify(key, ref).want(t, 0)
				if got := verifyJSON(t, 0, key, ref); got.Binding != "manifest-digest" || len(got.kinds()) != 2 {
					t.Errorf("verify: %+v", got)
				}
				run(t, 0, "verify", "key", ref, "--public-key", key.public, "--verify-content")

				to := filepath.Join(t.TempDir(), "pulled")
				run(t, 1, "pull", "key", ref, to, "--public-key", stranger.public)
				if _, err := os.Lstat(to); err == nil {
					t.Fatal("a stranger's model was pulled")
				}
				run(t, 0, "pull", "key", ref, to, "--public-key", key.public)
				run(t, 0, "verify", "key", to, "--signature", signature, "--public-key", key.public)
				run(t, 0, "verify", "key", to, "--ref", ref, "--public-key", key.public)
				if again := run(t, 0, "pull", "key", ref, to, "--public-key", key.public).stdout; !strings.Contains(again, "nothing was written") {
					t.Errorf("pulled again: %s", again)
				}
			})
		}
	})
}
