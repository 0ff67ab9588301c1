package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
)

// memoryWatch sees when there is not enough memory. The control group's own bound is higher by the size of the disk,
// for files kept in memory count there too; bound is what processes may have, 0 where nobody said.
type memoryWatch struct {
	events, usage *os.File // of the control group, by which this process is bound; nil where there is none
	bound         int64
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

// exceeded says whether processes have more than their bound.
func (w *memoryWatch) exceeded() bool {
	if w.bound <= 0 {
		return false
	}
	if w.usage != nil {
		return field(w.usage, "anon", "total_rss") > w.bound
	}
	// Without a control group we add up ourselves. The first sum counts memory that a fork shares with its parent twice,
	// the second does not but takes longer.
	return sumOf(privateBytes) > w.bound && sumOf(proportionalBytes) > w.bound
}

func sumOf(bytes func(folder string) int64) (sum int64) {
	for _, pid := range descendants() {
		sum += bytes("/proc/" + strconv.Itoa(pid))
	}
	return sum
}

// privateBytes is the memory of a process that is no file's; 0 where it has ended meanwhile.
func privateBytes(folder string) int64 {
	text, _ := os.ReadFile(folder + "/statm")
	fields := strings.Fields(string(text))
	if len(fields) < 3 {
		return 0
	}
	resident, _ := strconv.ParseInt(fields[1], 10, 64)
	shared, _ := strconv.ParseInt(fields[2], 10, 64)
	return (resident - shared) * int64(os.Getpagesize())
}

// proportionalBytes is the same, with what is shared shared out.
func proportionalBytes(folder string) int64 {
	text, _ := os.ReadFile(folder + "/smaps_rollup")
	for _, line := range strings.Split(string(text), "\n") {
		if rest := strings.TrimPrefix(line, "Pss_Anon:"); rest != line {
			kilobytes, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kilobytes << 10
		}
	}
	return 0
}

func field(file *os.File, names ...string) int64 {
	if file == nil {
		return 0
	}
	text := make([]byte, 8192)
	n, _ := file.ReadAt(text, 0)
	for _, line := range strings.Split(string(text[:n]), "\n") {
		name, value, _ := strings.Cut(line, " ")
		for _, wanted := range names {
			if name == wanted {
				number, _ := strconv.ParseInt(value, 10, 64)
				return number
			}
		}
	}
	return 0
}
