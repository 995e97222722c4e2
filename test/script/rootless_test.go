package script

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"brig/test/machine"
)

// notRootless are the stories that a normal user's Brig cannot tell, and why.
var notRootless = map[string]string{
	"cp":               "it writes to a file of root's",
	"events":           "it pauses: no control group is delegated to the user",
	"pause":            "no control group is delegated to the user",
	"pick-paused":      "no control group is delegated to the user",
	"pick":             "it pauses: no control group is delegated to the user",
	"stats":            "no control group is delegated to the user",
	"update":           "no control group is delegated to the user",
	"why":              "it limits memory",
	"chroot":           "the kernel makes no user namespace in a chroot",
	"inspect":          "it limits memory",
	"layers-as-images": "the kernel mounts EROFS for root only",
	"flags-cgroup":     "no control group is delegated to the user",
	"flags-limits":     "no control group is delegated to the user",
	"layers-of-zstd":   "the kernel mounts EROFS for root only",
	"limits":           "no control group is delegated to the user",
	"memory":           "no control group is delegated to the user",
	"ports-udp":        "programs that carry packets lose the answers to what comes from the host's loopback; rootless-network asks from elsewhere",
	"pods-limits":      "no control group is delegated to the user",
	"push-ssh":         "its ssh keeps the far store where root made the folder",
}

// TestRootlessStories runs every story as a normal user, with the folders that such a user has by default: brig is a program that drops root's rights first.
func TestRootlessStories(t *testing.T) {
	needRoot(t)
	user, remove, err := machine.NormalUser(os.Getenv(binEnv))
	if err != nil {
		t.Fatal(err)
	}
	defer remove()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	untold := len(notRootless)
	for _, f := range files {
		if _, not := notRootless[strings.TrimSuffix(filepath.Base(f), ".txtar")]; not {
			untold--
			continue
		}
		told = append(told, f)
	}
	if untold != 0 {
		t.Errorf("the table of stories that are not told has %d that do not exist", untold)
	}
	testscript.RunT(serial{t}, testscript.Params{
		Files: told,
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
			if cond == "rootless" {
				return true, nil
			}
			return condition(cond)
		},
	})
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
