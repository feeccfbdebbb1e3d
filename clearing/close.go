package clearing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// CloseDue moves every cycle as far as its time has come: one pass, meant to be repeated each second or so. now is the
// house's clock, which freezes cycles and ends notes; chainTime is the time of the newest block, before which no call is
// asked for that the contract would refuse as too early. Several houses may do this at once.
//
//   - open → frozen at the end of the cycle.
//   - frozen → netted at the cutoff, by both clocks, and when validators have been asked what they answered before it; the calls that post and seal it are in the outbox when it is netted.
//     A cycle that has no guarantees is closed instead.
//   - netted → failed when a block past the deadline is applied at depth and no seal before it. What was posted is to be
//     released; guarantees stay locked.
//   - committed → final when a block past the challenge window is applied at depth. Debtors that have not paid, and did
//     not choose to be settled from collateral, are to be marked, and the cycle to be finalized.
//   - final → closed when that is done.
//
// A call that was refused is made again, each time after a longer delay. A cycle's trouble is written into its row and
// blocks no other cycle; the errors of all are returned together.
func (h *House) CloseDue(ctx context.Context, now time.Time, chainTime uint64) error {
	var cycles []Cycle
	err := h.Book.Read(ctx, func(tx Tx) error {
		cycles = nil
		assets, err := tx.Assets()
		if err != nil {
			return err
		}
		for _, asset := range assets {
			open, err := tx.Cycles(asset, true, 0)
			if err != nil {
				return err
			}
			cycles = append(cycles, open...)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("close cycles: %w", err)
	}
	slices.SortFunc(cycles, func(a, b Cycle) int { return compareRefs(a.Ref, b.Ref) }) // the oldest of an asset first
	var errs []error
	for _, c := range cycles {
		if ctx.Err() != nil {
			errs = append(errs, context.Cause(ctx))
			break
		}
		if err := h.closeCycle(ctx, c, clocks{unix(now), chainTime}); err != nil {
			err = fmt.Errorf("cycle %s: %w", c.Ref, err)
			errs = append(errs, err, h.noteTrouble(ctx, c.Ref, err))
		}
	}
	return errors.Join(errs...)
}

// clocks are the two times that a cycle moves by, in unix seconds.
type clocks struct{ house, chain uint64 }

// closeCycle moves one cycle until it stays where it is.
func (h *House) closeCycle(ctx context.Context, c Cycle, t clocks) error {
	for {
		var computed *net
		waits, err := h.waitsForAnswers(ctx, c, t)
		if err != nil {
			return err
		}
		if c.Status == Frozen && t.house >= c.CutoffAt && t.chain >= c.CutoffAt && !waits {
			// Netting hashes every guarantee, which takes seconds for a million. It reads a snapshot while others
			// write; the write below then checks that nothing has moved.
			computed = new(net)
			err := h.Book.Read(ctx, func(tx Tx) (err error) {
				*computed, err = h.computeNet(tx, c)
				return err
			})
			if err != nil {
				return err
			}
		}
		before := c.Status
		err = h.Book.Write(ctx, func(tx Tx) error {
			row, found, err := tx.Cycle(c.Ref)
			if err != nil {
				return err
			}
			if !found || row.Status != before || computed != nil && row != c {
				return errMoved
			}
			was := row
			if err := h.step(tx, &row, t, computed); err != nil {
				return err
			}
			if c = row; row == was {
				return nil
			}
			return tx.PutCycle(row)
		})
		if errors.Is(err, errMoved) {
			return nil // another house was faster; the next pass goes on from there
		}
		if err != nil || c.Status == before {
			return err
		}
	}
}

// waitsForAnswers reports whether a cycle is not to be netted yet, because validators may have answered before its cutoff
// about guarantees that it could net, and have not been asked since.
func (h *House) waitsForAnswers(ctx context.Context, c Cycle, t clocks) (waits bool, err error) {
	if c.Status != Frozen || t.house < c.CutoffAt || t.house >= c.lateAt() {
		return false, nil
	}
	err = h.Book.Read(ctx, func(tx Tx) (err error) {
		waits, err = tx.Unasked(c.Ref.Asset, c.Ref.Start, c.CutoffAt)
		return err
	})
	return waits, err
}

var errMoved = errors.New("cycle has moved")

func (h *House) noteTrouble(ctx context.Context, ref CycleRef, trouble error) error {
	err := h.Book.Write(ctx, func(tx Tx) error {
		c, found, err := tx.Cycle(ref)
		if err != nil || !found || c.Trouble == trouble.Error() {
			return err
		}
		c.Trouble = trouble.Error()
		return tx.PutCycle(c)
	})
	if err != nil {
		return fmt.Errorf("note trouble of cycle %s: %w", ref, err)
	}
	return nil
}

// step moves a cycle by at most one status.
func (h *House) step(tx Tx, c *Cycle, t clocks, computed *net) error {
	switch c.Status {
	case Open:
		if t.house >= c.End {
			c.Status = Frozen
		}
	case Frozen:
		if computed != nil {
			return h.applyNet(tx, c, t, *computed)
		}
	case Netted:
		return h.postDue(tx, c, t, nil)
	case Committed:
		passed, err := confirmedPast(tx, c.FinalAt)
		if passed {
			c.Status, c.Tries, c.RetryAt, c.Trouble = Final, 0, 0, ""
			return h.finishDue(tx, c, t)
		}
		return err
	case Final:
		return h.finishDue(tx, c, t)
	case Failed:
		return h.releaseDue(tx, c, t)
	}
	return nil
}

// confirmedPast reports whether a block later than a time is applied at depth. Nothing that a contract allows up to that
// time can come any more, unless a reorg goes deeper.
func confirmedPast(tx Tx, at uint64) (bool, error) {
	tips, err := tx.Blocks(Confirmed, 1)
	return len(tips) == 1 && tips[0].Time > at, err
}

// applyNet writes what a frozen cycle came to, and asks for the calls that post and seal it.
func (h *House) applyNet(tx Tx, c *Cycle, t clocks, n net) error {
	// While the netting ran, a note may have lowered what a payer owes, and a validator's answer may have let a guarantee in.
	// Nothing else can have changed: a frozen cycle takes no others.
	var payable money.Amount
	for sum, err := range tx.PayableByEach(c.Ref) {
		if err != nil {
			return err
		}
		payable, _ = payable.Add(sum.Payable)
		i, found := slices.BinarySearchFunc(n.positions, sum.Payer, func(p Position, payer evm.Address) int {
			return bytes.Compare(p.Participant[:], payer[:])
		})
		switch {
		case found && n.positions[i].Out == sum.Payable:
		case !found && sum.Payable.IsZero(): // of what was let in, and taken back
		default:
			return errMoved
		}
	}
	if payable != n.gross {
		return errMoved
	}
	if n.guarantees == 0 {
		c.Status, c.Trouble = Closed, ""
		return nil
	}
	h.putNet(c, n)
	if err := tx.PutPositions(c.Ref, c.Generation, n.positions); err != nil {
		return err
	}
	c.Status, c.Posted, c.Tries, c.RetryAt, c.Trouble = Netted, 0, 0, 0, ""
	return h.postDue(tx, c, t, n.positions)
}

// putNet fills the members of a cycle that netting decides.
func (h *House) putNet(c *Cycle, n net) {
	c.Height, c.Root, c.Statements = h.height, n.root, n.statements
	c.Guarantees, c.Gross, c.Total = n.guarantees, n.gross, n.total
	c.Participants, c.Debtors = uint64(len(n.positions)), n.debtors
}

// chunks returns how many chunks a cycle's positions make.
func (c Cycle) chunks() uint64 { return (c.Participants + 1<<c.Height - 1) >> c.Height }

// chunk returns the positions of one chunk.
func (c Cycle) chunk(ps []Position, i uint64) []Position {
	n := uint64(len(ps))
	return ps[min(i<<c.Height, n):min((i+1)<<c.Height, n)]
}

// postDue asks for the calls that a netted cycle still needs, or gives the cycle up after its deadline. positions may be
// nil, to be read if they are needed.
func (h *House) postDue(tx Tx, c *Cycle, t clocks, positions []Position) error {
	late, err := confirmedPast(tx, c.PostDeadline)
	if err != nil {
		return err
	}
	if late {
		c.Status, c.Tries, c.RetryAt = Failed, 0, 0
		c.Trouble = strings.TrimPrefix(c.Trouble+"; not sealed by its deadline", "; ")
		return h.releaseDue(tx, c, t)
	}
	if t.chain > c.PostDeadline || t.chain < c.CutoffAt {
		return nil // too late for more calls, perhaps not for one that is being mined; or too early by the chain's clock
	}
	if err := lowerChunks(tx, c); err != nil {
		return err
	}
	var wants []want
	for i := c.Posted; i < c.chunks(); i++ {
		wants = append(wants, want{
			id: func(try uint64) string { return postID(c, i, try) },
			pack: func() (_ evm.Call, err error) {
				if positions == nil {
					if positions, err = tx.Positions(c.Ref, c.Generation); err != nil {
						return evm.Call{}, err
					}
				}
				return h.Chain.Post(c.Ref, c.Generation, i, c.Height, encodeChunk(c.chunk(positions, i)))
			},
		})
	}
	// The contract wants deadlines that lie ahead, but not too far, and then takes its own.
	deadline := c.PostDeadline + 1
	wants = append(wants, want{
		id: func(try uint64) string { return fmt.Sprintf("commit/%s/%d/%d/%d", c.Ref, c.Generation, deadline, try) },
		pack: func() (evm.Call, error) {
			return h.Chain.Commit(c.Ref, c.Root, c.Total, deadline, int(c.chunks()))
		},
	})
	return h.ask(tx, c, t, wants, "a call to post or seal the cycle was refused")
}

// lowerChunks makes a cycle's chunks smaller before its third try, if none is posted yet: many debtors whom the bond must
// fill can cost more gas than a transaction may use, and a refusal does not say why it was one.
func lowerChunks(tx Tx, c *Cycle) error {
	const try, height = 2, 8
	if c.Tries != try || c.Generation != 0 || c.Posted != 0 || c.Height <= height {
		return nil
	}
	state, _, err := latest(tx, c, func(try uint64) string { return postID(c, 0, try) })
	if err == nil && state != evm.CallDone {
		c.Height = height
	}
	return err
}

// finishDue has a cycle finalized whose challenge window is over, and its debtors marked that did not pay and did not choose
// to be settled from collateral. When the chain has told that all of it happened, the cycle is closed.
func (h *House) finishDue(tx Tx, c *Cycle, t clocks) error {
	if t.chain <= c.FinalAt {
		return nil
	}
	var wants []want
	if !c.Finalized {
		wants = append(wants, want{
			id:   func(try uint64) string { return fmt.Sprintf("finalize/%s/%d/%d", c.Ref, c.Generation, try) },
			pack: func() (evm.Call, error) { return h.Chain.Finalize(c.Ref.ID()) },
		})
	}
	ps, err := tx.Positions(c.Ref, c.Generation)
	if err != nil {
		return err
	}
	for _, p := range ps {
		if p.Role != Debtor || p.Flags.Paid || p.Flags.Defaulted {
			continue
		}
		account, err := tx.Account(p.Participant, c.Ref.Asset)
		if err != nil {
			return err
		}
		if account.AutoSettle {
			continue
		}
		wants = append(wants, want{
			id: func(try uint64) string {
				return fmt.Sprintf("mark/%s/%d/%s/%d", c.Ref, c.Generation, p.Participant.Lower(), try)
			},
			pack: func() (evm.Call, error) {
				r, err := h.tree(tx, *c)
				if err != nil {
					return evm.Call{}, err
				}
				return h.Chain.MarkDefaulted(c.Ref.ID(), p.Participant, p.Amount, r.proof(p.Index))
			},
		})
	}
	if len(wants) == 0 {
		c.Status, c.Tries, c.RetryAt, c.Trouble = Closed, 0, 0, ""
		return nil
	}
	return h.ask(tx, c, t, wants, "a call to finalize the cycle or to mark a debtor was refused")
}

// releaseTriesMax is how often the release of a chunk is tried. A refusal most likely says that somebody else has
// released it; and anybody can.
const releaseTriesMax = 5

// releaseDue gives back what the posted chunks of a cycle that was never sealed took.
func (h *House) releaseDue(tx Tx, c *Cycle, t clocks) error {
	if c.SealedAt != 0 || t.chain <= c.PostDeadline || c.Tries >= releaseTriesMax {
		return nil
	}
	var wants []want
	positions := sync.OnceValues(func() ([]Position, error) { return tx.Positions(c.Ref, c.Generation) })
	for i := range c.Posted {
		wants = append(wants, h.wantRelease(*c, c.Generation, i, positions))
	}
	return h.ask(tx, c, t, wants, c.Trouble)
}

func (h *House) wantRelease(c Cycle, generation, chunk uint64, positions func() ([]Position, error)) want {
	return want{
		id: func(try uint64) string { return fmt.Sprintf("release/%s/%d/%d/%d", c.Ref, generation, chunk, try) },
		pack: func() (evm.Call, error) {
			ps, err := positions()
			if err != nil {
				return evm.Call{}, err
			}
			return h.Chain.Release(c.Ref, generation, chunk, encodeChunk(c.chunk(ps, chunk)))
		},
	}
}

func postID(c *Cycle, chunk, try uint64) string {
	return fmt.Sprintf("post/%s/%d/%d/%d", c.Ref, c.Generation, chunk, try)
}

// want is a call that a cycle needs. Its name says what it does and which try it is, so that asking twice is asking
// once; its bytes are packed when they are needed.
type want struct {
	id   func(try uint64) string
	pack func() (evm.Call, error)
}

// ask sees to calls that a cycle needs, in their order: those that are new are put into the outbox; if one was refused
// and none is under way, what was refused is asked for again under a new name, after 1, 2, 4 … 64 seconds. trouble says
// what a refusal means.
func (h *House) ask(tx Tx, c *Cycle, t clocks, wants []want, trouble string) error {
	var again []want
	refused := false
	for _, w := range wants {
		state, found, err := latest(tx, c, w.id)
		switch {
		case err != nil:
			return err
		case found && !state.Final():
			return nil
		case found && state == evm.CallDone:
			continue // what it did is applied when it is deep enough
		}
		again = append(again, w)
		refused = refused || found
	}
	if refused && c.RetryAt == 0 {
		c.Tries++
		c.RetryAt = t.house + 1<<min(c.Tries-1, 6)
		c.Trouble = trouble
		return nil
	}
	if c.RetryAt > t.house {
		return nil
	}
	for _, w := range again {
		id := w.id(c.Tries)
		call, err := w.pack()
		if err != nil {
			return fmt.Errorf("pack %s: %w", id, err)
		}
		call.ID = id
		if err := tx.Enqueue(call); err != nil {
			return err
		}
	}
	c.RetryAt = 0
	return nil
}

// latest returns the state of a call's newest try, and false if there is none.
func latest(tx Tx, c *Cycle, id func(try uint64) string) (evm.CallState, bool, error) {
	for try := c.Tries; ; try-- {
		state, found, err := tx.CallState(id(try))
		if err != nil || found || try == 0 {
			return state, found, err
		}
	}
}
