package bundle_test

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
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/bundle"
)

const (
	keysDir  = "../testdata/keys"
	password = "modelsig-test" // of every encrypted key in keysDir
)

func readFile(t testing.TB, elem ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func givePassword() ([]byte, error) { return []byte(password), nil }

// privateKey returns the key pair of a curve in testdata: p256, p384, p521.
func privateKey(t testing.TB, curve string) *ecdsa.PrivateKey {
	t.Helper()
	key, err := bundle.ParsePrivateKey(readFile(t, keysDir, curve+".pkcs8.pem"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ecdsa.PrivateKey)
}

func publicKey(t testing.TB, file string) equalKey {
	t.Helper()
	key, err := bundle.ParsePublicKey(readFile(t, file))
	if err != nil {
		t.Fatal(err)
	}
	return key.(equalKey)
}

// equalKey is what all public keys of the standard library are.
type equalKey interface{ Equal(crypto.PublicKey) bool }

// anyKey returns the key pair of a kind in testdata: a curve, ed25519 or rsa2048.
func anyKey(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	key, err := bundle.ParsePrivateKey(readFile(t, keysDir, kind+".pkcs8.pem"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// kinds are the key pairs in testdata.
func kinds() []string { return []string{"p256", "p384", "p521", "ed25519", "rsa2048"} }

func TestEveryFormOfAKeyIsTheSameKey(t *testing.T) {
	for _, curve := range kinds() {
		want := publicKey(t, filepath.Join(keysDir, curve+".pub.pem"))
		forms := map[string]bool{"pkcs8": false, "pbkdf2": true, "scrypt": true, "cosign": true}
		switch curve {
		case "ed25519":
		case "rsa2048":
			forms["pkcs1"], forms["legacy"] = false, true
			if !want.Equal(publicKey(t, filepath.Join(keysDir, curve+".pkcs1.pub.pem"))) {
				t.Error("another key in PKCS#1")
			}
		default:
			forms["sec1"], forms["params"], forms["legacy"] = false, false, true
		}
		for form, isEncrypted := range forms {
			t.Run(curve+"/"+form, func(t *testing.T) {
				calls := 0
				ask := func() ([]byte, error) { calls++; return []byte(password), nil }
				data := readFile(t, keysDir, curve+"."+form+".pem")
				key, err := bundle.ParsePrivateKey(data, ask)
				if err != nil {
					t.Fatal(err)
				}
				if !want.Equal(key.Public()) {
					t.Error("another key")
				}
				if wantCalls := map[bool]int{true: 1}[isEncrypted]; calls != wantCalls {
					t.Errorf("password was asked for %d times, not %d", calls, wantCalls)
				}
				if !isEncrypted {
					return
				}
				if _, err := bundle.ParsePrivateKey(data, nil); !errors.Is(err, bundle.ErrPassword) {
					t.Errorf("without a password: %v", err)
				}
				for _, wrong := range []string{"", "wrong", password + " "} {
					_, err := bundle.ParsePrivateKey(data, func() ([]byte, error) { return []byte(wrong), nil })
					if !errors.Is(err, bundle.ErrPassword) {
						t.Errorf("password %q: %v", wrong, err)
					}
				}
				if _, err := bundle.ParsePrivateKey(data, func() ([]byte, error) { return nil, fs.ErrClosed }); !errors.Is(err, fs.ErrClosed) || errors.Is(err, bundle.ErrPassword) {
					t.Errorf("terminal that cannot be read: %v", err)
				}
			})
		}
	}
}

func TestKeyFilesAroundTheKey(t *testing.T) {
	sec1, pkcs8 := string(readFile(t, keysDir, "p256.sec1.pem")), string(readFile(t, keysDir, "p256.pkcs8.pem"))
	pkcs1, public := string(readFile(t, keysDir, "rsa2048.pkcs1.pem")), string(readFile(t, keysDir, "p256.pub.pem"))
	params := string(readFile(t, keysDir, "p256.params.pem"))
	params = params[:strings.Index(params, "-----BEGIN EC PRIVATE")]
	for name, tc := range map[string]struct {
		data    string
		refused string // part of the message; empty: accepted
	}{
		"a key":                            {pkcs8, ""},
		"text before the key":              {"Bag Attributes\n    friendlyName: release\nKey Attributes: <No Attributes>\n" + pkcs8, ""},
		"lines ended as on Windows":        {strings.ReplaceAll(pkcs8, "\n", "\r\n"), ""},
		"blank lines after the key":        {pkcs8 + "\n \r\n", ""},
		"no line end after the key":        {strings.TrimSpace(pkcs8), ""},
		"EC PARAMETERS before the key":     {params + sec1, ""},
		"EC PARAMETERS before PKCS#8":      {params + pkcs8, `"EC PARAMETERS" is followed by a private key`},
		"EC PARAMETERS alone":              {params, "EC PARAMETERS"},
		"EC PARAMETERS twice":              {params + params + sec1, "3 PEM blocks"},
		"EC PARAMETERS after the key":      {sec1 + params, "2 PEM blocks"},
		"an empty file":                    {"", "empty"},
		"a blank file":                     {" \n\t\r\n", "empty"},
		"two keys":                         {pkcs8 + pkcs8, "2 PEM blocks"},
		"a key and its public key":         {pkcs8 + public, "2 PEM blocks"},
		"text after the key":               {pkcs8 + "x", "goes on"},
		"a NUL after the key":              {pkcs8 + "\x00", "goes on"},
		"a damaged key before a good one":  {strings.Replace(pkcs8, "END", "FIN", 1) + pkcs8, "damaged PEM"},
		"the beginning of a second key":    {pkcs8 + "-----BEGIN PRIVATE KEY-----\n", "2 PEM blocks"},
		"a key without its end":            {strings.Split(pkcs8, "-----END")[0], "damaged PEM"},
		"a public key":                     {public, "a public key"},
		"a certificate":                    {string(readFile(t, "../testdata/certificate/leaf.pem")), "a certificate"},
		"something else":                   {"-----BEGIN X-----\nAAAA\n-----END X-----\n", `PEM block "X"`},
		"plain text":                       {"hello\n", "not PEM"},
		"DER":                              {string(readFile(t, keysDir, "refused/p256.der")), "DER"},
		"a file beyond the limit":          {strings.Repeat("#", 64<<10) + "\n" + pkcs8, "limit"},
		"SEC1 named PKCS#8":                {strings.ReplaceAll(sec1, "EC PRIVATE", "PRIVATE"), "damaged"},
		"PKCS#8 named SEC1":                {strings.ReplaceAll(pkcs8, "PRIVATE", "EC PRIVATE"), "damaged"},
		"PKCS#8 named encrypted":           {strings.ReplaceAll(pkcs8, "PRIVATE", "ENCRYPTED PRIVATE"), "damaged"},
		"PKCS#8 named cosign's":            {strings.ReplaceAll(pkcs8, "PRIVATE", "ENCRYPTED SIGSTORE PRIVATE"), "damaged"},
		"PKCS#8 with encryption headers":   {strings.Replace(pkcs8, "-----\n", "-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n", 1), "headers"},
		"encryption headers and no cipher": {strings.Replace(sec1, "-----\n", "-----\nProc-Type: 4,ENCRYPTED\n\n", 1), "without a cipher"},
		"PKCS#8 with bytes behind it":      {repack(t, pkcs8, func(der []byte) []byte { return append(der, 0) }), "damaged"},
		"SEC1 with bytes behind it":        {repack(t, sec1, func(der []byte) []byte { return append(der, 0) }), "damaged"},
		"PKCS#1 named PKCS#8":              {strings.ReplaceAll(pkcs1, "RSA PRIVATE", "PRIVATE"), "damaged"},
		"PKCS#8 named PKCS#1":              {strings.ReplaceAll(pkcs8, "PRIVATE", "RSA PRIVATE"), "damaged"},
		"PKCS#1 with bytes behind it":      {repack(t, pkcs1, func(der []byte) []byte { return append(der, 0) }), "damaged"},
		"RSA primes that do not fit":       {repack(t, pkcs1, func(der []byte) []byte { der[12] ^= 1; return der }), "damaged"},
		"EC PARAMETERS before an RSA key":  {params + pkcs1, `"EC PARAMETERS" is followed by a private key`},
		"a scalar beyond the curve's order": {repack(t, sec1, func(der []byte) []byte {
			return bytes.Replace(der, der[7:39], bytes.Repeat([]byte{0xff}, 32), 1)
		}), "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := bundle.ParsePrivateKey([]byte(tc.data), givePassword)
			if tc.refused == "" {
				if err != nil {
					t.Fatal(err)
				}
				if !publicKey(t, keysDir+"/p256.pub.pem").Equal(key.Public()) {
					t.Error("another key")
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.refused) {
				t.Errorf("%v does not say %q", err, tc.refused)
			}
			if errors.Is(err, bundle.ErrPassword) {
				t.Error("called a matter of the password:", err)
			}
		})
	}
}

// repack changes the DER within a PEM block.
func repack(t testing.TB, text string, edit func([]byte) []byte) string {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatal("no PEM block")
	}
	block.Bytes = edit(block.Bytes)
	return string(pem.EncodeToMemory(block))
}

func TestOtherKindsOfKeysAreNamed(t *testing.T) {
	for file, kind := range map[string]string{
		"p224.sec1.pem": "ECDSA P-224", "secp256k1.sec1.pem": "ECDSA secp256k1", "secp256k1.pkcs8.pem": "ECDSA secp256k1",
		"explicit.pkcs8.pem": "ECDSA on a curve without a name", "explicit.sec1.pem": "ECDSA on a curve without a name",
		"rsa1024.pkcs1.pem": "RSA of 1024 bits", "rsa1024.pkcs8.pem": "RSA of 1024 bits", "rsa1024.pbkdf2.pem": "RSA of 1024 bits",
		"ed448.pkcs8.pem": "Ed448", "x25519.pkcs8.pem": "X25519",
	} {
		t.Run(file, func(t *testing.T) {
			_, err := bundle.ParsePrivateKey(readFile(t, keysDir, "refused", file), givePassword)
			wantKind(t, err, kind)
		})
	}
	for file, kind := range map[string]string{
		"secp256k1.pub.pem": "ECDSA secp256k1", "rsa1024.pub.pem": "RSA of 1024 bits", "rsa1024.pkcs1.pub.pem": "RSA of 1024 bits",
	} {
		t.Run(file, func(t *testing.T) {
			_, err := bundle.ParsePublicKey(readFile(t, keysDir, "refused", file))
			wantKind(t, err, kind)
		})
	}
	for file, says := range map[string]string{"openssh.pem": "OpenSSH", "pbes1.pem": "not PBES2"} {
		t.Run(file, func(t *testing.T) {
			_, err := bundle.ParsePrivateKey(readFile(t, keysDir, "refused", file), func() ([]byte, error) {
				t.Error("a password was asked for in vain")
				return nil, nil
			})
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%v does not say %q", err, says)
			}
		})
	}
}

func wantKind(t *testing.T, err error, kind string) {
	t.Helper()
	if e, ok := errors.AsType[*bundle.KeyError](err); !ok || e.Kind != kind {
		t.Errorf("%v is no KeyError of kind %q", err, kind)
	}
}

func TestParsePublicKey(t *testing.T) {
	public := string(readFile(t, keysDir, "p384.pub.pem"))
	for name, tc := range map[string]struct{ data, refused string }{
		"a key":                    {public, ""},
		"text before the key":      {"release key\n" + public, ""},
		"two keys":                 {public + public, "2 PEM blocks"}, // rule 35
		"a private key":            {string(readFile(t, keysDir, "p384.pkcs8.pem")), "a private key"},
		"an encrypted private key": {string(readFile(t, keysDir, "p384.cosign.pem")), "a private key"},
		"a certificate":            {string(readFile(t, "../testdata/certificate/leaf.pem")), "a certificate"},
		"nothing":                  {"", "empty"},
		"OpenSSH's form":           {"ecdsa-sha2-nistp256 AAAA me@example.com\n", "not PEM"},
		"bytes behind the key":     {repack(t, public, func(der []byte) []byte { return append(der, 0) }), "trailing"},
		"a point off the curve": {repack(t, public, func(der []byte) []byte {
			der[len(der)-1] ^= 1
			return der
		}), "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := bundle.ParsePublicKey([]byte(tc.data))
			if tc.refused == "" && err != nil {
				t.Fatal(err)
			}
			if tc.refused != "" && (err == nil || !strings.Contains(err.Error(), tc.refused)) {
				t.Errorf("%v does not say %q", err, tc.refused)
			}
		})
	}
}

// An error must never repeat what stands in a key file: it may be half a secret.
func TestErrorsDoNotRepeatKeys(t *testing.T) {
	text := string(readFile(t, keysDir, "p256.sec1.pem"))
	body := strings.Split(text, "\n")[1]
	for i := range len(text) {
		for _, data := range []string{text[:i], text[:i] + "!" + text[i+1:]} {
			if _, err := bundle.ParsePrivateKey([]byte(data), nil); err != nil && strings.Contains(err.Error(), body[:8]) {
				t.Fatalf("%d: %v", i, err)
			}
		}
	}
}

// A key file may not decide how much memory or time its password costs.
func TestCostlyPasswordsAreRefusedBeforeTheyAreAskedFor(t *testing.T) {
	never := func() ([]byte, error) {
		t.Error("asked for a password")
		return nil, errors.New("never")
	}
	type algorithm struct {
		OID    asn1.ObjectIdentifier
		Params asn1.RawValue
	}
	pbes2 := func(kdf asn1.ObjectIdentifier, params any) []byte {
		must := func(v any) []byte {
			der, err := asn1.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			return der
		}
		return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: must(struct {
			Algorithm algorithm
			Data      []byte
		}{algorithm{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}, asn1.RawValue{FullBytes: must(struct{ KDF, Cipher algorithm }{
			algorithm{kdf, asn1.RawValue{FullBytes: must(params)}},
			algorithm{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, asn1.RawValue{FullBytes: must(make([]byte, 16))}},
		})}}, make([]byte, 32)})})
	}
	type scrypt struct {
		Salt    []byte
		N, R, P int
	}
	type pbkdf2 struct {
		Salt       []byte
		Iterations int
	}
	scryptOID, pbkdf2OID := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	cosign := func(n, r, p int) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED SIGSTORE PRIVATE KEY", Bytes: fmt.Appendf(nil,
			`{"kdf":{"name":"scrypt","params":{"N":%d,"r":%d,"p":%d},"salt":"AAAA"},"cipher":{"name":"nacl/secretbox","nonce":%q},"ciphertext":"AAAA"}`,
			n, r, p, base64.StdEncoding.EncodeToString(make([]byte, 24)))})
	}
	for name, data := range map[string][]byte{
		"scrypt with 4 GiB":             pbes2(scryptOID, scrypt{[]byte("salt"), 1 << 22, 8, 1}),
		"scrypt that overflows":         pbes2(scryptOID, scrypt{[]byte("salt"), 1 << 40, 1 << 40, 1}),
		"scrypt with a huge block":      pbes2(scryptOID, scrypt{[]byte("salt"), 2, 1 << 30, 1}),
		"scrypt a thousand times":       pbes2(scryptOID, scrypt{[]byte("salt"), 1 << 14, 8, 1000}),
		"scrypt with negative numbers":  pbes2(scryptOID, scrypt{[]byte("salt"), -2, -8, -1}),
		"PBKDF2 with 2^31 iterations":   pbes2(pbkdf2OID, pbkdf2{[]byte("salt"), 1<<31 - 1}),
		"PBKDF2 with 0 iterations":      pbes2(pbkdf2OID, pbkdf2{[]byte("salt"), 0}),
		"PBKDF2 with negative":          pbes2(pbkdf2OID, pbkdf2{[]byte("salt"), -1}),
		"another key derivation":        pbes2(asn1.ObjectIdentifier{1, 2, 3}, pbkdf2{[]byte("salt"), 1}),
		"cosign's form with 4 GiB":      cosign(1<<22, 8, 1),
		"cosign's form that overflows":  cosign(1<<40, 1<<40, 1),
		"cosign's form with a division": cosign(0, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := bundle.ParsePrivateKey(data, never); err == nil || errors.Is(err, bundle.ErrPassword) {
				t.Error(err)
			}
		})
	}
}

func TestEveryEncryptionThatOpensslWrites(t *testing.T) {
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not in PATH")
	}
	want := publicKey(t, keysDir+"/p521.pub.pem")
	for _, flags := range []string{
		"-v2 aes-128-cbc", "-v2 aes-192-cbc", "-v2 aes-256-cbc", "-v2 des3", "-v2 aes-256-cbc -iter 100000",
		"-v2prf hmacWithSHA1", "-v2prf hmacWithSHA224", "-v2prf hmacWithSHA256", "-v2prf hmacWithSHA384", "-v2prf hmacWithSHA512",
		"-scrypt -scrypt_N 16384 -scrypt_r 8 -scrypt_p 2",
	} {
		t.Run(flags, func(t *testing.T) {
			args := append([]string{"pkcs8", "-topk8", "-in", keysDir + "/p521.sec1.pem", "-passout", "pass:" + password}, strings.Fields(flags)...)
			text, err := exec.CommandContext(t.Context(), path, args...).Output()
			if err != nil {
				t.Fatalf("openssl: %v", err)
			}
			key, err := bundle.ParsePrivateKey(text, givePassword)
			if err != nil {
				t.Fatal(err)
			}
			if !want.Equal(key.Public()) {
				t.Error("another key")
			}
			if _, err := bundle.ParsePrivateKey(text, func() ([]byte, error) { return []byte("wrong"), nil }); !errors.Is(err, bundle.ErrPassword) {
				t.Error(err)
			}
		})
	}
}

func TestDamagedEncryptedKeysAreRefused(t *testing.T) {
	block, _ := pem.Decode(readFile(t, keysDir, "p256.scrypt.pem"))
	for cut := range block.Bytes {
		data := pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes[:cut]})
		if _, err := bundle.ParsePrivateKey(data, nil); err == nil || errors.Is(err, bundle.ErrPassword) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
}

func TestGeneratedKeysSurviveTheirFile(t *testing.T) {
	for _, curve := range append(kinds(), "rsa3072", "rsa4096") {
		for _, secret := range []string{"", password} {
			if secret != "" && curve > "rsa2048" {
				continue // encrypted as the others are, and slow to make
			}
			t.Run(curve+"/"+secret, func(t *testing.T) {
				key, err := bundle.GenerateKey(curve)
				if err != nil {
					t.Fatal(err)
				}
				text, err := bundle.MarshalPrivateKey(key, []byte(secret))
				if err != nil {
					t.Fatal(err)
				}
				if isEncrypted := bytes.HasPrefix(text, []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")); isEncrypted != (secret != "") {
					t.Errorf("encrypted: %v", isEncrypted)
				}
				again, err := bundle.ParsePrivateKey(text, givePassword)
				if err != nil {
					t.Fatal(err)
				}
				if !key.(interface{ Equal(crypto.PrivateKey) bool }).Equal(again) {
					t.Error("another private key")
				}
				public, err := bundle.MarshalPublicKey(key.Public())
				if err != nil {
					t.Fatal(err)
				}
				if publicAgain, err := bundle.ParsePublicKey(public); err != nil || !key.Public().(equalKey).Equal(publicAgain) {
					t.Error("another public key:", err)
				}
				openssl(t, text, public)
			})
		}
	}
	if key, err := bundle.GenerateKey("P-256"); err == nil || key != nil {
		t.Error(key, err)
	}
}

// openssl lets openssl read a private key and compares the public key that it finds.
func openssl(t *testing.T, private, public []byte) {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Log("not tried: openssl is not in PATH")
		return
	}
	cmd := exec.CommandContext(t.Context(), path, "pkey", "-pubout", "-passin", "pass:"+password)
	cmd.Stdin = bytes.NewReader(private)
	got, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl: %v", err)
	}
	if !bytes.Equal(got, public) {
		t.Errorf("openssl prints\n%swe print\n%s", got, public)
	}
}

func TestFingerprintIsTheHashOfThePublicKeyFile(t *testing.T) {
	for _, curve := range kinds() {
		file := readFile(t, keysDir, curve+".pub.pem")
		got, err := bundle.Fingerprint(publicKey(t, filepath.Join(keysDir, curve+".pub.pem")))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(file); got != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: %s", curve, got)
		}
	}
}

func TestKeysOfOtherKindsNeitherSignNorVerify(t *testing.T) {
	rsaKey, err := bundle.ParsePrivateKey(readFile(t, keysDir, "rsa2048.pkcs8.pem"), nil)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(readFile(t, keysDir, "refused/rsa1024.pkcs1.pem"))
	short, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	long := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 16384), E: 65537}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for kind, tc := range map[string]struct {
		private crypto.Signer
		public  crypto.PublicKey
	}{
		"RSA of 1024 bits":    {short, short.Public()},
		"RSA of 16385 bits":   {nil, long},
		"Ed25519 of 31 bytes": {nil, make(ed25519.PublicKey, 31)},
		"ECDSA P-224":         {p224, p224.Public()},
		"missing":             {nil, nil},
		"a string":            {nil, "key"},
	} {
		t.Run(kind, func(t *testing.T) {
			if tc.private != nil {
				_, err := bundle.NewKeySigner(tc.private)
				wantKind(t, err, kind)
				_, err = bundle.MarshalPrivateKey(tc.private, nil)
				wantKind(t, err, kind)
			}
			_, err := bundle.NewKeyVerifier(tc.public)
			wantKind(t, err, kind)
			_, err = bundle.MarshalPublicKey(tc.public)
			wantKind(t, err, kind)
			_, err = bundle.Fingerprint(tc.public)
			wantKind(t, err, kind)
		})
	}
	for _, missing := range []crypto.PublicKey{(*ecdsa.PublicKey)(nil), &ecdsa.PublicKey{}, (*rsa.PublicKey)(nil), &rsa.PublicKey{}} {
		_, err = bundle.NewKeyVerifier(missing)
		wantKind(t, err, "missing")
	}
	_, err = bundle.MarshalPrivateKey(brokenSigner{rsaKey.Public(), rsaKey.Sign}, nil)
	wantKind(t, err, "a bundle_test.brokenSigner")
	if _, err := bundle.NewKeySigner(nil); err == nil {
		t.Error("signs without a key")
	}
	off := privateKey(t, "p256").PublicKey
	off.Curve = elliptic.P384()
	if _, err := bundle.NewKeyVerifier(&off); err == nil {
		t.Error("verifies with a point off the curve")
	}
}
