package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/ledger"
	"github.com/farthing402/farthing/money"
)

// Two nodes on one database: each of these tests is a read that decides on a write, and somebody else who makes it untrue in
// between.

// nodes opens several stores on one new database.
func nodes(t *testing.T, db database, n int) []*Store {
	t.Helper()
	name := db.name(t)
	all := make([]*Store, n)
	for i := range all {
		all[i] = reopen(t, name)
	}
	return all
}

// race runs fn many times on every node at once and fails with what it returns.
func race(t *testing.T, nodes []*Store, each int, fn func(s *Store, node, n int) error) {
	t.Helper()
	var wg sync.WaitGroup
	for i, s := range nodes {
		for worker := range 4 {
			wg.Go(func() {
				for n := range each {
					if err := fn(s, i, worker*each+n); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
}

var raceCycle = promise(address(1), address(2), 1).Cycle

// reserve admits as the house does: the cycle is kept, the account is read, and what it has decides.
func reserve(ctx context.Context, s *Store, g clearing.Guarantee, limit uint64) (admitted bool, err error) {
	err = s.Clearing().Write(ctx, func(tx clearing.Tx) error {
		admitted = false
		cycle, _, err := tx.KeptCycle(g.Cycle)
		if err != nil || cycle.Status != clearing.Open {
			return err
		}
		payer := g.Signed.Claims.Payer
		accounts, err := tx.Accounts([]clearing.AccountKey{{Owner: payer, Asset: g.Cycle.Asset}})
		if err != nil {
			return err
		}
		if known, err := tx.GuaranteesByKey([]guarantee.Key{g.Signed.Claims.Key()}); err != nil || len(known) > 0 {
			return err
		}
		a := accounts[0]
		if a.Balance.DebitsPending, _ = a.Balance.DebitsPending.Add(g.Payable); money.Units(limit).Less(a.Balance.DebitsPending) {
			return nil
		}
		admitted = true
		return errors.Join(tx.PutAccount(a), tx.AddGuarantee(g))
	})
	return admitted, err
}

func putCycle(t *testing.T, s *Store, status clearing.CycleStatus) {
	t.Helper()
	if err := s.Clearing().Write(t.Context(), func(tx clearing.Tx) error {
		return tx.PutCycle(clearing.Cycle{Ref: raceCycle, Status: status})
	}); err != nil {
		t.Fatal(err)
	}
}

func TestNoPayerPassesItsCollateralOnTwoNodes(t *testing.T) {
	onEach(t, testNoPayerPassesItsCollateral)
}

func testNoPayerPassesItsCollateral(t *testing.T, db database) {
	const limit = 30
	all := nodes(t, db, 2)
	putCycle(t, all[0], clearing.Open)
	if err := all[0].Clearing().Write(t.Context(), func(tx clearing.Tx) error {
		return errors.Join(tx.PutAccount(clearing.Account{Owner: address(1), Asset: raceCycle.Asset}), tx.PutAccount(clearing.Account{Owner: address(2), Asset: raceCycle.Asset}))
	}); err != nil {
		t.Fatal(err)
	}
	var admitted [2]atomic.Int64
	race(t, all, 10, func(s *Store, node, n int) error {
		for payer := range 2 { // both nodes ask for the same ones
			g := promise(address(byte(1+payer)), address(9), 0)
			g.Signed.Claims.ReqID, g.Digest = evm.Keccak256([]byte{byte(payer), byte(n)}), evm.Keccak256([]byte{byte(payer), byte(n), 1})
			g.Signed.Claims.Amount, g.Payable = money.Units(1), money.Units(1)
			ok, err := reserve(t.Context(), s, g, limit)
			if err != nil {
				return err
			}
			if ok {
				admitted[payer].Add(1)
			}
		}
		return nil
	})
	if err := all[1].Clearing().Read(t.Context(), func(tx clearing.Tx) error {
		for payer := range 2 {
			a, err := tx.Account(address(byte(1+payer)), raceCycle.Asset)
			sum, err2 := tx.PayableBy(raceCycle, address(byte(1+payer)))
			if n := admitted[payer].Load(); n != limit || a.Balance.DebitsPending != money.Units(limit) || sum != money.Units(limit) {
				t.Errorf("payer %d: %d admitted, %s pending, %s in the cycle, want %d", payer, n, a.Balance.DebitsPending, sum, limit)
			}
			if err := errors.Join(err, err2); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestAFrozenCycleTakesNothingOnAnyNode(t *testing.T) { onEach(t, testAFrozenCycleTakesNothing) }

func testAFrozenCycleTakesNothing(t *testing.T, db database) {
	all := nodes(t, db, 2)
	putCycle(t, all[0], clearing.Open)
	var frozen atomic.Bool
	counted := -1
	count := func(tx clearing.Tx) (n int, err error) {
		for _, err := range tx.Guarantees(raceCycle) {
			if err != nil {
				return 0, err
			}
			n++
		}
		return n, nil
	}
	race(t, all, 20, func(s *Store, node, n int) error {
		if node == 1 && n == 30 { // freeze, and count in the same write
			defer frozen.Store(true)
			return s.Clearing().Write(t.Context(), func(tx clearing.Tx) (err error) {
				c, _, err := tx.Cycle(raceCycle)
				if err != nil {
					return err
				}
				if counted, err = count(tx); err != nil {
					return err
				}
				c.Status = clearing.Frozen
				return tx.PutCycle(c)
			})
		}
		over := frozen.Load()
		g := promise(address(byte(1+n%5)), address(9), 1000*node+n)
		ok, err := reserve(t.Context(), s, g, 1<<40)
		if ok && over {
			return fmt.Errorf("admitted after the freeze")
		}
		return err
	})
	if err := all[0].Clearing().Read(t.Context(), func(tx clearing.Tx) error {
		n, err := count(tx)
		if n != counted || n == 0 {
			t.Errorf("%d guarantees when it was frozen, %d in the end", counted, n)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// What lowers a guarantee and what nets its cycle see each other: the sum is that of what is payable.
func TestNotesAndNettingAgreeOnTwoNodes(t *testing.T) { onEach(t, testNotesAndNettingAgree) }

func testNotesAndNettingAgree(t *testing.T, db database) {
	all := nodes(t, db, 2)
	putCycle(t, all[0], clearing.Open)
	var digests []evm.Hash
	for n := range 40 {
		g := promise(address(byte(1+n%4)), address(9), 100+n)
		digests = append(digests, g.Digest)
		if _, err := reserve(t.Context(), all[n%2], g, 1<<40); err != nil {
			t.Fatal(err)
		}
	}
	var netted money.Amount
	race(t, all, 10, func(s *Store, node, n int) error {
		if node == 1 && n == 25 {
			return s.Clearing().Write(t.Context(), func(tx clearing.Tx) error {
				netted = money.Amount{}
				c, _, err := tx.Cycle(raceCycle)
				if err != nil {
					return err
				}
				for row, err := range tx.PayableByEach(raceCycle) {
					if err != nil {
						return err
					}
					netted, _ = netted.Add(row.Payable)
				}
				c.Status = clearing.Netted
				return tx.PutCycle(c)
			})
		}
		return s.Clearing().Write(t.Context(), func(tx clearing.Tx) error { // as House.Note does
			c, _, err := tx.KeptCycle(raceCycle)
			if err != nil || c.Status != clearing.Open {
				return err
			}
			digest := digests[n]
			g, _, err := tx.GuaranteeByDigest(digest)
			if err != nil {
				return err
			}
			if _, err := tx.Account(g.Signed.Claims.Payer, raceCycle.Asset); err != nil {
				return err
			}
			if g, _, err = tx.GuaranteeByDigest(digest); err != nil || g.Payable.IsZero() {
				return err
			}
			less, _ := g.Payable.Sub(money.Units(1))
			note := guarantee.SignedNote{Note: guarantee.Note{Digest: digest, Amount: less}}
			return tx.LowerGuarantee(digest, less, note, evm.Hash{})
		})
	})
	if err := all[0].Clearing().Read(t.Context(), func(tx clearing.Tx) error {
		var payable, sums money.Amount
		for g, err := range tx.Guarantees(raceCycle) {
			if err != nil {
				return err
			}
			payable, _ = payable.Add(g.Payable)
		}
		for row, err := range tx.PayableByEach(raceCycle) {
			if err != nil {
				return err
			}
			sums, _ = sums.Add(row.Payable)
		}
		if payable != sums || sums != netted {
			t.Errorf("%s is payable, %s is the sum, %s was netted", payable, sums, netted)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// Of several nodes that apply one chain each block is applied once, and accounts that nobody had are made once.
func TestABlockIsAppliedOnceByTwoNodes(t *testing.T) { onEach(t, testABlockIsAppliedOnce) }

func testABlockIsAppliedOnce(t *testing.T, db database) {
	all := nodes(t, db, 2)
	race(t, all, 15, func(s *Store, node, n int) error {
		// The streams have their own blocks, and meet in the accounts.
		stream := []clearing.Stream{clearing.Head, clearing.Confirmed}[n/15%2]
		return s.Clearing().Write(t.Context(), func(tx clearing.Tx) error {
			if err := tx.AloneOn(stream); err != nil {
				return err
			}
			tips, err := tx.Blocks(stream, 1)
			if err != nil {
				return err
			}
			number := uint64(1)
			if len(tips) > 0 {
				number = tips[0].Number + 1
			}
			if number > 20 {
				return nil
			}
			owner := address(byte(1 + number%7))
			a, err := tx.Account(owner, raceCycle.Asset)
			if err != nil {
				return err
			}
			a.Owner, a.Asset = owner, raceCycle.Asset
			a.Balance.CreditsPosted, _ = a.Balance.CreditsPosted.Add(money.Units(1))
			world := ledger.Account{Kind: ledger.World, Asset: raceCycle.Asset}
			b, err := tx.Balance(world)
			if err != nil {
				return err
			}
			b.DebitsPosted, _ = b.DebitsPosted.Add(money.Units(1))
			return errors.Join(tx.PutAccount(a), tx.PutBalance(world, b),
				tx.PutBlock(stream, clearing.Block{Number: number, Hash: evm.Hash{byte(number)}}, nil))
		})
	})
	if err := all[0].Clearing().Read(t.Context(), func(tx clearing.Tx) error {
		var owners, world money.Amount
		for row, err := range tx.Balances(raceCycle.Asset) {
			if err != nil {
				return err
			}
			owners, _ = owners.Add(row.Balance.CreditsPosted)
			world, _ = world.Add(row.Balance.DebitsPosted)
		}
		blocks := 0
		for _, stream := range []clearing.Stream{clearing.Head, clearing.Confirmed} {
			list, err := tx.Blocks(stream, 100)
			if err != nil {
				return err
			}
			blocks += len(list)
		}
		if want := money.Units(uint64(blocks)); blocks != 40 || owners != want || world != want {
			t.Errorf("%d blocks, owners have %s, the world gave %s", blocks, owners, world)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// A call is asked for once, and credit given and taken on two nodes is what was given less what was taken.
func TestAskingTwiceOnTwoNodesIsAskingOnce(t *testing.T) { onEach(t, testAskingTwice) }

func testAskingTwice(t *testing.T, db database) {
	all := nodes(t, db, 2)
	race(t, all, 10, func(s *Store, node, n int) error {
		c := call(fmt.Sprint("call ", n), 1)
		err := s.Outbox().Enqueue(t.Context(), c)
		if err == nil && n%2 == 0 {
			err = s.Outbox().RecordAttempt(t.Context(), c.ID, attempt(byte(n+1), uint64(n)))
		}
		return err
	})
	open, err := all[0].Outbox().Open(t.Context(), address(1))
	if err != nil || len(open) != 40 {
		t.Fatalf("%d open calls, %v, want 40", len(open), err)
	}
	for _, c := range open {
		if len(c.Attempts) > 1 {
			t.Errorf("%s has %d attempts", c.ID, len(c.Attempts))
		}
	}
	// Two calls never hold one nonce.
	var held atomic.Int32
	race(t, all, 1, func(s *Store, node, n int) error {
		c := call(fmt.Sprint("rival ", node, n), 1)
		if err := s.Outbox().Enqueue(t.Context(), c); err != nil {
			return err
		}
		err := s.Outbox().RecordAttempt(t.Context(), c.ID, attempt(byte(200+10*node+n), 999))
		if err == nil {
			held.Add(1)
		} else if !errors.Is(err, evm.ErrCallConflict) {
			return err
		}
		return nil
	})
	if held.Load() != 1 {
		t.Errorf("%d calls hold one nonce", held.Load())
	}
}
