// Command words counts the words of its input.
package main

import (
	"bufio"
	"os"
	"sort"
	"strconv"
)

func main() {
	counts := map[string]int{}
	in := bufio.NewScanner(os.Stdin)
	in.Split(bufio.ScanWords)
	for in.Scan() {
		counts[in.Text()]++
	}
	var words []string
	for w := range counts {
		words = append(words, w)
	}
	sort.Strings(words)
	for _, w := range words {
		os.Stdout.WriteString(w + " " + strconv.Itoa(counts[w]) + "\n")
	}
}
