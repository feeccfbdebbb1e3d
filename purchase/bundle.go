package purchase

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Bundle is units of one route that were bought ahead by one payment. It belongs to the payer's address and is drawn
// down by its later requests until none is left or it is no longer valid.
type Bundle struct {
	ID           string // of the purchase that bought it
	Payer, Payee evm.Address
	Network      string // CAIP-2
	Asset        evm.Address
	Route        string
	Unit         string // what one of it is, as in [Purchase]
	Total        uint64
	Remaining    uint64       // neither used, nor reserved, nor given back
	Price        money.Amount // paid for all of it; what was signed until that is known
	Valid        time.Duration
	ValidUntil   time.Time // zero until it is open
	State        BundleState
}

// BundleState says whether a bundle can be drawn from.
type BundleState string

// The states of a bundle.
const (
	Buying BundleState = "buying" // reserved together with the purchase that buys it, not known to be paid
	Open   BundleState = "open"   // paid
)

// BundleAsk is what a request wants of a bundle.
type BundleAsk struct {
	Bundle string // the only one to draw from, and none is bought; empty for any
	Draw   uint64 // units that the request may use, at least 1
	Buy    uint64 // units of the bundle that its payment buys if there is none; 0: it buys none
	// Valid is how long a bundle lasts after it is paid.
	Valid time.Duration
	// Lease is how long a purchase that buys may go without [Book.Settling] before another may buy instead of waiting for
	// it: longer than a handler runs.
	Lease time.Duration
	// RunAt, if it is set, makes a purchase that only draws Running in the same step: nothing is left to be secured, and a
	// step is a flush.
	RunAt time.Time
}

// Check returns an error if no bundle can answer what is asked.
func (a BundleAsk) Check() error {
	switch {
	case a.Draw == 0:
		return errors.New("it draws nothing")
	case a.Draw > math.MaxInt64 || a.Buy > math.MaxInt64:
		return errors.New("more units than can be counted")
	case a.Bundle == "" && a.Buy > 0 && a.Buy < a.Draw:
		return fmt.Errorf("it draws %d units from a bundle of %d", a.Draw, a.Buy)
	case a.Valid < 0 || a.Lease < 0:
		return errors.New("a duration is negative")
	}
	return nil
}

// Check returns an error if members that must agree do not. A [Book] asks it before it writes and after it reads.
func (b Bundle) Check() error {
	switch {
	case b.State != Buying && b.State != Open:
		return fmt.Errorf("state %q is none", b.State)
	case b.ID == "":
		return errors.New("it has no id")
	case b.Total > math.MaxInt64:
		return errors.New("more units than can be counted")
	case b.Total < b.Remaining:
		return fmt.Errorf("%d of %d units remain", b.Remaining, b.Total)
	case (b.State == Buying) != b.ValidUntil.IsZero():
		return fmt.Errorf("it is %s and valid until %v", b.State, b.ValidUntil)
	}
	return nil
}

// Serves reports whether p may draw what it asks for from b: they are of the same payer, payee, network, asset, route and
// unit, and b is open, valid past p.ReservedAt, and has as much.
func (b Bundle) Serves(p Purchase, ask BundleAsk) bool {
	return b.matches(p) && b.State == Open && b.ValidUntil.After(p.ReservedAt) && b.Remaining >= ask.Draw &&
		(ask.Bundle == "" || ask.Bundle == b.ID)
}

func (b Bundle) matches(p Purchase) bool {
	return b.Payer == p.Payer && b.Payee == p.Payee && b.Network == p.Network && b.Asset == p.Asset && b.Route == p.Route && b.Unit == p.Unit
}

// BoughtBy reports whether b, which is being bought by buyer, is what p would have to wait for: the money may be moving,
// or the buyer's lease is not over.
func (b Bundle) BoughtBy(buyer, p Purchase, ask BundleAsk) bool {
	return b.matches(p) && b.State == Buying && (ask.Bundle == "" || ask.Bundle == b.ID) &&
		(buyer.Settling || p.ReservedAt.Sub(buyer.ReservedAt) < ask.Lease)
}

// Draw returns p as the purchase that draws from b what it asks for.
func (p Purchase) Draw(b Bundle, ask BundleAsk) Purchase {
	p.Bundle, p.Draws, p.Buys = b.ID, ask.Draw, 0
	p.Settling, p.Certificate, p.Credit = false, nil, money.Amount{}
	if !ask.RunAt.IsZero() {
		p.State, p.RunAt = Running, ask.RunAt
	}
	return p
}

// Buy returns p as the purchase that buys a bundle, and the bundle.
func (p Purchase) Buy(ask BundleAsk) (Purchase, Bundle) {
	p.Bundle, p.Draws, p.Buys = p.ID, ask.Draw, ask.Buy
	return p, Bundle{
		ID: p.ID, Payer: p.Payer, Payee: p.Payee, Network: p.Network, Asset: p.Asset, Route: p.Route, Unit: p.Unit,
		Total: ask.Buy, Remaining: ask.Buy - ask.Draw, Price: p.Cap, Valid: ask.Valid, State: Buying,
	}
}
