// Package fakesigstore is a Sigstore on loopback, for tests: an identity provider, a certificate authority, logs and a timestamp authority that
// obey the protocols of the real ones in all that modelsig relies on. The real ones are in interop.
package fakesigstore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// An Issuer is an OIDC identity provider (OpenID Connect Discovery 1.0) whose tokens say whatever a test wants.
type Issuer struct {
	URL string // also the tokens' iss

	t         testing.TB
	mux       *http.ServeMux
	keys      jose.JSONWebKeySet
	sign      jose.Signer
	discovery map[string]any
}

// NewIssuer starts one; it ends with the test.
func NewIssuer(t testing.TB) *Issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const id = "1"
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	i := &Issuer{t: t, mux: http.NewServeMux(), sign: signer}
	i.keys.Keys = []jose.JSONWebKey{{Key: key.Public(), KeyID: id, Algorithm: string(jose.ES256), Use: "sig"}}
	server := httptest.NewServer(i.mux)
	t.Cleanup(server.Close)
	i.URL = server.URL
	i.discovery = map[string]any{
		"issuer":                                i.URL,
		"authorization_endpoint":                i.URL + "/auth",
		"token_endpoint":                        i.URL + "/token",
		"jwks_uri":                              i.URL + "/keys",
		"response_types_supported":              []string{"code"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{string(jose.ES256)},
		"code_challenge_methods_supported":      []string{"S256"},
	}
	i.mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) { answer(w, i.discovery) })
	i.mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) { answer(w, i.keys) })
	return i
}

// ServeHTTP answers as the server at URL does, for tests that want no network in between.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) { i.mux.ServeHTTP(w, r) }

// Token is an identity token with these claims. Without them it is for audience sigstore, of this issuer, made now, and good for ten minutes.
func (i *Issuer) Token(claims map[string]any) string {
	i.t.Helper()
	now := time.Now()
	all := map[string]any{"iss": i.URL, "aud": "sigstore", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(10 * time.Minute).Unix()}
	maps.Copy(all, claims)
	token, err := jwt.Signed(i.sign).Claims(all).Serialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return token
}

// Mail is a token for somebody with an e-mail address.
func (i *Issuer) Mail(address string) string {
	return i.Token(map[string]any{"sub": address, "email": address, "email_verified": true})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		panic(err) // the types above are wrong
	}
}
