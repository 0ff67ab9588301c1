package main

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

// The filter of system calls would keep such a command from the network before this net is reached: so it goes without.
func TestWithoutAFilterTooACommandIsKeptFromTCP(t *testing.T) {
	if landlockVersion() < landlockTCP {
		t.Skip("not in this kernel: Landlock's rules for TCP (Linux 6.7)")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	line := fmt.Sprintf("exec 2>&1; : < /dev/tcp/127.0.0.1/%d", listener.Addr().(*net.TCPAddr).Port)
	for _, sealed := range []bool{false, true} {
		s := spawns(t)
		c, err := s.childFor(order{call: callExec, texts: []string{line, "/"}, sealed: sealed})
		if err != nil {
			t.Fatal(err)
		}
		defer c.drop()
		c.filter = nil
		p, err := s.fork(c)
		if err != nil {
			t.Fatal(err)
		}
		code, written := ended(t, p)
		if kept := code != 0 && strings.Contains(written, "Permission denied"); kept != sealed {
			t.Fatalf("sealed %v: ended with %d and wrote %q", sealed, code, written)
		}
	}
}
