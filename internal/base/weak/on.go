//go:build brig_weaken

package weak

import (
	"os"
	"slices"
	"strings"
)

// What each is about: off.go.
var (
	Links       = has("links")
	Places      = has("places")
	Mask        = has("mask")
	Procfs      = has("procfs")
	Crossing    = has("crossing")
	FDs         = has("fds")
	Cwd         = has("cwd")
	Dumpable    = has("dumpable")
	Exe         = has("exe")
	Inheritable = has("inheritable")
	Sysctl      = has("sysctl")
	IDs         = has("ids")
	Modes       = has("modes")
	Abstract    = has("abstract")
	Ps          = has("ps")
	CopyUp      = has("copyup")
	Copy        = has("copy")
	Passwd      = has("passwd")
	Size        = has("size")
	Buffer      = has("buffer")
	Devices     = has("devices")
	Seccomp     = has("seccomp")
	Unpack      = has("unpack")
	Ambiguous   = has("ambiguous")
	Digests     = has("digests")
	Bombs       = has("bombs")
	Cgroup      = has("cgroup")
)

func has(name string) bool {
	return slices.Contains(strings.Split(os.Getenv("BRIG_WEAKEN")+","+built, ","), name)
}

// built is what a program goes without in whatever environment: go build -ldflags "-X brig/internal/base/weak.built=NAME,NAME".
var built string
