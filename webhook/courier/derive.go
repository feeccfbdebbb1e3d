package courier

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/webhook"
)

// blocksBehind is how far the cursor may stay behind while nothing happens: moving it is a write.
const blocksBehind = 64

// afterAll is the place after every event of a block.
const afterAll = 1 << 40

// Derive makes messages of everything that the house has applied since. Doing it on several nodes at once is a waste, and
// nothing worse: each message is kept once.
func (c *Courier) Derive(ctx context.Context) error {
	for {
		more, err := c.derive(ctx)
		if err != nil || !more {
			return err
		}
	}
}

func (c *Courier) derive(ctx context.Context) (more bool, err error) {
	from, err := c.c.Book.Cursor(ctx)
	if err != nil {
		return false, err
	}
	events, tip, gone, err := c.c.Book.Events(ctx, from, pageEvents)
	if err != nil {
		return false, err
	}
	if !gone && len(events) == 0 && tip.Number < from.Block.Number+blocksBehind {
		return false, nil
	}
	d := &derivation{Courier: c, endpoints: make(map[evm.Address][]Endpoint), batch: Batch{From: from, To: from}}
	switch {
	case gone:
		return true, d.goBack(ctx)
	case len(events) == 0:
		return false, d.flush(ctx, Cursor{tip, afterAll})
	}
	endpoints, err := c.c.Book.Endpoints(ctx)
	if err != nil {
		return false, err
	}
	for _, e := range endpoints {
		d.endpoints[e.Owner] = append(d.endpoints[e.Owner], e)
	}
	for _, e := range events {
		if err := d.event(ctx, e); err != nil {
			return false, fmt.Errorf("webhooks of %s in block %d: %w", e.Kind, e.Block.Number, err)
		}
	}
	last := events[len(events)-1]
	return true, d.flush(ctx, Cursor{last.Block, last.Place + 1})
}

// derivation is one page of events on its way into messages.
type derivation struct {
	*Courier
	endpoints map[evm.Address][]Endpoint // by owner; the zero address is the operator
	batch     Batch
}

// flush writes what was gathered, and moves the cursor.
func (d *derivation) flush(ctx context.Context, to Cursor) error {
	d.batch.To, d.batch.At = to, d.c.Now()
	if err := d.c.Book.Record(ctx, d.batch); err != nil {
		return err
	}
	d.batch = Batch{From: to, To: to}
	return nil
}

// goBack tells of every event whose block the chain took back, and begins again with the oldest block that is remembered:
// what was told of blocks that stayed is passed over.
func (d *derivation) goBack(ctx context.Context) error {
	for {
		gone, err := d.c.Book.Gone(ctx, batchMessages)
		if err != nil {
			return err
		}
		if len(gone) == 0 {
			break
		}
		for _, g := range gone {
			d.batch.Voids = append(d.batch.Voids, g.ID)
			data, err := json.Marshal(webhook.Voided{Event: g.ID, Type: g.Type, Block: g.Block.Number})
			if err != nil {
				return err
			}
			d.batch.Messages = append(d.batch.Messages, Message{Key: "voided/" + g.ID, Type: webhook.EventVoided, CreatedAt: d.c.Now(), Data: data, Endpoints: g.Endpoints})
		}
		d.c.Log.Warn("webhooks told of blocks that the chain took back", "events", len(gone), "block", d.batch.From.Block.Number)
		if err := d.flush(ctx, d.batch.From); err != nil {
			return err
		}
	}
	earliest, err := d.c.Book.Earliest(ctx)
	if err != nil {
		return err
	}
	return d.flush(ctx, earliest)
}

// wants says whether an endpoint is sent events of a type that its owner may see.
func (e Endpoint) wants(t webhook.Type) bool {
	if len(e.Types) > 0 {
		return slices.Contains(e.Types, t)
	}
	return e.Owner != operator || t != webhook.GuaranteeSettled && t != webhook.GuaranteeDefaultCovered
}

// listening returns the endpoints of some owners that want a type.
func (d *derivation) listening(t webhook.Type, owners ...evm.Address) (ids []string) {
	for _, owner := range owners {
		for _, e := range d.endpoints[owner] {
			if e.wants(t) {
				ids = append(ids, e.ID)
			}
		}
	}
	return ids
}

// operator stands among owners for who runs the house.
var operator evm.Address

// owners returns who has an endpoint that wants a type.
func (d *derivation) owners(t webhook.Type) (list []evm.Address) {
	for owner := range d.endpoints {
		if len(d.listening(t, owner)) > 0 {
			list = append(list, owner)
		}
	}
	return list
}

// tell gathers a message for endpoints, and writes what is gathered when it is enough.
func (d *derivation) tell(ctx context.Context, key string, t webhook.Type, e Applied, data any, endpoints []string) error {
	if len(endpoints) == 0 {
		return nil
	}
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	d.batch.Messages = append(d.batch.Messages, Message{
		Key: d.c.Network + "/" + key, Type: t, CreatedAt: at(e.Block.Time), Data: text, Block: e.Block, Endpoints: endpoints,
	})
	if len(d.batch.Messages) < batchMessages {
		return nil
	}
	begun := time.Now()
	if err := d.flush(ctx, d.batch.From); err != nil {
		return err
	}
	// A cycle of a million guarantees is many writes, and on SQLite nobody else writes meanwhile: half of the time is theirs.
	select {
	case <-time.After(time.Since(begun)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// logKey names what one log says to a wallet.
func logKey(t webhook.Type, e Applied, wallet evm.Address) string {
	return fmt.Sprintf("%s/%s/%d/%s", t, e.TxHash, e.LogIndex, wallet.Lower())
}

func at(seconds uint64) time.Time { return time.Unix(int64(seconds), 0).UTC() }

// event makes messages of one event of the chain.
func (d *derivation) event(ctx context.Context, e Applied) error {
	if e.Ignored != "" {
		return nil
	}
	switch e.Kind {
	case clearing.Deposited:
		return d.tell(ctx, logKey(webhook.CollateralDeposited, e, e.Account), webhook.CollateralDeposited, e, webhook.Deposit{
			User: e.Account, Asset: e.Asset, Amount: e.Amount, Network: d.c.Network, Tx: e.TxHash, Block: e.Block.Number, Status: "finalized",
		}, d.listening(webhook.CollateralDeposited, e.Account, operator))
	case clearing.WithdrawalRequested, clearing.WithdrawalCanceled, clearing.Withdrawn:
		return d.withdrawal(ctx, e)
	case clearing.CycleCommitted, clearing.CycleFinalized, clearing.CycleVoided,
		clearing.DebtFilled, clearing.DebtorPaid, clearing.DebtorDefaulted, clearing.CreditorClaimed:
		var c clearing.Cycle
		var found bool
		err := d.c.House.Book.Read(ctx, func(tx clearing.Tx) (err error) { c, found, err = tx.CycleByID(e.Cycle); return err })
		if err != nil || !found {
			return err
		}
		if e.Kind == clearing.CycleCommitted || e.Kind == clearing.CycleFinalized || e.Kind == clearing.CycleVoided {
			return d.cycle(ctx, e, c)
		}
		return d.position(ctx, e, c)
	}
	return nil
}

// withdrawal remembers a request, whoever listens, since its end comes when the log of its beginning is long forgotten.
func (d *derivation) withdrawal(ctx context.Context, e Applied) error {
	w := Withdrawal{Owner: e.Account, Asset: e.Asset}
	t, status := webhook.WithdrawalRequested, "pending"
	if e.Kind == clearing.WithdrawalRequested {
		w.Amount, w.RequestedAt = e.Amount, at(e.Block.Time)
		w.AvailableAt = w.RequestedAt.Add(d.c.WithdrawalDelay)
		w.ID = evm.Keccak256(fmt.Appendf(nil, "%s/%s/%d", d.c.Network, e.TxHash, e.LogIndex))
		d.batch.Withdrawals = append(d.batch.Withdrawals, w)
	} else {
		known, err := d.requested(ctx, w)
		if err != nil {
			return err
		}
		w = known
		if t, status = webhook.WithdrawalCancelled, "cancelled"; e.Kind == clearing.Withdrawn {
			t, status, w.Amount = webhook.WithdrawalFinalized, "finalized", e.Amount
		}
	}
	data := webhook.Withdrawal{
		ID: w.ID, User: w.Owner, Asset: w.Asset, Amount: w.Amount, Network: d.c.Network,
		RequestedAt: w.RequestedAt, AvailableAt: w.AvailableAt, Tx: e.TxHash, Status: status,
	}
	if e.Kind == clearing.Withdrawn {
		data.FinalizedAt = at(e.Block.Time)
	}
	return d.tell(ctx, logKey(t, e, e.Account), t, e, data, d.listening(t, e.Account, operator))
}

// requested returns the newest request of an owner, which may be in this very page.
func (d *derivation) requested(ctx context.Context, w Withdrawal) (Withdrawal, error) {
	for _, known := range slices.Backward(d.batch.Withdrawals) {
		if known.Owner == w.Owner && known.Asset == w.Asset {
			return known, nil
		}
	}
	known, found, err := d.c.Book.Withdrawal(ctx, w.Owner, w.Asset)
	if err != nil || found {
		return known, err
	}
	return w, nil
}

// cycle tells the operator of a cycle, and each participant with its own position.
func (d *derivation) cycle(ctx context.Context, e Applied, c clearing.Cycle) error {
	t, status := webhook.CycleCommitted, "committed"
	generation := c.Generation
	switch e.Kind {
	case clearing.CycleCommitted:
		if e.Root != c.Root || e.Amount != c.Total {
			return nil // not what the house netted: the cycle has trouble, which its row tells
		}
	case clearing.CycleFinalized:
		t, status = webhook.CycleFinalized, "finalized"
	case clearing.CycleVoided:
		generation = e.Generation
		if t, status = webhook.CycleVoided, "voided"; e.On {
			status = "failed"
		}
	}
	data := webhook.Cycle{
		ID: c.Ref.ID(), Text: c.Ref.String(), Asset: c.Ref.Asset, Generation: generation, Total: c.Total, Root: c.Root, Network: d.c.Network,
		Tx: e.TxHash, Block: e.Block.Number, Status: status,
	}
	if e.Kind == clearing.CycleCommitted {
		if data.FinalAt = at(e.Time); e.Time == 0 {
			data.FinalAt = at(e.Block.Time + c.Challenge)
		}
	}
	for _, owner := range d.owners(t) {
		told := data
		if owner != operator {
			var p clearing.Position
			var found bool
			err := d.c.House.Book.Read(ctx, func(tx clearing.Tx) (err error) { p, found, err = tx.Position(c.Ref, generation, owner); return err })
			if err != nil {
				return err
			}
			if !found {
				continue
			}
			told.Net = &webhook.Net{User: owner, Role: [...]string{"debtor", "creditor", "flat"}[p.Role], Amount: p.Amount, Out: p.Out, In: p.In}
		}
		if err := d.tell(ctx, logKey(t, e, owner), t, e, told, d.listening(t, owner)); err != nil {
			return err
		}
	}
	if e.Kind != clearing.CycleFinalized {
		return nil
	}
	return d.finalized(ctx, e, c)
}

// position tells of one participant's position, and of the guarantees that this brings to their end.
func (d *derivation) position(ctx context.Context, e Applied, c clearing.Cycle) error {
	kinds := map[clearing.EventKind]struct {
		t      webhook.Type
		status string
	}{
		clearing.DebtFilled: {webhook.PositionFilled, "filled"}, clearing.DebtorPaid: {webhook.PositionPaid, "paid"},
		clearing.DebtorDefaulted: {webhook.PositionDefaulted, "defaulted"}, clearing.CreditorClaimed: {webhook.PositionClaimed, "claimed"},
	}
	k := kinds[e.Kind]
	err := d.tell(ctx, logKey(k.t, e, e.Account), k.t, e, webhook.Position{
		Cycle: c.Ref.ID(), Text: c.Ref.String(), User: e.Account, Asset: c.Ref.Asset, Amount: e.Amount, Network: d.c.Network,
		Tx: e.TxHash, Block: e.Block.Number, Status: k.status,
	}, d.listening(k.t, e.Account, operator))
	if err != nil {
		return err
	}
	switch e.Kind {
	case clearing.DebtorPaid:
		return d.guarantees(ctx, e, c, webhook.GuaranteeSettled, &e.Account, func(payer evm.Address) bool { return payer == e.Account })
	case clearing.DebtorDefaulted:
		return d.guarantees(ctx, e, c, webhook.GuaranteeDefaultCovered, &e.Account, func(payer evm.Address) bool { return payer == e.Account })
	}
	return nil
}

// finalized tells of the guarantees that are settled when a cycle is final: of payers who had nothing to pay, or chose to be
// settled from collateral. The others' are settled when they pay.
func (d *derivation) finalized(ctx context.Context, e Applied, c clearing.Cycle) error {
	owners := d.owners(webhook.GuaranteeSettled)
	if len(owners) == 0 {
		return nil
	}
	settled := make(map[evm.Address]bool)
	err := d.c.House.Book.Read(ctx, func(tx clearing.Tx) error {
		ps, err := tx.Positions(c.Ref, c.Generation)
		if err != nil {
			return err
		}
		for _, p := range ps {
			if p.Role != clearing.Debtor {
				settled[p.Participant] = true
				continue
			}
			account, err := tx.Account(p.Participant, c.Ref.Asset)
			if err != nil {
				return err
			}
			settled[p.Participant] = account.AutoSettle && !p.Flags.Defaulted
		}
		return nil
	})
	if err != nil {
		return err
	}
	has := func(payer evm.Address) bool { return settled[payer] }
	if slices.Contains(owners, operator) {
		return d.guarantees(ctx, e, c, webhook.GuaranteeSettled, nil, has)
	}
	for _, owner := range owners {
		if err := d.guarantees(ctx, e, c, webhook.GuaranteeSettled, &owner, has); err != nil {
			return err
		}
	}
	return nil
}

// guarantees tells of a cycle's guarantees of certain payers, among those in which somebody has part, or among all. While
// they are read, what is gathered is written: there may be a million.
func (d *derivation) guarantees(ctx context.Context, e Applied, c clearing.Cycle, t webhook.Type, of *evm.Address, payers func(evm.Address) bool) error {
	if len(d.owners(t)) == 0 {
		return nil
	}
	status := clearing.StatusSettled
	if t == webhook.GuaranteeDefaultCovered {
		status = clearing.StatusRemunerate
	}
	return d.c.House.Book.Read(ctx, func(tx clearing.Tx) error {
		list := tx.Guarantees(c.Ref)
		if of != nil {
			list = tx.GuaranteesOf(c.Ref, *of)
		}
		for g, err := range list {
			if err != nil {
				return err
			}
			claims := g.Signed.Claims
			if g.Payable.IsZero() || !payers(claims.Payer) {
				continue
			}
			if err := d.tell(ctx, fmt.Sprintf("%s/%s/%d", t, g.Digest, c.Generation), t, e, webhook.Guarantee{
				ID: guarantee.ID(claims, g.Cycle.Start), ReqID: claims.ReqID, Cycle: c.Ref.ID(), Version: claims.Version(),
				User: claims.Payer, Recipient: claims.Payee, Asset: claims.Asset, Amount: g.Payable, Network: d.c.Network,
				Status: string(status), SettledAt: at(e.Block.Time),
			}, d.listening(t, claims.Payer, claims.Payee, operator)); err != nil {
				return err
			}
		}
		return nil
	})
}
