package main

const (
	sysSeccomp     = 317
	sysMemfdCreate = 319
)

var machine = machines["amd64"]
