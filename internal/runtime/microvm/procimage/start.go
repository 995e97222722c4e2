package procimage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Start is a process to be started from an image.
type Start struct {
	Image       *Image
	Pages, Stub *os.File         // as Save and Stub wrote them; whoever runs the process may read the stub and execute it
	Memory      *os.File         // the guest's memory
	Shared      bool             // what the process writes to that memory goes to the file
	Given       map[int]*os.File // by the numbers that they had
	Filter      []unix.SockFilter
	Attr        *syscall.SysProcAttr
	Open        func(name string) (*os.File, error) // opens a file of the process's in /proc for reading, as who may
}

// patience is how long a process may take to map what it has: many times what it needs.
const patience = 30 * time.Second

// Run starts the process, which goes on when it returns.
func (s *Start) Run() (c *exec.Cmd, err error) {
	if err := s.Image.check(); err != nil {
		return nil, err
	}
	for _, a := range s.Image.Areas {
		if err := a.Program.same(); err != nil {
			return nil, err
		}
	}
	if err := s.whole(); err != nil {
		return nil, err
	}
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	defer theirs.Close()
	list, made, err := s.files()
	for _, f := range made {
		defer f.Close()
	}
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	list[0] = theirs
	n := numbers{pages: len(list), memory: len(list) + 1, null: len(list) + 2, stub: len(list) + 3}
	list = append(list, s.Pages, s.Memory, null, s.Stub)
	n.free = slices.Index(list, nil)
	if n.free < 0 {
		n.free = len(list)
	}
	c = exec.Command("/proc/self/fd/" + strconv.Itoa(n.stub))
	c.Args, c.Env, c.Dir, c.SysProcAttr = []string{s.Image.Name}, []string{}, "/", s.Attr
	c.Stdin, c.ExtraFiles = list[0], list[3:]
	if list[1] != nil {
		c.Stdout = list[1]
	}
	if list[2] != nil {
		c.Stderr = list[2]
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	theirs.Close()
	if err := s.tell(c.Process.Pid, ours, n); err != nil {
		c.Process.Kill()
		c.Wait() //nolint:errcheck // it was killed
		return nil, fmt.Errorf("starting a process from its image: %w", err)
	}
	return c, nil
}

// whole reports whether the file of pages has all of them.
func (s *Start) whole() error {
	info, err := s.Pages.Stat()
	if err != nil {
		return err
	}
	for _, r := range s.Image.Runs {
		if r.Offset+r.Len > uint64(info.Size()) {
			return fmt.Errorf("the pages of the image of a process end at %d bytes, before the last", info.Size())
		}
	}
	return nil
}

// same reports whether a file is what it was.
func (p *Program) same() error {
	if p == nil {
		return nil
	}
	var s unix.Stat_t
	if err := unix.Stat(p.Path, &s); err != nil {
		return &os.PathError{Op: "stat", Path: p.Path, Err: err}
	}
	if *programOf(p.Path, &s) != *p {
		return fmt.Errorf("%s has changed since the image of a process that has it was saved", p.Path)
	}
	return nil
}

// numbers are those of descriptors that a process has until it is complete.
type numbers struct{ pages, memory, null, stub, free int }

// files are those that the process gets, by number, and of them those that were made for it.
func (s *Start) files() (list, made []*os.File, err error) {
	list = make([]*os.File, 3)
	for _, f := range s.Image.Files {
		var at *os.File
		fd := -1
		switch f.Kind {
		case kindGiven:
			if at = s.Given[f.FD]; at == nil {
				return nil, made, fmt.Errorf("nothing is given for descriptor %d", f.FD)
			}
		case kindMemory:
			at = s.Memory
		case kindNull:
			at, err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
			made = append(made, at)
		case kindEvent:
			flags := unix.EFD_CLOEXEC
			if f.Semaphore {
				flags |= unix.EFD_SEMAPHORE
			}
			fd, err = unix.Eventfd(uint(f.Value), flags)
		case kindSignals:
			fd, err = unix.Signalfd(-1, &unix.Sigset_t{Val: [16]uint64{f.Value}}, unix.SFD_CLOEXEC)
		case kindPoll:
			fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		default:
			err = fmt.Errorf("descriptor %d is of kind %q", f.FD, f.Kind)
		}
		if err != nil {
			return nil, made, err
		}
		if fd >= 0 {
			at = os.NewFile(uintptr(fd), f.Kind)
			made = append(made, at)
		}
		for len(list) <= f.FD {
			list = append(list, nil)
		}
		list[f.FD] = at
	}
	return list, made, nil
}

// tell hands the process its script, and returns when that was done.
func (s *Start) tell(pid int, to *os.File, n numbers) error {
	if err := to.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	// Who started it knows that it executes something else by now, but not that this is mapped already.
	if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
		return fmt.Errorf("its first program: %w", err)
	}
	maps, err := s.Open("/proc/" + strconv.Itoa(pid) + "/maps")
	if err != nil {
		return err
	}
	now, err := readMaps(maps)
	maps.Close()
	if err != nil {
		return err
	}
	w := &writer{}
	w.word(0)
	if err := s.script(w, now, n); err != nil {
		return err
	}
	if len(w.b) > scriptLen {
		return fmt.Errorf("the list of its system calls has %d bytes", len(w.b))
	}
	if _, err := to.Write(w.b); err != nil {
		return err
	}
	if err := shutdown(to); err != nil {
		return err
	}
	said, err := io.ReadAll(io.LimitReader(to, 16))
	switch {
	case err != nil:
		return err
	case len(said) == 16:
		at, errno := binary.LittleEndian.Uint64(said), -int64(binary.LittleEndian.Uint64(said[8:]))
		return fmt.Errorf("%s: %w", w.describe(at), syscall.Errno(errno))
	case len(said) > 0:
		return errors.New("it cannot be told what it said")
	}
	return nil
}

// writer makes a script.
type writer struct {
	b     []byte
	calls []byte // of the thread at hand
}

func (w *writer) here() uint64 { return scriptAt + uint64(len(w.b)) }

func (w *writer) word(v uint64) { w.b = binary.LittleEndian.AppendUint64(w.b, v) }

// data has bytes in the script and returns their address.
func (w *writer) data(b []byte) uint64 {
	const align = 64
	w.b = append(w.b, make([]byte, (align-len(w.b)%align)%align)...)
	at := w.here()
	w.b = append(w.b, b...)
	return at
}

func (w *writer) text(s string) uint64 { return w.data(append([]byte(s), 0)) }

func (w *writer) call(nr uint64, args ...uint64) { w.callTo(0, nr, args...) }

// callTo is a call whose result goes to an address.
func (w *writer) callTo(to, nr uint64, args ...uint64) {
	words := [callLen / 8]uint64{nr, 7: to}
	copy(words[1:7], args)
	for _, v := range words {
		w.calls = binary.LittleEndian.AppendUint64(w.calls, v)
	}
}

// flush has the calls so far in the script and returns the address of the first.
func (w *writer) flush() uint64 {
	at := w.data(w.calls)
	w.calls = w.calls[:0]
	return at
}

// describe is a call by its place in the script.
func (w *writer) describe(at uint64) string {
	if at+callLen > uint64(len(w.b)) {
		return "its script"
	}
	le := binary.LittleEndian
	return fmt.Sprintf("system call %d (%#x, %#x, %#x, %#x)", le.Uint64(w.b[at:]), le.Uint64(w.b[at+8:]), le.Uint64(w.b[at+16:]), le.Uint64(w.b[at+24:]), le.Uint64(w.b[at+32:]))
}

// script writes all calls, for a process that has so far the mappings of now.
func (s *Start) script(w *writer, now []mapping, n numbers) error {
	img := s.Image
	if err := s.move(w, now); err != nil {
		return err
	}
	s.mapAll(w, n)
	// struct prctl_mm_map of linux/prctl.h: the auxiliary vector stays, and so does what is executed.
	layout := binary.LittleEndian.AppendUint64(nil, 0)[:0]
	for _, v := range img.Layout {
		layout = binary.LittleEndian.AppendUint64(layout, v)
	}
	layout = append(binary.LittleEndian.AppendUint64(layout, 0), 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff)
	w.call(unix.SYS_PRCTL, unix.PR_SET_MM, unix.PR_SET_MM_MAP, w.data(layout), uint64(len(layout)))
	for _, a := range img.Actions {
		w.call(unix.SYS_RT_SIGACTION, uint64(a.Signal), w.data(words(a.Act[:]...)), 0, 8)
	}
	for _, f := range img.Files {
		if f.FD > 0 {
			w.call(unix.SYS_FCNTL, uint64(f.FD), unix.F_SETFL, uint64(f.Flags))
		}
	}
	if len(s.Filter) > 0 {
		w.call(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
		filter := unsafe.Slice((*byte)(unsafe.Pointer(&s.Filter[0])), len(s.Filter)*int(unsafe.Sizeof(s.Filter[0])))
		program := w.data(words(uint64(len(s.Filter)), w.data(filter))) // struct sock_fprog
		w.call(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, program)
	}
	img.lookAhead(w)
	first := w.calls // so far
	w.calls = nil
	var others [][2]uint64 // first calls, indices
	for i := range img.Threads[1:] {
		t := &img.Threads[i+1]
		t.goOn(w)
		others = append(others, [2]uint64{w.flush(), uint64(i + 1)})
	}
	w.calls = first
	for _, o := range others {
		const flags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM | unix.CLONE_SETTLS | unix.CLONE_PARENT_SETTID | unix.CLONE_CHILD_CLEARTID
		t := &img.Threads[o[1]]
		w.callTo(o[0], unix.SYS_CLONE, flags, 0, t.TIDAddress, t.TIDAddress, t.regs().Fs_base)
	}
	t := &img.Threads[0]
	w.callTo(t.TIDAddress, unix.SYS_SET_TID_ADDRESS, t.TIDAddress)
	const setFS = 0x1002 // ARCH_SET_FS of asm/prctl.h
	w.call(unix.SYS_ARCH_PRCTL, setFS, t.regs().Fs_base)
	for _, fd := range []int{n.pages, n.memory, n.stub} {
		w.call(unix.SYS_CLOSE, uint64(fd))
	}
	// At the end of standard input, which is the script, who wrote it knows that all is done.
	w.call(unix.SYS_DUP2, uint64(n.null), 0)
	w.call(unix.SYS_CLOSE, uint64(n.null))
	t.goOn(w)
	at := w.flush()
	binary.LittleEndian.PutUint64(w.b, at)
	return nil
}

// move unmaps what the process was executed with, and has the kernel's own mappings where the image has them.
func (s *Start) move(w *writer, now []mapping) error {
	const aside = base + 1<<32 // where there is nothing, before and after
	special := map[string]mapping{}
	for _, m := range now {
		switch {
		case m.path == "[vsyscall]", m.start >= base && m.end <= base+stubLen:
		case m.special():
			special[m.path] = m
		default:
			w.call(unix.SYS_MUNMAP, m.start, m.end-m.start)
		}
	}
	remap := func(from, size, to uint64) {
		w.call(unix.SYS_MREMAP, from, size, size, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, to)
	}
	at := uint64(aside)
	var list []Area
	for _, a := range s.Image.Areas {
		if a.Special == "" {
			continue
		}
		m, ok := special[a.Special]
		if !ok || m.end-m.start != a.End-a.Start {
			return fmt.Errorf("the kernel's %s is another", a.Special)
		}
		remap(m.start, m.end-m.start, at)
		at += a.End - a.Start
		list = append(list, a)
	}
	if len(list) != len(special) {
		return errors.New("the kernel's own mappings are others")
	}
	at = aside
	for _, a := range list {
		remap(at, a.End-a.Start, a.Start)
		at += a.End - a.Start
	}
	return nil
}

// mapAll maps all memory.
func (s *Start) mapAll(w *writer, n numbers) {
	const private, anonymous = unix.MAP_FIXED | unix.MAP_PRIVATE | unix.MAP_NORESERVE, unix.MAP_FIXED | unix.MAP_PRIVATE | unix.MAP_NORESERVE | unix.MAP_ANONYMOUS
	none := ^uint64(0)
	opened := ""
	closeIt := func() {
		if opened != "" {
			w.call(unix.SYS_CLOSE, uint64(n.free))
		}
	}
	runs := s.Image.Runs
	for i, a := range s.Image.Areas {
		size, prot := a.End-a.Start, uint64(a.Prot)
		switch {
		case a.Special != "":
			continue
		case a.Memory && s.Shared:
			w.call(unix.SYS_MMAP, a.Start, size, prot, unix.MAP_FIXED|unix.MAP_SHARED, uint64(n.memory), a.Offset)
		case a.Memory:
			w.call(unix.SYS_MMAP, a.Start, size, prot, private, uint64(n.memory), a.Offset)
		case a.Program != nil:
			if a.Program.Path != opened {
				closeIt()
				opened = a.Program.Path
				const here = ^uint64(99) // AT_FDCWD
				w.call(unix.SYS_OPENAT, here, w.text(opened), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			}
			w.call(unix.SYS_MMAP, a.Start, size, prot, private, uint64(n.free), a.Offset)
		default:
			flags := uint64(anonymous)
			if a.Grows {
				flags |= unix.MAP_GROWSDOWN
			}
			w.call(unix.SYS_MMAP, a.Start, size, prot, flags, none, 0)
			if a.Huge {
				w.call(unix.SYS_MADVISE, a.Start, size, unix.MADV_HUGEPAGE)
			}
		}
		for ; len(runs) > 0 && runs[0].Area == i; runs = runs[1:] {
			if a.Grows { // its arguments, which ps(1) shows, are to be the process's own memory
				w.call(unix.SYS_PREAD64, uint64(n.pages), runs[0].Start, runs[0].Len, runs[0].Offset)
				continue
			}
			w.call(unix.SYS_MMAP, runs[0].Start, runs[0].Len, prot, private, uint64(n.pages), runs[0].Offset)
		}
	}
	closeIt()
}

// lookAhead makes what will be written to soon the process's own: one fault after another takes ten times as long, and once there are threads that have seen the page that is copied, each is
// interrupted for it. So it is done before the process has its threads; the guest's memory meanwhile by one that ends then. A kernel that cannot (before 5.14) leaves it.
func (img *Image) lookAhead(w *writer) {
	const mayFail = 1
	own := 0
	for own < len(img.Soon) && !img.guests(&img.Soon[own]) { // they come first
		own++
	}
	populate := func(list []Range) {
		for _, r := range list {
			w.callTo(mayFail, unix.SYS_MADVISE, r.Start, r.Len, unix.MADV_POPULATE_WRITE)
		}
	}
	if own < len(img.Soon) {
		const flags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM
		before := w.calls
		w.calls = nil
		populate(img.Soon[own:])
		w.call(unix.SYS_EXIT, 0)
		at := w.flush()
		w.calls = before
		w.callTo(at, unix.SYS_CLONE, flags)
	}
	populate(img.Soon[:own])
}

// guests reports whether a range is the guest's memory.
func (img *Image) guests(r *Range) bool {
	return slices.ContainsFunc(img.Areas, func(a Area) bool { return a.Memory && a.Start <= r.Start && r.Start < a.End })
}

func (t *Thread) regs() *unix.PtraceRegs { return (*unix.PtraceRegs)(unsafe.Pointer(&t.Regs[0])) }

// goOn has the thread that makes the calls be t.
func (t *Thread) goOn(w *writer) {
	w.call(unix.SYS_PRCTL, unix.PR_SET_NAME, w.text(t.Name))
	if t.Robust != 0 {
		w.call(unix.SYS_SET_ROBUST_LIST, t.Robust, t.RobustLen)
	}
	if t.Rseq != 0 {
		w.call(unix.SYS_RSEQ, t.Rseq, uint64(t.RseqLen), 0, uint64(t.RseqSig))
	}
	w.call(unix.SYS_RT_SIGRETURN, t.frame(w)+8)
}

// frame is struct rt_sigframe of the kernel's, from which rt_sigreturn(2) sets all registers.
func (t *Thread) frame(w *writer) uint64 {
	const ( // asm/sigcontext.h, asm/ucontext.h
		magic1, magic2 = 0x46505853, 0x46505845
		software       = 464       // in the state: struct _fpx_sw_bytes
		ucFlags        = 1 | 2 | 4 // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
	)
	le := binary.LittleEndian
	state := append([]byte(nil), t.State...)
	features := le.Uint64(state[software:]) // the kernel has told them there
	le.PutUint32(state[software:], magic1)
	le.PutUint32(state[software+4:], uint32(len(state)+4))
	le.PutUint64(state[software+8:], features)
	le.PutUint32(state[software+16:], uint32(len(state)))
	r := t.regs()
	b := words(0, // where a handler returns to
		ucFlags, 0, t.Stack[0], t.Stack[1], t.Stack[2],
		r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15, r.Rdi, r.Rsi, r.Rbp, r.Rbx, r.Rdx, r.Rax, r.Rcx, r.Rsp, r.Rip, r.Eflags,
		r.Cs&0xffff|r.Ss<<48, 0, 0, 0, 0, w.data(le.AppendUint32(state, magic2)),
		0, 0, 0, 0, 0, 0, 0, 0,
		t.Blocked)
	return w.data(append(b, make([]byte, 256)...)) // and what was known of the signal
}

func words(list ...uint64) (b []byte) {
	for _, v := range list {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func socketpair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	unix.SetNonblock(fds[0], true)
	return os.NewFile(uintptr(fds[0]), "script"), os.NewFile(uintptr(fds[1]), "script"), nil
}

// shutdown tells that nothing more is written.
func shutdown(f *os.File) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var e error
	if err := c.Control(func(fd uintptr) { e = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		return err
	}
	return os.NewSyscallError("shutdown", e)
}
