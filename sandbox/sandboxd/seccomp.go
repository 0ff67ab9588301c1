package main

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"
)

// What no process of a sandbox may call, as a classic BPF program for seccomp(2). Refused calls fail with EPERM instead of
// ending the process: test suites probe for what they may do. Programs of a foreign ABI (32 bit, x32) are refused as a
// whole, so that no call has a second name.

type machineKind struct {
	auditArch  uint32
	column     int
	cloneFlags uint32
	socket     uint32
	ioctl      uint32
	fcntl      uint32
	prlimit    uint32
	setrlimit  uint32
	hugePages  [3]bitOf
}

// bitOf is a bit of an argument of a call.
type bitOf struct{ call, argument, bit uint32 }

var machines = map[string]machineKind{
	"amd64": {
		auditArch: 0xC000003E, column: 0, cloneFlags: 56, socket: 41, ioctl: 16, fcntl: 72, prlimit: 302, setrlimit: 160,
		hugePages: [3]bitOf{{9, 3, mapHuge}, {29, 2, shmHuge}, {319, 1, memfdHuge}},
	},
	"arm64": {
		auditArch: 0xC00000B7, column: 1, cloneFlags: 220, socket: 198, ioctl: 29, fcntl: 25, prlimit: 261, setrlimit: 164,
		hugePages: [3]bitOf{{222, 3, mapHuge}, {194, 2, shmHuge}, {279, 1, memfdHuge}},
	},
}

// refused holds a call's number on amd64 and on arm64; -1 where it does not exist.
var refused = []struct {
	name    string
	numbers [2]int
}{
	{"mount", [2]int{165, 40}},
	{"umount2", [2]int{166, 39}},
	{"pivot_root", [2]int{155, 41}},
	{"chroot", [2]int{161, 51}},
	{"open_tree", [2]int{428, 428}},
	{"move_mount", [2]int{429, 429}},
	{"fsopen", [2]int{430, 430}},
	{"fsconfig", [2]int{431, 431}},
	{"fsmount", [2]int{432, 432}},
	{"fspick", [2]int{433, 433}},
	{"mount_setattr", [2]int{442, 442}},
	{"open_tree_attr", [2]int{467, 467}},
	{"unshare", [2]int{272, 97}},
	{"setns", [2]int{308, 268}},
	{"ptrace", [2]int{101, 117}},
	{"process_vm_readv", [2]int{310, 270}},
	{"process_vm_writev", [2]int{311, 271}},
	{"process_madvise", [2]int{440, 440}},
	{"pidfd_getfd", [2]int{438, 438}},
	{"kcmp", [2]int{312, 272}},
	{"bpf", [2]int{321, 280}},
	{"perf_event_open", [2]int{298, 241}},
	{"add_key", [2]int{248, 217}},
	{"request_key", [2]int{249, 218}},
	{"keyctl", [2]int{250, 219}},
	{"userfaultfd", [2]int{323, 282}},
	{"io_uring_setup", [2]int{425, 425}},
	{"io_uring_enter", [2]int{426, 426}},
	{"io_uring_register", [2]int{427, 427}},
	{"kexec_load", [2]int{246, 104}},
	{"kexec_file_load", [2]int{320, 294}},
	{"init_module", [2]int{175, 105}},
	{"finit_module", [2]int{313, 273}},
	{"delete_module", [2]int{176, 106}},
	{"create_module", [2]int{174, -1}},
	{"open_by_handle_at", [2]int{304, 265}},
	{"name_to_handle_at", [2]int{303, 264}},
	{"fanotify_init", [2]int{300, 262}},
	{"quotactl", [2]int{179, 60}},
	{"quotactl_fd", [2]int{443, 443}},
	{"swapon", [2]int{167, 224}},
	{"swapoff", [2]int{168, 225}},
	{"reboot", [2]int{169, 142}},
	{"acct", [2]int{163, 89}},
	{"syslog", [2]int{103, 116}},
	{"vhangup", [2]int{153, 58}},
	{"iopl", [2]int{172, -1}},
	{"ioperm", [2]int{173, -1}},
	{"modify_ldt", [2]int{154, -1}},
	{"uselib", [2]int{134, -1}},
	{"settimeofday", [2]int{164, 170}},
	{"clock_settime", [2]int{227, 112}},
	{"lookup_dcookie", [2]int{212, 18}},
	{"move_pages", [2]int{279, 239}},
	{"migrate_pages", [2]int{256, 238}},
	{"mbind", [2]int{237, 235}},
	{"set_mempolicy", [2]int{238, 237}},
	{"io_setup", [2]int{206, 0}}, // of these there are so many for the whole machine
}

const (
	x32Bit         = 0x40000000
	sysClone3      = 435
	newNamespaces  = 0x7E020000 // all CLONE_NEW... flags that clone(2) takes
	familyUnix     = 1
	familyIPv4     = 2
	familyIPv6     = 10
	familyNetlink  = 16
	mapHuge        = 0x40000
	shmHuge        = 0o4000
	memfdHuge      = 0x4
	seccompAllow   = 0x7FFF0000
	seccompErrno   = 0x00050000
	offsetNumber   = 0
	offsetArch     = 4
	seccompSetMode = 1
	seccompThreads = 1 // SECCOMP_FILTER_FLAG_TSYNC
	opLoad         = 0x20
	opEqual        = 0x15
	opGreater      = 0x35
	opAnyBit       = 0x45
	opReturn       = 0x06
)

// TIOCSTI and TIOCLINUX type into the terminal of somebody else; for TIOCSETD the kernel loads a module.
var terminalRequests = []uint32{0x5412, 0x541C, 0x5423}

// fcntl's F_SETLEASE: who holds a lease on a file keeps everybody on the machine from opening it for most of a minute. A
// sandbox that was made without privilege has the user to whom the host's files may belong.
const setLease = 1024

// By default, TCP, UDP, and ICMP of both versions: for any other protocol the kernel would load a module.
var internetProtocols = []uint32{0, 6, 17, 1, 58}

// What a netlink socket is for that says which interfaces and addresses there are.
var netlinkProtocols = []uint32{0}

// instruction is the kernel's struct sock_filter.
type instruction struct {
	code    uint16
	yes, no uint8
	value   uint32
}

type rules []instruction

// baseRules bind sandboxd and everything it starts.
func baseRules(m machineKind) rules {
	r := rules{load(offsetArch)}
	r = append(r, unless(m.auditArch, fail(syscall.EPERM))...)
	r = append(r, load(offsetNumber))
	if m.column == 0 {
		r = append(r, instruction{opGreater, 0, 1, x32Bit}, fail(syscall.EPERM))
	}
	// Its flags are in memory, out of reach of a filter: told that it does not exist, programs take clone(2).
	r = append(r, when(sysClone3, fail(syscall.ENOSYS))...)
	for _, call := range refused {
		if number := call.numbers[m.column]; number >= 0 {
			r = append(r, when(uint32(number), fail(syscall.EPERM))...)
		}
	}
	r = append(r, only(m.cloneFlags, load(argument(0)), instruction{opAnyBit, 0, 1, newNamespaces}, fail(syscall.EPERM))...)
	typing := rules{load(argument(1))}
	for _, request := range terminalRequests {
		typing = append(typing, when(request, fail(syscall.EPERM))...)
	}
	r = append(r, only(m.ioctl, typing...)...)
	r = append(r, only(m.fcntl, append(rules{load(argument(1))}, when(setLease, fail(syscall.EACCES))...)...)...)
	r = append(r, only(m.prlimit, ownLimits()...)...)
	r = append(r, only(m.setrlimit, append(rules{load(argument(0))}, when(rlimitCore, fail(0))...)...)...)
	for _, huge := range m.hugePages { // no control group counts them
		r = append(r, only(huge.call, load(argument(huge.argument)), instruction{opAnyBit, 0, 1, huge.bit}, fail(syscall.ENOMEM))...)
	}
	r = append(r, only(m.socket, sockets()...)...)
	return append(r, verdict(seccompAllow))
}

// ownLimits lets a process bound itself only, and its core dumps as they are: it is told that they were bounded.
func ownLimits() rules {
	r := append(rules{load(argument(0))}, unless(0, fail(syscall.EPERM))...)
	r = append(r, load(argument(1)))
	r = append(r, unless(rlimitCore, verdict(seccompAllow))...)
	for half := uint32(0); half < 8; half += 4 { // of the address of the new bound; none where it only asks
		r = append(r, load(argument(2)+half))
		r = append(r, unless(0, fail(0))...)
	}
	return r
}

func sockets() rules {
	r := rules{load(argument(0))}
	r = append(r, when(familyUnix, verdict(seccompAllow))...)
	r = append(r, protocols(familyNetlink, netlinkProtocols)...)
	r = append(r, protocols(familyIPv4, internetProtocols)...)
	r = append(r, protocols(familyIPv6, internetProtocols)...)
	return append(r, fail(syscall.EAFNOSUPPORT))
}

// protocols allows these of one family.
func protocols(family uint32, allowed []uint32) rules {
	body := rules{load(argument(2))}
	for _, protocol := range allowed {
		body = append(body, when(protocol, verdict(seccompAllow))...)
	}
	body = append(body, fail(syscall.EPROTONOSUPPORT))
	return append(rules{{opEqual, 0, uint8(len(body)), family}}, body...)
}

// sealedRules come on top of baseRules for a command that may open no network socket, not even to itself.
func sealedRules(m machineKind) rules {
	r := append(rules{load(offsetNumber)}, only(m.socket, families(familyUnix, familyNetlink)...)...)
	return append(r, verdict(seccompAllow))
}

// filter is the kernel's struct sock_fprog.
type filter struct {
	length uint16
	first  *instruction
}

func filterOf(r rules) *filter { return &filter{uint16(len(r)), &r[0]} }

// installFilter binds all threads of this process and everything they start.
func installFilter(r rules) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := prctl(prSetNoNewPrivs, 1); err != nil {
		return err
	}
	bad, _, code := syscall.RawSyscall(sysSeccomp, seccompSetMode, seccompThreads, uintptr(unsafe.Pointer(filterOf(r))))
	if code != 0 {
		return code
	}
	if bad != 0 {
		return fmt.Errorf("thread %d could not be bound", bad)
	}
	return nil
}

func (r rules) bytes() []byte {
	var out []byte
	for _, i := range r {
		out = append(out, byte(i.code), byte(i.code>>8), i.yes, i.no)
		out = append(out, byte(i.value), byte(i.value>>8), byte(i.value>>16), byte(i.value>>24))
	}
	return out
}

func families(allowed ...uint32) rules {
	r := rules{load(argument(0))}
	for _, family := range allowed {
		r = append(r, when(family, verdict(seccompAllow))...)
	}
	return append(r, fail(syscall.EAFNOSUPPORT))
}

// argument is the offset of the low half of a call's argument (little endian).
func argument(number uint32) uint32 { return 16 + 8*number }

func load(offset uint32) instruction { return instruction{opLoad, 0, 0, offset} }

func verdict(value uint32) instruction { return instruction{opReturn, 0, 0, value} }

func fail(code syscall.Errno) instruction { return verdict(seccompErrno | uint32(code)) }

func when(value uint32, then instruction) rules { return rules{{opEqual, 0, 1, value}, then} }

func unless(value uint32, then instruction) rules { return rules{{opEqual, 1, 0, value}, then} }

// only runs body for one system call; whatever falls through it is allowed.
func only(number uint32, body ...instruction) rules {
	r := append(rules{{opEqual, 0, uint8(len(body) + 1), number}}, body...)
	return append(r, verdict(seccompAllow))
}
