//go:build pkcs11 && cgo

package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/big"
	"strconv"
	"strings"
	"sync"

	"github.com/miekg/pkcs11"
)

// Of PKCS#11 v3.0; the binding has the names of v2.40.
const (
	ckkECEdwards = 0x40
	ckmEdDSA     = 0x1057
)

// maxObjects is how many objects of a token that match are looked at. One is
// wanted; more are only named in the error.
const maxObjects = 20

// A tokenKey is a private key in a token, in one session. It is used by one
// goroutine at a time: a session has one signature in the making.
type tokenKey struct {
	mu      sync.Mutex
	module  *pkcs11.Ctx
	session pkcs11.SessionHandle
	key     pkcs11.ObjectHandle
	public  crypto.PublicKey
	// again is the PIN, where the token wants it for each signature
	// (CKA_ALWAYS_AUTHENTICATE).
	again string
}

// openTokenKey finds the one token and in it the one private key that the URI
// names. pin is called at most once, for a token that is the only one to match:
// no PIN is shown to a token that may not be meant, and none is tried twice,
// because tokens count and lock.
func openTokenKey(u *tokenURI, pin func(token string) (string, error)) (key *tokenKey, err error) {
	file, err := u.module()
	if err != nil {
		return nil, err
	}
	module := pkcs11.New(file)
	if module == nil {
		return nil, fmt.Errorf("%s is not a PKCS#11 module that this program can load", quote(file))
	}
	defer func() {
		if err != nil {
			_ = module.Finalize() // the error that is returned came first
			module.Destroy()
		}
	}()
	if err := module.Initialize(); err != nil {
		return nil, fmt.Errorf("initialize the module %s: %w", quote(file), err)
	}
	slot, token, err := findToken(module, u.token)
	if err != nil {
		return nil, err
	}
	session, err := module.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return nil, fmt.Errorf("open token %s: %w", quote(token.Label), err)
	}
	secret := ""
	if token.Flags&pkcs11.CKF_LOGIN_REQUIRED != 0 {
		if secret, err = pin(quote(token.Label)); err != nil {
			return nil, err
		}
		if err := login(module, session, pkcs11.CKU_USER, secret); err != nil {
			return nil, fmt.Errorf("token %s: %w", quote(token.Label), err)
		}
	}
	k := &tokenKey{module: module, session: session}
	if err := k.find(u.object, secret); err != nil {
		return nil, fmt.Errorf("token %s: %w", quote(token.Label), err)
	}
	return k, nil
}

func login(module *pkcs11.Ctx, session pkcs11.SessionHandle, user uint, pin string) error {
	err := module.Login(session, user, pin)
	switch {
	case errors.Is(err, pkcs11.Error(pkcs11.CKR_PIN_INCORRECT)):
		return fmt.Errorf("the PIN is wrong; it was tried once, and tokens lock after a few wrong ones: %w", err)
	case errors.Is(err, pkcs11.Error(pkcs11.CKR_PIN_LOCKED)):
		return fmt.Errorf("the PIN is locked: %w", err)
	case err != nil:
		return fmt.Errorf("log in: %w", err)
	}
	return nil
}

// findToken returns the slot of the one token that has all wanted attributes.
func findToken(module *pkcs11.Ctx, want map[string]string) (uint, pkcs11.TokenInfo, error) {
	library, err := module.GetInfo()
	if err != nil {
		return 0, pkcs11.TokenInfo{}, fmt.Errorf("ask the module who it is: %w", err)
	}
	slots, err := module.GetSlotList(true)
	if err != nil {
		return 0, pkcs11.TokenInfo{}, fmt.Errorf("list the tokens: %w", err)
	}
	var slot uint
	var found pkcs11.TokenInfo
	var all, matching []string
	for _, id := range slots {
		token, err := module.GetTokenInfo(id)
		if err != nil {
			continue // taken out since
		}
		if token.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		reader, err := module.GetSlotInfo(id)
		if err != nil {
			continue
		}
		has := map[string]string{
			"token":                token.Label,
			"manufacturer":         token.ManufacturerID,
			"serial":               token.SerialNumber,
			"model":                token.Model,
			"library-manufacturer": library.ManufacturerID,
			"library-description":  library.LibraryDescription,
			"library-version":      fmt.Sprintf("%d.%d", library.LibraryVersion.Major, library.LibraryVersion.Minor),
			"slot-manufacturer":    reader.ManufacturerID,
			"slot-description":     reader.SlotDescription,
			"slot-id":              strconv.FormatUint(uint64(id), 10),
		}
		name := fmt.Sprintf("%s (serial %s, slot-id %d)", quote(token.Label), quote(token.SerialNumber), id)
		all = append(all, name)
		matches := true
		for attribute := range maps.Keys(want) {
			matches = matches && has[attribute] == want[attribute]
		}
		if matches {
			matching = append(matching, name)
			slot, found = id, token
		}
	}
	switch {
	case len(all) == 0:
		return 0, found, errors.New("the module has no token")
	case len(matching) == 0:
		return 0, found, fmt.Errorf("no token is the one of the URI; there are %s", few(all))
	case len(matching) > 1:
		return 0, found, fmt.Errorf("%d tokens match, and none was opened: %s", len(matching), few(matching))
	}
	return slot, found, nil
}

// few lists names, not too many.
func few(names []string) string {
	if len(names) > maxObjects {
		return strings.Join(names[:maxObjects], ", ") + " and more"
	}
	return strings.Join(names, ", ")
}

// find finds the one private key that has all wanted attributes, and its public
// half.
func (k *tokenKey) find(want map[string]string, pin string) error {
	template := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)}
	if label, ok := want["object"]; ok {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
	}
	if id, ok := want["id"]; ok {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(id)))
	}
	keys, err := k.objects(template)
	if err != nil {
		return fmt.Errorf("find the private key: %w", err)
	}
	if len(keys) == 0 {
		// Without the wish the error can say what there is.
		if keys, err = k.objects(template[:1]); err != nil {
			return fmt.Errorf("list the private keys: %w", err)
		}
		if len(keys) == 0 {
			return errors.New("there is no private key")
		}
		return fmt.Errorf("no private key is the one of the URI; there are %s", k.names(keys))
	}
	if len(keys) > 1 {
		return fmt.Errorf("%d private keys match, and one is wanted: %s", len(keys), k.names(keys))
	}
	k.key = keys[0]
	if always := k.value(k.key, pkcs11.CKA_ALWAYS_AUTHENTICATE); len(always) == 1 && always[0] != 0 {
		k.again = pin
	}
	if k.public, err = k.findPublic(); err != nil {
		return fmt.Errorf("private key %s: %w", k.name(k.key), err)
	}
	return nil
}

// objects finds objects: at most maxObjects and one more.
func (k *tokenKey) objects(template []*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := k.module.FindObjectsInit(k.session, template); err != nil {
		return nil, err
	}
	// Modules may give fewer than they were asked for; none is the end.
	var found []pkcs11.ObjectHandle
	for len(found) <= maxObjects {
		more, _, err := k.module.FindObjects(k.session, maxObjects+1-len(found))
		if err != nil {
			return nil, errors.Join(err, k.module.FindObjectsFinal(k.session))
		}
		if len(more) == 0 {
			break
		}
		found = append(found, more...)
	}
	return found, k.module.FindObjectsFinal(k.session)
}

// value is an attribute of an object; nil: it has none, or does not show it.
func (k *tokenKey) value(object pkcs11.ObjectHandle, attribute uint) []byte {
	values, err := k.module.GetAttributeValue(k.session, object, []*pkcs11.Attribute{pkcs11.NewAttribute(attribute, nil)})
	if err != nil || len(values) != 1 {
		return nil
	}
	return values[0].Value
}

// number is an attribute of type CK_ULONG, in the machine's own form; the
// highest number stands for one that is not there.
func (k *tokenKey) number(object pkcs11.ObjectHandle, attribute uint) uint64 {
	switch v := k.value(object, attribute); len(v) {
	case 4:
		return uint64(binary.NativeEndian.Uint32(v))
	case 8:
		return binary.NativeEndian.Uint64(v)
	}
	return math.MaxUint64
}

func (k *tokenKey) name(object pkcs11.ObjectHandle) string {
	return fmt.Sprintf("%s (id %x)", quote(string(k.value(object, pkcs11.CKA_LABEL))), k.value(object, pkcs11.CKA_ID))
}

func (k *tokenKey) names(objects []pkcs11.ObjectHandle) string {
	names := make([]string, len(objects))
	for i, o := range objects {
		names[i] = k.name(o)
	}
	return few(names)
}

// findPublic finds the public half: a public key with the private key's CKA_ID,
// else a certificate with it. Keys without an ID are paired by their label.
func (k *tokenKey) findPublic() (crypto.PublicKey, error) {
	pair := pkcs11.NewAttribute(pkcs11.CKA_ID, k.value(k.key, pkcs11.CKA_ID))
	if len(pair.Value) == 0 {
		pair = pkcs11.NewAttribute(pkcs11.CKA_LABEL, k.value(k.key, pkcs11.CKA_LABEL))
	}
	for _, class := range []uint{pkcs11.CKO_PUBLIC_KEY, pkcs11.CKO_CERTIFICATE} {
		objects, err := k.objects([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pair})
		if err != nil {
			return nil, fmt.Errorf("find the public key: %w", err)
		}
		var public interface{ Equal(crypto.PublicKey) bool }
		for _, object := range objects {
			key, err := k.parsePublic(class, object)
			if err != nil {
				return nil, err
			}
			if public != nil && !public.Equal(key) {
				return nil, errors.New("the token has two public keys for it")
			}
			known, ok := key.(interface{ Equal(crypto.PublicKey) bool })
			if !ok {
				return nil, fmt.Errorf("its public key is a %T", key)
			}
			public = known
		}
		if public != nil {
			return public, nil
		}
	}
	return nil, errors.New("the token has no public key and no certificate for it (same CKA_ID)")
}

func (k *tokenKey) parsePublic(class uint, object pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	if class == pkcs11.CKO_CERTIFICATE {
		cert, err := x509.ParseCertificate(k.value(object, pkcs11.CKA_VALUE))
		if err != nil {
			return nil, fmt.Errorf("its certificate: %w", err)
		}
		return cert.PublicKey, nil
	}
	switch kind := k.number(object, pkcs11.CKA_KEY_TYPE); kind {
	case pkcs11.CKK_EC:
		return parseECPoint(k.value(object, pkcs11.CKA_EC_PARAMS), k.value(object, pkcs11.CKA_EC_POINT))
	case ckkECEdwards:
		return parseEdwardsPoint(k.value(object, pkcs11.CKA_EC_POINT))
	case pkcs11.CKK_RSA:
		n := new(big.Int).SetBytes(k.value(object, pkcs11.CKA_MODULUS))
		e := new(big.Int).SetBytes(k.value(object, pkcs11.CKA_PUBLIC_EXPONENT))
		if n.Sign() == 0 || e.Sign() == 0 || e.BitLen() > 31 {
			return nil, errors.New("its public RSA key is not one")
		}
		return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
	default:
		return nil, fmt.Errorf("its public key is of a kind (CKK %#x) that is not used", kind)
	}
}

// octets takes a DER OCTET STRING off a point, as the standard has it; some
// tokens give the bare point.
func octets(point []byte) []byte {
	var inner []byte
	if rest, err := asn1.Unmarshal(point, &inner); err == nil && len(rest) == 0 {
		return inner
	}
	return point
}

func parseECPoint(params, point []byte) (crypto.PublicKey, error) {
	var oid asn1.ObjectIdentifier
	if rest, err := asn1.Unmarshal(params, &oid); err != nil || len(rest) > 0 {
		return nil, errors.New("its curve has no name")
	}
	var curve elliptic.Curve
	switch oid.String() {
	case "1.2.840.10045.3.1.7":
		curve = elliptic.P256()
	case "1.3.132.0.34":
		curve = elliptic.P384()
	case "1.3.132.0.35":
		curve = elliptic.P521()
	default:
		return nil, fmt.Errorf("its curve %s is not P-256, P-384 or P-521 (OMS §4.1)", oid)
	}
	// A bare point begins with 4, which is also the tag of an OCTET STRING: what
	// parses as a point is one.
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		key, err = ecdsa.ParseUncompressedPublicKey(curve, octets(point))
	}
	if err != nil {
		return nil, fmt.Errorf("its public key: %w", err)
	}
	return key, nil
}

func parseEdwardsPoint(point []byte) (crypto.PublicKey, error) {
	if len(point) != ed25519.PublicKeySize {
		point = octets(point)
	}
	if len(point) != ed25519.PublicKeySize {
		return nil, errors.New("its public key is not of Ed25519")
	}
	return ed25519.PublicKey(bytes.Clone(point)), nil
}

func (k *tokenKey) Public() crypto.PublicKey { return k.public }

// Sign signs a digest: ECDSA in ASN.1 DER, RSA by PKCS#1 v1.5. With an Ed25519
// key it signs the message itself (opts.HashFunc() is 0).
func (k *tokenKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	hash := opts.HashFunc()
	if hash != 0 && len(digest) != hash.Size() {
		return nil, fmt.Errorf("sign in the token: a digest of %d bytes is not one of %v", len(digest), hash)
	}
	var mechanism uint
	message := digest
	switch public := k.public.(type) {
	case *ecdsa.PublicKey:
		mechanism = pkcs11.CKM_ECDSA
		// What is longer than the curve's order is cut (FIPS 186-5 §6.4.1); not
		// every token does that.
		if size := (public.Params().N.BitLen() + 7) / 8; len(message) > size {
			message = message[:size]
		}
	case *rsa.PublicKey:
		if _, pss := opts.(*rsa.PSSOptions); pss {
			return nil, errors.New("sign in the token: RSA-PSS is not used")
		}
		mechanism = pkcs11.CKM_RSA_PKCS
		var err error
		if message, err = digestInfo(hash, digest); err != nil {
			return nil, err
		}
	case ed25519.PublicKey:
		if hash != 0 {
			return nil, errors.New("sign in the token: Ed25519 signs the message, not a digest")
		}
		mechanism = ckmEdDSA
	default:
		return nil, fmt.Errorf("sign in the token: not with a %T", public)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.module == nil {
		return nil, errors.New("sign in the token: it is closed")
	}
	if err := k.module.SignInit(k.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, k.key); err != nil {
		return nil, fmt.Errorf("sign in the token: %w", err)
	}
	if k.again != "" {
		if err := login(k.module, k.session, pkcs11.CKU_CONTEXT_SPECIFIC, k.again); err != nil {
			return nil, fmt.Errorf("sign in the token: %w", err)
		}
	}
	signature, err := k.module.Sign(k.session, message)
	if err != nil {
		return nil, fmt.Errorf("sign in the token: %w", err)
	}
	if mechanism == pkcs11.CKM_ECDSA {
		return derSignature(signature)
	}
	return signature, nil
}

// derSignature makes ASN.1 DER of a token's r and s, which lie side by side at
// equal length (PKCS#11 v2.40, Current Mechanisms §2.3.1).
func derSignature(raw []byte) ([]byte, error) {
	if len(raw) == 0 || len(raw)%2 != 0 {
		return nil, fmt.Errorf("sign in the token: %d bytes are no ECDSA signature", len(raw))
	}
	half := len(raw) / 2
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:])})
}

// digestInfo is what PKCS#1 v1.5 pads (RFC 8017 §9.2).
func digestInfo(hash crypto.Hash, digest []byte) ([]byte, error) {
	var id asn1.ObjectIdentifier
	switch hash {
	case crypto.SHA256:
		id = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	case crypto.SHA384:
		id = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}
	case crypto.SHA512:
		id = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}
	default:
		return nil, fmt.Errorf("sign in the token: RSA with %v is not used", hash)
	}
	return asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}{pkix.AlgorithmIdentifier{Algorithm: id, Parameters: asn1.NullRawValue}, digest})
}

// Close logs out and lets go of the module. It leaves alone a token that is
// signing, as after an interrupt: a module may not be ended under a call, and
// the end of the program ends both.
func (k *tokenKey) Close() error {
	if !k.mu.TryLock() {
		return nil
	}
	defer k.mu.Unlock()
	if k.module == nil {
		return nil
	}
	err := k.module.Finalize()
	k.module.Destroy()
	k.module, k.again = nil, ""
	return err
}
