package paywall

import (
	"context"
	"math"
	"sync"

	"github.com/farthing402/farthing/money"
)

// work is what a handler says about the purchase that it serves.
type work struct {
	id string

	mu         sync.Mutex
	units      uint64       // guarded by mu
	counted    bool         // guarded by mu; Charge was called
	faulty     bool         // guarded by mu; Charge was called with a number that is no count
	waived     bool         // guarded by mu; Fail was called
	reason     string       // guarded by mu
	cost       money.Amount // guarded by mu
	downstream money.Amount // guarded by mu
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
	w := workOf(ctx)
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counted = true
	if n < 0 {
		w.faulty = true
		return
	}
	if u := uint64(n); w.units > math.MaxUint64-u {
		w.units = math.MaxUint64
	} else {
		w.units += u
	}
}

// Fail says that the buyer is not to be charged, whatever the answer's status. reason is a code for the records, and is
// shown to the buyer. The first call counts.
func Fail(ctx context.Context, reason string) {
	w := workOf(ctx)
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.waived {
		w.waived, w.reason = true, clip(reason)
	}
}

// Cost says what serving the purchase cost the seller, in smallest units of the asset it is paid in. Calls add up.
func Cost(ctx context.Context, a money.Amount) {
	if w := workOf(ctx); w != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.cost = addUp(w.cost, a)
	}
}

// Downstream says what the seller paid to others to serve the purchase, in smallest units of the asset it is paid in.
// Calls add up.
func Downstream(ctx context.Context, a money.Amount) {
	if w := workOf(ctx); w != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.downstream = addUp(w.downstream, a)
	}
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
