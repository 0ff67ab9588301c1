package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

const dialWait = 15 * time.Second

var errAddress = errors.New("the address is not allowed")

// metadata is where clouds tell a machine its secrets: never reachable, whatever an operator allows.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fd00:ec2::254/128"),
	netip.MustParsePrefix("100.100.100.200/32"),
}

// dialer connects to public addresses, and to those that were allowed beside them. It looks at the very address that is
// dialled, so it does not matter what a name was when somebody looked before.
type dialer struct {
	allowed []netip.Prefix
	guard   *ssrf.Guardian
	net     net.Dialer
}

func newDialer(resolver, allow string) (*dialer, error) {
	d := &dialer{}
	var four, six []netip.Prefix
	for _, text := range strings.FieldsFunc(allow, func(r rune) bool { return r == ',' }) {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		if prefix.Addr().Is4() {
			four = append(four, prefix)
		} else {
			six = append(six, prefix)
		}
	}
	d.allowed = append(four, six...)
	d.guard = ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(four...), ssrf.WithAllowedV6Prefixes(six...))
	d.net = net.Dialer{Timeout: dialWait, Control: d.control}
	if resolver != "" {
		d.net.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, resolver)
		}}
	}
	return d, nil
}

func (d *dialer) dial(ctx context.Context, name string, port int) (net.Conn, error) {
	// The final dot keeps the resolver from trying the name below this machine's own domains.
	return d.net.DialContext(ctx, "tcp", fmt.Sprintf("%s.:%d", name, port))
}

// control sees each address just before it is connected to.
func (d *dialer) control(network, address string, raw syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %s", errAddress, address)
	}
	place := target.Addr().Unmap()
	within := func(prefix netip.Prefix) bool { return prefix.Contains(place) }
	if slices.ContainsFunc(metadata, within) {
		return fmt.Errorf("%w: %s is link-local, or a cloud's metadata", errAddress, place)
	}
	if slices.ContainsFunc(d.allowed, within) {
		return nil
	}
	if err := d.guard.Safe(network, netip.AddrPortFrom(place, target.Port()).String(), raw); err != nil {
		return fmt.Errorf("%w: %w", errAddress, err)
	}
	if isOurs(place) {
		return fmt.Errorf("%w: %s is this machine", errAddress, place)
	}
	return nil
}

// isOurs: what listens on this machine expects no sandbox to come, even where the address is public.
func isOurs(place netip.Addr) bool {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	return slices.ContainsFunc(own, func(each net.Addr) bool {
		prefix, err := netip.ParsePrefix(each.String())
		return err == nil && prefix.Addr().Unmap() == place
	})
}
