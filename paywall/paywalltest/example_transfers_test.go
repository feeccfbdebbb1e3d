package paywalltest_test

import (
	"fmt"
	"net/http"
	"time"

	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/paywall/paywalltest"
)

// The same shop, paid by transfers, and a route that is sold a hundred calls at once: its first call is paid with all of
// them, the others move no money.
func Example_transfers() {
	t := &printer{}
	defer t.end()

	s := paywalltest.NewServer(t, func(pw *paywall.Paywall) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/", shop(pw))
		mux.Handle("GET /tick", pw.Price("$0.0001", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "12.50")
		}), paywall.Bundle("100 calls", 24*time.Hour)))
		return mux
	}, paywalltest.Transfers())
	show(s.Client.Get(s.URL + "/quote/ACME"))
	show(s.Client.Post(s.URL+"/generate", "text/plain", nil))
	for range 3 {
		show(s.Client.Get(s.URL + "/tick"))
	}
	fmt.Println("collected", s.Token.Asset().Format(s.Wallet(s.Seller)))
	// Output:
	// 200 "ACME 12.50" charged 500 of 500
	// 200 "a hundred and twenty tokens of text" charged 1200 of 20000
	// 200 "12.50" charged 10000 of 10000
	// 200 "12.50" charged 0 of 0
	// 200 "12.50" charged 0 of 0
	// collected 0.0117 USDC
}
