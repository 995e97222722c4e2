#include "textflag.h"

// The C calling convention: the signal's number is in R0, the kernel has saved all registers, and RET goes to restorer.
TEXT ·handler(SB), NOSPLIT|NOFRAME, $0
	SUB  $16, RSP
	MOVD R0, 0(RSP)
	MOVD ·pipe(SB), R0
	MOVD RSP, R1
	MOVD $1, R2
	MOVD $64, R8 // write(2)
	SVC
	ADD  $16, RSP
	RET

TEXT ·restorer(SB), NOSPLIT|NOFRAME, $0
	MOVD $139, R8 // rt_sigreturn(2)
	SVC
	BRK

TEXT ·handlerPC(SB), NOSPLIT, $0-8
	MOVD $·handler(SB), R0
	MOVD R0, ret+0(FP)
	RET

TEXT ·restorerPC(SB), NOSPLIT, $0-8
	MOVD $·restorer(SB), R0
	MOVD R0, ret+0(FP)
	RET
