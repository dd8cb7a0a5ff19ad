// Package verify is trust policy: bytes in, verdict out.
//
// It decides one question, in one function: is there an approval statement,
// authenticated, by an allowed signer, about the sha256 of the bytes in hand?
// It opens no file and no connection. What is judged comes in as a [Subject],
// what speaks for it as [Evidence], whom to believe as a [Policy]; [Decide]
// answers with a [Report], or with an [*Error] that holds one.
//
// # Approval
//
// Two predicate types approve; everything else is information:
//
//   - https://model_signing/signature/v1.N, an OMS statement: the model
//     signature. It lists the files and, when it was made for an artifact in a
//     registry, names the manifest in the subject annotation
//     "modelsig.oci.v1" (see [Binding]).
//   - https://sigstore.dev/cosign/sign/v1, the artifact signature. Its one
//     subject is the manifest's digest. What cosign signed before it had
//     statements, of type "cosign container image signature", counts as one.
//
// # Strength
//
// A yes about an artifact says how it was reached:
//
//   - manifest-digest: the statement names this manifest by digest, size and
//     media type. Every layer, the config and every annotation are covered.
//   - layer-digests: no binding, but the statement's files equal the layers'
//     files, and nothing that is not signed carries meaning.
//   - streamed: the same, where the files are in archives, which were read.
//   - files: a local folder or file equals the statement's files.
//
// # Three answers
//
// Verified: at least one candidate passes; what others lack is a warning at
// most. Refused: none passes, and everything there is was read. Unknown: none
// passes, and something could not be read: that is not unsigned, and not yes.
package verify

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/manifest"
)

// A Strength is how a yes was reached.
type Strength string

const (
	StrengthManifest Strength = "manifest-digest"
	StrengthLayers   Strength = "layer-digests"
	StrengthStreamed Strength = "streamed"
	StrengthFiles    Strength = "files"
)

// A Policy says whom to believe, and what for. The zero value trusts nobody.
type Policy struct {
	// Verifiers are the accepted signers; one suffices. Empty trusts nobody.
	Verifiers []bundle.Verifier

	// Binding is the weakest strength accepted for an artifact: "" and
	// StrengthManifest want a statement that names the manifest,
	// StrengthLayers accepts equal layers too, and StrengthStreamed also reads
	// archives to compare the files in them. Local files have no other
	// strength than StrengthFiles, so it does not apply to them.
	Binding Strength

	// Layout wants the layers of an artifact to be read as files in this way;
	// "": in whatever way they were signed and found.
	Layout string

	// RequireModel wants a model signature: an artifact signature alone is
	// not enough.
	RequireModel bool

	// IgnorePaths are local files and folders that the caller leaves out,
	// relative to the model. They hide extra files only, never a listed one.
	IgnorePaths manifest.Ignore

	// IncludeGitPaths judges .git, .gitignore, .gitattributes and .github at
	// the top of a folder like any other file. By default they may be there
	// unsigned (OMS §6.2).
	IncludeGitPaths bool

	// IgnoreUnsignedFiles accepts local files that nobody signed. They are
	// listed as warnings. It never excuses a layer, nor, where the statement
	// is by shards and cannot list such, an empty file.
	IgnoreUnsignedFiles bool

	// Subset accepts that listed files are not there, as long as one is. They
	// are reported as missing. It never excuses a layer.
	Subset bool
}

// A Subject is what the verdict is about: an artifact, local files, or local
// files held against an artifact when both are set.
type Subject struct {
	Artifact *Artifact
	Local    *Local
}

// An Artifact is an image manifest whose bytes are in hand.
type Artifact struct {
	// Manifest has the media type, the sha256 and the size of the bytes.
	Manifest ocispec.Descriptor

	// Map says which files the layers are, by the path annotation given
	// ("title", "filepath", or "": the only one there is). covered are blobs
	// that the statement lists under a name of Pseudo. An error means that
	// this manifest has no such reading: for a yes by manifest digest that is
	// fine, unless it is a *manifest.ThreatError.
	Map func(pathAnnotation string, covered ...digest.Digest) (*Mapping, error)

	// Blobs are the names under which such tools list the config and every
	// layer, whether or not it has a name. nil: two would have one name.
	Blobs map[string]digest.Digest

	// Read is Map with layers that are read to the end, and compared with their
	// digests. It is asked where Map found archives and the verdict needs their
	// files. An error that wraps ErrUnknown means that they could not be read.
	// nil: there is nothing to read from.
	Read func(ctx context.Context, pathAnnotation string) (*Mapping, error)

	// Content has every layer read and compared for a yes, also where the
	// digests in the manifest would do. It needs Read.
	Content bool

	// Pseudo are the names that other tools give to blobs without a name
	// (config.json, layer_NNN.tar.gz) when they sign a manifest. nil where
	// such an entry could excuse a removed file.
	Pseudo map[string]digest.Digest

	// FileName is the name of the file that the manifest was read from, when
	// the caller did not say that it is a manifest: then Local has the same
	// file, and a statement that lists it is about its bytes (rule 2).
	// "" for registries and where the mode was named.
	FileName string
}

// PseudoConfig is the name of Pseudo under which a manifest's config is listed.
const PseudoConfig = "config.json"

// A Mapping is what a consumer gets from a manifest.
type Mapping struct {
	// Layout is how the layers become files; "" if only reading them tells.
	Layout string
	// Files have their sha256.
	Files []manifest.File
	// Packed says that the files are in archives: Files is empty, and
	// Artifact.Read finds them.
	Packed bool
	// Archives says that every layer is an archive, so that the names of all
	// files are in signed bytes.
	Archives bool
	// Added are files that the packer's own tool writes beside Files.
	Added []string
	// Uncovered is what names and digests of the files leave open.
	Uncovered []string
	// GitFiles are layers that OMS tools leave out of a statement.
	GitFiles []string
	// Warnings are threats that do not change the bytes that were judged.
	Warnings []string
}

// Local is a folder or a single file.
type Local struct {
	// Files is everything that is there (manifest.Dir.All), also what may
	// turn out to be ignored. Nothing is hashed before a statement is
	// authenticated.
	Files []manifest.File
	// IsFile says that the model is one file.
	IsFile bool
	// Hash reads files and hashes them in the way given; nil: a
	// manifest.Hasher does.
	Hash func(context.Context, manifest.Hashing, []manifest.File) ([]manifest.Resource, error)
	// Own are paths that belong to the act itself: the signature file.
	Own manifest.Ignore
}

// Evidence is what was found that may speak for the subject.
type Evidence struct {
	// Candidates yields in the order in which to read; each is read only when
	// it is asked for. nil: none.
	Candidates iter.Seq[Candidate]
	// Older yields what older tools left elsewhere. It is asked only where none
	// of Candidates was enough: who has a signature of today pays nothing for
	// it. nil: none.
	Older iter.Seq[Candidate]
	// Incomplete is asked after the last candidate: what kept the list from
	// being whole, nil if nothing did. A nil func means that it was whole.
	Incomplete func() error
}

// A Candidate is one signature, not authenticated.
type Candidate struct {
	// Referrer says where it comes from: a digest, or a path.
	Referrer string
	// Bundle is the bundle's JSON; nil if Err or SimpleSigning is set.
	Bundle []byte
	// SimpleSigning is a signature in cosign's old form; nil: a bundle.
	SimpleSigning *bundle.SimpleSigning
	// Err is why there is neither. Unread tells "could not be read" from
	// "was read, and is not a bundle for this subject".
	Err    error
	Unread bool
}

// ErrRefused and ErrUnknown are the two ways of not saying yes. Every error
// of [Decide] wraps exactly one of them, or is the context's.
var (
	ErrRefused = errors.New("refused")
	ErrUnknown = errors.New("could not tell")
)

// Verdicts of a Report.
const (
	Verified = "verified"
	Refused  = "refused"
	Unknown  = "unknown"
)

// A Report is the answer and what it rests on.
type Report struct {
	Verdict string
	Binding Strength // "" unless verified
	Layout  string   // of the mapping that was compared; "" if none was
	Signers []Signer // who approved, in the order they were found

	// Signed is what the first model signature that approved an artifact lists,
	// as far as files of layers are meant by it; nil if none did.
	Signed *manifest.Manifest
	// PathAnnotation is how that signature reads layers with two names:
	// "title", "filepath", or "".
	PathAnnotation string

	Files    Files
	Hashed   bool     // local files were hashed; false: digests were compared
	Reasons  []Reason // why candidates did not count
	Warnings []string
}

// A Signer is one approval that counted.
type Signer struct {
	Kind     string // "model" or "artifact"
	Identity bundle.Identity
	// Time is when the signature existed, if that was proved, and TimeSource
	// how: see bundle.Proof. Zero and "" if it was not.
	Time       time.Time
	TimeSource string
	Referrer   string
	// Repository and Tag are what the signer recorded (no host), signed, but
	// not compared: mirrors rename. "" if not recorded.
	Repository string
	Tag        string
}

// Files counts what was compared.
type Files struct {
	Count int
	Bytes int64
	// What keeps the model from being the signed one, sorted; in a yes about
	// a subset, Missing is what was not there.
	Missing, Changed, Extra []string
	// Ignored are unsigned files that an ignore rule hides, sorted.
	Ignored []string
}

// A Reason says why a candidate, or the whole, did not lead to a yes.
type Reason struct {
	Referrer string // "" for the whole
	Code     string // stable: see the Code constants
	Message  string // quotes foreign text
	unread   bool
}

// Codes of reasons. Threats have their own (manifest.ThreatError.Code).
const (
	CodeUnsigned     = "unsigned"          // known for certain: nothing is attached
	CodeUntrusted    = "untrusted"         // not by an accepted signer
	CodeMalformed    = "malformed"         // not a bundle, or a statement that breaks its rules
	CodeNotApproval  = "not-an-approval"   // signed, but says something else
	CodeBinding      = "binding-malformed" // the binding is there and not well-formed v1
	CodeOtherSubject = "other-subject"     // signed for another manifest
	CodeFiles        = "files-differ"      // files missing, changed, added
	CodeUncovered    = "not-covered"       // equal files, but something unsigned carries meaning
	CodeWeak         = "binding-too-weak"  // the policy wants more
	CodeLayout       = "other-layout"      // the policy wants another reading of the layers
	CodeUnmapped     = "unmapped"          // layers cannot be compared as files
	CodeNeedsModel   = "no-model-signature"
	CodeUnread       = "unread" // could not be read
	CodeThreat       = "threat" // a threat without a code of its own
)

// An Error is a verdict that is not yes.
type Error struct{ Report *Report }

// Error names the verdict and the first reason.
func (e *Error) Error() string {
	word := ErrRefused.Error()
	if e.Report.Verdict == Unknown {
		word = ErrUnknown.Error()
	}
	if len(e.Report.Reasons) == 0 {
		return word
	}
	r := e.Report.Reasons[0]
	for _, other := range e.Report.Reasons {
		// What could not be read explains an unknown better than what was
		// read and did not fit.
		if e.Report.Verdict == Unknown && other.unread {
			r = other
			break
		}
	}
	if r.Referrer != "" {
		return fmt.Sprintf("%s: %s: %s", word, r.Referrer, r.Message)
	}
	return fmt.Sprintf("%s: %s", word, r.Message)
}

// Unwrap returns ErrRefused or ErrUnknown.
func (e *Error) Unwrap() error {
	if e.Report.Verdict == Unknown {
		return ErrUnknown
	}
	return ErrRefused
}

// moreAfterYes bounds how many candidates are read after the first yes, to
// find the other kind of signature that one act of signing leaves. They are
// read for the report only: they cannot change the verdict.
const moreAfterYes = 4

// Decide is the only place where a yes is made.
//
// The report is returned with a nil error when the verdict is Verified. In
// every other case the error is an [*Error], or ctx's own. A subject with
// nothing in it is Unknown.
func Decide(ctx context.Context, p Policy, s Subject, ev Evidence) (*Report, error) {
	j := &judge{policy: p, subject: s}
	if s.Local == nil && (s.Artifact == nil || s.Artifact.FileName != "") {
		j.reason("", CodeUnread, "there is nothing to judge", true)
		return j.verdict(Evidence{})
	}
	if ev.Candidates != nil {
		after := 0
		for c := range ev.Candidates {
			passed := j.enough()
			if ctx.Err() != nil || j.candidate(ctx, c) != nil {
				break
			}
			if passed {
				after++
			}
			if j.enough() && (j.model && j.artifact || after >= moreAfterYes || s.Artifact == nil) {
				break
			}
		}
	}
	if ev.Older != nil && !j.enough() && ctx.Err() == nil {
		for c := range ev.Older {
			if ctx.Err() != nil || j.candidate(ctx, c) != nil || j.enough() {
				break
			}
		}
	}
	j.reading = true
	for _, c := range j.later {
		if j.enough() || ctx.Err() != nil || j.candidate(ctx, c) != nil {
			break
		}
	}
	// A yes stands: what is read after it must not be able to take it back by
	// lasting too long.
	if err := ctx.Err(); err != nil && !j.enough() {
		return nil, err
	}
	return j.verdict(ev)
}

// verdict turns what was found into the answer (rule 38: it does not depend
// on the order of the candidates).
func (j *judge) verdict(ev Evidence) (*Report, error) {
	r := &j.report
	if j.enough() {
		r.Verdict = Verified
		r.Files.Changed, r.Files.Extra = nil, nil
		if !j.policy.Subset {
			r.Files.Missing = nil
		}
		return r, nil
	}
	if ev.Incomplete != nil {
		if err := ev.Incomplete(); err != nil {
			j.reason("", CodeUnread, err.Error(), true)
		}
	}
	if len(r.Signers) > 0 { // only an artifact signature, and that is not enough
		j.reason("", CodeNeedsModel, "only an artifact signature was found, and a model signature is required", false)
	}
	r.Binding, r.Signers = "", nil
	r.Verdict = Refused
	for _, reason := range r.Reasons {
		if reason.unread {
			r.Verdict = Unknown
		}
	}
	if len(r.Reasons) == 0 {
		j.reason("", CodeUnsigned, "no signature is attached", false)
	}
	return nil, &Error{Report: r}
}

func (j *judge) enough() bool {
	return j.model || j.artifact && !j.policy.RequireModel
}
