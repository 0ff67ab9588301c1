package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

const (
	helloWait    = 15 * time.Second
	maxHello     = 64 << 10
	extensionECH = 0xfe0d // encrypted ClientHello, RFC 9849
)

var (
	errHello  = errors.New("what comes is no beginning of TLS")
	errHidden = errors.New("the name in TLS is hidden (encrypted ClientHello)")
	errSeen   = errors.New("seen enough")
)

// readHello reads the beginning of TLS, which must be for the host that was asked for: behind one address there may be
// many hosts. It returns what it has read.
func readHello(client net.Conn, name string) ([]byte, error) {
	_ = client.SetReadDeadline(time.Now().Add(helloWait))
	defer func() { _ = client.SetReadDeadline(time.Time{}) }()
	var read bytes.Buffer
	var hello *tls.ClientHelloInfo
	listening := &tls.Config{GetConfigForClient: func(seen *tls.ClientHelloInfo) (*tls.Config, error) {
		hello = seen
		return nil, errSeen
	}}
	half := onlyReading{client, io.TeeReader(io.LimitReader(client, maxHello), &read)}
	if err := tls.Server(half, listening).Handshake(); hello == nil {
		return nil, fmt.Errorf("%w (%w)", errHello, err)
	}
	if slices.Contains(hello.Extensions, extensionECH) {
		return nil, errHidden
	}
	if hello.ServerName != name {
		return nil, fmt.Errorf("%w: TLS asks for %q", errHost, hello.ServerName)
	}
	return read.Bytes(), nil
}

// onlyReading lets a TLS server hear a client that it must not answer.
type onlyReading struct {
	net.Conn
	source io.Reader
}

func (c onlyReading) Read(data []byte) (int, error)  { return c.source.Read(data) }
func (c onlyReading) Write(data []byte) (int, error) { return len(data), nil }
