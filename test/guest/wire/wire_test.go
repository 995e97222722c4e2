package wire

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

func TestFramesSurviveRubbish(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("Brix Brig")
	c := NewConn(&b)
	long := bytes.Repeat([]byte("0123456789abcde"), 5000)
	if err := c.Write(Stdout, 7, long); err != nil {
		t.Fatal(err)
	}
	b.WriteString("Bri")
	if err := c.WriteJSON(Exit, 7, Status{Code: 3}); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for {
		f, err := c.Read()
		if err != nil {
			t.Fatal(err)
		}
		if f.Stream != 7 {
			t.Errorf("stream %d", f.Stream)
		}
		if f.Kind == Exit {
			if !strings.Contains(string(f.Body), `"Code":3`) {
				t.Errorf("body %s", f.Body)
			}
			break
		}
		if len(f.Body) > MaxBody {
			t.Errorf("body of %d bytes", len(f.Body))
		}
		got = append(got, f.Body...)
	}
	if !bytes.Equal(got, long) {
		t.Errorf("%d bytes of %d came through", len(got), len(long))
	}
	if _, err := c.Read(); err != io.EOF {
		t.Errorf("after the last frame: %v", err)
	}
}

func TestTooLongAMessage(t *testing.T) {
	if err := NewConn(&bytes.Buffer{}).WriteJSON(Run, 1, Command{Dir: strings.Repeat("x", MaxBody)}); err == nil {
		t.Error("no error")
	}
}

func TestClientLearnsOfTheEnd(t *testing.T) {
	r, w := io.Pipe()
	c := NewClient(struct {
		io.Reader
		io.Writer
	}{r, io.Discard})
	go w.Close()
	if _, err := c.Run(t.Context(), Command{Args: []string{"x"}}, IO{}); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("%v", err)
	}
	if err := c.Put(File{Path: "/x"}, strings.NewReader("x")); err == nil {
		t.Error("Put on a lost connection")
	}
}

func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	NewConn(&b).Write(Data, 1, []byte("body"))
	f.Add(b.Bytes(), []byte("rubbish"))
	f.Fuzz(func(t *testing.T, frame, before []byte) {
		c := NewConn(bytes.NewBuffer(append(before, frame...)))
		for n := 0; ; n++ {
			got, err := c.Read()
			if err != nil {
				break
			}
			if got.Kind == 0 || got.Kind >= last || len(got.Body) > MaxBody || n > len(frame)+len(before) {
				t.Fatalf("frame %d: kind %d, %d bytes", n, got.Kind, len(got.Body))
			}
		}
	})
}
