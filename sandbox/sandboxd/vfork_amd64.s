#include "textflag.h"

// func vfork() int
// The child runs on its parent's stack, and overwrites this function's return address there: so that is kept in a
// register, which is each process's own.
TEXT ·vfork(SB),NOSPLIT|NOFRAME,$0-8
	MOVQ	$0x4111, DI // CLONE_VM, CLONE_VFORK, SIGCHLD
	XORQ	SI, SI
	XORQ	DX, DX
	XORQ	R10, R10
	XORQ	R8, R8
	MOVQ	$56, AX // clone
	POPQ	R12
	SYSCALL
	PUSHQ	R12
	MOVQ	AX, ret+0(FP)
	RET
