package interop

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// keysOfAllKinds are those that sign, each with its pair.
func keysOfAllKinds(t *testing.T) map[string]keyPair {
	t.Helper()
	keys := map[string]keyPair{}
	for _, c := range curves {
		keys[c.name] = newKey(t, c.curve)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys["Ed25519"] = writeKey(t, private, public)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys["RSA"] = writeKey(t, rsaKey, rsaKey.Public())
	return keys
}

func writeKey(t *testing.T, private, public any) keyPair {
	t.Helper()
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pair := keyPair{private: filepath.Join(dir, "key.pem"), public: filepath.Join(dir, "key.pub")}
	writeFile(t, pair.private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER}))
	writeFile(t, pair.public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER}))
	return pair
}

// allows asks containers/image whether a policy that wants a signature by the
// key lets the image run.
func allows(t *testing.T, key keyPair, ref string) result {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "registries.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "registries.d", "sigstore.yaml"), []byte("default-docker:\n  use-sigstore-attachments: true\n"))
	wants, err := json.Marshal(map[string]any{"default": []any{map[string]any{
		"type": "sigstoreSigned", "keyPath": key.public,
		"signedIdentity": map[string]any{"type": "matchRepository"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "policy.json")
	writeFile(t, file, wants)
	return command{args: []string{policy, file, filepath.Join(dir, "registries.d"), ref}}.try(t)
}

// What sign --legacy-tag writes is all that podman, skopeo and CRI-O read, and
// what cosign reads where it finds no bundle.
func TestLegacyTagsForPodmanAndCosign(t *testing.T) {
	keys := keysOfAllKinds(t)
	stranger := newKey(t, curves[0].curve)
	eachRegistry(t, "", func(t *testing.T, r registryServer) {
		for name, key := range keys {
			t.Run(name, func(t *testing.T) {
				ref, _ := push(t, r, "acme/legacy-"+strings.ToLower(name), "legacy "+name)
				run(t, 0, "sign", "key", ref, "--private-key", key.private)
				if got := allows(t, key, ref); got.code != 1 {
					t.Errorf("containers/image reads bundles now, exit %d: --legacy-tag may go\n%s", got.code, got.stderr)
				}
				run(t, 0, "sign", "key", ref, "--private-key", key.private, "--legacy-tag")
				if got := allows(t, key, ref); got.code != 0 {
					t.Errorf("the policy refuses: %s", got.stderr)
				}
				if got := allows(t, stranger, ref); got.code != 1 {
					t.Errorf("the policy lets a stranger pass: exit %d", got.code)
				}
				legacyCosign(key, ref).want(t, 0)
				if got := legacyCosign(stranger, ref).try(t); got.code == 0 {
					t.Error("cosign accepted a stranger's key")
				}
				// A second signer adds to the tag.
				run(t, 0, "sign", "key", ref, "--private-key", stranger.private, "--legacy-tag")
				for _, k := range []keyPair{key, stranger} {
					if got := allows(t, k, ref); got.code != 0 {
						t.Errorf("with two signers the policy refuses one: %s", got.stderr)
					}
				}
			})
		}
	})
}

// legacyCosign is cosign's verification of its old form, offline.
func legacyCosign(key keyPair, ref string, flags ...string) command {
	return cosignVerify(key, ref, append(flags, "--new-bundle-format=false")...)
}

// What cosign signed in its old form verifies, and what we add to its tag it
// still reads, and adds to.
func TestLegacyTagsByCosign(t *testing.T) {
	eachRegistry(t, "", func(t *testing.T, r registryServer) {
		for _, c := range curves {
			t.Run(c.name, func(t *testing.T) {
				key, ours, stranger := newCosignKey(t, c.curve), newKey(t, c.curve), newKey(t, c.curve)
				ref, dir := push(t, r, "acme/cosigned-"+strings.ToLower(c.name), "cosigned "+c.name)
				sign := func(flags ...string) {
					args := []string{"sign", "--key", key.cosign, "--yes", "--allow-http-registry", "--use-signing-config=false",
						"--tlog-upload=false", "--new-bundle-format=false"}
					peer(t, cosign, append(append(args, flags...), ref)...)
				}
				sign("-a", "team=Type")
				got := verifyJSON(t, 0, key, ref)
				if got.Binding != "manifest-digest" || len(got.Signers) != 1 || got.Signers[0].Kind != "artifact" {
					t.Errorf("verify: %+v", got)
				}
				verifyJSON(t, 1, stranger, ref)
				run(t, 0, "verify", "key", dir, "--ref", ref, "--public-key", key.public)
				run(t, 0, "pull", "key", ref, filepath.Join(t.TempDir(), "d"), "--public-key", key.public)

				run(t, 0, "sign", "key", ref, "--private-key", ours.private, "--legacy-tag", "--artifact-signature-only")
				sign()
				// cosign 3 signs by the curve's own hash, and wants to be told so;
				// containers/image knows SHA-256 alone.
				legacyCosign(key, ref, c.verify...).want(t, 0)
				legacyCosign(ours, ref).want(t, 0)
				if got := allows(t, ours, ref); got.code != 0 {
					t.Errorf("the policy refuses: %s", got.stderr)
				}
				if got := allows(t, key, ref); c.verify == nil && got.code != 0 {
					t.Errorf("the policy refuses what cosign signed: %s", got.stderr)
				}
				if tagged := strings.Count(run(t, 0, "list", ref).stdout, "\ntag sha256-"); tagged < 3 {
					t.Errorf("%d signatures under the tag, want three", tagged)
				}
			})
		}
	})
}
