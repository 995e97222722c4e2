#include "textflag.h"

// func cloneSharing(args *cloneArgs, size uintptr, c *child) uintptr
//
// The child begins on the stack of args, which is empty, and shares the thread pointer, and so g, with its parent.
TEXT ·cloneSharing(SB), NOSPLIT, $0-32
	MOVQ args+0(FP), DI
	MOVQ size+8(FP), SI
	MOVQ c+16(FP), R12
	MOVQ $435, AX // clone3(2)
	SYSCALL
	TESTQ AX, AX
	JEQ  born
	MOVQ AX, ret+24(FP)
	RET
born:
	MOVQ R12, 0(SP)
	CALL ·leadSharing(SB)
	INT  $3
