package main

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

const (
	testKey   = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	sentFirst = `{"id":1,"op":"hello","version":1,"key":"` + testKey + `","lease_s":60,"lifetime_s":60}`
)

// quietDaemon starts no process, and does not end the one it is in.
func quietDaemon(t testing.TB) (*daemon, *int) {
	ends := 0
	d, err := newDaemon(&memoryWatch{}, &spawner{}, t.TempDir(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	d.start = func(order, time.Time) (*process, error) { return nil, errCrowded }
	d.exit = func() { ends++ }
	d.idle = time.AfterFunc(time.Hour, func() {})
	return d, &ends
}

// converse says something to a daemon, hangs up after so many answers, and returns what it was answered.
func converse(t testing.TB, d *daemon, said []byte, wanted int) (answers []reply) {
	ours, theirs := socketPair(t)
	_ = ours.SetDeadline(time.Now().Add(20 * time.Second))
	over := make(chan struct{})
	go func() {
		d.talk(theirs)
		close(over)
	}()
	go func() {
		_, _ = ours.Write(said) // cut off by one who has heard enough
		if wanted == 0 {
			_ = ours.CloseWrite()
		}
	}()
	for wanted == 0 || len(answers) < wanted {
		head, body, err := readFrame(ours, 16<<10, maxPolled)
		if err != nil {
			break
		}
		var answer reply
		if err := parseHead(head, &answer); err != nil || answer.Boot != d.claim.boot {
			t.Fatalf("not an answer: %q, %v", head, err)
		}
		if len(body) > 0 && answer.Error != "" {
			t.Fatalf("a refusal with %d bytes", len(body))
		}
		answers = append(answers, answer)
	}
	ours.Close()
	select {
	case <-over:
	case <-time.After(20 * time.Second):
		t.Fatal("a conversation does not end with its connection")
	}
	return answers
}

func socketPair(t testing.TB) (ours, theirs *net.UnixConn) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		link, err := net.FileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		ends[i] = link.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

func frameOf(head, body string) []byte {
	lengths := []byte{0, 0, byte(len(head) >> 8), byte(len(head)), 0, 0, byte(len(body) >> 8), byte(len(body))}
	return append(append(lengths, head...), body...)
}

func TestWhoDoesNotGreetIsNotAnswered(t *testing.T) {
	for _, head := range []string{`{"id":1,"op":"health"}`, `{"id":1,"op":"end"}`, `{"id":1,"op":"start","job":"x"}`, `{}`} {
		d, ends := quietDaemon(t)
		if answers := converse(t, d, frameOf(head, ""), 0); len(answers) != 0 || *ends != 0 || d.claim.key != nil {
			t.Error(head, answers, *ends)
		}
	}
}

func TestAJobThatDidNotStartSaysSoAndIsNotTriedAgain(t *testing.T) {
	d, _ := quietDaemon(t)
	said := frameOf(sentFirst, "")
	for _, head := range []string{
		`{"id":2,"op":"start","job":"a","texts":2,"timeout_s":1,"limit":9,"last":true}`,
		`{"id":3,"op":"start","job":"a","texts":2,"timeout_s":1,"limit":9,"last":true}`,
		`{"id":4,"op":"wait","job":"a","wait_s":9}`,
	} {
		said = append(said, frameOf(head, "true\x00/\x00")...)
	}
	answers := converse(t, d, said, 4)
	last := answers[len(answers)-1]
	if len(answers) != 4 || last.End == nil || last.End.How != howFailed {
		t.Fatal(answers)
	}
}

// Whatever is said, before and after the greeting: each answer is a frame of ours, nobody but the holder of the key ends
// anything, and the conversation ends with its connection.
func FuzzConversations(f *testing.F) {
	start := `{"id":2,"op":"start","job":"a","texts":2,"timeout_s":1,"limit":9}`
	for _, said := range [][]byte{
		{},
		frameOf(`{"id":2,"op":"health"}`, ""),
		frameOf(`{"id":2,"op":"renew","lease_s":-1}`, ""),
		frameOf(`{"id":2,"op":"renew","lease_s":1e300}`, ""),
		frameOf(`{"id":2,"op":"nonsense"}`, ""),
		frameOf(start, "true\x00/\x00input"),
		frameOf(`{"id":2,"op":"start","job":"","texts":-1,"timeout_s":1e308,"limit":-9}`, ""),
		append(frameOf(start, "a\x00b\x00"), frameOf(`{"id":3,"op":"poll","job":"a","offset":-1,"max":-1,"min":-1,"wait_s":-1}`, "")...),
		append(frameOf(start, "a\x00b\x00"), frameOf(`{"id":3,"op":"poll","job":"a","offset":9223372036854775807}`, "")...),
		append(frameOf(start, "a\x00b\x00"), frameOf(`{"id":3,"op":"stdin","job":"a","offset":7,"last":true}`, "more")...),
		append(frameOf(start, "a\x00b\x00"), frameOf(`{"id":3,"op":"signal","job":"a","signal":-9}`, "")...),
		append(frameOf(start, "a\x00b\x00"), frameOf(`{"id":3,"op":"ack","job":"a"}`, "")...),
		append(frameOf(`{"id":2,"op":"read","job":"r","texts":1,"timeout_s":1}`, "/\x00"), frameOf(`{"id":3,"op":"tar_in","job":"r"}`, "")...),
		frameOf(`{"id":2,"op":"hello","version":1,"key":"`+testKey+`","lease_s":1,"lifetime_s":1}`, ""),
		frameOf(`{"id":2,"op":"attach","version":1,"nonce":"`+testKey+`"}`, ""),
		append(frameOf(`{"id":2,"op":"attach","version":1,"nonce":"`+testKey+`"}`, ""), frameOf(`{"id":3,"op":"prove","version":1,"proof":"00"}`, "")...),
		frameOf(`{"id":2,"op":"end"}`, ""),
		[]byte("\xff\xff\xff\xff\xff\xff\xff\xff"),
	} {
		f.Add(true, said)
		f.Add(false, said)
	}
	f.Fuzz(func(t *testing.T, greeted bool, said []byte) {
		d, ends := quietDaemon(t)
		if greeted {
			said = append(frameOf(sentFirst, ""), said...)
		}
		answers := converse(t, d, said, 0)
		if greeted && (len(answers) == 0 || answers[0].Health == nil) {
			t.Fatal("the greeting was not answered")
		}
		if d.claim.key == nil && *ends != 0 {
			t.Fatal("ended by somebody without the key")
		}
		if _, err := json.Marshal(d.health()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAConnectionIsLentOnlyWhereOneIsWanted(t *testing.T) {
	d, _ := quietDaemon(t)
	said := append(frameOf(sentFirst, ""), frameOf(`{"id":2,"op":"lend"}`, "")...)
	answers := converse(t, d, said, 2)
	if len(answers) != 2 || answers[1].Error != "bad_request" {
		t.Fatalf("answered %v", answers)
	}
}

func TestWhoWantsOutGetsALentConnection(t *testing.T) {
	d, _ := quietDaemon(t)
	d.lenders = make(lenders)
	lend := func() *net.UnixConn {
		ours, theirs := socketPair(t)
		go d.talk(theirs)
		return ours
	}
	first := lend()
	if _, err := first.Write(append(frameOf(sentFirst, ""), frameOf(`{"id":2,"op":"lend"}`, "")...)); err != nil {
		t.Fatal(err)
	}
	program, inner := socketPair(t)
	go d.lenders.through(inner)
	for range []string{"hello", "lend"} {
		if _, _, err := readFrame(first, 16<<10, 0); err != nil {
			t.Fatal(err)
		}
	}
	heard := make([]byte, 4)
	if _, err := program.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(first, heard); err != nil || string(heard) != "ping" {
		t.Fatalf("heard %q, %v", heard, err)
	}
}
