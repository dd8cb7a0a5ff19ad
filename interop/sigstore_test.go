package interop

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Keyless signing on a Sigstore of our own: Fulcio, Rekor v2 and the timestamp
// authority as released, on loopback, and an identity provider for tests.

// who signs here, unless a test says otherwise.
const who = "ci@example.com"

// A sigstore is a running Sigstore, and what people need to use it.
type sigstore struct {
	*provider
	fulcio, rekor, tsa string // URLs
	material           sigstoreMaterial
	trustedRoot        string // a file
	signingConfig      string // a file
}

// sigstoreMaterial is what a trusted root is made of, in files.
type sigstoreMaterial struct{ fulcio, rekor, tsa string }

// startSigstore starts one of its own for a test; it ends with it. There is one
// at a time, as startAuthority says.
func startSigstore(t testing.TB) *sigstore {
	t.Helper()
	return startSigstoreOf(t, 200*time.Millisecond)
}

// startSigstoreOf starts one whose log publishes at this interval.
func startSigstoreOf(t testing.TB, interval time.Duration) *sigstore {
	t.Helper()
	s := &sigstore{provider: newProvider(t)}
	authority := startAuthority(t)
	s.tsa, s.material.tsa = authority.url, authority.chain
	s.startFulcio(t)
	s.startRekor(t, interval)
	s.trustedRoot = s.newTrustedRoot(t, s.material)
	s.signingConfig = newSigningConfig(t, s.fulcio, s.rekor, s.tsa)
	return s
}

func (s *sigstore) startFulcio(t testing.TB) {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "fulcio.json")
	issuers := map[string]any{}
	for name, kind := range issuerTypes {
		issuers[s.issuer(name)] = map[string]string{
			"IssuerURL": s.issuer(name), "ClientID": "sigstore", "Type": kind, "SubjectDomain": "http://127.0.0.1",
		}
	}
	writeFile(t, config, mustJSON(t, map[string]any{"OIDCIssuers": issuers}))
	host := start(t, "/api/v1/rootCert", func(host string) *exec.Cmd {
		name, port := split(t, host)
		_, grpc := split(t, freePort(t))
		_, metrics := split(t, freePort(t))
		return exec.Command(fulcio, "serve", "--ca", "ephemeralca", "--ct-log-url", "", "--config-path", config, "--log_type", "prod",
			"--host", name, "--port", port, "--grpc-host", name, "--grpc-port", grpc, "--metrics-port", metrics,
			"--legacy-unix-domain-socket", filepath.Join(dir, "fulcio.sock"))
	})
	s.fulcio = "http://" + host
	s.material.fulcio = filepath.Join(dir, "fulcio.pem")
	writeFile(t, s.material.fulcio, read(t, s.fulcio+"/api/v1/rootCert"))
}

// logHost is the origin of the log's checkpoints. Verifiers take it from the
// log's URL in the trusted root, without the port.
const logHost = "localhost"

func (s *sigstore) startRekor(t testing.TB, interval time.Duration) {
	t.Helper()
	dir := t.TempDir()
	key := filepath.Join(dir, "rekor.pem")
	s.material.rekor = newLogKey(t, key)
	host := start(t, "/healthz", func(host string) *exec.Cmd {
		name, port := split(t, host)
		_, grpc := split(t, freePort(t))
		_, metrics := split(t, freePort(t))
		return exec.Command(rekor, "serve", "--storage-dir", filepath.Join(dir, "log"), "--signer-filepath", key, "--hostname", logHost,
			"--http-address", name, "--http-port", port, "--grpc-address", name, "--grpc-port", grpc, "--http-metrics-port", metrics,
			"--checkpoint-interval", interval.String(), "--batch-max-age", "100ms")
	})
	s.rekor = "http://" + host
}

// newLogKey writes a log's key to a file, and returns the file with its public
// key.
func newLogKey(t testing.TB, file string) (public string) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	public = file + ".pub"
	writeFile(t, file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	writeFile(t, public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	return public
}

// newTrustedRoot has cosign make one.
func (s *sigstore) newTrustedRoot(t testing.TB, m sigstoreMaterial) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "trusted_root.json")
	_, port := split(t, strings.TrimPrefix(s.rekor, "http://"))
	peer(t, cosign, "trusted-root", "create",
		"--fulcio", "url="+s.fulcio+",certificate-chain="+m.fulcio,
		"--rekor", "url=http://"+logHost+":"+port+",public-key="+m.rekor+",start-time=2024-01-01T00:00:00Z,origin="+logHost,
		"--tsa", "url="+s.tsa+",certificate-chain="+m.tsa, "--out", file)
	return file
}

// newSigningConfig writes the signing config that names these services.
func newSigningConfig(t testing.TB, fulcio, rekor, tsa string) string {
	t.Helper()
	service := func(url string, version int) []any {
		return []any{map[string]any{"url": url, "majorApiVersion": version, "operator": "interop",
			"validFor": map[string]string{"start": "2024-01-01T00:00:00Z"}}}
	}
	file := filepath.Join(t.TempDir(), "signing_config.json")
	writeFile(t, file, mustJSON(t, map[string]any{
		"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
		"caUrls":    service(fulcio, 1), "rekorTlogUrls": service(rekor, 2), "tsaUrls": service(tsa, 1),
		"rekorTlogConfig": map[string]string{"selector": "ANY"}, "tsaConfig": map[string]string{"selector": "ANY"},
	}))
	return file
}

// signs is modelsig's sign with this Sigstore and a token, of a target.
func (s *sigstore) signs(t testing.TB, token, target string, flags ...string) command {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	writeFile(t, file, []byte(token))
	args := []string{modelsig, "sign", "sigstore", target, "--trusted-root", s.trustedRoot, "--signing-config", s.signingConfig, "--identity-token-file", file}
	return command{args: append(args, flags...), dir: t.TempDir()}
}

// verifies is modelsig's verify of who with this Sigstore.
func (s *sigstore) verifies(target string, flags ...string) command {
	args := []string{modelsig, "verify", "sigstore", target, "--trusted-root", s.trustedRoot,
		"--identity", who, "--identity-provider", s.issuer("mail")}
	return command{args: append(args, flags...)}
}

// cosignSigns has cosign sign an artifact with this Sigstore.
func (s *sigstore) cosignSigns(t testing.TB, token, ref string) command {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	writeFile(t, file, []byte(token))
	return command{args: []string{cosign, "sign", "--signing-config", s.signingConfig, "--trusted-root", s.trustedRoot,
		"--identity-token", file, "--allow-http-registry", "--yes", ref}}
}

// cosignVerifies has cosign verify who's signature of an artifact.
func (s *sigstore) cosignVerifies(ref string) command {
	return command{args: []string{cosign, "verify", "--trusted-root", s.trustedRoot, "--certificate-identity", who,
		"--certificate-oidc-issuer", s.issuer("mail"), "--insecure-ignore-sct", "--allow-http-registry", ref}}
}

// issuerTypes are the identity providers that Fulcio knows here, by the name
// in their URL, and how it reads their tokens.
var issuerTypes = map[string]string{"mail": "email", "uri": "uri", "github": "github-workflow", "gitlab": "gitlab-pipeline"}

// A provider is an OIDC identity provider whose tokens say whatever a test
// wants; it plays several, one below each path.
type provider struct {
	url string
	key *ecdsa.PrivateKey
}

func newProvider(t testing.TB) *provider {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{key: key}
	keys := keySet(t, key)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{name}/.well-known/openid-configuration", func(w http.ResponseWriter, req *http.Request) {
		issuer := p.issuer(req.PathValue("name"))
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"issuer":%q,"authorization_endpoint":%q,"token_endpoint":%q,"jwks_uri":%q,"response_types_supported":["code"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256"]}`,
			issuer, issuer+"/auth", issuer+"/token", p.url+"/keys")
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(keys)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

func (p *provider) issuer(name string) string { return p.url + "/" + name }

// token is one by an issuer, for Fulcio, of now, with other claims in place of
// these.
func (p *provider) token(t testing.TB, name string, claims map[string]any) string {
	t.Helper()
	now := time.Now()
	all := map[string]any{"iss": p.issuer(name), "aud": "sigstore", "sub": who,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(10 * time.Minute).Unix()}
	maps.Copy(all, claims)
	token, err := signJWT(p.key, all)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// mail is a token for somebody with an e-mail address.
func (p *provider) mail(t testing.TB, address string) string {
	t.Helper()
	return p.token(t, "mail", map[string]any{"sub": address, "email": address, "email_verified": true})
}

func split(t testing.TB, host string) (name, port string) {
	t.Helper()
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		t.Fatal(err)
	}
	return name, port
}

// read gets a small document from a server, which must answer 200.
func read(t testing.TB, url string) []byte {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, res.Status, err)
	}
	return body
}

// foreignTo returns roots that are like this Sigstore's but for one service,
// which is another of its kind.
func (s *sigstore) foreignTo(t *testing.T, other sigstoreMaterial) map[string]string {
	t.Helper()
	roots := map[string]string{}
	for name, m := range map[string]sigstoreMaterial{
		"a foreign certificate authority": {other.fulcio, s.material.rekor, s.material.tsa},
		"a foreign log":                   {s.material.fulcio, other.rekor, s.material.tsa},
		"a foreign timestamp authority":   {s.material.fulcio, s.material.rekor, other.tsa},
	} {
		roots[name] = s.newTrustedRoot(t, m)
	}
	return roots
}

// anotherSigstore is the material of one that has ended.
func anotherSigstore(t *testing.T) (m sigstoreMaterial) {
	t.Helper()
	dir := t.TempDir()
	t.Run("another Sigstore", func(t *testing.T) {
		s := startSigstore(t)
		for _, f := range []struct {
			from string
			to   *string
		}{{s.material.fulcio, &m.fulcio}, {s.material.rekor, &m.rekor}, {s.material.tsa, &m.tsa}} {
			*f.to = filepath.Join(dir, filepath.Base(f.from))
			data, err := os.ReadFile(f.from)
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, *f.to, data)
		}
	})
	return m
}

// What cosign signs with an identity modelsig verifies, and only for that
// identity, by that provider, on that Sigstore. The same holds for its own.
func TestAnIdentityAndItsSigstoreAreDemanded(t *testing.T) {
	other := anotherSigstore(t)
	s := startSigstore(t)
	r := startDistribution(t, "")
	signers := map[string]func(ref string) command{
		"cosign":   func(ref string) command { return s.cosignSigns(t, s.mail(t, who), ref) },
		"modelsig": func(ref string) command { return s.signs(t, s.mail(t, who), ref) },
	}
	roots := s.foreignTo(t, other)
	for signer, sign := range signers {
		t.Run(signer, func(t *testing.T) {
			ref, _ := push(t, r, "acme/"+signer, signer)
			s.verifies(ref).want(t, 1) // unsigned
			sign(ref).want(t, 0)
			s.verifies(ref).want(t, 0)
			s.cosignVerifies(ref).want(t, 0)

			refused := func(name string, c command, wants ...string) {
				t.Run(name, func(t *testing.T) {
					got := c.want(t, 1)
					for _, want := range wants {
						if !strings.Contains(got.stdout+got.stderr, want) {
							t.Errorf("the answer does not say %q:\n%s%s", want, got.stdout, got.stderr)
						}
					}
				})
			}
			verify := []string{modelsig, "verify", "sigstore", ref, "--trusted-root"}
			identity := []string{"--identity", who, "--identity-provider", s.issuer("mail")}
			refused("another identity", command{args: append(verify, s.trustedRoot, "--identity", "eve@example.com", "--identity-provider", s.issuer("mail"))},
				"eve@example.com", who)
			refused("another provider", command{args: append(verify, s.trustedRoot, "--identity", who, "--identity-provider", "https://accounts.example.com")},
				"https://accounts.example.com", s.issuer("mail"))
			for name, root := range roots {
				_, service, _ := strings.Cut(name, "a foreign ")
				words := map[string]string{"certificate authority": "certificate", "log": "log", "timestamp authority": "timestamp"}
				refused(name, command{args: append(append(verify, root), identity...)}, words[service])
			}
		})
	}
}
