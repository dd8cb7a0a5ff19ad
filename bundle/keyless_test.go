package bundle_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
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

// answering gives everybody the same.
func answering(code int, contentType, body string) func(http.Handler) http.Handler {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(code)
			_, _ = w.Write([]byte(body)) // the client went away
		})
	}
}

// edited changes the JSON of an answer.
func edited(edit func(answer map[string]any)) func(http.Handler) http.Handler {
	return func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			recorded := httptest.NewRecorder()
			honest.ServeHTTP(recorded, r)
			var answer map[string]any
			decoder := json.NewDecoder(recorded.Body)
			decoder.UseNumber()
			if err := decoder.Decode(&answer); err != nil {
				panic(err) // the fake is wrong
			}
			edit(answer)
			maps.Copy(w.Header(), recorded.Header())
			w.WriteHeader(recorded.Code)
			_, _ = w.Write(fakesigstore.JSON(answer)) // the client went away
		})
	}
}

// entryOf is the one entry in an answer of Rekor v1.
func entryOf(answer map[string]any) map[string]any {
	for _, e := range answer {
		return e.(map[string]any)
	}
	panic("no entry")
}

func drop(names ...string) func(map[string]any) {
	return func(answer map[string]any) {
		for _, name := range names {
			delete(answer, name)
		}
	}
}

// refused signs, and demands an error of one line with these texts, that does not tell the token.
func (k *stack) refused(t *testing.T, texts ...string) {
	t.Helper()
	var tokens []string
	signer, err := bundle.NewSigstoreSigner(k.client, k.trusted(t, nil), k.config(t, nil), func(context.Context) (string, error) {
		tokens = append(tokens, k.issuer.Mail(k.who))
		return tokens[len(tokens)-1], nil
	})
	if err != nil {
		t.Fatal(err)
	}
	bundles, err := signer.Sign(t.Context(), []byte(payload), []byte("another"))
	if err == nil || bundles != nil {
		t.Fatalf("signed: %v, %v", bundles, err)
	}
	t.Log(err)
	for _, text := range append(texts, "sign with sigstore: ") {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error does not say %q: %v", text, err)
		}
	}
	if strings.ContainsAny(err.Error(), "\n\r\x1b") || len(err.Error()) > 1000 {
		t.Errorf("not one short line: %q", err)
	}
	for _, token := range tokens {
		for _, part := range strings.Split(token, ".") {
			if strings.Contains(err.Error(), part[:min(len(part), 20)]) {
				t.Errorf("the error tells the token: %v", err)
			}
		}
	}
}

// Each service fails in each way that servers do. The error names it and its address.
func TestServicesThatFail(t *testing.T) {
	long := strings.Repeat("x", 2<<20)
	hows := map[string]struct {
		with func(http.Handler) http.Handler
		text string // "": any
	}{
		"answers 400":                    {fakesigstore.Status(400), `status 400: "broken by a test"`},
		"answers 409":                    {fakesigstore.Status(409), ""},
		"answers 429":                    {fakesigstore.Status(429), `status 429: "broken by a test"`},
		"answers 500":                    {fakesigstore.Status(500), `status 500: "broken by a test"`},
		"answers 500 without a word":     {answering(500, "text/plain", ""), "status 500"},
		"answers 502 with a page":        {answering(502, "text/html", "<h1>\n\x1b[31mBad gateway</h1>"), `\x1b[31m`},
		"answers 500 at length":          {answering(500, "text/plain", long), "status 500"},
		"drops the connection":           {fakesigstore.Drop, "EOF"},
		"breaks off":                     {fakesigstore.Truncate, ""},
		"answers nothing":                {answering(200, "application/json", ""), ""},
		"answers no JSON":                {answering(200, "application/json", "\x1b[31m{"), ""},
		"answers another JSON":           {answering(200, "application/json", `{"a":[]}`), ""},
		"answers null":                   {answering(201, "application/json", `null`), ""},
		"answers 2 MiB":                  {answering(200, "application/json", `{"a":"`+long+`"}`), ""},
		"answers 2 MiB of another type":  {answering(200, "text/plain", long), ""},
		"answers 204":                    {answering(204, "", ""), ""},
		"answers with foreign line ends": {answering(400, "application/json", `{"message":"a\nb"}`), `a\nb`},
	}
	for kind, set := range map[string]func(*fakesigstore.Sigstore){"Rekor v2": nil, "Rekor v1": rekorV1} {
		k := newStack(t, set)
		for service, name := range map[string]string{
			fakesigstore.Fulcio: fmt.Sprintf("certificate authority %q: ", k.servers.Fulcio),
			fakesigstore.Rekor:  fmt.Sprintf("transparency log %q: ", k.servers.Rekor),
			fakesigstore.TSA:    fmt.Sprintf("timestamp authority %q: ", k.servers.TSA),
		} {
			for how, broken := range hows {
				t.Run(kind+"/"+service+"/"+how, func(t *testing.T) {
					texts := []string{name, broken.text}
					if service == fakesigstore.TSA {
						texts = texts[:1] // it speaks no JSON, and what it says is not repeated
					}
					logged := k.servers.Requests(fakesigstore.Rekor)
					k.servers.Break(service, broken.with)
					k.refused(t, texts...)
					k.servers.Break(service, nil)
					if n := k.servers.Requests(fakesigstore.Rekor) - logged; service == fakesigstore.Fulcio && n != 0 {
						t.Errorf("the log got %d requests without a certificate", n)
					}
				})
			}
		}
		if _, err := k.signer(t, nil).Sign(t.Context(), []byte(payload)); err != nil {
			t.Errorf("repaired: %v", err)
		}
	}
}

// Each answer is as the protocols want it, and somebody else's or for something else.
func TestServicesThatAnswerForAnother(t *testing.T) {
	const foreignToken = "a token of a foreign authority"
	stranger := newStack(t, nil)
	type broken struct {
		service string
		with    func(k *stack) func(http.Handler) http.Handler
		text    string
		timed   bool // wrong only at the time that log and authority prove, which needs them: our clock need not be theirs
	}
	as := func(service string) func(k *stack) func(http.Handler) http.Handler {
		return func(k *stack) func(http.Handler) http.Handler { return stranger.As(service, k.issuer) }
	}
	with := func(edit func(s *fakesigstore.Sigstore)) func(k *stack) func(http.Handler) http.Handler {
		return func(k *stack) func(http.Handler) http.Handler {
			s := *k.Sigstore
			edit(&s)
			return s.As(fakesigstore.Fulcio, k.issuer)
		}
	}
	template := func(edit func(leaf *x509.Certificate)) func(k *stack) func(http.Handler) http.Handler {
		return with(func(s *fakesigstore.Sigstore) { s.Template = edit })
	}
	// What another got who signed before.
	replayed := func(service string) func(k *stack) func(http.Handler) http.Handler {
		return func(k *stack) func(http.Handler) http.Handler {
			k.servers.Break(service, fakesigstore.Replay)
			k.who = bob
			if _, err := k.signer(t, nil).Sign(t.Context(), []byte(payload)); err != nil {
				t.Fatal(err)
			}
			k.who = alice
			return nil // it stays
		}
	}
	entry := func(edit func(entry map[string]any)) func(k *stack) func(http.Handler) http.Handler {
		return func(k *stack) func(http.Handler) http.Handler {
			return edited(func(answer map[string]any) {
				if k.RekorV1 {
					answer = entryOf(answer)
				}
				edit(answer)
			})
		}
	}
	ago := func(leaf *x509.Certificate, begin, end time.Duration) {
		leaf.NotBefore, leaf.NotAfter = time.Now().Add(begin), time.Now().Add(end)
	}
	for name, tt := range map[string]broken{
		"a certificate by a foreign authority":      {fakesigstore.Fulcio, as(fakesigstore.Fulcio), "not by an authority of the trusted root", false},
		"a certificate that no certificate log saw": {fakesigstore.Fulcio, with(func(s *fakesigstore.Sigstore) { s.NoSCT = true }), "in no certificate log", false},
		"a certificate that a foreign log saw":      {fakesigstore.Fulcio, with(func(s *fakesigstore.Sigstore) { s.CTKey = stranger.CTKey }), "in no certificate log", false},
		"a certificate for another key":             {fakesigstore.Fulcio, replayed(fakesigstore.Fulcio), "not for the key that was sent", false},
		"a certificate for servers":                 {fakesigstore.Fulcio, template(func(leaf *x509.Certificate) { leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "not for signing code", false},
		"a certificate without a name":              {fakesigstore.Fulcio, template(func(leaf *x509.Certificate) { leaf.EmailAddresses = nil }), "", false},
		"a certificate without an issuer":           {fakesigstore.Fulcio, template(func(leaf *x509.Certificate) { leaf.ExtraExtensions = nil }), "", false},
		"a certificate that has ended":              {fakesigstore.Fulcio, template(func(leaf *x509.Certificate) { ago(leaf, -time.Hour, -50*time.Minute) }), "valid", true},
		"a certificate that has not begun":          {fakesigstore.Fulcio, template(func(leaf *x509.Certificate) { ago(leaf, time.Hour, 2*time.Hour) }), "valid", true},
		"an entry of a foreign log":                 {fakesigstore.Rekor, as(fakesigstore.Rekor), "", false},
		"another's entry":                           {fakesigstore.Rekor, replayed(fakesigstore.Rekor), "", false},
		"an entry without a proof":                  {fakesigstore.Rekor, entry(drop("inclusionProof", "verification")), "", false},
		"an entry without a body":                   {fakesigstore.Rekor, entry(drop("canonicalizedBody", "body")), "", false},
		"an entry that the answer does not name":    {fakesigstore.Rekor, renamedEntry, "", false},
		"an entry without the log's name":           {fakesigstore.Rekor, entry(drop("logId", "logID")), "", false},
		// By Rekor v1 it would do no harm: see below.
		foreignToken:              {fakesigstore.TSA, as(fakesigstore.TSA), "", false},
		"another's token":         {fakesigstore.TSA, replayed(fakesigstore.TSA), "", false},
		"no certificates":         {fakesigstore.Fulcio, func(*stack) func(http.Handler) http.Handler { return edited(func(a map[string]any) { clear(a) }) }, "", false},
		"a certificate in no PEM": {fakesigstore.Fulcio, chainOf("text"), "", false},
		"a certificate in PEM that is no certificate": {fakesigstore.Fulcio, chainOf(string(fakesigstore.CertificatePEM([]byte("text")))), "", false},
	} {
		for kind, set := range map[string]func(*fakesigstore.Sigstore){"Rekor v2": nil, "Rekor v1": rekorV1} {
			if name == foreignToken && set != nil {
				continue
			}
			t.Run(name+"/"+kind, func(t *testing.T) {
				k := newStack(t, set)
				if how := tt.with(k); how != nil {
					k.servers.Break(tt.service, how)
				}
				logged := k.servers.Requests(fakesigstore.Rekor)
				k.refused(t, tt.text)
				if n := k.servers.Requests(fakesigstore.Rekor) - logged; tt.service == fakesigstore.Fulcio && !tt.timed && n != 0 {
					t.Errorf("the log got %d requests for a certificate that nobody accepts", n)
				}
			})
		}
	}
}

// renamedEntry is what Rekor v1 must not do: its header names the entry. By Rekor v2 it is an entry of no kind.
func renamedEntry(*stack) func(http.Handler) http.Handler {
	return edited(func(answer map[string]any) {
		delete(answer, "kindVersion")
		for name, entry := range answer {
			if entry, ok := entry.(map[string]any); ok && entry["integratedTime"] != nil {
				delete(answer, name)
				answer["00"] = entry
			}
		}
	})
}

// Bodies that are as strange as JSON can be must not end the process.
func TestALogThatAnswersStrangeBodies(t *testing.T) {
	for _, body := range []string{
		``, `null`, `[]`, `{}`, `{"kind":"dsse"}`, `{"apiVersion":"0.0.1","kind":"dsse"}`, `{"apiVersion":"0.0.1","kind":"dsse","spec":null}`,
		`{"apiVersion":"0.0.1","kind":"dsse","spec":{"envelopeHash":{},"payloadHash":{},"signatures":[null]}}`,
		`{"apiVersion":"0.0.1","kind":"dsse","spec":{"proposedContent":{"envelope":"{\"signatures\":[{}]}","verifiers":[null]}}}`,
		`{"apiVersion":"0.0.2","kind":"intoto","spec":{"content":{"envelope":{"signatures":[null]},"payloadHash":null}}}`,
		`{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{},"signature":{"publicKey":null}}}`,
		`{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"signature":{"verifier":{}}}}}`,
	} {
		for kind, set := range map[string]func(*fakesigstore.Sigstore){"Rekor v2": nil, "Rekor v1": rekorV1} {
			t.Run(kind+"/"+body, func(t *testing.T) {
				k := newStack(t, set)
				k.servers.Break(fakesigstore.Rekor, edited(func(answer map[string]any) {
					if k.RekorV1 {
						entryOf(answer)["body"] = []byte(body)
					} else {
						answer["canonicalizedBody"] = []byte(body)
					}
				}))
				k.refused(t)
			})
		}
	}
}

// What was asked for has to count, though a log by Rekor v1 proves the time by itself.
func TestAForeignTokenIsNoTimestamp(t *testing.T) {
	for kind, set := range map[string]func(*fakesigstore.Sigstore){"Rekor v2": nil, "Rekor v1": rekorV1} {
		t.Run(kind, func(t *testing.T) {
			k := newStack(t, set)
			k.servers.Break(fakesigstore.TSA, newStack(t, nil).As(fakesigstore.TSA))
			texts := []string{}
			if kind == "Rekor v1" { // under v2 nobody proves the time, which is said first
				texts = append(texts, fmt.Sprintf("timestamp authority %q: its token proves no time", k.servers.TSA))
			}
			k.refused(t, texts...)
		})
	}
}

// Of two logs one that the root does not know is one too few.
func TestEachLogHasToBeKnown(t *testing.T) {
	k, other := newStack(t, rekorV1), newStack(t, rekorV1)
	both := func(config fakesigstore.Object) {
		first := config["rekorTlogUrls"].([]fakesigstore.Object)[0]
		second := maps.Clone(first)
		second["url"], second["operator"] = other.servers.Rekor, "another"
		config["rekorTlogUrls"] = []fakesigstore.Object{first, second}
		config["rekorTlogConfig"] = fakesigstore.Object{"selector": "ALL"}
	}
	_, err := k.signer(t, both).Sign(t.Context(), []byte(payload))
	if want := fmt.Sprintf("transparency log %q: ", other.servers.Rekor); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "in none of them") {
		t.Errorf("got %v", err)
	}
}

// once lets only the first request be answered in another way.
func once(with func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	return func(honest http.Handler) http.Handler {
		first := make(chan struct{}, 1)
		first <- struct{}{}
		other := with(honest)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-first:
				other.ServeHTTP(w, r)
			default:
				honest.ServeHTTP(w, r)
			}
		})
	}
}

// lostAnswer logs an entry and answers as if it had been asked before.
func lostAnswer(honest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(err) // the client is wrong
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		honest.ServeHTTP(httptest.NewRecorder(), r)
		r.Body = io.NopCloser(bytes.NewReader(body))
		honest.ServeHTTP(w, r)
	})
}

// The log has the entry from an answer that got lost, or gave it up with another's: the signature is made again, or looked up.
func TestAnEntryThatIsThereAlready(t *testing.T) {
	for name, tt := range map[string]struct {
		set        func(*fakesigstore.Sigstore)
		with       func(http.Handler) http.Handler
		rekor, tsa int // requests
	}{
		"Rekor v1 has it":     {rekorV1, lostAnswer, 2, 1},
		"Rekor v2 has it":     {nil, lostAnswer, 2, 2},
		"Rekor v2 gave it up": {nil, fakesigstore.Status(499), 2, 2},
	} {
		t.Run(name, func(t *testing.T) {
			k := newStack(t, tt.set)
			k.servers.Break(fakesigstore.Rekor, once(tt.with))
			bundles, err := k.signer(t, nil).Sign(t.Context(), []byte(payload))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := open(bundles[0].JSON(), k.verifier(t, alice)); err != nil {
				t.Error(err)
			}
			k.asked(t, 1, tt.rekor, tt.tsa)
		})
	}
}

func chainOf(text string) func(*stack) func(http.Handler) http.Handler {
	return func(*stack) func(http.Handler) http.Handler {
		return edited(func(answer map[string]any) {
			for _, kind := range answer {
				kind.(map[string]any)["chain"] = map[string]any{"certificates": []string{text}}
			}
		})
	}
}

func TestErrorsDoNotRepeatATokenThatTheAuthorityRepeats(t *testing.T) {
	k := newStack(t, nil)
	k.servers.Break(fakesigstore.Fulcio, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write(fakesigstore.JSON(map[string]any{"code": 3, "message": "not liked: " + strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")}))
		})
	})
	k.refused(t, "repeat")
}

// A token is for the one who was named, whatever its client does with redirects.
func TestNoServiceIsFollowedElsewhere(t *testing.T) {
	for name, client := range map[string]*http.Client{
		"a client that follows":           {},
		"a client that does not":          {CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		"a client that makes it an error": {CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("no redirects") }},
	} {
		for _, service := range []string{fakesigstore.Fulcio, fakesigstore.Rekor, fakesigstore.TSA} {
			for kind, set := range map[string]func(*fakesigstore.Sigstore){"Rekor v2": nil, "Rekor v1": rekorV1} {
				t.Run(name+"/"+service+"/"+kind, func(t *testing.T) {
					k := newStack(t, set)
					k.client = client
					elsewhere := 0
					thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { elsewhere++ }))
					defer thief.Close()
					k.servers.Break(service, func(http.Handler) http.Handler {
						return http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect)
					})
					k.refused(t)
					if elsewhere != 0 {
						t.Errorf("%d requests went elsewhere", elsewhere)
					}
				})
			}
		}
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
	} {
		if s, err := try(); err == nil || s != nil {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
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
