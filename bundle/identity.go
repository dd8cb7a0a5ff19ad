package bundle

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// signerNames are what a Fulcio certificate says of its signer; "" where it says nothing.
type signerNames struct {
	subject, issuer                                  string
	repository, reference, buildSigner, buildTrigger string
}

// The first extensions of Fulcio, which later ones replace.
var (
	oidOldIssuer     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}
	oidOldTrigger    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 2}
	oidOldRepository = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 5}
	oidOldRef        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 6}
)

// githubIssuer vouches for the workflows of github.com, and of no other GitHub.
const githubIssuer = "https://token.actions.githubusercontent.com"

// readNames reads whom a certificate is for, and refuses one that can be read in two ways: Fulcio writes one subject alternative name,
// each extension once (a certificate with an extension twice does not parse), and the same into a new extension and the deprecated one it replaces.
func readNames(leaf *x509.Certificate) (signerNames, error) {
	names, err := certificate.SummarizeCertificate(leaf)
	if err != nil {
		return signerNames{}, fmt.Errorf("the certificate names no signer: %s", quote(err.Error()))
	}
	if n, err := countNames(leaf); err != nil {
		return signerNames{}, err
	} else if n != 1 {
		return signerNames{}, fmt.Errorf("the certificate is for %d names, not one", n)
	}
	issuer, err := deprecated(leaf, "issuer", certificate.OIDIssuerV2, oidOldIssuer, names.Issuer)
	if err != nil {
		return signerNames{}, err
	}
	if issuer == "" {
		return signerNames{}, errors.New("the certificate names no issuer")
	}
	n := signerNames{subject: names.SubjectAlternativeName, issuer: issuer, buildSigner: names.BuildSignerURI}
	if n.reference, err = deprecated(leaf, "source ref", certificate.OIDSourceRepositoryRef, oidOldRef, names.SourceRepositoryRef); err != nil {
		return signerNames{}, err
	}
	if n.buildTrigger, err = deprecated(leaf, "build trigger", certificate.OIDBuildTrigger, oidOldTrigger, names.BuildTrigger); err != nil {
		return signerNames{}, err
	}
	// The deprecated extension has owner/name, and the issuer alone says on which host.
	n.repository = names.SourceRepositoryURI
	old, hasOld, err := rawExtension(leaf, "source repository", oidOldRepository)
	switch {
	case err != nil:
		return signerNames{}, err
	case !hasOld:
	case !hasExtension(leaf, certificate.OIDSourceRepositoryURI):
		n.repository = old
		if issuer == githubIssuer {
			n.repository = "https://github.com/" + old
		}
	case !sameRepository(old, n.repository):
		return signerNames{}, fmt.Errorf("the certificate names two values as its source repository: %s and %s", quote(n.repository), quote(old))
	}
	return n, nil
}

// countNames counts the subject alternative names of every type, those that Go does not read too.
func countNames(leaf *x509.Certificate) (int, error) {
	for _, e := range leaf.Extensions {
		if !e.Id.Equal(cryptoutils.SANOID) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &names); err != nil || len(rest) > 0 {
			return 0, errors.New("the certificate's names cannot be read")
		}
		return len(names), nil
	}
	return 0, nil
}

// deprecated returns value, which is that of extension current, or where the certificate has none that of old. Where both are there they must agree.
func deprecated(leaf *x509.Certificate, name string, current, old asn1.ObjectIdentifier, value string) (string, error) {
	raw, ok, err := rawExtension(leaf, name, old)
	if err != nil || !ok {
		return value, err
	}
	if !hasExtension(leaf, current) {
		return raw, nil
	}
	// SummarizeCertificate has one field for both issuers, and the last of them wins.
	for _, e := range leaf.Extensions {
		if e.Id.Equal(current) {
			if err := certificate.ParseDERString(e.Value, &value); err != nil {
				return "", fmt.Errorf("the certificate's %s cannot be read", name)
			}
		}
	}
	if raw != value {
		return "", fmt.Errorf("the certificate names two values as its %s: %s and %s", name, quote(value), quote(raw))
	}
	return value, nil
}

// rawExtension returns one of the first extensions of Fulcio, whose value is the text itself and not DER of it.
func rawExtension(leaf *x509.Certificate, name string, id asn1.ObjectIdentifier) (string, bool, error) {
	for _, e := range leaf.Extensions {
		if e.Id.Equal(id) {
			if !utf8.Valid(e.Value) {
				return "", false, fmt.Errorf("the certificate's %s cannot be read: it is not UTF-8", name)
			}
			return string(e.Value), true, nil
		}
	}
	return "", false, nil
}

func hasExtension(leaf *x509.Certificate, id asn1.ObjectIdentifier) bool {
	for _, e := range leaf.Extensions {
		if e.Id.Equal(id) {
			return true
		}
	}
	return false
}

// sameRepository says whether want, a URI or the whole path of one, is the repository at have.
func sameRepository(want, have string) bool {
	if strings.Contains(want, "://") || !strings.Contains(have, "://") {
		return want == have
	}
	u, err := url.Parse(have)
	return err == nil && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == "" && u.EscapedPath() == "/"+want
}

// claims names the demanded claims, for messages; "" without any.
func (id *SigstoreIdentity) claims() string {
	var text string
	for _, claim := range []struct{ name, want string }{
		{"source repository", id.SourceRepository},
		{"source ref", id.SourceRef},
		{"build signer", id.BuildSigner},
		{"build trigger", id.BuildTrigger},
	} {
		if claim.want != "" {
			text += fmt.Sprintf(", %s %s", claim.name, quote(claim.want))
		}
	}
	return text
}

// checkClaims says in which of the demanded claims a certificate differs; nil where in none.
func (id *SigstoreIdentity) checkClaims(n signerNames) (wrong []string) {
	equal := func(want, have string) bool { return want == have }
	for _, claim := range []struct {
		name, want, have string
		same             func(want, have string) bool
	}{
		{"source repository", id.SourceRepository, n.repository, sameRepository},
		{"source ref", id.SourceRef, n.reference, equal},
		{"build signer", id.BuildSigner, n.buildSigner, equal},
		{"build trigger", id.BuildTrigger, n.buildTrigger, equal},
	} {
		switch {
		case claim.want == "":
		case claim.have == "":
			wrong = append(wrong, fmt.Sprintf("it names no %s, where %s is wanted", claim.name, quote(claim.want)))
		case !claim.same(claim.want, claim.have):
			wrong = append(wrong, fmt.Sprintf("its %s is %s, not %s", claim.name, quote(claim.have), quote(claim.want)))
		}
	}
	return wrong
}
