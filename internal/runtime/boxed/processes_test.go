package boxed

import (
	"strings"
	"testing"
)

// TestReadProcesses: what a monitor tells may be made up by who is inside.
func TestReadProcesses(t *testing.T) {
	if list, err := readProcesses([]byte(`[{"PID":1,"Comm":"sh"},{"PID":7}]`)); err != nil || len(list) != 2 || list[1].PID != 7 {
		t.Errorf("%+v, %v", list, err)
	}
	for name, text := range map[string]string{
		"too many": "[" + strings.Repeat("{},", mostProcesses) + "{}]", "cut off": `[{"PID":1},`, "no list": `{"PID":1}`, "nothing": "", "of numbers": "[1,2]",
	} {
		if list, err := readProcesses([]byte(text)); err == nil {
			t.Errorf("%s: %d processes", name, len(list))
		}
	}
	w := bounded{most: 8}
	if _, err := w.Write([]byte("\x1b[2Ja\nb and more")); err != nil || w.words() != "[2Ja b" {
		t.Errorf("%q, %v", w.words(), err)
	}
}
