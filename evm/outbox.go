package evm

import (
	"errors"
	"fmt"
	"log/slog"
)

// Errors of whoever keeps calls.
var (
	// ErrCallConflict is the error of asking for other content under a call's ID, and of recording an attempt under a nonce
	// that another open call of the account holds.
	ErrCallConflict = errors.New("call conflicts with what is recorded")
	// ErrNoCall is the error of naming a call that was never asked for.
	ErrNoCall = errors.New("no such call")
	// ErrTooMuchGas is the error of a call that needs more gas than one transaction may use.
	ErrTooMuchGas = errors.New("needs more gas than one transaction may use")
)

// Call is a transaction that somebody wants sent from an account, named so that asking twice is asking once: a call's ID
// stands for its exact content for ever.
type Call struct {
	ID       string   // chosen by the caller and kept before the call is asked for
	From     Address  // whose nonce lane it uses
	To       Address  // the zero address creates a contract with Data as its code
	Value    [32]byte // wei, big-endian
	Data     []byte
	GasLimit uint64 // 0 means estimated when sent
}

// Same reports whether two calls ask for the same transaction under the same name.
func (c Call) Same(d Call) bool {
	return c.ID == d.ID && c.From == d.From && c.To == d.To && c.Value == d.Value && c.GasLimit == d.GasLimit && string(c.Data) == string(d.Data)
}

// String names the call for logs and errors.
func (c Call) String() string { return fmt.Sprintf("call %q of %s", c.ID, c.From.Short()) }

// LogValue shows the call without its data.
func (c Call) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", c.ID), slog.Any("from", c.From), slog.Any("to", c.To), slog.Int("data_bytes", len(c.Data)))
}

// CallState says how far a call has come.
//
//	queued ─→ sent ─→ done
//	  │         └───→ reverted     (mined, but the contract refused)
//	  └────────────→ reverted      (refused before it was sent; no nonce was spent)
//
// A reorganisation takes done and reverted back to sent.
type CallState string

const (
	CallQueued   CallState = "queued"   // nothing is signed
	CallSent     CallState = "sent"     // signed under a nonce and perhaps broadcast; perhaps mined, not yet deep enough
	CallDone     CallState = "done"     // mined, successful, and as deep as was asked for
	CallReverted CallState = "reverted" // refused, in simulation or by the contract in a block as deep as was asked for
)

// Final reports whether nothing is left to do for the call unless the chain reorganises.
func (s CallState) Final() bool { return s == CallDone || s == CallReverted }

// Attempt is one signed transaction of a call. Attempts of a call share a nonce, so at most one is ever mined; only when
// another program has spent that nonce does the call go on under a new one.
type Attempt struct {
	Hash   Hash
	Raw    []byte // the signed bytes, which a restart broadcasts again
	Nonce  uint64
	TipWei uint64 // most paid per gas to the block's proposer
	FeeWei uint64 // most paid per gas in all
	Gas    uint64 // gas limit
	SentAt int64  // when it was recorded, just before its first broadcast; Unix milliseconds
}

// CallReceipt says where an attempt was mined and with what result.
type CallReceipt struct {
	TxHash      Hash
	BlockNumber uint64
	BlockHash   Hash
	GasUsed     uint64
	FeeWei      uint64 // paid per gas
	OK          bool   // false: the contract reverted
}

// SentCall is a call with everything that is recorded about it.
type SentCall struct {
	Call
	State    CallState
	Attempts []Attempt    // oldest first
	Receipt  *CallReceipt // set while done, and while reverted in a block
	Err      string       // why the call was reverted; otherwise empty
}

// Nonce returns the nonce of the newest attempt, and false for a call that has none.
func (c SentCall) Nonce() (uint64, bool) {
	if len(c.Attempts) == 0 {
		return 0, false
	}
	return c.Attempts[len(c.Attempts)-1].Nonce, true
}
