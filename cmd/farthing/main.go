// Command farthing sells and buys HTTP requests for fractions of a cent, and runs the clearing house and the chain that
// such payments need.
//
// What goes where: the result of a verb is on standard output, a table for a person or JSON lines for a program; the
// story around it (progress, hints, errors) is on standard error. An error is two lines, what is wrong with which thing
// and what to do about it. Exit codes: 0 done, 1 failed, 2 misused, 3 refused by your own budget or policy, 4 payment
// refused, 5 outcome unknown.
//
// Only this package reads flags, the environment and configuration files, and only it owns tickers.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := &program{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Env:      os.LookupEnv,
		Now:      time.Now,
		Terminal: term.IsTerminal(int(os.Stdout.Fd())),
	}
	os.Exit(p.Main(ctx, os.Args[1:]))
}

// program is the process as verbs see it: where they read and write, and what tells the time.
type program struct {
	In       io.Reader
	Out, Err io.Writer
	Env      func(string) (string, bool)
	Now      func() time.Time
	Terminal bool // Out is a terminal: tables and live views instead of JSON lines
}
