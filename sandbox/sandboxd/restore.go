package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"syscall"
	"unsafe"
)

const keptFile = 'k'

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
	return inside(name, what)
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
