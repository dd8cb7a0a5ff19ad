package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/sigstore/sigstore/pkg/oauthflow"
)

const (
	// maxIdentityToken is the largest identity token in bytes. Those of CI systems have 2 KiB; one that lists two hundred groups has 12.
	maxIdentityToken = 64 << 10
	// tokenSkew is how far the clocks of issuers may be ahead of ours: go-oidc, with which Fulcio checks tokens, lets as much pass.
	tokenSkew = 5 * time.Minute
	// maxNumericDate is the end of the year 9999 in Unix seconds. A larger time is most often in milliseconds.
	maxNumericDate = 253402300799
)

// ErrAudience is what [TokenClaims.Check] returns, wrapped, for a token that was made for somebody else. Callers that choose the audience may say how.
var ErrAudience = errors.New("the identity token is for another audience")

// TokenClaims is what an identity token says of itself (RFC 7519 §4.1, OpenID Connect Core 1.0 §2). Nothing in it is verified: that is for the certificate
// authority to do. It serves to see, before anything is contacted, that a token cannot work.
type TokenClaims struct {
	Issuer    string    // a URL by convention; never empty
	Subject   string    // what a certificate authority looks at first: the verified e-mail address, else sub; never empty
	Audience  []string  // whom it is for
	NotBefore time.Time // zero: since ever
	Expiry    time.Time // never zero
}

// tokenAlgorithms are those that a certificate authority can check with an issuer's public keys. HMAC is none of them.
func tokenAlgorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{
		jose.ES256, jose.ES384, jose.ES512, jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.EdDSA,
	}
}

// InsecureTokenClaims reads the claims of an OIDC identity token, a signed JWT in compact form (RFC 7515 §7.1) of at most 64 KiB, without space around it.
// Its signature is not verified. A token that is none, or lacks iss, exp, or a subject, is an error. No error repeats any of the token's text, which is a secret.
func InsecureTokenClaims(token string) (*TokenClaims, error) {
	fail := func(why string) (*TokenClaims, error) { return nil, errors.New("read identity token: " + why) }
	switch {
	case token == "":
		return fail("it is empty")
	case len(token) > maxIdentityToken:
		return fail(fmt.Sprintf("%d bytes are more than the limit of %d", len(token), maxIdentityToken))
	case strings.Count(token, ".") != 2 || strings.ContainsFunc(token, notInToken):
		return fail("it is no JWT: three parts in base64url, with dots between them (RFC 7515 §7.1)")
	}
	// The libraries' errors may repeat what they read.
	parsed, err := jwt.ParseSigned(token, tokenAlgorithms())
	if wrong := (*jose.ErrUnexpectedSignatureAlgorithm)(nil); errors.As(err, &wrong) {
		return fail("it is not signed with a public-key algorithm that certificate authorities know")
	} else if err != nil {
		return fail("it is no JWT: the parts do not hold what they should (RFC 7515 §7.1)")
	}
	var claims jwt.Claims
	var payload json.RawMessage
	if err := parsed.UnsafeClaimsWithoutVerification(&claims, &payload); err != nil {
		return fail("its claims are not those of RFC 7519 §4.1")
	}
	switch {
	case claims.Issuer == "":
		return fail("it names no issuer (iss)")
	case claims.Expiry == nil:
		return fail("it has no time of expiry (exp, OpenID Connect Core 1.0 §2)")
	case *claims.Expiry < 0 || *claims.Expiry > maxNumericDate:
		return fail("its time of expiry (exp) is no time in seconds")
	case claims.NotBefore != nil && (*claims.NotBefore < 0 || *claims.NotBefore > maxNumericDate):
		return fail("the time when it begins (nbf) is no time in seconds")
	}
	// The rule is the library's, so that nothing is asked for a certificate that sigstore-go would not ask for.
	subject, err := oauthflow.SubjectFromUnverifiedToken(payload)
	if err != nil {
		switch {
		case strings.Contains(err.Error(), "not verified"):
			return fail("the issuer has not verified its e-mail address (email_verified)")
		case strings.Contains(err.Error(), "no subject"):
			return fail("it names no subject (sub) and no e-mail address (email)")
		}
		return fail("its subject (sub, email, email_verified) is not of the types of OpenID Connect Core 1.0 §5.1")
	}
	return &TokenClaims{
		Issuer:    claims.Issuer,
		Subject:   subject,
		Audience:  claims.Audience,
		NotBefore: claims.NotBefore.Time(),
		Expiry:    claims.Expiry.Time(),
	}, nil
}

// notInToken reports a character that the compact form of a JWT cannot have; the base64 decoder would pass over line breaks.
func notInToken(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
}

// Check says why a token with these claims cannot be used at now for audience: it has expired, has not begun (five minutes are let pass, for clocks that differ),
// or is for others ([ErrAudience]). Nil says that nothing speaks against it, not that it is genuine.
func (c *TokenClaims) Check(audience string, now time.Time) error {
	switch {
	case !now.Before(c.Expiry):
		return fmt.Errorf("the identity token of %s expired at %s; it is %s on this machine", quote(c.Subject), stamp(c.Expiry), stamp(now))
	case now.Add(tokenSkew).Before(c.NotBefore):
		return fmt.Errorf("the identity token of %s begins at %s; it is %s on this machine", quote(c.Subject), stamp(c.NotBefore), stamp(now))
	case !slices.Contains(c.Audience, audience):
		return fmt.Errorf("%w: it names %s, not %s", ErrAudience, quote(strings.Join(c.Audience, ", ")), quote(audience))
	}
	return nil
}
