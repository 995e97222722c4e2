package escape

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"brig/test/machine"
)

// asUser returns a function that runs brig as a normal user, and the user's folders.
func asUser(t *testing.T) (run func(args ...string) result, folders []string) {
	t.Helper()
	u, remove, err := machine.NormalUser(os.Getenv(binEnv))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remove)
	env := os.Environ()
	set := map[string]string{}
	home := t.TempDir()
	env = append(env, "HOME="+home)
	state, err := u.Folders(home, func(k, v string) { env, set[k] = append(env, k+"="+v), v })
	if err != nil {
		t.Fatal(err)
	}
	run = func(args ...string) result {
		t.Helper()
		cmd := exec.Command(u.Brig(), args...)
		var out, errs bytes.Buffer
		cmd.Env, cmd.Stdout, cmd.Stderr = env, &out, &errs
		cmd.Run()
		return result{out: out.String(), err: errs.String(), code: cmd.ProcessState.ExitCode()}
	}
	t.Cleanup(func() {
		if r := run("system", "reset", "--force"); r.code != 0 {
			t.Error(r)
		}
		os.RemoveAll(state)
	})
	return run, []string{set["XDG_DATA_HOME"] + "/brig", state + "/brig"}
}

// CVE-2023-25809: a rootless container that shares the host's namespaces could write to the user's own control groups.
func TestRootlessCgroups(t *testing.T) {
	brig, _ := asUser(t)
	for _, network := range []string{"none", "host"} {
		for _, privileged := range []bool{false, true} {
			args := []string{"run", "--rm", "--network", network}
			if privileged {
				args = append(args, "--privileged")
			}
			r := brig(append(args, "brig/base", "sh", "-c", `
				find /sys/fs/cgroup -maxdepth 2 -type d 2>/dev/null | while read d; do
					mkdir $d/escape 2>/dev/null && echo "made $d/escape"
					[ -w $d/cgroup.procs ] && (echo $$ >$d/cgroup.procs) 2>/dev/null && echo "joined $d"
				done
				mkdir /tmp/c; mount -t cgroup -o memory none /tmp/c 2>/dev/null && echo "mounted version 1"
				echo tried`)...)
			if r.code != 0 || strings.TrimSpace(r.out) != "tried" {
				t.Errorf("network %s, privileged %t: %s", network, privileged, r)
			}
		}
	}
}

// A user namespace within the user's: the container's root has no right to what is the user's, nor to what is another container's, whatever is bound into it.
func TestInnerRoot(t *testing.T) {
	brig, folders := asUser(t)
	mine := t.TempDir()
	for dir := mine; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(mine, "secret")
	if err := os.WriteFile(secret, []byte("nobody else's"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{mine, secret} {
		if err := os.Chown(path, machine.UserID, machine.UserID); err != nil {
			t.Fatal(err)
		}
	}
	if r := brig("run", "-d", "--name", "other", "--network", "none", "--userns", "auto", "brig/base", "sh", "-c", "echo theirs >/own; chmod 600 /own; exec sleep 100"); r.code != 0 {
		t.Fatal(r)
	}
	const try = `cat /m/secret /store/snapshot/active/*/fs/own 2>/dev/null
		for f in /m/new /store/new /store/snapshot/layer/new; do touch $f 2>/dev/null && echo "made $f"; done
		chown 0 /m/secret 2>/dev/null && echo took
		chmod 666 /m/secret 2>/dev/null && echo opened
		ls /store/container 2>/dev/null && echo listed
		echo tried`
	for _, how := range []string{"nomap", "auto"} {
		r := brig("run", "--rm", "--network", "none", "--userns", how, "-v", mine+":/m", "-v", folders[0]+":/store", "--cap-add", "ALL", "brig/base", "sh", "-c", try)
		if r.code != 0 || strings.TrimSpace(r.out) != "tried" {
			t.Errorf("%s: %s", how, r)
		}
	}
	// With keep-id the user's files are there for the user, and for root of the container; files of another container's users are not the user's outside.
	r := brig("run", "--rm", "--network", "none", "--userns", "keep-id", "-v", mine+":/m", "brig/base", "cat", "/m/secret")
	if r.out != "nobody else's" {
		t.Error(r)
	}
}

// What a normal user's Brig keeps is nobody else's to see; all of this runs under umask 0.
func TestRootlessStateIsClosed(t *testing.T) {
	brig, folders := asUser(t)
	if r := brig("run", "-d", "--network", "none", "-v", "/data", "brig/base", "sleep", "1000"); r.code != 0 {
		t.Fatal(r)
	}
	seen := 0
	for _, top := range folders {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(top, path)
			switch part := strings.Split(rel, "/"); {
			case part[0] == "snapshot" && len(part) > 3, part[0] == "volume" && len(part) > 2:
				return fs.SkipDir // files of images and volumes, below folders that are closed
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			seen++
			perm := info.Mode().Perm()
			if d.IsDir() && perm != 0o700 || info.Mode().IsRegular() && perm&0o022 != 0 || info.Mode()&fs.ModeSocket != 0 && perm&0o077 != 0 {
				t.Errorf("%s: %v", path, info.Mode())
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if seen < 30 {
		t.Errorf("%d files seen", seen)
	}
}

// A state folder below /tmp that somebody else has made first is refused.
func TestRootlessStateIsOnesOwn(t *testing.T) {
	brig, _ := asUser(t)
	theirs := t.TempDir()
	if err := os.Chmod(theirs, 0o777); err != nil {
		t.Fatal(err)
	}
	if r := brig("--state", theirs, "ps"); r.code != 125 || !strings.Contains(r.err, "belongs to user 0") {
		t.Error(r)
	}
	if err := os.Chown(theirs, machine.UserID, machine.UserID); err != nil {
		t.Fatal(err)
	}
	if r := brig("--state", theirs, "ps"); r.code != 125 || !strings.Contains(r.err, "written by others") {
		t.Error(r)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(theirs, link); err != nil {
		t.Fatal(err)
	}
	if r := brig("--state", link, "ps"); r.code != 125 || !strings.Contains(r.err, "not a folder") {
		t.Error(r)
	}
}

// A normal user's bridges are in a namespace of their own: nobody but the containers on a network reaches it, not those of another Brig that have a network of the same name and
// addresses, and no container reaches into the namespace. The probe is seen to work in one that has been given the capability: doc/adr/0009-rootless-networks.md.
func TestRootlessBridgesAreApart(t *testing.T) {
	brig, folders := asUser(t)
	home := filepath.Dir(filepath.Dir(folders[0]))
	data, err := os.ReadFile(probe)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "probe"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(home, "probe"), 0o755); err != nil {
		t.Fatal(err)
	}
	theirs := func(args ...string) result {
		return brig(append([]string{"--root", folders[0] + "-2", "--state", folders[1] + "-2"}, args...)...)
	}
	defer func() {
		if r := theirs("system", "reset", "--force"); r.code != 0 {
			t.Error(r)
		}
	}()
	good := func(r result) {
		t.Helper()
		if r.code != 0 {
			t.Fatal(r)
		}
	}
	for _, b := range []func(...string) result{brig, theirs} {
		good(b("network", "create", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64", "blue"))
		good(b("network", "create", "--internal", "quiet"))
	}
	good(brig("run", "-d", "--name", "web", "--network", "name=blue,ip=10.77.0.10,ip6=fd77::10", "brig/base", "httpd", "-f", "-h", "/etc"))
	good(theirs("run", "-d", "--network", "name=blue,ip=10.77.0.11", "brig/base", "sleep", "1000"))
	for _, url := range []string{"http://10.77.0.10/hostname", "http://[fd77::10]/hostname", "http://web/hostname"} {
		ask := []string{"brig/base", "sh", "-c", "timeout 2 wget -qO- " + url + "; exit $?"}
		good(brig(append([]string{"run", "--rm", "--network", "blue"}, ask...)...))
		for _, args := range [][]string{{}, {"--network", "quiet"}, {"--network", "bridge"}, {"--network", "host"}} {
			if r := brig(append(append([]string{"run", "--rm"}, args...), ask...)...); r.code == 0 || r.out != "" {
				t.Errorf("%q reaches %s: %s", args, url, r)
			}
		}
		if r := theirs(append([]string{"run", "--rm", "--network", "blue"}, ask...)...); r.code == 0 || r.out != "" {
			t.Errorf("another Brig reaches %s: %s", url, r)
		}
	}
	// With routes of its own making, through the gateway that it has.
	r := brig("run", "--rm", "--network", "quiet", "--cap-add", "NET_ADMIN", "brig/base", "sh", "-c", `
		gateway=$(ip route | sed -n 's/.* via \([0-9.]*\) .*/\1/p')
		ip route add default via $gateway dev eth0 onlink && echo routed
		timeout 3 wget -qO- http://10.77.0.10/hostname; ping -c 1 -W 1 10.77.0.1; ping -c 1 -W 1 192.0.2.1; true`)
	if !strings.HasPrefix(r.out, "routed") || strings.Contains(r.out, " 1 packets received") || strings.Count(r.out, "\n") > 12 {
		t.Errorf("from an internal network: %s", r)
	}
	look := func(args ...string) result {
		return brig(append(append([]string{"run", "--rm", "--network", "blue", "-v", home + "/probe:/probe:ro"}, args...), "brig/base", "/probe", "peers")...)
	}
	if r := look(); r.code != 0 || strings.Contains(r.out, "HOLE") || !strings.Contains(r.out, "refused 0") {
		t.Errorf("a container reaches into the bridges' namespace: %s", r)
	}
	if r := look("--cap-add", "NET_ADMIN"); !strings.Contains(r.out, "HOLE") {
		t.Errorf("the probe finds nothing where there is something: %s", r)
	}
}
