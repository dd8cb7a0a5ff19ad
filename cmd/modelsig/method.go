package main

import (
	"fmt"
	"slices"
)

// methodsHint is for who left the method out.
const methodsHint = "the method comes first: modelsig sign key TARGET --private-key FILE, modelsig verify key TARGET --public-key FILE"

// notAMethod refuses a target that somebody meant as a method.
func notAMethod(targets []string) error {
	if len(targets) > 0 && slices.Contains([]string{"policy"}, targets[0]) {
		return &hinted{fmt.Errorf("method %q is not in this version (a target of that name is written ./%s)", targets[0], targets[0]), methodsHint}
	}
	return nil
}
