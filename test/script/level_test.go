package script

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// notChroot are the stories that level chroot cannot tell, and why. Those that use no network where they might as well have the host's are told with that.
var notChroot = map[string]string{
	"chroot":          "it is about namespaces in a chroot",
	"flags-run":       "it sets a domain name",
	"hostname":        "it sets host names",
	"inspect":         "it publishes ports",
	"isolation":       "it chooses levels itself",
	"namespaces":      "it is about namespaces",
	"nesting":         "it needs a user namespace",
	"network-bridge":  "it has no network of its own",
	"network-connect": "it has no network of its own",
	"network-host":    "it has no network of its own",
	"network-none":    "it has no network of its own",
	"network-own":     "it has no network of its own",
	"network-verbs":   "it has no network of its own",
	"parallel":        "it counts addresses",
	"pick":            "it publishes ports",
	"pods":            "a pod shares namespaces",
	"pods-limits":     "a pod shares namespaces",
	"ports-random":    "it publishes ports",
	"ports-tcp":       "it publishes ports",
	"ports-udp":       "it publishes ports",
	"ps":              "it publishes ports",
	"refusals":        "it refuses networks by other words",
	"restart":         "it publishes ports",
	"run-more":        "it sets sysctls",
	"seccomp":         "the kernel makes no user namespace in a chroot, with a filter or without",
	"share":           "it shares namespaces",
	"stats":           "it publishes ports",
	"systemd":         "systemd needs a PID namespace",
	"userns":          "it needs a user namespace",
	"userns-rootless": "it needs a user namespace",
}

// TestChrootStories runs every story with containers of level chroot.
func TestChrootStories(t *testing.T) {
	needRoot(t)
	var files []string
	dir := t.TempDir()
	for _, f := range stories(t, notChroot) {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		told := strings.NewReplacer("--network none", "--network host", "--net none", "--net host").Replace(string(text))
		to := filepath.Join(dir, filepath.Base(f))
		if err := os.WriteFile(to, []byte(told), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, to)
	}
	tell(t, files, "chroot")
}

// notGVisor are the stories that level gvisor cannot tell, and why.
var notGVisor = map[string]string{}

// TestGVisorStories runs every story with containers of level gvisor.
func TestGVisorStories(t *testing.T) {
	needRoot(t)
	if _, err := os.Stat(filepath.Join(os.Getenv(binEnv), "brig-sentry")); err != nil {
		t.Skip("brig-sentry is not built: make build")
	}
	tell(t, stories(t, notGVisor), "gvisor")
}
