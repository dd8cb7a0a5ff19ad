// Package modelsig signs machine-learning models where they live, in OCI
// registries, and says whether a model is signed by whom you trust.
//
// Two verbs do the common thing:
//
//	signer, err := modelsig.KeySigner(pem, nil)
//	_, err = modelsig.Sign(ctx, "registry.example.com/acme/tiny:v1", signer)
//
//	policy, err := modelsig.KeyPolicy(publicPEM)
//	report, err := modelsig.Verify(ctx, "registry.example.com/acme/tiny:v1", policy)
//
// A [Client] has the rest: local folders and files, manifests on disk, image
// layouts, and everything that can be set.
//
// # Answers
//
// Verify returns a [*Verification] and nil for yes. No is a [*Denial] that
// wraps [ErrRefused] and holds everything that is known; what could not be
// decided wraps [ErrUnknown]. Every other error is about the call: a missing
// file, a registry that did not answer.
//
// # What is signed
//
// One act of signing makes two bundles. The model signature is an OpenSSF
// Model Signing (OMS) v1.0 statement: the files a consumer gets, by name and
// digest, and the digest of the OCI manifest in an annotation. The artifact
// signature is what cosign writes: a statement about that manifest's digest.
// Both are attached to the manifest as referrers.
package modelsig

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/referrers"
	"github.com/modelsig/modelsig/verify"
)

// The nouns of this package, so that the common thing needs no second import.
type (
	// A Signer signs statements into bundles: see [KeySigner].
	Signer = bundle.Signer
	// A Policy says whom to believe: see [KeyPolicy]. Its zero value trusts
	// nobody.
	Policy = verify.Policy
	// A Report is the answer of a verification.
	Report = verify.Report
)

var (
	// ErrRefused: it is certain that the model is not signed as the policy
	// wants, or its input is hostile.
	ErrRefused = verify.ErrRefused
	// ErrUnknown: nothing said yes, and something could not be read.
	ErrUnknown = verify.ErrUnknown
)

// A Client signs and verifies. The zero value is ready: it asks registries
// without credentials. Set the fields before the first call; after that a
// Client may be used by many goroutines.
type Client struct {
	// Registry says how registries are reached.
	Registry oci.Options

	// MaxReferrers bounds how many referrers one verdict reads; 0: 1,000.
	MaxReferrers int

	// Jobs bounds how many files are hashed or uploaded at once, and how many
	// layers are read; 0: the number of CPUs, and 4 layers.
	Jobs int

	// Reads is called before layers are read to know the files in them, with
	// the artifact and how many bytes that are. nil: silent.
	Reads func(target string, bytes int64)

	// Progress is called as bytes are hashed, read and uploaded, with the running
	// count and the total, from several goroutines. nil: silent.
	Progress func(done, total int64)

	// Logger gets what may help to find a fault; nil: silent.
	Logger *slog.Logger

	// Tracer gets a span for each act of signing and verifying, with the
	// attributes in docs/tracing.md. nil: the global provider of the
	// OpenTelemetry API, which does nothing until the application sets one.
	Tracer trace.TracerProvider

	once   sync.Once
	client *oci.Client
	err    error

	// step is called between the steps of a pull, by tests.
	step func(name string)
}

// Sign signs the artifact that ref names, with Docker's credentials, and
// attaches both signatures. It reads no layer.
func Sign(ctx context.Context, ref string, signer Signer) (*Signature, error) {
	c, err := withDockerCredentials()
	if err != nil {
		return nil, err
	}
	return c.Sign(ctx, ref, signer, SignOptions{})
}

// Verify decides about the artifact that ref names, with Docker's credentials.
func Verify(ctx context.Context, ref string, policy Policy) (*Verification, error) {
	c, err := withDockerCredentials()
	if err != nil {
		return nil, err
	}
	return c.Verify(ctx, ref, policy, VerifyOptions{})
}

func withDockerCredentials() (*Client, error) {
	credentials, err := oci.DockerCredentials()
	if err != nil {
		return nil, err
	}
	return &Client{Registry: oci.Options{Credentials: credentials}}, nil
}

// registry returns the one client that every registry request goes through.
func (c *Client) registry() (*oci.Client, error) {
	c.once.Do(func() {
		o := c.Registry
		if o.Logger == nil {
			o.Logger = c.Logger
		}
		c.client, c.err = oci.NewClient(o)
	})
	return c.client, c.err
}

// openReference resolves a reference, once: an artifact or, with platform, the
// one manifest for it of the index that r names.
func (c *Client) openReference(ctx context.Context, r oci.Reference, platform string) (*oci.Model, error) {
	return c.resolve(ctx, r, platform, (*oci.Client).Open)
}

// openSubject is openReference for what may be about an index itself.
func (c *Client) openSubject(ctx context.Context, r oci.Reference, platform string) (*oci.Model, error) {
	return c.resolve(ctx, r, platform, (*oci.Client).OpenAny)
}

func (c *Client) resolve(ctx context.Context, r oci.Reference, platform string, open func(*oci.Client, context.Context, oci.Reference) (*oci.Model, error)) (_ *oci.Model, err error) {
	ctx, span := child(ctx, "resolve")
	defer end(span, &err)
	client, err := c.registry()
	if err != nil {
		return nil, err
	}
	if platform != "" {
		return client.OpenPlatform(ctx, r, platform)
	}
	return open(client, ctx, r)
}

// open is openSubject for a reference as it was written.
func (c *Client) open(ctx context.Context, ref string) (*oci.Model, error) {
	r, err := oci.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	return c.openSubject(ctx, r, "")
}

// indexOf is the digest of the index that a model was chosen from; "" if it was
// named itself.
func indexOf(m *oci.Model) string {
	if m.Index == nil {
		return ""
	}
	return m.Index.Digest.String()
}

// store is where a model's referrers live.
func store(m *oci.Model) referrers.Store {
	if m.Layout != nil {
		return referrers.InLayout(m.Layout)
	}
	return referrers.InRepository(m.Repository)
}

func (c *Client) limits() referrers.Limits {
	return referrers.Limits{Read: c.MaxReferrers}
}

// hash hashes with the client's settings.
func (c *Client) hash(ctx context.Context, h manifest.Hasher, files []manifest.File) (resources []manifest.Resource, err error) {
	ctx, span := child(ctx, "hash")
	defer endHash(span, files, &resources, &err)
	h.Jobs, h.Progress = c.Jobs, c.progress(files)
	return h.Hash(ctx, files)
}

// hashAgain is hash for a verdict, in the way in which the statement was made.
func (c *Client) hashAgain(ctx context.Context, h manifest.Hashing, files []manifest.File) ([]manifest.Resource, error) {
	return c.hash(ctx, manifest.Hasher{Hashing: h}, files)
}

// progress adds up what a hasher or an upload reads.
func (c *Client) progress(files []manifest.File) func(int64) {
	if c.Progress == nil {
		return nil
	}
	var total int64
	for _, f := range files {
		total += f.Size
	}
	return c.counter(total)
}

// counter adds up bytes of a total.
func (c *Client) counter(total int64) func(int64) {
	if c.Progress == nil {
		return nil
	}
	var done atomic.Int64
	return func(n int64) { c.Progress(done.Add(n), total) }
}

func (c *Client) log() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}
