package main

import (
	"archive/tar"
	"bufio"
	"fmt"
	"io"
	"strings"
	"syscall"
)

// Trees of files as tar archives: folders, regular files and symbolic links, which is what a work tree needs.

// tarOut writes everything below a folder; links are stored, never followed. Sockets, pipes and devices are left out.
func tarOut(path string, out io.Writer) error {
	buffered := bufio.NewWriterSize(out, fileChunk)
	archive := tar.NewWriter(buffered)
	err := walkTree(path, func(place, name string, status *syscall.Stat_t) error {
		if place == treeRoot {
			return nil
		}
		return writeMember(archive, place, name, status)
	})
	if err != nil {
		return err
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return buffered.Flush()
}

func writeMember(archive *tar.Writer, place, name string, status *syscall.Stat_t) error {
	header := tar.Header{Name: place, Mode: int64(status.Mode & 0o777), Format: tar.FormatGNU}
	switch kindOf(status) {
	case 'd':
		header.Typeflag, header.Name = tar.TypeDir, place+"/"
	case 'l':
		target, err := targetOf(name)
		if err != nil {
			return err
		}
		header.Typeflag, header.Linkname = tar.TypeSymlink, target
	case 'f':
		return writeContent(archive, &header, name, status.Mode)
	}
	return archive.WriteHeader(&header)
}

// writeContent writes one file, with exactly the size its header says even if it changes meanwhile.
func writeContent(archive *tar.Writer, header *tar.Header, name string, mode uint32) error {
	file, size, err := openWhole(name, mode)
	if err != nil {
		return err
	}
	defer file.Close()
	header.Typeflag, header.Size = tar.TypeReg, size
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.CopyN(archive, io.MultiReader(file, zeros{}), size)
	return err
}

// tarIn unpacks an archive below a folder, which is made if needed. Nothing is written outside it and no link is
// followed. Modes are reduced to executable or not.
func tarIn(path string, in io.Reader) error {
	if err := enter(path, true); err != nil {
		return err
	}
	root, err := syscall.Open(".", openPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(root)
	source := &noticing{reader: bufio.NewReaderSize(in, fileChunk)}
	archive := tar.NewReader(source)
	parent := ""
	for count := 0; ; count++ {
		header, err := archive.Next()
		if err == io.EOF && !source.ended {
			return nil
		}
		if err != nil {
			return failure{How: "rejected", Detail: "the archive is damaged, or ends in the middle: " + err.Error()}
		}
		if count >= maxEntries {
			return failure{How: "rejected", Detail: fmt.Sprintf("the archive has more than %d entries", maxEntries)}
		}
		if isSparse(header) {
			return failure{How: "rejected", Detail: "the archive holds a file with holes, which is not understood"}
		}
		if err := unpack(root, &parent, header, archive); err != nil {
			return ofArchive(err, header.Name)
		}
	}
}

// isSparse: a few bytes that say they are many would fill the disk with zeros.
func isSparse(header *tar.Header) bool {
	for name := range header.PAXRecords {
		if strings.HasPrefix(name, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// unpack makes one entry. parent is the folder we are in, below root.
func unpack(root int, parent *string, header *tar.Header, content io.Reader) error {
	parts, err := partsOf(header.Name)
	if err != nil {
		return err
	}
	if header.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if len(parts) == 0 {
		if header.Typeflag != tar.TypeDir {
			return failure{How: "rejected", Detail: "the archive names its own root as a file"}
		}
		return nil
	}
	last := len(parts) - 1
	if folder := strings.Join(parts[:last], "/"); folder != *parent {
		*parent = "\x00" // nowhere, should one of the steps fail
		if err := syscall.Fchdir(root); err != nil {
			return err
		}
		for _, part := range parts[:last] {
			if err := step(part, true); err != nil {
				return err
			}
		}
		*parent = folder
	}
	return unpackHere(parts[last], header, content)
}

func unpackHere(name string, header *tar.Header, content io.Reader) error {
	switch header.Typeflag {
	case tar.TypeDir:
		return makeFolder(name)
	case tar.TypeSymlink:
		if err := unlink(name); err != nil {
			return err
		}
		return syscall.Symlink(header.Linkname, name)
	case tar.TypeReg:
		if err := unlink(name); err != nil {
			return err
		}
		mode := uint32(0o644)
		if header.Mode&0o111 != 0 {
			mode = 0o755
		}
		return newFile(name, mode, content, header.Size)
	}
	detail := fmt.Sprintf("the archive holds something of type %q, not a file, folder or link", header.Typeflag)
	return failure{How: "rejected", Detail: detail}
}

func makeFolder(name string) error {
	err := syscall.Mkdir(name, 0o755)
	if err != syscall.EEXIST {
		return err
	}
	var status syscall.Stat_t
	if err := syscall.Lstat(name, &status); err != nil || kindOf(&status) == 'd' {
		return err
	}
	if err := syscall.Unlink(name); err != nil {
		return err
	}
	return syscall.Mkdir(name, 0o755)
}

// unlink makes room for an entry; a folder in its place stays, and is an error.
func unlink(name string) error {
	if err := syscall.Unlink(name); err != syscall.ENOENT {
		return err
	}
	return nil
}

func partsOf(name string) ([]string, error) {
	parts, err := split(name)
	if err != nil || strings.HasPrefix(name, "/") || len(name) > maxPath || len(parts) > maxDepth+1 {
		detail := fmt.Sprintf("the archive names a path outside its root, or too long: %.200q", name)
		return nil, failure{How: "rejected", Detail: detail}
	}
	return parts, nil
}

// ofArchive: an archive that contradicts itself (a folder inside a file or link) is the archive's fault, not the disk's.
func ofArchive(err error, name string) error {
	switch err {
	case syscall.ENOTDIR, syscall.EISDIR, syscall.EEXIST, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EINVAL,
		io.ErrUnexpectedEOF:
		return failure{How: "rejected", Detail: fmt.Sprintf("the archive contradicts itself at %.200q: %v", name, err)}
	}
	return err
}

// zeros stand for what a file has lost since it was measured.
type zeros struct{}

func (zeros) Read(data []byte) (int, error) {
	for i := range data {
		data[i] = 0
	}
	return len(data), nil
}

// noticing knows whether its reader has come to an end: an archive that is whole ends before it.
type noticing struct {
	reader io.Reader
	ended  bool
}

func (n *noticing) Read(data []byte) (int, error) {
	count, err := n.reader.Read(data)
	n.ended = n.ended || err == io.EOF
	return count, err
}
