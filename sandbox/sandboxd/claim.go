package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"sync"
	"time"
)

const keySize = 32

var (
	errDenied = errors.New("denied")
	errTaken  = errors.New("somebody else has taken the sandbox over")
)

// claim is whose sandbox this is, and until when. The first to come sets the key, for nothing untrusted runs before;
// everybody later proves to know it, and is proved to that we do, without it being said again.
type claim struct {
	mu      sync.Mutex
	boot    string
	key     []byte
	term    int64     // of who has it now
	end     time.Time // lease
	last    time.Time // lifetime
	refused int
	changed chan struct{}
}

func newClaim(unclaimed time.Duration) (*claim, error) {
	boot, err := randomHex(16)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &claim{boot: boot, end: now.Add(unclaimed), last: now.Add(unclaimed), changed: make(chan struct{}, 1)}, nil
}

// set takes the sandbox; it is refused to everybody but the first.
func (c *claim) set(keyText string, lease, lifetime time.Duration) error {
	key, err := hex.DecodeString(keyText)
	if err != nil || len(key) != keySize || lease <= 0 || lifetime <= 0 {
		return errBadFrame
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.key != nil {
		c.refused++
		return errDenied
	}
	c.key = key
	c.end, c.last = time.Now().Add(lease), time.Now().Add(lifetime)
	c.tell()
	return nil
}

func (c *claim) renew(lease time.Duration) error {
	if lease <= 0 {
		return errBadFrame
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end = time.Now().Add(lease)
	c.tell()
	return nil
}

// proof shows that its maker, in this role, knows the key.
func (c *claim) proof(role, theirs, ours string) string {
	mac := hmac.New(sha256.New, c.key)
	for _, part := range []string{role, c.boot, theirs, ours} {
		mac.Write([]byte(part))
		mac.Write([]byte{0})
	}
	return hex.EncodeToString(mac.Sum(nil))
}

// challenge answers an attach: a number of ours, and the proof that we are who was claimed.
func (c *claim) challenge(theirs string) (ours, proof string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.key == nil || len(theirs) < 2*keySize {
		c.refused++
		return "", "", errDenied
	}
	if ours, err = randomHex(keySize); err != nil {
		return "", "", err
	}
	return ours, c.proof("sandbox", theirs, ours), nil
}

// verify lets in who knows the key, unless somebody of a later term has come before.
func (c *claim) verify(theirs, ours, proof string, term int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ours == "" || !hmac.Equal([]byte(proof), []byte(c.proof("client", theirs, ours))) {
		c.refused++
		return errDenied
	}
	if term < c.term {
		return errTaken
	}
	c.term = term
	return nil
}

// isOver says whether somebody of a later term has come.
func (c *claim) isOver(term int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return term < c.term
}

// wait returns when the lease or the lifetime is over.
func (c *claim) wait() {
	for {
		left := c.left()
		if left <= 0 {
			return
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-c.changed:
		}
		timer.Stop()
	}
}

func (c *claim) left() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	lease, life := time.Until(c.end), time.Until(c.last)
	if life < lease {
		return life
	}
	return lease
}

func (c *claim) numRefused() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused
}

func (c *claim) tell() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func randomHex(size int) (string, error) {
	random := make([]byte, size)
	_, err := rand.Read(random)
	return hex.EncodeToString(random), err
}
