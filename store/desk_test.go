package store

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/money"
)

// fullSettlement is a settlement in which every column differs from its zero value.
func fullSettlement(n byte) desk.Settlement {
	return desk.Settlement{
		Ask: desk.Ask{
			ID: evm.Hash{n}, ChainID: 84532, Scheme: "exact", Asset: address(1), Payer: address(2), Payee: address(3), Amount: money.Units(500),
			Nonce: evm.Hash{4, n}, ValidAfter: 5, ValidBefore: math.MaxUint64,
			Steps: []desk.Step{{To: address(6), Data: []byte{7}, Code: "smart_wallet_deployment_failed"}, {Raw: []byte{8}, Code: "erc20_approval_tx_failed"}},
			To:    address(9), Data: []byte{10, 0}, GasMax: 11, Mark: desk.MarkNonce, Shared: true, Lane: address(12),
		},
		State: desk.Queued, AskedAt: time.Unix(100, 7).UTC(), Due: time.Unix(130, 0).UTC(), Since: 13, Alone: true, Stage: 1, Tries: 2,
	}
}

func TestASettlementIsKeptWhole(t *testing.T) { onEach(t, testASettlementIsKeptWhole) }

func testASettlementIsKeptWhole(t *testing.T, db database) {
	s := db.fresh(t)
	book, ctx := s.Settlements(), t.Context()
	is := func(step string, want desk.Settlement) {
		t.Helper()
		got, found, err := book.Find(ctx, want.ID)
		if err != nil || !found {
			t.Fatalf("%s: found %v, %v", step, found, err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(money.Amount{})); diff != "" {
			t.Errorf("%s: %s", step, diff)
		}
	}
	x := fullSettlement(1)
	if got, fresh, err := book.Record(ctx, x); err != nil || !fresh || got.ID != x.ID {
		t.Fatalf("record: %v, fresh %v", err, fresh)
	}
	is("recorded", x)
	other := x
	other.Amount = money.Units(1)
	if got, fresh, err := book.Record(ctx, other); err != nil || fresh || got.Amount != x.Amount {
		t.Errorf("recorded again: %s, fresh %v, %v", got.Amount, fresh, err)
	}
	if _, found, err := book.Find(ctx, evm.Hash{9}); found || err != nil {
		t.Errorf("one that is not there: %v, %v", found, err)
	}

	x.State, x.Call, x.From, x.Tries = desk.Sent, "settle/1", address(14), 3
	if err := book.Send(ctx, x.ChainID, call("settle/1", 14), []desk.Settlement{x}); err != nil {
		t.Fatal(err)
	}
	is("sent", x)
	if sent, err := s.OutboxOn(x.ChainID).Open(ctx, address(14)); err != nil || len(sent) != 1 || sent[0].ID != "settle/1" {
		t.Errorf("the outbox has %v, %v", sent, err)
	}
	if open, err := book.Open(ctx, x.ChainID); err != nil || len(open) != 1 {
		t.Errorf("open: %v, %v", open, err)
	}

	x.State, x.Tx, x.Block, x.BlockHash, x.Foreign = desk.Settled, evm.Hash{15}, 16, evm.Hash{17}, true
	x.Gas, x.GasBefore, x.Cost, x.CostBefore, x.DoneAt = 18, 19, money.Units(20), money.Units(21), time.Unix(140, 0).UTC()
	if err := book.Save(ctx, []desk.Settlement{x}, nil); err != nil {
		t.Fatal(err)
	}
	is("settled", x)
	for _, tt := range []struct {
		chain, since uint64
		want         int
	}{{84532, 16, 1}, {84532, 17, 0}, {1, 0, 0}} {
		if mined, err := book.Mined(ctx, tt.chain, tt.since); err != nil || len(mined) != tt.want {
			t.Errorf("mined on %d since %d: %d, %v", tt.chain, tt.since, len(mined), err)
		}
	}
	if open, err := book.Open(ctx, x.ChainID); err != nil || len(open) != 0 {
		t.Errorf("open: %v, %v", open, err)
	}
	if err := book.Save(ctx, []desk.Settlement{fullSettlement(2)}, nil); err == nil {
		t.Error("one that was never recorded was saved")
	}
}

// A failed settlement is replaced by one that tries it again, and by no other.
func TestOnlyAFailedSettlementIsReplaced(t *testing.T) {
	onEach(t, testOnlyAFailedSettlementIsReplaced)
}

func testOnlyAFailedSettlementIsReplaced(t *testing.T, db database) {
	book, ctx := db.fresh(t).Settlements(), t.Context()
	x := fullSettlement(1)
	if _, _, err := book.Record(ctx, x); err != nil {
		t.Fatal(err)
	}
	failed := x
	failed.State, failed.Code, failed.Reason, failed.DoneAt = desk.Failed, "insufficient_funds", "empty", time.Unix(140, 0).UTC()
	if err := book.Save(ctx, []desk.Settlement{failed}, nil); err != nil {
		t.Fatal(err)
	}
	older := x
	older.Tries--
	if _, fresh, err := book.Record(ctx, older); err != nil || fresh {
		t.Errorf("one of fewer tries: fresh %v, %v", fresh, err)
	}
	if _, fresh, err := book.Record(ctx, x); err != nil || !fresh {
		t.Errorf("its successor: fresh %v, %v", fresh, err)
	}
	if _, fresh, err := book.Record(ctx, x); err != nil || fresh {
		t.Errorf("its successor again: fresh %v, %v", fresh, err)
	}
}

// What is asked for and what sends it are written together or not at all.
func TestASettlementIsNotSentByACallThatIsRefused(t *testing.T) {
	onEach(t, testASettlementIsNotSentByACallThatIsRefused)
}

func testASettlementIsNotSentByACallThatIsRefused(t *testing.T, db database) {
	s := db.fresh(t)
	book, ctx := s.Settlements(), t.Context()
	x := fullSettlement(1)
	if _, _, err := book.Record(ctx, x); err != nil {
		t.Fatal(err)
	}
	taken := call("settle/1", 14)
	if err := s.OutboxOn(x.ChainID).Enqueue(ctx, taken); err != nil {
		t.Fatal(err)
	}
	x.State, x.Call, x.From = desk.Sent, "settle/1", address(14)
	taken.Data = []byte{9}
	if err := book.Send(ctx, x.ChainID, taken, []desk.Settlement{x}); err == nil {
		t.Error("a call of another content was taken")
	}
	if got, _, err := book.Find(ctx, x.ID); err != nil || got.State != desk.Queued {
		t.Errorf("it is %s, %v", got.State, err)
	}
}

func TestSpendingAddsUp(t *testing.T) { onEach(t, testSpendingAddsUp) }

func testSpendingAddsUp(t *testing.T, db database) {
	book, ctx := db.fresh(t).Settlements(), t.Context()
	one := desk.Spending{ChainID: 1, Day: "2026-01-02", Account: address(1), Gas: 5, Wei: money.Units(7)}
	lane, other, later := one, one, one
	lane.Lane, other.ChainID, later.Day = true, 2, "2026-01-03"
	for range 2 {
		if err := book.Save(ctx, nil, []desk.Spending{one, lane, other, later, one}); err != nil {
			t.Fatal(err)
		}
	}
	spent, err := book.Spent(ctx, 1, "2026-01-02")
	if err != nil || len(spent) != 2 {
		t.Fatalf("%v, %v", spent, err)
	}
	for _, sp := range spent {
		gas, wei := uint64(20), money.Units(28)
		if sp.Lane {
			gas, wei = 10, money.Units(14)
		}
		if sp.Gas != gas || sp.Wei != wei {
			t.Errorf("%+v, want %d gas and %s wei", sp, gas, wei)
		}
	}
}

// One key may be a lane on several chains, where it has the same nonces.
func TestOutboxesOfTwoChainsDoNotMeet(t *testing.T) { onEach(t, testOutboxesOfTwoChainsDoNotMeet) }

func testOutboxesOfTwoChainsDoNotMeet(t *testing.T, db database) {
	s := db.fresh(t)
	ctx := t.Context()
	for _, chain := range []uint64{0, 1, 2} {
		o := s.OutboxOn(chain)
		id := fmt.Sprint("call of ", chain)
		if err := o.Enqueue(ctx, call(id, 1)); err != nil {
			t.Fatal(err)
		}
		if err := o.RecordAttempt(ctx, id, attempt(1, 5)); err != nil {
			t.Fatal(err)
		}
		if open := ids(o.Open(ctx, address(1))); open != "["+id+"]" {
			t.Errorf("open on chain %d: %s", chain, open)
		}
		if err := o.Finish(ctx, id, &evm.CallReceipt{TxHash: evm.Hash{1}, BlockNumber: 9, BlockHash: evm.Hash{2}, OK: true}, ""); err != nil {
			t.Fatal(err)
		}
		if done := ids(o.Finished(ctx, address(1), 9)); done != "["+id+"]" {
			t.Errorf("finished on chain %d: %s", chain, done)
		}
	}
}

func TestResourcesAreRenewedAndKeepTheirPlace(t *testing.T) {
	onEach(t, testResourcesAreRenewedAndKeepTheirPlace)
}

func testResourcesAreRenewedAndKeepTheirPlace(t *testing.T, db database) {
	c, ctx := db.fresh(t).Catalogue(), t.Context()
	for i, name := range []string{"a", "b", "a"} {
		if err := c.Put(ctx, name, fmt.Appendf(nil, `{"n":%d}`, i), time.Unix(int64(i), 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Put(ctx, "c", []byte("{"), time.Unix(0, 0)); err == nil {
		t.Error("no JSON was taken")
	}
	names, items, err := c.List(ctx)
	if err != nil || fmt.Sprintf("%s %s", names, items) != `[a b] [{"n":2} {"n":1}]` {
		t.Errorf("%s %s, %v", names, items, err)
	}
}

// Forgotten is what ended long ago and cannot be shown again, step by step, and the calls that nothing else went with.
func TestOldSettlementsAreForgotten(t *testing.T) { onEach(t, testOldSettlementsAreForgotten) }

func testOldSettlementsAreForgotten(t *testing.T, db database) {
	s := db.fresh(t)
	book, outbox, ctx := s.Settlements(), s.OutboxOn(84532), t.Context()
	cut := time.Unix(1_000_000, 0)
	put := func(n byte, callID string, validBefore uint64, done time.Time, change func(*desk.Settlement)) {
		t.Helper()
		x := fullSettlement(n)
		x.ValidBefore = validBefore
		if change != nil {
			change(&x)
		}
		if _, _, err := book.Record(ctx, x); err != nil {
			t.Fatal(err)
		}
		x.State, x.Call, x.From, x.Tries = desk.Sent, callID, address(14), 3
		if err := book.Send(ctx, x.ChainID, call(callID, 14), []desk.Settlement{x}); err != nil {
			t.Fatal(err)
		}
		if done.IsZero() {
			return
		}
		x.State, x.DoneAt = desk.Failed, done.UTC()
		x.Code, x.Reason = "gas_too_high", "no"
		if err := book.Save(ctx, []desk.Settlement{x}, nil); err != nil {
			t.Fatal(err)
		}
	}
	long := cut.Add(-time.Hour)
	for n := byte(1); n <= 5; n++ {
		put(n, "settle/old", uint64(n), long, nil)
	}
	put(6, "settle/shared", 6, long, nil)
	put(7, "settle/shared", uint64(cut.Unix()), long, nil) // expires no sooner than the cut
	put(8, "settle/8", math.MaxUint64, long, nil)          // never expires
	put(9, "settle/9", 9, cut, nil)                        // ended no sooner
	put(10, "settle/10", 10, time.Time{}, nil)             // has not ended
	put(11, "settle/11", 11, long, func(x *desk.Settlement) { x.ChainID = 1 })
	for _, id := range []string{"settle/old", "settle/shared"} {
		if err := outbox.RecordAttempt(ctx, id, attempt(byte(len(id)), uint64(len(id)))); err != nil {
			t.Fatal(err)
		}
		if err := outbox.Finish(ctx, id, &evm.CallReceipt{OK: true}, ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{4, 2, 0} {
		if n, err := book.Prune(ctx, 84532, cut, 4); err != nil || n != want {
			t.Fatalf("forgotten %d, want %d: %v", n, want, err)
		}
	}
	for n := byte(1); n <= 11; n++ {
		if _, found, err := book.Find(ctx, evm.Hash{n}); err != nil || found != (n > 6) {
			t.Errorf("settlement %d: found %v, %v", n, found, err)
		}
	}
	for id, want := range map[string]bool{"settle/old": false, "settle/shared": true, "settle/8": true, "settle/10": true} {
		if _, err := outbox.Find(ctx, id); (err == nil) != want {
			t.Errorf("call %s: %v", id, err)
		}
	}
}
