package script

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// aclProgram is `$TEST_PROGRAM give-all FILE`, in a container: it gives a file an access list by which everybody may write to it, as setfacl(1) would.
func aclProgram() {
	if len(os.Args) != 3 || os.Args[1] != "give-all" {
		return
	}
	all := []byte{ // version 2; owner, group and others: read and write. linux/posix_acl_xattr.h
		2, 0, 0, 0,
		1, 0, 6, 0, 255, 255, 255, 255,
		4, 0, 6, 0, 255, 255, 255, 255,
		32, 0, 6, 0, 255, 255, 255, 255,
	}
	if err := unix.Setxattr(os.Args[2], "system.posix_acl_access", all, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
