package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

const (
	// maxTUFAnswer is the largest file of a TUF repository in bytes: what go-tuf takes as targets metadata. The public one has 6 KiB, its root.json 8 KiB.
	maxTUFAnswer = 5_000_000
	// maxTUFRedirects is how often one file may be elsewhere: a CDN sends on once.
	maxTUFRedirects = 3
)

// ErrTrustUnreachable is returned when a TUF repository did not give what it was asked for, be it that nobody answered or that the answer was no or broke off.
// It says nothing about whom to trust: what was given and is wrong is another error.
var ErrTrustUnreachable = errors.New("could not be reached")

// A TUFRepository is where a Sigstore publishes its trusted root and signing config, by The Update Framework.
type TUFRepository struct {
	// URL is the http or https address below which the metadata lies. What it says is signed; https only keeps others from seeing who asks.
	URL string
	// Root is the JSON of the root metadata (root.json) that is trusted from the start, of any version that the repository's present one can be reached from.
	Root []byte
}

// PublicGood is the repository of the public Sigstore, with the root metadata that sigstore-go has.
func PublicGood() TUFRepository { return TUFRepository{tuf.DefaultMirror, tuf.DefaultRoot()} }

// Staging is the repository of the public Sigstore's staging instance, which is for tests: anybody may have got anything there.
func Staging() TUFRepository { return TUFRepository{tuf.StagingMirror, tuf.StagingRoot()} }

// TUFOptions are what [FetchTrust] takes beside the repository. The zero value keeps nothing, and asks each time.
type TUFOptions struct {
	// Cache is a folder where metadata is kept, in the form of the tools that use sigstore-go, which may share it; "": none. It is made if it is missing.
	// One that cannot be made or written is as none. What is in it is believed only as far as its signatures reach. Any number of processes may use it at once.
	Cache string
	// MaxAge is how long kept metadata is used without asking whether there is newer, while it has not expired by itself. 0: asked each time.
	// Metadata that is older and cannot be refreshed is not used.
	MaxAge time.Duration
}

// FetchTrust gives the trusted root of a Sigstore and the signing config (version 0.2) that goes with it. Who only verifies wants [FetchTrustedRoot].
//
// client does the requests; its limits of time are its owner's matter, beside ctx. A file has at most 5 MB, and redirects are followed only to https, whatever client does.
// An error is an [ErrTrustUnreachable], or the cause for which ctx ended, or it says what is wrong with what the repository has: no signature by its root metadata, an older version
// than one seen before, an end that has passed (TUF §5). Where the repository has only one of the two, that is an error too.
func FetchTrust(ctx context.Context, client *http.Client, repository TUFRepository, o TUFOptions) (*TrustedRoot, *SigningConfig, error) {
	files, err := fetchTargets(ctx, client, repository, o, trustedRootTarget, signingConfigTarget)
	if err != nil {
		return nil, nil, err
	}
	trusted, err := ParseTrustedRoot(files[0])
	if err != nil {
		return nil, nil, fmt.Errorf("fetch trust from %s: %w", quote(repository.URL), err)
	}
	config, err := ParseSigningConfig(files[1])
	if err != nil {
		return nil, nil, fmt.Errorf("fetch trust from %s: %w", quote(repository.URL), err)
	}
	return trusted, config, nil
}

// FetchTrustedRoot is [FetchTrust] for who only verifies: whether the repository has a signing config does not matter.
func FetchTrustedRoot(ctx context.Context, client *http.Client, repository TUFRepository, o TUFOptions) (*TrustedRoot, error) {
	files, err := fetchTargets(ctx, client, repository, o, trustedRootTarget)
	if err != nil {
		return nil, err
	}
	trusted, err := ParseTrustedRoot(files[0])
	if err != nil {
		return nil, fmt.Errorf("fetch trust from %s: %w", quote(repository.URL), err)
	}
	return trusted, nil
}

// The names that every Sigstore has given its targets.
const (
	trustedRootTarget   = "trusted_root.json"
	signingConfigTarget = "signing_config.v0.2.json"
)

func fetchTargets(ctx context.Context, client *http.Client, repository TUFRepository, o TUFOptions, names ...string) ([][]byte, error) {
	fail := func(err error) ([][]byte, error) {
		switch {
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		case errors.Is(err, ErrTrustUnreachable): // its foreign text is quoted
		default:
			err = fmt.Errorf("what it has is refused: %s", quote(err.Error()))
		}
		return nil, fmt.Errorf("fetch trust from %s: %w", quote(repository.URL), err)
	}
	if client == nil {
		return nil, errors.New("fetch trust: no HTTP client")
	}
	if u, err := parseEndpoint(repository.URL); err != nil || u.User != nil {
		return nil, errors.New("fetch trust: the repository's address is no http or https URL") // not repeated: it may hold a password
	}
	if o.MaxAge < 0 {
		return nil, errors.New("fetch trust: metadata cannot be used for less than no time")
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	fetcher := newTUFFetcher(ctx, client)
	options := &tuf.Options{Root: repository.Root, RepositoryBaseURL: repository.URL, Fetcher: fetcher, Context: ctx}
	kept := openTUFCache(o.Cache, repository.URL, names)
	defer kept.close()
	if kept == nil {
		// go-tuf looks for kept files all the same, and without a path in the working directory.
		options.DisableLocalCache, options.CachePath = true, os.DevNull
	} else {
		options.CachePath = kept.private
		options.ForceCache = kept.age(time.Now()) < o.MaxAge
	}
	t, err := tuf.New(options)
	// What was accepted before something was refused is kept all the same: the next older version is then refused too.
	defer kept.save()
	if err != nil {
		return fail(err)
	}
	files := make([][]byte, len(names))
	for i, name := range names {
		if files[i], err = t.GetTarget(name); err != nil {
			return fail(err)
		}
	}
	return files, nil
}

// A tufFetcher is go-tuf's idea of an HTTP client, for the time of one context.
type tufFetcher func(address string, limit int64) ([]byte, error)

// DownloadFile implements go-tuf's fetcher.Fetcher. The time is one that go-tuf no longer sets.
func (f tufFetcher) DownloadFile(address string, limit int64, _ time.Duration) ([]byte, error) {
	return f(address, limit)
}

func newTUFFetcher(ctx context.Context, client *http.Client) tufFetcher {
	c := *client
	c.CheckRedirect = func(next *http.Request, before []*http.Request) error {
		switch {
		case next.URL.Scheme != "https":
			return errors.New("redirected to an address that is not https")
		case len(before) > maxTUFRedirects:
			return fmt.Errorf("redirected more than %d times", maxTUFRedirects)
		}
		return nil
	}
	return func(address string, limit int64) ([]byte, error) {
		unreachable := func(err error) error { return fmt.Errorf("%w: %s", ErrTrustUnreachable, quote(err.Error())) }
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return nil, unreachable(err)
		}
		answer, err := c.Do(request)
		if err != nil {
			return nil, unreachable(err)
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			// go-tuf knows by this type that there is no newer root metadata.
			return nil, fmt.Errorf("%w: %w", ErrTrustUnreachable, &metadata.ErrDownloadHTTP{StatusCode: answer.StatusCode, URL: quote(address)})
		}
		limit = min(limit, maxTUFAnswer)
		data, err := io.ReadAll(io.LimitReader(answer.Body, limit+1))
		if err != nil {
			return nil, unreachable(err)
		}
		if int64(len(data)) > limit {
			return nil, &metadata.ErrDownloadLengthMismatch{Msg: fmt.Sprintf("%s has more than %d bytes", address, limit)}
		}
		return data, nil
	}
}

// A tufCache is a private copy of what a shared folder has of one repository. sigstore-go reads back what it writes and takes a neighbour's newer file for a failure;
// in the copy it is alone. What has changed goes back by renaming, so that nobody sees half a file.
type tufCache struct {
	shared, private string
	name            string            // of the repository, as sigstore-go has it
	names           []string          // of files, in the order in which they go back
	files           map[string][]byte // what was copied, by its path in both
}

// openTUFCache returns nil where nothing can be kept.
func openTUFCache(folder, repository string, targets []string) *tufCache {
	if folder == "" || os.MkdirAll(folder, 0o700) != nil {
		return nil
	}
	private, err := os.MkdirTemp(folder, ".modelsig-*")
	if err != nil {
		return nil
	}
	c := &tufCache{shared: folder, private: private, name: tuf.URLToPath(repository), files: make(map[string][]byte)}
	// In the order in which they go back: metadata after what it names, the time of asking last.
	for _, target := range targets {
		c.copy(filepath.Join(c.name, "targets", target), func([]byte) bool { return true }) // sigstore-go compares the digest
	}
	c.copy(filepath.Join(c.name, metadata.ROOT+".json"), readable(metadata.Root()))
	c.copy(filepath.Join(c.name, metadata.TARGETS+".json"), readable(metadata.Targets()))
	c.copy(filepath.Join(c.name, metadata.SNAPSHOT+".json"), readable(metadata.Snapshot()))
	c.copy(filepath.Join(c.name, metadata.TIMESTAMP+".json"), readable(metadata.Timestamp()))
	c.copy(c.name+".json", func([]byte) bool { return true })
	return c
}

// readable says whether metadata can be read at all. sigstore-go refreshes what is signed wrongly, and for what is cut short it gives up.
func readable[T metadata.Roles](m *metadata.Metadata[T]) func([]byte) bool {
	return func(data []byte) bool {
		_, err := m.FromBytes(data)
		return err == nil
	}
}

// copy takes one file along. One that cannot be read is as none.
func (c *tufCache) copy(name string, ok func([]byte) bool) {
	c.names = append(c.names, name)
	from := filepath.Join(c.shared, name)
	if info, err := os.Stat(from); err != nil || !info.Mode().IsRegular() || info.Size() > maxTUFAnswer {
		return
	}
	f, err := os.Open(from)
	if err != nil {
		return
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxTUFAnswer+1))
	if err != nil || len(data) > maxTUFAnswer || !ok(data) {
		return
	}
	to := filepath.Join(c.private, name)
	if os.MkdirAll(filepath.Dir(to), 0o700) != nil || os.WriteFile(to, data, 0o600) != nil {
		return
	}
	c.files[name] = data
}

// age is how long ago the repository was asked. Where that is unknown, or has not come yet, it is the longest time.
func (c *tufCache) age(now time.Time) time.Duration {
	const unknown = time.Duration(1<<63 - 1)
	config, err := tuf.LoadConfig(filepath.Join(c.private, c.name+".json"))
	if err != nil || config.LastTimestamp.After(now) {
		return unknown
	}
	return now.Sub(config.LastTimestamp)
}

// save gives back what has changed. What cannot be given back is fetched again the next time.
func (c *tufCache) save() {
	if c == nil {
		return
	}
	if os.MkdirAll(filepath.Join(c.shared, c.name, "targets"), 0o700) != nil {
		return
	}
	for _, name := range c.names {
		from := filepath.Join(c.private, name)
		if data, err := os.ReadFile(from); err == nil && !bytes.Equal(data, c.files[name]) {
			_ = os.Rename(from, filepath.Join(c.shared, name))
		}
	}
}

func (c *tufCache) close() {
	if c != nil {
		_ = os.RemoveAll(c.private)
	}
}
