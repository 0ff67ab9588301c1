package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	memoryTick = 100 * time.Millisecond
	lastWords  = 2 * time.Second
)

// How a job ended. A job that has no ending has not ended: nobody may conclude one from a connection that closed.
const (
	howExited      = "exited"
	howSignalled   = "signalled"
	howTimedOut    = "timed_out"
	howOomKilled   = "oom_killed"
	howOutputLimit = "output_limit"
	howFailed      = "failed"
	howRejected    = "rejected"
)

type ending struct {
	How    string  `json:"how"`
	Code   int     `json:"code"` // exit code, signal or error number, by How
	Total  int64   `json:"total"`
	RunS   float64 `json:"run_s"`
	Detail string  `json:"detail"`
}

// job is one command or file call. It is known by the id its client gave it, and runs once.
type job struct {
	id       string
	order    order
	timeout  time.Duration
	begun    time.Time
	out      *output
	ready    chan struct{} // closed when the launcher is there, or will never be
	fed      chan struct{} // closed when the first input has been handed over
	ended    chan struct{}
	launcher *launcher

	input    sync.Mutex
	accepted int64
}

func newJob(id string, o order, timeout time.Duration, out *output) *job {
	return &job{
		id: id, order: o, timeout: timeout, begun: time.Now(), out: out,
		ready: make(chan struct{}), fed: make(chan struct{}), ended: make(chan struct{}),
	}
}

// run sees a job through from its start to its ending.
func (j *job) run(d *daemon, texts []string, first []byte, last bool) {
	defer close(j.ended)
	s, memory := d.spawner, d.memory
	kills := memory.numKills()
	launcher, err := s.engage(j.order, texts)
	if err != nil {
		close(j.ready)
		close(j.fed)
		d.noLongerRuns()
		j.finish(ending{How: howFailed, Code: int(syscall.EAGAIN), Detail: err.Error()})
		return
	}
	j.launcher = launcher
	close(j.ready)
	go s.prepare()
	go func() {
		_ = j.feed(0, first, last)
		close(j.fed)
	}()
	told := hear(launcher.control)
	drained := make(chan struct{})
	go j.copyOutput(drained)

	how, status := j.wait(memory, kills)
	if how != "" {
		j.endTree(s)
	}
	launcher.stdin.Close()
	j.drain(drained)
	if how == "" && j.out.exceeded() { // which may be seen only now that all is read
		how = howOutputLimit
		j.endTree(s)
	}
	if d.leaving.Load() {
		select {}
	}
	end := j.explain(how, status, told, memory.numKills() > kills)
	d.noLongerRuns()
	j.finish(end)
}

// endTree ends everything the job started, or else everything there is.
func (j *job) endTree(s *spawner) {
	if !s.marks.endTree(j.launcher.mark) && !s.endAll() {
		os.Exit(1) // a process is stuck in the kernel: the sandbox cannot keep its word, so it ends
	}
}

// wait returns when the job has ended by itself, or else why it must be ended.
func (j *job) wait(memory *memoryWatch, kills int64) (string, syscall.WaitStatus) {
	deadline := time.NewTimer(time.Until(j.begun.Add(j.timeout)))
	defer deadline.Stop()
	look := time.NewTicker(memoryTick)
	defer look.Stop()
	for {
		select {
		case status := <-j.launcher.ended:
			return "", status
		case <-deadline.C:
			return howTimedOut, 0
		case <-j.out.over:
			return howOutputLimit, 0
		case <-look.C:
			// What the kernel already ended may leave room for the rest, which would wait for it in vain.
			if j.order.Call == callExec && (memory.exceeded() || memory.numKills() > kills) {
				return howOomKilled, 0
			}
		}
	}
}

// explain is how the job ended, corrected by what only we can know.
func (j *job) explain(how string, status syscall.WaitStatus, told <-chan failure, starved bool) ending {
	if how != "" {
		return ending{How: how}
	}
	select {
	case news := <-told:
		if news.How != "" {
			return ending{How: news.How, Code: news.Code, Detail: news.Detail}
		}
	case <-time.After(lastWords):
	}
	if j.order.Call == callExec && starved && status != 0 {
		// The shell lost a process to the kernel, and says so in its exit code or by having died itself.
		return ending{How: howOomKilled}
	}
	if status.Signaled() {
		return ending{How: howSignalled, Code: int(status.Signal())}
	}
	return ending{How: howExited, Code: status.ExitStatus()}
}

func (j *job) finish(end ending) {
	end.RunS = time.Since(j.begun).Seconds()
	j.out.finish(&end)
}

// feed hands input over, which blocks for as long as the job does not read. What comes twice, for a client did not
// hear that it had arrived, is left out the second time.
func (j *job) feed(offset int64, data []byte, last bool) error {
	j.input.Lock()
	defer j.input.Unlock()
	known := j.accepted - offset
	if known < 0 {
		return fmt.Errorf("%w: input up to offset %d is missing", errBadFrame, offset)
	}
	if known > int64(len(data)) {
		return nil
	}
	j.accepted = offset + int64(len(data))
	_, err := j.launcher.stdin.Write(data[known:])
	if last || err != nil {
		j.launcher.stdin.Close()
	}
	return nil
}

// copyOutput keeps what the job writes; after its end, it keeps its background processes from blocking on a full pipe.
func (j *job) copyOutput(drained chan<- struct{}) {
	source := j.launcher.output
	defer source.Close()
	more := j.copyUntilEnd(source)
	close(drained)
	if more {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{source}, make([]byte, 4<<10))
	}
}

// copyUntilEnd returns whether somebody may still write.
func (j *job) copyUntilEnd(source *os.File) bool {
	buffer := buffers.Get().(*[maxInMemory]byte)
	defer buffers.Put(buffer)
	for {
		n, err := source.Read(buffer[:])
		j.out.take(buffer[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return false
		}
	}
	// What is in the pipe now that the job has ended. More may come from what it left behind, without end.
	_ = source.SetReadDeadline(time.Time{})
	for left := numReadable(source); left > 0; {
		size := left
		if size > len(buffer) {
			size = len(buffer)
		}
		n, err := source.Read(buffer[:size])
		j.out.take(buffer[:n])
		if err != nil {
			return false
		}
		left -= n
	}
	return true
}

// drain has copyOutput take the rest.
func (j *job) drain(drained <-chan struct{}) {
	_ = j.launcher.output.SetReadDeadline(time.Now())
	select {
	case <-drained:
	case <-time.After(stallLimit):
		j.out.stop()
		<-drained
	}
}

// signal sends a signal to every process of the job.
func (j *job) signal(m marks, number syscall.Signal) {
	<-j.ready
	if j.launcher == nil {
		return
	}
	for _, pid := range m.belongsTo(j.launcher.mark) {
		_ = syscall.Kill(pid, number)
	}
}

// hear reads what a launcher tells in the end. Where it became a shell that is nothing: the descriptor closes.
func hear(control *os.File) <-chan failure {
	told := make(chan failure, 1)
	go func() {
		defer control.Close()
		text, _ := io.ReadAll(io.LimitReader(control, maxTold))
		var news failure
		if len(text) > 0 && json.Unmarshal(text, &news) != nil {
			news = failure{}
		}
		told <- news
	}()
	return told
}

var buffers = sync.Pool{New: func() any { return new([maxInMemory]byte) }}
