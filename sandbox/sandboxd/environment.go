package main

import (
	"os"
	"strings"
)

// imageVariables are those of the image, which the container's engine gave this process. What a cluster adds of its
// own, no command needs to know.
func imageVariables() []string {
	var kept []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if name != "HOSTNAME" && !strings.HasPrefix(name, "KUBERNETES_") {
			kept = append(kept, variable)
		}
	}
	return kept
}

// withDefaults puts those variables behind a command's own that are not among them. Its first two texts are its line
// and its folder.
func withDefaults(texts, defaults []string) []string {
	if len(texts) < 2 {
		return texts
	}
	known := map[string]bool{}
	for _, variable := range texts[2:] {
		name, _, _ := strings.Cut(variable, "=")
		known[name] = true
	}
	all := texts
	for _, variable := range defaults {
		if name, _, _ := strings.Cut(variable, "="); !known[name] {
			all = append(all, variable)
		}
	}
	return all
}
