package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	maxInMemory = 64 << 10
	maxPolled   = 256 << 10
	stallLimit  = 5 * time.Second // how long the last output of a job that ended waits for a reader
)

var errGone = errors.New("output before this offset is no longer kept")

// output keeps what a job writes until it is acknowledged: the last part in memory, what came before in a file. Where
// the file cannot be written, such as on a full disk, the job is held up instead until somebody has read: then what was
// read is let go.
type output struct {
	mu      sync.Mutex
	folder  string
	limit   int64
	total   int64 // bytes written by the job, kept or not
	kept    int64 // bytes taken
	spilled int64 // bytes in the file
	start   int64 // offset of memory[0]
	memory  []byte
	file    *os.File
	broken  bool
	closed  bool
	end     *ending
	changed chan struct{} // closed and replaced at every change
	over    chan struct{} // closed where the limit is passed
	full    chan struct{} // closed where nothing more is kept
}

func newOutput(folder string, limit int64) *output {
	return &output{
		folder: folder, limit: limit,
		changed: make(chan struct{}), over: make(chan struct{}), full: make(chan struct{}),
	}
}

// take keeps data as far as the limit allows. It blocks while there is no room and no file.
func (o *output) take(data []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.total
	o.total += int64(len(data))
	if before <= o.limit && o.total > o.limit {
		close(o.over)
	}
	if room := o.limit - o.kept; int64(len(data)) > room {
		data = data[:room]
	}
	for len(data) > 0 {
		n := maxInMemory - len(o.memory)
		if n == 0 {
			if !o.spill() && !o.waitForRoom() {
				return
			}
			continue
		}
		if n > len(data) {
			n = len(data)
		}
		o.memory = append(o.memory, data[:n]...)
		o.kept += int64(n)
		data = data[n:]
		o.tell()
	}
}

// poll returns kept bytes from offset on, once there are min of them, or the job has ended, or wait is over. With the
// last of them comes how the job ended.
func (o *output) poll(offset int64, min, max int, wait time.Duration) ([]byte, *ending, error) {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	o.mu.Lock()
	defer o.mu.Unlock()
	if min > maxInMemory {
		min = maxInMemory
	}
	for waiting := true; waiting; {
		if offset > o.kept || offset < 0 {
			return nil, nil, fmt.Errorf("%w: offset %d is beyond the output", errBadFrame, offset)
		}
		o.letGo(offset)
		if o.end != nil || o.kept-offset >= int64(min) && o.kept > offset {
			break
		}
		changed := o.changed
		o.mu.Unlock()
		select {
		case <-changed:
		case <-timeout.C:
			waiting = false
		}
		o.mu.Lock()
	}
	data, err := o.read(offset, max)
	if err != nil || offset+int64(len(data)) < o.kept {
		return data, nil, err
	}
	return data, o.end, nil
}

// finish gives how the job ended to whoever asks from now on.
func (o *output) finish(end *ending) {
	o.mu.Lock()
	defer o.mu.Unlock()
	end.Total = o.total
	o.end = end
	o.tell()
}

// stop has take drop what there is no room for, instead of waiting.
func (o *output) stop() {
	close(o.full)
}

// close lets go of everything.
func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.memory = nil
	if o.file != nil {
		o.file.Close()
		o.file = nil
	}
}

func (o *output) size() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.kept
}

func (o *output) exceeded() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.total > o.limit
}

func (o *output) tell() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// spill moves what is in memory to the file.
func (o *output) spill() bool {
	if o.broken {
		return false
	}
	if err := o.writeOut(); err != nil {
		o.broken = true
		o.tell() // who has read all there is did not know that it has to let go
		return false
	}
	o.spilled += int64(len(o.memory))
	o.start = o.spilled
	o.memory = o.memory[:0]
	return true
}

func (o *output) writeOut() error {
	if o.file == nil {
		file, err := temporaryFile(o.folder)
		if err != nil {
			return err
		}
		o.file = file
	}
	_, err := o.file.WriteAt(o.memory, o.spilled)
	return err
}

func (o *output) waitForRoom() bool {
	changed := o.changed
	o.mu.Unlock()
	defer o.mu.Lock()
	select {
	case <-changed:
		return true
	case <-o.full:
		return false
	}
}

// letGo forgets what was read where nothing can be put away.
func (o *output) letGo(offset int64) {
	if n := offset - o.start; o.broken && n > 0 && n <= int64(len(o.memory)) {
		o.memory = append(o.memory[:0], o.memory[n:]...)
		o.start = offset
		o.tell()
	}
}

func (o *output) read(offset int64, max int) ([]byte, error) {
	if max <= 0 || max > maxPolled {
		max = maxPolled
	}
	if left := o.kept - offset; int64(max) > left {
		max = int(left)
	}
	if o.closed || offset >= o.spilled && offset < o.start {
		return nil, errGone
	}
	data := make([]byte, 0, max)
	if offset < o.spilled {
		n := max
		if left := o.spilled - offset; int64(n) > left {
			n = int(left)
		}
		data = data[:n]
		if _, err := o.file.ReadAt(data, offset); err != nil && err != io.EOF {
			return nil, errGone
		}
		offset += int64(n)
	}
	if from := offset - o.start; offset >= o.start && len(data) < max {
		data = append(data, o.memory[from:from+int64(max-len(data))]...)
	}
	return data, nil
}

// temporaryFile has no name, so nothing in the sandbox finds it.
func temporaryFile(folder string) (*os.File, error) {
	const tmpfile = 0x400000 | syscall.O_DIRECTORY
	fd, err := syscall.Open(folder, syscall.O_RDWR|syscall.O_CLOEXEC|tmpfile, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), "output"), nil
	}
	file, err := os.CreateTemp(folder, ".output-")
	if err == nil {
		err = os.Remove(file.Name())
	}
	return file, err
}

func (o *output) ending() *ending {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.end
}
