package bundle

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// ErrPassword is returned for an encrypted private key and a wrong password or none.
var ErrPassword = errors.New("wrong or missing password")

// A KeyError says that a key is of a kind that this package does not use.
type KeyError struct {
	Kind string // what the key is: `RSA of 1024 bits`, `ECDSA P-224`
}

func (e *KeyError) Error() string {
	return fmt.Sprintf("the key is %s, not ECDSA P-256, P-384 or P-521 (OMS §4.1), nor Ed25519 or RSA of %d to %d bits", e.Kind, minRSABits, maxRSABits)
}

// maxKeyFile is the largest key file in bytes. The longest key, RSA of 16384 bits, has 13 KiB, and openssl may write as much text around it again.
const maxKeyFile = 64 << 10

// PEM block types of keys.
const (
	pemPublic          = "PUBLIC KEY"
	pemPKCS8           = "PRIVATE KEY"
	pemPKCS8Encrypted  = "ENCRYPTED PRIVATE KEY"
	pemSEC1            = "EC PRIVATE KEY"
	pemSEC1Parameters  = "EC PARAMETERS" // openssl ecparam -genkey writes it before the key, which repeats it
	pemPKCS1           = "RSA PRIVATE KEY"
	pemPKCS1Public     = "RSA PUBLIC KEY"
	pemSigstore        = "ENCRYPTED SIGSTORE PRIVATE KEY"
	pemSigstoreBefore2 = "ENCRYPTED COSIGN PRIVATE KEY"
)

// ParsePrivateKey reads the one PEM private key of a file: SEC1 ("EC PRIVATE KEY"), PKCS#1 ("RSA PRIVATE KEY"), PKCS#8 ("PRIVATE KEY"), all also encrypted as openssl does it
// ("Proc-Type: 4,ENCRYPTED" and "ENCRYPTED PRIVATE KEY", PBES2 with PBKDF2 or scrypt), and cosign's form ("ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY").
// The key is an *[ecdsa.PrivateKey], an [ed25519.PrivateKey] or an *[rsa.PrivateKey] of 2048 to 16384 bits.
// Lines of text before the key and an "EC PARAMETERS" block are skipped, as openssl does.
//
// password is called at most once, and only for an encrypted key of a form that can be read. A nil password or a wrong one: [ErrPassword].
// Keys on other curves, of other kinds and sizes: [*KeyError]. Public keys, certificates, two keys and files without a key
// get an error that says what was found. No error repeats what the file says.
func ParsePrivateKey(data []byte, password func() ([]byte, error)) (crypto.Signer, error) {
	key, err := parsePrivateKey(data, password)
	if err != nil {
		return nil, fmt.Errorf("parse private key: %w", err)
	}
	return key, nil
}

func parsePrivateKey(data []byte, password func() ([]byte, error)) (crypto.Signer, error) {
	block, err := onlyBlock(data)
	if err != nil {
		return nil, err
	}
	// The form of RFC 1421, for which openssl has no other use today than SEC1 and RSA keys.
	legacy := block.Headers["DEK-Info"] != "" || block.Headers["Proc-Type"] != ""
	switch block.Type {
	case pemSEC1, pemPKCS1:
		parse := parseSEC1
		if block.Type == pemPKCS1 {
			parse = parsePKCS1
		}
		if legacy {
			return decryptLegacy(block, parse, password)
		}
		return parse(block.Bytes)
	case pemPKCS8:
		if legacy {
			return nil, errors.New("PKCS#8 with encryption headers")
		}
		return parsePKCS8(block.Bytes)
	case pemPKCS8Encrypted:
		return decryptPKCS8(block.Bytes, password)
	case pemSigstore, pemSigstoreBefore2:
		return decryptSigstore(block.Bytes, password)
	case "DSA PRIVATE KEY":
		return nil, &KeyError{Kind: "DSA"}
	case "OPENSSH PRIVATE KEY":
		return nil, errors.New("the key is in OpenSSH's form, not SEC1 or PKCS#8")
	}
	return nil, fmt.Errorf("the file has %s, not a private key", blockName(block.Type))
}

// ParsePublicKey reads the one PEM public key of a file: PKIX ("PUBLIC KEY") or PKCS#1 ("RSA PUBLIC KEY"). The key is an *[ecdsa.PublicKey], an [ed25519.PublicKey]
// or an *[rsa.PublicKey] of 2048 to 16384 bits. Keys on other curves, of other kinds and sizes: [*KeyError].
// Private keys, certificates, two keys and files without a key get an error that says what was found.
func ParsePublicKey(data []byte) (crypto.PublicKey, error) {
	key, err := parsePublicKey(data)
	if err != nil {
		return nil, fmt.Errorf("parse public key: %w", err)
	}
	return key, nil
}

func parsePublicKey(data []byte) (crypto.PublicKey, error) {
	block, err := onlyBlock(data)
	if err != nil {
		return nil, err
	}
	switch block.Type {
	case pemPublic:
		if err := unknownKind(block.Bytes); err != nil {
			return nil, err
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		return usablePublicKey(key, err)
	case pemPKCS1Public:
		var public struct{ N, E *big.Int } // RFC 8017 appendix A.1.1
		if _, err := asn1.Unmarshal(block.Bytes, &public); err == nil {
			if err := unknownSize(public.N); err != nil {
				return nil, err
			}
		}
		key, err := x509.ParsePKCS1PublicKey(block.Bytes)
		return usablePublicKey(key, err)
	}
	return nil, fmt.Errorf("the file has %s, not a public key", blockName(block.Type))
}

// blockName names a PEM block type for a message.
func blockName(blockType string) string {
	switch {
	case strings.HasSuffix(blockType, "PRIVATE KEY"):
		return "a private key"
	case strings.HasSuffix(blockType, "PUBLIC KEY"):
		return "a public key"
	case strings.HasSuffix(blockType, "CERTIFICATE"):
		return "a certificate"
	}
	return "a PEM block " + quote(blockType)
}

// onlyBlock returns the one PEM block of a key file. It refuses what pem.Decode would pass over: a damaged block, a second block, text behind it.
func onlyBlock(data []byte) (*pem.Block, error) {
	blocks, err := countBlocks(data, maxKeyFile, "a key file")
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(data)
	if block != nil && block.Type == pemSEC1Parameters && blocks == 2 && begins(rest) == 1 {
		blocks--
		if block, rest = pem.Decode(rest); block != nil && block.Type != pemSEC1 {
			return nil, fmt.Errorf("%q is followed by %s", pemSEC1Parameters, blockName(block.Type))
		}
	}
	// pem.Decode goes on to the next block where one is damaged; then fewer are left than there should be.
	if block == nil || begins(rest) != blocks-1 {
		return nil, errors.New("damaged PEM")
	}
	if blocks > 1 {
		return nil, fmt.Errorf("the file has %d PEM blocks, not one", blocks)
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("the file goes on after the PEM block")
	}
	return block, nil
}

// countBlocks says how many PEM blocks a file begins; none is an error that says what the file is instead. what names the file for its limit.
func countBlocks(data []byte, limit int, what string) (int, error) {
	if len(data) > limit {
		return 0, fmt.Errorf("%d bytes are more than the limit of %d for %s", len(data), limit, what)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return 0, errors.New("the file is empty")
	}
	blocks := begins(data)
	switch {
	case blocks > 0:
		return blocks, nil
	case exactDER(data) == nil:
		return 0, errors.New("the file is DER, not PEM")
	}
	return 0, errors.New("the file is not PEM")
}

func begins(data []byte) int { return bytes.Count(data, []byte("-----BEGIN ")) }

// exactDER checks that der is one ASN.1 SEQUENCE and nothing behind it, which the parsers of private keys do not.
func exactDER(der []byte) error {
	var sequence asn1.RawValue
	rest, err := asn1.Unmarshal(der, &sequence)
	if err != nil || sequence.Tag != asn1.TagSequence || len(rest) > 0 {
		return errors.New("not one ASN.1 SEQUENCE")
	}
	return nil
}

func parseSEC1(der []byte) (crypto.Signer, error) {
	if err := exactDER(der); err != nil {
		return nil, fmt.Errorf("damaged key: %w", err)
	}
	key, err := x509.ParseECPrivateKey(der)
	if err != nil {
		var sec1 struct { // RFC 5915 §3
			Version    int
			PrivateKey []byte
			Parameters asn1.RawValue  `asn1:"optional,explicit,tag:0"`
			PublicKey  asn1.BitString `asn1:"optional,explicit,tag:1"`
		}
		if _, e := asn1.Unmarshal(der, &sec1); e == nil && sec1.Parameters.Bytes != nil {
			if e := unknownCurve(sec1.Parameters.Bytes); e != nil {
				return nil, e
			}
		}
		return nil, fmt.Errorf("damaged key: %w", err)
	}
	return usablePrivateKey(key)
}

func parsePKCS1(der []byte) (crypto.Signer, error) {
	if err := exactDER(der); err != nil {
		return nil, fmt.Errorf("damaged key: %w", err)
	}
	var pkcs1 struct { // RFC 8017 appendix A.1.2, its beginning
		Version int
		N       *big.Int
	}
	if _, err := asn1.Unmarshal(der, &pkcs1); err == nil {
		if err := unknownSize(pkcs1.N); err != nil {
			return nil, err
		}
	}
	key, err := x509.ParsePKCS1PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("damaged key: %w", err)
	}
	return usablePrivateKey(key)
}

func parsePKCS8(der []byte) (crypto.Signer, error) {
	if err := exactDER(der); err != nil {
		return nil, fmt.Errorf("damaged key: %w", err)
	}
	if err := unknownKind(der); err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("damaged key: %w", err)
	}
	return usablePrivateKey(key)
}

var (
	oidECDSA   = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidP256    = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	oidP384    = asn1.ObjectIdentifier{1, 3, 132, 0, 34}
	oidP521    = asn1.ObjectIdentifier{1, 3, 132, 0, 35}
	oidRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}
)

// unknownKind returns a *KeyError if a PKCS#8 or PKIX key names an algorithm, curve or size that is not ours, and nil for one that is and for what is neither.
// The parsers report such keys like damaged ones, if they know them at all, and check a number of any size.
func unknownKind(der []byte) error {
	var private struct { // RFC 5958 §2, without the attributes
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
	}
	var public struct { // RFC 5280 §4.1
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	var algorithm pkix.AlgorithmIdentifier
	var modulus *big.Int
	if _, err := asn1.Unmarshal(der, &private); err == nil {
		algorithm = private.Algorithm
		var pkcs1 struct {
			Version int
			N       *big.Int
		}
		if _, err := asn1.Unmarshal(private.Key, &pkcs1); err == nil {
			modulus = pkcs1.N
		}
	} else if _, err := asn1.Unmarshal(der, &public); err == nil {
		algorithm = public.Algorithm
		var pkcs1 struct{ N, E *big.Int }
		if _, err := asn1.Unmarshal(public.Key.Bytes, &pkcs1); err == nil {
			modulus = pkcs1.N
		}
	} else {
		return nil
	}
	switch {
	case algorithm.Algorithm.Equal(oidECDSA):
		return unknownCurve(algorithm.Parameters.FullBytes)
	case algorithm.Algorithm.Equal(oidRSA):
		return unknownSize(modulus)
	case algorithm.Algorithm.Equal(oidEd25519):
		return nil
	}
	return &KeyError{Kind: algorithmName(algorithm.Algorithm)}
}

// unknownSize returns a *KeyError if an RSA modulus is too short or too long; nil if there is none.
func unknownSize(modulus *big.Int) error {
	if modulus == nil {
		return nil
	}
	if bits := modulus.BitLen(); bits < minRSABits || bits > maxRSABits {
		return &KeyError{Kind: rsaKind(bits)}
	}
	return nil
}

// rsaKind names an RSA key, by its size too where that is what is wrong with it.
func rsaKind(bits int) string {
	if bits < minRSABits || bits > maxRSABits {
		return fmt.Sprintf("RSA of %d bits", bits)
	}
	return "RSA"
}

// unknownCurve returns a *KeyError if the parameters of an ECDSA key name a curve that is not ours, or spell one out.
func unknownCurve(params []byte) error {
	var curve asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(params, &curve); err != nil {
		return &KeyError{Kind: "ECDSA on a curve without a name"}
	}
	if !curve.Equal(oidP256) && !curve.Equal(oidP384) && !curve.Equal(oidP521) {
		return &KeyError{Kind: "ECDSA " + curveName(curve)}
	}
	return nil
}

func algorithmName(id asn1.ObjectIdentifier) string {
	switch id.String() {
	case "1.2.840.113549.1.1.10":
		return "RSA-PSS"
	case "1.2.840.10040.4.1":
		return "DSA"
	case "1.3.101.110":
		return "X25519"
	case "1.3.101.113":
		return "Ed448"
	}
	return "of algorithm " + id.String()
}

func curveName(id asn1.ObjectIdentifier) string {
	switch id.String() {
	case "1.2.840.10045.3.1.1":
		return "P-192"
	case "1.3.132.0.33":
		return "P-224"
	case "1.3.132.0.10":
		return "secp256k1"
	}
	return "on curve " + id.String()
}

// usablePublicKey returns a parser's key as one that this package verifies with, or a *KeyError.
func usablePublicKey(key crypto.PublicKey, err error) (crypto.PublicKey, error) {
	if err != nil {
		return nil, fmt.Errorf("damaged key: %w", err)
	}
	if _, err := algorithmOf(key); err != nil {
		return nil, err
	}
	return key, nil
}

// usablePrivateKey returns key as one that this package signs with and writes, or a *KeyError.
func usablePrivateKey(key any) (crypto.Signer, error) {
	var private crypto.Signer
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		if k != nil {
			private = k
		}
	case *rsa.PrivateKey:
		if k != nil {
			private = k
		}
	case ed25519.PrivateKey:
		if len(k) == ed25519.PrivateKeySize {
			private = k
		}
	}
	if private == nil {
		return nil, &KeyError{Kind: kindOf(key)}
	}
	if _, err := algorithmOf(private.Public()); err != nil {
		return nil, err
	}
	return private, nil
}

// kindOf names the kind of a key. For those that this package uses it is one of `ECDSA P-256`, `ECDSA P-384`, `ECDSA P-521`, `Ed25519` and `RSA`.
func kindOf(key any) string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k != nil && k.N != nil {
			return rsaKind(k.N.BitLen())
		}
		return "missing"
	case *rsa.PrivateKey:
		if k != nil {
			return kindOf(&k.PublicKey)
		}
		return "missing"
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return fmt.Sprintf("Ed25519 of %d bytes", len(k))
		}
		return "Ed25519"
	case ed25519.PrivateKey:
		if len(k) != ed25519.PrivateKeySize {
			return fmt.Sprintf("Ed25519 of %d bytes", len(k))
		}
		return "Ed25519"
	case *ecdsa.PublicKey:
		if k != nil && k.Curve != nil {
			return "ECDSA " + k.Curve.Params().Name
		}
		return "missing"
	case *ecdsa.PrivateKey:
		if k != nil {
			return kindOf(&k.PublicKey)
		}
		return "missing"
	case nil:
		return "missing"
	}
	return fmt.Sprintf("a %T", key)
}

// Fingerprint is the lower-case hex SHA-256 of [MarshalPublicKey]: what `sha256sum key.pub` prints, and OMS's publicKey.hint (OMS §4.1).
func Fingerprint(key crypto.PublicKey) (string, error) {
	text, err := MarshalPublicKey(key)
	if err != nil {
		return "", err
	}
	return fingerprintOf(text), nil
}

func fingerprintOf(publicPEM []byte) string {
	sum := sha256.Sum256(publicPEM)
	return hex.EncodeToString(sum[:])
}

// MarshalPublicKey writes a public key as PKIX PEM: lines of 64 characters, each ended by one line feed, as openssl writes it.
// Keys on other curves, of other kinds and sizes: [*KeyError].
func MarshalPublicKey(key crypto.PublicKey) ([]byte, error) {
	if _, err := algorithmOf(key); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("marshal public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: der}), nil
}

// GenerateKey makes a key of a kind: ECDSA "p256", "p384" or "p521" (OMS §4.1), "ed25519", or RSA "rsa2048", "rsa3072" or "rsa4096".
func GenerateKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "p256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "p384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "p521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ed25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case "rsa2048":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "rsa3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "rsa4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	}
	return nil, fmt.Errorf("generate key: %s is not p256, p384, p521, ed25519, rsa2048, rsa3072 or rsa4096", quote(kind))
}

// MarshalPrivateKey writes a private key as PKCS#8 PEM, which openssl reads. A password that is not empty encrypts it
// (PBES2: AES-256 in CBC mode, PBKDF2 with HMAC-SHA-256). A key that lies elsewhere, as in a token, and one that this package does not use are a [*KeyError].
func MarshalPrivateKey(key crypto.Signer, password []byte) ([]byte, error) {
	usable, err := usablePrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("marshal private key: %w", err)
	}
	block := pem.Block{Type: pemPKCS8}
	if block.Bytes, err = x509.MarshalPKCS8PrivateKey(usable); err != nil {
		return nil, fmt.Errorf("marshal private key: %w", err)
	}
	if len(password) > 0 {
		block.Type = pemPKCS8Encrypted
		if block.Bytes, err = encryptPKCS8(block.Bytes, password); err != nil {
			return nil, fmt.Errorf("marshal private key: %w", err)
		}
	}
	return pem.EncodeToMemory(&block), nil
}
