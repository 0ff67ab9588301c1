package main

import (
	"io"
	"net"
	"sync"
)

const (
	egressPlace   = "127.0.0.1:13128"
	maxForwarding = 128
)

// forwardEgress hands connections to a place that programs can name over to a socket that leads out of the sandbox.
// Who may go where is decided at its other end.
func forwardEgress(socket string) error {
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
				forward(inner.(*net.TCPConn), socket)
				<-room
			}()
		}
	}()
	return nil
}

func forward(inner *net.TCPConn, socket string) {
	defer inner.Close()
	dialled, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer dialled.Close()
	outer := dialled.(*net.UnixConn)
	var both sync.WaitGroup
	both.Add(2)
	go func() {
		defer both.Done()
		if _, err := io.Copy(outer, inner); err != nil || outer.CloseWrite() != nil {
			inner.Close()
			outer.Close()
		}
	}()
	go func() {
		defer both.Done()
		if _, err := io.Copy(inner, outer); err != nil || inner.CloseWrite() != nil {
			inner.Close()
			outer.Close()
		}
	}()
	both.Wait()
}
