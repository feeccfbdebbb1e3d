package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/x402"
)

// What the buyer's wallet says is what a real chain says: balances, allowances, nonces, and what a transaction moved.
func TestWalletOverAChain(t *testing.T) {
	t.Parallel()
	r := testRun(t, filepath.Join(t.TempDir(), "home"))
	node := must(devchain.Start(r.ctx, devchain.Config{}))(t)
	t.Cleanup(func() { _ = node.Close() })
	key, ctx := devchain.Accounts()[1], r.ctx
	w := must(r.wallet(key, []string{node.URL()}))(t)
	t.Cleanup(w.Close)
	client := w.clients[0]
	dev := mustChain("dev")
	token := must(dev.Token("USDC"))(t)
	send := func(calls ...evm.Call) []evm.SentCall {
		t.Helper()
		return must(r.sendAll(client, devFaucet(), 0, calls...))(t)
	}
	send(chain.Mint(token.Address, key.Address(), money.Units(5_000_000)))

	if ids := w.Networks(); len(ids) != 1 || ids[0] != dev.ID {
		t.Errorf("networks %v", ids)
	}
	if held := must(w.Balance(ctx, dev.ID, token.Address, key.Address()))(t); held.Less(money.Units(5_000_000)) {
		t.Errorf("holds %s", held)
	}
	if n := must(w.PermitNonce(ctx, dev.ID, token.Address, key.Address()))(t); !n.IsZero() {
		t.Errorf("permit nonce %s", n)
	}
	for _, ask := range []func(id uint64) error{
		func(id uint64) error { _, err := w.Balance(ctx, id, token.Address, key.Address()); return err },
		func(id uint64) error { _, err := w.Allowance(ctx, id, token.Address, key.Address()); return err },
		func(id uint64) error { _, err := w.PermitNonce(ctx, id, token.Address, key.Address()); return err },
		func(id uint64) error { _, err := w.Approval(ctx, id, token.Address); return err },
		func(id uint64) error {
			_, _, err := w.Used(ctx, exact.Authorization{ChainID: id, Method: exact.EIP3009})
			return err
		},
		func(id uint64) error {
			_, err := w.Moved(ctx, id, evm.Hash{1}, token.Address, key.Address(), key.Address())
			return err
		},
	} {
		if ask(8453) == nil {
			t.Error("says something of a chain that it has no node of")
		}
	}

	// An approval is signed and not sent; whoever sends it has it take effect.
	raw := must(w.Approval(ctx, dev.ID, token.Address))(t)
	if a := must(w.Allowance(ctx, dev.ID, token.Address, key.Address()))(t); !a.IsZero() {
		t.Errorf("allowed %s before anybody sent it", a)
	}
	check(t, client.Relay(ctx, raw))
	for deadline := time.Now().Add(patience); ; {
		if a := must(w.Allowance(ctx, dev.ID, token.Address, key.Address()))(t); a == money.MaxAmount() {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("allowed %s", a)
		}
		check(t, sleep(ctx, 50*time.Millisecond))
	}

	// A transfer by signature: its nonce is unused, then used, and its transaction shows what moved.
	offer := x402.Requirements{
		Scheme: exact.Scheme, Network: dev.CAIP2(), Amount: "700", Asset: token.Address.String(), PayTo: devOperator().Address().String(), MaxTimeoutSeconds: 600,
		Extra: map[string]json.RawMessage{"name": text(token.Name), "version": text(token.Version)},
	}
	a := must(exact.Pay(ctx, key, offer, evm.Hash{7}, time.Now()))(t)
	if used, asOf, err := w.Used(ctx, a); err != nil || used || time.Since(asOf).Abs() > time.Minute {
		t.Errorf("used %v as of %s, %v", used, asOf, err)
	}
	move := must((&exact.Verifier{Chain: client}).Move(a, a.Amount))(t)
	tx := send(evm.Call{To: move.To, Data: move.Data})[0].Receipt.TxHash
	if used, _, err := w.Used(ctx, a); err != nil || !used {
		t.Errorf("used %v, %v", used, err)
	}
	if moved := must(w.Moved(ctx, dev.ID, tx, token.Address, key.Address(), a.To))(t); moved != money.Units(700) {
		t.Errorf("moved %s", moved)
	}
	if moved := must(w.Moved(ctx, dev.ID, tx, token.Address, a.To, key.Address()))(t); !moved.IsZero() {
		t.Errorf("moved %s the other way", moved)
	}
	if _, err := w.Moved(ctx, dev.ID, evm.Hash{9}, token.Address, key.Address(), a.To); err == nil {
		t.Error("a transaction that is not there moved something")
	}

	// The account's own transfer is sent once for an id, and one that the chain refuses is known not to be sent.
	own := ownSender{r, w}
	before := must(w.Balance(ctx, dev.ID, token.Address, key.Address()))(t)
	friend := evm.MustAddress("0x5200000000000000000000000000000000000001")
	first := must(own.Send(ctx, "p_one", dev.ID, token.Address, friend, money.Units(300)))(t)
	again := must(own.Send(ctx, "p_one", dev.ID, token.Address, friend, money.Units(300)))(t)
	after := must(w.Balance(ctx, dev.ID, token.Address, key.Address()))(t)
	if spent, _ := before.Sub(after); first != again || spent != money.Units(300) {
		t.Errorf("sent %s and %s, spent %s", first, again, spent)
	}
	if _, err := own.Send(ctx, "p_two", dev.ID, token.Address, friend, money.MaxAmount()); !errors.Is(err, payer.ErrNotSent) {
		t.Errorf("more than there is: %v", err)
	}
	if _, err := own.Send(ctx, "p_three", 8453, token.Address, friend, money.Units(1)); !errors.Is(err, payer.ErrNotSent) {
		t.Errorf("on another chain: %v", err)
	}
}

func text(s string) json.RawMessage { return fmt.Appendf(nil, "%q", s) }
