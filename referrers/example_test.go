package referrers_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/modelsig/modelsig/referrers"
)

func Example() {
	ctx := context.Background()
	srv := httptest.NewServer(ociserver.New(ocimem.New(), nil))
	defer srv.Close()
	repo, err := remote.NewRepository(strings.TrimPrefix(srv.URL, "http://") + "/models/tiny")
	if err != nil {
		fmt.Println(err)
		return
	}
	repo.PlainHTTP = true
	store := referrers.InRepository(repo)
	subject := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest,
		Digest:    digest.FromString("a manifest"), // it may be pushed later
		Size:      10,
	}

	_, err = referrers.Attach(ctx, store, subject, referrers.Attachment{
		Bundle:        []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`),
		PredicateType: "https://sigstore.dev/cosign/sign/v1",
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	listing, err := referrers.List(ctx, store, subject, nil, referrers.Limits{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for c := range listing.Read(ctx) {
		fmt.Printf("%s: %d bytes, error %v\n", c.PredicateType, len(c.Bundle), c.Err)
	}
	fmt.Println("incomplete:", listing.Incomplete)
	// Output:
	// https://sigstore.dev/cosign/sign/v1: 61 bytes, error <nil>
	// incomplete: <nil>
}
