package engine

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/kernel/seccomp/profile"
)

// security are the --security-opt values, understood.
type security struct {
	noNewPrivileges bool
	unconfined      bool   // seccomp=unconfined
	profile         string // seccomp=FILE
	nesting         bool
}

// parseSecurity takes docker's options. What cannot be kept here is refused by name, never passed over.
func parseSecurity(opts []string) (security, error) {
	var s security
	for _, o := range opts {
		key, value, ok := strings.Cut(o, "=")
		if !ok {
			if k, v, colon := strings.Cut(o, ":"); colon { // docker's old form
				key, value = k, v
			}
		}
		switch key {
		case "no-new-privileges":
			switch value {
			case "", "true":
				s.noNewPrivileges = true
			case "false":
				s.noNewPrivileges = false
			default:
				return s, api.Errorf(api.InvalidArgument, "--security-opt %s: true or false is expected", o)
			}
		case "nesting":
			if value != "" && value != "true" && value != "false" {
				return s, api.Errorf(api.InvalidArgument, "--security-opt %s: true or false is expected", o)
			}
			s.nesting = value != "false"
		case "seccomp":
			s.unconfined, s.profile = value == "unconfined", ""
			if value != "unconfined" && value != "builtin" {
				s.profile = value
			}
			if value == "" {
				return s, api.Errorf(api.InvalidArgument, "--security-opt %s: a file, builtin or unconfined is expected", o)
			}
		case "apparmor":
			if value != "unconfined" {
				return s, api.Errorf(api.Unsupported, "--security-opt %s: AppArmor profiles are not supported by this version of Brig", o)
			}
		case "label":
			if value != "disable" {
				return s, api.Errorf(api.Unsupported, "--security-opt %s: SELinux labels are not supported by this version of Brig: use label=disable", o)
			}
		default:
			return s, api.Errorf(api.InvalidArgument, "--security-opt %s: unknown option: use seccomp=, nesting, no-new-privileges, apparmor=unconfined or label=disable", o)
		}
	}
	return s, nil
}

// builtin reports whether the container gets docker's default profile, which the runtime has ready.
func (s security) builtin() bool { return !s.unconfined && s.profile == "" }

// filter is the system call filter from a profile's file for a container with these capabilities; nil for none.
func (s security) filter(capabilities []string) (*specs.LinuxSeccomp, error) {
	if s.profile == "" {
		return nil, nil
	}
	return profile.Load(s.profile, capabilities)
}
