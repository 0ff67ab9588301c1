package main

const (
	sysSeccomp     = 277
	sysMemfdCreate = 279
)

var machine = machines["arm64"]
