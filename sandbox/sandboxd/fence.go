package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"syscall"
)

// A fence closes a network namespace with nftables: what is left is loopback, and on one port the answers to whoever
// comes from outside. It is put up by a short first container with CAP_NET_ADMIN; what runs afterwards has no capability
// to take it down. Messages and expressions: linux/netfilter/nf_tables.h.

const (
	netlinkNetfilter = 12
	subsystem        = 10 << 8
	batchBegin       = 0x10
	batchEnd         = 0x11
	newTable         = subsystem | 0
	newChain         = subsystem | 3
	newRule          = subsystem | 6
	familyInet       = 1
	hookInput        = 1
	hookOutput       = 3
	policyDrop       = 0
	accept           = 1
	tableName        = "fence"

	metaInterface    = 4 // index of the one a packet came by
	metaOutInterface = 5
	metaProtocol     = 16
	loopback         = 1 // its index, in every namespace
	protocolTCP      = 6
	protocolICMPv6   = 58
	transportHeader  = 2
	tcpFlags         = 13 // offset in the header
	tcpAnswer        = 0x10
	nestedAttribute  = 0x8000
)

// neighbours are the kinds of ICMPv6 by which machines on one link find each other.
var neighbours = []byte{135, 136}

// fence closes the network, and becomes an ordinary user to do what else a first container does: a second one would cost
// every pod a second, for the cluster looks once a second whether the first has ended.
func fence(arguments []string) error {
	flags := flag.NewFlagSet("fence", flag.ExitOnError)
	port := flags.Uint("port", 0, "TCP port that is left open to others")
	user := flags.String("user", "", "uid:gid of who makes the folders; empty: the superuser")
	_ = flags.Parse(arguments) // ends the process by itself
	if *port == 0 || *port > 65535 {
		return fmt.Errorf("fence needs a --port between 1 and 65535")
	}
	err := applyFence(uint16(*port), true)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EOPNOTSUPP) {
		err = applyFence(uint16(*port), false) // this kernel cannot refuse politely: what is not allowed gets no answer
	}
	if err != nil {
		return fmt.Errorf("closing the network with nftables (needs CAP_NET_ADMIN): %w", err)
	}
	task, err := parseUser(*user)
	if err != nil {
		return err
	}
	if task != nil {
		if err := stepDown(task); err != nil {
			return fmt.Errorf("becoming user %s (needs CAP_SETUID and CAP_SETGID): %w", *user, err)
		}
	}
	return install(flags.Args())
}

func stepDown(task *taskUser) error {
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setgid(task.gid); err != nil {
		return err
	}
	return syscall.Setuid(task.uid)
}

func applyFence(port uint16, refuse bool) error {
	to, from := portOf(2, port), portOf(0, port)
	b := &batch{}
	b.add(newTable, text(1, tableName))
	b.chain("in", hookInput)
	b.rule("in", is(metaInterface, host32(loopback)), accepted())
	b.rule("in", is(metaProtocol, []byte{protocolTCP}), to, accepted())
	b.chain("out", hookOutput)
	b.rule("out", is(metaOutInterface, host32(loopback)), accepted())
	// Whoever begins a connection says so by a packet without this flag: from this port none begins.
	b.rule("out", is(metaProtocol, []byte{protocolTCP}), from, hasFlag(tcpAnswer), accepted())
	for _, kind := range neighbours {
		for _, chain := range []string{"in", "out"} {
			b.rule(chain, is(metaProtocol, []byte{protocolICMPv6}), transport(0, []byte{kind}), accepted())
		}
	}
	if refuse {
		b.rule("out", expression("reject", join(number(1, 2), attribute(2, []byte{0})))) // "no route", to be read at once
	}
	return b.send()
}

// batch is a list of changes that the kernel makes together or not at all.
type batch struct {
	messages [][]byte
}

func (b *batch) add(kind uint16, attributes []byte) {
	flags := uint16(syscall.NLM_F_REQUEST | syscall.NLM_F_ACK | syscall.NLM_F_CREATE | syscall.NLM_F_APPEND)
	b.put(kind, flags, familyInet, 0, attributes)
}

func (b *batch) put(kind, flags uint16, family byte, resource uint16, attributes []byte) {
	m := make([]byte, syscall.NLMSG_HDRLEN+4, syscall.NLMSG_HDRLEN+4+len(attributes))
	binary.LittleEndian.PutUint32(m, uint32(cap(m)))
	binary.LittleEndian.PutUint16(m[4:], kind)
	binary.LittleEndian.PutUint16(m[6:], flags)
	binary.LittleEndian.PutUint32(m[8:], uint32(len(b.messages)))
	m[16] = family
	binary.BigEndian.PutUint16(m[18:], resource)
	b.messages = append(b.messages, append(m, attributes...))
}

func (b *batch) chain(name string, hook uint32) {
	place := attribute(4|nestedAttribute, join(number(1, hook), number(2, 0)))
	b.add(newChain, join(text(1, tableName), text(3, name), place, number(5, policyDrop), text(7, "filter")))
}

func (b *batch) rule(chain string, parts ...[]byte) {
	b.add(newRule, join(text(1, tableName), text(2, chain), attribute(4|nestedAttribute, join(parts...))))
}

func (b *batch) send() error {
	socket, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, netlinkNetfilter)
	if err != nil {
		return err
	}
	defer syscall.Close(socket)
	wanted := len(b.messages)
	changes := b.messages
	whole := &batch{}
	whole.put(batchBegin, syscall.NLM_F_REQUEST, 0, subsystem>>8, nil)
	whole.messages = append(whole.messages, changes...)
	whole.put(batchEnd, syscall.NLM_F_REQUEST, 0, subsystem>>8, nil)
	kernel := &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}
	if err := syscall.Sendto(socket, join(whole.messages...), 0, kernel); err != nil {
		return err
	}
	return readAnswers(socket, wanted)
}

// readAnswers waits until each change is acknowledged.
func readAnswers(socket, wanted int) error {
	buffer := make([]byte, 1<<16)
	for wanted > 0 {
		n, _, err := syscall.Recvfrom(socket, buffer, 0)
		if err != nil {
			return err
		}
		answers, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return err
		}
		for _, answer := range answers {
			if answer.Header.Type != syscall.NLMSG_ERROR || len(answer.Data) < 4 {
				continue
			}
			if code := int32(binary.LittleEndian.Uint32(answer.Data)); code != 0 {
				return syscall.Errno(-code)
			}
			wanted--
		}
	}
	return nil
}

// The parts of a rule. Each loads something into register 1, or compares what is there, or decides.

func is(key uint32, value []byte) []byte {
	return join(expression("meta", join(number(1, 1), number(2, key))), compare(0, value))
}

func portOf(offset uint32, port uint16) []byte {
	return transport(offset, []byte{byte(port >> 8), byte(port)})
}

func transport(offset uint32, value []byte) []byte {
	return join(loadTransport(offset, uint32(len(value))), compare(0, value))
}

func hasFlag(flag byte) []byte {
	mask := join(number(1, 1), number(2, 1), number(3, 1), data(4, []byte{flag}), data(5, []byte{0}))
	return join(loadTransport(tcpFlags, 1), expression("bitwise", mask), compare(1, []byte{0}))
}

func loadTransport(offset, length uint32) []byte {
	return expression("payload", join(number(1, 1), number(2, transportHeader), number(3, offset), number(4, length)))
}

func compare(unequal uint32, value []byte) []byte {
	return expression("cmp", join(number(1, 1), number(2, unequal), data(3, value)))
}

func accepted() []byte {
	verdict := attribute(2|nestedAttribute, number(1, accept))
	return expression("immediate", join(number(1, 0), attribute(2|nestedAttribute, verdict)))
}

func expression(name string, content []byte) []byte {
	return attribute(1|nestedAttribute, join(text(1, name), attribute(2|nestedAttribute, content)))
}

func data(kind uint16, value []byte) []byte {
	return attribute(kind|nestedAttribute, attribute(1, value))
}

func text(kind uint16, value string) []byte { return attribute(kind, append([]byte(value), 0)) }

func number(kind uint16, value uint32) []byte {
	return attribute(kind, []byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)})
}

// host32 is a number as this machine writes it; amd64 and arm64 alike.
func host32(value uint32) []byte {
	out := make([]byte, 4)
	binary.LittleEndian.PutUint32(out, value)
	return out
}

// attribute is a netlink attribute: length, kind, value, padded to four bytes.
func attribute(kind uint16, value []byte) []byte {
	out := make([]byte, 4, 4+len(value)+3)
	binary.LittleEndian.PutUint16(out, uint16(4+len(value)))
	binary.LittleEndian.PutUint16(out[2:], kind)
	out = append(out, value...)
	for len(out)%4 != 0 {
		out = append(out, 0)
	}
	return out
}

func join(parts ...[]byte) []byte {
	var all []byte
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}
