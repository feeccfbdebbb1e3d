package desk

import (
	"context"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Book keeps settlements durably: when a method returns nil, what it did has survived a crash. Implementations are safe
// for concurrent use.
type Book interface {
	// Record keeps a settlement, which is queued, or settled for nothing. If there is one of its ID, that is returned and nothing changed, except
	// that one which failed after as many tries is replaced.
	Record(ctx context.Context, s Settlement) (got Settlement, fresh bool, err error)

	// Find returns a settlement by its ID.
	Find(ctx context.Context, id evm.Hash) (Settlement, bool, error)

	// Open returns a chain's settlements that are queued or sent.
	Open(ctx context.Context, chainID uint64) ([]Settlement, error)

	// Mined returns a chain's settlements that were settled or failed in a block numbered since or later.
	Mined(ctx context.Context, chainID, since uint64) ([]Settlement, error)

	// Send saves settlements that are sent now, and asks the outbox of the chain for the call that carries them.
	Send(ctx context.Context, chainID uint64, call evm.Call, carried []Settlement) error

	// Save replaces settlements that are there, and adds to what was spent.
	Save(ctx context.Context, changed []Settlement, spent []Spending) error

	// Spent returns what was spent on a chain on a day.
	Spent(ctx context.Context, chainID uint64, day string) ([]Spending, error)

	// Prune forgets a chain's settlements that ended before a time and whose authorizations expired before it, with the calls
	// that carried no other: at most limit, and says how many.
	Prune(ctx context.Context, chainID uint64, before time.Time, limit int) (int, error)
}

// Spending is what a payer's settlements, or a lane, cost on a day.
type Spending struct {
	ChainID uint64
	Day     string // UTC: 2006-01-02
	Account evm.Address
	Lane    bool // Account is a lane; else a payer
	Gas     uint64
	Wei     money.Amount
}

// Day names the day of a time, as [Spending] has it.
func Day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// Chain is what the desk asks a node. A call that a contract refuses is an error with a method RevertReason() string.
// [github.com/farthing402/farthing/evm/chain.Client] implements it.
type Chain interface {
	Head(ctx context.Context) (evm.BlockRef, error)
	Block(ctx context.Context, number uint64) (evm.BlockRef, error)
	Code(ctx context.Context, account evm.Address) ([]byte, error)

	// Simulate runs a call on the newest block, with its gas limit if it has one, and returns what it returned.
	Simulate(ctx context.Context, call evm.Call) ([]byte, error)

	// Estimate returns the gas that a call needs, or an error that matches [evm.ErrTooMuchGas].
	Estimate(ctx context.Context, call evm.Call) (uint64, error)

	// Receipt returns a transaction that a block holds, or nil.
	Receipt(ctx context.Context, tx evm.Hash) (*evm.TxReceipt, error)

	// Logs returns a contract's logs whose topics begin with those given, where a zero topic stands for any.
	Logs(ctx context.Context, contract evm.Address, topics []evm.Hash, first, last uint64) ([]evm.Log, error)

	// Input returns the data of a transaction.
	Input(ctx context.Context, tx evm.Hash) ([]byte, error)

	// Balance returns an account's native coin, in wei.
	Balance(ctx context.Context, account evm.Address) (money.Amount, error)

	// FeeNow returns what a unit of gas costs now, in wei.
	FeeNow(ctx context.Context) (uint64, error)

	// Relay gives somebody else's signed transaction to the node.
	Relay(ctx context.Context, raw []byte) error
}

// Lane sends the calls of one account, in order, each exactly once, out of the outbox that [Book.Send] fills.
// [github.com/farthing402/farthing/evm/chain.Sender] implements it.
type Lane interface {
	Address() evm.Address
	Step(ctx context.Context, now time.Time) error
	Find(ctx context.Context, id string) (evm.SentCall, error)
}
