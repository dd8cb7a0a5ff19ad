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
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	sigbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
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
// Where it lists certificate logs, every certificate must have been in one of them. Nothing is fetched.
func ParseTrustedRoot(json []byte) (*TrustedRoot, error) {
	if len(json) > maxTrustedRoot {
		return nil, fmt.Errorf("parse trusted root: %d bytes are more than the limit of %d", len(json), maxTrustedRoot)
	}
	material, err := root.NewTrustedRootFromJSON(json)
	if err != nil {
		return nil, fmt.Errorf("parse trusted root: %s", quote(err.Error()))
	}
	if len(material.FulcioCertificateAuthorities()) == 0 {
		return nil, errors.New("parse trusted root: it has no certificate authority")
	}
	if len(material.RekorLogs()) == 0 {
		return nil, errors.New("parse trusted root: it has no transparency log")
	}
	return &TrustedRoot{material: material}, nil
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
}

// NewSigstoreVerifier accepts bundles of method sigstore that identity signed. The bundle must hold all of this, by the keys of one trusted root:
//
//   - a certificate for identity, issued by an authority, with a signed certificate timestamp where the root lists certificate logs;
//   - an entry for this signature in a transparency log, with its inclusion proof;
//   - a time at which the certificate was valid, proved by that log or by a timestamp authority. The time of verification is no such time.
//
// A root that lists the certificate logs of one authority beside another authority that has none asks for a timestamp of both: take two roots and two verifiers.
// The proved time is the log's where the log proves one, else that of the earliest timestamp. Nothing is fetched.
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
	verifier, err := verify.NewVerifier(root.material, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	if err != nil {
		return nil, fmt.Errorf("verify with sigstore: %w", err)
	}
	return &sigstoreVerifier{material: root.material, verifier: verifier, subject: subject, issuer: issuer}, nil
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
	verifier        *verify.Verifier
	subject, issuer matcher
}

func (v *sigstoreVerifier) String() string {
	return fmt.Sprintf("sigstore %s of issuer %s", v.subject, v.issuer)
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
	leaf, err := x509.ParseCertificate(b.wire.Material.Certificate.RawBytes)
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
	e, err := newEntity(leaf, &b.wire)
	if err != nil {
		return Proof{}, err
	}
	logged, err := v.verifier.VerifyTransparencyLogInclusion(e)
	if err != nil {
		if err := e.checkTimes(); err != nil {
			return Proof{}, err
		}
		return Proof{}, fmt.Errorf("no transparency log of the trusted root proves the signature: %s", quote(err.Error()))
	}
	if err := e.checkEntries(); err != nil {
		return Proof{}, err
	}
	times, err := v.verifier.VerifyObserverTimestamps(e, logged)
	if err != nil {
		return Proof{}, fmt.Errorf("nobody proves when the signature was made: %s", quote(err.Error()))
	}
	for _, t := range times {
		if _, err := verify.VerifyLeafCertificate(t.Timestamp, leaf, v.material); err != nil {
			return Proof{}, notValidAt(leaf, t.Timestamp)
		}
	}
	proof := Proof{Signer: signer}
	// A token can be taken off a bundle, and its log entry cannot: the log's time is the one that stays.
	if len(logged) > 0 {
		proof.Time, proof.TimeSource = earliest(logged), TimeLog
	} else {
		proof.Time, proof.TimeSource = earliest(times), TimeTimestamp
	}
	return proof, nil
}

// checkCertificate says whom a certificate is for. It checks all but the time at which it was used.
func (v *sigstoreVerifier) checkCertificate(leaf *x509.Certificate) (Identity, error) {
	names, err := certificate.SummarizeCertificate(leaf)
	if err != nil {
		return Identity{}, fmt.Errorf("the certificate names no signer: %s", quote(err.Error()))
	}
	if names.Issuer == "" {
		return Identity{}, errors.New("the certificate names no issuer")
	}
	var wrong []string
	if !v.subject.match(names.SubjectAlternativeName) {
		wrong = append(wrong, fmt.Sprintf("the certificate is for %s, not %s", quote(names.SubjectAlternativeName), v.subject))
	}
	if !v.issuer.match(names.Issuer) {
		wrong = append(wrong, fmt.Sprintf("its issuer is %s, not %s", quote(names.Issuer), v.issuer))
	}
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
	return Identity{Method: MethodSigstore, Subject: names.SubjectAlternativeName, Issuer: names.Issuer}, nil
}

// checkPayload checks the signature with the hash that goes with the certificate's key. The payload is canonical base64, as Parse has seen to,
// so each decoder that reads it sees the same bytes.
func checkPayload(leaf *x509.Certificate, envelope *wireEnvelope) error {
	key, err := signature.LoadDefaultVerifier(leaf.PublicKey)
	if err != nil {
		return fmt.Errorf("the certificate's key cannot be used: %s", quote(err.Error()))
	}
	message := io.MultiReader(
		strings.NewReader(paeHeader(envelope.PayloadType, envelope.Payload.size())),
		base64.NewDecoder(base64.StdEncoding.Strict(), bytes.NewReader(envelope.Payload.text)))
	if err := key.VerifySignature(bytes.NewReader(envelope.Signatures[0].Sig), message); err != nil {
		return errors.New("the certificate's key did not make this signature")
	}
	return nil
}

// entity shows a bundle to sigstore-go. It is made from what Parse read: sigstore-go never reads the JSON again.
type entity struct {
	verify.BaseSignedEntity
	leaf     *x509.Certificate
	envelope *sigbundle.Envelope
	sig      []byte
	entries  []*tlog.Entry
	tokens   [][]byte
}

func newEntity(leaf *x509.Certificate, w *wireBundle) (*entity, error) {
	sig := w.Envelope.Signatures[0].Sig
	e := &entity{leaf: leaf, sig: sig, envelope: &sigbundle.Envelope{Envelope: &dsse.Envelope{
		PayloadType: w.Envelope.PayloadType,
		Payload:     string(w.Envelope.Payload.text),
		Signatures:  []dsse.Signature{{Sig: base64.StdEncoding.EncodeToString(sig)}},
	}}}
	for i := range w.Material.LogEntries {
		if w.Material.LogEntries[i].InclusionProof == nil {
			return nil, errors.New("a log entry has no inclusion proof, which bundles have since v0.2")
		}
		entry, err := tlog.ParseTransparencyLogEntry(w.Material.LogEntries[i].proto())
		if err != nil {
			return nil, fmt.Errorf("a log entry cannot be read: %s", quote(err.Error()))
		}
		e.entries = append(e.entries, entry)
	}
	if t := w.Material.Timestamps; t != nil {
		for _, token := range t.RFC3161 {
			e.tokens = append(e.tokens, token.SignedTimestamp)
		}
	}
	return e, nil
}

func (e *entity) VerificationContent() (verify.VerificationContent, error) {
	return sigbundle.NewCertificate(e.leaf), nil
}
func (e *entity) SignatureContent() (verify.SignatureContent, error) { return e.envelope, nil }
func (e *entity) TlogEntries() ([]*tlog.Entry, error)                { return e.entries, nil }
func (e *entity) Timestamps() ([][]byte, error)                      { return e.tokens, nil }

// checkEntries wants each entry in the form of Rekor v2 to be about this signature and certificate, field by field and whatever its checkpoint looks like.
func (e *entity) checkEntries() error {
	for _, entry := range e.entries {
		if !entry.IsRekorV2() {
			continue
		}
		certificate, ok := entry.PublicKey().(*x509.Certificate)
		if !ok || !certificate.Equal(e.leaf) || !bytes.Equal(entry.Signature(), e.sig) {
			return errors.New("a log entry is about another signature")
		}
	}
	return nil
}

// checkTimes says which entry, if any, claims a time when the certificate was not valid.
func (e *entity) checkTimes() error {
	for _, entry := range e.entries {
		if t := entry.IntegratedTime(); !t.IsZero() && (t.Before(e.leaf.NotBefore) || t.After(e.leaf.NotAfter)) {
			return notValidAt(e.leaf, t)
		}
	}
	return nil
}

// proto is the entry as sigstore-go takes it, member by member.
func (e *wireLogEntry) proto() *protorekor.TransparencyLogEntry {
	p := &protorekor.TransparencyLogEntry{
		LogIndex:          int64(e.LogIndex),
		IntegratedTime:    int64(e.IntegratedTime),
		CanonicalizedBody: e.CanonicalizedBody,
	}
	if id := e.LogID; id != nil {
		p.LogId = &protocommon.LogId{KeyId: id.KeyID}
	}
	if k := e.KindVersion; k != nil {
		p.KindVersion = &protorekor.KindVersion{Kind: k.Kind, Version: k.Version}
	}
	if s := e.InclusionPromise; s != nil {
		p.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: s.SignedEntryTimestamp}
	}
	if i := e.InclusionProof; i != nil {
		p.InclusionProof = &protorekor.InclusionProof{LogIndex: int64(i.LogIndex), RootHash: i.RootHash, TreeSize: int64(i.TreeSize)}
		for _, h := range i.Hashes {
			p.InclusionProof.Hashes = append(p.InclusionProof.Hashes, h)
		}
		if c := i.Checkpoint; c != nil {
			p.InclusionProof.Checkpoint = &protorekor.Checkpoint{Envelope: c.Envelope}
		}
	}
	return p
}

// earliest returns the first of at least one times.
func earliest(times []verify.TimestampVerificationResult) time.Time {
	return slices.MinFunc(times, func(a, b verify.TimestampVerificationResult) int { return a.Timestamp.Compare(b.Timestamp) }).Timestamp.UTC()
}

func notValidAt(leaf *x509.Certificate, t time.Time) error {
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	return fmt.Errorf("the certificate, of %s to %s, was not valid when the signature was made, at %s", stamp(leaf.NotBefore), stamp(leaf.NotAfter), stamp(t))
}
