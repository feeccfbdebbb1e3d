package clearing

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/farthing402/farthing/evm"
)

func (w *world) net(c Cycle) (n net) {
	w.Helper()
	if err := w.memory.Read(context.Background(), func(tx Tx) (err error) { n, err = w.computeNet(tx, c); return err }); err != nil {
		w.Fatal(err)
	}
	return n
}

// A node of an older version writes guarantees without evidence while this one runs beside it.
func TestNettingMakesEvidenceThatIsMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 1000)
	var digests []evm.Hash
	for i := range 8 {
		digests = append(digests, w.owe(0, 1+i%2, uint64(1+i), start).Digest)
	}
	if err := w.lower(digests[3], 2, 1, start); err != nil {
		t.Fatal(err)
	}
	c := w.cycleAt(start)
	want := w.net(c)
	for _, d := range digests[:5] {
		g := w.memory.guarantees[d]
		g.Evidence = evm.Hash{}
		w.memory.guarantees[d] = g
	}
	if got := w.net(c); got.root != want.root || got.statements != want.statements || len(got.positions) != 3 {
		t.Errorf("%+v, want %+v", got, want)
	}
	w.check()
}

// Netting trusts the evidence that is stored, so the audit of the book must not.
func TestCheckFindsOtherEvidence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 1000)
	w.owe(0, 1, 5, start)
	g := w.memory.guarantees[w.owe(0, 1, 6, start).Digest]
	w.check()
	g.Evidence[0]++
	w.memory.guarantees[g.Digest] = g
	if err := w.Check(t.Context()); !errors.Is(err, ErrBroken) {
		t.Errorf("evidence of nothing went unnoticed: %v", err)
	}
}

func TestRegisterFindsEverybody(t *testing.T) {
	t.Parallel()
	s := &sheet{numbers: newRegister()}
	address := func(i int) evm.Address { return evm.Address{byte(i), byte(i >> 8), 19: byte(i >> 16)} }
	for i := range 5000 {
		for _, who := range []int{i, i / 2, i} {
			if got := s.numberOf(address(who)); got != uint32(who) {
				t.Fatalf("participant %d has number %d", who, got)
			}
		}
	}
	if len(s.parties) != 5000 {
		t.Errorf("%d participants", len(s.parties))
	}
}

// Netting rests while guarantees are admitted, and only then: else it would take longer for nothing.
func TestNettingGivesWay(t *testing.T) {
	t.Parallel()
	var rests atomic.Int64
	w := newWorld(t, func(c *Config) { c.Rest = func() { rests.Add(1) } })
	w.deposit(0, 1000)
	w.owe(0, 1, 5, start)
	c := w.cycleAt(start)
	if w.net(c); rests.Load() != 0 {
		t.Errorf("rested %d times while nothing was admitted", rests.Load())
	}
	w.admitting.Add(1)
	if w.net(c); rests.Load() == 0 {
		t.Error("did not rest while something was admitted")
	}
}
