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
	"strings"
	"testing"
	"time"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/e2e/fakesigstore"
)

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
