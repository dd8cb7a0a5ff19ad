package interop

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// What signing and verifying cost: beside cosign on the same registry in the
// same run, and for a large model beside a small one.

// An act is one command on an artifact that was just pushed.
type act struct {
	name    string
	command func(ref string) command
	signed  bool // the artifact is signed beforehand
}

// benchmark times whole processes. Compare the lines of one act. sign signs
// beforehand; wait is the longest random pause before each: where servers do
// things at intervals, a fixed rhythm would favour one of two that take turns.
func benchmark(b *testing.B, r registryServer, sign func(ref string) command, wait time.Duration, acts []act) {
	for _, act := range acts {
		b.Run(act.name, func(b *testing.B) {
			repository := "acme/bench-" + strings.ReplaceAll(act.name, "/", "-")
			for n := 0; b.Loop(); n++ {
				b.StopTimer()
				// Each time an artifact that nobody has signed: signing again
				// would be cheaper.
				ref, _ := push(b, r, repository, fmt.Sprint(act.name, b.N, n, time.Now().UnixNano()))
				if act.signed {
					sign(ref).want(b, 0)
				}
				c := act.command(ref)
				<-time.After(rand.N(wait + 1))
				b.StartTimer()
				c.want(b, 0)
			}
		})
	}
}

// BenchmarkVsCosign signs and verifies with a key.
func BenchmarkVsCosign(b *testing.B) {
	key := newCosignKey(b, curves[0].curve)
	sign := func(ref string) command {
		return command{args: []string{modelsig, "sign", "key", ref, "--private-key", key.private}}
	}
	benchmark(b, startDistribution(b, ""), sign, 0, []act{
		{"sign/modelsig", sign, false},
		{"sign/cosign", func(ref string) command {
			return command{args: []string{cosign, "sign", "--key", key.cosign, "--yes", "--allow-http-registry",
				"--use-signing-config=false", "--tlog-upload=false", ref}}
		}, false},
		{"verify/modelsig", func(ref string) command {
			return command{args: []string{modelsig, "verify", "key", ref, "--public-key", key.public}}
		}, true},
		{"verify/cosign", func(ref string) command { return cosignVerify(key, ref) }, true},
	})
}

// BenchmarkIdentityVsCosign signs and verifies with an identity. modelsig makes
// two signatures and cosign one. Most of the time is the log's, which publishes
// once a second.
func BenchmarkIdentityVsCosign(b *testing.B) {
	const interval = time.Second
	s := startSigstoreOf(b, interval)
	sign := func(ref string) command { return s.signs(b, s.mail(b, who), ref) }
	benchmark(b, startDistribution(b, ""), sign, interval, []act{
		{"sign/modelsig", sign, false},
		{"sign/cosign", func(ref string) command { return s.cosignSigns(b, s.mail(b, who), ref) }, false},
		{"verify/modelsig", func(ref string) command { return s.verifies(ref) }, true},
		{"verify/cosign", func(ref string) command { return s.cosignVerifies(ref) }, true},
	})
}

// TestTheCostOfSigningDoesNotGrowWithTheModel signs and verifies a small and a
// large model, counts the bytes on the wire, and prints the times. The bytes
// are demanded: not one layer byte may move. Times are demanded of nobody here
// but the ratio, generously: the machine is shared.
func TestTheCostOfSigningDoesNotGrowWithTheModel(t *testing.T) {
	if testing.Short() {
		t.Skip("pushes a large model")
	}
	const (
		small = 4 << 20
		// slack is what may move beyond manifest, bundles and fallback index:
		// headers are not counted, error bodies and probes are.
		slack = 64 << 10
		tries = 7
	)
	large := int64(1 << 30)
	if *big {
		large = 4 << 30
	}
	r := startRegistry(t, distribution, fmt.Sprintf("storage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}\n", t.TempDir()))
	wire := newWire(t, r)
	key := newKey(t, curves[0].curve)

	type cost struct {
		sign, verify time.Duration
		bytes        int64
	}
	costs := map[int64]cost{}
	for _, size := range []int64{small, large} {
		dir := newModel(t, fmt.Sprint(size))
		weights, err := os.Create(filepath.Join(dir, "weights.bin"))
		if err != nil {
			t.Fatal(err)
		}
		if err := weights.Truncate(size); err != nil { // sparse: costs no disk here
			t.Fatal(err)
		}
		if err := weights.Close(); err != nil {
			t.Fatal(err)
		}
		var c cost
		for i := range tries {
			repository := fmt.Sprintf("acme/cost-%d-%d", size, i)
			if i > 0 { // the registry has the blobs; only the first push moves them
				repository = fmt.Sprintf("acme/cost-%d-0", size)
				writeFile(t, filepath.Join(dir, "README.md"), fmt.Append(nil, "try ", i))
			}
			start := time.Now()
			ref := strings.TrimSpace(run(t, 0, "push", dir, wire.host+"/"+repository+":v1", "--format", "ref").stdout)
			pushed := time.Since(start)
			wire.bytes.Store(0)
			start = time.Now()
			run(t, 0, "sign", "key", ref, "--private-key", key.private)
			sign := time.Since(start)
			start = time.Now()
			run(t, 0, "verify", "key", ref, "--public-key", key.public)
			verify := time.Since(start)
			moved := wire.bytes.Load()
			if i == 0 {
				t.Logf("%10d bytes: push %s, sign %s, verify %s, %d bytes on the wire", size, pushed, sign, verify, moved)
			}
			if i == 0 || sign < c.sign {
				c.sign = sign
			}
			if i == 0 || verify < c.verify {
				c.verify = verify
			}
			c.bytes = max(c.bytes, moved)
		}
		costs[size] = c
	}
	s, l := costs[small], costs[large]
	t.Logf("sign   %s and %s: ratio %.2f", s.sign, l.sign, l.sign.Seconds()/s.sign.Seconds())
	t.Logf("verify %s and %s: ratio %.2f", s.verify, l.verify, l.verify.Seconds()/s.verify.Seconds())
	if l.bytes > s.bytes+slack {
		t.Errorf("signing and verifying moved %d bytes for the small model, %d for the large one", s.bytes, l.bytes)
	}
}

// A wire is a proxy in front of a registry that counts the bytes of bodies in
// both directions.
type wire struct {
	host  string
	bytes atomic.Int64
}

func newWire(t testing.TB, r registryServer) *wire {
	t.Helper()
	w := &wire{}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: r.host})
			p.Out.Host = p.In.Host // so that Location leads here again
			p.Out.Body = w.count(p.Out.Body)
		},
		ModifyResponse: func(res *http.Response) error {
			res.Body = w.count(res.Body)
			return nil
		},
		FlushInterval: -1,
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	w.host = strings.TrimPrefix(server.URL, "http://")
	return w
}

func (w *wire) count(body io.ReadCloser) io.ReadCloser {
	if body == nil || body == http.NoBody {
		return body
	}
	return &counted{ReadCloser: body, total: &w.bytes}
}

type counted struct {
	io.ReadCloser
	total *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.total.Add(int64(n))
	return n, err
}
