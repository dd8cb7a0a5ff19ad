package modelsig

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/verify"
)

// PullOptions are what may be said about one pull. The zero value replaces
// nothing and writes no program.
type PullOptions struct {
	// Verify is for the verdict that comes first. PathAnnotation and Allow also
	// say which files there are; IgnorePaths, AllowSymlinks and VerifyContent
	// mean nothing: all of the model is read and compared.
	Verify VerifyOptions

	// Overwrite replaces a folder that has something else in it.
	Overwrite bool

	// KeepModes makes files programs that the packer says are programs: their
	// mode is 0755, and not 0644. No signature of files says so; that of the
	// manifest's digest covers it.
	KeepModes bool
}

// Pulled is a verified model on disk.
type Pulled struct {
	Verification *Verification
	Dir          string // as it was named
	Unchanged    bool   // the folder was there and verified: nothing was written
	Files        int
	Bytes        int64
	Kept         int64    // bytes that an interrupted pull had left, and that hold
	LeftOut      []string // files that nobody signed: layers that only a manifest's digest would cover
	Warnings     []string // beside those of the verification
}

// pullJobs is how many layers are read at once where Client.Jobs does not say:
// enough for registries that are slow for each connection.
const pullJobs = 4

// Pull verifies the artifact that ref names, as [Client.Verify] does, and then
// writes its files into the folder at dir: by the digest that was verified, and
// hashed while they are written. Nothing stands under dir before all of it held
// and was compared with what is signed; then all of it does, by one rename.
// Where dir is a mount point, or an empty folder, its entries are renamed one
// after the other.
//
// The folder that dir lies in must exist. A dir that is empty is accepted; one
// that verifies already is left as it is; anything else is refused unless
// o.Overwrite says otherwise. A symbolic link is refused.
//
// What a pull that failed or died had read stays in a folder beside dir (inside
// an empty dir or a mount point), named .DIR.modelsig-…; pulling again goes on
// from there, if it is of the same manifest. Two pulls into one folder do not
// mix: both succeed, or one is refused.
//
// A no is a [*Denial], as with Verify, and so is content that is not what was
// signed. All other errors mean that it could not be done; one that wraps
// [ErrOccupied] says what is in the folder instead.
func (c *Client) Pull(ctx context.Context, ref, dir string, policy Policy, o PullOptions) (pulled *Pulled, err error) {
	r, err := oci.ParseReference(ref)
	if err != nil {
		return nil, refusedInput(ref, err)
	}
	var v *Verification
	ctx, span := c.span(ctx, "Pull", referenceKind(r), r.String())
	defer endVerify(span, &v, &err)
	d, err := openDestination(dir)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", r, err)
	}
	defer d.close()
	model, err := c.openReference(ctx, r, o.Verify.Platform)
	if err != nil {
		return nil, refusedInput(ref, err)
	}
	o.Verify.VerifyContent = false
	if v, err = c.verifyModel(ctx, verificationOf(model), model, nil, policy, o.Verify); err != nil {
		return nil, err
	}
	p := &pull{client: c, model: model, verified: v, policy: policy, o: o, pulled: &Pulled{Verification: v, Dir: dir}}
	if d.root != nil && !d.empty {
		err := p.verifies(ctx, d)
		switch {
		case err == nil:
			d.sweep(v.digest())
			return p.pulled, nil
		case !errors.Is(err, ErrOccupied) || !o.Overwrite:
			return nil, err
		}
	}
	err = p.into(ctx, d)
	if errors.Is(err, ErrOccupied) {
		// Somebody made the folder meanwhile: maybe another pull of this model.
		// A link is still refused.
		d.unlock()
		now, again := openDestination(dir)
		if again != nil {
			return nil, fmt.Errorf("pull %s: %w", r, again)
		}
		err = p.verifies(ctx, now)
		now.close()
		if err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, refusedInput(v.Target, fmt.Errorf("pull %s into %q: %w", v.Target, dir, err))
	}
	return p.pulled, nil
}

// A pull is one act, after its verdict.
type pull struct {
	client   *Client
	model    *oci.Model
	verified *Verification
	policy   Policy
	o        PullOptions
	stage    *staging
	pulled   *Pulled
	progress func(int64)
}

// digest is that of the manifest.
func (v *Verification) digest() digest.Digest { return digest.Digest(v.Digest) }

// verifies returns nil if the folder that is there is the model already, and
// nothing else. One that is not is [ErrOccupied].
func (p *pull) verifies(ctx context.Context, d *destination) error {
	policy, dir := p.policy, p.pulled.Dir
	policy.Subset, policy.IgnoreUnsignedFiles, policy.IgnorePaths = false, false, nil
	local, opened, err := p.client.local(ctx, dir, &policy, VerifyOptions{})
	if isThreat(err) {
		return occupied(dir, err)
	}
	if err != nil {
		return err
	}
	defer opened.Close()
	local.Files = slices.DeleteFunc(local.Files, d.inStaging) // they go when all is well
	v := *p.verified
	v.Target, v.Kind = dir, KindDir
	found, err := p.client.verifyModel(ctx, v, p.model, local, policy, p.o.Verify)
	if errors.Is(err, ErrRefused) {
		return occupied(dir, err)
	}
	if err != nil {
		return err
	}
	err = p.exact(ctx, d, local, found)
	if errors.Is(err, errNotExact) {
		return occupied(dir, err)
	}
	if err != nil {
		return refusedInput(p.verified.Target, err)
	}
	p.pulled.Unchanged, p.pulled.Files, p.pulled.Bytes = true, found.Files.Count, found.Files.Bytes
	return nil
}

// occupied says what is in the folder instead. It is no refusal of the model,
// and so wraps none: the folder is the caller's.
func occupied(dir string, err error) error {
	return fmt.Errorf("%q: %w: %v", dir, ErrOccupied, err)
}

// into writes the files, compares them and makes them visible.
func (p *pull) into(ctx context.Context, d *destination) (err error) {
	ctx, span := child(ctx, "download")
	defer end(span, &err)
	plan, err := p.plan()
	if err != nil {
		return err
	}
	if p.o.Overwrite { // before much is read for nothing, and again at the end
		if err := d.nothingMounted(); err != nil {
			return err
		}
	}
	if p.stage, err = d.stage(p.verified.digest()); err != nil {
		return err
	}
	p.step("staged")
	defer func() {
		if err != nil {
			err = p.leave(err)
		}
	}()
	if err := p.write(ctx, plan); err != nil {
		return err
	}
	p.step("written")
	if err := p.stage.sync(); err != nil {
		return err
	}
	p.step("synced")
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := p.stage.publish(d, p.o.Overwrite, p.step); err != nil {
		return err
	}
	// From here on it is done, whatever happens.
	p.step("published")
	if err := p.stage.remove(); err != nil {
		p.pulled.Warnings = append(p.pulled.Warnings, fmt.Sprintf("what was in the folder before, or the folder that it was made in, could not be removed: %v", err))
	}
	p.step("removed")
	d.sweep(p.verified.digest())
	return nil
}

// step is where tests stop a pull.
func (p *pull) step(name string) {
	if p.client.step != nil {
		p.client.step(name)
	}
}

// leave keeps what may save the next pull some bytes, and says where it is. Of
// content that is not what it should be nothing is kept.
func (p *pull) leave(err error) error {
	name := p.stage.name
	kept, walkErr := p.stage.size()
	if isThreat(err) || errors.Is(err, ErrRefused) || errors.Is(err, ErrOccupied) || walkErr != nil || kept == 0 {
		if removed := p.stage.remove(); removed != nil {
			return fmt.Errorf("%w (and %q could not be removed: %v)", err, name, removed)
		}
		return err
	}
	p.stage.close()
	return fmt.Errorf("%w (%d bytes are kept in %q for the next pull)", err, kept, name)
}

// write brings all files into the staging folder.
func (p *pull) write(ctx context.Context, plan *oci.Plan) error {
	p.progress = func(int64) {}
	if counter := p.client.counter(plan.Bytes()); counter != nil {
		p.progress = counter
	}
	have, err := p.have(ctx, plan)
	if err != nil {
		return err
	}
	files, err := p.unpack(ctx, plan, have)
	if len(have) > 0 && errors.Is(err, ErrRefused) {
		// What an earlier pull wrote down is not what the archives hold, if it
		// is not the archives that are wrong. Their bytes tell.
		if err := p.stage.forget(); err != nil {
			return err
		}
		p.pulled.Kept = 0
		if have, err = p.have(ctx, plan); err != nil {
			return err
		}
		files, err = p.unpack(ctx, plan, have)
	}
	if err != nil {
		return err
	}
	p.tell(files)
	return p.fetch(ctx, plan, files)
}

// unpack writes the files of archives, and compares all files with what is
// signed.
func (p *pull) unpack(ctx context.Context, plan *oci.Plan, have map[int][]record) (*oci.Files, error) {
	files, err := p.model.Unpack(ctx, plan, oci.UnpackOptions{
		Jobs:     p.jobs(),
		Progress: p.progress,
		Sink: func(e oci.Entry, content io.Reader) error {
			if !p.wanted(e.Name) {
				return nil
			}
			return p.stage.write(e, e.Executable && p.o.KeepModes, content)
		},
		Have: func(s oci.Source) (files []manifest.File, executable []string, ok bool) {
			records, ok := have[s.Layer]
			for _, r := range records {
				files = append(files, manifest.File{Name: r.Name, Size: r.Size, Digest: r.Digest})
				if r.Executable {
					executable = append(executable, r.Name)
				}
			}
			return files, executable, ok
		},
		Done: func(s oci.Source, files []manifest.File, executable []string) error {
			err := p.stage.record(s.Descriptor.Digest, files, executable)
			p.step(fmt.Sprintf("layer %d", s.Layer))
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	return files, p.compare(files)
}

// have finds the archives whose files an earlier pull wrote, all of them, by
// layer, and removes all that is of no use. Without a signed list of files no
// archive is skipped: nothing but its bytes says what is in it.
func (p *pull) have(ctx context.Context, plan *oci.Plan) (map[int][]record, error) {
	var signed map[string][]byte
	if list := p.verified.Signed; list != nil && len(p.stage.kept) > 0 {
		signed = make(map[string][]byte, len(list.Resources))
		for _, r := range list.Resources {
			signed[r.Name] = r.Digest
		}
	}
	found := make([][]record, len(plan.Sources))
	ok := make([]bool, len(plan.Sources))
	var group errgroup.Group
	group.SetLimit(p.jobs())
	for i, s := range plan.Sources {
		if s.Packed() && signed != nil {
			group.Go(func() error {
				found[i], ok[i] = p.stage.recorded(ctx, s.Descriptor.Digest, signed)
				return nil
			})
		}
	}
	_ = group.Wait() // no error: what does not hold is read again
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	have, keep := map[int][]record{}, map[string]bool{}
	for i, s := range plan.Sources {
		switch {
		case ok[i]:
			have[s.Layer] = found[i]
			p.progress(s.Descriptor.Size)
			for _, r := range found[i] {
				keep[r.Name] = true
				p.pulled.Kept += r.Size
			}
		case !s.Packed():
			keep[s.Name] = true
		}
	}
	if err := p.stage.keep(keep); err != nil {
		return nil, err
	}
	for layer, records := range have {
		if err := p.stage.adopt(layer, records, p.o.KeepModes); err != nil {
			return nil, err
		}
	}
	return have, nil
}

func (p *pull) jobs() int {
	if p.client.Jobs > 0 {
		return p.client.Jobs
	}
	return pullJobs
}

// wanted: files that OMS tools leave out of statements are written only where
// the manifest's digest covers them (rule 8).
func (p *pull) wanted(name string) bool {
	return p.verified.Binding == verify.StrengthManifest || !manifest.Ignore(manifest.GitPaths()).Match(name)
}

// compare holds the files of the layers against what is signed. Those of
// archives were hashed while they were written, those of other layers have the
// layers' digests, and will not be written with others.
func (p *pull) compare(files *oci.Files) error {
	signed := p.verified.Signed
	if signed == nil {
		return nil
	}
	if signed.Hashing() != (manifest.Hashing{Type: manifest.SHA256}) {
		return fmt.Errorf("the files are signed by another hash than sha256 of the whole (%s), and cannot be compared while they are written", signed.Serialization.HashType)
	}
	diff := manifest.Compare(signed.Resources, known(files.Files))
	if diff.Empty() {
		return nil
	}
	report := Report{Verdict: verify.Refused, Reasons: []verify.Reason{{Code: verify.CodeFiles, Message: "the layers do not hold the signed files"}}}
	report.Files.Changed, report.Files.Missing, report.Files.Extra = diff.Changed, diff.Missing, diff.Extra
	denied := *p.verified
	denied.Report = report
	return &Denial{Verification: &denied, Err: &verify.Error{Report: &report}}
}

// tell says what the files are.
func (p *pull) tell(files *oci.Files) {
	for _, w := range files.Warnings {
		if w.Code == oci.CodeFileMode && !p.o.KeepModes {
			continue // no program was made
		}
		if text := w.Error(); !slices.Contains(p.verified.Warnings, text) {
			p.pulled.Warnings = append(p.pulled.Warnings, text)
		}
	}
	p.pulled.Files = len(files.Files)
	for _, f := range files.Files {
		p.pulled.Bytes += f.Size
	}
	if p.verified.Binding == verify.StrengthManifest {
		p.pulled.Files += len(files.GitFiles)
	} else {
		p.pulled.LeftOut = files.GitFiles
	}
}

// A blob is a layer that is one file, under one name or several.
type blob struct {
	desc       ocispec.Descriptor
	names      []string
	executable []bool
}

// fetch writes the layers that are one file each.
func (p *pull) fetch(ctx context.Context, plan *oci.Plan, files *oci.Files) error {
	var kept atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.jobs())
	for _, b := range p.blobs(plan, files) {
		group.Go(func() error {
			n, err := p.stage.fetch(ctx, p.model, b.desc, b.names[0], b.executable[0], p.progress)
			kept.Add(n)
			for i := 1; err == nil && i < len(b.names); i++ {
				err = p.stage.duplicate(ctx, b.names[0], b.names[i], b.executable[i], p.progress)
			}
			if err != nil {
				return fmt.Errorf("file %s: %w", strconv.Quote(b.names[0]), err)
			}
			p.step("file " + b.names[0])
			return nil
		})
	}
	err := group.Wait()
	p.pulled.Kept += kept.Load()
	return err
}

// blobs are the layers that are one file each, each digest once.
func (p *pull) blobs(plan *oci.Plan, files *oci.Files) []*blob {
	var blobs []*blob
	byDigest := map[digest.Digest]*blob{}
	named := map[string]bool{}
	add := func(s oci.Source, name string) {
		if !p.wanted(name) || named[name] {
			return
		}
		named[name] = true
		b := byDigest[s.Descriptor.Digest]
		if b == nil {
			b = &blob{desc: s.Descriptor}
			byDigest[s.Descriptor.Digest] = b
			blobs = append(blobs, b)
		}
		b.names = append(b.names, name)
		b.executable = append(b.executable, s.Executable && p.o.KeepModes)
	}
	for _, s := range plan.Sources {
		if !s.Packed() && s.Name != "" {
			add(s, s.Name)
		}
	}
	for _, s := range plan.Sources {
		if s.Packed() || s.Name != "" {
			continue
		}
		for _, f := range files.Files { // the config had the name
			if hex.EncodeToString(f.Digest) == s.Descriptor.Digest.Encoded() && !p.stage.written(f.Name) {
				add(s, f.Name)
			}
		}
	}
	return blobs
}
