package chain

import (
	"context"

	"github.com/farthing402/farthing/evm"
)

// Outbox keeps calls durably: when a method returns, what it did has survived a crash. Implementations are safe for
// concurrent use. A call is open until it is finished.
type Outbox interface {
	// Enqueue asks for a call. Asking again is no error; other content under the same ID is [evm.ErrCallConflict].
	Enqueue(ctx context.Context, call evm.Call) error

	// Find returns a call, or [evm.ErrNoCall].
	Find(ctx context.Context, id string) (evm.SentCall, error)

	// Open returns an account's open calls: those with attempts by nonce, then the others in the order they were asked for.
	Open(ctx context.Context, from evm.Address) ([]evm.SentCall, error)

	// Finished returns an account's finished calls whose receipt is of a block numbered since or later, in any order.
	Finished(ctx context.Context, from evm.Address, since uint64) ([]evm.SentCall, error)

	// RecordAttempt adds an attempt to an open call, which is then sent. A nonce that another open call of the account
	// holds is [evm.ErrCallConflict], so that two senders that share a key by mistake cannot both go on. The same attempt
	// again is no error.
	RecordAttempt(ctx context.Context, id string, attempt evm.Attempt) error

	// Finish ends a call: done if the receipt says so, else reverted for the reason given. Without a receipt it never took
	// a nonce, or its nonce was never spent. Finishing again overwrites.
	Finish(ctx context.Context, id string, receipt *evm.CallReceipt, reason string) error

	// Reopen takes a finished call whose receipt a reorganisation dropped back to sent.
	Reopen(ctx context.Context, id string) error
}
