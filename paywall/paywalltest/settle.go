package paywalltest

import (
	"context"
	"fmt"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Figures is what settled cycles came to for one participant.
type Figures struct {
	Out, In   money.Amount // gross: what it bought, what it sold
	Collected money.Amount // what it has been paid
}

// Settlement is what [Server.Settle] has settled.
type Settlement struct {
	Cycles       []string // their ids as text; none if nothing was sold
	Guarantees   uint64   // payments in them
	Collected    money.Amount
	Participants map[evm.Address]Figures
}

// Settle ends the cycles that sales since the last settlement fell into, and has them settled on the chain: the seller's notes are delivered, the clock
// passes a cycle's end and cutoff, its positions are posted and sealed, the challenge window passes, and the seller collects
// what it is owed into its wallet. It returns what that came to; the seller's own share is Collected. No request may be
// under way.
func (s *Server) Settle() Settlement {
	s.t.Helper()
	s.Restart() // closing delivers what the seller let go
	ctx := context.Background()
	left, err := s.book.Undelivered(ctx, 1)
	s.must("deliver notes", err)
	if len(left) > 0 {
		s.t.Fatalf("paywalltest: the note of purchase %s does not reach the clearing house", left[0].ID)
	}
	open, err := s.unsettled(ctx)
	s.must("find the cycles", err)
	result := Settlement{Participants: make(map[evm.Address]Figures)}
	for beats := 0; ; beats++ {
		wait, err := s.untilNext(ctx, open)
		s.must("settle", err)
		if wait == 0 {
			break
		}
		if beats > 100 {
			s.t.Fatalf("paywalltest: cycles %v do not settle", open)
		}
		s.must("settle", s.beat(wait))
	}
	for _, ref := range open {
		s.must("collect cycle "+ref.String(), s.collect(ctx, ref, &result))
		s.settled[ref] = true
	}
	result.Collected = result.Participants[s.Seller].Collected
	return result
}

// unsettled returns the cycles that no settlement has told of. Those that Advance has passed may be at their end already.
func (s *Server) unsettled(ctx context.Context) (list []clearing.CycleRef, err error) {
	cycles, err := s.House.Cycles(ctx, s.Token.Address, 0)
	for _, c := range cycles {
		if !s.settled[c.Ref] {
			list = append(list, c.Ref)
		}
	}
	return list, err
}

// untilNext returns how many seconds pass until one of the cycles moves, and 0 if all are at their end.
func (s *Server) untilNext(ctx context.Context, refs []clearing.CycleRef) (wait int64, err error) {
	for _, ref := range refs {
		c, err := s.House.Cycle(ctx, ref.String())
		if err != nil {
			return 0, err
		}
		next := uint64(0) // the next block
		switch c.Status {
		case clearing.Closed:
			continue
		case clearing.Failed:
			return 0, fmt.Errorf("cycle %s has failed: %s", ref, c.Trouble)
		case clearing.Open:
			next = c.End
		case clearing.Frozen:
			next = c.CutoffAt
		case clearing.Committed:
			next = c.FinalAt + 1
		}
		moves := max(1, int64(next)-s.now.Load())
		if wait == 0 || moves < wait {
			wait = moves
		}
	}
	return wait, nil
}

// collect has the creditors of a cycle take what they are owed, and adds the cycle to the result.
func (s *Server) collect(ctx context.Context, ref clearing.CycleRef, result *Settlement) error {
	c, err := s.House.Cycle(ctx, ref.String())
	if err != nil {
		return err
	}
	ps, err := s.House.Positions(ctx, ref.String())
	if err != nil || len(ps) == 0 {
		return err
	}
	for _, p := range ps {
		f := result.Participants[p.Participant]
		f.Out, _ = f.Out.Add(p.Out)
		f.In, _ = f.In.Add(p.In)
		if p.Role == clearing.Creditor {
			before := s.chain.Wallet(p.Participant, s.Token.Address)
			proof, err := s.House.Proof(ctx, ref.String(), p.Participant)
			if err != nil {
				return err
			}
			claim := s.chain.Claim(p.Participant, ref.ID(), p.Amount, proof.Siblings)
			for range depth + 1 {
				if err := s.beat(1); err != nil {
					return err
				}
			}
			if _, err := s.chain.Outcome(claim); err != nil {
				return err
			}
			paid, _ := s.chain.Wallet(p.Participant, s.Token.Address).Sub(before)
			f.Collected, _ = f.Collected.Add(paid)
		}
		result.Participants[p.Participant] = f
	}
	result.Cycles = append(result.Cycles, ref.String())
	result.Guarantees += c.Guarantees
	return nil
}

// Wallet returns what an account holds outside the vault: for the seller, everything that it has collected.
func (s *Server) Wallet(who evm.Address) money.Amount { return s.chain.Wallet(who, s.Token.Address) }

// Account returns what the clearing house knows of an account: its collateral, and what of it is promised.
func (s *Server) Account(who evm.Address) clearing.Account {
	s.t.Helper()
	a, err := s.House.Account(context.Background(), who, s.Token.Address)
	s.must("read the account of "+who.String(), err)
	return a
}
