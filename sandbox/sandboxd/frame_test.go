package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestAFrameComesOutAsItWentIn(t *testing.T) {
	var wire bytes.Buffer
	sent := request{ID: 7, Op: "start", Texts: 3, Sealed: true}
	if err := writeFrame(&wire, sent, []byte("body\x00")); err != nil {
		t.Fatal(err)
	}
	head, body, err := readFrame(&wire, maxHead, maxBody)
	if err != nil || string(body) != "body\x00" {
		t.Fatal(body, err)
	}
	var got request
	if err := parseHead(head, &got); err != nil || got != sent {
		t.Fatal(got, err)
	}
	if _, _, err := readFrame(&wire, maxHead, maxBody); err != io.EOF {
		t.Fatal("the end between frames is an end:", err)
	}
}

func TestLengthsAreCheckedBeforeMemoryIsTaken(t *testing.T) {
	lengths := "\xff\xff\xff\xff\xff\xff\xff\xff"
	if _, _, err := readFrame(strings.NewReader(lengths), maxHead, maxBody); !errors.Is(err, errBadFrame) {
		t.Fatal(err)
	}
}

func TestAFieldThatNobodyKnowsIsRefused(t *testing.T) {
	for _, head := range []string{`{"op":"poll","colour":"red"}`, `{} {}`, `[]`, `null x`, ``} {
		if err := parseHead([]byte(head), new(request)); err == nil {
			t.Error("taken:", head)
		}
	}
}

// Whatever comes over the wire, it is a frame or an error: no panic, and no more bytes than were promised.
func FuzzFrames(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("\x00\x00\x00\x02\x00\x00\x00\x00{}"))
	f.Add([]byte("\x00\x00\x00\x10\x00\x00\x00\x03{\"id\":1,\"op\":\"\"}a\x00b"))
	f.Add([]byte("\x00\x00\x00\x1e\x00\x00\x00\x05{\"op\":\"start\",\"texts\":2,\"x\":1}a\x00b\x00c"))
	f.Add([]byte("\xff\xff\xff\xff\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x0c\x00\x00\x00\x00{\"texts\":-1}"))
	f.Add([]byte("\x00\x00\x00\x0d\x00\x00\x00\x00{\"id\":1e99999"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		source := bytes.NewReader(wire)
		for {
			head, body, err := readFrame(source, maxHead, maxBody)
			if err != nil {
				return
			}
			var r request
			if parseHead(head, &r) != nil {
				continue
			}
			texts, rest, err := splitTexts(body, r.Texts)
			if err == nil && !bytes.Equal(append(joinTexts(texts), rest...), body) {
				t.Fatalf("%q is not %q and %q", body, texts, rest)
			}
		}
	})
}

func joinTexts(texts []string) []byte {
	var out bytes.Buffer
	for _, text := range texts {
		out.WriteString(text)
		out.WriteByte(0)
	}
	return out.Bytes()
}
