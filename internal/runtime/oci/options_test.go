package oci

import (
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestParseOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		options []string
		want    mountOptions
	}{
		"none":           {nil, mountOptions{}},
		"no effect":      {[]string{"defaults", "norelatime", "rnorelatime", "noiversion", "silent", "loud", "nostrictatime", "rnostrictatime"}, mountOptions{}},
		"of the whole":   {[]string{"async", "sync", "lazytime", "dirsync", "iversion"}, mountOptions{super: []string{"async", "sync", "lazytime", "dirsync"}, iversion: true}},
		"not strict":     {[]string{"strictatime", "nostrictatime", "rstrictatime", "rnostrictatime"}, mountOptions{clr: unix.MOUNT_ATTR__ATIME, recClr: unix.MOUNT_ATTR__ATIME}},
		"but noatime":    {[]string{"noatime", "nostrictatime"}, mountOptions{set: unix.MOUNT_ATTR_NOATIME, clr: unix.MOUNT_ATTR__ATIME}},
		"ratime":         {[]string{"rnoatime", "ratime", "rnosymfollow"}, mountOptions{recSet: unix.MOUNT_ATTR_NOSYMFOLLOW, recClr: unix.MOUNT_ATTR__ATIME}},
		"remount":        {[]string{"remount", "ro"}, mountOptions{remount: true, set: unix.MOUNT_ATTR_RDONLY}},
		"idmap":          {[]string{"idmap"}, mountOptions{idmap: true}},
		"ridmap":         {[]string{"idmap", "ridmap"}, mountOptions{idmap: true, recMap: true}},
		"flags":          {[]string{"ro", "nosuid", "nodev", "noexec"}, mountOptions{set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}},
		"cleared":        {[]string{"rw", "suid", "dev", "exec"}, mountOptions{clr: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}},
		"last wins":      {[]string{"ro", "rw", "exec", "noexec"}, mountOptions{set: unix.MOUNT_ATTR_NOEXEC, clr: unix.MOUNT_ATTR_RDONLY}},
		"rest":           {[]string{"nosymfollow", "nodiratime"}, mountOptions{set: unix.MOUNT_ATTR_NOSYMFOLLOW | unix.MOUNT_ATTR_NODIRATIME}},
		"noatime":        {[]string{"noatime"}, mountOptions{set: unix.MOUNT_ATTR_NOATIME, clr: unix.MOUNT_ATTR__ATIME}},
		"strictatime":    {[]string{"strictatime"}, mountOptions{set: unix.MOUNT_ATTR_STRICTATIME, clr: unix.MOUNT_ATTR__ATIME}},
		"relatime":       {[]string{"relatime"}, mountOptions{clr: unix.MOUNT_ATTR__ATIME}},
		"last atime":     {[]string{"noatime", "strictatime"}, mountOptions{set: unix.MOUNT_ATTR_STRICTATIME, clr: unix.MOUNT_ATTR__ATIME}},
		"atime over it":  {[]string{"strictatime", "relatime"}, mountOptions{clr: unix.MOUNT_ATTR__ATIME}},
		"recursive":      {[]string{"rro", "rnosuid", "rnodev", "rnoexec"}, mountOptions{recSet: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}},
		"rrw":            {[]string{"rro", "rrw"}, mountOptions{recClr: unix.MOUNT_ATTR_RDONLY}},
		"rnoatime":       {[]string{"rnoatime"}, mountOptions{recSet: unix.MOUNT_ATTR_NOATIME, recClr: unix.MOUNT_ATTR__ATIME}},
		"ro apart":       {[]string{"ro", "rrw"}, mountOptions{set: unix.MOUNT_ATTR_RDONLY, recClr: unix.MOUNT_ATTR_RDONLY}},
		"bind":           {[]string{"bind"}, mountOptions{bind: true}},
		"rbind":          {[]string{"rbind", "rprivate"}, mountOptions{bind: true, recBind: true, propagation: unix.MS_PRIVATE, recPropagation: true}},
		"shared":         {[]string{"shared"}, mountOptions{propagation: unix.MS_SHARED}},
		"rslave":         {[]string{"private", "rslave"}, mountOptions{propagation: unix.MS_SLAVE, recPropagation: true}},
		"runbindable":    {[]string{"runbindable"}, mountOptions{propagation: unix.MS_UNBINDABLE, recPropagation: true}},
		"copyupsync":     {[]string{"copyupsync"}, mountOptions{copyUp: true, copySync: true}},
		"copyup":         {[]string{"copyup"}, mountOptions{copyUp: true}},
		"tmpcopyup":      {[]string{"tmpcopyup", "mode=755"}, mountOptions{copyUp: true, tmpCopyUp: true, data: []string{"mode=755"}}},
		"data":           {[]string{"size=64k", "ro", "mode=1777", "rsize=8"}, mountOptions{set: unix.MOUNT_ATTR_RDONLY, data: []string{"size=64k", "mode=1777", "rsize=8"}}},
		"only one r":     {[]string{"rrro", "rrprivate"}, mountOptions{data: []string{"rrro", "rrprivate"}}},
		"case is theirs": {[]string{"RO"}, mountOptions{data: []string{"RO"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := parseOptions(&specs.Mount{Options: tc.options}); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("%v:\n got %+v\nwant %+v", tc.options, got, tc.want)
			}
		})
	}
	ids := []specs.LinuxIDMapping{{Size: 1}}
	if o := parseOptions(&specs.Mount{Type: "bind", UIDMappings: ids, GIDMappings: ids}); !o.bind || !o.idmap || o.recMap {
		t.Errorf("bind by type, mapped without an option: %+v", o)
	}
}

// TestLegacyFlags: mount(2) is told the same as fsconfig(2) and fsmount(2).
func TestLegacyFlags(t *testing.T) {
	o := parseOptions(&specs.Mount{Options: []string{
		"ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow", "sync", "dirsync", "lazytime", "mand", "nomand", "iversion", "x",
	}})
	want := uintptr(unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_NOSYMFOLLOW |
		unix.MS_SYNCHRONOUS | unix.MS_DIRSYNC | unix.MS_LAZYTIME | unix.MS_I_VERSION)
	if got := o.legacyFlags(); got != want {
		t.Errorf("flags %#x, want %#x", got, want)
	}
	for option, want := range map[string]bool{"iversion": true, "sync": false, "a=" + strings.Repeat("b", 300): true} {
		if o := parseOptions(&specs.Mount{Options: []string{option}}); o.legacy() != want {
			t.Errorf("%.20s: legacy %v", option, o.legacy())
		}
	}
}
