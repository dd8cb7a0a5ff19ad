package oci

import (
	"slices"
	"strings"
)

// packers are the media types that packers gave to their own layers.
var packers = map[string]string{
	"application/vnd.cncf.model.":      LayoutModelPack,
	"application/vnd.cnai.model.":      LayoutModelPack, // its older name
	"application/vnd.kitops.modelkit.": LayoutKitOps,
	"application/vnd.docker.ai.":       LayoutDockerModel,
}

// packerOf is the layout that a media type belongs to, "" if to none.
func packerOf(mediaType string) string {
	for prefix, layout := range packers {
		if strings.HasPrefix(mediaType, prefix) {
			return layout
		}
	}
	return ""
}

// isPackedType reports whether the packer that defined mediaType unpacks or
// decompresses such layers. The image spec's own types are not here: oras
// gives them to raw files (M06).
func isPackedType(mediaType string) bool {
	return packerOf(mediaType) != "" && (isArchiveType(mediaType) || compressionOf(mediaType) != "")
}

// isArchiveType reports whether a packer's type says tar: its name, without
// the compression, ends so.
func isArchiveType(mediaType string) bool {
	mediaType, _, _ = strings.Cut(mediaType, "+")
	return strings.HasSuffix(mediaType, ".tar")
}

// checkPackerType refuses a type of a packer's own that says tar, raw or a
// compression in a way that we do not know (M07): a consumer that knows it
// writes other files than one that does not.
func checkPackerType(mediaType, what string) error {
	packer := packerOf(mediaType)
	if packer == "" {
		return nil
	}
	base, compression, compressed := strings.Cut(mediaType, "+")
	words := strings.Split(base, ".")
	format := words[len(words)-1]
	packed := format == "tar" || format == "raw"
	known := mediaType == strings.ToLower(mediaType) &&
		!slices.ContainsFunc(words[:len(words)-1], func(w string) bool { return w == "tar" || w == "raw" }) &&
		!slices.Contains(compressions, format) &&
		(packed || packer != LayoutKitOps)
	switch {
	case !compressed, compression == "gzip", compression == "zstd":
	case compression == "json" && !packed: // a file that says what is in it
	default:
		known = false
	}
	if !known {
		return refuse("layer-type", what, "its type, %s, is neither a file's nor a tar's with a compression that is known", quote(mediaType))
	}
	return nil
}

// compressions are words at the end of a type that say that it is no plain
// file, where the packers say so after a plus.
var compressions = []string{"gz", "gzip", "tgz", "zst", "zstd", "bz2", "bzip2", "xz", "lzma", "lz4", "br", "zip"}

// compressionOf is what the end of a media type says.
func compressionOf(mediaType string) string {
	switch {
	case strings.HasSuffix(mediaType, "+gzip"), strings.HasSuffix(mediaType, ".gzip"):
		return "gzip"
	case strings.HasSuffix(mediaType, "+zstd"), strings.HasSuffix(mediaType, ".zstd"):
		return "zstd"
	}
	return ""
}

// anyCompression is a Source's where its type does not say which.
const anyCompression = "any"

// openCompression is compressionOf where consumers look at the content if the
// type says nothing.
func openCompression(mediaType string) string {
	if c := compressionOf(mediaType); c != "" {
		return c
	}
	return anyCompression
}
