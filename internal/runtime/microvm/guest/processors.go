package guest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An emulated PC boots with one processor, and gets the others when its first container has been built, before anything of the user's runs. Until then its kernel gives its devices their places on the
// PCI bus and, if it is a distribution's, patches its own code, and QEMU 7.2 does not hold where another processor executes meanwhile: one that reaches a device while the place of any is changed can
// crash it (mended in 8.1), and both were seen to loop for ever.

// upWithin is how long the processors may take to come up: their threads may have to wait for the host's processors.
const upWithin = time.Minute

// processors brings up the machine's other processors and waits until the process may run on all.
func processors(pid int) error {
	deadline, all := time.Now().Add(upWithin), 1
	for ; ; all++ {
		path := fmt.Sprintf("/sys/devices/system/cpu/cpu%d/online", all)
		on, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		for err == nil && strings.TrimSpace(string(on)) != "1" {
			if err = os.WriteFile(path, []byte("1"), 0); err == nil || time.Now().After(deadline) { // the kernel itself waits ten seconds
				break
			}
			time.Sleep(10 * time.Millisecond)
			on, err = os.ReadFile(path)
		}
		if err != nil {
			return fmt.Errorf("processor %d of the machine: %w", all, err)
		}
	}
	// Control groups hear of it some time later.
	for {
		var may unix.CPUSet
		if err := unix.SchedGetaffinity(pid, &may); err != nil {
			return os.NewSyscallError("sched_getaffinity", err)
		}
		if may.Count() >= all {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the container may use %d of the machine's %d processors, %v after it was built", may.Count(), all, upWithin)
		}
		time.Sleep(time.Millisecond)
	}
	runtime.SetDefaultGOMAXPROCS() // which would happen within a second, in the user's time
	return nil
}
