package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/store"
)

// world is the demonstration: a chain, a clearing house, sellers and buyers, all in this process, speaking HTTP to each
// other as if they were not.
type world struct {
	run     *run
	chain   *devchain.Chain
	house   *house
	client  *chain.Client
	token   network.Token
	sellers []*seller
	buyers  []*buyer
	poor    *buyer // has next to no collateral
	thrifty *buyer // has next to no budget
	stop    context.CancelFunc
	workers *errgroup.Group

	sold, asked atomic.Int64
	refusals    refusals
	deposited   money.Amount
}

type seller struct {
	name, url, path string
	key             *evm.PrivateKey
	book            *store.Store
	pw              *paywall.Paywall
	server          *http.Server
	shop            *payer.Payer // with which it buys from other sellers; nil for most

	mu    sync.Mutex
	takes money.Amount // guarded by mu; what it charged
}

func (s *seller) sale(e paywall.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Kind == paywall.Paid {
		s.takes, _ = s.takes.Add(e.Charged)
	}
}

func (s *seller) charged() money.Amount {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takes
}

type buyer struct {
	key    *evm.PrivateKey
	payer  *payer.Payer
	client *http.Client
}

// demoDeposit is each buyer's collateral: five dollars.
var demoDeposit = money.Units(5_000_000)

// settleMargin is how long before the first cycle, in seconds, the contracts are deployed. Collateral takes another
// second or two; the cycle is that much longer than its payments need.
const settleMargin = 2

// cycleFor is a cycle's length in seconds that so many payments fit into: 400 a second, about what two cores do with every
// part in one process, and half of that where nobody waits for the end with a watch in hand.
func cycleFor(payments int) uint32 {
	quick := min(payments, 1000)
	return uint32(3 + (quick+399)/400 + (payments-quick+199)/200)
}

// build starts everything. The first cycle is long enough for the payments that are asked for.
func (c *demoCmd) build(r *run, dir string) (w *world, err error) {
	w = &world{run: r}
	ctx, stop := context.WithCancel(r.ctx)
	w.stop = stop
	w.workers, ctx = errgroup.WithContext(ctx)
	defer func() {
		if err != nil {
			w.close()
			w = nil
		}
	}()
	if w.chain, err = devchain.Start(r.ctx, devchain.Config{Logger: r.log}); err != nil {
		return w, err
	}
	if w.client, err = chain.Dial(r.ctx, w.chain.URL()); err != nil {
		return w, err
	}
	head, err := w.client.Head(r.ctx)
	if err != nil {
		return w, err
	}
	length := devTimes
	length.Schedule.Length = cycleFor(c.Payments)
	// The withdrawal delay outlasts every road that an obligation can take, and an eighth of itself.
	length.WithdrawalDelay = uint64(4*length.Schedule.Length+30) * 8 / 7 * 5 / 4
	authority, err := devAuthority(filepath.Join(dir, "bls.json"))
	if err != nil {
		return w, err
	}
	keys := make([]*evm.PrivateKey, c.Sellers+c.Buyers+2)
	for i := range keys {
		if keys[i], err = evm.GenerateKey(); err != nil {
			return w, err
		}
	}
	w.token = mustChain("dev").Dollars()[0]
	var d deployment
	var together errgroup.Group
	together.Go(func() (err error) {
		d, err = r.deploy(deployPlan{
			RPC: w.chain.URL(), File: filepath.Join(dir, "deployment.json"), Deployer: devOperator(), Operator: devOperator().Address(),
			Authority: authority, Chain: mustChain("dev"), Times: length, Begin: head.Time + settleMargin,
		})
		return err
	})
	together.Go(func() error {
		var calls []evm.Call
		for _, k := range keys {
			calls = append(calls, evm.Call{To: k.Address(), Value: ethers(1).Word(), GasLimit: 21_000})
			mint := chain.Mint(w.token.Address, k.Address(), money.Units(20_000_000))
			mint.GasLimit = 100_000
			calls = append(calls, mint)
		}
		_, err := r.sendAll(w.client, devFaucet(), 0, calls...)
		return err
	})
	if err = together.Wait(); err != nil {
		return w, err
	}
	w.house, err = openHouse(r.ctx, houseConfig{
		RPC: w.chain.URL(), Deployment: d, Operator: devOperator(), Authority: authority, Book: filepath.Join(dir, "house.db"),
		Depth: 1, Listen: "127.0.0.1:0", Dev: true, Now: r.Now, Log: r.log,
	})
	if err != nil {
		return w, err
	}
	w.workers.Go(func() error { return w.house.Run(ctx) })
	if err = w.openSellers(c, dir, keys[:c.Sellers]); err != nil {
		return w, err
	}
	if err = w.openBuyers(c, dir, keys[c.Sellers:]); err != nil {
		return w, err
	}
	return w, w.depositAll(c)
}

// openSellers starts the sellers: weather, text, records, and so on round.
func (w *world) openSellers(c *demoCmd, dir string, keys []*evm.PrivateKey) error {
	for i, key := range keys {
		kind := []string{"weather", "text", "records"}[i%3]
		s := &seller{name: kind, key: key, path: map[string]string{"weather": "/weather/oslo", "text": "/text", "records": "/records?n=37"}[kind]}
		if i >= 3 {
			s.name = fmt.Sprintf("%s-%d", kind, 1+i/3)
		}
		w.sellers = append(w.sellers, s)
		listen := "127.0.0.1:0"
		if i == 0 && !c.Once {
			listen = c.Listen
		}
		listener, err := net.Listen("tcp", listen)
		if err != nil {
			if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
				return err
			}
		}
		s.url = "http://" + listener.Addr().String()
		if s.book, err = store.Open(w.run.ctx, filepath.Join(dir, s.name+".db")); err != nil {
			return err
		}
		s.pw, err = paywall.New(paywall.Config{
			Network: "dev", ClearingHouse: w.house.URL, Purchases: s.book.Purchases(), Signer: key, Now: w.run.Now, Log: w.run.log,
			DevNote: "Development money, not real.", OnSale: s.sale,
		})
		if err != nil {
			return err
		}
		if kind == "text" { // this one needs records for its own work
			if s.shop, err = w.newPayer(key, filepath.Join(dir, s.name+".journal"), "$0.10", pool()); err != nil {
				return err
			}
		}
		mux := http.NewServeMux()
		switch kind {
		case "weather":
			mux.Handle("GET /weather/{city}", s.pw.Price("$0.0001", http.HandlerFunc(weather)))
		case "text":
			mux.Handle("POST /text", s.pw.Price("$0.00001 per token", w.text(s), paywall.UpTo("$0.02")))
		case "records":
			mux.Handle("GET /records", s.pw.Price("$0.01 per 100 records", http.HandlerFunc(records), paywall.UpTo("$0.10"), paywall.Count(paywall.HeaderCount("X-Record-Count"))))
		}
		if err := s.pw.Check(); err != nil {
			return err
		}
		s.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
		w.workers.Go(func() error {
			if err := s.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	return nil
}

func weather(rw http.ResponseWriter, r *http.Request) {
	city := r.PathValue("city")
	degrees := 0
	for _, c := range city {
		degrees = (degrees*31 + int(c)) % 30
	}
	answerJSON(rw, map[string]any{"city": city, "celsius": degrees})
}

// text writes back what it was sent, word by word, and charges by the word. One request in fifty needs a look into the
// records, which this seller buys like anyone else.
func (w *world) text(s *seller) http.HandlerFunc {
	var count atomic.Int64
	client := &http.Client{Transport: s.shop}
	return func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
		if err != nil {
			http.Error(rw, "body cannot be read", http.StatusBadRequest)
			return
		}
		words := strings.Fields(string(body))
		if count.Add(1)%50 == 1 {
			if resp, err := client.Get(w.sellers[2].url + "/records?n=10"); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if receipt, ok := payer.Receipt(resp); ok {
					paywall.Downstream(r.Context(), receipt.Charged)
				}
			}
		}
		paywall.Charge(r.Context(), len(words))
		answerJSON(rw, map[string]any{"text": strings.Join(words, " "), "tokens": len(words)})
	}
}

func records(rw http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil || n < 1 || n > 1000 {
		http.Error(rw, "n: want 1 to 1000", http.StatusBadRequest)
		return
	}
	rows := make([]int, n)
	for i := range rows {
		rows[i] = i * i
	}
	rw.Header().Set("X-Record-Count", strconv.Itoa(n))
	answerJSON(rw, map[string]any{"records": rows})
}

func answerJSON(rw http.ResponseWriter, v any) {
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(v) // the client has gone if this fails
}

func (w *world) openBuyers(c *demoCmd, dir string, keys []*evm.PrivateKey) error {
	for i, key := range keys {
		limit := "$0.10"
		if i == c.Buyers+1 {
			limit = "$0.00005"
		}
		p, err := w.newPayer(key, filepath.Join(dir, fmt.Sprintf("buyer-%d.journal", i+1)), limit, pool())
		if err != nil {
			return err
		}
		b := &buyer{key: key, payer: p, client: &http.Client{Transport: p, Timeout: 30 * time.Second}}
		switch i {
		case c.Buyers:
			w.poor = b
		case c.Buyers + 1:
			w.thrifty = b
		default:
			w.buyers = append(w.buyers, b)
		}
	}
	return nil
}

// pool keeps a connection for each request that a buyer has open.
func pool() http.RoundTripper { return &http.Transport{MaxIdleConnsPerHost: 64} }

func (w *world) newPayer(key *evm.PrivateKey, journal, perCall string, transport http.RoundTripper) (*payer.Payer, error) {
	return payer.New(payer.Config{
		Key: key, Budget: payer.Budget{PerCall: perCall}, Journal: journal, ClearingHouse: w.house.URL, Now: w.run.Now, Log: w.run.log,
		Transport: transport,
	})
}

// depositAll puts everyone's collateral into the vault, in one block, and waits until the clearing house counts it.
// Everyone lets cycles settle from collateral but the first buyer, which pays by itself, and the last, which will not.
func (w *world) depositAll(c *demoCmd) error {
	vault := w.house.Reader.Contracts
	type deposit struct {
		key        *evm.PrivateKey
		amount     money.Amount
		autoSettle bool
	}
	var all []deposit
	for i, b := range w.buyers {
		all = append(all, deposit{b.key, demoDeposit, i > 0 && i < len(w.buyers)-1})
	}
	all = append(all, deposit{w.poor.key, money.Units(50_000), true}, deposit{w.thrifty.key, money.Units(50_000), true})
	for _, s := range w.sellers {
		if s.shop != nil {
			all = append(all, deposit{s.key, demoDeposit, true})
		}
	}
	var g errgroup.Group
	for _, d := range all {
		g.Go(func() error {
			calls := []evm.Call{chain.Approve(w.token.Address, vault.Vault, d.amount), vault.DepositStablecoin(w.token.Address, d.amount)}
			if d.autoSettle {
				calls = append(calls, vault.SetAutoSettle(true))
			}
			for i := range calls {
				calls[i].GasLimit = 300_000 // stated, so that all of them can go into one block
			}
			_, err := w.run.sendAll(w.client, d.key, 0, calls...)
			return err
		})
		w.deposited, _ = w.deposited.Add(d.amount)
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, d := range all {
		for {
			a, err := w.house.House.Account(w.run.ctx, d.key.Address(), w.token.Address)
			if err != nil {
				return err
			}
			if !a.Headroom().Less(d.amount) {
				break
			}
			if err := sleep(w.run.ctx, 50*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

// close ends everything, sellers first: what they still have to tell the clearing house is told.
func (w *world) close() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.run.ctx), 5*time.Second)
	defer cancel()
	for _, s := range w.sellers {
		if s.server != nil {
			_ = s.server.Shutdown(ctx)
		}
		if s.pw != nil {
			_ = s.pw.Close(ctx)
		}
		if s.shop != nil {
			_ = s.shop.Close()
		}
	}
	for _, b := range append(w.buyers, w.poor, w.thrifty) {
		if b != nil {
			_ = b.payer.Close()
		}
	}
	w.stop()
	if err := w.workers.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		w.run.log.Error("demonstration ended with an error", "error", err)
	}
	for _, s := range w.sellers {
		if s.book != nil {
			_ = s.book.Close()
		}
	}
	if w.client != nil {
		w.client.Close()
	}
	if w.chain != nil {
		_ = w.chain.Close()
	}
}

func (w *world) dollars(units string) string {
	a, err := money.ParseAmount(units)
	if err != nil {
		return units
	}
	return money.Format(a, w.token.Decimals, "$")
}

func (w *world) collateral() string { return money.Format(w.deposited, w.token.Decimals, "$") }

// perPayment is what gas comes to for each of so many payments, in dollars with ten decimals, rounded up.
func perPayment(gas uint64, payments int) string {
	// gas × wei a gas × dollars an ether × 10^10 / 10^18
	cost := (gas*(assumed.GasPriceWei/1000)*assumed.NativeDollars + 99_999) / 100_000
	each := money.Units((cost + uint64(payments) - 1) / uint64(payments))
	return strings.TrimPrefix(money.Format(each, 10, "$"), "$")
}
