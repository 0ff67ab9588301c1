package main

import (
	"os"
	"strconv"
	"strings"
)

// memoryWatch sees when there is not enough memory. The control group's own bound is higher by the size of the disk,
// for files kept in memory count there too; bound is what processes may have, 0 where nobody said.
type memoryWatch struct {
	events, usage *os.File // of the control group, by which this process is bound; nil where there is none
	bound         int64
}

func newMemoryWatch() *memoryWatch {
	for _, names := range [][2]string{
		{"/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory.stat"},
		{"/sys/fs/cgroup/memory/memory.oom_control", "/sys/fs/cgroup/memory/memory.stat"},
	} {
		events, err := os.Open(names[0])
		if err != nil {
			continue
		}
		usage, err := os.Open(names[1])
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
	return w.bound > 0 && w.usage != nil && field(w.usage, "anon", "total_rss") > w.bound
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
