package api

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/webhook/courier"
	"github.com/farthing402/farthing/x402"
)

// Config is what the handler serves. House must be set.
type Config struct {
	House  *clearing.House // deployment, keys, windows and admitted forms are its
	Tokens []network.Token // that can be collateral
	RPCURL string          // of the chain, for clients; empty: not told
	Dev    bool            // also serve what needs a login
	Now    func() time.Time
	Health Health
	// Ready is asked before guarantees are admitted, and its error is the answer; nil: always.
	Ready func() error
	// Webhooks keeps endpoints and what is delivered to them; nil: there are none.
	Webhooks *courier.Courier
	Log      *slog.Logger // nil: silence
}

// Health says how the parts that the clearing house stands on are asked how they are. Nil is always well.
type Health struct {
	DB, Chain func(context.Context) error
	Node      func() (name string, leads bool) // who answers, of several on one database
}

// Limits of what is read.
const (
	ItemsMax     = 256     // guarantees or notes in one request
	bodyBytesMax = 1 << 20 // 256 requests of stock clients come to a quarter of it
	itemBytesMax = 4 << 10
	cyclesMax    = 100
	unsettledMax = 1000
)

type handler struct {
	Config
	mux *http.ServeMux
}

// answer is a handler that returns what to answer with 200, or an error.
type answer func(*http.Request) (any, error)

// New makes the handler.
func New(c Config) http.Handler {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	h := &handler{Config: c, mux: http.NewServeMux()}
	h.mux.HandleFunc("/core/health", h.health)
	h.route("/core/public-params", methods{"GET": h.publicParams})
	h.route("/core/tokens", methods{"GET": h.tokens})
	h.route("/core/guarantees", methods{"POST": h.postGuarantees})
	h.route("/core/notes", methods{"POST": h.postNotes})
	h.route("/core/cycles", methods{"GET": h.cycles})
	h.route("/core/cycles/current", methods{"GET": h.currentCycle})
	h.route("/core/cycles/{cycle}", methods{"GET": h.cycle})
	h.route("/core/cycles/{cycle}/participants/{participant}/clearing-proof", methods{"GET": h.clearingProof})
	h.route("/core/cycles/{cycle}/participants/{participant}/clearing-action", methods{"GET": h.clearingAction})
	h.route("/core/cycles/{cycle}/participants/{participant}/statement", methods{"GET": h.private(h.statement)})
	h.route("/core/signers/{owner}", methods{"GET": h.signers})
	h.route("/core/participants/{participant}/unsettled", methods{"GET": h.unsettled})
	h.route("/core/users/{user}/assets/{asset}", methods{"GET": h.private(h.assetBalance)})
	h.route("/core/users/{user}/balance", methods{"GET": h.private(h.balance)})
	h.route("/core/recipients/{recipient}/payments", methods{"GET": h.private(h.payments)})
	h.route("/core/guarantees/{digest}", methods{"GET": h.private(h.guarantee)})
	for path, ms := range h.webhookRoutes() {
		h.route(path, ms)
	}
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.refuse(w, r, x402.Errorf("not_found", "nothing at %s", clip(r.URL.Path)))
	})
	return h
}

// ServeHTTP implements [http.Handler].
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

type methods map[string]answer

func (h *handler) route(pattern string, ms methods) {
	allowed := make([]string, 0, len(ms))
	for m := range ms {
		allowed = append(allowed, m)
	}
	slices.Sort(allowed)
	h.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		f, ok := ms[method]
		if !ok {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			h.refuse(w, r, errMethod(strings.Join(allowed, ", ")))
			return
		}
		out, err := f(r)
		if err != nil {
			h.refuse(w, r, err)
			return
		}
		h.write(w, r, http.StatusOK, out)
	})
}

func errMethod(allowed string) error {
	return x402.Errorf("method_not_allowed", "this path takes %s only", allowed)
}

// private serves f in development mode only.
func (h *handler) private(f answer) answer {
	if h.Dev {
		return f
	}
	return func(*http.Request) (any, error) {
		return nil, x402.Errorf("unauthorized", "this needs a login")
	}
}
