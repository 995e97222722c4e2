package procimage

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Of linux/ptrace.h and linux/elf.h.
const (
	ptraceGetSigMask = 0x420a
	ptraceGetRseq    = 0x420f
	ntXState         = 0x202
	exitKill         = 1 << 20 // it ends with the thread that traces it
)

// Subject is who is to be saved.
type Subject struct {
	PID    int
	Given  []int    // descriptors that whoever starts one gives
	Closed []int    // those that are of no use any more
	Memory *os.File // with its guest's memory, which it has mapped
}

// Save saves a process and writes the contents of its pages to a file. It needs CAP_SYS_PTRACE in the process's user namespace, or to be who has the process. The process ends.
func Save(s *Subject, pages *os.File) (img *Image, err error) {
	over := make(chan struct{})
	go func() {
		defer close(over)
		runtime.LockOSThread() // for good: who traces is a thread
		img, err = save(s, pages)
	}()
	<-over
	if err != nil {
		err = fmt.Errorf("saving process %d: %w", s.PID, err)
	}
	return img, err
}

type saver struct {
	*Subject
	dir    string // in /proc
	mem    *os.File
	img    *Image
	out    *bufio.Writer
	memory mapping      // of a page of the guest's memory, here
	whole  map[int]bool // areas whose pages are all to be saved: by index
	at     uint64       // in out
}

func save(subject *Subject, pages *os.File) (*Image, error) {
	s := &saver{Subject: subject, dir: "/proc/" + strconv.Itoa(subject.PID), img: &Image{}, whole: map[int]bool{}, out: bufio.NewWriterSize(pages, 1<<20)}
	tids, err := s.stopIdle()
	defer func() { s.end(tids) }()
	if err != nil {
		return nil, err
	}
	if s.mem, err = os.OpenFile(s.dir+"/mem", os.O_RDONLY, 0); err != nil {
		return nil, err
	}
	defer s.mem.Close()
	for _, step := range []func() error{s.nothingElse, s.areas, s.files, func() error { return s.threads(tids) }, s.actions, s.layout} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return s.img, s.out.Flush()
}

// end ends the process. Threads that are traced are there until who traces has heard of their end; the first is its parent's.
func (s *saver) end(tids []int) {
	_ = unix.Kill(s.PID, unix.SIGKILL)
	for _, tid := range tids {
		for tid != s.PID {
			if _, err := unix.Wait4(tid, nil, unix.WALL, nil); err != unix.EINTR {
				break
			}
		}
	}
}

// stopIdle stops all threads at a moment at which each waits for something to do: then none holds a lock, of which its number might be part.
func (s *saver) stopIdle() ([]int, error) {
	const tries, apart = 200, 5 * time.Millisecond
	for range tries {
		tids, err := s.stop()
		if err != nil {
			return tids, err
		}
		busy := slices.ContainsFunc(tids, func(tid int) bool {
			var r unix.PtraceRegs
			if unix.PtraceGetRegs(tid, &r) != nil {
				return true
			}
			switch int64(r.Orig_rax) {
			case unix.SYS_POLL, unix.SYS_PPOLL, unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT, unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_RESTART_SYSCALL: // the last is one of them, interrupted before
				return false
			}
			return true
		})
		if !busy {
			return tids, nil
		}
		for _, tid := range tids {
			if err := unix.PtraceDetach(tid); err != nil {
				return tids, os.NewSyscallError("ptrace: detach", err)
			}
		}
		time.Sleep(apart)
	}
	return nil, errors.New("it is not idle")
}

// stop stops all threads, the first first.
func (s *saver) stop() (tids []int, err error) {
	for {
		entries, err := os.ReadDir(s.dir + "/task")
		if err != nil {
			return tids, err
		}
		more := false
		for _, e := range entries {
			tid, err := strconv.Atoi(e.Name())
			if err != nil || slices.Contains(tids, tid) {
				continue
			}
			more = true
			if err := ptrace(unix.PTRACE_SEIZE, tid, 0, exitKill); err == unix.ESRCH {
				continue // it has ended
			} else if err != nil {
				return tids, fmt.Errorf("ptrace: seize: %w", err)
			}
			if err := unix.PtraceInterrupt(tid); err != nil {
				return tids, fmt.Errorf("ptrace: interrupt: %w", err)
			}
			if err := waitStop(tid); err != nil {
				return tids, err
			}
			tids = append(tids, tid)
		}
		if !more {
			break
		}
	}
	slices.Sort(tids)
	if i := slices.Index(tids, s.PID); i > 0 {
		tids = slices.Insert(slices.Delete(tids, i, i+1), 0, s.PID)
	}
	return tids, nil
}

func waitStop(tid int) error {
	for {
		var w unix.WaitStatus
		switch _, err := unix.Wait4(tid, &w, unix.WALL, nil); {
		case err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("wait4", err)
		case !w.Stopped():
			return errors.New("it has ended")
		default:
			return nil
		}
	}
}

// nothingElse refuses what an image has no place for.
func (s *saver) nothingElse() error {
	children, err := filepath.Glob(s.dir + "/task/*/children")
	if err != nil {
		return err
	}
	for _, c := range children {
		if b, err := os.ReadFile(c); err == nil && len(bytes.TrimSpace(b)) > 0 {
			return fmt.Errorf("it has children: %s", bytes.TrimSpace(b))
		}
	}
	if b, err := os.ReadFile(s.dir + "/timers"); err == nil && len(b) > 0 {
		return errors.New("it has timers of the kernel's (timer_create)")
	}
	b, err := os.ReadFile(s.dir + "/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "x86_Thread_features:"); ok && strings.TrimSpace(v) != "" {
			return fmt.Errorf("its processor has features that are the thread's own: %s", strings.TrimSpace(v))
		}
	}
	b, err = os.ReadFile(s.dir + "/comm")
	s.img.Name = strings.TrimSpace(string(b))
	return err
}

// gap is how many pages that need not be saved are saved with those around them: a mapping costs more.
const gap = 16

// areas saves the mappings and their pages.
func (s *saver) areas() error {
	f, err := os.Open(s.dir + "/maps")
	if err != nil {
		return err
	}
	defer f.Close()
	maps, err := readMaps(f)
	if err != nil {
		return err
	}
	if s.memory, err = mappingOf(s.Memory); err != nil {
		return err
	}
	huge, err := s.hugeAreas()
	if err != nil {
		return err
	}
	pagemap, err := os.Open(s.dir + "/pagemap")
	if err != nil {
		return err
	}
	defer pagemap.Close()
	for _, m := range maps {
		a := Area{Start: m.start, End: m.end, Prot: m.prot(), Grows: m.path == "[stack]", Huge: huge[m.start]}
		switch {
		case m.path == "[vsyscall]":
			continue
		case m.start < base+stubLen && m.end > base:
			return fmt.Errorf("it has something at %#x", m.start)
		case m.special():
			a.Special = m.path
		case m.ino != 0:
			err = s.fileArea(&a, &m)
		case m.perms[3] != 'p':
			err = fmt.Errorf("it shares %s", m.path)
		}
		if err != nil {
			return err
		}
		s.img.Areas = append(s.img.Areas, a)
		if a.Special == "" && !a.Memory {
			if err := s.pages(len(s.img.Areas)-1, pagemap); err != nil {
				return err
			}
		}
	}
	return nil
}

// fileArea says of which file a mapping is.
func (s *saver) fileArea(a *Area, m *mapping) error {
	var of unix.Stat_t
	a.Offset = m.offset
	if m.ino == s.memory.ino && m.dev == s.memory.dev {
		a.Memory = true
		return nil
	}
	if m.perms[3] != 'p' && m.perms != "r--s" { // who only reads may as well have it for himself
		return fmt.Errorf("it shares %s", m.path)
	}
	if err := unix.Stat(m.path, &of); err == nil && of.Ino == m.ino {
		a.Program = programOf(m.path, &of)
	} else { // a file without a name: what is in it is saved
		a.Offset, s.whole[len(s.img.Areas)] = 0, true
	}
	return nil
}

// mappingOf is what /proc/PID/maps says of a file, which on some file systems (btrfs) is another device than stat(2) does.
func mappingOf(file *os.File) (mapping, error) {
	b, err := unix.Mmap(int(file.Fd()), 0, int(pageSize), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return mapping{}, os.NewSyscallError("mmap", err)
	}
	defer unix.Munmap(b) //nolint:errcheck // it was mapped
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return mapping{}, err
	}
	defer f.Close()
	maps, err := readMaps(f)
	if err != nil {
		return mapping{}, err
	}
	at := address(b)
	i := slices.IndexFunc(maps, func(m mapping) bool { return m.start <= at && at < m.end })
	if i < 0 {
		return mapping{}, errors.New("/proc/self/maps does not have what is mapped")
	}
	return maps[i], nil
}

func programOf(path string, s *unix.Stat_t) *Program {
	return &Program{Path: path, Ino: s.Ino, Size: s.Size, Modified: s.Mtim.Nano()}
}

// hugeAreas are the beginnings of mappings that asked for large pages: VmFlags of proc(5).
func (s *saver) hugeAreas() (map[uint64]bool, error) {
	b, err := os.ReadFile(s.dir + "/smaps")
	if err != nil {
		return nil, err
	}
	huge := map[uint64]bool{}
	var at mapping
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok {
			huge[at.start] = slices.Contains(strings.Fields(flags), "hg")
		} else if m, ok := parseMapping(line); ok {
			at = m
		}
	}
	return huge, nil
}

// pages saves what a mapping has that its file, or a new one, does not.
func (s *saver) pages(index int, pagemap io.ReaderAt) error {
	a := &s.img.Areas[index]
	table, err := entries(a, pagemap)
	if err != nil {
		return err
	}
	page := make([]byte, pageSize)
	var run *Run
	for i, e := range table {
		if !s.whole[index] && (e&(pagePresent|pageSwapped) == 0 || e&pageOfFile != 0) {
			continue
		}
		at := a.Start + uint64(i)*pageSize
		if err := s.read(page, at); err != nil {
			return err
		}
		if a.Program == nil && allZero(page) {
			continue
		}
		most := uint64(gap)
		if a.Program != nil {
			most = 0 // what is between is the file's
		}
		if run != nil && at-(run.Start+run.Len) > most*pageSize {
			run = nil
		}
		if run == nil {
			s.img.Runs = append(s.img.Runs, Run{Area: index, Start: at, Offset: s.at})
			run = &s.img.Runs[len(s.img.Runs)-1]
		}
		for between := run.Start + run.Len; between < at; between += pageSize {
			if err := s.write(make([]byte, pageSize)); err != nil {
				return err
			}
			run.Len += pageSize
		}
		if err := s.write(page); err != nil {
			return err
		}
		run.Len += pageSize
	}
	return nil
}

// Learn notes what a process of the image, which has gone on for a while, has written to since, for those to come. Who calls it may trace the process.
func (img *Image) Learn(pid int) error {
	pagemap, err := os.Open("/proc/" + strconv.Itoa(pid) + "/pagemap")
	if err != nil {
		return err
	}
	defer pagemap.Close()
	img.Soon = nil
	for _, guest := range []bool{false, true} { // the emulator's own first
		for i := range img.Areas {
			if a := &img.Areas[i]; a.Special == "" && a.Memory == guest {
				if err := img.learn(a, pagemap); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (img *Image) learn(a *Area, pagemap io.ReaderAt) error {
	const near = 2 // pages, that are not worth a range of their own
	table, err := entries(a, pagemap)
	if err != nil {
		return err
	}
	var at *Range
	for i, e := range table {
		if e&pagePresent == 0 || e&pageOfFile != 0 {
			continue
		}
		start := a.Start + uint64(i)*pageSize
		if at == nil || start-(at.Start+at.Len) > near*pageSize {
			img.Soon = append(img.Soon, Range{Start: start})
			at = &img.Soon[len(img.Soon)-1]
		}
		at.Len = start + pageSize - at.Start
	}
	return nil
}

// Of an entry of /proc/PID/pagemap: Documentation/admin-guide/mm/pagemap.rst of Linux.
const (
	pagePresent = 1 << 63
	pageSwapped = 1 << 62
	pageOfFile  = 1 << 61
)

// entries are those of the pages of a mapping.
func entries(a *Area, pagemap io.ReaderAt) ([]uint64, error) {
	b := make([]byte, (a.End-a.Start)/pageSize*8)
	if _, err := pagemap.ReadAt(b, int64(a.Start/pageSize*8)); err != nil {
		return nil, fmt.Errorf("/proc/PID/pagemap: %w", err)
	}
	table := make([]uint64, len(b)/8)
	for i := range table {
		table[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return table, nil
}

func (s *saver) read(b []byte, at uint64) error {
	if _, err := s.mem.ReadAt(b, int64(at)); err != nil {
		return fmt.Errorf("its memory at %#x: %w", at, err)
	}
	return nil
}

func (s *saver) write(b []byte) error {
	s.at += uint64(len(b))
	_, err := s.out.Write(b)
	return err
}

func allZero(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
	}
	return true
}

// files notes what is open.
func (s *saver) files() error {
	entries, err := os.ReadDir(s.dir + "/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || slices.Contains(s.Closed, fd) {
			continue
		}
		f, err := s.file(fd)
		if err != nil {
			return err
		}
		s.img.Files = append(s.img.Files, f)
	}
	slices.SortFunc(s.img.Files, func(a, b File) int { return a.FD - b.FD })
	return nil
}

func (s *saver) file(fd int) (File, error) {
	f := File{FD: fd}
	name := s.dir + "/fd/" + strconv.Itoa(fd)
	path, err := os.Readlink(name)
	if err != nil {
		return f, err
	}
	info, err := os.ReadFile(s.dir + "/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return f, err
	}
	number := func(key string, base int) (v uint64, err error) {
		for line := range strings.Lines(string(info)) {
			if k, value, _ := strings.Cut(line, ":"); k == key {
				return strconv.ParseUint(strings.TrimSpace(value), base, 64)
			}
		}
		return 0, fmt.Errorf("descriptor %d has no %s", fd, key)
	}
	flags, err := number("flags", 8)
	if err != nil {
		return f, err
	}
	f.Flags = int(flags) & (unix.O_NONBLOCK | unix.O_APPEND)
	switch {
	case slices.Contains(s.Given, fd):
		f.Kind = kindGiven
	case path == "anon_inode:[eventfd]":
		f.Kind = kindEvent
		if f.Value, err = number("eventfd-count", 16); err == nil {
			semaphore, e := number("eventfd-semaphore", 10)
			f.Semaphore = e == nil && semaphore != 0
		}
	case path == "anon_inode:[signalfd]":
		f.Kind = kindSignals
		f.Value, err = number("sigmask", 16)
	case path == "anon_inode:[eventpoll]":
		f.Kind = kindPoll
		if bytes.Contains(info, []byte("\ntfd:")) {
			return f, fmt.Errorf("descriptor %d is an epoll that waits for files", fd)
		}
	case path == os.DevNull:
		f.Kind = kindNull
	default:
		var of, memory unix.Stat_t
		if unix.Stat(name, &of) != nil || unix.Fstat(int(s.Memory.Fd()), &memory) != nil || of.Ino != memory.Ino || of.Dev != memory.Dev {
			return f, fmt.Errorf("descriptor %d is %s", fd, path)
		}
		f.Kind = kindMemory
	}
	return f, err
}

// threads notes what the threads are, and do.
func (s *saver) threads(tids []int) error {
	for _, tid := range tids {
		t, err := s.thread(tid)
		if err != nil {
			return fmt.Errorf("thread %d: %w", tid, err)
		}
		s.img.Threads = append(s.img.Threads, *t)
	}
	return nil
}

func (s *saver) thread(tid int) (*Thread, error) {
	name, err := os.ReadFile(fmt.Sprintf("%s/task/%d/comm", s.dir, tid))
	if err != nil {
		return nil, err
	}
	t := &Thread{Name: strings.TrimSpace(string(name))}
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		return nil, os.NewSyscallError("ptrace: registers", err)
	}
	again(&regs)
	t.Regs = bytesOf(&regs)
	if t.State, err = xstate(tid); err != nil {
		return nil, err
	}
	if err := ptraceInto(ptraceGetSigMask, tid, 8, pointer(&t.Blocked)); err != nil {
		return nil, os.NewSyscallError("ptrace: signal mask", err)
	}
	var rseq struct {
		At        uint64
		Len, Sig  uint32
		Flags, _p uint32
	}
	if err := ptraceInto(ptraceGetRseq, tid, 24, pointer(&rseq)); err != nil && err != unix.EIO { // a kernel without rseq(2)
		return nil, os.NewSyscallError("ptrace: rseq", err)
	}
	t.Rseq, t.RseqLen, t.RseqSig = rseq.At, rseq.Len, rseq.Sig
	if _, _, errno := unix.RawSyscall(unix.SYS_GET_ROBUST_LIST, uintptr(tid), uintptr(pointer(&t.Robust)), uintptr(pointer(&t.RobustLen))); errno != 0 {
		return nil, os.NewSyscallError("get_robust_list", errno)
	}
	at := scratch(&regs)
	if _, err := s.call(tid, unix.SYS_PRCTL, unix.PR_GET_TID_ADDRESS, at); err != nil {
		return nil, err
	}
	if err := s.words(at, &t.TIDAddress); err != nil {
		return nil, err
	}
	if _, err := s.call(tid, unix.SYS_SIGALTSTACK, 0, at); err != nil {
		return nil, err
	}
	return t, s.words(at, &t.Stack[0], &t.Stack[1], &t.Stack[2])
}

// again has registers be those of a thread that makes its system call once more, from its beginning.
func again(r *unix.PtraceRegs) {
	const ( // linux/errno.h
		restartSys, restartNoIntr, restartNoHand, restartBlock = 512, 513, 514, 516
	)
	if int64(r.Orig_rax) < 0 {
		return // it is in no system call
	}
	switch -int64(r.Rax) {
	case restartSys, restartNoIntr, restartNoHand:
		r.Rax, r.Rip = r.Orig_rax, r.Rip-2
	case restartBlock: // how long it has waited is not known: who is interrupted looks at the clock
		interrupted := -int64(unix.EINTR)
		r.Rax = uint64(interrupted)
	}
}

// scratch is a place below a thread's stack that it may be told something at.
func scratch(r *unix.PtraceRegs) uint64 { return (r.Rsp - 4096) &^ 63 }

// words reads words of the process's memory.
func (s *saver) words(at uint64, into ...*uint64) error {
	b := make([]byte, 8*len(into))
	if err := s.read(b, at); err != nil {
		return err
	}
	for i, p := range into {
		*p = binary.LittleEndian.Uint64(b[8*i:])
	}
	return nil
}

// call has a thread make a system call. Its registers are as before afterwards.
func (s *saver) call(tid int, nr uint64, args ...uint64) (uint64, error) {
	var before unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &before); err != nil {
		return 0, os.NewSyscallError("ptrace: registers", err)
	}
	code := make([]byte, 2)
	if err := s.read(code, before.Rip-2); err != nil {
		return 0, err
	}
	if code[0] != 0x0f || code[1] != 0x05 {
		return 0, errors.New("it is in no system call")
	}
	r := before
	r.Rip, r.Rax, r.Orig_rax = before.Rip-2, nr, ^uint64(0)
	for i, a := range args {
		*[]*uint64{&r.Rdi, &r.Rsi, &r.Rdx, &r.R10, &r.R8, &r.R9}[i] = a
	}
	if err := unix.PtraceSetRegs(tid, &r); err != nil {
		return 0, os.NewSyscallError("ptrace: registers", err)
	}
	if err := unix.PtraceSingleStep(tid); err != nil {
		return 0, os.NewSyscallError("ptrace: step", err)
	}
	if err := waitStop(tid); err != nil {
		return 0, err
	}
	if err := unix.PtraceGetRegs(tid, &r); err != nil {
		return 0, os.NewSyscallError("ptrace: registers", err)
	}
	if r.Rip != before.Rip {
		return 0, errors.New("a signal has come between")
	}
	if err := unix.PtraceSetRegs(tid, &before); err != nil {
		return 0, os.NewSyscallError("ptrace: registers", err)
	}
	if e := int64(r.Rax); e < 0 && e > -4096 {
		return 0, fmt.Errorf("system call %d: %w", nr, syscall.Errno(-e))
	}
	return r.Rax, nil
}

// xstate are the registers of a thread's that are not general.
func xstate(tid int) ([]byte, error) {
	b := make([]byte, 64<<10)
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	if err := ptraceInto(unix.PTRACE_GETREGSET, tid, ntXState, pointer(&v)); err != nil {
		return nil, os.NewSyscallError("ptrace: extended registers", err)
	}
	if v.Len < leastState {
		return nil, fmt.Errorf("the extended registers are %d bytes", v.Len)
	}
	return b[:v.Len], nil
}

// actions notes what is done about signals.
func (s *saver) actions() error {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(s.PID, &regs); err != nil {
		return os.NewSyscallError("ptrace: registers", err)
	}
	at := scratch(&regs)
	for sig := 1; sig <= 64; sig++ {
		if sig == int(unix.SIGKILL) || sig == int(unix.SIGSTOP) {
			continue
		}
		a := Action{Signal: sig}
		if _, err := s.call(s.PID, unix.SYS_RT_SIGACTION, uint64(sig), 0, at, 8); err != nil {
			return err
		}
		if err := s.words(at, &a.Act[0], &a.Act[1], &a.Act[2], &a.Act[3]); err != nil {
			return err
		}
		s.img.Actions = append(s.img.Actions, a)
	}
	return nil
}

// layout notes what the kernel knows of the places of a process: /proc/PID/stat of proc(5), and brk(2).
func (s *saver) layout() error {
	b, err := os.ReadFile(s.dir + "/stat")
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest) // the third is the first
	field := func(n int) (v uint64) {
		if n-3 < len(f) {
			v, _ = strconv.ParseUint(f[n-3], 10, 64)
		}
		return v
	}
	brk, err := s.call(s.PID, unix.SYS_BRK, 0)
	if err != nil {
		return err
	}
	s.img.Layout = [...]uint64{field(26), field(27), field(45), field(46), field(47), brk, field(28), field(48), field(49), field(50), field(51)}
	return nil
}
