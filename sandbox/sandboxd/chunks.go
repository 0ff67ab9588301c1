package main

import (
	"bufio"
	"encoding/binary"
	"io"
)

// Content in parts, the length of each in four bytes before it, and the last of length 0: so its end is known, though
// its length was not when it began.

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
