package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"
)

// The other side of spawner.go: a process that waits for its order, then becomes a shell or makes one file call. It
// runs as the user of the sandbox, and nothing of sandboxd's memory is in it.

const (
	controlFD   = 3
	launchBegun = 'g'
	launchFull  = 'f'
	scriptFD    = 9
	maxFiles    = 4096
	// A longer line does not fit into one argument (Linux: 128 KiB), so the shell reads it from a file.
	maxArgument = 120_000
	maxTold     = 8 << 10
)

var errCrowded = errors.New("no process may be started")

// order is what a launcher becomes. Its texts are the line, the folder and the environment of a command, or the path
// of a file call.
type order struct {
	Call   string `json:"call"`
	Texts  int    `json:"texts"`
	Sealed bool   `json:"sealed"`
}

// failure is what a launcher tells of a job that did not come to its own end.
type failure struct {
	How    string `json:"how"`
	Code   int    `json:"code"`
	Detail string `json:"detail"`
}

func (f failure) Error() string { return f.Detail }

func launch(arguments []string) {
	runtime.LockOSThread() // some of what follows binds only the thread that asks
	syscall.CloseOnExec(controlFD)
	if err := prepareLaunch(arguments); err != nil {
		tell(failure{How: "failed", Code: int(syscall.EPERM), Detail: err.Error()})
		return
	}
	var order order
	head, body, err := readFrame(controlReader{}, maxHead, maxBody)
	if err != nil || parseHead(head, &order) != nil {
		return // sandboxd has let go
	}
	texts, _, err := splitTexts(body, order.Texts)
	if err != nil {
		return
	}
	_, _ = syscall.Write(controlFD, []byte{launchBegun})
	if order.Call == callExec {
		err = becomeShell(order, texts)
	} else {
		err = fileCall(order.Call, texts)
	}
	if err != nil {
		tell(asFailure(err))
		os.Exit(1)
	}
}

func prepareLaunch(arguments []string) error {
	var numbers []uint64
	for _, argument := range arguments {
		number, err := strconv.ParseUint(argument, 10, 64)
		if err != nil {
			return err
		}
		numbers = append(numbers, number)
	}
	if len(numbers) < 3 {
		return fmt.Errorf("a launcher is started by sandboxd only")
	}
	// So that the kernel ends commands before sandboxd when memory is short. Must come before the change of user.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("600"), 0)
	if err := (marks{numbers[1], numbers[2]}).put(numbers[0]); err != nil {
		return err
	}
	if len(numbers) == 5 {
		if err := becomeUser(int(numbers[3]), int(numbers[4])); err != nil {
			return err
		}
	}
	if err := prctl(prSetDumpable, 0); err != nil { // until it becomes a shell, other commands may not look into it
		return err
	}
	syscall.Umask(0o022)
	if err := syscall.Setrlimit(rlimitCore, &syscall.Rlimit{}); err != nil {
		return err
	}
	return boundFiles()
}

func becomeUser(uid, gid int) error {
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setgid(gid); err != nil {
		return err
	}
	return syscall.Setuid(uid)
}

func boundFiles() error {
	var bound syscall.Rlimit
	if err := syscall.Getrlimit(rlimitFiles, &bound); err != nil {
		return err
	}
	if bound.Max > maxFiles {
		bound.Max = maxFiles
	}
	bound.Cur = bound.Max
	return syscall.Setrlimit(rlimitFiles, &bound)
}

// becomeShell returns only where it fails.
func becomeShell(order order, texts []string) error {
	if len(texts) < 2 {
		return failure{How: "rejected", Detail: "a command needs a line and a folder"}
	}
	line, folder, env := texts[0], texts[1], texts[2:]
	if err := os.Chdir(folder); err != nil {
		return failure{How: "rejected", Detail: fmt.Sprintf("the shell does not start in %s: %v", folder, errors.Unwrap(err))}
	}
	if order.Sealed {
		if err := seal(); err != nil {
			return failure{How: "rejected", Detail: fmt.Sprintf("the command cannot be kept from the network: %v", err)}
		}
	}
	line, err := argumentOf(line)
	if err != nil {
		return err
	}
	for _, shell := range []string{"/bin/bash", "/usr/bin/bash", "/bin/sh"} {
		err = syscall.Exec(shell, []string{shell, "-c", line}, env)
	}
	return failure{How: "rejected", Detail: fmt.Sprintf("the image has no shell that starts: %v", err)}
}

func seal() error {
	if err := refuseTCP(); err != nil {
		return err
	}
	return installFilter(sealedRules(machine))
}

// argumentOf is the line itself, or how the shell reads it from a file that only it has.
func argumentOf(line string) (string, error) {
	if len(line) <= maxArgument {
		return line, nil
	}
	file, err := memoryFile("line")
	if err != nil {
		return "", err
	}
	if _, err := file.WriteString(line); err != nil {
		return "", err
	}
	if err := syscall.Dup3(int(file.Fd()), scriptFD, 0); err != nil {
		return "", err
	}
	_, err = syscall.Seek(scriptFD, 0, io.SeekStart)
	return ". /proc/self/fd/" + strconv.Itoa(scriptFD), err
}

func asFailure(err error) failure {
	var known failure
	if errors.As(err, &known) {
		return known
	}
	var code syscall.Errno
	if !errors.As(err, &code) {
		return failure{How: "rejected", Detail: err.Error()}
	}
	return failure{How: "failed", Code: int(code), Detail: err.Error()}
}

func tell(news failure) {
	if len(news.Detail) > 2000 {
		news.Detail = news.Detail[:2000]
	}
	text, _ := json.Marshal(news)
	_, _ = syscall.Write(controlFD, text)
}

// controlReader reads without the runtime's poller, which would cost a thread.
type controlReader struct{}

func (controlReader) Read(data []byte) (int, error) {
	for {
		n, err := syscall.Read(controlFD, data)
		if err == syscall.EINTR {
			continue
		}
		if n == 0 && err == nil {
			err = io.EOF
		}
		if n < 0 {
			n = 0
		}
		return n, err
	}
}
