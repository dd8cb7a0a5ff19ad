package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/modelsig/modelsig/oci"
)

// readManifest reads a manifest file, or standard input for -.
func (a *app) readManifest(path string) ([]byte, error) {
	in := a.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, oci.MaxManifest+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read manifest %s: %w", path, err)
	case len(data) > oci.MaxManifest:
		return nil, fmt.Errorf("read manifest %s: more than %d bytes", path, oci.MaxManifest)
	case len(data) == 0:
		return nil, fmt.Errorf("read manifest %s: %w", path, errors.New("it is empty"))
	}
	return data, nil
}
