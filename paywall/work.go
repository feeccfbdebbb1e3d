package paywall

import (
	"context"
	"math"
	"sync"

	"github.com/farthing402/farthing/money"
)

// said is what a handler said about the purchase that it served.
type said struct {
	units            uint64
	counted          bool // Charge was called
	faulty           bool // Charge was called with a number that is no count
	waived           bool // Fail was called
	reason           string
	stages           []string // Stage was called with these
	cost, downstream money.Amount
}

// work collects it, until the handler is done.
type work struct {
	id      string
	reached func(stage string) // writes down what a stage earns

	mu     sync.Mutex
	closed bool // guarded by mu; what comes later is not heard
	said        // guarded by mu
}

// close ends the collection: the purchase is judged by what was said until now.
func (w *work) close() said {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	return w.said
}

// say runs f on what was said, unless the handler is done or the request is not behind a price.
func say(ctx context.Context, f func(*said)) {
	w := workOf(ctx)
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		f(&w.said)
	}
}

type workKey struct{}

func workOf(ctx context.Context) *work {
	w, _ := ctx.Value(workKey{}).(*work)
	return w
}

// Charge says that n units were used, and that the work is done whatever the answer's status: the price of what was used
// is charged, at least the minimum and never more than was signed. Several calls add up. On a route with a price per
// call, n counts calls. A negative n is a fault of the handler and makes the purchase void.
//
// It does nothing in a handler that is not behind a price, so handlers can be tested without one.
func Charge[N int | int32 | int64 | uint | uint32 | uint64](ctx context.Context, n N) {
	say(ctx, func(s *said) {
		s.counted = true
		switch u := uint64(n); {
		case n < 0:
			s.faulty = true
		case s.units > math.MaxUint64-u:
			s.units = math.MaxUint64
		default:
			s.units += u
		}
	})
}

// Fail says that the buyer is not to be charged, whatever the answer's status. reason is a code for the records, and is
// shown to the buyer. The first call counts.
func Fail(ctx context.Context, reason string) {
	say(ctx, func(s *said) {
		if !s.waived {
			s.waived, s.reason = true, clip(reason)
		}
	})
}

// Cost says what serving the purchase cost the seller, in smallest units of the asset it is paid in. Calls add up.
func Cost(ctx context.Context, a money.Amount) {
	say(ctx, func(s *said) { s.cost = addUp(s.cost, a) })
}

// Downstream says what the seller paid to others to serve the purchase, in smallest units of the asset it is paid in.
// Calls add up.
func Downstream(ctx context.Context, a money.Amount) {
	say(ctx, func(s *said) { s.downstream = addUp(s.downstream, a) })
}

// PurchaseID returns the id of the purchase that the request pays for, empty if there is none.
func PurchaseID(ctx context.Context) string {
	if w := workOf(ctx); w != nil {
		return w.id
	}
	return ""
}

// addUp adds figures for the records; a sum past 256 bits keeps what it was.
func addUp(a, b money.Amount) money.Amount {
	if sum, ok := a.Add(b); ok {
		return sum
	}
	return a
}
