package oci

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Options say how a [Client] reaches registries. The zero value speaks HTTPS
// to anyone and HTTP to loopback literals and "localhost", without
// credentials. Proxies are taken from the environment, as net/http does.
type Options struct {
	// PlainHTTP speaks HTTP to every registry. It contradicts the TLS options.
	PlainHTTP bool
	// InsecureSkipTLSVerify accepts any certificate. Like CAFile and CertFile
	// it switches loopback to HTTPS.
	InsecureSkipTLSVerify bool
	// CAFile is a PEM file of authorities that are trusted beside the system's.
	CAFile string
	// CertFile and KeyFile are a PEM client certificate and its key: both or none.
	CertFile, KeyFile string
	// Credentials finds a credential when a registry asks for one; nil: anonymous.
	Credentials Credentials
	// UserAgent is sent with every request; "": "modelsig".
	UserAgent string
	// StallTimeout ends a request when no byte moved for so long; 0: 60 s.
	// Time in which the caller does not read does not count.
	StallTimeout time.Duration
	// Logger gets requests (debug) and retries (warn), never a credential or
	// a query string; nil: silent.
	Logger *slog.Logger
	// Transport replaces the connection to the network, below retries and
	// stall detection; nil: an http.Transport made from these options. With
	// it, the TLS options still choose the scheme, and nothing else.
	Transport http.RoundTripper
}

// A Client speaks to registries and opens image layouts. It is safe for
// concurrent use. Its zero value is not usable: call [NewClient].
type Client struct {
	plainHTTP   bool
	overTLS     bool // an option about TLS was given
	credentials Credentials
	userAgent   string
	http        *http.Client

	mu    sync.Mutex
	auths map[string]*authClient // by Reference.Name and scheme
}

// maxAuthClients bounds what a long-lived Client remembers. Forgetting costs
// one more token request.
const maxAuthClients = 1024

// NewClient returns a client. It reads CAFile, CertFile and KeyFile, and makes
// no request.
func NewClient(o Options) (*Client, error) {
	c := &Client{
		plainHTTP:   o.PlainHTTP,
		overTLS:     o.InsecureSkipTLSVerify || o.CAFile != "" || o.CertFile != "" || o.KeyFile != "",
		credentials: o.Credentials,
		userAgent:   o.UserAgent,
		auths:       map[string]*authClient{},
	}
	if c.userAgent == "" {
		c.userAgent = "modelsig"
	}
	if c.plainHTTP && c.overTLS {
		return nil, errors.New("plain HTTP and options about TLS contradict each other")
	}
	logger := o.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	config, err := tlsConfig(o)
	if err != nil {
		return nil, err
	}
	base := o.Transport
	if base == nil {
		base = newTransport(config)
	}
	stall := o.StallTimeout
	if stall <= 0 {
		stall = defaultStall
	}
	c.http = &http.Client{
		Transport: &retryTransport{
			base:   &stallTransport{base: base, stall: stall},
			logger: logger,
		},
		CheckRedirect: checkRedirect,
	}
	return c, nil
}

func tlsConfig(o Options) (*tls.Config, error) {
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: o.InsecureSkipTLSVerify,
	}
	if o.CAFile != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("load the system's certificate authorities: %w", err)
		}
		data, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read certificate authorities: %w", err)
		}
		if !pool.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("read certificate authorities: %q holds no PEM certificate", o.CAFile)
		}
		config.RootCAs = pool
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		return nil, errors.New("a client certificate needs both a certificate file and a key file")
	}
	if o.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("load client certificate %q with key %q: %w", o.CertFile, o.KeyFile, err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	return config, nil
}

// An authClient is oras-go's auth.Client for one repository, because Podman's
// credentials may differ by repository. All share one http.Client.
type authClient struct {
	auth.Client
	registry string

	mu     sync.Mutex
	source string // of the credential that was used last; "": none was found
	asked  bool   // the registry asked for one
}

// describe says, for error messages, what was sent and where it came from.
func (a *authClient) describe() string {
	if a == nil {
		return "by a client that is not ours"
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case !a.asked:
		return "sent without credentials"
	case a.source == "":
		return "no credentials found for " + a.registry
	}
	return "with credentials from " + a.source
}

// repository returns oras-go's handle for ref. Its Client is an *auth.Client.
func (c *Client) repository(ref Reference) (*remote.Repository, *authClient, error) {
	plain, err := c.speaksHTTP(ref)
	if err != nil {
		return nil, nil, err
	}
	a := c.auth(ref, plain)
	return &remote.Repository{
		Client:    &a.Client,
		Reference: registry.Reference{Registry: ref.Registry, Repository: ref.Repository},
		PlainHTTP: plain,
		// What the referrers API gives back may be larger than a manifest, and
		// is read elsewhere; oras-go itself reads only manifests here.
		MaxMetadataBytes: MaxManifest,
	}, a, nil
}

// speaksHTTP decides the scheme once; no other is tried after it (rule 26).
func (c *Client) speaksHTTP(ref Reference) (bool, error) {
	switch {
	case ref.HTTPS && c.plainHTTP:
		return false, fmt.Errorf("%s: written with https://, but plain HTTP was asked for", ref)
	case ref.HTTPS || c.overTLS:
		return false, nil
	}
	return c.plainHTTP || isLoopback(ref.Registry), nil
}

func (c *Client) auth(ref Reference, plain bool) *authClient {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := fmt.Sprintf("%s plain=%t", ref.Name(), plain)
	if a := c.auths[key]; a != nil {
		return a
	}
	if len(c.auths) >= maxAuthClients {
		clear(c.auths)
	}
	a := &authClient{registry: ref.Registry}
	a.Client = auth.Client{
		Client:   c.http,
		Header:   http.Header{"User-Agent": {c.userAgent}},
		Cache:    auth.NewCache(),
		ClientID: "modelsig",
		// oras-go asks for the host of the request, never of a redirect, and
		// only after a challenge. A request to anybody else gets nothing,
		// whoever made it.
		Credential: func(ctx context.Context, hostport string) (auth.Credential, error) {
			var cred Credential
			if c.credentials != nil && hostport == (registry.Reference{Registry: ref.Registry}).Host() {
				var err error
				if cred, err = c.credentials(ctx, ref.Registry, ref.Repository); err != nil {
					return auth.EmptyCredential, fmt.Errorf("find credentials for %s: %w", ref.Registry, err)
				}
			}
			a.mu.Lock()
			a.asked, a.source = true, cred.Source
			if a.source == "" && !cred.empty() {
				a.source = "the caller"
			}
			a.mu.Unlock()
			return auth.Credential{
				Username:     cred.Username,
				Password:     cred.Password,
				RefreshToken: cred.RefreshToken,
				AccessToken:  cred.AccessToken,
			}, nil
		},
	}
	c.auths[key] = a
	return a
}

// ErrNotFound is returned when the registry or layout says for certain that
// there is no such repository, tag or manifest: a 404, or a whole index.json
// without the tag. Nothing else wraps it.
var ErrNotFound = errors.New("not found")

// A Model is an artifact that was found: its manifest, and where it lives.
// It needs no closing.
type Model struct {
	Reference  Reference          // Digest always set
	Manifest   *Manifest          // never nil
	Repository *remote.Repository // nil in a layout; its Client is an *auth.Client
	Layout     *Layout            // nil in a registry

	// Index and Platform are the index that the model was chosen from, and what
	// for; nil and "" if it was named itself. The platform may be "": not every
	// index says one.
	Index    *ocispec.Descriptor
	Platform string

	auth *authClient
}

// acceptManifests is what Open asks for. Indexes are asked for so that the
// answer is one, and not "not found".
var acceptManifests = strings.Join([]string{
	ocispec.MediaTypeImageManifest,
	mediaTypeDockerManifest,
	ocispec.MediaTypeImageIndex,
	mediaTypeDockerList,
}, ", ")

// Open resolves ref once and reads its manifest; everything after is by
// digest. It moves no layer bytes. ref needs a tag or a digest, except for a
// layout with exactly one model in it (referrers do not count).
//
// The error wraps [ErrNotFound] only when the artifact certainly does not
// exist, is a [*manifest.ThreatError] when the bytes are refused, wraps
// [ErrIndex] for an index, and http.ErrSchemeMismatch when an HTTP server
// answered where HTTPS was spoken. Any other error means: could not tell.
func (c *Client) Open(ctx context.Context, ref Reference) (*Model, error) {
	m, err := c.OpenAny(ctx, ref)
	if err != nil {
		return nil, err
	}
	if m.Manifest.IsIndex() {
		return nil, fmt.Errorf("open %s: %w", m.Reference, ErrIndex)
	}
	return m, nil
}

func fetchManifest(ctx context.Context, repo *remote.Repository, ref Reference) (*Manifest, error) {
	data, mediaType, err := fetchManifestBytes(ctx, repo, ref, acceptManifests)
	if err != nil {
		return nil, err
	}
	return parseAny(data, mediaType)
}

// fetchManifestBytes reads a manifest of one of the types in accept, and
// returns the one that the server said.
func fetchManifestBytes(ctx context.Context, repo *remote.Repository, ref Reference, accept string) (_ []byte, mediaType string, _ error) {
	identifier := ref.Tag
	if ref.Digest != "" {
		identifier = ref.Digest.String()
	}
	scheme := "https"
	if repo.PlainHTTP {
		scheme = "http"
	}
	// One GET: a HEAD before it would see another manifest when the tag moves
	// in between, and oras-go's FetchReference trusts the digest header.
	url := fmt.Sprintf("%s://%s/v2/%s/manifests/%s", scheme, repo.Reference.Host(), ref.Repository, identifier)
	ctx = auth.AppendRepositoryScope(ctx, repo.Reference, auth.ActionPull)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("Accept", accept)
	resp, err := repo.Client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound && resp.Request.URL.Host == req.URL.Host:
		return nil, "", fmt.Errorf("%w (%w)", ErrNotFound, newResponseError(resp))
	case resp.StatusCode != http.StatusOK:
		return nil, "", newResponseError(resp)
	}
	mediaType, err = contentType(resp)
	if err != nil {
		return nil, "", err
	}
	data, err := readManifestBytes(resp.Body)
	if err != nil {
		return nil, "", fmt.Errorf("read manifest: %w", err)
	}
	if err := checkContentDigest(data, ref.Digest, resp.Header.Get("Docker-Content-Digest")); err != nil {
		return nil, "", err
	}
	return data, mediaType, nil
}

// checkContentDigest compares the digest of the bytes with the one asked for
// and the one the registry claims (M13).
func checkContentDigest(data []byte, asked digest.Digest, header string) error {
	got := digest.FromBytes(data)
	if asked != "" && got != asked {
		return refuse("digest-mismatch", asked.String(), "the manifest that came has digest %s", got)
	}
	// A claim in another algorithm is no claim about ours (rule 31).
	if strings.HasPrefix(header, "sha256:") && header != got.String() {
		return refuse("digest-mismatch", header, "the registry claims this digest for a manifest whose digest is %s", got)
	}
	return nil
}
