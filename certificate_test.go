package modelsig_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/verify"
)

// certificateFile reads one of the test certificates.
func certificateFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "certificate", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// newCertificateSigner signs as release@example.com.
func newCertificateSigner(t testing.TB, chain ...string) modelsig.Signer {
	t.Helper()
	var pems [][]byte
	for _, name := range chain {
		pems = append(pems, certificateFile(t, name))
	}
	signer, err := modelsig.CertificateSigner(certificateFile(t, "leaf.key.pem"), nil, certificateFile(t, "leaf.pem"), pems...)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func certificatePolicy(t testing.TB, identity string, chain ...string) modelsig.Policy {
	t.Helper()
	var pems [][]byte
	for _, name := range chain {
		pems = append(pems, certificateFile(t, name))
	}
	policy, err := modelsig.CertificatePolicy(pems, modelsig.CertificateOptions{Identity: identity})
	if err != nil {
		t.Fatal(err)
	}
	return policy
}

// keyOfTheLeaf accepts the certificate's key as a key.
func keyOfTheLeaf(t testing.TB) modelsig.Policy {
	t.Helper()
	policy, err := modelsig.KeyPolicy(certificateFile(t, "leaf.pub.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return policy
}

func TestCertificatesFromSigningToTheVerdict(t *testing.T) { // rule 10
	const identity = "release@example.com"
	whole := newCertificateSigner(t, "intermediate.pem", "root.pem")
	alone := newCertificateSigner(t) // the verifier has to know the intermediate
	client := new(modelsig.Client)
	r := newRegistry(t)
	dir := writeModel(t, tinyFiles)
	repositories := 0

	// A folder and an artifact, by the same signer, judged by the same policy.
	judge := map[string]func(t *testing.T, signer modelsig.Signer, policy modelsig.Policy) (*modelsig.Verification, error){
		"folder": func(t *testing.T, signer modelsig.Signer, policy modelsig.Policy) (*modelsig.Verification, error) {
			file := filepath.Join(t.TempDir(), "model.sig")
			sig, err := client.SignDir(t.Context(), dir, signer, modelsig.SignOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := modelsig.WriteSignature(file, sig.Model.Bundle, false); err != nil {
				t.Fatal(err)
			}
			return client.VerifyDir(t.Context(), dir, policy, modelsig.VerifyOptions{SignatureFile: file})
		},
		"artifact": func(t *testing.T, signer modelsig.Signer, policy modelsig.Policy) (*modelsig.Verification, error) {
			repositories++
			repository := fmt.Sprint("acme/m", repositories)
			r.put(t, repository, "v1", tiny())
			ref := r.host + "/" + repository + ":v1"
			mustSign(t, client, ref, signer, modelsig.SignOptions{})
			return client.Verify(t.Context(), ref, policy, modelsig.VerifyOptions{})
		},
	}
	for kind, act := range judge {
		for _, tt := range []struct {
			name   string
			signer modelsig.Signer
			policy modelsig.Policy
			says   string // "": a yes
		}{
			{"the root", whole, certificatePolicy(t, "", "root.pem"), ""},
			{"the root and the identity", whole, certificatePolicy(t, identity, "root.pem"), ""},
			{"the root among others", whole, certificatePolicy(t, identity, "leaf.pem", "intermediate.pem", "root.pem"), ""},
			{"an intermediate from the verifier", alone, certificatePolicy(t, identity, "root.pem", "intermediate.pem"), ""},
			{"no intermediate", alone, certificatePolicy(t, identity, "root.pem"), "does not lead to an accepted root"},
			{"another identity", whole, certificatePolicy(t, "other@example.com", "root.pem"), identity},
			{"an identity of another type", whole, certificatePolicy(t, "example.com", "root.pem"), identity},
			{"the key, not the certificate", whole, keyOfTheLeaf(t), "method key only"},
			{"somebody's key", newSigner(t), certificatePolicy(t, "", "root.pem"), "method certificate only"},
			{"nobody", whole, modelsig.Policy{}, ""},
		} {
			t.Run(kind+"/"+tt.name, func(t *testing.T) {
				v, err := act(t, tt.signer, tt.policy)
				if tt.says == "" && len(tt.policy.Verifiers) > 0 {
					strength, signers := verify.StrengthFiles, 1
					if kind == "artifact" {
						strength, signers = verify.StrengthManifest, 2
					}
					wantVerified(t, v, err, strength, signers)
					for _, s := range v.Signers {
						if s.Identity.Method != bundle.MethodCertificate || s.Identity.Subject != identity || s.Identity.KeyFingerprint == "" {
							t.Errorf("signer %+v", s.Identity)
						}
					}
					return
				}
				wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUntrusted)
				if !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%v does not say %q", err, tt.says)
				}
			})
		}
	}

	// A folder against the artifact, and a changed one.
	r.put(t, "acme/against", "v1", tiny())
	ref := r.host + "/acme/against:v1"
	mustSign(t, client, ref, whole, modelsig.SignOptions{})
	policy := certificatePolicy(t, identity, "root.pem")
	v, err := client.VerifyDirAgainst(t.Context(), dir, ref, policy, modelsig.VerifyOptions{})
	wantVerified(t, v, err, verify.StrengthManifest, 2)
	writeFile(t, filepath.Join(dir, "config.json"), "[]")
	v, err = client.VerifyDirAgainst(t.Context(), dir, ref, policy, modelsig.VerifyOptions{})
	wantNo(t, v, err, modelsig.ErrRefused, verify.CodeFiles)
}

func TestSigningAgainWithACertificateAddsNothing(t *testing.T) { // rule 15
	client := new(modelsig.Client)
	signer := newCertificateSigner(t, "intermediate.pem")
	byKey, err := modelsig.KeySigner(certificateFile(t, "leaf.key.pem"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*registry{"Referrers API": newRegistry(t), "no API": newOldRegistry(t)} {
		t.Run(name, func(t *testing.T) {
			desc := r.put(t, "acme/tiny", "v1", tiny())
			ref := r.host + "/acme/tiny:v1"
			attached := func() int {
				t.Helper()
				list, err := client.List(t.Context(), ref)
				if err != nil {
					t.Fatal(err)
				}
				return len(list.Referrers)
			}
			// The key of the certificate is another signer.
			mustSign(t, client, ref, byKey, modelsig.SignOptions{})
			first := mustSign(t, client, ref, signer, modelsig.SignOptions{})
			if first.Unchanged || attached() != 4 {
				t.Fatalf("%+v, %d referrers, want 4", first, attached())
			}
			for _, again := range []modelsig.Signer{signer, newCertificateSigner(t, "intermediate.pem", "root.pem")} {
				sig := mustSign(t, client, ref, again, modelsig.SignOptions{})
				if !sig.Unchanged || attached() != 4 || sig.Model.Referrer != first.Model.Referrer || !bytes.Equal(sig.Artifact.Bundle, first.Artifact.Bundle) {
					t.Errorf("%+v, %d referrers: want the first ones", sig, attached())
				}
			}
			// A bundle that verifiers with the root alone would not accept
			// does not count as this signer's.
			r.put(t, "acme/short", "v1", tiny())
			short := mustSign(t, client, ref, newCertificateSigner(t), modelsig.SignOptions{NoAttach: true})
			r.attach(t, "acme/short", desc, verify.PredicateArtifact, short.Artifact.Bundle)
			if sig := mustSign(t, client, r.host+"/acme/short:v1", signer, modelsig.SignOptions{ArtifactOnly: true}); sig.Unchanged {
				t.Error("a bundle without the intermediate kept the signer from signing")
			}
			v, err := client.Verify(t.Context(), r.host+"/acme/short:v1", certificatePolicy(t, "release@example.com", "root.pem"), modelsig.VerifyOptions{})
			wantVerified(t, v, err, verify.StrengthManifest, 1)
		})
	}
}

// The certificate's key may be encrypted, as any other.
func TestACertificateWithAnEncryptedKey(t *testing.T) {
	key, err := bundle.ParsePrivateKey(certificateFile(t, "leaf.key.pem"), nil)
	if err != nil {
		t.Fatal(err)
	}
	encrypted, err := bundle.MarshalPrivateKey(key, []byte("modelsig-test"))
	if err != nil {
		t.Fatal(err)
	}
	password := func(text string) func() ([]byte, error) { return func() ([]byte, error) { return []byte(text), nil } }
	for name, ask := range map[string]func() ([]byte, error){"none": nil, "wrong": password("modelsig")} {
		if s, err := modelsig.CertificateSigner(encrypted, ask, certificateFile(t, "leaf.pem")); s != nil || !errors.Is(err, bundle.ErrPassword) {
			t.Errorf("%s: %v, want %v", name, err, bundle.ErrPassword)
		}
	}
	signer, err := modelsig.CertificateSigner(encrypted, password("modelsig-test"), certificateFile(t, "leaf.pem"), certificateFile(t, "intermediate.pem"))
	if err != nil {
		t.Fatal(err)
	}
	client := new(modelsig.Client)
	sig, err := client.SignFiles(t.Context(), "tiny", filesOf(t, tinyFiles), signer, modelsig.SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	v, err := client.VerifyFiles(t.Context(), "tiny", filesOf(t, tinyFiles), sig.Model.Bundle, certificatePolicy(t, "release@example.com", "root.pem"), modelsig.VerifyOptions{})
	wantVerified(t, v, err, verify.StrengthFiles, 1)
}

func TestCertificateSignersAndPoliciesThatCannotBe(t *testing.T) {
	read := func(name string) []byte { return certificateFile(t, name) }
	key, err := os.ReadFile("testdata/keys/p256.pkcs8.pem")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name             string
		key, certificate []byte
		chain            [][]byte
		says             string
	}{
		{"another key", key, read("leaf.pem"), nil, "not that of the certificate"},
		{"no key", nil, read("leaf.pem"), nil, ""},
		{"no certificate", read("leaf.key.pem"), nil, nil, "signing certificate"},
		{"a key where a certificate should be", read("leaf.key.pem"), read("leaf.key.pem"), nil, "signing certificate"},
		{"an issuer's certificate", read("leaf.key.pem"), read("intermediate.pem"), nil, ""},
		{"the issuer first", read("leaf.key.pem"), slices.Concat(read("intermediate.pem"), read("leaf.pem")), nil, ""},
		{"a chain with a gap", read("leaf.key.pem"), read("leaf.pem"), [][]byte{read("root.pem")}, "link"},
		{"a chain that is a public key", read("leaf.key.pem"), read("leaf.pem"), [][]byte{read("leaf.pub.pem")}, "certificate chain"},
	} {
		if s, err := modelsig.CertificateSigner(tt.key, nil, tt.certificate, tt.chain...); err == nil || s != nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("signer, %s: %v does not say %q", tt.name, err, tt.says)
		}
	}
	for _, tt := range []struct {
		name  string
		chain [][]byte
		o     modelsig.CertificateOptions
		says  string
	}{
		{"no anchor", nil, modelsig.CertificateOptions{}, "nobody is trusted"},
		{"an intermediate", [][]byte{read("intermediate.pem")}, modelsig.CertificateOptions{}, "self-signed"},
		{"the leaf", [][]byte{read("leaf.pem")}, modelsig.CertificateOptions{}, "self-signed"},
		{"an empty file", [][]byte{nil}, modelsig.CertificateOptions{}, "certificate chain"},
		{"a key", [][]byte{read("root.pem"), read("leaf.key.pem")}, modelsig.CertificateOptions{}, "certificate chain"},
		{"an authority for time without a root", [][]byte{read("root.pem")}, modelsig.CertificateOptions{TimestampChain: [][]byte{read("intermediate.pem")}}, "self-signed"},
		{"an authority for time that is no certificate", [][]byte{read("root.pem")}, modelsig.CertificateOptions{TimestampChain: [][]byte{read("leaf.pub.pem")}}, "timestamp chain"},
	} {
		if p, err := modelsig.CertificatePolicy(tt.chain, tt.o); err == nil || len(p.Verifiers) != 0 || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("policy, %s: %+v, %v does not say %q", tt.name, p, err, tt.says)
		}
	}
}
