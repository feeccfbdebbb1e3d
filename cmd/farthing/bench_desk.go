package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/facilitator"
	"github.com/farthing402/farthing/store"
	"github.com/farthing402/farthing/x402"
)

// benchDesk is a facilitator on a development chain in this process, which makes a block whenever there is something to
// put in, at most one every benchBlock.
type benchDesk struct {
	b      *bench
	chain  *devchain.Chain
	client *chain.Client
	store  *store.Store
	f      *facilitator.Facilitator
	mined  atomic.Int64 // nanoseconds that blocks took to make
	stop   context.CancelFunc
	loops  sync.WaitGroup
	signed int
}

// benchBlock is the time between blocks. Real ones come every second or two: what one takes in is what counts.
const benchBlock = 20 * time.Millisecond

// openDesk opens a facilitator. batch is how many settlements may share a transaction.
func (b *bench) openDesk(ctx context.Context, batch int, offline bool) (d *benchDesk, err error) {
	d = &benchDesk{b: b, stop: func() {}}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.chain, err = devchain.Start(ctx, devchain.Config{Manual: true, Genesis: b.Now}); err != nil {
		return d, err
	}
	if d.client, err = chain.Dial(ctx, d.chain.URL()); err != nil {
		return d, err
	}
	if d.store, err = b.database(ctx); err != nil {
		return d, err
	}
	nc := facilitator.NetworkConfig{
		Chain: mustChain("dev"), Node: d.client, Book: d.store.Settlements(), Offline: offline, BatchMax: batch, Now: d.chain.Time,
	}
	for _, key := range devchain.Accounts()[1:3] {
		nc.Lanes = append(nc.Lanes, chain.NewSender(d.client, d.store.OutboxOn(nc.Chain.ID), key, chain.Policy{}))
	}
	n, err := facilitator.Open(ctx, nc)
	if err != nil {
		return d, err
	}
	if d.f, err = facilitator.New(facilitator.Config{Networks: []*facilitator.Network{n}, Now: d.chain.Time}); err != nil {
		return d, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	d.stop = stop
	d.loops.Go(func() { _ = d.f.Run(running) })
	if !offline {
		d.loops.Go(func() { d.mine(running) })
	}
	return d, nil
}

func (d *benchDesk) mine(ctx context.Context) {
	tick := time.NewTicker(benchBlock)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			began := time.Now()
			_ = d.chain.Mine(ctx, 1)
			d.mined.Add(int64(time.Since(began)))
		}
	}
}

func (d *benchDesk) close() (err error) {
	d.stop()
	d.loops.Wait()
	if d.client != nil {
		d.client.Close()
	}
	if d.store != nil {
		err = d.store.Close()
	}
	if d.chain != nil {
		err = errors.Join(err, d.chain.Close())
	}
	return err
}

// terms are what the payments of a desk are for. They are good for longer than a run takes in the chain's time.
func (d *benchDesk) terms() x402.Requirements {
	return x402.Requirements{
		Scheme: exact.Scheme, Network: mustChain("dev").CAIP2(), Amount: benchAmount.String(), Asset: d.b.token.Address.String(),
		PayTo: d.b.keys[0].Address().String(), MaxTimeoutSeconds: 1_000_000,
		Extra: map[string]json.RawMessage{"name": json.RawMessage(fmt.Sprintf("%q", d.b.token.Name)), "version": json.RawMessage(fmt.Sprintf("%q", d.b.token.Version))},
	}
}

// payments signs n payments, each with a nonce of its own, of accounts that have the money.
func (d *benchDesk) payments(ctx context.Context, n int) ([]x402.Payment, error) {
	r, payers := d.terms(), devchain.Accounts()[4:]
	offer := x402.PaymentRequired{X402Version: 2, Resource: x402.Resource{URL: "https://api.example.org/quote"}, Accepts: []x402.Requirements{r}}
	list, first := make([]x402.Payment, n), d.signed
	d.signed += n
	err := inParallel(ctx, runtime.GOMAXPROCS(0), n, 1, func(i, _ int) error {
		number := evm.WordUint64(uint64(first + i))
		a, err := exact.Pay(ctx, payers[(first+i)%len(payers)], r, evm.Keccak256([]byte("settled"), number[:]), d.b.Now)
		if err != nil {
			return err
		}
		payload, err := a.Payload()
		if err != nil {
			return err
		}
		list[i], err = x402.NewPayment(offer, r, payload)
		return err
	})
	return list, err
}

// verify posts payments to /verify over HTTP, one a request. The bodies are written beforehand, and the callers are bare
// connections: what is measured is the facilitator.
func (b *bench) verify(ctx context.Context) (side, error) {
	d, err := b.openDesk(ctx, 0, true)
	if err != nil {
		return side{}, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return side{}, errors.Join(err, d.close())
	}
	server, served := &http.Server{Handler: d.f.Handler(), ReadHeaderTimeout: benchTimeout}, make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	address := listener.Addr().String()
	var requests [][]byte
	return side{
		count: b.Sizes.Verified,
		slice: func(ctx context.Context, n int) (time.Duration, error) {
			list, err := d.payments(ctx, max(0, n-len(requests)))
			if err != nil {
				return 0, err
			}
			for _, p := range list {
				body, err := json.Marshal(x402.FacilitatorRequest{Payment: p, Requirements: d.terms()})
				if err != nil {
					return 0, err
				}
				head := fmt.Sprintf("POST /verify HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", address, len(body))
				requests = append(requests, append([]byte(head), body...))
			}
			lines := make(chan *line, verifyCallers)
			for range verifyCallers {
				l, err := dialLine(ctx, address)
				if err != nil {
					return 0, err
				}
				defer l.Close()
				lines <- l
			}
			began := time.Now()
			err = inParallel(ctx, verifyCallers, n, 16, func(from, to int) error {
				l := <-lines
				defer func() { lines <- l }()
				for _, request := range requests[from:to] {
					if err := l.exchange(request, `"isValid":true`); err != nil {
						return err
					}
				}
				return nil
			})
			return time.Since(began), err
		},
		close: func() error {
			err := server.Close()
			<-served
			return errors.Join(err, d.close())
		},
	}, nil
}

// verifyCallers is how many callers of /verify are under way at once.
const verifyCallers = 16

// line is a connection that sends requests as they are written down.
type line struct {
	net.Conn
	r    *bufio.Reader
	body []byte
}

func dialLine(ctx context.Context, address string) (*line, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &line{Conn: conn, r: bufio.NewReader(conn)}, conn.SetDeadline(time.Now().Add(benchTimeout))
}

// exchange sends a request and reads its answer, which must be 200 with a length and say what is wanted.
func (l *line) exchange(request []byte, want string) error {
	if _, err := l.Write(request); err != nil {
		return err
	}
	status, length := "", -1
	for {
		text, err := l.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		header := strings.TrimSpace(string(text))
		if header == "" {
			break
		}
		if status == "" {
			status = header
		}
		if name, value, ok := strings.Cut(header, ": "); ok && strings.EqualFold(name, "Content-Length") {
			if _, err := fmt.Sscan(value, &length); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return fmt.Errorf("answered %q without a length", status)
	}
	if cap(l.body) < length {
		l.body = make([]byte, length)
	}
	l.body = l.body[:length]
	if _, err := io.ReadFull(l.r, l.body); err != nil {
		return err
	}
	if !strings.HasPrefix(status, "HTTP/1.1 200") || !strings.Contains(string(l.body), want) {
		return fmt.Errorf("answered %q: %s", status, l.body)
	}
	return nil
}

// settlements settles payments that all wait at the same time, in transactions of their own or in shared ones, and returns
// how long that took until the last has its receipt, or how long the chain took of that, or the gas.
func (b *bench) settlements(ctx context.Context, name string) (side, error) {
	batch, count := 100, b.Sizes.Settled
	if strings.HasSuffix(name, "-single") {
		batch, count = 1, b.Sizes.Alone
	}
	d, err := b.openDesk(ctx, batch, false)
	if err != nil {
		return side{}, err
	}
	settled := 0
	return side{count: count, close: d.close,
		slice: func(ctx context.Context, n int) (time.Duration, error) {
			list, err := d.payments(ctx, n)
			if err != nil {
				return 0, err
			}
			blocks := d.mined.Load()
			began := time.Now()
			err = inParallel(ctx, n, n, 1, func(i, _ int) error {
				s, err := d.f.Settle(ctx, list[i], d.terms())
				if err == nil && !s.Success {
					err = fmt.Errorf("payment %d was not settled: %s %s", i, s.ErrorReason, s.ErrorMessage)
				}
				return err
			})
			took := time.Since(began)
			settled += n
			switch {
			case err != nil || strings.HasPrefix(name, "settle-") && name != "settle-chain":
				return took, err
			case name == "settle-chain":
				return time.Duration(d.mined.Load() - blocks), nil
			}
			gas, err := d.gas(ctx, list)
			return time.Duration(gas) * once, err
		},
		check: func(ctx context.Context) error {
			balance, err := d.client.TokenBalance(ctx, b.token.Address, b.keys[0].Address())
			if err != nil {
				return err
			}
			if units, _ := balance.Uint64(); units != uint64(settled)*100 {
				return fmt.Errorf("%d payments of 100 are settled, and the payee has %d", settled, units)
			}
			return nil
		},
	}, nil
}

// gas is what payments cost together, by their records.
func (d *benchDesk) gas(ctx context.Context, list []x402.Payment) (gas uint64, err error) {
	for _, p := range list {
		a, err := exact.Read(p, d.terms())
		if err != nil {
			return 0, err
		}
		s, found, err := d.store.Settlements().Find(ctx, a.ID())
		if err != nil {
			return 0, err
		}
		if !found || s.Gas == 0 {
			return 0, fmt.Errorf("settlement %s has no gas", a.ID())
		}
		gas += s.Gas + s.GasBefore
	}
	return gas, nil
}
