package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func listingOf(t testing.TB, place string) string {
	var out bytes.Buffer
	if err := listTree(place, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestATreeIsPutBackAsItWas(t *testing.T) {
	comeBack(t)
	inside, _ := places(t)
	for _, err := range []error{
		os.MkdirAll(filepath.Join(inside, "empty"), 0o755),
		os.MkdirAll(filepath.Join(inside, "closed", "inner"), 0o755),
		os.WriteFile(filepath.Join(inside, "closed", "file"), []byte("content"), 0o604),
		os.Symlink("no\nwhere", filepath.Join(inside, "li\xffnk")),
		os.Chmod(filepath.Join(inside, "closed"), 0o100),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(inside, "closed"), 0o755) })
	before := listingOf(t, inside)
	var content bytes.Buffer
	if err := sendFiles(inside, strings.NewReader("closed/file"), &content); err != nil {
		t.Fatal(err)
	}
	_, chunks, _ := bytes.Cut(content.Bytes(), []byte{0})
	for _, err := range []error{
		os.Chmod(filepath.Join(inside, "closed"), 0o755),
		os.RemoveAll(filepath.Join(inside, "closed")),
		os.RemoveAll(filepath.Join(inside, "empty")),
		os.WriteFile(filepath.Join(inside, "empty"), []byte("a file now"), 0o644),
		os.MkdirAll(filepath.Join(inside, "added", "deep"), 0o755),
		syscall.Mkfifo(filepath.Join(inside, "added", "pipe"), 0o644),
		os.Chmod(filepath.Join(inside, "added"), 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := putBack(inside, strings.NewReader(before+"\x00"+string(chunks))); err != nil {
		t.Fatal(err)
	}
	if after := listingOf(t, inside); after != before {
		t.Fatalf("%q is not %q", after, before)
	}
}

func TestADamagedListingChangesNothing(t *testing.T) {
	comeBack(t)
	const root = "d 755 0 0 - .\x00"
	for name, text := range map[string]string{
		"nothing at all":   "",
		"no root":          "\x00",
		"without its end":  root,
		"a file as root":   "f 644 0 0 - .\x00\x00",
		"two roots":        root + root + "\x00",
		"upwards":          root + "d 755 0 0 - ..\x00\x00",
		"up in the middle": root + "k 644 0 0 - a/../../b\x00\x00",
		"absolute":         root + "k 644 0 0 - /tmp/x\x00\x00",
		"an unknown kind":  root + "p 644 0 0 - pipe\x00\x00",
		"not a listing":    strings.Repeat("no listing", 100) + "\x00",
		"a link to no end": root + "l 777 0 0 - link\x00",
	} {
		inside, _ := places(t)
		kept := filepath.Join(inside, "kept")
		if err := firstOf(os.Mkdir(inside, 0o755), os.WriteFile(kept, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
		var rejected failure
		if err := putBack(inside, strings.NewReader(text)); !errors.As(err, &rejected) || rejected.How != howRejected {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(kept); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatVanishesWhileATreeIsReadIsLeftOut(t *testing.T) {
	comeBack(t)
	inside, _ := places(t)
	restless, still := filepath.Join(inside, "restless"), filepath.Join(inside, "still")
	if err := firstOf(os.MkdirAll(filepath.Join(still, "inner"), 0o755), os.Chmod(still, 0o500)); err != nil {
		t.Fatal(err)
	}
	over, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		for {
			select {
			case <-over:
				return
			default:
				_ = os.MkdirAll(filepath.Join(restless, "inner", "most"), 0o755)
				_ = os.RemoveAll(restless)
			}
		}
	}()
	defer func() { close(over); <-gone }()
	for i := 0; i < 2000; i++ {
		var archive, listing bytes.Buffer
		if err := firstOf(tarOut(inside, &archive), listTree(inside, &listing)); err != nil {
			t.Fatalf("at look %d: %v", i, err)
		}
		if !strings.Contains(archive.String(), "still/inner/") || !strings.Contains(listing.String(), " still/inner\x00") {
			t.Fatalf("at look %d, what stayed was left out: %q, %q", i, archive.String(), listing.String())
		}
	}
}

func TestPuttingBackFollowsNoLink(t *testing.T) {
	comeBack(t)
	inside, outside := places(t)
	if err := firstOf(
		os.Mkdir(inside, 0o755),
		os.WriteFile(filepath.Join(outside, "file"), []byte("outside"), 0o644),
		os.Symlink(outside, filepath.Join(inside, "folder")),
	); err != nil {
		t.Fatal(err)
	}
	listing := "d 755 0 0 - .\x00d 755 0 0 - folder\x00f 644 0 0 - folder/file\x00\x00"
	if err := putBack(inside, strings.NewReader(listing+"\x00\x00\x00\x03new\x00\x00\x00\x00")); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(filepath.Join(outside, "file")); string(text) != "outside" {
		t.Fatalf("it wrote %q outside", text)
	}
	if text, _ := os.ReadFile(filepath.Join(inside, "folder", "file")); string(text) != "new" {
		t.Fatalf("it wrote %q inside", text)
	}
}

func firstOf(all ...error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}
