package bundle_test

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
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
