package paywall

import (
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
)

// EventKind says how a request to a priced route ended.
type EventKind string

// The kinds of event.
const (
	Paid       EventKind = "paid"        // served and charged
	NotCharged EventKind = "not charged" // served or tried, and let go
	Refused    EventKind = "refused"     // not served
	Replayed   EventKind = "replayed"    // the stored answer, not charged again
	Unknown    EventKind = "unknown"     // served, and whether it is charged could not be written down yet
)

// Event is one request to a priced route, for a log or a screen.
type Event struct {
	At      time.Time // when the request came
	Elapsed time.Duration
	Kind    EventKind
	Code    string // reason code, empty for a plain sale
	Message string // for people; may be empty

	Method, Path, Route string
	UserAgent           string
	Status              int // of the answer; 0 if it never began

	Way      string // guarantee
	Payment  evm.Hash
	Purchase string
	Payer    evm.Address
	Charged  money.Amount // in smallest units of Asset
	Cap      money.Amount // signed
	Asset    network.Token
}

// Price returns what was charged as people read it: $0.0005.
func (e Event) Price() string { return show(e.Charged, e.Asset) }
