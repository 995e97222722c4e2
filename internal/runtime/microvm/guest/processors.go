package guest

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An emulated PC boots with one processor, and gets the others when its first container has been built, before anything of the user's runs. Until then its kernel gives its devices their places on the
// PCI bus and, if it is a distribution's, patches its own code, and QEMU 7.2 does not hold where another processor executes meanwhile: one that reaches a device while the place of any is changed can
// crash it (mended in 8.1), and both were seen to loop for ever.

// processors brings up the machine's other processors and waits until the process may run on all.
func processors(pid int) error {
	all := 1
	for ; ; all++ {
		path := fmt.Sprintf("/sys/devices/system/cpu/cpu%d/online", all)
		on, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err == nil && strings.TrimSpace(string(on)) != "1" {
			err = os.WriteFile(path, []byte("1"), 0)
		}
		if err != nil {
			return fmt.Errorf("processor %d of the machine: %w", all, err)
		}
	}
	// Control groups hear of it some time later.
	for range 1000 {
		var may unix.CPUSet
		if err := unix.SchedGetaffinity(pid, &may); err != nil {
			return os.NewSyscallError("sched_getaffinity", err)
		}
		if may.Count() >= all {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return errors.New("the machine's processors have come up, and the container is not given them")
}
