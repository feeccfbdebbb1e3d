package paywall_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/farthing402/farthing/paywall"
)

// A quote for $0.0005 and text by the token, on one server.
func Example_paidAPI() {
	pw, err := paywall.New(paywall.Config{
		PayTo: "0x5290000000000000000000000000000000000001", Network: "base", ClearingHouse: "https://clear.example.org",
		Purchases: paywall.Memory(),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	mux := http.NewServeMux()
	mux.Handle("GET /quote/{symbol}", pw.Price("$0.0005", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"symbol":%q,"price":12.5}`, r.PathValue("symbol"))
	})))
	mux.Handle("POST /generate", pw.Price("$0.00001 per token", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paywall.Charge(r.Context(), 120)
	}), paywall.UpTo("$0.02")))
	if err := pw.Check(); err != nil { // Config.Signer would mend it
		fmt.Println(err)
	}

	server := httptest.NewServer(mux)
	defer server.Close()
	resp, err := http.Get(server.URL + "/quote/ACME")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	fmt.Println(resp.StatusCode, resp.Header.Get("PAYMENT-REQUIRED") != "")
	// Output:
	// $0.00001 per token: what is not used is let go by the payee's signature, which takes its key
	// 402 true
}
