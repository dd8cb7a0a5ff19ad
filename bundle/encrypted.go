package bundle

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"golang.org/x/crypto/scrypt"
)

// Private keys under a password. A key file says itself how much work its password costs, so each cost has a limit:
// nobody's file should make a signing machine run out of memory or of time.
const (
	// maxIterations for PBKDF2 is some seconds of SHA-256, an order of magnitude above what tools write (openssl 2,048, OWASP 600,000).
	maxIterations = 10_000_000
	// maxScryptMemory, in bytes, is 128·N·r; openssl writes 16 MiB, OWASP advises 128 MiB.
	maxScryptMemory = 256 << 20
	// maxScryptParallel bounds p, by which memory is multiplied into time; tools write 1.
	maxScryptParallel = 16
)

// iterations is what MarshalPrivateKey writes: OWASP's advice for PBKDF2 with HMAC-SHA-256.
// PBKDF2, because every reader of PKCS#8 knows it; not all know scrypt, nor with as much memory as it should have.
const iterations = 600_000

// ask calls password, once.
func ask(password func() ([]byte, error)) ([]byte, error) {
	if password == nil {
		return nil, fmt.Errorf("the key is encrypted: %w", ErrPassword)
	}
	p, err := password()
	if err != nil {
		return nil, fmt.Errorf("the key is encrypted: password: %w", err)
	}
	return p, nil
}

// decrypted judges what parsing decrypted bytes gave. A key of another kind was decrypted well; anything else that is no key was not.
func decrypted(key crypto.Signer, err error) (crypto.Signer, error) {
	if _, ok := errors.AsType[*KeyError](err); err == nil || ok {
		return key, err
	}
	return nil, fmt.Errorf("decrypt: %w", ErrPassword)
}

// decryptLegacy reads a SEC1 or PKCS#1 key encrypted as in RFC 1421. The form is weak (one round of MD5, no integrity), but many such keys exist, and reading one harms nobody.
func decryptLegacy(block *pem.Block, parse func([]byte) (crypto.Signer, error), password func() ([]byte, error)) (crypto.Signer, error) {
	//lint:ignore SA1019 there is no other reader of this form, and nothing is written in it.
	if !x509.IsEncryptedPEMBlock(block) {
		return nil, errors.New("encryption headers without a cipher")
	}
	p, err := ask(password)
	if err != nil {
		return nil, err
	}
	//lint:ignore SA1019 as above.
	der, err := x509.DecryptPEMBlock(block, p)
	if errors.Is(err, x509.IncorrectPasswordError) {
		return nil, fmt.Errorf("decrypt: %w", ErrPassword)
	}
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	return decrypted(parse(der))
}

// decryptSigstore reads the form of cosign: PKCS#8 in a NaCl secret box under scrypt, as JSON.
// An empty password is one: cosign encrypts with it.
func decryptSigstore(data []byte, password func() ([]byte, error)) (crypto.Signer, error) {
	// Looked at first, so that what is left to fail in Decrypt is the password.
	var box struct {
		KDF struct {
			Name   string                `json:"name"`
			Params struct{ N, R, P int } `json:"params"`
			Salt   []byte                `json:"salt"`
		} `json:"kdf"`
		Cipher struct {
			Name  string `json:"name"`
			Nonce []byte `json:"nonce"`
		} `json:"cipher"`
		Ciphertext []byte `json:"ciphertext"`
	}
	if err := json.Unmarshal(data, &box); err != nil {
		return nil, errors.New("damaged key: not the JSON of an encrypted key")
	}
	if box.KDF.Name != "scrypt" || box.Cipher.Name != "nacl/secretbox" || len(box.Cipher.Nonce) != 24 {
		return nil, fmt.Errorf("encrypted with %s and %s, not scrypt and nacl/secretbox", quote(box.KDF.Name), quote(box.Cipher.Name))
	}
	if err := checkScrypt(box.KDF.Params.N, box.KDF.Params.R, box.KDF.Params.P); err != nil {
		return nil, err
	}
	p, err := ask(password)
	if err != nil {
		return nil, err
	}
	der, err := encrypted.Decrypt(data, p)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", ErrPassword)
	}
	return decrypted(parsePKCS8(der))
}

// The types of PKCS#5 v2.1 (RFC 8018 appendix A) and RFC 7914 §7 that encrypted PKCS#8 is made of.

type encryptedPrivateKeyInfo struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

type pbes2Params struct {
	KDF    pkix.AlgorithmIdentifier
	Cipher pkix.AlgorithmIdentifier
}

type pbkdf2Params struct {
	Salt       []byte
	Iterations int
	KeyLength  int                      `asn1:"optional"`
	PRF        pkix.AlgorithmIdentifier `asn1:"optional"` // HMAC-SHA-1 where absent
}

type scryptParams struct {
	Salt      []byte
	N, R, P   int
	KeyLength int `asn1:"optional"`
}

var (
	oidPBES2      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidScrypt     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}
	oidHMACSHA256 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	oidAES256CBC  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

// decryptPKCS8 reads encrypted PKCS#8 (RFC 5958 §3) with PBES2 (RFC 8018 §6.2). All of its form is checked before the password is asked for.
func decryptPKCS8(der []byte, password func() ([]byte, error)) (crypto.Signer, error) {
	var info encryptedPrivateKeyInfo
	if err := unmarshalExactly(der, &info); err != nil {
		return nil, fmt.Errorf("damaged key: %w", err)
	}
	if !info.Algorithm.Algorithm.Equal(oidPBES2) {
		return nil, fmt.Errorf("encrypted with %v, not PBES2", info.Algorithm.Algorithm)
	}
	var params pbes2Params
	if err := unmarshalExactly(info.Algorithm.Parameters.FullBytes, &params); err != nil {
		return nil, fmt.Errorf("damaged key: %w", err)
	}
	newBlock, keySize, err := blockCipher(params.Cipher.Algorithm)
	if err != nil {
		return nil, err
	}
	derive, err := keyDerivation(params.KDF, keySize)
	if err != nil {
		return nil, err
	}
	var iv []byte
	if err := unmarshalExactly(params.Cipher.Parameters.FullBytes, &iv); err != nil {
		return nil, fmt.Errorf("damaged key: %w", err)
	}

	p, err := ask(password)
	if err != nil {
		return nil, err
	}
	key, err := derive(p)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	block, err := newBlock(key)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	size := block.BlockSize()
	if len(iv) != size || len(info.Data) == 0 || len(info.Data)%size != 0 {
		return nil, errors.New("damaged key: encrypted bytes are not whole blocks")
	}
	plain := make([]byte, len(info.Data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, info.Data)
	// RFC 8018 §6.1.1: n bytes of value n fill the last block. Who holds the file holds the password too, so what this comparison gives away is nobody's gain.
	n := int(plain[len(plain)-1])
	if n == 0 || n > size {
		return nil, fmt.Errorf("decrypt: %w", ErrPassword)
	}
	for _, b := range plain[len(plain)-n:] {
		if int(b) != n {
			return nil, fmt.Errorf("decrypt: %w", ErrPassword)
		}
	}
	return decrypted(parsePKCS8(plain[:len(plain)-n]))
}

// encryptPKCS8 writes what decryptPKCS8 reads.
func encryptPKCS8(der, password []byte) ([]byte, error) {
	salt, iv := make([]byte, 16), make([]byte, aes.BlockSize)
	rand.Read(salt) // never fails
	rand.Read(iv)
	key, err := pbkdf2.Key(sha256.New, string(password), salt, iterations, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	n := aes.BlockSize - len(der)%aes.BlockSize
	data := append(make([]byte, 0, len(der)+n), der...)
	for range n {
		data = append(data, byte(n))
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(data, data)

	kdf, err := asn1.Marshal(pbkdf2Params{
		Salt: salt, Iterations: iterations,
		PRF: pkix.AlgorithmIdentifier{Algorithm: oidHMACSHA256, Parameters: asn1.NullRawValue},
	})
	if err != nil {
		return nil, err
	}
	ivDER, err := asn1.Marshal(iv)
	if err != nil {
		return nil, err
	}
	params, err := asn1.Marshal(pbes2Params{
		KDF:    pkix.AlgorithmIdentifier{Algorithm: oidPBKDF2, Parameters: asn1.RawValue{FullBytes: kdf}},
		Cipher: pkix.AlgorithmIdentifier{Algorithm: oidAES256CBC, Parameters: asn1.RawValue{FullBytes: ivDER}},
	})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(encryptedPrivateKeyInfo{
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidPBES2, Parameters: asn1.RawValue{FullBytes: params}},
		Data:      data,
	})
}

func unmarshalExactly(der []byte, v any) error {
	rest, err := asn1.Unmarshal(der, v)
	if err == nil && len(rest) > 0 {
		err = errors.New("ASN.1 with bytes behind it")
	}
	return err
}

// blockCipher returns the cipher of an encryption scheme, all in CBC mode, and its key size in bytes.
func blockCipher(id asn1.ObjectIdentifier) (newBlock func([]byte) (cipher.Block, error), keySize int, err error) {
	switch id.String() {
	case "2.16.840.1.101.3.4.1.2":
		return aes.NewCipher, 16, nil
	case "2.16.840.1.101.3.4.1.22":
		return aes.NewCipher, 24, nil
	case oidAES256CBC.String():
		return aes.NewCipher, 32, nil
	case "1.2.840.113549.3.7": // openssl's default before 1.1
		return des.NewTripleDESCipher, 24, nil
	}
	return nil, 0, fmt.Errorf("encrypted with %v, not AES or 3DES in CBC mode", id)
}

// keyDerivation returns the function from password to key, its costs checked.
func keyDerivation(id pkix.AlgorithmIdentifier, keySize int) (func(password []byte) ([]byte, error), error) {
	switch {
	case id.Algorithm.Equal(oidPBKDF2):
		var p pbkdf2Params
		if err := unmarshalExactly(id.Parameters.FullBytes, &p); err != nil {
			return nil, fmt.Errorf("damaged key: PBKDF2 parameters: %w", err)
		}
		if p.Iterations < 1 || p.Iterations > maxIterations {
			return nil, fmt.Errorf("PBKDF2 with %d iterations is beyond the limit of %d", p.Iterations, maxIterations)
		}
		if p.KeyLength != 0 && p.KeyLength != keySize {
			return nil, errors.New("damaged key: PBKDF2 key length does not fit the cipher")
		}
		prf, err := pseudoRandom(p.PRF.Algorithm)
		if err != nil {
			return nil, err
		}
		return func(password []byte) ([]byte, error) {
			return pbkdf2.Key(prf, string(password), p.Salt, p.Iterations, keySize)
		}, nil
	case id.Algorithm.Equal(oidScrypt):
		var p scryptParams
		if err := unmarshalExactly(id.Parameters.FullBytes, &p); err != nil {
			return nil, fmt.Errorf("damaged key: scrypt parameters: %w", err)
		}
		if err := checkScrypt(p.N, p.R, p.P); err != nil {
			return nil, err
		}
		if p.KeyLength != 0 && p.KeyLength != keySize {
			return nil, errors.New("damaged key: scrypt key length does not fit the cipher")
		}
		return func(password []byte) ([]byte, error) {
			return scrypt.Key(password, p.Salt, p.N, p.R, p.P, keySize)
		}, nil
	}
	return nil, fmt.Errorf("key derivation is %v, not PBKDF2 or scrypt", id.Algorithm)
}

// checkScrypt bounds what deriving a key may cost. It divides, so that no product overflows.
func checkScrypt(n, r, p int) error {
	if n < 2 || r < 1 || p < 1 || p > maxScryptParallel || n > maxScryptMemory/128 || r > maxScryptMemory/128/n {
		return fmt.Errorf("scrypt with N=%d, r=%d, p=%d is beyond the limit of %d MiB and p=%d", n, r, p, maxScryptMemory>>20, maxScryptParallel)
	}
	return nil
}

// pseudoRandom returns the hash of a PBKDF2 pseudo-random function, which is always an HMAC.
func pseudoRandom(id asn1.ObjectIdentifier) (func() hash.Hash, error) {
	switch id.String() {
	case "", "1.2.840.113549.2.7":
		return sha1.New, nil
	case "1.2.840.113549.2.8":
		return sha256.New224, nil
	case oidHMACSHA256.String():
		return sha256.New, nil
	case "1.2.840.113549.2.10":
		return sha512.New384, nil
	case "1.2.840.113549.2.11":
		return sha512.New, nil
	}
	return nil, fmt.Errorf("PBKDF2 with pseudo-random function %v, not an HMAC with SHA-1 or SHA-2", id)
}
