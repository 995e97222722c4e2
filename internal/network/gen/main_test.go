package main

import (
	"bytes"
	"os"
	"testing"
)

// TestGeneratedFileIsFresh: the file in the tree is what the types of the records give.
func TestGeneratedFileIsFresh(t *testing.T) {
	want, err := source()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../" + file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what its generator writes: run go generate in internal/network", file)
	}
}
