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
type fault struct{ x402.Error }

// fail makes a fault. The code must stand in the table of package x402.
func fail(code, format string, args ...any) *fault {
	return &fault{x402.Error{Code: code, Message: fmt.Sprintf(format, args...)}}
}

func (f *fault) hint(format string, args ...any) *fault {
	f.Hint = fmt.Sprintf(format, args...)
	return f
}

// misuse is a fault of the command line.
func misuse(format string, args ...any) *fault { return fail("usage", format, args...) }

// report writes an error as two lines on the error stream, or as JSON, and returns the exit code.
func (p *program) report(err error, asJSON bool) int {
	if err == nil {
		return 0
	}
	code, message, hint := "internal", err.Error(), ""
	var f *fault
	var wire *x402.Error
	switch {
	case errors.As(err, &f):
		code, message, hint = f.Code, f.Message, f.Hint
	case errors.As(err, &wire):
		code, message, hint = wire.Code, wire.Message, wire.Hint
	case errors.Is(err, context.Canceled):
		return 1 // Ctrl-C: whoever pressed it knows
	}
	exit := 1
	if reason, ok := x402.Lookup(code); ok {
		exit = reason.Exit
		if hint == "" {
			hint = reason.Remedy
		}
	}
	if asJSON {
		line, _ := json.Marshal(map[string]any{"error": message, "code": code, "hint": hint})
		fmt.Fprintln(p.Err, string(line))
		return exit
	}
	fmt.Fprintf(p.Err, "error: %s\n", strings.TrimSpace(message))
	if hint != "" {
		fmt.Fprintf(p.Err, "hint: %s\n", hint)
	}
	return exit
}
