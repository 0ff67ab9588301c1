package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	version        = 1
	greetingWait   = 10 * time.Second
	maxOutstanding = 64
	writeWait      = 60 * time.Second
)

// request is every question a client may ask; Op says which fields count.
type request struct {
	ID          uint64  `json:"id"`
	Op          string  `json:"op"`
	Version     int     `json:"version"`
	Key         string  `json:"key"`
	Nonce       string  `json:"nonce"`
	Proof       string  `json:"proof"`
	Term        int64   `json:"term"`
	LeaseS      float64 `json:"lease_s"`
	LifetimeS   float64 `json:"lifetime_s"`
	MemoryBytes int64   `json:"memory_bytes"`
	Job         string  `json:"job"`
	Texts       int     `json:"texts"`
	TimeoutS    float64 `json:"timeout_s"`
	Limit       int64   `json:"limit"`
	Sealed      bool    `json:"sealed"`
	Last        bool    `json:"last"`
	Offset      int64   `json:"offset"`
	Min         int     `json:"min"`
	Max         int     `json:"max"`
	WaitS       float64 `json:"wait_s"`
	Signal      int     `json:"signal"`
}

// call is what the process of this request does; "" where the request starts none.
func (r *request) call() string {
	switch r.Op {
	case "start":
		return callExec
	case callRead, callWrite, callStat, callList, callTarIn, callTarOut, callTree, callTreeOut, callTreeIn:
		return r.Op
	}
	return ""
}

type reply struct {
	ID     uint64  `json:"id"`
	Boot   string  `json:"boot"`
	Error  string  `json:"error,omitempty"`
	Detail string  `json:"detail,omitempty"`
	Nonce  string  `json:"nonce,omitempty"`
	Proof  string  `json:"proof,omitempty"`
	End    *ending `json:"end,omitempty"`
	Health *health `json:"health,omitempty"`
}

// health is what operators want to know, and what holds the sandbox.
type health struct {
	Version    int     `json:"version"`
	Machine    string  `json:"machine"`
	FirstOfAll bool    `json:"first_of_all"`
	Landlock   int     `json:"landlock"`
	Memory     bool    `json:"memory"`
	Running    int     `json:"running"`
	Ended      int     `json:"ended"`
	Refused    int     `json:"refused"`
	LeaseLeftS float64 `json:"lease_left_s"`
}

// conversation is one connection. Questions are answered as they can be, in any order; only those that start something
// are taken one after the other.
type conversation struct {
	daemon      *daemon
	link        net.Conn
	term        int64 // of the client
	outstanding chan struct{}
	writing     sync.Mutex
}

func (d *daemon) talk(link net.Conn) {
	defer link.Close()
	select {
	case d.greeter <- struct{}{}:
	default:
		return // too many who have not said who they are
	}
	c := &conversation{daemon: d, link: link, outstanding: make(chan struct{}, maxOutstanding)}
	reader := bufio.NewReaderSize(link, 16<<10)
	_ = link.SetReadDeadline(time.Now().Add(greetingWait))
	known := c.greet(reader)
	<-d.greeter
	if !known {
		return
	}
	_ = link.SetReadDeadline(time.Time{})
	for {
		head, body, err := readFrame(reader, maxHead, maxBody)
		if err != nil {
			return
		}
		r := new(request)
		if err := parseHead(head, r); err != nil {
			return
		}
		if d.claim.isOver(c.term) {
			c.answer(r, reply{}, nil, errTaken)
			return
		}
		if r.Op == "lend" {
			c.lend(r, reader)
			return
		}
		c.outstanding <- struct{}{}
		c.take(r, body)
	}
}

// greet finds out whether the other end may ask anything.
func (c *conversation) greet(reader *bufio.Reader) bool {
	claim := c.daemon.claim
	r, ok := readGreeting(reader)
	if !ok {
		return false
	}
	switch r.Op {
	case "hello":
		err := claim.set(r.Key, seconds(r.LeaseS), seconds(r.LifetimeS))
		if err == nil {
			c.daemon.memory.bound = r.MemoryBytes
		}
		return c.answer(r, reply{Health: c.daemon.health()}, nil, err) && err == nil
	case "attach":
		ours, proof, err := claim.challenge(r.Nonce)
		if !c.answer(r, reply{Nonce: ours, Proof: proof}, nil, err) || err != nil {
			return false
		}
		theirs := r.Nonce
		if r, ok = readGreeting(reader); !ok || r.Op != "prove" {
			return false
		}
		c.term = r.Term
		err = claim.verify(theirs, ours, r.Proof, r.Term)
		return c.answer(r, reply{Health: c.daemon.health()}, nil, err) && err == nil
	}
	return false
}

func readGreeting(reader *bufio.Reader) (*request, bool) {
	head, _, err := readFrame(reader, maxGreeting, 0)
	if err != nil {
		return nil, false
	}
	r := new(request)
	return r, parseHead(head, r) == nil && r.Version == version
}

// take answers at once what cannot wait, and leaves the rest to itself.
func (c *conversation) take(r *request, body []byte) {
	if r.call() != "" {
		c.done(r, reply{}, nil, c.daemon.begin(r, body))
		return
	}
	switch r.Op {
	case "poll", "wait", "stdin", "signal":
		go func() {
			answer, data, err := c.ofJob(r, body)
			c.done(r, answer, data, err)
		}()
	case "ack":
		c.done(r, reply{}, nil, c.daemon.acknowledge(r.Job))
	case "renew":
		c.done(r, reply{}, nil, c.daemon.claim.renew(seconds(r.LeaseS)))
	case "health":
		c.done(r, reply{Health: c.daemon.health()}, nil, nil)
	case "end":
		c.done(r, reply{}, nil, nil)
		c.daemon.exit()
	default:
		c.done(r, reply{}, nil, fmt.Errorf("%w: there is no %q", errBadFrame, r.Op))
	}
}

func (c *conversation) ofJob(r *request, body []byte) (reply, []byte, error) {
	j, err := c.daemon.job(r.Job)
	if err != nil {
		return reply{}, nil, err
	}
	wait := seconds(r.WaitS)
	if wait > maxWait || wait < 0 {
		wait = maxWait
	}
	switch r.Op {
	case "poll":
		data, end, err := j.out.poll(r.Offset, r.Min, r.Max, wait)
		return reply{End: end}, data, err
	case "wait":
		select {
		case <-j.ended:
		case <-time.After(wait):
			return reply{}, nil, nil
		}
		return reply{End: j.out.ending()}, nil, nil
	case "signal":
		if r.Signal <= 0 || r.Signal > 64 {
			return reply{}, nil, errBadFrame
		}
		j.signal(c.daemon.spawner.marks, syscall.Signal(r.Signal))
		return reply{}, nil, nil
	}
	<-j.fed
	if j.process == nil {
		return reply{}, nil, nil
	}
	return reply{}, nil, j.feed(r.Offset, body, r.Last)
}

func (c *conversation) done(r *request, answer reply, data []byte, err error) {
	c.answer(r, answer, data, err)
	<-c.outstanding
}

// answer is false where nobody hears it; then the connection ends.
func (c *conversation) answer(r *request, answer reply, data []byte, err error) bool {
	answer.ID, answer.Boot = r.ID, c.daemon.claim.boot
	if err != nil {
		answer, data = reply{ID: r.ID, Boot: answer.Boot, Error: kindOfError(err), Detail: err.Error()}, nil
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.link.SetWriteDeadline(time.Now().Add(writeWait))
	if err := writeFrame(c.link, answer, data); err != nil {
		c.link.Close()
		return false
	}
	return true
}

func kindOfError(err error) string {
	for kind, known := range map[string]error{
		"denied": errDenied, "taken": errTaken, "bad_request": errBadFrame, "no_job": errNoJob, "over": errOver, "gone": errGone, "busy": errBusy,
	} {
		if errors.Is(err, known) {
			return kind
		}
	}
	return "failed"
}

func (d *daemon) health() *health {
	running, ended := d.counts()
	return &health{
		Version: version, Machine: runtime.GOARCH, FirstOfAll: isFirst(), Landlock: landlockVersion(),
		Memory: d.memory.events != nil, Running: running, Ended: ended, Refused: d.claim.numRefused(),
		LeaseLeftS: d.claim.left().Seconds(),
	}
}
