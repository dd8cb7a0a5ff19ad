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
	"time"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/e2e/fakesigstore"
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
		if _, err := b.Open(verifierOf(stranger)); !errors.Is(err, bundle.ErrUntrusted) {
			return fmt.Errorf("opened: %v", err)
		}
		return nil
	})
	within(t, "Open", 1.1, size, func() error { _, err := b.Open(verifierOf(signer)); return err })
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
	within(t, "Ed25519", 2.2, size, func() error { _, err := open(bundles[0].JSON(), verifierOf(ed)); return err })
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
		if _, err := open(data, verifierOf(signer)); err != nil {
			b.Fatal(err)
		}
	}
}

// A payload by somebody else is not copied, whatever part of the bundle he took from an honest one. Design section 11.
func TestSigstoreMemory(t *testing.T) {
	const size = 4 << 20
	s, other := fakesigstore.New(t), fakesigstore.New(t)
	verifier := accepting(s, nil)
	large := func(edit func(o *fakesigstore.Order)) *bundle.Bundle {
		o := newOrder(s)
		o.Payload, o.Stamped = strings.Repeat(" ", size), moment
		edit(o)
		b, err := bundle.Parse(fakesigstore.JSON(o.Sign()))
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
	copied := newOrder(s).Sign()
	copied.Envelope.Payload = make([]byte, size)
	mallory, err := bundle.Parse(fakesigstore.JSON(copied))
	if err != nil {
		t.Fatal(err)
	}
	within(t, "Open of a copied certificate", 0.1, size, refused(mallory, "did not make this signature"))
	within(t, "Open by a foreign authority", 0.1, size, refused(large(func(o *fakesigstore.Order) { o.Fulcio = other }), "not by an authority"))
	v1, v2 := large(func(*fakesigstore.Order) {}), large(func(o *fakesigstore.Order) { o.V2 = true })
	within(t, "Open of an entry of Rekor v1", 3.5, size, func() error { _, err := v1.Open(verifier); return err })
	limit := 4.5
	if raceDetector {
		limit = 6
	}
	within(t, "Open of an entry of Rekor v2", limit, size, func() error { _, err := v2.Open(verifier); return err })
}

// Entries that anybody can add to an honest bundle cost no pass over its payload, and those that say the same cost one.
func TestSigstoreMemoryOfManyEntries(t *testing.T) {
	const size = 4 << 20
	s, other := fakesigstore.New(t), fakesigstore.New(t)
	v := accepting(s, nil)
	o := newOrder(s)
	o.Payload = strings.Repeat(" ", size)
	honest := o.Sign()
	again := func(edit func(o *fakesigstore.Order)) *fakesigstore.Entry {
		again := *o
		edit(&again)
		return renamed(again.Entry(certificate(t, honest), honest.Envelope.Signatures[0].Sig), s)
	}
	// As Rekor v2 writes checkpoints, and in no log at all.
	v1 := again(func(o *fakesigstore.Order) { o.Rekor, o.Logged = other, time.Time{} })
	v1.Proof.Checkpoint.Envelope = other.Checkpoint(fakesigstore.Host, 2, v1.Proof.RootHash)
	for name, tt := range map[string]struct {
		entry *fakesigstore.Entry
		limit float64 // a pass for the honest entry, one for another that is in the log, and 63 entries of a few KiB
	}{
		"forged entries":                         {again(func(o *fakesigstore.Order) { o.Rekor = other }), 6},
		"forged entries of v2":                   {again(func(o *fakesigstore.Order) { o.Rekor, o.V2 = other, true }), 6},
		"forged entries with a checkpoint of v2": {v1, 6},
		"entries logged when it was too late":    {again(func(o *fakesigstore.Order) { o.Logged = moment.Add(time.Hour) }), 6},
		"the same entry of another time":         {again(func(o *fakesigstore.Order) { o.Logged = moment }), 8},
		"the same entry without a promise":       {again(func(o *fakesigstore.Order) { o.Logged = time.Time{} }), 8},
		"the same entry of v2":                   {again(func(o *fakesigstore.Order) { o.V2 = true }), 12},
	} {
		b := *honest
		b.Material.Entries = nil
		for range 63 {
			b.Material.Entries = append(b.Material.Entries, tt.entry)
		}
		b.Material.Entries = append(b.Material.Entries, honest.Material.Entries...)
		parsed, err := bundle.Parse(fakesigstore.JSON(&b))
		if err != nil {
			t.Fatal(err)
		}
		within(t, name, tt.limit, size, func() error { _, err := parsed.Open(v); return err })
	}
}
