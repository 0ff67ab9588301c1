package main

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	maxRunning  = 256
	maxEnded    = 1000
	maxKept     = 64 << 20 // bytes of output of jobs that ended and were not acknowledged
	maxJobID    = 128
	maxWait     = 60 * time.Second
	maxTimeout  = 7 * 24 * time.Hour
	maxGreeters = 16
	memoryTick  = 50 * time.Millisecond  // between two looks at the memory of commands that run
	idleWait    = 200 * time.Millisecond // without any job, after which memory goes back to the kernel
	busyJobs    = 32                     // so many jobs after which it does where they follow each other
)

var (
	errNoJob = errors.New("there is no such job")
	errOver  = errors.New("the job was acknowledged, or ended long ago: it is not run again and its output is not kept")
	errBusy  = fmt.Errorf("more than %d jobs at once", maxRunning)
)

// daemon holds the jobs of one sandbox. They belong to the sandbox, not to a connection: who loses one and comes back
// finds them running, or ended.
type daemon struct {
	claim   *claim
	memory  *memoryWatch
	spawner *spawner
	start   func(order, time.Time) (*process, error)
	exit    func()
	spill   string
	greeter chan struct{}
	lenders lenders // nil: none are wanted
	// variables of the image, behind those of each command.
	variables []string
	leaving   atomic.Bool

	starving sync.Mutex // held while it is decided who runs out of memory

	mu      sync.Mutex
	jobs    map[string]*job
	over    map[uint64]struct{} // hashes of the ids of jobs no longer known
	ended   []*job              // not acknowledged, oldest first
	running int
	num     int  // jobs that no longer run
	watched bool // somebody looks at the memory of those that run
	idle    *time.Timer
	seed    maphash.Seed
}

func newDaemon(memory *memoryWatch, spawner *spawner, spill string, unclaimed time.Duration) (*daemon, error) {
	claim, err := newClaim(unclaimed)
	if err != nil {
		return nil, err
	}
	d := &daemon{
		claim: claim, memory: memory, spill: spill,
		spawner: spawner, start: spawner.start,
		greeter: make(chan struct{}, maxGreeters),
		jobs:    map[string]*job{}, over: map[uint64]struct{}{}, seed: maphash.MakeSeed(),
		idle: time.AfterFunc(idleWait, giveBack),
	}
	d.exit = d.endAll
	return d, nil
}

// serve returns only where the socket fails; else the process ends with the lease.
func (d *daemon) serve(listener net.Listener) error {
	go d.exitInTime()
	for {
		link, err := listener.Accept()
		if err != nil {
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ECONNABORTED) {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			return err
		}
		go d.talk(link)
	}
}

func (d *daemon) exitInTime() {
	d.claim.wait()
	d.exit()
}

// endAll ends everything, this process too. What ends of it reports no ending: a job that we took along did not come to its own.
func (d *daemon) endAll() {
	d.leaving.Store(true)
	if !isFirst() { // else the kernel does it
		d.spawner.endAll()
	}
	os.Exit(0)
}

// begin starts a job, unless one of this id is or was there.
func (d *daemon) begin(r *request, body []byte) error {
	if r.Job == "" || len(r.Job) > maxJobID || r.Limit < 0 || r.TimeoutS <= 0 || r.TimeoutS > maxTimeout.Seconds() {
		return errBadFrame
	}
	texts, first, err := splitTexts(body, r.Texts)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.jobs[r.Job] != nil {
		return nil
	}
	if _, known := d.over[d.hash(r.Job)]; known {
		return errOver
	}
	if d.running >= maxRunning {
		return errBusy
	}
	if r.call() == callExec {
		texts = withDefaults(texts, d.variables)
	}
	order := order{call: r.call(), texts: texts, sealed: r.Sealed}
	j := newJob(r.Job, order, seconds(r.TimeoutS), newOutput(d.spill, r.Limit))
	j.kills = d.memory.numKills()
	d.jobs[j.id] = j
	d.running++
	d.idle.Stop()
	if !d.watched {
		d.watched = true
		go d.watchMemory()
	}
	go func() {
		j.run(d, first, r.Last)
		d.settle(j)
	}()
	return nil
}

func (d *daemon) job(id string) (*job, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if j := d.jobs[id]; j != nil {
		return j, nil
	}
	if _, known := d.over[d.hash(id)]; known {
		return nil, errOver
	}
	return nil, errNoJob
}

// acknowledge forgets a job that ended. Its id is kept: it never runs again.
func (d *daemon) acknowledge(id string) error {
	j, err := d.job(id)
	if err != nil {
		return err
	}
	if j.out.ending() == nil {
		return fmt.Errorf("%w: the job has not ended", errBadFrame)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forget(j)
	return nil
}

// noLongerRuns says that a job no longer runs; before its asker hears of it, who may then start another.
func (d *daemon) noLongerRuns() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running--
	if d.num++; d.num%busyJobs == 0 {
		go debug.FreeOSMemory() // or the collector would wait for a megabyte more
	}
	d.rest()
}

// rest has memory given back if nothing happens for a while.
func (d *daemon) rest() {
	if d.running == 0 {
		d.idle.Reset(idleWait)
	}
}

// watchMemory ends what has too much memory, one command at a time, for as long as any job runs.
func (d *daemon) watchMemory() {
	for d.runs() {
		time.Sleep(memoryTick)
		if j := d.starve(); j != nil {
			<-j.ended
		}
	}
}

// starve has the command end that is to, and returns it.
func (d *daemon) starve() *job {
	d.starving.Lock()
	defer d.starving.Unlock()
	mark := d.memory.look(d.spawner.marks)
	commands := d.commands()
	if len(commands) == 1 && d.memory.answer(commands[0].kills) {
		mark = commands[0].mark()
	}
	if mark == unmarked {
		return nil
	}
	for _, j := range commands {
		if j.mark() == mark {
			close(j.starved)
			return j
		}
	}
	d.endLeft(mark)
	return nil
}

// starved says whether a command that ended by itself did so because the kernel ended one of its processes. If it was
// not alone, the shell must say that a process was killed.
func (d *daemon) starved(j *job, status syscall.WaitStatus) bool {
	d.starving.Lock()
	defer d.starving.Unlock()
	select {
	case <-j.starved:
		return true
	default:
	}
	killed := status.Signal() == syscall.SIGKILL || status.ExitStatus() == 128+int(syscall.SIGKILL)
	return (killed || len(d.commands()) == 1) && d.memory.answer(j.kills)
}

func (d *daemon) runs() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watched = d.running > 0
	return d.watched
}

// commands are those that run.
func (d *daemon) commands() []*job {
	d.mu.Lock()
	defer d.mu.Unlock()
	var found []*job
	for _, j := range d.jobs {
		if j.order.call == callExec && j.out.ending() == nil {
			found = append(found, j)
		}
	}
	return found
}

// endLeft ends what a command left that has ended; file calls are spared.
func (d *daemon) endLeft(mark uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, j := range d.jobs {
		if j.mark() == mark && j.out.ending() == nil {
			return
		}
	}
	go d.spawner.marks.endTree(mark)
}

// settle keeps an ended job for whoever still wants to know, within bounds.
func (d *daemon) settle(j *job) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.jobs[j.id] != j {
		return // acknowledged already
	}
	d.ended = append(d.ended, j)
	var kept int64
	for _, each := range d.ended {
		kept += each.out.size()
	}
	for len(d.ended) > 1 && (kept > maxKept || len(d.ended) > maxEnded) {
		kept -= d.ended[0].out.size()
		d.forget(d.ended[0])
	}
}

func (d *daemon) forget(j *job) {
	if d.jobs[j.id] != j {
		return
	}
	delete(d.jobs, j.id)
	d.over[d.hash(j.id)] = struct{}{}
	for i, each := range d.ended {
		if each == j {
			d.ended = append(d.ended[:i], d.ended[i+1:]...)
			break
		}
	}
	j.out.close()
	d.rest()
}

func (d *daemon) counts() (running, ended int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.running, len(d.ended)
}

func (d *daemon) hash(id string) uint64 {
	var h maphash.Hash
	h.SetSeed(d.seed)
	_, _ = h.WriteString(id)
	return h.Sum64()
}

// giveBack returns to the kernel what is not in use.
func giveBack() {
	buffers.empty()
	debug.FreeOSMemory()
}

func seconds(value float64) time.Duration { return time.Duration(value * float64(time.Second)) }
