package main

import (
	"context"

	"github.com/modelsig/modelsig"
)

type deleteCmd struct {
	Ref string `arg:"" name:"repo@referrer" help:"REPO@DIGEST or oci:PATH@DIGEST of a bundle, as modelsig list shows it. Never of a model."`

	registryFlags
}

func (d *deleteCmd) Run(ctx context.Context, a *app) error {
	target, err := modelsig.ParseReference(d.Ref)
	if err != nil {
		return err
	}
	client, err := a.client(d.registryFlags, []modelsig.Target{target})
	if err != nil {
		return err
	}
	deleted, err := client.Delete(ctx, target.Reference)
	if err != nil {
		return err
	}
	out := &answer{first: "Delete succeeded"}
	out.add("referrer", "%s", deleted.Referrer)
	out.add("was attached to", "%s", deleted.Subject)
	if deleted.Layout {
		out.add("note", "%s", "it is no longer listed; its blobs stay in the layout")
	}
	var answers answers[deleteJSON]
	if err := answers.add(a, out, deleteJSON{deleted.Referrer, deleted.Subject}, ""); err != nil {
		return err
	}
	return answers.finish(a, "modelsig/delete/v1")
}

// deleteJSON is schema modelsig/delete/v1.
type deleteJSON struct {
	Referrer string `json:"referrer"`
	Subject  string `json:"subject"`
}
