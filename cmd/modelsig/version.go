package main

import (
	"runtime"
	"runtime/debug"
)

type versionCmd struct{}

func (versionCmd) Run(a *app) error {
	out := &answer{first: "modelsig " + version()}
	out.add("go", "%s", runtime.Version())
	out.add("platform", "%s/%s", runtime.GOOS, runtime.GOARCH)
	var answers answers[versionJSON]
	if err := answers.add(a, out, versionJSON{version(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}, ""); err != nil {
		return err
	}
	return answers.finish(a, "modelsig/version/v1")
}

// versionJSON is schema modelsig/version/v1.
type versionJSON struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// version is the module's version as the build recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
