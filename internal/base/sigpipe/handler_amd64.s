#include "textflag.h"

// The C calling convention: the signal's number is in DI, the kernel has saved all registers, and RET goes to restorer.
TEXT ·handler(SB), NOSPLIT|NOFRAME, $0
	SUBQ $24, SP
	MOVQ DI, 0(SP)
	MOVQ ·pipe(SB), DI
	MOVQ SP, SI
	MOVQ $1, DX
	MOVQ $1, AX // write(2)
	SYSCALL
	ADDQ $24, SP
	RET

TEXT ·restorer(SB), NOSPLIT|NOFRAME, $0
	MOVQ $15, AX // rt_sigreturn(2)
	SYSCALL
	INT $3

TEXT ·handlerPC(SB), NOSPLIT, $0-8
	LEAQ ·handler(SB), AX
	MOVQ AX, ret+0(FP)
	RET

TEXT ·restorerPC(SB), NOSPLIT, $0-8
	LEAQ ·restorer(SB), AX
	MOVQ AX, ret+0(FP)
	RET
