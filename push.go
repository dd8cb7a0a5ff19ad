package modelsig

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

// PushOptions are what may be said about one push. The zero value chooses
// media types by extension and refuses every ambiguous name.
type PushOptions struct {
	// MediaType is the media type of every layer; "": by extension.
	MediaType string
	// Allow accepts ambiguous names; nil refuses them all.
	Allow manifest.Allow
	// AllowSymlinks uploads what links to regular files inside the folder
	// point to, under the links' names.
	AllowSymlinks bool
	// Signer signs what was pushed, by the digest of the bytes that were
	// uploaded; nil: push only. Sign are the options of that act.
	Signer Signer
	Sign   SignOptions
}

// Pushed is what a push made.
type Pushed struct {
	Reference string // canonical, with the digest
	Pinned    string // REPO@DIGEST
	Digest    string
	Files     int
	Bytes     int64
	LeftOut   []string   // files that were not pushed: .git, .github, model.sig
	Warnings  []string   // threats that were allowed
	Signature *Signature // nil without a Signer
}

// leftOut are names that a push leaves out: a consumer would get them and no
// verifier would look at them.
var leftOut = manifest.Ignore{".git", ".github", "model.sig"}

// Push uploads the folder at dir, one raw layer a file, as `oras push` does:
// the path relative to dir is the layer's title. Blobs that the registry has
// are not sent again; the tag is set last.
func (c *Client) Push(ctx context.Context, dir, ref string, o PushOptions) (*Pushed, error) {
	r, err := oci.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	client, err := c.registry()
	if err != nil {
		return nil, err
	}
	d, err := manifest.Open(dir, manifest.OpenOptions{AllowSymlinks: o.AllowSymlinks})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	ignore := leftOut
	if d.IsFile() {
		ignore = nil
	}
	files, err := d.Files(ctx, ignore)
	if err != nil {
		return nil, fmt.Errorf("push %s: %w", dir, err)
	}
	pushed := &Pushed{Files: len(files), LeftOut: present(dir, ignore)}
	for _, f := range files {
		pushed.Bytes += f.Size
	}
	names := namesOf(files)
	threats, err := manifest.CheckNames(names, o.Allow)
	if err != nil {
		return nil, fmt.Errorf("push %s: %w", dir, err)
	}
	stubs, err := manifest.CheckStubs(names, o.Allow)
	if err != nil {
		return nil, fmt.Errorf("push %s: %w", dir, err)
	}
	for _, t := range append(threats, stubs...) {
		pushed.Warnings = append(pushed.Warnings, t.Error())
	}
	met := &pointers{allow: o.Allow}
	model, err := client.Push(ctx, r, files, oci.PushOptions{
		MediaType: o.MediaType,
		Pointers:  met.judge,
		Allow:     o.Allow,
		Jobs:      c.Jobs,
		Progress:  c.progress(append(slices.Clone(files), files...)), // read once to hash, once to send
	})
	if err != nil {
		return nil, err
	}
	pushed.Warnings = append(pushed.Warnings, met.warnings()...)
	pushed.Reference = model.Reference.String()
	pushed.Pinned = pinned(model.Reference)
	pushed.Digest = model.Manifest.Descriptor.Digest.String()
	if o.Signer == nil {
		return pushed, nil
	}
	o.Sign.Allow = append(slices.Clone(o.Sign.Allow), o.Allow...)
	ctx, span := c.span(ctx, "Sign", referenceKind(r), pushed.Reference)
	pushed.Signature, err = c.signModel(ctx, model, o.Signer, o.Sign)
	endSign(span, &pushed.Signature, &err)
	if err != nil {
		return nil, fmt.Errorf("pushed %s, not signed: %w", pushed.Reference, err)
	}
	return pushed, nil
}

// present are those of the names that are there, to be told.
func present(dir string, names manifest.Ignore) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, err := os.Lstat(filepath.Join(dir, name))
		return err != nil
	})
}
