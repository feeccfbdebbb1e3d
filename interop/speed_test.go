package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/x402"
)

// How much is asked of each facilitator. Farthing gets more requests a round, so that a round is long enough to measure;
// nobody is asked to verify the same payment twice.
const (
	speedRounds    = 3
	speedOpen      = 16 // requests at a time
	speedReference = 150
	speedFarthing  = 1500
	speedGoal      = 10 // times the reference
	speedFloor     = 6  // below this the run fails: other work on the machine moves the ratio by a third, not more
)

// speed is one line of the comparison.
type speed struct {
	What      string  `json:"what"`
	Chain     string  `json:"chain"`
	Farthing  float64 `json:"farthingPerSecond"`
	Reference float64 `json:"referencePerSecond"`
	Ratio     float64 `json:"ratio"`
	Goal      float64 `json:"goal"`
	Met       bool    `json:"met"`
	Rounds    int     `json:"rounds"`
	Open      int     `json:"openRequests"`
}

// BenchmarkVerify asks farthing's facilitator and the reference facilitator in turn to verify payments by EIP-3009, with
// simulation on the same anvil, and compares the medians. It prints the comparison as a line of JSON.
//
//	FARTHING_INTEROP=1 go test ./interop -run '^$' -bench Verify -benchtime 1x
func BenchmarkVerify(b *testing.B) {
	if os.Getenv("FARTHING_INTEROP") != "1" {
		b.Skip("needs node and the packages of npm ci in interop/: set FARTHING_INTEROP=1")
	}
	w := must(worlds["anvil"]())(b)
	p := w.payer(b)
	asked := offer(w.chain, w.usdc, exact.Scheme, "10000", nil)
	terms := x402.PaymentRequired{X402Version: 2, Resource: x402.Resource{URL: "http://127.0.0.1/x"}, Accepts: []x402.Requirements{asked}}
	bodies := func(n int) [][]byte {
		list := make([][]byte, n)
		for i := range list {
			list[i] = must(json.Marshal(x402.FacilitatorRequest{Payment: sign(b, p.PrivateKey, terms), Requirements: asked}))(b)
		}
		return list
	}
	ours, theirs := w.farthingFacilitator(b), w.referenceFacilitator(b)
	verifyAll(b, ours, bodies(speedReference)) // both know the token and are warm
	verifyAll(b, theirs, bodies(speedReference))
	for b.Loop() {
		var us, them []float64
		for range speedRounds {
			us = append(us, verifyAll(b, ours, bodies(speedFarthing)))
			them = append(them, verifyAll(b, theirs, bodies(speedReference)))
		}
		r := speed{What: "/verify with simulation", Chain: "anvil", Farthing: median(us), Reference: median(them), Goal: speedGoal, Rounds: speedRounds, Open: speedOpen}
		r.Ratio = r.Farthing / r.Reference
		r.Met = r.Ratio >= speedGoal
		line := must(json.Marshal(r))(b)
		fmt.Printf("%s\n", line)
		b.ReportMetric(r.Farthing, "verify/s")
		b.ReportMetric(r.Reference, "reference/s")
		b.ReportMetric(r.Ratio, "ratio")
		if r.Ratio < speedFloor {
			b.Errorf("only %.1f times the reference", r.Ratio)
		}
	}
}

// settleCount is how many payments are settled, settleOpen how many of them wait at the same time.
const (
	settleCount = 3000
	settleOpen  = 400
	settleBatch = 100 // to a transaction, as the facilitator's default has it
)

// BenchmarkSettle has farthing's facilitator settle payments by EIP-3009 on anvil, and then sends anvil the very
// transactions that do as much, written beforehand: what the second takes is the chain's own part of the first.
//
//	FARTHING_INTEROP=1 go test ./interop -run '^$' -bench Settle -benchtime 1x
func BenchmarkSettle(b *testing.B) {
	if os.Getenv("FARTHING_INTEROP") != "1" {
		b.Skip("needs node and the packages of npm ci in interop/: set FARTHING_INTEROP=1")
	}
	w := must(worlds["anvil"]())(b)
	payers := w.fund(b, 10)
	asked := offer(w.chain, w.usdc, exact.Scheme, "100", nil)
	terms := x402.PaymentRequired{X402Version: 2, Resource: x402.Resource{URL: "http://127.0.0.1/x"}, Accepts: []x402.Requirements{asked}}
	payments := func(n int) []x402.Payment {
		list := make([]x402.Payment, n)
		for i := range list {
			list[i] = sign(b, payers[i%len(payers)].PrivateKey, terms)
		}
		return list
	}
	bodies := func(n int) [][]byte {
		list := make([][]byte, n)
		for i, p := range payments(n) {
			list[i] = must(json.Marshal(x402.FacilitatorRequest{Payment: p, Requirements: asked}))(b)
		}
		return list
	}
	ours := w.farthingFacilitator(b)
	settled := func(text []byte) bool {
		var s x402.SettleResponse
		return json.Unmarshal(text, &s) == nil && s.Success
	}
	postAll(b, ours+"/settle", settleOpen, bodies(settleBatch), settled) // warm
	moved := settleBatch
	for b.Loop() {
		us := postAll(b, ours+"/settle", settleOpen, bodies(settleCount), settled)
		var calls []evm.Call
		for part := range slices.Chunk(payments(settleCount), settleBatch) {
			calls = append(calls, together(b, part, asked))
		}
		start := time.Now()
		w.send(b, account(accountFarthing3), calls...)
		chain := settleCount / time.Since(start).Seconds()
		var paid uint64
		for _, p := range payers {
			paid += p.paid(b)
		}
		if moved += 2 * settleCount; paid != uint64(100*moved) {
			b.Errorf("%d units moved, want %d", paid, 100*moved)
		}
		b.ReportMetric(us, "settle/s")
		b.ReportMetric(chain, "chain/s")
		b.ReportMetric(us/chain, "ratio")
	}
}

// together is one transaction that settles payments.
func together(t testing.TB, payments []x402.Payment, asked x402.Requirements) evm.Call {
	t.Helper()
	parts := make([]evm.Arg, len(payments))
	for i, p := range payments {
		a := must(exact.Read(p, asked))(t)
		m := must((&exact.Verifier{}).Move(a, a.Amount))(t)
		parts[i] = evm.TupleArg(evm.WordArg(m.To.Word()), evm.WordArg([32]byte{}), evm.BytesArg(m.Data))
	}
	selector := evm.Keccak256([]byte("aggregate3((address,bool,bytes)[])"))
	return evm.Call{To: desk.Multicall3, Data: evm.EncodeCall([4]byte(selector[:4]), evm.ListArg(parts...)), GasLimit: 12_000_000}
}

// verifyAll has each body verified once and returns how many a second were found valid.
func verifyAll(t testing.TB, facilitator string, bodies [][]byte) float64 {
	t.Helper()
	return postAll(t, facilitator+"/verify", speedOpen, bodies, func(text []byte) bool {
		var v x402.VerifyResponse
		return json.Unmarshal(text, &v) == nil && v.IsValid
	})
}

// postAll sends each body once, so many at a time, and returns how many a second were answered as they should be.
func postAll(t testing.TB, url string, open int, bodies [][]byte, good func(answer []byte) bool) float64 {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: open}, Timeout: patience}
	defer client.CloseIdleConnections()
	var next atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range open {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(bodies)); i = next.Add(1) - 1 {
				resp, err := client.Post(url, "application/json", bytes.NewReader(bodies[i]))
				if err != nil {
					t.Error(err)
					return
				}
				text, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || !good(text) {
					t.Errorf("%s: %d %s %v", url, resp.StatusCode, text, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(len(bodies)) / time.Since(start).Seconds()
}

func median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}
