package main

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	launchName  = "launch"
	launchWait  = 10 * time.Second
	maxLaunches = 10
)

var errNoLauncher = errors.New("no launcher lives long enough to be given a job")

// taskUser is who commands run as, where sandboxd is the superuser.
type taskUser struct{ uid, gid int }

// launcher is a process of ours that waits to become a job.
type launcher struct {
	pid                    int
	mark                   uint64
	ended                  <-chan syscall.WaitStatus
	stdin, output, control *os.File
}

// spawner starts launchers, one ahead of need: a Go program takes longer to start than a shell.
type spawner struct {
	mu       sync.Mutex
	reaper   *reaper
	marks    marks
	user     *taskUser
	lastMark uint64
	spare    *launcher
}

// engage hands an order to a launcher. Where the bound on processes is reached, what earlier commands left goes.
func (s *spawner) engage(order order, texts []string) (*launcher, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for tries := 0; tries < maxLaunches; tries++ {
		next := s.spare
		s.spare = nil
		if next == nil {
			var err error
			if next, err = s.launch(); err != nil {
				if !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.ENOMEM) {
					return nil, err
				}
				endAll()
				continue
			}
		}
		err := next.give(order, texts)
		if err == nil {
			return next, nil
		}
		next.drop()
		if errors.Is(err, errCrowded) {
			endAll()
		}
	}
	return nil, errNoLauncher
}

// prepare starts the next launcher while nobody waits for it.
func (s *spawner) prepare() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spare == nil {
		s.spare, _ = s.launch() // no process left: the next job will make room
	}
}

// endAll ends everything, and nothing starts meanwhile.
func (s *spawner) endAll() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spare != nil {
		s.spare.drop()
		s.spare = nil
	}
	return endAll()
}

func (s *spawner) launch() (*launcher, error) {
	var input, output [2]int
	if err := syscall.Pipe2(input[:], syscall.O_CLOEXEC); err != nil {
		return nil, err
	}
	if err := syscall.Pipe2(output[:], syscall.O_CLOEXEC); err != nil {
		closeAll(input[:])
		return nil, err
	}
	control, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		closeAll(append(input[:], output[:]...))
		return nil, err
	}
	s.lastMark++
	mark := s.lastMark
	theirs := []int{input[0], output[1], output[1], control[1]}
	pid, ended, err := s.reaper.start(func() (int, error) { return syscall.ForkExec("/proc/self/exe", s.arguments(mark), attributes(theirs)) })
	closeAll(theirs[:2])
	_ = syscall.Close(control[1])
	if err != nil {
		closeAll([]int{input[1], output[0], control[0]})
		return nil, err
	}
	_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, uintptr(output[0]), setPipeSize, maxPolled) // fewer wake-ups; may be refused
	return &launcher{
		pid: pid, mark: mark, ended: ended,
		stdin: nonblocking(input[1], "stdin"), output: nonblocking(output[0], "output"), control: nonblocking(control[0], "control"),
	}, nil
}

func (s *spawner) arguments(mark uint64) []string {
	arguments := []string{"sandboxd", launchName}
	for _, number := range []uint64{mark, s.marks.resident, s.marks.locks} {
		arguments = append(arguments, strconv.FormatUint(number, 10))
	}
	if s.user != nil {
		arguments = append(arguments, strconv.Itoa(s.user.uid), strconv.Itoa(s.user.gid))
	}
	return arguments
}

func attributes(files []int) *syscall.ProcAttr {
	attributes := &syscall.ProcAttr{
		Dir: "/",
		// Few threads: until it becomes its job, each counts under the bound on processes.
		Env: []string{"GOMAXPROCS=1", "GOGC=off"},
		Sys: &syscall.SysProcAttr{Setsid: true},
	}
	for _, fd := range files {
		attributes.Files = append(attributes.Files, uintptr(fd))
	}
	return attributes
}

// give hands the order over; an error means that nothing ran.
func (l *launcher) give(order order, texts []string) error {
	order.Texts = len(texts)
	_ = l.control.SetDeadline(time.Now().Add(launchWait))
	if err := writeFrame(l.control, order, joinTexts(texts)); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := l.control.Read(answer[:]); err != nil {
		return err
	}
	if answer[0] != launchBegun {
		return errCrowded
	}
	return l.control.SetDeadline(time.Time{})
}

// drop ends a launcher that has no job.
func (l *launcher) drop() {
	_ = syscall.Kill(l.pid, syscall.SIGKILL)
	for _, file := range []*os.File{l.stdin, l.output, l.control} {
		file.Close()
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = syscall.Close(fd)
	}
}
