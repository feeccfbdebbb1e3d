// Package purchasetest holds the tests that every [purchase.Book] must pass. A new book is one more call of [Run].
package purchasetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
)

// noon is when everything here begins. It has nanoseconds, and a zone that books need not keep.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.FixedZone("somewhere", 3600))

// Run runs all tests, each on a new book that open returns and whatever cleanup it registers.
func Run(t *testing.T, open func(t *testing.T) purchase.Book) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, purchase.Book)
	}{
		{"a purchase comes back as it was written", roundTrip},
		{"a payment is one purchase's, whatever else differs", onePayment},
		{"an id is one purchase's, whatever else differs", oneID},
		{"of many that reserve a payment exactly one wins", reserveRace},
		{"of many that run or finish a purchase exactly one wins", runRace},
		{"every move from every state", moves},
		{"what contradicts itself is refused and changes nothing", contradictions},
		{"the unfinished, oldest first", unfinished},
		{"what a payer bought of a route, the newest, and not what is too old", bought},
		{"the undelivered, oldest first and at most so many", undelivered},
		{"what a caller does to its copies changes nothing", copies},
		{"the secret is one", secret},
		{"a cancelled call changes nothing", cancelled},
		{"a settlement that nobody knows about is neither charged nor void", unknown},
		{"money that moved is not void", moved},
		{"an answer held back is kept until it is replaced or void", heldBack},
		{"what is owed rises stage by stage", owing},
		{"a bundle is bought once and drawn down", bundled},
		{"a draw runs as it is reserved, and what buys does not", drawnAtOnce},
		{"of many that want a bundle at once one buys it", buyRace},
		{"of many that want the last units exactly as many get them", lastCalls},
		{"a draw is of one bundle, the one that ends first", whichBundle},
		{"a bundle serves its own payer, payee, network, asset and route", whoseBundle},
		{"who waits for a bundle that is never paid buys in the end", lease},
		{"what is not used returns, once", drawsReturn},
		{"a bundle that is not paid vanishes", vanish},
		{"a purchase is refunded once, and never more than was charged", refundRules},
		{"of many refunds exactly one is made", refundRace},
		{"every state of a refund", refundStates},
		{"a refund comes too late for a note", refundLate},
		{"captured purchases", captured},
		{"calls return to their bundle, and unused ones are paid back once", refundBundle},
		{"credit is what was given less what was taken", creditRules},
		{"units and credit are conserved, whatever happens", conserved},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, open(t))
		})
	}
}

// sample returns a purchase that can be reserved, different for every n.
func sample(n int) purchase.Purchase {
	text := fmt.Sprintf("%d", n)
	hash := func(what string) evm.Hash { return evm.Keccak256([]byte(what), []byte(text)) }
	address := func(what string) (a evm.Address) { h := hash(what); copy(a[:], h[:]); return a }
	return purchase.Purchase{
		ID: "p_" + text, Payment: hash("payment"), Request: hash("request"), State: purchase.Reserved,
		Route: "GET /quote/{symbol}", Method: "GET", URL: "https://example.test/quote/ACME?x=%20&n=" + text,
		Way: "4mica-credit", Network: "eip155:31337", Asset: address("asset"), Payer: address("payer"), Payee: address("payee"),
		Cap: money.Units(1000), Unit: "record", Price: "$0.001 per record, minimum $0.0002", ReservedAt: noon.Add(time.Duration(n) * time.Second),
	}
}

// finished returns the purchase as Finish is to leave it.
func finished(p purchase.Purchase, to purchase.State) purchase.Purchase {
	p.State, p.DoneAt = to, p.ReservedAt.Add(time.Minute)
	p.Owed, p.Charged, p.Answer = money.Amount{}, money.Amount{}, nil
	if to == purchase.Working || to == purchase.Pending {
		p.Owed, p.Due = money.Units(998), p.ReservedAt.Add(time.Hour)
	}
	p.Units, p.Cost, p.Downstream, p.Outcome = 99, money.Units(7), money.Units(3), "slow"
	if to == purchase.Committed {
		p.Charged = money.Units(999)
	}
	if to == purchase.Committed || to == purchase.Working {
		p.Answer = &purchase.Answer{Status: 200, Header: map[string][]string{"X-Two": {"b", "a"}, "X-None": {}}, Body: []byte{0, 'x', 255}, Whole: true}
	}
	return p
}

func reserve(t *testing.T, b purchase.Book, p purchase.Purchase) {
	t.Helper()
	if _, err := b.Reserve(t.Context(), p); err != nil {
		t.Fatalf("reserve %s: %v", p.ID, err)
	}
}

// want fails unless the book has exactly p, under its payment and under its id.
func want(t *testing.T, b purchase.Book, p purchase.Purchase) {
	t.Helper()
	byID, found, err := b.FindID(t.Context(), p.ID)
	if err != nil || !found {
		t.Fatalf("find %s: %v, %v", p.ID, found, err)
	}
	byPayment, found, err := b.Find(t.Context(), p.Payment)
	if err != nil || !found {
		t.Fatalf("find payment of %s: %v, %v", p.ID, found, err)
	}
	same(t, byID, p)
	same(t, byPayment, p)
}

// same fails unless the purchases are equal; times count as instants, and nothing as empty.
func same(t *testing.T, got, p purchase.Purchase) {
	t.Helper()
	for _, pair := range [][2]*time.Time{{&got.ReservedAt, &p.ReservedAt}, {&got.RunAt, &p.RunAt}, {&got.DoneAt, &p.DoneAt}, {&got.Due, &p.Due}} {
		if !pair[0].Equal(*pair[1]) {
			t.Errorf("%s: time %v, want %v", p.ID, pair[0], pair[1])
		}
		*pair[0], *pair[1] = time.Time{}, time.Time{}
	}
	if !bytes.Equal(got.Certificate, p.Certificate) || !bytes.Equal(got.Proof, p.Proof) {
		t.Errorf("%s: certificate %q, proof %q, want %q, %q", p.ID, got.Certificate, got.Proof, p.Certificate, p.Proof)
	}
	got.Certificate, got.Proof, p.Certificate, p.Proof = nil, nil, nil, nil
	if !reflect.DeepEqual(got.Answer, p.Answer) {
		t.Errorf("%s: answer %+v, want %+v", p.ID, got.Answer, p.Answer)
	}
	got.Answer, p.Answer = nil, nil
	if !reflect.DeepEqual(got, p) {
		t.Errorf("%s: got  %+v\nwant %+v", p.ID, got, p)
	}
}

func roundTrip(t *testing.T, b purchase.Book) {
	p := sample(1)
	huge, err := money.ParseAmount("115792089237316195423570985008687907853269984665640564039457584007913129639935")
	if err != nil {
		t.Fatal(err)
	}
	p.Cap = huge
	if _, found, err := b.Find(t.Context(), p.Payment); found || err != nil {
		t.Fatalf("found %v, %v before it was reserved", found, err)
	}
	if _, found, err := b.FindID(t.Context(), p.ID); found || err != nil {
		t.Fatalf("found %v, %v before it was reserved", found, err)
	}
	got, err := b.Reserve(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, p)
	want(t, b, p)

	p.State, p.Certificate, p.RunAt = purchase.Running, []byte(`{"a":1}`), noon.Add(time.Hour)
	if err := b.Run(t.Context(), p.ID, p.Certificate, p.RunAt); err != nil {
		t.Fatal(err)
	}
	want(t, b, p)

	p = finished(p, purchase.Pending)
	if err := b.Finish(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	want(t, b, p)

	p = finished(p, purchase.Committed)
	p.Charged, p.Cost, p.Proof = huge, huge, []byte(`{"b":2}`)
	if err := b.Finish(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	want(t, b, p)
}

func onePayment(t *testing.T, b purchase.Book) {
	first := sample(1)
	reserve(t, b, first)
	for name, other := range map[string]purchase.Purchase{
		"the same again":  first,
		"another id":      {ID: "p_other", Payment: first.Payment, Request: first.Request, State: purchase.Reserved, Cap: first.Cap},
		"another request": {ID: "p_third", Payment: first.Payment, Request: evm.Keccak256([]byte("other")), State: purchase.Reserved},
	} {
		got, err := b.Reserve(t.Context(), other)
		if !errors.Is(err, purchase.ErrTaken) {
			t.Errorf("%s: %v, want %v", name, err, purchase.ErrTaken)
		}
		same(t, got, first)
	}
	want(t, b, first)
	if _, found, err := b.FindID(t.Context(), "p_other"); found || err != nil {
		t.Errorf("a purchase without a payment: %v, %v", found, err)
	}

	done := finished(first, purchase.Void)
	if err := b.Finish(t.Context(), done); err != nil {
		t.Fatal(err)
	}
	got, err := b.Reserve(t.Context(), first)
	if !errors.Is(err, purchase.ErrTaken) {
		t.Errorf("a payment whose purchase is void: %v, want %v", err, purchase.ErrTaken)
	}
	same(t, got, done)
}

// The id is the payer's to choose, so a second payment may come under it.
func oneID(t *testing.T, b purchase.Book) {
	first, second := sample(1), sample(2)
	reserve(t, b, first)
	second.ID = first.ID
	got, err := b.Reserve(t.Context(), second)
	if !errors.Is(err, purchase.ErrTaken) {
		t.Errorf("%v, want %v", err, purchase.ErrTaken)
	}
	same(t, got, first)
	want(t, b, first)
	if _, found, err := b.Find(t.Context(), second.Payment); found || err != nil {
		t.Errorf("the second payment was taken: %v, %v", found, err)
	}

	third := sample(3)
	reserve(t, b, third)
	third.ID = first.ID // payment of one, id of another: the payment counts
	if got, err = b.Reserve(t.Context(), third); !errors.Is(err, purchase.ErrTaken) || got.ID != sample(3).ID {
		t.Errorf("%s, %v, want %s, %v", got.ID, err, sample(3).ID, purchase.ErrTaken)
	}
}

// race calls fn many times at once and returns how many calls were won; the others must fail with lost.
func race(t *testing.T, lost error, fn func(n int) error) int {
	t.Helper()
	var wg sync.WaitGroup
	var won atomic.Int64
	for n := range 32 {
		wg.Go(func() {
			switch err := fn(n); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, lost):
				t.Errorf("%v, want %v", err, lost)
			}
		})
	}
	wg.Wait()
	return int(won.Load())
}

func reserveRace(t *testing.T, b purchase.Book) {
	if won := race(t, purchase.ErrTaken, func(n int) error {
		p := sample(1)
		p.ID = fmt.Sprintf("p_%d", n)
		got, err := b.Reserve(t.Context(), p)
		if err == nil && got.ID != p.ID {
			t.Errorf("won as %s, got %s", p.ID, got.ID)
		}
		return err
	}); won != 1 {
		t.Errorf("%d won", won)
	}
}

func runRace(t *testing.T, b purchase.Book) {
	p := sample(1)
	reserve(t, b, p)
	if won := race(t, purchase.ErrState, func(n int) error { return b.Run(t.Context(), p.ID, []byte{byte('0' + n)}, noon) }); won != 1 {
		t.Errorf("%d ran it", won)
	}
	if won := race(t, purchase.ErrState, func(n int) error {
		to := purchase.Committed
		if n%2 == 1 {
			to = purchase.Void
		}
		return b.Finish(t.Context(), finished(p, to))
	}); won != 1 {
		t.Errorf("%d finished it", won)
	}
	got, _, err := b.FindID(t.Context(), p.ID)
	if err != nil || !got.State.Final() || (got.State == purchase.Committed) != (got.Answer != nil) {
		t.Errorf("%v: %+v", err, got)
	}
}

func moves(t *testing.T, b purchase.Book) {
	reach := map[purchase.State][]purchase.State{
		purchase.Reserved:  nil,
		purchase.Running:   {purchase.Running},
		purchase.Working:   {purchase.Running, purchase.Working},
		purchase.Pending:   {purchase.Running, purchase.Pending},
		purchase.Committed: {purchase.Running, purchase.Committed},
		purchase.Void:      {purchase.Void},
	}
	move := func(p purchase.Purchase, to purchase.State) error {
		if to == purchase.Running {
			return b.Run(t.Context(), p.ID, nil, noon)
		}
		return b.Finish(t.Context(), finished(p, to))
	}
	n := 0
	for from, path := range reach {
		for to := range reach {
			n++
			p := sample(n)
			reserve(t, b, p)
			for _, step := range path {
				if err := move(p, step); err != nil {
					t.Fatalf("to %s: %v", step, err)
				}
			}
			before, _, err := b.FindID(t.Context(), p.ID)
			if err != nil || before.State != from {
				t.Fatalf("%s, %v, want %s", before.State, err, from)
			}
			may := from.May(to) && to != purchase.Reserved
			err = move(p, to)
			if may && err != nil || !may && !errors.Is(err, purchase.ErrState) {
				t.Errorf("from %s to %s: %v, allowed: %v", from, to, err, may)
			}
			if !may {
				want(t, b, before)
			} else if to == purchase.Running {
				before.State, before.RunAt = to, noon
				want(t, b, before)
			} else {
				after := finished(p, to)
				after.RunAt = before.RunAt
				if after.Answer == nil && to != purchase.Void {
					after.Answer = before.Answer
				}
				want(t, b, after)
			}
		}
	}
	nobody := sample(0)
	for to := range reach {
		if err := move(nobody, to); !errors.Is(err, purchase.ErrState) {
			t.Errorf("a purchase that is not there to %s: %v, want %v", to, err, purchase.ErrState)
		}
	}
	if _, err := b.Reserve(t.Context(), finished(nobody, purchase.Committed)); !errors.Is(err, purchase.ErrState) {
		t.Errorf("reserved as committed: %v, want %v", err, purchase.ErrState)
	}
}

func contradictions(t *testing.T, b purchase.Book) {
	p := sample(1)
	reserve(t, b, p)
	if err := b.Run(t.Context(), p.ID, nil, noon); err != nil {
		t.Fatal(err)
	}
	p.State, p.RunAt = purchase.Running, noon
	for name, spoil := range map[string]func(*purchase.Purchase){
		"more than the cap":    func(q *purchase.Purchase) { q.Charged = money.Units(1001) },
		"a charge of nothing":  func(q *purchase.Purchase) { q.State, q.Answer = purchase.Void, nil },
		"an answer when void":  func(q *purchase.Purchase) { q.State, q.Charged = purchase.Void, money.Amount{} },
		"a charge not decided": func(q *purchase.Purchase) { q.State, q.Answer = purchase.Pending, nil },
		"a debt past the cap": func(q *purchase.Purchase) {
			q.State, q.Charged, q.Owed = purchase.Pending, money.Amount{}, money.Units(1001)
		},
		"a job without end": func(q *purchase.Purchase) { q.State, q.Charged = purchase.Working, money.Amount{} },
		"a draw of nothing": func(q *purchase.Purchase) { q.Draws = 1 },
	} {
		q := finished(p, purchase.Committed)
		spoil(&q)
		if err := b.Finish(t.Context(), q); err == nil {
			t.Errorf("%s: no error", name)
		}
		want(t, b, p)
	}
	if _, err := b.Reserve(t.Context(), purchase.Purchase{Payment: evm.Keccak256(nil), State: purchase.Reserved}); err == nil {
		t.Error("reserved without an id")
	}
}

func unfinished(t *testing.T, b purchase.Book) {
	list := func() (ids []string) {
		t.Helper()
		all, err := b.Unfinished(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			ids = append(ids, p.ID)
		}
		return ids
	}
	if got := list(); len(got) != 0 {
		t.Errorf("an empty book has %v", got)
	}
	for _, n := range []int{3, 1, 5, 2, 4} { // not in the order of their times
		reserve(t, b, sample(n))
	}
	twin := sample(6) // as old as the second, but written later
	twin.ReservedAt = sample(2).ReservedAt
	reserve(t, b, twin)
	for _, err := range []error{
		b.Run(t.Context(), "p_2", nil, noon),
		b.Finish(t.Context(), finished(sample(3), purchase.Pending)),
		b.Finish(t.Context(), finished(sample(4), purchase.Void)),
		b.Run(t.Context(), "p_5", nil, noon),
		b.Finish(t.Context(), finished(sample(5), purchase.Committed)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got, want := list(), []string{"p_1", "p_2", "p_6", "p_3"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func bought(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	one, two, void, open := sample(1), sample(2), sample(3), sample(4)
	for i, p := range []*purchase.Purchase{&one, &two, &void, &open} {
		p.Payer, p.Payee, p.Route = one.Payer, one.Payee, one.Route
		reserve(t, b, *p)
		state := []purchase.State{purchase.Committed, purchase.Committed, purchase.Void, ""}[i]
		if state == "" {
			continue
		}
		if state == purchase.Committed {
			must(t, b.Run(ctx, p.ID, nil, noon))
		}
		*p = finished(*p, state)
		p.DoneAt = noon.Add(time.Duration(i) * time.Hour)
		must(t, b.Finish(ctx, *p))
	}
	for _, c := range []struct {
		name         string
		payer, payee evm.Address
		route        string
		since        time.Time
		want         string
	}{
		{"the newest", one.Payer, one.Payee, one.Route, noon.Add(-time.Hour), two.ID},
		{"at the last moment", one.Payer, one.Payee, one.Route, noon.Add(time.Hour), two.ID},
		{"too late", one.Payer, one.Payee, one.Route, noon.Add(time.Hour + 1), ""},
		{"another payer", one.Payee, one.Payee, one.Route, noon, ""},
		{"another payee", one.Payer, one.Payer, one.Route, noon, ""},
		{"another route", one.Payer, one.Payee, one.Route + "/", noon, ""},
	} {
		p, found, err := b.Bought(ctx, c.payer, c.payee, c.route, c.since)
		if err != nil || found != (c.want != "") || p.ID != c.want {
			t.Errorf("%s: %q %v %v, want %q", c.name, p.ID, found, err, c.want)
		}
	}
	for _, c := range []struct {
		name   string
		refund purchase.Refund
		want   string
	}{
		{"a part of the newest was given back", purchase.Refund{Purchase: two.ID, Kind: purchase.ByTransfer, Amount: money.Units(1), At: noon}, two.ID},
		{"the other was given back", purchase.Refund{Purchase: one.ID, Kind: purchase.ByCredit, Amount: one.Charged, At: noon}, two.ID},
	} {
		if _, err := b.Refund(ctx, c.refund); err != nil {
			t.Fatal(err)
		}
		if p, found, err := b.Bought(ctx, one.Payer, one.Payee, one.Route, noon); !found || err != nil || p.ID != c.want {
			t.Errorf("%s: %q %v %v, want %q", c.name, p.ID, found, err, c.want)
		}
	}
	three := sample(5)
	three.Payer, three.Payee, three.Route = one.Payer, one.Payee, one.Route+"/back"
	reserve(t, b, three)
	must(t, b.Run(ctx, three.ID, nil, noon))
	three = finished(three, purchase.Committed)
	three.DoneAt = noon
	must(t, b.Finish(ctx, three))
	if _, err := b.Refund(ctx, purchase.Refund{Purchase: three.ID, Kind: purchase.ByTransfer, Amount: three.Charged, At: noon}); err != nil {
		t.Fatal(err)
	}
	if p, found, err := b.Bought(ctx, three.Payer, three.Payee, three.Route, noon); found || err != nil {
		t.Errorf("given back whole: %q %v %v", p.ID, found, err)
	}
}

func undelivered(t *testing.T, b purchase.Book) {
	list := func(limit int) (ids []string) {
		t.Helper()
		all, err := b.Undelivered(t.Context(), limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			ids = append(ids, p.ID)
		}
		return ids
	}
	for n, proof := range map[int]string{1: "", 2: "{}", 3: "{}", 4: "{}", 5: "{}"} {
		p := sample(n)
		reserve(t, b, p)
		to := purchase.Void
		if n == 5 {
			to = purchase.Pending
		}
		p = finished(p, to)
		p.Proof = []byte(proof)
		if err := b.Finish(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := list(10), []string{"p_2", "p_3", "p_4"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got, want := list(2), []string{"p_2", "p_3"}; !slices.Equal(got, want) {
		t.Errorf("at most 2: %v, want %v", got, want)
	}
	for range 2 { // telling it twice is no fault
		if err := b.Delivered(t.Context(), "p_2"); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := list(10), []string{"p_3", "p_4"}; !slices.Equal(got, want) {
		t.Errorf("after the first: %v, want %v", got, want)
	}
	for _, id := range []string{"p_1", "p_5", "p_none"} {
		if err := b.Delivered(t.Context(), id); !errors.Is(err, purchase.ErrState) {
			t.Errorf("delivered %s: %v, want %v", id, err, purchase.ErrState)
		}
	}
}

func copies(t *testing.T, b purchase.Book) {
	p := sample(1)
	reserve(t, b, p)
	p.State, p.Certificate, p.RunAt = purchase.Running, []byte("cert"), noon
	if err := b.Run(t.Context(), p.ID, p.Certificate, p.RunAt); err != nil {
		t.Fatal(err)
	}
	p = finished(p, purchase.Committed)
	p.Proof = []byte("proof")
	if err := b.Finish(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	scribble := func(p purchase.Purchase) {
		p.Certificate[0], p.Proof[0], p.Answer.Body[0] = 'X', 'X', 'X'
		p.Answer.Status, p.Answer.Header["X-Two"][0] = 500, "X"
	}
	scribble(p)
	got, _, err := b.FindID(t.Context(), p.ID)
	if err != nil {
		t.Fatal(err)
	}
	scribble(got)
	p = finished(p, purchase.Committed)
	p.Certificate, p.Proof = []byte("cert"), []byte("proof")
	want(t, b, p)
}

func secret(t *testing.T, b purchase.Book) {
	var mu sync.Mutex
	seen := make(map[[32]byte]bool)
	race(t, nil, func(int) error {
		s, err := b.Secret(t.Context())
		mu.Lock()
		defer mu.Unlock()
		seen[s] = true
		return err
	})
	if len(seen) != 1 || seen[[32]byte{}] {
		t.Errorf("%d secrets, or none", len(seen))
	}
}

func cancelled(t *testing.T, b purchase.Book) {
	p := sample(1)
	reserve(t, b, p)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, errReserve := b.Reserve(ctx, sample(2))
	_, _, errCall := b.ReserveCall(ctx, sample(2), purchase.BundleAsk{Draw: 1, Buy: 1})
	_, errRefund := b.Refund(ctx, purchase.Refund{Purchase: p.ID, Kind: purchase.ByTransfer, Amount: money.Units(1)})
	_, _, errBundle := b.FindBundle(ctx, p.ID)
	_, errBundles := b.Bundles(ctx, p.Payer, p.Payee)
	_, _, errFindRefund := b.FindRefund(ctx, p.ID)
	_, errRefunds := b.OpenRefunds(ctx)
	_, errCredit := b.Credit(ctx, p.Payer, p.Payee, p.Network, p.Asset)
	_, _, errFind := b.Find(ctx, p.Payment)
	_, _, errID := b.FindID(ctx, p.ID)
	_, errList := b.Unfinished(ctx)
	_, errProofs := b.Undelivered(ctx, 1)
	for i, err := range []error{
		errReserve, b.Run(ctx, p.ID, nil, noon), b.Finish(ctx, finished(p, purchase.Void)), errFind, errID, errList, errProofs,
		errCall, errRefund, errBundle, errBundles, errFindRefund, errRefunds, errCredit, b.Settling(ctx, p.ID, nil),
		b.Settled(ctx, p.ID, evm.Hash{1}), b.NotSettled(ctx, p.ID), b.Owe(ctx, p.ID, money.Units(1)), b.OpenBundle(ctx, p.ID, noon),
		b.FinishRefund(ctx, purchase.Refund{Purchase: p.ID, State: purchase.Done}), b.Delivered(ctx, p.ID),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("call %d: %v, want %v", i, err, context.Canceled)
		}
	}
	want(t, b, p)
	if _, found, err := b.FindID(t.Context(), sample(2).ID); found || err != nil {
		t.Errorf("reserved after all: %v, %v", found, err)
	}
}
