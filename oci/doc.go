// Package oci finds a model in a registry or image layout and says which
// layer bytes are which files.
//
// # References
//
// [ParseReference] reads what a user, a policy or an orchestrator wrote and
// returns one canonical [Reference], or refuses. Nothing else in this package
// takes a string, so no request is made for a name that a policy did not see.
//
//	written                                    canonical
//	REGISTRY.example.com.:443/acme/m:v1        registry.example.com/acme/m:v1
//	oci://ghcr.io/acme/m@sha256:…              ghcr.io/acme/m@sha256:…
//	docker://index.docker.io/alpine:3          docker.io/library/alpine:3
//	https://localhost:5000/m:v1                https://localhost:5000/m:v1
//	oci:./dir/:v1                              oci:dir:v1
//	oci-archive:m.tar:v1                       oci-archive:m.tar:v1
//	ghcr.io/Acme/m:v1                          refused: upper-case repository
//	0x7f.1/m:v1, 127.1/m:v1                    refused: not a canonical address
//
// The first component is always the host. Nothing is implied: no Docker Hub,
// no tag "latest". With a tag and a digest the digest counts.
//
// # Artifacts
//
// [Client.Open] turns a Reference into a [Model] with one GET of the manifest
// (and what authentication needs). The digest is the SHA-256 of the bytes that
// arrived. A tag is never looked up again: everything after Open is by digest.
// [ParseManifest] refuses manifests that two parsers could read differently.
// [Model.Fetch] streams a blob and reports an error, never io.EOF, unless size,
// digest and end of stream are right; where a connection breaks it asks for the
// rest. [Model.FetchRest] does the same for a blob whose beginning is there.
//
// # Indexes
//
// A verdict is about one digest, so [Client.Open] refuses an image index with
// [ErrIndex]. [Client.OpenPlatform] opens the one child for a platform,
// [Client.OpenIndex] lists all, and [Client.OpenAny] opens the index as a
// subject of its own: it has a digest, and signatures may be about it, but no
// layers. Indexes are read as strictly as manifests. A child must be an image
// manifest, listed once, and be what the index says: an index inside an index is
// refused. What stands under unknown/unknown is about the other children, and is
// never chosen.
//
// # Layers and files
//
// [Manifest.Files] maps layers to files. The layout "title" is the one that
// "oras push" writes for single files: one layer holds one file, the layer's
// digest is the file's digest, and the annotation
// org.opencontainers.image.title is its path:
//
//	"layers": [
//	  {"mediaType": "application/json", "digest": "sha256:1cd8…", "size": 51,
//	   "annotations": {"org.opencontainers.image.title": "config.json"}},
//	  {"mediaType": "application/octet-stream", "digest": "sha256:0148…", "size": 5000,
//	   "annotations": {"org.opencontainers.image.title": "onnx/model.onnx"}}]
//
//	→ config.json      51 bytes  1cd8…
//	  onnx/model.onnx  5000      0148…
//
// No layer byte is read for that. The media type proves nothing: oras calls
// every raw file a tar. Layers that a consumer unpacks, or that have no name,
// are [ErrUnmapped]: such an artifact is still bound by its manifest digest.
// [Client.Push] writes this layout.
//
// # Image layouts
//
// A [Layout] is a folder with oci-layout, index.json and blobs/sha256. It is
// read and written by handle (os.Root). Blobs and index.json appear under
// their names only when whole, by rename; index.json changes under an advisory
// lock on the file index.json.lock, and entries that others wrote are kept
// byte for byte.
//
// # The network
//
// Every registry request of a [Client] goes through one http.Client and the
// auth.Client of oras-go around it. Waits always end: see [Options].
package oci
