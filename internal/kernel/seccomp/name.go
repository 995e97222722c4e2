package seccomp

import "runtime"

// Name is the system call of a number, for an architecture as AUDIT_ARCH_* says it; empty where this build does not know it.
func Name(audit, number uint32) string {
	f, err := familyOf(runtime.GOARCH)
	if err != nil {
		return ""
	}
	for i, a := range f.archs {
		if a.audit != audit {
			continue
		}
		for _, e := range f.table {
			if e.nr[i] == number+1 { // 0 is for a call that the architecture has not
				return e.name
			}
		}
		return ""
	}
	return ""
}
