package bundle_test

import (
	"context"
	"fmt"
	"log"

	"github.com/modelsig/modelsig/bundle"
)

func Example() {
	key, err := bundle.GenerateKey("p256")
	if err != nil {
		log.Fatal(err)
	}
	signer, err := bundle.NewKeySigner(key)
	if err != nil {
		log.Fatal(err)
	}
	bundles, err := signer.Sign(context.Background(), []byte(`{"_type":"https://in-toto.io/Statement/v1"}`))
	if err != nil {
		log.Fatal(err)
	}

	// Elsewhere, with the public key alone.
	verifier, err := bundle.NewKeyVerifier(key.Public())
	if err != nil {
		log.Fatal(err)
	}
	received, err := bundle.Parse(bundles[0].JSON())
	if err != nil {
		log.Fatal(err)
	}
	verified, err := received.Open(verifier)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %s\n", verified.Signer.Method, verified.Payload)
	// Output:
	// key: {"_type":"https://in-toto.io/Statement/v1"}
}
