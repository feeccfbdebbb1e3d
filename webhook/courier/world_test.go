package courier_test

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/store"
	"github.com/farthing402/farthing/store/storetest"
	"github.com/farthing402/farthing/webhook"
	"github.com/farthing402/farthing/webhook/courier"
)

const begin = 1_800_000_000 // of the first cycle

var (
	dollar     = evm.MustAddress("0x036CbD53842c5426634e7929541eC2318f3dCF7e")
	deployment = guarantee.Deployment{
		ChainID: 31337, Name: "4Mica", Version: "1",
		Vault: evm.MustAddress("0x8888888888888888888888888888888888888888"), ClearingHouse: evm.MustAddress("0x9999999999999999999999999999999999999999"),
	}
	schedule = clearing.Schedule{Asset: dollar, From: begin, Length: 3600, Cutoff: 60, Post: 600, Challenge: 600, Repost: 600, Redeem: 600}
	operator evm.Address
)

// packer stands in for a chain: the tests say what came of the calls.
type packer struct{}

func (packer) Post(_ clearing.CycleRef, _, _ uint64, _ uint8, positions []byte) (evm.Call, error) {
	return evm.Call{Data: positions}, nil
}

func (packer) Commit(_ clearing.CycleRef, root evm.Hash, _ money.Amount, _ uint64, _ int) (evm.Call, error) {
	return evm.Call{Data: root[:]}, nil
}

func (packer) MarkDefaulted(_ evm.Hash, debtor evm.Address, _ money.Amount, _ []evm.Hash) (evm.Call, error) {
	return evm.Call{Data: debtor[:]}, nil
}

func (packer) Finalize(cycle evm.Hash) (evm.Call, error) { return evm.Call{Data: cycle[:]}, nil }

func (packer) Release(_ clearing.CycleRef, _, _ uint64, positions []byte) (evm.Call, error) {
	return evm.Call{Data: positions}, nil
}

// world is a clearing house over a real database, a chain that the test plays, a clock that it moves, and a receiver.
type world struct {
	*testing.T
	name  string // of the database
	store *store.Store
	house *clearing.House
	keys  []*evm.PrivateKey
	block uint64
	logs  uint64
	fork  byte // of the chain's blocks from now on
	ids   uint64

	mu  sync.Mutex
	now time.Time // guarded by mu
}

func onFile(t *testing.T) string { return filepath.Join(t.TempDir(), "house.db") }

// onEach runs a test in a world of its own on every kind of database.
func onEach(t *testing.T, test func(*testing.T, *world)) {
	t.Parallel()
	for kind, name := range map[string]func(*testing.T) string{"sqlite": onFile, "postgres": func(t *testing.T) string { return storetest.Database(t) }} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, newWorld(t, name(t)))
		})
	}
}

func newWorld(t *testing.T, name string) *world {
	t.Helper()
	w := &world{T: t, name: name, now: time.Unix(begin, 0)}
	for i := range 4 {
		secret := evm.Keccak256([]byte("key"), []byte{byte(i)})
		key, err := evm.NewKey(secret[:])
		if err != nil {
			t.Fatal(err)
		}
		w.keys = append(w.keys, key)
	}
	w.open()
	w.apply(clearing.Event{Kind: clearing.ScheduleSet, Asset: dollar, Schedule: &schedule})
	return w
}

// open opens the database, and a house over it.
func (w *world) open() {
	w.Helper()
	s, err := store.Open(w.Context(), w.name)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { s.Close() })
	secret := evm.Keccak256([]byte("authority"))
	secret[0] &= 0x3f
	authority, err := guarantee.NewAuthority(secret[:])
	if err != nil {
		w.Fatal(err)
	}
	w.store = s
	if w.house, err = clearing.New(clearing.Config{Book: s.Clearing(), Chain: packer{}, Deployment: deployment, Authority: authority, KeepDepth: 64}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) party(i int) evm.Address { return w.keys[i].Address() }

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) wait(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// courier makes one more courier over the world's database.
func (w *world) courier(change ...func(*courier.Config)) *courier.Courier {
	w.Helper()
	c := courier.Config{
		Book: w.store.Webhooks(), House: w.house, Network: "eip155:31337", WithdrawalDelay: 48 * time.Hour, Now: w.clock, Random: rand.Reader,
		Node: "node", Private: true,
	}
	for _, f := range change {
		f(&c)
	}
	made, err := courier.New(c)
	if err != nil {
		w.Fatal(err)
	}
	return made
}

// apply applies a block with events to the house.
func (w *world) apply(events ...clearing.Event) {
	w.Helper()
	w.block++
	for i := range events {
		w.logs++
		events[i].LogIndex, events[i].TxHash = w.logs, evm.Keccak256(binary.BigEndian.AppendUint64(nil, w.logs))
	}
	b := clearing.Block{Number: w.block, Time: uint64(w.clock().Unix()), Hash: evm.Keccak256(binary.BigEndian.AppendUint64([]byte{w.fork}, w.block))}
	if err := w.house.Apply(w.Context(), clearing.Confirmed, b, events); err != nil {
		w.Fatal(err)
	}
}

func (w *world) deposit(who evm.Address, amount uint64) {
	w.Helper()
	w.apply(clearing.Event{Kind: clearing.Deposited, Account: who, Asset: dollar, Amount: money.Units(amount)})
}

// promise has a party guarantee an amount to another.
func (w *world) promise(payer, payee int, amount uint64) {
	w.Helper()
	w.ids++
	s, err := guarantee.Sign(w.Context(), w.keys[payer], deployment, guarantee.Claims{
		Payer: w.party(payer), Payee: w.party(payee), Asset: dollar, ReqID: evm.Keccak256(binary.BigEndian.AppendUint64(nil, w.ids)),
		Amount: money.Units(amount), Timestamp: uint64(w.clock().Unix()),
	})
	if err != nil {
		w.Fatal(err)
	}
	if r := w.house.Admit(w.Context(), []clearing.Request{{Signed: s}}, w.clock())[0]; r.Err != nil {
		w.Fatal(r.Err)
	}
}

// commit closes the first cycle and has the chain seal it.
func (w *world) commit() clearing.Cycle {
	w.Helper()
	for _, step := range []uint64{schedule.Length, schedule.Cutoff} {
		w.wait(time.Duration(step) * time.Second)
		w.apply()
		if err := w.house.CloseDue(w.Context(), w.clock(), uint64(w.clock().Unix())); err != nil {
			w.Fatal(err)
		}
	}
	ref := clearing.CycleRef{Asset: dollar, Start: begin}
	c, err := w.house.Cycle(w.Context(), ref.String())
	if err != nil {
		w.Fatal(err)
	}
	if c.Status != clearing.Netted {
		w.Fatalf("the cycle is %s: %s", c.Status, c.Trouble)
	}
	w.wait(10 * time.Second)
	w.apply(clearing.Event{Kind: clearing.PositionsPosted, Cycle: ref.ID()},
		clearing.Event{Kind: clearing.CycleCommitted, Cycle: ref.ID(), Asset: dollar, Root: c.Root, Amount: c.Total, Time: uint64(w.clock().Unix()) + schedule.Challenge})
	return c
}

// receiver is a server that keeps what arrives.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	got    []webhook.Event // guarded by mu; what verified
	bad    []error         // guarded by mu; what did not
	secret webhook.Secret  // guarded by mu
	answer func(w http.ResponseWriter, r *http.Request)
	now    func() time.Time
}

// listen adds an endpoint of an owner, with a receiver behind it that answers 204, or as it is told.
func (w *world) listen(c *courier.Courier, owner evm.Address, types []webhook.Type, answer func(http.ResponseWriter, *http.Request)) (*receiver, courier.Endpoint) {
	w.Helper()
	r := &receiver{now: w.clock, answer: answer}
	r.Server = httptest.NewServer(r)
	w.Cleanup(r.Close)
	e, err := c.Add(w.Context(), owner, courier.Change{URL: &r.URL, Types: &types})
	if err != nil {
		w.Fatal(err)
	}
	r.know(e.Secret)
	return r, e
}

func (r *receiver) know(s webhook.Secret) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secret = s
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	secret := r.secret
	r.mu.Unlock()
	event, err := webhook.Receive(req, r.now(), secret)
	r.mu.Lock()
	if err != nil {
		r.bad = append(r.bad, err)
	} else {
		r.got = append(r.got, event)
	}
	r.mu.Unlock()
	if r.answer != nil {
		r.answer(w, req)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// events returns what has arrived, and forgets it.
func (r *receiver) events() []webhook.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

// types returns the types of what has arrived, sorted: the order of arrival says nothing.
func (r *receiver) types() string {
	var list []string
	for _, e := range r.events() {
		list = append(list, string(e.Type))
	}
	slices.Sort(list)
	return fmt.Sprint(list)
}

// run derives and delivers everything that is due.
func (w *world) run(c *courier.Courier) {
	w.Helper()
	if err := c.Derive(w.Context()); err != nil {
		w.Fatal(err)
	}
	w.deliver(c)
}

func (w *world) deliver(c *courier.Courier) {
	w.Helper()
	if err := c.Deliver(w.Context()); err != nil {
		w.Fatal(err)
	}
}

func status(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// started begins the cursor: what happened before the first look is told to nobody.
func (w *world) started() *courier.Courier {
	w.Helper()
	c := w.courier()
	w.run(c)
	return c
}
