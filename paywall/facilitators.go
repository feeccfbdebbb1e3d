package paywall

import (
	"context"
	"sync"
	"time"

	"github.com/farthing402/farthing/x402"
)

// abilities is what a facilitator says that it can do.
type abilities struct {
	mu               sync.Mutex
	x402.Facilitator                 // guarded by mu
	asked            time.Time       // guarded by mu
	failed           error           // guarded by mu
	list             *x402.Supported // guarded by mu
	asking           chan struct{}   // guarded by mu: closed when the answer is here; nil while nobody asks
}

// now returns the list. If what is known is old, one visitor asks; the others take what is known, or wait for it if that is
// nothing. An old list is better than none.
func (f *abilities) now(ctx context.Context, at time.Time) (x402.Supported, error) {
	f.mu.Lock()
	age := at.Sub(f.asked)
	known, failed, answered := f.list, f.failed, f.asking
	asks := answered == nil && (known == nil || age >= supportedKept) && (failed == nil || age >= supportedRetry)
	if asks {
		answered = make(chan struct{})
		f.asking = answered
	}
	f.mu.Unlock()
	switch {
	case asks:
		f.ask(ctx, at)
	case known != nil:
		return *known, nil
	case answered == nil:
		return x402.Supported{}, failed
	}
	select {
	case <-answered:
	case <-ctx.Done():
		return x402.Supported{}, x402.Errorf("facilitator_unreachable", "facilitator does not say what it can do: %w", ctx.Err())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.list == nil {
		return x402.Supported{}, f.failed
	}
	return *f.list, nil
}

// ask asks for the list, for everybody who waits: it does not end with the visitor who happens to ask.
func (f *abilities) ask(ctx context.Context, at time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), supportedWait)
	defer cancel()
	list, err := f.who().Supported(ctx)
	if err != nil && ctx.Err() != nil {
		err = x402.Errorf("facilitator_unreachable", "facilitator does not say what it can do: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.asking)
	f.asked, f.failed, f.asking = at, err, nil
	if err == nil {
		f.list = &list
		if c, ok := f.Facilitator.(*x402.Client); ok && c.Dialect != list.Dialect() {
			speaking := *c // it is asked in the words in which it answers
			speaking.Dialect = list.Dialect()
			f.Facilitator = &speaking
		}
	}
}

// who returns the facilitator to ask.
func (f *abilities) who() x402.Facilitator {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.Facilitator
}

// known returns the list without asking.
func (f *abilities) known() (x402.Supported, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.list == nil {
		return x402.Supported{}, false
	}
	return *f.list, true
}

// facilitator finds who settles on a network.
func (w *transfer) facilitator(ctx context.Context, caip2 string) (x402.Facilitator, x402.Kind, error) {
	var errs []error
	for _, f := range w.lists {
		list, err := f.now(ctx, w.pw.cfg.Now())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if kind, ok := list.Find(2, w.called, caip2); ok {
			return f.who(), kind, nil
		}
		if kind, ok := list.Find(1, w.called, caip2); ok {
			return f.who(), kind, nil
		}
	}
	if len(errs) > 0 {
		return nil, x402.Kind{}, asError(errs[0], "facilitator_unreachable")
	}
	return nil, x402.Kind{}, x402.Errorf("facilitator_fault", "no facilitator settles %s on %s", w.called, w.pw.called(caip2))
}

// called is a network by both of its names.
func (pw *Paywall) called(caip2 string) string {
	if on, err := pw.registry.Lookup(caip2); err == nil {
		return on.String()
	}
	return clip(caip2)
}

func asCoded(err error) *x402.Error {
	if e, ok := x402.AsError(err); ok {
		return e
	}
	return &x402.Error{Code: "internal", Err: err}
}
