package modelsig_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const module = "github.com/modelsig/modelsig"

// A layer is one row of the table of packages: who may be imported, and what
// never may. Names of packages are folders; "." is the root package.
type layer struct {
	ours  []string // the packages of this module that it may import
	never []string // import paths, with everything below them
	env   bool     // may read the environment
}

// layers is the design's table of packages and arrows. A package that is not
// in it may not exist: a new one is a decision, and starts here.
var layers = map[string]layer{
	"manifest": {
		never: []string{"net", "oras.land", "github.com/sigstore", "github.com/opencontainers"},
	},
	"bundle": {
		never: []string{"oras.land", "github.com/alecthomas/kong"},
	},
	"verify": {
		ours:  []string{"manifest", "bundle"},
		never: []string{"net", "os", "oras.land", "github.com/sigstore"},
	},
	"oci": {
		ours:  []string{"manifest"},
		never: []string{"github.com/sigstore", "github.com/alecthomas/kong"},
		env:   true, // DockerCredentials, the one named exception
	},
	"referrers": {
		never: []string{"github.com/sigstore", "github.com/alecthomas/kong"},
	},
	".": {
		ours:  []string{"manifest", "bundle", "verify", "oci", "referrers"},
		never: []string{"os/exec", "github.com/alecthomas/kong"},
	},
	"admission": {
		ours:  []string{".", "manifest", "bundle", "verify"},
		never: []string{"oras.land", "github.com/sigstore", "github.com/alecthomas/kong"},
	},
	"cmd/modelsig": {
		ours: []string{".", "manifest", "bundle", "verify", "oci", "referrers", "admission"},
		// The protocol of key plugins is sigstore's; what it signs with is not.
		never: []string{"oras.land", "github.com/sigstore/sigstore-go"},
		env:   true,
	},
	"e2e/fakesigstore": {
		never: []string{"oras.land", "github.com/sigstore/sigstore-go"},
	},
	"e2e/conformance": {
		ours:  []string{".", "manifest", "bundle"},
		never: []string{"oras.land", "github.com/sigstore"},
		env:   true,
	},
	"e2e": {
		ours: []string{".", "manifest", "bundle", "verify", "oci", "referrers", "admission"},
		env:  true,
	},
}

// owners are the dependencies that only some packages may touch, so that a
// change of theirs is a change in one place.
var owners = map[string][]string{
	"github.com/sigstore/sigstore-go": {"bundle"},
	"oras.land":                       {"oci", "referrers"},
	"github.com/alecthomas/kong":      {"cmd/modelsig"},
	// Spans go to the API; where they are sent is for the application to say.
	"go.opentelemetry.io":                {".", "cmd/modelsig"},
	"go.opentelemetry.io/otel/sdk":       {"cmd/modelsig"},
	"go.opentelemetry.io/otel/exporters": {"cmd/modelsig"},
}

// banned are folder names under which code loses its owner.
var banned = []string{"internal", "pkg", "util", "utils", "common", "helper", "helpers", "types"}

func TestPackagesImportOnlyWhatTheDesignAllows(t *testing.T) {
	bad, seen, err := violations(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	if !seen["."] || !seen["manifest"] {
		t.Fatalf("read only the packages %q: is this the root of the module?", slices.Sorted(maps.Keys(seen)))
	}
	for _, b := range bad {
		t.Error(b)
	}
}

func TestViolationsAreFound(t *testing.T) {
	for _, tt := range []struct {
		name, file, source string
		want               string // part of the one complaint; "": none
	}{
		{"an allowed arrow", "verify/v.go", `package verify; import _ "` + module + `/manifest"`, ""},
		{"a test may import what it likes", "verify/v_test.go", `package verify; import _ "net/http"`, ""},
		{"a nested module is not ours to judge", "interop/x/x.go", `package x; func init() {}`, ""},
		{"testdata is not a package", "testdata/gen/main.go", `package main; import _ "net"`, ""},
		{"an arrow that points back", "manifest/m.go", `package manifest; import _ "` + module + `/oci"`, "manifest/m.go imports " + module + "/oci"},
		{"a sideways arrow", "oci/o.go", `package oci; import _ "` + module + `/referrers"`, "oci/o.go imports"},
		{"the root from below", "verify/v.go", `package verify; import _ "` + module + `"`, "verify/v.go imports"},
		{"the network in the verdict", "verify/v.go", `package verify; import _ "net/http"`, "never imports net"},
		{"files in the verdict", "verify/v.go", `package verify; import _ "os"`, "never imports os"},
		{"sigstore-go outside bundle", "verify/v.go", `package verify; import _ "github.com/sigstore/sigstore-go/pkg/verify"`, "github.com/sigstore"},
		{"sigstore-go in the scripts", "e2e/e.go", `package e2e; import _ "github.com/sigstore/sigstore-go/pkg/root"`, "only bundle imports"},
		{"oras-go in the root", "x.go", `package modelsig; import _ "oras.land/oras-go/v2"`, "only oci, referrers import"},
		{"kong in a library", "x.go", `package modelsig; import _ "github.com/alecthomas/kong"`, "kong"},
		{"an exporter in a library", "x.go", `package modelsig; import _ "go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"`, "only cmd/modelsig imports"},
		{"a package nobody decided on", "extra/e.go", `package extra`, "extra is not in the table of packages"},
		{"a folder for everything", "oci/internal/i.go", `package internal`, "oci/internal"},
		{"a folder of helpers", "util/u.go", `package util`, "util"},
		{"an init function", "oci/o.go", `package oci; func init() {}`, "func init"},
		{"a method named init is no init function", "oci/o.go", `package oci; type t int; func (t) init() {}`, ""},
		{"the environment in a library", "referrers/r.go", `package referrers; import "os"; var _ = os.Getenv("X")`, "os.Getenv"},
		{"the environment under another name", "referrers/r.go", `package referrers; import e "os"; func f() []string { return e.Environ() }`, "os.Environ"},
		{"the environment in the command", "cmd/modelsig/m.go", `package main; import "os"; var _ = os.Getenv("X")`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bad, _, err := violations(fstest.MapFS{
				tt.file:          {Data: []byte(tt.source)},
				"interop/go.mod": {Data: []byte("module x")},
			})
			if err != nil {
				t.Fatal(err)
			}
			all := strings.Join(bad, "\n")
			if (tt.want == "") != (all == "") || !strings.Contains(all, tt.want) {
				t.Errorf("got %q, want a complaint with %q", all, tt.want)
			}
		})
	}
}

// violations reads all Go files of the module at root but its tests, and
// returns one complaint for each broken rule, and the packages it saw.
func violations(root fs.FS) (bad []string, seen map[string]bool, err error) {
	seen = map[string]bool{}
	err = fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			base := path.Base(name)
			if _, err := fs.Stat(root, path.Join(name, "go.mod")); err == nil && name != "." {
				return fs.SkipDir // a module of its own
			}
			if base == "testdata" || base != "." && strings.HasPrefix(base, ".") {
				return fs.SkipDir
			}
			if slices.Contains(banned, base) {
				bad = append(bad, fmt.Sprintf("folder %s: a package is one noun; put this beside its only caller", name))
				return fs.SkipDir
			}
			return nil
		case path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		pkg := path.Dir(name)
		l, ok := layers[pkg]
		if !ok {
			if !seen[pkg] {
				bad = append(bad, fmt.Sprintf("package %s is not in the table of packages", pkg))
			}
			seen[pkg] = true
			return nil
		}
		seen[pkg] = true
		source, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		bad = append(bad, wrongImports(name, pkg, l, file)...)
		bad = append(bad, wrongCode(name, l, file)...)
		return nil
	})
	return bad, seen, err
}

func wrongImports(name, pkg string, l layer, file *ast.File) (bad []string) {
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			panic(err) // the parser accepted it
		}
		if below(imported, module) {
			ours := strings.TrimPrefix(strings.TrimPrefix(imported, module), "/")
			if ours == "" {
				ours = "."
			}
			if !slices.Contains(l.ours, ours) {
				bad = append(bad, fmt.Sprintf("%s imports %s: a wrong arrow", name, imported))
			}
		}
		for _, never := range l.never {
			// net/url and os/exec are below net and os: pure or not, the
			// table lists the root.
			if below(imported, never) {
				bad = append(bad, fmt.Sprintf("%s imports %s: %s never imports %s", name, imported, pkg, never))
			}
		}
		for owned, by := range owners {
			if below(imported, owned) && !slices.Contains(by, pkg) {
				verb := "import"
				if len(by) == 1 {
					verb = "imports"
				}
				bad = append(bad, fmt.Sprintf("%s imports %s: only %s %s it", name, imported, strings.Join(by, ", "), verb))
			}
		}
	}
	return bad
}

// wrongCode complains of init functions, and of the environment where it may
// not be read.
func wrongCode(name string, l layer, file *ast.File) (bad []string) {
	osName := ""
	for _, spec := range file.Imports {
		if spec.Path.Value == `"os"` {
			osName = "os"
			if spec.Name != nil {
				osName = spec.Name.Name
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" {
				bad = append(bad, fmt.Sprintf("%s: func init hides what a program does before main", name))
			}
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if !ok || l.env || osName == "" || x.Name != osName {
				return true
			}
			if slices.Contains([]string{"Getenv", "LookupEnv", "Environ", "ExpandEnv"}, n.Sel.Name) {
				bad = append(bad, fmt.Sprintf("%s: os.%s: a library does not read the environment", name, n.Sel.Name))
			}
		}
		return true
	})
	return bad
}

// below reports whether an import path is root or lies below it.
func below(imported, root string) bool {
	return imported == root || strings.HasPrefix(imported, root+"/")
}
