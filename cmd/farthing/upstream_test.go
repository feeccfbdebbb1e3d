package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// upstream is a server that knows nothing of payments, the one that a gate sells. It counts what it served, by path and
// query: that is how a test sees work that was done twice, or for nothing.
type upstream struct {
	url      string
	server   *http.Server
	listener net.Listener

	mu    sync.Mutex
	count map[string]int // guarded by mu
}

func openUpstream(listen string) (*upstream, error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, err
	}
	u := &upstream{url: "http://" + l.Addr().String(), listener: l, count: make(map[string]int)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /quote/{symbol}", func(w http.ResponseWriter, r *http.Request) {
		answerJSON(w, map[string]any{"symbol": r.PathValue("symbol"), "price": 12.5})
	})
	mux.HandleFunc("GET /feed/{topic}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "news of", r.PathValue("topic")) })
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "healthy") })
	mux.HandleFunc("GET /records", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Record-Count", r.URL.Query().Get("n"))
		answerJSON(w, map[string]any{"of": r.URL.Query().Get("n")})
	})
	mux.HandleFunc("POST /generate", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		answerJSON(w, map[string]any{"usage": map[string]int{"total_tokens": len(strings.Fields(string(body)))}})
	})
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
		ms, _ := strconv.Atoi(r.URL.Query().Get("ms"))
		select {
		case <-time.After(time.Duration(ms) * time.Millisecond):
			fmt.Fprintln(w, "at last")
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("POST /render", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintln(w, r.Header.Get("Farthing-Purchase"))
	})
	mux.HandleFunc("GET /broken", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "out of order", http.StatusServiceUnavailable)
	})
	mux.HandleFunc("GET /secret", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "not for sale") })
	u.server = &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		u.count[r.URL.RequestURI()]++
		u.mu.Unlock()
		mux.ServeHTTP(w, r)
	})}
	go func() { _ = u.server.Serve(l) }()
	return u, nil
}

// served returns how often a path, with its query if it has one, was asked for.
func (u *upstream) served(path string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.count[path]
}

// all returns how often anything but the root was asked for: a gate looks there when it starts.
func (u *upstream) all() (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for path, times := range u.count {
		if path != "/" {
			n += times
		}
	}
	return n
}

func (u *upstream) close() { _ = u.server.Close() }
