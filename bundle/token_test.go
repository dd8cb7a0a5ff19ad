package bundle_test

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/e2e/fakesigstore"
)

func TestTokenClaimsAreWhatTheTokenSays(t *testing.T) {
	issuer := fakesigstore.NewIssuer(t)
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	got, err := bundle.InsecureTokenClaims(issuer.Token(map[string]any{
		"sub": "repo:acme/models", "aud": []string{"a", "b"}, "nbf": begin.Unix(), "exp": begin.Add(time.Hour).Unix(),
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got.Issuer != issuer.URL || got.Subject != "repo:acme/models" || !slices.Equal(got.Audience, []string{"a", "b"}) ||
		!got.NotBefore.Equal(begin) || !got.Expiry.Equal(begin.Add(time.Hour)) {
		t.Errorf("claims %+v", got)
	}
	for name, claims := range map[string]map[string]any{
		"a verified address goes before the subject":          {"sub": "42", "email": "a@example.com", "email_verified": true},
		"a verified address is enough":                        {"email": "a@example.com", "email_verified": true},
		"some issuers write the word":                         {"email": "a@example.com", "email_verified": "true"},
		"a subject alone is enough":                           {"sub": "a@example.com"},
		"a token without nbf has begun":                       {"sub": "a@example.com", "nbf": nil},
		"times may have fractions":                            {"sub": "a@example.com", "exp": float64(time.Now().Unix()) + 600.5},
		"the last second of the year 9999 is a time, if late": {"sub": "a@example.com", "exp": 253402300799},
	} {
		got, err := bundle.InsecureTokenClaims(issuer.Token(claims))
		if err != nil || got.Subject != "a@example.com" {
			t.Errorf("%s: %+v, %v", name, got, err)
			continue
		}
		if err := got.Check("sigstore", time.Now()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTokensThatCannotWorkAreRefusedAndNotRepeated(t *testing.T) {
	issuer := fakesigstore.NewIssuer(t)
	person := func(claims map[string]any) string {
		all := map[string]any{"sub": "somebody"}
		for name, value := range claims {
			all[name] = value
		}
		return issuer.Token(all)
	}
	good := person(nil)
	parts := strings.Split(good, ".")
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	hmac, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(rand.Text() + rand.Text())}, nil)
	if err != nil {
		t.Fatal(err)
	}
	shared, err := jwt.Signed(hmac).Claims(map[string]any{"iss": issuer.URL, "sub": "somebody", "exp": time.Now().Add(time.Hour).Unix()}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ token, want string }{
		"nothing":                         {"", "it is empty"},
		"a password":                      {"correct-horse-battery-staple", "it is no JWT"},
		"two parts":                       {parts[0] + "." + parts[1], "it is no JWT"},
		"four parts":                      {good + "." + parts[2], "it is no JWT"},
		"an encrypted token":              {parts[0] + "." + strings.Join(parts, ".") + "." + parts[2], "it is no JWT"},
		"a line break at the end":         {good + "\n", "it is no JWT"},
		"a line break inside":             {good[:8] + "\n" + good[8:], "it is no JWT"},
		"padding":                         {parts[0] + "=." + parts[1] + "." + parts[2], "it is no JWT"},
		"a header that is no JSON":        {part("topsecret") + "." + parts[1] + "." + parts[2], "it is no JWT"},
		"claims that are no JSON":         {parts[0] + "." + part("topsecret") + "." + parts[2], "not those of RFC 7519"},
		"claims that are a list":          {parts[0] + "." + part("[]") + "." + parts[2], "not those of RFC 7519"},
		"a claim that is there twice":     {parts[0] + "." + part(`{"iss":"x","exp":9999999999,"sub":"a","sub":"b"}`) + "." + parts[2], "not those of RFC 7519"},
		"no signature":                    {part(`{"alg":"none"}`) + "." + parts[1] + ".", "not signed with a public-key algorithm"},
		"a signature with a shared key":   {shared, "not signed with a public-key algorithm"},
		"a token beyond the limit":        {person(map[string]any{"groups": strings.Repeat("x", 64<<10)}), "more than the limit"},
		"no issuer":                       {person(map[string]any{"iss": nil}), "(iss)"},
		"no expiry":                       {person(map[string]any{"exp": nil}), "no time of expiry"},
		"an expiry in milliseconds":       {person(map[string]any{"exp": time.Now().Add(time.Hour).UnixMilli()}), "no time in seconds"},
		"an expiry before 1970":           {person(map[string]any{"exp": -1}), "no time in seconds"},
		"an expiry that overflows":        {person(map[string]any{"exp": 1e300}), "no time in seconds"},
		"an expiry in words":              {person(map[string]any{"exp": "tomorrow"}), "not those of RFC 7519"},
		"a beginning in milliseconds":     {person(map[string]any{"nbf": time.Now().UnixMilli()}), "no time in seconds"},
		"an audience that is a number":    {person(map[string]any{"aud": 1}), "not those of RFC 7519"},
		"nobody":                          {issuer.Token(nil), "no subject"},
		"an address that is not verified": {person(map[string]any{"email": "a@example.com"}), "has not verified"},
		"an address verified in no way":   {person(map[string]any{"email": "a@example.com", "email_verified": "yes"}), "not of the types"},
	} {
		t.Run(name, func(t *testing.T) {
			claims, err := bundle.InsecureTokenClaims(tt.token)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%+v, %v; want an error with %q", claims, err, tt.want)
			}
			for secret := range strings.SplitSeq(tt.token, ".") {
				if len(secret) > 4 && strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "topsecret") {
					t.Errorf("the error repeats the token: %v", err)
				}
			}
		})
	}
}

func TestACheckNamesBothSides(t *testing.T) {
	at := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	claims := bundle.TokenClaims{Issuer: "i", Subject: "somebody", Audience: []string{"sigstore", "other"}, NotBefore: at, Expiry: at.Add(time.Hour)}
	for name, tt := range map[string]struct {
		audience string
		now      time.Time
		want     string // "": nothing speaks against it
	}{
		"the first second":                       {"sigstore", at, ""},
		"the other audience":                     {"other", at, ""},
		"a clock that is five minutes late":      {"sigstore", at.Add(-5 * time.Minute), ""},
		"a clock that is later than that":        {"sigstore", at.Add(-5*time.Minute - time.Second), "begins at 2026-07-01T12:00:00Z; it is 2026-07-01T11:54:59Z"},
		"the last second":                        {"sigstore", at.Add(time.Hour - time.Second), ""},
		"the moment of expiry":                   {"sigstore", at.Add(time.Hour), `"somebody" expired at 2026-07-01T13:00:00Z; it is 2026-07-01T13:00:00Z`},
		"a third audience":                       {"third", at, `it names "sigstore, other", not "third"`},
		"the audience is compared as a whole":    {"sig", at, `not "sig"`},
		"nobody's audience is nobody's":          {"", at, `not ""`},
		"two audiences are not one with a comma": {"sigstore, other", at, "for another audience"},
	} {
		err := claims.Check(tt.audience, tt.now)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
		if wrong := err != nil && strings.Contains(err.Error(), "names"); wrong != errors.Is(err, bundle.ErrAudience) {
			t.Errorf("%s: ErrAudience %v", name, err)
		}
	}
}

// What parses has the claims that it must have, and passing them on is safe.
func FuzzInsecureTokenClaims(f *testing.F) {
	issuer := fakesigstore.NewIssuer(f)
	good := issuer.Mail("a@example.com")
	parts := strings.Split(good, ".")
	for _, payload := range []string{
		`{"iss":"i","sub":"s","aud":["a"],"exp":1e9}`, `{"iss":"i","email":"e","email_verified":true,"exp":1,"nbf":2}`, `{"exp":1e300}`, `[]`, `{"aud":[[[1]]]}`,
	} {
		f.Add(parts[0], []byte(payload), parts[2])
	}
	f.Add("e30", []byte(`{}`), "")
	f.Fuzz(func(t *testing.T, header string, payload []byte, signature string) {
		token := header + "." + base64.RawURLEncoding.EncodeToString(payload) + "." + signature
		claims, err := bundle.InsecureTokenClaims(token)
		if err != nil {
			if claims != nil {
				t.Fatalf("%+v, %v", claims, err)
			}
			return
		}
		if claims.Issuer == "" || claims.Subject == "" || claims.Expiry.Year() < 1970-1 || claims.Expiry.Year() > 10000 || strings.ContainsAny(token, " \r\n\"") {
			t.Fatalf("%q: %+v", token, claims)
		}
		if err := claims.Check("a", claims.Expiry); err == nil {
			t.Fatal("an expired token passes")
		}
	})
}
