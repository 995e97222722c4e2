package registry

import (
	"io"
	"net/http"
	"time"
)

// patient gives a connection the time idle for each piece that goes in or out, however long the whole may take.
func patient(w http.ResponseWriter, req *http.Request) (http.ResponseWriter, *http.Request) {
	rc := http.NewResponseController(w)
	out := &patientWriter{w, rc}
	if req.Body != nil && req.Body != http.NoBody {
		_ = rc.SetReadDeadline(time.Now().Add(idle)) // also for what no handler reads
		req = req.WithContext(req.Context())
		req.Body = &patientBody{req.Body, rc}
	}
	return out, req
}

type patientWriter struct {
	http.ResponseWriter
	rc *http.ResponseController
}

// Unwrap is asked for by http.ResponseController.
func (w *patientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// A connection that has no deadlines, as in tests, is none the worse for it: errors mean just that.

func (w *patientWriter) WriteHeader(status int) {
	_ = w.rc.SetWriteDeadline(time.Now().Add(idle))
	w.ResponseWriter.WriteHeader(status)
}

func (w *patientWriter) Write(p []byte) (int, error) {
	_ = w.rc.SetWriteDeadline(time.Now().Add(idle))
	return w.ResponseWriter.Write(p)
}

type patientBody struct {
	io.ReadCloser
	rc *http.ResponseController
}

func (b *patientBody) Read(p []byte) (int, error) {
	now := time.Now()
	_ = b.rc.SetReadDeadline(now.Add(idle))
	_ = b.rc.SetWriteDeadline(now.Add(idle)) // the first Read may write "100 Continue"
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = brokenError{err}
	}
	return n, err
}

// brokenError is a request that broke off: nothing that the registry's log should tell of.
type brokenError struct{ error }

func (e brokenError) Unwrap() error { return e.error }
