package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/contracts"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// What Go nets, Solidity accepts and computes alike: both roots, the sums and each debtor's collateral, over random cycles
// of 2 to 33 participants in chunks of every height. Each participant's proof is folded as 4Mica's client folds it.
func TestSolidityNetsLikeGo(t *testing.T) {
	t.Parallel()
	const parties, deposited = 33, 1_000_000
	for _, height := range []int{0, 1, 2, 3, 5, 10} {
		t.Run(fmt.Sprintf("chunks of %d", 1<<height), func(t *testing.T) {
			t.Parallel()
			length := townTimes
			length.Schedule.Length, length.WithdrawalDelay = 12, 240
			s := newStage(t, length)
			s.inChunks(1 << height)
			crowd := s.crowd(parties, deposited)
			rng := rand.New(rand.NewPCG(uint64(height), 402))
			sizes := []int{2, 3, 33, 2 + rng.IntN(32), 2 + rng.IntN(32)}
			collateral := make(map[evm.Address]uint64)
			for _, key := range crowd {
				collateral[key.Address()] = deposited
			}
			for _, n := range sizes {
				if s.left() < 2 {
					s.mine(s.left())
				}
				out := make(map[evm.Address]int64)
				var ref clearing.CycleRef
				perm := rng.Perm(parties)[:n]
				for i := range perm { // a chain through all of them, and as many guarantees again between any two
					pairs := [][2]int{{i, (i + 1) % n}, {rng.IntN(n), rng.IntN(n)}}
					for _, pair := range pairs {
						if pair[0] == pair[1] {
							continue
						}
						payer, payee, amount := crowd[perm[pair[0]]], crowd[perm[pair[1]]].Address(), uint64(1+rng.IntN(3))
						r := s.promise(payer, payee, amount, 1)[0]
						check(t, r.Err)
						ref = r.Cycle
						out[payer.Address()] += int64(amount)
						out[payee] -= int64(amount)
					}
				}
				c := s.await(ref, clearing.Committed)
				s.agree(c, out)
				for who, net := range out {
					if net > 0 {
						collateral[who] -= uint64(net)
					}
					if got := must(s.house.Reader.Collateral(s.run.ctx, who, s.token))(t); got != money.Units(collateral[who]) {
						t.Errorf("%d participants: the vault has %s of %s, want %d", n, got, who, collateral[who])
					}
				}
			}
		})
	}
}

// agree compares what the house netted with the chain, and with who owes whom by plain addition.
func (s *stage) agree(c clearing.Cycle, out map[evm.Address]int64) {
	s.t.Helper()
	id := c.Ref.ID()
	answer := must(s.house.Client.Read(s.run.ctx, evm.Address{}, s.house.Reader.Contracts.ClearingHouse,
		evm.EncodeCall(evm.Selector("cycle(bytes32)"), evm.WordArg(id))))(s.t)
	word := func(i int) evm.Hash {
		w, ok := evm.ABI(answer).Word(i)
		if !ok {
			s.t.Fatalf("the contract's cycle has no word %d", i)
		}
		return w
	}
	r, q, total := word(10), word(11), word(12)
	if r != c.Root || q != c.Statements || total != c.Total.Word() {
		s.t.Errorf("cycle %s of %d: the chain has %s, %s, %s; the book %s, %s, %s", c.Ref, c.Participants, r, q, total, c.Root, c.Statements, c.Total)
	}
	var debits int64
	for who, net := range out {
		debits += max(net, 0)
		p := s.position(c.Ref, who)
		role := map[bool]clearing.Role{true: clearing.Debtor, false: clearing.Creditor}[net > 0]
		if net == 0 {
			role = clearing.Flat
		}
		if p.Position.Role != role || p.Position.Amount != money.Units(uint64(max(net, -net))) {
			s.t.Errorf("%s is netted as %d, %s; want %d", who, p.Position.Role, p.Position.Amount, net)
		}
		chainID, house, asset, whoWord, amount, roleWord := evm.WordUint64(s.house.Client.ChainID()), s.house.Reader.Contracts.ClearingHouse.Word(),
			s.token.Word(), who.Word(), p.Position.Amount.Word(), evm.WordUint64(uint64(role))
		node := evm.Keccak256(chainID[:], house[:], id[:], asset[:], whoWord[:], amount[:], roleWord[:])
		for _, sibling := range p.Siblings {
			if bytes.Compare(node[:], sibling[:]) > 0 {
				node = evm.Keccak256(sibling[:], node[:])
			} else {
				node = evm.Keccak256(node[:], sibling[:])
			}
		}
		if node != r {
			s.t.Errorf("the proof of %s, %d siblings, does not lead to the root", who, len(p.Siblings))
		}
	}
	if c.Total != money.Units(uint64(debits)) {
		s.t.Errorf("the total is %s, want %d", c.Total, debits)
	}
}

// inChunks has cycles posted in chunks of n positions.
func (s *stage) inChunks(n int) {
	s.t.Helper()
	config := s.house.House.Config
	config.ChunkMax = n
	s.house.House = must(clearing.New(config))(s.t)
}

// crowd makes parties with collateral. Signed deposits travel many to a transaction.
func (s *stage) crowd(n int, amount uint64) []*evm.PrivateKey {
	s.t.Helper()
	keys := make([]*evm.PrivateKey, n)
	var batches []evm.Call
	var parts []evm.Arg
	add := func(call evm.Call) {
		parts = append(parts, evm.TupleArg(evm.WordArg(call.To.Word()), evm.WordArg([32]byte{}), evm.BytesArg(call.Data)))
	}
	separator := mustChain("dev").Dollars()[0].Domain(s.serve.ChainID).Separator()
	kind := evm.Keccak256([]byte("ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"))
	for i := range keys {
		keys[i] = must(evm.GenerateKey())(s.t)
		a := chain.Authorization{From: keys[i].Address(), To: s.serve.Vault, Value: money.Units(amount), ValidBefore: 1 << 40}
		from, to, value, before := a.From.Word(), a.To.Word(), a.Value.Word(), evm.WordUint64(a.ValidBefore)
		digest := evm.TypedDigest(separator, evm.Keccak256(kind[:], from[:], to[:], value[:], make([]byte, 32), before[:], make([]byte, 32)))
		a.Signature = must(keys[i].Sign(s.run.ctx, digest))(s.t)
		add(chain.Mint(s.token, a.From, a.Value))
		add(s.house.Reader.Contracts.DepositWithAuthorization(s.token, a))
		if len(parts) == 128 || i == n-1 {
			batches = append(batches, evm.Call{To: evm.Address(contracts.Canonical()[3].Address), GasLimit: 16_000_000,
				Data: evm.EncodeCall(evm.Selector("aggregate3((address,bool,bytes)[])"), evm.ListArg(parts...))})
			parts = nil
		}
	}
	s.send(devFaucet(), batches...)
	s.mine(2)
	return keys
}

// Ten thousand participants in one cycle, posted in ten transactions of a chain with the common limit of gas for each: what
// a cycle costs is so much a debtor and so much another participant.
func TestTenThousandParticipants(t *testing.T) {
	t.Parallel()
	const debtors, others, perDebtor, perOther = 5000, 5000, 7500, 2400
	length := townTimes
	length.Schedule.Length, length.Schedule.Post, length.WithdrawalDelay = 300, 120, 3000
	s := newStage(t, length)
	payers := s.crowd(debtors, 1000)
	if s.left() < 60 {
		s.mine(s.left())
	}
	var reqs []clearing.Request
	payees := make([]evm.Address, others)
	for i, payer := range payers {
		hash := evm.Keccak256([]byte("payee"), []byte{byte(i), byte(i >> 8)})
		payees[i] = evm.Address(hash[12:])
		signed := must(guarantee.Sign(s.run.ctx, payer, s.serve, guarantee.Claims{
			Payer: payer.Address(), Payee: payees[i], Asset: s.token, Amount: money.Units(uint64(1 + i%1000)), Timestamp: uint64(s.node.Time().Unix()),
		}))(t)
		reqs = append(reqs, clearing.Request{Signed: signed, Batch: true})
	}
	var ref clearing.CycleRef
	for _, r := range s.house.House.Admit(s.run.ctx, reqs, s.node.Time()) {
		check(t, r.Err)
		ref = r.Cycle
	}
	s.mine(s.left() + int(length.Schedule.Cutoff))
	c := s.await(ref, clearing.Committed)
	if c.Debtors != debtors || c.Participants != debtors+others {
		t.Fatalf("%d debtors of %d", c.Debtors, c.Participants)
	}
	out := make(map[evm.Address]int64)
	for i, payer := range payers {
		out[payer.Address()], out[payees[i]] = int64(1+i%1000), -int64(1+i%1000)
	}
	s.agree(c, out)
	var posted, rest uint64
	posts := 0
	for _, call := range must(s.house.Store.Outbox().Finished(s.run.ctx, devOperator().Address(), 0))(t) {
		if call.State != evm.CallDone {
			t.Fatalf("the call %s ended as %s: %s", call.ID, call.State, call.Err)
		}
		if call.ID[:5] == "post/" {
			posts++
			posted += call.Receipt.GasUsed
		} else {
			rest += call.Receipt.GasUsed
		}
	}
	if want := uint64(debtors*perDebtor + others*perOther); posted > want || posts != 10 {
		t.Errorf("%d transactions posted them for %d gas, want 10 and at most %d", posts, posted, want)
	}
	t.Logf("posted in %d transactions for %d gas; sealed and ended for %d", posts, posted, rest)
}
