package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/farthing402/farthing/api"
	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/facilitator"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/store"
	"github.com/farthing402/farthing/webhook/courier"
)

// beat is how often a house looks at its chain and its clock: twice a block of the development chain, and often enough
// for any other.
const beat = 500 * time.Millisecond

// houseConfig is what a clearing house is made of.
type houseConfig struct {
	RPC        string
	Deployment deployment
	Operator   evm.Signer
	Authority  *guarantee.Authority
	Book       string // path of its SQLite file
	Depth      uint64 // blocks on top of one before it counts
	Listen     string
	Dev        bool
	Now        func() time.Time
	Log        *slog.Logger
	// WebhooksPrivate sends webhooks also where only this machine's own network leads; in development they always are.
	WebhooksPrivate bool

	// Desk lets the house settle transfers too, beside its own routes, if it has lanes. They are not the operator's account.
	Desk      deskSpec
	DeskFlags deskFlags
}

// house is a clearing house at work: its book, its view of the chain, its sender, and its HTTP server. [house.Run] is the
// only goroutine that follows, closes and sends.
type house struct {
	houseConfig
	URL       string
	House     *clearing.House
	Store     *store.Store
	Client    *chain.Client
	Reader    chain.Reader
	Sender    *chain.Sender
	Webhooks  *courier.Courier
	followers []*chain.Follower
	face      *facilitator.Facilitator
	server    *http.Server
	listener  net.Listener
	headTime  atomic.Uint64
	trouble   atomic.Pointer[string] // why the last beat failed; nil if it did not
}

func openHouse(ctx context.Context, c houseConfig) (h *house, err error) {
	h = &house{houseConfig: c}
	begun := h // a return of nil, err empties h
	defer func() {
		if err != nil {
			begun.close()
		}
	}()
	if h.Client, err = chain.Dial(ctx, c.RPC); err != nil {
		return nil, fail("chain_unreachable", "%s: %v", c.RPC, err).hint("start the chain, or check --rpc-url")
	}
	if err = c.Deployment.check(ctx, h.Client); err != nil {
		return nil, err
	}
	contracts := c.Deployment.Contracts
	h.Reader = chain.Reader{Client: h.Client, Contracts: contracts}
	operator, err := h.Reader.Operator(ctx)
	if err != nil {
		return nil, err
	}
	if operator != c.Operator.Address() {
		return nil, fail("chain_mismatch", "the contracts' operator is %s, the key given is %s", operator, c.Operator.Address()).hint("pass the operator's key with --key")
	}
	if h.Store, err = store.Open(ctx, c.Book, store.Exclusive()); err != nil {
		return nil, err
	}
	h.House, err = clearing.New(clearing.Config{
		Book: h.Store.Clearing(), Chain: calls{contracts, c.Operator.Address()}, Deployment: c.Deployment.guarantees(), Authority: c.Authority,
	})
	if err != nil {
		return nil, err
	}
	h.Sender = chain.NewSender(h.Client, h.Store.Outbox(), c.Operator, chain.Policy{Depth: c.Depth})
	for _, stream := range []clearing.Stream{clearing.Head, clearing.Confirmed} {
		f := &chain.Follower{Client: h.Client, Addresses: contracts.Addresses(), Start: c.Deployment.StartBlock, Sink: sink{h.House, stream, contracts}}
		if stream == clearing.Confirmed {
			f.Depth = h.Client.Depth(c.Depth)
		}
		h.followers = append(h.followers, f)
	}
	if err = h.catchUp(ctx); err != nil {
		return nil, err
	}
	if err = h.openWebhooks(); err != nil {
		return nil, err
	}
	if err = h.openFace(ctx, operator); err != nil {
		return nil, err
	}
	if h.listener, err = net.Listen("tcp", c.Listen); err != nil {
		return nil, fail("config_invalid", "listen on %s: %v", c.Listen, err).hint("choose another with --listen")
	}
	h.URL = "http://" + h.listener.Addr().String()
	h.server = &http.Server{
		Handler:           h.handler(h.core(c.Dev)),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
	}
	return h, nil
}

// core makes the routes of the clearing house. open serves without a login also what needs one.
func (h *house) core(open bool) http.Handler {
	return api.New(api.Config{
		House: h.House, Tokens: h.Deployment.Assets, RPCURL: h.RPC, Dev: open, Now: h.Now, Log: h.Log,
		Health: api.Health{DB: h.readable, Chain: h.healthy}, Webhooks: h.Webhooks,
	})
}

// openFace makes the facilitator beside the clearing house: for its guarantees, and with lanes for transfers.
func (h *house) openFace(ctx context.Context, operator evm.Address) error {
	var specs []deskSpec
	if len(h.Desk.Lanes) > 0 {
		for _, lane := range h.Desk.Lanes {
			if lane.Address() == operator {
				return misuse("lane %s is the operator, whose nonces are the clearing house's", operator).hint("give the lanes keys of their own")
			}
		}
		h.Desk.Client = h.Client
		specs = []deskSpec{h.Desk}
	}
	own, err := client.New("http://clearing-house", client.WithHTTPClient(&http.Client{Transport: inProcess{h.core(true)}}))
	if err != nil {
		return err
	}
	h.face, err = openFacilitator(ctx, h.DeskFlags, h.Store, specs, []facilitator.House{own}, h.Now, h.Log)
	return err
}

// inProcess carries requests to a handler of this process.
type inProcess struct{ http.Handler }

// RoundTrip implements [http.RoundTripper].
func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	w := written{header: make(http.Header), status: http.StatusOK}
	if r.Body == nil {
		r = r.Clone(r.Context())
		r.Body = http.NoBody
	}
	t.ServeHTTP(&w, r)
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}, nil
}

// written is an answer in memory.
type written struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *written) Header() http.Header         { return w.header }
func (w *written) WriteHeader(status int)      { w.status = status }
func (w *written) Write(b []byte) (int, error) { return w.body.Write(b) }

// handler serves the facilitator's routes beside those of the clearing house.
func (h *house) handler(core http.Handler) http.Handler {
	mux := http.NewServeMux()
	for _, route := range facilitator.Routes {
		mux.Handle(route, h.face.Handler())
	}
	mux.Handle("/", core)
	return mux
}

// catchUp applies what the chain has that the book has not, before anyone is answered: a house that forgot a withdrawal
// request must not certify against that collateral.
func (h *house) catchUp(ctx context.Context) error {
	for _, f := range h.followers {
		for more := true; more; {
			var err error
			if more, err = f.Step(ctx); err != nil && !errors.Is(err, chain.ErrBehind) {
				return err
			}
		}
	}
	return nil
}

// Run serves and works until ctx ends, then lets open requests finish.
func (h *house) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- h.server.Serve(h.listener) }()
	settling, rest := context.WithCancel(ctx)
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		_ = h.face.Run(settling) // never fails
	}()
	told := make(chan struct{})
	go func() { defer close(told); h.Webhooks.Run(settling) }()
	defer func() { rest(); <-settled; <-told; h.close() }()
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			<-settled // whoever waits for a settlement is answered
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			err := h.server.Shutdown(stop)
			<-served
			return err
		case err := <-served:
			return err
		case <-ticker.C:
			h.beat(ctx)
		}
	}
}

// beat is one round: look at the chain, move the cycles, send what is queued. Trouble in one part does not keep the
// others from their turn; the next beat tries again.
func (h *house) beat(ctx context.Context) {
	err := errors.Join(h.look(ctx), h.House.CloseDue(ctx, h.Now(), h.headTime.Load()), h.Sender.Step(ctx, h.Now()))
	if ctx.Err() != nil {
		return
	}
	before := h.trouble.Load()
	if err == nil {
		h.trouble.Store(nil)
		if before != nil {
			h.Log.Info("clearing house recovered", "was", *before)
		}
		return
	}
	text := err.Error()
	h.trouble.Store(&text)
	if before == nil || *before != text {
		h.Log.Warn("clearing house has trouble", "error", text)
	}
}

func (h *house) look(ctx context.Context) error {
	head, err := h.Client.Head(ctx)
	if err != nil {
		return err
	}
	h.headTime.Store(head.Time)
	for _, f := range h.followers {
		for more := true; more; {
			if more, err = f.Step(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *house) readable(ctx context.Context) error {
	return h.Store.Clearing().Read(ctx, func(clearing.Tx) error { return nil })
}

func (h *house) healthy(context.Context) error {
	if text := h.trouble.Load(); text != nil {
		return errors.New(*text)
	}
	return nil
}

func (h *house) close() {
	if h.server != nil {
		h.server.Close()
	} else if h.listener != nil {
		h.listener.Close()
	}
	if h.Store != nil {
		if err := h.Store.Close(); err != nil {
			h.Log.Error("book not closed cleanly", "error", err)
		}
	}
	if h.Client != nil {
		h.Client.Close()
	}
}

// depthOf is how deep a block must lie on a network before it counts, unless told.
func depthOf(on network.Chain, told int) uint64 {
	if told >= 0 {
		return uint64(told)
	}
	return on.Depth
}
