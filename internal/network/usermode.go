package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/undo"
)

// Without root's rights nobody can put an interface into the host's network. What a container sends to the world is then carried by a program in user space that
// makes connections of the user's own of it, and the other way round for published ports: pasta where it is installed, else slirp4netns. That is
// the container's own, on which nobody else is; for one another there are bridges in the user's hub.
const (
	modePasta = "pasta"
	modeSlirp = "slirp4netns"
)

// The addresses in such a network, slirp4netns's own. They are nobody else's business: two containers may have the same.
func userAddress() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 2, 100}), 24) }

const (
	userGateway = "10.0.2.2"
	userDNS     = "10.0.2.3" // slirp4netns's way to the host's name servers, also those on its loopback
)

// wayOut is the interface of the way out in a container that is on bridges, slirp4netns's name for it.
const wayOut = "tap0"

// alone reports whether a normal user's container asks for a network that nobody else is on.
func alone(mode string) bool { return mode == "" || mode == modePasta || mode == modeSlirp }

// attachUser is Attach for a normal user. A container on bridges has interfaces to these as root's have, in the user's hub, and beside them a way out of its own, unless all of
// them are internal.
func (m *Manager) attachUser(ctx context.Context, id string, spec api.NetworkSpec) (*api.Link, error) {
	var u undo.Stack
	defer u.Run()
	var link *api.Link
	var err error
	if spec.Priority != 0 || slices.ContainsFunc(spec.Networks, func(e api.EndpointSpec) bool { return e.Priority != 0 }) {
		return nil, noPriority()
	}
	if alone(spec.Mode) && len(spec.Networks) == 0 {
		link, err = m.attachAlone(spec)
	} else {
		link, err = m.attachHub(id, spec)
		u.Add(func() { m.Detach(context.Background(), id) })
	}
	if err != nil {
		return nil, err
	}
	u.Add(func() { closeLink(link) })
	if !leadsOut(link) {
		if len(spec.Ports) > 0 {
			return nil, noPorts()
		}
		u.Release()
		return link, nil
	}
	ports, err := m.bound(link, spec.Ports)
	if err != nil {
		return nil, err
	}
	if err := m.carry(ctx, id, link, spec, ports); err != nil {
		return nil, err
	}
	u.Release()
	return link, nil
}

func noPriority() error {
	return api.Errorf(api.Unsupported, "gw-priority is not supported without root's rights, where a container's way out is none of its networks: leave it out")
}

// attachAlone makes a namespace for a container that is on no bridge.
func (m *Manager) attachAlone(spec api.NetworkSpec) (*api.Link, error) {
	ns, inside, err := namespace(spec.Namespace)
	if err != nil {
		return nil, err
	}
	defer inside.Close()
	if err := loopback(inside); err != nil {
		ns.Close()
		return nil, err
	}
	link := &api.Link{NetNS: ns}
	beAlone(link)
	m.addDNS(link, spec, true)
	return link, nil
}

// beAlone enters the place that nobody else is on. The program that carries the packets gives the network its name.
func beAlone(link *api.Link) {
	link.Network, link.Interface, link.Addresses = modePasta, containerInterface, []netip.Prefix{userAddress()}
}

// attachHub puts a container on bridges of the hub.
func (m *Manager) attachHub(id string, spec api.NetworkSpec) (link *api.Link, err error) {
	spec.Ports = nil // the way out has them
	err = m.where(func() error {
		if spec.Mode == modeBridge && len(spec.Networks) == 0 {
			link, err = m.attachBridge(id, spec)
		} else {
			link, err = m.attachOwn(id, spec)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if link.Bridges, err = m.hub.share(); err != nil {
		closeLink(link)
		return nil, err
	}
	link.BridgesFile = m.path(hubFile)
	return link, nil
}

func closeLink(l *api.Link) {
	closeAll(append(append([]*os.File{l.NetNS}, l.Resolver...), l.Held...))
	if l.Bridges != nil {
		l.Bridges.Close()
	}
}

// carry starts the program that carries what a container has to say to others than its networks, and what is said to its published ports.
func (m *Manager) carry(ctx context.Context, id string, link *api.Link, spec api.NetworkSpec, specs []api.PortSpec) error {
	mode := "" // any
	name := wayOut
	if alone(spec.Mode) {
		mode, name = spec.Mode, link.Interface
	}
	program, err := carrier(mode)
	if err != nil {
		return err
	}
	ports, err := m.claim(id, specs)
	if err != nil {
		return err
	}
	link.Ports = nil
	for _, p := range ports {
		link.Ports = append(link.Ports, p.spec())
	}
	if err := os.MkdirAll(m.path("helper"), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(m.path("helper", id), nil, 0o600); err != nil { // see endHelper
		return err
	}
	to := carried{id: id, link: link, name: name, ports: ports}
	err = program.start(m, ctx, to)
	if errors.Is(err, errNoRoute) && mode == "" {
		if slirp, serr := carrier(modeSlirp); serr == nil {
			program = slirp
			err = program.start(m, ctx, to)
		}
	}
	if err != nil {
		return errors.Join(err, m.endHelper(id))
	}
	if alone(spec.Mode) {
		link.Network = program.name
	}
	if program.name == modeSlirp && len(spec.DNS) == 0 && link.Names == "" {
		link.DNS = []string{userDNS}
	}
	if slices.ContainsFunc(spec.AddHosts, func(h api.HostSpec) bool { return h.IP == hostGateway }) {
		link.Host = hostAddress()
	}
	return nil
}

// hostAddress is the address by which the host speaks to the world, none if it does not. A container reaches it by its way out: the programs leave out the loopback alone.
func hostAddress() []netip.Addr {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{203, 0, 113, 1}, Port: 9}); err != nil { // of TEST-NET-3, RFC 5737; nothing is sent
		return nil
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return nil
	}
	a := netip.AddrFrom4(sa.(*unix.SockaddrInet4).Addr)
	if a.IsLoopback() || a.IsUnspecified() {
		return nil
	}
	return []netip.Addr{a}
}

// program carries a container's packets. start returns when the first can pass.
type program struct {
	name  string
	path  string
	start func(m *Manager, ctx context.Context, to carried) error
}

// carried is what a program is started for.
type carried struct {
	id    string
	link  *api.Link
	name  string // of the interface that it makes
	ports []mapping
}

// carrier finds the program of that name, or with mode empty the best that is installed.
func carrier(mode string) (program, error) {
	if mode != modeSlirp {
		if path, err := exec.LookPath("pasta"); err == nil {
			return program{modePasta, path, startPasta(path)}, nil
		}
	}
	if mode != modePasta {
		if path, err := exec.LookPath("slirp4netns"); err == nil {
			return program{modeSlirp, path, startSlirp(path)}, nil
		}
	}
	if mode != "" {
		return program{}, api.Errorf(api.Unsupported, "network %s: the program is not there: install it, or use the network %s or %s", mode, modeNone, modeHost)
	}
	return program{}, api.Errorf(api.Unsupported, "a network without root's rights takes pasta (Debian's package passt) or slirp4netns, and neither is installed: "+
		"install one, or use --network %s, %s, or a network that is internal", modeNone, modeHost)
}

// claim finds out whether the host's ports can be had, and chooses those that were left open. The program then binds them itself.
func (m *Manager) claim(id string, specs []api.PortSpec) ([]mapping, error) {
	list := make([]api.PortSpec, len(specs))
	for i, s := range specs {
		if list[i] = s; s.HostIP == "" {
			list[i].HostIP = netip.IPv4Unspecified().String()
		}
	}
	ports, held, err := m.reserve(id, list, []netip.Prefix{userAddress(), netip.PrefixFrom(netip.IPv6Unspecified(), 0)})
	if errors.Is(err, unix.EACCES) {
		return nil, api.Errorf(api.Denied, "%w: low ports are root's: publish on a higher one, or have root lower the sysctl net.ipv4.ip_unprivileged_port_start", err)
	}
	closeAll(held)
	return ports, err
}

// errNoRoute says that the host has no way out that could be copied.
var errNoRoute = errors.New("the host has no route to other networks")

// startPasta starts passt's pasta. It goes to the background by itself when all is there, and notes its PID in helper/ID.
func startPasta(path string) func(*Manager, context.Context, carried) error {
	return func(m *Manager, ctx context.Context, to carried) error {
		args := []string{
			"--quiet", "--config-net", "--no-netns-quit", "--no-map-gw", "--ns-ifname", to.name,
			"--address", userAddress().Addr().String(), "--netmask", strconv.Itoa(userAddress().Bits()), "--gateway", userGateway,
			"--tcp-ns", "none", "--udp-ns", "none", "--pid", m.path("helper", to.id),
		}
		published := map[string]bool{}
		for _, p := range to.ports {
			spec := strconv.Itoa(int(p.Host.Port())) + ":" + strconv.Itoa(int(p.Container.Port()))
			if a := p.Host.Addr(); !a.IsUnspecified() {
				spec = a.String() + "/" + spec
			}
			args = append(args, "--"+p.Protocol+"-ports", spec)
			published[p.Protocol] = true
		}
		for _, protocol := range []string{"tcp", "udp"} {
			if !published[protocol] {
				args = append(args, "--"+protocol+"-ports", "none")
			}
		}
		cmd := exec.CommandContext(ctx, path, append(args, "--netns", "/proc/self/fd/3")...)
		cmd.ExtraFiles = []*os.File{to.link.NetNS}
		cmd.Dir = "/"
		var told bytes.Buffer
		cmd.Stderr = &told
		runtime.LockOSThread() // as long as it is in the foreground it ends with this thread
		defer runtime.UnlockOSThread()
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
		if err := cmd.Run(); err != nil {
			said := pastaSaid(told.String())
			if strings.Contains(said, "External interface not usable") {
				return fmt.Errorf("pasta: %w: use --network %s, %s or %s", errNoRoute, modeSlirp, modeNone, modeHost)
			}
			return api.Errorf(api.Unavailable, "pasta, which carries the container's network: %w: %s", err, said)
		}
		return nil
	}
}

// pastaSaid leaves out that there is no system log.
func pastaSaid(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasSuffix(line, "to syslog") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

// endHelper ends the program that carried a container's packets. The file holds its number; whether that is still its own its command line tells, which
// names the file. Who was killed while he started it has left an empty file: then it is looked for.
func (m *Manager) endHelper(id string) error {
	file := m.path("helper", id)
	data, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && pid > 1 {
		m.kill(id, pid, commandLine)
	} else if err := m.killUnknown(id); err != nil {
		return err
	}
	if err := os.Remove(file); !os.IsNotExist(err) {
		return err
	}
	return nil
}

// kill ends a process if it is the container's program by its command line, and reports whether it was.
func (m *Manager) kill(id string, pid int, lineOf func(int) []byte) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	line := lineOf(pid)
	if !bytes.Contains(line, []byte(m.path("helper", id)+"\x00")) && !bytes.Contains(line, []byte(m.slirpSocket(id)+"\x00")) {
		return false
	}
	unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) //nolint:errcheck // it has ended
	waitEnd(fd)
	return true
}

// killUnknown ends all processes that are the container's program: it goes to the background by making another of itself.
func (m *Manager) killUnknown(id string) error {
	const tries = 10
	for range tries {
		found := false
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return err
		}
		for _, e := range entries {
			if pid, err := strconv.Atoi(e.Name()); err == nil && pid > 1 && pid != os.Getpid() {
				found = m.kill(id, pid, commandLineNow) || found
			}
		}
		if !found {
			return nil
		}
	}
	return nil
}

// commandLine is the command line of a process. One that is just being executed has none for a moment, one that has ended has none at all.
func commandLine(pid int) []byte {
	for range 20 {
		if line, err := os.ReadFile(commandLineOf(pid)); err != nil || len(line) > 0 {
			return line
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// commandLineNow is commandLine for who asks of many, among them the kernel's, which have none.
func commandLineNow(pid int) []byte {
	line, _ := os.ReadFile(commandLineOf(pid))
	return line
}

func commandLineOf(pid int) string { return "/proc/" + strconv.Itoa(pid) + "/cmdline" }

// endHelpers is endHelper for all.
func (m *Manager) endHelpers() error {
	entries, err := os.ReadDir(m.path("helper"))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for _, e := range entries {
		if checkID(e.Name()) == nil && e.Type().IsRegular() {
			if err := m.endHelper(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// waitEnd waits for the end of a process that was killed, which gives its ports back; a second at most.
func waitEnd(pidfd int) {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 1000)
		if err != unix.EINTR {
			return
		}
	}
}
