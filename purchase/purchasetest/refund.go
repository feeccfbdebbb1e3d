package purchasetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
)

// sold reserves, runs and commits p for 900.
func sold(t *testing.T, b purchase.Book, p purchase.Purchase) purchase.Purchase {
	t.Helper()
	reserve(t, b, p)
	p.State, p.Charged, p.RunAt, p.DoneAt = purchase.Committed, money.Units(900), noon, noon
	must(t, b.Run(t.Context(), p.ID, nil, noon), b.Finish(t.Context(), p))
	return p
}

func transfer(id string, units uint64) purchase.Refund {
	return purchase.Refund{Purchase: id, Kind: purchase.ByTransfer, Amount: money.Units(units), Reason: "sorry", At: noon}
}

// sameRefund fails unless the refunds are equal; times count as instants.
func sameRefund(t *testing.T, got, r purchase.Refund) {
	t.Helper()
	if got.Purchase != r.Purchase || got.Kind != r.Kind || got.Amount != r.Amount || got.Calls != r.Calls || !bytes.Equal(got.Proof, r.Proof) ||
		got.State != r.State || got.Transaction != r.Transaction || got.Reason != r.Reason || !got.At.Equal(r.At) || !got.DoneAt.Equal(r.DoneAt) {
		t.Errorf("got  %+v\nwant %+v", got, r)
	}
}

// wantRefund fails unless the book has exactly r, and lists it if it is queued.
func wantRefund(t *testing.T, b purchase.Book, r purchase.Refund) {
	t.Helper()
	got, found, err := b.FindRefund(t.Context(), r.Purchase)
	if err != nil || !found {
		t.Fatalf("refund of %s: %v, %v", r.Purchase, found, err)
	}
	sameRefund(t, got, r)
	open, err := b.OpenRefunds(t.Context())
	must(t, err)
	i := slices.IndexFunc(open, func(o purchase.Refund) bool { return o.Purchase == r.Purchase })
	if (i >= 0) != (r.State == purchase.Queued) {
		t.Errorf("a refund that is %s is open: %v", r.State, i >= 0)
	} else if i >= 0 {
		sameRefund(t, open[i], r)
	}
}

func refundRules(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	p := sold(t, b, sample(1))
	none := func(name string, r purchase.Refund, wanted error) {
		t.Helper()
		if _, err := b.Refund(ctx, r); err == nil || wanted != nil && !errors.Is(err, wanted) {
			t.Errorf("%s: %v, want %v", name, err, wanted)
		}
		if _, found, err := b.FindRefund(ctx, r.Purchase); found || err != nil {
			t.Errorf("%s: it is there: %v", name, err)
		}
	}
	note := func(proof string) purchase.Refund {
		return purchase.Refund{Purchase: p.ID, Kind: purchase.ByNote, Amount: money.Units(1), Proof: []byte(proof)}
	}
	none("more than was charged", transfer(p.ID, 901), purchase.ErrTooMuch)
	none("more than was charged, as credit", purchase.Refund{Purchase: p.ID, Kind: purchase.ByCredit, Amount: money.Units(901)}, purchase.ErrTooMuch)
	none("calls of no bundle", purchase.Refund{Purchase: p.ID, Kind: purchase.ByCalls, Calls: 1}, purchase.ErrTooMuch)
	none("money for calls of no bundle", purchase.Refund{Purchase: p.ID, Kind: purchase.ByTransfer, Amount: money.Units(1), Calls: 1}, purchase.ErrTooMuch)
	none("of nothing", transfer("p_none", 1), purchase.ErrState)
	none("nothing", transfer(p.ID, 0), nil)
	none("calls with money", purchase.Refund{Purchase: p.ID, Kind: purchase.ByCalls, Calls: 1, Amount: money.Units(1)}, nil)
	none("no calls", purchase.Refund{Purchase: p.ID, Kind: purchase.ByCalls}, nil)
	none("a kind that is none", purchase.Refund{Purchase: p.ID, Kind: "gift", Amount: money.Units(1)}, nil)
	none("a note that is none", note(""), nil)
	none("a note with a transfer", func() purchase.Refund { r := transfer(p.ID, 1); r.Proof = []byte("{}"); return r }(), nil)
	for n, path := range [][]purchase.State{nil, {purchase.Running}, {purchase.Running, purchase.Working}, {purchase.Pending}, {purchase.Void}} {
		q := sample(n + 2)
		reserve(t, b, q)
		for _, to := range path {
			if to == purchase.Running {
				must(t, b.Run(ctx, q.ID, nil, noon))
				continue
			}
			must(t, b.Finish(ctx, finished(q, to)))
		}
		none(fmt.Sprintf("of what is %v", path), transfer(q.ID, 1), purchase.ErrState)
	}
	if credit, err := b.Credit(ctx, p.Payer, p.Payee, p.Network, p.Asset); err != nil || !credit.IsZero() {
		t.Errorf("credit %s, %v", credit, err)
	}

	r := transfer(p.ID, 900)
	wanted := r
	wanted.State = purchase.Queued
	for _, again := range []purchase.Refund{r, r, func() purchase.Refund { q := r; q.Reason, q.At = "other words", noon.Add(1); return q }()} {
		got, err := b.Refund(ctx, again)
		must(t, err)
		sameRefund(t, got, wanted)
	}
	wantRefund(t, b, wanted)
	for name, other := range map[string]purchase.Refund{
		"another amount": transfer(p.ID, 899), "more than was charged": transfer(p.ID, 901), "another kind": note("{}"),
		"as credit": {Purchase: p.ID, Kind: purchase.ByCredit, Amount: money.Units(900)},
	} {
		got, err := b.Refund(ctx, other)
		if !errors.Is(err, purchase.ErrRefunded) {
			t.Errorf("%s: %v, want %v", name, err, purchase.ErrRefunded)
		}
		sameRefund(t, got, wanted)
	}
	wantRefund(t, b, wanted)
	want(t, b, p) // what was charged is history
}

func refundRace(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	p := sold(t, b, sample(1))
	amounts := make(chan uint64, 32)
	if won := race(t, purchase.ErrRefunded, func(n int) error {
		r := purchase.Refund{Purchase: p.ID, Kind: purchase.ByCredit, Amount: money.Units(uint64(n + 1)), At: noon}
		_, err := b.Refund(ctx, r)
		if err == nil {
			amounts <- uint64(n + 1)
		}
		return err
	}); won != 1 {
		t.Errorf("%d refunds", won)
	}
	given := money.Units(<-amounts)
	if won := race(t, nil, func(int) error {
		_, err := b.Refund(ctx, purchase.Refund{Purchase: p.ID, Kind: purchase.ByCredit, Amount: given})
		return err
	}); won != 32 {
		t.Errorf("%d were told of the same", won)
	}
	if credit, err := b.Credit(ctx, p.Payer, p.Payee, p.Network, p.Asset); err != nil || credit != given {
		t.Errorf("credit %s, %v, want %s", credit, err, given)
	}
}

func refundStates(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	reach := map[purchase.RefundState][]purchase.RefundState{
		purchase.Queued: nil, purchase.Done: {purchase.Done}, purchase.Failed: {purchase.Failed},
	}
	may := map[[2]purchase.RefundState]bool{
		{purchase.Queued, purchase.Queued}: true, {purchase.Queued, purchase.Done}: true, {purchase.Queued, purchase.Failed}: true,
		{purchase.Failed, purchase.Queued}: true, {purchase.Failed, purchase.Done}: true,
	}
	n := 0
	for from, path := range reach {
		for _, to := range []purchase.RefundState{purchase.Queued, purchase.Done, purchase.Failed} {
			n++
			p := sold(t, b, sample(n))
			r, err := b.Refund(ctx, transfer(p.ID, 5))
			must(t, err)
			step := func(to purchase.RefundState) error {
				next := r
				next.State, next.Reason, next.Transaction, next.DoneAt = to, "it is "+string(to), evm.Keccak256([]byte(to)), noon.Add(time.Minute)
				err := b.FinishRefund(ctx, next)
				if err == nil {
					r = next
				}
				return err
			}
			for _, s := range path {
				must(t, step(s))
			}
			wantRefund(t, b, r)
			if err := step(to); may[[2]purchase.RefundState{from, to}] != (err == nil) || err != nil && !errors.Is(err, purchase.ErrState) {
				t.Errorf("from %s to %s: %v", from, to, err)
			}
			wantRefund(t, b, r)
		}
	}
	p := sold(t, b, sample(100))
	r := purchase.Refund{Purchase: p.ID, Kind: purchase.ByNote, Amount: money.Units(5), Proof: []byte("{}"), At: noon}
	r, err := b.Refund(ctx, r)
	must(t, err)
	wantRefund(t, b, r)
	for name, done := range map[string]purchase.Refund{
		"a state that is none":        {Purchase: p.ID, State: "lost"},
		"a note that is a transfer":   {Purchase: p.ID, State: purchase.Done, Transaction: evm.Hash{1}},
		"a purchase without a refund": {Purchase: "p_none", State: purchase.Done},
	} {
		if err := b.FinishRefund(ctx, done); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	wantRefund(t, b, r)
	first, err := b.OpenRefunds(ctx)
	must(t, err)
	if !slices.IsSortedFunc(first, func(a, b purchase.Refund) int { return a.At.Compare(b.At) }) {
		t.Errorf("not the oldest first: %v", first)
	}
}

func refundBundle(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	buyer := buy(t, b, call(0), purchase.BundleAsk{Draw: 1, Buy: 10}, noon.Add(time.Hour))
	buyer.State, buyer.Charged, buyer.DoneAt = purchase.Committed, money.Units(999), noon
	must(t, b.Run(ctx, buyer.ID, nil, noon), b.Finish(ctx, buyer))
	drawer, _ := reserveCall(t, b, call(1), purchase.BundleAsk{Draw: 3})
	calls := purchase.Refund{Purchase: drawer.ID, Kind: purchase.ByCalls, Calls: 2, At: noon}
	if _, err := b.Refund(ctx, calls); !errors.Is(err, purchase.ErrState) {
		t.Errorf("before it is committed: %v", err)
	}
	drawer.State, drawer.DoneAt = purchase.Committed, noon
	must(t, b.Run(ctx, drawer.ID, nil, noon), b.Finish(ctx, drawer))
	remaining(t, b, buyer.ID, 6)
	for name, r := range map[string]purchase.Refund{
		"more calls than it drew":     {Purchase: drawer.ID, Kind: purchase.ByCalls, Calls: 4},
		"money for a draw":            transfer(drawer.ID, 1),
		"money for calls of a draw":   {Purchase: drawer.ID, Kind: purchase.ByTransfer, Amount: money.Units(1), Calls: 3},
		"money without saying for it": transfer(buyer.ID, 1),
		"fewer calls than are unused": {Purchase: buyer.ID, Kind: purchase.ByTransfer, Amount: money.Units(1), Calls: 5},
		"more calls than are unused":  {Purchase: buyer.ID, Kind: purchase.ByTransfer, Amount: money.Units(1), Calls: 7},
		"more than unused calls cost": {Purchase: buyer.ID, Kind: purchase.ByTransfer, Amount: money.Units(600), Calls: 6},
		"as credit more than they":    {Purchase: buyer.ID, Kind: purchase.ByCredit, Amount: money.Units(600), Calls: 6},
	} {
		if _, err := b.Refund(ctx, r); !errors.Is(err, purchase.ErrTooMuch) {
			t.Errorf("%s: %v, want %v", name, err, purchase.ErrTooMuch)
		}
		remaining(t, b, buyer.ID, 6)
	}
	wanted := calls
	wanted.State, wanted.DoneAt = purchase.Done, noon
	if won := race(t, nil, func(int) error { got, err := b.Refund(ctx, calls); sameRefund(t, got, wanted); return err }); won != 32 {
		t.Errorf("%d were told", won)
	}
	wantRefund(t, b, wanted)
	remaining(t, b, buyer.ID, 8)
	if err := b.FinishRefund(ctx, purchase.Refund{Purchase: drawer.ID, State: purchase.Failed}); !errors.Is(err, purchase.ErrState) {
		t.Errorf("what is given can fail: %v", err)
	}

	// 8 of 10 that cost 999: at most 799.
	rest := purchase.Refund{Purchase: buyer.ID, Kind: purchase.ByTransfer, Amount: money.Units(799), Calls: 8, At: noon}
	inFlight, _ := reserveCall(t, b, call(2), purchase.BundleAsk{Draw: 2})
	if _, err := b.Refund(ctx, rest); !errors.Is(err, purchase.ErrTooMuch) {
		t.Errorf("while somebody draws: %v", err)
	}
	rest.Calls, rest.Amount = 6, money.Units(599)
	if won := race(t, nil, func(int) error { _, err := b.Refund(ctx, rest); return err }); won != 32 {
		t.Errorf("%d were told", won)
	}
	rest.State = purchase.Queued
	wantRefund(t, b, rest)
	remaining(t, b, buyer.ID, 0)
	if _, _, err := b.ReserveCall(ctx, call(3), purchase.BundleAsk{Draw: 1}); !errors.Is(err, purchase.ErrNoBundle) {
		t.Errorf("drew what was paid back: %v", err)
	}
	must(t, b.Finish(ctx, purchase.Purchase{ID: inFlight.ID, State: purchase.Void}))
	remaining(t, b, buyer.ID, 2) // what was being drawn had not been paid back
}

func creditRules(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	has := func(units uint64) {
		t.Helper()
		p := call(0)
		if credit, err := b.Credit(ctx, p.Payer, p.Payee, p.Network, p.Asset); err != nil || credit != money.Units(units) {
			t.Errorf("credit %s, %v, want %d", credit, err, units)
		}
	}
	with := func(n int, units uint64) purchase.Purchase { p := call(n); p.Credit = money.Units(units); return p }
	has(0)
	if _, err := b.Reserve(ctx, with(1, 1)); !errors.Is(err, purchase.ErrNoCredit) {
		t.Errorf("out of nothing: %v", err)
	}
	if _, found, err := b.FindID(ctx, call(1).ID); found || err != nil {
		t.Errorf("reserved without credit: %v, %v", found, err)
	}
	p := sold(t, b, call(0))
	_, err := b.Refund(ctx, purchase.Refund{Purchase: p.ID, Kind: purchase.ByCredit, Amount: money.Units(500)})
	must(t, err)
	has(500)
	for name, spoil := range map[string]func(*purchase.Purchase){
		"another payer":   func(p *purchase.Purchase) { p.Payer[0]++ },
		"another payee":   func(p *purchase.Purchase) { p.Payee[0]++ },
		"another network": func(p *purchase.Purchase) { p.Network = "eip155:1" },
		"another asset":   func(p *purchase.Purchase) { p.Asset[0]++ },
	} {
		q := with(1, 1)
		spoil(&q)
		if _, err := b.Reserve(ctx, q); !errors.Is(err, purchase.ErrNoCredit) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := b.Reserve(ctx, with(1, 1001)); err == nil || errors.Is(err, purchase.ErrNoCredit) {
		t.Errorf("more credit than the purchase can cost: %v", err)
	}
	has(500)

	// Of many that take 100 each five get it.
	var taken [32]atomic.Bool
	if won := race(t, purchase.ErrNoCredit, func(n int) error {
		_, err := b.Reserve(ctx, with(n+1, 100))
		taken[n].Store(err == nil)
		return err
	}); won != 5 {
		t.Errorf("%d took 100 of 500", won)
	}
	has(0)
	var ids []string
	for n := range taken {
		if taken[n].Load() {
			ids = append(ids, call(n+1).ID)
			if _, err := b.Reserve(ctx, with(n+1, 100)); !errors.Is(err, purchase.ErrTaken) {
				t.Errorf("the same payment: %v", err)
			}
		}
	}
	if won := race(t, purchase.ErrState, func(int) error {
		return b.Finish(ctx, purchase.Purchase{ID: ids[0], State: purchase.Void})
	}); won != 1 {
		t.Errorf("%d made it void", won)
	}
	has(100)
	for i, charged := range []uint64{30, 100, 1000} { // less than was taken, as much, more
		must(t, b.Run(ctx, ids[i+1], nil, noon), b.Finish(ctx, purchase.Purchase{ID: ids[i+1], State: purchase.Committed, Charged: money.Units(charged)}))
		p, _, err := b.FindID(ctx, ids[i+1])
		if err != nil || p.Credit != money.Min(money.Units(charged), money.Units(100)) {
			t.Errorf("charged %d, of it %s from credit, %v", charged, p.Credit, err)
		}
	}
	has(170)
	must(t, b.Finish(ctx, purchase.Purchase{ID: ids[4], State: purchase.Pending}))
	has(170)
	must(t, b.Finish(ctx, purchase.Purchase{ID: ids[4], State: purchase.Void}))
	has(270)

	// A draw costs nothing; buying a bundle takes credit like any purchase.
	ask := purchase.BundleAsk{Draw: 1, Buy: 2, Lease: time.Hour}
	if _, _, err := b.ReserveCall(ctx, with(50, 271), ask); !errors.Is(err, purchase.ErrNoCredit) {
		t.Errorf("bought beyond credit: %v", err)
	}
	if _, found, err := b.FindBundle(ctx, call(50).ID); found || err != nil {
		t.Errorf("a bundle that nobody buys: %v, %v", found, err)
	}
	reserveCall(t, b, with(51, 270), ask)
	has(0)
	must(t, b.OpenBundle(ctx, call(51).ID, noon.Add(time.Hour)))
	if got, _ := reserveCall(t, b, with(52, 270), ask); !got.Credit.IsZero() {
		t.Errorf("a draw took %s of credit", got.Credit)
	}
	has(0)
}

// iterations makes each run of the property a payer of its own on the one book.
var iterations atomic.Uint64

func conserved(t *testing.T, b purchase.Book) {
	rapid.Check(t, func(t *rapid.T) {
		w := world{book: b}
		binary.BigEndian.PutUint64(w.payer[:], iterations.Add(1))
		one := func(t *rapid.T) string {
			if len(w.ids) == 0 {
				t.Skip("nothing was reserved")
			}
			return rapid.SampledFrom(w.ids).Draw(t, "purchase")
		}
		units := func(t *rapid.T, name string) uint64 { return rapid.Uint64Range(0, 6).Draw(t, name) }
		ctx := context.Background()
		t.Repeat(map[string]func(*rapid.T){
			"reserve": func(t *rapid.T) {
				p := w.next()
				p.Credit = money.Units(units(t, "credit"))
				w.reserved(b.Reserve(ctx, p))
			},
			"call": func(t *rapid.T) {
				p := w.next()
				ask := purchase.BundleAsk{Draw: units(t, "draw"), Buy: 2 * units(t, "buy"), Valid: time.Hour}
				if rapid.Bool().Draw(t, "named") && len(w.ids) > 0 {
					ask.Bundle = one(t)
				}
				got, _, err := b.ReserveCall(ctx, p, ask)
				w.reserved(got, err)
			},
			"again": func(t *rapid.T) {
				p, _, err := b.FindID(ctx, one(t))
				if err == nil {
					p.State, p.Bundle, p.Draws, p.Buys = purchase.Reserved, "", 0, 0
					_, _, err = b.ReserveCall(ctx, p, purchase.BundleAsk{Draw: 1, Buy: 3})
				}
				if !errors.Is(err, purchase.ErrTaken) && err == nil {
					t.Fatal("reserved twice")
				}
			},
			"run":         func(t *rapid.T) { _ = b.Run(ctx, one(t), nil, noon) },
			"settling":    func(t *rapid.T) { _ = b.Settling(ctx, one(t), nil) },
			"settled":     func(t *rapid.T) { _ = b.Settled(ctx, one(t), evm.Hash{1}) },
			"not settled": func(t *rapid.T) { _ = b.NotSettled(ctx, one(t)) },
			"open":        func(t *rapid.T) { _ = b.OpenBundle(ctx, one(t), noon.Add(time.Hour)) },
			"finish": func(t *rapid.T) {
				p, _, err := b.FindID(ctx, one(t))
				if err != nil {
					t.Fatal(err)
				}
				p.Draws, p.Due = min(p.Draws, units(t, "draws")), noon
				p.State = rapid.SampledFrom([]purchase.State{purchase.Working, purchase.Pending, purchase.Void, purchase.Committed}).Draw(t, "to")
				if p.State == purchase.Committed && !p.DrawsOnly() {
					p.Charged = money.Units(units(t, "charged"))
				}
				_ = b.Finish(ctx, p)
			},
			"refund": func(t *rapid.T) {
				r := purchase.Refund{Purchase: one(t), Kind: rapid.SampledFrom([]purchase.RefundKind{
					purchase.ByTransfer, purchase.ByCalls, purchase.ByCredit, purchase.ByNote,
				}).Draw(t, "kind"), Calls: units(t, "calls")}
				if r.Kind != purchase.ByCalls {
					r.Amount = money.Units(units(t, "amount"))
				}
				if r.Kind == purchase.ByNote {
					r.Proof = []byte("{}")
				}
				_, _ = b.Refund(ctx, r)
			},
			"": w.check,
		})
	})
}

// world is what one payer does on a book.
type world struct {
	book  purchase.Book
	payer evm.Address
	tries int
	ids   []string // of what was reserved
}

func (w *world) next() purchase.Purchase {
	w.tries++
	p := call(0)
	p.ID = fmt.Sprintf("p_%x_%d", w.payer, w.tries)
	p.Payer, p.Payment, p.Cap = w.payer, evm.Keccak256([]byte(p.ID)), money.Units(6)
	return p
}

func (w *world) reserved(p purchase.Purchase, err error) {
	if err == nil {
		w.ids = append(w.ids, p.ID)
	}
}

// check adds up: every unit of a bundle is left, drawn by a purchase, or paid back; all credit that was given is left or
// taken by a purchase.
func (w *world) check(t *rapid.T) {
	ctx := context.Background()
	accounted := make(map[string]uint64)
	given, taken := money.Amount{}, money.Amount{}
	for _, id := range w.ids {
		p, found, err := w.book.FindID(ctx, id)
		if err != nil || !found {
			t.Fatalf("%s: %v, %v", id, found, err)
		}
		if p.State == purchase.Void && (p.Draws > 0 || p.Settling || !p.Credit.IsZero()) {
			t.Fatalf("void, and it has %+v", p)
		}
		accounted[p.Bundle] += p.Draws
		taken, _ = taken.Add(p.Credit)
		r, found, err := w.book.FindRefund(ctx, id)
		switch {
		case err != nil:
			t.Fatal(err)
		case !found:
			continue
		case p.State != purchase.Committed || p.Charged.Less(r.Amount):
			t.Fatalf("refund %+v of %+v", r, p)
		case r.Kind == purchase.ByCalls:
			accounted[p.Bundle] -= r.Calls
		case p.Buys > 0:
			accounted[p.Bundle] += r.Calls
		}
		if r.Kind == purchase.ByCredit {
			given, _ = given.Add(r.Amount)
		}
	}
	p := w.next()
	bundles, err := w.book.Bundles(ctx, w.payer, p.Payee)
	if err != nil {
		t.Fatal(err)
	}
	for _, bundle := range bundles {
		if bundle.Remaining+accounted[bundle.ID] != bundle.Total {
			t.Fatalf("bundle %+v, and %d are accounted for", bundle, accounted[bundle.ID])
		}
		delete(accounted, bundle.ID)
	}
	for id, units := range accounted {
		if units != 0 {
			t.Fatalf("%d units of bundle %q, which is not there", units, id)
		}
	}
	credit, err := w.book.Credit(ctx, w.payer, p.Payee, p.Network, p.Asset)
	if sum, ok := credit.Add(taken); err != nil || !ok || sum != given {
		t.Fatalf("credit %s, taken %s, given %s, %v", credit, taken, given, err)
	}
}

// refundLate: what a note came too late for is given back by a guarantee, whether it was charged or never earned.
func refundLate(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	p := sold(t, b, sample(1))
	r, err := b.Refund(ctx, purchase.Refund{Purchase: p.ID, Kind: purchase.ByNote, Amount: money.Units(5), Proof: []byte("note"), At: noon})
	must(t, err)
	r.Kind, r.Proof = purchase.ByGuarantee, []byte("guarantee")
	must(t, b.FinishRefund(ctx, r))
	wantRefund(t, b, r)
	if again, err := b.Refund(ctx, purchase.Refund{Purchase: p.ID, Kind: purchase.ByNote, Amount: money.Units(5), Proof: []byte("note"), At: noon}); err != nil {
		t.Errorf("the same, as it was asked for: %v", err)
	} else {
		sameRefund(t, again, r)
	}
	back := r
	back.Kind, back.Proof = purchase.ByNote, []byte("note")
	must(t, b.FinishRefund(ctx, back)) // a guarantee becomes no note again
	wantRefund(t, b, r)
	r.State, r.Proof, r.DoneAt = purchase.Done, []byte("certified"), noon.Add(time.Minute)
	must(t, b.FinishRefund(ctx, r))
	wantRefund(t, b, r)

	void := sample(2)
	reserve(t, b, void)
	returned := func(p purchase.Purchase, units uint64) purchase.Refund {
		return purchase.Refund{Purchase: p.ID, Kind: purchase.ByReturn, Amount: money.Units(units), Proof: []byte("{}"), At: noon}
	}
	if _, err := b.Refund(ctx, returned(void, 1)); !errors.Is(err, purchase.ErrState) {
		t.Errorf("of what has not ended: %v", err)
	}
	must(t, b.Finish(ctx, finished(void, purchase.Void)))
	part := sold(t, b, sample(3)) // charged 900 of 1000
	for _, c := range []struct {
		p    purchase.Purchase
		most uint64
	}{{void, 1000}, {part, 100}} {
		if _, err := b.Refund(ctx, returned(c.p, c.most+1)); !errors.Is(err, purchase.ErrTooMuch) {
			t.Errorf("%s: more than was promised beyond the charge: %v", c.p.ID, err)
		}
		r, err := b.Refund(ctx, returned(c.p, c.most))
		must(t, err)
		r.State = purchase.Queued
		wantRefund(t, b, r)
		if _, err := b.Refund(ctx, transfer(c.p.ID, 1)); err == nil {
			t.Errorf("%s: given back twice", c.p.ID)
		}
	}
	if _, found, err := b.Bought(ctx, part.Payer, part.Payee, part.Route, noon.Add(-time.Hour)); err != nil || !found {
		t.Errorf("what was never earned came back, and the purchase is not there any more: %v, %v", found, err)
	}
}

// captured are purchases of which nothing can be let go any more.
func captured(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	one := sample(1)
	like := func(n int) purchase.Purchase {
		p := sample(n)
		p.Payee, p.Asset = one.Payee, one.Asset
		return p
	}
	first, second := sold(t, b, one), sold(t, b, like(2))
	noted := like(3)
	reserve(t, b, noted)
	noted.State, noted.Charged, noted.Proof, noted.RunAt, noted.DoneAt = purchase.Committed, money.Units(1), []byte("{}"), noon, noon
	must(t, b.Run(ctx, noted.ID, nil, noon), b.Finish(ctx, noted))
	reserve(t, b, like(4))
	refunded := sold(t, b, like(5))
	_, err := b.Refund(ctx, transfer(refunded.ID, 1))
	must(t, err)
	other := like(6)
	other.Way = "exact"
	sold(t, b, other)
	sold(t, b, sample(7)) // of another payee
	list := func(limit int) (ids []string) {
		all, err := b.Captured(ctx, one.Payee, one.Way, one.Network, one.Asset, limit)
		must(t, err)
		for _, p := range all {
			ids = append(ids, p.ID)
		}
		return ids
	}
	if got := list(0); !slices.Equal(got, []string{second.ID, first.ID}) {
		t.Errorf("captured are %v", got)
	}
	must(t, b.Delivered(ctx, noted.ID))
	if got := list(2); !slices.Equal(got, []string{noted.ID, second.ID}) {
		t.Errorf("captured are %v", got)
	}
}
