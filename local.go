package modelsig

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/referrers"
	"github.com/modelsig/modelsig/verify"
)

// SignDir hashes the folder or single file at path and signs it. Nothing is
// written: the bundle is in the result, and [WriteSignature] puts it in a file.
func (c *Client) SignDir(ctx context.Context, path string, signer Signer, o SignOptions) (result *Signature, err error) {
	ctx, span := c.span(ctx, "Sign", "", path)
	defer endSign(span, &result, &err)
	if err := checkLocal(path, o); err != nil {
		return nil, err
	}
	local, err := c.readDir(ctx, path, o)
	if err != nil {
		return nil, err
	}
	return local.sign(ctx, path, signer, o)
}

// SignFiles is SignDir for files from any source: [manifest.FromFS] lists
// those of an [io/fs.FS]; files whose sha256 is known already are not opened.
// name is the model's, as OMS §6.5 wants one. Of the options, IgnorePaths are
// relative to the model, and AllowSymlinks and SignatureFile mean nothing.
func (c *Client) SignFiles(ctx context.Context, name string, files []manifest.File, signer Signer, o SignOptions) (result *Signature, err error) {
	ctx, span := c.span(ctx, "Sign", "", name)
	defer endSign(span, &result, &err)
	if err := checkLocal(name, o); err != nil {
		return nil, err
	}
	ignore := manifest.Ignore(o.IgnorePaths)
	if !o.IncludeGitPaths {
		ignore = append(manifest.GitPaths(), o.IgnorePaths...)
	}
	kept := slices.DeleteFunc(slices.Clone(files), func(f manifest.File) bool { return ignore.Match(f.Name) })
	o.AllowSymlinks = false
	local, err := c.readFiles(ctx, name, kept, ignore, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return local.sign(ctx, name, signer, o)
}

// checkLocal refuses what is for artifacts, before anything is read.
func checkLocal(target string, o SignOptions) error {
	if o.ArtifactOnly || o.LegacyTag {
		return fmt.Errorf("sign %s: an artifact signature is for artifacts in registries and layouts", target)
	}
	if len(o.Annotations) > 0 {
		return fmt.Errorf("sign %s: annotations are recorded in artifact signatures, and a local model has none", target)
	}
	return nil
}

// A localModel is a folder or file that was hashed.
type localModel struct {
	name     string
	files    []manifest.File
	oms      *manifest.Manifest
	warnings []string
}

// sign signs what was hashed; target is what answers call it.
func (l *localModel) sign(ctx context.Context, target string, signer Signer, o SignOptions) (*Signature, error) {
	sig := &Signature{Target: target, Warnings: l.warnings}
	if err := sig.model(l.oms, l.name, nil, l.files); err != nil {
		return nil, err
	}
	if o.DryRun {
		return sig, nil
	}
	if err := signStatements(ctx, signer, sig); err != nil {
		return nil, err
	}
	// What a verifier would not read is no signature.
	if n, limit := int64(len(sig.Model.Bundle)), localLimit(l.files); l.oms.Serialization.ShardSize > 0 && n > limit {
		return nil, fmt.Errorf("sign %s: the signature of %d shards has %d bytes, and at most %d are read beside such a model: shards must be larger", target, len(l.oms.Resources), n, limit)
	}
	return sig, nil
}

// readDir hashes what a signature of path would list.
func (c *Client) readDir(ctx context.Context, path string, o SignOptions) (*localModel, error) {
	dir, err := manifest.Open(path, manifest.OpenOptions{AllowSymlinks: o.AllowSymlinks})
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	setKind(ctx, dir)
	ignore, err := ignoredPaths(dir, o)
	if err != nil {
		return nil, err
	}
	files, err := dir.Files(ctx, ignore)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	local, err := c.readFiles(ctx, dir.Name(), files, ignore, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return local, nil
}

// readFiles hashes the files of a model; ignore is what was left out of them.
func (c *Client) readFiles(ctx context.Context, name string, files []manifest.File, ignore manifest.Ignore, o SignOptions) (*localModel, error) {
	if len(files) == 0 {
		return nil, &manifest.ThreatError{Code: "no-files", Name: name, Reason: "it has no file to sign (OMS §6.1)"}
	}
	for _, f := range files {
		if f.Problem != nil {
			return nil, f.Problem
		}
	}
	names := namesOf(files)
	// Names that are ambiguous elsewhere are no more than a warning here: the
	// folder has exactly these files, and every OMS tool signs them.
	threats, err := manifest.CheckNames(names, manifest.Threats())
	if err != nil {
		return nil, err
	}
	// What stands in a file's place is no file of the model.
	stubs, err := manifest.CheckStubs(names, o.Allow)
	if err != nil {
		return nil, err
	}
	if o.Hashing.ShardSize > 0 {
		if err := manifest.CheckShards(files); err != nil {
			return nil, err
		}
	}
	met := &pointers{allow: o.Allow}
	resources, err := c.hash(ctx, manifest.Hasher{Hashing: o.Hashing, Pointers: met.judge}, files)
	if err != nil {
		return nil, err
	}
	oms, err := manifest.New(resources, manifest.Serialization{
		HashType:  o.Hashing.Type,
		ShardSize: o.Hashing.ShardSize,
		// Verifiers of OMS read links only where the signer says that he did
		// (OMS §6.1.1). Ours ask their caller.
		AllowSymlinks: o.AllowSymlinks,
		IgnorePaths:   ignore,
	})
	if err != nil {
		return nil, err
	}
	local := &localModel{name: name, files: files, oms: oms}
	for _, t := range stubs {
		local.warnings = append(local.warnings, t.Error())
	}
	local.warnings = append(local.warnings, met.warnings()...)
	for _, t := range threats {
		switch {
		case t.Threat == manifest.GitFiles && t.Name == "model.sig":
			local.warnings = append(local.warnings, `"model.sig" is signed as a file of the model: this signature goes elsewhere`)
		case t.Threat == manifest.GitFiles: // the caller asked for them
		case t.Threat == "" || !o.Allow.Has(t.Threat):
			local.warnings = append(local.warnings, t.Error())
		}
	}
	return local, nil
}

func namesOf(files []manifest.File) []string {
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = f.Name
	}
	return names
}

// pointers are the Git LFS pointers that were met while files were hashed: an
// error, or a warning where they are allowed.
type pointers struct {
	allow manifest.Allow
	mu    sync.Mutex
	met   []string
}

func (p *pointers) judge(t *manifest.ThreatError) error {
	if !p.allow.Has(t.Threat) {
		return t
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.met = append(p.met, t.Error())
	return nil
}

func (p *pointers) warnings() []string { return slices.Sorted(slices.Values(p.met)) }

// ignoredPaths is what a folder's signature leaves out: the git names, the
// signature file where it lies inside the model, and what the caller asked
// for. With IncludeGitPaths the git names are signed, and so not recorded.
func ignoredPaths(dir *manifest.Dir, o SignOptions) (manifest.Ignore, error) {
	if dir.IsFile() {
		if _, ok := dir.Rel(o.SignatureFile); o.SignatureFile != "" && ok {
			return nil, fmt.Errorf("signature file %q: it is the model itself, and would replace it", o.SignatureFile)
		}
		return nil, nil
	}
	var ignore manifest.Ignore
	add := func(names ...string) {
		for _, n := range names {
			if !slices.Contains(ignore, n) {
				ignore = append(ignore, n)
			}
		}
	}
	if !o.IncludeGitPaths {
		add(manifest.GitPaths()...)
	}
	if o.SignatureFile != "" {
		if rel, ok := dir.Rel(o.SignatureFile); ok {
			add(rel)
		}
	}
	asked, err := relativePaths(dir, o.IgnorePaths)
	if err != nil {
		return nil, err
	}
	add(asked...)
	return ignore, nil
}

// relativePaths turns paths as a caller writes them, relative to the model or
// absolute, into names inside the model. Absolute paths outside it are no
// matter of this model and are left out, as OMS tools do.
func relativePaths(dir *manifest.Dir, paths []string) ([]string, error) {
	var out []string
	for _, p := range paths {
		name := filepath.ToSlash(filepath.Clean(p))
		if filepath.IsAbs(p) {
			rel, ok := dir.Rel(p)
			if !ok {
				continue
			}
			name = rel
		}
		if name == "." || name == ".." || strings.HasPrefix(name, "../") {
			return nil, fmt.Errorf("ignore path %q: not inside the model", p)
		}
		out = append(out, name)
	}
	return out, nil
}

// local opens a folder or file for a verdict.
func (c *Client) local(ctx context.Context, path string, policy *Policy, o VerifyOptions) (*verify.Local, *manifest.Dir, error) {
	dir, err := manifest.Open(path, manifest.OpenOptions{AllowSymlinks: o.AllowSymlinks})
	if err != nil {
		return nil, nil, err
	}
	setKind(ctx, dir)
	asked, err := relativePaths(dir, o.IgnorePaths)
	if err != nil {
		return nil, nil, errors.Join(err, dir.Close())
	}
	policy.IgnorePaths = append(slices.Clone(policy.IgnorePaths), asked...)
	local := &verify.Local{IsFile: dir.IsFile()}
	if o.SignatureFile != "" && !dir.IsFile() {
		if rel, ok := dir.Rel(o.SignatureFile); ok {
			local.Own = manifest.Ignore{rel}
		}
	}
	// Files that may be ignored are walked as well: a statement may list
	// them, and what is listed is never ignored.
	local.Files, err = dir.All(ctx)
	if err != nil {
		return nil, nil, errors.Join(err, dir.Close())
	}
	local.Hash = c.hashAgain
	return local, dir, nil
}

// VerifyDir decides about the local folder or single file at path by the
// bundle in o.SignatureFile.
func (c *Client) VerifyDir(ctx context.Context, path string, policy Policy, o VerifyOptions) (result *Verification, err error) {
	ctx, span := c.span(ctx, "Verify", "", path)
	defer endVerify(span, &result, &err)
	return c.verifyDir(ctx, path, policy, o)
}

// verifyDir is VerifyDir inside a span.
func (c *Client) verifyDir(ctx context.Context, path string, policy Policy, o VerifyOptions) (*Verification, error) {
	local, dir, err := c.local(ctx, path, &policy, o)
	if err != nil {
		return nil, refusedInput(path, err)
	}
	defer dir.Close()
	data, err := readSignature(o.SignatureFile, localLimit(local.Files))
	if err != nil {
		return nil, err
	}
	subject := verify.Subject{Local: local}
	return decide(ctx, Verification{Target: path, Kind: dirKind(dir)}, policy, subject, oneBundle(o.SignatureFile, data))
}

// VerifyFiles is VerifyDir for files from any source (see [Client.SignFiles])
// and a bundle in memory. name is what answers call the model. Of the options,
// IgnorePaths are relative to the model; the others mean nothing. A list that
// has a name twice, or one that is not as OMS §6.1.2 wants it, is refused.
func (c *Client) VerifyFiles(ctx context.Context, name string, files []manifest.File, signature []byte, policy Policy, o VerifyOptions) (result *Verification, err error) {
	ctx, span := c.span(ctx, "Verify", "", name)
	defer endVerify(span, &result, &err)
	if err := checkList(files); err != nil {
		return nil, refusedInput(name, err)
	}
	policy.IgnorePaths = append(slices.Clone(policy.IgnorePaths), o.IgnorePaths...)
	subject := verify.Subject{Local: &verify.Local{Files: files, Hash: c.hashAgain}}
	return decide(ctx, Verification{Target: name, Kind: KindDir}, policy, subject, oneBundle(name+" signature", signature))
}

// checkList holds the names of a list that a caller made to the rules that a
// folder keeps by itself. A name with two readings could hide below an ignored
// folder, and of a name that is there twice only one file would be looked at.
// What is no file of a model is for the verdict to name.
func checkList(files []manifest.File) error {
	names := make([]string, 0, len(files))
	for _, f := range files {
		if f.Problem == nil {
			names = append(names, f.Name)
		}
	}
	_, err := manifest.CheckNames(names, manifest.Threats())
	return err
}

// VerifyDirAgainst decides about the local folder or file at path by the
// signatures that are attached to an artifact, and by its layers.
func (c *Client) VerifyDirAgainst(ctx context.Context, path, ref string, policy Policy, o VerifyOptions) (result *Verification, err error) {
	r, err := oci.ParseReference(ref)
	if err != nil {
		return nil, refusedInput(ref, err)
	}
	ctx, span := c.span(ctx, "Verify", "", path)
	defer endVerify(span, &result, &err)
	model, err := c.openReference(ctx, r, o.Platform)
	if err != nil {
		return nil, refusedInput(ref, err)
	}
	local, dir, err := c.local(ctx, path, &policy, o)
	if err != nil {
		return nil, refusedInput(path, err)
	}
	defer dir.Close()
	v := Verification{Target: path, Kind: dirKind(dir), Reference: model.Reference.String(), Pinned: pinned(model.Reference), Digest: model.Manifest.Descriptor.Digest.String(), Index: indexOf(model), Platform: model.Platform}
	return c.verifyModel(ctx, v, model, local, policy, o)
}

func dirKind(dir *manifest.Dir) string {
	if dir.IsFile() {
		return KindFile
	}
	return KindDir
}

// ReadSignature reads a bundle from a file, up to [bundle.MaxSize].
func ReadSignature(path string) ([]byte, error) {
	return readSignature(path, bundle.MaxSize)
}

// maxSignedFile is what one file takes in a signature, in bytes: a name of
// 4,096, a digest and their members, in base64.
const maxSignedFile = 6 << 10

// signatureLimit bounds a signature that nobody has authenticated: it is not
// read if it is much larger than what signs so many files.
func signatureLimit(files int) int64 {
	return referrers.MaxModelBundle + int64(files)*maxSignedFile
}

// signedShard is how many bytes of a model one byte of its signature stands for
// at least, where its shards have 64 KiB and their names a few hundred bytes.
// Other tools' smallest default is 1 MB.
const signedShard = 64

// localLimit is signatureLimit for a local model, which may be in shards.
func localLimit(files []manifest.File) int64 {
	var size int64
	for i := range files {
		size += files[i].Size
	}
	return min(signatureLimit(len(files))+size/signedShard, bundle.MaxSize)
}

func readSignature(path string, limit int64) ([]byte, error) {
	if path == "" {
		return nil, errors.New("no signature file is named")
	}
	return readFile(path, min(limit, bundle.MaxSize))
}

// WriteSignature writes a bundle to path: to a temporary name first, then by
// rename, so that the file is there whole or not at all. An existing file is
// replaced only if it is a Sigstore bundle, or with force.
func WriteSignature(path string, data []byte, force bool) error {
	if err := MayWriteSignature(path, force); err != nil {
		return err
	}
	return writeFile(path, data, 0o644)
}

// MayWriteSignature says why [WriteSignature] would not write, as far as can be
// known: to be asked before a large model is hashed, or anything is attached.
func MayWriteSignature(path string, force bool) error {
	if info, err := os.Stat(filepath.Dir(path)); err != nil {
		return fmt.Errorf("write %s: %w", path, bareError(err))
	} else if !info.IsDir() {
		return fmt.Errorf("write %s: %s is not a folder", path, filepath.Dir(path))
	}
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("write %s: it exists and is not a regular file", path)
	case !force:
		old, err := readFile(path, bundle.MaxSize)
		if err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		if _, err := bundle.Parse(old); err != nil {
			return fmt.Errorf("write %s: %w", path, ErrNotSignature)
		}
	}
	return nil
}

// ErrNotSignature is returned by [WriteSignature] where something that is not
// a signature would be replaced.
var ErrNotSignature = errors.New("the file exists and is not a signature")
