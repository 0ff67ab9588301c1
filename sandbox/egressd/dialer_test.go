package main

import (
	"errors"
	"testing"
)

func TestOnlyPublicAddressesAreDialled(t *testing.T) {
	d, err := newDialer("", "10.1.2.3/32,169.254.0.0/16,fd00::/8,100.64.0.0/10")
	if err != nil {
		t.Fatal(err)
	}
	for address, allowed := range map[string]bool{
		"93.184.215.14:443":           true,
		"[2606:2800:21f:cb07::1]:443": true,
		"10.1.2.3:443":                true, // allowed by the operator
		"[fd12::1]:443":               true, // and so is this
		"10.1.2.4:443":                false,
		"127.0.0.1:443":               false,
		"0.0.0.0:443":                 false,
		"172.16.0.1:443":              false,
		"192.168.1.1:443":             false,
		"192.0.2.1:443":               false,
		"224.0.0.1:443":               false,
		"255.255.255.255:443":         false,
		"169.254.169.254:80":          false, // whatever the operator says
		"100.100.100.200:80":          false,
		"[fd00:ec2::254]:80":          false,
		"[fe80::1]:80":                false,
		"[::1]:443":                   false,
		"[::ffff:127.0.0.1]:443":      false,
		"[::ffff:169.254.169.254]:80": false,
		"[::ffff:93.184.215.14]:443":  true,
		"[64:ff9b::7f00:1]:443":       false,
		"[2002:7f00:1::1]:443":        false,
		"[ff02::1]:443":               false,
		"not an address":              false,
	} {
		network := "tcp4"
		if address[0] == '[' {
			network = "tcp6"
		}
		err := d.control(network, address, nil)
		if (err == nil) != allowed || err != nil && !errors.Is(err, errAddress) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if err := d.control("udp4", "93.184.215.14:443", nil); !errors.Is(err, errAddress) {
		t.Errorf("UDP: %v", err)
	}
}

func TestARangeThatIsNoneStopsTheStart(t *testing.T) {
	for _, text := range []string{"10.0.0.1", "10.0.0.0/33", "everything"} {
		if _, err := newDialer("", text); err == nil {
			t.Errorf("%q is taken for a range", text)
		}
	}
}
