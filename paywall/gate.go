package paywall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"

	"github.com/farthing402/farthing/x402"
)

// Route is one line of a price list.
type Route struct {
	Pattern string // as http.ServeMux reads it: "GET /quote/{symbol}"; it must not name a host
	Price   string // "$0.0005", or "free"
	Options []Option
}

// GateConfig is what a [Gate] sells.
type GateConfig struct {
	Upstream  *url.URL
	Routes    []Route           // what is not listed is closed
	Transport http.RoundTripper // to the upstream; nil: http.DefaultTransport
}

// Gate is a reverse proxy that sells the routes of one server. What no route names is answered 404 with code
// route_unlisted. It is safe for concurrent use.
type Gate struct {
	pw    *Paywall
	table atomic.Pointer[http.ServeMux]
}

// NewGate makes a gate. Its error lists every faulty route.
func NewGate(pw *Paywall, cfg GateConfig) (*Gate, error) {
	g := &Gate{pw: pw}
	return g, g.Swap(cfg)
}

// ServeHTTP implements http.Handler.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !plainPath(r) { // before the mux, which would clean it and redirect
		x402.WriteError(w, pathAmbiguous(r))
		return
	}
	mux := g.table.Load()
	if _, pattern := mux.Handler(r); pattern == "" { // a known path with another method is as closed as an unknown one
		x402.WriteError(w, x402.Errorf("route_unlisted", "%s %s is not for sale here", r.Method, clip(r.URL.Path)))
		return
	}
	mux.ServeHTTP(w, r)
}

// Swap replaces what the gate sells, all at once: a request sees the old list or the new one. Requests that are being
// served end as they began, and quotes that were given stay good. If any route is faulty nothing changes, and the error
// lists every fault.
func (g *Gate) Swap(cfg GateConfig) error {
	if cfg.Upstream == nil || cfg.Upstream.Scheme != "http" && cfg.Upstream.Scheme != "https" || cfg.Upstream.Host == "" {
		return x402.Errorf("config_invalid", "upstream: not an http or https address").WithHint("such as http://localhost:3000")
	}
	proxy := g.proxy(cfg)
	mux := http.NewServeMux()
	var faults []error
	add := func(pattern string, h http.Handler) {
		if err := handle(mux, pattern, h); err != nil {
			faults = append(faults, err)
		}
	}
	for _, route := range cfg.Routes {
		rt := g.pw.route(route.Price, proxy, route.Options)
		if rt.fault != nil {
			faults = append(faults, fmt.Errorf("%s: %w", route.Pattern, rt.fault))
			continue
		}
		if _, path, ok := strings.Cut(route.Pattern, " "); ok && !strings.HasPrefix(strings.TrimSpace(path), "/") ||
			!ok && !strings.HasPrefix(route.Pattern, "/") {
			faults = append(faults, x402.Errorf("config_invalid", "%s: not METHOD /path", route.Pattern).WithHint("such as GET /quote/{symbol}"))
			continue
		}
		add(route.Pattern, rt)
	}
	if g.pw.cfg.TabPath != "" && g.pw.house != nil {
		add("POST "+g.pw.cfg.TabPath, g.pw.Tabs())
	}
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	g.table.Store(mux)
	return nil
}

// registeredAt is where in this program a route was registered, which tells its operator nothing.
var registeredAt = regexp.MustCompile(` \(registered at [^)]*\)`)

// handle registers a pattern; what http.ServeMux panics with becomes an error.
func handle(mux *http.ServeMux, pattern string, h http.Handler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = x402.Errorf("config_invalid", "%s: %s", pattern, registeredAt.ReplaceAllString(fmt.Sprint(p), ""))
		}
	}()
	mux.Handle(pattern, h)
	return nil
}

func (g *Gate) proxy(cfg GateConfig) http.Handler {
	name := cfg.Upstream.Scheme + "://" + cfg.Upstream.Host
	proxy := &httputil.ReverseProxy{
		Transport: cfg.Transport,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(cfg.Upstream)
			p.SetXForwarded()
			x402.StripPayment(p.Out.Header)
			p.Out.Header.Del(x402.HeaderSignIn)
			if id := PurchaseID(p.In.Context()); id != "" {
				p.Out.Header.Set(purchaseHeader, id)
			} else {
				p.Out.Header.Del(purchaseHeader)
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			x402.StripPayment(resp.Header)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				return // nobody is there to be told
			}
			Fail(r.Context(), "upstream_unreachable")
			charged := ""
			if PurchaseID(r.Context()) != "" {
				charged = ". Not charged"
				if g.pw.cfg.Signer == nil {
					charged = ". Charged before work, as announced"
				}
			}
			g.pw.log.Warn("upstream does not answer", "upstream", name, "error", err)
			x402.WriteError(w, x402.Errorf("upstream_unreachable", "upstream %s: %s%s", name, cause(err), charged))
		},
		ErrorLog: slog.NewLogLogger(g.pw.log.Handler(), slog.LevelDebug),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler && r.Context().Err() == nil {
					Fail(r.Context(), "upstream_unreachable") // its answer broke off
				}
				panic(p)
			}
		}()
		proxy.ServeHTTP(&steady{w}, r)
	})
}

// purchaseHeader tells the upstream which purchase it serves.
const purchaseHeader = "Farthing-Purchase"

// cause is what went wrong, without the addresses that operators read in the log.
func cause(err error) string {
	var op *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "timed out"
	case errors.As(err, &op):
		return rootOf(op.Err)
	}
	return rootOf(err)
}

func rootOf(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return clip(err.Error())
		}
		err = inner
	}
}

// steady keeps httputil.ReverseProxy from flushing every piece of an answer whose length it does not know: only what is
// a stream by its type leaves early, everything else is held back until it is whole and its receipt can say what it cost.
type steady struct{ http.ResponseWriter }

// streams are the media types that are read while they are written.
var streams = map[string]bool{
	"text/event-stream": true, "application/x-ndjson": true, "application/ndjson": true, "application/jsonl": true, "application/json-seq": true,
	"application/stream+json": true, "multipart/x-mixed-replace": true, "application/grpc": true, "application/grpc-web": true,
}

// FlushError is what http.ResponseController calls.
func (s *steady) FlushError() error {
	kind, _, _ := mime.ParseMediaType(s.Header().Get("Content-Type"))
	if !streams[kind] && s.Header().Get("X-Accel-Buffering") != "no" {
		return nil
	}
	return http.NewResponseController(s.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController reach what lies below.
func (s *steady) Unwrap() http.ResponseWriter { return s.ResponseWriter }
