package main

import (
	"fmt"
	"testing"
)

func limits(resident, locks string) []byte {
	return []byte(fmt.Sprintf("Limit  Soft Limit  Hard Limit  Units\n"+
		"Max resident set          5                    %s                 bytes     \n"+
		"Max file locks            5                    %s                 locks     \n", resident, locks))
}

func TestAMarkCanBeReadAndNotForged(t *testing.T) {
	m := marks{resident: 1000, locks: 1000}
	for _, each := range []struct {
		resident, locks string
		mark            uint64
	}{
		{"993", "1007", 7},
		{"unlimited", "unlimited", unmarked},
		{"1500", "1007", unmarked}, // as after somebody lowered what was never marked
		{"990", "1007", forged},    // lowered, to seem a later command
		{"993", "1003", forged},    // lowered, to seem an earlier one
		{"0", "0", forged},
		{"990", "1003", forged},
	} {
		if got := m.read(limits(each.resident, each.locks)); got != each.mark {
			t.Errorf("%s, %s: %d instead of %d", each.resident, each.locks, got, each.mark)
		}
	}
	if got := m.read(nil); got != unmarked {
		t.Error("a process that is gone:", got)
	}
}
