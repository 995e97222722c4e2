package shim

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/runtime"
	"brig/internal/runtime/oci"
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
		if !c.started || c.exit != nil || len(c.pending) > 0 {
			return
		}
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
	v := new(saved)
	v.putInt(int64(s.listener))
	v.putInt(int64(len(s.fds)))
	for _, fd := range s.fds {
		v.putInt(int64(fd))
	}
	v.putInt(int64(len(s.reap)))
	for _, a := range s.reap {
		v.putString(a)
	}
	v.putInt(int64(len(s.containers)))
	for _, c := range s.containers {
		for _, str := range []string{c.id, c.bundle, c.exitPath, c.cgroupPath} {
			v.putString(str)
		}
		for _, n := range []int64{c.startedAt.UnixNano(), int64(c.proc.Pid), int64(c.proc.PidFD), int64(c.in), int64(c.out[0]), int64(c.out[1])} {
			v.putInt(n)
		}
		for _, t := range []bool{c.durable, c.tty, c.once, c.ownPIDs, c.log != nil} {
			v.putBool(t)
		}
		if c.log != nil {
			v.putString(c.log.spec.Path)
			v.putInt(c.log.spec.MaxSize)
			v.putInt(int64(c.log.spec.MaxFiles))
			v.putString(string(c.log.line[0]))
			v.putString(string(c.log.line[1]))
		}
	}
	return v.b
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
	v := &saved{data[:n]}
	s.listener = v.int()
	for range v.int() {
		s.fds = append(s.fds, v.int())
	}
	for range v.int() {
		s.reap = append(s.reap, v.string())
	}
	inherit(append([]int{s.lock, s.listener}, s.fds...), unix.FD_CLOEXEC)
	for range v.int() {
		c := s.resumeContainer(v)
		s.containers[c.id] = c
		c.run()
	}
	s.accept()
	return s.loop()
}

func (s *server) resumeContainer(v *saved) *container {
	c := &container{id: v.string(), bundle: v.string(), exitPath: v.string(), cgroupPath: v.string(), started: true}
	c.startedAt = time.Unix(0, int64(v.int())).UTC()
	c.proc = &oci.Process{Pid: v.int(), PidFD: v.int()}
	c.in, c.out = v.int(), [2]int{v.int(), v.int()}
	c.durable, c.tty, c.once, c.ownPIDs = v.bool(), v.bool(), v.bool(), v.bool()
	c.s, c.ended = s, c.onExit
	if v.bool() {
		spec := runtime.LogSpec{Path: v.string(), MaxSize: int64(v.int()), MaxFiles: v.int()}
		lines := [2][]byte{[]byte(v.string()), []byte(v.string())}
		if c.log = openLog(spec); c.log != nil {
			c.log.line = lines
		}
	}
	inherit([]int{c.proc.PidFD, c.in, c.out[0], c.out[1]}, unix.FD_CLOEXEC)
	return c
}
