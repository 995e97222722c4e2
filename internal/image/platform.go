package image

import (
	"runtime"
	"sort"
	"strings"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
)

// Platform is what an image was built for. The zero value means this machine's.
type Platform struct {
	OS, Arch, Variant string
}

// ParsePlatform reads os/arch[/variant], or one of os and arch alone, and the other names that uname uses. Empty is the zero value.
func ParsePlatform(s string) (Platform, error) {
	if s == "" {
		return Platform{}, nil
	}
	parts := strings.Split(strings.ToLower(s), "/")
	for _, p := range parts {
		if p == "" || strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789_.-") != "" {
			return Platform{}, api.Errorf(api.InvalidArgument, "platform %q: want os/arch[/variant], for example linux/arm64", s)
		}
	}
	host := Platform{}.orHost()
	switch {
	case len(parts) > 3:
		return Platform{}, api.Errorf(api.InvalidArgument, "platform %q: want os/arch[/variant], for example linux/arm64", s)
	case len(parts) == 1 && (parts[0] == "linux" || parts[0] == "windows" || parts[0] == "freebsd"):
		return Platform{parts[0], host.Arch, host.Variant}, nil
	case len(parts) == 1:
		return normal(Platform{host.OS, parts[0], ""}), nil
	case len(parts) == 2:
		return normal(Platform{parts[0], parts[1], ""}), nil
	default:
		return normal(Platform{parts[0], parts[1], parts[2]}), nil
	}
}

// String is os/arch[/variant].
func (p Platform) String() string {
	s := p.OS + "/" + p.Arch
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// Matches reports whether an image of platform p serves who wants want.
func (p Platform) Matches(want Platform) bool { return p.rank(want) > 0 }

// rank is 0 when p cannot serve, else higher the better. Of 32-bit ARM an older variant serves too; a variant of another architecture
// asks for more than the base and serves only when asked for.
func (p Platform) rank(want Platform) int {
	switch {
	case p.OS != want.OS || p.Arch != want.Arch:
		return 0
	case p.Variant == want.Variant:
		return 100
	case p.Arch == "arm" && len(p.Variant) == 2 && len(want.Variant) == 2 && p.Variant < want.Variant:
		return int(p.Variant[1] - '0')
	default:
		return 0
	}
}

func (p Platform) orHost() Platform {
	if p != (Platform{}) {
		return p
	}
	return normal(Platform{"linux", runtime.GOARCH, ""})
}

// normal brings the spellings of a platform to one: containerd's rules.
func normal(p Platform) Platform {
	switch p.Arch {
	case "x86_64", "x86-64":
		p.Arch = "amd64"
	case "aarch64":
		p.Arch = "arm64"
	case "i386", "i486", "i586", "i686":
		p.Arch = "386"
	case "armhf":
		p.Arch, p.Variant = "arm", "v7"
	case "armel":
		p.Arch, p.Variant = "arm", "v6"
	}
	switch {
	case p.Arch == "amd64" && p.Variant == "v1", p.Arch == "arm64" && (p.Variant == "v8" || p.Variant == "8"):
		p.Variant = ""
	case p.Arch == "arm" && p.Variant == "":
		p.Variant = "v7"
	case p.Arch == "arm" && len(p.Variant) == 1:
		p.Variant = "v" + p.Variant
	}
	return p
}

func fromSpec(p imagespec.Platform) Platform {
	return normal(Platform{p.OS, p.Architecture, p.Variant})
}

// list joins the keys of a set for a message.
func list(set map[string]bool) string {
	if len(set) == 0 {
		return "none"
	}
	keys := make([]string, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return strings.Join(keys, ", ")
}
