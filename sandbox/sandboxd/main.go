// Command sandboxd is the first process of a sandbox: it runs commands and file calls for one client, over a socket.
//
// PROTOCOL.md describes what is said on that socket. Standard library only; one static binary for any image.
package main

import (
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

const usage = `sandboxd serve (--unix PATH | --tcp ADDRESS | --listener FD)   serve one client until its lease ends
sandboxd rules ARCHITECTURE                    print the filter of system calls, in hexadecimal
sandboxd install --program DIR --disk DIR      prepare the volumes of a pod
sandboxd fence --port PORT -- --program ...    close this network namespace but for loopback and answers on a port,
                                               then do as install
sandboxd reach NETWORK:HOST:PORT...            print the addresses that answer
`

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "serve":
			exitOn(serve(os.Args[2:]))
			return
		case fileCallName:
			runFileCall(os.Args[2:])
			return
		case "rules":
			exitOn(printRules(os.Args[2:]))
			return
		case "install":
			exitOn(install(os.Args[2:]))
			return
		case "fence":
			exitOn(fence(os.Args[2:]))
			return
		case "reach":
			exitOn(reach(os.Args[2:]))
			return
		}
	}
	fmt.Fprint(os.Stderr, usage)
	os.Exit(2)
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "sandboxd:", err)
		os.Exit(1)
	}
}

func serve(arguments []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	unix := flags.String("unix", "", "path of the unix socket to listen on")
	tcp := flags.String("tcp", "", "address and port to listen on")
	inherited := flags.Int("listener", -1, "descriptor of a socket that listens already")
	processes := flags.Uint64("processes", 0, "processes and threads that this process's user may have; 0: no bound of ours")
	group := flags.Int("memory", -1, "inherited folder of the control group that bounds memory")
	ready := flags.Int("ready", -1, "inherited descriptor that gets one byte, and is closed, when it serves")
	spill := flags.String("spill", os.TempDir(), "folder for output that does not fit into memory")
	unclaimed := flags.Duration("unclaimed", 10*time.Minute, "end where nobody has set a key by then")
	shell := flags.String("shell", "", "shell of commands; empty: bash, or else sh")
	user := flags.String("user", "", "uid:gid of commands and file calls, where sandboxd runs as the superuser")
	passOn := flags.Bool("image-variables", false, "commands see the variables of the image, behind their own")
	egress := flags.String("egress", "", "socket that leads out of the sandbox; "+egressPlace+" leads there")
	lent := flags.Bool("lent-egress", false, egressPlace+" leads to connections that the client lends")
	_ = flags.Parse(arguments) // ends the process by itself
	task, err := parseUser(*user)
	if err != nil {
		return err
	}
	if err := boundProcesses(*processes); err != nil {
		return err
	}
	if err := dumpNoCore(); err != nil {
		return err
	}
	frugal()
	callItself("sandboxd")
	syscall.Umask(0o022)
	if err := ownDescriptors(); err != nil {
		return err
	}
	memory := newMemoryWatch(*group)
	spawner, err := newSpawner(task, *shell)
	if err != nil {
		return err
	}
	daemon, err := newDaemon(memory, spawner, *spill, *unclaimed)
	if err != nil {
		return err
	}
	if err := closeDoors(); err != nil {
		return err
	}
	if err := daemon.letOut(*egress, *lent); err != nil {
		return err
	}
	if *passOn {
		daemon.variables = imageVariables()
	}
	listener, err := listen(*unix, *tcp, *inherited)
	if err != nil {
		return err
	}
	if err := tellReady(*ready); err != nil {
		return err
	}
	return daemon.serve(listener)
}

// tellReady lets whoever started this program know that it listens, behind its filter.
func tellReady(fd int) error {
	if fd < 0 {
		return nil
	}
	defer syscall.Close(fd)
	_, err := syscall.Write(fd, []byte{'r'})
	return err
}

func (d *daemon) letOut(socket string, lent bool) error {
	switch {
	case lent:
		d.lenders = make(lenders)
		return forwardEgress(d.lenders.through)
	case socket != "":
		return forwardEgress(throughSocket(socket))
	}
	return nil
}

// listen opens the one socket. Everybody may connect to it: what counts is the key.
func listen(unix, tcp string, inherited int) (net.Listener, error) {
	if inherited >= 0 {
		file := os.NewFile(uintptr(inherited), "listener")
		defer file.Close()
		return net.FileListener(file)
	}
	if (unix == "") == (tcp == "") {
		return nil, fmt.Errorf("give one of --unix, --tcp and --listener")
	}
	if tcp != "" {
		return net.Listen("tcp", tcp)
	}
	listener, err := net.Listen("unix", unix)
	if err == nil {
		err = os.Chmod(unix, 0o666)
	}
	return listener, err
}

// parseUser reads "uid:gid"; nil where commands run as whoever runs sandboxd.
func parseUser(text string) (*taskUser, error) {
	if text == "" {
		return nil, nil
	}
	var user taskUser
	if n, err := fmt.Sscanf(text, "%d:%d", &user.uid, &user.gid); n != 2 || err != nil || user.uid <= 0 || user.gid <= 0 {
		return nil, fmt.Errorf("--user %q is not of the form uid:gid, both above 0", text)
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("--user needs a sandboxd that runs as the superuser")
	}
	return &user, nil
}

// boundProcesses also binds all that is started. The kernel counts by user, who must be nobody else on the machine.
func boundProcesses(count uint64) error {
	if count == 0 {
		return nil
	}
	return syscall.Setrlimit(rlimitProcesses, &syscall.Rlimit{Cur: count, Max: count})
}

// dumpNoCore binds all that is started too. Where cores go to a program of the host, the kernel minds no bound but that
// of one byte, which means none (core(5)). Whoever began with a bound of 0 keeps it.
func dumpNoCore() error {
	var own syscall.Rlimit
	if err := syscall.Getrlimit(rlimitCore, &own); err != nil || own.Max == 0 {
		return err
	}
	return syscall.Setrlimit(rlimitCore, &syscall.Rlimit{Cur: 1, Max: 1})
}

// frugal bounds threads and memory. A memory limit near the runtime's own floor of about 8 MiB would make the collector
// run all the time; twice that is harmless.
func frugal() {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(10)
	debug.SetMemoryLimit(16 << 20)
	readyThreads(spareThreads)
}

// callItself sets the name that process lists show. A program that was started by its descriptor has a number for one.
func callItself(name string) { _ = os.WriteFile("/proc/self/comm", []byte(name), 0) }

// closeDoors makes this process unreadable for others of its user and binds it, and all it starts, to the filter.
func closeDoors() error {
	if os.Getpid() != 1 {
		if err := prctl(prSetChildSubreaper, 1); err != nil {
			return fmt.Errorf("becoming the parent of orphans: %w", err)
		}
	}
	if err := prctl(prSetDumpable, 0); err != nil {
		return fmt.Errorf("closing this process to others: %w", err)
	}
	if err := installFilter(baseRules(machine)); err != nil {
		return fmt.Errorf("the filter of system calls: %w", err)
	}
	return nil
}

func printRules(arguments []string) error {
	known, ok := machines[strings.Join(arguments, " ")]
	if !ok {
		return fmt.Errorf("rules are there for amd64 and arm64")
	}
	fmt.Println(hex.EncodeToString(baseRules(known).bytes()))
	return nil
}
