package main

import (
	"testing"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// judged is a guarantee that depends on a validator, and the question to that.
type judged struct {
	clearing.Result
	question chain.Question
}

// depend has one admitted and checks its certificate as its payee would.
func (s *stage) depend(payer *evm.PrivateKey, payee, validator evm.Address, amount uint64) judged {
	s.t.Helper()
	s.reqs++
	c := guarantee.Claims{
		Payer: payer.Address(), Payee: payee, Asset: s.token, ReqID: evm.WordUint64(s.reqs), Amount: money.Units(amount),
		Timestamp: uint64(s.node.Time().Unix()),
	}.Bind(guarantee.Policy{
		Registry: s.house.Deployment.Registries[0], ChainID: s.serve.ChainID, Validator: validator, AgentID: evm.Hash{31: 42}, MinScore: 80,
		JobHash: evm.Keccak256([]byte("the job")), Tag: "hard-finality",
	})
	signed := must(guarantee.Sign(s.run.ctx, payer, s.serve, c))(s.t)
	r := s.house.House.Admit(s.run.ctx, []clearing.Request{{Signed: signed}}, s.node.Time())[0]
	check(s.t, r.Err)
	cycle := must(must(guarantee.NewVerifier(s.house.Authority.PublicKey(), s.serve))(s.t).Verify(r.Certificate, c))(s.t)
	if cycle != r.Cycle.ID() {
		s.t.Fatalf("certificate of cycle %s, want %s", cycle, r.Cycle)
	}
	return judged{r, chain.Question{Registry: c.Policy.Registry, Request: c.Policy.Request}}
}

// answer has the validator answer in the chain's registry.
func (s *stage) answer(validator *evm.PrivateKey, j judged, score uint8) {
	s.t.Helper()
	call := chain.AnswerValidation(j.question, score, "hard-finality")
	call.GasLimit = 300_000
	s.send(validator, call)
	s.mine(2)
}

func (s *stage) standing(j judged) clearing.Standing {
	s.t.Helper()
	return must(s.house.House.Guarantee(s.run.ctx, j.Digest))(s.t)
}

// netted wants a guarantee to be netted in the first cycle whose cutoff came after its answer, and returns that.
func (s *stage) netted(j judged) clearing.Cycle {
	s.t.Helper()
	for range 60 {
		if s.standing(j).Guarantee.Validation.Answered != 0 {
			break
		}
		s.mine(1)
	}
	g := s.standing(j).Guarantee
	c := s.await(g.Netting(), clearing.Committed)
	length := c.End - c.Ref.Start
	if at := g.Validation.Answered; at == 0 || at > c.CutoffAt || c.Ref.Start > j.Cycle.Start && at <= c.CutoffAt-length {
		s.t.Errorf("answered at %d, netted in cycle %s with cutoff %d", at, c.Ref, c.CutoffAt)
	}
	s.stand(clearing.StatusNetted, j.Digest)
	return c
}

// A buyer's promises that depend on a validator's word: one that the chain's registry answers in time is netted with the
// rest of its cycle, one that it answers late in a later cycle, one that it never answers well enough is let go after three
// more, and its collateral is free. Answers that a reorganisation takes back have not been given.
func TestValidatorsDecideOnChain(t *testing.T) {
	t.Parallel()
	length := townTimes
	length.Schedule.Length, length.WithdrawalDelay = 30, 240 // sending takes some blocks, and each is a second
	s := newStage(t, length)
	buyer, shop, validator := s.party(), s.party(), s.party()
	s.deposits(5_000_000, buyer)
	for uint64(s.node.Time().Unix())%uint64(length.Schedule.Length) != 0 {
		s.mine(1)
	}
	prompt, late, never := s.depend(buyer, shop.Address(), validator.Address(), 1_000),
		s.depend(buyer, shop.Address(), validator.Address(), 200), s.depend(buyer, shop.Address(), validator.Address(), 30)
	first, plain := s.owes(debt{buyer, shop.Address(), 4})
	if late.Cycle != first || never.Cycle != first {
		t.Fatalf("admitted to %s and %s, want %s", late.Cycle, never.Cycle, first)
	}
	s.stand(clearing.StatusPending, prompt.Digest, late.Digest, never.Digest)
	s.wants("promised", buyer, 5_000_000, 1_234, 4_998_766)
	var asked []evm.Call
	for _, j := range []judged{prompt, late, never} {
		call := chain.RequestValidation(j.question, validator.Address(), evm.Hash{31: 42})
		call.GasLimit = 300_000
		asked = append(asked, call)
	}
	s.send(shop, asked...)
	s.stand(clearing.StatusPending, prompt.Digest)

	// An answer counts once it is confirmed, and not when the chain has taken it back.
	before := s.node.Height()
	s.answer(validator, prompt, 80)
	s.stand(clearing.StatusPayable, prompt.Digest)
	s.reorg(int(s.node.Height()-before), devchain.Forget)
	s.stand(clearing.StatusPending, prompt.Digest)
	s.answer(validator, prompt, 80)
	s.stand(clearing.StatusPayable, prompt.Digest)

	c := s.netted(prompt)
	if c.Ref != first || c.Total != money.Units(1_004) || c.Guarantees != 2 {
		t.Fatalf("cycle %s nets %d guarantees for %s", c.Ref, c.Guarantees, c.Total)
	}
	s.stand(clearing.StatusNetted, plain...)
	s.stand(clearing.StatusPending, late.Digest, never.Digest)
	s.wants("after the first seal", buyer, 4_998_996, 230, 4_998_766)

	s.answer(validator, never, 79)
	s.answer(validator, late, 100)
	second := s.netted(late)
	if second.Ref.Start <= first.Start || second.Ref.Start > first.Start+3*uint64(length.Schedule.Length) || second.Total != money.Units(200) {
		t.Fatalf("cycle %s nets %s", second.Ref, second.Total)
	}
	s.stand(clearing.StatusPending, never.Digest)
	s.wants("after the second seal", buyer, 4_998_796, 30, 4_998_766)

	last := first.Start + 4*uint64(length.Schedule.Length) + uint64(length.Schedule.Cutoff)
	for s.standing(never).Status == clearing.StatusPending && uint64(s.node.Time().Unix()) < last+uint64(length.Schedule.Post) {
		s.mine(1)
	}
	if now := uint64(s.node.Time().Unix()); now < last {
		t.Errorf("given up at %d, before the last cutoff %d", now, last)
	}
	s.stand(clearing.StatusCancelled, never.Digest)
	s.wants("what was never answered is free", buyer, 4_998_796, 0, 4_998_796)
	s.answer(validator, never, 100)
	s.mine(3)
	s.stand(clearing.StatusCancelled, never.Digest)

	// The shop has its money for what was done well.
	s.await(first, clearing.Closed)
	s.await(second.Ref, clearing.Closed)
	s.send(shop, claimAll(s, shop.Address(), s.position(first, shop.Address()), s.position(second.Ref, shop.Address())))
	if got := s.holds(shop.Address()); got != 10_001_204 {
		t.Errorf("the shop holds %d", got)
	}
	s.stand(clearing.StatusRemunerate, prompt.Digest, late.Digest)
	s.free(buyer)
}
