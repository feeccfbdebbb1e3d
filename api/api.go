package api

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/login"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/webhook/courier"
	"github.com/farthing402/farthing/x402"
)

// Config is what the handler serves. House must be set.
type Config struct {
	House  *clearing.House // deployment, keys, windows and admitted forms are its
	Login  *login.Service  // nil: nobody can log in, so what needs it is refused
	Admins []evm.Address   // in charge whatever the book says: the operator
	Tokens []network.Token // that can be collateral
	RPCURL string          // of the chain, for clients
	Now    func() time.Time
	Health Health
	// Ready is asked before guarantees are admitted, and its error is the answer; nil: always.
	Ready func() error
	// Webhooks keeps endpoints and what is delivered to them; nil: there are none.
	Webhooks *courier.Courier
	Limits   Limits
	// Proxies are those whose X-Forwarded-For is believed; anybody else's is not looked at.
	Proxies []netip.Prefix
	// Inside says that every request comes from this process itself: it may read what anybody may, and is not limited.
	Inside bool
	// Metrics is where the handler counts; nil: in a registry of its own. /metrics shows all that is in it.
	Metrics *prometheus.Registry
	// MetricsOpen shows /metrics to everybody who reaches the handler; otherwise admins and API keys with its scope see it.
	MetricsOpen bool
	Log         *slog.Logger // nil: silence
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
	mux     *http.ServeMux
	limits  *limits
	metrics *metrics
}

// answer is a handler that returns what to answer, or an error. A [page] is written as it is, all else as JSON with 200.
type answer func(*http.Request) (any, error)

// page is an answer that is not JSON, or not of status 200.
type page struct {
	status int
	kind   string // content type
	body   []byte
	stream func(io.Writer) error // in place of a body: for what is too large to hold
}

// New makes the handler.
func New(c Config) http.Handler {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	h := &handler{Config: c, mux: http.NewServeMux(), limits: c.Limits.start()}
	h.metrics = newMetrics(c, h.limits)
	paths := make(map[string]methods)
	for _, r := range h.routes() {
		method, path, _ := strings.Cut(r.pattern, " ")
		if paths[path] == nil {
			paths[path] = make(methods)
		}
		paths[path][method] = r
	}
	for path, ms := range paths {
		h.mux.HandleFunc(path, h.serve(path, ms))
	}
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.refuse(w, r, x402.Errorf("not_found", "nothing at %s", clip(r.URL.Path)))
	})
	return h
}

// ServeHTTP implements [http.Handler].
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// route is one thing that can be asked for. openapi.yaml describes each, and a test compares the two.
type route struct {
	pattern string // method and path
	access  access
	answer  answer
}

type methods map[string]route

func (h *handler) routes() []route {
	return append(h.webhookRoutes(), []route{
		{"POST /auth/nonce", open, h.nonce},
		{"POST /auth/verify", open, h.verifyLogin},
		{"POST /auth/refresh", open, h.refresh},
		{"POST /auth/logout", open, h.logout},

		{"GET /core/health", open, h.health},
		{"GET /core/public-params", open, h.publicParams},
		{"GET /core/tokens", open, h.tokens},
		{"GET /core/openapi.json", open, h.openAPI},

		{"POST /core/guarantees", bySignature, h.postGuarantees},
		{"POST /core/notes", bySignature, h.postNotes},
		{"GET /core/guarantees", reader, h.listGuarantees},
		{"GET /core/guarantees/{guarantee}", reader, h.guarantee},
		{"GET /core/guarantees/{guarantee}/certificate", reader, h.certificate},
		{"GET /core/recipients/{recipient}/payments", own("recipient", RoleAdmin), h.payments},
		{"GET /core/users/{user}/assets/{asset}", own("user", RoleAdmin, RoleFacilitator), h.assetBalance},
		{"GET /core/users/{user}/balance", own("user", RoleAdmin, RoleFacilitator), h.balance},

		{"GET /core/cycles", open, h.cycles},
		{"GET /core/cycles/current", open, h.cycle},
		{"GET /core/cycles/{cycle}", open, h.cycle},
		{"GET /core/cycles/{cycle}/timings", open, h.timings},
		{"GET /core/cycles/{cycle}/participants/{participant}/clearing-proof", own("participant", RoleAdmin, RoleFacilitator), h.clearingProof},
		{"GET /core/cycles/{cycle}/participants/{participant}/clearing-action", reader, h.clearingAction},
		{"GET /core/cycles/{cycle}/participants/{participant}/statement", own("participant", RoleAdmin), h.statement},
		{"GET /core/participants/{participant}/positions", own("participant", RoleAdmin), h.positions},
		{"GET /core/participants/{participant}/unsettled", open, h.unsettled},
		{"GET /core/signers/{owner}", open, h.signers},

		{"POST /core/users/{user}/suspension", administers(login.ScopeSuspend), h.suspend},
		{"GET /core/admin/api-keys", administers(login.ScopeKeys), h.keys},
		{"POST /core/admin/api-keys", administers(login.ScopeKeys), h.makeKey},
		{"POST /core/admin/api-keys/{id}/revoke", administers(login.ScopeKeys), h.revokeKey},
		{"GET /core/admin/members", administers(login.ScopeMembers), h.members},
		{"GET /core/admin/members/{address}", administers(login.ScopeMembers), h.member},
		{"PUT /core/admin/members/{address}", administers(login.ScopeMembers), h.putMember},
		{"GET /metrics", h.seesMetrics(), h.showMetrics},
	}...)
}

func (h *handler) serve(path string, ms methods) http.HandlerFunc {
	names := strings.Join(slices.Sorted(maps.Keys(ms)), ", ")
	return func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		seen := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		defer func() { h.metrics.answered(path, seen.status, time.Since(begun)) }()
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		route, ok := ms[method]
		if !ok {
			w.Header().Set("Allow", names)
			h.refuse(seen, r, x402.Errorf("method_not_allowed", "this path takes %s only", names))
			return
		}
		body := &meteredBody{ReadCloser: r.Body, room: &h.limits.bytes}
		defer body.free()
		r.Body = body
		out, err := h.answer(r, route)
		if err != nil {
			if e := h.refuse(seen, r, err); posts(route.pattern) {
				h.blame(r, e)
			}
			return
		}
		h.write(seen, r, http.StatusOK, out)
	}
}

// answer lets a request through its limits and its access to what answers it. Whoever posts is limited where the items of
// the body are counted.
func (h *handler) answer(r *http.Request, route route) (any, error) {
	now := h.Now()
	switch {
	case h.Inside:
	case strings.HasPrefix(route.pattern, "POST /auth/"):
		if h.Login == nil {
			return nil, x402.Errorf("unauthorized", "nobody can log in here")
		}
		if err := h.limits.login.take(h.from(r), 1, now); err != nil {
			return nil, err
		}
	case posts(route.pattern):
		if err := h.limits.refused.has(h.from(r), 1, now); err != nil {
			return nil, err
		}
	case route.pattern != "GET /core/health":
		if err := h.limits.read.take(h.from(r), 1, now); err != nil {
			return nil, err
		}
	}
	r, err := route.access(h, r)
	if err != nil {
		return nil, err
	}
	return route.answer(r)
}

func posts(pattern string) bool {
	return pattern == "POST /core/guarantees" || pattern == "POST /core/notes"
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements [http.ResponseWriter].
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController find what the server gave.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
