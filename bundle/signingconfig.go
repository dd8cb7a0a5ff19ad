package bundle

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

const (
	// maxSigningConfig is the largest signing config in bytes of JSON. The public one has 2 KiB.
	maxSigningConfig = 1 << 20
	// maxServices is how many transparency logs, and how many timestamp authorities, one signature is shown to. Signing configs want one or two of each.
	maxServices = 8
)

// A SigningConfig says which services of a Sigstore sign: its certificate authority (Fulcio), transparency logs (Rekor), timestamp authorities,
// and the identity provider that people log in with. Make one with [ParseSigningConfig] or [ParseTrustConfig].
type SigningConfig struct {
	config *root.SigningConfig
	wire   *prototrustroot.SigningConfig // of which config is made
}

// ParseSigningConfig reads the JSON of a Sigstore signing config (sigstore_trustroot.proto, media type version 0.2), of at most 1 MiB. Nothing is fetched.
func ParseSigningConfig(json []byte) (*SigningConfig, error) {
	if len(json) > maxSigningConfig {
		return nil, fmt.Errorf("parse signing config: %d bytes are more than the limit of %d", len(json), maxSigningConfig)
	}
	wire, err := root.NewSigningConfigProtobuf(json)
	if err != nil {
		return nil, fmt.Errorf("parse signing config: %s", protoText(err))
	}
	config, err := newSigningConfig(wire)
	if err != nil {
		return nil, fmt.Errorf("parse signing config: %w", err)
	}
	return config, nil
}

// newSigningConfig wants the members that say how many services of a kind sign: sigstore-go takes them for granted.
func newSigningConfig(wire *prototrustroot.SigningConfig) (*SigningConfig, error) {
	switch {
	case len(wire.GetRekorTlogUrls()) > 0 && wire.GetRekorTlogConfig() == nil:
		return nil, errors.New("it has rekorTlogUrls without rekorTlogConfig")
	case len(wire.GetTsaUrls()) > 0 && wire.GetTsaConfig() == nil:
		return nil, errors.New("it has tsaUrls without tsaConfig")
	}
	config, err := root.NewSigningConfigFromProtobuf(wire)
	if err != nil {
		return nil, errors.New(quote(err.Error()))
	}
	return &SigningConfig{config, wire}, nil
}

// WithTimestampAuthority is c with the timestamp authority at url in place of its own.
func (c *SigningConfig) WithTimestampAuthority(url string) (*SigningConfig, error) {
	if _, err := parseEndpoint(url); err != nil {
		return nil, err
	}
	wire := proto.CloneOf(c.wire)
	wire.TsaUrls = []*prototrustroot.Service{{Url: url, MajorApiVersion: sign.TimestampAuthorityAPIVersions[0]}}
	wire.TsaConfig = &prototrustroot.ServiceConfiguration{Selector: prototrustroot.ServiceSelector_ANY}
	return newSigningConfig(wire)
}

// clientTrustConfig is the one media type of ClientTrustConfig that there is.
const clientTrustConfig = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"

// ParseTrustConfig reads a Sigstore ClientTrustConfig (sigstore_trustroot.proto): a trusted root and the signing config that goes with it, in one file
// of at most 2 MiB of JSON. The second may be missing, for who only verifies: then the config is nil. Nothing is fetched.
func ParseTrustConfig(json []byte) (*TrustedRoot, *SigningConfig, error) {
	fail := func(err error) (*TrustedRoot, *SigningConfig, error) {
		return nil, nil, fmt.Errorf("parse trust config: %w", err)
	}
	if limit := maxTrustedRoot + maxSigningConfig; len(json) > limit {
		return fail(fmt.Errorf("%d bytes are more than the limit of %d", len(json), limit))
	}
	var both prototrustroot.ClientTrustConfig
	if err := protojson.Unmarshal(json, &both); err != nil {
		return fail(errors.New(protoText(err)))
	}
	if both.MediaType != clientTrustConfig {
		return fail(fmt.Errorf("its media type is %s, not %s", quote(both.MediaType), clientTrustConfig))
	}
	if both.TrustedRoot == nil {
		return fail(errors.New("it has no trusted root"))
	}
	trusted, err := newTrustedRoot(both.TrustedRoot)
	if err != nil || both.SigningConfig == nil {
		return trusted, nil, err
	}
	config, err := newSigningConfig(both.SigningConfig)
	if err != nil {
		return fail(fmt.Errorf("signing config: %w", err))
	}
	return trusted, config, nil
}

// Issuer is the URL of the identity provider that people log in with now.
func (c *SigningConfig) Issuer() (string, error) {
	service, err := root.SelectService(c.config.OIDCProviderURLs(), []uint32{1}, time.Now())
	if err != nil {
		return "", errors.New("the signing config names no identity provider that can be used now")
	}
	return service.URL, nil
}

// services are those that sign now.
type services struct {
	fulcio string
	logs   []root.Service
	tsas   []string
}

// services picks them as the config says. What it picks must be able to prove a time: a log by Rekor v2 proves none.
func (c *SigningConfig) services(now time.Time) (*services, error) {
	fulcio, err := root.SelectService(c.config.FulcioCertificateAuthorityURLs(), sign.FulcioAPIVersions, now)
	if err != nil {
		return nil, errors.New("the signing config names no certificate authority that can be used now")
	}
	s := &services{fulcio: fulcio.URL}
	if len(c.config.RekorLogURLs()) == 0 { // then how many sign need not be there, and sigstore-go reads it
		return nil, errors.New("the signing config names no transparency log")
	}
	if s.logs, err = root.SelectServices(c.config.RekorLogURLs(), c.config.RekorLogURLsConfig(), sign.RekorAPIVersions, now); err != nil {
		return nil, fmt.Errorf("the signing config names no transparency log that can be used now: %s", quote(err.Error()))
	}
	timed := s.logs[0].MajorAPIVersion == 1
	if len(c.config.TimestampAuthorityURLs()) > 0 {
		tsas, err := root.SelectServices(c.config.TimestampAuthorityURLs(), c.config.TimestampAuthorityURLsConfig(), sign.TimestampAuthorityAPIVersions, now)
		if err != nil {
			return nil, fmt.Errorf("the signing config names no timestamp authority that can be used now: %s", quote(err.Error()))
		}
		for _, tsa := range tsas {
			s.tsas = append(s.tsas, tsa.URL)
		}
	}
	switch {
	case !timed && len(s.tsas) == 0:
		return nil, errors.New("the signing config names a log by Rekor v2 and no timestamp authority: nobody would prove when a signature was made")
	case len(s.logs) > maxServices || len(s.tsas) > maxServices:
		return nil, fmt.Errorf("the signing config wants more than %d logs or timestamp authorities", maxServices)
	}
	for _, log := range s.logs {
		if err := checkService(log.URL); err != nil {
			return nil, err
		}
	}
	for _, address := range append([]string{s.fulcio}, s.tsas...) {
		if err := checkService(address); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func checkService(address string) error {
	u, err := url.Parse(address)
	if err == nil && u.User != nil {
		return errors.New("the signing config names a service with a user or password in its address") // not repeated
	}
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("the signing config names a service at %s, which is no http or https URL", quote(address))
	}
	return nil
}
