package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
)

const (
	newsFD   = 3
	scriptFD = 9
	maxNews  = 16 << 10
	// A longer line does not fit into one argument (Linux: 128 KiB), so the shell reads it from a file.
	maxArgument = 120_000
)

// order is what a process becomes. Its texts are the line, the folder and the variables of a command, or the path of a
// file call.
type order struct {
	call   string
	texts  []string
	sealed bool
}

// failure is why a job did not come to an end of its own.
type failure struct {
	How    string `json:"how"`
	Code   int    `json:"code"`
	Detail string `json:"detail"`
}

func (f failure) Error() string { return f.Detail }

func rejected(format string, values ...any) failure {
	return failure{How: howRejected, Detail: fmt.Sprintf(format, values...)}
}

// childFor lays out a child as far as it is not each fork's own.
func (s *spawner) childFor(o order) (*child, error) {
	c := &child{script: -1, news: -1, network: -1}
	if s.user != nil {
		c.uid, c.gid = s.user.uid, s.user.gid
	}
	var err error
	if o.call == callExec {
		err = c.becomeShell(s.shell, o)
	} else {
		err = c.becomeFileCall(o)
	}
	if err != nil {
		c.drop()
	}
	return c, err
}

func (c *child) becomeShell(shell string, o order) error {
	if len(o.texts) < 2 {
		return rejected("a command needs a line and a folder")
	}
	if shell == "" {
		return rejected("the image has no shell")
	}
	line, err := c.argumentOf(o.texts[0])
	if err == nil && o.sealed {
		err = c.seal()
	}
	if err != nil {
		return err
	}
	return c.layOut(shell, o.texts[1], []string{shell, "-c", line}, o.texts[2:])
}

// becomeFileCall: a process of its own, so that it has the rights of the sandbox's user and no more, can be ended, and
// takes all its memory along.
func (c *child) becomeFileCall(o order) error {
	if len(o.texts) != 1 {
		return rejected("a file call needs one path")
	}
	c.tells = true
	// No collector: most calls are over before there is anything to collect.
	return c.layOut("/proc/self/exe", "/", []string{"sandboxd", fileCallName, o.call, o.texts[0]}, []string{"GOMAXPROCS=1", "GOGC=off"})
}

func (c *child) layOut(program, folder string, arguments, variables []string) (err error) {
	c.place = folder
	if c.program, err = syscall.BytePtrFromString(program); err != nil {
		return err
	}
	if c.folder, err = syscall.BytePtrFromString(folder); err != nil {
		return err
	}
	if c.arguments, err = syscall.SlicePtrFromStrings(arguments); err != nil {
		return err
	}
	c.variables, err = syscall.SlicePtrFromStrings(variables)
	return err
}

// argumentOf is the line itself, or how the shell reads it from a file that only it has.
func (c *child) argumentOf(line string) (string, error) {
	if len(line) <= maxArgument {
		return line, nil
	}
	fd, err := memoryFile("line")
	if err != nil {
		return "", err
	}
	c.script = fd
	for rest := []byte(line); len(rest) > 0; {
		n, err := syscall.Write(fd, rest)
		if err != nil {
			return "", err
		}
		rest = rest[n:]
	}
	_, err = syscall.Seek(fd, 0, io.SeekStart)
	return ". /proc/self/fd/" + strconv.Itoa(scriptFD), err
}

// seal keeps the child from the network.
func (c *child) seal() (err error) {
	c.filter = filterOf(sealedRules(machine))
	if c.network, err = noTCP(); err != nil {
		return rejected("the command cannot be kept from the network: %v", err)
	}
	return nil
}

// drop lets go of what only the child needs.
func (c *child) drop() {
	for _, fd := range []int{c.script, c.network} {
		if fd >= 0 {
			_ = syscall.Close(fd)
		}
	}
}

// hear says why a file call that has ended failed; nil where it did not, and for commands.
func (p *process) hear() error {
	if p.news < 0 {
		return nil
	}
	defer syscall.Close(p.news)
	text := make([]byte, maxNews)
	n, _ := syscall.Read(p.news, text)
	if n <= 0 {
		return nil
	}
	var news failure
	if err := json.Unmarshal(text[:n], &news); err != nil {
		return err
	}
	return news
}

// refusal is why the child did not become its program; nil where it did.
func (c *child) refusal() error {
	switch {
	case c.failedAt == 0:
		return nil
	case c.failure == syscall.EAGAIN || c.failure == syscall.ENOMEM:
		return c.failure
	case c.failedAt == atFolder:
		return rejected("the shell does not start in %s: %v", c.place, c.failure)
	case c.failedAt == atProgram:
		return rejected("the shell does not start: %v", c.failure)
	}
	return fmt.Errorf("a process cannot be made (step %d): %w", c.failedAt, c.failure)
}

func asFailure(err error) failure {
	var known failure
	if errors.As(err, &known) {
		return known
	}
	var code syscall.Errno
	if !errors.As(err, &code) {
		return rejected("%v", err)
	}
	return failure{How: howFailed, Code: int(code), Detail: err.Error()}
}

// runFileCall is the program of a file call.
func runFileCall(arguments []string) {
	_ = prctl(prSetDumpable, 0) // other commands may not look into it
	err := fileCall(arguments[0], arguments[1:])
	if err == nil {
		return
	}
	news := asFailure(err)
	if len(news.Detail) > 2000 {
		news.Detail = news.Detail[:2000]
	}
	text, _ := json.Marshal(news)
	_, _ = syscall.Write(newsFD, text)
	os.Exit(1)
}
