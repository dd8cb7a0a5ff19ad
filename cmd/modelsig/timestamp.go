package main

import (
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/bundle"
)

// Waits for a timestamp authority, as for registries.
const (
	tsaConnect = 10 * time.Second
	tsaHeaders = 30 * time.Second
	tsaAnswer  = 60 * time.Second // all of it: some KiB
)

// timestamped has an authority say when signatures were made; url "": nobody.
func timestamped(signer modelsig.Signer, url string) (modelsig.Signer, error) {
	if url == "" {
		return signer, nil
	}
	client := &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: tsaConnect}).DialContext,
			TLSHandshakeTimeout:   tsaConnect,
			ResponseHeaderTimeout: tsaHeaders,
			ForceAttemptHTTP2:     true,
		},
		// An authority is where its user said it is.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       tsaAnswer,
	}
	signer, err := bundle.WithTimestamps(signer, client, url)
	if err != nil {
		return nil, fmt.Errorf("--tsa-url: %w", err)
	}
	return signer, nil
}

// timestampFlags say whom a verifier believes about time.
type timestampFlags struct {
	TSACertificateChain []string `name:"tsa-certificate-chain" aliases:"timestamp-certificate-chain" sep:"none" placeholder:"FILE" help:"Certificates of timestamp authorities to trust, in PEM; may be repeated. Without: no time is proved, and certificates must be valid now."`
}

func (f timestampFlags) authorities() ([][]byte, error) {
	chain, err := readChain(f.TSACertificateChain)
	if err != nil {
		return nil, fmt.Errorf("timestamp certificate chain: %w", err)
	}
	return chain, nil
}
