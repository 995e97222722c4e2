package escape

import (
	"os"
	"slices"
	"testing"
	"time"
)

// levelsEnv asks for all levels: make test-levels.
const levelsEnv = "BRIG_TEST_LEVELS"

// isolationEnv is Brig's own.
const isolationEnv = "BRIG_ISOLATION"

// attack is one on the whole engine, and the levels at which it cannot be tried as it is, with the reason. `brig selftest escape` tries there what a kernel of its own answers otherwise.
type attack struct {
	name string
	try  func(*testing.T)
	not  map[string]string
}

func attacks() []attack {
	return []attack{
		{"CVE_2019_19921_2026_41579", TestCVE_2019_19921_2026_41579, nil},
		{"CVE_2019_16884", TestCVE_2019_16884, nil},
		{"CVE_2024_40635", TestCVE_2024_40635, nil},
		{"CVE_2024_9676", TestCVE_2024_9676, nil},
		{"CVE_2026_53488", TestCVE_2026_53488, nil},
		{"CVE_2021_41091", TestCVE_2021_41091, nil},
		{"CVE_2024_21626", TestCVE_2024_21626, nil},
		{"CVE_2019_5736", TestCVE_2019_5736, map[string]string{"chroot": "with SYS_PTRACE root of a chroot is root of the host", "vm": "what it sees is the machine's own, whose agent runs as long as the machine"}},
		{"CVE_2025_31133_52565", TestCVE_2025_31133_52565, map[string]string{"gvisor": "/proc and /sys are the Sentry's own"}},
		{"CVE_2022_29162", TestCVE_2022_29162, nil},
		{"CVE_2022_0492", TestCVE_2022_0492, nil},
		{"CVE_2020_15257", TestCVE_2020_15257, map[string]string{"gvisor": "the host's network is refused", "vm": "the host's network is refused"}},
		{"CVE_2026_31431", TestCVE_2026_31431, map[string]string{"gvisor": "the Sentry answers system calls"}},
		{"HostileConfigs", TestHostileConfigs, nil},
		{"CopyBesideSwaps", TestCopyBesideSwaps, nil},
		{"CopyRunsNothing", TestCopyRunsNothing, nil},
		{"SubpathRace", TestSubpathRace, nil},
		{"TargetsOfSecretsAndDevices", TestTargetsOfSecretsAndDevices, nil},
		{"CraftedSizes", TestCraftedSizes, nil},
	}
}

// TestAtLevels makes the attacks on the whole engine with containers of the other levels.
func TestAtLevels(t *testing.T) {
	if os.Getenv(levelsEnv) == "" {
		t.Skip("takes minutes: make test-levels")
	}
	for _, level := range []string{"chroot", "container,userns", "gvisor", "vm"} {
		t.Run(level, func(t *testing.T) {
			t.Setenv(isolationEnv, level)
			if level == "vm" {
				defer func(d time.Duration) { patience = d }(patience)
				patience = 5 * time.Minute
			}
			if r := brig(t, "run", "--rm", "brig/base", "true"); r.code != 0 {
				t.Skipf("the level cannot be used here: %s", r.err)
			}
			for _, a := range attacks() {
				t.Run(a.name, func(t *testing.T) {
					if why := a.not[level]; why != "" {
						t.Skip(why)
					}
					a.try(t)
				})
			}
		})
	}
}

// atLevel gives a command's arguments a network that the level has: chroot has the host's alone.
func atLevel(args []string) []string {
	i := slices.Index(args, "--network")
	if os.Getenv(isolationEnv) != "chroot" || i < 0 || args[i+1] != "none" {
		return args
	}
	args = slices.Clone(args)
	args[i+1] = "host"
	return args
}
