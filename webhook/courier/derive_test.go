package courier_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/webhook"
	"github.com/farthing402/farthing/webhook/courier"
)

// members returns an event's data as JSON says it.
func members(t *testing.T, e webhook.Event) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(e.Data, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func stamp(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.RFC3339) }

// The events that 4Mica's documentation describes have exactly the members that it lists.
func TestCollateralEvents(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		c := w.started()
		r, _ := w.listen(c, w.party(0), nil, nil)
		others, _ := w.listen(c, w.party(1), nil, nil)
		all, _ := w.listen(c, operator, nil, nil)
		who := w.party(0).String()

		w.deposit(w.party(0), 5_000_000)
		w.run(c)
		got := r.events()
		if len(got) != 1 || got[0].Type != webhook.CollateralDeposited || got[0].APIVersion != "2026-06-01" || got[0].CreatedAt.Unix() != begin {
			t.Fatalf("received %+v", got)
		}
		tx := members(t, got[0])["transaction_hash"]
		if diff := cmp.Diff(map[string]any{
			"user_address": who, "asset_address": dollar.String(), "amount": "5000000", "network": "eip155:31337", "transaction_hash": tx,
			"block_number": float64(w.block), "status": "finalized",
		}, members(t, got[0])); diff != "" {
			t.Errorf("deposit (-want +got):\n%s", diff)
		}

		w.wait(time.Minute)
		w.apply(clearing.Event{Kind: clearing.WithdrawalRequested, Account: w.party(0), Asset: dollar, Amount: money.Units(3_000_000), Time: begin + 60})
		w.run(c)
		got = r.events()
		if len(got) != 1 {
			t.Fatalf("received %+v", got)
		}
		requested := members(t, got[0])
		want := map[string]any{
			"withdrawal_id": requested["withdrawal_id"], "user_address": who, "asset_address": dollar.String(), "amount": "3000000", "network": "eip155:31337",
			"requested_at": stamp(begin + 60), "available_at": stamp(begin + 60 + 48*3600), "transaction_hash": requested["transaction_hash"], "status": "pending",
		}
		if diff := cmp.Diff(want, requested); diff != "" {
			t.Errorf("request (-want +got):\n%s", diff)
		}

		// The end is told long after the log of the request was pruned.
		for range 200 {
			w.apply()
			w.run(c)
		}
		w.wait(48 * time.Hour)
		w.apply(clearing.Event{Kind: clearing.Withdrawn, Account: w.party(0), Asset: dollar, Amount: money.Units(2_000_000)})
		w.run(c)
		got = r.events()
		if len(got) != 1 || got[0].Type != webhook.WithdrawalFinalized {
			t.Fatalf("received %+v", got)
		}
		ended := members(t, got[0])
		want["amount"], want["status"], want["finalized_at"], want["transaction_hash"] = "2000000", "finalized", stamp(begin+60+48*3600), ended["transaction_hash"]
		if diff := cmp.Diff(want, ended); diff != "" {
			t.Errorf("end (-want +got):\n%s", diff)
		}

		w.apply(clearing.Event{Kind: clearing.WithdrawalRequested, Account: w.party(0), Asset: dollar, Amount: money.Units(1)},
			clearing.Event{Kind: clearing.WithdrawalCanceled, Account: w.party(0), Asset: dollar})
		w.run(c)
		if got := r.types(); got != "[withdrawal.cancelled withdrawal.requested]" {
			t.Errorf("received %s", got)
		}
		if got := others.events(); len(got) != 0 {
			t.Errorf("somebody else was told %+v", got)
		}
		if got := all.types(); got != "[collateral.deposited withdrawal.cancelled withdrawal.finalized withdrawal.requested withdrawal.requested]" {
			t.Errorf("the operator was told %s", got)
		}
	})
}

// A whole cycle: three promise each other, one pays, one lets its collateral settle by being marked.
func TestCycleEvents(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		c := w.started()
		for i := range 3 {
			w.deposit(w.party(i), 1000)
		}
		w.run(c)
		// 0 owes 2 and 1; 1 owes 2; 2 gets.
		w.promise(0, 2, 10)
		w.promise(0, 1, 5)
		w.promise(1, 2, 20)
		w.promise(2, 0, 3)
		rs := make([]*receiver, 4)
		for i := range rs {
			rs[i], _ = w.listen(c, w.party(i), nil, nil)
		}
		chosen, _ := w.listen(c, w.party(2), []webhook.Type{webhook.GuaranteeSettled}, nil)
		all, _ := w.listen(c, operator, nil, nil)
		settled, _ := w.listen(c, operator, []webhook.Type{webhook.GuaranteeSettled}, nil)
		is := func(what string, want ...string) {
			t.Helper()
			for i, r := range rs {
				if got := r.types(); got != want[i] {
					t.Errorf("%s: party %d is told %s, want %s", what, i, got, want[i])
				}
			}
		}

		cycle := w.commit()
		w.run(c)
		committed := rs[0].events()
		if len(committed) != 1 {
			t.Fatalf("party 0 is told %+v", committed)
		}
		if diff := cmp.Diff(map[string]any{
			"cycle_id": cycle.Ref.ID().String(), "cycle_id_text": cycle.Ref.String(), "asset_address": dollar.String(), "generation": float64(0), "total": "27",
			"merkle_root": cycle.Root.String(), "network": "eip155:31337", "final_at": stamp(w.clock().Unix() + 600), "status": "committed",
			"transaction_hash": members(t, committed[0])["transaction_hash"], "block_number": float64(w.block),
			"position": map[string]any{"user_address": w.party(0).String(), "role": "debtor", "amount": "12", "out": "15", "in": "3"},
		}, members(t, committed[0])); diff != "" {
			t.Errorf("commit (-want +got):\n%s", diff)
		}
		is("commit", "[]", "[cycle.committed]", "[cycle.committed]", "[]")

		w.wait(time.Minute)
		w.apply(clearing.Event{Kind: clearing.DebtorPaid, Cycle: cycle.Ref.ID(), Account: w.party(0), Amount: money.Units(12)})
		w.run(c)
		paid := chosen.events()
		if len(paid) != 1 {
			t.Fatalf("the payee is told %+v", paid)
		}
		one := members(t, paid[0])
		if diff := cmp.Diff(map[string]any{
			"guarantee_id": one["guarantee_id"], "req_id": one["req_id"], "cycle_id": cycle.Ref.ID().String(), "version": float64(1),
			"user_address": w.party(0).String(), "recipient_address": w.party(2).String(), "asset_address": dollar.String(), "amount": "10",
			"network": "eip155:31337", "status": "SETTLED", "settled_at": stamp(w.clock().Unix()),
		}, one); diff != "" {
			t.Errorf("guarantee (-want +got):\n%s", diff)
		}
		is("payment", "[guarantee.settled guarantee.settled position.paid]", "[guarantee.settled]", "[guarantee.settled]", "[]")

		w.wait(time.Hour)
		w.apply(clearing.Event{Kind: clearing.CycleFinalized, Cycle: cycle.Ref.ID()})
		w.run(c)
		is("finality", "[cycle.finalized guarantee.settled]", "[cycle.finalized]", "[cycle.finalized guarantee.settled]", "[]")

		w.apply(clearing.Event{Kind: clearing.DebtorDefaulted, Cycle: cycle.Ref.ID(), Account: w.party(1), Amount: money.Units(15)},
			clearing.Event{Kind: clearing.CreditorClaimed, Cycle: cycle.Ref.ID(), Account: w.party(2), Amount: money.Units(27)})
		w.run(c)
		is("default and claim", "[]", "[guarantee.default_covered position.defaulted]", "[guarantee.default_covered position.claimed]", "[]")
		if got, want := all.types(), "[cycle.committed cycle.finalized position.claimed position.defaulted position.paid]"; got != want {
			t.Errorf("the operator is told %s, want %s", got, want)
		}
		if got, want := len(settled.events()), 3; got != want {
			t.Errorf("the operator asked for guarantees and is told of %d, want %d", got, want)
		}
	})
}

// Every party of a cycle is told of it although there are more guarantees than one write takes, and once only.
func TestManyGuarantees(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		c := w.started()
		w.deposit(w.party(0), 10_000)
		const n = 600
		for range n {
			w.promise(0, 1, 1)
		}
		r, _ := w.listen(c, w.party(1), []webhook.Type{webhook.GuaranteeSettled}, nil)
		cycle := w.commit()
		w.apply(clearing.Event{Kind: clearing.DebtorPaid, Cycle: cycle.Ref.ID(), Account: w.party(0), Amount: money.Units(n)})
		w.run(c)
		seen := make(map[string]bool)
		for _, e := range r.events() {
			var g webhook.Guarantee
			if err := e.Decode(&g); err != nil {
				t.Fatal(err)
			}
			seen[e.ID+g.ID.String()] = true
		}
		if len(seen) != n {
			t.Errorf("%d guarantees were told, want %d", len(seen), n)
		}
	})
}

// Blocks that nothing was made of yet stay, however long that takes; then nothing is lost.
func TestPruningWaitsForTheCursor(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		c := w.started()
		r, _ := w.listen(c, w.party(0), nil, nil)
		w.deposit(w.party(0), 7)
		for range 300 { // KeepDepth is 64
			w.apply()
		}
		w.run(c)
		if got := r.types(); got != "[collateral.deposited]" {
			t.Errorf("received %s", got)
		}
		for range 200 {
			w.apply()
			w.run(c)
		}
		oldest, err := w.store.Webhooks().Earliest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if oldest.Block.Number < w.block-200 {
			t.Errorf("blocks since %d are still there at %d: pruning has stopped", oldest.Block.Number, w.block)
		}
	})
}

// A crash after the messages were written and before the cursor moved, or two nodes that derive at once, make nothing twice.
func TestDerivingTwiceTellsOnce(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		c := w.started()
		r, _ := w.listen(c, w.party(0), nil, nil)
		from, err := w.store.Webhooks().Cursor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w.deposit(w.party(0), 7)
		w.run(c)
		at, err := w.store.Webhooks().Cursor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := w.store.Webhooks().Record(t.Context(), courier.Batch{From: at, To: from, At: w.clock()}); err != nil {
			t.Fatal(err)
		}
		w.run(w.courier())
		if got := r.types(); got != "[collateral.deposited]" {
			t.Errorf("received %s", got)
		}
		if err := w.store.Webhooks().Record(t.Context(), courier.Batch{From: from, To: at}); err == nil {
			t.Error("a cursor is moved from where it is not")
		}
	})
}

// The chain takes back blocks that webhooks have told of: each event is taken back by name, what had not arrived does not,
// and what happens again is told again under another name.
func TestDeepReorganisation(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		c := w.started()
		r, _ := w.listen(c, w.party(0), nil, nil)
		late, end := w.listen(c, w.party(0), nil, nil)
		w.deposit(w.party(0), 1)
		kept := w.block
		w.run(c)
		first := r.events()[0]
		late.events()
		url := "http://127.0.0.1:1/"
		if _, err := c.Change(t.Context(), w.party(0), end.ID, courier.Change{URL: &url}); err != nil {
			t.Fatal(err)
		}
		w.deposit(w.party(0), 2)
		w.run(c)
		second := r.events()[0]
		logs := w.logs

		if err := w.house.Unwind(t.Context(), clearing.Confirmed, kept); err != nil {
			t.Fatal(err)
		}
		w.block, w.fork, w.logs = kept, 1, logs-1
		w.apply()
		w.deposit(w.party(0), 2) // the same transaction, in another block
		w.run(c)
		told := make(map[webhook.Type]webhook.Event)
		for _, e := range r.events() {
			told[e.Type] = e
		}
		var voided webhook.Voided
		if err := told[webhook.EventVoided].Decode(&voided); err != nil {
			t.Fatal(err)
		}
		if voided.Event != second.ID || voided.Type != webhook.CollateralDeposited || voided.Block != kept+1 {
			t.Errorf("taken back is %+v, want %s", voided, second.ID)
		}
		again := told[webhook.CollateralDeposited]
		if again.ID == "" || again.ID == second.ID || again.ID == first.ID {
			t.Errorf("what happened again is told as %q after %q and %q", again.ID, first.ID, second.ID)
		}
		back := late.URL
		if _, err := c.Change(t.Context(), w.party(0), end.ID, courier.Change{URL: &back}); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Minute)
		w.deliver(c)
		for _, e := range late.events() {
			if e.ID == second.ID {
				t.Error("an event is delivered after it was taken back")
			}
		}
		w.run(c)
		if got := r.events(); len(got) != 0 {
			t.Errorf("then told again: %+v", got)
		}
	})
}
