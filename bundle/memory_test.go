package bundle_test

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/bundle"
)

// A payload is held as few times as it can be: the JSON, once it is authenticated the decoded payload, and while signing the encoding of it. Design section 11.
func TestMemory(t *testing.T) {
	const size = 16 << 20
	large := bytes.Repeat([]byte("x"), size)
	signer, err := bundle.NewKeySigner(privateKey(t, "p256"))
	if err != nil {
		t.Fatal(err)
	}
	var data []byte
	within(t, "Sign", 3.4, size, func() error {
		b, err := signer.Sign(t.Context(), large)
		if err == nil {
			data = b[0].JSON()
		}
		return err
	})
	var b *bundle.Bundle
	within(t, "Parse", 0.1, size, func() error { b, err = bundle.Parse(data); return err })
	stranger, err := bundle.NewKeySigner(privateKey(t, "p384"))
	if err != nil {
		t.Fatal(err)
	}
	within(t, "Open by another key", 0.1, size, func() error {
		if _, err := b.Open(stranger.Verifier()); !errors.Is(err, bundle.ErrUntrusted) {
			return fmt.Errorf("opened: %v", err)
		}
		return nil
	})
	within(t, "Open", 1.1, size, func() error { _, err := b.Open(signer.Verifier()); return err })
}

// Whoever has a certificate of another root, or none for this key, costs no more than a strange key does.
func TestMemoryOfCertificates(t *testing.T) {
	const size = 16 << 20
	large := bytes.Repeat([]byte(`"`), size)
	root := ca(t, nil, "root")
	leaf := leafOf(t, root)
	timestamps := newAuthority(t, midYear)
	sig := signPAE(t, leaf.key, pae(bundle.PayloadType, string(large)))
	right := withTokens(t, handMade(t, chainMaterial(leaf), bundle.PayloadType, large, sig), timestamps.over(t, sig))
	old := handMade(t, chainMaterial(leaf), bundle.PayloadType, large, signRaw(t, leaf.key, crypto.SHA256, legacyEncoding2(large)))
	wrong := handMade(t, chainMaterial(leaf), bundle.PayloadType, large, signPAE(t, leaf.key, "x"))
	v := certificateVerifier(t, bundle.CertificateOptions{TimestampAnchors: certs(timestamps.root)}, root)
	for name, data := range map[string][]byte{"DSSE's encoding": right, "OMS v0.2's encoding": old} {
		within(t, name, 1.2, size, func() error { _, err := open(data, v); return err })
	}
	for name, tc := range map[string]struct {
		data []byte
		v    bundle.Verifier
	}{
		"another root":      {right, certificateVerifier(t, bundle.CertificateOptions{}, ca(t, nil, "root"))},
		"another signature": {wrong, v},
	} {
		within(t, name, 0.2, size, func() error {
			if _, err := open(tc.data, tc.v); !errors.Is(err, bundle.ErrUntrusted) {
				return fmt.Errorf("opened: %v", err)
			}
			return nil
		})
	}
	// Ed25519 hashes a message twice and is given it in one piece; the payload is decoded again for the caller.
	ed, err := bundle.NewKeySigner(anyKey(t, "ed25519"))
	if err != nil {
		t.Fatal(err)
	}
	bundles, err := ed.Sign(t.Context(), large)
	if err != nil {
		t.Fatal(err)
	}
	within(t, "Ed25519", 2.2, size, func() error { _, err := open(bundles[0].JSON(), ed.Verifier()); return err })
	server := serve(t, func(w http.ResponseWriter, r *http.Request) { timestamps.ServeHTTP(t, w, r) })
	p256, err := bundle.NewKeySigner(privateKey(t, "p256"))
	if err != nil {
		t.Fatal(err)
	}
	stamped, err := bundle.WithTimestamps(p256, server.Client(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	within(t, "Sign with a timestamp", 6, size, func() error { _, err := stamped.Sign(t.Context(), large); return err })
}

// legacyEncoding2 is legacyEncoding of a payload that has nothing to escape.
func legacyEncoding2(payload []byte) string {
	return fmt.Sprintf("DSSEV1 %d %s %d b'%s'", len(bundle.PayloadType), bundle.PayloadType, len(payload), payload)
}

// within checks how much do allocates in all, in multiples of size.
func within(t *testing.T, name string, limit float64, size int, do func() error) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := do(); err != nil {
		t.Fatal(name, err)
	}
	runtime.ReadMemStats(&after)
	if got := float64(after.TotalAlloc-before.TotalAlloc) / float64(size); got > limit {
		t.Errorf("%s allocates %.2f times the payload, limit %.2f", name, got, limit)
	}
}

func BenchmarkOpen(b *testing.B) {
	const size = 100 << 20
	signer, err := bundle.NewKeySigner(privateKey(b, "p256"))
	if err != nil {
		b.Fatal(err)
	}
	bundles, err := signer.Sign(b.Context(), make([]byte, size))
	if err != nil {
		b.Fatal(err)
	}
	data := bundles[0].JSON()
	bundles = nil
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := open(data, signer.Verifier()); err != nil {
			b.Fatal(err)
		}
	}
}

// A payload by somebody else is not copied, whatever part of the bundle he took from an honest one. Design section 11.
func TestSigstoreMemory(t *testing.T) {
	const size = 4 << 20
	s, other := newFakeSigstore(t), newFakeSigstore(t)
	verifier := s.verifier(nil)
	large := func(edit func(o *order)) *bundle.Bundle {
		o := s.newOrder()
		o.payload, o.stamped = strings.Repeat(" ", size), moment
		edit(o)
		b, err := bundle.Parse(s.json(o.sign()))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	refused := func(b *bundle.Bundle, want string) func() error {
		return func() error {
			_, err := b.Open(verifier)
			wantUntrusted(t, err, want)
			return nil
		}
	}
	copied := s.newOrder().sign()
	copied.Envelope.Payload = make([]byte, size)
	mallory, err := bundle.Parse(s.json(copied))
	if err != nil {
		t.Fatal(err)
	}
	within(t, "Open of a copied certificate", 0.1, size, refused(mallory, "did not make this signature"))
	within(t, "Open by a foreign authority", 0.1, size, refused(large(func(o *order) { o.fulcio = other }), "not by an authority"))
	v1, v2 := large(func(*order) {}), large(func(o *order) { o.v2 = true })
	within(t, "Open of an entry of Rekor v1", 3.5, size, func() error { _, err := v1.Open(verifier); return err })
	limit := 4.5
	if raceDetector {
		limit = 6
	}
	within(t, "Open of an entry of Rekor v2", limit, size, func() error { _, err := v2.Open(verifier); return err })
}
