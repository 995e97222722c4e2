package oci

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"brig/api"
)

// specVersion is the version of the runtime specification that is implemented.
const specVersion = "1.3.0"

// globals are the flags before the verb.
type globals struct {
	root           string
	log, logFormat string
	logFile        *os.File // nil: not opened yet
	criu           string
	systemd        bool
	rootless       string
	debug          bool
}

func globalFlags() []flag {
	return []flag{
		{"root", "", isString, "folder of the containers' state (default /run/brig-oci, or $XDG_RUNTIME_DIR/brig-oci without root)"},
		{"log", "", isString, "also append errors to this file"},
		{"log-format", "", isString, "text (default) or json"},
		{"debug", "", isBool, "log what is done as well"},
		{"criu", "", isString, "program for checkpoint and restore (default criu)"},
		{"systemd-cgroup", "", isBool, "let systemd make the cgroup; linux.cgroupsPath is SLICE:PREFIX:NAME then"},
		{"rootless", "", isString, "go without a cgroup where none may be made: true, false or auto (default)"},
		{"version", "v", isBool, "print the version"},
		{"help", "h", isBool, "show this help"},
	}
}

func newGlobals(v values) globals {
	g := globals{root: v.str("root"), log: v.str("log"), logFormat: v.str("log-format"), criu: v.str("criu"), systemd: v.on("systemd-cgroup"), rootless: v.str("rootless"), debug: v.on("debug")}
	if g.root == "" {
		g.root = defaultRoot()
	}
	if abs, err := filepath.Abs(g.root); err == nil {
		g.root = abs
	}
	if g.criu == "" {
		g.criu = "criu"
	}
	return g
}

func defaultRoot() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && os.Geteuid() != 0 {
		return filepath.Join(dir, "brig-oci")
	}
	return "/run/brig-oci"
}

func (g *globals) check() error {
	switch g.logFormat {
	case "", "text", "json":
	default:
		return api.Errorf(api.InvalidArgument, "flag --log-format: %q is neither text nor json", g.logFormat)
	}
	if _, err := strconv.ParseBool(g.rootless); err != nil && g.rootless != "" && g.rootless != "auto" {
		return api.Errorf(api.InvalidArgument, "flag --rootless: %q is not true, false or auto", g.rootless)
	}
	return nil
}

// checkID allows what runc allows as a container's name: letters, digits, and _ + . - (it becomes the name of a folder).
func checkID(id string) error {
	ok := id != "" && id != "." && id != ".." && len(id) <= 255
	for _, r := range id {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_+.-", r))
	}
	if !ok {
		return api.Errorf(api.InvalidArgument, "%q is not a valid container ID: letters, digits and _ + . - make one", id)
	}
	return nil
}
