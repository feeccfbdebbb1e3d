package clearing

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/ledger"
	"github.com/farthing402/farthing/money"
)

// Apply applies a block's events on a stream, in their order, together with everything that follows from them. The
// same block again changes nothing. A block that is not newer than the newest one applied is [ErrOrder]: the follower
// must [House.Unwind] first, and must hand over every block that has events.
//
// The Head stream takes only what lowers capacity at once: requested withdrawals and limits. The Confirmed stream takes
// everything. An event that does not fit what the house knows (a cycle or position that it does not have, a payment seen
// before) changes nothing and says why in its Ignored member; it is never an error, because the chain cannot be told to
// take it back.
func (h *House) Apply(ctx context.Context, stream Stream, b Block, events []Event) error {
	if stream != Head && stream != Confirmed {
		return fmt.Errorf("apply block %d: no such stream: %q", b.Number, stream)
	}
	var defaults uint64
	err := h.Book.Write(ctx, func(tx Tx) error {
		defaults = 0
		if err := tx.AloneOn(stream); err != nil {
			return err
		}
		if again, err := follows(tx, stream, b); again || err != nil {
			return err
		}
		v := newView(tx)
		if err := v.holdForBlock(stream, events); err != nil {
			return err
		}
		applied := make([]Event, 0, len(events))
		for _, e := range events {
			if stream == Head && !e.Kind.atHead() {
				continue
			}
			e.Ignored, e.Undo = "", nil
			u := undo{}
			ignored, err := h.applyEvent(v, stream, b, e, &u)
			if err != nil {
				return fmt.Errorf("%s in %s: %w", e.Kind, e.TxHash.Short(), err)
			}
			if e.Ignored = ignored; ignored == "" {
				if e.Undo, err = json.Marshal(u); err != nil {
					return err
				}
				if e.Kind == DebtorDefaulted {
					defaults++
				}
			}
			applied = append(applied, e)
		}
		if err := v.flush(); err != nil {
			return err
		}
		if err := tx.PutBlock(stream, b, applied); err != nil {
			return err
		}
		if b.Number%pruneEvery == 0 && b.Number > h.KeepDepth {
			return tx.PruneBlocks(stream, b.Number-h.KeepDepth)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("apply block %d on %s: %w", b.Number, stream, err)
	}
	h.defaults.Add(defaults)
	return nil
}

// Defaults returns how many marks of default this house has applied since it was made.
func (h *House) Defaults() uint64 { return h.defaults.Load() }

// holdForBlock reads what a block's events are about, in the one order, as far as the events themselves say it.
func (v *view) holdForBlock(stream Stream, events []Event) error {
	var accounts []AccountKey
	for _, e := range events {
		switch {
		case stream == Head && !e.Kind.atHead():
		case !e.Cycle.IsZero():
			if _, _, err := v.cycleByID(e.Cycle); err != nil {
				return err
			}
		case !e.Account.IsZero() && e.Kind != AutoSettleSet && e.Kind != SignerSet:
			accounts = append(accounts, AccountKey{e.Account, e.Asset})
		}
	}
	return v.hold(nil, accounts)
}

// pruneEvery spreads the cost of forgetting old blocks.
const pruneEvery = 64

// follows checks that a block is newer than those applied; again says that it is one of them.
func follows(tx Tx, stream Stream, b Block) (again bool, err error) {
	tips, err := tx.Blocks(stream, 1)
	if err != nil || len(tips) == 0 || tips[0].Number < b.Number {
		return false, err
	}
	known, err := tx.Blocks(stream, int(min(tips[0].Number-b.Number, DefaultKeepDepth))+1)
	if err != nil || slices.Contains(known, b) {
		return true, err
	}
	return false, fmt.Errorf("block %d is applied: %w", tips[0].Number, ErrOrder)
}

// Unwind takes back every block of a stream above the one numbered to, newest first, so that what those blocks changed
// is exactly as it was; guarantees admitted meanwhile stay. Some block up to `to` must be remembered, or the error is
// [ErrTooDeep] and nothing is taken back.
func (h *House) Unwind(ctx context.Context, stream Stream, to uint64) error {
	err := h.Book.Write(ctx, func(tx Tx) error {
		if err := tx.AloneOn(stream); err != nil {
			return err
		}
		v := newView(tx)
		for {
			tips, err := tx.Blocks(stream, 1)
			if err != nil {
				return err
			}
			if len(tips) == 0 {
				return ErrTooDeep
			}
			if tips[0].Number <= to {
				if stream == Confirmed {
					if err := h.unhear(v, to); err != nil {
						return err
					}
				}
				return v.flush()
			}
			events, err := tx.DropBlock(stream, tips[0].Number)
			if err != nil {
				return err
			}
			for _, e := range slices.Backward(events) {
				if e.Ignored != "" {
					continue
				}
				var u undo
				if err := json.Unmarshal(e.Undo, &u); err != nil {
					return fmt.Errorf("undo of %s in %s: %w: %w", e.Kind, e.TxHash.Short(), ErrBroken, err)
				}
				if err := h.undoEvent(v, stream, e, u); err != nil {
					return fmt.Errorf("undo %s in %s: %w", e.Kind, e.TxHash.Short(), err)
				}
			}
		}
	})
	if err != nil {
		return fmt.Errorf("unwind %s to block %d: %w", stream, to, err)
	}
	return nil
}

// Tips returns the newest blocks applied on a stream, the newest first, at most limit.
func (h *House) Tips(ctx context.Context, stream Stream, limit int) (list []Block, err error) {
	err = h.Book.Read(ctx, func(tx Tx) (err error) { list, err = tx.Blocks(stream, limit); return err })
	return list, err
}

// atHead says which events the Head stream takes.
func (k EventKind) atHead() bool {
	switch k {
	case WithdrawalRequested, WithdrawalCanceled, Withdrawn, LimitSet:
		return true
	}
	return false
}

// undo is what an event replaced. Sums are not in it but the transfers are: between an event and its undoing, guarantees
// may have changed other sums of the same row. What a seal, a void or a release changed is made again from the cycle's
// positions instead.
type undo struct {
	Settings  []settings        `json:",omitempty"`
	Transfers []ledger.Transfer `json:",omitempty"`
	Cycle     *Cycle            `json:",omitempty"`
	Mark      *mark             `json:",omitempty"`
	Schedule  *Schedule         `json:",omitempty"`
	Signer    *Signer           `json:",omitempty"`
}

// settings are the members of an account that events replace.
type settings struct {
	Owner, Asset evm.Address
	Withdraw     money.Amount // the stream's view
	Limit        money.Amount // the stream's view
	Limited      bool         // the stream's view
	AutoSettle   bool
}

// mark is a position's members that events replace.
type mark struct {
	Cycle       CycleRef
	Generation  uint64
	Participant evm.Address
	Filled      money.Amount
	Flags       PositionFlags
}

// change returns an account to be changed by an event, and remembers what it was.
func (v *view) change(stream Stream, owner, asset evm.Address, u *undo) (*accountRow, error) {
	row, err := v.account(owner, asset)
	if err != nil {
		return nil, err
	}
	s := settings{Owner: owner, Asset: asset, AutoSettle: row.AutoSettle}
	withdraw, limit, limited := row.views(stream)
	s.Withdraw, s.Limit, s.Limited = *withdraw, *limit, *limited
	u.Settings = append(u.Settings, s)
	row.dirty = true
	return row, nil
}

// views returns where a stream keeps its view of an owner's wishes.
func (a *Account) views(stream Stream) (withdraw, limit *money.Amount, limited *bool) {
	if stream == Head {
		return &a.WithdrawHead, &a.LimitHead, &a.LimitedHead
	}
	return &a.WithdrawConfirmed, &a.LimitConfirmed, &a.LimitedConfirmed
}

// move posts a transfer that an event causes.
func (v *view) move(u *undo, e Event, what string, debit, credit ledger.Account, amount money.Amount) error {
	t := ledger.Transfer{ID: fmt.Sprintf("%s/%s/%d", what, e.TxHash, e.LogIndex), Debit: debit, Credit: credit, Amount: amount}
	if amount.IsZero() {
		return nil
	}
	u.Transfers = append(u.Transfers, t)
	return v.post(t)
}

func worldOf(asset evm.Address) ledger.Account {
	return ledger.Account{Kind: ledger.World, Asset: asset}
}
func bondOf(asset evm.Address) ledger.Account { return ledger.Account{Kind: ledger.Bond, Asset: asset} }
func collateralOf(owner, asset evm.Address) ledger.Account {
	return ledger.Account{Kind: ledger.Collateral, Asset: asset, Owner: owner}
}
func potOf(c CycleRef) ledger.Account {
	return ledger.Account{Kind: ledger.Pot, Asset: c.Asset, Cycle: c.ID()}
}

// applyEvent applies one event. ignored says why it changed nothing.
func (h *House) applyEvent(v *view, stream Stream, b Block, e Event, u *undo) (ignored string, err error) {
	switch e.Kind {
	case Deposited:
		return "", h.deposited(v, e, u)
	case Withdrawn, WithdrawalRequested, WithdrawalCanceled:
		row, err := v.change(stream, e.Account, e.Asset, u)
		if err != nil {
			return "", err
		}
		withdraw, _, _ := row.views(stream)
		*withdraw = money.Amount{}
		switch {
		case e.Kind == WithdrawalRequested:
			*withdraw = e.Amount // a new request replaces the one before
		case e.Kind == Withdrawn && stream == Confirmed:
			return "", v.move(u, e, "withdrawal", collateralOf(e.Account, e.Asset), worldOf(e.Asset), e.Amount)
		}
		return "", nil
	case LimitSet:
		row, err := v.change(stream, e.Account, e.Asset, u)
		if err != nil {
			return "", err
		}
		_, limit, limited := row.views(stream)
		if *limit, *limited = e.Amount, e.On; !e.On {
			*limit = money.Amount{}
		}
		return "", nil
	case AutoSettleSet:
		assets, err := v.tx.Assets()
		if err != nil {
			return "", err
		}
		for _, asset := range assets {
			row, err := v.change(stream, e.Account, asset, u)
			if err != nil {
				return "", err
			}
			row.AutoSettle = e.On
		}
		return "", nil
	case BondChanged:
		if e.On {
			return "", v.move(u, e, "bond", worldOf(e.Asset), bondOf(e.Asset), e.Amount)
		}
		return "", v.move(u, e, "bond", bondOf(e.Asset), worldOf(e.Asset), e.Amount)
	case ScheduleSet:
		return scheduleSet(v, e, u)
	case SignerSet:
		return "", signerSet(v.tx, e, u)
	case PositionsPosted, CycleCommitted, DebtFilled, DebtorPaid, DebtorDefaulted, CreditorClaimed, CycleFinalized, CycleVoided, ChunkReleased:
		return h.cycleEvent(v, b, e, u)
	}
	return "no such kind of event is known here", nil
}

// deposited credits a deposit. Its owner may have chosen to be settled from collateral before the asset was cleared here;
// other accounts of the owner then know.
func (h *House) deposited(v *view, e Event, u *undo) error {
	row, err := v.change(Confirmed, e.Account, e.Asset, u)
	if err != nil {
		return err
	}
	if !row.AutoSettle && row.Balance == (ledger.Balance{}) {
		assets, err := v.tx.Assets()
		if err != nil {
			return err
		}
		for _, asset := range assets {
			other, err := v.account(e.Account, asset)
			if err != nil {
				return err
			}
			row.AutoSettle = row.AutoSettle || other.AutoSettle
		}
	}
	return v.move(u, e, "deposit", worldOf(e.Asset), collateralOf(e.Account, e.Asset), e.Amount)
}

func scheduleSet(v *view, e Event, u *undo) (ignored string, err error) {
	s := e.Schedule
	if s == nil || s.Length == 0 {
		return "no cycle can have this schedule", nil
	}
	list, err := v.tx.Schedules(s.Asset)
	if err != nil {
		return "", err
	}
	for _, old := range list {
		if old.From == s.From {
			u.Schedule = &old
		}
	}
	delete(v.schedules, s.Asset)
	return "", v.tx.PutSchedule(*s)
}

// signerSet names a key, or says when it ends. A removal acts a withdrawal's delay after its block, so that the depth at
// which it is seen does not matter.
func signerSet(tx Tx, e Event, u *undo) error {
	old, found, err := tx.Signer(e.Account, e.Asset)
	if err != nil {
		return err
	}
	if found {
		u.Signer = &old
	}
	return tx.PutSigner(Signer{Owner: e.Account, Key: e.Asset, Until: e.Time})
}

// undoEvent puts back what an event replaced.
func (h *House) undoEvent(v *view, stream Stream, e Event, u undo) error {
	if err := h.undoCycleEvent(v, e, u); err != nil {
		return err
	}
	for _, t := range slices.Backward(u.Transfers) {
		if err := v.unpost(t); err != nil {
			return err
		}
	}
	for _, s := range slices.Backward(u.Settings) {
		row, err := v.account(s.Owner, s.Asset)
		if err != nil {
			return err
		}
		withdraw, limit, limited := row.views(stream)
		*withdraw, *limit, *limited = s.Withdraw, s.Limit, s.Limited
		if row.dirty = true; stream == Confirmed { // the other stream never sets it, and may have seen an older choice
			row.AutoSettle = s.AutoSettle
		}
	}
	switch {
	case e.Kind == SignerSet && u.Signer != nil:
		return v.tx.PutSigner(*u.Signer)
	case e.Kind == SignerSet:
		return v.tx.DropSigner(e.Account, e.Asset)
	case e.Kind == ScheduleSet:
		delete(v.schedules, e.Schedule.Asset)
		if u.Schedule != nil {
			return v.tx.PutSchedule(*u.Schedule)
		}
		return v.tx.DropSchedule(e.Schedule.Asset, e.Schedule.From)
	}
	return nil
}
