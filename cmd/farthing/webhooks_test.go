package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/store/storetest"
	"github.com/farthing402/farthing/webhook"
	"github.com/farthing402/farthing/webhook/courier"
)

// ear is a wallet's webhook receiver.
type ear struct {
	mu     sync.Mutex
	secret webhook.Secret  // guarded by mu
	got    []webhook.Event // guarded by mu
}

// listens adds an endpoint for a wallet.
func (s *stage) listens(who evm.Address) *ear {
	s.t.Helper()
	e := &ear{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.mu.Lock()
		defer e.mu.Unlock()
		event, err := webhook.Receive(r, s.node.Time(), e.secret)
		if err != nil {
			s.t.Error(err)
		}
		e.got = append(e.got, event)
	}))
	s.t.Cleanup(server.Close)
	endpoint := must(s.house.Webhooks.Add(s.run.ctx, who, courier.Change{URL: &server.URL}))(s.t)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.secret = endpoint.Secret
	return e
}

// hears wants events of these types to have come since the last time, and returns them.
func (s *stage) hears(who string, e *ear, types ...webhook.Type) []webhook.Event {
	s.t.Helper()
	check(s.t, s.house.Webhooks.Derive(s.run.ctx))
	check(s.t, s.house.Webhooks.Deliver(s.run.ctx))
	e.mu.Lock()
	defer e.mu.Unlock()
	got := e.got
	e.got = nil
	slices.SortFunc(got, func(a, b webhook.Event) int { return strings.Compare(string(a.Type), string(b.Type)) })
	var list []webhook.Type
	for _, event := range got {
		list = append(list, event.Type)
	}
	slices.Sort(types)
	if fmt.Sprint(list) != fmt.Sprint(types) {
		s.t.Fatalf("%s hears %v, want %v", who, list, types)
	}
	return got
}

// A real chain, real contracts, real HTTP: what happens to a wallet arrives at its endpoint, signed, in the cycle's every step.
func TestWebhooksOfALife(t *testing.T) {
	t.Parallel()
	s := newStage(t, townTimes)
	check(t, s.house.Webhooks.Derive(s.run.ctx))
	buyer, seller, stranger := s.party(), s.party(), s.party()
	buyers, sellers, strangers, operators := s.listens(buyer.Address()), s.listens(seller.Address()), s.listens(stranger.Address()), s.listens(evm.Address{})

	s.deposits(5_000_000, buyer)
	var deposit webhook.Deposit
	event := s.hears("the buyer", buyers, webhook.CollateralDeposited)[0]
	check(t, event.Decode(&deposit))
	if deposit.Amount.String() != "5000000" || deposit.User != buyer.Address() || deposit.Network != "eip155:31337" || deposit.Tx.IsZero() || deposit.Block == 0 {
		t.Errorf("the deposit is %+v", deposit)
	}
	s.hears("the operator", operators, webhook.CollateralDeposited)

	ref, g := s.owes(debt{buyer, seller.Address(), 700}, debt{buyer, seller.Address(), 300})
	s.await(ref, clearing.Committed)
	s.hears("the buyer", buyers, webhook.CycleCommitted)
	s.hears("the seller", sellers, webhook.CycleCommitted)
	s.send(buyer, s.payment(ref, buyer)...)
	s.mine(2)
	s.hears("the buyer", buyers, webhook.GuaranteeSettled, webhook.GuaranteeSettled, webhook.PositionPaid)
	var amounts []string
	for _, event := range s.hears("the seller", sellers, webhook.GuaranteeSettled, webhook.GuaranteeSettled) {
		var told webhook.Guarantee
		check(t, event.Decode(&told))
		amounts = append(amounts, told.Amount.String())
		if told.Status != "SETTLED" || told.User != buyer.Address() || told.Recipient != seller.Address() || told.Cycle != ref.ID() {
			t.Errorf("the guarantee is told as %+v", told)
		}
	}
	if slices.Sort(amounts); fmt.Sprint(amounts) != "[300 700]" {
		t.Errorf("guarantees of %v are told", amounts)
	}
	s.stand(clearing.StatusSettled, g...)
	s.await(ref, clearing.Closed)
	s.hears("the buyer", buyers, webhook.CycleFinalized)
	s.send(seller, s.claim(ref, seller.Address()))
	s.mine(2)
	s.hears("the seller", sellers, webhook.CycleFinalized, webhook.PositionClaimed)

	s.send(buyer, s.house.Reader.Contracts.RequestWithdrawal(s.token, deposit.Amount))
	s.mine(2)
	var pending webhook.Withdrawal
	check(t, s.hears("the buyer", buyers, webhook.WithdrawalRequested)[0].Decode(&pending))
	if wait := pending.AvailableAt.Sub(pending.RequestedAt).Seconds(); wait != float64(townTimes.WithdrawalDelay) {
		t.Errorf("the withdrawal waits %v seconds", wait)
	}

	// The chain forgets a deposit that was deep enough: it is taken back by name.
	s.send(devFaucet(), chain.Mint(s.token, stranger.Address(), deposit.Amount))
	s.offer(stranger, depositOf(s.house.Deployment, s.token, deposit.Amount)[:2]...)
	s.mine(1)
	s.mine(2)
	first := s.hears("the stranger", strangers, webhook.CollateralDeposited)[0]
	s.reorg(3, devchain.Forget)
	s.mine(3)
	var voided webhook.Voided
	check(t, s.hears("the stranger", strangers, webhook.EventVoided)[0].Decode(&voided))
	if voided.Event != first.ID {
		t.Errorf("taken back is %s, want %s", voided.Event, first.ID)
	}
}

// Two nodes share one database. Both are killed at the moment in which a receiver has a webhook and nobody has written down that
// it arrived: it comes again under the same id from whoever is there next, and what happens then arrives too.
func TestNodesAreKilledBetweenDeliveryAndRecord(t *testing.T) {
	t.Parallel()
	w := newTownOf(t, slowPrices, storetest.Database(t), 2)
	c := w.customers(1, nil)[0]
	var secret atomic.Pointer[webhook.Secret]
	var killed atomic.Bool
	arrived := make(chan webhook.Event, 16)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		event, err := webhook.Receive(r, time.Now(), *secret.Load())
		if err != nil {
			t.Error(err)
		}
		if !killed.Swap(true) {
			for _, node := range w.nodes {
				node.kill()
			}
		}
		arrived <- event
	}))
	t.Cleanup(server.Close)
	house := must(client.New(w.houseURL(), client.WithSigner(c.key)))(t)
	endpoint := must(house.AddWebhook(w.run.ctx, c.key.Address(), client.WebhookChange{URL: server.URL, Types: []webhook.Type{webhook.CollateralDeposited}}))(t)
	known := must(webhook.ParseSecret(endpoint.Secret))(t)
	secret.Store(&known)
	next := func() webhook.Event {
		t.Helper()
		select {
		case event := <-arrived:
			return event
		case <-time.After(2 * patience): // a claim runs out first
			t.Fatal("nothing arrives")
			return webhook.Event{}
		}
	}
	deposit := func() {
		t.Helper()
		must(w.run.sendAll(w.client, devFaucet(), 0, chain.Mint(w.token.Address, c.key.Address(), demoDeposit)))(t)
		must(w.run.sendAll(w.client, c.key, 0, depositOf(w.deployment, w.token.Address, demoDeposit)[:2]...))(t)
	}
	deposit()
	first := next()
	deposit() // while no node is there
	for i := range w.nodes {
		w.startNode(i)
	}
	ids := map[string]int{first.ID: 1}
	for len(ids) < 2 || ids[first.ID] < 2 {
		ids[next().ID]++
	}
	for id, n := range ids {
		if id != first.ID && n > 1 {
			t.Errorf("%s came %d times, though nobody was killed", id, n)
		}
	}
	var list []client.WebhookDelivery
	var err error
	if !poll(func() bool {
		list, err = house.WebhookDeliveries(w.run.ctx, c.key.Address(), endpoint.ID, 10)
		return err == nil && len(list) >= len(ids) && !slices.ContainsFunc(list, func(d client.WebhookDelivery) bool { return d.State != "delivered" })
	}) {
		t.Errorf("the deliveries are recorded as %+v, %v", list, err)
	}
}
