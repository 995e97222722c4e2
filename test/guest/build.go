package guest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/base/lock"
	"brig/test/guest/wire"
)

// currentLink names the snapshot in use, in the cache folder.
const currentLink = "current"

// How long a boot may take, and how long the agent may leave a greeting without an answer before it is said again. KVM that emulates
// the guest's kernel needs minutes for what takes it a second else; TCG 15 s, on a machine where all cores are busy two minutes.
const (
	bootKVM  = 30 * time.Second
	bootTCG  = 5 * time.Minute
	tries    = 2 // with TCG: a boot under a heavy load has hung once in twenty
	greeting = 30 * time.Second
)

// builder is one Build.
type builder struct {
	cache string
	say   func(format string, args ...any)
}

// Build makes what is missing of the guest, in .cache/guest: the root file system (by packages and version of the kernel), then the
// saved machine (by that, the agent and QEMU). It says what it does, a line a step. What is there already costs a second.
func Build(ctx context.Context, progress io.Writer) (*Image, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("a root file system is made by root only: run make guest as root")
	}
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	turn, err := lock.Take(filepath.Join(cache, "lock"))
	if err != nil {
		return nil, err
	}
	defer turn.Release()
	begun := time.Now()
	b := &builder{cache: cache, say: func(format string, args ...any) {
		fmt.Fprintf(progress, "guest %3.0fs  %s\n", time.Since(begun).Seconds(), fmt.Sprintf(format, args...))
	}}
	base, err := b.base(ctx)
	if err != nil {
		return nil, err
	}
	img, err := b.snapshot(ctx, base)
	if err != nil {
		return nil, err
	}
	return img, b.use(base, filepath.Base(img.dir))
}

// use points the link at a snapshot and removes older builds. Guests that run from those hold what they need open.
func (b *builder) use(base, snapshot string) error {
	link := filepath.Join(b.cache, currentLink)
	os.Remove(link + ".new")
	if err := os.Symlink(snapshot, link+".new"); err != nil {
		return err
	}
	if err := os.Rename(link+".new", link); err != nil {
		return err
	}
	entries, err := os.ReadDir(b.cache)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch name := e.Name(); name {
		case currentLink, "lock", base, snapshot:
		default:
			if err := os.RemoveAll(filepath.Join(b.cache, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// snapshot boots the base and saves it when it answers. It returns the one that is there if nothing has changed.
func (b *builder) snapshot(ctx context.Context, base string) (*Image, error) {
	agent, err := b.agent(ctx)
	if err != nil {
		return nil, err
	}
	version, err := output(ctx, "", program, "--version")
	if err != nil {
		return nil, err
	}
	key := keyOf(base, agent.hash, version, initScript, strings.Join((&Image{accel: "tcg"}).bootArgs(), " "), warmUp)
	dir := filepath.Join(b.cache, "snapshot-"+key)
	if img, err := open(dir); err == nil {
		b.say("the saved machine is there: %s", filepath.Base(dir))
		return img, nil
	}
	tmp, err := os.MkdirTemp(b.cache, "tmp-snapshot-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	img := &Image{dir: tmp}
	if err := bootFiles(filepath.Join(b.cache, base), agent, img); err != nil {
		return nil, err
	}
	if err := b.firstBoot(ctx, filepath.Join(b.cache, base), img); err != nil {
		return nil, err
	}
	// A restore reads neither: QEMU wants a kernel's head, and some initrd, for the devices that were there.
	if err := errors.Join(os.Truncate(img.path(kernelFile), 64<<10), os.Truncate(img.path(initrdFile), 4<<10)); err != nil {
		return nil, err
	}
	if err := os.WriteFile(img.path(accelFile), []byte(img.accel+"\n"), 0o644); err != nil {
		return nil, err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return nil, err
	}
	img.dir = dir
	return img, nil
}

// firstBoot tries the accelerators: a /dev/kvm that opens may still need minutes to boot a Debian kernel, and only a boot tells.
func (b *builder) firstBoot(ctx context.Context, base string, img *Image) error {
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
		f.Close()
		img.accel = "kvm"
		err := b.bootAndSave(ctx, base, img, bootKVM)
		if err == nil || ctx.Err() != nil {
			return err
		}
		b.say("not with KVM: %v", err)
	}
	img.accel = "tcg"
	var err error
	for range tries {
		if err = b.bootAndSave(ctx, base, img, bootTCG); err == nil || ctx.Err() != nil {
			break
		}
		b.say("%v", err)
	}
	return err
}

// greet says hello until a machine that boots has an agent that answers.
func greet(ctx context.Context, g *Guest) error {
	for {
		try, cancel := context.WithTimeout(ctx, greeting)
		err := g.Hello(try)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}

// warmUp is run before the machine is saved: modules and programs that tests use are then in memory.
const warmUp = `set -e
for m in overlay loop fuse tun veth bridge macvlan vxlan nf_tables nft_chain_nat nft_masq nft_redir nft_ct nft_compat nf_conntrack \
	xt_MASQUERADE tcp_diag udp_diag raw_diag unix_diag inet_diag netlink_diag af_packet_diag binfmt_misc; do
	modprobe $m 2>/dev/null || echo "no module $m"
done
[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]
criu check
runc --version
nft list ruleset
ip link
tar --version
systemd-cgls --no-pager
sync`

func (b *builder) bootAndSave(ctx context.Context, base string, img *Image, deadline time.Duration) error {
	if _, err := output(ctx, "", "cp", "--sparse=always", filepath.Join(base, diskFile), img.path(diskFile)); err != nil {
		return err
	}
	if err := os.RemoveAll(img.path(memoryFile)); err != nil {
		return err
	}
	b.say("boots with -accel %s", img.accel)
	m, err := startVM(img.dir, img.bootArgs())
	if err != nil {
		return err
	}
	defer m.kill()
	bootCtx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	g := &Guest{Client: wire.NewClient(m.agent), vm: m}
	if err := greet(bootCtx, g); err != nil {
		return fmt.Errorf("boot: %w%s", err, m.said())
	}
	b.say("the agent answers; waits for systemd")
	state, err := g.Output(bootCtx, "systemctl", "is-system-running", "--wait")
	if err != nil {
		units, _ := g.Output(ctx, "systemctl", "--no-pager", "--failed")
		return fmt.Errorf("systemd is %s: %w\n%s%s", strings.TrimSpace(state), err, units, m.said())
	}
	b.say("systemd is %s; warms up", strings.TrimSpace(state))
	out, err := g.Output(bootCtx, "/bin/sh", "-c", warmUp)
	if err != nil {
		return fmt.Errorf("warm up: %w\n%s", err, out)
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "no module") {
			b.say("%s", strings.TrimSpace(line))
		}
	}
	if err := m.qmp.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	mon, err := newMonitor(m.qmp)
	if err != nil {
		return err
	}
	if err := mon.save(time.Minute); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(img.path(memoryFile), &st); err != nil {
		return err
	}
	b.say("saved: %d MiB of memory in use", st.Blocks*512>>20)
	return nil
}

// binary is a program that was built.
type binary struct {
	content []byte
	hash    string
}

// agent builds the guest's agent, the same bytes each time.
func (b *builder) agent(ctx context.Context) (binary, error) {
	f, err := os.CreateTemp(b.cache, "tmp-agent-")
	if err != nil {
		return binary{}, err
	}
	f.Close()
	defer os.Remove(f.Name())
	root, err := top()
	if err != nil {
		return binary{}, err
	}
	if _, err := output(ctx, root, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", f.Name(), "./test/guest/agent"); err != nil {
		return binary{}, err
	}
	content, err := os.ReadFile(f.Name())
	if err != nil {
		return binary{}, err
	}
	return binary{content, keyOf(string(content))}, nil
}

// keyOf is a short name for all that a build depends on.
func keyOf(of ...string) string {
	h := sha256.Sum256([]byte(strings.Join(of, "\x00")))
	return hex.EncodeToString(h[:6])
}

// output runs a program in folder dir and returns its standard output; what it says on standard error is in the error.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
	out, err := cmd.Output()
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(ee.Stderr)))
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return string(out), err
}
