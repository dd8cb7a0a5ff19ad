// Package interop runs modelsig against the tools that people already have:
// cosign, crane, oras, skopeo, containers/image, and the registries that most
// others are built on. It has tests only, and is a module of its own, so that none of
// this reaches the go.mod that users of the library get.
//
// # Peers
//
// Each peer is a module of its own under peers/, with one tool directive, or
// one program that asks a library:
//
//	peers/cosign     cosign v3.1.3
//	peers/registry   CNCF distribution v3.1.2: no Referrers API
//	peers/crane      crane v0.22.1
//	peers/oras       oras v1.3.6
//	peers/policy     containers/image v5.42.1, which podman and CRI-O are built on
//	peers/tsa        sigstore's timestamp-authority v2.1.3
//	peers/fulcio     sigstore's certificate authority v1.8.8
//	peers/rekor      rekor-tiles v2.3.0, on a POSIX file system
//
// One module for all of them would select one version of each dependency for
// all of them, and none would be the program that was released: with crane
// beside it, cosign v3.1.3 gets a newer go-containerregistry and writes other
// fallback indexes. Alone, each is built from the very versions of its release.
//
// The tests build a peer by asking the go command for its path:
//
//	go tool -C peers/cosign -n cosign
//
// It compiles and links on first use and answers from the build cache later.
// With an empty cache, cosign takes minutes.
//
// From Debian, where installed: docker-registry 2.8 and skopeo. Without them
// their tests are skipped, with CI=true they fail.
//
// modelsig itself is driven as a built binary; nothing here imports it.
//
// # Commands
//
//	go test ./...                                  everything
//	go test -run TestSixteen -rounds 30            the race for the fallback index, longer
//	go test -run TestGolden -update                make ../testdata/cosign again
//	go test -run '^$' -bench . -benchtime 5x       cost, beside cosign's
package interop
