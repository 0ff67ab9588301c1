package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"unsafe"
)

// Trees that can be put back as they were. Unlike archives they keep every mode and time, and they name content by its
// SHA-256, so that what is known already does not travel.

const (
	callTree    = "tree"
	callTreeOut = "tree_out"
	callTreeIn  = "tree_in"

	treeRoot   = "."
	noSum      = "-"
	keptFile   = 'k'
	modeBits   = 0o7777
	ownersBits = 0o700
)

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
			n, err := syscall.Readlink(name, buffer[:maxPath])
			if err != nil {
				return err
			}
			target = string(buffer[:n]) + "\x00"
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

// putBack makes the tree below a folder equal to a listing, which comes first and ends with an empty entry. Of kind 'f'
// are files whose content follows, in the order of the listing and in chunks; of kind 'k' those that are there already.
func putBack(path string, in io.Reader) error {
	reader := bufio.NewReaderSize(in, fileChunk)
	nodes, err := readNodes(reader)
	if err != nil {
		return err
	}
	known := map[string]*node{}
	for _, each := range nodes {
		known[each.path] = each
	}
	name, err := enterParent(path, true)
	if err != nil {
		return err
	}
	if err := makeFolder(name); err != nil {
		return err
	}
	var root syscall.Stat_t
	if err := syscall.Lstat(name, &root); err != nil {
		return err
	}
	err = visit(name, root.Mode, func() error {
		if err := prune("", known, 0); err != nil {
			return err
		}
		return fill(nodes[1:], reader)
	})
	if err != nil || root.Mode&modeBits == nodes[0].mode {
		return err
	}
	return syscall.Chmod(name, nodes[0].mode)
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
	if kindOf(&root) != 'd' {
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
	return inside(name, mode|ownersBits, what)
}

// copyFile copies a regular file, whatever its mode, which it has again afterwards.
func copyFile(out io.Writer, name string, mode uint32, buffer []byte) (int64, error) {
	file, _, err := openRegular(name, name)
	if err == syscall.EACCES && syscall.Chmod(name, mode&modeBits|0o400) == nil {
		file, _, err = openRegular(name, name)
		_ = syscall.Chmod(name, mode&modeBits)
	}
	var other failure
	if errors.As(err, &other) || err == syscall.EISDIR {
		return 0, errReplaced
	}
	if err != nil {
		return 0, err
	}
	defer file.Close()
	return io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{file}, buffer)
}

// node is one entry of a tree that is to be.
type node struct {
	kind         byte
	mode         uint32
	mtime        int64
	path, target string
}

// readNodes reads a listing up to its empty entry. The first entry is the folder itself.
func readNodes(reader *bufio.Reader) ([]*node, error) {
	var nodes []*node
	for {
		line, err := readText(reader)
		if err != nil {
			return nil, err
		}
		if line == "" {
			break
		}
		next := new(node)
		var size int64
		var sum string
		fields := strings.SplitN(line, " ", 6)
		if len(fields) != 6 {
			return nil, badListing(line)
		}
		head := strings.Join(fields[:5], " ")
		if n, err := fmt.Sscanf(head, "%c %o %d %d %s", &next.kind, &next.mode, &size, &next.mtime, &sum); n != 5 || err != nil {
			return nil, badListing(line)
		}
		next.path = fields[5]
		if next.kind == 'l' {
			if next.target, err = readText(reader); err != nil {
				return nil, err
			}
		}
		isRoot := next.path == treeRoot && next.kind == 'd'
		if _, err := partsOf(next.path); err != nil || isRoot != (len(nodes) == 0) || !strings.ContainsRune("dlfk", rune(next.kind)) {
			return nil, badListing(line)
		}
		if nodes = append(nodes, next); len(nodes) > maxEntries {
			return nil, badListing(line)
		}
	}
	if len(nodes) == 0 {
		return nil, badListing("")
	}
	return nodes, nil
}

func badListing(line string) error {
	return failure{How: howRejected, Detail: fmt.Sprintf("the listing of the tree is damaged at %.200q", line)}
}

// readText reads up to a NUL, which is left out.
func readText(reader *bufio.Reader) (string, error) {
	text, err := reader.ReadString(0)
	if err == io.EOF || len(text) > 2*maxPath {
		return "", badListing(text)
	}
	return strings.TrimSuffix(text, "\x00"), err
}

// prune removes what is not to be from the current folder, and opens the folders that stay for changes.
func prune(prefix string, known map[string]*node, depth int) error {
	if depth > maxDepth {
		return failure{How: howRejected, Detail: fmt.Sprintf("folders are nested more than %d deep", maxDepth)}
	}
	var here syscall.Stat_t
	if err := syscall.Lstat(".", &here); err != nil {
		return err
	}
	names, err := namesHere()
	if err != nil {
		return err
	}
	for _, name := range names {
		var status syscall.Stat_t
		if err := syscall.Lstat(name, &status); err != nil {
			return err
		}
		if status.Dev != here.Dev {
			continue // what is mounted there does not belong to the tree
		}
		next := known[prefix+name]
		if next == nil || next.kind != byte(kindOf(&status)) && !(next.kind == keptFile && kindOf(&status) == 'f') {
			err = removeTree(name, &status)
		} else if next.kind == 'd' {
			err = inFolder(name, func() error { return prune(prefix+name+"/", known, depth+1) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func removeTree(name string, status *syscall.Stat_t) error {
	if kindOf(status) != 'd' {
		return syscall.Unlink(name)
	}
	err := inFolder(name, func() error { return prune("", nil, 0) })
	if err != nil {
		return err
	}
	return syscall.Rmdir(name)
}

// inFolder runs what in a folder whose mode is ours to set.
func inFolder(name string, what func() error) error {
	if err := syscall.Chmod(name, ownersBits); err != nil {
		return err
	}
	return inside(name, ownersBits, what)
}

// fill makes the entries in the current folder, then sets the modes and times of folders, the innermost first: each
// entry made changes its folder's time, and a folder's mode may forbid any more.
func fill(nodes []*node, content *bufio.Reader) error {
	root, err := syscall.Open(".", openPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(root)
	place := ""
	for _, each := range nodes {
		name, err := goTo(root, &place, each.path)
		if err == nil {
			err = each.make(name, content)
		}
		if err != nil {
			return ofArchive(err, each.path)
		}
	}
	for i := len(nodes) - 1; i >= 0; i-- {
		if nodes[i].kind != 'd' {
			continue
		}
		name, err := goTo(root, &place, nodes[i].path)
		if err == nil {
			err = nodes[i].settle(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// goTo makes the folder of an entry the current one and returns the entry's name there. place is where we are.
func goTo(root int, place *string, path string) (string, error) {
	folder, name := "", path
	if cut := strings.LastIndexByte(path, '/'); cut >= 0 {
		folder, name = path[:cut], path[cut+1:]
	}
	if folder == *place {
		return name, nil
	}
	*place = "\x00" // nowhere, should one of the steps fail
	if err := syscall.Fchdir(root); err != nil {
		return "", err
	}
	if folder != "" {
		for _, part := range strings.Split(folder, "/") {
			if err := step(part, false); err != nil {
				return "", err
			}
		}
	}
	*place = folder
	return name, nil
}

func (n *node) make(name string, content *bufio.Reader) error {
	switch n.kind {
	case 'd':
		if err := syscall.Mkdir(name, ownersBits); err != syscall.EEXIST {
			return err
		}
		return nil // settled when all is in it
	case 'l':
		if err := unlink(name); err != nil {
			return err
		}
		if err := syscall.Symlink(n.target, name); err != nil {
			return err
		}
	case 'f':
		if err := unlink(name); err != nil {
			return err
		}
		if err := newFile(name, n.mode, &chunks{source: content}, -1); err != nil {
			return err
		}
	}
	return n.settle(name)
}

// settle gives an entry its mode and time.
func (n *node) settle(name string) error {
	var status syscall.Stat_t
	if err := syscall.Lstat(name, &status); err != nil {
		return err
	}
	if n.kind != 'l' && status.Mode&modeBits != n.mode {
		if err := syscall.Chmod(name, n.mode); err != nil {
			return err
		}
	}
	if status.Mtim.Nano() == n.mtime {
		return nil
	}
	return setTime(name, n.mtime)
}

// setTime sets when a file, folder or link was changed; links are not followed.
func setTime(name string, mtime int64) error {
	const here, now, noFollow = ^uintptr(99), (1 << 30) - 1, 0x100
	text, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	seconds, rest := mtime/1e9, mtime%1e9
	if rest < 0 {
		seconds, rest = seconds-1, rest+1e9
	}
	times := [2]syscall.Timespec{{Nsec: now}, {Sec: seconds, Nsec: rest}}
	_, _, code := syscall.Syscall6(syscall.SYS_UTIMENSAT, here, uintptr(unsafe.Pointer(text)),
		uintptr(unsafe.Pointer(&times[0])), noFollow, 0, 0)
	if code != 0 {
		return code
	}
	return nil
}

// chunked writes each part with its length before it.
type chunked struct{ out *bufio.Writer }

func (c chunked) Write(data []byte) (int, error) {
	var length [4]byte
	binary.BigEndian.PutUint32(length[:], uint32(len(data)))
	if _, err := c.out.Write(length[:]); err != nil {
		return 0, err
	}
	return c.out.Write(data)
}

// chunks reads what chunked wrote, up to the part of length 0.
type chunks struct {
	source *bufio.Reader
	left   uint32
	ended  bool
}

func (c *chunks) Read(data []byte) (int, error) {
	if c.left == 0 && !c.ended {
		var length [4]byte
		if _, err := io.ReadFull(c.source, length[:]); err != nil {
			return 0, io.ErrUnexpectedEOF
		}
		c.left = binary.BigEndian.Uint32(length[:])
		c.ended = c.left == 0
	}
	if c.ended {
		return 0, io.EOF
	}
	if uint32(len(data)) > c.left {
		data = data[:c.left]
	}
	n, err := c.source.Read(data)
	c.left -= uint32(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func treeCall(call, path string) error {
	debug.SetGCPercent(50) // launchers do without a collector, but these calls make much that they drop
	switch call {
	case callTree:
		return listTree(path, os.Stdout)
	case callTreeOut:
		return sendFiles(path, os.Stdin, os.Stdout)
	}
	return putBack(path, os.Stdin)
}
