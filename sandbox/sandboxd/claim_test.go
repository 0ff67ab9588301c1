package main

import (
	"strings"
	"testing"
	"time"
)

func TestTheFirstToComeSetsTheKeyAndNobodyAfterwards(t *testing.T) {
	c, err := newClaim(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	key, other := strings.Repeat("ab", keySize), strings.Repeat("cd", keySize)
	if _, _, err := c.challenge(other); err == nil {
		t.Error("there is nothing to prove before there is a key")
	}
	for _, bad := range []string{"", "ab", strings.Repeat("zz", keySize)} {
		if c.set(bad, time.Minute, time.Minute) == nil {
			t.Error("taken as a key:", bad)
		}
	}
	if err := c.set(key, time.Minute, time.Minute); err != nil {
		t.Fatal(err)
	}
	if c.set(other, time.Minute, time.Minute) == nil || c.set(key, time.Minute, time.Minute) == nil {
		t.Error("claimed twice")
	}
	if c.numRefused() != 3 {
		t.Error("refusals are counted:", c.numRefused())
	}
}

func TestAProofIsOfOneQuestionAndOneRole(t *testing.T) {
	c, _ := newClaim(time.Minute)
	_ = c.set(strings.Repeat("ab", keySize), time.Minute, time.Minute)
	theirs := strings.Repeat("1", 2*keySize)
	ours, proof, err := c.challenge(theirs)
	if err != nil {
		t.Fatal(err)
	}
	if c.verify(theirs, ours, proof, 0) == nil {
		t.Error("our own proof came back as theirs")
	}
	right := c.proof("client", theirs, ours)
	if err := c.verify(theirs, ours, right, 0); err != nil {
		t.Error(err)
	}
	if again, _, _ := c.challenge(theirs); c.verify(theirs, again, right, 0) == nil {
		t.Error("an old proof was taken for a new question")
	}
}

func TestALeaseEndsAndALifetimeEndsFirst(t *testing.T) {
	c, _ := newClaim(time.Minute)
	_ = c.set(strings.Repeat("ab", keySize), time.Hour, time.Hour)
	if left := c.left(); left < 50*time.Minute {
		t.Error(left)
	}
	_ = c.renew(time.Millisecond)
	c.wait() // returns
	_ = c.renew(2 * time.Hour)
	if left := c.left(); left > time.Hour {
		t.Error("a renewal outlived the lifetime:", left)
	}
}

func TestWhoComesInALaterTermShutsOutThoseOfEarlierOnes(t *testing.T) {
	c, _ := newClaim(time.Minute)
	_ = c.set(strings.Repeat("ab", keySize), time.Minute, time.Minute)
	come := func(term int64) error {
		theirs := strings.Repeat("1", 2*keySize)
		ours, _, _ := c.challenge(theirs)
		return c.verify(theirs, ours, c.proof("client", theirs, ours), term)
	}
	if come(0) != nil || come(2) != nil || come(2) != nil {
		t.Error("who comes in the same term or a later one is let in")
	}
	if !c.isOver(0) || c.isOver(2) {
		t.Error("an earlier term is over, and the present one is not")
	}
	if err := come(1); err != errTaken || c.numRefused() != 0 {
		t.Error("who knows the key and is late is refused, and no intruder:", err, c.numRefused())
	}
}
