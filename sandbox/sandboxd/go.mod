module sandboxd

go 1.19
