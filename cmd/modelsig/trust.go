package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/modelsig/modelsig/bundle"
)

// trustFlags say which Sigstore is believed. Without any it is the public one.
type trustFlags struct {
	UseStaging  bool  `help:"The public Sigstore for tests, instead of the public one." group:"Sigstore"`
	TrustConfig given `placeholder:"FILE" help:"Trusted root, and signing config, of a Sigstore (ClientTrustConfig, JSON). Nothing is fetched." group:"Sigstore"`
	TrustedRoot given `placeholder:"FILE" help:"Trusted root of a Sigstore, in JSON. Nothing is fetched." group:"Sigstore"`
}

// A given is the value of a flag that is not there or not empty. With an empty
// one, as an unset variable makes it, what was meant for a private Sigstore would
// go to the public one.
type given string

// UnmarshalText is called for the flags that are there.
func (g *given) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New("it is empty")
	}
	*g = given(text)
	return nil
}

// signTrustFlags say which Sigstore signs.
type signTrustFlags struct {
	trustFlags
	SigningConfig given `placeholder:"FILE" help:"With --trusted-root: the services that sign, in JSON." group:"Sigstore"`
}

const (
	// maxTrustedRoot and maxSigningConfig bound files, in bytes: the public ones
	// have 7 KiB and 2 KiB. A trust config has both.
	maxTrustedRoot   = 1 << 20
	maxSigningConfig = 1 << 20

	// trustAge is how long what the public Sigstore published is used without
	// asking again. Its keys change some times a year, and are announced before.
	trustAge = 24 * time.Hour
)

// check refuses two sources of trust: one of them is meant.
func (f trustFlags) check() error {
	var sources []string
	for _, flag := range []struct {
		name  string
		given bool
	}{{"--trust-config", f.TrustConfig != ""}, {"--trusted-root", f.TrustedRoot != ""}, {"--use-staging", f.UseStaging}} {
		if flag.given {
			sources = append(sources, flag.name)
		}
	}
	if len(sources) > 1 {
		return fmt.Errorf("%s: each says whom to trust, and one of them is meant", strings.Join(sources, " and "))
	}
	return nil
}

// check also wants a root and services of one Sigstore: what was meant for a
// private one must not reach a public log.
func (f signTrustFlags) check() error {
	if err := f.trustFlags.check(); err != nil {
		return err
	}
	switch {
	case f.TrustedRoot != "" && f.SigningConfig == "":
		return &hinted{
			errors.New("--trusted-root without --signing-config: where to sign is not said, and what a public log takes cannot be taken back"),
			"--signing-config FILE names the services that go with the root; --trust-config FILE has both",
		}
	case f.SigningConfig != "" && f.TrustedRoot == "":
		return errors.New("--signing-config needs --trusted-root: what its services make is checked against their root")
	}
	return nil
}

// trustedRoot is the root to verify with. It touches the network only for the
// public Sigstore.
func (a *app) trustedRoot(ctx context.Context, f trustFlags) (*bundle.TrustedRoot, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	switch {
	case f.TrustedRoot != "":
		return readTrustedRoot(f.TrustedRoot)
	case f.TrustConfig != "":
		root, _, err := readTrustConfig(f.TrustConfig)
		return root, err
	}
	root, err := bundle.FetchTrustedRoot(ctx, servicesClient(), f.repository(), tufOptions())
	return root, offline(err)
}

// signTrust is what to sign with, and to check it against.
func (a *app) signTrust(ctx context.Context, f signTrustFlags) (*bundle.TrustedRoot, *bundle.SigningConfig, error) {
	if err := f.check(); err != nil {
		return nil, nil, err
	}
	switch {
	case f.TrustedRoot != "":
		root, err := readTrustedRoot(f.TrustedRoot)
		if err != nil {
			return nil, nil, err
		}
		data, err := readSmall(string(f.SigningConfig), maxSigningConfig)
		if err != nil {
			return nil, nil, fmt.Errorf("signing config: %w", err)
		}
		config, err := bundle.ParseSigningConfig(data)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", f.SigningConfig, err)
		}
		return root, config, nil
	case f.TrustConfig != "":
		root, config, err := readTrustConfig(f.TrustConfig)
		if err == nil && config == nil {
			err = fmt.Errorf("%s: it has no signing config: it is for verifying", f.TrustConfig)
		}
		return root, config, err
	}
	root, config, err := bundle.FetchTrust(ctx, servicesClient(), f.repository(), tufOptions())
	return root, config, offline(err)
}

func readTrustedRoot(name given) (*bundle.TrustedRoot, error) {
	data, err := readSmall(string(name), maxTrustedRoot)
	if err != nil {
		return nil, fmt.Errorf("trusted root: %w", err)
	}
	root, err := bundle.ParseTrustedRoot(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return root, nil
}

func readTrustConfig(name given) (*bundle.TrustedRoot, *bundle.SigningConfig, error) {
	data, err := readSmall(string(name), maxTrustedRoot+maxSigningConfig)
	if err != nil {
		return nil, nil, fmt.Errorf("trust config: %w", err)
	}
	root, config, err := bundle.ParseTrustConfig(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return root, config, nil
}

// repository is where the public Sigstore publishes.
func (f trustFlags) repository() bundle.TUFRepository {
	if f.UseStaging {
		return bundle.Staging()
	}
	return bundle.PublicGood()
}

// tufOptions keep what was fetched where other clients of Sigstore keep it, so
// that one of them asks for all. Without a home nothing is kept.
func tufOptions() bundle.TUFOptions {
	o := bundle.TUFOptions{MaxAge: trustAge}
	if home, err := os.UserHomeDir(); err == nil && filepath.IsAbs(home) {
		o.Cache = filepath.Join(home, ".sigstore", "root")
	}
	return o
}

// offline says what to do where the public Sigstore cannot be asked.
func offline(err error) error {
	if errors.Is(err, bundle.ErrTrustUnreachable) {
		return &hinted{err, "--trusted-root FILE needs no network to say whom to trust"}
	}
	return err
}
