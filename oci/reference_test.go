package oci_test

import (
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/modelsig/modelsig/oci"
)

var (
	hex64  = strings.Repeat("0123456789abcdef", 4)
	digest = "sha256:" + hex64
)

// Rule 7: one canonical form, before any request.
var canonicalForms = []struct{ name, written, canonical string }{
	{"plain", "registry.example.com/acme/m:v1", "registry.example.com/acme/m:v1"},
	{"with a scheme", "oci://registry.example.com/acme/m:v1", "registry.example.com/acme/m:v1"},
	{"with docker's scheme", "docker://registry.example.com/acme/m:v1", "registry.example.com/acme/m:v1"},
	{"https is kept, because loopback differs by it", "https://localhost:5000/m:v1", "https://localhost:5000/m:v1"},
	{"upper-case host", "REGISTRY.Example.COM/acme/m:v1", "registry.example.com/acme/m:v1"},
	{"trailing dot", "registry.example.com./acme/m:v1", "registry.example.com/acme/m:v1"},
	{"trailing dot and port", "registry.example.com.:5000/m:v1", "registry.example.com:5000/m:v1"},
	{"default port", "registry.example.com:443/acme/m:v1", "registry.example.com/acme/m:v1"},
	{"all at once", "REGISTRY.example.com.:443/acme/m:v1", "registry.example.com/acme/m:v1"},
	{"other port", "registry.example.com:5000/m:v1", "registry.example.com:5000/m:v1"},
	{"443 is not the default of a host that speaks HTTP", "127.0.0.1:443/m:v1", "127.0.0.1:443/m:v1"},
	{"docker.io", "docker.io/library/alpine:3", "docker.io/library/alpine:3"},
	{"docker.io without a namespace", "docker.io/alpine:3", "docker.io/library/alpine:3"},
	{"index.docker.io", "index.docker.io/alpine:3", "docker.io/library/alpine:3"},
	{"registry-1.docker.io", "registry-1.docker.io:443/a/b:3", "docker.io/a/b:3"},
	{"hub.docker.com's registry", "registry.hub.docker.com/a/b:3", "docker.io/a/b:3"},
	{"one label is a host", "registry/m:v1", "registry/m:v1"},
	{"the first component is the host", "library/alpine:3", "library/alpine:3"},
	{"localhost", "localhost:5000/m:v1", "localhost:5000/m:v1"},
	{"IPv4", "192.0.2.1:5000/m:v1", "192.0.2.1:5000/m:v1"},
	{"IPv6", "[2001:DB8::1]:5000/m:v1", "[2001:db8::1]:5000/m:v1"},
	{"IPv6 without port", "[::1]/m:v1", "[::1]/m:v1"},
	{"digest", "ghcr.io/a/m@" + digest, "ghcr.io/a/m@" + digest},
	{"tag and digest", "ghcr.io/a/m:v1@" + digest, "ghcr.io/a/m:v1@" + digest},
	{"neither", "ghcr.io/a/m", "ghcr.io/a/m"},
	{"separators", "ghcr.io/a.b_c__d-e---f/m:V1.2-x_y", "ghcr.io/a.b_c__d-e---f/m:V1.2-x_y"},
	{"layout", "oci:dir", "oci:dir"},
	{"layout with a tag", "oci:dir/sub:v1", "oci:dir/sub:v1"},
	{"layout with a digest", "oci:dir@" + digest, "oci:dir@" + digest},
	{"layout with both", "oci:dir:v1@" + digest, "oci:dir:v1@" + digest},
	{"layout path is cleaned", "oci:./dir//sub/:v1", "oci:dir/sub:v1"},
	{"absolute layout", "oci:/tmp/dir:v1", "oci:/tmp/dir:v1"},
	{"colon in the path", "oci:a:b/c", "oci:a:b/c"},
	{"colon in the path and a tag", "oci:a:b:v1", "oci:a:b:v1"},
	{"at in the path", "oci:a@b:v1", "oci:a@b:v1"},
	{"a Windows path", `oci:C:\models\m`, `oci:C:\models\m`},
	{"a Windows path and a tag", `oci:C:\models\m:v1`, `oci:C:\models\m:v1`},
	{"archive", "oci-archive:m.tar:v1", "oci-archive:m.tar:v1"},
	{"archive without a tag", "oci-archive:m.tar", "oci-archive:m.tar"},
}

func TestParseReferenceCanonical(t *testing.T) {
	for _, test := range canonicalForms {
		t.Run(test.name, func(t *testing.T) {
			if runtime.GOOS == "windows" && strings.HasPrefix(test.written, "oci:") {
				t.Skip("the path separator differs")
			}
			ref, err := oci.ParseReference(test.written)
			if err != nil {
				t.Fatal(err)
			}
			if got := ref.String(); got != test.canonical {
				t.Errorf("ParseReference(%q) = %q, want %q", test.written, got, test.canonical)
			}
			again, err := oci.ParseReference(ref.String())
			if err != nil || again != ref {
				t.Errorf("ParseReference(%q) = %#v, %v; want %#v", ref, again, err, ref)
			}
		})
	}
}

func TestParseReferenceRefuses(t *testing.T) {
	for _, test := range []struct{ name, written string }{
		{"nothing", ""},
		{"no repository", "ghcr.io"},
		{"empty repository", "ghcr.io/"},
		{"a bare name", "model"},
		{"a bare name with a tag", "model:v1"},
		{"upper-case repository", "ghcr.io/Acme/m:v1"},
		{"percent-encoding", "ghcr.io/acme%2fm:v1"},
		{"percent-encoding in the host", "ghcr%2eio/m:v1"},
		{"a parent segment", "ghcr.io/a/../m:v1"},
		{"an empty segment", "ghcr.io/a//m:v1"},
		{"a trailing slash", "ghcr.io/a/m/:v1"},
		{"a leading separator", "ghcr.io/-m:v1"},
		{"three underscores", "ghcr.io/a___b:v1"},
		{"a query", "ghcr.io/a?b:v1"},
		{"user information", "user@ghcr.io/a:v1"},
		{"user information with a scheme", "https://user:pw@ghcr.io/a:v1"},
		{"plain HTTP", "http://localhost:5000/m:v1"},
		{"an upper-case scheme", "OCI://ghcr.io/m:v1"},
		{"two schemes", "oci://docker://ghcr.io/m:v1"},
		{"an empty host", "/m:v1"},
		{"an empty host after the scheme", "oci:///m:v1"},
		{"an empty port", "ghcr.io:/m:v1"},
		{"port zero", "ghcr.io:0/m:v1"},
		{"a port with a leading zero", "ghcr.io:0443/m:v1"},
		{"a port too large", "ghcr.io:65536/m:v1"},
		{"a port with a sign", "ghcr.io:+443/m:v1"},
		{"two trailing dots", "ghcr.io../m:v1"},
		{"an empty label", "ghcr..io/m:v1"},
		{"a label with a hyphen in front", "-a.example.com/m:v1"},
		{"an underscore in the host", "my_host/m:v1"},
		{"a long label", strings.Repeat("a", 64) + ".example/m:v1"},
		{"a non-ASCII host", "régistry.example/m:v1"},
		{"a Kelvin sign", "\u212Ahcr.io/m:v1"},
		{"an international host", "xn--rgistry-bya.example/m:v1"},
		{"a hexadecimal address", "0x7f.1/m:v1"},
		{"a hexadecimal number", "0x7f000001/m:v1"},
		{"a short address", "127.1/m:v1"},
		{"a decimal address", "2130706433/m:v1"},
		{"an octal address", "0177.0.0.1/m:v1"},
		{"an address with a zero in front", "127.0.0.01/m:v1"},
		{"an address out of range", "256.0.0.1/m:v1"},
		{"five numbers", "1.2.3.4.5/m:v1"},
		{"an address in brackets", "[127.0.0.1]/m:v1"},
		{"a long IPv6 address", "[0:0:0:0:0:0:0:1]/m:v1"},
		{"IPv4 in IPv6", "[::ffff:127.0.0.1]/m:v1"},
		{"an IPv6 zone", "[fe80::1%25eth0]/m:v1"},
		{"an open bracket", "[::1/m:v1"},
		{"text after the bracket", "[::1]x/m:v1"},
		{"an IPv6 address without brackets", "::1/m:v1"},
		{"an empty tag", "ghcr.io/m:"},
		{"a tag that starts with a dot", "ghcr.io/m:.v1"},
		{"a long tag", "ghcr.io/m:" + strings.Repeat("v", 129)},
		{"two tags", "ghcr.io/m:v1:v2"},
		{"an empty digest", "ghcr.io/m@"},
		{"a short digest", "ghcr.io/m@sha256:abcd"},
		{"a long digest", "ghcr.io/m@" + digest + "0"},
		{"upper-case hex", "ghcr.io/m@sha256:" + strings.ToUpper(hex64)},
		{"sha512, rule 31", "ghcr.io/m@sha512:" + hex64 + hex64},
		{"two digests", "ghcr.io/m@" + digest + "@" + digest},
		{"a long repository", "ghcr.io/" + strings.Repeat("a", 256)},
		{"a space", "ghcr.io/m :v1"},
		{"a newline", "ghcr.io/m:v1\n"},
		{"a NUL byte", "ghcr.io/m:v1\x00"},
		{"a layout without a path", "oci:"},
		{"a layout with a tag only", "oci::v1"},
		{"a layout with an empty tag", "oci:dir:"},
		{"a layout with a bad digest", "oci:dir@sha256:abcd"},
		{"a layout with sha512", "oci:dir@sha512:" + hex64 + hex64},
		{"a NUL byte in the path", "oci:a\x00b:v1"},
		{"a path that reads as a path and a tag once clean", "oci:a:b/."},
		{"a path that ends in a colon once clean", "oci:a:/"},
		{"an archive without a path", "oci-archive:"},
		{"too long", "oci:" + strings.Repeat("a", 10_000)},
	} {
		t.Run(test.name, func(t *testing.T) {
			ref, err := oci.ParseReference(test.written)
			if err == nil {
				t.Fatalf("ParseReference(%q) = %q, want an error", test.written, ref)
			}
			if ref != (oci.Reference{}) {
				t.Errorf("ParseReference(%q) returned a value beside the error", test.written)
			}
			if len(err.Error()) > 1024 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("the error is not escaped: %q", err)
			}
		})
	}
}

// Whoever pulls by another client pulls the same repository.
func TestParseReferenceAgreesWithOtherClients(t *testing.T) {
	for _, test := range canonicalForms {
		ref, err := oci.ParseReference(test.written)
		if err != nil || !ref.IsRegistry() || !strings.ContainsAny(ref.Registry, ".:") {
			continue
		}
		repo, err := name.NewRepository(ref.Name(), name.StrictValidation)
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		if got := repo.RepositoryStr(); got != ref.Repository {
			t.Errorf("%s: repository %q, want %q", ref, got, ref.Repository)
		}
	}
}

func TestReferenceName(t *testing.T) {
	for written, want := range map[string]string{
		"https://localhost:5000/m:v1": "localhost:5000/m",
		"docker.io/x@" + digest:       "docker.io/library/x",
		"oci:dir:v1":                  "oci:dir",
		"oci-archive:m.tar:v1":        "oci-archive:m.tar",
	} {
		if got := mustParse(t, written).Name(); got != want {
			t.Errorf("Name of %q is %q, want %q", written, got, want)
		}
	}
}

func TestLooksLikeReference(t *testing.T) {
	for _, test := range []struct {
		s    string
		want bool
	}{
		{"ghcr.io/acme/model:v1", true},
		{"ghcr.io/acme/model@" + digest, true},
		{"localhost/model:v1", true},
		{"registry:5000/model:v1", true},
		{"ghcr.io/acme/model", false}, // incomplete: a path
		{"acme/model:v1", false},      // no host
		{"./model:v1", false},
		{"../model:v1", false},
		{"/tmp/model:v1", false},
		{"model:v1", false},
		{"oci:model:v1", false},
		{"oci:a/model:v1", false},
		{"oci://ghcr.io/acme/model:v1", false}, // says what it is
		{"ghcr.io/Acme/model:v1", false},       // refused as a reference
	} {
		if got := oci.LooksLikeReference(test.s); got != test.want {
			t.Errorf("LooksLikeReference(%q) = %t", test.s, got)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, test := range canonicalForms {
		f.Add(test.written)
	}
	f.Add("oci:a:b/.")
	f.Add("oci::/")
	f.Add("oci:a@sha256:" + hex64 + "/.")
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := oci.ParseReference(s)
		if err != nil {
			return
		}
		again, err := oci.ParseReference(ref.String())
		if err != nil || again != ref {
			t.Fatalf("%q → %q → %q, %v", s, ref, again, err)
		}
		if ref.IsRegistry() && ref.Registry != strings.ToLower(ref.Registry) {
			t.Fatalf("host %q is not canonical", ref.Registry)
		}
	})
}

func mustParse(t testing.TB, s string) oci.Reference {
	t.Helper()
	ref, err := oci.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}
