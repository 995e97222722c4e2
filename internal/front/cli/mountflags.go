package cli

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"brig/api"
)

// hasSELinux reports whether this kernel labels files: then z and Z would have to relabel.
func hasSELinux() bool {
	_, err := os.Stat("/sys/fs/selinux/enforce")
	return err == nil
}

// parseVolume reads one -v: [HOST-PATH|NAME:]PATH[:OPTION,…].
func (a *app) parseVolume(s string) (api.MountSpec, error) {
	parts := strings.Split(s, ":")
	m := api.MountSpec{Type: "volume"}
	switch len(parts) {
	case 1:
		m.Target = parts[0]
	case 2, 3:
		m.Source, m.Target = parts[0], parts[1]
		if m.Source == "" {
			return m, fmt.Errorf("invalid volume specification: %q: empty section between colons", s)
		}
	default:
		return m, fmt.Errorf("invalid volume specification: %q: use [HOST-PATH|NAME:]PATH[:OPTIONS]", s)
	}
	var err error
	if m.Target, err = targetPath(m.Target); err != nil {
		return m, fmt.Errorf("invalid volume specification: %q: %w", s, err)
	}
	switch {
	case strings.HasPrefix(m.Source, "/"), strings.HasPrefix(m.Source, "."):
		m.Type, m.CreateSource = "bind", true
		if m.Source, err = filepath.Abs(m.Source); err != nil {
			return m, err
		}
	case m.Source != "":
		if err := volumeName(m.Source); err != nil {
			return m, err
		}
	}
	if len(parts) < 3 {
		return m, nil
	}
	for _, option := range strings.Split(parts[2], ",") {
		if err := a.volumeOption(&m, option); err != nil {
			return m, fmt.Errorf("invalid volume specification: %q: %w", s, err)
		}
	}
	return m, nil
}

// volumeOption applies one option of a -v.
func (a *app) volumeOption(m *api.MountSpec, option string) error {
	switch option {
	case "ro":
		m.ReadOnly = true
	case "rw", "consistent", "cached", "delegated": // the latter tuned shared folders of virtual machines: no-ops on Linux, as in docker
	case "z", "Z":
		if a.seLinux() {
			return api.Errorf(api.Unsupported, "option %s: relabeling for SELinux is not supported: label the folder with chcon -t container_file_t", option)
		}
	case "nocopy":
		if m.Type != "volume" {
			return errors.New("option nocopy is for volumes")
		}
		m.NoCopy = true
	case "copy": // podman's word for the default
	case "noexec", "nosuid", "nodev", "exec", "suid", "dev":
		m.Flags = append(m.Flags, option)
	case "rbind":
	case "bind":
		if m.Type != "bind" {
			return errors.New("option bind is for folders")
		}
		m.NonRecursive = true
	case "U":
		return noChown(option)
	case "O":
		return api.Errorf(api.Unsupported, "option O: a mount whose changes are dropped is not supported: use ro, or copy the folder")
	default:
		if m.Type == "bind" && isPropagation(option) {
			m.Propagation = option
			return nil
		}
		if known, err := idMapOption(m, option); known {
			return err
		}
		return fmt.Errorf("unknown option %q: use ro, rw, nocopy, z, Z, idmap, owneridmap, noidmap, noexec, nosuid, nodev or, for a folder, bind or a propagation", option)
	}
	return nil
}

// noChown refuses podman's way to make a folder the container's user's.
func noChown(option string) error {
	return api.Errorf(api.Unsupported, "option %s would change the owner of every file on the host: use owneridmap, by which they are the container's user's in the container only", option)
}

// idMapOption applies idmap[=MAP], owneridmap[=USER] or noidmap; known is false for another option.
func idMapOption(m *api.MountSpec, option string) (known bool, err error) {
	key, val, hasValue := strings.Cut(option, "=")
	switch key {
	case "noidmap":
		m.IDMap = api.IDMapNone
	case "owneridmap":
		m.IDMap = api.IDMapOwner
		if hasValue {
			m.IDMap += api.IDMap(":" + val)
		}
		hasValue = hasValue && val == ""
	case "idmap":
		m.IDMap = api.IDMapUserNS
		if hasValue && val != "" {
			return true, idMapRanges(m, val)
		}
	default:
		return false, nil
	}
	if hasValue {
		return true, fmt.Errorf("option %s has an empty value", key)
	}
	return true, nil
}

// idMapRanges reads podman's uids=FIRST-SEEN-COUNT#…;gids=….
func idMapRanges(m *api.MountSpec, s string) error {
	m.IDMap = api.IDMapRanges
	for part := range strings.SplitSeq(s, ";") {
		kind, val, _ := strings.Cut(part, "=")
		to := &m.UIDMap
		switch kind {
		case "uids":
		case "gids":
			to = &m.GIDMap
		default:
			return fmt.Errorf("invalid idmap %q: use uids=FIRST-SEEN-COUNT;gids=FIRST-SEEN-COUNT, ranges with # between them", s)
		}
		for one := range strings.SplitSeq(val, "#") {
			if strings.HasPrefix(one, "@") {
				return api.Errorf(api.Unsupported, "idmap %s: ranges of the container's user namespace (@) are not supported: give the host's numbers", one)
			}
			r, err := parseIDs(one, "-")
			if err != nil {
				return err
			}
			*to = append(*to, r)
		}
	}
	return nil
}

// parseIDs reads INSIDE:OUTSIDE:SIZE, with another separator where that is said.
func parseIDs(s, separator string) (r api.IDRange, err error) {
	var n [3]uint32
	parts := strings.Split(s, separator)
	if len(parts) != 3 {
		return r, fmt.Errorf("invalid range of ids %q: three numbers with %q between them are wanted", s, separator)
	}
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 32)
		if err != nil || v == 1<<32-1 {
			return r, fmt.Errorf("invalid range of ids %q: %q is no id", s, p)
		}
		n[i] = uint32(v)
	}
	if n[2] == 0 || uint64(n[0])+uint64(n[2]) > 1<<32-1 || uint64(n[1])+uint64(n[2]) > 1<<32-1 {
		return r, fmt.Errorf("invalid range of ids %q: it is empty, or reaches beyond 4294967294", s)
	}
	return api.IDRange{Inside: n[0], Outside: n[1], Size: n[2]}, nil
}

func isPropagation(s string) bool {
	switch s {
	case "private", "rprivate", "shared", "rshared", "slave", "rslave":
		return true
	}
	return false
}

// targetPath checks and cleans a path in the container.
func targetPath(p string) (string, error) {
	if !path.IsAbs(p) {
		return "", fmt.Errorf("mount path %q must be absolute", p)
	}
	if p = path.Clean(p); p == "/" {
		return "", errors.New("mount path must not be '/'")
	}
	return p, nil
}

// volumeName checks a volume's name by docker's rule: a letter or digit, then at least one letter, digit or one of _.-
func volumeName(s string) error {
	for i, c := range []byte(s) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '_' && c != '.' && c != '-') {
			return fmt.Errorf("%q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed: "+
				"if you intended to pass a host directory, use an absolute path", s)
		}
	}
	if len(s) < 2 {
		return fmt.Errorf("volume name %q is too short: names have at least two characters", s)
	}
	return nil
}

// parseTmpfs reads one --tmpfs: PATH[:OPTION,…]. The options are mount(8)'s and are checked when they are mounted.
func parseTmpfs(s string) (api.MountSpec, error) {
	target, options, _ := strings.Cut(s, ":")
	m := api.MountSpec{Type: "tmpfs"}
	var err error
	if m.Target, err = targetPath(target); err != nil {
		return m, fmt.Errorf("invalid tmpfs %q: %w", s, err)
	}
	if options != "" {
		m.TmpfsOptions = strings.Split(options, ",")
	}
	return m, nil
}

// parseMount reads one --mount: a line of comma-separated KEY=VALUE, quoted as in CSV.
func parseMount(s string) (api.MountSpec, error) {
	m := api.MountSpec{Type: "volume"}
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return m, fmt.Errorf("invalid mount %q: %w", s, err)
	}
	var used []string // keys that only one type has
	for _, field := range fields {
		key, val, hasValue := strings.Cut(field, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		if !hasValue && !slices.Contains([]string{"readonly", "ro", "rw", "readwrite", "noexec", "nosuid", "nodev", "exec", "suid", "dev", "volume-nocopy", "bind-nonrecursive", "idmap", "bind-idmap"}, key) {
			return m, fmt.Errorf("invalid field '%s' must be a key=value pair", field)
		}
		if !hasValue && !strings.HasSuffix(key, "idmap") {
			val = "true"
		}
		if err := mountField(&m, key, val); err != nil {
			return m, err
		}
		used = append(used, key)
	}
	return m, checkMount(&m, used)
}

// mountField applies one KEY=VALUE of --mount.
func mountField(m *api.MountSpec, key, val string) (err error) {
	switch key {
	case "type":
		switch m.Type = strings.ToLower(val); m.Type {
		case "bind", "volume", "tmpfs", "image":
		case "npipe", "cluster", "devpts", "ramfs", "glob":
			return api.Errorf(api.Unsupported, "mount type %s is not supported: use bind, volume, tmpfs or image", m.Type)
		default:
			return fmt.Errorf("unknown mount type %q: use bind, volume, tmpfs or image", val)
		}
	case "source", "src":
		m.Source = val
	case "target", "dst", "destination":
		m.Target = val
	case "readonly", "ro":
		m.ReadOnly, err = mountBool(key, val)
	case "rw", "readwrite": // podman's
		m.ReadOnly, err = mountBool(key, val)
		m.ReadOnly = !m.ReadOnly
	case "noexec", "nosuid", "nodev", "exec", "suid", "dev":
		var on bool
		if on, err = mountBool(key, val); on {
			m.Flags = append(m.Flags, key)
		}
	case "bind-propagation":
		if m.Propagation = strings.ToLower(val); !isPropagation(m.Propagation) {
			err = fmt.Errorf("invalid value for bind-propagation: %s", val)
		}
	case "bind-nonrecursive":
		m.NonRecursive, err = mountBool(key, val)
	case "bind-recursive":
		err = bindRecursive(m, val)
	case "bind-create-src":
		m.CreateSource, err = mountBool(key, val)
	case "bind-idmap":
		err = bindIDMap(m, val)
	case "idmap":
		if val == "false" {
			m.IDMap = api.IDMapNone
			break
		}
		if val == "true" {
			val = ""
		}
		_, err = idMapOption(m, strings.TrimSuffix("idmap="+val, "="))
	case "u", "chown":
		if on, berr := mountBool(key, val); berr != nil || on {
			err = errors.Join(berr, noChown(key))
		}
	case "volume-nocopy":
		m.NoCopy, err = mountBool(key, val)
	case "volume-driver":
		if val != "local" {
			err = api.Errorf(api.Unsupported, "volume-driver %q is not supported: volumes are local", val)
		}
	case "tmpfs-size":
		m.TmpfsSize, err = parseBytes(val)
	case "tmpfs-mode":
		m.TmpfsMode, err = tmpfsMode(val)
	case "consistency":
		switch val {
		case "default", "consistent", "cached", "delegated": // no-ops on Linux, as in docker
		default:
			err = fmt.Errorf("invalid value for consistency: %s", val)
		}
	case "volume-subpath", "subpath":
		if m.Subpath = val; path.IsAbs(val) || val == "" || slices.Contains(strings.Split(val, "/"), "..") {
			err = fmt.Errorf("invalid value for %s: %q: it must be a path below the volume, without ..", key, val)
		}
	case "volume-label", "volume-opt", "image-subpath", "relabel", "tmpcopyup", "notmpcopyup":
		err = api.Errorf(api.Unsupported, "mount option %s is not supported", key)
	default:
		err = fmt.Errorf("unknown option '%s' in mount", key)
	}
	return err
}

// bindIDMap reads docker's match-user[:USER] and userns.
func bindIDMap(m *api.MountSpec, val string) error {
	how, user, named := strings.Cut(val, ":")
	switch {
	case how == "" && !named, how == "match-user" && !named:
		m.IDMap = api.IDMapOwner
	case how == "match-user" && user != "":
		m.IDMap = api.IDMapOwner + api.IDMap(":"+user)
	case val == "userns":
		m.IDMap = api.IDMapUserNS
	case val == "none":
		m.IDMap = api.IDMapNone
	default:
		return fmt.Errorf("invalid value for bind-idmap: %s: use match-user, match-user:USER, userns or none", val)
	}
	return nil
}

func mountBool(key, val string) (bool, error) {
	b, err := strconv.ParseBool(val)
	if err != nil {
		err = fmt.Errorf("invalid value for %s: %s", key, val)
	}
	return b, err
}

func bindRecursive(m *api.MountSpec, val string) error {
	switch val {
	case "enabled":
	case "disabled":
		m.NonRecursive = true
	case "writable":
		m.TopReadOnly = true
	case "readonly": // what Brig does anyhow; checkMount wants readonly and rprivate with it
		m.Flags = append(m.Flags, "rro")
	default:
		return fmt.Errorf("invalid value for bind-recursive: %s: use enabled, disabled, writable or readonly", val)
	}
	return nil
}

func tmpfsMode(val string) (uint32, error) {
	n, err := strconv.ParseUint(val, 8, 32)
	if err != nil || n > 0o7777 {
		return 0, fmt.Errorf("invalid value for tmpfs-mode: %s: use octal permission bits", val)
	}
	return uint32(n), nil
}

// checkMount holds the keys used against the mount's type.
func checkMount(m *api.MountSpec, used []string) (err error) {
	for _, key := range used {
		of, _, specific := strings.Cut(key, "-")
		if specific && of != m.Type {
			return fmt.Errorf("cannot mix '%s' with mount type '%s'", key, m.Type)
		}
	}
	if m.Target == "" {
		return errors.New("target is required")
	}
	if m.Target, err = targetPath(m.Target); err != nil {
		return err
	}
	if m.Subpath != "" && m.Type != "volume" {
		return fmt.Errorf("cannot mix 'subpath' with mount type '%s'", m.Type)
	}
	switch m.Type {
	case "image":
		switch {
		case m.Source == "":
			return errors.New("source is required when mount type is image")
		case slices.Contains(used, "rw") || slices.Contains(used, "readwrite"):
			if !m.ReadOnly {
				return api.Errorf(api.Unsupported, "a mount of type image that can be written to is not supported: leave rw out")
			}
		}
		m.ReadOnly = true
	case "bind":
		switch {
		case slices.Contains(m.Flags, "rro") && !m.ReadOnly:
			return errors.New("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction")
		case slices.Contains(m.Flags, "rro") && m.Propagation != "" && m.Propagation != "rprivate":
			return errors.New("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction")
		case m.TopReadOnly && !m.ReadOnly:
			return errors.New("option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction")
		}
		m.Flags = slices.DeleteFunc(m.Flags, func(f string) bool { return f == "rro" })
		if len(m.Flags) == 0 {
			m.Flags = nil
		}
		if m.Source == "" {
			return errors.New("source is required when mount type is bind")
		}
		if strings.HasPrefix(m.Source, ".") {
			m.Source, err = filepath.Abs(m.Source)
		} else if !path.IsAbs(m.Source) {
			err = fmt.Errorf("invalid mount path: '%s' must be absolute, or begin with . for the current folder", m.Source)
		}
		return err
	case "volume":
		if m.Source != "" {
			return volumeName(m.Source)
		}
	case "tmpfs":
		if m.Source != "" {
			return errors.New("a mount of type tmpfs has no source")
		}
	}
	return nil
}
