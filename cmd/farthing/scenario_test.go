package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/contracts"
	"github.com/farthing402/farthing/contracts/contractstest"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
)

// in is the same stage for whoever deals in another of its assets.
func (s *stage) in(asset evm.Address) *stage {
	other := *s
	other.token = asset
	return &other
}

// deposits has parties put up collateral, without choosing to be settled from it.
func (s *stage) deposits(amount uint64, parties ...*evm.PrivateKey) {
	s.t.Helper()
	for _, key := range parties {
		if s.token.IsZero() {
			s.send(key, s.house.Reader.Contracts.Deposit(money.Units(amount)))
			continue
		}
		s.send(key, depositOf(s.house.Deployment, s.token, money.Units(amount))[:2]...)
	}
	s.mine(2)
}

// owes has one guarantee admitted for each pair, all into one cycle, and returns that cycle and the guarantees' digests.
func (s *stage) owes(debts ...debt) (ref clearing.CycleRef, digests []evm.Hash) {
	s.t.Helper()
	for _, d := range debts {
		r := s.promise(d.payer, d.payee, d.amount, 1)[0]
		check(s.t, r.Err)
		if len(digests) > 0 && r.Cycle != ref {
			s.t.Fatalf("cycle %s, want %s", r.Cycle, ref)
		}
		ref, digests = r.Cycle, append(digests, r.Digest)
	}
	return ref, digests
}

type debt struct {
	payer  *evm.PrivateKey
	payee  evm.Address
	amount uint64
}

func (s *stage) position(ref clearing.CycleRef, who evm.Address) clearing.Proof {
	s.t.Helper()
	return must(s.house.House.Proof(s.run.ctx, ref.String(), who))(s.t)
}

// payment is the call that pays a debtor's net debit, behind the approval that it needs.
func (s *stage) payment(ref clearing.CycleRef, who *evm.PrivateKey) []evm.Call {
	s.t.Helper()
	p := s.position(ref, who.Address())
	calls := []evm.Call{
		chain.Approve(s.token, s.house.Deployment.Vault, p.Position.Amount),
		s.house.Reader.Contracts.PayNetDebit(ref.ID(), s.token, p.Position.Amount, p.Siblings),
	}
	for i := range calls {
		calls[i].GasLimit = 300_000
	}
	return calls
}

func (s *stage) claim(ref clearing.CycleRef, who evm.Address) evm.Call {
	s.t.Helper()
	p := s.position(ref, who)
	return s.house.Reader.Contracts.ClaimNetCredit(ref.ID(), p.Position.Amount, p.Siblings)
}

// refused wants the chain to refuse a call with a reason.
func (s *stage) refused(key *evm.PrivateKey, call evm.Call, reason string) {
	s.t.Helper()
	_, err := s.run.sendAll(s.house.Client, key, 0, call)
	if !errors.Is(err, chain.ErrReverted) || !strings.Contains(err.Error(), reason) {
		s.t.Fatalf("want the call refused with %s: %v", reason, err)
	}
}

func (s *stage) holds(who evm.Address) uint64 {
	s.t.Helper()
	read := s.house.Client.Balance
	if !s.token.IsZero() {
		read = func(ctx context.Context, who evm.Address) (money.Amount, error) {
			return s.house.Client.TokenBalance(ctx, s.token, who)
		}
	}
	amount := must(read(s.run.ctx, who))(s.t)
	units, fits := amount.Uint64()
	if !fits {
		s.t.Fatalf("%s holds %s", who, amount)
	}
	return units
}

// stand wants guarantees to have a status.
func (s *stage) stand(want clearing.GuaranteeStatus, digests ...evm.Hash) {
	s.t.Helper()
	for i, digest := range digests {
		if g := must(s.house.House.Guarantee(s.run.ctx, digest))(s.t); g.Status != want {
			s.t.Errorf("guarantee %d is %s, want %s", i, g.Status, want)
		}
	}
}

// free wants nobody's collateral to be locked any more.
func (s *stage) free(parties ...*evm.PrivateKey) {
	s.t.Helper()
	for i, key := range parties {
		if a := s.account(key); !a.Exposure().IsZero() {
			s.t.Errorf("party %d still has %s locked", i, a.Exposure())
		}
	}
	check(s.t, s.house.House.Check(s.run.ctx))
}

// untilFinal lets a sealed cycle's challenge window pass on the chain, behind the clearing house's back.
func (s *stage) untilFinal(c clearing.Cycle) {
	s.t.Helper()
	for uint64(s.node.Time().Unix()) <= c.FinalAt {
		check(s.t, s.node.Mine(s.run.ctx, 1))
	}
}

// Several debtors default in one cycle, one pays late, when the mark of another is on the chain already, and none of that
// keeps a debtor from paying, a creditor from its money or the cycle from its end. Every lock ends with the seal, also those
// of creditors and of parties that end flat.
func TestDefect6And7SeveralDefaultersAndALatePayer(t *testing.T) {
	t.Parallel()
	length := townTimes
	length.Schedule.Challenge, length.WithdrawalDelay = 60, 600 // sending takes some blocks, and each is a second
	s := newStage(t, length)
	prompt, late, dora, dan, choosy, left, right, trader, shop := s.party(), s.party(), s.party(), s.party(), s.party(), s.party(), s.party(), s.party(), s.party()
	everybody := []*evm.PrivateKey{prompt, late, dora, dan, choosy, left, right, trader}
	s.deposits(5_000_000, everybody...)
	s.send(choosy, s.house.Reader.Contracts.SetAutoSettle(true))
	s.mine(2)

	ref, g := s.owes(
		debt{prompt, shop.Address(), 1_000_000}, debt{late, shop.Address(), 900_000}, debt{choosy, shop.Address(), 800_000},
		debt{dora, trader.Address(), 700_000}, debt{dan, trader.Address(), 600_000},
		debt{trader, shop.Address(), 300_000}, // a creditor that owes too
		debt{left, right.Address(), 50_000}, debt{right, left.Address(), 50_000},
	)
	s.wants("a creditor that owes", trader, 5_000_000, 300_000, 4_700_000)
	s.stand(clearing.StatusPayable, g...)
	sealed := s.await(ref, clearing.Committed)
	if sealed.Total != money.Units(4_000_000) || sealed.Debtors != 5 || sealed.Participants != 9 {
		t.Fatalf("sealed %+v", sealed)
	}
	s.free(everybody...)
	s.wants("a debtor", dora, 4_300_000, 0, 4_300_000)
	s.wants("a creditor that owes, at the seal", trader, 5_000_000, 0, 5_000_000)
	s.stand(clearing.StatusNetted, g[:6]...)

	s.send(prompt, s.payment(ref, prompt)...)
	s.mine(2)
	s.wants("who paid in the window has all its collateral back", prompt, 5_000_000, 0, 5_000_000)
	s.stand(clearing.StatusSettled, g[0])

	// Behind the house's back, as anybody may: one debtor is marked, and then another pays.
	s.untilFinal(sealed)
	p := s.position(ref, dan.Address())
	s.send(shop, s.house.Reader.Contracts.MarkDefaulted(ref.ID(), dan.Address(), p.Position.Amount, p.Siblings))
	s.refused(dan, s.payment(ref, dan)[1], "AlreadyDefaulted")
	s.send(late, s.payment(ref, late)...)
	closed := s.await(ref, clearing.Closed)
	if closed.Trouble != "" {
		t.Errorf("closed with trouble: %s", closed.Trouble)
	}
	s.wants("who paid late, before its own mark", late, 5_000_000, 0, 5_000_000)
	s.refused(dora, s.payment(ref, dora)[1], "AlreadyDefaulted")
	s.stand(clearing.StatusSettled, g[0], g[1], g[2], g[5], g[6], g[7])
	s.stand(clearing.StatusRemunerate, g[3], g[4])
	for who, want := range map[*evm.PrivateKey]chain.Participant{
		prompt: {Paid: true}, late: {Paid: true}, dora: {Defaulted: true}, dan: {Defaulted: true}, choosy: {}, left: {},
	} {
		if got := must(s.house.Reader.Participant(s.run.ctx, ref.ID(), who.Address()))(t); got != want {
			t.Errorf("the chain has %+v, want %+v", got, want)
		}
	}

	// The defaults cost no creditor anything, and the next cycle takes the same debtors.
	s.send(shop, s.claim(ref, shop.Address()))
	s.send(trader, s.claim(ref, trader.Address()))
	if shopHas, traderHas := s.holds(shop.Address()), s.holds(trader.Address()); shopHas != 13_000_000 || traderHas != 6_000_000 {
		t.Errorf("the creditors hold %d and %d", shopHas, traderHas)
	}
	again, g := s.owes(debt{dora, shop.Address(), 100}, debt{prompt, dora.Address(), 40})
	s.await(again, clearing.Closed)
	s.stand(clearing.StatusRemunerate, g...) // both left it at their collateral
	s.free(everybody...)
}

// A period in which nobody promises anything costs no transaction and blocks nothing; one in which all end flat is posted
// and sealed with a total of nothing, so that its guarantees are settled like any other's.
func TestDefect8EmptyAndFlatCycles(t *testing.T) {
	t.Parallel()
	s := newStage(t, townTimes)
	a, b := s.party(), s.party()
	s.deposits(1_000_000, a, b)
	flat, g := s.owes(debt{a, b.Address(), 700}, debt{b, a.Address(), 700})
	s.mine(3 * int(townTimes.Schedule.Length)) // empty cycles lie between
	later, _ := s.owes(debt{a, b.Address(), 5})
	if periods := (later.Start - flat.Start) / uint64(townTimes.Schedule.Length); periods < 2 {
		t.Fatalf("only %d cycles lie between", periods)
	}
	c := s.await(flat, clearing.Closed)
	if !c.Total.IsZero() || c.Participants != 2 || c.Debtors != 0 {
		t.Errorf("closed %+v", c)
	}
	s.stand(clearing.StatusSettled, g...)
	if on := must(s.house.Reader.Cycle(s.run.ctx, flat.ID()))(t); !on.Sealed || !on.Final || !on.Total.IsZero() || on.Root != c.Root {
		t.Errorf("the chain has %+v", on)
	}
	s.await(later, clearing.Committed)
	s.free(a, b)
	s.wants("flat, then a debtor", a, 999_995, 0, 999_995)
	for _, call := range must(s.house.Store.Outbox().Finished(s.run.ctx, devOperator().Address(), 0))(t) {
		if !strings.Contains(call.ID, flat.String()) && !strings.Contains(call.ID, later.String()) {
			t.Errorf("a call for nothing: %s", call.ID)
		}
	}

	// A cycle whose only guarantee its payee let go has nothing to net: it is posted flat too.
	void, g := s.owes(debt{a, b.Address(), 9})
	note := must(guarantee.SignNote(s.run.ctx, b, s.serve, guarantee.Note{Digest: g[0]}))(t)
	for _, err := range s.house.House.Note(s.run.ctx, []guarantee.SignedNote{note}, s.node.Time()) {
		check(t, err)
	}
	s.await(void, clearing.Closed)
	s.stand(clearing.StatusCancelled, g...)
	s.free(a, b)
}

// Payees that cannot take their money where they are hurt nobody else, and take it elsewhere: a wallet that reverts or
// answers with a flood when native coin comes, and an account that a token has banned. And an asset whose cycle cannot be
// posted, because a reorganisation took the collateral behind it, does not stop the cycles of another.
func TestPayeesAndAssetsInTroubleBlockNobodyElse(t *testing.T) {
	t.Parallel()
	owner := must(evm.GenerateKey())(t)
	native := network.Token{Symbol: "ETH", Decimals: 18}
	hostile := network.Token{Symbol: "USDH", Decimals: 6}
	var wallet evm.Address
	s := newStageOf(t, townTimes, func(s *stage) []network.Token {
		hostile.Address = s.create(contractstest.HostileDollar)
		wallet = s.create(contractstest.StubbornWallet, owner.Address())
		return []network.Token{mustChain("dev").Dollars()[0], native, hostile}
	})
	ether, odd, dollar := s.in(evm.Address{}), s.in(hostile.Address), s.in(mustChain("dev").Dollars()[0].Address)
	onto := s.house.Reader.Contracts
	buyer, shop, banned := s.party(), s.party(), s.party()
	s.send(devFaucet(), evm.Call{To: owner.Address(), Value: ethers(1).Word(), GasLimit: 21_000})
	s.send(devFaucet(), chain.Mint(hostile.Address, buyer.Address(), money.Units(10_000_000)))
	for _, in := range []*stage{ether, odd, dollar} {
		in.deposits(5_000_000, buyer)
	}
	s.send(buyer, onto.SetAutoSettle(true))
	s.mine(2)

	// One cycle of each asset at the same time.
	coins, _ := ether.owes(debt{buyer, wallet, 1000}, debt{buyer, shop.Address(), 2000})
	odds, _ := odd.owes(debt{buyer, banned.Address(), 1000}, debt{buyer, shop.Address(), 2000})
	dollars, _ := dollar.owes(debt{buyer, banned.Address(), 1000}, debt{buyer, wallet, 2000})
	s.ban(hostile.Address, banned.Address())
	for in, ref := range map[*stage]clearing.CycleRef{ether: coins, odd: odds, dollar: dollars} {
		in.await(ref, clearing.Closed)
		in.wants("the buyer", buyer, 4_997_000, 0, 4_997_000)
	}

	// The wallet's own claim reverts, whatever it is asked for; the others' go through; to another address it has its coin.
	s.refused(owner, asWallet(wallet, ether.claim(coins, wallet)), "NativeTransferFailed")
	before := ether.holds(shop.Address())
	s.send(shop, claimAll(s, shop.Address(), ether.position(coins, shop.Address()), odd.position(odds, shop.Address())))
	if spent := before + 2000 - ether.holds(shop.Address()); spent > 1_000_000_000_000_000 || odd.holds(shop.Address()) != 2000 {
		t.Errorf("the shop spent %d and holds %d", spent, odd.holds(shop.Address()))
	}
	elsewhere := must(evm.GenerateKey())(t).Address()
	s.send(owner, asWallet(wallet, claimAll(s, elsewhere, ether.position(coins, wallet), dollar.position(dollars, wallet))))
	if ether.holds(elsewhere) != 1000 || dollar.holds(elsewhere) != 2000 {
		t.Errorf("elsewhere there are %d wei and %d units", ether.holds(elsewhere), dollar.holds(elsewhere))
	}

	// The banned one cannot be paid in that token, and can in the other; its credit becomes collateral, which leaves for
	// another address.
	s.refused(banned, odd.claim(odds, banned.Address()), "TokenTransferFailed")
	s.send(banned, dollar.claim(dollars, banned.Address()))
	p := odd.position(odds, banned.Address())
	s.send(shop, onto.ClaimToVault(odds.ID(), banned.Address(), p.Position.Amount, p.Siblings))
	s.mine(2)
	odd.wants("the banned payee's credit", banned, 1000, 0, 1000)
	s.send(banned, onto.RequestWithdrawal(hostile.Address, money.Units(1000)))
	check(t, s.node.AdvanceTime(time.Duration(townTimes.WithdrawalDelay)*time.Second))
	s.mine(1)
	s.refused(banned, onto.FinalizeWithdrawal(hostile.Address), "TokenTransferFailed")
	s.send(banned, onto.FinalizeWithdrawalTo(hostile.Address, elsewhere))
	s.mine(2)
	if odd.holds(elsewhere) != 1000 {
		t.Errorf("elsewhere there are %d of the token that banned its payee", odd.holds(elsewhere))
	}
	odd.wants("the banned payee's collateral has left", banned, 0, 0, 0)

	// A flood of bytes is as good as none: it is not copied, and the coin arrives.
	flood, _ := ether.owes(debt{buyer, wallet, 3000})
	ether.await(flood, clearing.Closed)
	s.send(owner, evm.Call{To: wallet, Data: evm.EncodeCall(evm.Selector("setHuge(bool)"), evm.WordArg(evm.WordUint64(1)))})
	s.send(owner, asWallet(wallet, ether.claim(flood, wallet)))
	if ether.holds(wallet) != 3000 {
		t.Errorf("the wallet holds %d wei", ether.holds(wallet))
	}

	// The chain forgets a deposit that a promise stands on. The contract refuses that cycle, again and again, until it has
	// failed; the other assets' go their way.
	careless := s.party()
	s.send(devFaucet(), chain.Mint(hostile.Address, careless.Address(), money.Units(1_000_000)))
	odd.offer(careless, depositOf(s.house.Deployment, hostile.Address, money.Units(1_000_000))...)
	s.mine(2)
	stuck, stuckG := odd.owes(debt{careless, shop.Address(), 1_000_000}, debt{buyer, shop.Address(), 10})
	s.reorg(2, devchain.Forget)
	s.mine(2)
	fine, fineG := dollar.owes(debt{buyer, shop.Address(), 10})
	dollar.await(fine, clearing.Closed)
	s.stand(clearing.StatusSettled, fineG...)
	failed := odd.await(stuck, clearing.Failed)
	if !strings.Contains(failed.Trouble, "not sealed by its deadline") {
		t.Errorf("the trouble is %q", failed.Trouble)
	}
	s.stand(clearing.StatusDisputed, stuckG...)
	odd.wants("locked until the failed cycle is redeemed", buyer, 4_997_000, 10, 4_996_990)
	after, _ := dollar.owes(debt{buyer, shop.Address(), 10})
	dollar.await(after, clearing.Closed)
	dollar.free(buyer)
	ether.free(buyer)
}

// create puts a contract on the chain with addresses as its constructor's arguments.
func (s *stage) create(a contracts.Artifact, args ...evm.Address) evm.Address {
	s.t.Helper()
	code := slices.Clone(a.Bytecode)
	for _, arg := range args {
		word := arg.Word()
		code = append(code, word[:]...)
	}
	var deployer evm.Address
	for _, c := range contracts.Canonical() {
		if c.Artifact.Name == contracts.Deployer.Name {
			deployer = c.Address
		}
	}
	salt, hash := evm.Hash{1}, evm.Keccak256(code)
	s.whileMining(func() error {
		client, err := chain.Dial(s.run.ctx, s.node.URL())
		if err != nil {
			return err
		}
		defer client.Close()
		_, err = s.run.sendAll(client, devFaucet(), 0, evm.Call{To: deployer, Data: append(salt[:], code...)})
		return err
	})
	at := evm.Keccak256([]byte{0xff}, deployer[:], salt[:], hash[:])
	return evm.Address(at[12:])
}

// asWallet has a wallet make a call; its owner sends it.
func asWallet(wallet evm.Address, call evm.Call) evm.Call {
	return evm.Call{To: wallet, Data: evm.EncodeCall(evm.Selector("execute(address,uint256,bytes)"),
		evm.WordArg(call.To.Word()), evm.WordArg(call.Value), evm.BytesArg(call.Data))}
}

func claimAll(s *stage, to evm.Address, proofs ...clearing.Proof) evm.Call {
	var claims []chain.Claim
	for _, p := range proofs {
		claims = append(claims, chain.Claim{Cycle: p.Cycle.Ref.ID(), Amount: p.Position.Amount, Proof: p.Siblings})
	}
	return s.house.Reader.Contracts.ClaimMany(claims, to)
}

// ban has the hostile token refuse an account.
func (s *stage) ban(token, who evm.Address) {
	s.t.Helper()
	s.send(devFaucet(), evm.Call{To: token, Data: evm.EncodeCall(evm.Selector("set(uint8,uint256)"),
		evm.WordArg(evm.WordUint64(uint64(contractstest.Ban))), evm.WordArg(who.Word()))})
}

// The seal ends every lock of its cycle, whatever became of who had it: a creditor that owes less than it earns, parties that
// end flat, a debtor. No payment, mark or claim is waited for.
func TestDefect9TheSealEndsEveryLock(t *testing.T) {
	t.Parallel()
	s := newStage(t, townTimes)
	creditor, left, right, debtor := s.party(), s.party(), s.party(), s.party()
	s.deposits(1_000, creditor, left, right, debtor)
	ref, _ := s.owes(debt{debtor, creditor.Address(), 900}, debt{creditor, left.Address(), 400}, debt{left, right.Address(), 400}, debt{right, creditor.Address(), 400})
	for _, locked := range []struct {
		who    *evm.PrivateKey
		amount uint64
	}{{creditor, 400}, {left, 400}, {right, 400}, {debtor, 900}} {
		s.wants("before the seal", locked.who, 1_000, locked.amount, 1_000-locked.amount)
	}
	s.await(ref, clearing.Committed)
	s.free(creditor, left, right, debtor)
	for _, whole := range []*evm.PrivateKey{creditor, left, right} {
		s.wants("who owes nothing in the net", whole, 1_000, 0, 1_000)
	}
	s.wants("the debtor", debtor, 100, 0, 100)
}
