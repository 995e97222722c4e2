package profile

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
)

// file is a profile in docker's format (https://docs.docker.com/engine/security/seccomp): the OCI section, with conditions in its list, and
// with architectures by a map beside the plain list.
type file struct {
	specs.LinuxSeccomp
	ArchMap []struct {
		Architecture     specs.Arch   `json:"architecture"`
		SubArchitectures []specs.Arch `json:"subArchitectures"`
	} `json:"archMap"`
	Syscalls []rule `json:"syscalls"`
}

// maxFile bounds a profile: docker's own has 18 kB.
const maxFile = 4 << 20

// Load reads the profile that --security-opt seccomp=PATH names, for a container with these capabilities.
func Load(path string, capabilities []string) (*specs.LinuxSeccomp, error) {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, api.Errorf(api.NotFound, "seccomp profile %s does not exist: --security-opt seccomp= takes a file, unconfined or builtin", path)
	case err != nil:
		return nil, api.Errorf(api.InvalidArgument, "seccomp profile: %w", err)
	case !st.Mode().IsRegular() || st.Size() > maxFile:
		return nil, api.Errorf(api.InvalidArgument, "seccomp profile %s: not a regular file of at most %d bytes", path, maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, api.Errorf(api.InvalidArgument, "seccomp profile: %w", err)
	}
	p, err := Parse(data, capabilities)
	if err != nil {
		return nil, api.Errorf(api.KindOf(err), "seccomp profile %s: %w", path, err)
	}
	return p, nil
}

// Parse is Load for a profile that was read already. A profile that says nothing at all is nil: no filter.
func Parse(data []byte, capabilities []string) (*specs.LinuxSeccomp, error) {
	return parse(data, &host{runtime.GOARCH, kernel(), capabilities})
}

func parse(data []byte, h *host) (*specs.LinuxSeccomp, error) {
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, api.Errorf(api.InvalidArgument, "not docker's JSON format: %w", err)
	}
	if f.DefaultAction == "" {
		if len(f.Syscalls) == 0 {
			return nil, nil
		}
		return nil, api.Errorf(api.InvalidArgument, "defaultAction is missing: SCMP_ACT_ERRNO refuses what is not listed")
	}
	if len(f.Architectures) > 0 && len(f.ArchMap) > 0 {
		return nil, api.Errorf(api.InvalidArgument, "architectures and archMap exclude each other")
	}
	p := f.LinuxSeccomp
	if own := relatives(h.arch); len(own) > 0 {
		for _, m := range f.ArchMap {
			if m.Architecture == own[0] {
				p.Architectures = append([]specs.Arch{m.Architecture}, m.SubArchitectures...)
				break
			}
		}
	}
	p.Syscalls = nil
	for i := range f.Syscalls {
		r := &f.Syscalls[i]
		if r.Name != "" {
			if len(r.Names) > 0 {
				return nil, api.Errorf(api.InvalidArgument, "rule %d: name and names exclude each other", i)
			}
			r.Names = []string{r.Name}
		}
		if r.counts(h) {
			p.Syscalls = append(p.Syscalls, r.LinuxSyscall)
		}
	}
	return &p, nil
}

// UnmarshalJSON reads "4.8".
func (v *version) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if s == "" {
		return nil
	}
	read, ok := parseVersion(s)
	if !ok || s != read.String() || read == (version{}) {
		return api.Errorf(api.InvalidArgument, "kernel version %q: it is two numbers, such as 4.8", s)
	}
	*v = read
	return nil
}
