package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/farthing402/farthing/evm"
)

// Outbox keeps transactions to send, what was tried, and how they ended. It is what a sender works from, and shares its
// transactions with the book: a call is asked for in the very write that makes it necessary. It is safe for concurrent
// use. A call that is not final is open; two open calls of an account on one chain never hold one nonce.
type Outbox struct {
	s     *Store
	chain uint64 // 0 where the store's calls are all of one chain
}

// Enqueue asks for a call. Asking again is no error; other content under the same ID is [evm.ErrCallConflict].
func (o *Outbox) Enqueue(ctx context.Context, call evm.Call) error {
	return o.s.write(ctx, func(s *session) error { return s.enqueueOn(o.chain, call) })
}

// Find returns a call, or [evm.ErrNoCall].
func (o *Outbox) Find(ctx context.Context, id string) (call evm.SentCall, err error) {
	err = o.s.read(ctx, func(s *session) error {
		call, err = s.call(id)
		return err
	})
	return call, err
}

// Open returns an account's open calls: those with attempts by nonce, then the others in the order they were asked for.
func (o *Outbox) Open(ctx context.Context, from evm.Address) (calls []evm.SentCall, err error) {
	err = o.s.read(ctx, func(s *session) error {
		sent, err := s.calls("WHERE chain_id = ? AND from_address = ? AND state = 'sent' ORDER BY nonce", o.chain, from[:])
		if err != nil {
			return err
		}
		queued, err := s.calls("WHERE chain_id = ? AND from_address = ? AND state = 'queued' ORDER BY seq", o.chain, from[:])
		calls = append(sent, queued...)
		return err
	})
	return calls, err
}

// Finished returns an account's finished calls whose receipt is of a block numbered since or later, in any order.
func (o *Outbox) Finished(ctx context.Context, from evm.Address, since uint64) (calls []evm.SentCall, err error) {
	err = o.s.read(ctx, func(s *session) error {
		calls, err = s.calls("WHERE chain_id = ? AND from_address = ? AND state IN ('done', 'reverted') AND receipt_block >= ?", o.chain, from[:], since)
		return err
	})
	return calls, err
}

// RecordAttempt adds an attempt to an open call, which is then sent. A nonce that another open call of the account holds
// is [evm.ErrCallConflict]. The same attempt again is no error.
func (o *Outbox) RecordAttempt(ctx context.Context, id string, a evm.Attempt) error {
	return o.s.write(ctx, func(s *session) error {
		call, err := s.heldCall(id)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(call.Attempts, func(b evm.Attempt) bool { return a.Hash == b.Hash }) {
			return nil
		}
		if call.State.Final() {
			return fmt.Errorf("record attempt of %v, which is %s: %w", call.Call, call.State, evm.ErrCallConflict)
		}
		if err := s.hold(call.Call, a.Nonce); err != nil {
			return fmt.Errorf("record attempt of %v: %w", call.Call, err)
		}
		if _, err := s.exec("INSERT INTO attempt (call_id, place, "+attemptColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
			id, len(call.Attempts), a.Hash[:], bytesOf(a.Raw), a.Nonce, a.TipWei, a.FeeWei, a.Gas, a.SentAt); err != nil {
			return fmt.Errorf("record attempt of %v: %w", call.Call, err)
		}
		return nil
	})
}

// Finish ends a call: done if the receipt says so, else reverted for the reason given. Without a receipt it never took a
// nonce, or its nonce was never spent. Finishing again overwrites.
func (o *Outbox) Finish(ctx context.Context, id string, r *evm.CallReceipt, reason string) error {
	state := evm.CallReverted
	receipt := make([]any, 6)
	if r != nil {
		receipt = []any{r.TxHash[:], r.BlockNumber, r.BlockHash[:], r.GasUsed, r.FeeWei, bit(r.OK)}
		if r.OK {
			state, reason = evm.CallDone, ""
		}
	}
	return o.s.write(ctx, func(s *session) error {
		n, err := s.exec(`UPDATE call SET state = ?, receipt_tx = ?, receipt_block = ?, receipt_block_hash = ?, receipt_gas = ?, receipt_fee = ?,
			receipt_ok = ?, err = ? WHERE id = ?`, append(append([]any{string(state)}, receipt...), reason, id)...)
		if err == nil && n == 0 {
			err = evm.ErrNoCall
		}
		if err != nil {
			return fmt.Errorf("finish call %q: %w", id, err)
		}
		return nil
	})
}

// Reopen takes a finished call whose receipt a reorganisation dropped back to sent. A call that was never sent stays as
// it is.
func (o *Outbox) Reopen(ctx context.Context, id string) error {
	return o.s.write(ctx, func(s *session) error {
		call, err := s.heldCall(id)
		if err != nil {
			return err
		}
		nonce, sent := call.Nonce()
		if !sent || !call.State.Final() {
			return nil
		}
		if err := s.hold(call.Call, nonce); err != nil {
			return fmt.Errorf("reopen %v: %w", call.Call, err)
		}
		return nil
	})
}

// Enqueue implements [clearing.Tx].
func (t *tx) Enqueue(call evm.Call) error { return t.enqueueOn(0, call) }

// CallState implements [clearing.Tx].
func (t *tx) CallState(id string) (state evm.CallState, found bool, err error) {
	found, err = t.one("SELECT state FROM call WHERE id = ?", []any{id}, &state)
	if err == nil && found {
		err = checkCallState(state)
	}
	if err != nil {
		return "", false, corrupt("call", id, err)
	}
	return state, found, nil
}

func (s *session) enqueueOn(chainID uint64, call evm.Call) error {
	n, err := s.exec(`INSERT INTO call (id, chain_id, from_address, to_address, value, data, gas_limit, state, err) VALUES (?, ?, ?, ?, ?, ?, ?, ?, '')
		ON CONFLICT DO NOTHING`,
		call.ID, chainID, call.From[:], call.To[:], call.Value[:], bytesOf(call.Data), call.GasLimit, string(evm.CallQueued))
	if err != nil {
		return fmt.Errorf("enqueue %v: %w", call, err)
	}
	if n == 1 {
		return nil
	}
	old, err := s.heldCall(call.ID) // row and attempts of one moment, though others are at it
	if err == nil && !old.Same(call) {
		err = fmt.Errorf("enqueue %v: %w", call, evm.ErrCallConflict)
	}
	return err
}

// hold makes a call sent under a nonce, which the unique index of such calls refuses to a second one.
func (s *session) hold(call evm.Call, nonce uint64) error {
	_, err := s.exec(`UPDATE call SET state = 'sent', nonce = ?, receipt_tx = NULL, receipt_block = NULL, receipt_block_hash = NULL,
		receipt_gas = NULL, receipt_fee = NULL, receipt_ok = NULL, err = '' WHERE id = ?`, nonce, call.ID)
	if err != nil && s.dialect.duplicate(err) {
		return fmt.Errorf("nonce %d is held by another open call: %w", nonce, evm.ErrCallConflict)
	}
	return err
}

const (
	callColumns = `id, from_address, to_address, value, data, gas_limit, state, nonce,
		receipt_tx, receipt_block, receipt_block_hash, receipt_gas, receipt_fee, receipt_ok, err`
	attemptColumns = "hash, raw, nonce, tip_wei, fee_wei, gas, sent_at"
)

// call returns one call with its attempts, or [evm.ErrNoCall]; heldCall, one that is to be changed.
func (s *session) call(id string) (evm.SentCall, error) { return s.callWhere("WHERE id = ?", id) }

func (s *session) heldCall(id string) (evm.SentCall, error) {
	return s.callWhere("WHERE id = ?"+s.held(), id)
}

func (s *session) callWhere(where, id string) (evm.SentCall, error) {
	calls, err := s.calls(where, id)
	switch {
	case err != nil:
		return evm.SentCall{}, err
	case len(calls) == 0:
		return evm.SentCall{}, fmt.Errorf("call %q: %w", id, evm.ErrNoCall)
	}
	return calls[0], nil
}

func (s *session) calls(where string, args ...any) (calls []evm.SentCall, err error) {
	var nonces []sql.Null[uint64]
	err = s.each("SELECT "+callColumns+" FROM call "+where, args, func(rows *sql.Rows) error {
		var c evm.SentCall
		var nonce sql.Null[uint64]
		var receipt receiptRow
		err := rows.Scan(append([]any{&c.ID, fixed(c.From[:]), fixed(c.To[:]), fixed(c.Value[:]), &c.Data, &c.GasLimit, &c.State, &nonce},
			append(receipt.dest(), &c.Err)...)...)
		if err == nil {
			c.Receipt, err = receipt.receipt()
		}
		if err != nil {
			return corrupt("call", c.ID, err)
		}
		calls, nonces = append(calls, c), append(nonces, nonce)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range calls {
		c := &calls[i]
		if err := s.attempts(c); err != nil {
			return nil, err
		}
		if err := checkCall(*c, nonces[i]); err != nil {
			return nil, corrupt("call", c.ID, err)
		}
	}
	return calls, nil
}

func (s *session) attempts(c *evm.SentCall) error {
	return s.each("SELECT "+attemptColumns+" FROM attempt WHERE call_id = ? ORDER BY place", []any{c.ID}, func(rows *sql.Rows) error {
		var a evm.Attempt
		if err := rows.Scan(fixed(a.Hash[:]), &a.Raw, &a.Nonce, &a.TipWei, &a.FeeWei, &a.Gas, &a.SentAt); err != nil {
			return corrupt("attempt", fmt.Sprintf("%s/%d", c.ID, len(c.Attempts)), err)
		}
		c.Attempts = append(c.Attempts, a)
		return nil
	})
}

// receiptRow is a receipt's columns, all null or none.
type receiptRow struct {
	tx, blockHash   []byte
	block, gas, fee sql.Null[uint64]
	ok              sql.NullInt64
}

func (r *receiptRow) dest() []any { return []any{&r.tx, &r.block, &r.blockHash, &r.gas, &r.fee, &r.ok} }

func (r *receiptRow) receipt() (*evm.CallReceipt, error) {
	if r.tx == nil && r.blockHash == nil && !r.block.Valid && !r.gas.Valid && !r.fee.Valid && !r.ok.Valid {
		return nil, nil
	}
	if !r.block.Valid || !r.gas.Valid || !r.fee.Valid {
		return nil, errors.New("receipt is incomplete")
	}
	out := &evm.CallReceipt{BlockNumber: r.block.V, GasUsed: r.gas.V, FeeWei: r.fee.V}
	err := errors.Join(fixed(out.TxHash[:]).Scan(r.tx), fixed(out.BlockHash[:]).Scan(r.blockHash), flag{&out.OK}.Scan(r.ok.Int64))
	if err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	return out, nil
}

// checkCall compares what must agree.
func checkCall(c evm.SentCall, held sql.Null[uint64]) error {
	newest, sent := c.Nonce()
	switch {
	case checkCallState(c.State) != nil:
		return checkCallState(c.State)
	case sent != held.Valid || sent && newest != held.V:
		return errors.New("nonce is not that of the newest attempt")
	case c.State == evm.CallQueued && sent, c.State == evm.CallSent && !sent:
		return fmt.Errorf("state %s with %d attempts", c.State, len(c.Attempts))
	case c.Receipt != nil && (!c.State.Final() || c.Receipt.OK != (c.State == evm.CallDone)), c.State == evm.CallDone && c.Receipt == nil:
		return fmt.Errorf("state %s is not what the receipt says", c.State)
	}
	return nil
}

func checkCallState(s evm.CallState) error {
	switch s {
	case evm.CallQueued, evm.CallSent, evm.CallDone, evm.CallReverted:
		return nil
	}
	return fmt.Errorf("state %q is none", s)
}

// bytesOf keeps no bytes apart from null.
func bytesOf(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
