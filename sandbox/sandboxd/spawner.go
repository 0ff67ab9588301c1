package main

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"syscall"
)

const (
	maxStarts = 10
	maxFiles  = 4096
)

var errCrowded = errors.New("no process may be started, and ending those that are there does not help")

// taskUser is who commands run as, where sandboxd is the superuser.
type taskUser struct{ uid, gid int }

// process is the first process of a job.
type process struct {
	mark          uint64
	ended         <-chan syscall.WaitStatus
	stdin, output *os.File
	news          int // where a file call tells why it failed
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
	return &spawner{reaper: newReaper(), marks: own, badness: ownBadness(), user: user, shell: shell}, nil
}

// start starts a process. Where the bound on processes is reached, what earlier commands left goes.
func (s *spawner) start(o order) (*process, error) {
	c, err := s.childFor(o)
	if err != nil {
		return nil, err
	}
	defer c.drop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for tries := 0; tries < maxStarts; tries++ {
		p, err := s.fork(c)
		if !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.ENOMEM) {
			return p, err
		}
		endAll()
	}
	return nil, errCrowded
}

// endAll ends everything, and nothing starts meanwhile.
func (s *spawner) endAll() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return endAll()
}

// fork gives a child what is its own: a mark, and pipes.
func (s *spawner) fork(c *child) (*process, error) {
	fds, err := pipes(3)
	if err != nil {
		return nil, err
	}
	s.lastMark++
	mark := s.lastMark
	c.files = [3]int{fds[0], fds[3], fds[3]}
	if c.tells {
		c.news = fds[5]
	}
	c.limits = append(s.marks.limits(mark), limit{rlimitCore, syscall.Rlimit{}}, filesLimit())
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
	closeAll(fds[0], fds[3], fds[5])
	if err != nil {
		closeAll(fds[1], fds[2], fds[4])
		return nil, err
	}
	_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, uintptr(fds[2]), setPipeSize, maxPolled) // fewer wake-ups; may be refused
	return &process{
		mark: mark, ended: ended, news: fds[4],
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
