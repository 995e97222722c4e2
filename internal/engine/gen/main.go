// Command gen writes the tables of doc/isolation.md anew, from what the engine refuses at each level and expects of it.
//
//	go run ./internal/engine/gen
package main

import (
	"log"
	"os"

	"brig/internal/engine"
)

const page = "doc/isolation.md"

func main() {
	text, err := os.ReadFile(page)
	if err != nil {
		log.Fatal(err)
	}
	written, err := engine.WithTables(string(text))
	if err != nil {
		log.Fatal(page, ": ", err)
	}
	if err := os.WriteFile(page, []byte(written), 0o644); err != nil {
		log.Fatal(err)
	}
}
