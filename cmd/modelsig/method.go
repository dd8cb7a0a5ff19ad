package main

import (
	"errors"
	"fmt"
	"slices"
)

// laterMethods stands where the method is left out, which means sigstore in
// the OMS tools. It says what is not here yet, instead of acting in another
// way.
type laterMethods struct {
	Targets []string `arg:"" optional:"" name:"target"`
}

func (m laterMethods) Run() error {
	hint := "modelsig sign key TARGET --private-key FILE, modelsig verify key TARGET --public-key FILE"
	if len(m.Targets) > 0 && slices.Contains([]string{"sigstore", "certificate", "policy"}, m.Targets[0]) {
		return &hinted{fmt.Errorf("method %q is not in this version (a target of that name is written ./%s)", m.Targets[0], m.Targets[0]), hint}
	}
	return &hinted{errors.New("no method is named, and keyless signing (sigstore) is not in this version"), hint}
}
