package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// groupMax bounds how many writes share a transaction, and so how long the first of them waits for the others.
const groupMax = 512

var (
	errAborted  = errors.New("the group of writes was abandoned")
	errRollback = errors.New("transaction is lost")
)

// group commits writes that come together in one transaction. There is no timer and no goroutine: the first caller
// leads, and who comes while it is at work waits and is led by the next, so the slower the disk, the larger the groups.
type group struct {
	open func() (*session, error)

	mu      sync.Mutex
	waiting []*task // guarded by mu
	led     bool    // guarded by mu; somebody leads or was told to
	closed  bool    // guarded by mu
	idle    chan struct{}

	session *session // only the leader; nil until it is needed
	commits *atomic.Uint64
}

// task is one caller's write.
type task struct {
	ctx   context.Context
	fn    func(*session) error
	wake  chan bool // true: lead a group that begins with this task; false: it is over
	taken bool      // guarded by group.mu; it cannot be withdrawn any more
	err   error     // the outcome; the leader's until wake
	panic any       // what fn panicked with, for its own caller
}

// do runs fn in a transaction and returns when that is on disk or undone. fn may run in another caller's goroutine.
// Cancelling ctx withdraws a write that has not begun.
func (g *group) do(ctx context.Context, fn func(*session) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t := &task{ctx: ctx, fn: fn, wake: make(chan bool, 1)}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return ErrClosed
	}
	g.waiting = append(g.waiting, t)
	lead := !g.led
	g.led = true
	g.mu.Unlock()

	if lead || g.wait(t) {
		g.lead()
	}
	if t.panic != nil {
		panic(t.panic)
	}
	return t.err
}

// wait returns true if t's caller is to lead, else when t is over.
func (g *group) wait(t *task) bool {
	select {
	case lead := <-t.wake:
		return lead
	case <-t.ctx.Done():
	}
	g.mu.Lock()
	if !t.taken {
		g.waiting = slices.DeleteFunc(g.waiting, func(w *task) bool { return w == t })
		t.err = t.ctx.Err()
		g.mu.Unlock()
		return false
	}
	g.mu.Unlock()
	return <-t.wake
}

// lead runs the tasks that wait, the caller's own first, and hands over to the first that came meanwhile.
func (g *group) lead() {
	g.mu.Lock()
	n := min(len(g.waiting), groupMax)
	tasks := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	for _, t := range tasks {
		t.taken = true
	}
	g.mu.Unlock()

	defer func() { // also when fn ends the goroutine: nobody is left waiting
		g.mu.Lock()
		if len(g.waiting) > 0 {
			g.waiting[0].taken = true
			g.waiting[0].wake <- true
		} else {
			g.led = false
			if g.idle != nil {
				close(g.idle)
			}
		}
		g.mu.Unlock()
		for _, t := range tasks[1:] {
			t.wake <- false
		}
		clear(tasks) // the list goes on in the same array, which would hold on to all that was written
	}()
	g.run(tasks)
}

// run gives every task its outcome.
func (g *group) run(tasks []*task) {
	failAll := func(err error) {
		for _, t := range tasks {
			if t.err == nil || t.err == errAborted {
				t.err = err
			}
		}
	}
	for _, t := range tasks {
		t.err = errAborted
	}
	if err := g.begin(); err != nil {
		failAll(fmt.Errorf("begin to write: %w", err))
		return
	}
	open := true
	defer func() {
		if open {
			g.rollback()
		}
	}()
	good := 0
	for _, t := range tasks {
		if t.err = t.ctx.Err(); t.err != nil {
			continue
		}
		t.err = errAborted
		err := g.runOne(t, len(tasks) > 1)
		if errors.Is(err, errRollback) {
			failAll(err)
			return
		}
		if t.err = err; err == nil {
			good++
		}
	}
	if good == 0 {
		return
	}
	open = false
	if err := g.session.control("COMMIT"); err != nil {
		g.rollback()
		failAll(fmt.Errorf("commit: %w", err))
		return
	}
	g.commits.Add(1)
}

// runOne runs one task; with neighbours behind a savepoint, so that its failure is its own. An error that matches
// errRollback is everybody's.
func (g *group) runOne(t *task, neighbours bool) error {
	if neighbours {
		if err := g.session.control("SAVEPOINT one"); err != nil {
			return fmt.Errorf("savepoint: %w: %w", errRollback, err)
		}
	}
	err := t.call(g.session)
	if !neighbours {
		return err
	}
	if err != nil {
		if undo := g.session.control("ROLLBACK TO one"); undo != nil {
			// Some errors (disk full, out of memory) end the whole transaction, and the savepoint with it.
			return fmt.Errorf("%w: %w: %w", errRollback, undo, err)
		}
	}
	if done := g.session.control("RELEASE one"); done != nil {
		return fmt.Errorf("release: %w: %w", errRollback, done)
	}
	return err
}

// call runs fn. A panic is kept for fn's own caller, as it would be if fn ran there.
func (t *task) call(s *session) (err error) {
	defer func() {
		if t.panic = recover(); t.panic != nil {
			err = errAborted
		}
	}()
	return t.fn(s)
}

func (g *group) begin() (err error) {
	if g.session == nil {
		if g.session, err = g.open(); err != nil {
			return err
		}
	}
	if err := g.session.begin(); err != nil {
		g.drop()
		return err
	}
	return nil
}

// rollback undoes what is open. A connection that cannot even do that is given up, which undoes it too.
func (g *group) rollback() {
	if g.session.control("ROLLBACK") != nil {
		g.drop()
	}
}

func (g *group) drop() {
	_ = g.session.close()
	g.session = nil
}

// close refuses new tasks and waits for those that were accepted.
func (g *group) close() error {
	g.mu.Lock()
	g.closed = true
	led := g.led
	if led {
		g.idle = make(chan struct{})
	}
	g.mu.Unlock()
	if led {
		<-g.idle
	}
	if g.session == nil {
		return nil
	}
	return g.session.close()
}
