package main

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	maxStarts = 10
	maxFiles  = 4096

	processesEach = 8 // for each command, while as many run as may
	maxSlots      = 1024
)

var errCrowded = errors.New("no process may be started: there are as many as there may be")

const crowdedWait = 10 * time.Millisecond // between two attempts to start where others have all there is

// taskUser is who commands run as, where sandboxd is the superuser.
type taskUser struct{ uid, gid int }

// process is the first process of a job.
type process struct {
	mark          uint64
	ended         <-chan syscall.WaitStatus
	stdin, output *os.File
	news          int // where a file call tells why it failed; -1: it is none
}

// spawner starts processes.
type spawner struct {
	mu       sync.Mutex
	reaper   *reaper
	marks    marks
	badness  badness
	user     *taskUser
	shell    string
	lastMark uint64
	running  map[uint64]bool // jobs that have not ended, by their mark; true: one holds a slot
	slots    chan struct{}   // one for each command that may run at once
	turn     chan struct{}   // held by the one that waits for room
}

func newSpawner(user *taskUser, shell string) (*spawner, error) {
	own, err := ownMarks()
	if err != nil {
		return nil, err
	}
	for _, usual := range []string{"/bin/bash", "/usr/bin/bash", "/bin/sh"} {
		if shell == "" && syscall.Access(usual, 1) == nil {
			shell = usual
		}
	}
	return &spawner{
		reaper: newReaper(), marks: own, badness: ownBadness(), user: user, shell: shell,
		running: map[uint64]bool{}, slots: make(chan struct{}, numSlots(ownBound())), turn: make(chan struct{}, 1),
	}, nil
}

// numSlots leaves each of the commands that run at once some processes: one that is refused its own would fail in words
// that are not its user's. Two may always wait for each other.
func numSlots(bound uint64) int {
	switch slots := bound / processesEach; {
	case slots < 2:
		return 2
	case slots > maxSlots:
		return maxSlots
	default:
		return int(slots)
	}
}

// start starts a process, commands within their slots. Where the bound on processes is reached, what earlier commands
// left goes; for those that run it waits, until its own time is over.
func (s *spawner) start(o order, until time.Time) (*process, error) {
	c, err := s.childFor(o)
	if err != nil {
		return nil, err
	}
	defer c.drop()
	over := time.NewTimer(time.Until(until))
	defer over.Stop()
	slotted := !c.tells
	if slotted {
		select {
		case s.slots <- struct{}{}:
		case <-over.C:
			return nil, errCrowded
		}
	}
	p, err := s.startWithin(c, over.C)
	switch {
	case err == nil && slotted:
		s.mu.Lock()
		s.running[p.mark] = true
		s.mu.Unlock()
	case slotted:
		<-s.slots
	}
	return p, err
}

func (s *spawner) startWithin(c *child, over <-chan time.Time) (*process, error) {
	p, err := s.try(c)
	if !isCrowded(err) {
		return p, err
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-over:
		return nil, errCrowded
	}
	for tries := 0; tries < maxStarts; {
		alone := s.makeRoom()
		if p, err := s.try(c); !isCrowded(err) {
			return p, err
		}
		if alone {
			tries++
			continue
		}
		select {
		case <-time.After(crowdedWait):
		case <-over:
			return nil, errCrowded
		}
	}
	return nil, errCrowded
}

func isCrowded(err error) bool {
	return errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.ENOMEM)
}

func (s *spawner) try(c *child) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fork(c)
}

// makeRoom ends what earlier commands left. True where none runs: then nothing is left at all.
func (s *spawner) makeRoom() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.running) == 0 {
		return endAll()
	}
	s.marks.end(func(mark uint64) bool { _, runs := s.running[mark]; return !runs })
	return false
}

// over says that the job of a process has ended: what it left may go.
func (s *spawner) over(mark uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[mark] {
		<-s.slots
	}
	delete(s.running, mark)
}

// endAll ends everything, and nothing starts meanwhile.
func (s *spawner) endAll() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return endAll()
}

// fork gives a child what is its own: a mark, and pipes.
func (s *spawner) fork(c *child) (*process, error) {
	count, news := 2, -1
	if c.tells {
		count = 3
	}
	fds, err := pipes(count)
	if err != nil {
		return nil, err
	}
	s.lastMark++
	mark := s.lastMark
	c.files = [3]int{fds[0], fds[3], fds[3]}
	if c.tells {
		news, c.news = fds[4], fds[5]
	}
	c.limits = append(s.marks.limits(mark), filesLimit())
	_, ended, err := s.reaper.start(func() (int, error) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		s.badness.raise()
		defer s.badness.restore()
		defer prctl(prSetDumpable, 0) // a change of user in the child may have set it for the memory they shared
		return c.fork()
	})
	if err == nil {
		err = c.refusal()
	}
	closeAll(fds[0], fds[3], c.news)
	if err != nil {
		closeAll(fds[1], fds[2], news)
		return nil, err
	}
	s.running[mark] = false
	_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, uintptr(fds[2]), setPipeSize, maxPolled) // fewer wake-ups; may be refused
	return &process{
		mark: mark, ended: ended, news: news,
		stdin: nonblocking(fds[1], "stdin"), output: nonblocking(fds[2], "output"),
	}, nil
}

// pipes makes some: for each the end to read and the end to write.
func pipes(count int) ([]int, error) {
	var all []int
	for ; count > 0; count-- {
		var ends [2]int
		if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC); err != nil {
			closeAll(all...)
			return nil, err
		}
		all = append(all, ends[:]...)
	}
	return all, nil
}

func closeAll(fds ...int) {
	for _, fd := range fds {
		_ = syscall.Close(fd)
	}
}

func filesLimit() limit {
	bound := syscall.Rlimit{Cur: maxFiles, Max: maxFiles}
	var own syscall.Rlimit
	if syscall.Getrlimit(rlimitFiles, &own) == nil && own.Max < maxFiles {
		bound = syscall.Rlimit{Cur: own.Max, Max: own.Max}
	}
	return limit{rlimitFiles, bound}
}
