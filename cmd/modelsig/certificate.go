package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/bundle"
)

type signCertificateCmd struct {
	certificateFlags
	Targets []string `arg:"" optional:"" name:"target" help:"REPO:TAG, REPO@DIGEST, oci:PATH:TAG, a folder, a file, a manifest, or - for a manifest on standard input."`
}

// certificateFlags are a private key and its certificate.
type certificateFlags struct {
	keyFlags
	SigningCertificate string   `placeholder:"FILE" help:"Certificate of the private key, in PEM."`
	CertificateChain   []string `sep:"none" placeholder:"FILE" help:"Certificates that issued it, in PEM; may be repeated. Roots are left out of the bundle."`
}

func (cmd *signCertificateCmd) Run(ctx context.Context, a *app, c *cli) error {
	return c.Sign.run(ctx, a, cmd.Targets, func() (modelsig.Signer, error) {
		signer, err := a.certificateSigner(ctx, cmd.certificateFlags)
		if err != nil {
			return nil, err
		}
		return timestamped(signer, string(c.Sign.TSAURL))
	})
}

// certificateSigner makes a signer of the private key and its certificate.
func (a *app) certificateSigner(ctx context.Context, f certificateFlags) (modelsig.Signer, error) {
	if f.SigningCertificate == "" {
		return nil, errors.New("no --signing-certificate: a key alone signs by method key")
	}
	leaf, err := readCertificates(f.SigningCertificate)
	if err != nil {
		return nil, fmt.Errorf("signing certificate: %w", err)
	}
	chain, err := readChain(f.CertificateChain)
	if err != nil {
		return nil, fmt.Errorf("certificate chain: %w", err)
	}
	key, err := a.privateKey(ctx, f.keyFlags)
	if err != nil {
		return nil, err
	}
	return modelsig.NewCertificateSigner(key, leaf, chain...)
}

type verifyCertificateCmd struct {
	certificatePolicyFlags
	Targets []string `arg:"" optional:"" name:"target" help:"REPO:TAG, REPO@DIGEST, oci:PATH:TAG, a folder, a file, a manifest, or - for a manifest on standard input."`
}

// certificatePolicyFlags name certificates to believe.
type certificatePolicyFlags struct {
	CertificateChain []string `sep:"none" placeholder:"FILE" help:"Root certificates to trust, and those between, in PEM; may be repeated. Required."`
	Identity         string   `aliases:"certificate-identity" placeholder:"NAME" help:"Subject alternative name that the certificate must have: a URI, an e-mail address or a DNS name, exactly."`
	timestampFlags
	LogFingerprints bool `help:"Log the SHA-256 of each certificate that is trusted."`
}

func (cmd *verifyCertificateCmd) Run(ctx context.Context, a *app, c *cli) error {
	return c.Verify.run(ctx, a, cmd.Targets, func() (modelsig.Policy, error) { return cmd.policy(ctx, a) })
}

func (f *certificatePolicyFlags) policy(ctx context.Context, a *app) (modelsig.Policy, error) {
	if len(f.CertificateChain) == 0 {
		return modelsig.Policy{}, errors.New("no --certificate-chain: nobody is trusted")
	}
	chain, err := readChain(f.CertificateChain)
	if err != nil {
		return modelsig.Policy{}, fmt.Errorf("certificate chain: %w", err)
	}
	authorities, err := f.authorities()
	if err != nil {
		return modelsig.Policy{}, err
	}
	if f.LogFingerprints {
		a.logFingerprints(ctx, chain)
	}
	return modelsig.CertificatePolicy(chain, modelsig.CertificateOptions{Identity: f.Identity, TimestampChain: authorities})
}

// logFingerprints tells which certificates are trusted, whatever the level: it
// was asked for.
func (a *app) logFingerprints(ctx context.Context, chain [][]byte) {
	for _, data := range chain {
		certs, err := bundle.ParseCertificates(data)
		if err != nil {
			return // was parsed before
		}
		for _, cert := range certs {
			a.logger.WarnContext(ctx, "trusted certificate", "sha256", fmt.Sprintf("%x", sha256.Sum256(cert.Raw)), "subject", cert.Subject.String())
		}
	}
}

// readChain reads files of certificates.
func readChain(files []string) ([][]byte, error) {
	var all [][]byte
	for _, name := range files {
		data, err := readCertificates(name)
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

// readCertificates reads a file of certificates. It is parsed here, so that an
// error names the file.
func readCertificates(name string) ([]byte, error) {
	data, err := readSmall(name, maxCertificateFile)
	if err != nil {
		return nil, err
	}
	if _, err := bundle.ParseCertificates(data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}

// maxCertificateFile bounds files of certificates, in bytes: all web roots
// together have 230 KiB.
const maxCertificateFile = 1 << 20
