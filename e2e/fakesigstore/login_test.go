package fakesigstore_test

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"github.com/modelsig/modelsig/e2e/fakesigstore"
)

// visit asks for a page and follows nothing.
func visit(t *testing.T, address string, query url.Values) *http.Response {
	t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Get(address + "?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// post sends a form and returns the answer's members.
func post(t *testing.T, address string, form url.Values) map[string]any {
	t.Helper()
	resp, err := http.PostForm(address, form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// change returns values with some replaced; nil: without them.
func change(values, by url.Values) url.Values {
	out := maps.Clone(values)
	maps.Copy(out, by)
	return out
}

// A fake that lets everybody in would not show what a client forgets.
func TestTheIssuerHoldsClientsToTheProtocol(t *testing.T) {
	verifier := oauth2.GenerateVerifier()
	asking := url.Values{
		"response_type": {"code"}, "client_id": {"sigstore"}, "scope": {"openid email"}, "state": {"s"}, "nonce": {"n"}, "redirect_uri": {"http://localhost:1/back"},
		"code_challenge_method": {"S256"}, "code_challenge": {oauth2.S256ChallengeFromVerifier(verifier)},
	}
	redeeming := url.Values{"grant_type": {"authorization_code"}, "client_id": {"sigstore"}, "client_secret": {"s3cret"}, "redirect_uri": {"http://localhost:1/back"}, "code_verifier": {verifier}}
	issuer := fakesigstore.NewIssuer(t)
	issuer.Logins(fakesigstore.Login{ClientSecret: "s3cret", Claims: map[string]any{"sub": "somebody"}})
	code := func(t *testing.T) string {
		t.Helper()
		back, err := visit(t, issuer.URL+"/auth", asking).Location()
		if err != nil || back.Host != "localhost:1" || back.Query().Get("state") != "s" {
			t.Fatalf("sent back to %v, %v", back, err)
		}
		return back.Query().Get("code")
	}
	for name, by := range map[string]url.Values{
		"another client":           {"client_id": {"other"}},
		"no state":                 {"state": nil},
		"no nonce":                 {"nonce": nil},
		"a challenge in the clear": {"code_challenge_method": {"plain"}, "code_challenge": {verifier}},
		"no challenge":             {"code_challenge": nil},
		"not for an identity":      {"scope": {"email"}},
		"no code":                  {"response_type": {"token"}},
		"back to somewhere else":   {"redirect_uri": {"https://example.com/"}},
	} {
		if resp := visit(t, issuer.URL+"/auth", change(asking, by)); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: status %d", name, resp.StatusCode)
		}
	}
	for name, tt := range map[string]struct {
		by   url.Values
		want string
	}{
		"another verifier":   {url.Values{"code_verifier": {oauth2.GenerateVerifier()}}, "invalid_grant"},
		"no verifier":        {url.Values{"code_verifier": nil}, "invalid_grant"},
		"another way back":   {url.Values{"redirect_uri": {"http://localhost:2/back"}}, "invalid_grant"},
		"a code of nobody's": {url.Values{"code": {"x"}}, "invalid_grant"},
		"another client":     {url.Values{"client_id": {"other"}}, "invalid_client"},
		"another secret":     {url.Values{"client_secret": {"x"}}, "invalid_client"},
		"no secret":          {url.Values{"client_secret": nil}, "invalid_client"},
		"another grant":      {url.Values{"grant_type": {"password"}}, "unsupported_grant_type"},
	} {
		got := post(t, issuer.URL+"/token", change(change(redeeming, url.Values{"code": {code(t)}}), tt.by))
		if got["error"] != tt.want || got["id_token"] != nil {
			t.Errorf("%s: error %v, want %s", name, got["error"], tt.want)
		}
	}
	good := change(redeeming, url.Values{"code": {code(t)}})
	if got := post(t, issuer.URL+"/token", good); got["id_token"] == nil {
		t.Errorf("no token for who obeys: %v", got)
	}
	if got := post(t, issuer.URL+"/token", good); got["error"] != "invalid_grant" {
		t.Errorf("a code serves twice: %v", got)
	}
	if page, err := io.ReadAll(visit(t, issuer.URL+"/auth", change(asking, url.Values{"redirect_uri": {"urn:ietf:wg:oauth:2.0:oob"}})).Body); err != nil || !strings.HasPrefix(string(page), "Your code: ") {
		t.Errorf("out of band: %q, %v", page, err)
	}
	if got := visit(t, issuer.URL+"/.well-known/openid-configuration", nil); got.StatusCode != http.StatusOK {
		t.Errorf("discovery: status %d", got.StatusCode)
	}
	if got := visit(t, issuer.URL+"/device", nil); got.StatusCode != http.StatusNotFound {
		t.Errorf("devices are let in that nobody spoke of: status %d", got.StatusCode)
	}
}

func TestDevicesWaitForTheirPerson(t *testing.T) {
	issuer := fakesigstore.NewIssuer(t)
	issuer.Logins(fakesigstore.Login{Device: true, Claims: map[string]any{"sub": "somebody"}})
	verifier := oauth2.GenerateVerifier()
	asking := url.Values{"client_id": {"sigstore"}, "code_challenge_method": {"S256"}, "code_challenge": {oauth2.S256ChallengeFromVerifier(verifier)}}
	for name, by := range map[string]url.Values{"another client": {"client_id": {"other"}}, "no challenge": {"code_challenge": nil}} {
		if got := post(t, issuer.URL+"/device/code", change(asking, by)); got["error"] == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
	codes := post(t, issuer.URL+"/device/code", asking)
	polling := url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "client_id": {"sigstore"}, "device_code": {codes["device_code"].(string)}, "code_verifier": {verifier},
	}
	want := func(want any) {
		t.Helper()
		if got := post(t, issuer.URL+"/token", polling); got["error"] != want || (got["id_token"] != nil) != (want == nil) {
			t.Errorf("error %v, want %v", got["error"], want)
		}
	}
	want("authorization_pending")
	want("authorization_pending")
	if resp := visit(t, issuer.URL+"/device", url.Values{"user_code": {"another"}}); resp.StatusCode != http.StatusNotFound {
		t.Errorf("status %d for another's code", resp.StatusCode)
	}
	want("authorization_pending")
	if resp := visit(t, issuer.URL+"/device", url.Values{"user_code": {codes["user_code"].(string)}}); resp.StatusCode != http.StatusOK {
		t.Errorf("status %d", resp.StatusCode)
	}
	if got := post(t, issuer.URL+"/token", change(polling, url.Values{"code_verifier": {oauth2.GenerateVerifier()}})); got["error"] != "invalid_grant" {
		t.Errorf("with another verifier: %v", got["error"])
	}
	want(nil)
	want("invalid_grant")
}
