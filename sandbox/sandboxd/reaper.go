package main

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// reaper is the only one that waits for processes: its own children, and every orphan of the sandbox.
type reaper struct {
	mu      sync.Mutex
	waiting map[int]chan syscall.WaitStatus
}

// newReaper also makes all signals harmless. The kernel keeps those from a first process that has no handler for them,
// but Go has one for nearly each, and most end the process; caught and dropped they do nothing. What is caught goes
// back to its default in the programs we start, which what is ignored would not.
func newReaper() *reaper {
	r := &reaper{waiting: map[int]chan syscall.WaitStatus{}}
	others := make(chan os.Signal, 1)
	signal.Notify(others)
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	go func() {
		for range others {
		}
	}()
	go func() {
		for range children {
			r.reap()
		}
	}()
	return r
}

// start forks by way of launch and returns the channel on which the new process's end will come.
func (r *reaper) start(launch func() (int, error)) (int, <-chan syscall.WaitStatus, error) {
	r.mu.Lock() // so that nobody is reaped before it is known
	defer r.mu.Unlock()
	pid, err := launch()
	if err != nil {
		return 0, nil, err
	}
	ended := make(chan syscall.WaitStatus, 1)
	r.waiting[pid] = ended
	return pid, ended, nil
}

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if ended := r.waiting[pid]; ended != nil {
			delete(r.waiting, pid)
			ended <- status
		}
	}
}
