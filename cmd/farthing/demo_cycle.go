package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/x402"
)

// refusals counts what was refused, by reason.
type refusals struct {
	mu sync.Mutex
	n  map[string]int
}

func (r *refusals) add(code string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n == nil {
		r.n = make(map[string]int)
	}
	r.n[code]++
}

func (r *refusals) copy() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := make(map[string]int, len(r.n))
	for code, n := range r.n {
		c[code] = n
	}
	return c
}

// replays is how many payments are shown again for something else, once they have bought what they are for.
const replays = 4

// workersPerBuyer is how many requests a buyer has open at once.
const workersPerBuyer = 3

// firstCycle sells the payments, follows their cycle to its end, and compares what everyone was promised with what the
// chain did. On a machine that is too slow to sell them within one cycle, it follows the next one as well.
func (w *world) firstCycle(ctx context.Context, payments int) (demoReport, error) {
	d := demoReport{Payments: payments, Assumptions: assumed, Sellers: map[string]string{}}
	first, err := w.awaitOpen(ctx)
	if err != nil {
		return d, err
	}
	before, err := w.wallets(ctx)
	if err != nil {
		return d, err
	}
	began := time.Now()
	took, err := w.sell(ctx, payments-replays)
	if err != nil {
		return d, err
	}
	d.GuaranteesPerSecond = float64(len(took)) / time.Since(began).Seconds()
	slices.Sort(took)
	d.P50, d.P99 = milliseconds(took[len(took)/2]), milliseconds(took[len(took)*99/100])
	if err := w.provoke(ctx); err != nil {
		return d, err
	}
	d.Refused = w.refusals.copy()
	ends, err := w.follow(ctx, first.Ref.Start)
	if err != nil {
		return d, err
	}
	return d, w.compare(ctx, ends, before, payments, &d)
}

// ending is a cycle that has come to its end, and the transactions that it took.
type ending struct {
	cycle clearing.Cycle
	sent  []evm.SentCall
}

// follow brings every cycle that starts at from or later, and has guarantees, to its end.
func (w *world) follow(ctx context.Context, from uint64) ([]ending, error) {
	cycles, err := w.house.House.Cycles(ctx, w.token.Address, 0)
	if err != nil {
		return nil, err
	}
	cycles = slices.DeleteFunc(cycles, func(c clearing.Cycle) bool { return c.Ref.Start < from })
	ends := make([]ending, len(cycles))
	g, ctx := errgroup.WithContext(ctx)
	for i, c := range cycles {
		g.Go(func() (err error) {
			ends[i], err = w.settle(ctx, c.Ref)
			return err
		})
	}
	return ends, g.Wait()
}

// settle brings one cycle to its end: one buyer pays by itself, the last one does not, and sellers collect.
func (w *world) settle(ctx context.Context, ref clearing.CycleRef) (e ending, err error) {
	if e.cycle, err = w.await(ctx, ref, clearing.Committed); err != nil || e.cycle.Participants == 0 {
		return e, err
	}
	if e.sent, err = w.pay(ctx, e.cycle); err != nil {
		return e, err
	}
	if _, err := w.await(ctx, ref, clearing.Final); err != nil {
		return e, err
	}
	claims, err := w.collect(ctx, e.cycle)
	if err != nil {
		return e, err
	}
	if e.cycle, err = w.await(ctx, ref, clearing.Closed); err != nil {
		return e, err
	}
	own, err := w.houseCalls(ctx, ref)
	e.sent = slices.Concat(e.sent, claims, own)
	return e, err
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// awaitOpen waits for the first cycle to begin.
func (w *world) awaitOpen(ctx context.Context) (clearing.Cycle, error) {
	for {
		c, err := w.house.House.Current(ctx, w.token.Address, w.run.Now())
		if err == nil && c.Ref.Start <= uint64(w.run.Now().Unix()) {
			return c, nil
		}
		if err != nil && !errors.Is(err, clearing.ErrAsset) {
			return c, err
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return c, err
		}
	}
}

// order is how far the states of a cycle are.
var order = map[clearing.CycleStatus]int{clearing.Open: 0, clearing.Frozen: 1, clearing.Netted: 2, clearing.Committed: 3, clearing.Final: 4, clearing.Closed: 5}

// await waits until a cycle has come to a state, or past it.
func (w *world) await(ctx context.Context, ref clearing.CycleRef, want clearing.CycleStatus) (clearing.Cycle, error) {
	for {
		c, err := w.house.House.Cycle(ctx, ref.String())
		if err != nil {
			return c, err
		}
		if c.Status == clearing.Failed {
			return c, fmt.Errorf("cycle %s failed: %s", ref, c.Trouble)
		}
		if order[c.Status] >= order[want] {
			return c, nil
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return c, err
		}
	}
}

// sell has the buyers buy, each from every seller, and returns how long each purchase took.
func (w *world) sell(ctx context.Context, payments int) ([]time.Duration, error) {
	took := make([]time.Duration, payments)
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for i, b := range w.buyers {
		for range workersPerBuyer {
			g.Go(func() error {
				for {
					n := int(next.Add(1)) - 1
					if n >= payments {
						return nil
					}
					began := time.Now()
					if err := w.buy(ctx, b, n); err != nil {
						return fmt.Errorf("buyer %d, request %d: %w", i+1, n+1, err)
					}
					took[n] = time.Since(began)
				}
			})
		}
	}
	return took, g.Wait()
}

// buy makes the nth purchase: of twenty, sixteen ask for weather, three for text and one for records.
func (w *world) buy(ctx context.Context, b *buyer, n int) error {
	kind := 0
	switch {
	case n%20 >= 19:
		kind = 2
	case n%20 >= 16:
		kind = 1
	}
	s := w.sellers[kind]
	if of := n / 20 % ((len(w.sellers)-1-kind)/3 + 1); of > 0 {
		s = w.sellers[kind+3*of]
	}
	w.asked.Add(1)
	method, body := http.MethodGet, io.Reader(nil)
	if kind == 1 {
		method, body = http.MethodPost, strings.NewReader(strings.Repeat("word ", 10+n%50))
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url+s.path, body)
	if err != nil {
		return err
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	receipt, ok := payer.Receipt(resp)
	if resp.StatusCode != http.StatusOK || !ok || receipt.Charged.IsZero() {
		return fmt.Errorf("%s answered %d, paid: %v", s.name, resp.StatusCode, ok)
	}
	w.sold.Add(1)
	return nil
}

// provoke tries what has to be refused: payments shown again for something else, a buyer without enough collateral, and
// one whose own budget says no. Whatever is served to them is a failure.
func (w *world) provoke(ctx context.Context) error {
	for range replays {
		if err := w.replay(ctx); err != nil {
			return err
		}
	}
	for range 10 { // half a cent of collateral a try is not there twelve times
		if err := w.refused(ctx, w.poor, w.sellers[2].url+"/records?n=999", "collateral_insufficient"); err != nil {
			return err
		}
	}
	for range 2 {
		if err := w.refused(ctx, w.thrifty, w.sellers[0].url+"/weather/oslo", "budget_exceeded"); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) refused(ctx context.Context, b *buyer, url, want string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := b.client.Do(req)
	if err == nil {
		resp.Body.Close()
		return fmt.Errorf("%s was served with %d although %s", url, resp.StatusCode, want)
	}
	var e *x402.Error
	if !errors.As(err, &e) || e.Code != want {
		return fmt.Errorf("%s: want %s: %w", url, want, err)
	}
	w.refusals.add(want)
	return nil
}

// replay pays for one city, and shows the same payment for another.
func (w *world) replay(ctx context.Context) error {
	var seen capture
	thief, err := w.newPayer(w.buyers[0].key, "", "$0.10", &seen)
	if err != nil {
		return err
	}
	defer thief.Close()
	url := w.sellers[0].url + "/weather/"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"bergen", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: thief}).Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || seen.payment == "" {
		return fmt.Errorf("%sbergen answered %d", url, resp.StatusCode)
	}
	w.sold.Add(1)
	req, err = http.NewRequestWithContext(ctx, http.MethodGet, url+"tromso", nil)
	if err != nil {
		return err
	}
	req.Header.Set(x402.HeaderSignature, seen.payment)
	if resp, err = http.DefaultClient.Do(req); err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode/100 == 2 {
		return errors.New("a payment for one request was taken for another")
	}
	w.refusals.add("payment_used")
	return nil
}

// capture is a transport that keeps the payment it sends.
type capture struct{ payment string }

func (c *capture) RoundTrip(r *http.Request) (*http.Response, error) {
	if p := r.Header.Get(x402.HeaderSignature); p != "" {
		c.payment = p
	}
	return http.DefaultTransport.RoundTrip(r)
}

// pay has the first buyer pay its net debit.
func (w *world) pay(ctx context.Context, c clearing.Cycle) ([]evm.SentCall, error) {
	b := w.buyers[0]
	p, err := w.house.House.Proof(ctx, c.Ref.String(), b.key.Address())
	if err != nil {
		return nil, err
	}
	if p.Position.Role != clearing.Debtor {
		return nil, nil
	}
	contracts := w.house.Reader.Contracts
	calls := []evm.Call{
		chain.Approve(w.token.Address, contracts.Vault, p.Position.Amount),
		contracts.PayNetDebit(c.Ref.ID(), w.token.Address, p.Position.Amount, p.Siblings),
	}
	for i := range calls {
		calls[i].GasLimit = 300_000
	}
	sent, err := w.run.sendAll(w.client, b.key, 0, calls...)
	if errors.Is(err, chain.ErrReverted) {
		return sent, nil // too late on a busy machine: then its collateral has paid, like the last buyer's
	}
	return sent, err
}

// collect has every seller that is owed something fetch it.
func (w *world) collect(ctx context.Context, c clearing.Cycle) (sent []evm.SentCall, err error) {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range w.sellers {
		p, err := w.house.House.Proof(ctx, c.Ref.String(), s.key.Address())
		if err != nil || p.Position.Role != clearing.Creditor {
			continue // sold nothing, or owes more than it is owed
		}
		g.Go(func() error {
			call := w.house.Reader.Contracts.ClaimNetCredit(c.Ref.ID(), p.Position.Amount, p.Siblings)
			call.GasLimit = 300_000
			done, err := w.run.sendAll(w.client, s.key, 0, call)
			mu.Lock()
			defer mu.Unlock()
			sent = append(sent, done...)
			return err
		})
	}
	return sent, g.Wait()
}

// houseCalls are the transactions that the operator sent for a cycle.
func (w *world) houseCalls(ctx context.Context, ref clearing.CycleRef) (calls []evm.SentCall, err error) {
	outbox := w.house.Store.Outbox()
	for {
		open, err := outbox.Open(ctx, devOperator().Address())
		if err != nil {
			return nil, err
		}
		waiting := slices.ContainsFunc(open, func(c evm.SentCall) bool { return strings.Contains(c.ID, ref.String()) })
		if !waiting {
			break
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
	all, err := outbox.Finished(ctx, devOperator().Address(), 0)
	for _, c := range all {
		if strings.Contains(c.ID, ref.String()) {
			calls = append(calls, c)
		}
	}
	return calls, err
}

// wallets returns what each seller holds.
func (w *world) wallets(ctx context.Context) (map[evm.Address]money.Amount, error) {
	held := make(map[evm.Address]money.Amount, len(w.sellers))
	for _, s := range w.sellers {
		a, err := w.client.TokenBalance(ctx, w.token.Address, s.key.Address())
		if err != nil {
			return nil, err
		}
		held[s.key.Address()] = a
	}
	return held, nil
}

// compare holds what the sellers' own books say against the cycles, the chain and the clearing house's books.
func (w *world) compare(ctx context.Context, ends []ending, before map[evm.Address]money.Amount, payments int, d *demoReport) error {
	problem := func(format string, args ...any) { d.Problems = append(d.Problems, fmt.Sprintf(format, args...)) }
	var gross, net money.Amount
	for _, e := range ends {
		gross, _ = gross.Add(e.cycle.Gross) // every sum here is below what the test dollar has
		net, _ = net.Add(e.cycle.Total)
		d.Guarantees += e.cycle.Guarantees
		d.Participants = max(d.Participants, e.cycle.Participants)
		for _, s := range e.sent {
			if s.Receipt != nil {
				d.OnchainTransactions++
				d.GasUsed += s.Receipt.GasUsed
			}
		}
	}
	d.Cycles, d.Gross, d.Net = len(ends), gross.String(), net.String()
	d.CostPerPayment = perPayment(d.GasUsed, payments)
	after, err := w.wallets(ctx)
	if err != nil {
		return err
	}
	d.SellersPaidInFull = true
	for _, s := range w.sellers {
		got, _ := after[s.key.Address()].Sub(before[s.key.Address()])
		d.Sellers[s.name] = got.String()
		full, err := w.paidInFull(ctx, s, got)
		if err != nil {
			return err
		}
		if !full {
			d.SellersPaidInFull = false
			problem("%s got %s, which is not what its own book says", s.name, got)
		}
	}
	owed, covered, err := w.covered(ctx, ends)
	if err != nil {
		return err
	}
	d.Defaulted = owed.String()
	if d.DefaultCovered = covered && d.SellersPaidInFull; !d.DefaultCovered {
		problem("the default is not covered")
	}
	if d.ConservationOK, err = w.conserved(ctx, ends); err != nil {
		return err
	}
	if !d.ConservationOK {
		problem("books do not add up")
	}
	if sold := w.sold.Load(); sold != int64(payments) {
		problem("%d requests were served, %d were paid for", sold, payments)
	}
	return nil
}

// paidInFull holds what a seller's own book says it sold, less what it bought itself, against what the chain paid it and
// what cycles took from its collateral.
func (w *world) paidInFull(ctx context.Context, s *seller, got money.Amount) (bool, error) {
	var spent, deposited money.Amount
	if s.shop != nil {
		deposited = demoDeposit
		receipts, err := s.shop.Receipts()
		if err != nil {
			return false, err
		}
		for _, r := range receipts {
			spent, _ = spent.Add(r.Charged)
		}
	}
	left, err := w.house.Reader.Collateral(ctx, s.key.Address(), w.token.Address)
	if err != nil {
		return false, err
	}
	has, _ := got.Add(left)
	has, _ = has.Add(spent)
	should, _ := s.charged().Add(deposited)
	return has == should, nil
}

// covered says what the last buyer owed in all, and whether it was marked as a defaulter for it and its collateral paid.
func (w *world) covered(ctx context.Context, ends []ending) (owed money.Amount, ok bool, err error) {
	defaulter := w.buyers[len(w.buyers)-1].key.Address()
	ok = true
	for _, e := range ends {
		p, err := w.house.House.Proof(ctx, e.cycle.Ref.String(), defaulter)
		if errors.Is(err, clearing.ErrNotFound) {
			continue
		}
		if err != nil {
			return owed, false, err
		}
		owed, _ = owed.Add(p.Position.Amount)
		state, err := w.house.Reader.Participant(ctx, e.cycle.Ref.ID(), defaulter)
		if err != nil {
			return owed, false, err
		}
		ok = ok && state.Defaulted && !state.Paid
	}
	left, err := w.house.Reader.Collateral(ctx, defaulter, w.token.Address)
	want, _ := demoDeposit.Sub(owed)
	return owed, ok && left == want && !owed.IsZero(), err
}

// conserved checks CLEARING I1 to I3: the vault holds exactly collateral, pots and bond; nobody's collateral paid for
// another; and debits equal credits, in the clearing house's books and in the contracts.
func (w *world) conserved(ctx context.Context, ends []ending) (bool, error) {
	if err := w.house.House.Check(ctx); err != nil {
		return false, nil
	}
	held, err := w.client.TokenBalance(ctx, w.token.Address, w.house.Reader.Contracts.Vault)
	if err != nil {
		return false, err
	}
	sum, err := w.house.Reader.Bond(ctx, w.token.Address)
	if err != nil {
		return false, err
	}
	for _, e := range ends {
		onChain, err := w.house.Reader.Cycle(ctx, e.cycle.Ref.ID())
		if err != nil {
			return false, err
		}
		balanced, err := w.balanced(ctx, e.cycle)
		if err != nil {
			return false, err
		}
		pot, ok := onChain.Total.Sub(onChain.Claimed)
		if !ok || !balanced || onChain.Root != e.cycle.Root || onChain.Total != e.cycle.Total {
			return false, nil
		}
		sum, _ = sum.Add(pot)
	}
	owners := []evm.Address{w.poor.key.Address(), w.thrifty.key.Address()}
	for _, b := range w.buyers {
		owners = append(owners, b.key.Address())
	}
	for _, s := range w.sellers {
		owners = append(owners, s.key.Address())
	}
	for _, owner := range owners {
		a, err := w.house.Reader.Collateral(ctx, owner, w.token.Address)
		if err != nil {
			return false, err
		}
		booked, err := w.house.House.Account(ctx, owner, w.token.Address)
		if err != nil {
			return false, err
		}
		if booked.Collateral() != a {
			return false, nil
		}
		sum, _ = sum.Add(a)
	}
	return held == sum, nil
}

// balanced says whether a cycle's net debits equal its net credits.
func (w *world) balanced(ctx context.Context, c clearing.Cycle) (bool, error) {
	var debits, credits money.Amount
	ps, err := w.house.House.Positions(ctx, c.Ref.String())
	if err != nil {
		return false, err
	}
	for _, p := range ps {
		switch p.Role {
		case clearing.Debtor:
			debits, _ = debits.Add(p.Amount)
		case clearing.Creditor:
			credits, _ = credits.Add(p.Amount)
		}
	}
	return debits == credits && debits == c.Total, nil
}

// stroll buys a little now and then, for whoever watches.
func (w *world) stroll(ctx context.Context) error {
	for n := 0; ; n++ {
		b := w.buyers[rand.IntN(len(w.buyers))]
		if err := w.buy(ctx, b, n); err != nil {
			var e *x402.Error
			if errors.As(err, &e) {
				w.refusals.add(e.Code)
			} else if ctx.Err() != nil {
				return nil
			}
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return nil
		}
	}
}
