package interop

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// What people sign with an identity, and what happens when it cannot be.

// A gate stands in front of a server, and notes what the server is asked.
type gate struct {
	url string

	mu    sync.Mutex
	asked []string // METHOD PATH
}

func (g *gate) requests() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.asked)
}

// writes are the requests that would change something.
func (g *gate) writes() []string {
	return slices.DeleteFunc(g.requests(), func(r string) bool {
		return strings.HasPrefix(r, http.MethodGet+" ") || strings.HasPrefix(r, http.MethodHead+" ")
	})
}

// newGate lets everything pass to a server, or hands all of it to fault.
func newGate(t testing.TB, server string, fault http.HandlerFunc) *gate {
	t.Helper()
	to, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{}
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(&url.URL{Scheme: to.Scheme, Host: to.Host})
		p.Out.Host = p.In.Host
	}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		g.mu.Lock()
		g.asked = append(g.asked, req.Method+" "+req.URL.Path)
		g.mu.Unlock()
		if fault != nil {
			fault(w, req)
			return
		}
		proxy.ServeHTTP(w, req)
	}))
	t.Cleanup(front.Close)
	g.url = front.URL + to.Path
	return g
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "out of order", code) }
}

func says(contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, body)
	}
}

// faults are what a server may do instead of its work.
var faults = map[string]http.HandlerFunc{
	"answers 500":          status(http.StatusInternalServerError),
	"answers 502":          status(http.StatusBadGateway),
	"answers 403":          status(http.StatusForbidden),
	"answers nothing":      says("application/json", ""),
	"answers garbage":      says("application/json", "\x00\xff<html>"),
	"answers another JSON": says("application/json", `{"hello":"world"}`),
	"answers half": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "4096")
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, `{"signedCertificate`)
	},
	"hangs up": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	"hangs": func(_ http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		<-req.Context().Done()
	},
}

// A workplace is where a command runs that must leave nothing behind.
type workplace struct{ dir, tmp string }

func newWorkplace(t testing.TB) workplace { return workplace{t.TempDir(), t.TempDir()} }

func (w workplace) in(c command) command {
	c.dir, c.env = w.dir, append(c.env, "TMPDIR="+w.tmp)
	return c
}

// untouched demands that it left nothing.
func (w workplace) untouched(t testing.TB) {
	t.Helper()
	for _, dir := range []string{w.dir, w.tmp} {
		if files := tree(t, dir); len(files) != 0 {
			t.Errorf("left behind: %v", files)
		}
	}
}

// oneError demands one error that names something.
func oneError(t testing.TB, r result, name string) {
	t.Helper()
	if n := strings.Count("\n"+r.stderr, "\nerror:"); n != 1 || r.stdout != "" || !strings.Contains(r.stderr, name) {
		t.Errorf("want one error about %s, and no answer:\nstdout: %s\nstderr: %s", name, r.stdout, r.stderr)
	}
}

// Whichever server fails, and however: one error names it, and nothing is
// attached or written.
func TestNothingIsSignedWhenAServerFails(t *testing.T) {
	s := startSigstore(t)
	r := startDistribution(t, "")
	ref, dir := push(t, r, "acme/faults", "faults")
	before := tree(t, dir)
	token := s.mail(t, who)
	services := []string{"fulcio", "rekor", "tsa"}
	real := map[string]string{"fulcio": s.fulcio, "rekor": s.rekor, "tsa": s.tsa}
	for _, service := range services {
		for name, fault := range faults {
			t.Run(service+" "+name, func(t *testing.T) {
				broken := newGate(t, real[service], fault)
				failsToSign(t, s, r, ref, dir, service, broken.url, strings.TrimPrefix(broken.url, "http://"), token)
				if len(broken.requests()) == 0 {
					t.Error("the server was not asked")
				}
			})
		}
		t.Run(service+" is not there", func(t *testing.T) {
			nobody, err := url.Parse(real[service])
			if err != nil {
				t.Fatal(err)
			}
			nobody.Host = freePort(t)
			failsToSign(t, s, r, ref, dir, service, nobody.String(), nobody.Host, token)
		})
	}
	t.Cleanup(func() {
		if after := tree(t, dir); len(after) != len(before) {
			t.Error("the folder changed")
		}
	})
}

// failsToSign signs an artifact and a folder with a service at another URL, in
// vain.
func failsToSign(t *testing.T, s *sigstore, r registryServer, ref, dir, service, at, says, token string) {
	t.Helper()
	registry := newGate(t, "http://"+r.host, nil)
	_, path, _ := strings.Cut(ref, "/")
	for _, target := range []string{strings.TrimPrefix(registry.url, "http://") + "/" + path, dir} {
		urls := map[string]string{"fulcio": s.fulcio, "rekor": s.rekor, "tsa": s.tsa}
		urls[service] = at
		w := newWorkplace(t)
		c := s.signs(t, token, target, "--timeout", "2s")
		c.args[slices.Index(c.args, s.signingConfig)] = newSigningConfig(t, urls["fulcio"], urls["rekor"], urls["tsa"])
		oneError(t, w.in(c).want(t, 2), says)
		w.untouched(t)
	}
	if writes := registry.writes(); len(writes) != 0 {
		t.Errorf("the registry was asked to write: %v", writes)
	}
	if service == "tsa" {
		// A log fails all entries of a batch of which a client gives up one: who
		// gets no timestamp must not take the entries of others along.
		s.signs(t, token, dir, "--signature", filepath.Join(t.TempDir(), "model.sig")).want(t, 0)
	}
}

// A token that no certificate can come of is refused before anybody is asked;
// one that the authority does not take, before anything is logged or attached.
func TestATokenThatIsNotGoodSignsNothing(t *testing.T) {
	s := startSigstore(t)
	r := startDistribution(t, "")
	ref, dir := push(t, r, "acme/tokens", "tokens")
	past := time.Now().Add(-time.Hour)
	mail := map[string]any{"email": who, "email_verified": true}
	with := func(claims map[string]any) map[string]any {
		for name, value := range mail {
			claims[name] = value
		}
		return claims
	}
	for _, row := range []struct {
		name, token string
		asks        bool // only the authority can know
		says        string
	}{
		{"for another audience", s.token(t, "mail", with(map[string]any{"aud": "kubernetes"})), false, "kubernetes"},
		{"expired", s.token(t, "mail", with(map[string]any{"iat": past.Unix() - 600, "nbf": past.Unix() - 600, "exp": past.Unix()})), false, "expired"},
		{"not a JWT", "opaque", false, "token"},
		{"empty", "", false, "token"},
		{"by an unknown provider", s.token(t, "mail", with(map[string]any{"iss": s.url + "/stranger"})), true, "certificate authority"},
		{"of an address that nobody verified", s.token(t, "mail", map[string]any{"email": who, "email_verified": false}), false, "email_verified"},
		{"by somebody else's key", forge(t, s.mail(t, who)), true, "certificate authority"},
	} {
		t.Run(row.name, func(t *testing.T) {
			vainly(t, s, r, ref, dir, row.asks, row.says, func(target string) command { return s.signs(t, row.token, target) })
		})
	}
	t.Run("none, and no terminal", func(t *testing.T) {
		vainly(t, s, r, ref, dir, false, "token", func(target string) command {
			return command{args: []string{modelsig, "sign", target, "--trusted-root", s.trustedRoot, "--signing-config", s.signingConfig}}
		})
	})
}

// forge changes the signature of a token.
func forge(t testing.TB, token string) string {
	t.Helper()
	at := strings.LastIndex(token, ".") + 1
	other := byte('A')
	if token[at] == other {
		other = 'B'
	}
	return token[:at] + string(other) + token[at+1:]
}

// vainly signs an artifact and a folder, which must fail; the authority alone
// may be asked, if asks.
func vainly(t *testing.T, s *sigstore, r registryServer, ref, dir string, asks bool, says string, sign func(target string) command) {
	t.Helper()
	ca, log, tsa, registry := newGate(t, s.fulcio, nil), newGate(t, s.rekor, nil), newGate(t, s.tsa, nil), newGate(t, "http://"+r.host, nil)
	config := newSigningConfig(t, ca.url, log.url, tsa.url)
	_, path, _ := strings.Cut(ref, "/")
	for _, target := range []string{strings.TrimPrefix(registry.url, "http://") + "/" + path, dir} {
		w := newWorkplace(t)
		c := sign(target)
		c.args[slices.Index(c.args, s.signingConfig)] = config
		oneError(t, w.in(c).want(t, 2), says)
		w.untouched(t)
	}
	if n := len(log.requests()) + len(tsa.requests()) + len(registry.writes()); n != 0 {
		t.Errorf("%d requests to log and timestamp authority, or to write: %v", n, registry.writes())
	}
	if n := len(ca.requests()); asks != (n > 0) {
		t.Errorf("the certificate authority was asked %d times", n)
	}
	if n := len(registry.requests()); !asks && n != 0 {
		t.Errorf("the registry was asked: %v", registry.requests())
	}
}

// Every kind of target is signed with an identity and verifies.
func TestAnIdentitySignsEveryKindOfTarget(t *testing.T) {
	s := startSigstore(t)
	work := t.TempDir()
	dir := newModel(t, "folder")
	single := filepath.Join(dir, "model.safetensors")
	layout := "oci:" + filepath.Join(work, "layout") + ":v1"
	r := startDistribution(t, "")
	ref, _ := push(t, r, "acme/manifest", "manifest")
	repository, digest, _ := strings.Cut(ref, "@")
	peer(t, crane, "pull", "--format", "oci", ref, filepath.Join(work, "layout"))
	manifest := filepath.Join(work, "manifest.json")
	writeFile(t, manifest, r.get(t, strings.TrimPrefix(repository, r.host+"/"), digest))
	layout = strings.TrimSuffix(layout, ":v1")

	for name, target := range map[string]string{"a folder": dir, "a single file": single, "a manifest": manifest} {
		t.Run(name, func(t *testing.T) {
			signature := filepath.Join(t.TempDir(), "model.sig")
			s.signs(t, s.mail(t, who), target, "--signature", signature).want(t, 0)
			s.verifies(target, "--signature", signature).want(t, 0)
			if err := os.WriteFile(target+".other", []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			s.verifies(target+".other", "--signature", signature).want(t, 1)
		})
	}
	t.Run("an image layout", func(t *testing.T) {
		s.signs(t, s.mail(t, who), layout).want(t, 0)
		s.verifies(layout).want(t, 0)
	})
	registries := func(t *testing.T, test func(t *testing.T, r registryServer)) {
		eachRegistry(t, "", test)
		t.Run("a registry with the Referrers API", func(t *testing.T) {
			test(t, registryServer{start(t, "/v2/", func(host string) *exec.Cmd {
				return exec.Command(modelsig, "registry", "--listen", host)
			})})
		})
	}
	registries(t, func(t *testing.T, r registryServer) {
		ref, _ := push(t, r, "acme/keyless", t.Name())
		signature := filepath.Join(t.TempDir(), "model.sig")
		said := decode[struct{ Schema string }](t, []byte(s.signs(t, s.mail(t, who), ref, "--signature", signature, "--format", "json").want(t, 0).stdout))
		if said.Schema != "modelsig/sign/v1" {
			t.Errorf("the answer has the schema %q", said.Schema)
		}
		got := decode[identified](t, []byte(s.verifies(ref, "--format", "json").want(t, 0).stdout))
		if got.Verdict != "verified" || got.Binding != "manifest-digest" || len(got.Signers) != 2 {
			t.Errorf("verify: %+v", got)
		}
		for _, signer := range got.Signers {
			if signer.Method != "sigstore" || signer.Identity != who || signer.Issuer != s.issuer("mail") || signer.Time == "" {
				t.Errorf("signer: %+v", signer)
			}
		}
		s.cosignVerifies(ref).want(t, 0)
		s.verifies(ref, "--signature", signature).want(t, 0)

		// Signing again asks for a certificate, adds nothing, and logs nothing.
		log := newGate(t, s.rekor, nil)
		again := s.signs(t, s.mail(t, who), ref)
		again.args[slices.Index(again.args, s.signingConfig)] = newSigningConfig(t, s.fulcio, log.url, s.tsa)
		again.want(t, 0)
		if n := len(log.requests()); n != 0 {
			t.Errorf("signing again made %d requests to the log", n)
		}
		if after := decode[identified](t, []byte(s.verifies(ref, "--format", "json").want(t, 0).stdout)); len(after.Signers) != 2 {
			t.Errorf("after signing again: %+v", after)
		}
	})
}

// identified is what verify says of signers with an identity.
type identified struct {
	Verdict, Binding string
	Signers          []struct{ Kind, Method, Identity, Issuer, Time, TimeSource, Referrer string }
}

// Both bundles of one act carry one certificate, and each its own log entry.
func TestOneActHasOneCertificate(t *testing.T) {
	s := startSigstore(t)
	r := startDistribution(t, "")
	ref, _ := push(t, r, "acme/one", "one")
	s.signs(t, s.mail(t, who), ref).want(t, 0)
	var certificates, entries []string
	for _, digest := range fallback(t, r, "acme/one", ref) {
		manifest := decode[struct{ Layers []struct{ Digest string } }](t, r.get(t, "acme/one", digest))
		b := decode[map[string]any](t, read(t, "http://"+r.host+"/v2/acme/one/blobs/"+manifest.Layers[0].Digest))
		material := b["verificationMaterial"].(map[string]any)
		certificates = append(certificates, fmt.Sprint(material["certificate"]))
		entries = append(entries, fmt.Sprint(material["tlogEntries"]))
	}
	if len(certificates) != 2 || certificates[0] != certificates[1] || entries[0] == entries[1] {
		t.Errorf("certificates %v\nentries %v", certificates, entries)
	}
}

// A bundle by the real servers counts only whole and unmixed.
func TestPartsOfABundleDoNotCount(t *testing.T) {
	s := startSigstore(t)
	dir := newModel(t, "parts")
	sign := func(target string) map[string]any {
		file := filepath.Join(t.TempDir(), "model.sig")
		s.signs(t, s.mail(t, who), target, "--signature", file).want(t, 0)
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return decode[map[string]any](t, data)
	}
	good, other, again := sign(dir), sign(newModel(t, "another")), sign(dir)
	at := func(b map[string]any, path ...any) any {
		var v any = b
		for _, p := range path {
			if i, ok := p.(int); ok {
				v = v.([]any)[i]
			} else {
				v = v.(map[string]any)[p.(string)]
			}
		}
		return v
	}
	const vm = "verificationMaterial"
	// take replaces one part by the same part of another bundle.
	take := func(from map[string]any, path ...any) func(map[string]any) {
		return func(b map[string]any) {
			last := len(path) - 1
			at(b, path[:last]...).(map[string]any)[path[last].(string)] = at(from, path...)
		}
	}
	r := startDistribution(t, "")
	ref := strings.TrimSpace(run(t, 0, "push", dir, r.host+"/acme/parts:v1", "--format", "ref").stdout)
	for name, part := range map[string]struct {
		edit   func(map[string]any)
		reason string // "": none
	}{
		"unchanged":                           {func(map[string]any) {}, ""},
		"without the log entry":               {func(b map[string]any) { delete(b[vm].(map[string]any), "tlogEntries") }, "no entry of a transparency log"},
		"without the timestamp":               {func(b map[string]any) { delete(b[vm].(map[string]any), "timestampVerificationData") }, "nobody proves when the signature was made"},
		"without the proof":                   {func(b map[string]any) { delete(at(b, vm, "tlogEntries", 0).(map[string]any), "inclusionProof") }, "no inclusion proof"},
		"another bundle's entry":              {take(other, vm, "tlogEntries"), "the entry is about another signature"},
		"another bundle's proof":              {take(other, vm, "tlogEntries", 0, "inclusionProof"), "no transparency log of the trusted root proves the signature"},
		"another bundle's checkpoint":         {take(other, vm, "tlogEntries", 0, "inclusionProof", "checkpoint"), "no transparency log of the trusted root proves the signature"},
		"another bundle's timestamp":          {take(other, vm, "timestampVerificationData"), "nobody proves when the signature was made"},
		"another bundle's payload":            {take(other, "dsseEnvelope", "payload"), "did not make this signature"},
		"another bundle's signature":          {take(other, "dsseEnvelope", "signatures"), "did not make this signature"},
		"another certificate of the same one": {take(again, vm, "certificate"), "did not make this signature"},
		"another bundle": {func(b map[string]any) {
			clear(b)
			for k, v := range other {
				b[k] = v
			}
		}, "files-differ"},
	} {
		t.Run(name, func(t *testing.T) {
			data := mustJSON(t, good)
			b := decode[map[string]any](t, data)
			part.edit(b)
			want := 1
			if part.reason == "" {
				want = 0
			} else if bytes.Equal(mustJSON(t, b), data) {
				t.Fatal("the edit changed nothing")
			}
			file := filepath.Join(t.TempDir(), "model.sig")
			writeFile(t, file, mustJSON(t, b))
			for _, target := range []string{dir, ref} {
				if out := s.verifies(target, "--signature", file).want(t, want).stdout; !strings.Contains(out, part.reason) {
					t.Errorf("%s: no %q in %s", target, part.reason, out)
				}
			}
		})
	}
}

// A registry that takes no signature any more is said to have failed, though
// all else went well.
func TestARegistryThatTakesNoSignatureIsAnError(t *testing.T) {
	s := startSigstore(t)
	r := startDistribution(t, "")
	ref, _ := push(t, r, "acme/refusing", "refusing")
	behind := newGate(t, "http://"+r.host, nil)
	to, err := url.Parse(behind.url)
	if err != nil {
		t.Fatal(err)
	}
	reads := httputil.NewSingleHostReverseProxy(to)
	front := newGate(t, "http://"+r.host, func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodGet || req.Method == http.MethodHead {
			reads.ServeHTTP(w, req)
			return
		}
		panic(http.ErrAbortHandler) // as a registry does that dies
	})
	_, path, _ := strings.Cut(ref, "/")
	host := strings.TrimPrefix(front.url, "http://")
	w := newWorkplace(t)
	oneError(t, w.in(s.signs(t, s.mail(t, who), host+"/"+path, "--timeout", "5s")).want(t, 2), host)
	w.untouched(t)
	if len(front.writes()) == 0 {
		t.Error("nothing was to be attached")
	}
	s.verifies(ref).want(t, 1) // unsigned
}

// The artifact signature is an attestation to cosign too. The model signature is
// none: its subject is the root of the files, not the manifest.
func TestCosignVerifiesTheArtifactSignatureAsAnAttestation(t *testing.T) {
	s := startSigstore(t)
	r := startDistribution(t, "")
	ref, _ := push(t, r, "acme/attestation", "attestation")
	s.signs(t, s.mail(t, who), ref).want(t, 0)
	verify := s.cosignVerifies(ref)
	verify.args[1] = "verify-attestation"
	verify.args = append(verify.args, "--type", "https://sigstore.dev/cosign/sign/v1")
	verify.want(t, 0)
}
