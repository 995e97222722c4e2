package conform

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// look prints all that a process can tell of how its runtime has set it up.
const look = `
id; pwd; hostname; umask; env | sort; ulimit -a
for f in status limits oom_score_adj loginuid sessionid timerslack_ns personality attr/current uid_map gid_map setgroups; do echo "== $f"; cat /proc/self/$f; done
echo "== cgroup"; cat /proc/self/cgroup
echo "== fds"; ls /proc/self/fd
echo "== mounts"; cat /proc/self/mountinfo
echo "== dev"; ls -ln /dev
echo "== masked"; for f in /proc/kcore /proc/keys /proc/timer_list /proc/acpi /sys/firmware; do ls -ld $f >/dev/null 2>&1 && head -c 1 $f 2>&1; ls $f 2>/dev/null | wc -l; done
echo "== writes"; for f in /proc/sys/kernel/msgmax /sys/x /proc/sysrq-trigger /x /dev/x /dev/shm/x; do (: >>$f) 2>/dev/null && echo $f; done
echo "== stop"; exec 2>&1; kill -0 1 && echo "pid 1"; cat /proc/1/cmdline | tr '\0' ' '
`

// excused are differences to runc 1.1.5 that are meant: what a line says there, and why. The word stands for it in both.
var excused = []struct{ pattern, word, why string }{
	{`^(mounts: / /sys .* sysfs sysfs) r[ow]$`, "$1", "what is mounted may be written nowhere either way: the mount is read-only"},
	{`^(mounts: / /sys/fs/cgroup) r[ow],`, "$1 ", "config.json says ro, and runc leaves it writable"},
	{`^mounts: \S+ /sys/fs/cgroup/unified .*$`, "", "runc 1.1 leaves version 2 of a hybrid host out"},
	{`^(mounts: / /(?:proc|sys)/\S+) ro,.*tmpfs tmpfs r[ow].*$`, "$1", "brig-oci's masks of folders are nosuid, nodev, noexec and of no size"},
}

// TestInside: a process finds the same world in a bundle that runc runs and in one that brig-oci runs, but for what is excused.
func TestInside(t *testing.T) {
	gated(t)
	installed(t, "runc", "runc")
	dir := bundle(t, "sh", "-c", look)
	file := filepath.Join(dir, "config.json")
	plain := must[[]byte](t)(os.ReadFile(file))
	for _, c := range []struct{ name, config string }{
		{"runc's example", `{}`},
		{"a user with groups", `{"process": {"user": {"uid": 1000, "gid": 1001, "umask": 63, "additionalGids": [5, 6]}}}`},
		{"rights", `{"process": {"noNewPrivileges": false, "capabilities": {"bounding": ["CAP_CHOWN", "CAP_NET_RAW"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN", "CAP_NET_RAW"],
			"inheritable": ["CAP_NET_RAW"], "ambient": ["CAP_NET_RAW"]}}}`},
		{"limits", `{"process": {"oomScoreAdj": 77, "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]}}`},
		{"a writable root", `{"root": {"readonly": false}, "hostname": "other", "process": {"cwd": "/tmp", "env": ["PATH=/bin", "A=b"]}}`},
		{"sysctl and devices", `{"linux": {"sysctl": {"kernel.msgmax": "4096"}, "devices": [{"path": "/dev/made", "type": "c", "major": 1, "minor": 3, "fileMode": 416, "uid": 3, "gid": 4}]}}`},
		{"seccomp", `{"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{"names": ["mkdirat", "mkdir"], "action": "SCMP_ACT_ERRNO"}]}}}`},
		{"a user namespace", `{"linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}, {"type": "user"}],
			"uidMappings": [{"containerID": 0, "hostID": 0, "size": 65536}], "gidMappings": [{"containerID": 0, "hostID": 0, "size": 65536}]}}`},
		{"cgroup and ipc of the host", `{"linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}]}}`},
		{"no masks", `{"linux": {"maskedPaths": [], "readonlyPaths": []}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var config, change any
			for from, to := range map[string]*any{string(plain): &config, c.config: &change} {
				if err := json.Unmarshal([]byte(from), to); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(file, must[[]byte](t)(json.Marshal(merge(config, change))), 0o644); err != nil {
				t.Fatal(err)
			}
			args := []string{"--root", t.TempDir(), "run", "-b", dir, "conform-inside"}
			a, b := client{"runc"}.do(t, "", args...), client{brigOCI()}.do(t, "", args...)
			if a.code != 0 || b.code != 0 {
				t.Fatalf("runc %v\nbrig-oci %v", a.err, b)
			}
			// Without a cgroupsPath runc begins at its own groups of version 1, crun and brig-oci at the root.
			for _, group := range ownGroups(t) {
				a.out = strings.ReplaceAll(a.out, group+"/conform-inside", "/conform-inside")
			}
			first, second := sight(a.out), sight(b.out)
			if len(first) < 100 {
				t.Fatalf("only %d lines: %s", len(first), a.out)
			}
			for _, line := range first {
				if line != "" && !slices.Contains(second, line) {
					t.Errorf("only with runc: %s", line)
				}
			}
			for _, line := range second {
				if line != "" && !slices.Contains(first, line) {
					t.Errorf("only with brig-oci: %s", line)
				}
			}
		})
	}
}

// ownGroups lists the control groups of this process but for the root.
func ownGroups(t *testing.T) []string {
	var out []string
	for line := range strings.Lines(string(must[[]byte](t)(os.ReadFile("/proc/self/cgroup")))) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 && f[2] != "/" {
			out = append(out, f[2])
		}
	}
	return out
}

// merge lays change over config: objects are merged, all else is replaced.
func merge(config, change any) any {
	into, ok := config.(map[string]any)
	from, also := change.(map[string]any)
	if !ok || !also {
		return change
	}
	for k, v := range from {
		into[k] = merge(into[k], v)
	}
	return into
}

// sight are the lines of what look printed, without what differs from run to run, each with the part that it stands in.
func sight(out string) []string {
	drop := regexp.MustCompile(`^(Pid|PPid|Tgid|Ngid|Name|NSpid|NSpgid|NSsid|NStgid|Vm\w+|Rss\w+|Threads|SigQ|\w*ctxt_switches|Cpus_allowed\w*|Mems_allowed\w*|HugetlbPages|CoreDumping|THP_enabled|Speculation\w*|x86_\w+|FDSize|untag_mask):`)
	id := regexp.MustCompile(`^\d+ \d+ \d+:\d+ `)
	date := regexp.MustCompile(`[A-Z][a-z]{2} +\d+ [\d:]+ `)
	var excuses []*regexp.Regexp
	for _, e := range excused {
		excuses = append(excuses, regexp.MustCompile(e.pattern))
	}
	var lines []string
	part := ""
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "== ") {
			part = line[3:] + ": "
			continue
		}
		if drop.MatchString(line) {
			continue
		}
		line = part + date.ReplaceAllString(id.ReplaceAllString(line, ""), "")
		for i, e := range excused {
			line = excuses[i].ReplaceAllString(line, e.word)
		}
		lines = append(lines, line)
	}
	return lines
}
