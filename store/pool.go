package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
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
	running chan struct{} // holds one element for each write that runs
	closed  chan struct{}
	commits *atomic.Uint64

	mu   sync.Mutex
	idle []*session // guarded by mu; the one used last is used next, since it has everything prepared
}

func newPool(open func() (*session, error), size int, commits *atomic.Uint64) *pool {
	return &pool{open: open, running: make(chan struct{}, size), closed: make(chan struct{}), commits: commits}
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
	select {
	case p.running <- struct{}{}:
		defer func() { <-p.running }()
	case <-p.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	s := p.take()
	defer func() { p.put(s) }() // whatever s is by then, also when fn panics
	for try := 0; ; try++ {
		err := p.once(&s, fn)
		if err == nil || try == retriesMax || s == nil || !s.again(err) {
			return err
		}
		// Those that were in each other's way must not meet again.
		time.Sleep(time.Duration(rand.Int64N(int64(retryPause << min(try, 6)))))
	}
}

// take returns a session, or nil if none is connected that is not in use.
func (p *pool) take() (s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		s, p.idle = p.idle[n-1], p.idle[:n-1]
	}
	return s
}

func (p *pool) put(s *session) {
	if s == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, s)
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
	err = (*s).commit()
	switch {
	case err == nil:
		open = false
		p.commits.Add(1)
	case (*s).failed == nil: // nobody knows
		open = false
		drop(s)
		err = fmt.Errorf("commit: %w", err)
	}
	return err
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
	for range cap(p.running) {
		p.running <- struct{}{}
	}
	var errs []error
	for _, s := range p.idle {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}
