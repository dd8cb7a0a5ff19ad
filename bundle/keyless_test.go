package bundle_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/e2e/fakesigstore"
)

const (
	alice = "alice@example.com"
	bob   = "bob@example.com"
)

// A stack is a Sigstore on loopback, and what signs with it.
type stack struct {
	*fakesigstore.Sigstore
	servers *fakesigstore.Servers
	issuer  *fakesigstore.Issuer
	client  *http.Client
	who     string
	tokens  int // given
}

// newStack starts one after the edit of its settings; nil: Rekor v2 with a certificate log.
func newStack(t testing.TB, edit func(*fakesigstore.Sigstore)) *stack {
	t.Helper()
	k := &stack{Sigstore: fakesigstore.New(t), issuer: fakesigstore.NewIssuer(t), client: &http.Client{}, who: alice}
	if edit != nil {
		edit(k.Sigstore)
	}
	k.servers = k.Serve(k.issuer)
	return k
}

func (k *stack) token(context.Context) (string, error) {
	k.tokens++
	return k.issuer.Mail(k.who), nil
}

// signer signs with all that the config names, once edited; nil: as it is.
func (k *stack) signer(t testing.TB, edit func(config fakesigstore.Object)) bundle.Signer {
	t.Helper()
	s, err := bundle.NewSigstoreSigner(k.client, k.trusted(t, nil), k.config(t, edit), k.token)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (k *stack) trusted(t testing.TB, edit func(root fakesigstore.Object)) *bundle.TrustedRoot {
	t.Helper()
	root, err := bundle.ParseTrustedRoot(k.TrustedRoot(edit))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func (k *stack) config(t testing.TB, edit func(config fakesigstore.Object)) *bundle.SigningConfig {
	t.Helper()
	config, err := bundle.ParseSigningConfig(k.servers.SigningConfig(edit))
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// verifier accepts a subject whom the stack's issuer vouched for.
func (k *stack) verifier(t testing.TB, subject string) bundle.Verifier {
	t.Helper()
	v, err := bundle.NewSigstoreVerifier(k.trusted(t, nil), bundle.SigstoreIdentity{Subject: subject, Issuer: k.issuer.URL})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// asked demands how many requests each service has got.
func (k *stack) asked(t *testing.T, fulcio, rekor, tsa int) {
	t.Helper()
	for service, want := range map[string]int{fakesigstore.Fulcio: fulcio, fakesigstore.Rekor: rekor, fakesigstore.TSA: tsa} {
		if got := k.servers.Requests(service); got != want {
			t.Errorf("%s got %d requests, not %d", service, got, want)
		}
	}
}

// materialOf is what a bundle says of its signature.
func materialOf(t testing.TB, b *bundle.Bundle) fakesigstore.Material {
	t.Helper()
	var wire fakesigstore.Bundle
	if err := json.Unmarshal(b.JSON(), &wire); err != nil {
		t.Fatal(err)
	}
	if wire.Material.Certificate == nil {
		t.Fatal("no certificate")
	}
	return wire.Material
}

func rekorV1(s *fakesigstore.Sigstore) { s.RekorV1 = true }

// stacks are the kinds of Sigstore that there are.
var stacks = map[string]func(s *fakesigstore.Sigstore){
	"Rekor v2":                           nil,
	"Rekor v1":                           rekorV1,
	"Rekor v2 without a certificate log": func(s *fakesigstore.Sigstore) { s.NoCT = true },
	"Rekor v1 without a certificate log": func(s *fakesigstore.Sigstore) { s.NoCT, s.RekorV1 = true, true },
}

func TestSigningWithAnIdentity(t *testing.T) {
	for name, set := range stacks {
		t.Run(name, func(t *testing.T) {
			k := newStack(t, set)
			begin := time.Now().Truncate(time.Second)
			signer := k.signer(t, nil)
			k.asked(t, 0, 0, 0)
			payloads := [][]byte{[]byte(payload), []byte(strings.Replace(payload, `"m"`, `"n"`, 1))}
			one, err := signer.Sign(t.Context(), payloads[0])
			if err != nil {
				t.Fatal(err)
			}
			k.asked(t, 1, 1, 1)
			two, err := signer.Sign(t.Context(), payloads...)
			if err != nil {
				t.Fatal(err)
			}
			k.asked(t, 1, 3, 3)
			if k.tokens != 1 {
				t.Errorf("%d tokens were asked for", k.tokens)
			}
			if len(one) != 1 || len(two) != 2 {
				t.Fatalf("%d and %d bundles", len(one), len(two))
			}
			certificate := materialOf(t, one[0]).Certificate.RawBytes
			for i, b := range []*bundle.Bundle{one[0], two[0], two[1]} {
				m := materialOf(t, b)
				if !bytes.Equal(m.Certificate.RawBytes, certificate) || len(m.Entries) != 1 || len(m.Timestamps.Tokens) != 1 {
					t.Errorf("bundle %d: another certificate, %d entries, %d tokens", i, len(m.Entries), len(m.Timestamps.Tokens))
				}
				got, err := open(b.JSON(), k.verifier(t, alice))
				if err != nil {
					t.Errorf("bundle %d: %v", i, err)
					continue
				}
				source := bundle.TimeTimestamp
				if k.RekorV1 {
					source = bundle.TimeLog
				}
				want := bundle.Identity{Method: bundle.MethodSigstore, Subject: alice, Issuer: k.issuer.URL}
				if got.Signer != want || got.TimeSource != source || got.Time.Before(begin) || got.Time.After(time.Now()) {
					t.Errorf("bundle %d: %+v", i, got.Proof)
				}
				if signed := payloads[max(0, i-1)]; !bytes.Equal(got.Payload, signed) {
					t.Errorf("bundle %d has another payload: %s", i, got.Payload)
				}
				for who, other := range map[string]bundle.Verifier{
					"somebody else":    k.verifier(t, bob),
					"another Sigstore": newStack(t, set).verifier(t, alice),
				} {
					if _, err := open(b.JSON(), other); !errors.Is(err, bundle.ErrUntrusted) {
						t.Errorf("bundle %d, %s: %v", i, who, err)
					}
				}
			}
		})
	}
}

// together holds answers until so many requests have come, and refuses more: it cannot be passed one after the other.
func together(n int) func(http.Handler) http.Handler {
	var mu sync.Mutex
	all := make(chan struct{})
	return func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			n--
			if n == 0 {
				close(all)
			}
			late := n < 0
			mu.Unlock()
			if late {
				http.Error(w, "asked too often", http.StatusTooManyRequests)
				return
			}
			<-all
			honest.ServeHTTP(w, r)
		})
	}
}

// Two payloads, two logs and two authorities: eight requests, no two of which wait for one another.
func TestAllServicesAreAskedAtOnce(t *testing.T) {
	for name, set := range map[string]func(*fakesigstore.Sigstore){"Rekor v2": nil, "Rekor v1": rekorV1} {
		t.Run(name, func(t *testing.T) {
			k, other := newStack(t, set), newStack(t, set)
			hold := together(8)
			for _, v := range []*fakesigstore.Servers{k.servers, other.servers} {
				v.Break(fakesigstore.Rekor, hold)
				v.Break(fakesigstore.TSA, hold)
			}
			add := func(root fakesigstore.Object, name string, from []byte) {
				var theirs fakesigstore.Object
				if err := json.Unmarshal(from, &theirs); err != nil {
					t.Fatal(err)
				}
				for _, one := range theirs[name].([]any) {
					one := one.(fakesigstore.Object)
					if _, ok := one["operator"]; ok {
						one["operator"] = "another"
					}
					root[name] = append(root[name].([]fakesigstore.Object), one)
				}
			}
			trusted := k.trusted(t, func(root fakesigstore.Object) {
				add(root, "tlogs", other.TrustedRoot(nil))
				add(root, "timestampAuthorities", other.TrustedRoot(nil))
			})
			config := k.config(t, func(config fakesigstore.Object) {
				add(config, "rekorTlogUrls", other.servers.SigningConfig(nil))
				add(config, "tsaUrls", other.servers.SigningConfig(nil))
				config["rekorTlogConfig"] = fakesigstore.Object{"selector": "ALL"}
				config["tsaConfig"] = fakesigstore.Object{"selector": "EXACT", "count": 2}
			})
			signer, err := bundle.NewSigstoreSigner(k.client, trusted, config, k.token)
			if err != nil {
				t.Fatal(err)
			}
			bundles, err := signer.Sign(t.Context(), []byte(payload), []byte("another"))
			if err != nil {
				t.Fatal(err)
			}
			k.asked(t, 1, 2, 2)
			other.asked(t, 0, 2, 2)
			for _, b := range bundles {
				if m := materialOf(t, b); len(m.Entries) != 2 || len(m.Timestamps.Tokens) != 2 {
					t.Errorf("%d entries and %d tokens", len(m.Entries), len(m.Timestamps.Tokens))
				}
			}
		})
	}
}

func TestTheVerifierOfAnIdentityAcceptsWhatItSigns(t *testing.T) {
	k := newStack(t, nil)
	signer := k.signer(t, nil)
	before, err := signer.Verifier(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k.asked(t, 1, 0, 0)
	bundles, err := signer.Sign(t.Context(), []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	after, err := signer.Verifier(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k.asked(t, 1, 1, 1)
	if k.tokens != 1 {
		t.Errorf("%d tokens were asked for", k.tokens)
	}
	// Whoever signs again with another certificate is the same.
	again, err := k.signer(t, nil).Verifier(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k.who = bob
	others, err := k.signer(t, nil).Verifier(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]bundle.Verifier{"before": before, "after": after, "again": again} {
		if _, err := open(bundles[0].JSON(), v); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := open(bundles[0].JSON(), others); !errors.Is(err, bundle.ErrUntrusted) {
		t.Errorf("another's: %v", err)
	}
}

func TestACertificateThatIsAboutToEndIsNotUsedAgain(t *testing.T) {
	k := newStack(t, func(s *fakesigstore.Sigstore) {
		s.Template = func(leaf *x509.Certificate) { leaf.NotAfter = leaf.NotBefore.Add(50 * time.Second) }
	})
	signer := k.signer(t, nil)
	for range 2 {
		bundles, err := signer.Sign(t.Context(), []byte(payload), []byte("another"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(materialOf(t, bundles[0]).Certificate.RawBytes, materialOf(t, bundles[1]).Certificate.RawBytes) {
			t.Error("two certificates in one act")
		}
	}
	k.asked(t, 2, 4, 4)
	if k.tokens != 2 {
		t.Errorf("%d tokens were asked for", k.tokens)
	}
}

func TestTheCertificateMayBeForWhomTheAuthoritySays(t *testing.T) {
	k := newStack(t, func(s *fakesigstore.Sigstore) {
		s.Template = func(leaf *x509.Certificate) { leaf.EmailAddresses = []string{bob} }
	})
	bundles, err := k.signer(t, nil).Sign(t.Context(), []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(bundles[0].JSON(), k.verifier(t, bob)); err != nil {
		t.Error(err)
	}
	if _, err := open(bundles[0].JSON(), k.verifier(t, alice)); !errors.Is(err, bundle.ErrUntrusted) {
		t.Errorf("for whom the token was: %v", err)
	}
}

// A recorder is a transport that notes what goes through it.
type recorder struct {
	mu       sync.Mutex
	requests map[string]int // by URL
	strays   int            // without the context's value
}

type mark struct{}

func (c *recorder) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.requests[r.URL.String()]++
	if r.Context().Value(mark{}) == nil {
		c.strays++
	}
	c.mu.Unlock()
	return http.DefaultTransport.RoundTrip(r)
}

func TestAllRequestsGoThroughTheClientWithTheContext(t *testing.T) {
	for name, set := range map[string]func(*fakesigstore.Sigstore){"Rekor v2": nil, "Rekor v1": rekorV1} {
		t.Run(name, func(t *testing.T) {
			k := newStack(t, set)
			recorder := &recorder{requests: map[string]int{}}
			k.client = &http.Client{Transport: recorder}
			ctx := context.WithValue(t.Context(), mark{}, true)
			// The slash that addresses may end with makes no other address.
			signer := k.signer(t, func(config fakesigstore.Object) {
				for _, name := range []string{"caUrls", "rekorTlogUrls"} {
					service := config[name].([]fakesigstore.Object)[0]
					service["url"] = service["url"].(string) + "/"
				}
			})
			if _, err := signer.Sign(ctx, []byte(payload), []byte("another")); err != nil {
				t.Fatal(err)
			}
			log := k.servers.Rekor + "/api/v2/log/entries"
			if k.RekorV1 {
				log = k.servers.Rekor + "/api/v1/log/entries"
			}
			want := map[string]int{k.servers.Fulcio + "/api/v2/signingCert": 1, log: 2, k.servers.TSA: 2}
			if !maps.Equal(recorder.requests, want) || recorder.strays != 0 {
				t.Errorf("asked %v, not %v; %d without the context", recorder.requests, want, recorder.strays)
			}
			k.asked(t, 1, 2, 2)
		})
	}
}

func TestTimestampsAreTheSigningConfigs(t *testing.T) {
	k, other := newStack(t, nil), newStack(t, nil)
	doubled, err := bundle.WithTimestamps(k.signer(t, nil), k.client, other.servers.TSA)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := doubled.Sign(t.Context(), []byte(payload)); err == nil || !strings.Contains(err.Error(), "a timestamp already") {
		t.Errorf("a second timestamp: %v", err)
	}
	k.servers.Break(fakesigstore.TSA, fakesigstore.Status(http.StatusInternalServerError))
	config, err := k.config(t, nil).WithTimestampAuthority(other.servers.TSA)
	if err != nil {
		t.Fatal(err)
	}
	trusted := k.trusted(t, func(root fakesigstore.Object) {
		var theirs fakesigstore.Object
		if err := json.Unmarshal(other.TrustedRoot(nil), &theirs); err != nil {
			t.Fatal(err)
		}
		root["timestampAuthorities"] = theirs["timestampAuthorities"]
	})
	signer, err := bundle.NewSigstoreSigner(k.client, trusted, config, k.token)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signer.Sign(t.Context(), []byte(payload)); err != nil {
		t.Error(err)
	}
	if n := other.servers.Requests(fakesigstore.TSA); n != 1 {
		t.Errorf("the other authority got %d requests", n)
	}
	// One that the root does not know proves nothing.
	if signer, err = bundle.NewSigstoreSigner(k.client, k.trusted(t, nil), config, k.token); err != nil {
		t.Fatal(err)
	}
	if _, err := signer.Sign(t.Context(), []byte(payload)); err == nil {
		t.Error("a foreign authority's token passed")
	}
}

func TestSigningEndsWithItsContext(t *testing.T) {
	enough := errors.New("enough")
	for kind, set := range map[string]func(*fakesigstore.Sigstore){"Rekor v2": nil, "Rekor v1": rekorV1} {
		for _, service := range []string{fakesigstore.Fulcio, fakesigstore.Rekor, fakesigstore.TSA} {
			t.Run(kind+"/"+service, func(t *testing.T) {
				k := newStack(t, set)
				ctx, leave := context.WithCancelCause(t.Context())
				k.servers.Break(service, func(honest http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						leave(enough)
						fakesigstore.Hang(honest).ServeHTTP(w, r)
					})
				})
				if _, err := k.signer(t, nil).Sign(ctx, []byte(payload)); !errors.Is(err, enough) {
					t.Errorf("got %v", err)
				}
				k.servers.Break(service, nil)
				if _, err := k.signer(t, nil).Sign(ctx, []byte(payload)); !errors.Is(err, enough) {
					t.Errorf("with a context that ended before: %v", err)
				}
			})
		}
	}
}

// A signer that failed is none the worse for it.
func TestSigningAgainAfterAFailure(t *testing.T) {
	k := newStack(t, nil)
	signer := k.signer(t, nil)
	for _, service := range []string{fakesigstore.Fulcio, fakesigstore.Rekor, fakesigstore.TSA} {
		k.servers.Break(service, fakesigstore.Status(http.StatusServiceUnavailable))
		if b, err := signer.Sign(t.Context(), []byte(payload)); err == nil || b != nil {
			t.Errorf("%s is broken: %v, %v", service, b, err)
		}
		k.servers.Break(service, nil)
		if _, err := signer.Sign(t.Context(), []byte(payload)); err != nil {
			t.Errorf("%s is repaired: %v", service, err)
		}
	}
}

func TestTheSourceOfTokensMayFail(t *testing.T) {
	k := newStack(t, nil)
	nobody := errors.New("nobody is here")
	for name, source := range map[string]bundle.TokenSource{
		"an error":  func(context.Context) (string, error) { return "", nobody },
		"no token":  func(context.Context) (string, error) { return "", nil },
		"no JWT":    func(context.Context) (string, error) { return "secret", nil },
		"no claims": func(context.Context) (string, error) { return "c2VjcmV0.c2VjcmV0.c2VjcmV0", nil },
	} {
		signer, err := bundle.NewSigstoreSigner(k.client, k.trusted(t, nil), k.config(t, nil), source)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = signer.Sign(t.Context(), []byte(payload)); err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "c2Vj") {
			t.Errorf("%s: %v", name, err)
		} else if name == "an error" && !errors.Is(err, nobody) {
			t.Errorf("%s: %v", name, err)
		}
	}
	k.asked(t, 0, 0, 0)
}

func TestNewSigstoreSignerWantsAllItsParts(t *testing.T) {
	k := newStack(t, nil)
	trusted, config := k.trusted(t, nil), k.config(t, nil)
	for name, try := range map[string]func() (bundle.Signer, error){
		"no client": func() (bundle.Signer, error) { return bundle.NewSigstoreSigner(nil, trusted, config, k.token) },
		"no root":   func() (bundle.Signer, error) { return bundle.NewSigstoreSigner(k.client, nil, config, k.token) },
		"a zero root": func() (bundle.Signer, error) {
			return bundle.NewSigstoreSigner(k.client, &bundle.TrustedRoot{}, config, k.token)
		},
		"no config": func() (bundle.Signer, error) { return bundle.NewSigstoreSigner(k.client, trusted, nil, k.token) },
		"a zero config": func() (bundle.Signer, error) {
			return bundle.NewSigstoreSigner(k.client, trusted, &bundle.SigningConfig{}, k.token)
		},
		"no tokens": func() (bundle.Signer, error) { return bundle.NewSigstoreSigner(k.client, trusted, config, nil) },
		"a root without the authority for timestamps": func() (bundle.Signer, error) {
			bare := k.trusted(t, func(root fakesigstore.Object) { delete(root, "timestampAuthorities") })
			return bundle.NewSigstoreSigner(k.client, bare, config, k.token)
		},
	} {
		if s, err := try(); err == nil || s != nil {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	k.asked(t, 0, 0, 0)
}

func TestSigningNothing(t *testing.T) {
	k := newStack(t, nil)
	if bundles, err := k.signer(t, nil).Sign(t.Context()); err != nil || len(bundles) != 0 {
		t.Errorf("%v, %v", bundles, err)
	}
	k.asked(t, k.servers.Requests(fakesigstore.Fulcio), 0, 0)
}

// One signer may be used by many at once; they have one certificate.
func TestManySignAtOnce(t *testing.T) {
	k := newStack(t, nil)
	signer := k.signer(t, nil)
	var group sync.WaitGroup
	all := make([][]*bundle.Bundle, 4)
	for i := range all {
		group.Go(func() {
			var err error
			if all[i], err = signer.Sign(t.Context(), fmt.Appendf(nil, "payload %d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	certificates := map[string]bool{}
	for _, b := range slices.Concat(all...) {
		certificates[string(materialOf(t, b).Certificate.RawBytes)] = true
	}
	if len(certificates) != 1 || k.tokens != 1 {
		t.Errorf("%d certificates for %d tokens", len(certificates), k.tokens)
	}
}
