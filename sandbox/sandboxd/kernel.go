package main

import (
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"unsafe"
)

// Numbers that package syscall does not have.
const (
	prSetDumpable       = 4
	prSetChildSubreaper = 36
	prSetNoNewPrivs     = 38
	fionread            = 0x541B
	setPipeSize         = 1031
	rlimitCore          = 4
	rlimitResident      = 5
	rlimitProcesses     = 6
	rlimitFiles         = 7
	rlimitLocks         = 10
	openPath            = 0x200000
	magicTmpfs          = 0x01021994

	sysLandlockCreate   = 444
	sysLandlockRestrict = 446
)

// spareThreads are as many as block at once when all goes wrong together. With the bound on processes reached, the
// runtime could not make one more, and would end; so they are made before anything else runs.
const spareThreads = 8

func prctl(option, argument uintptr) error {
	if _, _, code := syscall.RawSyscall6(syscall.SYS_PRCTL, option, argument, 0, 0, 0, 0); code != 0 {
		return code
	}
	return nil
}

// readyThreads makes the runtime start threads, which it then keeps.
func readyThreads(count int) {
	var all, done sync.WaitGroup
	all.Add(count)
	done.Add(count)
	for i := 0; i < count; i++ {
		go func() {
			runtime.LockOSThread()
			all.Done()
			all.Wait()
			runtime.UnlockOSThread()
			done.Done()
		}()
	}
	done.Wait()
}

// numReadable says how many bytes a pipe holds.
func numReadable(file *os.File) int {
	var count int32
	raw, err := file.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, fd, fionread, uintptr(unsafe.Pointer(&count)))
	})
	return int(count)
}

// nonblocking wraps a descriptor of ours for the runtime's poller: waiting on it holds no thread.
func nonblocking(fd int, name string) *os.File {
	_ = syscall.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), name)
}

// memoryFile is a file without a name, on no disk.
func memoryFile(name string) (int, error) {
	text, err := syscall.BytePtrFromString(name)
	if err != nil {
		return -1, err
	}
	fd, _, code := syscall.RawSyscall(sysMemfdCreate, uintptr(unsafe.Pointer(text)), 1, 0)
	if code != 0 {
		return -1, code
	}
	return int(fd), nil
}

// ownDescriptors sees to it that no descriptor of ours is passed on to a child, nor has a number that it needs itself.
func ownDescriptors() error {
	inherited, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, each := range inherited {
		if fd, err := strconv.Atoi(each.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	for {
		fd, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if fd > scriptFD {
			return syscall.Close(fd)
		}
	}
}

// isFirst says whether this is the first process of its namespace, which alone sees every orphan.
func isFirst() bool { return os.Getpid() == 1 }
