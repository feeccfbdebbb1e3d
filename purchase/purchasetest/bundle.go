package purchasetest

import (
	"errors"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
)

// hundred asks for one unit, and buys a hundred for a day if there is none.
var hundred = purchase.BundleAsk{Draw: 1, Buy: 100, Valid: 24 * time.Hour, Lease: time.Minute}

// call returns the n-th request of one payer to one route.
func call(n int) purchase.Purchase {
	p, first := sample(n), sample(0)
	p.Payer, p.Payee, p.Asset = first.Payer, first.Payee, first.Asset
	return p
}

// reserveCall reserves p by a bundle, which must go well.
func reserveCall(t *testing.T, b purchase.Book, p purchase.Purchase, ask purchase.BundleAsk) (purchase.Purchase, purchase.Bundle) {
	t.Helper()
	got, bundle, err := b.ReserveCall(t.Context(), p, ask)
	if err != nil {
		t.Fatalf("reserve %s: %v", p.ID, err)
	}
	return got, bundle
}

// buy has p buy a bundle that is open until a time.
func buy(t *testing.T, b purchase.Book, p purchase.Purchase, ask purchase.BundleAsk, until time.Time) purchase.Purchase {
	t.Helper()
	p, _ = reserveCall(t, b, p, ask)
	if p.Buys != ask.Buy {
		t.Fatalf("%s buys %d", p.ID, p.Buys)
	}
	must(t, b.Settling(t.Context(), p.ID, []byte("{}")), b.Settled(t.Context(), p.ID, evm.Keccak256([]byte(p.ID))), b.OpenBundle(t.Context(), p.ID, until))
	p, _, err := b.FindID(t.Context(), p.ID)
	must(t, err)
	return p
}

// remaining fails unless a bundle has so many units left.
func remaining(t *testing.T, b purchase.Book, id string, units uint64) purchase.Bundle {
	t.Helper()
	bundle, found, err := b.FindBundle(t.Context(), id)
	if err != nil || !found || bundle.Remaining != units {
		t.Errorf("bundle %s: %d remain, %v, %v, want %d", id, bundle.Remaining, found, err, units)
	}
	return bundle
}

func drawnAtOnce(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	ask := hundred
	ask.RunAt = noon.Add(time.Second)
	buyer := buy(t, b, call(1), ask, noon.Add(time.Hour))
	if buyer.State != purchase.Reserved || !buyer.RunAt.IsZero() {
		t.Fatalf("it runs before its bundle is paid: %+v", buyer)
	}
	drawer := call(2)
	got, _ := reserveCall(t, b, drawer, ask)
	drawer.State, drawer.Bundle, drawer.Draws, drawer.RunAt = purchase.Running, buyer.ID, 1, ask.RunAt
	same(t, got, drawer)
	want(t, b, drawer)
	if err := b.Run(ctx, drawer.ID, nil, noon); !errors.Is(err, purchase.ErrState) {
		t.Errorf("it begins twice: %v", err)
	}
	if again, _, err := b.ReserveCall(ctx, call(2), ask); !errors.Is(err, purchase.ErrTaken) || again.State != purchase.Running {
		t.Errorf("reserved again: %s, %v", again.State, err)
	}
	remaining(t, b, buyer.ID, 98)
	drawer.State, drawer.Draws, drawer.DoneAt = purchase.Void, 0, noon.Add(2*time.Second)
	must(t, b.Finish(ctx, drawer))
	remaining(t, b, buyer.ID, 99)
}

func bundled(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	asked := call(1)
	got, bundle := reserveCall(t, b, asked, hundred)
	buyer := asked
	buyer.Bundle, buyer.Buys, buyer.Draws = asked.ID, 100, 1
	same(t, got, buyer)
	want(t, b, buyer)
	begun := purchase.Bundle{
		ID: asked.ID, Payer: asked.Payer, Payee: asked.Payee, Network: asked.Network, Asset: asked.Asset, Route: asked.Route, Unit: asked.Unit,
		Total: 100, Remaining: 99, Price: asked.Cap, Valid: 24 * time.Hour, State: purchase.Buying,
	}
	if bundle != begun {
		t.Errorf("got  %+v\nwant %+v", bundle, begun)
	}
	if kept := remaining(t, b, asked.ID, 99); kept != begun {
		t.Errorf("kept %+v\nwant %+v", kept, begun)
	}
	got, bundle, err := b.ReserveCall(ctx, asked, hundred)
	if !errors.Is(err, purchase.ErrTaken) || bundle != begun {
		t.Errorf("the same payment: %v, %+v", err, bundle)
	}
	same(t, got, buyer)

	must(t, b.Settling(ctx, buyer.ID, []byte("{}")))
	if err := b.OpenBundle(ctx, buyer.ID, noon.Add(time.Hour)); !errors.Is(err, purchase.ErrState) {
		t.Errorf("opened before anybody knows that it is paid: %v", err)
	}
	if err := b.OpenBundle(ctx, "p_none", noon); !errors.Is(err, purchase.ErrState) {
		t.Errorf("opened one that is not there: %v", err)
	}
	must(t, b.Settled(ctx, buyer.ID, evm.Hash{1}), b.OpenBundle(ctx, buyer.ID, noon.Add(time.Hour)), b.OpenBundle(ctx, buyer.ID, noon.Add(9*time.Hour)))
	bundle = remaining(t, b, buyer.ID, 99)
	if bundle.State != purchase.Open || !bundle.ValidUntil.Equal(noon.Add(time.Hour)) {
		t.Errorf("opened as %+v", bundle)
	}
	if err := b.NotSettled(ctx, buyer.ID); !errors.Is(err, purchase.ErrState) {
		t.Errorf("an open bundle that was not paid: %v", err)
	}

	// A client that knows nothing of bundles signs and settles as ever; its signature is forgotten.
	asked = call(2)
	asked.Settling, asked.Certificate = true, []byte("a spendable signature")
	got, bundle = reserveCall(t, b, asked, hundred)
	drawer := call(2)
	drawer.Bundle, drawer.Draws = buyer.ID, 1
	same(t, got, drawer)
	want(t, b, drawer)
	if bundle != remaining(t, b, buyer.ID, 98) {
		t.Errorf("it drew from %+v", bundle)
	}
	got, bundle, err = b.ReserveCall(ctx, asked, hundred)
	if !errors.Is(err, purchase.ErrTaken) || bundle.Remaining != 98 {
		t.Errorf("the same payment: %v, %+v", err, bundle)
	}
	same(t, got, drawer)
	remaining(t, b, buyer.ID, 98)
	// No money moves for a draw.
	for i, err := range []error{
		b.Settling(ctx, drawer.ID, []byte("{}")), b.Settled(ctx, drawer.ID, evm.Hash{1}), b.Finish(ctx, finished(drawer, purchase.Pending)),
	} {
		if err == nil {
			t.Errorf("money moves for a draw, call %d", i)
		}
	}
	want(t, b, drawer)
	must(t, b.Run(ctx, drawer.ID, nil, noon))
	done := drawer
	done.State, done.DoneAt, done.Charged = purchase.Committed, noon, money.Units(1)
	if err := b.Finish(ctx, done); err == nil {
		t.Error("a draw was charged")
	}
	remaining(t, b, buyer.ID, 98)
	done.Charged = money.Amount{}
	must(t, b.Finish(ctx, done))
	remaining(t, b, buyer.ID, 98)

	for name, ask := range map[string]purchase.BundleAsk{
		"nothing":                          {Buy: 100},
		"more than is bought":              {Draw: 2, Buy: 1},
		"more than can be counted":         {Draw: 1 << 63, Buy: 1 << 63},
		"a bundle that ended before it is": {Draw: 1, Buy: 1, Valid: -1},
	} {
		if _, _, err := b.ReserveCall(ctx, call(3), ask); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	early := call(3)
	early.Bundle, early.Draws = buyer.ID, 1
	if _, err := b.Reserve(ctx, early); err == nil {
		t.Error("a draw was reserved without drawing")
	}
	if _, found, err := b.FindID(ctx, early.ID); found || err != nil {
		t.Errorf("a purchase that was refused is there: %v, %v", found, err)
	}
	remaining(t, b, buyer.ID, 98)
}

func buyRace(t *testing.T, b purchase.Book) {
	var mu sync.Mutex
	var buyers []string
	if won := race(t, purchase.ErrBuying, func(n int) error {
		p, _, err := b.ReserveCall(t.Context(), call(n), hundred)
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			buyers = append(buyers, p.ID)
		}
		return err
	}); won != 1 {
		t.Fatalf("%d bought", won)
	}
	must(t, b.Settled(t.Context(), buyers[0], evm.Hash{1}), b.OpenBundle(t.Context(), buyers[0], noon.Add(time.Hour)))
	if won := race(t, purchase.ErrTaken, func(n int) error {
		p, _, err := b.ReserveCall(t.Context(), call(n), hundred)
		if err == nil && p.Bundle != buyers[0] {
			t.Errorf("%s drew from %s", p.ID, p.Bundle)
		}
		return err
	}); won != 31 {
		t.Errorf("%d drew", won)
	}
	remaining(t, b, buyers[0], 68)
}

func lastCalls(t *testing.T, b purchase.Book) {
	const units = 7
	buyer := buy(t, b, call(100), purchase.BundleAsk{Draw: 1, Buy: units + 1}, noon.Add(time.Hour))
	if won := race(t, purchase.ErrNoBundle, func(n int) error {
		_, _, err := b.ReserveCall(t.Context(), call(n), purchase.BundleAsk{Draw: 1})
		return err
	}); won != units {
		t.Errorf("%d drew of %d", won, units)
	}
	remaining(t, b, buyer.ID, 0)
	for n := range 32 { // whoever was refused is not reserved
		if p, found, err := b.FindID(t.Context(), call(n).ID); err != nil || found && p.Draws != 1 {
			t.Errorf("%+v, %v", p, err)
		}
	}
}

func whichBundle(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	late := buy(t, b, call(1), purchase.BundleAsk{Draw: 8, Buy: 10}, noon.Add(3*time.Hour)).ID
	soon := buy(t, b, call(2), purchase.BundleAsk{Draw: 6, Buy: 8}, noon.Add(time.Hour)).ID // 2 in the first are not enough
	from := func(n int, ask purchase.BundleAsk) string {
		t.Helper()
		p, _, err := b.ReserveCall(ctx, call(n), ask)
		if err != nil {
			return err.Error()
		}
		return p.Bundle
	}
	if got := from(10, purchase.BundleAsk{Draw: 1}); got != soon {
		t.Errorf("drew from %s, want %s", got, soon)
	}
	if got := from(11, purchase.BundleAsk{Draw: 1, Bundle: late}); got != late {
		t.Errorf("drew from %s, want the one that was named, %s", got, late)
	}
	// One is left in each, and a draw does not take from two.
	if _, _, err := b.ReserveCall(ctx, call(12), purchase.BundleAsk{Draw: 2}); !errors.Is(err, purchase.ErrNoBundle) {
		t.Errorf("two: %v", err)
	}
	for name, ask := range map[string]purchase.BundleAsk{
		"one that is named and has too little": {Draw: 2, Buy: 5, Bundle: late},
		"one that is named and is not there":   {Draw: 1, Buy: 5, Bundle: "p_none"},
	} {
		if _, _, err := b.ReserveCall(ctx, call(13), ask); !errors.Is(err, purchase.ErrNoBundle) {
			t.Errorf("%s: %v, want %v", name, err, purchase.ErrNoBundle)
		}
	}
	// The second has run out of time, to the nanosecond.
	p := call(14)
	p.ReservedAt = noon.Add(time.Hour)
	if got, _ := reserveCall(t, b, p, purchase.BundleAsk{Draw: 1}); got.Bundle != late {
		t.Errorf("drew from %s after its time, want %s", got.Bundle, late)
	}
	p = call(15)
	p.ReservedAt = noon.Add(time.Hour - time.Nanosecond)
	if got, _ := reserveCall(t, b, p, purchase.BundleAsk{Draw: 1}); got.Bundle != soon {
		t.Errorf("drew from %s in its last moment, want %s", got.Bundle, soon)
	}
	remaining(t, b, soon, 0)
	remaining(t, b, late, 0)

	all, err := b.Bundles(ctx, p.Payer, p.Payee)
	must(t, err)
	ids := make([]string, len(all))
	for i := range all {
		ids[i] = all[i].ID
	}
	if !slices.Equal(ids, []string{late, soon}) {
		t.Errorf("bundles %v, want %v", ids, []string{late, soon})
	}
	for _, pair := range [][2]evm.Address{{p.Payee, p.Payer}, {p.Payer, {9}}, {{9}, p.Payee}} {
		if all, err := b.Bundles(ctx, pair[0], pair[1]); err != nil || len(all) != 0 {
			t.Errorf("others have %v, %v", all, err)
		}
	}
}

func whoseBundle(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	buyer := buy(t, b, call(1), hundred, noon.Add(time.Hour))
	buying, _ := reserveCall(t, b, func() purchase.Purchase { p := call(2); p.Route = "GET /other"; return p }(), hundred)
	for name, spoil := range map[string]func(*purchase.Purchase){
		"another payer":   func(p *purchase.Purchase) { p.Payer[0]++ },
		"another payee":   func(p *purchase.Purchase) { p.Payee[0]++ },
		"another network": func(p *purchase.Purchase) { p.Network = "eip155:1" },
		"another asset":   func(p *purchase.Purchase) { p.Asset[0]++ },
		"another route":   func(p *purchase.Purchase) { p.Route = "GET /third" },
		"another unit":    func(p *purchase.Purchase) { p.Unit = "call" },
	} {
		p := call(3)
		spoil(&p)
		for _, ask := range []purchase.BundleAsk{{Draw: 1}, {Draw: 1, Bundle: buyer.ID}, {Draw: 1, Buy: 9, Lease: time.Hour, Bundle: buying.ID}} {
			if _, _, err := b.ReserveCall(ctx, p, ask); !errors.Is(err, purchase.ErrNoBundle) {
				t.Errorf("%s, %+v: %v, want %v", name, ask, err, purchase.ErrNoBundle)
			}
		}
	}
	remaining(t, b, buyer.ID, 99)
	remaining(t, b, buying.ID, 99)
}

func lease(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	first, _ := reserveCall(t, b, call(0), hundred)
	later := func(n int, after time.Duration) error {
		p := call(n)
		p.ReservedAt = first.ReservedAt.Add(after)
		_, _, err := b.ReserveCall(ctx, p, hundred)
		return err
	}
	if err := later(1, time.Minute-1); !errors.Is(err, purchase.ErrBuying) {
		t.Errorf("within the lease: %v, want %v", err, purchase.ErrBuying)
	}
	if _, _, err := b.ReserveCall(ctx, call(1), purchase.BundleAsk{Draw: 1, Bundle: first.ID, Lease: time.Minute}); !errors.Is(err, purchase.ErrBuying) {
		t.Errorf("one that is named and not open: %v, want %v", err, purchase.ErrBuying)
	}
	must(t, b.Settling(ctx, first.ID, []byte("{}")))
	if err := later(1, time.Hour); !errors.Is(err, purchase.ErrBuying) {
		t.Errorf("while its money may be moving: %v, want %v", err, purchase.ErrBuying)
	}
	must(t, b.Finish(ctx, purchase.Purchase{ID: first.ID, State: purchase.Pending, Draws: 1}))
	if err := later(1, time.Hour); !errors.Is(err, purchase.ErrBuying) {
		t.Errorf("while it is pending: %v, want %v", err, purchase.ErrBuying)
	}
	must(t, b.NotSettled(ctx, first.ID))
	if err := later(1, time.Minute); err != nil {
		t.Errorf("when the lease is over: %v", err)
	}
	// The first is paid after all: both are good.
	must(t, b.Settled(ctx, first.ID, evm.Hash{1}), b.OpenBundle(ctx, first.ID, noon.Add(time.Hour)))
	p := call(2)
	p.ReservedAt = first.ReservedAt.Add(time.Minute)
	if got, _ := reserveCall(t, b, p, hundred); got.Bundle != first.ID {
		t.Errorf("drew from %s, want %s", got.Bundle, first.ID)
	}
}

func drawsReturn(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	ask := purchase.BundleAsk{Draw: 10, Buy: 100}
	buyer := buy(t, b, call(0), ask, noon.Add(time.Hour))
	left := uint64(90)
	remaining(t, b, buyer.ID, left)
	for n, tt := range []struct {
		name     string
		run      bool
		end      purchase.State
		used     uint64
		refused  bool
		returned uint64
	}{
		{"void before it ran", false, purchase.Void, 10, false, 10},
		{"void after it ran", true, purchase.Void, 10, false, 10},
		{"void, and says that it used some", true, purchase.Void, 3, false, 10},
		{"all used", true, purchase.Committed, 10, false, 0},
		{"some used", true, purchase.Committed, 3, false, 7},
		{"none used", true, purchase.Committed, 0, false, 10},
		{"more used than reserved", true, purchase.Committed, 11, true, 0},
	} {
		p, _ := reserveCall(t, b, call(n+1), purchase.BundleAsk{Draw: 10})
		if tt.run {
			must(t, b.Run(ctx, p.ID, nil, noon))
		}
		remaining(t, b, buyer.ID, left-10)
		p.State, p.Draws, p.DoneAt = tt.end, tt.used, noon
		if tt.refused {
			if err := b.Finish(ctx, p); err == nil {
				t.Errorf("%s: no error", tt.name)
			}
			remaining(t, b, buyer.ID, left-10)
			left -= 10
			continue
		}
		// Of many that finish it at once one returns what is returned.
		if won := race(t, purchase.ErrState, func(int) error { return b.Finish(ctx, p) }); won != 1 {
			t.Errorf("%s: %d finished it", tt.name, won)
		}
		left = left - 10 + tt.returned
		remaining(t, b, buyer.ID, left)
		got, _, err := b.FindID(ctx, p.ID)
		if err != nil || got.Draws != 10-tt.returned {
			t.Errorf("%s: %d drawn, %v", tt.name, got.Draws, err)
		}
	}

	// Also what a job and a pending purchase say that they need no more.
	p, _ := reserveCall(t, b, call(20), purchase.BundleAsk{Draw: 10})
	must(t, b.Run(ctx, p.ID, nil, noon))
	p.State, p.Due, p.Draws = purchase.Working, noon.Add(time.Hour), 8
	must(t, b.Finish(ctx, p))
	remaining(t, b, buyer.ID, left-8)
	p.State, p.Draws = purchase.Pending, 5
	must(t, b.Finish(ctx, p))
	remaining(t, b, buyer.ID, left-5)
	p.State = purchase.Void
	must(t, b.Finish(ctx, p))
	remaining(t, b, buyer.ID, left)

	// The purchase that buys draws like the others, and its bundle stays when its own work came to nothing.
	must(t, b.Run(ctx, buyer.ID, nil, noon))
	buyer.State, buyer.Draws = purchase.Void, 10
	if err := b.Finish(ctx, buyer); !errors.Is(err, purchase.ErrState) {
		t.Errorf("void, but its bundle is open: %v", err)
	}
	buyer.State, buyer.Draws, buyer.Charged, buyer.DoneAt = purchase.Committed, 0, money.Units(900), noon
	must(t, b.Finish(ctx, buyer))
	if bundle := remaining(t, b, buyer.ID, left+10); bundle.Price != money.Units(900) || !bundle.ValidUntil.Equal(noon.Add(time.Hour)) {
		t.Errorf("in the end it is %+v", bundle)
	}
}

func vanish(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	p, _ := reserveCall(t, b, call(0), hundred)
	must(t, b.Finish(ctx, purchase.Purchase{ID: p.ID, State: purchase.Void, DoneAt: noon}))
	if bundle, found, err := b.FindBundle(ctx, p.ID); found || err != nil {
		t.Errorf("it is there: %+v, %v", bundle, err)
	}
	if err := b.OpenBundle(ctx, p.ID, noon.Add(time.Hour)); !errors.Is(err, purchase.ErrState) {
		t.Errorf("opened all the same: %v", err)
	}
	got, bundle, err := b.ReserveCall(ctx, call(0), hundred)
	if !errors.Is(err, purchase.ErrTaken) || got.State != purchase.Void || bundle != (purchase.Bundle{}) {
		t.Errorf("the same payment: %v, %+v, %+v", err, got, bundle)
	}

	// The next buys its own at once. If the process ends after it is committed and before OpenBundle, that is open too.
	p, _ = reserveCall(t, b, call(1), hundred)
	must(t, b.Run(ctx, p.ID, nil, noon), b.Settling(ctx, p.ID, nil))
	must(t, b.Finish(ctx, purchase.Purchase{
		ID: p.ID, State: purchase.Committed, Draws: 1, Charged: p.Cap, DoneAt: noon, Transaction: evm.Hash{1},
	}))
	bundle = remaining(t, b, p.ID, 99)
	if bundle.State != purchase.Open || !bundle.ValidUntil.Equal(noon.Add(24*time.Hour)) {
		t.Errorf("committed, and its bundle is %+v", bundle)
	}
	if got, _ := reserveCall(t, b, call(2), hundred); got.Bundle != p.ID {
		t.Errorf("drew from %s", got.Bundle)
	}
	if all, err := b.Bundles(ctx, p.Payer, p.Payee); err != nil || !reflect.DeepEqual(all, []purchase.Bundle{remaining(t, b, p.ID, 98)}) {
		t.Errorf("bundles: %v, %v", all, err)
	}
}
