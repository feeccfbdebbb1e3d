package clearing

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
)

// noting is a note on its way through a group.
type noting struct {
	note   guarantee.SignedNote
	signer evm.Address
	now    time.Time
	err    error
}

// Note takes payees' notes, which lower what guarantees pay, to nothing if they say so, and frees the payers' exposure
// at once. Errors are in the order of notes, nil where a note holds now. The checks run in this order:
//
//  1. signature (guarantee.ErrSignature)
//  2. guarantee ([ErrNotFound]), and that its payee is the signer or has named it ([ErrSigner])
//  3. whether the same note (amount and reason) holds already, which is success at any time
//  4. that the note lowers what is payable ([ErrRaise])
//  5. that nothing below backs a refund ([ErrPledged])
//  6. that the cycle has not reached its cutoff by the house's clock, nor been netted ([ErrCutoff]); for a guarantee that
//     waits for its validator, no cycle has
//
// What [House.Admit] says about [ErrUnfinished], [ErrNotAdmitted] and ctx is true of Note too.
func (h *House) Note(ctx context.Context, notes []guarantee.SignedNote, now time.Time) []error {
	errs := make([]error, len(notes))
	items := make([]*noting, len(notes))
	parallel(len(notes), func(i int) {
		items[i] = &noting{note: notes[i], now: now}
		items[i].signer, errs[i] = notes[i].Signer(h.Deployment)
	})
	var good []int
	for i := range items {
		if errs[i] == nil {
			items[i].err = ErrUnfinished // until a run says otherwise
			good = append(good, i)
		}
	}
	for part := range slices.Chunk(good, h.BatchMax) {
		group := make([]*noting, len(part))
		for k, i := range part {
			group[k] = items[i]
		}
		err := notCancelled(ctx)
		if err == nil {
			err = h.notes.do(ctx, group)
		}
		for k, i := range part {
			if errs[i] = err; err == nil {
				errs[i] = group[k].err
			}
		}
	}
	return errs
}

func notCancelled(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrNotAdmitted, context.Cause(ctx))
}

// noteGroup takes a group of notes in one transaction and gives each its outcome.
func (h *House) noteGroup(ctx context.Context, group []*noting) {
	outcomes := make([]error, len(group))
	err := h.Book.Write(ctx, func(tx Tx) error {
		clear(outcomes)
		v := newKeepingView(tx)
		if err := v.holdFor(group); err != nil {
			return err
		}
		for i, it := range group {
			refused, err := h.takeNote(v, it)
			if err != nil {
				return err
			}
			outcomes[i] = refused
		}
		return v.flush()
	})
	for i, it := range group {
		switch it.err = outcomes[i]; {
		case err != nil:
			it.err = fmt.Errorf("note on %s: %w: %w", it.note.Digest.Short(), ErrUnfinished, err)
		case it.err != nil:
			it.err = fmt.Errorf("note on %s: %w", it.note.Digest.Short(), it.err)
		}
	}
}

// holdFor reads the cycles and accounts that a group of notes is about, in the one order; what a guarantee says for good
// tells which they are.
func (v *view) holdFor(group []*noting) error {
	var cycles []CycleRef
	var accounts []AccountKey
	for _, it := range group {
		g, found, err := v.tx.GuaranteeByDigest(it.note.Digest)
		if err != nil {
			return err
		}
		if found {
			if !g.Pending() {
				cycles = append(cycles, g.Netting())
			}
			accounts = append(accounts, AccountKey{g.Signed.Claims.Payer, g.Signed.Claims.Asset})
		}
	}
	return v.hold(cycles, accounts)
}

// takeNote decides on one note. refused is a rule's word, err the store's.
func (h *House) takeNote(v *view, it *noting) (refused, err error) {
	g, found, err := v.tx.GuaranteeByDigest(it.note.Digest)
	switch {
	case err != nil:
		return nil, err
	case !found:
		return ErrNotFound, nil
	}
	if ok, err := signsFor(v.tx, it.signer, g.Signed.Claims.Payee, unix(it.now)); err != nil || !ok {
		return ErrSigner, err
	}
	if g.Note != nil && g.Note.Note == it.note.Note {
		return nil, nil
	}
	if !it.note.Amount.Less(g.Payable) {
		return fmt.Errorf("%s is payable: %w", g.Payable, ErrRaise), nil
	}
	if it.note.Amount.Less(g.Pledged) {
		return fmt.Errorf("%s of it: %w", g.Pledged, ErrPledged), nil
	}
	lowered := g
	lowered.Payable = it.note.Amount
	freed, _ := g.Locked().Sub(lowered.Locked()) // which falls with what is payable
	if !g.Pending() {                            // one that waits for its validator has no cutoff yet
		cycle, found, err := v.cycle(g.Netting())
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, fmt.Errorf("guarantee %s is of cycle %s, which is not there: %w", g.Digest, g.Netting(), ErrBroken)
		}
		if unix(it.now) >= cycle.CutoffAt || cycle.Status != Open && cycle.Status != Frozen {
			return ErrCutoff, nil
		}
	}
	payer, err := v.account(g.Signed.Claims.Payer, g.Signed.Claims.Asset)
	if err != nil {
		return nil, err
	}
	if err := payer.Balance.Void(freed); err != nil {
		return nil, fmt.Errorf("free %s of %s: %w: %w", freed, payer.Owner, ErrBroken, err)
	}
	v.changed(payer)
	g.Payable, g.Note = it.note.Amount, &it.note
	return nil, v.tx.LowerGuarantee(g.Digest, g.Payable, it.note, h.evidence(g))
}

// signsFor reports whether a key signs an owner's notes at a moment: its own key always does.
func signsFor(tx Tx, key, owner evm.Address, now uint64) (bool, error) {
	if key == owner {
		return true, nil
	}
	s, found, err := tx.Signer(owner, key)
	return found && now < s.Until, err
}
