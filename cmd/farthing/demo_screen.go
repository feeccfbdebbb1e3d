package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/money"
)

// screen redraws a few lines of figures in place, twice a second, until it is stopped.
type screen struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func (s *screen) stop() {
	s.cancel()
	s.done.Wait()
}

// show starts the live view of the demonstration.
func (w *world) show(r *run) *screen {
	ctx, cancel := context.WithCancel(r.ctx)
	s := &screen{cancel: cancel}
	s.done.Add(1)
	go func() {
		defer s.done.Done()
		ticker := time.NewTicker(500 * time.Millisecond)
		defer ticker.Stop()
		drawn, before, at := 0, w.sold.Load(), time.Now()
		for {
			select {
			case <-ctx.Done():
				if drawn > 0 {
					fmt.Fprintf(r.Out, "\x1b[%dA\x1b[J", drawn)
				}
				return
			case <-ticker.C:
			}
			now := w.sold.Load()
			rate := float64(now-before) / time.Since(at).Seconds()
			before, at = now, time.Now()
			lines := w.figures(ctx, rate)
			if drawn > 0 {
				fmt.Fprintf(r.Out, "\x1b[%dA\x1b[J", drawn)
			}
			width, _, err := term.GetSize(int(os.Stdout.Fd()))
			if err != nil || width < 20 {
				width = 100
			}
			for _, l := range lines {
				if runes := []rune(l); len(runes) > width-1 {
					l = string(runes[:width-1])
				}
				fmt.Fprintln(r.Out, l)
			}
			drawn = len(lines)
		}
	}()
	return s
}

// figures are the lines of the live view.
func (w *world) figures(ctx context.Context, rate float64) []string {
	show := func(a money.Amount) string { return money.Format(a, w.token.Decimals, "$") }
	var refused []string
	for _, code := range []string{"collateral_insufficient", "payment_used", "budget_exceeded"} {
		if n := w.refusals.copy()[code]; n > 0 {
			refused = append(refused, fmt.Sprintf("%s %d", strings.ReplaceAll(code, "_", " "), n))
		}
	}
	lines := []string{fmt.Sprintf("  sold     %d requests, %.0f a second    refused %s", w.sold.Load(), rate, strings.Join(refused, " · "))}
	var exposed, backing money.Amount
	for _, b := range w.buyers {
		if a, err := w.house.House.Account(ctx, b.key.Address(), w.token.Address); err == nil {
			exposed, _ = exposed.Add(a.Exposure())
			backing, _ = backing.Add(a.Collateral())
		}
	}
	lines = append(lines, fmt.Sprintf("  exposure %s of %s collateral", show(exposed), show(backing)))
	cycles, err := w.house.House.Cycles(ctx, w.token.Address, 3)
	if err != nil {
		return lines
	}
	for _, c := range cycles {
		phases := []string{"open", "frozen", "netted", "committed", "final", "closed"}
		for i, p := range phases {
			if clearing.CycleStatus(p) == c.Status {
				phases[i] = "[" + p + "]"
			}
		}
		line := fmt.Sprintf("  cycle    %s  %s", time.Unix(int64(c.Ref.Start), 0).Format("15:04:05"), strings.Join(phases, " ▸ "))
		if !c.Gross.IsZero() {
			line += fmt.Sprintf("   %s moves instead of %s", show(c.Total), show(c.Gross))
		}
		if c.Trouble != "" {
			line += "   " + c.Trouble
		}
		lines = append(lines, line)
	}
	var gas uint64
	sent := 0
	if all, err := w.house.Store.Outbox().Finished(ctx, devOperator().Address(), 0); err == nil {
		for _, c := range all {
			if c.Receipt != nil {
				sent++
				gas += c.Receipt.GasUsed
			}
		}
	}
	books := "add up"
	if err := w.house.House.Check(ctx); err != nil && ctx.Err() == nil {
		books = "DO NOT ADD UP: " + err.Error()
	}
	return append(lines, fmt.Sprintf("  chain    %d transactions of the operator, %d gas   books %s", sent, gas, books))
}
