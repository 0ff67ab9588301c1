package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
)

const (
	maxHead = 64 << 10
	maxBody = 4 << 20
	// What may be said before the key is known.
	maxGreeting = 4 << 10
)

var errBadFrame = errors.New("not a frame")

// readFrame reads one frame: two lengths of four bytes, a JSON object, a run of bytes.
// It takes no more memory than the lengths allow, and returns io.EOF only between frames.
func readFrame(r io.Reader, maxHead, maxBody uint32) (head, body []byte, err error) {
	var lengths [8]byte
	if _, err := io.ReadFull(r, lengths[:]); err != nil {
		return nil, nil, err
	}
	numHead, numBody := binary.BigEndian.Uint32(lengths[:4]), binary.BigEndian.Uint32(lengths[4:])
	if numHead > maxHead || numBody > maxBody {
		return nil, nil, fmt.Errorf("%w: %d + %d bytes", errBadFrame, numHead, numBody)
	}
	both := make([]byte, numHead+numBody)
	if _, err := io.ReadFull(r, both); err != nil {
		return nil, nil, io.ErrUnexpectedEOF
	}
	return both[:numHead], both[numHead:], nil
}

// writeFrame writes one frame in one go.
func writeFrame(w io.Writer, head any, body []byte) error {
	text, err := json.Marshal(head)
	if err != nil {
		return err
	}
	start := make([]byte, 8, 8+len(text))
	binary.BigEndian.PutUint32(start[:4], uint32(len(text)))
	binary.BigEndian.PutUint32(start[4:], uint32(len(body)))
	buffers := net.Buffers{append(start, text...), body}
	_, err = buffers.WriteTo(w)
	return err
}

// parseHead is strict: a field nobody knows is a mistake of the other side.
func parseHead(head []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(head))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("%w: %v", errBadFrame, err)
	}
	if decoder.More() {
		return fmt.Errorf("%w: more than one object", errBadFrame)
	}
	return nil
}

// splitTexts takes count texts, each ended by a NUL byte, off the front of a body. They may be any bytes, which JSON
// could not carry.
func splitTexts(body []byte, count int) (texts []string, rest []byte, err error) {
	for ; count > 0; count-- {
		end := bytes.IndexByte(body, 0)
		if end < 0 {
			return nil, nil, fmt.Errorf("%w: a text has no end", errBadFrame)
		}
		texts = append(texts, string(body[:end]))
		body = body[end+1:]
	}
	return texts, body, nil
}
