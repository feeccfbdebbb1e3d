package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/webhook"
	"github.com/farthing402/farthing/webhook/courier"
)

// webhooks is the couriers' view. It implements [courier.Book].
type webhooks struct{ s *Store }

// Webhooks returns the couriers' view.
func (s *Store) Webhooks() courier.Book { return webhooks{s} }

const endpointColumns = "id, owner, url, types, description, status, reason, failing_since, secret, before, before_until, created_at"

// AddEndpoint implements [courier.Book]. Each endpoint takes one of its owner's slots, so that two which are added at once
// never take the last one both.
func (b webhooks) AddEndpoint(ctx context.Context, e courier.Endpoint, most int) error {
	types, err := json.Marshal(e.Types)
	if err != nil {
		return err
	}
	return b.s.write(ctx, func(s *session) error {
		taken := make(map[int]bool)
		err := s.each("SELECT slot FROM webhook_endpoint WHERE owner = ?", []any{e.Owner[:]}, func(rows *sql.Rows) error {
			var slot int
			err := rows.Scan(&slot)
			taken[slot] = true
			return err
		})
		if err != nil {
			return err
		}
		slot := 0
		for taken[slot] {
			slot++
		}
		if slot >= most {
			return courier.ErrFull
		}
		if _, err := s.exec("INSERT INTO webhook_endpoint (slot, "+endpointColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
			slot, e.ID, e.Owner[:], e.URL, string(types), e.Description, string(e.Status), e.Reason, instant{&e.FailingSince},
			e.Secret.Text(), secretText(e.Before), instant{&e.BeforeUntil}, instant{&e.CreatedAt}); err != nil {
			return fmt.Errorf("add webhook endpoint %s: %w", e.ID, err)
		}
		return nil
	})
}

func secretText(s webhook.Secret) string {
	if s.IsZero() {
		return ""
	}
	return s.Text()
}

// Endpoint implements [courier.Book].
func (b webhooks) Endpoint(ctx context.Context, owner evm.Address, id string) (e courier.Endpoint, err error) {
	err = b.s.read(ctx, func(s *session) error {
		e, err = s.endpoint(owner, id)
		return err
	})
	return e, err
}

func (s *session) endpoint(owner evm.Address, id string) (courier.Endpoint, error) {
	e, found, err := first(s.endpoints("WHERE owner = ? AND id = ?", owner[:], id))
	if err == nil && !found {
		err = courier.ErrNotFound
	}
	return e, err
}

// EndpointsOf implements [courier.Book].
func (b webhooks) EndpointsOf(ctx context.Context, owner evm.Address) (all []courier.Endpoint, err error) {
	err = b.s.read(ctx, func(s *session) error {
		all, err = s.endpoints("WHERE owner = ? ORDER BY created_at, id", owner[:])
		return err
	})
	return all, err
}

// Endpoints implements [courier.Book].
func (b webhooks) Endpoints(ctx context.Context) (all []courier.Endpoint, err error) {
	err = b.s.read(ctx, func(s *session) error {
		all, err = s.endpoints("WHERE status <> 'disabled' ORDER BY id")
		return err
	})
	return all, err
}

func (s *session) endpoints(where string, args ...any) (all []courier.Endpoint, err error) {
	err = s.each("SELECT "+endpointColumns+" FROM webhook_endpoint "+where, args, func(rows *sql.Rows) error {
		var e courier.Endpoint
		var types, secret, before string
		err := rows.Scan(&e.ID, fixed(e.Owner[:]), &e.URL, &types, &e.Description, &e.Status, &e.Reason, instant{&e.FailingSince},
			&secret, &before, instant{&e.BeforeUntil}, instant{&e.CreatedAt})
		if err == nil {
			err = json.Unmarshal([]byte(types), &e.Types)
		}
		if err == nil {
			e.Secret, err = webhook.ParseSecret(secret)
		}
		if err == nil && before != "" {
			e.Before, err = webhook.ParseSecret(before)
		}
		if err != nil {
			return corrupt("webhook_endpoint", e.ID, err)
		}
		all = append(all, e)
		return nil
	})
	return all, err
}

// ChangeEndpoint implements [courier.Book].
func (b webhooks) ChangeEndpoint(ctx context.Context, owner evm.Address, id string, change func(*courier.Endpoint) error) (e courier.Endpoint, err error) {
	err = b.s.write(ctx, func(s *session) error {
		// Writing first locks the row, where writes run side by side.
		if _, err := s.exec("UPDATE webhook_endpoint SET slot = slot WHERE owner = ? AND id = ?", owner[:], id); err != nil {
			return err
		}
		if e, err = s.endpoint(owner, id); err != nil {
			return err
		}
		if err := change(&e); err != nil {
			return err
		}
		types, err := json.Marshal(e.Types)
		if err != nil {
			return err
		}
		if _, err := s.exec(`UPDATE webhook_endpoint SET url = ?, types = ?, description = ?, status = ?, reason = ?, failing_since = ?, secret = ?,
			before = ?, before_until = ? WHERE owner = ? AND id = ?`, e.URL, string(types), e.Description, string(e.Status), e.Reason,
			instant{&e.FailingSince}, e.Secret.Text(), secretText(e.Before), instant{&e.BeforeUntil}, owner[:], id); err != nil {
			return fmt.Errorf("change webhook endpoint %s: %w", id, err)
		}
		return nil
	})
	return e, err
}

// DropEndpoint implements [courier.Book].
func (b webhooks) DropEndpoint(ctx context.Context, owner evm.Address, id string) error {
	return b.s.write(ctx, func(s *session) error {
		n, err := s.exec("DELETE FROM webhook_endpoint WHERE owner = ? AND id = ?", owner[:], id)
		if err == nil && n == 0 {
			err = courier.ErrNotFound
		}
		return err
	})
}

// afterAll is the place after every event of a block.
const afterAll = 1 << 40

// Cursor implements [courier.Book].
func (b webhooks) Cursor(ctx context.Context) (c courier.Cursor, err error) {
	var found bool
	if err = b.s.read(ctx, func(s *session) error { c, found, err = s.cursor(); return err }); err != nil || found {
		return c, err
	}
	err = b.s.write(ctx, func(s *session) error {
		tip, err := s.confirmed("DESC")
		if err != nil {
			return err
		}
		if _, err := s.exec("INSERT INTO webhook_cursor (name, number, hash, time, place) VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING",
			string(clearing.Confirmed), tip.Number, tip.Hash[:], tip.Time, afterAll); err != nil {
			return err
		}
		c, _, err = s.cursor()
		return err
	})
	return c, err
}

func (s *session) cursor() (c courier.Cursor, found bool, err error) {
	found, err = s.one("SELECT number, hash, time, place FROM webhook_cursor", nil, &c.Block.Number, fixed(c.Block.Hash[:]), &c.Block.Time, &c.Place)
	if err != nil {
		return c, false, corrupt("webhook_cursor", clearing.Confirmed, err)
	}
	return c, found, nil
}

// confirmed returns the block at one end of the confirmed stream, a zero one if it has none.
func (s *session) confirmed(order string) (b clearing.Block, err error) {
	_, err = s.one("SELECT number, hash, time FROM block WHERE stream = ? ORDER BY number "+order+" LIMIT 1",
		[]any{string(clearing.Confirmed)}, &b.Number, fixed(b.Hash[:]), &b.Time)
	if err != nil {
		return b, corrupt("block", blockKey(clearing.Confirmed, b.Number), err)
	}
	return b, nil
}

// Events implements [courier.Book].
func (b webhooks) Events(ctx context.Context, after courier.Cursor, limit int) (events []courier.Applied, tip clearing.Block, gone bool, err error) {
	err = b.s.read(ctx, func(s *session) error {
		if tip, err = s.confirmed("DESC"); err != nil {
			return err
		}
		if at := after.Block; !at.Hash.IsZero() {
			var one int
			found, err := s.one("SELECT 1 FROM block WHERE stream = ? AND number = ? AND hash = ?", []any{string(clearing.Confirmed), at.Number, at.Hash[:]}, &one)
			if gone = !found; err != nil || gone {
				return err
			}
		}
		const query = "SELECT block_hash, block_time, number, place, " + eventColumns + ` FROM event
			JOIN (SELECT number AS block_number, hash AS block_hash, time AS block_time FROM block WHERE stream = ?) b ON block_number = number
			WHERE stream = ? AND (number > ? OR number = ? AND place >= ?) ORDER BY number, place LIMIT ?`
		at := after.Block.Number
		return s.each(query, []any{string(clearing.Confirmed), string(clearing.Confirmed), at, at, after.Place, limit}, func(rows *sql.Rows) error {
			var a courier.Applied
			if err := scanEvent(rows, &a.Event, fixed(a.Block.Hash[:]), &a.Block.Time, &a.Block.Number, &a.Place); err != nil {
				return corrupt("event", fmt.Sprintf("%s/%d", blockKey(clearing.Confirmed, a.Block.Number), a.Place), err)
			}
			events = append(events, a)
			return nil
		})
	})
	return events, tip, gone, err
}

// Gone implements [courier.Book].
func (b webhooks) Gone(ctx context.Context, limit int) (all []courier.Gone, err error) {
	err = b.s.read(ctx, func(s *session) error {
		oldest, err := s.confirmed("ASC")
		if err != nil {
			return err
		}
		err = s.each(`SELECT id, type, block_number, block_hash FROM webhook_event w WHERE block_hash IS NOT NULL AND voided = 0 AND block_number >= ?
			AND NOT EXISTS (SELECT 1 FROM block b WHERE b.stream = ? AND b.number = w.block_number AND b.hash = w.block_hash) ORDER BY block_number, id LIMIT ?`,
			[]any{oldest.Number, string(clearing.Confirmed), limit}, func(rows *sql.Rows) error {
				var g courier.Gone
				err := rows.Scan(&g.ID, &g.Type, &g.Block.Number, fixed(g.Block.Hash[:]))
				all = append(all, g)
				return err
			})
		for i := range all {
			if err == nil {
				err = s.each("SELECT endpoint FROM webhook_delivery WHERE event = ? ORDER BY endpoint", []any{all[i].ID}, func(rows *sql.Rows) error {
					var id string
					err := rows.Scan(&id)
					all[i].Endpoints = append(all[i].Endpoints, id)
					return err
				})
			}
		}
		return err
	})
	return all, err
}

// Earliest implements [courier.Book].
func (b webhooks) Earliest(ctx context.Context) (c courier.Cursor, err error) {
	err = b.s.read(ctx, func(s *session) error { c.Block, err = s.confirmed("ASC"); return err })
	return c, err
}

// Record implements [courier.Book].
func (b webhooks) Record(ctx context.Context, batch courier.Batch) error {
	return b.s.write(ctx, func(s *session) error {
		from, to := batch.From, batch.To
		n, err := s.exec("UPDATE webhook_cursor SET number = ?, hash = ?, time = ?, place = ? WHERE number = ? AND hash = ? AND place = ?",
			to.Block.Number, to.Block.Hash[:], to.Block.Time, to.Place, from.Block.Number, from.Block.Hash[:], from.Place)
		if err == nil && n == 0 {
			err = courier.ErrMoved
		}
		if err != nil {
			return err
		}
		for _, id := range batch.Voids {
			_, err1 := s.exec("UPDATE webhook_event SET voided = 1 WHERE id = ?", id)
			_, err2 := s.exec("UPDATE webhook_delivery SET state = 'dropped', claim = '' WHERE event = ? AND state IN ('pending', 'sending')", id)
			if err := errors.Join(err1, err2); err != nil {
				return fmt.Errorf("void webhook %s: %w", id, err)
			}
		}
		for _, w := range batch.Withdrawals {
			if _, err := s.exec(`INSERT INTO webhook_withdrawal (owner, asset, id, amount, requested_at, available_at) VALUES (?, ?, ?, ?, ?, ?)
				ON CONFLICT (owner, asset) DO UPDATE SET id = excluded.id, amount = excluded.amount, requested_at = excluded.requested_at, available_at = excluded.available_at`,
				w.Owner[:], w.Asset[:], w.ID[:], w.Amount, instant{&w.RequestedAt}, instant{&w.AvailableAt}); err != nil {
				return fmt.Errorf("remember withdrawal of %s: %w", w.Owner, err)
			}
		}
		for _, m := range batch.Messages {
			if err := s.message(m, batch.At); err != nil {
				return err
			}
		}
		return nil
	})
}

// Send implements [courier.Book].
func (b webhooks) Send(ctx context.Context, m courier.Message, at time.Time) error {
	return b.s.write(ctx, func(s *session) error { return s.message(m, at) })
}

// message writes a message and its deliveries, unless it is there and holds.
func (s *session) message(m courier.Message, at time.Time) error {
	for round := 0; ; round++ {
		event := m.Event(round)
		var voided bool
		found, err := s.one("SELECT voided FROM webhook_event WHERE id = ?", []any{event.ID}, flag{&voided})
		if err != nil || found && !voided {
			return err
		}
		if found {
			continue
		}
		body, err := json.Marshal(event)
		if err != nil {
			return err
		}
		var hash []byte
		if !m.Block.Hash.IsZero() {
			hash = m.Block.Hash[:]
		}
		if _, err := s.exec("INSERT INTO webhook_event (id, type, body, block_number, block_hash, voided, created_at) VALUES (?, ?, ?, ?, ?, 0, ?)",
			event.ID, string(m.Type), body, m.Block.Number, hash, instant{&at}); err != nil {
			return fmt.Errorf("write webhook %s: %w", event.ID, err)
		}
		for _, endpoint := range m.Endpoints { // one that is gone by now is passed over
			if _, err := s.exec(`INSERT INTO webhook_delivery (endpoint, event, state, tries, since, due_at, claim, created_at)
				SELECT id, ?, 'pending', 0, ?, ?, '', ? FROM webhook_endpoint WHERE id = ?`, event.ID, instant{&at}, instant{&at}, instant{&at}, endpoint); err != nil {
				return fmt.Errorf("write webhook %s for %s: %w", event.ID, endpoint, err)
			}
		}
		return nil
	}
}

// Withdrawal implements [courier.Book].
func (b webhooks) Withdrawal(ctx context.Context, owner, asset evm.Address) (w courier.Withdrawal, found bool, err error) {
	err = b.s.read(ctx, func(s *session) error {
		w = courier.Withdrawal{Owner: owner, Asset: asset}
		found, err = s.one("SELECT id, amount, requested_at, available_at FROM webhook_withdrawal WHERE owner = ? AND asset = ?", []any{owner[:], asset[:]},
			fixed(w.ID[:]), &w.Amount, instant{&w.RequestedAt}, instant{&w.AvailableAt})
		if err != nil {
			err = corrupt("webhook_withdrawal", owner, err)
		}
		return err
	})
	return w, found, err
}

// Claim implements [courier.Book]. Looking costs a read; only what is due is written.
func (b webhooks) Claim(ctx context.Context, node string, now, until time.Time, most, perEndpoint int) (jobs []courier.Job, err error) {
	if most <= 0 {
		return nil, nil
	}
	type row struct {
		job   courier.Job
		state courier.State
		due   time.Time
	}
	var due []row
	err = b.s.read(ctx, func(s *session) error {
		ends, err := s.endpoints(`e WHERE status <> 'disabled' AND (
			EXISTS (SELECT 1 FROM webhook_delivery d WHERE d.endpoint = e.id AND d.state = 'pending' AND d.due_at <= ?) OR
			EXISTS (SELECT 1 FROM webhook_delivery d WHERE d.endpoint = e.id AND d.state = 'sending' AND d.due_at <= ?)) ORDER BY id`, instant{&now}, instant{&now})
		if err != nil || len(ends) == 0 {
			return err
		}
		begin := int(now.UnixNano() % int64(len(ends))) // with more than can be sent at once, everybody is first at some time
		for i := range ends {
			e := ends[(begin+i)%len(ends)]
			share := perEndpoint
			if e.Status == courier.Failing {
				share = 1
			}
			var busy int
			if _, err := s.one("SELECT COUNT(*) FROM webhook_delivery WHERE endpoint = ? AND state = 'sending' AND due_at > ?", []any{e.ID, instant{&now}}, &busy); err != nil {
				return err
			}
			share = min(share-busy, most-len(due))
			if share <= 0 {
				continue
			}
			err := s.each(`SELECT d.event, w.body, d.tries, d.since, d.state, d.due_at FROM webhook_delivery d JOIN webhook_event w ON w.id = d.event
				WHERE d.endpoint = ? AND d.state IN ('pending', 'sending') AND d.due_at <= ? ORDER BY d.due_at LIMIT ?`, []any{e.ID, instant{&now}, share}, func(rows *sql.Rows) error {
				r := row{job: courier.Job{Endpoint: e}}
				err := rows.Scan(&r.job.Event, &r.job.Body, &r.job.Tries, instant{&r.job.Since}, &r.state, instant{&r.due})
				due = append(due, r)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || len(due) == 0 {
		return nil, err
	}
	err = b.s.write(ctx, func(s *session) error {
		jobs = nil
		for _, r := range due {
			r.job.Claim = fmt.Sprintf("%s/%d", node, until.UnixNano())
			n, err := s.exec("UPDATE webhook_delivery SET state = 'sending', due_at = ?, claim = ? WHERE endpoint = ? AND event = ? AND state = ? AND due_at = ?",
				instant{&until}, r.job.Claim, r.job.Endpoint.ID, r.job.Event, string(r.state), instant{&r.due})
			if err != nil {
				return fmt.Errorf("claim webhook %s: %w", r.job.Event, err)
			}
			if n == 1 { // else another node was faster
				jobs = append(jobs, r.job)
			}
		}
		return nil
	})
	return jobs, err
}

// Report implements [courier.Book].
func (b webhooks) Report(ctx context.Context, o courier.Outcome) error {
	id, event := o.Job.Endpoint.ID, o.Job.Event
	return b.s.write(ctx, func(s *session) error {
		due := o.DueAt
		if due.IsZero() {
			due = o.Attempt.At
		}
		n, err := s.exec("UPDATE webhook_delivery SET state = ?, tries = tries + 1, due_at = ?, claim = '' WHERE endpoint = ? AND event = ? AND state = 'sending' AND claim = ?",
			string(o.State), instant{&due}, id, event, o.Job.Claim)
		if err != nil || n == 0 {
			return err
		}
		var place int
		if _, err := s.one("SELECT COUNT(*) FROM webhook_attempt WHERE endpoint = ? AND event = ?", []any{id, event}, &place); err != nil {
			return err
		}
		a := o.Attempt
		if _, err := s.exec("INSERT INTO webhook_attempt (endpoint, event, place, at, elapsed, status, trouble) VALUES (?, ?, ?, ?, ?, ?, ?)",
			id, event, place, instant{&a.At}, a.Elapsed, a.Status, a.Trouble); err != nil {
			return fmt.Errorf("record attempt of webhook %s: %w", event, err)
		}
		if o.Status == "" {
			return nil
		}
		// What its owner has made of it meanwhile stays.
		_, err = s.exec("UPDATE webhook_endpoint SET status = ?, reason = ?, failing_since = ? WHERE id = ? AND status = ?",
			string(o.Status), o.Reason, instant{&o.FailingSince}, id, string(o.Job.Endpoint.Status))
		return err
	})
}

const deliveryColumns = "d.event, w.type, d.state, d.tries, d.created_at, d.due_at, w.body"

// Deliveries implements [courier.Book].
func (b webhooks) Deliveries(ctx context.Context, endpoint string, state courier.State, before string, limit int) (all []courier.Delivery, err error) {
	err = b.s.read(ctx, func(s *session) error {
		where, args := "WHERE d.endpoint = ?", []any{endpoint}
		if state != "" {
			where, args = where+" AND d.state = ?", append(args, string(state))
		}
		if before != "" {
			last, err := s.delivery(endpoint, before)
			if err != nil {
				return err
			}
			where, args = where+" AND (d.created_at, d.event) < (?, ?)", append(args, instant{&last.CreatedAt}, before)
		}
		all, err = s.deliveries(where+" ORDER BY d.created_at DESC, d.event DESC LIMIT ?", append(args, limit)...)
		return err
	})
	return all, err
}

// Delivery implements [courier.Book].
func (b webhooks) Delivery(ctx context.Context, endpoint, event string) (d courier.Delivery, err error) {
	err = b.s.read(ctx, func(s *session) error { d, err = s.delivery(endpoint, event); return err })
	return d, err
}

func (s *session) delivery(endpoint, event string) (courier.Delivery, error) {
	d, found, err := first(s.deliveries("WHERE d.endpoint = ? AND d.event = ?", endpoint, event))
	if err == nil && !found {
		err = courier.ErrNotFound
	}
	if err != nil {
		return d, err
	}
	return d, s.each("SELECT at, elapsed, status, trouble FROM webhook_attempt WHERE endpoint = ? AND event = ? ORDER BY place", []any{endpoint, event}, func(rows *sql.Rows) error {
		var a courier.Attempt
		err := rows.Scan(instant{&a.At}, &a.Elapsed, &a.Status, &a.Trouble)
		d.Attempts = append(d.Attempts, a)
		return err
	})
}

func (s *session) deliveries(where string, args ...any) (all []courier.Delivery, err error) {
	err = s.each("SELECT "+deliveryColumns+" FROM webhook_delivery d JOIN webhook_event w ON w.id = d.event "+where, args, func(rows *sql.Rows) error {
		var d courier.Delivery
		err := rows.Scan(&d.Event, &d.Type, &d.State, &d.Tries, instant{&d.CreatedAt}, instant{&d.DueAt}, (*[]byte)(&d.Body))
		if err != nil {
			return corrupt("webhook_delivery", d.Event, err)
		}
		if d.State != courier.Pending {
			d.DueAt = time.Time{}
		}
		all = append(all, d)
		return nil
	})
	return all, err
}

// Redeliver implements [courier.Book].
func (b webhooks) Redeliver(ctx context.Context, endpoint, event string, now time.Time) (d courier.Delivery, err error) {
	err = b.s.write(ctx, func(s *session) error {
		if _, err := s.exec(`UPDATE webhook_delivery SET state = 'pending', since = ?, due_at = ?, claim = '', tries = 0
			WHERE endpoint = ? AND event = ? AND state IN ('delivered', 'failed', 'pending')`, instant{&now}, instant{&now}, endpoint, event); err != nil {
			return fmt.Errorf("deliver webhook %s again: %w", event, err)
		}
		d, err = s.delivery(endpoint, event)
		return err
	})
	return d, err
}

// Prune implements [courier.Book].
func (b webhooks) Prune(ctx context.Context, before time.Time, limit int) (n int, err error) {
	err = b.s.write(ctx, func(s *session) error {
		type name struct{ endpoint, event string }
		var old []name
		err := s.each("SELECT endpoint, event FROM webhook_delivery WHERE created_at < ? ORDER BY created_at LIMIT ?", []any{instant{&before}, limit}, func(rows *sql.Rows) error {
			var d name
			err := rows.Scan(&d.endpoint, &d.event)
			old = append(old, d)
			return err
		})
		for _, d := range old {
			if err == nil {
				_, err = s.exec("DELETE FROM webhook_attempt WHERE endpoint = ? AND event = ?", d.endpoint, d.event)
			}
			if err == nil {
				_, err = s.exec("DELETE FROM webhook_delivery WHERE endpoint = ? AND event = ?", d.endpoint, d.event)
			}
		}
		if err == nil {
			_, err = s.exec(`DELETE FROM webhook_event WHERE id IN (SELECT id FROM webhook_event w WHERE created_at < ?
				AND NOT EXISTS (SELECT 1 FROM webhook_delivery d WHERE d.event = w.id) ORDER BY created_at LIMIT ?)`, instant{&before}, limit)
		}
		n = len(old)
		return err
	})
	return n, err
}
