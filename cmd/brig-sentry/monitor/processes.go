package monitor

import (
	"fmt"
	"time"

	"gvisor.dev/gvisor/runsc/boot/procfs"

	"brig/internal/kernel/proc"
)

// processes are those inside, by the numbers that they have there.
func (s *sandbox) processes() ([]proc.Process, error) {
	short, err := s.c.Sandbox.Processes(s.c.ID)
	if err != nil {
		return nil, err
	}
	long, err := s.c.Sandbox.ProcfsDump()
	if err != nil {
		return nil, err
	}
	more := map[int]*procfs.ProcessProcfsDump{}
	for i := range long {
		more[int(long[i].Status.PID)] = &long[i]
	}
	var list []proc.Process
	for _, p := range short {
		d := more[int(p.PID)]
		if d == nil { // it has ended, or begun, in between
			continue
		}
		cpu, _ := time.ParseDuration(p.Time) // of gVisor's own printing
		list = append(list, proc.Process{
			PID: int(p.PID), PPID: int(p.PPID), NSPID: int(p.PID), NSPPID: int(p.PPID), PGID: int(d.Stat.PGID), SID: int(d.Stat.SID),
			Comm: p.Cmd, Args: d.Args, Threads: len(p.Threads), CPU: cpu, Start: time.Unix(0, d.StartTime),
			Virtual: int64(d.Status.VMSize) << 10, Resident: int64(d.Status.VMRSS) << 10,
			Status: map[string]string{"Uid": ids(d.Status.UID), "Gid": ids(d.Status.GID)},
		})
	}
	return list, nil
}

// ids writes numbers as a line of /proc/PID/status does; that of the file system is always the effective one.
func ids(n procfs.UIDGID) string { return fmt.Sprint(n.Real, n.Effective, n.Saved, n.Effective) }
