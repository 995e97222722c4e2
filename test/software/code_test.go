package software

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	codePages = 16  // of each program
	programs  = 300 // more than stay in 160 MiB beside a file of 200
)

// codes runs programs that are alike but for what they compute, again and again, while their memory is taken for others: none executes another's code. An emulator that was not told of what
// has come into a page goes on with the code that it had translated of what was there before.
func codes(p *place) {
	dir := p.TempDir()
	var want strings.Builder
	for n := range uint32(programs) {
		code, says := codeOf(n + 1)
		want.WriteString(says + "\n")
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("p", n)), code, 0o755); err != nil {
			p.Fatal(err)
		}
	}
	filler := make([]byte, 200<<20)
	rand.Read(filler) //nolint:errcheck // it never fails
	if err := os.WriteFile(filepath.Join(dir, "filler"), filler, 0o644); err != nil {
		p.Fatal(err)
	}
	script := fmt.Sprintf("cd /codes; for r in 1 2 3; do n=0; while [ $n -lt %d ]; do ./p$n; n=$((n + 1)); done; cat filler >/dev/null; done", programs)
	got := p.run("--rm", "--memory", "160m", "-v", dir+":/codes:ro", image, "sh", "-c", script)
	all := strings.Split(strings.TrimSpace(strings.Repeat(want.String(), 3)), "\n")
	wrong := 0
	lines := strings.Split(got, "\n")
	for i, line := range lines {
		if i < len(all) && line != all[i] {
			wrong++
		}
	}
	if wrong > 0 || len(lines) != len(all) {
		p.Errorf("%d of %d results are wrong, of %d", wrong, len(lines), len(all))
	}
}

// codeOf is a program that goes through its pages, adds a number in each, and says the sum, and what it says.
func codeOf(n uint32) (file []byte, says string) {
	const base, at = 0x400000, 0x200 // where code is in each page
	file = make([]byte, codePages<<12)
	le := binary.LittleEndian
	sum := uint32(0)
	for page := range uint32(codePages) {
		add := n*2654435761>>8 + page*n
		sum += add
		code := []byte{0x05} // add eax, number: eax is zero at first
		code = le.AppendUint32(code, add)
		if page < codePages-1 {
			code = le.AppendUint32(append(code, 0xe9), 4096-uint32(len(code))-5) // jmp to the next
		} else {
			code = append(code, 0x89, 0xc3, 0x48, 0x83, 0xec, 0x10, 0xb9, 8, 0, 0, 0, 0x48, 0x89, 0xe7) // mov ebx, eax; sub rsp, 16; mov ecx, 8; mov rdi, rsp
			// again: rol ebx, 4; mov eax, ebx; and eax, 15; add al, 'a'; mov [rdi], al; inc rdi; dec ecx; jnz again
			code = append(code, 0xc1, 0xc3, 4, 0x89, 0xd8, 0x83, 0xe0, 15, 4, 'a', 0x88, 7, 0x48, 0xff, 0xc7, 0xff, 0xc9, 0x75, 0xed)
			code = append(code, 0xc6, 7, '\n', 0xbf, 1, 0, 0, 0, 0x48, 0x89, 0xe6, 0xba, 9, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0x0f, 5) // mov byte [rdi], '\n'; write(1, rsp, 9)
			code = append(code, 0x31, 0xff, 0xb8, 231, 0, 0, 0, 0x0f, 5)                                                        // exit_group(0)
		}
		copy(file[page<<12|at:], code)
	}
	head := bytes.NewBuffer(nil)
	head.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 15: 0})
	size := uint64(len(file))
	for _, v := range []any{
		uint16(2), uint16(62), uint32(1), uint64(base + at), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0), // Elf64_Ehdr
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000), // Elf64_Phdr
	} {
		_ = binary.Write(head, le, v)
	}
	copy(file, head.Bytes())
	for shift := 28; shift >= 0; shift -= 4 {
		says += string(rune('a' + sum>>shift&15))
	}
	return file, says
}
