package main

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

// memoryWatch sees when there is not enough memory. The control group's own bound is higher by the size of the disk,
// for files kept in memory count there too; bound is what processes may have, 0 where nobody said.
type memoryWatch struct {
	events, usage *os.File // of the control group, by which this process is bound; nil where there is none
	bound         int64

	kills  int64            // of the kernel, for which a command has answered
	before map[uint64]int64 // what each command had when last looked, where it was enough to count
}

// newMemoryWatch reads the control group whose folder is open as group, or else the one that is mounted at the usual
// place.
func newMemoryWatch(group int) *memoryWatch {
	if group >= 0 {
		defer syscall.Close(group)
		return firstReadable(func(name string) (*os.File, error) { return openIn(group, name) },
			[2]string{"memory.events.local", "memory.stat"}, [2]string{"memory.oom_control", "memory.stat"})
	}
	return firstReadable(os.Open,
		[2]string{"/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory.stat"},
		[2]string{"/sys/fs/cgroup/memory/memory.oom_control", "/sys/fs/cgroup/memory/memory.stat"})
}

func openIn(folder int, name string) (*os.File, error) {
	fd, err := syscall.Openat(folder, name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func firstReadable(open func(string) (*os.File, error), pairs ...[2]string) *memoryWatch {
	for _, names := range pairs {
		events, err := open(names[0])
		if err != nil {
			continue
		}
		usage, err := open(names[1])
		if err != nil {
			events.Close()
			continue
		}
		return &memoryWatch{events: events, usage: usage}
	}
	return &memoryWatch{}
}

// numKills counts the processes that the kernel ended for want of memory.
func (w *memoryWatch) numKills() int64 { return field(w.events, "oom_kill") }

// answer takes the kills of the kernel since there were so many, if no command has answered for them yet.
func (w *memoryWatch) answer(since int64) bool {
	kills := w.numKills()
	if kills <= since || kills <= w.kills {
		return false
	}
	w.kills = kills
	return true
}

// look says by its mark which command is to end for want of memory: the one that has the most, where all have too much
// together; or had the most before the kernel ended a process, whose command would wait for it in vain.
func (w *memoryWatch) look(m marks) uint64 {
	kills, before := w.numKills(), w.before
	w.before = nil
	if w.bound > 0 && (w.usage == nil || w.used() > w.bound/2) {
		w.before = m.memory()
	}
	if kills > w.kills && largest(before) != unmarked {
		w.kills = kills
		return largest(before)
	}
	if w.exceeded() {
		return largest(w.before)
	}
	return unmarked
}

// used is the memory of the control group that is no file's.
func (w *memoryWatch) used() int64 { return field(w.usage, "anon", "total_rss") }

// exceeded says whether processes have more than their bound.
func (w *memoryWatch) exceeded() bool {
	if w.bound <= 0 {
		return false
	}
	if w.usage != nil {
		return w.used() > w.bound
	}
	// Without a control group we add up ourselves. The first sum counts memory that processes share once for each, the
	// second does not but takes longer. What is mapped of files that are kept in memory is the disk's.
	var sum, exact int64
	for _, bytes := range w.before {
		sum += bytes
	}
	if sum <= w.bound {
		return false
	}
	for _, pid := range descendants() {
		exact += proportionalBytes("/proc/" + strconv.Itoa(pid))
	}
	return exact-filesInMemory() > w.bound
}

func largest(bytes map[uint64]int64) (mark uint64) {
	for each := range bytes {
		if bytes[each] > bytes[mark] {
			mark = each
		}
	}
	return mark
}

// memory is what each command's processes have mapped that is in no file on a disk.
func (m marks) memory() map[uint64]int64 {
	bytes := map[uint64]int64{}
	for _, pid := range descendants() {
		folder := "/proc/" + strconv.Itoa(pid)
		if limits, err := os.ReadFile(folder + "/limits"); err == nil {
			bytes[m.read(limits)] += residentBytes(folder)
		}
	}
	return bytes
}

// residentBytes is the memory of a process that is in no file on a disk; 0 where it has ended meanwhile. Every process
// shows it, however it closed itself to others.
func residentBytes(folder string) int64 {
	text, _ := os.ReadFile(folder + "/status")
	return kilobytes(text, "RssAnon:") + kilobytes(text, "RssShmem:")
}

// proportionalBytes is the same, with what is shared shared out, unless the process closed itself to us.
func proportionalBytes(folder string) int64 {
	text, err := os.ReadFile(folder + "/smaps_rollup")
	if err != nil {
		return residentBytes(folder)
	}
	return kilobytes(text, "Pss_Anon:") + kilobytes(text, "Pss_Shmem:")
}

// kilobytes is the number behind a name at the beginning of a line, in bytes.
func kilobytes(text []byte, name string) int64 {
	_, rest, _ := bytes.Cut(text, []byte("\n"+name))
	line, _, _ := bytes.Cut(rest, []byte(" kB"))
	number, _ := strconv.ParseInt(string(bytes.TrimSpace(line)), 10, 64)
	return number << 10
}

// filesInMemory is what the files of a disk take that is kept in memory.
func filesInMemory() int64 {
	var disk syscall.Statfs_t
	if syscall.Statfs("/tmp", &disk) != nil || disk.Type != magicTmpfs {
		return 0
	}
	return int64(disk.Blocks-disk.Bfree) * disk.Bsize
}

// field is the number behind the first of the names that a file of a control group has. It is asked for often: so it
// leaves nothing to collect.
func field(file *os.File, names ...string) int64 {
	if file == nil {
		return 0
	}
	var text [4096]byte
	n, _ := syscall.Pread(int(file.Fd()), text[:], 0)
	if n < 0 {
		return 0
	}
	for rest := text[:n]; len(rest) > 0; {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		name, value, _ := bytes.Cut(line, []byte(" "))
		for _, wanted := range names {
			if string(name) == wanted {
				number, _ := strconv.ParseInt(string(value), 10, 64)
				return number
			}
		}
	}
	return 0
}
