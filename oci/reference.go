package oci

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
)

// A Reference names an artifact. Its fields are canonical: build it with
// [ParseReference]. Exactly one of Registry, Layout and Archive is set.
// References are comparable.
type Reference struct {
	Registry   string        // host[:port], lower case, without default port; "docker.io" for Docker Hub
	Repository string        // set exactly when Registry is
	Layout     string        // path of an image layout folder, as filepath.Clean gives it
	Archive    string        // path of an image layout tar, read-only
	Tag        string        // may be empty
	Digest     digest.Digest // sha256 only; may be empty; with a tag, the digest counts

	// HTTPS is true when the reference was written with https://: TLS is
	// spoken even to a loopback address. It names no other artifact, so it is
	// no part of Name.
	HTTPS bool
}

const (
	// dockerHub is the canonical host of Docker Hub. On the wire it is
	// registry-1.docker.io.
	dockerHub = "docker.io"

	// maxHost is the longest name that DNS carries (RFC 1035 §2.3.4).
	maxHost = 253
	// maxLabel is the longest part of it (RFC 1035 §2.3.4).
	maxLabel = 63
	// maxTag is the distribution spec's.
	maxTag = 128
	// maxRepository is what registries and clients agree on.
	maxRepository = 255
	// maxReference keeps hostile input from costing anything: host, repository,
	// tag (128) and digest (71) fit well, and so does any path (PATH_MAX).
	maxReference = 8192
)

var (
	// tagPattern and repositoryPattern are those of the distribution spec,
	// "Pulling manifests".
	// Lengths are checked beside them: a bounded repeat costs milliseconds at
	// every start.
	tagPattern        = regexp.MustCompile(`\A[a-zA-Z0-9_][a-zA-Z0-9._-]*\z`)
	repositoryPattern = regexp.MustCompile(`\A[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*\z`)
	digestPattern     = regexp.MustCompile(`\Asha256:[0-9a-f]{64}\z`)
	labelPattern      = regexp.MustCompile(`\A[a-z0-9]([a-z0-9-]*[a-z0-9])?\z`)
	// A host whose last label is a number is an IPv4 address to every resolver
	// (WHATWG URL, "ends in a number").
	numericPattern = regexp.MustCompile(`(\A|\.)([0-9]+|0x[0-9a-f]*)\z`)
)

// isTag reports whether s is a tag.
func isTag(s string) bool { return len(s) <= maxTag && tagPattern.MatchString(s) }

// isHost reports whether s is a canonical host name (RFC 1123 §2.1).
func isHost(s string) bool {
	if len(s) > maxHost {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) > maxLabel || !labelPattern.MatchString(label) {
			return false
		}
	}
	return true
}

// ParseReference parses HOST[:PORT]/REPO[:TAG][@DIGEST], the same after oci://,
// docker:// or https://, oci:PATH[:TAG][@DIGEST] and
// oci-archive:FILE[:TAG][@DIGEST].
//
// Spellings of one thing are folded where that is harmless: an upper-case host,
// a trailing dot, :443, the aliases of docker.io, docker.io/x for
// docker.io/library/x. All others are refused: addresses that are not
// canonical, international host names, percent-encoding, digests other than
// sha256, upper-case repositories, http://.
//
// In oci: and oci-archive: the text after the last colon is the tag if it is a
// valid tag, and belongs to the path otherwise, so that C:\models is a path; a
// path that itself ends in a colon and a valid tag needs a tag or a digest
// after it.
func ParseReference(s string) (Reference, error) {
	ref, err := parseReference(s)
	if err != nil {
		return Reference{}, fmt.Errorf("reference %s: %w", quote(s), err)
	}
	return ref, nil
}

func parseReference(s string) (Reference, error) {
	if len(s) > maxReference {
		return Reference{}, fmt.Errorf("longer than %d bytes", maxReference)
	}
	if rest, ok := cutScheme(s, "oci:"); ok {
		path, tag, dgst, err := splitLayout(rest)
		return Reference{Layout: path, Tag: tag, Digest: dgst}, err
	}
	if rest, ok := strings.CutPrefix(s, "oci-archive:"); ok {
		path, tag, dgst, err := splitLayout(rest)
		return Reference{Archive: path, Tag: tag, Digest: dgst}, err
	}
	var ref Reference
	rest := s
	for _, scheme := range []string{"oci://", "docker://", "https://"} {
		if after, ok := strings.CutPrefix(s, scheme); ok {
			rest, ref.HTTPS = after, scheme == "https://"
			break
		}
	}
	if strings.HasPrefix(s, "http://") {
		return Reference{}, errors.New("http:// is not a way to write a reference")
	}
	host, path, ok := strings.Cut(rest, "/")
	if !ok {
		return Reference{}, errors.New("no host: want HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]")
	}
	var err error
	if ref.Registry, err = canonicalHost(host); err != nil {
		return Reference{}, err
	}
	path, dgst, hasDigest := strings.Cut(path, "@")
	if hasDigest {
		if err := checkDigest(dgst); err != nil {
			return Reference{}, err
		}
		ref.Digest = digest.Digest(dgst)
	}
	path, tag, hasTag := strings.Cut(path, ":")
	if hasTag {
		if !isTag(tag) {
			return Reference{}, fmt.Errorf("%s is not a valid tag", quote(tag))
		}
		ref.Tag = tag
	}
	switch {
	case path == "":
		return Reference{}, errors.New("no repository")
	case len(path) > maxRepository:
		return Reference{}, fmt.Errorf("repository is longer than %d bytes", maxRepository)
	case !repositoryPattern.MatchString(path):
		return Reference{}, fmt.Errorf("%s is not a valid repository (lower-case letters, digits and separators)", quote(path))
	}
	if ref.Registry == dockerHub && !strings.Contains(path, "/") {
		path = "library/" + path
	}
	ref.Repository = path
	return ref, secondReading(ref)
}

// secondReading has go-containerregistry, the parser of crane and cosign, read
// the repository too: what is verified here must be what they would pull.
func secondReading(ref Reference) error {
	host := ref.Registry
	if !strings.ContainsAny(host, ".:") {
		host += ":443" // it takes one label without a port for a part of a Docker Hub repository
	}
	repo, err := name.NewRepository(host+"/"+ref.Repository, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("refused by a second parser: %s", quote(err.Error()))
	}
	if repo.RepositoryStr() != ref.Repository || repo.RegistryStr() != host && ref.Registry != dockerHub {
		return fmt.Errorf("two parsers read %s and %s", quote(ref.Name()), quote(repo.Name()))
	}
	return nil
}

// cutScheme cuts "oci:" but leaves "oci://", which is a registry.
func cutScheme(s, scheme string) (string, bool) {
	rest, ok := strings.CutPrefix(s, scheme)
	return rest, ok && !strings.HasPrefix(rest, "//")
}

func splitLayout(s string) (path, tag string, dgst digest.Digest, err error) {
	path = s
	if i := strings.LastIndexByte(path, '@'); i >= 0 && startsDigest(path[i+1:]) {
		if err := checkDigest(path[i+1:]); err != nil {
			return "", "", "", err
		}
		path, dgst = path[:i], digest.Digest(path[i+1:])
	}
	if i := strings.LastIndexByte(path, ':'); i >= 0 {
		switch {
		case isTag(path[i+1:]):
			path, tag = path[:i], path[i+1:]
		case i == len(path)-1:
			return "", "", "", errors.New("empty tag")
		}
	}
	switch {
	case path == "":
		return "", "", "", errors.New("no path")
	case strings.ContainsRune(path, 0):
		return "", "", "", errors.New("path holds a NUL byte")
	}
	path = filepath.Clean(path)
	if tag == "" {
		// Cleaning may bring a colon to the end: "a:b/." is the path "a:b",
		// which reads as a path and a tag, and "a:/" is "a:".
		if i := strings.LastIndexByte(path, ':'); i >= 0 && (i == len(path)-1 || isTag(path[i+1:])) {
			return "", "", "", fmt.Errorf("path %s reads as a path and a tag", quote(path))
		}
	}
	if i := strings.LastIndexByte(path, '@'); i >= 0 && startsDigest(path[i+1:]) {
		return "", "", "", fmt.Errorf("path %s reads as a path and a digest", quote(path))
	}
	return path, tag, dgst, nil
}

// startsDigest reports whether what follows an "@" was meant as a digest and
// not as part of a path.
func startsDigest(s string) bool {
	for _, algorithm := range []string{"sha256:", "sha384:", "sha512:", "blake3:"} {
		if len(s) >= len(algorithm) && strings.EqualFold(s[:len(algorithm)], algorithm) {
			return true
		}
	}
	return false
}

// checkDigest wants sha256 and nothing else: the comparison of (algorithm,
// length, bytes) needs one algorithm on both sides (OMS §6.5).
func checkDigest(s string) error {
	if digestPattern.MatchString(s) {
		return nil
	}
	if algorithm, _, ok := strings.Cut(s, ":"); ok && algorithm != "sha256" {
		return fmt.Errorf("digest algorithm %s is not sha256", quote(algorithm))
	}
	return fmt.Errorf("digest %s is not sha256: and 64 lower-case hex digits", quote(s))
}

// canonicalHost returns the one spelling of host[:port] that policies match.
func canonicalHost(s string) (string, error) {
	host, port, hasPort := s, "", false
	if strings.HasPrefix(s, "[") {
		var after string
		var ok bool
		if host, after, ok = strings.Cut(s, "]"); !ok {
			return "", fmt.Errorf("host %s has no closing bracket", quote(s))
		}
		host += "]"
		if port, hasPort = strings.CutPrefix(after, ":"); !hasPort && after != "" {
			return "", fmt.Errorf("host %s has text after the bracket", quote(s))
		}
	} else {
		host, port, hasPort = strings.Cut(s, ":")
	}
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
			return "", fmt.Errorf("host %s: port %s is not a number from 1 to 65535", quote(s), quote(port))
		}
	}
	for i := range len(host) {
		if host[i] >= 0x80 {
			return "", fmt.Errorf("host %s is not ASCII", quote(s))
		}
	}
	host = strings.ToLower(host)
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner = strings.TrimSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		if err != nil || !addr.Is6() || addr.Is4In6() || addr.Zone() != "" || addr.String() != inner {
			return "", fmt.Errorf("host %s is not a canonical IPv6 address", quote(s))
		}
	} else {
		host = strings.TrimSuffix(host, ".")
		if numericPattern.MatchString(host) {
			if addr, err := netip.ParseAddr(host); err != nil || !addr.Is4() || addr.String() != host {
				return "", fmt.Errorf("host %s is not a canonical IPv4 address", quote(s))
			}
		} else if !isHost(host) {
			return "", fmt.Errorf("%s is not a valid host", quote(s))
		}
		for label := range strings.SplitSeq(host, ".") {
			if strings.HasPrefix(label, "xn--") {
				return "", fmt.Errorf("host %s is an international name", quote(s))
			}
		}
	}
	switch host {
	case dockerHub, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		if !hasPort || port == "443" {
			return dockerHub, nil
		}
	}
	// Loopback speaks HTTP unless the caller says otherwise, so its :443 is not
	// the default port and stays.
	if hasPort && (port != "443" || isLoopback(host)) {
		host += ":" + port
	}
	return host, nil
}

// isLoopback reports whether host[:port] is a loopback literal or "localhost"
// by name. Other names that resolve to loopback do not count: DNS is not ours
// to trust.
func isLoopback(host string) bool {
	if h, _, ok := strings.Cut(host, ":"); ok && !strings.HasPrefix(host, "[") {
		host = h
	} else if inner, ok := strings.CutPrefix(host, "["); ok {
		host, _, _ = strings.Cut(inner, "]")
	}
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// String returns the canonical spelling; [ParseReference] returns r from it.
func (r Reference) String() string {
	s := r.Name()
	if r.HTTPS {
		s = "https://" + s
	}
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// Name returns HOST/REPO, oci:PATH or oci-archive:FILE, without tag and digest.
func (r Reference) Name() string {
	switch {
	case r.Layout != "":
		return "oci:" + r.Layout
	case r.Archive != "":
		return "oci-archive:" + r.Archive
	}
	return r.Registry + "/" + r.Repository
}

// IsRegistry reports whether r names an artifact in a registry.
func (r Reference) IsRegistry() bool { return r.Registry != "" }

// LooksLikeReference reports whether s, which has no scheme, reads as a
// complete reference to a registry: its first component has "." or ":" or is
// "localhost", it has a tag or a digest, and it parses. A string for which this
// is true and which is also an existing path has two readings.
func LooksLikeReference(s string) bool {
	host, _, ok := strings.Cut(s, "/")
	if !ok || host != "localhost" && !strings.ContainsAny(host, ".:") {
		return false
	}
	ref, err := ParseReference(s)
	return err == nil && ref.IsRegistry() && !strings.Contains(s, "://") && (ref.Tag != "" || ref.Digest != "")
}
