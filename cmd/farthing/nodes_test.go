package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/store/storetest"
	"github.com/farthing402/farthing/x402"
)

// balancer hands each connection to the next node that takes it, as any does that stands before several.
type balancer struct {
	address string
	nodes   []string
	next    atomic.Int64
}

func newBalancer(t *testing.T, nodes []string) *balancer {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	t.Cleanup(func() { l.Close() })
	b := &balancer{address: l.Addr().String(), nodes: nodes}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go b.carry(in)
		}
	}()
	return b
}

func (b *balancer) carry(in net.Conn) {
	defer in.Close()
	first := b.next.Add(1)
	for i := range int64(len(b.nodes)) {
		out, err := net.DialTimeout("tcp", b.nodes[(first+i)%int64(len(b.nodes))], time.Second)
		if err != nil {
			continue
		}
		defer out.Close()
		done := make(chan struct{}, 2)
		for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
			go func() { _, _ = io.Copy(way[0], way[1]); done <- struct{}{} }()
		}
		<-done
		return
	}
}

// Two nodes serve one database. Either may lose its power at any moment, the one that leads too: nothing is lost that
// anybody was told, nothing is done twice, and the cycles go on.
func TestNodesKilledUnderLoad(t *testing.T) {
	t.Parallel()
	purchases, kills := 150, 6
	if heavy {
		purchases, kills = 4000, 30
	}
	w := newTownOf(t, slowPrices, storetest.Database(t), 2)
	victim := 0
	w.underLoad(purchases, kills, func() {
		w.nodes[victim].kill()
		other := w.nodes[1-victim]
		w.expect(other, `^leads  `) // within seconds, if it did not lead before
		w.startNode(victim)
		victim = 1 - victim
	})
}

// The database loses its power again and again under two nodes. They come back by themselves when it does, and what was
// told before is there.
func TestDatabaseKilledUnderLoad(t *testing.T) {
	t.Parallel()
	purchases, kills := 150, 4
	if heavy {
		purchases, kills = 4000, 25
	}
	db := storetest.Start(t)
	w := newTownOf(t, slowPrices, db.Database(t), 2)
	w.underLoad(purchases, kills, func() {
		check(t, db.Kill())
		for _, listen := range w.nodeListen {
			eventually(t, "a node without its database to say so", func() bool {
				h, status := healthOf(w.run.ctx, listen)
				return status == http.StatusServiceUnavailable && h.DB == "fail"
			})
		}
		check(t, db.Restart())
		for _, listen := range w.nodeListen {
			eventually(t, "the node to come back", func() bool {
				_, status := healthOf(w.run.ctx, listen)
				return status == http.StatusOK
			})
		}
	})
}

func healthOf(ctx context.Context, listen string) (h client.Health, status int) {
	c, err := client.New("http://" + listen)
	if err != nil {
		return h, 0
	}
	if h, err = c.Health(ctx); err != nil {
		return h, 0
	}
	if h.Status != "ok" {
		return h, http.StatusServiceUnavailable
	}
	return h, http.StatusOK
}

// Two nodes take guarantees of one payer at the same time, each also what the other is asked, while one after the other is
// killed: together they never certify more than its collateral, and one guarantee is of one cycle whoever is asked.
func TestTwoNodesNeverPassTheCollateral(t *testing.T) {
	t.Parallel()
	const amount, callers, each = 70_000, 8, 24 // five dollars are for 71
	kills := 2
	if heavy {
		kills = 20
	}
	w := newTownOf(t, slowPrices, storetest.Database(t), 2)
	buyer := w.customers(1, nil)[0]
	ctx := w.run.ctx
	var nodes []*client.Client
	for _, listen := range w.nodeListen {
		nodes = append(nodes, must(client.New("http://"+listen))(t))
	}
	verifier := must(guarantee.NewVerifier(w.authority.PublicKey(), w.deployment.guarantees()))(t)
	asks := make([]guarantee.Signed, callers/2*each) // two callers make each
	for i := range asks {
		asks[i] = must(guarantee.Sign(ctx, buyer.key, w.deployment.guarantees(), guarantee.Claims{
			Payer: buyer.key.Address(), Payee: evm.Address{19: byte(1 + i%3)}, Asset: w.token.Address, ReqID: evm.Hash{1: byte(i), 2: 1},
			Amount: money.Units(amount), Timestamp: uint64(time.Now().Unix()),
		}))(t)
	}
	var mu sync.Mutex
	certified := make(map[int]evm.Hash) // the cycle of each that was; guarded by mu
	var wg, killing sync.WaitGroup
	stop := make(chan struct{})
	killing.Go(func() {
		for i := range kills {
			select {
			case <-stop:
				return
			case <-time.After(300 * time.Millisecond):
			}
			w.nodes[i%2].kill()
			w.startNode(i % 2)
		}
	})
	for i := range callers {
		wg.Go(func() {
			for k := range each {
				n := i/2*each + k
				for try := 0; try < 2; {
					certificate, err := nodes[(i+try)%2].Certify(ctx, asks[n])
					e, coded := x402.AsError(err)
					switch {
					case err == nil:
						cycle, err := verifier.Verify(certificate, asks[n].Claims)
						if err != nil {
							t.Errorf("certificate: %v", err)
						}
						mu.Lock()
						if before, again := certified[n]; again && before != cycle {
							t.Errorf("guarantee %d is certified in two cycles", n)
						}
						certified[n] = cycle
						mu.Unlock()
						try++
					case coded && e.Code == "collateral_insufficient":
						try++
					case ctx.Err() != nil:
						t.Error(err)
						return
					default: // the node is away
						time.Sleep(20 * time.Millisecond)
					}
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	killing.Wait()
	if want := int(5_000_000 / amount); len(certified) != want {
		t.Errorf("%d guarantees of %d are certified, the collateral is for %d", len(certified), amount, want)
	}
	for _, node := range w.nodes {
		check(t, node.interrupt())
	}
	h := w.open()
	check(t, h.House.Check(ctx))
	separator := w.deployment.guarantees().ClaimsSeparator()
	for n, cycle := range certified {
		if g, err := h.House.Guarantee(ctx, asks[n].Claims.Digest(separator)); err != nil || g.Cycle.Ref.ID() != cycle {
			t.Errorf("a certificate in cycle %s, the book has %s (%v)", cycle, g.Cycle.Ref, err)
		}
	}
}

// A node certifies only while the book is close enough behind the chain that no withdrawal which it has not seen can be
// paid before a guarantee that it admits is posted; and once it was restored, only when all that it may have forgotten is too
// old to be asked for.
func TestANodeThatIsBehindCertifiesNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t, townTimes)
	refuses := func(what string, want bool) {
		t.Helper()
		e, coded := x402.AsError(s.house.certifies())
		if refused := coded && e.Code == "house_behind"; refused != want {
			t.Errorf("%s: refuses is %v, want %v (%v)", what, refused, want, e)
		}
	}
	refuses("after it caught up at the start", false)
	slack := int(townTimes.WithdrawalDelay / 8)
	check(t, s.node.Mine(s.run.ctx, slack)) // nobody follows
	s.house.compare(s.run.ctx)
	refuses("a little behind", false)
	check(t, s.node.Mine(s.run.ctx, slack+1))
	s.house.compare(s.run.ctx)
	refuses("further behind than a withdrawal may go unseen", true)
	if err := s.house.healthy(s.run.ctx); err == nil || !strings.Contains(err.Error(), "the book is at block") {
		t.Errorf("health says %v", err)
	}
	s.house.beat(s.run.ctx) // whoever leads catches up
	s.house.compare(s.run.ctx)
	refuses("up to date again", false)
	check(t, s.house.healthy(s.run.ctx))

	s.house.close()
	s.config.Restored = true
	s.house = must(openHouse(s.run.ctx, s.config))(t)
	refuses("just restored", true)
	check(t, s.node.AdvanceTime(328*time.Second))
	s.mine(1)
	s.house.compare(s.run.ctx)
	refuses("as long as something from before may be asked for", true)
	s.mine(1)
	s.house.compare(s.run.ctx)
	refuses("when all of that is too old", false)
}

// Whoever would hand out other certificates, or keep another deployment's book, does not start.
func TestANodeThatDiffersDoesNotStart(t *testing.T) {
	t.Parallel()
	s := newStage(t, townTimes)
	s.house.close()
	otherKey, otherDomain := s.config, s.config
	otherKey.Authority = must(devAuthority(filepath.Join(t.TempDir(), "bls.json")))(t)
	otherDomain.Deployment.Name = "4Mica elsewhere"
	for want, config := range map[string]houseConfig{
		"the certificate key given is not the one that the vault": otherKey,
		"is of signing domain 4Mica 0x":                           otherDomain,
	} {
		h, err := openHouse(s.run.ctx, config)
		if err == nil {
			h.close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, have %v", want, err)
		}
	}
	s.house = must(openHouse(s.run.ctx, s.config))(t)
}
