package main

import (
	"fmt"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/bundle"
)

// timestamped has an authority say when signatures were made; url "": nobody.
func timestamped(signer modelsig.Signer, url string) (modelsig.Signer, error) {
	if url == "" {
		return signer, nil
	}
	signer, err := bundle.WithTimestamps(signer, servicesClient(), url)
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
