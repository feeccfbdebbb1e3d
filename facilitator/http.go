package facilitator

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/x402"
)

// How many calls are worked on at once. Those of /settle mostly wait for a chain, and must not keep the others out.
const (
	settleMax = 4096
	workMax   = 1024
)

// handler is a facilitator's HTTP face.
type handler struct {
	f       *Facilitator
	mux     *http.ServeMux
	metrics http.Handler
	keys    map[[32]byte]string // names by the hash of the secret, which takes as long to look up for any
	limits  limiter

	listing   sync.Mutex
	catalogue map[string]entry // guarded by listing: what the catalogue has, nil until it was read
	order     []string         // guarded by listing: its names, those seen first in front
}

// Handler returns the service's HTTP face. Time limits are the server's; /settle may take as long as the published clients
// wait, 90 seconds.
func (f *Facilitator) Handler() http.Handler { return f.http }

// Registry is where the service counts what /metrics shows, for whoever shows it elsewhere, with more.
func (f *Facilitator) Registry() *prometheus.Registry { return f.metrics.registry }

// Routes are the paths that [Facilitator.Handler] serves, as patterns of a ServeMux, for whoever serves more beside them.
var Routes = []string{"/{$}", "/verify", "/settle", "/tabs", "/supported", "/discovery/resources", "/settlements/", "/health", "/ready", "/metrics"}

func newHandler(f *Facilitator) *handler {
	h := &handler{
		f: f, mux: http.NewServeMux(), metrics: f.metrics.handler(), keys: make(map[[32]byte]string),
		limits: limiter{perMinute: f.PerMinute, now: f.Now},
	}
	for _, k := range f.Keys {
		h.keys[sha256.Sum256([]byte(k.Secret))] = k.Name
	}
	h.route("/verify", http.MethodPost, h.guarded(workMax, h.verify))
	h.route("/settle", http.MethodPost, h.guarded(settleMax, h.settle))
	h.route("/tabs", http.MethodPost, h.guarded(workMax, h.tab))
	h.route("/supported", http.MethodGet, h.supported)
	h.route("/{$}", http.MethodGet, h.welcome)
	h.route("/discovery/resources", http.MethodGet, h.resources)
	h.route("/settlements/{id}", http.MethodGet, h.guarded(workMax, h.settlement))
	h.route("/health", http.MethodGet, h.health)
	h.route("/ready", http.MethodGet, h.ready)
	h.route("/metrics", http.MethodGet, func(w http.ResponseWriter, r *http.Request) error { h.metrics.ServeHTTP(w, r); return nil })
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.refuse(w, r, x402.Errorf("not_found", "nothing at %s", clip(r.URL.Path)))
	})
	return h
}

// ServeHTTP implements [http.Handler].
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// answer is a handler that writes, or returns why it does not.
type answer func(http.ResponseWriter, *http.Request) error

func (h *handler) route(pattern, method string, serve answer) {
	h.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		s := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		if r.Method != method && !(method == http.MethodGet && r.Method == http.MethodHead) {
			s.Header().Set("Allow", method)
			h.refuse(s, r, x402.Errorf("method_not_allowed", "this path takes %s only", method))
		} else if err := serve(s, r); err != nil {
			h.refuse(s, r, err)
		}
		h.f.metrics.answered(pattern, s.status, time.Since(begun))
	})
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// guarded asks for a key where there are any, and bounds how much comes from one place and at once.
func (h *handler) guarded(most int, serve answer) answer {
	work := make(chan struct{}, most)
	return func(w http.ResponseWriter, r *http.Request) error {
		who, err := h.caller(r)
		if err != nil {
			return err
		}
		if left, wait := h.limits.take(who); h.limits.perMinute > 0 {
			w.Header().Set("X-RateLimit-Limit", strconv.Itoa(h.limits.perMinute))
			w.Header().Set("X-RateLimit-Remaining", strconv.Itoa(max(0, left)))
			w.Header().Set("X-RateLimit-Reset", strconv.Itoa(seconds(wait)))
			if left < 0 {
				w.Header().Set("Retry-After", strconv.Itoa(seconds(wait)))
				return x402.Errorf("rate_limited", "more than %d calls in a minute", h.limits.perMinute)
			}
		}
		select {
		case work <- struct{}{}:
			defer func() { <-work }()
		default:
			return x402.Errorf("settlement_busy", "%d calls are worked on already", most)
		}
		return serve(w, r)
	}
}

func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// caller names who calls: the key's name, or else the address.
func (h *handler) caller(r *http.Request) (string, error) {
	if len(h.keys) == 0 {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = r.RemoteAddr
		}
		return host, nil
	}
	secret := r.Header.Get("X-API-Key")
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); secret == "" && ok && strings.EqualFold(scheme, "Bearer") {
		secret = strings.TrimSpace(token)
	}
	name, ok := h.keys[sha256.Sum256([]byte(secret))]
	if !ok || secret == "" {
		return "", x402.Errorf("api_key_invalid", "no key, or one that is not known")
	}
	return "key " + name, nil
}

// read reads the body of a call. A payment that cannot be read is a refusal; a body that cannot is an error.
func read(r *http.Request) (q x402.FacilitatorRequest, refused *x402.Error, err error) {
	q, e := x402.ReadFacilitatorRequest(r.Body)
	switch {
	case e == nil:
		return q, nil, nil
	case e.Code == "malformed_request" || e.Code == "body_too_large":
		return q, nil, e
	}
	return q, e, nil
}

func (h *handler) verify(w http.ResponseWriter, r *http.Request) error {
	q, refused, err := read(r)
	if err != nil {
		return err
	}
	if refused != nil {
		return write(w, x402.VerifyResponse{InvalidReason: refused.Code, InvalidMessage: refused.Error()})
	}
	v, err := h.f.Verify(r.Context(), q.Payment, q.Requirements)
	if err != nil {
		return err
	}
	if v.IsValid {
		h.discover(w, r, q)
	}
	v.InvalidReason = x402.ReasonFor(q.Payment.Dialect, q.Payment.Version, v.InvalidReason)
	return write(w, v)
}

func (h *handler) settle(w http.ResponseWriter, r *http.Request) error {
	q, refused, err := read(r)
	if err != nil {
		return err
	}
	if refused != nil {
		return write(w, x402.SettleResponse{ErrorReason: refused.Code, ErrorMessage: refused.Error()})
	}
	// Waiting for a chain may take longer than the server's limits for requests. A server that cannot be told keeps them.
	patient := http.NewResponseController(w)
	_ = patient.SetReadDeadline(time.Time{})
	_ = patient.SetWriteDeadline(time.Now().Add(waitMax + 15*time.Second))
	s, err := h.f.Settle(r.Context(), q.Payment, q.Requirements)
	if err != nil {
		return err
	}
	if s.Success {
		h.discover(w, r, q)
	}
	if s.ErrorReason != "settlement_pending" { // whoever asks again has to recognise it
		s.ErrorReason = x402.ReasonFor(q.Payment.Dialect, q.Payment.Version, s.ErrorReason)
	}
	if q.Payment.Dialect == x402.T402 && !s.Success && s.ErrorReason != "settlement_pending" {
		s.Transaction = "" // T402 takes a hash for a payment
	}
	if s, err = s.In(q.Payment.Dialect, q.Requirements); err != nil {
		return err
	}
	return write(w, s)
}

// discover lists what a good payment pays for, and tells the seller.
func (h *handler) discover(w http.ResponseWriter, r *http.Request, q x402.FacilitatorRequest) {
	if status, said := h.list(r.Context(), q.Payment, q.Requirements); said {
		x402.SetExtensionResponses(w.Header(), map[string]x402.ExtensionStatus{x402.BazaarKey: status})
	}
}

// tab gives a request id to whoever is about to sign a guarantee.
func (h *handler) tab(w http.ResponseWriter, r *http.Request) error {
	if len(h.f.promises) == 0 {
		return x402.Errorf("not_found", "guarantees are not served here")
	}
	q, refused := x402.ReadTabRequest(r.Body)
	if refused != nil {
		return refused
	}
	answer, err := h.f.tab(r.Context(), q)
	if err != nil {
		return err
	}
	return write(w, answer)
}

func (h *handler) supported(w http.ResponseWriter, r *http.Request) error {
	s, err := h.f.Supported(r.Context())
	if err != nil {
		return err
	}
	return write(w, s)
}

// welcome says to whom one speaks.
func (h *handler) welcome(w http.ResponseWriter, _ *http.Request) error {
	return write(w, map[string]any{"service": "farthing facilitator", "routes": Routes[1:]})
}

// settlementAnswer is what became of a settlement. Cost is in wei of the network's own coin.
type settlementAnswer struct {
	ID          evm.Hash    `json:"id"`
	State       desk.State  `json:"state"`
	Network     string      `json:"network"`
	Scheme      string      `json:"scheme"`
	Asset       evm.Address `json:"asset"`
	Payer       evm.Address `json:"payer"`
	PayTo       evm.Address `json:"payTo"`
	Amount      string      `json:"amount"`
	Transaction string      `json:"transaction"`
	Block       uint64      `json:"block,omitempty"`
	Foreign     bool        `json:"foreign"` // somebody else's transaction
	Gas         uint64      `json:"gas"`     // its share of every transaction that carried it
	CostWei     string      `json:"costWei"`
	Reason      string      `json:"reason,omitempty"`
	Message     string      `json:"message,omitempty"`
	AskedAt     time.Time   `json:"askedAt"`
	DoneAt      *time.Time  `json:"doneAt,omitempty"`
}

func (h *handler) settlement(w http.ResponseWriter, r *http.Request) error {
	id, err := evm.ParseHash(r.PathValue("id"))
	if err != nil {
		return x402.Errorf("malformed_request", "settlement: %w", err)
	}
	for _, n := range h.f.Networks {
		s, tx, found, err := n.desk.Find(r.Context(), id)
		if err != nil {
			return err
		}
		if !found || s.ChainID != n.c.Chain.ID {
			continue
		}
		a := settlementAnswer{
			ID: s.ID, State: s.State, Network: n.c.Chain.CAIP2(), Scheme: s.Scheme, Asset: s.Asset, Payer: s.Payer, PayTo: s.Payee, Amount: s.Amount.String(),
			Block: s.Block, Foreign: s.Foreign, Gas: s.Gas + s.GasBefore, CostWei: s.TotalCost().String(), Reason: s.Code, Message: s.Reason, AskedAt: s.AskedAt,
		}
		if !tx.IsZero() {
			a.Transaction = tx.String()
		}
		if !s.DoneAt.IsZero() {
			a.DoneAt = &s.DoneAt
		}
		return write(w, a)
	}
	return x402.Errorf("not_found", "no settlement %s", id)
}

// health says that the process is there.
func (h *handler) health(w http.ResponseWriter, _ *http.Request) error {
	return write(w, map[string]string{"status": "ok"})
}

// ready says whether every chain answers, and every clearing house.
func (h *handler) ready(w http.ResponseWriter, r *http.Request) error {
	status, networks := "ok", make(map[string]string)
	for _, n := range h.f.Networks {
		networks[n.c.Chain.Name] = "ok"
		if n.well() != nil {
			networks[n.c.Chain.Name], status = "fail", "fail"
		}
	}
	for _, p := range h.f.promises {
		name, err := p.network(r.Context())
		if err != nil {
			name, status = "clearing house", "fail"
			networks[name] = "fail"
		} else {
			networks["clearing house on "+name] = "ok"
		}
	}
	code := http.StatusOK
	if status != "ok" {
		code = http.StatusServiceUnavailable
	}
	return writeStatus(w, code, map[string]any{"status": status, "networks": networks})
}

func write(w http.ResponseWriter, v any) error { return writeStatus(w, http.StatusOK, v) }

func writeStatus(w http.ResponseWriter, status int, v any) error {
	buf := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buf)
	buf.Reset()
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Length", strconv.Itoa(buf.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(buf.Bytes()) // who is gone is not told
	return nil
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// refuse answers with an error. It never has the members by which an answer to a payment is known, since nothing is known
// about the payment.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	e, ok := x402.AsError(err)
	if !ok {
		if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
			return // nobody is there to be told
		}
		var id [6]byte
		_, _ = rand.Read(id[:])
		reference := hex.EncodeToString(id[:])
		h.f.Log.Error("internal error", "reference", reference, "path", clip(r.URL.Path), "error", err)
		e = x402.Errorf("internal", "internal error %s", reference).WithHint("give the reference %s to the operator", reference)
	}
	status := e.Reason().Status
	switch status {
	case http.StatusPaymentRequired: // a facilitator sells nothing
		status = http.StatusBadRequest
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "2")
		h.f.Log.Debug("payment not looked at", "path", clip(r.URL.Path), "code", e.Code, "error", e)
		said := *e
		switch e.Code { // the cause may name the node, or a file
		case "chain_unreachable":
			said.Message = "the chain does not answer"
		case "house_unreachable":
			said.Message = "the clearing house does not answer"
		case "book_unavailable":
			said.Message = "the facilitator's book does not answer"
		case "settlement_pending":
			said.Message = "what became of it could not be looked up; ask again"
		}
		e = &said
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case http.StatusRequestEntityTooLarge:
		w.Header().Set("Connection", "close") // what was not read must not be taken for the next request
	}
	_ = writeStatus(w, status, e)
}

// limiter counts calls in windows of a minute. It keeps one number for each caller of the present window.
type limiter struct {
	perMinute int
	now       func() time.Time

	mu     sync.Mutex
	window time.Time      // guarded by mu: when it began
	calls  map[string]int // guarded by mu
}

// callersMax bounds the memory of a window: whoever comes from more addresses is counted as one.
const callersMax = 50_000

// take counts a call and returns how many are left, negative for none, and how long the window lasts.
func (l *limiter) take(who string) (left int, wait time.Duration) {
	if l.perMinute <= 0 {
		return 0, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if age := now.Sub(l.window); l.calls == nil || age < 0 || age >= time.Minute {
		l.window, l.calls = now, make(map[string]int)
	}
	if _, known := l.calls[who]; !known && len(l.calls) >= callersMax {
		who = ""
	}
	l.calls[who]++
	return l.perMinute - l.calls[who], l.window.Add(time.Minute).Sub(now)
}
