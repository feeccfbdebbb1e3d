package paywalltest_test

import (
	"fmt"
	"io"
	"net/http"

	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/paywall/paywalltest"
)

// shop is what is sold: a program's own routes.
func shop(pw *paywall.Paywall) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /quote/{symbol}", pw.Price("$0.0005", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s 12.50", r.PathValue("symbol"))
	})))
	mux.Handle("POST /generate", pw.Price("$0.00001 per token", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paywall.Charge(r.Context(), 120)
		fmt.Fprint(w, "a hundred and twenty tokens of text")
	}), paywall.UpTo("$0.02")))
	return mux
}

// A seller's test of its own price list: what a buyer gets, what it is charged, and that the money arrives. In a test, t is the
// *testing.T.
func Example_paidAPI() {
	t := &printer{}
	defer t.end()

	s := paywalltest.NewServer(t, shop)
	resp, err := s.Client.Get(s.URL + "/quote/ACME")
	show(resp, err)
	resp, err = s.Client.Post(s.URL+"/generate", "text/plain", nil)
	show(resp, err)

	settled := s.Settle()
	fmt.Println("collected", s.Token.Asset().Format(settled.Collected), "for", settled.Guarantees, "payments")
	// Output:
	// 200 "ACME 12.50" charged 500 of 500
	// 200 "a hundred and twenty tokens of text" charged 1200 of 20000
	// collected 0.0017 USDC for 2 payments
}

func show(resp *http.Response, err error) {
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	receipt, _ := payer.Receipt(resp)
	fmt.Printf("%d %q charged %s of %s", resp.StatusCode, body, receipt.Charged, receipt.Signed)
	if err != nil {
		fmt.Print(err)
	}
	fmt.Println()
}

// printer stands in for *testing.T, which examples do not have.
type printer struct{ cleanup []func() }

func (p *printer) Helper()                           {}
func (p *printer) Cleanup(f func())                  { p.cleanup = append(p.cleanup, f) }
func (p *printer) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func (p *printer) end() {
	for i := len(p.cleanup) - 1; i >= 0; i-- {
		p.cleanup[i]()
	}
}
