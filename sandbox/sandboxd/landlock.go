package main

import (
	"syscall"
	"unsafe"
)

// landlockTCP is the version of Landlock from which on it knows of TCP.
const landlockTCP = 4

// landlockVersion asks the kernel; 0 where there is none, or where we may not ask.
func landlockVersion() int {
	version, _, code := syscall.RawSyscall(sysLandlockCreate, 0, 0, 1)
	if code != 0 {
		return 0
	}
	return int(version)
}

// refuseTCP has Landlock refuse the calling thread, and what it starts, to bind or connect. It is the second net below
// sealedRules, and does nothing on kernels that do not have it.
func refuseTCP() error {
	if landlockVersion() < landlockTCP {
		return nil
	}
	handled := struct{ files, network uint64 }{0, 1<<0 | 1<<1}
	ruleset, _, code := syscall.RawSyscall(
		sysLandlockCreate, uintptr(unsafe.Pointer(&handled)), unsafe.Sizeof(handled), 0)
	if code != 0 {
		return code
	}
	defer syscall.Close(int(ruleset))
	if _, _, code := syscall.RawSyscall(sysLandlockRestrict, ruleset, 0, 0); code != 0 {
		return code
	}
	return nil
}
