package fakesigstore

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// A Login is how people log in at an [Issuer]: who it is that does, and what the provider knows of the client.
type Login struct {
	ClientID     string         // "": sigstore; also the tokens' aud
	ClientSecret string         // "": a public client (RFC 6749 §2.1)
	Device       bool           // offers the device flow (RFC 8628)
	Denied       bool           // whoever it is says no
	Claims       map[string]any // of the tokens: sub and more
	Extra        map[string]any // of the discovery document: what other providers list
}

// outOfBand is the redirect address of clients that have none: the code is shown, for a person to type.
const outOfBand = "urn:ietf:wg:oauth:2.0:oob"

// A login is the state of a provider where people log in.
type login struct {
	Login
	issuer *Issuer

	mu      sync.Mutex
	codes   map[string]grant // by code
	devices map[string]*device
}

// A grant is what a code stands for.
type grant struct {
	redirect, challenge, nonce string
}

type device struct {
	user, challenge string
	polls           int
	approved        bool
}

// Logins lets people log in: with PKCE by S256 alone (RFC 7636), at /auth with a redirect to loopback or out of band,
// or at /device. A code serves once. Without it, nobody can. It is called once, before the first request.
func (i *Issuer) Logins(l Login) {
	if l.ClientID == "" {
		l.ClientID = "sigstore"
	}
	s := &login{Login: l, issuer: i, codes: map[string]grant{}, devices: map[string]*device{}}
	maps.Copy(i.discovery, l.Extra)
	i.mux.HandleFunc("GET /auth", s.authorize)
	i.mux.HandleFunc("POST /token", s.token)
	if l.Device {
		i.discovery["device_authorization_endpoint"] = i.URL + "/device/code"
		i.mux.HandleFunc("POST /device/code", s.deviceCode)
		i.mux.HandleFunc("GET /device", s.approve)
	}
}

// authorize is the authorization endpoint (RFC 6749 §3.1, OpenID Connect Core 1.0 §3.1.2); whoever comes is logged in.
func (s *login) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	redirect, err := url.Parse(q.Get("redirect_uri"))
	host := ""
	if err == nil {
		host = redirect.Hostname()
	}
	if loopback := redirect != nil && redirect.Scheme == "http" && (host == "localhost" || host == "127.0.0.1"); !loopback && q.Get("redirect_uri") != outOfBand {
		http.Error(w, "redirect_uri is not the client's", http.StatusBadRequest)
		return
	}
	switch {
	case q.Get("response_type") != "code",
		q.Get("client_id") != s.ClientID,
		!strings.Contains(" "+q.Get("scope")+" ", " openid "),
		q.Get("state") == "",
		q.Get("nonce") == "",
		q.Get("code_challenge_method") != "S256",
		!isChallenge(q.Get("code_challenge")):
		http.Error(w, "invalid_request", http.StatusBadRequest)
		return
	}
	back := url.Values{"state": {q.Get("state")}}
	if s.Denied {
		back.Set("error", "access_denied")
	} else {
		code := rand.Text()
		s.mu.Lock()
		s.codes[code] = grant{q.Get("redirect_uri"), q.Get("code_challenge"), q.Get("nonce")}
		s.mu.Unlock()
		back.Set("code", code)
	}
	if q.Get("redirect_uri") == outOfBand {
		fmt.Fprintf(w, "Your code: %s\n", back.Get("code"))
		return
	}
	redirect.RawQuery = back.Encode()
	http.Redirect(w, r, redirect.String(), http.StatusSeeOther)
}

// deviceCode is the device authorization endpoint (RFC 8628 §3.1).
func (s *login) deviceCode(w http.ResponseWriter, r *http.Request) {
	if !s.isClient(r) || r.PostFormValue("code_challenge_method") != "S256" || !isChallenge(r.PostFormValue("code_challenge")) {
		refuse(w, "invalid_request")
		return
	}
	d := &device{user: rand.Text()[:8], challenge: r.PostFormValue("code_challenge")}
	code := rand.Text()
	s.mu.Lock()
	s.devices[code] = d
	s.mu.Unlock()
	answer(w, map[string]any{
		"device_code":               code,
		"user_code":                 d.user,
		"verification_uri":          s.issuer.URL + "/device",
		"verification_uri_complete": s.issuer.URL + "/device?user_code=" + d.user,
		"expires_in":                300,
		"interval":                  1,
	})
}

// approve is where a person brings a user code.
func (s *login) approve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.devices {
		if d.user == r.URL.Query().Get("user_code") {
			d.approved = true
			fmt.Fprintln(w, "You can go back to your device.")
			return
		}
	}
	http.NotFound(w, r)
}

// token is the token endpoint (RFC 6749 §4.1.3, RFC 8628 §3.4).
func (s *login) token(w http.ResponseWriter, r *http.Request) {
	if !s.isClient(r) {
		refuse(w, "invalid_client")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	claims := maps.Clone(s.Claims)
	if claims == nil {
		claims = map[string]any{}
	}
	switch r.PostFormValue("grant_type") {
	case "authorization_code":
		code := r.PostFormValue("code")
		g, ok := s.codes[code]
		delete(s.codes, code)
		if !ok || g.redirect != r.PostFormValue("redirect_uri") || !answers(g.challenge, r.PostFormValue("code_verifier")) {
			refuse(w, "invalid_grant")
			return
		}
		if _, set := claims["nonce"]; !set {
			claims["nonce"] = g.nonce
		}
	case "urn:ietf:params:oauth:grant-type:device_code":
		code := r.PostFormValue("device_code")
		d, ok := s.devices[code]
		if !ok || !answers(d.challenge, r.PostFormValue("code_verifier")) {
			refuse(w, "invalid_grant")
			return
		}
		d.polls++
		switch {
		case s.Denied:
			refuse(w, "access_denied")
			return
		case d.polls == 1 || !d.approved: // nobody is as fast as the first question
			refuse(w, "authorization_pending")
			return
		}
		delete(s.devices, code)
	default:
		refuse(w, "unsupported_grant_type")
		return
	}
	access := rand.Text()
	half := sha256.Sum256([]byte(access))
	claims["at_hash"] = base64.RawURLEncoding.EncodeToString(half[:16]) // OpenID Connect Core 1.0 §3.1.3.6
	if _, set := claims["aud"]; !set {
		claims["aud"] = s.ClientID
	}
	answer(w, map[string]any{
		"access_token": access,
		"token_type":   "Bearer",
		"expires_in":   int((10 * time.Minute).Seconds()),
		"id_token":     s.issuer.Token(claims),
	})
}

// isClient reports whether a request is of the client that the provider knows (RFC 6749 §2.3.1), one way or the other.
func (s *login) isClient(r *http.Request) bool {
	id, secret, basic := r.BasicAuth()
	if !basic {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	} else {
		var errs [2]error
		id, errs[0] = url.QueryUnescape(id)
		secret, errs[1] = url.QueryUnescape(secret)
		if errors.Join(errs[:]...) != nil || r.PostFormValue("client_secret") != "" { // not both ways
			return false
		}
	}
	// The device authorization endpoint is asked by public and confidential clients alike.
	if strings.HasSuffix(r.URL.Path, "/code") {
		return id == s.ClientID
	}
	return id == s.ClientID && subtle.ConstantTimeCompare([]byte(secret), []byte(s.ClientSecret)) == 1
}

// isChallenge reports whether s can be a challenge by S256 (RFC 7636 §4.2).
func isChallenge(s string) bool {
	sum, err := base64.RawURLEncoding.DecodeString(s)
	return err == nil && len(sum) == sha256.Size
}

// answers reports whether verifier is the one of challenge (RFC 7636 §4.6).
func answers(challenge, verifier string) bool {
	sum := sha256.Sum256([]byte(verifier))
	return len(verifier) >= 43 && challenge == base64.RawURLEncoding.EncodeToString(sum[:])
}

// refuse answers as RFC 6749 §5.2 says.
func refuse(w http.ResponseWriter, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	fmt.Fprintf(w, `{"error":%q}`, code)
}
