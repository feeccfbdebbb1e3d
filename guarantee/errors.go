package guarantee

import (
	"errors"
	"fmt"
)

// Errors on which a caller branches. Each is wrapped with what was being read or checked.
var (
	// ErrSignature says that a payer's or payee's signature is of another key, or of none. A high s also matches
	// evm.ErrHighS.
	ErrSignature = errors.New("signature does not match")
	// ErrForm says that the form of a signature is unknown, or not admitted here.
	ErrForm = errors.New("signature form is not accepted")
	// ErrVersion says that claims have a version other than 1 and 2, or another one than was asked for.
	ErrVersion = errors.New("guarantee version is not accepted")
	// ErrPolicy says that a validation policy cannot be met, or is not bound to its claims.
	ErrPolicy = errors.New("validation policy does not hold")
	// ErrMalformed says that text or bytes do not have the shape that the protocol gives them.
	ErrMalformed = errors.New("malformed guarantee")
	// ErrKey says that bytes are no usable BLS key.
	ErrKey = errors.New("not a BLS key")
	// ErrCertificate says that a certificate's encoding or BLS signature is wrong.
	ErrCertificate = errors.New("certificate does not verify")
	// ErrForeign says that a certificate is of another chain or another vault.
	ErrForeign = errors.New("certificate belongs to another deployment")
	// ErrMismatch says that a field differs from what was asked; the error is a *MismatchError.
	ErrMismatch = errors.New("differs from what was asked")
	// ErrProof says that a batch certificate's inclusion proof does not lead to its root.
	ErrProof = errors.New("inclusion proof does not hold")
	// ErrStale says that claims are older than the window allows.
	ErrStale = errors.New("timestamp is too old")
	// ErrFuture says that claims are further ahead of the clock than the window allows.
	ErrFuture = errors.New("timestamp is in the future")
)

// MismatchError names the first field, in the order of [Claims], whose value differs from the one asked for. It
// matches [ErrMismatch].
type MismatchError struct {
	Field     string // as the JSON of claims spells it, or as x402 spells a requirement's
	Got, Want string
}

// Error implements error.
func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s is %s, want %s", e.Field, e.Got, e.Want)
}

// Is reports that every mismatch is an [ErrMismatch].
func (e *MismatchError) Is(target error) bool { return target == ErrMismatch }

func mismatch(field string, got, want fmt.Stringer) error {
	return &MismatchError{Field: field, Got: got.String(), Want: want.String()}
}
