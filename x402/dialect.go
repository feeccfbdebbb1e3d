package x402

import "fmt"

// Dialect is the name under which an object carries the number of the protocol's version. Nothing else of the envelopes
// differs between x402 and T402, so each object keeps the dialect that it was read in and is written in it again.
type Dialect string

const (
	X402 Dialect = ""     // x402Version
	T402 Dialect = "t402" // t402Version
	// Both names stand in one object. The published clients of either dialect look at their own member and pass over the
	// other, so one 402 serves them all. A payment has one dialect: one that was read with both names counts as x402's.
	Both Dialect = "both"
)

// one returns the dialect of what answers an object of dialect d.
func (d Dialect) one() Dialect {
	if d == T402 {
		return T402
	}
	return X402
}

// numbers are the members that tell an object's version, in the order in which they are written.
type numbers struct {
	X402Version *int `json:"x402Version,omitempty"`
	T402Version *int `json:"t402Version,omitempty"`
}

// numbers returns the members for a version.
func (d Dialect) numbers(version int) (n numbers) {
	if d != T402 {
		n.X402Version = &version
	}
	if d != X402 {
		n.T402Version = &version
	}
	return n
}

// read returns version and dialect. Neither member, a number that is not known, and two members that differ are
// *versionError: whoever guesses there may take a payment by rules that the payer did not mean.
func (n numbers) read() (version int, d Dialect, err error) {
	switch {
	case n.X402Version == nil && n.T402Version == nil:
		return 0, "", &versionError{text: "neither x402Version nor t402Version is there"}
	case n.X402Version != nil && n.T402Version != nil:
		if *n.X402Version != *n.T402Version {
			return 0, "", &versionError{text: fmt.Sprintf("x402Version is %d and t402Version %d", *n.X402Version, *n.T402Version)}
		}
		version, d = *n.X402Version, Both
	case n.T402Version != nil:
		version, d = *n.T402Version, T402
	default:
		version = *n.X402Version
	}
	if version != 1 && version != 2 {
		name := "x402Version"
		if d == T402 {
			name = "t402Version"
		}
		return 0, "", &versionError{d, fmt.Sprintf("%s %d is not known", name, version)}
	}
	return version, d, nil
}

// versionError is an object whose version cannot be told.
type versionError struct {
	dialect Dialect
	text    string
}

func (e *versionError) Error() string { return e.text }

// code is the reason that the object's dialect has for it.
func (e *versionError) code() string {
	if e.dialect == T402 {
		return "invalid_t402_version"
	}
	return "invalid_x402_version"
}
