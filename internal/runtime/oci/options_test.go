package oci

import (
	"reflect"
	"testing"

	"golang.org/x/sys/unix"

	"brig/api"
)

func TestParseOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		options []string
		want    mountOptions
	}{
		"none":           {nil, mountOptions{}},
		"no effect":      {[]string{"defaults", "async", "nomand", "norelatime", "iversion"}, mountOptions{data: []string{"iversion"}}},
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
		"copyup":         {[]string{"copyup"}, mountOptions{copyUp: true}},
		"tmpcopyup":      {[]string{"tmpcopyup", "mode=755"}, mountOptions{copyUp: true, data: []string{"mode=755"}}},
		"data":           {[]string{"size=64k", "ro", "mode=1777", "rsize=8"}, mountOptions{set: unix.MOUNT_ATTR_RDONLY, data: []string{"size=64k", "mode=1777", "rsize=8"}}},
		"only one r":     {[]string{"rrro", "rrprivate"}, mountOptions{data: []string{"rrro", "rrprivate"}}},
		"case is theirs": {[]string{"RO"}, mountOptions{data: []string{"RO"}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseOptions("/t", tc.options)
			if err != nil || !reflect.DeepEqual(got, tc.want) {
				t.Errorf("%v:\n got %+v, %v\nwant %+v", tc.options, got, err, tc.want)
			}
		})
	}
	for _, o := range []string{"idmap", "ridmap", "remount"} {
		if _, err := parseOptions("/t", []string{"ro", o}); api.KindOf(err) != api.Unsupported {
			t.Errorf("%s: %v", o, err)
		}
	}
}
