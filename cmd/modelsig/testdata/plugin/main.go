// Command plugin is a sigstore-kms plugin for tests. Its keys are the test keys
// in the folder PLUGIN_KEYS; its resources are KEY, and BEHAVIOUR/KEY for what a
// plugin should not do:
//
//	fails/KEY        answers with an error
//	fails-loudly/KEY says something on stderr, answers nothing, exits with 3
//	garbage/KEY      answers what is no JSON
//	empty/KEY        answers {}
//	floods/KEY       answers without end
//	hangs/KEY        does not answer
//	lies/KEY         signs with another key
//	hangs-later/KEY  has a public key, and does not sign
//	fails-later/KEY  has a public key, and answers with an error when it should sign
package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/common"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/handler"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	args, err := handler.GetPluginArgs(os.Args)
	if err != nil {
		return handler.WriteErrorResponse(os.Stdout, err)
	}
	behaviour, name, found := strings.Cut(args.InitOptions.KeyResourceID, "/")
	if !found {
		behaviour, name = "", args.InitOptions.KeyResourceID
	}
	if later, ok := strings.CutSuffix(behaviour, "-later"); ok && args.MethodName == common.SignMessageMethodName {
		behaviour = later
	}
	switch behaviour {
	case "fails":
		return handler.WriteErrorResponse(os.Stdout, errors.New("the key is \x1b[31mlocked"))
	case "fails-loudly":
		fmt.Fprint(os.Stderr, "no \x1b[31mcredentials\r\nask the \u202eoperator")
		os.Exit(3)
	case "garbage":
		fmt.Print("Welcome to \x1b[31mtestkms")
		return nil
	case "empty":
		fmt.Print("{}")
		return nil
	case "floods":
		for err == nil {
			_, err = os.Stdout.Write(make([]byte, 4096))
		}
		return err
	case "hangs":
		time.Sleep(time.Hour)
	}
	key, err := load(name)
	if err != nil {
		return handler.WriteErrorResponse(os.Stdout, err)
	}
	impl := &keys{public: key.Public()}
	if behaviour == "lies" {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return err
		}
	}
	// The hash of a call is in its options.
	if impl.SignerVerifier, err = signature.LoadSignerVerifier(key, crypto.SHA256); err != nil {
		return handler.WriteErrorResponse(os.Stdout, err)
	}
	_, err = handler.Dispatch(os.Stdout, os.Stdin, args, impl)
	return err
}

func load(name string) (crypto.Signer, error) {
	data, err := os.ReadFile(filepath.Join(os.Getenv("PLUGIN_KEYS"), name+".pkcs8.pem"))
	if err != nil {
		return nil, err
	}
	key, err := cryptoutils.UnmarshalPEMToPrivateKey(data, nil)
	if err != nil {
		return nil, err
	}
	return key.(crypto.Signer), nil
}

// keys is what sigstore's handler asks.
type keys struct {
	signature.SignerVerifier
	public crypto.PublicKey
}

func (k *keys) PublicKey(...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return k.public, nil
}

func (k *keys) DefaultAlgorithm() string      { return "ecdsa" }
func (k *keys) SupportedAlgorithms() []string { return []string{"ecdsa"} }
func (k *keys) CreateKey(context.Context, string) (crypto.PublicKey, error) {
	return nil, errors.New("this plugin makes no keys")
}

func (k *keys) CryptoSigner(context.Context, func(error)) (crypto.Signer, crypto.SignerOpts, error) {
	return nil, nil, errors.New("not in the protocol")
}
