package clearing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/farthing402/farthing/evm"
)

// CloseDue moves every cycle as far as its time has come: one pass, meant to be repeated each second or so. now is the
// house's clock, which freezes cycles and ends notes; chainTime is the time of the newest block, before which no call is
// asked for that the contract would refuse as too early. Several houses may do this at once.
//
//   - open → frozen at the end of the cycle.
//   - frozen → netted at the cutoff, by both clocks; the calls that post and seal it are in the outbox when it is netted.
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
		if c.Status == Frozen && t.house >= c.CutoffAt && t.chain >= c.CutoffAt {
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
		err := h.Book.Write(ctx, func(tx Tx) error {
			row, found, err := tx.Cycle(c.Ref)
			if err != nil {
				return err
			}
			if !found || row.Status != before {
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
		return h.postDue(tx, c, t)
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
	if n.guarantees == 0 {
		c.Status, c.Trouble = Closed, ""
		return nil
	}
	// A note that came while the netting ran has lowered what its payer owes. Nothing else can have changed: a frozen
	// cycle takes no guarantees.
	for _, p := range n.positions {
		payable, err := tx.PayableBy(c.Ref, p.Participant)
		if err != nil {
			return err
		}
		if payable != p.Out {
			return errMoved
		}
	}
	h.putNet(c, n)
	if err := tx.PutPositions(c.Ref, c.Generation, n.positions); err != nil {
		return err
	}
	c.Status, c.Posted, c.Tries, c.RetryAt, c.Trouble = Netted, 0, 0, 0, ""
	return h.postDue(tx, c, t)
}

// putNet fills the members of a cycle that netting decides.
func (h *House) putNet(c *Cycle, n net) {
	c.Height = h.height
	r, q := h.fold(c.Ref, n.positions)
	c.Root, c.Statements = r.root(), q.root()
	c.Guarantees, c.Gross, c.Total = n.guarantees, n.gross, n.total
	c.Participants, c.Debtors = uint64(len(n.positions)), n.debtors
}

// chunks returns how many chunks a cycle's positions make.
func (c Cycle) chunks() uint64 { return (c.Participants + 1<<c.Height - 1) >> c.Height }

// chunk returns the positions of one chunk.
func (c Cycle) chunk(ps []Position, i uint64) []Position {
	return ps[min(i<<c.Height, uint64(len(ps))):min((i+1)<<c.Height, uint64(len(ps)))]
}

// Calls are named after what they do and which try they are of, so that asking for one twice is asking once.

func postID(c Cycle, chunk, try uint64) string {
	return fmt.Sprintf("post/%s/%d/%d/%d", c.Ref, c.Generation, chunk, try)
}

func commitID(c Cycle, try uint64) string {
	return fmt.Sprintf("commit/%s/%d/%d", c.Ref, c.Generation, try)
}

func releaseID(c Cycle, generation, chunk, try uint64) string {
	return fmt.Sprintf("release/%s/%d/%d/%d", c.Ref, generation, chunk, try)
}

func markID(c Cycle, debtor evm.Address, try uint64) string {
	return fmt.Sprintf("mark/%s/%d/%s/%d", c.Ref, c.Generation, debtor.Lower(), try)
}

func finalizeID(c Cycle, try uint64) string {
	return fmt.Sprintf("finalize/%s/%d/%d", c.Ref, c.Generation, try)
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

// enqueue names a packed call and puts it into the outbox.
func enqueue(tx Tx, id string, call evm.Call, err error) error {
	if err != nil {
		return fmt.Errorf("pack %s: %w", id, err)
	}
	call.ID = id
	return tx.Enqueue(call)
}

// progress sums up the states of the calls of a stage.
type progress struct {
	missing, refused, underway, done bool // some call is
}

func (p *progress) add(state evm.CallState, found bool) {
	switch {
	case !found:
		p.missing = true
	case state == evm.CallReverted:
		p.refused = true
	case state == evm.CallDone:
		p.done = true
	default:
		p.underway = true
	}
}

// retry counts a refused call and says when to make it again: after 1, 2, 4 … 64 seconds.
func (c *Cycle) retry(now uint64, trouble string) {
	c.Tries++
	c.RetryAt = now + 1<<min(c.Tries-1, 6)
	c.Trouble = fmt.Sprintf("%s; try %d follows", trouble, c.Tries+1)
}

// lowHeight is used after the second refusal of a first chunk: a chunk of 2^10 debtors whom the bond must fill costs more
// gas than a transaction may use.
const lowHeight, lowHeightTries = 8, 2

// postDue asks for the calls that a netted cycle still needs, or gives it up after its deadline.
func (h *House) postDue(tx Tx, c *Cycle, t clocks) error {
	if failed, err := confirmedPast(tx, c.PostDeadline); err != nil || failed {
		if failed {
			c.Status, c.Tries, c.RetryAt = Failed, 0, 0
			c.Trouble = "not sealed by its deadline"
		}
		return err
	}
	if t.chain > c.PostDeadline || t.chain < c.CutoffAt {
		return nil // waiting for depth, or for the chain's clock
	}
	var p progress
	for i := c.Posted; i < c.chunks(); i++ {
		state, found, err := latest(tx, c, func(try uint64) string { return postID(*c, i, try) })
		if err != nil {
			return err
		}
		p.add(state, found)
	}
	state, found, err := latest(tx, c, func(try uint64) string { return commitID(*c, try) })
	if err != nil {
		return err
	}
	p.add(state, found)
	switch {
	case p.underway, p.done && !p.refused && !p.missing:
		return nil // being mined, or to be applied when deep enough
	case p.refused && c.RetryAt <= t.house && c.Trouble == "":
		// The first look at a refusal decides when to try again.
	}
	return h.postAgain(tx, c, t, p)
}

// finishDue marks debtors that did not pay, and has the cycle finalized.
func (h *House) finishDue(tx Tx, c *Cycle, t clocks) error { return nil }

// releaseDue gives back what the chunks of a failed or voided generation took.
func (h *House) releaseDue(tx Tx, c *Cycle, t clocks) error { return nil }

func (h *House) postAgain(tx Tx, c *Cycle, t clocks, p progress) error { return nil }
