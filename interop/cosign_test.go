package interop

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// An answer is what modelsig verify says with --format json, as far as these
// tests look.
type answer struct {
	Verdict string `json:"verdict"`
	Digest  string `json:"digest"`
	Binding string `json:"binding"`
	Signers []struct {
		Kind           string `json:"kind"`
		Method         string `json:"method"`
		KeyFingerprint string `json:"keyFingerprint"`
	} `json:"signers"`
	Reasons []struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"reasons"`
}

func (a answer) kinds() []string {
	var kinds []string
	for _, s := range a.Signers {
		kinds = append(kinds, s.Kind)
	}
	slices.Sort(kinds)
	return kinds
}

// push pushes a new small model and returns its reference by digest.
func push(t testing.TB, r registryServer, repository, salt string) (ref, dir string) {
	t.Helper()
	dir = newModel(t, salt)
	out := run(t, 0, "push", dir, r.host+"/"+repository+":v1", "--format", "ref").stdout
	ref = strings.TrimSpace(out)
	if !strings.HasPrefix(ref, r.host+"/"+repository+"@sha256:") {
		t.Fatalf("push --format ref printed %q", out)
	}
	return ref, dir
}

// cosignSign signs as people do who have a key and no transparency log.
func cosignSign(t testing.TB, key keyPair, ref string) {
	t.Helper()
	peer(t, cosign, "sign", "--key", key.cosign, "--yes", "--allow-http-registry",
		"--use-signing-config=false", "--tlog-upload=false", ref)
}

// cosignAttest attaches a statement that is not an approval.
func cosignAttest(t testing.TB, key keyPair, ref string) {
	t.Helper()
	predicate := filepath.Join(t.TempDir(), "predicate.json")
	writeFile(t, predicate, []byte(`{"scanner":"none","findings":[]}`))
	peer(t, cosign, "attest", "--key", key.cosign, "--yes", "--allow-http-registry",
		"--use-signing-config=false", "--tlog-upload=false",
		"--predicate", predicate, "--type", "https://example.com/scan/v1", ref)
}

// cosignVerify is cosign's verification with a key, offline.
func cosignVerify(key keyPair, ref string, flags ...string) command {
	args := []string{cosign, "verify", "--key", key.public, "--insecure-ignore-tlog=true", "--allow-http-registry"}
	return command{args: append(append(args, flags...), ref)}
}

// verifyJSON asks modelsig, demands the exit code and returns the answer.
func verifyJSON(t testing.TB, code int, key keyPair, target string) answer {
	t.Helper()
	out := run(t, code, "verify", "key", target, "--public-key", key.public, "--format", "json")
	return decode[answer](t, []byte(out.stdout))
}

func TestWhatModelsigSignsCosignVerifies(t *testing.T) {
	eachRegistry(t, "", func(t *testing.T, r registryServer) {
		for _, c := range curves {
			t.Run(c.name, func(t *testing.T) {
				key, stranger := newKey(t, c.curve), newKey(t, c.curve)
				ref, _ := push(t, r, "acme/"+strings.ToLower(c.name), c.name)
				run(t, 0, "sign", "key", ref, "--private-key", key.private)

				cosignVerify(key, ref, c.verify...).want(t, 0)
				if got := cosignVerify(stranger, ref, c.verify...).try(t); got.code == 0 {
					t.Error("cosign accepted a stranger's key")
				}
				got := verifyJSON(t, 0, key, ref)
				if got.Verdict != "verified" || got.Binding != "manifest-digest" || !slices.Equal(got.kinds(), []string{"artifact", "model"}) {
					t.Errorf("verify: %+v", got)
				}
				verifyJSON(t, 1, stranger, ref)
			})
		}
	})
}

func TestCosignSeesBothReferrers(t *testing.T) {
	eachRegistry(t, "", func(t *testing.T, r registryServer) {
		key := newKey(t, curves[0].curve)
		ref, _ := push(t, r, "acme/tree", "tree")
		run(t, 0, "sign", "key", ref, "--private-key", key.private)
		tree := peer(t, cosign, "tree", "--allow-http-registry", ref)
		for _, predicate := range []string{"https://model_signing/signature/v1.0", "https://sigstore.dev/cosign/sign/v1"} {
			if strings.Count(tree, predicate) != 1 {
				t.Errorf("cosign tree does not list %s once:\n%s", predicate, tree)
			}
		}
	})
}

func TestWhatCosignSignsModelsigVerifies(t *testing.T) {
	eachRegistry(t, "", func(t *testing.T, r registryServer) {
		for _, c := range curves {
			t.Run(c.name, func(t *testing.T) {
				key, stranger := newCosignKey(t, c.curve), newKey(t, c.curve)
				ref, _ := push(t, r, "acme/cosign-"+strings.ToLower(c.name), c.name)
				cosignSign(t, key, ref)

				cosignVerify(key, ref, c.verify...).want(t, 0) // the peer works
				got := verifyJSON(t, 0, key, ref)
				if !slices.Equal(got.kinds(), []string{"artifact"}) || got.Binding != "manifest-digest" {
					t.Errorf("verify: %+v, want one artifact signature", got)
				}
				text := run(t, 0, "verify", "key", ref, "--public-key", key.public).stdout
				if !strings.Contains(text, "artifact") {
					t.Errorf("the answer does not say that it is an artifact signature:\n%s", text)
				}
				verifyJSON(t, 1, stranger, ref)
				// The demand for a model signature is not met by it (rule 27).
				run(t, 1, "verify", "key", ref, "--public-key", key.public, "--require", "model")
			})
		}
	})
}

func TestModelsigSignsWithCosignsKey(t *testing.T) {
	r := startDistribution(t, "")
	key := newCosignKey(t, curves[0].curve)
	ref, _ := push(t, r, "acme/cosign-key", "")
	password := filepath.Join(t.TempDir(), "password")
	writeFile(t, password, nil)
	run(t, 0, "sign", "key", ref, "--private-key", key.cosign, "--password-file", password)
	cosignVerify(key, ref).want(t, 0)
}

// Rule 4: a statement that the right key made about the right manifest is no
// approval unless it is of an approval type.
func TestAnAttestationIsNoApproval(t *testing.T) {
	eachRegistry(t, "", func(t *testing.T, r registryServer) {
		key := newCosignKey(t, curves[0].curve)
		ref, _ := push(t, r, "acme/attested", "")
		cosignAttest(t, key, ref)
		if got := verifyJSON(t, 1, key, ref); got.Verdict != "refused" || len(got.Signers) != 0 {
			t.Errorf("verify: %+v", got)
		}
		// Beside an approval it is no obstacle either.
		cosignSign(t, key, ref)
		verifyJSON(t, 0, key, ref)
	})
}

// Both tools sign one artifact: neither hides the other.
func TestTwoToolsOneArtifact(t *testing.T) {
	eachRegistry(t, "", func(t *testing.T, r registryServer) {
		ours, theirs := newKey(t, curves[0].curve), newCosignKey(t, curves[0].curve)
		ref, _ := push(t, r, "acme/both", "")
		cosignSign(t, theirs, ref)
		run(t, 0, "sign", "key", ref, "--private-key", ours.private)
		for _, key := range []keyPair{ours, theirs} {
			cosignVerify(key, ref).want(t, 0)
			verifyJSON(t, 0, key, ref)
		}
		entries := fallback(t, r, "acme/both", ref)
		if len(entries) != 3 {
			t.Errorf("the fallback index has %d entries, want cosign's one and our two", len(entries))
		}
	})
}

// A signature counts for the artifact it was made for and for no other, for
// cosign as for us.
func TestASignatureDoesNotMove(t *testing.T) {
	r := startDistribution(t, "")
	key := newKey(t, curves[0].curve)
	signed, _ := push(t, r, "acme/signed", "signed")
	other, _ := push(t, r, "acme/other", "other")
	file := filepath.Join(t.TempDir(), "model.sig")
	run(t, 0, "sign", "key", signed, "--private-key", key.private, "--signature", file)
	if got := cosignVerify(key, other).try(t); got.code == 0 {
		t.Error("cosign accepted an unsigned artifact")
	}
	verifyJSON(t, 1, key, other)
	run(t, 1, "verify", "key", other, "--public-key", key.public, "--signature", file)
	run(t, 0, "verify", "key", signed, "--public-key", key.public, "--signature", file)
}

// fallback reads the fallback index of an artifact by hand.
func fallback(t testing.TB, r registryServer, repository, ref string) (digests []string) {
	t.Helper()
	_, hex, ok := strings.Cut(ref, "@sha256:")
	if !ok {
		t.Fatalf("%s has no digest", ref)
	}
	raw := r.get(t, repository, "sha256-"+hex)
	index := decode[struct {
		Manifests []struct {
			Digest string `json:"digest"`
		} `json:"manifests"`
	}](t, raw)
	for _, m := range index.Manifests {
		if slices.Contains(digests, m.Digest) {
			t.Errorf("the fallback index lists %s twice", m.Digest)
		}
		digests = append(digests, m.Digest)
		manifest := r.get(t, repository, m.Digest)
		if !bytes.Contains(manifest, []byte(hex)) {
			t.Errorf("referrer %s has another subject: %s", m.Digest, manifest)
		}
	}
	return digests
}
