package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/verify"
)

type verifyCmd struct {
	Key         verifyKeyCmd         `cmd:"" help:"Verify with public keys."`
	Certificate verifyCertificateCmd `cmd:"" help:"Verify with root certificates."`
	Sigstore    verifySigstoreCmd    `cmd:"" default:"withargs" help:"Verify with an identity and a trusted root. The method where none is named."`

	verifyFlags
	manyFlags
	modelFlags
	jobsFlag
	registryFlags
}

type verifyFlags struct {
	Ref                 string `placeholder:"REF" help:"Hold a local model against this artifact's signatures and layers." group:"Verifying"`
	Require             string `enum:"model," default:"" help:"Do not accept an artifact signature alone (model)." group:"Verifying"`
	Signature           string `aliases:"bundle" placeholder:"FILE" help:"Judge by this bundle alone. Default for local models: model.sig here, then in the folder." group:"Verifying"`
	SignatureDigest     string `placeholder:"DIGEST" help:"Judge by this referrer alone." group:"Verifying"`
	MaxReferrers        int    `placeholder:"N" help:"Read at most this many referrers (default 1000)." group:"Verifying"`
	IgnoreUnsignedFiles bool   `negatable:"" help:"Accept local files that nobody signed, and list them." group:"Verifying"`
	Subset              bool   `help:"Verify the signed files that are there, and list those that are not." group:"Verifying"`
}

type verifyKeyCmd struct {
	keyPolicyFlags
	Targets []string `arg:"" optional:"" name:"target" help:"REPO:TAG, REPO@DIGEST, oci:PATH:TAG, a folder, a file, a manifest, or - for a manifest on standard input."`
}

// keyPolicyFlags name keys to believe.
type keyPolicyFlags struct {
	PublicKey []string `aliases:"key" sep:"none" placeholder:"KEY" help:"Accept what this key signed: a PEM file, or NAME://… for the plugin sigstore-kms-NAME; may be repeated, one is enough."`
	timestampFlags
}

func (cmd *verifyKeyCmd) Run(ctx context.Context, a *app, c *cli) error {
	return c.Verify.run(ctx, a, cmd.Targets, func() (modelsig.Policy, error) { return cmd.policy(ctx, a) })
}

func (f *keyPolicyFlags) policy(ctx context.Context, a *app) (modelsig.Policy, error) {
	policy, err := a.keyPolicy(ctx, f.PublicKey)
	if err != nil {
		return policy, err
	}
	authorities, err := f.authorities()
	if err != nil || len(authorities) == 0 {
		return policy, err
	}
	return modelsig.WithTimestampChain(policy, authorities...)
}

// run verifies each target, whatever the method: it makes the policy when all
// that was asked for makes sense.
func (v *verifyCmd) run(ctx context.Context, a *app, args []string, method func() (modelsig.Policy, error)) error {
	targets, err := v.targets(args, v.AllTags)
	if err != nil {
		return err
	}
	repositories, err := v.repositories(targets)
	if err != nil {
		return err
	}
	allow, err := v.allowed()
	if err != nil {
		return err
	}
	asked := slices.Concat(targets, repositories)
	if v.Ref != "" {
		ref, err := modelsig.ParseTarget(v.Ref)
		if err != nil {
			return err
		}
		if ref.Kind != modelsig.KindArtifact {
			return fmt.Errorf("--ref %q: not a reference to an artifact", v.Ref)
		}
		asked = append(asked, ref)
	}
	client, err := a.client(v.registryFlags, asked)
	if err != nil {
		return err
	}
	client.MaxReferrers, client.Jobs = v.MaxReferrers, v.Jobs
	if err := v.check(a, slices.Concat(targets, repositories)); err != nil {
		return err
	}
	tagged, err := a.tagged(ctx, client, repositories)
	if err != nil {
		return err
	}
	targets = append(targets, tagged...)
	policy, err := method()
	if err != nil {
		return err
	}
	// The command line says what it got; library and policies want the
	// manifest's digest.
	policy.Binding = verify.StrengthStreamed
	policy.Layout = v.Layout
	policy.RequireModel = v.Require == "model"
	policy.IgnoreUnsignedFiles = v.IgnoreUnsignedFiles
	policy.Subset = v.Subset
	policy.IncludeGitPaths = !v.IgnoreGitPaths
	options := modelsig.VerifyOptions{
		SignatureFile:   v.Signature,
		SignatureDigest: v.SignatureDigest,
		Platform:        v.Platform,
		PathAnnotation:  v.PathAnnotation,
		VerifyContent:   v.VerifyContent,
		Allow:           allow,
		IgnorePaths:     v.IgnorePaths,
		AllowSymlinks:   v.AllowSymlinks,
	}
	answers := answers[verifyJSON]{many: v.many(targets)}
	for t, outcomes := range inOrder(ctx, targets, func(ctx context.Context, t modelsig.Target) []judged {
		return v.all(ctx, a, client, t, policy, options)
	}) {
		for _, o := range outcomes {
			if err := v.answer(ctx, a, &answers, t, o); err != nil {
				return err
			}
		}
	}
	return answers.finish(a, "modelsig/verify/v1")
}

// repositories are what --all-tags names.
func (v *verifyCmd) repositories(targets []modelsig.Target) ([]modelsig.Target, error) {
	one := ""
	switch {
	case v.Signature != "":
		one = "--signature"
	case v.SignatureDigest != "":
		one = "--signature-digest"
	}
	return v.manyFlags.repositories(targets, one)
}

// judged is what came of one target, or of one manifest of an index.
type judged struct {
	modelsig.Outcome[modelsig.Verification]
	file string // the signature file that was read; "": none
}

// all judges a target: an index with all its manifests, if that was asked for.
func (v *verifyCmd) all(ctx context.Context, a *app, client *modelsig.Client, t modelsig.Target, policy modelsig.Policy, o modelsig.VerifyOptions) []judged {
	if v.Recursive && v.Ref == "" {
		outcomes, err := client.VerifyIndex(ctx, t.Reference, policy, o)
		// What is one manifest is all there is of it.
		if !errors.Is(err, oci.ErrNotIndex) {
			if err != nil {
				outcomes = []modelsig.Outcome[modelsig.Verification]{{Target: t.Name(), Err: err}}
			}
			all := make([]judged, len(outcomes))
			for i, o := range outcomes {
				all[i].Outcome = o
			}
			return all
		}
	}
	file, result, err := v.one(ctx, a, client, t, policy, o)
	return []judged{{modelsig.Outcome[modelsig.Verification]{Target: t.Name(), Result: result, Err: err}, file}}
}

// answer says what came of one.
func (v *verifyCmd) answer(ctx context.Context, a *app, answers *answers[verifyJSON], t modelsig.Target, o judged) error {
	result, err, pinned := o.Result, o.Err, ""
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		if isArtifact(t) {
			t.Reference = o.Target
		}
		result = told(t, err)
		answers.deny(err)
	} else {
		pinned = result.Pinned
	}
	a.warn(result.Warnings...)
	return answers.add(a, verifyAnswer(result, o.file), verifyJSONOf(result, o.file), pinned)
}

// check refuses flags that would do nothing, or make no sense.
func (v *verifyCmd) check(a *app, targets []modelsig.Target) error {
	if v.MaxReferrers < 0 {
		return errNegativeReferrers
	}
	if err := v.jobsFlag.check(); err != nil {
		return err
	}
	if v.Ref == "" { // otherwise it chooses what --ref names
		if err := v.platformFlag.check(targets...); err != nil {
			return err
		}
	}
	if v.Subset && slices.ContainsFunc(targets, func(t modelsig.Target) bool { return t.Kind != modelsig.KindDir && !t.Guessed }) {
		return errors.New("--subset is for folders: an artifact has all its layers")
	}
	if v.Ref == "" && (v.Layout != "" || v.VerifyContent) && slices.ContainsFunc(targets, func(t modelsig.Target) bool { return !isArtifact(t) }) {
		return errors.New("--layout and --verify-content are for artifacts, and for --ref")
	}
	if a.Format == formatRef && v.Ref == "" && !slices.ContainsFunc(targets, isArtifact) {
		return errors.New("--format ref prints REPO@DIGEST, and no target has a reference")
	}
	return nil
}

// one verifies one target, and says which signature file it read.
func (v *verifyCmd) one(ctx context.Context, a *app, client *modelsig.Client, t modelsig.Target, policy modelsig.Policy, o modelsig.VerifyOptions) (string, *modelsig.Verification, error) {
	switch {
	case t.Kind == modelsig.KindArtifact && v.Ref != "":
		return "", nil, errors.New("--ref is for local targets: this target is an artifact itself")
	case t.Kind == modelsig.KindArtifact:
		result, err := client.Verify(ctx, t.Reference, policy, o)
		return o.SignatureFile, result, err
	case v.Ref != "" && t.Kind == modelsig.KindManifest && !t.Guessed:
		return "", nil, errors.New("--ref is for folders and files, and this target is a manifest")
	case v.Ref != "":
		result, err := client.VerifyDirAgainst(ctx, t.Path, v.Ref, policy, o)
		return o.SignatureFile, result, err
	}
	if o.SignatureDigest != "" {
		return "", nil, errors.New("--signature-digest names a referrer: a local target needs --ref or --signature")
	}
	if o.SignatureFile == "" {
		found, err := findSignature(t.Path)
		if err != nil {
			return "", nil, err
		}
		o.SignatureFile = found
	}
	if t.Kind == modelsig.KindManifest {
		data, err := a.readManifest(t.Path)
		if err != nil {
			return o.SignatureFile, nil, err
		}
		file := ""
		if t.Guessed {
			file = t.Path
		}
		result, err := client.VerifyManifest(ctx, data, file, policy, o)
		// The library does not know what the bytes are called.
		if result != nil {
			result.Target = t.Path
		}
		if denied, ok := errors.AsType[*modelsig.Denial](err); ok {
			denied.Verification.Target = t.Path
		}
		return o.SignatureFile, result, err
	}
	result, err := client.VerifyDir(ctx, t.Path, policy, o)
	return o.SignatureFile, result, err
}

// findSignature looks for the signature of a local model: here, then in the
// folder or beside the file. The first that exists is used.
func findSignature(path string) (string, error) {
	second := path + ".sig"
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		second = filepath.Join(path, defaultSignature)
	}
	for _, candidate := range []string{defaultSignature, second} {
		if _, err := os.Stat(candidate); err == nil {
			return candidate, nil
		}
	}
	return "", &hinted{
		fmt.Errorf("no signature: neither %s nor %s exists", defaultSignature, second),
		"--signature FILE names it, --ref REF looks in a registry",
	}
}

// told turns every way in which a verification can fail into one that can be
// printed: what went wrong before there was anything to judge is "could not
// tell".
func told(t modelsig.Target, err error) *modelsig.Verification {
	if denied, ok := errors.AsType[*modelsig.Denial](err); ok {
		return denied.Verification
	}
	result := &modelsig.Verification{Target: t.Name(), Kind: kindOf(t)}
	result.Verdict = verify.Unknown
	code := verify.CodeUnread
	if exitCode(err) == exitNo {
		result.Verdict, code = verify.Refused, verify.CodeThreat
	}
	result.Reasons = []verify.Reason{{Code: code, Message: err.Error()}}
	return result
}

// kindOf is the kind as a verification names it, for targets that none began
// with.
func kindOf(t modelsig.Target) string {
	switch {
	case isArtifact(t) && t.Registry == "":
		return modelsig.KindLayout
	case t.Kind == modelsig.KindDir:
		if info, err := os.Stat(t.Path); err == nil && info.Mode().IsRegular() {
			return modelsig.KindFile
		}
	}
	return t.Kind
}

var errNegativeReferrers = errors.New("--max-referrers is negative")

var firstLines = map[string]string{
	verify.Verified: "Verification succeeded",
	verify.Refused:  "Verification refused",
	verify.Unknown:  "Verification could not be decided",
}

// maxReasons bounds what a person is told; a flood of garbage has thousands.
const maxReasons = 10

func verifyAnswer(r *modelsig.Verification, file string) *answer {
	out := &answer{first: firstLines[r.Verdict]}
	out.add("target", "%s", r.Target)
	out.add("kind", "%s", r.Kind)
	if r.Reference != r.Target {
		out.add("reference", "%s", r.Reference)
	}
	out.add("digest", "%s", r.Digest)
	out.add("index", "%s", r.Index)
	out.add("platform", "%s", r.Platform)
	out.add("binding", "%s", r.Binding)
	out.add("layout", "%s", r.Layout)
	for _, s := range r.Signers {
		out.add("signer", "%s", signerText(s))
	}
	if r.Verdict == verify.Verified && r.Files.Count > 0 {
		hashed := ""
		if r.Kind == modelsig.KindManifest {
			hashed = ", no file was hashed"
		}
		size := ""
		if r.Files.Bytes > 0 || r.Files.Count == 0 { // in archives, nobody has added them up
			size = fmt.Sprintf(" (%s)", bytesText(r.Files.Bytes))
		}
		out.add("files", "%d%s%s", r.Files.Count, size, hashed)
	}
	for _, f := range r.Files.Changed {
		out.add("changed", "%q", f)
	}
	for _, f := range r.Files.Missing {
		out.add("missing", "%q", f)
	}
	for _, f := range r.Files.Extra {
		out.add("not signed", "%q", f)
	}
	for _, f := range r.Files.Ignored {
		out.add("ignored", "%q", f)
	}
	out.add("signature file", "%s", file)
	if r.Verdict != verify.Verified {
		for i, reason := range r.Reasons {
			if i == maxReasons {
				out.add("reason", "and %d more (--format json has all)", len(r.Reasons)-maxReasons)
				break
			}
			if reason.Referrer == "" {
				out.add("reason", "%s: %s", reason.Code, reason.Message)
			} else {
				out.add("reason", "%s: %s: %s", reason.Referrer, reason.Code, reason.Message)
			}
		}
	}
	return out
}

func signerText(s verify.Signer) string {
	text := s.Identity.Method
	if s.Identity.KeyFingerprint != "" {
		text += " " + s.Identity.KeyFingerprint
	}
	if s.Identity.Subject != "" {
		text += fmt.Sprintf(" %q", s.Identity.Subject)
	}
	if s.Identity.Issuer != "" {
		text += fmt.Sprintf(" by %q", s.Identity.Issuer)
	}
	if !s.Time.IsZero() {
		text += " at " + timeText(s.Time)
	}
	text += " (" + s.Kind + " signature"
	if s.Repository != "" || s.Tag != "" {
		text += ", signed as"
	}
	if s.Repository != "" {
		text += fmt.Sprintf(" %q", s.Repository)
	}
	if s.Tag != "" {
		text += fmt.Sprintf(" tag %q", s.Tag)
	}
	return text + ")"
}

// timeText is a time, in UTC; "" for none.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// verifyJSON is schema modelsig/verify/v1.
type verifyJSON struct {
	Verdict       string       `json:"verdict"`
	Target        string       `json:"target"`
	Kind          string       `json:"kind"`
	Reference     string       `json:"reference,omitempty"`
	Digest        string       `json:"digest,omitempty"`
	Index         string       `json:"index,omitempty"`
	Platform      string       `json:"platform,omitempty"`
	Layout        string       `json:"layout,omitempty"`
	Binding       string       `json:"binding,omitempty"`
	Signers       []signerJSON `json:"signers"`
	Files         filesJSON    `json:"files"`
	SignatureFile string       `json:"signatureFile,omitempty"`
	Reasons       []reasonJSON `json:"reasons"`
	Warnings      []string     `json:"warnings"`
}

type signerJSON struct {
	Kind           string `json:"kind"`
	Method         string `json:"method"`
	Identity       string `json:"identity,omitempty"`
	Issuer         string `json:"issuer,omitempty"`
	KeyFingerprint string `json:"keyFingerprint,omitempty"`
	Time           string `json:"time,omitempty"`
	TimeSource     string `json:"timeSource,omitempty"`
	Referrer       string `json:"referrer"`
	Repository     string `json:"repository,omitempty"`
	Tag            string `json:"tag,omitempty"`
}

type filesJSON struct {
	Count   int      `json:"count"`
	Bytes   int64    `json:"bytes"`
	Missing []string `json:"missing"`
	Changed []string `json:"changed"`
	Extra   []string `json:"extra"`
	Ignored []string `json:"ignored"`
}

type reasonJSON struct {
	Referrer string `json:"referrer,omitempty"`
	Code     string `json:"code"`
	Message  string `json:"message"`
}

func verifyJSONOf(r *modelsig.Verification, file string) verifyJSON {
	out := verifyJSON{
		Verdict:   r.Verdict,
		Target:    r.Target,
		Kind:      r.Kind,
		Reference: r.Reference,
		Digest:    r.Digest,
		Index:     r.Index,
		Platform:  r.Platform,
		Layout:    r.Layout,
		Binding:   string(r.Binding),
		Signers:   []signerJSON{},
		Files: filesJSON{
			Count: r.Files.Count, Bytes: r.Files.Bytes,
			Missing: list(r.Files.Missing), Changed: list(r.Files.Changed),
			Extra: list(r.Files.Extra), Ignored: list(r.Files.Ignored),
		},
		SignatureFile: file,
		Reasons:       []reasonJSON{},
		Warnings:      list(r.Warnings),
	}
	for _, s := range r.Signers {
		out.Signers = append(out.Signers, signerJSON{
			Kind: s.Kind, Method: s.Identity.Method, Identity: s.Identity.Subject, Issuer: s.Identity.Issuer,
			KeyFingerprint: s.Identity.KeyFingerprint, Time: timeText(s.Time), TimeSource: s.TimeSource,
			Referrer: s.Referrer, Repository: s.Repository, Tag: s.Tag,
		})
	}
	for _, reason := range r.Reasons {
		out.Reasons = append(out.Reasons, reasonJSON{reason.Referrer, reason.Code, reason.Message})
	}
	return out
}
