package main

import (
	"syscall"
	"unsafe"
)

// Package syscall can start a process, but not set its resource bounds or its filter of system calls before its
// program begins. So that is written here. Until then the child runs in this process's memory while the
// thread that made it waits (vfork(2)), which spares copying it. Other threads go on, and hold locks: so the child makes
// system calls and nothing else, and its stack does not grow.

// child is all that a forked process needs to become a program, laid out beforehand.
type child struct {
	program   *byte
	arguments []*byte // ended by nil, as the next
	variables []*byte
	folder    *byte
	place     string // the folder's name, for people
	files     [3]int // to become 0, 1 and 2
	script    int    // to become scriptFD; -1: none
	news      int    // to become newsFD; -1: none
	tells     bool   // its program wants one
	limits    []limit
	uid, gid  int // 0: stay who we are
	network   int // set of Landlock rules; -1: none
	filter    *filter

	failedAt int // where it did not become the program; 0: it did
	failure  syscall.Errno
}

type limit struct {
	kind  uintptr
	bound syscall.Rlimit
}

// What a child was about to do when the kernel refused.
const (
	atSession = 1 + iota
	atFiles
	atLimits
	atUser
	atNetwork
	atFilter
	atFolder
	atProgram
)

const allSignals = ^uint64(0)

// vfork returns twice: 0 in the child, and in the parent the child's id, or an error number below 0.
func vfork() int

// fork starts a process that becomes the program, or has ended and says why in failedAt; the caller holds the thread.
//
//go:nosplit
func (c *child) fork() (pid int, err error) {
	// No handler of ours may run in the child.
	c.failedAt = 0
	blocked, before := allSignals, uint64(0)
	setSignalMask(&blocked, &before)
	pid = c.split(&before)
	setSignalMask(&before, nil)
	if pid < 0 {
		return 0, syscall.Errno(-pid)
	}
	return pid, nil
}

// split returns in the parent only, and at once: the child has been using what is on the stack from here on.
//
//go:nosplit
//go:noinline
func (c *child) split(signals *uint64) int {
	if pid := vfork(); pid != 0 {
		return pid
	}
	c.failedAt, c.failure = c.become(signals)
	for {
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 127, 0, 0)
	}
}

// become returns only where it fails.
//
//go:nosplit
func (c *child) become(signals *uint64) (stage int, code syscall.Errno) {
	var usual [4]uint64
	for number := uintptr(1); number <= 64; number++ {
		_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, number, pointer(&usual[0]), 0, 8, 0, 0)
	}
	setSignalMask(signals, nil)
	if _, _, code = syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0); code != 0 {
		return atSession, code
	}
	for number, fd := range c.files {
		if _, _, code = syscall.RawSyscall(syscall.SYS_DUP3, uintptr(fd), uintptr(number), 0); code != 0 {
			return atFiles, code
		}
	}
	if c.script >= 0 {
		if _, _, code = syscall.RawSyscall(syscall.SYS_DUP3, uintptr(c.script), scriptFD, 0); code != 0 {
			return atFiles, code
		}
	}
	if c.news >= 0 {
		if _, _, code = syscall.RawSyscall(syscall.SYS_DUP3, uintptr(c.news), newsFD, 0); code != 0 {
			return atFiles, code
		}
	}
	for i := range c.limits {
		set := &c.limits[i]
		_, _, code = syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, set.kind, pointer(&set.bound), 0, 0, 0)
		if code != 0 {
			return atLimits, code
		}
	}
	if c.uid != 0 {
		if _, _, code = syscall.RawSyscall(syscall.SYS_SETGROUPS, 0, 0, 0); code != 0 {
			return atUser, code
		}
		if _, _, code = syscall.RawSyscall(syscall.SYS_SETGID, uintptr(c.gid), 0, 0); code != 0 {
			return atUser, code
		}
		if _, _, code = syscall.RawSyscall(syscall.SYS_SETUID, uintptr(c.uid), 0, 0); code != 0 {
			return atUser, code
		}
	}
	if c.network >= 0 {
		if _, _, code = syscall.RawSyscall(sysLandlockRestrict, uintptr(c.network), 0, 0); code != 0 {
			return atNetwork, code
		}
	}
	if c.filter != nil {
		_, _, code = syscall.RawSyscall(sysSeccomp, seccompSetMode, 0, uintptr(unsafe.Pointer(c.filter)))
		if code != 0 {
			return atFilter, code
		}
	}
	if _, _, code = syscall.RawSyscall(syscall.SYS_CHDIR, pointer(c.folder), 0, 0); code != 0 {
		return atFolder, code
	}
	_, _, code = syscall.RawSyscall(syscall.SYS_EXECVE, pointer(c.program),
		uintptr(unsafe.Pointer(&c.arguments[0])), uintptr(unsafe.Pointer(&c.variables[0])))
	return atProgram, code
}

//go:nosplit
func setSignalMask(mask, before *uint64) {
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, 2, uintptr(unsafe.Pointer(mask)), uintptr(unsafe.Pointer(before)), 8, 0, 0)
}

//go:nosplit
func pointer[T any](value *T) uintptr { return uintptr(unsafe.Pointer(value)) }
