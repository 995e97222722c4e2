package cli

import (
	"os"
	"strconv"

	"brig/internal/base/rootless"
)

// caller is the user who had root run this program, by sudo(8), run0(1) or pkexec(1); 0: nobody.
func caller() uint32 {
	if os.Geteuid() != 0 || rootless.Active() {
		return 0
	}
	for _, name := range []string{"SUDO_UID", "PKEXEC_UID"} {
		if n, err := strconv.ParseUint(os.Getenv(name), 10, 32); err == nil {
			return uint32(n)
		}
	}
	return 0
}
