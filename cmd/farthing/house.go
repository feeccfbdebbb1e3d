package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/farthing402/farthing/api"
	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/facilitator"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/store"
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
	followers []*chain.Follower
	transfers *facilitator.Facilitator // nil: only guarantees
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
	if len(c.Desk.Lanes) > 0 {
		for _, lane := range c.Desk.Lanes {
			if lane.Address() == operator {
				return nil, misuse("lane %s is the operator, whose nonces are the clearing house's", operator).hint("give the lanes keys of their own")
			}
		}
		c.Desk.Client = h.Client
		if h.transfers, err = openFacilitator(ctx, c.DeskFlags, h.Store, []deskSpec{c.Desk}, c.Now, c.Log); err != nil {
			return nil, err
		}
	}
	if h.listener, err = net.Listen("tcp", c.Listen); err != nil {
		return nil, fail("config_invalid", "listen on %s: %v", c.Listen, err).hint("choose another with --listen")
	}
	h.URL = "http://" + h.listener.Addr().String()
	h.server = &http.Server{
		Handler: h.handler(api.New(api.Config{
			House: h.House, Tokens: c.Deployment.Assets, RPCURL: c.RPC, Dev: c.Dev, Now: c.Now, Log: c.Log,
			Health: api.Health{DB: h.readable, Chain: h.healthy},
		})),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
	}
	return h, nil
}

// handler serves the facilitator's routes beside those of the clearing house.
func (h *house) handler(core http.Handler) http.Handler {
	if h.transfers == nil {
		return core
	}
	mux := http.NewServeMux()
	for _, route := range facilitator.Routes {
		mux.Handle(route, h.transfers.Handler())
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
		if h.transfers != nil {
			_ = h.transfers.Run(settling) // never fails
		}
	}()
	defer func() { rest(); <-settled; h.close() }()
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
