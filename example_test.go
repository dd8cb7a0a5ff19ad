package modelsig_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing/fstest"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/manifest"
)

// A shop is what the examples need around them: a registry in memory, a folder
// with a model, and a pair of keys.
type shop struct {
	server  *httptest.Server
	dir     string // of the model, in a folder of its own
	ref     string // where the model goes
	private []byte // PEM
	public  []byte // PEM
}

func openShop() *shop {
	parent, err := os.MkdirTemp("", "modelsig-example-")
	if err != nil {
		log.Fatal(err)
	}
	s := &shop{
		server: httptest.NewServer(ociserver.New(ocimem.New(), nil)),
		dir:    filepath.Join(parent, "tiny"),
	}
	s.ref = s.server.Listener.Addr().String() + "/acme/tiny:v1"
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		log.Fatal(err)
	}
	for name, content := range map[string]string{"config.json": "{}", "weights.bin": "hello"} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o644); err != nil {
			log.Fatal(err)
		}
	}
	key, err := bundle.GenerateKey("p256")
	if err != nil {
		log.Fatal(err)
	}
	if s.private, err = bundle.MarshalPrivateKey(key, nil); err != nil {
		log.Fatal(err)
	}
	if s.public, err = bundle.MarshalPublicKey(key.Public()); err != nil {
		log.Fatal(err)
	}
	return s
}

// push puts the model into the registry.
func (s *shop) push(ctx context.Context) {
	if _, err := new(modelsig.Client).Push(ctx, s.dir, s.ref, modelsig.PushOptions{}); err != nil {
		log.Fatal(err)
	}
}

func (s *shop) close() {
	s.server.Close()
	if err := os.RemoveAll(filepath.Dir(s.dir)); err != nil {
		log.Fatal(err)
	}
}

// Sign a model where it lies. No layer is read, whatever its size.
func ExampleSign() {
	ctx := context.Background()
	shop := openShop()
	defer shop.close()
	shop.push(ctx)

	signer, err := modelsig.KeySigner(shop.private, nil)
	if err != nil {
		log.Fatal(err)
	}
	signature, err := modelsig.Sign(ctx, shop.ref, signer)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("files:", signature.Files)
	fmt.Println("bytes:", signature.Bytes)
	fmt.Println("root:", signature.Root)
	fmt.Println("attached:", signature.Model.Referrer != "", signature.Artifact.Referrer != "")
	// Output:
	// files: 2
	// bytes: 7
	// root: 6d579d56e009c61479c978ad4849556a6e6cee5ad4ba63e478acb2525cdc8fa5
	// attached: true true
}

// A yes is a report, a no is an error.
func ExampleVerify() {
	ctx := context.Background()
	shop := openShop()
	defer shop.close()
	shop.push(ctx)

	policy, err := modelsig.KeyPolicy(shop.public)
	if err != nil {
		log.Fatal(err)
	}
	_, err = modelsig.Verify(ctx, shop.ref, policy)
	fmt.Println("before it is signed: refused is", errors.Is(err, modelsig.ErrRefused))

	signer, err := modelsig.KeySigner(shop.private, nil)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := modelsig.Sign(ctx, shop.ref, signer); err != nil {
		log.Fatal(err)
	}
	report, err := modelsig.Verify(ctx, shop.ref, policy)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Verdict, "by", report.Binding)
	for _, s := range report.Signers {
		fmt.Println(s.Kind, "signature with a", s.Identity.Method)
	}
	// Unordered output:
	// before it is signed: refused is true
	// verified by manifest-digest
	// model signature with a key
	// artifact signature with a key
}

// Verify a model, and download it: all of it, or nothing.
func ExampleClient_Pull() {
	ctx := context.Background()
	shop := openShop()
	defer shop.close()
	client := new(modelsig.Client)

	policy, err := modelsig.KeyPolicy(shop.public)
	if err != nil {
		log.Fatal(err)
	}
	signer, err := modelsig.KeySigner(shop.private, nil)
	if err != nil {
		log.Fatal(err)
	}
	shop.push(ctx)
	dir := filepath.Join(filepath.Dir(shop.dir), "pulled")
	_, err = client.Pull(ctx, shop.ref, dir, policy, modelsig.PullOptions{})
	_, missing := os.Stat(dir)
	fmt.Println("before it is signed: refused is", errors.Is(err, modelsig.ErrRefused), "and a folder is there is", missing == nil)

	if _, err := client.Sign(ctx, shop.ref, signer, modelsig.SignOptions{}); err != nil {
		log.Fatal(err)
	}
	for range 2 {
		pulled, err := client.Pull(ctx, shop.ref, dir, policy, modelsig.PullOptions{})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(pulled.Files, "files, unchanged:", pulled.Unchanged)
	}
	// Output:
	// before it is signed: refused is true and a folder is there is false
	// 2 files, unchanged: false
	// 2 files, unchanged: true
}

// Push a folder and sign the very bytes that were uploaded, in one act.
func ExampleClient_Push() {
	ctx := context.Background()
	shop := openShop()
	defer shop.close()

	signer, err := modelsig.KeySigner(shop.private, nil)
	if err != nil {
		log.Fatal(err)
	}
	client := new(modelsig.Client)
	pushed, err := client.Push(ctx, shop.dir, shop.ref, modelsig.PushOptions{Signer: signer})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("files:", pushed.Files)
	fmt.Println("signed what was pushed:", pushed.Signature.Digest == pushed.Digest)
	// Output:
	// files: 2
	// signed what was pushed: true
}

// Sign a folder, and keep the signature in a file.
func ExampleClient_SignDir() {
	ctx := context.Background()
	shop := openShop()
	defer shop.close()

	signer, err := modelsig.KeySigner(shop.private, nil)
	if err != nil {
		log.Fatal(err)
	}
	client := new(modelsig.Client)
	file := filepath.Join(shop.dir, "model.sig")
	signature, err := client.SignDir(ctx, shop.dir, signer, modelsig.SignOptions{SignatureFile: file})
	if err != nil {
		log.Fatal(err)
	}
	if err := modelsig.WriteSignature(file, signature.Model.Bundle, false); err != nil {
		log.Fatal(err)
	}
	fmt.Println("root:", signature.Root)
	// Output:
	// root: 6d579d56e009c61479c978ad4849556a6e6cee5ad4ba63e478acb2525cdc8fa5
}

// Verify a folder by a signature in a file. A changed file is named.
func ExampleClient_VerifyDir() {
	ctx := context.Background()
	shop := openShop()
	defer shop.close()

	signer, err := modelsig.KeySigner(shop.private, nil)
	if err != nil {
		log.Fatal(err)
	}
	policy, err := modelsig.KeyPolicy(shop.public)
	if err != nil {
		log.Fatal(err)
	}
	client := new(modelsig.Client)
	file := filepath.Join(shop.dir, "model.sig")
	signature, err := client.SignDir(ctx, shop.dir, signer, modelsig.SignOptions{SignatureFile: file})
	if err != nil {
		log.Fatal(err)
	}
	if err := modelsig.WriteSignature(file, signature.Model.Bundle, false); err != nil {
		log.Fatal(err)
	}
	options := modelsig.VerifyOptions{SignatureFile: file}
	report, err := client.VerifyDir(ctx, shop.dir, policy, options)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Verdict, report.Files.Count, "files")

	if err := os.WriteFile(filepath.Join(shop.dir, "weights.bin"), []byte("evil!"), 0o644); err != nil {
		log.Fatal(err)
	}
	_, err = client.VerifyDir(ctx, shop.dir, policy, options)
	if denial, ok := errors.AsType[*modelsig.Denial](err); ok {
		fmt.Println(denial.Verification.Verdict, denial.Verification.Files.Changed)
	}
	// Output:
	// verified 2 files
	// refused [weights.bin]
}

// Hold a folder against the signatures and layers of an artifact.
func ExampleClient_VerifyDirAgainst() {
	ctx := context.Background()
	shop := openShop()
	defer shop.close()

	signer, err := modelsig.KeySigner(shop.private, nil)
	if err != nil {
		log.Fatal(err)
	}
	policy, err := modelsig.KeyPolicy(shop.public)
	if err != nil {
		log.Fatal(err)
	}
	client := new(modelsig.Client)
	if _, err := client.Push(ctx, shop.dir, shop.ref, modelsig.PushOptions{Signer: signer}); err != nil {
		log.Fatal(err)
	}
	report, err := client.VerifyDirAgainst(ctx, shop.dir, shop.ref, policy, modelsig.VerifyOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Verdict, report.Files.Count, "files")
	// Output:
	// verified 2 files
}

// Hash a folder, and sign nothing: which files it has, and the OMS root digest.
func ExampleClient_DigestDir() {
	ctx := context.Background()
	shop := openShop()
	defer shop.close()

	client := &modelsig.Client{Jobs: 2}
	contents, err := client.DigestDir(ctx, shop.dir, modelsig.SignOptions{Hashing: manifest.Hashing{Type: manifest.BLAKE3}})
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range contents.Files {
		fmt.Printf("%s:%.8x %s\n", f.Algorithm, f.Digest, f.Name)
	}
	fmt.Println("root:", contents.Root)
	// Output:
	// blake3:6e46dd10defc9b56 config.json
	// blake3:ea8f163db3868292 weights.bin
	// root: c31637cc162f5727673653e20ddac8fb7618abb0d0e3c1c6c6fa222990c47e9f
}

// Sign a model that is in no folder: any io/fs.FS will do. Files whose sha256
// is known already are not read.
func ExampleClient_SignFiles() {
	ctx := context.Background()
	shop := openShop()
	defer shop.close()

	store := fstest.MapFS{
		"config.json":   {Data: []byte("{}")},
		"weights/a.bin": {Data: []byte("hello")},
	}
	files, err := manifest.FromFS(ctx, store)
	if err != nil {
		log.Fatal(err)
	}
	signer, err := modelsig.KeySigner(shop.private, nil)
	if err != nil {
		log.Fatal(err)
	}
	policy, err := modelsig.KeyPolicy(shop.public)
	if err != nil {
		log.Fatal(err)
	}
	client := new(modelsig.Client)
	signature, err := client.SignFiles(ctx, "tiny", files, signer, modelsig.SignOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("root:", signature.Root)

	report, err := client.VerifyFiles(ctx, "tiny", files, signature.Model.Bundle, policy, modelsig.VerifyOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Verdict, report.Files.Count, "files")
	// Output:
	// root: 6d579d56e009c61479c978ad4849556a6e6cee5ad4ba63e478acb2525cdc8fa5
	// verified 2 files
}

// Sign with a certificate, and accept whoever the root gave one for this
// address.
func ExampleCertificatePolicy() {
	ctx := context.Background()
	shop := openShop()
	defer shop.close()
	shop.push(ctx)

	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join("testdata", "certificate", name))
		if err != nil {
			log.Fatal(err)
		}
		return data
	}
	signer, err := modelsig.CertificateSigner(read("leaf.key.pem"), nil, read("leaf.pem"), read("intermediate.pem"))
	if err != nil {
		log.Fatal(err)
	}
	if _, err := modelsig.Sign(ctx, shop.ref, signer); err != nil {
		log.Fatal(err)
	}

	for _, identity := range []string{"release@example.com", "intern@example.com"} {
		policy, err := modelsig.CertificatePolicy([][]byte{read("root.pem")}, modelsig.CertificateOptions{Identity: identity})
		if err != nil {
			log.Fatal(err)
		}
		_, err = modelsig.Verify(ctx, shop.ref, policy)
		fmt.Println(identity, err == nil, errors.Is(err, modelsig.ErrRefused))
	}
	// Output:
	// release@example.com true false
	// intern@example.com false true
}

// A client, a signer and a policy are made once and serve many models at the
// same time.
func ExampleClient() {
	ctx := context.Background()
	shop := openShop()
	defer shop.close()

	signer, err := modelsig.KeySigner(shop.private, nil)
	if err != nil {
		log.Fatal(err)
	}
	policy, err := modelsig.KeyPolicy(shop.public)
	if err != nil {
		log.Fatal(err)
	}
	client := &modelsig.Client{Jobs: 2}

	verdicts := make([]string, 3)
	var group sync.WaitGroup
	for i := range verdicts {
		group.Go(func() {
			ref := fmt.Sprintf("%s/acme/tiny:v%d", shop.server.Listener.Addr(), i)
			if _, err := client.Push(ctx, shop.dir, ref, modelsig.PushOptions{Signer: signer}); err != nil {
				log.Fatal(err)
			}
			report, err := client.Verify(ctx, ref, policy, modelsig.VerifyOptions{})
			if err != nil {
				log.Fatal(err)
			}
			verdicts[i] = report.Verdict
		})
	}
	group.Wait()
	fmt.Println(verdicts)
	// Output:
	// [verified verified verified]
}

// A target on a command line may be many things; what has two readings is
// refused.
func ExampleParseTarget() {
	for _, s := range []string{"registry.example.com/acme/tiny:v1", "oci:layout:v1", "testdata", "-"} {
		target, err := modelsig.ParseTarget(s)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(target.Kind, target.Name())
	}
	// Output:
	// artifact registry.example.com/acme/tiny:v1
	// artifact oci:layout:v1
	// directory testdata
	// manifest -
}
