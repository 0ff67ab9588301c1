module egressd

go 1.24

require code.dny.dev/ssrf v0.3.0
