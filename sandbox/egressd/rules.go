package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

const (
	portHTTP  = 80
	portHTTPS = 443
	maxName   = 253
)

var (
	errName    = errors.New("not the name of a host")
	errNumeric = errors.New("an address, where only names are allowed")
	errHost    = errors.New("the host is not allowed")
	errPort    = errors.New("the port is not allowed")

	hostName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	numeric  = regexp.MustCompile(`^([0-9]+|0x[0-9a-f]*)$`)
)

// rule allows one name, or all names below one: "name", "*.name", either with ":port".
type rule struct {
	name  string
	below bool
	port  int // 0: what is usual for the way in which it is asked for
}

func parseRules(texts []string) ([]rule, error) {
	var rules []rule
	for _, text := range texts {
		host, port, hasPort := strings.Cut(text, ":")
		next := rule{name: strings.TrimPrefix(host, "*."), below: strings.HasPrefix(host, "*.")}
		if hasPort {
			number, err := strconv.ParseUint(port, 10, 16)
			if err != nil || number == 0 {
				return nil, fmt.Errorf("%q: not a port", text)
			}
			next.port = int(number)
		}
		if _, err := checkName(next.name); err != nil || next.name != strings.ToLower(next.name) {
			return nil, fmt.Errorf("%q: %w", text, errName)
		}
		rules = append(rules, next)
	}
	return rules, nil
}

// splitTarget reads "name:port" strictly: what is checked must be what is dialled, byte by byte.
func splitTarget(text string, usual int) (string, int, error) {
	if strings.HasPrefix(text, "[") {
		return "", 0, errNumeric
	}
	name, digits, hasPort := strings.Cut(text, ":")
	port := usual
	if hasPort {
		number, err := strconv.ParseUint(digits, 10, 16)
		if err != nil || number == 0 {
			return "", 0, errPort
		}
		port = int(number)
	}
	name, err := checkName(name)
	return name, port, err
}

func checkName(name string) (string, error) {
	name = strings.ToLower(name)
	last := name[strings.LastIndexByte(name, '.')+1:]
	switch {
	case numeric.MatchString(last): // also 127.1, 2130706433 and 0x7f.1
		return "", errNumeric
	case len(name) > maxName || !hostName.MatchString(name):
		return "", errName
	}
	return name, nil
}

// check says whether a host may be reached, where usual is the port that needs no mention.
func check(rules []rule, name string, port, usual int) error {
	err := errHost
	for _, each := range rules {
		if each.name != name && !(each.below && strings.HasSuffix(name, "."+each.name)) || each.below && each.name == name {
			continue
		}
		if each.port == port || each.port == 0 && port == usual {
			return nil
		}
		err = errPort
	}
	return err
}
