package desk

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Mark says how the chain shows which transaction carried an authorization out.
type Mark string

// The marks.
const (
	MarkNonce Mark = "nonce" // the token logs AuthorizationUsed with payer and nonce (EIP-3009)
	MarkData  Mark = "data"  // nothing is logged; the transaction's input holds the call's data (Permit2)
	MarkOwn   Mark = "own"   // the chain does not know the authorization: only a transaction of this desk counts
)

// Step is what has to be on the chain before a move: a call of the desk's own, or somebody else's signed transaction.
type Step struct {
	To    evm.Address  `json:"to"`
	Value money.Amount `json:"value"` // wei that the lane gives; part of what the settlement costs
	Data  []byte       `json:"data,omitempty"`
	Raw   []byte       `json:"raw,omitempty"` // signed by another; then To, Value and Data are empty
	Gas   uint64       `json:"gas,omitempty"` // the most that it may use
	Code  string       `json:"code"`          // reason code if it fails
}

// Ask is a payment to settle: what is to move, until when, and the call that moves it.
type Ask struct {
	ID      evm.Hash // names what the chain carries out at most once
	ChainID uint64
	Scheme  string // such as exact
	Asset   evm.Address
	Payer   evm.Address
	Payee   evm.Address
	Amount  money.Amount
	Nonce   evm.Hash

	ValidAfter, ValidBefore uint64 // Unix seconds, both exclusive

	Steps  []Step
	To     evm.Address // called by the desk
	Data   []byte
	GasMax uint64      // more than this is refused
	Mark   Mark        // how its transaction is known
	Shared bool        // anybody may carry it out, so it may share a transaction
	Lane   evm.Address // the only account that may carry it out; zero for any
}

// Same reports whether two asks of one ID want the same money moved. How the signature is spelled does not count.
func (a Ask) Same(b Ask) bool {
	return a.ID == b.ID && a.ChainID == b.ChainID && a.Asset == b.Asset && a.Payer == b.Payer && a.Payee == b.Payee && a.Amount == b.Amount
}

// LogValue shows who pays whom; never the call, in which there is a signature.
func (a Ask) LogValue() slog.Value {
	return slog.GroupValue(slog.Any("id", a.ID), slog.Any("payer", a.Payer), slog.Any("payee", a.Payee), slog.Any("asset", a.Asset), slog.String("units", a.Amount.String()))
}

// State says how far a settlement has come.
type State string

// The states; see the package's picture.
const (
	Queued  State = "queued"
	Sent    State = "sent"
	Settled State = "settled"
	Failed  State = "failed"
)

// Final reports whether nothing is left to do unless the chain reorganises.
func (s State) Final() bool { return s == Settled || s == Failed }

// Settlement is an ask and what became of it.
type Settlement struct {
	Ask
	State   State
	AskedAt time.Time
	Due     time.Time // sent by then
	Since   uint64    // the newest block when it was asked for
	Alone   bool      // it failed in company and is tried by itself
	Stage   int       // steps that are done
	Tries   int       // calls that carried it

	Call string      // that carries it while sent, and that carried it if the transaction was the desk's
	From evm.Address // whose call that is

	// Where the transaction that settled it, or in which it failed, was mined; zero if it failed without one.
	Tx        evm.Hash
	Block     uint64
	BlockHash evm.Hash
	Foreign   bool // another's transaction

	// Its share of what that transaction cost, and of those before it.
	Gas, GasBefore   uint64
	Cost, CostBefore money.Amount // wei, data fee included

	Code, Reason string // why it failed
	DoneAt       time.Time
}

// TotalCost returns what settling has cost so far, in wei.
func (s Settlement) TotalCost() money.Amount {
	total, ok := s.Cost.Add(s.CostBefore)
	if !ok {
		return s.Cost // no chain has that much coin
	}
	return total
}

// retriable reports whether a settlement that failed may be asked for again: nothing of it can still move money.
func (s Settlement) retriable() bool {
	return s.State == Failed && !s.Foreign && (s.Tx.IsZero() || s.Mark != MarkOwn && s.Code != codesOf(s.Scheme, s.Mark).mismatch)
}

// Check compares what must agree.
func (s Settlement) Check() error {
	mined := !s.Tx.IsZero()
	switch {
	case s.ID.IsZero() || s.ChainID == 0 || s.AskedAt.IsZero() || s.Due.Before(s.AskedAt):
		return errors.New("settlement has no name, chain or time")
	case s.Mark != MarkNonce && s.Mark != MarkData && s.Mark != MarkOwn:
		return fmt.Errorf("mark %q is none", s.Mark)
	case s.Stage < 0 || s.Stage > len(s.Steps):
		return fmt.Errorf("%d steps are done of %d", s.Stage, len(s.Steps))
	case mined != !s.BlockHash.IsZero():
		return errors.New("transaction without a block, or the other way round")
	case (s.State == Failed) != (s.Code != ""):
		return fmt.Errorf("state %s with reason %q", s.State, s.Code)
	case s.State.Final() != !s.DoneAt.IsZero():
		return fmt.Errorf("state %s, done at %v", s.State, s.DoneAt)
	}
	switch s.State {
	case Queued, Sent:
		if mined {
			return fmt.Errorf("%s, with a block", s.State)
		}
		if s.State == Sent && (s.Call == "" || s.From.IsZero()) {
			return errors.New("sent by nobody")
		}
	case Settled:
		if mined == s.Amount.IsZero() {
			return fmt.Errorf("settled %s units, with a transaction: %v", s.Amount, mined)
		}
	case Failed:
	default:
		return fmt.Errorf("state %q is none", s.State)
	}
	return nil
}

// earlier orders settlements by when they are to be sent.
func earlier(a, b Settlement) int {
	return cmp.Or(a.Due.Compare(b.Due), a.AskedAt.Compare(b.AskedAt), cmp.Compare(a.ID.String(), b.ID.String()))
}

// codes are the reasons of a way to pay for what the desk finds.
type codes struct {
	used, mismatch, failed, refused, expired, early, poor, signature string
}

func codesOf(scheme string, m Mark) codes {
	c := codes{
		used: "invalid_exact_evm_nonce_already_used", mismatch: "invalid_exact_evm_transfer_event_mismatch",
		failed: "invalid_exact_evm_transaction_failed", refused: "invalid_exact_evm_transaction_simulation_failed",
		expired: "invalid_exact_evm_payload_authorization_valid_before", early: "invalid_exact_evm_payload_authorization_valid_after",
		poor: "invalid_exact_evm_insufficient_balance", signature: "invalid_exact_evm_signature",
	}
	if m == MarkOwn {
		c.used, c.expired, c.early = "duplicate_settlement", "authorization_expired", "authorization_not_yet_valid"
	}
	if m == MarkData {
		c.expired, c.early, c.poor = "permit2_deadline_expired", "permit2_not_yet_valid", "permit2_insufficient_balance"
		c.refused, c.used, c.signature = "permit2_simulation_failed", "permit2_invalid_nonce", "invalid_permit2_signature"
		if scheme == "upto" {
			c.failed = "invalid_upto_evm_transaction_failed"
		}
	}
	return c
}
