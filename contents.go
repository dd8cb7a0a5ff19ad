package modelsig

import (
	"context"
	"encoding/hex"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

// Contents is what a model consists of, and what its signature would list.
type Contents struct {
	Target   string
	Pinned   string // REPO@DIGEST; "" without a registry or layout
	Digest   string // of the manifest; "" for local files
	Index    string // digest of the index it was chosen from; "" without one
	Platform string // what for, as the index says; "" if it does not
	Layout   string // how layers are read as files; "" for local files
	Root     string // OMS root digest, in hex
	Files    []manifest.Resource
}

// Digest says which files the layers of the artifact that ref names are. It
// reads the manifest, and of the layers only archives.
func (c *Client) Digest(ctx context.Context, ref string, o SignOptions) (*Contents, error) {
	r, err := oci.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	model, err := c.openReference(ctx, r, o.Platform)
	if err != nil {
		return nil, err
	}
	contents, err := c.contentsOf(ctx, model.Manifest, model, model.Reference.String(), o)
	if err != nil {
		return nil, err
	}
	contents.Pinned, contents.Index, contents.Platform = pinned(model.Reference), indexOf(model), model.Platform
	return contents, nil
}

// DigestManifest is Digest for a manifest on disk; name is for messages.
func (c *Client) DigestManifest(ctx context.Context, data []byte, name string, o SignOptions) (*Contents, error) {
	m, err := oci.ParseManifest(data, "")
	if err != nil {
		return nil, err
	}
	return c.contentsOf(ctx, m, nil, targetName(name), o)
}

func (c *Client) contentsOf(ctx context.Context, m *oci.Manifest, model *oci.Model, target string, o SignOptions) (*Contents, error) {
	if err := wholeLayers(o.Hashing); err != nil {
		return nil, err
	}
	files, err := c.filesOf(ctx, m, model, o)
	if err != nil {
		return nil, err
	}
	oms, err := manifest.New(known(files.Files), serialization(files))
	if err != nil {
		return nil, err
	}
	root := oms.Root()
	return &Contents{
		Target: target, Digest: m.Descriptor.Digest.String(), Layout: files.Layout,
		Root: hex.EncodeToString(root[:]), Files: oms.Resources,
	}, nil
}

// DigestDir hashes the folder or file at path.
func (c *Client) DigestDir(ctx context.Context, path string, o SignOptions) (*Contents, error) {
	local, err := c.readDir(ctx, path, o)
	if err != nil {
		return nil, err
	}
	root := local.oms.Root()
	return &Contents{Target: path, Root: hex.EncodeToString(root[:]), Files: local.oms.Resources}, nil
}

// Claims is what a bundle says of itself. Nobody authenticated it.
type Claims struct {
	bundle.Claims
	PredicateType string
	Name          string   // of the first subject
	Digests       []string // of the first subject, "algorithm:hex"
	Annotations   []Annotation
	Files         []manifest.Resource // of an OMS statement
	IgnorePaths   []string            // of an OMS statement
	Problem       string              // why the statement could not be read further
}

// An Annotation of a subject, as JSON.
type Annotation struct{ Name, Value string }

// InsecureInspect reads a bundle to show it to a person. It authenticates
// nothing: never decide on what it returns.
func InsecureInspect(data []byte) (*Claims, error) {
	claims, err := bundle.InsecureClaims(data)
	if err != nil {
		return nil, err
	}
	out := &Claims{Claims: *claims}
	st, err := manifest.ParseStatement(claims.Payload)
	if err != nil {
		out.Problem = err.Error()
		return out, nil
	}
	out.PredicateType = st.PredicateType
	if len(st.Subject) > 0 {
		subject := st.Subject[0]
		out.Name = subject.Name
		for _, algorithm := range sortedKeys(subject.Digest) {
			out.Digests = append(out.Digests, algorithm+":"+subject.Digest[algorithm])
		}
		for _, name := range sortedKeys(subject.Annotations) {
			out.Annotations = append(out.Annotations, Annotation{name, string(subject.Annotations[name])})
		}
	}
	if !manifest.IsOMS(st.PredicateType) {
		return out, nil
	}
	oms, err := st.Manifest()
	if err != nil {
		out.Problem = err.Error()
		return out, nil
	}
	out.Files, out.IgnorePaths = oms.Resources, oms.Serialization.IgnorePaths
	return out, nil
}
