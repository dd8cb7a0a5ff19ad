package bundle_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/e2e/fakesigstore"
)

// Whatever one byte becomes, the bundle is refused or says the same.
func TestEveryByte(t *testing.T) {
	data := []byte(signed(t, `{"_type":"x"}`))
	v := keyVerifier(t, privateKey(t, "p256").Public())
	if everyByte(t, data, v, 0x01, 0x02, 0x04, 0x10, 0x20, 0x80, 0xff) == 0 {
		t.Error("not even another hint opens")
	}
}

func TestEveryByteOfACertificateBundle(t *testing.T) {
	root := ca(t, nil, "r")
	middle := ca(t, root, "i")
	leaf := leafOf(t, middle)
	data := signedBy(t, leaf.key, chainMaterial(leaf, middle))
	everyByte(t, data, certificateVerifier(t, bundle.CertificateOptions{Identity: "release@example.com"}, root), 0x01, 0x20, 0xff)
	everyByte(t, signedBy(t, leaf.key, singleMaterial(leaf)), certificateVerifier(t, bundle.CertificateOptions{}, root, middle), 0x04)
}

// No byte can be changed so that another payload, signer or time is proved.
func TestEveryByteOfASigstoreBundle(t *testing.T) {
	s := fakesigstore.New(t)
	o := newOrder(s)
	o.Payload, o.Stamped = `{}`, moment
	if everyFewBytes(t, fakesigstore.JSON(o.Sign()), accepting(s, nil), 3) == 0 {
		t.Error("not even a flip in the timestamp beside the log opens")
	}
}

func TestEveryByteOfAPublicBundle(t *testing.T) {
	needOMS(t)
	dir := sharedOMS + "/cases/historical/historical-v1.1.0-sigstore"
	if everyFewBytes(t, readFile(t, dir, "bundle.sig"), publicGood(t, caseIdentity(t, dir)), 17) == 0 {
		t.Error("not even a flip in the timestamp beside the log opens")
	}
}

// everyByte changes data at every byte, in each of the ways given, and cuts it everywhere: it is refused, or says the same.
// It returns how many changes open as before.
func everyByte(t *testing.T, data []byte, v bundle.Verifier, flips ...byte) int {
	t.Helper()
	return changeAndCut(t, data, v, 1, func(int) []byte { return flips })
}

// everyFewBytes is everyByte for bundles that are large, or cost much to open: one bit of one byte in step.
func everyFewBytes(t *testing.T, data []byte, v bundle.Verifier, step int) int {
	t.Helper()
	return changeAndCut(t, data, v, step, func(i int) []byte { return []byte{1 << (i % 7)} })
}

func changeAndCut(t *testing.T, data []byte, v bundle.Verifier, step int, flips func(i int) []byte) (opened int) {
	t.Helper()
	want, err := open(data, v)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(data); i += step {
		for _, flip := range flips(i) {
			changed := bytes.Clone(data)
			changed[i] ^= flip
			got, err := open(changed, v)
			if err == nil {
				opened++
				if !bytes.Equal(got.Payload, want.Payload) || got.Proof != want.Proof {
					t.Fatalf("byte %d became %q: opened as %+v", i, changed[i], got)
				}
			} else if !errors.Is(err, bundle.ErrMalformed) && !errors.Is(err, bundle.ErrUntrusted) {
				t.Fatalf("byte %d became %q: %v", i, changed[i], err)
			}
		}
		if _, err := bundle.Parse(data[:i]); !errors.Is(err, bundle.ErrMalformed) {
			t.Fatalf("cut at %d: %v", i, err)
		}
		if _, err := bundle.Parse(data[i+1:]); !errors.Is(err, bundle.ErrMalformed) {
			t.Fatalf("begun at %d: %v", i+1, err)
		}
	}
	t.Logf("%d bytes, %d flips open as before", len(data), opened)
	return opened
}
