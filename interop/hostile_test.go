package interop

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/farthing402/farthing/x402"
)

// between stands between a gate and the published facilitator. settle does what it likes with a settlement; forward
// passes it on and returns what the facilitator says.
func (w *world) between(t testing.TB, settle func(w http.ResponseWriter, forward func() x402.SettleResponse)) string {
	real := w.referenceFacilitator(t)
	pass := func(path string, body []byte) (int, []byte) {
		method := http.MethodPost
		if body == nil {
			method = http.MethodGet
		}
		r := must(http.NewRequest(method, real+path, bytes.NewReader(body)))(t)
		r.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Error(err)
			return http.StatusBadGateway, nil
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, text
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /supported", func(w http.ResponseWriter, _ *http.Request) {
		status, text := pass("/supported", nil)
		w.WriteHeader(status)
		_, _ = w.Write(text)
	})
	mux.HandleFunc("POST /verify", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		status, text := pass("/verify", body)
		w.WriteHeader(status)
		_, _ = w.Write(text)
	})
	mux.HandleFunc("POST /settle", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		settle(w, func() (s x402.SettleResponse) {
			_, text := pass("/settle", body)
			if err := json.Unmarshal(text, &s); err != nil {
				t.Errorf("the facilitator says %s", text)
			}
			return s
		})
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

func says(w http.ResponseWriter, s x402.SettleResponse) {
	_ = json.NewEncoder(w).Encode(s)
}

// hangUp closes the connection without an answer.
func hangUp(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
}

// Whatever a facilitator does with a settlement, what is handed out is what was paid: a seller that looks at the chain
// itself believes no word that the chain does not bear out, and takes what the chain has for paid.
func TestFacilitatorsThatCannotBeTrusted(t *testing.T) {
	onAnvil(t, func(t *testing.T, w *world) {
		const nowhere = "0x1111111111111111111111111111111111111111111111111111111111111111"
		for what, c := range map[string]struct {
			settle func(first bool, w http.ResponseWriter, forward func() x402.SettleResponse)
			moves  bool // whether money moves in the end
		}{
			"settles, and dies before it answers": {func(_ bool, w http.ResponseWriter, forward func() x402.SettleResponse) {
				forward()
				hangUp(w)
			}, true},
			"dies, and settles when asked again": {func(first bool, w http.ResponseWriter, forward func() x402.SettleResponse) {
				if first {
					hangUp(w)
					return
				}
				says(w, forward())
			}, true},
			"settles, and says pending": {func(first bool, w http.ResponseWriter, forward func() x402.SettleResponse) {
				s := forward()
				if first {
					s.Success, s.ErrorReason = false, "settlement_pending"
				}
				says(w, s)
			}, true},
			"settles, and denies it": {func(_ bool, w http.ResponseWriter, forward func() x402.SettleResponse) {
				s := forward()
				says(w, x402.SettleResponse{ErrorReason: "unexpected_settle_error", Network: s.Network})
			}, true},
			"says success, and does nothing": {func(_ bool, w http.ResponseWriter, _ func() x402.SettleResponse) {
				says(w, x402.SettleResponse{Success: true, Transaction: nowhere, Network: "eip155:84532"})
			}, false},
			"answers garbage": {func(_ bool, w http.ResponseWriter, _ func() x402.SettleResponse) {
				_, _ = io.WriteString(w, "<html>502</html>")
			}, false},
		} {
			t.Run(what, func(t *testing.T) {
				t.Parallel()
				var asked atomic.Int32
				facilitator := w.between(t, func(rw http.ResponseWriter, forward func() x402.SettleResponse) {
					c.settle(asked.Add(1) == 1, rw, forward)
				})
				g := w.gateOf(t, gateFile{Facilitator: facilitator, Routes: "GET /weather: $0.01"}, "--rpc-url", w.rpc)
				p := w.payer(t)
				r := w.held(t, w.stock()["@x402/fetch"], p, g.url+"/weather")
				var last answer
				for range 12 {
					if last = present(t, "GET", g.url+"/weather", "", r.carrying()); last.status == 200 {
						break
					}
					if strings.Contains(last.body, "goods") {
						t.Errorf("%d with the goods: %s", last.status, last.body)
					}
				}
				if g.served("/weather") != 1 {
					t.Errorf("the work was done %d times", g.served("/weather"))
				}
				paid, n := p.paid(t), p.transfers(t)
				if c.moves && (last.status != 200 || !last.receipt || !strings.Contains(last.body, "goods") || paid != 10_000 || n != 1) {
					t.Errorf("paid %d in %d transfers, and in the end got %d %s", paid, n, last.status, last.body)
				}
				if !c.moves && (last.status == 200 || last.receipt || paid != 0) {
					t.Errorf("paid %d, and in the end got %d %s", paid, last.status, last.body)
				}
			})
		}
	})
}
