package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farthing402/farthing/api"
	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/internal/postgres"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/store"
)

// benchTimeout bounds a call over HTTP: a machine that is so busy measures nothing.
const benchTimeout = 30 * time.Second

// sizes are how many things each side does in one slice, and how large the world is.
type sizes struct {
	Accounts                                  int
	Recover, Admit, Naive, HTTP               int
	Signature, Singles, Batched, JSON, Bodies int
	Purchases, Serial, Netted, Paid, Unpaid   int
	Verified, Calls, Settled, Alone, Open     int
	Few, Stored, Closing, Measured            int           // guarantees in books, and those whose cost is measured there
	Offered                                   time.Duration // how long guarantees come at a steady pace
}

// benchSizes make a slice last between a tenth and half of a second on two cores.
var benchSizes = sizes{
	Accounts: 2000,
	Recover:  8192, Admit: 4096, Naive: 256, HTTP: 4096,
	Signature: 2048, Singles: 512, Batched: 4096, JSON: 4096, Bodies: 16384,
	Purchases: 1024, Serial: 64, Netted: 20_000, Paid: 512, Unpaid: 8192,
	Verified: 4096, Calls: 256, Settled: 400, Alone: 64, Open: 1000,
	Few: 100_000, Stored: 1_000_000, Closing: 1_000_000, Measured: 8192,
	Offered: time.Second,
}

type benchConfig struct {
	Dir      string // empty: the temporary folder
	Postgres string // URL of a server whose user may make schemas; empty: one of its own is started
	Rounds   int
	Sizes    sizes
	Now      time.Time // the clock of the world, which stands still: no cycle ends and no quote expires while it is measured
	Story    func(format string, args ...any)
}

// bench is a world to measure in: accounts with collateral, guarantees that they signed, and a folder for the databases
// of the houses that admit them.
type bench struct {
	benchConfig
	keys       []*evm.PrivateKey // of the accounts
	token      network.Token
	deployment guarantee.Deployment
	authority  *guarantee.Authority
	random     *rand.Rand
	pools      [poolsCount][]guarantee.Signed // grow as they are asked for; every side admits the same ones from the first on
	server     *postgres.Server               // nil: not needed yet, or there is none
	serverless error                          // why there is none
	databases  int
	shared     map[string]any // what the sides of one contest share
}

// Times of the cycles of the world.
const (
	benchCycle  = time.Hour
	benchCutoff = time.Minute
)

// benchAmount is what each guarantee promises: a hundredth of a cent.
var benchAmount = money.Units(100)

func newBench(ctx context.Context, c benchConfig) (*bench, error) {
	var err error
	if c.Dir, err = os.MkdirTemp(c.Dir, "farthing-bench-"); err == nil {
		err = os.Chmod(c.Dir, 0o711) // PostgreSQL, which may have to be another user, goes through it to its own
	}
	if err != nil {
		return nil, fail("config_invalid", "folder for the databases: %v", err)
	}
	b := &bench{benchConfig: c, random: rand.New(rand.NewPCG(1, 2)), keys: make([]*evm.PrivateKey, c.Sizes.Accounts)}
	on := mustChain("dev")
	b.token = on.Dollars()[0]
	b.deployment = guarantee.Deployment{
		ChainID: on.ID, Name: "4Mica 0x5555555555555555555555555555555555555555", Version: "1",
		Vault: evm.MustAddress("0x5555555555555555555555555555555555555555"), ClearingHouse: evm.MustAddress("0x7777777777777777777777777777777777777777"),
	}
	secret := evm.Keccak256([]byte("bench authority"))
	secret[0] = 0 // below the group order
	if b.authority, err = guarantee.NewAuthority(secret[:]); err != nil {
		return nil, err
	}
	err = inParallel(ctx, runtime.GOMAXPROCS(0), len(b.keys), 1, func(i, _ int) (err error) {
		secret := evm.Keccak256([]byte("bench account"), binary.BigEndian.AppendUint64(nil, uint64(i)))
		b.keys[i], err = evm.NewKey(secret[:])
		return err
	})
	if err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

// needServer reports whether there is a PostgreSQL to measure with, and starts one if it has to.
func (b *bench) needServer() bool {
	if b.server == nil && b.serverless == nil {
		if b.Postgres != "" {
			b.server = postgres.At(b.Postgres)
		} else if b.server, b.serverless = postgres.Start(b.Dir); b.serverless != nil {
			b.server = nil
			b.Story("rows with PostgreSQL are left out: %v; name one by --postgres URL, or install it", b.serverless)
		}
	}
	return b.server != nil
}

func (b *bench) close() {
	if b.server != nil {
		_ = b.server.Close()
	}
	_ = os.RemoveAll(b.Dir)
}

// Whose guarantees are in a pool: those of payers taken at random, so that the ones of one call are nearly all of
// different payers, or all of the first account.
const (
	everybodys = iota
	hotPayers
	latePayers // as everybody's, signed when the first cycle is over
	poolsCount
)

// signed returns n guarantees of everybody's, from the one with this number on.
func (b *bench) signed(ctx context.Context, from, n int) ([]guarantee.Signed, error) {
	return b.signedOf(ctx, everybodys, from, n)
}

// signedOf returns n guarantees of a pool, from the one with this number on.
func (b *bench) signedOf(ctx context.Context, whose, from, n int) ([]guarantee.Signed, error) {
	pool, signedAt := b.pools[whose], b.Now
	if whose == latePayers {
		signedAt = b.Now.Add(benchLate)
	}
	had := len(pool)
	for i := had; i < from+n; i++ {
		payer := 0
		if whose != hotPayers {
			payer = b.random.IntN(len(b.keys))
		}
		payee := (payer + 1 + b.random.IntN(len(b.keys)-1)) % len(b.keys)
		pool = append(pool, guarantee.Signed{Claims: guarantee.Claims{
			Payer: b.keys[payer].Address(), Payee: b.keys[payee].Address(), Asset: b.token.Address,
			ReqID:  evm.Keccak256([]byte{byte(whose)}, binary.BigEndian.AppendUint64(nil, uint64(i))),
			Amount: benchAmount, Timestamp: uint64(signedAt.Unix()),
		}})
	}
	fresh := pool[had:]
	byAddress := make(map[evm.Address]*evm.PrivateKey, len(b.keys))
	for _, k := range b.keys {
		byAddress[k.Address()] = k
	}
	err := inParallel(ctx, runtime.GOMAXPROCS(0), len(fresh), 1, func(i, _ int) (err error) {
		fresh[i], err = guarantee.Sign(ctx, byAddress[fresh[i].Claims.Payer], b.deployment, fresh[i].Claims)
		return err
	})
	if err != nil {
		return nil, err
	}
	b.pools[whose] = pool
	return pool[from : from+n], nil
}

// database opens a fresh file, synced in full as always.
func (b *bench) database(ctx context.Context) (*store.Store, error) {
	b.databases++
	return store.Open(ctx, filepath.Join(b.Dir, fmt.Sprintf("%d.db", b.databases)))
}

// houseOptions say what is particular about a house to be measured.
type houseOptions struct {
	server bool                              // its book is in PostgreSQL, else in a file
	whose  int                               // the pool that its guarantees are from
	wrap   func(clearing.Book) clearing.Book // what to put around its book; may be nil
}

// benchHouse is a clearing house on a database of its own.
type benchHouse struct {
	b *bench
	houseOptions
	store    *store.Store
	url      string       // of its database, if that is on the server
	drop     func() error // takes its database away; nil: goes with the folder
	house    *clearing.House
	server   *http.Server // nil until it is asked for
	served   chan error
	verifier *guarantee.Verifier
	taken    int                           // of the pool, and so the guarantees in the book
	samples  map[int]guarantee.Certificate // by number in the pool
}

// openHouse opens a house in which every account has collateral.
func (b *bench) openHouse(ctx context.Context, o houseOptions) (h *benchHouse, err error) {
	h = &benchHouse{b: b, houseOptions: o, samples: make(map[int]guarantee.Certificate)}
	defer func() {
		if err != nil {
			_ = h.close()
		}
	}()
	if !o.server {
		h.store, err = b.database(ctx)
	} else if h.url, h.drop, err = b.server.Create(ctx); err == nil {
		h.store, err = store.Open(ctx, h.url)
	}
	if err != nil {
		return h, err
	}
	if err := h.start(); err != nil {
		return h, err
	}
	if h.verifier, err = guarantee.NewVerifier(b.authority.PublicKey(), b.deployment); err != nil {
		return h, err
	}
	cycle := uint64(benchCycle / time.Second)
	start := uint64(b.Now.Unix())
	events := []clearing.Event{{Kind: clearing.ScheduleSet, Asset: b.token.Address, Schedule: &clearing.Schedule{
		Asset: b.token.Address, From: start, Length: cycle, Cutoff: uint64(benchCutoff / time.Second), Post: cycle, Challenge: cycle, Repost: cycle, Redeem: cycle,
	}}}
	for _, k := range b.keys {
		events = append(events, clearing.Event{Kind: clearing.Deposited, Account: k.Address(), Asset: b.token.Address, Amount: money.Units(1 << 40)})
	}
	for i := range events {
		events[i].TxHash, events[i].LogIndex = evm.Keccak256([]byte("bench deposits")), uint64(i)
	}
	return h, h.house.Apply(ctx, clearing.Confirmed, clearing.Block{Number: 1, Hash: evm.Keccak256([]byte("bench")), Time: start}, events)
}

// start makes the house over its store.
func (h *benchHouse) start() (err error) {
	b, book := h.b, h.store.Clearing()
	if h.wrap != nil {
		book = h.wrap(book)
	}
	h.house, err = clearing.New(clearing.Config{
		Book: book, Chain: calls{chain.Contracts{Vault: b.deployment.Vault, ClearingHouse: b.deployment.ClearingHouse}, evm.Address{1}},
		Deployment: b.deployment, Authority: b.authority, Rest: rest,
	})
	return err
}

// cycle is the one that takes every guarantee of the world.
func (h *benchHouse) cycle() clearing.CycleRef {
	return clearing.CycleRef{Asset: h.b.token.Address, Start: uint64(h.b.Now.Unix())}
}

// next returns guarantees that the house has not seen yet.
func (h *benchHouse) next(ctx context.Context, n int) ([]guarantee.Signed, error) {
	list, err := h.b.signedOf(ctx, h.whose, h.taken, n)
	h.taken += len(list)
	return list, err
}

// admit admits guarantees, size in a call, by several callers at once, and returns how long it took.
func (h *benchHouse) admit(ctx context.Context, list []guarantee.Signed, callers, size int, batch bool) (time.Duration, error) {
	certificates := make([]guarantee.Certificate, len(list))
	began := time.Now()
	err := inParallel(ctx, callers, len(list), size, func(from, to int) error {
		requests := make([]clearing.Request, to-from)
		for i := range requests {
			requests[i] = clearing.Request{Signed: list[from+i], Batch: batch}
		}
		for i, r := range h.house.Admit(ctx, requests, h.b.Now) {
			if r.Err == nil && r.Replayed {
				r.Err = errors.New("guarantee was admitted before")
			}
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
}

// sample keeps two certificates of the last guarantees that were taken, to be checked when time no longer counts.
func (h *benchHouse) sample(list []guarantee.Signed, certificates []guarantee.Certificate) {
	for _, i := range []int{0, len(list) - 1} {
		h.samples[h.taken-len(list)+i] = certificates[i]
	}
}

// serve answers over HTTP on this machine, and returns a client.
func (h *benchHouse) serve() (*client.Client, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h.server = &http.Server{Handler: api.New(api.Config{
		House: h.house, Tokens: []network.Token{h.b.token}, Now: func() time.Time { return h.b.Now },
	}), ReadHeaderTimeout: benchTimeout}
	h.served = make(chan error, 1)
	go func() { h.served <- h.server.Serve(listener) }()
	return client.New("http://"+listener.Addr().String(), client.WithTimeout(benchTimeout))
}

// check counts the book's guarantees and verifies the sampled certificates.
func (h *benchHouse) check(ctx context.Context) error {
	found := 0
	err := h.store.Clearing().Read(ctx, func(tx clearing.Tx) error {
		found = 0
		for _, err := range tx.Guarantees(h.cycle()) {
			if err != nil {
				return err
			}
			found++
		}
		return nil
	})
	if err == nil && found != h.taken {
		err = fmt.Errorf("%d guarantees were certified, %d are in the book", h.taken, found)
	}
	if err != nil {
		return err
	}
	for i, certificate := range h.samples {
		cycle, err := h.verifier.Verify(certificate, h.b.pools[h.whose][i].Claims)
		if err != nil {
			return err
		}
		if cycle != h.cycle().ID() {
			return fmt.Errorf("guarantee %d was certified for another cycle", i)
		}
	}
	return nil
}

func (h *benchHouse) close() (err error) {
	if h.server != nil {
		err = h.server.Close()
		<-h.served
	}
	if h.store != nil {
		err = errors.Join(err, h.store.Close())
	}
	if h.drop != nil {
		err = errors.Join(err, h.drop())
	}
	return err
}

// inParallel calls f for [0,size), [size,2·size) … up to n, from several goroutines, and returns when all have ended. The
// first error, or the end of ctx, keeps the remaining calls from being made.
func inParallel(ctx context.Context, workers, n, size int, f func(from, to int) error) error {
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range min(workers, (n+size-1)/size) {
		group.Go(func() error {
			for ctx.Err() == nil {
				to := int(next.Add(int64(size)))
				from := to - size
				if from >= n {
					return nil
				}
				if err := f(from, min(to, n)); err != nil {
					return err
				}
			}
			return context.Cause(ctx)
		})
	}
	return group.Wait()
}
