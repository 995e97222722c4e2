package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/kernel/mount"
	"brig/internal/kernel/userns"
	"brig/internal/runtime/oci"
	"brig/internal/store/overlay"
)

func (e *Engine) userMount(c *api.Container, m *api.MountSpec) (specs.Mount, error) {
	dest := path.Clean(m.Target)
	if !path.IsAbs(m.Target) || dest == "/" {
		return specs.Mount{}, api.Errorf(api.InvalidArgument, "mount target %q must be an absolute path in the container, other than /", m.Target)
	}
	o := specs.Mount{Destination: dest}
	mode := "rw"
	if m.ReadOnly {
		mode = "ro"
	}
	switch m.Type {
	case "bind":
		if m.CreateSource {
			if err := os.MkdirAll(m.Source, 0o755); err != nil && !exists(m.Source) {
				return o, api.Errorf(api.InvalidArgument, "bind mount source %s: %w", m.Source, err)
			}
		}
		if !exists(m.Source) {
			return o, api.Errorf(api.InvalidArgument, "bind mount source %s does not exist on the host", m.Source)
		}
		bind, propagation := "rbind", "rprivate"
		if m.NonRecursive {
			bind = "bind"
		}
		if m.Propagation != "" {
			propagation = m.Propagation
		}
		if m.ReadOnly && !m.NonRecursive && !m.TopReadOnly {
			mode = "rro" // what is mounted below the source is read-only too, as in Docker 25 and later
		}
		o.Type, o.Source, o.Options = "bind", m.Source, append([]string{bind, propagation, mode}, m.Flags...)
		if m.Subpath != "" { // of a volume that another container has
			o.Options = append(o.Options, oci.OptionSubpath+"="+m.Subpath)
		}
		return o, idMap(&o, c, m)
	case "volume":
		o.Type, o.Source, o.Options = "bind", e.volumeData(m.Source), append([]string{"rbind", "rprivate", mode}, m.Flags...)
		rec, err := e.volume(m.Source)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return o, err
		}
		if err := e.readyVolume(m.Source, &rec); err != nil {
			return o, err
		}
		if rec.bound() == "" {
			if err := e.giveVolume(c, m.Source, &rec, m.ReadOnly); err != nil {
				return o, err
			}
		}
		if dir := rec.bound(); dir != "" {
			if o.Source = dir; !exists(dir) {
				return o, api.Errorf(api.InvalidArgument, "volume %s: %s, its device, does not exist on the host", m.Source, dir)
			}
		} else if !m.NoCopy && err == nil && !rec.Used {
			o.Options = append(o.Options, copyUp(c, rec))
		}
		if m.Subpath != "" { // the image's files are for the whole of a volume
			o.Options = append(slices.DeleteFunc(o.Options, func(o string) bool { return strings.HasPrefix(o, "copyup") }), oci.OptionSubpath+"="+m.Subpath)
		}
		return o, idMap(&o, c, m)
	case "image":
		return o, e.imageMount(&o, c, m)
	case "tmpfs":
		o.Type, o.Source, o.Options = "tmpfs", "tmpfs", tmpfsOptions(m, mode)
	default:
		return o, api.Errorf(api.InvalidArgument, "mount type %q is unknown: use bind, volume, tmpfs or image", m.Type)
	}
	return o, nil
}

func tmpfsOptions(m *api.MountSpec, mode string) []string {
	opts := []string{"noexec", "nosuid", "nodev", mode}
	if m.TmpfsSize > 0 {
		opts = append(opts, "size="+itoa(m.TmpfsSize))
	}
	perm := int64(0o1777)
	if m.TmpfsMode != 0 {
		perm = int64(m.TmpfsMode)
	}
	opts = append(opts, "mode="+octal(perm))
	return append(opts, m.TmpfsOptions...)
}

// imageMount shows an image's files, read-only.
func (e *Engine) imageMount(o *specs.Mount, c *api.Container, m *api.MountSpec) error {
	if c.Spec.UserNS.Mode != "" {
		return api.Errorf(api.Unsupported, "mount %s: type image does not go together with --userns: leave one of them out", m.Target)
	}
	lowers, err := e.snapshot.Lowers(m.Layers)
	if err != nil {
		return err
	}
	options := append([]string{"ro", "nosuid", "nodev"}, m.Flags...)
	switch len(lowers) {
	case 0:
		return api.Errorf(api.InvalidArgument, "mount %s: image %s has no files", m.Target, m.Source)
	case 1: // overlayfs wants two
		o.Type, o.Source, o.Options = "bind", lowers[0], append([]string{"bind", "rprivate"}, options...)
		return nil
	}
	slices.Reverse(lowers) // top first
	o.Type, o.Source = "overlay", "overlay"
	o.Options = append(append(options, "lowerdir="+strings.Join(lowers, ":")), overlay.Options()...)
	return nil
}

// mountImages finds the images that are to be mounted, pulling them where policy and store say so.
func (e *Engine) mountImages(ctx context.Context, s *api.ContainerSpec, out api.Streams, b *bringing) error {
	for i := range s.Mounts {
		m := &s.Mounts[i]
		if m.Type != "image" {
			continue
		}
		pull := s.Pull
		if pull == api.PullLazy {
			pull = api.PullMissing
		}
		img, err := e.imageFor(ctx, &api.ContainerSpec{Image: m.Source, Platform: s.Platform, Pull: pull}, out, b)
		if err != nil {
			return err
		}
		m.Layers = nil
		for _, l := range img.Layers {
			m.Layers = append(m.Layers, l.DiffID)
		}
	}
	return nil
}

// idMap adds how the owners of a mount's files are seen.
func idMap(o *specs.Mount, c *api.Container, m *api.MountSpec) error {
	how, user, _ := strings.Cut(string(m.IDMap), ":")
	option := "idmap"
	if !m.NonRecursive {
		option = "ridmap"
	}
	switch api.IDMap(how) {
	case api.IDMapNone:
	case api.IDMapUserNS:
		o.Options = append(o.Options, option)
	case api.IDMapOwner:
		owner := oci.OptionOwner
		if user != "" {
			owner += "=user:" + user
		}
		o.Options = append(o.Options, option, owner)
	case api.IDMapRanges:
		o.Options = append(o.Options, option)
		o.UIDMappings, o.GIDMappings = ociRanges(m.UIDMap), ociRanges(m.GIDMap)
	case "":
		if m.Type == "volume" && c.Spec.UserNS.Mode != "" && !rootless.Active() {
			o.Options = append(o.Options, option) // so that containers with different namespaces see the same owners
		}
		if m.Type == "bind" && callersFiles(&c.Spec) {
			o.Options = append(o.Options, option, oci.OptionOwner+"=caller:"+strconv.FormatUint(uint64(c.Spec.Caller), 10))
		}
	default:
		return api.Errorf(api.InvalidArgument, "mount %s: unknown way %q to map the owners of files", m.Target, m.IDMap)
	}
	return nil
}

// ociRanges are ranges as the runtime takes them; none: no id changes.
func ociRanges(list []api.IDRange) (to []specs.LinuxIDMapping) {
	if len(list) == 0 {
		return []specs.LinuxIDMapping{{Size: 1<<32 - 1}}
	}
	for _, r := range list {
		to = append(to, specs.LinuxIDMapping{ContainerID: r.Inside, HostID: r.Outside, Size: r.Size})
	}
	return to
}

// callersFiles reports whether bound folders of the caller are to have their files be the container's user's. Not where the caller has told the image his own
// number by a variable (PUID=1000): such an image changes to that user by itself, whose files would then have no place.
func callersFiles(s *api.ContainerSpec) bool {
	if s.Caller == 0 || rootless.Active() {
		return false
	}
	number := "=" + strconv.FormatUint(uint64(s.Caller), 10)
	return !slices.ContainsFunc(s.Env, func(v string) bool { return strings.HasSuffix(v, number) && strings.Count(v, "=") == 1 })
}

// checkIDMaps refuses what cannot be mapped before anything is made.
func checkIDMaps(s *api.ContainerSpec) error {
	for i := range s.Mounts {
		m := &s.Mounts[i]
		if m.IDMap == "" || m.IDMap == api.IDMapNone {
			continue
		}
		if m.Type != "bind" && m.Type != "volume" {
			return api.Errorf(api.InvalidArgument, "mount %s: idmap and owneridmap are for folders and volumes, not for type %s", m.Target, m.Type)
		}
		if rootless.Active() {
			return api.Errorf(api.Unsupported, "mount %s: the kernel maps the owners of files for root only. Without root you are the container's root, and what it makes is yours, "+
				"or with --userns keep-id the user with your number; to have it be another user's, run as root", m.Target)
		}
		if m.IDMap == api.IDMapUserNS && s.UserNS.Mode == "" {
			return api.Errorf(api.InvalidArgument, "mount %s: idmap takes the container's user namespace, and it has none: use owneridmap, or idmap=uids=…;gids=…", m.Target)
		}
		for _, list := range []struct {
			kind   string
			ranges []api.IDRange
		}{{"uids", m.UIDMap}, {"gids", m.GIDMap}} {
			if err := userns.Validate(fmt.Sprintf("mount %s: idmap: %s", m.Target, list.kind), ociRanges(list.ranges)); err != nil {
				return err
			}
		}
	}
	return nil
}

// warnUnmapped tells of the caller's folders whose files keep their numbers, because the kernel cannot map them where they lie.
func warnUnmapped(s *api.ContainerSpec, out api.Streams) {
	if !callersFiles(s) || out.Stderr == nil {
		return
	}
	for i := range s.Mounts {
		m := &s.Mounts[i]
		if m.Type != "bind" || m.IDMap != "" {
			continue
		}
		if err := tryOwner(m.Source, s.Caller); err != nil {
			fmt.Fprintf(out.Stderr, "WARNING: %s: what the container's user makes there will not be yours: %v\n", m.Source, err)
		}
	}
}

// tryOwner maps a folder of user uid, off to the side.
func tryOwner(source string, uid uint32) error {
	var st unix.Stat_t
	if unix.Stat(source, &st) != nil || st.Uid != uid {
		return nil // the runtime passes over it
	}
	fd, err := mount.Clone(unix.AT_FDCWD, source, false)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ids := []specs.LinuxIDMapping{{ContainerID: uid, HostID: 0, Size: 1}}
	ns, err := userns.New(ids, ids)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	return mount.IDMap(fd, ns, false)
}
