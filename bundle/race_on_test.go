//go:build race

package bundle_test

// raceDetector: its runtime allocates beside what is measured.
const raceDetector = true
