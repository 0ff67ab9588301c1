package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func archiveOf(t testing.TB, headers ...tar.Header) []byte {
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	for i := range headers {
		header := headers[i]
		header.Size = 0
		if header.Typeflag == tar.TypeReg {
			header.Size = 4
		}
		if err := archive.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if header.Size > 0 {
			_, _ = archive.Write([]byte("data"))
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// places makes a folder to unpack into, beside one that must not change.
func places(t testing.TB) (inside, outside string) {
	parent, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	inside, outside = filepath.Join(parent, "inside"), filepath.Join(parent, "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	return inside, outside
}

// comeBack undoes the walking of file calls, which are at home in a process of their own.
func comeBack(t testing.TB) {
	back, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chdir(back) })
}

func TestHostileArchivesStayInside(t *testing.T) {
	comeBack(t)
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644} }
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	sparse := archiveOf(t, tar.Header{
		Name: "a", Typeflag: tar.TypeReg, Format: tar.FormatPAX,
		PAXRecords: map[string]string{"VENDOR.sparse.major": "0", "VENDOR.sparse.size": "99999999999"},
	})
	// The writer refuses to write what the reader must refuse to read.
	sparse = bytes.ReplaceAll(sparse, []byte("VENDOR.sparse"), []byte("GNU.sparse"))
	for name, data := range map[string][]byte{
		"upwards":           archiveOf(t, file("../outside/new")),
		"absolute":          archiveOf(t, file("/tmp/sandboxd-escaped")),
		"up in the middle":  archiveOf(t, file("a/../../outside/new")),
		"through a link":    archiveOf(t, link("a", "../outside"), file("a/new")),
		"a hard link":       archiveOf(t, tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "../outside"}),
		"a device":          archiveOf(t, tar.Header{Name: "a", Typeflag: tar.TypeChar}),
		"not an archive":    []byte(strings.Repeat("no archive", 200)),
		"cut off":           archiveOf(t, file("a"), file("b"))[:1100],
		"without its end":   archiveOf(t, file("a"))[:1024],
		"holes":             sparse,
		"a file's own root": archiveOf(t, file(".")),
		"too deep":          archiveOf(t, file(strings.Repeat("d/", maxDepth+2)+"f")),
	} {
		inside, outside := places(t)
		var rejected failure
		if err := tarIn(inside, bytes.NewReader(data)); !errors.As(err, &rejected) || rejected.How != howRejected {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadDir(outside); len(left) != 0 {
			t.Errorf("%s: it got out: %v", name, left)
		}
	}
}

func TestATreeComesOutAsItWentIn(t *testing.T) {
	comeBack(t)
	inside, _ := places(t)
	long := strings.Repeat("long name ", 12) + "caf\xe9"
	data := archiveOf(t,
		tar.Header{Name: "folder/", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "folder/" + long, Typeflag: tar.TypeReg, Mode: 0o755, Format: tar.FormatGNU},
		tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "nowhere"})
	if err := tarIn(inside, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	if err := tarOut(inside, &again); err != nil {
		t.Fatal(err)
	}
	var names []string
	archive := tar.NewReader(&again)
	for {
		header, err := archive.Next()
		if err != nil {
			break
		}
		names = append(names, header.Name)
	}
	if got := strings.Join(names, "|"); got != "folder/|folder/"+long+"|link" {
		t.Fatalf("%q", got)
	}
}

func TestNoCallFollowsALink(t *testing.T) {
	comeBack(t)
	inside, outside := places(t)
	for _, err := range []error{
		os.Mkdir(inside, 0o755),
		os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o644),
		os.Symlink(outside, filepath.Join(inside, "folder")),
		os.Symlink(filepath.Join(outside, "secret"), filepath.Join(inside, "file")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{inside + "/file", inside + "/folder/secret"} {
		if err := readFile(path, new(bytes.Buffer)); err != syscall.ELOOP {
			t.Errorf("read %s: %v", path, err)
		}
		if err := writeFile(path, strings.NewReader("new")); err != syscall.ELOOP {
			t.Errorf("write %s: %v", path, err)
		}
	}
	if err := tarOut(inside+"/folder", new(bytes.Buffer)); err != syscall.ELOOP {
		t.Error(err)
	}
	if text, _ := os.ReadFile(filepath.Join(outside, "secret")); string(text) != "secret" {
		t.Error("overwritten")
	}
}

// Whatever an archive says, nothing appears outside the folder it is unpacked into.
// With -fuzzminimizetime 1x: what it finds says nothing more when it is short, and shortening takes all the time.
func FuzzArchives(f *testing.F) {
	f.Add(archiveOf(f, tar.Header{Name: "a", Typeflag: tar.TypeReg}))
	f.Add(archiveOf(f, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, tar.Header{Name: "l/x", Typeflag: tar.TypeReg}))
	f.Add([]byte("no archive"))
	f.Fuzz(func(t *testing.T, data []byte) {
		comeBack(t)
		inside, outside := places(t)
		_ = tarIn(inside, bytes.NewReader(data))
		if left, _ := os.ReadDir(outside); len(left) != 0 {
			t.Fatal("it got out:", left)
		}
		if beside, _ := os.ReadDir(filepath.Dir(inside)); len(beside) > 2 {
			t.Fatal("it got beside:", beside)
		}
	})
}
