package x402

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
)

// Error is a refusal or a fault with its row in the table of reasons. On the wire it is {"error", "code", "hint"}, with
// "details" where there are any.
type Error struct {
	Code    string            // a row of [All]
	Message string            // what is wrong with which thing: lower case, no full stop
	Hint    string            // what to do about it; empty: the table's remedy
	Details map[string]string // values for programs, such as "asked" and "available"; may be nil
	Err     error             // what caused it, for errors.Is and errors.As; not on the wire
}

// Errorf makes an error of a code. A %w in the format becomes the cause.
func Errorf(code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Err: errors.Unwrap(err)}
}

// WithHint returns a copy of e with a hint of its own.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// Error returns the message, or the table's sentence if there is none.
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Reason().What
	}
	return e.Message
}

// Unwrap returns the cause, which may be nil.
func (e *Error) Unwrap() error { return e.Err }

// Is makes an error match every other one of its code that carries no message.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Message == "" && t.Code == e.Code
}

// Reason returns the error's row; a code without one counts as internal.
func (e *Error) Reason() Reason {
	r, ok := Lookup(e.Code)
	if !ok {
		r, _ = Lookup("internal")
	}
	return r
}

// Remedy returns the hint, or what the table advises.
func (e *Error) Remedy() string {
	if e.Hint != "" {
		return e.Hint
	}
	return e.Reason().Remedy
}

type wireError struct {
	Error   string            `json:"error"`
	Code    string            `json:"code"`
	Hint    string            `json:"hint"`
	Details map[string]string `json:"details,omitempty"`
}

// MarshalJSON implements json.Marshaler.
func (e *Error) MarshalJSON() ([]byte, error) {
	return json.Marshal(wireError{e.Error(), e.Code, e.Remedy(), e.Details})
}

// UnmarshalJSON implements json.Unmarshaler. It accepts a body that has only "error", as other servers send it; then
// the code stays empty.
func (e *Error) UnmarshalJSON(b []byte) error {
	var w wireError
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*e = Error{Code: w.Code, Message: w.Error, Hint: w.Hint, Details: w.Details}
	return nil
}

// AsError finds the [Error] in err's chain, or makes one of the errors of packages money and network. It reports false
// for any other error, which a server shows to nobody but its operator.
func AsError(err error) (*Error, bool) {
	var e *Error
	var price *money.PriceError
	var unknown *network.UnknownError
	switch {
	case errors.As(err, &e):
		return e, true
	case errors.As(err, &price):
		return &Error{Code: "price_invalid", Message: err.Error(), Hint: price.Hint, Err: err}, true
	case errors.As(err, &unknown):
		code := "network_unknown"
		if unknown.Asset {
			code = "asset_unknown"
		}
		return &Error{Code: code, Message: err.Error(), Hint: unknown.Hint(), Err: err}, true
	}
	return nil, false
}

// WriteError answers a request with an error's status and JSON form. It writes nothing of the error's cause.
func WriteError(w http.ResponseWriter, e *Error) {
	body, err := json.Marshal(e)
	if err != nil { // strings only: cannot be
		body = []byte(`{"error":"internal error","code":"internal","hint":""}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(e.Reason().Status)
	w.Write(append(body, '\n'))
}
