package bundle

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/proto"
)

// maxTrustedRoot is the largest trusted root in bytes of JSON. The public one has 7 KiB, and grows by less than 1 KiB for each new log or authority.
const maxTrustedRoot = 1 << 20

// A TrustedRoot is what a Sigstore vouches for: its certificate authorities (Fulcio), transparency logs (Rekor),
// timestamp authorities and certificate logs, each with the time it was valid. Make one with [ParseTrustedRoot]; the zero value trusts nobody.
type TrustedRoot struct {
	material *root.TrustedRoot
}

// ParseTrustedRoot reads the JSON of a Sigstore trusted root (sigstore_trustroot.proto, media type version 0.1), of at most 1 MiB.
// A root without a certificate authority or without a transparency log is an error: it would trust nobody, or anybody whom no log has seen.
// So are two logs of one id that differ in anything: one key, one time of validity or the other would be dropped unseen.
// Where it lists certificate logs, every certificate must have been in one of them. Nothing is fetched.
func ParseTrustedRoot(json []byte) (*TrustedRoot, error) {
	if len(json) > maxTrustedRoot {
		return nil, fmt.Errorf("parse trusted root: %d bytes are more than the limit of %d", len(json), maxTrustedRoot)
	}
	wire, err := root.NewTrustedRootProtobuf(json)
	if err != nil {
		return nil, fmt.Errorf("parse trusted root: %s", protoText(err))
	}
	return newTrustedRoot(wire)
}

// newTrustedRoot refuses a root that would trust nobody, or anybody whom no log has seen, or that can be read in two ways.
func newTrustedRoot(wire *prototrustroot.TrustedRoot) (*TrustedRoot, error) {
	material, err := root.NewTrustedRootFromProtobuf(wire)
	if err != nil {
		return nil, fmt.Errorf("parse trusted root: %s", quote(err.Error()))
	}
	if len(material.FulcioCertificateAuthorities()) == 0 {
		return nil, errors.New("parse trusted root: it has no certificate authority")
	}
	if len(material.RekorLogs()) == 0 {
		return nil, errors.New("parse trusted root: it has no transparency log")
	}
	for _, logs := range [][]*prototrustroot.TransparencyLogInstance{wire.GetTlogs(), wire.GetCtlogs()} {
		if err := checkLogs(logs); err != nil {
			return nil, fmt.Errorf("parse trusted root: %w", err)
		}
	}
	return &TrustedRoot{material: material}, nil
}

// checkLogs refuses two logs of one id, of which sigstore-go keeps the last. The same log written twice is one.
func checkLogs(logs []*prototrustroot.TransparencyLogInstance) error {
	seen := make(map[string]*prototrustroot.TransparencyLogInstance)
	for _, log := range logs {
		id := string(log.GetLogId().GetKeyId())
		if other := seen[id]; other != nil && !proto.Equal(other, log) {
			return fmt.Errorf("it has two logs of id %x that differ", clip(id))
		}
		seen[id] = log
	}
	return nil
}

// A SigstoreIdentity says who must have signed: a subject and the issuer that vouched for it, each either exactly or by a regular expression.
type SigstoreIdentity struct {
	// Subject is the certificate's subject alternative name: an e-mail address, or the URI of a workflow.
	Subject string
	// SubjectRegexp, in place of Subject, must match the whole of the name (package regexp).
	SubjectRegexp string
	// Issuer is the OIDC issuer: `https://token.actions.githubusercontent.com`.
	Issuer string
	// IssuerRegexp, in place of Issuer, must match the whole of the issuer.
	IssuerRegexp string

	// The claims below narrow whom subject and issuer accept, and replace neither: a reusable workflow is the subject of whoever calls it.
	// Each is demanded exactly; "" demands nothing. A certificate without a demanded claim is refused. The numbers are Fulcio's extensions, below
	// 1.3.6.1.4.1.57264.1; of certificates older than one of them, the deprecated GitHub extension counts in its place.

	// SourceRepository is the repository that was built (12; else 5): its URI, or without "://" the URI's whole path on any host of the issuer, owner/name.
	// The deprecated extension has no host: it is a URI of github.com where github.com's issuer vouched for it, else owner/name alone.
	SourceRepository string
	// SourceRef is the git ref that was built (14; else 6): `refs/heads/main`.
	SourceRef string
	// BuildSigner is the URI of the build instructions that signed (9): of the reusable workflow where one signed.
	BuildSigner string
	// BuildTrigger is the event that began the build (20; else 2): `push`.
	BuildTrigger string
}

// NewSigstoreVerifier accepts bundles of method sigstore that identity signed. The bundle must hold all of this, by the keys of one trusted root:
//
//   - a certificate for identity, which names nobody else, issued by an authority, with a signed certificate timestamp where the root lists certificate logs;
//   - an entry for this signature in a transparency log, with its inclusion proof; a promise beside it must hold, too. In bundles of v0.1, which were
//     made before logs gave proofs at once, the promise suffices; in all others it does not;
//   - a time at which the certificate was valid, proved by that entry's promise or by a timestamp authority. The time of verification is no such time.
//
// Every key must be valid, by the root, when it was used: the authority's at the proved time, a certificate log's and a timestamp authority's at the time that each signed,
// and a transparency log's at the time that the entry promises, else at the timestamp's.
//
// More evidence does not harm. Each log entry and each timestamp is judged by itself: one good entry and one good time suffice, and what does not count is passed over,
// be it broken, by a stranger, about another signature, twice there, or of a time when the certificate was not valid. Of entries that prove the signature the first 8 of different logs or times are heeded.
//
// A root that lists the certificate logs of one authority beside another authority that has none asks for a timestamp of both: take two roots and two verifiers.
// The proved time is the earliest good one of a log where a log proves one, else that of the earliest good timestamp. Nothing is fetched.
// These are errors: a nil or zero root, no subject, no issuer, a value and a regular expression for one of them, and two regular expressions that match anybody.
func NewSigstoreVerifier(root *TrustedRoot, identity SigstoreIdentity) (Verifier, error) {
	if root == nil || root.material == nil {
		return nil, errors.New("verify with sigstore: no trusted root")
	}
	subject, err := newMatcher("subject", identity.Subject, identity.SubjectRegexp)
	if err != nil {
		return nil, fmt.Errorf("verify with sigstore: %w", err)
	}
	issuer, err := newMatcher("issuer", identity.Issuer, identity.IssuerRegexp)
	if err != nil {
		return nil, fmt.Errorf("verify with sigstore: %w", err)
	}
	if subject.match(nobody) && issuer.match(nobody) {
		return nil, errors.New("verify with sigstore: the regular expressions of subject and issuer match anybody")
	}
	return &sigstoreVerifier{material: root.material, subject: subject, issuer: issuer, identity: identity}, nil
}

// nobody is no subject and no issuer. What matches it matches anything.
const nobody = "\x00 nobody \x7f"

// A matcher accepts one value, or those that a regular expression matches as a whole.
type matcher struct {
	text string         // the value, or the regular expression as it was given
	expr *regexp.Regexp // nil for a value
}

func newMatcher(name, exact, expr string) (matcher, error) {
	switch {
	case exact == "" && expr == "":
		return matcher{}, fmt.Errorf("no %s is accepted", name)
	case exact != "" && expr != "":
		return matcher{}, fmt.Errorf("%s and a regular expression for it: one of them is meant", name)
	case exact != "":
		return matcher{text: exact}, nil
	}
	// First by itself: `a)|(?:b` would be one only between the parentheses that make it match the whole.
	if _, err := regexp.Compile(expr); err != nil {
		return matcher{}, fmt.Errorf("regular expression for %s: %w", name, err)
	}
	whole, err := regexp.Compile(`\A(?:` + expr + `)\z`)
	if err != nil {
		return matcher{}, fmt.Errorf("regular expression for %s: %w", name, err)
	}
	return matcher{text: expr, expr: whole}, nil
}

func (m matcher) match(value string) bool {
	if m.expr != nil {
		return m.expr.MatchString(value)
	}
	return value == m.text
}

func (m matcher) String() string {
	if m.expr != nil {
		return "like " + quote(m.text)
	}
	return quote(m.text)
}

type sigstoreVerifier struct {
	material        *root.TrustedRoot
	subject, issuer matcher
	identity        SigstoreIdentity // for its claims
}

func (v *sigstoreVerifier) String() string {
	return fmt.Sprintf("sigstore %s of issuer %s%s", v.subject, v.issuer, v.identity.claims())
}

// open takes the steps of sigstore-go's Verify one by one, in an order of its own: certificate and signature come first, over the payload where it lies,
// so that a large one by somebody else is not copied. What the payload says is the caller's to read.
func (v *sigstoreVerifier) open(b *Bundle) (Proof, error) {
	switch m := b.Method(); {
	case m == MethodSigstore:
	case m == MethodCertificate && b.wire.Material.Certificate != nil:
		return Proof{}, errors.New("the bundle has no entry of a transparency log (OMS §4.1)")
	default:
		return Proof{}, fmt.Errorf("takes bundles of method %s only, not %s (OMS §4.1)", MethodSigstore, m)
	}
	leaf, err := x509.ParseCertificate(b.wire.leaf())
	if err != nil {
		return Proof{}, fmt.Errorf("the certificate cannot be read: %s", quote(err.Error()))
	}
	signer, err := v.checkCertificate(leaf)
	if err != nil {
		return Proof{}, err
	}
	if err := checkPayload(leaf, b.wire.Envelope); err != nil {
		return Proof{}, err
	}
	e := newEntity(leaf, b.wire.Envelope)
	entries, err := v.provedEntries(e, &b.wire)
	if err != nil {
		return Proof{}, err
	}
	proof := Proof{Signer: signer}
	proof.Time, proof.TimeSource, err = v.provedTime(e, entries, b.wire.Material.Timestamps)
	if err != nil {
		return Proof{}, err
	}
	return proof, nil
}

// checkCertificate says whom a certificate is for. It checks all but the time at which it was used.
func (v *sigstoreVerifier) checkCertificate(leaf *x509.Certificate) (Identity, error) {
	names, err := readNames(leaf)
	if err != nil {
		return Identity{}, err
	}
	var wrong []string
	if !v.subject.match(names.subject) {
		wrong = append(wrong, fmt.Sprintf("the certificate is for %s, not %s", quote(names.subject), v.subject))
	}
	if !v.issuer.match(names.issuer) {
		wrong = append(wrong, fmt.Sprintf("its issuer is %s, not %s", quote(names.issuer), v.issuer))
	}
	wrong = append(wrong, v.identity.checkClaims(names)...)
	if len(wrong) > 0 {
		return Identity{}, errors.New(strings.Join(wrong, ", "))
	}
	// Go does not read an otherName, which Fulcio marks as critical and SummarizeCertificate has just read.
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(leaf.UnhandledCriticalExtensions, cryptoutils.SANOID.Equal)
	// What Fulcio puts into every certificate; the path validation would let a certificate without them pass.
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 || !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageCodeSigning) {
		return Identity{}, errors.New("the certificate is not for signing code")
	}
	// No time is proved yet. An authority that was valid at one moment of the certificate's few minutes was valid at one of their ends.
	chains, err := verify.VerifyLeafCertificate(leaf.NotBefore, leaf, v.material)
	if err != nil {
		chains, err = verify.VerifyLeafCertificate(leaf.NotAfter, leaf, v.material)
	}
	if err != nil {
		return Identity{}, errors.New("the certificate is not by an authority of the trusted root")
	}
	if len(v.material.CTLogs()) > 0 {
		if err := verify.VerifySignedCertificateTimestamp(chains, 1, v.material); err != nil {
			return Identity{}, fmt.Errorf("the certificate was in no certificate log of the trusted root: %s", quote(err.Error()))
		}
	}
	return Identity{Method: MethodSigstore, Subject: names.subject, Issuer: names.issuer}, nil
}

// checkPayload checks the signature with the hash that goes with the certificate's key. The payload is canonical base64, as Parse has seen to,
// so each decoder that reads it sees the same bytes.
func checkPayload(leaf *x509.Certificate, envelope *wireEnvelope) error {
	key, err := signature.LoadDefaultVerifier(leaf.PublicKey)
	if err != nil {
		return fmt.Errorf("the certificate's key cannot be used: %s", quote(err.Error()))
	}
	message := io.MultiReader(
		strings.NewReader(envelope.header()),
		base64.NewDecoder(base64.StdEncoding.Strict(), bytes.NewReader(envelope.Payload.text)))
	if err := key.VerifySignature(bytes.NewReader(envelope.Signatures[0].Sig), message); err != nil {
		return errors.New("the certificate's key did not make this signature")
	}
	return nil
}
