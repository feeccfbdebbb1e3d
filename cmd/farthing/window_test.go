package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/store"
	"github.com/farthing402/farthing/x402"
)

// Permit2 logs no nonces. A payer that has paid once burns the nonce of its next payment of as much: whoever looks for the
// transfer must not take the first one for it, also if a facilitator says so.
func TestAnEarlierPaymentIsNotTakenForTheNext(t *testing.T) {
	t.Parallel()
	node := must(devchain.Start(t.Context(), devchain.Config{Manual: true}))(t)
	t.Cleanup(func() { _ = node.Close() })
	client := must(chain.Dial(t.Context(), node.URL()))(t)
	t.Cleanup(client.Close)
	w := &window{on: mustChain("dev"), client: client, now: node.Time}
	payer, relay, payee := devchain.Accounts()[5], devchain.Accounts()[6], evm.Address{0xee}

	sent := 0
	by := func(key *evm.PrivateKey, to evm.Address, data []byte) evm.Hash {
		t.Helper()
		outbox := evm.NewMemoryOutbox()
		sent++
		call := evm.Call{ID: fmt.Sprint(sent), From: key.Address(), To: to, Data: data, GasLimit: 300_000}
		if err := outbox.Enqueue(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		if err := chain.NewSender(client, outbox, key, chain.Policy{}).Step(t.Context(), node.Time()); err != nil {
			t.Fatal(err)
		}
		if err := node.Mine(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		tx := must(outbox.Find(t.Context(), call.ID))(t).Attempts[0].Hash
		if r := must(client.Receipt(t.Context(), tx))(t); r == nil || !r.OK {
			t.Fatalf("call %d failed", sent)
		}
		return tx
	}
	pay := func(nonce byte) exact.Authorization {
		return must(exact.Pay(t.Context(), payer, x402.Requirements{
			Scheme: exact.Scheme, Network: "eip155:31337", Amount: "500", Asset: devchain.TestDollar.String(), PayTo: payee.String(), MaxTimeoutSeconds: 300,
			Extra: map[string]json.RawMessage{"name": json.RawMessage(`"Test Dollar"`), "version": json.RawMessage(`"2"`), "assetTransferMethod": json.RawMessage(`"permit2"`)},
		}, evm.Hash{nonce, 31: nonce}, node.Time()))(t)
	}
	expect := func(what string, a exact.Authorization, claimed evm.Hash, want paywall.Fate) {
		t.Helper()
		fate, tx, err := w.Moved(t.Context(), "eip155:31337", a, money.Units(500), claimed)
		if err != nil || fate != want || (fate == paywall.Moved) == tx.IsZero() {
			t.Errorf("%s: fate %d in %s, %v; want %d", what, fate, tx, err, want)
		}
	}

	approve := chain.Approve(devchain.TestDollar, exact.Permit2Address, money.MaxAmount())
	by(payer, approve.To, approve.Data)
	first, next := pay(1), pay(2)
	move := must((&exact.Verifier{}).Move(first, first.Amount))(t)
	tx := by(relay, move.To, move.Data)
	expect("the first", first, evm.Hash{}, paywall.Moved)
	expect("the first, as its facilitator says", first, tx, paywall.Moved)
	expect("the next, before anything", next, evm.Hash{}, paywall.Unspent)
	expect("the next, with the first's transaction", next, tx, paywall.Unspent)

	var word, mask [32]byte
	copy(word[1:], next.Nonce[:31])
	bit := next.Nonce[31]
	mask[31-bit/8] = 1 << (bit % 8)
	by(payer, exact.Permit2Address, evm.EncodeCall(evm.Selector("invalidateUnorderedNonces(uint256,uint256)"), evm.WordArg(word), evm.WordArg(mask)))
	expect("the next, burnt", next, evm.Hash{}, paywall.Spent)
	expect("the next, burnt, with the first's transaction", next, tx, paywall.Spent)
	expect("the first, still", first, evm.Hash{}, paywall.Moved)
}

// A gate and a command beside it work on one book. While one of them sends, the other must not: it may have seen the refund
// unsent, and would send it again under the next nonce.
func TestARefundIsSentByOneProcess(t *testing.T) {
	t.Parallel()
	node := must(devchain.Start(t.Context(), devchain.Config{Manual: true}))(t)
	t.Cleanup(func() { _ = node.Close() })
	client := must(chain.Dial(t.Context(), node.URL()))(t)
	t.Cleanup(client.Close)
	path := filepath.Join(t.TempDir(), "gate.db")
	seller, buyer := devchain.Accounts()[5], evm.Address{0xbb}
	process := func() *window {
		db := must(store.Open(t.Context(), path))(t)
		t.Cleanup(func() { db.Close() })
		return &window{
			on: mustChain("dev"), client: client, book: db, outbox: db.Outbox(), now: node.Time,
			sender: chain.NewSender(client, db.Outbox(), seller, chain.Policy{}),
		}
	}
	gate, command := process(), process()
	pay := func(w *window) bool {
		t.Helper()
		_, done, err := w.Pay(t.Context(), "refund:p_1", "eip155:31337", devchain.TestDollar, buyer, money.Units(500))
		if err != nil {
			t.Error(err)
		}
		return done
	}
	ran, err := gate.book.Alone(t.Context(), "sender-"+seller.Address().Lower(), func(context.Context) error {
		pay(command)
		if sent := must(command.outbox.Find(t.Context(), "refund:p_1"))(t); len(sent.Attempts) != 0 {
			t.Errorf("sent beside the gate: %d attempts", len(sent.Attempts))
		}
		return nil
	})
	if !ran || err != nil {
		t.Fatal(ran, err)
	}
	var both sync.WaitGroup
	for range 4 {
		both.Go(func() { pay(gate) })
		both.Go(func() { pay(command) })
	}
	both.Wait()
	for range 3 {
		if err := node.Mine(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		pay(gate)
	}
	if !pay(command) {
		t.Error("it is not through")
	}
	if got := must(client.TokenBalance(t.Context(), devchain.TestDollar, buyer))(t); got != money.Units(500) {
		t.Errorf("%s came back, not 500", got)
	}
}
