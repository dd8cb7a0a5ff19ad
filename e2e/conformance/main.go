// Command conformance is the adapter between the OMS conformance suite and this
// library: the suite runs it and looks at the exit code.
//
//	conformance sign-model   --method METHOD --model-path DIR --output-bundle FILE [flags]
//	conformance verify-model --method METHOD --model-path DIR --bundle FILE [flags]
//	conformance benchmark-model --operation hash|sign|verify --model-path DIR --repeat N [flags]
//	conformance capabilities
//
// METHOD is key, certificate or sigstore; for the last, MODELSIG_TRUSTED_ROOT
// and MODELSIG_SIGNING_CONFIG name the files of a Sigstore. Without them it is
// the public one, or its staging, by TUF. Exit codes are those of modelsig: 1
// for what is refused, 2 for what could not be done. capabilities and
// benchmark-model print JSON.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/manifest"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := command(ctx, args, stdout)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "error: %q\n", err.Error())
	_, threat := errors.AsType[*manifest.ThreatError](err)
	if errors.Is(err, modelsig.ErrRefused) || threat || errors.Is(err, manifest.ErrChanged) {
		return 1
	}
	return 2
}

func command(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) == 0 {
		return errors.New("no command: sign-model, verify-model, benchmark-model or capabilities")
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	switch args[0] {
	case "sign-model":
		return o.sign(ctx)
	case "verify-model":
		return o.verify(ctx)
	case "benchmark-model":
		return o.benchmark(ctx, stdout)
	case "capabilities":
		return json.NewEncoder(stdout).Encode(capabilities())
	}
	return fmt.Errorf("command %q is not known", args[0])
}

// options are the flags of the suite's protocol.
type options struct {
	method, modelPath, outputBundle, bundle string
	privateKey, publicKey, signingCert      string
	certChain, ignorePaths                  values
	ignoreUnsigned                          bool
	identity, identityProvider, trustedRoot string

	operation, hash           string
	repeat, warmup            int
	shardSize                 int64
	maxWorkers                int
	chunkSize, identityToken  string // taken for the protocol's sake
	useStaging, ignoreGitPath bool
}

// values are those of a flag that is repeated.
type values []string

func (v *values) String() string     { return fmt.Sprint(*v) }
func (v *values) Set(s string) error { *v = append(*v, s); return nil }

func parse(args []string) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.method, "method", "", "")
	flags.StringVar(&o.modelPath, "model-path", "", "")
	flags.StringVar(&o.outputBundle, "output-bundle", "", "")
	flags.StringVar(&o.bundle, "bundle", "", "")
	flags.StringVar(&o.privateKey, "private-key", "", "")
	flags.StringVar(&o.publicKey, "public-key", "", "")
	flags.StringVar(&o.signingCert, "signing-cert", "", "")
	flags.Var(&o.certChain, "cert-chain", "")
	flags.Var(&o.ignorePaths, "ignore-paths", "")
	flags.BoolVar(&o.ignoreUnsigned, "ignore-unsigned-files", false, "")
	flags.BoolVar(&o.ignoreGitPath, "ignore-git-paths", true, "")
	flags.StringVar(&o.identity, "identity", "", "")
	flags.StringVar(&o.identityProvider, "identity-provider", "", "")
	flags.StringVar(&o.identityToken, "identity-token", "", "")
	flags.BoolVar(&o.useStaging, "use-staging", false, "")
	flags.StringVar(&o.trustedRoot, "trusted-root", "", "")
	flags.StringVar(&o.operation, "operation", "hash", "")
	flags.StringVar(&o.hash, "hash-algorithm", manifest.SHA256, "")
	flags.Int64Var(&o.shardSize, "shard-size", 0, "")
	flags.StringVar(&o.chunkSize, "chunk-size", "", "")
	flags.IntVar(&o.maxWorkers, "max-workers", 0, "")
	flags.IntVar(&o.repeat, "repeat", 1, "")
	flags.IntVar(&o.warmup, "warmup", 0, "")
	if err := flags.Parse(args[1:]); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("argument %q is not known", flags.Arg(0))
	}
	return o, nil
}

func (o *options) sign(ctx context.Context) error {
	if o.outputBundle == "" {
		return errors.New("no --output-bundle")
	}
	signer, err := o.signer(ctx)
	if err != nil {
		return err
	}
	sig, err := o.client().SignDir(ctx, o.modelPath, signer, o.signOptions())
	if err != nil {
		return err
	}
	return modelsig.WriteSignature(o.outputBundle, sig.Model.Bundle, false)
}

func (o *options) verify(ctx context.Context) error {
	policy, err := o.policy(ctx)
	if err != nil {
		return err
	}
	_, err = o.client().VerifyDir(ctx, o.modelPath, policy, modelsig.VerifyOptions{SignatureFile: o.bundle, IgnorePaths: o.ignorePaths})
	return err
}

func (o *options) client() *modelsig.Client { return &modelsig.Client{Jobs: o.maxWorkers} }

func (o *options) signOptions() modelsig.SignOptions {
	return modelsig.SignOptions{
		IgnorePaths:     o.ignorePaths,
		IncludeGitPaths: !o.ignoreGitPath,
		SignatureFile:   o.outputBundle,
		Hashing:         manifest.Hashing{Type: o.hash, ShardSize: o.shardSize},
	}
}

func (o *options) signer(ctx context.Context) (modelsig.Signer, error) {
	if o.method == "sigstore" {
		root, config, err := o.trust(ctx)
		if err != nil {
			return nil, err
		}
		return bundle.NewSigstoreSigner(http.DefaultClient, root, config, func(context.Context) (string, error) { return o.identityToken, nil })
	}
	files, err := read(append(values{o.privateKey}, o.certChain...)...)
	if err != nil {
		return nil, err
	}
	switch o.method {
	case "key":
		return modelsig.KeySigner(files[0], nil)
	case "certificate":
		leaf, err := read(o.signingCert)
		if err != nil {
			return nil, err
		}
		return modelsig.CertificateSigner(files[0], nil, leaf[0], files[1:]...)
	}
	return nil, fmt.Errorf("method %q is not known", o.method)
}

// trust is the Sigstore of method sigstore. The config is nil where none is
// named beside a root.
func (o *options) trust(ctx context.Context) (root *bundle.TrustedRoot, config *bundle.SigningConfig, err error) {
	name := cmp.Or(o.trustedRoot, os.Getenv("MODELSIG_TRUSTED_ROOT"))
	if name == "" {
		repository := bundle.PublicGood()
		if o.useStaging {
			repository = bundle.Staging()
		}
		return bundle.FetchTrust(ctx, http.DefaultClient, repository, bundle.TUFOptions{})
	}
	files, err := read(name)
	if err != nil {
		return nil, nil, err
	}
	if root, err = bundle.ParseTrustedRoot(files[0]); err != nil {
		return nil, nil, err
	}
	if name = os.Getenv("MODELSIG_SIGNING_CONFIG"); name != "" {
		if files, err = read(name); err != nil {
			return nil, nil, err
		}
		config, err = bundle.ParseSigningConfig(files[0])
	}
	return root, config, err
}

func (o *options) policy(ctx context.Context) (policy modelsig.Policy, err error) {
	var files [][]byte
	switch o.method {
	case "key":
		if files, err = read(o.publicKey); err == nil {
			policy, err = modelsig.KeyPolicy(files...)
		}
	case "certificate":
		if files, err = read(o.certChain...); err == nil {
			policy, err = modelsig.CertificatePolicy(files, modelsig.CertificateOptions{})
		}
	case "sigstore":
		var root *bundle.TrustedRoot
		if root, _, err = o.trust(ctx); err == nil {
			policy, err = modelsig.SigstorePolicy(root, modelsig.SigstoreIdentity{Subject: o.identity, Issuer: o.identityProvider})
		}
	default:
		err = fmt.Errorf("method %q is not known", o.method)
	}
	policy.IgnoreUnsignedFiles = o.ignoreUnsigned
	policy.IncludeGitPaths = !o.ignoreGitPath
	return policy, err
}

func read(names ...string) ([][]byte, error) {
	var files [][]byte
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		files = append(files, data)
	}
	return files, nil
}

// benchmark prints how long each repetition of an operation took.
func (o *options) benchmark(ctx context.Context, stdout io.Writer) error {
	operation, err := o.benchmarked(ctx)
	if err != nil {
		return err
	}
	var result struct {
		Times []float64 `json:"times_ms"`
	}
	for n := range o.warmup + o.repeat {
		start := time.Now()
		if err := operation(); err != nil {
			return err
		}
		if took := time.Since(start); n >= o.warmup {
			result.Times = append(result.Times, float64(took.Microseconds())/1000)
		}
	}
	return json.NewEncoder(stdout).Encode(result)
}

func (o *options) benchmarked(ctx context.Context) (func() error, error) {
	client, signing := o.client(), o.signOptions()
	switch o.operation {
	case "hash":
		return func() error { _, err := client.DigestDir(ctx, o.modelPath, signing); return err }, nil
	case "sign":
		signer, err := o.signer(ctx)
		return func() error { _, err := client.SignDir(ctx, o.modelPath, signer, signing); return err }, err
	case "verify":
		policy, err := o.policy(ctx)
		return func() error {
			_, err := client.VerifyDir(ctx, o.modelPath, policy, modelsig.VerifyOptions{SignatureFile: o.bundle, IgnorePaths: o.ignorePaths})
			return err
		}, err
	}
	return nil, fmt.Errorf("operation %q is not known", o.operation)
}

// capabilities say what of the protocol this adapter has.
func capabilities() any {
	version := "devel"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	return map[string]any{
		"protocol_version": 1,
		"client_version":   version,
		"methods":          []string{"key", "certificate", "sigstore"},
		"flags":            []string{"ignore-paths", "ignore-unsigned-files", "cert-chain"},
		"hash_algorithms":  []string{manifest.SHA256, manifest.BLAKE2b, manifest.BLAKE3},
		"benchmark_model":  true,
	}
}
