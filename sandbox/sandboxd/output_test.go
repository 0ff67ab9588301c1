package main

import (
	"bytes"
	"errors"
	"math/rand"
	"testing"
	"time"
)

func noise(size int) []byte {
	data := make([]byte, size)
	rand.New(rand.NewSource(int64(size))).Read(data)
	return data
}

func TestWhatIsWrittenCanBeReadFromAnyOffsetUntilItIsAcknowledged(t *testing.T) {
	data := noise(5*maxInMemory + 123)
	o := newOutput(t.TempDir(), int64(len(data)))
	for rest := data; len(rest) > 0; {
		n := 1 + len(rest)/3
		o.take(rest[:n])
		rest = rest[n:]
	}
	o.finish(&ending{How: howExited})
	for _, offset := range []int{0, 1, maxInMemory - 1, maxInMemory, 4*maxInMemory + 7, len(data)} {
		var got []byte
		for at := int64(offset); ; {
			part, end, err := o.poll(at, 1, maxPolled, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			got, at = append(got, part...), at+int64(len(part))
			if end != nil {
				break
			}
		}
		if !bytes.Equal(got, data[offset:]) {
			t.Fatalf("from %d: %d bytes that differ", offset, len(got))
		}
	}
	o.close()
	if _, _, err := o.poll(0, 1, maxPolled, 0); !errors.Is(err, errGone) {
		t.Fatal(err)
	}
}

func TestWithoutADiskTheWriterWaitsForTheReaderAndNothingIsLost(t *testing.T) {
	data := noise(3 * maxInMemory)
	o := newOutput("/nowhere", int64(len(data)))
	go func() {
		o.take(data[:maxInMemory])
		time.Sleep(50 * time.Millisecond) // all is read, and the next is awaited, when there is no room any more
		o.take(data[maxInMemory:])
		o.finish(&ending{How: howExited})
	}()
	var got []byte
	for {
		part, end, err := o.poll(int64(len(got)), 1<<30, maxPolled, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, part...)
		if end != nil {
			break
		}
	}
	if !bytes.Equal(got, data) {
		t.Fatal("what was read differs")
	}
	if _, _, err := o.poll(0, 1, 1, 0); !errors.Is(err, errGone) {
		t.Fatal("what was let go is said to be gone:", err)
	}
}

func TestBeyondTheLimitBytesAreCountedAndNotKept(t *testing.T) {
	o := newOutput(t.TempDir(), 10)
	o.take([]byte("0123456789"))
	select {
	case <-o.over:
		t.Fatal("exactly the limit is not beyond it")
	default:
	}
	o.take([]byte("ab"))
	<-o.over
	o.finish(&ending{How: howOutputLimit})
	part, end, _ := o.poll(0, 1, 100, 0)
	if string(part) != "0123456789" || end.Total != 12 {
		t.Fatal(string(part), end)
	}
}

func TestThereIsNoEndingBeforeTheEnd(t *testing.T) {
	o := newOutput(t.TempDir(), 100)
	o.take([]byte("abc"))
	if part, end, err := o.poll(0, 1, 100, 0); string(part) != "abc" || end != nil || err != nil {
		t.Fatal(part, end, err)
	}
	if part, end, err := o.poll(3, 1, 100, time.Millisecond); len(part) != 0 || end != nil || err != nil {
		t.Fatal(part, end, err)
	}
	if _, _, err := o.poll(4, 1, 100, 0); !errors.Is(err, errBadFrame) {
		t.Fatal("an offset that was not written yet:", err)
	}
}
