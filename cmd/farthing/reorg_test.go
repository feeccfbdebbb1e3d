package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
)

// stage is a clearing house over a chain that makes a block only when told to, with a clock that is the chain's: what a
// test sees depends on nothing but what it did.
type stage struct {
	t      *testing.T
	run    *run
	node   *devchain.Chain
	house  *house
	config houseConfig
	token  evm.Address
	serve  guarantee.Deployment
	reqs   uint64
}

func newStage(t *testing.T, length times) *stage { return newStageOf(t, length, nil) }

// newStageOf clears the tokens that assets returns, which may first put them on the chain; nil stands for the chain's dollar.
func newStageOf(t *testing.T, length times, assets func(*stage) []network.Token) *stage {
	t.Helper()
	dir := t.TempDir()
	s := &stage{t: t, run: testRun(t, filepath.Join(dir, "home"))}
	s.node = must(devchain.Start(s.run.ctx, devchain.Config{Manual: true, Genesis: time.Unix(1_800_000_000, 0)}))(t)
	t.Cleanup(func() { _ = s.node.Close() })
	s.run.Now = s.node.Time
	authority := must(devAuthority(filepath.Join(dir, "bls.json")))(t)
	var tokens []network.Token
	if assets != nil {
		tokens = assets(s)
	}
	var d deployment
	s.whileMining(func() (err error) {
		d, err = s.run.deploy(deployPlan{
			RPC: s.node.URL(), File: filepath.Join(dir, "deployment.json"), Deployer: devOperator(), Operator: devOperator().Address(),
			Authority: authority, Chain: mustChain("dev"), Assets: tokens, Times: length,
		})
		return err
	})
	s.token, s.serve = d.Assets[0].Address, d.guarantees()
	s.config = houseConfig{
		RPC: s.node.URL(), Deployment: d, Operator: devOperator(), Authority: authority, Book: filepath.Join(dir, "house.db"),
		Depth: 1, Listen: "127.0.0.1:0", Dev: true, Now: s.node.Time, Log: s.run.log,
	}
	s.house = must(openHouse(s.run.ctx, s.config))(t)
	t.Cleanup(s.house.close)
	return s
}

// whileMining makes blocks until fn returns, which waits for some.
func (s *stage) whileMining(fn func() error) {
	s.t.Helper()
	done := make(chan error, 1)
	go func() { done <- fn() }()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			check(s.t, err)
			return
		case <-ticker.C:
			check(s.t, s.node.Mine(s.run.ctx, 1))
		}
	}
}

// send has calls mined, in the next block if they state their gas. A block is made for each pass of the sender, however
// long that takes: the chain's time does not depend on how busy the machine is.
func (s *stage) send(key *evm.PrivateKey, calls ...evm.Call) {
	s.t.Helper()
	outbox := evm.NewMemoryOutbox()
	sender := chain.NewSender(s.house.Client, outbox, key, chain.Policy{InFlightMax: 64})
	for i := range calls {
		calls[i].ID, calls[i].From = fmt.Sprint(i), key.Address()
		check(s.t, outbox.Enqueue(s.run.ctx, calls[i]))
	}
	began := false
	pass := func(ctx context.Context) (time.Time, error) {
		var err error
		if began {
			err = s.node.Mine(ctx, 1)
		}
		began = true
		return s.node.Time(), err
	}
	for i := range calls {
		must(sender.Wait(s.run.ctx, calls[i].ID, pass))(s.t)
	}
}

// offer puts calls into the node's pool and leaves mining to the caller.
func (s *stage) offer(key *evm.PrivateKey, calls ...evm.Call) {
	s.t.Helper()
	outbox := evm.NewMemoryOutbox()
	sender := chain.NewSender(s.house.Client, outbox, key, chain.Policy{InFlightMax: 16})
	for i, call := range calls {
		call.ID, call.From, call.GasLimit = string(rune('a'+i)), key.Address(), 300_000
		check(s.t, outbox.Enqueue(s.run.ctx, call))
	}
	check(s.t, sender.Step(s.run.ctx, s.node.Time()))
}

func (s *stage) mine(n int) {
	s.t.Helper()
	check(s.t, s.node.Mine(s.run.ctx, n))
	s.beat()
}

// beat is one round of the clearing house. The books hold after every one.
func (s *stage) beat() {
	s.t.Helper()
	s.house.beat(s.run.ctx)
	check(s.t, s.house.healthy(s.run.ctx))
	check(s.t, s.house.House.Check(s.run.ctx))
}

func (s *stage) reorg(depth int, fate devchain.Fate) {
	s.t.Helper()
	check(s.t, s.node.Reorg(s.run.ctx, depth, fate))
	s.beat()
}

// await mines and beats until a cycle stands where it should.
func (s *stage) await(ref clearing.CycleRef, want clearing.CycleStatus) clearing.Cycle {
	s.t.Helper()
	for range 120 {
		if c := must(s.house.House.Cycle(s.run.ctx, ref.String()))(s.t); c.Status == want {
			return c
		}
		s.mine(1)
	}
	c := must(s.house.House.Cycle(s.run.ctx, ref.String()))(s.t)
	s.t.Fatalf("cycle %s is %s (%s), want %s", ref, c.Status, c.Trouble, want)
	return c
}

func (s *stage) account(owner *evm.PrivateKey) clearing.Account {
	s.t.Helper()
	return must(s.house.House.Account(s.run.ctx, owner.Address(), s.token))(s.t)
}

// wants compares an account, in test dollars' smallest units.
func (s *stage) wants(what string, owner *evm.PrivateKey, collateral, exposure, headroom uint64) {
	s.t.Helper()
	a := s.account(owner)
	if a.Collateral() != money.Units(collateral) || a.Exposure() != money.Units(exposure) || a.Headroom() != money.Units(headroom) {
		s.t.Fatalf("%s: collateral %s, exposure %s, headroom %s; want %d, %d, %d", what, a.Collateral(), a.Exposure(), a.Headroom(), collateral, exposure, headroom)
	}
}

// promise has guarantees from payer to payee admitted, all in one call, and returns the results.
func (s *stage) promise(payer *evm.PrivateKey, payee evm.Address, amount uint64, n int) []clearing.Result {
	s.t.Helper()
	reqs := make([]clearing.Request, n)
	for i := range reqs {
		s.reqs++
		var id evm.Hash
		for b, rest := 31, s.reqs; rest > 0; b, rest = b-1, rest>>8 {
			id[b] = byte(rest)
		}
		reqs[i] = clearing.Request{Batch: true, Signed: must(guarantee.Sign(s.run.ctx, payer, s.serve, guarantee.Claims{
			Payer: payer.Address(), Payee: payee, Asset: s.token, ReqID: id, Amount: money.Units(amount), Timestamp: uint64(s.node.Time().Unix()),
		}))(s.t)}
	}
	return s.house.House.Admit(s.run.ctx, reqs, s.node.Time())
}

// party is a fresh account that holds ether and ten test dollars.
func (s *stage) party() *evm.PrivateKey {
	s.t.Helper()
	key := must(evm.GenerateKey())(s.t)
	mint := chain.Mint(s.token, key.Address(), money.Units(10_000_000))
	mint.GasLimit = 100_000
	s.send(devFaucet(), evm.Call{To: key.Address(), Value: ethers(1).Word(), GasLimit: 21_000}, mint)
	return key
}

// The chain takes back what it said: a deposit backs nothing any more, and backs again when a later block holds it.
func TestReorgOfDeposit(t *testing.T) {
	t.Parallel()
	s := newStage(t, townTimes)
	buyer, seller, other := s.party(), s.party(), s.party()
	s.offer(buyer, depositOf(s.house.Deployment, s.token, money.Units(5_000_000))...)
	s.mine(1)
	s.wants("in the newest block, where it does not count yet", buyer, 0, 0, 0)
	if r := s.promise(buyer, seller.Address(), 100, 1)[0]; !errors.Is(r.Err, clearing.ErrExposure) {
		t.Fatalf("a guarantee against collateral that is not confirmed: %v", r.Err)
	}
	s.mine(1)
	s.wants("a block deep", buyer, 5_000_000, 0, 5_000_000)

	s.reorg(2, devchain.Requeue)
	s.wants("taken back", buyer, 0, 0, 0)
	if r := s.promise(buyer, seller.Address(), 100, 1)[0]; !errors.Is(r.Err, clearing.ErrExposure) {
		t.Fatalf("a guarantee against collateral that was taken back: %v", r.Err)
	}
	s.mine(2)
	s.wants("returned in another block", buyer, 5_000_000, 0, 5_000_000)

	// The same with a guarantee that it backs: the promise stands, and takes what is left of the headroom.
	r := s.promise(buyer, seller.Address(), 2_000_000, 1)[0]
	check(t, r.Err)
	s.wants("promised", buyer, 5_000_000, 2_000_000, 3_000_000)
	s.reorg(3, devchain.Requeue)
	s.wants("taken back with a promise on it", buyer, 0, 2_000_000, 0)
	if r := s.promise(buyer, seller.Address(), 1, 1)[0]; !errors.Is(r.Err, clearing.ErrExposure) {
		t.Fatalf("a guarantee beyond what is there: %v", r.Err)
	}
	s.mine(2)
	s.wants("returned with a promise on it", buyer, 5_000_000, 2_000_000, 3_000_000)

	// A deposit that never comes back leaves nothing behind.
	s.offer(other, depositOf(s.house.Deployment, s.token, money.Units(1_000_000))...)
	s.mine(2)
	s.wants("another's deposit", other, 1_000_000, 0, 1_000_000)
	s.reorg(2, devchain.Forget)
	s.mine(3)
	s.wants("forgotten by the chain", other, 0, 0, 0)
	s.wants("and nobody else's", buyer, 5_000_000, 2_000_000, 3_000_000)
}

// A withdrawal request that is seen at any depth lowers headroom at once, also below what is promised already; taken back,
// by its owner or by the chain, it gives the headroom back.
func TestWithdrawalWhileExposed(t *testing.T) {
	t.Parallel()
	s := newStage(t, townTimes)
	buyer, seller := s.party(), s.party()
	s.send(buyer, depositOf(s.house.Deployment, s.token, money.Units(5_000_000))...)
	s.mine(2)
	check(t, s.promise(buyer, seller.Address(), 2_000_000, 1)[0].Err)
	s.wants("promised", buyer, 5_000_000, 2_000_000, 3_000_000)

	contracts := s.house.Reader.Contracts
	s.offer(buyer, contracts.RequestWithdrawal(s.token, money.Units(2_500_000)))
	s.mine(1)
	s.wants("asked back, in the newest block", buyer, 5_000_000, 2_000_000, 500_000)
	if r := s.promise(buyer, seller.Address(), 500_001, 1)[0]; !errors.Is(r.Err, clearing.ErrExposure) {
		t.Fatalf("a guarantee against what is asked back: %v", r.Err)
	}
	check(t, s.promise(buyer, seller.Address(), 500_000, 1)[0].Err)
	s.wants("all in use", buyer, 5_000_000, 2_500_000, 0)

	s.reorg(1, devchain.Forget)
	s.wants("the request never was", buyer, 5_000_000, 2_500_000, 2_500_000)

	s.offer(buyer, contracts.RequestWithdrawal(s.token, money.Units(5_000_000)))
	s.mine(1)
	s.wants("more asked back than is free", buyer, 5_000_000, 2_500_000, 0)
	s.mine(1)
	s.wants("confirmed", buyer, 5_000_000, 2_500_000, 0)
	s.offer(buyer, contracts.CancelWithdrawal(s.token))
	s.mine(1)
	s.wants("taken back, not confirmed yet", buyer, 5_000_000, 2_500_000, 0)
	s.mine(1)
	s.wants("taken back", buyer, 5_000_000, 2_500_000, 2_500_000)
}

// The seal of a cycle is taken back by the chain, once so that its transactions wait again and once so that the node has
// forgotten them: exposure returns, the seal returns, and the cycle is sealed once.
func TestReorgOfSeal(t *testing.T) {
	t.Parallel()
	for name, fate := range map[string]devchain.Fate{"transactions wait again": devchain.Requeue, "transactions are forgotten": devchain.Forget} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, townTimes)
			buyer, seller := s.party(), s.party()
			s.send(buyer, depositOf(s.house.Deployment, s.token, money.Units(5_000_000))...)
			s.mine(2)
			s.wants("deposited", buyer, 5_000_000, 0, 5_000_000)
			var ref clearing.CycleRef
			for _, r := range s.promise(buyer, seller.Address(), 1000, 20) {
				check(t, r.Err)
				ref = r.Cycle
			}
			s.wants("promised", buyer, 5_000_000, 20_000, 4_980_000)
			sealed := s.await(ref, clearing.Committed)
			s.wants("sealed", buyer, 4_980_000, 0, 4_980_000)

			s.reorg(4, fate)
			if c := must(s.house.House.Cycle(s.run.ctx, ref.String()))(t); c.Status != clearing.Netted {
				t.Fatalf("the seal was taken back, and the cycle is %s", c.Status)
			}
			s.wants("the seal was taken back", buyer, 5_000_000, 20_000, 4_980_000)

			again := s.await(ref, clearing.Committed)
			s.wants("sealed again", buyer, 4_980_000, 0, 4_980_000)
			if again.Root != sealed.Root || again.Total != sealed.Total {
				t.Fatalf("sealed as %s, %s and then as %s, %s", sealed.Root, sealed.Total, again.Root, again.Total)
			}
			s.await(ref, clearing.Final)
			closed := s.await(ref, clearing.Closed)
			on := must(s.house.Reader.Cycle(s.run.ctx, ref.ID()))(t)
			if !on.Sealed || !on.Final || on.Root != closed.Root || on.Total != money.Units(20_000) {
				t.Fatalf("the chain has %+v", on)
			}

			// The seller's money is there.
			p := must(s.house.House.Proof(s.run.ctx, ref.String(), seller.Address()))(t)
			s.send(seller, s.house.Reader.Contracts.ClaimNetCredit(ref.ID(), p.Position.Amount, p.Siblings))
			s.mine(2)
			if got := must(s.house.Client.TokenBalance(s.run.ctx, s.token, seller.Address()))(t); got != money.Units(10_020_000) {
				t.Fatalf("the seller holds %s", got)
			}
			for _, call := range must(s.house.Store.Outbox().Finished(s.run.ctx, devOperator().Address(), 0))(t) {
				if call.State != evm.CallDone {
					t.Errorf("the call %s ended as %s: %s", call.ID, call.State, call.Err)
				}
			}
		})
	}
}

// What a cycle costs on chain depends on who takes part, not on how often: many times the payments between the same
// parties need the very same number of transactions, and as much gas.
func TestTransactionsDoNotGrowWithPayments(t *testing.T) {
	t.Parallel()
	few, many := 200, 1000
	if heavy {
		few, many = 1000, 10_000
	}
	type cost struct {
		transactions int
		gas          uint64
	}
	spend := func(t *testing.T, payments int) cost {
		length := townTimes
		length.Schedule.Length = 30
		length.WithdrawalDelay = 240
		s := newStage(t, length)
		var buyers, sellers []*evm.PrivateKey
		for range 4 {
			b := s.party()
			s.send(b, depositOf(s.house.Deployment, s.token, money.Units(9_000_000))...)
			buyers, sellers = append(buyers, b), append(sellers, must(evm.GenerateKey())(t))
		}
		s.mine(2)
		if left := s.left(); left < 5 { // all of them into one cycle
			s.mine(left)
		}
		var ref clearing.CycleRef
		for i := range 16 {
			for _, r := range s.promise(buyers[i/4], sellers[i%4].Address(), 100, payments/16) {
				check(t, r.Err)
				if !ref.Asset.IsZero() && r.Cycle != ref {
					t.Fatalf("cycle %s, want %s", r.Cycle, ref)
				}
				ref = r.Cycle
			}
		}
		c := s.await(ref, clearing.Closed)
		if int(c.Guarantees) != payments/16*16 || c.Participants != 8 {
			t.Fatalf("%d guarantees of %d participants, want %d of 8", c.Guarantees, c.Participants, payments/16*16)
		}
		var spent cost
		for _, call := range must(s.house.Store.Outbox().Finished(s.run.ctx, devOperator().Address(), 0))(t) {
			if call.State != evm.CallDone {
				t.Fatalf("the call %s ended as %s: %s", call.ID, call.State, call.Err)
			}
			spent.transactions++
			spent.gas += call.Receipt.GasUsed
		}
		return spent
	}
	var lower, higher cost
	t.Run("few", func(t *testing.T) { lower = spend(t, few) })
	t.Run("many", func(t *testing.T) { higher = spend(t, many) })
	if t.Failed() {
		return
	}
	if lower.transactions != higher.transactions || lower.transactions == 0 {
		t.Errorf("%d payments took %d transactions, %d took %d", few, lower.transactions, many, higher.transactions)
	}
	if larger := max(lower.gas, higher.gas); larger-min(lower.gas, higher.gas) > larger/100 { // amounts have more digits
		t.Errorf("%d payments took %d gas, %d took %d", few, lower.gas, many, higher.gas)
	}
	t.Logf("%d and %d payments: %d transactions each, %d and %d gas", few, many, lower.transactions, lower.gas, higher.gas)
}

// left returns how many seconds are left of the cycle that is open.
func (s *stage) left() int {
	s.t.Helper()
	c := must(s.house.House.Current(s.run.ctx, s.token, s.node.Time()))(s.t)
	return int(c.End) - int(s.node.Time().Unix())
}
