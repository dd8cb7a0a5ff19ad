// Package referrers attaches bundles to a subject and finds them again, on
// every registry: with the Referrers API, without it, and with one that lies.
// It moves bytes: it does not know what a signature is.
//
// # The referrer
//
// A bundle is one layer of an OCI image manifest that names its subject
// (distribution-spec "Pushing Manifests with Subject"):
//
//	{"schemaVersion":2,
//	 "mediaType":"application/vnd.oci.image.manifest.v1+json",
//	 "config":{"mediaType":"application/vnd.oci.empty.v1+json",
//	           "digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
//	           "size":2,
//	           "artifactType":"application/vnd.dev.sigstore.bundle.v0.3+json"},
//	 "layers":[{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json",
//	            "digest":"sha256:…","size":1659}],
//	 "annotations":{"dev.sigstore.bundle.content":"dsse-envelope",
//	                "dev.sigstore.bundle.predicateType":"https://sigstore.dev/cosign/sign/v1",
//	                "org.opencontainers.image.created":"2026-11-22T06:17:58Z"},
//	 "subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json",
//	            "digest":"sha256:…","size":812},
//	 "artifactType":"application/vnd.dev.sigstore.bundle.v0.3+json"}
//
// The config blob is {}. The subject has these three members and no other. The
// config's artifactType is not in the image spec; cosign looks for it when it
// cleans up. The same attachment gives the same bytes.
//
// # Finding
//
// [List] asks the Referrers API, GET /v2/NAME/referrers/DIGEST, without a
// filter, and follows Link: rel="next" on the same origin.
//
//	200 and an OCI index, with bundles     the fallback tag is read where they are not enough
//	200 and an OCI index, others           the fallback tag is read as well
//	200 and an OCI index, empty            the fallback tag is read as well
//	404, 405                               there is no API: the fallback tag is read
//	anything else, or cut short            could not tell: the fallback tag is read,
//	                                       and the listing is incomplete
//
// The fallback tag is the subject's digest with - for the colon, sha256-HEX
// (distribution-spec "Referrers Tag Schema"), and names an OCI index. 404 means
// that nobody wrote one. A tag that names something else is a source that
// cannot be read, not an empty one: the listing is incomplete. So it is where
// a registry takes the tag for the digest and answers the subject itself: what
// the tag holds, if anything, cannot be seen there.
//
// What a listing says about a referrer only orders the reading. Descriptors
// written by other tools have no annotations, the wrong artifactType or the
// wrong size, and they may be meant to mislead. [Listing.Read] therefore reads
// every manifest by its digest and believes only that.
//
// # Adding to the fallback tag
//
// Where the API does not list what was pushed, [Attach] adds all entries of the
// act to the index in one update. Every byte of the old index stays as it is;
// an index that could not be read whole is never written.
//
// Registries have no compare-and-swap for tags, so writers overwrite one
// another. Each keeps in mind every entry it saw during its act, writes what it
// reads now plus what is missing of those, and then looks twice. The second
// look comes later than the time that a slow writer needs from its read to its
// write: a writer that read before our write has written by then. If an entry
// is missing in either look, it is written again after a random wait. Whoever
// writes an index guards all entries in it until its own second look, so an
// entry can be lost only if all who saw it have ended, and then no writer is
// left that read the index without it. A writer whose own write hangs watches
// the tag meanwhile and puts back what it is about to overwrite.
//
// Before an entry of somebody else is put back its manifest is asked for: what
// is gone was deleted, and stays so. [Delete] therefore takes the entry out of
// the index, then deletes the manifest, and then looks twice that the entry has
// not come back: with the manifest there, every writer who saw the entry would
// put it back. A process that dies in between leaves a signature that is not
// listed; an entry without its manifest only if another writer put it back in
// that very moment.
//
// An image layout has no such race: its entries are added to index.json, and
// taken out of it, in one locked act.
package referrers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// BundleType is the artifactType and the layer media type of a bundle referrer.
const BundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"

// Annotations of a bundle referrer (cosign's BUNDLE_SPEC).
const (
	// AnnotationContent says what the bundle holds: always "dsse-envelope" here.
	AnnotationContent = "dev.sigstore.bundle.content"
	// AnnotationPredicateType repeats the predicate type of the statement
	// inside: a claim that saves reading.
	AnnotationPredicateType = "dev.sigstore.bundle.predicateType"
)

const (
	// bundlePrefix begins the media type of every version of the bundle.
	bundlePrefix = "application/vnd.dev.sigstore.bundle"
	// artifactPredicate is the one predicate type with the smaller limit: its
	// predicate is empty, so that the bundle is small whatever the model.
	artifactPredicate = "https://sigstore.dev/cosign/sign/v1"
)

// Defaults that a writer must know: a larger bundle would not be read back.
const (
	// MaxArtifactBundle bounds a cosign signature, in bytes: it has some KiB,
	// more with a chain and log entries.
	MaxArtifactBundle = 8 << 20
	// MaxModelBundle bounds any other bundle, in bytes: 64 MiB of statement
	// name about 300,000 files.
	MaxModelBundle = 64 << 20
)

var (
	// ErrUnread is wrapped by [Candidate.Err] when a referrer could not be
	// read: the network, a status, a listed manifest that is not there, bytes
	// that end early, a limit. Whether it is a signature is not known.
	ErrUnread = errors.New("could not be read")

	// ErrMalformed is wrapped by [Candidate.Err] when a referrer was read and
	// is wrong: another subject, two layers, bytes that are not those of the
	// digest, ambiguous JSON. It can never count.
	ErrMalformed = errors.New("malformed referrer")

	// ErrNotBundle is wrapped by [Candidate.Err] when a referrer was read and
	// is some other kind of artifact, an SBOM for instance.
	ErrNotBundle = errors.New("not a bundle")

	// ErrNotAttached is wrapped by every error of [Attach]: the attachments
	// were not read back, and the caller must not say that it signed.
	ErrNotAttached = errors.New("not attached")
)

// Limits bound what one listing and one act of reading may cost. A field that
// is zero or less means its default; the zero value is all defaults.
type Limits struct {
	ListBytes     int64 // bytes of listing, per source, all pages together: 8 MiB
	Entries       int   // entries of a listing, per source: 10,000, or Read if that is more
	Read          int   // referrers that one Read reads (--max-referrers): 1,000
	ManifestBytes int64 // bytes of a referrer's manifest: 64 KiB
	ArtifactBytes int64 // bytes of a bundle that claims to be a cosign signature: 8 MiB
	ModelBytes    int64 // bytes of any other bundle: 64 MiB
	TotalBytes    int64 // bytes of manifests and bundles that one Read reads: 256 MiB
}

const (
	// An entry is 300 to 800 bytes: room for 10,000.
	defaultListBytes = 8 << 20
	// More is no list of signatures; a flood should not cost more than this.
	defaultEntries = 10_000
	// Each costs two requests: some seconds on a near registry, a minute on a far one.
	defaultRead = 1_000
	// A bundle referrer has less than 2 KiB; annotations of others may be longer.
	defaultManifestBytes = 64 << 10
	// Four of the largest: what a verdict may cost in traffic.
	defaultTotalBytes = 256 << 20
)

func (l Limits) withDefaults() Limits {
	l.ListBytes = positive(l.ListBytes, defaultListBytes)
	l.Read = positive(l.Read, defaultRead)
	l.Entries = positive(l.Entries, max(defaultEntries, l.Read))
	l.ManifestBytes = positive(l.ManifestBytes, defaultManifestBytes)
	l.ArtifactBytes = positive(l.ArtifactBytes, MaxArtifactBundle)
	l.ModelBytes = positive(l.ModelBytes, MaxModelBundle)
	l.TotalBytes = positive(l.TotalBytes, defaultTotalBytes)
	return l
}

func positive[N int | int64](n, otherwise N) N {
	if n > 0 {
		return n
	}
	return otherwise
}

// bundle returns the limit for a bundle that claims predicateType.
func (l Limits) bundle(predicateType string) int64 {
	if predicateType == artifactPredicate {
		return l.ArtifactBytes
	}
	return l.ModelBytes
}

// A Store holds a subject and its referrers. [InRepository] and [InLayout] make
// one. A Store may be used by several goroutines at once.
type Store interface {
	// list returns what refers to subject and, beside it, an error if a source
	// could not be read whole: what was read of it counts all the same. rest
	// reads a source that was left out, since most need no more; nil: none was.
	list(ctx context.Context, subject ocispec.Descriptor, l Limits) (found []Referrer, rest func(context.Context) ([]Referrer, error), err error)

	// manifest returns the manifest with desc's digest, of at most limit bytes;
	// all else in desc are hints. blob returns the blob with desc's digest and
	// size. The errors wrap ErrUnread or ErrMalformed.
	manifest(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error)
	blob(ctx context.Context, desc ocispec.Descriptor) ([]byte, error)

	// attach pushes the referrers and returns once each can be found. link is
	// its second half, for manifests that are there.
	attach(ctx context.Context, subject ocispec.Descriptor, add []referrer) error
	link(ctx context.Context, subject ocispec.Descriptor, add []referrer) error

	// tagged returns the manifest that a tag names, of at most
	// maxLayoutManifest bytes. The error wraps errAbsent where there is none.
	tagged(ctx context.Context, tag string) ([]byte, error)

	// delete makes the referrer with desc's digest unfindable.
	delete(ctx context.Context, subject digest.Digest, desc ocispec.Descriptor) error
}

// A Referrer is one entry of a listing.
type Referrer struct {
	// Descriptor is the entry as it was listed: hints, all of it. An entry
	// that is no descriptor leaves it zero.
	Descriptor ocispec.Descriptor
	// Raw is the entry byte for byte.
	Raw json.RawMessage
	// Source says where it was listed: "referrers API", "tag sha256-…" or
	// "index.json".
	Source string

	// bad says why Raw is not the descriptor of something that can be read.
	bad error
}

// maxEntry bounds one entry that is parsed, in bytes: an honest one has less
// than 1 KiB, and annotations take a hundred times their size in memory.
const maxEntry = 64 << 10

// newReferrer parses one entry of a listing. An entry that makes no sense stays
// in the list, so that Read can say so.
func newReferrer(raw []byte, source string) Referrer {
	r := Referrer{Raw: raw, Source: source}
	if len(raw) > maxEntry {
		r.bad = fmt.Errorf("%w: entry of %d bytes, more than %d", ErrUnread, len(raw), maxEntry)
		return r
	}
	var desc ocispec.Descriptor
	if err := unmarshal(raw, &desc); err != nil {
		r.bad = fmt.Errorf("entry is not a descriptor: %s", escape(err.Error()))
		return r
	}
	r.Descriptor = desc
	r.bad = checkDigest(desc.Digest)
	return r
}

// checkDigest accepts sha256 digests only: no other algorithm is used to sign,
// and what is no digest must not become part of a URL.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %s: %w", quote(string(d)), err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %s: only sha256 is accepted", quote(string(d)))
	}
	return nil
}

// checkSubject refuses subjects that no manifest can have.
func checkSubject(subject ocispec.Descriptor) error {
	if err := checkDigest(subject.Digest); err != nil {
		return fmt.Errorf("subject: %w", err)
	}
	if subject.MediaType == "" || subject.Size <= 0 {
		return fmt.Errorf("subject %s: media type or size is missing", subject.Digest)
	}
	return nil
}
