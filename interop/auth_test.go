package interop

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	user     = "alice"
	password = "correct horse"
	// The bcrypt hash of the password, of the lowest cost: as htpasswd -nbBC 4
	// writes it.
	htpasswd = user + ":$2y$04$JVGj09oIca35MGYNaKiAge/TGLpQPqMTGxj0U9o5d7OVKNSq9uNwW\n"
)

// login is how a person who has the credentials above tells modelsig.
type login struct {
	name  string
	setUp func(t *testing.T, host string) (args, env []string, stdin string)
}

var logins = []login{
	{"Docker's config.json", func(t *testing.T, host string) (_, env []string, _ string) {
		return nil, []string{"DOCKER_CONFIG=" + filepath.Dir(authFile(t, host, password, "config.json"))}, ""
	}},
	{"a Docker credential helper", func(t *testing.T, host string) (_, env []string, _ string) {
		dir := t.TempDir()
		helper := fmt.Sprintf("#!/bin/sh\nread -r host\n[ \"$1\" = get ] && [ \"$host\" = %q ] || { echo 'credentials not found in native keychain'; exit 1; }\necho '{\"ServerURL\":%q,\"Username\":%q,\"Secret\":%q}'\n", host, host, user, password)
		if err := os.WriteFile(filepath.Join(dir, "docker-credential-interop"), []byte(helper), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"credHelpers":{%q:"interop"}}`, host))
		return nil, []string{"DOCKER_CONFIG=" + dir, "PATH=" + dir + string(os.PathListSeparator) + os.Getenv("PATH")}, ""
	}},
	{"Podman's REGISTRY_AUTH_FILE", func(t *testing.T, host string) (_, env []string, _ string) {
		return nil, []string{"REGISTRY_AUTH_FILE=" + authFile(t, host, password, "auth.json")}, ""
	}},
	{"--registry-config", func(t *testing.T, host string) (args, _ []string, _ string) {
		return []string{"--registry-config", authFile(t, host, password, "mine.json")}, nil, ""
	}},
	{"--username and --password-stdin", func(t *testing.T, host string) (args, _ []string, stdin string) {
		return []string{"--username", user, "--password-stdin"}, nil, password + "\n"
	}},
}

// authFile writes a file in the form that Docker and Podman share.
func authFile(t *testing.T, host, password, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	writeFile(t, file, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, auth))
	return file
}

// demandsCredentials runs the main job against a registry that demands the
// credentials above, with each way to give them, and with none and wrong ones.
func demandsCredentials(t *testing.T, r registryServer) {
	key := newKey(t, elliptic.P256())
	signed := ""
	for i, login := range logins {
		t.Run(login.name, func(t *testing.T) {
			args, env, stdin := login.setUp(t, r.host)
			do := func(code int, words ...string) result {
				t.Helper()
				words = append([]string{modelsig}, words...)
				got := command{args: append(words, args...), env: env, stdin: stdin}.want(t, code)
				if strings.Contains(got.stdout+got.stderr, password) {
					t.Errorf("the password is in the output: %s%s", got.stdout, got.stderr)
				}
				return got
			}
			ref := fmt.Sprintf("%s/acme/login-%d:v1", r.host, i)
			do(0, "push", newModel(t, login.name), ref)
			do(1, "verify", "key", ref, "--public-key", key.public) // read in full: unsigned
			do(0, "sign", "key", ref, "--private-key", key.private)
			do(0, "verify", "key", ref, "--public-key", key.public)
			signed = ref
		})
	}

	// A registry that does not let us look has not said "unsigned".
	wrong := authFile(t, r.host, "wrong "+password, "config.json")
	broken := filepath.Join(t.TempDir(), "config.json")
	writeFile(t, broken, []byte(`{"auths":`))
	for name, env := range map[string]string{
		"no credentials":     "DOCKER_CONFIG=" + t.TempDir(),
		"a wrong password":   "DOCKER_CONFIG=" + filepath.Dir(wrong),
		"a broken auth file": "DOCKER_CONFIG=" + filepath.Dir(broken),
	} {
		t.Run(name, func(t *testing.T) {
			for _, words := range [][]string{
				{"verify", "key", signed, "--public-key", key.public},
				{"sign", "key", signed, "--private-key", key.private},
				{"push", newModel(t, name), signed},
				{"list", signed},
			} {
				got := command{args: append([]string{modelsig}, words...), env: []string{env}}.want(t, 2)
				if name != "a broken auth file" && !saysWhy(got.stderr, r.host) {
					t.Errorf("%s: the message does not say why: %s", words[0], got.stderr)
				}
				if name == "a broken auth file" && !strings.Contains(got.stderr, broken) {
					t.Errorf("%s: the message does not name the file: %s", words[0], got.stderr)
				}
				if strings.Contains(got.stdout+got.stderr, password) {
					t.Errorf("%s: the password is in the output", words[0])
				}
			}
		})
	}
}

// saysWhy reports whether a message names the registry and its demand.
func saysWhy(message, host string) bool {
	message = strings.ToLower(message)
	return strings.Contains(message, host) && (strings.Contains(message, "401") ||
		strings.Contains(message, "unauthorized") || strings.Contains(message, "credentials"))
}

func TestARegistryWithPasswords(t *testing.T) {
	file := filepath.Join(t.TempDir(), "htpasswd")
	writeFile(t, file, []byte(htpasswd))
	auth := fmt.Sprintf("auth: {htpasswd: {realm: interop, path: %q}}\n", file)
	eachRegistry(t, auth, demandsCredentials)
}

func TestARegistryWithATokenServer(t *testing.T) {
	tokens := newTokenServer(t)
	r := startDistribution(t, fmt.Sprintf("auth: {token: {realm: %q, service: %s, issuer: %s, jwks: %q}}\n",
		tokens.url+"/token", tokenService, tokenIssuer, tokens.jwks))
	demandsCredentials(t, r)

	tokens.mu.Lock()
	defer tokens.mu.Unlock()
	if tokens.given == 0 {
		t.Error("no token was asked for")
	}
	for scope := range tokens.scopes {
		if !strings.HasPrefix(scope, "repository:acme/login-") {
			t.Errorf("a token was asked for with the scope %q", scope)
		}
		if strings.Contains(scope, "delete") {
			t.Errorf("a token was asked for to delete: %q", scope)
		}
	}
}

const (
	tokenService = "interop"
	tokenIssuer  = "interop-issuer"
	tokenKey     = "interop-key"
	tokenLife    = time.Minute
)

// A tokenServer gives the user above the token that is asked for
// (distribution's "Token Authentication Specification"), and nobody else any.
type tokenServer struct {
	url, jwks string
	key       *ecdsa.PrivateKey

	mu     sync.Mutex
	given  int
	scopes map[string]bool
}

func newTokenServer(t *testing.T) *tokenServer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &tokenServer{key: key, scopes: map[string]bool{}, jwks: filepath.Join(t.TempDir(), "jwks.json")}
	writeFile(t, s.jwks, keySet(t, key))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { s.serve(t, w, req) }))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *tokenServer) serve(t *testing.T, w http.ResponseWriter, req *http.Request) {
	query := req.URL.Query()
	name, pass, _ := req.BasicAuth()
	if req.Method == http.MethodPost { // the OAuth2 form
		if err := req.ParseForm(); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		query = req.PostForm
		name, pass = query.Get("username"), query.Get("password")
	}
	switch {
	case req.URL.Path != "/token" || query.Get("service") != tokenService:
		http.NotFound(w, req)
		return
	case name != user || pass != password:
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
		return
	}
	var access []any
	s.mu.Lock()
	s.given++
	for _, value := range query["scope"] {
		for scope := range strings.FieldsSeq(value) {
			s.scopes[scope] = true
			kind, rest, _ := strings.Cut(scope, ":")
			at := strings.LastIndex(rest, ":")
			if at < 0 {
				continue
			}
			access = append(access, map[string]any{"type": kind, "name": rest[:at], "actions": strings.Split(rest[at+1:], ",")})
		}
	}
	s.mu.Unlock()
	now := time.Now()
	token, err := signJWT(s.key, map[string]any{
		"iss": tokenIssuer, "sub": name, "aud": tokenService, "access": access,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(tokenLife).Unix(),
	})
	if err != nil {
		t.Error(err)
		http.Error(w, "no token", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": int(tokenLife.Seconds())})
}

// signJWT makes an ES256 JSON Web Token: the signature is r and s side by side
// (RFC 7518 §3.4).
func signJWT(key *ecdsa.PrivateKey, claims map[string]any) (string, error) {
	header, err := json.Marshal(map[string]string{"alg": "ES256", "typ": "JWT", "kid": tokenKey})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed := base64URL(header) + "." + base64URL(body)
	digest := sha256.Sum256([]byte(signed))
	x, y, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return "", err
	}
	size := (key.Params().BitSize + 7) / 8
	signature := append(x.FillBytes(make([]byte, size)), y.FillBytes(make([]byte, size))...)
	return signed + "." + base64URL(signature), nil
}

// keySet is the JSON Web Key Set that signJWT's tokens verify with.
func keySet(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	point, err := key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		t.Fatal(err)
	}
	size := (len(point) - 1) / 2
	return mustJSON(t, map[string]any{"keys": []any{map[string]string{
		"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": tokenKey,
		"x": base64URL(point[1 : 1+size]), "y": base64URL(point[1+size:]),
	}}})
}

func base64URL(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSpace(data)
}
