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

	"github.com/farthing402/farthing/exact"
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

// verifyAll sends each body once, speedOpen at a time, and returns how many a second were found valid.
func verifyAll(t testing.TB, facilitator string, bodies [][]byte) float64 {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: speedOpen}, Timeout: patience}
	defer client.CloseIdleConnections()
	var next atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range speedOpen {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(bodies)); i = next.Add(1) - 1 {
				resp, err := client.Post(facilitator+"/verify", "application/json", bytes.NewReader(bodies[i]))
				if err != nil {
					t.Error(err)
					return
				}
				text, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				var v x402.VerifyResponse
				if err != nil || json.Unmarshal(text, &v) != nil || !v.IsValid {
					t.Errorf("%s: %d %s %v", facilitator, resp.StatusCode, text, err)
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
