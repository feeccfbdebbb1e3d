package store

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// noChain packs no calls: no cycle ends here.
type noChain struct{ clearing.Chain }

// Two nodes on one database. Notes that let claims go, and refunds that count on them, come at once, and refunds the one
// way lock whom refunds the other way lock too: nothing is let go that backs a refund, no claim backs twice, and nobody
// waits for ever.
func TestNotesAndRefundsFightForClaimsOnTwoNodes(t *testing.T) {
	onEach(t, testNotesAndRefundsFightForClaims)
}

func testNotesAndRefundsFightForClaims(t *testing.T, db database) {
	const start = 1_000_000
	deployment := guarantee.Deployment{ChainID: 31337, Name: "4Mica test", Version: "1", Vault: evm.Address{0x55}, ClearingHouse: evm.Address{0x77}}
	authority, err := guarantee.NewAuthority([]byte{31: 9})
	if err != nil {
		t.Fatal(err)
	}
	name, dollar, now := db.name(t), evm.Address{0xd0}, time.Unix(start+5, 0)
	var keys [4]*evm.PrivateKey // the first two buy, the others sell
	for i := range keys {
		secret := evm.Keccak256([]byte{byte(i)})
		if keys[i], err = evm.NewKey(secret[:]); err != nil {
			t.Fatal(err)
		}
	}
	var nodes [2]*clearing.House
	for i := range nodes {
		nodes[i], err = clearing.New(clearing.Config{Book: reopen(t, name).Clearing(), Chain: noChain{}, Deployment: deployment, Authority: authority})
		if err != nil {
			t.Fatal(err)
		}
	}
	schedule := clearing.Schedule{Asset: dollar, From: start, Length: 1000, Cutoff: 10, Post: 40, Challenge: 40, Repost: 40, Redeem: 100}
	events := []clearing.Event{{Kind: clearing.ScheduleSet, Asset: dollar, Schedule: &schedule, TxHash: evm.Hash{1}, LogIndex: 1}}
	for i := range 2 {
		events = append(events, clearing.Event{Kind: clearing.Deposited, Account: keys[i].Address(), Asset: dollar, Amount: money.Units(10_000), TxHash: evm.Hash{1}, LogIndex: uint64(2 + i)})
	}
	if err := nodes[0].Apply(t.Context(), clearing.Confirmed, clearing.Block{Number: 1, Hash: evm.Hash{1}, Time: start}, events); err != nil {
		t.Fatal(err)
	}
	sign := func(payer, payee int, reqID evm.Hash, amount uint64) guarantee.Signed {
		s, err := guarantee.Sign(t.Context(), keys[payer], deployment, guarantee.Claims{
			Payer: keys[payer].Address(), Payee: keys[payee].Address(), Asset: dollar, ReqID: reqID, Amount: money.Units(amount), Timestamp: start,
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	admit := func(h *clearing.House, s guarantee.Signed, cover ...evm.Hash) clearing.Result {
		return h.Admit(t.Context(), []clearing.Request{{Signed: s, Cover: cover}}, now)[0]
	}
	var wg sync.WaitGroup
	var backed, let atomic.Int64
	for n := range byte(24) {
		seller := 2 + int(n%2)
		one := admit(nodes[0], sign(0, seller, evm.Hash{n, 1}, 10))
		two := admit(nodes[1], sign(1, seller, evm.Hash{n, 2}, 10))
		if one.Err != nil || two.Err != nil {
			t.Fatal(one.Err, two.Err)
		}
		for side, cover := range [][]evm.Hash{{one.Digest, two.Digest}, {two.Digest, one.Digest}} { // two want three quarters each
			back := sign(seller, side, guarantee.RefundID([16]byte{n, byte(side)}), 15)
			wg.Go(func() {
				switch err := admit(nodes[side], back, cover...).Err; {
				case err == nil:
					backed.Add(1)
				case !errors.Is(err, clearing.ErrExposure):
					t.Error(err)
				}
			})
		}
		note, err := guarantee.SignNote(t.Context(), keys[seller], deployment, guarantee.Note{Digest: one.Digest, Amount: money.Units(4)})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			switch err := nodes[n%2].Note(t.Context(), []guarantee.SignedNote{note}, now)[0]; {
			case err == nil:
				let.Add(1)
			case !errors.Is(err, clearing.ErrPledged):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := nodes[0].Check(t.Context()); err != nil {
		t.Error(err)
	}
	if backed.Load() == 0 || backed.Load() > 24 {
		t.Errorf("%d refunds are backed by 24 pairs of claims, %d notes were taken", backed.Load(), let.Load())
	}
}
