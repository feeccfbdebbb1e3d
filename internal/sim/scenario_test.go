package sim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// The process may die at any use of its book, before or after what it writes is on disk, and goes on from there.
func TestKilledAtEveryUseOfTheBook(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]fault{"before": failBefore, "inside": failInside, "after": failAfter} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for use := 1; use <= 30; use++ {
				w, err := newWorld(uint64(use), profiles[0], memory())
				if err != nil {
					t.Fatal(err)
				}
				left := use
				w.book.next = func(write bool) (fault, bool) {
					if left--; left != 0 {
						return noFault, false
					}
					if !write {
						return failBefore, true
					}
					return f, true
				}
				if err := w.run(18); err != nil {
					t.Errorf("killed at use %d: %v", use, err)
				}
			}
		})
	}
}

// Many callers, several houses and the closing of cycles at once: no guarantee is admitted beyond its payer's collateral,
// lost or counted twice.
func TestManyCallersAtOnce(t *testing.T) {
	t.Parallel()
	w, err := newWorld(1, profiles[0], memory())
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	const callers, each, amount = 8, 25, 7
	asks := make([][]clearing.Request, callers)
	for i := range asks {
		for range each {
			c := w.claims()
			c.Payer, c.Asset, c.Amount, c.Timestamp = parties[0].Address(), assets[0], money.Units(amount), w.now
			c.Payee = parties[1+i%(partyMax-1)].Address()
			asks[i] = append(asks[i], clearing.Request{Signed: w.sign(c), Batch: i%2 == 0})
		}
	}
	var clock atomic.Int64
	clock.Store(int64(w.now))
	var admitted, refused atomic.Int64
	var wg, closing sync.WaitGroup
	stop := make(chan struct{})
	closing.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := w.houses[1].CloseDue(ctx, time.Unix(clock.Load(), 0), uint64(clock.Load())); err != nil {
					t.Errorf("close: %v", err)
				}
			}
		}
	})
	var mu sync.Mutex
	for i := range asks {
		wg.Go(func() {
			for k, r := range asks[i] {
				if k == each/2 {
					clock.Add(1)
				}
				for range 2 { // the second time it is a replay, or refused again
					got := w.houses[(i+k)%2].Admit(ctx, []clearing.Request{r}, time.Unix(clock.Load(), 0))[0]
					switch {
					case got.Err == nil && !got.Replayed:
						admitted.Add(1)
						mu.Lock()
						w.certs = append(w.certs, held{r.Signed, got.Digest, got.Certificate, got.Cycle})
						mu.Unlock()
					case errors.Is(got.Err, clearing.ErrExposure):
						refused.Add(1)
					case got.Err != nil:
						t.Errorf("caller %d: %v", i, got.Err)
					}
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	closing.Wait()
	if n := admitted.Load(); n != deposited/amount || refused.Load() != 2*(callers*each-n) {
		t.Errorf("%d admitted, %d refused; collateral is for %d", n, refused.Load(), deposited/amount)
	}
	w.checked = -1
	if err := w.check(); err != nil {
		t.Error(err)
	}
	w.now = uint64(clock.Load())
	if err := w.quiesce(); err != nil {
		t.Error(err)
	}
}

// A choice that the confirmed stream has applied stays when a reorganisation takes back what only the head has seen.
func TestReorgOfTheHeadKeepsConfirmedChoices(t *testing.T) {
	t.Parallel()
	w, err := newWorld(1, profiles[0], memory())
	if err != nil {
		t.Fatal(err)
	}
	who := parties[0].Address()
	mine := func(n int) {
		t.Helper()
		for range n {
			w.now++
			w.chain.Mine(w.now, nil)
			if err := errors.Join(w.follow(w.houses[0]), w.check()); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.chain.SetAutoSettle(who, true)
	mine(1)
	w.chain.SetLimit(who, assets[0], money.Units(5), true) // the head remembers the choice as it was: not made
	mine(depth)
	if a, err := w.houses[0].Account(context.Background(), who, assets[0]); err != nil || !a.AutoSettle {
		t.Fatalf("choice is not confirmed: %v", err)
	}
	w.chain.Drop(depth)
	mine(depth + 1)
	a, err := w.houses[0].Account(context.Background(), who, assets[0])
	if limit, limited := a.Limit(); err != nil || !a.AutoSettle || limited {
		t.Errorf("settled by choice %v, limit %s %v (%v)", a.AutoSettle, limit, limited, err)
	}
}

// The model refuses what the contracts refuse, and what it refuses changes nothing.
func TestChainRefuses(t *testing.T) {
	t.Parallel()
	payer, payee, asset := parties[0].Address(), parties[1].Address(), assets[0]
	if slicesGreater(payer, payee) {
		payer, payee = payee, payer
	}
	s := schedules[0]
	ref := clearing.CycleRef{Asset: asset, Start: genesis}
	id := ref.ID()
	opens, closes := genesis+s.Length+s.Cutoff, genesis+s.Length+s.Cutoff+s.Post
	entry := func(who evm.Address, role clearing.Role, amount uint64) []byte {
		word := money.Units(amount).Word()
		b := append(append(who[:len(who):len(who)], byte(role)), word[16:]...)
		return append(b, make([]byte, 32)...)
	}
	book := func(debit, credit uint64) []byte {
		return append(entry(payer, clearing.Debtor, debit), entry(payee, clearing.Creditor, credit)...)
	}
	post := func(positions []byte) op {
		return op{Kind: opPost, Asset: asset, Start: genesis, Height: 1, Positions: positions}
	}
	leaves := func(c *Chain, amount uint64) (debit, credit evm.Hash) {
		x := execution{Chain: c}
		cy := &cycle{ref: ref}
		return x.leaf(cy, payer, clearing.Debtor, money.Units(amount)), x.leaf(cy, payee, clearing.Creditor, money.Units(amount))
	}
	commit := func(c *Chain, amount uint64) op {
		d, k := leaves(c, amount)
		return op{Kind: opCommit, Asset: asset, Cycle: id, Root: foldPairs([]evm.Hash{d, k}), Amount: money.Units(amount), Deadline: closes + 1}
	}
	type step struct {
		at   uint64
		from evm.Address
		op   op
		want error
	}
	by := func(at uint64, o op, want error) step { return step{at, operator, o, want} }
	for _, tt := range []struct {
		name  string
		steps func(c *Chain) []step
	}{
		{"posting before the cutoff, by a stranger, after the deadline", func(*Chain) []step {
			return []step{
				by(opens-1, post(book(5, 5)), errTooEarly),
				{opens, payer, post(book(5, 5)), errCaller},
				by(closes+1, post(book(5, 5)), errTooLate),
			}
		}},
		{"positions out of order, or with an amount that the role cannot have", func(*Chain) []step {
			return []step{
				by(opens, post(append(entry(payee, clearing.Creditor, 5), entry(payer, clearing.Debtor, 5)...)), errMalformed),
				by(opens, post(append(entry(payer, clearing.Debtor, 5), entry(payer, clearing.Creditor, 5)...)), errMalformed),
				by(opens, post(entry(payer, clearing.Flat, 5)), errMalformed),
				by(opens, post(book(5, 5)[:100]), errMalformed),
				by(opens, post(nil), errMalformed),
			}
		}},
		{"a debit beyond collateral and bond", func(*Chain) []step {
			return []step{by(opens, post(book(301, 301)), errUnfunded), by(opens, post(book(300, 300)), nil)}
		}},
		{"a chunk twice, one out of turn, one behind a short chunk", func(*Chain) []step {
			late := post(book(5, 5))
			late.Chunk = 2
			return []step{by(opens, late, errOutOfTurn), by(opens, post(entry(payer, clearing.Debtor, 5)), nil), by(opens, post(book(5, 5)), errOutOfTurn)}
		}},
		{"sealing without positions, with other totals, another root, too late, twice", func(c *Chain) []step {
			other := commit(c, 5)
			other.Root = evm.Hash{1}
			return []step{
				by(opens, commit(c, 5), errStatus),
				by(opens, post(book(5, 5)), nil),
				by(opens, commit(c, 6), errTotals),
				by(opens, other, errProof),
				by(opens, commit(c, 5), nil),
				by(opens, commit(c, 5), errStatus),
				by(opens, post(book(5, 5)), errStatus),
			}
		}},
		{"sealing what does not balance", func(c *Chain) []step {
			return []step{by(opens, post(book(5, 4)), nil), by(opens, commit(c, 5), errTotals)}
		}},
		{"sealing after the deadline", func(c *Chain) []step {
			return []step{by(opens, post(book(5, 5)), nil), by(closes+1, commit(c, 5), errTooLate)}
		}},
		{"claims before finality, of others, twice; marks of who has paid", func(c *Chain) []step {
			d, k := leaves(c, 5)
			final := opens + 1 + s.Challenge + 1
			claim := op{Kind: opClaim, Cycle: id, Amount: money.Units(5), Proof: []evm.Hash{d}}
			pay := op{Kind: opPay, Cycle: id, Amount: money.Units(5), Proof: []evm.Hash{k}}
			mark := op{Kind: opMark, Cycle: id, Account: payer, Amount: money.Units(5), Proof: []evm.Hash{k}}
			return []step{
				by(opens, post(book(5, 5)), nil), by(opens+1, commit(c, 5), nil),
				{opens + 2, payee, claim, errTooEarly},
				{opens + 2, payer, mark, errTooEarly},
				{opens + 2, payer, claim, errTooEarly},
				{opens + 2, payer, pay, nil},
				{opens + 2, payer, pay, errAlready},
				{final, payer, claim, errProof},
				{final, payee, claim, nil},
				{final, payee, claim, errAlready},
				by(final, mark, errAlready),
				by(final, op{Kind: opFinalize, Cycle: id}, errAlready),
				by(final, op{Kind: opVoid, Cycle: id}, errStatus),
			}
		}},
		{"payment and mark of who chose to be settled", func(c *Chain) []step {
			_, k := leaves(c, 5)
			final := opens + s.Challenge + 1
			mark := op{Kind: opMark, Cycle: id, Account: payer, Amount: money.Units(5), Proof: []evm.Hash{k}}
			pay := op{Kind: opPay, Cycle: id, Amount: money.Units(5), Proof: []evm.Hash{k}}
			return []step{
				by(opens, post(book(5, 5)), nil), by(opens, commit(c, 5), nil),
				{opens, payer, op{Kind: opAutoSettle, On: true}, nil},
				by(final, mark, errByChoice),
				{final, payer, op{Kind: opAutoSettle}, nil},
				by(final, mark, nil),
				{final, payer, pay, errAlready},
			}
		}},
		{"release of what is sealed, not there, or released", func(c *Chain) []step {
			release := op{Kind: opRelease, Cycle: id, Positions: book(5, 5)}
			return []step{
				by(opens, post(book(5, 5)), nil),
				by(opens, release, errStatus),
				by(closes+1, op{Kind: opRelease, Cycle: id, Positions: book(6, 6)}, errUnknown),
				by(closes+1, release, nil),
				by(closes+1, release, errAlready),
			}
		}},
		{"a voided cycle is posted once more, and then no more", func(c *Chain) []step {
			again := post(book(5, 5))
			again.Generation = 1
			seal := commit(c, 5)
			seal.Deadline = opens + s.Challenge
			return []step{
				by(opens, post(book(5, 5)), nil), by(opens, seal, nil), by(opens, op{Kind: opVoid, Cycle: id}, nil),
				by(opens, post(book(5, 5)), errOutOfTurn),
				by(opens, op{Kind: opRelease, Cycle: id, Positions: book(5, 5)}, nil),
				by(opens, again, nil), by(opens, seal, nil), by(opens, op{Kind: opVoid, Cycle: id}, nil),
				by(opens, again, errStatus),
			}
		}},
		{"withdrawal before the delay, of more than there is, without a request", func(*Chain) []step {
			request := op{Kind: opRequest, Asset: asset, Amount: money.Units(300)}
			return []step{
				{opens, payer, op{Kind: opFinish, Asset: asset}, errNoRequest},
				{opens, payer, op{Kind: opRequest, Asset: asset, Amount: money.Units(301)}, errAvailable},
				{opens, payer, op{Kind: opRequest, Asset: asset}, errAmount},
				{opens, payer, request, nil},
				{opens + delay - 1, payer, op{Kind: opFinish, Asset: asset}, errTooEarly},
				{opens + delay, payer, op{Kind: opFinish, Asset: asset}, nil},
				{opens + delay, payer, op{Kind: opCancel, Asset: asset}, errNoRequest},
			}
		}},
		{"a lower limit acts from the next cycle", func(*Chain) []step {
			return []step{
				{genesis + 1, payer, op{Kind: opLimit, Asset: asset, Amount: money.Units(4), On: true}, nil},
				by(opens, post(book(5, 5)), nil),
				by(opens+s.Length, op{Kind: opPost, Asset: asset, Start: genesis + s.Length, Height: 1, Positions: book(5, 5)}, errUnfunded),
				by(opens+s.Length, op{Kind: opPost, Asset: asset, Start: genesis + s.Length, Height: 1, Positions: book(4, 4)}, nil),
			}
		}},
		{"schedules of strangers, and such as W does not cover", func(*Chain) []step {
			long := s
			long.Redeem, long.From = 1000, genesis+1000*s.Length
			next := s
			next.From = genesis + delay - delay%s.Length + 2*s.Length
			soon := s
			soon.From = genesis + s.Length
			set := func(s clearing.Schedule) op { return op{Kind: opSetSchedule, Asset: asset, Schedule: &s} }
			return []step{{genesis + 1, payer, set(next), errCaller}, by(genesis+1, set(long), errSchedule), by(genesis+1, set(soon), errSchedule), by(genesis+1, set(next), nil)}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := New(deployment, operator, delay, genesis, schedules...)
			if err != nil {
				t.Fatal(err)
			}
			for _, who := range []evm.Address{payer, payee} {
				c.Mint(who, asset, money.Units(1000))
				c.Deposit(who, asset, money.Units(deposited))
			}
			st := c.at(c.Mine(genesis, nil).Hash)
			for i, step := range tt.steps(c) {
				x, err := c.run(st, step.at, Tx{From: step.from, op: step.op})
				next, events := x.state, x.events
				if step.want == nil && err != nil || !errors.Is(err, step.want) || step.want != nil && (!errors.Is(err, ErrRefused) || len(events) > 0) {
					t.Fatalf("step %d, %s: want %v, got %v", i, step.op.Kind, step.want, err)
				}
				if err := next.check(); err != nil {
					t.Fatalf("step %d, %s: %v", i, step.op.Kind, err)
				}
				st = next
			}
		})
	}
}

func slicesGreater(a, b evm.Address) bool { return a.Lower() > b.Lower() }

// A transaction of the operator that is sent twice takes effect once, and one that a reorganisation took away is mined
// again.
func TestSenderSendsEachCallOnce(t *testing.T) {
	t.Parallel()
	c, err := New(deployment, operator, delay, genesis, schedules...)
	if err != nil {
		t.Fatal(err)
	}
	m := clearing.NewMemory()
	bond := func(i int) evm.Call {
		call, err := c.pack(op{Kind: opDepositBond, Asset: assets[0], Amount: money.Units(1)})
		if err != nil {
			t.Fatal(err)
		}
		call.ID = fmt.Sprint("bond ", i)
		return call
	}
	c.Mint(operator, assets[0], money.Units(100))
	c.Mine(genesis+1, nil)
	if err := m.Write(context.Background(), func(tx clearing.Tx) error {
		return errors.Join(tx.Enqueue(bond(1)), tx.Enqueue(bond(2)), tx.Enqueue(bond(3)))
	}); err != nil {
		t.Fatal(err)
	}
	s := &Sender{Chain: c, Outbox: m, Depth: 1}
	lost := true
	step := func() {
		t.Helper()
		if err := s.Step(func(evm.Call) Delivery {
			if lost = !lost; lost {
				return Lost
			}
			return Delivered
		}); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		step()
		step() // before anything is mined
		c.Mine(0, nil)
	}
	if got := c.at(evm.Hash{}).bonds[assets[0]]; got != money.Units(3) || !s.Idle() {
		t.Fatalf("bond %s, idle %v", got, s.Idle())
	}
	for _, tx := range c.Drop(4) {
		c.Resend(tx)
	}
	step()
	if s.Idle() {
		t.Error("calls are done that no block holds")
	}
	for range 3 {
		c.Mine(0, nil)
		step()
	}
	if got := c.at(evm.Hash{}).bonds[assets[0]]; got != money.Units(3) || !s.Idle() {
		t.Errorf("after a reorganisation: bond %s, idle %v", got, s.Idle())
	}
}
