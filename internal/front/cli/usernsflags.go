package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"brig/api"
	"brig/internal/base/rootless"
)

// userNSFlags are podman's flags of a user namespace; docker has --userns host.
func userNSFlags(f *pflag.FlagSet, n *api.UserNS) {
	parsed(f, "userns", "", "string", "User namespace to use: host, auto[:size=N], private, or without root keep-id[:uid=N,gid=N] or nomap", func(s string) error {
		return parseUserNS(s, n)
	})
	list(f, "uidmap", "", "UID map to use for the user namespace (CONTAINER:HOST:COUNT)", appendIDs(&n.UIDMap))
	list(f, "gidmap", "", "GID map to use for the user namespace (default --uidmap's)", appendIDs(&n.GIDMap))
	f.StringVar(&n.SubUIDName, "subuidname", "", "Name of range listed in /etc/subuid for use in user namespace")
	f.StringVar(&n.SubGIDName, "subgidname", "", "Name of range listed in /etc/subgid for use in user namespace (default --subuidname's)")
}

func appendIDs(to *[]api.IDRange) func(string) error {
	return func(s string) error {
		for one := range strings.SplitSeq(s, ",") {
			r, err := parseIDs(one, ":")
			if err != nil {
				return err
			}
			*to = append(*to, r)
		}
		return nil
	}
}

// parseUserNS reads podman's modes.
func parseUserNS(s string, to *api.UserNS) error {
	name, options, _ := strings.Cut(s, ":")
	mode := api.UserNSMode(name)
	switch name {
	case "", "host":
		mode = ""
	case "auto", "private", "keep-id", "nomap":
	case "container", "ns":
		return api.Errorf(api.Unsupported, "--userns %s is not supported: use host, auto or private", s)
	default:
		return fmt.Errorf("invalid user namespace mode %q: use host, auto[:size=N], private, keep-id or nomap", s)
	}
	to.Mode, to.Size = mode, 0
	if options == "" {
		return nil
	}
	for o := range strings.SplitSeq(options, ",") {
		key, val, _ := strings.Cut(o, "=")
		switch {
		case mode == api.UserNSAuto && key == "size":
			n, err := strconv.ParseUint(val, 10, 32)
			if err != nil || n == 0 {
				return fmt.Errorf("--userns auto: invalid size %q: a number of ids is wanted", val)
			}
			to.Size = uint32(n)
		case mode == api.UserNSKeepID && (key == "uid" || key == "gid"):
			n, err := strconv.ParseUint(val, 10, 32)
			if err != nil || n >= 1<<32-2 {
				return fmt.Errorf("--userns keep-id: invalid %s %q: the number is wanted that you shall have in the container", key, val)
			}
			list := &to.UIDMap
			if key == "gid" {
				list = &to.GIDMap
			}
			*list = []api.IDRange{{Inside: uint32(n), Size: 1}}
		case mode == api.UserNSAuto && (key == "uidmapping" || key == "gidmapping"):
			return api.Errorf(api.Unsupported, "--userns auto:%s is not supported: say all ids with --uidmap and --gidmap", key)
		default:
			return fmt.Errorf("invalid option %q of --userns %s", o, name)
		}
	}
	return nil
}

// finishUserNS holds the flags against each other.
func finishUserNS(f *pflag.FlagSet, n *api.UserNS) error {
	mapped, named := f.Changed("uidmap") || f.Changed("gidmap"), n.SubUIDName != "" || n.SubGIDName != ""
	switch {
	case !mapped && !named:
		return nil
	case f.Changed("userns") && n.Mode != api.UserNSPrivate:
		return errors.New("--userns conflicts with --uidmap, --gidmap, --subuidname and --subgidname: they make a user namespace of their own")
	case n.UIDMap != nil && n.SubUIDName != "" || n.GIDMap != nil && n.SubGIDName != "" || mapped && named:
		return errors.New("--uidmap and --gidmap conflict with --subuidname and --subgidname")
	}
	n.Mode = api.UserNSPrivate
	if n.UIDMap == nil {
		n.UIDMap = n.GIDMap
	}
	if n.GIDMap == nil {
		n.GIDMap = n.UIDMap
	}
	if n.SubUIDName == "" {
		n.SubUIDName = n.SubGIDName
	}
	if n.SubGIDName == "" {
		n.SubGIDName = n.SubUIDName
	}
	return nil
}

// isolationUserNS is the hardened form of level container: its root is nobody on the host.
const isolationUserNS api.Isolation = "container,userns"

// harden gives a container a user namespace of its own, unless flags say which. What a flag says wins over the variable's level, but not over another flag.
func harden(f *pflag.FlagSet, n *api.UserNS) error {
	switch {
	case n.Mode != "" || f.Changed("uidmap") || f.Changed("gidmap") || f.Changed("subuidname") || f.Changed("subgidname"):
	case !f.Changed("userns"):
		n.Mode = api.UserNSAuto
	case f.Changed("isolation"):
		return api.Errorf(api.InvalidArgument, "--isolation %s contradicts --userns host: leave one of them out", isolationUserNS)
	}
	return nil
}

// showOwners has the files of bound folders be whose they are on the host, where no option says otherwise: in a user namespace they would be nobody's.
func showOwners(mounts []api.MountSpec) {
	if rootless.Active() { // whose ids are the user's own
		return
	}
	for i := range mounts {
		if m := &mounts[i]; m.Type == "bind" && m.IDMap == "" {
			m.IDMap = api.IDMapUserNS
		}
	}
}
