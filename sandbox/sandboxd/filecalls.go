package main

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"syscall"
)

// File calls run in processes of their own, as the user of the sandbox. Each reads standard input, writes standard output, and
// follows no link: a path is walked one folder at a time, by which the process is in the folder it asks about.

const (
	fileCallName = "call" // of sandboxd itself

	callExec   = "exec"
	callRead   = "read"
	callWrite  = "write"
	callStat   = "stat"
	callList   = "list"
	callTarIn  = "tar_in"
	callTarOut = "tar_out"

	fileChunk  = 256 << 10
	maxPath    = 4096
	maxEntries = 1_000_000
)

func fileCall(call string, texts []string) error {
	if len(texts) != 1 {
		return failure{How: "rejected", Detail: "a file call needs one path"}
	}
	path := texts[0]
	if !strings.HasPrefix(path, "/") || len(path) > maxPath {
		return failure{How: "rejected", Detail: "not an absolute path of a sandbox"}
	}
	err := callOf(call, path)
	if err == syscall.ELOOP {
		return failure{How: "rejected", Detail: path + " is, or leads through, a symbolic link"}
	}
	return err
}

func callOf(call, path string) error {
	switch call {
	case callRead:
		return readFile(path, os.Stdout)
	case callWrite:
		return writeFile(path, os.Stdin)
	case callStat:
		return statFile(path, os.Stdout)
	case callList:
		return listFolder(path, os.Stdout)
	case callTarIn:
		return tarIn(path, os.Stdin)
	case callTarOut:
		return tarOut(path, os.Stdout)
	case callTree, callTreeOut, callTreeIn:
		return treeCall(call, path)
	}
	return failure{How: "rejected", Detail: "there is no file call " + call}
}

// readFile copies a regular file out.
func readFile(path string, out io.Writer) error {
	name, err := enterParent(path, false)
	if err != nil {
		return err
	}
	// Without O_NONBLOCK, opening a named pipe would wait for a writer.
	file, _, err := openRegular(name, path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{file}, make([]byte, fileChunk))
	return err
}

// writeFile replaces a file as a whole: readers see the old bytes or the new ones.
func writeFile(path string, in io.Reader) error {
	name, err := enterParent(path, true)
	if err != nil {
		return err
	}
	if name == "." {
		return syscall.EISDIR
	}
	mode, err := modeToKeep(name, path)
	if err != nil {
		return err
	}
	temporary, err := randomName()
	if err != nil {
		return err
	}
	if err := newFile(temporary, mode, in, -1); err != nil {
		return err
	}
	if err := syscall.Rename(temporary, name); err != nil {
		_ = syscall.Unlink(temporary)
		return err
	}
	return nil
}

// statFile writes one entry, listFolder one for each name in a folder, in order.
func statFile(path string, out io.Writer) error {
	name, err := enterParent(path, false)
	if err != nil {
		return err
	}
	var status syscall.Stat_t
	if err := syscall.Lstat(name, &status); err != nil {
		return err
	}
	return writeEntry(out, name, &status)
}

func listFolder(path string, out io.Writer) error {
	if err := enter(path, false); err != nil {
		return err
	}
	names, err := namesHere()
	if err != nil {
		return err
	}
	buffered := bufio.NewWriter(out)
	for _, name := range names {
		var status syscall.Stat_t
		if err := syscall.Lstat(name, &status); err == syscall.ENOENT {
			continue // removed by a process that is still running there
		} else if err != nil {
			return err
		}
		if err := writeEntry(buffered, name, &status); err != nil {
			return err
		}
	}
	return buffered.Flush()
}

func writeEntry(out io.Writer, name string, status *syscall.Stat_t) error {
	_, err := fmt.Fprintf(out, "%c %o %d %d %s\x00", kindOf(status), status.Mode&0o7777, status.Size, status.Mtim.Sec, name)
	return err
}

func kindOf(status *syscall.Stat_t) rune {
	switch status.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		return 'f'
	case syscall.S_IFDIR:
		return 'd'
	case syscall.S_IFLNK:
		return 'l'
	}
	return 'o'
}

// enter makes a folder the current one, walking from the root; links anywhere in path are refused with ELOOP.
func enter(path string, making bool) error {
	if err := syscall.Chdir("/"); err != nil {
		return err
	}
	parts, err := split(path)
	if err != nil {
		return err
	}
	for _, part := range parts {
		if err := step(part, making); err != nil {
			return err
		}
	}
	return nil
}

// enterParent enters the folder that path is in and returns its name there.
func enterParent(path string, making bool) (string, error) {
	parts, err := split(path)
	if err != nil {
		return "", err
	}
	if len(parts) == 0 {
		return ".", enter("/", false)
	}
	last := len(parts) - 1
	return parts[last], enter("/"+strings.Join(parts[:last], "/"), making)
}

func split(path string) ([]string, error) {
	var parts []string
	for _, part := range strings.Split(path, "/") {
		switch part {
		case "", ".":
		case "..":
			return nil, failure{How: "rejected", Detail: "a path of a sandbox holds no '..'"}
		default:
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// step enters one folder below the current one.
func step(name string, making bool) error {
	const flags = openPath | syscall.O_DIRECTORY | syscall.O_NOFOLLOW | syscall.O_CLOEXEC
	fd, err := syscall.Open(name, flags, 0)
	if err == syscall.ENOENT && making {
		if err := syscall.Mkdir(name, 0o755); err != nil && err != syscall.EEXIST {
			return err
		}
		fd, err = syscall.Open(name, flags, 0)
	}
	if err == syscall.ENOTDIR {
		// The kernel says the same of links and of files; the caller is told which.
		var status syscall.Stat_t
		if syscall.Lstat(name, &status) == nil && status.Mode&syscall.S_IFMT == syscall.S_IFLNK {
			return syscall.ELOOP
		}
	}
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	return syscall.Fchdir(fd)
}

func openRegular(name, path string) (*os.File, *syscall.Stat_t, error) {
	fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var status syscall.Stat_t
	if err = syscall.Fstat(fd, &status); err == nil {
		err = requireRegular(&status, path)
	}
	if err != nil {
		_ = syscall.Close(fd)
		return nil, nil, err
	}
	_ = syscall.SetNonblock(fd, false)
	return os.NewFile(uintptr(fd), name), &status, nil
}

func requireRegular(status *syscall.Stat_t, path string) error {
	switch kindOf(status) {
	case 'f':
		return nil
	case 'd':
		return syscall.EISDIR
	case 'l':
		return syscall.ELOOP
	}
	return failure{How: "rejected", Detail: path + " is not a regular file"}
}

func modeToKeep(name, path string) (uint32, error) {
	var status syscall.Stat_t
	if err := syscall.Lstat(name, &status); err == syscall.ENOENT {
		return 0o644, nil
	} else if err != nil {
		return 0, err
	}
	return status.Mode & 0o777, requireRegular(&status, path)
}

// newFile makes a file here and fills it: with size bytes, or with all there are where size is negative.
// A file that could not be filled is removed.
func newFile(name string, mode uint32, in io.Reader, size int64) error {
	const flags = syscall.O_WRONLY | syscall.O_CREAT | syscall.O_EXCL | syscall.O_NOFOLLOW | syscall.O_CLOEXEC
	fd, err := syscall.Open(name, flags, 0o600)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), name)
	if size >= 0 {
		in = io.LimitReader(in, size)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{file}, struct{ io.Reader }{in}, make([]byte, fileChunk))
	if err == nil {
		err = syscall.Fchmod(fd, mode)
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		_ = syscall.Unlink(name)
	}
	return err
}

func randomName() (string, error) {
	random := make([]byte, 8)
	_, err := rand.Read(random)
	return "." + hex.EncodeToString(random) + ".part", err
}

// namesHere lists the current folder in the order of its names' bytes.
func namesHere() ([]string, error) {
	fd, err := syscall.Open(".", syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	folder := os.NewFile(uintptr(fd), ".")
	defer folder.Close()
	names, err := folder.Readdirnames(maxEntries)
	var code syscall.Errno
	switch {
	case errors.As(err, &code): // by itself, as all calls here have it
		return nil, code
	case err == io.EOF:
		err = nil
	}
	sort.Strings(names)
	return names, err
}
