// Command egressd is the way out of sandboxes that may reach hosts by name: an HTTP proxy with one door, a unix socket,
// for each sandbox. What a door's sandbox may reach is decided by the name it asks for and by the address that is dialled
// for it, and every connection leaves a record.
//
// It is told what to do by lines of JSON on standard input, and answers and records by lines on standard output; it ends
// with its input. sandbox/egress.py is the other end.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
)

const maxOrder = 1 << 20

// order is one line of input.
type order struct {
	Open *struct {
		Door   string   `json:"door"`
		Socket string   `json:"socket"`
		Hosts  []string `json:"hosts"`
	} `json:"open"`
	Close string `json:"close"`
}

// answer to an order; Error is empty where it was done.
type answer struct {
	Event string `json:"event"`
	Door  string `json:"door"`
	Error string `json:"error"`
}

func main() {
	resolver := flag.String("resolver", "", "address and port of the DNS server to ask; empty: as this machine does")
	allow := flag.String("allow", "", "address ranges to allow beside public ones, with commas between them")
	flag.Parse()
	dialer, err := newDialer(*resolver, *allow)
	if err != nil {
		fmt.Fprintln(os.Stderr, "egressd:", err)
		os.Exit(2)
	}
	serve(os.Stdin, &sink{out: os.Stdout}, dialer)
}

func serve(orders io.Reader, told *sink, dialer *dialer) {
	doors := map[string]*door{}
	lines := bufio.NewScanner(orders)
	lines.Buffer(nil, maxOrder)
	for lines.Scan() {
		var next order
		if err := json.Unmarshal(lines.Bytes(), &next); err != nil {
			fmt.Fprintln(os.Stderr, "egressd: an order that is none:", err)
			return
		}
		if next.Open != nil {
			opened, err := openDoor(next.Open.Door, next.Open.Socket, next.Open.Hosts, dialer, told)
			if err == nil {
				doors[opened.name] = opened
			}
			told.write(answer{"opened", next.Open.Door, textOf(err)})
		} else if known := doors[next.Close]; known != nil {
			known.close()
			delete(doors, next.Close)
			told.write(answer{"closed", next.Close, ""})
		}
	}
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// sink writes lines, one at a time.
type sink struct {
	mu  sync.Mutex
	out io.Writer
}

func (s *sink) write(line any) {
	text, err := json.Marshal(line)
	if err != nil {
		panic(err) // our own types
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.out.Write(append(text, '\n')); err != nil {
		os.Exit(1) // nobody is there to be told: what cannot be recorded does not happen
	}
}
