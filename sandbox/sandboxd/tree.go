package main

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
)

// Trees that can be put back as they were. Unlike archives they keep every mode and time, and they name content by its
// SHA-256, so that what is known already does not travel.

const (
	callTree    = "tree"
	callTreeOut = "tree_out"
	callTreeIn  = "tree_in"

	treeRoot   = "."
	noSum      = "-"
	modeBits   = 0o7777
	ownersBits = 0o700

	// maxDepth bounds folders inside one another: a walk keeps descriptors open for each.
	maxDepth = 200
)

func treeCall(call, path string) error {
	debug.SetGCPercent(50) // other file calls do without a collector, but these make much that they drop
	switch call {
	case callTree:
		return listTree(path, os.Stdout)
	case callTreeOut:
		return sendFiles(path, os.Stdin, os.Stdout)
	}
	return putBack(path, os.Stdin)
}

// listTree writes an entry for the folder itself and for each folder, file and link below it, parents first:
// "kind mode size mtime sum path NUL", and for a link its target and NUL.
func listTree(path string, out io.Writer) error {
	buffered := bufio.NewWriterSize(out, fileChunk)
	hash, buffer := sha256.New(), make([]byte, fileChunk)
	err := walkTree(path, func(place, name string, status *syscall.Stat_t) error {
		size, sum, target, mtime := int64(0), noSum, "", status.Mtim.Nano()
		if place == treeRoot {
			mtime = 0 // the folder itself may be somebody else's: its time is not ours to set
		}
		switch kindOf(status) {
		case 'f':
			hash.Reset()
			n, err := copyFile(hash, name, status.Mode, buffer)
			if err != nil {
				return err
			}
			size, sum = n, fmt.Sprintf("%x", hash.Sum(nil))
		case 'l':
			text, err := targetOf(name)
			if err != nil {
				return err
			}
			target = text + "\x00"
		}
		_, err := fmt.Fprintf(buffered, "%c %o %d %d %s %s\x00%s",
			kindOf(status), status.Mode&modeBits, size, mtime, sum, place, target)
		return err
	})
	if err != nil {
		return err
	}
	return buffered.Flush()
}

// sendFiles writes the content of the files asked for, as "path NUL", then content in chunks with their length in four
// bytes before each, the last of length 0. What is no longer there is left out.
func sendFiles(path string, in io.Reader, out io.Writer) error {
	asked, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, each := range strings.Split(string(asked), "\x00") {
		wanted[each] = true
	}
	buffered := bufio.NewWriterSize(out, fileChunk)
	buffer := make([]byte, fileChunk)
	err = walkTree(path, func(place, name string, status *syscall.Stat_t) error {
		if kindOf(status) != 'f' || !wanted[place] {
			return nil
		}
		if _, err := buffered.WriteString(place + "\x00"); err != nil {
			return err
		}
		if _, err := copyFile(chunked{buffered}, name, status.Mode, buffer); err != nil && !isChange(err) {
			return err
		}
		_, err := buffered.Write(make([]byte, 4))
		return err
	})
	if err != nil {
		return err
	}
	return buffered.Flush()
}

// walkTree calls what in the folder of each entry: folders, files and links, a parent before its children, names in the
// order of their bytes. It leaves every mode as it was, also where that had kept us out. What vanishes while we look is
// left out, and so is what is mounted there.
func walkTree(path string, what func(place, name string, status *syscall.Stat_t) error) error {
	name, err := enterParent(path, false)
	if err != nil {
		return err
	}
	var root syscall.Stat_t
	if err := syscall.Lstat(name, &root); err != nil {
		return err
	}
	switch kindOf(&root) {
	case 'd':
	case 'l':
		return syscall.ELOOP
	default:
		return syscall.ENOTDIR
	}
	if err := what(treeRoot, name, &root); err != nil {
		return err
	}
	num := 0
	var walk func(prefix string, depth int) error
	walk = func(prefix string, depth int) error {
		if depth > maxDepth || len(prefix) > maxPath {
			return failure{How: howRejected, Detail: fmt.Sprintf("folders are nested more than %d deep", maxDepth)}
		}
		names, err := namesHere()
		if err != nil {
			return err
		}
		if num += len(names); num > maxEntries {
			return failure{How: howRejected, Detail: fmt.Sprintf("the tree has more than %d entries", maxEntries)}
		}
		for _, name := range names {
			var status syscall.Stat_t
			err := syscall.Lstat(name, &status)
			if err == nil && status.Dev == root.Dev && kindOf(&status) != 'o' {
				err = what(prefix+name, name, &status)
				if err == nil && kindOf(&status) == 'd' {
					err = visit(name, status.Mode, func() error { return walk(prefix+name+"/", depth+1) })
				}
			}
			if err != nil && !isChange(err) {
				return err
			}
		}
		return nil
	}
	return visit(name, root.Mode, func() error { return walk("", 0) })
}

// isChange: a process that still runs there has removed or replaced what we were about to read.
func isChange(err error) bool {
	return err == syscall.ENOENT || err == syscall.ENOTDIR || err == syscall.ELOOP || err == errReplaced
}

var errReplaced = errors.New("no longer the file it was")

// visit runs what in a folder, whatever its mode, which it has again afterwards.
func visit(name string, mode uint32, what func() error) error {
	if mode&ownersBits != ownersBits {
		if err := syscall.Chmod(name, mode&modeBits|ownersBits); err != nil {
			return err
		}
		defer func() { _ = syscall.Chmod(name, mode&modeBits) }()
	}
	return inside(name, what)
}

// inside runs what in a folder below the current one, which is the current one again afterwards, however that ended.
func inside(name string, what func() error) error {
	const flags = syscall.O_RDONLY | syscall.O_DIRECTORY | syscall.O_CLOEXEC
	back, err := syscall.Open(".", flags, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(back)
	folder, err := syscall.Open(name, flags|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(folder)
	if err := syscall.Fchdir(folder); err != nil {
		return err
	}
	err = what()
	if back := syscall.Fchdir(back); back != nil {
		return back
	}
	return err
}

// copyFile copies a regular file, whatever its mode.
func copyFile(out io.Writer, name string, mode uint32, buffer []byte) (int64, error) {
	file, _, err := openWhole(name, mode)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	return io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{file}, buffer)
}

// openWhole opens a regular file to read it whole, whatever its mode, which it has again afterwards; and says its size.
func openWhole(name string, mode uint32) (*os.File, int64, error) {
	file, status, err := openRegular(name, name)
	if err == syscall.EACCES && syscall.Chmod(name, mode&modeBits|0o400) == nil {
		file, status, err = openRegular(name, name)
		_ = syscall.Chmod(name, mode&modeBits)
	}
	var other failure
	if errors.As(err, &other) || err == syscall.EISDIR {
		return nil, 0, errReplaced
	}
	if err != nil {
		return nil, 0, err
	}
	return file, status.Size, nil
}

func targetOf(link string) (string, error) {
	var target [maxPath]byte
	n, err := syscall.Readlink(link, target[:])
	if err != nil {
		return "", err
	}
	return string(target[:n]), nil
}
