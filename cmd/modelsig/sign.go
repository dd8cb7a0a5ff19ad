package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

type signCmd struct {
	Key         signKeyCmd         `cmd:"" help:"Sign with a private key."`
	Certificate signCertificateCmd `cmd:"" help:"Sign with a private key and its certificate."`
	Sigstore    signSigstoreCmd    `cmd:"" default:"withargs" help:"Sign with an identity: keyless, by Sigstore. The method where none is named."`

	signFlags
	manyFlags
	modelFlags
	hashFlags
	registryFlags
}

// signFlags are those of every method. They stand on the verb, so that they
// may come before or after the method.
type signFlags struct {
	Signature             string            `aliases:"bundle" placeholder:"FILE" help:"Write the model signature here. Default for local models: model.sig." group:"Signing"`
	NoAttach              bool              `help:"Do not attach the signatures to the artifact." group:"Signing"`
	ModelSignatureOnly    bool              `help:"Leave out the artifact signature." group:"Signing"`
	ArtifactSignatureOnly bool              `help:"Leave out the model signature. Works for artifacts of any shape." group:"Signing"`
	LegacyTag             bool              `help:"Also sign in cosign's old form, under the tag sha256-….sig: all that podman, skopeo and CRI-O read." group:"Signing"`
	RequireDigest         bool              `help:"Refuse references without a digest." group:"Signing"`
	DryRun                bool              `help:"Print what would be signed, and sign nothing." group:"Signing"`
	TSAURL                given             `name:"tsa-url" placeholder:"URL" help:"Have this timestamp authority (RFC 3161) say when each signature was made." group:"Signing"`
	Force                 bool              `help:"Replace a file that is not a signature." group:"Signing"`
	Annotations           map[string]string `name:"annotations" short:"a" aliases:"annotation" mapsep:"none" placeholder:"KEY=VALUE" help:"Record in the artifact signature." group:"Signing"`
}

// hashFlags say how local files are hashed.
type hashFlags struct {
	Hash      string `enum:"sha256,blake2b,blake3" default:"sha256" help:"Hash of local files (${enum})." group:"Hashing"`
	Shards    bool   `help:"Hash local files in shards, several at once." group:"Hashing"`
	ShardSize *int64 `placeholder:"BYTES" help:"Size of a shard, and --shards. Default: 1000000000." group:"Hashing"`
	jobsFlag
}

// jobsFlag bounds the work at once.
type jobsFlag struct {
	Jobs int `placeholder:"N" help:"Hash so many files or shards at once. Default: one a processor." group:"Hashing"`
}

func (f hashFlags) hashing() (manifest.Hashing, error) {
	h := manifest.Hashing{Type: f.Hash}
	switch {
	case f.ShardSize != nil && *f.ShardSize <= 0:
		return h, errors.New("--shard-size is not a number of bytes")
	case f.ShardSize != nil:
		h.ShardSize = *f.ShardSize
	case f.Shards:
		h.ShardSize = manifest.DefaultShardSize
	}
	return h, f.check()
}

func (f jobsFlag) check() error {
	if f.Jobs < 0 {
		return errors.New("--jobs is negative")
	}
	return nil
}

// modelFlags say how a model is read, when it is signed and when it is
// verified.
type modelFlags struct {
	IgnorePaths    []string `sep:"none" placeholder:"PATH" help:"Leave out this file or folder of a local model." group:"Model"`
	IgnoreGitPaths bool     `negatable:"" default:"true" help:"Leave out .git, .gitignore, .gitattributes and .github at the top of a local model." group:"Model"`
	AllowSymlinks  bool     `negatable:"" help:"Follow links to regular files inside a local model." group:"Model"`
	Allow          []string `sep:"none" placeholder:"NAME" help:"Accept an ambiguous input: ${threats}." group:"Model"`
	Layout         string   `enum:"${layouts}," default:"" help:"Refuse artifacts whose layers are not read this way: ${layouts}." group:"Model"`
	PathAnnotation string   `enum:"title,filepath," default:"" help:"Which annotation names a layer's file where both are there and differ (title, filepath)." group:"Model"`
	VerifyContent  bool     `help:"Read every layer of an artifact and compare it with its digest. Default: archives alone, where their files must be known." group:"Model"`
	Path           []string `sep:"none" placeholder:"TARGET" help:"Another way to name a target." group:"Model"`
}

func (f modelFlags) allowed() (manifest.Allow, error) {
	known := manifest.Threats()
	var allow manifest.Allow
	for _, name := range f.Allow {
		found := false
		for _, t := range known {
			if string(t) == name {
				allow, found = append(allow, t), true
			}
		}
		if !found {
			return nil, fmt.Errorf("--allow %q: not one of %s", name, threatNames())
		}
	}
	return allow, nil
}

// targets are those given as arguments and with --path. None is an error,
// unless allTags are there instead.
func (f modelFlags) targets(args, allTags []string) ([]modelsig.Target, error) {
	names := append(append([]string(nil), args...), f.Path...)
	if len(names)+len(allTags) == 0 {
		return nil, errors.New("no target: name a reference, a folder or a file")
	}
	targets := make([]modelsig.Target, len(names))
	for i, name := range names {
		t, err := modelsig.ParseTarget(name)
		if err != nil {
			return nil, err
		}
		targets[i] = t
	}
	return targets, nil
}

type signKeyCmd struct {
	keyFlags
	Targets []string `arg:"" optional:"" name:"target" help:"REPO:TAG, REPO@DIGEST, oci:PATH:TAG, a folder, a file, a manifest, or - for a manifest on standard input."`
}

func (cmd *signKeyCmd) Run(ctx context.Context, a *app, c *cli) error {
	return c.Sign.run(ctx, a, cmd.Targets, func() (modelsig.Signer, error) {
		signer, err := a.keySigner(ctx, cmd.keyFlags)
		if err != nil {
			return nil, err
		}
		return timestamped(signer, string(c.Sign.TSAURL))
	})
}

// run signs each target, whatever the method: it makes the signer when all that
// was asked for makes sense.
func (s *signCmd) run(ctx context.Context, a *app, args []string, method func() (modelsig.Signer, error)) error {
	targets, err := s.targets(args, s.AllTags)
	if err != nil {
		return err
	}
	one := ""
	if s.Signature != "" {
		one = "--signature"
	}
	repositories, err := s.repositories(targets, one)
	if err != nil {
		return err
	}
	allow, err := s.allowed()
	if err != nil {
		return err
	}
	hashing, err := s.hashing()
	if err != nil {
		return err
	}
	client, err := a.client(s.registryFlags, slices.Concat(targets, repositories))
	if err != nil {
		return err
	}
	client.Jobs = s.Jobs
	if err := s.check(a, targets); err != nil {
		return err
	}
	if s.writesFiles(targets) > 1 {
		return errors.New("two signatures would go to one file: sign one target at a time, or name --signature for each")
	}
	if s.NoAttach && s.Signature == "" && !s.DryRun && slices.ContainsFunc(slices.Concat(targets, repositories), isArtifact) {
		return errors.New("--no-attach without --signature would throw the signatures away")
	}
	tagged, err := a.tagged(ctx, client, repositories)
	if err != nil {
		return err
	}
	targets = append(targets, tagged...)
	signer, err := method()
	if err != nil {
		return err
	}
	options := modelsig.SignOptions{
		ModelOnly:       s.ModelSignatureOnly,
		ArtifactOnly:    s.ArtifactSignatureOnly,
		NoAttach:        s.NoAttach,
		LegacyTag:       s.LegacyTag,
		DryRun:          s.DryRun,
		RequireDigest:   s.RequireDigest,
		Platform:        s.Platform,
		Annotations:     s.Annotations,
		Layout:          s.Layout,
		PathAnnotation:  s.PathAnnotation,
		VerifyContent:   s.VerifyContent,
		Allow:           allow,
		Hashing:         hashing,
		IgnorePaths:     s.IgnorePaths,
		IncludeGitPaths: !s.IgnoreGitPaths,
		AllowSymlinks:   s.AllowSymlinks,
	}
	answers := answers[signJSON]{many: s.many(targets)}
	for _, outcomes := range inOrder(ctx, targets, func(ctx context.Context, t modelsig.Target) []signed {
		return s.all(ctx, a, client, t, signer, options)
	}) {
		for _, o := range outcomes {
			if err := s.answer(a, &answers, o); err != nil {
				return err
			}
		}
	}
	return answers.finish(a, "modelsig/sign/v1")
}

// signed is what came of one target, or of one manifest of an index.
type signed struct {
	modelsig.Outcome[modelsig.Signature]
	file string // that the signature was written to; "": none
}

// all signs a target: an index with all its manifests, if that was asked for.
func (s *signCmd) all(ctx context.Context, a *app, client *modelsig.Client, t modelsig.Target, signer modelsig.Signer, o modelsig.SignOptions) []signed {
	if s.Recursive {
		outcomes, err := client.SignIndex(ctx, t.Reference, signer, o)
		// What is one manifest is all there is of it.
		if !errors.Is(err, oci.ErrNotIndex) {
			if err != nil {
				outcomes = []modelsig.Outcome[modelsig.Signature]{{Target: t.Name(), Err: signHint(err)}}
			}
			all := make([]signed, len(outcomes))
			for i, o := range outcomes {
				all[i].Outcome = o
			}
			return all
		}
	}
	sig, file, err := s.one(ctx, a, client, t, signer, o)
	if err != nil {
		sig = nil
	}
	return []signed{{modelsig.Outcome[modelsig.Signature]{Target: t.Name(), Result: sig, Err: err}, file}}
}

// answer says what came of one. An error about the only target is told on
// stderr alone.
func (s *signCmd) answer(a *app, answers *answers[signJSON], o signed) error {
	if o.Err == nil {
		a.warn(o.Result.Warnings...)
		return answers.add(a, signAnswer(o.Result, o.file, s.DryRun), signJSONOf(o.Result, o.file, s.DryRun), o.Result.Pinned)
	}
	answers.deny(o.Err)
	result := signJSON{Target: o.Target, DryRun: s.DryRun, Error: o.Err.Error(), Warnings: []string{}}
	if !answers.many {
		answers.keep(result)
		return nil
	}
	out := &answer{first: "Signing failed"}
	out.add("target", "%s", o.Target)
	out.add("error", "%v", o.Err)
	return answers.add(a, out, result, "")
}

// signHint adds what signing can do about an error.
func signHint(err error) error {
	switch {
	case errors.Is(err, oci.ErrUnmapped):
		return &hinted{err, "--artifact-signature-only signs artifacts of any shape"}
	case errors.Is(err, oci.ErrIndex):
		return &hinted{err, "--platform OS/ARCH signs one of its manifests, --recursive the index and all of them"}
	}
	return err
}

// check refuses flags that would do nothing.
func (s *signCmd) check(a *app, targets []modelsig.Target) error {
	if err := s.platformFlag.check(targets...); err != nil {
		return err
	}
	if a.Format == formatRef && s.DryRun {
		return errors.New("--format ref with --dry-run: nothing is signed")
	}
	for _, t := range targets {
		switch {
		case isArtifact(t):
		case a.Format == formatRef:
			return fmt.Errorf("--format ref: %s has no reference", t.Name())
		case s.RequireDigest, s.NoAttach, s.LegacyTag:
			return fmt.Errorf("--require-digest, --no-attach and --legacy-tag are for artifacts, and %s is a local model", t.Name())
		case s.VerifyContent:
			return fmt.Errorf("--verify-content is for artifacts, and %s is a local model", t.Name())
		case s.Layout != "" && t.Kind != modelsig.KindManifest:
			return fmt.Errorf("--layout is for artifacts, and %s is a local model", t.Name())
		}
	}
	return nil
}

func isArtifact(t modelsig.Target) bool { return t.Kind == modelsig.KindArtifact }

// writesFiles counts the targets whose signature goes to the one file that
// --signature, or its default, names.
func (s *signCmd) writesFiles(targets []modelsig.Target) int {
	n := 0
	for _, t := range targets {
		if s.Signature != "" || !isArtifact(t) && !s.DryRun {
			n++
		}
	}
	return n
}

// one signs one target and writes the signature file, if there is one.
func (s *signCmd) one(ctx context.Context, a *app, client *modelsig.Client, t modelsig.Target, signer modelsig.Signer, o modelsig.SignOptions) (*modelsig.Signature, string, error) {
	file := s.Signature
	if file == "" && t.Kind != modelsig.KindArtifact {
		file = defaultSignature
	}
	o.SignatureFile = file
	if file != "" && !s.DryRun {
		if err := mayWrite(file, s.Force); err != nil {
			return nil, "", err
		}
	}
	var sig *modelsig.Signature
	var err error
	switch t.Kind {
	case modelsig.KindArtifact:
		sig, err = client.Sign(ctx, t.Reference, signer, o)
	case modelsig.KindManifest:
		var data []byte
		if data, err = a.readManifest(t.Path); err == nil {
			sig, err = client.SignManifest(ctx, data, t.Path, signer, o)
		}
	default:
		sig, err = client.SignDir(ctx, t.Path, signer, o)
	}
	if err != nil || s.DryRun || file == "" {
		return sig, "", signHint(err)
	}
	part := sig.Model
	if part == nil {
		part = sig.Artifact
	}
	if err := modelsig.WriteSignature(file, part.Bundle, s.Force); err != nil {
		return nil, "", err
	}
	return sig, file, nil
}

// mayWrite asks before anything is hashed or attached.
func mayWrite(file string, force bool) error {
	err := modelsig.MayWriteSignature(file, force)
	if errors.Is(err, modelsig.ErrNotSignature) {
		err = &hinted{err, "--force replaces it"}
	}
	return err
}

func signAnswer(sig *modelsig.Signature, file string, dryRun bool) *answer {
	out := &answer{first: "Signing succeeded"}
	if dryRun {
		out.first = "Nothing was signed (dry run)"
	}
	out.add("target", "%s", sig.Target)
	out.add("digest", "%s", sig.Digest)
	out.add("index", "%s", sig.Index)
	out.add("platform", "%s", sig.Platform)
	out.add("layout", "%s", sig.Layout)
	if sig.Model != nil {
		out.add("files", "%d (%s)", sig.Files, bytesText(sig.Bytes))
		out.add("root", "sha256:%s", sig.Root)
		if sig.FromDigest {
			out.add("note", "%s", "signed from the manifest's digests: no file was hashed")
		}
		if dryRun {
			out.add("model statement", "%s", sig.Model.Statement)
		}
		out.add("model signature", "%s", sig.Model.Referrer)
	}
	if sig.Artifact != nil {
		if dryRun {
			out.add("artifact statement", "%s", sig.Artifact.Statement)
		}
		out.add("artifact signature", "%s", sig.Artifact.Referrer)
	}
	if sig.Old != nil {
		if dryRun {
			out.add("legacy payload", "%s", sig.Old.Payload)
		} else {
			out.add("legacy signature", "%s (tag %s)", sig.Old.Image, sig.Old.Tag)
		}
	}
	if sig.Unchanged {
		out.add("note", "%s", "what would be signed is there and verifies: nothing was added")
	}
	if file != "" && sig.Model == nil {
		file += " (an artifact signature)"
	}
	out.add("signature file", "%s", file)
	return out
}

// signJSON is schema modelsig/sign/v1.
type signJSON struct {
	Target            string   `json:"target"`
	Digest            string   `json:"digest,omitempty"`
	Index             string   `json:"index,omitempty"`
	Platform          string   `json:"platform,omitempty"`
	Layout            string   `json:"layout,omitempty"`
	Root              string   `json:"root,omitempty"`
	Files             *counted `json:"files,omitempty"`
	ModelReferrer     string   `json:"modelReferrer,omitempty"`
	ArtifactReferrer  string   `json:"artifactReferrer,omitempty"`
	LegacyTag         string   `json:"legacyTag,omitempty"`
	LegacyImage       string   `json:"legacyImage,omitempty"`
	LegacyPayload     string   `json:"legacyPayload,omitempty"`
	ModelStatement    string   `json:"modelStatement,omitempty"`
	ArtifactStatement string   `json:"artifactStatement,omitempty"`
	SignatureFile     string   `json:"signatureFile,omitempty"`
	Unchanged         bool     `json:"unchanged"`
	DryRun            bool     `json:"dryRun"`
	Error             string   `json:"error,omitempty"` // then nothing else is known
	Warnings          []string `json:"warnings"`
}

type counted struct {
	Count int   `json:"count"`
	Bytes int64 `json:"bytes"`
}

func signJSONOf(sig *modelsig.Signature, file string, dryRun bool) signJSON {
	out := signJSON{
		Target:        sig.Target,
		Digest:        sig.Digest,
		Index:         sig.Index,
		Platform:      sig.Platform,
		Layout:        sig.Layout,
		SignatureFile: file,
		Unchanged:     sig.Unchanged,
		DryRun:        dryRun,
		Warnings:      list(sig.Warnings),
	}
	if sig.Model != nil {
		out.Root = "sha256:" + sig.Root
		out.Files = &counted{sig.Files, sig.Bytes}
		out.ModelReferrer = sig.Model.Referrer
		if dryRun {
			out.ModelStatement = string(sig.Model.Statement)
		}
	}
	if sig.Old != nil {
		out.LegacyTag, out.LegacyImage = sig.Old.Tag, sig.Old.Image
		if dryRun {
			out.LegacyPayload = string(sig.Old.Payload)
		}
	}
	if sig.Artifact != nil {
		out.ArtifactReferrer = sig.Artifact.Referrer
		if dryRun {
			out.ArtifactStatement = string(sig.Artifact.Statement)
		}
	}
	return out
}

// list makes the difference between nothing and null in JSON.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// defaultSignature is where the signature of a local model lies (OMS §9).
const defaultSignature = "model.sig"
