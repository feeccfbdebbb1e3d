package payer

import (
	"errors"
	"fmt"
	"strings"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// Decision is an owner's answer to a [Need].
type Decision int

// The decisions.
const (
	Stop    Decision = iota // return the need as an error
	Proceed                 // go on with this purchase, once, in spite of it
)

// Need says why a purchase cannot go on, and what would help.
type Need struct {
	Code   string // of the table in package x402: budget_exceeded, no_common_option, payee_changed and so on
	Reason string // one sentence for a person
	Hint   string // what to do; may be empty

	Method, URL string
	Asked       money.Money // what the purchase may cost at most; no money if that is not known
	Available   money.Money // what there is for it: of the budget, or of collateral
	Payee       evm.Address // who asks to be paid; zero if no offer was chosen
	Ways        []Way       // ways on, best first
}

// Kind says what a [Way] is.
type Kind string

// The ways on, in the order in which they are listed.
const (
	OtherWay    Kind = "way to pay"  // another way to pay for the same resource
	Alternative Kind = "alternative" // a cheaper resource of the same seller
	Deposit     Kind = "deposit"     // more collateral, or more in the account
	Budgeting   Kind = "budget"      // a larger budget: ask its owner
	Rebuy       Kind = "rebuy"       // the same again, leaving to the seller what it does not honour
)

// Way is one way on.
type Way struct {
	Kind    Kind
	Text    string      // for a person
	Amount  money.Money // what it costs, or is missing; no money if that is not known
	URL     string      // of an alternative
	Scheme  string      // of another way to pay
	Network string
}

// NeedError is the error of a purchase that did not go on; see [Need]. errors.As also finds an [*x402.Error] in it.
type NeedError struct{ Need }

// Error implements error.
func (e *NeedError) Error() string { return e.Reason }

// Unwrap returns the error as the table knows it.
func (e *NeedError) Unwrap() error {
	hint := e.Hint
	if hint == "" && len(e.Ways) > 0 {
		texts := make([]string, len(e.Ways))
		for i, w := range e.Ways {
			texts[i] = w.Text
		}
		hint = strings.Join(texts, ", or ")
	}
	return &x402.Error{Code: e.Code, Message: e.Reason, Hint: hint}
}

// PendingError is the error of a purchase whose payment has left and whose outcome is not known. It may still be
// charged, once. [Payer.Resume] asks again with the same payment.
type PendingError struct {
	Purchase    string
	URL         string
	Transaction string // hash of the transaction that may have paid, as the seller names it; empty if none
	Pay         bool   // it is a payment by [Payer.Pay], which [Payer.ResumePay] finishes
	Err         error  // why the outcome is not known
}

// Error implements error.
func (e *PendingError) Error() string {
	if e.Transaction != "" {
		return fmt.Sprintf("transfer %s for %s was sent and is not confirmed. It may still be charged, once", e.Transaction, e.URL)
	}
	var said *x402.Error
	if errors.As(e.Err, &said) && said.Code != "settlement_pending" { // it was turned away, for now
		why := strings.TrimSuffix(said.Error(), ". "+strings.TrimSuffix(said.Reason().Money, "."))
		return fmt.Sprintf("%s is not served now and not charged so far, the seller says: %s. What was signed for it stays good, and can be charged once", e.URL, why)
	}
	return fmt.Sprintf("payment for %s was sent and is not confirmed: %v. It may still be charged, once", e.URL, e.Err)
}

// Unwrap returns the cause, and the error as the table knows it: settlement_pending.
func (e *PendingError) Unwrap() []error {
	verb := "get"
	if e.Pay {
		verb = "pay"
	}
	return []error{&x402.Error{
		Code: "settlement_pending", Message: e.Error(), Hint: "farthing " + verb + " --resume " + e.Purchase + "; do not pay again",
	}, e.Err}
}

// errJournal is the error of everything that keeps a purchase from being written down.
func errJournal(path string, err error) error {
	var coded *x402.Error
	if errors.As(err, &coded) {
		return err
	}
	return x402.Errorf("journal_unusable", "journal %s: %w", path, err)
}
