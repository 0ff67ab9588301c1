package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The folders a pod's commands may write, all on one disk, and their modes.
var diskFolders = map[string]os.FileMode{
	"workspace": 0o755, "home": 0o755, "tmp": os.ModeSticky | 0o777, "var-tmp": os.ModeSticky | 0o777,
	"shm": os.ModeSticky | 0o777,
}

// install prepares the empty volumes of a pod, as the user its commands will be: this program goes where the task's
// container will see it, and the folders that commands may write come to be on the disk.
func install(arguments []string) error {
	flags := flag.NewFlagSet("install", flag.ExitOnError)
	program := flags.String("program", "", "empty folder for this program")
	disk := flags.String("disk", "", "empty folder for what commands write")
	_ = flags.Parse(arguments) // ends the process by itself
	if err := copyProgram(filepath.Join(*program, "sandboxd")); err != nil {
		return err
	}
	if err := makeClosedFile(filepath.Join(*program, "closed")); err != nil {
		return err
	}
	for name, mode := range diskFolders {
		path := filepath.Join(*disk, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask is
			return err
		}
	}
	return nil
}

func copyProgram(target string) error {
	source, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer source.Close()
	copied, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o555)
	if err != nil {
		return err
	}
	if _, err := io.Copy(copied, source); err != nil {
		return fmt.Errorf("copying this program: %w", err)
	}
	return copied.Close()
}

// makeClosedFile makes the place of a file that a cluster insists on: it lies on the node's own disk, with no bound, and
// everybody may write it. So its place is in a folder that nobody may enter, on a volume that commands see read-only.
func makeClosedFile(folder string) error {
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "log"), nil, 0o600); err != nil {
		return err
	}
	return os.Chmod(folder, 0)
}
