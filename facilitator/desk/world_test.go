package desk_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/store"
	"github.com/farthing402/farthing/x402"
)

// world is a chain that is driven by hand, a book on disk, and a desk over both.
type world struct {
	*testing.T
	chain  *devchain.Chain
	client *chain.Client
	path   string
	store  *store.Store
	faults *faults
	config desk.Config
	lanes  []*evm.PrivateKey
	desk   *desk.Desk
	ended  []desk.Settlement
}

// payee is who is paid; nobody sends from it.
var payee = evm.MustAddress("0x00000000000000000000000000000000000000ee")

// payer is one of the funded accounts that are no lane.
func payer(i int) *evm.PrivateKey { return devchain.Accounts()[5+i] }

func newWorld(t *testing.T, change func(*desk.Config)) *world {
	t.Helper()
	c, err := devchain.Start(t.Context(), devchain.Config{Manual: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	client, err := chain.Dial(t.Context(), c.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	w := &world{T: t, chain: c, client: client, path: filepath.Join(t.TempDir(), "desk.db"), lanes: devchain.Accounts()[:1]}
	w.config = desk.Config{ChainID: devchain.DefaultChainID, Tokens: []evm.Address{devchain.TestDollar}, Batch: true,
		Ended: func(s desk.Settlement) { w.ended = append(w.ended, s) }}
	if change != nil {
		change(&w.config)
	}
	w.start()
	return w
}

// start makes a desk over what is on disk, as a process that begins would.
func (w *world) start() {
	w.Helper()
	if w.store != nil {
		if err := w.store.Close(); err != nil {
			w.Fatal(err)
		}
	}
	var err error
	if w.store, err = store.Open(w.Context(), w.path); err != nil {
		w.Fatal(err)
	}
	opened := w.store
	w.Cleanup(func() { opened.Close() })
	if w.faults == nil {
		w.faults = &faults{}
	}
	c := w.config
	c.Book, c.Chain = faultyBook{w.store.Settlements(), w.faults}, faultyChain{w.client, w.faults}
	for _, key := range w.lanes {
		sender := chain.NewSender(w.client, w.store.OutboxOn(c.ChainID), key, chain.Policy{Depth: c.Depth})
		c.Lanes = append(c.Lanes, faultyLane{sender, w.faults})
	}
	if w.desk, err = desk.New(c); err != nil {
		w.Fatal(err)
	}
}

func (w *world) now() time.Time { return w.chain.Time() }

func (w *world) mine(n int) {
	w.Helper()
	if err := w.chain.Mine(w.Context(), n); err != nil {
		w.Fatal(err)
	}
}

func (w *world) step() {
	w.Helper()
	if err := w.desk.Step(w.Context(), w.now()); err != nil {
		w.Fatal(err)
	}
}

// settle makes passes and blocks until nothing is open.
func (w *world) settle() {
	w.Helper()
	for range 12 {
		w.step()
		if w.desk.Open() == 0 {
			return
		}
		w.mine(1)
	}
	w.Fatalf("%d settlements are open after twelve blocks", w.desk.Open())
}

// transfer is a signed authorization of test dollars, valid for five minutes, and the call that carries it out.
func (w *world) transfer(from *evm.PrivateKey, units uint64, nonce byte) desk.Ask {
	w.Helper()
	return w.transferOf(devchain.TestDollar, from, units, nonce)
}

func (w *world) transferOf(token evm.Address, from *evm.PrivateKey, units uint64, nonce byte) desk.Ask {
	w.Helper()
	return signed(w.T, desk.Ask{
		ChainID: devchain.DefaultChainID, Scheme: "exact", Asset: token, Payer: from.Address(), Payee: payee, Amount: money.Units(units),
		Nonce: evm.Hash{nonce, 1}, ValidBefore: uint64(w.now().Unix()) + 300, Shared: true,
	}, from)
}

func signed(t *testing.T, a desk.Ask, key *evm.PrivateKey) desk.Ask {
	t.Helper()
	separator := evm.Domain{Name: "Test Dollar", Version: "2", ChainID: a.ChainID, VerifyingContract: &a.Asset}.Separator()
	kind := evm.Keccak256([]byte("TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"))
	from, to, value, after, before := a.Payer.Word(), a.Payee.Word(), a.Amount.Word(), evm.WordUint64(a.ValidAfter), evm.WordUint64(a.ValidBefore)
	sig, err := key.Sign(t.Context(), evm.TypedDigest(separator, evm.Keccak256(kind[:], from[:], to[:], value[:], after[:], before[:], a.Nonce[:])))
	if err != nil {
		t.Fatal(err)
	}
	selector := evm.Keccak256([]byte("transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)"))
	v := evm.WordUint64(uint64(sig[64]))
	a.Data = append([]byte(nil), selector[:4]...)
	for _, word := range [][32]byte{from, to, value, after, before, a.Nonce, v, [32]byte(sig[:32]), [32]byte(sig[32:64])} {
		a.Data = append(a.Data, word[:]...)
	}
	chainID := evm.WordUint64(a.ChainID)
	a.ID = evm.Keccak256([]byte("test"), chainID[:], a.Asset[:], a.Payer[:], a.Nonce[:])
	a.To, a.GasMax, a.Mark = a.Asset, 300_000, desk.MarkNonce
	return a
}

// ask asks for a settlement that must be taken.
func (w *world) ask(a desk.Ask) desk.Settlement {
	w.Helper()
	return w.askWithin(a, 0)
}

func (w *world) askWithin(a desk.Ask, d time.Duration) desk.Settlement {
	w.Helper()
	s, err := w.desk.Ask(w.Context(), a, d, w.now())
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// refuses asks for a settlement that must be refused with a code.
func (w *world) refuses(a desk.Ask, code string) {
	w.Helper()
	_, err := w.desk.Ask(w.Context(), a, 0, w.now())
	if e, ok := x402.AsError(err); !ok || e.Code != code {
		w.Errorf("%v, want %s", err, code)
	}
}

func (w *world) find(a desk.Ask) desk.Settlement {
	w.Helper()
	s, _, found, err := w.desk.Find(w.Context(), a.ID)
	if err != nil || !found {
		w.Fatalf("settlement %s: found %v, %v", a.ID.Short(), found, err)
	}
	return s
}

func (w *world) want(a desk.Ask, state desk.State, code string) desk.Settlement {
	w.Helper()
	s := w.find(a)
	if s.State != state || s.Code != code {
		w.Fatalf("settlement is %s %s (%s), want %s %s", s.State, s.Code, s.Reason, state, code)
	}
	return s
}

func (w *world) dollars(owner evm.Address) uint64 {
	w.Helper()
	amount, err := w.client.TokenBalance(w.Context(), devchain.TestDollar, owner)
	if err != nil {
		w.Fatal(err)
	}
	units, _ := amount.Uint64()
	return units
}

// sent is how many transactions the lanes have had mined.
func (w *world) sent() (n uint64) {
	w.Helper()
	for _, key := range w.lanes {
		nonce, err := w.client.Nonce(w.Context(), key.Address())
		if err != nil {
			w.Fatal(err)
		}
		n += nonce
	}
	return n
}

// by sends a call from somebody else's account and mines it.
func (w *world) by(key *evm.PrivateKey, calls ...evm.Call) evm.Hash {
	w.Helper()
	tx := w.pool(key, calls...)
	w.mine(1)
	return tx
}

// pool gives calls of somebody else's account to the node's pool, and returns the hash of the last.
func (w *world) pool(key *evm.PrivateKey, calls ...evm.Call) (tx evm.Hash) {
	w.Helper()
	outbox := evm.NewMemoryOutbox()
	sender := chain.NewSender(w.client, outbox, key, chain.Policy{})
	for i, call := range calls {
		call.ID, call.From = fmt.Sprint(i), key.Address()
		if call.GasLimit == 0 {
			call.GasLimit = 200_000
		}
		if err := outbox.Enqueue(w.Context(), call); err != nil {
			w.Fatal(err)
		}
	}
	if err := sender.Step(w.Context(), w.now()); err != nil {
		w.Fatal(err)
	}
	for i := range calls {
		call, err := outbox.Find(w.Context(), fmt.Sprint(i))
		if err != nil || len(call.Attempts) == 0 {
			w.Fatalf("call %d was not sent: %s %v", i, call.Err, err)
		}
		tx = call.Attempts[0].Hash
	}
	return tx
}

var errFault = errors.New("injected fault")

// faults makes the nth use of something fail, before or after it happened.
type faults struct {
	on    string
	after bool
	fired bool

	estimates int    // asked for so far
	gasLimit  uint64 // of blocks, instead of what the node says; 0: that
}

func (f *faults) around(name string, do func() error) error {
	if f.on != name || f.fired {
		return do()
	}
	f.fired = true
	if f.after {
		if err := do(); err != nil {
			return err
		}
	}
	return errFault
}

type faultyBook struct {
	desk.Book
	f *faults
}

func (b faultyBook) Record(ctx context.Context, s desk.Settlement) (got desk.Settlement, fresh bool, err error) {
	err = b.f.around("record", func() error { got, fresh, err = b.Book.Record(ctx, s); return err })
	return got, fresh, err
}

func (b faultyBook) Send(ctx context.Context, id uint64, call evm.Call, carried []desk.Settlement) error {
	return b.f.around("send", func() error { return b.Book.Send(ctx, id, call, carried) })
}

func (b faultyBook) Save(ctx context.Context, changed []desk.Settlement, spent []desk.Spending) error {
	return b.f.around("save", func() error { return b.Book.Save(ctx, changed, spent) })
}

type faultyChain struct {
	*chain.Client
	f *faults
}

func (c faultyChain) Head(ctx context.Context) (evm.BlockRef, error) {
	head, err := c.Client.Head(ctx)
	if c.f.gasLimit != 0 {
		head.GasLimit = c.f.gasLimit
	}
	return head, err
}

func (c faultyChain) Estimate(ctx context.Context, call evm.Call) (gas uint64, err error) {
	c.f.estimates++
	err = c.f.around("estimate", func() error { gas, err = c.Client.Estimate(ctx, call); return err })
	return gas, err
}

func (c faultyChain) Receipt(ctx context.Context, tx evm.Hash) (r *evm.TxReceipt, err error) {
	err = c.f.around("receipt", func() error { r, err = c.Client.Receipt(ctx, tx); return err })
	return r, err
}

type faultyLane struct {
	*chain.Sender
	f *faults
}

func (l faultyLane) Step(ctx context.Context, now time.Time) error {
	return l.f.around("lane", func() error { return l.Sender.Step(ctx, now) })
}

func (l faultyLane) Find(ctx context.Context, id string) (c evm.SentCall, err error) {
	err = l.f.around("find", func() error { c, err = l.Sender.Find(ctx, id); return err })
	return c, err
}

func selector(signature string) [4]byte {
	h := evm.Keccak256([]byte(signature))
	return [4]byte(h[:4])
}

// newKey returns the key of an account that has nothing.
func newKey(t *testing.T) *evm.PrivateKey {
	t.Helper()
	key, err := evm.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}
