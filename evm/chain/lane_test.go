package chain

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
)

func TestOffer(t *testing.T) {
	t.Parallel()
	p := Policy{MaxFeeWei: 1000, MaxTipWei: 50}.withDefaults()
	for _, test := range []struct {
		name   string
		market fees
		want   fees
		err    error
	}{
		{"room for the base fee to double", fees{tip: 10, fee: 100}, fees{tip: 10, fee: 210}, nil},
		{"a quiet chain", fees{}, fees{}, nil},
		{"a suggestion above the ceiling is cut", fees{tip: math.MaxUint64, fee: 100}, fees{tip: 50, fee: 250}, nil},
		{"less than double where the ceiling is near", fees{tip: 10, fee: 900}, fees{tip: 10, fee: 1000}, nil},
		{"exactly the ceiling", fees{tip: 10, fee: 990}, fees{tip: 10, fee: 1000}, nil},
		{"past the ceiling", fees{tip: 10, fee: 991}, fees{}, errFeesTooHigh},
		{"a base fee that would wrap", fees{tip: 10, fee: math.MaxUint64 - 5}, fees{}, errFeesTooHigh},
	} {
		if got, err := p.offer(test.market); got != test.want || !errors.Is(err, test.err) {
			t.Errorf("%s: %+v, %v; want %+v, %v", test.name, got, err, test.want, test.err)
		}
	}
}

func TestRaise(t *testing.T) {
	t.Parallel()
	p := Policy{MaxFeeWei: 1000, MaxTipWei: 50}.withDefaults()
	for _, test := range []struct {
		name        string
		old, market fees
		want        fees
		ok          bool
	}{
		{"a tenth more of both", fees{tip: 20, fee: 200}, fees{tip: 1, fee: 1}, fees{tip: 23, fee: 221}, true},
		{"more than nothing", fees{}, fees{}, fees{tip: 1, fee: 1}, true},
		{"up to the market", fees{tip: 20, fee: 200}, fees{tip: 40, fee: 300}, fees{tip: 40, fee: 640}, true},
		{"the ceiling stops the market", fees{tip: 20, fee: 200}, fees{tip: 40, fee: 800}, fees{tip: 40, fee: 1000}, true},
		{"no room below the ceiling", fees{tip: 20, fee: 950}, fees{tip: 1, fee: 1}, fees{}, false},
		{"a market past the ceiling is not followed", fees{tip: 20, fee: 200}, fees{tip: 1, fee: math.MaxUint64}, fees{tip: 23, fee: 221}, true},
	} {
		got, ok := p.raise(test.old, test.market)
		if got != test.want || ok != test.ok {
			t.Errorf("%s: %+v, %v; want %+v, %v", test.name, got, ok, test.want, test.ok)
		}
		if ok && (got.tip*10 < test.old.tip*11 || got.fee*10 < test.old.fee*11 || got.tip > got.fee || got.fee > p.MaxFeeWei) {
			t.Errorf("%s: geth's pool refuses %+v as a replacement of %+v", test.name, got, test.old)
		}
	}
}

func sentAt(nonce uint64, at time.Time) evm.SentCall {
	return evm.SentCall{State: evm.CallSent, Attempts: []evm.Attempt{{Nonce: nonce, SentAt: at.UnixMilli()}}}
}

func TestNextStep(t *testing.T) {
	t.Parallel()
	p := Policy{BumpAfter: time.Minute}.withDefaults()
	now := time.Unix(1_800_000_000, 0)
	for _, test := range []struct {
		name           string
		nonce          uint64
		age            time.Duration
		mined, pending uint64
		want           step
	}{
		{"in the pool", 5, time.Second, 5, 6, stepWait},
		{"behind others in the pool", 7, time.Second, 5, 8, stepWait},
		{"the pool lost it", 5, time.Second, 5, 5, stepBroadcast},
		{"the pool lost the one before it too", 7, time.Second, 5, 6, stepBroadcast},
		{"waited too long", 5, time.Minute, 5, 6, stepReplace},
		{"lost and waited too long", 5, time.Hour, 5, 5, stepReplace},
		{"mined", 5, time.Second, 6, 6, stepSeek},
		{"mined long after", 5, time.Hour, 9, 9, stepSeek},
	} {
		if got := p.next(sentAt(test.nonce, now.Add(-test.age)), test.mined, test.pending, now); got != test.want {
			t.Errorf("%s: step %d, want %d", test.name, got, test.want)
		}
	}
}

func TestNextNonceFillsGaps(t *testing.T) {
	t.Parallel()
	at := time.Unix(0, 0)
	for _, test := range []struct {
		mined uint64
		held  []uint64
		want  uint64
	}{
		{0, nil, 0},
		{7, nil, 7},
		{7, []uint64{7, 8}, 9},
		{7, []uint64{5, 6}, 7}, // mined, not deep enough yet
		{7, []uint64{7, 9}, 8},
		{7, []uint64{8}, 7},
	} {
		var open []evm.SentCall
		for _, n := range test.held {
			open = append(open, sentAt(n, at))
		}
		open = append(open, evm.SentCall{State: evm.CallQueued})
		if got := nextNonce(test.mined, open); got != test.want {
			t.Errorf("mined %d, held %v: nonce %d, want %d", test.mined, test.held, got, test.want)
		}
	}
}

func TestGasStaysBelowTheCap(t *testing.T) {
	t.Parallel()
	for estimate, want := range map[uint64]uint64{21000: 26250, GasMax: GasMax, GasMax - 1: GasMax} {
		if got, err := gasFor(estimate); got != want || err != nil {
			t.Errorf("estimate %d: %d, %v; want %d", estimate, got, err, want)
		}
	}
	if _, err := gasFor(GasMax + 1); !errors.Is(err, errTooMuchGas) {
		t.Errorf("past the cap: %v", err)
	}
}
