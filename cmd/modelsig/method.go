package main

import (
	"errors"
	"fmt"
	"slices"
)

// methodsHint is for who left the method out.
const methodsHint = "the method comes first: modelsig sign key TARGET --private-key FILE, modelsig verify key TARGET --public-key FILE"

// signSigstoreCmd is what sign does without a method, as in the OMS tools:
// keyless. It says what is not here yet, instead of acting in another way.
type signSigstoreCmd struct {
	Targets []string `arg:"" optional:"" name:"target"`
}

func (m signSigstoreCmd) Run() error {
	if err := notAMethod(m.Targets); err != nil {
		return err
	}
	return &hinted{errors.New("keyless signing (sigstore, the method where none is named) is not in this version"), methodsHint}
}

// notAMethod refuses a target that somebody meant as a method.
func notAMethod(targets []string) error {
	if len(targets) > 0 && slices.Contains([]string{"policy"}, targets[0]) {
		return &hinted{fmt.Errorf("method %q is not in this version (a target of that name is written ./%s)", targets[0], targets[0]), methodsHint}
	}
	return nil
}
