package modelsig_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/bundle"
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
