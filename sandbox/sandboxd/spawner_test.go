package main

import (
	"io"
	"testing"
	"time"
)

// One for all tests: it is the only one in a process that may wait for others.
var spawns = func() func(testing.TB) *spawner {
	var made *spawner
	return func(t testing.TB) *spawner {
		if made == nil {
			err := ownDescriptors()
			if err == nil {
				err = prctl(prSetNoNewPrivs, 1) // as in a sandbox; without, only the superuser may bind itself
			}
			if err == nil {
				made, err = newSpawner(nil, "/bin/bash")
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return made
	}
}()

// outcome of an order that was started, and what it wrote.
func outcome(t testing.TB, o order) (code int, written string) {
	p, err := spawns(t).start(o, time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	return ended(t, p)
}

// ended waits for a process; what it exited with, and what it wrote.
func ended(t testing.TB, p *process) (code int, written string) {
	p.stdin.Close()
	defer p.output.Close()
	_ = p.output.SetReadDeadline(time.Now().Add(time.Minute))
	text, err := io.ReadAll(p.output)
	if err != nil {
		t.Fatal(err)
	}
	status := <-p.ended
	if err := p.hear(); err != nil {
		t.Fatal(err)
	}
	return status.ExitStatus(), string(text)
}

func TestACommandIsAProcessOfItsOwnWithItsFolderItsVariablesAndNothingOfOurs(t *testing.T) {
	line := `pwd; echo "$A $B"; exec 2>&1; [ $(ulimit -n) -le 4096 ] && ls /proc/self/fd; exit 7`
	code, written := outcome(t, order{call: callExec, texts: []string{line, "/tmp", "A=one", "PATH=/usr/bin:/bin"}})
	if code != 7 || written != "/tmp\none \n0\n1\n2\n3\n" { // the fourth is ls's own, on the folder
		t.Fatalf("ended with %d and wrote %q", code, written)
	}
}

func TestALineLongerThanAnArgumentComesFromAFile(t *testing.T) {
	line := ""
	for len(line) <= maxArgument {
		line += "# a comment that goes on and on and on and on and on and on\n"
	}
	if code, written := outcome(t, order{call: callExec, texts: []string{line + "echo $((6 * 7))", "/"}}); code != 0 || written != "42\n" {
		t.Fatalf("ended with %d and wrote %q", code, written)
	}
}
