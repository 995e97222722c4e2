package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Servers are Debian's packages of servers, of what loads them, and of a language, which bench and tests run: one tarball for all.
func Servers() []string {
	return []string{"nginx-light", "redis-server", "redis-tools", "postgresql", "wrk", "python3"}
}

// DebianTarball makes, or finds in the folder cache, the root file system of a minimal Debian 12 with the given packages more, from
// the package mirrors that this machine is set up with. It takes half a minute and some 100 MB.
func DebianTarball(cache string, packages ...string) (string, error) {
	name := strings.Join(append([]string{"debian-12-minbase"}, packages...), "+") + ".tar"
	path, err := filepath.Abs(filepath.Join(cache, name))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	tmp := fmt.Sprintf("%s.%d.tar", strings.TrimSuffix(path, ".tar"), os.Getpid())
	args := []string{"--quiet", "--variant=minbase", "--format=tar"}
	if len(packages) > 0 {
		args = append(args, "--include="+strings.Join(packages, ","))
	}
	out, err := exec.Command("mmdebstrap", append(args, "bookworm", tmp)...).CombinedOutput()
	if err != nil {
		os.Remove(tmp)
		return "", fmt.Errorf("mmdebstrap: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return path, os.Rename(tmp, path)
}
