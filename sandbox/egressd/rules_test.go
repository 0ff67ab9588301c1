package main

import (
	"errors"
	"strings"
	"testing"
)

func TestOnlyNamesAreTargets(t *testing.T) {
	for text, want := range map[string]error{
		"example.org":                          nil,
		"Example.ORG:443":                      nil,
		"xn--bcher-kva.example":                nil,
		"localhost":                            nil,
		"":                                     errName,
		".":                                    errName,
		"example.org.":                         errName,
		"example..org":                         errName,
		"-a.org":                               errName,
		"a_b.org":                              errName,
		"exam\x00ple.org":                      errName,
		"allowed.org\x00.evil.org":             errName,
		"allowed.org%00.evil.org":              errName,
		"bücher.example":                       errName,
		"allowed.org@evil.org":                 errName,
		"allowed.org evil.org":                 errName,
		strings.Repeat("a", 64) + ".org":       errName,
		strings.Repeat("abcdefg.", 32) + "org": errName,
		"127.0.0.1":                            errNumeric,
		"127.1":                                errNumeric,
		"2130706433":                           errNumeric,
		"0x7f000001":                           errNumeric,
		"0x7f.0.0.0x1":                         errNumeric,
		"[::1]":                                errNumeric,
		"[::ffff:127.0.0.1]:443":               errNumeric,
		"example.org:0":                        errPort,
		"example.org:65536":                    errPort,
		"example.org:":                         errPort,
		"example.org:443:80":                   errPort,
		"example.org:+443":                     errPort,
		"example.org:http":                     errPort,
	} {
		if _, _, err := splitTarget(text, 443); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestARuleAllowsWhatItSays(t *testing.T) {
	rules, err := parseRules([]string{"one.org", "*.below.org", "git.org:22"})
	if err != nil {
		t.Fatal(err)
	}
	for _, each := range []struct {
		name        string
		port, usual int
		want        error
	}{
		{"one.org", 443, 443, nil},
		{"one.org", 80, 80, nil},
		{"one.org", 80, 443, errPort},
		{"one.org", 22, 443, errPort},
		{"a.one.org", 443, 443, errHost},
		{"xone.org", 443, 443, errHost},
		{"a.below.org", 443, 443, nil},
		{"a.b.below.org", 443, 443, nil},
		{"below.org", 443, 443, errHost},
		{"xbelow.org", 443, 443, errHost},
		{"git.org", 22, 443, nil},
		{"git.org", 443, 443, errPort},
		{"other.org", 443, 443, errHost},
	} {
		if err := check(rules, each.name, each.port, each.usual); !errors.Is(err, each.want) || (err == nil) != (each.want == nil) {
			t.Errorf("%v: %v", each, err)
		}
	}
}

func TestARuleThatIsNoneIsRefused(t *testing.T) {
	for _, text := range []string{"", "*", "*.", "a b", "10.0.0.1", "one.org:", "one.org:0", "one.org:99999", "ONE.org", "[::1]"} {
		if _, err := parseRules([]string{text}); err == nil {
			t.Errorf("%q is taken for a rule", text)
		}
	}
}

func FuzzTargets(f *testing.F) {
	for _, seed := range []string{"example.org:443", "127.0.0.1", "a\x00b", "[::1]:80", "0x7f.1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name, port, err := splitTarget(text, 443)
		if err == nil && (port < 1 || port > 65535 || !hostName.MatchString(name) || strings.ContainsAny(name, "\x00:/@ ")) {
			t.Errorf("%q became %q and %d", text, name, port)
		}
	})
}
