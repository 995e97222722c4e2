// Package profile gives the seccomp profile of a container: docker's default, or a file in docker's format.
//
// Such a profile has conditions, on capabilities, architecture and kernel, that are decided here; what comes out is the plain section of
// an OCI config, for package seccomp. The default profile is data of the program, generated from moby's, so that nothing is parsed at
// run time. Since the same few selections of its rules serve nearly all containers, their programs are compiled ahead of time too:
// DefaultFilter then has no work to do.
package profile

import (
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/internal/kernel/seccomp"
)

//go:generate go run ./internal/gendefault
//go:generate go test -run TestPrecompiled -update

// rule is an entry of a profile with the conditions on which it counts.
type rule struct {
	specs.LinuxSyscall
	Name     string    `json:"name"` // instead of Names, in old files
	Includes condition `json:"includes"`
	Excludes condition `json:"excludes"`
}

// condition asks for all of Caps (as Excludes: any of them), one of Arches, and a kernel as new as MinKernel.
type condition struct {
	Caps      []string `json:"caps"`
	Arches    []string `json:"arches"` // as libseccomp names them: amd64, x86, arm64, …
	MinKernel version  `json:"minKernel"`
}

// version is a kernel's, such as 4.8; the zero value asks for nothing.
type version struct{ major, minor int }

func (v version) atLeast(min version) bool {
	return v.major > min.major || v.major == min.major && v.minor >= min.minor
}

// host is what conditions are held against.
type host struct {
	arch   string // Go's name, which for the architectures that have a filter here is the profiles' too
	kernel version
	caps   []string // the container's bounding set, with CAP_
}

// counts reports whether the rule counts on h.
func (r *rule) counts(h *host) bool {
	ex, in := &r.Excludes, &r.Includes
	if slices.Contains(ex.Arches, h.arch) || ex.MinKernel != (version{}) && h.kernel.atLeast(ex.MinKernel) {
		return false
	}
	for _, c := range ex.Caps {
		if slices.Contains(h.caps, c) {
			return false
		}
	}
	if len(in.Arches) > 0 && !slices.Contains(in.Arches, h.arch) || !h.kernel.atLeast(in.MinKernel) {
		return false
	}
	for _, c := range in.Caps {
		if !slices.Contains(h.caps, c) {
			return false
		}
	}
	return true
}

// kernel is the running kernel's version.
func kernel() version {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return version{}
	}
	v, _ := parseVersion(unix.ByteSliceToString(u.Release[:]))
	return v
}

// parseVersion reads the first two numbers of 6.18.44-fc or 4.8.
func parseVersion(s string) (version, bool) {
	major, rest, ok := strings.Cut(s, ".")
	end := 0
	for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
		end++
	}
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(rest[:end])
	return version{a, b}, ok && err1 == nil && err2 == nil && a >= 0
}

// The parts of the default profile that are not in its list.
var (
	eperm  uint = uint(unix.EPERM)
	enosys uint = uint(unix.ENOSYS)
)

// relatives are the architectures that an architecture's kernel runs too (the profile's archMap).
func relatives(goarch string) []specs.Arch {
	switch goarch {
	case "amd64":
		return []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	case "arm64":
		return []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
	}
	return nil
}

// Default is docker's default profile for a container with these capabilities (its bounding set, as in the OCI config), on this machine.
// Its parts are shared and not to be changed.
func Default(capabilities []string) *specs.LinuxSeccomp {
	return defaultFor(&host{runtime.GOARCH, kernel(), capabilities})
}

func defaultFor(h *host) *specs.LinuxSeccomp {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &eperm, Architectures: relatives(h.arch)}
	p.Syscalls = make([]specs.LinuxSyscall, 0, len(defaultRules))
	for i := range defaultRules {
		if r := &defaultRules[i]; r.counts(h) {
			p.Syscalls = append(p.Syscalls, r.LinuxSyscall)
		}
	}
	return p
}

// selection has a bit for each rule that depends on more than the architecture, set where it counts. Equal selections on an architecture
// are equal profiles.
func selection(h *host) (s uint64) {
	for i := range defaultRules {
		r := &defaultRules[i]
		if len(r.Includes.Caps)+len(r.Excludes.Caps) == 0 && r.Includes.MinKernel == (version{}) && r.Excludes.MinKernel == (version{}) {
			continue
		}
		s <<= 1
		if r.counts(h) {
			s |= 1
		}
	}
	return s
}

// DefaultFilter is the default profile compiled. For docker's default capabilities, for none, and for all sets that come to the same,
// the program is there already.
func DefaultFilter(capabilities []string) (*seccomp.Filter, error) {
	h := &host{runtime.GOARCH, kernel(), capabilities}
	switch s := selection(h); {
	case s == selectionDefault && programDefault != "":
		return precompiled(programDefault), nil
	case s == selectionNone && programNone != "":
		return precompiled(programNone), nil
	}
	return seccomp.Compile(defaultFor(h))
}

func precompiled(program string) *seccomp.Filter {
	return &seccomp.Filter{Prog: seccomp.FromBytes([]byte(program)), Flags: unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW}
}

// String is major.minor.
func (v version) String() string { return strconv.Itoa(v.major) + "." + strconv.Itoa(v.minor) }
