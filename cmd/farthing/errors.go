package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/farthing402/farthing/x402"
)

// fault is an error of a verb: a code of the one table, what is wrong with which thing, and what to do about it.
type fault struct{ x x402.Error }

// fail makes a fault. The code must stand in the table of package x402.
func fail(code, format string, args ...any) *fault {
	return &fault{x402.Error{Code: code, Message: fmt.Sprintf(format, args...)}}
}

func (f *fault) hint(format string, args ...any) *fault {
	f.x.Hint = fmt.Sprintf(format, args...)
	return f
}

// Error implements error.
func (f *fault) Error() string { return f.x.Message }

// Unwrap returns the error as the table knows it.
func (f *fault) Unwrap() error { return &f.x }

var devCommands = strings.NewReplacer("farthing get --", "farthing get --dev --", "farthing pay --", "farthing pay --dev --", "farthing deposit ", "farthing deposit --dev ")

// repeatable makes the commands in an error's hint act where the failed one did: with --dev.
func (r *run) repeatable(err error) error {
	e, ok := x402.AsError(err)
	if !ok || !r.cli.Dev || strings.Contains(e.Hint, "--dev") {
		return err
	}
	said := *e
	said.Hint = devCommands.Replace(e.Hint)
	return &said
}

// misuse is a fault of the command line.
func misuse(format string, args ...any) *fault { return fail("usage", format, args...) }

// report writes an error as two lines on the error stream, or as JSON, and returns the exit code.
func (p *program) report(err error, asJSON bool) int {
	if err == nil || errors.Is(err, errDry) {
		return 0
	}
	e, ok := x402.AsError(err)
	if !ok && errors.Is(err, context.Canceled) {
		return 1 // Ctrl-C: whoever pressed it knows
	}
	var hinted interface{ Hint() string }
	if !ok && errors.As(err, &hinted) { // of a package that has no codes
		e, ok = &x402.Error{Code: "config_invalid", Message: err.Error(), Hint: hinted.Hint()}, true
	}
	if !ok {
		e = &x402.Error{Code: "internal", Message: err.Error(), Hint: "this should not happen; farthing --verbose tells more"}
	}
	if asJSON {
		line, _ := json.Marshal(e) // strings only
		fmt.Fprintln(p.Err, string(line))
		return e.Reason().Exit
	}
	fmt.Fprintf(p.Err, "error: %s\n", strings.TrimSpace(e.Error()))
	if hint := e.Remedy(); hint != "" {
		fmt.Fprintf(p.Err, "hint: %s\n", hint)
	}
	return e.Reason().Exit
}
