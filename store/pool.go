package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// How often a write is run again that others have got in the way of, and how long it waits at first.
const (
	retriesMax = 10
	retryPause = 2 * time.Millisecond
)

// pool runs writes side by side, each in a transaction of its own on one of a few sessions. The database shares its syncs
// among those that commit together.
type pool struct {
	open    func() (*session, error)
	free    chan *session // nil stands for one that is not connected
	closed  chan struct{}
	commits *atomic.Uint64
}

func newPool(open func() (*session, error), size int, commits *atomic.Uint64) *pool {
	p := &pool{open: open, free: make(chan *session, size), closed: make(chan struct{}), commits: commits}
	for range size {
		p.free <- nil
	}
	return p
}

// do runs fn in a transaction and returns when that is on disk or undone; fn is run again if another write was in its way.
// Cancelling ctx withdraws a write that has not begun.
func (p *pool) do(ctx context.Context, fn func(*session) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-p.closed:
		return ErrClosed
	default:
	}
	var s *session
	select {
	case s = <-p.free:
	case <-p.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { p.free <- s }() // whatever s is by then, also when fn panics
	for try := 0; ; try++ {
		err := p.once(&s, fn)
		if err == nil || try == retriesMax || s == nil || !s.again(err) {
			return err
		}
		// Those that were in each other's way must not meet again.
		time.Sleep(time.Duration(rand.Int64N(int64(retryPause << min(try, 6)))))
	}
}

// once runs fn in one transaction on the session, which it connects if need be and gives up if it is of no use any more.
func (p *pool) once(s **session, fn func(*session) error) (err error) {
	if err := p.begin(s); err != nil {
		return fmt.Errorf("begin to write: %w", err)
	}
	open := true
	defer func() { // also when fn panics or ends the goroutine
		if open && (*s).control("ROLLBACK") != nil {
			drop(s)
		}
	}()
	if err := fn(*s); err != nil {
		return err
	}
	if err := (*s).failed; err != nil { // fn went on after a statement that ended the transaction
		return fmt.Errorf("a statement failed: %w", err)
	}
	open = false
	if err := (*s).control("COMMIT"); err != nil {
		drop(s)
		return fmt.Errorf("commit: %w", err)
	}
	p.commits.Add(1)
	return nil
}

// begin begins a transaction, on a new connection if the server has ended the old one meanwhile.
func (p *pool) begin(s **session) (err error) {
	if *s != nil {
		if err = (*s).begin(); err == nil {
			return nil
		}
		drop(s)
	}
	if *s, err = p.open(); err != nil {
		*s = nil
		return err
	}
	if err = (*s).begin(); err != nil {
		drop(s)
	}
	return err
}

func drop(s **session) {
	_ = (*s).close()
	*s = nil
}

// close refuses new writes and waits for those that have begun.
func (p *pool) close() error {
	close(p.closed)
	var errs []error
	for range cap(p.free) {
		if s := <-p.free; s != nil {
			errs = append(errs, s.close())
		}
	}
	return errors.Join(errs...)
}
