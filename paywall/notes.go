package paywall

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
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

// work is the paywall's goroutine: it ends what was left behind and delivers notes, at once when poked and else now and
// then, until [Paywall.Close].
func (pw *Paywall) work(ctx context.Context) {
	defer close(pw.done)
	for {
		if err := pw.tidy(ctx); err != nil && ctx.Err() == nil {
			pw.log.Warn("housework is left for later", "error", err)
		}
		pause := time.NewTimer(housework)
		select {
		case <-pw.wake:
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

func (pw *Paywall) tidy(ctx context.Context) error {
	return errors.Join(pw.Recover(ctx), pw.deliver(ctx))
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
	return pw.deliver(ctx)
}

// Recover ends the purchases that nobody serves any more: those that a crash left running are not charged; those whose
// payment was reserved and can no longer be certified are let go; for those that wait for the payee's signature it is
// asked for again. The paywall does this by itself at start and every few seconds; Recover does it now.
func (pw *Paywall) Recover(ctx context.Context) error {
	all, err := pw.cfg.Purchases.Unfinished(ctx)
	if err != nil || len(all) == 0 {
		return err
	}
	vf, err := pw.verifierNow(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range all {
		if p.Way != guarantee.Scheme || p.Payee != pw.payee || !pw.lost(p) {
			continue
		}
		leave, _ := pw.join(p.Payment)
		if leave == nil {
			continue // it is being served here
		}
		// It may have ended between the list and the lock.
		now, ok, err := pw.cfg.Purchases.FindID(ctx, p.ID)
		if err == nil && ok && now.State == p.State {
			_, err = pw.abandon(ctx, vf, now)
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
		pw.mu.Lock()
		w := guarantee.Window{Past: guarantee.DefaultPast, Ahead: guarantee.DefaultAhead}
		if pw.verifier != nil {
			w = pw.verifier.window
		}
		pw.mu.Unlock()
		return now.Sub(p.ReservedAt) > w.Past+w.Ahead+reservedSlack
	case purchase.Pending:
		return true
	}
	return false
}

// abandon ends a lost purchase and returns it as it ended. The caller has joined its payment.
func (pw *Paywall) abandon(ctx context.Context, vf *verifier, p purchase.Purchase) (purchase.Purchase, error) {
	switch p.State {
	case purchase.Running:
		p.State, p.Charged, p.Outcome = purchase.Void, money.Amount{}, interrupted
		if pw.cfg.Signer == nil {
			p.State, p.Charged = purchase.Committed, p.Cap // charged before work, as announced
		}
	case purchase.Reserved:
		// The clearing house may have certified it without our hearing of it, so it gets a note as well.
		p.State, p.Charged, p.Outcome = purchase.Void, money.Amount{}, expired
	case purchase.Pending:
		var note guarantee.Note
		if err := json.Unmarshal(p.Proof, &note); err != nil {
			return p, x402.Errorf("internal", "purchase %s: note to be signed: %w", p.ID, err)
		}
		p.State, p.Charged = purchase.Void, note.Amount
		if !note.Amount.IsZero() {
			p.State = purchase.Committed
		}
	}
	if p.Charged.Less(p.Cap) && pw.cfg.Signer != nil {
		note, err := pw.lower(ctx, vf, p.Payment, p.Charged, p.Outcome)
		if err != nil {
			return p, err
		}
		p.Proof = note
	}
	p.DoneAt = pw.cfg.Now()
	if err := pw.cfg.Purchases.Finish(ctx, p); err != nil {
		return p, err
	}
	pw.log.Warn("purchase ended that was left behind", "purchase", p.ID, "state", p.State, "outcome", p.Outcome)
	pw.poke()
	return p, nil
}

// deliver brings notes to the clearing house until none is left or it does not answer.
func (pw *Paywall) deliver(ctx context.Context) error {
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
			if outcome != nil && !hopeless(outcome) {
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

// hopeless reports whether a note that was refused would be refused again: the clearing house finds fault with the note
// and not with itself.
func hopeless(err error) bool {
	var e *x402.Error
	return errors.As(err, &e) && e.Reason().Status < http.StatusInternalServerError
}
