package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/ledger"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/store"
)

const (
	// benchLate is when the cycle of the world is over and may be netted.
	benchLate = benchCycle + benchCutoff + time.Second
	// benchPerAccount is how many guarantees an account has in a full book.
	benchPerAccount = 10
	// benchPace is how many guarantees come in a second while a cycle closes, one by one.
	benchPace = 100
)

// full has a figure of a full book as its value.
func (b *bench) full(name string) side {
	return side{count: 1, slice: func(ctx context.Context, _ int) (time.Duration, error) {
		const key = "figures of a full book"
		figures, ok := b.shared[key].(map[string]float64)
		if !ok {
			var err error
			if figures, err = b.fullBook(ctx); err != nil {
				return 0, err
			}
			b.shared[key] = figures
		}
		return time.Duration(figures[name] * float64(once)), nil
	}}
}

// fullBook measures a house whose book holds many guarantees beside one whose book holds few, then starts it again, and
// then closes the cycle that most of them are in.
func (b *bench) fullBook(ctx context.Context) (_ map[string]float64, err error) {
	few, err := b.openHouse(ctx, houseOptions{server: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, few.close()) }()
	if err := few.fill(ctx, b.Sizes.Few, b.Sizes.Few); err != nil {
		return nil, err
	}
	many, err := b.openHouse(ctx, houseOptions{server: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, many.close()) }()
	before := processMemory()
	if err := many.fill(ctx, b.Sizes.Stored, b.Sizes.Closing); err != nil {
		return nil, err
	}
	figures := map[string]float64{"memory-open": megabytes(processMemory()-before) * 1e6 / float64(b.Sizes.Stored)}

	if err := b.cpuOf(ctx, figures, map[string]*benchHouse{"cpu-few": few, "cpu-many": many}); err != nil {
		return nil, err
	}
	if figures["restart"], err = many.restart(ctx); err != nil {
		return nil, err
	}
	return figures, many.closing(ctx, figures)
}

// fill puts guarantees into the book that nobody signed, since neither the book nor netting looks at signatures: so many
// into the open cycle, and the rest into cycles that are closed.
func (h *benchHouse) fill(ctx context.Context, stored, open int) error {
	list, err := h.next(ctx, 1) // opens the cycle
	if err != nil {
		return err
	}
	if _, err := h.admit(ctx, list, 1, 1, true); err != nil {
		return err
	}
	const perWrite = 200 // accounts
	accounts := (open + benchPerAccount - 1) / benchPerAccount
	for from := 0; from < stored; from += open {
		cycle := h.cycle()
		cycle.Start -= uint64(from / open)
		err := inParallel(ctx, 2*runtime.GOMAXPROCS(0), accounts, perWrite, func(first, last int) error {
			return h.store.Clearing().Write(ctx, func(tx clearing.Tx) error {
				return h.b.fillAccounts(tx, cycle, from, min(open, stored-from), accounts, first, last)
			})
		})
		if err != nil {
			return err
		}
		if from > 0 {
			err := h.store.Clearing().Write(ctx, func(tx clearing.Tx) error {
				return tx.PutCycle(clearing.Cycle{Ref: cycle, Status: clearing.Closed})
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// fillAccounts adds the guarantees of some accounts, of n in a cycle.
func (b *bench) fillAccounts(tx clearing.Tx, cycle clearing.CycleRef, base, n, accounts, first, last int) error {
	owner := func(i int) evm.Address {
		h := evm.Keccak256([]byte("full book"), binary.BigEndian.AppendUint64(nil, uint64(i%accounts)))
		return evm.Address(h[12:])
	}
	for i := first; i < last; i++ {
		var open money.Amount
		for k := range benchPerAccount {
			number := i*benchPerAccount + k
			if number >= n {
				break
			}
			digest := evm.Keccak256(binary.BigEndian.AppendUint64(nil, uint64(base+number)))
			s := guarantee.Signed{Form: guarantee.EIP712, Claims: guarantee.Claims{
				Payer: owner(i), Payee: owner(i + 1 + number%(accounts-1)), Asset: cycle.Asset, ReqID: digest, Amount: benchAmount, Timestamp: uint64(b.Now.Unix()),
			}}
			copy(s.Signature[:], digest[:])
			err := tx.AddGuarantee(clearing.Guarantee{
				Signed: s, Digest: digest, Cycle: cycle, Payable: benchAmount, At: b.Now.UnixMilli(), Evidence: evm.Keccak256(digest[:]),
			})
			if err != nil {
				return err
			}
			open, _ = open.Add(benchAmount)
		}
		if base > 0 {
			continue
		}
		if err := tx.PutAccount(clearing.Account{Owner: owner(i), Asset: cycle.Asset, Balance: ledger.Balance{CreditsPosted: money.Units(1 << 40), DebitsPending: open}}); err != nil {
			return err
		}
	}
	return nil
}

// cpuOf measures what a guarantee costs the processors, the database's share included, in turns, in microseconds.
func (b *bench) cpuOf(ctx context.Context, figures map[string]float64, houses map[string]*benchHouse) error {
	names := []string{"cpu-few", "cpu-many"}
	costs := make(map[string][]float64)
	for round := range 1 + b.Rounds {
		for _, name := range names {
			h := houses[name]
			list, err := h.next(ctx, b.Sizes.Measured)
			if err != nil {
				return err
			}
			runtime.GC()
			before := b.cpu()
			if _, err := h.admit(ctx, list, benchCalls, benchCall, true); err != nil {
				return err
			}
			if round > 0 {
				costs[name] = append(costs[name], (b.cpu()-before).Seconds()*1e6/float64(len(list)))
			}
		}
	}
	for _, name := range names {
		slices.Sort(costs[name])
		figures[name] = costs[name][len(costs[name])/2]
	}
	return nil
}

// cpu is the processor time that this process and those of its database have used, on systems that tell (by /proc).
func (b *bench) cpu() (spent time.Duration) {
	const tick = 10 * time.Millisecond // USER_HZ
	if text, err := os.ReadFile("/proc/self/stat"); err == nil {
		_, rest, _ := strings.Cut(string(text), ") ")
		if fields := strings.Fields(rest); len(fields) > 12 {
			for _, field := range fields[11:13] { // in user mode, and in the kernel
				n, _ := strconv.Atoi(field)
				spent += time.Duration(n) * tick
			}
		}
	}
	for _, pid := range b.server.Processes() { // of one thread each
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		nanoseconds, _, _ := strings.Cut(string(text), " ")
		n, _ := strconv.ParseInt(nanoseconds, 10, 64)
		spent += time.Duration(n)
	}
	return spent
}

// restart opens the book again, and returns how many seconds passed until the first certificate.
func (h *benchHouse) restart(ctx context.Context) (seconds float64, err error) {
	list, err := h.next(ctx, 1)
	if err != nil {
		return 0, err
	}
	if err := h.store.Close(); err != nil {
		return 0, err
	}
	began := time.Now()
	if h.store, err = store.Open(ctx, h.url); err != nil {
		h.store = nil
		return 0, err
	}
	if err := h.start(); err != nil {
		return 0, err
	}
	_, err = h.admit(ctx, list, 1, 1, true)
	return time.Since(began).Seconds(), err
}

// closing closes the cycle while guarantees for the next one come at a steady pace, as they did before.
func (h *benchHouse) closing(ctx context.Context, figures map[string]float64) error {
	now := h.b.Now.Add(benchLate)
	quiet := int(benchPace * 2 * h.b.Sizes.Offered.Seconds())
	list, err := h.b.signedOf(ctx, latePayers, 0, quiet+int(benchPace*benchTimeout.Seconds()))
	if err != nil {
		return err
	}
	before, err := h.offer(ctx, list[:quiet], benchPace, now, nil)
	if err != nil {
		return err
	}
	base := processMemory()
	peak, over := make(chan uint64), make(chan struct{})
	go func() {
		var most uint64
		for {
			most = max(most, memoryInUse())
			select {
			case <-over:
				peak <- most
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	var took, worked time.Duration
	closed := make(chan error, 1)
	go func() {
		began, before := time.Now(), h.b.cpu()
		err := h.house.CloseDue(ctx, now, uint64(now.Unix()))
		took, worked = time.Since(began), h.b.cpu()-before
		close(over)
		closed <- err
	}()
	during, err := h.offer(ctx, list[quiet:], benchPace, now, over)
	if err := errors.Join(err, <-closed); err != nil {
		return err
	}
	figures["closing"], figures["work-closing"], figures["memory-closing"] = took.Seconds(), worked.Seconds()/float64(runtime.GOMAXPROCS(0)), megabytes(<-peak-base)
	for name, of := range map[string]float64{"latency": 50, "latency-p99": 99} {
		figures[name+"-before"] = percentile(before, of).Seconds() * 1e3
		figures[name+"-closing"] = percentile(during, of).Seconds() * 1e3
	}
	c, err := h.house.Cycle(ctx, h.cycle().String())
	if err == nil && (c.Status != clearing.Netted || c.Guarantees < uint64(h.b.Sizes.Closing)) {
		err = fmt.Errorf("cycle is %s with %d guarantees, want %s with at least %d", c.Status, c.Guarantees, clearing.Netted, h.b.Sizes.Closing)
	}
	if err != nil {
		return err
	}
	sealed := clearing.Event{Kind: clearing.CycleCommitted, TxHash: evm.Keccak256([]byte("bench seal")), Cycle: c.Ref.ID(), Asset: c.Ref.Asset, Root: c.Root, Amount: c.Total}
	began := time.Now()
	err = h.house.Apply(ctx, clearing.Confirmed, clearing.Block{Number: 2, Hash: sealed.TxHash, Time: uint64(now.Unix())}, []clearing.Event{sealed})
	figures["seal"] = time.Since(began).Seconds()
	if err != nil {
		return err
	}
	c, err = h.house.Cycle(ctx, c.Ref.String())
	if err == nil && c.Status != clearing.Committed {
		err = fmt.Errorf("cycle is %s after its seal: %s", c.Status, c.Trouble)
	}
	return err
}

// processMemory is what the process takes after what is not needed has been given back.
func processMemory() uint64 {
	debug.FreeOSMemory()
	return memoryInUse()
}

func memoryInUse() uint64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64() - samples[1].Value.Uint64()
}

func megabytes(n uint64) float64 { return max(0.1, float64(int64(n))/1e6) }
