package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	egressPlace   = "127.0.0.1:13128"
	maxForwarding = 128
	lendWait      = 20 * time.Second
)

// stream is a connection of which either direction can be ended by itself.
type stream interface {
	net.Conn
	CloseWrite() error
}

// forwardEgress hands connections to a place that programs can name over to a way out of the sandbox. Who may go where
// is decided at its other end.
func forwardEgress(out func(inner stream)) error {
	listener, err := net.Listen("tcp", egressPlace)
	if err != nil {
		return err
	}
	room := make(chan struct{}, maxForwarding)
	go func() {
		for {
			room <- struct{}{}
			inner, err := listener.Accept()
			if err != nil {
				<-room
				continue
			}
			go func() {
				defer inner.Close()
				out(inner.(stream))
				<-room
			}()
		}
	}()
	return nil
}

// throughSocket is the way out by a socket that leads there.
func throughSocket(path string) func(stream) {
	return func(inner stream) {
		outer, err := net.Dial("unix", path)
		if err != nil {
			return
		}
		defer outer.Close()
		relay(inner, outer.(stream))
	}
}

// lenders is the way out by connections that the client opened, where the sandbox itself may open none.
type lenders chan *lent

// lent is one of them, for one of a program's.
type lent struct {
	conversation *conversation
	asked        *request
	silence      chan error // how the client's silence ended; it says nothing before it is told to
	over         chan struct{}
}

func (l lenders) through(inner stream) {
	giveUp := time.After(lendWait)
	for {
		select {
		case next := <-l:
			if next.use(inner) {
				return
			}
		case <-giveUp:
			return
		}
	}
}

// lend offers this connection to the next program that wants out, and returns when it is of no more use.
func (c *conversation) lend(r *request, reader *bufio.Reader) {
	if c.daemon.lenders == nil {
		c.answer(r, reply{}, nil, errBadFrame)
		return
	}
	offer := &lent{conversation: c, asked: r, silence: make(chan error, 1), over: make(chan struct{})}
	broken := make(chan struct{})
	go func() {
		_, err := reader.Peek(1)
		offer.silence <- err
		close(broken)
	}()
	select {
	case c.daemon.lenders <- offer:
		<-offer.over
	case <-broken:
	}
}

// use is false where the client is gone; then another will do.
func (l *lent) use(inner stream) bool {
	defer close(l.over)
	link := l.conversation.link
	_ = link.SetReadDeadline(time.Unix(1, 0))
	if err := <-l.silence; !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	if !l.conversation.answer(l.asked, reply{}, nil, nil) {
		return false
	}
	_ = link.SetDeadline(time.Time{})
	relay(inner, link.(stream))
	return true
}

// relay copies both ways until both ends have said all, or one is gone.
func relay(inner, outer stream) {
	var both sync.WaitGroup
	both.Add(2)
	pass := func(to, from stream) {
		defer both.Done()
		if _, err := io.Copy(to, from); err != nil || to.CloseWrite() != nil {
			inner.Close()
			outer.Close()
		}
	}
	go pass(outer, inner)
	go pass(inner, outer)
	both.Wait()
}
