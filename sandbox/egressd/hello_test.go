package main

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"testing"
)

// greet has a TLS client begin and reads what it says.
func greet(t *testing.T, config *tls.Config, name string) ([]byte, error) {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		_ = tls.Client(theirs, config).Handshake()
		theirs.Close()
	}()
	return readHello(ours, name)
}

func TestTLSForTheHostThatWasAskedForPasses(t *testing.T) {
	hello, err := greet(t, &tls.Config{ServerName: "one.org"}, "one.org")
	if err != nil || len(hello) < 100 || hello[0] != 22 {
		t.Fatalf("%v %x", err, hello)
	}
}

func TestTLSForAnotherHostDoesNotPass(t *testing.T) {
	for _, config := range []*tls.Config{{ServerName: "other.org"}, {InsecureSkipVerify: true}, {ServerName: "a.one.org"}} {
		if _, err := greet(t, config, "one.org"); !errors.Is(err, errHost) {
			t.Errorf("%q: %v", config.ServerName, err)
		}
	}
}

func TestAHiddenNameDoesNotPass(t *testing.T) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	config := []byte{1, 0, 0x20, 0, 32}
	config = append(config, key.PublicKey().Bytes()...)
	config = append(config, 0, 4, 0, 1, 0, 1, 32, 7)
	config = append(append(config, "one.org"...), 0, 0)
	config = append([]byte{0xfe, 0x0d, 0, byte(len(config))}, config...)
	list := append([]byte{0, byte(len(config))}, config...)
	hiding := &tls.Config{ServerName: "other.org", EncryptedClientHelloConfigList: list, MinVersion: tls.VersionTLS13}
	if _, err := greet(t, hiding, "one.org"); !errors.Is(err, errHidden) {
		t.Fatal(err)
	}
}

func TestWhatIsNotTLSDoesNotPass(t *testing.T) {
	for _, text := range []string{"GET / HTTP/1.1\r\nHost: one.org\r\n\r\n", "SSH-2.0-OpenSSH\r\n", "\x16\x03\x01\x00\x05hello", ""} {
		ours, theirs := net.Pipe()
		go func() {
			_, _ = theirs.Write([]byte(text))
			theirs.Close()
		}()
		if _, err := readHello(ours, "one.org"); !errors.Is(err, errHello) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
