package lsm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brig/api"
)

// write makes files below a folder that stands for a machine.
func write(t *testing.T, files map[string]string) Host {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Host{root}
}

func TestAppArmor(t *testing.T) {
	const enabled, dir = "sys/module/apparmor/parameters/enabled", "sys/kernel/security/apparmor/profiles"
	if err := write(t, map[string]string{enabled: "Y\n", dir: ""}).AppArmor(); err != nil {
		t.Error(err)
	}
	for words, files := range map[string]map[string]string{
		"no AppArmor": {enabled: "Y\n"}, "is off": {enabled: "N\n", dir: ""}, "parameters/enabled": {dir: ""},
	} {
		if err := write(t, files).AppArmor(); api.KindOf(err) != api.Unsupported || !strings.Contains(err.Error(), words) {
			t.Errorf("%v: %v", files, err)
		}
	}
}

func TestSELinux(t *testing.T) {
	const current, dir = "proc/thread-self/attr/current", "sys/fs/selinux/enforce"
	if err := write(t, map[string]string{current: "system_u:system_r:init_t:s0\x00", dir: "1"}).SELinux(); err != nil {
		t.Error(err)
	}
	for words, files := range map[string]map[string]string{
		"no selinuxfs": {current: "system_u:system_r:init_t:s0"}, "no policy": {current: "kernel\x00", dir: "0"}, "(no policy": {dir: "1"},
	} {
		if err := write(t, files).SELinux(); api.KindOf(err) != api.Unsupported || !strings.Contains(err.Error(), words) {
			t.Errorf("%v: %v", files, err)
		}
	}
	if err := (Host{t.TempDir()}).SELinux(); err == nil {
		t.Error("an empty machine has SELinux")
	}
}
