package modelsig_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/referrers"
	"github.com/modelsig/modelsig/verify"
)

// A registry is in memory. Attackers with push rights write to the backend,
// which takes any manifest, with or without the blobs that it names.
type registry struct {
	backend *ocimem.Registry
	host    string
}

func newRegistry(t testing.TB) *registry {
	t.Helper()
	return serveRegistry(t, false)
}

// newOldRegistry has no Referrers API.
func newOldRegistry(t testing.TB) *registry {
	t.Helper()
	return serveRegistry(t, true)
}

func serveRegistry(t testing.TB, old bool) *registry {
	t.Helper()
	r := &registry{backend: ocimem.NewWithConfig(&ocimem.Config{LaxChildReferences: true})}
	var h http.Handler = ociserver.New(r.backend, &ociserver.Options{DisableReferrersAPI: old})
	if old {
		api := h
		h = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { api.ServeHTTP(silent{w}, req) })
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	r.host = server.Listener.Addr().String()
	return r
}

// silent drops the header by which a registry says that it keeps referrers.
type silent struct{ http.ResponseWriter }

func (w silent) WriteHeader(code int) {
	w.Header().Del("OCI-Subject")
	w.ResponseWriter.WriteHeader(code)
}

// put pushes a manifest under a tag ("": by digest only).
func (r *registry) put(t testing.TB, repository, tag string, m any) ocispec.Descriptor {
	t.Helper()
	data, ok := m.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.backend.PushManifest(t.Context(), repository, tag, data, ocispec.MediaTypeImageManifest); err != nil {
		t.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// attach attaches bundles to a manifest, with our annotations, as anyone with
// push rights can.
func (r *registry) attach(t testing.TB, repository string, subject ocispec.Descriptor, predicateType string, bundles ...[]byte) {
	t.Helper()
	client, err := oci.NewClient(oci.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := oci.ParseReference(fmt.Sprintf("%s/%s@%s", r.host, repository, subject.Digest))
	if err != nil {
		t.Fatal(err)
	}
	model, err := client.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	var list []referrers.Attachment
	for _, b := range bundles {
		list = append(list, referrers.Attachment{Bundle: b, PredicateType: predicateType})
	}
	if _, err := referrers.Attach(t.Context(), referrers.InRepository(model.Repository), subject, list...); err != nil {
		t.Fatal(err)
	}
}

// rawLayer is a raw layer with a title. Its blob need not exist.
func rawLayer(title, content string) ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType:   "application/octet-stream",
		Digest:      digest.FromString(content),
		Size:        int64(len(content)),
		Annotations: map[string]string{ocispec.AnnotationTitle: title},
	}
}

// image is a manifest as pushing writes it.
func image(layers ...ocispec.Descriptor) ocispec.Manifest {
	config := ocispec.DescriptorEmptyJSON
	config.Data = nil
	return ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: "application/vnd.unknown.artifact.v1",
		Config:       config,
		Layers:       append([]ocispec.Descriptor{}, layers...), // never null
	}
}

// tiny has a config.json of its own, as most models do.
func tiny() ocispec.Manifest {
	return image(rawLayer("config.json", "{}"), rawLayer("weights/a.bin", "hello"))
}

var tinyFiles = map[string]string{"config.json": "{}", "weights/a.bin": "hello"}

// writeModel writes files below a new folder.
func writeModel(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tiny")
	for name, content := range files {
		writeFile(t, filepath.Join(dir, filepath.FromSlash(name)), content)
	}
	return dir
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func newSigner(t testing.TB) modelsig.Signer {
	t.Helper()
	key, err := bundle.GenerateKey("p256")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := bundle.NewKeySigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// trusts wants a binding to the manifest, as KeyPolicy does.
func trusts(signers ...modelsig.Signer) modelsig.Policy {
	var p modelsig.Policy
	for _, s := range signers {
		p.Verifiers = append(p.Verifiers, verifierOf(s))
	}
	return p
}

// lenient accepts equal layers without a binding too.
func lenient(signers ...modelsig.Signer) modelsig.Policy {
	p := trusts(signers...)
	p.Binding = verify.StrengthLayers
	return p
}

func mustSign(t testing.TB, c *modelsig.Client, ref string, signer modelsig.Signer, o modelsig.SignOptions) *modelsig.Signature {
	t.Helper()
	sig, err := c.Sign(t.Context(), ref, signer, o)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// wantVerified wants a yes by this strength, from as many signers.
func wantVerified(t testing.TB, v *modelsig.Verification, err error, strength verify.Strength, signers int) {
	t.Helper()
	if err != nil {
		t.Fatalf("got %v, want a yes", err)
	}
	if v.Verdict != verify.Verified || v.Binding != strength || len(v.Signers) != signers {
		t.Fatalf("got %s by %q with %d signers, want %s by %q with %d", v.Verdict, v.Binding, len(v.Signers), verify.Verified, strength, signers)
	}
}

// wantNo wants a denial with this sentinel and, unless it is "", a reason with
// this code.
func wantNo(t testing.TB, v *modelsig.Verification, err, sentinel error, code string) *modelsig.Verification {
	t.Helper()
	if v != nil {
		t.Fatalf("got a verification beside the error %v", err)
	}
	denial, ok := errors.AsType[*modelsig.Denial](err)
	if !ok {
		t.Fatalf("got %v, want a *modelsig.Denial", err)
	}
	other := modelsig.ErrUnknown
	if sentinel == modelsig.ErrUnknown {
		other = modelsig.ErrRefused
	}
	if !errors.Is(err, sentinel) || errors.Is(err, other) {
		t.Fatalf("got %v, want exactly %v", err, sentinel)
	}
	if code != "" && !slices.ContainsFunc(denial.Verification.Reasons, func(r verify.Reason) bool { return r.Code == code }) {
		t.Fatalf("got reasons %+v, want one with code %q", denial.Verification.Reasons, code)
	}
	return denial.Verification
}

// A meter is the connection to the network, with a count of what went over it.
type meter struct {
	mu       sync.Mutex
	requests []string // "GET /v2/…"
	bytes    int64    // of bodies, both ways
	// after is called with each request that was answered; nil: nothing.
	after func(req *http.Request)
}

func (m *meter) RoundTrip(req *http.Request) (*http.Response, error) {
	m.mu.Lock()
	m.requests = append(m.requests, req.Method+" "+req.URL.Path)
	m.mu.Unlock()
	if req.Body != nil && req.Body != http.NoBody {
		req = req.Clone(req.Context())
		req.Body = &metered{req.Body, m}
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &metered{resp.Body, m}
	if m.after != nil {
		m.after(req)
	}
	return resp, nil
}

type metered struct {
	io.ReadCloser
	m *meter
}

func (r *metered) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.m.mu.Lock()
	r.m.bytes += int64(n)
	r.m.mu.Unlock()
	return n, err
}

func (m *meter) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests, m.bytes = nil, 0
}

// about returns the requests that name s.
func (m *meter) about(s string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(m.requests), func(r string) bool { return !strings.Contains(r, s) })
}

func TestTheWholeWay(t *testing.T) {
	for name, serve := range map[string]func(testing.TB) *registry{"Referrers API": newRegistry, "no API": newOldRegistry} {
		t.Run(name, func(t *testing.T) {
			r := serve(t)
			ref := r.host + "/acme/tiny:v1"
			signer := newSigner(t)
			client := new(modelsig.Client)
			dir := writeModel(t, tinyFiles)
			writeFile(t, filepath.Join(dir, ".git/config"), "x")
			writeFile(t, filepath.Join(dir, "model.sig"), "x")

			pushed, err := client.Push(t.Context(), dir, ref, modelsig.PushOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if pushed.Files != 2 || pushed.Bytes != 7 || !slices.Equal(pushed.LeftOut, []string{".git", "model.sig"}) || pushed.Pinned != r.host+"/acme/tiny@"+pushed.Digest {
				t.Errorf("pushed %+v", pushed)
			}

			v, err := client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{})
			wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUnsigned)

			sig := mustSign(t, client, ref, signer, modelsig.SignOptions{})
			if sig.Target != ref+"@"+sig.Digest || sig.Digest != pushed.Digest || sig.Pinned != pushed.Pinned || sig.Layout != "title" ||
				sig.Files != 2 || sig.Bytes != 7 || sig.Unchanged || !sig.FromDigest || sig.Model.Referrer == "" || sig.Artifact.Referrer == "" {
				t.Errorf("signature %+v", sig)
			}

			for _, target := range []string{ref, pushed.Pinned, ref + "@" + sig.Digest, "oci://" + ref} {
				v, err := client.Verify(t.Context(), target, trusts(signer), modelsig.VerifyOptions{})
				wantVerified(t, v, err, verify.StrengthManifest, 2)
				if v.Digest != sig.Digest || v.Pinned != pushed.Pinned || v.Kind != modelsig.KindArtifact || v.Layout != "title" || v.Files.Count != 2 || v.Hashed {
					t.Errorf("%s: %+v", target, v)
				}
			}
			for kind, part := range map[string]*modelsig.Signed{"model": sig.Model, "artifact": sig.Artifact} {
				v, err := client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{SignatureDigest: part.Referrer})
				wantVerified(t, v, err, verify.StrengthManifest, 1)
				if s := v.Signers[0]; s.Kind != kind || s.Referrer != part.Referrer || s.Repository != "acme/tiny" || s.Tag != "v1" {
					t.Errorf("signer %+v, want the %s signature %s", s, kind, part.Referrer)
				}
			}
			v, err = client.Verify(t.Context(), ref, trusts(newSigner(t)), modelsig.VerifyOptions{})
			wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUntrusted)
			v, err = client.Verify(t.Context(), ref, modelsig.Policy{}, modelsig.VerifyOptions{})
			wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUntrusted)

			list, err := client.List(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			kinds := map[string]int{}
			for _, a := range list.Referrers {
				kinds[a.Kind+" "+a.Method]++
			}
			if !maps.Equal(kinds, map[string]int{"model key": 1, "artifact key": 1}) || list.Incomplete != nil {
				t.Errorf("listed %v, incomplete: %v", kinds, list.Incomplete)
			}
		})
	}
}

func TestAnImageLayout(t *testing.T) {
	client, signer := new(modelsig.Client), newSigner(t)
	path := filepath.Join(t.TempDir(), "layout")
	for _, ref := range []string{"oci:" + path + ":v1", "oci:" + path + ":v2"} {
		dir := writeModel(t, map[string]string{"config.json": ref, "weights.bin": "hello"})
		pushed, err := client.Push(t.Context(), dir, ref, modelsig.PushOptions{Signer: signer})
		if err != nil {
			t.Fatal(err)
		}
		if pushed.Signature == nil || pushed.Signature.Model.Referrer == "" {
			t.Fatalf("pushed %+v: not signed", pushed)
		}
		v, err := client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{})
		wantVerified(t, v, err, verify.StrengthManifest, 2)
		if v.Kind != modelsig.KindLayout || v.Digest != pushed.Digest {
			t.Errorf("%+v", v)
		}
		if again := mustSign(t, client, ref, signer, modelsig.SignOptions{}); !again.Unchanged {
			t.Error("signing again added something")
		}
		v, err = client.VerifyDirAgainst(t.Context(), dir, ref, trusts(signer), modelsig.VerifyOptions{})
		wantVerified(t, v, err, verify.StrengthManifest, 2)
		v, err = client.Verify(t.Context(), ref, trusts(newSigner(t)), modelsig.VerifyOptions{})
		wantNo(t, v, err, modelsig.ErrRefused, verify.CodeUntrusted)
	}
	// A blob that does not hold what its name says is never a yes.
	blobs, err := filepath.Glob(filepath.Join(path, "blobs/sha256/*"))
	if err != nil || len(blobs) == 0 {
		t.Fatalf("%d blobs, %v", len(blobs), err)
	}
	for _, blob := range blobs {
		writeFile(t, blob, "{}")
	}
	if _, err := client.Verify(t.Context(), "oci:"+path+":v1", trusts(signer), modelsig.VerifyOptions{}); err == nil {
		t.Error("a layout of other blobs verifies")
	}
}

func TestOneClientForManyGoroutines(t *testing.T) {
	r, signer := newRegistry(t), newSigner(t)
	client := new(modelsig.Client)
	for i := range 4 {
		r.put(t, "acme/tiny", fmt.Sprint("v", i), image(rawLayer("x", fmt.Sprint(i))))
	}
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			ref := fmt.Sprintf("%s/acme/tiny:v%d", r.host, i%4)
			if _, err := client.Sign(t.Context(), ref, signer, modelsig.SignOptions{}); err != nil {
				t.Error(err)
				return
			}
			if _, err := client.Verify(t.Context(), ref, trusts(signer), modelsig.VerifyOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

func TestKeyPolicyAndKeySigner(t *testing.T) {
	read := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join("testdata/keys", name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, curve := range []string{"p256", "p384", "p521"} {
		signer, err := modelsig.KeySigner(read(curve+".sec1.pem"), nil)
		if err != nil {
			t.Fatal(err)
		}
		policy, err := modelsig.KeyPolicy(read(curve + ".pub.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if policy.Binding != "" || len(policy.Verifiers) != 1 || policy.Verifiers[0].String() != verifierOf(signer).String() {
			t.Errorf("%s: policy %+v for signer %s", curve, policy, verifierOf(signer))
		}
	}
	if p, err := modelsig.KeyPolicy(); err != nil || len(p.Verifiers) != 0 {
		t.Errorf("no keys: %+v, %v", p, err)
	}
	for _, bad := range [][]byte{nil, read("p256.sec1.pem"), read("refused/rsa1024.pub.pem"), append(read("p256.pub.pem"), read("p384.pub.pem")...)} {
		if p, err := modelsig.KeyPolicy(read("p256.pub.pem"), bad); err == nil || len(p.Verifiers) != 0 {
			t.Errorf("%.30q: got %d verifiers and %v, want none and an error", bad, len(p.Verifiers), err)
		} else if !strings.Contains(err.Error(), "public key 2") {
			t.Errorf("%v does not say which key", err)
		}
	}
	if _, err := modelsig.KeySigner(read("p256.pbkdf2.pem"), nil); err == nil {
		t.Error("an encrypted key without a password was accepted")
	}
}

// verifierOf is what accepts signer, which has its key already, and nobody else.
func verifierOf(signer bundle.Signer) bundle.Verifier {
	v, err := signer.Verifier(context.Background())
	if err != nil {
		panic(err)
	}
	return v
}
