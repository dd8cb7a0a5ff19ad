package modelsig

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
	"github.com/modelsig/modelsig/verify"
)

// plan says which files the layers are.
func (p *pull) plan() (*oci.Plan, error) {
	return p.model.Manifest.Plan(oci.FilesOptions{
		Allow:          p.o.Verify.Allow,
		PathAnnotation: cmp.Or(p.verified.PathAnnotation, p.o.Verify.PathAnnotation),
	})
}

// errNotExact: a folder verifies, and is not what a pull would have written.
var errNotExact = errors.New("not what a pull writes")

func notExact(name, format string, args ...any) error {
	return fmt.Errorf("%w: %s %s", errNotExact, strconv.Quote(name), fmt.Sprintf(format, args...))
}

// exact returns nil if a folder that verifies is what a pull would have
// written, and errNotExact with the first difference. A verdict lets pass what
// OMS tools ignore, and what a signer did: in a folder that a pull vouches for,
// such files would be ones that nobody signed.
func (p *pull) exact(ctx context.Context, d *destination, local *verify.Local, found *Verification) error {
	plan, err := p.plan()
	if err != nil {
		return err
	}
	git, err := p.gitFiles(ctx, plan, local)
	if err != nil {
		return err
	}
	listed := map[string]bool{}
	if found.Signed != nil {
		for _, f := range found.Signed.Files() {
			listed[f.Name] = true
		}
	}
	var hash []manifest.File
	for _, f := range local.Files {
		_, isGit := git[f.Name]
		_, ignored := slices.BinarySearch(found.Files.Ignored, f.Name)
		switch {
		case isGit && f.Problem != nil:
			return notExact(f.Name, "is no regular file")
		case isGit:
			hash = append(hash, f)
		case ignored || found.Signed != nil && !listed[f.Name]:
			return notExact(f.Name, "is not of the model")
		}
	}
	if err := p.sameGitFiles(ctx, local, hash, git); err != nil {
		return err
	}
	return d.plain(ctx)
}

// sameGitFiles holds the files that are there against those of the layers.
func (p *pull) sameGitFiles(ctx context.Context, local *verify.Local, files []manifest.File, git map[string][]byte) error {
	if len(git) == 0 {
		return nil
	}
	resources, err := local.Hash(ctx, manifest.Hashing{Type: manifest.SHA256}, files)
	if errors.Is(err, manifest.ErrChanged) {
		return fmt.Errorf("%w: %v", errNotExact, err)
	}
	if err != nil {
		return err
	}
	there := map[string][]byte{}
	for _, r := range resources {
		there[r.Name] = r.Digest
	}
	for _, name := range sortedKeys(git) {
		switch got, ok := there[name]; {
		case !ok:
			return notExact(name, "is missing")
		case !bytes.Equal(got, git[name]):
			return notExact(name, "was changed")
		}
	}
	return nil
}

// gitFiles are the digests of files that no statement lists and a pull writes,
// since the manifest's digest covers them. Those inside archives are known only
// by reading these: that is done if any such file is there, or has to be.
func (p *pull) gitFiles(ctx context.Context, plan *oci.Plan, local *verify.Local) (map[string][]byte, error) {
	files := map[string][]byte{}
	if p.verified.Binding != verify.StrengthManifest {
		return files, nil
	}
	git := manifest.Ignore(manifest.GitPaths())
	maybe, read := false, false
	for _, s := range plan.Sources {
		switch {
		case s.Packed():
			maybe = maybe || s.Name == ""
			read = read || git.Match(s.Name)
		case git.Match(s.Name):
			sum, err := hex.DecodeString(s.Descriptor.Digest.Encoded())
			if err != nil {
				return nil, err // checked when parsed
			}
			files[s.Name] = sum
		}
	}
	for _, f := range local.Files {
		read = read || maybe && git.Match(f.Name) && files[f.Name] == nil
	}
	if !read {
		return files, nil
	}
	var mu sync.Mutex
	layer := map[string]int{}
	_, err := p.model.Unpack(ctx, plan, oci.UnpackOptions{
		Jobs: p.jobs(),
		Sink: func(e oci.Entry, content io.Reader) error {
			h := sha256.New()
			if _, err := io.Copy(h, content); err != nil || !git.Match(e.Name) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if before, twice := layer[e.Name]; !twice || before <= e.Layer { // the later one counts
				files[e.Name], layer[e.Name] = h.Sum(nil), e.Layer
			}
			return nil
		},
	})
	return files, err
}

// plain wants nothing but files in the folder that no mode gives a meaning to,
// and that nobody else may change.
func (d *destination) plain(ctx context.Context) error {
	if d.root == nil {
		return fmt.Errorf("%w: it went away meanwhile", errNotExact)
	}
	return fs.WalkDir(d.root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		switch {
		case errors.Is(err, fs.ErrInvalid):
			return notExact(name, "is a name that no model has")
		case err != nil:
			return bareError(err)
		case e.IsDir() && d.left[name]:
			return fs.SkipDir // it goes when all is well
		case e.IsDir():
			return nil
		}
		info, err := d.root.Lstat(filepath.FromSlash(name))
		switch {
		case err != nil:
			return bareError(err)
		case info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0:
			return notExact(name, "has the mode %s", info.Mode())
		case !isOursOrRoots(info):
			return notExact(name, "belongs to another user")
		}
		return nil
	})
}

// inStaging reports whether a file lies in a staging folder that was left.
func (d *destination) inStaging(f manifest.File) bool {
	top, _, below := strings.Cut(f.Name, "/")
	return below && d.left[top]
}
