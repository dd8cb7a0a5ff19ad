// Policy asks containers/image, which podman, skopeo and CRI-O are built on,
// whether a policy.json lets an image run: Debian's skopeo is built without the
// part that reads signatures of Sigstore.
//
//	policy POLICY REGISTRIES_D REPO@DIGEST
//
// It prints the reason and exits with 1 where it does not.
package main

import (
	"context"
	"fmt"
	"os"

	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: policy POLICY REGISTRIES_D REPO@DIGEST")
		os.Exit(2)
	}
	if err := allowed(context.Background(), os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func allowed(ctx context.Context, file, registries, name string) error {
	policy, err := signature.NewPolicyFromFile(file)
	if err != nil {
		return err
	}
	decide, err := signature.NewPolicyContext(policy)
	if err != nil {
		return err
	}
	ref, err := docker.ParseReference("//" + name)
	if err != nil {
		return err
	}
	source, err := ref.NewImageSource(ctx, &types.SystemContext{
		RegistriesDirPath:           registries,
		DockerInsecureSkipTLSVerify: types.OptionalBoolTrue, // plain HTTP on loopback
	})
	if err != nil {
		return err
	}
	defer source.Close()
	_, err = decide.IsRunningImageAllowed(ctx, image.UnparsedInstance(source, nil))
	return err
}
