package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
)

// child is the variable that makes the test binary be another process of a test: its role and the database.
const child = "FARTHING_STORE_TEST_CHILD"

func TestMain(m *testing.M) {
	if role, path, ok := strings.Cut(os.Getenv(child), " "); ok {
		if err := roles[role](path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var roles = map[string]func(path string) error{"load": load, "reserve": reserveSame, "own": own, "draw": drawAll, "spend": spend}

// process starts the test binary in a role. It is ended with the test if it has not ended by itself.
func process(t *testing.T, role, path string) (*exec.Cmd, io.WriteCloser, *bufio.Scanner) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), child+"="+role+" "+path)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, in, bufio.NewScanner(out)
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func address(n byte) (a evm.Address) { a[0], a[19] = n, n; return a }

// promise returns a guarantee that differs in everything that n can reach.
func promise(payer, payee evm.Address, n int) clearing.Guarantee {
	c := guarantee.Claims{
		Payer: payer, Payee: payee, Asset: address(0xaa), ReqID: evm.Keccak256(payer[:], []byte(strconv.Itoa(n))),
		Amount: money.Units(uint64(n)), Timestamp: uint64(noon.Unix()),
	}
	g := clearing.Guarantee{
		Signed: guarantee.Signed{Claims: c, Form: guarantee.EIP712}, Digest: c.Digest(evm.Hash{1}),
		Cycle: clearing.CycleRef{Asset: c.Asset, Start: 1000}, Payable: c.Amount, At: noon.UnixMilli(),
	}
	copy(g.Signed.Signature[:], g.Digest[:])
	return g
}

func reservation(id string, payment evm.Hash) purchase.Purchase {
	return purchase.Purchase{ID: id, Payment: payment, Cap: money.Units(5), State: purchase.Reserved, ReservedAt: noon}
}

// load writes without end, and says on stdout what is acknowledged: guarantees that raise their payer's exposure in the
// same transaction, and purchases.
func load(path string) error {
	ctx := context.Background()
	s, err := Open(ctx, path)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	failed := make(chan error, 16)
	for worker := range 8 {
		payer := address(byte(worker + 1))
		wg.Go(func() {
			for n := 1; ; n++ {
				g := promise(payer, address(99), n)
				err := s.Clearing().Write(ctx, func(tx clearing.Tx) error {
					account, err := tx.Account(payer, g.Cycle.Asset)
					if err != nil {
						return err
					}
					account.Balance.DebitsPending, _ = account.Balance.DebitsPending.Add(g.Payable)
					return errors.Join(tx.PutAccount(account), tx.AddGuarantee(g))
				})
				if err == nil {
					_, err = s.Purchases().Reserve(ctx, reservation(fmt.Sprintf("p_%d_%d", worker, n), g.Digest))
				}
				if err != nil {
					failed <- err
					return
				}
				fmt.Println(g.Digest) // one write, so that a kill does not tear what was said
			}
		})
	}
	return <-failed
}

// A process that is killed in the middle of its writes has lost nothing that it acknowledged, and left no half of
// anything.
func TestKillLosesNothingAcknowledged(t *testing.T) { onEach(t, testKillLosesNothingAcknowledged) }

func testKillLosesNothingAcknowledged(t *testing.T, db database) {
	const enough = 300
	path := db.name(t)
	cmd, _, out := process(t, "load", path)
	var acknowledged []evm.Hash
	for out.Scan() {
		h, err := evm.ParseHash(out.Text())
		if err != nil {
			break // the last line may be torn
		}
		if acknowledged = append(acknowledged, h); len(acknowledged) == enough {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || len(acknowledged) < enough {
		t.Fatalf("ended by itself: %v after %d", err, len(acknowledged))
	}

	s := reopen(t, path)
	for _, h := range acknowledged {
		if _, found, err := s.Purchases().Find(t.Context(), h); !found || err != nil {
			t.Errorf("purchase %s: %v, %v", h, found, err)
		}
	}
	cycle := promise(address(1), address(99), 1).Cycle
	if err := s.Clearing().Read(t.Context(), func(tx clearing.Tx) error {
		for _, h := range acknowledged {
			if _, found, err := tx.GuaranteeByDigest(h); !found || err != nil {
				t.Errorf("guarantee %s: %v, %v", h, found, err)
			}
		}
		exposed := make(map[evm.Address]money.Amount)
		all := 0
		for g, err := range tx.Guarantees(cycle) {
			if err != nil {
				return err
			}
			payer := g.Signed.Claims.Payer
			exposed[payer], _ = exposed[payer].Add(g.Payable)
			all++
		}
		for payer, sum := range exposed {
			account, err := tx.Account(payer, cycle.Asset)
			kept, err2 := tx.PayableBy(cycle, payer)
			if err := errors.Join(err, err2); err != nil {
				return err
			}
			if account.Balance.DebitsPending != sum || kept != sum {
				t.Errorf("%s has guaranteed %s; its account says %s, its cycle %s", payer, sum, account.Balance.DebitsPending, kept)
			}
		}
		t.Logf("%d acknowledged, %d guarantees on disk", len(acknowledged), all)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// reserveSame tries to reserve the payments that it reads, and says which it won.
func reserveSame(path string) error {
	ctx := context.Background()
	s, err := Open(ctx, path)
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		_, err := s.Purchases().Reserve(ctx, reservation(fmt.Sprintf("p_%d_%s", os.Getpid(), in.Text()), evm.Keccak256(in.Bytes())))
		switch {
		case err == nil:
			fmt.Println("won")
		case errors.Is(err, purchase.ErrTaken):
			fmt.Println("lost")
		default:
			return err
		}
	}
	return in.Err()
}

func TestOfTwoProcessesOneWinsAPayment(t *testing.T) { onEach(t, testOfTwoProcessesOneWinsAPayment) }

func testOfTwoProcessesOneWinsAPayment(t *testing.T, db database) {
	const payments = 200
	path := db.name(t)
	var cmds [2]*exec.Cmd
	var ins [2]io.WriteCloser
	var outs [2]*bufio.Scanner
	for i := range cmds { // both open the new file at once
		cmds[i], ins[i], outs[i] = process(t, "reserve", path)
	}
	for i := range cmds {
		if !outs[i].Scan() || outs[i].Text() != "ready" {
			t.Fatalf("process %d did not start", i)
		}
	}
	var won [2][payments]bool
	var wg sync.WaitGroup
	for i := range cmds {
		wg.Go(func() {
			for n := range payments {
				if _, err := fmt.Fprintln(ins[i], n); err != nil {
					t.Error(err)
				}
			}
			if err := ins[i].Close(); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			for n := range payments {
				if !outs[i].Scan() {
					t.Errorf("process %d stopped at %d: %v", i, n, outs[i].Err())
					return
				}
				won[i][n] = outs[i].Text() == "won"
			}
		})
	}
	wg.Wait()
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Errorf("process %d: %v", i, err)
		}
	}
	s := reopen(t, path)
	for n := range payments {
		if won[0][n] == won[1][n] {
			t.Fatalf("payment %d: both %v", n, won[0][n])
		}
		winner := cmds[0].Process.Pid
		if won[1][n] {
			winner = cmds[1].Process.Pid
		}
		p, found, err := s.Purchases().Find(t.Context(), evm.Keccak256([]byte(strconv.Itoa(n))))
		if want := fmt.Sprintf("p_%d_%d", winner, n); err != nil || !found || p.ID != want {
			t.Fatalf("payment %d is %s, %v, want %s", n, p.ID, err, want)
		}
	}
}

// own holds the database for itself until it is killed.
func own(path string) error {
	if _, err := Open(context.Background(), path, Exclusive()); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func TestAKilledOwnerIsNoOwner(t *testing.T) { onEach(t, testAKilledOwnerIsNoOwner) }

func testAKilledOwnerIsNoOwner(t *testing.T, db database) {
	path := db.name(t)
	cmd, _, out := process(t, "own", path)
	if !out.Scan() {
		t.Fatal("the process did not start")
	}
	_, err := Open(t.Context(), path, Exclusive())
	var inUse *InUseError
	if !errors.As(err, &inUse) || inUse.PID != cmd.Process.Pid {
		t.Errorf("%v, want that process %d has it", err, cmd.Process.Pid)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	reopen(t, path, Exclusive())
}

// callOf is the n-th request of the one payer on a route that is sold in bundles.
func callOf(n string) purchase.Purchase {
	p := reservation("p_"+n, evm.Keccak256([]byte(n)))
	p.Payer, p.Payee, p.Route = address(1), address(2), "GET /"
	return p
}

// bundleOf buys a bundle, of which one unit is drawn, and opens it.
func bundleOf(ctx context.Context, b purchase.Book, units uint64) error {
	p, _, err := b.ReserveCall(ctx, callOf("buyer"), purchase.BundleAsk{Draw: 1, Buy: units, Valid: time.Hour})
	if err != nil {
		return err
	}
	return errors.Join(b.Settled(ctx, p.ID, evm.Hash{1}), b.OpenBundle(ctx, p.ID, noon.Add(time.Hour)), b.Run(ctx, p.ID, nil, noon),
		b.Finish(ctx, purchase.Purchase{ID: p.ID, State: purchase.Committed, Draws: 1, Charged: p.Cap, DoneAt: noon}))
}

// drawAll draws a unit for each request that it reads, "void" undoes the request that is named, and it says whether it won.
func drawAll(path string) error {
	ctx := context.Background()
	s, err := Open(ctx, path)
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var err error
		if id, void := strings.CutPrefix(in.Text(), "void "); void {
			err = s.Purchases().Finish(ctx, purchase.Purchase{ID: "p_" + id, State: purchase.Void})
		} else {
			_, _, err = s.Purchases().ReserveCall(ctx, callOf(in.Text()), purchase.BundleAsk{Draw: 1})
		}
		switch {
		case err == nil:
			fmt.Println("won")
		case errors.Is(err, purchase.ErrNoBundle), errors.Is(err, purchase.ErrTaken), errors.Is(err, purchase.ErrState):
			fmt.Println("lost")
		default:
			return err
		}
	}
	return in.Err()
}

// Two gates on one file: the last units go to exactly as many requests, and what is undone by both returns once.
func TestOfTwoProcessesOneGetsTheLastCall(t *testing.T) {
	onEach(t, testOfTwoProcessesOneGetsTheLastCall)
}

func testOfTwoProcessesOneGetsTheLastCall(t *testing.T, db database) {
	const requests, units = 150, 101
	path := db.name(t)
	s := reopen(t, path)
	if err := bundleOf(t.Context(), s.Purchases(), units); err != nil {
		t.Fatal(err)
	}
	var cmds [2]*exec.Cmd
	var ins [2]io.WriteCloser
	var outs [2]*bufio.Scanner
	for i := range cmds {
		cmds[i], ins[i], outs[i] = process(t, "draw", path)
	}
	for i := range cmds {
		if !outs[i].Scan() || outs[i].Text() != "ready" {
			t.Fatalf("process %d did not start", i)
		}
	}
	// ask sends each process its lines, all at once, and returns how many were won in total.
	ask := func(line func(process, n int) string) (won int) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range cmds {
			wg.Go(func() {
				for n := range requests {
					if _, err := fmt.Fprintln(ins[i], line(i, n)); err != nil {
						t.Error(err)
					}
				}
			})
			wg.Go(func() {
				for n := range requests {
					if !outs[i].Scan() {
						t.Errorf("process %d stopped at %d: %v", i, n, outs[i].Err())
						return
					}
					if outs[i].Text() == "won" {
						mu.Lock()
						won++
						mu.Unlock()
					}
				}
			})
		}
		wg.Wait()
		return won
	}
	left := func(want uint64) {
		t.Helper()
		if b, _, err := s.Purchases().FindBundle(t.Context(), "p_buyer"); err != nil || b.Remaining != want {
			t.Errorf("%d units remain, %v, want %d", b.Remaining, err, want)
		}
	}
	if won := ask(func(process, n int) string { return fmt.Sprintf("%d-%d", process, n) }); won != units-1 {
		t.Errorf("%d units were drawn of %d", won, units-1)
	}
	left(0)
	// Both undo half of the requests of both, so each of those is undone twice.
	undone := ask(func(_, n int) string { return fmt.Sprintf("void %d-%d", n%2, n/2) })
	left(uint64(undone))
	drawn := 0
	for n := range 2 * requests {
		p, found, err := s.Purchases().FindID(t.Context(), fmt.Sprintf("p_%d-%d", n%2, n/2))
		if err != nil {
			t.Fatal(err)
		}
		if found {
			drawn += int(p.Draws)
		}
	}
	if undone == 0 || undone+drawn != units-1 {
		t.Errorf("%d undone and %d drawn of %d", undone, drawn, units-1)
	}
	for i, cmd := range cmds {
		if err := errors.Join(ins[i].Close(), cmd.Wait()); err != nil {
			t.Errorf("process %d: %v", i, err)
		}
	}
}

// spend draws from a bundle without end and ends each purchase in its own way, and says on stdout what is acknowledged.
func spend(path string) error {
	ctx := context.Background()
	s, err := Open(ctx, path)
	if err != nil {
		return err
	}
	b := s.Purchases()
	if err := bundleOf(ctx, b, 1<<40); err != nil {
		return err
	}
	var wg sync.WaitGroup
	failed := make(chan error, 16)
	for worker := range 8 {
		wg.Go(func() {
			for n := 1; ; n++ {
				p, _, err := b.ReserveCall(ctx, callOf(fmt.Sprintf("%d-%d", worker, n)), purchase.BundleAsk{Draw: 5})
				if err == nil {
					err = b.Run(ctx, p.ID, nil, noon)
				}
				p.State, p.Draws, p.DoneAt = purchase.Committed, uint64(n%6), noon
				if n%3 == 0 {
					p.State = purchase.Void
				}
				if err == nil {
					err = b.Finish(ctx, p)
				}
				if err == nil && p.State == purchase.Committed && p.Draws > 1 {
					_, err = b.Refund(ctx, purchase.Refund{Purchase: p.ID, Kind: purchase.ByCalls, Calls: 1, At: noon})
				}
				if err != nil {
					failed <- err
					return
				}
				fmt.Println(p.ID, p.State, p.Draws)
			}
		})
	}
	return <-failed
}

// A process that is killed anywhere between a draw and its return has neither lost nor made a unit.
func TestKillConservesBundles(t *testing.T) { onEach(t, testKillConservesBundles) }

func testKillConservesBundles(t *testing.T, db database) {
	const enough = 300
	path := db.name(t)
	cmd, _, out := process(t, "spend", path)
	var acknowledged []string
	for out.Scan() {
		if acknowledged = append(acknowledged, out.Text()); len(acknowledged) == enough {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || len(acknowledged) < enough {
		t.Fatalf("ended by itself: %v after %d", err, len(acknowledged))
	}
	s := reopen(t, path)
	b := s.Purchases()
	for _, line := range acknowledged[:enough] { // later ones may be torn
		var id, state string
		var draws uint64
		if _, err := fmt.Sscan(line, &id, &state, &draws); err != nil {
			t.Fatal(err)
		}
		if state == string(purchase.Void) {
			draws = 0
		}
		p, found, err := b.FindID(t.Context(), id)
		if err != nil || !found || string(p.State) != state || p.Draws != draws {
			t.Fatalf("%s: %s with %d draws, %v, %v", line, p.State, p.Draws, found, err)
		}
	}
	conserved := func() {
		t.Helper()
		bundle, _, err := b.FindBundle(t.Context(), "p_buyer")
		if err != nil {
			t.Fatal(err)
		}
		var drawn, returned uint64
		if err := s.read(t.Context(), func(s *session) error {
			if _, err := s.one("SELECT SUM(draws) FROM purchase", nil, &drawn); err != nil {
				return err
			}
			_, err := s.one("SELECT COALESCE(SUM(calls), 0) FROM refund", nil, &returned)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if bundle.Remaining+drawn-returned != bundle.Total {
			t.Errorf("%d remain, %d drawn, %d given back of %d", bundle.Remaining, drawn, returned, bundle.Total)
		}
	}
	conserved()
	left, err := b.Unfinished(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range left {
		if err := b.Finish(t.Context(), purchase.Purchase{ID: p.ID, State: purchase.Void, DoneAt: noon}); err != nil {
			t.Error(err)
		}
	}
	conserved()
	t.Logf("%d acknowledged, %d were left behind", len(acknowledged), len(left))
}
