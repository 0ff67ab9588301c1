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

// noTCP makes a set of rules that lets nobody bind or connect, for a child to put on itself; -1 on kernels that do not
// have it. It is the second net below sealedRules.
func noTCP() (int, error) {
	if landlockVersion() < landlockTCP {
		return -1, nil
	}
	handled := struct{ files, network uint64 }{0, 1<<0 | 1<<1}
	rules, _, code := syscall.RawSyscall(
		sysLandlockCreate, uintptr(unsafe.Pointer(&handled)), unsafe.Sizeof(handled), 0)
	if code != 0 {
		return -1, code
	}
	return int(rules), nil
}
