package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/store"
	"github.com/farthing402/farthing/x402"
)

// A power cut under load takes nothing back that anyone was told, and does nothing twice: neither the clearing house's nor
// the gate's. The chain is a process of its own and lives on.
func TestKilledUnderLoad(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{"serve", "gate", "both"} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			killUnderLoad(t, victim)
		})
	}
}

func killUnderLoad(t *testing.T, victim string) {
	purchases, kills := 120, 4
	if heavy {
		purchases, kills = 3000, 40
	}
	w := newTown(t, slowPrices)
	w.underLoad(purchases, kills, func() {
		if victim != "gate" {
			w.nodes[0].kill()
		}
		if victim != "serve" {
			w.gate.kill()
		}
		if victim != "gate" {
			w.startNode(0)
		}
		if victim != "serve" {
			w.startGate()
		}
	})
}

const slowPrices = "routes:\n  GET /slow: $0.0003\n"

// underLoad has buyers make purchases, kills again and again meanwhile, and in the end holds all books against each other.
func (w *town) underLoad(purchases, kills int, kill func()) {
	t := w.t
	t.Helper()
	buyers := w.customers(3, &http.Transport{MaxIdleConnsPerHost: 8})

	// Each purchase has a URL of its own, so that the server behind the gate sees what was done for it, and how often.
	var next, finished atomic.Int64
	var wg sync.WaitGroup
	urls := make([]string, purchases)
	progress := make(chan struct{}, purchases)
	for i := range urls {
		urls[i] = w.url(fmt.Sprintf("/slow?ms=%d&n=%d", 1+i%30, i))
	}
	for i := range 12 {
		wg.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= purchases {
					return
				}
				buyUntilKnown(t, w.run.ctx, buyers[i%len(buyers)], urls[n])
				finished.Add(1)
				progress <- struct{}{}
			}
		})
	}
	amid(t, w.run.ctx, progress, &finished, purchases, kills, kill)
	wg.Wait()
	for _, b := range buyers { // a buyer that was left in doubt asks again, which pays nothing twice
		resolve(t, w, b)
	}
	w.compare(buyers, urls)
}

// amid waits for purchases to end, a value in progress for each, and kills as often as it is told, evenly among them.
func amid(t *testing.T, ctx context.Context, progress <-chan struct{}, finished *atomic.Int64, purchases, kills int, kill func()) {
	t.Helper()
	killed := 0
	for range purchases {
		select {
		case <-progress:
		case <-ctx.Done():
			t.Fatal("the purchases do not come to an end")
		}
		if done := int(finished.Load()); killed < kills && done >= (killed+1)*purchases/(kills+1) {
			killed++
			kill()
		}
	}
	if killed != kills {
		t.Fatalf("%d kills, want %d", killed, kills)
	}
}

// buyUntilKnown buys, and asks again with the same payment as long as nobody can say what became of it.
func buyUntilKnown(t *testing.T, ctx context.Context, b *customer, url string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Error(err)
		return
	}
	for {
		resp, err := b.http.Do(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body) // what is cut off is told by the receipt
			resp.Body.Close()
			return
		}
		var pending *payer.PendingError
		switch e, coded := x402.AsError(err); {
		case errors.As(err, &pending):
			return // resolved later
		case !coded || e.Code == "seller_unreachable" || e.Code == "house_unreachable":
			if !poll(func() bool { // nothing was signed: the gate or the clearing house is away
				probe, err := http.Get(url)
				if err == nil {
					probe.Body.Close()
				}
				return err == nil && probe.StatusCode == http.StatusPaymentRequired
			}) {
				t.Errorf("%s does not come back: %v", url, err)
				return
			}
			if coded {
				return // a payment was refused for good; its receipt says void
			}
		default:
			return
		}
	}
}

func resolve(t *testing.T, w *town, b *customer) {
	t.Helper()
	if !poll(func() bool {
		receipts := must(b.payer.Receipts())(t)
		settled := true
		for _, r := range receipts {
			if r.State == payer.Charged || r.State == payer.Void {
				continue
			}
			settled = false
			if resp, err := b.payer.Resume(w.run.ctx, r.ID); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		}
		return settled
	}) {
		for _, r := range must(b.payer.Receipts())(t) {
			if r.State != payer.Charged && r.State != payer.Void {
				t.Errorf("%s is still %s: %s", r.ID, r.State, r.Code)
			}
		}
	}
}

// compare holds the books of all parties against each other and against the chain.
func (w *town) compare(buyers []*customer, urls []string) {
	t, ctx := w.t, w.run.ctx
	t.Helper()
	api := w.api()

	// The seller's book, once it has told the clearing house everything. The gate ends cleanly, after kills and all.
	gateBook := filepath.Join(w.dir, "gate.db")
	if !poll(func() bool {
		db := must(store.Open(ctx, gateBook))(t)
		defer db.Close()
		return len(must(db.Purchases().Undelivered(ctx, 1))(t)) == 0
	}) {
		t.Error("the gate has notes that the clearing house does not take")
	}
	check(t, w.gate.interrupt())
	db := must(store.Open(ctx, gateBook))(t)
	defer db.Close()
	if left := must(db.Purchases().Unfinished(ctx))(t); len(left) > 0 {
		t.Errorf("%d purchases are unfinished in the gate's book, the first %s", len(left), left[0].State)
	}

	// Every receipt: in the seller's book, in the clearing house's book, and in the work that was done.
	var charged money.Amount
	chargedOf, paymentsOf := map[string]int{}, map[string]int{}
	digests := map[evm.Hash]bool{}
	bought := 0
	for _, b := range buyers {
		for _, r := range must(b.payer.Receipts())(t) {
			if digests[r.Digest] {
				t.Errorf("%s: its guarantee stands in two receipts", r.ID)
			}
			digests[r.Digest] = true
			paymentsOf[r.URL]++
			sold, known, err := db.Purchases().FindID(ctx, r.ID)
			check(t, err)
			booked, err := api.Guarantee(ctx, r.Digest)
			if e, coded := x402.AsError(err); err != nil && (!coded || e.Code != "guarantee_unknown" && e.Code != "not_found") {
				t.Fatal(err)
			}
			admitted := err == nil
			switch r.State {
			case payer.Charged:
				bought++
				chargedOf[r.URL]++
				charged, _ = charged.Add(r.Charged)
				if !known || sold.State != purchase.Committed || sold.Charged != r.Charged {
					t.Errorf("%s: the buyer was charged %s, the gate's book says %s, %s", r.ID, r.Charged, sold.State, sold.Charged)
				}
				if !admitted || booked.Payable != r.Charged {
					t.Errorf("%s: the buyer was charged %s, the clearing house's book says %s (admitted %v)", r.ID, r.Charged, booked.Payable, admitted)
				}
				if len(sold.Certificate) == 0 {
					t.Errorf("%s: charged without a certificate", r.ID)
				}
			case payer.Void:
				if known && sold.State != purchase.Void {
					t.Errorf("%s: the buyer was told that nothing is charged (%s), the gate's book says %s", r.ID, r.Code, sold.State)
				}
				if admitted && !booked.Payable.IsZero() {
					t.Errorf("%s: the buyer was told that nothing is charged (%s), the clearing house counts %s", r.ID, r.Code, booked.Payable)
				}
			}
		}
	}
	for _, url := range urls {
		served := w.shop.served(url[strings.Index(url, "/slow"):])
		if chargedOf[url] > 1 {
			t.Errorf("%s was charged %d times", url, chargedOf[url])
		}
		if served < chargedOf[url] || served > paymentsOf[url] {
			t.Errorf("%s was served %d times for %d payments, of which %d were charged", url, served, paymentsOf[url], chargedOf[url])
		}
	}
	if bought < len(urls)*3/4 {
		t.Errorf("%d of %d purchases went through; the kills were not survived", bought, len(urls))
	}

	// Every cycle is netted, posted and sealed once, and holds what was charged, no more and no less.
	var cycles []clearing.Cycle
	var h *house
	if !poll(func() bool {
		list, err := api.Cycles(ctx, w.token.Address, 0)
		if err != nil {
			return false
		}
		for _, c := range list {
			if c.State != "committed" && c.State != "final" && c.State != "closed" {
				return false
			}
		}
		return true
	}) {
		t.Error("the cycles do not get on")
	}
	for _, node := range w.nodes {
		check(t, node.interrupt())
	}
	h = w.open()
	check(t, h.House.Check(ctx))
	cycles = must(h.House.Cycles(ctx, w.token.Address, 0))(t)
	var gross money.Amount
	posted := map[string]int{}
	for _, call := range must(h.Store.Outbox().Finished(ctx, devOperator().Address(), 0))(t) {
		if call.State != evm.CallDone {
			t.Errorf("the call %s ended as %s: %s", call.ID, call.State, call.Err)
		}
		posted[string(call.Data)]++
	}
	for data, times := range posted {
		if times != 1 {
			t.Errorf("one call was asked for %d times: %x…", times, data[:36])
		}
	}
	for _, c := range cycles {
		gross, _ = gross.Add(c.Gross)
		if c.Total.IsZero() {
			continue
		}
		on := must(h.Reader.Cycle(ctx, c.Ref.ID()))(t)
		if !on.Sealed || on.Total != c.Total || on.Root != c.Root || on.Generation != c.Generation {
			t.Errorf("cycle %s: the chain has %+v, the book %+v", c.Ref, on, c)
		}
		if c.Trouble != "" {
			t.Errorf("cycle %s: %s", c.Ref, c.Trouble)
		}
	}
	if gross != charged {
		t.Errorf("buyers were charged %s, the cycles come to %s", charged, gross)
	}
	if gross.IsZero() {
		t.Error("nothing was sold")
	}
	t.Logf("%d purchases charged, %s in %d cycles", bought, money.Format(charged, 6, "$"), len(cycles))
}

const ledgeredPrices = `routes:
  GET /slow: $0.0003
  GET /quote/{symbol}: {price: $0.0001, bundle: 10 calls, valid: 1h}
  GET /records: {price: $0.0001 per record, up_to: $0.0020, count: header X-Record-Count, accept: [upto]}
`

// A power cut under load, of the gate, of the facilitator or of both, again and again: what was handed out and what moved on
// the chain agree in the end, for buyers who know nothing of farthing and for its own payer, and nothing stays open.
func TestTransfersKilledUnderLoad(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{"facilitator", "gate", "both"} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			killTransfersUnderLoad(t, victim)
		})
	}
}

func killTransfersUnderLoad(t *testing.T, victim string) {
	purchases, kills := 90, 4
	if heavy {
		purchases, kills = 900, 25
	}
	m := newMarket(t, ledgeredPrices)
	ctx := m.run.ctx
	client := &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	strangers := []*evm.PrivateKey{m.fund(50_000_000), m.fund(50_000_000), m.fund(50_000_000)}
	shoppers := m.shoppers(2)

	// Each purchase has a URL of its own, so that the server behind the gate sees what was done for it, and how often.
	var next, finished atomic.Int64
	var wg sync.WaitGroup
	var mu sync.Mutex
	var slips []*slip
	wanted := func(n int) string {
		switch n % 3 {
		case 0:
			return fmt.Sprintf("/slow?ms=%d&n=%d", 1+n%30, n)
		case 1:
			return fmt.Sprintf("/quote/S%d", n)
		}
		return fmt.Sprintf("/records?n=%d&of=%d", 1+n%9, n)
	}
	progress := make(chan struct{}, purchases)
	for worker := range 12 {
		wg.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= purchases {
					return
				}
				switch path := wanted(n); {
				case worker < 4 && n%3 != 2:
					buyUntilKnown(t, ctx, shoppers[worker%len(shoppers)], m.url(path))
				default:
					for _, s := range m.buyUntilServed(t, ctx, client, strangers[worker%len(strangers)], path) {
						mu.Lock()
						slips = append(slips, s)
						mu.Unlock()
					}
				}
				finished.Add(1)
				progress <- struct{}{}
			}
		})
	}
	amid(t, ctx, progress, &finished, purchases, kills, func() {
		if victim != "gate" {
			m.desk.kill()
		}
		if victim != "facilitator" {
			m.gate.kill()
		}
		if victim != "gate" {
			m.startDesk()
		}
		if victim != "facilitator" {
			m.openGate()
		}
	})
	wg.Wait()
	for _, b := range shoppers {
		resolve(t, m.town, b)
	}
	m.compareTransfers(slips, shoppers)
}

// buyUntilServed buys as a client does that keeps nothing: it shows one payment until it is known what became of it, and
// signs another one if that came to nothing. It returns all that it signed, the one that bought last.
func (m *market) buyUntilServed(t *testing.T, ctx context.Context, client *http.Client, key *evm.PrivateKey, path string) (all []*slip) {
	for ctx.Err() == nil {
		s, err := m.sign(ctx, key, path)
		if err != nil { // the gate is away
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		all = append(all, s)
		if err := m.buy(ctx, client, s); err != nil {
			t.Error(err)
			return all
		}
		switch {
		case s.got.status == http.StatusOK:
			return all
		case s.got.status != http.StatusPaymentRequired && s.got.status != http.StatusConflict && s.got.status != http.StatusGone:
			t.Errorf("%s: %d %s %.200s", path, s.got.status, s.got.code, s.got.text)
			return all
		}
	}
	return all
}

// compareTransfers holds the gate's book, the facilitator's, the buyers and the chain against each other.
func (m *market) compareTransfers(slips []*slip, shoppers []*customer) {
	t, ctx := m.t, m.run.ctx
	t.Helper()
	eventually(t, "the end of what is open in the gate's book", func() (done bool) {
		m.inBook(func(b purchase.Book) {
			open := 0
			for _, p := range must(b.Unfinished(ctx))(t) {
				if p.State != purchase.Reserved || p.Settling { // one that only waits for its buyer moves nothing
					open++
				}
			}
			done = open == 0 && len(must(b.OpenRefunds(ctx))(t)) == 0
		})
		return done
	})
	check(t, m.gate.interrupt())
	check(t, m.desk.interrupt())
	settlements := must(store.Open(ctx, filepath.Join(m.dir, "facilitator.db")))(t)
	defer settlements.Close()
	if open := must(settlements.Settlements().Open(ctx, mustChain("dev").ID))(t); len(open) > 0 {
		t.Errorf("%d settlements are open, the first %s", len(open), open[0].State)
	}
	db := must(store.Open(ctx, filepath.Join(m.dir, "gate.db")))(t)
	defer db.Close()
	book, moves := db.Purchases(), m.moves()

	var charged, back money.Amount
	bundles := map[string]uint64{} // units drawn by purchases that the book has
	seen := map[string]bool{}
	bought := 0
	look := func(id string) (p purchase.Purchase, refund money.Amount) {
		if seen[id] {
			t.Errorf("%s was bought twice", id)
		}
		seen[id] = true
		p, found, err := book.FindID(ctx, id)
		check(t, err)
		if !found {
			return p, refund
		}
		switch p.State {
		case purchase.Committed, purchase.Void, purchase.Reserved:
		default:
			t.Errorf("%s is %s", id, p.State)
		}
		if p.Bundle != "" {
			bundles[p.Bundle] += p.Draws
		}
		r, refunded, err := book.FindRefund(ctx, id)
		check(t, err)
		if refunded && r.State == purchase.Done && r.Kind == purchase.ByTransfer {
			refund = r.Amount
		}
		charged, _ = charged.Add(p.Charged)
		back, _ = back.Add(refund)
		return p, refund
	}
	for _, s := range slips {
		p, refund := look(s.id())
		onChain := m.moved(s)
		if s.signed.Method == exact.EIP3009 {
			from, at := evm.Hash(s.signed.From.Word()), s.signed.Nonce
			if tx := moves[[2]evm.Hash{from, at}]; !p.Charged.IsZero() && tx != p.Transaction {
				t.Errorf("%s: charged by %s in the book, by %s on the chain", s.path, p.Transaction, tx)
			}
		}
		pays := !p.Charged.IsZero()
		switch {
		case onChain != pays:
			t.Errorf("%s: moved on the chain: %v; the book has it as %s, charged %s", s.path, onChain, p.State, p.Charged)
		case s.got.status == http.StatusOK && p.State != purchase.Committed:
			t.Errorf("%s: answered, and the book has it as %s", s.path, p.State)
		case s.got.status == http.StatusOK && !pays && p.Buys == 0 && p.Draws != 1:
			t.Errorf("%s: answered for nothing: %+v", s.path, p)
		case s.got.status != http.StatusOK && pays && refund != p.Charged && p.Buys == 0:
			t.Errorf("%s: charged %s and answered %d %s, given back %s", s.path, p.Charged, s.got.status, s.got.code, refund)
		}
		if s.got.status == http.StatusOK {
			bought++
		}
	}
	for _, c := range shoppers {
		for _, r := range must(c.payer.Receipts())(t) {
			p, refund := look(r.ID)
			switch {
			case r.State == payer.Charged && (p.State != purchase.Committed || r.Charged != p.Charged):
				t.Errorf("%s: the buyer was charged %s, the book says %s, %s", r.ID, r.Charged, p.State, p.Charged)
			case r.State == payer.Void && !p.Charged.IsZero() && refund != p.Charged && p.Buys == 0:
				t.Errorf("%s: the buyer was told that nothing is charged (%s), the book says %s, %s", r.ID, r.Code, p.State, p.Charged)
			}
			if r.State == payer.Charged {
				bought++
			}
		}
	}
	// What was drawn is what is gone from each bundle.
	for id, drawn := range bundles {
		b, found, err := book.FindBundle(ctx, id)
		check(t, err)
		if found && b.Total-b.Remaining != drawn {
			t.Errorf("bundle %s: %d of %d remain, and its purchases drew %d", id, b.Remaining, b.Total, drawn)
		}
	}
	got := m.dollars(m.seller.Address())
	if want, _ := charged.Sub(back); got != want {
		t.Errorf("the seller has %s; charged were %s, given back %s", got, charged, back)
	}
	if bought == 0 || got.IsZero() {
		t.Error("nothing was sold")
	}
	t.Logf("%d payments shown by strangers, %d purchases answered, %s moved in %d bundles and by %d authorizations", len(slips), bought, money.Format(got, 6, "$"), len(bundles), len(moves))
}
