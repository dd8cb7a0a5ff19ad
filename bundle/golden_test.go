package bundle_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/bundle"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// sharedOMS has schemas, vectors and bundles of other OMS tools. Without it the tests that need it are skipped.
const sharedOMS = "../../shared/oms"

func needOMS(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(sharedOMS); err != nil {
		t.Skipf("the OMS cases are not at %s", sharedOMS)
	}
}

func omsKey(t testing.TB) bundle.Verifier {
	t.Helper()
	return keyVerifier(t, publicKey(t, sharedOMS+"/cases/assets/keys/certificate/signing-key-pub.pem"))
}

func TestBundlesOfOtherTools(t *testing.T) {
	needOMS(t)
	files, err := filepath.Glob(sharedOMS + "/cases/*/*/bundle.sig")
	if err != nil {
		t.Fatal(err)
	}
	valid, err := filepath.Glob(sharedOMS + "/vectors/valid/*.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 20 || len(valid) != 3 {
		t.Fatalf("%d cases and %d vectors, want 20 and 3", len(files), len(valid))
	}
	opened := 0
	for _, file := range append(files, valid...) {
		t.Run(filepath.Base(filepath.Dir(file))+"/"+filepath.Base(file), func(t *testing.T) {
			data := readFile(t, file)
			b, err := bundle.Parse(data)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b.JSON(), data) {
				t.Error("JSON is not what was parsed")
			}
			if want := methodInCase(t, file); b.Method() != want {
				t.Errorf("method %s, want %s", b.Method(), want)
			}
			claims, err := bundle.InsecureClaims(data)
			if err != nil {
				t.Fatal(err)
			}
			got, err := b.Open(omsKey(t))
			if b.Method() != bundle.MethodKey {
				// rule 30: even the signatures that this very key made, in certificates of it
				if !errors.Is(err, bundle.ErrUntrusted) {
					t.Errorf("a key opens a %s bundle: %v", b.Method(), err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			opened++
			if !bytes.Equal(got.Payload, claims.Payload) || !json.Valid(got.Payload) {
				t.Errorf("payload %.100q", got.Payload)
			}
			if claims.Hint != "" && claims.Hint != got.Signer.KeyFingerprint {
				t.Errorf("hint %s, fingerprint %s", claims.Hint, got.Signer.KeyFingerprint)
			}
			if _, err := b.Open(keyVerifier(t, generated(t, "p384"))); !errors.Is(err, bundle.ErrUntrusted) {
				t.Errorf("another key opens it: %v", err)
			}
		})
	}
	if opened != 10 {
		t.Errorf("%d key bundles opened, not 10", opened)
	}
}

// methodInCase is the method that a case's config says, or that a vector is named for.
func methodInCase(t *testing.T, file string) string {
	t.Helper()
	if name, ok := strings.CutSuffix(filepath.Base(file), ".bundle.json"); ok {
		return name
	}
	var config struct{ Method string }
	if err := json.Unmarshal(readFile(t, filepath.Dir(file), "config.json"), &config); err != nil {
		t.Fatal(err)
	}
	return config.Method
}

func TestInvalidVectors(t *testing.T) {
	needOMS(t)
	for name, want := range map[string]error{
		"invalid/empty.bundle.json":                         bundle.ErrMalformed,
		"invalid/missing-envelope.bundle.json":              bundle.ErrMalformed,
		"invalid/missing-verification-material.bundle.json": bundle.ErrMalformed,
		"invalid/missing-tlog-entries.bundle.json":          bundle.ErrUntrusted,
		"invalid-payload/wrong-predicate.bundle.json":       bundle.ErrUntrusted, // its signature is not true either
	} {
		if _, err := open(readFile(t, sharedOMS, "vectors", name), omsKey(t)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

func TestBundlesOfCosign(t *testing.T) {
	for _, curve := range []string{"p256", "p384", "p521"} {
		t.Run(curve, func(t *testing.T) {
			data := readFile(t, "testdata/cosign", curve+".json")
			v := keyVerifier(t, privateKey(t, curve).Public())
			got, err := open(data, v)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(got.Payload, []byte(`"predicateType":"https://sigstore.dev/cosign/sign/v1"`)) {
				t.Errorf("payload %s", got.Payload)
			}
			if _, err := open(data, keyVerifier(t, generated(t, curve))); !errors.Is(err, bundle.ErrUntrusted) {
				t.Errorf("another key opens it: %v", err)
			}
		})
	}
	t.Run("a signed blob approves nothing (rule 4)", func(t *testing.T) {
		b, err := bundle.Parse(readFile(t, "testdata/cosign/p256.blob.json"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Open(keyVerifier(t, privateKey(t, "p256").Public())); !errors.Is(err, bundle.ErrUntrusted) {
			t.Error(err)
		}
	})
}

func TestSignedBundlesFitTheSchemas(t *testing.T) {
	needOMS(t)
	compiler := jsonschema.NewCompiler()
	for _, name := range []string{"bundle", "envelope"} {
		schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(readFile(t, sharedOMS, "schemas", name+".schema.json")))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiler.AddResource("https://model_signing/"+name+"/v1.0/schema", schema); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := compiler.Compile("https://model_signing/bundle/v1.0/schema")
	if err != nil {
		t.Fatal(err)
	}
	good := signed(t, payload)
	key, err := bundle.ParsePrivateKey(readFile(t, "../testdata/certificate/leaf.key.pem"), nil)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := bundle.ParseCertificates(slices.Concat(readFile(t, "../testdata/certificate/leaf.pem"), readFile(t, "../testdata/certificate/intermediate.pem")))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := bundle.NewCertificateSigner(key, chain[0], chain)
	if err != nil {
		t.Fatal(err)
	}
	certified, err := signer.Sign(t.Context(), []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	for data, want := range map[string]bool{
		good: true, string(certified[0].JSON()): true, strings.Replace(good, `"payload"`, `"x"`, 1): false,
	} {
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); (err == nil) != want {
			t.Errorf("%s: %v", data, err)
		}
	}
}

// What others signed, changed and cut: refused, or the same.
func TestEveryByteOfBundlesOfOtherTools(t *testing.T) {
	needOMS(t)
	const cases = sharedOMS + "/cases/"
	root, err := bundle.ParseCertificates(readFile(t, cases+"assets/keys/certificate/ca-cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	byCertificate, err := bundle.NewCertificateVerifier(root, bundle.CertificateOptions{Now: at(midYear)})
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]bundle.Verifier{
		"historical/historical-v0.2.0-certificate":  byCertificate,
		"historical/historical-v1.0.1-elliptic-key": omsKey(t),
		"historical/historical-v1.1.0-certificate":  byCertificate,
		"historical/historical-v1.1.0-elliptic-key": omsKey(t),
	} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			everyFewBytes(t, readFile(t, cases+name, "bundle.sig"), v, 13)
		})
	}
}
