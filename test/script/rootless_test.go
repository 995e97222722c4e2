package script

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"brig/test/machine"
)

// notRootless are the stories that a normal user's Brig cannot tell, and why.
var notRootless = map[string]string{
	"cp":                "it writes to a file of root's",
	"chroot":            "the kernel makes no user namespace in a chroot",
	"layers-as-images":  "the kernel mounts EROFS for root only",
	"layers-of-zstd":    "the kernel mounts EROFS for root only",
	"ports-udp":         "programs that carry packets lose the answers to what comes from the host's loopback; rootless-network asks from elsewhere",
	"push-ssh":          "its ssh keeps the far store where root made the folder",
	"vm-kernel-package": "level vm is for root's containers",
}

// TestRootlessStories runs every story as a normal user, with the folders that such a user has by default: brig is a program that drops root's rights first.
func TestRootlessStories(t *testing.T) {
	needRoot(t)
	user, remove, err := machine.NormalUser(os.Getenv(binEnv))
	if err != nil {
		t.Fatal(err)
	}
	defer remove()
	groups := hasGroups(t, user)
	testscript.RunT(serial{t}, testscript.Params{
		Files: stories(t, notRootless),
		Setup: func(env *testscript.Env) error {
			before, err := machine.Take()
			if err != nil {
				return err
			}
			run, err := userEnv(user, env)
			if err != nil {
				return err
			}
			env.Defer(func() {
				leaveNothing(env.T().(serial).T, before, user.Brig(), env.Vars)
				os.RemoveAll(run)
			})
			return nil
		},
		Cmds: commands,
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "rootless":
				return true, nil
			case "groups":
				return groups, nil
			case "vm", "sentry": // which are root's alone
				return false, nil
			}
			return condition(cond)
		},
	})
}

// hasGroups asks the user's Brig whether its containers have control groups.
func hasGroups(t *testing.T, u *machine.User) bool {
	t.Helper()
	dir := t.TempDir()
	env := os.Environ()
	run, err := u.Folders(dir, func(k, v string) { env = append(env, k+"="+v) })
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(run)
	cmd := exec.Command(u.Brig(), "info", "--format", "{{.CgroupDriver}}")
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("brig info: %v\n%s", err, out)
	}
	t.Logf("brig info says of the user's control groups: %s", out)
	return strings.TrimSpace(string(out)) != "none"
}

// userEnv gives a story the user's folders, and the run-time one back.
func userEnv(u *machine.User, env *testscript.Env) (run string, err error) {
	if run, err = u.Folders(env.WorkDir, env.Setenv); err != nil {
		return run, err
	}
	env.Setenv("PATH", u.Path()+string(os.PathListSeparator)+os.Getenv("PATH"))
	env.Setenv("BRIG_ROOT", env.Getenv("XDG_DATA_HOME")+"/brig") // for stories that look there; brig itself is not told
	env.Setenv("BRIG_STATE", filepath.Join(run, "brig"))
	env.Setenv("BRIG_BIN", os.Getenv(binEnv))
	env.Setenv("IMAGE", "brig/base")
	return run, nil
}
