package bundle_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/e2e/fakesigstore"
)

// A tufServer is a TUF repository with one key for all roles. Attacks are edits of its files.
type tufServer struct {
	*httptest.Server
	t     *testing.T
	key   ed25519.PrivateKey
	root  []byte
	mu    sync.Mutex
	files map[string][]byte
	asked int
	serve http.HandlerFunc // in place of the files
}

func newTUFServer(t *testing.T) *tufServer {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &tufServer{t: t, key: key, files: map[string][]byte{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked++
		data, ok := s.files[r.URL.Path]
		serve := s.serve
		s.mu.Unlock()
		switch {
		case serve != nil:
			serve(w, r)
		case !ok:
			http.NotFound(w, r)
		default:
			_, _ = w.Write(data)
		}
	}))
	t.Cleanup(s.Close)
	s.root = signRoot(t, 1, key, key)
	s.publish(1, time.Now().Add(time.Hour), map[string][]byte{
		"trusted_root.json":        fakesigstore.New(t).TrustedRoot(nil),
		"signing_config.v0.2.json": []byte(`{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json"}`),
	})
	return s
}

func tufSign[T metadata.Roles](t *testing.T, m *metadata.Metadata[T], keys ...ed25519.PrivateKey) []byte {
	t.Helper()
	for _, key := range keys {
		signer, err := signature.LoadSigner(key, crypto.Hash(0))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Sign(signer); err != nil {
			t.Fatal(err)
		}
	}
	data, err := m.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// signRoot makes root metadata that gives all roles to key.
func signRoot(t *testing.T, version int64, key ed25519.PrivateKey, signers ...ed25519.PrivateKey) []byte {
	t.Helper()
	root := metadata.Root(time.Now().Add(time.Hour))
	root.Signed.Version = version
	public, err := metadata.KeyFromPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		if err := root.Signed.AddKey(public, role); err != nil {
			t.Fatal(err)
		}
	}
	return tufSign(t, root, signers...)
}

// publish signs a version of everything but the root.
func (s *tufServer) publish(version int64, until time.Time, files map[string][]byte) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	targets := metadata.Targets(time.Now().Add(time.Hour))
	targets.Signed.Version = version
	for name, data := range files {
		info, err := metadata.TargetFile().FromBytes(name, data, "sha256")
		if err != nil {
			s.t.Fatal(err)
		}
		targets.Signed.Targets[name] = info
		sum := sha256.Sum256(data)
		s.files["/targets/"+hex.EncodeToString(sum[:])+"."+name] = data
	}
	s.files[fmt.Sprintf("/%d.targets.json", version)] = tufSign(s.t, targets, s.key)
	snapshot := metadata.Snapshot(time.Now().Add(time.Hour))
	snapshot.Signed.Version = version
	snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(version)
	s.files[fmt.Sprintf("/%d.snapshot.json", version)] = tufSign(s.t, snapshot, s.key)
	timestamp := metadata.Timestamp(until)
	timestamp.Signed.Version = version
	timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(version)
	s.files["/timestamp.json"] = tufSign(s.t, timestamp, s.key)
}

func (s *tufServer) fetch(o bundle.TUFOptions) error {
	root, err := bundle.FetchTrustedRoot(context.Background(), s.Client(), bundle.TUFRepository{URL: s.URL, Root: s.root}, o)
	if (root == nil) != (err != nil) {
		s.t.Errorf("a root or an error, not %v and %v", root, err)
	}
	return err
}

func (s *tufServer) answer(f http.HandlerFunc) { s.mu.Lock(); s.serve = f; s.mu.Unlock() }

func (s *tufServer) requests() int { s.mu.Lock(); defer s.mu.Unlock(); return s.asked }

// forget makes a cache two days old.
func (s *tufServer) forget(cache string) {
	config := tuf.Config{LastTimestamp: time.Now().Add(-48 * time.Hour)}
	if err := config.Persist(filepath.Join(cache, tuf.URLToPath(s.URL)+".json")); err != nil {
		s.t.Fatal(err)
	}
}

func refusedTrust(t *testing.T, err error, unreachable bool) {
	t.Helper()
	if err == nil || errors.Is(err, bundle.ErrTrustUnreachable) != unreachable || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want an error that is unreachable: %v", err, unreachable)
	}
}

const day = 24 * time.Hour

func TestTrustIsFetchedOnceADay(t *testing.T) {
	s := newTUFServer(t)
	o := bundle.TUFOptions{Cache: filepath.Join(t.TempDir(), "a", "b"), MaxAge: day}
	if _, _, err := bundle.FetchTrust(t.Context(), s.Client(), bundle.TUFRepository{URL: s.URL, Root: s.root}, o); err != nil {
		t.Fatal(err)
	}
	before := s.requests()
	if err := s.fetch(o); err != nil || s.requests() != before {
		t.Errorf("within a day: %v, %d requests", err, s.requests()-before)
	}
	s.forget(o.Cache)
	if err := s.fetch(o); err != nil || s.requests() == before {
		t.Errorf("after a day: %v, no request", err)
	}
	s.Close()
	if err := s.fetch(o); err != nil {
		t.Errorf("offline within a day: %v", err)
	}
	s.forget(o.Cache)
	refusedTrust(t, s.fetch(o), true)
	refusedTrust(t, s.fetch(bundle.TUFOptions{}), true)
	left, err := filepath.Glob(filepath.Join(o.Cache, ".modelsig-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestExpiredTrustIsNoFallback(t *testing.T) {
	s := newTUFServer(t)
	o := bundle.TUFOptions{Cache: t.TempDir(), MaxAge: day}
	if err := s.fetch(o); err != nil {
		t.Fatal(err)
	}
	s.publish(1, time.Now().Add(-time.Minute), nil)
	expired := s.files["/timestamp.json"]
	refusedTrust(t, s.fetch(bundle.TUFOptions{}), false)
	if err := os.WriteFile(filepath.Join(o.Cache, tuf.URLToPath(s.URL), "timestamp.json"), expired, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Close()
	refusedTrust(t, s.fetch(o), true)
}

func TestDamagedTrustIsFetchedAgain(t *testing.T) {
	s := newTUFServer(t)
	o := bundle.TUFOptions{Cache: t.TempDir(), MaxAge: day}
	dir := filepath.Join(o.Cache, tuf.URLToPath(s.URL))
	names := []string{"timestamp.json", "snapshot.json", "targets.json", "targets/trusted_root.json"}
	for _, name := range names {
		if err := s.fetch(o); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, name), 20); err != nil {
			t.Fatal(err)
		}
		if err := s.fetch(o); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.Close()
	if err := os.Truncate(filepath.Join(dir, "timestamp.json"), 20); err != nil {
		t.Fatal(err)
	}
	refusedTrust(t, s.fetch(o), true)
}

func TestTrustThatIsWrongIsRefused(t *testing.T) {
	for name, edit := range map[string]func(s *tufServer){
		"another root": func(s *tufServer) { s.root = newTUFServer(s.t).root },
		"a rollback":   func(s *tufServer) { s.publish(1, time.Now().Add(time.Hour), nil) },
		"a target swapped": func(s *tufServer) {
			for name, data := range s.files {
				if strings.HasSuffix(name, "trusted_root.json") {
					s.files[name] = []byte(strings.Repeat("x", len(data)))
				}
			}
		},
		"a root that its predecessor did not sign": func(s *tufServer) {
			other := newTUFServer(s.t).key
			s.files["/2.root.json"] = signRoot(s.t, 2, other, other)
		},
		"no trusted root": func(s *tufServer) { s.publish(3, time.Now().Add(time.Hour), nil) },
		"a huge answer":   func(s *tufServer) { s.files["/timestamp.json"] = make([]byte, 1<<20) },
		"no metadata":     func(s *tufServer) { s.files["/timestamp.json"] = []byte("<html>\n") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newTUFServer(t)
			s.publish(2, time.Now().Add(time.Hour), map[string][]byte{"trusted_root.json": fakesigstore.New(t).TrustedRoot(nil)})
			o := bundle.TUFOptions{Cache: t.TempDir()}
			if name == "a rollback" {
				if err := s.fetch(o); err != nil {
					t.Fatal(err)
				}
			}
			edit(s)
			refusedTrust(t, s.fetch(o), false)
		})
	}
}

func TestTrustThatIsNotGivenIsUnreachable(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"500": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("{"))
		},
		"a redirect to http": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTUFServer(t)
			s.answer(answer)
			refusedTrust(t, s.fetch(bundle.TUFOptions{}), true)
		})
	}
}

func TestTrustObeysItsContext(t *testing.T) {
	s := newTUFServer(t)
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	s.answer(func(_ http.ResponseWriter, r *http.Request) {
		cancel(cause)
		<-r.Context().Done()
	})
	if _, err := bundle.FetchTrustedRoot(ctx, s.Client(), bundle.TUFRepository{URL: s.URL, Root: s.root}, bundle.TUFOptions{}); !errors.Is(err, cause) {
		t.Errorf("got %v, want the cause", err)
	}
}

func TestTrustFollowsRootRotation(t *testing.T) {
	s := newTUFServer(t)
	old, trusted := s.key, fakesigstore.New(t).TrustedRoot(nil)
	_, s.key, _ = ed25519.GenerateKey(nil)
	s.files["/2.root.json"] = signRoot(t, 2, s.key, old, s.key)
	s.publish(2, time.Now().Add(time.Hour), map[string][]byte{"trusted_root.json": trusted})
	o := bundle.TUFOptions{Cache: t.TempDir(), MaxAge: day}
	for range 2 {
		if err := s.fetch(o); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := bundle.FetchTrust(t.Context(), s.Client(), bundle.TUFRepository{URL: s.URL, Root: s.root}, o); err == nil {
		t.Error("a repository without a signing config has one")
	}
}

func TestTrustWithoutAFolderThatCanBeWritten(t *testing.T) {
	s := newTUFServer(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.fetch(bundle.TUFOptions{Cache: filepath.Join(file, "cache"), MaxAge: day}); err != nil {
		t.Error(err)
	}
}

func TestManyFetchTrustIntoOneFolder(t *testing.T) {
	s := newTUFServer(t)
	cache := t.TempDir()
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			if err := s.fetch(bundle.TUFOptions{Cache: cache, MaxAge: time.Duration(i%2) * day}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}
