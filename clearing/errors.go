package clearing

import (
	"errors"
	"fmt"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Errors on which a caller branches. [House.Admit] and [House.Note] say in which order they are checked. Errors of
// package guarantee come through: ErrVersion and ErrPolicy of claims, ErrForm and ErrSignature of a signature, ErrStale and
// ErrFuture of a timestamp.
var (
	// ErrAmount says that an amount is 0, or more than a contract can hold (2^112 − 1).
	ErrAmount = errors.New("amount must be between 1 and 2^112 - 1")
	// ErrParties says that payer and payee are one account, or that one of them is the zero address.
	ErrParties = errors.New("payer and payee must be two accounts, neither of them zero")
	// ErrConflict says that the request id was used between these parties, in this asset, for other content.
	ErrConflict = errors.New("request id was used for another guarantee")
	// ErrAsset says that the asset has no schedule here, or that its first cycle is still to come.
	ErrAsset = errors.New("asset is not cleared here")
	// ErrRegistry says that a guarantee depends on a registry that is not trusted here.
	ErrRegistry = errors.New("validation registry is not trusted here")
	// ErrLimit says that the payer's own limit per cycle would be passed; the error is a *LimitError.
	ErrLimit = errors.New("payer's limit for the cycle would be passed")
	// ErrExposure says that the payer's collateral does not cover the guarantee; the error is an *ExposureError.
	ErrExposure = errors.New("not enough free collateral")
	// ErrSuspended says that the operator has suspended payer or payee.
	ErrSuspended = errors.New("user suspended")
	// ErrNotMember says that the house serves members only, and payer or payee is none.
	ErrNotMember = errors.New("account is no member of this clearing house")
	// ErrUnfinished says that the request may have taken effect or not: the store failed, or the caller went away while
	// the request was being written. Sending the same request again is safe and finds out.
	ErrUnfinished = errors.New("outcome is not known, send the same request again")
	// ErrNotAdmitted says that the caller went away before anything was written.
	ErrNotAdmitted = errors.New("given up before anything was written")

	// ErrNotFound says that there is no such guarantee, cycle or position.
	ErrNotFound = errors.New("not found")
	// ErrSigner says that a note is signed neither by the guarantee's payee nor by a key that the payee has named.
	ErrSigner = errors.New("note is not signed by the payee or a key of its")
	// ErrRaise says that a note does not lower what is payable.
	ErrRaise = errors.New("note must lower what is payable")
	// ErrPledged says that a note would let go of what backs a refund of the payee's.
	ErrPledged = errors.New("the claim backs a refund")
	// ErrCutoff says that a note came after its cycle's cutoff.
	ErrCutoff = errors.New("cycle takes no more notes")

	// ErrOrder says that a block does not follow the newest one that was applied.
	ErrOrder = errors.New("block does not follow what was applied")
	// ErrTooDeep says that a reorg goes past every block that is remembered.
	ErrTooDeep = errors.New("reorg is deeper than what is remembered")
	// ErrBroken says that the books contradict themselves. Nobody should trust them until somebody has looked.
	ErrBroken = errors.New("books contradict themselves")
)

// ExposureError says what a refused guarantee would have needed. It matches [ErrExposure].
type ExposureError struct {
	Payer, Asset evm.Address
	Asked, Free  money.Amount
	Deposited    money.Amount // confirmed collateral
	InUse        money.Amount // exposure
	Held         money.Amount // requested withdrawal
}

// Error implements error.
func (e *ExposureError) Error() string {
	return fmt.Sprintf("not enough free collateral: asked %s, free %s of %s (%s in use, %s held for a withdrawal)", e.Asked, e.Free, e.Deposited, e.InUse, e.Held)
}

// Is reports that every such error is an [ErrExposure].
func (e *ExposureError) Is(target error) bool { return target == ErrExposure }

// LimitError says how far a payer's limit reaches: its own, or the operator's if that is lower. It matches [ErrLimit].
type LimitError struct {
	Payer, Asset       evm.Address
	Cycle              CycleRef
	Asked, Used, Limit money.Amount
}

// Error implements error.
func (e *LimitError) Error() string {
	return fmt.Sprintf("payer's limit for the cycle would be passed: asked %s, %s of %s used", e.Asked, e.Used, e.Limit)
}

// Is reports that every such error is an [ErrLimit].
func (e *LimitError) Is(target error) bool { return target == ErrLimit }
