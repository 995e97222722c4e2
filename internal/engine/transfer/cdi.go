package transfer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/store/owners"
)

// maxCDI bounds a specification, in bytes.
const maxCDI = 4 << 20

// cdiFile is a specification of the Container Device Interface, version 0.3 to 1.1: github.com/cncf-tags/container-device-interface, SPEC.md. What is not here is refused.
type cdiFile struct {
	Version     string            `yaml:"cdiVersion"`
	Kind        string            `yaml:"kind"`
	Annotations map[string]string `yaml:"annotations"`
	Devices     []struct {
		Name        string            `yaml:"name"`
		Annotations map[string]string `yaml:"annotations"`
		Edits       cdiEdits          `yaml:"containerEdits"`
	} `yaml:"devices"`
	Edits cdiEdits `yaml:"containerEdits"`
}

type cdiEdits struct {
	Env   []string `yaml:"env"`
	Nodes []struct {
		Path        string  `yaml:"path"`
		HostPath    string  `yaml:"hostPath"`
		Type        string  `yaml:"type"`
		Major       int64   `yaml:"major"`
		Minor       int64   `yaml:"minor"`
		FileMode    *uint32 `yaml:"fileMode"`
		Permissions string  `yaml:"permissions"`
		UID         *uint32 `yaml:"uid"`
		GID         *uint32 `yaml:"gid"`
	} `yaml:"deviceNodes"`
	Hooks []struct {
		Name    string   `yaml:"hookName"`
		Path    string   `yaml:"path"`
		Args    []string `yaml:"args"`
		Env     []string `yaml:"env"`
		Timeout *int     `yaml:"timeout"`
	} `yaml:"hooks"`
	Mounts []struct {
		HostPath      string   `yaml:"hostPath"`
		ContainerPath string   `yaml:"containerPath"`
		Options       []string `yaml:"options"`
		Type          string   `yaml:"type"`
	} `yaml:"mounts"`
	GIDs       []uint32  `yaml:"additionalGids"`
	IntelRDT   yaml.Node `yaml:"intelRdt"`
	NetDevices yaml.Node `yaml:"netDevices"`
}

// cdiDevice is a device that a folder's files tell of.
type cdiDevice struct {
	file  string
	dir   int // which folder: a later one goes before an earlier one
	all   *cdiFile
	edits *cdiEdits
}

// DeviceEdits finds CDI devices, vendor.com/class=name, in the specifications of some folders, and returns what they change.
func (t *Transfer) DeviceEdits(r api.TransferRequest) (api.TransferReply, error) {
	devices, damaged, err := readCDI(r.Dirs)
	if err != nil {
		return api.TransferReply{}, err
	}
	edits := new(api.DeviceEdits)
	var files []*cdiFile // whose own edits are in already
	for _, name := range r.Refs {
		d, ok := devices[name]
		if !ok {
			return api.TransferReply{}, unknownDevice(name, r.Dirs, devices, damaged)
		}
		if !slices.Contains(files, d.all) {
			files = append(files, d.all)
			if err := addEdits(edits, &d.all.Edits); err != nil {
				return api.TransferReply{}, api.Errorf(api.KindOf(err), "device %s: %s: %w", name, d.file, err)
			}
		}
		if err := addEdits(edits, d.edits); err != nil {
			return api.TransferReply{}, api.Errorf(api.KindOf(err), "device %s: %s: %w", name, d.file, err)
		}
	}
	return api.TransferReply{Devices: edits}, nil
}

func unknownDevice(name string, dirs []string, devices map[string]cdiDevice, damaged []error) error {
	var names []string
	for n := range devices {
		names = append(names, n)
	}
	slices.Sort(names)
	there := "there is none"
	if len(names) > 0 {
		there = "there are " + strings.Join(names, ", ")
	}
	err := api.Errorf(api.NotFound, "device %s is unknown: in %s %s", name, strings.Join(dirs, " and "), there)
	if len(damaged) > 0 {
		err = api.Errorf(api.NotFound, "%w; files that cannot be used: %w", err, errors.Join(damaged...))
	}
	return err
}

// readCDI reads all specifications. A file that is wrong is in nobody's way who wants another's device.
func readCDI(dirs []string) (map[string]cdiDevice, []error, error) {
	devices := map[string]cdiDevice{}
	var damaged []error
	for i, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return nil, nil, &os.PathError{Op: "stat", Path: dir, Err: err}
		}
		if err := onlyOwners(dir, &st); err != nil {
			return nil, nil, err
		}
		for _, entry := range entries {
			switch filepath.Ext(entry.Name()) {
			case ".json", ".yaml", ".yml":
			default:
				continue
			}
			file := filepath.Join(dir, entry.Name())
			f, err := readCDIFile(file)
			if err != nil {
				damaged = append(damaged, fmt.Errorf("%s: %w", file, err))
				continue
			}
			for j := range f.Devices {
				name := f.Kind + "=" + f.Devices[j].Name
				if other, twice := devices[name]; twice && other.dir == i {
					return nil, nil, api.Errorf(api.InvalidArgument, "device %s is both in %s and in %s", name, other.file, file)
				}
				devices[name] = cdiDevice{file, i, f, &f.Devices[j].Edits}
			}
		}
	}
	return devices, damaged, nil
}

// onlyOwners refuses a file or folder that others than root, or this user, may write to: hooks of a specification run on the host.
func onlyOwners(path string, st *unix.Stat_t) error {
	owner := st.Uid == 0 || int(st.Uid) == os.Geteuid() || rootless.Active() && st.Uid == owners.Nobody // root of the host
	if !owner || st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
		return api.Errorf(api.Denied, "%s may be written by others than root (owner %d, mode %#o), who would run programs as root by it: `chown root` and `chmod go-w` it", path, st.Uid, st.Mode&0o7777)
	}
	return nil
}

func readCDIFile(file string) (*cdiFile, error) {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("it is no file")
	}
	if err := onlyOwners(file, &st); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxCDI+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxCDI {
		return nil, fmt.Errorf("it is larger than %d bytes", maxCDI)
	}
	return parseCDI(data)
}

// parseCDI reads a specification, YAML or JSON, which is YAML too.
func parseCDI(data []byte) (*cdiFile, error) {
	var s cdiFile
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&s); err != nil {
		return nil, err
	}
	vendor, class, _ := strings.Cut(s.Kind, "/")
	switch {
	case !strings.HasPrefix(s.Version, "0.") && !strings.HasPrefix(s.Version, "1."):
		return nil, fmt.Errorf("cdiVersion %q is not known: 0.3 to 1.1 are", s.Version)
	case !cdiWord(vendor, "_-.") || !cdiWord(class, "_-"):
		return nil, fmt.Errorf("kind %q is not of the form vendor.com/class", s.Kind)
	}
	for i := range s.Devices {
		if !cdiWord(s.Devices[i].Name, "_-.:") {
			return nil, fmt.Errorf("devices[%d].name: %q is not a name", i, s.Devices[i].Name)
		}
	}
	return &s, nil
}

// cdiWord reports whether s is of letters, digits and, in the middle, some other characters.
func cdiWord(s, middle string) bool {
	for i, c := range []byte(s) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || i == len(s)-1 || strings.IndexByte(middle, c) < 0) {
			return false
		}
	}
	return s != ""
}

// addEdits adds one list of edits, checked: paths are absolute and clean, so that what is written in a file is what is done.
func addEdits(to *api.DeviceEdits, e *cdiEdits) error {
	if !e.IntelRDT.IsZero() || !e.NetDevices.IsZero() {
		return api.Errorf(api.Unsupported, "intelRdt and netDevices of a device are not supported")
	}
	for _, v := range e.Env {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" {
			return api.Errorf(api.InvalidArgument, "env: %q is not of the form NAME=VALUE", v)
		}
	}
	to.Env = append(to.Env, e.Env...)
	for _, n := range e.Nodes {
		d := api.DeviceNode{DeviceSpec: api.DeviceSpec{Source: n.HostPath, Target: n.Path, Permissions: n.Permissions}, Mode: n.FileMode, UID: n.UID, GID: n.GID}
		if d.Source == "" {
			d.Source = d.Target
		}
		if d.Permissions == "" {
			d.Permissions = "rwm"
		}
		if !cleanPath(d.Source) || !cleanPath(d.Target) || strings.Trim(d.Permissions, "rwm") != "" {
			return api.Errorf(api.InvalidArgument, "deviceNodes: %q, hostPath %q, permissions %q: absolute paths without .. and letters of rwm are wanted", n.Path, n.HostPath, n.Permissions)
		}
		to.Nodes = append(to.Nodes, d)
	}
	for _, m := range e.Mounts {
		if !cleanPath(m.HostPath) || !cleanPath(m.ContainerPath) {
			return api.Errorf(api.InvalidArgument, "mounts: hostPath %q, containerPath %q: absolute paths without .. are wanted", m.HostPath, m.ContainerPath)
		}
		o := specs.Mount{Type: m.Type, Source: m.HostPath, Destination: m.ContainerPath, Options: m.Options}
		switch {
		case o.Type != "" && o.Type != "bind" && o.Type != "none":
			return api.Errorf(api.Unsupported, "mounts: type %q is not supported: use bind", m.Type)
		case !slices.Contains(o.Options, "bind") && !slices.Contains(o.Options, "rbind"):
			o.Options = append([]string{"rbind"}, o.Options...)
		}
		o.Type = "bind"
		to.Mounts = append(to.Mounts, o)
	}
	for _, h := range e.Hooks {
		hook := specs.Hook{Path: h.Path, Args: h.Args, Env: h.Env, Timeout: h.Timeout}
		if !cleanPath(h.Path) {
			return api.Errorf(api.InvalidArgument, "hooks: path %q: an absolute path without .. is wanted", h.Path)
		}
		switch h.Name {
		case "prestart":
			to.Hooks.Prestart = append(to.Hooks.Prestart, hook) //nolint:staticcheck // deprecated, and still written by vendors
		case "createRuntime":
			to.Hooks.CreateRuntime = append(to.Hooks.CreateRuntime, hook)
		case "createContainer":
			to.Hooks.CreateContainer = append(to.Hooks.CreateContainer, hook)
		case "startContainer":
			to.Hooks.StartContainer = append(to.Hooks.StartContainer, hook)
		default:
			return api.Errorf(api.Unsupported, "hooks: %q is not supported: prestart, createRuntime, createContainer and startContainer are", h.Name)
		}
	}
	to.GIDs = append(to.GIDs, e.GIDs...)
	return nil
}

func cleanPath(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && p != "/" && strings.IndexByte(p, 0) < 0
}
