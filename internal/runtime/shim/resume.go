package shim

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"

	"brig/internal/base/rootless"
	"brig/internal/runtime/oci"
	"brig/internal/runtime/shim/wire"
)

// resumeArg tells a shim that it takes over from itself.
const resumeArg = "--resume"

// renew executes the shim anew in its own place, when its containers run and nobody is connected: a process that has built a container holds a
// megabyte of heap and touched code that it will not need again. Process, children and open files stay. It returns only when it cannot be done.
func (s *server) renew() {
	if s.renewed || len(s.conns) > 0 || len(s.execs) > 0 || len(s.containers) == 0 {
		return
	}
	for _, c := range s.containers {
		if !c.started || c.failed || c.exit != nil || len(c.pending) > 0 || c.unhealthy != "" {
			return
		}
	}
	if r := s.resolver; r != nil && len(r.asks)+len(r.clients) > 0 {
		return
	}
	s.renewed = true
	fd, err := unix.MemfdCreate("shim", 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, s.save()); err != nil {
		return
	}
	keep := append([]int{s.lock, s.listener}, s.fds...)
	if rootless.User() {
		keep = append(keep, memberFD) // with the lock on it
	}
	for _, c := range s.containers {
		keep = append(keep, c.proc.PidFD, c.in, c.out[0], c.out[1])
	}
	inherit(keep, 0)
	err = unix.Exec("/proc/self/exe", []string{"brig-oci", "shim", s.dir, resumeArg, strconv.Itoa(fd)}, os.Environ())
	inherit(keep, unix.FD_CLOEXEC) // still here: it did not work, and what is executed later must not get them
	_ = err
}

func inherit(fds []int, flag int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag)
		}
	}
}

func (s *server) save() []byte {
	saved := wire.Saved{ListenerFD: s.listener, FDs: s.fds, Reap: s.reap, Bridges: s.bridges}
	for _, c := range s.containers {
		saved.Containers = append(saved.Containers, c.save())
	}
	if r := s.resolver; r != nil {
		saved.Resolver, saved.Names = [2]int{r.udp, r.tcp}, r.dir
	}
	return saved.Encode()
}

func (c *container) save() wire.SavedContainer {
	v := wire.SavedContainer{
		ID: c.id, Bundle: c.bundle, ExitPath: c.exitPath, CgroupPath: c.cgroupPath, StartedAt: c.startedAt,
		Pid: c.proc.Pid, PidFD: c.proc.PidFD, InFD: c.in, OutFD: c.out,
		Health: c.healthSpec, Durable: c.durable, TTY: c.tty, Once: c.once, OwnPIDs: c.ownPIDs, Root: c.root,
	}
	if c.log != nil {
		v.Log = &wire.SavedLog{Spec: c.log.spec, Line: [2]string{string(c.log.line[0]), string(c.log.line[1])}}
	}
	return v
}

// resume takes over what save wrote.
func resume(dir, arg string) error {
	fd, err := strconv.Atoi(arg)
	if err != nil {
		return fmt.Errorf("shim: %s %q is not a descriptor", resumeArg, arg)
	}
	f := os.NewFile(uintptr(fd), "shim")
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("shim: nothing to resume: %w", err)
	}
	data := make([]byte, st.Size)
	n, _ := f.ReadAt(data, 0)
	f.Close()
	debug.SetGCPercent(50)
	s, err := newServer(dir)
	if err != nil {
		return err
	}
	s.renewed = true
	saved := wire.DecodeSaved(data[:n])
	s.listener, s.fds, s.reap, s.bridges = saved.ListenerFD, saved.FDs, saved.Reap, saved.Bridges
	inherit(append([]int{s.lock, s.listener}, s.fds...), unix.FD_CLOEXEC)
	if rootless.User() {
		unix.CloseOnExec(memberFD)
	}
	for i := range saved.Containers {
		c := s.resumeContainer(&saved.Containers[i])
		s.containers[c.id] = c
		c.run()
		c.watchHealth(c.healthSpec)
	}
	if saved.Names != "" {
		s.resolve(saved.Resolver[0], saved.Resolver[1], saved.Names)
	}
	s.accept()
	return s.loop()
}

func (s *server) resumeContainer(v *wire.SavedContainer) *container {
	c := &container{id: v.ID, bundle: v.Bundle, exitPath: v.ExitPath, cgroupPath: v.CgroupPath, started: true, startedAt: v.StartedAt, root: v.Root}
	c.proc = &oci.Process{Pid: v.Pid, PidFD: v.PidFD}
	c.in, c.out = v.InFD, v.OutFD
	c.durable, c.tty, c.once, c.ownPIDs = v.Durable, v.TTY, v.Once, v.OwnPIDs
	c.s, c.ended, c.box, c.healthSpec = s, c.onExit, isBox(v.Bundle), v.Health
	if v.Log != nil {
		if c.log = openLog(v.Log.Spec); c.log != nil {
			c.log.line = [2][]byte{[]byte(v.Log.Line[0]), []byte(v.Log.Line[1])}
		}
	}
	inherit([]int{c.proc.PidFD, c.in, c.out[0], c.out[1]}, unix.FD_CLOEXEC)
	return c
}
