package main

import (
	"os"
	"strconv"
	"strings"
)

const (
	commandBadness = 600
	maxBadness     = 1000
)

// badness says whom the kernel ends first when memory is short: commands, and not sandboxd. A process inherits its
// parent's and cannot raise its own where that is closed to it; so the parent's is raised for as long as it forks.
type badness struct {
	file          *os.File // nil where there is none to write
	usual, raised []byte
}

// ownBadness must come before this process is closed to others, and with them to itself.
func ownBadness() badness {
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return badness{}
	}
	value, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return badness{}
	}
	file, err := os.OpenFile("/proc/self/oom_score_adj", os.O_WRONLY, 0)
	if err != nil {
		return badness{}
	}
	raised := value + commandBadness
	if raised > maxBadness {
		raised = maxBadness
	}
	return badness{file, []byte(strconv.Itoa(value)), []byte(strconv.Itoa(raised))}
}

func (b *badness) raise()   { b.set(b.raised) }
func (b *badness) restore() { b.set(b.usual) }

func (b *badness) set(value []byte) {
	if b.file != nil {
		_, _ = b.file.WriteAt(value, 0)
	}
}
