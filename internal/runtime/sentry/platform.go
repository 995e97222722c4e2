package sentry

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/kernel/proc"
)

// The platforms of gVisor: how the Sentry gets to know of system calls.
const (
	Systrap = "systrap" // signals and seccomp
	Ptrace  = "ptrace"  // slower, where that does not work
	KVM     = "kvm"     // on a processor that has it
)

// ArgProbe has the program run something in a Sentry on the platform of the next argument, with the folder of the one after that, which is empty, for its files.
const ArgProbe = "probe"

// patience is how long a probe may take, many times what it needs: gVisor waits for ever for some emulations of KVM.
const patience = 10 * time.Second

// none is kept where no platform works.
const none = "none"

// platform is what containers run on here: api.Unsupported where nothing works, or not what was asked for.
func (l Level) platform() (string, error) {
	wanted, tried := l.Platform, []string{l.Platform}
	switch wanted {
	case "":
		wanted, tried = "platform", []string{Systrap, Ptrace}
	case Systrap, Ptrace, KVM:
	default:
		return "", api.Errorf(api.InvalidArgument, "platform %q of gVisor is unknown: use systrap, ptrace or kvm", wanted)
	}
	cache, boot := filepath.Join(l.State, wanted), proc.BootID()
	found := none
	if b, err := os.ReadFile(cache); err == nil {
		if known, ok := strings.CutPrefix(strings.TrimSpace(string(b)), boot+" "); ok && (known == none || slices.Contains(tried, known)) {
			return l.worked(known, tried)
		}
	}
	if err := os.MkdirAll(l.State, 0o700); err != nil {
		return "", err
	}
	sure := true
	for _, p := range tried {
		ran, known := l.runs(p)
		if sure = sure && known; ran {
			found = p
			break
		}
	}
	if found == none && l.Platform == "" { // what keeps it from working here, a chroot for one, may not be there in a box, where the container's start tells
		return Systrap, nil
	}
	if !sure && l.Platform != KVM { // that is for a machine that is less busy to find out again: only emulations of KVM hang
		return l.worked(found, tried)
	}
	_ = atomicfile.Write(cache, []byte(boot+" "+found+"\n"), 0o600, atomicfile.Volatile) // else the next one finds it out
	return l.worked(found, tried)
}

func (l Level) worked(found string, tried []string) (string, error) {
	if found == none {
		return "", api.Errorf(api.Unsupported, "gVisor runs nothing on its platform %s here, or not within %s", strings.Join(tried, " or "), patience)
	}
	return found, nil
}

// runs reports whether something runs to its end on a platform in time, and whether that is known: not if the run was killed. The Sentry and its gofer end with the program that is
// killed when it takes too long.
func (l Level) runs(platform string) (ran, known bool) {
	if old, err := filepath.Glob(filepath.Join(l.State, "probe*")); err == nil {
		for _, dir := range old {
			if info, err := os.Lstat(dir); err == nil && time.Since(info.ModTime()) > 6*patience { // of who was killed
				os.RemoveAll(dir)
			}
		}
	}
	dir, err := os.MkdirTemp(l.State, "probe")
	if err != nil {
		return false, false
	}
	defer os.RemoveAll(dir)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return false, false
	}
	defer null.Close()
	p, err := os.StartProcess(l.Path, []string{l.Path, ArgProbe, platform, dir}, &os.ProcAttr{
		Files: []*os.File{null, null, null}, Sys: &syscall.SysProcAttr{Setsid: true}, // Ctrl-C is not for it
	})
	if err != nil {
		return false, false
	}
	late := time.AfterFunc(patience, func() { _ = p.Kill() })
	defer late.Stop()
	state, err := p.Wait()
	return err == nil && state.Success(), err == nil && state.Exited()
}

// Detail is what `brig info` says of the level.
func (l Level) Detail() string {
	p, err := l.platform()
	if err != nil {
		return ""
	}
	return "platform " + p
}
