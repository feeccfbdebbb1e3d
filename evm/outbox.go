package evm

import (
	"fmt"
	"log/slog"
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
//	  │         ├───→ reverted     (mined, but the contract refused)
//	  └────────────→ reverted      (refused in simulation; no nonce was spent)
//
// A reorganisation takes done and reverted back to sent.
type CallState string

const (
	CallQueued   CallState = "queued"   // not on its way: it has no nonce, or has one and was never broadcast
	CallSent     CallState = "sent"     // signed under its nonce and perhaps broadcast; perhaps mined, not yet deep enough
	CallDone     CallState = "done"     // mined, successful, and as deep as was asked for
	CallReverted CallState = "reverted" // refused by a contract, in simulation or in a block as deep as was asked for
)

// Final reports whether nothing is left to do for the call unless the chain reorganises.
func (s CallState) Final() bool { return s == CallDone || s == CallReverted }

// Attempt is one signed transaction of a call. All attempts of a call share its nonce, so at most one is ever mined.
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
	Nonce    *uint64   // nil until one is assigned; then it never changes
	Attempts []Attempt // oldest first
	Receipt  *CallReceipt
	Err      string // why the call was reverted; otherwise empty
}
