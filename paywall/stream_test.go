package paywall_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// open sends a call and leaves the answer's body to be read.
func (w *world) stream(ctx context.Context, c call) *http.Response {
	w.t.Helper()
	r, err := http.NewRequestWithContext(ctx, c.method, w.server.URL+c.path, strings.NewReader(c.body))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header = c.header
	resp, err := w.server.Client().Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestStreaming(t *testing.T) {
	t.Parallel()
	for _, through := range []string{"Flush", "ResponseController"} {
		t.Run(through, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			next := make(chan struct{})
			w.handle("GET /x", "$0.00001 per token", func(rw http.ResponseWriter, r *http.Request) {
				rw.Header().Set("Content-Type", "text/event-stream")
				rw.Header().Set("Trailer", "X-Sum")
				for i := range 3 {
					fmt.Fprintf(rw, "data: %d\n\n", i)
					paywall.Charge(r.Context(), 10)
					if through == "Flush" {
						rw.(http.Flusher).Flush()
					} else if err := http.NewResponseController(rw).Flush(); err != nil {
						t.Error(err)
					}
					<-next
				}
				if err := http.NewResponseController(rw).SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
					t.Errorf("deadline through Unwrap: %v", err)
				}
				rw.Header().Set("X-Sum", "3")
				rw.Header().Set("Trailer:Payment-Response", "forged")
			}, paywall.UpTo("$0.02"))
			paid := w.paid(get("/x"))
			resp := w.stream(context.Background(), paid)
			early, ok := x402.ReadReceipt(resp)
			if !ok || !early.Success || early.Amount != "" || early.Purchase == "" || len(early.Certificate) == 0 {
				t.Errorf("receipt before the end: %+v", early)
			}
			lines := bufio.NewReader(resp.Body)
			var all strings.Builder
			for i := range 3 {
				line, err := lines.ReadString('\n') // arrives while the handler waits
				if err != nil || line != fmt.Sprintf("data: %d\n", i) {
					t.Fatalf("line %q, %v", line, err)
				}
				blank, _ := lines.ReadString('\n')
				all.WriteString(line + blank)
				next <- struct{}{}
			}
			rest, err := io.ReadAll(lines)
			if err != nil || len(rest) != 0 {
				t.Fatal(err, rest)
			}
			resp.Header = nil
			final, ok := x402.ReadReceipt(resp)
			if !ok || final.Amount != "300" || resp.Trailer.Get("X-Sum") != "3" || len(resp.Trailer["Payment-Response"]) != 1 {
				t.Errorf("trailers %v", resp.Trailer)
			}
			if again := w.do(paid); again.body != all.String() || receiptOf(t, again).Amount != "300" {
				t.Errorf("stored answer %q", again.body)
			}
			w.drain()
			if got := w.house.owed(); got != money.Units(300) {
				t.Errorf("owed %s", got)
			}
		})
	}
}

func TestAnAnswerTooLargeToKeep(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *paywall.Config) { c.AnswerBytes = 10 })
	w.handle("GET /x", "$0.0005", func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, "0123456789")
		_, _ = io.WriteString(rw, "abc")
	})
	paid := w.paid(get("/x"))
	a := w.do(paid)
	if a.StatusCode != 200 || a.body != "0123456789abc" {
		t.Fatalf("status %d: %q", a.StatusCode, a.body)
	}
	a.Response.Header = nil
	if r := receiptOf(t, a); r.Amount != "500" {
		t.Errorf("trailing receipt %+v", r)
	}
	if p := w.book.only(t); p.State != purchase.Committed || p.Answer.Whole || p.Answer.Body != nil {
		t.Errorf("stored %+v", p.Answer)
	}
	again := w.do(paid)
	if again.StatusCode != 409 || again.code() != "payment_used" || receiptOf(t, again).Amount != "500" {
		t.Errorf("again: %d %s", again.StatusCode, again.body)
	}
}

func TestAStreamThatBreaksIsNotCharged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "half")
		rw.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	resp := w.stream(context.Background(), w.paid(get("/x")))
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the connection ended as if all were well")
	}
	w.drain()
	if p := w.book.only(t); p.State != purchase.Void || !w.house.owed().IsZero() {
		t.Errorf("%s, owed %s", p.State, w.house.owed())
	}
}

func TestABuyerThatVanishesIsNotCharged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	started, gone, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	w.cfg.OnSale = nil
	w.handle("GET /x", "$0.0005", func(rw http.ResponseWriter, r *http.Request) {
		defer close(ended)
		close(started)
		<-r.Context().Done()
		close(gone)
		hello(rw, r)
	})
	paid := w.paid(get("/x"))
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-started; cancel() }()
	r, err := http.NewRequestWithContext(ctx, "GET", w.server.URL+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = paid.header
	if _, err := w.server.Client().Do(r); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	<-gone
	<-ended
	w.server.Close() // waits for the request to end
	w.drain()
	if p := w.book.only(t); p.State != purchase.Void || p.Outcome != "buyer_gone" || !w.house.owed().IsZero() {
		t.Errorf("%s, %s, owed %s", p.State, p.Outcome, w.house.owed())
	}
}

func TestHijackIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", func(rw http.ResponseWriter, r *http.Request) {
		_, _, err := http.NewResponseController(rw).Hijack()
		fmt.Fprint(rw, errors.Is(err, http.ErrNotSupported))
	})
	if a := w.do(w.paid(get("/x"))); a.body != "true" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

func TestEarlyHintsPass(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Link", "</style.css>; rel=preload")
		rw.Header().Set("Payment-Response", "forged")
		rw.WriteHeader(http.StatusEarlyHints)
		rw.Header().Del("Link")
		hello(rw, r)
	})
	var hints []string
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, h.Get("Link"), h.Get("Payment-Response")))
		return nil
	}})
	resp := w.stream(ctx, w.paid(get("/x")))
	if len(hints) != 1 || hints[0] != "103</style.css>; rel=preload" || resp.StatusCode != 200 || resp.Header.Get("Link") != "" {
		t.Errorf("hints %q, then %d %v", hints, resp.StatusCode, resp.Header)
	}
}

func TestHeadIsSoldToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", hello)
	head := call{method: "HEAD", path: "/x"}
	if a := w.do(w.paid(head)); a.StatusCode != 200 || a.body != "" || receiptOf(t, a).Amount != "500" {
		t.Errorf("%d %q", a.StatusCode, a.body)
	}
}
