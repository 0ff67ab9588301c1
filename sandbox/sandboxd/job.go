package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

const pipeSize = 64 << 10 // which Linux gives a new one

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
	id      string
	order   order
	timeout time.Duration
	begun   time.Time
	out     *output
	ready   chan struct{} // closed when the process is there, or will never be
	fed     chan struct{} // closed when the first input has been handed over
	starved chan struct{} // closed when it has too much memory and is to end
	ended   chan struct{}
	process *process
	kills   int64 // of the kernel, when the job began

	input    sync.Mutex
	accepted int64
}

func newJob(id string, o order, timeout time.Duration, out *output) *job {
	return &job{
		id: id, order: o, timeout: timeout, begun: time.Now(), out: out,
		ready: make(chan struct{}), fed: make(chan struct{}), starved: make(chan struct{}), ended: make(chan struct{}),
	}
}

// run sees a job through from its start to its ending.
func (j *job) run(d *daemon, first []byte, last bool) {
	defer close(j.ended)
	s := d.spawner
	process, err := d.start(j.order, j.begun.Add(j.timeout))
	if err != nil {
		close(j.ready)
		close(j.fed)
		d.noLongerRuns()
		j.finish(endingOf(err))
		return
	}
	j.process = process
	close(j.ready)
	j.begin(first, last)
	drained := make(chan struct{})
	go j.copyOutput(drained)

	how, status := j.wait()
	if how != "" {
		j.endTree(s)
	}
	process.stdin.Close()
	j.drain(drained)
	if how == "" && j.out.exceeded() { // which may be seen only now that all is read
		how = howOutputLimit
		j.endTree(s)
	}
	if d.leaving.Load() {
		select {}
	}
	end := j.explain(how, status, d)
	s.over(process.mark)
	d.noLongerRuns()
	j.finish(end)
}

// begin hands the first input over. What fits into the pipe takes nobody's time.
func (j *job) begin(first []byte, last bool) {
	if len(first) <= pipeSize {
		_ = j.feed(0, first, last)
		close(j.fed)
		return
	}
	go func() {
		_ = j.feed(0, first, last)
		close(j.fed)
	}()
}

// endTree ends everything the job started, or else everything there is.
func (j *job) endTree(s *spawner) {
	if !s.marks.endTree(j.process.mark) && !s.endAll() {
		os.Exit(1) // a process is stuck in the kernel: the sandbox cannot keep its word, so it ends
	}
}

// wait returns when the job has ended by itself, or else why it must be ended.
func (j *job) wait() (string, syscall.WaitStatus) {
	deadline := time.NewTimer(time.Until(j.begun.Add(j.timeout)))
	defer deadline.Stop()
	select {
	case status := <-j.process.ended:
		return "", status
	case <-deadline.C:
		return howTimedOut, 0
	case <-j.out.over:
		return howOutputLimit, 0
	case <-j.starved:
		return howOomKilled, 0
	}
}

// explain is how the job ended, corrected by what only we can know.
func (j *job) explain(how string, status syscall.WaitStatus, d *daemon) ending {
	err := j.process.hear()
	switch {
	case how != "":
		return ending{How: how}
	case err != nil:
		return endingOf(err)
	case j.order.call == callExec && status != 0 && d.starved(j, status):
		return ending{How: howOomKilled}
	case status.Signaled():
		return ending{How: howSignalled, Code: int(status.Signal())}
	}
	return ending{How: howExited, Code: status.ExitStatus()}
}

func endingOf(err error) ending {
	if errors.Is(err, errCrowded) {
		return ending{How: howFailed, Code: int(syscall.EAGAIN), Detail: err.Error()}
	}
	why := asFailure(err)
	return ending{How: why.How, Code: why.Code, Detail: why.Detail}
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
	_, err := j.process.stdin.Write(data[known:])
	if last || err != nil {
		j.process.stdin.Close()
	}
	return nil
}

// copyOutput keeps what the job writes; after its end, it keeps its background processes from blocking on a full pipe.
func (j *job) copyOutput(drained chan<- struct{}) {
	source := j.process.output
	defer source.Close()
	more := j.copyUntilEnd(source)
	close(drained)
	if more {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{source}, make([]byte, 4<<10))
	}
}

// copyUntilEnd returns whether somebody may still write.
func (j *job) copyUntilEnd(source *os.File) bool {
	buffer := buffers.get()
	defer buffers.put(buffer)
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
	_ = j.process.output.SetReadDeadline(time.Now())
	select {
	case <-drained:
	case <-time.After(stallLimit):
		j.out.stop()
		<-drained
	}
}

// mark of the processes; unmarked where there is none yet, or none came to be.
func (j *job) mark() uint64 {
	select {
	case <-j.ready:
		if j.process != nil {
			return j.process.mark
		}
	default:
	}
	return unmarked
}

// signal sends a signal to every process of the job.
func (j *job) signal(m marks, number syscall.Signal) {
	<-j.ready
	if j.process == nil {
		return
	}
	for _, pid := range m.belongsTo(j.process.mark) {
		_ = syscall.Kill(pid, number)
	}
}

// pool keeps a few buffers, which a collector that runs often would take from a sync.Pool.
type pool chan *[maxInMemory]byte

var buffers = make(pool, 4)

func (p pool) get() *[maxInMemory]byte {
	select {
	case buffer := <-p:
		return buffer
	default:
		return new([maxInMemory]byte)
	}
}

func (p pool) empty() {
	for {
		select {
		case <-p:
		default:
			return
		}
	}
}

func (p pool) put(buffer *[maxInMemory]byte) {
	select {
	case p <- buffer:
	default:
	}
}
