package payer_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/x402"
)

// A budget refuses what is dearer than its owner allowed, before anything is signed, and says what would help.
func Example_budget() {
	seller := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = x402.WritePaymentRequired(w, x402.Terms{
			Alternative: "/generate-small",
			Required: x402.PaymentRequired{X402Version: 2, Resource: x402.Resource{URL: "http://" + r.Host + "/generate"}, Accepts: []x402.Requirements{{
				Scheme: "4mica-credit", Network: "eip155:31337", Amount: "20000", Asset: "0xFA12000000000000000000000000000000000001",
				PayTo: "0x5200000000000000000000000000000000000001", MaxTimeoutSeconds: 60,
			}}},
		}, "", nil)
	}))
	defer seller.Close()

	key, err := evm.GenerateKey()
	if err != nil {
		panic(err)
	}
	p, err := payer.New(payer.Config{
		Key:    key,
		Budget: payer.Budget{PerCall: "$0.01", PerDay: "$1"},
		// Usually ClearingHouse: "https://clear.example.org", which is asked for this once.
		Houses: []guarantee.Deployment{{ChainID: 31337, Name: "4Mica 0x55", Version: "1", Vault: evm.Address{0x55}}},
	})
	if err != nil {
		panic(err)
	}
	_, err = (&http.Client{Transport: p}).Get(seller.URL + "/generate")
	if need := (*payer.NeedError)(nil); errors.As(err, &need) {
		fmt.Println(need.Code+":", need.Reason)
		for _, way := range need.Ways {
			fmt.Println("-", way.Text)
		}
	}
	// Output:
	// budget_exceeded: asks $0.02, your limit per call is $0.01. Nothing was signed
	// - the seller's cheaper /generate-small
	// - --max '$0.02'
}
