package paywall

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// recorder is the http.ResponseWriter of a paid handler. It holds an answer back until the handler is done, so that the
// purchase is written down before the buyer has a byte of it, and the receipt says what was charged. An answer that is
// flushed, or larger than what is kept, leaves at once; its receipt follows as a trailer. It is for one goroutine, as
// every ResponseWriter.
type recorder struct {
	w    http.ResponseWriter
	kept int // bytes of the answer to keep
	// leaving is called once, when headers leave before the handler is done. It may change them.
	leaving func(h http.Header)

	header http.Header // the handler's
	status int         // 0: not decided yet
	body   []byte      // the first kept bytes
	size   uint64      // all bytes
	left   bool        // headers are on their way

	// A held answer never leaves before finish: what passes kept waits in spill, up to heldMax bytes.
	held     bool
	heldMax  int64
	spill    *os.File
	tooLarge bool     // it passed heldMax, and is not whole any more
	parked   *os.File // what was in body, before what is in spill; see park

	bare bool // this answer has no body: 204, 304, or to a HEAD
}

func newRecorder(w http.ResponseWriter, r *http.Request, kept int) *recorder {
	return &recorder{w: w, kept: kept, header: make(http.Header), bare: r.Method == http.MethodHead}
}

// hold keeps the answer back until finish, whatever the handler does: its payment moves only after the work. Of an answer of
// more than max bytes nothing leaves at all.
func (r *recorder) hold(max int64) { r.held, r.heldMax = true, max }

// release lets go of what is on disk.
func (r *recorder) release() {
	for _, f := range []**os.File{&r.parked, &r.spill} {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
}

// spillOver writes to a file that has no name any more, so that a crash leaves nothing behind.
func spillOver(to **os.File, b []byte) error {
	if *to == nil {
		f, err := os.CreateTemp("", "farthing-answer-")
		if err != nil {
			return err
		}
		*to = f
		if err := os.Remove(f.Name()); err != nil {
			return err
		}
	}
	_, err := (*to).Write(b)
	return err
}

// parkMin is how long an answer has to be for its waiting on disk to be worth a file.
const parkMin = 16 << 10

// park moves a held answer out of memory, where a thousand others may wait for a slow chain as well. The handler must be
// done, and answer be asked before. What cannot be moved stays.
func (r *recorder) park() {
	if !r.held || r.left || len(r.body) < parkMin {
		return
	}
	if err := spillOver(&r.parked, r.body); err != nil {
		if r.parked != nil {
			r.parked.Close()
			r.parked = nil
		}
		return
	}
	r.body = nil
}

// Header implements http.ResponseWriter.
func (r *recorder) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter. Early hints and other 1xx answers pass at once.
func (r *recorder) WriteHeader(status int) {
	if r.status != 0 {
		return
	}
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		h := r.w.Header()
		before := h.Clone()
		copyHeader(h, withoutTrailers(r.header))
		r.w.WriteHeader(status)
		clear(h)
		copyHeader(h, before)
		return
	}
	r.status = status
	r.bare = r.bare || status == http.StatusNoContent || status == http.StatusNotModified
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	if r.bare {
		if r.left {
			return r.w.Write(b) // net/http knows what to say about it
		}
		return len(b), nil
	}
	if r.held {
		return r.writeHeld(b)
	}
	if !r.left && len(r.body)+len(b) > r.kept {
		if err := r.leave(); err != nil {
			return 0, err
		}
	}
	n := len(b)
	if r.left {
		var err error
		if n, err = r.w.Write(b); err != nil {
			r.size += uint64(n)
			return n, err
		}
	}
	if room := r.kept - len(r.body); room > 0 {
		r.body = append(r.body, b[:min(room, n)]...)
	}
	r.size += uint64(n)
	return n, nil
}

// errTooLarge ends a handler that writes more than can be held back.
var errTooLarge = errors.New("paywall: the answer is larger than what is held back until its payment has moved")

func (r *recorder) writeHeld(b []byte) (int, error) {
	if r.tooLarge || r.size+uint64(len(b)) > uint64(r.heldMax) {
		r.tooLarge = true
		return 0, errTooLarge
	}
	if room := r.kept - len(r.body); r.spill == nil && len(b) <= room {
		r.body = append(r.body, b...)
	} else {
		r.body = append(r.body, b[:min(max(room, 0), len(b))]...)
		if err := spillOver(&r.spill, b[min(max(room, 0), len(b)):]); err != nil {
			return 0, err
		}
	}
	r.size += uint64(len(b))
	return len(b), nil
}

// whole reports whether all of the answer is in body.
func (r *recorder) whole() bool { return r.size == uint64(len(r.body)) }

// Flush implements http.Flusher.
func (r *recorder) Flush() { _ = r.FlushError() }

// FlushError is what http.ResponseController calls.
func (r *recorder) FlushError() error {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	if r.held {
		return nil // it leaves when it is paid
	}
	if err := r.leave(); err != nil {
		return err
	}
	return http.NewResponseController(r.w).Flush()
}

// Unwrap lets http.ResponseController reach deadlines and full duplex.
func (r *recorder) Unwrap() http.ResponseWriter { return r.w }

// errHijack: a connection that left would take the open purchase with it, and nobody could say what it came to.
var errHijack = errors.New("paywall: a paid connection cannot be hijacked")

// Hijack is refused; it is here so that http.ResponseController does not look for it further down.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, fmt.Errorf("%w: %w", errHijack, http.ErrNotSupported)
}

// leave sends headers and what was held back.
func (r *recorder) leave() error {
	if r.left {
		return nil
	}
	r.left = true
	h := r.w.Header()
	copyHeader(h, withoutTrailers(r.header))
	if r.leaving != nil {
		r.leaving(h)
	}
	r.w.WriteHeader(r.status)
	if len(r.body) > 0 {
		if _, err := r.w.Write(r.body); err != nil {
			return err
		}
	}
	for _, f := range []*os.File{r.parked, r.spill} {
		if f == nil {
			continue
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.Copy(r.w, f); err != nil {
			return err
		}
	}
	return nil
}

// finish ends the answer after the handler: what was held back leaves with the extra headers, or, if headers have left
// already, extra follows as trailers where they were announced.
func (r *recorder) finish(extra http.Header) error {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	if !r.left {
		r.leaving = func(h http.Header) { copyHeader(h, extra) }
		if err := r.leave(); err != nil {
			return err
		}
	}
	copyHeader(r.w.Header(), trailersOf(r.header))
	copyHeader(r.w.Header(), extra)
	return nil
}

// answer returns what is stored for whoever asks again.
func (r *recorder) answer() *purchase.Answer {
	h := withoutTrailers(r.header)
	delete(h, "Trailer")
	a := &purchase.Answer{Status: r.status, Header: h, Body: r.body, Whole: r.whole()}
	if a.Status == 0 {
		a.Status = http.StatusOK
	}
	if !a.Whole {
		a.Body = nil
	}
	return a
}

// drop forgets an answer that has not left.
func (r *recorder) drop() {
	r.header, r.status, r.body, r.size, r.tooLarge = make(http.Header), 0, nil, 0, false
	r.release()
}

func isTrailer(h http.Header, name string) bool {
	if strings.HasPrefix(name, http.TrailerPrefix) {
		return true
	}
	for _, line := range h["Trailer"] {
		for _, announced := range strings.Split(line, ",") {
			if http.CanonicalHeaderKey(strings.TrimSpace(announced)) == name {
				return true
			}
		}
	}
	return false
}

// withoutTrailers returns the headers that leave before the body. What a handler says about payments is left out: a
// receipt is the paywall's word.
func withoutTrailers(h http.Header) http.Header {
	out := make(http.Header, len(h))
	for name, values := range h {
		if !isTrailer(h, name) {
			out[name] = append([]string(nil), values...)
		}
	}
	x402.StripPayment(out)
	return out
}

func trailersOf(h http.Header) http.Header {
	out := make(http.Header)
	for name, values := range h {
		if name != "Trailer" && isTrailer(h, name) {
			out[name] = values
		}
	}
	x402.StripPayment(out)
	for name := range out {
		bare := http.Header{http.CanonicalHeaderKey(strings.TrimPrefix(name, http.TrailerPrefix)): nil}
		if x402.StripPayment(bare); len(bare) == 0 {
			delete(out, name)
		}
	}
	return out
}

func copyHeader(dst, src http.Header) {
	for name, values := range src {
		dst[name] = append([]string(nil), values...)
	}
}
