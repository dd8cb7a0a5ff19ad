package bundle

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sigstore/sigstore-go/pkg/sign"
)

const (
	// maxIntermediates is how many certificates a bundle may carry beside the leaf, and how long a chain may be that is signed with.
	// Public hierarchies have one or two intermediates, bridges between companies four.
	maxIntermediates = 10
	// maxCertificate is the largest certificate in bytes of DER. One with two RSA numbers of 16384 bits has 5 KiB; the rest is names.
	maxCertificate = 64 << 10
	// maxCertificateFile and maxCertificates bound a file of certificates, in bytes of PEM and in number.
	// Whole lists of web roots, the largest files there are, have 230 KiB and 150 certificates.
	maxCertificateFile = 1 << 20
	maxCertificates    = 256
	// maxNamesShown bounds how many names of a certificate stand in an error.
	maxNamesShown = 8
)

const pemCertificate = "CERTIFICATE"

var (
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidExtendedKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// ParseCertificates reads the PEM certificates of a file, at least one ("CERTIFICATE", RFC 7468 §5), in the file's order.
// Text before, between and behind them is skipped, as openssl does; blocks of any other kind are refused, and so are damaged ones.
// A file may have 1 MiB and 256 certificates, a certificate 64 KiB and an RSA key of at most 16384 bits.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	certs, err := parseCertificates(data)
	if err != nil {
		return nil, fmt.Errorf("parse certificates: %w", err)
	}
	return certs, nil
}

func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	blocks, err := countBlocks(data, maxCertificateFile, "a file of certificates")
	if err != nil {
		return nil, err
	}
	if blocks > maxCertificates {
		return nil, fmt.Errorf("%d PEM blocks are more than the limit of %d", blocks, maxCertificates)
	}
	certs := make([]*x509.Certificate, 0, blocks)
	for left := blocks - 1; left >= 0; left-- {
		block, rest := pem.Decode(data)
		// pem.Decode goes on to the next block where one is damaged; then fewer are left than there should be.
		if block == nil || begins(rest) != left {
			return nil, fmt.Errorf("PEM block %d of %d is damaged", blocks-left, blocks)
		}
		if block.Type != pemCertificate || len(block.Headers) > 0 {
			return nil, fmt.Errorf("PEM block %d of %d is %s, not a plain %q", blocks-left, blocks, blockName(block.Type), pemCertificate)
		}
		cert, err := parseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of %d: %w", blocks-left, blocks, err)
		}
		certs, data = append(certs, cert), rest
	}
	return certs, nil
}

// parseCertificate reads one certificate, and bounds what checking signatures with its key costs.
func parseCertificate(der []byte) (*x509.Certificate, error) {
	if len(der) > maxCertificate {
		return nil, fmt.Errorf("%d bytes are more than the limit of %d", len(der), maxCertificate)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.New(foreign(err))
	}
	if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSABits {
		return nil, &KeyError{Kind: kindOf(key)}
	}
	return cert, nil
}

// foreign is the text of a library's error, which may repeat foreign text, in one line of bounded length.
func foreign(err error) string {
	text := strings.TrimPrefix(err.Error(), "x509: ")
	if strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) || !utf8.ValidString(text) {
		return quote(text)
	}
	return clip(text)
}

// subjectOf names a certificate in an error.
func subjectOf(cert *x509.Certificate) string { return quote(cert.Subject.String()) }

// selfSigned says whether a certificate is signed with its own key. Names alone say nothing: an issuer may have given its own name away.
func selfSigned(cert *x509.Certificate) bool {
	return bytes.Equal(cert.RawSubject, cert.RawIssuer) &&
		cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}

// checkUsage holds rule by rule what a certificate must be for, to sign a model. CAs may: OMS has no rule against it, and such certificates are in use.
func checkUsage(leaf *x509.Certificate) error {
	has := func(id asn1.ObjectIdentifier) bool {
		for _, e := range leaf.Extensions {
			if e.Id.Equal(id) {
				return true
			}
		}
		return false
	}
	if has(oidKeyUsage) && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return errors.New("its key usage is without digitalSignature (RFC 5280 §4.2.1.3)")
	}
	if has(oidExtendedKeyUsage) {
		if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageCodeSigning) { // anyExtendedKeyUsage is not meant for this
			return errors.New("its extended key usage is without codeSigning (RFC 5280 §4.2.1.12)")
		}
	} else if !has(oidKeyUsage) {
		return errors.New("it has neither key usage nor extended key usage: nothing says that it is for signatures")
	}
	return nil
}

// A nameType is a type of subject alternative name that can be an identity (RFC 5280 §4.2.1.6), by its context-specific tag.
type nameType int

const (
	nameEmail nameType = 1
	nameDNS   nameType = 2
	nameURI   nameType = 6
)

// A certName is one subject alternative name.
type certName struct {
	kind nameType
	text string
}

// parseIdentity says which type of name an identity is, and its text without the type.
func parseIdentity(identity string) certName {
	switch {
	case strings.Contains(identity, "://"):
		return certName{nameURI, identity}
	case strings.Contains(identity, "@"):
		return certName{nameEmail, identity}
	}
	return certName{nameDNS, strings.TrimPrefix(identity, "dns:")}
}

// String writes a name so that its type can be seen, and as parseIdentity reads it where it can be read at all.
func (n certName) String() string {
	switch {
	case n.kind == nameDNS:
		return "dns:" + n.text
	case parseIdentity(n.text) == n:
		return n.text
	case n.kind == nameURI:
		return "uri:" + n.text
	}
	return "email:" + n.text
}

// namesOf returns the subject alternative names that can be identities, in the certificate's order and as they stand there. The common name is none.
func namesOf(cert *x509.Certificate) []certName {
	for _, e := range cert.Extensions {
		if !e.Id.Equal(oidSubjectAltName) {
			continue
		}
		var list []asn1.RawValue
		if err := unmarshalExactly(e.Value, &list); err != nil {
			return nil
		}
		var names []certName
		for _, v := range list {
			if kind := nameType(v.Tag); v.Class == asn1.ClassContextSpecific && (kind == nameEmail || kind == nameDNS || kind == nameURI) {
				names = append(names, certName{kind, string(v.Bytes)})
			}
		}
		return names
	}
	return nil
}

// CertificateOptions are what [NewCertificateVerifier] takes beside the chain.
type CertificateOptions struct {
	// Identity is whom a certificate must be for: with "://" a URI, with "@" an rfc822Name, else a dNSName, with or without "dns:" before it.
	// It must equal a subject alternative name of that type, byte for byte; the common name is never looked at.
	// Empty: everybody who has a certificate of the anchors that may sign code.
	Identity string

	// TimestampAnchors are the certificates of timestamp authorities: self-signed ones, which are trusted, and others, which may be needed to get there.
	// With them a token (RFC 3161) over a bundle's signature proves the time at which its certificates must be valid. Empty: they must be valid now.
	TimestampAnchors []*x509.Certificate

	// Now is the time at which certificates must be valid where no token proves another one. Nil: [time.Now].
	Now func() time.Time
}

// NewCertificateVerifier accepts bundles of method certificate whose leaf certificate leads to an anchor. Anchors are those of chain that are signed with their own key,
// at least one; the others of chain, and at most 10 of the bundle, may stand between leaf and anchor, and are never trusted by themselves. The system's roots are never used.
//
// All certificates from leaf to anchor must be valid at one time: that of a token that an authority in o.TimestampAnchors made of this very signature, else now.
// A token by anybody else, of anything else, or of a time at which the certificates were not valid counts as none. If several are good, the earliest time counts.
// The leaf's key usage, if it has one, has digitalSignature; its extended key usage, if it has one, has codeSigning; it has one of them. Name constraints hold.
// Its key is one that [NewKeyVerifier] takes. CAs may sign.
//
// The signature may also be over the encoding of OMS v0.2, by an ECDSA key with SHA-256: then the Proof is Legacy.
func NewCertificateVerifier(chain []*x509.Certificate, o CertificateOptions) (Verifier, error) {
	v := &certificateVerifier{path: newPath(), now: o.Now}
	for _, cert := range chain {
		switch {
		case cert == nil:
		case selfSigned(cert):
			v.anchors = append(v.anchors, cert)
			v.roots.AddCert(cert)
		default:
			v.intermediates = append(v.intermediates, cert)
		}
	}
	if len(v.anchors) == 0 {
		return nil, fmt.Errorf("verify with certificates: none of %d is self-signed: a root is needed", len(chain))
	}
	if o.Identity != "" {
		name := parseIdentity(o.Identity)
		if name.text == "" {
			return nil, fmt.Errorf("verify with certificates: %s is no identity", quote(o.Identity))
		}
		v.identity = &name
	}
	if len(o.TimestampAnchors) > 0 {
		authorities, err := newAuthorities(o.TimestampAnchors)
		if err != nil {
			return nil, fmt.Errorf("verify with certificates: %w", err)
		}
		v.authorities = authorities
	}
	return v, nil
}

// A path is what leads from a leaf to an anchor.
type path struct {
	roots         *x509.CertPool
	intermediates []*x509.Certificate
}

func newPath() path { return path{roots: x509.NewCertPool()} }

// check says whether leaf leads to a root over the path's intermediates and more, all of them valid at one time and for signing code.
func (p *path) check(leaf *x509.Certificate, more []*x509.Certificate, at time.Time) error {
	pool := x509.NewCertPool()
	for _, cert := range slices.Concat(p.intermediates, more) {
		pool.AddCert(cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots:         p.roots,
		Intermediates: pool,
		CurrentTime:   at,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	})
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired && e.Cert != nil {
		if at.Before(e.Cert.NotBefore) {
			return fmt.Errorf("the certificate of %s is not valid before %s, and this is about %s (OMS §8.2)", subjectOf(e.Cert), stamp(e.Cert.NotBefore), stamp(at))
		}
		return fmt.Errorf("the certificate of %s expired at %s, and this is about %s (OMS §8.2)", subjectOf(e.Cert), stamp(e.Cert.NotAfter), stamp(at))
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("the certificate of %s, issued by %s, does not lead to an accepted root (OMS §8.2): %s", subjectOf(leaf), quote(leaf.Issuer.String()), foreign(err))
	}
	return fmt.Errorf("the certificate of %s: %s (OMS §8.2)", subjectOf(leaf), foreign(err))
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

type certificateVerifier struct {
	path
	anchors     []*x509.Certificate
	identity    *certName        // nil: anybody
	carries     [][]byte         // what a bundle must carry, as DER, the leaf first; nil: any
	authorities *authorities     // nil: no token counts
	now         func() time.Time // nil: time.Now
}

func (v *certificateVerifier) String() string {
	name := "certificate"
	if v.identity != nil {
		name += " of " + quote(v.identity.String())
	}
	if len(v.anchors) > 0 {
		name += " under " + subjectOf(v.anchors[0])
	}
	if more := len(v.anchors) - 1; more > 0 {
		name += fmt.Sprintf(" or %d more", more)
	}
	return name
}

func (v *certificateVerifier) open(b *Bundle) (Proof, error) {
	if m := b.Method(); m != MethodCertificate {
		return Proof{}, fmt.Errorf("takes bundles of method %s only, not %s (OMS §4.1)", MethodCertificate, m)
	}
	certs, err := b.wire.certificates()
	if err != nil {
		return Proof{}, err
	}
	leaf := certs[0]
	for i, der := range v.carries {
		if i == 0 && !bytes.Equal(leaf.Raw, der) || !slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return bytes.Equal(c.Raw, der) }) {
			return Proof{}, errors.New("the bundle does not carry the signer's certificates")
		}
	}
	signer, err := v.signer(leaf)
	if err != nil {
		return Proof{}, err
	}
	key, err := newSigningKey(leaf.PublicKey)
	if err != nil {
		return Proof{}, fmt.Errorf("certificate of %s: %w", subjectOf(leaf), err)
	}
	signer.KeyFingerprint = key.fingerprint
	proof := Proof{Signer: signer}
	if err := v.checkTime(&proof, b, certs); err != nil {
		return Proof{}, err
	}
	err = key.check(b.wire.Envelope)
	if errors.Is(err, errSignature) {
		proof.Legacy = true
		err = key.checkLegacy(b.wire.Envelope)
	}
	if errors.Is(err, errSignature) {
		err = fmt.Errorf("the certificate of %s %w", subjectOf(leaf), err)
	}
	if err != nil {
		return Proof{}, err
	}
	return proof, nil
}

// signer says whose leaf it is, if it may sign and is for the accepted identity.
func (v *certificateVerifier) signer(leaf *x509.Certificate) (Identity, error) {
	if err := checkUsage(leaf); err != nil {
		return Identity{}, fmt.Errorf("the certificate of %s cannot sign a model: %w", subjectOf(leaf), err)
	}
	names := namesOf(leaf)
	signer := Identity{Method: MethodCertificate}
	if v.identity != nil {
		if !slices.Contains(names, *v.identity) {
			return Identity{}, fmt.Errorf("the certificate of %s is for %s, not for %s", subjectOf(leaf), listNames(names), quote(v.identity.String()))
		}
		signer.Subject = v.identity.String()
	} else if len(names) > 0 {
		signer.Subject = names[0].String()
	}
	return signer, nil
}

func listNames(names []certName) string {
	if len(names) == 0 {
		return "no URI, mail address or DNS name"
	}
	var list []string
	for _, name := range names[:min(len(names), maxNamesShown)] {
		list = append(list, quote(name.String()))
	}
	if more := len(names) - maxNamesShown; more > 0 {
		list = append(list, fmt.Sprintf("%d more", more))
	}
	return strings.Join(list, ", ")
}

// checkTime finds a time at which all certificates are valid, and notes it in proof where somebody proved it.
func (v *certificateVerifier) checkTime(proof *Proof, b *Bundle, certs []*x509.Certificate) error {
	var before error
	for _, t := range v.authorities.times(b) {
		err := v.check(certs[0], certs[1:], t)
		if err == nil {
			proof.Time, proof.TimeSource = t, TimeTimestamp
			return nil
		}
		before = err
	}
	now := time.Now
	if v.now != nil {
		now = v.now
	}
	err := v.check(certs[0], certs[1:], now())
	if err != nil && before != nil {
		return fmt.Errorf("at the time of its timestamp: %w; now: %w", before, err)
	}
	return err
}

// certificates returns the certificates of the material, the leaf first.
func (w *wireBundle) certificates() ([]*x509.Certificate, error) {
	list := []wireCertificate{}
	switch m := w.Material; {
	case m.Certificate != nil:
		list = append(list, *m.Certificate)
	case m.Chain != nil:
		list = m.Chain.Certificates
	}
	if len(list) == 0 {
		return nil, errors.New("the bundle has no certificate (OMS §4.1)")
	}
	if len(list)-1 > maxIntermediates {
		return nil, fmt.Errorf("%d certificates beside the leaf are more than the limit of %d", len(list)-1, maxIntermediates)
	}
	certs := make([]*x509.Certificate, 0, len(list))
	for i, c := range list {
		cert, err := parseCertificate(c.RawBytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of %d of the bundle: %w", i+1, len(list), err)
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

// NewCertificateSigner signs with key, as [NewKeySigner] does, into bundles of method certificate: the leaf, whose key it must be, and the certificates that issued it, in order,
// without a self-signed one, which every verifier has (OMS §4.1). chain may be in any order and have the leaf and the root in it; each certificate of it must
// be part of the way from the leaf upwards. It may be empty if a root issued the leaf.
//
// It refuses what no verifier would accept now: certificates that are not valid yet or no longer, a leaf that is not for signing code, a key of another kind ([*KeyError]),
// and more than 10 certificates. The signer's Verifier accepts bundles with this leaf, if they also carry the certificates that issued it.
func NewCertificateSigner(key crypto.Signer, leaf *x509.Certificate, chain []*x509.Certificate) (Signer, error) {
	s, err := newCertificateSigner(key, leaf, chain)
	if err != nil {
		return nil, fmt.Errorf("sign with a certificate: %w", err)
	}
	return s, nil
}

func newCertificateSigner(key crypto.Signer, leaf *x509.Certificate, chain []*x509.Certificate) (*certificateSigner, error) {
	if leaf == nil {
		return nil, errors.New("no certificate")
	}
	pair, err := newKeypair(key)
	if err != nil {
		return nil, err
	}
	if own, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !own.Equal(pair.public.key) {
		return nil, fmt.Errorf("the key is not that of the certificate of %s", subjectOf(leaf))
	}
	way, tops, err := order(leaf, chain)
	if err != nil {
		return nil, err
	}
	v := &certificateVerifier{path: newPath(), anchors: tops}
	for _, cert := range tops {
		v.roots.AddCert(cert)
	}
	for _, cert := range way {
		v.carries = append(v.carries, cert.Raw)
	}
	if _, err := v.signer(leaf); err != nil {
		return nil, err
	}
	if err := v.check(leaf, way[1:], time.Now()); err != nil {
		return nil, err
	}
	return &certificateSigner{keypair: pair, verifier: v}, nil
}

// order returns the way from leaf towards a root, without the root, and where it ends: at the roots in chain, or else at its last certificate.
func order(leaf *x509.Certificate, chain []*x509.Certificate) (way, tops []*x509.Certificate, err error) {
	issued := func(by, cert *x509.Certificate) bool {
		return bytes.Equal(by.RawSubject, cert.RawIssuer) && cert.CheckSignatureFrom(by) == nil
	}
	var roots, left []*x509.Certificate
	for _, cert := range chain {
		switch {
		case cert == nil || cert.Equal(leaf):
		case selfSigned(cert):
			roots = append(roots, cert)
		default:
			left = append(left, cert)
		}
	}
	way = []*x509.Certificate{leaf}
	for next := 0; next >= 0; {
		last := way[len(way)-1]
		if next = slices.IndexFunc(left, func(c *x509.Certificate) bool { return issued(c, last) }); next >= 0 {
			way = append(way, left[next])
			left = slices.DeleteFunc(left, left[next].Equal)
		}
	}
	if len(way) > maxIntermediates {
		return nil, nil, fmt.Errorf("%d certificates are more than the limit of %d", len(way), maxIntermediates)
	}
	for _, cert := range slices.Concat(left, roots) {
		if !slices.ContainsFunc(way, func(c *x509.Certificate) bool { return issued(cert, c) }) {
			return nil, nil, fmt.Errorf("the chain does not link: the certificate of %s issued none on the way from that of %s", subjectOf(cert), subjectOf(leaf))
		}
	}
	if len(roots) == 0 {
		return way, way[len(way)-1:], nil
	}
	return way, roots, nil
}

type certificateSigner struct {
	keypair  *keypair
	verifier *certificateVerifier
}

func (s *certificateSigner) Sign(ctx context.Context, payloads ...[]byte) ([]*Bundle, error) {
	return signAll(ctx, s.keypair, sign.BundleOptions{CertificateChainProvider: s}, s.verifier, payloads)
}

func (s *certificateSigner) Verifier(context.Context) (Verifier, error) { return s.verifier, nil }

// GetCertificateChain is how sigstore-go asks for what goes into the bundle.
func (s *certificateSigner) GetCertificateChain(context.Context, sign.Keypair, *sign.CertificateProviderOptions) ([][]byte, error) {
	return s.verifier.carries, nil
}
