package escape

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCopyRace: the copying of files, in the test of its own package, which is tried here without the defence too; with BRIG_ESCAPE_SECONDS 100 000 copies.
func TestCopyRace(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("there is no compiler here")
	}
	for weak, rounds := range map[string]string{"": "250", "copy": "2500"} {
		if os.Getenv(secondsEnv) != "" && weak == "" {
			rounds = "25000"
		}
		file := filepath.Join(t.TempDir(), "test")
		build := exec.Command("go", "test", "-c", "-tags", map[string]string{"copy": "brig_weaken"}[weak], "-o", file, "brig/internal/engine/transfer")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		cmd := exec.Command(file, "-test.run", "^TestCopyRace$", "-test.v")
		cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), "BRIG_WEAKEN="+weak, "BRIG_COPY_ROUNDS="+rounds)
		out, err := cmd.CombinedOutput()
		t.Logf("without %q:\n%s", weak, out)
		if weak == "" && err != nil {
			t.Errorf("the attack succeeds: %v", err)
		}
		if weak != "" && !strings.Contains(string(out), "--- FAIL: TestCopyRace") {
			t.Errorf("the attack fails without %s too, so it proves nothing", weak)
		}
	}
}

// TestCopyBesideSwaps: the whole command, beside a container that exchanges a folder and a link to the host's.
func TestCopyBesideSwaps(t *testing.T) {
	out := t.TempDir()
	if err := os.WriteFile(out+"/secret", []byte("host"), 0o644); err != nil {
		t.Fatal(err)
	}
	id := victim(t, "brig/base", "sh", "-c", `mkdir -p /d "`+out+`"; echo inside >/d/secret; ln -s "`+out+`" /l; while :; do mv /d /x; mv /l /d; mv /d /l; mv /x /d; done`)
	mine := t.TempDir()
	if err := os.WriteFile(mine+"/file", []byte("copied"), 0o644); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(seconds(3 * time.Second)); time.Now().Before(end); {
		brig(t, "cp", mine+"/file", id+":/d/new")
		brig(t, "cp", mine+"/file", id+":/d/secret")
		brig(t, "cp", "-L", id+":/d/secret", mine+"/got")
		if got, _ := os.ReadFile(mine + "/got"); string(got) == "host" {
			t.Fatal("a file of the host was read")
		}
		if names, _ := os.ReadDir(out); len(names) != 1 {
			t.Fatalf("made on the host: %v", names)
		}
		if got, _ := os.ReadFile(out + "/secret"); string(got) != "host" {
			t.Fatalf("a file of the host was written: %q", got)
		}
	}
}

// TestCopyRunsNothing: what a container has in the place of tar, unpackers and libraries is not executed on the host by a copy (CVE-2019-14271, 2026-41567).
func TestCopyRunsNothing(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	id := victim(t, "-e", "PATH=/evil", "brig/base", "/bin/sh", "-c", `/bin/mkdir -p /evil /lib; for p in tar xz unxz gzip unpigz zstd chroot sh; do
		/bin/printf '#!/bin/sh\n: >`+mark+`\n' >/evil/$p; /bin/chmod 755 /evil/$p; /bin/cp /evil/$p /lib/libnss_files.so.2; done; exec /bin/sleep 1000`)
	for deadline := time.Now().Add(patience); brig(t, "exec", id, "/bin/test", "-x", "/evil/sh").code != 0 && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
	}
	must(t, "cp", id+":/evil", t.TempDir())
	must(t, "cp", "README.md", id+":/evil")
	must(t, "top", id)
	must(t, "diff", id)
	if _, err := os.Lstat(mark); err == nil {
		t.Error("the container's code ran on the host")
	}
}
