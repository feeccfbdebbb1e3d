package clearing

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// gather makes groups of what callers bring at the same time, so that one transaction and one flush to disk serve many
// of them. There is no timer: whoever comes when nothing runs begins at once, alone; whoever comes meanwhile waits, and
// when the run ends the first of those that wait takes all of them, up to max. Groups therefore are as large as the load
// makes them. docs/decisions/0002-group-commit.md says why.
//
// Each ticket's caller runs at most one group, in its own goroutine.
type gather[T any] struct {
	max int
	// run works on a group and leaves the outcome of each item in the item. It is never run twice at a time. The context
	// is that of the caller who happens to lead, but without its cancellation: others depend on it.
	run func(context.Context, []T)

	mu      sync.Mutex
	queue   []*ticket[T] // guarded by mu; waiting, in order of arrival
	running bool         // guarded by mu; somebody leads
}

type ticket[T any] struct {
	items []T
	taken bool          // guarded by the gather's mu; a leader has it
	lead  chan struct{} // receives once if the ticket's caller is to lead
	done  chan struct{} // closed when the items have their outcome
}

// do has items, at most max, run in a group with others, and returns when they have their outcome. If ctx ends before, the error
// matches [ErrNotAdmitted] if no item was or will be run, and [ErrUnfinished] if the run goes on without its caller.
func (g *gather[T]) do(ctx context.Context, items []T) error {
	t := &ticket[T]{items: items, lead: make(chan struct{}, 1), done: make(chan struct{})}
	g.mu.Lock()
	g.queue = append(g.queue, t)
	if !g.running {
		g.running = true
		t.lead <- struct{}{}
	}
	g.mu.Unlock()

	select {
	case <-t.lead:
		g.lead(ctx)
		return nil
	case <-t.done:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-t.done:
		return nil
	default:
	}
	if t.taken {
		return fmt.Errorf("%w: %w", ErrUnfinished, context.Cause(ctx))
	}
	g.queue = slices.DeleteFunc(g.queue, func(other *ticket[T]) bool { return other == t })
	select {
	case <-t.lead: // was to lead: the next one does
		g.promote()
	default:
	}
	return fmt.Errorf("%w: %w", ErrNotAdmitted, context.Cause(ctx))
}

// lead runs one group, in which the caller's own ticket is the first, and then hands on.
func (g *gather[T]) lead(ctx context.Context) {
	g.mu.Lock()
	var group []T
	n := 0
	for ; n < len(g.queue) && (n == 0 || len(group)+len(g.queue[n].items) <= g.max); n++ {
		g.queue[n].taken = true
		group = append(group, g.queue[n].items...)
	}
	tickets := slices.Clone(g.queue[:n])
	g.queue = slices.Delete(g.queue, 0, n)
	g.mu.Unlock()

	defer func() { // also when run panics: others must not wait for ever
		g.mu.Lock()
		g.promote()
		g.mu.Unlock()
		for _, t := range tickets {
			close(t.done)
		}
	}()
	g.run(context.WithoutCancel(ctx), group)
}

// promote makes the first that waits the leader. The caller holds mu and was the leader.
func (g *gather[T]) promote() {
	if len(g.queue) == 0 {
		g.running = false
		return
	}
	g.queue[0].lead <- struct{}{}
}
