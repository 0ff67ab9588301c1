package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxConnections = 128
	maxHeaders     = 64 << 10
	headerWait     = 30 * time.Second
	idleWait       = 60 * time.Second
	maxTold        = 300
	// Each request leaves a record, which somebody has to keep: more than so many wait.
	burst = 500
	pace  = 20 * time.Millisecond
)

// door is the way out of one sandbox.
type door struct {
	name     string
	rules    []rule
	dialer   *dialer
	told     *sink
	listener net.Listener
	server   *http.Server
	tokens   chan struct{}
	active   sync.WaitGroup
	closing  context.Context
	end      context.CancelFunc
}

func openDoor(name, socket string, hosts []string, dialer *dialer, told *sink) (*door, error) {
	rules, err := parseRules(hosts)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) { // left by one that ended
		return nil, err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(socket, 0o666); err != nil { // its folder says who may come
		listener.Close()
		return nil, err
	}
	d := &door{
		name: name, rules: rules, dialer: dialer, told: told, listener: listener,
		tokens: make(chan struct{}, burst),
	}
	d.closing, d.end = context.WithCancel(context.Background())
	d.server = &http.Server{
		Handler: d, MaxHeaderBytes: maxHeaders, ReadHeaderTimeout: headerWait, IdleTimeout: idleWait, ErrorLog: log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return d.closing },
	}
	go d.allot()
	go func() { _ = d.server.Serve(doorway{listener, make(chan struct{}, maxConnections)}) }()
	return d, nil
}

// allot says how often something may be asked for.
func (d *door) allot() {
	for range burst {
		d.tokens <- struct{}{}
	}
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-d.closing.Done():
			return
		case <-tick.C:
		}
		select {
		case d.tokens <- struct{}{}:
		default:
		}
	}
}

// close ends every connection, and returns when all are recorded.
func (d *door) close() {
	d.end()
	_ = d.server.Close()
	d.active.Wait()
}

// record is what is said of one connection, when it has ended.
type record struct {
	Event    string  `json:"event"`
	Door     string  `json:"door"`
	Method   string  `json:"method"`
	Host     string  `json:"host"`
	Port     int     `json:"port"`
	Address  string  `json:"address"`
	Verdict  string  `json:"verdict"`
	Detail   string  `json:"detail"`
	Sent     int64   `json:"sent"`
	Received int64   `json:"received"`
	TookS    float64 `json:"took_s"`
}

func (d *door) ServeHTTP(writer http.ResponseWriter, r *http.Request) {
	d.active.Add(1)
	defer d.active.Done()
	select {
	case <-d.tokens:
	case <-r.Context().Done():
		return
	}
	begun := time.Now()
	said := &record{Event: "connection", Door: d.name, Method: r.Method, Host: bounded(r.Host)}
	err := d.pass(writer, r, said)
	said.Verdict, said.TookS = "allowed", time.Since(begun).Seconds()
	if err != nil {
		said.Verdict, said.Detail = "failed", bounded(err.Error())
		if isRefusal(err) {
			said.Verdict = "refused"
		}
	}
	d.told.write(said)
}

func (d *door) pass(writer http.ResponseWriter, r *http.Request, said *record) error {
	target, usual := r.URL.Host, portHTTP
	if r.Method == http.MethodConnect {
		target, usual = r.Host, portHTTPS
	} else if r.URL.Scheme != "http" {
		return refuse(writer, errName)
	}
	name, port, err := splitTarget(target, usual)
	if err != nil {
		return refuse(writer, err)
	}
	said.Host, said.Port = name, port
	if err := check(d.rules, name, port, usual); err != nil {
		return refuse(writer, err) // before anything is resolved: a question to a name server is a message too
	}
	if r.Method == http.MethodConnect {
		return d.tunnel(writer, r, said)
	}
	return d.forward(writer, r, said)
}

// tunnel connects the two ends. On the port of HTTPS it is for TLS with the host that was asked for, and nothing else;
// other ports were opened by whoever listed them, and what is said there is not looked at.
func (d *door) tunnel(writer http.ResponseWriter, r *http.Request, said *record) error {
	server, err := d.connect(r.Context(), said)
	if err != nil {
		return refuse(writer, err)
	}
	defer server.Close()
	hijacked, buffered, err := http.NewResponseController(writer).Hijack()
	if err != nil {
		return err
	}
	defer hijacked.Close()
	defer context.AfterFunc(d.closing, func() { hijacked.Close(); server.Close() })()
	client := withBuffer{hijacked.(*held), buffered.Reader}
	if _, err := io.WriteString(hijacked, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return err
	}
	if said.Port == portHTTPS {
		hello, err := readHello(client, said.Host)
		if err != nil {
			return err
		}
		if _, err := server.Write(hello); err != nil {
			return err
		}
	}
	join(client, server)
	return nil
}

// forward passes one plain request on.
func (d *door) forward(writer http.ResponseWriter, r *http.Request, said *record) error {
	var failed error
	proxy := httputil.ReverseProxy{
		Rewrite: func(request *httputil.ProxyRequest) { request.Out.Host = request.In.URL.Host },
		// A connection of its own: what is counted for it is what it did.
		Transport: &http.Transport{
			DisableKeepAlives: true, DisableCompression: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.connect(ctx, said) },
		},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler:  func(writer http.ResponseWriter, _ *http.Request, err error) { failed = refuse(writer, err) },
	}
	proxy.ServeHTTP(writer, r)
	return failed
}

func (d *door) connect(ctx context.Context, said *record) (*counted, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	link, err := d.dialer.dial(ctx, said.Host, said.Port)
	if err != nil {
		return nil, err
	}
	said.Address = link.RemoteAddr().String()
	return &counted{link, said}, nil
}

func refuse(writer http.ResponseWriter, err error) error {
	status := http.StatusBadGateway
	if isRefusal(err) {
		status = http.StatusForbidden
	}
	writer.Header().Set("Connection", "close")
	http.Error(writer, "egress: "+err.Error(), status)
	return err
}

func isRefusal(err error) bool {
	for _, each := range []error{errName, errNumeric, errHost, errPort, errAddress, errHello, errHidden} {
		if errors.Is(err, each) {
			return true
		}
	}
	return false
}

func bounded(text string) string {
	if len(text) > maxTold {
		return text[:maxTold]
	}
	return text
}

// join copies both ways until both ends have said all, or one is gone.
func join(client withBuffer, server *counted) {
	var both sync.WaitGroup
	both.Add(2)
	pass := func(to halfCloser, from io.Reader) {
		defer both.Done()
		if _, err := io.Copy(to, from); err != nil || to.CloseWrite() != nil {
			client.Close()
			server.Close()
		}
	}
	go pass(server, client)
	go pass(client, server)
	both.Wait()
}

type halfCloser interface {
	io.Writer
	CloseWrite() error
}

// doorway lets in so many at once; the others wait.
type doorway struct {
	net.Listener
	room chan struct{}
}

func (w doorway) Accept() (net.Conn, error) {
	w.room <- struct{}{}
	link, err := w.Listener.Accept()
	if err != nil {
		<-w.room
		return nil, err
	}
	return &held{link.(*net.UnixConn), sync.OnceFunc(func() { <-w.room })}, nil
}

// held is a connection that takes a place in a doorway.
type held struct {
	*net.UnixConn
	leave func()
}

func (h *held) Close() error {
	h.leave()
	return h.UnixConn.Close()
}

// withBuffer is a connection of which something has been read already.
type withBuffer struct {
	*held
	reader *bufio.Reader
}

func (c withBuffer) Read(data []byte) (int, error) { return c.reader.Read(data) }

// counted counts the bytes of a connection to a host. It hides the shortcuts that TCPConn has for copying.
type counted struct {
	net.Conn
	said *record
}

func (c *counted) Read(data []byte) (int, error) {
	n, err := c.Conn.Read(data)
	atomic.AddInt64(&c.said.Received, int64(n))
	return n, err
}

func (c *counted) Write(data []byte) (int, error) {
	n, err := c.Conn.Write(data)
	atomic.AddInt64(&c.said.Sent, int64(n))
	return n, err
}

func (c *counted) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }
