package main

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	killPatience = time.Second
	unkillable   = 10 * time.Second
)

// Which command a process belongs to is written on it in a way that it inherits, that survives a new session and the
// death of its parents, and that cannot be forged without privilege. Two bounds on resources which Linux keeps but does
// not enforce (RLIMIT_RSS, RLIMIT_LOCKS) are set to base-mark and base+mark. A process may lower such a bound but never
// raise it, so it can make the first name a later command and the second an earlier one, but never both the same.
type marks struct{ resident, locks uint64 }

const unmarked, forged = 0, ^uint64(0)

func ownMarks() (marks, error) {
	var m marks
	for kind, base := range map[int]*uint64{rlimitResident: &m.resident, rlimitLocks: &m.locks} {
		var bound syscall.Rlimit
		if err := syscall.Getrlimit(kind, &bound); err != nil {
			return m, err
		}
		*base = 1 << 60
		if bound.Max/2 < *base {
			*base = bound.Max / 2
		}
	}
	return m, nil
}

// limits mark a process and all it will start.
func (m marks) limits(mark uint64) []limit {
	low, high := m.resident-mark, m.locks+mark
	return []limit{
		{rlimitResident, syscall.Rlimit{Cur: low, Max: low}}, {rlimitLocks, syscall.Rlimit{Cur: high, Max: high}},
	}
}

// read tells the mark of a process from the text of its /proc/PID/limits.
func (m marks) read(limits []byte) uint64 {
	resident, locks := hardLimit(limits, "Max resident set"), hardLimit(limits, "Max file locks")
	if resident > m.resident || locks > 2*m.locks {
		return unmarked // never lowered: no process of a command
	}
	if mark := m.resident - resident; mark == locks-m.locks {
		return mark
	}
	return forged
}

func hardLimit(limits []byte, name string) uint64 {
	at := bytes.Index(limits, []byte(name))
	if at < 0 {
		return ^uint64(0)
	}
	line, _, _ := bytes.Cut(limits[at+len(name):], []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) < 2 {
		return ^uint64(0)
	}
	value, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return ^uint64(0) // "unlimited"
	}
	return value
}

// belongsTo lists the living processes of one command, and those whose mark somebody tampered with.
func (m marks) belongsTo(mark uint64) []int {
	return m.marked(of(mark))
}

func of(mark uint64) func(uint64) bool {
	return func(is uint64) bool { return is == mark || is == forged }
}

// marked lists the living processes whose mark is one of these.
func (m marks) marked(wanted func(mark uint64) bool) []int {
	var found []int
	for _, pid := range descendants() {
		limits, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/limits")
		if err != nil {
			continue
		}
		if wanted(m.read(limits)) {
			found = append(found, pid)
		}
	}
	return found
}

// descendants lists every living process below this one; what is dead and not yet reaped does not count.
func descendants() []int {
	parents := map[int]int{}
	for _, pid := range allProcesses() {
		if parent := livingParent(pid); parent > 0 {
			parents[pid] = parent
		}
	}
	self := os.Getpid()
	var found []int
	for pid := range parents {
		above := pid
		for steps := 0; above != self && above > 0 && steps <= len(parents); steps++ {
			above = parents[above]
		}
		if above == self && pid != self {
			found = append(found, pid)
		}
	}
	return found
}

func allProcesses() []int {
	folder, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer folder.Close()
	names, _ := folder.Readdirnames(-1)
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// livingParent is 0 for a process that has ended, and for one whose parent is outside our namespace.
func livingParent(pid int) int {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The name in the middle may hold anything, parentheses too.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 2 || fields[0] == "Z" || fields[0] == "X" {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

// endTree ends everything that a command started, however it hid. False: it outran us.
func (m marks) endTree(mark uint64) bool {
	return m.end(of(mark))
}

// end ends all that has one of these marks.
func (m marks) end(wanted func(mark uint64) bool) bool {
	giveUp := time.Now().Add(killPatience)
	stopped := map[int]bool{}
	for {
		fresh := false
		for _, pid := range m.marked(wanted) {
			if !stopped[pid] {
				// Stopped first: what is killed makes room for more under the bound on processes, what is stopped does not.
				_ = syscall.Kill(pid, syscall.SIGSTOP)
				stopped[pid], fresh = true, true
			}
		}
		if !fresh {
			break
		}
		if time.Now().After(giveUp) {
			return false
		}
	}
	for pid := range stopped {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	return gone(func() bool { return len(m.marked(wanted)) == 0 }, killPatience)
}

// endAll ends everything but this process.
func endAll() bool {
	return gone(func() bool {
		if os.Getpid() == 1 {
			_ = syscall.Kill(-1, syscall.SIGKILL) // the kernel does it in one go that no fork escapes
		}
		left := descendants()
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(left) == 0
	}, unkillable)
}

// gone waits for what the kernel does soon after a signal; there is nothing to be told by.
func gone(done func() bool, patience time.Duration) bool {
	giveUp := time.Now().Add(patience)
	for !done() {
		if time.Now().After(giveUp) {
			return false
		}
		time.Sleep(time.Millisecond)
	}
	return true
}

// ownBound is how many processes and threads there may be: of this user, or in the control group of a container.
func ownBound() uint64 {
	bound := ^uint64(0)
	var own syscall.Rlimit
	if err := syscall.Getrlimit(rlimitProcesses, &own); err == nil {
		bound = own.Cur
	}
	for _, path := range []string{"/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"} {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		group, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 64)
		if err == nil && group < bound { // else "max"
			bound = group
		}
	}
	return bound
}
