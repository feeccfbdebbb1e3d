package purchase

import (
	"context"
	"errors"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// State is where a purchase stands: reserved → running → committed | void, with working for a job that was answered
// before it is done, and pending for an outcome that is not known yet. Committed and void are final.
type State string

// The states.
const (
	Reserved  State = "reserved"  // the payment is this purchase's; the handler has not started
	Running   State = "running"   // the handler has started
	Working   State = "working"   // answered 202; charged or voided later by its id
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
	Owed                money.Amount // earned so far: charged when a purchase that is not final is found paid; ≤ Cap, 0 when final
	Credit              money.Amount // part of the charge that comes from the payer's credit; ≤ Cap
	Units               uint64       // measured
	Unit                string
	Price               string       // as it was agreed, with its bounds; see [Terms]
	Cost                money.Amount // of fulfilling, as the seller states it; smallest units of Asset
	Downstream          money.Amount // paid by the seller to others for this purchase
	Outcome             string       // a reason code, empty for a plain sale
	Certificate         []byte       // JSON, what proves the payment, or what is needed to settle it
	Proof               []byte       // JSON, what the payee signed to lower or void it; empty if nothing
	ProofDone           bool         // the clearing house has Proof

	// Settling: somebody may have been asked to move the money. Until Transaction is set or [Book.NotSettled] was called
	// nobody knows whether it moved, and the purchase can neither be committed nor become void.
	Settling    bool
	Transaction evm.Hash // in which the money moved; zero if none did, or it is not known

	Bundle string // id of the bundle it draws from, which is the id of the purchase that bought it; empty without one
	Draws  uint64 // units drawn from Bundle: reserved at first, in the end what was used; 0 when void
	Buys   uint64 // units of the bundle that it buys; then Bundle is its own ID

	ReservedAt, RunAt, DoneAt time.Time
	Due                       time.Time // until when a Working purchase may be charged
	Answer                    *Answer   // stored when committed, working, or pending with the response held back
}

// DrawsOnly reports whether p is paid by a draw from a bundle that another purchase bought: no money moves for it.
func (p Purchase) DrawsOnly() bool { return p.Bundle != "" && p.Bundle != p.ID }

// Unknown reports whether somebody was asked to move the money and nobody knows yet whether it moved.
func (p Purchase) Unknown() bool { return p.Settling && p.Transaction.IsZero() }

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
	// ErrNoBundle: no bundle has so many units left, and none may be bought.
	ErrNoBundle = errors.New("no bundle has enough left")
	// ErrBuying: another purchase is buying such a bundle right now; wait for it and ask again.
	ErrBuying = errors.New("a bundle is being bought")
	// ErrNoCredit: the payer has less credit than the purchase is to take.
	ErrNoCredit = errors.New("not enough credit")
	// ErrRefunded: the purchase has a refund, and it is another one.
	ErrRefunded = errors.New("purchase is refunded already")
	// ErrTooMuch: a refund gives back more than there is to give back.
	ErrTooMuch = errors.New("more than there is to give back")
)

// Book keeps purchases durably. Every change is a compare-and-swap on the state, so two gates on one book cannot both
// run one purchase. When a method returns nil, the change is on disk.
type Book interface {
	// Reserve records p as Reserved. If the payment is there already, nothing changes and the purchase that has it is
	// returned with ErrTaken. What p.Credit says is taken from the payer's credit in the same step, or ErrNoCredit. With
	// p.Settling and a Certificate it is [Book.Settling] in the same step.
	Reserve(ctx context.Context, p Purchase) (Purchase, error)
	// ReserveCall is Reserve for a route that is sold in bundles, in one step: of the bundles of p's payer, payee, network,
	// asset, route and unit that are open, valid past p.ReservedAt and have ask.Draw units left, the one that ends first is
	// drawn from, and neither p.Settling nor p.Certificate nor p.Credit is kept, since nothing is to be settled. If there
	// is none and ask.Buy > 0, p becomes the purchase that buys one and draws from it. ErrBuying if another purchase is
	// buying one, ErrNoBundle if none may be bought; then nothing is reserved. With ask.RunAt what only draws is Running. The bundle is returned as it is afterwards,
	// also with ErrTaken if that purchase has one.
	ReserveCall(ctx context.Context, p Purchase, ask BundleAsk) (Purchase, Bundle, error)
	// Run moves Reserved to Running, unless the purchase is Unknown. A nil certificate leaves the one that is there.
	Run(ctx context.Context, id string, certificate []byte, at time.Time) error
	// Settling records, before anybody is asked to move the money, that it may move, and what is needed to settle. It can
	// be said again, of any purchase that is not final.
	Settling(ctx context.Context, id string, certificate []byte) error
	// Settled records the transaction in which the money moved, whoever sent it; another one replaces it (a transaction
	// sent again with a higher fee, or after a reorganisation). The state stays. Of a purchase that is Void it is ErrState.
	Settled(ctx context.Context, id string, transaction evm.Hash) error
	// NotSettled records that the money certainly has not moved and will not. The purchase must not be final, and the
	// bundle that it buys not open.
	NotSettled(ctx context.Context, id string) error
	// Owe records what a Running or Working purchase has earned so far, stage by stage. It never falls.
	Owe(ctx context.Context, id string, owed money.Amount) error
	// Finish moves p.ID to p.State (Working, Committed, Void or Pending) where [State.May] lets it, and stores Charged, Owed,
	// Units, Cost, Downstream, Outcome, Proof, DoneAt, Due and Draws of p, and Transaction and Answer if it has them: else
	// those that are there stay, except that the answer of a Void purchase is dropped. A purchase that is Unknown becomes
	// neither Committed nor Void, and one whose money moved does not become Void.
	//
	// In the same step what was drawn and is not used returns to the bundle, and what was taken of the credit and is not
	// charged to the credit; a bundle opens (valid from DoneAt) when the purchase that buys it is Committed, unless it is
	// open already, and vanishes when that is Void.
	Finish(ctx context.Context, p Purchase) error
	// Find returns the purchase of a payment, and FindID that of an id; false if there is none.
	Find(ctx context.Context, payment evm.Hash) (Purchase, bool, error)
	FindID(ctx context.Context, id string) (Purchase, bool, error)
	// Unfinished returns purchases that are Reserved, Running, Working or Pending, oldest first, without the bodies of their
	// answers: a thousand may wait for a slow chain.
	Unfinished(ctx context.Context) ([]Purchase, error)
	// Bought returns the newest Committed purchase that a payer made of a payee's route and that was not given back whole,
	// unless it ended before since.
	Bought(ctx context.Context, payer, payee evm.Address, route string, since time.Time) (Purchase, bool, error)
	// Captured returns the newest Committed purchases that were charged by a way, in an asset, for a payee: those that are paid
	// out of what was promised, whose Proof, if there is one, is delivered, and of which nothing is given back. It looks at the
	// newest 4096 of the book only, and leaves answers out.
	Captured(ctx context.Context, payee evm.Address, way, network string, asset evm.Address, limit int) ([]Purchase, error)
	// Undelivered returns finished purchases with a Proof that the clearing house does not have, oldest first.
	Undelivered(ctx context.Context, limit int) ([]Purchase, error)
	// Delivered records that it has.
	Delivered(ctx context.Context, id string) error

	// OpenBundle opens the bundle of the purchase that buys it, which has been paid: others may draw from it until
	// validUntil. One that is open stays as it is. ErrState if the purchase is Void or Unknown.
	OpenBundle(ctx context.Context, id string, validUntil time.Time) error
	// FindBundle returns a bundle, and Bundles all that a payer has bought from a payee, in the order in which they were
	// reserved.
	FindBundle(ctx context.Context, id string) (Bundle, bool, error)
	Bundles(ctx context.Context, payer, payee evm.Address) ([]Bundle, error)

	// Refund records that r is to be given back, once per purchase; see [Purchase.MayRefund] for what may be. What the book
	// itself can give (calls, credit) is given in the same step and the refund is Done; others are Queued. A refund that is
	// there already is returned: with nil if its kind, amount and calls are the same, else with ErrRefunded.
	Refund(ctx context.Context, r Refund) (Refund, error)
	// FinishRefund moves r.Purchase's refund to r.State, from Queued to any and from Failed to Queued or Done, and stores
	// Transaction, Reason and DoneAt of r, and Kind and Proof where [Refund.Finished] lets it. ErrState otherwise.
	FinishRefund(ctx context.Context, r Refund) error
	// FindRefund returns the refund of a purchase.
	FindRefund(ctx context.Context, purchase string) (Refund, bool, error)
	// OpenRefunds returns those that are Queued, oldest first.
	OpenRefunds(ctx context.Context) ([]Refund, error)
	// Credit returns what the payer has for its next purchases from the payee.
	Credit(ctx context.Context, payer, payee evm.Address, network string, asset evm.Address) (money.Amount, error)

	// Secret returns the book's own 32 random bytes, made on first use: what authenticates quotes across restarts.
	Secret(ctx context.Context) ([32]byte, error)
}
