package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/internal/jsonobject"
)

const (
	// benchCall is how many guarantees travel in a call that brings many.
	benchCall = 64
	// benchCalls is how many such calls are under way at once, as those of one client are.
	benchCalls = 4
	// benchCallers is how many callers are under way at once where each brings one guarantee.
	benchCallers = 256
)

// side makes a side by its name.
func (b *bench) side(ctx context.Context, name string) (side, error) {
	switch name {
	case "recover":
		return b.recover(), nil
	case "naive":
		return b.naive(ctx, everybodys)
	case "naive-hot":
		return b.naive(ctx, hotPayers)
	case "admit-64":
		return b.admission(ctx, houseOptions{server: true}, b.Sizes.Admit, benchCalls, benchCall, true)
	case "admit-64-hot":
		return b.admission(ctx, houseOptions{server: true, whose: hotPayers}, b.Sizes.Admit, benchCalls, benchCall, true)
	case "admit-single":
		return b.admission(ctx, houseOptions{server: true}, b.Sizes.Singles, benchCalls, benchCall, false)
	case "admit-file":
		return b.admission(ctx, houseOptions{}, b.Sizes.Admit, benchCalls, benchCall, true)
	case "http-64":
		return b.overHTTP(ctx, houseOptions{server: true}, benchCalls, benchCall)
	case "http-1":
		return b.overHTTP(ctx, houseOptions{server: true}, benchCallers, 1)
	case "http-file":
		return b.overHTTP(ctx, houseOptions{}, benchCalls, benchCall)
	case "bls":
		return b.certifiers(), nil
	case "offered-17":
		return b.offered(ctx, 0.17)
	case "offered-42":
		return b.offered(ctx, 0.42)
	case "offered-60":
		return b.offered(ctx, 0.6)
	case "closing", "latency-before", "latency-closing", "latency-p99-before", "latency-p99-closing", "work-closing", "memory-closing", "memory-open", "seal", "restart", "cpu-few", "cpu-many":
		return b.full(name), nil
	case "signature":
		return b.signature(), nil
	case "database":
		return b.transaction(ctx)
	case "bls-batch-64":
		return b.batched(), nil
	case "json":
		return b.json(), nil
	case "http":
		return b.http(ctx)
	case "purchase":
		return b.purchases(ctx, b.Sizes.Purchases, benchPurchasers)
	case "purchase-serial":
		return b.purchases(ctx, b.Sizes.Serial, 1)
	case "filling", "netting":
		return b.cycle(name), nil
	case "paid", "unpaid":
		return b.requests(ctx, name)
	case "verify":
		return b.verify(ctx)
	case "recovery":
		return b.recovery(), nil
	case "proxied", "draw", "stock", "draw-memory", "stock-memory":
		return b.calls(ctx, name)
	case "flush":
		return b.flush()
	case "flushes-1":
		return b.flushes(ctx, 1)
	case "flushes-64":
		return b.flushes(ctx, benchPurchasers)
	case "settle-single", "settle-batched", "settle-chain", "gas-single", "gas-batched":
		return b.settlements(ctx, name)
	case "open-large", "open-small":
		return b.open(ctx, name)
	}
	return side{}, fmt.Errorf("no side is called %q", name)
}

// recover recovers signers on all cores: the yardstick, because nothing can admit guarantees faster.
func (b *bench) recover() side {
	separator := b.deployment.ClaimsSeparator()
	return side{count: b.Sizes.Recover, slice: func(ctx context.Context, n int) (time.Duration, error) {
		list, err := b.signed(ctx, 0, min(n, 1024))
		if err != nil {
			return 0, err
		}
		digests := make([]evm.Hash, len(list))
		for i, s := range list {
			digests[i] = s.Claims.Digest(separator)
		}
		began := time.Now()
		err = inParallel(ctx, runtime.GOMAXPROCS(0), n, 64, func(from, to int) error {
			for i := from; i < to; i++ {
				i := i % len(list)
				signer, err := evm.Recover(digests[i], list[i].Signature)
				if err != nil {
					return err
				}
				if signer != list[i].Claims.Payer {
					return errors.New("recovered another signer")
				}
			}
			return nil
		})
		return time.Since(began), err
	}}
}

// admission hands guarantees to a house in this process.
func (b *bench) admission(ctx context.Context, o houseOptions, count, callers, size int, batch bool) (side, error) {
	h, err := b.openHouse(ctx, o)
	if err != nil {
		return side{}, err
	}
	return side{count: count, check: h.check, close: h.close, slice: func(ctx context.Context, n int) (time.Duration, error) {
		list, err := h.next(ctx, n)
		if err != nil {
			return 0, err
		}
		return h.admit(ctx, list, callers, size, batch)
	}}, nil
}

// overHTTP hands guarantees to a house over HTTP, through the client that sellers use. With a size of one the client
// joins what is certified at the same time.
func (b *bench) overHTTP(ctx context.Context, o houseOptions, callers, size int) (side, error) {
	h, err := b.openHouse(ctx, o)
	if err != nil {
		return side{}, err
	}
	c, err := h.serve()
	if err != nil {
		return side{}, errors.Join(err, h.close())
	}
	return side{count: b.Sizes.HTTP, check: h.check, close: h.close, slice: func(ctx context.Context, n int) (time.Duration, error) {
		list, err := h.next(ctx, n)
		if err != nil {
			return 0, err
		}
		certificates := make([]guarantee.Certificate, n)
		began := time.Now()
		err = inParallel(ctx, callers, n, size, func(from, to int) (err error) {
			if size == 1 {
				certificates[from], err = c.Certify(ctx, list[from])
				return err
			}
			results, err := c.CertifyMany(ctx, list[from:to])
			if err != nil {
				return err
			}
			for i, r := range results {
				if r.Err != nil {
					return r.Err
				}
				certificates[from+i] = r.Certificate
			}
			return nil
		})
		took := time.Since(began)
		h.sample(list, certificates)
		return took, err
	}}, nil
}

// signature verifies payers' signatures on one core.
func (b *bench) signature() side {
	separator := b.deployment.ClaimsSeparator()
	return side{count: b.Sizes.Signature, slice: func(ctx context.Context, n int) (time.Duration, error) {
		list, err := b.signed(ctx, 0, n)
		if err != nil {
			return 0, err
		}
		began := time.Now()
		for _, s := range list {
			if _, err := s.Verify(separator, guarantee.Rules{}); err != nil {
				return 0, err
			}
		}
		return time.Since(began), nil
	}}
}

// timedBook adds up the time that writes take. One caller writes at a time.
type timedBook struct {
	clearing.Book
	spent time.Duration
}

func (t *timedBook) Write(ctx context.Context, fn func(clearing.Tx) error) error {
	began := time.Now()
	defer func() { t.spent += time.Since(began) }()
	return t.Book.Write(ctx, fn)
}

// transaction admits guarantees in groups as large as groups get, and counts only the time of their transactions, from
// before the first statement to after the flush.
func (b *bench) transaction(ctx context.Context) (side, error) {
	var book *timedBook
	h, err := b.openHouse(ctx, houseOptions{server: true, wrap: func(inner clearing.Book) clearing.Book {
		book = &timedBook{Book: inner}
		return book
	}})
	if err != nil {
		return side{}, err
	}
	return side{count: b.Sizes.Admit, check: h.check, close: h.close, slice: func(ctx context.Context, n int) (time.Duration, error) {
		list, err := h.next(ctx, n)
		if err != nil {
			return 0, err
		}
		book.spent = 0
		_, err = h.admit(ctx, list, 1, clearing.DefaultBatchMax, true)
		return book.spent, err
	}}, nil
}

// claims are the bytes that certificates cover, of the first guarantees of the pool.
func (b *bench) claims(ctx context.Context, n int) (domain, cycle evm.Hash, claims [][]byte, err error) {
	list, err := b.signed(ctx, 0, n)
	domain, cycle = b.deployment.CertificateDomain(), guarantee.CycleID(b.token.Address, uint64(b.Now.Unix()))
	for _, s := range list {
		claims = append(claims, guarantee.EncodeClaims(domain, cycle, s.Claims))
	}
	return domain, cycle, claims, err
}

// certifiers signs certificates of one guarantee each on all cores: as many as the machine can make.
func (b *bench) certifiers() side {
	return side{count: b.Sizes.Singles, slice: func(ctx context.Context, n int) (time.Duration, error) {
		_, _, claims, err := b.claims(ctx, n)
		if err != nil {
			return 0, err
		}
		began := time.Now()
		err = inParallel(ctx, runtime.GOMAXPROCS(0), n, 1, func(i, _ int) error {
			_, err := b.authority.Certify(claims[i])
			return err
		})
		return time.Since(began), err
	}}
}

// batched certifies 64 guarantees by one signature, on one core.
func (b *bench) batched() side {
	return side{count: b.Sizes.Batched, slice: func(ctx context.Context, n int) (time.Duration, error) {
		domain, cycle, claims, err := b.claims(ctx, n)
		if err != nil {
			return 0, err
		}
		began := time.Now()
		for part := range slices.Chunk(claims, benchCall) {
			if _, err := b.authority.CertifyBatch(domain, cycle, part); err != nil {
				return 0, err
			}
		}
		return time.Since(began), nil
	}}
}

// bodies are what one call of 64 guarantees sends and gets.
type bodies struct{ request, answer []byte }

// exchange makes the values of one call.
func (b *bench) exchange(ctx context.Context) (list []guarantee.Signed, certificates []guarantee.Certificate, err error) {
	if list, err = b.signed(ctx, 0, benchCall); err != nil {
		return nil, nil, err
	}
	domain, cycle, claims, err := b.claims(ctx, benchCall)
	if err == nil {
		certificates, err = b.authority.CertifyBatch(domain, cycle, claims)
	}
	return list, certificates, err
}

// write makes the bodies of one call, as client and server do.
func (body *bodies) write(list []guarantee.Signed, certificates []guarantee.Certificate) (err error) {
	b := append(body.request[:0], `{"guarantees":[`...)
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = s.AppendJSON(b); err != nil {
			return err
		}
	}
	body.request = append(b, `],"certificate":"batch"}`...)
	b = append(body.answer[:0], `{"results":[`...)
	for i, c := range certificates {
		if i > 0 {
			b = append(b, ',')
		}
		b = c.AppendJSON(b)
	}
	body.answer = append(b, `]}`...)
	return nil
}

// read takes them apart again, as client and server do.
func (body *bodies) read() error {
	count := func(text []byte, name string, item func(raw []byte) error) (n int, err error) {
		o, err := jsonobject.Parse(text, bytes.EqualFold)
		if err != nil {
			return 0, err
		}
		return n, jsonobject.List(o.Get(name), func(raw []byte) error { n++; return item(raw) })
	}
	asked, err := count(body.request, "guarantees", func(raw []byte) error { return new(guarantee.Signed).UnmarshalJSON(raw) })
	if err != nil {
		return err
	}
	got, err := count(body.answer, "results", func(raw []byte) error {
		o, err := jsonobject.Split(raw, bytes.EqualFold)
		if err != nil || o.Get("error") != nil {
			return errors.Join(err, errors.New("a certificate is read as a refusal"))
		}
		return new(guarantee.Certificate).UnmarshalJSON(raw)
	})
	if err == nil && (asked != benchCall || got != benchCall) {
		err = errors.New("a guarantee or certificate got lost in JSON")
	}
	return err
}

// json encodes and decodes requests and answers, as both ends of a call together do, on one core.
func (b *bench) json() side {
	return side{count: b.Sizes.JSON, slice: func(ctx context.Context, n int) (time.Duration, error) {
		list, certificates, err := b.exchange(ctx)
		if err != nil {
			return 0, err
		}
		var body bodies
		began := time.Now()
		for range (n + benchCall - 1) / benchCall {
			if err := errors.Join(body.write(list, certificates), body.read()); err != nil {
				return 0, err
			}
		}
		return time.Since(began) * time.Duration(n) / time.Duration((n+benchCall-1)/benchCall*benchCall), nil
	}}
}

// http sends bodies as large as those of a call to a server that reads them and answers at once, one after the other.
func (b *bench) http(ctx context.Context) (side, error) {
	list, certificates, err := b.exchange(ctx)
	if err != nil {
		return side{}, err
	}
	var body bodies
	if err := body.write(list, certificates); err != nil {
		return side{}, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return side{}, err
	}
	server := &http.Server{ReadHeaderTimeout: benchTimeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got, err := io.ReadAll(r.Body); err != nil || len(got) != len(body.request) {
			http.Error(w, "body is not whole", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body.answer)
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	transport := &http.Transport{}
	sender := &http.Client{Transport: transport, Timeout: benchTimeout}
	post := func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+listener.Addr().String()+"/", bytes.NewReader(body.request))
		if err != nil {
			return err
		}
		resp, err := sender.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err == nil && !bytes.Equal(got, body.answer) {
			err = fmt.Errorf("answered with status %d and other bytes", resp.StatusCode)
		}
		return err
	}
	return side{
		count: b.Sizes.Bodies,
		slice: func(ctx context.Context, n int) (time.Duration, error) {
			calls := (n + benchCall - 1) / benchCall
			began := time.Now()
			for range calls {
				if err := post(ctx); err != nil {
					return 0, err
				}
			}
			return time.Since(began) * time.Duration(n) / time.Duration(calls*benchCall), nil
		},
		close: func() error {
			transport.CloseIdleConnections()
			err := server.Close()
			<-served
			return err
		},
	}, nil
}
