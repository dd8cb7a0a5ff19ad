package interop

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A keyPair is one key in the files that each tool wants.
type keyPair struct {
	private string // PKCS#8
	public  string
	cosign  string // the private key as cosign wants it, encrypted with the empty password
}

// A curve is a kind of key, and the hash that cosign must be told to verify it
// with: its default is SHA-256 for every curve, though it signs with the
// curve's own.
type curve struct {
	name   string
	curve  elliptic.Curve
	verify []string
}

var curves = []curve{
	{"P-256", elliptic.P256(), nil},
	{"P-384", elliptic.P384(), []string{"--signature-digest-algorithm", "sha384"}},
	{"P-521", elliptic.P521(), []string{"--signature-digest-algorithm", "sha512"}},
}

// newKey makes a key pair without any of the tools under test.
func newKey(t testing.TB, c elliptic.Curve) keyPair {
	t.Helper()
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pair := keyPair{private: filepath.Join(dir, "key.pem"), public: filepath.Join(dir, "key.pub")}
	writeFile(t, pair.private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	writeFile(t, pair.public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	return pair
}

// newCosignKey is newKey with the key in cosign's own form too.
func newCosignKey(t testing.TB, c elliptic.Curve) keyPair {
	t.Helper()
	pair := newKey(t, c)
	prefix := filepath.Join(filepath.Dir(pair.private), "cosign")
	peer(t, cosign, "import-key-pair", "--key", pair.private, "--output-key-prefix", prefix)
	pair.cosign = prefix + ".key"
	return pair
}

// modelFiles is a small model as people have them: weights, a config.json of
// its own, a file in a folder, an empty file, a name with a space.
func modelFiles() map[string][]byte {
	return map[string][]byte{
		"README.md":                  []byte("# tiny\n\nA model for tests. It predicts nothing.\n"),
		"config.json":                []byte("{\"architectures\":[\"Tiny\"],\"hidden_size\":4}\n"),
		"model.safetensors":          safetensors(),
		"tokenizer/vocab.txt":        []byte("a\nb\nc\n"),
		"tokenizer/special tokens":   []byte("[PAD]\n"),
		"tokenizer/added_tokens.txt": nil,
	}
}

// safetensors is one tensor of 256 float32 values in that format: the length
// of the header, the header, the data.
func safetensors() []byte {
	const values = 256
	header := []byte(`{"w":{"dtype":"F32","shape":[256],"data_offsets":[0,1024]}}`)
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, uint64(len(header)))
	b.Write(header)
	for i := range values {
		binary.Write(&b, binary.LittleEndian, float32(i)/values)
	}
	return b.Bytes()
}

// newModel writes the small model into a folder. The salt makes it another
// model, so that tests on one registry do not share a digest.
func newModel(t testing.TB, salt string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tiny")
	for name, content := range modelFiles() {
		if name == "README.md" && salt != "" {
			content = append(content, salt+"\n"...)
		}
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, file, content)
	}
	return dir
}

func writeFile(t testing.TB, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// sameTree demands that two folders have the same files with the same bytes.
func sameTree(t testing.TB, got, want string) {
	t.Helper()
	g, w := tree(t, got), tree(t, want)
	if maps.Equal(g, w) {
		return
	}
	t.Errorf("files differ\n got %q\nwant %q", slices.Sorted(maps.Keys(g)), slices.Sorted(maps.Keys(w)))
}

func tree(t testing.TB, dir string) map[string][sha256.Size]byte {
	t.Helper()
	files := map[string][sha256.Size]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		files[filepath.ToSlash(name)] = sha256.Sum256(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
