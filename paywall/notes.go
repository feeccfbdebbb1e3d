package paywall

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

const (
	// notesAtOnce is how many notes travel in one call.
	notesAtOnce = 256
	// housework is how often the book is looked through for what nobody asks about.
	housework = 10 * time.Second
	// reservedSlack is added to the time in which a reserved payment can still be certified.
	reservedSlack = time.Minute
)

// work is the paywall's goroutine: it delivers notes, at once when poked and else now and then, and beside that ends what was
// left behind, so that a facilitator that hangs keeps no note past its cutoff. It returns after [Paywall.Close].
func (pw *Paywall) work(ctx context.Context) {
	defer close(pw.done)
	var all sync.WaitGroup
	all.Go(func() { pw.keepHouse(ctx, pw.wake, pw.Deliver) })
	all.Go(func() {
		pw.keepHouse(ctx, nil, func(ctx context.Context) error { return errors.Join(pw.Recover(ctx), pw.giveQueued(ctx)) })
	})
	all.Wait()
}

// keepHouse does something now, and again every few seconds and whenever it is woken.
func (pw *Paywall) keepHouse(ctx context.Context, wake <-chan struct{}, tidy func(context.Context) error) {
	for said := ""; ; {
		text := ""
		if err := tidy(ctx); err != nil {
			text = err.Error()
		}
		if text != said && text != "" && ctx.Err() == nil {
			pw.log.Warn("housework is left for later", "error", text)
		}
		said = text
		pause := time.NewTimer(housework)
		select {
		case <-wake:
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
		pause.Stop()
	}
}

func (pw *Paywall) poke() {
	select {
	case pw.wake <- struct{}{}:
	default:
	}
}

// Close ends the paywall's goroutine and delivers the notes that are left, as far as ctx allows. What is not delivered is
// delivered when a paywall is next made on the same book. Requests may still be served, but nothing is delivered for them.
func (pw *Paywall) Close(ctx context.Context) error {
	pw.stop()
	select {
	case <-pw.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	return pw.Deliver(ctx)
}

// Recover does what is left to do for purchases that nobody serves any more: those that a crash left running are not
// charged, unless they were paid before the work; those whose payment was reserved and can no longer be secured are let go;
// for those of which it is not known whether they are paid that is found out; jobs that are overdue are let go. The paywall
// does this by itself at start and every few seconds; Recover does it now.
func (pw *Paywall) Recover(ctx context.Context) error {
	all, err := pw.cfg.Purchases.Unfinished(ctx)
	if err != nil || len(all) == 0 {
		return err
	}
	var errs []error
	for _, p := range all {
		w, known := pw.wayOf(p)
		if !known || p.Payee != pw.payee || !pw.lost(p) {
			continue
		}
		leave, _ := pw.join(p.Payment)
		if leave == nil {
			continue // it is being served here
		}
		// It may have ended between the list and the lock.
		now, ok, err := pw.cfg.Purchases.FindID(ctx, p.ID)
		if err == nil && ok && now.State == p.State {
			if now, err = w.recover(ctx, now); err == nil && now.State != p.State {
				pw.log.Warn("purchase ended that was left behind", "purchase", now.ID, "state", now.State, "outcome", now.Outcome)
			}
		}
		leave()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// lost reports whether an unfinished purchase that this process does not serve is served by nobody.
func (pw *Paywall) lost(p purchase.Purchase) bool {
	now := pw.cfg.Now()
	switch p.State {
	case purchase.Running:
		return pw.cfg.Abandoned == 0 || now.Sub(p.RunAt) > pw.cfg.Abandoned
	case purchase.Reserved:
		if p.Settling {
			// Money may have moved. Once it is known to have, the purchase waits for its buyer.
			return p.Transaction.IsZero() && (pw.cfg.Abandoned == 0 || now.Sub(p.ReservedAt) > pw.cfg.Abandoned)
		}
		w := guarantee.Window{Past: guarantee.DefaultPast, Ahead: guarantee.DefaultAhead}
		if vf := pw.verifierKnown(); vf != nil {
			w = vf.window
		}
		return now.Sub(p.ReservedAt) > w.Past+w.Ahead+reservedSlack
	case purchase.Working:
		return !now.Before(p.Due)
	case purchase.Pending:
		return !pw.beingAsked(p.DoneAt)
	}
	return false
}

// beingAsked reports whether another gate on the book may be asking for money to be moved, as it may have begun to at a
// time. Two that ask at once may both be told what is true of the other's transaction only.
func (pw *Paywall) beingAsked(since time.Time) bool {
	return pw.cfg.Abandoned > 0 && pw.cfg.Now().Sub(since) < askedFor
}

// askedFor is longer than one gate asks.
const askedFor = x402.DefaultTimeout + 30*time.Second

// Deliver brings notes to the clearing house until none is left or it does not answer. The paywall does this by itself as
// soon as there is one; Deliver does it now.
func (pw *Paywall) Deliver(ctx context.Context) error {
	if pw.house == nil {
		return nil
	}
	for {
		batch, err := pw.cfg.Purchases.Undelivered(ctx, notesAtOnce)
		if err != nil || len(batch) == 0 {
			return err
		}
		notes := make([]guarantee.SignedNote, len(batch))
		for i, p := range batch {
			if err := json.Unmarshal(p.Proof, &notes[i]); err != nil {
				return x402.Errorf("internal", "purchase %s: stored note: %w", p.ID, err)
			}
		}
		outcomes, err := pw.house.Notes(ctx, notes)
		if err != nil {
			return err
		}
		if len(outcomes) != len(batch) {
			return x402.Errorf("house_refused", "%d notes were answered with %d results", len(batch), len(outcomes))
		}
		var later error
		for i, outcome := range outcomes {
			p := batch[i]
			if tooLate(outcome) && !pw.named() {
				if err := pw.returnLate(ctx, p, notes[i]); err != nil {
					later = err
					continue
				}
				outcome = nil
			}
			if outcome != nil && !pw.hopeless(p, outcome) {
				later = outcome
				continue
			}
			if outcome != nil {
				// Who never was certified has nothing to let go. For anyone else the payer is owed something, and a person
				// has to see to it.
				if p.Outcome == expired {
					pw.log.Debug("clearing house has no use for a note", "purchase", p.ID, "error", outcome)
				} else {
					pw.log.Error("clearing house refuses a note: the payer is charged too much", "purchase", p.ID, "error", outcome)
				}
			}
			if err := pw.cfg.Purchases.Delivered(ctx, p.ID); err != nil {
				return err
			}
		}
		if later != nil {
			return later
		}
	}
}

// hopeless reports whether a note of a purchase that was refused would be refused again: the clearing house finds fault
// with the note and not with itself. A key that the payee has not named it may still name before the cutoff.
func (pw *Paywall) hopeless(p purchase.Purchase, err error) bool {
	var e *x402.Error
	if !errors.As(err, &e) || e.Reason().Status >= http.StatusInternalServerError {
		return false
	}
	last, known := guarantees{pw}.lastNote(p)
	return e.Code != "note_signer" || known && pw.cfg.Now().After(last)
}
