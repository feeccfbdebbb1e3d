package purchase

import (
	"context"
	"errors"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// State is where a purchase stands: reserved → running → committed | void, with pending for an outcome that is not
// known yet. Committed and void are final.
type State string

// The states.
const (
	Reserved  State = "reserved"  // the payment is this purchase's; the handler has not started
	Running   State = "running"   // the handler has started
	Committed State = "committed" // charged; the answer is stored
	Void      State = "void"      // not charged
	Pending   State = "pending"   // whether it is paid is not known yet; never rolled back by guess
)

// Purchase is one request that is paid.
type Purchase struct {
	ID      string   // p_ and 26 base32 characters, made by the payer, or from the payment of a stock client
	Payment evm.Hash // names the payment, by value, in every spelling: one payment, one purchase
	Request evm.Hash // digest of method, URL and body: what the payment may be shown again for
	State   State

	Route, Method, URL  string
	Way                 string // way to pay: x402 scheme
	Network             string // CAIP-2
	Asset, Payer, Payee evm.Address
	Cap                 money.Amount // signed
	Charged             money.Amount // ≤ Cap; 0 unless committed
	Units               uint64       // measured
	Unit                string
	Cost                money.Amount // of fulfilling, as the seller states it; smallest units of Asset
	Downstream          money.Amount // paid by the seller to others for this purchase
	Outcome             string       // a reason code, empty for a plain sale
	Certificate         []byte       // JSON, what proves the payment
	Proof               []byte       // JSON, what the payee signed to lower or void it; empty if nothing
	ProofDone           bool         // the clearing house has Proof

	ReservedAt, RunAt, DoneAt time.Time
	Answer                    *Answer // stored when committed
}

// Answer is a stored response.
type Answer struct {
	Status int
	Header map[string][]string
	Body   []byte
	// Whole is false if the body was larger than what is kept; then only the status and header can be shown again.
	Whole bool
}

// Errors of a [Book].
var (
	// ErrTaken: the payment is another purchase's, or was used for another request. Find tells which.
	ErrTaken = errors.New("payment is reserved for another purchase")
	// ErrState: the purchase is not in a state from which this can happen; it was not changed.
	ErrState = errors.New("purchase is in another state")
)

// Book keeps purchases durably. Every change is a compare-and-swap on the state, so two gates on one book cannot both
// run one purchase. When a method returns nil, the change is on disk.
type Book interface {
	// Reserve records p as Reserved. If the payment is there already, nothing changes and the purchase that has it is
	// returned with ErrTaken.
	Reserve(ctx context.Context, p Purchase) (Purchase, error)
	// Run moves Reserved to Running.
	Run(ctx context.Context, id string, certificate []byte, at time.Time) error
	// Finish moves p.ID to p.State (Committed, Void or Pending) where [State.May] lets it, and stores
	// Charged, Units, Cost, Downstream, Outcome, Proof, DoneAt and Answer of p.
	Finish(ctx context.Context, p Purchase) error
	// Find returns the purchase of a payment, and FindID that of an id; false if there is none.
	Find(ctx context.Context, payment evm.Hash) (Purchase, bool, error)
	FindID(ctx context.Context, id string) (Purchase, bool, error)
	// Unfinished returns purchases that are Reserved, Running or Pending, oldest first.
	Unfinished(ctx context.Context) ([]Purchase, error)
	// Undelivered returns finished purchases with a Proof that the clearing house does not have, oldest first.
	Undelivered(ctx context.Context, limit int) ([]Purchase, error)
	// Delivered records that it has.
	Delivered(ctx context.Context, id string) error
	// Secret returns the book's own 32 random bytes, made on first use: what authenticates quotes across restarts.
	Secret(ctx context.Context) ([32]byte, error)
}
