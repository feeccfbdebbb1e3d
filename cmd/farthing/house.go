package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/facilitator"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/store"
	"github.com/farthing402/farthing/webhook/courier"
)

// houseConfig is what a clearing house is made of.
type houseConfig struct {
	RPC        string
	Deployment deployment
	Operator   evm.Signer
	Authority  *guarantee.Authority
	Book       string // path of a SQLite file, or URL of a PostgreSQL database, which several nodes may share
	Depth      uint64 // blocks on top of one before it counts
	Listen     string
	Dev        bool
	Now        func() time.Time
	Log        *slog.Logger
	Story      func(format string, args ...any) // for the operator's eyes: who leads; nil is silent
	Restored   bool                             // see [house.quiet]
	// WebhooksPrivate sends webhooks also where only this machine's own network leads; in development they always are.
	WebhooksPrivate bool

	Front houseFront // how it is reached, by whom, and how much they may ask for

	// Desk lets the house settle transfers too, beside its own routes, if it has lanes. They are not the operator's account.
	Desk      deskSpec
	DeskFlags deskFlags
}

// house is a node of a clearing house: its book, its view of the chain, and its HTTP server. What happens once, however
// many nodes share the book, happens in [house.lead].
type house struct {
	houseConfig
	Node      string // what it is called in logs and by /core/health
	URL       string
	House     *clearing.House
	Store     *store.Store
	Client    *chain.Client
	Reader    chain.Reader
	Webhooks  *courier.Courier
	face      *facilitator.Facilitator
	server    *http.Server
	listener  net.Listener
	followers []*chain.Follower // only who leads, or catches up before it serves
	Sender    *chain.Sender     // only who leads

	leads      atomic.Bool
	headTime   atomic.Uint64
	opened     time.Time
	behind     atomic.Int64           // seconds of the chain that the book lacks
	freshUntil atomic.Int64           // until when it may certify, in nanoseconds since 1970
	trouble    atomic.Pointer[string] // why its work as the leader failed; nil if it did not
	lag        atomic.Pointer[string] // why the book cannot be compared with the chain, or that it lags; nil if it does not
}

func openHouse(ctx context.Context, c houseConfig) (h *house, err error) {
	h = &house{houseConfig: c, opened: c.Now()}
	if h.Story == nil {
		h.Story = func(string, ...any) {}
	}
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
	if err = h.checkKey(ctx); err != nil {
		return nil, err
	}
	if err = h.openStore(ctx); err != nil {
		return nil, err
	}
	h.House, err = clearing.New(clearing.Config{
		Book: h.Store.Clearing(), Chain: calls{contracts, c.Operator.Address()}, Deployment: c.Deployment.guarantees(), Authority: c.Authority,
		Rules: guarantee.Rules{EIP191: c.Front.EIP191}, MembersOnly: c.Front.MembersOnly,
		Registries: c.Deployment.Registries, Registry: registries{h.Client}, Rest: rest,
	})
	if err != nil {
		return nil, err
	}
	h.Sender = h.newSender()
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
	h.compare(ctx)
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
	h.Node = nodeName(h.listener.Addr())
	core, err := h.core(ctx)
	if err != nil {
		return nil, err
	}
	h.server = &http.Server{
		Handler:           h.handler(core),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
	}
	return h, nil
}

// openStore opens the book. One in a file is this process's alone; one on a server is shared with other nodes, which must be
// of the same deployment.
func (h *house) openStore(ctx context.Context) (err error) {
	var opts []store.Option
	if !store.Served(h.Book) {
		opts = append(opts, store.Exclusive())
	}
	if h.Store, err = store.Open(ctx, h.Book, opts...); err != nil {
		return err
	}
	d := h.Deployment
	err = h.Store.Agree(ctx, map[string]string{
		"chain": fmt.Sprint(d.ChainID), "vault": d.Vault.String(), "clearing house": d.ClearingHouse.String(),
		"signing domain": d.Name + " " + d.Version,
	})
	if differ := (*store.DifferError)(nil); errors.As(err, &differ) {
		return fail("config_invalid", "%v", err).hint("give this node the deployment.json of the others, or a database of its own with --book")
	}
	if err != nil || !h.Store.Served() || len(h.Desk.Lanes) == 0 {
		return err
	}
	free, err := h.Store.Alone(ctx, "desk", func(context.Context) error { return nil })
	if err == nil && !free {
		err = errDeskTaken
	}
	return err
}

// checkKey compares the certificate key with the chain's: nodes with different keys would hand out certificates that not
// everybody can verify.
func (h *house) checkKey(ctx context.Context) error {
	want, err := h.Reader.CurrentKey(ctx)
	if err != nil {
		return err
	}
	have, err := h.Authority.PublicKey().G1Words()
	if err != nil {
		return err
	}
	if chain.Key(have) != want && want != (chain.Key{}) { // zeros before the first cycle
		return fail("chain_mismatch", "the certificate key given is not the one that the vault %s knows", h.Deployment.Vault).
			hint("give this node the file that farthing deploy made or took, with --bls")
	}
	return nil
}

// nodeName tells the nodes of a database apart, for people.
func nodeName(at net.Addr) string {
	host, err := os.Hostname()
	if err != nil {
		host = "node"
	}
	_, port, err := net.SplitHostPort(at.String())
	if err != nil {
		return host
	}
	return host + ":" + port
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

// rest is how long work pauses that keeps all processors busy: long enough for the runtime to look at the network.
func rest() { time.Sleep(50 * time.Microsecond) }
