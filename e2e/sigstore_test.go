//go:build unix

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/modelsig/modelsig/e2e/fakesigstore"
	"github.com/rogpeppe/go-internal/testscript"
)

// sigstores are a script's own, by name, with the one identity provider whose
// tokens they take.
type sigstores struct {
	issuer *fakesigstore.Issuer
	named  map[string]*namedSigstore
}

type namedSigstore struct {
	*fakesigstore.Sigstore
	servers *fakesigstore.Servers
}

type sigstoresKey struct{}

func sigstoresOf(ts *testscript.TestScript) *sigstores {
	s := ts.Value(sigstoresKey{}).(*sigstores)
	if s.issuer == nil {
		s.issuer = fakesigstore.NewIssuer(scriptTB{ts: ts})
		ts.Setenv("ISSUER", s.issuer.URL)
	}
	return s
}

func (s *sigstores) get(name string) (*namedSigstore, error) {
	if found, ok := s.named[name]; ok {
		return found, nil
	}
	return nil, fmt.Errorf("there is no Sigstore %q", name)
}

// scriptTB is a script to those who want a test. It has what they use of one.
type scriptTB struct {
	testing.TB
	ts *testscript.TestScript
}

func (t scriptTB) Helper()                           {}
func (t scriptTB) Cleanup(f func())                  { t.ts.Defer(f) }
func (t scriptTB) Fatal(args ...any)                 { t.ts.Fatalf("%s", fmt.Sprint(args...)) }
func (t scriptTB) Fatalf(format string, args ...any) { t.ts.Fatalf(format, args...) }

// openSigstore starts a Sigstore for the rest of the script. Its files lie in
// the folder NAME.
func openSigstore(_ context.Context, ts *testscript.TestScript, args []string) error {
	all := sigstoresOf(ts)
	s := fakesigstore.New(scriptTB{ts: ts})
	for _, option := range args[1:] {
		switch option {
		case "rekor-v1":
			s.RekorV1 = true
		case "no-ct":
			s.NoCT = true
		default:
			return fmt.Errorf("%q is no kind of Sigstore", option)
		}
	}
	servers := s.Serve(all.issuer)
	all.named[args[0]] = &namedSigstore{s, servers}
	ts.Setenv(args[0]+"_TSA", servers.TSA)
	dir := ts.MkAbs(args[0])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"trusted_root.json":   s.TrustedRoot(nil),
		"signing_config.json": servers.SigningConfig(nil),
		"trust_config.json":   servers.TrustConfig(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// identityToken writes an identity token: of a person, if an address is named,
// and with these claims. exp and nbf are as far from now as they say.
func identityToken(_ context.Context, ts *testscript.TestScript, args []string) error {
	claims := map[string]any{}
	for _, arg := range args[1:] {
		name, value, ok := strings.Cut(arg, "=")
		switch {
		case !ok:
			claims["sub"], claims["email"], claims["email_verified"] = arg, arg, true
		case name == "exp" || name == "nbf":
			after, err := time.ParseDuration(value)
			if err != nil {
				return err
			}
			claims[name] = time.Now().Add(after).Unix()
		case value == "true" || value == "false":
			claims[name] = value == "true"
		default:
			claims[name] = value
		}
	}
	token := sigstoresOf(ts).issuer.Token(claims)
	ts.Setenv("TOKEN", token)
	return os.WriteFile(ts.MkAbs(args[0]), []byte(token+"\n"), 0o600)
}

// breakSigstore lets a service answer in another way from now on.
func breakSigstore(_ context.Context, ts *testscript.TestScript, args []string) error {
	all := sigstoresOf(ts)
	s, err := all.get(args[0])
	if err != nil {
		return err
	}
	services := args[1:2]
	if args[1] == "all" {
		services = []string{fakesigstore.Fulcio, fakesigstore.Rekor, fakesigstore.TSA}
	}
	for _, service := range services {
		var with func(http.Handler) http.Handler
		switch how := args[2]; how {
		case "fix": // nil
		case "drop":
			with = fakesigstore.Drop
		case "hang":
			with = fakesigstore.Hang
		case "truncate":
			with = fakesigstore.Truncate
		case "replay":
			with = fakesigstore.Replay
		case "no-sct":
			plain := *s.Sigstore
			plain.NoSCT = true
			with = plain.As(service, all.issuer)
		default:
			if other, ok := all.named[how]; ok { // that answers in its place
				with = other.As(service, all.issuer)
				break
			}
			code, err := strconv.Atoi(how)
			if err != nil || code < 400 || code > 599 {
				return fmt.Errorf("%q is no way to break", how)
			}
			with = fakesigstore.Status(code)
		}
		s.servers.Break(service, with)
	}
	return nil
}

// sigstoreRequests prints how often each service was asked.
func sigstoreRequests(_ context.Context, ts *testscript.TestScript, args []string) error {
	s, err := sigstoresOf(ts).get(args[0])
	if err != nil {
		return err
	}
	for _, service := range []string{fakesigstore.Fulcio, fakesigstore.Rekor, fakesigstore.TSA} {
		if _, err := fmt.Fprintln(ts.Stdout(), service, s.servers.Requests(service)); err != nil {
			return err
		}
	}
	return nil
}
