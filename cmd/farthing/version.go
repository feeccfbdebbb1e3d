package main

import (
	"runtime"
	"runtime/debug"
)

type versionCmd struct{}

func (c *versionCmd) Run(r *run) error {
	version, revision := "development", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if v := info.Main.Version; v != "" && v != "(devel)" {
			version = v
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	return r.emit(map[string]string{"version": version, "revision": revision, "go": runtime.Version()},
		"farthing %s %s %s %s/%s\n", version, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
