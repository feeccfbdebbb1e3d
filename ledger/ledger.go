// Package ledger is double entry and nothing else: accounts with pending and posted sides, and transfers that move an
// amount from one account to another. It knows no guarantee, no cycle and no clock; package clearing says what the
// entries mean.
//
// Most callers want [Balance] and [Transfer].
package ledger

import (
	"errors"
	"fmt"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Errors of the changes to a [Balance]. None of them changes it.
var (
	ErrOverflow     = errors.New("sum passes 256 bits")
	ErrInsufficient = errors.New("not enough available")
	ErrPending      = errors.New("more than is pending")
	ErrNotPosted    = errors.New("more than was posted")
)

// Kind says what an account stands for.
type Kind string

// The kinds of account. Per asset, the balances of all of them always sum to zero.
const (
	World      Kind = "world"      // everything outside the vault: the other side of a deposit or a payment out
	Collateral Kind = "collateral" // what an owner has deposited, less what was taken
	Pot        Kind = "pot"        // a committed cycle's net debits, until its creditors collect
	Bond       Kind = "bond"       // the operator's, same asset
)

// Account names an account. Owner is set for [Collateral], Cycle for [Pot]; the other members are zero.
type Account struct {
	Kind  Kind
	Asset evm.Address
	Owner evm.Address
	Cycle evm.Hash
}

// Balance is one account's four sums, in the asset's smallest units. They only grow, but for the pending ones, which
// fall when a pending amount is voided, and when a transfer is taken back. Changes are made on the caller's copy;
// nothing here is safe for concurrent use.
type Balance struct {
	DebitsPending, DebitsPosted   money.Amount
	CreditsPending, CreditsPosted money.Amount
}

// Available is what can still be reserved: credits posted less debits posted and pending; zero if debits are larger,
// which a lost deposit or an over-issue can bring about.
func (b Balance) Available() money.Amount {
	used, ok := b.DebitsPosted.Add(b.DebitsPending)
	if !ok {
		return money.Amount{}
	}
	free, ok := b.CreditsPosted.Sub(used)
	if !ok {
		return money.Amount{}
	}
	return free
}

// Reserve makes amount a pending debit. held is what must stay untouched besides, a requested withdrawal for instance.
func (b *Balance) Reserve(amount, held money.Amount) error {
	need, ok := amount.Add(held)
	if !ok {
		return ErrOverflow
	}
	if b.Available().Less(need) {
		return ErrInsufficient
	}
	b.DebitsPending, _ = b.DebitsPending.Add(amount) // at most CreditsPosted
	return nil
}

// ReserveAnyway makes amount a pending debit whatever is available: an obligation that came back with a reorg stands
// even if the collateral behind it did not.
func (b *Balance) ReserveAnyway(amount money.Amount) error {
	sum, ok := b.DebitsPending.Add(amount)
	if !ok {
		return ErrOverflow
	}
	b.DebitsPending = sum
	return nil
}

// Void takes amount back from the pending debits.
func (b *Balance) Void(amount money.Amount) error {
	rest, ok := b.DebitsPending.Sub(amount)
	if !ok {
		return ErrPending
	}
	b.DebitsPending = rest
	return nil
}

// Transfer moves Amount from Debit to Credit for good. ID is unique: a transfer is applied once.
type Transfer struct {
	ID     string
	Debit  Account
	Credit Account
	Amount money.Amount
}

// Apply posts t on the balances of its two accounts. They may not be the same account or differ in asset.
func (t Transfer) Apply(debit, credit *Balance) error {
	if t.Debit == t.Credit || t.Debit.Asset != t.Credit.Asset {
		return fmt.Errorf("transfer %s: accounts must differ and share the asset", t.ID)
	}
	d, okD := debit.DebitsPosted.Add(t.Amount)
	c, okC := credit.CreditsPosted.Add(t.Amount)
	if !okD || !okC {
		return fmt.Errorf("transfer %s: %w", t.ID, ErrOverflow)
	}
	debit.DebitsPosted, credit.CreditsPosted = d, c
	return nil
}

// Unapply takes back what Apply posted, exactly, when the block that caused t turned out not to be. It is no transfer
// the other way: t has not happened.
func (t Transfer) Unapply(debit, credit *Balance) error {
	d, okD := debit.DebitsPosted.Sub(t.Amount)
	c, okC := credit.CreditsPosted.Sub(t.Amount)
	if !okD || !okC {
		return fmt.Errorf("transfer %s: %w", t.ID, ErrNotPosted)
	}
	debit.DebitsPosted, credit.CreditsPosted = d, c
	return nil
}

// Check returns an error if the posted sides of all balances of one asset do not sum to zero: every transfer's two
// sides must be there.
func Check(all []Balance) error {
	var debits, credits money.Amount
	for _, b := range all {
		var okD, okC bool
		debits, okD = debits.Add(b.DebitsPosted)
		credits, okC = credits.Add(b.CreditsPosted)
		if !okD || !okC {
			return ErrOverflow
		}
	}
	if debits != credits {
		return fmt.Errorf("books do not balance: debits %s, credits %s", debits, credits)
	}
	return nil
}
